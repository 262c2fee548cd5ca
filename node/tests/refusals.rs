//! Memberships that are refused: the exact situation, the exit code, and a text that says what to do.

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::cluster::{self, Cluster, RECOVERED_WITHIN};
use support::member::{ADMIN_TOKEN, Settings, founders};
use support::process::is_alive;
use support::{alone, cli, groups, wait};

/// A command that must fail with a code; its one line.
#[track_caller]
fn refuses(cluster: &Cluster, code: i32, arguments: &[&str]) -> String {
    let token = &cluster.ready().admin_token;
    let said = cli::fail(code, &mut cli::pontoon(&cluster.admin(), token, arguments));
    if code == 1 {
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    said
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

/// Copies a data folder whose node is not running.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success());
}

fn stop(cluster: &Cluster, node: &str) {
    let data = cluster.data();
    let data = data.to_str().expect("a printable path");
    let mut command = Command::new(cluster::PONTOON);
    cli::run(command.args(["dev", "stop", node, "--data-dir", data]));
}

fn standing(cluster: &Cluster, node: &str) -> Value {
    cluster.ask(&["node", "show", node])["standing"].clone()
}

#[test]
fn o_cfg_1_verbs_that_cannot_be_carried_out_say_what_to_do_and_a_dry_run_says_so_too() {
    let _alone = alone();
    let cluster = Cluster::start();
    let before = cluster.ask(&["region", "list"]);
    let said = refuses(
        &cluster,
        64,
        &["region", "recover", "us-west", "--seed", "us-east-1"],
    );
    says(&said, &["--accept-loss"]);
    for dry in [&[][..], &["--dry-run"]] {
        let run = |arguments: &[&str]| refuses(&cluster, 1, &[arguments, dry].concat());
        let recover = ["region", "recover", "us-west", "--accept-loss", "--seed"];
        let said = run(&[&recover[..], &["us-east-1"]].concat());
        says(&said, &["us-west", "nothing to recover"]);
        let said = run(&[&recover[..], &["us-east-9"]].concat());
        says(&said, &["us-east-9", "pontoon node list"]);
        let said = run(&[
            "region",
            "recover",
            "us-north",
            "--accept-loss",
            "--seed",
            "us-east-1",
        ]);
        says(&said, &["us-north", "pontoon region list"]);
        let said = run(&["region", "survive", "us-north", "zone"]);
        says(&said, &["us-north", "pontoon region list"]);
        let said = run(&["region", "remove", "us-north"]);
        says(&said, &["us-north", "pontoon region list"]);
        let said = run(&["node", "remove", "us-east-9"]);
        says(&said, &["us-east-9", "pontoon node list"]);
    }
    let said = refuses(&cluster, 64, &["region", "survive", "us-west", "planet"]);
    says(&said, &["region", "zone"]);
    let said = refuses(&cluster, 1, &["region", "remove", "us-west"]);
    says(&said, &["us-west", "us-west-1", "remove its nodes first"]);
    assert_eq!(cluster.ask(&["region", "list"]), before);
    for node in &cluster.ready().nodes {
        assert_eq!(standing(&cluster, &node.name), "member");
    }
    // A dry run of what can be done does nothing.
    cluster.ask(&["node", "remove", "us-west-1", "--dry-run"]);
    assert_eq!(standing(&cluster, "us-west-1"), "member");
    cluster.ask(&["region", "survive", "us-west", "zone", "--dry-run"]);
    cluster.ask(&["cluster", "autopilot", "pause", "--dry-run"]);
    assert_eq!(cluster.ask(&["cluster", "show"])["autopilot"], true);
    assert_eq!(cluster.ask(&["region", "list"]), before);
}

#[test]
fn a_dry_run_refuses_what_the_real_one_refuses() {
    let _alone = alone();
    let folder = cluster::folder();
    let only = founders(&folder, &[("a-1", "a")])[0].start("a-1", &folder);
    only.joins(ADMIN_TOKEN);
    wait::until(RECOVERED_WITHIN, "it is in the catalog", || {
        let nodes = only.ask(ADMIN_TOKEN, &["node", "list"])?;
        nodes.to_string().contains("a-1").then_some(())
    });
    for dry in [&[][..], &["--dry-run"]] {
        let fail = |arguments: &[&str]| {
            let arguments = [arguments, dry].concat();
            cli::fail(1, &mut cli::pontoon(&only.admin, ADMIN_TOKEN, &arguments))
        };
        says(&fail(&["node", "remove", "a-1"]), &["a-1", "last"]);
        says(
            &fail(&["region", "remove", "a"]),
            &["a-1", "remove its nodes first"],
        );
    }
}

#[test]
fn the_autopilot_rests_while_it_is_paused() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--slots", "64"]);
    let token = cluster.ready().admin_token.clone();
    cluster.ask(&["cluster", "autopilot", "pause"]);
    assert_eq!(cluster.ask(&["cluster", "show"])["autopilot"], false);
    let settings = Settings::of(&cluster, "us-west-1");
    let second = settings.joining("us-west-2", "us-west", &folder);
    let second = second.start("us-west-2", &folder);
    wait::until(RECOVERED_WITHIN, "the new node is in the catalog", || {
        let nodes = cluster.ask(&["node", "list"]);
        nodes.to_string().contains("us-west-2").then_some(())
    });
    second.says(&["this data folder has its number"]);
    let known = |admin: &str| {
        let all = groups::seen(admin, &token).expect("an answer");
        let learners = all.values().flat_map(|group| group.learners.clone());
        learners.collect::<Vec<String>>()
    };
    // Longer than a leader waits before it acts, and than a step takes.
    let early = wait::within(Duration::from_secs(6), || {
        let known = known(&cluster.admin());
        (!known.is_empty()).then_some(known)
    });
    assert_eq!(early, None, "nobody listens while the autopilot is paused");
    cluster.ask(&["cluster", "autopilot", "resume"]);
    second.joins(&token);
    groups::settle(
        &cluster.admin(),
        &token,
        "it listens to every group",
        |all| {
            let mut all = all.values();
            all.all(|group| {
                group.voters.contains("us-west-2") || group.learners.contains("us-west-2")
            })
        },
    );
    let audit = cluster.ask(&["audit", "list"]).to_string();
    says(&audit, &["autopilot", "us-west-2"]);
}

