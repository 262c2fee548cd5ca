//! Connects the parts of a node to each other, and starts serving.

use super::leaving::{self, Leaving, Work};
use super::replicas::Replicas;
use super::{Error, Listeners, clients, descriptors, dns, facts, joining};
use crate::call::{self, Counters};
use crate::config::Config;
use crate::listen::limits::Limits;
use crate::ops::metrics::Metrics;
use crate::ops::ready::Readiness;
use crate::peer::Peers;
use crate::session::Sessions;
use crate::tasks::{self, Kind};
use crate::tls::accept::{For, Port};
use crate::tls::front::Front;
use crate::tunnel::{self, Tunnels};
use crate::{admin, ops, peer};
use futures::FutureExt as _;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer::node_state::Stage;
use pontoon_raft::cluster::Cluster;
use pontoon_raft::directory::command::EndReason;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often open calls are counted while the process ends.
const QUIET_LOOK: Duration = Duration::from_millis(50);

/// The parts of a running node.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) cluster: Cluster,
    pub(super) peers: Peers,
    pub(super) tunnels: Tunnels,
    sessions: Sessions,
    pub(super) counters: Arc<Counters>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clients: Clients,
    pub(super) leaving: Leaving,
    /// Remembers whether this node has been ready before.
    pub(super) readiness: Arc<Readiness>,
    /// Whether clients are accepted.
    pub(super) listening: Arc<AtomicBool>,
}

/// What the client listeners are built with.
pub(super) struct Clients {
    /// TLS towards clients.
    pub(super) front: Option<Front>,
    /// How many descriptors this process may have; `None` for no limit.
    pub(super) descriptors: Option<u64>,
}

