//! A session's record, and the commands that one session's life is made of.
//!
//! ```text
//!            Open, no slot            slot frees              Leave of the last node
//!   (none) ───────────────▶ Queued ───────────────▶ Bound ─────────────────────────▶ Held
//!      │                      │                     ▲   ▲ ▲          Enter            │ │
//!      │ Open, slot free      │ Cancel, deadline,   │   │ └───────────────────────────┘ │
//!      ├──────────────────────┼─────────────────────┘   │                               │
//!      │ Open absorbed        │ owner lost              │ End, worker lost     window + margin,
//!      └──────────────────────┼──────────────────────── │ ──────────────▶ Held  preempted, End
//!                             ▼                         ▼                               ▼
//!                           Ended(reason): a tombstone for 60 s, then nothing
//! ```
//!
//! Queued has a second form, Next, which is that of a tenant's first open after its tenant was served.
//!
//! A binding is written once, in the step to Bound or Held, and never changes. Entries of a boot that
//! is over don't count; they are removed when the session is next touched or swept
//! ([`Session::settled`]), and readers see through them
//! ([`Directory::hold`](super::Directory::hold)).

use super::command::{Binding, Effect, EndReason, Reply};
use super::queue::PREEMPT_AFTER;
use super::{Directory, Found, Life, SESSIONS_MAX, Step};
use crate::machine::Clock;
use imbl::OrdMap;
use pontoon_proto::id::{FunctionId, NodeBoot, NodeId, RequestId, TenantId, VersionId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How much longer than its window a held session lives.
///
/// A node answers a resume from its own replica while its last quorum-confirmed beat is younger
/// than half of this, and proposes the `Enter` beside it; the other half is for that `Enter` to be
/// committed, elections included, before a `Tick` may end the session.
pub const ENTER_MARGIN: Duration = Duration::from_secs(5);

/// The least that a hold lasts which began with the loss of a node.
///
/// The clients did not choose to leave: they need to notice (up to 5 s of keepalive) and to dial
/// another node (up to 5 s).
pub const LOST_HOLD_MIN: Duration = Duration::from_secs(10);

/// How long an ended or cancelled id is remembered, and how old an `Open` may be.
///
/// The two are one number: while an `Open` is young enough to be applied, the tombstone of its
/// cancel still stands.
pub const TOMBSTONE: Duration = Duration::from_secs(60);

/// A live session, or one that waits for its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its public name and key.
    pub id: RequestId,
    /// Who called.
    pub tenant: TenantId,
    /// What was called.
    pub function: FunctionId,
    /// Which revision.
    pub version: VersionId,
    /// The state clock at which its `Open` was applied.
    pub opened: Clock,
    /// How long it is held without connections, milliseconds; the largest that was asked for.
    pub window_ms: u64,
    /// A client asked for a window: never preempted.
    pub window_asked: bool,
    /// It was opened by an absorbed call: never preempted.
    pub absorbed: bool,
    /// Where it is in its life.
    pub state: State,
    /// What each node last said, one per node, in node order. The ones that left stay, so that an
    /// older message of the same life is recognised. Those of a boot that is over don't count.
    pub entries: Box<[Entry]>,
}

/// Where a session is in its life; see the drawing above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It waits for a slot.
    Queued(Waiting),
    /// It has a worker, and some node carries a connection of it.
    Bound(Binding),
    /// It has a worker and no connection.
    Held(Binding, Hold),
    /// It waits for a slot and is the first of its tenant, which was served before: this is its
    /// tenant's turn, by the count of [`Waiting::arrival`]. Only from
    /// [`TURNS_FORMAT`](super::queue::TURNS_FORMAT) on.
    Next(Waiting, u64),
}

/// A queued open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The entry node; when this boot is over, nobody waits any more.
    pub at: NodeBoot,
    /// The sequence of the first `Enter`.
    pub seq: u64,
    /// Its place among its tenant's: lower is earlier.
    pub arrival: u64,
    /// When it has waited for too long.
    pub deadline: Clock,
}

