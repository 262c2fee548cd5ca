//! The consensus library's view of one group's log: entries in a cache, and in the store.
//!
//! What was appended lately is read from memory, so that replication and apply never wait for the
//! storage thread; a laggard's reads go there, behind the writes that were given before.

use super::types::{self, Entry, LogId, TypeConfig, Vote};
use crate::store::log::{COMMITTED, VOTE};
use crate::store::{Log, Recovered};
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::vote::RaftLeaderId as _;
use openraft::{OptionalSend, RaftTypeConfig};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// How much of the log's end stays in memory: at 300 bytes per command, the last 50,000 commands.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// How much one read hands out, of which the network sends at most one message at a time.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// One group's log. Clones share it; one of them writes, the library's core.
#[derive(Clone)]
pub(crate) struct GroupLog {
    log: Log,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    last: Option<LogId>,
    /// The end of the log, without holes.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
}

impl Shared {
    fn push(&mut self, entry: Entry) {
        // The library truncates before it overwrites and never leaves holes; should it ever, the
        // cache must not serve one.
        let follows = |last: &Entry| last.log_id().index + 1 == entry.log_id().index;
        if !self.cache.back().is_none_or(follows) {
            self.cache.clear();
            self.cache_bytes = 0;
        }
        self.last = Some(entry.log_id());
        self.cache_bytes += weight(&entry);
        self.cache.push_back(entry);
        while self.cache_bytes > CACHE_BYTES && self.cache.len() > 1 {
            if let Some(entry) = self.cache.pop_front() {
                self.cache_bytes -= weight(&entry);
            }
        }
    }

    fn truncate(&mut self, after: Option<LogId>) {
        if after.is_some_and(|after| self.last.is_none_or(|last| last.index <= after.index)) {
            return;
        }
        let keep = |entry: &Entry| after.is_some_and(|after| entry.log_id().index <= after.index);
        while let Some(entry) = self.cache.pop_back_if(|entry| !keep(entry)) {
            self.cache_bytes -= weight(&entry);
        }
        self.last = after.max(self.purged);
    }

    fn purge(&mut self, upto: LogId) {
        while let Some(entry) = self
            .cache
            .pop_front_if(|entry| entry.log_id().index <= upto.index)
        {
            self.cache_bytes -= weight(&entry);
        }
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }

    /// Entries from `from` to before `to` if all of them are here; else from where to read.
    fn cached(&self, from: u64, to: u64) -> Result<Vec<Entry>, (u64, u64)> {
        let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        let from = from.max(next(self.purged));
        let to = to.min(next(self.last));
        if from >= to {
            return Ok(Vec::new());
        }
        let first = self
            .cache
            .front()
            .map_or(u64::MAX, |entry| entry.log_id().index);
        if from < first {
            return Err((from, to));
        }
        let range = (from - first) as usize..(to - first) as usize;
        Ok(self.cache.range(range).cloned().collect())
    }
}

fn weight(entry: &Entry) -> usize {
    64 + match &entry.payload {
        types::Payload::Normal(record) => record.0.len(),
        _ => 0,
    }
}

impl GroupLog {
    /// The log as it was recovered.
    pub(crate) fn new(log: Log, found: Recovered) -> io::Result<Self> {
        let mark = |record: &Option<bytes::Bytes>| {
            record
                .as_ref()
                .map(types::read_mark)
                .transpose()
                .map_err(invalid)
        };
        let mut shared = Shared {
            vote: found
                .vote
                .as_ref()
                .map(types::read_vote)
                .transpose()
                .map_err(invalid)?,
            purged: mark(&found.purged)?,
            committed: mark(&found.committed)?,
            last: mark(&found.purged)?,
            cache: VecDeque::new(),
            cache_bytes: 0,
        };
        for record in &found.tail {
            shared.push(types::read_entry(record).map_err(invalid)?);
        }
        Ok(Self {
            log,
            shared: Arc::new(Mutex::new(shared)),
        })
    }

