//! The log format depends on the order of these variants: append, never insert.

use crate::catalog::command::*;
use crate::machine::variant;
use pontoon_proto::id::{FunctionId, GroupId, KeyId, NodeBoot, NodeId, RegionId, TenantId, VersionId};
use uuid::Uuid;

const ID: Uuid = Uuid::nil();

fn node() -> Node {
    Node {
        at: NodeBoot {
            node: NodeId(1),
            boot: 1,
        },
        name: String::new(),
        region: RegionId(1),
        client: String::new(),
        worker: String::new(),
        peer: String::new(),
        admin: String::new(),
        ops: String::new(),
        folder: [0; 16],
        life: 1,
        format: 1,
        standing: Standing::Member,
    }
}

#[test]
fn commands_keep_their_places_in_the_log() {
    let text = String::new;
    let commands = [
        Command::CreateTenant(Tenant {
            id: TenantId(ID),
            name: text(),
            actor: text(),
        }),
        Command::CreateKey(Key {
            id: KeyId(ID),
            hash: [0; 32],
            kind: KeyKind::Admin(Role::Admin),
            subject: text(),
            expires_unix: None,
            revoked: false,
            actor: text(),
        }),
        Command::RevokeKey {
            id: KeyId(ID),
            actor: text(),
        },
        Command::CreateFunction(Function {
            id: FunctionId(ID),
            tenant: TenantId(ID),
            name: text(),
            actor: text(),
        }),
        Command::CreateVersion(Version {
            id: VersionId(ID),
            function: FunctionId(ID),
            state: VersionState::Active,
            policy: VersionPolicy::default(),
            actor: text(),
        }),
        Command::SetVersionState {
            id: VersionId(ID),
            state: VersionState::Active,
            actor: text(),
        },
        Command::AddRegion(Region::new(RegionId(1), "", Survive::Zone, Vec::new())),
        Command::PutNode(node()),
        Command::Tick,
        Command::AdmitNode(Admission {
            folder: [0; 16],
            founder: None,
            founders: 1,
            region: text(),
            survive: Survive::Zone,
            node: node(),
        }),
        Command::MarkNode {
            node: NodeId(1),
            dead: true,
        },
        Command::RemoveNode {
            node: NodeId(1),
            actor: text(),
        },
        Command::SetSurvive {
            region: RegionId(1),
            survive: Survive::Zone,
            actor: text(),
        },
        Command::SetPace {
            group: GroupId::Catalog,
            pace: Pace::Lan,
        },
        Command::SetNearest {
            region: RegionId(1),
            nearest: Vec::new(),
        },
        Command::RecoverRegion {
            region: RegionId(1),
            generation: 2,
            seed: NodeId(1),
            actor: text(),
        },
        Command::RemoveRegion {
            region: RegionId(1),
            actor: text(),
        },
        Command::SetAutopilot {
            on: true,
            actor: text(),
        },
        Command::RaiseFormat { format: 2 },
        Command::Note { what: text() },
    ];
    for (place, command) in commands.iter().enumerate() {
        assert_eq!(variant(command), place as u32, "{command:?}");
    }
}

#[test]
fn values_and_replies_keep_their_places_in_the_log() {
    let kinds = [
        KeyKind::Client {
            tenant: TenantId(ID),
            functions: Vec::new(),
        },
        KeyKind::Worker {
            tenant: TenantId(ID),
            version: VersionId(ID),
        },
        KeyKind::Admin(Role::Viewer),
    ];
    let replies = [
        Reply::Done,
        Reply::Conflict(String::new()),
        Reply::NotFound(String::new()),
        Reply::Invalid(String::new()),
        Reply::Stale,
        Reply::Admitted {
            node: NodeId(1),
            life: 1,
        },
        Reply::Refused(String::new()),
    ];
    assert_eq!(kinds.each_ref().map(variant), [0, 1, 2]);
    assert_eq!(replies.each_ref().map(variant), [0, 1, 2, 3, 4, 5, 6]);
    let roles = [Role::Viewer, Role::Operator, Role::Admin];
    assert_eq!(roles.each_ref().map(variant), [0, 1, 2]);
    let states = [VersionState::Active, VersionState::Inactive];
    assert_eq!(states.each_ref().map(variant), [0, 1]);
    assert_eq!(
        [Pin::Connection, Pin::Never].each_ref().map(variant),
        [0, 1]
    );
    assert_eq!(
        [Survive::Region, Survive::Zone].each_ref().map(variant),
        [0, 1]
    );
    assert_eq!([Pace::Lan, Pace::Wan].each_ref().map(variant), [0, 1]);
    let standings = [Standing::Member, Standing::Dead, Standing::Removed];
    assert_eq!(standings.each_ref().map(variant), [0, 1, 2]);
}
