//! Workers' sidecars, and the tunnels through which nodes reach a session's slot.
//!
//! Who may dial and what is fenced off is the sidecar's own code (`slots`, the same file that the sidecar is
//! built from), and tickets are judged by the real table. Messages between nodes and sidecars are late, at
//! times by seconds, lost, and delivered twice, so that an `OpenTunnel` of a session may come after its end
//! or after the next session of its slot.
//!
//! | check | what must hold |
//! | --- | --- |
//! | `slot-fenced` | a slot has tunnels of one session only |
//! | `ticket-once` | a ticket opens one tunnel, at the process that issued it |
//! | `effect-once` | a process is told once by a group's incarnation that a session ended |

#[allow(
    dead_code,
    reason = "what the sidecar needs besides, for its metrics and its log"
)]
#[path = "../../../node/src/sidecar/slots.rs"]
mod slots;

use super::Bug;
use super::node::Life;
use super::random::Random;
use super::world::{World, spawn};
use pontoon_proto::id::{NodeBoot, NodeId, RequestId, WorkerId};
use pontoon_proto::ticket::{Presented, Refusal, Table, Ticket};
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Binding, Command, Effect, EndReason};
use pontoon_raft::group::Group;
use slots::{Answer, Fence, Slots};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// One process of a node.
type Process = (NodeId, u64);

/// A sidecar, and what it holds.
#[derive(Default)]
struct Sidecar {
    slots: Slots,
    /// Whose tunnels each slot has.
    tunnels: BTreeMap<u32, BTreeSet<RequestId>>,
    /// Its control streams work, and what it dials leads nowhere.
    blocked: bool,
    /// Who lost its slot to another.
    evicted: BTreeSet<RequestId>,
}

impl Sidecar {
    /// Whether the slot is still the one's that this dials for.
    fn carries(&self, id: RequestId, slot: u32) -> bool {
        let mut carried = self.slots.carried();
        carried.any(|(carried, at, _)| (carried, at) == (id, slot))
    }

    fn close(&mut self, id: RequestId) {
        for tunnels in self.tunnels.values_mut() {
            tunnels.remove(&id);
        }
    }
}

/// The tickets that one process has issued, and those that have opened a tunnel.
struct Desk {
    tickets: Table,
    used: BTreeSet<[u8; 16]>,
}

#[derive(Default)]
struct State {
    sidecars: BTreeMap<WorkerId, Sidecar>,
    desks: BTreeMap<Process, Desk>,
    /// The process of each node that runs.
    running: BTreeMap<NodeId, Process>,
    /// Sessions that have, or had, a tunnel.
    up: BTreeSet<RequestId>,
    /// The ends that each process was told of, by the incarnation of the group that told it.
    told: BTreeSet<(Process, RequestId, u64)>,
}

impl State {
    /// The tickets of a process in this boot.
    fn desk(&mut self, by: Process, at: NodeBoot) -> &mut Desk {
        let desk = self.desks.entry(by).or_insert_with(|| Desk {
            tickets: Table::new(at),
            used: BTreeSet::new(),
        });
        desk.tickets.rise(at);
        desk
    }
}

/// One tunnel that a node asks for.
#[derive(Clone, Copy)]
struct Wanted {
    id: RequestId,
    binding: Binding,
    generation: u64,
    ticket: Ticket,
    by: Process,
}

/// All sidecars of a run. Clones share them.
#[derive(Clone)]
pub(super) struct Sidecars {
    world: Arc<World>,
    random: Arc<Random>,
    state: Arc<Mutex<State>>,
}

