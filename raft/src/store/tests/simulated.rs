//! The simulated disk, seed by seed.

use super::GROUP;
use super::model::{Run, Seed, Verdict};
use crate::store::StoreError;
use crate::store::engine::{Engine, Tree, Write};
use crate::store::memory::{MemoryEngine, Platter};
use bytes::Bytes;
use std::io;

fn open(platter: &Platter) -> Result<Run, StoreError> {
    Run::open(Box::new(platter.engine()), GROUP)
}

#[test]
fn a_power_cut_keeps_what_was_acknowledged() {
    Seed::each("a_power_cut_keeps", 400, |seed| {
        let platter = Platter::default();
        let mut run = open(&platter).unwrap();
        for _ in 0..6 {
            let count = seed.below(40);
            run.work(seed, count);
            platter.cut(&mut seed.draw());
            let found = open(&platter);
            let verdict = run.judge(&found);
            assert!(matches!(verdict, Verdict::Intact), "{verdict:?}");
            run = found.unwrap();
        }
    });
}

#[test]
fn h_33_a_torn_batch_is_noticed_or_leaves_no_trace() {
    let (mut refused, mut intact) = (0, 0);
    Seed::each("h_33_a_torn_batch", 400, |seed| {
        let platter = Platter::default();
        let mut run = open(&platter).unwrap();
        for _ in 0..6 {
            let count = seed.below(40);
            run.work(seed, count);
            platter.cut_and_tear(&mut seed.draw());
            let found = open(&platter);
            match run.judge(&found) {
                Verdict::Intact => {
                    intact += 1;
                    run = found.unwrap();
                }
                Verdict::Refused(StoreError::Damaged { .. }) => {
                    refused += 1;
                    run = Run::wiped(Box::new(platter.engine()), GROUP).unwrap();
                }
                verdict => panic!("{verdict:?}"),
            }
        }
    });
    assert!(
        refused > 0 && intact > 0,
        "{refused} refused, {intact} intact"
    );
}

