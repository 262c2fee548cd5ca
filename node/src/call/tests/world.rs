//! A node's client side with everything behind it replaced, and a client for it.

use super::super::context::{CatalogReplica, Context, Joins, Member};
use super::super::counters::Counters;
use super::super::dress::CookiePolicy;
use super::worker::{self, Seen};
use crate::drain::Drain;
use crate::listen::{self, limits::Limits};
use crate::net::TcpStream;
use crate::session::Ask;
use crate::tasks::{self, Kind};
use crate::tunnel::{Carries, Wire};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{FunctionId, KeyId, RegionId, RequestId, TenantId, VersionId};
use pontoon_proto::key::{self, KeyClass};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{
    Command, Function, Key, KeyKind, Pin, Reply, SHARES_FORMAT, Tenant, Version, VersionPolicy,
    VersionState,
};
use pontoon_raft::machine::{Clock, Machine as _};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub(super) const F: FunctionId = FunctionId(uuid::Uuid::from_bytes([0x0f; 16]));
pub(super) const G: FunctionId = FunctionId(uuid::Uuid::from_bytes([0x1f; 16]));
const V: VersionId = VersionId(uuid::Uuid::from_bytes([0x2f; 16]));
const W: VersionId = VersionId(uuid::Uuid::from_bytes([0x3f; 16]));
const T: TenantId = TenantId(uuid::Uuid::from_bytes([0x4f; 16]));
const U: TenantId = TenantId(uuid::Uuid::from_bytes([0x5f; 16]));

/// The catalog as this node sees it, and as it would after a read.
pub(super) struct FakeCatalog {
    known: Arc<Catalog>,
    committed: Arc<Catalog>,
    pub(super) reachable: AtomicBool,
    pub(super) reads: AtomicUsize,
}

impl CatalogReplica for FakeCatalog {
    fn state(&self) -> Arc<Catalog> {
        self.known.clone()
    }

    fn read(&self) -> BoxFuture<'_, Option<Arc<Catalog>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let reachable = self.reachable.load(Ordering::Relaxed);
        async move { reachable.then(|| self.committed.clone()) }.boxed()
    }
}

/// A session of the fake directory.
#[derive(Clone)]
pub(super) struct Record {
    tenant: TenantId,
    function: FunctionId,
    version: VersionId,
    alive: Arc<AtomicBool>,
}

/// What happened to sessions, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Opened(RequestId),
    Absorbed(RequestId),
    Resumed(RequestId),
    Left(RequestId, bool),
    Released(RequestId),
}

/// Sessions without a cluster.
pub(super) struct FakeSessions {
    pub(super) records: Mutex<BTreeMap<RequestId, Record>>,
    pub(super) events: Mutex<Vec<Event>>,
    pub(super) seen: Arc<Seen>,
    /// Opens that may go on.
    pub(super) gate: Semaphore,
    pub(super) open_starts: AtomicUsize,
    pub(super) fail_opens: Mutex<Vec<Fault>>,
    /// Whether the local replica shows live sessions.
    pub(super) lags: AtomicBool,
    minted: AtomicU8,
}

impl FakeSessions {
    fn fits(&self, id: RequestId, ask: &Ask) -> Option<Record> {
        let records = self.records.lock().unwrap();
        let record = records.get(&id)?;
        (record.alive.load(Ordering::Relaxed)
            && record.tenant == ask.tenant
            && record.function == ask.function
            && ask.versions.iter().any(|v| v.id == record.version))
        .then(|| record.clone())
    }

    fn mint(&self, ask: &Ask) -> (RequestId, Record) {
        let n = self.minted.fetch_add(1, Ordering::Relaxed) + 1;
        let id = RequestId::mint(RegionId(1), [n; 16]);
        let record = Record {
            tenant: ask.tenant,
            function: ask.function,
            version: ask.versions[0].id,
            alive: Arc::new(AtomicBool::new(true)),
        };
        self.records.lock().unwrap().insert(id, record.clone());
        (id, record)
    }

