//! The ports for clients: open while the node serves, closed while it drains, and open again when it
//! serves again.
//!
//! Closed, and not merely unanswered: a load balancer that connects to see who lives sends its clients
//! elsewhere at once.

use super::wiring::Parts;
use crate::call::Context;
use crate::drain::{Draining, Stage};
use crate::listen::proxies::Proxies;
use crate::listen::{self, Door};
use crate::net::{self, TcpListener};
use crate::session::Sessions;
use crate::tasks::{self, Kind};
use crate::tls::front::Front;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The pause after a port that could not be had again.
const RETRY: Duration = Duration::from_millis(200);

/// One port.
struct Port {
    address: SocketAddr,
    tls: Option<Front>,
    proxies: Proxies,
}

/// All of them.
pub(super) struct Doors {
    listeners: Vec<TcpListener>,
    ports: Vec<Port>,
}

impl Doors {
    /// The ports of a node, bound already.
    pub(super) fn new(
        parts: &Parts,
        clear: TcpListener,
        tls: Option<TcpListener>,
    ) -> io::Result<Doors> {
        let mut doors = Doors {
            ports: vec![Port {
                address: clear.local_addr()?,
                tls: None,
                proxies: parts.config.client_proxies.clone(),
            }],
            listeners: vec![clear],
        };
        if let (Some(listener), Some(front)) = (tls, parts.clients.front.clone()) {
            doors.ports.push(Port {
                address: listener.local_addr()?,
                tls: Some(front),
                proxies: parts.config.client_tls_proxies.clone(),
            });
            doors.listeners.push(listener);
        }
        Ok(doors)
    }

    /// Serves for as long as the process lives. What was accepted before a drain that was cancelled
    /// goes on beside what comes later, and counts against another limit on connections.
    pub(super) async fn serve(
        mut self,
        cx: Arc<Context<Sessions>>,
        mut draining: Draining,
        listening: Arc<AtomicBool>,
    ) {
        loop {
            let listeners = std::mem::take(&mut self.listeners);
            let doors = self
                .ports
                .iter()
                .zip(listeners)
                .map(|(port, listener)| Door {
                    listener,
                    tls: port.tls.clone(),
                    proxies: port.proxies.clone(),
                });
            let serving = listen::serve_all(doors.collect(), cx.clone(), draining.clone());
            tasks::spawn(Kind::Critical, "client doors", serving);
            draining.reached(Stage::Draining).await;
            listening.store(false, Ordering::Relaxed);
            if !draining.resumed().await {
                return;
            }
            for port in &self.ports {
                self.listeners.push(again(port.address).await);
            }
            listening.store(true, Ordering::Relaxed);
        }
    }
}

/// Binds a port again. The node is not ready before it has it.
async fn again(address: SocketAddr) -> TcpListener {
    let mut said = false;
    loop {
        match net::listen("clients", &address.to_string()).await {
            Ok(listener) => return listener,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "this node serves again, but for this port; trying on");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
