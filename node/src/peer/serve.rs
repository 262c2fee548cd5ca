//! The other end: answers what other nodes ask.
//!
//! [`super::raft`] is the raft half. Every request names the cluster in its envelope; one of another
//! cluster is refused before anything looks at the rest, whether it came by a wrong address or by a
//! wrong configuration. With TLS, the node that it names must be the one of the caller's certificate.

use super::raft::Groups;
use super::{
    CONNECTION_WINDOW, HEADERS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MESSAGE_MAX, Me, Peers,
    STREAM_WINDOW,
};
use crate::drain::Switch;
use crate::net::TcpListener;
use crate::relay::{self, Frames};
use crate::tls::accept::{self, For, Incoming, Port};
use crate::tls::{Caller, Tls};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use pb::pass_reply::Outcome;
use pb::peer_server::{Peer, PeerServer};
use pb::raft_server::RaftServer;
use pontoon_proto::id::{NodeId, WorkerId};
use pontoon_proto::peer as pb;
use pontoon_proto::worker::NodeMessage;
use pontoon_raft::catalog::command::FolderId;
use pontoon_raft::cluster::Cluster;
use pontoon_raft::identity::Verdict;
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Error, Server};
use tonic::{Request, Response, Status, Streaming};

/// How many exchanges one other node may have under way here: as many as it may relay tunnels. Its
/// forwarded proposals are batched, so all else is few (about 2 KiB each).
const STREAMS_MAX: u32 = relay::CARRIED_MAX as u32;

/// How long a relay may take to say what it is for.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// How long running exchanges may go on after the order to stop; append streams never end by
/// themselves.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// The longest that a passed-on `end_session` may wait for its confirmation here, whatever was asked.
const CONFIRM_MAX: Duration = Duration::from_secs(30);

/// Hands a message to a sidecar that is attached to this node, and waits for the confirmation when a
/// span is given.
pub type PassHandler = Arc<
    dyn Fn(WorkerId, NodeMessage, Option<Duration>) -> BoxFuture<'static, Outcome> + Send + Sync,
>;

/// Takes a relayed tunnel, or refuses it; gives what is said back.
pub type RelayHandler = Arc<dyn Fn(pb::RelayOpen, Frames) -> Frames + Send + Sync>;

/// Judges the data folder that another first member shows.
pub type GreetHandler =
    Arc<dyn Fn(NodeId, FolderId) -> BoxFuture<'static, Result<Verdict, Status>> + Send + Sync>;

/// Gives a node with a fresh data folder its number, or says why not.
pub type AdmitHandler = Arc<
    dyn Fn(pb::AdmitRequest) -> BoxFuture<'static, Result<pb::AdmitReply, Status>> + Send + Sync,
>;

/// Says what closed here lately.
pub type ClosesHandler = Arc<dyn Fn(&pb::ClosesRequest) -> pb::ClosesReply + Send + Sync>;

/// What is done with what doesn't touch the log.
#[derive(Clone)]
pub struct Handlers {
    /// Messages for sidecars.
    pub pass: PassHandler,
    /// Tunnels that landed on other nodes.
    pub relay: RelayHandler,
    /// Greetings of first members.
    pub greet: GreetHandler,
    /// Nodes that want to join.
    pub admit: AdmitHandler,
    /// This node's data folder.
    pub folder: FolderId,
    /// What closed here lately.
    pub closes: ClosesHandler,
    /// How this node is, and how it is made to drain.
    pub switch: Switch,
}

/// Takes connections from other nodes, with TLS where this node has it.
pub fn take(listener: TcpListener, tls: Option<Tls>) -> Incoming {
    accept::incoming(listener, Port::new("peer", tls, For::Nodes))
}

/// Serves other nodes until `stop` is cancelled; what `incoming` has by then is for the next one who
/// serves it. Without a cluster, as long as this node has no number yet, it answers what needs none.
///
/// # Errors
///
/// When taking connections breaks; a broken connection is not an error.
pub async fn serve(
    incoming: &mut Incoming,
    peers: Peers,
    cluster: Option<Cluster>,
    handlers: Handlers,
    stop: CancellationToken,
) -> Result<(), Error> {
    let raft = cluster.clone().map(|cluster| {
        let groups = Groups {
            peers: peers.clone(),
            cluster,
        };
        RaftServer::new(groups)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    });
    let peer = PeerServer::new(Answers {
        peers,
        cluster,
        handlers,
    });
    let serving = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_local_error_reset_streams(None)
        .add_optional_service(raft)
        .add_service(
            peer.max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
        )
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let cut = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        result = serving => result,
        () = cut => Ok(()),
    }
}

impl Me {
    /// Refuses a message that is not of this cluster.
    pub(super) fn admit(&self, envelope: Option<&pb::Envelope>) -> Result<(), Status> {
        match envelope {
            Some(envelope) if envelope.cluster[..] == self.cluster => Ok(()),
            Some(_) => Err(Status::failed_precondition(format!(
                "node {} belongs to another cluster: the two sides differ in their join token or \
                 in their list of first members",
                self.name
            ))),
            None => Err(Status::invalid_argument("the message has no envelope")),
        }
    }
}

