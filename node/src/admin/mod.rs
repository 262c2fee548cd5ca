//! The admin API: what operators say to a node.
//!
//! Any node answers: lists come from its own replicas, writes are forwarded to the catalog's leader,
//! and one session is asked of its home group. [`access`] says who may do what, [`view`] how records
//! look on the wire, [`read`], [`write`] and [`members`] do the work; [`service`] is one line per verb.
//!
//! Every refusal says what to do about it, and none repeats a secret.

mod access;
mod closes;
mod drain;
mod limits;
mod members;
mod read;
mod routes;
mod service;
#[cfg(test)]
mod tests;
mod view;
mod write;

use crate::drain::Switch;
use crate::net::TcpListener;
use crate::peer::{ClosesHandler, Peers};
use crate::tls::accept::{self, For, Port};
use futures::future::BoxFuture;
use pontoon_proto::admin::admin_server::AdminServer;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::RequestId;
use pontoon_raft::cluster::Cluster;
use service::Service;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// How long a verb waits for a group: two elections of the slowest timing, and the forwarding.
const GROUP_WAIT: Duration = Duration::from_secs(5);

/// The longest that one verb takes: ending a session asks its group three times and then waits for
/// its sidecar, which is the slowest.
const VERB_MAX: Duration = Duration::from_secs(25);

/// The largest request: a key that is limited to 1,000 functions names them in 40 KiB.
const REQUEST_MAX: usize = 256 << 10;

/// The largest header list: a token and little else, and h2 alone would take 16 MiB.
const HEADERS_MAX: u32 = 16 << 10;

/// How many verbs one connection may have under way. Operators' tools use a handful.
const VERBS_AT_ONCE: u32 = 64;

/// How long running verbs may go on after the order to stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Response metadata of a write: names of the nodes that had not applied it when it was answered, and
/// may not know for a moment what was written.
pub const LAGGARDS: &str = "pontoon-laggards";

/// Ends a session for the reason `Operator`; done when its sidecar has let go.
pub type EndSession = Arc<dyn Fn(RequestId) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// What the admin API needs of its node.
#[derive(Clone)]
pub struct Context {
    /// The groups.
    pub cluster: Cluster,
    /// Who is reachable, and how far away.
    pub peers: Peers,
    /// How sessions are ended.
    pub end: EndSession,
    /// What closed here lately.
    pub closes: ClosesHandler,
    /// How this node is, and how it is made to drain.
    pub switch: Switch,
    /// SHA-256 of the token that may do everything before there is any key.
    pub bootstrap: Option<[u8; 32]>,
}

/// Serves the admin API, gRPC health and gRPC reflection until `stop` is cancelled; over TLS, if the
/// node has it. Whoever comes shows a token and no certificate.
///
/// # Errors
///
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    context: Context,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<AdminServer<Service>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pontoon_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let port = Port::new("admin", context.peers.tls().cloned(), For::Others);
    let serving = Server::builder()
        .timeout(VERB_MAX)
        .max_concurrent_streams(VERBS_AT_ONCE)
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(AdminServer::new(Service(context)).max_decoding_message_size(REQUEST_MAX))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(
            accept::incoming(listener, port),
            stop.clone().cancelled_owned(),
        );
    let cut = async {
        stop.cancelled().await;
        reporter.set_not_serving::<AdminServer<Service>>().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        result = serving => Ok(result?),
        () = cut => Ok(()),
    }
}
