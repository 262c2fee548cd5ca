//! One exchange, from a client's head to the worker's last byte.
//!
//! [`serve`] is the whole pipeline on one screen. Its steps, in the order of the contract:
//! `pontoon_proto::head` reads the head, [`identity`] judges the credential, [`admit`] the function
//! and version, [`locate`] finds or opens the session, [`dress`] rewrites the head, [`carry`] moves
//! both directions through the session's tunnel, and [`fault`] renders whatever went wrong.
//! [`connection`] is what one client connection remembers between its calls.
//!
//! Everything up to [`carry`] knows `http` types only. [`ends`] are what [`flow`] moves bytes between,
//! over either HTTP; [`respond`] and [`answer`] are the heads on both sides, [`upgrade`] what becomes
//! of a WebSocket.

pub mod admit;
mod answer;
mod carry;
pub mod chatter;
pub mod connection;
pub mod context;
mod cors;
pub mod counters;
pub mod dress;
pub(crate) mod ends;
pub mod fault;
mod flow;
pub mod h2_settings;
pub mod identity;
mod local;
mod locate;
pub(crate) mod respond;
mod story;
#[cfg(test)]
mod tests;
mod upgrade;

pub use connection::Connection;
pub use context::{CatalogReplica, Context, Joins, Member};
pub use counters::Counters;

use crate::clock;
use crate::drain::{Draining, Stage};
use crate::random;
use crate::session::Ask;
use crate::session::pin::Key;
use crate::tunnel::{Carries, Wire};
use admit::Terms;
use bytes::Bytes;
use carry::{End, Exchange};
use ends::Source;
use fault::{Asked, Extras};
use futures::FutureExt as _;
use http::{HeaderMap, Method, Request, Response, request};
use identity::{Caller, Judged};
use locate::{Located, Lost, Question};
use pontoon_proto::fault::Fault;
use pontoon_proto::head::{Dialect, Head, Wanted};
use pontoon_proto::id::{FunctionId, RequestId, VersionId};
use respond::Respond;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use story::{Ending, Story};
use upgrade::Upgrade;

/// How long a second attempt may wait for its fresh tunnel when the call's own wait is over: a
/// sidecar dials back within it, or its worker counts as lost.
const REPEAT_WAIT: Duration = Duration::from_secs(2);

/// What a call's head came to.
enum Next<J: Joins> {
    /// It goes to a worker.
    Carry(Box<Way<J>>),
    /// An absorbed call: answered here, with this session's id where it opened or found one.
    Absorbed(Option<RequestId>),
}

/// All that carrying a call needs.
struct Way<J: Joins> {
    located: Located<J::Joined>,
    ask: Ask,
    caller: Caller,
    terms: Terms,
    upgrade: Option<Upgrade>,
}

/// Serves one call of a connection.
pub(crate) async fn serve<J: Joins>(
    cx: Arc<Context<J>>,
    connection: Arc<Connection<J::Joined>>,
    mut draining: Draining,
    request: Request<Source>,
    respond: Respond,
) {
    let open = connection.begins();
    let _gauge = cx.counters.calls.while_held();
    let (parts, body) = request.into_parts();
    let mut story = Story::begins(connection.number, &parts);
    let mut exchange = Exchange::new(body, respond);
    let ending = if let Some((response, trailers)) =
        local::answer(&parts, draining.stage() == Stage::Serving)
    {
        exchange.answer(response, trailers);
        Ending::Here
    } else {
        let asked = Asked::of(&parts);
        let switches = exchange.switches();
        let next = prepare(&cx, &connection, &parts, switches, &mut story);
        let next = AssertUnwindSafe(next).catch_unwind();
        let next = tokio::select! {
            biased;
            next = next => Some(next.unwrap_or(Err(Fault::Internal.into()))),
            () = exchange.client_leaves() => None,
            () = draining.reached(Stage::Stopped) => Some(Err(Fault::Draining.into())),
        };
        match next {
            None => Ending::LeftEarly,
            Some(Ok(Next::Absorbed(session))) => {
                let mut response = absorbed(&cx, &connection, session);
                cors::allow(response.headers_mut(), asked.origin());
                exchange.answer(response, None);
                Ending::Here
            }
            Some(Ok(Next::Carry(way))) => {
                carry_it(
                    &cx,
                    &connection,
                    &parts,
                    &asked,
                    &mut story,
                    &mut exchange,
                    *way,
                )
                .await
            }
            Some(Err(lost)) => report(&cx, &connection, &asked, &mut exchange, lost),
        }
    };
    let given_up = matches!(ending, Ending::LeftEarly | Ending::Carried(End::Cancelled));
    story.ends(&cx.counters, &cx.chatter, &ending, exchange.bytes());
    open.ends(given_up, cx.limits.resets_max);
}

