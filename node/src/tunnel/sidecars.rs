//! The sidecars that are attached to this node, and how messages reach them.
//!
//! One control stream per worker id. A stream's queue is bounded: a sidecar that takes nothing for
//! [`QUEUE`] messages is as good as not attached, and its silence will end the stream.

use pontoon_proto::id::{RequestId, WorkerId};
use pontoon_proto::peer::pass_reply::Outcome;
use pontoon_proto::worker::NodeMessage;
use pontoon_proto::worker::node_message::Message;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// How many messages may wait for one sidecar: all sessions of a worker with 256 slots may end at
/// once.
pub(super) const QUEUE: usize = 256;

/// What goes down a control stream.
pub(super) type Sender = mpsc::Sender<Result<NodeMessage, Status>>;

/// What became of a message for a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassOutcome {
    /// Handed to the control stream (and confirmed, where a confirmation was asked for).
    Passed,
    /// No control stream of that worker is open here.
    NotAttached,
    /// Handed over, but not confirmed in time, or the control stream ended before.
    Unconfirmed,
    /// The sidecar could not dial.
    DialFailed,
}

impl From<PassOutcome> for Outcome {
    fn from(outcome: PassOutcome) -> Self {
        match outcome {
            PassOutcome::Passed => Outcome::Passed,
            PassOutcome::NotAttached => Outcome::NotAttached,
            PassOutcome::Unconfirmed => Outcome::Unconfirmed,
            PassOutcome::DialFailed => Outcome::DialFailed,
        }
    }
}

impl From<Outcome> for PassOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Passed => PassOutcome::Passed,
            Outcome::Unspecified | Outcome::NotAttached => PassOutcome::NotAttached,
            Outcome::Unconfirmed => PassOutcome::Unconfirmed,
            Outcome::DialFailed => PassOutcome::DialFailed,
        }
    }
}

/// What a sidecar may say that somebody waits for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    /// It has let go of this session.
    Ended(RequestId),
    /// It could not dial with this ticket. Not by session: each connection in one dials for itself,
    /// and the failure of one dial says nothing of another.
    NoDial(String),
}

/// The control streams of this node, by worker. Cheap to clone.
#[derive(Clone, Default)]
pub struct Sidecars(Arc<Mutex<BTreeMap<WorkerId, Stream>>>);

struct Stream {
    number: u64,
    sender: Sender,
    /// What came before the welcome, which is to be the first that a sidecar hears: an attach takes a
    /// round trip or two, and those who want tunnels to the worker don't wait for it.
    early: Option<Vec<NodeMessage>>,
    waiting: BTreeMap<Word, Vec<oneshot::Sender<()>>>,
}

impl Stream {
    /// Puts a message into the queue; `false` when that is full or closed.
    fn put(&mut self, message: NodeMessage) -> bool {
        match &mut self.early {
            None => self.sender.try_send(Ok(message)).is_ok(),
            // One place is the welcome's.
            Some(early) if early.len() + 1 < QUEUE && !self.sender.is_closed() => {
                early.push(message);
                true
            }
            Some(_) => false,
        }
    }
}

/// A wait for a sidecar's word; dropped, it leaves nothing behind.
struct Wait {
    sidecars: Sidecars,
    worker: WorkerId,
    word: Word,
    told: oneshot::Receiver<()>,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.told.close();
        let mut streams = self.sidecars.lock();
        let Some(stream) = streams.get_mut(&self.worker) else {
            return;
        };
        if let Some(waiting) = stream.waiting.get_mut(&self.word) {
            waiting.retain(|other| !other.is_closed());
            if waiting.is_empty() {
                stream.waiting.remove(&self.word);
            }
        }
    }
}

/// A control stream's place here; dropped, it leaves.
pub(super) struct Place {
    sidecars: Sidecars,
    worker: WorkerId,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.sidecars.lock();
        if streams.get(&self.worker).map(|s| s.number) == Some(self.number) {
            streams.remove(&self.worker);
        }
    }
}

impl Sidecars {
    /// Passes a message on to a worker's sidecar.
    ///
    /// With `confirm`, waits so long for the sidecar's word: for an `EndSession`, that it has let
    /// go; for an `OpenTunnel`, that it could not dial (and `Passed` when it said nothing).
    pub async fn pass(
        &self,
        worker: WorkerId,
        message: NodeMessage,
        confirm: Option<Duration>,
    ) -> PassOutcome {
        let wanted = match &message.message {
            Some(Message::EndSession(end)) => {
                RequestId::from_slice(&end.request_id).map(Word::Ended)
            }
            Some(Message::OpenTunnel(open)) => Some(Word::NoDial(open.ticket.clone())),
            _ => None,
        };
        let wanted = wanted.filter(|_| confirm.is_some());
        let Some(wait) = self.hand_over(worker, message, wanted) else {
            return PassOutcome::NotAttached;
        };
        let (Some(span), Some(mut wait)) = (confirm, wait) else {
            return PassOutcome::Passed;
        };
        let told = tokio::time::timeout(span, &mut wait.told).await;
        match (&wait.word, told) {
            (Word::Ended(_), Ok(Ok(()))) => PassOutcome::Passed,
            (Word::NoDial(_), Ok(Ok(()))) => PassOutcome::DialFailed,
            (Word::NoDial(_), Err(_)) => PassOutcome::Passed,
            (Word::Ended(_), Err(_)) | (_, Ok(Err(_))) => PassOutcome::Unconfirmed,
        }
    }

