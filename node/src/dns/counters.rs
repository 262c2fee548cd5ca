//! What is counted of questions, and which refusals are worth a line in the log.
//!
//! Plain atomics: counting takes no lock. `docs/metrics.md` says what each series means.

use super::answer::Outcome;
use crate::ops::metrics::{Gauge, header, sample};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use trust_dns_resolver::proto::op::Query;
use trust_dns_resolver::proto::rr::RecordType;

/// The types that are counted one by one; then `other`, and `none` for what had no question.
const TYPES: [(&str, Option<RecordType>); 8] = [
    ("A", Some(RecordType::A)),
    ("AAAA", Some(RecordType::AAAA)),
    ("SRV", Some(RecordType::SRV)),
    ("NS", Some(RecordType::NS)),
    ("SOA", Some(RecordType::SOA)),
    ("ANY", Some(RecordType::ANY)),
    ("other", None),
    ("none", None),
];

const OTHER: usize = TYPES.len() - 2;
const NONE: usize = TYPES.len() - 1;

/// How often one outcome may have a line.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Why a message got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Less than a head.
    Short,
    /// An answer.
    Response,
    /// Too many from its source, and not its turn to hear of TCP.
    Rate,
    /// The kernel had no room for what was to be sent.
    Unsent,
    /// A bug: what was to be sent could not be written.
    Broken,
}

impl Dropped {
    const ALL: [Dropped; 5] = [
        Self::Short,
        Self::Response,
        Self::Rate,
        Self::Unsent,
        Self::Broken,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Response => "response",
            Self::Rate => "rate",
            Self::Unsent => "unsent",
            Self::Broken => "broken",
        }
    }
}

/// The counts.
#[derive(Debug, Default)]
pub struct Counters {
    queries: [[AtomicU64; Outcome::ALL.len()]; TYPES.len()],
    dropped: [AtomicU64; Dropped::ALL.len()],
    pub(super) limited: AtomicU64,
    pub(super) connections: Arc<Gauge>,
    pub(super) connections_refused: AtomicU64,
    lines: [Line; Outcome::ALL.len()],
}

/// The lines of one outcome.
#[derive(Debug, Default)]
struct Line {
    /// When there may be another one, in milliseconds.
    next: AtomicU64,
    unsaid: AtomicU64,
}

impl Counters {
    pub(super) fn dropped(&self, why: Dropped) {
        self.dropped[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts an answer. What was refused gets a line, but no more than one a second for each outcome.
    pub(super) fn answered(
        &self,
        outcome: Outcome,
        question: Option<&Query>,
        from: SocketAddr,
        now: Duration,
    ) {
        let kind = question.map_or(NONE, |question| {
            let kind = Some(question.query_type());
            TYPES.iter().position(|one| one.1 == kind).unwrap_or(OTHER)
        });
        self.queries[kind][outcome as usize].fetch_add(1, Relaxed);
        match outcome {
            // What clients and caches ask all the time.
            Outcome::Answered | Outcome::NoData | Outcome::NxDomain | Outcome::Truncated => return,
            Outcome::FormErr
            | Outcome::ServFail
            | Outcome::NotImp
            | Outcome::Refused
            | Outcome::BadVers => {}
        }
        if let Some(unsaid) = self.lines[outcome as usize].may(now) {
            let outcome = outcome.label();
            let name = question.map(|question| question.name().to_ascii());
            let kind = question.map(|question| question.query_type().to_string());
            let class = question.map(|question| question.query_class().to_string());
            tracing::info!(
                outcome, %from, name, kind, class, more_since_the_last_line = unsaid,
                "a DNS question was refused"
            );
        }
    }

    /// Writes all of it as metrics. Every label value is there from the start.
    pub fn render(&self, out: &mut String) {
        let get = |count: &AtomicU64| count.load(Relaxed) as f64;
        let name = "pontoon_dns_queries_total";
        header(out, name, "DNS questions answered.", "counter");
        for ((kind, _), outcomes) in TYPES.iter().zip(&self.queries) {
            for (outcome, count) in Outcome::ALL.iter().zip(outcomes) {
                let labels = [("type", *kind), ("outcome", outcome.label())];
                sample(out, name, &labels, get(count));
            }
        }
        let name = "pontoon_dns_dropped_total";
        header(out, name, "DNS messages that got no answer.", "counter");
        for (why, count) in Dropped::ALL.iter().zip(&self.dropped) {
            sample(out, name, &[("reason", why.label())], get(count));
        }
        let single = [
            (
                "limited_total",
                "counter",
                "DNS questions over their source's rate.",
                get(&self.limited),
            ),
            (
                "tcp_connections",
                "gauge",
                "DNS connections by TCP.",
                self.connections.get() as f64,
            ),
            (
                "tcp_refused_total",
                "counter",
                "DNS connections by TCP that were one too many.",
                get(&self.connections_refused),
            ),
        ];
        for (name, kind, help, count) in single {
            let name = format!("pontoon_dns_{name}");
            header(out, &name, help, kind);
            sample(out, &name, &[], count);
        }
    }
}

impl Line {
    /// Whether there may be a line now; with how many there were none for since the last one.
    fn may(&self, now: Duration) -> Option<u64> {
        let now = now.as_millis() as u64;
        let next = self.next.load(Relaxed);
        let then = now + LINE_EVERY.as_millis() as u64;
        let mine = now >= next
            && self
                .next
                .compare_exchange(next, then, Relaxed, Relaxed)
                .is_ok();
        match mine {
            true => Some(self.unsaid.swap(0, Relaxed)),
            false => {
                self.unsaid.fetch_add(1, Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trust_dns_resolver::proto::rr::Name;

    #[test]
    fn questions_are_counted_by_type_and_outcome() {
        let counters = Counters::default();
        let from = ([127, 0, 0, 1], 53).into();
        let ask = |kind, outcome| {
            let question = Query::query(Name::root(), kind);
            counters.answered(outcome, Some(&question), from, Duration::ZERO);
        };
        ask(RecordType::A, Outcome::Answered);
        ask(RecordType::A, Outcome::Answered);
        ask(RecordType::TXT, Outcome::NoData);
        counters.answered(Outcome::NotImp, None, from, Duration::ZERO);
        counters.dropped(Dropped::Response);
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
        let mut page = String::new();
        counters.render(&mut page);
        for line in [
            "pontoon_dns_queries_total{type=\"A\",outcome=\"answered\"} 2",
            "pontoon_dns_queries_total{type=\"other\",outcome=\"nodata\"} 1",
            "pontoon_dns_queries_total{type=\"none\",outcome=\"notimp\"} 1",
            "pontoon_dns_queries_total{type=\"SRV\",outcome=\"badvers\"} 0",
            "pontoon_dns_dropped_total{reason=\"response\"} 1",
            "pontoon_dns_dropped_total{reason=\"rate\"} 0",
            "pontoon_dns_tcp_connections 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }

    #[test]
    fn a_flood_of_refusals_is_a_line_a_second_and_says_how_many_more_there_were() {
        let line = Line::default();
        let said = |ms| line.may(Duration::from_millis(ms));
        assert_eq!(said(0), Some(0));
        for ms in 1..1_000 {
            assert_eq!(said(ms), None);
        }
        assert_eq!(said(1_000), Some(999));
        assert_eq!(said(1_001), None);
        assert_eq!(said(5_000), Some(1));
    }
}
