//! Where a node listens and what others dial: each its own port, reachable, and in clear text only
//! where somebody said so.

use super::raw::Raw;
use super::{ConfigError, bad};
use crate::listen::proxies::{Proxies, Range};
use std::net::IpAddr;

/// Checks listeners and advertised addresses. `tls` and `front` say whether there is TLS between nodes
/// and towards clients.
pub(super) fn check(raw: &Raw, tls: bool, front: bool) -> Result<(), ConfigError> {
    let mut listeners = raw.listen.all().to_vec();
    listeners.retain(|(key, _)| *key != "client_tls" || front);
    for (index, (key, address)) in listeners.iter().enumerate() {
        if let Some((other, _)) = listeners[..index]
            .iter()
            .find(|(_, taken)| taken == address && address.port() != 0)
        {
            return bad(format!(
                "listen.{key} and listen.{other} are both {address}: each needs its own port"
            ));
        }
        if *key == "client_tls" {
            // It has TLS by its nature, and its address is told to nobody.
            continue;
        }
        let advertised = match *key {
            "client" => &raw.advertise.client,
            "worker" => &raw.advertise.worker,
            "peer" => &raw.advertise.peer,
            "admin" => &raw.advertise.admin,
            _ => &raw.advertise.ops,
        };
        // The client port and the ops port have no TLS.
        let guarded = tls && matches!(*key, "worker" | "peer" | "admin");
        if !guarded && !raw.insecure {
            if !address.ip().is_loopback() {
                return clear(&format!("listen.{key}"), &address.to_string(), key);
            }
            // Clients may be told of the port that has TLS, while this one is for this machine only.
            let other = *key == "client" && front;
            if let Some(advertised) = advertised.as_ref().filter(|text| !is_loopback(text))
                && !other
            {
                return clear(&format!("advertise.{key}"), advertised, key);
            }
        }
        if address.ip().is_unspecified() && advertised.is_none() {
            return bad(format!(
                "listen.{key} is {address}, which others can't dial: set advertise.{key} to \
                 host:port"
            ));
        }
        if let Some(text) = advertised
            && !is_host_port(text)
        {
            return bad(format!(
                "advertise.{key} is {text:?}, which is not host:port"
            ));
        }
    }
    Ok(())
}

/// Reads the list of those whose connections begin with a PROXY header.
pub(super) fn proxies(listener: &str, texts: &[String]) -> Result<Proxies, ConfigError> {
    let ranges: Result<Vec<Range>, ConfigError> = texts
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|why| ConfigError(format!("listen.{listener}_proxy_from: {text:?} {why}")))
        })
        .collect();
    ranges.map(Proxies::new)
}

fn clear(key: &str, value: &str, port: &str) -> Result<(), ConfigError> {
    let way_out = match port {
        "client" | "ops" => "",
        _ => "set [tls] (`pontoon cert` makes development certificates), ",
    };
    bad(format!(
        "{key} is {value}, which is not loopback, and traffic would be in clear text: {way_out}use \
         a loopback address, or say `insecure = true` or --insecure"
    ))
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Whether host:port leads to this machine for certain: a name other than `localhost` may lead
/// anywhere.
fn is_loopback(text: &str) -> bool {
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TLS, load};

    #[test]
    fn clear_text_beyond_loopback_needs_a_word() {
        let listen = "[listen]\nclient = \"0.0.0.0:10081\"\n";
        let error = load(|file| file.clone() + listen).unwrap_err();
        assert!(error.0.contains("insecure = true"), "{error}");
        let error = load(|file| format!("insecure = true\n{file}{listen}")).unwrap_err();
        assert!(error.0.contains("advertise.client"), "{error}");
        for (advertise, good) in [
            ("peer = \"[::1]:1\"", true),
            ("peer = \"localhost:1\"", true),
            ("peer = \"node-1.example:1\"", false),
            ("peer = \"10.0.0.1:1\"", false),
        ] {
            let loaded = load(|file| format!("{file}[advertise]\n{advertise}\n"));
            assert_eq!(loaded.is_ok(), good, "{advertise}: {loaded:?}");
        }
    }

    #[test]
    fn with_tls_the_ports_that_have_it_may_be_anywhere_and_the_others_may_not() {
        let anywhere = |key: &str| {
            let listen = format!("[listen]\n{key} = \"10.0.0.1:9000\"\n");
            load(|file| format!("{file}{TLS}{listen}"))
        };
        for key in ["worker", "peer", "admin"] {
            let config = anywhere(key).unwrap();
            assert_eq!(config.clear_sidecars, key != "worker");
        }
        for key in ["client", "ops"] {
            let error = anywhere(key).unwrap_err();
            assert!(error.0.contains(&format!("listen.{key}")), "{error}");
        }
    }

    #[test]
    fn c_lsn_1_the_port_with_tls_for_clients_counts_where_there_is_tls_for_clients() {
        let front = "[tls]\nclient_cert_file = \"/c\"\nclient_key_file = \"/k\"\n";
        let listen = "[listen]\nclient_tls = \"0.0.0.0:10443\"\n";
        load(|file| file + listen + front).unwrap();
        let taken = "[listen]\nclient_tls = \"127.0.0.1:10081\"\n";
        load(|file| file + taken).unwrap();
        let error = load(|file| file + taken + front).unwrap_err();
        assert!(
            error.0.contains("listen.client_tls and listen.client"),
            "{error}"
        );
    }

    #[test]
    fn c_lsn_1_clients_may_be_told_of_the_port_with_tls() {
        let front = "[tls]\nclient_cert_file = \"/c\"\nclient_key_file = \"/k\"\n";
        let advertise = "[advertise]\nclient = \"198.51.100.7:10443\"\n";
        let config = load(|file| file + advertise + front).unwrap();
        assert_eq!(config.advertise.client, "198.51.100.7:10443");
        let error = load(|file| file + advertise).unwrap_err();
        assert!(error.0.contains("advertise.client"), "{error}");
    }

    #[test]
    fn c_lsn_5_lists_of_balancers_are_read_and_their_errors_name_the_key() {
        let list = |key: &str, text: &str| {
            let listen = format!("[listen]\n{key} = {text}\n");
            load(|file| file + &listen)
        };
        let config = list("client_proxy_from", "[\"10.0.0.0/8\", \"::1\"]").unwrap();
        assert!(config.client_proxies.include("10.1.2.3".parse().unwrap()));
        assert!(
            !config
                .client_tls_proxies
                .include("10.1.2.3".parse().unwrap())
        );
        let error = list("client_tls_proxy_from", "[\"10.0.0.1/8\"]").unwrap_err();
        let wanted = "listen.client_tls_proxy_from: \"10.0.0.1/8\" has bits";
        assert!(error.0.starts_with(wanted), "{error}");
    }

    #[test]
    fn two_listeners_never_share_a_port() {
        let error =
            load(|file| file.clone() + "[listen]\nclient = \"127.0.0.1:10086\"\n").unwrap_err();
        assert!(
            error.0.contains("listen.worker and listen.client"),
            "{error}"
        );
    }

    #[test]
    fn what_others_are_to_dial_has_a_host_and_a_port() {
        let error = load(|file| file.clone() + "[advertise]\nops = \"localhost\"\n").unwrap_err();
        assert!(error.0.contains("advertise.ops"), "{error}");
    }
}
