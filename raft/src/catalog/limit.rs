//! How many sessions tenants and versions may have, and how fast they may come.
//!
//! Only what operators want is here; nodes count and refuse.

use super::command::{LIMITS_FORMAT, Limit, LimitChange, Limited, Rate, Reply};
use super::valid::ensure;
use super::{Catalog, Outcome};

/// How many tenants and versions may have a limit. Every node keeps a bucket of about 100 bytes for
/// each that is in use, so a full table is about 1 MB.
pub const LIMITS_MAX: usize = 10_000;

/// The most sessions that a limit may name: a thousand full directories. What is meant to be more is
/// meant to be no limit.
const SESSIONS_MAX: u64 = 1_000_000_000;

/// The highest rate, new sessions per 1,000 seconds: a million a second, far above what a cluster
/// opens.
const RATE_MAX: u64 = 1_000_000_000;

/// The largest burst.
const BURST_MAX: u64 = 1_000_000;

impl Catalog {
    pub(super) fn set_limit(
        &mut self,
        index: u64,
        of: Limited,
        change: LimitChange,
        actor: &str,
    ) -> Outcome {
        self.in_format(LIMITS_FORMAT, "limits need")?;
        let known = match of {
            Limited::Tenant(id) => self.tenant(id).is_some(),
            Limited::Version(id) => self.version(id).is_some(),
        };
        if !known {
            return Err(Reply::NotFound(format!("there is no {}", name(of))));
        }
        let before = self.limit(of);
        let after = changed(before, change)?;
        if after == before {
            return Ok(());
        }
        if after == Limit::default() {
            self.records.limits.remove(&of);
        } else {
            let room = self.records.limits.len() < LIMITS_MAX;
            if !room && !self.records.limits.contains_key(&of) {
                return Err(Reply::Refused(format!(
                    "there are {LIMITS_MAX} limits already: lift one first"
                )));
            }
            self.records.limits.insert(of, after);
        }
        let what = format!("limit {} to {}", name(of), said(after));
        self.log(index, actor, what);
        Ok(())
    }

    /// Everything that is limited, tenants first.
    pub fn limits(&self) -> impl Iterator<Item = (Limited, Limit)> {
        self.records.limits.iter().map(|(of, limit)| (*of, *limit))
    }
}

/// What becomes of a limit.
fn changed(before: Limit, change: LimitChange) -> Result<Limit, Reply> {
    let LimitChange {
        sessions,
        per_1000s,
        burst,
    } = change;
    let sessions = sessions.unwrap_or(before.sessions.unwrap_or(0));
    ensure(sessions <= SESSIONS_MAX, || {
        format!("sessions must be 1 to {SESSIONS_MAX}, or 0 for no limit, not {sessions}")
    })?;
    let per_1000s = per_1000s.unwrap_or(before.rate.map_or(0, |rate| rate.per_1000s));
    ensure(per_1000s <= RATE_MAX, || {
        format!(
            "the rate must be 0.001 to {} a second, or 0 for no limit",
            RATE_MAX / 1000
        )
    })?;
    let rate = match (per_1000s, burst) {
        (0, None | Some(0)) => None,
        (0, Some(_)) => {
            let text = "a burst needs a rate: say how many sessions may come per second, too";
            return Err(Reply::Invalid(text.into()));
        }
        (per_1000s, burst) => Some(Rate {
            per_1000s,
            burst: burst
                .or(before.rate.map(|rate| rate.burst))
                .unwrap_or(per_1000s.div_ceil(1000).min(BURST_MAX)),
        }),
    };
    ensure(
        rate.is_none_or(|rate| (1..=BURST_MAX).contains(&rate.burst)),
        || format!("the burst must be 1 to {BURST_MAX}: with less no session could ever begin"),
    )?;
    Ok(Limit {
        sessions: (sessions > 0).then_some(sessions),
        rate,
    })
}

fn name(of: Limited) -> String {
    match of {
        Limited::Tenant(id) => format!("tenant {id}"),
        Limited::Version(id) => format!("version {id}"),
    }
}

fn said(limit: Limit) -> String {
    let sessions = match limit.sessions {
        Some(sessions) => format!("{sessions} sessions"),
        None => "any number of sessions".into(),
    };
    let rate = match limit.rate {
        Some(Rate { per_1000s, burst }) => {
            let (whole, part) = (per_1000s / 1000, per_1000s % 1000);
            format!("{whole}.{part:03} new ones per second and {burst} at once")
        }
        None => "any rate".into(),
    };
    format!("{sessions}, {rate}")
}
