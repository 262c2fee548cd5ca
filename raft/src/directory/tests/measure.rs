//! How long a step may take.

use super::script::{Ask, REGION, World, at, version, worker};
use crate::directory::Directory;
use crate::directory::command::{Command, Effect, Reply};
use crate::machine::{Clock, Machine};
use pontoon_proto::id::FunctionId;
use std::time::Duration;

/// Binds `count` sessions through node 1 to workers of 1,000 slots that are attached at node 1 and
/// `others`, as a leader would: published after each batch of 100.
pub(super) fn filled(count: u64, others: &[u32]) -> World {
    let mut world = World {
        state: Directory::new(REGION),
        index: 0,
        effects: Vec::new(),
        quick: true,
    };
    for number in 0..count.div_ceil(1_000) {
        for node in std::iter::once(&1).chain(others) {
            assert_eq!(
                world.attach(number, 1_000, at(*node, 1), 1),
                Reply::Attached
            );
        }
    }
    let mut published = world.state.clone();
    for number in 0..count {
        world.bind(scattered(number), at(1, 1));
        if number % 100 == 0 {
            published = world.state.clone();
        }
    }
    drop(published);
    world
}

/// Numbers of 48 bits in no order, as minted ids are: trees fill differently when keys rise.
pub(super) fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

/// CPU time of this thread so far, nanoseconds: what other processes of the machine do is not in it.
/// The kernel counts it up at ticks of 4 ms or less, so a difference may be off by one.
pub(super) fn busy() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// Applies a command and then ticks until nothing is due; the longest step, and how many there were.
pub(super) fn longest(world: &mut World, command: Command) -> (Duration, u32) {
    let mut longest = Duration::ZERO;
    let mut steps = 0;
    let mut next = Some(command);
    while let Some(command) = next.take() {
        // As if the state of before had just been published: every node is shared.
        let published = world.state.clone();
        let mut effects: Vec<Effect> = Vec::new();
        world.index += 1;
        let from = busy();
        world
            .state
            .apply(world.index, world.state.clock(), command, &mut effects);
        longest = longest.max(Duration::from_nanos(busy() - from));
        drop(published);
        steps += 1;
        let due = world
            .state
            .next_due()
            .is_some_and(|due| due <= world.state.clock());
        next = due.then_some(Command::Tick);
    }
    (longest, steps)
}

#[test]
fn h_34_no_step_takes_50_ms_when_a_node_with_100_000_sessions_is_lost() {
    let mut world = filled(100_000, &[2]);
    let from = busy();
    let (step, steps) = longest(&mut world, Command::NodeLost { at: at(1, 1) });
    let mean = Duration::from_nanos((busy() - from) / u64::from(steps));
    println!("node lost: longest of {steps} steps took {step:?}, the mean {mean:?}");
    assert!(step < Duration::from_millis(50), "{step:?}");
    assert!(steps >= 100);
    world.state.check().unwrap();
    assert_eq!(world.place(scattered(99_999)), "held 99/999");

    // All of them expire at once.
    while world.state.clock() < Clock(34_999) {
        world.apply_at(
            Clock((world.state.clock().0 + 2_000).min(34_999)),
            Command::Tick,
        );
    }
    world.state.clock = Clock(35_000);
    let from = busy();
    let (step, steps) = longest(&mut world, Command::Tick);
    let mean = Duration::from_nanos((busy() - from) / u64::from(steps));
    println!("expiry: longest of {steps} steps took {step:?}, the mean {mean:?}");
    assert!(step < Duration::from_millis(50), "{step:?}");
    assert_eq!(world.state.sessions_len(), 0);
    world.state.check().unwrap();
}

#[test]
fn h_34_no_step_takes_50_ms_when_a_full_worker_dies_before_a_full_queue() {
    let mut world = World::with_worker(16_384);
    world.quick = true;
    for number in 0..16_384 {
        world.bind(number, at(2, 1));
    }
    for number in 0..10_000 {
        let ask = Ask {
            tenant: number / 1_000,
            wait_ms: 600_000,
            ..Ask::default()
        };
        assert_eq!(world.open(20_000 + number, ask), Reply::Queued);
    }
    let (dead, _) = longest(&mut world, Command::WorkerDead { worker: worker(1) });
    let attach = Command::AttachWorker {
        worker: worker(2),
        name: String::new(),
        function: FunctionId(uuid::Uuid::nil()),
        version: version(1),
        slots: 16_384,
        at: at(2, 1),
        stream: 1,
    };
    let (attached, steps) = longest(&mut world, attach);
    println!("worker dead {dead:?}, queue served in {steps} steps of at most {attached:?}");
    assert!(dead.max(attached) < Duration::from_millis(50));
    assert_eq!(world.place(29_999), "bound 2/9999");
    world.state.check().unwrap();
}
