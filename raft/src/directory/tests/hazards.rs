//! One script per hazard that the state machine answers.

use super::script::{Ask, REFUSED_LOST, World, at, session, version, worker};
use crate::directory::command::{AttachRefusal, Command, DrainReason, Effect, EndReason, Reply};
use crate::directory::queue::{QUEUE_MAX, QUEUE_TENANT_MAX, WARY_FORMAT};
use crate::machine::{Clock, Machine};

#[test]
fn h_1_a_worker_with_one_slot_attached_twice_carries_one_session() {
    let mut world = World::with_worker(1);
    assert_eq!(world.attach(1, 1, at(2, 1), 1), Reply::Attached);
    world.bind(1, at(1, 1));
    let no_wait = Ask {
        wait_ms: 0,
        at: at(2, 1),
        ..Ask::default()
    };
    assert_eq!(world.open(2, no_wait), Reply::NoSlot);
    assert_eq!(world.state.sessions().count(), 1);
    assert_eq!(world.state.workers().count(), 1);
}

#[test]
fn h_4_a_slot_that_changes_hands_in_one_entry_does_so_under_a_higher_binding_index() {
    let mut world = World::with_worker(2);
    let first = world.bind(1, at(1, 1));
    world.bind(2, at(1, 1));
    assert_eq!(world.open(3, Ask::default()), Reply::Queued);
    let entry = world.index + 1;
    assert_eq!(world.end(1, EndReason::Released), Reply::Done);
    let third = world.binding(3).unwrap();
    assert_eq!((third.worker, third.slot), (first.worker, first.slot));
    assert!(third.index > first.index);
    assert_eq!(third.index >> 16, entry);
    let ended = Effect::Ended {
        id: session(1),
        reason: EndReason::Released,
        binding: Some(first),
    };
    assert_eq!(
        world.effects,
        [
            ended,
            Effect::Bound {
                id: session(3),
                binding: third
            }
        ]
    );
    // A lagging node's late messages about the old session change nothing.
    assert_eq!(
        world.enter(1, at(2, 1), 1),
        Reply::Ended(EndReason::Released)
    );
    assert_eq!(
        world.open(1, Ask::default()),
        Reply::Ended(EndReason::Released)
    );
    assert_eq!(world.place(3), "bound 1/0");
}

#[test]
fn h_4_sessions_bound_by_one_entry_have_different_binding_indices() {
    let mut world = World::new();
    for number in 1..=5 {
        assert_eq!(world.open(number, Ask::default()), Reply::Queued);
    }
    world.attach(1, 5, at(1, 1), 1);
    let mut indices: Vec<u64> = (1..=5).map(|n| world.binding(n).unwrap().index).collect();
    assert!(indices.is_sorted());
    indices.dedup();
    assert_eq!(indices.len(), 5);
}

#[test]
fn h_8_a_node_that_came_back_before_it_was_missed_left_no_entry() {
    let mut world = World::with_worker(1);
    world.attach(1, 1, at(2, 1), 1);
    world.bind(1, at(1, 1));
    world.pass(2_000);
    assert_eq!(world.up(at(1, 2)), Reply::Done);
    assert_eq!(world.place(1), "held 1/0");
    assert_eq!(world.state.entered_at(at(1, 1).node).count(), 0);
    world.pass(30_000);
    assert_eq!(world.place(1), "held 1/0");
    world.pass(5_001);
    assert_eq!(world.place(1), "ended Expired");
    assert_eq!(world.state.free_slots(version(1)), 1);
}

#[test]
fn h_9_a_retried_enter_counts_once_and_a_late_loss_spares_the_new_life() {
    let mut world = World::with_worker(1);
    world.attach(1, 1, at(3, 1), 1);
    let binding = world.bind(1, at(1, 1));
    assert_eq!(world.enter(1, at(2, 4), 7), Reply::Bound(binding));
    assert_eq!(world.enter(1, at(2, 4), 7), Reply::Bound(binding));
    assert_eq!(world.state.session(session(1)).unwrap().entries.len(), 2);
    // A late copy of an older leave, too.
    assert_eq!(world.leave(1, at(2, 4), 6, true), Reply::Done);
    assert_eq!(world.leave(1, at(1, 1), 2, true), Reply::Done);
    assert_eq!(world.place(1), "bound 1/0");
    assert_eq!(world.enter(1, at(2, 5), 1), Reply::Bound(binding));
    assert_eq!(world.lost(at(2, 4)), Reply::Done);
    world.settle();
    assert_eq!(world.place(1), "bound 1/0");
    assert_eq!(world.enter(1, at(2, 4), 99), Reply::Stale);
    assert_eq!(world.leave(1, at(2, 4), 99, true), Reply::Stale);
    assert_eq!(world.place(1), "bound 1/0");
    assert_eq!(world.up(at(2, 4)), Reply::Stale);
}

