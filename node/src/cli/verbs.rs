//! Asks a cluster, verb by verb, and lays the answer out.

use super::client;
use super::exit::{Code, Failure};
use super::nouns::{
    Ask, FunctionVerb, GroupVerb, KeyKind, KeyVerb, Noun, Output, Pin, Policy, SessionVerb,
    TenantVerb, VersionState, VersionVerb, WorkerVerb,
};
use super::table::{json, list, show};
use super::{limits, members, routes};
use crate::admin::LAGGARDS;
use crate::clock;
use pontoon_proto::admin as pb;
use std::time::Duration;
use tonic::{Response, Status};

pub(super) type Answer = Result<String, Failure>;

const GROUP: &[&str] = &[
    "name",
    "number",
    "generation",
    "leader",
    "connected",
    "voters",
    "learners",
    "failure_tolerance",
    "pace",
    "term",
    "committed",
    "applied",
];
const WORKER: &[&str] = &[
    "id",
    "name",
    "region",
    "state",
    "slots_used",
    "slots",
    "attached_at",
    "version_id",
];
const CLOSE: &[&str] = &[
    "ago_ms",
    "what",
    "node",
    "reason",
    "code",
    "text",
    "lasted_ms",
    "worker_id",
    "request_id",
];
const SESSION: &[&str] = &[
    "request_id",
    "region",
    "state",
    "worker_id",
    "slot",
    "entered_at",
    "window_ms",
    "tenant_id",
    "function_id",
];
const KEY: &[&str] = &[
    "id",
    "kind",
    "subject",
    "tenant_id",
    "function_ids",
    "version_id",
    "expires_unix",
    "revoked",
];
pub(super) const TENANT: &[&str] = &[
    "id",
    "name",
    "sessions_now",
    "limit.sessions_max",
    "limit.rate",
    "limit.burst",
];
pub(super) const VERSION: &[&str] = &[
    "id",
    "function_id",
    "state",
    "policy.slots",
    "policy.window_ms",
    "policy.window_max_ms",
    "policy.idle_ms",
    "policy.wait_ms",
    "policy.pin",
    "sessions_now",
    "limit.sessions_max",
    "limit.rate",
    "limit.burst",
    "weight",
    "spill",
    "regions",
];

pub(super) const FUNCTION: &[&str] = &["id", "tenant_id", "name", "weights", "shared_with"];

/// Runs one verb; the answer is what belongs on stdout.
pub(super) async fn run(noun: Noun) -> Answer {
    match noun {
        Noun::Cluster(verb) => members::cluster(verb).await,
        Noun::Region(verb) => members::region(verb).await,
        Noun::Audit(verb) => members::audit(verb).await,
        Noun::Group(verb) => group(verb).await,
        Noun::Worker(WorkerVerb::List { region, ask }) => {
            let request = pb::ListWorkersRequest {
                region: region.unwrap_or_default(),
            };
            let mut client = client::connect(&ask).await?;
            let reply = said(&ask, client.list_workers(request).await)?;
            Ok(list(ask.output, &reply.workers, WORKER))
        }
        Noun::Worker(WorkerVerb::Closes {
            worker,
            session,
            limit,
            ask,
        }) => {
            let request = pb::ListClosesRequest {
                worker_id: worker.unwrap_or_default(),
                request_id: session.unwrap_or_default(),
                limit,
            };
            let mut client = client::connect(&ask).await?;
            let reply = said(&ask, client.list_closes(request).await)?;
            if !reply.unheard.is_empty() {
                let unheard = reply.unheard.join(", ");
                note(&format!("these nodes gave no answer: {unheard}"));
            }
            Ok(list(ask.output, &reply.closes, CLOSE))
        }
        Noun::Session(verb) => session(verb).await,
        Noun::Tenant(verb) => tenant(verb).await,
        Noun::Key(verb) => key(verb).await,
        Noun::Function(verb) => function(verb).await,
        Noun::Version(verb) => version(verb).await,
    }
}

pub(super) fn said<R>(ask: &Ask, answer: Result<Response<R>, Status>) -> Result<R, Failure> {
    let response = answer.map_err(|status| client::refused(ask, &status))?;
    if let Some(names) = response.metadata().get(LAGGARDS) {
        let names = names.to_str().unwrap_or_default();
        note(&format!(
            "written, but these nodes have not applied it yet: {names}"
        ));
    }
    Ok(response.into_inner())
}

