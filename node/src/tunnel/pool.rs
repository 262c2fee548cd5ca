//! The tunnels of this node by session: the ones in use, the parked ones, and the ones being dialed.

use super::Tunnel;
use super::close::CloseReason;
use super::driver::Life;
use super::wire::Carries;
use crate::session::Target;
use pontoon_proto::id::{NodeId, RequestId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many tunnels may wait with one session. A resume needs one; a client with several
/// connections that all broke, one each.
const PARKED_MAX: usize = 4;

/// How many tunnels may wait on one node, all sessions together: at about 20 KiB each, 200 MiB.
const PARKED_TOTAL_MAX: usize = 10_000;

/// All tunnels of this node.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Sessions>>);

#[derive(Default)]
struct Sessions {
    by_id: BTreeMap<RequestId, Session>,
    parked: usize,
}

#[derive(Default)]
struct Session {
    /// In use and parked.
    lives: Vec<Arc<Life>>,
    parked: Vec<Tunnel>,
    dialing: usize,
    /// Raised by [`Pool::end`]: a tunnel that was dialed before does not count any more.
    epoch: u64,
}

/// A tunnel of a session is being dialed.
pub(super) struct Dialing {
    pool: Pool,
    id: RequestId,
    epoch: u64,
}

impl Drop for Dialing {
    fn drop(&mut self) {
        let mut sessions = self.pool.lock();
        if let Some(session) = sessions.by_id.get_mut(&self.id) {
            session.dialing -= 1;
        }
        sessions.sweep(self.id);
    }
}

impl Dialing {
    /// The tunnel is up: it counts from now on, unless its session ended meanwhile.
    pub(super) fn up(self, life: Arc<Life>) -> bool {
        let mut sessions = self.pool.lock();
        match sessions.by_id.get_mut(&self.id) {
            Some(session) if session.epoch == self.epoch => {
                session.lives.push(life);
                true
            }
            _ => false,
        }
    }
}

impl Pool {
    /// A tunnel for this session will be dialed.
    pub(super) fn dialing(&self, id: RequestId) -> Dialing {
        let mut sessions = self.lock();
        let session = sessions.by_id.entry(id).or_default();
        session.dialing += 1;
        Dialing {
            id,
            epoch: session.epoch,
            pool: self.clone(),
        }
    }

    /// A parked tunnel of this session and binding that lives and suits.
    pub(super) fn take(&self, target: &Target, carries: Carries) -> Option<Tunnel> {
        let mut sessions = self.lock();
        let session = sessions.by_id.get_mut(&target.id)?;
        let before = session.parked.len();
        let fresh =
            |tunnel: &Tunnel| tunnel.is_live() && tunnel.life().target.binding == target.binding;
        session.parked.retain(fresh);
        let suits = |tunnel: &Tunnel| tunnel.suits(carries);
        let taken = session.parked.iter().rposition(suits);
        let tunnel = taken.map(|at| session.parked.remove(at));
        sessions.parked -= before - sessions.by_id[&target.id].parked.len();
        sessions.sweep(target.id);
        tunnel.inspect(|tunnel| tunnel.life().set_parked(false))
    }

    /// Keeps a tunnel with its session. One too many is let go of, and closes.
    pub(super) fn park(&self, tunnel: Tunnel) {
        let mut sessions = self.lock();
        if sessions.parked >= PARKED_TOTAL_MAX || !tunnel.is_live() {
            return;
        }
        let id = tunnel.life().target.id;
        if let Some(session) = sessions.by_id.get_mut(&id)
            && session.parked.len() < PARKED_MAX
            && !session.parked.iter().any(|other| other.is(&tunnel))
            && session.lives.iter().any(|life| life.is(tunnel.life()))
        {
            tunnel.life().set_parked(true);
            session.parked.push(tunnel);
            sessions.parked += 1;
        }
    }

    /// A tunnel has closed.
    pub(super) fn gone(&self, life: &Arc<Life>) {
        let id = life.target.id;
        let mut sessions = self.lock();
        if let Some(session) = sessions.by_id.get_mut(&id) {
            session.lives.retain(|other| !other.is(life));
            let before = session.parked.len();
            session.parked.retain(|other| !other.life().is(life));
            let dropped = before - session.parked.len();
            sessions.parked -= dropped;
        }
        sessions.sweep(id);
    }

    /// Closes every tunnel of a session, also those that are still being dialed.
    pub(super) fn end(&self, id: RequestId, reason: CloseReason) {
        let mut sessions = self.lock();
        let Some(session) = sessions.by_id.get_mut(&id) else {
            return;
        };
        session.epoch += 1;
        for life in session.lives.drain(..) {
            life.close(reason);
        }
        let dropped = session.parked.drain(..).count();
        sessions.parked -= dropped;
        sessions.sweep(id);
    }

    /// Lets the tunnels end with their calls that are relayed by a node that leaves.
    pub(super) fn retire(&self, leaves: impl Fn(NodeId) -> bool) {
        let sessions = self.lock();
        let lives = sessions.by_id.values().flat_map(|session| &session.lives);
        for life in lives.filter(|life| !life.is_retired()) {
            if life.through().is_some_and(&leaves) {
                life.retire();
            }
        }
    }

    /// Closes everything.
    pub(super) fn end_all(&self, reason: CloseReason) {
        let ids: Vec<_> = self.lock().by_id.keys().copied().collect();
        for id in ids {
            self.end(id, reason);
        }
    }

    /// Where every session with a tunnel here is bound.
    pub(super) fn targets(&self) -> Vec<Target> {
        let sessions = self.lock();
        let lives = sessions.by_id.values().filter_map(|s| s.lives.first());
        lives.map(|life| life.target).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    fn sweep(&mut self, id: RequestId) {
        let spent = |s: &Session| s.lives.is_empty() && s.parked.is_empty() && s.dialing == 0;
        if self.by_id.get(&id).is_some_and(spent) {
            self.by_id.remove(&id);
        }
    }
}
