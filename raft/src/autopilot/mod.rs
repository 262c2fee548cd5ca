//! What a group's leader does for its membership, its timing, and its own place.
//!
//! [`plan`] decides ●, from what the leader sees; this file sees and does. Each step is conditional on
//! the membership and the leadership that it was decided under, so that a leader that was paused in
//! between changes nothing (H-30). Steps are lines in the log and in the catalog's audit trail.
//! [`watch`] notices who is dead and how far apart the regions are.

mod plan;
pub(crate) mod watch;

use crate::catalog::Catalog;
use crate::catalog::command::{self as catalog, Pace, Standing, Survive};
use crate::clock;
use crate::cluster::Distance;
use crate::group::Group;
use crate::group::beat::CONNECTED;
use crate::group::members::{Change, Members};
use crate::machine::Machine;
use crate::member::{is_of_life, node_of};
use crate::placement::{self, Place};
use plan::{Seat, Step, View};
use pontoon_proto::id::{GroupId, NodeId, RegionId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often the leader looks.
pub(crate) const EVERY: Duration = Duration::from_millis(500);

/// How long a leader leads before it acts: by then it has heard of everybody who lives, because nodes
/// beat once a second.
const SETTLED: Duration = Duration::from_secs(3);

/// The longest round trip for the short timing. A heartbeat of 50 ms must be at least 4/3 of the
/// round trip and the slowest sync together: 4/3 (25 + 10) < 50.
const LAN_MAX: Duration = Duration::from_millis(25);

/// Beyond this the short timing is unsafe to keep; between the two it stays as it is.
const LAN_LIMIT: Duration = Duration::from_millis(30);

/// How long a leader leads before it shortens a timing. A change of timing ends with a change of
/// leaders, so on a busy machine, whose round trips jump, the two can't follow each other faster.
const SHORTEN_AFTER: Duration = Duration::from_secs(10);

/// How long a step's line in the audit trail may take; it is not waited for twice.
const NOTE: Duration = Duration::from_secs(5);

/// What the autopilot needs to know besides the group.
pub(crate) struct Scene<'a> {
    pub(crate) catalog: &'a Group<Catalog>,
    /// The nodes that the configuration names, with their regions; the catalog may not know all yet.
    pub(crate) founders: &'a [Place],
    pub(crate) distance: &'a Distance,
    /// The timing is fixed by configuration.
    pub(crate) fixed: bool,
}

/// What is meant to be true of one group.
struct Meant {
    home: Option<RegionId>,
    survive: Survive,
    nearest: Vec<RegionId>,
    pace: Pace,
}

/// Looks once, and takes at most one step, when this node leads the group.
pub(crate) async fn step<M: Machine>(group: &Group<M>, scene: &Scene<'_>) {
    let core = group.core();
    let led = core.leading().map(|since| clock::now() - since);
    let Some(members) = core
        .members()
        .filter(|_| led.is_some_and(|led| led > SETTLED))
    else {
        return;
    };
    if !members.committed || !group.connected() {
        return;
    }
    let state = scene.catalog.state();
    let Some(mut view) = see(group, &members, &state, scene) else {
        return;
    };
    if led.is_some_and(|led| led < SHORTEN_AFTER) && view.fitting == Some(Pace::Lan) {
        view.fitting = None;
    }
    // A node that is told to leave does so while memberships may not change, too: this changes none.
    let leaving = core.beats.leaving();
    let may =
        |step: &Step| state.settings().autopilot || leaving && matches!(step, Step::HandOver(_));
    let step = plan::next(&view).filter(may);
    let turn = match step {
        Some(Step::Turn(node)) => Some(node),
        _ => None,
    };
    core.give_turn(turn);
    let Some(step) = step.filter(|_| turn.is_none()) else {
        return;
    };
    let name = name_of(group.id(), &state);
    let what = describe(&step, &name, &state);
    match act(group, &members, step, scene).await {
        Ok(()) => {
            tracing::info!(group = name, step = what, "autopilot");
            let note = catalog::Command::Note { what };
            scene.catalog.propose(note, NOTE).await.ok();
        }
        Err(why) => tracing::info!(group = name, step = what, why, "autopilot: not now"),
    }
}

async fn act<M: Machine>(
    group: &Group<M>,
    members: &Members,
    step: Step,
    scene: &Scene<'_>,
) -> Result<(), String> {
    let core = group.core();
    match step {
        Step::Settle => core.change(members, Change::Settle).await,
        Step::Add(member) => core.change(members, Change::Learner(member)).await,
        Step::Drop(member) => core.change(members, Change::Drop(member)).await,
        Step::Vote(voters) => core.change(members, Change::Voters(voters)).await,
        Step::HandOver(member) => {
            core.hand_over(member).await;
            Ok(())
        }
        Step::Pace(pace) => {
            let command = catalog::Command::SetPace {
                group: group.id(),
                pace,
            };
            let proposed = scene.catalog.propose(command, NOTE).await;
            proposed.map(|_| ()).map_err(|error| error.to_string())
        }
        Step::Turn(_) => Ok(()),
    }
}

