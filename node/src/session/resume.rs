//! Joining a session that exists.
//!
//! A binding is written once, so a positive from the local replica never meets a wrong worker and
//! needs no network. A negative must be certain: only a linearizable read at the home group (or a
//! tombstone, for ended ids never come back) may say NotFound, because a client throws its id away
//! on it.

use super::local::LINK_WAIT;
use super::{Ask, GROUP_WAIT, Joined, Sessions, Target};
use crate::tunnel::Tunnel;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{RequestId, VersionId};
use pontoon_raft::directory::Directory;
use pontoon_raft::group::Group;
use pontoon_raft::machine::Machine as _;
use std::time::Duration;

/// How late an `Enter` of a node that is new to a session may be before the answer leaves without it,
/// when the replica shows that the session is far from its end.
const ENTER_LATE: Duration = Duration::from_millis(500);

/// A replica may answer for a held session only while its last quorum-confirmed beat is younger than
/// this: half of the enter margin of 5 s, by which expiry waits longer than the window.
const BEAT_FRESH: Duration = Duration::from_millis(2_500);

/// What the replica knows of a session that a caller may join.
struct Known {
    target: Target,
    version: VersionId,
    /// How late the `Enter` may be before the answer overtakes it; none where it must be waited for.
    may_wait: Option<Duration>,
}

impl Sessions {
    /// Joins an existing session: its first tunnel is up when this returns.
    ///
    /// # Errors
    ///
    /// `SessionNotFound` only when that is certain, else `DirectoryUnavailable`; `WorkerLost` when
    /// the session lives but its worker can't be reached.
    pub async fn resume(&self, id: RequestId, ask: &Ask) -> Result<Joined, Fault> {
        let joined = self.join(id, ask).await?;
        self.0.metrics.session_resumes.observe(ask.began.elapsed());
        Ok(joined)
    }

    async fn join(&self, id: RequestId, ask: &Ask) -> Result<Joined, Fault> {
        let group = self.home(id, ask.deadline).await?;
        let known = match self.known(&group, id, ask)? {
            Some(known) => known,
            None => {
                // The replica may lag: only the home group may say no (C-RSM-4).
                self.certain(&group, ask.deadline).await?;
                self.known(&group, id, ask)?.ok_or(Fault::SessionNotFound)?
            }
        };
        let target = known.target;
        let (local, first) = self.0.locals.join(target, known.version);
        // From here on, dropping `joined` leaves again, whatever happens.
        let joined = self.joined(local, None);
        let Some(seq) = first else {
            joined.wire(ask.carries, ask.deadline).await?;
            return Ok(joined);
        };
        let within = ask.left().min(LINK_WAIT);
        let dial = self.0.tunnels.obtain(&target, ask.carries, within);
        let enter = self.entered(&target, ask, seq, known.may_wait);
        let (dialed, entered) = tokio::join!(dial, enter);
        entered?;
        let tunnel: Tunnel = match dialed {
            Ok(tunnel) => tunnel,
            Err(error) => return Err(self.why_no_link(&target, error, ask.deadline).await),
        };
        joined.use_tunnel(tunnel);
        Ok(joined)
    }

    /// What the local replica knows of a session: `None` when it can't tell.
    fn known(
        &self,
        group: &Group<Directory>,
        id: RequestId,
        ask: &Ask,
    ) -> Result<Option<Known>, Fault> {
        let state = group.state();
        let Some(session) = state.session(id) else {
            return match state.ended(id) {
                Some(_) => Err(Fault::SessionNotFound),
                None => Ok(None),
            };
        };
        if !ask.fits_session(session) {
            return Err(Fault::SessionNotFound);
        }
        let Some(binding) = session.binding() else {
            // Nobody is told of a session that waits; whoever asks for it was told since.
            return Ok(None);
        };
        let connected = group.beat_age().is_some_and(|age| age < BEAT_FRESH);
        let soon = state.clock().after(ENTER_LATE + BEAT_FRESH);
        let far_from_end = state
            .hold(session)
            .is_none_or(|hold| soon < hold.until && !session.may_be_preempted(soon));
        let at = self.0.cluster.at();
        // The sidecar and the directory know the session at this node already, so that all that an
        // `Enter` changes is the end of the hold.
        let was_here = session.entries.iter().any(|entry| entry.at() == at);
        let may_wait = match was_here {
            true => Duration::ZERO,
            false => ENTER_LATE,
        };
        Ok(Some(Known {
            target: Target {
                id,
                region: id.region().ok_or(Fault::SessionNotFound)?,
                generation: group.generation(),
                binding,
            },
            version: session.version,
            may_wait: (connected && far_from_end).then_some(may_wait),
        }))
    }

    /// Proposes the `Enter`, and waits for it, or for as long as it `may_wait`. One that the answer has
    /// overtaken goes on: if the group says that the session has ended, what is carried here ends too.
    async fn entered(
        &self,
        target: &Target,
        ask: &Ask,
        seq: u64,
        may_wait: Option<Duration>,
    ) -> Result<(), Fault> {
        let Some(may_wait) = may_wait else {
            return self.enter(target, ask, seq).await;
        };
        let (sessions, target, mut ask) = (self.clone(), *target, ask.clone());
        // The call may be over long before the group answers; its connection is in the session.
        ask.deadline = ask.deadline.max(crate::clock::now() + GROUP_WAIT);
        let entering = async move {
            let entered = sessions.enter(&target, &ask, seq).await;
            if let Err(fault) = entered {
                tracing::info!(session = %target.id, fault = fault.row().label, "a resumed session could not be entered");
            }
            entered
        };
        let entering = crate::tasks::spawn(crate::tasks::Kind::Worker, "session enter", entering);
        // A timer of no time at all would take a millisecond.
        if may_wait.is_zero() {
            return Ok(());
        }
        match tokio::time::timeout(may_wait, entering).await {
            Ok(entered) => entered.unwrap_or(Err(Fault::DirectoryUnavailable)),
            Err(_overtaken) => Ok(()),
        }
    }
}
