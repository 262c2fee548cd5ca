//! Scripts of what the catalog takes, refuses and remembers.

use crate::catalog::Catalog;
use crate::catalog::audit::AUDIT_MAX;
use crate::catalog::command::*;
use crate::machine::{Clock, Machine, reborn};
use pontoon_proto::id::{FunctionId, KeyId, NodeBoot, NodeId, RegionId, TenantId, VersionId};
use proptest::prelude::*;
use uuid::Uuid;

pub(super) fn tenant(number: u128, name: &str) -> Command {
    Command::CreateTenant(Tenant {
        id: TenantId(Uuid::from_u128(number)),
        name: name.to_owned(),
        actor: "ada".to_owned(),
    })
}

pub(super) fn function(number: u128, of: u128) -> Command {
    Command::CreateFunction(Function {
        id: FunctionId(Uuid::from_u128(number)),
        tenant: TenantId(Uuid::from_u128(of)),
        name: format!("function-{number}"),
        actor: "ada".to_owned(),
    })
}

pub(super) fn version(number: u128, of: u128, policy: VersionPolicy) -> Command {
    Command::CreateVersion(Version {
        id: VersionId(Uuid::from_u128(number)),
        function: FunctionId(Uuid::from_u128(of)),
        state: VersionState::Active,
        policy,
        actor: "ada".to_owned(),
    })
}

pub(super) fn key(number: u128, hash: u8, kind: KeyKind) -> Command {
    Command::CreateKey(Key {
        id: KeyId(Uuid::from_u128(number)),
        hash: [hash; 32],
        kind,
        subject: "someone".to_owned(),
        expires_unix: None,
        revoked: false,
        actor: "ada".to_owned(),
    })
}

pub(super) fn client(of: u128, functions: &[u128]) -> KeyKind {
    KeyKind::Client {
        tenant: TenantId(Uuid::from_u128(of)),
        functions: functions
            .iter()
            .map(|&one| FunctionId(Uuid::from_u128(one)))
            .collect(),
    }
}

pub(super) fn worker(of: u128, version: u128) -> KeyKind {
    KeyKind::Worker {
        tenant: TenantId(Uuid::from_u128(of)),
        version: VersionId(Uuid::from_u128(version)),
    }
}

pub(super) fn region(number: u16, name: &str, voters: &[u32]) -> Command {
    let first = |&node: &u32| FirstVoter {
        node: NodeId(node),
        life: 1,
    };
    Command::AddRegion(Region::new(
        RegionId(number),
        name,
        Survive::Region,
        voters.iter().map(first).collect(),
    ))
}

pub(super) fn node(number: u32, boot: u64, name: &str, port: u16) -> Command {
    Command::PutNode(Node {
        at: NodeBoot {
            node: NodeId(number),
            boot,
        },
        name: name.to_owned(),
        region: RegionId(1),
        client: format!("127.0.0.1:{port}"),
        worker: String::new(),
        peer: String::new(),
        admin: String::new(),
        ops: String::new(),
        folder: [number as u8; 16],
        life: 1,
        format: 1,
        standing: Standing::Member,
    })
}

pub(super) struct World {
    pub(super) state: Catalog,
    index: u64,
    effects: Vec<Effect>,
}

impl World {
    pub(super) fn new() -> World {
        World {
            state: Catalog::new(),
            index: 0,
            effects: Vec::new(),
        }
    }

    /// Tenants 1 and 2, each with a function (11, 12) and a version of it (21, 22).
    pub(super) fn with_two_tenants() -> World {
        let mut world = World::new();
        for of in [1, 2] {
            assert_eq!(world.say(tenant(of, &format!("tenant-{of}"))), Reply::Done);
            assert_eq!(world.say(function(10 + of, of)), Reply::Done);
            assert_eq!(
                world.say(version(20 + of, 10 + of, VersionPolicy::default())),
                Reply::Done
            );
        }
        world
    }

    pub(super) fn say(&mut self, command: Command) -> Reply {
        self.index += 1;
        self.effects.clear();
        let now = Clock(self.index);
        let reply = self
            .state
            .apply(self.index, now, command, &mut self.effects);
        self.state.check().unwrap();
        reply
    }

