//! TLS: what this process shows, whom it believes, and how both change while it runs.
//!
//! A node's certificate carries the name `<node>.<cluster>.pontoon` ([`node_name`]) and is signed by
//! the cluster's CA. Between nodes both sides show theirs: who dials knows which name it wants, and
//! who is dialed takes any node of its cluster and compares the name with what messages claim. The
//! admin and worker ports show the same certificate and ask for none; tokens and keys tell who comes.
//!
//! [`files`] reads and checks what the configuration names, [`material`] makes rustls of it,
//! [`verify`] is the part of the verdict that is ours, [`accept`] takes connections, [`dial`] makes
//! them for sidecars and operators, [`reload`] follows the files, [`explain`] turns errors into words
//! for operators, and [`said`] keeps those from filling the log. [`front`] is TLS towards clients.
//!
//! TLS 1.3 only, but for clients: every other program that comes here is ours or recent. Between nodes no session is ever
//! resumed, because a resumed one would skip the check of the certificate; links are kept, so that
//! costs nothing. Revocation lists are left out: a lost key is answered by a new CA, which both old
//! and new nodes trust while it is rolled out (a CA file may hold several).

pub mod accept;
pub mod dial;
pub mod explain;
pub mod files;
pub mod front;
mod material;
pub(crate) mod once;
pub mod reload;
pub(crate) mod said;
pub mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

pub use files::{Files, Problem};
pub use stream::{Caller, Stream};

use crate::clock;
use crate::net::TcpStream;
use arc_swap::ArcSwap;
use material::Material;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::AsyncBufReadExt as _;
use tokio_rustls::TlsConnector;

/// The last label of every node's name: no public authority signs for it (it is no domain of the
/// internet), so that such a certificate can only come from a CA of one's own.
const SUFFIX: &str = "pontoon";

/// The name that a node's certificate must carry, as a DNS name among its alternative names.
pub fn node_name(node: &str, cluster: &str) -> String {
    format!("{node}.{cluster}.{SUFFIX}")
}

/// When certificates end, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The node's own.
    pub node: u64,
    /// The first of the CAs in the file.
    pub ca: u64,
}

/// A node's TLS, cheap to clone. New handshakes use what was loaded last; connections that stand go
/// on with what they began with.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: Files,
    node: String,
    cluster: String,
    now: ArcSwap<Material>,
}

impl Tls {
    /// Reads and checks the files of the node `node` of the cluster `cluster`.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong: which file, what, and what to do.
    pub fn open(files: Files, node: &str, cluster: &str) -> Result<Self, Problem> {
        Self::open_at(files, node, cluster, clock::unix_seconds())
    }

    /// As [`Tls::open`], judged as if it were then, in seconds since 1970.
    fn open_at(files: Files, node: &str, cluster: &str, then: u64) -> Result<Self, Problem> {
        let now = Material::load(&files, node, cluster, then)?;
        Ok(Self(Arc::new(Inner {
            files,
            node: node.to_owned(),
            cluster: cluster.to_owned(),
            now: ArcSwap::from_pointee(now),
        })))
    }

    /// Reads the files again; on an error everything stays as it was.
    pub fn reload(&self) -> Result<(), Problem> {
        let Inner {
            files,
            node,
            cluster,
            now,
        } = &*self.0;
        now.store(Arc::new(Material::load(
            files,
            node,
            cluster,
            clock::unix_seconds(),
        )?));
        Ok(())
    }

    /// Where it all comes from.
    pub fn files(&self) -> &Files {
        &self.0.files
    }

    /// The cluster that it belongs to.
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// When the certificates in use end.
    pub fn expiry(&self) -> Expiry {
        self.0.now.load().expiry
    }

    /// For the peer port: callers must show a certificate of a node of this cluster.
    pub(crate) fn for_nodes(&self) -> Arc<ServerConfig> {
        self.0.now.load().nodes.clone()
    }

    /// For the admin and worker ports: callers show none.
    pub(crate) fn for_others(&self) -> Arc<ServerConfig> {
        self.0.now.load().others.clone()
    }

    /// Our side of the handshake on a connection to another node's peer port. `node` is its name;
    /// without one, any node of the cluster will do: whoever joins knows addresses only.
    ///
    /// # Errors
    ///
    /// In words for operators, see [`explain`].
    pub async fn connect(&self, stream: TcpStream, node: Option<&str>) -> Result<Stream, String> {
        let now = self.0.now.load_full();
        let (config, name) = match node {
            Some(node) => (&now.to_node, node_name(node, &self.0.cluster)),
            None => (&now.to_any, format!("{}.{SUFFIX}", self.0.cluster)),
        };
        let name = ServerName::try_from(name)
            .map_err(|error| format!("{node:?} can't be a part of a DNS name: {error}"))?;
        let mut stream = TlsConnector::from(config.clone())
            .connect(name, stream)
            .await
            .map_err(|error| explain::io(&error))?;
        // In TLS 1.3 our handshake is done before the other side has judged our certificate. It
        // speaks HTTP/2, whose server speaks first: its first byte, not taken here, says that it is
        // content.
        match stream.fill_buf().await {
            Ok([]) => Err("it closed the connection after the TLS handshake".into()),
            Ok(_) => Ok(Stream::tls(stream.into())),
            Err(error) => Err(explain::io(&error)),
        }
    }
}
