//! The log format depends on the order of these variants: append, never insert.

use crate::catalog::command::*;
use crate::machine::variant;
use pontoon_proto::id::{FunctionId, KeyId, NodeBoot, NodeId, RegionId, TenantId, VersionId};
use uuid::Uuid;

const ID: Uuid = Uuid::nil();

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
        Command::AddRegion(Region {
            number: RegionId(1),
            name: text(),
            survive: Survive::Zone,
            generation: 1,
            voters: Vec::new(),
        }),
        Command::PutNode(Node {
            at: NodeBoot {
                node: NodeId(1),
                boot: 1,
            },
            name: text(),
            region: RegionId(1),
            client: text(),
            worker: text(),
            peer: text(),
            admin: text(),
            ops: text(),
        }),
        Command::Tick,
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
    ];
    assert_eq!(kinds.each_ref().map(variant), [0, 1, 2]);
    assert_eq!(replies.each_ref().map(variant), [0, 1, 2, 3, 4]);
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
}
