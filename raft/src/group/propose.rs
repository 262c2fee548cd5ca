//! The leader's proposer: commands that wait become one entry, one sync, one round of messages.
//!
//! Commands come through a bounded queue. While few entries are in flight, whatever waits goes out at
//! once; while [`PIPELINE`] are, commands gather, so the busier a group is the more of them share an
//! entry. Each entry is stamped here, in order, and bound to the leadership in which it was stamped:
//! once that is over, a command that was proposed in it has an unknown outcome, and one that was not
//! surely has none. The same loop proposes ticks while time has something to do.

use super::machine::{Batch, Pulse, Replica};
use super::types::{LeaderId, Record, Replies, TypeConfig};
use crate::clock::{self, Instant};
use crate::codec::{self, Role};
use crate::machine::Clock;
use crate::member::node_of;
use crate::tasks;
use bytes::Bytes;
use openraft::Raft;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use pontoon_proto::id::NodeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Commands that may wait at the leader: 16 full entries. Beyond, they are refused unproposed.
pub(crate) const QUEUE: usize = 4096;

/// Commands per entry: no entry may hold up apply for long.
pub(super) const COMMANDS_MAX: usize = 256;

/// Bytes of commands per entry.
pub(super) const BYTES_MAX: usize = 512 * 1024;

/// Entries of this loop in flight. One would leave the disk idle during a round trip; many would
/// make entries of single commands out of a burst.
const PIPELINE: usize = 4;

/// How often time acts while it has something to do.
const TICK: Duration = Duration::from_millis(500);

/// The least time between two ticks, for a state that has more to do than one tick may.
const TICK_MIN: Duration = Duration::from_millis(20);

/// How often the loop looks whether something is due.
const LOOK: Duration = Duration::from_millis(100);

/// What became of one command at this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was applied.
    Done {
        /// The encoded answer.
        reply: Vec<u8>,
        /// The entry.
        index: u64,
    },
    /// Nothing was proposed; perhaps that node leads.
    NotLeader(Option<NodeId>),
    /// Nothing was proposed.
    Unavailable,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// One command on its way.
pub(crate) struct Proposal {
    pub(super) command: Bytes,
    ticket: Arc<Ticket>,
    answer: oneshot::Sender<Outcome>,
}

/// Whoever waits for the outcome of a [`Proposal`].
pub(crate) struct Pending {
    ticket: Arc<Ticket>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Proposal {
    pub(super) fn new(command: Bytes) -> (Self, Pending) {
        let (answer, outcome) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let pending = Pending {
            ticket: ticket.clone(),
            outcome,
        };
        let proposal = Self {
            command,
            ticket,
            answer,
        };
        (proposal, pending)
    }

    /// False when it was given up before. From here on its outcome is unknown until it is answered.
    pub(super) fn sets_out(&self) -> bool {
        self.ticket.settle(Ticket::PROPOSED)
    }

    pub(super) fn answer(self, outcome: Outcome) {
        // Nobody may wait any more.
        self.answer.send(outcome).ok();
    }
}

impl Pending {
    /// The outcome, or what can be said of it at the deadline.
    pub(super) async fn outcome(self, deadline: Instant) -> Outcome {
        match tokio::time::timeout_at(deadline, self.outcome).await {
            Ok(Ok(outcome)) => outcome,
            // Whoever had it went away, or the deadline came: unknown unless it surely was not
            // proposed.
            Ok(Err(_)) | Err(_) if self.ticket.settle(Ticket::GIVEN_UP) => Outcome::Unavailable,
            _ => Outcome::Unknown,
        }
    }
}

/// Whether a command was proposed or given up first; one of the two happens, never both.
#[derive(Debug, Default)]
struct Ticket(AtomicU8);

impl Ticket {
    const PROPOSED: u8 = 1;
    const GIVEN_UP: u8 = 2;

