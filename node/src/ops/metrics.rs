//! The numbers on `/metrics`, in the Prometheus text format 0.0.4.
//!
//! The names with the prefix `nvcf_grpc_proxy_service_` are those that existing dashboards and alerts
//! read (contract O-MET-1); all others begin with `pontoon_`. Every bounded label value has a series
//! from the start, so that a rate over it is never missing its first sample. Hot counters are plain
//! atomics: counting costs a few nanoseconds and takes no lock.

use crate::{relay, tunnel};
use pontoon_proto::id::{FunctionId, TenantId, VersionId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What those names begin with that existing dashboards read.
pub const PREFIX: &str = "nvcf_grpc_proxy_service_";

/// A function's series disappears when nobody opened a session of it for so long.
const SERIES_EXPIRE: Duration = Duration::from_secs(6 * 60 * 60);

/// Functions with a series of their own at one time; a series is about 200 bytes here and in each
/// scrape, so a full table is 2 MB. Beyond it, new functions are not counted one by one.
const FUNCTIONS_MAX: usize = 10_000;

/// Upper bounds of the histograms' buckets, seconds: a warm loopback call to a day-long stream.
const BUCKETS: [f64; 16] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 300.0, 3600.0,
    86_400.0,
];

/// How a CONNECT on the worker port came out (contract K-CON-2).
pub const CONNECT_RESULTS: [&str; 8] = [
    "ok",
    "missing_auth",
    "missing_id",
    "invalid_id",
    "wrong_id",
    "expired",
    "used",
    "unknown",
];

/// What refused a new session (contract C-ERR-8): a limit, or a full queue.
pub const OPENS_REFUSED: [&str; 5] = [
    "tenant_sessions",
    "tenant_rate",
    "version_sessions",
    "version_rate",
    "queue",
];

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Counts one in for as long as the guard lives.
    pub fn enter(self: &std::sync::Arc<Self>) -> Entered {
        self.0.fetch_add(1, Relaxed);
        Entered(self.clone())
    }

    /// The present value.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// One, counted in a [`Gauge`] until dropped.
#[derive(Debug)]
pub struct Entered(std::sync::Arc<Gauge>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// A value that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn add(&self) {
        self.add_many(1);
    }

    /// Counts many.
    pub fn add_many(&self, many: u64) {
        self.0.fetch_add(many, Relaxed);
    }
}

/// One counter per value of a label; the values are fixed.
#[derive(Debug)]
pub struct Counters {
    label: &'static str,
    values: Vec<(&'static str, Counter)>,
}

impl Counters {
    fn new(label: &'static str, values: &[&'static str]) -> Self {
        let values = values.iter().map(|value| (*value, Counter::default()));
        Self {
            label,
            values: values.collect(),
        }
    }

    /// Counts one under this value; a value that is not on the list is not counted.
    pub fn add(&self, value: &str) {
        self.add_many(value, 1);
    }

    /// Counts many under this value.
    pub fn add_many(&self, value: &str, many: u64) {
        if let Some((_, counter)) = self.values.iter().find(|(known, _)| *known == value) {
            counter.add_many(many);
        }
    }

    /// Writes the family.
    fn render(&self, out: &mut String, name: &str, help: &str) {
        header(out, name, help, "counter");
        for (value, counter) in &self.values {
            let count = counter.0.load(Relaxed) as f64;
            sample(out, name, &[(self.label, value)], count);
        }
    }
}

/// How long things took, in [`BUCKETS`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Notes one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Relaxed);
    }

    /// Writes its samples, without the head of its family.
    pub fn render(&self, out: &mut String, name: &str, labels: &[(&str, &str)]) {
        let mut below = 0;
        let bucket = format!("{name}_bucket");
        for (bound, count) in BUCKETS.iter().zip(&self.buckets) {
            below += count.load(Relaxed);
            let bound = bound.to_string();
            let labels = [labels, &[("le", bound.as_str())]].concat();
            sample(out, &bucket, &labels, below as f64);
        }
        // Read after the buckets: a concurrent observation must not make +Inf the smaller one.
        let count = self.count.load(Relaxed).max(below);
        sample(
            out,
            &bucket,
            &[labels, &[("le", "+Inf")]].concat(),
            count as f64,
        );
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        sample(out, &format!("{name}_sum"), labels, sum);
        sample(out, &format!("{name}_count"), labels, count as f64);
    }
}

/// A function's label values.
type Function = (FunctionId, VersionId, TenantId);

