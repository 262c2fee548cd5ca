//! Which processes a development cluster has, what each is called, and what it is told.
//!
//! Everything here is a pure function of the options and of what an earlier start left behind: the
//! same folder gives the same cluster again.

use crate::cert;
use crate::config::raw::{
    Cluster, Dns, DnsService, Listen, Log, Member, Raw, SurviveName, TimingName, Tls,
};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The regions of a development cluster, the nearest to the user first.
pub(super) const REGIONS: [&str; 3] = ["us-east", "us-west", "eu-central"];

/// The cluster's name.
pub(super) const CLUSTER: &str = "dev";

/// The zone that its nodes answer for; `test` is nobody's (RFC 6761 6.2).
pub(super) const ZONE: &str = "dev.pontoon.test";

/// What processes a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Size {
    pub(super) nodes_per_region: u32,
    pub(super) workers_per_region: u32,
    /// Sessions per worker.
    pub(super) slots: u32,
}

/// A node: its place and its listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) region: String,
    pub(super) listen: Ports,
}

/// A worker with the sidecar beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) sidecar: String,
    pub(super) region: String,
    pub(super) address: SocketAddr,
}

/// A node's listeners, on loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) client: u16,
    /// Used with TLS only. A folder from before there was one has none, and gets one.
    #[serde(default)]
    pub(super) client_tls: u16,
    pub(super) worker: u16,
    pub(super) peer: u16,
    pub(super) admin: u16,
    pub(super) ops: u16,
    /// By UDP, too. A folder from before there was one has none, and gets one.
    #[serde(default)]
    pub(super) dns: u16,
}

/// The ports that clients, sidecars and dashboards know.
pub(super) const DEFAULT_PORTS: Ports = Ports {
    client: 10081,
    client_tls: 10443,
    worker: 10086,
    peer: 10085,
    admin: 10080,
    ops: 10083,
    dns: 10053,
};

impl Ports {
    /// Each port with what it is for.
    pub(super) fn all(self) -> [(&'static str, u16); 7] {
        [
            ("clients", self.client),
            ("clients over TLS", self.client_tls),
            ("sidecars", self.worker),
            ("peers", self.peer),
            ("the admin API", self.admin),
            ("ops", self.ops),
            ("DNS questions", self.dns),
        ]
    }

    /// Ports out of a source of free ones.
    pub(super) fn take<E>(mut free: impl FnMut() -> Result<u16, E>) -> Result<Self, E> {
        Ok(Self {
            client: free()?,
            client_tls: free()?,
            worker: free()?,
            peer: free()?,
            admin: free()?,
            ops: free()?,
            dns: free()?,
        })
    }
}

/// A port of this machine, as others find it.
pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The nodes' names with their regions, in the order of their numbers.
pub(super) fn node_names(size: Size) -> Vec<(String, String)> {
    names(size.nodes_per_region, |region, number| {
        format!("{region}-{number}")
    })
}

/// The workers' names with their regions.
pub(super) fn worker_names(size: Size) -> Vec<(String, String)> {
    names(size.workers_per_region, |region, number| {
        format!("{region}-worker-{number}")
    })
}

fn names(per_region: u32, name: impl Fn(&str, u32) -> String) -> Vec<(String, String)> {
    REGIONS
        .iter()
        .flat_map(|region| (1..=per_region).map(move |number| (*region, number)))
        .map(|(region, number)| (name(region, number), region.to_owned()))
        .collect()
}

/// The name of the sidecar beside a worker.
pub(super) fn sidecar_name(worker: &str) -> String {
    worker.replace("-worker-", "-sidecar-")
}

/// The places in a data folder.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
    /// Whether this run uses TLS.
    pub(super) tls: bool,
}

