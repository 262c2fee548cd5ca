//! A state machine under the consensus library: apply, publish, snapshot, restore.
//!
//! State lives in memory only; a start rebuilds it from the last snapshot and the log. A clone is
//! published after every applied batch, before anybody is answered, so that whoever has an answer
//! finds its effect in the local replica. What is published is in [`published`].

mod published;
#[cfg(test)]
mod tests;

pub(crate) use published::{Published, Pulse};

use super::log::invalid;
use super::types::{self, LogId, Payload, Replies, SnapshotMeta, StoredMembership, TypeConfig};
use crate::codec::{self, Corrupt, Role};
use crate::machine::{Clock, Machine};
use crate::store::snapshot::{SnapshotFile, SnapshotReader, SnapshotWriter, Snapshots};
use crate::tasks::blocking;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{OptionalSend, Snapshot};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

/// How many entries are applied before their state is published and their proposers are answered.
const PUBLISH_EVERY: usize = 64;

/// What one entry carries.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// The meaning of commands; see [`FORMAT`].
    pub(crate) format: u16,
    /// The leader's state clock.
    pub(crate) stamp: Clock,
    /// Encoded commands, in order.
    pub(crate) commands: Vec<Vec<u8>>,
}

/// The newest entry format that this build applies. What leaders write is a setting of the catalog,
/// which rises only when every node's build knows it. 2: the catalog has limits. 3: it has the routes of
/// versions, its audit trail has what operators did to processes, and tenants take turns in a directory's
/// queues. 4: the catalog has functions that several tenants call, and a worker whose last open got no
/// tunnel comes last, and first members that were removed come back in a further life.
pub const FORMAT: u16 = 4;

/// Writes a view of a state; seconds for a large one, so it is called where that hurts nobody.
type WriteState = Box<dyn FnOnce(&mut SnapshotWriter) -> io::Result<()> + Send + Sync>;

/// A typed state machine behind an untyped face, so that the library is built once for all of them.
pub(crate) trait Applier: Send + Sync + 'static {
    /// Applies one entry. `fresh`: its effects may be acted on. Answers only when asked to.
    fn apply(
        &mut self,
        index: u64,
        record: &Bytes,
        fresh: bool,
        answer: bool,
    ) -> Result<Replies, Corrupt>;
    /// Shows the state to readers, unless they have seen a newer one. `replaying`: more entries
    /// follow that were in the log at the start.
    fn publish(&mut self, index: u64, replaying: bool);
    /// The first byte of this machine's records.
    fn kind(&self) -> u8;
    /// Takes a view of the present state, to be encoded elsewhere.
    fn view(&self) -> WriteState;
    /// Replaces the state by one that is read from a file, if all of it is right.
    fn restore(&mut self, state: SnapshotReader) -> io::Result<()>;
}

/// The one [`Applier`].
pub(crate) struct Typed<M: Machine> {
    machine: M,
    effects: Vec<M::Effect>,
    fresh: Vec<M::Effect>,
    /// Something changed that readers have not seen, and of which no effect tells.
    silent: bool,
    published: Arc<Published<M>>,
}

impl<M: Machine> Typed<M> {
    pub(crate) fn new(machine: M, published: Arc<Published<M>>) -> Self {
        Self {
            machine,
            effects: Vec::new(),
            fresh: Vec::new(),
            silent: false,
            published,
        }
    }
}

impl<M: Machine> Applier for Typed<M> {
    fn apply(
        &mut self,
        index: u64,
        record: &Bytes,
        fresh: bool,
        answer: bool,
    ) -> Result<Replies, Corrupt> {
        let (_, body) = codec::unframe(Role::Batch, M::KIND, record)?;
        let batch: Batch = codec::decode(&body)?;
        if !(1..=FORMAT).contains(&batch.format) {
            return Err(Corrupt::Version(batch.format.min(255) as u8));
        }
        let now = self.machine.clock().advanced_to(batch.stamp);
        self.machine.governed_by(batch.format);
        let mut replies = Replies::default();
        for command in &batch.commands {
            let command = codec::decode(command)?;
            let reply = self.machine.apply(index, now, command, &mut self.effects);
            if answer {
                replies.0.push(codec::encode(&reply)?);
            }
        }
        let seen = index <= self.published.seen();
        if fresh && !seen {
            self.fresh.append(&mut self.effects);
        }
        self.silent |= !fresh && !seen;
        self.effects.clear();
        Ok(replies)
    }

