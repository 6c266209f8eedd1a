//! Decisions on one key that come together are sent as one.
//!
//! A call is sent alone, without a delay, as long as few others on its key are under way: then merging would only add work.
//! From then on calls take a seat. A driver, a task of the runtime that the callers run on, sends all that are seated as
//! one call of the script, which decides them first come first served, each as if it had come alone; while that is under
//! way the next ones take their seats. The driver ends when nobody is left.
//!
//! Callers only wait for the driver, never for each other: a future that is dropped, or not polled, holds up no other. A
//! seat that is left before it was sent is not sent; permits that come to a seat that was left are given back. Each batch
//! has the deadline of its first call, which is the earliest, so that every call ends by its own.

use std::collections::HashMap;
use std::future::Future;
use std::hash::BuildHasher;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::RedisBackend;
use super::codec::{self, Run};
use crate::backend::{Action, Answer, Backend as _, Outcome, Request};
use crate::background;
use crate::error::{BackendError, BackendErrorKind};

/// Calls on one key that are sent one by one before merging pays.
const ALONE: u32 = 24;
/// Calls that one batch takes; more are sent alone.
const SEATS: usize = 1_024;
const SHARDS: usize = 16;

/// The calls that are under way, by key and runtime.
pub(super) struct Coalescing {
    hasher: RandomState,
    shards: [Mutex<HashMap<u64, Lane, RandomState>>; SHARDS],
    /// Calls on one key that are sent one by one.
    alone: u32,
}

/// The calls on one key from one runtime.
#[derive(Default)]
struct Lane {
    alone: u32,
    has_driver: bool,
    batch: Option<Batch>,
}

struct Batch {
    first: Arc<First>,
    seats: Vec<(u32, Arc<Seat>)>,
}

/// The first call of a batch, from which the others differ in their cost only.
struct First {
    backend: RedisBackend,
    request: Request,
    deadline: Instant,
}

/// How a call is made.
pub(super) enum Entry {
    /// On its own, under way until this is dropped.
    Alone(Alone),
    /// With others.
    Seated(Seated),
}

impl Coalescing {
    /// Where permits are leased, one call brings those of all that come meanwhile.
    pub(super) fn new(leases: bool) -> Coalescing {
        let alone = if leases { 1 } else { ALONE };
        Coalescing { hasher: RandomState::default(), shards: std::array::from_fn(|_| Mutex::default()), alone }
    }

    /// The way of one call; `None` of one that no other is like: it waits, takes nothing, or gives back.
    pub(super) fn enter(
        self: &Arc<Self>,
        backend: &RedisBackend,
        request: &Request,
        deadline: Instant,
    ) -> Option<Entry> {
        let Action::Take { cost: cost @ 1.., max_wait } = *request.action() else { return None };
        if !max_wait.is_zero() {
            return None;
        }
        let runtime = Handle::try_current().ok();
        let lane = self.lane(request, runtime.as_ref());
        let mut lanes = self.shard(lane).lock();
        let entry = lanes.entry(lane).or_default();
        let few = !entry.has_driver && entry.alone < self.alone;
        if !few && let Some(seated) = entry.seat(backend, request, cost, deadline) {
            let starts = !mem::replace(&mut entry.has_driver, true);
            drop(lanes);
            if starts {
                self.start(lane, runtime);
            }
            return Some(Entry::Seated(seated));
        }
        entry.alone += 1;
        Some(Entry::Alone(Alone { coalescing: Arc::clone(self), lane }))
    }

    /// Lanes of one number that are two keys' cost only merging: a batch compares the requests.
    fn lane(&self, request: &Request, runtime: Option<&Handle>) -> u64 {
        self.hasher.hash_one((request.bucket(), runtime.map(Handle::id)))
    }

    fn shard(&self, lane: u64) -> &Mutex<HashMap<u64, Lane, RandomState>> {
        #[expect(clippy::cast_possible_truncation, reason = "a few bits of it are enough")]
        let number = lane as usize % SHARDS;
        &self.shards[number]
    }

    /// Starts the driver of a lane.
    fn start(self: &Arc<Self>, lane: u64, runtime: Option<Handle>) {
        let driver = Driver { coalescing: Arc::clone(self), lane, batch: None, is_done: false };
        // Where the callers have no runtime it is the background's. Without that too it is dropped, which ends the calls.
        if let Some(runtime) = runtime.or_else(|| background::handle().ok().cloned()) {
            runtime.spawn(driver.run());
        }
    }
}

