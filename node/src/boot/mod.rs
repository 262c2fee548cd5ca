//! Starts a node: reads its configuration, binds every port, opens the store, joins the groups,
//! serves, and leaves when it is told to.
//!
//! Ports are bound before anything is opened, so that a wrong configuration damages nothing.
//! [`joining`] gives a fresh data folder its number, [`wiring`] connects the parts to each other,
//! [`introduce`] keeps the catalog's record of this node, [`facts`] is what the ops port is told.

mod clients;
mod descriptors;
mod dns;
mod facts;
mod introduce;
mod joining;
mod leaving;
mod replicas;
mod wiring;

use crate::config::raw::TimingName;
use crate::config::{Config, ConfigError, Layers};
use crate::dns::Sockets;
use crate::drain::Stage;
use crate::net::{self, TcpListener};
use crate::peer::{self, Me, Peers, Place};
use crate::random;
use crate::tasks::{self, Kind};
use crate::tls::accept::Incoming;
use crate::tls::front::Front;
use crate::tls::{Tls, reload};
use pontoon_proto::id::NodeId;
use pontoon_raft::cluster::{self, Cluster};
use pontoon_raft::group::Timing;
use pontoon_raft::identity::Identity;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Bad configuration (sysexits.h EX_CONFIG is 78; the contract fixes 64, O-CFG-1).
const EXIT_CONFIG: u8 = 64;

/// How long calls may take to finish once the node drains.
const GRACE: Duration = Duration::from_secs(30);

/// Options of `pontoon node`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Overrides one key of the configuration, for example listen.client=127.0.0.1:1.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Allows clear text beyond loopback, as `insecure = true` does.
    #[arg(long)]
    pub insecure: bool,
    /// Checks the configuration and exits.
    #[arg(long)]
    pub check: bool,
    /// Prints the configuration in force, each value with its origin, and exits.
    #[arg(long)]
    pub print_config: bool,
    /// Ends at once when standard input closes: for a parent that must leave no child behind.
    #[arg(long)]
    pub exit_with_stdin: bool,
}

/// Why a node did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration can't be run.
    #[error("bad configuration: {0}")]
    Config(#[from] ConfigError),
    /// Something that it needs can't be had; the text says what to do.
    #[error("{0}")]
    Start(String),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) => EXIT_CONFIG,
            Error::Start(_) => 1,
        }
    }
}

/// Runs a node until it is told to leave.
///
/// # Errors
///
/// When it can't start; nothing was damaged then.
pub async fn run(options: Options) -> Result<(), Error> {
    let layers = layers(&options)?;
    let raw = layers.raw()?;
    if options.print_config {
        println!("{}", layers.print()?);
        return Ok(());
    }
    let token = read(&raw.cluster.join_token_file, "cluster.join_token_file")?;
    let config = Config::validate(raw, &token)?;
    let tls = open_tls(&config)?;
    let front = open_front(&config)?;
    if options.check {
        println!("{}: good", options.config.display());
        return Ok(());
    }
    crate::telemetry::start(&config.log.filter, config.log.format)
        .map_err(|text| Error::Config(ConfigError(text)))?;
    if options.exit_with_stdin {
        crate::dev::leash::end_with_stdin();
    }
    if !config.dns.servers.is_empty() {
        crate::discovery::ask(&config.dns.servers);
    }
    let listeners = Listeners::bind(&config, tls.clone()).await?;
    serve(Arc::new(config), tls, front, listeners).await
}

/// Reads the certificates; what is wrong with them is wrong with the configuration.
fn open_tls(config: &Config) -> Result<Option<Tls>, ConfigError> {
    let Some(tls) = &config.tls else {
        return Ok(None);
    };
    Tls::open(tls.files.clone(), &config.name, &tls.cluster)
        .map(Some)
        .map_err(|problem| ConfigError(problem.0))
}

/// The same for the certificate for clients.
fn open_front(config: &Config) -> Result<Option<Front>, ConfigError> {
    let front = config.front.clone().map(Front::open).transpose();
    front.map_err(|problem| ConfigError(problem.0))
}

fn layers(options: &Options) -> Result<Layers, ConfigError> {
    let text = read(&options.config, "--config")?;
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let path = options.config.display().to_string();
    let mut layers = Layers::new(&path, &text, &environment, &options.set)?;
    if options.insecure {
        layers.flag("insecure", "true", "--insecure")?;
    }
    Ok(layers)
}

fn read(path: &PathBuf, key: &str) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("{key}: cannot read {}: {error}", path.display())))
}

struct Listeners {
    client: TcpListener,
    client_tls: Option<TcpListener>,
    worker: TcpListener,
    peer: Incoming,
    admin: TcpListener,
    ops: TcpListener,
    dns: Option<Sockets>,
}

