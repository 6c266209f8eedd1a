//! Waiting calls of this process, before a backend: one queue per bucket.
//!
//! The queue owns the bookings in the backend; the calls do not. A due booking goes to the first
//! call of its cost, so a call that leaves hands its booking on. Bookings that no call can use are
//! given back, newest first. If another process has booked behind one, it is kept until it is due,
//! for a call that comes meanwhile, and given back then.
//!
//! Bookings are few. The first call is booked once it is due within [`AHEAD`](state::AHEAD). Others
//! are booked only while the last booking is due within [`HORIZON`](state::HORIZON), so that round
//! trips do not hold up a fast limit. A killed process leaves nothing else behind.
//!
//! Each queue has one driver, which asks the backend on the crate's background thread. Once per
//! [`RENEWAL`](state::RENEWAL) it asks again for a first call without a booking, and so learns what
//! other processes have changed. Calls wait for the driver, never for each other: a future that is
//! not polled delays no other call. By a test's clock there is no thread: each call that looks
//! drives the queue up to the present time (`by_test_clock.rs`).
//!
//! If the backend fails, the queue enters its calls in the stand-in's queue, in order
//! (`stand_in.rs`).

mod by_test_clock;
mod driver;
#[cfg(all(test, loom_model))]
mod model;
mod stand_in;
mod state;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::Guard;
use crate::backend::{Action, Request, Timestamp};
use crate::decision::Address;
use crate::fingerprint::Fingerprint;
use crate::queue::{Ahead, Limits, Place, Wakes};
use crate::rt::clock::{self, Now};
use crate::rt::process::{self, Owned, PerProcess};
use crate::rt::sync::{AtomicUsize, Mutex, Ordering};
use crate::rt::timer::{self, Alarm};
use crate::scope::Scope;
use by_test_clock::Stopped;
use driver::start;
use state::{Hint, How, RENEWAL, Seat, State, soon};

pub(crate) use stand_in::{HandedOver, StandIn};
pub(crate) use state::{Booked, Denied, NEVER, Notice};

type ByBucket = Mutex<HashMap<Arc<str>, Arc<Queue>>>;

/// The queues of one backend, by bucket.
pub(crate) struct Queues {
    by_bucket: PerProcess<ByBucket>,
    /// Their number. Read first, because few buckets have a queue.
    len: AtomicUsize,
    /// The bound on their number.
    max: usize,
}

/// The queue of one bucket; see the module.
pub(crate) struct Queue {
    bucket: Arc<str>,
    fingerprint: Option<Fingerprint>,
    process: u32,
    /// The backend's guard, which holds the queue while calls wait.
    guard: Weak<Guard>,
    state: Mutex<State>,
    /// By a test's clock.
    stopped: Option<Stopped>,
}

/// The state of a waiting call.
pub(crate) enum Turn {
    Notified(Notice),
    /// The process was forked.
    Lost,
    /// By a test's clock, it must look again at `until`. Otherwise it is woken.
    Waiting {
        until: u64,
    },
    /// The call still waits, and its deadline has passed.
    Late,
}

/// The calls ahead of one that have no bookings.
#[derive(Clone, Copy, Default)]
pub(crate) struct Unbooked {
    pub(crate) ahead: Ahead,
    /// [`Queues::promised`] at that time.
    pub(crate) promised: u64,
}

/// A call that joins a queue.
pub(crate) struct Joining {
    pub(crate) cost: u32,
    pub(crate) limits: Arc<dyn Limits>,
    pub(crate) rank: u64,
    pub(crate) arrived: u64,
    pub(crate) deadline: u64,
    /// The most calls that may wait.
    pub(crate) queue: usize,
    /// The backend's denial of the call and the time of that request, if there was one.
    pub(crate) denied: Option<(Denied, u64)>,
    /// The bucket in memory, for when the backend fails.
    pub(crate) fallback: Address,
    /// `None` if the limiter's policy is another one.
    pub(crate) stand_in: Option<StandIn>,
    pub(crate) scope: Option<Scope>,
}

/// Why a call cannot join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unqueued {
    /// The queue is full.
    Full,
    /// No thread can be started for the driver.
    NoThread,
}

