//! Relays: a CONNECT that lands on another node than the one that issued its ticket is carried to
//! that one, so that workers and nodes can sit behind plain TCP load balancers.
//!
//! ```text
//! sidecar ══ CONNECT ══ the node that it landed on ══ Relay (gRPC) ══ the entry node ══ client
//! ```
//!
//! One hop, never two: whoever gets a `Relay` judges the ticket itself or refuses it. Only the process
//! that issued a ticket judges it, so a relaying node knows nothing of tickets but whose they are. It
//! asks only nodes that the catalog knows, and a source whose tickets were refused too often is not
//! served for a while ([`sources`]).
//!
//! [`stream`] is the byte stream over frames that both nodes have. The connection between the nodes is
//! one of its own, so that no relay ever stands in front of Raft or of a message for a sidecar.

mod sources;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use sources::Sources;
pub(crate) use stream::Relayed;
pub use stream::{Frames, Outgoing};

use crate::prefixed::ByteStream;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer::relay_frame::Frame;
use pontoon_proto::peer::{RelayAnswer, RelayFrame, RelayOpen};
use pontoon_raft::group::network::Unreachable;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use stream::{DATA_MAX, frame, outgoing};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// How long the entry node may take to judge a ticket: below the 2 s that a sidecar gives one address.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

/// How many relays one node carries at once; at about 50 KiB each when idle, 800 MiB.
pub(crate) const CARRIED_MAX: usize = 16_384;

/// How an attempt to relay came out, for the metric.
pub const RESULTS: [&str; 5] = ["ok", "refused", "unreachable", "unknown_node", "limited"];

/// Opens the stream of frames to another node; the envelope is filled in there.
pub type Relayer = Arc<
    dyn Fn(
            NodeId,
            RelayOpen,
            mpsc::Receiver<RelayFrame>,
            Duration,
        ) -> BoxFuture<'static, Result<Frames, Unreachable>>
        + Send
        + Sync,
>;

/// Why a CONNECT was not relayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotRelayed {
    /// The node that issued the ticket refused it, for this reason.
    #[error("the ticket was refused: {0}")]
    Refused(String),
    /// That node can't be reached, and has surely seen nothing.
    #[error("the node that issued the ticket can't be reached: {0}")]
    Unreachable(String),
    /// That node gave no answer.
    #[error("the node that issued the ticket gave no answer: {0}")]
    Silent(String),
}

impl NotRelayed {
    /// Its label among [`RESULTS`].
    pub(crate) fn label(&self) -> &'static str {
        match self {
            NotRelayed::Refused(_) => "refused",
            NotRelayed::Unreachable(_) | NotRelayed::Silent(_) => "unreachable",
        }
    }
}

/// Shows a CONNECT to the node that issued its ticket.
pub(crate) async fn open(
    relayer: &Relayer,
    to: NodeId,
    open: RelayOpen,
) -> Result<Relayed, NotRelayed> {
    let (outgoing, sent) = outgoing();
    let answered = timeout(ANSWER_WITHIN, async {
        let mut frames =
            relayer(to, open, sent, ANSWER_WITHIN)
                .await
                .map_err(|error| match error.unsent {
                    true => NotRelayed::Unreachable(error.cause),
                    false => NotRelayed::Silent(error.cause),
                })?;
        let silent = |cause: &str| Err(NotRelayed::Silent(cause.to_owned()));
        match frames.next().await {
            Some(Ok(RelayFrame {
                frame: Some(Frame::Answer(answer)),
            })) => Ok((answer.refused, frames)),
            Some(Ok(_)) => silent("its first frame is no answer"),
            Some(Err(status)) => silent(status.message()),
            None => silent("the stream ended"),
        }
    });
    match answered.await {
        Ok(Ok((refused, frames))) if refused.is_empty() => Ok(Relayed::new(frames, outgoing)),
        Ok(Ok((refused, _))) => Err(NotRelayed::Refused(refused)),
        Ok(Err(cause)) => Err(cause),
        Err(_) => Err(NotRelayed::Silent("not in time".to_owned())),
    }
}

