//! Scripts of the rules that are no hazards: queues, preemption, drains, graces, bounds per step.

use super::script::{Ask, World, at, session, tenant, version, worker};
use crate::directory::command::{Command, DrainReason, Effect, EndReason, Reply};
use crate::machine::{Clock, Machine};

#[test]
fn the_least_loaded_ready_worker_gives_its_lowest_free_slot() {
    let mut world = World::with_worker(2);
    world.attach(2, 3, at(1, 1), 1);
    for number in 1..=5 {
        world.bind(number, at(1, 1));
    }
    let places: Vec<_> = (1..=5).map(|number| world.place(number)).collect();
    assert_eq!(
        places,
        [
            "bound 1/0",
            "bound 2/0",
            "bound 1/1",
            "bound 2/1",
            "bound 2/2"
        ]
    );
    world.end(2, EndReason::Released);
    world.end(4, EndReason::Released);
    world.bind(6, at(1, 1));
    assert_eq!(world.place(6), "bound 2/0");
}

#[test]
fn an_open_repeats_its_present_answer() {
    let mut world = World::with_worker(1);
    let binding = world.bind(1, at(1, 1));
    assert_eq!(world.open(1, Ask::default()), Reply::Bound(binding));
    assert_eq!(world.open(2, Ask::default()), Reply::Queued);
    assert_eq!(
        world.open(
            2,
            Ask {
                wait_ms: 0,
                ..Ask::default()
            }
        ),
        Reply::Queued
    );
    assert_eq!(world.state.queued(version(1)), 1);
    world.end(1, EndReason::Released);
    assert_eq!(
        world.open(1, Ask::default()),
        Reply::Ended(EndReason::Released)
    );
    assert!(matches!(world.open(2, Ask::default()), Reply::Bound(_)));
}

#[test]
fn an_open_without_a_wait_leaves_nothing_behind() {
    let mut world = World::with_worker(1);
    world.bind(1, at(1, 1));
    let digest = world.state.digest();
    assert_eq!(
        world.open(
            2,
            Ask {
                wait_ms: 0,
                ..Ask::default()
            }
        ),
        Reply::NoSlot
    );
    assert_eq!(world.state.digest(), digest);
}

#[test]
fn slots_go_to_the_waiting_in_the_order_of_their_arrival() {
    let mut world = World::new();
    for number in [5, 3, 9, 1] {
        assert_eq!(world.open(number, Ask::default()), Reply::Queued);
    }
    world.attach(1, 2, at(1, 1), 1);
    let places: Vec<_> = [5, 3, 9, 1].map(|number| world.place(number)).to_vec();
    assert_eq!(places, ["bound 1/0", "bound 1/1", "queued", "queued"]);
    // A newcomer stays behind them, also when it would not wait.
    world.end(5, EndReason::Released);
    assert_eq!(
        world.open(
            7,
            Ask {
                wait_ms: 0,
                ..Ask::default()
            }
        ),
        Reply::NoSlot
    );
    assert_eq!(world.place(9), "bound 1/0");
}

#[test]
fn a_waiting_open_ends_at_its_deadline() {
    let mut world = World::new();
    world.open(
        1,
        Ask {
            wait_ms: 3_000,
            ..Ask::default()
        },
    );
    assert_eq!(world.state.next_due(), Some(Clock(3_000)));
    world.pass(2_999);
    assert_eq!(world.place(1), "queued");
    world.pass(1);
    assert_eq!(world.place(1), "ended TimedOut");
    // One whose deadline has passed gets no slot, although no tick has ended it yet.
    world.open(
        2,
        Ask {
            wait_ms: 1_000,
            ..Ask::default()
        },
    );
    let attach = Command::AttachWorker {
        worker: worker(1),
        name: "x".repeat(127) + "é",
        function: pontoon_proto::id::FunctionId(uuid::Uuid::nil()),
        version: version(1),
        slots: 1,
        at: at(1, 1),
        stream: 1,
    };
    world.apply_at(Clock(4_500), attach);
    assert_eq!(world.place(2), "ended TimedOut");
    assert_eq!(world.state.worker(worker(1)).unwrap().name.len(), 127);
}

