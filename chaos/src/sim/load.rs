//! The workload: clients that open, leave, resume and end sessions through any node, and workers that
//! come, go and die.

use super::node::Life;
use super::random::Random;
use super::sidecars::Sidecars;
use super::watch::Watch;
use super::world::{World, spawn};
use pontoon_proto::id::{
    FunctionId, NodeBoot, NodeId, RegionId, RequestId, TenantId, VersionId, WorkerId,
};
use pontoon_raft::catalog::command as catalog;
use pontoon_raft::catalog::command::Tenant;
use pontoon_raft::directory::command::{
    AttachRefusal, Binding, Command, DrainReason, EndReason, Reply,
};
use pontoon_raft::directory::{Directory, State};
use pontoon_raft::group::{Group, ProposeError};
use pontoon_raft::machine::Machine as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// How long an entry node waits for a session's first tunnel.
const LINK_WAIT: Duration = Duration::from_secs(2);

/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The running processes, as clients find them.
#[derive(Clone, Default)]
pub(super) struct Lives(Arc<Mutex<BTreeMap<NodeId, Life>>>);

impl Lives {
    pub(super) fn all(&self) -> MutexGuard<'_, BTreeMap<NodeId, Life>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) world: Arc<World>,
    pub(super) watch: Arc<Watch>,
    pub(super) lives: Lives,
    pub(super) sidecars: Sidecars,
    pub(super) random: Arc<Random>,
    pub(super) regions: u16,
}

/// A way into one group.
struct Door {
    life: Life,
    group: Group<Directory>,
    /// The incarnation in which something is asked for; what answers may be a later one.
    generation: u64,
    at: NodeBoot,
}

/// Where a worker is attached.
#[derive(Default)]
struct Attached {
    last: Option<(NodeBoot, u64)>,
    regions: BTreeSet<RegionId>,
}

/// What came of an open.
enum Opened {
    /// It is bound, and its client was told; its entry node.
    At(NodeBoot),
    /// There is no slot for it in that region.
    NoSlot,
    /// It was given up, and may have been bound meanwhile.
    GivenUp,
    No,
}

/// An operation's end, as its client sees it.
enum Outcome {
    /// The answer, and the entry that made it.
    Done(Reply, u64),
    /// Surely nothing was done.
    Refused,
    Unknown,
}

impl Client {
    pub(super) fn region(&self) -> RegionId {
        RegionId(1 + self.random.below(usize::from(self.regions)) as u16)
    }

    fn life(&self) -> Option<Life> {
        let lives: Vec<Life> = self.lives.all().values().cloned().collect();
        self.random.pick(&lives).cloned()
    }

    fn door(&self, region: RegionId) -> Option<Door> {
        let life = self.life()?;
        let group = life.cluster.region(region)?;
        let at = life.cluster.at();
        let generation = group.generation();
        Some(Door {
            life,
            group,
            generation,
            at,
        })
    }

    /// Says something to a directory through any node.
    async fn say(
        &self,
        region: RegionId,
        command: impl FnOnce(&Door) -> Command,
    ) -> (Outcome, Option<Door>) {
        let Some(door) = self.door(region) else {
            self.pause(50, 200).await;
            return (Outcome::Refused, None);
        };
        let command = command(&door);
        let outcome = self.tell(&door, command).await;
        (outcome, Some(door))
    }

    /// Says something to a directory through this node.
    async fn tell(&self, door: &Door, command: Command) -> Outcome {
        let group = door.group.clone();
        let within = PATIENCE / 2;
        let asked = door
            .life
            .host
            .spawn(async move { group.propose(command, within).await });
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        self.world.count("operations");
        match answer {
            Ok(Ok(Ok(done))) => Outcome::Done(done.reply, done.index),
            Ok(Ok(Err(ProposeError::Unavailable))) => Outcome::Refused,
            Ok(Ok(Err(ProposeError::Unknown))) | Ok(Err(_)) | Err(_) => {
                self.world.count("outcomes unknown");
                Outcome::Unknown
            }
        }
    }

    async fn pause(&self, least: u64, most: u64) {
        let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
        tokio::time::sleep(self.random.between(least, most)).await;
    }

