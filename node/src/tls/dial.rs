//! Dials as somebody without a certificate: a sidecar, or an operator's command.
//!
//! The name or address that is dialed must be among the names of the certificate that is shown, so a
//! load balancer's name has to be in the certificates of the nodes behind it, and so has the domain of an
//! SRV name.

use super::files::{Named, Problem};
use super::once::Once;
use super::{Stream, explain, material};
use crate::discovery::address::Address;
use crate::net::TcpStream;
use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// The flag that names the CA file, for messages.
const FLAG: &str = "--ca-file";

/// The CAs that are believed; cheap to clone.
#[derive(Clone)]
pub struct Trust(Arc<Inner>);

struct Inner {
    path: PathBuf,
    now: ArcSwap<Clients>,
}

struct Clients {
    h2: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trust({})", self.0.path.display())
    }
}

impl Trust {
    /// Reads the CA file.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        Ok(Self(Arc::new(Inner {
            now: ArcSwap::from_pointee(load(path)?),
            path: path.to_owned(),
        })))
    }

    /// Reads it again; on an error everything stays as it was.
    pub(super) fn reload(&self) -> Result<(), Problem> {
        self.0.now.store(Arc::new(load(&self.0.path)?));
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Our side of the handshake for HTTP/1.1; `address` is what was dialed.
    pub(crate) async fn http1(&self, stream: TcpStream, address: &str) -> Result<Stream, String> {
        handshake(self.0.now.load().http1.clone(), stream, address).await
    }

    /// A gRPC channel over this new connection to an address. `endpoint` has its settings; the scheme
    /// of its URI is not looked at. The caller bounds the time.
    ///
    /// # Errors
    ///
    /// In words for people.
    pub(crate) async fn channel(
        &self,
        endpoint: Endpoint,
        stream: TcpStream,
        address: &str,
    ) -> Result<Channel, String> {
        let config = self.0.now.load().h2.clone();
        let stream = handshake(config, stream, address).await?;
        endpoint
            .connect_with_connector(Once::new(stream))
            .await
            .map_err(|error| format!("it speaks no HTTP/2: {error}"))
    }
}

fn load(path: &Path) -> Result<Clients, Problem> {
    let named = Named::new(FLAG, path);
    let (roots, _) = named.authorities()?;
    let client = |protocol| {
        material::outsider(roots.clone(), protocol)
            .map(Arc::new)
            .map_err(|error| named.problem(format!("can't be used: {error}")))
    };
    Ok(Clients {
        h2: client(material::H2)?,
        http1: client(material::HTTP1)?,
    })
}

async fn handshake(
    config: Arc<ClientConfig>,
    stream: TcpStream,
    address: &str,
) -> Result<Stream, String> {
    let host = address.parse::<Address>()?.certified();
    let name = ServerName::try_from(host.clone())
        .map_err(|_| format!("{host} is neither a DNS name nor an address"))?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| explain::io(&error))?;
    Ok(Stream::tls(stream.into()))
}
