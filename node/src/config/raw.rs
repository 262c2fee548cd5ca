//! What a configuration file may say. Every key has its unit in its name and its default here.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The whole file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// This node's name, a DNS label; one of `cluster.members`.
    pub name: String,
    /// Its region's name, a DNS label.
    pub region: String,
    /// A folder of its own; made when missing.
    pub data_dir: PathBuf,
    /// Allows clear text beyond loopback. Default false.
    #[serde(default)]
    pub insecure: bool,
    /// The cluster that it belongs to; the same on every node.
    pub cluster: Cluster,
    /// Where to listen.
    #[serde(default)]
    pub listen: Listen,
    /// How others reach this node, host:port; default: as `listen`.
    #[serde(default)]
    pub advertise: Advertise,
    /// Certificates between nodes and for operators and sidecars.
    #[serde(default)]
    pub tls: Tls,
    /// Whom to ask for names.
    #[serde(default)]
    pub dns: Dns,
    /// Being asked for names.
    #[serde(default)]
    pub dns_service: DnsService,
    /// Bounds on clients.
    #[serde(default)]
    pub limits: Limits,
    /// What clients and workers learn of each other.
    #[serde(default)]
    pub clients: Clients,
    /// Logging.
    #[serde(default)]
    pub log: Log,
}

/// The cluster; the same on every node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// For people; part of the cluster's id.
    pub name: String,
    /// A file with a secret of at least 16 characters; part of the cluster's id.
    pub join_token_file: PathBuf,
    /// SHA-256, hex, of the token that may administer a cluster without any key yet.
    pub admin_token_sha256: Option<String>,
    /// What region groups outlive: `region` (default) or `zone`.
    #[serde(default)]
    pub survive: SurviveName,
    /// How patient the groups are: `auto` (default), `wan` or `lan`. The same on every node.
    #[serde(default)]
    pub timing: TimingName,
    /// Silence after which a node's boot is declared over. Default 5,000; at least 2,000. Shorter:
    /// a pause costs a node its entries. Longer: sessions of a dead node end later.
    #[serde(default = "node_lost_after_ms")]
    pub node_lost_after_ms: u64,
    /// Silence after which a node's places in all groups are given to others. Default 600,000; at
    /// least 10,000. Shorter: a restart moves voters back and forth. Longer: a group goes on for so
    /// long with a voter less.
    #[serde(default = "node_dead_after_ms")]
    pub node_dead_after_ms: u64,
    /// This node is not among the first members and asks them to be admitted. Default false, so that
    /// a misspelled name does not become a new node.
    #[serde(default)]
    pub join: bool,
    /// The first members, in the same order on every node; their positions are their numbers.
    pub members: Vec<Member>,
}

fn node_lost_after_ms() -> u64 {
    5_000
}

fn node_dead_after_ms() -> u64 {
    600_000
}

/// One of the first members.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its region's name.
    pub region: String,
    /// Its peer listener: host:port, or an SRV name.
    pub peer: String,
}

/// `region` or `zone`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SurviveName {
    /// Groups outlive any one region.
    #[default]
    Region,
    /// Groups outlive zones of their own region.
    Zone,
}

/// `auto`, `wan` or `lan`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TimingName {
    /// Each group by the round trips between its voters.
    #[default]
    Auto,
    /// Heartbeat 225 ms, election 550 to 800 ms: round trips up to 150 ms.
    Wan,
    /// Heartbeat 50 ms, election 150 to 250 ms: round trips of a few milliseconds.
    Lan,
}

/// Where to listen.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Clients, in clear text. Default 127.0.0.1:10081.
    pub client: SocketAddr,
    /// Clients, over TLS, where `tls.client_cert_file` is set. Default 127.0.0.1:10443.
    pub client_tls: SocketAddr,
    /// Addresses and ranges whose connections to `client` begin with a PROXY header. Default none.
    pub client_proxy_from: Vec<String>,
    /// The same for `client_tls`.
    pub client_tls_proxy_from: Vec<String>,
    /// Sidecars: control streams and CONNECT. Default 127.0.0.1:10086.
    pub worker: SocketAddr,
    /// Other nodes. Default 127.0.0.1:10085.
    pub peer: SocketAddr,
    /// Operators, gRPC. Default 127.0.0.1:10080.
    pub admin: SocketAddr,
    /// Operators, HTTP. Default 127.0.0.1:10083.
    pub ops: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            client: at(10081),
            client_tls: at(10443),
            client_proxy_from: Vec::new(),
            client_tls_proxy_from: Vec::new(),
            worker: at(10086),
            peer: at(10085),
            admin: at(10080),
            ops: at(10083),
        }
    }
}

