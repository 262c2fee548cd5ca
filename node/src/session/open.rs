//! Making a new session.
//!
//! An open first chooses its version by weight, where its function has weights. Then it is a walk over
//! the regions in which that version may live (`route`): one with a free slot first (replicas hint, the group's answer
//! decides), else the queue of one region, from which it moves when another frees. It never asks a
//! second region before the first has said no or has confirmed the cancel (H-13): two groups would
//! bind one call twice. It is complete when its first tunnel is up; until then its id is shown to
//! nobody.

use super::limits::Pass;
use super::patience::PAUSE;
use super::route::{self, Way};
use super::watch::Waiter;
use super::{Ask, GROUP_WAIT, Joined, Sessions, Target};
use crate::tasks::{self, Kind};
use crate::tunnel::Tunnel;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{GroupId, RegionId, RequestId, VersionId};
use pontoon_raft::catalog::command::Version;
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Binding, Command, EndReason, Reply};
use pontoon_raft::group::{Group, ProposeError};
use pontoon_raft::machine::Machine as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A new session whose first tunnel is not up within this is ended and tried on another worker.
const LINK_WAIT: Duration = Duration::from_secs(2);

/// How often a queued open looks for a free slot in another region.
const LOOK_AROUND: Duration = Duration::from_millis(250);

/// How long a cancel that can't be answered is repeated: as long as an `Open` may be late, after
/// which the state machine refuses it.
const CANCEL_PATIENCE: Duration = Duration::from_secs(60);

/// A new session whose first tunnel is up.
struct Opened {
    target: Target,
    version: VersionId,
    tunnel: Tunnel,
}

/// How an attempt in one region is made.
#[derive(Clone, Copy)]
struct Manner {
    /// It may wait in the queue.
    wait: bool,
    /// The session starts held.
    absorbed: bool,
}

/// How an attempt in one region ended.
enum Attempt {
    /// Bound, and the tunnel is up.
    Up(Opened),
    /// Surely nothing is bound or queued there: another region or worker may be asked.
    Elsewhere(Why),
}

/// Why another attempt is due; it becomes the fault when none is left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    NoSlot,
    QueueFull,
    NoLink,
    Unavailable,
}

impl Sessions {
    /// Opens a session: a worker is bound and a first tunnel is up when this returns.
    ///
    /// # Errors
    ///
    /// `NoWorkerInTime` at the deadline, `LimitReached` when a limit of the tenant or of all versions
    /// is exhausted, `RateExceeded` when the queue is full, `DirectoryUnavailable` when no group can
    /// be asked or an outcome stays unknown.
    pub async fn open(&self, ask: &Ask) -> Result<Joined, Fault> {
        let opened = self.open_up(ask, false).await?;
        let target = opened.target;
        let (local, _entered_by_the_open) = self.0.locals.join(target, opened.version);
        self.0.waiters.forget(target.id);
        Ok(self.joined(local, Some(opened.tunnel)))
    }

    /// Opens a session that starts held: its tunnel is parked, and a later call enters it (C-ABS-1).
    pub async fn absorb(&self, ask: &Ask) -> Result<Target, Fault> {
        let opened = self.open_up(ask, true).await?;
        self.0.tunnels.park(&opened.target, opened.tunnel);
        self.0.waiters.forget(opened.target.id);
        Ok(opened.target)
    }

