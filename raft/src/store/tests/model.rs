//! A log under random use, and what may be found of it after a crash: the state after one of its
//! operations, none before the last that was acknowledged.

use crate::codec::{Role, frame};
use crate::store::core::Core;
use crate::store::engine::Engine;
use crate::store::job::Job;
use crate::store::log::{COMMITTED, VOTE};
use crate::store::{Recovered, StoreError};
use bytes::Bytes;
use pontoon_proto::id::GroupId;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{oneshot, watch};

/// Random numbers from a seed (splitmix64), and the line that replays it when a test fails.
pub(super) struct Seed {
    seed: u64,
    state: u64,
    test: &'static str,
}

impl Seed {
    /// Runs a test for each seed, or only for that in `PONTOON_SEED`.
    pub(super) fn each(test: &'static str, count: u64, mut run: impl FnMut(&mut Seed)) {
        let only = std::env::var("PONTOON_SEED").ok();
        let only: Option<u64> = only.map(|seed| seed.parse().unwrap());
        let (from, to) = only.map_or((0, count), |seed| (seed, seed + 1));
        for seed in from..to {
            run(&mut Seed {
                seed,
                state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                test,
            });
        }
    }

    /// A number below this one.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// The same as a function.
    pub(super) fn draw(&mut self) -> impl FnMut(usize) -> usize {
        |bound| self.below(bound)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Seed { seed, test, .. } = self;
            eprintln!(
                "replay: PONTOON_SEED={seed} cargo test --release -p pontoon-raft --lib {test} -- \
                 --include-ignored"
            );
        }
    }
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    vote: Option<Bytes>,
    purged: Option<Bytes>,
    first: u64,
    entries: Vec<Bytes>,
}

impl State {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn of(found: &Recovered) -> State {
        assert_eq!(
            found.count,
            found.tail.len() as u64,
            "all fits into the tail"
        );
        State {
            vote: found.vote.clone(),
            purged: found.purged.clone(),
            first: found.first,
            entries: found.tail.clone(),
        }
    }
}

/// What became of a log.
#[derive(Debug)]
pub(super) enum Verdict {
    /// All that was acknowledged is there.
    Intact,
    /// The log was refused.
    Refused(StoreError),
    /// Something that was acknowledged is missing, or something is there that never was.
    Lost,
}

/// One open log and all states that it was in.
pub(super) struct Run {
    group: GroupId,
    core: Core,
    /// After each operation; the first one is what it was opened with.
    states: Vec<State>,
    /// The last operation that is known to be durable.
    acknowledged: Arc<AtomicUsize>,
}

impl Run {
    /// Opens a group's log.
    pub(super) fn open(engine: Box<dyn Engine>, group: GroupId) -> Result<Run, StoreError> {
        let core = Core::new(engine, watch::channel(None).0)?;
        let mut run = Run {
            group,
            core,
            states: Vec::new(),
            acknowledged: Arc::default(),
        };
        let found = run.find()?;
        run.states.push(State::of(&found));
        Ok(run)
    }

    /// Opens it after a wipe.
    pub(super) fn wiped(engine: Box<dyn Engine>, group: GroupId) -> Result<Run, StoreError> {
        let mut core = Core::new(engine, watch::channel(None).0)?;
        let (reply, mut answer) = oneshot::channel();
        core.take(Job::Wipe { group, reply });
        answer.try_recv().unwrap()?;
        let mut run = Run {
            group,
            core,
            states: vec![State::default()],
            acknowledged: Arc::default(),
        };
        assert_eq!(State::of(&run.find()?), State::default());
        Ok(run)
    }

    fn find(&mut self) -> Result<Recovered, StoreError> {
        let (reply, mut answer) = oneshot::channel();
        let group = self.group;
        self.core.take(Job::Open { group, reply });
        answer.try_recv().unwrap()
    }

    /// The state that it was opened with, or that it is in now.
    pub(super) fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    /// Does some random operations, the last ones perhaps not acknowledged.
    pub(super) fn work(&mut self, seed: &mut Seed, count: usize) {
        for _ in 0..count {
            self.operate(seed);
        }
    }

    /// Makes all durable.
    pub(super) fn commit(&mut self) {
        self.core.commit();
    }

    /// Ends cleanly.
    pub(super) fn close(&mut self) {
        self.core.close();
    }

