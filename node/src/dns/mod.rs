//! Answers questions of DNS about this cluster: where the nearest nodes are, and which are ready.
//!
//! ```text
//! scene ──▶ roll ──▶ view ──▶ answer ◀── query ◀── udp, tcp
//!             ▲
//!           hosts (names that nodes advertise, looked up by discovery)
//! ```
//!
//! [`zone`] has the names, [`view`] what is known and which region is the nearest, [`prefixes`] where a
//! client is, [`roll`] who is ready, [`answer`] the rules of the protocol, and [`rate`] how much a source
//! gets. This file keeps the view current. Answers read it through one pointer and take no lock.
//!
//! It is off unless `[dns_service]` says where to listen. `docs/dns.md` is for operators. Left out: DNSSEC,
//! transfers, updates, cookies (RFC 7873), DNS over TLS or HTTPS.

pub mod answer;
mod counters;
pub mod prefixes;
mod query;
mod rate;
mod roll;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod view;
mod zone;

pub use counters::Counters;
pub use roll::{Member, Scene};
pub use view::{Region, Service};
pub use zone::Zone;

use crate::net::{TcpListener, UdpSocket};
use crate::tasks::{self, Kind};
use crate::{clock, discovery, random};
use answer::{Silence, Way};
use arc_swap::{ArcSwap, ArcSwapOption};
use counters::Dropped;
use futures::future::join_all;
use roll::{Hosts, Roll};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use view::View;

/// How often the view is made anew: what changes is in an answer this much later at most.
const LOOK: Duration = Duration::from_millis(250);

/// How often advertised names are looked up. Discovery remembers answers for as long as they count, so
/// most of these ask nobody.
const LOOK_UP: Duration = Duration::from_secs(1);

/// How many advertised names are looked up at the same time, and at all.
const HOSTS_MAX: usize = 256;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen, by UDP and TCP.
    pub listen: SocketAddr,
    /// The zone.
    pub zone: Zone,
    /// How many answers by UDP one prefix gets in a second.
    pub rate: u32,
}

/// The two sockets of one address.
#[derive(Debug)]
pub struct Sockets {
    /// For messages.
    pub udp: UdpSocket,
    /// For connections.
    pub tcp: TcpListener,
}

/// What tells this node's knowledge; it must answer at once.
pub type Look = Arc<dyn Fn() -> Scene + Send + Sync>;

/// What all tasks of the service share.
struct Shared {
    zone: Zone,
    rate: u32,
    /// None while too little is known.
    view: ArcSwapOption<View>,
    hosts: ArcSwap<Hosts>,
    wanted: ArcSwap<BTreeSet<Arc<str>>>,
    counters: Arc<Counters>,
    started: Instant,
}

/// Starts answering; what is counted.
pub fn start(settings: Settings, sockets: Sockets, look: Look) -> Arc<Counters> {
    let counters: Arc<Counters> = Arc::default();
    let shared = Arc::new(Shared {
        zone: settings.zone,
        rate: settings.rate,
        view: ArcSwapOption::empty(),
        hosts: ArcSwap::default(),
        wanted: ArcSwap::default(),
        counters: counters.clone(),
        started: clock::now(),
    });
    let roll = Roll::new(settings.listen.ip().is_loopback());
    tasks::spawn(Kind::Critical, "DNS view", keep(shared.clone(), roll, look));
    tasks::spawn(Kind::Critical, "DNS host names", look_up(shared.clone()));
    let udp = udp::serve(Arc::new(sockets.udp), shared.clone());
    tasks::spawn(Kind::Critical, "DNS by UDP", udp);
    tasks::spawn(
        Kind::Critical,
        "DNS by TCP",
        tcp::serve(sockets.tcp, shared),
    );
    counters
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The answer to a message, if it gets one.
    fn answer(&self, bytes: &[u8], from: SocketAddr, way: Way) -> Option<Vec<u8>> {
        let view = self.view.load();
        // Not a count: who asks for A and AAAA in turn would get A in the same order for ever.
        let turn = u32::from_le_bytes(random::bytes()) as usize;
        let view = view.as_deref();
        match answer::answer(&self.zone, view, bytes, from.ip(), way, turn) {
            Ok(reply) => {
                let question = reply.question.as_ref();
                self.counters
                    .answered(reply.outcome, question, from, self.now());
                Some(reply.bytes)
            }
            Err(silence) => {
                self.counters.dropped(match silence {
                    Silence::Short => Dropped::Short,
                    Silence::Response => Dropped::Response,
                    Silence::Broken => Dropped::Broken,
                });
                None
            }
        }
    }
}

/// Keeps the view current, and says which advertised addresses are of no use, once each.
async fn keep(shared: Arc<Shared>, mut roll: Roll, look: Look) {
    let mut said = BTreeSet::new();
    loop {
        let scene = look();
        let (wanted, unusable) = roll.names(&scene, |host| shared.zone.holds(host));
        let hosts = shared.hosts.load();
        let mut names = wanted.iter().take(HOSTS_MAX);
        let looked_up = names.all(|host| hosts.contains_key(&**host));
        let view = roll.look(shared.now(), &scene, &hosts, looked_up);
        let known = shared.view.load().is_some();
        if view.is_some() && !known {
            tracing::info!(zone = %shared.zone.name, "DNS questions are answered");
        }
        shared.view.store(view.map(Arc::new));
        for one in unusable.difference(&said) {
            let roll::Unusable {
                node,
                service,
                advertised,
                why,
            } = one;
            tracing::warn!(
                node,
                service,
                advertised,
                "an advertised address is left out of DNS answers: {why}"
            );
        }
        said = unusable;
        if **shared.wanted.load() != wanted {
            shared.wanted.store(Arc::new(wanted));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks up the names that nodes advertise; it is said when one can't be found any more.
async fn look_up(shared: Arc<Shared>) {
    let mut failed: BTreeSet<Arc<str>> = BTreeSet::new();
    loop {
        let wanted = shared.wanted.load_full();
        let found = wanted.iter().take(HOSTS_MAX).map(async |host| {
            // Any port does.
            let found = discovery::find(&format!("{host}:1")).await;
            (host.clone(), found)
        });
        let mut hosts = Hosts::new();
        for (host, found) in join_all(found).await {
            let addresses = match found {
                Ok(sockets) => {
                    failed.remove(&host);
                    let addresses: BTreeSet<_> = sockets.iter().map(SocketAddr::ip).collect();
                    Some(addresses.into_iter().collect())
                }
                Err(error) => {
                    if failed.insert(host.clone()) {
                        tracing::warn!(%error, %host, "a name that a node advertises is left out of DNS answers");
                    }
                    None
                }
            };
            hosts.insert(host.to_string(), addresses);
        }
        failed.retain(|host| wanted.contains(host));
        if **shared.hosts.load() != hosts {
            shared.hosts.store(Arc::new(hosts));
        }
        tokio::time::sleep(LOOK_UP).await;
    }
}
