//! The state hash: it covers every bit of every record.

use super::limits::set;
use super::routes::{only, spill, weigh};
use super::rules::{World, client, key, node, region, worker};
use super::shares::share;
use crate::catalog::command::{Command, Limited, Reply, SHARES_FORMAT};
use crate::catalog::{Catalog, Records};
use crate::machine::{Machine, flipped, reborn};
use imbl::OrdMap;
use std::sync::Arc;

/// A catalog with records of every kind.
fn varied() -> Catalog {
    let mut world = World::with_two_tenants();
    let format = SHARES_FORMAT;
    let of = Limited::Tenant(pontoon_proto::id::TenantId(uuid::Uuid::from_u128(1)));
    for command in [
        Command::RaiseFormat { format },
        set(of, Some(5), Some(1_000), Some(2)),
        key(31, 1, client(1, &[11])),
        key(32, 2, worker(2, 22)),
        region(1, "here", &[1, 2, 3]),
        node(1, 4, "one", 7001),
        weigh(11, &[(21, 95)]),
        spill(21, only(&[1])),
        share(11, 2, true),
    ] {
        assert_eq!(world.say(command), Reply::Done);
    }
    world.state
}

/// Plants each of these records in the place of the right one.
fn planted<T>(state: &Catalog, what: &str, wrong: Vec<T>, plant: impl Fn(&mut Records, T)) {
    let hash = state.digest();
    assert!(wrong.len() > 8, "{what}: hardly anything can be read");
    for record in wrong {
        let mut other = state.clone();
        plant(&mut other.records, record);
        assert_ne!(other.digest(), hash, "{what}");
    }
}

/// The same for all records of one kind.
macro_rules! planted_all {
    ($state:expr, $($kind:ident),*) => {$(
        assert!(!$kind.is_empty(), stringify!($kind));
        for (id, record) in $kind {
            planted($state, stringify!($kind), flipped(&*record), |other, one| {
                other.$kind.insert(id, Arc::new(one));
            });
        }
    )*};
}

#[test]
fn a_bit_in_any_record_changes_the_state_hash() {
    let state = varied();
    let Records {
        clock,
        tenants,
        keys,
        functions,
        versions,
        regions,
        nodes,
        settings,
        audit,
        limits,
        weights,
        spills,
        shares,
    } = state.records.clone();
    planted_all!(&state, tenants, keys, functions, versions, regions, nodes);
    for (place, record) in audit.iter().enumerate() {
        planted(&state, "audit", flipped(&**record), |other, one| {
            other.audit.set(place, Arc::new(one));
        });
    }
    for (of, limit) in limits {
        planted(&state, "limits", flipped(&limit), |other, one| {
            other.limits.insert(of, one);
        });
    }
    for (of, weights) in weights {
        planted(&state, "weights", flipped(&weights), |other, one| {
            other.weights.insert(of, one);
        });
    }
    for (of, spill) in spills {
        planted(&state, "spills", flipped(&spill), |other, one| {
            other.spills.insert(of, one);
        });
    }
    for share in shares {
        planted(&state, "shares", flipped(&share), |other, one| {
            other.shares.remove(&share);
            other.shares.insert(one);
        });
    }
    planted(&state, "settings", flipped(&settings), |other, one| {
        other.settings = one
    });
    planted(&state, "clock", flipped(&clock), |other, one| {
        other.clock = one
    });
}

#[test]
fn a_record_more_or_less_changes_the_state_hash() {
    fn first<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>) {
        *map = map.without_min().1;
    }
    let state = varied();
    let changes: [fn(&mut Records); 11] = [
        |records| first(&mut records.tenants),
        |records| first(&mut records.keys),
        |records| first(&mut records.functions),
        |records| first(&mut records.versions),
        |records| first(&mut records.regions),
        |records| first(&mut records.nodes),
        |records| drop(records.audit.pop_front()),
        |records| first(&mut records.limits),
        |records| first(&mut records.weights),
        |records| first(&mut records.spills),
        |records| records.shares.clear(),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut other = state.clone();
        change(&mut other.records);
        assert_ne!(other.digest(), state.digest(), "change {number}");
    }
}

#[test]
fn the_state_hash_survives_a_snapshot() {
    let state = varied();
    let copy = reborn(&state);
    assert_eq!(copy.digest(), state.digest());
    copy.check().unwrap();
}
