//! The page of the configuration, `docs/configuration.md`, and the keys that there are: each has a
//! row there, and each row is a key.

use super::raw::{
    Advertise, Clients, Cluster, Dns, DnsService, Limits, Listen, Log, LogFormat, Member, Raw,
    SurviveName, TimingName, Tls,
};
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// A file that says everything. It is spelled out, so that a new key has to be added here.
fn full() -> Raw {
    let text = || Some("x:1".to_owned());
    Raw {
        name: "a".into(),
        region: "r".into(),
        data_dir: "/d".into(),
        insecure: true,
        cluster: Cluster {
            name: "c".into(),
            join_token_file: "/t".into(),
            admin_token_sha256: Some("0".repeat(64)),
            survive: SurviveName::Region,
            timing: TimingName::Wan,
            node_lost_after_ms: 5_000,
            node_dead_after_ms: 600_000,
            join: true,
            members: vec![Member {
                name: "a".into(),
                region: "r".into(),
                peer: "x:1".into(),
            }],
        },
        listen: Listen::default(),
        advertise: Advertise {
            client: text(),
            worker: text(),
            peer: text(),
            admin: text(),
            ops: text(),
        },
        tls: Tls {
            ca_file: Some("/ca".into()),
            cert_file: Some("/c".into()),
            key_file: Some("/k".into()),
            client_cert_file: Some("/cc".into()),
            client_key_file: Some("/ck".into()),
        },
        dns: Dns {
            servers: vec![([127, 0, 0, 1], 53).into()],
        },
        dns_service: DnsService {
            listen: Some(([127, 0, 0, 1], 53).into()),
            zone: Some("z".into()),
            name_servers: vec!["n".into()],
            contact: Some("c".into()),
            ttl_seconds: 1,
            answers_per_second: 1,
            prefixes: BTreeMap::from([("10.0.0.0/8".into(), "r".into())]),
        },
        limits: Limits {
            header_list_bytes: 1,
            streams_max: 1,
            connections_max: 1,
            handshake_ms: 1,
            idle_ms: 1,
        },
        clients: Clients::default(),
        log: Log {
            filter: "info".into(),
            format: LogFormat::Text,
        },
    }
}

/// Tables whose keys are the operator's own.
const OWN_KEYS: [&str; 1] = ["dns_service.prefixes"];

/// Dotted keys; those of a list of tables are those of its first table.
fn keys(prefix: &str, table: &Table, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let key = match prefix {
            "" => key.clone(),
            prefix => format!("{prefix}.{key}"),
        };
        match value {
            Value::Table(inner) if !OWN_KEYS.contains(&key.as_str()) => keys(&key, inner, found),
            Value::Array(list) if list.first().is_some_and(Value::is_table) => {
                for inner in list.iter().filter_map(Value::as_table) {
                    keys(&key, inner, found);
                }
            }
            _ => {
                found.insert(key);
            }
        }
    }
}

/// The rows of the page: the key, and the cells after it.
fn rows() -> Vec<(String, Vec<String>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(path).expect("docs/configuration.md");
    let mut rows = Vec::new();
    let mut tables = vec![String::new()];
    for line in page.lines() {
        if line.starts_with("### ") {
            tables = vec![String::new()];
        } else if let Some(heading) = line.strip_prefix("## ") {
            // `[listen]`, `[advertise]`: the rows below are keys of both. Lists of tables have
            // headings of level three, and rows with whole keys.
            let quoted = heading.split('`').skip(1).step_by(2);
            tables = quoted
                .map(|name| name.trim_matches(['[', ']']).to_owned())
                .collect();
        }
        let Some(row) = line.strip_prefix("| `") else {
            continue;
        };
        let Some((key, rest)) = row.split_once("` |") else {
            panic!("a row without a key: {line}");
        };
        let cells: Vec<String> = rest
            .trim_end_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect();
        for table in &tables {
            let key = match table.as_str() {
                "" => key.to_owned(),
                table => format!("{table}.{key}"),
            };
            rows.push((key, cells.clone()));
        }
    }
    rows
}

#[test]
fn o_cfg_1_the_page_and_the_program_have_the_same_keys() {
    let mut there = BTreeSet::new();
    let table = Table::try_from(full()).expect("TOML");
    keys("", &table, &mut there);
    let page: BTreeSet<String> = rows().into_iter().map(|(key, _)| key).collect();
    let missing: Vec<_> = there.difference(&page).collect();
    let surplus: Vec<_> = page.difference(&there).collect();
    assert!(
        missing.is_empty(),
        "docs/configuration.md lacks {missing:?}"
    );
    assert!(
        surplus.is_empty(),
        "docs/configuration.md invents {surplus:?}"
    );
}

#[test]
fn o_cfg_1_every_row_of_the_page_says_default_range_and_what_breaks() {
    for (key, cells) in rows() {
        assert_eq!(
            cells.len(),
            4,
            "{key}: default, range, meaning, extremes: {cells:?}"
        );
        assert!(
            cells.iter().all(|cell| !cell.is_empty()),
            "{key}: {cells:?}"
        );
    }
}