impl Layout {
    pub(super) fn config(&self, node: &str) -> PathBuf {
        self.root.join("config").join(format!("{node}.toml"))
    }
    pub(super) fn script(&self, process: &str) -> PathBuf {
        self.root.join("run").join(process)
    }
    pub(super) fn log(&self, process: &str) -> PathBuf {
        self.root.join("logs").join(format!("{process}.log"))
    }
    pub(super) fn node_data(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }
    pub(super) fn join_token(&self) -> PathBuf {
        self.root.join("secrets").join("join-token")
    }
    pub(super) fn worker_key(&self) -> PathBuf {
        self.root.join("secrets").join("worker-key")
    }
    pub(super) fn saved(&self) -> PathBuf {
        self.root.join("secrets").join("dev.json")
    }
    pub(super) fn certificates(&self) -> PathBuf {
        self.root.join("tls")
    }
    /// The CA file, when this run uses TLS.
    pub(super) fn ca_file(&self) -> Option<PathBuf> {
        self.tls.then(|| self.certificates().join("ca.pem"))
    }
    /// Names the socket of the running cluster.
    pub(super) fn control(&self) -> PathBuf {
        self.root.join("control")
    }
}

/// One node's configuration file.
pub(super) fn config(
    layout: &Layout,
    node: &Node,
    nodes: &[Node],
    admin_token_sha256: &str,
) -> Result<String, toml::ser::Error> {
    let listen = node.listen;
    let tls = match layout.tls {
        false => Tls::default(),
        true => {
            let files = cert::files(&layout.certificates(), &node.name);
            Tls {
                ca_file: Some(files.ca),
                cert_file: Some(files.cert.clone()),
                key_file: Some(files.key.clone()),
                client_cert_file: Some(files.cert),
                client_key_file: Some(files.key),
            }
        }
    };
    let raw = Raw {
        name: node.name.clone(),
        region: node.region.clone(),
        data_dir: layout.node_data(&node.name),
        insecure: false,
        dns: Dns::default(),
        dns_service: DnsService {
            listen: Some(local(listen.dns)),
            zone: Some(ZONE.to_owned()),
            name_servers: nodes.iter().map(server).collect(),
            ..DnsService::default()
        },
        cluster: Cluster {
            name: CLUSTER.to_owned(),
            join_token_file: layout.join_token(),
            admin_token_sha256: Some(admin_token_sha256.to_owned()),
            survive: SurviveName::Region,
            timing: TimingName::Wan,
            node_lost_after_ms: 5_000,
            node_dead_after_ms: 600_000,
            join: false,
            members: nodes
                .iter()
                .map(|node| Member {
                    name: node.name.clone(),
                    region: node.region.clone(),
                    peer: local(node.listen.peer).to_string(),
                })
                .collect(),
        },
        listen: Listen {
            client: local(listen.client),
            client_tls: local(listen.client_tls),
            client_proxy_from: Vec::new(),
            client_tls_proxy_from: Vec::new(),
            worker: local(listen.worker),
            peer: local(listen.peer),
            admin: local(listen.admin),
            ops: local(listen.ops),
        },
        advertise: Default::default(),
        tls,
        limits: Default::default(),
        clients: Default::default(),
        log: Log::default(),
    };
    toml::to_string(&raw)
}

/// A node's name as a server of the zone.
fn server(node: &Node) -> String {
    format!("{}.client.{ZONE}", node.name)
}

/// What a node is started with.
pub(super) fn node_arguments(layout: &Layout, node: &Node) -> Vec<String> {
    vec![
        "node".to_owned(),
        "--config".to_owned(),
        text(&layout.config(&node.name)),
    ]
}

/// What a demo worker is started with.
pub(super) fn worker_arguments(worker: &Worker) -> Vec<String> {
    [
        "demo-worker",
        "--listen",
        &worker.address.to_string(),
        "--name",
        &worker.name,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// What a sidecar is started with: it prefers nodes of its own region, so those come first.
pub(super) fn sidecar_arguments(layout: &Layout, worker: &Worker, nodes: &[Node]) -> Vec<String> {
    let (own, others): (Vec<_>, Vec<_>) =
        nodes.iter().partition(|node| node.region == worker.region);
    let mut arguments = vec!["sidecar".to_owned()];
    let mut put = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    put("--name", worker.name.clone());
    put("--region", worker.region.clone());
    put("--worker", worker.address.to_string());
    put(
        "--on-end",
        format!("http://{}/session-ended", worker.address),
    );
    put("--worker-key-file", text(&layout.worker_key()));
    if let Some(path) = layout.ca_file() {
        put("--ca-file", text(&path));
    }
    for node in own.into_iter().chain(others) {
        put("--node", local(node.listen.worker).to_string());
    }
    arguments
}

/// A one-line shell script that starts a process again by hand, in the foreground.
pub(super) fn script(program: &Path, arguments: &[String]) -> String {
    let words: Vec<_> = std::iter::once(text(program))
        .chain(arguments.iter().cloned())
        .map(|word| quoted(&word))
        .collect();
    format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))
}

