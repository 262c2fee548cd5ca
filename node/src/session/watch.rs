//! Acting on what the directories say.
//!
//! Effects are hints, so that a queued open wakes at once and an ended session's tunnels close at
//! once. Nothing depends on them alone: every [`RECONCILE`], after falling behind, after a snapshot,
//! and after a new boot, what this node holds is compared with its replicas.

use super::{GROUP_WAIT, Sessions};
use crate::tasks::{self, Kind};
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{RegionId, RequestId};
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Command, Effect};
use pontoon_raft::group::Group;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;

/// How often what is held is compared with the directories.
const RECONCILE: Duration = Duration::from_secs(10);

/// How often new region groups are looked for.
const NEW_REGIONS: Duration = Duration::from_millis(200);

/// Opens of this node that have not come to an end, by id.
#[derive(Default)]
pub(super) struct Waiters {
    map: Mutex<HashMap<RequestId, Arc<Notify>>>,
}

/// Wakes when something happened to one open.
pub(super) struct Waiter(Arc<Notify>);

impl Waiter {
    /// Returns when woken, or after this long.
    pub(super) async fn woken(&self, at_most: Duration) {
        let _either = tokio::time::timeout(at_most, self.0.notified()).await;
    }
}

impl Waiters {
    pub(super) fn expect(&self, id: RequestId) -> Waiter {
        let notify = Arc::new(Notify::new());
        self.lock().insert(id, notify.clone());
        Waiter(notify)
    }

    pub(super) fn forget(&self, id: RequestId) {
        self.lock().remove(&id);
    }

    fn wake(&self, id: RequestId) {
        if let Some(waiter) = self.lock().get(&id) {
            waiter.notify_one();
        }
    }

    fn wake_all(&self) {
        for waiter in self.lock().values() {
            waiter.notify_one();
        }
    }

    fn has(&self, id: RequestId) -> bool {
        self.lock().contains_key(&id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RequestId, Arc<Notify>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Starts one watcher per region's group, also for regions that are born later.
    pub(super) fn watch_directories(&self) {
        let sessions = self.clone();
        tasks::spawn(Kind::Critical, "session regions", async move {
            let mut watched = BTreeSet::new();
            loop {
                for (region, group) in sessions.0.cluster.regions() {
                    if watched.insert(region) {
                        let (counting, of) = (sessions.clone(), group.clone());
                        tasks::spawn(Kind::Critical, "session limits", async move {
                            counting.watch_limits(of).await;
                        });
                        let sessions = sessions.clone();
                        tasks::spawn(Kind::Critical, "session watch", async move {
                            sessions.watch(region, group).await;
                        });
                    }
                }
                tokio::time::sleep(NEW_REGIONS).await;
            }
        });
        let sessions = self.clone();
        tasks::spawn(Kind::Critical, "session boots", async move {
            let mut boots = sessions.0.cluster.boots();
            while boots.changed().await.is_ok() {
                sessions.enter_again().await;
            }
            std::future::pending::<()>().await;
        });
    }

    async fn watch(&self, region: RegionId, group: Group<Directory>) {
        let mut effects = group.effects();
        let mut restored = group.restored();
        let mut reconcile = tokio::time::interval(RECONCILE);
        loop {
            tokio::select! {
                // A snapshot or a replay brings no effects (H-17).
                moved = restored.changed() => match moved {
                    Ok(()) => self.reconcile(region, &group).await,
                    Err(_) => return std::future::pending().await,
                },
                effect = effects.recv() => match effect {
                    Ok(effect) => self.act(effect),
                    Err(RecvError::Lagged(_)) => self.reconcile(region, &group).await,
                    // The group has stopped: the process is on its way out.
                    Err(RecvError::Closed) => return std::future::pending().await,
                },
                _ = reconcile.tick() => self.reconcile(region, &group).await,
            }
        }
    }

    fn act(&self, effect: Effect) {
        match effect {
            Effect::Bound { id, .. } => self.0.waiters.wake(id),
            Effect::Ended { id, .. } => {
                self.0.waiters.wake(id);
                self.ended_here(id);
            }
            Effect::WorkerLost { .. } | Effect::BootOver { .. } | Effect::Opened { .. } => {}
        }
    }

    /// A session has ended: nothing more is carried for it on this node.
    pub(super) fn ended_here(&self, id: RequestId) {
        if let Some(local) = self.0.locals.get(id) {
            local.end();
        }
        self.0.tunnels.end(id);
    }

    /// Compares what this node holds with a group's replica, both ways.
    async fn reconcile(&self, region: RegionId, group: &Group<Directory>) {
        self.0.waiters.wake_all();
        let state = group.state();
        let missing = self
            .0
            .locals
            .all()
            .into_iter()
            .filter(|local| local.target.region == region && !local.is_ended())
            .any(|local| state.session(local.target.id).is_none());
        // An end is certain only on a state that is not behind.
        if missing && let Ok(certain) = group.read(GROUP_WAIT).await {
            for local in self.0.locals.all() {
                let id = local.target.id;
                if local.target.region == region && certain.session(id).is_none() {
                    self.ended_here(id);
                }
            }
        }
        let me = self.0.cluster.at();
        let state = group.state();
        for local in self.0.locals.all() {
            let id = local.target.id;
            let carried = local.target.region == region && !local.is_ended();
            let entered = state
                .session(id)
                .is_none_or(|session| state.entered(session).any(|at| at.node == me.node));
            // Its `Enter` was lost, or the directory goes on from before it (H-10, H-23).
            if carried && !entered {
                let outcome = self.enter_again_one(group, id).await;
                if outcome == Err(Fault::SessionNotFound) {
                    self.ended_here(id);
                }
            }
        }
        let forgotten: Vec<RequestId> = state
            .entered_at(me.node)
            .filter(|id| self.0.locals.get(*id).is_none() && !self.0.waiters.has(*id))
            .collect();
        for id in forgotten {
            let leave = Command::Leave {
                id,
                at: me,
                seq: self.0.locals.next_sequence(),
                clean: false,
            };
            if group.propose(leave, GROUP_WAIT).await.is_err() {
                break;
            }
        }
    }

    /// This node's boot was declared over while it lived (it was paused, or cut off): under its new
    /// boot it enters again every session that it still carries (H-10).
    async fn enter_again(&self) {
        for local in self.0.locals.all() {
            let target = local.target;
            let Some(group) = self.0.cluster.region(target.region) else {
                continue;
            };
            if local.is_ended() {
                continue;
            }
            let outcome = self.enter_again_one(&group, target.id).await;
            if outcome == Err(Fault::SessionNotFound) {
                self.ended_here(target.id);
            }
        }
    }

    async fn enter_again_one(&self, group: &Group<Directory>, id: RequestId) -> Result<(), Fault> {
        use pontoon_raft::directory::command::Reply;
        let enter = Command::Enter {
            id,
            at: self.0.cluster.at(),
            seq: self.0.locals.next_sequence(),
            window_ms: None,
        };
        match group.propose(enter, GROUP_WAIT).await {
            Ok(proposed) => match proposed.reply {
                Reply::Ended(_) | Reply::NotFound => Err(Fault::SessionNotFound),
                _ => Ok(()),
            },
            Err(_) => Err(Fault::DirectoryUnavailable),
        }
    }
}