/// The entry node's side: what the other node sends becomes a byte stream if `judge` finds its CONNECT
/// good, and what it gets is given back. `judge` gives who takes the stream, or why it is refused.
pub(crate) fn answer<T>(
    frames: Frames,
    judged: Result<T, &str>,
    take: impl FnOnce(T, Relayed),
) -> Frames {
    let (outgoing, sent) = outgoing();
    let refused = judged.as_ref().err().map_or("", |refused| refused);
    let answer = RelayAnswer {
        refused: refused.to_owned(),
    };
    let _room = outgoing.try_send(frame(Frame::Answer(answer)));
    if let Ok(judged) = judged {
        take(judged, Relayed::new(frames, outgoing));
    }
    ReceiverStream::new(sent).map(Ok).boxed()
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Both sides had finished.
    Finished,
    /// The connection of the sidecar broke.
    SidecarBroke,
    /// The entry node broke it, or can't be reached any more.
    EntryBroke,
    /// This node stops.
    NodeStopping,
}

impl End {
    /// All of them, for metrics that exist from the start.
    pub const ALL: [End; 4] = [
        End::Finished,
        End::SidecarBroke,
        End::EntryBroke,
        End::NodeStopping,
    ];

    /// The label on the metric and in the log.
    pub fn label(self) -> &'static str {
        match self {
            End::Finished => "finished",
            End::SidecarBroke => "sidecar_broke",
            End::EntryBroke => "entry_broke",
            End::NodeStopping => "node_stopping",
        }
    }
}

/// The labels of all ends.
pub fn ends() -> [&'static str; 4] {
    End::ALL.map(End::label)
}

/// What a relay carried, and how it ended.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) end: End,
    /// The error that ended it.
    pub(crate) text: String,
    pub(crate) to_worker: u64,
    pub(crate) from_worker: u64,
}

/// Carries until both sides have finished, one breaks, or `stop`. The other node sees a reset when it
/// was one; resetting the sidecar's connection is the caller's, who has its socket.
pub(crate) async fn carry(
    sidecar: &mut impl ByteStream,
    relayed: Relayed,
    stop: &CancellationToken,
) -> Carried {
    let (mut to_worker, mut from_worker) = (0, 0);
    let (mut above, mut below) = (relayed, sidecar);
    let ended = {
        let (read_above, write_above) = split(&mut above);
        let (read_below, write_below) = split(&mut below);
        let up = flow(read_below, write_above, &mut from_worker);
        let down = flow(read_above, write_below, &mut to_worker);
        let both = async {
            // The first that breaks ends both.
            let up = async { up.await.map_err(|(at, error)| (at.going_up(), error)) };
            let down = async { down.await.map_err(|(at, error)| (at.going_down(), error)) };
            tokio::try_join!(up, down)
        };
        tokio::select! {
            both = both => both.map(drop),
            () = stop.cancelled() => Err((End::NodeStopping, io::ErrorKind::Interrupted.into())),
        }
    };
    let (end, text) = match ended {
        Ok(()) => (End::Finished, String::new()),
        Err((end, error)) => {
            above.reset();
            (end, error.to_string())
        }
    };
    Carried {
        end,
        text,
        to_worker,
        from_worker,
    }
}

/// Which end of a flow broke.
enum Broke {
    Reading,
    Writing,
}

impl Broke {
    /// Of a flow from the sidecar to the entry node.
    fn going_up(self) -> End {
        match self {
            Broke::Reading => End::SidecarBroke,
            Broke::Writing => End::EntryBroke,
        }
    }

    /// Of a flow from the entry node to the sidecar.
    fn going_down(self) -> End {
        match self {
            Broke::Reading => End::EntryBroke,
            Broke::Writing => End::SidecarBroke,
        }
    }
}

/// Moves bytes one way until their end, and passes that on; counts what was moved.
async fn flow(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &mut u64,
) -> Result<(), (Broke, io::Error)> {
    let reading = |error| (Broke::Reading, error);
    let writing = |error| (Broke::Writing, error);
    let mut buffer = vec![0; DATA_MAX];
    loop {
        let n = from.read(&mut buffer).await.map_err(reading)?;
        if n == 0 {
            return to.shutdown().await.map_err(writing);
        }
        to.write_all(&buffer[..n]).await.map_err(writing)?;
        to.flush().await.map_err(writing)?;
        *moved += n as u64;
    }
}

/// Refuses every relay: the answer of a node that has issued no tickets yet.
pub(crate) fn refuse_all() -> crate::peer::RelayHandler {
    Arc::new(|_, frames| answer(frames, Err::<(), _>("unknown"), |(), _| ()))
}
