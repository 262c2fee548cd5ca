//! What a sidecar is told on its command line, checked once.

use super::Stop;
use super::health::Check;
use crate::discovery::address::Address;
use crate::tls::dial::Trust;
use crate::tunnel::SPARES_MAX;
use pontoon_proto::id::VersionId;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Runs beside a worker: attaches it to nodes and carries its tunnels.
///
/// The worker key comes from the environment variable PONTOON_WORKER_KEY or from --worker-key-file;
/// never from a flag, because other users of the machine can read those.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The worker's port; the worker speaks HTTP/2 there (any gRPC server does)
    #[arg(long, value_name = "HOST:PORT")]
    pub worker: String,
    /// Worker ports of nodes, or of plain TCP load balancers in front of them: HOST:PORT, or an SRV name
    /// as _pontoon-worker._tcp.eu.example.com; at least two nodes are attached to, the own region first
    #[arg(
        long,
        visible_alias = "node",
        value_name = "ADDRESS,...",
        value_delimiter = ',',
        required = true
    )]
    pub nodes: Vec<String>,
    /// The worker's home region
    #[arg(long, value_name = "NAME")]
    pub region: String,
    /// The function version that the worker runs; only needed to make sure that the key is for it
    #[arg(long, value_name = "UUID")]
    pub version_id: Option<String>,
    /// At most so many sessions at once, 1 to 16384; the version's own limit counts too
    #[arg(long, value_name = "N")]
    pub slots: Option<u32>,
    /// How many tunnels are dialed ahead of sessions and kept for them, per attached node and up to 64: an open
    /// or a resume at such a node then costs no dial
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub spare_tunnels: u32,
    /// A name for people, shown in lists [default: the worker's address]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How the worker's health is checked: grpc, http:/PATH or tcp
    #[arg(long, value_name = "HOW", default_value = "grpc")]
    pub health: String,
    /// Where to POST {"request_id", "reason"} when a session has ended
    #[arg(long, value_name = "http://HOST:PORT/PATH")]
    pub on_end: Option<String>,
    /// Serve /livez, /readyz and /metrics here
    #[arg(long, value_name = "HOST:PORT")]
    pub ops: Option<String>,
    /// After SIGTERM, how long sessions may go on
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub drain_timeout: u64,
    /// Give up when the worker has not answered for so long [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub worker_wait: Option<u64>,
    /// A file that holds the worker key
    #[arg(long, value_name = "PATH")]
    pub worker_key_file: Option<PathBuf>,
    /// The CAs of the nodes' certificates: every connection to a node is made with TLS [default: clear
    /// text]
    #[arg(long, env = "PONTOON_CA_FILE", value_name = "PATH")]
    pub ca_file: Option<PathBuf>,
    /// The DNS servers that are asked for names [default: those of /etc/resolv.conf]
    #[arg(
        long,
        env = "PONTOON_DNS",
        value_name = "IP:PORT,...",
        value_delimiter = ','
    )]
    pub dns: Vec<SocketAddr>,
    /// End at once when standard input closes, as it does when a parent process dies
    #[arg(long)]
    pub exit_with_stdin: bool,
    /// Give each session a worker process of its own: one session at a time, and a new start after each
    #[arg(long, requires = "command")]
    pub recycle: bool,
    /// Start the worker by this command, and again whenever it has exited; it ends with the sidecar
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A worker key; its `Debug` form hides it (O-LOG-1).
#[derive(Clone)]
pub(super) struct Secret(pub(super) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Options that make sense.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) worker: String,
    pub(super) nodes: Vec<String>,
    pub(super) region: String,
    pub(super) version: Option<VersionId>,
    /// 0: the version's.
    pub(super) slots: u32,
    /// How many spare tunnels each attached node may have.
    pub(super) spares: u32,
    pub(super) name: String,
    pub(super) check: Check,
    pub(super) on_end: Option<http::Uri>,
    pub(super) ops: Option<String>,
    pub(super) drain_timeout: Duration,
    pub(super) worker_wait: Option<Duration>,
    pub(super) key: Secret,
    /// How the worker is started; empty when somebody else does.
    pub(super) command: Vec<OsString>,
    /// Whether each session gets a worker process of its own.
    pub(super) recycle: bool,
    /// Whom to believe; `None` for clear text.
    pub(super) trust: Option<Trust>,
}

/// The environment variable with the worker key.
pub(super) const KEY_VARIABLE: &str = "PONTOON_WORKER_KEY";

