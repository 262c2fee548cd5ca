//! The one place that spawns tasks, so that each kind's end has a meaning.

use std::future::Future;
use tokio::task::JoinHandle;

/// What a task's end means for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Serves one peer, call, connection or tunnel: its end is ordinary; a panic is logged and
    /// costs that one only.
    Worker,
    /// The process is useless without it: its end, before shutdown, ends the process.
    Critical,
}

/// Spawns a task. `name` is for logs and must be a constant.
#[expect(clippy::disallowed_methods, reason = "this file is the seam")]
pub fn spawn<F>(kind: Kind, name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match kind {
        Kind::Worker => tokio::spawn(future),
        Kind::Critical => {
            let inner = tokio::spawn(future);
            tokio::spawn(async move {
                match inner.await {
                    Ok(output) => output,
                    Err(error) => {
                        tracing::error!(task = name, %error, "a task that the process needs has died");
                        std::process::exit(70);
                    }
                }
            })
        }
    }
}
