//! What a development cluster needs before its first call: a tenant, a function with a version, two
//! keys; and how `pontoon dev` knows that every node is ready for that call.
//!
//! Nothing here waits for a time: each wait polls for a state, with a bound.

use super::Error;
use super::plan::{self, Layout, Node};
use super::saved::Saved;
use crate::{clock, demo, net};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use pontoon_proto::admin::admin_client::AdminClient;
use pontoon_proto::admin::{
    CreateFunctionRequest, CreateKeyRequest, CreateTenantRequest, CreateVersionRequest,
    ListKeysRequest, ListNodesRequest, ListVersionsRequest, ListWorkersRequest, VersionPolicy,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

/// How long any one state may take to come: a first election under wide-area timing takes 2 s, and
/// a loaded machine of two cores may be ten times slower than that.
const WITHIN: Duration = Duration::from_secs(60);

/// How often a state is looked at.
const EVERY: Duration = Duration::from_millis(50);

/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a write may take: the cluster answers once every ready node has applied it.
const WRITE_WITHIN: Duration = Duration::from_secs(20);

/// The most that `/readyz` may say.
const PAGE_MAX: usize = 64 << 10;

type Client = AdminClient<InterceptedService<Channel, Token>>;

#[derive(Clone)]
struct Token(MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// The admin APIs of all nodes.
pub(super) struct Admins(Vec<(String, Client)>);

/// What a look at a state found.
enum Look {
    There,
    NotYet(String),
}

/// Looks again and again until the state is there; the error says what was missing last.
async fn wait_for<F>(what: &str, mut look: impl FnMut() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<Look, Error>>,
{
    let until = clock::now() + WITHIN;
    loop {
        match look().await? {
            Look::There => return Ok(()),
            Look::NotYet(missing) if clock::now() >= until => {
                return Err(Error::new(format!(
                    "{what} took longer than {WITHIN:?}: {missing}"
                )));
            }
            Look::NotYet(_) => tokio::time::sleep(EVERY).await,
        }
    }
}

/// Waits until `/readyz` of a node is green. `gone` says so when its process has ended.
pub(super) async fn ready(node: &Node, gone: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
    let address = plan::local(node.listen.ops).to_string();
    wait_for(&format!("the start of {}", node.name), async || {
        gone()?;
        Ok(match get(&address, "/readyz").await {
            Ok((200, _)) => Look::There,
            Ok((_, page)) => Look::NotYet(page.trim().to_owned()),
            Err(error) => Look::NotYet(error),
        })
    })
    .await
}

/// Waits until somebody accepts connections there.
pub(super) async fn listening(
    name: &str,
    address: &str,
    gone: impl Fn() -> Result<(), Error>,
) -> Result<(), Error> {
    wait_for(&format!("the start of {name}"), async || {
        gone()?;
        Ok(match net::dial(address, ANSWER_WITHIN).await {
            Ok(_) => Look::There,
            Err(error) => Look::NotYet(error.to_string()),
        })
    })
    .await
}

impl Admins {
    /// Connects when first used.
    pub(super) fn new(layout: &Layout, nodes: &[Node], token: &str) -> Result<Self, Error> {
        let malformed = |error: &dyn std::fmt::Display| Error::new(format!("admin API: {error}"));
        let ca = match layout.ca_file() {
            None => None,
            Some(path) => Some(Certificate::from_pem(
                std::fs::read(&path).map_err(|error| Error::file("read", &path, &error))?,
            )),
        };
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .map_err(|error| malformed(&error))?;
        value.set_sensitive(true);
        let clients = nodes.iter().map(|node| {
            let scheme = if ca.is_some() { "https" } else { "http" };
            let url = format!("{scheme}://{}", plan::local(node.listen.admin));
            let mut endpoint = Endpoint::from_shared(url)
                .map_err(|error| malformed(&error))?
                .connect_timeout(ANSWER_WITHIN);
            if let Some(ca) = &ca {
                let tls = ClientTlsConfig::new().ca_certificate(ca.clone());
                endpoint = endpoint
                    .tls_config(tls)
                    .map_err(|error| malformed(&error))?;
            }
            let channel = endpoint.connect_lazy();
            let client = AdminClient::with_interceptor(channel, Token(value.clone()));
            Ok((node.name.clone(), client))
        });
        Ok(Self(clients.collect::<Result<_, Error>>()?))
    }

    fn first(&self) -> Result<Client, Error> {
        let first = self
            .0
            .first()
            .ok_or_else(|| Error::new("a cluster without nodes"))?;
        Ok(first.1.clone())
    }

    /// Creates what is missing. All of it may be repeated: ids are the folder's, and a key that was
    /// minted but not remembered is a key that nobody has.
    pub(super) async fn prepare(&self, saved: &mut Saved) -> Result<(), Error> {
        let client = self.first()?;
        let (tenant, function, version) = (
            saved.tenant.to_string(),
            saved.function.to_string(),
            saved.version.to_string(),
        );
        write("create the tenant", async || {
            let request = CreateTenantRequest {
                name: "demo".to_owned(),
                id: tenant.clone(),
            };
            client.clone().create_tenant(timed(request)).await
        })
        .await?;
        write("create the function", async || {
            let request = CreateFunctionRequest {
                tenant_id: tenant.clone(),
                name: "demo".to_owned(),
                id: function.clone(),
            };
            client.clone().create_function(timed(request)).await
        })
        .await?;
        write("create the version", async || {
            let request = CreateVersionRequest {
                function_id: function.clone(),
                id: version.clone(),
                policy: Some(VersionPolicy {
                    slots: saved.size.slots,
                    ..Default::default()
                }),
            };
            client.clone().create_version(timed(request)).await
        })
        .await?;
        let key = async |kind: &str| {
            let answer = write("create a key", async || {
                let request = CreateKeyRequest {
                    kind: kind.to_owned(),
                    tenant_id: tenant.clone(),
                    subject: format!("dev-{kind}"),
                    version_id: match kind {
                        "worker" => version.clone(),
                        _ => String::new(),
                    },
                    ..Default::default()
                };
                client.clone().create_key(timed(request)).await
            })
            .await?;
            Ok::<_, Error>(answer.secret)
        };
        if saved.client_key.is_none() {
            saved.client_key = Some(key("client").await?);
        }
        if saved.worker_key.is_none() {
            saved.worker_key = Some(key("worker").await?);
        }
        Ok(())
    }

    /// The nodes' numbers by name.
    pub(super) async fn node_ids(&self) -> Result<BTreeMap<String, u64>, Error> {
        let client = self.first()?;
        let wanted = self.0.len();
        let mut ids = BTreeMap::new();
        let until = clock::now() + WITHIN;
        while ids.len() < wanted && clock::now() < until {
            if !ids.is_empty() {
                tokio::time::sleep(EVERY).await;
            }
            let nodes = write("list the nodes", async || {
                client.clone().list_nodes(timed(ListNodesRequest {})).await
            })
            .await?;
            ids = nodes
                .nodes
                .into_iter()
                .map(|node| (node.name, node.id))
                .collect();
        }
        Ok(ids)
    }

    /// The workers that any node shows at present: those of an earlier start.
    pub(super) async fn known_workers(&self) -> Result<BTreeSet<String>, Error> {
        let mut known = BTreeSet::new();
        for (_, client) in &self.0 {
            let reply = write("list the workers", async || {
                client
                    .clone()
                    .list_workers(timed(ListWorkersRequest::default()))
                    .await
            })
            .await?;
            known.extend(reply.workers.into_iter().map(|worker| worker.id));
        }
        Ok(known)
    }

    /// Waits until every node shows so many new workers ready, each attached to at least two nodes
    /// (or to the only one), and knows the version and both keys.
    pub(super) async fn all_know(
        &self,
        saved: &Saved,
        workers: usize,
        earlier: &BTreeSet<String>,
        gone: impl Fn() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let attached_min = self.0.len().min(2);
        let (version, function) = (saved.version.to_string(), saved.function.to_string());
        for (node, client) in &self.0 {
            wait_for(
                &format!("the workers' attach, as {node} sees it,"),
                async || {
                    gone()?;
                    let mut client = client.clone();
                    let list = match client
                        .list_workers(timed(ListWorkersRequest::default()))
                        .await
                    {
                        Ok(reply) => reply.into_inner().workers,
                        Err(status) => return Ok(Look::NotYet(words(&status))),
                    };
                    let ready = list.iter().filter(|worker| {
                        worker.version_id == version
                            && worker.state == "ready"
                            && worker.attached_at.len() >= attached_min
                            && !earlier.contains(&worker.id)
                    });
                    let ready = ready.count();
                    if ready < workers {
                        return Ok(Look::NotYet(format!(
                            "{ready} of {workers} workers are ready"
                        )));
                    }
                    let request = ListVersionsRequest {
                        function_id: function.clone(),
                    };
                    let versions = match client.list_versions(timed(request)).await {
                        Ok(reply) => reply.into_inner().versions,
                        Err(status) => return Ok(Look::NotYet(words(&status))),
                    };
                    let keys = match client.list_keys(timed(ListKeysRequest {})).await {
                        Ok(reply) => reply.into_inner().keys,
                        Err(status) => return Ok(Look::NotYet(words(&status))),
                    };
                    Ok(
                        match (
                            versions.iter().any(|one| one.id == version),
                            keys.len() >= 2,
                        ) {
                            (true, true) => Look::There,
                            _ => Look::NotYet(
                                "it does not know the version or its keys yet".to_owned(),
                            ),
                        },
                    )
                },
            )
            .await?;
        }
        Ok(())
    }
}

/// Waits until a node's client port takes the demo's credential and function.
///
/// It asks for a session that cannot exist (a version 4 UUID is never one of ours), so that every
/// check before the session is passed and nothing is opened.
pub(super) async fn serves_calls(node: &Node, saved: &Saved, key: &str) -> Result<(), Error> {
    let address = plan::local(node.listen.client).to_string();
    let options = demo::call::Ask {
        endpoint: address,
        api_key: key.to_owned(),
        function_id: saved.function.to_string(),
        function_version_id: Some(saved.version.to_string()),
        request_id: Some(
            pontoon_proto::id::TenantId::from_random(crate::random::bytes()).to_string(),
        ),
        timeout: ANSWER_WITHIN,
    };
    wait_for(&format!("the client port of {}", node.name), async || {
        let outcome = match demo::call::Caller::connect(&options).await {
            Ok(caller) => caller.call(0).await,
            Err(error) => Err(error),
        };
        Ok(match outcome {
            Err(demo::call::Error::Status { status, .. })
                if status.code() == Code::NotFound
                    && status.message().starts_with("no existing session found") =>
            {
                Look::There
            }
            Err(error) => Look::NotYet(error.to_string()),
            Ok(_) => Look::NotYet("it answers for a session that does not exist".to_owned()),
        })
    })
    .await
}

/// Asks until it is answered: a cluster that has just come up may still be electing.
async fn write<T>(
    what: &str,
    ask: impl AsyncFn() -> Result<tonic::Response<T>, Status>,
) -> Result<T, Error> {
    let until = clock::now() + WITHIN;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => {
                let again = matches!(
                    status.code(),
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted
                );
                if !again || clock::now() >= until {
                    return Err(Error::new(format!("cannot {what}: {}", words(&status))));
                }
                tokio::time::sleep(EVERY).await;
            }
        }
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(WRITE_WITHIN);
    request
}

fn words(status: &Status) -> String {
    format!(
        "{}: {}",
        demo::call::code_name(status.code()),
        status.message()
    )
}

/// One HTTP/1.1 GET: the status and the page.
async fn get(address: &str, path: &str) -> Result<(u16, String), String> {
    let ask = async {
        let stream = net::dial(address, ANSWER_WITHIN)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let request = http::Request::get(path)
            .header(http::header::HOST, address)
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| error.to_string())?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), PAGE_MAX).collect().await;
            let page = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((status, String::from_utf8_lossy(&page).into_owned()))
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection may end first, with the answer already read.
            _ = &mut connection => exchange.await,
        }
    };
    tokio::time::timeout(ANSWER_WITHIN, ask)
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