/// A place in a queue. Dropping it gives it up.
pub(crate) struct Waiter {
    queue: Arc<Queue>,
    place: Place,
    seat: Arc<Seat>,
}

impl Queues {
    /// At most `max` queues.
    pub(crate) fn new(max: usize) -> Queues {
        Queues { by_bucket: PerProcess::new(), len: AtomicUsize::new(0), max: max.max(1) }
    }

    fn map(&self) -> Arc<Owned<ByBucket>> {
        self.by_bucket.get(Mutex::default)
    }

    #[inline]
    fn find(&self, bucket: &str) -> Option<Arc<Queue>> {
        if self.len.load(Ordering::Acquire) == 0 { None } else { self.map().lock().get(bucket).map(Arc::clone) }
    }

    /// The calls without bookings that wait for a bucket; `None` if none of a lower rank than this
    /// waits.
    pub(crate) fn ahead(&self, bucket: &str, rank: u64) -> Option<Unbooked> {
        self.find_now(bucket)?.ahead(rank)
    }

    /// The permits that were booked for a bucket since its first call has waited, or are being
    /// booked.
    pub(crate) fn promised(&self, bucket: &str) -> u64 {
        self.find(bucket).map_or(0, |queue| queue.state.lock().promised())
    }

    /// The queue as it is now, also by a test's clock.
    fn find_now(&self, bucket: &str) -> Option<Arc<Queue>> {
        let queue = self.find(bucket)?;
        queue.catch_up();
        Some(queue)
    }

    /// Drives a queue by a test's clock before its bucket is changed.
    pub(crate) fn catch_up(&self, bucket: &str) {
        let _ = self.find_now(bucket);
    }

    /// Permits of a bucket came back or were taken, or it was reset. After a reset it has no
    /// bookings.
    pub(crate) fn changed(&self, bucket: &str, is_reset: bool) {
        if let Some(queue) = self.find(bucket) {
            queue.update(|state, wakes| {
                state.hint = None;
                if is_reset {
                    state.changes += 1;
                    state.booked.clear();
                    state.unused.clear();
                }
                state.wake_driver(wakes);
            });
        }
    }

    /// A bucket's key was blocked or unblocked: bookings are given back, and calls are booked anew.
    pub(crate) fn held(&self, bucket: &str) {
        if let Some(queue) = self.find(bucket) {
            queue.update(|state, wakes| {
                state.hint = None;
                state.changes += 1;
                state.unused.extend(state.booked.drain(..));
                state.wake_driver(wakes);
            });
        }
    }

    /// The limits of the buckets with this name prefix changed or were switched off. Bookings by
    /// the old limits are given back, and all waiting calls look again.
    pub(crate) fn renew(&self, prefix: &str) {
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let all: Vec<Arc<Queue>> =
            self.map().lock().values().filter(|queue| queue.bucket.starts_with(prefix)).map(Arc::clone).collect();
        for queue in all {
            queue.reaches_now();
            queue.update(|state, wakes| {
                let now = queue.now().earliest;
                state.settle(now, wakes);
                state.refuse_impossible(now, wakes);
                state.hint = None;
                state.changes += 1;
                state.unused.extend(state.booked.drain(..));
                state.wake_driver(wakes);
                state.line.iter().for_each(|(_, seat)| seat.wakes(wakes));
            });
        }
    }

