//! What the worker sees of a request, and what the client sees of an answer (C-FWD, C-RSP).
//!
//! Pure: headers in, headers out.

use crate::listen::Origin;
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, SET_COOKIE, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Uri, Version, request};
use pontoon_proto::cookies::{self, COOKIE_NAME};
use pontoon_proto::head::REQUEST_ID;
use pontoon_proto::id::{FunctionId, RequestId, TenantId, VersionId};
use pontoon_proto::protocols::Protocols;
use std::net::IpAddr;

/// Who calls what, as the worker is told (C-FWD-3).
#[derive(Clone, Copy, Debug)]
pub struct Introduction<'a> {
    /// The session.
    pub session: RequestId,
    /// `nvcf-ncaid`.
    pub tenant: TenantId,
    /// `nvcf-sub`.
    pub subject: &'a str,
    /// `nvcf-function-id`.
    pub function: FunctionId,
    /// `nvcf-function-version-id`.
    pub version: VersionId,
    /// `nvcf-function-name`.
    pub function_name: &'a str,
    /// `nvcf-region`: the entry node's.
    pub region: &'a str,
    /// Whether credentials reach the worker.
    pub forward_credentials: bool,
    /// The client, where the worker is told its address (C-FWD-9).
    pub client: Option<Origin>,
}

/// The attributes of our cookie (C-RSP-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CookiePolicy {
    /// Pages can't read it. A page can't read the headers of a WebSocket's answer either, so it
    /// never learns its session's id.
    pub http_only: bool,
    /// It is sent with requests that pages of other sites make; browsers want TLS for that.
    pub cross_site: bool,
}

impl CookiePolicy {
    /// The attributes towards a client that speaks TLS to us, or not.
    pub fn attributes(self, tls: bool) -> &'static str {
        match (self.cross_site, tls, self.http_only) {
            (true, _, false) => "Path=/; SameSite=None; Secure; Partitioned",
            (true, _, true) => "Path=/; SameSite=None; Secure; Partitioned; HttpOnly",
            (false, true, false) => "Path=/; SameSite=Lax; Secure",
            (false, true, true) => "Path=/; SameSite=Lax; Secure; HttpOnly",
            (false, false, false) => "Path=/; SameSite=Lax",
            (false, false, true) => "Path=/; SameSite=Lax; HttpOnly",
        }
    }
}

/// A head that can't be passed on: it has neither an authority nor a `host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAuthority;

/// Whom the request is for.
///
/// # Errors
///
/// See [`NoAuthority`].
pub fn authority(request: &request::Parts) -> Result<Authority, NoAuthority> {
    let host = || {
        let host = request.headers.get(HOST)?;
        Authority::try_from(host.as_bytes()).ok()
    };
    let authority = request.uri.authority().cloned();
    authority.or_else(host).ok_or(NoAuthority)
}

/// The request as it goes through the tunnel. Method, path and authority stay; the scheme is `http`.
///
/// # Errors
///
/// [`NoAuthority`], which HTTP/2 can't express and HTTP/1.1 forbids.
pub fn for_worker(
    request: &request::Parts,
    introduction: &Introduction<'_>,
) -> Result<Request<()>, NoAuthority> {
    let authority = authority(request)?;
    let mut uri = request.uri.clone().into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    if uri.path_and_query.is_none() {
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }

    let mut headers = request.headers.clone();
    drop_hop_by_hop(&mut headers);
    drop_forwarded(&mut headers);
    // Whoever expects `100 Continue` has it from us.
    headers.remove(EXPECT);
    // HTTP/1.1 has it beside the authority, HTTP/2 in its place.
    headers.remove(HOST);
    if !introduction.forward_credentials {
        headers.remove(AUTHORIZATION);
        cookies::drop_ours(&mut headers);
    }
    offer_protocols(&mut headers, introduction.forward_credentials);
    if let Some(client) = introduction.client {
        forward(&mut headers, client, uri.authority.as_ref());
    }
    set(&mut headers, REQUEST_ID, &introduction.session.to_string());
    set(&mut headers, "nvcf-ncaid", &introduction.tenant.to_string());
    set(&mut headers, "nvcf-sub", introduction.subject);
    set(
        &mut headers,
        "nvcf-function-id",
        &introduction.function.to_string(),
    );
    set(
        &mut headers,
        "nvcf-function-version-id",
        &introduction.version.to_string(),
    );
    set(
        &mut headers,
        "nvcf-function-name",
        introduction.function_name,
    );
    set(&mut headers, "nvcf-region", introduction.region);

    let mut out = Request::new(());
    *out.method_mut() = request.method.clone();
    *out.version_mut() = Version::HTTP_2;
    *out.uri_mut() = Uri::from_parts(uri).map_err(|_| NoAuthority)?;
    *out.headers_mut() = headers;
    Ok(out)
}

