//! The suite's own client, over HTTP/2 and HTTP/1.1: says what it is told to, hides nothing of the answer.
//!
//! [`Ask`] is a request, [`Reply`] all of an answer, [`Conn`] one connection; [`h2`] and [`h1`] carry it.

mod h1;
pub mod h2;

use crate::target::{Checked, Target, Wire};
use http::HeaderMap;
use std::time::Duration;

/// The longest that any step of an exchange may take: above every wait of the contract.
pub const WITHIN: Duration = Duration::from_secs(40);

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub path: String,
    pub authority: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Ask {
    /// With nothing but method and path.
    pub fn new(method: &str, path: &str) -> Ask {
        Ask {
            method: method.to_owned(),
            path: path.to_owned(),
            authority: "conformance.test".to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
        }
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Ask {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without any header of this name.
    pub fn without(mut self, name: &str) -> Ask {
        self.headers.retain(|(own, _)| own != name);
        self
    }

    /// As a gRPC call.
    pub fn grpc(self) -> Ask {
        self.with("content-type", "application/grpc")
            .with("te", "trailers")
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Ask {
        self.body = body.into();
        self
    }

    /// With a trailer behind the body.
    pub fn trailer(mut self, name: &str, value: &str) -> Ask {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// An answer, whole.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// The stream ended with the headers; over HTTP/1.1, nothing came behind them.
    pub ended_with_headers: bool,
    /// 1xx answers before this one.
    pub early: Vec<(u16, HeaderMap)>,
}

impl Reply {
    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<String> {
        let values = self.headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }

    /// One header; empty when it is not there.
    pub fn header(&self, name: &str) -> String {
        self.all(name).into_iter().next().unwrap_or_default()
    }

    /// A header, or else a trailer, of this name.
    pub fn meta(&self, name: &str) -> String {
        let trailer = self
            .trailers
            .as_ref()
            .and_then(|trailers| trailers.get(name));
        let trailer = trailer.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let header = self.headers.contains_key(name).then(|| self.header(name));
        header.or(trailer).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The session's id.
    pub fn session(&self) -> Result<String, String> {
        match self.all("nvcf-reqid").as_slice() {
            [id] if !id.is_empty() => Ok(id.clone()),
            other => Err(format!(
                "one nvcf-reqid was expected, there are {other:?}: {self:?}"
            )),
        }
    }

    /// The report of the echo worker.
    pub fn report(&self) -> Result<Report, String> {
        let body = match self.body.first() {
            Some(0) => self.body.get(5..).unwrap_or_default(),
            _ => &self.body,
        };
        let value = serde_json::from_slice(body);
        value
            .map(Report)
            .map_err(|error| format!("no report of the worker ({error}): {self:?}"))
    }

    /// That it is a fault in the rendering for other than gRPC clients.
    pub fn refuses(&self, status: u16, text: &str) -> Checked {
        let said = self.text();
        if self.status == status && said.starts_with(text) {
            return Ok(());
        }
        Err(format!("{status} {text:?} was expected: {self:?}"))
    }

    /// That it is a fault in the rendering for gRPC: trailers only, unless HTTP/1.1 carried it.
    pub fn fails(&self, code: u8, text: &str) -> Checked {
        let message = percent_decoded(&self.header("grpc-message"));
        let same = self.header("grpc-status") == code.to_string() && message.starts_with(text);
        if same && self.status == 200 && self.ended_with_headers && self.body.is_empty() {
            return Ok(());
        }
        Err(format!(
            "trailers only, {code} {text:?} were expected: {self:?}"
        ))
    }
}

/// What the echo worker saw.
#[derive(Clone, Debug)]
pub struct Report(pub serde_json::Value);

impl Report {
    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<String> {
        let pairs = self.0["headers"].as_array().into_iter().flatten();
        let found = pairs.filter(|pair| pair[0] == name);
        found
            .filter_map(|pair| pair[1].as_str().map(str::to_owned))
            .collect()
    }

    /// One text field.
    pub fn text(&self, field: &str) -> String {
        self.0[field].as_str().unwrap_or_default().to_owned()
    }
}

/// `%XX` as bytes.
pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let code = more.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match code.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &more[2..];
            }
            _ => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One connection.
pub enum Conn {
    H2(h2::Conn),
    H1(h1::Conn),
}

impl Conn {
    /// Opens one to the target, as the target says.
    pub async fn open(target: &Target) -> Result<Conn, String> {
        Ok(match target.wire {
            Wire::H2 => Conn::H2(h2::Conn::open(&target.address).await?),
            Wire::H1 => Conn::H1(h1::Conn::open(&target.address).await?),
        })
    }

    /// One exchange.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Reply, String> {
        let exchange = async {
            match self {
                Conn::H2(conn) => conn.ask(ask).await,
                Conn::H1(conn) => conn.ask(ask).await,
            }
        };
        let answer = tokio::time::timeout(WITHIN, exchange).await;
        answer.map_err(|_| format!("no answer within {WITHIN:?} to {} {}", ask.method, ask.path))?
    }
}

/// One exchange on a connection of its own.
pub async fn ask(target: &Target, ask: &Ask) -> Result<Reply, String> {
    Conn::open(target).await?.ask(ask).await
}
