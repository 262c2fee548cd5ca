//! One connection of a client, and the demo function's calls on it.
//!
//! The messages are those of the open inference protocol, with the fields that are used.

use crate::cluster::world::Function;
use crate::history::Outcome;
use crate::net;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

type Body = BoxBody<Bytes, Infallible>;

/// Longer than any hop of the product waits before it answers by itself, so that an operation is
/// unknown only when nobody speaks.
const WITHIN: Duration = Duration::from_secs(15);

#[derive(Clone, PartialEq, prost::Message)]
struct Contents {
    #[prost(int64, repeated, tag = "3")]
    int64: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    bytes: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Tensor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    contents: Option<Contents>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InferRequest {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(message, repeated, tag = "5")]
    inputs: Vec<Tensor>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InferResponse {
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<Tensor>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StreamResponse {
    #[prost(string, tag = "1")]
    error_message: String,
    #[prost(message, optional, tag = "2")]
    infer_response: Option<InferResponse>,
}

/// A connection. Dropping it closes the socket, as the end of a client's process does.
#[derive(Debug)]
pub(super) struct Line {
    send: SendRequest<Body>,
    function: Function,
    // Its tasks end with it.
    _driver: JoinSet<()>,
    _tasks: Tasks,
}

#[derive(Clone, Debug, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(async move {
            task.await;
        });
    }
}

/// What came of a call: the session that its head named, and the outcome.
pub(super) type Said = (Option<String>, Outcome);

/// A call whose answer's head is there.
pub(super) struct Begun {
    /// The session.
    pub(super) session: Option<String>,
    response: Response<Incoming>,
}

impl Line {
    pub(super) async fn dial(port: u16, function: &Function) -> Result<Self, Outcome> {
        let dial = async {
            let stream = net::dial(port).await.map_err(unknown)?;
            let (tasks, mut driver) = (Tasks::default(), JoinSet::new());
            let made = http2::handshake(tasks.clone(), TokioIo::new(stream)).await;
            let (send, connection) = made.map_err(unknown)?;
            driver.spawn(async move {
                // The calls on it say how it ended.
                connection.await.ok();
            });
            Ok(Self {
                send,
                function: function.clone(),
                _driver: driver,
                _tasks: tasks,
            })
        };
        within(dial).await
    }

    fn request(&self, method: Method, path: &str, id: Option<&str>) -> http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://pontoon.test{path}"))
            .header("authorization", format!("Bearer {}", self.function.key))
            .header("function-id", &self.function.function)
            .header("function-version-id", &self.function.version);
        match id {
            Some(id) => request.header("nvcf-reqid", id),
            None => request,
        }
    }

    fn infer(&self, rpc: &str, id: Option<&str>, body: Body) -> Result<Request<Body>, Outcome> {
        let path = format!("/inference.GRPCInferenceService/{rpc}");
        let request = self.request(Method::POST, &path, id);
        let request = request
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        request.body(body).map_err(unknown)
    }

    /// Sends one call, and waits for the head of its answer.
    pub(super) async fn begin(&mut self, id: Option<&str>) -> Result<Begun, Outcome> {
        let body = Full::new(one()).boxed();
        let request = self.infer("ModelInfer", id, body)?;
        within(async {
            let response = self.send.send_request(request).await.map_err(unknown)?;
            Ok(Begun {
                session: text(response.headers(), "nvcf-reqid"),
                response,
            })
        })
        .await
    }

    /// One call, to its end.
    pub(super) async fn call(&mut self, id: Option<&str>) -> Said {
        match self.begin(id).await {
            Ok(begun) => begun.finish().await,
            Err(outcome) => (None, outcome),
        }
    }

    /// Several messages on one stream, each sent when the last is answered and the pause is over.
    pub(super) async fn stream(
        &mut self,
        id: Option<&str>,
        messages: usize,
        pause: Duration,
    ) -> Said {
        let (send, receive) = mpsc::channel::<Bytes>(1);
        let frames = stream::unfold(receive, async |mut receive| {
            let message = receive.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(message)), receive))
        });
        let request = match self.infer("ModelStreamInfer", id, StreamBody::new(frames).boxed()) {
            Ok(request) => request,
            Err(outcome) => return (None, outcome),
        };
        let mut session = None;
        let streamed = async {
            send.send(one()).await.map_err(unknown)?;
            let response = self.send.send_request(request).await.map_err(unknown)?;
            session = text(response.headers(), "nvcf-reqid");
            refused(response.headers())?;
            let (_, mut body) = response.into_parts();
            let (mut bytes, mut answered, mut last) = (BytesMut::new(), 0, None);
            let mut send = Some(send);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(unknown)?;
                if let Some(trailers) = frame.trailers_ref() {
                    refused(trailers)?;
                    let last = last.take().filter(|_| answered == messages);
                    return last.ok_or_else(|| unknown("the stream ended early"));
                }
                bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
                while let Some(message) = cut(&mut bytes) {
                    let answer = StreamResponse::decode(message).map_err(unknown)?;
                    let answer = answer.infer_response.unwrap_or_default();
                    last = Some(read(&answer)?);
                    answered += 1;
                    if answered == messages {
                        send = None;
                    } else if let Some(send) = &send {
                        tokio::time::sleep(pause).await;
                        send.send(one()).await.map_err(unknown)?;
                    }
                }
            }
            Err(unknown("a stream without trailers"))
        };
        let all = WITHIN + pause * messages as u32;
        let outcome = match tokio::time::timeout(all, streamed).await {
            Ok(Ok(outcome) | Err(outcome)) => outcome,
            Err(_) => unknown("no answer in time"),
        };
        (session, outcome)
    }

    /// Ends the session.
    pub(super) async fn release(&mut self, id: &str) -> Outcome {
        let request = self.request(Method::DELETE, "/", Some(id));
        let body = Empty::new().boxed();
        let request = request.header("x-nvcf-absorb", "true").body(body);
        let released = within(async {
            let request = request.map_err(unknown)?;
            let response = self.send.send_request(request).await.map_err(unknown)?;
            let status = response.status();
            let code = text(response.headers(), "grpc-status");
            let code = code.and_then(|code| code.parse().ok());
            match (status.is_success(), code.unwrap_or(0)) {
                (true, 0) => Ok(Outcome::Ok {
                    worker: String::new(),
                    sum: 0,
                }),
                (_, code) => Err(Outcome::Failed {
                    code: if status.as_u16() == 404 { 5 } else { code },
                    text: format!("HTTP {status}"),
                }),
            }
        });
        match released.await {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }
}

