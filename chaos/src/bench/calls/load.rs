//! Clients: gRPC calls over HTTP/2, as fast as they are answered or as fast as is asked for.

use crate::clock::{self, Instant};
use crate::cluster::Error;
use crate::net;
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// The header that names a session.
const REQUEST_ID: &str = "nvcf-reqid";

type Body = BoxBody<Bytes, Infallible>;

/// Before a span is measured the load runs for so long.
const WARM: Duration = Duration::from_millis(300);

/// Where calls go, and what they carry.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Endpoint {
    pub(in crate::bench) port: u16,
    pub(in crate::bench) headers: HeaderMap,
    pub(in crate::bench) tls: Option<Arc<ClientConfig>>,
}

/// One connection.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Caller {
    sender: SendRequest<Body>,
    uri: http::Uri,
    headers: HeaderMap,
}

impl Caller {
    pub(in crate::bench) async fn connect(endpoint: &Endpoint) -> Result<Self, Error> {
        let stream = net::dial(endpoint.port).await.map_err(broken)?;
        let executor = TokioExecutor::new();
        let sender = match &endpoint.tls {
            None => {
                let made = http2::handshake(executor, TokioIo::new(stream)).await;
                let (sender, connection) = made.map_err(broken)?;
                drive(connection);
                sender
            }
            Some(tls) => {
                let name = ServerName::try_from("localhost").map_err(broken)?;
                let connector = TlsConnector::from(Arc::clone(tls));
                let stream = connector.connect(name, stream).await.map_err(broken)?;
                let made = http2::handshake(executor, TokioIo::new(stream)).await;
                let (sender, connection) = made.map_err(broken)?;
                drive(connection);
                sender
            }
        };
        let scheme = if endpoint.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let uri = format!("{scheme}://{}/bench.Echo/Call", net::local(endpoint.port));
        Ok(Self {
            sender,
            uri: uri.parse().map_err(broken)?,
            headers: endpoint.headers.clone(),
        })
    }

    async fn send(&mut self, body: Body) -> Result<Response<Incoming>, Error> {
        let mut request = Request::post(self.uri.clone()).body(body).map_err(broken)?;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        self.sender.ready().await.map_err(broken)?;
        self.sender.send_request(request).await.map_err(broken)
    }

    /// Asks for the health of whoever has the connection, so that both sides know that it stands.
    pub(in crate::bench) async fn greet(&mut self) -> Result<(), Error> {
        let uri = format!(
            "http://{}/health",
            self.uri.authority().map_or("", |at| at.as_str())
        );
        let request = Request::get(uri).body(Full::default().boxed());
        self.sender.ready().await.map_err(broken)?;
        let answer = self.sender.send_request(request.map_err(broken)?).await;
        let answer = answer.map_err(broken)?;
        let status = answer.status();
        answer.into_body().collect().await.map_err(broken)?;
        match status.is_success() {
            true => Ok(()),
            false => Err(Error(format!("the health of a node is {status}"))),
        }
    }

    /// Calls in a session that has this id.
    pub(in crate::bench) fn resume(&mut self, id: HeaderValue) {
        self.headers.insert(REQUEST_ID, id);
    }

    /// Calls once; the answer must be the message. The id of the session, if there is one.
    pub(in crate::bench) async fn call(
        &mut self,
        message: &Bytes,
    ) -> Result<Option<HeaderValue>, Error> {
        let response = self.send(Full::new(message.clone()).boxed()).await?;
        refused(response.headers())?;
        let id = response.headers().get(REQUEST_ID).cloned();
        let answer = response.into_body().collect().await.map_err(broken)?;
        refused(answer.trailers().unwrap_or(&HeaderMap::new()))?;
        match answer.to_bytes().len() == message.len() {
            true => Ok(id),
            false => Err(Error(
                "the answer is another one than the message".to_owned(),
            )),
        }
    }

    /// Sends one message after the other on one call for a span; how many bytes came back in it.
    pub(in crate::bench) async fn stream(
        &mut self,
        message: &Bytes,
        span: Duration,
    ) -> Result<u64, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let (more, stopped) = (message.clone(), Arc::clone(&stop));
        let messages = stream::repeat_with(move || more.clone());
        let messages = futures::StreamExt::take_while(messages, move |_| {
            std::future::ready(!stopped.load(Ordering::Relaxed))
        });
        let frames = futures::StreamExt::map(messages, |message| Ok(Frame::data(message)));
        let response = self.send(StreamBody::new(frames).boxed()).await?;
        refused(response.headers())?;
        let mut body = response.into_body();
        let from = clock::now() + WARM;
        let mut bytes = 0;
        let mut seen = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            if let Some(trailers) = frame.trailers_ref() {
                refused(trailers)?;
            }
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            let now = clock::now();
            seen += length;
            if from <= now && now < from + span {
                bytes += length;
            }
            if now >= from + span {
                stop.store(true, Ordering::Relaxed);
            }
        }
        match seen % message.len() as u64 == 0 && body.is_end_stream() {
            true => Ok(bytes),
            false => Err(Error("the stream ended within a message".to_owned())),
        }
    }
}

