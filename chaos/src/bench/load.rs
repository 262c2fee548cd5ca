//! Clients in a closed loop: each writes, waits for the acknowledgement, and writes again.

use crate::clock::{self, Instant};
use crate::cluster::directory::{Directory, Version};
use crate::cluster::{Error, etcd, nats};
use bytes::Bytes;
use pontoon_proto::id::RequestId;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;

/// What the others write: 256 bytes, about as much as an open has.
const VALUE: Bytes = Bytes::from_static(&[b'v'; 256]);

/// The pause after a write that failed, so that a cluster that refuses is not asked in a hot loop.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// One client with a connection of its own.
#[derive(Debug)]
pub enum Client {
    /// Opens sessions, and perhaps ends each at once.
    Pontoon {
        /// Through which node.
        directory: Directory,
        /// What is opened.
        version: Version,
        /// Whether each session is ended right after its open.
        end: bool,
        /// Those that were acknowledged and not ended.
        opened: BTreeSet<RequestId>,
    },
    /// Puts values under new keys.
    Etcd(etcd::Client),
    /// Puts values under new keys.
    Nats(nats::Client),
}

impl Client {
    /// One write; it is durable when this returns.
    pub async fn write(&mut self) -> Result<(), Error> {
        match self {
            Client::Pontoon {
                directory,
                version,
                end,
                opened,
            } => {
                let id = directory.open(*version).await?;
                match end {
                    true => directory.end(id).await?,
                    false => _ = opened.insert(id),
                }
                Ok(())
            }
            Client::Etcd(client) => client.put(key()?, VALUE).await,
            Client::Nats(client) => client.put(&key()?, &VALUE).await,
        }
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
/// acknowledged before is a warm-up. The clients come back.
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
