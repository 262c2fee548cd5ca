//! The operators' scripts, each against a cluster of real processes: `PONTOON_SSH` runs their commands on this
//! machine, in a network of their own where they change one.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use pontoon_chaos::cluster::pontoon::program;
use pontoon_chaos::cluster::process::Process;
use pontoon_chaos::cluster::world::{Plan, World};
use pontoon_chaos::cluster::{Error, folder};
use pontoon_chaos::seed::Seed;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::left_out;

/// How often something that comes by itself is looked for, every 50 ms.
const LOOKS: u32 = 1_200;

fn scripts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

fn script(name: &str, words: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(scripts().join(name));
    command.args(words).env("PONTOON_SUDO", "");
    command.envs(environment.iter().copied());
    command.output().unwrap()
}

/// The same, which must go well; what it printed.
fn done(name: &str, words: &[&str], environment: &[(&str, &str)]) -> String {
    let output = script(name, words, environment);
    let (out, err) = (&output.stdout, &output.stderr);
    let [out, err] = [out, err].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{name} {words:?}: {out}{err}");
    out
}

/// A program that is given a host and a command, as ssh is, and runs the command here.
fn stand_in(folder: &Path, name: &str, before: &str) -> String {
    let path = folder.join(name);
    std::fs::write(
        &path,
        format!("#!/bin/bash\nexec {before} bash -c \"$2\"\n"),
    )
    .unwrap();
    // A shell reads it, so that it need not be one that can be executed.
    format!("bash {}", path.display())
}

fn all() -> Vec<String> {
    let names = std::fs::read_dir(scripts()).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        name.into_string().unwrap()
    });
    names.filter(|name| !name.contains('.')).collect()
}