/// Lets a connection run until it ends, or its last caller is dropped.
#[expect(
    clippy::disallowed_methods,
    reason = "a client's connection of a benchmark may end whenever it likes"
)]
fn drive<C>(connection: C)
where
    C: Future<Output = hyper::Result<()>> + Send + 'static,
{
    tokio::spawn(connection);
}

/// What was counted while the load ran.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Counted<T> {
    pub(in crate::bench) calls: u64,
    /// The difference of what was read at the two ends of the span.
    pub(in crate::bench) before: T,
    pub(in crate::bench) after: T,
}

/// So many calls at once for a span, spread over these connections; `read` is read at both of its ends.
pub(in crate::bench) async fn busy<T>(
    callers: &[Caller],
    streams: usize,
    message: &Bytes,
    span: Duration,
    read: impl Fn() -> T,
) -> Result<Counted<T>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for number in 0..streams {
        let mut caller = callers[number % callers.len()].clone();
        let (message, stop, done) = (message.clone(), Arc::clone(&stop), Arc::clone(&done));
        running.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                caller.call(&message).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Error>(())
        });
    }
    let span = async {
        tokio::time::sleep(WARM).await;
        let first = (done.load(Ordering::Relaxed), read());
        tokio::time::sleep(span).await;
        let last = (done.load(Ordering::Relaxed), read());
        stop.store(true, Ordering::Relaxed);
        Counted {
            calls: last.0 - first.0,
            before: first.1,
            after: last.1,
        }
    };
    let ended = async {
        while let Some(ended) = running.join_next().await {
            ended.map_err(broken)??;
        }
        Ok(())
    };
    let (counted, ended) = tokio::join!(span, ended);
    ended.map(|()| counted)
}

/// One call after the other; how long each took, sorted.
pub(in crate::bench) async fn one_by_one(
    caller: &mut Caller,
    message: &Bytes,
    span: Duration,
) -> Result<Vec<u32>, Error> {
    let from = clock::now() + WARM;
    let mut took = Vec::new();
    loop {
        let began = clock::now();
        if began >= from + span {
            took.sort_unstable();
            return Ok(took);
        }
        caller.call(message).await?;
        if began >= from {
            took.push(micros(began));
        }
    }
}

/// So many calls per second, whether or not earlier ones are answered; how long each took, sorted.
pub(in crate::bench) async fn paced(
    callers: &[Caller],
    rate: f64,
    message: &Bytes,
    span: Duration,
) -> Result<Vec<u32>, Error> {
    let began = clock::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let (mut sent, mut running) = (0, JoinSet::new());
    loop {
        ticks.tick().await;
        let passed = began.elapsed();
        if passed >= WARM + span {
            break;
        }
        let due = (passed.as_secs_f64() * rate) as usize;
        while sent < due {
            let mut caller = callers[sent % callers.len()].clone();
            let message = message.clone();
            running.spawn(async move {
                let began = clock::now();
                caller.call(&message).await?;
                Ok::<_, Error>((passed >= WARM).then(|| micros(began)))
            });
            sent += 1;
        }
    }
    let mut took = Vec::new();
    while let Some(ended) = running.join_next().await {
        took.extend(ended.map_err(broken)??);
    }
    took.sort_unstable();
    Ok(took)
}

/// A gRPC message of so many bytes.
pub(in crate::bench) fn message(bytes: usize) -> Bytes {
    let mut message = vec![0];
    message.extend((bytes as u32).to_be_bytes());
    message.resize(5 + bytes, 7);
    message.into()
}

pub(in crate::bench) fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

/// Whether a head or trailers say that the call failed.
fn refused(headers: &HeaderMap) -> Result<(), Error> {
    let text = |name: &str| {
        let value = headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status").filter(|status| status != "0") {
        None => Ok(()),
        Some(status) => {
            let why = text("grpc-message").unwrap_or_default();
            Err(Error(format!("gRPC status {status}: {why}")))
        }
    }
}

pub(in crate::bench) fn broken(error: impl std::fmt::Display) -> Error {
    Error(format!("a client of the benchmark: {error}"))
}
