//! Group commit: concurrent decisions are sent as one.
//!
//! While few calls are under way, each is sent alone and at once, because merging would only add
//! work. Beyond that, calls take seats. A driver, which is a task of the callers' runtime, sends
//! all seated calls as one call of the script. The script decides them first come first served,
//! each as if it had come alone. Equal calls on one bucket are sent as a run.
//!
//! Two such batches are under way at a time: the server decides on one while this process decodes
//! the other. Only long round trips allow more. Meanwhile the next calls take their seats. A driver
//! ends when no seats are taken.
//!
//! Only calls on one bucket are merged in two cases: in a cluster, because a script must stay
//! within a slot, and with leases, because all calls on a bucket should wait for the lease.
//!
//! Callers wait for a driver only, never for each other. A future that is dropped or not polled
//! delays no other. A seat abandoned before it was sent is not sent. Permits for a seat abandoned
//! later are given back. Each batch has the deadline of its first call, the earliest, so that every
//! call ends by its own.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::BuildHasher;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::codec::{self, Run};
use super::later::{Along, With};
use super::leases::Ask;
use super::node::Mode;
use super::script::Question;
use super::{Client, key};
use crate::backend::{Action, Answer, Request};
use crate::background;
use crate::error::{BackendError, BackendErrorKind};

const SHARDS: usize = 16;
/// A batch should take at most this fraction of the timeout (1/5): two are under way, and each may
/// wait for the other.
const SHARE_OF_TIMEOUT: u32 = 5;

/// How calls are merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merging {
    /// Calls that are sent one by one before merging pays.
    alone: u32,
    /// Calls in one batch.
    seats: usize,
    /// Batches under way at the same time.
    drivers: u32,
    /// The next batch is sent this long after the last one, however many are under way. Bounds the
    /// delay when the server is far away.
    pause: Duration,
    /// Merges only calls on one bucket.
    by_bucket: bool,
}

impl Merging {
    /// For buckets on which one script may decide.
    pub(super) const ALL: Merging =
        Merging { alone: 8, seats: 128, drivers: 2, pause: Duration::from_micros(500), by_bucket: false };
    /// For buckets that may be on several servers.
    pub(super) const BY_BUCKET: Merging = Merging { by_bucket: true, ..Merging::ALL };
    /// For leases: one call brings the permits of all that come meanwhile.
    pub(super) const LEASES: Merging =
        Merging { alone: 1, seats: 1_024, drivers: 1, pause: Duration::MAX, by_bucket: true };
}

/// Calls under way, by runtime and, if merged so, by bucket.
pub(super) struct Coalescing {
    hasher: RandomState,
    shards: [Mutex<HashMap<u64, Lane, RandomState>>; SHARDS],
    merging: Merging,
    /// The current size of a batch: halved after a slow batch, a few more after a fast one.
    seats: AtomicUsize,
}

/// Calls that may be sent together.
#[derive(Default)]
struct Lane {
    alone: u32,
    drivers: u32,
    /// The latest deadline when a driver last started or took a batch. Later deadlines measure the
    /// time since then.
    last: Option<Instant>,
    /// Batches that no driver has taken. All but the last are full.
    batches: VecDeque<Batch>,
}

struct Batch {
    deadline: Instant,
    seats: Vec<Arc<Seat>>,
}

/// How a call is made.
pub(super) enum Entry<'a> {
    /// Alone, under way until this is dropped.
    Alone(Alone),
    /// With others.
    Seated(Seated<'a>),
}

impl Coalescing {
    pub(super) fn new(merging: Merging) -> Coalescing {
        Coalescing {
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            merging,
            seats: AtomicUsize::new(merging.seats),
        }
    }

