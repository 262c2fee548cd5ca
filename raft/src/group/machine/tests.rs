//! What is published, and when: a machine that adds numbers, without consensus around it.

use super::*;
use crate::directory::Directory;
use crate::directory::command::{Command, Effect, EndReason};
use crate::group::types::log_id;
use crate::machine::Clock;
use pontoon_proto::id::{
    FunctionId, GroupId, NodeBoot, NodeId, RegionId, RequestId, TenantId, VersionId, WorkerId,
};
use std::path::Path;
use tokio::sync::broadcast::Receiver;
use uuid::Uuid;

/// Adds numbers; the effect of each command is its number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sum(u64);

impl Machine for Sum {
    type Command = u64;
    type Reply = u64;
    type Effect = u64;

    const KIND: u8 = 202;

    fn clock(&self) -> Clock {
        Clock(self.0)
    }

    fn apply(&mut self, _: u64, _: Clock, number: u64, effects: &mut Vec<u64>) -> u64 {
        self.0 += number;
        effects.push(number);
        self.0
    }

    fn next_due(&self) -> Option<Clock> {
        Some(Clock(self.0 + 1))
    }

    fn tick() -> u64 {
        0
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// An entry with one command.
fn record<M: Machine>(command: &M::Command) -> Bytes {
    let batch = Batch {
        format: FORMAT,
        stamp: Clock(0),
        commands: vec![codec::encode(command).unwrap()],
    };
    let body = codec::encode(&batch).unwrap();
    codec::frame(Role::Batch, M::KIND, 0, &body).unwrap()
}

/// Applies entries that hold their own index as the command.
fn apply(typed: &mut Typed<Sum>, indices: std::ops::RangeInclusive<u64>, fresh: bool) {
    for index in indices {
        typed
            .apply(index, &record::<Sum>(&index), fresh, false)
            .unwrap();
    }
}

fn heard<E: Clone>(effects: &mut Receiver<E>) -> Vec<E> {
    std::iter::from_fn(|| effects.try_recv().ok()).collect()
}

#[test]
fn a_replica_that_starts_again_shows_nothing_older_than_was_seen() {
    let published = Arc::new(Published::new(&Sum(0)));
    let mut effects = published.effects.subscribe();
    let mut first = Typed::new(Sum(0), published.clone());
    apply(&mut first, 1..=4, true);
    first.publish(4, false);
    assert_eq!(heard(&mut effects), [1, 2, 3, 4]);
    drop(first);

    let mut second = Typed::new(Sum(0), published.clone());
    for index in 1..=3 {
        apply(&mut second, index..=index, false);
        second.publish(index, true);
        assert_eq!(published.state.load().0, 10, "after {index}");
        assert_eq!(*published.applied.borrow(), 4);
        assert_eq!(published.pulse.clock(), Clock(10));
        assert_eq!(published.pulse.due(), Some(Clock(11)));
    }
    // One batch leads over what was seen: only what is new has effects.
    apply(&mut second, 4..=6, true);
    second.publish(6, false);
    assert_eq!(published.state.load().0, 21);
    assert_eq!(*published.applied.borrow(), 6);
    assert_eq!(heard(&mut effects), [5, 6]);
    assert_eq!(
        *published.restored.borrow(),
        0,
        "everything unseen had its effects"
    );
}

#[test]
fn readers_learn_once_that_a_replay_has_brought_what_no_effect_told() {
    let published = Arc::new(Published::new(&Sum(0)));
    let mut effects = published.effects.subscribe();
    let mut typed = Typed::new(Sum(0), published.clone());
    for index in 1..=3 {
        apply(&mut typed, index..=index, false);
        typed.publish(index, index < 3);
        assert_eq!(published.state.load().0, (1..=index).sum::<u64>());
        assert_eq!(*published.restored.borrow(), u64::from(index == 3));
    }
    apply(&mut typed, 4..=4, true);
    typed.publish(4, false);
    assert_eq!(*published.restored.borrow(), 1);
    assert_eq!(heard(&mut effects), [4]);
}

#[test]
fn a_new_incarnation_begins_at_zero() {
    let published = Arc::new(Published::new(&Sum(0)));
    let mut old = Typed::new(Sum(0), published.clone());
    apply(&mut old, 1..=9, true);
    old.publish(9, false);
    drop(old);
    published.reset(&Sum(0));
    assert_eq!(*published.applied.borrow(), 0);
    assert_eq!(*published.restored.borrow(), 1);
    let mut new = Typed::new(Sum(0), published.clone());
    apply(&mut new, 1..=2, true);
    new.publish(2, false);
    assert_eq!(published.state.load().0, 3);
}

const AT: NodeBoot = NodeBoot {
    node: NodeId(1),
    boot: 1,
};

fn request(number: u8) -> RequestId {
    RequestId::mint(RegionId(1), [number; 16])
}

fn open(number: u8) -> Command {
    Command::Open {
        id: request(number),
        tenant: TenantId(Uuid::from_u128(1)),
        function: FunctionId(Uuid::from_u128(2)),
        version: VersionId(Uuid::from_u128(3)),
        at: AT,
        seq: 1,
        asked: Clock(0),
        wait_ms: 30_000,
        window_ms: 30_000,
        absorbed: false,
        window_asked: false,
    }
}

/// The log of H-17: a worker with one slot, which X has and S waits for, until X ends.
fn log() -> Vec<Command> {
    let attach = Command::AttachWorker {
        worker: WorkerId(Uuid::from_u128(4)),
        name: "worker".into(),
        function: FunctionId(Uuid::from_u128(2)),
        version: VersionId(Uuid::from_u128(3)),
        slots: 1,
        at: AT,
        stream: 1,
    };
    let id = request(b'X');
    let reason = EndReason::Released;
    let end = Command::End { id, reason };
    vec![attach, open(b'X'), open(b'S'), end, open(b'T')]
}

/// Applies entries of the log, and publishes each.
fn follow(applier: &mut dyn Applier, log: &[Command], indices: std::ops::RangeInclusive<usize>) {
    for index in indices {
        let record = record::<Directory>(&log[index - 1]);
        applier.apply(index as u64, &record, true, false).unwrap();
        applier.publish(index as u64, false);
    }
}

fn replica(dir: &Path) -> (Replica, Arc<Published<Directory>>) {
    let empty = Directory::new(RegionId(1));
    let published = Arc::new(Published::new(&empty));
    let applier = Box::new(Typed::new(empty, published.clone()));
    let snapshots = Snapshots::open(dir, GroupId::Catalog).unwrap();
    (Replica::new(applier, snapshots, None), published)
}

#[tokio::test]
async fn h_17_a_replica_that_gets_a_snapshot_shows_what_no_effect_told_and_says_so() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = log();
    let (mut leader, ahead) = replica(here.path());
    follow(leader.applier.as_deref_mut().unwrap(), &log, 1..=4);
    leader.last = Some(log_id(1, 1, 4));

    let (mut laggard, seen) = replica(there.path());
    let mut effects = seen.effects.subscribe();
    let mut restored = seen.restored.subscribe();
    follow(laggard.applier.as_deref_mut().unwrap(), &log, 1..=3);
    let opened = Effect::Opened {
        tenant: TenantId(Uuid::from_u128(1)),
        version: VersionId(Uuid::from_u128(3)),
        at: AT,
    };
    assert_eq!(heard(&mut effects), [opened.clone(), opened.clone()]);
    assert!(!restored.has_changed().unwrap());
    let before = seen.state.load_full();
    assert!(before.session(request(b'X')).unwrap().binding().is_some());
    assert!(before.session(request(b'S')).unwrap().binding().is_none());

    let snapshot = leader.get_snapshot_builder().await.build_snapshot().await;
    let snapshot = snapshot.unwrap();
    let (meta, file) = (snapshot.meta, snapshot.snapshot);
    laggard.install_snapshot(&meta, file).await.unwrap();
    assert_eq!(heard(&mut effects), [], "a snapshot emits nothing");
    assert!(restored.has_changed().unwrap(), "but says that it came");
    assert_eq!(*restored.borrow_and_update(), 1);
    assert_eq!(*seen.applied.borrow(), 4);
    let after = seen.state.load_full();
    assert!(after.session(request(b'X')).is_none());
    assert_eq!(after.ended(request(b'X')), Some(EndReason::Released));
    assert!(after.session(request(b'S')).unwrap().binding().is_some());
    assert_eq!(after.digest(), ahead.state.load().digest());

    // From here on it has effects again, and is what the leader is.
    let end = Command::End {
        id: request(b'S'),
        reason: EndReason::Operator,
    };
    let log = [log, vec![end]].concat();
    follow(leader.applier.as_deref_mut().unwrap(), &log, 5..=6);
    follow(laggard.applier.as_deref_mut().unwrap(), &log, 5..=6);
    assert_eq!(seen.state.load().digest(), ahead.state.load().digest());
    let heard = heard(&mut effects);
    assert!(
        matches!(&heard[..], [first, Effect::Ended { .. }, Effect::Bound { id, .. }]
            if *first == opened && *id == request(b'T')),
        "{heard:?}"
    );
    assert!(!restored.has_changed().unwrap());
}

#[tokio::test]
async fn a_snapshot_of_another_kind_of_machine_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut replica, _) = replica(dir.path());
    let file = Snapshots::open(dir.path(), GroupId::Region(RegionId(1)))
        .unwrap()
        .write(1, Sum::KIND, b"", |to| codec::write_state(&Sum(7), to))
        .unwrap();
    let meta = replica.meta();
    let refused = replica.install_snapshot(&meta, file).await.unwrap_err();
    assert!(refused.to_string().contains("kind"), "{refused}");
}