async fn group(verb: GroupVerb) -> Answer {
    let (GroupVerb::List(ask) | GroupVerb::Hash(ask) | GroupVerb::Show { ask, .. }) = &verb;
    let request = pb::ListGroupsRequest {
        with_hash: !matches!(verb, GroupVerb::List(_)),
    };
    let mut client = client::connect(ask).await?;
    let groups = said(ask, client.list_groups(request).await)?.groups;
    match &verb {
        GroupVerb::List(_) => Ok(list(ask.output, &groups, GROUP)),
        GroupVerb::Hash(_) => Ok(list(
            ask.output,
            &groups,
            &["name", "generation", "applied", "state_hash"],
        )),
        GroupVerb::Show { name, .. } => {
            let found = groups.iter().find(|group| group.name == *name);
            let names = groups.iter().map(|group| group.name.as_str());
            let found = found.ok_or_else(|| unknown("group", name, names))?;
            let fields = [GROUP, &["last_log", "snapshot", "failed", "state_hash"]].concat();
            Ok(show(ask.output, found, &fields))
        }
    }
}

pub(super) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let known: Vec<&str> = known.collect();
    Failure::new(
        Code::Other,
        format!("there is no {what} {name:?}; known: {}", known.join(", ")),
    )
}

async fn session(verb: SessionVerb) -> Answer {
    match verb {
        SessionVerb::List { region, limit, ask } => {
            let request = pb::ListSessionsRequest {
                region: region.unwrap_or_default(),
                limit,
            };
            let mut client = client::connect(&ask).await?;
            let reply = said(&ask, client.list_sessions(request).await)?;
            if reply.truncated {
                note(&format!(
                    "more sessions than --limit {limit}: the list is cut"
                ));
            }
            Ok(list(ask.output, &reply.sessions, SESSION))
        }
        SessionVerb::Show { id, ask } => {
            let request = pb::GetSessionRequest { request_id: id };
            let mut client = client::connect(&ask).await?;
            let session = said(&ask, client.get_session(request).await)?;
            Ok(show(ask.output, &session, SESSION))
        }
        SessionVerb::End { id, dry_run, ask } => {
            let request = pb::EndSessionRequest {
                request_id: id,
                dry_run,
            };
            let mut client = client::connect(&ask).await?;
            let reply = said(&ask, client.end_session(request).await)?;
            would(dry_run, "end this session");
            Ok(match (ask.output, &reply.session) {
                (Output::Table, Some(session)) => show(ask.output, session, SESSION),
                _ => json(&reply),
            })
        }
    }
}

async fn tenant(verb: TenantVerb) -> Answer {
    match verb {
        TenantVerb::Create { name, id, ask } => {
            let request = pb::CreateTenantRequest {
                name,
                id: id.unwrap_or_default(),
            };
            let mut client = client::connect(&ask).await?;
            let tenant = said(&ask, client.create_tenant(request).await)?;
            Ok(show(ask.output, &tenant, TENANT))
        }
        TenantVerb::List(ask) => {
            let mut client = client::connect(&ask).await?;
            let reply = said(&ask, client.list_tenants(pb::ListTenantsRequest {}).await)?;
            Ok(list(ask.output, &reply.tenants, TENANT))
        }
        TenantVerb::Limit {
            name,
            limit,
            dry_run,
            ask,
        } => limits::tenant(name, limit, dry_run, ask).await,
    }
}

async fn key(verb: KeyVerb) -> Answer {
    match verb {
        KeyVerb::Create {
            kind,
            tenant,
            subject,
            function,
            version,
            expires_in,
            ask,
        } => {
            let kind = match kind {
                KeyKind::Client => "client",
                KeyKind::Worker => "worker",
                KeyKind::Viewer => "viewer",
                KeyKind::Operator => "operator",
                KeyKind::Admin => "admin",
            };
            let request = pb::CreateKeyRequest {
                kind: kind.into(),
                tenant_id: tenant.unwrap_or_default(),
                subject,
                function_ids: function,
                version_id: version.unwrap_or_default(),
                expires_unix: expires_in.map_or(0, |span| {
                    clock::unix_seconds().saturating_add(span.as_secs())
                }),
            };
            let mut client = client::connect(&ask).await?;
            let reply = said(&ask, client.create_key(request).await)?;
            note("this is the only time that the secret is shown");
            Ok(match ask.output {
                Output::Json => json(&reply),
                Output::Table => show(
                    ask.output,
                    &reply,
                    &[
                        "key.id",
                        "key.kind",
                        "key.subject",
                        "key.expires_unix",
                        "secret",
                    ],
                ),
            })
        }
        KeyVerb::List(ask) => {
            let mut client = client::connect(&ask).await?;
            let reply = said(&ask, client.list_keys(pb::ListKeysRequest {}).await)?;
            Ok(list(ask.output, &reply.keys, KEY))
        }
        KeyVerb::Revoke { id, dry_run, ask } => {
            let mut client = client::connect(&ask).await?;
            let request = pb::RevokeKeyRequest { id, dry_run };
            let key = said(&ask, client.revoke_key(request).await)?;
            would(dry_run, "revoke this key");
            Ok(show(ask.output, &key, KEY))
        }
    }
}

