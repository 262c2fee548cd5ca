//! A group with a large directory: whether a snapshot stalls it, and how long it takes to start again.
//!
//! `cargo test --release -p pontoon-raft --test large -- --ignored --nocapture` does it with a million
//! sessions.
#![expect(clippy::unwrap_used, reason = "in a test")]

mod world;

use futures::future::join_all;
use pontoon_proto::id::{
    FunctionId, NodeBoot, NodeId, RegionId, RequestId, TenantId, VersionId, WorkerId,
};
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Command, Effect, Reply};
use pontoon_raft::group::{Group, Setup};
use pontoon_raft::machine::{Clock, Machine};
use pontoon_raft::store::Store;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use uuid::Uuid;
use world::{LONG, eventually};

const AT: NodeBoot = NodeBoot {
    node: NodeId(1),
    boot: 1,
};

/// How many proposals are under way at once.
const LANES: u64 = 32;

/// The longest that apply may be busy with one command (P-9), CPU time of its thread.
const APPLY_MAX: Duration = Duration::from_millis(50);

/// The longest that a node may take until it serves again (P-9).
const READY_MAX: Duration = Duration::from_secs(10);

/// How much the writing of a snapshot may add to the memory, however large the state: a chunk and its
/// frame, and the tree nodes that are changed meanwhile.
const SNAPSHOT_MEMORY_MAX: u64 = 64 * 1024 * 1024;

/// How long things took: counts by powers of two of microseconds.
#[derive(Default)]
struct Histogram {
    counts: [u64; 32],
    longest: Duration,
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let bucket = (took.as_micros() as u64)
            .checked_ilog2()
            .map_or(0, |log| log + 1);
        self.counts[bucket.min(31) as usize] += 1;
        self.longest = self.longest.max(took);
    }

    /// Prints the buckets that are not empty, each by its upper bound.
    fn print(&self, what: &str) {
        let counts = self.counts.iter().enumerate();
        let buckets: Vec<String> = counts
            .filter(|(_, count)| **count > 0)
            .map(|(log, count)| format!("<{:?}: {count}", Duration::from_micros(1 << log)))
            .collect();
        println!(
            "{what}: longest {:?} ({})",
            self.longest,
            buckets.join(", ")
        );
    }
}

/// How long each command took since this was last taken, waits for a core included.
static APPLIED: Mutex<Option<Histogram>> = Mutex::new(None);

/// The same in CPU time, which the kernel counts up at ticks of some milliseconds: of use for the
/// longest ones only.
static COMPUTED: Mutex<Option<Histogram>> = Mutex::new(None);

/// A directory that measures its commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Timed(Directory);

impl Machine for Timed {
    type Command = Command;
    type Reply = Reply;
    type Effect = Effect;
    const KIND: u8 = Directory::KIND;

    fn clock(&self) -> Clock {
        self.0.clock()
    }

    fn apply(&mut self, index: u64, now: Clock, command: Command, out: &mut Vec<Effect>) -> Reply {
        let (from, computed) = (instant(), busy());
        let reply = self.0.apply(index, now, command, out);
        add(&APPLIED, from.elapsed());
        add(&COMPUTED, Duration::from_nanos(busy() - computed));
        reply
    }

    fn next_due(&self) -> Option<Clock> {
        self.0.next_due()
    }

    fn tick() -> Command {
        Directory::tick()
    }

    fn check(&self) -> Result<(), String> {
        self.0.check()
    }
}

fn add(to: &Mutex<Option<Histogram>>, took: Duration) {
    to.lock().unwrap().get_or_insert_default().add(took);
}

/// CPU time of this thread so far, nanoseconds.
fn busy() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[expect(
    clippy::disallowed_methods,
    reason = "a measure reads the clock; nothing depends on it"
)]
fn instant() -> Instant {
    Instant::now()
}

