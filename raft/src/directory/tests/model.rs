//! Random lives of a directory: against the oracle, and of two replicas against each other.

use super::oracle::{Oracle, clock};
use super::script::{World, at, session, tenant, version, worker};
use crate::directory::Directory;
use crate::directory::command::{Binding, Command, DrainReason, EndReason, Reply};
use crate::machine::{Clock, Machine, reborn};
use pontoon_proto::id::{FunctionId, NodeBoot};
use proptest::prelude::*;
use uuid::Uuid;

const SESSIONS: u64 = 14;
const WORKERS: u64 = 5;
const NODES: u32 = 3;

fn boots() -> impl Strategy<Value = NodeBoot> {
    // Mostly the first lives, so that later ones don't end everything at once.
    let boot = prop_oneof![12 => 1u64..2, 3 => 2u64..4, 1 => 4u64..7];
    (1..=NODES, boot).prop_map(|(node, boot)| at(node, boot))
}

fn reasons() -> impl Strategy<Value = EndReason> {
    prop_oneof![
        3 => Just(EndReason::Released),
        3 => Just(EndReason::NoLink),
        1 => Just(EndReason::Operator),
    ]
}

fn drains() -> impl Strategy<Value = DrainReason> {
    prop_oneof![
        Just(DrainReason::Health),
        Just(DrainReason::Operator),
        Just(DrainReason::NoLink)
    ]
}

/// The command as it is said at this clock: `asked` was drawn as an age.
fn spoken(mut command: Command, now: Clock) -> Command {
    if let Command::Open { asked, .. } = &mut command {
        *asked = Clock(now.0.saturating_sub(asked.0));
    }
    command
}

fn opens() -> impl Strategy<Value = (u64, u64, u64, NodeBoot, u64, u64, u64, bool, bool)> {
    let wait = prop_oneof![1 => Just(0u64), 4 => Just(4_000u64), 4 => Just(30_000u64)];
    let window = prop_oneof![1 => Just(0u64), 3 => Just(8_000u64), 3 => Just(30_000u64)];
    let age = prop_oneof![8 => Just(0u64), 1 => Just(59_999u64), 1 => Just(60_000u64)];
    let rare = || proptest::bool::weighted(0.2);
    (
        0..SESSIONS,
        1..=2u64,
        1..=3u64,
        boots(),
        wait,
        window,
        age,
        rare(),
        rare(),
    )
}

fn commands() -> impl Strategy<Value = Command> {
    let ids = || (0..SESSIONS).prop_map(session);
    let open = opens().prop_map(
        |(id, of, who, at, wait_ms, window_ms, age, absorbed, window_asked)| Command::Open {
            id: session(id),
            tenant: tenant(who),
            function: FunctionId(Uuid::from_u128(1)),
            version: version(of),
            at,
            seq: 1,
            asked: Clock(age),
            wait_ms,
            window_ms,
            absorbed,
            window_asked,
        },
    );
    let attach =
        (1..=WORKERS, boots(), 1..6u64).prop_map(|(number, at, stream)| Command::AttachWorker {
            worker: worker(number),
            name: String::new(),
            function: FunctionId(Uuid::from_u128(1)),
            version: version(1 + number % 2),
            slots: 1 + (number % 3) as u32,
            at,
            stream,
        });
    let detach =
        (1..=WORKERS, boots(), 1..6u64).prop_map(|(number, at, stream)| Command::DetachWorker {
            worker: worker(number),
            at,
            stream,
        });
    let drain = (1..=WORKERS, drains(), any::<bool>()).prop_map(|(number, reason, on)| {
        Command::DrainWorker {
            worker: worker(number),
            reason,
            on,
        }
    });
    let window = proptest::option::weighted(0.1, 0..20_000u64);
    let enter =
        (ids(), boots(), 1..9u64, window).prop_map(|(id, at, seq, window_ms)| Command::Enter {
            id,
            at,
            seq,
            window_ms,
        });
    let leave = (ids(), boots(), 1..9u64, any::<bool>())
        .prop_map(|(id, at, seq, clean)| Command::Leave { id, at, seq, clean });
    prop_oneof![
        14 => open,
        8 => attach,
        2 => detach,
        2 => drain,
        1 => (1..=WORKERS).prop_map(|number| Command::WorkerDead { worker: worker(number) }),
        1 => (1..=WORKERS).prop_map(|number| Command::LinkUp { worker: worker(number) }),
        1 => ids().prop_map(|id| Command::CancelOpen { id }),
        5 => enter,
        8 => leave,
        3 => (ids(), reasons()).prop_map(|(id, reason)| Command::End { id, reason }),
        1 => boots().prop_map(|at| Command::NodeUp { at }),
        1 => boots().prop_map(|at| Command::NodeLost { at }),
        6 => Just(Command::Tick),
    ]
}

