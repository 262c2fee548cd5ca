//! The audit trail of admin writes.

use super::Catalog;
use crate::machine::Clock;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How many admin writes are remembered. At 200 bytes each that is 200 KB in every snapshot; who
/// needs more follows the log output, where each of them is a line too.
pub(super) const AUDIT_MAX: usize = 1_000;

/// How many bytes of an actor's name are kept.
const ACTOR_MAX: usize = 256;

/// One admin write that changed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The log index of its entry.
    pub index: u64,
    /// The state clock at which it was applied.
    pub clock: Clock,
    /// Whose doing.
    pub actor: String,
    /// What was done to what; never a secret.
    pub what: String,
}

impl Catalog {
    /// Remembers an admin write, and forgets the oldest when there are too many.
    pub(super) fn log(&mut self, index: u64, actor: &str, what: String) {
        let mut end = actor.len().min(ACTOR_MAX);
        while !actor.is_char_boundary(end) {
            end -= 1;
        }
        let audit = Audit {
            index,
            clock: self.records.clock,
            actor: actor[..end].to_owned(),
            what,
        };
        self.records.audit.push_back(Arc::new(audit));
        while self.records.audit.len() > AUDIT_MAX {
            self.records.audit.pop_front();
        }
    }
}
