//! Leaving without breaking a promise: the stages of a node's end, and who is told.
//!
//! ```text
//! Serving ──SIGTERM, or an operator──▶ Draining ──calls done, or grace over──▶ Stopped
//!    ▲ └────────────────second SIGTERM──────┼─────────────────────────────────▲ │
//!    └─────────────an operator──────────────┴────────────────────────────────────┘
//! ```

use pontoon_proto::peer::NodeState;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How far a process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Business as usual.
    Serving,
    /// Not ready, no new sessions, GOAWAY on every connection; calls finish.
    Draining,
    /// Whatever is left is cut.
    Stopped,
}

/// Tells a process's parts how far it is on its way out.
#[derive(Debug)]
pub struct Drain(watch::Sender<Stage>);

/// What a part holds to hear of it.
#[derive(Clone, Debug)]
pub struct Draining(watch::Receiver<Stage>);

impl Default for Drain {
    fn default() -> Self {
        Drain(watch::Sender::new(Stage::Serving))
    }
}

impl Drain {
    /// A listener for one part.
    pub fn listener(&self) -> Draining {
        Draining(self.0.subscribe())
    }

    /// Back to business: what has been told to go still goes, and what comes stays.
    pub fn resume(&self) {
        self.0.send_replace(Stage::Serving);
    }

    /// Moves on; a stage is never left backwards but by [`Drain::resume`].
    pub fn enter(&self, stage: Stage) {
        self.0.send_if_modified(|now| {
            let later = stage > *now;
            if later {
                *now = stage;
            }
            later
        });
    }
}

impl Draining {
    /// Where the process is now.
    pub fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    /// Returns once the process is at this stage, or further. A dropped [`Drain`] counts as stopped.
    pub async fn reached(&mut self, stage: Stage) {
        let _or_gone = self.0.wait_for(|now| *now >= stage).await;
    }

    /// Returns once the process serves again; false when it never will.
    pub async fn resumed(&mut self) -> bool {
        self.0.wait_for(|now| *now == Stage::Serving).await.is_ok()
    }
}

/// How to ask a node how it is, and to make it drain, from the outside.
#[derive(Clone)]
pub struct Switch {
    /// How it is.
    pub state: Arc<dyn Fn() -> NodeState + Send + Sync>,
    /// Drains within a span, or serves again; the text says why not.
    pub drain: Arc<dyn Fn(Option<Duration>) -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

impl Default for Switch {
    /// That of a process that is only starting.
    fn default() -> Self {
        Switch {
            state: Arc::new(NodeState::default),
            drain: Arc::new(|_| Err("this node is only starting: try again".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stage_is_never_left_backwards() {
        let drain = Drain::default();
        let mut part = drain.listener();
        drain.enter(Stage::Stopped);
        drain.enter(Stage::Draining);
        part.reached(Stage::Draining).await;
        assert_eq!(part.stage(), Stage::Stopped);
    }

    #[tokio::test]
    async fn a_process_that_serves_again_can_drain_again() {
        let drain = Drain::default();
        let mut part = drain.listener();
        drain.enter(Stage::Stopped);
        drain.resume();
        assert!(part.resumed().await);
        drain.enter(Stage::Draining);
        part.reached(Stage::Draining).await;
        assert_eq!(part.stage(), Stage::Draining);
        drop(drain);
        assert!(!part.resumed().await);
    }
}
