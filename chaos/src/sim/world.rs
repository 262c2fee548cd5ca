//! What all parts of one run share: its trace, its counters, its first failure.

use super::Bug;
use super::random::Random;
use pontoon_raft::clock::{self, Instant};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often each thing happened in a run.
pub(super) type Cover = BTreeMap<&'static str, u64>;

/// What all parts of one run share.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) bug: Option<Bug>,
    start: Instant,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    trace: String,
    cover: Cover,
    failure: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>) -> World {
        World {
            random: Random::new(seed),
            bug,
            start: clock::now(),
            told: Mutex::default(),
        }
    }

    /// How long the run has taken, by its own time.
    pub(super) fn age(&self) -> Duration {
        clock::now().saturating_duration_since(self.start)
    }

    /// Adds a line to the trace.
    pub(super) fn tell(&self, what: fmt::Arguments<'_>) {
        let age = self.age();
        let mut told = self.told();
        writeln!(told.trace, "{:>12} {what}", age.as_micros()).ok();
    }

    /// Counts one more.
    pub(super) fn count(&self, what: &'static str) {
        *self.told().cover.entry(what).or_default() += 1;
    }

    /// A check failed; the first one counts.
    pub(super) fn fail(&self, check: &'static str, what: fmt::Arguments<'_>) {
        self.tell(format_args!("FAILED {check}: {what}"));
        let mut told = self.told();
        told.failure
            .get_or_insert_with(|| format!("{check}: {what}"));
    }

    pub(super) fn failed(&self) -> bool {
        self.told().failure.is_some()
    }

    /// The trace, the counters, and the failure, if there was one.
    pub(super) fn take(&self) -> (String, Cover, Option<String>) {
        let told = std::mem::take(&mut *self.told());
        (told.trace, told.cover, told.failure)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spawns a task of the world itself: no process that dies or stands still.
#[expect(clippy::disallowed_methods, reason = "it ends with the run's runtime")]
pub(super) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(future)
}