    /// Opens sessions and lives with them, until the run ends.
    pub(super) async fn run(self) {
        let mut seq = 0;
        loop {
            let mut before = None;
            // In a region, and where that leads to nothing in the next one, as a node does.
            let first = self.region();
            for region in [first, self.next(first)] {
                let id = RequestId::mint(region, self.random.bytes());
                match self.open(id, region, &mut seq).await {
                    Opened::At(at) => {
                        before
                            .into_iter()
                            .for_each(|hazard| self.world.count(hazard));
                        self.live(id, region, at, &mut seq).await;
                        break;
                    }
                    Opened::NoSlot => before = Some("H-26"),
                    Opened::GivenUp => before = Some("H-13"),
                    Opened::No => break,
                }
            }
            self.pause(20, 300).await;
        }
    }

    fn next(&self, region: RegionId) -> RegionId {
        RegionId(region.0 % self.regions + 1)
    }

    /// Opens one session.
    async fn open(&self, id: RequestId, region: RegionId, seq: &mut u64) -> Opened {
        let window = Duration::from_millis(500 + self.random.below(3000) as u64);
        let wait = [0, 1500][self.random.below(2)];
        let absorbed = self.random.chance(100);
        self.watch.opens(id, window);
        if absorbed {
            self.watch.absorbs(id);
        }
        let mut said = None;
        let mut set_out = self.world.age();
        for _ in 0..3 {
            *seq += 1;
            let seq = *seq;
            if !absorbed {
                // One that is absorbed is held from the first copy on that arrives.
                set_out = self.world.age();
            }
            let Some(door) = self.door(region) else {
                self.pause(50, 200).await;
                continue;
            };
            let open = Command::Open {
                id,
                tenant: TenantId(Uuid::from_bytes([1; 16])),
                function: function(),
                version: version(),
                at: door.at,
                seq,
                asked: door.group.state().clock(),
                wait_ms: wait,
                window_ms: window.as_millis() as u64,
                absorbed,
                window_asked: false,
            };
            match self.tell(&door, open.clone()).await {
                Outcome::Done(Reply::Bound(binding), entry) => {
                    self.bound(&door, id, binding, Some(entry), set_out);
                    return self.told(&door, region, id, binding, absorbed).await;
                }
                Outcome::Done(Reply::Queued, _) => {
                    if let Some(binding) = self.queued(id, region).await {
                        self.bound(&door, id, binding, None, set_out);
                        return self.told(&door, region, id, binding, absorbed).await;
                    }
                    said = Some((door, open));
                    break;
                }
                Outcome::Done(Reply::NoSlot, _) => return Opened::NoSlot,
                Outcome::Done(..) => return Opened::No,
                Outcome::Unknown => said = Some((door, open)),
                Outcome::Refused => {}
            }
        }
        self.give_up(id, region, said).await
    }

    /// Cancels an open that was not answered, and lets a copy of it arrive after that.
    async fn give_up(
        &self,
        id: RequestId,
        region: RegionId,
        said: Option<(Door, Command)>,
    ) -> Opened {
        self.watch.may_end(id);
        let (cancelled, through) = self.say(region, |_| Command::CancelOpen { id }).await;
        self.world.count("cancels");
        let (Outcome::Done(..), Some(through), Some((door, open))) = (cancelled, through, said)
        else {
            return Opened::No;
        };
        let generation = through.generation;
        if self.random.chance(300) && door.generation == generation {
            let copy = self.tell(&door, open).await;
            self.world.count("H-12");
            if let Outcome::Done(reply @ (Reply::Bound(_) | Reply::Queued), _) = copy
                && !self.watch.forgiven(id, generation)
            {
                let what = format_args!("a copy of the open of {id} was answered {reply:?}");
                self.world.fail("cancelled", what);
            }
        }
        Opened::GivenUp
    }

    /// The entry node knows that a session is bound.
    fn bound(
        &self,
        door: &Door,
        id: RequestId,
        binding: Binding,
        entry: Option<u64>,
        set_out: Duration,
    ) {
        self.world.tell(format_args!(
            "{id} bound to {} slot {}",
            binding.worker, binding.slot
        ));
        let generation = door.generation;
        self.watch.bound(id, binding, entry, set_out, generation);
    }

