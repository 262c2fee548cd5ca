//! What is changed: proposals to the catalog, and the end of sessions.

use super::access::Caller;
use super::read::{parse, parse_or_none};
use super::{Context, GROUP_WAIT, LAGGARDS, view};
use crate::{clock, random};
use futures::future::join_all;
use pontoon_proto::admin as pb;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{FunctionId, KeyId, RequestId, TenantId, VersionId};
use pontoon_proto::key::{self, KeyClass};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{
    Command, Function, Key, KeyKind, Pin, Reply, Role, Tenant, Version, VersionPolicy, VersionState,
};
use pontoon_raft::group::ProposeError;
use pontoon_raft::machine::Machine as _;
use std::time::Duration;
use tonic::{Response, Status};

/// How long a committed write waits for the nodes that have not applied it.
const SPREAD_WAIT: Duration = Duration::from_secs(2);

impl Context {
    pub(super) async fn create_tenant(
        &self,
        caller: Caller,
        request: pb::CreateTenantRequest,
    ) -> Result<Response<pb::Tenant>, Status> {
        let tenant = Tenant {
            id: parse_or_none("id", &request.id)?
                .unwrap_or_else(|| TenantId::from_random(random::bytes())),
            name: request.name,
            actor: caller.actor,
        };
        let answer = self.show_tenant(&self.catalog(), &tenant);
        let written = self
            .write(Command::CreateTenant(tenant), &answer.id)
            .await?;
        Ok(written.with(answer))
    }

    pub(super) async fn create_function(
        &self,
        caller: Caller,
        request: pb::CreateFunctionRequest,
    ) -> Result<Response<pb::Function>, Status> {
        let function = Function {
            id: parse_or_none("id", &request.id)?
                .unwrap_or_else(|| FunctionId::from_random(random::bytes())),
            tenant: parse("tenant_id", &request.tenant_id)?,
            name: request.name,
            actor: caller.actor,
        };
        let answer = view::function(&self.catalog(), &function);
        let written = self
            .write(Command::CreateFunction(function), &answer.id)
            .await?;
        Ok(written.with(answer))
    }

    pub(super) async fn create_version(
        &self,
        caller: Caller,
        request: pb::CreateVersionRequest,
    ) -> Result<Response<pb::Version>, Status> {
        let version = Version {
            id: parse_or_none("id", &request.id)?
                .unwrap_or_else(|| VersionId::from_random(random::bytes())),
            function: parse("function_id", &request.function_id)?,
            state: VersionState::Active,
            policy: policy(request.policy.unwrap_or_default())?,
            actor: caller.actor,
        };
        let answer = self.show_version(&self.catalog(), &version);
        let written = self
            .write(Command::CreateVersion(version), &answer.id)
            .await?;
        Ok(written.with(answer))
    }

    pub(super) async fn set_version_state(
        &self,
        caller: Caller,
        request: pb::SetVersionStateRequest,
    ) -> Result<Response<pb::Version>, Status> {
        let id: VersionId = parse("id", &request.id)?;
        let state = match request.state.as_str() {
            "active" => VersionState::Active,
            "inactive" => VersionState::Inactive,
            _ => {
                return Err(Status::invalid_argument(
                    "state is neither `active` nor `inactive`",
                ));
            }
        };
        let mut written = Written::default();
        if !request.dry_run {
            let command = Command::SetVersionState {
                id,
                state,
                actor: caller.actor,
            };
            written = self.write(command, &request.id).await?;
        }
        let catalog = self.catalog();
        let version = catalog
            .version(id)
            .ok_or_else(|| unknown("version", &request.id))?;
        Ok(written.with(self.show_version(&catalog, version)))
    }

    pub(super) async fn create_key(
        &self,
        caller: Caller,
        request: pb::CreateKeyRequest,
    ) -> Result<Response<pb::CreateKeyReply>, Status> {
        let (class, kind) = key_kind(&request)?;
        if request.expires_unix != 0 && request.expires_unix <= clock::unix_seconds() {
            return Err(Status::invalid_argument(
                "expires_unix has passed: give a time to come, in seconds since 1970, or 0 for never",
            ));
        }
        let secret = key::mint(class, random::bytes());
        let key = Key {
            id: KeyId::from_random(random::bytes()),
            hash: key::hash(secret.expose()),
            kind,
            subject: request.subject,
            expires_unix: (request.expires_unix != 0).then_some(request.expires_unix),
            revoked: false,
            actor: caller.actor,
        };
        let view = view::key(&key);
        let written = self.write(Command::CreateKey(key), &view.id).await?;
        Ok(written.with(pb::CreateKeyReply {
            key: Some(view),
            secret: secret.expose().into(),
        }))
    }

