//! What can be asked of a cluster, noun by noun.
//!
//! Everything that destroys has `--dry-run`. Tokens and keys are never flag values: other users of
//! the machine can read those.

use clap::{Args, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where and how to ask.
#[derive(Args, Clone, Debug)]
pub(super) struct Ask {
    /// Admin address of any node; an SRV name has no port.
    #[arg(
        long,
        env = "PONTOON_ENDPOINT",
        default_value = "http://127.0.0.1:10080",
        value_name = "URL"
    )]
    pub(super) endpoint: String,
    /// The DNS servers that are asked for names [default: those of /etc/resolv.conf].
    #[arg(
        long,
        env = "PONTOON_DNS",
        value_name = "IP:PORT,...",
        value_delimiter = ','
    )]
    pub(super) dns: Vec<SocketAddr>,
    /// The CAs of the nodes' certificates, for a cluster with TLS.
    #[arg(long, env = "PONTOON_CA_FILE", value_name = "PATH")]
    pub(super) ca_file: Option<PathBuf>,
    /// File with the admin token [default: the variable PONTOON_TOKEN].
    #[arg(long, value_name = "PATH")]
    pub(super) token_file: Option<PathBuf>,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
}

/// How to print the answer.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Subcommand, Debug)]
pub(super) enum Noun {
    /// The cluster as a whole.
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// The replicated groups: the catalog and one per region.
    #[command(subcommand)]
    Group(GroupVerb),
    /// The regions: what their groups outlive, how they are recovered and removed.
    #[command(subcommand)]
    Region(RegionVerb),
    /// What operators and the autopilot did.
    #[command(subcommand)]
    Audit(AuditVerb),
    /// The workers that are attached.
    #[command(subcommand)]
    Worker(WorkerVerb),
    /// The sessions between clients and workers.
    #[command(subcommand)]
    Session(SessionVerb),
    /// The accounts that callers act for.
    #[command(subcommand)]
    Tenant(TenantVerb),
    /// The credentials of clients, workers and operators.
    #[command(subcommand)]
    Key(KeyVerb),
    /// What can be invoked.
    #[command(subcommand)]
    Function(FunctionVerb),
    /// The revisions of functions.
    #[command(subcommand)]
    Version(VersionVerb),
}

#[derive(Subcommand, Debug)]
pub(super) enum ClusterVerb {
    /// Identity and regions.
    Show(Ask),
    /// Lets memberships change by themselves, or not: pause it before you do something by hand.
    Autopilot {
        /// What it becomes.
        #[arg(value_enum)]
        state: Switch,
        /// Only say what it is.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

/// Whether something may act.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// It may not.
    Pause,
    /// It may.
    Resume,
}

/// What a region's group outlives.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survive {
    /// The loss of any one region, this one included.
    Region,
    /// The loss of nodes of its own region.
    Zone,
}

