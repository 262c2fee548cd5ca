//! What must be true of a history: one file, one promise.
//!
//! Each promise is a function of values, and each has a history that it must refuse among its tests:
//! a checker that has never said no has shown nothing.

mod balance;
mod gap;
mod linear;
mod logged;
mod not_found;
mod not_lost;
mod not_resurrected;
mod one_worker;
mod remembered;
mod resources;
mod told;
mod vacuous;

pub use balance::balance;
pub use gap::{Gaps, gap, gaps};
pub use linear::linear;
pub use logged::logged;
pub use not_found::not_found;
pub use not_lost::not_lost;
pub use not_resurrected::not_resurrected;
pub use one_worker::one_worker;
pub use remembered::remembered;
pub use resources::{Resources, peak, resources};
pub use told::told;
pub use vacuous::{Counted, vacuous};

/// What a checker says: figures, or what broke the promise.
pub type Verdict = Result<String, String>;

/// The first of these, and how many more there are.
fn refuse(wrong: &[String]) -> Result<(), String> {
    match wrong {
        [] => Ok(()),
        [one] => Err(one.clone()),
        [first, rest @ ..] => Err(format!("{first} (and {} more)", rest.len())),
    }
}

#[cfg(test)]
pub(crate) mod example {
    //! Histories for the checkers' tests.

    use crate::history::{History, Hit, Kind, Op, Outcome};

    pub(crate) fn op(session: &str, kind: Kind, start: u64, outcome: Outcome) -> Op {
        Op {
            client: 1,
            session: session.to_owned(),
            kind,
            node: "a-1".to_owned(),
            start,
            end: start + 10,
            least: 0,
            most: 100,
            outcome,
        }
    }

    pub(crate) fn ok(worker: &str, sum: i64) -> Outcome {
        Outcome::Ok {
            worker: worker.to_owned(),
            sum,
        }
    }

    pub(crate) fn failed(code: i32) -> Outcome {
        Outcome::Failed {
            code,
            text: "so".to_owned(),
        }
    }

    pub(crate) fn history(ops: Vec<Op>) -> History {
        History {
            ops,
            hits: vec![Hit {
                at: 100,
                until: 200,
                what: "kill".to_owned(),
                evidence: "seen".to_owned(),
            }],
            lost: Vec::new(),
            window: 1_000_000,
        }
    }
}
