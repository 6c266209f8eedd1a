//! Calls of this process that wait for permits of a bucket in a backend: one queue a bucket.
//!
//! The queue owns the bookings in the backend, not the calls. A booking that is due goes to the first call of its cost; so a
//! call that leaves hands its booking on, and what no call can use is given back, the newest first. There are few bookings:
//! one for the first call once it is due within [`AHEAD`](state::AHEAD), and more only while the last of them is due within [`HORIZON`](state::HORIZON),
//! so that a fast limit is not held up by round trips. That is all that a process which is killed leaves behind.
//!
//! One driver a queue asks the backend, on the crate's background thread. It asks anew for a first call that has no
//! booking once a [`RENEWAL`](state::RENEWAL), and so learns of what other processes have changed. Calls only wait for it, never for each
//! other: a future that is not polled delays nobody.

mod driver;
mod state;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::Guard;
use crate::backend::{Action, Request};
use crate::clock;
use crate::fingerprint::Fingerprint;
use crate::limit::Limit;
use crate::process::{self, Owned, PerProcess};
use crate::queue::{Ahead, Limits, Place, Seat, Wakes};
use crate::timer::{self, Alarm};
use driver::start;
use state::{Hint, NEVER, State, Waiting, soon};

pub(crate) use state::{Booked, Denied, Told};

/// Buckets for which calls of this process wait.
const MOST_QUEUES: usize = 500_000;

type ByBucket = Mutex<HashMap<Arc<str>, Arc<Queue>, RandomState>>;

/// The queues of one backend, by bucket.
pub(crate) struct Queues {
    by_bucket: PerProcess<ByBucket>,
    /// How many there are. Read first, because few buckets have one.
    len: AtomicUsize,
}

/// See the module.
pub(crate) struct Queue {
    bucket: Arc<str>,
    fingerprint: Option<Fingerprint>,
    process: u32,
    state: Mutex<State>,
}

/// What a waiting call finds.
pub(crate) enum Turn {
    Told(Told),
    /// The process was forked.
    Lost,
    Waiting,
}

/// A call that is to wait.
pub(crate) struct Joining {
    pub(crate) cost: u32,
    pub(crate) limits: Arc<dyn Limits>,
    pub(crate) rank: u64,
    pub(crate) deadline: u64,
    /// The most calls that may wait.
    pub(crate) queue: usize,
    /// What the backend has said, if it was asked for the call, and when.
    pub(crate) denied: Option<(Denied, u64)>,
}

/// Why a call cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unqueued {
    /// So many wait already.
    Full,
    /// None can be started that asks the backend.
    NoThread,
}

/// A place among those that wait. Dropped, it is given up.
pub(crate) struct Waiter {
    guard: Arc<Guard>,
    queue: Arc<Queue>,
    place: Place,
    seat: Arc<Seat<Told>>,
    is_left: bool,
}

impl Queues {
    pub(crate) const fn new() -> Queues {
        Queues { by_bucket: PerProcess::new(), len: AtomicUsize::new(0) }
    }

    fn map(&self) -> Arc<Owned<ByBucket>> {
        self.by_bucket.get(Mutex::default)
    }

    #[inline]
    fn find(&self, bucket: &str) -> Option<Arc<Queue>> {
        if self.len.load(Ordering::Acquire) == 0 { None } else { self.map().lock().get(bucket).map(Arc::clone) }
    }

    /// The calls that wait for a bucket without a booking, if any call waits for it.
    pub(crate) fn ahead(&self, bucket: &str) -> Option<Ahead> {
        self.find(bucket)?.ahead()
    }

    /// Permits have come back to a bucket, or it was reset: then no booking is left there.
    pub(crate) fn changed(&self, bucket: &str, is_reset: bool) {
        if let Some(queue) = self.find(bucket) {
            queue.change(|state| {
                state.hint = None;
                if is_reset {
                    state.changes += 1;
                    state.booked.clear();
                    state.unused.clear();
                }
            });
        }
    }

