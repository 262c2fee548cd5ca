//! The sidecar's side of one control stream.

use super::levels::Levels;
use super::life::{Life, message};
use super::roster::{Known, LinkId};
use crate::discovery::address::Address;
use crate::tls::once::Once;
use crate::tunnel::close::printable;
use crate::{clock, net};
use pontoon_proto::id::RequestId;
use pontoon_proto::worker::refused::Reason;
use pontoon_proto::worker::sidecar_message::Message;
use pontoon_proto::worker::worker_client::WorkerClient;
use pontoon_proto::worker::{
    Draining, Health, Hello, Holding, NodeList, NodeMessage, Pong, SessionEnded, SidecarMessage,
    Welcome, WorkerDead, node_message,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Request, Streaming};

/// How long a node may take to take the connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long it may take to welcome us: it asks up to three groups, 5 s each.
const WELCOME_WITHIN: Duration = Duration::from_secs(16);

/// How often a node is told what is held.
const HOLDING_EVERY: Duration = Duration::from_secs(10);

/// Messages on their way to one node; more wait at their senders, or are dropped where the next
/// reconciliation repeats them.
const QUEUE: usize = 256;

/// The bounds within which a node may set its timers, so that a wrong welcome can't make us deaf.
const TIMER_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// What one control stream tells the one who keeps them.
pub(super) trait Keeper: Send + Sync {
    /// A node has welcomed us; false when we are attached to it already.
    fn welcomed(&self, link: LinkId, node: &str) -> bool;
    /// A node told of the cluster's nodes.
    fn learn(&self, nodes: Vec<Known>);
    /// The node leaves.
    fn leaving(&self, link: LinkId);
    /// It stays after all.
    fn staying(&self, link: LinkId);
}

/// How a control stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It could not be opened, broke, or fell silent.
    Lost(String),
    /// The node refused us.
    Refused(Reason, String),
    /// The worker's death was told.
    Told,
    /// It met a node to which we are attached already.
    Same,
}

/// Attaches to one node, and stays until the stream ends.
pub(super) async fn run(
    (address, link): (&str, LinkId),
    life: &Arc<Life>,
    keeper: &impl Keeper,
) -> Ended {
    match attach(address, life).await {
        Ok((sender, mut inbound)) => {
            let mut stream = Stream {
                address,
                link,
                life,
                keeper,
                sender,
                told: Levels {
                    serving: true,
                    draining: false,
                    dead: None,
                },
            };
            match stream.welcome(&mut inbound).await {
                Ok(silence) => stream.turn(&mut inbound, silence).await,
                Err(ended) => ended,
            }
        }
        Err(cause) => Ended::Lost(printable(&cause)),
    }
}

type Inbound = Streaming<NodeMessage>;

async fn attach(
    address: &str,
    life: &Arc<Life>,
) -> Result<(mpsc::Sender<SidecarMessage>, Inbound), String> {
    let settings = &life.settings;
    let authority = address.parse::<Address>()?.authority();
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true);
    let connect = async {
        let stream = net::dial(address, CONNECT_WITHIN)
            .await
            .map_err(|error| error.to_string())?;
        match &settings.trust {
            Some(trust) => trust.channel(endpoint, stream, address).await,
            None => {
                let channel = endpoint.connect_with_connector(Once::new(stream));
                channel.await.map_err(|error| chain(&error))
            }
        }
    };
    let channel = timeout(CONNECT_WITHIN, connect)
        .await
        .map_err(|_| "no connection in time".to_owned())??;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let hello = Hello {
        worker_id: life.id.to_bytes().to_vec().into(),
        version_id: settings
            .version
            .map(|version| version.to_bytes().to_vec())
            .unwrap_or_default()
            .into(),
        slots: settings.slots,
        region: settings.region.clone(),
        held: life.held(),
        name: settings.name.clone(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        spares: settings.spares,
    };
    let _room = sender.try_send(message(Message::Hello(hello)));
    let mut request = Request::new(ReceiverStream::new(receiver));
    let mut bearer = MetadataValue::try_from(format!("Bearer {}", settings.key.0))
        .map_err(|_| "the worker key can't be sent".to_owned())?;
    bearer.set_sensitive(true);
    request.metadata_mut().insert("authorization", bearer);
    let answer = timeout(CONNECT_WITHIN, WorkerClient::new(channel).attach(request))
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|status| status.message().to_owned())?;
    Ok((sender, answer.into_inner()))
}

/// An error with its causes, which tonic leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

struct Stream<'a, K> {
    address: &'a str,
    link: LinkId,
    life: &'a Arc<Life>,
    keeper: &'a K,
    sender: mpsc::Sender<SidecarMessage>,
    told: Levels,
}