/// Commands, each with how much later it is said.
fn lives() -> impl Strategy<Value = Vec<(u64, Command)>> {
    let later =
        prop_oneof![4 => Just(0u64), 4 => 0..700u64, 2 => Just(2_000u64), 1 => Just(90_000u64)];
    proptest::collection::vec((later, commands()), 1..160)
}

fn compare(state: &Directory, oracle: &Oracle) -> Result<(), TestCaseError> {
    for number in 0..SESSIONS {
        let id = session(number);
        let real = state.session(id);
        let naive = oracle.sessions.get(&id);
        prop_assert_eq!(real.is_some(), naive.is_some(), "session {}", number);
        prop_assert_eq!(
            state.ended(id),
            oracle.tombs.get(&id).map(|tomb| tomb.0),
            "{}",
            number
        );
        let (Some(real), Some(naive)) = (real, naive) else {
            continue;
        };
        let binding = real.binding().map(|binding| Binding {
            index: 0,
            ..binding
        });
        prop_assert_eq!(binding, naive.binding, "session {}", number);
        let hold = state
            .hold(real)
            .map(|hold| (hold.since, hold.until, hold.clean));
        prop_assert_eq!(hold, naive.hold.map(clock), "session {}", number);
    }
    let real: Vec<_> = state.workers().map(|worker| worker.id).collect();
    let naive: Vec<_> = oracle.workers.keys().copied().collect();
    prop_assert_eq!(real, naive);
    for number in 1..=WORKERS {
        let id = worker(number);
        prop_assert_eq!(
            state.worker_lost(id),
            oracle.lost.contains_key(&id),
            "worker {}",
            number
        );
    }
    Ok(())
}

/// A command said so much later: ticks first, where one entry may not move the clock that far.
fn steps(from: Clock, later: u64, command: Command) -> Vec<(Clock, Command)> {
    let end = Clock(from.0 + later);
    let ticks = (from.0 + 2_000..end.0)
        .step_by(2_000)
        .map(|now| (Clock(now), Command::Tick));
    ticks.chain([(end, spoken(command, end))]).collect()
}

/// The reply as the oracle gives it.
fn unindexed(reply: Reply) -> Reply {
    match reply {
        Reply::Bound(binding) => Reply::Bound(Binding {
            index: 0,
            ..binding
        }),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn any_life_is_what_the_oracle_says(life in lives()) {
        let mut world = World::new();
        let mut oracle = Oracle::default();
        for (later, command) in life {
            for (now, command) in steps(world.state.clock(), later, command) {
                let reply = world.apply_at(now, command.clone());
                let expected = oracle.apply(now.0, &command);
                prop_assert_eq!(unindexed(reply), expected, "{:?}", command);
                world.settle();
                oracle.settle();
                compare(&world.state, &oracle)?;
            }
        }
    }

    #[test]
    fn replicas_agree_hash_for_hash_also_when_one_came_by_snapshots(
        life in lives(),
        snapshots in proptest::collection::vec(0..160usize, 0..6),
    ) {
        let mut first = World::new();
        let mut second = World::new();
        for (step, (later, command)) in life.into_iter().enumerate() {
            if snapshots.contains(&step) {
                second.state = reborn(&second.state);
            }
            for (now, command) in steps(first.state.clock(), later, command) {
                let reply = first.apply_at(now, command.clone());
                prop_assert_eq!(reply, second.apply_at(now, command));
                prop_assert_eq!(&first.effects, &second.effects);
                prop_assert_eq!(first.state.digest(), second.state.digest());
                prop_assert_eq!(first.state.next_due(), second.state.next_due());
            }
        }
    }
}
