//! Exchanges that become something else: HTTP/1.1 upgrades, and WebSockets over HTTP/2's extended
//! CONNECT (RFC 8441). A worker always sees an HTTP/1.1 upgrade (C-FWD-6).
//!
//! Pure, but for [`Exchange::upgrade`].

use super::answer::Answer;
use super::carry::{End, Exchange, Head};
use super::dress;
use super::flow::Flow;
use crate::pipe;
use crate::tunnel::Lent;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, request};
use pontoon_proto::fault::Fault;
use std::future::poll_fn;

/// The key of a WebSocket handshake, and what proves that a server understood it.
const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// What every server appends to the key (RFC 6455 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request wants its connection to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// By HTTP/1.1: this protocol.
    Http1(HeaderValue),
    /// A WebSocket by extended CONNECT; ours is the key of the handshake with the worker.
    ExtendedConnect(HeaderValue),
}

impl Upgrade {
    /// What a request asks for; `None` for an ordinary one. `switches` is whether its connection can
    /// become something else, `random` makes a key where one is needed.
    ///
    /// # Errors
    ///
    /// `NotSupported` for a CONNECT that is no WebSocket (C-ERR-14).
    pub(super) fn wanted(
        request: &request::Parts,
        switches: bool,
        random: impl FnOnce() -> [u8; 16],
    ) -> Result<Option<Self>, Fault> {
        if request.method == Method::CONNECT {
            let protocol = request.extensions.get::<h2::ext::Protocol>();
            return match protocol {
                Some(protocol) if protocol.as_str() == "websocket" => {
                    let key = HeaderValue::from_str(&STANDARD.encode(random()));
                    let key = key.map_err(|_| Fault::Internal)?;
                    Ok(Some(Upgrade::ExtendedConnect(key)))
                }
                _ => Err(Fault::NotSupported),
            };
        }
        let named = request.version == Version::HTTP_11 && asks(&request.headers);
        let protocol = request.headers.get(UPGRADE).filter(|_| named && switches);
        Ok(protocol.cloned().map(Upgrade::Http1))
    }

    /// Whether it is a WebSocket.
    pub(super) fn is_websocket(&self) -> bool {
        match self {
            Upgrade::Http1(protocol) => protocol.as_bytes().eq_ignore_ascii_case(b"websocket"),
            Upgrade::ExtendedConnect(_) => true,
        }
    }

    /// Makes the worker's request an upgrade.
    pub(super) fn ask(&self, request: &mut Request<()>) {
        let protocol = match self {
            Upgrade::Http1(protocol) => protocol.clone(),
            Upgrade::ExtendedConnect(key) => {
                *request.method_mut() = Method::GET;
                request.headers_mut().insert(KEY, key.clone());
                let version = HeaderValue::from_static("13");
                request.headers_mut().insert(VERSION, version);
                HeaderValue::from_static("websocket")
            }
        };
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
    }

    /// Makes the worker's 101 the client's answer; false when the worker did not understand the
    /// handshake. `headers` are without hop-by-hop ones by now, `protocol` is what was in `upgrade`.
    fn agreed(&self, head: &mut Response<()>, protocol: Option<HeaderValue>) -> bool {
        match self {
            Upgrade::Http1(asked) => {
                let headers = head.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(UPGRADE, protocol.unwrap_or_else(|| asked.clone()));
                true
            }
            Upgrade::ExtendedConnect(key) => {
                *head.status_mut() = StatusCode::OK;
                let accepted = head.headers_mut().remove(ACCEPT);
                accepted.is_some_and(|accepted| accepted == accept(key))
            }
        }
    }
}

/// Whether the `connection` header asks for an upgrade.
fn asks(headers: &HeaderMap) -> bool {
    let all = headers.get_all(CONNECTION);
    all.iter().any(|value| {
        let mut options = value.as_bytes().split(|&b| b == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    })
}

/// The proof that a server understood the handshake (RFC 6455 4.2.2).
fn accept(key: &HeaderValue) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}

