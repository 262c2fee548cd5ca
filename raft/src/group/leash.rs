//! A stream in somebody else's hands that ends, and is gone, with its owner.
//!
//! The consensus library makes the requests of a replication stream out of state that the next stream to
//! that member uses too, and waits with that state locked. A transport lets go of the requests some time
//! after the replies have ended: when the other side resets the stream, or when there is a request that it
//! can't send. Until then the old stream takes what belongs to the next one, which then begins where the
//! other side has a gap, is refused, and leaves the same behind. So the requests go when the replies do.

use futures::Stream;
use futures::stream::BoxStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

type Shared<T> = Arc<Mutex<Held<T>>>;

struct Held<T> {
    stream: Option<BoxStream<'static, T>>,
    /// Who waits for an item, and must hear of the end.
    waiting: Option<Waker>,
}

/// The owner's end: the stream is dropped with it.
pub(super) struct Leash<T>(Shared<T>);

/// The other end: what is polled.
pub(super) struct Leashed<T>(Shared<T>);

/// Puts a stream on a leash.
pub(super) fn leash<T>(stream: BoxStream<'static, T>) -> (Leash<T>, Leashed<T>) {
    let held = Arc::new(Mutex::new(Held {
        stream: Some(stream),
        waiting: None,
    }));
    (Leash(held.clone()), Leashed(held))
}

fn lock<T>(held: &Shared<T>) -> MutexGuard<'_, Held<T>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Drop for Leash<T> {
    fn drop(&mut self) {
        let (stream, waiting) = {
            let mut held = lock(&self.0);
            (held.stream.take(), held.waiting.take())
        };
        drop(stream);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl<T> Stream for Leashed<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut held = lock(&self.0);
        let Some(stream) = &mut held.stream else {
            return Poll::Ready(None);
        };
        let next = stream.as_mut().poll_next(context);
        if next.is_pending() {
            held.waiting = Some(context.waker().clone());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use futures::stream;

    #[tokio::test]
    async fn a_stream_is_gone_with_its_owner_and_whoever_waits_hears_of_it() {
        let kept = Arc::new(());
        let held = kept.clone();
        let items = stream::iter([1]).chain(stream::poll_fn(move |_| {
            let _held = &held;
            Poll::Pending
        }));
        let (leash, mut leashed) = leash(items.boxed());
        assert_eq!(leashed.next().await, Some(1));
        let mut next = std::pin::pin!(leashed.next());
        assert!(futures::poll!(&mut next).is_pending());
        drop(leash);
        assert_eq!(Arc::strong_count(&kept), 1, "its state is let go at once");
        assert_eq!(next.await, None);
    }
}
