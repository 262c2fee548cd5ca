//! How a node drains, and comes back: by an operator's verb, which leaves the process running, or by
//! SIGTERM, which ends it.
//!
//! ```text
//! Serving ──drain──▶ Draining ──nothing left, or the deadline──▶ Drained
//!    ▲                  │                                           │
//!    └──────undrain─────┴─────────────────undrain───────────────────┘
//! ```
//!
//! From the first moment of a drain the node is not ready, accepts no client, asks its clients to go
//! (GOAWAY) and its sidecars to attach elsewhere, and lets others lead. At the deadline what is left is
//! cut, and the node counts as drained too, but says so.

use crate::clock;
use crate::drain::{Drain, Stage, Switch};
use crate::tunnel::Tunnels;
use pontoon_proto::peer::NodeState;
use pontoon_proto::peer::node_state;
use pontoon_raft::cluster::Cluster;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often it is looked whether anything is left.
const LOOK: Duration = Duration::from_millis(100);

/// How often sidecars and groups are told again: some come while the node drains.
const TELL: Duration = Duration::from_secs(2);

/// What a node has that a drain waits for, or that shows how far one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Calls of clients.
    pub(super) calls: u64,
    /// Connections of clients.
    pub(super) connections: u64,
    /// Sessions that those are in.
    pub(super) sessions: u64,
    /// Tunnels to workers.
    pub(super) tunnels: u64,
    /// Tunnels of other nodes.
    pub(super) relays: u64,
    /// Groups that it leads.
    pub(super) groups_led: u64,
    /// Control streams of sidecars.
    pub(super) sidecars: u64,
    /// Those of sidecars that are attached nowhere else.
    pub(super) sidecars_only_here: u64,
}

impl Work {
    /// Whether nobody would notice the process's end. Control streams stay to the end, and so do the
    /// tunnels that wait with their sessions: the next call of one gets another tunnel.
    fn is_done(self) -> bool {
        self.is_left() && self.groups_led == 0 && self.sidecars_only_here == 0
    }

    /// Whether no call would be cut by the process's end, neither its own nor another node's, and no
    /// client is there to begin one.
    pub(super) fn is_left(self) -> bool {
        self.calls == 0 && self.relays == 0 && self.connections == 0
    }
}

/// What was ordered, and what has come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Serving,
    Draining { by: Instant },
    Drained { cut: bool },
}

impl Course {
    /// After the order to drain by then. A node that has nothing any more has nothing to do.
    fn drain(self, by: Instant) -> Course {
        match self {
            Course::Serving | Course::Draining { .. } => Course::Draining { by },
            drained @ Course::Drained { .. } => drained,
        }
    }

    /// As time passes.
    fn look(self, now: Instant, work: Work) -> Course {
        match self {
            Course::Draining { .. } if work.is_done() => Course::Drained { cut: false },
            Course::Draining { by } if now >= by => Course::Drained { cut: true },
            same => same,
        }
    }
}

/// What is asked for the work that there is.
pub(super) type Count = Arc<dyn Fn() -> Work + Send + Sync>;

/// A node's way out, and back. Clones share it.
#[derive(Clone)]
pub(super) struct Leaving(Arc<Inner>);

struct Inner {
    drain: Drain,
    course: watch::Sender<Course>,
    /// The process was told to end.
    ending: AtomicBool,
    cluster: Cluster,
    tunnels: Tunnels,
    count: Count,
}

impl Leaving {
    pub(super) fn new(cluster: Cluster, tunnels: Tunnels, count: Count) -> Leaving {
        Leaving(Arc::new(Inner {
            drain: Drain::default(),
            course: watch::Sender::new(Course::Serving),
            ending: AtomicBool::new(false),
            cluster,
            tunnels,
            count,
        }))
    }

    /// Tells the node's parts how far it is.
    pub(super) fn drain(&self) -> &Drain {
        &self.0.drain
    }

    /// What there is.
    pub(super) fn work(&self) -> Work {
        (self.0.count)()
    }

    /// Whether the node waits to be stopped.
    pub(super) fn is_drained(&self) -> bool {
        matches!(*self.0.course.borrow(), Course::Drained { .. })
    }

    /// Begins to drain, or sets another deadline.
    pub(super) fn begin(&self, within: Duration) {
        let by = clock::now() + within;
        self.0
            .course
            .send_modify(|course| *course = course.drain(by));
        // Only once it is on its way: a stage is never entered for a drained node.
        self.0.drain.enter(Stage::Draining);
        self.tell();
        tracing::info!("draining: no new connections; calls may finish within {within:?}");
    }

    /// The process shall end: there is no way back. A deadline that is nearer stays.
    pub(super) fn for_good(&self, within: Duration) {
        self.0.ending.store(true, Ordering::Release);
        let left = match *self.0.course.borrow() {
            Course::Draining { by } => by.saturating_duration_since(clock::now()),
            Course::Serving | Course::Drained { .. } => within,
        };
        self.begin(left.min(within));
    }

