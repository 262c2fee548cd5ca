//! Tenants take turns in a version's queue, whatever happens to those who wait.

use super::script::{Ask, World, at, session, version, worker};
use crate::directory::command::{Command, EndReason, Reply};
use crate::directory::queue::TURNS_FORMAT;
use crate::machine::{Machine, reborn};
use pontoon_proto::id::NodeBoot;

fn queue_at(world: &mut World, tenant: u64, numbers: std::ops::Range<u64>, at: NodeBoot) {
    for number in numbers {
        let ask = Ask {
            tenant,
            at,
            wait_ms: 600_000,
            ..Ask::default()
        };
        assert_eq!(world.open(number, ask), Reply::Queued);
    }
}

fn queue(world: &mut World, tenant: u64, numbers: std::ops::Range<u64>) {
    queue_at(world, tenant, numbers, at(1, 1));
}

/// A worker of one slot, which session 0 has, so that whoever opens waits.
fn world() -> World {
    let mut world = World::with_worker(1);
    world.bind(0, at(1, 1));
    world
}

/// Ends the session that has the slot, and says who has it then.
fn next(world: &mut World) -> u64 {
    let held = world.state.sessions_of(worker(1)).next().unwrap().id;
    world.apply(Command::End {
        id: held,
        reason: EndReason::Released,
    });
    let next = world.state.sessions_of(worker(1)).next().unwrap().id;
    (0..10_000).find(|number| session(*number) == next).unwrap()
}

fn order(world: &mut World, count: usize) -> Vec<u64> {
    (0..count).map(|_| next(world)).collect()
}

#[test]
fn one_open_behind_a_thousand_of_another_tenant_is_served_second() {
    let mut world = world();
    world.quick = true;
    queue(&mut world, 1, 1..1_001);
    queue(&mut world, 2, 2_000..2_001);
    world.quick = false;
    assert_eq!(order(&mut world, 4), [1, 2_000, 2, 3]);
}

#[test]
fn tenants_take_turns_and_each_is_served_in_the_order_of_its_arrivals() {
    let mut world = world();
    queue(&mut world, 1, 10..14);
    queue(&mut world, 2, 20..22);
    queue(&mut world, 3, 30..33);
    assert_eq!(order(&mut world, 4), [10, 20, 30, 11]);
    // Who comes anew stands behind those who wait for their turn.
    queue(&mut world, 4, 40..42);
    assert_eq!(order(&mut world, 7), [21, 31, 12, 40, 32, 13, 41]);
    assert_eq!(world.state.queued(version(1)), 0);
}

#[test]
fn a_tenant_gains_no_turn_by_cancelling_nor_by_emptying_its_queue() {
    let mut world = world();
    queue(&mut world, 1, 10..15);
    queue(&mut world, 2, 20..22);
    assert_eq!(next(&mut world), 10);
    // Its next one, 12, arrived before 20, and still it is the other's turn.
    world.cancel(11);
    assert_eq!(order(&mut world, 2), [20, 12]);
    world.cancel(13);
    world.cancel(14);
    queue(&mut world, 1, 15..16);
    assert_eq!(order(&mut world, 2), [21, 15]);
}

#[test]
fn h_14_the_dead_opens_of_a_lost_node_cost_their_tenant_no_turn() {
    let mut world = world();
    queue(&mut world, 1, 10..11);
    queue_at(&mut world, 1, 11..15, at(2, 1));
    queue(&mut world, 1, 15..17);
    queue(&mut world, 2, 20..23);
    assert_eq!(next(&mut world), 10);
    world.lost(at(2, 1));
    assert_eq!(order(&mut world, 5), [20, 15, 21, 16, 22]);
    assert_eq!(world.place(12), "ended NodeLost");
}

#[test]
fn turns_survive_a_snapshot() {
    let mut world = world();
    queue(&mut world, 1, 10..13);
    queue(&mut world, 2, 20..23);
    assert_eq!(next(&mut world), 10);
    world.state = reborn(&world.state);
    world.state.check().unwrap();
    assert_eq!(order(&mut world, 5), [20, 11, 21, 12, 22]);
}

#[test]
fn entries_of_an_older_format_mean_what_they_meant_to_older_builds() {
    let mut world = world();
    world.state.governed_by(TURNS_FORMAT - 1);
    queue(&mut world, 1, 10..15);
    queue(&mut world, 2, 20..22);
    assert_eq!(order(&mut world, 2), [10, 11]);
    // From the first entry of the new format on, the one who was served goes behind.
    world.state.governed_by(TURNS_FORMAT);
    assert_eq!(order(&mut world, 5), [12, 20, 13, 21, 14]);
}
