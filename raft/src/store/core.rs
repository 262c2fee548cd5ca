//! The storage thread's work, without the thread: jobs go in, a commit makes them durable and only
//! then answers.
//!
//! ```text
//! take, take, take ... | commit: apply to the engine, sync it and the slot before | answer | next slot
//! ```
//!
//! It blocks and it answers, but it owns no thread and no clock, so a simulation can step it.

use super::durable::{self, Durable, Found, Known};
use super::engine::{Engine, Tree, Write};
use super::error::StoreError;
use super::job::{Done, Job};
use super::layout;
use super::log::Recovered;
use super::open::OpenLog;
use super::recover;
use bytes::Bytes;
use pontoon_proto::id::GroupId;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use tokio::sync::{oneshot, watch};

/// Keys removed per step of a purge: a step holds up the next append by about 2 ms.
const PURGE_STEP: usize = 256;

/// The owner of the engine.
pub(super) struct Core {
    engine: Box<dyn Engine>,
    durable: Durable,
    /// Why nothing in the engine can be trusted, not even that it is empty.
    distrust: Option<String>,
    open: BTreeMap<GroupId, OpenLog>,
    /// What may be deleted: all log keys of the group up to the index.
    purges: VecDeque<(GroupId, u64)>,
    /// Who waits for this round's sync.
    waiting: Vec<Done>,
    /// After a failed write or sync nothing is acknowledged any more.
    failure: watch::Sender<Option<String>>,
}

impl Core {
    /// Reads the slots.
    pub(super) fn new(
        mut engine: Box<dyn Engine>,
        failure: watch::Sender<Option<String>>,
    ) -> Result<Core, StoreError> {
        let slots = engine.slots().map_err(StoreError::Engine)?;
        let found = durable::read(&slots)
            .map_err(|alien| alien.of_file(Path::new("the slots beside the log engine")))?;
        let mut distrust = engine.broken();
        let mut is_new = false;
        let durable = match found {
            Found::Whole(durable) => durable,
            Found::Nothing if distrust.is_none() => {
                is_new = engine.trees().map_err(StoreError::Engine)?.is_empty();
                if !is_new {
                    distrust = Some("nothing says how far it was durable".into());
                }
                Durable::default()
            }
            Found::Nothing => Durable::default(),
            Found::Damaged(why) => {
                distrust.get_or_insert(format!("what says how far it was durable is bad: {why}"));
                Durable::default()
            }
        };
        let mut core = Core {
            engine,
            durable,
            distrust,
            open: BTreeMap::new(),
            purges: VecDeque::new(),
            waiting: Vec::new(),
            failure,
        };
        if is_new {
            core.persist().map_err(StoreError::Engine)?;
        }
        Ok(core)
    }

    /// Does a job, or lets it wait for the next commit. Hands back who waits for the end.
    pub(super) fn take(&mut self, job: Job) -> Option<oneshot::Sender<()>> {
        match job {
            Job::Open { group, reply } => {
                reply.send(self.recover(group)).ok();
            }
            Job::Append {
                group,
                records,
                done,
            } => {
                let result = self.append(group, &records);
                self.note(result);
                self.waiting.push(done);
            }
            Job::Mark {
                group,
                name,
                record,
                done,
            } => {
                let result = self.of(group).map(|log| log.mark(name, record));
                self.note(result);
                self.waiting.push(done);
            }
            Job::Lazy {
                group,
                name,
                record,
            } => {
                let result = self.of(group).map(|log| log.mark_lazily(name, record));
                self.note(result);
            }
            Job::Truncate { group, from } => {
                let result = self.truncate(group, from);
                self.note(result);
            }
            Job::Purge { group, upto, mark } => {
                let result = self.of(group).map(|log| log.purge(upto, mark));
                if let Ok(true) = result {
                    self.purges.push_back((group, upto));
                }
                self.note(result.map(|_| ()));
            }
            Job::Read {
                group,
                from,
                to,
                bytes_max,
                reply,
            } => {
                reply.send(self.read(group, from, to, bytes_max)).ok();
            }
            Job::Wipe { group, reply } => {
                reply.send(self.wipe(group)).ok();
            }
            Job::Close { reply } => return Some(reply),
        }
        None
    }

    /// Why nothing is acknowledged any more.
    #[cfg(test)]
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Whether somebody waits for a commit.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Makes durable what was taken, and answers.
    pub(super) fn commit(&mut self) {
        let result = self.sync();
        self.note(result);
        let failure = self.failure.borrow().clone();
        for done in self.waiting.drain(..) {
            done(match &failure {
                None => Ok(()),
                Some(why) => Err(io::Error::other(why.clone())),
            });
        }
        if failure.is_none() {
            let result = self.note_durable();
            self.note(result);
        }
    }