impl Peers {
    /// Refuses a message that is not of this cluster, and one that names another node than the
    /// certificate of whoever sent it. A number that this node doesn't know yet passes: its replica of
    /// the catalog may be behind, and the cluster's CA has vouched for the sender.
    pub(super) fn admit(
        &self,
        caller: Option<&Caller>,
        envelope: Option<&pb::Envelope>,
    ) -> Result<(), Status> {
        self.0.me.admit(envelope)?;
        let certified = caller.and_then(|caller| caller.nodes.as_deref());
        let (Some(certified), Some(envelope)) = (certified, envelope) else {
            return Ok(());
        };
        let number = u32::try_from(envelope.node).map(NodeId);
        let places = self.0.places.load();
        let claimed = number.ok().and_then(|number| places.get(&number));
        match claimed {
            Some(place) if !certified.contains(&place.name) => {
                Err(Status::permission_denied(format!(
                    "the message names node {} ({}), and its sender's certificate is for {}: does \
                     that node have another one's certificate?",
                    envelope.node,
                    place.name,
                    certified.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Who this node is, and its attached sidecars.
struct Answers {
    peers: Peers,
    cluster: Option<Cluster>,
    handlers: Handlers,
}

#[tonic::async_trait]
impl Peer for Answers {
    type RelayStream = Frames;

    async fn ping(
        &self,
        request: Request<pb::PingRequest>,
    ) -> Result<Response<pb::PingReply>, Status> {
        let me = &self.peers.0.me;
        let caller = request.extensions().get::<Caller>();
        self.peers
            .admit(caller, request.get_ref().envelope.as_ref())?;
        let at = self.peers.at();
        Ok(Response::new(pb::PingReply {
            name: me.name.clone(),
            node: u64::from(at.node.0),
            boot: at.boot,
            cluster: me.cluster.to_vec().into(),
            catalog_applied: self
                .cluster
                .as_ref()
                .map_or(0, |cluster| *cluster.catalog().changed().borrow()),
            folder: self.handlers.folder.to_vec().into(),
            state: Some((self.handlers.switch.state)()),
        }))
    }

    async fn pass(
        &self,
        request: Request<pb::PassRequest>,
    ) -> Result<Response<pb::PassReply>, Status> {
        let caller = request.extensions().get::<Caller>();
        self.peers
            .admit(caller, request.get_ref().envelope.as_ref())?;
        let request = request.into_inner();
        let worker = WorkerId::from_slice(&request.worker)
            .ok_or_else(|| Status::invalid_argument("a worker id has 16 bytes"))?;
        let message = NodeMessage::decode(request.message)
            .map_err(|error| Status::invalid_argument(format!("not a NodeMessage: {error}")))?;
        let wait =
            (request.wait_ms > 0).then(|| Duration::from_millis(request.wait_ms).min(CONFIRM_MAX));
        let outcome = (self.handlers.pass)(worker, message, wait).await;
        Ok(Response::new(pb::PassReply {
            outcome: outcome.into(),
        }))
    }

    async fn relay(
        &self,
        request: Request<Streaming<pb::RelayFrame>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(OPEN_WITHIN, frames.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no first frame in time"))??;
        let Some(pb::relay_frame::Frame::Open(open)) = first.and_then(|first| first.frame) else {
            return Err(Status::invalid_argument(
                "the first frame of a relay says what it is for",
            ));
        };
        self.peers.admit(caller.as_ref(), open.envelope.as_ref())?;
        let answers = (self.handlers.relay)(open, frames.boxed());
        Ok(Response::new(answers))
    }

    async fn greet(
        &self,
        request: Request<pb::GreetRequest>,
    ) -> Result<Response<pb::GreetReply>, Status> {
        let caller = request.extensions().get::<Caller>();
        self.peers
            .admit(caller, request.get_ref().envelope.as_ref())?;
        let request = request.into_inner();
        let folder = FolderId::try_from(&request.folder[..])
            .map_err(|_| Status::invalid_argument("a folder has 16 bytes"))?;
        let number = u32::try_from(request.node)
            .map_err(|_| Status::invalid_argument("a node's number has 32 bits"))?;
        let verdict = match (self.handlers.greet)(NodeId(number), folder).await? {
            Verdict::Founder => pb::Verdict::Founder,
            Verdict::Other => pb::Verdict::Other,
            Verdict::Unsure => pb::Verdict::Unsure,
        };
        Ok(Response::new(pb::GreetReply {
            verdict: verdict.into(),
        }))
    }

    async fn drain(
        &self,
        request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainReply>, Status> {
        let caller = request.extensions().get::<Caller>();
        self.peers
            .admit(caller, request.get_ref().envelope.as_ref())?;
        let request = request.get_ref();
        let within = Duration::from_millis(request.within_ms);
        let switch = &self.handlers.switch;
        (switch.drain)(request.drain.then_some(within)).map_err(Status::failed_precondition)?;
        let state = Some((switch.state)());
        Ok(Response::new(pb::DrainReply { state }))
    }

    async fn closes(
        &self,
        request: Request<pb::ClosesRequest>,
    ) -> Result<Response<pb::ClosesReply>, Status> {
        let caller = request.extensions().get::<Caller>();
        self.peers
            .admit(caller, request.get_ref().envelope.as_ref())?;
        Ok(Response::new((self.handlers.closes)(request.get_ref())))
    }

    async fn admit(
        &self,
        request: Request<pb::AdmitRequest>,
    ) -> Result<Response<pb::AdmitReply>, Status> {
        let caller = request.extensions().get::<Caller>();
        self.peers
            .admit(caller, request.get_ref().envelope.as_ref())?;
        let answer = (self.handlers.admit)(request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}
