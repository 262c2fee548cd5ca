//! What the slots beside the engine cost: a store with them and one without, in turns, so that a busy
//! machine is as busy for both.
//!
//! `cargo test --release -p pontoon-raft --test slots -- --ignored --nocapture`
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "this measures the machine's time; a measurement that fails has no figure"
)]

use bytes::Bytes;
use pontoon_proto::id::GroupId;
use pontoon_raft::codec::{Role, frame};
use pontoon_raft::store::disk::SledEngine;
use pontoon_raft::store::engine::{Engine, Tree, Write};
use pontoon_raft::store::{Log, Store};
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Turns of each store.
const TURNS: usize = 150;

/// Rounds per turn: appends that are given together and share about one sync.
const ROUNDS: usize = 20;

/// An engine that writes no slots once it is open.
struct Blind(SledEngine);

impl Engine for Blind {
    fn scan(
        &mut self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        self.0.scan(tree, from, to, each)
    }

    fn get(&mut self, tree: Tree, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.0.get(tree, key)
    }

    fn apply(&mut self, tree: Tree, writes: Vec<Write>) -> io::Result<()> {
        self.0.apply(tree, writes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }

    fn trees(&mut self) -> io::Result<Vec<Tree>> {
        self.0.trees()
    }

    fn drop_tree(&mut self, tree: Tree) -> io::Result<()> {
        self.0.drop_tree(tree)
    }

    fn slots(&mut self) -> io::Result<[Bytes; 2]> {
        self.0.slots()
    }

    fn write_slot(&mut self, _: usize, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn broken(&self) -> Option<String> {
        self.0.broken()
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.restart()
    }
}

/// A log, the index of its next entry, and how long its turns took.
struct Side {
    log: Log,
    next: u64,
    turns: Vec<Duration>,
}

impl Side {
    async fn over(engine: Box<dyn Engine>) -> Side {
        let store = Store::over(engine).unwrap();
        Side {
            log: store.log(GroupId::Catalog).await.unwrap().0,
            next: 0,
            turns: Vec::new(),
        }
    }

    async fn turn(&mut self, width: usize, body: &[u8]) {
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            let mut waiting = Vec::new();
            for _ in 0..width {
                let record = frame(Role::Entry, 0, self.next, body).unwrap();
                let (sender, done) = oneshot::channel();
                let callback = Box::new(move |result| {
                    sender.send(result).ok();
                });
                let records = vec![(self.next, record)];
                self.log.append(records, callback).await.unwrap();
                waiting.push(done);
                self.next += 1;
            }
            for done in waiting {
                done.await.unwrap().unwrap();
            }
        }
        self.turns.push(begun.elapsed());
    }

    /// Microseconds per round at a part of the turns, the fastest first.
    fn at(&mut self, part: usize) -> f64 {
        self.turns.sort();
        let turn = self.turns[self.turns.len() * part / 100];
        turn.as_secs_f64() * 1e6 / ROUNDS as f64
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn appends_with_and_without_slots() {
    for (width, len) in [(1, 300), (1, 8_000), (16, 300), (16, 8_000)] {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let engine = |nth: usize| SledEngine::open(&dirs[nth].path().join("log")).unwrap();
        let mut with = Side::over(Box::new(engine(0))).await;
        let mut without = Side::over(Box::new(Blind(engine(1)))).await;
        let body = vec![7; len];
        for _ in 0..TURNS {
            with.turn(width, &body).await;
            without.turn(width, &body).await;
        }
        for part in [10, 25, 50] {
            let (with, without) = (with.at(part), without.at(part));
            println!(
                "{width:>2} x {len:>4} bytes, the fastest {part} %: {with:>6.0} us with, \
                 {without:>6.0} us without slots: {:+.1} %",
                100.0 * (with / without - 1.0)
            );
        }
    }
}