impl Lane {
    /// A seat in the next batch, if the call is like those that have one and there is room.
    fn seat(&mut self, backend: &RedisBackend, request: &Request, cost: u32, deadline: Instant) -> Option<Seated> {
        let batch = self.batch.get_or_insert_with(|| {
            let first = First { backend: backend.clone(), request: request.clone(), deadline };
            Batch { first: Arc::new(first), seats: Vec::with_capacity(64) }
        });
        if batch.seats.len() >= SEATS || !is_like(&batch.first.request, request) {
            return None;
        }
        let seat = Arc::new(Seat { state: Mutex::new(State::Waiting(None)) });
        batch.seats.push((cost, Arc::clone(&seat)));
        Some(Seated { seat, first: Arc::clone(&batch.first) })
    }

    fn is_idle(&self) -> bool {
        self.alone == 0 && !self.has_driver
    }
}

fn is_like(one: &Request, other: &Request) -> bool {
    one.bucket == other.bucket
        && one.limits == other.limits
        && one.backoff == other.backoff
        && one.test_time == other.test_time
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

/// Where the answer to one call of a batch is put.
struct Seat {
    state: Mutex<State>,
}

enum State {
    Waiting(Option<Waker>),
    Answered(Result<Answer, BackendError>),
    /// The answer was taken, or nobody waits for it.
    Left,
}

impl Seat {
    fn is_left(&self) -> bool {
        matches!(&*self.state.lock(), State::Left)
    }

    /// Gives the answer back where nobody waits for it.
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
pub(super) struct Seated {
    seat: Arc<Seat>,
    first: Arc<First>,
}

impl Future for Seated {
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

impl Drop for Seated {
    fn drop(&mut self) {
        let state = mem::replace(&mut *self.seat.state.lock(), State::Left);
        if let State::Answered(answer) = state {
            self.first.give_back(answer);
        }
    }
}

impl First {
    /// Gives back what was taken for a call that nobody waits for any more.
    fn give_back(&self, answer: Result<Answer, BackendError>) {
        if let Ok(Answer { outcome: Outcome::Admitted(admitted), .. }) = answer {
            let action = Action::GiveBack(admitted.permit().clone());
            self.backend.decide_later(Request { action, ..self.request.clone() });
        }
    }
}

impl Batch {
    /// Sends all that have not left yet, and tells each what was decided.
    async fn send(&mut self) {
        self.seats.retain(|(_, seat)| !seat.is_left());
        if self.seats.is_empty() {
            return;
        }
        let First { backend, request, deadline } = &*self.first;
        let runs = runs(&self.seats);
        let ask = backend.ask(request);
        let asked = match &ask {
            Some(ask) => ask.encode(request, &runs),
            None => codec::encode_runs(request, &runs, None),
        };
        let answered = backend.exchange(request.bucket(), &asked, *deadline).await;
        let answers = answered.and_then(|answer| match ask {
            Some(ask) => ask.settle(&answer, request, &runs),
            None => Ok(codec::decode_runs(&answer, request, &runs, false)?.answers),
        });
        match answers {
            Ok(answers) => {
                for ((_, seat), answer) in self.seats.drain(..).zip(answers) {
                    if let Some(undelivered) = seat.answer(Ok(answer)) {
                        self.first.give_back(undelivered);
                    }
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &BackendError) {
        for (_, seat) in self.seats.drain(..) {
            drop(seat.answer(Err(error.clone())));
        }
    }
}

/// What sends the batches of one lane, one after the other. Dropped before it is done, it ends the calls that wait.
struct Driver {
    coalescing: Arc<Coalescing>,
    lane: u64,
    /// What is being sent.
    batch: Option<Batch>,
    is_done: bool,
}

impl Driver {
    async fn run(mut self) {
        while !self.is_done {
            // Behind all tasks that can run now: those of them that call come along.
            tokio::task::yield_now().await;
            self.batch = self.next();
            match &mut self.batch {
                Some(batch) => batch.send().await,
                None => self.is_done = true,
            }
        }
    }

    /// The next batch; without one, a driver is needed no more.
    fn next(&self) -> Option<Batch> {
        let mut lanes = self.coalescing.shard(self.lane).lock();
        let lane = lanes.get_mut(&self.lane)?;
        let batch = lane.batch.take();
        if batch.is_none() {
            lane.has_driver = false;
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
        for mut batch in sent.into_iter().chain(std::iter::from_fn(|| self.next())) {
            batch.fail(&stopped);
        }
    }
}

/// Costs that follow each other, shortened.
fn runs(seats: &[(u32, Arc<Seat>)]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (cost, _) in seats {
        match runs.last_mut() {
            Some(run) if run.cost == *cost => run.calls += 1,
            _ => runs.push(Run { cost: *cost, calls: 1 }),
        }
    }
    runs
}