#[test]
fn h_9_an_enter_that_is_overtaken_by_its_leave_does_not_count() {
    let mut world = World::with_worker(1);
    world.bind(1, at(1, 1));
    world.leave(1, at(1, 1), 2, true);
    world.leave(1, at(2, 1), 2, false);
    let binding = world.binding(1).unwrap();
    assert_eq!(world.enter(1, at(2, 1), 1), Reply::Bound(binding));
    assert_eq!(world.place(1), "held 1/0");
}

#[test]
fn h_10_a_node_that_reads_of_its_own_loss_enters_again_under_a_new_boot() {
    let mut world = World::with_worker(1);
    world.attach(1, 1, at(2, 1), 1);
    let ask = Ask {
        at: at(1, 1),
        window_ms: 0,
        ..Ask::default()
    };
    let Reply::Bound(binding) = world.open(1, ask) else {
        panic!()
    };
    world.lost(at(1, 1));
    assert!(world.effects.contains(&Effect::BootOver { at: at(1, 1) }));
    assert!(world.state.boot_over(at(1, 1)));
    // The hold lasts 10 s although the window is 0; within it the node finds out and returns.
    world.pass(9_000);
    assert_eq!(world.enter(1, at(1, 1), 2), Reply::Stale);
    assert_eq!(world.enter(1, at(1, 2), 1), Reply::Bound(binding));
    world.pass(60_000);
    assert_eq!(world.place(1), "bound 1/0");
}

#[test]
fn h_11_an_enter_that_is_ordered_after_the_tick_of_the_windows_end_still_finds_the_session() {
    let mut world = World::with_worker(1);
    let binding = world.bind(1, at(1, 1));
    world.leave(1, at(1, 1), 2, true);
    world.pass(29_900);
    // Answered here from a replica; the enter comes 5 s of state clock later.
    world.pass(5_000);
    assert_eq!(world.enter(1, at(2, 1), 1), Reply::Bound(binding));
    assert_eq!(world.place(1), "bound 1/0");
    world.leave(1, at(2, 1), 2, true);
    world.pass(35_000);
    assert_eq!(
        world.enter(1, at(2, 1), 3),
        Reply::Ended(EndReason::Expired)
    );
}

#[test]
fn h_12_a_late_copy_of_a_cancelled_open_binds_nothing() {
    let mut world = World::with_worker(1);
    let open = world.opening(1, Ask::default());
    assert_eq!(world.cancel(1), Reply::Done);
    assert_eq!(
        world.apply(open.clone()),
        Reply::Ended(EndReason::Cancelled)
    );
    // The tombstone goes after 60 s; by then the open is too old by itself.
    world.pass(59_000);
    assert_eq!(
        world.apply(open.clone()),
        Reply::Ended(EndReason::Cancelled)
    );
    world.pass(3_000);
    assert_eq!(world.place(1), "unknown");
    assert_eq!(world.apply(open), Reply::Stale);
    assert_eq!(world.state.sessions().count(), 0);
}

#[test]
fn h_13_a_confirmed_cancel_ends_the_open_wherever_it_got() {
    let mut world = World::with_worker(1);
    world.bind(1, at(1, 1));
    assert_eq!(world.open(2, Ask::default()), Reply::Queued);
    assert_eq!(world.cancel(2), Reply::Done);
    assert_eq!(world.cancel(1), Reply::Done);
    assert_eq!(world.cancel(1), Reply::Done);
    assert_eq!(world.place(1), "ended Cancelled");
    assert_eq!(world.place(2), "ended Cancelled");
    assert_eq!(world.state.free_slots(version(1)), 1);
}

#[test]
fn h_14_no_slot_is_spent_on_the_opens_of_a_dead_node() {
    let mut world = World::with_worker(1);
    world.bind(1, at(1, 1));
    for number in 2..=501 {
        assert_eq!(
            world.open(
                number,
                Ask {
                    at: at(2, 1),
                    ..Ask::default()
                }
            ),
            Reply::Queued
        );
    }
    assert_eq!(world.open(502, Ask::default()), Reply::Queued);
    world.lost(at(2, 1));
    assert_eq!(world.place(2), "ended NodeLost");
    world.end(1, EndReason::Released);
    let bound = |effect: &&Effect| matches!(effect, Effect::Bound { .. });
    assert_eq!(world.effects.iter().filter(bound).count(), 1);
    assert_eq!(world.place(502), "bound 1/0");
    world.settle();
    assert_eq!(world.place(501), "ended NodeLost");
    assert_eq!(world.state.sessions_len(), 1);
}