    /// Decides whether a call goes alone or takes a seat.
    pub(super) fn enter<'a>(self: &Arc<Self>, backend: &'a Client, request: &Request, deadline: Instant) -> Entry<'a> {
        let runtime = Handle::try_current().ok();
        let number = self.number(request, runtime.as_ref());
        let mut lanes = self.shard(number).lock();
        let lane = lanes.entry(number).or_default();
        if lane.drivers == 0 && lane.alone < self.merging.alone || !self.has_room(lane, request) {
            lane.alone += 1;
            return Entry::Alone(Alone { coalescing: Arc::clone(self), lane: number });
        }
        let seat = Arc::new(Seat { request: request.clone(), state: Mutex::new(State::Waiting(None)) });
        let is_first = lane.seat(Arc::clone(&seat), deadline, self.seats.load(Ordering::Relaxed));
        let starts = is_first && lane.drivers < self.merging.drivers || lane.has_paused(deadline, self.merging.pause);
        if starts {
            lane.drivers += 1;
            lane.last = Some(deadline);
        }
        drop(lanes);
        if starts {
            self.start(number, backend, runtime);
        }
        Entry::Seated(Seated { seat, backend })
    }

    /// Adapts the size of the next batches to the time of the last. Against a slow server they
    /// shrink, so that none runs into its deadline.
    fn took(&self, calls: usize, time: Duration, timeout: Duration) {
        let seats = self.seats.load(Ordering::Relaxed);
        let next = if time > timeout / SHARE_OF_TIMEOUT {
            (calls.min(seats) / 2).max(1)
        } else {
            (seats + 4).min(self.merging.seats)
        };
        if next != seats {
            self.seats.store(next, Ordering::Relaxed);
        }
    }

    fn number(&self, request: &Request, runtime: Option<&Handle>) -> u64 {
        let bucket = self.merging.by_bucket.then(|| request.bucket());
        self.hasher.hash_one((bucket, runtime.map(Handle::id)))
    }

    fn shard(&self, number: u64) -> &Mutex<HashMap<u64, Lane, RandomState>> {
        #[expect(clippy::cast_possible_truncation, reason = "a few bits of it are enough")]
        let shard = number as usize % SHARDS;
        &self.shards[shard]
    }

    /// False for a bucket whose lane has the same hash by chance.
    fn has_room(&self, lane: &Lane, request: &Request) -> bool {
        let other = lane.batches.back().and_then(|batch| batch.seats.first());
        !self.merging.by_bucket || other.is_none_or(|seat| seat.request.bucket == request.bucket)
    }

    /// Starts a driver of a lane.
    fn start(self: &Arc<Self>, lane: u64, backend: &Client, runtime: Option<Handle>) {
        let driver =
            Driver { coalescing: Arc::clone(self), backend: backend.clone(), lane, batch: None, is_done: false };
        // Callers without a runtime use the background's. Without that, the driver is dropped,
        // which ends the calls.
        if let Some(runtime) = runtime.or_else(|| background::handle().ok()) {
            runtime.spawn(driver.run());
        }
    }
}

impl Lane {
    /// Seats a call, and returns whether it is the first of its batch.
    fn seat(&mut self, seat: Arc<Seat>, deadline: Instant, most: usize) -> bool {
        if let Some(batch) = self.batches.back_mut()
            && batch.seats.len() < most
        {
            batch.seats.push(seat);
            return false;
        }
        let mut seats = Vec::with_capacity(64);
        seats.push(seat);
        self.batches.push_back(Batch { deadline, seats });
        true
    }

    fn has_paused(&self, deadline: Instant, pause: Duration) -> bool {
        self.last.and_then(|last| last.checked_add(pause)).is_some_and(|until| deadline > until)
    }

    fn is_idle(&self) -> bool {
        self.alone == 0 && self.drivers == 0
    }
}

/// A call that is sent on its own.
pub(super) struct Alone {
    coalescing: Arc<Coalescing>,
    lane: u64,
}

impl Drop for Alone {
    fn drop(&mut self) {
        let mut lanes = self.coalescing.shard(self.lane).lock();
        if let Some(lane) = lanes.get_mut(&self.lane) {
            lane.alone -= 1;
            if lane.is_idle() {
                lanes.remove(&self.lane);
            }
        }
    }
}

/// One call of a batch and the place for its answer.
struct Seat {
    request: Request,
    state: Mutex<State>,
}

enum State {
    Waiting(Option<Waker>),
    Answered(Result<Answer, BackendError>),
    /// The answer was taken, or the call was abandoned.
    Left,
}

impl Seat {
    fn is_left(&self) -> bool {
        matches!(&*self.state.lock(), State::Left)
    }

