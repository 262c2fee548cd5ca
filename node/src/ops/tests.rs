//! The ops port's answers, without a socket.

use super::*;
use http_body_util::BodyExt;
use ready::DirectoryFacts;

fn sources(alive: Result<(), String>, connected: bool) -> Sources {
    let group = move |name: &str, directory| GroupFacts {
        name: name.to_owned(),
        leader: Some("a".to_owned()),
        connected,
        applied: 12,
        directory,
        ..Default::default()
    };
    Sources {
        alive: Arc::new(move || alive.clone()),
        facts: Arc::new(move || Facts {
            listening: true,
            draining: false,
            groups: vec![
                group("catalog", None),
                group(
                    "us-east",
                    Some(DirectoryFacts {
                        sessions_held: 4,
                        ..Default::default()
                    }),
                ),
            ],
            groups_expected: 2,
        }),
        readiness: Arc::default(),
        state: Arc::new(NodeState::default),
        metrics: Arc::new(Metrics::new(&[], &[])),
        clients: Arc::new(|_| {}),
        certificates: Arc::new(Vec::new),
    }
}

#[tokio::test]
async fn with_tls_metrics_say_how_long_the_certificates_are_good() {
    let mut sources = sources(Ok(()), true);
    let name = "pontoon_certificate_expiry_seconds";
    assert!(!get("/metrics", &sources).await.1.contains(name));
    let now = crate::clock::unix_seconds();
    let ends = vec![("node", now - 100), ("ca", now + 1_000_000)];
    sources.certificates = Arc::new(move || ends.clone());
    let (_, page) = get("/metrics", &sources).await;
    let value = |which: &str| {
        let start = format!("{name}{{certificate=\"{which}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap().parse::<f64>().unwrap()
    };
    assert!((-160.0..=-100.0).contains(&value("node")));
    assert!((999_900.0..=1_000_000.0).contains(&value("ca")));
}

async fn get(path: &str, sources: &Sources) -> (u16, String) {
    let response = respond(&Method::GET, path, sources);
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn o_liv_1_livez_says_why_not() {
    let alive = get("/livez", &sources(Ok(()), true)).await;
    assert_eq!(alive, (200, "{\"alive\":true}\n".to_owned()));
    let (status, text) = get("/livez", &sources(Err("disk stuck".to_owned()), true)).await;
    assert_eq!(status, 503);
    assert!(text.contains("disk stuck"), "{text}");
}

#[tokio::test]
async fn o_liv_1_readyz_says_why_not() {
    let (status, text) = get("/readyz", &sources(Ok(()), true)).await;
    assert_eq!(status, 200);
    assert_eq!(
        text,
        "{\"ready\":true,\"opens_available\":true,\"why_not\":[]}\n"
    );
    let (status, text) = get("/readyz", &sources(Ok(()), false)).await;
    assert_eq!(status, 503);
    assert!(text.contains("us-east: no beat"), "{text}");
}

#[tokio::test]
async fn metrics_show_groups_and_sessions() {
    let (status, text) = get("/metrics", &sources(Ok(()), true)).await;
    assert_eq!(status, 200);
    for line in [
        "pontoon_group_applied_index{group=\"catalog\"} 12",
        "pontoon_sessions{region=\"us-east\",state=\"held\"} 4",
        "pontoon_slots_free{region=\"us-east\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let sources = sources(Ok(()), true);
    assert_eq!(get("/", &sources).await.0, 404);
    let response = respond(&Method::POST, "/readyz", &sources);
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "GET, HEAD");
}