    /// The client is told of the session once its first tunnel is up. A node that brings none up in time ends
    /// the session, and one that dies tells nobody and ends nothing. The client of a call that is absorbed is
    /// not seen again.
    async fn told(
        &self,
        door: &Door,
        region: RegionId,
        id: RequestId,
        binding: Binding,
        absorbed: bool,
    ) -> Opened {
        let (sidecars, generation) = (self.sidecars.clone(), door.generation);
        let (life, at) = (door.life.clone(), door.at);
        let linked = async move {
            for _ in 0..2 {
                sidecars.want(&life, at, generation, id, binding);
                for _ in 0..10 {
                    if sidecars.is_up(id) {
                        return true;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            false
        };
        let linked = tokio::time::timeout(LINK_WAIT, door.life.host.spawn(linked)).await;
        match linked {
            Ok(Ok(true)) => {
                self.world.count("sessions acknowledged");
                self.watch.told(id);
                if absorbed {
                    self.world.count("opens absorbed");
                    return Opened::No;
                }
                Opened::At(door.at)
            }
            Ok(Err(_died)) => {
                self.world.count("opens that nobody was told of");
                Opened::No
            }
            Ok(Ok(false)) | Err(_) => {
                self.watch.may_end(id);
                let reason = EndReason::NoLink;
                self.say(region, |_| Command::End { id, reason }).await;
                self.world.count("opens without a tunnel");
                let state = door.group.state();
                let worker = state.worker(binding.worker);
                if worker.is_some_and(|worker| worker.draining.contains(&DrainReason::NoLink)) {
                    self.world.count("H-27");
                }
                Opened::No
            }
        }
    }

    /// The entry node asks for a tunnel.
    fn connect(&self, door: &Door, id: RequestId, binding: Binding) {
        let generation = door.generation;
        self.sidecars
            .want(&door.life, door.at, generation, id, binding);
    }

    /// Waits for a slot as a node does: by its replica.
    async fn queued(&self, id: RequestId, region: RegionId) -> Option<Binding> {
        self.world.count("opens queued");
        for _ in 0..20 {
            self.pause(100, 100).await;
            let state = self.door(region).map(|door| door.group.state());
            let session = state.as_ref().and_then(|state| state.session(id));
            if let Some(binding) = session.and_then(|session| session.binding()) {
                return Some(binding);
            }
        }
        None
    }

    /// Leaves, comes back elsewhere, and ends at last, or is forgotten.
    async fn live(&self, id: RequestId, region: RegionId, mut at: NodeBoot, seq: &mut u64) {
        for _ in 0..self.random.below(4) {
            self.pause(20, 800).await;
            *seq += 1;
            let (last, clean) = (*seq, self.random.chance(500));
            let leave = |_: &Door| Command::Leave {
                id,
                at,
                seq: last,
                clean,
            };
            self.say(region, leave).await;
            self.pause(20, 800).await;
            match self.resume(id, region, seq).await {
                Some((Reply::Bound(_), door)) => at = door.at,
                // The old side of a region that was recovered doesn't know what came after.
                Some((Reply::NotFound, door)) if !self.watch.forgiven(id, door.generation) => {
                    let what = format_args!("{id} was acknowledged and can't be resumed");
                    self.world.fail("acknowledged", what);
                }
                Some((Reply::Ended(_), _)) => return,
                _ => {}
            }
        }
        if self.random.chance(800) {
            self.end(id, region, seq).await;
        }
    }

    /// Comes back to a session through any node, and says so again when it hears nothing; the answer, and
    /// through which.
    async fn resume(
        &self,
        id: RequestId,
        region: RegionId,
        seq: &mut u64,
    ) -> Option<(Reply, Door)> {
        *seq += 1;
        let set_out = self.world.age();
        let door = self.door(region)?;
        let held = door.group.state().session(id).and_then(|session| {
            let State::Held(_, hold) = session.state else {
                return None;
            };
            Some(hold.until)
        });
        let enter = Command::Enter {
            id,
            at: door.at,
            seq: *seq,
            window_ms: None,
        };
        let mut outcome = self.tell(&door, enter.clone()).await;
        let again = matches!(outcome, Outcome::Unknown);
        if again {
            outcome = self.tell(&door, enter).await;
        }
        let Outcome::Done(reply, entry) = outcome else {
            return None;
        };
        if let Reply::Bound(binding) = reply {
            self.world.count("resumes");
            if again {
                self.world.count("H-9");
            }
            if held.is_some_and(|until| until < door.group.state().clock()) {
                self.world.count("H-11");
            }
            let generation = door.generation;
            self.watch
                .bound(id, binding, Some(entry), set_out, generation);
            self.connect(&door, id, binding);
        }
        Some((reply, door))
    }

    /// Ends a session; from the answer on nobody serves it, also where the end is not known yet.
    async fn end(&self, id: RequestId, region: RegionId, seq: &mut u64) {
        self.watch.may_end(id);
        let reason = EndReason::Released;
        let (ended, through) = self.say(region, |_| Command::End { id, reason }).await;
        let (Outcome::Done(..), Some(through)) = (ended, through) else {
            return;
        };
        self.world.count("ends acknowledged");
        let Some(door) = self.door(region) else {
            return;
        };
        if door.generation != through.generation || door.group.state().session(id).is_none() {
            return;
        }
        self.world.count("H-19");
        *seq += 1;
        let enter = Command::Enter {
            id,
            at: door.at,
            seq: *seq,
            window_ms: None,
        };
        if let Outcome::Done(Reply::Bound(binding), _) = self.tell(&door, enter).await
            && !self.watch.forgiven(id, through.generation)
        {
            let what = format_args!("{id} was ended, and entered after that at {binding:?}");
            self.world.fail("no-return", what);
        }
    }

    /// A defect that is planted: an open that was answered long ago comes again, with a new date, when
    /// nobody remembers how its session ended.
    pub(super) async fn opens_late(&self) {
        let region = RegionId(1);
        let id = RequestId::mint(region, self.random.bytes());
        let (mut seq, reason) = (0, EndReason::Released);
        while !matches!(self.open(id, region, &mut seq).await, Opened::At(_)) {}
        self.watch.may_end(id);
        let end = |_: &Door| Command::End { id, reason };
        while !matches!(self.say(region, end).await.0, Outcome::Done(..)) {}
        let forgotten = |door: Door| door.group.state().ended(id).is_none();
        // Until a replica has forgotten it.
        while !self.door(region).is_some_and(forgotten) {
            self.pause(500, 500).await;
        }
        self.open(id, region, &mut seq).await;
    }

    /// Asks for certainty, again and again.
    pub(super) async fn read(self) {
        loop {
            self.pause(50, 400).await;
            let Some(door) = self.door(self.region()) else {
                continue;
            };
            let promised = self.watch.promised();
            let group = door.group.clone();
            let generation = group.generation();
            let reading = door
                .life
                .host
                .spawn(async move { group.read(PATIENCE / 2).await });
            if let Ok(Ok(Ok(state))) = tokio::time::timeout(PATIENCE, reading).await {
                self.watch.read(&promised, &state, generation);
            }
        }
    }

    /// One place for a worker: there is always one, but not always the same.
    pub(super) async fn work(self, region: RegionId) {
        let mut stream = 0;
        loop {
            let worker = WorkerId(Uuid::from_bytes(self.random.bytes()));
            let slots = 1 + self.random.below(4) as u32;
            let blocked = self.random.chance(150);
            self.sidecars.begin(worker, blocked);
            let mut attached = Attached::default();
            for _ in 0..2 + self.random.below(6) {
                stream += 1;
                self.attach(region, worker, slots, stream, &mut attached)
                    .await;
                self.pause(200, 2500).await;
                if !blocked {
                    // What a probe of one that was set aside brings about.
                    self.say(region, |_| Command::LinkUp { worker }).await;
                }
                if self.random.chance(200) {
                    let on = self.random.chance(400);
                    let reason = DrainReason::Health;
                    let drain = |_: &Door| Command::DrainWorker { worker, reason, on };
                    self.say(region, drain).await;
                }
            }
            self.watch.may_die(worker);
            let (dead, _) = self.say(region, |_| Command::WorkerDead { worker }).await;
            if matches!(dead, Outcome::Done(..)) {
                self.watch.dead(worker);
            }
            self.sidecars.gone(worker);
            self.world.count("workers dead");
        }
    }

    /// Attaches a worker through any node; whether it stands. At times the end of the control stream before
    /// it is told of only after that.
    async fn attach(
        &self,
        region: RegionId,
        worker: WorkerId,
        slots: u32,
        stream: u64,
        attached: &mut Attached,
    ) -> bool {
        let attach = |door: &Door| Command::AttachWorker {
            worker,
            name: "w".into(),
            function: function(),
            version: version(),
            slots,
            at: door.at,
            stream,
        };
        let (outcome, door) = self.say(region, attach).await;
        let Some(door) = door else { return false };
        match outcome {
            Outcome::Done(Reply::Attached, _) => {}
            Outcome::Done(Reply::AttachRefused(AttachRefusal::Lost), _) => {
                self.world.count("H-21");
                return false;
            }
            _ => return false,
        }
        let catalog = door.life.cluster.catalog().state();
        let home = catalog.node(door.at.node).map(|node| node.region);
        attached.regions.extend(home);
        if attached.regions.len() > 1 {
            self.world.count("H-1");
        }
        if let Some((at, stream)) = attached.last.replace((door.at, stream))
            && self.random.chance(300)
        {
            let detach = |_: &Door| Command::DetachWorker { worker, at, stream };
            let (detached, _) = self.say(region, detach).await;
            if at == door.at && matches!(detached, Outcome::Done(..)) {
                self.world.count("H-21");
            }
        }
        true
    }

    /// Creates something in the catalog through one node and asks for it at another: one that lags asks the
    /// others before it says that there is no such thing.
    pub(super) async fn learn(self) {
        loop {
            self.pause(200, 1500).await;
            let tenant = Tenant {
                id: TenantId(Uuid::from_bytes(self.random.bytes())),
                name: format!("tenant-{:x}", self.random.next()),
                actor: "sim".into(),
            };
            let id = tenant.id;
            let (Some(one), Some(other)) = (self.life(), self.life()) else {
                continue;
            };
            let command = catalog::Command::CreateTenant(tenant);
            let created = one.tell_catalog(command, PATIENCE / 2, PATIENCE).await;
            if created != Some(catalog::Reply::Done) {
                continue;
            }
            let catalog = other.cluster.catalog().clone();
            if catalog.state().tenant(id).is_some() {
                continue;
            }
            self.world.count("H-7");
            let reading = other
                .host
                .spawn(async move { catalog.read(PATIENCE / 2).await });
            if let Ok(Ok(Ok(state))) = tokio::time::timeout(PATIENCE, reading).await
                && state.tenant(id).is_none()
            {
                let what = format_args!("tenant {id} was created and is not found");
                self.world.fail("stale-negative", what);
            }
        }
    }

    /// After healing: a worker comes and a session is opened on it, in this region, through any node.
    pub(super) async fn serves(&self, region: RegionId) -> bool {
        let worker = WorkerId(Uuid::from_bytes(self.random.bytes()));
        self.sidecars.begin(worker, false);
        let mut attached = Attached::default();
        if !self.attach(region, worker, 16, 1, &mut attached).await {
            return false;
        }
        let id = RequestId::mint(region, self.random.bytes());
        matches!(self.open(id, region, &mut 0).await, Opened::At(_))
    }

    /// Starts everything that the cluster has to bear.
    pub(super) fn start(&self, clients: usize) -> Vec<tokio::task::JoinHandle<()>> {
        let part = || Client {
            random: Arc::new(self.random.fork()),
            ..self.clone()
        };
        let mut tasks = Vec::new();
        for _ in 0..clients {
            tasks.push(spawn(part().run()));
        }
        tasks.push(spawn(part().read()));
        tasks.push(spawn(part().learn()));
        for region in 1..=self.regions {
            for _ in 0..2 {
                tasks.push(spawn(part().work(RegionId(region))));
            }
        }
        tasks
    }
}

fn function() -> FunctionId {
    FunctionId(Uuid::from_bytes([2; 16]))
}

fn version() -> VersionId {
    VersionId(Uuid::from_bytes([3; 16]))
}
