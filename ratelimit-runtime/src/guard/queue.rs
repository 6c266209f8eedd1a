//! Calls of this process that wait for permits of a bucket in a backend: one queue a bucket.
//!
//! The queue owns the bookings in the backend, not the calls. A booking that is due goes to the first call of its cost; so a
//! call that leaves hands its booking on, and what no call can use is given back, the newest first. There are few bookings:
//! one for the first call once it is due within [`AHEAD`], and more only while the last of them is due within [`HORIZON`],
//! so that a fast limit is not held up by round trips. That is all that a process which is killed leaves behind.
//!
//! One driver a queue asks the backend, on the crate's background thread. It asks anew for a first call that has no
//! booking once a [`RENEWAL`], and so learns of what other processes have changed. Calls only wait for it, never for each
//! other: a future that is not polled delays nobody.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::Guard;
use crate::algorithm::record::{Admission, Refusal};
use crate::backend::{Action, Answer, Denied as DeniedAnswer, Outcome, Request};
use crate::clock;
use crate::error::{BackendError, BackendErrorKind};
use crate::fingerprint::Fingerprint;
use crate::limit::Limit;
use crate::process::{self, Owned, PerProcess};
use crate::queue::{Ahead, Limits, Line, Place, Seat, Wakes};
use crate::timer::{self, Alarm};

/// The first call is booked if it is due within this time. All times are in nanoseconds.
const AHEAD: u64 = 1_000_000_000;
/// Further calls are booked as long as the last booking is due within half of this time, and if they are due within it:
/// longer than most round trips, and than a thread takes to wake.
const HORIZON: u64 = 50_000_000;
/// If so many round trips take longer, that is the horizon.
const ROUND_TRIPS: u64 = 4;
/// So often the backend is asked for a first call that has no booking.
const RENEWAL: u64 = 1_000_000_000;
/// The least time between a denial and the next question, whatever a backend says.
const PAUSE: u64 = 5_000_000;
/// Bookings of one queue.
const MOST_BOOKED: usize = 32;
/// Calls behind those with bookings among which one is looked for that a booking is for.
const LOOKED_AT: usize = 64;
/// Buckets for which calls of this process wait.
const MOST_QUEUES: usize = 500_000;
/// A time that never comes.
const NEVER: u64 = u64::MAX;

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

#[derive(Default)]
struct State {
    line: Line<Waiting>,
    /// The first is due first.
    booked: VecDeque<Booked>,
    /// Bookings to be given back, the last one first.
    unused: Vec<Booked>,
    /// What the backend said when it denied last.
    hint: Option<Hint>,
    /// Further calls to ask for at once, ahead of time: twice as many after each time that all were due soon, none after one
    /// that was denied alone, so that a slow limit is asked once for each permit.
    at_once: usize,
    /// What the last answer took.
    round_trip: u64,
    /// There is something to do for the driver.
    is_changed: bool,
    driver: Option<Waker>,
    /// Set for the first booking.
    alarm: Option<(u64, Alarm)>,
}

struct Waiting {
    seat: Arc<Seat<Told>>,
    limits: Arc<dyn Limits>,
    deadline: u64,
}

/// Permits that are booked in the backend, and due at a time by this process's clock.
pub(crate) struct Booked {
    pub(crate) due: u64,
    pub(crate) limit: Limit,
    pub(crate) admission: Admission,
    /// From `due` on.
    pub(crate) reset_after: u64,
    /// By which it was asked for.
    limits: Arc<dyn Limits>,
}

/// A denial, by this process's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denied {
    pub(crate) limit: Limit,
    pub(crate) position: usize,
    pub(crate) remaining: u32,
    /// [`u64::MAX`] if never.
    pub(crate) admitted_at: u64,
}

#[derive(Clone, Copy)]
struct Hint {
    cost: u32,
    denied: Denied,
    asked: u64,
}

/// What a waiting call is told.
pub(crate) enum Told {
    Admitted(Box<Booked>),
    /// It cannot be admitted in time any more.
    Denied(Box<Denied>),
    /// The backend failed to decide.
    Failed,
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

/// What the driver does next.
enum Next {
    GiveBack(Request),
    Ask(Asked),
    Sleep(u64),
    /// Nobody waits, and nothing is booked.
    End,
}

/// Calls of one cost and the same limits that the backend is asked for.
struct Asked {
    places: SmallVec<[Place; 4]>,
    limits: Arc<dyn Limits>,
    cost: u32,
    /// They are booked if they are due within so many nanoseconds.
    ahead: u64,
    request: Request,
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

impl State {
    fn wake_driver(&mut self, wakes: &mut Wakes) {
        self.is_changed = true;
        if let Some(driver) = self.driver.take() {
            wakes.add(driver);
        }
    }