impl<K: Keeper> Stream<'_, K> {
    /// Waits for the welcome and does what it says; gives the longest silence to bear.
    async fn welcome(&mut self, inbound: &mut Inbound) -> Result<Duration, Ended> {
        let first = timeout(WELCOME_WITHIN, inbound.message())
            .await
            .map_err(|_| Ended::Lost("no welcome in time".to_owned()))?;
        let welcome = match first {
            Ok(Some(NodeMessage {
                message: Some(node_message::Message::Welcome(welcome)),
            })) => welcome,
            Ok(Some(NodeMessage {
                message: Some(node_message::Message::Refused(refused)),
            })) => {
                let reason = refused.reason();
                return Err(Ended::Refused(reason, printable(&refused.text)));
            }
            Ok(_) => return Err(Ended::Lost("the node said no welcome".to_owned())),
            Err(status) => return Err(Ended::Lost(printable(status.message()))),
        };
        if !self.keeper.welcomed(self.link, &welcome.node_name) {
            return Err(Ended::Same);
        }
        tracing::info!(node = welcome.node_name, address = self.address, "attached");
        self.life.raise(welcome.generation);
        self.let_go(&welcome);
        self.learn(welcome.nodes.unwrap_or_default());
        let bounded = |ms| Duration::from_millis(ms).clamp(TIMER_BOUNDS.0, TIMER_BOUNDS.1);
        Ok(bounded(welcome.ping_interval_ms) + bounded(welcome.silence_max_ms))
    }

    fn let_go(&self, welcome: &Welcome) {
        for request_id in &welcome.let_go {
            let Some(id) = RequestId::from_slice(request_id) else {
                continue;
            };
            let done = self.life.end(id, "gone");
            let (sender, request_id) = (self.sender.clone(), request_id.clone());
            let confirm = async move {
                if let Some(done) = done {
                    done.cancelled().await;
                }
                let ended = SessionEnded {
                    request_id,
                    binding_index: 0,
                };
                let _or_gone = sender.send(message(Message::SessionEnded(ended))).await;
            };
            crate::tasks::spawn(crate::tasks::Kind::Worker, "sidecar-let-go", confirm);
        }
    }

    async fn turn(&mut self, inbound: &mut Inbound, silence: Duration) -> Ended {
        let mut levels = self.life.levels.subscribe();
        let mut holding = interval(HOLDING_EVERY);
        holding.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard: Instant = clock::now();
        self.tell(&levels.borrow_and_update().clone());
        loop {
            tokio::select! {
                () = sleep_until(heard + silence) => {
                    return self.end("the node is silent");
                }
                received = inbound.message() => {
                    heard = clock::now();
                    match received {
                        Ok(Some(NodeMessage { message: Some(received) })) => {
                            if let Some(ended) = self.hear(received) {
                                return ended;
                            }
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => return self.end("the node closed the stream"),
                        Err(status) => return self.end(status.message()),
                    }
                }
                Ok(()) = levels.changed() => {
                    let now = levels.borrow_and_update().clone();
                    self.tell(&now);
                }
                _ = holding.tick() => {
                    let held = self.life.held();
                    self.say(Message::Holding(Holding { held }));
                }
            }
        }
    }

    fn end(&self, cause: &str) -> Ended {
        match self.told.dead {
            Some(_) => Ended::Told,
            None => Ended::Lost(printable(cause)),
        }
    }

    /// Says what has changed since it was last said. A node ends the stream when it hears of the
    /// worker's death.
    fn tell(&mut self, now: &Levels) {
        if now.serving != self.told.serving {
            self.say(Message::Health(Health {
                serving: now.serving,
            }));
        }
        if now.draining && !self.told.draining {
            self.say(Message::Draining(Draining {}));
        }
        if let (Some(cause), None) = (&now.dead, &self.told.dead) {
            let cause = printable(cause);
            self.say(Message::WorkerDead(WorkerDead { cause }));
        }
        self.told = now.clone();
    }

    fn hear(&mut self, received: node_message::Message) -> Option<Ended> {
        use node_message::Message as From;
        match received {
            From::Ping(ping) => self.say(Message::Pong(Pong { nonce: ping.nonce })),
            From::OpenTunnel(open) => self.life.open_tunnel(open, self.sender.clone()),
            From::EndSession(end) => self.life.end_session(&end, self.sender.clone()),
            From::Forget(forget) => self.life.forget(forget, &self.sender),
            From::Refused(refused) => {
                let reason = refused.reason();
                return Some(Ended::Refused(reason, printable(&refused.text)));
            }
            From::NodeDraining(_) => self.keeper.leaving(self.link),
            From::NodeStaying(_) => self.keeper.staying(self.link),
            From::Nodes(nodes) => self.learn(nodes),
            From::Welcome(_) => {}
        }
        None
    }

    fn learn(&self, nodes: NodeList) {
        let known = nodes.nodes.into_iter().map(|node| Known {
            address: node.worker,
            name: Some(node.name),
            region: Some(node.region),
        });
        self.keeper.learn(known.collect());
    }

    fn say(&self, what: Message) {
        let _or_full = self.sender.try_send(message(what));
    }
}
