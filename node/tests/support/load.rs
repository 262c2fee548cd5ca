//! Many clients that open sessions, call and resume all the time, through any node, and remember what
//! they were promised.
//!
//! Each session counts its calls in the worker's memory: the demo function's `sum` model. A call whose
//! answer did not come may have been counted or not; everything else is exact.

use super::client::{Call, Client};
use super::cluster::Ready;
use super::wait;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many threads call.
const THREADS: usize = 6;

/// How many sessions one thread keeps, at most. All are held for 300 s, so none ends by itself.
const SESSIONS: usize = 250;

/// One turn in so many opens a session.
const OPEN_EVERY: usize = 12;

/// How long one call may take.
const CALL_SECONDS: u32 = 10;

/// How long a session may take to resume once nothing is broken any more.
const RESUMES_WITHIN: Duration = Duration::from_secs(30);

/// One acknowledged session.
#[derive(Clone, Debug)]
pub struct Promise {
    pub id: String,
    pub worker: String,
    /// The sum of the last answer.
    last: i64,
    /// Calls that were answered.
    answered: i64,
    /// Calls that nobody knows the end of.
    unknown: i64,
}

impl Promise {
    /// What an answered open promised.
    pub fn of(call: &Call) -> Promise {
        let worker = call.answer()["worker"].as_str().expect("text").to_owned();
        Promise {
            id: call.session(),
            worker,
            last: call.answer()["sum"].as_i64().expect("a number"),
            answered: 1,
            unknown: 0,
        }
    }

    /// Whether a call of the session, which adds 1, ended as it may; what is wrong, if it did not.
    pub fn judge(&mut self, call: &Call) -> Result<(), String> {
        match call.code() {
            0 => {}
            4 | 14 => {
                self.unknown += 1;
                return Ok(());
            }
            _ => return Err(format!("{self:?} got {call:?}")),
        }
        self.answered += 1;
        let sum = call.answer()["sum"].as_i64().expect("a number");
        let counted = self.answered..=self.answered + self.unknown;
        let right = call.session() == self.id
            && call.answer()["worker"] == self.worker.as_str()
            && sum > self.last
            && counted.contains(&sum);
        self.last = sum;
        match right {
            true => Ok(()),
            false => Err(format!("{self:?} got {call:?}")),
        }
    }
}

/// Keys of a call, as owned text.
type Keys = Vec<(String, String)>;

struct Shared {
    client: Client,
    keys: Keys,
    /// Client addresses by node; they change while it runs.
    entries: Mutex<BTreeMap<String, String>>,
    stop: AtomicBool,
    answered: AtomicU64,
    unknown: AtomicU64,
    /// What calls without an answer said, by node and kind, counted.
    failures: Mutex<BTreeMap<String, u64>>,
    opened: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// Clients that call until [`Load::finish`].
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<Promise>>>,
}

impl Load {
    /// Starts it; `None` where there is no Python.
    pub fn start(ready: &Ready) -> Option<Load> {
        let keys = [
            ("authorization", &ready.bearer),
            ("function-id", &ready.function_id),
            ("function-version-id", &ready.function_version_id),
        ];
        let entries = ready.nodes.iter();
        let shared = Arc::new(Shared {
            client: Client::start()?,
            keys: keys
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .to_vec(),
            entries: Mutex::new(
                entries
                    .map(|node| (node.name.clone(), node.client.clone()))
                    .collect(),
            ),
            stop: AtomicBool::default(),
            answered: AtomicU64::default(),
            unknown: AtomicU64::default(),
            failures: Mutex::default(),
            opened: AtomicU64::default(),
            wrong: Mutex::default(),
        });
        let threads = (0..THREADS).map(|number| {
            let caller = Caller::new(number, shared.clone());
            std::thread::spawn(move || caller.run())
        });
        Some(Load {
            threads: threads.collect(),
            shared,
        })
    }

    /// A node that calls may enter at from now on.
    pub fn enter_at(&self, name: &str, client: &str) {
        let mut entries = self.shared.entries.lock().expect("no panic");
        entries.insert(name.to_owned(), client.to_owned());
    }

    /// No call begins at this node any more.
    pub fn leave(&self, name: &str) {
        self.shared.entries.lock().expect("no panic").remove(name);
    }

    /// Calls that ended so far: those that were answered, and those that were not.
    pub fn calls(&self) -> (u64, u64) {
        (
            self.shared.answered.load(Ordering::Relaxed),
            self.shared.unknown.load(Ordering::Relaxed),
        )
    }

    /// What calls without an answer said until now, by node and kind, counted; begins anew.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.shared.failures.lock().expect("no panic"))
    }

    /// Waits until so many more calls were answered.
    #[track_caller]
    pub fn goes_on(&self, more: u64) {
        let wanted = self.calls().0 + more;
        wait::until(RESUMES_WITHIN, "calls are answered", || {
            (self.calls().0 >= wanted).then_some(())
        });
    }

    /// Waits until sessions open again.
    #[track_caller]
    pub fn opens_go_on(&self) {
        let before = self.shared.opened.load(Ordering::Relaxed);
        wait::until(RESUMES_WITHIN, "sessions open", || {
            (self.shared.opened.load(Ordering::Relaxed) > before).then_some(())
        });
    }

    /// Ends it; fails when any call got an answer that it must not get.
    #[track_caller]
    pub fn finish(self) -> Promises {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter();
        let all: Vec<Promise> = ended
            .flat_map(|thread| thread.join().expect("a caller ends"))
            .collect();
        let (answered, unknown) = (
            self.shared.answered.load(Ordering::Relaxed),
            self.shared.unknown.load(Ordering::Relaxed),
        );
        println!(
            "{} sessions, {answered} calls answered, {unknown} unknown",
            all.len()
        );
        let wrong = self.shared.wrong.lock().expect("no panic");
        assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), *wrong);
        drop(wrong);
        Promises {
            shared: self.shared,
            all,
        }
    }
}