/// A wait for somebody to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Since when.
    pub since: Clock,
    /// The end of the window. The session lives [`ENTER_MARGIN`] longer, for `Enter`s on their way.
    pub until: Clock,
    /// The last connection closed cleanly, so that the slot may be taken early.
    pub clean: bool,
}

impl Hold {
    /// When the session ends if nobody comes.
    pub fn ends(&self) -> Clock {
        self.until.after(ENTER_MARGIN)
    }
}

/// What one node last said about its connections in a session; 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The node, ...
    pub node: NodeId,
    /// ... and its life.
    pub boot: u64,
    /// The newest sequence number seen from it.
    pub seq: u64,
    /// Whether it carries a connection.
    pub inside: bool,
}

impl Entry {
    /// The node in the life in which it said this.
    pub fn at(&self) -> NodeBoot {
        NodeBoot {
            node: self.node,
            boot: self.boot,
        }
    }
}

impl Session {
    /// Where it lives; none while it is queued.
    pub fn binding(&self) -> Option<Binding> {
        match self.state {
            State::Queued(_) | State::Next(..) => None,
            State::Bound(binding) | State::Held(binding, _) => Some(binding),
        }
    }

    /// How it waits; none once it has a worker.
    pub fn waiting(&self) -> Option<&Waiting> {
        match &self.state {
            State::Queued(waiting) | State::Next(waiting, _) => Some(waiting),
            State::Bound(_) | State::Held(..) => None,
        }
    }

    /// The turn that its tenant has through it.
    pub(super) fn turn(&self) -> Option<u64> {
        match &self.state {
            State::Next(_, turn) => Some(*turn),
            State::Queued(_) | State::Bound(_) | State::Held(..) => None,
        }
    }

    /// What `Open` and `Enter` answer for it.
    fn answer(&self) -> Reply {
        self.binding().map_or(Reply::Queued, Reply::Bound)
    }

    /// Whether nobody asked for it to be kept, so that a long clean hold may be ended early.
    fn yields(&self) -> bool {
        !self.absorbed && !self.window_asked
    }

    /// Whether its slot may be taken for another session at this time.
    pub fn may_be_preempted(&self, at: Clock) -> bool {
        self.idle_since()
            .is_some_and(|since| since.after(PREEMPT_AFTER) <= at)
    }

    /// Since when it may be counted among the preemptible ones, if at all.
    pub(super) fn idle_since(&self) -> Option<Clock> {
        match &self.state {
            State::Held(_, hold) if hold.clean && self.yields() => Some(hold.since),
            _ => None,
        }
    }

    /// The hold that begins at `since` when the last connection has gone.
    fn held(&self, since: Clock, end: HoldCause) -> Hold {
        let window = Duration::from_millis(self.window_ms);
        let (least, clean) = match end {
            HoldCause::Clean => (Duration::ZERO, true),
            HoldCause::Unclean => (Duration::ZERO, false),
            HoldCause::NodeLost => (LOST_HOLD_MIN, false),
        };
        Hold {
            since,
            until: since.after(window.max(least)),
            clean,
        }
    }

    /// The hold that began with the loss of the nodes in whose lives it was entered; `None` when
    /// some entry still counts, or the session is not bound.
    pub(super) fn lost_hold(&self, lives: &OrdMap<NodeId, Life>) -> Option<Hold> {
        if !matches!(self.state, State::Bound(_)) {
            return None;
        }
        let mut since = Clock::default();
        for entry in self.entries.iter().filter(|entry| entry.inside) {
            let life = lives
                .get(&entry.node)
                .filter(|life| life.ended(entry.at()))?;
            since = since.max(life.over_at);
        }
        Some(self.held(since, HoldCause::NodeLost))
    }

    /// The same session without the entries of boots that are over; `None` when it has none.
    pub(super) fn settled(&self, lives: &OrdMap<NodeId, Life>) -> Option<Session> {
        let over = |at: NodeBoot| lives.get(&at.node).is_some_and(|life| life.ended(at));
        if !self.entries.iter().any(|entry| over(entry.at())) {
            return None;
        }
        let mut next = self.clone();
        if let (State::Bound(binding), Some(hold)) = (&self.state, self.lost_hold(lives)) {
            next.state = State::Held(*binding, hold);
        }
        next.entries = self
            .entries
            .iter()
            .filter(|entry| !over(entry.at()))
            .copied()
            .collect();
        Some(next)
    }