/// Everything before the first byte goes to a worker, in the contract's order (C-KEY-1).
async fn prepare<J: Joins>(
    cx: &Arc<Context<J>>,
    connection: &Arc<Connection<J::Joined>>,
    parts: &request::Parts,
    switches: bool,
    story: &mut Story,
) -> Result<Next<J>, Lost> {
    let upgrade = Upgrade::wanted(parts, switches, random::bytes)?;
    let head = Head::read(&parts.headers);
    cx.counters.ignored(head.ignored);
    let caller = authenticate(cx, head.credential?).await?;
    story.tenant = Some(caller.tenant);
    let function = head.function?;
    story.function = Some(function);
    let version = head.version?;
    let terms = admitted(cx, &caller, function, version, &head).await?;
    // Before a session is opened for it.
    dress::authority(parts).map_err(|_| Fault::NotSupported)?;
    let ask = Ask {
        tenant: caller.tenant,
        function,
        versions: terms.versions.clone(),
        named: version.is_some(),
        window: terms.window,
        deadline: story.began() + terms.wait,
        began: story.began(),
        carries: match (&upgrade, head.dialect) {
            (Some(_), _) => Carries::Upgrade,
            (None, Dialect::Grpc) => Carries::Grpc,
            (None, Dialect::GrpcWeb | Dialect::Plain) => Carries::Plain,
        },
    };
    let question = Question {
        ask,
        head: &head,
        key: Key {
            function,
            version,
            tenant: caller.tenant,
            subject: caller.subject().to_owned(),
        },
        pins: terms.pins && !head.absorb && upgrade.is_none(),
    };
    if head.absorb && (parts.method == Method::POST || parts.method == Method::DELETE) {
        return Box::pin(absorb(cx, connection, &parts.method, &question)).await;
    }
    let located = locate::locate(cx, connection, &question).await?;
    story.session = Some(located.held.joined.id());
    story.version = Some(located.held.joined.version());
    let ask = question.ask;
    Ok(Next::Carry(Box::new(Way {
        located,
        ask,
        caller,
        terms,
        upgrade,
    })))
}

/// The caller behind a credential; one that this replica doesn't know is confirmed by a read that
/// all concurrent strangers share.
async fn authenticate<J: Joins>(cx: &Context<J>, credential: &str) -> Result<Caller, Fault> {
    let now = clock::unix_seconds();
    match identity::judge(&cx.catalog.state(), credential, now) {
        Judged::Caller(caller) => Ok(caller),
        Judged::Refused(fault) => Err(fault),
        Judged::Unknown => {
            let catalog = cx.catalog.read().await.ok_or(Fault::DirectoryUnavailable)?;
            match identity::judge(&catalog, credential, now) {
                Judged::Caller(caller) => Ok(caller),
                Judged::Refused(fault) => Err(fault),
                Judged::Unknown => Err(Fault::InvalidCredential),
            }
        }
    }
}

/// The terms of the call; a refusal for want of knowledge is confirmed by a read.
async fn admitted<J: Joins>(
    cx: &Context<J>,
    caller: &Caller,
    function: FunctionId,
    version: Option<VersionId>,
    head: &Head<'_>,
) -> Result<Terms, Fault> {
    match admit::admit(&cx.catalog.state(), caller, function, version, head) {
        Err(Fault::FunctionNotFound) => {
            let catalog = cx.catalog.read().await.ok_or(Fault::DirectoryUnavailable)?;
            admit::admit(&catalog, caller, function, version, head)
        }
        judged => judged,
    }
}

/// `POST` and `DELETE` with absorb: a session without a call (C-ABS).
async fn absorb<J: Joins>(
    cx: &Arc<Context<J>>,
    connection: &Arc<Connection<J::Joined>>,
    method: &Method,
    question: &Question<'_>,
) -> Result<Next<J>, Lost> {
    if method == Method::DELETE {
        let id = match question.head.session {
            Wanted::Named(id) => Some(id),
            Wanted::Cookie => question.head.cookies.first().copied(),
            Wanted::Any => None,
        };
        let id = id
            .filter(|id| id.region().is_some())
            .ok_or(Fault::SessionNotFound)?;
        cx.sessions.release(id, &question.ask).await?;
        return Ok(Next::Absorbed(None));
    }
    let id = match locate::existing(cx, connection, question).await? {
        Some(located) => located.held.joined.id(),
        None => cx.sessions.absorb(&question.ask).await?,
    };
    Ok(Next::Absorbed(Some(id)))
}

