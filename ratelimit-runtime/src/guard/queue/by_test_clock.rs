//! A queue by a test's clock. It has no thread. Each call that polls it drives it up to the present
//! time, step by step, as its driver would have done while the time passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::driver::{By, Step, ends, step};
use super::{NEVER, Queue};
use crate::queue::Wakes;
use crate::rt::clock::Now;
use crate::rt::reply;
use crate::scope::Scope;

/// The longest time for a backend's answer, whatever its deadline.
const PATIENCE: Duration = Duration::from_secs(3_600);

pub(super) struct Stopped {
    scope: Scope,
    /// Held by the thread that drives the queue.
    driving: Mutex<()>,
    /// The time up to which the queue was driven.
    reached: AtomicU64,
    /// When it has something to do.
    sleeps_until: AtomicU64,
}

impl Stopped {
    pub(super) fn new(scope: Scope) -> Stopped {
        let reached = AtomicU64::new(scope.now());
        let (driving, sleeps_until) = (Mutex::new(()), AtomicU64::new(NEVER));
        Stopped { scope, driving, reached, sleeps_until }
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(super) fn reached(&self) -> Now {
        Now::exactly(self.reached.load(Ordering::Acquire))
    }

    pub(super) fn sleeps_until(&self) -> u64 {
        self.sleeps_until.load(Ordering::Acquire)
    }
}

impl Queue {
    /// Skips the time in between: the limits that applied then have changed.
    pub(super) fn reaches_now(&self) {
        if let Some(stopped) = &self.stopped {
            stopped.reached.fetch_max(stopped.scope.now(), Ordering::AcqRel);
        }
    }

    /// Drives the queue up to the present time.
    pub(super) fn catch_up(self: &Arc<Queue>) {
        let Some(stopped) = &self.stopped else { return };
        let Some(guard) = self.guard.upgrade() else { return };
        let mut wakes = Wakes::default();
        let driving = stopped.driving.lock();
        let now = stopped.scope.now();
        let until = loop {
            let taken = reply::block_on(step(&guard, self, By::Caller, &mut wakes), Instant::now() + PATIENCE);
            match taken {
                Some(Step::Again) => {}
                Some(Step::End) if !ends(&guard, self) => {}
                Some(Step::End) | None => break NEVER,
                Some(Step::Sleep(until)) => {
                    let due = self.state.lock().booked.front().map_or(NEVER, |booked| booked.due);
                    let until = until.min(due);
                    if until > now {
                        break until;
                    }
                    stopped.reached.fetch_max(until, Ordering::AcqRel);
                }
            }
        };
        stopped.reached.fetch_max(now, Ordering::AcqRel);
        if stopped.sleeps_until.swap(until, Ordering::AcqRel) != until
            && let Some((_, first)) = self.state.lock().line.first()
        {
            // It sleeps until another time, and drives the queue on.
            first.wakes(&mut wakes);
        }
        drop(driving);
        wakes.wake();
    }
}
