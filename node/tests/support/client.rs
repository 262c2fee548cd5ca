//! A real Python gRPC client (`python/client.py`), driven from a test.

use super::cluster::Cluster;
use super::python;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest that any command may take: above every deadline that the script sets (60 s).
const ANSWER_WITHIN: Duration = Duration::from_secs(75);

/// Who waits for an answer, by the command's id.
type Waiting = Arc<Mutex<BTreeMap<u64, SyncSender<Value>>>>;

/// The Python process. Its channels close when it is dropped.
pub struct Client {
    child: Child,
    stdin: Mutex<ChildStdin>,
    waiting: Waiting,
    next: AtomicU64,
}

/// A command under way.
pub struct Pending(Receiver<Value>);

impl Pending {
    /// Waits for the answer.
    #[track_caller]
    pub fn wait(self) -> Value {
        let answer = self
            .0
            .recv_timeout(ANSWER_WITHIN)
            .expect("the client script answers");
        assert!(
            answer.get("error").is_none(),
            "{}",
            answer["error"].as_str().unwrap_or("?")
        );
        answer
    }

    /// Waits for the only call of the answer.
    #[track_caller]
    pub fn call(self) -> Call {
        Call(self.wait()["calls"][0].clone())
    }

    /// Whether there is an answer already.
    pub fn is_done(&mut self) -> bool {
        match self.0.try_recv() {
            Ok(answer) => {
                let (sender, receiver) = sync_channel(1);
                sender.send(answer).expect("there is room for one");
                self.0 = receiver;
                true
            }
            Err(_) => false,
        }
    }
}

/// What one gRPC call came to.
#[derive(Clone, Debug)]
pub struct Call(pub Value);

impl Call {
    /// The gRPC status code.
    pub fn code(&self) -> i64 {
        self.0["code"].as_i64().expect("a code")
    }

    /// The status message.
    pub fn details(&self) -> &str {
        self.0["details"].as_str().expect("text")
    }

    /// Seconds that it took.
    pub fn seconds(&self) -> f64 {
        self.0["seconds"].as_f64().expect("a number")
    }

    /// All values of a key, in initial or trailing metadata.
    pub fn metadata(&self, key: &str) -> Vec<String> {
        ["initial", "trailing"]
            .iter()
            .flat_map(|part| self.0[part].as_array().into_iter().flatten())
            .filter(|pair| pair[0] == key)
            .map(|pair| pair[1].as_str().expect("text").to_owned())
            .collect()
    }

    /// The id of its session.
    #[track_caller]
    pub fn session(&self) -> String {
        let ids = self.metadata("nvcf-reqid");
        assert_eq!(ids.len(), 1, "one nvcf-reqid in {self:?}");
        ids[0].clone()
    }

    /// The answer of a call that went well.
    #[track_caller]
    pub fn answer(&self) -> &Value {
        assert_eq!(self.code(), 0, "{self:?}");
        &self.0["messages"][0]
    }

    /// The answer as JSON, from a worker that answers so.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.answer().as_str().expect("text");
        serde_json::from_str(text).expect("the echo worker answers with JSON")
    }

    /// That it failed so.
    #[track_caller]
    pub fn fails(&self, code: i64, details: &str) {
        assert_eq!((self.code(), self.details()), (code, details), "{self:?}");
    }
}

impl Client {
    /// Starts the script; `None` where there is no Python (said aloud).
    pub fn start() -> Option<Client> {
        let python = python::interpreter()?;
        let mut child = Command::new(python)
            .arg(python::scripts().join("client.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env_remove("http_proxy")
            .env_remove("https_proxy")
            .spawn()
            .expect("python runs");
        let stdin = Mutex::new(child.stdin.take().expect("a pipe"));
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let waiting = Waiting::default();
        let answers = Arc::clone(&waiting);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let answer: Value = serde_json::from_str(&line).expect("the script writes JSON");
                let id = answer["id"].as_u64().expect("an id");
                let sender = answers.lock().expect("no panic").remove(&id);
                if let Some(sender) = sender {
                    sender.send(answer).ok();
                }
            }
        });
        Some(Client {
            child,
            stdin,
            waiting,
            next: AtomicU64::new(1),
        })
    }

    /// Sends a command; it runs beside the others.
    pub fn begin(&self, mut command: Value) -> Pending {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        command["id"] = json!(id);
        let (sender, receiver) = sync_channel(1);
        self.waiting.lock().expect("no panic").insert(id, sender);
        let mut stdin = self.stdin.lock().expect("no panic");
        writeln!(stdin, "{command}").expect("the script reads");
        Pending(receiver)
    }

    /// Sends a command and waits for its answer.
    #[track_caller]
    pub fn run(&self, command: Value) -> Value {
        self.begin(command).wait()
    }

    /// Opens a channel: one connection of its own.
    #[track_caller]
    pub fn connect(&self, channel: &str, target: &str) {
        self.run(json!({"do": "connect", "channel": channel, "target": target}));
    }

    /// Opens a channel over TLS, which believes the CAs of a file.
    #[track_caller]
    pub fn connect_tls(&self, channel: &str, target: &str, ca: &Path) {
        self.run(json!({"do": "connect", "channel": channel, "target": target, "ca": ca}));
    }

    /// Closes a channel; says when.
    #[track_caller]
    pub fn close(&self, channel: &str) -> Value {
        self.run(json!({"do": "close", "channel": channel}))
    }

    /// Begins a call of the demo function's `sum` model.
    pub fn begin_sum(&self, channel: &str, metadata: &[(&str, &str)], x: i64) -> Pending {
        self.begin(json!({"do": "unary", "channel": channel, "metadata": metadata, "x": x}))
    }

    /// Calls the demo function's `sum` model.
    #[track_caller]
    pub fn sum(&self, channel: &str, metadata: &[(&str, &str)], x: i64) -> Call {
        self.begin_sum(channel, metadata, x).call()
    }

    /// Begins a unary call of the echo worker.
    pub fn begin_echo(
        &self,
        channel: &str,
        method: &str,
        metadata: &[(&str, &str)],
        message: &str,
        timeout: f64,
    ) -> Pending {
        self.begin(json!({
            "do": "unary", "channel": channel, "method": format!("/test.Echo/{method}"),
            "metadata": metadata, "message": message, "timeout": timeout,
        }))
    }

    /// Calls the echo worker.
    #[track_caller]
    pub fn echo(&self, channel: &str, metadata: &[(&str, &str)], message: &str) -> Call {
        self.begin_echo(channel, "Unary", metadata, message, 60.0)
            .call()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a call of the demo function says about itself, and what is added to it.
pub fn keys<'a>(cluster: &'a Cluster, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let ready = cluster.ready();
    let mut keys = vec![
        ("authorization", ready.bearer.as_str()),
        ("function-id", ready.function_id.as_str()),
        ("function-version-id", ready.function_version_id.as_str()),
    ];
    keys.extend_from_slice(more);
    keys
}
