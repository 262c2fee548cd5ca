//! The node's side of a control stream, up to the welcome (contract K-ATT-1).
//!
//! The order matters: the key, then the hello, then a place in the registry, then what the sidecar
//! must let go of, and only then the proposal, because from its commit on sessions are bound to this
//! worker. [`super::control`] runs the stream after that.

use super::control::Control;
use super::directories::{Grant, KeyRefused, Unanswered, is_bound};
use super::sidecars::{QUEUE, Sender};
use super::{SPARES_MAX, Tunnels, close};
use crate::tasks;
use pontoon_proto::connect;
use pontoon_proto::id::{NodeBoot, RegionId, RequestId, VersionId, WorkerId};
use pontoon_proto::worker::refused::Reason;
use pontoon_proto::worker::worker_server::Worker;
use pontoon_proto::worker::{
    Hello, NodeMessage, Refused, SidecarMessage, Welcome, node_message, sidecar_message,
};
use pontoon_raft::directory::command::{AttachRefusal, Command, Reply};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How long a sidecar may take to say hello, and to let go of what it must.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How long one question to a group may take.
pub(super) const ASK_WITHIN: Duration = Duration::from_secs(5);

/// How often a control stream is pinged, ...
pub(super) const PING_EVERY: Duration = Duration::from_secs(2);

/// ... and how long a ping may stay unanswered.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(3);

/// The most slots of a worker (contract K-SLOT-1).
const SLOTS_MAX: u32 = 16_384;

/// The longest worker name that the directory keeps, in bytes.
const NAME_MAX: usize = 128;

/// The gRPC service on the worker port.
pub(super) struct Attach {
    tunnels: Tunnels,
}

impl Attach {
    pub(super) fn new(tunnels: Tunnels) -> Self {
        Self { tunnels }
    }
}

