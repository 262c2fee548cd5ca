//! What this node counts of its client side: plain atomics on the hot path, read by the ops port.

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
    /// Connections that were closed at once because the node had too many.
    pub connections_refused: Count,
    /// Connections that never spoke HTTP, or not in time.
    pub connections_mute: Count,
    /// Connections whose PROXY header was missing, malformed, or not theirs to send.
    pub connections_header: Count,
    /// Connections that were ended because their client sent too much that leads nowhere.
    pub connections_flood: Count,
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

#[cfg(test)]
mod tests {
    use super::*;

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
