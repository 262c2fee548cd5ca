//! `pontoon call`: calls the demo function the way any client would, and says what came back.
//!
//! It sends the same four things that other clients read from the environment, so that one set of
//! `export` lines serves them all. The API key comes from the environment or a file, never from a
//! flag: flags are visible to every user of the machine.

use super::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use super::inference::model_infer_request::InferInputTensor;
use super::inference::{InferTensorContents, ModelInferRequest, ModelInferResponse};
use super::tensor;
use crate::clock;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// The port of a gateway address that names none.
const PORT: u16 = 10081;

/// How long a connection may take to come up.
const DIAL_WITHIN: Duration = Duration::from_secs(5);

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// One line per call, for people.
    Text,
    /// One JSON object per line and call.
    Json,
}

/// What `pontoon call` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to call; without a port, 10081
    #[arg(
        long,
        env = "GRPC_GATEWAY_ADDR",
        value_name = "HOST[:PORT]",
        default_value = "127.0.0.1"
    )]
    pub endpoint: String,
    /// The function to call
    #[arg(long, env = "FUNCTION_ID", value_name = "UUID")]
    pub function_id: Option<String>,
    /// Its version; without one, any active version
    #[arg(long, env = "FUNCTION_VERSION_ID", value_name = "UUID")]
    pub function_version_id: Option<String>,
    /// A file with the API key; without one, the environment's API_KEY
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Resume this session instead of opening one
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// What to add to the session's running sum
    #[arg(
        long,
        default_value_t = 1,
        allow_negative_numbers = true,
        value_name = "N"
    )]
    pub x: i64,
    /// How many calls to make, one after the other, on one connection
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub times: u32,
    /// The longest that one call may take, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// How to print the answers
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Why a call failed, in words for the person who made it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that the call needs is missing or malformed.
    #[error("{0}")]
    Usage(String),
    /// No connection.
    #[error("cannot connect to {endpoint}: {cause}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// The innermost cause.
        cause: String,
    },
    /// The call was answered with a status.
    #[error("{}: {}{}", code_name(.status.code()), .status.message(), .request_id.as_ref().map(|id| format!(" (request id {id})")).unwrap_or_default())]
    Status {
        /// What it was answered with.
        status: Box<Status>,
        /// The session, if the answer named one.
        request_id: Option<String>,
    },
    /// The answer is not the demo function's.
    #[error("the answer has no output `{0}`: is this the demo function?")]
    Answer(&'static str),
}

impl Error {
    /// The exit code: 64 for a wrong use, 1 for a failed call.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            _ => 1,
        }
    }
}

/// One answered call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The session's running sum.
    pub sum: i64,
    /// The worker's name.
    pub worker: String,
    /// The session as the worker was told.
    pub session: String,
    /// The session as the response says.
    pub request_id: String,
    /// From the request's first byte to the response's last, milliseconds.
    pub latency_ms: f64,
}

/// Calls, and prints each answer as it comes.
pub async fn run(options: Options) -> Result<(), Error> {
    let (x, times, output) = (options.x, options.times, options.output);
    let caller = Caller::connect(&ask(options)?).await?;
    for _ in 0..times {
        let answer = caller.call(x).await?;
        match output {
            Output::Text => println!(
                "sum {}  worker {}  session {}  request id {}  {:.2} ms",
                answer.sum, answer.worker, answer.session, answer.request_id, answer.latency_ms
            ),
            Output::Json => println!("{}", serde_json::json!(answer)),
        }
    }
    Ok(())
}

/// What each call says, with everything in it that the environment and files had to give.
#[derive(Clone)]
pub struct Ask {
    /// Where to call; without a port, 10081.
    pub endpoint: String,
    /// The caller's secret.
    pub api_key: String,
    /// The function to call.
    pub function_id: String,
    /// Its version; none: any active one.
    pub function_version_id: Option<String>,
    /// The session to resume; none: a new one.
    pub request_id: Option<String>,
    /// The longest that one call may take.
    pub timeout: Duration,
}

fn ask(options: Options) -> Result<Ask, Error> {
    let key = match &options.api_key_file {
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            let path = path.display();
            Error::Usage(format!("cannot read the API key in {path}: {error}"))
        })?,
        None => std::env::var("API_KEY").map_err(|_| {
            Error::Usage("no API key: set API_KEY or give --api-key-file".to_owned())
        })?,
    };
    Ok(Ask {
        endpoint: options.endpoint,
        api_key: key.trim().to_owned(),
        function_id: options.function_id.ok_or_else(|| {
            Error::Usage("no function: set FUNCTION_ID or give --function-id".to_owned())
        })?,
        function_version_id: options
            .function_version_id
            .filter(|version| !version.is_empty()),
        request_id: options.request_id,
        timeout: Duration::from_secs(options.timeout),
    })
}

