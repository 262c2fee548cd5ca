//! Where a node listens and what others dial: each its own port, reachable, and in clear text only
//! where somebody said so.

use super::raw::Raw;
use super::{ConfigError, bad};
use std::net::IpAddr;

/// Checks listeners and advertised addresses.
pub(super) fn check(raw: &Raw, tls: bool) -> Result<(), ConfigError> {
    let listeners = raw.listen.all();
    for (index, (key, address)) in listeners.iter().enumerate() {
        if let Some((other, _)) = listeners[..index]
            .iter()
            .find(|(_, taken)| taken == address && address.port() != 0)
        {
            return bad(format!(
                "listen.{key} and listen.{other} are both {address}: each needs its own port"
            ));
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
            if let Some(advertised) = advertised.as_ref().filter(|text| !is_loopback(text)) {
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
