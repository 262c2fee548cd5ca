//! Keeps one worker life attached: dials the nodes that the [`Roster`] names, and watches how their
//! control streams end.

use super::control::{self, Ended, Keeper};
use super::life::Life;
use super::roster::{Known, LinkId, Outcome, Roster};
use crate::{clock, random};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pontoon_proto::worker::refused::Reason;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How often the roster is asked when nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why a life can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// No node will ever take us: the key, the version or the region is wrong.
    Refused(Reason, String),
    /// This worker id is spent.
    Spent(String),
    /// The worker's death has been told to every attached node.
    Told,
}

/// Whether the same hello may be taken later, or by another node.
fn is_temporary(reason: Reason) -> bool {
    matches!(reason, Reason::Unavailable | Reason::AttachedHere)
}

/// The roster, shared with the control streams of one life.
pub(super) struct Attachment {
    roster: Mutex<Roster>,
    started: Instant,
    /// How many nodes have welcomed us.
    attached: watch::Sender<usize>,
}

impl Keeper for Attachment {
    fn welcomed(&self, link: LinkId, node: &str) -> bool {
        let new = self.lock().welcomed(link, node);
        self.count();
        new
    }

    fn learn(&self, nodes: Vec<Known>) {
        self.lock().learn(nodes);
    }

    fn leaving(&self, link: LinkId) {
        let now = self.now();
        self.lock().leaving(link, now);
        self.count();
    }

    fn staying(&self, link: LinkId) {
        self.lock().staying(link);
        self.count();
    }
}

impl Attachment {
    pub(super) fn new(roster: Roster, attached: watch::Sender<usize>) -> Self {
        Self {
            roster: Mutex::new(roster),
            started: clock::now(),
            attached,
        }
    }

    /// Attaches, and stays attached, until the life is over.
    pub(super) async fn run(&self, life: &Arc<Life>) -> Over {
        let mut links = FuturesUnordered::new();
        let mut welcomed_ever = false;
        loop {
            let over = life.levels.borrow().dead.is_some();
            if over && links.is_empty() {
                return Over::Told;
            }
            if !over && let Some((address, link)) = self.dial() {
                links.push(async move {
                    let ended = control::run((&address, link), life, self).await;
                    (address, link, ended)
                });
            }
            life.ways().attached_through(self.lock().reached());
            welcomed_ever |= *self.attached.borrow() > 0;
            tokio::select! {
                Some((address, link, ended)) = links.next() => {
                    self.ended(&address, link, &ended);
                    match ended {
                        Ended::Refused(Reason::WorkerId, text) => return Over::Spent(text),
                        // Once attached, a refusal is not the end: live sessions go on.
                        Ended::Refused(reason, text)
                            if !is_temporary(reason) && !welcomed_ever =>
                        {
                            return Over::Refused(reason, text);
                        }
                        _ => {}
                    }
                }
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn dial(&self) -> Option<(String, LinkId)> {
        let now = self.now();
        let mut roster = self.lock();
        let address = roster.next(now)?;
        let link = roster.dialing(&address, now);
        Some((address, link))
    }

    fn ended(&self, address: &str, link: LinkId, ended: &Ended) {
        let now = self.now();
        let outcome = match ended {
            Ended::Same | Ended::Refused(Reason::AttachedHere, _) => Outcome::Same,
            _ => Outcome::Failed,
        };
        self.lock().ended(link, outcome, now, random::fraction());
        self.count();
        match ended {
            _ if outcome == Outcome::Same => {
                tracing::debug!(address, "it leads to a node that has us already");
            }
            Ended::Lost(cause) => tracing::info!(address, cause, "not attached"),
            Ended::Refused(reason, text) => {
                tracing::warn!(address, ?reason, text, "a node refused this sidecar");
            }
            Ended::Told | Ended::Same => {}
        }
    }

    fn count(&self) {
        let attached = self.lock().attached().len();
        self.attached.send_replace(attached);
    }

    fn now(&self) -> Duration {
        clock::now().saturating_duration_since(self.started)
    }

    fn lock(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
