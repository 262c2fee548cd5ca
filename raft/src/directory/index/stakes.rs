//! What each life of a node has in a directory, so that its end is found without a scan.
//!
//! One set per life and kind: an entered session costs its 16 bytes and a share of a tree's node. There
//! are as many lives as nodes, and a few that are being swept.

use crate::directory::dense;
use imbl::{OrdMap, OrdSet};
use pontoon_proto::id::{NodeBoot, NodeId, RequestId, WorkerId};

/// Something that a life has here. Workers are swept first, then waiting opens, then sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::directory) enum Stake {
    /// A worker is attached.
    Attached(WorkerId),
    /// An open waits.
    Waiting(RequestId),
    /// A session is entered.
    Inside(RequestId),
}

/// Stakes by life.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::directory) struct Stakes {
    lives: OrdMap<(NodeId, u64), Staked>,
}

/// The stakes of one life; never without any.
#[derive(Clone, Debug, Default, PartialEq)]
struct Staked {
    attached: OrdSet<WorkerId>,
    waiting: OrdSet<RequestId>,
    inside: OrdSet<RequestId>,
}

impl Staked {
    fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.waiting.is_empty() && self.inside.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = Stake> + '_ {
        let attached = self.attached.iter().copied().map(Stake::Attached);
        let waiting = self.waiting.iter().copied().map(Stake::Waiting);
        let inside = self.inside.iter().copied().map(Stake::Inside);
        attached.chain(waiting).chain(inside)
    }
}

impl Stakes {
    /// Adds the opens that wait for a life, and the sessions that are entered in it.
    pub(super) fn fill(&mut self, at: NodeBoot, waiting: Vec<RequestId>, inside: Vec<RequestId>) {
        let staked = self.lives.entry((at.node, at.boot)).or_default();
        staked.waiting = dense::set(waiting);
        staked.inside = dense::set(inside);
    }

    pub(super) fn insert(&mut self, at: NodeBoot, stake: Stake) {
        let staked = self.lives.entry((at.node, at.boot)).or_default();
        match stake {
            Stake::Attached(id) => staked.attached.insert(id).is_none(),
            Stake::Waiting(id) => staked.waiting.insert(id).is_none(),
            Stake::Inside(id) => staked.inside.insert(id).is_none(),
        };
    }

    pub(super) fn remove(&mut self, at: NodeBoot, stake: Stake) {
        let key = (at.node, at.boot);
        let Some(staked) = self.lives.get_mut(&key) else {
            return;
        };
        match stake {
            Stake::Attached(id) => staked.attached.remove(&id).is_some(),
            Stake::Waiting(id) => staked.waiting.remove(&id).is_some(),
            Stake::Inside(id) => staked.inside.remove(&id).is_some(),
        };
        if staked.is_empty() {
            self.lives.remove(&key);
        }
    }

    /// Something that this boot of a node, or one before it, has here: of the oldest boot first.
    pub(in crate::directory) fn first(&self, at: NodeBoot) -> Option<Stake> {
        let mut lives = self.lives.range((at.node, 0)..=(at.node, at.boot));
        lives.find_map(|(_, staked)| staked.iter().next())
    }

    /// What a node has here in boots later than this one.
    pub(in crate::directory) fn after(&self, over: NodeBoot) -> impl Iterator<Item = Stake> + '_ {
        let boot = over.boot.saturating_add(1);
        let lives = self.lives.range((over.node, boot)..=(over.node, u64::MAX));
        lives.flat_map(|(_, staked)| staked.iter())
    }
}