    /// Limits have changed, or do not apply any more, of the buckets whose names begin so: bookings by the old ones are
    /// given back, and everybody who waits looks anew.
    pub(crate) fn renew(&self, prefix: &str) {
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let all: Vec<Arc<Queue>> =
            self.map().lock().values().filter(|queue| queue.bucket.starts_with(prefix)).map(Arc::clone).collect();
        for queue in all {
            let mut wakes = Wakes::default();
            queue.change(|state| {
                state.hint = None;
                state.changes += 1;
                state.unused.extend(state.booked.drain(..));
                state.line.iter().for_each(|(_, waiting)| waiting.with.seat.wakes(&mut wakes));
            });
            wakes.wake();
        }
    }

    /// Takes a place.
    pub(crate) fn join(
        guard: &Arc<Guard>,
        bucket: &Arc<str>,
        fingerprint: Option<Fingerprint>,
        joining: Joining,
    ) -> Result<Waiter, Unqueued> {
        let map = guard.queues.map();
        let mut queues = map.lock();
        let (queue, is_new) = match queues.get(bucket) {
            Some(queue) => (Arc::clone(queue), false),
            None if queues.len() < MOST_QUEUES => {
                let state = Mutex::new(State { at_once: 1, ..State::default() });
                let (bucket, process) = (Arc::clone(bucket), process::id());
                (Arc::new(Queue { bucket, fingerprint, process, state }), true)
            }
            None => return Err(Unqueued::Full),
        };
        let mut state = queue.state.lock();
        if state.line.len() >= joining.queue {
            return Err(Unqueued::Full);
        }
        if is_new {
            if !start(guard, &queue) {
                return Err(Unqueued::NoThread);
            }
            queues.insert(Arc::clone(bucket), Arc::clone(&queue));
            guard.queues.len.fetch_add(1, Ordering::Release);
        }
        drop(queues);
        let Joining { cost, limits, rank, deadline, denied, .. } = joining;
        if state.line.is_empty()
            && let Some((denied, asked)) = denied
        {
            state.hint = Some(Hint { cost, denied, asked });
        }
        let seat = Arc::new(Seat::new());
        let place = state.line.join(rank, cost, Waiting { seat: Arc::clone(&seat), limits, deadline });
        let mut wakes = Wakes::default();
        // Behind others that are not booked it changes nothing.
        if state.line.len() <= state.booked.len() + 1 || !state.line.is_last(place) {
            state.wake_driver(&mut wakes);
        }
        drop(state);
        wakes.wake();
        Ok(Waiter { guard: Arc::clone(guard), queue, place, seat, is_left: false })
    }
}

impl Queue {
    fn request(&self, limits: &dyn Limits, action: Action) -> Request {
        let mut request = Request {
            bucket: Arc::clone(&self.bucket),
            limits: SmallVec::new(),
            backoff: None,
            action,
            test_time: None,
            fingerprint: self.fingerprint,
            by_guard: false,
        };
        limits.with(&mut |rules, backoff| {
            request.limits = rules.iter().map(|rule| rule.limit).collect();
            request.backoff = backoff.copied();
        });
        request
    }

    fn ahead(&self) -> Option<Ahead> {
        let state = self.state.lock();
        let Ahead { calls, permits, cost } = state.line.ahead();
        if calls == 0 {
            return None;
        }
        let booked: u64 = state.booked.iter().map(|booked| u64::from(booked.admission.permit.cost)).sum();
        // What is being asked for may be booked by now: so nobody is told a later time than its turn's.
        let (asked, asked_for) = state.asking;
        let calls = calls.saturating_sub(state.booked.len() as u64 + asked);
        Some(Ahead { calls, permits: permits.saturating_sub(booked + asked_for), cost })
    }

    /// Changes the state, and has the driver look at it.
    fn change(self: &Arc<Queue>, change: impl FnOnce(&mut State)) {
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        change(&mut state);
        state.wake_driver(&mut wakes);
        self.arm(&mut state);
        drop(state);
        wakes.wake();
    }

    /// Hands out what is due.
    fn settle(self: &Arc<Queue>, now: u64) {
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        state.settle(now, &mut wakes);
        self.arm(&mut state);
        drop(state);
        wakes.wake();
    }