    fn settle(&self, as_what: u8) -> bool {
        self.0
            .compare_exchange(0, as_what, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// Proposes one command at this node and waits for its outcome until the deadline.
pub(crate) async fn propose(
    queue: &mpsc::Sender<Proposal>,
    command: Bytes,
    deadline: Instant,
) -> Outcome {
    let (proposal, pending) = Proposal::new(command);
    if queue.try_send(proposal).is_err() {
        return Outcome::Unavailable;
    }
    pending.outcome(deadline).await
}

/// Stamps entries with the state clock.
///
/// Time goes on from where this leader found it, by the monotonic clock, at most
/// [`Clock::STEP_MAX`] per entry. A longer gap between two entries is not made up for: then nothing
/// expires early, and what was promised for a span lasts at least that long.
#[derive(Debug)]
pub(crate) struct Stamper {
    leader: Option<LeaderId>,
    last: Clock,
    at: Instant,
}

impl Stamper {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            leader: None,
            last: Clock(0),
            at: now,
        }
    }

    /// The stamp of the next entry.
    pub(crate) fn stamp(&mut self, leader: LeaderId, found: Clock, now: Instant) -> Clock {
        if self.leader != Some(leader) {
            *self = Self {
                leader: Some(leader),
                last: found,
                at: now,
            };
        }
        let elapsed = now.saturating_duration_since(self.at);
        if elapsed >= Clock::STEP_MAX {
            self.last = self.last.after(Clock::STEP_MAX);
            self.at = now;
        } else {
            // What is less than a millisecond stays, so that many entries don't slow time down.
            let step = Duration::from_millis(elapsed.as_millis() as u64);
            self.last = self.last.after(step);
            self.at += step;
        }
        self.last = self.last.max(found);
        self.last
    }

    /// An entry that was stamped did not come into the log: the next stamp goes on from where the clock is found
    /// then. Else the clock would run as fast as entries come until it has made up for all that was refused,
    /// and cut short what is promised meanwhile.
    pub(crate) fn forget(&mut self) {
        self.leader = None;
    }

    /// What the clock would be now.
    fn peek(&self, now: Instant) -> Clock {
        self.last
            .after(now.saturating_duration_since(self.at).min(Clock::STEP_MAX))
    }
}

/// The loop.
pub(crate) struct Proposer {
    pub(crate) raft: Raft<TypeConfig, Replica>,
    pub(crate) queue: mpsc::Receiver<Proposal>,
    pub(crate) pulse: Arc<Pulse>,
    /// [`crate::machine::Machine::KIND`].
    pub(crate) kind: u8,
    /// The encoded tick.
    pub(crate) tick: Bytes,
    /// The newest entry format that the cluster allows.
    format: Arc<AtomicU16>,
    permits: Arc<Semaphore>,
    stamper: Stamper,
    /// An entry was refused since the last stamp.
    refused: Arc<AtomicBool>,
    /// When the last tick was proposed, and by whom it is being awaited.
    ticked: Instant,
    ticking: Option<oneshot::Receiver<Outcome>>,
}

impl Proposer {
    pub(crate) fn new(
        raft: Raft<TypeConfig, Replica>,
        queue: mpsc::Receiver<Proposal>,
        pulse: Arc<Pulse>,
        kind: u8,
        tick: Bytes,
        format: Arc<AtomicU16>,
    ) -> Self {
        let now = clock::stamping();
        Self {
            raft,
            queue,
            pulse,
            kind,
            tick,
            format,
            permits: Arc::new(Semaphore::new(PIPELINE)),
            stamper: Stamper::new(now),
            refused: Arc::default(),
            ticked: now,
            ticking: None,
        }
    }

    /// Runs until the queue's last sender is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let first = match tokio::time::timeout(LOOK, self.queue.recv()).await {
                Ok(Some(proposal)) => Some(proposal),
                Ok(None) => return,
                Err(_) => None,
            };
            let mut batch: Vec<Proposal> = first.into_iter().collect();
            batch.extend(self.due_tick());
            if !batch.is_empty() {
                self.send(batch).await;
            }
        }
    }

    /// A tick, when one is due and none is in flight.
    fn due_tick(&mut self) -> Option<Proposal> {
        let due = self.pulse.due()?;
        self.raft.as_leader().ok()?;
        if let Some(ticking) = &mut self.ticking
            && matches!(ticking.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        {
            return None;
        }
        let now = clock::stamping();
        let since = now.saturating_duration_since(self.ticked);
        if since < TICK && (since < TICK_MIN || self.stamper.peek(now) < due) {
            return None;
        }
        let (answer, outcome) = oneshot::channel();
        (self.ticked, self.ticking) = (now, Some(outcome));
        Some(Proposal {
            command: self.tick.clone(),
            ticket: Arc::default(),
            answer,
        })
    }

    /// Makes an entry of these and of what else waits by the time it can go out.
    async fn send(&mut self, mut batch: Vec<Proposal>) {
        let (leader, permit) = loop {
            let leader = match self.raft.as_leader() {
                Ok(leader) => *leader.leader_id(),
                Err(forward) => {
                    let hint = forward.leader_id.map(node_of);
                    while let Ok(proposal) = self.queue.try_recv() {
                        batch.push(proposal);
                    }
                    for proposal in batch {
                        proposal.answer(Outcome::NotLeader(hint));
                    }
                    return;
                }
            };
            let permit = self.permits.clone().acquire_owned();
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK, permit).await {
                break (leader, permit);
            }
        };
        let mut bytes: usize = batch.iter().map(|proposal| proposal.command.len()).sum();
        while batch.len() < COMMANDS_MAX && bytes < BYTES_MAX {
            let Ok(proposal) = self.queue.try_recv() else {
                break;
            };
            bytes += proposal.command.len();
            batch.push(proposal);
        }
        batch.retain(Proposal::sets_out);
        if batch.is_empty() {
            return;
        }
        let commands = batch
            .iter()
            .map(|proposal| proposal.command.to_vec())
            .collect();
        if self.refused.swap(false, Ordering::AcqRel) {
            self.stamper.forget();
        }
        let stamp = self
            .stamper
            .stamp(leader, self.pulse.clock(), clock::stamping());
        let body = Batch {
            format: self.format.load(Ordering::Acquire),
            stamp,
            commands,
        };
        let record =
            codec::encode(&body).and_then(|body| codec::frame(Role::Batch, self.kind, 0, &body));
        let Ok(record) = record else {
            // Only a single command beyond every limit gets here.
            answer_all(batch, &Outcome::Unavailable);
            return;
        };
        let (responder, result) =
            ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::complete_only();
        let write = self
            .raft
            .write(Record(record))
            .with_leader(leader)
            .responder(responder);
        match write.await {
            Ok(()) => {
                let refused = self.refused.clone();
                tasks::spawn(async move {
                    let result = result.await.ok();
                    if !matches!(result, Some(Ok(_))) {
                        refused.store(true, Ordering::Release);
                    }
                    settle(batch, result, permit);
                });
            }
            Err(_) => {
                self.stamper.forget();
                answer_all(batch, &Outcome::Unknown);
            }
        }
    }
}