impl Listen {
    /// Every listener with its key.
    pub fn all(&self) -> [(&'static str, SocketAddr); 6] {
        [
            ("client", self.client),
            ("client_tls", self.client_tls),
            ("worker", self.worker),
            ("peer", self.peer),
            ("admin", self.admin),
            ("ops", self.ops),
        ]
    }
}

/// How others reach this node, host:port.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names of the listeners")]
pub struct Advertise {
    pub client: Option<String>,
    pub worker: Option<String>,
    pub peer: Option<String>,
    pub admin: Option<String>,
    pub ops: Option<String>,
}

/// Certificates between nodes: all three files, or none for clear text; and the one for clients. They
/// are read again when they change.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The CAs whose certificates are believed, PEM.
    pub ca_file: Option<PathBuf>,
    /// This node's certificate and those between it and the CA, PEM.
    pub cert_file: Option<PathBuf>,
    /// The certificate's private key, PEM.
    pub key_file: Option<PathBuf>,
    /// The certificate for clients and those between it and its authority, PEM.
    pub client_cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub client_key_file: Option<PathBuf>,
}

/// Whom to ask for names.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Servers that are asked instead of those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
}

/// Being asked for names: where the nearest ready nodes are.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsService {
    /// Where to listen, by UDP and TCP. Default: nowhere, and nothing is answered.
    pub listen: Option<SocketAddr>,
    /// The zone whose names are answered.
    pub zone: Option<String>,
    /// The names of the zone's servers, as its parent has them.
    pub name_servers: Vec<String>,
    /// The mail address of whoever is responsible for it. Default: hostmaster of the zone.
    pub contact: Option<String>,
    /// How long answers count, seconds. Default 5.
    pub ttl_seconds: u32,
    /// Answers by UDP to one IPv4 /24 or IPv6 /56 in a second. Default 1,000.
    pub answers_per_second: u32,
    /// Regions of clients, by the prefixes of their addresses.
    pub prefixes: BTreeMap<String, String>,
}

impl Default for DnsService {
    fn default() -> Self {
        Self {
            listen: None,
            zone: None,
            name_servers: Vec::new(),
            contact: None,
            ttl_seconds: 5,
            answers_per_second: 1_000,
            prefixes: BTreeMap::new(),
        }
    }
}

/// Bounds on clients (contract C-LSN-3, C-LSN-4).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a header list. Default 65,536.
    pub header_list_bytes: u32,
    /// Concurrent streams of a connection. Default 1,024.
    pub streams_max: u32,
    /// Client connections; beyond, they are accepted and closed. Default 20,000.
    pub connections_max: usize,
    /// For the handshake, the first bytes and a complete head, each, milliseconds. Default 10,000.
    pub handshake_ms: u64,
    /// A connection with no open stream for so long gets GOAWAY, milliseconds. Default 30,000.
    pub idle_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_list_bytes: 64 * 1024,
            streams_max: 1024,
            connections_max: 20_000,
            handshake_ms: 10_000,
            idle_ms: 30_000,
        }
    }
}

/// What clients and workers learn of each other (contract C-RSP-2, C-FWD-9).
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// Pages can't read our cookie. Default false.
    pub cookie_http_only: bool,
    /// Our cookie goes with requests of pages of other sites. Default false.
    pub cookie_cross_site: bool,
    /// Workers are told the client's address. Default false.
    pub forward_client_address: bool,
}

/// The default log filter: ours at INFO. The consensus library tells each election there, at length.
/// Two of its modules speak only of messages that find a group stopped, as at every clean stop, and
/// call that an error; when a group stops for another reason, `openraft::core` says which.
pub const FILTER: &str =
    "info,openraft=warn,openraft::raft::raft_inner=off,openraft::raft::stream_append=off";

/// Logging.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A tracing filter. Default [`FILTER`].
    pub filter: String,
    /// `text` (default) or `json`.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: FILTER.into(),
            format: LogFormat::Text,
        }
    }
}

/// `text` or `json`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogFormat {
    Text,
    Json,
}
