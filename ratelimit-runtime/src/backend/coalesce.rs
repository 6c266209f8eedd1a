//! Group commit: concurrent decisions are sent as one.
//!
//! While few calls are under way, each is sent alone and at once, because merging would only add
//! work. Beyond that, calls take seats. A driver, which is a task of the callers' runtime, sends
//! all seated calls at once through the store's [`Transport`]. They are decided first come first
//! served, each as if it had come alone.
//!
//! Two such batches are under way at a time: the server decides on one while this process decodes
//! the other. Only long round trips allow more. Meanwhile the next calls take their seats. A driver
//! ends when no seats are taken.
//!
//! Two stores merge only calls on the same bucket. In a Redis Cluster, a script must stay within a
//! slot. In Redis with leases, all calls on a bucket should wait for the lease.
//!
//! Callers wait for a driver only, never for each other. A future that is dropped or not polled
//! delays no other. A seat abandoned before it was sent is not sent. Permits for a seat abandoned
//! later are given back. Each call ends by its own deadline, and a batch by the latest of its calls.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::BuildHasher;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::{Action, Answer, Outcome, Request};
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::background;
use crate::rt::timer;

const SHARDS: usize = 16;
/// A batch should take at most this fraction of the timeout (1/5): two are under way, and each may
/// wait for the other.
const SHARE_OF_TIMEOUT: u32 = 5;

/// The answers to requests that were sent together, or why none of them has one.
pub(crate) type Answers = Result<Vec<Result<Answer, BackendError>>, BackendError>;

/// The same, without the answers to requests that were left out.
pub(crate) type Partly = Result<Vec<Option<Result<Answer, BackendError>>>, BackendError>;

/// How requests reach a store. A cheap handle.
pub(crate) trait Transport: Clone + Send + Sync + 'static {
    /// Whether `send` ends by its deadline whatever happens. Otherwise it ends soon after, and callers
    /// that want no late answer see to it.
    #[cfg(any(feature = "memcached", feature = "postgres"))]
    const KEEPS_DEADLINE: bool = false;

    /// Sends requests at once, and waits for their answers until the deadline at most. The answers
    /// come in the order of the requests. Requests on one bucket stand next to each other, and are
    /// decided in their order.
    fn send(&self, requests: &[&Request], deadline: Instant) -> impl Future<Output = Answers> + Send;

    /// Sends requests on several buckets. The answer is `None` for buckets that others hold: their
    /// requests are then sent separately, so that no others wait with them.
    fn send_merged(&self, requests: &[&Request], deadline: Instant) -> impl Future<Output = Partly> + Send {
        async move { Ok(self.send(requests, deadline).await?.into_iter().map(Some).collect()) }
    }

    /// Decides on the calling thread, which blocks until the deadline at most. `None` if the store
    /// does not support that: the request is then sent.
    #[cfg(any(feature = "memcached", feature = "postgres"))]
    fn decide_here(&self, _request: &Request, _deadline: Instant) -> Option<Result<Answer, BackendError>> {
        None
    }

    /// The longest time from a call to its answer.
    fn timeout(&self) -> Duration;

    /// The error of a call that took longer.
    fn late(&self) -> BackendError;

    /// The deadline of a call that begins now.
    fn until(&self) -> Instant {
        Instant::now() + self.timeout()
    }

    /// Sends a request whose answer is ignored. Does not wait.
    fn decide_later(&self, request: Request) {
        // A permit that is given back late or never stays taken: the limit is kept.
        let Ok(background) = background::handle() else { return };
        let (store, deadline) = (self.clone(), self.until());
        background.spawn(async move { drop(store.send(&[&request], deadline).await) });
    }

    /// Gives back what an abandoned call has taken. Does not wait.
    fn give_back(&self, request: &Request, answer: Answer) {
        if let (Action::Take { cost: 1.., .. }, Outcome::Admitted(admitted)) = (request.action(), answer.outcome) {
            let action = Action::GiveBack(admitted.admission.permit);
            self.decide_later(Request { action, ..request.clone() });
        }
    }
}

