//! Processes that a benchmark of calls consists of besides the systems that it compares: the worker
//! that all of them serve, and the floors, which do the least that a proxy must do.
//!
//! Each runs on one thread, in a process of its own (`pontoon-chaos part ...`), so that its CPU time can
//! be told from that of the load, and ends when its standard input does.

mod copy;
mod echo;
mod forward;
mod sink;

use crate::cluster::Error;
use crate::net;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt as _;

/// One such process.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Part {
    /// A gRPC worker that answers each message with the same one, as it comes.
    Echo {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// Takes each HTTP/2 request apart and makes it again, on a connection for each client's.
    Forward {
        /// Where it listens.
        listen: SocketAddr,
        /// The worker.
        to: SocketAddr,
    },
    /// Takes bytes and says nothing.
    Sink {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// Copies bytes.
    Copy {
        /// Where it listens.
        listen: SocketAddr,
        /// The worker.
        to: SocketAddr,
    },
}

impl Part {
    /// Serves until standard input ends.
    pub async fn run(&self) -> Result<(), Error> {
        let (Part::Echo { listen }
        | Part::Sink { listen }
        | Part::Forward { listen, .. }
        | Part::Copy { listen, .. }) = self;
        let listener = net::listen(*listen).await;
        let listener =
            listener.map_err(|error| Error(format!("cannot listen on {listen}: {error}")))?;
        let serve = async {
            loop {
                // A connection that can't be accepted is one that the load misses, and says.
                let Ok(stream) = net::accept(&listener).await else {
                    continue;
                };
                match self {
                    Part::Echo { .. } => drop(tokio::task::spawn_local(echo::serve(stream))),
                    Part::Sink { .. } => drop(tokio::task::spawn_local(sink::serve(stream))),
                    Part::Forward { to, .. } => {
                        drop(tokio::task::spawn_local(forward::serve(stream, *to)));
                    }
                    Part::Copy { to, .. } => {
                        drop(tokio::task::spawn_local(copy::serve(stream, *to)))
                    }
                }
            }
        };
        let ended = async {
            let mut rest = [0; 64];
            let mut input = tokio::io::stdin();
            while input.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        };
        let both = async {
            tokio::select! {
                () = serve => {}
                () = ended => {}
            }
        };
        tokio::task::LocalSet::new().run_until(both).await;
        Ok(())
    }
}

/// Hyper's tasks, on this thread.
#[derive(Clone, Debug)]
struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}
