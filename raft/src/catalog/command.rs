//! What can be said to the catalog, and what it answers.
//!
//! The order of variants is part of the log format: append, never insert. Creates are idempotent by
//! the id that the proposer minted: the same again is `Done`, other content under it is `Conflict`.

use pontoon_proto::id::{
    FunctionId, GroupId, KeyId, NodeBoot, NodeId, RegionId, TenantId, VersionId,
};
use serde::{Deserialize, Serialize};

/// A proposal to the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// An account.
    CreateTenant(Tenant),
    /// A key; only the hash of its secret is here.
    CreateKey(Key),
    /// Refused from the next call on.
    RevokeKey {
        /// Which key.
        id: KeyId,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// Something to invoke.
    CreateFunction(Function),
    /// A revision of it.
    CreateVersion(Version),
    /// Switches a version on or off.
    SetVersionState {
        /// Which version.
        id: VersionId,
        /// What it becomes.
        state: VersionState,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// A region is born with its group: its number, generation and first voters.
    AddRegion(Region),
    /// A node's name, region, boot and addresses, at each of its starts.
    PutNode(Node),
    /// Lets time act.
    Tick,
    /// A node with a fresh data folder asks for its number and life.
    AdmitNode(Admission),
    /// The catalog's leader calls a silent node dead, or alive again.
    MarkNode {
        /// Which node.
        node: NodeId,
        /// Whether its places are given to others.
        dead: bool,
    },
    /// A node leaves for good.
    RemoveNode {
        /// Which node.
        node: NodeId,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// What a region's group shall outlive from now on.
    SetSurvive {
        /// Which region.
        region: RegionId,
        /// What it outlives.
        survive: Survive,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// How patient a group shall be from now on.
    SetPace {
        /// Which group.
        group: GroupId,
        /// How patient.
        pace: Pace,
    },
    /// The other regions by distance from one.
    SetNearest {
        /// From where.
        region: RegionId,
        /// The nearest first.
        nearest: Vec<RegionId>,
    },
    /// A region's group goes on under a new generation from one node's replica; what that replica
    /// lacks is lost.
    RecoverRegion {
        /// Which region.
        region: RegionId,
        /// One more than the present one.
        generation: u64,
        /// Whose replica.
        seed: NodeId,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// A region without nodes goes for good, and its sessions with it.
    RemoveRegion {
        /// Which region.
        region: RegionId,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// Switches the changing of memberships on or off.
    SetAutopilot {
        /// Whether it may act.
        on: bool,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// From now on entries may have this format.
    RaiseFormat {
        /// The new one; a lower one changes nothing.
        format: u16,
    },
    /// A step of the autopilot, for the audit trail.
    Note {
        /// What was done.
        what: String,
    },
    /// Bounds the new sessions of a tenant or version, or lifts the bound; from format
    /// [`LIMITS_FORMAT`] on.
    SetLimit {
        /// Whose sessions.
        of: Limited,
        /// What changes.
        change: LimitChange,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// Divides the calls of a function that name no version between its versions; from format
    /// [`ROUTES_FORMAT`] on.
    SetWeights {
        /// Whose versions.
        function: FunctionId,
        /// All weights at once; a version that is not named has 0. Empty: no weights.
        weights: Vec<(VersionId, u32)>,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// Says where sessions of a version may live; from format [`ROUTES_FORMAT`] on.
    SetSpill {
        /// Which version.
        version: VersionId,
        /// Where.
        spill: Spill,
        /// Whose doing, for the audit trail.
        actor: String,
    },
    /// Something that an operator did to a process and that changes no record, for the audit trail;
    /// from format [`RECORDS_FORMAT`] on.
    Record {
        /// What was done to what; at most [`RECORD_MAX`] bytes.
        what: String,
        /// Whose doing.
        actor: String,
    },
    /// Lets another tenant call a function, or no longer; from format [`SHARES_FORMAT`] on.
    SetShare {
        /// Which function.
        function: FunctionId,
        /// Its guest.
        tenant: TenantId,
        /// Whether the guest may call it.
        shared: bool,
        /// Whose doing, for the audit trail.
        actor: String,
    },
}

/// The first entry format with functions that several tenants call.
pub const SHARES_FORMAT: u16 = 4;

/// The first entry format in which a first member that was removed comes back in a life that it never had.
pub const LIVES_FORMAT: u16 = 4;

/// The first entry format with weights and regions of versions.
pub const ROUTES_FORMAT: u16 = 3;

/// Where sessions of a version may live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spill {
    /// In the region of the node that the call came to, else in the nearest with a free slot.
    #[default]
    Any,
    /// In the region of the node that the call came to, and nowhere else.
    Home,
    /// In these regions and nowhere else, tried in this order.
    Only(Vec<RegionId>),
}

/// The first entry format with records of what operators did to processes.
pub const RECORDS_FORMAT: u16 = 3;

/// The longest such record, in bytes: a verb and a node's name take 100.
pub const RECORD_MAX: usize = 256;

/// The first entry format with limits: builds that write an older one know none.
pub const LIMITS_FORMAT: u16 = 2;

/// Whose sessions are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Limited {
    /// All of an account's.
    Tenant(TenantId),
    /// Those of one revision.
    Version(VersionId),
}

/// How many sessions there may be, and how fast they may come. The default bounds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Sessions that exist at once, waiting ones included; none: no limit.
    pub sessions: Option<u64>,
    /// New sessions per time; none: no limit.
    pub rate: Option<Rate>,
}

/// A token bucket's size and stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// New sessions per 1,000 seconds, so that slow rates are whole numbers.
    pub per_1000s: u64,
    /// How many may come at once after a pause.
    pub burst: u64,
}

/// What changes of a limit; what is none stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitChange {
    /// Sessions at once; 0: no limit.
    pub sessions: Option<u64>,
    /// New sessions per 1,000 seconds; 0: no limit, and no burst.
    pub per_1000s: Option<u64>,
    /// How many may come at once. Without it a new rate may burst what it gives in one second.
    pub burst: Option<u64>,
}

/// What a node with a fresh data folder says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Minted with its data folder.
    pub folder: FolderId,
    /// Its number, when it is one of the first members.
    pub founder: Option<NodeId>,
    /// How many first members there are; later nodes get higher numbers.
    pub founders: u32,
    /// Its region's name; a new one is born with it.
    pub region: String,
    /// What that region outlives when it is born here.
    pub survive: Survive,
    /// The rest; its number, boot, region number, folder and life are not looked at.
    pub node: Node,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Minted by the proposer.
    pub id: TenantId,
    /// Unique among tenants; 1..=128 bytes.
    pub name: String,
    /// Whose doing, for the audit trail.
    pub actor: String,
}

/// A credential, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Public name of the key.
    pub id: KeyId,
    /// SHA-256 of the whole secret.
    pub hash: [u8; 32],
    /// What it opens.
    pub kind: KeyKind,
    /// Who the key is (`nvcf-sub`); at most 256 bytes.
    pub subject: String,
    /// Seconds since 1970 by the checking node's wall clock; none: never.
    pub expires_unix: Option<u64>,
    /// Revoked keys stay, so that lists can show them.
    pub revoked: bool,
    /// Whose doing, for the audit trail.
    pub actor: String,
}

/// What a key opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyKind {
    /// Calls of a tenant's functions.
    Client {
        /// The account.
        tenant: TenantId,
        /// Which functions; empty: all that the tenant may call.
        functions: Vec<FunctionId>,
    },
    /// Attaching workers of one version.
    Worker {
        /// The account.
        tenant: TenantId,
        /// The version.
        version: VersionId,
    },
    /// The admin API.
    Admin(Role),
}