    /// Serves again.
    ///
    /// # Errors
    ///
    /// When the process ends.
    fn cancel(&self) -> Result<(), String> {
        if self.0.ending.load(Ordering::Acquire) {
            return Err("this node was told to stop, and will: start it again".to_owned());
        }
        if self.0.course.send_replace(Course::Serving) != Course::Serving {
            self.0.cluster.set_leaving(false);
            self.0.tunnels.staying();
            self.0.drain.resume();
            tracing::info!("serving again: the drain was cancelled");
        }
        Ok(())
    }

    fn tell(&self) {
        self.0.cluster.set_leaving(true);
        self.0.tunnels.leaving();
    }

    /// Looks how far the node is, for ever.
    pub(super) async fn watch(self) {
        let mut course = self.0.course.subscribe();
        let mut told = clock::now();
        loop {
            if *course.borrow_and_update() == Course::Serving {
                let _never = course.changed().await;
                told = clock::now();
                continue;
            }
            if told.elapsed() >= TELL {
                told = clock::now();
                self.tell();
            }
            let (now, work) = (clock::now(), self.work());
            let moved = self.0.course.send_if_modified(|course| {
                let next = course.look(now, work);
                std::mem::replace(course, next) != next
            });
            match *self.0.course.borrow() {
                Course::Drained { cut: false } if moved => {
                    tracing::info!("drained: nothing is left here");
                }
                Course::Drained { cut: true } if moved => {
                    tracing::warn!(?work, "drained: the deadline has come, what is left is cut");
                    self.0.drain.enter(Stage::Stopped);
                }
                _ => {}
            }
            tokio::select! {
                _ = course.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// How the node is, but for whether it is ready.
    fn state(&self) -> NodeState {
        let course = *self.0.course.borrow();
        let work = self.work();
        let (stage, left, cut) = match course {
            Course::Serving => (node_state::Stage::Serving, Duration::ZERO, false),
            Course::Draining { by } => {
                let left = by.saturating_duration_since(clock::now());
                (node_state::Stage::Draining, left, false)
            }
            Course::Drained { cut } => (node_state::Stage::Drained, Duration::ZERO, cut),
        };
        NodeState {
            ready: false,
            stage: stage.into(),
            drain_left_ms: left.as_millis() as u64,
            cut,
            calls: work.calls,
            connections: work.connections,
            sessions: work.sessions,
            tunnels: work.tunnels,
            relays: work.relays,
            groups_led: work.groups_led,
            sidecars: work.sidecars,
            sidecars_only_here: work.sidecars_only_here,
        }
    }

    /// What other parts do with it; `ready` says whether traffic should come here.
    pub(super) fn switch(&self, ready: impl Fn() -> bool + Send + Sync + 'static) -> Switch {
        let (asked, told) = (self.clone(), self.clone());
        Switch {
            state: Arc::new(move || NodeState {
                ready: ready(),
                ..asked.state()
            }),
            drain: Arc::new(move |within| match within {
                Some(within) => {
                    told.begin(within);
                    Ok(())
                }
                None => told.cancel(),
            }),
        }
    }
}

/// The work of a node that knows its sidecars; `others` says whether one is attached elsewhere too.
pub(super) fn only_here(cluster: &Cluster, tunnels: &Tunnels) -> (u64, u64) {
    let here = cluster.at().node;
    let attached = tunnels.sidecars().workers();
    let states: Vec<_> = cluster
        .regions()
        .into_iter()
        .map(|(_, g)| g.state())
        .collect();
    let only = attached.iter().filter(|id| {
        let known = states
            .iter()
            .find_map(|state| Some((state, state.worker(**id)?)));
        known.is_some_and(|(state, worker)| state.attached(worker).all(|at| at.node == here))
    });
    (attached.len() as u64, only.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn o_drn_1_a_drain_ends_when_nothing_is_left_or_cuts_at_its_deadline() {
        let now = clock::now();
        let draining = Course::Serving.drain(now + WITHIN);
        let one = Work {
            calls: 1,
            ..Work::default()
        };
        assert_eq!(draining.look(now, one), draining);
        let done = draining.look(now, Work::default());
        assert_eq!(done, Course::Drained { cut: false });
        let cut = draining.look(now + WITHIN, one);
        assert_eq!(cut, Course::Drained { cut: true });
        assert_eq!(done.look(now + WITHIN, one), done, "it stays so");
    }

    #[tokio::test]
    async fn o_drn_1_the_last_deadline_counts_and_a_drained_node_has_none() {
        let now = clock::now();
        let draining = Course::Serving.drain(now + WITHIN);
        let sooner = draining.drain(now);
        assert_eq!(sooner, Course::Draining { by: now });
        let drained = Course::Drained { cut: true };
        assert_eq!(drained.drain(now + WITHIN), drained);
    }

    #[test]
    fn each_thing_that_others_would_miss_keeps_a_drain_going() {
        let keeps: [fn(&mut Work); 5] = [
            |work| work.calls = 1,
            |work| work.connections = 1,
            |work| work.relays = 1,
            |work| work.groups_led = 1,
            |work| work.sidecars_only_here = 1,
        ];
        for keep in keeps {
            let mut work = Work::default();
            keep(&mut work);
            assert!(!work.is_done(), "{work:?}");
        }
        let stays = Work {
            sessions: 1,
            tunnels: 1,
            sidecars: 1,
            ..Work::default()
        };
        assert!(stays.is_done());
    }
}
