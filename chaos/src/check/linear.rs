//! Each session is linearizable: what its clients were told fits one order of steps in which each operation
//! happens at one moment between its begin and its end.
//!
//! The search is that of Wing and Gong (Journal of Parallel and Distributed Computing 17, 1993) with Lowe's
//! memory of what was tried (Concurrency and Computation 29, 2017). Of an operation whose outcome nobody knows,
//! each message may arrive at any moment after its begin, or never: what a process that stood still had
//! received goes on its way when it wakes.

use super::{Verdict, refuse};
use crate::history::{History, Kind, MESSAGES, Op, Outcome};
use std::collections::{BTreeMap, HashSet};

/// How many orders are tried for one session. A history without concurrency needs one per operation.
const TRIED_MAX: usize = 200_000;

/// Refusals that say that the worker never saw the call, by the begin of their text.
const UNDONE: [&str; 4] = [
    "session directory unavailable",
    "failed to establish link to worker",
    "exceeded rate limit",
    "node is draining",
];

/// A worker, by a number of this session.
type Worker = u32;

/// What happens in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The first call adds something, at most so much; its worker said what the sum is.
    Open(Worker, i64),
    /// A call adds so much; its worker said what the sum is.
    Add(i64, Worker, i64),
    /// One message that adds 1, and of which nobody was told.
    Perhaps,
    /// Somebody is told that the session is over.
    NotFound,
    /// The session ends.
    End,
}

/// An operation: when it may happen, and what does then.
#[derive(Clone, Copy, Debug)]
struct Step {
    start: u64,
    /// None: at any later moment, or never.
    end: Option<u64>,
    act: Act,
}

/// The session between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    over: bool,
    worker: Option<Worker>,
    sum: i64,
}

impl State {
    /// What it may be after the act; nothing when the act can't happen now.
    fn after(self, act: Act) -> Vec<State> {
        let fits = |worker| self.worker.is_none_or(|known| known == worker);
        let told = |worker, sum| {
            vec![State {
                worker: Some(worker),
                sum,
                ..self
            }]
        };
        match act {
            Act::End => vec![State { over: true, ..self }],
            Act::NotFound if self.over => vec![self],
            _ if self.over => Vec::new(),
            Act::Open(worker, sum)
                if self.sum == 0 && (1..=MESSAGES as i64).contains(&sum) && fits(worker) =>
            {
                told(worker, sum)
            }
            Act::Add(more, worker, sum) if self.sum + more == sum && fits(worker) => {
                told(worker, sum)
            }
            Act::Perhaps => vec![State {
                sum: self.sum + 1,
                ..self
            }],
            Act::NotFound | Act::Open(..) | Act::Add(..) => Vec::new(),
        }
    }
}

/// Checks it.
pub fn linear(history: &History) -> Verdict {
    let (mut wrong, mut steps) = (Vec::new(), 0);
    for (session, ops) in history.sessions() {
        let mut session_steps = steps_of(history, &ops);
        session_steps.sort_by_key(|step| step.start);
        steps += session_steps.len();
        if let Err(why) = search(&session_steps) {
            wrong.push(format!("{session}: {why}"));
        }
    }
    refuse(&wrong)?;
    Ok(format!("{steps} steps have an order"))
}

/// The operations of one session, and its end by itself where something allows one.
fn steps_of(history: &History, ops: &[&Op]) -> Vec<Step> {
    let mut workers = BTreeMap::new();
    let mut steps: Vec<Step> = Vec::with_capacity(ops.len() + 2);
    let mut number = |name: &str| {
        let next = workers.len() as Worker;
        *workers.entry(name.to_owned()).or_insert(next)
    };
    for op in ops {
        let adds = op.kind.adds();
        let known = match &op.outcome {
            _ if op.not_found() => Some(Act::NotFound),
            Outcome::Ok { .. } if op.kind == Kind::Release => Some(Act::End),
            Outcome::Ok { worker, sum } if op.kind == Kind::Open => {
                Some(Act::Open(number(worker), *sum))
            }
            Outcome::Ok { worker, sum } => Some(Act::Add(adds, number(worker), *sum)),
            Outcome::Failed { text, .. } if UNDONE.iter().any(|u| text.starts_with(u)) => continue,
            Outcome::Failed { .. } | Outcome::Unknown { .. } => None,
        };
        let (act, times) = match (known, op.kind) {
            (Some(known), _) => (known, 1),
            (None, Kind::Release) => (Act::End, 1),
            (None, _) => (Act::Perhaps, adds),
        };
        let step = Step {
            start: op.start,
            end: known.map(|_| op.end),
            act,
        };
        steps.extend((0..times).map(|_| step));
    }
    let heard = ops.iter().filter(|op| op.ok()).map(|op| op.end).max();
    let expires = heard.map(|heard| heard + history.window);
    let lost = history.lost.iter();
    let lost = lost.filter(|lost| workers.contains_key(&lost.worker));
    let ends = lost.map(|lost| lost.from).chain(expires);
    steps.extend(ends.map(|start| Step {
        start,
        end: None,
        act: Act::End,
    }));
    steps
}