/// What an admin key may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Read.
    Viewer,
    /// End sessions, drain, move.
    Operator,
    /// Everything, keys included.
    Admin,
}

/// Something to invoke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Minted by the proposer.
    pub id: FunctionId,
    /// Its owner.
    pub tenant: TenantId,
    /// For people and `nvcf-function-name`; 1..=128 bytes.
    pub name: String,
    /// Whose doing, for the audit trail.
    pub actor: String,
}

/// A revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Minted by the proposer.
    pub id: VersionId,
    /// Of what.
    pub function: FunctionId,
    /// Whether it takes calls.
    pub state: VersionState,
    /// How its sessions behave.
    pub policy: VersionPolicy,
    /// Whose doing, for the audit trail.
    pub actor: String,
}

/// Whether a version takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionState {
    /// It does.
    Active,
    /// `function not found`.
    Inactive,
}

/// How a version's sessions behave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionPolicy {
    /// Sessions per worker, 1..=16384.
    pub slots: u32,
    /// How long a session without connections is held, milliseconds.
    pub window_ms: u64,
    /// The most that a client may ask for, milliseconds.
    pub window_max_ms: u64,
    /// How long a connection without an open call of a session counts, milliseconds.
    pub idle_ms: u64,
    /// How long an open may wait, milliseconds.
    pub wait_ms: u64,
    /// Whether credentials reach the worker.
    pub forward_credentials: bool,
    /// Whether calls without an id stay with their connection's session.
    pub pin: Pin,
}