/// What one node counts of sessions and tunnels; `call::Counters` is its client side.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is named and explained in `render`")]
pub struct Metrics {
    pub worker_connections_active: std::sync::Arc<Gauge>,
    pub session_opens: Histogram,
    pub session_resumes: Histogram,
    pub worker_connection_duration: Histogram,
    pub token_age_ok: Histogram,
    pub token_age_refused: Histogram,
    pub worker_connection_opened: Counter,
    pub worker_connection_closed: Counters,
    pub worker_connection_close_code: Counters,
    pub worker_connect: Counters,
    pub worker_token_issued: Counter,
    pub opens_refused: Counters,
    pub relays_active: std::sync::Arc<Gauge>,
    pub relays: Counters,
    pub relays_closed: Counters,
    pub relay_bytes: Counters,
    pub spares: Counters,
    pub spares_idle: std::sync::Arc<Gauge>,
    functions: Mutex<BTreeMap<Function, (u64, Instant)>>,
}

impl Metrics {
    /// All zero; `close_reasons` and `close_codes` are the closed lists of how a tunnel ends.
    pub fn new(close_reasons: &[&'static str], close_codes: &[&'static str]) -> Self {
        Self {
            worker_connections_active: Default::default(),
            session_opens: Histogram::default(),
            session_resumes: Histogram::default(),
            worker_connection_duration: Histogram::default(),
            token_age_ok: Histogram::default(),
            token_age_refused: Histogram::default(),
            worker_connection_opened: Counter::default(),
            worker_connection_closed: Counters::new("reason", close_reasons),
            worker_connection_close_code: Counters::new("code", close_codes),
            worker_connect: Counters::new("result", &CONNECT_RESULTS),
            worker_token_issued: Counter::default(),
            opens_refused: Counters::new("limit", &OPENS_REFUSED),
            relays_active: Default::default(),
            relays: Counters::new("result", &relay::RESULTS),
            relays_closed: Counters::new("reason", &relay::ends()),
            relay_bytes: Counters::new("direction", &["to_worker", "from_worker"]),
            spares: Counters::new("result", &tunnel::SPARE_RESULTS),
            spares_idle: Default::default(),
            functions: Mutex::default(),
        }
    }

    /// Counts a new session, the first tunnel of which was up so long after its call's head.
    pub fn session_opened(
        &self,
        function: FunctionId,
        version: VersionId,
        tenant: TenantId,
        now: Instant,
        took: Duration,
    ) {
        self.session_opens.observe(took);
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (function, version, tenant);
        if functions.len() < FUNCTIONS_MAX || functions.contains_key(&key) {
            let (count, last) = functions.entry(key).or_insert((0, now));
            *count += 1;
            *last = now;
        }
    }

