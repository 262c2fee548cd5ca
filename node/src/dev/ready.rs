//! The ready file: what a script needs to know of a running cluster.

use super::plan::{self, Layout, Node, Worker};
use super::saved::Saved;
use serde::Serialize;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Ready {
    pub(super) cluster: String,
    pub(super) regions: Vec<Region>,
    pub(super) tenant: String,
    pub(super) function_id: String,
    pub(super) function_version_id: String,
    pub(super) api_key: String,
    pub(super) admin_token: String,
    /// For https:// with the admin API; absent without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca_file: Option<String>,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Region {
    pub(super) name: String,
    pub(super) nodes: Vec<ReadyNode>,
    pub(super) sidecars: Vec<ReadySidecar>,
}

/// One node; a node that does not run has the process id 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ReadyNode {
    pub(super) name: String,
    pub(super) id: u64,
    pub(super) pid: u32,
    pub(super) client: String,
    /// Absent without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_tls: Option<String>,
    pub(super) worker: String,
    pub(super) peer: String,
    pub(super) admin: String,
    pub(super) ops: String,
    pub(super) dns: String,
}

/// One sidecar and its worker; the process id 0 is as above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ReadySidecar {
    pub(super) pid: u32,
    pub(super) worker_pid: u32,
    pub(super) worker: String,
}

/// Puts it together; `id` and `pid` look up a node's number and any process's id.
pub(super) fn ready(
    layout: &Layout,
    nodes: &[Node],
    workers: &[Worker],
    saved: &Saved,
    id: impl Fn(&str) -> u64,
    pid: impl Fn(&str) -> u32,
) -> Ready {
    let address = |port| plan::local(port).to_string();
    let region = |region: &&str| Region {
        name: (*region).to_owned(),
        nodes: nodes
            .iter()
            .filter(|node| node.region == *region)
            .map(|node| ReadyNode {
                name: node.name.clone(),
                id: id(&node.name),
                pid: pid(&node.name),
                client: address(node.listen.client),
                client_tls: layout.tls.then(|| address(node.listen.client_tls)),
                worker: address(node.listen.worker),
                peer: address(node.listen.peer),
                admin: address(node.listen.admin),
                ops: address(node.listen.ops),
                dns: address(node.listen.dns),
            })
            .collect(),
        sidecars: workers
            .iter()
            .filter(|worker| worker.region == *region)
            .map(|worker| ReadySidecar {
                pid: pid(&worker.sidecar),
                worker_pid: pid(&worker.name),
                worker: worker.address.to_string(),
            })
            .collect(),
    };
    Ready {
        cluster: plan::CLUSTER.to_owned(),
        regions: plan::REGIONS.iter().map(region).collect(),
        tenant: saved.tenant.to_string(),
        function_id: saved.function.to_string(),
        function_version_id: saved.version.to_string(),
        api_key: saved.client_key.clone().unwrap_or_default(),
        admin_token: saved.admin_token.clone(),
        ca_file: layout
            .ca_file()
            .map(|path| path.to_string_lossy().into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::plan::{DEFAULT_PORTS, Size};

    #[test]
    fn the_ready_file_has_the_shape_that_scripts_read() {
        let mut saved = Saved::new(Size {
            nodes_per_region: 1,
            workers_per_region: 1,
            slots: 8,
        });
        saved.client_key = Some("pnt_c_key".to_owned());
        let nodes = [Node {
            name: "us-east-1".to_owned(),
            region: "us-east".to_owned(),
            listen: DEFAULT_PORTS,
        }];
        let workers = [Worker {
            name: "us-east-worker-1".to_owned(),
            sidecar: "us-east-sidecar-1".to_owned(),
            region: "us-east".to_owned(),
            address: plan::local(40_001),
        }];
        let pid = |name: &str| match name {
            "us-east-1" => 4711,
            "us-east-sidecar-1" => 4720,
            _ => 4719,
        };
        let layout = |tls| Layout {
            root: "/d".into(),
            tls,
        };
        let found = |tls| {
            let ready = ready(&layout(tls), &nodes, &workers, &saved, |_| 1, pid);
            serde_json::to_value(ready).unwrap()
        };
        let mut wanted = serde_json::json!({
            "cluster": "dev",
            "regions": [
                {
                    "name": "us-east",
                    "nodes": [{
                        "name": "us-east-1", "id": 1, "pid": 4711,
                        "client": "127.0.0.1:10081", "worker": "127.0.0.1:10086",
                        "peer": "127.0.0.1:10085", "admin": "127.0.0.1:10080",
                        "ops": "127.0.0.1:10083", "dns": "127.0.0.1:10053",
                    }],
                    "sidecars": [{"pid": 4720, "worker_pid": 4719, "worker": "127.0.0.1:40001"}],
                },
                {"name": "us-west", "nodes": [], "sidecars": []},
                {"name": "eu-central", "nodes": [], "sidecars": []},
            ],
            "tenant": saved.tenant.to_string(),
            "function_id": saved.function.to_string(),
            "function_version_id": saved.version.to_string(),
            "api_key": "pnt_c_key",
            "admin_token": saved.admin_token,
        });
        assert_eq!(found(false), wanted);
        wanted["regions"][0]["nodes"][0]["client_tls"] = "127.0.0.1:10443".into();
        wanted["ca_file"] = "/d/tls/ca.pem".into();
        assert_eq!(found(true), wanted);
    }
}
