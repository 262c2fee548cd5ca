//! The line that `pontoon dev` prints.

use super::asking::tools;
use super::support::cluster::Cluster;
use super::support::{alone, cli, wait};
use super::world::SEEN_WITHIN;
use std::collections::BTreeMap;
use std::process::Command;

#[test]
fn the_line_that_pontoon_dev_prints_works_and_says_which_ports_are_whose() {
    let _alone = alone();
    let cluster = Cluster::start();
    let _witness = cluster.witness();
    let output = cluster.dev().output();
    let line = output.lines().find(|line| line.starts_with("dig "));
    let line = line.expect("a line with dig").to_owned();
    if !tools().contains(&"dig") {
        return;
    }
    let ready = cluster.ready();
    let targets = || {
        let said = cli::run(Command::new("sh").args(["-c", &line]));
        let records = said.lines().map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let name = words[3].split('.').next().unwrap_or_default().to_owned();
            (name, format!("127.0.0.1:{}", words[2]))
        });
        records.collect::<BTreeMap<_, _>>()
    };
    let wanted = |without: &str| {
        let nodes = ready.nodes.iter().filter(|node| node.name != without);
        nodes
            .map(|node| (node.name.clone(), node.client.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    wait::until(SEEN_WITHIN, "all nodes are named", || {
        (targets() == wanted("")).then_some(())
    });
    cluster.kill_node("us-west-1");
    wait::until(SEEN_WITHIN, "a node that was killed is not", || {
        (targets() == wanted("us-west-1")).then_some(())
    });
}