impl Parts {
    /// Builds the parts; nothing listens yet.
    pub(super) fn start(
        config: Arc<Config>,
        cluster: Cluster,
        peers: Peers,
        clients: Clients,
        stop: &CancellationToken,
    ) -> Parts {
        let metrics = Arc::new(Metrics::new(
            &tunnel::close::labels(),
            &tunnel::close::CODES,
        ));
        let (passing, relaying) = (peers.clone(), peers.clone());
        let tunnels = Tunnels::start(tunnel::Parts {
            directories: Arc::new(Replicas(cluster.clone())),
            passer: Arc::new(move |node: NodeId, request, within| {
                let peers = passing.clone();
                async move { peers.pass(node, request, within).await }.boxed()
            }),
            relayer: Arc::new(move |node, open, frames, within| {
                relaying.relay(node, open, frames, within)
            }),
            leaves: {
                let peers = peers.clone();
                Arc::new(move |node| leaves(&peers, node))
            },
            advertised: config.advertise.worker.clone(),
            cluster: config.cluster_id,
            name: config.name.clone(),
            metrics: metrics.clone(),
            stop: stop.clone(),
        });
        let sessions = Sessions::start(
            cluster.clone(),
            tunnels.clone(),
            &config.region,
            metrics.clone(),
        );
        let counters: Arc<Counters> = Arc::default();
        let count = count(&cluster, &tunnels, &sessions, &counters, &metrics);
        let leaving = Leaving::new(cluster.clone(), tunnels.clone(), count);
        tasks::spawn(Kind::Critical, "drain", leaving.clone().watch());
        Parts {
            config,
            cluster,
            peers,
            tunnels,
            sessions,
            counters,
            metrics,
            clients,
            leaving,
            readiness: Arc::default(),
            listening: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Serves on every port. Peers and ops come first: the groups need the one, and whoever waits
    /// for this node needs the other.
    ///
    /// # Errors
    ///
    /// When a listener has no address any more.
    pub(super) fn serve(
        &self,
        listeners: Listeners,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let draining = self.leaving.drain().listener();
        let switch = facts::switch(self, draining.clone());
        let tunnels = self.tunnels.clone();
        let pass: peer::PassHandler = Arc::new(move |worker, message, confirm| {
            let sidecars = tunnels.sidecars().clone();
            async move { sidecars.pass(worker, message, confirm).await.into() }.boxed()
        });
        let tunnels = self.tunnels.clone();
        let relay: peer::RelayHandler =
            Arc::new(move |open, frames| tunnels.relayed(&open, frames));
        let tunnels = self.tunnels.clone();
        let closes: peer::ClosesHandler = Arc::new(move |asked| tunnels.closes(asked));
        let peers = self.peers.clone();
        let handlers = peer::Handlers {
            pass,
            relay,
            greet: joining::greet(self.cluster.identity()),
            admit: joining::admission(&self.config, &self.cluster, &peers),
            folder: self.cluster.identity().folder(),
            closes: closes.clone(),
            switch: switch.clone(),
        };
        let (cluster, mut incoming, stopped) = (self.cluster.clone(), listeners.peer, stop.clone());
        tasks::spawn(Kind::Critical, "peer port", async move {
            let serving = peer::serve(&mut incoming, peers, Some(cluster), handlers, stopped);
            if let Err(error) = serving.await {
                tracing::error!(%error, "the peer port is broken");
            }
        });
        let worker_port = Port::new("worker", self.peers.tls().cloned(), For::Others)
            .and_clear_text(self.config.clear_sidecars);
        let questions = dns::serve(self, listeners.dns, draining.clone());
        let sources = facts::sources(self, draining.clone(), &switch, questions);
        tasks::spawn(
            Kind::Critical,
            "ops port",
            ops::serve(listeners.ops, sources),
        );
        tasks::spawn(
            Kind::Critical,
            "worker port",
            tunnel::serve(listeners.worker, worker_port, self.tunnels.clone()),
        );
        let sessions = self.sessions.clone();
        let admin = admin::serve(
            listeners.admin,
            admin::Context {
                cluster: self.cluster.clone(),
                peers: self.peers.clone(),
                end: Arc::new(move |id| {
                    let sessions = sessions.clone();
                    async move { sessions.end(id, EndReason::Operator).await }.boxed()
                }),
                closes,
                switch,
                bootstrap: self.config.admin_token_sha256,
            },
            stop.clone(),
        );
        tasks::spawn(Kind::Critical, "admin port", async move {
            if let Err(error) = admin.await {
                tracing::error!(%error, "the admin port is broken");
            }
        });
        let context = call::Context {
            catalog: Arc::new(Replicas(self.cluster.clone())),
            sessions: self.sessions.clone(),
            counters: self.counters.clone(),
            chatter: Arc::default(),
            limits: self.limits(),
            region: self.config.region.clone(),
            cookies: call::dress::CookiePolicy {
                http_only: self.config.clients.cookie_http_only,
                cross_site: self.config.clients.cookie_cross_site,
            },
            forwards_address: self.config.clients.forward_client_address,
        };
        let clients = clients::Doors::new(self, listeners.client, listeners.client_tls)
            .map_err(|error| Error::Start(format!("a client port is broken: {error}")))?;
        let listening = self.listening.clone();
        let serving = clients.serve(Arc::new(context), draining, listening);
        tasks::spawn(Kind::Critical, "client port", serving);
        Ok(())
    }

    fn limits(&self) -> Limits {
        let limits = &self.config.limits;
        let connections_max =
            descriptors::connections_max(limits.connections_max, self.clients.descriptors);
        if connections_max < limits.connections_max {
            tracing::info!(
                connections_max,
                "fewer client connections than limits.connections_max: 80 % of the limit on open files"
            );
        }
        Limits {
            connections_max,
            streams_max: limits.streams_max,
            header_list: limits.header_list_bytes,
            handshake: Duration::from_millis(limits.handshake_ms),
            idle: Duration::from_millis(limits.idle_ms),
            ..Limits::default()
        }
    }

    /// Returns once no call is open, here or through here, and no client is left that could begin one:
    /// until it has heard that it should go, a call of its is in time. It looks a moment later, when
    /// what was accepted just before the drain has been counted; and once more when nothing is relayed any
    /// more, because a sidecar may have begun a tunnel through here in between.
    pub(super) async fn quiet(&self) {
        for shut in [false, true] {
            if shut {
                self.tunnels.relay_no_more();
            }
            loop {
                tokio::time::sleep(QUIET_LOOK).await;
                if self.leaving.work().is_left() {
                    break;
                }
            }
        }
    }
}

/// Whether a node has said that it drains.
fn leaves(peers: &Peers, node: NodeId) -> bool {
    let stage = peers.state(node).map(|state| state.stage());
    matches!(stage, Some(Stage::Draining | Stage::Drained))
}

/// Counts what this node has.
fn count(
    cluster: &Cluster,
    tunnels: &Tunnels,
    sessions: &Sessions,
    counters: &Arc<Counters>,
    metrics: &Arc<Metrics>,
) -> leaving::Count {
    let (cluster, tunnels, sessions) = (cluster.clone(), tunnels.clone(), sessions.clone());
    let (counters, metrics) = (counters.clone(), metrics.clone());
    Arc::new(move || {
        let (sidecars, sidecars_only_here) = leaving::only_here(&cluster, &tunnels);
        Work {
            calls: counters.calls.get(),
            connections: counters.connections.get(),
            sessions: sessions.count() as u64,
            tunnels: metrics.worker_connections_active.get().max(0) as u64,
            relays: metrics.relays_active.get().max(0) as u64,
            groups_led: cluster.groups_led() as u64,
            sidecars,
            sidecars_only_here,
        }
    })
}
