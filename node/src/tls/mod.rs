//! TLS: certificates that can be exchanged while connections live.
//!
//! [`Reloading`] keeps a server's certificate and key; a reload changes what the next handshake
//! shows and touches no connection. A reload that fails keeps the old pair and says why. [`cert`]
//! makes development certificates.

pub mod cert;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often the files are looked at for a change.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A certificate that can't be used; `Display` names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file can't be read, or holds no PEM of the kind.
    #[error("{path}: {cause}; expected PEM with {expected}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
        /// What should be in it.
        expected: &'static str,
    },
    /// Certificate and key do not belong together, or the key's kind is not supported.
    #[error("{certificate} and {key} can't be used together: {cause}")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the library says.
        cause: String,
    },
}

/// A server's certificate and key, from two files that may change.
#[derive(Debug)]
pub struct Reloading {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

impl Reloading {
    /// Reads both files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Reloading>, TlsError> {
        Ok(Arc::new(Reloading {
            certificate: certificate.into(),
            key: key.into(),
            current: ArcSwap::from_pointee(read_pair(certificate, key)?),
        }))
    }

    /// Reads both files again; on an error the present pair stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let pair = read_pair(&self.certificate, &self.key)?;
        self.current.store(Arc::new(pair));
        Ok(())
    }

    /// Reloads whenever one of the files has changed; never returns.
    pub async fn watch(self: Arc<Self>) {
        let mut seen = self.stamps();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.stamps();
            if now == seen {
                continue;
            }
            seen = now;
            match self.reload() {
                Ok(()) => {
                    tracing::info!(certificate = %self.certificate.display(), "certificate reloaded")
                }
                Err(error) => {
                    tracing::error!(%error, "the changed certificate is not used; the old one stays")
                }
            }
        }
    }

    fn stamps(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key].map(|path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        })
    }

    /// A server's settings that show this certificate, and speak these protocols (ALPN), best first.
    pub fn server(self: &Arc<Self>, protocols: &[&[u8]]) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the default protocol versions")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config
    }
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read_pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path, cause: String, expected| TlsError::Pem {
        path: path.into(),
        cause,
        expected,
    };
    let chain_expected = "the certificate chain, the server's own first";
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| pem(certificate, error.to_string(), chain_expected))?;
    if chain.is_empty() {
        return Err(pem(
            certificate,
            "no certificate in it".into(),
            chain_expected,
        ));
    }
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| pem(key, error.to_string(), "one private key"))?;
    CertifiedKey::from_der(chain, key_der, &ring::default_provider()).map_err(|error| {
        TlsError::Pair {
            certificate: certificate.into(),
            key: key.into(),
            cause: error.to_string(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = cert::Authority::new("test authority").unwrap();
        let issued = made.issue(&[name.into()]).unwrap();
        let (certificate, key) = (folder.join("c.pem"), folder.join("k.pem"));
        std::fs::write(&certificate, issued.certificate).unwrap();
        std::fs::write(&key, issued.key).unwrap();
        (certificate, key)
    }

    #[test]
    fn c_lsn_1_a_reload_changes_the_certificate_and_a_bad_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = pair(folder.path(), "one.test");
        let reloading = Reloading::load(&certificate, &key).unwrap();
        let first = reloading.current.load().cert[0].clone();
        std::fs::write(&certificate, "nonsense").unwrap();
        let error = reloading.reload().unwrap_err().to_string();
        assert!(
            error.contains("c.pem") && error.contains("expected PEM"),
            "{error}"
        );
        assert_eq!(reloading.current.load().cert[0], first);
        pair(folder.path(), "two.test");
        reloading.reload().unwrap();
        assert_ne!(reloading.current.load().cert[0], first);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = pair(folder.path(), "one.test");
        let old = std::fs::read(&key).unwrap();
        pair(folder.path(), "two.test");
        std::fs::write(&key, old).unwrap();
        let error = Reloading::load(&certificate, &key).unwrap_err();
        assert!(matches!(error, TlsError::Pair { .. }), "{error}");
    }
}