impl Options {
    /// Checks every option; the error names the option and says what it may be.
    ///
    /// # Errors
    ///
    /// Exit code 64, with one line of text.
    pub(super) fn settings(self) -> Result<Settings, Stop> {
        address("--worker", &self.worker)?;
        for node in &self.nodes {
            address("--nodes", node)?;
        }
        if self.region.is_empty() {
            return Err(usage("--region must not be empty"));
        }
        let version = match &self.version_id {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| usage(&format!("--version-id {text:?} is not a UUID")))?,
            ),
        };
        if let Some(slots) = self.slots
            && !(1..=16_384).contains(&slots)
        {
            return Err(usage(&format!("--slots {slots} is not in 1..=16384")));
        }
        if self.recycle && self.slots.is_some_and(|slots| slots != 1) {
            return Err(usage(
                "--slots must be 1 with --recycle: each session gets a process",
            ));
        }
        if self.spare_tunnels > SPARES_MAX {
            let text = format!(
                "--spare-tunnels {} is not in 0..={SPARES_MAX}",
                self.spare_tunnels
            );
            return Err(usage(&text));
        }
        let check = Check::parse(&self.health).ok_or_else(|| {
            let text = format!("--health {:?} is not grpc, http:/PATH or tcp", self.health);
            usage(&text)
        })?;
        let on_end = self.on_end.as_deref().map(end_url).transpose()?;
        if let Some(ops) = &self.ops {
            address("--ops", ops)?;
        }
        let trust = self.ca_file.as_deref().map(Trust::open).transpose();
        let trust = trust.map_err(|problem| usage(&problem.0))?;
        let key = read_key(self.worker_key_file.as_deref())?;
        Ok(Settings {
            trust,
            name: self.name.unwrap_or_else(|| self.worker.clone()),
            worker: self.worker,
            nodes: self.nodes,
            region: self.region,
            version,
            slots: match self.recycle {
                true => 1,
                false => self.slots.unwrap_or(0),
            },
            command: self.command,
            recycle: self.recycle,
            spares: self.spare_tunnels,
            check,
            on_end,
            ops: self.ops,
            drain_timeout: Duration::from_secs(self.drain_timeout),
            worker_wait: self.worker_wait.map(Duration::from_secs),
            key,
        })
    }
}

fn usage(text: &str) -> Stop {
    Stop {
        code: 64,
        text: text.to_owned(),
    }
}

fn address(option: &str, text: &str) -> Result<(), Stop> {
    match text.parse::<Address>() {
        Ok(_) => Ok(()),
        Err(why) => Err(usage(&format!("{option}: {why}"))),
    }
}

fn end_url(text: &str) -> Result<http::Uri, Stop> {
    let bad = || usage(&format!("--on-end {text:?} is not http://HOST:PORT/PATH"));
    let uri: http::Uri = text.parse().map_err(|_| bad())?;
    let plain = uri.scheme_str() == Some("http") && uri.authority().is_some();
    plain.then_some(uri).ok_or_else(bad)
}

fn read_key(file: Option<&std::path::Path>) -> Result<Secret, Stop> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| usage(&format!("--worker-key-file {}: {error}", path.display())))?,
        None => std::env::var(KEY_VARIABLE).map_err(|_| {
            usage(&format!(
                "no worker key: set {KEY_VARIABLE} or --worker-key-file"
            ))
        })?,
    };
    let key = text.trim();
    let visible = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    match visible {
        true => Ok(Secret(key.to_owned())),
        false => Err(usage(
            "the worker key is empty or has characters that no key has",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            worker: "127.0.0.1:8001".to_owned(),
            nodes: vec!["127.0.0.1:10086".to_owned()],
            region: "us-east".to_owned(),
            version_id: None,
            slots: None,
            spare_tunnels: 0,
            name: None,
            health: "grpc".to_owned(),
            on_end: None,
            ops: None,
            dns: Vec::new(),
            drain_timeout: 300,
            worker_wait: None,
            worker_key_file: Some("/nowhere/key".into()),
            ca_file: None,
            exit_with_stdin: false,
            recycle: false,
            command: Vec::new(),
        }
    }

    #[test]
    fn each_malformed_option_is_one_clear_line() {
        type Spoil = fn(&mut Options);
        let cases: [(&str, Spoil); 11] = [
            ("--worker", |o| o.worker = "8001".to_owned()),
            ("--nodes", |o| o.nodes = vec!["a:0".to_owned()]),
            ("--region", |o| o.region = String::new()),
            ("--version-id", |o| o.version_id = Some("7".to_owned())),
            ("--slots", |o| o.slots = Some(0)),
            ("--spare-tunnels", |o| o.spare_tunnels = 65),
            ("--slots", |o| (o.slots, o.recycle) = (Some(2), true)),
            ("--health", |o| o.health = "icmp".to_owned()),
            ("--on-end", |o| o.on_end = Some("https://x/".to_owned())),
            ("--worker-key-file", |_| {}),
            ("--ca-file", |o| o.ca_file = Some("/nowhere/ca".into())),
        ];
        for (option, spoil) in cases {
            let mut options = options();
            spoil(&mut options);
            let stop = options.settings().unwrap_err();
            assert_eq!(stop.code, 64);
            assert!(stop.text.starts_with(option), "{}", stop.text);
            assert_eq!(stop.text.lines().count(), 1);
        }
    }
}
