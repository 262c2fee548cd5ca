//! Clusters of real processes on this machine, on loopback, in folders of their own.
//!
//! [`pontoon`] is ours and [`directory`] how sessions are opened in it, [`etcd`] and [`nats`] are those
//! that ours is measured beside, each with the smallest client that writes one value and waits for the
//! acknowledgement. [`proxies`] are those that forward calls. [`world`] is a cluster of ours in several regions, with emulated links, workers and their sidecars. [`process`] starts and ends what they consist of, [`folder`] is where they write.

pub mod certificates;
pub mod debs;
pub mod directory;
pub mod etcd;
pub mod folder;
mod found;
pub mod nats;
pub mod pontoon;
pub mod process;
pub mod proxies;
pub mod spaces;
pub mod wheels;
pub mod world;

use crate::clock;
use std::time::Duration;

/// Nodes of each cluster: one may fail.
pub const NODES: usize = 3;

/// How long any one state may take to come. A first election and a quorum take 2 s; a busy machine of
/// two cores may be ten times slower than that.
pub const WITHIN: Duration = Duration::from_secs(60);

/// How often a state is looked at.
const EVERY: Duration = Duration::from_millis(50);

/// Why something could not be started, asked or measured, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

impl Error {
    /// A system that others make can't be had.
    pub(crate) fn without(self, system: &str) -> Self {
        Self(format!("{self}; leave {system} out with --skip"))
    }

    /// Something went wrong with a file or folder.
    pub(crate) fn file(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self(format!("cannot {what} {}: {error}", path.display()))
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self(format!("{:?}: {}", status.code(), status.message()))
    }
}

/// Looks again and again until there is something; the error says what was missing last.
pub(crate) async fn wait_for<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let until = clock::now() + WITHIN;
    loop {
        let missing = match look().await {
            Ok(found) => return Ok(found),
            Err(missing) => missing,
        };
        if clock::now() >= until {
            return Err(Error(format!(
                "{what} took longer than {WITHIN:?}: {missing}"
            )));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut out = [0; N];
    getrandom::fill(&mut out).map_err(|error| Error(error.to_string()))?;
    Ok(out)
}

/// A gRPC connection to a port of this machine. It is made when first used.
pub(crate) fn channel(port: u16) -> Result<tonic::transport::Channel, Error> {
    channel_to(crate::net::local(port))
}

/// The same, to any address.
pub(crate) fn channel_to(to: std::net::SocketAddr) -> Result<tonic::transport::Channel, Error> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{to}"))
        .map_err(|error| Error(error.to_string()))?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .connect_lazy())
}