/// What clients were promised.
pub struct Promises {
    shared: Arc<Shared>,
    /// Each acknowledged session.
    pub all: Vec<Promise>,
}

impl Promises {
    /// Every session resumes at this node, with its worker and its sum.
    #[track_caller]
    pub fn hold_at(&mut self, client_address: &str) {
        let shared = &self.shared;
        let channel = format!("promises at {client_address}");
        shared.client.connect(&channel, client_address);
        for some in self.all.chunks_mut(32) {
            let calls: Vec<_> = some
                .iter()
                .map(|promise| shared.begin(&channel, Some(&promise.id)))
                .collect();
            for (promise, call) in some.iter_mut().zip(calls) {
                let call = call.call();
                promise
                    .judge(&call)
                    .unwrap_or_else(|wrong| panic!("{wrong}"));
                if call.code() != 0 {
                    wait::until(RESUMES_WITHIN, "a session resumes", || {
                        let call = shared.begin(&channel, Some(&promise.id)).call();
                        promise
                            .judge(&call)
                            .unwrap_or_else(|wrong| panic!("{wrong}"));
                        (call.code() == 0).then_some(())
                    });
                }
            }
        }
        shared.client.close(&channel);
    }
}

impl Shared {
    fn count(&self, failure: String) {
        let mut failures = self.failures.lock().expect("no panic");
        *failures.entry(failure).or_default() += 1;
    }

    fn begin(&self, channel: &str, id: Option<&str>) -> super::client::Pending {
        let mut keys = self.keys.clone();
        // The longest that the demo's version allows: nothing ends while a test runs.
        keys.push(("x-nvcf-reconnect-window-secs".into(), "300".into()));
        if let Some(id) = id {
            keys.push(("nvcf-reqid".into(), id.into()));
        }
        self.client.begin(json!({
            "do": "unary", "channel": channel, "metadata": keys, "x": 1, "timeout": CALL_SECONDS,
        }))
    }
}

/// One thread's clients.
struct Caller {
    number: usize,
    shared: Arc<Shared>,
    /// Open channels by node.
    channels: BTreeMap<String, String>,
    made: u64,
    promises: Vec<Promise>,
    dice: u64,
}

impl Caller {
    fn new(number: usize, shared: Arc<Shared>) -> Caller {
        Caller {
            number,
            shared,
            channels: BTreeMap::new(),
            made: 0,
            promises: Vec::new(),
            dice: number as u64 + 1,
        }
    }

    fn run(mut self) -> Vec<Promise> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.turn();
        }
        self.promises
    }

    /// A number below `end`: the same ones in each run (Knuth's MMIX generator).
    fn draw(&mut self, end: usize) -> usize {
        let next = self.dice.wrapping_mul(6_364_136_223_846_793_005);
        self.dice = next.wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) as usize % end
    }

    /// One call of one session, or one open, at a node by chance.
    fn turn(&mut self) {
        let entries = self.shared.entries.lock().expect("no panic").clone();
        let at = self.draw(entries.len());
        let (node, address) = entries.iter().nth(at).expect("drawn from them");
        let opens = self.promises.is_empty()
            || self.promises.len() < SESSIONS && self.draw(OPEN_EVERY) == 0;
        if opens || self.draw(20) == 0 {
            // An open needs a connection of its own: this one may have a session already.
            self.hang_up(node);
        }
        let channel = self.channel(node, address);
        let mut wrong = None;
        let call = if opens {
            let call = self.shared.begin(&channel, None).call();
            match call.code() {
                0 => {
                    self.shared.opened.fetch_add(1, Ordering::Relaxed);
                    let promise = Promise::of(&call);
                    if promise.last != 1 {
                        wrong = Some(format!("a new session got {call:?}"));
                    }
                    self.promises.push(promise);
                }
                4 | 14 => {}
                _ => wrong = Some(format!("an open got {call:?}")),
            }
            call
        } else {
            let chosen = self.draw(self.promises.len());
            let id = self.promises[chosen].id.clone();
            let call = self.shared.begin(&channel, Some(&id)).call();
            wrong = self.promises[chosen].judge(&call).err();
            call
        };
        if let Some(wrong) = wrong {
            let wrong = format!("at {node}: {wrong}");
            self.shared.wrong.lock().expect("no panic").push(wrong);
        }
        if call.code() == 0 {
            self.shared.answered.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shared.unknown.fetch_add(1, Ordering::Relaxed);
            let what = if opens { "open" } else { "resume" };
            let failure = format!("{what} at {node}: {} {}", call.code(), call.details());
            self.shared.count(failure);
            self.hang_up(node);
        }
    }

    fn channel(&mut self, node: &str, address: &str) -> String {
        if let Some(channel) = self.channels.get(node) {
            return channel.clone();
        }
        self.made += 1;
        let channel = format!("caller {}.{}", self.number, self.made);
        self.shared.client.connect(&channel, address);
        self.channels.insert(node.to_owned(), channel.clone());
        channel
    }

    fn hang_up(&mut self, node: &str) {
        if let Some(channel) = self.channels.remove(node) {
            self.shared.client.close(&channel);
        }
    }
}
