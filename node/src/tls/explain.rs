//! Words for operators: what a failed handshake means and what to do about it.
//!
//! Every text is about the other side ("its certificate ..."), so that it fits behind the name of
//! whom we dialed and behind the address of who dialed us.

use super::verify::{NoNode, list};
use rustls::{AlertDescription, CertificateError, Error};
use std::io;
use x509_parser::time::ASN1Time;

/// A date for people, UTC.
pub(crate) fn date(unix_seconds: u64) -> String {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
        .map_or_else(
            || format!("{unix_seconds} s after 1970"),
            |time| time.to_datetime().date().to_string(),
        )
}

/// What a failed read, write or handshake means.
pub(crate) fn io(error: &io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(error) => tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection during the TLS handshake: its log may say why".into()
        }
        None => format!("the connection broke during the TLS handshake: {error}"),
    }
}

/// What an error of the TLS library means.
pub(crate) fn tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => {
            "it shows no certificate: set [tls] with tls.cert_file and tls.key_file on it".into()
        }
        Error::InvalidMessage(_) => {
            "it speaks clear text, and we speak TLS: set [tls] on that node, or use none here"
                .into()
        }
        Error::AlertReceived(alert) => alerted(*alert),
        Error::PeerIncompatible(_) => format!("it speaks no TLS 1.3 that we know: {error}"),
        error => format!("TLS failed: {error}"),
    }
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        // Two CAs of one name differ in their signatures only.
        E::UnknownIssuer | E::BadSignature => {
            "its certificate is not signed by a CA that we trust: it is of another cluster, or one \
             of the two sides has another CA file; both need the CA that signed the certificates"
                .into()
        }
        E::ExpiredContext { not_after, .. } => format!(
            "its certificate expired on {}: issue it a new one",
            date(not_after.as_secs())
        ),
        E::Expired => "its certificate has expired: issue it a new one".into(),
        E::NotValidYetContext { not_before, .. } => format!(
            "its certificate is not valid before {}: are both clocks right?",
            date(not_before.as_secs())
        ),
        E::NotValidYet => "its certificate is not valid yet: are both clocks right?".into(),
        E::NotValidForNameContext {
            expected,
            presented,
        } => {
            // webpki writes names the way Rust prints them: DnsName("a"), IpAddress(127.0.0.1).
            let names: Vec<String> = presented
                .iter()
                .map(|name| name.split(['"', '(', ')']).find(|part| part.contains('.')))
                .zip(presented)
                .map(|(inner, whole)| inner.unwrap_or(whole).to_owned())
                .collect();
            format!(
                "its certificate is for {}, and not for {}: another one is at this address, or it \
                 was given the wrong certificate",
                list(&names),
                expected.to_str()
            )
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "its certificate may not be used for this: it needs the extended key usages serverAuth \
             and clientAuth"
                .into()
        }
        E::Other(other) if other.0.is::<NoNode>() => other.0.to_string(),
        error => format!("its certificate is refused: {error}"),
    }
}

/// What the other side thinks of us, as far as an alert says it (RFC 8446 6.2).
fn alerted(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let why = match alert {
        A::UnknownCA | A::DecryptError => "it does not trust the CA that signed it",
        A::CertificateExpired => "by its clock it has expired, or is not valid yet",
        A::BadCertificate | A::CertificateUnknown => {
            "it is not for the node, or not for the cluster, that it expects"
        }
        A::UnsupportedCertificate => "it lacks the extended key usages serverAuth and clientAuth",
        A::CertificateRequired => "it asks for one, and we have shown none",
        A::ProtocolVersion => return "it speaks no TLS 1.3: update it".into(),
        alert => return format!("it broke off the TLS handshake: {alert:?}"),
    };
    format!("it refused our certificate: {why}; its log says more")
}