/// A word as a POSIX shell reads it back.
pub(super) fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Bytes as hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Layers};

    const SIZE: Size = Size {
        nodes_per_region: 2,
        workers_per_region: 1,
        slots: 8,
    };

    fn nodes() -> Vec<Node> {
        let mut next = 20_000;
        node_names(SIZE)
            .into_iter()
            .map(|(name, region)| Node {
                name,
                region,
                listen: Ports::take(|| {
                    next += 1;
                    Ok::<_, ()>(next)
                })
                .unwrap(),
            })
            .collect()
    }

    fn worker() -> Worker {
        Worker {
            name: "us-west-worker-1".to_owned(),
            sidecar: sidecar_name("us-west-worker-1"),
            region: "us-west".to_owned(),
            address: local(40_001),
        }
    }

    #[test]
    fn nodes_are_numbered_region_by_region() {
        let names: Vec<_> = node_names(SIZE).into_iter().map(|(name, _)| name).collect();
        let wanted = [
            "us-east-1",
            "us-east-2",
            "us-west-1",
            "us-west-2",
            "eu-central-1",
            "eu-central-2",
        ];
        assert_eq!(names, wanted);
        assert_eq!(worker().sidecar, "us-west-sidecar-1");
    }

    #[test]
    fn a_node_accepts_the_configuration_that_is_written_for_it() {
        let layout = Layout {
            root: "/data with space".into(),
            tls: true,
        };
        let nodes = nodes();
        let text = config(&layout, &nodes[3], &nodes, &"ab".repeat(32)).unwrap();
        let raw = Layers::new("dev", &text, &[], &[]).unwrap().raw().unwrap();
        let config = Config::validate(raw, "a join token of 32 characters...").unwrap();
        assert_eq!(config.name, "us-west-2");
        assert_eq!(config.members.len(), 6);
        let files = config.tls.unwrap().files;
        let key = "/data with space/tls/us-west-2/node.key";
        assert_eq!(files.key, PathBuf::from(key));
        assert_eq!(config.front.unwrap().key, PathBuf::from(key));
        assert_eq!(
            config.advertise.client,
            local(nodes[3].listen.client).to_string()
        );
        assert_eq!(
            config.data_dir,
            PathBuf::from("/data with space/nodes/us-west-2")
        );
    }

    #[test]
    fn a_sidecar_is_told_its_own_regions_nodes_first_and_no_secret() {
        let nodes = nodes();
        let arguments = sidecar_arguments(
            &Layout {
                root: "/d".into(),
                tls: true,
            },
            &worker(),
            &nodes,
        );
        let first = arguments.iter().position(|word| word == "--node").unwrap();
        assert_eq!(
            arguments[first + 1],
            local(nodes[2].listen.worker).to_string()
        );
        assert_eq!(arguments.iter().filter(|word| *word == "--node").count(), 6);
        assert!(arguments.contains(&"/d/secrets/worker-key".to_owned()));
        assert!(arguments.contains(&"/d/tls/ca.pem".to_owned()));
    }

    #[test]
    fn a_script_survives_spaces_and_quotes() {
        let script = script(
            Path::new("/opt/my bin/pontoon"),
            &["it's".to_owned(), "-x".to_owned()],
        );
        assert_eq!(
            script,
            "#!/bin/sh\nexec '/opt/my bin/pontoon' 'it'\\''s' -x \"$@\"\n"
        );
    }
}
