//! What one client connection remembers: its pins, the sessions that it takes part in, and which of
//! their cookies it has been given.
//!
//! One short lock per connection guards all of it; nothing is awaited under it, and no two
//! connections share anything.

use super::context::Member;
use crate::clock;
use crate::listen::Origin;
use crate::listen::limits::Limits;
use crate::session::Ask;
use crate::session::pin::{self, Pin, Pins};
use futures::future::{BoxFuture, FutureExt as _, Shared, WeakShared};
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{FunctionId, RequestId, TenantId, VersionId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How many sessions a connection remembers to have given a cookie for; beyond it starts afresh and
/// repeats itself. 64 KiB per connection at most.
const COOKIES_GIVEN_MAX: usize = 4096;

/// An open or resume that several calls of a connection may wait for; it goes on while anybody does.
pub(super) type Joining<M> = Shared<BoxFuture<'static, Result<Arc<M>, Fault>>>;

/// The same, held without keeping it going.
type WeakJoining<M> = WeakShared<BoxFuture<'static, Result<Arc<M>, Fault>>>;

/// One client connection.
pub struct Connection<M: Member> {
    /// Counts the connections of this process; for the log.
    pub number: u64,
    /// Where it comes from.
    pub origin: Origin,
    memory: Mutex<Memory<M>>,
    /// Something is due earlier than was announced by [`Connection::sweep`].
    pub(crate) hurry: Notify,
    /// The last open call has ended.
    rested: Notify,
}

struct Memory<M: Member> {
    pins: Pins<WeakJoining<M>>,
    resuming: BTreeMap<(RequestId, pin::Key), WeakJoining<M>>,
    stays: HashMap<RequestId, Stay<M>>,
    cookies_given: HashSet<RequestId>,
    /// Open calls of any kind.
    calls: usize,
    /// Since when there has been none.
    idle_since: Instant,
    /// When the next sweep is due.
    sweep_at: Instant,
    given_up: GivenUp,
}

/// Calls that the client gave up, minus those that came to an end, in the present span of
/// [`Limits::RESETS_WITHIN`]. Opening and resetting streams costs a client next to nothing and us a
/// whole call each (CVE-2023-44487).
struct GivenUp {
    count: u32,
    since: Instant,
}

/// A session in which this connection takes part.
struct Stay<M> {
    joined: Arc<M>,
    /// Whose it is, so that an id alone doesn't open it to another caller of the same connection.
    tenant: TenantId,
    function: FunctionId,
    version: VersionId,
    calls: usize,
    idle: Duration,
    idle_since: Instant,
}

/// A call's hold on its session: while it lives, the connection stays.
pub(super) struct Held<M: Member> {
    connection: Arc<Connection<M>>,
    pub(super) joined: Arc<M>,
}

/// An open call; the connection is not idle while it lives.
pub(crate) struct Open<M: Member>(Arc<Connection<M>>);

impl<M: Member> Connection<M> {
    /// A new connection.
    pub fn new(number: u64, origin: Origin) -> Arc<Self> {
        let now = clock::now();
        Arc::new(Self {
            number,
            origin,
            memory: Mutex::new(Memory {
                pins: Pins::default(),
                resuming: BTreeMap::new(),
                stays: HashMap::new(),
                cookies_given: HashSet::new(),
                calls: 0,
                idle_since: now,
                sweep_at: now,
                given_up: GivenUp {
                    count: 0,
                    since: now,
                },
            }),
            hurry: Notify::new(),
            rested: Notify::new(),
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory<M>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins.
    pub(crate) fn begins(self: &Arc<Self>) -> Open<M> {
        self.memory().calls += 1;
        Open(self.clone())
    }

    /// How many calls are open, and since when there has been none.
    pub(crate) fn idle(&self) -> (usize, Instant) {
        let memory = self.memory();
        (memory.calls, memory.idle_since)
    }

    /// Returns when no call is open.
    pub(crate) async fn rests(&self) {
        loop {
            let rested = self.rested.notified();
            if self.idle().0 == 0 {
                return;
            }
            rested.await;
        }
    }

    /// How many more calls the client has given up lately than let come to an end.
    pub(crate) fn given_up(&self) -> u32 {
        self.memory().given_up.count
    }

    /// Leaves the sessions that have had no open call for their version's idle time, or that have
    /// ended. Returns when to look again, given that nothing changes; never later than `latest`.
    pub(crate) fn sweep(&self, now: Instant, latest: Instant) -> Instant {
        let mut left = Vec::new();
        let next = {
            let mut memory = self.memory();
            let mut next = latest;
            memory.stays.retain(|_, stay| {
                if stay.calls > 0 {
                    return true;
                }
                let due = stay.idle_since + stay.idle;
                if due <= now || stay.joined.ended() {
                    left.push(stay.joined.clone());
                    return false;
                }
                next = next.min(due);
                true
            });
            memory
                .resuming
                .retain(|_, joining| joining.upgrade().is_some());
            memory.sweep_at = next;
            next
        };
        drop(left);
        next
    }

    /// The connection is over: it leaves all its sessions. `clean` is whether the client meant it;
    /// a session with an open call is left uncleanly all the same.
    pub(crate) fn closes(&self, clean: bool) {
        let stays = std::mem::take(&mut self.memory().stays);
        for stay in stays.into_values() {
            if clean && stay.calls == 0 {
                stay.joined.closes_cleanly();
            }
        }
    }

    /// Whether the session's cookie has to go with this answer: true once per session.
    pub(super) fn gives_cookie(&self, id: RequestId) -> bool {
        let mut memory = self.memory();
        if memory.cookies_given.len() >= COOKIES_GIVEN_MAX {
            memory.cookies_given.clear();
        }
        memory.cookies_given.insert(id)
    }

    /// Whether this connection already takes part in a live session that fits.
    pub(super) fn stays_in(&self, id: RequestId, ask: &Ask) -> bool {
        let memory = self.memory();
        memory.stays.get(&id).is_some_and(|stay| stay.fits(ask))
    }

    /// Takes hold of a session that this connection already takes part in, if it fits.
    pub(super) fn hold(self: &Arc<Self>, id: RequestId, ask: &Ask) -> Option<Held<M>> {
        let mut memory = self.memory();
        let stay = memory.stays.get_mut(&id).filter(|stay| stay.fits(ask))?;
        stay.calls += 1;
        Some(Held {
            connection: self.clone(),
            joined: stay.joined.clone(),
        })
    }

    /// Takes hold of a session that was just joined.
    pub(super) fn hold_new(self: &Arc<Self>, joined: &Arc<M>, ask: &Ask) -> Held<M> {
        let id = joined.id();
        let version = joined.version();
        let idle = ask
            .versions
            .iter()
            .find(|known| known.id == version)
            .or(ask.versions.first())
            .map_or(Duration::ZERO, |known| {
                Duration::from_millis(known.policy.idle_ms)
            });
        let mut memory = self.memory();
        let stay = memory.stays.entry(id).or_insert_with(|| Stay {
            joined: joined.clone(),
            tenant: ask.tenant,
            function: ask.function,
            version,
            calls: 0,
            idle,
            idle_since: clock::now(),
        });
        let replaced = stay
            .joined
            .ended()
            .then(|| std::mem::replace(&mut stay.joined, joined.clone()));
        stay.calls += 1;
        let held = Held {
            connection: self.clone(),
            joined: stay.joined.clone(),
        };
        drop(memory);
        drop(replaced);
        held
    }

    /// What the calls of this pin key share.
    pub(super) fn pinned(&self, key: &pin::Key) -> Pinned<M> {
        match self.memory().pins.get(key) {
            None => Pinned::No,
            Some(Pin::Session(id)) => Pinned::Session(*id),
            Some(Pin::Opening(open)) => open.upgrade().map_or(Pinned::No, Pinned::Opening),
        }
    }

    /// Starts an open that the calls of this pin key share, unless another call just did.
    pub(super) fn opens(
        &self,
        key: &pin::Key,
        open: BoxFuture<'static, Result<Arc<M>, Fault>>,
    ) -> Joining<M> {
        let mut memory = self.memory();
        if let Some(Pin::Opening(running)) = memory.pins.get(key)
            && let Some(running) = running.upgrade()
        {
            return running;
        }
        let open = open.shared();
        if let Some(weak) = open.downgrade() {
            memory.pins.starts(key.clone(), weak);
        }
        open
    }

    /// The open of this pin key is over.
    pub(super) fn opened(&self, key: &pin::Key, result: Result<RequestId, Fault>) {
        let mut memory = self.memory();
        match result {
            Ok(id) => memory.pins.opened(key, id),
            Err(_) => memory.pins.failed(key),
        }
    }

    /// The pinned session has ended.
    pub(super) fn unpin(&self, key: &pin::Key, id: RequestId) {
        self.memory().pins.ended(key, id);
    }

    /// Starts a resume that the same caller's calls share, unless another call just did.
    pub(super) fn resumes(
        &self,
        id: RequestId,
        key: &pin::Key,
        resume: BoxFuture<'static, Result<Arc<M>, Fault>>,
    ) -> Joining<M> {
        let mut memory = self.memory();
        let what = (id, key.clone());
        if let Some(running) = memory.resuming.get(&what).and_then(WeakShared::upgrade) {
            return running;
        }
        let resume = resume.shared();
        if let Some(weak) = resume.downgrade() {
            memory.resuming.insert(what, weak);
        }
        resume
    }

    /// The resume is over.
    pub(super) fn resumed(&self, id: RequestId, key: &pin::Key) {
        self.memory().resuming.remove(&(id, key.clone()));
    }
}

/// What the calls of a pin key share, ready to be waited for.
pub(super) enum Pinned<M> {
    /// Nothing.
    No,
    /// A session.
    Session(RequestId),
    /// An open.
    Opening(Joining<M>),
}

impl<M: Member> Stay<M> {
    fn fits(&self, ask: &Ask) -> bool {
        self.tenant == ask.tenant
            && self.function == ask.function
            && ask
                .versions
                .iter()
                .any(|version| version.id == self.version)
            && !self.joined.ended()
    }
}

impl<M: Member> Drop for Held<M> {
    fn drop(&mut self) {
        let mut memory = self.connection.memory();
        let sweep_at = memory.sweep_at;
        let id = self.joined.id();
        // The connection may have left in the meantime: it is over, and so are its calls.
        let Some(stay) = memory.stays.get_mut(&id) else {
            return;
        };
        stay.calls = stay.calls.saturating_sub(1);
        if stay.calls == 0 {
            stay.idle_since = clock::now();
            if stay.idle_since + stay.idle < sweep_at {
                self.connection.hurry.notify_one();
            }
        }
    }
}

impl<M: Member> Open<M> {
    /// The call is over; `given_up` is whether its client didn't wait for the end.
    pub(crate) fn ends(self, given_up: bool, resets_max: u32) {
        let now = clock::now();
        let mut memory = self.0.memory();
        let count = &mut memory.given_up;
        if now >= count.since + Limits::RESETS_WITHIN {
            *count = GivenUp {
                count: 0,
                since: now,
            };
        }
        if given_up {
            count.count += 1;
            if count.count > resets_max {
                self.0.hurry.notify_one();
            }
        } else {
            count.count = count.count.saturating_sub(1);
        }
    }
}

impl<M: Member> Drop for Open<M> {
    fn drop(&mut self) {
        let mut memory = self.0.memory();
        memory.calls -= 1;
        let rests = memory.calls == 0;
        if rests {
            memory.idle_since = clock::now();
        }
        drop(memory);
        if rests {
            self.0.rested.notify_waiters();
        }
    }
}
