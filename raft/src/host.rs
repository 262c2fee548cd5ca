//! Who a task belongs to, where many nodes share one thread: the seam of the simulation.
//!
//! A [`Host`] is one process of a simulated world. Whatever is polled in it, and whatever that spawns,
//! belongs to it: it stands still while the host is frozen (SIGSTOP), and is dropped where it is when
//! the host is killed (SIGKILL). Its randomness comes from a seed, and what blocks runs in place, so
//! that one seed gives one run.
//!
//! A real node has no host: then tasks are spawned as they are, randomness is the system's, and what
//! blocks goes to a thread of its own.

use rand::rand_core::{Infallible, TryRng};
use rand::rngs::ThreadRng;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Finished tasks are forgotten when so many were spawned since the last time.
const SWEEP: usize = 256;

thread_local! {
    static PRESENT: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// One process of a simulated world. Clones share it.
#[derive(Clone, Debug)]
pub struct Host(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    frozen: bool,
    dead: bool,
    random: u64,
    ahead: Duration,
    /// What wanted to run while the host was frozen, and what waits for its end.
    stopped: Vec<Waker>,
    tasks: Vec<AbortHandle>,
    swept: usize,
}

impl Host {
    /// A process that just started; all its randomness comes from the seed.
    pub fn new(seed: u64) -> Host {
        Host(Arc::new(Mutex::new(State {
            frozen: false,
            dead: false,
            random: seed,
            ahead: Duration::ZERO,
            stopped: Vec::new(),
            tasks: Vec::new(),
            swept: 0,
        })))
    }

    /// Runs a future in this process. It never ends when the process dies before.
    pub fn run<F: Future>(&self, future: F) -> Hosted<F> {
        Hosted {
            host: Some(self.clone()),
            future: Box::pin(future),
        }
    }

    /// Spawns a task of this process. Its handle answers with an error when the process dies before.
    #[expect(
        clippy::disallowed_methods,
        reason = "the seam under all of this package's tasks"
    )]
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let task = tokio::spawn(self.run(future));
        self.keep(task.abort_handle());
        task
    }

    /// Stops all that runs here where it is, or lets it go on. Time passes meanwhile.
    pub fn freeze(&self, frozen: bool) {
        let stopped = {
            let mut state = self.state();
            state.frozen = frozen;
            match frozen {
                true => Vec::new(),
                false => std::mem::take(&mut state.stopped),
            }
        };
        stopped.into_iter().for_each(Waker::wake);
    }

    /// Ends all that runs here, where it is.
    pub fn kill(&self) {
        let (stopped, tasks) = {
            let mut state = self.state();
            state.dead = true;
            (
                std::mem::take(&mut state.stopped),
                std::mem::take(&mut state.tasks),
            )
        };
        tasks.iter().for_each(AbortHandle::abort);
        stopped.into_iter().for_each(Waker::wake);
    }

    /// Whether it stands still.
    pub fn frozen(&self) -> bool {
        self.state().frozen
    }

    /// Whether it was killed.
    pub fn dead(&self) -> bool {
        self.state().dead
    }

    /// The clock that state clocks are stamped with jumps: it is so far ahead of the time that passes.
    pub fn set_ahead(&self, ahead: Duration) {
        self.state().ahead = ahead;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SplitMix64.
    fn draw(&self) -> u64 {
        let mut state = self.state();
        state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn keep(&self, task: AbortHandle) {
        let mut state = self.state();
        if state.dead {
            task.abort();
            return;
        }
        state.tasks.push(task);
        if state.tasks.len() > state.swept + SWEEP {
            state.tasks.retain(|task| !task.is_finished());
            state.swept = state.tasks.len();
        }
    }
}

/// The host of what is being polled now.
fn present() -> Option<Host> {
    PRESENT.with_borrow(Clone::clone)
}

/// How far the clock for stamps is ahead of the time that passes; only in a simulated process.
pub(crate) fn ahead() -> Duration {
    PRESENT.with_borrow(|host| {
        host.as_ref()
            .map_or(Duration::ZERO, |host| host.state().ahead)
    })
}

/// Whether what blocks must run in place.
pub(crate) fn alone() -> bool {
    PRESENT.with_borrow(Option::is_some)
}

/// Spawns a task for whoever is running now.
#[expect(
    clippy::disallowed_methods,
    reason = "the seam under all of this package's tasks"
)]
pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    match present() {
        Some(host) => host.spawn(future),
        None => tokio::spawn(future),
    }
}

/// A future that belongs to a host.
#[must_use]
pub struct Hosted<F> {
    host: Option<Host>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Hosted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let host = self.host.clone();
        if let Some(host) = &host {
            let mut state = host.state();
            if state.dead || state.frozen {
                state.stopped.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        let before = PRESENT.replace(host);
        let _back = Back(before);
        self.future.as_mut().poll(context)
    }
}

/// Puts the host before back, also after a panic.
struct Back(Option<Host>);

impl Drop for Back {
    fn drop(&mut self) {
        PRESENT.set(self.0.take());
    }
}

/// Randomness for timers: the host's, or the system's.
pub enum Random {
    /// A real node's.
    System(ThreadRng),
    /// A simulated one's.
    Seeded(Host),
}

impl Random {
    pub(crate) fn present() -> Random {
        present().map_or_else(|| Random::System(rand::rng()), Random::Seeded)
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        match self {
            Random::System(random) => random.try_next_u32(),
            Random::Seeded(host) => Ok((host.draw() >> 32) as u32),
        }
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match self {
            Random::System(random) => random.try_next_u64(),
            Random::Seeded(host) => Ok(host.draw()),
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Random::System(random) => random.try_fill_bytes(bytes),
            Random::Seeded(host) => {
                for chunk in bytes.chunks_mut(8) {
                    chunk.copy_from_slice(&host.draw().to_le_bytes()[..chunk.len()]);
                }
                Ok(())
            }
        }
    }
}
