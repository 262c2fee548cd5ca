//! What a catalog writes, byte for byte: append variants, never insert, and add each one here.

use crate::catalog::Catalog;
use crate::catalog::command::*;
use crate::codec::{self, Role as Kind};
use crate::golden::{Golden, places};
use crate::machine::{Clock, Machine};
use pontoon_proto::id::{
    FunctionId, GroupId, KeyId, NodeBoot, NodeId, RegionId, TenantId, VersionId,
};
use uuid::Uuid;

const fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn actor() -> String {
    "key 42".into()
}

fn node() -> Node {
    Node {
        at: NodeBoot {
            node: NodeId(1),
            boot: 2,
        },
        name: "us-east-1".into(),
        region: RegionId(1),
        client: "10.0.0.1:8001".into(),
        worker: "10.0.0.1:8002".into(),
        peer: "10.0.0.1:8003".into(),
        admin: "10.0.0.1:8004".into(),
        ops: "10.0.0.1:8005".into(),
        folder: [9; 16],
        life: 1,
        format: 1,
        standing: Standing::Dead,
    }
}

fn key(number: u128, kind: KeyKind) -> Command {
    Command::CreateKey(Key {
        id: KeyId(id(number)),
        hash: [number as u8; 32],
        kind,
        subject: "somebody".into(),
        expires_unix: Some(1_900_000_000),
        revoked: false,
        actor: actor(),
    })
}

fn kinds() -> [KeyKind; 3] {
    [
        KeyKind::Client {
            tenant: TenantId(id(1)),
            functions: vec![FunctionId(id(3))],
        },
        KeyKind::Worker {
            tenant: TenantId(id(1)),
            version: VersionId(id(4)),
        },
        KeyKind::Admin(Role::Operator),
    ]
}

fn region() -> Region {
    let voter = FirstVoter {
        node: NodeId(1),
        life: 2,
    };
    Region {
        nearest: vec![RegionId(2)],
        ..Region::new(RegionId(1), "us-east", Survive::Zone, vec![voter])
    }
}

fn commands() -> Vec<Command> {
    let (node_id, region_id) = (NodeId(1), RegionId(1));
    vec![
        Command::CreateTenant(Tenant {
            id: TenantId(id(1)),
            name: "acme".into(),
            actor: actor(),
        }),
        key(2, kinds()[0].clone()),
        Command::RevokeKey {
            id: KeyId(id(2)),
            actor: actor(),
        },
        Command::CreateFunction(Function {
            id: FunctionId(id(3)),
            tenant: TenantId(id(1)),
            name: "resnet".into(),
            actor: actor(),
        }),
        Command::CreateVersion(Version {
            id: VersionId(id(4)),
            function: FunctionId(id(3)),
            state: VersionState::Inactive,
            policy: VersionPolicy {
                pin: Pin::Never,
                ..VersionPolicy::default()
            },
            actor: actor(),
        }),
        Command::SetVersionState {
            id: VersionId(id(4)),
            state: VersionState::Active,
            actor: actor(),
        },
        Command::AddRegion(region()),
        Command::PutNode(node()),
        Command::Tick,
        Command::AdmitNode(Admission {
            folder: [9; 16],
            founder: Some(node_id),
            founders: 3,
            region: "us-east".into(),
            survive: Survive::Zone,
            node: node(),
        }),
        Command::MarkNode {
            node: node_id,
            dead: true,
        },
        Command::RemoveNode {
            node: node_id,
            actor: actor(),
        },
        Command::SetSurvive {
            region: region_id,
            survive: Survive::Region,
            actor: actor(),
        },
        Command::SetPace {
            group: GroupId::Region(region_id),
            pace: Pace::Lan,
        },
        Command::SetNearest {
            region: region_id,
            nearest: vec![RegionId(3), RegionId(2)],
        },
        Command::RecoverRegion {
            region: region_id,
            generation: 2,
            seed: node_id,
            actor: actor(),
        },
        Command::RemoveRegion {
            region: region_id,
            actor: actor(),
        },
        Command::SetAutopilot {
            on: false,
            actor: actor(),
        },
        Command::RaiseFormat { format: 2 },
        Command::Note {
            what: "node 1 votes in region 1".into(),
        },
        Command::SetLimit {
            of: Limited::Version(VersionId(id(4))),
            change: LimitChange {
                sessions: Some(100),
                per_1000s: Some(2_500),
                burst: None,
            },
            actor: actor(),
        },
        Command::SetWeights {
            function: FunctionId(id(3)),
            weights: vec![(VersionId(id(4)), 95)],
            actor: actor(),
        },
        Command::SetSpill {
            version: VersionId(id(4)),
            spill: Spill::Only(vec![RegionId(1)]),
            actor: actor(),
        },
        Command::Record {
            what: "drain of node n1".into(),
            actor: actor(),
        },
        Command::SetShare {
            function: FunctionId(id(3)),
            tenant: TenantId(id(5)),
            shared: true,
            actor: actor(),
        },
    ]
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Done,
        Reply::Conflict("by another".into()),
        Reply::NotFound("tenant".into()),
        Reply::Invalid("slots".into()),
        Reply::Stale,
        Reply::Admitted {
            node: NodeId(1),
            life: 2,
        },
        Reply::Refused("not now".into()),
    ]
}