#[test]
fn each_script_says_what_it_does_and_does_nothing_in_a_dry_run() {
    let mut all = all();
    all.sort();
    assert!(all.len() >= 9, "{all:?}");
    let guide = std::fs::read_to_string(scripts().join("README.md")).unwrap();
    for name in &all {
        let help = done(name, &["--help"], &[]);
        assert!(
            help.starts_with(&format!("{name} ")) && help.contains("--undo"),
            "{help}"
        );
        assert!(
            guide.contains(&format!("| `{name} ")),
            "README.md lacks {name}"
        );
        let wrong = script(name, &["--nothing"], &[]);
        assert_eq!(wrong.status.code(), Some(64), "{name}");
    }
    // Nobody listens there: a dry run does not try.
    let nowhere = [("PONTOON_SSH", "/nowhere/ssh")];
    for words in [
        &["kill", "h", "--dry-run"][..],
        &["pause", "h", "--dry-run", "--for", "9"],
        &["partition", "h", "10.0.0.7", "in", "--dry-run"],
        &["partition", "h", "--undo", "--dry-run"],
        &["slow", "h", "100", "--dry-run"],
        &["fill-disk", "h", "/var/lib/pontoon", "--dry-run"],
        &["jump-clock", "h", "-600", "--dry-run"],
        &["block-names", "h", "--dry-run"],
    ] {
        let said = done(words[0], &words[1..], &nowhere);
        assert!(
            said.starts_with("# on h\n") && said.lines().count() > 1,
            "{said}"
        );
    }
    let said = done(
        "drain",
        &["a-1", "--dry-run"],
        &[("PONTOON", "/nowhere/pontoon")],
    );
    assert_eq!(said, "/nowhere/pontoon node drain a-1\n");
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let mut command = Command::new("shellcheck");
    let files = all().into_iter().chain(["lib.sh".to_owned()]);
    let Ok(output) = command
        .arg("-x")
        .args(files)
        .current_dir(scripts())
        .output()
    else {
        left_out("shellcheck is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// Waits for a state.
async fn becomes(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within {LOOKS} looks: {what}");
}

fn plan() -> Result<Plan, Error> {
    let region = |name: &str| (name.to_owned(), 1, 0);
    Ok(Plan {
        regions: ["a", "b", "c"].map(region).to_vec(),
        round_trips: Vec::new(),
        local: Duration::ZERO,
        slots: 1,
        window: Duration::from_secs(60),
        tables: String::new(),
        cluster: String::new(),
        seed: Seed::new(1),
        disk_mib: None,
        clocks: false,
        names: false,
        tls: false,
        power: false,
        skip_fsync: false,
        apart: false,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_killed_paused_and_drained_and_it_is_undone() -> Result<(), Error> {
    let program = program(None)?;
    let mut world = World::start(&folder::home()?, &program, &plan()?).await?;
    let ssh = stand_in(world.folder(), "ssh", "");
    let started = world.folder().join("started");
    let start = format!("touch {}", started.display());
    let state = world.folder().join("state").display().to_string();
    let find = |process: &Process| format!("echo {}", process.pid());

    let pid = find(&world.nodes[0].process);
    let host = [
        ("PONTOON_SSH", &*ssh),
        ("PONTOON_PID", &*pid),
        ("PONTOON_START", &*start),
        ("PONTOON_STATE", &*state),
    ];
    done("pause", &["a-1"], &host);
    becomes("a pause", || world.nodes[0].process.state() == Some('T')).await;
    done("pause", &["--undo", "a-1"], &host);
    becomes("its end", || world.nodes[0].process.state() != Some('T')).await;
    done("pause", &["a-1", "--for", "1"], &host);
    becomes("a pause", || world.nodes[0].process.state() == Some('T')).await;
    becomes("its own end", || {
        world.nodes[0].process.state() != Some('T')
    })
    .await;
    // Whoever waits to undo it is ended by an undoing: else the next pause would end at the deadline of the first.
    done("pause", &["a-1", "--for", "600"], &host);
    let timer = std::fs::read_to_string(format!("{state}/pause")).unwrap();
    let refused = script("pause", &["a-1"], &host);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(75), "{said}");
    assert!(said.contains("--undo"), "{said}");
    done("pause", &["--undo", "a-1"], &host);
    becomes("its end", || world.nodes[0].process.state() != Some('T')).await;
    let timer = PathBuf::from(format!("/proc/{}/stat", timer.trim()));
    becomes("no timer", || {
        std::fs::read_to_string(&timer).map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
    done("pause", &["a-1"], &host);
    done("pause", &["--undo", "a-1"], &host);
    done("kill", &["a-1"], &host);
    becomes("a kill", || world.nodes[0].process.ended()).await;
    assert!(!started.exists());
    done("kill", &["--undo", "a-1"], &host);
    assert!(started.exists());
    world.restart_node(0)?;
    world.settled(0).await?;

    let endpoint = format!("http://{}", world.nodes[1].admin_at);
    let token = std::fs::read_to_string(world.folder().join("admin-token"));
    let token = token.map_err(|error| Error(error.to_string()))?;
    let program = program.display().to_string();
    let admin = [
        ("PONTOON", &*program),
        ("PONTOON_ENDPOINT", &*endpoint),
        ("PONTOON_TOKEN", &*token),
    ];
    let stage = || {
        let mut command = Command::new(&program);
        let list = command.args(["node", "list"]).envs(admin).output().unwrap();
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let line = list.lines().find(|line| line.starts_with("a-1"));
        line.unwrap_or_default().to_owned()
    };
    done("drain", &["a-1"], &admin);
    becomes("a drained node", || stage().contains("drained")).await;
    done("drain", &["a-1", "--undo"], &admin);
    becomes("one that serves", || stage().contains("serving")).await;
    world.settled(0).await?;
    if Command::new("jq").arg("--version").output().is_err() {
        left_out("move-leader: jq is not installed");
        return Ok(());
    }
    let said = done("move-leader", &["a"], &admin);
    assert!(said.contains(" handed over to "), "{said}");
    becomes("one that serves", || stage().contains("serving")).await;
    world.settled(0).await
}

/// A network of its own, with nothing but loopback in it.
fn network(folder: &Path) -> Option<(Process, String)> {
    let words = ["--net", "sh", "-c", "ip link set lo up && echo up && cat"];
    let unshare = Path::new("/usr/bin/unshare");
    let process = Process::start("network", folder, unshare, words).ok()?;
    for _ in 0..100 {
        if process.log().contains("up") {
            let before = format!("nsenter --net=/proc/{}/ns/net", process.pid());
            return Some((process, stand_in(folder, "ssh-there", &before)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

#[test]
fn networks_are_cut_and_slowed_and_it_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_network, ssh)) = network(folder.path()) else {
        left_out("no network of one's own without root");
        return;
    };
    let host = [("PONTOON_SSH", &*ssh), ("PONTOON_DEV", "lo")];
    let there = |command: &str| {
        let mut words = ssh.split(' ');
        let mut shell = Command::new(words.next().unwrap());
        let output = shell.args(words).args(["h", command]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    done("slow", &["h", "800"], &host);
    assert!(there("tc qdisc show dev lo").contains("tbf 7:"));
    done("slow", &["h", "--undo"], &host);
    assert!(!there("tc qdisc show dev lo").contains("tbf"));

    let has_nft = Command::new("nft").arg("--version").output().is_ok();
    let cut = |said: &str| match has_nft {
        true => said.contains("10.9.8.7"),
        false => said.contains("blackhole 10.9.8.7"),
    };
    let rules = if has_nft {
        "nft list ruleset"
    } else {
        "ip route show"
    };
    done("partition", &["h", "10.9.8.7", "out"], &host);
    assert!(cut(&there(rules)), "{}", there(rules));
    done("partition", &["h", "--undo"], &host);
    assert!(!cut(&there(rules)), "{}", there(rules));
    // Without nft, routes of both families go as they came.
    let few = folder.path().join("few");
    std::fs::create_dir(&few).unwrap();
    for name in ["bash", "env", "ip", "cat", "grep", "rm"] {
        let path = there(&format!("command -v {name}"));
        std::os::unix::fs::symlink(path.trim(), few.join(name)).unwrap();
    }
    let path = format!("env PATH={}", few.display());
    let by_routes = [host[0], ("PONTOON_SUDO", &*path)];
    let held = || there("ip route show proto 199; ip -6 route show proto 199");
    let mut words = vec!["h", "out", "10.9.8.7"];
    if !there("cat /proc/net/if_inet6").is_empty() {
        words.push("2001:db8::7");
    }
    done("partition", &words, &by_routes);
    let routes = held().matches("blackhole").count();
    assert_eq!(routes, words.len() - 2, "{}", held());
    done("partition", &["h", "--undo"], &by_routes);
    assert_eq!(held(), "");
    // Whoever would cut himself off is refused.
    let from = [host[0], ("SSH_CLIENT", "10.9.8.7 5 22")];
    let refused = script("partition", &["h", "10.9.8.7"], &from);
    assert_eq!(refused.status.code(), Some(69));
    assert!(!cut(&there(rules)));
    if has_nft {
        done("block-names", &["h"], &host);
        assert!(there(rules).contains("dport 53"));
        done("block-names", &["h", "--undo"], &host);
        assert!(!there(rules).contains("dport 53"));
    } else {
        left_out("block-names: nft is not installed");
    }
}

#[test]
fn a_disk_is_filled_and_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let at = disk.to_str().unwrap();
    let mut mount = Command::new("mount");
    let mounted = mount
        .args(["-t", "tmpfs", "-o", "size=8m", "pontoon-chaos", at])
        .output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        left_out("no disk of one's own without root");
        return;
    }
    let ssh = stand_in(folder.path(), "ssh", "");
    let sleeper = Process::start("node", folder.path(), Path::new("/bin/sleep"), ["60"]).unwrap();
    let pid = format!("echo {}", sleeper.pid());
    let host = [
        ("PONTOON_SSH", &*ssh),
        ("PONTOON_PID", &*pid),
        ("PONTOON_START", "true"),
    ];
    done("fill-disk", &["h", at], &host);
    let full = std::fs::write(disk.join("more"), [1; 8192]);
    drop(sleeper);
    let sleeper = Process::start("node", folder.path(), Path::new("/bin/sleep"), ["60"]).unwrap();
    let pid = format!("echo {}", sleeper.pid());
    let host = [host[0], ("PONTOON_PID", &*pid), host[2]];
    // Its own child must be waited for before it is gone for `tail --pid`.
    let waits = std::thread::spawn(move || {
        let mut sleeper = sleeper;
        for _ in 0..500 {
            if sleeper.ended() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    done("fill-disk", &["h", at, "--undo"], &host);
    let ended = waits.join().unwrap();
    let room = std::fs::write(disk.join("more"), [1; 8192]);
    let mut unmount = Command::new("umount");
    unmount.arg(at).status().unwrap();
    assert!(full.is_err(), "there was room left");
    assert!(ended, "the node was not started again");
    assert!(room.is_ok(), "there is no room: {room:?}");
}