#[test]
fn h_15_a_session_whose_entry_node_died_before_its_first_tunnel_gives_its_slot_back() {
    let mut world = World::with_worker(1);
    world.attach(1, 1, at(2, 1), 1);
    assert!(matches!(
        world.open(
            1,
            Ask {
                window_ms: 0,
                ..Ask::default()
            }
        ),
        Reply::Bound(_)
    ));
    assert_eq!(
        world.open(
            2,
            Ask {
                at: at(2, 1),
                ..Ask::default()
            }
        ),
        Reply::Queued
    );
    world.lost(at(1, 1));
    world.pass(14_000);
    assert_eq!(world.place(1), "held 1/0");
    world.pass(2_000);
    assert_eq!(world.place(1), "ended Expired");
    assert_eq!(world.place(2), "bound 1/0");
}

#[test]
fn h_16_a_jump_of_the_leaders_clock_moves_the_state_clock_two_seconds_at_most() {
    let mut world = World::with_worker(1);
    world.bind(1, at(1, 1));
    world.leave(1, at(1, 1), 2, false);
    let before = world.state.clock();
    world.apply_at(Clock(before.0 + 600_000), Command::Tick);
    assert_eq!(world.state.clock().since(before), Clock::STEP_MAX);
    assert_eq!(world.place(1), "held 1/0");
    // And back: time stands for this entry, and goes on with the next stamp.
    world.apply_at(Clock(0), Command::Tick);
    assert_eq!(world.state.clock().since(before), Clock::STEP_MAX);
    world.pass(33_001);
    assert_eq!(world.place(1), "ended Expired");
}

#[test]
fn h_19_an_ended_session_is_refused_by_the_machine_from_the_entry_on_that_ended_it() {
    let mut world = World::with_worker(1);
    world.bind(1, at(1, 1));
    assert_eq!(world.end(1, EndReason::Released), Reply::Done);
    assert_eq!(world.state.session(session(1)), None);
    assert_eq!(world.state.ended(session(1)), Some(EndReason::Released));
    assert_eq!(
        world.enter(1, at(1, 1), 2),
        Reply::Ended(EndReason::Released)
    );
    assert_eq!(
        world.end(1, EndReason::Operator),
        Reply::Ended(EndReason::Released)
    );
    world.pass(62_000);
    assert_eq!(world.enter(1, at(1, 1), 3), Reply::NotFound);
}

#[test]
fn h_21_a_lost_worker_never_comes_back_and_its_sessions_are_over() {
    let mut world = World::with_worker(2);
    world.bind(1, at(2, 1));
    assert_eq!(world.detach(1, at(1, 1), 1), Reply::Done);
    assert!(!world.state.has_worker(version(1)));
    world.pass(2_000);
    assert_eq!(world.place(1), "bound 1/0");
    world.pass(1_000);
    assert_eq!(world.place(1), "ended WorkerLost");
    assert_eq!(world.attach(1, 2, at(1, 1), 2), REFUSED_LOST);
    world.pass(300_000);
    assert_eq!(world.attach(1, 2, at(1, 1), 3), REFUSED_LOST);
    assert_eq!(world.attach(2, 2, at(1, 1), 4), Reply::Attached);
}

#[test]
fn h_21_a_worker_that_attaches_again_within_the_grace_keeps_its_sessions() {
    let mut world = World::with_worker(1);
    world.bind(1, at(2, 1));
    world.detach(1, at(1, 1), 1);
    world.pass(2_900);
    assert_eq!(world.attach(1, 1, at(1, 1), 2), Reply::Attached);
    // The detach of the older stream comes late, and once more.
    assert_eq!(world.detach(1, at(1, 1), 1), Reply::Done);
    world.pass(20_000);
    assert_eq!(world.place(1), "bound 1/0");
    assert_eq!(
        world
            .state
            .attached(world.state.worker(worker(1)).unwrap())
            .count(),
        1
    );
    // So does an attach that was overtaken by its own detach.
    world.attach(1, 1, at(2, 1), 1);
    world.detach(1, at(2, 1), 3);
    world.attach(1, 1, at(2, 1), 2);
    world.detach(1, at(1, 1), 2);
    assert!(!world.state.has_worker(version(1)));
}

