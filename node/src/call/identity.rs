//! Who calls: a credential against the catalog.
//!
//! Pure. A key that this replica doesn't know may have been made a moment ago on another node, so
//! [`Judged::Unknown`] is not a refusal: the caller of this module reads the catalog first (H-7).

use pontoon_proto::fault::Fault;
use pontoon_proto::id::{FunctionId, TenantId};
use pontoon_proto::key;
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{Key, KeyKind};
use std::sync::Arc;

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The account that it acts for.
    pub tenant: TenantId,
    key: Arc<Key>,
}

/// What this replica knows of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is good.
    Caller(Caller),
    /// It is surely bad: garbage, revoked, expired, or not for calls.
    Refused(Fault),
    /// It has the form of a key, and is not known here.
    Unknown,
}

impl Caller {
    /// Whether this key's scope covers a function; that the function exists and that the tenant may
    /// call it is another question.
    pub fn may_invoke(&self, function: FunctionId) -> bool {
        match &self.key.kind {
            KeyKind::Client { functions, .. } => {
                functions.is_empty() || functions.contains(&function)
            }
            KeyKind::Worker { .. } | KeyKind::Admin(_) => false,
        }
    }

    /// Who the key is.
    pub fn subject(&self) -> &str {
        &self.key.subject
    }
}

/// Judges a credential by what this replica knows. `unix_now` is the wall clock in seconds.
pub fn judge(catalog: &Catalog, credential: &str, unix_now: u64) -> Judged {
    if key::check(credential).is_err() {
        return Judged::Refused(Fault::InvalidCredential);
    }
    match catalog.key_by_hash(&key::hash(credential)) {
        None => Judged::Unknown,
        Some(key) => judge_known(key, unix_now),
    }
}

fn judge_known(key: &Arc<Key>, unix_now: u64) -> Judged {
    if key.revoked || key.expires_unix.is_some_and(|end| end <= unix_now) {
        return Judged::Refused(Fault::InvalidCredential);
    }
    match &key.kind {
        KeyKind::Client { tenant, .. } => Judged::Caller(Caller {
            tenant: *tenant,
            key: key.clone(),
        }),
        KeyKind::Worker { .. } | KeyKind::Admin(_) => Judged::Refused(Fault::NotAuthorized),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::id::{KeyId, VersionId};
    use pontoon_raft::catalog::command::Role;

    fn tenant() -> TenantId {
        TenantId::from_random([1; 16])
    }

    fn a_key(kind: KeyKind) -> Key {
        Key {
            id: KeyId::from_random([2; 16]),
            hash: [0; 32],
            kind,
            subject: "alice".into(),
            expires_unix: None,
            revoked: false,
            actor: "test".into(),
        }
    }

    fn client(functions: Vec<FunctionId>) -> Key {
        a_key(KeyKind::Client {
            tenant: tenant(),
            functions,
        })
    }

    #[test]
    fn c_err_2_garbage_is_refused_unasked_and_a_wellformed_stranger_is_not() {
        let catalog = Catalog::new();
        assert_eq!(
            judge(&catalog, "garbage", 0),
            Judged::Refused(Fault::InvalidCredential)
        );
        let stranger = key::mint(key::KeyClass::Client, [3; key::RANDOM_LEN]);
        assert_eq!(judge(&catalog, stranger.expose(), 0), Judged::Unknown);
    }

    #[test]
    fn c_err_2_revoked_and_expired_keys_are_refused() {
        let refused = Judged::Refused(Fault::InvalidCredential);
        let revoked = Key {
            revoked: true,
            ..client(vec![])
        };
        assert_eq!(judge_known(&revoked.into(), 0), refused);
        let ends = Key {
            expires_unix: Some(100),
            ..client(vec![])
        };
        assert_eq!(judge_known(&ends.clone().into(), 100), refused);
        assert!(matches!(judge_known(&ends.into(), 99), Judged::Caller(_)));
    }

    #[test]
    fn c_err_3_keys_of_other_kinds_and_scopes_may_not_invoke() {
        let refused = Judged::Refused(Fault::NotAuthorized);
        assert_eq!(
            judge_known(&a_key(KeyKind::Admin(Role::Admin)).into(), 0),
            refused
        );
        let worker = a_key(KeyKind::Worker {
            tenant: tenant(),
            version: VersionId::from_random([4; 16]),
        });
        assert_eq!(judge_known(&worker.into(), 0), refused);

        let one = FunctionId::from_random([5; 16]);
        let other = FunctionId::from_random([6; 16]);
        let Judged::Caller(scoped) = judge_known(&client(vec![one]).into(), 0) else {
            panic!("a client key is a caller");
        };
        assert!(scoped.may_invoke(one) && !scoped.may_invoke(other));
        let Judged::Caller(free) = judge_known(&client(vec![]).into(), 0) else {
            panic!("a client key is a caller");
        };
        assert!(free.may_invoke(other));
    }
}
