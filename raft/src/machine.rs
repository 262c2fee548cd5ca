//! What a replicated state machine is.
//!
//! Two implement it: [`crate::directory::Directory`], one per region, and
//! [`crate::catalog::Catalog`], one per cluster. The consensus glue in [`crate::group`] knows only
//! this trait. `apply` is pure: the same commands at the same stamps give the same state and
//! replies on every replica, hash for hash.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::fmt::Debug;
use std::time::Duration;

/// The replicated state clock, in milliseconds since the group was born.
///
/// It is data, not a wall clock: a leader stamps each entry with the clock as it found it at its
/// election plus the monotonic time it has led since, and no entry moves it by more than
/// [`Clock::STEP_MAX`]. So it stands still while nobody leads, and a clock jump means nothing.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Clock(pub u64);

impl Clock {
    /// The furthest that one entry may move the clock.
    pub const STEP_MAX: Duration = Duration::from_secs(2);

    /// The clock this much later.
    pub fn after(self, span: Duration) -> Clock {
        Clock(self.0.saturating_add(span.as_millis() as u64))
    }

    /// How long ago `earlier` was; zero when it is still to come.
    pub fn since(self, earlier: Clock) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The clock that an entry with this stamp leaves behind: never back, never too far ahead.
    pub fn advanced_to(self, stamp: Clock) -> Clock {
        Clock(stamp.0.clamp(self.0, self.after(Self::STEP_MAX).0))
    }
}

/// A pure, synchronous, replicated state machine.
///
/// `Clone` must be cheap (persistent maps): a clone is published to lock-free readers after every
/// applied batch, and is what snapshots are written from.
pub trait Machine: Clone + Debug + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// What is proposed. Variants are only ever appended: the codec is positional.
    type Command: Clone + Debug + Send + Sync + Serialize + DeserializeOwned + 'static;
    /// What the proposer is told.
    type Reply: Clone + Debug + Send + Sync + Serialize + DeserializeOwned + 'static;
    /// A hint for nodes that something changed. Replay emits none that are acted on.
    type Effect: Clone + Debug + Send + Sync + 'static;

    /// The first byte of this machine's records, so that a directory's never decodes as a catalog's.
    const KIND: u8;

    /// The state clock as of the last applied entry.
    fn clock(&self) -> Clock;

    /// Says the format of the entry whose commands are applied next: where a newer build means
    /// something else by the same command, it goes by this.
    fn governed_by(&mut self, _format: u16) {}

    /// Applies one command of the entry at `index`, after the clock has moved to `now`.
    ///
    /// Several commands of one entry share `index`. A directory derives binding indices from it.
    fn apply(
        &mut self,
        index: u64,
        now: Clock,
        command: Self::Command,
        effects: &mut Vec<Self::Effect>,
    ) -> Self::Reply;

    /// When time alone will next change something; the leader proposes [`Machine::tick`] then.
    fn next_due(&self) -> Option<Clock>;

    /// The command that lets time act.
    fn tick() -> Self::Command;

    /// Checks every invariant; the error names the broken one. Used by tests after each step, and
    /// by operators through the state hash's verb.
    fn check(&self) -> Result<(), String>;

    /// The state hash: SHA-256 over the logical records in key order.
    ///
    /// Two replicas that applied the same log have the same one, whatever their memory layout and
    /// whether they came by the log or by a snapshot. It walks the whole state (about a second for a
    /// million sessions), so it is for tests and for operators, not for the apply path.
    fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        // Writing into a hasher can't fail, and the records have no unserializable part; should
        // one ever appear, the bytes written so far still differ only where the states do.
        let _ = bincode::serialize_into(&mut hasher, self);
        hasher.finalize().into()
    }
}

/// The value as it comes out of a snapshot.
#[cfg(test)]
pub(crate) fn reborn<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let mut bytes = Vec::new();
    crate::codec::write_state(value, &mut bytes).expect("encodes");
    crate::codec::read_state(&bytes[..]).expect("decodes")
}

/// Every record that differs from this one in one bit of its written form, as far as such a form can
/// be read.
#[cfg(test)]
pub(crate) fn flipped<T>(record: &T) -> Vec<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let bytes = bincode::serialize(record).expect("encodes");
    let same: T = bincode::deserialize(&bytes).expect("decodes");
    assert_eq!(same, *record, "no field is left out of what is written");
    let flip = |bit: usize| {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bincode::deserialize(&bytes).ok()
    };
    (0..bytes.len() * 8).filter_map(flip).collect()
}
