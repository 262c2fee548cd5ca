//! Lets a connection write once for all who have something to say, not once for each.
//!
//! Each call is a task of its own, and so is each connection. A call that has put a frame into a
//! connection wakes it, and the runtime runs who was woken last next: a connection would write each
//! frame by itself, a system call for some ten bytes, while other calls are ready to add theirs. So a
//! connection that is woken goes to the end of the queue once before it is run.

use std::task::{Context, Poll};

/// Whether it is a connection's turn.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    due: bool,
}

impl Gather {
    /// Polls what drives a connection, behind everybody who is ready at present.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        drive: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !self.due {
            self.due = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let driven = drive(cx);
        // What had something to give is asked for more at once.
        self.due = driven.is_ready();
        driven
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::{ArcWake, waker};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl ArcWake for Wakes {
        fn wake_by_ref(wakes: &Arc<Self>) {
            wakes.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_connection_goes_to_the_end_of_the_queue_once_for_each_time_that_it_is_woken() {
        let wakes = Arc::new(Wakes::default());
        let waker = waker(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        let mut gather = Gather::default();
        let mut driven = 0;
        let mut poll = |answer: Poll<()>| {
            let polled = gather.poll(&mut cx, |_| {
                driven += 1;
                answer
            });
            (polled, driven, wakes.0.load(Ordering::Relaxed))
        };
        assert_eq!(poll(Poll::Ready(())), (Poll::Pending, 0, 1));
        assert_eq!(poll(Poll::Ready(())), (Poll::Ready(()), 1, 1));
        // It had something: it is asked again without another turn, until it has nothing.
        assert_eq!(poll(Poll::Pending), (Poll::Pending, 2, 1));
        assert_eq!(poll(Poll::Pending), (Poll::Pending, 2, 2));
        assert_eq!(poll(Poll::Pending), (Poll::Pending, 3, 2));
    }
}