    pub(super) fn end(&self, id: RequestId) {
        self.records.lock().unwrap()[&id]
            .alive
            .store(false, Ordering::Relaxed);
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    async fn join(self: &Arc<Self>, id: RequestId, record: Record) -> FakeJoined {
        FakeJoined {
            id,
            record,
            sessions: self.clone(),
            sender: tokio::sync::Mutex::new(worker::dial(&self.seen).await),
            clean: AtomicBool::new(false),
        }
    }

    async fn may_open(&self) -> Result<(), Fault> {
        self.open_starts.fetch_add(1, Ordering::Relaxed);
        self.gate.acquire().await.unwrap().forget();
        match self.fail_opens.lock().unwrap().pop() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

/// A handle, because the traits are implemented on what a node holds.
#[derive(Clone)]
pub(super) struct Fake(pub(super) Arc<FakeSessions>);

impl Joins for Fake {
    type Joined = FakeJoined;

    async fn open(&self, ask: &Ask) -> Result<FakeJoined, Fault> {
        self.0.may_open().await?;
        let (id, record) = self.0.mint(ask);
        self.0.note(Event::Opened(id));
        Ok(self.0.join(id, record).await)
    }

    async fn absorb(&self, ask: &Ask) -> Result<RequestId, Fault> {
        self.0.may_open().await?;
        let (id, _) = self.0.mint(ask);
        self.0.note(Event::Absorbed(id));
        Ok(id)
    }

    async fn resume(&self, id: RequestId, ask: &Ask) -> Result<FakeJoined, Fault> {
        let record = self.0.fits(id, ask).ok_or(Fault::SessionNotFound)?;
        self.0.note(Event::Resumed(id));
        Ok(self.0.join(id, record).await)
    }

    async fn release(&self, id: RequestId, ask: &Ask) -> Result<(), Fault> {
        self.0.fits(id, ask).ok_or(Fault::SessionNotFound)?;
        self.0.end(id);
        self.0.note(Event::Released(id));
        Ok(())
    }

    fn is_live_here(&self, id: RequestId, ask: &Ask) -> bool {
        !self.0.lags.load(Ordering::Relaxed) && self.0.fits(id, ask).is_some()
    }

    fn is_known_foreign(&self, id: RequestId, ask: &Ask) -> bool {
        let alive = |record: &Record| record.alive.load(Ordering::Relaxed);
        let lives = self.0.records.lock().unwrap().get(&id).is_some_and(alive);
        lives && self.0.fits(id, ask).is_none()
    }
}

/// A connection's part in a fake session.
pub(super) struct FakeJoined {
    id: RequestId,
    record: Record,
    sessions: Arc<FakeSessions>,
    sender: tokio::sync::Mutex<SendRequest<Bytes>>,
    clean: AtomicBool,
}

impl Member for FakeJoined {
    fn id(&self) -> RequestId {
        self.id
    }

    fn version(&self) -> VersionId {
        self.record.version
    }

    async fn wire(&self, _carries: Carries, _deadline: Instant) -> Result<Wire, Fault> {
        if self.ended() {
            return Err(Fault::SessionNotFound);
        }
        let mut sender = self.sender.lock().await;
        if sender.clone().ready().await.is_err() {
            *sender = worker::dial(&self.sessions.seen).await;
        }
        Ok(Wire::H2(sender.clone(), Arc::default()))
    }

    fn closes_cleanly(&self) {
        self.clean.store(true, Ordering::Relaxed);
    }

    fn ended(&self) -> bool {
        !self.record.alive.load(Ordering::Relaxed)
    }
}

impl Drop for FakeJoined {
    fn drop(&mut self) {
        let clean = self.clean.load(Ordering::Relaxed);
        self.sessions.note(Event::Left(self.id, clean));
    }
}

/// One node's client side.
pub(super) struct World {
    pub(super) sessions: Arc<FakeSessions>,
    pub(super) catalog: Arc<FakeCatalog>,
    pub(super) counters: Arc<Counters>,
    pub(super) drain: Drain,
    pub(super) address: SocketAddr,
    pub(super) served: tokio::task::JoinHandle<()>,
    /// The keys: alice and bob of one tenant, one of another, one with a scope, one not yet known.
    pub(super) keys: Keys,
}

pub(super) struct Keys {
    pub(super) alice: String,
    pub(super) bob: String,
    pub(super) stranger: String,
    pub(super) scoped: String,
    pub(super) fresh: String,
}

/// How a world differs from the usual one.
pub(super) struct Plan {
    pub(super) limits: Limits,
    pub(super) policy: VersionPolicy,
    /// How many opens may go through before the gate has to be opened.
    pub(super) opens: usize,
    /// Whether the other tenant may call function F.
    pub(super) shared: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            policy: VersionPolicy::default(),
            opens: 1 << 20,
            shared: false,
        }
    }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(Plan::default()).await
    }