#[test]
fn a_name_that_is_unknown_taken_or_of_another_region_is_refused_and_so_is_a_wrong_token() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--slots", "64"]);
    let token = cluster.ready().admin_token.clone();
    let settings = Settings::of(&cluster, "us-west-1");
    let joining = |name: &str| settings.clone().joining(name, "us-west", &folder);

    let misspelt = joining("us-wset-2").with("cluster.join", false);
    let line = misspelt.start("misspelt", &folder).is_refused(64);
    says(&line, &["us-wset-2", "cluster.join = true"]);

    let second = joining("us-west-2").start("us-west-2", &folder);
    second.joins(&token);
    let namesake = joining("us-west-2").in_folder(&folder.join("namesake-data"));
    let line = namesake.start("namesake", &folder).is_refused(1);
    says(
        &line,
        &[
            "us-west-2",
            "runs at",
            &second.peer,
            "stop it first",
            "name of its own",
        ],
    );

    // A first member's name, while the first member lives.
    let founder = settings
        .clone()
        .in_folder(&folder.join("founder-data"))
        .at_new_ports();
    let line = founder.start("founder", &folder).is_refused(1);
    says(
        &line,
        &["us-west-1", "runs at", "stop it first", "name of its own"],
    );
    // Another cluster's token: the two sides can't tell whose is right, so it waits and says why.
    let other = folder.join("other-token");
    fs::write(&other, "the join token of another cluster").expect("written");
    let stranger = joining("us-west-3")
        .with(
            "cluster.join_token_file",
            other.to_string_lossy().into_owned(),
        )
        .start("stranger", &folder);
    let line = stranger.says(&["waiting to be admitted"]);
    says(&line, &["another cluster", "join token", "first members"]);
    let nodes = cluster.ask(&["node", "list"]).to_string();
    assert!(!nodes.contains("us-west-3"), "{nodes}");
    // Nothing of it stays: with the right token the same folder is welcome.
    stranger.kill();
    fs::remove_dir_all(folder.join("us-west-3-data")).ok();
    joining("us-west-3")
        .start("us-west-3", &folder)
        .joins(&token);
}

#[test]
fn a_name_that_belongs_to_another_region_is_refused_also_once_its_node_is_gone() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--slots", "64"]);
    let settings = Settings::of(&cluster, "us-west-1");
    let second = settings.clone().joining("second", "us-west", &folder);
    let second = second.start("second", &folder);
    second.joins(&cluster.ready().admin_token);
    second.kill();
    let moved = settings
        .joining("second", "us-east", &folder)
        .in_folder(&folder.join("moved-data"));
    let line = moved.start("moved", &folder).is_refused(1);
    says(
        &line,
        &[
            "node second belongs to region us-west, not to us-east",
            "name of its own",
        ],
    );
}

#[test]
fn of_two_processes_with_copies_of_one_data_folder_the_second_is_refused() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--slots", "64"]);
    let settings = Settings::of(&cluster, "us-west-1");
    stop(&cluster, "us-west-1");
    copy(&settings.data(), &folder.join("equal"));
    copy(&settings.data(), &folder.join("older"));
    cluster.start_again("us-west-1");
    let equal = settings
        .clone()
        .in_folder(&folder.join("equal"))
        .at_new_ports();
    let line = equal.start("equal", &folder).is_refused(1);
    says(
        &line,
        &[
            "us-west-1",
            "runs at",
            "copies of one data folder",
            "empty folder",
        ],
    );
    assert!(cluster.runs("us-west-1"), "the first one goes on");

    // A copy that lacks later boots, as a backup does.
    stop(&cluster, "us-west-1");
    cluster.start_again("us-west-1");
    stop(&cluster, "us-west-1");
    cluster.start_again("us-west-1");
    let older = settings.in_folder(&folder.join("older")).at_new_ports();
    let line = older.start("older", &folder).is_refused(1);
    says(&line, &["us-west-1", "data folder"]);
    assert!(cluster.runs("us-west-1"), "the first one goes on");
    let admins: Vec<String> = cluster
        .now()
        .nodes
        .into_iter()
        .map(|node| node.admin)
        .collect();
    groups::agree(&admins, &cluster.ready().admin_token);
}