    pub(super) fn audited(&self) -> usize {
        self.state.audit().count()
    }

    /// What the audit trail has behind its first entries.
    pub(super) fn said_since(&self, audited: usize) -> Vec<String> {
        let later = self.state.audit().skip(audited);
        later.map(|one| one.what.clone()).collect()
    }
}

/// Why a command was not carried out.
pub(super) fn refused(reply: Reply) -> String {
    match reply {
        Reply::Invalid(text) | Reply::NotFound(text) | Reply::Refused(text) => text,
        other => panic!("{other:?} is no refusal"),
    }
}

fn conflict(reply: Reply) -> bool {
    matches!(reply, Reply::Conflict(_))
}

fn missing(reply: Reply) -> bool {
    matches!(reply, Reply::NotFound(_))
}

fn invalid(reply: Reply) -> bool {
    matches!(reply, Reply::Invalid(_))
}

#[test]
fn a_create_said_twice_is_done_once_and_other_content_under_its_id_conflicts() {
    let mut world = World::with_two_tenants();
    let before = world.audited();
    assert_eq!(world.say(tenant(1, "tenant-1")), Reply::Done);
    assert_eq!(world.say(function(11, 1)), Reply::Done);
    assert_eq!(
        world.say(version(21, 11, VersionPolicy::default())),
        Reply::Done
    );
    assert_eq!(world.say(key(31, 1, client(1, &[]))), Reply::Done);
    assert_eq!(world.say(key(31, 1, client(1, &[]))), Reply::Done);
    assert_eq!(world.audited(), before + 1);
    assert!(conflict(world.say(tenant(1, "other"))));
    assert!(conflict(world.say(function(11, 2))));
    let policy = VersionPolicy {
        slots: 2,
        ..VersionPolicy::default()
    };
    assert!(conflict(world.say(version(21, 11, policy))));
    assert!(conflict(world.say(key(31, 1, client(2, &[])))));
    assert_eq!(world.audited(), before + 1);
}

#[test]
fn a_retried_create_is_done_also_after_its_record_was_switched_off() {
    let mut world = World::with_two_tenants();
    world.say(key(31, 1, client(1, &[])));
    let id = KeyId(Uuid::from_u128(31));
    assert_eq!(
        world.say(Command::RevokeKey {
            id,
            actor: "bob".to_owned()
        }),
        Reply::Done
    );
    assert_eq!(world.effects, [Effect::KeyRevoked(id)]);
    assert_eq!(
        world.say(Command::RevokeKey {
            id,
            actor: "bob".to_owned()
        }),
        Reply::Done
    );
    assert_eq!(world.effects, []);
    assert_eq!(world.say(key(31, 1, client(1, &[]))), Reply::Done);
    assert!(world.state.key_by_hash(&[1; 32]).unwrap().revoked);
    let id = VersionId(Uuid::from_u128(21));
    let off = Command::SetVersionState {
        id,
        state: VersionState::Inactive,
        actor: String::new(),
    };
    assert_eq!(world.say(off), Reply::Done);
    assert_eq!(
        world.say(version(21, 11, VersionPolicy::default())),
        Reply::Done
    );
    assert_eq!(
        world.state.version(id).unwrap().state,
        VersionState::Inactive
    );
}

#[test]
fn names_and_hashes_are_unique() {
    let mut world = World::with_two_tenants();
    assert!(conflict(world.say(tenant(3, "tenant-1"))));
    assert_eq!(world.say(key(31, 1, client(1, &[]))), Reply::Done);
    assert!(conflict(world.say(key(32, 1, client(2, &[])))));
    assert_eq!(world.say(region(1, "us-east", &[1])), Reply::Done);
    assert!(conflict(world.say(region(2, "us-east", &[2]))));
    assert_eq!(world.say(node(1, 1, "us-east-1", 1)), Reply::Done);
    assert!(conflict(world.say(node(2, 1, "us-east-1", 2))));
    assert!(conflict(world.say(node(1, 2, "us-east-2", 2))));
}