    async fn open_up(&self, ask: &Ask, absorbed: bool) -> Result<Opened, Fault> {
        let mut why = Why::NoSlot;
        let mut pass = self.0.limits.pass(ask.tenant);
        let chosen = self.weighed(ask, &pass)?;
        let ask: &Ask = chosen.as_ref().unwrap_or(ask);
        while !ask.left().is_zero() {
            let allowed = pass.allowed(ask)?;
            let ask: &Ask = &allowed;
            let (group, version, wait) = match self.choose(ask) {
                Ok(choice) => choice,
                // All groups are between leaders, or this node was paused for a moment.
                Err(Fault::DirectoryUnavailable) if self.may_come_back(ask) => {
                    why = Why::Unavailable;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(fault) => return Err(fault),
            };
            if !pass.charge(version.id) {
                continue;
            }
            let manner = Manner { wait, absorbed };
            let attempt = self.attempt(ask, &group, &version, manner, &mut pass);
            match attempt.await? {
                Attempt::Up(opened) => {
                    let now = crate::clock::now();
                    self.0.metrics.session_opened(
                        ask.function,
                        opened.version,
                        ask.tenant,
                        now,
                        now - ask.began,
                    );
                    return Ok(opened);
                }
                Attempt::Elsewhere(Why::QueueFull) => return Err(self.0.limits.queue_is_full()),
                Attempt::Elsewhere(reason) => {
                    // A hint was stale, or a group is between leaders: look again, but not hotly.
                    why = reason;
                    let pause = Duration::from_millis(match reason {
                        Why::NoLink => 0,
                        Why::NoSlot => 5,
                        _ => 50,
                    });
                    tokio::time::sleep(pause.min(ask.left())).await;
                }
            }
        }
        Err(match why {
            Why::Unavailable => Fault::DirectoryUnavailable,
            _ => Fault::NoWorkerInTime,
        })
    }

    /// The same ask for one of its versions, chosen by the weights of its function; none where they
    /// don't count.
    fn weighed(&self, ask: &Ask, pass: &Pass<'_>) -> Result<Option<Ask>, Fault> {
        let catalog = self.0.cluster.catalog().state();
        if ask.named || catalog.weights(ask.function).is_empty() {
            return Ok(None);
        }
        let with_weight = Ask {
            versions: route::with_weight(&catalog, ask.function, &ask.versions),
            ..ask.clone()
        };
        if with_weight.versions.is_empty() {
            return Err(Fault::FunctionNotFound);
        }
        // A version at its limit takes no part; where all are, that is the fault.
        let allowed = pass.allowed(&with_weight)?;
        let random = u64::from_le_bytes(crate::random::bytes());
        let version = route::draw(&catalog, ask.function, &allowed.versions, random);
        Ok(version.map(|version| Ask {
            versions: Arc::new([version]),
            ..ask.clone()
        }))
    }

    /// Where this open may be tried, the best first.
    fn ways(&self, ask: &Ask) -> Vec<(Way, Group<Directory>)> {
        let groups: BTreeMap<_, _> = self.0.cluster.regions().into_iter().collect();
        let catalog = self.0.cluster.catalog().state();
        let own = catalog.region_by_name(&self.0.region);
        let own = own.map(|region| region.number);
        let regions: Vec<_> = groups.keys().copied().collect();
        let ways = route::ways(&catalog, own, &regions, &ask.versions);
        let with_group = |way: Way| Some((way.clone(), groups.get(&way.region)?.clone()));
        ways.into_iter().filter_map(with_group).collect()
    }

    /// Whether a version may live in a region, as far as this replica of the catalog knows by now.
    fn may_live(&self, ask: &Ask, region: RegionId, version: VersionId) -> bool {
        let ways = self.ways(ask);
        let mut ways = ways.iter().map(|(way, _)| way);
        ways.any(|way| way.region == region && way.version.id == version)
    }

    /// Where to ask next, for which version, and whether to wait there.
    fn choose(&self, ask: &Ask) -> Result<(Group<Directory>, Arc<Version>, bool), Fault> {
        let ways = self.ways(ask);
        let connected = || ways.iter().filter(|(_, group)| group.connected());
        let free =
            |(way, group): &&(Way, Group<Directory>)| group.state().free_slots(way.version.id) > 0;
        if let Some((way, group)) = connected().find(free) {
            return Ok((group.clone(), way.version.clone(), false));
        }
        let served =
            |(way, group): &&(Way, Group<Directory>)| group.state().has_worker(way.version.id);
        let (way, group) = connected()
            .find(served)
            .or_else(|| connected().next())
            .ok_or(Fault::DirectoryUnavailable)?;
        Ok((group.clone(), way.version.clone(), true))
    }

    async fn attempt(
        &self,
        ask: &Ask,
        group: &Group<Directory>,
        version: &Version,
        manner: Manner,
        pass: &mut Pass<'_>,
    ) -> Result<Attempt, Fault> {
        let GroupId::Region(region) = group.id() else {
            return Err(Fault::Internal);
        };
        let id = RequestId::mint(region, crate::random::bytes());
        let mut guard = OpenGuard {
            sessions: self,
            group: group.clone(),
            id,
            waiter: Some(self.0.waiters.expect(id)),
        };
        let window = ask
            .window
            .unwrap_or(Duration::from_millis(version.policy.window_ms));
        let open = Command::Open {
            id,
            tenant: ask.tenant,
            function: ask.function,
            version: version.id,
            at: self.0.cluster.at(),
            seq: self.0.locals.next_sequence(),
            asked: group.state().clock(),
            wait_ms: if manner.wait {
                ask.left().as_millis().max(1) as u64
            } else {
                0
            },
            window_ms: window.as_millis() as u64,
            absorbed: manner.absorbed,
            window_asked: ask.window.is_some(),
        };
        let within = ask.left().min(GROUP_WAIT);
        let binding = match group.propose(open, within).await {
            Ok(proposed) => match proposed.reply {
                Reply::Bound(binding) => {
                    pass.shown();
                    binding
                }
                Reply::Queued => {
                    pass.shown();
                    match guard.wait_in_queue(ask, region, version.id).await? {
                        Some(binding) => binding,
                        None => return Ok(Attempt::Elsewhere(Why::NoSlot)),
                    }
                }
                Reply::NoSlot => return Ok(guard.nothing_there(Why::NoSlot)),
                Reply::QueueFull => return Ok(guard.nothing_there(Why::QueueFull)),
                Reply::Stale | Reply::Ended(_) => return Ok(guard.nothing_there(Why::Unavailable)),
                other => {
                    tracing::error!(
                        ?other,
                        "the directory gave an open an answer that it can't have"
                    );
                    return Err(Fault::Internal);
                }
            },
            Err(ProposeError::Unavailable) => return Ok(guard.nothing_there(Why::Unavailable)),
            Err(ProposeError::Unknown) => {
                // It may have been bound. Nobody else is asked before the cancel is confirmed.
                return match guard.cancel(ask).await {
                    true => Ok(Attempt::Elsewhere(Why::Unavailable)),
                    false => Err(Fault::DirectoryUnavailable),
                };
            }
        };
        if !self.may_live(ask, region, version.id) {
            // The policy changed while it was on its way: its id was shown to nobody, and is ended.
            return match guard.cancel(ask).await {
                true => Ok(Attempt::Elsewhere(Why::NoSlot)),
                false => Err(Fault::DirectoryUnavailable),
            };
        }
        let target = Target {
            id,
            region,
            generation: group.generation(),
            binding,
        };
        guard.link(ask, target, version.id).await
    }

    /// Ends an open for good, in the background, for as long as a late copy could still act.
    fn cancel_in_background(&self, group: Group<Directory>, id: RequestId) {
        self.0.waiters.forget(id);
        tasks::spawn(Kind::Worker, "open cancel", async move {
            let cancel = Command::CancelOpen { id };
            if let Err(error) = group.propose(cancel, CANCEL_PATIENCE).await {
                tracing::warn!(session = %id, %error, "a cancelled open was not confirmed; the group refuses its late copies by age");
            }
        });
    }
}

/// Cancels its open when it is dropped before it came to an end: the caller went away, whether by
/// deadline, cancellation or a closed connection.
struct OpenGuard<'a> {
    sessions: &'a Sessions,
    group: Group<Directory>,
    id: RequestId,
    /// Gone once nothing is left to cancel.
    waiter: Option<Waiter>,
}

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        if self.waiter.take().is_some() {
            self.sessions
                .cancel_in_background(self.group.clone(), self.id);
        }
    }
}