impl Sidecars {
    pub(super) fn new(world: Arc<World>) -> Sidecars {
        Sidecars {
            random: Arc::new(world.random.fork()),
            world,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker is gone, and its sidecar with it.
    pub(super) fn gone(&self, worker: WorkerId) {
        self.state().sidecars.remove(&worker);
    }

    /// A worker's sidecar begins.
    pub(super) fn begin(&self, worker: WorkerId, blocked: bool) {
        let mut state = self.state();
        state.sidecars.entry(worker).or_default().blocked = blocked;
    }

    /// What all sidecars dial arrives from now on.
    pub(super) fn unblock(&self) {
        let mut state = self.state();
        let all = state.sidecars.values_mut();
        all.for_each(|sidecar| sidecar.blocked = false);
    }

    /// A node's process begins: what is dialed to the node arrives at this one.
    pub(super) fn runs(&self, by: Process, at: NodeBoot) {
        let mut state = self.state();
        state.running.insert(by.0, by);
        state.desk(by, at);
    }

    /// A node's process is gone.
    pub(super) fn died(&self, node: NodeId) {
        self.state().running.remove(&node);
    }

    /// Whether a tunnel of a session has come up.
    pub(super) fn is_up(&self, id: RequestId) -> bool {
        self.state().up.contains(&id)
    }

    /// How long a message takes: mostly a little, at times so long that others overtake it.
    async fn travel(&self) {
        let most = match self.random.chance(150) {
            true => Duration::from_secs(5),
            false => Duration::from_millis(60),
        };
        tokio::time::sleep(self.random.between(Duration::from_micros(200), most)).await;
    }

    /// An entry node wants a tunnel to where a session is bound.
    pub(super) fn want(
        &self,
        life: &Life,
        at: NodeBoot,
        generation: u64,
        id: RequestId,
        binding: Binding,
    ) {
        let by = (at.node, life.number);
        let now = self.world.age();
        let ticket = {
            let mut state = self.state();
            let desk = state.desk(by, at);
            desk.tickets
                .mint(now, self.random.bytes(), id, binding.worker)
        };
        let Some(ticket) = ticket else { return };
        let wanted = Wanted {
            id,
            binding,
            generation,
            ticket,
            by,
        };
        for _ in 0..1 + usize::from(self.random.chance(200)) {
            if self.random.chance(50) {
                continue;
            }
            let sidecars = self.clone();
            spawn(async move { sidecars.open(wanted).await });
        }
    }

    /// An `OpenTunnel` on its way, and the CONNECT that answers it.
    async fn open(self, wanted: Wanted) {
        self.travel().await;
        if !self.may_dial(&wanted) {
            return;
        }
        for _ in 0..1 + usize::from(self.random.chance(100)) {
            self.travel().await;
            self.connect(&wanted);
        }
        if self.random.chance(200) {
            // Whoever has seen it on its way shows it again, to whichever process is there then.
            let later = Duration::from_secs(1 + self.random.below(8) as u64);
            tokio::time::sleep(later).await;
            self.connect(&wanted);
        }
    }

    /// What the sidecar says to an `OpenTunnel`; what it evicts is closed before it dials.
    fn may_dial(&self, wanted: &Wanted) -> bool {
        let mut state = self.state();
        let Some(sidecar) = state.sidecars.get_mut(&wanted.binding.worker) else {
            return false;
        };
        let fence = Fence {
            generation: wanted.generation,
            index: wanted.binding.index,
        };
        match sidecar.slots.open(wanted.id, wanted.binding.slot, fence) {
            Answer::Dial { evicted } => {
                if let Some(evicted) = evicted {
                    self.world.count("slots evicted");
                    sidecar.close(evicted);
                    sidecar.evicted.insert(evicted);
                }
                !sidecar.blocked
            }
            Answer::Refuse(_) => {
                self.world.count("tunnels refused");
                if sidecar.evicted.contains(&wanted.id) {
                    self.world.count("H-4");
                }
                self.world.bug == Some(Bug::SlotUnfenced)
            }
        }
    }

    /// A CONNECT arrives at the entry node, in whichever life of it runs now.
    fn connect(&self, wanted: &Wanted) {
        let now = self.world.age();
        let bug = self.world.bug;
        let mut state = self.state();
        let state = &mut *state;
        let Some(by) = state.running.get(&wanted.by.0).copied() else {
            return;
        };
        let issued = state.desks.get(&wanted.by);
        if by != wanted.by && issued.is_some_and(|desk| desk.used.contains(&wanted.ticket.nonce)) {
            self.world.count("H-25");
        }
        let desk = state.desks.get_mut(&by);
        let sidecar = state.sidecars.get_mut(&wanted.binding.worker);
        let (Some(desk), Some(sidecar)) = (desk, sidecar) else {
            return;
        };
        let slot = wanted.binding.slot;
        if !sidecar.carries(wanted.id, slot) && bug != Some(Bug::SlotUnfenced) {
            // What it was dialing was closed when a newer binding came.
            return;
        }
        sidecar.slots.offer(wanted.id, slot);
        let presented = Presented {
            ticket: wanted.ticket,
            id: wanted.id,
            worker: Some(wanted.binding.worker),
        };
        match desk.tickets.present(now, &presented).verdict {
            Ok(()) => {}
            Err(Refusal::Used) => {
                self.world.count("tickets shown again");
                if bug != Some(Bug::TicketTwice) {
                    sidecar.slots.retract(wanted.id, slot);
                    return;
                }
            }
            Err(_) => {
                sidecar.slots.retract(wanted.id, slot);
                return;
            }
        }
        self.world.count("tunnels opened");
        if by != wanted.by {
            let what = format_args!("{by:?} took a ticket of {:?}", wanted.by);
            self.world.fail("ticket-once", what);
        }
        state.up.insert(wanted.id);
        if !desk.used.insert(wanted.ticket.nonce) {
            let what = format_args!("a ticket of {} opened a second tunnel", wanted.id);
            self.world.fail("ticket-once", what);
        }
        let tunnels = sidecar.tunnels.entry(slot).or_default();
        tunnels.insert(wanted.id);
        if tunnels.len() > 1 {
            let what = format_args!("slot {slot} of {} has {tunnels:?}", wanted.binding.worker);
            self.world.fail("slot-fenced", what);
        }
    }

    /// What a process does with the effects of one directory, for as long as it lives.
    pub(super) async fn act(self, by: Process, group: Group<Directory>) {
        let mut effects = group.effects();
        loop {
            match effects.recv().await {
                Ok(Effect::Ended { id, binding, .. }) => {
                    let generation = group.generation();
                    self.ended(by, id, binding, generation);
                    if self.world.bug == Some(Bug::EffectTwice) {
                        self.ended(by, id, binding, generation);
                    }
                }
                Ok(Effect::BootOver { .. }) => self.deserted(&group),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Asks sidecars about the sessions whose nodes are all gone, and gives up those of which no tunnel
    /// was ever offered (H-15).
    fn deserted(&self, group: &Group<Directory>) {
        let state = group.state();
        for session in state.sessions() {
            let (Some(binding), Some(_)) = (session.binding(), state.deserted(session)) else {
                continue;
            };
            let (id, sidecars, group) = (session.id, self.clone(), group.clone());
            spawn(async move {
                sidecars.travel().await;
                if !sidecars.forget(id, binding) {
                    return;
                }
                sidecars.travel().await;
                let reason = EndReason::NodeLost;
                let given_up = group.propose(Command::End { id, reason }, Duration::from_secs(5));
                if given_up.await.is_ok() {
                    sidecars.world.count("untold sessions given up");
                    sidecars.world.count("H-15");
                }
            });
        }
    }

    fn forget(&self, id: RequestId, binding: Binding) -> bool {
        let mut state = self.state();
        let Some(sidecar) = state.sidecars.get_mut(&binding.worker) else {
            return false;
        };
        if self.world.bug == Some(Bug::ForgetTold) {
            sidecar.slots.end(id);
        }
        sidecar.slots.forget(id, binding.slot)
    }

    fn ended(&self, by: Process, id: RequestId, binding: Option<Binding>, generation: u64) {
        self.world.count("ends acted on");
        if !self.state().told.insert((by, id, generation)) {
            let what = format_args!("{by:?} was told twice that {id} ended");
            self.world.fail("effect-once", what);
        }
        let Some(binding) = binding else { return };
        let sidecars = self.clone();
        spawn(async move {
            sidecars.travel().await;
            let mut state = sidecars.state();
            if let Some(sidecar) = state.sidecars.get_mut(&binding.worker) {
                sidecar.slots.end(id);
                sidecar.close(id);
            }
        });
    }
}
