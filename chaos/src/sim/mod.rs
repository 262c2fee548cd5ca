//! `pontoon-chaos sim`: a whole control plane in one thread, hurt and checked, all from one seed.
//!
//! [`run`] is one run: real groups, state machines, forwarding, beats, autopilot and log code over a
//! simulated network (`net`) and simulated disks, in processes that die and stand still (`node`, and
//! [`pontoon_raft::host`] beneath). `load` asks things of it, `faults` hurts it, `watch` judges it.
//! Time is simulated too: a run of a minute takes a fraction of a second.

mod command;
mod consensus;
mod faults;
mod hazards;
mod load;
mod net;
mod node;
mod operator;
mod random;
mod sidecars;
mod watch;
mod world;

pub use command::{Options, command};

use consensus::Circumstances;
use faults::Nemesis;
use hazards::Lookout;
use load::{Client, Lives};
use net::Net;
use node::{Machine, Site};
use pontoon_proto::id::{NodeId, RegionId};
use pontoon_raft::cluster::Member;
use pontoon_raft::group::Status;
use pontoon_raft::machine::Machine as _;
use sidecars::Sidecars;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, RngSeed};
use watch::Watch;
use world::{World, spawn};

/// How long a cluster is hurt.
const RAGE: Duration = Duration::from_secs(15);

/// How soon it must work again: every node's word must count, and a damaged replica be a voter again.
const HEALED: Duration = Duration::from_secs(45);

/// A defect that is planted, to see that the checks notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bug {
    /// The disk says that it is synced, and keeps nothing.
    SkipFsync,
    /// A vote is granted to everybody who asks.
    VoteTwice,
    /// A linearizable read is answered without asking anybody.
    StaleNegative,
    /// State clocks are stamped by a clock that runs far too fast.
    FastClock,
    /// Whoever asks whether it would be voted for is told that it would.
    NoPreVote,
    /// A leader is told that the others have its entries as soon as it sends them.
    AckEarly,
    /// A sidecar dials for whatever binding it is asked for.
    SlotUnfenced,
    /// A ticket that was used is taken again.
    TicketTwice,
    /// A process acts on each effect twice.
    EffectTwice,
    /// An open comes again, with a new date, when the end of its session is forgotten.
    LateOpen,
    /// A sidecar gives a session up whose client may know of it.
    ForgetTold,
}

/// What came of one run.
#[derive(Debug)]
pub struct Verdict {
    /// Everything that was noted, in order: the same for the same seed, byte for byte.
    pub trace: String,
    /// How often each thing happened.
    pub cover: BTreeMap<&'static str, u64>,
    /// The first check that failed, and how.
    pub failure: Option<String>,
}

/// Runs one seed.
///
/// # Errors
/// When no folder or no runtime can be had.
pub fn run(seed: u64, bug: Option<Bug>) -> std::io::Result<Verdict> {
    let memory = std::path::Path::new("/dev/shm");
    let home = match memory.is_dir() {
        true => tempfile::tempdir_in(memory)?,
        false => tempfile::tempdir()?,
    };
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()?;
    let (trace, cover, failure) = runtime.block_on(async {
        let world = Arc::new(World::new(seed, bug));
        let live = live(&world, home.path().to_owned());
        live.await;
        world.take()
    });
    Ok(Verdict {
        trace,
        cover,
        failure,
    })
}

/// The regions of the nodes of one run.
fn regions(world: &World) -> &'static [&'static str] {
    const SHAPES: [&[&str]; 3] = [&["a", "b", "c"], &["a", "a", "b", "c"], &["a", "a", "a"]];
    SHAPES[world.random.below(SHAPES.len())]
}

/// One run.
async fn live(world: &Arc<World>, home: std::path::PathBuf) {
    let regions = regions(world);
    let names: BTreeSet<&str> = regions.iter().copied().collect();
    let members = (1..).zip(regions).map(|(number, region)| Member {
        node: NodeId(number),
        name: format!("node-{number}"),
        region: (*region).into(),
    });
    let members: Vec<Member> = members.collect();
    let watch = Arc::new(Watch::new(world.clone()));
    let numbers = members.iter().map(|member| member.node).collect();
    let net = Arc::new(Net::new(world.clone(), watch.clone(), numbers));
    let sidecars = Sidecars::new(world.clone());
    let site = Site {
        world: world.clone(),
        sidecars: sidecars.clone(),
        watch: watch.clone(),
        net: net.clone(),
        members: members.clone(),
        home,
    };
    let machines = members
        .iter()
        .map(|member| Machine::new(site.clone(), member.node.0, &member.region));
    let machines = machines.collect();
    let lives = Lives::default();
    let count = names.len() as u16;
    world.tell(format_args!("regions {regions:?}"));
    let client = Client {
        world: world.clone(),
        watch: watch.clone(),
        lives: lives.clone(),
        sidecars,
        random: Arc::new(world.random.fork()),
        regions: count,
    };
    let mut nemesis = Nemesis::new(
        world.clone(),
        watch.clone(),
        net.clone(),
        lives.clone(),
        machines,
    );
    let looking = look(world.clone(), watch.clone(), net.clone(), lives.clone());
    spawn(looking);
    nemesis.found().await;
    hurt_and_heal(&mut nemesis, &client).await;
    // It holds the nodes, and they hold it.
    net.clear();
}

