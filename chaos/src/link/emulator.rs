//! The emulator: listeners for everybody to dial, and bytes that wait.
//!
//! ```text
//! accepted -> whose? -> both ways open, one round trip -> dialed -> bytes both ways, each late -> closed
//! ```

use super::owner;
use super::{Links, Site};
use crate::clock::{self, Instant};
use crate::cluster::Error;
use crate::net::{self, OwnedReadHalf, OwnedWriteHalf, TcpStream};
use crate::seed::Seed;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The most that one read takes.
const CHUNK: usize = 16 << 10;

/// Chunks on their way in one direction: 1 MiB, about what two sockets' buffers hold. A full queue
/// stops reading, as a full window does.
const QUEUE: usize = 64;

/// What the emulator did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections carried.
    pub carried: AtomicU64,
    /// Connections whose dialer was nobody's.
    pub strangers: AtomicU64,
    /// Chunks that a cut direction held, and dials that waited for one.
    pub held: AtomicU64,
    /// Chunks that half-open connections lost.
    pub lost: AtomicU64,
    /// Chunks that were delayed.
    pub delayed: AtomicU64,
}

/// A cheap handle to all of it.
#[derive(Clone, Debug)]
pub struct Emulator(Arc<State>);

#[derive(Debug)]
struct State {
    links: watch::Sender<Links>,
    processes: Mutex<Vec<(u32, Site)>>,
    addresses: Mutex<BTreeMap<IpAddr, Site>>,
    connections: Mutex<Vec<Weak<Connection>>>,
    counters: Counters,
    seed: Seed,
    numbers: AtomicU64,
}

/// One connection; the first direction is that of the dialer.
#[derive(Debug)]
struct Connection {
    from: Site,
    to: Site,
    lost: [AtomicBool; 2],
}

impl Emulator {
    /// With these links.
    pub fn new(links: Links, seed: Seed) -> Self {
        Self(Arc::new(State {
            links: watch::channel(links).0,
            processes: Mutex::default(),
            addresses: Mutex::default(),
            connections: Mutex::default(),
            counters: Counters::default(),
            seed,
            numbers: AtomicU64::new(0),
        }))
    }

    /// What it did so far.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// The links as they are.
    pub fn links(&self) -> Links {
        self.0.links.borrow().clone()
    }

    /// Changes the links, at once for everybody.
    pub fn change(&self, change: impl FnOnce(&mut Links)) {
        self.0.links.send_modify(change);
    }

    /// From now on this process is at that site, and no other is.
    pub fn runs(&self, pid: u32, site: Site) {
        let mut processes = lock(&self.0.processes);
        processes.retain(|(_, other)| *other != site);
        processes.push((pid, site));
    }

    /// Whoever dials from this address is at that site.
    pub fn is_at(&self, address: IpAddr, site: Site) {
        lock(&self.0.addresses).insert(address, site);
    }

    /// How many connections a site has.
    pub fn standing(&self, site: Site) -> usize {
        let connections = lock(&self.0.connections);
        let standing = connections.iter().filter_map(Weak::upgrade);
        standing
            .filter(|connection| connection.from == site || connection.to == site)
            .count()
    }

    /// Every connection between the two that stands loses its bytes from now on, those from the first
    /// to the second, or both ways; how many there are.
    pub fn half_open(&self, from: Site, to: Site, both: bool) -> usize {
        let mut connections = lock(&self.0.connections);
        connections.retain(|connection| connection.strong_count() > 0);
        let mut hit = 0;
        for connection in connections.iter().filter_map(Weak::upgrade) {
            let ends = (connection.from, connection.to);
            if ends != (from, to) && ends != (to, from) {
                continue;
            }
            hit += 1;
            let onward = usize::from(ends != (from, to));
            connection.lost[onward].store(true, Ordering::Relaxed);
            if both {
                connection.lost[1 - onward].store(true, Ordering::Relaxed);
            }
        }
        hit
    }

