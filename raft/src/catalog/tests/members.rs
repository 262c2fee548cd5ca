//! Scripts of how nodes and regions come, change and go.

use super::rules::{World, node, region};
use crate::catalog::boot_before;
use crate::catalog::command::*;
use pontoon_proto::id::{GroupId, NodeBoot, NodeId, RegionId};

/// A node with a fresh folder asks; the three first members have the numbers 1 to 3.
fn admission(name: &str, region: &str, folder: u8, founder: Option<u32>) -> Admission {
    let text = || "127.0.0.1:1".to_owned();
    Admission {
        folder: [folder; 16],
        founder: founder.map(NodeId),
        founders: 3,
        region: region.to_owned(),
        survive: Survive::Region,
        node: Node {
            at: NodeBoot {
                node: NodeId(0),
                boot: 0,
            },
            name: name.to_owned(),
            region: RegionId(0),
            client: text(),
            worker: text(),
            peer: text(),
            admin: text(),
            ops: text(),
            folder: [0; 16],
            life: 0,
            format: LIVES_FORMAT,
            standing: Standing::Member,
        },
    }
}

fn admitted(node: u32, life: u32) -> Reply {
    Reply::Admitted {
        node: NodeId(node),
        life,
    }
}

fn refused(reply: Reply) -> String {
    match reply {
        Reply::Refused(text) | Reply::Conflict(text) => text,
        other => panic!("{other:?}"),
    }
}

/// Three regions with a node each, numbers 1 to 3, as after a first boot.
fn founded() -> World {
    let mut world = World::new();
    for number in 1..=3u16 {
        let name = format!("r{number}");
        assert_eq!(world.say(region(number, &name, &[1, 2, 3])), Reply::Done);
        let Command::PutNode(mut put) = node(number.into(), 5, &format!("n{number}"), 1) else {
            panic!("a node announces itself");
        };
        put.region = RegionId(number);
        assert_eq!(world.say(Command::PutNode(put)), Reply::Done);
    }
    world
}

fn say(world: &mut World, name: &str, region: &str, folder: u8, founder: Option<u32>) -> Reply {
    world.say(Command::AdmitNode(admission(name, region, folder, founder)))
}

#[test]
fn a_new_node_gets_the_next_number_and_the_same_answer_again() {
    let mut world = founded();
    assert_eq!(say(&mut world, "late", "r2", 40, None), admitted(4, 1));
    assert_eq!(say(&mut world, "late", "r2", 40, None), admitted(4, 1));
    assert_eq!(say(&mut world, "later", "r2", 50, None), admitted(5, 1));
    let known = world.state.node_by_name("late").unwrap();
    assert_eq!(known.region, RegionId(2));
}

#[test]
fn numbers_of_first_members_are_kept_for_them_also_before_they_have_come() {
    let mut world = World::new();
    assert_eq!(say(&mut world, "early", "r1", 40, None), admitted(4, 1));
}

#[test]
fn s_8_a_known_name_with_another_folder_is_another_life_whose_boots_are_higher() {
    let mut world = founded();
    assert_eq!(say(&mut world, "n3", "r3", 33, Some(3)), admitted(3, 2));
    assert_eq!(say(&mut world, "n3", "r3", 34, Some(3)), admitted(3, 3));
    let known = world.state.node(NodeId(3)).unwrap();
    assert_eq!(known.at.boot, boot_before(3));
    assert!(boot_before(3) > boot_before(2) && boot_before(1) == 0);
    // The folders before it may not announce themselves any more.
    let Command::PutNode(mut put) = node(3, 900, "n3", 1) else {
        panic!("a node announces itself");
    };
    put.region = RegionId(3);
    assert_eq!(world.say(Command::PutNode(put)), Reply::Stale);
}

#[test]
fn s_8_a_first_member_that_lost_its_folder_before_it_was_written_down_had_a_life_all_the_same() {
    let mut world = World::new();
    assert_eq!(world.say(region(1, "r1", &[1, 2, 3])), Reply::Done);
    assert_eq!(say(&mut world, "n3", "r1", 33, Some(3)), admitted(3, 2));
}