impl OpenGuard<'_> {
    fn nothing_there(&mut self, why: Why) -> Attempt {
        self.waiter = None;
        self.sessions.0.waiters.forget(self.id);
        Attempt::Elsewhere(why)
    }

    /// Proposes the cancel and says whether it is confirmed; if not, it goes on in the background.
    async fn cancel(&mut self, ask: &Ask) -> bool {
        let confirmed = self.insist(ask, Command::CancelOpen { id: self.id }).await;
        if confirmed {
            self.nothing_there(Why::NoSlot);
        }
        confirmed
    }

    /// Proposes until the group has answered, for as long as it may merely be between leaders.
    async fn insist(&self, ask: &Ask, command: Command) -> bool {
        let (sessions, group) = (self.sessions, &self.group);
        loop {
            let within = sessions.patience(group, ask.deadline);
            if group.propose(command.clone(), within).await.is_ok() {
                return true;
            }
            if !sessions.may_ask_again(group, ask.deadline) {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the queue has served this open. `None`: it has left the queue, because another
    /// region has a free slot or it may not live here any more.
    async fn wait_in_queue(
        &mut self,
        ask: &Ask,
        region: RegionId,
        version: VersionId,
    ) -> Result<Option<Binding>, Fault> {
        loop {
            let state = self.group.state();
            if let Some(binding) = state.session(self.id).and_then(|session| session.binding()) {
                return Ok(Some(binding));
            }
            match state.ended(self.id) {
                None => {}
                Some(EndReason::TimedOut) => {
                    self.nothing_there(Why::NoSlot);
                    return Err(Fault::NoWorkerInTime);
                }
                // Cancelled by a loss of this node's boot: not in the queue any more.
                Some(_) => {
                    self.nothing_there(Why::NoSlot);
                    return Ok(None);
                }
            }
            if ask.left().is_zero() {
                return Err(Fault::NoWorkerInTime);
            }
            if self.free_elsewhere(ask) || !self.sessions.may_live(ask, region, version) {
                return match self.cancel(ask).await {
                    true => Ok(None),
                    false => Err(Fault::DirectoryUnavailable),
                };
            }
            let nap = LOOK_AROUND.min(ask.left());
            if let Some(waiter) = &self.waiter {
                waiter.woken(nap).await;
            }
        }
    }

    fn free_elsewhere(&self, ask: &Ask) -> bool {
        let here = self.group.id();
        self.sessions.ways(ask).iter().any(|(way, group)| {
            let free = || group.state().free_slots(way.version.id) > 0;
            group.id() != here && group.connected() && free()
        })
    }

    /// Brings up the first tunnel; ends the session when it does not come up in time.
    async fn link(
        &mut self,
        ask: &Ask,
        target: Target,
        version: VersionId,
    ) -> Result<Attempt, Fault> {
        let tunnels = &self.sessions.0.tunnels;
        let within = LINK_WAIT.min(ask.left());
        match tunnels.obtain(&target, ask.carries, within).await {
            Ok(tunnel) => {
                self.waiter = None;
                self.clear_failed_links(&target);
                Ok(Attempt::Up(Opened {
                    target,
                    version,
                    tunnel,
                }))
            }
            Err(error) => {
                if ask.left().is_zero() {
                    // The caller's time was over before the worker's was: the worker is not to blame.
                    self.cancel(ask).await;
                    return Ok(Attempt::Elsewhere(Why::NoLink));
                }
                tracing::info!(session = %target.id, worker = %target.binding.worker, %error, "no tunnel for a new session; trying another worker");
                let end = Command::End {
                    id: target.id,
                    reason: EndReason::NoLink,
                };
                match self.insist(ask, end).await {
                    true => Ok(self.nothing_there(Why::NoLink)),
                    false => Err(Fault::DirectoryUnavailable),
                }
            }
        }
    }

    /// A tunnel came up at a worker that had failed before: three failures in a row would set it
    /// aside.
    fn clear_failed_links(&self, target: &Target) {
        let worker = target.binding.worker;
        let failed = self
            .group
            .state()
            .worker(worker)
            .is_some_and(|worker| worker.failed_links > 0);
        if failed {
            let group = self.group.clone();
            tasks::spawn(Kind::Worker, "link up", async move {
                let link_up = Command::LinkUp { worker };
                if let Err(error) = group.propose(link_up, GROUP_WAIT).await {
                    tracing::debug!(%worker, %error, "a good link was not recorded; the next one will be");
                }
            });
        }
    }
}