    /// Listens at an address of this machine for connections to `target`, which is at the site `to`. They
    /// come from `from`; without it, from whoever dialed.
    pub async fn listen(
        &self,
        near: SocketAddr,
        from: Option<Site>,
        to: Site,
        target: SocketAddr,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), Error> {
        let listener = net::listen(near).await;
        let failed = |error| Error(format!("cannot listen at {near}: {error}"));
        let listener = listener.map_err(failed)?;
        let emulator = self.clone();
        tasks.spawn(async move {
            let mut running = JoinSet::new();
            loop {
                while running.try_join_next().is_some() {}
                let Ok(stream) = net::accept(&listener).await else {
                    // Out of descriptors: the pause keeps the loop from spinning.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let emulator = emulator.clone();
                running.spawn(async move {
                    let from = match from {
                        Some(from) => Some(from),
                        None => emulator.dialer(&stream),
                    };
                    match from {
                        Some(from) => emulator.carry(stream, from, to, target).await,
                        None => drop(emulator.0.counters.strangers.fetch_add(1, RELAXED)),
                    }
                });
            }
        });
        Ok(())
    }

    fn dialer(&self, stream: &TcpStream) -> Option<Site> {
        let ends = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
        if let Some(site) = lock(&self.0.addresses).get(&ends.0.ip()) {
            return Some(*site);
        }
        let processes = lock(&self.0.processes).clone();
        owner::find(ends.0, ends.1, &processes)
    }

    async fn carry(&self, near: TcpStream, from: Site, to: Site, target: SocketAddr) {
        self.open(from, to).await;
        self.open(to, from).await;
        let links = self.links();
        let round_trip = links.of(from, to).delay_ms + links.of(to, from).delay_ms;
        tokio::time::sleep(Duration::from_millis(round_trip)).await;
        // Nobody there: the dialer sees its connection closed.
        let Ok(far) = net::dial_to(target).await else {
            return;
        };
        self.0.counters.carried.fetch_add(1, RELAXED);
        let connection = Arc::new(Connection {
            from,
            to,
            lost: Default::default(),
        });
        self.remember(&connection);
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let (_, _) = tokio::join!(
            self.pass(near_in, far_out, &connection, 0),
            self.pass(far_in, near_out, &connection, 1),
        );
    }

    fn remember(&self, connection: &Arc<Connection>) {
        let mut connections = lock(&self.0.connections);
        // Amortized: the dead are dropped when there are many.
        if connections.len() % 256 == 255 {
            connections.retain(|connection| connection.strong_count() > 0);
        }
        connections.push(Arc::downgrade(connection));
    }

    /// Waits until a direction is not cut.
    async fn open(&self, from: Site, to: Site) {
        let mut links = self.0.links.subscribe();
        if links.borrow_and_update().of(from, to).cut {
            self.0.counters.held.fetch_add(1, RELAXED);
            // The sender lives as long as this handle.
            let _ = links.wait_for(|links| !links.of(from, to).cut).await;
        }
    }

    /// Carries one direction until it ends. A half that breaks is dropped, and with it the connection's
    /// other half finds out on its next write or read.
    async fn pass(
        &self,
        input: OwnedReadHalf,
        output: OwnedWriteHalf,
        connection: &Connection,
        way: usize,
    ) {
        let (from, to) = match way {
            0 => (connection.from, connection.to),
            _ => (connection.to, connection.from),
        };
        let (send, receive) = mpsc::channel(QUEUE);
        let lost = &connection.lost[way];
        tokio::join!(
            self.take(input, send, (from, to), lost),
            self.give(receive, output, (from, to), lost),
        );
    }

    async fn take(
        &self,
        mut input: OwnedReadHalf,
        send: mpsc::Sender<(Instant, Bytes)>,
        (from, to): (Site, Site),
        lost: &AtomicBool,
    ) {
        let mut seed = self.0.seed.fork(self.0.numbers.fetch_add(1, RELAXED));
        let mut links = self.0.links.subscribe();
        let mut link = links.borrow_and_update().of(from, to);
        let (mut free, mut last) = (clock::now(), clock::now());
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            let read = tokio::select! {
                read = input.read_buf(&mut chunk) => read,
                () = send.closed() => return,
            };
            let ended = !matches!(read, Ok(1..));
            if lost.load(Ordering::Relaxed) {
                self.0.counters.lost.fetch_add(1, RELAXED);
                if ended {
                    return std::future::pending().await;
                }
                continue;
            }
            if links.has_changed().unwrap_or(false) {
                link = links.borrow_and_update().of(from, to);
            }
            let now = clock::now();
            free = free.max(now) + link.busy(chunk.len());
            // TCP keeps the order: nothing overtakes what is late.
            last = last.max(free + link.takes(&mut seed));
            if last > now {
                self.0.counters.delayed.fetch_add(1, RELAXED);
            }
            // An empty chunk is the end.
            if send.send((last, chunk.freeze())).await.is_err() || ended {
                return;
            }
        }
    }

    async fn give(
        &self,
        mut receive: mpsc::Receiver<(Instant, Bytes)>,
        mut output: OwnedWriteHalf,
        (from, to): (Site, Site),
        lost: &AtomicBool,
    ) {
        while let Some((due, chunk)) = receive.recv().await {
            tokio::time::sleep_until(due).await;
            self.open(from, to).await;
            if lost.load(Ordering::Relaxed) {
                continue;
            }
            if chunk.is_empty() {
                output.shutdown().await.ok();
                return;
            }
            if output.write_all(&chunk).await.is_err() {
                return;
            }
        }
    }
}

const RELAXED: Ordering = Ordering::Relaxed;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
