//! The ops port: is this process alive, should it take traffic, and how is it doing.
//!
//! HTTP/1.1 with three paths: `/livez`, `/readyz` and `/metrics`. Read [`ready`] for the verdict and
//! [`metrics`] for the numbers. Everything that it knows comes in through [`Sources`]; it never asks
//! another machine, so a probe costs microseconds and never hangs.

pub mod metrics;
pub mod ready;

use crate::net::{TcpListener, TcpStream};
use crate::tasks::{self, Kind};
use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::Metrics;
use pontoon_proto::peer::NodeState;
use ready::{Facts, GroupFacts, Readiness};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Probes and scrapers at the same time; beyond, connections wait in the kernel's backlog. A scrape
/// holds under 1 MiB, so a misbehaving scraper costs at most 64 MiB.
const CONNECTIONS_MAX: usize = 64;

/// How long a prober may take to send a head, and an idle connection may stay.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// What the ops port asks, at each request. The closures must answer at once.
#[derive(Clone)]
pub struct Sources {
    /// Whether the process can still make progress; the text says why not.
    pub alive: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// What readiness is judged by.
    pub facts: Arc<dyn Fn() -> Facts + Send + Sync>,
    /// Remembers whether the node has been ready before.
    pub readiness: Arc<Readiness>,
    /// How far a drain is.
    pub state: Arc<dyn Fn() -> NodeState + Send + Sync>,
    /// Counters and histograms of sessions and tunnels.
    pub metrics: Arc<Metrics>,
    /// Writes those of clients, and of questions of DNS.
    pub clients: Arc<dyn Fn(&mut String) + Send + Sync>,
    /// The certificates in use, and when each ends, in seconds since 1970; none without TLS.
    pub certificates: Arc<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
}

/// Serves for ever; returns when the listener can't be used any more.
pub async fn serve(listener: TcpListener, sources: Sources) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let one = connection(stream, sources.clone());
                drop(tasks::spawn(Kind::Worker, "ops connection", async move {
                    one.await;
                    drop(place);
                }));
            }
            Err(error) => {
                // Out of descriptors, most likely: the pause keeps the loop from spinning.
                tracing::warn!(%error, "the ops port could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, sources: Sources) {
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &sources);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    // A prober that breaks off is no news.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn respond(method: &Method, path: &str, sources: &Sources) -> Response<Full<Bytes>> {
    if !matches!(path, "/livez" | "/readyz" | "/metrics") {
        let text = "not found; there are /livez, /readyz and /metrics\n";
        return answer(StatusCode::NOT_FOUND, "text/plain", text.to_owned());
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let text = "only GET and HEAD\n".to_owned();
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", text);
        let allow = header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    match path {
        "/livez" => {
            let (status, body) = match (sources.alive)() {
                Ok(()) => (StatusCode::OK, serde_json::json!({"alive": true})),
                Err(why) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    serde_json::json!({"alive": false, "why_not": [why]}),
                ),
            };
            answer(status, "application/json", format!("{body}\n"))
        }
        "/readyz" => {
            let mut verdict = sources.readiness.judge(&(sources.facts)());
            verdict.drain = ready::drain(&(sources.state)());
            let status = match verdict.ready {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            match serde_json::to_string(&verdict) {
                Ok(body) => answer(status, "application/json", body + "\n"),
                Err(error) => answer(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "text/plain",
                    error.to_string(),
                ),
            }
        }
        _ => {
            let mut text = sources.metrics.render(crate::clock::now());
            (sources.clients)(&mut text);
            render_groups(&(sources.facts)().groups, &mut text);
            let certificates = (sources.certificates)();
            render_certificates(&certificates, crate::clock::unix_seconds(), &mut text);
            answer(StatusCode::OK, "text/plain; version=0.0.4", text)
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    response
}

/// How long certificates are still good; below zero once they have expired.
fn render_certificates(certificates: &[(&str, u64)], now: u64, out: &mut String) {
    if certificates.is_empty() {
        return;
    }
    let name = "pontoon_certificate_expiry_seconds";
    let help = "Seconds until the certificate in use expires.";
    metrics::header(out, name, help, "gauge");
    for (which, ends) in certificates {
        let left = *ends as f64 - now as f64;
        metrics::sample(out, name, &[("certificate", which)], left);
    }
}

/// What this node's replicas say, one series per group.
fn render_groups(groups: &[GroupFacts], out: &mut String) {
    type Value = fn(&GroupFacts) -> f64;
    let gauges: [(&str, &str, Value); 7] = [
        (
            "pontoon_group_connected",
            "Whether this node has a quorum-confirmed beat.",
            |group| f64::from(u8::from(group.connected)),
        ),
        (
            "pontoon_group_has_leader",
            "Whether this node knows the group's leader.",
            |group| f64::from(u8::from(group.leader.is_some())),
        ),
        ("pontoon_group_term", "Raft term.", |group| {
            group.term as f64
        }),
        (
            "pontoon_group_last_log_index",
            "The newest entry in this node's log.",
            |group| group.last_log as f64,
        ),
        (
            "pontoon_group_committed_index",
            "The newest entry known to be committed.",
            |group| group.committed as f64,
        ),
        (
            "pontoon_group_applied_index",
            "The newest entry applied to this node's replica.",
            |group| group.applied as f64,
        ),
        ("pontoon_group_voters", "Voting members.", |group| {
            f64::from(group.voters)
        }),
    ];
    for (name, help, value) in gauges {
        metrics::header(out, name, help, "gauge");
        for group in groups {
            metrics::sample(out, name, &[("group", &group.name)], value(group));
        }
    }
    type Count = fn(&ready::DirectoryFacts) -> u64;
    let counts: [(&str, &str, &str, Count); 6] = [
        (
            "pontoon_workers",
            "ready",
            "Workers of the region by state.",
            |facts| facts.workers_ready,
        ),
        ("pontoon_workers", "other", "", |facts| facts.workers_other),
        (
            "pontoon_sessions",
            "bound",
            "Sessions of the region by state.",
            |facts| facts.sessions_bound,
        ),
        ("pontoon_sessions", "held", "", |facts| facts.sessions_held),
        ("pontoon_sessions", "queued", "", |facts| {
            facts.sessions_queued
        }),
        (
            "pontoon_slots_free",
            "",
            "Free slots of ready workers.",
            |facts| facts.slots_free,
        ),
    ];
    for (name, state, help, count) in counts {
        if !help.is_empty() {
            metrics::header(out, name, help, "gauge");
        }
        for group in groups {
            let Some(facts) = &group.directory else {
                continue;
            };
            let labels = [("region", group.name.as_str()), ("state", state)];
            let labels = if state.is_empty() {
                &labels[..1]
            } else {
                &labels[..]
            };
            metrics::sample(out, name, labels, count(facts) as f64);
        }
    }
}

#[cfg(test)]
mod tests;