    /// Sets the alarm for the first booking.
    fn arm(self: &Arc<Queue>, state: &mut State) {
        let due = state.booked.front().map(|booked| booked.due);
        if due == state.alarm.as_ref().map(|(set_for, _)| *set_for) {
            return;
        }
        let alarm = due.and_then(|due| Some((due, Alarm::new(instant(due)?, &Waker::from(Arc::clone(self)))?)));
        state.alarm = alarm;
    }

    /// Waits until then, or until there is something to do.
    async fn pause(&self, until: u64) {
        let mut alarm = None;
        poll_fn(|context: &mut Context<'_>| {
            let mut state = self.state.lock();
            if std::mem::take(&mut state.is_changed) || clock::now() >= until {
                return Poll::Ready(());
            }
            state.driver = Some(context.waker().clone());
            drop(state);
            if let Some(time) = instant(until) {
                timer::set(&mut alarm, time, context);
            }
            Poll::Pending
        })
        .await;
    }
}

/// Hands out the first booking when it is due.
impl Wake for Queue {
    fn wake(self: Arc<Queue>) {
        // One that fires too early is set again.
        let fired = self.state.lock().alarm.take();
        drop(fired);
        self.settle(clock::now());
    }
}

/// A time by the standard library's clock; `None` if it never comes.
fn instant(time: u64) -> Option<Instant> {
    if time == NEVER {
        return None;
    }
    // By the end of the clock's uncertainty, so that an alarm seldom fires too early.
    let left = time.saturating_sub(clock::now()).saturating_add(clock::MARGIN);
    Instant::now().checked_add(Duration::from_nanos(left))
}

impl Waiter {
    /// Looks whether its turn has come; if not, `waker` is woken when there is something to look at.
    pub(crate) fn look(&mut self, now: u64, waker: &Waker) -> Turn {
        if !self.is_own() {
            self.is_left = true;
            return Turn::Lost;
        }
        // Before the look, so that nothing is missed in between.
        self.seat.listen(waker);
        self.queue.settle(now);
        match self.seat.told() {
            Some(told) => {
                self.is_left = true;
                Turn::Told(told)
            }
            None => Turn::Waiting,
        }
    }

    /// What the call is told that does not wait any longer.
    pub(crate) fn denied(&self, now: u64) -> Denied {
        let state = self.queue.state.lock();
        let cost = state.line.get(self.place).map_or(0, |waiting| waiting.cost);
        let known = state.first_due(cost).filter(|denied| denied.admitted_at > now);
        known.or_else(|| state.line.get(self.place).map(|waiting| soon(&*waiting.with.limits, now))).unwrap_or(Denied {
            limit: Limit::per_second(1),
            position: 0,
            remaining: 0,
            admitted_at: now,
        })
    }

    /// Whether its turn has come, or never will.
    pub(crate) fn is_told(&self) -> bool {
        self.seat.is_told()
    }

    pub(crate) fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    pub(crate) fn bucket(&self) -> (&Arc<str>, Option<Fingerprint>) {
        (&self.queue.bucket, self.queue.fingerprint)
    }

    /// Whether it waits in this process, and not in the one that this was forked from.
    fn is_own(&self) -> bool {
        self.queue.process == process::id()
    }

    /// Gives the place up. Permits that the call was told of meanwhile are the next one's.
    pub(crate) fn leave(&mut self) {
        if std::mem::replace(&mut self.is_left, true) {
            return;
        }
        if !self.is_own() {
            return;
        }
        self.seat.forget_waker();
        let mut wakes = Wakes::default();
        let mut state = self.queue.state.lock();
        let told = self.seat.leave();
        let _ = state.line.remove(self.place);
        if let Some(Told::Admitted(booked)) = told {
            state.book(*booked);
            state.settle(clock::now(), &mut wakes);
        }
        if state.line.len() <= state.booked.len() || state.line.ahead().cost.is_none() {
            state.wake_driver(&mut wakes);
        }
        self.queue.arm(&mut state);
        drop(state);
        wakes.wake();
        // Others were told that their turn comes behind it.
        if let (Some(denials), Some(bucket)) = (self.guard.denials(), self.queue.fingerprint) {
            denials.forget(bucket);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.leave();
        if !self.is_own() {
            // What wakes the others is the other process's.
            std::mem::forget(Arc::clone(&self.queue));
        }
    }
}