#[tonic::async_trait]
impl Worker for Attach {
    type AttachStream = ReceiverStream<Result<NodeMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<SidecarMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let secret = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(connect::bearer)
            .map(str::to_owned);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let tunnels = self.tunnels.clone();
        let run = run(tunnels, secret, request.into_inner(), sender);
        tasks::spawn(tasks::Kind::Worker, "control-stream", run);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Why a hello is not accepted, with a text for people.
pub(super) type No = (Reason, String);

async fn run(
    tunnels: Tunnels,
    secret: Option<String>,
    mut inbound: Streaming<SidecarMessage>,
    sender: Sender,
) {
    let stop = tunnels.stop().clone();
    let attached = tokio::select! {
        () = stop.cancelled() => return,
        attached = attach(&tunnels, secret, &mut inbound, &sender) => attached,
    };
    let refused = match attached {
        Ok(control) => control.run(inbound).await,
        Err(no) => Some(no),
    };
    if let Some((reason, text)) = refused {
        tracing::info!(?reason, text, "a sidecar was refused");
        let refused = Refused {
            reason: reason.into(),
            text,
        };
        say(&sender, node_message::Message::Refused(refused));
    }
}

/// Puts a message into a control stream's queue; `false` when it is full or closed.
pub(super) fn say(sender: &Sender, message: node_message::Message) -> bool {
    let message = NodeMessage {
        message: Some(message),
    };
    sender.try_send(Ok(message)).is_ok()
}

/// A hello that makes sense.
pub(super) struct Introduced {
    pub(super) worker: WorkerId,
    pub(super) region: RegionId,
    pub(super) name: String,
    pub(super) slots: u32,
    /// How many spare tunnels this node may have.
    pub(super) spares: u32,
    pub(super) grant: Grant,
    /// What the sidecar holds: binding index by session.
    /// The sessions it holds: the incarnation of the home group that bound each, and the binding's index.
    held: BTreeMap<RequestId, (u64, u64)>,
}

impl Introduced {
    /// The proposal that makes the attach count.
    pub(super) fn attach(&self, at: NodeBoot, stream: u64) -> Command {
        Command::AttachWorker {
            worker: self.worker,
            name: self.name.clone(),
            function: self.grant.function,
            version: self.grant.version,
            slots: self.slots,
            at,
            stream,
        }
    }
}

/// What the directory's refusal means for the sidecar; `None` when the attach stands.
pub(super) fn verdict(reply: Result<Reply, Unanswered>) -> Result<(), No> {
    match reply {
        Ok(Reply::Attached | Reply::Done) => Ok(()),
        Ok(Reply::AttachRefused(AttachRefusal::Lost)) => Err((
            Reason::WorkerId,
            "this worker id was declared lost".to_owned(),
        )),
        Ok(Reply::AttachRefused(AttachRefusal::Changed)) => Err(changed()),
        Ok(other) => {
            tracing::debug!(?other, "an attach was not taken");
            Err(unavailable("the node is just starting"))
        }
        Err(Unanswered) => Err(unavailable("the worker's home group gave no answer")),
    }
}

fn changed() -> No {
    let text = "this worker id stands for other slots or another version";
    (Reason::WorkerId, text.to_owned())
}

fn unavailable(text: &str) -> No {
    (Reason::Unavailable, text.to_owned())
}

async fn attach(
    tunnels: &Tunnels,
    secret: Option<String>,
    inbound: &mut Streaming<SidecarMessage>,
    sender: &Sender,
) -> Result<Control, No> {
    let directories = &tunnels.0.directories;
    let hello = timeout(HELLO_WITHIN, first(inbound))
        .await
        .map_err(|_| unavailable("no hello in time"))??;
    let secret = secret.ok_or((Reason::Key, "no worker key was sent".to_owned()))?;
    let grant = directories
        .worker_key(&secret)
        .await
        .map_err(|refused| match refused {
            KeyRefused::Key => (
                Reason::Key,
                "the worker key is unknown, revoked, expired or not a worker key".to_owned(),
            ),
            KeyRefused::Version => (
                Reason::VersionUnknown,
                "the version of this worker key does not exist".to_owned(),
            ),
            KeyRefused::Unavailable => unavailable("the catalog gave no answer"),
        })?;
    let worker = introduce(tunnels, hello, grant).await?;

    // Before anything is sent to it: its id must not be another version's, for whom tickets are meant.
    let replica = directories.replica(worker.region);
    let known = replica
        .as_ref()
        .and_then(|replica| replica.worker(worker.worker));
    if known.is_some_and(|known| known.version != worker.grant.version) {
        return Err(changed());
    }
    let number = tunnels.next_stream();
    let place = tunnels
        .sidecars()
        .enter(worker.worker, number, sender.clone())
        .ok_or_else(|| {
            let text = "another control stream of this worker id is open here";
            (Reason::AttachedHere, text.to_owned())
        })?;
    let let_go = let_go(tunnels, &worker).await?;
    let welcomed = !let_go.is_empty();
    let mut said = Vec::new();
    if welcomed {
        welcome(tunnels, &worker, number, &let_go);
        said = timeout(HELLO_WITHIN, confirmations(inbound, let_go))
            .await
            .map_err(|_| unavailable("sessions were not let go of in time"))??;
    }
    let mut control = Control::new(tunnels.clone(), worker, number, sender.clone(), place);
    control.attach().await?;
    for message in said {
        // What ends a stream ends this one too, as soon as it is read on.
        let _cause = control.hear(message);
    }
    if !welcomed {
        welcome(tunnels, control.worker(), number, &BTreeSet::new());
    }
    Ok(control)
}

async fn first(inbound: &mut Streaming<SidecarMessage>) -> Result<Hello, No> {
    match inbound.message().await {
        Ok(Some(SidecarMessage {
            message: Some(sidecar_message::Message::Hello(hello)),
        })) => Ok(hello),
        Ok(_) => Err((
            Reason::Malformed,
            "the first message must be a hello".to_owned(),
        )),
        Err(_) => Err(unavailable("the stream broke")),
    }
}

async fn introduce(tunnels: &Tunnels, hello: Hello, grant: Grant) -> Result<Introduced, No> {
    let malformed = |text: &str| (Reason::Malformed, text.to_owned());
    let worker = WorkerId::from_slice(&hello.worker_id)
        .ok_or_else(|| malformed("worker_id must have 16 bytes"))?;
    // A sidecar that names no version runs the one that its key is for.
    let version = match hello.version_id.is_empty() {
        true => grant.version,
        false => VersionId::from_slice(&hello.version_id)
            .ok_or_else(|| malformed("version_id must have 16 bytes"))?,
    };
    if version != grant.version {
        return Err((
            Reason::Key,
            format!("the worker key is not for version {version}"),
        ));
    }
    let region = match tunnels.0.directories.region(&hello.region).await {
        Ok(Some(region)) => region,
        Ok(None) => {
            let name = close::printable(&hello.region);
            return Err(malformed(&format!("there is no region {name:?}")));
        }
        Err(Unanswered) => return Err(unavailable("the catalog gave no answer")),
    };
    let mut held = BTreeMap::new();
    for session in &hello.held {
        let id = RequestId::from_slice(&session.request_id)
            .ok_or_else(|| malformed("request_id must have 16 bytes"))?;
        held.insert(id, (session.generation, session.binding_index));
    }
    let wanted = match hello.slots {
        0 => grant.slots,
        slots => slots.min(grant.slots),
    };
    let mut name = close::printable(&hello.name);
    name.truncate(NAME_MAX);
    Ok(Introduced {
        worker,
        region,
        name,
        slots: wanted.clamp(1, SLOTS_MAX),
        spares: hello.spares.min(SPARES_MAX),
        grant,
        held,
    })
}

/// What the sidecar holds and the directory does not bind to it, by a linearizable read.
async fn let_go(tunnels: &Tunnels, worker: &Introduced) -> Result<BTreeSet<RequestId>, No> {
    if worker.held.is_empty() {
        return Ok(BTreeSet::new());
    }
    let directories = &tunnels.0.directories;
    let generation = directories.generation(worker.region);
    let directory = directories
        .read(worker.region, ASK_WITHIN)
        .await
        .map_err(|_| unavailable("the worker's home group gave no answer"))?;
    let stray = |(id, (bound_by, index)): (&RequestId, &(u64, u64))| {
        // Of what a later incarnation has bound, this one knows nothing (H-23).
        let knows = *bound_by <= generation;
        (knows && !is_bound(&directory, *id, worker.worker, *index)).then_some(*id)
    };
    Ok(worker.held.iter().filter_map(stray).collect())
}

fn welcome(tunnels: &Tunnels, worker: &Introduced, number: u64, let_go: &BTreeSet<RequestId>) {
    let shared = &tunnels.0;
    let at = shared.at();
    let welcome = Welcome {
        cluster: shared.cluster.to_vec().into(),
        node_name: shared.name.clone(),
        node: u64::from(at.node.0),
        boot: at.boot,
        nodes: Some(pontoon_proto::worker::NodeList {
            nodes: shared.directories.nodes(),
        }),
        ping_interval_ms: PING_EVERY.as_millis() as u64,
        silence_max_ms: SILENCE_MAX.as_millis() as u64,
        slots: worker.slots,
        let_go: let_go
            .iter()
            .map(|id| id.to_bytes().to_vec().into())
            .collect(),
        generation: shared.directories.generation(worker.region),
    };
    let message = NodeMessage {
        message: Some(node_message::Message::Welcome(welcome)),
    };
    tunnels.sidecars().welcome(worker.worker, number, message);
}

/// Waits until each of these is confirmed; gives the last of each kind of level that was said meanwhile. What
/// else may come is said again, or of no use before the attach.
async fn confirmations(
    inbound: &mut Streaming<SidecarMessage>,
    mut missing: BTreeSet<RequestId>,
) -> Result<Vec<SidecarMessage>, No> {
    let mut levels: Vec<SidecarMessage> = Vec::new();
    while !missing.is_empty() {
        let Ok(Some(message)) = inbound.message().await else {
            return Err(unavailable("the stream broke"));
        };
        match &message.message {
            Some(sidecar_message::Message::SessionEnded(ended)) => {
                if let Some(id) = RequestId::from_slice(&ended.request_id) {
                    missing.remove(&id);
                }
            }
            Some(
                kind @ (sidecar_message::Message::Health(_)
                | sidecar_message::Message::Draining(_)
                | sidecar_message::Message::WorkerDead(_)),
            ) => {
                let kind = std::mem::discriminant(kind);
                levels.retain(|level| {
                    level.message.as_ref().map(std::mem::discriminant) != Some(kind)
                });
                levels.push(message);
            }
            _ => {}
        }
    }
    Ok(levels)
}
