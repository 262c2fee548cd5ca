//! Twins: proxies in front of the target that break one row of the contract and leave the rest alone.
//!
//! [`h2`] passes HTTP/2 message by message, with one client connection on one of its own towards the
//! target, so that pins stay what they are; [`h1`] passes bytes and touches only the first head of each
//! direction. A twin without a flaw is the control: every check must be green through it.

mod h1;
mod h2;

use crate::target::{Target, Wire};
use http::{HeaderMap, request, response};
use pontoon::net;
use pontoon::tasks::{self, Kind};

/// How a twin breaks its row.
#[derive(Clone, Copy)]
pub enum Twin {
    /// Nothing is broken.
    None,
    /// The request's head on its way to the target.
    Request(fn(&mut request::Parts)),
    /// The answer's head on its way to the client; it sees the request as the client sent it.
    Answer(fn(&request::Parts, &mut response::Parts)),
    /// The answer's trailers.
    Trailers(fn(&mut HeaderMap)),
    /// Every piece of the request's body.
    Body(fn(&mut Vec<u8>)),
    /// Every piece of the answer's body, which from the suite's worker is a report; its length stays.
    Report(fn(&mut Vec<u8>)),
    /// The way the proxy itself works.
    Flaw(Flaw),
    /// The text of an HTTP/1.1 request's first head.
    RequestText(fn(String) -> String),
    /// The text of an HTTP/1.1 answer's first head.
    AnswerText(fn(String) -> String),
    /// A proxy in front can't break it; the reason says what else shows that the check can turn red.
    Elsewhere(&'static str),
}

/// What a proxy may do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Takes all that the target sends, however slow the client reads.
    Eager,
    /// Does not tell the target that a client gave up.
    Deaf,
    /// Ends a broken answer as if it were whole.
    Clean,
    /// Puts all clients on one connection.
    Shared,
    /// Puts every call on a connection of its own.
    Fresh,
    /// Refuses bodies of more than 16 MiB.
    Bounded,
    /// Swallows 1xx answers, and waits for the whole request before it passes any of it.
    Patient,
    /// Answers heads of any size by itself.
    Broad,
    /// Keeps a connection that the target has ended, and counts no resets.
    Lingers,
    /// Lets one stream at a time be open.
    Single,
}

/// Puts a twin in front of a target.
pub async fn in_front(target: &Target, twin: Twin) -> Target {
    let listener = net::listen("a twin", "127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (wire, behind) = (target.wire, target.address.clone());
    tasks::spawn(Kind::Worker, "twin", async move {
        let shared = h2::Shared::default();
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            let (behind, shared) = (behind.clone(), shared.clone());
            tasks::spawn(Kind::Worker, "twin connection", async move {
                // What breaks here is seen by the check.
                match wire {
                    Wire::H2 => h2::serve(stream, &behind, twin, shared).await.ok(),
                    Wire::H1 => h1::serve(stream, &behind, twin).await.ok(),
                };
            });
        }
    });
    target.at(&address)
}
