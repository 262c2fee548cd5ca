//! How long a caller waits for a group that gives no answer.
//!
//! A group between two leaders is back in a moment, and whoever is told "unavailable" meanwhile has
//! lost a call for nothing; a node that is cut off should say so soon. The two can't be told apart at
//! first, so what counts is since when this node has had no word of the group that a quorum confirmed.

use super::{Ask, Sessions};
use pontoon_proto::fault::Fault;
use pontoon_proto::id::RegionId;
use pontoon_raft::directory::Directory;
use pontoon_raft::group::Group;
use pontoon_raft::machine::Machine;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A group of which nothing was heard for so long is not merely electing a leader.
///
/// A failover across the world takes 2 s and two round trips; on a machine that is busy with the loss
/// itself it may take three times as long. The last word before it may be a second old.
const OUTAGE: Duration = Duration::from_secs(7);

/// How long a question to such a group takes all the same: it may just be back.
const LAST_TRY: Duration = Duration::from_secs(1);

/// The pause between two questions.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// How long the next question may take.
fn patience(silence: Duration, left: Duration) -> Duration {
    OUTAGE.saturating_sub(silence).min(left).max(LAST_TRY)
}

impl Sessions {
    /// Since when a quorum of the group has confirmed no word of this node.
    fn silence<M: Machine>(&self, group: &Group<M>) -> Duration {
        let since_start = || self.0.started.elapsed();
        group.beat_age().unwrap_or_else(since_start)
    }

    /// How long the next question to a group may take, for a caller with this deadline.
    pub(super) fn patience<M: Machine>(&self, group: &Group<M>, deadline: Instant) -> Duration {
        let left = deadline.saturating_duration_since(crate::clock::now());
        patience(self.silence(group), left)
    }

    /// Whether a question that got no answer is worth another one, by a caller with this deadline.
    pub(super) fn may_ask_again<M: Machine>(&self, group: &Group<M>, deadline: Instant) -> bool {
        self.silence(group) < OUTAGE && crate::clock::now() < deadline
    }

    /// Whether a group that takes opens may be back in a moment. A node that has just started has
    /// none yet.
    pub(super) fn may_come_back(&self, ask: &Ask) -> bool {
        let regions = self.0.cluster.regions();
        let soon = |(_, group): &(_, Group<_>)| self.may_ask_again(group, ask.deadline);
        self.0.started.elapsed() < OUTAGE || regions.iter().any(soon)
    }

    /// A region's group, once its replica here has started: a node that has just come takes calls
    /// before it has read all its logs.
    ///
    /// # Errors
    ///
    /// `DirectoryUnavailable` when it does not start for longer than an outage is waited out.
    pub(super) async fn comes_up(
        &self,
        region: RegionId,
        deadline: Instant,
    ) -> Result<Group<Directory>, Fault> {
        let until = deadline.min(crate::clock::now() + OUTAGE);
        loop {
            if let Some(group) = self.0.cluster.region(region) {
                return Ok(group);
            }
            if crate::clock::now() >= until {
                return Err(Fault::DirectoryUnavailable);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The state of a group as of now or later.
    ///
    /// # Errors
    ///
    /// `DirectoryUnavailable` when the group has been out of reach for longer than an election takes,
    /// or the caller's time is over.
    pub(super) async fn certain<M: Machine>(
        &self,
        group: &Group<M>,
        deadline: Instant,
    ) -> Result<Arc<M>, Fault> {
        loop {
            if let Ok(state) = group.read(self.patience(group, deadline)).await {
                return Ok(state);
            }
            if !self.may_ask_again(group, deadline) {
                return Err(Fault::DirectoryUnavailable);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_err_11_an_election_is_waited_out_and_a_node_that_is_cut_off_says_so_soon() {
        let seconds = Duration::from_secs;
        let minute = seconds(60);
        // Just now a quorum answered: the leader may have died since.
        assert!(patience(seconds(1), minute) >= seconds(6));
        // What is left of an outage, and no more than the call has left.
        assert_eq!(patience(seconds(4), minute), seconds(3));
        assert_eq!(patience(seconds(1), seconds(2)), seconds(2));
        // Cut off for long, and a call at its end: one short question.
        assert_eq!(patience(minute, minute), LAST_TRY);
        assert_eq!(patience(seconds(1), Duration::ZERO), LAST_TRY);
    }
}