/// A connection with the metadata that each call carries.
pub struct Caller {
    client: GrpcInferenceServiceClient<Channel>,
    metadata: MetadataMap,
    timeout: Duration,
}

impl Caller {
    /// Connects.
    pub async fn connect(ask: &Ask) -> Result<Self, Error> {
        let metadata = metadata(ask)?;
        let endpoint = address(&ask.endpoint)?;
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|error| Error::Usage(format!("`{endpoint}` is not an address: {error}")))?
            .connect_timeout(DIAL_WITHIN)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| Error::Connect {
                endpoint,
                cause: innermost(&error),
            })?;
        Ok(Self {
            client: GrpcInferenceServiceClient::new(channel),
            metadata,
            timeout: ask.timeout,
        })
    }

    /// Adds `x` to the session's running sum.
    pub async fn call(&self, x: i64) -> Result<Answer, Error> {
        let mut request = Request::new(sum(x));
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(self.timeout);
        let began = clock::now();
        let mut client = self.client.clone();
        let response = client
            .model_infer(request)
            .await
            .map_err(|status| Error::Status {
                request_id: request_id(status.metadata()),
                status: Box::new(status),
            })?;
        let latency = began.elapsed();
        let request_id = request_id(response.metadata()).unwrap_or_default();
        read(response.into_inner(), request_id, latency)
    }
}

fn metadata(ask: &Ask) -> Result<MetadataMap, Error> {
    let mut map = MetadataMap::new();
    let mut put = |name: &'static str, value: &str, what: &str| -> Result<(), Error> {
        let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| {
            Error::Usage(format!("{what} has characters that metadata can't carry"))
        })?;
        value.set_sensitive(name == "authorization");
        map.insert(name, value);
        Ok(())
    };
    put(
        "authorization",
        &format!("Bearer {}", ask.api_key),
        "the API key",
    )?;
    put("function-id", &ask.function_id, "FUNCTION_ID")?;
    if let Some(version) = &ask.function_version_id {
        put("function-version-id", version, "FUNCTION_VERSION_ID")?;
    }
    if let Some(id) = &ask.request_id {
        put("nvcf-reqid", id, "--request-id")?;
    }
    Ok(map)
}

/// Puts the default port behind an address without one; brackets mark IPv6.
fn address(endpoint: &str) -> Result<String, Error> {
    let host = endpoint
        .strip_prefix("http://")
        .unwrap_or(endpoint)
        .trim_end_matches('/');
    if host.is_empty() || host.contains("://") {
        return Err(Error::Usage(format!(
            "`{endpoint}` is not an address of the form HOST or HOST:PORT"
        )));
    }
    let after_brackets = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    Ok(match after_brackets.contains(':') {
        true => host.to_owned(),
        false => format!("{host}:{PORT}"),
    })
}

fn sum(x: i64) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "sum".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "INT64".to_owned(),
            shape: vec![1],
            contents: Some(InferTensorContents {
                int64_contents: vec![x],
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn read(
    response: ModelInferResponse,
    request_id: String,
    latency: Duration,
) -> Result<Answer, Error> {
    let outputs = tensor::outputs(response);
    let find = |name: &'static str| {
        outputs
            .iter()
            .find(|output| output.name == name)
            .ok_or(Error::Answer(name))
    };
    let text = |name| Ok(find(name)?.as_text().ok_or(Error::Answer(name))?.to_owned());
    Ok(Answer {
        sum: find("sum")?.as_int64().ok_or(Error::Answer("sum"))?,
        worker: text("worker")?,
        session: text("session")?,
        request_id,
        latency_ms: latency.as_secs_f64() * 1e3,
    })
}

fn request_id(metadata: &MetadataMap) -> Option<String> {
    Some(metadata.get("nvcf-reqid")?.to_str().ok()?.to_owned())
}

/// The last cause of an error: the one that says what really happened.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The status code by its name in the gRPC specification.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_gets_10081() {
        for (given, wanted) in [
            ("127.0.0.1", "127.0.0.1:10081"),
            ("127.0.0.1:5", "127.0.0.1:5"),
            ("http://gate.example/", "gate.example:10081"),
            ("[::1]", "[::1]:10081"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(address(given).unwrap(), wanted);
        }
        assert!(address("").is_err());
        assert!(address("https://gate.example").is_err());
    }

    #[test]
    fn a_failed_call_names_its_status_and_its_session() {
        let error = Error::Status {
            status: Box::new(Status::not_found("no existing session found")),
            request_id: Some("an-id".to_owned()),
        };
        assert_eq!(
            error.to_string(),
            "NOT_FOUND: no existing session found (request id an-id)"
        );
        assert_eq!(error.exit_code(), 1);
    }
}
