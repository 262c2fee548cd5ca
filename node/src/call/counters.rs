//! What this node counts of its client side: plain atomics on the hot path, and how `/metrics` shows
//! them. What each series means to an operator is in `docs/metrics.md`.

use crate::listen::close::CloseReason;
use crate::ops::metrics::{Histogram, PREFIX, header, sample};
use pontoon_proto::fault::Fault;
use pontoon_proto::head::Ignored;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that is only read for display: no order between two of them is promised.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One more for as long as the guard lives; for gauges.
    pub fn while_held(&self) -> Gauge<'_> {
        self.up();
        Gauge(self)
    }

    /// That many more.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of what a gauge counts.
#[must_use]
#[derive(Debug)]
pub struct Gauge<'a>(&'a Count);

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The counts of one node.
#[derive(Debug, Default)]
pub struct Counters {
    /// Client connections that are open (gauge).
    pub connections: Count,
    /// Client connections since the start.
    pub connections_total: Count,
    /// How long client connections lived.
    pub connection_lives: Histogram,
    closed: [Count; CloseReason::ALL.len()],
    /// Calls that are open (gauge).
    pub calls: Count,
    /// Calls since the start.
    pub calls_total: Count,
    /// Calls that were sent a second time, over a fresh tunnel.
    pub calls_retried: Count,
    /// Calls that their client gave up.
    pub calls_cancelled: Count,
    /// Calls that broke after their answer had begun (C-ERR-10).
    pub calls_broken: Count,
    /// Calls without a session that were not logged one by one.
    pub calls_unlogged: Count,
    /// Request body bytes carried.
    pub bytes_up: Count,
    /// Response body bytes carried.
    pub bytes_down: Count,
    /// Request ids that are no UUIDs.
    pub malformed_request_ids: Count,
    /// Reconnect windows, absorb values and timeouts that were malformed.
    pub malformed_options: Count,
    faults: [Count; Fault::ALL.len()],
}

impl Counters {
    /// Counts the end of a client connection.
    pub fn closed(&self, reason: CloseReason) {
        self.closed[reason as usize].up();
    }

    /// How many client connections have ended so.
    pub fn closes(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize].get()
    }

    /// Counts a fault.
    pub fn fault(&self, fault: Fault) {
        self.faults[fault.place()].up();
    }

    /// Every fault with its count, zeros included, so that every label exists from the start.
    pub fn faults(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL
            .into_iter()
            .map(|fault| (fault, self.faults[fault.place()].get()))
    }

    /// Counts the values of a head that were ignored.
    pub fn ignored(&self, ignored: Ignored) {
        if ignored.request_id {
            self.malformed_request_ids.up();
        }
        for option in [ignored.window, ignored.absorb, ignored.timeout] {
            if option {
                self.malformed_options.up();
            }
        }
    }
}

/// What is written once for a family: its name, its type and its help.
type Family = (&'static str, &'static str, &'static str);

/// The names that existing dashboards read go without it; see [`PREFIX`].
const OURS: &str = "pontoon_";

impl Counters {
    /// Writes all of it as metrics. Every label value is there from the start.
    pub fn render(&self, out: &mut String) {
        let kept: [(Family, &Count); 3] = [
            (
                ("active_connections_total", "gauge", "Client sockets."),
                &self.connections,
            ),
            (
                ("active_http_requests_total", "gauge", "Calls under way."),
                &self.calls,
            ),
            (
                (
                    "client_connection_opened_total",
                    "counter",
                    "Client sockets opened.",
                ),
                &self.connections_total,
            ),
        ];
        for (family, count) in kept {
            write(out, PREFIX, family, &[(&[], count.get())]);
        }
        let name = format!("{PREFIX}client_connection_duration_seconds");
        header(out, &name, "Lives of client sockets.", "histogram");
        self.connection_lives.render(out, &name, &[]);
        let single: [(Family, &Count); 5] = [
            (
                ("calls_total", "counter", "Calls begun."),
                &self.calls_total,
            ),
            (
                (
                    "calls_retried_total",
                    "counter",
                    "Calls sent once more, over a fresh tunnel.",
                ),
                &self.calls_retried,
            ),
            (
                (
                    "calls_cancelled_total",
                    "counter",
                    "Calls that their client gave up.",
                ),
                &self.calls_cancelled,
            ),
            (
                (
                    "calls_broken_total",
                    "counter",
                    "Calls that broke after their answer had begun.",
                ),
                &self.calls_broken,
            ),
            (
                (
                    "calls_unlogged_total",
                    "counter",
                    "Calls without a session that have no line of their own in the log.",
                ),
                &self.calls_unlogged,
            ),
        ];
        for (family, count) in single {
            write(out, OURS, family, &[(&[], count.get())]);
        }
        write(
            out,
            OURS,
            (
                "call_body_bytes_total",
                "counter",
                "Bytes of bodies carried: up to workers, down to clients.",
            ),
            &[
                (&[("direction", "up")], self.bytes_up.get()),
                (&[("direction", "down")], self.bytes_down.get()),
            ],
        );
        write(
            out,
            OURS,
            (
                "call_values_ignored_total",
                "counter",
                "Malformed values that calls went on without.",
            ),
            &[
                (&[("value", "request_id")], self.malformed_request_ids.get()),
                (&[("value", "option")], self.malformed_options.get()),
            ],
        );
        let name = format!("{OURS}call_faults_total");
        header(out, &name, "Calls answered with a fault.", "counter");
        for (fault, count) in self.faults() {
            let row = fault.row();
            let labels = [("fault", row.label), ("blame", row.blame.label())];
            sample(out, &name, &labels, count as f64);
        }
        let name = format!("{OURS}client_connection_closed_total");
        header(out, &name, "Client sockets closed, by reason.", "counter");
        for reason in CloseReason::ALL {
            let labels = [("reason", reason.label())];
            sample(out, &name, &labels, self.closes(reason) as f64);
        }
    }
}

/// One sample: its labels and its value.
type Sample<'a> = (&'a [(&'a str, &'a str)], u64);

fn write(out: &mut String, prefix: &str, (name, kind, help): Family, samples: &[Sample<'_>]) {
    let name = format!("{prefix}{name}");
    header(out, &name, help, kind);
    for (labels, value) in samples {
        sample(out, &name, labels, *value as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_in_their_order() {
        let counters = Counters::default();
        for (times, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, times);
            (0..times).for_each(|_| counters.closed(reason));
        }
        let mut page = String::new();
        counters.render(&mut page);
        let line = "pontoon_client_connection_closed_total{reason=\"flood\"} 7\n";
        assert!(page.contains(line), "{page}");
    }

    #[test]
    fn o_met_1_every_client_series_exists_from_the_start() {
        let mut page = String::new();
        Counters::default().render(&mut page);
        for line in [
            "nvcf_grpc_proxy_service_active_connections_total 0",
            "nvcf_grpc_proxy_service_active_http_requests_total 0",
            "nvcf_grpc_proxy_service_client_connection_opened_total 0",
            "nvcf_grpc_proxy_service_client_connection_duration_seconds_count 0",
            "pontoon_call_faults_total{fault=\"worker_lost\",blame=\"worker\"} 0",
            "pontoon_client_connection_closed_total{reason=\"proxy_header\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn every_fault_has_its_own_count() {
        let counters = Counters::default();
        for (times, fault) in Fault::ALL.into_iter().enumerate() {
            for _ in 0..times {
                counters.fault(fault);
            }
        }
        for (times, (fault, count)) in counters.faults().enumerate() {
            assert_eq!(count, times as u64, "{fault:?}");
        }
    }
}
