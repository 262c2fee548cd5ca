//! Questions to a quorum, shared by all who ask at about the same time.
//!
//! A caller only ever joins a question that is asked after it came: an answer that was on its way
//! already may be older than what the caller must see. So callers wait in a queue; each question
//! takes all of them along at its start. A few questions may be in flight, so that nobody waits for
//! a slow one.

use crate::tasks;
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Callers that may wait. Beyond, they are told that there is no answer.
const QUEUE: usize = 65_536;

/// Questions in flight.
const PIPELINE: usize = 4;

/// One kind of question.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    queue: mpsc::Sender<oneshot::Sender<T>>,
}

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    /// The handle, and the loop that must run for it to be answered; it ends with the handle.
    pub(crate) fn new(
        ask: impl Fn() -> BoxFuture<'static, T> + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, mut callers) = mpsc::channel::<oneshot::Sender<T>>(QUEUE);
        let run = async move {
            let permits = Arc::new(Semaphore::new(PIPELINE));
            while let Some(first) = callers.recv().await {
                let Ok(permit) = permits.clone().acquire_owned().await else {
                    return;
                };
                let mut waiting = vec![first];
                while let Ok(caller) = callers.try_recv() {
                    waiting.push(caller);
                }
                let answer = ask();
                tasks::spawn(async move {
                    let answer = answer.await;
                    drop(permit);
                    for caller in waiting {
                        caller.send(answer.clone()).ok();
                    }
                });
            }
        };
        (Self { queue }, run)
    }

    /// The answer to a question asked from now on; none when too many wait or the loop is gone.
    pub(crate) async fn ask(&self) -> Option<T> {
        let (caller, answer) = oneshot::channel();
        self.queue.try_send(caller).ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[tokio::test]
    async fn a_caller_joins_only_a_question_that_starts_after_it_came() {
        let asked = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let (shared, run) = {
            let (asked, gate) = (asked.clone(), gate.clone());
            Shared::new(move || {
                let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    number
                }
                .boxed()
            })
        };
        let shared = Arc::new(shared);
        let running = tasks::Loops::default();
        running.spawn(run);
        let ask = |shared: Arc<Shared<u64>>| {
            let (sender, answer) = oneshot::channel();
            tasks::spawn(async move {
                sender.send(shared.ask().await).ok();
            });
            answer
        };
        let first = ask(shared.clone());
        while asked.load(Ordering::SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
        let second = ask(shared.clone());
        while asked.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Some(1));
        assert_eq!(second.await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn callers_that_wait_together_share_one_question() {
        let asked = Arc::new(AtomicU64::new(0));
        let (shared, run) = {
            let asked = asked.clone();
            Shared::new(move || {
                let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
                async move { number }.boxed()
            })
        };
        let all = futures::future::join_all((0..100).map(|_| shared.ask()));
        let running = tasks::Loops::default();
        let (answers, ()) = futures::join!(all, async { running.spawn(run) });
        assert!(answers.iter().all(|answer| *answer == Some(1)));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}