impl Begun {
    pub(super) async fn finish(self) -> Said {
        let Begun { session, response } = self;
        let ended = within(async {
            refused(response.headers())?;
            let body = response.into_body().collect().await.map_err(unknown)?;
            match body.trailers() {
                Some(trailers) => refused(trailers)?,
                None => return Err(unknown("an answer without trailers")),
            }
            let mut bytes = BytesMut::from(&body.to_bytes()[..]);
            let message = cut(&mut bytes).ok_or_else(|| unknown("an answer without a message"))?;
            read(&InferResponse::decode(message).map_err(unknown)?)
        });
        match ended.await {
            Ok(outcome) | Err(outcome) => (session, outcome),
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Outcome>>) -> Result<T, Outcome> {
    let ended = tokio::time::timeout(WITHIN, work).await;
    ended.unwrap_or_else(|_| Err(unknown("no answer in time")))
}

pub(super) fn unknown(why: impl std::fmt::Display) -> Outcome {
    Outcome::Unknown {
        why: why.to_string(),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn refused(headers: &HeaderMap) -> Result<(), Outcome> {
    let status = text(headers, "grpc-status").filter(|status| status != "0");
    match status {
        None => Ok(()),
        Some(status) => Err(Outcome::Failed {
            code: status.parse().unwrap_or(-1),
            text: text(headers, "grpc-message").unwrap_or_default(),
        }),
    }
}

/// A message that adds one to the session's sum.
fn one() -> Bytes {
    let request = InferRequest {
        model_name: "sum".to_owned(),
        inputs: vec![Tensor {
            name: "x".to_owned(),
            datatype: "INT64".to_owned(),
            shape: vec![1],
            contents: Some(Contents {
                int64: vec![1],
                bytes: Vec::new(),
            }),
        }],
    };
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(request.encoded_len() as u32);
    out.put_slice(&request.encode_to_vec());
    out.freeze()
}

/// Takes the next whole message.
fn cut(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().ok()?) as usize;
    if bytes.len() < 5 + length {
        return None;
    }
    let mut message = bytes.split_to(5 + length);
    Some(message.split_off(5).freeze())
}

fn read(answer: &InferResponse) -> Result<Outcome, Outcome> {
    let output = |name: &str| {
        let mut outputs = answer.outputs.iter();
        outputs.find(|output| output.name == name)?.contents.clone()
    };
    let sum = output("sum").and_then(|sum| sum.int64.first().copied());
    let worker = output("worker").and_then(|worker| worker.bytes.first().cloned());
    match (sum, worker) {
        (Some(sum), Some(worker)) => Ok(Outcome::Ok {
            worker: String::from_utf8_lossy(&worker).into_owned(),
            sum,
        }),
        _ => Err(unknown("the answer is not the demo function's")),
    }
}
