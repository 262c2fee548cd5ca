//! The one place in this package that spawns tasks, and what ends them.

use crate::host;
use std::future::Future;
use std::io;
use std::sync::Mutex;
use tokio::task::AbortHandle;

/// Spawns a short task that ends by itself: it waits, at most until a deadline, and answers.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    host::spawn(future).abort_handle()
}

/// Does something that blocks beside the tasks, and waits for it; in a simulated process, in place.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if host::alone() {
        return work();
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// The loops of one owner: they end when it does.
#[derive(Debug, Default)]
pub(crate) struct Loops(Mutex<Vec<AbortHandle>>);

impl Loops {
    /// Runs a loop for as long as its owner lives.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let handle = spawn(future);
        self.handles().push(handle);
    }

    /// Ends all of them at their next await.
    pub(crate) fn stop(&self) {
        for handle in self.handles().drain(..) {
            handle.abort();
        }
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, Vec<AbortHandle>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        self.stop();
    }
}
