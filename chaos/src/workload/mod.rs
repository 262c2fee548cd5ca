//! Clients: each opens sessions, calls, streams, resumes anywhere and releases, and writes down what came
//! of it.
//!
//! The demo function adds what it is sent to a sum per session, so that a wrong or a fresh worker is
//! noticed: its name differs, or its sum is too small.

mod line;

use crate::cluster::world::{Function, World};
use crate::history::{Kind, MESSAGES, Op, Outcome, Recorder};
use crate::scenario::{Mode, Workload};
use crate::seed::Seed;
use line::{Line, Said};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between two attempts to come back to a session.
const AGAIN: Duration = Duration::from_millis(200);

/// Time for some attempts of 15 s each, after a cluster has had its minute to be well again.
const FINISH_WITHIN: Duration = Duration::from_secs(60);

/// What every client knows.
#[derive(Debug)]
struct Ground {
    workload: Workload,
    function: Function,
    nodes: Vec<Place>,
    /// The farthest node from each.
    farthest: Vec<usize>,
    regions: usize,
    record: Recorder,
    left: AtomicU64,
}

#[derive(Debug)]
struct Place {
    name: String,
    region: usize,
    /// Its ports for clients of each region.
    ports: Vec<u16>,
}

/// The clients, at work.
#[derive(Debug)]
pub struct Clients {
    stop: watch::Sender<bool>,
    running: JoinSet<()>,
}

impl Clients {
    /// Starts them.
    pub fn start(world: &World, workload: &Workload, seed: &Seed, record: &Recorder) -> Self {
        let nodes: Vec<Place> = world
            .nodes
            .iter()
            .map(|node| Place {
                name: node.name.clone(),
                region: node.region,
                ports: node.clients.clone(),
            })
            .collect();
        let links = world.emulator.links();
        let site = crate::link::Site::Node;
        let farthest = (0..nodes.len()).map(|from| {
            let others = 0..nodes.len();
            let far = others.max_by_key(|to| links.of(site(from), site(*to)).delay_ms);
            far.unwrap_or(from)
        });
        let ground = Arc::new(Ground {
            workload: workload.clone(),
            function: world.function.clone(),
            farthest: farthest.collect(),
            nodes,
            regions: world.regions.len(),
            record: record.clone(),
            left: AtomicU64::new(workload.count),
        });
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        for number in 0..workload.clients {
            let client = Client {
                number,
                ground: Arc::clone(&ground),
                seed: seed.fork(1 + number as u64),
                stopped: stopped.clone(),
            };
            running.spawn(client.run());
        }
        Self { stop, running }
    }

    /// Waits until a race is over.
    pub async fn ended(&mut self) {
        while self.running.join_next().await.is_some() {}
    }

    /// Tells them to come to an end: each resumes what it still has once more, and releases it. Those who
    /// get no answer any more are left alone after a while: the cluster is not well again.
    pub async fn finish(mut self) {
        self.stop.send_replace(true);
        tokio::time::timeout(FINISH_WITHIN, self.ended()).await.ok();
    }
}

struct Client {
    number: usize,
    ground: Arc<Ground>,
    seed: Seed,
    stopped: watch::Receiver<bool>,
}

/// A session that its client knows of.
struct Session {
    id: String,
    line: Option<Line>,
    /// The session was opened on this line, so that calls on it need no id (C-PIN).
    pinned: bool,
    node: usize,
    acknowledged: i64,
    asked: i64,
}

/// Whether a session goes on.
#[derive(PartialEq, Eq)]
enum Next {
    On,
    Over,
}

impl Client {
    async fn run(mut self) {
        match self.ground.workload.mode {
            Mode::Race => self.race().await,
            Mode::Churn | Mode::Hold => {
                while !*self.stopped.borrow() {
                    let Some(mut session) = self.open().await else {
                        self.pause(AGAIN).await;
                        continue;
                    };
                    if self.live(&mut session).await == Next::On {
                        self.leave(session).await;
                    }
                }
            }
        }
    }

    /// Waits; less when it is told to stop.
    async fn pause(&mut self, pause: Duration) {
        let stopped = self.stopped.wait_for(|stopped| *stopped);
        tokio::time::timeout(pause, stopped).await.ok();
    }

    fn any_node(&mut self) -> usize {
        self.seed.below(self.ground.nodes.len())
    }