/// Tells each proposer of an entry what became of its command.
fn settle(
    batch: Vec<Proposal>,
    result: Option<ClientWriteResult<TypeConfig>>,
    permit: OwnedSemaphorePermit,
) {
    drop(permit);
    match result {
        Some(Ok(written)) => {
            let index = written.log_id.index;
            let Replies(replies) = written.data;
            if replies.len() != batch.len() {
                return answer_all(batch, &Outcome::Unknown);
            }
            for (proposal, reply) in batch.into_iter().zip(replies) {
                proposal.answer(Outcome::Done { reply, index });
            }
        }
        Some(Err(ClientWriteError::ForwardToLeader(forward))) => {
            answer_all(batch, &Outcome::NotLeader(forward.leader_id.map(node_of)));
        }
        Some(Err(_)) | None => answer_all(batch, &Outcome::Unknown),
    }
}

pub(super) fn answer_all(batch: Vec<Proposal>, outcome: &Outcome) {
    for proposal in batch {
        proposal.answer(outcome.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::vote::RaftLeaderId as _;

    fn leader(term: u64) -> LeaderId {
        LeaderId::new(term, 1)
    }

    #[test]
    fn h_16_a_new_leader_goes_on_from_the_clock_it_finds() {
        let start = clock::now();
        let mut stamper = Stamper::new(start);
        assert_eq!(
            stamper.stamp(leader(1), Clock(10_000), start),
            Clock(10_000)
        );
        let later = start + Duration::from_millis(700);
        assert_eq!(
            stamper.stamp(leader(1), Clock(10_000), later),
            Clock(10_700)
        );
        let much_later = later + Duration::from_secs(3600);
        assert_eq!(
            stamper.stamp(leader(2), Clock(10_700), much_later),
            Clock(10_700)
        );
    }

    #[test]
    fn a_gap_is_not_made_up_for() {
        let start = clock::now();
        let mut stamper = Stamper::new(start);
        stamper.stamp(leader(1), Clock(0), start);
        let later = start + Duration::from_secs(60);
        assert_eq!(stamper.stamp(leader(1), Clock(0), later), Clock(2_000));
        assert_eq!(stamper.stamp(leader(1), Clock(0), later), Clock(2_000));
        assert_eq!(
            stamper.stamp(leader(1), Clock(0), later + Duration::from_millis(5)),
            Clock(2_005)
        );
    }

    #[test]
    fn what_was_refused_is_not_made_up_for_either() {
        let start = clock::now();
        let mut stamper = Stamper::new(start);
        let found = Clock(10_000);
        stamper.stamp(leader(1), found, start);
        let mut now = start;
        for _ in 0..100 {
            now += Duration::from_millis(500);
            let stamp = stamper.stamp(leader(1), found, now);
            assert!(
                found.since(stamp).is_zero() && stamp.since(found) <= Duration::from_millis(500)
            );
            stamper.forget();
        }
        assert_eq!(stamper.stamp(leader(1), found, now), found);
        let later = now + Duration::from_millis(300);
        assert_eq!(stamper.stamp(leader(1), found, later), Clock(10_300));
    }

    #[test]
    fn many_entries_per_millisecond_do_not_slow_time_down() {
        let start = clock::now();
        let mut stamper = Stamper::new(start);
        let mut last = Clock(0);
        for step in 0..=10_000 {
            last = stamper.stamp(
                leader(1),
                Clock(0),
                start + Duration::from_micros(step * 100),
            );
        }
        assert_eq!(last, Clock(1_000));
    }

    #[test]
    fn a_command_is_either_proposed_or_given_up() {
        let ticket = Ticket::default();
        assert!(ticket.settle(Ticket::PROPOSED));
        assert!(!ticket.settle(Ticket::GIVEN_UP));
    }
}