    pub(super) async fn revoke_key(
        &self,
        caller: Caller,
        request: pb::RevokeKeyRequest,
    ) -> Result<Response<pb::Key>, Status> {
        let id: KeyId = parse("id", &request.id)?;
        let mut written = Written::default();
        if !request.dry_run {
            let command = Command::RevokeKey {
                id,
                actor: caller.actor,
            };
            written = self.write(command, &request.id).await?;
        }
        let catalog = self.catalog();
        let key = catalog.key(id).ok_or_else(|| unknown("key", &request.id))?;
        Ok(written.with(view::key(key)))
    }

    pub(super) async fn end_session(
        &self,
        caller: Caller,
        request: pb::EndSessionRequest,
    ) -> Result<pb::EndSessionReply, Status> {
        let id: RequestId = parse("request_id", &request.request_id)?;
        let session = self.get_session(&request.request_id).await?;
        if session.state.starts_with("ended") {
            return Err(Status::not_found(format!(
                "session {id} is gone already: {}",
                session.state
            )));
        }
        if !request.dry_run {
            tracing::info!(actor = caller.actor, session = %id, "an operator ends a session");
            (self.end)(id).await.map_err(|fault| match fault {
                Fault::SessionNotFound => {
                    Status::not_found(format!("session {id} ended by itself a moment ago"))
                }
                Fault::DirectoryUnavailable => Status::unavailable(
                    "the session's home group can't be asked at present; whether it ended is not \
                     known: see `pontoon session show`, and try again",
                ),
                other => Status::internal(other.row().text),
            })?;
        }
        Ok(pb::EndSessionReply {
            session: Some(session),
            ended: !request.dry_run,
        })
    }

    /// Proposes to the catalog; done when it is applied here and at every node that answers. `id`
    /// names what is written, for the case that its outcome stays unknown.
    pub(super) async fn write(&self, command: Command, id: &str) -> Result<Written, Status> {
        let group = self.cluster.catalog();
        let proposed = group.propose(command, GROUP_WAIT).await.map_err(|error| match error {
            ProposeError::Unavailable => Status::unavailable(
                "the catalog has no leader that this node reaches: nothing was written; try again, \
                 or see `pontoon group show catalog`",
            ),
            ProposeError::Unknown => Status::unavailable(format!(
                "no answer from the catalog in time: {id} may or may not have been written; look \
                 for it in the list before you try again"
            )),
        })?;
        judge(proposed.reply)?;
        // It is committed; that a replica lags is no failure of the verb.
        let (own, others) = tokio::join!(
            group.applied_at_least(proposed.index, SPREAD_WAIT),
            self.laggards(proposed.index)
        );
        let mut laggards = others;
        if own.is_err() {
            laggards.push(self.peers.me().name.clone());
        }
        Ok(Written { laggards })
    }

    /// Says what the catalog would answer, as far as this node's replica knows, and writes nothing.
    pub(super) fn rehearse(&self, command: Command) -> Result<(), Status> {
        let mut catalog = Catalog::clone(&self.catalog());
        let (now, mut effects) = (catalog.clock(), Vec::new());
        judge(catalog.apply(0, now, command, &mut effects))
    }

    /// The nodes that have not applied the catalog's log up to an index when the wait is over. One
    /// that does not answer at all is not waited for.
    async fn laggards(&self, index: u64) -> Vec<String> {
        let deadline = clock::now() + SPREAD_WAIT;
        let nodes = self.peers.known().into_iter();
        let asked = nodes.map(|node| async move {
            let mut pause = Duration::from_millis(2);
            while let Ok(applied) = self.peers.catalog_applied(node, SPREAD_WAIT).await {
                if applied >= index {
                    return None;
                }
                if clock::now() >= deadline {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Some(node)
        });
        let late = join_all(asked).await.into_iter().flatten();
        let catalog = self.catalog();
        late.map(|node| view::node_name(&catalog, node)).collect()
    }
}

/// What an answer of the catalog means to an operator.
fn judge(reply: Reply) -> Result<(), Status> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Conflict(text) => Err(Status::already_exists(text)),
        Reply::NotFound(text) => Err(Status::not_found(text)),
        Reply::Invalid(text) => Err(Status::invalid_argument(text)),
        Reply::Refused(text) => Err(Status::failed_precondition(text)),
        Reply::Stale | Reply::Admitted { .. } => {
            Err(Status::internal("the catalog answered something else"))
        }
    }
}

/// A committed write, and who does not know of it yet.
#[derive(Default)]
pub(super) struct Written {
    laggards: Vec<String>,
}