/// Makes a worker's request one for HTTP/1.1: the path alone, the authority as `host`, cookies in one
/// line (RFC 9113 8.2.3).
pub fn over_http1(request: &mut Request<()>) {
    *request.version_mut() = Version::HTTP_11;
    let path = request.uri().path_and_query().cloned();
    let host = request
        .uri()
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(path) = path {
        *request.uri_mut() = Uri::from(path);
    }
    let headers = request.headers_mut();
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let all: Vec<&[u8]> = headers
            .get_all(COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        if let Ok(one) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(COOKIE, one);
        }
    }
}

/// The answer's headers as the client sees them: the worker's, minus what belongs to its connection,
/// with the session's id in place of whatever it said; and behind its cookies ours with these
/// attributes, when this is the session's first answer on this client connection.
pub fn for_client(headers: &mut HeaderMap, session: RequestId, cookie: Option<&str>) {
    drop_hop_by_hop(headers);
    let id = session.to_string();
    set(headers, REQUEST_ID, &id);
    if let Some(attributes) = cookie
        && let Ok(value) = HeaderValue::from_str(&format!("{COOKIE_NAME}={id}; {attributes}"))
    {
        headers.append(SET_COOKIE, value);
    }
}

/// Clears the client's cookie, in the form without a path that older cookies have, byte for byte,
/// and in the form that we set.
pub fn clear_cookie(headers: &mut HeaderMap, attributes: &str) {
    const BARE: &str = "nvcf-request-id=; Max-Age=0";
    headers.append(SET_COOKIE, HeaderValue::from_static(BARE));
    if let Ok(value) = HeaderValue::from_str(&format!("{BARE}; {attributes}")) {
        headers.append(SET_COOKIE, value);
    }
}

/// Drops what concerns one connection only (RFC 9110 7.6.1), also what `connection` names; `te:
/// trailers` stays, because gRPC asks for it end to end.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&b| b == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| name != TE)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("http2-settings"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = headers
            .get_all(TE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&b| b == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// A client's word on who it is never passes (C-FWD-9).
fn drop_forwarded(headers: &mut HeaderMap) {
    headers.remove(FORWARDED);
    let named: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-forwarded-"))
        .cloned()
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Tells the worker where the client is, in both spellings that servers read (RFC 7239).
fn forward(headers: &mut HeaderMap, client: Origin, authority: Option<&Authority>) {
    let ip = client.peer.ip().to_canonical();
    let proto = if client.tls { "https" } else { "http" };
    let node = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    };
    let host = authority.map_or("", Authority::as_str);
    set(
        headers,
        "forwarded",
        &format!("for={node};proto={proto};host=\"{host}\""),
    );
    set(headers, "x-forwarded-for", &ip.to_string());
    set(headers, "x-forwarded-proto", proto);
    set(headers, "x-forwarded-host", host);
}

/// Offers the worker what it may see of the WebSocket protocol list (C-WSP-2).
fn offer_protocols(headers: &mut HeaderMap, keep_ours: bool) {
    if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return;
    }
    let kept = Protocols::read(headers).forwarded(keep_ours);
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if !kept.is_empty()
        && let Ok(kept) = HeaderValue::from_str(&kept)
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

/// Puts into an accepted handshake what the client is told was selected of its list (C-WSP-2).
pub fn select_protocol(offered: &HeaderMap, answer: &mut HeaderMap) {
    let chosen = answer.remove(SEC_WEBSOCKET_PROTOCOL);
    let chosen = chosen.as_ref().and_then(|chosen| chosen.to_str().ok());
    if let Some(selected) = Protocols::read(offered).selected(chosen)
        && let Ok(selected) = HeaderValue::from_str(selected)
    {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, selected);
    }
}

