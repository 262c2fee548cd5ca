//! What has closed here lately: tunnels, and control streams of sidecars, each with its reason (contract
//! K-CLS-1). A node remembers its own; the admin API gathers those of all nodes.

use super::close::Close;
use crate::clock;
use crate::session::Target;
use pontoon_proto::id::WorkerId;
use pontoon_proto::peer as pb;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How many of each kind are remembered, the newest ones. One takes 150 bytes and its text up to 256: at most
/// 800 KB.
pub(crate) const KEPT_MAX: usize = 1_000;

/// The memory: tunnels, of which hundreds may close in a second, beside control streams, which are rare.
#[derive(Debug, Default)]
pub(super) struct Past {
    tunnels: Mutex<Ring>,
    sidecars: Mutex<Ring>,
}

type Ring = VecDeque<(Instant, pb::Closed)>;

impl Past {
    /// A tunnel has closed.
    pub(super) fn tunnel(&self, target: &Target, close: &Close, lasted: Duration) {
        note(
            &self.tunnels,
            pb::Closed {
                worker: target.binding.worker.to_bytes().to_vec().into(),
                request_id: target.id.to_bytes().to_vec().into(),
                reason: close.reason.label().to_owned(),
                code: close.code,
                text: close.text.clone(),
                lasted_ms: lasted.as_millis() as u64,
                ago_ms: 0,
            },
        );
    }

    /// A sidecar's control stream has closed.
    pub(super) fn sidecar(&self, worker: WorkerId, reason: &str, text: String, lasted: Duration) {
        note(
            &self.sidecars,
            pb::Closed {
                worker: worker.to_bytes().to_vec().into(),
                reason: reason.to_owned(),
                text,
                lasted_ms: lasted.as_millis() as u64,
                ..pb::Closed::default()
            },
        );
    }

    /// Those that are asked for, the newest first.
    pub(super) fn asked(&self, request: &pb::ClosesRequest) -> pb::ClosesReply {
        let now = clock::now();
        let fits = |closed: &pb::Closed| {
            (request.worker.is_empty() || request.worker == closed.worker)
                && (request.request_id.is_empty() || request.request_id == closed.request_id)
        };
        let mut closed = Vec::new();
        for ring in [&self.tunnels, &self.sidecars] {
            let all = lock(ring);
            let found = all.iter().rev().filter(|(_, closed)| fits(closed));
            let found = found.take(request.limit as usize);
            closed.extend(found.map(|(at, closed)| pb::Closed {
                ago_ms: now.saturating_duration_since(*at).as_millis() as u64,
                ..closed.clone()
            }));
        }
        closed.sort_by_key(|closed| closed.ago_ms);
        closed.truncate(request.limit as usize);
        pb::ClosesReply { closed }
    }
}

fn note(ring: &Mutex<Ring>, closed: pb::Closed) {
    let mut all = lock(ring);
    if all.len() >= KEPT_MAX {
        all.pop_front();
    }
    all.push_back((clock::now(), closed));
}

fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(number: u128) -> WorkerId {
        WorkerId(uuid::Uuid::from_u128(number))
    }

    fn asked(past: &Past, of: Option<u128>, limit: u32) -> Vec<u64> {
        let worker = of.map(|of| worker(of).to_bytes().to_vec().into());
        let reply = past.asked(&pb::ClosesRequest {
            worker: worker.unwrap_or_default(),
            limit,
            ..pb::ClosesRequest::default()
        });
        reply.closed.iter().map(|one| one.lasted_ms).collect()
    }

    #[test]
    fn k_cls_1_the_newest_ends_are_remembered_and_the_oldest_forgotten() {
        let past = Past::default();
        for number in 0..KEPT_MAX as u64 + 2 {
            let lasted = Duration::from_millis(number);
            past.sidecar(
                worker(u128::from(number % 2)),
                "silent",
                String::new(),
                lasted,
            );
        }
        let last = KEPT_MAX as u64 + 1;
        assert_eq!(asked(&past, None, 2), [last, last - 1]);
        assert_eq!(asked(&past, Some(0), 2), [last - 1, last - 3]);
        assert!(asked(&past, Some(7), 2).is_empty());
        let all = asked(&past, None, u32::MAX);
        assert_eq!((all.len(), all.last()), (KEPT_MAX, Some(&2)));
    }
}
