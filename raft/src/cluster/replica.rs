//! One group's replica, as the member that this node may be in it.
//!
//! What a folder has of a group decides: nothing yet, a log of this incarnation, one of an earlier
//! incarnation, or a damaged one. A log that can't be trusted is wiped and the replica comes back as
//! another member, which listens until it is promoted: a damaged log never votes (H-33).

use super::Boots;
use crate::catalog::command::{FirstVoter, Pace};
use crate::group::network::Transport;
use crate::group::{Birth, Group, GroupError, Setup, Timing};
use crate::identity::{Identity, IdentityError, Replica};
use crate::machine::Machine;
use crate::member::member;
use crate::store::snapshot::Snapshots;
use crate::store::{Store, StoreError};
use crate::tasks::blocking;
use arc_swap::ArcSwap;
use pontoon_proto::id::{GroupId, NodeId};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

/// Entries between two snapshots: a replay of as many takes well under a second.
pub(super) const SNAPSHOT_EVERY: u64 = 20_000;

/// How often one life of a node may begin a group's log anew: the member number has room for so many.
/// A disk that damages so many logs is to be replaced.
const DAMAGES_MAX: u32 = 255;

/// A group as the catalog wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) id: GroupId,
    pub(super) generation: u64,
    pub(super) voters: Vec<FirstVoter>,
    /// It goes on from its first voter's replica.
    pub(super) seeded: bool,
    /// Who stands for election first, when it is born.
    pub(super) stands_first: Option<NodeId>,
    pub(super) pace: Pace,
}

/// Starts replicas.
pub(super) struct Keeper {
    pub(super) me: NodeId,
    pub(super) life: u32,
    pub(super) identity: Arc<Identity>,
    pub(super) boots: Arc<Boots>,
    pub(super) store: Store,
    /// Entries between two snapshots.
    pub(super) snapshot_every: u64,
    pub(super) cluster_id: [u8; 16],
    /// Fixed by configuration.
    pub(super) timing: Option<Timing>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) data_dir: PathBuf,
    pub(super) roster: Arc<ArcSwap<Vec<NodeId>>>,
    pub(super) format: Arc<AtomicU16>,
}

/// What is found of a group's log before it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Log,
    Damaged,
}

impl Keeper {
    /// Starts a group's replica.
    pub(super) async fn start<M: Machine>(
        &self,
        wanted: &Wanted,
        empty: M,
    ) -> Result<Group<M>, GroupError> {
        let setup = self.prepare(wanted).await?;
        let group = Group::start(setup, empty).await?;
        self.started(wanted, group.clone()).await;
        Ok(group)
    }

    /// Stops a group's replica and starts it again, as the catalog wants it now.
    pub(super) async fn restart<M: Machine>(
        &self,
        wanted: &Wanted,
        group: &Group<M>,
    ) -> Result<(), GroupError> {
        group.pause().await;
        let setup = self.prepare(wanted).await?;
        group.restart(setup).await?;
        self.started(wanted, group.clone()).await;
        Ok(())
    }

    /// Writes down that this folder has something of the group, once it has: from then on an empty
    /// log is a lost one.
    async fn started<M: Machine>(&self, wanted: &Wanted, group: Group<M>) {
        let identity = self.identity.clone();
        let (id, generation) = (wanted.id, wanted.generation);
        crate::tasks::spawn(async move {
            if !group.holds_data().await || group.generation() != generation {
                return;
            }
            let damages = identity.replica(id).map_or(0, |known| known.damages);
            let replica = Replica {
                generation,
                damages,
                holds: true,
            };
            let written = write(identity, id, replica).await;
            if let Err(error) = written {
                tracing::error!(group = %id, %error, "what this folder holds can't be written down");
            }
        });
    }