    fn horizon(&self) -> u64 {
        self.round_trip.saturating_mul(ROUND_TRIPS).clamp(HORIZON, AHEAD)
    }

    fn book(&mut self, booked: Booked) {
        let behind = self.booked.partition_point(|earlier| earlier.due <= booked.due);
        self.booked.insert(behind, booked);
    }

    /// Hands out what is due.
    fn settle(&mut self, now: u64, wakes: &mut Wakes) {
        while self.booked.front().is_some_and(|booked| booked.due <= now)
            && let Some(booked) = self.booked.pop_front()
        {
            let cost = booked.admission.permit.cost;
            let mut waiting = self.line.iter().take(LOOKED_AT);
            let first = waiting.find(|(_, waiting)| waiting.cost == cost && waiting.with.deadline >= booked.due);
            match first.map(|(place, _)| *place).and_then(|place| self.line.remove(place)) {
                Some(waiting) => waiting.with.seat.tell(Told::Admitted(Box::new(booked)), wakes),
                None => self.unused.push(booked),
            }
            self.wake_driver(wakes);
        }
    }

    /// When the first call is due at the earliest, as far as is known, and by which limit it is held back.
    fn first_due(&self, cost: u32) -> Option<Denied> {
        if let Some(Booked { due, limit, admission, .. }) = self.booked.front() {
            return Some(Denied { limit: *limit, position: admission.limit, remaining: 0, admitted_at: *due });
        }
        self.hint.filter(|hint| hint.cost <= cost).map(|hint| hint.denied)
    }