    /// Records what a node says. False when it said so before, or something newer.
    fn note(&mut self, at: NodeBoot, seq: u64, inside: bool) -> bool {
        let entry = Entry {
            node: at.node,
            boot: at.boot,
            seq,
            inside,
        };
        match self
            .entries
            .binary_search_by_key(&at.node, |known| known.node)
        {
            Ok(place) if self.entries[place].seq >= seq => false,
            Ok(place) => {
                self.entries[place] = entry;
                true
            }
            Err(place) => {
                let (before, after) = self.entries.split_at(place);
                self.entries = [before, &[entry], after].concat().into();
                true
            }
        }
    }

    /// The session at its slot, as its queue or its `Open` gives it.
    pub(super) fn bound(mut self, binding: Binding, at: NodeBoot, seq: u64, now: Clock) -> Session {
        self.note(at, seq, !self.absorbed);
        self.state = if self.absorbed {
            State::Held(binding, self.held(now, HoldCause::Unclean))
        } else {
            State::Bound(binding)
        };
        self
    }
}

/// How a hold began.
enum HoldCause {
    /// GOAWAY NO_ERROR, FIN with no open stream, our own idle GOAWAY.
    Clean,
    /// Any other close, or no connection yet.
    Unclean,
    /// The node went.
    NodeLost,
}

/// What `Open` says; the fields are those of the command.
pub(super) struct Opening {
    pub(super) session: Session,
    pub(super) at: NodeBoot,
    pub(super) seq: u64,
    pub(super) asked: Clock,
    pub(super) wait: Duration,
}

