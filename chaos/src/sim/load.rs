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
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Binding, Command, DrainReason, EndReason, Reply};
use pontoon_raft::group::{Group, ProposeError};
use pontoon_raft::machine::Machine as _;
use std::collections::BTreeMap;
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
    at: NodeBoot,
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

    fn door(&self, region: RegionId) -> Option<Door> {
        let lives: Vec<Life> = self.lives.all().values().cloned().collect();
        let life = self.random.pick(&lives)?.clone();
        let group = life.cluster.region(region)?;
        let at = life.cluster.at();
        Some(Door { life, group, at })
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
        let group = door.group.clone();
        let within = PATIENCE / 2;
        let asked = door
            .life
            .host
            .spawn(async move { group.propose(command, within).await });
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        self.world.count("operations");
        let outcome = match answer {
            Ok(Ok(Ok(done))) => Outcome::Done(done.reply, done.index),
            Ok(Ok(Err(ProposeError::Unavailable))) => Outcome::Refused,
            Ok(Ok(Err(ProposeError::Unknown))) | Ok(Err(_)) | Err(_) => {
                self.world.count("outcomes unknown");
                Outcome::Unknown
            }
        };
        (outcome, Some(door))
    }

    async fn pause(&self, least: u64, most: u64) {
        let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
        tokio::time::sleep(self.random.between(least, most)).await;
    }

    /// Opens sessions and lives with them, until the run ends.
    pub(super) async fn run(self) {
        let mut seq = 0;
        loop {
            let region = self.region();
            let id = RequestId::mint(region, self.random.bytes());
            match self.open(id, region, &mut seq).await {
                Some(at) => self.live(id, region, at, &mut seq).await,
                None => self.pause(20, 300).await,
            }
        }
    }

    /// Opens one session; its entry node, if it is bound for sure.
    async fn open(&self, id: RequestId, region: RegionId, seq: &mut u64) -> Option<NodeBoot> {
        let window = Duration::from_millis(500 + self.random.below(3000) as u64);
        let wait = [0, 1500][self.random.below(2)];
        self.watch.opens(id, window);
        for _ in 0..3 {
            *seq += 1;
            let (set_out, seq) = (self.world.age(), *seq);
            let open = |door: &Door| Command::Open {
                id,
                tenant: TenantId(Uuid::from_bytes([1; 16])),
                function: function(),
                version: version(),
                at: door.at,
                seq,
                asked: door.group.state().clock(),
                wait_ms: wait,
                window_ms: window.as_millis() as u64,
                absorbed: false,
                window_asked: false,
            };
            match self.say(region, open).await {
                (Outcome::Done(Reply::Bound(binding), entry), Some(door)) => {
                    self.bound(id, binding, Some(entry), set_out);
                    return self.told(&door, region, id, binding).await;
                }
                (Outcome::Done(Reply::Queued, _), Some(door)) => {
                    if let Some(binding) = self.queued(id, region).await {
                        self.bound(id, binding, None, set_out);
                        return self.told(&door, region, id, binding).await;
                    }
                    break;
                }
                (Outcome::Done(..), _) => return None,
                (Outcome::Refused | Outcome::Unknown, _) => {}
            }
        }
        self.watch.may_end(id);
        self.say(region, |_| Command::CancelOpen { id }).await;
        self.world.count("cancels");
        None
    }

    /// The entry node knows that a session is bound.
    fn bound(&self, id: RequestId, binding: Binding, entry: Option<u64>, set_out: Duration) {
        self.world.tell(format_args!(
            "{id} bound to {} slot {}",
            binding.worker, binding.slot
        ));
        self.watch.bound(id, binding, entry, set_out);
    }

    /// The client is told of the session once its first tunnel is up; its entry node then. One that brings
    /// none up in time ends the session, and one that dies tells nobody and ends nothing.
    async fn told(
        &self,
        door: &Door,
        region: RegionId,
        id: RequestId,
        binding: Binding,
    ) -> Option<NodeBoot> {
        let (sidecars, generation) = (self.sidecars.clone(), door.group.generation());
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
                Some(door.at)
            }
            Ok(Err(_died)) => {
                self.world.count("opens that nobody was told of");
                None
            }
            Ok(Ok(false)) | Err(_) => {
                self.watch.may_end(id);
                let reason = EndReason::NoLink;
                self.say(region, |_| Command::End { id, reason }).await;
                self.world.count("opens without a tunnel");
                None
            }
        }
    }

    /// The entry node asks for a tunnel.
    fn connect(&self, door: &Door, id: RequestId, binding: Binding) {
        let generation = door.group.generation();
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
            *seq += 1;
            let (set_out, next) = (self.world.age(), *seq);
            let enter = |door: &Door| Command::Enter {
                id,
                at: door.at,
                seq: next,
                window_ms: None,
            };
            match self.say(region, enter).await {
                (Outcome::Done(Reply::Bound(binding), entry), Some(door)) => {
                    self.world.count("resumes");
                    self.watch.bound(id, binding, Some(entry), set_out);
                    self.connect(&door, id, binding);
                    at = door.at;
                }
                (Outcome::Done(Reply::NotFound, _), _) => {
                    let what = format_args!("{id} was acknowledged and can't be resumed");
                    self.world.fail("acknowledged", what);
                }
                (Outcome::Done(Reply::Ended(_), _), _) => return,
                _ => {}
            }
        }
        if self.random.chance(800) {
            self.watch.may_end(id);
            let reason = EndReason::Released;
            let (ended, _) = self.say(region, |_| Command::End { id, reason }).await;
            if matches!(ended, Outcome::Done(..)) {
                self.world.count("ends acknowledged");
            }
        }
    }

    /// A defect that is planted: an open that was answered long ago comes again, with a new date, when
    /// nobody remembers how its session ended.
    pub(super) async fn opens_late(&self) {
        let region = RegionId(1);
        let id = RequestId::mint(region, self.random.bytes());
        let (mut seq, reason) = (0, EndReason::Released);
        while self.open(id, region, &mut seq).await.is_none() {}
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
            let reading = door
                .life
                .host
                .spawn(async move { group.read(PATIENCE / 2).await });
            if let Ok(Ok(Ok(state))) = tokio::time::timeout(PATIENCE, reading).await {
                self.watch.read(&promised, &state);
            }
        }
    }

    /// One place for a worker: there is always one, but not always the same.
    pub(super) async fn work(self, region: RegionId) {
        let mut stream = 0;
        loop {
            let worker = WorkerId(Uuid::from_bytes(self.random.bytes()));
            let slots = 1 + self.random.below(4) as u32;
            self.sidecars.begin(worker);
            for _ in 0..2 + self.random.below(6) {
                stream += 1;
                self.attach(region, worker, slots, stream).await;
                self.pause(200, 2500).await;
                // What a probe of one that was set aside brings about.
                self.say(region, |_| Command::LinkUp { worker }).await;
                if self.random.chance(200) {
                    let on = self.random.chance(400);
                    let reason = DrainReason::Health;
                    let drain = |_: &Door| Command::DrainWorker { worker, reason, on };
                    self.say(region, drain).await;
                }
            }
            self.watch.may_die(worker);
            self.say(region, |_| Command::WorkerDead { worker }).await;
            self.sidecars.gone(worker);
            self.world.count("workers dead");
        }
    }

    /// Attaches a worker through any node; whether it stands.
    async fn attach(&self, region: RegionId, worker: WorkerId, slots: u32, stream: u64) -> bool {
        let attach = |door: &Door| Command::AttachWorker {
            worker,
            name: "w".into(),
            function: function(),
            version: version(),
            slots,
            at: door.at,
            stream,
        };
        let (outcome, _) = self.say(region, attach).await;
        matches!(outcome, Outcome::Done(Reply::Attached, _))
    }

    /// After healing: a worker comes and a session is opened on it, in this region, through any node.
    pub(super) async fn serves(&self, region: RegionId) -> bool {
        let worker = WorkerId(Uuid::from_bytes(self.random.bytes()));
        self.sidecars.begin(worker);
        if !self.attach(region, worker, 16, 1).await {
            return false;
        }
        let id = RequestId::mint(region, self.random.bytes());
        self.open(id, region, &mut 0).await.is_some()
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