impl Exchange {
    /// Asks the worker for an upgrade and carries what follows, raw. A worker that answers with
    /// anything but 101 has answered the request. `ours` makes its answer one of ours.
    pub(super) async fn upgrade(
        &mut self,
        upgrade: &Upgrade,
        request: Request<()>,
        lent: Lent,
        offered: &HeaderMap,
        mut ours: impl FnMut(&mut HeaderMap),
    ) -> End {
        let request = request.map(|()| pipe::whole(Bytes::new()));
        let mut answer = Answer::over_h1(lent, request);
        let head = poll_fn(|cx| self.poll_head(cx, &mut answer)).await;
        let mut answer = match head {
            Head::Answer(answer) => answer,
            Head::Client(reason) => return self.cancel(reason),
            Head::Worker(failure) => return self.failed_before_head(failure),
        };
        let switched = (answer.status() == StatusCode::SWITCHING_PROTOCOLS)
            .then(|| hyper::upgrade::on(&mut answer));
        let (parts, body) = answer.into_parts();
        let mut head = Response::from_parts(parts, ());
        let protocol = head.headers().get(UPGRADE).cloned();
        ours(head.headers_mut());
        let Some(worker) = switched else {
            return self.answered(head, body).await;
        };
        if !upgrade.agreed(&mut head, protocol) {
            return End::Failed { again: false };
        }
        if upgrade.is_websocket() {
            dress::select_protocol(offered, head.headers_mut());
        }
        let Some(request_body) = self.body.take() else {
            return End::Unsendable;
        };
        let client = match self.respond.switch(head, request_body) {
            Ok(client) => client,
            Err(reason) => return self.cancel(reason),
        };
        let (worker, client) = tokio::join!(worker, client);
        let Ok(worker) = worker else {
            return End::Broken;
        };
        let Some((from_client, to_client)) = client else {
            return self.cancel(None);
        };
        let (from_worker, to_worker) = super::ends::raw(worker);
        self.up = Some(Flow::new(from_client, to_worker, false));
        self.down = Some(Flow::new(from_worker, to_client, false));
        self.carry(StatusCode::SWITCHING_PROTOCOLS).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder()
            .method(method)
            .uri("http://node/x")
            .version(Version::HTTP_11);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_accept_of_the_rfcs_example() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn c_fwd_6_an_upgrade_is_asked_for_by_both_headers() {
        let both = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ];
        let wanted = Upgrade::wanted(&request("GET", &both), true, || [0; 16]).unwrap();
        let wanted = wanted.unwrap();
        assert!(wanted.is_websocket());
        let mut out = Request::new(());
        wanted.ask(&mut out);
        assert_eq!(out.headers()["connection"], "Upgrade");
        assert_eq!(out.headers()["upgrade"], "websocket");
        for (headers, switches) in [(&both[..1], true), (&both[1..], true), (&both[..], false)] {
            let none = Upgrade::wanted(&request("GET", headers), switches, || [0; 16]);
            assert_eq!(none, Ok(None));
        }
    }

    #[test]
    fn c_err_14_a_connect_is_a_websocket_or_not_supported() {
        let mut connect = request("CONNECT", &[]);
        assert_eq!(
            Upgrade::wanted(&connect, true, || [0; 16]),
            Err(Fault::NotSupported)
        );
        let protocol = h2::ext::Protocol::from_static("connect-udp");
        connect.extensions.insert(protocol);
        assert_eq!(
            Upgrade::wanted(&connect, true, || [0; 16]),
            Err(Fault::NotSupported)
        );
        let protocol = h2::ext::Protocol::from_static("websocket");
        connect.extensions.insert(protocol);
        let wanted = Upgrade::wanted(&connect, true, || [7; 16])
            .unwrap()
            .unwrap();
        let mut out = Request::new(());
        wanted.ask(&mut out);
        assert_eq!(out.method(), "GET");
        let key = out.headers()[KEY].clone();
        let mut head = Response::new(());
        head.headers_mut()
            .insert(ACCEPT, HeaderValue::from_str(&accept(&key)).unwrap());
        *head.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        assert!(wanted.agreed(&mut head, None));
        assert_eq!(head.status(), 200);
        assert!(!head.headers().contains_key(ACCEPT));
        assert!(!wanted.agreed(&mut Response::new(()), None));
    }
}