fn see<M: Machine>(
    group: &Group<M>,
    members: &Members,
    state: &Catalog,
    scene: &Scene<'_>,
) -> Option<View> {
    let core = group.core();
    let heard = core.heard()?;
    let meant = meant(group.id(), state)?;
    let now = clock::now();
    let mut seats: BTreeMap<NodeId, Seat> = BTreeMap::new();
    let known = state.nodes().map(|node| {
        let place = Place {
            node: node.at.node,
            region: node.region,
        };
        (place, node.standing, node.life)
    });
    let founders = scene.founders.iter();
    let founders = founders.map(|place| (*place, Standing::Member, 1));
    for (place, standing, life) in founders.chain(known) {
        // What a node said a moment ago in a life that is over is no word of the one that it has now.
        let heard = heard
            .get(&place.node)
            .filter(|heard| is_of_life(heard.member, place.node, life))
            .filter(|heard| now.saturating_duration_since(heard.at) < CONNECTED)
            .map(|heard| (heard.member, heard.pace, heard.leaving));
        let leaving = match place.node == core.me {
            true => core.beats.leaving(),
            false => heard.is_some_and(|(.., leaving)| leaving),
        };
        let seat = Seat {
            region: place.region,
            standing,
            heard: heard.map(|(member, pace, _)| (member, pace)),
            leaving,
        };
        seats.insert(place.node, seat);
    }
    let here = |seat: &Seat| seat.standing != Standing::Removed;
    let places: Vec<Place> = seats
        .iter()
        .filter(|(_, seat)| here(seat))
        .map(|(node, seat)| Place {
            node: *node,
            region: seat.region,
        })
        .collect();
    let place = |dead: &BTreeSet<NodeId>| {
        placement::desired(meant.home, meant.survive, &places, dead, &meant.nearest)
    };
    let desired = place(&state.dead());
    let fitting = fitting(&desired.voters, core.me, scene, meant.pace);
    Some(View {
        me: core.member,
        home: meant.home,
        voters: members.voters.clone(),
        learners: members.learners.clone(),
        caught_up: plan::caught_up(&members.matched, members.last),
        seats,
        intended: place(&BTreeSet::new()),
        desired,
        pace: if scene.fixed {
            group.pace()
        } else {
            meant.pace
        },
        fitting,
    })
}

fn meant(group: GroupId, state: &Catalog) -> Option<Meant> {
    match group {
        GroupId::Catalog => Some(Meant {
            home: None,
            survive: Survive::Region,
            nearest: Vec::new(),
            pace: state.settings().pace,
        }),
        GroupId::Region(region) => {
            let region = state.region(region).filter(|region| !region.gone)?;
            Some(Meant {
                home: Some(region.number),
                survive: region.survive,
                nearest: region.nearest.clone(),
                pace: region.pace,
            })
        }
    }
}

/// The timing that fits the round trips from this node to those that shall vote.
fn fitting(voters: &BTreeSet<NodeId>, me: NodeId, scene: &Scene<'_>, now: Pace) -> Option<Pace> {
    if scene.fixed {
        return None;
    }
    let others = voters.iter().filter(|node| **node != me);
    let distances = others.map(|node| (scene.distance)(*node));
    fits(&distances.collect::<Vec<_>>(), now)
}

/// Another timing than the present one, if these round trips want it. One that is long wants the long
/// timing, whatever is not known yet; the short one wants to know all of them.
fn fits(distances: &[Option<Duration>], now: Pace) -> Option<Pace> {
    let farthest = distances
        .iter()
        .flatten()
        .max()
        .copied()
        .unwrap_or_default();
    let all_known = distances.iter().all(Option::is_some);
    match now {
        Pace::Wan if all_known && farthest <= LAN_MAX => Some(Pace::Lan),
        Pace::Lan if farthest > LAN_LIMIT => Some(Pace::Wan),
        _ => None,
    }
}

/// What a group is called.
pub(crate) fn name_of(group: GroupId, state: &Catalog) -> String {
    match group {
        GroupId::Catalog => "catalog".to_owned(),
        GroupId::Region(number) => state
            .region(number)
            .map_or_else(|| group.to_string(), |region| region.name.clone()),
    }
}

fn describe(step: &Step, group: &str, state: &Catalog) -> String {
    let name = |node: NodeId| {
        state
            .node(node)
            .map_or_else(|| format!("node {node}"), |node| node.name.clone())
    };
    let named = |member: &u64| name(node_of(*member));
    match step {
        Step::Settle => format!("{group}: finish the change of voters that was begun"),
        Step::Add(member) => format!("{group}: {} listens", named(member)),
        Step::Drop(member) => format!("{group}: {} no longer listens", named(member)),
        Step::Vote(voters) => {
            let voters: Vec<String> = voters.iter().map(named).collect();
            format!("{group}: voters are {}", voters.join(", "))
        }
        Step::HandOver(member) => format!("{group}: {} shall lead", named(member)),
        Step::Pace(pace) => format!("{group}: timing for a {pace:?}"),
        Step::Turn(node) => format!("{group}: {} starts again", name(*node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_way_wants_the_long_timing_while_others_are_not_known() {
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(fits(&[ms(70), None], Pace::Lan), Some(Pace::Wan));
        assert_eq!(fits(&[ms(1), None], Pace::Lan), None);
        assert_eq!(fits(&[ms(1), None], Pace::Wan), None);
        assert_eq!(fits(&[ms(1), ms(2)], Pace::Wan), Some(Pace::Lan));
        assert_eq!(fits(&[ms(28)], Pace::Lan), None);
        assert_eq!(fits(&[ms(28)], Pace::Wan), None);
    }
}
