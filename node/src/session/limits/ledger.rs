//! Who may begin a session now: what is known of each limit at this node, and the decision.
//!
//! Pure: limits, counts and time in, the decision out. A limit without an entry is as after a long
//! pause: a full bucket, and nothing on its way.

use super::bucket::Bucket;
use pontoon_raft::catalog::command::{Limit, Limited, Rate};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often buckets that are full again are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// When to ask again after a refusal for the number of sessions: nobody knows when one will end.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// One limit that a new session has to pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    /// Whose it is.
    pub(super) of: Limited,
    /// What it says.
    pub(super) limit: Limit,
    /// The sessions that exist as far as the replicas know.
    pub(super) live: u64,
}

/// What a new session was refused by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The label of its metric; one of `OPENS_REFUSED`.
    pub(super) by: &'static str,
    /// When to try again.
    pub(super) wait: Duration,
}

/// What one node knows of the limits in use.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Those that are not full. One per limit with a rate at most, so the catalog bounds them.
    buckets: BTreeMap<Limited, Bucket>,
    /// Opens of this node that the replicas don't show yet; nobody is here with none.
    coming: BTreeMap<Limited, u64>,
    swept: Duration,
}

impl Ledger {
    /// Whether a gate lets one more session through.
    pub(super) fn ask(&mut self, gate: &Gate, now: Duration) -> Result<(), Refusal> {
        let tenant = matches!(gate.of, Limited::Tenant(_));
        let coming = self.coming.get(&gate.of).copied().unwrap_or(0);
        if let Some(most) = gate.limit.sessions
            && gate.live.saturating_add(coming) >= most
        {
            return Err(Refusal {
                by: if tenant {
                    "tenant_sessions"
                } else {
                    "version_sessions"
                },
                wait: ASK_AGAIN,
            });
        }
        if let Some(rate) = gate.limit.rate
            && let Some(bucket) = self.buckets.get_mut(&gate.of)
        {
            bucket.refill(rate, now);
            let wait = bucket.wait(rate);
            if !wait.is_zero() {
                return Err(Refusal {
                    by: if tenant {
                        "tenant_rate"
                    } else {
                        "version_rate"
                    },
                    wait,
                });
            }
        }
        Ok(())
    }

    /// Lets one session through all of these gates, or through none of them.
    pub(super) fn admit(&mut self, gates: &[Gate], now: Duration) -> Result<(), Refusal> {
        for gate in gates {
            self.ask(gate, now)?;
        }
        for gate in gates {
            if let Some(rate) = gate.limit.rate {
                self.take(gate.of, rate, now);
            }
        }
        Ok(())
    }

    /// A session began, here or at another node.
    pub(super) fn take(&mut self, of: Limited, rate: Rate, now: Duration) {
        let bucket = self.buckets.entry(of);
        let bucket = bucket.or_insert_with(|| Bucket::full(rate, now));
        bucket.refill(rate, now);
        bucket.take();
    }

    /// An open is on its way, and the replicas don't show it yet.
    pub(super) fn comes(&mut self, of: Limited) {
        *self.coming.entry(of).or_default() += 1;
    }

    /// The replicas show it, or it came to nothing.
    pub(super) fn came(&mut self, of: Limited) {
        if let Some(count) = self.coming.get_mut(&of) {
            *count -= 1;
            if *count == 0 {
                self.coming.remove(&of);
            }
        }
    }

    /// Forgets buckets that are full or have no rate any more, when that is due.
    pub(super) fn sweep(&mut self, rate_of: impl Fn(Limited) -> Option<Rate>, now: Duration) {
        if now.saturating_sub(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        self.buckets.retain(|of, bucket| {
            rate_of(*of).is_some_and(|rate| {
                bucket.refill(rate, now);
                !bucket.is_full(rate)
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::metrics::OPENS_REFUSED;
    use pontoon_proto::id::{TenantId, VersionId};

    const SECOND: Duration = Duration::from_secs(1);

    fn tenant() -> Limited {
        Limited::Tenant(TenantId::from_random([1; 16]))
    }

    fn version() -> Limited {
        Limited::Version(VersionId::from_random([2; 16]))
    }

    fn gate(of: Limited, sessions: Option<u64>, rate: Option<Rate>, live: u64) -> Gate {
        let limit = Limit { sessions, rate };
        Gate { of, limit, live }
    }

    const SLOW: Rate = Rate {
        per_1000s: 1_000,
        burst: 1,
    };

    fn by(refused: Result<(), Refusal>) -> &'static str {
        let by = refused.expect_err("a refusal").by;
        assert!(OPENS_REFUSED.contains(&by), "{by} has a series");
        by
    }

    #[test]
    fn c_err_8_what_is_not_limited_passes_and_leaves_no_trace() {
        let mut ledger = Ledger::default();
        for _ in 0..100 {
            let gates = [gate(tenant(), None, None, 1_000_000)];
            ledger.admit(&gates, SECOND).unwrap();
        }
        assert!(ledger.buckets.is_empty() && ledger.coming.is_empty());
    }

    #[test]
    fn c_err_8_sessions_on_their_way_count_until_the_replicas_show_them() {
        let mut ledger = Ledger::default();
        let at = |live| [gate(tenant(), Some(2), None, live)];
        ledger.admit(&at(1), SECOND).unwrap();
        ledger.comes(tenant());
        let refused = ledger.admit(&at(1), SECOND).unwrap_err();
        assert_eq!((refused.by, refused.wait), ("tenant_sessions", ASK_AGAIN));
        ledger.came(tenant());
        assert_eq!(by(ledger.admit(&at(2), SECOND)), "tenant_sessions");
        ledger.admit(&at(1), SECOND).unwrap();
    }

    #[test]
    fn c_err_8_who_is_refused_by_one_limit_takes_nothing_from_another() {
        let mut ledger = Ledger::default();
        let tenant = gate(tenant(), None, Some(SLOW), 0);
        let full = gate(version(), Some(5), None, 5);
        assert_eq!(
            by(ledger.admit(&[tenant, full], SECOND)),
            "version_sessions"
        );
        ledger.admit(&[tenant], SECOND).unwrap();
        let refused = ledger.admit(&[tenant], SECOND).unwrap_err();
        assert_eq!((refused.by, refused.wait), ("tenant_rate", SECOND));
    }

    #[test]
    fn c_err_8_opens_of_other_nodes_take_from_the_same_bucket() {
        let mut ledger = Ledger::default();
        let gates = [gate(version(), None, Some(SLOW), 0)];
        ledger.take(version(), SLOW, SECOND);
        assert_eq!(by(ledger.admit(&gates, SECOND)), "version_rate");
        ledger.admit(&gates, 2 * SECOND).unwrap();
    }

    #[test]
    fn c_err_8_full_buckets_and_those_of_lifted_limits_are_forgotten() {
        let mut ledger = Ledger::default();
        ledger.take(tenant(), SLOW, 100 * SECOND);
        ledger.take(version(), SLOW, 100 * SECOND);
        let lifted = |of| (of == tenant()).then_some(SLOW);
        ledger.sweep(lifted, 100 * SECOND);
        assert_eq!(ledger.buckets.keys().collect::<Vec<_>>(), [&tenant()]);
        ledger.sweep(lifted, 105 * SECOND);
        assert_eq!(ledger.buckets.len(), 1, "it is not due yet");
        ledger.sweep(lifted, 110 * SECOND);
        assert!(ledger.buckets.is_empty());
    }
}