    /// `None` when it can't be handed over, else what to wait for, if anything is wanted.
    #[expect(
        clippy::option_option,
        reason = "the two absences differ, as the docs say"
    )]
    fn hand_over(
        &self,
        worker: WorkerId,
        message: NodeMessage,
        wanted: Option<Word>,
    ) -> Option<Option<Wait>> {
        let mut streams = self.lock();
        let stream = streams.get_mut(&worker)?;
        stream.put(message).then_some(())?;
        Some(wanted.map(|word| {
            let (sender, told) = oneshot::channel();
            let waiting = stream.waiting.entry(word.clone()).or_default();
            waiting.push(sender);
            Wait {
                sidecars: self.clone(),
                worker,
                word,
                told,
            }
        }))
    }

    /// Whether a worker's sidecar is attached to this node.
    pub fn is_attached(&self, worker: WorkerId) -> bool {
        self.lock().contains_key(&worker)
    }

    /// Tells one sidecar something, if its queue has room.
    pub(super) fn tell(&self, worker: WorkerId, message: Message) {
        if let Some(stream) = self.lock().get_mut(&worker) {
            let _or_full = stream.put(NodeMessage {
                message: Some(message),
            });
        }
    }

    /// Tells every sidecar something, as far as their queues have room.
    pub(super) fn tell_all(&self, message: &NodeMessage) {
        for stream in self.lock().values_mut() {
            let _or_full = stream.put(message.clone());
        }
    }

    /// The workers that are attached here.
    pub fn workers(&self) -> Vec<WorkerId> {
        self.lock().keys().copied().collect()
    }

    /// The workers that are attached here, with the number of their control stream.
    pub(super) fn attached(&self) -> Vec<(WorkerId, u64)> {
        let streams = self.lock();
        streams.iter().map(|(id, s)| (*id, s.number)).collect()
    }

    /// Takes a place for a control stream; `None` while another one of this worker is open: a second
    /// live hello under one id is refused (hazard H-21).
    pub(super) fn enter(&self, worker: WorkerId, number: u64, sender: Sender) -> Option<Place> {
        let mut streams = self.lock();
        if streams.contains_key(&worker) {
            return None;
        }
        let stream = Stream {
            number,
            sender,
            early: Some(Vec::new()),
            waiting: BTreeMap::new(),
        };
        streams.insert(worker, stream);
        Some(Place {
            sidecars: self.clone(),
            worker,
            number,
        })
    }

    /// Welcomes a sidecar, and then says what others had for it meanwhile.
    pub(super) fn welcome(&self, worker: WorkerId, number: u64, welcome: NodeMessage) {
        let mut streams = self.lock();
        let stream = streams.get_mut(&worker);
        let Some(stream) = stream.filter(|stream| stream.number == number) else {
            return;
        };
        let early = stream.early.take().unwrap_or_default();
        for message in std::iter::once(welcome).chain(early) {
            let _or_gone = stream.put(message);
        }
    }

    /// A sidecar said something that somebody may be waiting for.
    pub(super) fn said(&self, worker: WorkerId, word: &Word) {
        let mut streams = self.lock();
        let waiting = streams
            .get_mut(&worker)
            .and_then(|stream| stream.waiting.remove(word));
        for waiter in waiting.into_iter().flatten() {
            let _or_gone = waiter.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::worker::{OpenTunnel, Welcome};

    fn message(message: Message) -> NodeMessage {
        NodeMessage {
            message: Some(message),
        }
    }

    #[tokio::test]
    async fn the_welcome_is_the_first_that_a_sidecar_hears() {
        let (sidecars, worker) = (Sidecars::default(), WorkerId::from_random([7; 16]));
        let (sender, mut heard) = mpsc::channel(QUEUE);
        let _place = sidecars.enter(worker, 1, sender).unwrap();
        let open = || message(Message::OpenTunnel(OpenTunnel::default()));
        assert_eq!(
            sidecars.pass(worker, open(), None).await,
            PassOutcome::Passed
        );
        assert!(heard.try_recv().is_err(), "the attach does not stand yet");
        let welcome = || message(Message::Welcome(Welcome::default()));
        // That of an earlier stream is too late.
        sidecars.welcome(worker, 0, welcome());
        assert!(heard.try_recv().is_err());
        sidecars.welcome(worker, 1, welcome());
        assert_eq!(heard.try_recv().unwrap().unwrap(), welcome());
        assert_eq!(heard.try_recv().unwrap().unwrap(), open());
        assert_eq!(
            sidecars.pass(worker, open(), None).await,
            PassOutcome::Passed
        );
        assert_eq!(heard.try_recv().unwrap().unwrap(), open());
    }
}