/// Ids in no order, as minted ones are.
fn session(number: u64) -> RequestId {
    let mut random = [0; 16];
    random[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    random[8..].copy_from_slice(&number.to_be_bytes());
    RequestId::mint(RegionId(1), random)
}

/// A directory with so many bound sessions, on workers of 1,000 slots.
fn filled(count: u64) -> Directory {
    let mut state = Directory::new(RegionId(1));
    let mut index = 0;
    let mut apply = |command| {
        index += 1;
        state.apply(index, Clock(0), command, &mut Vec::new())
    };
    let (function, version) = (
        FunctionId(Uuid::from_u128(1)),
        VersionId(Uuid::from_u128(2)),
    );
    for number in 0..count.div_ceil(1_000) {
        apply(Command::AttachWorker {
            worker: WorkerId(Uuid::from_u128(0x3000 + u128::from(number))),
            name: format!("worker-{number}"),
            function,
            version,
            slots: 1_000,
            at: AT,
            stream: 1,
        });
    }
    for number in 0..count {
        let reply = apply(Command::Open {
            id: session(number),
            tenant: TenantId(Uuid::from_u128(3)),
            function,
            version,
            at: AT,
            seq: 1,
            asked: Clock(0),
            wait_ms: 0,
            window_ms: 600_000,
            absorbed: false,
            window_asked: false,
        });
        assert!(matches!(reply, Reply::Bound(_)), "{reply:?}");
    }
    state
}

/// A node with one group, of which it is the only voter.
struct Node {
    group: Group<Timed>,
    store: Store,
    _boot: watch::Sender<NodeBoot>,
}

impl Node {
    async fn start(dir: &Path, state: Directory) -> Node {
        let store = world::open(dir).await;
        let (boot, at) = watch::channel(AT);
        let setup = Setup {
            snapshot_every: u64::MAX,
            ..world::setup(at, &Arc::default(), dir, &store, &[AT.node].into())
        };
        let group = Group::start(setup, Timed(state)).await.unwrap();
        Node {
            group,
            store,
            _boot: boot,
        }
    }

    async fn stop(self) {
        self.group.stop().await;
        self.store.close().await;
    }

    /// Keeps [`LANES`] proposals under way until told to stop or so many were answered: sessions are
    /// left and entered again. How long the answers took, and how many there were.
    async fn busy(
        &self,
        sessions: u64,
        seq: &AtomicU64,
        at_most: u64,
        stop: &AtomicBool,
    ) -> (Histogram, u64) {
        let answered = AtomicU64::new(0);
        let answers = Mutex::new(Histogram::default());
        let lane = |_| {
            let (answered, answers) = (&answered, &answers);
            async move {
                while !stop.load(Ordering::Relaxed)
                    && answered.fetch_add(1, Ordering::Relaxed) < at_most
                {
                    let number = seq.fetch_add(1, Ordering::Relaxed);
                    let id = session(number * 7_919 % sessions);
                    let leave = Command::Leave {
                        id,
                        at: AT,
                        seq: 2 + number,
                        clean: true,
                    };
                    let from = instant();
                    let proposed = self.group.propose(leave, LONG).await.unwrap();
                    answers.lock().unwrap().add(from.elapsed());
                    assert_eq!(proposed.reply, Reply::Done);
                }
            }
        };
        join_all((0..LANES).map(lane)).await;
        (
            answers.into_inner().unwrap(),
            answered.into_inner().min(at_most),
        )
    }
}

/// Takes a snapshot while sessions change, and starts again from it and from what came after.
async fn lives_through_a_snapshot_and_a_restart(count: u64) {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), filled(count)).await;
    let (seq, go_on) = (AtomicU64::new(0), AtomicBool::new(false));
    let (answers, _) = node.busy(count, &seq, 2_000, &go_on).await;
    answers.print("answers without a snapshot");
    APPLIED.lock().unwrap().take();
    COMPUTED.lock().unwrap().take();

    let (stop, before) = (AtomicBool::new(false), resident());
    let peak = AtomicU64::new(before);
    let snapshot = async {
        let from = instant();
        node.group.snapshot().await;
        eventually("the snapshot", || async {
            peak.fetch_max(resident(), Ordering::Relaxed);
            (node.group.status().snapshot > 0).then_some(())
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        from.elapsed()
    };
    let ((answers, answered), took) =
        futures::join!(node.busy(count, &seq, u64::MAX, &stop), snapshot);
    let grown = peak.into_inner() - before;
    println!(
        "snapshot of {count} sessions: {took:?}, {answered} answers meanwhile, {} MiB more",
        grown >> 20
    );
    answers.print("answers during the snapshot");
    let applied = APPLIED.lock().unwrap().take().unwrap();
    let computed = COMPUTED.lock().unwrap().take().unwrap();
    applied.print("apply during the snapshot");
    println!("the longest of these in CPU time: {:?}", computed.longest);
    assert!(answered > LANES, "apply went on");
    assert!(computed.longest < APPLY_MAX, "{:?}", computed.longest);
    assert!(grown < SNAPSHOT_MEMORY_MAX, "{grown} bytes");

    // What a restart has to replay: a twentieth of the sessions changes after the snapshot.
    node.busy(count, &seq, count / 20, &go_on).await;
    let (last, mut kept) = (
        node.group.status().applied,
        Timed::clone(&node.group.state()),
    );
    node.stop().await;

    let from = instant();
    let node = Node::start(dir.path(), Directory::new(RegionId(1))).await;
    let started = from.elapsed();
    let state = node.group.read(LONG).await.unwrap();
    let ready = from.elapsed();
    let replayed = last - node.group.status().snapshot;
    println!(
        "restart with {count} sessions and {replayed} entries: started after {started:?}, ready after {ready:?}"
    );
    assert_eq!(state.0.sessions_len() as u64, count);
    // The last ticks may have come after the state was kept; they moved its clock and nothing else.
    while kept.clock() < state.clock() {
        kept.apply(last, state.clock(), Command::Tick, &mut Vec::new());
    }
    assert_eq!(
        state.digest(),
        kept.digest(),
        "snapshot and log give what was"
    );
    assert!(ready < READY_MAX, "{ready:?}");
    state.check().unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_9_a_snapshot_stalls_nobody_and_a_restart_takes_seconds() {
    lives_through_a_snapshot_and_a_restart(50_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute and a gigabyte, and prints figures"]
async fn p_9_a_million_sessions_live_through_a_snapshot_and_a_restart() {
    lives_through_a_snapshot_and_a_restart(1_000_000).await;
}
