//! NATS JetStream: three servers with a key-value bucket of three replicas, each write synced, and the
//! smallest client that writes to it.
//!
//! The client speaks the text protocol (docs.nats.io, "Client Protocol"): it publishes to the bucket's
//! subject with a reply subject, and a write counts when the stream's acknowledgement arrives there.

use super::folder::Folder;
use super::process::Process;
use super::{Error, NODES, wait_for};
use crate::net::{Ports, TcpStream, dial, local};
use bytes::{Buf as _, Bytes, BytesMut};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long one answer may take.
const WITHIN: Duration = Duration::from_secs(10);

/// How long one look at a bucket that is being made may take.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// The longest line and message that are read: answers are a few hundred bytes.
const READ_MAX: usize = 1 << 20;

/// The bucket.
const BUCKET: &str = "bench";

/// Three servers.
#[derive(Debug)]
pub struct Nats {
    processes: Vec<Process>,
    ports: Vec<u16>,
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
        Client::connect(self.ports[server]).await
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
        let mut client = self.client(0).await?;
        let create = format!("$JS.API.STREAM.CREATE.KV_{BUCKET}");
        client.ask(&create, config.to_string().as_bytes()).await?;
        let info = client
            .ask(&format!("$JS.API.STREAM.INFO.KV_{BUCKET}"), b"")
            .await?;
        let replicas = info["cluster"]["replicas"].as_array();
        let current = replicas.into_iter().flatten();
        let current = current.filter(|replica| replica["current"] == true).count();
        if info["cluster"]["leader"].is_string() && current == NODES - 1 {
            return Ok(());
        }
        Err(Error(format!("the bucket has {current} replicas")))
    }
}

/// One client.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    inbox: String,
    asked: u64,
}

impl Client {
    async fn connect(port: u16) -> Result<Self, Error> {
        let stream = dial(port).await.map_err(broken)?;
        let inbox = format!("_INBOX.{:032x}", u128::from_le_bytes(super::random()?));
        let mut client = Self {
            stream,
            buffer: BytesMut::new(),
            inbox,
            asked: 0,
        };
        let hello = json!({"verbose": false, "pedantic": false, "lang": "rust", "version": "1"});
        let hello = format!("CONNECT {hello}\r\nSUB {}.* 1\r\n", client.inbox);
        client
            .stream
            .write_all(hello.as_bytes())
            .await
            .map_err(broken)?;
        Ok(client)
    }

    /// Writes a value; a quorum has it on disk when this returns.
    pub async fn put(&mut self, key: &str, value: &Bytes) -> Result<(), Error> {
        self.ask(&format!("$KV.{BUCKET}.{key}"), value).await?;
        Ok(())
    }

    /// Publishes and waits for the answer, which is JSON.
    async fn ask(&mut self, subject: &str, payload: &[u8]) -> Result<Value, Error> {
        self.asked += 1;
        let reply = format!("{}.{}", self.inbox, self.asked);
        let mut message = BytesMut::with_capacity(payload.len() + 160);
        let head = format!("PUB {subject} {reply} {}\r\n", payload.len());
        message.extend_from_slice(head.as_bytes());
        message.extend_from_slice(payload);
        message.extend_from_slice(b"\r\n");
        let exchange = async {
            self.stream.write_all(&message).await.map_err(broken)?;
            self.answer(&reply).await
        };
        let answer = tokio::time::timeout(WITHIN, exchange).await;
        let answer = answer.map_err(|_| Error("no answer in time".to_owned()))??;
        let answer: Value = serde_json::from_slice(&answer).map_err(|_| {
            Error("the answer is not JSON: has JetStream no leader yet?".to_owned())
        })?;
        match &answer["error"] {
            Value::Null => Ok(answer),
            error => Err(Error(error.to_string())),
        }
    }

    /// Reads until the message for this subject.
    async fn answer(&mut self, subject: &str) -> Result<Bytes, Error> {
        loop {
            let line = self.line().await?;
            let mut words = line.split(' ');
            match words.next() {
                Some("MSG") => {
                    let to = words.next() == Some(subject);
                    let length = words.next_back().and_then(|length| length.parse().ok());
                    let length: usize =
                        length.ok_or_else(|| Error(format!("malformed: {line}")))?;
                    self.fill(length + 2).await?;
                    let payload = self.buffer.split_to(length).freeze();
                    self.buffer.advance(2);
                    if to {
                        return Ok(payload);
                    }
                }
                Some("PING") => self.stream.write_all(b"PONG\r\n").await.map_err(broken)?,
                Some("-ERR") => return Err(Error(line)),
                _ => {}
            }
        }
    }

    async fn line(&mut self) -> Result<String, Error> {
        let mut looked = 0;
        loop {
            let end = self.buffer[looked..]
                .windows(2)
                .position(|two| two == b"\r\n");
            if let Some(end) = end {
                let line = self.buffer.split_to(looked + end);
                self.buffer.advance(2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            looked = self.buffer.len().saturating_sub(1);
            self.fill(self.buffer.len() + 1).await?;
        }
    }

    /// Reads until there are at least so many bytes.
    async fn fill(&mut self, wanted: usize) -> Result<(), Error> {
        if wanted > READ_MAX {
            return Err(Error("a message is too long".to_owned()));
        }
        while self.buffer.len() < wanted {
            let read = self
                .stream
                .read_buf(&mut self.buffer)
                .await
                .map_err(broken)?;
            if read == 0 {
                return Err(Error("the server closed the connection".to_owned()));
            }
        }
        Ok(())
    }
}

fn broken(error: std::io::Error) -> Error {
    Error(error.to_string())
}