async fn function(verb: FunctionVerb) -> Answer {
    match verb {
        FunctionVerb::Create {
            name,
            tenant,
            id,
            ask,
        } => {
            let request = pb::CreateFunctionRequest {
                tenant_id: tenant,
                name,
                id: id.unwrap_or_default(),
            };
            let mut client = client::connect(&ask).await?;
            let function = said(&ask, client.create_function(request).await)?;
            Ok(show(ask.output, &function, FUNCTION))
        }
        FunctionVerb::Weigh {
            id,
            weights,
            none: _,
            dry_run,
            ask,
        } => routes::weigh(id, weights, dry_run, ask).await,
        FunctionVerb::Share(share) => routes::share(share, true).await,
        FunctionVerb::Unshare(share) => routes::share(share, false).await,
        FunctionVerb::List { tenant, ask } => {
            let request = pb::ListFunctionsRequest {
                tenant_id: tenant.unwrap_or_default(),
            };
            let mut client = client::connect(&ask).await?;
            let reply = said(&ask, client.list_functions(request).await)?;
            Ok(list(ask.output, &reply.functions, FUNCTION))
        }
    }
}

async fn version(verb: VersionVerb) -> Answer {
    match verb {
        VersionVerb::Create {
            function,
            id,
            policy,
            ask,
        } => {
            let request = pb::CreateVersionRequest {
                function_id: function,
                id: id.unwrap_or_default(),
                policy: Some(on_the_wire(&policy)),
            };
            let mut client = client::connect(&ask).await?;
            let version = said(&ask, client.create_version(request).await)?;
            Ok(show(ask.output, &version, VERSION))
        }
        VersionVerb::List { function, ask } => {
            let request = pb::ListVersionsRequest {
                function_id: function.unwrap_or_default(),
            };
            let mut client = client::connect(&ask).await?;
            let reply = said(&ask, client.list_versions(request).await)?;
            Ok(list(ask.output, &reply.versions, VERSION))
        }
        VersionVerb::Limit {
            id,
            limit,
            dry_run,
            ask,
        } => limits::version(id, limit, dry_run, ask).await,
        VersionVerb::Regions {
            id,
            regions,
            any,
            home,
            dry_run,
            ask,
        } => {
            let spill = match (any, home) {
                (true, _) => "any",
                (_, true) => "home",
                _ => "only",
            };
            routes::regions(id, spill, regions, dry_run, ask).await
        }
        VersionVerb::SetState {
            id,
            state,
            dry_run,
            ask,
        } => {
            let state = match state {
                VersionState::Active => "active",
                VersionState::Inactive => "inactive",
            };
            let request = pb::SetVersionStateRequest {
                id,
                state: state.into(),
                dry_run,
            };
            let mut client = client::connect(&ask).await?;
            let version = said(&ask, client.set_version_state(request).await)?;
            would(dry_run, &format!("make this version {state}"));
            Ok(show(ask.output, &version, VERSION))
        }
    }
}

fn on_the_wire(policy: &Policy) -> pb::VersionPolicy {
    let ms = |span: Option<Duration>| span.map(|span| span.as_millis() as u64);
    pb::VersionPolicy {
        slots: policy.slots,
        window_ms: ms(policy.window),
        window_max_ms: ms(policy.window_max),
        idle_ms: ms(policy.idle),
        wait_ms: ms(policy.wait),
        forward_credentials: policy.forward_credentials,
        pin: match policy.pin {
            Pin::Connection => "connection",
            Pin::Never => "never",
        }
        .into(),
    }
}

/// Says on stderr that nothing was changed, when that is so.
pub(super) fn would(dry_run: bool, what: &str) {
    if dry_run {
        note(&format!(
            "dry run: nothing was changed; without --dry-run this would {what}"
        ));
    }
}

pub(super) fn note(text: &str) {
    eprintln!("pontoon: {text}");
}