#[test]
fn h_21_another_worker_under_a_known_id_is_refused() {
    let mut world = World::with_worker(1);
    let changed = Reply::AttachRefused(AttachRefusal::Changed);
    assert_eq!(world.attach(1, 2, at(2, 1), 1), changed);
    assert_eq!(world.attach_to(1, 2, 1, at(2, 1), 1), changed);
    assert_eq!(world.attach(9, 0, at(2, 1), 1), changed);
    assert_eq!(world.attach(9, 16_385, at(2, 1), 1), changed);
    world.lost(at(2, 1));
    let stale = Reply::AttachRefused(AttachRefusal::StaleNode);
    assert_eq!(world.attach(1, 1, at(2, 1), 2), stale);
}

#[test]
fn h_21_an_attach_that_comes_after_the_word_of_death_is_refused() {
    let mut world = World::new();
    assert_eq!(world.dead(1), Reply::Done);
    assert_eq!(world.attach(1, 1, at(1, 1), 1), REFUSED_LOST);
}

#[test]
fn h_24_an_id_of_another_region_is_not_taken_in() {
    let mut world = World::with_worker(1);
    let Command::Open { at, .. } = world.opening(1, Ask::default()) else {
        panic!()
    };
    let mut foreign = world.opening(1, Ask::default());
    if let Command::Open { id, .. } = &mut foreign {
        *id = pontoon_proto::id::RequestId::mint(pontoon_proto::id::RegionId(4), [1; 16]);
    }
    assert_eq!(world.apply(foreign), Reply::Stale);
    assert!(!world.state.boot_over(at));
}

#[test]
fn h_27_a_worker_that_no_tunnel_reaches_comes_last_and_is_set_aside_until_one_does() {
    let mut world = World::with_worker(2);
    world.attach(2, 3, at(1, 1), 1);
    assert_eq!(world.bind(1, at(1, 1)).worker, worker(1));
    world.end(1, EndReason::NoLink);
    // It is the emptiest, and yet nobody has it again while another one has room.
    for number in 2..=4 {
        assert_eq!(world.bind(number, at(1, 1)).worker, worker(2));
    }
    for number in 5..=6 {
        assert_eq!(world.bind(number, at(1, 1)).worker, worker(1));
        world.end(number, EndReason::NoLink);
    }
    let aside = world.state.worker(worker(1)).unwrap();
    assert!(aside.draining.contains(&DrainReason::NoLink));
    assert_eq!(world.open(7, Ask::default()), Reply::Queued);
    assert_eq!(
        world.apply(Command::LinkUp { worker: worker(1) }),
        Reply::Done
    );
    assert_eq!(world.place(7), "bound 1/0");
}

#[test]
fn h_27_entries_of_an_older_format_choose_the_emptiest_worker() {
    let mut world = World::with_worker(2);
    world.attach(2, 3, at(1, 1), 1);
    world.state.governed_by(WARY_FORMAT - 1);
    for number in 1..=2 {
        assert_eq!(world.bind(number, at(1, 1)).worker, worker(1));
        world.end(number, EndReason::NoLink);
    }
    world.state.governed_by(WARY_FORMAT);
    assert_eq!(world.bind(3, at(1, 1)).worker, worker(2));
}

#[test]
fn h_32_absorbed_sessions_whose_users_vanish_give_their_slots_back() {
    let mut world = World::with_worker(16_384);
    world.quick = true;
    for number in 0..10_000 {
        let ask = Ask {
            absorbed: true,
            ..Ask::default()
        };
        assert!(matches!(world.open(number, ask), Reply::Bound(_)));
    }
    world.state.check().unwrap();
    assert_eq!(world.place(7), "held 1/7");
    assert_eq!(world.state.free_slots(version(1)), 6_384);
    world.pass(36_000);
    assert_eq!(world.state.free_slots(version(1)), 16_384);
    world.state.check().unwrap();
}

#[test]
fn h_34_queues_refuse_beyond_their_bounds() {
    let mut world = World::new();
    world.quick = true;
    let mut number = 0;
    for tenant in 0..10 {
        for _ in 0..QUEUE_TENANT_MAX {
            number += 1;
            assert_eq!(
                world.open(
                    number,
                    Ask {
                        tenant,
                        ..Ask::default()
                    }
                ),
                Reply::Queued
            );
        }
        assert_eq!(
            world.open(
                0,
                Ask {
                    tenant,
                    ..Ask::default()
                }
            ),
            Reply::QueueFull
        );
    }
    assert_eq!(
        world.open(
            0,
            Ask {
                tenant: 99,
                ..Ask::default()
            }
        ),
        Reply::QueueFull
    );
    assert_eq!(world.state.queued(version(1)), QUEUE_MAX);
    assert_eq!(
        world.open(
            0,
            Ask {
                version: 2,
                ..Ask::default()
            }
        ),
        Reply::Queued
    );
    world.state.check().unwrap();
}