    /// The last commit: afterwards the slots are not behind.
    pub(super) fn close(&mut self) {
        self.commit();
        if self.usable().is_ok() {
            let result = self.engine.sync();
            self.note(result);
        }
    }

    /// Whether there is something to do while nobody asks for anything.
    pub(super) fn has_chores(&self) -> bool {
        !self.purges.is_empty() && self.usable().is_ok()
    }

    /// Does a little of it.
    pub(super) fn chore(&mut self) {
        let result = self.purge_step();
        self.note(result);
    }

    fn sync(&mut self) -> io::Result<()> {
        self.usable()?;
        for log in self.open.values_mut() {
            log.fold();
            if let Some(writes) = log.seal()? {
                self.engine.apply(log.tree, writes)?;
            }
        }
        self.engine.sync()
    }

    /// Notes in the next slot how far each log is durable now.
    fn note_durable(&mut self) -> io::Result<()> {
        let mut changed = false;
        for (group, log) in &self.open {
            if let Some(known) = self.durable.groups.get_mut(&group.number())
                && known.tip.sequence != log.sequence()
            {
                known.tip = log.tip();
                changed = true;
            }
        }
        if changed {
            let (slot, record) = self.durable.next_slot()?;
            self.engine.write_slot(slot, &record)?;
        }
        Ok(())
    }

    /// Makes what is known durable in both slots, so that no torn one brings back what was before.
    fn persist(&mut self) -> io::Result<()> {
        for _ in 0..2 {
            let (slot, record) = self.durable.next_slot()?;
            self.engine.write_slot(slot, &record)?;
            self.engine.sync()?;
        }
        Ok(())
    }

    fn usable(&self) -> io::Result<()> {
        match &*self.failure.borrow() {
            None => Ok(()),
            Some(why) => Err(io::Error::other(why.clone())),
        }
    }

    fn note(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        if self.failure.borrow().is_some() {
            return;
        }
        let advice = match error.kind() {
            io::ErrorKind::StorageFull => "make room on its disk, then restart this process",
            _ => "check its disk, then restart this process",
        };
        tracing::error!(
            %error,
            "storage failed: this process acknowledges nothing more and its groups stop; what was \
             acknowledged is kept; {advice}"
        );
        self.failure
            .send_replace(Some(format!("storage failed: {error}; {advice}")));
    }

    fn of(&mut self, group: GroupId) -> io::Result<&mut OpenLog> {
        let log = self.open.get_mut(&group);
        log.ok_or_else(|| io::Error::other(format!("the log of {group} is not open")))
    }

    /// Gives the engine what is pending for one group.
    fn apply(&mut self, group: GroupId) -> io::Result<()> {
        self.usable()?;
        let log = self.of(group)?;
        let tree = log.tree;
        match log.seal()? {
            Some(writes) => self.engine.apply(tree, writes),
            None => Ok(()),
        }
    }

