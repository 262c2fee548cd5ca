//! A small language for scripts: worlds that say what they did, numbers instead of ids.

use crate::directory::Directory;
use crate::directory::command::{
    AttachRefusal, Binding, Command, DrainReason, Effect, EndReason, Reply,
};
use crate::machine::{Clock, Machine};
use pontoon_proto::id::{
    FunctionId, NodeBoot, NodeId, RegionId, RequestId, TenantId, VersionId, WorkerId,
};
use uuid::Uuid;

pub(super) const REGION: RegionId = RegionId(3);

pub(super) fn session(number: u64) -> RequestId {
    let mut random = [0; 16];
    random[..6].copy_from_slice(&(number >> 16).to_be_bytes()[2..]);
    random[14..].copy_from_slice(&(number as u16).to_be_bytes());
    RequestId::mint(REGION, random)
}

pub(super) const fn worker(number: u64) -> WorkerId {
    WorkerId(Uuid::from_u128(0x3000 + number as u128))
}

pub(super) fn version(number: u64) -> VersionId {
    VersionId(Uuid::from_u128(0x2000 + u128::from(number)))
}

pub(super) fn tenant(number: u64) -> TenantId {
    TenantId(Uuid::from_u128(0x1000 + u128::from(number)))
}

pub(super) fn at(node: u32, boot: u64) -> NodeBoot {
    NodeBoot {
        node: NodeId(node),
        boot,
    }
}

/// What an `Open` of a script says where it says nothing else.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    pub(super) version: u64,
    pub(super) tenant: u64,
    pub(super) at: NodeBoot,
    pub(super) asked: Option<Clock>,
    pub(super) wait_ms: u64,
    pub(super) window_ms: u64,
    pub(super) absorbed: bool,
    pub(super) window_asked: bool,
}

impl Default for Ask {
    fn default() -> Ask {
        Ask {
            version: 1,
            tenant: 1,
            at: at(1, 1),
            asked: None,
            wait_ms: 30_000,
            window_ms: 30_000,
            absorbed: false,
            window_asked: false,
        }
    }
}

/// One replica, its log index, and the effects of the last command. Every command is followed by
/// a check of all invariants, unless the world is told to be quick.
pub(super) struct World {
    pub(super) state: Directory,
    pub(super) index: u64,
    pub(super) effects: Vec<Effect>,
    pub(super) quick: bool,
}

impl World {
    pub(super) fn new() -> World {
        World {
            state: Directory::new(REGION),
            index: 0,
            effects: Vec::new(),
            quick: false,
        }
    }

    /// A world with one worker of version 1, attached at node 1 in boot 1.
    pub(super) fn with_worker(slots: u32) -> World {
        let mut world = World::new();
        assert_eq!(world.attach(1, slots, at(1, 1), 1), Reply::Attached);
        world
    }

    pub(super) fn apply(&mut self, command: Command) -> Reply {
        self.apply_at(self.state.clock(), command)
    }

    pub(super) fn apply_at(&mut self, now: Clock, command: Command) -> Reply {
        self.index += 1;
        self.effects.clear();
        let told = format!("{command:?}");
        let reply = self
            .state
            .apply(self.index, now, command, &mut self.effects);
        if !self.quick
            && let Err(broken) = self.state.check()
        {
            panic!("after {told}: {broken}");
        }
        reply
    }

