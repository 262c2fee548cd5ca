//! What people write where a node, a balancer or a worker is to be dialed.
//!
//! ```text
//! 10.0.0.7:10085                                    a socket
//! node-1.example.com:10085                          a name with A or AAAA records
//! _pontoon-worker._tcp.eu.example.com               an SRV name (RFC 2782), which has the ports, too
//! eu-1@_pontoon-peer._tcp.example.com               the one of its targets whose first label is eu-1
//! ```

use std::net::SocketAddr;
use std::str::FromStr;

/// The longest name, RFC 1035 2.3.4.
const NAME_MAX: usize = 253;

/// An address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Needs no look-up.
    Socket(SocketAddr),
    /// A host's name and a port.
    Host(String, u16),
    /// An SRV name, and the first label of the wanted target if one of them is wanted.
    Service {
        name: String,
        target: Option<String>,
    },
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return match socket.port() {
                0 => Err(format!("{text:?} has port 0, which nobody listens on")),
                _ => Ok(Address::Socket(socket)),
            };
        }
        let (target, name) = match text.split_once('@') {
            Some((target, name)) => (Some(target), name),
            None => (None, text),
        };
        if name.starts_with('_') || target.is_some() {
            return service(target, name).ok_or_else(|| {
                format!(
                    "{text:?} is not an SRV name: write _SERVICE._tcp.DOMAIN, or \
                     LABEL@_SERVICE._tcp.DOMAIN for the target whose first label is LABEL"
                )
            });
        }
        let parts = text.rsplit_once(':');
        let host = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match host {
            Some((host, port)) if port > 0 && is_name(host) => Ok(Address::Host(host.into(), port)),
            _ => Err(format!(
                "{text:?} is not HOST:PORT, nor an SRV name as _SERVICE._tcp.DOMAIN"
            )),
        }
    }
}

fn service(target: Option<&str>, name: &str) -> Option<Address> {
    let mut labels = name.splitn(3, '.');
    let (service, protocol, domain) = (labels.next()?, labels.next()?, labels.next()?);
    let good = service.len() > 1
        && service.starts_with('_')
        && protocol == "_tcp"
        && is_name(domain)
        && is_name(&service[1..])
        && target.is_none_or(|target| is_name(target) && !target.contains('.'));
    good.then(|| Address::Service {
        name: name.to_owned(),
        target: target.map(str::to_owned),
    })
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63; a dot may end it.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= NAME_MAX && text.split('.').all(is_label)
}

impl Address {
    /// What stands for it in a URI and in a Host header.
    pub(crate) fn authority(&self) -> String {
        match self {
            Address::Socket(socket) => socket.to_string(),
            Address::Host(host, port) => format!("{host}:{port}"),
            Address::Service { .. } => self.certified(),
        }
    }

    /// The name that a certificate of whoever answers there must carry, if its name is not known
    /// otherwise: of an SRV name its domain (RFC 6125 6.4, SRV-ID).
    pub(crate) fn certified(&self) -> String {
        match self {
            Address::Socket(socket) => socket.ip().to_string(),
            Address::Host(host, _) => host.trim_end_matches('.').to_owned(),
            Address::Service { name, .. } => {
                let domain = name.splitn(3, '.').nth(2).unwrap_or(name);
                domain.trim_end_matches('.').to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_a_host_or_a_service() {
        let parse = |text: &str| text.parse::<Address>().unwrap();
        assert!(matches!(parse("[::1]:10085"), Address::Socket(_)));
        assert_eq!(
            parse("n1.example.com:10085"),
            Address::Host("n1.example.com".into(), 10_085)
        );
        assert_eq!(
            parse("eu-1@_pontoon-peer._tcp.example.com"),
            Address::Service {
                name: "_pontoon-peer._tcp.example.com".into(),
                target: Some("eu-1".into())
            }
        );
        let service = parse("_pontoon-worker._tcp.eu.example.com.");
        assert_eq!(service.certified(), "eu.example.com");
        assert_eq!(parse("n1.:1").certified(), "n1");
        assert_eq!(parse("127.0.0.1:1").certified(), "127.0.0.1");
    }

    #[test]
    fn what_is_none_of_them_is_refused_with_what_to_write() {
        for text in [
            "",
            "host",
            "host:",
            ":1",
            "host:0",
            "1.2.3.4:0",
            "host:70000",
            "a b:1",
            "a..b:1",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(
                error.contains("HOST:PORT") || error.contains("port 0"),
                "{error}"
            );
        }
        for text in [
            "_x",
            "_x._tcp",
            "_x._udp.d",
            "_x._tcp.",
            "@_x._tcp.d",
            "a.b@_x._tcp.d",
            "a@b:1",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("_SERVICE._tcp.DOMAIN"), "{text}: {error}");
        }
    }
}
