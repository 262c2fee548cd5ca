//! What a directory writes, byte for byte: append variants, never insert, and add each one here.

use super::script::{Ask, World, at, session, version, worker};
use crate::codec::{self, Role};
use crate::directory::command::*;
use crate::directory::{Directory, State};
use crate::golden::{Golden, places};
use crate::machine::Machine;
use bytes::Bytes;
use pontoon_proto::id::FunctionId;
use uuid::Uuid;

const BINDING: Binding = Binding {
    worker: worker(7),
    slot: 3,
    index: 0x0011_0000,
};

const ENDS: [EndReason; 9] = [
    EndReason::Released,
    EndReason::Expired,
    EndReason::WorkerLost,
    EndReason::Cancelled,
    EndReason::NoLink,
    EndReason::Preempted,
    EndReason::TimedOut,
    EndReason::NodeLost,
    EndReason::Operator,
];

const DRAINS: [DrainReason; 4] = [
    DrainReason::Health,
    DrainReason::Sidecar,
    DrainReason::Operator,
    DrainReason::NoLink,
];

const REFUSALS: [AttachRefusal; 3] = [
    AttachRefusal::Lost,
    AttachRefusal::Changed,
    AttachRefusal::StaleNode,
];

fn commands() -> Vec<Command> {
    let (worker, id, at) = (worker(7), session(5), at(2, 3));
    vec![
        Command::AttachWorker {
            worker,
            name: "worker-7".into(),
            function: FunctionId(Uuid::from_u128(1)),
            version: version(1),
            slots: 4,
            at,
            stream: 11,
        },
        Command::DetachWorker {
            worker,
            at,
            stream: 11,
        },
        Command::DrainWorker {
            worker,
            reason: DrainReason::NoLink,
            on: true,
        },
        Command::WorkerDead { worker },
        World::new().opening(5, Ask::default()),
        Command::CancelOpen { id },
        Command::Enter {
            id,
            at,
            seq: 12,
            window_ms: Some(30_000),
        },
        Command::Leave {
            id,
            at,
            seq: 13,
            clean: true,
        },
        Command::End {
            id,
            reason: EndReason::Operator,
        },
        Command::NodeUp { at },
        Command::NodeLost { at },
        Command::Tick,
        Command::LinkUp { worker },
    ]
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Done,
        Reply::Attached,
        Reply::AttachRefused(AttachRefusal::StaleNode),
        Reply::Bound(BINDING),
        Reply::Queued,
        Reply::NoSlot,
        Reply::QueueFull,
        Reply::Stale,
        Reply::Ended(EndReason::Operator),
        Reply::NotFound,
    ]
}

/// A state with something of everything: sessions that are bound, held and queued, a tomb, a worker
/// that is detached and one that was lost, a node's life.
fn state() -> Directory {
    let mut world = World::with_worker(2);
    world.attach(2, 1, at(2, 3), 11);
    for number in 1..=5 {
        world.open(number, Ask::default());
    }
    world.apply(Command::Leave {
        id: session(1),
        at: at(1, 1),
        seq: 2,
        clean: true,
    });
    world.drain(1, DrainReason::Operator, true);
    world.apply(Command::CancelOpen { id: session(5) });
    world.dead(2);
    world.apply(Command::NodeUp { at: at(2, 4) });
    world.detach(1, at(1, 1), 1);
    world.pass(1_500);
    world.state
}

/// The same with a tenant that was served from the queue and waits for its next turn.
fn state_with_turns() -> Directory {
    let mut world = World::with_worker(1);
    for number in 1..=4 {
        let ask = Ask {
            tenant: number / 3,
            ..Ask::default()
        };
        world.open(number, ask);
    }
    world.cancel(1);
    let next = world.state.session(session(3)).map(|one| &one.state);
    assert!(matches!(next, Some(State::Queued(_))), "{next:?}");
    world.open(5, Ask::default());
    world.end(2, EndReason::Released);
    let next = world.state.session(session(4)).map(|one| &one.state);
    assert!(matches!(next, Some(State::Next(..))), "{next:?}");
    world.state
}

#[test]
fn what_a_directory_writes_keeps_its_bytes() {
    let mut golden = Golden::of("directory-");
    golden.variants("command", Role::Command, Directory::KIND, &commands());
    golden.variants("reply", Role::Reply, Directory::KIND, &replies());
    for (name, state) in [("state", state()), ("state-turns", state_with_turns())] {
        let mut bytes = Vec::new();
        codec::write_state(&state, &mut bytes).unwrap();
        let found: Bytes = golden.bytes(name, &bytes);
        let found: Directory = codec::read_state(&found[..]).unwrap();
        found.check().unwrap();
        assert_eq!(found.digest(), state.digest());
        assert_eq!(found.clock(), state.clock());
    }
    golden.end();
}

#[test]
fn reasons_keep_their_places_in_the_log() {
    places(&ENDS);
    places(&DRAINS);
    places(&REFUSALS);
}
