//! What limits may be, and how they change.

use super::rules::{World, tenant};
use crate::catalog::command::*;
use crate::machine::{Machine, reborn};
use pontoon_proto::id::{TenantId, VersionId};
use uuid::Uuid;

const TENANT: Limited = Limited::Tenant(TenantId(Uuid::from_u128(1)));
const VERSION: Limited = Limited::Version(VersionId(Uuid::from_u128(21)));

pub(super) fn set(
    of: Limited,
    sessions: Option<u64>,
    per_1000s: Option<u64>,
    burst: Option<u64>,
) -> Command {
    Command::SetLimit {
        of,
        change: LimitChange {
            sessions,
            per_1000s,
            burst,
        },
        actor: "ada".to_owned(),
    }
}

/// Two tenants, in a cluster whose nodes all know limits.
fn world() -> World {
    let mut world = World::with_two_tenants();
    let format = LIMITS_FORMAT;
    assert_eq!(world.say(Command::RaiseFormat { format }), Reply::Done);
    world
}

fn invalid(reply: Reply) -> String {
    match reply {
        Reply::Invalid(text) => text,
        other => panic!("{other:?} is no refusal of a value"),
    }
}

fn rate(per_1000s: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_1000s, burst })
}

#[test]
fn c_err_8_a_limit_changes_part_by_part_and_zero_lifts_it() {
    let mut world = world();
    assert_eq!(world.state.limit(TENANT), Limit::default());
    assert_eq!(world.say(set(TENANT, Some(5), None, None)), Reply::Done);
    assert_eq!(world.say(set(TENANT, None, Some(2_500), None)), Reply::Done);
    let limit = world.state.limit(TENANT);
    // A rate without a burst may burst what it gives in a second, rounded up.
    assert_eq!((limit.sessions, limit.rate), (Some(5), rate(2_500, 3)));
    assert_eq!(world.say(set(TENANT, None, None, Some(9))), Reply::Done);
    assert_eq!(world.say(set(TENANT, Some(0), None, None)), Reply::Done);
    let limit = world.state.limit(TENANT);
    assert_eq!((limit.sessions, limit.rate), (None, rate(2_500, 9)));
    assert_eq!(world.state.limit(VERSION), Limit::default());
    assert_eq!(world.say(set(TENANT, None, Some(0), None)), Reply::Done);
    assert_eq!(world.state.limits().count(), 0);
}

#[test]
fn c_err_8_each_change_of_a_limit_is_audited_and_a_repetition_is_not() {
    let mut world = world();
    let before = world.state.audit().count();
    for _ in 0..2 {
        let said = world.say(set(VERSION, Some(5), Some(500), Some(1)));
        assert_eq!(said, Reply::Done);
    }
    let audit: Vec<_> = world.state.audit().skip(before).collect();
    assert_eq!(audit.len(), 1);
    assert_eq!(audit[0].actor, "ada");
    let id = Uuid::from_u128(21);
    assert_eq!(
        audit[0].what,
        format!("limit version {id} to 5 sessions, 0.500 new ones per second and 1 at once")
    );
}

#[test]
fn c_err_8_limits_out_of_range_are_refused_and_say_what_is_right() {
    let mut world = world();
    let huge = Some(u64::MAX);
    for (command, says) in [
        (set(TENANT, huge, None, None), "or 0 for no limit"),
        (set(TENANT, None, huge, None), "0.001 to 1000000 a second"),
        (set(TENANT, None, Some(1), Some(0)), "burst must be 1 to"),
        (set(TENANT, None, Some(1), huge), "burst must be 1 to"),
        (set(TENANT, None, None, Some(3)), "a burst needs a rate"),
    ] {
        let text = invalid(world.say(command));
        assert!(text.contains(says), "{text}");
    }
    let nobody = Limited::Tenant(TenantId(Uuid::from_u128(99)));
    let reply = world.say(set(nobody, Some(1), None, None));
    assert!(matches!(reply, Reply::NotFound(_)), "{reply:?}");
    assert_eq!(world.state.limits().count(), 0);
}

#[test]
fn c_err_8_builds_that_know_no_limits_are_never_shown_one() {
    let mut world = World::with_two_tenants();
    let reply = world.say(set(TENANT, Some(5), None, None));
    assert!(
        matches!(&reply, Reply::Refused(text) if text.contains("format 2")),
        "{reply:?}"
    );
    // What such a build reads ends where it always did.
    let before = reborn(&world.state);
    assert_eq!(before.digest(), world.state.digest());
    let format = LIMITS_FORMAT;
    assert_eq!(world.say(Command::RaiseFormat { format }), Reply::Done);
    assert_eq!(world.say(set(TENANT, Some(5), None, None)), Reply::Done);
    assert_eq!(world.say(tenant(3, "three")), Reply::Done);
    let after = reborn(&world.state);
    assert_eq!(after.digest(), world.state.digest());
    assert_eq!(after.limit(TENANT).sessions, Some(5));
}