/// How calls are merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merging {
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
    #[cfg(feature = "redis")]
    pub(crate) const ALL: Merging =
        Merging { alone: 8, seats: 128, drivers: 2, pause: Duration::from_micros(500), by_bucket: false };
    /// For buckets that may be on several servers.
    #[cfg(feature = "redis")]
    pub(crate) const BY_BUCKET: Merging = Merging { by_bucket: true, ..Merging::ALL };
    /// For buckets in transactions, two of which wait for each other if they share a bucket: the
    /// next batch waits for the last one, unless that takes long. A second call under way is merged
    /// already, because a transaction costs the server more than the buckets in it.
    #[cfg(feature = "postgres")]
    pub(crate) const TRANSACTIONS: Merging =
        Merging { alone: 1, seats: 64, drivers: 1, pause: Duration::from_millis(2), by_bucket: false };
    /// For compare-and-swap: of several concurrent calls on a bucket, all but one would have to try
    /// again. The first goes alone, because no call may wait for one that its caller does not poll.
    #[cfg(feature = "memcached")]
    pub(crate) const BY_SWAP: Merging =
        Merging { alone: 1, seats: 128, drivers: 1, pause: Duration::MAX, by_bucket: true };
    /// For leases: one call brings the permits of all calls that arrive meanwhile.
    #[cfg(feature = "redis")]
    pub(crate) const LEASES: Merging =
        Merging { alone: 1, seats: 1_024, drivers: 1, pause: Duration::MAX, by_bucket: true };
}

/// Calls under way, by runtime and, if merged so, by bucket.
pub(crate) struct Coalescing {
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
    seats: Vec<Arc<Seat>>,
}

/// How a call is made.
pub(crate) enum Entry<'a, T: Transport> {
    /// Alone, under way until this is dropped.
    Alone(Alone),
    /// With others.
    Seated(Seated<'a, T>),
}

impl Coalescing {
    pub(crate) fn new(merging: Merging) -> Coalescing {
        Coalescing {
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            merging,
            seats: AtomicUsize::new(merging.seats),
        }
    }

    /// Decides whether a call goes alone or takes a seat. `runtime` is what drives it, if not the
    /// background.
    pub(crate) fn enter<'a, T: Transport>(
        self: &Arc<Self>,
        store: &'a T,
        request: &Request,
        deadline: Instant,
        runtime: Option<Handle>,
    ) -> Entry<'a, T> {
        let number = self.number(request, runtime.as_ref());
        let mut lanes = self.shard(number).lock();
        let lane = lanes.entry(number).or_default();
        if lane.drivers == 0 && lane.alone < self.merging.alone || !self.has_room(lane, request) {
            lane.alone += 1;
            return Entry::Alone(Alone { coalescing: Arc::clone(self), lane: number });
        }
        let seat = Arc::new(Seat { request: request.clone(), deadline, state: Mutex::new(State::Waiting(None)) });
        let is_first = lane.seat(Arc::clone(&seat), self.seats.load(Ordering::Relaxed));
        let starts = is_first && lane.drivers < self.merging.drivers || lane.has_paused(deadline, self.merging.pause);
        if starts {
            lane.drivers += 1;
            lane.last = Some(deadline);
        }
        drop(lanes);
        if starts {
            self.start(number, store, runtime);
        }
        Entry::Seated(Seated { seat, store })
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

    /// False for a bucket whose lane has the same hash by collision.
    fn has_room(&self, lane: &Lane, request: &Request) -> bool {
        let other = lane.batches.back().and_then(|batch| batch.seats.first());
        !self.merging.by_bucket || other.is_none_or(|seat| seat.request.bucket == request.bucket)
    }

    /// Starts a driver of a lane.
    fn start<T: Transport>(self: &Arc<Self>, lane: u64, store: &T, runtime: Option<Handle>) {
        let driver = Driver { coalescing: Arc::clone(self), store: store.clone(), lane, batch: None, is_done: false };
        // Callers without a runtime use the background's. Without that, the driver is dropped,
        // which ends the calls.
        if let Some(runtime) = runtime.or_else(|| background::handle().ok()) {
            runtime.spawn(driver.run());
        }
    }
}

