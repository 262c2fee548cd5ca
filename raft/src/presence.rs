//! A node's part in one directory: saying that it lives, noticing that it was given up, and, at the
//! leader, giving up those that are silent.

use crate::clock::{self, Instant};
use crate::cluster::Boots;
use crate::directory::Directory;
use crate::directory::command::{Command, Reply};
use crate::group::Group;
use pontoon_proto::id::{NodeBoot, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long one proposal of these loops may take before it is made anew.
const WITHIN: Duration = Duration::from_secs(5);

/// The pause after one that failed.
const RETRY: Duration = Duration::from_millis(200);

/// How often the leader looks for silent nodes.
pub(crate) const LOOK: Duration = Duration::from_millis(500);

/// A leader that did not run for so long hears now what it missed: its list starts anew.
const PAUSED: Duration = Duration::from_secs(2);

/// Keeps this node's present boot alive in a directory, for as long as the process lives.
pub(crate) async fn live(group: Group<Directory>, boots: Arc<Boots>) {
    let mut changed = group.changed();
    let mut present = boots.watch();
    loop {
        let at = *present.borrow_and_update();
        let generation = group.generation();
        if !announce(&group, &boots, at).await {
            continue;
        }
        loop {
            // Another incarnation may not know of this boot.
            if group.generation() != generation {
                break;
            }
            if group.state().boot_over(at) {
                boots.raise(at).await;
            }
            if boots.at() != at {
                break;
            }
            tokio::select! {
                applied = changed.changed() => if applied.is_err() { return },
                raised = present.changed() => if raised.is_err() { return },
            }
        }
    }
}

/// Proposes `NodeUp` until it stands; false when another boot must be announced.
async fn announce(group: &Group<Directory>, boots: &Boots, at: NodeBoot) -> bool {
    while boots.at() == at {
        match group
            .propose(Command::NodeUp { at }, WITHIN)
            .await
            .map(|proposed| proposed.reply)
        {
            Ok(Reply::Done) => return true,
            Ok(Reply::Stale) => boots.raise(at).await,
            Ok(_) | Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
    false
}

/// Gives up silent nodes, while this node leads.
pub(crate) struct Watch {
    looked: Instant,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            looked: clock::now(),
        }
    }

    /// Looks once.
    pub(crate) async fn look(
        &mut self,
        group: &Group<Directory>,
        known: &BTreeSet<NodeId>,
        lost_after: Duration,
    ) {
        let now = clock::now();
        if now.saturating_duration_since(self.looked) > PAUSED {
            group.core().forget_heard();
        }
        self.looked = now;
        // Without a quorum nobody can be told from a node that is merely on the other side.
        if !group.leads() || !group.connected() {
            return;
        }
        let silent = |node: &&NodeId| {
            group
                .silent_for(**node)
                .is_some_and(|span| span >= lost_after)
        };
        for node in known.iter().filter(silent) {
            if let Some(at) = stake(&group.state(), *node) {
                tracing::info!(group = %group.id(), %at, "a node is silent: it is given up");
                group.propose(Command::NodeLost { at }, WITHIN).await.ok();
            }
        }
    }
}

/// A life of a node in which it still has something in a directory.
fn stake(directory: &Directory, node: NodeId) -> Option<NodeBoot> {
    let attached = directory.attached_at(node).find_map(|worker| {
        let worker = directory.worker(worker)?;
        worker
            .attachments
            .iter()
            .map(|one| one.at)
            .filter(|at| at.node == node)
            .max()
    });
    let entered = || {
        directory.entered_at(node).find_map(|id| {
            let session = directory.session(id)?;
            session
                .entries
                .iter()
                .map(|entry| entry.at())
                .find(|at| at.node == node)
        })
    };
    let waiting = || {
        directory
            .waiting_at(node)
            .find_map(|id| Some(directory.session(id)?.waiting()?.at))
    };
    attached
        .or_else(entered)
        .or_else(waiting)
        .filter(|at| !directory.boot_over(*at))
}