/// The answer to an absorbed call: 200, no body, id and cookie.
fn absorbed<J: Joins>(
    cx: &Context<J>,
    connection: &Connection<J::Joined>,
    session: Option<RequestId>,
) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(
        http::header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-store"),
    );
    if let Some(id) = session {
        dress::for_client(headers, id, cx.cookie(connection, id));
    }
    response
}

/// Carries a call through its session's tunnel; once more through a fresh one where the worker has
/// surely not acted on it.
async fn carry_it<J: Joins>(
    cx: &Context<J>,
    connection: &Connection<J::Joined>,
    parts: &request::Parts,
    asked: &Asked,
    story: &mut Story,
    exchange: &mut Exchange,
    way: Way<J>,
) -> Ending {
    let Located { held, mut wire } = way.located;
    let id = held.joined.id();
    let version = held.joined.version();
    let policy = way.terms.versions.iter().find(|known| known.id == version);
    // A guest's key never reaches what another tenant runs.
    let own = way.terms.function.tenant == way.caller.tenant;
    let introduction = dress::Introduction {
        session: id,
        tenant: way.caller.tenant,
        subject: way.caller.subject(),
        function: way.terms.function.id,
        version,
        function_name: &way.terms.function.name,
        region: &cx.region,
        forward_credentials: own && policy.is_some_and(|known| known.policy.forward_credentials),
        client: cx.forwards_address.then_some(connection.origin),
    };
    let lost = |fault| Lost {
        fault,
        session: Some(id),
        clear_cookie: false,
    };
    loop {
        let Ok(mut request) = dress::for_worker(parts, &introduction) else {
            return report(cx, connection, asked, exchange, lost(Fault::NotSupported));
        };
        if matches!(wire, Wire::H1(_)) {
            dress::over_http1(&mut request);
        }
        story.attempts += 1;
        story.tunnel = Some(wire.carries(story.trace));
        let dress = |headers: &mut HeaderMap| {
            story.answered();
            dress::for_client(headers, id, cx.cookie(connection, id));
            cors::expose(headers);
        };
        let end = match (&way.upgrade, wire) {
            (Some(upgrade), Wire::H1(lent)) => {
                upgrade.ask(&mut request);
                let offered = &parts.headers;
                Box::pin(exchange.upgrade(upgrade, request, lent, offered, dress)).await
            }
            (_, wire) => exchange.attempt(request, wire, dress).await,
        };
        match end {
            End::Failed { again: true } if story.attempts == 1 && exchange.can_repeat() => {
                cx.counters.calls_retried.up();
                let patience = way.ask.deadline.max(clock::now() + REPEAT_WAIT);
                wire = match held.joined.wire(way.ask.carries, patience).await {
                    Ok(fresh) => fresh,
                    Err(Fault::DirectoryUnavailable) => {
                        let lost = lost(Fault::DirectoryUnavailable);
                        return report(cx, connection, asked, exchange, lost);
                    }
                    Err(_) => {
                        return report(cx, connection, asked, exchange, lost(Fault::WorkerLost));
                    }
                };
            }
            End::Failed { .. } => {
                return report(cx, connection, asked, exchange, lost(Fault::WorkerLost));
            }
            End::Unsendable => {
                return report(cx, connection, asked, exchange, lost(Fault::Internal));
            }
            end => return Ending::Carried(end),
        }
    }
}

/// Tells the client what went wrong.
fn report<J: Joins>(
    cx: &Context<J>,
    connection: &Connection<J::Joined>,
    asked: &Asked,
    exchange: &mut Exchange,
    lost: Lost,
) -> Ending {
    let log_id = (lost.fault == Fault::Internal).then(|| {
        let id = u64::from_le_bytes(random::bytes());
        tracing::error!(
            connection = connection.number,
            session = lost.session.map(tracing::field::display),
            id = format_args!("{id:016x}"),
            "a call hit a bug of ours"
        );
        id
    });
    let extras = Extras {
        session: lost.session,
        cookie: lost.session.is_some_and(|id| connection.gives_cookie(id)),
        attributes: cx.cookies.attributes(connection.origin.tls),
        clear_cookie: lost.clear_cookie,
        log_id,
    };
    exchange.answer(fault::render(lost.fault, asked, extras), None);
    Ending::Fault(lost.fault)
}
