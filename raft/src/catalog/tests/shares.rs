//! Functions that other tenants than their own may call.

use super::rules::{World, client, key, refused, tenant, worker};
use crate::catalog::GUESTS_MAX;
use crate::catalog::command::*;
use crate::machine::{Machine, reborn};
use pontoon_proto::id::{FunctionId, TenantId};
use uuid::Uuid;

const FUNCTION: FunctionId = FunctionId(Uuid::from_u128(11));
const OWNER: TenantId = TenantId(Uuid::from_u128(1));
const GUEST: TenantId = TenantId(Uuid::from_u128(2));

pub(super) fn share(function: u128, tenant: u128, shared: bool) -> Command {
    Command::SetShare {
        function: FunctionId(Uuid::from_u128(function)),
        tenant: TenantId(Uuid::from_u128(tenant)),
        shared,
        actor: "ada".to_owned(),
    }
}

/// Two tenants with a function each, in a cluster that knows shares.
fn world() -> World {
    let mut world = World::with_two_tenants();
    let format = SHARES_FORMAT;
    assert_eq!(world.say(Command::RaiseFormat { format }), Reply::Done);
    world
}

#[test]
fn a_function_is_called_by_its_tenant_and_by_those_that_it_is_shared_with() {
    let mut world = world();
    let may = |world: &World| [OWNER, GUEST].map(|one| world.state.may_call(one, FUNCTION));
    assert_eq!(may(&world), [true, false]);
    assert_eq!(world.say(share(11, 2, true)), Reply::Done);
    assert_eq!(may(&world), [true, true]);
    assert!(world.state.guests(FUNCTION).eq([GUEST]));
    let other = FunctionId(Uuid::from_u128(12));
    assert!(
        !world.state.may_call(OWNER, other),
        "not the other way round"
    );
    assert_eq!(world.state.guests(other).count(), 0);
    assert_eq!(world.say(share(11, 2, false)), Reply::Done);
    assert_eq!(may(&world), [true, false]);
    let nothing = FunctionId(Uuid::from_u128(99));
    assert!(!world.state.may_call(OWNER, nothing));
}

#[test]
fn each_change_of_a_share_is_audited_and_a_repetition_is_not() {
    let mut world = world();
    let before = world.audited();
    for shared in [false, true, true, false, false] {
        assert_eq!(world.say(share(11, 2, shared)), Reply::Done);
    }
    assert_eq!(
        world.said_since(before),
        [
            format!("share function {FUNCTION} with tenant {GUEST}"),
            format!("unshare function {FUNCTION} with tenant {GUEST}"),
        ]
    );
}

#[test]
fn shares_that_can_not_be_meant_are_refused_and_say_why() {
    let mut world = world();
    for (command, says) in [
        (share(99, 2, true), "there is no function"),
        (share(11, 9, true), "there is no tenant"),
        (share(11, 9, false), "there is no tenant"),
        (share(11, 1, true), "own"),
    ] {
        let text = refused(world.say(command));
        assert!(text.contains(says), "{text}");
    }
    assert_eq!(world.state.guests(FUNCTION).count(), 0);
}

#[test]
fn a_function_has_so_many_guests_and_no_more() {
    let mut world = world();
    let first = 1_000;
    for guest in first..=first + GUESTS_MAX as u128 {
        let named = tenant(guest, &format!("guest-{guest}"));
        assert_eq!(world.say(named), Reply::Done);
    }
    for guest in first..first + GUESTS_MAX as u128 {
        assert_eq!(world.say(share(11, guest, true)), Reply::Done);
    }
    let last = first + GUESTS_MAX as u128;
    let text = refused(world.say(share(11, last, true)));
    assert!(text.contains("already"), "{text}");
    assert_eq!(world.say(share(11, first, true)), Reply::Done, "it has it");
    assert_eq!(world.say(share(11, first, false)), Reply::Done);
    assert_eq!(world.say(share(11, last, true)), Reply::Done);
}

#[test]
fn c_err_3_a_guests_client_key_may_be_limited_to_a_shared_function_and_its_workers_stay_the_owners()
{
    let mut world = world();
    let of_guest = || key(31, 1, client(2, &[11]));
    let text = refused(world.say(of_guest()));
    assert!(text.contains("has no function"), "{text}");
    assert_eq!(world.say(share(11, 2, true)), Reply::Done);
    assert_eq!(world.say(of_guest()), Reply::Done);
    let text = refused(world.say(key(32, 2, worker(2, 21))));
    assert!(text.contains("has no function"), "{text}");
    // The key stays; what it may call is asked at each call.
    assert_eq!(world.say(share(11, 2, false)), Reply::Done);
    assert_eq!(world.say(of_guest()), Reply::Done, "a retry");
}

#[test]
fn builds_that_know_no_shares_are_never_shown_one_and_snapshots_keep_them() {
    let mut world = World::with_two_tenants();
    let format = ROUTES_FORMAT;
    assert_eq!(world.say(Command::RaiseFormat { format }), Reply::Done);
    for shared in [true, false] {
        let text = refused(world.say(share(11, 2, shared)));
        assert!(text.contains("entry format 4"), "{text}");
    }
    let format = SHARES_FORMAT;
    assert_eq!(world.say(Command::RaiseFormat { format }), Reply::Done);
    assert_eq!(world.say(share(11, 2, true)), Reply::Done);
    let after = reborn(&world.state);
    assert_eq!(after.digest(), world.state.digest());
    assert!(after.may_call(GUEST, FUNCTION));
}
