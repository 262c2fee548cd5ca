//! Ending a session on request (C-ABS-2, the admin verb).

use super::{Ask, GROUP_WAIT, Sessions, Target};
use pontoon_proto::fault::Fault;
use pontoon_proto::id::RequestId;
use pontoon_raft::directory::command::{Command, EndReason, Reply};
use std::time::Duration;

/// How long the sidecar's confirmation is waited for.
const CONFIRM_WAIT: Duration = Duration::from_secs(5);

impl Sessions {
    /// A caller is done with a session: answers once its sidecar has let go (H-19).
    ///
    /// # Errors
    ///
    /// `SessionNotFound` when it is certain that there is none for this caller,
    /// `DirectoryUnavailable` when that can't be told.
    pub async fn release(&self, id: RequestId, ask: &Ask) -> Result<(), Fault> {
        let group = self.home(id, ask.deadline).await?;
        let state = self.certain(&group, ask.deadline).await?;
        match state.session(id) {
            Some(session) if ask.fits_session(session) => {}
            _ => return Err(Fault::SessionNotFound),
        }
        self.end(id, EndReason::Released).await
    }

    /// Ends a session, whoever's it is, and waits for its sidecar to let go.
    ///
    /// # Errors
    ///
    /// As [`Sessions::release`].
    pub async fn end(&self, id: RequestId, reason: EndReason) -> Result<(), Fault> {
        let deadline = crate::clock::now() + GROUP_WAIT;
        let group = self.home(id, deadline).await?;
        let state = self.certain(&group, deadline).await?;
        let session = state.session(id).ok_or(Fault::SessionNotFound)?;
        let binding = session.binding();
        let proposed = group
            .propose(Command::End { id, reason }, GROUP_WAIT)
            .await
            .map_err(|_| Fault::DirectoryUnavailable)?;
        match proposed.reply {
            Reply::NotFound => return Err(Fault::SessionNotFound),
            Reply::Ended(before) if before != reason => return Err(Fault::SessionNotFound),
            _ => {}
        }
        self.ended_here(id);
        if let (Some(binding), Some(region)) = (binding, id.region()) {
            let target = Target {
                id,
                region,
                generation: group.generation(),
                binding,
            };
            let confirmed = self.0.tunnels.let_go(&target, reason, CONFIRM_WAIT).await;
            if !confirmed {
                // A sidecar that can't be reached holds nothing that a client could reach: every
                // node refuses the id from now on.
                tracing::warn!(session = %id, worker = %binding.worker, "the sidecar has not confirmed the end of a session");
            }
        }
        Ok(())
    }
}