impl Written {
    /// The answer, with the laggards' names in its metadata.
    pub(super) fn with<T>(self, answer: T) -> Response<T> {
        let mut response = Response::new(answer);
        // Node names are DNS labels.
        if let Ok(names) = self.laggards.join(",").parse()
            && !self.laggards.is_empty()
        {
            response.metadata_mut().insert(LAGGARDS, names);
        }
        response
    }
}

pub(super) fn unknown(what: &str, id: &str) -> Status {
    Status::not_found(format!(
        "there is no {what} {id}: see `pontoon {what} list`"
    ))
}

fn key_kind(request: &pb::CreateKeyRequest) -> Result<(KeyClass, KeyKind), Status> {
    let admin = |role| Ok((KeyClass::Admin, KeyKind::Admin(role)));
    let needless = |wrong: bool, text: &str| match wrong {
        true => Err(Status::invalid_argument(text)),
        false => Ok(()),
    };
    if request.kind != "client" {
        needless(
            !request.function_ids.is_empty(),
            "only client keys are limited to functions: leave function_ids out",
        )?;
    }
    if request.kind != "worker" {
        needless(
            !request.version_id.is_empty(),
            "only worker keys cover a version: leave version_id out",
        )?;
    }
    match request.kind.as_str() {
        "client" => {
            let functions = request.function_ids.iter();
            let functions: Result<Vec<FunctionId>, Status> =
                functions.map(|id| parse("function_ids", id)).collect();
            let kind = KeyKind::Client {
                tenant: parse("tenant_id", &request.tenant_id)?,
                functions: functions?,
            };
            Ok((KeyClass::Client, kind))
        }
        "worker" => {
            let kind = KeyKind::Worker {
                tenant: parse("tenant_id", &request.tenant_id)?,
                version: parse("version_id", &request.version_id)?,
            };
            Ok((KeyClass::Worker, kind))
        }
        "viewer" => admin(Role::Viewer),
        "operator" => admin(Role::Operator),
        "admin" => admin(Role::Admin),
        _ => Err(Status::invalid_argument(
            "kind is none of client, worker, viewer, operator, admin",
        )),
    }
}

fn policy(asked: pb::VersionPolicy) -> Result<VersionPolicy, Status> {
    let usual = VersionPolicy::default();
    let window_ms = asked.window_ms.unwrap_or(usual.window_ms);
    let window_max_ms = asked
        .window_max_ms
        .unwrap_or(usual.window_max_ms.max(window_ms));
    if window_ms > window_max_ms {
        return Err(Status::invalid_argument(format!(
            "window_ms is {window_ms}, above window_max_ms, which is {window_max_ms}: raise the one \
             or lower the other"
        )));
    }
    Ok(VersionPolicy {
        slots: asked.slots.max(1),
        window_ms,
        window_max_ms,
        idle_ms: asked.idle_ms.unwrap_or(usual.idle_ms),
        wait_ms: asked.wait_ms.unwrap_or(usual.wait_ms),
        forward_credentials: asked.forward_credentials,
        pin: match asked.pin.as_str() {
            "" | "connection" => Pin::Connection,
            "never" => Pin::Never,
            _ => {
                return Err(Status::invalid_argument(
                    "pin is neither `connection` nor `never`",
                ));
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_version_does_not_say_is_as_usual() {
        assert_eq!(
            policy(pb::VersionPolicy::default()).unwrap(),
            VersionPolicy::default()
        );
    }

    #[test]
    fn a_long_window_raises_its_own_maximum_and_a_contradiction_names_both_sides() {
        let mut asked = pb::VersionPolicy {
            window_ms: Some(900_000),
            ..pb::VersionPolicy::default()
        };
        assert_eq!(policy(asked.clone()).unwrap().window_max_ms, 900_000);
        asked.window_max_ms = Some(1_000);
        let status = policy(asked).unwrap_err();
        assert!(status.message().contains("window_ms"), "{status}");
        assert!(status.message().contains("window_max_ms"), "{status}");
    }

    #[test]
    fn a_key_that_lacks_what_its_kind_needs_is_refused_by_field() {
        for (kind, missing) in [
            ("client", "tenant_id"),
            ("worker", "tenant_id"),
            ("x", "kind"),
        ] {
            let request = pb::CreateKeyRequest {
                kind: kind.into(),
                ..pb::CreateKeyRequest::default()
            };
            let status = key_kind(&request).unwrap_err();
            assert!(status.message().contains(missing), "{status}");
        }
        let surplus = pb::CreateKeyRequest {
            kind: "admin".into(),
            version_id: "x".into(),
            ..pb::CreateKeyRequest::default()
        };
        assert!(key_kind(&surplus).is_err());
    }
}
