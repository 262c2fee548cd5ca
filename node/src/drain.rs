//! Leaving without breaking a promise: the stages of a node's end, and who is told.
//!
//! ```text
//! Serving ──SIGTERM──▶ Draining ──calls done, or grace over──▶ Stopped
//!     └───────────────────second SIGTERM────────────────────────▲
//! ```

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

    /// Moves on; a stage is never left backwards.
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
}