    pub(super) async fn with(plan: Plan) -> Self {
        let mut known = Catalog::new();
        let mut index = 0;
        let mut apply = |catalog: &mut Catalog, command| {
            index += 1;
            let reply = catalog.apply(index, Clock(index), command, &mut Vec::new());
            assert_eq!(reply, Reply::Done);
        };
        let actor = || "test".to_owned();
        for (id, name) in [(T, "one"), (U, "two")] {
            let name = name.to_owned();
            let tenant = Tenant {
                id,
                name,
                actor: actor(),
            };
            apply(&mut known, Command::CreateTenant(tenant));
        }
        for (id, version, pin) in [(F, V, plan.policy.pin), (G, W, Pin::Connection)] {
            let function = Function {
                id,
                tenant: T,
                name: format!("function-{}", id.0.as_bytes()[0]),
                actor: actor(),
            };
            apply(&mut known, Command::CreateFunction(function));
            let version = Version {
                id: version,
                function: id,
                state: VersionState::Active,
                policy: VersionPolicy {
                    pin,
                    ..plan.policy.clone()
                },
                actor: actor(),
            };
            apply(&mut known, Command::CreateVersion(version));
        }
        if plan.shared {
            let format = SHARES_FORMAT;
            apply(&mut known, Command::RaiseFormat { format });
            let share = Command::SetShare {
                function: F,
                tenant: U,
                shared: true,
                actor: actor(),
            };
            apply(&mut known, share);
        }
        let mut make = |catalog: &mut Catalog, n: u8, subject: &str, tenant, functions| {
            let secret = key::mint(KeyClass::Client, [n; key::RANDOM_LEN]);
            let record = Key {
                id: KeyId::from_random([n; 16]),
                hash: key::hash(secret.expose()),
                kind: KeyKind::Client { tenant, functions },
                subject: subject.to_owned(),
                expires_unix: None,
                revoked: false,
                actor: actor(),
            };
            apply(catalog, Command::CreateKey(record));
            secret.expose().to_owned()
        };
        let alice = make(&mut known, 1, "alice", T, vec![]);
        let bob = make(&mut known, 2, "bob", T, vec![]);
        let stranger = make(&mut known, 3, "eve", U, vec![]);
        let scoped = make(&mut known, 4, "carol", T, vec![G]);
        let mut committed = known.clone();
        let fresh = make(&mut committed, 5, "dave", T, vec![]);
        let catalog = Arc::new(FakeCatalog {
            known: Arc::new(known),
            committed: Arc::new(committed),
            reachable: AtomicBool::new(true),
            reads: AtomicUsize::new(0),
        });
        let sessions = Arc::new(FakeSessions {
            records: Mutex::default(),
            events: Mutex::default(),
            seen: Arc::default(),
            gate: Semaphore::new(plan.opens),
            open_starts: AtomicUsize::new(0),
            fail_opens: Mutex::default(),
            lags: AtomicBool::new(false),
            minted: AtomicU8::new(0),
        });
        let counters = Arc::new(Counters::default());
        let cx = Arc::new(Context {
            catalog: catalog.clone(),
            sessions: Fake(sessions.clone()),
            counters: counters.clone(),
            chatter: Arc::default(),
            limits: plan.limits,
            region: "us-east".to_owned(),
            cookies: CookiePolicy::default(),
            forwards_address: false,
        });
        let listener = crate::net::listen("test", "127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::default();
        let served = listen::serve(listener, cx, drain.listener());
        let served = tasks::spawn(Kind::Worker, "test listener", served);
        World {
            sessions,
            catalog,
            counters,
            drain,
            address,
            served,
            keys: Keys {
                alice,
                bob,
                stranger,
                scoped,
                fresh,
            },
        }
    }

    /// A client connection.
    pub(super) async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(256 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        let ended = tasks::spawn(Kind::Worker, "test client", async move {
            connection.await.err().map(|error| format!("{error}"))
        });
        Client {
            sender,
            ended: Arc::new(ended),
            key: self.keys.alice.clone(),
        }
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.sessions.seen
    }
}

/// A client connection.
pub(super) struct Client {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) ended: Arc<tokio::task::JoinHandle<Option<String>>>,
    key: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

impl Answer {
    /// A header, or a trailer where there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.head
            .headers()
            .get(name)
            .or_else(|| self.trailers.get(name))
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn session(&self) -> RequestId {
        self.get("nvcf-reqid").parse().unwrap()
    }