    /// Decides which member this node is, and wipes what can't be trusted.
    async fn prepare(&self, wanted: &Wanted) -> Result<Setup, GroupError> {
        let id = wanted.id;
        let known = self.identity.replica(id);
        if let Some(known) = known
            && known.generation > wanted.generation
        {
            // The catalog replayed to before the recovery; it will say so again.
            return Err(GroupError::Superseded { group: id });
        }
        let older = known.is_some_and(|known| known.generation < wanted.generation);
        let first = wanted.voters.iter().find(|voter| voter.node == self.me);
        let first = first.is_some_and(|voter| voter.life == self.life);
        let seed = wanted.seeded && first;
        let found = self.look(id).await?;
        let holds = known.is_some_and(|known| known.holds);
        let lost = found == Found::Nothing && holds;
        let mut damages = known.map_or(0, |known| known.damages);
        let keep = match found {
            Found::Damaged => false,
            _ if lost => false,
            _ if older => seed,
            _ => true,
        };
        if !keep {
            damages += 1;
            if damages > DAMAGES_MAX {
                return Err(GroupError::WornOut { group: id });
            }
            tracing::warn!(
                group = %id, ?found, older,
                "the log can't be gone on with: this replica begins anew and listens until it has \
                 caught up"
            );
            let replica = Replica {
                generation: wanted.generation,
                damages,
                holds: false,
            };
            // A crash in between must be seen again. A damaged log still is after the record, and might
            // look like no log at all before it; one of an earlier incarnation would look like one of
            // this, and is told by the record of before.
            if older {
                self.wipe(id).await?;
                self.write(id, replica).await?;
            } else {
                self.write(id, replica).await?;
                self.wipe(id).await?;
            }
        }
        let birth = if seed && keep && older {
            Birth::Seed
        } else if first && damages == 0 && keep && (!wanted.seeded || !holds) {
            Birth::First {
                voters: wanted
                    .voters
                    .iter()
                    .map(|voter| member(voter.node, voter.life, 0))
                    .collect(),
                stands_first: wanted.stands_first == Some(self.me),
            }
        } else {
            Birth::Later
        };
        Ok(self.setup(wanted, damages, birth))
    }

    fn setup(&self, wanted: &Wanted, damages: u32, birth: Birth) -> Setup {
        Setup {
            id: wanted.id,
            generation: wanted.generation,
            cluster: self.cluster_id,
            at: self.boots.watch(),
            member: member(self.me, self.life, damages),
            transport: self.transport.clone(),
            timing: self.timing.unwrap_or(Timing::of_pace(wanted.pace)),
            pace: wanted.pace,
            format: self.format.clone(),
            snapshot_every: self.snapshot_every,
            data_dir: self.data_dir.clone(),
            store: self.store.clone(),
            birth,
            roster: self.roster.clone(),
        }
    }

    /// Looks at a group's log and snapshot without starting anything.
    async fn look(&self, id: GroupId) -> Result<Found, GroupError> {
        let recovered = match self.store.log(id).await {
            Ok((_, recovered)) => recovered,
            Err(StoreError::Damaged { index, why, .. }) => {
                tracing::error!(group = %id, index, why, "the log is damaged");
                return Ok(Found::Damaged);
            }
            Err(error) => return Err(error.into()),
        };
        let nothing =
            recovered.count == 0 && recovered.vote.is_none() && recovered.purged.is_none();
        let data_dir = self.data_dir.clone();
        let purged = recovered.purged.is_some().then_some(recovered.first);
        let whole = blocking(move || Snapshots::open(&data_dir, id)?.reaches(purged)).await;
        match whole {
            Ok(true) if nothing => Ok(Found::Nothing),
            Ok(true) => Ok(Found::Log),
            Ok(false) => {
                tracing::error!(group = %id, "the snapshot does not reach to where the log begins");
                Ok(Found::Damaged)
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                tracing::error!(group = %id, %error, "the snapshot is damaged");
                Ok(Found::Damaged)
            }
            Err(source) => Err(GroupError::Files { group: id, source }),
        }
    }

    /// Removes all that this folder has of a group: the log first, so that a snapshot without a log
    /// is the worst that a crash leaves, which is no promise to anybody.
    pub(super) async fn wipe(&self, id: GroupId) -> Result<(), GroupError> {
        self.store.wipe(id).await?;
        let data_dir = self.data_dir.clone();
        blocking(move || Snapshots::open(&data_dir, id)?.remove())
            .await
            .map_err(|source| GroupError::Files { group: id, source })
    }

    async fn write(&self, id: GroupId, replica: Replica) -> Result<(), GroupError> {
        let written = write(self.identity.clone(), id, replica).await;
        written.map_err(|error| GroupError::Files {
            group: id,
            source: std::io::Error::other(error),
        })
    }
}

async fn write(
    identity: Arc<Identity>,
    id: GroupId,
    replica: Replica,
) -> Result<(), IdentityError> {
    let dir = identity.dir().to_owned();
    let written = blocking(move || Ok(identity.set_replica(id, replica))).await;
    written.unwrap_or_else(|source| Err(IdentityError::Files { dir, source }))
}
