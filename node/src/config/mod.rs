//! Configuration of a node: TOML, then environment, then flags; the later one wins.
//!
//! Read [`raw`] for what a file may say, [`layers`] for how the layers are laid over each other and
//! where each value came from, and this file for what the values must mean together. Unknown keys
//! and broken relations are errors that name the keys (contract O-CFG-1).

mod dns_service;
pub mod layers;
mod listeners;
#[cfg(test)]
mod page;
mod ranges;
pub mod raw;

pub use layers::{Layers, Origin};

use crate::discovery::address::Address;
use crate::dns;
use crate::listen::proxies::Proxies;
use crate::tls::Files;
use crate::tls::front::FrontFiles;
use pontoon_proto::id::NodeId;
use pontoon_raft::catalog::command::Survive;
use raw::{LogFormat, Member, Raw, SurviveName, TimingName};
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A configuration that can be run.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name; one of the members', or that of a node that joins them.
    pub name: String,
    /// Its region's name.
    pub region: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// 16 bytes, derived from the join token and the first members.
    pub cluster_id: [u8; 16],
    /// SHA-256 of the token that may administer a cluster without any key yet.
    pub admin_token_sha256: Option<[u8; 32]>,
    /// What region groups outlive.
    pub survive: Survive,
    /// How patient the groups are.
    pub timing: TimingName,
    /// Silence after which a node's boot is declared over.
    pub node_lost_after: Duration,
    /// Silence after which a node's places in all groups are given to others.
    pub node_dead_after: Duration,
    /// The first members, in order.
    pub members: Vec<Member>,
    /// Where to listen.
    pub listen: raw::Listen,
    /// How others reach this node: host:port.
    pub advertise: Advertise,
    /// The files of TLS; `None` for clear text.
    pub tls: Option<Tls>,
    /// The files of TLS towards clients; `None` without it.
    pub front: Option<FrontFiles>,
    /// Whose connections to the client listener begin with a PROXY header.
    pub client_proxies: Proxies,
    /// The same for the client listener with TLS.
    pub client_tls_proxies: Proxies,
    /// Whether the worker port takes sidecars that speak clear text, where there is TLS.
    pub clear_sidecars: bool,
    /// Whom to ask for names.
    pub dns: raw::Dns,
    /// Being asked for names; `None` where nobody asks.
    pub dns_service: Option<dns::Settings>,
    /// Bounds on clients.
    pub limits: raw::Limits,
    /// What clients and workers learn of each other.
    pub clients: raw::Clients,
    /// Logging.
    pub log: Log,
}

/// The files of TLS, and the name that certificates carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The files.
    pub files: Files,
    /// The cluster's name.
    pub cluster: String,
}