    /// What is counted of sessions and tunnels.
    pub fn render(&self, now: Instant) -> String {
        let mut out = String::with_capacity(32 << 10);
        let name = format!("{PREFIX}worker_connections_active");
        header(&mut out, &name, "Tunnels.", "gauge");
        let active = self.worker_connections_active.get();
        sample(&mut out, &name, &[], active as f64);
        type Series<'a> = (&'a [(&'a str, &'a str)], &'a Histogram);
        let histograms: [(&str, &str, &[Series<'_>]); 3] = [
            (
                "session_init_seconds_total",
                "From a call's head to its session and tunnel.",
                &[
                    (&[("is_reconnect", "false")], &self.session_opens),
                    (&[("is_reconnect", "true")], &self.session_resumes),
                ],
            ),
            (
                "worker_connection_duration_seconds",
                "Lives of tunnels.",
                &[(&[], &self.worker_connection_duration)],
            ),
            (
                "worker_connect_token_age_seconds",
                "Ages of tickets when they were used.",
                &[
                    (&[("result", "ok")], &self.token_age_ok),
                    (&[("result", "refused")], &self.token_age_refused),
                ],
            ),
        ];
        for (name, help, series) in histograms {
            let name = format!("{PREFIX}{name}");
            header(&mut out, &name, help, "histogram");
            for (labels, histogram) in series {
                histogram.render(&mut out, &name, labels);
            }
        }
        let counters = [
            (
                "worker_connection_opened_total",
                "Tunnels opened.",
                &self.worker_connection_opened,
            ),
            (
                "worker_token_issued_total",
                "Tickets issued.",
                &self.worker_token_issued,
            ),
        ];
        for (name, help, counter) in counters {
            let name = format!("{PREFIX}{name}");
            header(&mut out, &name, help, "counter");
            sample(&mut out, &name, &[], counter.0.load(Relaxed) as f64);
        }
        let families = [
            (
                "worker_connection_closed_total",
                "Tunnels closed, by reason.",
                &self.worker_connection_closed,
            ),
            (
                "worker_connection_close_code_total",
                "Tunnels closed, by code.",
                &self.worker_connection_close_code,
            ),
            (
                "worker_connect_total",
                "CONNECTs of sidecars, by result.",
                &self.worker_connect,
            ),
        ];
        for (name, help, family) in families {
            family.render(&mut out, &format!("{PREFIX}{name}"), help);
        }
        let name = "pontoon_relays_active";
        header(&mut out, name, "Tunnels relayed to other nodes.", "gauge");
        sample(&mut out, name, &[], self.relays_active.get() as f64);
        let name = "pontoon_spare_tunnels";
        header(&mut out, name, "Tunnels that wait for a session.", "gauge");
        sample(&mut out, name, &[], self.spares_idle.get() as f64);
        let families = [
            (
                "pontoon_opens_refused_total",
                "New sessions refused, by limit.",
                &self.opens_refused,
            ),
            (
                "pontoon_relays_total",
                "CONNECTs whose ticket another node issued, by result.",
                &self.relays,
            ),
            (
                "pontoon_relays_closed_total",
                "Relays ended, by reason.",
                &self.relays_closed,
            ),
            (
                "pontoon_relay_bytes_total",
                "Bytes relayed, counted at the end of each relay.",
                &self.relay_bytes,
            ),
            (
                "pontoon_spare_tunnels_total",
                "Spare tunnels that a session was to have, by result.",
                &self.spares,
            ),
        ];
        for (name, help, family) in families {
            family.render(&mut out, name, help);
        }
        self.render_functions(&mut out, now);
        out
    }

    fn render_functions(&self, out: &mut String, now: Instant) {
        let name = "function_request_total";
        header(out, name, "New sessions by function.", "counter");
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        functions.retain(|_, (_, last)| now.saturating_duration_since(*last) < SERIES_EXPIRE);
        for ((function, version, tenant), (count, _)) in functions.iter() {
            let (function, version, tenant) = (
                function.to_string(),
                version.to_string(),
                tenant.to_string(),
            );
            let labels = [
                ("function_id", function.as_str()),
                ("function_version_id", version.as_str()),
                ("nca_id", tenant.as_str()),
            ];
            sample(out, name, &labels, *count as f64);
        }
    }
}

/// Writes what a family of series is.
pub fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Writes one sample; label values are escaped as the format wants it.
pub fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    out.push_str(name);
    for (index, (label, text)) in labels.iter().enumerate() {
        let text = text
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = write!(
            out,
            "{}{label}=\"{text}\"",
            if index == 0 { '{' } else { ',' }
        );
    }
    let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn o_met_1_every_bounded_label_value_exists_from_the_start() {
        let page = Metrics::new(&["client_closed"], &["0"]).render(crate::clock::now());
        for line in [
            "nvcf_grpc_proxy_service_worker_connections_active 0",
            "nvcf_grpc_proxy_service_worker_connect_total{result=\"used\"} 0",
            "nvcf_grpc_proxy_service_worker_connection_closed_total{reason=\"client_closed\"} 0",
            "nvcf_grpc_proxy_service_session_init_seconds_total_count{is_reconnect=\"true\"} 0",
            "nvcf_grpc_proxy_service_worker_connect_token_age_seconds_bucket{result=\"ok\",le=\"+Inf\"} 0",
            "pontoon_opens_refused_total{limit=\"tenant_rate\"} 0",
            "# TYPE function_request_total counter",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn a_histogram_counts_each_observation_in_every_bucket_above_it() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(3));
        histogram.observe(Duration::from_secs(100_000));
        let mut page = String::new();
        histogram.render(&mut page, "h", &[]);
        assert!(
            page.contains("h_bucket{le=\"0.001\"} 0\nh_bucket{le=\"0.005\"} 1\n"),
            "{page}"
        );
        assert!(
            page.contains("h_bucket{le=\"86400\"} 1\nh_bucket{le=\"+Inf\"} 2\n"),
            "{page}"
        );
        assert!(page.ends_with("h_sum 100000.003\nh_count 2\n"), "{page}");
    }

    #[test]
    fn a_functions_series_disappears_after_six_quiet_hours() {
        let metrics = Metrics::new(&[], &[]);
        let now = crate::clock::now();
        metrics.session_opened(
            FunctionId::from_random([1; 16]),
            VersionId::from_random([2; 16]),
            TenantId::from_random([3; 16]),
            now,
            Duration::ZERO,
        );
        assert!(
            metrics
                .render(now)
                .contains("function_request_total{function_id=")
        );
        assert!(
            !metrics
                .render(now + SERIES_EXPIRE)
                .contains("function_request_total{")
        );
    }

    #[test]
    fn a_gauge_falls_when_its_guard_goes() {
        let gauge = Arc::new(Gauge::default());
        let one = gauge.enter();
        assert_eq!(gauge.get(), 1);
        drop(one);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn label_values_are_escaped() {
        let mut page = String::new();
        sample(&mut page, "m", &[("a", "x\"\\\n"), ("b", "y")], 1.5);
        assert_eq!(page, "m{a=\"x\\\"\\\\\\n\",b=\"y\"} 1.5\n");
    }
}