    pub(super) fn cookies(&self) -> Vec<&str> {
        let all = self.head.headers().get_all("set-cookie");
        all.iter().map(|value| value.to_str().unwrap()).collect()
    }

    pub(super) fn fault(&self) -> (&str, &str) {
        (self.get("grpc-status"), self.get("grpc-message"))
    }
}

impl Client {
    /// Another handle of the same connection.
    pub(super) fn twin(&self) -> Client {
        Client {
            sender: self.sender.clone(),
            ended: self.ended.clone(),
            key: self.key.clone(),
        }
    }

    /// The same connection, used by somebody else.
    pub(super) fn with_key(&self, key: &str) -> Client {
        Client {
            key: key.to_owned(),
            ..self.twin()
        }
    }

    /// A gRPC request of alice for function F.
    pub(super) fn request(&self, path: &str) -> http::request::Builder {
        Request::builder()
            .method("POST")
            .uri(format!("http://gateway.test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {}", self.key))
            .header("function-id", F.to_string())
    }

    /// Sends a head and gives both halves.
    pub(super) async fn start(
        &mut self,
        request: http::request::Builder,
        ends: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut sender = self.sender.clone().ready().await.unwrap();
        sender
            .send_request(request.body(()).unwrap(), ends)
            .unwrap()
    }

    /// A whole call.
    pub(super) async fn send(
        &mut self,
        request: http::request::Builder,
        body: &'static [u8],
    ) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.start(request, body.is_empty()).await;
        if !body.is_empty() {
            stream.send_data(Bytes::from_static(body), true)?;
        }
        bounded(read(response)).await
    }

    /// A whole unary call of alice.
    pub(super) async fn unary(&mut self, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.request("/unary");
        for (name, value) in headers {
            if let Some(all) = request.headers_mut() {
                let name: http::HeaderName = name.parse().unwrap();
                all.insert(name, value.parse().unwrap());
            }
        }
        self.send(request, b"hello").await.unwrap()
    }
}

/// Reads an answer to its end, giving credit back.
pub(super) async fn read(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut whole = Vec::new();
    while let Some(frame) = frame(&mut body).await {
        whole.extend_from_slice(&frame?);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(Answer {
        head: Response::from_parts(head, ()),
        body: whole.into(),
        trailers,
    })
}

/// Takes the next frame and gives its credit back.
pub(super) async fn frame(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let frame = body.data().await?;
    if let Ok(frame) = &frame {
        body.flow_control().release_capacity(frame.len()).unwrap();
    }
    Some(frame)
}

/// No test waits longer for anything.
pub(super) async fn bounded<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("it should have happened by now")
}

/// Waits until something holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}
