//! First boots: a cluster is born once, by exactly its first members.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use support::cluster::folder;
use support::groups::{self, Seen, Terms};
use support::member::{ADMIN_TOKEN, Member, Settings, founders, founders_at, free};
use support::{alone, cli};

const MEMBERS: &[(&str, &str)] = &[("a-1", "a"), ("b-1", "b"), ("c-1", "c")];

/// Kills a node and starts it again with an empty data folder.
fn lose_the_disk(member: Member, settings: &Settings, label: &str, folder: &Path) -> Member {
    member.kill();
    fs::remove_dir_all(settings.data()).expect("removed");
    settings.start(label, folder)
}

/// They wait, without a number and so without a log.
#[track_caller]
fn not_born(members: &[&Member]) {
    for member in members {
        let output = member.process().output();
        assert!(member.process().ended().is_none(), "{output}");
        assert!(!output.contains("has its number"), "{output}");
    }
}

/// Three voters in each of the four groups, and nobody else.
fn is_whole(all: &BTreeMap<String, Seen>) -> bool {
    let names: BTreeSet<String> = MEMBERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    all.len() == 4
        && all
            .values()
            .all(|group| group.connected && group.voters == names && group.learners.is_empty())
}

/// Waits until all three nodes see the same whole cluster; its id.
#[track_caller]
fn one_cluster(members: &[&Member], terms: &mut Terms) -> String {
    let mut ids = BTreeSet::new();
    for member in members {
        member.joins(ADMIN_TOKEN);
        let what = "all three vote in every group";
        terms.only_rise(&groups::settle(&member.admin, ADMIN_TOKEN, what, is_whole));
        let shown = member.ask(ADMIN_TOKEN, &["cluster", "show"]);
        ids.insert(shown.expect("an answer")["id"].to_string());
    }
    let admins: Vec<String> = members.iter().map(|member| member.admin.clone()).collect();
    groups::agree(&admins, ADMIN_TOKEN);
    assert_eq!(ids.len(), 1, "one cluster has one id: {ids:?}");
    ids.pop_first().expect("one")
}

#[track_caller]
fn life(asked: &Member, name: &str) -> u64 {
    let node = asked
        .ask(ADMIN_TOKEN, &["node", "show", name])
        .expect("an answer");
    node["life"].as_u64().expect("a number")
}

#[test]
fn h_2_nothing_is_born_while_a_first_member_is_missing_and_a_disk_lost_before_does_no_harm() {
    let _alone = alone();
    let folder = folder();
    let settings = founders(&folder, MEMBERS);
    let a = settings[0].start("a", &folder);
    let b = settings[1].start("b", &folder);
    for member in [&a, &b] {
        let said = member.says(&["first boot", "not met yet"]);
        let missing = said.split("not met yet:").nth(1).unwrap_or_default();
        let named = |name: &str| missing.contains(&format!("{name} ("));
        assert!(named("c-1") && !named("a-1") && !named("b-1"), "{said}");
    }
    not_born(&[&a, &b]);

    // b showed its first folder to a, and comes with another one: a remembers.
    let b = lose_the_disk(b, &settings[1], "b-again", &folder);
    b.says(&["another data folder had this node's name before"]);
    b.says(&["waiting to be admitted"]);
    not_born(&[&a, &b]);

    let c = settings[2].start("c", &folder);
    let mut terms = Terms::default();
    let id = one_cluster(&[&a, &b, &c], &mut terms);
    assert_eq!(life(&a, "a-1"), 1);
    assert_eq!(life(&a, "b-1"), 2);
    assert_eq!(life(&a, "c-1"), 1);

    // The same again after the birth, for each of the three in turn.
    cli::ask(&a.admin, ADMIN_TOKEN, &["tenant", "create", "before"]);
    let mut all = vec![a, b, c];
    for (index, (name, _)) in MEMBERS.iter().enumerate() {
        let other = (index + 1) % all.len();
        let lives = life(&all[other], name);
        let label = format!("{name}-replaced");
        let old = all.remove(index);
        all.insert(index, lose_the_disk(old, &settings[index], &label, &folder));
        let members: Vec<&Member> = all.iter().collect();
        assert_eq!(one_cluster(&members, &mut terms), id);
        assert_eq!(life(&all[other], name), lives + 1);
        let tenants = all[index].ask(ADMIN_TOKEN, &["tenant", "list"]);
        let tenants = tenants.expect("an answer").to_string();
        assert!(tenants.contains("before"), "{tenants}");
    }
}

#[test]
fn h_2_a_list_of_other_first_members_is_another_cluster() {
    let _alone = alone();
    let folder = folder();
    let settings = founders(&folder, MEMBERS);
    let all: Vec<Member> = settings
        .iter()
        .zip(MEMBERS)
        .map(|(settings, (name, _))| settings.start(name, &folder))
        .collect();
    let all: Vec<&Member> = all.iter().collect();
    one_cluster(&all, &mut Terms::default());
    // Somebody copied the addresses into a list of first members of her own.
    let addresses = all.iter().map(|member| member.peer.clone());
    let own = [("d-1", "a"), ("a-1", "a"), ("b-1", "b")];
    let known = std::iter::once(free()).chain(addresses);
    let listed: Vec<_> = own.into_iter().zip(known).collect();
    let d = founders_at(&folder, &listed)[0].start("d", &folder);
    d.says(&["not met yet", "a-1", "b-1"]);
    d.says(&["another cluster", "join token", "first members"]);
}

#[test]
fn o_liv_1_a_node_that_waits_for_the_first_members_is_alive_and_says_why_it_is_not_ready() {
    let _alone = alone();
    let folder = folder();
    let a = founders(&folder, MEMBERS)[0].start("a", &folder);
    a.says(&["first boot", "not met yet"]);
    let (status, _) = a
        .page("/livez")
        .expect("a process that waits makes progress");
    assert_eq!(status, 200);
    let (status, page) = a
        .page("/readyz")
        .expect("whether to send traffic can be asked at any time");
    assert_eq!(status, 503, "{page}");
    assert!(page.contains("why_not"), "{page}");
}