#[test]
fn c_rsm_6_the_longest_clean_hold_gives_way_after_five_seconds_and_no_other() {
    let mut world = World::with_worker(5);
    world.bind(1, at(1, 1));
    world.bind(2, at(1, 1));
    assert!(matches!(
        world.open(
            3,
            Ask {
                window_asked: true,
                ..Ask::default()
            }
        ),
        Reply::Bound(_)
    ));
    assert!(matches!(
        world.open(
            4,
            Ask {
                absorbed: true,
                ..Ask::default()
            }
        ),
        Reply::Bound(_)
    ));
    world.bind(5, at(1, 1));
    world.leave(3, at(1, 1), 2, true);
    world.leave(5, at(1, 1), 2, false);
    // An absorbed session stays safe also after it was entered and left.
    world.enter(4, at(1, 1), 2);
    world.leave(4, at(1, 1), 3, true);
    world.leave(1, at(1, 1), 2, true);
    world.pass(1_000);
    world.leave(2, at(1, 1), 2, true);
    world.pass(4_000);
    assert_eq!(world.open(10, Ask::default()), Reply::Queued);
    assert_eq!(world.open(11, Ask::default()), Reply::Queued);
    assert_eq!(world.open(12, Ask::default()), Reply::Queued);
    assert_eq!(world.state.next_due(), Some(Clock(5_001)));
    world.pass(1);
    assert_eq!(world.place(1), "ended Preempted");
    assert_eq!(world.place(10), "bound 1/0");
    assert_eq!(world.place(11), "queued");
    world.pass(1_000);
    assert_eq!(world.place(2), "ended Preempted");
    assert_eq!(world.place(11), "bound 1/1");
    world.pass(20_000);
    assert_eq!(world.place(12), "queued");
    let others: Vec<_> = [3, 4, 5].map(|number| world.place(number)).to_vec();
    assert_eq!(others, ["held 1/2", "held 1/3", "held 1/4"]);
}

#[test]
fn c_rsm_6_a_hold_on_a_draining_worker_is_not_ended_for_a_slot_that_nobody_would_get() {
    let mut world = World::with_worker(1);
    world.bind(1, at(1, 1));
    world.leave(1, at(1, 1), 2, true);
    world.drain(1, DrainReason::Health, true);
    world.pass(6_000);
    assert_eq!(world.open(2, Ask::default()), Reply::Queued);
    world.settle();
    assert_eq!(world.place(1), "held 1/0");
    world.drain(1, DrainReason::Health, false);
    assert_eq!(world.place(1), "ended Preempted");
    assert_eq!(world.place(2), "bound 1/0");
}

#[test]
fn c_rsm_3_the_largest_window_counts_and_the_last_to_leave_begins_the_hold() {
    let mut world = World::with_worker(1);
    world.bind(1, at(1, 1));
    let enter = |node: u32, window_ms| Command::Enter {
        id: session(1),
        at: at(node, 1),
        seq: 1,
        window_ms,
    };
    world.apply(enter(2, Some(60_000)));
    world.apply(enter(3, Some(5_000)));
    for (node, seq) in [(1, 2), (2, 2)] {
        world.leave(1, at(node, 1), seq, true);
        assert_eq!(world.place(1), "bound 1/0");
    }
    world.leave(1, at(3, 1), 2, true);
    let kept = world.state.session(session(1)).unwrap();
    assert_eq!(kept.window_ms, 60_000);
    assert_eq!(world.state.hold(kept).unwrap().until, Clock(60_000));
    world.pass(64_999);
    assert_eq!(world.place(1), "held 1/0");
    world.pass(1);
    assert_eq!(world.place(1), "ended Expired");
}

#[test]
fn c_abs_1_an_absorbed_session_starts_held() {
    let mut world = World::new();
    assert_eq!(
        world.open(
            1,
            Ask {
                absorbed: true,
                ..Ask::default()
            }
        ),
        Reply::Queued
    );
    world.attach(1, 1, at(2, 1), 1);
    assert_eq!(world.place(1), "held 1/0");
    assert_eq!(world.state.entered_at(at(1, 1).node).count(), 0);
    assert!(matches!(world.enter(1, at(1, 1), 2), Reply::Bound(_)));
    assert_eq!(world.place(1), "bound 1/0");
}

#[test]
fn k_att_3_a_draining_worker_keeps_its_sessions_and_gets_no_others() {
    let mut world = World::with_worker(2);
    world.bind(1, at(1, 1));
    world.drain(1, DrainReason::Operator, true);
    world.drain(1, DrainReason::Health, true);
    assert_eq!(world.state.free_slots(version(1)), 0);
    assert_eq!(world.open(2, Ask::default()), Reply::Queued);
    // K-HLT-1: health never undoes an operator's drain.
    world.drain(1, DrainReason::Health, false);
    assert_eq!(world.place(2), "queued");
    assert_eq!(world.place(1), "bound 1/0");
    world.drain(1, DrainReason::Operator, false);
    assert_eq!(world.place(2), "bound 1/1");
}

#[test]
fn k_att_2_the_loss_of_one_of_two_nodes_costs_a_worker_nothing() {
    let mut world = World::with_worker(1);
    world.attach(1, 1, at(2, 1), 1);
    world.bind(1, at(3, 1));
    world.lost(at(1, 1));
    world.pass(60_000);
    assert_eq!(world.place(1), "bound 1/0");
    world.lost(at(2, 1));
    world.pass(9_900);
    assert!(!world.state.has_worker(version(1)));
    assert_eq!(world.attach(1, 1, at(3, 1), 1), Reply::Attached);
    world.pass(60_000);
    assert_eq!(world.place(1), "bound 1/0");
    world.lost(at(3, 1));
    world.pass(10_000);
    assert_eq!(world.place(1), "ended WorkerLost");
}