impl Lane {
    /// Seats a call, and returns whether it is the first of its batch.
    fn seat(&mut self, seat: Arc<Seat>, most: usize) -> bool {
        if let Some(batch) = self.batches.back_mut()
            && batch.seats.len() < most
        {
            batch.seats.push(seat);
            return false;
        }
        let mut seats = Vec::with_capacity(64);
        seats.push(seat);
        self.batches.push_back(Batch { seats });
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
pub(crate) struct Alone {
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
    deadline: Instant,
    state: Mutex<State>,
}

enum State {
    Waiting(Option<Waker>),
    Answered(Result<Answer, BackendError>),
    /// The answer was taken, or the call was abandoned.
    Left,
}

impl Seat {
    fn is_waiting(&self) -> bool {
        matches!(&*self.state.lock(), State::Waiting(_))
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

    /// Delivers the answer, or gives back what it brings. After the deadline the caller may have
    /// gone on without the backend: its permits stay taken.
    fn deliver<T: Transport>(&self, answer: Result<Answer, BackendError>, store: &T) {
        if let Some(Ok(undelivered)) = self.answer(answer)
            && Instant::now() < self.deadline
        {
            store.give_back(&self.request, undelivered);
        }
    }
}

/// A call that waits for the answer to its batch.
pub(crate) struct Seated<'a, T: Transport> {
    seat: Arc<Seat>,
    store: &'a T,
}

impl<T: Transport> Future for Seated<'_, T> {
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

impl<T: Transport> Drop for Seated<'_, T> {
    fn drop(&mut self) {
        let state = mem::replace(&mut *self.seat.state.lock(), State::Left);
        if let State::Answered(Ok(answer)) = state {
            self.store.give_back(&self.seat.request, answer);
        }
    }
}

fn fail(seats: &[Arc<Seat>], error: &BackendError) {
    for seat in seats {
        drop(seat.answer(Err(error.clone())));
    }
}

impl Batch {
    /// Sends all calls not yet abandoned, and delivers the answers.
    async fn send<T: Transport>(&mut self, store: &T, hasher: &RandomState) {
        // Some calls may have reached their deadline in the queue.
        self.fail_late(Instant::now(), store);
        self.seats.retain(|seat| seat.is_waiting());
        // Stable: calls on one bucket keep their order.
        if self.seats.len() > 1 {
            self.seats.sort_by_cached_key(|seat| hasher.hash_one(seat.request.bucket()));
        }
        let Some(until) = self.until() else { return };
        let answers = match self.in_time(store.send_merged(&self.requests(), until), store).await {
            Ok(answers) => answers,
            Err(error) => return fail(&self.seats, &error),
        };
        let mut left_out: Vec<Batch> = Vec::new();
        for (seat, answer) in self.seats.iter().zip(answers) {
            match (answer, left_out.last_mut()) {
                (Some(answer), _) => seat.deliver(answer, store),
                (None, Some(batch)) if batch.seats[0].request.bucket == seat.request.bucket => {
                    batch.seats.push(Arc::clone(seat));
                }
                (None, _) => left_out.push(Batch { seats: vec![Arc::clone(seat)] }),
            }
        }
        for batch in left_out {
            let store = store.clone();
            tokio::spawn(async move { batch.send_by_itself(&store).await });
        }
    }

    /// Sends calls on one bucket.
    async fn send_by_itself<T: Transport>(self, store: &T) {
        let Some(until) = self.until() else { return };
        match self.in_time(store.send(&self.requests(), until), store).await {
            Ok(answers) => self.seats.iter().zip(answers).for_each(|(seat, answer)| seat.deliver(answer, store)),
            Err(error) => fail(&self.seats, &error),
        }
    }

    fn requests(&self) -> Vec<&Request> {
        self.seats.iter().map(|seat| &seat.request).collect()
    }

    /// The latest deadline.
    fn until(&self) -> Option<Instant> {
        self.seats.iter().map(|seat| seat.deadline).max()
    }

    /// Waits for the answers. Meanwhile calls fail at their deadlines.
    async fn in_time<A>(&self, sending: impl Future<Output = A>, store: &impl Transport) -> A {
        let mut sending = pin!(sending);
        let mut late = None;
        while let Some(next) = self.seats.iter().map(|seat| seat.deadline).filter(|next| Some(*next) > late).min() {
            if let Some(answers) = timer::bounded(sending.as_mut(), next).await {
                return answers;
            }
            self.fail_late(next, store);
            late = Some(next);
        }
        sending.await
    }

    /// Fails the calls with deadlines up to `now`.
    fn fail_late(&self, now: Instant, store: &impl Transport) {
        for seat in self.seats.iter().filter(|seat| seat.deadline <= now) {
            drop(seat.answer(Err(store.late())));
        }
    }
}

/// Sends the batches of one lane, one after the other. If dropped before it is done, it fails the
/// calls that wait.
struct Driver<T: Transport> {
    coalescing: Arc<Coalescing>,
    store: T,
    lane: u64,
    /// The batch being sent.
    batch: Option<Batch>,
    is_done: bool,
}

impl<T: Transport> Driver<T> {
    async fn run(mut self) {
        while !self.is_done {
            // Yields to all runnable tasks, so that their calls join the batch.
            tokio::task::yield_now().await;
            self.batch = self.next();
            match &mut self.batch {
                Some(batch) => {
                    let sent = Instant::now();
                    let calls = batch.seats.len();
                    batch.send(&self.store, &self.coalescing.hasher).await;
                    self.coalescing.took(calls, sent.elapsed(), self.store.timeout());
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
            lane.last = Some(self.store.until());
        } else {
            lane.drivers -= 1;
            if lane.is_idle() {
                lanes.remove(&self.lane);
            }
        }
        batch
    }
}

impl<T: Transport> Drop for Driver<T> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_for_a_slow_server_get_smaller_and_grow_again() {
        let pause = Duration::from_millis(1);
        let merging = Merging { alone: 8, seats: 128, drivers: 2, pause, by_bucket: false };
        let (coalescing, timeout) = (Coalescing::new(merging), Duration::from_millis(100));
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
