//! A cluster of two nodes in each of three regions, each on addresses of its own, 127.1.REGION.NODE, with
//! the same ports everywhere, as on real machines. Whoever asks comes from 127.2.REGION.9.

use super::asking::{data, exchange, question, with_edns};
use super::support::cluster;
use super::support::member::{ADMIN_TOKEN, Member, Settings, founders, free};
use super::support::wait;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use trust_dns_resolver::proto::op::Message;

/// Long, so that six SRV records don't fit into 512 bytes.
pub const ZONE: &str =
    "answers-by-udp-are-cut.where-the-name-of-a-zone-is-as-long-as-this.example.com";

/// The regions, by their numbers.
pub const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// How long a change may take until it is in answers: a node that was killed is missed for 1.5 s, after
/// an election if it led the catalog, and the machine is busy.
pub const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// How many answers a second one prefix gets: more than any test but one asks for.
pub const RATE: u32 = 300;

/// The cluster; it ends with this process.
pub struct World {
    pub folder: PathBuf,
    settings: BTreeMap<String, Settings>,
    running: Mutex<BTreeMap<String, Member>>,
    /// Its client, worker and DNS ports.
    pub ports: [u16; 3],
}

/// Where a node is.
pub fn ip(node: &str) -> Ipv4Addr {
    let (region, number) = node.split_once('-').expect("a node's name");
    Ipv4Addr::new(127, 1, place(region), number.parse().expect("a number"))
}

/// Where clients of a region ask from.
pub fn home(region: &str) -> Ipv4Addr {
    Ipv4Addr::new(127, 2, place(region), 9)
}

fn place(region: &str) -> u8 {
    let place = REGIONS.iter().position(|one| *one == region);
    place.expect("a region") as u8 + 1
}

fn port() -> u16 {
    let free = free();
    free.rsplit_once(':')
        .expect("a port")
        .1
        .parse()
        .expect("a port")
}

impl World {
    /// The one of this process.
    pub fn get() -> &'static World {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(World::start)
    }

    fn start() -> World {
        let folder = cluster::folder();
        let ports = [port(), port(), port()];
        let names: Vec<(String, &str)> = REGIONS
            .iter()
            .flat_map(|region| (1..=2).map(move |number| (format!("{region}-{number}"), *region)))
            .collect();
        let list: Vec<(&str, &str)> = names
            .iter()
            .map(|(name, region)| (name.as_str(), *region))
            .collect();
        let at = |name: &str, port: u16| format!("{}:{port}", ip(name));
        let settings = founders(&folder, &list).into_iter().zip(&names);
        let settings = settings.map(|(settings, (name, _))| {
            let prefixes: BTreeMap<String, String> = REGIONS
                .iter()
                .map(|region| {
                    (
                        format!("127.2.{}.0/24", place(region)),
                        (*region).to_owned(),
                    )
                })
                .collect();
            let mut service = toml::Table::new();
            service.insert("contact".into(), "dns.admin@example.com".into());
            service.insert("listen".into(), at(name, ports[2]).into());
            service.insert("zone".into(), ZONE.into());
            service.insert("answers_per_second".into(), i64::from(RATE).into());
            service.insert(
                "name_servers".into(),
                vec![format!("eu-1.client.{ZONE}"), "ns.example.net".to_owned()].into(),
            );
            service.insert(
                "prefixes".into(),
                toml::Table::try_from(prefixes).expect("a table").into(),
            );
            let settings = settings
                .with("listen.client", at(name, ports[0]))
                .with("listen.worker", at(name, ports[1]))
                .with("dns_service", service);
            // One node advertises a name, which the others look up.
            let settings = match name.as_str() {
                "us-2" => {
                    let mut advertise = toml::Table::new();
                    let admin = settings.address("admin").replace("127.0.0.1", "localhost");
                    advertise.insert("admin".into(), admin.into());
                    settings.with("advertise", advertise)
                }
                _ => settings,
            };
            (name.clone(), settings)
        });
        let world = World {
            settings: settings.collect(),
            folder,
            running: Mutex::default(),
            ports,
        };
        for (name, _) in &names {
            world.start_node(name);
        }
        for member in world.running.lock().expect("no panic").values() {
            member.joins(ADMIN_TOKEN);
        }
        wait::until(
            2 * SEEN_WITHIN,
            "every node answers with all others",
            || {
                names
                    .iter()
                    .all(|(name, _)| world.all(name).len() == 6)
                    .then_some(())
            },
        );
        world
    }

    /// The nodes that an answer for the whole zone names.
    pub fn all(&self, at: &str) -> BTreeSet<String> {
        let question = with_edns(question(&format!("_pontoon-client._tcp.{ZONE}"), "SRV"));
        // A node that is just starting doesn't listen yet.
        let Some(answer) = exchange(self.dns(at), home("eu"), &question) else {
            return BTreeSet::new();
        };
        let said = Message::from_vec(&answer).expect("a message");
        let targets = said.answers.iter().filter_map(|record| {
            let data = record.data.to_string();
            let target = data.split(' ').nth(3)?.split('.').next()?;
            Some(target.to_owned())
        });
        targets.collect()
    }

    /// Starts a node that doesn't run.
    pub fn start_node(&self, name: &str) {
        let mut running = self.running.lock().expect("no panic");
        let mut label = name.to_owned();
        while self.folder.join(format!("{label}.log")).exists() {
            label.push_str("-again");
        }
        running.insert(
            name.to_owned(),
            self.settings[name].start(&label, &self.folder),
        );
    }

    /// Ends a node's process by a signal, and waits for its end.
    pub fn end_node(&self, name: &str, signal: Signal) {
        let member = self.running.lock().expect("no panic").remove(name);
        let member = member.expect("it runs");
        member.process().signal(signal);
        member.process().wait(Duration::from_secs(10));
    }

    /// Where a node takes questions.
    pub fn dns(&self, node: &str) -> SocketAddr {
        (ip(node), self.ports[2]).into()
    }

    /// A running node's admin port.
    pub fn admin(&self, node: &str) -> String {
        self.running.lock().expect("no panic")[node].admin.clone()
    }

    /// One sample of a running node's metrics.
    pub fn metrics(&self, node: &str, sample: &str) -> f64 {
        let running = self.running.lock().expect("no panic");
        let (_, page) = running[node].page("/metrics").expect("a page");
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{sample} is not in\n{page}"))
    }

    /// Asks one node from somewhere, by UDP.
    #[track_caller]
    pub fn ask(&self, node: &str, from: Ipv4Addr, name: &str, kind: &str) -> Message {
        let question = question(name, kind);
        let answer = exchange(self.dns(node), from, &question).expect("an answer");
        Message::from_vec(&answer).expect("a message")
    }

    /// The addresses that a client of a region gets.
    #[track_caller]
    pub fn addresses(&self, node: &str, region: &str, name: &str) -> BTreeSet<String> {
        data(&self.ask(node, home(region), name, "A"))
    }
}
