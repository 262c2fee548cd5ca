//! Which session a call belongs to (C-RID-4, C-PIN).
//!
//! ```text
//! header or protocol item ──▶ that session, even on a connection pinned elsewhere
//! cookie ──lives and fits──▶ that session
//!    │ dead, and there is a live pin, or another function's: as if absent
//!    │ dead, surely, without a pin ──▶ no existing session found
//! pin ──lives──▶ that session          ended: as if absent
//! else ──▶ open; racing calls of one key share it
//! ```

use super::connection::{Connection, Held, Joining, Pinned};
use super::context::{Context, Joins, Member};
use crate::session::Ask;
use crate::session::pin::Key;
use crate::tunnel::Wire;
use futures::FutureExt as _;
use pontoon_proto::fault::Fault;
use pontoon_proto::head::{Head, Wanted};
use pontoon_proto::id::RequestId;
use std::sync::Arc;

/// What a call asks for and whom it is shared with.
pub(super) struct Question<'a> {
    pub(super) ask: Ask,
    pub(super) head: &'a Head<'a>,
    pub(super) key: Key,
    /// Whether the version lets calls stay with their connection's session.
    pub(super) pins: bool,
}

/// A call's session, with our side of a live tunnel.
pub(super) struct Located<M: Member> {
    pub(super) held: Held<M>,
    pub(super) wire: Wire,
}

/// Why there is none.
pub(super) struct Lost {
    pub(super) fault: Fault,
    /// The session that was meant, when the call was bound to one already.
    pub(super) session: Option<RequestId>,
    /// Whether the client's cookie names what is gone (C-RSP-3).
    pub(super) clear_cookie: bool,
}

impl From<Fault> for Lost {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            session: None,
            clear_cookie: false,
        }
    }
}

/// How often a pinned session may turn out to have ended, or a shared open to have had less time
/// than this call, before the call gives up. Each costs a whole open, so it is a bound on a loop and
/// not a policy.
const PIN_ATTEMPTS: usize = 16;

/// Finds or makes the session, and a tunnel to its worker.
pub(super) async fn locate<J: Joins>(
    cx: &Arc<Context<J>>,
    connection: &Arc<Connection<J::Joined>>,
    question: &Question<'_>,
) -> Result<Located<J::Joined>, Lost> {
    if let Some(located) = existing(cx, connection, question).await? {
        return Ok(located);
    }
    let ask = &question.ask;
    if !question.pins {
        let joined = within(ask, Box::pin(cx.sessions.open(ask))).await?;
        let held = connection.hold_new(&Arc::new(joined), ask);
        return ready(held, question).await.map_err(Lost::from);
    }
    for _ in 0..PIN_ATTEMPTS {
        if let Some(located) = by_pin(cx, connection, question).await? {
            return Ok(located);
        }
    }
    Err(Fault::NoWorkerInTime.into())
}

/// The session that the call names. `None`: it names none that counts.
pub(super) async fn existing<J: Joins>(
    cx: &Arc<Context<J>>,
    connection: &Arc<Connection<J::Joined>>,
    question: &Question<'_>,
) -> Result<Option<Located<J::Joined>>, Lost> {
    match question.head.session {
        Wanted::Any => Ok(None),
        Wanted::Cookie => Box::pin(by_cookie(cx, connection, question)).await,
        Wanted::Named(id) => match join(cx, connection, question, id).await {
            Ok(located) => Ok(Some(located)),
            Err(fault) => {
                let gone = fault == Fault::SessionNotFound;
                Err(Lost {
                    fault,
                    session: (!gone).then_some(id),
                    clear_cookie: gone && question.head.cookies.contains(&id),
                })
            }
        },
    }
}

/// The first cookie that names a live session of this tenant, function and version. `None`: as if
/// no cookie had been sent.
async fn by_cookie<J: Joins>(
    cx: &Arc<Context<J>>,
    connection: &Arc<Connection<J::Joined>>,
    question: &Question<'_>,
) -> Result<Option<Located<J::Joined>>, Lost> {
    let ask = &question.ask;
    let ours = |id: &&RequestId| id.region().is_some();
    let cookies = &question.head.cookies;
    let live =
        |id: &&RequestId| connection.stays_in(**id, ask) || cx.sessions.is_live_here(**id, ask);
    for id in cookies.iter().filter(ours).filter(live) {
        match join(cx, connection, question, *id).await {
            Ok(located) => return Ok(Some(located)),
            Err(Fault::SessionNotFound) => {}
            Err(fault) => {
                return Err(Lost {
                    fault,
                    session: Some(*id),
                    clear_cookie: false,
                });
            }
        }
    }
    if question.pins && pin_lives(cx, connection, question) {
        return Ok(None);
    }
    // This replica may lag: only its home group may say that a session is gone.
    for id in cookies.iter().filter(ours) {
        match join(cx, connection, question, *id).await {
            Ok(located) => return Ok(Some(located)),
            Err(Fault::SessionNotFound) => {}
            Err(fault) => return Err(fault.into()),
        }
    }
    // A live session of another function on the same origin owns the cookie's name: clearing it
    // would lose that one (H-31).
    if cookies
        .iter()
        .any(|id| cx.sessions.is_known_foreign(*id, ask))
    {
        return Ok(None);
    }
    Err(Lost {
        fault: Fault::SessionNotFound,
        session: None,
        clear_cookie: true,
    })
}