    fn append(&mut self, group: GroupId, records: &[(u64, Bytes)]) -> io::Result<()> {
        let log = self.of(group)?;
        for (index, record) in records {
            log.append(*index, record)?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        group: GroupId,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<Bytes>> {
        self.apply(group)?;
        let log = self.of(group)?;
        let (tree, from) = (log.tree, from.max(log.first()));
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut each = |_, record: Bytes| {
            bytes += record.len();
            records.push(record);
            bytes < bytes_max
        };
        if from < to {
            layout::entries(self.engine.as_mut(), tree, from, Some(to), &mut each).map_err(
                |flaw| {
                    let why = format!("the log of {group} is damaged: {flaw}");
                    io::Error::new(io::ErrorKind::InvalidData, why)
                },
            )?;
        }
        Ok(records)
    }

    /// Removes the end of a log, last key first, so that it never has a hole.
    fn truncate(&mut self, group: GroupId, from: u64) -> io::Result<()> {
        self.apply(group)?;
        let log = self.of(group)?;
        if from >= log.next() {
            return Ok(());
        }
        let (tree, begin) = (log.tree, layout::entry_key(from, 0));
        let mut writes = Vec::new();
        let mut each = |key: &[u8], _: &[u8]| {
            writes.push(Write::Delete(key.to_vec()));
            true
        };
        self.engine.scan(tree, &begin, &layout::END, &mut each)?;
        writes.reverse();
        self.of(group)?.truncate(from, writes);
        self.apply(group)
    }

    fn purge_step(&mut self) -> io::Result<()> {
        let Some((group, upto)) = self.purges.pop_front() else {
            return Ok(());
        };
        // The mark goes first: entries without it would look like a hole.
        self.apply(group)?;
        let tree = self.of(group)?.tree;
        let (begin, end) = (
            layout::entry_key(0, 0),
            layout::entry_key(upto.saturating_add(1), 0),
        );
        let mut writes = Vec::new();
        let mut each = |key: &[u8], _: &[u8]| {
            writes.push(Write::Delete(key.to_vec()));
            writes.len() < PURGE_STEP
        };
        self.engine.scan(tree, &begin, &end, &mut each)?;
        if writes.len() == PURGE_STEP {
            self.purges.push_back((group, upto));
        }
        if writes.is_empty() {
            return Ok(());
        }
        // Nothing that the tip covers changes, so it need not go along.
        self.engine.apply(tree, writes)
    }

    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        self.usable().map_err(StoreError::Engine)?;
        if let Some(log) = self.open.get_mut(&group) {
            log.fold();
            self.apply(group).map_err(StoreError::Engine)?;
        }
        let damaged = |why: String| StoreError::Damaged {
            group,
            index: 0,
            why,
        };
        if let Some(why) = &self.distrust {
            return Err(damaged(why.clone()));
        }
        let trees = self.trees(group).map_err(StoreError::Engine)?;
        let known = match self.durable.groups.get(&group.number()) {
            Some(known) => *known,
            None if self.durable.lost => {
                return Err(damaged("what was known of it was lost".into()));
            }
            None if !trees.is_empty() => {
                return Err(damaged("nothing says how far it was durable".into()));
            }
            None => self.begin(group, 1).map_err(StoreError::Engine)?,
        };
        if trees.iter().any(|tree| tree.epoch > known.epoch) {
            return Err(damaged("it was begun anew, and nothing says so".into()));
        }
        self.drop_trees(&trees, known.epoch);
        let (recovered, open) = recover::recover(self.engine.as_mut(), group, known)?;
        if open.first() > 0 {
            self.purges.push_back((group, open.first() - 1));
        }
        self.open.insert(group, open);
        Ok(recovered)
    }

    /// Begins a group. From here on an empty tree is what was durable.
    fn begin(&mut self, group: GroupId, epoch: u32) -> io::Result<Known> {
        let known = Known {
            epoch,
            tip: Default::default(),
        };
        self.durable.groups.insert(group.number(), known);
        self.persist()?;
        Ok(known)
    }

    /// Makes a group's log empty, whatever it was. Until the slots are written it is what it was, and
    /// afterwards it is empty; what remains of the old tree is removed here or at the next start.
    fn wipe(&mut self, group: GroupId) -> Result<(), StoreError> {
        self.commit();
        self.usable().map_err(StoreError::Engine)?;
        self.wipe_now(group).map_err(|error| {
            let text = error.to_string();
            self.note(Err(error));
            StoreError::Engine(io::Error::other(text))
        })
    }

    fn wipe_now(&mut self, group: GroupId) -> io::Result<()> {
        if let Some(why) = self.distrust.clone() {
            tracing::error!(
                why,
                "the log engine is put aside: all groups of this node are lost"
            );
            self.durable.lost = true;
            self.persist()?;
            self.engine.restart()?;
            self.distrust = None;
        }
        self.open.remove(&group);
        self.purges.retain(|(other, _)| *other != group);
        let trees = self.trees(group)?;
        let known = self.durable.groups.get(&group.number());
        let epochs = trees.iter().map(|tree| tree.epoch);
        let last = epochs.chain(known.map(|known| known.epoch)).max();
        let known = self.begin(group, last.unwrap_or(0) + 1)?;
        self.drop_trees(&trees, known.epoch);
        self.engine.sync()
    }

    fn trees(&mut self, group: GroupId) -> io::Result<Vec<Tree>> {
        let mut trees = self.engine.trees()?;
        trees.retain(|tree| tree.group == group.number());
        Ok(trees)
    }

    /// Removes a group's trees before this epoch. What can't be removed only takes room.
    fn drop_trees(&mut self, trees: &[Tree], epoch: u32) {
        for tree in trees.iter().filter(|tree| tree.epoch < epoch) {
            if let Err(error) = self.engine.drop_tree(*tree) {
                tracing::warn!(%tree, %error, "the rest of a wiped log can't be removed");
            }
        }
    }
}