/// Founding, harm, healing.
async fn hurt_and_heal(nemesis: &mut Nemesis, client: &Client) {
    let Client {
        world,
        watch,
        lives,
        regions: count,
        ..
    } = client;
    let count = *count;
    if !settled(nemesis, lives, count).await {
        return world.fail("founding", format_args!("not within {HEALED:?}"));
    }
    let load = client.start(5);
    if world.bug == Some(Bug::FastClock) {
        for _ in 0..100 {
            nemesis.race();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    if world.bug == Some(Bug::LateOpen) {
        client.opens_late().await;
    }
    watch.hurts();
    nemesis.rage(RAGE).await;
    if world.failed() {
        return;
    }
    nemesis.heal().await;
    client.sidecars.unblock();
    load.iter().for_each(tokio::task::JoinHandle::abort);
    if !settled(nemesis, lives, count).await {
        let open = unsettled(lives, count).unwrap_or_default();
        return world.fail(
            "liveness",
            format_args!("not healed within {HEALED:?}: {open}"),
        );
    }
    for region in 1..=count {
        let mut served = false;
        for _ in 0..5 {
            served = served || client.serves(RegionId(region)).await;
        }
        if !served {
            world.fail("liveness", format_args!("region {region} opens nothing"));
        }
    }
}

/// Looks at all replicas, again and again.
async fn look(world: Arc<World>, watch: Arc<Watch>, net: Arc<Net>, lives: Lives) {
    let mut lookout = Lookout::default();
    while !world.failed() {
        let all = lives.all().clone();
        lookout.look(&world, &watch, &net, &all);
        for (node, life) in all {
            let circumstances = Circumstances {
                life: life.number,
                frozen: life.host.frozen(),
                alone: net.isolated(node),
            };
            watch.look(node, life.cluster.catalog(), circumstances);
            for (_, group) in life.cluster.regions() {
                watch.directory(node, &group, circumstances);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until nothing is left to be said by [`unsettled`]; false when that takes too long.
async fn settled(nemesis: &mut Nemesis, lives: &Lives, regions: u16) -> bool {
    let settling = async {
        loop {
            let down = nemesis.machines.iter().any(|one| one.life.is_none());
            if !down && unsettled(lives, regions).is_none() {
                return;
            }
            nemesis.retry().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(HEALED, settling).await.is_ok()
}

/// What is not yet well: some node that doesn't count in a group, or replicas that differ.
fn unsettled(lives: &Lives, regions: u16) -> Option<String> {
    let lives = lives.all();
    for (node, life) in lives.iter() {
        if !life.cluster.catalog().connected() {
            return Some(format!("{node} is not connected to the catalog"));
        }
        let groups = life.cluster.regions();
        if groups.len() != usize::from(regions) {
            return Some(format!("{node} runs {} regions", groups.len()));
        }
        if let Some((region, group)) = groups.iter().find(|(_, group)| !group.connected()) {
            let status = group.status();
            return Some(format!("{node} is not connected to {region:?}: {status:?}"));
        }
    }
    for region in 1..=regions {
        let replicas = lives.iter().filter_map(|(node, life)| {
            let group = life.cluster.region(RegionId(region))?;
            Some((*node, group.status(), group.state().digest()))
        });
        let replicas: Vec<_> = replicas.collect();
        let same = |one: &(_, Status, _)| (one.1.applied, one.2);
        if replicas.iter().map(same).collect::<BTreeSet<_>>().len() != 1 {
            let each = replicas.iter().map(|(node, status, _)| {
                format!(
                    "{node} in term {} under {:?} has {} of {}, failed: {:?}",
                    status.term, status.leader, status.applied, status.last_log, status.failed
                )
            });
            let each = each.collect::<Vec<_>>().join("; ");
            return Some(format!("the replicas of region {region} differ: {each}"));
        }
    }
    None
}