#[derive(Subcommand, Debug)]
pub(super) enum RegionVerb {
    /// All regions.
    List(Ask),
    /// Changes what a region's group outlives; its voters move step by step.
    Survive {
        /// The region.
        name: String,
        /// What it outlives from now on.
        #[arg(value_enum)]
        what: Survive,
        /// Only say what it is.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Lets a region's group that has lost its quorum for good go on from one node's replica, under a
    /// new generation. What that replica lacks is lost; the old voters are refused for good.
    Recover {
        /// The region.
        name: String,
        /// The node to go on from: the one with the highest `applied` in `pontoon group show`.
        #[arg(long, value_name = "NODE")]
        seed: String,
        /// Says that what the seed lacks may be lost.
        #[arg(long, required = true)]
        accept_loss: bool,
        /// Only check.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Takes a region without nodes out for good, and its sessions with it.
    Remove {
        /// The region.
        name: String,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum AuditVerb {
    /// The newest writes and autopilot steps, oldest first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum NodeVerb {
    /// All nodes, and whether the asked one reaches them.
    List(Ask),
    /// One node.
    #[command(alias = "describe")]
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Makes a node take nothing new and let what it has finish: clients, sidecars and leaderships go
    /// elsewhere, and at the end it is `drained` and waits to be stopped. Any node may be asked.
    Drain {
        /// Its name.
        name: String,
        /// How long what it has may take to finish; what is left then is cut [default: 30s].
        #[arg(long, value_name = "SPAN", value_parser = span)]
        deadline: Option<Duration>,
        /// Return once it is drained, and say meanwhile how far it is; 1 when something was cut.
        #[arg(long)]
        wait: bool,
        /// Also when no other node is ready.
        #[arg(long)]
        force: bool,
        /// Only say how it is.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Makes a draining or drained node serve again.
    Undrain {
        /// Its name.
        name: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Takes a node out for good: its places in all groups go to others. Stop it first, or drain it.
    Remove {
        /// Its name.
        name: String,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum GroupVerb {
    /// All groups as the asked node sees them.
    List(Ask),
    /// One group.
    Show {
        /// `catalog`, or a region's name.
        name: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// The hash of each group's state: equal on all nodes at the same applied index.
    Hash(Ask),
}

#[derive(Subcommand, Debug)]
pub(super) enum WorkerVerb {
    /// All workers.
    List {
        /// Only those of this region.
        #[arg(long, value_name = "NAME")]
        region: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// How tunnels and control streams of sidecars ended lately, at all nodes; the newest first.
    Closes {
        /// Only those of this worker.
        #[arg(long, value_name = "UUID")]
        worker: Option<String>,
        /// Only tunnels of this session.
        #[arg(long, value_name = "UUID")]
        session: Option<String>,
        /// At most so many; each node remembers its last 1,000, until it stops.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum SessionVerb {
    /// Live sessions.
    List {
        /// Only those of this region.
        #[arg(long, value_name = "NAME")]
        region: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        ask: Ask,
    },
    /// One session, certain: asked of its home group.
    Show {
        /// Its request id.
        id: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Ends a session; returns when its sidecar has let go.
    End {
        /// Its request id.
        id: String,
        /// Only say what would end.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum TenantVerb {
    /// Adds an account.
    Create {
        /// Unique among tenants.
        name: String,
        /// A UUID of your own choice.
        #[arg(long, value_name = "UUID")]
        id: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// All accounts, with their limits and the sessions that they have.
    List(Ask),
    /// Bounds an account's new sessions from now on, on all nodes; resumes are free. What no flag
    /// names stays as it is; without flags it is only shown.
    Limit {
        /// Its name or id.
        name: String,
        #[command(flatten)]
        limit: Limit,
        /// Only check.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

/// How many sessions, and how fast they may come.
#[derive(Args, Clone, Debug)]
pub(super) struct Limit {
    /// The most sessions at once; 0 or `none`: no limit.
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(super) sessions: Option<u64>,
    /// New sessions per second, for example 20 or 0.5; 0 or `none`: no limit.
    #[arg(long, value_name = "R", value_parser = rate, allow_negative_numbers = true)]
    pub(super) rate: Option<f64>,
    /// How many may come at once after a pause [default: what the rate gives in a second].
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) burst: Option<u64>,
}

/// What a key opens.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// Calls of a tenant's functions.
    Client,
    /// Attaching workers of one version.
    Worker,
    /// Reading through the admin API.
    Viewer,
    /// Reading, and ending sessions.
    Operator,
    /// Everything.
    Admin,
}

#[derive(Subcommand, Debug)]
pub(super) enum KeyVerb {
    /// Mints a key; its secret is shown this once.
    Create {
        /// What it opens.
        #[arg(long, value_enum)]
        kind: KeyKind,
        /// Its tenant, for client and worker keys.
        #[arg(long, value_name = "UUID", required_if_eq_any([("kind", "client"), ("kind", "worker")]))]
        tenant: Option<String>,
        /// Who the key is; workers see it as `nvcf-sub`.
        #[arg(long, default_value = "")]
        subject: String,
        /// A function that a client key may invoke; repeat it for more [default: all of the tenant's].
        #[arg(long, value_name = "UUID")]
        function: Vec<String>,
        /// The version that a worker key covers.
        #[arg(long, value_name = "UUID", required_if_eq("kind", "worker"))]
        version: Option<String>,
        /// How long it lives, for example 12h or 90d [default: for ever].
        #[arg(long, value_name = "SPAN", value_parser = span)]
        expires_in: Option<Duration>,
        #[command(flatten)]
        ask: Ask,
    },
    /// All keys, without their secrets.
    List(Ask),
    /// Refuses a key from the next call on; open calls go on.
    Revoke {
        /// The key's id, not its secret.
        id: String,
        /// Only say what would be revoked.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum FunctionVerb {
    /// Adds something to invoke.
    Create {
        /// For people, and for workers as `nvcf-function-name`.
        name: String,
        /// Whose it is.
        #[arg(long, value_name = "UUID")]
        tenant: String,
        /// A UUID of your own choice.
        #[arg(long, value_name = "UUID")]
        id: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Divides the calls that name no version between a function's versions, all weights at once;
    /// open sessions stay where they are.
    Weigh {
        /// The function.
        id: String,
        /// A version and its weight, for example 95; a version that is not named has 0.
        #[arg(value_name = "VERSION=WEIGHT", value_parser = weight, required_unless_present = "none")]
        weights: Vec<(String, u32)>,
        /// Lift all weights: the first version with a free slot takes a call.
        #[arg(long, conflicts_with = "weights")]
        none: bool,
        /// Only check.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Lets another tenant's keys call a function: their sessions are that tenant's, the workers are the
    /// owner's.
    Share(Share),
    /// Takes that back: the other tenant's next call finds no such function; calls under way go on.
    Unshare(Share),
    /// All functions.
    List {
        /// Only those that this tenant may call: its own, and those that are shared with it.
        #[arg(long, value_name = "UUID")]
        tenant: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
}

/// A function and another tenant.
#[derive(Args, Debug)]
pub(super) struct Share {
    /// The function.
    pub(super) id: String,
    /// The other tenant: its name or id.
    #[arg(long, value_name = "TENANT")]
    pub(super) tenant: String,
    /// Only check.
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) ask: Ask,
}

/// How a version's sessions behave.
#[derive(Args, Clone, Debug)]
pub(super) struct Policy {
    /// Sessions per worker.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub(super) slots: u32,
    /// How long a session without connections is held [default: 30s].
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(super) window: Option<Duration>,
    /// The most that a client may ask for [default: 300s].
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(super) window_max: Option<Duration>,
    /// How long a connection without a call counts for its session [default: 30s].
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(super) idle: Option<Duration>,
    /// How long a first call may wait for a worker [default: 30s].
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(super) wait: Option<Duration>,
    /// Let credentials reach the worker.
    #[arg(long)]
    pub(super) forward_credentials: bool,
    /// Whether calls without an id stay with their connection's session.
    #[arg(long, value_enum, default_value_t = Pin::Connection)]
    pub(super) pin: Pin,
}

/// Whether calls without an id stay with their connection's session.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pin {
    /// They do.
    Connection,
    /// Each opens a session of its own.
    Never,
}

/// Whether a version takes calls.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VersionState {
    /// It does.
    Active,
    /// Its callers get `function not found`.
    Inactive,
}

#[derive(Subcommand, Debug)]
pub(super) enum VersionVerb {
    /// Adds a revision of a function; it is active at once.
    Create {
        /// Of what.
        #[arg(long, value_name = "UUID")]
        function: String,
        /// A UUID of your own choice.
        #[arg(long, value_name = "UUID")]
        id: Option<String>,
        #[command(flatten)]
        policy: Policy,
        #[command(flatten)]
        ask: Ask,
    },
    /// Bounds a version's new sessions from now on, on all nodes; resumes are free. What no flag
    /// names stays as it is; without flags it is only shown.
    Limit {
        /// The version.
        id: String,
        #[command(flatten)]
        limit: Limit,
        /// Only check.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Says in which regions a version's new sessions may live; open ones stay where they are.
    Regions {
        /// The version.
        id: String,
        /// These regions and no others, tried in this order.
        #[arg(value_name = "REGION", required_unless_present_any = ["any", "home"])]
        regions: Vec<String>,
        /// Any region: the one of the node that is called, then the nearest with a free slot.
        #[arg(long, conflicts_with_all = ["regions", "home"])]
        any: bool,
        /// Only the region of the node that is called.
        #[arg(long, conflicts_with = "regions")]
        home: bool,
        /// Only check.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// All versions.
    List {
        /// Only those of this function.
        #[arg(long, value_name = "UUID")]
        function: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Switches a version on or off; open sessions go on.
    SetState {
        /// The version.
        id: String,
        /// What it becomes.
        #[arg(value_enum)]
        state: VersionState,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

/// Reads `VERSION=WEIGHT`.
fn weight(text: &str) -> Result<(String, u32), String> {
    let (version, weight) = text.split_once('=').unwrap_or((text, ""));
    match weight.parse::<u32>() {
        Ok(weight) if weight <= 10_000 && !version.is_empty() => Ok((version.into(), weight)),
        _ => Err("write a version's id, = and 0 to 10000".into()),
    }
}

/// Reads `90s`, `15m`, `12h`, `30d` or `250ms`.
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ => return Err("write a number and ms, s, m, h or d, for example 90s".into()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| "write a number and ms, s, m, h or d, for example 90s".into())
}

/// Reads a number of sessions, or `none`.
fn count(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        _ => text
            .parse()
            .map_err(|_| "write a whole number, or none for no limit".into()),
    }
}

/// Reads a number per second, or `none`.
fn rate(text: &str) -> Result<f64, String> {
    let rate = match text {
        "none" => Some(0.0),
        _ => text.parse().ok(),
    };
    rate.filter(|rate| *rate == 0.0 || (0.001..=1e6).contains(rate))
        .ok_or_else(|| "write 0.001 to 1000000, or none for no limit".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_err_8_no_limit_is_said_as_a_word_or_as_zero() {
        for none in ["none", "0"] {
            assert_eq!(count(none), Ok(0));
            assert_eq!(rate(none), Ok(0.0));
        }
        assert_eq!((count("7"), rate("0.5")), (Ok(7), Ok(0.5)));
        for wrong in ["", "-1", "many", "NaN", "inf", "1e7", "0.0001"] {
            assert!(count(wrong).is_err(), "{wrong}");
            assert!(rate(wrong).unwrap_err().contains("none"), "{wrong}");
        }
    }

    #[test]
    fn spans_need_a_number_and_a_unit() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(span("2d"), Ok(Duration::from_secs(172_800)));
        for wrong in ["", "s", "90", "-1s", "1.5h", "1w", "99999999999999999999d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