    /// Delivers the answer, or returns it if the call was abandoned.
    fn answer(&self, answer: Result<Answer, BackendError>) -> Option<Result<Answer, BackendError>> {
        let mut state = self.state.lock();
        let State::Waiting(waker) = &mut *state else { return Some(answer) };
        let waker = waker.take();
        *state = State::Answered(answer);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }
}

/// A call that waits for the answer to its batch.
pub(super) struct Seated<'a> {
    seat: Arc<Seat>,
    backend: &'a Client,
}

impl Future for Seated<'_> {
    type Output = Result<Answer, BackendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.seat.state.lock();
        match &mut *state {
            State::Waiting(Some(waker)) => waker.clone_from(context.waker()),
            State::Waiting(waker) => *waker = Some(context.waker().clone()),
            State::Answered(_) | State::Left => {
                if let State::Answered(answer) = mem::replace(&mut *state, State::Left) {
                    return Poll::Ready(answer);
                }
            }
        }
        Poll::Pending
    }
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        let state = mem::replace(&mut *self.seat.state.lock(), State::Left);
        if let State::Answered(Ok(answer)) = state {
            self.backend.give_back(&self.seat.request, answer);
        }
    }
}

/// Calls of a batch that are one question to the script.
struct Group<'a> {
    seats: &'a [Arc<Seat>],
    run: Run,
    ask: Option<Ask>,
}

impl<'a> Group<'a> {
    fn new(seats: &'a [Arc<Seat>], backend: &Client) -> Group<'a> {
        let calls = u32::try_from(seats.len()).unwrap_or(u32::MAX);
        let run = Run { calls, ..Run::of(&seats[0].request) };
        Group { seats, run, ask: backend.ask(&seats[0].request) }
    }

    fn question(&self, backend: &Client) -> Question<'a> {
        let request = &self.seats[0].request;
        let bytes = match &self.ask {
            Some(ask) => ask.encode(request, self.run),
            None if self.run.calls > 1 => codec::encode_run(request, self.run, None),
            None => backend.encode(request, None),
        };
        (key::name(request.bucket()), bytes)
    }

    /// Delivers the decisions to the calls.
    fn settle(self, bytes: Result<Vec<u8>, BackendError>, backend: &Client) {
        let request = &self.seats[0].request;
        if self.run.calls == 1 {
            let answer = bytes.and_then(|bytes| backend.decoded(&bytes, request, self.ask));
            deliver(&self.seats[0], answer, backend);
            return;
        }
        let answers = bytes.and_then(|bytes| match self.ask {
            Some(ask) => ask.settle(&bytes, request, self.run),
            None => Ok(codec::decode_run(&bytes, request, self.run)?.answers),
        });
        match answers {
            Ok(answers) => {
                for (seat, answer) in self.seats.iter().zip(answers) {
                    deliver(seat, Ok(answer), backend);
                }
            }
            Err(error) => fail(self.seats, &error),
        }
    }
}

fn deliver(seat: &Seat, answer: Result<Answer, BackendError>, backend: &Client) {
    if let Some(Ok(undelivered)) = seat.answer(answer) {
        backend.give_back(&seat.request, undelivered);
    }
}

fn fail(seats: &[Arc<Seat>], error: &BackendError) {
    for seat in seats {
        drop(seat.answer(Err(error.clone())));
    }
}

impl Batch {
    /// Sends all calls not yet abandoned, and delivers the decisions.
    ///
    /// Requests that nobody waits for go in front.
    async fn send(&mut self, backend: &Client, coalescing: &Coalescing) {
        self.seats.retain(|seat| !seat.is_left());
        if self.seats.is_empty() {
            return;
        }
        if Instant::now() >= self.deadline {
            // All its time has passed in the queue.
            fail(&self.seats, &backend.late());
            return;
        }
        // Stable: calls on one bucket keep their order.
        if self.seats.len() > 1 {
            self.seats.sort_by_cached_key(|seat| coalescing.hasher.hash_one(seat.request.bucket()));
        }
        let like = |one: &Arc<Seat>, other: &Arc<Seat>| is_like(&one.request, &other.request);
        let groups: Vec<Group<'_>> = self.seats.chunk_by(like).map(|seats| Group::new(seats, backend)).collect();
        let along = match self.along(backend, coalescing.merging).await {
            Ok(along) => along,
            Err(error) => return fail(&self.seats, &error),
        };
        let first = along.as_ref().map_or(0, Along::len);
        let in_front = along.iter().flat_map(Along::questions);
        let questions: Vec<_> = in_front.chain(groups.iter().map(|group| group.question(backend))).collect();
        let call = backend.ask_all(&questions, self.deadline, Mode::Async);
        let answers = match &along {
            Some(along) => along.carried_by(call).await,
            None => call.await,
        };
        match answers {
            Ok(answers) => {
                for (group, answer) in groups.into_iter().zip(answers.into_iter().skip(first)) {
                    group.settle(answer, backend);
                }
            }
            Err(error) => fail(&self.seats, &error),
        }
    }

