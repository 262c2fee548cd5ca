//! TLS towards clients: the certificate that they are shown, followed while the node runs.
//!
//! It is another one than the node's, as a rule: a public authority's, for the names that clients
//! dial. TLS 1.2 and 1.3, because clients are everybody's; any name is answered with the one
//! certificate. Left out: certificates of clients, which show tokens.

use super::files::{Named, Problem};
use super::material::{H2, HTTP1, certified, in_force, provider};
use crate::clock;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use std::path::PathBuf;
use std::sync::Arc;

/// The files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontFiles {
    /// The certificate and those between it and its authority, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// What clients are shown; cheap to clone. New handshakes use what was loaded last; connections that
/// stand go on with what they began with.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    files: FrontFiles,
    now: ArcSwap<Shown>,
}

struct Shown {
    config: Arc<ServerConfig>,
    ends: u64,
}

impl Front {
    /// Reads and checks the files.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong: which file, what, and what to do.
    pub fn open(files: FrontFiles) -> Result<Self, Problem> {
        let now = load(&files)?;
        Ok(Self(Arc::new(Inner {
            files,
            now: ArcSwap::from_pointee(now),
        })))
    }

    /// Reads the files again; on an error everything stays as it was.
    pub fn reload(&self) -> Result<(), Problem> {
        self.0.now.store(Arc::new(load(&self.0.files)?));
        Ok(())
    }

    /// Where it comes from.
    pub fn files(&self) -> &FrontFiles {
        &self.0.files
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn ends(&self) -> u64 {
        self.0.now.load().ends
    }

    /// For the next handshake.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.0.now.load().config.clone()
    }
}

fn load(files: &FrontFiles) -> Result<Shown, Problem> {
    let cert = Named::new("tls.client_cert_file", &files.cert);
    let key = Named::new("tls.client_key_file", &files.key);
    let chain = cert.certificates()?;
    let ends = in_force(&cert, &cert.parse(&chain[0])?, clock::unix_seconds())?;
    let certified = certified(&cert, chain, &key)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| cert.problem(format!("can't be used: {error}")))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
    Ok(Shown {
        config: Arc::new(config),
        ends,
    })
}
