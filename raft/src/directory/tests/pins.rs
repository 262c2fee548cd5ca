//! The log format depends on the order of these variants: append, never insert.

use super::script::{Ask, World, at, session, worker};
use crate::directory::command::*;
use crate::directory::session::{Hold, State, Waiting};
use crate::machine::{Clock, variant};

#[test]
fn commands_keep_their_places_in_the_log() {
    let world = World::new();
    let Command::Open { id, at, .. } = world.opening(1, Ask::default()) else {
        panic!("not an open");
    };
    let (worker, reason) = (worker(1), DrainReason::Health);
    let commands = [
        Command::AttachWorker {
            worker,
            name: String::new(),
            function: pontoon_proto::id::FunctionId(uuid::Uuid::nil()),
            version: pontoon_proto::id::VersionId(uuid::Uuid::nil()),
            slots: 1,
            at,
            stream: 1,
        },
        Command::DetachWorker {
            worker,
            at,
            stream: 1,
        },
        Command::DrainWorker {
            worker,
            reason,
            on: true,
        },
        Command::WorkerDead { worker },
        world.opening(1, Ask::default()),
        Command::CancelOpen { id },
        Command::Enter {
            id,
            at,
            seq: 1,
            window_ms: None,
        },
        Command::Leave {
            id,
            at,
            seq: 1,
            clean: true,
        },
        Command::End {
            id,
            reason: EndReason::Released,
        },
        Command::NodeUp { at },
        Command::NodeLost { at },
        Command::Tick,
        Command::LinkUp { worker },
    ];
    for (place, command) in commands.iter().enumerate() {
        assert_eq!(variant(command), place as u32, "{command:?}");
    }
}

#[test]
fn reasons_and_replies_keep_their_places_in_the_log() {
    let ends = [
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
    for (place, end) in ends.iter().enumerate() {
        assert_eq!(variant(end), place as u32, "{end:?}");
    }
    let drains = [
        DrainReason::Health,
        DrainReason::Sidecar,
        DrainReason::Operator,
        DrainReason::NoLink,
    ];
    assert_eq!(drains.each_ref().map(variant), [0, 1, 2, 3]);
    let refusals = [
        AttachRefusal::Lost,
        AttachRefusal::Changed,
        AttachRefusal::StaleNode,
    ];
    assert_eq!(refusals.each_ref().map(variant), [0, 1, 2]);
    let binding = Binding {
        worker: worker(1),
        slot: 0,
        index: 1,
    };
    let replies = [
        Reply::Done,
        Reply::Attached,
        Reply::AttachRefused(AttachRefusal::Lost),
        Reply::Bound(binding),
        Reply::Queued,
        Reply::NoSlot,
        Reply::QueueFull,
        Reply::Stale,
        Reply::Ended(EndReason::Released),
        Reply::NotFound,
    ];
    for (place, reply) in replies.iter().enumerate() {
        assert_eq!(variant(reply), place as u32, "{reply:?}");
    }
    let clock = Clock(0);
    let states = [
        State::Queued(Waiting {
            at: at(1, 1),
            seq: 1,
            arrival: 1,
            deadline: clock,
        }),
        State::Bound(binding),
        State::Held(
            binding,
            Hold {
                since: clock,
                until: clock,
                clean: true,
            },
        ),
    ];
    assert_eq!(states.each_ref().map(variant), [0, 1, 2]);
    assert_eq!(session(1).region().map(|region| region.0), Some(3));
}
