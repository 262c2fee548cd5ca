//! Weights between versions, and the regions that a version may use.

use super::rules::{World, function, refused, region, version};
use crate::catalog::command::*;
use crate::machine::{Machine, reborn};
use pontoon_proto::id::{FunctionId, RegionId, VersionId};
use uuid::Uuid;

const FUNCTION: FunctionId = FunctionId(Uuid::from_u128(11));
const STABLE: VersionId = VersionId(Uuid::from_u128(21));
const CANARY: VersionId = VersionId(Uuid::from_u128(23));

pub(super) fn weigh(function: u128, weights: &[(u128, u32)]) -> Command {
    let weights = weights.iter();
    Command::SetWeights {
        function: FunctionId(Uuid::from_u128(function)),
        weights: weights
            .map(|(id, weight)| (VersionId(Uuid::from_u128(*id)), *weight))
            .collect(),
        actor: "ada".to_owned(),
    }
}

pub(super) fn spill(version: u128, spill: Spill) -> Command {
    Command::SetSpill {
        version: VersionId(Uuid::from_u128(version)),
        spill,
        actor: "ada".to_owned(),
    }
}

pub(super) fn only(regions: &[u16]) -> Spill {
    Spill::Only(regions.iter().map(|&number| RegionId(number)).collect())
}

/// A function with two versions, another one, and two regions, in a cluster that knows routes.
fn world() -> World {
    let mut world = old_world();
    let format = ROUTES_FORMAT;
    assert_eq!(world.say(Command::RaiseFormat { format }), Reply::Done);
    world
}

fn old_world() -> World {
    let mut world = World::with_two_tenants();
    for command in [
        version(23, 11, VersionPolicy::default()),
        function(19, 1),
        region(1, "here", &[1]),
        region(2, "there", &[2]),
    ] {
        assert_eq!(world.say(command), Reply::Done);
    }
    world
}

#[test]
fn weights_are_set_all_at_once_and_whoever_is_not_named_has_none() {
    let mut world = world();
    assert_eq!(world.state.weight(FUNCTION, STABLE), None);
    let reply = world.say(weigh(11, &[(21, 95), (23, 5)]));
    assert_eq!(reply, Reply::Done);
    assert_eq!(world.state.weight(FUNCTION, STABLE), Some(95));
    assert_eq!(world.state.weight(FUNCTION, CANARY), Some(5));
    assert_eq!(world.say(weigh(11, &[(23, 1)])), Reply::Done);
    assert_eq!(world.state.weight(FUNCTION, STABLE), Some(0));
    assert_eq!(world.say(weigh(11, &[])), Reply::Done);
    assert_eq!(world.state.weight(FUNCTION, CANARY), None);
}

#[test]
fn each_change_of_a_route_is_audited_and_a_repetition_is_not() {
    let mut world = world();
    let before = world.audited();
    for _ in 0..2 {
        assert_eq!(world.say(weigh(11, &[(21, 95), (23, 5)])), Reply::Done);
        assert_eq!(world.say(spill(21, only(&[2, 1]))), Reply::Done);
    }
    assert_eq!(
        world.said_since(before),
        [
            format!("weigh the versions of function {FUNCTION}: {STABLE}=95, {CANARY}=5"),
            format!("open sessions of version {STABLE} in there, here only"),
        ]
    );
}

#[test]
fn weights_that_can_not_be_meant_are_refused_and_say_why() {
    let mut world = world();
    for (command, says) in [
        (weigh(99, &[(21, 1)]), "there is no function"),
        (weigh(11, &[(22, 1)]), "has no version"),
        (weigh(11, &[(21, 10_001)]), "must be 0 to 10000"),
        (weigh(11, &[(21, 1), (21, 2)]), "two weights"),
        (weigh(11, &[(21, 0)]), "no active version"),
    ] {
        let text = refused(world.say(command));
        assert!(text.contains(says), "{text}");
    }
    assert_eq!(world.state.weights(FUNCTION), []);
}

#[test]
fn a_version_may_be_kept_to_regions_that_exist() {
    let mut world = world();
    assert_eq!(*world.state.spill(STABLE), Spill::Any);
    for right in [only(&[2, 1]), Spill::Home, Spill::Any] {
        assert_eq!(world.say(spill(21, right.clone())), Reply::Done);
        assert_eq!(*world.state.spill(STABLE), right);
    }
    for (command, says) in [
        (spill(99, Spill::Home), "there is no version"),
        (spill(21, only(&[7])), "there is no region 7"),
        (spill(21, only(&[])), "give 1 to 64 regions"),
        (spill(21, only(&[1, 1])), "here is listed twice"),
    ] {
        let text = refused(world.say(command));
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn builds_that_know_no_routes_are_never_shown_one_and_snapshots_keep_them() {
    let mut world = old_world();
    for command in [weigh(11, &[(21, 1)]), spill(21, Spill::Home)] {
        let text = refused(world.say(command));
        assert!(text.contains("entry format 3"), "{text}");
    }
    let format = ROUTES_FORMAT;
    assert_eq!(world.say(Command::RaiseFormat { format }), Reply::Done);
    assert_eq!(world.say(weigh(11, &[(21, 1)])), Reply::Done);
    assert_eq!(world.say(spill(21, only(&[2]))), Reply::Done);
    let after = reborn(&world.state);
    assert_eq!(after.digest(), world.state.digest());
    assert_eq!(after.weight(FUNCTION, STABLE), Some(1));
    assert_eq!(*after.spill(STABLE), only(&[2]));
}
