//! The real engine's files after a power loss, and damaged in every part.
//!
//! A wrapper keeps the bytes of all files as of the last completed sync: what the worst disk would
//! keep. What was written since then is in the page cache, and a power loss keeps any blocks of it.

use super::GROUP;
use super::model::{Run, Seed, Verdict};
use crate::store::StoreError;
use crate::store::disk::SledEngine;
use crate::store::engine::{Engine, Tree, Write};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// What the page cache writes at once.
const BLOCK: usize = 4096;

/// All files below a folder, by relative path.
type Image = BTreeMap<PathBuf, Vec<u8>>;

/// A folder in memory, where there is one: these tests copy and open hundreds of them.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn read(dir: &Path) -> Image {
    let mut image = Image::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_path_buf();
                image.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    image
}

fn write(image: &Image) -> TempDir {
    let dir = folder();
    for (name, bytes) in image {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    dir
}

/// What opens on these files.
fn open(image: &Image) -> (TempDir, Result<Run, StoreError>) {
    let dir = write(image);
    let engine = engine(dir.path());
    let run = engine.and_then(|engine| Run::open(Box::new(engine), GROUP));
    (dir, run)
}

/// The engine in a folder, once the one before has let go of it: a thread of sled's may still hold
/// the lock for a moment.
fn engine(dir: &Path) -> Result<SledEngine, StoreError> {
    for _ in 0..100_000 {
        match SledEngine::open(&dir.join("log")) {
            Err(StoreError::Engine(error)) if error.to_string().contains("acquire lock") => {
                std::thread::yield_now();
            }
            opened => return opened,
        }
    }
    panic!("the lock of {} is never released", dir.display());
}

/// The real engine, and the files as of its last sync.
struct Recorder {
    inner: SledEngine,
    dir: PathBuf,
    synced: Arc<Mutex<Image>>,
    syncs: Arc<Mutex<Syncs>>,
}

/// What becomes of a sync.
#[derive(Clone, Copy)]
enum Syncs {
    Honest,
    /// Claimed, not done.
    Lying,
    /// The power goes before it is done: all is in the page cache, and nobody is answered.
    Dying,
}

impl Recorder {
    fn open(dir: &Path) -> Recorder {
        Recorder {
            inner: engine(dir).unwrap(),
            dir: dir.into(),
            synced: Arc::new(Mutex::new(read(dir))),
            syncs: Arc::new(Mutex::new(Syncs::Honest)),
        }
    }
}

impl Engine for Recorder {
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
        self.inner.apply(tree, writes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.inner.sync()?;
        match *self.syncs.lock().unwrap() {
            Syncs::Honest => *self.synced.lock().unwrap() = read(&self.dir),
            Syncs::Lying => {}
            Syncs::Dying => return Err(io::Error::other("the power is gone")),
        }
        Ok(())
    }

    fn trees(&mut self) -> io::Result<Vec<Tree>> {
        self.inner.trees()
    }

    fn drop_tree(&mut self, tree: Tree) -> io::Result<()> {
        self.inner.drop_tree(tree)
    }

    fn slots(&mut self) -> io::Result<[Bytes; 2]> {
        self.inner.slots()
    }

    fn write_slot(&mut self, slot: usize, record: &[u8]) -> io::Result<()> {
        self.inner.write_slot(slot, record)
    }

    fn broken(&self) -> Option<String> {
        self.inner.broken()
    }

    fn restart(&mut self) -> io::Result<()> {
        self.inner.restart()
    }
}

/// Works on a log, at last with syncs of that kind. Says what was synced and what was in the page
/// cache.
fn used(seed: &mut Seed, count: usize, last: Syncs) -> (Run, Image, Image) {
    // On a disk, where slots are written as they are in production.
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path());
    let (synced, syncs) = (recorder.synced.clone(), recorder.syncs.clone());
    let mut run = Run::open(Box::new(recorder), GROUP).unwrap();
    run.work(seed, count);
    *syncs.lock().unwrap() = last;
    run.work(seed, 10);
    run.commit();
    let cached = read(dir.path());
    let synced = synced.lock().unwrap().clone();
    (run, synced, cached)
}

/// What a power loss may leave: of each file the synced bytes, and any of the blocks that changed.
fn lost_power(synced: &Image, cached: &Image, seed: &mut Seed) -> Image {
    let names: BTreeSet<&PathBuf> = synced.keys().chain(cached.keys()).collect();
    let mut left = Image::new();
    for name in names {
        match (synced.get(name), cached.get(name)) {
            (Some(old), Some(new)) => {
                left.insert(name.clone(), mixed(old, new, seed));
            }
            // A file that came or went: its name may have been durable or not. Sled syncs what it
            // renames.
            (Some(whole), None) | (None, Some(whole)) => {
                if seed.below(2) == 0 {
                    left.insert(name.clone(), whole.clone());
                }
            }
            (None, None) => {}
        }
    }
    left
}

