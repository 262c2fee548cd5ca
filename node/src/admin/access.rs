//! Who may do what: an admin key of the catalog, or the one token of the node's configuration.

use super::{Context, GROUP_WAIT};
use crate::clock;
use pontoon_proto::key::{self, KeyClass};
use pontoon_raft::catalog::command::{Key, KeyKind, Role};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

/// Somebody who may do what they ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name in the audit trail.
    pub(super) actor: String,
}

impl Context {
    /// Lets a request through when its token has at least this role.
    pub(super) async fn admit<T>(
        &self,
        request: &Request<T>,
        least: Role,
    ) -> Result<Caller, Status> {
        let token = bearer(request.metadata())?;
        let hash = key::hash(token);
        if self.bootstrap == Some(hash) {
            return Ok(Caller {
                actor: "bootstrap".into(),
            });
        }
        match key::check(token) {
            Ok(KeyClass::Admin) => {}
            Ok(_) => {
                return Err(Status::permission_denied(
                    "this is a key for calls or workers: the admin API takes admin tokens (pnt_a_...)",
                ));
            }
            Err(garbage) => {
                return Err(Status::unauthenticated(format!(
                    "this is not an admin token: {garbage}"
                )));
            }
        }
        if let Some(key) = self.cluster.catalog().state().key_by_hash(&hash) {
            return judge(key, least, clock::unix_seconds());
        }
        // It may have been created a moment ago: only the leader's word makes it unknown.
        let catalog = self.cluster.catalog().read(GROUP_WAIT).await.map_err(|_| {
            Status::unavailable(
                "this token is not known here, and the catalog can't be asked at present: try \
                 again, or ask another node",
            )
        })?;
        match catalog.key_by_hash(&hash) {
            Some(key) => judge(key, least, clock::unix_seconds()),
            None => Err(Status::unauthenticated(
                "this admin token is not known to the cluster: is it another cluster's?",
            )),
        }
    }
}

/// The token of `authorization: Bearer <token>`, the scheme in any case.
fn bearer(metadata: &MetadataMap) -> Result<&str, Status> {
    let value = metadata.get("authorization").ok_or_else(|| {
        Status::unauthenticated("no admin token: send it as `authorization: Bearer <token>`")
    })?;
    value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
        .map(|(_, token)| token.trim())
        .ok_or_else(|| {
            Status::unauthenticated("the authorization is not `Bearer <token>`: correct it")
        })
}

/// Whether a known key opens this.
fn judge(key: &Key, least: Role, now: u64) -> Result<Caller, Status> {
    if key.revoked {
        return Err(Status::unauthenticated(
            "this admin token was revoked: ask an administrator for another",
        ));
    }
    if key.expires_unix.is_some_and(|expires| expires <= now) {
        return Err(Status::unauthenticated(
            "this admin token has expired: ask an administrator for another",
        ));
    }
    match key.kind {
        KeyKind::Admin(role) if role >= least => Ok(Caller {
            actor: format!("key {}", key.id),
        }),
        KeyKind::Admin(role) => Err(Status::permission_denied(format!(
            "this takes the role {}; the token's is {}",
            name(least),
            name(role)
        ))),
        KeyKind::Client { .. } | KeyKind::Worker { .. } => Err(Status::permission_denied(
            "this is a key for calls or workers: the admin API takes admin tokens (pnt_a_...)",
        )),
    }
}

/// A role as people write it.
pub(super) fn name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::id::KeyId;
    use tonic::Code;

    fn key(kind: KeyKind) -> Key {
        Key {
            id: KeyId::from_random([3; 16]),
            hash: [0; 32],
            kind,
            subject: String::new(),
            expires_unix: None,
            revoked: false,
            actor: String::new(),
        }
    }

    #[test]
    fn each_role_includes_the_ones_before_it() {
        let roles = [Role::Viewer, Role::Operator, Role::Admin];
        for has in roles {
            for least in roles {
                let judged = judge(&key(KeyKind::Admin(has)), least, 0);
                assert_eq!(judged.is_ok(), has >= least, "{has:?} for {least:?}");
                if let Err(status) = judged {
                    assert_eq!(status.code(), Code::PermissionDenied);
                    assert!(status.message().contains(name(least)), "{status}");
                }
            }
        }
    }

    #[test]
    fn revoked_and_expired_keys_open_nothing() {
        let mut revoked = key(KeyKind::Admin(Role::Admin));
        revoked.revoked = true;
        let mut expired = key(KeyKind::Admin(Role::Admin));
        expired.expires_unix = Some(100);
        assert!(judge(&expired, Role::Viewer, 99).is_ok());
        for (key, now) in [(&revoked, 0), (&expired, 100), (&expired, 101)] {
            let status = judge(key, Role::Viewer, now).unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated);
        }
    }

    #[test]
    fn the_scheme_may_be_in_any_case_and_a_malformed_one_says_what_is_right() {
        let mut metadata = MetadataMap::new();
        assert!(bearer(&metadata).unwrap_err().message().contains("Bearer"));
        for good in ["Bearer t", "bearer t", "BEARER  t"] {
            metadata.insert("authorization", good.parse().unwrap());
            assert_eq!(bearer(&metadata).unwrap(), "t");
        }
        for wrong in ["Bearer", "Bearer ", "Basic t", "t"] {
            metadata.insert("authorization", wrong.parse().unwrap());
            let status = bearer(&metadata).unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{wrong}");
            assert!(status.message().contains("Bearer <token>"));
        }
    }
}
