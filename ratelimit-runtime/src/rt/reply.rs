//! A oneshot channel: one answer from another thread to a thread, or to a future on any executor.
//!
//! Tokio's channels count against the current task's budget. A thread that blocks inside a task
//! would never get a new budget.

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
    /// Taken, or one side is gone.
    Closed,
}

/// The sending side.
pub(crate) struct Sender<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

/// The receiving side. Resolves to `None` if no answer will come.
pub(crate) struct Receiver<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Mutex::new(Slot::Waiting(None)));
    (Sender { slot: Arc::clone(&slot) }, Receiver { slot })
}

impl<T> Sender<T> {
    /// Sends the answer. Drops it if the receiver is gone.
    pub(crate) fn send(self, answer: T) {
        self.settle(Slot::Sent(answer));
    }

    /// Whether the receiver still waits.
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
            // Outside the lock: dropping an undelivered answer runs foreign code.
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
            // Outside the lock: cloning or dropping a waker runs foreign code.
            waker = Some(context.waker().clone());
        }
    }
}

impl<T> Receiver<T> {
    /// Blocks the thread for the answer, until `deadline` at most.
    pub(crate) fn wait(mut self, deadline: Instant) -> Option<T> {
        match self.wait_until(deadline) {
            Poll::Ready(answer) => answer,
            Poll::Pending => None,
        }
    }

    /// Blocks the thread for the answer, until `deadline` at most. `Pending` means that it can
    /// still be waited for.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Poll<Option<T>> {
        block_on(self, deadline).map_or(Poll::Pending, Poll::Ready)
    }
}

/// Blocks the thread on a future, until `deadline` at most. Works inside an async runtime too.
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
    fn an_unwanted_answer_is_dropped() {
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
