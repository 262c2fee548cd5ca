//! What happened: operations of clients with their outcomes, and faults with the evidence of each.

use crate::clock::{self, Instant};
use crate::cluster::Error;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Messages of one stream.
pub const MESSAGES: usize = 5;

/// What a client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A call without an id: a new session.
    Open,
    /// A call on a connection that is in the session.
    Call,
    /// Several messages on one stream of such a connection.
    Stream,
    /// A call with the session's id on a new connection, at any node.
    Resume,
    /// The session's end, asked for by its client.
    Release,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [
        Kind::Open,
        Kind::Call,
        Kind::Stream,
        Kind::Resume,
        Kind::Release,
    ];

    /// How much it adds to the session's sum when all of it is done.
    pub fn adds(self) -> i64 {
        match self {
            Kind::Open | Kind::Call | Kind::Resume => 1,
            Kind::Stream => MESSAGES as i64,
            Kind::Release => 0,
        }
    }
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered; a release has neither.
    Ok {
        /// The worker's name and life.
        worker: String,
        /// The running sum after it.
        sum: i64,
    },
    /// Refused: a gRPC status.
    Failed {
        /// Its code.
        code: i32,
        /// Its message.
        text: String,
    },
    /// Nobody knows whether it was done: it broke, or took too long.
    Unknown {
        /// Why.
        why: String,
    },
}

/// One operation; times are microseconds since the workload began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Op {
    /// Whose.
    pub client: usize,
    /// The session, once it is known.
    pub session: String,
    /// What was done.
    pub kind: Kind,
    /// Through which node.
    pub node: String,
    /// When it began.
    pub start: u64,
    /// When its outcome was known.
    pub end: u64,
    /// The least that the sum can be: what was acknowledged, and this.
    pub least: i64,
    /// The most: all that was asked for.
    pub most: i64,
    /// How it went.
    pub outcome: Outcome,
}

/// The code of NOT_FOUND.
pub const NOT_FOUND: i32 = 5;

impl Op {
    /// Whether it succeeded.
    pub fn ok(&self) -> bool {
        matches!(self.outcome, Outcome::Ok { .. })
    }

    /// Whether it was told that there is no such session.
    pub fn not_found(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::Failed {
                code: NOT_FOUND,
                ..
            }
        )
    }
}

/// One fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// When it began.
    pub at: u64,
    /// When it was undone; the run's end if it never was.
    pub until: u64,
    /// What was done to whom.
    pub what: String,
    /// What shows that it happened; nothing does when this is empty.
    pub evidence: String,
}

/// A life of a worker that the faults ended, or cut off for longer than it is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Its name and life, as it answers.
    pub worker: String,
    /// From when on its sessions may be gone.
    pub from: u64,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order of their ends.
    pub ops: Vec<Op>,
    /// In the order of their begins.
    pub hits: Vec<Hit>,
    /// Workers whose sessions may be gone.
    pub lost: Vec<Lost>,
    /// How long sessions are held, microseconds.
    pub window: u64,
}

impl History {
    /// The operations of each session, in the order of their begins.
    pub fn sessions(&self) -> BTreeMap<&str, Vec<&Op>> {
        let mut sessions: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for op in self.ops.iter().filter(|op| !op.session.is_empty()) {
            sessions.entry(&op.session).or_default().push(op);
        }
        for ops in sessions.values_mut() {
            ops.sort_by_key(|op| op.start);
        }
        sessions
    }

    /// Whether the worker of a session was lost before this moment.
    pub fn excused(&self, ops: &[&Op], at: u64) -> bool {
        let workers = ops.iter().filter_map(|op| match &op.outcome {
            Outcome::Ok { worker, .. } if !worker.is_empty() => Some(worker),
            _ => None,
        });
        let mut workers = workers;
        workers.any(|worker| {
            let mut lost = self.lost.iter();
            lost.any(|lost| lost.worker == *worker && lost.from <= at)
        })
    }

    /// How many operations of a kind succeeded.
    pub fn count(&self, kind: Kind) -> usize {
        let ops = self.ops.iter();
        ops.filter(|op| op.kind == kind && op.ok()).count()
    }

    /// How long the operations of a kind took that succeeded, in ascending order, and how many did not.
    pub fn took(&self, kind: Kind) -> (Vec<u64>, usize) {
        let all = self.ops.iter().filter(|op| op.kind == kind);
        let ok = all.clone().filter(|op| op.ok());
        let mut took: Vec<u64> = ok.map(|op| op.end - op.start).collect();
        took.sort_unstable();
        let others = all.count() - took.len();
        (took, others)
    }

    /// What was said instead of an answer, most often first, and how often.
    pub fn failures(&self) -> Vec<(String, usize)> {
        let mut said = BTreeMap::<String, usize>::new();
        for op in &self.ops {
            let words = match &op.outcome {
                Outcome::Ok { .. } => continue,
                Outcome::Failed { code, text } => format!("code {code}: {text}"),
                Outcome::Unknown { why } => format!("unknown: {why}"),
            };
            *said.entry(words).or_default() += 1;
        }
        let mut said: Vec<(String, usize)> = said.into_iter().collect();
        said.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        said
    }

    /// Writes one JSON object per line: faults, then operations.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::file("write", path, &error);
        let file = std::fs::File::create(path).map_err(failed)?;
        let mut out = std::io::BufWriter::new(file);
        let faults = self.hits.iter().map(serde_json::to_string);
        let lost = self.lost.iter().map(serde_json::to_string);
        let ops = self.ops.iter().map(serde_json::to_string);
        for line in faults.chain(lost).chain(ops) {
            let line = line.map_err(|error| Error(error.to_string()))?;
            writeln!(out, "{line}").map_err(failed)?;
        }
        out.flush().map_err(failed)
    }
}

/// Where clients write, all at once.
#[derive(Clone, Debug)]
pub struct Recorder {
    began: Instant,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            began: clock::now(),
            ops: Arc::default(),
        }
    }
}

impl Recorder {
    /// Microseconds since the workload began.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Writes one down.
    pub fn add(&self, op: Op) {
        self.lock().push(op);
    }

    /// How many are written down.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// All that was written.
    pub fn take(&self) -> Vec<Op> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Op>> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