    /// Joins the queue.
    pub(crate) fn join(
        guard: &Arc<Guard>,
        bucket: &Arc<str>,
        fingerprint: Option<Fingerprint>,
        joining: Joining,
    ) -> Result<Waiter, Unqueued> {
        guard.queues.catch_up(bucket);
        let map = guard.queues.map();
        let mut queues = map.lock();
        let (queue, is_new) = match queues.get(bucket) {
            Some(queue) => (Arc::clone(queue), false),
            None if queues.len() < guard.queues.max => {
                let state = Mutex::new(State { at_once: 1, ..State::default() });
                let (bucket, process) = (Arc::clone(bucket), process::id());
                let (guard, stopped) = (Arc::downgrade(guard), joining.scope.map(Stopped::new));
                (Arc::new(Queue { bucket, fingerprint, process, guard, state, stopped }), true)
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
        let Joining { cost, limits, rank, arrived, deadline, denied, fallback, stand_in, .. } = joining;
        if state.line.is_empty()
            && let Some((denied, asked)) = denied
        {
            state.hint = Some(Hint { cost, denied, asked, ahead: 0 });
        }
        let how = match state.line.last() {
            Some(last) if last.with.is(&limits, stand_in.as_ref()) => Arc::clone(&last.with),
            _ => Arc::new(How { fallback, limits, stand_in }),
        };
        let seat = Arc::new(Seat::new(arrived, deadline, how));
        let place = state.line.join(rank, cost, Arc::clone(&seat));
        if !queue.is_stopped() {
            let waiting = state.line.len();
            state.deadlines.add(&seat, waiting);
            queue.arm(&mut state);
        }
        let mut wakes = Wakes::default();
        // Behind calls without bookings, it changes nothing for the driver.
        if state.line.len() <= state.booked.len() + 1 || !state.line.is_last(place) {
            state.wake_driver(&mut wakes);
        }
        drop(state);
        wakes.wake();
        queue.catch_up();
        // Cached denials may name a time that is now this call's.
        guard.drop_denials(fingerprint, queue.now());
        Ok(Waiter { queue, place, seat })
    }
}

impl Queue {
    fn request(&self, limits: &dyn Limits, action: Action) -> Request {
        let mut request = Request {
            bucket: Arc::clone(&self.bucket),
            limits: SmallVec::new(),
            backoff: None,
            action,
            test_time: self.test_time(),
            fingerprint: self.fingerprint,
        };
        limits.with(&mut |rules, backoff| {
            request.limits = rules.iter().map(|rule| rule.limit).collect();
            request.backoff = backoff.copied();
        });
        request
    }

    fn ahead(&self, rank: u64) -> Option<Unbooked> {
        let state = self.state.lock();
        state.line.first().filter(|(first, _)| first.rank <= rank)?;
        let Ahead { calls, permits, cost } = state.line.ahead(rank);
        let booked: u64 = state.booked.iter().map(|booked| u64::from(booked.admission.permit.cost)).sum();
        // Counts a request under way as booked: no call is given a time later than its turn.
        let (asked, asked_for) = state.asking;
        let calls = calls.saturating_sub(state.booked.len() as u64 + asked);
        let ahead = Ahead { calls, permits: permits.saturating_sub(booked + asked_for), cost };
        Some(Unbooked { ahead, promised: state.promised() })
    }

    /// The present time, up to which a queue by a test's clock was driven.
    fn now(&self) -> Now {
        if let Some(stopped) = &self.stopped {
            return stopped.reached();
        }
        clock::clock().now()
    }

    fn test_time(&self) -> Option<Timestamp> {
        self.stopped.as_ref().map(|stopped| Timestamp::from_nanos(stopped.reached().earliest))
    }

    /// Whether a test drives the queue.
    fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Until when a queue driven by a test's clock has nothing to do.
    fn woken(&self) -> u64 {
        if let Some(stopped) = &self.stopped {
            return stopped.sleeps_until();
        }
        NEVER
    }

    /// When to ask again for a first call without a booking, because other processes may have
    /// changed its bucket. A test's buckets are its own.
    fn renewed(&self, asked: u64) -> u64 {
        if self.is_stopped() { NEVER } else { asked.saturating_add(RENEWAL) }
    }

    /// Changes the state under the lock, and wakes tasks after it.
    fn update(self: &Arc<Queue>, change: impl FnOnce(&mut State, &mut Wakes)) {
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        change(&mut state, &mut wakes);
        self.arm(&mut state);
        if self.is_stopped()
            && let Some((_, first)) = state.line.first()
        {
            // It drives the queue on.
            first.wakes(&mut wakes);
        }
        drop(state);
        wakes.wake();
    }

    /// Hands out due bookings.
    fn settle(self: &Arc<Queue>, now: u64) {
        if self.is_stopped() {
            return self.catch_up();
        }
        self.update(|state, wakes| state.settle(now, wakes));
    }

    /// Sets the alarm for the first booking or deadline.
    fn arm(self: &Arc<Queue>, state: &mut State) {
        if self.is_stopped() {
            return;
        }
        let due = state.booked.front().map(|booked| booked.due).into_iter().chain(state.deadlines.first()).min();
        if due == state.alarm.as_ref().map(|(set_for, _)| *set_for) {
            return;
        }
        let alarm = due.and_then(|due| Some((due, Alarm::new(instant(due)?, &Waker::from(Arc::clone(self)))?)));
        state.alarm = alarm;
    }

    /// Waits until that time, or until there is something to do.
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

/// Hands out the first booking when it is due, and wakes calls at their deadlines.
impl Wake for Queue {
    fn wake(self: Arc<Queue>) {
        // An alarm that fires too early is set again.
        let fired = self.state.lock().alarm.take();
        drop(fired);
        self.settle(clock::now());
    }
}

/// The time by the standard library's clock; `None` if it never comes.
fn instant(time: u64) -> Option<Instant> {
    if time == NEVER {
        return None;
    }
    // At the end of the clock's uncertainty, so that alarms seldom fire too early.
    let left = time.saturating_sub(clock::now()).saturating_add(clock::MARGIN);
    Instant::now().checked_add(Duration::from_nanos(left))
}

impl Waiter {
    /// Registers `waker` for changes. Returns whether there is one already.
    pub(crate) fn listen(&self, waker: &Waker) -> bool {
        self.is_own() && self.seat.listen(waker)
    }

    /// Checks whether the call's turn has come.
    pub(crate) fn look(&self, now: u64) -> Turn {
        if !self.is_own() {
            return Turn::Lost;
        }
        self.queue.settle(now);
        match self.seat.take_notice() {
            Some(notice) => Turn::Notified(notice),
            None if self.seat.is_late() => Turn::Late,
            None => Turn::Waiting { until: self.queue.woken() },
        }
    }

    /// The test's clock by which the call waits.
    pub(crate) fn scope(&self) -> Option<&Scope> {
        self.queue.stopped.as_ref().map(Stopped::scope)
    }

    /// The outcome of a call that stops waiting.
    pub(crate) fn denied(&self, now: u64) -> Denied {
        let known = self.queue.state.lock().first_due(self.place.cost).filter(|denied| denied.admitted_at > now);
        known.unwrap_or_else(|| soon(&*self.seat.with.limits, now))
    }

    /// Whether the call has overtaken others.
    pub(crate) fn overtakes(&self) -> bool {
        !self.queue.state.lock().line.is_last(self.place)
    }

    /// Whether the call was admitted, denied or failed.
    pub(crate) fn is_notified(&self) -> bool {
        self.seat.is_notified()
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn arrived(&self) -> u64 {
        self.seat.arrived
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.seat.deadline
    }

    pub(crate) fn fallback(&self) -> Address {
        self.seat.with.fallback
    }

    pub(crate) fn guard(&self) -> Option<Arc<Guard>> {
        self.queue.guard.upgrade()
    }

    pub(crate) fn bucket(&self) -> (&Arc<str>, Option<Fingerprint>) {
        (&self.queue.bucket, self.queue.fingerprint)
    }

    /// Whether the call waits in this process, and not in a parent that has forked it.
    fn is_own(&self) -> bool {
        self.queue.process == process::id()
    }

    /// Gives the place up. Permits that the call received meanwhile go to the next call.
    pub(crate) fn leave(&self) {
        if self.seat.is_left() || !self.is_own() {
            return;
        }
        self.seat.forget_waker();
        self.queue.catch_up();
        let now = self.queue.now();
        let mut handed_over = None;
        self.queue.update(|state, wakes| {
            let notice = self.seat.leave();
            let _ = state.line.remove(self.place);
            match notice {
                Some(Notice::Admitted(booked)) => {
                    state.book(*booked);
                    state.settle(now.earliest, wakes);
                }
                Some(Notice::Failed(place)) => handed_over = place,
                Some(Notice::Denied(_)) | None => {}
            }
            if state.line.len() <= state.booked.len() || state.line.ahead(u64::MAX).cost.is_none() {
                state.wake_driver(wakes);
            }
        });
        self.queue.catch_up();
        if let Some(handed_over) = handed_over {
            handed_over.leave(now);
        }
        // Cached denials name times behind this call.
        if let Some(guard) = self.guard() {
            guard.drop_denials(self.queue.fingerprint, now);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.leave();
        if !self.is_own() {
            // The wakers belong to the other process.
            std::mem::forget(Arc::clone(&self.queue));
        }
    }
}