#[test]
fn a_folder_whose_name_came_back_with_another_one_is_out_of_date() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--slots", "64"]);
    let settings = Settings::of(&cluster, "us-west-1");
    cluster.kill_node("us-west-1");
    let old = folder.join("old");
    fs::rename(settings.data(), &old).expect("moved");
    cluster.start_again("us-west-1");
    let node = cluster.ask(&["node", "show", "us-west-1"]);
    assert_eq!(node["life"], 2, "{node}");
    let line = settings
        .clone()
        .in_folder(&old)
        .at_new_ports()
        .start("old", &folder)
        .is_refused(1);
    says(
        &line,
        &[
            "us-west-1",
            "came back with another data folder",
            "out of date",
        ],
    );
    says(&line, &[&old.to_string_lossy(), "empty", "name of its own"]);

    // Also once the new one is gone.
    cluster.kill_node("us-west-1");
    let line = settings
        .in_folder(&old)
        .at_new_ports()
        .start("old-in-place", &folder)
        .is_refused(1);
    says(&line, &["us-west-1", "out of date"]);
    cluster.start_again("us-west-1");
    let admins: Vec<String> = cluster
        .now()
        .nodes
        .into_iter()
        .map(|node| node.admin)
        .collect();
    groups::agree(&admins, &cluster.ready().admin_token);
}

#[test]
fn h_24_a_removed_node_stays_out_and_a_regions_number_is_not_used_again() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--slots", "64"]);
    let token = cluster.ready().admin_token.clone();
    let number = |region: &str| {
        let regions = cluster.ask(&["region", "list"]);
        let all = regions.as_array().expect("a list").clone();
        let found = all.into_iter().find(|known| known["name"] == region);
        found.map(|region| region["number"].as_u64().expect("a number"))
    };
    assert_eq!(number("eu-central"), Some(3));

    // Stopped first, as the help says.
    stop(&cluster, "eu-central-1");
    cluster.ask(&["node", "remove", "eu-central-1"]);
    let settings = Settings::of(&cluster, "eu-central-1");
    let again = settings.clone().start("eu-central-1-again", &folder);
    let line = again.is_refused(1);
    says(
        &line,
        &[
            "eu-central-1",
            "was removed from the cluster",
            "empty data folder",
        ],
    );
    let line = settings
        .start("eu-central-1-once-more", &folder)
        .is_refused(1);
    says(
        &line,
        &[
            "eu-central-1",
            "was removed from the cluster",
            "empty data folder",
        ],
    );

    groups::settle(&cluster.admin(), &token, "nobody counts on it", |all| {
        let mut all = all.values();
        all.all(|group| {
            let everybody = group.voters.union(&group.learners);
            group.connected && !everybody.into_iter().any(|name| name == "eu-central-1")
        })
    });
    let dry = cluster.ask(&["region", "remove", "eu-central", "--dry-run"]);
    assert_eq!(dry["name"], "eu-central");
    assert_eq!(number("eu-central"), Some(3));
    cluster.ask(&["region", "remove", "eu-central"]);
    assert_eq!(number("eu-central"), None);

    // The name comes again, the number does not.
    let reborn = Settings::of(&cluster, "us-east-1");
    let reborn = reborn.joining("eu-central-2", "eu-central", &folder);
    let reborn = reborn.start("eu-central-2", &folder);
    reborn.joins(&token);
    assert_eq!(number("eu-central"), Some(4));
    cluster.ask(&["node", "remove", "eu-central-2"]);
    let line = reborn.is_refused(1);
    says(&line, &["eu-central-2", "was removed"]);
    cluster.ask(&["region", "remove", "eu-central"]);
}

#[test]
fn nodes_that_are_removed_one_after_the_other_while_they_run_take_no_quorum_with_them() {
    let _alone = alone();
    let cluster = Cluster::start();
    let token = cluster.ready().admin_token.clone();
    for name in ["eu-central-1", "us-west-1"] {
        let pid = cluster.now().node(name).pid;
        cluster.ask(&["node", "remove", name]);
        wait::until(RECOVERED_WITHIN, "a removed node ends", || {
            (!is_alive(pid)).then_some(())
        });
        groups::settle(&cluster.admin(), &token, "nobody counts on it", |all| {
            let mut all = all.values();
            all.all(|group| group.connected && !group.voters.contains(name))
        });
    }
    let said = refuses(&cluster, 1, &["node", "remove", "us-east-1"]);
    says(&said, &["us-east-1", "last"]);
    assert!(cluster.runs("us-east-1"));
}