/// Whether the connection's pin names something that lives, as far as is known here.
fn pin_lives<J: Joins>(
    cx: &Context<J>,
    connection: &Arc<Connection<J::Joined>>,
    question: &Question<'_>,
) -> bool {
    match connection.pinned(&question.key) {
        Pinned::No => false,
        Pinned::Opening(_) => true,
        Pinned::Session(id) => {
            connection.stays_in(id, &question.ask) || cx.sessions.is_live_here(id, &question.ask)
        }
    }
}

/// The pinned session, or one that is opened and pinned. `None`: the pinned one has ended.
async fn by_pin<J: Joins>(
    cx: &Arc<Context<J>>,
    connection: &Arc<Connection<J::Joined>>,
    question: &Question<'_>,
) -> Result<Option<Located<J::Joined>>, Lost> {
    let ask = &question.ask;
    let open = match connection.pinned(&question.key) {
        Pinned::Session(id) => {
            return match join(cx, connection, question, id).await {
                Ok(located) => Ok(Some(located)),
                Err(Fault::SessionNotFound) => {
                    connection.unpin(&question.key, id);
                    Ok(None)
                }
                Err(fault) => Err(Lost {
                    fault,
                    session: Some(id),
                    clear_cookie: false,
                }),
            };
        }
        Pinned::Opening(open) => open,
        Pinned::No => connection.opens(&question.key, opening(cx, connection, question)),
    };
    match within(ask, open).await {
        Ok(joined) => {
            let held = connection.hold_new(&joined, ask);
            match ready(held, question).await {
                Ok(located) => Ok(Some(located)),
                Err(Fault::SessionNotFound) => {
                    connection.unpin(&question.key, joined.id());
                    Ok(None)
                }
                Err(fault) => Err(Lost {
                    fault,
                    session: Some(joined.id()),
                    clear_cookie: false,
                }),
            }
        }
        // The open that was shared had another call's deadline; this one has time left.
        Err(Fault::NoWorkerInTime) if !ask.left().is_zero() => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

/// The open that racing calls share. It runs while any of them waits, and pins what it opens.
fn opening<J: Joins>(
    cx: &Arc<Context<J>>,
    connection: &Arc<Connection<J::Joined>>,
    question: &Question<'_>,
) -> futures::future::BoxFuture<'static, Result<Arc<J::Joined>, Fault>> {
    let (cx, connection) = (cx.clone(), connection.clone());
    let (ask, key) = (question.ask.clone(), question.key.clone());
    async move {
        let joined = cx.sessions.open(&ask).await.map(Arc::new);
        let result = joined.as_ref().map(|joined| joined.id()).map_err(|f| *f);
        connection.opened(&key, result);
        joined
    }
    .boxed()
}

/// Takes part in an existing session; the same caller's calls share one resume.
async fn join<J: Joins>(
    cx: &Arc<Context<J>>,
    connection: &Arc<Connection<J::Joined>>,
    question: &Question<'_>,
    id: RequestId,
) -> Result<Located<J::Joined>, Fault> {
    if id.region().is_none() {
        return Err(Fault::SessionNotFound);
    }
    let ask = &question.ask;
    if let Some(held) = connection.hold(id, ask) {
        return ready(held, question).await;
    }
    let resume = {
        let (cx, connection) = (cx.clone(), connection.clone());
        let (ask, key) = (ask.clone(), question.key.clone());
        async move {
            let joined = cx.sessions.resume(id, &ask).await.map(Arc::new);
            connection.resumed(id, &key);
            joined
        }
        .boxed()
    };
    let resume: Joining<J::Joined> = connection.resumes(id, &question.key, resume);
    let joined = within(ask, resume).await?;
    ready(connection.hold_new(&joined, ask), question).await
}

/// Gets the session's tunnel.
async fn ready<M: Member>(held: Held<M>, question: &Question<'_>) -> Result<Located<M>, Fault> {
    let ask = &question.ask;
    let wire = within(ask, held.joined.wire(ask.carries, ask.deadline)).await?;
    Ok(Located { held, wire })
}

/// Waits no longer than the call has time.
async fn within<T>(ask: &Ask, what: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout_at(ask.deadline, what).await {
        Ok(result) => result,
        Err(_elapsed) => Err(Fault::NoWorkerInTime),
    }
}