/// Looks for an order; `steps` are sorted by their begins.
fn search(steps: &[Step]) -> Result<(), String> {
    let done = vec![0u64; steps.len().div_ceil(64)];
    let mut tried = HashSet::new();
    let mut open = vec![(done, State::default())];
    let mut furthest = 0;
    while let Some((done, state)) = open.pop() {
        let is_done = |at: usize| done[at / 64] & (1 << (at % 64)) != 0;
        let missing = steps.iter().enumerate().filter(|(at, _)| !is_done(*at));
        // Whatever happens next begins before anything that has not happened has ended.
        let Some(bound) = missing.clone().filter_map(|(_, step)| step.end).min() else {
            return Ok(());
        };
        furthest = furthest.max(bound);
        let mut unknown = Vec::new();
        let mut next = Vec::new();
        for (at, step) in missing.take_while(|(_, step)| step.start <= bound) {
            if step.end.is_none() {
                // Of several that are the same to the state, the first to begin is as good as any.
                if unknown.contains(&step.act) {
                    continue;
                }
                unknown.push(step.act);
            }
            for state in state.after(step.act) {
                let mut done = done.clone();
                done[at / 64] |= 1 << (at % 64);
                next.push((step.end.is_some(), (done, state)));
            }
        }
        // What surely happened is tried first: the last one pushed is the next one taken.
        next.sort_by_key(|(sure, _)| *sure);
        for (_, next) in next {
            if tried.insert(next.clone()) {
                open.push(next);
            }
        }
        if tried.len() > TRIED_MAX {
            return Err(format!("more than {TRIED_MAX} orders: not decided"));
        }
    }
    Err(format!("nothing fits before {furthest} us"))
}