fn mixed(old: &[u8], new: &[u8], seed: &mut Seed) -> Vec<u8> {
    let mut left = old.to_vec();
    if new.len() > old.len() && seed.below(2) == 0 {
        let longer = old.len() + seed.below(new.len() - old.len() + 1);
        left.resize(longer, 0);
    }
    for at in (0..left.len()).step_by(BLOCK) {
        let end = (at + BLOCK).min(left.len()).min(new.len());
        if at < end && seed.below(2) == 0 {
            left[at..end].copy_from_slice(&new[at..end]);
        }
    }
    left
}

/// Flips a bit of what was written since the last sync: a disk that dies with the power. Bytes that
/// were synced stay, though they share a block with new ones: were the last batch damaged there, and
/// its slot not written, nobody could tell.
fn flipped(synced: &Image, mut left: Image, seed: &mut Seed) -> Image {
    for (name, bytes) in &mut left {
        let old = synced.get(name).map_or(&[][..], Vec::as_slice);
        let is_new = |at: &usize| old.get(*at) != bytes.get(*at);
        let new: Vec<usize> = (0..bytes.len()).filter(is_new).collect();
        if !new.is_empty() {
            bytes[new[seed.below(new.len())]] ^= 1 << seed.below(8);
        }
    }
    left
}

fn after_a_power_loss(test: &'static str, seeds: u64, operations: usize) {
    let (mut intact, mut refused) = (0, 0);
    Seed::each(test, seeds, |seed| {
        let count = seed.below(operations);
        let last = [Syncs::Honest, Syncs::Dying][seed.below(2)];
        let (run, synced, cached) = used(seed, count, last);
        let (_dir, found) = open(&synced);
        let verdict = run.judge(&found);
        assert!(matches!(verdict, Verdict::Intact), "{verdict:?}");
        drop(found);
        let mut left = lost_power(&synced, &cached, seed);
        if seed.below(2) == 0 {
            left = flipped(&synced, left, seed);
        }
        let (_dir, found) = open(&left);
        match run.judge(&found) {
            Verdict::Intact => intact += 1,
            Verdict::Refused(StoreError::Damaged { why, .. }) => {
                eprintln!("refused: {why}");
                refused += 1;
            }
            verdict => panic!("{verdict:?}"),
        }
    });
    eprintln!("{intact} intact, {refused} refused");
}

#[test]
fn a_power_loss_keeps_what_the_real_engine_has_synced() {
    after_a_power_loss("a_power_loss_keeps_what", 60, 120);
}

#[test]
#[ignore = "slow: cargo test --release -p pontoon-raft --lib store::tests::real -- --ignored"]
fn a_power_loss_keeps_it_also_when_sled_uses_segments_again() {
    after_a_power_loss("a_power_loss_keeps_it_also", 200, 2_000);
}

#[test]
fn skipping_the_sync_turns_the_power_loss_test_red() {
    let mut losses = 0;
    Seed::each("skipping_the_sync", 10, |seed| {
        let (run, synced, _) = used(seed, 60, Syncs::Lying);
        let (_dir, found) = open(&synced);
        losses += usize::from(matches!(run.judge(&found), Verdict::Lost));
    });
    assert!(losses > 5, "{losses}");
}

/// A log that was closed cleanly twice, so that sled has a checkpoint and a log behind it. What is in
/// its files was all durable.
fn closed(seed: &mut Seed, count: usize) -> (Run, Image) {
    let dir = folder();
    let open = || {
        let engine = engine(dir.path()).unwrap();
        Run::open(Box::new(engine), GROUP).unwrap()
    };
    let mut run = open();
    run.work(seed, count / 2);
    run.close();
    drop(run);
    let mut run = open();
    run.work(seed, count - count / 2);
    run.close();
    let image = read(dir.path());
    assert!(!is_refused(&run, &image, "whole"));
    (run, image)
}