#[test]
fn references_must_exist_and_belong_to_the_same_tenant() {
    let mut world = World::with_two_tenants();
    assert!(missing(world.say(function(19, 9))));
    assert!(missing(world.say(version(
        29,
        19,
        VersionPolicy::default()
    ))));
    assert!(missing(world.say(key(31, 1, client(9, &[])))));
    assert!(missing(world.say(key(31, 1, client(1, &[11, 12])))));
    assert!(missing(world.say(key(31, 1, worker(1, 22)))));
    assert!(missing(world.say(key(31, 1, worker(1, 29)))));
    assert_eq!(world.say(key(31, 1, worker(1, 21))), Reply::Done);
    assert_eq!(world.say(key(32, 2, client(2, &[12]))), Reply::Done);
    assert_eq!(
        world.say(key(33, 3, KeyKind::Admin(Role::Viewer))),
        Reply::Done
    );
    let id = KeyId(Uuid::from_u128(99));
    assert!(missing(world.say(Command::RevokeKey {
        id,
        actor: String::new()
    })));
}

#[test]
fn values_out_of_range_are_refused() {
    let mut world = World::with_two_tenants();
    for name in ["", "tab\there", &"x".repeat(129)] {
        assert!(invalid(world.say(tenant(3, name))), "{name:?}");
    }
    assert_eq!(world.say(tenant(3, &"x".repeat(128))), Reply::Done);
    let standard = VersionPolicy::default;
    for policy in [
        VersionPolicy {
            slots: 0,
            ..standard()
        },
        VersionPolicy {
            slots: 16_385,
            ..standard()
        },
        VersionPolicy {
            window_ms: 300_001,
            ..standard()
        },
        VersionPolicy {
            wait_ms: u64::MAX,
            ..standard()
        },
        VersionPolicy {
            window_max_ms: u64::MAX,
            ..standard()
        },
        VersionPolicy {
            idle_ms: 0,
            ..standard()
        },
    ] {
        assert!(
            invalid(world.say(version(23, 11, policy.clone()))),
            "{policy:?}"
        );
    }
    for name in ["", "Us", "-us", "us-", "us_east", &"x".repeat(64)] {
        assert!(invalid(world.say(region(1, name, &[1]))), "{name:?}");
    }
    for (number, voters) in [
        (0, &[1][..]),
        (4096, &[1]),
        (1, &[]),
        (1, &[1, 1]),
        (1, &[0]),
    ] {
        assert!(
            invalid(world.say(region(number, "us", voters))),
            "{number} {voters:?}"
        );
    }
    assert!(invalid(world.say(node(0, 1, "n", 1))));
}

#[test]
fn h_24_a_region_number_is_never_given_again() {
    let mut world = World::new();
    assert_eq!(world.say(region(7, "us-east", &[1, 2, 3])), Reply::Done);
    assert_eq!(world.effects, [Effect::RegionAdded(RegionId(7))]);
    assert_eq!(world.say(region(7, "us-east", &[1, 2, 3])), Reply::Done);
    assert_eq!(world.effects, []);
    assert!(conflict(world.say(region(7, "eu-central", &[1, 2, 3]))));
    assert!(conflict(world.say(region(7, "us-east", &[4]))));
    assert_eq!(
        world.state.region_by_name("us-east").unwrap().number,
        RegionId(7)
    );
}

#[test]
fn an_older_boot_of_a_node_never_overwrites_a_newer_one() {
    let mut world = World::new();
    assert_eq!(world.say(node(1, 5, "us-east-1", 1000)), Reply::Done);
    assert_eq!(world.effects, [Effect::NodeChanged(NodeId(1))]);
    assert_eq!(world.say(node(1, 5, "us-east-1", 1000)), Reply::Done);
    assert_eq!(world.effects, []);
    assert_eq!(world.say(node(1, 4, "us-east-1", 2000)), Reply::Stale);
    assert_eq!(world.say(node(1, 6, "us-east-1", 3000)), Reply::Done);
    assert_eq!(
        world.state.node_by_name("us-east-1").unwrap().client,
        "127.0.0.1:3000"
    );
    assert_eq!(world.audited(), 0);
}

