//! Waiting for a state, with a bound. No test sleeps to let something happen.

use pontoon::clock;
use std::time::Duration;

/// How often a state is looked at: short against every bound, and cheap even when a look starts a
/// process.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` finds something; panics with `what` when it did not within the bound.
#[track_caller]
pub fn until<T>(bound: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    match within(bound, &mut look) {
        Some(found) => found,
        None => panic!("waited {bound:?} in vain: {what}"),
    }
}

/// As [`until`], for those who go on without.
pub fn within<T>(bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = clock::now() + bound;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if clock::now() >= deadline {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Holds up whoever calls this: what a slow link does, and no way to let something happen.
pub fn hold_up(span: Duration) {
    std::thread::sleep(span);
}
