//! What readers see of a replica, and how they learn that it changed.

use crate::machine::{Clock, Machine};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{broadcast, watch};

/// Effects that a subscriber may lag behind; a directory's largest entry ends 1,000 sessions, and
/// whoever lags reconciles from the state.
const EFFECTS: usize = 8192;

/// What the stamper and the ticker need to know of a state, without its type.
#[derive(Debug)]
pub(crate) struct Pulse {
    clock: AtomicU64,
    due: AtomicU64,
}

impl Pulse {
    /// The clock of the last applied entry.
    pub(crate) fn clock(&self) -> Clock {
        Clock(self.clock.load(Ordering::Acquire))
    }

    /// When time alone will change something.
    pub(crate) fn due(&self) -> Option<Clock> {
        let due = self.due.load(Ordering::Acquire);
        (due != u64::MAX).then_some(Clock(due))
    }
}

/// What readers see of a replica. It outlives the replica: one that is started again in the same
/// process replays unseen until it has caught up with what was published before.
#[derive(Debug)]
pub(crate) struct Published<M: Machine> {
    pub(crate) state: ArcSwap<M>,
    pub(crate) effects: broadcast::Sender<M::Effect>,
    pub(crate) applied: Arc<watch::Sender<u64>>,
    pub(crate) pulse: Arc<Pulse>,
    /// Counts how often the state moved on without effects: by a snapshot, or by the replay of a
    /// start. Whoever acts on effects reconciles when it changes.
    pub(crate) restored: watch::Sender<u64>,
}

impl<M: Machine> Published<M> {
    pub(crate) fn new(machine: &M) -> Self {
        let due = machine.next_due().map_or(u64::MAX, |due| due.0);
        Self {
            state: ArcSwap::from_pointee(machine.clone()),
            effects: broadcast::channel(EFFECTS).0,
            applied: Arc::new(watch::channel(0).0),
            pulse: Arc::new(Pulse {
                clock: AtomicU64::new(machine.clock().0),
                due: AtomicU64::new(due),
            }),
            restored: watch::channel(0).0,
        }
    }

    /// Begins again from this state, for a new incarnation of the group: its indices have nothing
    /// to do with those published so far. The replica that published them must have ended.
    pub(crate) fn reset(&self, machine: &M) {
        self.show(machine, 0);
        self.restored.send_modify(|count| *count += 1);
    }

    /// The last entry whose effect readers see.
    pub(super) fn seen(&self) -> u64 {
        *self.applied.borrow()
    }

    /// State before index: whoever has waited for an index finds at least that state.
    pub(super) fn show(&self, machine: &M, index: u64) {
        self.state.store(Arc::new(machine.clone()));
        let pulse = &self.pulse;
        pulse.clock.store(machine.clock().0, Ordering::Release);
        let due = machine.next_due().map_or(u64::MAX, |due| due.0);
        pulse.due.store(due, Ordering::Release);
        self.applied.send_replace(index);
    }
}