    /// Denies the first calls as long as they cannot be admitted in time any more.
    fn refuse_late(&mut self, now: u64, wakes: &mut Wakes) {
        while let Some((place, first)) = self.line.first() {
            let (deadline, known) = (first.with.deadline, self.first_due(first.cost));
            if deadline > now && known.is_none_or(|known| known.admitted_at <= deadline) {
                return;
            }
            let denied = known.unwrap_or_else(|| soon(&*first.with.limits, now));
            if let Some(first) = self.line.remove(place) {
                first.with.seat.tell(Told::Denied(Box::new(denied)), wakes);
            }
        }
    }
}

/// A denial of which nothing is known.
fn soon(limits: &dyn Limits, now: u64) -> Denied {
    let mut limit = None;
    limits.with(&mut |rules, _| limit = rules.first().map(|rule| rule.limit));
    let limit = limit.unwrap_or(Limit::per_second(1));
    Denied { limit, position: 0, remaining: 0, admitted_at: now.saturating_add(1_000_000) }
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
        let booked = state.booked.iter().map(|booked| u64::from(booked.admission.permit.cost)).sum();
        let calls = calls.saturating_sub(state.booked.len() as u64);
        Some(Ahead { calls, permits: permits.saturating_sub(booked), cost })
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

    fn next(self: &Arc<Queue>, now: u64, wakes: &mut Wakes) -> Next {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.settle(now, wakes);
        self.arm(state);
        state.refuse_late(now, wakes);
        state.is_changed = false;
        // What is booked is for the first of its cost.
        let mut free: SmallVec<[(usize, u32); MOST_BOOKED]> =
            state.booked.iter().map(|booked| booked.admission.permit.cost).enumerate().collect();
        let is_head = free.is_empty();
        let room = MOST_BOOKED.saturating_sub(free.len()).min(state.at_once.max(usize::from(is_head)));
        let mut asks: SmallVec<[Place; 4]> = SmallVec::new();
        let mut first: Option<(u32, &Arc<dyn Limits>)> = None;
        for (place, waiting) in state.line.iter().take(free.len() + LOOKED_AT) {
            if let Some(at) = free.iter().position(|(_, cost)| *cost == waiting.cost) {
                free.remove(at);
                continue;
            }
            let (cost, limits) = *first.get_or_insert((waiting.cost, &waiting.with.limits));
            let is_alike = cost == waiting.cost && Arc::ptr_eq(limits, &waiting.with.limits);
            if is_alike && asks.len() < room {
                asks.push(*place);
            } else if free.is_empty() {
                break;
            }
        }
        if let Some((at, _)) = free.last()
            && let Some(booked) = state.booked.remove(*at)
        {
            state.unused.push(booked);
        }
        if let Some(Booked { admission, limits, .. }) = state.unused.pop() {
            self.arm(state);
            return Next::GiveBack(self.request(&*limits, Action::GiveBack(admission.permit)));
        }
        let Some((cost, limits)) = first else {
            return if state.line.is_empty() && state.booked.is_empty() { Next::End } else { Next::Sleep(NEVER) };
        };
        if asks.is_empty() {
            return Next::Sleep(NEVER);
        }
        let hint = state.hint.filter(|hint| hint.cost == cost);
        let (ahead, from) = match state.booked.back() {
            None if asks.len() == 1 => (AHEAD, 0),
            None => (state.horizon(), 0),
            Some(last) => (state.horizon(), last.due.saturating_sub(state.horizon() / 2)),
        };
        // Half of the time that it may lie ahead: of many processes that wait for a permit, most find one when they ask.
        let again = hint.map_or(0, |Hint { denied, asked, .. }| {
            let due = denied.admitted_at.saturating_sub(ahead / 2);
            due.clamp(asked.saturating_add(PAUSE), asked.saturating_add(RENEWAL))
        });
        let at = from.max(again);
        if now < at {
            return Next::Sleep(at);
        }
        let limits = Arc::clone(limits);
        let request = self.request(&*limits, Action::Take { cost, max_wait: Duration::from_nanos(ahead) });
        Next::Ask(Asked { places: asks, limits, cost, ahead, request })
    }

    /// What the backend has answered to one question for each of the places.
    fn answered(self: &Arc<Queue>, asked: &Asked, sent: u64, answers: Vec<Result<Answer, BackendError>>) {
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        let received = clock::clock().now().latest;
        let (mut are_admitted, mut last_due) = (true, 0);
        for (place, answer) in asked.places.iter().zip(answers) {
            let told = match answer {
                Ok(Answer { now, outcome: Outcome::Admitted(admitted) }) => {
                    let Admission { permit, limit, fresh_at, .. } = &admitted.admission;
                    let booked = Booked {
                        due: received.saturating_add(permit.at.saturating_sub(now.as_nanos())),
                        limit: limit_at(&asked.request, *limit),
                        reset_after: fresh_at.saturating_sub(permit.at),
                        admission: admitted.admission,
                        limits: Arc::clone(&asked.limits),
                    };
                    last_due = last_due.max(booked.due);
                    state.book(booked);
                    state.hint = None;
                    continue;
                }
                Ok(Answer { now, outcome: Outcome::Denied(denied) }) => {
                    are_admitted = false;
                    let denied = Denied::of(&denied.refusal, now.as_nanos(), received, &asked.request);
                    if denied.admitted_at < NEVER {
                        state.hint = Some(Hint { cost: asked.cost, denied, asked: sent });
                        continue;
                    }
                    Told::Denied(Box::new(denied))
                }
                Ok(Answer { outcome: Outcome::Done, .. }) | Err(_) => {
                    are_admitted = false;
                    Told::Failed
                }
            };
            if let Some(waiting) = state.line.remove(*place) {
                waiting.with.seat.tell(told, &mut wakes);
            }
        }
        state.round_trip = received.saturating_sub(sent);
        state.at_once = match state.at_once {
            _ if !are_admitted => usize::from(last_due > 0),
            at_once if last_due > received.saturating_add(state.horizon()) => at_once.min(1),
            at_once => (2 * at_once).clamp(1, MOST_BOOKED),
        };
        drop(state);
        wakes.wake();
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
        self.settle(clock::now());
    }
}

impl Denied {
    pub(crate) fn of(refusal: &Refusal, now: u64, received: u64, request: &Request) -> Denied {
        Denied {
            limit: limit_at(request, refusal.limit),
            position: refusal.limit,
            remaining: refusal.remaining,
            admitted_at: refusal.admitted_at.map_or(NEVER, |at| received.saturating_add(at.saturating_sub(now))),
        }
    }
}

/// A store of somebody's own may name a limit that is none.
fn limit_at(request: &Request, position: usize) -> Limit {
    request.limits.get(position).or(request.limits.first()).copied().unwrap_or(Limit::per_second(1))
}

/// A time by the standard library's clock; `None` if it never comes.
fn instant(time: u64) -> Option<Instant> {
    if time == NEVER {
        return None;
    }
    Instant::now().checked_add(Duration::from_nanos(time.saturating_sub(clock::now())))
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

/// The driver of a queue. If it ends before its time, the calls that wait are told.
struct Driver {
    guard: Arc<Guard>,
    queue: Arc<Queue>,
}

impl Driver {
    async fn run(self) {
        loop {
            let mut wakes = Wakes::default();
            let next = self.queue.next(clock::now(), &mut wakes);
            wakes.wake();
            match next {
                Next::GiveBack(request) => {
                    // What cannot be given back stays taken: the limit is kept.
                    let _ = decide(&self.guard, request).await;
                }
                Next::Ask(asked) => {
                    let sent = clock::now();
                    let ask = |_| ask(&self.guard, asked.request.clone(), asked.cost, asked.ahead);
                    let answers = all(asked.places.iter().map(ask).collect()).await;
                    self.queue.answered(&asked, sent, answers);
                }
                Next::Sleep(until) => self.queue.pause(until).await,
                Next::End if self.ends() => return,
                Next::End => {}
            }
        }
    }

    /// Removes the queue, unless a call has joined it meanwhile.
    fn ends(&self) -> bool {
        let map = self.guard.queues.map();
        let mut queues = map.lock();
        let state = self.queue.state.lock();
        if !state.line.is_empty() || !state.booked.is_empty() || !state.unused.is_empty() {
            return false;
        }
        // Once it is removed there may be another one.
        if queues.get(&self.queue.bucket).is_some_and(|queue| Arc::ptr_eq(queue, &self.queue)) {
            queues.remove(&self.queue.bucket);
            self.guard.queues.len.fetch_sub(1, Ordering::Release);
        }
        true
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        loop {
            let mut wakes = Wakes::default();
            let mut state = self.queue.state.lock();
            while let Some((place, _)) = state.line.first()
                && let Some(first) = state.line.remove(place)
            {
                first.with.seat.tell(Told::Failed, &mut wakes);
            }
            state.booked.clear();
            state.unused.clear();
            state.alarm = None;
            drop(state);
            wakes.wake();
            if self.ends() {
                return;
            }
        }
    }
}

/// Starts the driver of a new queue.
#[cfg(any(feature = "tokio", feature = "redis"))]
fn start(guard: &Arc<Guard>, queue: &Arc<Queue>) -> bool {
    let Ok(background) = crate::background::handle() else { return false };
    let (guard, queue) = (Arc::clone(guard), Arc::clone(queue));
    background.spawn(async move { Driver { guard, queue }.run().await });
    true
}

/// On a thread of its own: without a runtime only threads wait, one each.
#[cfg(not(any(feature = "tokio", feature = "redis")))]
fn start(guard: &Arc<Guard>, queue: &Arc<Queue>) -> bool {
    let (guard, queue) = (Arc::clone(guard), Arc::clone(queue));
    // Made there, because a thread that cannot be started drops what it was given, under the locks that are held here.
    let run = move || {
        let far = Instant::now() + Duration::from_secs(1 << 30);
        crate::reply::block_on(Driver { guard, queue }.run(), far);
    };
    std::thread::Builder::new().name("ratelimit-wait".into()).spawn(run).is_ok()
}

/// Books permits for a call that are due within `ahead`.
async fn ask(guard: &Arc<Guard>, request: Request, cost: u32, ahead: u64) -> Result<Answer, BackendError> {
    if request.backoff.is_none() {
        return decide(guard, request).await;
    }
    // A call that waits commits no offence: it asks before it takes.
    let max_wait = Duration::MAX;
    let Answer { now, outcome } =
        decide(guard, Request { action: Action::Peek { cost, max_wait }, ..request.clone() }).await?;
    match outcome {
        Outcome::Admitted(admitted) if admitted.at().as_nanos().saturating_sub(now.as_nanos()) > ahead => {
            let Admission { permit, limit, .. } = admitted.admission;
            let refusal = Refusal { limit, remaining: 0, admitted_at: Some(permit.at) };
            Ok(Answer { now, outcome: Outcome::Denied(DeniedAnswer { refusal }) })
        }
        Outcome::Admitted(_) => decide(guard, Request { action: Action::Take { cost, max_wait }, ..request }).await,
        outcome => Ok(Answer { now, outcome }),
    }
}

#[cfg(any(feature = "tokio", feature = "redis"))]
async fn decide(guard: &Arc<Guard>, request: Request) -> Result<Answer, BackendError> {
    if !guard.may_block {
        return guard.decide_async(&request).await;
    }
    let guard = Arc::clone(guard);
    let decided = tokio::task::spawn_blocking(move || guard.decide(&request)).await;
    decided.unwrap_or_else(|_| Err(BackendError::new(BackendErrorKind::Refused, "the backend panicked")))
}

#[cfg(not(any(feature = "tokio", feature = "redis")))]
#[expect(clippy::unused_async, reason = "stands for the one that awaits")]
async fn decide(guard: &Arc<Guard>, request: Request) -> Result<Answer, BackendError> {
    guard.decide(&request)
}

/// What the futures resolve to, all of which go on at the same time.
async fn all<F: Future>(futures: SmallVec<[F; 1]>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut is_ready = true;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(ready) => *output = Some(ready),
                    Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