#[test]
fn a_node_can_not_move_to_another_region_under_its_name() {
    let mut world = founded();
    let text = refused(say(&mut world, "n3", "r1", 33, Some(3)));
    assert!(text.contains("belongs to region r3, not to r1"), "{text}");
}

#[test]
fn h_3_a_new_region_is_born_with_its_first_node_as_its_only_voter() {
    let mut world = founded();
    assert_eq!(say(&mut world, "x-1", "x", 40, None), admitted(4, 1));
    assert_eq!(say(&mut world, "x-2", "x", 50, None), admitted(5, 1));
    let born = world.state.region_by_name("x").unwrap();
    let first = FirstVoter {
        node: NodeId(4),
        life: 1,
    };
    assert_eq!((born.number, &born.voters[..]), (RegionId(4), &[first][..]));
}

#[test]
fn a_build_that_is_too_old_is_not_admitted_and_formats_only_rise_when_all_read_them() {
    let mut world = founded();
    let text = refused(world.say(Command::RaiseFormat { format: 2 }));
    assert!(text.contains("n1 reads entries up to format 1"), "{text}");
    for number in 1..=3u16 {
        let Command::PutNode(mut put) = node(number.into(), 6, &format!("n{number}"), 1) else {
            panic!("a node announces itself");
        };
        put.region = RegionId(number);
        put.format = 2;
        assert_eq!(world.say(Command::PutNode(put)), Reply::Done);
    }
    assert_eq!(world.say(Command::RaiseFormat { format: 2 }), Reply::Done);
    assert_eq!(world.say(Command::RaiseFormat { format: 1 }), Reply::Done);
    assert_eq!(world.state.format(), 2);
    let mut old = admission("old", "r1", 40, None);
    old.node.format = 1;
    let text = refused(world.say(Command::AdmitNode(old)));
    assert!(text.contains("start a newer build"), "{text}");
}

#[test]
fn h_30_nodes_of_one_region_at_a_time_are_given_up() {
    let mut world = founded();
    let mark = |node, dead| Command::MarkNode {
        node: NodeId(node),
        dead,
    };
    assert_eq!(world.say(mark(3, true)), Reply::Done);
    assert_eq!(world.state.dead(), [NodeId(3)].into());
    let text = refused(world.say(mark(2, true)));
    assert!(text.contains("n3 of region 3 is dead already"), "{text}");
    assert_eq!(world.say(mark(3, false)), Reply::Done);
    assert_eq!(world.say(mark(2, true)), Reply::Done);
}

#[test]
fn h_24_what_was_removed_stays_removed_and_its_name_may_be_used_again() {
    let mut world = founded();
    let remove = |node| Command::RemoveNode {
        node: NodeId(node),
        actor: "ada".to_owned(),
    };
    let remove_region = Command::RemoveRegion {
        region: RegionId(3),
        actor: "ada".to_owned(),
    };
    let text = refused(world.say(remove_region.clone()));
    assert!(text.contains("still has node n3"), "{text}");
    assert_eq!(world.say(remove(3)), Reply::Done);
    assert_eq!(world.say(remove(3)), Reply::Done);
    let Command::PutNode(mut put) = node(3, 9, "n3", 1) else {
        panic!("a node announces itself");
    };
    put.region = RegionId(3);
    let text = refused(world.say(Command::PutNode(put)));
    assert!(text.contains("was removed"), "{text}");
    assert_eq!(world.say(remove_region), Reply::Done);
    assert_eq!(say(&mut world, "n3", "r3", 60, None), admitted(4, 1));
    let again = world.state.region_by_name("r3").unwrap();
    assert_eq!(again.number, RegionId(4));
    assert_eq!(world.state.regions().count(), 3);
    assert!(world.state.region(RegionId(3)).unwrap().gone);
}

