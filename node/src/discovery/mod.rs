//! Names: from what people write to the sockets that are dialed for it.
//!
//! [`address`] takes an address apart, [`known`] decides how long an answer of DNS counts, [`service`] in
//! which order the targets of an SRV name are tried; this file asks. DNS only finds candidates: who is a member
//! of a cluster, and which node has answered, is never its matter.
//!
//! A name with several addresses is dialed like a load balancer: at another of them each time.

pub(crate) mod address;
mod known;
mod service;
#[cfg(test)]
mod tests;

use crate::{clock, random};
use address::Address;
use known::{Answer, Known};
use service::Target;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use trust_dns_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts,
};
use trust_dns_resolver::lookup::Lookup;
use trust_dns_resolver::net::NetError;
use trust_dns_resolver::net::runtime::TokioRuntimeProvider;
use trust_dns_resolver::proto::rr::{RData, RecordType};
use trust_dns_resolver::{Resolver, TokioResolver};

/// How long one server may take, and how often it is asked: a dial has a second or two in all.
const SERVER_WITHIN: (Duration, usize) = (Duration::from_millis(500), 2);

/// How long all servers together may take before the last good answer is used.
const ASK_WITHIN: Duration = Duration::from_millis(1_500);

/// How many targets of an SRV name are looked up for one dial.
const TARGETS_MAX: usize = 8;

/// The one of this process.
static NAMES: OnceLock<Names> = OnceLock::new();

/// Sets the servers that are asked, instead of those of the machine; to be called before the first dial.
pub fn ask(servers: &[SocketAddr]) {
    // A second call would come from a second node in one process, of which there is none.
    let _first = NAMES.set(Names::asking(servers));
}

/// The sockets of an address, in the order in which they are to be tried; at least one.
///
/// # Errors
///
/// When the address has a wrong form, or DNS knows nothing of it and never did.
pub(crate) async fn find(text: &str) -> io::Result<Vec<SocketAddr>> {
    let wrong = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
    match text.parse::<Address>().map_err(wrong)? {
        Address::Socket(socket) => Ok(vec![socket]),
        address => NAMES.get_or_init(Names::of_machine).find(&address).await,
    }
}

/// What is known, and whom to ask.
pub(crate) struct Names {
    /// Or why there is nobody to ask.
    resolver: Result<TokioResolver, String>,
    hosts: Mutex<Known<IpAddr>>,
    services: Mutex<Known<Target>>,
    started: Instant,
}

impl Names {
    /// Asks the servers of `/etc/resolv.conf`.
    fn of_machine() -> Self {
        let builder = TokioResolver::builder_tokio();
        let unreadable = |error: NetError| {
            format!("/etc/resolv.conf names no server that can be asked ({error}); see dns.servers")
        };
        let resolver = builder.and_then(|mut builder| {
            bounds(builder.options_mut());
            builder.build()
        });
        Self::with(resolver.map_err(unreadable))
    }