/// Opens damaged files; answers whether they were refused. Silent loss fails.
fn is_refused(run: &Run, image: &Image, what: &str) -> bool {
    let (_dir, found) = open(image);
    match found {
        Ok(found) => {
            assert_eq!(found.now(), run.now(), "{what}");
            false
        }
        Err(
            StoreError::Damaged { .. } | StoreError::Future { .. } | StoreError::Foreign { .. },
        ) => true,
        // Sled's settings say that another version of it wrote them. Nothing is touched.
        Err(StoreError::Engine(error)) if error.kind() == io::ErrorKind::Unsupported => true,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Wipes what was refused, uses it, and opens it once more.
fn comes_back(image: &Image, seed: &mut Seed, what: &str) {
    let dir = write(image);
    let wiped = engine(dir.path()).and_then(|engine| Run::wiped(Box::new(engine), GROUP));
    let mut run = wiped.unwrap_or_else(|error| panic!("{what}: {error}"));
    run.work(seed, 100);
    run.close();
    let state = run.now().clone();
    drop(run);
    let found = engine(dir.path()).and_then(|engine| Run::open(Box::new(engine), GROUP));
    let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(*found.now(), state, "{what}");
}

fn spread(count: usize, len: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |nth| nth * len / count)
}

#[test]
fn h_33_a_flipped_byte_anywhere_in_sleds_log_is_noticed_or_changes_nothing() {
    Seed::each("h_33_a_flipped_byte_anywhere", 1, |seed| {
        let (run, image) = closed(seed, 1_000);
        let db = Path::new("log/db");
        let mut refused = 0;
        for at in spread(300, image[db].len()) {
            let mut image = image.clone();
            image.get_mut(db).unwrap()[at] ^= 0x40;
            let what = format!("db, byte {at}");
            if is_refused(&run, &image, &what) {
                refused += 1;
                comes_back(&image, seed, &what);
            }
        }
        eprintln!("{} bytes, {refused} of 300 refused", image[db].len());
        assert!(refused > 10, "{refused}");
    });
}

#[test]
fn h_33_a_cut_end_of_sleds_log_is_noticed() {
    Seed::each("h_33_a_cut_end", 1, |seed| {
        let (run, image) = closed(seed, 200);
        let db = Path::new("log/db");
        let used = image[db].iter().rposition(|byte| *byte != 0).unwrap();
        for at in spread(60, used) {
            for zeroes in [false, true] {
                let mut image = image.clone();
                let bytes = image.get_mut(db).unwrap();
                if zeroes {
                    bytes[at..].fill(0);
                } else {
                    bytes.truncate(at);
                }
                is_refused(&run, &image, &format!("db cut at {at}, zeroes: {zeroes}"));
            }
        }
    });
}

#[test]
fn what_sled_can_no_longer_open_is_put_aside_by_a_wipe() {
    Seed::each("what_sled_can_no_longer_open", 1, |seed| {
        let (run, image) = closed(seed, 100);
        let mut without_slots = image.clone();
        without_slots.remove(Path::new("log.durable"));
        let mut without_log = image.clone();
        without_log.retain(|name, _| !name.starts_with("log"));
        let mut garbage = image.clone();
        garbage.get_mut(Path::new("log/db")).unwrap().fill(0x5a);
        for (damaged, what) in [
            (without_slots, "no slots"),
            (without_log, "no log"),
            (garbage, "garbage"),
        ] {
            assert!(is_refused(&run, &damaged, what), "{what}");
            comes_back(&damaged, seed, what);
        }
    });
}

#[test]
fn a_foreign_file_where_the_slots_should_be_is_left_alone() {
    let mut image = Image::new();
    image.insert("log.durable".into(), b"#!/bin/sh\nexit 0\n".to_vec());
    let (dir, found) = open(&image);
    let error = found.map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(read(dir.path()), image, "nothing was changed or added");
}

#[test]
fn every_other_file_beside_sleds_log_may_be_flipped_cut_or_missing() {
    Seed::each("every_other_file", 1, |seed| {
        let (run, image) = closed(seed, 100);
        for name in image.keys().filter(|name| !name.ends_with("db")) {
            let mut missing = image.clone();
            missing.remove(name);
            is_refused(&run, &missing, &format!("{} missing", name.display()));
            let used = image[name].iter().rposition(|byte| *byte != 0);
            for at in spread(40, used.unwrap_or(0) + 1) {
                let mut flipped = image.clone();
                if let Some(byte) = flipped.get_mut(name).unwrap().get_mut(at) {
                    *byte ^= 0x40;
                }
                is_refused(
                    &run,
                    &flipped,
                    &format!("{} flipped at {at}", name.display()),
                );
                let mut cut = image.clone();
                cut.get_mut(name).unwrap().truncate(at);
                is_refused(&run, &cut, &format!("{} cut at {at}", name.display()));
            }
        }
    });
}
