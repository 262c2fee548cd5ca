//! NATS JetStream: three servers with a key-value bucket of three replicas, each write synced, and the
//! smallest client that writes to it.
//!
//! The client speaks the text protocol (docs.nats.io, "Client Protocol"): it publishes to the bucket's
//! subject with a reply subject, and a write counts when the stream's acknowledgement arrives there.

use super::folder::Folder;
use super::process::Process;
use super::{Error, NODES, wait_for};
use crate::net::{OwnedReadHalf, OwnedWriteHalf, Ports, dial, local};
use bytes::{Buf as _, Bytes, BytesMut};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// How long one answer may take.
const WITHIN: Duration = Duration::from_secs(10);

/// How long one look at a bucket that is being made may take.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// The longest line and message that are read: answers are a few hundred bytes.
const READ_MAX: usize = 1 << 20;

/// Requests of one connection that wait to be written; then their callers wait.
const QUEUE: usize = 1_024;

/// The bucket.
const BUCKET: &str = "bench";

/// Three servers.
#[derive(Debug)]
pub struct Nats {
    processes: Vec<Process>,
    ports: Vec<u16>,
    /// What runs the connections.
    connections: Mutex<JoinSet<Result<(), Error>>>,
    // Dropped last: the servers write into it.
    _folder: Folder,
}

impl Nats {
    /// Starts three servers below `home` and waits until the bucket has its replicas.
    pub async fn start(home: &Path, program: &Path) -> Result<Self, Error> {
        let folder = Folder::inside(home)?;
        let mut free = Ports::default();
        let mut places = Vec::new();
        for number in 1..=NODES {
            places.push((format!("nats-{number}"), free.take()?, free.take()?));
        }
        let routes = places
            .iter()
            .map(|(_, _, route)| format!("nats://{}", local(*route)));
        let routes = routes.collect::<Vec<_>>().join(", ");
        let (mut processes, mut ports) = (Vec::new(), Vec::new());
        for (name, client, route) in places {
            let config = format!(
                "server_name: {name}\nlisten: \"{}\"\nping_interval: \"1h\"\n\
                 jetstream {{ store_dir: {:?}, sync_interval: always }}\n\
                 cluster {{ name: bench, listen: \"{}\", routes: [{routes}] }}\n",
                local(client),
                folder.path().join(&name),
                local(route),
            );
            let file = folder.path().join(format!("{name}.conf"));
            std::fs::write(&file, config).map_err(|error| Error::file("write", &file, &error))?;
            let arguments = ["-c".as_ref(), file.as_os_str()];
            processes.push(Process::start(&name, folder.path(), program, arguments)?);
            ports.push(client);
        }
        let mut cluster = Self {
            processes,
            ports,
            connections: Mutex::default(),
            _folder: folder,
        };
        cluster.bucket().await?;
        Ok(cluster)
    }

    /// The processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter()
    }

    /// A client with a connection of its own to one server.
    pub async fn client(&self, server: usize) -> Result<Client, Error> {
        let (client, running) = Client::connect(self.ports[server]).await?;
        let connections = self.connections.lock();
        let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
        connections.spawn(running);
        Ok(client)
    }

    /// Makes the bucket as `nats kv add --replicas 3` does, and waits for its replicas.
    async fn bucket(&mut self) -> Result<(), Error> {
        for process in &mut self.processes {
            process.alive()?;
        }
        let config = json!({
            "name": format!("KV_{BUCKET}"),
            "subjects": [format!("$KV.{BUCKET}.>")],
            "num_replicas": NODES,
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "duplicate_window": 120_000_000_000_u64,
            "allow_rollup_hdrs": true,
            "deny_delete": true,
            "allow_direct": true,
        });
        // A server that knows no leader of JetStream yet does not answer at all.
        wait_for("the start of NATS", async || {
            let look = self.look(&config);
            let looked = tokio::time::timeout(LOOK_WITHIN, look).await;
            looked.map_err(|_| Error("JetStream does not answer".to_owned()))?
        })
        .await
    }

    async fn look(&self, config: &Value) -> Result<(), Error> {
        let client = self.client(0).await?;
        let create = format!("$JS.API.STREAM.CREATE.KV_{BUCKET}");
        client.ask(create, config.to_string().into()).await?;
        let info = format!("$JS.API.STREAM.INFO.KV_{BUCKET}");
        let info = client.ask(info, Bytes::new()).await?;
        let replicas = info["cluster"]["replicas"].as_array();
        let current = replicas.into_iter().flatten();
        let current = current.filter(|replica| replica["current"] == true).count();
        if info["cluster"]["leader"].is_string() && current == NODES - 1 {
            return Ok(());
        }
        Err(Error(format!("the bucket has {current} replicas")))
    }
}

/// A connection to one server, shared by its clones: each write has a reply subject of its own.
#[derive(Clone, Debug)]
pub struct Client(mpsc::Sender<Ask>);

/// A message, and who waits for the answer.
#[derive(Debug)]
struct Ask {
    subject: String,
    payload: Bytes,
    answer: oneshot::Sender<Bytes>,
}

impl Client {
    /// The client, and what must run for it to be answered; it ends with the last clone.
    async fn connect(
        port: u16,
    ) -> Result<
        (
            Self,
            impl Future<Output = Result<(), Error>> + Send + 'static,
        ),
        Error,
    > {
        let (read, mut write) = dial(port).await.map_err(broken)?.into_split();
        let inbox = format!("_INBOX.{:032x}", u128::from_le_bytes(super::random()?));
        let hello = json!({"verbose": false, "pedantic": false, "lang": "rust", "version": "1"});
        let hello = format!("CONNECT {hello}\r\nSUB {inbox}.* 1\r\n");
        write.write_all(hello.as_bytes()).await.map_err(broken)?;
        let (asks, queue) = mpsc::channel(QUEUE);
        let connection = Connection {
            write,
            queue,
            inbox,
            asked: 0,
            waiting: BTreeMap::new(),
        };
        let lines = Lines {
            read,
            buffer: BytesMut::new(),
        };
        Ok((Self(asks), connection.run(lines)))
    }

