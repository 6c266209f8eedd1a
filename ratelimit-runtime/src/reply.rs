//! One answer from another thread to whoever waits for it: a thread, or a future on any executor.
//!
//! Not a channel of tokio's: those count against the budget of the task around, and a thread that blocks inside a task
//! would never get a new one.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use parking_lot::Mutex;

enum Slot<T> {
    Waiting(Option<Waker>),
    Sent(T),
    /// Taken, or one of the two sides is gone.
    Closed,
}

/// Where the answer is put.
pub(crate) struct Sender<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

/// Where the answer arrives; `None` if it never will.
pub(crate) struct Receiver<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Mutex::new(Slot::Waiting(None)));
    (Sender { slot: Arc::clone(&slot) }, Receiver { slot })
}

impl<T> Sender<T> {
    /// Drops the answer where nobody waits any more.
    pub(crate) fn send(self, answer: T) {
        self.settle(Slot::Sent(answer));
    }

    /// Whether anybody waits for it.
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(*self.slot.lock(), Slot::Waiting(_))
    }

    fn settle(&self, settled: Slot<T>) {
        let mut slot = self.slot.lock();
        if let Slot::Waiting(waker) = &mut *slot {
            let waker = waker.take();
            *slot = settled;
            drop(slot);
            if let Some(waker) = waker {
                waker.wake();
            }
        } else {
            // What an undelivered answer does when it is dropped, it does without the lock.
            drop(slot);
            drop(settled);
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.settle(Slot::Closed);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut waker = None;
        loop {
            let mut slot = self.slot.lock();
            match &mut *slot {
                Slot::Waiting(Some(known)) if known.will_wake(context.waker()) => return Poll::Pending,
                Slot::Waiting(known) => {
                    if let Some(waker) = waker.take() {
                        let old = known.replace(waker);
                        drop(slot);
                        drop(old);
                        return Poll::Pending;
                    }
                }
                Slot::Sent(_) | Slot::Closed => {
                    let settled = std::mem::replace(&mut *slot, Slot::Closed);
                    drop(slot);
                    return Poll::Ready(if let Slot::Sent(answer) = settled { Some(answer) } else { None });
                }
            }
            drop(slot);
            // Not under the lock: what a waker does when it is cloned or dropped is not known.
            waker = Some(context.waker().clone());
        }
    }
}

impl<T> Receiver<T> {
    /// Blocks the thread, at most until `deadline`.
    pub(crate) fn wait(mut self, deadline: Instant) -> Option<T> {
        match self.wait_until(deadline) {
            Poll::Ready(answer) => answer,
            Poll::Pending => None,
        }
    }

    /// As [`wait`](Receiver::wait), and an answer that is not there by then can be waited for on.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Poll<Option<T>> {
        block_on(self, deadline).map_or(Poll::Pending, Poll::Ready)
    }
}

/// Blocks the thread until the future is done, at most until `deadline`; inside an async runtime too.
pub(crate) fn block_on<F: Future>(future: F, deadline: Instant) -> Option<F::Output> {
    let mut future = pin!(future);
    if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Some(answer);
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return Some(answer);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut slot = self.slot.lock();
        let undelivered = std::mem::replace(&mut *slot, Slot::Closed);
        drop(slot);
        drop(undelivered);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_thread_gets_what_another_sends() {
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || block_on(receiver, soon()).flatten());
        sender.send(7);
        assert_eq!(thread.join().unwrap(), Some(7));
    }

    #[test]
    fn a_sender_that_goes_ends_the_wait() {
        let (sender, receiver) = channel::<u8>();
        drop(sender);
        assert_eq!(block_on(receiver, soon()).flatten(), None);
    }

    #[test]
    fn the_wait_ends_at_the_deadline() {
        let (_sender, receiver) = channel::<u8>();
        assert_eq!(block_on(receiver, Instant::now() + Duration::from_millis(1)), None);
    }

    #[test]
    fn an_answer_that_nobody_takes_is_dropped() {
        let answer = Arc::new(());
        let (sender, receiver) = channel();
        sender.send(Arc::clone(&answer));
        drop(receiver);
        let (sender, receiver) = channel();
        drop(receiver);
        sender.send(Arc::clone(&answer));
        assert_eq!(Arc::strong_count(&answer), 1);
    }
}