    /// Asks these servers, over UDP, and over TCP where an answer is too long for that.
    pub(crate) fn asking(servers: &[SocketAddr]) -> Self {
        let servers = servers.iter().map(|server| {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            NameServerConfig::new(server.ip(), true, connections.to_vec())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        bounds(builder.options_mut());
        Self::with(builder.build().map_err(|error| error.to_string()))
    }

    fn with(resolver: Result<TokioResolver, String>) -> Self {
        Self {
            resolver,
            hosts: Mutex::default(),
            services: Mutex::default(),
            started: clock::now(),
        }
    }

    pub(crate) async fn find(&self, address: &Address) -> io::Result<Vec<SocketAddr>> {
        match address {
            Address::Socket(socket) => Ok(vec![*socket]),
            Address::Host(host, port) => {
                let addresses = self.host(host).await?;
                Ok(addresses.into_iter().map(|ip| (ip, *port).into()).collect())
            }
            Address::Service { name, target } => self.service(name, target.as_deref()).await,
        }
    }

    /// A host's addresses, in an order of chance.
    async fn host(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let addresses = match self.known(&self.hosts, host) {
            Some(fresh) => fresh,
            None => {
                let asked = async |resolver: &TokioResolver| {
                    let found = resolver.lookup_ip(host).await?;
                    let addresses = found.iter().collect();
                    Ok((addresses, found.as_lookup().clone()))
                };
                self.asked(&self.hosts, host, asked).await?
            }
        };
        Ok(shuffled(addresses))
    }

    /// The sockets of a service's targets.
    async fn service(&self, name: &str, target: Option<&str>) -> io::Result<Vec<SocketAddr>> {
        let targets = match self.known(&self.services, name) {
            Some(fresh) => fresh,
            None => {
                let asked = async |resolver: &TokioResolver| {
                    let found = resolver.lookup(name, RecordType::SRV).await?;
                    Ok((targets(&found), found))
                };
                self.asked(&self.services, name, asked).await?
            }
        };
        let first = |host: &str| host.split('.').next().unwrap_or(host).to_owned();
        let wanted = |one: &Target| target.is_none_or(|target| first(&one.host) == target);
        let wanted: Vec<Target> = targets.into_iter().filter(wanted).collect();
        let none = || match target {
            Some(target) => format!("{name} has no target whose first label is {target}"),
            None => format!("{name} has no target"),
        };
        let mut sockets = Vec::new();
        let mut last = None;
        for target in service::order(wanted, random::fraction)
            .into_iter()
            .take(TARGETS_MAX)
        {
            match self.host(&target.host).await {
                Ok(found) => sockets.extend(found.into_iter().map(|ip| (ip, target.port))),
                Err(error) => last = Some(error),
            }
        }
        match (sockets.is_empty(), last) {
            (true, Some(error)) => Err(error),
            (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, none())),
            (false, _) => Ok(sockets.into_iter().map(SocketAddr::from).collect()),
        }
    }

    fn known<T: Clone>(&self, known: &Mutex<Known<T>>, name: &str) -> Option<Vec<T>> {
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.fresh(name, self.started.elapsed())
    }

    /// Asks, and falls back to the last good answer.
    async fn asked<T: Clone>(
        &self,
        known: &Mutex<Known<T>>,
        name: &str,
        question: impl AsyncFnOnce(&TokioResolver) -> Result<(Vec<T>, Lookup), NetError>,
    ) -> io::Result<Vec<T>> {
        let resolver = self.resolver.as_ref();
        let resolver = resolver.map_err(|why| io::Error::other(why.clone()))?;
        let answered = tokio::time::timeout(ASK_WITHIN, question(resolver)).await;
        let (answer, why) = match answered {
            Ok(Ok((records, lookup))) if !records.is_empty() => {
                let left = lookup
                    .valid_until()
                    .saturating_duration_since(clock::now().into_std());
                (Answer::Records(records, left), String::new())
            }
            Ok(Ok(_)) => (Answer::Nothing, "it has no such records".to_owned()),
            Ok(Err(error)) if error.is_no_records_found() => (Answer::Nothing, error.to_string()),
            Ok(Err(error)) => (Answer::Failed, error.to_string()),
            Err(_) => (Answer::Failed, "no answer from DNS in time".to_owned()),
        };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = known.learn(name, answer, self.started.elapsed(), random::fraction());
        match counts.is_empty() {
            false => Ok(counts),
            true => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{name} can't be found: {why}"),
            )),
        }
    }
}

/// What is remembered is ours to decide ([`known`]), so that the library's own memory is short.
fn bounds(options: &mut ResolverOpts) {
    (options.timeout, options.attempts) = SERVER_WITHIN;
    options.positive_max_ttl = Some(Duration::from_secs(60));
    options.negative_max_ttl = Some(Duration::ZERO);
}

fn targets(lookup: &Lookup) -> Vec<Target> {
    let records = lookup.answers().iter();
    let targets = records.filter_map(|record| match &record.data {
        // A single dot says that the service is not there (RFC 2782).
        RData::SRV(srv) if !srv.target.is_root() => Some(Target {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            host: srv
                .target
                .to_ascii()
                .trim_end_matches('.')
                .to_ascii_lowercase(),
        }),
        _ => None,
    });
    targets.collect()
}

fn shuffled<T>(mut values: Vec<T>) -> Vec<T> {
    for at in (1..values.len()).rev() {
        let other = (random::fraction() * (at + 1) as f64) as usize;
        values.swap(at, other.min(at));
    }
    values
}