/// Whether calls without an id stay with their connection's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pin {
    /// They do.
    Connection,
    /// Each such call opens a session.
    Never,
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self {
            slots: 1,
            window_ms: 30_000,
            window_max_ms: 300_000,
            idle_ms: 30_000,
            wait_ms: 30_000,
            forward_credentials: false,
            pin: Pin::Connection,
        }
    }
}

/// A region and its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// 1..=4095, never reused.
    pub number: RegionId,
    /// Unique; a DNS label.
    pub name: String,
    /// What its group outlives.
    pub survive: Survive,
    /// Rises with each `recover`.
    pub generation: u64,
    /// Who initializes this generation of the group, and with exactly this set.
    pub voters: Vec<FirstVoter>,
    /// A recovered group starts from its first voter's replica, not from nothing.
    pub seeded: bool,
    /// How patient the group is.
    pub pace: Pace,
    /// The other regions, the nearest first; those that are not named are the farthest.
    pub nearest: Vec<RegionId>,
    /// It was removed; its number is never used again.
    pub gone: bool,
}

impl Region {
    /// A region that was just born.
    pub fn new(number: RegionId, name: &str, survive: Survive, voters: Vec<FirstVoter>) -> Region {
        Region {
            number,
            name: name.to_owned(),
            survive,
            generation: 1,
            voters,
            seeded: false,
            pace: Pace::Wan,
            nearest: Vec::new(),
            gone: false,
        }
    }
}

/// One of the voters that a group is born with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FirstVoter {
    /// Which node, ...
    pub node: NodeId,
    /// ... in which of its lives: a later one has another log and may not give birth.
    pub life: u32,
}

/// How patient a group is, by how far its voters are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Pace {
    /// A few milliseconds.
    Lan,
    /// Up to 150 ms.
    #[default]
    Wan,
}

/// What a region's group outlives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Survive {
    /// The loss of any one region.
    Region,
    /// The loss of zones of its own region only.
    Zone,
}

/// A node as others find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number and present boot; an older boot never overwrites a newer one.
    pub at: NodeBoot,
    /// Unique.
    pub name: String,
    /// Its region's number.
    pub region: RegionId,
    /// host:port as others reach them: client, worker, peer, admin and ops.
    pub client: String,
    /// Worker port.
    pub worker: String,
    /// Peer port.
    pub peer: String,
    /// Admin port.
    pub admin: String,
    /// Ops port.
    pub ops: String,
    /// Minted with its data folder.
    pub folder: FolderId,
    /// Which of the data folders that it has had this is, from 1. A node that lost its folder comes
    /// back in another life, as another voter, because it can't know what it had promised.
    pub life: u32,
    /// The newest entry format that its build reads.
    pub format: u16,
    /// What the cluster makes of it; not for the node to say.
    pub standing: Standing,
}

/// A data folder's name for itself: random, minted when the folder is made.
pub type FolderId = [u8; 16];

/// What the cluster makes of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It may vote.
    #[default]
    Member,
    /// It has been silent for long: its places are given to others until it is heard again.
    Dead,
    /// It left for good.
    Removed,
}

/// What the catalog answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, or already so.
    Done,
    /// The id, name or hash is taken by something else; the text says by what.
    Conflict(String),
    /// What it refers to does not exist; the text says what.
    NotFound(String),
    /// A value is out of range; the text says which and what it may be.
    Invalid(String),
    /// `PutNode` of an older boot, life or folder than the known one.
    Stale,
    /// A node's number and life.
    Admitted {
        /// Its number.
        node: NodeId,
        /// Its life.
        life: u32,
    },
    /// Not as things are; the text says why and what to do.
    Refused(String),
}

/// A hint that something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A region was born: its voters start its group.
    RegionAdded(RegionId),
    /// A node came or moved.
    NodeChanged(NodeId),
    /// A key was revoked.
    KeyRevoked(KeyId),
    /// A region's setting or generation changed.
    RegionChanged(RegionId),
}