/// How others reach this node: host:port each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the listeners")]
pub struct Advertise {
    pub client: String,
    pub worker: String,
    pub peer: String,
    pub admin: String,
    pub ops: String,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Log {
    /// A tracing filter, for example `info,pontoon::call=debug`.
    pub filter: String,
    /// Text for people, JSON for machines.
    pub format: LogFormat,
}

/// A configuration that can't be run; `Display` says which key and what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn bad<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

impl Config {
    /// Checks that the values mean something together. `join_token` is the content of
    /// `cluster.join_token_file`, which the caller has read.
    pub fn validate(raw: Raw, join_token: &str) -> Result<Config, ConfigError> {
        let token = join_token.trim();
        if token.len() < 16 {
            return bad(
                "cluster.join_token_file: the join token is shorter than 16 characters; \
                 write a random one into the file, the same on every node",
            );
        }
        check_members(&raw)?;
        let tls = tls(&raw)?;
        let front = front(&raw)?;
        listeners::check(&raw, tls.is_some(), front.is_some())?;
        ranges::check(&raw)?;
        let dns_service = dns_service::check(&raw)?;
        let admin_token_sha256 = match raw.cluster.admin_token_sha256.as_deref() {
            None => None,
            Some(text) => Some(parse_hash(text).ok_or_else(|| {
                ConfigError(
                    "cluster.admin_token_sha256 is not 64 hex digits: it is the SHA-256 of the \
                     admin token (printf %s TOKEN | sha256sum)"
                        .into(),
                )
            })?),
        };
        let or = |set: &Option<String>, listen: SocketAddr| {
            set.clone().unwrap_or_else(|| listen.to_string())
        };
        let advertise = Advertise {
            client: or(&raw.advertise.client, raw.listen.client),
            worker: or(&raw.advertise.worker, raw.listen.worker),
            peer: or(&raw.advertise.peer, raw.listen.peer),
            admin: or(&raw.advertise.admin, raw.listen.admin),
            ops: or(&raw.advertise.ops, raw.listen.ops),
        };
        Ok(Config {
            cluster_id: cluster_id(&raw.cluster.name, token, &raw.cluster.members),
            name: raw.name,
            region: raw.region,
            data_dir: raw.data_dir,
            admin_token_sha256,
            survive: match raw.cluster.survive {
                SurviveName::Region => Survive::Region,
                SurviveName::Zone => Survive::Zone,
            },
            timing: raw.cluster.timing,
            node_lost_after: Duration::from_millis(raw.cluster.node_lost_after_ms),
            node_dead_after: Duration::from_millis(raw.cluster.node_dead_after_ms),
            members: raw.cluster.members,
            clear_sidecars: raw.insecure || raw.listen.worker.ip().is_loopback(),
            client_proxies: listeners::proxies("client", &raw.listen.client_proxy_from)?,
            client_tls_proxies: listeners::proxies(
                "client_tls",
                &raw.listen.client_tls_proxy_from,
            )?,
            listen: raw.listen,
            advertise,
            tls,
            front,
            dns: raw.dns,
            dns_service,
            limits: raw.limits,
            clients: raw.clients,
            log: Log {
                filter: raw.log.filter,
                format: raw.log.format,
            },
        })
    }
}

impl Config {
    /// This node's place in the list of first members, if it has one.
    pub fn number(&self) -> Option<NodeId> {
        let place = self.members.iter().position(|one| one.name == self.name);
        place.map(|index| NodeId(index as u32 + 1))
    }
}

fn check_members(raw: &Raw) -> Result<(), ConfigError> {
    let members = &raw.cluster.members;
    let me = members.iter().find(|member| member.name == raw.name);
    if me.is_none() && !raw.cluster.join {
        return bad(format!(
            "name is {:?}, but cluster.members has no such member: correct the name, or say \
             cluster.join = true for a node that comes to a cluster that exists",
            raw.name
        ));
    }
    if members.is_empty() {
        return bad("cluster.members is empty: name the first members, the same on every node");
    }
    if me.is_none() && !(is_label(&raw.name) && is_label(&raw.region)) {
        return bad(format!(
            "name {:?} and region {:?} must be DNS labels (a-z, 0-9, inner hyphens, at most 63 \
             characters)",
            raw.name, raw.region
        ));
    }
    if let Some(me) = me
        && me.region != raw.region
    {
        return bad(format!(
            "region is {:?}, but cluster.members puts {:?} in {:?}: make them the same",
            raw.region, raw.name, me.region
        ));
    }
    for (index, member) in members.iter().enumerate() {
        if !is_label(&member.name) || !is_label(&member.region) {
            return bad(format!(
                "cluster.members[{index}]: name {:?} and region {:?} must be DNS labels \
                 (a-z, 0-9, inner hyphens, at most 63 characters)",
                member.name, member.region
            ));
        }
        if members[..index]
            .iter()
            .any(|other| other.name == member.name)
        {
            return bad(format!(
                "cluster.members names {:?} twice: each node needs its own name",
                member.name
            ));
        }
        if members[..index]
            .iter()
            .any(|other| other.peer == member.peer)
        {
            return bad(format!(
                "cluster.members gives the peer address {:?} to two nodes",
                member.peer
            ));
        }
        if let Err(why) = member.peer.parse::<Address>() {
            return bad(format!("cluster.members[{index}]: peer {why}"));
        }
    }
    Ok(())
}

/// All three files of `[tls]`, or none.
fn tls(raw: &Raw) -> Result<Option<Tls>, ConfigError> {
    let raw::Tls {
        ca_file,
        cert_file,
        key_file,
        ..
    } = &raw.tls;
    if let (Some(ca), Some(cert), Some(key)) = (ca_file, cert_file, key_file) {
        if !is_label(&raw.cluster.name) {
            return bad(format!(
                "cluster.name is {:?}: with [tls] it is a part of the nodes' names in certificates \
                 (<name>.<cluster.name>.pontoon), so it must be a DNS label (a-z, 0-9, inner \
                 hyphens, at most 63 characters)",
                raw.cluster.name
            ));
        }
        return Ok(Some(Tls {
            files: Files {
                ca: ca.clone(),
                cert: cert.clone(),
                key: key.clone(),
            },
            cluster: raw.cluster.name.clone(),
        }));
    }
    let keys = [
        ("tls.ca_file", ca_file),
        ("tls.cert_file", cert_file),
        ("tls.key_file", key_file),
    ];
    let of = |there: bool| {
        let keys = keys.iter().filter(|(_, path)| path.is_some() == there);
        keys.map(|(key, _)| *key).collect::<Vec<_>>().join(" and ")
    };
    match of(true) {
        set if set.is_empty() => Ok(None),
        set => bad(format!(
            "{set} without {}: TLS needs all three; set what is missing, or none for clear text",
            of(false)
        )),
    }
}

/// Both files of the certificate for clients, or none.
fn front(raw: &Raw) -> Result<Option<FrontFiles>, ConfigError> {
    match (&raw.tls.client_cert_file, &raw.tls.client_key_file) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some(FrontFiles {
            cert: cert.clone(),
            key: key.clone(),
        })),
        (cert, _) => {
            let (set, missing) = match cert {
                Some(_) => ("tls.client_cert_file", "tls.client_key_file"),
                None => ("tls.client_key_file", "tls.client_cert_file"),
            };
            bad(format!(
                "{set} without {missing}: TLS for clients needs both; set what is missing, or neither"
            ))
        }
    }
}