/// Sets a header to a value that may come from an operator's keyboard: what can't be in a header is
/// left out of it. Whatever the client said under that name is gone in any case.
fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    let value = HeaderValue::from_str(value).or_else(|_| {
        let plain: String = value.chars().filter(|c| !c.is_control()).collect();
        HeaderValue::from_str(&plain)
    });
    match value {
        Ok(value) => headers.insert(name, value),
        Err(_) => headers.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "67e55044-10b1-826f-9247-bb680e5fe0c8";

    fn introduction() -> Introduction<'static> {
        Introduction {
            session: ID.parse().unwrap(),
            tenant: "11111111-1111-4111-8111-111111111111".parse().unwrap(),
            subject: "alice",
            function: "22222222-2222-4222-8222-222222222222".parse().unwrap(),
            version: "33333333-3333-4333-8333-333333333333".parse().unwrap(),
            function_name: "echo",
            region: "us-east",
            forward_credentials: false,
            client: None,
        }
    }

    fn request(headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder()
            .method("POST")
            .uri("http://example.com:10081/pkg.Service/Method?q=1");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn dressed(headers: &[(&str, &str)]) -> Request<()> {
        for_worker(&request(headers), &introduction()).unwrap()
    }

    #[test]
    fn c_fwd_1_hop_by_hop_headers_stay_behind_and_te_trailers_passes() {
        let out = dressed(&[
            ("te", "trailers, deflate"),
            ("connection", "x-mine, keep-alive, te"),
            ("x-mine", "1"),
            ("keep-alive", "300"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "secret"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-other", "stays"),
            ("nvcf-reqid", "a made-up one"),
        ]);
        for gone in [
            "connection",
            "x-mine",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "transfer-encoding",
            "upgrade",
        ] {
            assert!(!out.headers().contains_key(gone), "{gone}");
        }
        assert_eq!(out.headers()["te"], "trailers");
        assert_eq!(out.headers()["x-other"], "stays");
        assert_eq!(out.headers()["nvcf-reqid"], ID);
        assert!(!dressed(&[("te", "gzip")]).headers().contains_key("te"));
    }

    #[test]
    fn c_fwd_2_the_credential_and_our_cookie_stay_behind() {
        let cookie = format!("a=1; nvcf-request-id={ID}; b=\"2;\"");
        let out = dressed(&[
            ("authorization", "Bearer secret"),
            ("cookie", &cookie),
            ("cookie", "nvcf-request-id=x"),
            ("cookie", "c=3"),
            (
                "sec-websocket-protocol",
                "authorization.secret, function-id.x, graphql",
            ),
        ]);
        assert!(!out.headers().contains_key("authorization"));
        let cookies: Vec<_> = out.headers().get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=\"2; \"", "c=3"]);
        assert_eq!(out.headers()["sec-websocket-protocol"], "graphql");
        assert!(!format!("{out:?}").contains("secret"));
    }

    #[test]
    fn c_fwd_2_a_version_may_want_the_credentials() {
        let cookie = format!("nvcf-request-id={ID}");
        let parts = request(&[
            ("authorization", "Bearer secret"),
            ("cookie", &cookie),
            (
                "sec-websocket-protocol",
                "authorization.secret, function-id.x",
            ),
        ]);
        let wants = Introduction {
            forward_credentials: true,
            ..introduction()
        };
        let out = for_worker(&parts, &wants).unwrap();
        assert_eq!(out.headers()["authorization"], "Bearer secret");
        assert_eq!(out.headers()["cookie"], cookie);
        assert_eq!(out.headers()["sec-websocket-protocol"], "function-id.x");
    }

    #[test]
    fn c_fwd_3_the_worker_is_told_who_calls_and_the_client_is_not_believed() {
        let out = dressed(&[
            ("nvcf-ncaid", "mallory"),
            ("nvcf-sub", "mallory"),
            ("nvcf-region", "mallory"),
            ("nvcf-function-name", "mallory"),
            ("nvcf-function-id", "mallory"),
            ("nvcf-function-version-id", "mallory"),
        ]);
        for (name, value) in [
            ("nvcf-ncaid", "11111111-1111-4111-8111-111111111111"),
            ("nvcf-sub", "alice"),
            ("nvcf-function-id", "22222222-2222-4222-8222-222222222222"),
            (
                "nvcf-function-version-id",
                "33333333-3333-4333-8333-333333333333",
            ),
            ("nvcf-function-name", "echo"),
            ("nvcf-region", "us-east"),
        ] {
            let all: Vec<_> = out.headers().get_all(name).iter().collect();
            assert_eq!(all, [value], "{name}");
        }
        let odd = Introduction {
            subject: "a\r\nx: y",
            ..introduction()
        };
        let out = for_worker(&request(&[]), &odd).unwrap();
        assert_eq!(out.headers()["nvcf-sub"], "ax: y");
    }

    #[test]
    fn c_fwd_4_method_path_and_authority_stay_and_the_scheme_is_http() {
        let mut parts = request(&[("traceparent", "00-1-2-01"), ("grpc-timeout", "5S")]);
        parts.uri = "https://example.com:10081/pkg.Service/Method?q=1"
            .parse()
            .unwrap();
        let out = for_worker(&parts, &introduction()).unwrap();
        assert_eq!(out.method(), "POST");
        assert_eq!(out.uri(), "http://example.com:10081/pkg.Service/Method?q=1");
        assert_eq!(out.headers()["traceparent"], "00-1-2-01");
        assert_eq!(out.headers()["grpc-timeout"], "5S");

        parts.uri = "/only/a/path".parse().unwrap();
        assert_eq!(
            for_worker(&parts, &introduction()).unwrap_err(),
            NoAuthority
        );
        parts
            .headers
            .insert("host", HeaderValue::from_static("example.com"));
        let out = for_worker(&parts, &introduction()).unwrap();
        assert_eq!(out.uri(), "http://example.com/only/a/path");
    }

    #[test]
    fn c_fwd_9_a_client_does_not_say_where_it_comes_from() {
        let out = dressed(&[
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
        ]);
        assert!(!format!("{:?}", out.headers()).contains("forwarded"));
    }

    #[test]
    fn c_rsp_1_and_2_the_id_replaces_the_workers_and_the_cookie_comes_last() {
        let id = ID.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.append("nvcf-reqid", HeaderValue::from_static("theirs"));
        headers.append("nvcf-reqid", HeaderValue::from_static("theirs too"));
        headers.append("set-cookie", HeaderValue::from_static("theirs=1"));
        for_client(&mut headers, id, Some("Path=/; SameSite=Lax"));
        let ids: Vec<_> = headers.get_all("nvcf-reqid").iter().collect();
        assert_eq!(ids, [ID]);
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(
            cookies,
            [
                "theirs=1",
                &format!("nvcf-request-id={ID}; Path=/; SameSite=Lax")
            ]
        );
        let mut headers = HeaderMap::new();
        for_client(&mut headers, id, None);
        assert!(!headers.contains_key("set-cookie"));
    }

    #[test]
    fn c_fwd_9_a_worker_may_be_told_the_clients_address() {
        for (peer, tls, forwarded, of) in [
            (
                "192.0.2.7:4711",
                true,
                "for=192.0.2.7;proto=https;host=\"example.com:10081\"",
                "192.0.2.7",
            ),
            (
                "[2001:db8::1]:4711",
                false,
                "for=\"[2001:db8::1]\";proto=http;host=\"example.com:10081\"",
                "2001:db8::1",
            ),
        ] {
            let told = Introduction {
                client: Some(Origin {
                    peer: peer.parse().unwrap(),
                    tls,
                }),
                ..introduction()
            };
            let forged = request(&[("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=x")]);
            let out = for_worker(&forged, &told).unwrap();
            assert_eq!(out.headers()["forwarded"], forwarded);
            assert_eq!(out.headers()["x-forwarded-for"], of);
            assert_eq!(out.headers()["x-forwarded-host"], "example.com:10081");
        }
    }

    #[test]
    fn c_rsp_2_cookies_are_secure_over_tls_and_cross_site_where_that_is_wanted() {
        let plain = CookiePolicy::default();
        assert_eq!(plain.attributes(false), "Path=/; SameSite=Lax");
        assert_eq!(plain.attributes(true), "Path=/; SameSite=Lax; Secure");
        let hidden = CookiePolicy {
            http_only: true,
            ..plain
        };
        assert_eq!(hidden.attributes(false), "Path=/; SameSite=Lax; HttpOnly");
        let abroad = CookiePolicy {
            cross_site: true,
            ..plain
        };
        for tls in [false, true] {
            let attributes = "Path=/; SameSite=None; Secure; Partitioned";
            assert_eq!(abroad.attributes(tls), attributes);
        }
    }

    #[test]
    fn c_fwd_4_over_http_1_1_the_authority_is_the_host_and_cookies_are_one_line() {
        let mut out = dressed(&[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]);
        over_http1(&mut out);
        assert_eq!(out.version(), Version::HTTP_11);
        assert_eq!(out.uri(), "/pkg.Service/Method?q=1");
        assert_eq!(out.headers()["host"], "example.com:10081");
        assert_eq!(out.headers()["connection"], "te");
        let cookies: Vec<_> = out.headers().get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }
}
