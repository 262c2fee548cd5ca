//! Who is in a group, as its leader sees it, and how the leader changes that.

use super::core::Core;
use super::types::{LeaderId, LogId, TypeConfig};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, EmptyNode};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a change may take before it is looked at anew.
const WITHIN: Duration = Duration::from_secs(5);

/// A membership, and how far its members are, as their leader sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    /// One set; two while voters change, and then a majority of both is needed.
    pub(crate) voters: Vec<BTreeSet<u64>>,
    /// Who only listens.
    pub(crate) learners: BTreeSet<u64>,
    /// The last entry that each member is known to have.
    pub(crate) matched: BTreeMap<u64, u64>,
    /// The leader's last entry.
    pub(crate) last: u64,
    /// Whether this membership is committed: until then no other may follow it.
    pub(crate) committed: bool,
    guard: Guard,
}

/// What a change is conditional on: this membership, under this leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guard {
    leader: LeaderId,
    at: Option<LogId>,
}

/// One change of a membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Another set of voters; who votes no more goes on listening.
    Voters(BTreeSet<u64>),
    /// A member that listens.
    Learner(u64),
    /// A learner goes.
    Drop(u64),
    /// Finishes a change of voters that a leader before had begun.
    Settle,
}

impl Core {
    /// The membership; none when this node does not lead.
    pub(crate) fn members(&self) -> Option<Members> {
        let leader = *self.raft.as_leader().ok()?.leader_id();
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let stored = &server.membership_config;
        let membership = stored.membership();
        let last = metrics.last_log_index.unwrap_or(0);
        let mut matched: BTreeMap<u64, u64> = metrics
            .replication
            .iter()
            .flatten()
            .map(|(member, id)| (*member, id.map_or(0, |id| id.index)))
            .collect();
        matched.insert(self.member, last);
        Some(Members {
            voters: membership.get_joint_config().clone(),
            learners: membership.learner_ids().collect(),
            matched,
            last,
            committed: server.committed_membership_config.log_id() == stored.log_id(),
            guard: Guard {
                leader,
                at: *stored.log_id(),
            },
        })
    }

    /// Makes a change, if this node still leads and the membership is still the one it was made for
    /// (H-30).
    pub(crate) async fn change(&self, members: &Members, change: Change) -> Result<(), String> {
        let conditions: [Precondition<TypeConfig>; 2] = [
            Precondition::CommittedLeaderId {
                committed_leader_id: members.guard.leader,
            },
            Precondition::LastMembershipLogId {
                last_membership_log_id: members.guard.at,
            },
        ];
        let change: ChangeMembers<u64, EmptyNode> = match change {
            Change::Voters(voters) => ChangeMembers::ReplaceAllVoters(voters),
            Change::Learner(member) => ChangeMembers::AddNodes([(member, EmptyNode {})].into()),
            Change::Drop(member) => ChangeMembers::RemoveNodes([member].into()),
            Change::Settle => ChangeMembers::AddVoterIds(BTreeSet::new()),
        };
        let changing = self.raft.change_membership_if(change, true, conditions);
        match tokio::time::timeout(WITHIN, changing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::PreconditionFailed(_)))) => {
                Err("the group has changed meanwhile".into())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no quorum in time".into()),
        }
    }

    /// Asks a voter to lead instead of this node.
    pub(crate) async fn hand_over(&self, to: u64) {
        self.raft.trigger().transfer_leader(to).await.ok();
    }
}