/// A state with something of everything that the first format has.
fn state() -> Catalog {
    let mut state = Catalog::new();
    let keys = kinds().into_iter().zip(10..);
    let keys = keys.map(|(kind, number)| key(number, kind));
    let lasting = commands().into_iter().filter(|command| {
        let removes = matches!(
            command,
            Command::RemoveNode { .. }
                | Command::RemoveRegion { .. }
                | Command::SetLimit { .. }
                | Command::SetWeights { .. }
                | Command::SetSpill { .. }
                | Command::Record { .. }
                | Command::SetShare { .. }
        );
        !removes
    });
    for (command, index) in lasting.chain(keys).zip(1..) {
        let now = Clock(index * 100);
        state.apply(index, now, command, &mut Vec::new());
        state.check().unwrap();
    }
    state
}

/// The same under a newer format, with limits.
fn limited_state() -> Catalog {
    let mut state = state();
    let format = LIMITS_FORMAT;
    let limit = |of| Command::SetLimit {
        of,
        change: LimitChange {
            sessions: Some(10),
            per_1000s: Some(500),
            burst: Some(7),
        },
        actor: actor(),
    };
    let commands = [
        Command::PutNode(Node { format, ..node() }),
        Command::RaiseFormat { format },
        limit(Limited::Tenant(TenantId(id(1)))),
        limit(Limited::Version(VersionId(id(4)))),
    ];
    for (command, index) in commands.into_iter().zip(100..) {
        let reply = state.apply(index, Clock(index * 100), command, &mut Vec::new());
        assert_eq!(reply, Reply::Done);
    }
    state.check().unwrap();
    state
}

/// The same under a newer format, with weights and regions.
fn routed_state() -> Catalog {
    let mut state = limited_state();
    let format = ROUTES_FORMAT;
    let before = [
        Command::PutNode(Node { format, ..node() }),
        Command::RaiseFormat { format },
        Command::SetVersionState {
            id: VersionId(id(4)),
            state: VersionState::Active,
            actor: actor(),
        },
    ];
    let all = commands();
    let routes = all.into_iter().filter(|command| {
        matches!(
            command,
            Command::SetWeights { .. } | Command::SetSpill { .. }
        )
    });
    for (command, index) in before.into_iter().chain(routes).zip(200..) {
        let reply = state.apply(index, Clock(index * 100), command, &mut Vec::new());
        assert_eq!(reply, Reply::Done);
    }
    state.check().unwrap();
    state
}

/// The same under a newer format, with a function that two tenants call.
fn shared_state() -> Catalog {
    let mut state = routed_state();
    let format = SHARES_FORMAT;
    let before = [
        Command::PutNode(Node { format, ..node() }),
        Command::RaiseFormat { format },
        Command::CreateTenant(Tenant {
            id: TenantId(id(5)),
            name: "guest".into(),
            actor: actor(),
        }),
    ];
    let shares = commands().into_iter();
    let shares = shares.filter(|command| matches!(command, Command::SetShare { .. }));
    for (command, index) in before.into_iter().chain(shares).zip(300..) {
        let reply = state.apply(index, Clock(index * 100), command, &mut Vec::new());
        assert_eq!(reply, Reply::Done);
    }
    state.check().unwrap();
    state
}

#[test]
fn what_a_catalog_writes_keeps_its_bytes() {
    let mut golden = Golden::of("catalog-");
    golden.variants("command", Kind::Command, Catalog::KIND, &commands());
    golden.variants("reply", Kind::Reply, Catalog::KIND, &replies());
    for (name, state) in [
        ("state", state()),
        ("state-limits", limited_state()),
        ("state-routes", routed_state()),
        ("state-shares", shared_state()),
    ] {
        let mut bytes = Vec::new();
        codec::write_state(&state, &mut bytes).unwrap();
        let found = golden.bytes(name, &bytes);
        let found: Catalog = codec::read_state(&found[..]).unwrap();
        found.check().unwrap();
        assert_eq!(found.digest(), state.digest());
        assert!(found.limits().eq(state.limits()));
    }
    golden.end();
}

#[test]
fn values_keep_their_places_in_the_log() {
    places(&kinds());
    places(&[Role::Viewer, Role::Operator, Role::Admin]);
    places(&[VersionState::Active, VersionState::Inactive]);
    places(&[Pin::Connection, Pin::Never]);
    places(&[Survive::Region, Survive::Zone]);
    places(&[Pace::Lan, Pace::Wan]);
    places(&[
        Limited::Tenant(TenantId(id(1))),
        Limited::Version(VersionId(id(1))),
    ]);
    places(&[Spill::Any, Spill::Home, Spill::Only(vec![])]);
    places(&[Standing::Member, Standing::Dead, Standing::Removed]);
}
