//! The state hash: it covers every bit of every record, and nothing else.

use super::script::{Ask, World, at, session, worker};
use crate::directory::Directory;
use crate::directory::command::{DrainReason, EndReason, Reply};
use crate::machine::{Machine, flipped, reborn};
use std::sync::Arc;

/// A directory with records of every kind, and sessions in every state.
fn varied() -> Directory {
    let mut world = World::new();
    // A draining worker, one at two nodes, and one whose loss is remembered.
    world.attach(1, 8, at(1, 1), 1);
    world.bind(1, at(1, 1));
    world.dead(9);
    world.attach(2, 2, at(1, 1), 1);
    world.attach(2, 2, at(2, 4), 7);
    world.drain(1, DrainReason::Operator, true);
    // Bound, entered at two nodes.
    world.bind(2, at(1, 1));
    world.enter(2, at(2, 4), 5);
    // Held.
    world.pass(1_700);
    world.bind(3, at(2, 4));
    world.leave(3, at(2, 4), 2, true);
    // Queued, ended, and the life of a node that is over.
    let ask = Ask {
        at: at(2, 4),
        ..Ask::default()
    };
    assert_eq!(world.open(4, ask), Reply::Queued);
    world.cancel(5);
    world.lost(at(7, 3));
    let places: Vec<String> = (1..=5).map(|number| world.place(number)).collect();
    let expected = [
        "bound 1/0",
        "bound 2/0",
        "held 2/1",
        "queued",
        "ended Cancelled",
    ];
    assert_eq!(places, expected);
    world.state
}

/// Plants each of these records in the place of the right one.
fn planted<T>(state: &Directory, what: &str, wrong: Vec<T>, plant: impl Fn(&mut Directory, T)) {
    let hash = state.digest();
    assert!(wrong.len() > 8, "{what}: hardly anything can be read");
    for record in wrong {
        let mut other = state.clone();
        plant(&mut other, record);
        assert_ne!(other.digest(), hash, "{what}");
    }
}

#[test]
fn a_bit_in_any_record_changes_the_state_hash() {
    let state = varied();
    // Named one by one, so that a new kind of record can't be forgotten here.
    let Directory {
        region,
        clock,
        bindings,
        arrivals,
        sessions,
        workers,
        lives,
        tombs,
        lost,
        indexes: _,
        format: _,
    } = state.clone();
    for (id, record) in sessions {
        planted(&state, "session", flipped(&*record), |other, one| {
            other.sessions.insert(id, Arc::new(one));
        });
    }
    for (id, record) in workers {
        planted(&state, "worker", flipped(&*record), |other, one| {
            other.workers.insert(id, Arc::new(one));
        });
    }
    for (id, life) in lives {
        planted(&state, "life", flipped(&life), |other, one| {
            other.lives.insert(id, one);
        });
    }
    for (id, tomb) in tombs {
        planted(&state, "tombstone", flipped(&tomb), |other, one| {
            other.tombs.insert(id, one);
        });
    }
    for (id, until) in lost {
        planted(&state, "lost worker", flipped(&until), |other, one| {
            other.lost.insert(id, one);
        });
    }
    planted(&state, "region", flipped(&region), |other, one| {
        other.region = one;
    });
    planted(&state, "clock", flipped(&clock), |other, one| {
        other.clock = one;
    });
    planted(&state, "bindings", flipped(&bindings), |other, one| {
        other.bindings = one;
    });
    planted(&state, "arrivals", flipped(&arrivals), |other, one| {
        other.arrivals = one;
    });
}

#[test]
fn a_record_more_or_less_or_under_another_key_changes_the_state_hash() {
    let state = varied();
    let hash = state.digest();
    let changes: [fn(&mut Directory); 6] = [
        |state| {
            state.sessions.remove(&session(2));
        },
        |state| {
            state.workers.remove(&worker(2));
        },
        |state| {
            state.lives.remove(&at(7, 3).node);
        },
        |state| {
            state.tombs.remove(&session(5));
        },
        |state| {
            state.lost.remove(&worker(9));
        },
        |state| {
            let until = state.lost.remove(&worker(9)).unwrap();
            state.lost.insert(worker(10), until);
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut other = state.clone();
        change(&mut other);
        assert_ne!(other.digest(), hash, "change {number}");
    }
}

#[test]
fn the_state_hash_does_not_depend_on_how_the_state_came_about() {
    let state = varied();
    let copy = reborn(&state);
    assert_eq!(copy.digest(), state.digest());
    copy.check().unwrap();
    // From here on the two have the same life over trees with different pasts.
    let worlds = [state, copy].map(|state| {
        let mut world = World::new();
        world.state = state;
        world.end(2, EndReason::Released);
        world.pass(40_000);
        world
    });
    assert_eq!(worlds[0].state.digest(), worlds[1].state.digest());
    assert_eq!(worlds[0].place(3), "ended Expired");
}

#[test]
fn a_snapshot_whose_records_are_out_of_order_is_refused() {
    let mut bytes = Vec::new();
    crate::codec::write_state(&varied(), &mut bytes).unwrap();
    // The first two sessions exchange their ids.
    let find = |number: u64| {
        let id = session(number).to_bytes();
        bytes.windows(16).position(|window| window == id).unwrap()
    };
    let (low, high) = (find(1), find(2));
    let mut swapped = bytes.clone();
    swapped[low..low + 16].copy_from_slice(&session(2).to_bytes());
    swapped[high..high + 16].copy_from_slice(&session(1).to_bytes());
    assert!(crate::codec::read_state::<Directory>(&bytes[..]).is_ok());
    assert!(crate::codec::read_state::<Directory>(&swapped[..]).is_err());
}