#[cfg(test)]
mod tests {
    use super::super::example::{failed, history, ok, op};
    use super::*;
    use crate::history::Lost;
    use proptest::prelude::*;
    use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};

    fn unknown() -> Outcome {
        Outcome::Unknown {
            why: "it broke".to_owned(),
        }
    }

    #[test]
    fn an_order_is_found_for_what_is_right_and_none_for_what_is_not() {
        let open = op("s", Kind::Open, 0, ok("w/1", 1));
        let call = |start, sum| op("s", Kind::Call, start, ok("w/1", sum));
        let broken = op("s", Kind::Call, 100, unknown());
        let stream = op("s", Kind::Stream, 100, unknown());
        let refused = op("s", Kind::Call, 100, failed(14));
        let good = [
            vec![open.clone(), call(100, 2), call(200, 3)],
            // An unknown one may have happened, later too, or not.
            vec![open.clone(), broken.clone(), call(200, 3)],
            vec![open.clone(), broken.clone(), call(200, 2), call(300, 4)],
            vec![open.clone(), broken.clone(), call(200, 2), call(300, 3)],
            // Its messages need not arrive together.
            vec![open.clone(), stream.clone(), call(200, 4), call(300, 7)],
            // What overlaps has no order of its own.
            vec![open.clone(), call(100, 3), call(105, 2)],
        ];
        for ops in good {
            let verdict = linear(&history(ops.clone()));
            assert!(verdict.is_ok(), "{verdict:?}: {ops:?}");
        }
        let mut undone = refused;
        undone.outcome = Outcome::Failed {
            code: 14,
            text: "session directory unavailable: no quorum".to_owned(),
        };
        let bad = [
            vec![open.clone(), call(100, 3)],
            vec![open.clone(), call(100, 3), call(200, 2)],
            vec![open.clone(), broken, call(200, 4)],
            vec![open.clone(), stream, call(200, 4), call(300, 9)],
            vec![open.clone(), undone, call(200, 3)],
            vec![open.clone(), op("s", Kind::Call, 100, ok("w/2", 2))],
            vec![open, op("s", Kind::Call, 100, failed(5)), call(200, 2)],
        ];
        for ops in bad {
            assert!(linear(&history(ops.clone())).is_err(), "{ops:?}");
        }
    }

    #[test]
    fn an_end_needs_a_cause_and_lasts() {
        let open = op("s", Kind::Open, 0, ok("w/1", 1));
        let gone = op("s", Kind::Resume, 500, failed(5));
        let mut history = history(vec![open.clone(), gone.clone()]);
        assert!(linear(&history).is_err());
        history.lost = vec![Lost {
            worker: "w/1".to_owned(),
            from: 505,
        }];
        assert!(linear(&history).is_ok(), "within the operation");
        history.lost[0].from = 511;
        assert!(linear(&history).is_err(), "after it");
        history.window = 400;
        assert!(linear(&history).is_ok(), "the window was over");
        let release = op("s", Kind::Release, 600, unknown());
        let alive = op("s", Kind::Resume, 700, ok("w/1", 2));
        history.ops = vec![open.clone(), release.clone(), alive.clone()];
        assert!(linear(&history).is_ok(), "the release may never have come");
        let gone = op("s", Kind::Resume, 650, failed(5));
        history.ops = vec![open, release, gone, alive];
        assert!(linear(&history).is_err(), "it was over");
    }

    /// A session as stateright wants to have it; unknown operations are calls without a return.
    #[derive(Clone)]
    struct Spec(State);

    #[derive(Clone, Debug, PartialEq)]
    enum Ret {
        Sum(Worker, i64),
        NotFound,
        Ended,
    }

    impl SequentialSpec for Spec {
        type Op = Kind;
        type Ret = Ret;

        fn invoke(&mut self, kind: &Kind) -> Ret {
            match (kind, self.0.over) {
                (Kind::Release, _) => {
                    self.0.over = true;
                    Ret::Ended
                }
                (_, true) => Ret::NotFound,
                (_, false) => {
                    self.0.sum += 1;
                    Ret::Sum(0, self.0.sum)
                }
            }
        }
    }

    /// A small history: (kind, begin, length, sum or what else was said).
    fn small() -> impl Strategy<Value = Vec<(Kind, u64, u64, i64)>> {
        let kind = prop_oneof![4 => Just(Kind::Call), 1 => Just(Kind::Release)];
        proptest::collection::vec((kind, 0u64..12, 1u64..6, -1i64..5), 1..7)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        /// -1 is an operation of unknown outcome, 0 is NOT_FOUND, all else a sum.
        #[test]
        fn small_histories_are_judged_as_stateright_judges_them(ops in small()) {
            let mut steps = Vec::new();
            // (moment, 0 for a return and 1 for a call, thread): what ends at a moment ends before what begins.
            let mut events = Vec::new();
            for (thread, (kind, start, length, said)) in ops.iter().enumerate() {
                let (start, end) = (start * 2, (start + length) * 2);
                let known = match (kind, said) {
                    (_, -1) => None,
                    (Kind::Release, _) => Some((Act::End, Ret::Ended)),
                    (_, 0) => Some((Act::NotFound, Ret::NotFound)),
                    (_, sum) => Some((Act::Add(1, 0, *sum), Ret::Sum(0, *sum))),
                };
                let unknown = if *kind == Kind::Release { Act::End } else { Act::Perhaps };
                let act = known.as_ref().map_or(unknown, |(act, _)| *act);
                steps.push(Step { start: start + 1, end: known.as_ref().map(|_| end), act });
                events.push((start + 1, 1, thread, None));
                if let Some((_, ret)) = known {
                    events.push((end, 0, thread, Some(ret)));
                }
            }
            events.sort_by_key(|event| (event.0, event.1, event.2));
            steps.sort_by_key(|step| step.start);
            let mut tester = LinearizabilityTester::new(Spec(State::default()));
            for (_, _, thread, ret) in events {
                match ret {
                    None => { tester.on_invoke(thread, ops[thread].0).unwrap(); }
                    Some(ret) => { tester.on_return(thread, ret).unwrap(); }
                }
            }
            prop_assert_eq!(search(&steps).is_ok(), tester.is_consistent());
        }
    }
}