impl Listeners {
    async fn bind(config: &Config, tls: Option<Tls>) -> Result<Listeners, Error> {
        let bind = async |what, address: std::net::SocketAddr| {
            net::listen(what, &address.to_string())
                .await
                .map_err(|error| Error::Start(error.to_string()))
        };
        Ok(Listeners {
            client: bind("clients", config.listen.client).await?,
            client_tls: match config.front {
                Some(_) => Some(bind("clients over TLS", config.listen.client_tls).await?),
                None => None,
            },
            worker: bind("sidecars", config.listen.worker).await?,
            peer: peer::take(bind("other nodes", config.listen.peer).await?, tls),
            admin: bind("the admin API", config.listen.admin).await?,
            ops: bind("ops", config.listen.ops).await?,
            dns: match &config.dns_service {
                Some(settings) => Some(dns::bind(settings.listen).await?),
                None => None,
            },
        })
    }
}

async fn serve(
    config: Arc<Config>,
    tls: Option<Tls>,
    front: Option<Front>,
    listeners: Listeners,
) -> Result<(), Error> {
    let descriptors = descriptors::raise();
    let identity = Identity::open(
        &config.data_dir,
        config.cluster_id,
        &config.name,
        config.number(),
        random::bytes(),
    )
    .map_err(|error| Error::Start(error.to_string()))?;
    let identity = Arc::new(identity);
    if let Some(tls) = &tls {
        tasks::spawn(Kind::Worker, "certificates", reload::follow(tls.clone()));
    }
    if let Some(front) = &front {
        tasks::spawn(
            Kind::Worker,
            "certificate for clients",
            reload::follow(front.clone()),
        );
    }
    let asking = peers(&config, &identity, tls.clone());
    let (peer, ops) =
        joining::settle(&config, &identity, asking, listeners.peer, listeners.ops).await?;
    let listeners = Listeners {
        peer,
        ops,
        ..listeners
    };
    let at = identity.at();
    tracing::info!(node = %config.name, number = at.node.0, boot = at.boot, region = %config.region, "starting");
    let peers = peers(&config, &identity, tls);
    let cluster = Cluster::start(identity, cluster_options(&config, &peers))
        .await
        .map_err(|error| Error::Start(error.to_string()))?;
    let stop = CancellationToken::new();
    let clients = wiring::Clients { front, descriptors };
    let parts = wiring::Parts::start(
        config.clone(),
        cluster.clone(),
        peers.clone(),
        clients,
        &stop,
    );
    parts.serve(listeners, &stop)?;
    let expelled = introduce::keep(config.clone(), cluster.clone(), peers);
    let ended = tokio::select! {
        () = wait_for_the_end(&parts) => Ok(()),
        why = expelled => Err(Error::Start(why)),
    };
    stop.cancel();
    cluster.stop().await;
    tracing::info!("stopped");
    ended
}

/// The clients to the other first members; the catalog names more of them later.
fn peers(config: &Config, identity: &Identity, tls: Option<Tls>) -> Peers {
    let mut at = identity.at();
    if let Some(number) = config.number() {
        at.node = number;
    }
    let me = Me {
        cluster: config.cluster_id,
        name: config.name.clone(),
        at,
    };
    let peers = Peers::new(me, tls);
    peers.set_places(member_places(config));
    peers
}

fn member_places(config: &Config) -> BTreeMap<NodeId, Place> {
    let places = config.members.iter().enumerate().map(|(index, member)| {
        let place = Place {
            name: member.name.clone(),
            address: member.peer.clone(),
        };
        (NodeId(index as u32 + 1), place)
    });
    places.collect()
}

fn cluster_options(config: &Config, peers: &Peers) -> cluster::Options {
    cluster::Options {
        data_dir: config.data_dir.clone(),
        members: config
            .members
            .iter()
            .enumerate()
            .map(|(index, member)| cluster::Member {
                node: NodeId(index as u32 + 1),
                name: member.name.clone(),
                region: member.region.clone(),
            })
            .collect(),
        cluster_id: config.cluster_id,
        timing: match config.timing {
            TimingName::Auto => None,
            TimingName::Wan => Some(Timing::WAN),
            TimingName::Lan => Some(Timing::LAN),
        },
        survive: config.survive,
        node_lost_after: config.node_lost_after,
        node_dead_after: config.node_dead_after,
        transport: Arc::new(peers.clone()),
        distance: {
            let peers = peers.clone();
            Arc::new(move |node| peers.rtt(node))
        },
    }
}

/// SIGTERM drains, a second one stops at once; SIGINT counts the same (O-DRN-1). A node that an operator
/// has drained ends with the first.
async fn wait_for_the_end(parts: &wiring::Parts) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("cannot listen for signals; this node ends only by being killed");
        return std::future::pending().await;
    };
    let mut asked = async || tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} };
    asked().await;
    let leaving = &parts.leaving;
    if !leaving.is_drained() {
        leaving.for_good(GRACE);
        tokio::select! {
            () = parts.quiet() => {}
            () = tokio::time::sleep(GRACE) => tracing::warn!(work = ?leaving.work(), "the grace is over"),
            () = asked() => tracing::info!("told to stop at once"),
        }
    }
    leaving.drain().enter(Stage::Stopped);
}