    /// Lets time pass as a leader does: at most 2 s per entry, and no tick before something is due.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = Clock(self.state.clock().0 + ms);
        while self.state.clock() < end {
            let step = Clock((self.state.clock().0 + 2_000).min(end.0));
            self.apply_at(step, Command::Tick);
        }
        self.settle();
    }

    /// Ticks until nothing more is due at this clock. Returns how many it took.
    pub(super) fn settle(&mut self) -> u32 {
        let mut ticks = 0;
        while self
            .state
            .next_due()
            .is_some_and(|due| due <= self.state.clock())
        {
            self.apply(Command::Tick);
            ticks += 1;
            assert!(ticks < 10_000, "something stays due for ever");
        }
        ticks
    }

    pub(super) fn attach(&mut self, number: u64, slots: u32, at: NodeBoot, stream: u64) -> Reply {
        self.attach_to(number, 1, slots, at, stream)
    }

    pub(super) fn attach_to(
        &mut self,
        number: u64,
        of: u64,
        slots: u32,
        at: NodeBoot,
        stream: u64,
    ) -> Reply {
        self.apply(Command::AttachWorker {
            worker: worker(number),
            name: format!("worker-{number}"),
            function: FunctionId(Uuid::from_u128(1)),
            version: version(of),
            slots,
            at,
            stream,
        })
    }

    pub(super) fn detach(&mut self, number: u64, at: NodeBoot, stream: u64) -> Reply {
        self.apply(Command::DetachWorker {
            worker: worker(number),
            at,
            stream,
        })
    }

    pub(super) fn drain(&mut self, number: u64, reason: DrainReason, on: bool) -> Reply {
        self.apply(Command::DrainWorker {
            worker: worker(number),
            reason,
            on,
        })
    }

    pub(super) fn dead(&mut self, number: u64) -> Reply {
        self.apply(Command::WorkerDead {
            worker: worker(number),
        })
    }

    pub(super) fn open(&mut self, number: u64, ask: Ask) -> Reply {
        let command = self.opening(number, ask);
        self.apply(command)
    }

    pub(super) fn opening(&self, number: u64, ask: Ask) -> Command {
        Command::Open {
            id: session(number),
            tenant: tenant(ask.tenant),
            function: FunctionId(Uuid::from_u128(1)),
            version: version(ask.version),
            at: ask.at,
            seq: 1,
            asked: ask.asked.unwrap_or(self.state.clock()),
            wait_ms: ask.wait_ms,
            window_ms: ask.window_ms,
            absorbed: ask.absorbed,
            window_asked: ask.window_asked,
        }
    }

    /// Opens a session that must be bound at once.
    pub(super) fn bind(&mut self, number: u64, at: NodeBoot) -> Binding {
        match self.open(
            number,
            Ask {
                at,
                ..Ask::default()
            },
        ) {
            Reply::Bound(binding) => binding,
            other => panic!("open {number} was answered {other:?}"),
        }
    }

    pub(super) fn enter(&mut self, number: u64, at: NodeBoot, seq: u64) -> Reply {
        self.apply(Command::Enter {
            id: session(number),
            at,
            seq,
            window_ms: None,
        })
    }

    pub(super) fn leave(&mut self, number: u64, at: NodeBoot, seq: u64, clean: bool) -> Reply {
        self.apply(Command::Leave {
            id: session(number),
            at,
            seq,
            clean,
        })
    }

    pub(super) fn end(&mut self, number: u64, reason: EndReason) -> Reply {
        self.apply(Command::End {
            id: session(number),
            reason,
        })
    }

    pub(super) fn cancel(&mut self, number: u64) -> Reply {
        self.apply(Command::CancelOpen {
            id: session(number),
        })
    }

    pub(super) fn up(&mut self, at: NodeBoot) -> Reply {
        self.apply(Command::NodeUp { at })
    }

    pub(super) fn lost(&mut self, at: NodeBoot) -> Reply {
        self.apply(Command::NodeLost { at })
    }

    /// Where a live session is: `queued`, `bound worker/slot`, `held worker/slot`, or how it ended.
    pub(super) fn place(&self, number: u64) -> String {
        let id = session(number);
        if let Some(reason) = self.state.ended(id) {
            return format!("ended {reason:?}");
        }
        let Some(session) = self.state.session(id) else {
            return "unknown".to_owned();
        };
        let Some(binding) = session.binding() else {
            return "queued".to_owned();
        };
        let held = if self.state.hold(session).is_some() {
            "held"
        } else {
            "bound"
        };
        let worker = binding.worker.0.as_u128() - 0x3000;
        format!("{held} {worker}/{}", binding.slot)
    }

    pub(super) fn binding(&self, number: u64) -> Option<Binding> {
        self.state
            .session(session(number))
            .and_then(|session| session.binding())
    }
}

pub(super) const REFUSED_LOST: Reply = Reply::AttachRefused(AttachRefusal::Lost);