    /// The last entry's index; none when there was never one.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.lock().last
    }

    /// Whether nothing was ever stored here: only then may a group be born on this node.
    pub(crate) fn is_pristine(&self) -> bool {
        let shared = self.lock();
        shared.vote.is_none() && shared.last.is_none()
    }

    /// Goes on from the end of the snapshot where that is later than the log, in another term's log too: the
    /// process, or the power, went between the snapshot and the log's giving way to it. What a snapshot
    /// holds is committed, so nothing of such a log was, beyond what the snapshot has.
    pub(crate) async fn give_way(&mut self, snapshot: Option<LogId>) -> io::Result<()> {
        let (purged, last) = {
            let shared = self.lock();
            (shared.purged, shared.last)
        };
        let Some(upto) = snapshot.filter(|upto| last < Some(*upto)) else {
            return Ok(());
        };
        tracing::warn!(
            ?last,
            ?upto,
            "the log is older than the snapshot: it is gone on from there"
        );
        self.truncate_after(purged).await?;
        self.purge(upto).await
    }

    /// Makes one member the only voter, from the end of this log on, and everything in the log its
    /// own: whatever of it was committed stays, and what was not may become so. The old voters are
    /// told apart by the group's generation, not by this.
    pub(crate) async fn seize(&self, member: u64) -> io::Result<()> {
        let (last, vote) = {
            let shared = self.lock();
            (shared.last, shared.vote)
        };
        let seen = last.map_or(0, |last| last.leader_id.term);
        let term = vote.map_or(0, |vote| vote.leader_id.term).max(seen) + 1;
        let index = last.map_or(0, |last| last.index + 1);
        let members = types::Membership::new_with_defaults(vec![[member].into()], [member]);
        let entry = Entry::new(
            types::log_id(term, member, index),
            types::Payload::Membership(members),
        );
        let vote = Vote {
            leader_id: types::LeaderId::new(term, member),
            committed: true,
        };
        let record = types::entry_record(&entry).map_err(invalid)?;
        let (sender, written) = oneshot::channel();
        let done = Box::new(move |result| {
            sender.send(result).ok();
        });
        self.log.append(vec![(index, record)], done).await?;
        written
            .await
            .map_err(|_| io::Error::other("the storage thread has stopped"))??;
        let record = types::vote_record(&vote).map_err(invalid)?;
        self.log.mark(VOTE, record).await?;
        let mut shared = self.lock();
        shared.push(entry);
        shared.vote = Some(vote);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn entries(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (from, to) = match self.lock().cached(from, to) {
            Ok(entries) => return Ok(entries),
            Err(range) => range,
        };
        let records = self.log.read(from, to, bytes_max).await?;
        records
            .iter()
            .map(|record| types::read_entry(record).map_err(invalid))
            .collect()
    }
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let mut entries = self.entries(start, end, READ_BYTES).await?;
        let mut bytes = 0;
        let fits = entries.iter().take_while(|entry| {
            bytes += weight(entry);
            bytes <= super::network::MESSAGE_MAX
        });
        let count = fits.count().max(1);
        entries.truncate(count);
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = GroupLog;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let shared = self.lock();
        Ok(LogState {
            last_purged_log_id: shared.purged,
            last_log_id: shared.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let record = types::vote_record(vote).map_err(invalid)?;
        self.log.mark(VOTE, record).await?;
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(id) = committed else { return Ok(()) };
        self.lock().committed = committed;
        self.log
            .mark_lazily(COMMITTED, types::mark_record(&id).map_err(invalid)?)
            .await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let shared = self.lock();
        Ok(shared.committed.min(shared.last))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = <TypeConfig as RaftTypeConfig>::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut shared = self.lock();
            for entry in entries {
                let record = types::entry_record(&entry).map_err(invalid)?;
                records.push((entry.log_id().index, record));
                shared.push(entry);
            }
        }
        let done = Box::new(move |result| callback.io_completed(result));
        self.log.append(records, done).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.lock().truncate(last_log_id);
        self.log
            .truncate(last_log_id.map_or(0, |id| id.index + 1))
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mark = types::mark_record(&log_id).map_err(invalid)?;
        self.lock().purge(log_id);
        self.log.purge(log_id.index, mark).await
    }
}

pub(crate) fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}