#[test]
fn h_33_a_disk_that_forgets_what_it_synced_is_noticed() {
    let mut refused = 0;
    Seed::each("h_33_a_disk_that_forgets", 400, |seed| {
        let platter = Platter::default();
        let mut run = open(&platter).unwrap();
        let count = seed.below(80);
        run.work(seed, count);
        run.close();
        // Whatever comes back is either what was there last or refused, however far it goes back.
        platter.forget(1 + seed.below(20));
        match open(&platter) {
            Ok(found) => assert_eq!(found.now(), run.now()),
            Err(StoreError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    });
    assert!(refused > 200, "{refused}");
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_or_changes_nothing() {
    let mut refused = 0;
    Seed::each("a_flipped_bit_anywhere", 2_000, |seed| {
        let platter = Platter::default();
        let mut run = open(&platter).unwrap();
        let count = 1 + seed.below(30);
        run.work(seed, count);
        run.close();
        let values = platter.count(GROUP.number()).max(1);
        let nth = seed.below(values);
        match seed.below(4) {
            0 => platter.flip(GROUP.number(), nth, &mut seed.draw()),
            1 => platter.flip_key(GROUP.number(), nth, &mut seed.draw()),
            2 => platter.lose(GROUP.number(), nth),
            _ => flip_slot(&platter, seed),
        };
        match open(&platter) {
            Ok(found) => assert_eq!(found.now(), run.now()),
            Err(StoreError::Damaged { .. } | StoreError::Future { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    });
    assert!(refused > 1_000, "{refused}");
}

fn flip_slot(platter: &Platter, seed: &mut Seed) -> bool {
    let mut slots = platter.slots();
    let slot = &mut slots[seed.below(2)];
    let mut bytes = slot.to_vec();
    let at = seed.below(bytes.len());
    bytes[at] ^= 1 << seed.below(8);
    *slot = Bytes::from(bytes);
    platter.set_slots(slots);
    true
}

#[test]
fn a_crash_in_the_middle_of_a_wipe_leaves_the_log_as_it_was_or_empty() {
    let (mut refused, mut empty) = (0, 0);
    Seed::each("a_crash_in_the_middle_of_a_wipe", 400, |seed| {
        let platter = Platter::default();
        let mut run = open(&platter).unwrap();
        let count = 10 + seed.below(40);
        run.work(seed, count);
        run.commit();
        let before = run.now().clone();
        // The engine takes so many more calls that change something, then the power goes.
        let calls = seed.below(8);
        let inner = platter.engine();
        let wiped = Run::wiped(Box::new(Dying { inner, calls }), GROUP);
        platter.cut(&mut seed.draw());
        match open(&platter) {
            Ok(found) if *found.now() == before && wiped.is_err() => refused += 1,
            Ok(found) => {
                assert_eq!(*found.now(), Default::default());
                empty += 1;
            }
            Err(error) => panic!("{error}"),
        }
    });
    assert!(refused > 0 && empty > 0, "{refused} {empty}");
}

/// An engine that dies after so many changes.
struct Dying {
    inner: MemoryEngine,
    calls: usize,
}

impl Dying {
    fn live_for_a_slot(&mut self) -> io::Result<()> {
        self.live()
    }

    fn live(&mut self) -> io::Result<()> {
        let left = self.calls.checked_sub(1);
        self.calls = left.ok_or_else(|| io::Error::other("the power is gone"))?;
        Ok(())
    }
}

/// Answers before it syncs: each sync is owed until the next batch.
struct Hasty {
    inner: MemoryEngine,
    owes: bool,
}

impl Hasty {
    fn live_for_a_slot(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn live(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.owes) {
            self.inner.sync()?;
        }
        Ok(())
    }
}

/// Passes everything on; what changes something asks `live` first.
macro_rules! pass_on {
    ($engine:ty, $sync:item) => {
        impl Engine for $engine {
            fn scan(
                &mut self,
                tree: Tree,
                from: &[u8],
                to: &[u8],
                each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
            ) -> io::Result<()> {
                self.inner.scan(tree, from, to, each)
            }
            fn get(&mut self, tree: Tree, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
                self.inner.get(tree, key)
            }
            fn apply(&mut self, tree: Tree, writes: Vec<Write>) -> io::Result<()> {
                self.live()?;
                self.inner.apply(tree, writes)
            }
            $sync
            fn trees(&mut self) -> io::Result<Vec<Tree>> {
                self.inner.trees()
            }
            fn drop_tree(&mut self, tree: Tree) -> io::Result<()> {
                self.live()?;
                self.inner.drop_tree(tree)
            }
            fn slots(&mut self) -> io::Result<[Bytes; 2]> {
                self.inner.slots()
            }
            fn write_slot(&mut self, slot: usize, record: &[u8]) -> io::Result<()> {
                self.live_for_a_slot()?;
                self.inner.write_slot(slot, record)
            }
            fn broken(&self) -> Option<String> {
                self.inner.broken()
            }
            fn restart(&mut self) -> io::Result<()> {
                self.live()?;
                self.inner.restart()
            }
        }
    };
}

pass_on!(
    Dying,
    fn sync(&mut self) -> io::Result<()> {
        self.live()?;
        self.inner.sync()
    }
);

pass_on!(
    Hasty,
    fn sync(&mut self) -> io::Result<()> {
        self.owes = true;
        Ok(())
    }
);

/// How many of so many seeds end in a loss that nobody notices.
fn losses(test: &'static str, cut: impl Fn(&Platter, &mut Seed) -> Run) -> usize {
    let mut losses = 0;
    Seed::each(test, 100, |seed| {
        let platter = Platter::default();
        let run = cut(&platter, seed);
        platter.cut(&mut |_| 0);
        losses += usize::from(matches!(run.judge(&open(&platter)), Verdict::Lost));
    });
    losses
}

#[test]
fn a_sync_that_lies_turns_the_power_cut_test_red() {
    let lying = losses("a_sync_that_lies", |platter, seed| {
        let mut run = open(platter).unwrap();
        platter.lie(true);
        run.work(seed, 40);
        run
    });
    assert!(lying > 50, "{lying}");
}

#[test]
fn an_answer_before_the_sync_turns_the_power_cut_test_red() {
    let hasty = losses("an_answer_before_the_sync", |platter, seed| {
        let inner = platter.engine();
        let mut run = Run::open(Box::new(Hasty { inner, owes: false }), GROUP).unwrap();
        run.work(seed, 40);
        run
    });
    assert!(hasty > 5, "{hasty}");
}