    fn entry(&mut self) -> usize {
        let entry = self.ground.workload.entry.clone();
        let named = entry.and_then(|name| self.ground.nodes.iter().position(|n| n.name == name));
        named.unwrap_or_else(|| self.any_node())
    }

    /// A connection to a node, from its own region, or from one that is drawn.
    async fn dial(&mut self, node: usize) -> Result<Line, Outcome> {
        let ground = Arc::clone(&self.ground);
        let place = &ground.nodes[node];
        let from = match self.seed.below(2) {
            0 => place.region,
            _ => self.seed.below(ground.regions),
        };
        Line::dial(place.ports[from], &ground.function).await
    }

    fn add(
        &self,
        kind: Kind,
        node: usize,
        start: u64,
        session: &str,
        sums: (i64, i64),
        o: Outcome,
    ) {
        self.ground.record.add(Op {
            client: self.number,
            session: session.to_owned(),
            kind,
            node: self.ground.nodes[node].name.clone(),
            start,
            end: self.ground.record.now(),
            least: sums.0,
            most: sums.1,
            outcome: o,
        });
    }

    async fn open(&mut self) -> Option<Session> {
        let node = self.entry();
        let start = self.ground.record.now();
        let (line, said) = match self.dial(node).await {
            Ok(mut line) => {
                let said = line.call(None).await;
                (Some(line), said)
            }
            Err(outcome) => (None, (None, outcome)),
        };
        let (id, outcome) = said;
        let opened = matches!(outcome, Outcome::Ok { .. });
        let name = id.clone().unwrap_or_default();
        self.add(Kind::Open, node, start, &name, (1, 1), outcome);
        let session = Session {
            id: id?,
            line,
            pinned: true,
            node,
            acknowledged: 1,
            asked: 1,
        };
        opened.then_some(session)
    }

    /// Operations on a session, until it is to be left or is over.
    async fn live(&mut self, session: &mut Session) -> Next {
        let workload = self.ground.workload.clone();
        let mut calls = match workload.mode {
            Mode::Churn => 1 + self.seed.below(workload.calls_max),
            _ => usize::MAX,
        };
        while calls > 0 && !*self.stopped.borrow() {
            calls -= 1;
            self.pause(Duration::from_millis(workload.pause_ms)).await;
            let chance = self.seed.fraction();
            let kind = match chance {
                chance if chance < workload.streams => Kind::Stream,
                chance if chance < workload.streams + workload.resumes => Kind::Resume,
                _ => Kind::Call,
            };
            if self.once(session, kind).await == Next::Over {
                return Next::Over;
            }
        }
        Next::On
    }