    fn publish(&mut self, index: u64, replaying: bool) {
        let published = &self.published;
        if index < published.seen() {
            return;
        }
        published.show(&self.machine, index);
        for effect in self.fresh.drain(..) {
            // Nobody listening is fine: effects are hints.
            published.effects.send(effect).ok();
        }
        if self.silent && !replaying {
            self.silent = false;
            published.restored.send_modify(|count| *count += 1);
        }
    }

    fn kind(&self) -> u8 {
        M::KIND
    }

    fn view(&self) -> WriteState {
        let machine = self.machine.clone();
        Box::new(move |writer| codec::write_state(&machine, writer))
    }

    fn restore(&mut self, mut state: SnapshotReader) -> io::Result<()> {
        if state.machine() != M::KIND {
            return Err(invalid("the snapshot is of another kind of machine"));
        }
        let machine = codec::read_state(&mut state)?;
        state.finish()?;
        self.machine = machine;
        self.silent = true;
        Ok(())
    }
}

/// What the consensus library drives.
pub(crate) struct Replica {
    /// None while a state is being read elsewhere, and after that has failed.
    applier: Option<Box<dyn Applier>>,
    snapshots: Snapshots,
    last: Option<LogId>,
    membership: StoredMembership,
    /// Effects of entries that were in the log at the start are old news (H-18), however late
    /// they turn out to be committed.
    replayed_upto: Option<u64>,
}

impl Replica {
    pub(crate) fn new(
        applier: Box<dyn Applier>,
        snapshots: Snapshots,
        replayed_upto: Option<u64>,
    ) -> Self {
        Self {
            applier: Some(applier),
            snapshots,
            last: None,
            membership: StoredMembership::default(),
            replayed_upto,
        }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
        }
    }
}

/// Whether entries follow this one that were in the log at the start.
fn replaying(upto: Option<u64>, index: u64) -> bool {
    upto.is_some_and(|upto| index < upto)
}

fn gone() -> io::Error {
    io::Error::other("the state was lost when a snapshot could not be read")
}

impl RaftStateMachine<TypeConfig> for Replica {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let applier = self.applier.as_mut().ok_or_else(gone)?;
        while let Some(next) = entries.next().await {
            let mut next = Some(next);
            for _ in 0..PUBLISH_EVERY {
                let Some(item) = next
                    .take()
                    .or_else(|| entries.next().now_or_never().flatten())
                else {
                    break;
                };
                let (entry, responder) = item?;
                let id = entry.log_id();
                let fresh = self.replayed_upto.is_none_or(|upto| id.index > upto);
                let replies = match entry.payload {
                    Payload::Blank => Replies::default(),
                    Payload::Normal(record) => applier
                        .apply(id.index, &record.0, fresh, responder.is_some())
                        .map_err(|why| {
                            invalid(format!("entry {} can't be applied: {why}", id.index))
                        })?,
                    Payload::Membership(membership) => {
                        self.membership = StoredMembership::new(Some(id), membership);
                        Replies::default()
                    }
                };
                self.last = Some(id);
                answers.extend(responder.map(|responder| (responder, replies)));
            }
            if let Some(last) = self.last {
                applier.publish(last.index, replaying(self.replayed_upto, last.index));
            }
            for (responder, replies) in answers.drain(..) {
                responder.send(replies);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let applier = self.applier.as_ref();
        Builder {
            meta: self.meta(),
            view: applier.map(|applier| (applier.kind(), applier.view())),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let snapshots = self.snapshots.clone();
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let replaying = replaying(self.replayed_upto, index);
        let mut applier = self.applier.take().ok_or_else(gone)?;
        // Reading a million sessions takes seconds, and letting go of those of the state before does
        // too: nothing for a thread of the runtime.
        let reading = blocking(move || {
            let (_, state) = snapshot.open()?;
            applier.restore(state)?;
            snapshots.place(index, snapshot)?;
            applier.publish(index, replaying);
            Ok(applier)
        });
        self.applier = Some(reading.await?);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot1>, io::Error> {
        let Some((meta, snapshot)) = self.snapshots.current()? else {
            return Ok(None);
        };
        Ok(Some(Snapshot {
            meta: types::read_meta(&meta).map_err(invalid)?,
            snapshot,
        }))
    }
}

type Snapshot1 = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Writes a view of a state to disk.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    view: Option<(u8, WriteState)>,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot1, io::Error> {
        let (machine, view) = self
            .view
            .take()
            .ok_or_else(|| io::Error::other("a view is built once"))?;
        let meta = self.meta.clone();
        let snapshots = self.snapshots.clone();
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let body = types::meta_body(&meta).map_err(invalid)?;
        let snapshot = blocking(move || snapshots.write(index, machine, &body, view)).await?;
        Ok(Snapshot { meta, snapshot })
    }
}