impl Step<'_> {
    /// Opens a session, or repeats the answer of an earlier copy of the same `Open`.
    pub(super) fn open(&mut self, opening: Opening) -> Reply {
        let Opening {
            session,
            at,
            seq,
            asked,
            wait,
        } = opening;
        let (id, version) = (session.id, session.version);
        match self.state.find(id) {
            Found::Live(session) => return session.answer(),
            Found::Ended(reason) => return Reply::Ended(reason),
            Found::Unknown => {}
        }
        let foreign = id.region() != Some(self.state.region);
        if foreign || self.now().since(asked) >= TOMBSTONE || self.state.boot_over(at) {
            return Reply::Stale;
        }
        self.witness(at);
        if self.state.sessions.len() >= SESSIONS_MAX {
            return Reply::QueueFull;
        }
        // Who waits already comes first, also when slots have just come.
        self.serve(version);
        if self.state.queued(version) == 0
            && let Some(worker) = self.pick(version)
        {
            self.announce(&session, at);
            return Reply::Bound(self.bind(session, worker, at, seq));
        }
        if wait.is_zero() {
            return Reply::NoSlot;
        }
        if !self.state.has_room(version, session.tenant) {
            return Reply::QueueFull;
        }
        self.announce(&session, at);
        self.enqueue(session, at, seq, wait);
        self.serve(version);
        match self.state.find(id) {
            Found::Live(session) => session.answer(),
            Found::Ended(reason) => Reply::Ended(reason),
            Found::Unknown => Reply::NotFound,
        }
    }

    /// Tells the other nodes of a new session, so that limits on their rate count it.
    fn announce(&mut self, session: &Session, at: NodeBoot) {
        self.effects.push(Effect::Opened {
            tenant: session.tenant,
            version: session.version,
            at,
        });
    }

    /// The proposer gave up: whatever became of its open ends, and no late copy revives it.
    pub(super) fn cancel(&mut self, id: RequestId) -> Reply {
        match self.state.find(id) {
            Found::Live(session) => {
                let version = session.version;
                self.finish(id, EndReason::Cancelled);
                self.serve(version);
            }
            Found::Ended(_) => {}
            Found::Unknown => self.bury(id, EndReason::Cancelled),
        }
        Reply::Done
    }

    /// A node carries a connection of the session again.
    pub(super) fn enter(
        &mut self,
        id: RequestId,
        at: NodeBoot,
        seq: u64,
        window_ms: Option<u64>,
    ) -> Reply {
        let mut session = match self.present(id, at) {
            Ok(session) => session,
            Err(reply) => return reply,
        };
        let Some(binding) = session.binding() else {
            return Reply::Queued;
        };
        if session.note(at, seq, true) {
            session.state = State::Bound(binding);
            session.window_asked |= window_ms.is_some();
            session.window_ms = session.window_ms.max(window_ms.unwrap_or(0));
            self.state.put_session(session);
        }
        Reply::Bound(binding)
    }

    /// A node carries no connection of the session any more.
    pub(super) fn leave(&mut self, id: RequestId, at: NodeBoot, seq: u64, clean: bool) -> Reply {
        let mut session = match self.present(id, at) {
            Ok(session) => session,
            Err(reply) => return reply,
        };
        let Some(binding) = session.binding() else {
            return Reply::Done;
        };
        if session.note(at, seq, false) {
            let entered = session.entries.iter().any(|entry| entry.inside);
            if matches!(session.state, State::Bound(_)) && !entered {
                let cause = if clean {
                    HoldCause::Clean
                } else {
                    HoldCause::Unclean
                };
                session.state = State::Held(binding, session.held(self.now(), cause));
            }
            self.state.put_session(session);
        }
        Reply::Done
    }

    /// Ends a session and gives its slot to whoever waits.
    pub(super) fn end(&mut self, id: RequestId, reason: EndReason) -> Reply {
        let (version, binding) = match self.state.find(id) {
            Found::Live(session) => (session.version, session.binding()),
            Found::Ended(reason) => return Reply::Ended(reason),
            Found::Unknown => return Reply::NotFound,
        };
        self.finish(id, reason);
        if let (EndReason::NoLink, Some(binding)) = (reason, binding) {
            self.link_failed(binding.worker);
        }
        self.serve(version);
        Reply::Done
    }

    /// The live session as a node in this life may change it, settled.
    fn present(&mut self, id: RequestId, at: NodeBoot) -> Result<Session, Reply> {
        match self.state.find(id) {
            Found::Ended(reason) => return Err(Reply::Ended(reason)),
            Found::Unknown => return Err(Reply::NotFound),
            Found::Live(_) => {}
        }
        if self.state.boot_over(at) {
            return Err(Reply::Stale);
        }
        self.witness(at);
        // The witnessed boot may have ended the one in which this open was queued.
        match self.state.find(id) {
            Found::Live(session) => Ok(session
                .settled(&self.state.lives)
                .unwrap_or_else(|| Session::clone(session))),
            Found::Ended(reason) => Err(Reply::Ended(reason)),
            Found::Unknown => Err(Reply::NotFound),
        }
    }
}

impl Directory {
    /// The session's hold as of now: its own, or the one that began when the last node in which
    /// it was entered was lost, whether or not that has been swept yet.
    pub fn hold(&self, session: &Session) -> Option<Hold> {
        match &session.state {
            State::Held(_, hold) => Some(*hold),
            State::Bound(_) => session.lost_hold(&self.lives),
            State::Queued(_) | State::Next(..) => None,
        }
    }

    /// Since when all nodes that ever carried a connection of the session have been gone, whichever
    /// sweeps have come by; none when one of them lives, or the session is not bound.
    pub fn deserted(&self, session: &Session) -> Option<Clock> {
        let gone = |entry: &Entry| self.boot_over(entry.at());
        let hold = self.hold(session)?;
        session.entries.iter().all(gone).then_some(hold.since)
    }

    /// When a node's life was last declared over; no session was deserted later.
    pub fn last_loss(&self) -> Option<Clock> {
        self.lives.values().map(|life| life.over_at).max()
    }

    /// The nodes that carry a connection of the session, in their present lives.
    pub fn entered<'a>(&'a self, session: &'a Session) -> impl Iterator<Item = NodeBoot> + 'a {
        session
            .entries
            .iter()
            .filter(|entry| entry.inside && !self.boot_over(entry.at()))
            .map(|entry| entry.at())
    }
}
