//! The sidecar's own `/livez`, `/readyz` and `/metrics` (contract K-OPS-1).

use super::Counters;
use crate::net::{TcpListener, TcpStream};
use crate::ops::metrics::{header, sample};
use crate::tasks;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// How many connections are served at once; more wait in the backlog.
const CONNECTIONS_MAX: usize = 64;

/// How long a head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// What is shown.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) counters: Arc<Counters>,
    pub(super) attached: watch::Receiver<usize>,
}

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, shown: Shown) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let shown = shown.clone();
        tasks::spawn(tasks::Kind::Worker, "sidecar-ops", async move {
            connection(stream, shown).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, shown: Shown) {
    let answer = move |request: http::Request<Incoming>| {
        let answer = answer(&request, &shown);
        async move { Ok::<_, Infallible>(answer) }
    };
    let _how = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer))
        .await;
}

fn answer(request: &http::Request<Incoming>, shown: &Shown) -> Response<Full<Bytes>> {
    let attached = *shown.attached.borrow();
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/livez") => (StatusCode::OK, JSON, r#"{"alive":true}"#.to_owned()),
        (&Method::GET, "/readyz") => {
            let status = match attached {
                0 => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::OK,
            };
            let json = format!(r#"{{"ready":{},"attached":{attached}}}"#, attached > 0);
            (status, JSON, json)
        }
        (&Method::GET, "/metrics") => (StatusCode::OK, PLAIN, metrics(shown, attached)),
        _ => (StatusCode::NOT_FOUND, PLAIN, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert("content-type", kind);
    response
}

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; version=0.0.4";

fn metrics(shown: &Shown, attached: usize) -> String {
    let counters = &shown.counters;
    let series = [
        (
            "gauge",
            "attached_nodes",
            "Nodes that this sidecar is attached to.",
            attached as u64,
        ),
        (
            "gauge",
            "tunnels_open",
            "Tunnels.",
            counters.tunnels_open.get(),
        ),
        (
            "gauge",
            "spare_tunnels",
            "Tunnels that wait for a session.",
            counters.spares_open.get(),
        ),
        (
            "counter",
            "tunnels_opened_total",
            "Tunnels opened.",
            counters.tunnels_opened.get(),
        ),
        (
            "counter",
            "dials_failed_total",
            "Tunnels that could not be dialed.",
            counters.dials_failed.get(),
        ),
        (
            "counter",
            "sessions_ended_total",
            "Sessions let go.",
            counters.sessions_ended.get(),
        ),
        (
            "counter",
            "worker_lives_total",
            "Lives of the worker, each with an id of its own.",
            counters.lives.get(),
        ),
    ];
    let mut page = String::new();
    for (kind, name, help, value) in series {
        let name = format!("pontoon_sidecar_{name}");
        header(&mut page, &name, help, kind);
        sample(&mut page, &name, &[], value as f64);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_ops_1_every_metric_has_help_and_is_explained_in_the_documentation() {
        let shown = Shown {
            counters: Arc::default(),
            attached: watch::channel(0).1,
        };
        let page = metrics(&shown, 2);
        assert!(
            page.contains("pontoon_sidecar_attached_nodes 2\n"),
            "{page}"
        );
        let names = page.lines().filter_map(|line| {
            let (name, _help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
            Some(name)
        });
        let explained = include_str!("../../../docs/metrics.md");
        for name in names {
            assert!(explained.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
