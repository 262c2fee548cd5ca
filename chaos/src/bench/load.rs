//! Clients in a closed loop: each writes, waits for the acknowledgement, and writes again.

use crate::clock::{self, Instant};
use crate::cluster::directory::{Directory, Version};
use crate::cluster::{Error, etcd, nats};
use bytes::Bytes;
use pontoon_proto::id::RequestId;
use std::time::Duration;
use tokio::task::JoinSet;

/// What the others write: 256 bytes, about as much as an open has.
const VALUE: Bytes = Bytes::from_static(&[b'v'; 256]);

/// The pause after a write that failed, so that a cluster that refuses is not asked in a hot loop.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// A connection to one node; clones share it.
#[derive(Clone, Debug)]
pub enum Writer {
    /// Opens sessions.
    Pontoon(Directory, Version),
    /// Puts values under new keys.
    Etcd(etcd::Client),
    /// Puts values under new keys.
    Nats(nats::Client),
}

impl Writer {
    /// One write; it is durable when this returns. Of ours, the session that it opened.
    pub async fn write(&mut self) -> Result<Option<RequestId>, Error> {
        match self {
            Writer::Pontoon(directory, version) => directory.open(*version).await.map(Some),
            Writer::Etcd(client) => client.put(key()?, VALUE).await.map(|()| None),
            Writer::Nats(client) => client.put(&key()?, &VALUE).await.map(|()| None),
        }
    }
}

/// One client: it writes through each node in turn.
#[derive(Debug)]
pub struct Client {
    nodes: Vec<Writer>,
    turn: usize,
    /// Whether each session is ended right after its open.
    end: bool,
    /// Those that were acknowledged and not ended.
    pub opened: Vec<RequestId>,
}

impl Client {
    /// Writes through these nodes, beginning with the one whose turn it is.
    pub fn new(nodes: Vec<Writer>, turn: usize) -> Self {
        Self {
            nodes,
            turn,
            end: false,
            opened: Vec::new(),
        }
    }

    /// Ends each session right after its open.
    pub fn ending(self) -> Self {
        Self { end: true, ..self }
    }

    async fn write(&mut self) -> Result<(), Error> {
        let turn = self.turn % self.nodes.len();
        self.turn = turn + 1;
        let writer = &mut self.nodes[turn];
        match (writer.write().await?, writer) {
            (Some(id), Writer::Pontoon(directory, _)) if self.end => directory.end(id).await?,
            (Some(id), _) => self.opened.push(id),
            (None, _) => {}
        }
        Ok(())
    }
}

fn key() -> Result<String, Error> {
    let random = u128::from_le_bytes(crate::cluster::random()?);
    Ok(format!("{random:032x}"))
}

/// What was seen during one span.
#[derive(Debug, Default)]
pub struct Seen {
    /// Microseconds that each acknowledged write took, sorted.
    pub took_us: Vec<u32>,
    /// Writes that were refused or not answered.
    pub errors: u64,
    /// What the first of those was told.
    pub error: Option<String>,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.took_us.extend(other.took_us);
        self.errors += other.errors;
        self.error = self.error.take().or(other.error);
    }
}

/// Lets these clients write during a span that begins at `from` and ends at `until`; what is
/// acknowledged before is a warm-up. The clients come back, in any order.
pub async fn closed(
    clients: Vec<Client>,
    from: Instant,
    until: Instant,
) -> Result<(Vec<Client>, Seen), Error> {
    let mut running = JoinSet::new();
    for client in clients {
        running.spawn(one(client, from, until));
    }
    let (mut back, mut all) = (Vec::new(), Seen::default());
    while let Some(ended) = running.join_next().await {
        let (client, seen) = ended.map_err(|error| Error(error.to_string()))?;
        back.push(client);
        all.add(seen);
    }
    all.took_us.sort_unstable();
    Ok((back, all))
}

async fn one(mut client: Client, from: Instant, until: Instant) -> (Client, Seen) {
    let mut seen = Seen::default();
    let mut began = clock::now();
    while began < until {
        let outcome = client.write().await;
        let ended = clock::now();
        match outcome {
            Ok(()) if from <= ended && ended < until => {
                let took = ended.duration_since(began).as_micros();
                seen.took_us.push(u32::try_from(took).unwrap_or(u32::MAX));
            }
            Ok(()) => {}
            Err(error) => {
                seen.errors += 1;
                seen.error.get_or_insert(error.0);
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
        began = clock::now();
    }
    (client, seen)
}
