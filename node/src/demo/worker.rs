//! The demo worker: an ordinary gRPC server, with its health and reflection.
//!
//! On the same port it answers two plain HTTP requests: `POST /session-ended` with the JSON
//! `{"request_id": "...", "reason": "..."}`, by which its sidecar says that a session is over and its
//! sum may be forgotten, and `GET /sessions`, which counts the sums it still keeps.

use super::inference::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use super::inference::{
    self, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ModelStreamInferResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest,
    ServerReadyResponse,
};
use super::model::{self, Memory, Refusal};
use crate::config::raw::LogFormat;
use crate::net::{self, TcpListener, TcpStream};
use crate::tasks::{self, Kind};
use crate::telemetry;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// The largest message that the worker takes.
///
/// The bridge in front of it has no limit (C-LSN-2); this is one test machine's memory: a message is
/// held once in and once out, so one call costs at most 512 MiB.
const MESSAGE_MAX: usize = 256 << 20;

/// The largest `POST /session-ended`: an id and a short reason.
const ENDED_MAX: usize = 4 << 10;

/// Streams on one connection: 100 unary and 100 streaming calls at once must fit on one tunnel
/// (C-FWD-5), with room to spare.
const STREAMS_MAX: u32 = 1024;

/// What `pontoon demo-worker` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to serve; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "HOST:PORT")]
    pub listen: String,
    /// The name that the model `sum` answers with
    #[arg(long, default_value = "demo-worker")]
    pub name: String,
    /// Print the address that is served, once it is
    #[arg(long)]
    pub print_address: bool,
    /// End when standard input closes, as it does when a parent process dies
    #[arg(long)]
    pub exit_with_stdin: bool,
}

/// Serves until a signal comes or, when asked to, standard input closes.
pub async fn run(options: Options) -> std::io::Result<()> {
    let listener = net::listen("the demo worker", &options.listen).await?;
    let address = listener.local_addr()?;
    telemetry::start("info", LogFormat::Text).map_err(std::io::Error::other)?;
    if options.print_address {
        println!("{address}");
    }
    tracing::info!(%address, name = options.name, "demo worker serves");
    let worker = Worker::new(&options.name);
    tokio::select! {
        ended = worker.serve(listener) => ended,
        ended = crate::dev::leash::told_to_end(options.exit_with_stdin) => ended,
    }
}

/// The server's state: its name and its memory.
#[derive(Clone)]
pub struct Worker {
    name: Arc<str>,
    memory: Arc<Mutex<Memory>>,
}

impl Worker {
    /// A worker that remembers nothing.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            memory: Arc::default(),
        }
    }

    /// Accepts connections for ever; returns when the listener can't be used any more.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let routes = self.routes().await?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    drop(tasks::spawn(
                        Kind::Worker,
                        "demo connection",
                        connection(self.clone(), routes.clone(), stream),
                    ));
                }
                Err(error) => {
                    // Out of descriptors, most likely: the pause keeps the loop from spinning.
                    tracing::warn!(%error, "the demo worker could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn routes(&self) -> std::io::Result<Routes> {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter
            .set_serving::<GrpcInferenceServiceServer<Worker>>()
            .await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(inference::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(std::io::Error::other)?;
        let inference = GrpcInferenceServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        Ok(Routes::new(inference)
            .add_service(health)
            .add_service(reflection)
            .prepare())
    }

    fn infer(
        &self,
        session: Option<&str>,
        request: ModelInferRequest,
    ) -> Result<ModelInferResponse, Refusal> {
        self.memory().infer(&self.name, session, request)
    }

    /// The memory is whole after every step, so a panic in another call costs that call only.
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connection(worker: Worker, routes: Routes, stream: TcpStream) {
    // Small answers leave at once; without it the connection is only slower.
    let _ = stream.set_nodelay(true);
    let service =
        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (worker, mut routes) = (worker.clone(), routes.clone());
            async move {
                match (request.method(), request.uri().path()) {
                    (&http::Method::POST, "/session-ended") => {
                        Ok(session_ended(&worker, request).await)
                    }
                    (&http::Method::GET, "/sessions") => Ok(plain(
                        http::StatusCode::OK,
                        format!("{{\"sessions\": {}}}\n", worker.memory().len()),
                    )),
                    _ => tonic::codegen::Service::call(&mut routes, request).await,
                }
            }
        });
    let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    server
        .http2()
        .max_concurrent_streams(STREAMS_MAX)
        .max_local_error_reset_streams(None)
        .max_header_list_size(64 << 10)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error, "a connection of the demo worker ended");
    }
}

async fn session_ended(
    worker: &Worker,
    request: http::Request<hyper::body::Incoming>,
) -> http::Response<Body> {
    #[derive(serde::Deserialize)]
    struct Ended {
        request_id: String,
        reason: String,
    }
    let body = match Limited::new(request.into_body(), ENDED_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return plain(
                http::StatusCode::BAD_REQUEST,
                format!("the body can't be read: {error}\n"),
            );
        }
    };
    match serde_json::from_slice::<Ended>(&body) {
        Ok(ended) => {
            let known = worker.memory().end(&ended.request_id);
            tracing::info!(
                session = ended.request_id,
                reason = ended.reason,
                known,
                "session ended"
            );
            plain(http::StatusCode::NO_CONTENT, String::new())
        }
        Err(error) => plain(
            http::StatusCode::BAD_REQUEST,
            format!("expected {{\"request_id\": \"...\", \"reason\": \"...\"}}: {error}\n"),
        ),
    }
}

fn plain(status: http::StatusCode, text: String) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(http_body_util::Full::new(
        bytes::Bytes::from(text),
    )));
    *response.status_mut() = status;
    response
}

/// The session that a call came in, as its metadata says.
fn session<T>(request: &Request<T>) -> Option<String> {
    let value = request.metadata().get("nvcf-reqid")?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::UnknownModel(_) => Status::not_found(text),
            Refusal::Malformed(_) | Refusal::NoSession => Status::invalid_argument(text),
            Refusal::Overflow => Status::out_of_range(text),
            Refusal::Full => Status::resource_exhausted(text),
        }
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Worker {
    type ModelStreamInferStream = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: true }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = model::known(&name, &version).is_ok();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: self.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: Vec::new(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        Ok(Response::new(model::metadata(&name, &version)?))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let session = session(&request);
        Ok(Response::new(
            self.infer(session.as_deref(), request.into_inner())?,
        ))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let (worker, session) = (self.clone(), session(&request));
        // One request is taken when one answer was: a client that does not read is not read either.
        let answers = request.into_inner().map(move |request| {
            Ok(match worker.infer(session.as_deref(), request?) {
                Ok(answer) => ModelStreamInferResponse {
                    error_message: String::new(),
                    infer_response: Some(answer),
                },
                Err(refusal) => ModelStreamInferResponse {
                    error_message: refusal.to_string(),
                    infer_response: None,
                },
            })
        });
        Ok(Response::new(answers.boxed()))
    }
}