    async fn along(&self, backend: &Client, merging: Merging) -> Result<Option<Along>, BackendError> {
        if backend.later.is_empty() {
            return Ok(None);
        }
        let buckets: Vec<&str> = self.seats.iter().map(|seat| seat.request.bucket()).collect();
        let with = if merging.by_bucket { With::Own(&buckets[..1]) } else { With::All(&buckets) };
        backend.along(with, self.deadline, Mode::Async).await.map(Some)
    }
}

/// Sends the batches of one lane, one after the other. If dropped before it is done, it fails the
/// calls that wait.
struct Driver {
    coalescing: Arc<Coalescing>,
    backend: Client,
    lane: u64,
    /// The batch being sent.
    batch: Option<Batch>,
    is_done: bool,
}

impl Driver {
    async fn run(mut self) {
        while !self.is_done {
            // Yields to all runnable tasks, so that their calls join the batch.
            tokio::task::yield_now().await;
            self.batch = self.next();
            match &mut self.batch {
                Some(batch) => {
                    let sent = Instant::now();
                    let calls = batch.seats.len();
                    batch.send(&self.backend, &self.coalescing).await;
                    self.coalescing.took(calls, sent.elapsed(), self.backend.timeout);
                }
                None => self.is_done = true,
            }
        }
    }

    /// The next batch. Without one, the driver is no longer needed.
    fn next(&self) -> Option<Batch> {
        let mut lanes = self.coalescing.shard(self.lane).lock();
        let lane = lanes.get_mut(&self.lane)?;
        let batch = lane.batches.pop_front();
        if batch.is_some() {
            lane.last = Some(self.backend.until());
        } else {
            lane.drivers -= 1;
            if lane.is_idle() {
                lanes.remove(&self.lane);
            }
        }
        batch
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let stopped =
            BackendError::new(BackendErrorKind::Unreachable, "the runtime that sends decisions was shut down");
        let sent = self.batch.take();
        for batch in sent.into_iter().chain(std::iter::from_fn(|| self.next())) {
            fail(&batch.seats, &stopped);
        }
    }
}

/// Whether two calls are equal and take permits at once or not at all. With a backoff, each denial
/// makes the next one worse, so such calls are never alike.
fn is_like(one: &Request, other: &Request) -> bool {
    let cost = |request: &Request| match request.action {
        Action::Take { cost: cost @ 1.., max_wait: Duration::ZERO } => Some(cost),
        _ => None,
    };
    cost(one).is_some()
        && cost(one) == cost(other)
        && one.bucket == other.bucket
        && one.limits == other.limits
        && one.backoff.is_none()
        && other.backoff.is_none()
        && one.test_time == other.test_time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_for_a_slow_server_get_smaller_and_grow_again() {
        let (coalescing, timeout) = (Coalescing::new(Merging::ALL), Duration::from_millis(100));
        let seats = || coalescing.seats.load(Ordering::Relaxed);
        coalescing.took(128, Duration::from_millis(1), timeout);
        assert_eq!(seats(), 128);
        // A server that takes a millisecond for each call.
        while Duration::from_millis(seats() as u64) > timeout / SHARE_OF_TIMEOUT {
            let before = seats();
            coalescing.took(before, Duration::from_millis(before as u64), timeout);
            assert!(seats() < before);
        }
        assert!((8..=20).contains(&seats()), "{}", seats());
        for _ in 0..32 {
            coalescing.took(seats(), Duration::from_millis(1), timeout);
        }
        assert_eq!(seats(), 128);
    }
}