    /// One operation; when it fails, the session is resumed until it answers again or is not found.
    async fn once(&mut self, session: &mut Session, kind: Kind) -> Next {
        let mut kind = kind;
        // The window has passed long before this many attempts: the checkers judge what came of it.
        for _ in 0..600 {
            match self.attempt(session, kind).await {
                Outcome::Ok { .. } => return Next::On,
                Outcome::Failed { code, .. } if code == crate::history::NOT_FOUND => {
                    return Next::Over;
                }
                Outcome::Failed { .. } | Outcome::Unknown { .. } => {
                    session.line = None;
                    kind = Kind::Resume;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        Next::Over
    }

    async fn attempt(&mut self, session: &mut Session, kind: Kind) -> Outcome {
        let start = self.ground.record.now();
        let kind = match session.line {
            None => Kind::Resume,
            Some(_) => kind,
        };
        let more = kind.adds();
        session.asked += more;
        let sums = (session.acknowledged + more, session.asked);
        let pause = Duration::from_millis(self.ground.workload.pause_ms);
        let named = kind == Kind::Resume || !session.pinned;
        let said: Said = if kind == Kind::Resume {
            session.node = self.any_node();
            session.line = None;
            session.pinned = false;
            match self.dial(session.node).await {
                Ok(mut line) => {
                    let said = line.call(Some(&session.id)).await;
                    session.line = Some(line);
                    said
                }
                Err(outcome) => (None, outcome),
            }
        } else {
            let id = (!session.pinned).then_some(&*session.id);
            match &mut session.line {
                Some(line) if kind == Kind::Stream => {
                    line.stream(id, MESSAGES, pause.min(AGAIN)).await
                }
                Some(line) => line.call(id).await,
                None => (None, line::unknown("no connection")),
            }
        };
        let (id, outcome) = said;
        let ours = id.as_ref().is_none_or(|id| *id == session.id);
        if let Outcome::Ok { sum, .. } = &outcome
            && ours
        {
            session.acknowledged = (*sum).max(sums.0);
        }
        match id {
            Some(other) if other != session.id => {
                self.other(session, other, (kind, start), outcome, named)
            }
            _ => {
                self.add(
                    kind,
                    session.node,
                    start,
                    &session.id,
                    sums,
                    outcome.clone(),
                );
                outcome
            }
        }
    }

    /// An answer in another session. A call without an id opens one when that of its connection has
    /// ended (C-PIN-3), which says as much as NOT_FOUND does: the checkers want a reason. With an id it is
    /// an answer of the wrong session, and is written down as one of that which was asked for.
    fn other(
        &self,
        session: &mut Session,
        other: String,
        (kind, start): (Kind, u64),
        outcome: Outcome,
        named: bool,
    ) -> Outcome {
        if named {
            let wrong = Outcome::Ok {
                worker: format!("that of {other}"),
                sum: -1,
            };
            self.add(
                kind,
                session.node,
                start,
                &session.id,
                (0, 0),
                wrong.clone(),
            );
            return wrong;
        }
        let over = Outcome::Failed {
            code: crate::history::NOT_FOUND,
            text: format!("the connection's next call opened {other}"),
        };
        self.add(kind, session.node, start, &session.id, (0, 0), over);
        let sums = (1, session.asked);
        self.add(
            Kind::Open,
            session.node,
            start,
            &other,
            sums,
            outcome.clone(),
        );
        session.id = other;
        if let Outcome::Ok { sum, .. } = outcome {
            (session.acknowledged, session.asked) = (sum, sum);
        }
        outcome
    }

    /// Resumes a session once more, anywhere, and ends it.
    async fn leave(&mut self, mut session: Session) {
        if self.once(&mut session, Kind::Resume).await == Next::Over {
            return;
        }
        self.release(session).await;
    }

    async fn release(&mut self, mut session: Session) {
        for _ in 0..60 {
            let start = self.ground.record.now();
            let outcome = match session.line.as_mut() {
                Some(line) => line.release(&session.id).await,
                None => match self.dial(session.node).await {
                    Ok(mut line) => line.release(&session.id).await,
                    Err(outcome) => outcome,
                },
            };
            let done = match &outcome {
                Outcome::Ok { .. } => true,
                // An earlier attempt did it.
                Outcome::Failed { code, .. } => *code == crate::history::NOT_FOUND,
                Outcome::Unknown { .. } => false,
            };
            let sums = (0, 0);
            self.add(
                Kind::Release,
                session.node,
                start,
                &session.id,
                sums,
                outcome,
            );
            if done {
                return;
            }
            session.line = None;
            session.node = self.any_node();
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Opens, and resumes at the farthest node as soon as the head of the answer is there.
    async fn race(&mut self) {
        let left = Arc::clone(&self.ground);
        let take = |left: u64| left.checked_sub(1);
        while left
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
        {
            let near = self.entry();
            let far = self.ground.farthest[near];
            let (Ok(mut line), Ok(mut other)) = (self.near(near).await, self.near(far).await)
            else {
                continue;
            };
            let start = self.ground.record.now();
            let begun = match line.begin(None).await {
                Ok(begun) => begun,
                Err(outcome) => {
                    self.add(Kind::Open, near, start, "", (1, 1), outcome);
                    continue;
                }
            };
            let Some(id) = begun.session.clone() else {
                let (_, outcome) = begun.finish().await;
                self.add(Kind::Open, near, start, "", (1, 1), outcome);
                continue;
            };
            let resumed = async {
                let start = self.ground.record.now();
                let (_, outcome) = other.call(Some(&id)).await;
                self.add(Kind::Resume, far, start, &id, (2, 2), outcome.clone());
                outcome
            };
            let opened = async {
                let (_, outcome) = begun.finish().await;
                self.add(Kind::Open, near, start, &id, (1, 1), outcome.clone());
                outcome
            };
            tokio::join!(resumed, opened);
            let session = Session {
                id,
                line: Some(other),
                pinned: false,
                node: far,
                acknowledged: 2,
                asked: 2,
            };
            self.release(session).await;
        }
    }

    /// A connection from the node's own region.
    async fn near(&self, node: usize) -> Result<Line, Outcome> {
        let place = &self.ground.nodes[node];
        Line::dial(place.ports[place.region], &self.ground.function).await
    }
}