    /// Writes a value; a quorum has it on disk when this returns.
    pub async fn put(&self, key: &str, value: &Bytes) -> Result<(), Error> {
        let subject = format!("$KV.{BUCKET}.{key}");
        self.ask(subject, value.clone()).await?;
        Ok(())
    }

    /// Publishes and waits for the answer, which is JSON.
    async fn ask(&self, subject: String, payload: Bytes) -> Result<Value, Error> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask {
            subject,
            payload,
            answer,
        };
        let closed = || Error("the connection is closed".to_owned());
        self.0.send(ask).await.map_err(|_| closed())?;
        let answered = tokio::time::timeout(WITHIN, answered).await;
        let answer = answered.map_err(|_| Error("no answer in time".to_owned()))?;
        let answer: Value = serde_json::from_slice(&answer.map_err(|_| closed())?)
            .map_err(|_| Error("the answer is not JSON".to_owned()))?;
        match &answer["error"] {
            Value::Null => Ok(answer),
            error => Err(Error(error.to_string())),
        }
    }
}

/// The writing half of a connection, and who waits.
struct Connection {
    write: OwnedWriteHalf,
    queue: mpsc::Receiver<Ask>,
    inbox: String,
    asked: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Bytes>>,
}

impl Connection {
    async fn run(mut self, mut lines: Lines) -> Result<(), Error> {
        let mut out = BytesMut::new();
        loop {
            tokio::select! {
                ask = self.queue.recv() => {
                    let Some(ask) = ask else { return Ok(()) };
                    self.encode(ask, &mut out);
                    // What waits goes along.
                    while let Ok(ask) = self.queue.try_recv() {
                        self.encode(ask, &mut out);
                    }
                    self.write.write_all_buf(&mut out).await.map_err(broken)?;
                }
                // Cancelling it loses nothing: what was read stays in the buffer.
                message = lines.message() => match message? {
                    Message::Ping => self.write.write_all(b"PONG\r\n").await.map_err(broken)?,
                    Message::To(number, payload) => {
                        if let Some(answer) = self.waiting.remove(&number) {
                            // Whoever asked may have given up.
                            answer.send(payload).ok();
                        }
                    }
                }
            }
        }
    }

    fn encode(&mut self, ask: Ask, out: &mut BytesMut) {
        self.asked += 1;
        let (subject, length) = (ask.subject, ask.payload.len());
        let head = format!("PUB {subject} {}.{} {length}\r\n", self.inbox, self.asked);
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&ask.payload);
        out.extend_from_slice(b"\r\n");
        self.waiting.insert(self.asked, ask.answer);
    }
}

/// What a server says that matters here.
#[derive(Debug, PartialEq)]
enum Message {
    Ping,
    /// An answer to the request of this number.
    To(u64, Bytes),
}

/// The reading half of a connection.
struct Lines {
    read: OwnedReadHalf,
    buffer: BytesMut,
}

impl Lines {
    async fn message(&mut self) -> Result<Message, Error> {
        loop {
            while let Some(message) = parse(&mut self.buffer)? {
                if let Some(message) = message {
                    return Ok(message);
                }
            }
            if self.buffer.len() > READ_MAX {
                return Err(Error("a message is too long".to_owned()));
            }
            if self.read.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                return Err(Error("the server closed the connection".to_owned()));
            }
        }
    }
}

/// Takes one message off the buffer, if it has a whole one; the inner option is empty for messages that
/// don't matter.
fn parse(buffer: &mut BytesMut) -> Result<Option<Option<Message>>, Error> {
    let Some(end) = buffer.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut words = line.split(' ');
    match words.next() {
        Some("MSG") => {
            let malformed = || Error(format!("malformed: {line}"));
            let subject = words.next().ok_or_else(malformed)?;
            let number = subject.rsplit('.').next();
            let number = number.and_then(|word| word.parse().ok());
            let length = words.next_back().and_then(|word| word.parse().ok());
            let length: usize = length.ok_or_else(malformed)?;
            if buffer.len() < end + 2 + length + 2 {
                return Ok(None);
            }
            buffer.advance(end + 2);
            let payload = buffer.split_to(length).freeze();
            buffer.advance(2);
            Ok(Some(number.map(|number| Message::To(number, payload))))
        }
        Some("-ERR") => Err(Error(line)),
        word => {
            let message = (word == Some("PING")).then_some(Message::Ping);
            buffer.advance(end + 2);
            Ok(Some(message))
        }
    }
}

fn broken(error: std::io::Error) -> Error {
    Error(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_off_whole_and_the_rest_stays() {
        let mut buffer = BytesMut::from(
            "INFO {\"a\": 1}\r\nPING\r\nMSG _INBOX.a.17 1 4\r\nab\r\n\r\nMSG _INBOX.a.18 1 9\r\nab",
        );
        let mut next = || parse(&mut buffer).unwrap();
        assert_eq!(next(), Some(None));
        assert_eq!(next(), Some(Some(Message::Ping)));
        let payload = Bytes::from_static(b"ab\r\n");
        assert_eq!(next(), Some(Some(Message::To(17, payload))));
        assert_eq!(next(), None);
        assert!(parse(&mut BytesMut::from("-ERR 'no'\r\n")).is_err());
    }
}