#[test]
fn s_8_a_first_member_that_was_removed_comes_back_in_a_life_that_it_never_had() {
    // In one that it had it might be a member that had voted. Older formats mean what they meant.
    for (format, lives) in [(LIVES_FORMAT, [3, 4]), (LIVES_FORMAT - 1, [2, 2])] {
        let mut world = World::new();
        for number in 1..=3u8 {
            let (name, home) = (format!("n{number}"), format!("r{number}"));
            let reply = say(&mut world, &name, &home, number, Some(number.into()));
            assert_eq!(reply, admitted(number.into(), 2));
        }
        assert_eq!(world.say(Command::RaiseFormat { format }), Reply::Done);
        for (folder, life) in (60..).zip(lives) {
            let remove = Command::RemoveNode {
                node: NodeId(2),
                actor: "ada".to_owned(),
            };
            assert_eq!(world.say(remove), Reply::Done);
            let reply = say(&mut world, "n2", "r2", folder, Some(2));
            assert_eq!(reply, admitted(2, life), "format {format}");
        }
    }
}

#[test]
fn the_last_node_and_the_last_region_stay() {
    let mut world = founded();
    let remove = |node| Command::RemoveNode {
        node: NodeId(node),
        actor: "ada".to_owned(),
    };
    assert_eq!(world.say(remove(1)), Reply::Done);
    assert_eq!(world.say(remove(2)), Reply::Done);
    let text = refused(world.say(remove(3)));
    assert!(text.contains("the last one alive"), "{text}");
}

#[test]
fn h_23_a_region_is_recovered_once_from_each_generation() {
    let mut world = founded();
    let recover = |generation, seed| Command::RecoverRegion {
        region: RegionId(1),
        generation,
        seed: NodeId(seed),
        actor: "ada".to_owned(),
    };
    assert_eq!(world.say(recover(2, 2)), Reply::Done);
    assert_eq!(world.say(recover(2, 2)), Reply::Done);
    let text = refused(world.say(recover(2, 3)));
    assert!(text.contains("at generation 2"), "{text}");
    let known = world.state.region(RegionId(1)).unwrap();
    assert_eq!((known.generation, known.seeded), (2, true));
    // The birth of the first generation, said again, changes nothing.
    assert_eq!(world.say(region(1, "r1", &[1, 2, 3])), Reply::Done);
    assert_eq!(world.state.region(RegionId(1)).unwrap().generation, 2);
}

#[test]
fn settings_are_audited_when_they_change_and_only_then() {
    let mut world = founded();
    let before = world.state.audit().count();
    let commands = [
        Command::SetSurvive {
            region: RegionId(1),
            survive: Survive::Zone,
            actor: "ada".to_owned(),
        },
        Command::SetPace {
            group: GroupId::Catalog,
            pace: Pace::Lan,
        },
        Command::SetPace {
            group: GroupId::Region(RegionId(2)),
            pace: Pace::Lan,
        },
        Command::SetNearest {
            region: RegionId(1),
            nearest: vec![RegionId(3), RegionId(2)],
        },
        Command::SetAutopilot {
            on: false,
            actor: "ada".to_owned(),
        },
    ];
    for command in commands.iter().chain(&commands) {
        assert_eq!(world.say(command.clone()), Reply::Done);
    }
    assert_eq!(world.state.audit().count(), before + commands.len());
    let wrong = Command::SetNearest {
        region: RegionId(1),
        nearest: vec![RegionId(1)],
    };
    assert!(matches!(world.say(wrong), Reply::Invalid(_)));
}

#[test]
fn what_operators_did_to_processes_is_recorded_once_every_build_can_read_it() {
    let mut world = World::with_two_tenants();
    let record = |what: &str| Command::Record {
        what: what.to_owned(),
        actor: "ada".to_owned(),
    };
    let reply = world.say(record("drain node n1"));
    assert!(
        matches!(&reply, Reply::Refused(text) if text.contains("format 3")),
        "{reply:?}"
    );
    let format = RECORDS_FORMAT;
    assert_eq!(world.say(Command::RaiseFormat { format }), Reply::Done);
    for wrong in [String::new(), "x".repeat(RECORD_MAX + 1)] {
        let reply = world.say(record(&wrong));
        assert!(matches!(reply, Reply::Invalid(_)), "{reply:?}");
    }
    assert_eq!(world.say(record("drain node n1")), Reply::Done);
    let last = world.state.audit().last().expect("a line");
    assert_eq!((&last.actor[..], &last.what[..]), ("ada", "drain node n1"));
}
