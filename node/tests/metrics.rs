//! `/metrics` as a dashboard reads it, and the page that explains it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use support::client::keys;
use support::cluster::Cluster;
use support::{alone, raw, wait};

const KEPT: &str = "nvcf_grpc_proxy_service_";

/// How soon a node has counted what a client has seen.
const SOON: Duration = Duration::from_secs(5);

/// What a scrape says: each sample by its name and labels.
struct Scrape {
    page: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    #[track_caller]
    fn of(address: &str) -> Scrape {
        let mut stream = TcpStream::connect(address).expect("the ops port");
        stream.set_read_timeout(Some(SOON)).expect("set");
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, page) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Scrape {
            samples: samples.collect(),
            page: page.to_owned(),
        }
    }

    /// A sample; one that is not there counts as zero.
    fn get(&self, name: &str) -> f64 {
        self.samples.get(name).copied().unwrap_or(0.0)
    }

    /// The families, by name, with their types.
    fn families(&self) -> BTreeMap<&str, &str> {
        let types = self.page.lines().filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            Some((name, kind))
        });
        types.collect()
    }
}

#[test]
fn o_met_1_calls_are_counted_by_the_names_that_dashboards_read() {
    let _alone = alone();
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let ready = cluster.ready();
    let node = ready.node("us-east-1");
    let before = Scrape::of(&node.ops);

    let own = keys(cluster, &[]);
    let path = "/inference.GRPCInferenceService/ServerLive";
    let grpc = ("content-type", "application/grpc");
    let opened = raw::exchange(&node.client, "POST", path, &[&own[..], &[grpc]].concat());
    let session = opened.header("nvcf-reqid");
    assert_ne!(session, "", "{opened:?}");
    let resume = ("nvcf-reqid", session);
    let resumed = raw::exchange(
        &node.client,
        "POST",
        path,
        &[&own[..], &[grpc, resume]].concat(),
    );
    assert_eq!(resumed.header("nvcf-reqid"), session);
    let refused = raw::exchange(&node.client, "GET", "/", &[]);
    assert_eq!(refused.status, 401);

    let function = format!(
        "function_request_total{{function_id=\"{}\",function_version_id=\"{}\",nca_id=\"{}\"}}",
        ready.function_id, ready.function_version_id, ready.tenant
    );
    let grown = [
        (format!("{KEPT}client_connection_opened_total"), 3.0),
        (
            format!("{KEPT}client_connection_duration_seconds_count"),
            3.0,
        ),
        (
            format!("{KEPT}session_init_seconds_total_count{{is_reconnect=\"false\"}}"),
            1.0,
        ),
        (
            format!("{KEPT}session_init_seconds_total_count{{is_reconnect=\"true\"}}"),
            1.0,
        ),
        (function, 1.0),
        ("pontoon_calls_total".to_owned(), 3.0),
        (
            "pontoon_call_faults_total{fault=\"no_credential\",blame=\"client\"}".to_owned(),
            1.0,
        ),
    ];
    wait::until(SOON, "all of it is counted", || {
        let now = Scrape::of(&node.ops);
        let all = grown
            .iter()
            .all(|(name, by)| now.get(name) - before.get(name) >= *by);
        let rests = now.get(&format!("{KEPT}active_connections_total")) == 0.0
            && now.get(&format!("{KEPT}active_http_requests_total")) == 0.0;
        (all && rests).then_some(())
    });
    let now = Scrape::of(&node.ops);
    for (name, by) in &grown {
        assert_eq!(now.get(name) - before.get(name), *by, "{name}");
    }
    let seconds = format!("{KEPT}session_init_seconds_total_sum{{is_reconnect=\"false\"}}");
    let took = now.get(&seconds) - before.get(&seconds);
    assert!((0.000_001..10.0).contains(&took), "{took} s");
    cluster.ask(&["session", "end", session]);
}

#[test]
fn every_metric_has_help_and_a_type_and_is_explained_in_the_documentation() {
    let _alone = alone();
    let cluster = Cluster::shared();
    let scrape = Scrape::of(&cluster.ready().node("us-east-1").ops);
    let families = scrape.families();
    for sample in scrape.samples.keys() {
        let name = sample.split('{').next().unwrap_or(sample);
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|end| name.strip_suffix(end))
            .find(|family| families.get(family) == Some(&"histogram"))
            .unwrap_or(name);
        assert!(families.contains_key(family), "{sample} has no type");
        let help = format!("# HELP {family} ");
        let lines = scrape.page.lines().filter(|line| line.starts_with(&help));
        assert_eq!(lines.count(), 1, "{family}");
    }
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('`');
        let name = cells.next()?.split('{').next()?;
        let kind = cells.next()?.split('|').nth(1)?.trim();
        Some((name, kind))
    });
    let rows = rows.filter(|(_, kind)| ["counter", "gauge", "histogram"].contains(kind));
    // A sidecar has a page of its own, and without TLS there is no certificate.
    let explained: BTreeSet<(&str, &str)> = rows
        .filter(|(name, _)| !name.starts_with("pontoon_sidecar_"))
        .filter(|(name, _)| *name != "pontoon_certificate_expiry_seconds")
        .collect();
    let shown: BTreeSet<(&str, &str)> = families.into_iter().collect();
    assert_eq!(shown, explained, "the page, and docs/metrics.md");
}