#[test]
fn a_lost_nodes_workers_get_no_session_even_before_they_are_swept() {
    let mut world = World::with_worker(1);
    world.lost(at(1, 1));
    assert_eq!(
        world.open(
            1,
            Ask {
                at: at(2, 1),
                wait_ms: 0,
                ..Ask::default()
            }
        ),
        Reply::NoSlot
    );
    assert_eq!(
        world
            .state
            .attached(world.state.worker(worker(1)).unwrap())
            .count(),
        0
    );
}

#[test]
fn a_dead_workers_sessions_read_as_ended_before_they_are_swept() {
    let mut world = World::with_worker(3_000);
    world.quick = true;
    for number in 0..2_500 {
        world.bind(number, at(2, 1));
    }
    world.dead(1);
    let ended = |effect: &&Effect| matches!(effect, Effect::Ended { .. });
    assert_eq!(world.effects.iter().filter(ended).count(), 1_000);
    assert_eq!(world.state.sessions_len(), 1_500);
    world.state.check().unwrap();
    assert_eq!(world.place(2_499), "ended WorkerLost");
    assert_eq!(
        world.enter(2_499, at(3, 1), 1),
        Reply::Ended(EndReason::WorkerLost)
    );
    assert_eq!(world.state.sessions().count(), 0);
    assert_eq!(world.state.sessions_of(worker(1)).count(), 0);
    assert!(world.state.worker(worker(1)).is_none());
    assert_eq!(world.state.next_due(), Some(world.state.clock()));
    assert!(world.settle() <= 3);
    assert_eq!(world.state.sessions_len(), 0);
    world.state.check().unwrap();
    let unknown = |number| world.place(number) == "ended WorkerLost";
    assert!((0..2_500).all(unknown));
}

#[test]
fn a_long_queue_is_served_a_piece_at_a_time_and_a_newcomer_does_not_pass_it() {
    let mut world = World::new();
    world.quick = true;
    for number in 0..3_000 {
        let ask = Ask {
            tenant: number / 1_000,
            ..Ask::default()
        };
        assert_eq!(world.open(number, ask), Reply::Queued);
    }
    world.attach(1, 5_000, at(1, 1), 1);
    assert_eq!(world.state.queued(version(1)), 2_000);
    world.state.check().unwrap();
    // A newcomer does not pass the ones who wait for the next tick.
    assert_eq!(
        world.open(
            9_999,
            Ask {
                tenant: 9,
                ..Ask::default()
            }
        ),
        Reply::Queued
    );
    world.settle();
    // The newcomer's tenant has its turn after one open of each other one.
    assert_eq!(world.place(9_999), "bound 1/2003");
    assert_eq!(world.place(2_999), "bound 1/3000");
    world.state.check().unwrap();
}

#[test]
fn a_later_boot_ends_the_earlier_ones_whoever_says_so_first() {
    for word in 0..4 {
        let mut world = World::with_worker(2);
        world.attach(1, 2, at(2, 1), 1);
        world.bind(1, at(1, 1));
        match word {
            0 => drop(world.up(at(1, 2))),
            1 => drop(world.bind(2, at(1, 2))),
            2 => drop(world.enter(1, at(1, 2), 1)),
            _ => drop(world.attach(1, 2, at(1, 2), 1)),
        }
        assert!(world.state.boot_over(at(1, 1)), "{word}");
        assert!(!world.state.boot_over(at(1, 2)), "{word}");
        assert_eq!(world.enter(1, at(1, 1), 9), Reply::Stale, "{word}");
        assert_eq!(world.open(3, Ask::default()), Reply::Stale, "{word}");
        world.settle();
    }
}

#[test]
fn reconciliation_finds_what_a_node_has_here() {
    let mut world = World::with_worker(1);
    world.bind(1, at(2, 1));
    world.open(
        2,
        Ask {
            at: at(2, 1),
            ..Ask::default()
        },
    );
    let node = at(2, 1).node;
    assert_eq!(
        world.state.entered_at(node).collect::<Vec<_>>(),
        [session(1)]
    );
    assert_eq!(
        world.state.waiting_at(node).collect::<Vec<_>>(),
        [session(2)]
    );
    assert_eq!(
        world.state.attached_at(at(1, 1).node).collect::<Vec<_>>(),
        [worker(1)]
    );
    world.lost(at(2, 1));
    assert_eq!(
        world.state.entered_at(node).count() + world.state.waiting_at(node).count(),
        0
    );
}

#[test]
fn one_tenants_queue_is_counted_back_when_it_is_served() {
    let mut world = World::new();
    world.open(
        1,
        Ask {
            tenant: 5,
            ..Ask::default()
        },
    );
    world.cancel(1);
    assert!(world.state.has_room(version(1), tenant(5)));
    assert_eq!(world.state.queued(version(1)), 0);
}