/// The cluster's id: the first 16 bytes of a SHA-256 over its name, its join token and the first
/// members' names and regions. Addresses are left out: they may change.
pub fn cluster_id(name: &str, join_token: &str, members: &[Member]) -> [u8; 16] {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    part("pontoon cluster id 1");
    part(name);
    part(join_token);
    for member in members {
        part(&member.name);
        part(&member.region);
    }
    let digest = hash.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut out = [0; 32];
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const FILE: &str = r#"
        name = "us-east-1"
        region = "us-east"
        data_dir = "/tmp/x"
        [cluster]
        name = "dev"
        join_token_file = "/tmp/token"
        [[cluster.members]]
        name = "us-east-1"
        region = "us-east"
        peer = "127.0.0.1:10085"
    "#;
    pub(super) const TLS: &str =
        "[tls]\nca_file = \"/ca\"\ncert_file = \"/c\"\nkey_file = \"/k\"\n";
    const TOKEN: &str = "0123456789abcdef";

    pub(super) fn load(change: impl Fn(String) -> String) -> Result<Config, ConfigError> {
        let layers = Layers::new("test.toml", &change(FILE.into()), &[], &[])?;
        Config::validate(layers.raw()?, TOKEN)
    }

    #[test]
    fn a_minimal_file_takes_the_default_ports() {
        let config = load(|file| file).unwrap();
        assert_eq!(config.listen.client.port(), 10081);
        assert_eq!(config.advertise.worker, "127.0.0.1:10086");
        assert_eq!(config.survive, Survive::Region);
    }

    #[test]
    fn o_cfg_1_errors_name_the_keys_and_the_way_out() {
        let cases = [
            (
                "name = \"us-east-1\"\n        region = \"us-east\"\n        data",
                "name = \"eu-1\"\nregion = \"us-east\"\ndata",
                "cluster.members has no such member",
            ),
            (
                "region = \"us-east\"\n        data",
                "region = \"eu\"\ndata",
                "make them the same",
            ),
            ("data_dir", "datadir", "datadir"),
            ("name = \"dev\"", "name = 7", "cluster.name"),
        ];
        for (from, to, expected) in cases {
            let error = load(|file| file.replace(from, to)).unwrap_err();
            assert!(error.0.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn o_cfg_1_some_of_the_files_of_tls_are_not_enough() {
        let config = load(|file| file.clone() + TLS).unwrap();
        assert_eq!(config.tls.unwrap().files.key, PathBuf::from("/k"));
        for (missing, set) in [
            ("key_file", "tls.ca_file and tls.cert_file"),
            ("ca_file", "tls.cert_file and tls.key_file"),
        ] {
            let without: String = TLS
                .lines()
                .filter(|line| !line.starts_with(missing))
                .fold(String::new(), |text, line| text + line + "\n");
            let error = load(|file| file.clone() + &without).unwrap_err();
            let wanted = format!("{set} without tls.{missing}");
            assert!(error.0.starts_with(&wanted), "{error}");
        }
        let error = load(|file| file.replace("\"dev\"", "\"My Cluster\"") + TLS).unwrap_err();
        assert!(error.0.contains("cluster.name"), "{error}");
    }

    #[test]
    fn c_lsn_1_tls_for_clients_needs_both_of_its_files_and_none_of_the_others() {
        assert!(load(|file| file).unwrap().front.is_none());
        let both = "[tls]\nclient_cert_file = \"/c\"\nclient_key_file = \"/k\"\n";
        let config = load(|file| file + both).unwrap();
        assert_eq!(config.front.unwrap().key, PathBuf::from("/k"));
        assert!(config.tls.is_none());
        for (set, missing) in [("cert", "key"), ("key", "cert")] {
            let one = format!("[tls]\nclient_{set}_file = \"/x\"\n");
            let error = load(|file| file + &one).unwrap_err();
            let wanted = format!("tls.client_{set}_file without tls.client_{missing}_file");
            assert!(error.0.starts_with(&wanted), "{error}");
        }
    }

    #[test]
    fn the_cluster_id_depends_on_token_and_names_but_not_on_addresses() {
        let member = |name: &str, peer: &str| Member {
            name: name.into(),
            region: "r".into(),
            peer: peer.into(),
        };
        let id = cluster_id("dev", TOKEN, &[member("a", "x:1")]);
        assert_eq!(id, cluster_id("dev", TOKEN, &[member("a", "y:2")]));
        assert_ne!(
            id,
            cluster_id("dev", "another token 123", &[member("a", "x:1")])
        );
        assert_ne!(id, cluster_id("dev", TOKEN, &[member("b", "x:1")]));
    }
}