    fn operate(&mut self, seed: &mut Seed) {
        match seed.below(20) {
            0..=7 => self.append(seed),
            8..=10 => self.vote(seed),
            11 => {
                let record = frame(Role::Mark, 0, seed.below(100) as u64, b"").unwrap();
                self.take(|group| Job::Lazy {
                    group,
                    name: COMMITTED,
                    record,
                });
            }
            12 => self.truncate(seed),
            13 => self.purge(seed),
            14 => self.read(seed),
            15 => self.core.chore(),
            _ => self.core.commit(),
        }
    }

    fn append(&mut self, seed: &mut Seed) {
        let mut state = self.now().clone();
        let mut records = Vec::new();
        for _ in 0..=seed.below(4) {
            let len = match seed.below(12) {
                0 => seed.below(40_000),
                _ => seed.below(300),
            };
            let filler = seed.below(256) as u8;
            let index = state.next();
            let record = frame(Role::Entry, 0, index, &vec![filler; len]).unwrap();
            state.entries.push(record.clone());
            records.push((index, record));
        }
        let done = self.done();
        self.take(|group| Job::Append {
            group,
            records,
            done,
        });
        self.states.push(state);
    }

    fn vote(&mut self, seed: &mut Seed) {
        let number = seed.below(1 << 30).to_le_bytes();
        let record = frame(Role::Vote, 0, 0, &number).unwrap();
        let mut state = self.now().clone();
        state.vote = Some(record.clone());
        let done = self.done();
        self.take(|group| Job::Mark {
            group,
            name: VOTE,
            record,
            done,
        });
        self.states.push(state);
    }

    fn truncate(&mut self, seed: &mut Seed) {
        let mut state = self.now().clone();
        let keep = seed.below(state.entries.len() + 1);
        state.entries.truncate(keep);
        let from = state.next();
        self.take(|group| Job::Truncate { group, from });
        self.states.push(state);
    }

    /// Purges a part, all, or, as an installed snapshot does, more than there is.
    fn purge(&mut self, seed: &mut Seed) {
        let mut state = self.now().clone();
        let upto = state.first + seed.below(state.entries.len() + 3) as u64;
        let mark = frame(Role::Mark, 0, upto, b"").unwrap();
        let count = state.entries.len().min((upto + 1 - state.first) as usize);
        state.entries.drain(..count);
        state.first = upto + 1;
        state.purged = Some(mark.clone());
        self.take(|group| Job::Purge { group, upto, mark });
        self.states.push(state);
    }

    fn read(&mut self, seed: &mut Seed) {
        let state = self.now();
        let from = state.first + seed.below(state.entries.len() + 1) as u64;
        let to = from + seed.below(10) as u64;
        let wanted = state.entries.iter().skip((from - state.first) as usize);
        let wanted: Vec<Bytes> = wanted.take((to - from) as usize).cloned().collect();
        let (reply, mut answer) = oneshot::channel();
        self.take(|group| Job::Read {
            group,
            from,
            to,
            bytes_max: usize::MAX,
            reply,
        });
        match answer.try_recv().unwrap() {
            Ok(records) => assert_eq!(records, wanted),
            Err(error) => assert!(self.core.failure().is_some(), "{error}"),
        }
    }

    fn take(&mut self, job: impl FnOnce(GroupId) -> Job) {
        self.core.take(job(self.group));
    }

    /// Notes that the operation which is being made is durable.
    fn done(&self) -> Box<dyn FnOnce(std::io::Result<()>) + Send> {
        let (operation, acknowledged) = (self.states.len(), self.acknowledged.clone());
        Box::new(move |result| {
            if result.is_ok() {
                acknowledged.fetch_max(operation, Ordering::Relaxed);
            }
        })
    }

    /// What it means that this is found after a crash.
    pub(super) fn judge(&self, found: &Result<Run, StoreError>) -> Verdict {
        let found = match found {
            Ok(found) => found.now(),
            Err(error) => return Verdict::Refused(again(error)),
        };
        let allowed = &self.states[self.acknowledged.load(Ordering::Relaxed)..];
        if allowed.contains(found) {
            Verdict::Intact
        } else {
            Verdict::Lost
        }
    }
}

/// The same error, to be kept.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Damaged { group, index, why } => StoreError::Damaged {
            group: *group,
            index: *index,
            why: why.clone(),
        },
        StoreError::Future { what, version } => StoreError::Future {
            what: what.clone(),
            version: *version,
        },
        StoreError::Foreign { path } => StoreError::Foreign { path: path.clone() },
        StoreError::Engine(error) => StoreError::Engine(std::io::Error::other(error.to_string())),
        StoreError::Stopped => StoreError::Stopped,
    }
}
