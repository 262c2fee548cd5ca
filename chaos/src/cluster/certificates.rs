//! Certificates of nodes, which can be made to expire within seconds.
//!
//! `pontoon cert` counts in days, so the authority is one of this run. A node keeps its key; its
//! certificate is replaced by a rename, and the node reads it within 4 s.

use super::Error;
use crate::clock;
use crate::fault::names;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, ClientTlsConfig};

/// How long a certificate is good whose end nobody waits for.
pub const GOOD: Duration = Duration::from_secs(24 * 60 * 60);

/// Before now, so that a clock that is set back finds certificates that count already.
const SINCE: Duration = Duration::from_secs(60 * 60);

/// An authority, and where the nodes' files are.
#[derive(Debug)]
pub struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    authority: String,
    folder: PathBuf,
    cluster: String,
}

impl Certificates {
    /// Makes an authority whose files are in `folder`.
    pub fn new(folder: &Path, cluster: &str) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = lasting(GOOD);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let name = &mut params.distinguished_name;
        name.push(DnType::OrganizationName, cluster);
        let authority = params.self_signed(&key).map_err(failed)?.pem();
        let made = Self {
            issuer: Issuer::new(params, key),
            authority,
            folder: folder.to_owned(),
            cluster: cluster.to_owned(),
        };
        put(&made.file(), &made.authority)?;
        Ok(made)
    }

    /// Where the authority's certificate is.
    pub fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Writes a node's certificate, good for so long from now; its key is made the first time.
    pub fn issue(&self, node: &str, at: IpAddr, lasts: Duration) -> Result<(), Error> {
        let (cert, key) = self.files(node);
        let pair = match std::fs::read_to_string(&key) {
            Ok(text) => KeyPair::from_pem(&text).map_err(failed)?,
            Err(_) => {
                let pair = KeyPair::generate().map_err(failed)?;
                put(&key, &pair.serialize_pem())?;
                pair
            }
        };
        let names = vec![self.name(node), names::of(node), at.to_string()];
        let mut params = lasting(lasts);
        let named = CertificateParams::new(names).map_err(failed)?;
        params.subject_alt_names = named.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&pair, &self.issuer).map_err(failed)?;
        put(&cert, &signed.pem())
    }

    /// The table of a node's configuration.
    pub fn table(&self, node: &str) -> String {
        let (cert, key) = self.files(node);
        format!(
            "[tls]\nca_file = {:?}\ncert_file = {cert:?}\nkey_file = {key:?}\n\n",
            self.file()
        )
    }

    /// What an operator of a node trusts.
    pub fn trust(&self, node: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authority))
            .domain_name(self.name(node))
    }

    /// Makes a new connection to a node, as a sidecar does; the error is what refused it.
    pub async fn try_node(&self, node: &str, at: SocketAddr) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.as_bytes());
        roots.add(authority.map_err(failed)?).map_err(failed)?;
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(self.name(node)).map_err(failed)?;
        let stream = crate::net::dial_to(at).await.map_err(failed)?;
        let made = TlsConnector::from(Arc::new(config)).connect(name, stream);
        made.await.map(drop).map_err(failed)
    }

    fn name(&self, node: &str) -> String {
        format!("{node}.{}.pontoon", self.cluster)
    }

    fn files(&self, node: &str) -> (PathBuf, PathBuf) {
        let file = |end: &str| self.folder.join(format!("{node}.{end}"));
        (file("pem"), file("key"))
    }
}

fn lasting(lasts: Duration) -> CertificateParams {
    let now = date_time_ymd(1970, 1, 1) + clock::since_1970();
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (now - SINCE, now + lasts);
    params
}

/// Renamed into place: a reader never sees half of it.
fn put(path: &Path, text: &str) -> Result<(), Error> {
    let aside = path.with_extension("new");
    let written = std::fs::write(&aside, text);
    let written = written.and_then(|()| std::fs::rename(&aside, path));
    written.map_err(|error| Error::file("write", path, &error))
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_replaced_and_its_key_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let made = Certificates::new(folder.path(), "chaos").unwrap();
        let at = IpAddr::from([127, 0, 0, 1]);
        let read = |end: &str| std::fs::read(folder.path().join(end)).unwrap();
        made.issue("a-1", at, GOOD).unwrap();
        let (cert, key) = (read("a-1.pem"), read("a-1.key"));
        made.issue("a-1", at, Duration::from_secs(1)).unwrap();
        assert_ne!(read("a-1.pem"), cert);
        assert_eq!(read("a-1.key"), key);
    }
}
