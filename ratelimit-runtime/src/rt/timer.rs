//! Deadlines of futures, on any executor: one thread of this crate wakes the late ones.
//!
//! The surrounding runtime's timer will not do: there may be no runtime, and a test may have paused
//! its clock.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::rt::process::{Owned, PerProcess, lock};

/// Resolves to what `future` does; to `None` if it is not ready by `deadline`, or if no thread
/// could wake it then.
pub(crate) async fn bounded<F: Future>(future: F, deadline: Instant) -> Option<F::Output> {
    let mut future = pin!(future);
    // Most futures of a healthy, nearby backend are ready at once or soon. Then no alarm is set.
    let mut alarm = None;
    poll_fn(move |context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        if Instant::now() >= deadline || !set(&mut alarm, deadline, context) {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// Wakes a task at its deadline, unless dropped.
pub(crate) struct Alarm {
    timer: Arc<Owned<Timer>>,
    place: (Instant, u64),
    waker: Waker,
}

/// The state of the timer thread.
#[derive(Default)]
struct Timer {
    alarms: Mutex<Alarms>,
    earlier: Condvar,
}

#[derive(Default)]
struct Alarms {
    set: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    /// Until when the thread sleeps; `None` before there is a thread.
    thread: Option<Asleep>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asleep {
    Until(Instant),
    UntilWoken,
}

static TIMER: PerProcess<Timer> = PerProcess::new();

/// Sets the alarm, or sets it anew if the task has another waker or the alarm has fired (by another
/// clock perhaps too early). Returns false if there is no thread to wake the task.
pub(crate) fn set(alarm: &mut Option<Alarm>, deadline: Instant, context: &Context<'_>) -> bool {
    match alarm {
        Some(alarm) if alarm.waker.will_wake(context.waker()) && alarm.place.0 > Instant::now() => true,
        _ => {
            // The old one goes first.
            *alarm = None;
            *alarm = Alarm::new(deadline, context.waker());
            alarm.is_some()
        }
    }
}

impl Alarm {
    pub(crate) fn new(deadline: Instant, waker: &Waker) -> Option<Alarm> {
        // Cloned outside the lock: a waker's `clone` may run any code.
        let (waker, set) = (waker.clone(), waker.clone());
        let timer = TIMER.get(Timer::default);
        let mut alarms = lock(&timer.alarms);
        let is_earlier = match alarms.thread {
            Some(Asleep::Until(time)) => deadline < time,
            Some(Asleep::UntilWoken) => true,
            None => {
                let timer = Arc::clone(&timer);
                std::thread::Builder::new().name("ratelimit-timer".into()).spawn(move || timer.run()).ok()?;
                alarms.thread = Some(Asleep::UntilWoken);
                false
            }
        };
        let place = (deadline, alarms.next);
        alarms.next += 1;
        alarms.set.insert(place, set);
        if is_earlier {
            timer.earlier.notify_one();
        }
        drop(alarms);
        Some(Alarm { timer, place, waker })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // After a fork, the parent's lock may never be released.
        if !self.timer.is_own() {
            return;
        }
        let waker = lock(&self.timer.alarms).set.remove(&self.place);
        // Dropped outside the lock: a waker's `drop` may run any code.
        drop(waker);
    }
}

impl Timer {
    /// Runs as long as the process. A dropped alarm may wake the thread once, for nothing.
    fn run(&self) {
        let mut alarms = lock(&self.alarms);
        loop {
            match alarms.set.first_key_value().map(|(place, _)| *place) {
                Some(place) if place.0 <= Instant::now() => {
                    let waker = alarms.set.remove(&place);
                    drop(alarms);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    alarms = lock(&self.alarms);
                }
                Some((time, _)) => {
                    alarms.thread = Some(Asleep::Until(time));
                    let left = time.saturating_duration_since(Instant::now());
                    let waited = self.earlier.wait_timeout(alarms, left);
                    alarms = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    alarms.thread = Some(Asleep::UntilWoken);
                    alarms = self.earlier.wait(alarms).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;
    use std::thread::Thread;
    use std::time::Duration;

    use super::*;

    struct Unpark(Thread, AtomicBool);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.store(true, Ordering::SeqCst);
            self.0.unpark();
        }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        let unpark = Arc::new(Unpark(std::thread::current(), AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&unpark));
        let mut future = pin!(future);
        loop {
            if unpark.1.swap(false, Ordering::SeqCst)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return output;
            }
            std::thread::park();
        }
    }

    fn after(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    #[test]
    fn a_future_that_is_ready_is_not_late() {
        assert_eq!(block_on(bounded(ready(7), Instant::now())), Some(7));
    }

    #[test]
    fn pending_futures_end_at_their_deadlines_in_any_order() {
        std::thread::scope(|scope| {
            for millis in [60, 5, 30, 5, 1] {
                scope.spawn(move || {
                    let deadline = after(millis);
                    assert_eq!(block_on(bounded(pending::<()>(), deadline)), None);
                    assert!(Instant::now() >= deadline);
                });
            }
        });
    }

    #[test]
    fn an_alarm_that_fired_too_early_is_set_again() {
        let unpark = Arc::new(Unpark(std::thread::current(), AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&unpark));
        let mut alarm = None;
        for _ in 0..2 {
            assert!(set(&mut alarm, after(1), &Context::from_waker(&waker)));
            while !unpark.1.swap(false, Ordering::SeqCst) {
                std::thread::park();
            }
        }
    }

    #[test]
    fn a_future_that_is_dropped_leaves_no_alarm() {
        let deadline = after(3_600_000);
        let mut future = Box::pin(bounded(pending::<()>(), deadline));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let is_set = || lock(&TIMER.get(Timer::default).alarms).set.keys().any(|(time, _)| *time == deadline);
        assert!(is_set());
        drop(future);
        assert!(!is_set());
    }
}
