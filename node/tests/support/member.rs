//! Nodes that a test starts itself: beside those of `pontoon dev`, or a whole cluster of them.

use super::cli;
use super::cluster::{Cluster, PONTOON};
use super::process::{Process, send};
use super::wait;
use rustix::process::Signal;
use serde_json::Value;
use sha2::Digest as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// How long a node may take from its start to its place in all groups, on a busy machine.
const MEMBER_WITHIN: Duration = Duration::from_secs(60);

/// How long a process may take to find out that it can't go on: a few proposals of 5 s each.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

/// What administers a cluster that [`founders`] made.
pub const ADMIN_TOKEN: &str = "a-token-for-tests-only";

/// A node's configuration.
#[derive(Clone)]
pub struct Settings(toml::Table);

impl Settings {
    /// The configuration that `pontoon dev` wrote for a node.
    #[track_caller]
    pub fn of(cluster: &Cluster, node: &str) -> Settings {
        let path = cluster.data().join(format!("config/{node}.toml"));
        let text = fs::read_to_string(path).expect("its file");
        Settings(text.parse().expect("TOML"))
    }

    /// Another value of a key; `table.key` is one in a table.
    #[track_caller]
    pub fn with(mut self, key: &str, value: impl Into<toml::Value>) -> Settings {
        let (table, key) = match key.split_once('.') {
            Some((table, key)) => (self.0[table].as_table_mut().expect("a table"), key),
            None => (&mut self.0, key),
        };
        table.insert(key.to_owned(), value.into());
        self
    }

    /// A data folder.
    pub fn in_folder(self, folder: &Path) -> Settings {
        self.with("data_dir", folder.to_string_lossy().into_owned())
    }

    /// Listeners that nobody has.
    #[track_caller]
    pub fn at_new_ports(mut self) -> Settings {
        let listen = self.0["listen"].as_table_mut().expect("a table");
        for (_, address) in listen.iter_mut().filter(|(_, value)| value.is_str()) {
            *address = free().into();
        }
        match self.0.contains_key("dns_service") {
            true => self.with("dns_service.listen", free()),
            false => self,
        }
    }

    /// A node that is to join, with everything its own.
    pub fn joining(self, name: &str, region: &str, folder: &Path) -> Settings {
        self.with("name", name)
            .with("region", region)
            .with("cluster.join", true)
            .in_folder(&folder.join(format!("{name}-data")))
            .at_new_ports()
    }

    /// Where one of its listeners is.
    #[track_caller]
    pub fn address(&self, listener: &str) -> String {
        self.0["listen"][listener]
            .as_str()
            .expect("text")
            .to_owned()
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.0["data_dir"].as_str().expect("text").into()
    }

    /// Writes the file and starts the node; `label` names its log.
    #[track_caller]
    pub fn start(&self, label: &str, folder: &Path) -> Member {
        let path = folder.join(format!("{label}.toml"));
        fs::write(&path, self.0.to_string()).expect("written");
        let mut command = Command::new(PONTOON);
        command
            .args(["node", "--exit-with-stdin", "--config"])
            .arg(&path);
        Member {
            process: Process::start(label, folder, &mut command),
            admin: self.address("admin"),
            client: self.address("client"),
            peer: self.address("peer"),
            ops: self.address("ops"),
        }
    }
}

/// A loopback address that nobody listens at: below those that the kernel gives to connections, and
/// beside those that `pontoon dev` draws.
pub fn free() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 7_000;
    loop {
        let port = 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// The configurations of a cluster's first members, each (name, region), in the order of the list.
#[track_caller]
pub fn founders(folder: &Path, members: &[(&str, &str)]) -> Vec<Settings> {
    let listed: Vec<_> = members.iter().map(|member| (*member, free())).collect();
    founders_at(folder, &listed)
}

/// As [`founders`], with peer addresses.
#[track_caller]
pub fn founders_at(folder: &Path, listed: &[((&str, &str), String)]) -> Vec<Settings> {
    let token = folder.join("join-token");
    fs::write(&token, "a join token for tests only").expect("written");
    let hash = sha2::Sha256::digest(ADMIN_TOKEN.as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: String = listed
        .iter()
        .map(|((name, region), peer)| {
            format!("[[cluster.members]]\nname = {name:?}\nregion = {region:?}\npeer = {peer:?}\n")
        })
        .collect();
    let each = listed.iter().map(|((name, region), peer)| {
        let text = format!(
            "name = {name:?}\nregion = {region:?}\ndata_dir = {:?}\n\
             [listen]\nclient = {:?}\nworker = {:?}\npeer = {peer:?}\nadmin = {:?}\nops = {:?}\n\
             [cluster]\nname = \"tests\"\njoin_token_file = {token:?}\n\
             admin_token_sha256 = {hash:?}\ntiming = \"wan\"\n{list}",
            folder.join(format!("{name}-data")),
            free(),
            free(),
            free(),
            free(),
        );
        Settings(text.parse().expect("TOML"))
    });
    each.collect()
}

/// A running node. Dropping it ends it.
pub struct Member {
    process: Process,
    pub admin: String,
    pub client: String,
    pub peer: String,
    pub ops: String,
}

impl Member {
    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it says about something, or `None` when it does not answer.
    pub fn ask(&self, token: &str, arguments: &[&str]) -> Option<Value> {
        cli::try_ask(&self.admin, token, arguments)
    }

    /// Waits until it is a part of every group and hears a quorum of each; what it says of them.
    #[track_caller]
    pub fn joins(&self, token: &str) -> Value {
        wait::until(MEMBER_WITHIN, "the node is a part of all groups", || {
            if let Some(status) = self.process.ended() {
                panic!("the node ended, {status}:\n{}", self.process.output());
            }
            let groups = self.ask(token, &["group", "list"])?;
            let all = groups.as_array()?;
            let connected = all.iter().all(|group| group["connected"] == true);
            (all.len() > 1 && connected).then_some(groups)
        })
    }

    /// Waits until it has said something in its log.
    #[track_caller]
    pub fn says(&self, words: &[&str]) -> String {
        wait::until(REFUSED_WITHIN, &format!("the log says {words:?}"), || {
            let output = self.process.output();
            let mut lines = output.lines();
            let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
            found.map(str::to_owned)
        })
    }

    /// Waits for the end of a node that has no place in its cluster; its last line, which is for
    /// people.
    #[track_caller]
    pub fn is_refused(&self, code: i32) -> String {
        let status = wait::within(REFUSED_WITHIN, || self.process.ended());
        let output = self.process.output();
        let Some(status) = status else {
            panic!("it goes on after {REFUSED_WITHIN:?}:\n{output}");
        };
        assert_eq!(status.code(), Some(code), "{output}");
        assert!(!output.contains("panicked"), "{output}");
        let last = output.lines().last().unwrap_or_default().to_owned();
        assert!(last.starts_with("pontoon"), "{output}");
        last
    }

    /// A page of its ops port; `None` when it doesn't answer as fast as probes want it.
    pub fn page(&self, path: &str) -> Option<(u16, String)> {
        let within = Duration::from_secs(2);
        let address = self.ops.parse().expect("an address");
        let mut stream = TcpStream::connect_timeout(&address, within).ok()?;
        stream.set_read_timeout(Some(within)).ok()?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.ops
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer))
    }

    /// Kills it.
    #[track_caller]
    pub fn kill(self) {
        send(self.process.pid(), Signal::KILL);
        self.process.wait(Duration::from_secs(5));
    }
}