#[test]
fn lookups_find_what_was_created_and_keep_tenants_apart() {
    let mut world = World::with_two_tenants();
    world.say(version(23, 11, VersionPolicy::default()));
    let versions_of = |number| -> Vec<u128> {
        let of = FunctionId(Uuid::from_u128(number));
        world
            .state
            .versions_of(of)
            .map(|one| one.id.0.as_u128())
            .collect()
    };
    assert_eq!(versions_of(11), [21, 23]);
    assert_eq!(versions_of(12), [22]);
    let first = TenantId(Uuid::from_u128(1));
    assert_eq!(world.state.functions_of(first).count(), 1);
    assert_eq!(world.state.tenant_by_name("tenant-1").unwrap().id, first);
    assert!(world.state.key_by_hash(&[9; 32]).is_none());
}

#[test]
fn the_audit_trail_keeps_the_newest_thousand_writes() {
    let mut world = World::new();
    for number in 0..AUDIT_MAX as u128 + 5 {
        assert_eq!(
            world.say(tenant(number, &format!("tenant-{number}"))),
            Reply::Done
        );
    }
    assert_eq!(world.audited(), AUDIT_MAX);
    let oldest = world.state.audit().next().unwrap();
    assert_eq!(
        (oldest.index, oldest.clock, oldest.actor.as_str()),
        (6, Clock(6), "ada")
    );
    assert!(
        oldest.what.starts_with("create tenant tenant-5"),
        "{}",
        oldest.what
    );
}

fn any_command() -> impl Strategy<Value = Command> {
    let kinds = prop_oneof![
        (1..4u128, proptest::collection::vec(11..14u128, 0..3))
            .prop_map(|(of, all)| client(of, &all)),
        (1..4u128, 21..24u128).prop_map(|(of, version)| worker(of, version)),
        Just(KeyKind::Admin(Role::Admin)),
    ];
    let states = prop_oneof![Just(VersionState::Active), Just(VersionState::Inactive)];
    prop_oneof![
        (1..4u128, 1..4u8).prop_map(|(id, name)| tenant(id, &format!("tenant-{name}"))),
        (11..14u128, 1..4u128).prop_map(|(id, of)| function(id, of)),
        (21..24u128, 11..14u128, 0..3u32).prop_map(|(id, of, slots)| {
            version(
                id,
                of,
                VersionPolicy {
                    slots,
                    ..VersionPolicy::default()
                },
            )
        }),
        (31..36u128, 1..5u8, kinds).prop_map(|(id, hash, kind)| key(id, hash, kind)),
        (31..36u128).prop_map(|id| Command::RevokeKey {
            id: KeyId(Uuid::from_u128(id)),
            actor: "ada".to_owned(),
        }),
        (21..24u128, states).prop_map(|(id, state)| Command::SetVersionState {
            id: VersionId(Uuid::from_u128(id)),
            state,
            actor: "ada".to_owned(),
        }),
        (0..4u16, 1..4u8).prop_map(|(number, name)| region(number, &format!("r{name}"), &[1])),
        (0..4u32, 1..4u64, 1..4u8, 1..3u16).prop_map(|(id, boot, name, port)| node(
            id,
            boot,
            &format!("n{name}"),
            port
        )),
        Just(Command::Tick),
    ]
}

proptest! {
    #[test]
    fn replicas_agree_hash_for_hash_and_no_refusal_changes_anything(
        commands in proptest::collection::vec(any_command(), 1..120),
        snapshot in 0..120usize,
    ) {
        let mut first = World::new();
        let mut second = World::new();
        for (step, command) in commands.into_iter().enumerate() {
            if step == snapshot {
                second.state = reborn(&second.state);
            }
            let records = |state: &Catalog| {
                let mut records = state.records.clone();
                records.clock = Clock(0);
                reborn(&Catalog { records, ..state.clone() }).digest()
            };
            let before = records(&first.state);
            let reply = first.say(command.clone());
            prop_assert_eq!(&reply, &second.say(command));
            prop_assert_eq!(first.state.digest(), second.state.digest());
            if reply != Reply::Done {
                prop_assert_eq!(before, records(&first.state), "{:?} changed something", reply);
            }
        }
    }
}
