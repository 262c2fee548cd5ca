//! Finds the node to ask and the token to show, and says in plain words what went wrong.

use super::exit::{Code, Failure};
use super::nouns::Ask;
use crate::discovery;
use crate::net::{self, TcpStream};
use crate::tls::dial::Trust;
use crate::tls::once::Once;
use http::Uri;
use pontoon_proto::admin::admin_client::AdminClient;
use std::error::Error as _;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long to wait for a node to accept the connection.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How long an answer may take: ending a session waits for its sidecar, and that is the slowest.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The largest answer: 10,000 sessions of about 600 bytes each.
const MESSAGE_MAX: usize = 16 << 20;

/// Where the token comes from when no file is named.
const TOKEN_VARIABLE: &str = "PONTOON_TOKEN";

/// The admin API with the token on every request.
pub(super) type Client = AdminClient<InterceptedService<Channel, Token>>;

/// Puts the token on a request.
#[derive(Clone)]
pub(super) struct Token(MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Connects to the endpoint.
///
/// # Errors
///
/// Usage when the endpoint or the token has a wrong form or is missing, unreachable when nobody
/// listens there.
pub(super) async fn connect(ask: &Ask) -> Result<Client, Failure> {
    let token = token(ask)?;
    let url = match (ask.endpoint.contains("://"), &ask.ca_file) {
        (true, _) => ask.endpoint.clone(),
        (false, None) => format!("http://{}", ask.endpoint),
        (false, Some(_)) => format!("https://{}", ask.endpoint),
    };
    let uri = url.parse::<Uri>().ok();
    let (scheme, authority) = uri
        .as_ref()
        .and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)))
        .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
        .ok_or_else(|| {
            Failure::new(
                Code::Usage,
                format!(
                    "{:?} is not an endpoint: write http://host:port or https://host:port, the \
                     admin address of a node",
                    ask.endpoint
                ),
            )
        })?;
    // The scheme of requests; below it there may be TLS of ours.
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|error| Failure::new(Code::Usage, format!("{:?}: {error}", ask.endpoint)))?
        .connect_timeout(CONNECT_MAX)
        .timeout(ANSWER_MAX);
    let host = authority.host();
    let address = match (authority.port_u16(), scheme) {
        (None, _) if host.starts_with('_') => host.to_owned(),
        (Some(port), _) => format!("{host}:{port}"),
        (None, "https") => format!("{host}:443"),
        (None, _) => format!("{host}:80"),
    };
    if !ask.dns.is_empty() {
        discovery::ask(&ask.dns);
    }
    let channel = match scheme {
        "https" => secure(ask, endpoint, &address).await?,
        _ => {
            let stream = dial(ask, &address).await?;
            let channel = endpoint.connect_with_connector(Once::new(stream)).await;
            channel.map_err(|error| nobody(ask, root_cause(&error)))?
        }
    };
    Ok(AdminClient::with_interceptor(channel, token).max_decoding_message_size(MESSAGE_MAX))
}

async fn dial(ask: &Ask, address: &str) -> Result<TcpStream, Failure> {
    let stream = net::dial(address, CONNECT_MAX).await;
    stream.map_err(|error| nobody(ask, error.to_string()))
}

/// Connects with TLS.
async fn secure(ask: &Ask, endpoint: Endpoint, address: &str) -> Result<Channel, Failure> {
    let path = ask.ca_file.as_deref().ok_or_else(|| {
        let text = "https:// needs the CA of the nodes' certificates: name its file with --ca-file \
                    or PONTOON_CA_FILE";
        Failure::new(Code::Usage, text)
    })?;
    let trust = Trust::open(path).map_err(|problem| Failure::new(Code::Usage, problem.0))?;
    let stream = dial(ask, address).await?;
    let connect = trust.channel(endpoint, stream, address);
    tokio::time::timeout(CONNECT_MAX, connect)
        .await
        .unwrap_or_else(|_| Err("no answer to the TLS handshake in time".into()))
        .map_err(|cause| {
            let text = format!("no TLS with the node at {}: {cause}", ask.endpoint);
            Failure::new(Code::Unreachable, text)
        })
}

/// What a refused request means to the person at the terminal.
pub(super) fn refused(ask: &Ask, status: &Status) -> Failure {
    let text = status.message();
    match status.code() {
        // With a cause below, the connection failed and no node said this.
        tonic::Code::Unavailable | tonic::Code::Internal | tonic::Code::Unknown
            if status.source().is_some() =>
        {
            nobody(ask, text.into())
        }
        tonic::Code::Cancelled | tonic::Code::DeadlineExceeded if status.source().is_some() => {
            nobody(ask, format!("no answer within {ANSWER_MAX:?}"))
        }
        tonic::Code::Unavailable => Failure::new(Code::Unreachable, text),
        tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => Failure::new(
            Code::Unreachable,
            format!(
                "{} gave up on it: what was asked may or may not have happened; look, and try again",
                ask.endpoint
            ),
        ),
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
            Failure::new(Code::Permission, text)
        }
        tonic::Code::InvalidArgument => Failure::new(Code::Usage, text),
        tonic::Code::Internal | tonic::Code::Unknown | tonic::Code::DataLoss => {
            Failure::new(Code::Bug, format!("{}: {text}", ask.endpoint))
        }
        tonic::Code::Unimplemented => Failure::new(
            Code::Other,
            format!(
                "{} does not serve this: is it the admin address of a node of this version?",
                ask.endpoint
            ),
        ),
        _ => Failure::new(Code::Other, text),
    }
}

fn nobody(ask: &Ask, cause: String) -> Failure {
    let tls = match ask.endpoint.starts_with("https://") {
        true => "",
        false => "; a cluster with TLS wants https:// and --ca-file",
    };
    Failure::new(
        Code::Unreachable,
        format!(
            "no node answers at {}: {cause}; check that the node runs, or name another one with \
             --endpoint or PONTOON_ENDPOINT (`pontoon dev` starts a cluster on this machine){tls}",
            ask.endpoint
        ),
    )
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

fn token(ask: &Ask) -> Result<Token, Failure> {
    let (text, from) = match &ask.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::new(
                    Code::Usage,
                    format!("cannot read the token file {}: {error}", path.display()),
                )
            })?;
            (text, path.display().to_string())
        }
        None => {
            let text = std::env::var(TOKEN_VARIABLE).map_err(|_| {
                Failure::new(
                    Code::Usage,
                    "no admin token: set PONTOON_TOKEN, or name a file with --token-file",
                )
            })?;
            (text, TOKEN_VARIABLE.to_string())
        }
    };
    // The text itself is never repeated: it may be a secret of something else.
    Some(text.trim())
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
        .and_then(|text| MetadataValue::try_from(format!("Bearer {text}")).ok())
        .map(|mut value| {
            value.set_sensitive(true);
            Token(value)
        })
        .ok_or_else(|| {
            Failure::new(
                Code::Usage,
                format!("{from} does not hold one admin token in one line"),
            )
        })
}
