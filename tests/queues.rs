//! Queues of waiting calls on virtual time, beside a model that recomputes everything from the full
//! log after each event.
//!
//! One run has it all: several limits and keys, priorities, bounded waits and queues, calls that
//! leave, settlements, resets, blocks, limits that change, and limits that are switched off.

use std::future::Future;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use ratelimit_runtime::backend::{IntoBackend, SharedBackend};
use ratelimit_runtime::{
    Algorithm, Decision, ExceededKind, Limit, OnBackendError, RateLimitExceeded, RateLimiter, RedisBackend, limiters,
    rate_limit, set_enabled, test_util,
};
use ratelimit_tests::oracle::{Entry, Log, nanos};
use ratelimit_tests::{ALGORITHMS, MINUTE, RedisServer, SECOND, Shelf, poll_once};

const KEYS: [&str; 2] = ["a", "b"];
const NEVER: u64 = u64::MAX;

/// A waiting call in the model.
#[derive(Clone, Copy, Debug)]
struct Queued {
    number: usize,
    cost: u32,
    rank: u64,
    arrived: u64,
    /// The latest time at which it is admitted.
    deadline: u64,
}

/// How a call of the model ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As of this time.
    Admitted(u64),
    Denied,
}

/// The queue of a key by its definition: its first call, by rank, is admitted as soon as the full
/// log of admissions allows. It is denied if that is after its deadline.
#[derive(Clone, Debug)]
struct Model {
    logs: Vec<Log>,
    limits: Vec<Limit>,
    queue: Vec<Queued>,
    /// Calls, by number, that have left the queue.
    ended: Vec<(Queued, End)>,
    /// No call is admitted as of a time before this one.
    since: u64,
    blocked_until: u64,
    /// The time of the last charge that did not fit at once.
    owed_until: u64,
    is_backend: bool,
}

impl Model {
    fn new(limits: Vec<Limit>, is_backend: bool) -> Model {
        let logs = limits.iter().map(|_| Log::default()).collect();
        let (queue, ended) = (Vec::new(), Vec::new());
        Model { logs, limits, queue, ended, since: 0, blocked_until: 0, owed_until: 0, is_backend }
    }

    fn due(&self, from: u64, cost: u32) -> u64 {
        if self.limits.iter().any(|limit| limit.capacity() < cost) {
            return NEVER;
        }
        let from = from.max(self.blocked_until).max(self.owed_until);
        let limits = self.limits.iter().zip(&self.logs);
        limits.map(|(limit, log)| log.earliest(limit, from, cost)).max().unwrap()
    }

    fn admit(&mut self, at: u64, cost: u32) {
        if cost > 0 {
            self.logs.iter_mut().for_each(|log| log.0.push(Entry { at, cost }));
        }
    }

    fn settle(&mut self, now: u64) {
        while let Some(call) = self.queue.first().copied() {
            let due = self.due(self.since, call.cost);
            if due > now && due <= call.deadline && due != NEVER {
                break;
            }
            let end = if due > call.deadline || due == NEVER { End::Denied } else { End::Admitted(due) };
            if end != End::Denied {
                self.admit(due, call.cost);
                self.since = due;
            }
            self.ended.push((call, end));
            self.queue.remove(0);
        }
        self.since = self.since.max(now);
    }

    /// Of calls that are denied for other limits, none holds others back.
    fn refuse_impossible(&mut self) {
        let most = self.limits.iter().map(Limit::capacity).min().unwrap();
        let impossible = self.queue.extract_if(.., |call| call.cost > most);
        self.ended.extend(impossible.map(|call| (call, End::Denied)));
    }

    fn place(&self, rank: u64) -> usize {
        self.queue.partition_point(|other| other.rank <= rank)
    }

    /// When a call would be admitted that arrives now, if all that are ahead of it stayed.
    fn turn(&self, call: Queued) -> u64 {
        if call.cost == 0 {
            return call.arrived.max(self.blocked_until);
        }
        let mut alone = self.clone();
        alone.queue.truncate(self.place(call.rank));
        alone.queue.push(call);
        alone.queue.iter_mut().for_each(|ahead| ahead.deadline = NEVER);
        alone.settle(NEVER - 1);
        match alone.ended.last() {
            Some((_, End::Admitted(at))) => *at,
            _ => NEVER,
        }
    }

    /// Whether a call that arrives now is told exactly when its turn comes.
    fn is_exact(&self, call: Queued) -> bool {
        let ahead = &self.queue[..self.place(call.rank)];
        ahead.is_empty() || self.limits.len() == 1 && ahead.iter().all(|ahead| ahead.cost == call.cost)
    }

    /// Whether a call that arrives now overtakes others. Before a backend it is denied when it is
    /// the first.
    fn is_overtaking(&self, call: Queued) -> bool {
        self.is_backend && self.place(call.rank) < self.queue.len()
    }

    /// A denied call was told the time of its turn: never a later one. Before a backend, bookings
    /// that it would overtake count as ahead of it.
    fn was_told(&self, call: Queued, told: u64, turn: u64) -> Result<(), TestCaseError> {
        if self.is_overtaking(call) && self.may_be_booked(call.arrived) {
            return Ok(());
        }
        let is_exact = self.is_exact(call) && !self.is_overtaking(call);
        // A backend counts in microseconds.
        let earliest = if self.is_backend { turn.saturating_sub(1_000) } else { turn };
        prop_assert!(told <= turn && (told >= earliest || !is_exact), "{}: told {told}, not {turn}", call.number);
        Ok(())
    }

    fn join(&mut self, call: Queued) {
        self.queue.insert(self.place(call.rank), call);
        self.settle(call.arrived);
    }

    fn leave(&mut self, number: usize, now: u64) {
        self.queue.retain(|waiting| waiting.number != number);
        self.settle(now);
    }

    /// Takes permits from each limit, whatever is left: what fits now, then the rest of the last
    /// bucketful and whole bucketfuls, each as early as it fits.
    fn charge(&mut self, now: u64, cost: u32) {
        let from = now.max(self.owed_until);
        for (limit, log) in self.limits.iter().zip(&mut self.logs) {
            let (mut left, capacity, mut at) = (cost, limit.capacity(), from);
            let fits = (1..=left.min(capacity)).rev().find(|fits| log.admits(limit, from, *fits)).unwrap_or(0);
            log.0.push(Entry { at, cost: fits });
            left -= fits;
            while left > 0 {
                let next = if left.is_multiple_of(capacity) { capacity } else { left % capacity };
                at = log.earliest(limit, at, next);
                log.0.push(Entry { at, cost: next });
                self.owed_until = self.owed_until.max(at);
                left -= next;
            }
        }
        self.settle(now);
    }

    /// Whether a waiting call may have a booking in the backend, which moves neither for a charge
    /// nor for a refund.
    fn may_be_booked(&self, now: u64) -> bool {
        let first = self.queue.first().filter(|_| self.is_backend);
        first.is_some_and(|first| self.due(self.since, first.cost) <= now + nanos(SECOND))
    }

    /// Takes permits out of the log that were admitted at `at`.
    fn give_back(&mut self, Entry { at, cost }: Entry, now: u64) {
        for (log, limit) in self.logs.iter_mut().zip(&self.limits) {
            log.give_back(limit, now, at, cost);
        }
        self.settle(now);
    }
}

/// How a call arrives.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    cost: u32,
    priority: u8,
    bound: Bound,
}

/// How long a call may wait, in milliseconds, and behind how many.
#[derive(Clone, Copy, Debug)]
enum Bound {
    No,
    Max(u64),
    /// By the attribute, with a queue.
    Short,
    Long,
}

impl Bound {
    const QUEUE: usize = 3;

    fn max(self, scale: u32) -> Duration {
        match self {
            Bound::No => Duration::MAX,
            Bound::Max(max) => Duration::from_millis(max) * scale,
            Bound::Short => Duration::from_millis(400),
            Bound::Long => MINUTE,
        }
    }

    fn queue(self) -> usize {
        if matches!(self, Bound::Short | Bound::Long) { Bound::QUEUE } else { usize::MAX }
    }
}

/// What happens. Each but a change of all keys happens to one of them.
#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive(Arrival),
    /// Of those that wait, which leaves.
    Leave(usize),
    Check(u32),
    /// Of the decisions that are left, which is settled, and the permits that its call has used.
    Settle(usize, u32),
    Charge(u32),
    Reset,
    /// For so many milliseconds.
    Block(u64),
    Unblock,
    /// For all keys.
    Change(u32),
    /// Limits are switched off, or on again.
    Switch,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let priority = prop_oneof![3 => Just(0_u8), 1 => 1..4_u8];
    let bound = prop_oneof![
        4 => Just(Bound::No),
        2 => (0..2_000_u64).prop_map(Bound::Max),
        1 => Just(Bound::Short),
        1 => Just(Bound::Long),
    ];
    (1..4_u32, priority, bound).prop_map(|(cost, priority, bound)| Arrival { cost, priority, bound })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        16 => arrival().prop_map(Event::Arrive),
        8 => (0..20_usize).prop_map(Event::Leave),
        6 => (0..4_u32).prop_map(Event::Check),
        4 => (0..20_usize, prop_oneof![2 => Just(0_u32), 1 => 0..6_u32]).prop_map(|(which, used)| Event::Settle(which, used)),
        1 => (1..20_u32).prop_map(Event::Charge),
        2 => Just(Event::Reset),
        2 => (1..2_000_u64).prop_map(Event::Block),
        1 => Just(Event::Unblock),
        2 => (1..12_u32).prop_map(Event::Change),
        1 => Just(Event::Switch),
    ]
}

/// One run of the model: limits and what happens, each with the milliseconds before it and the key.
#[derive(Clone, Debug)]
struct Run {
    algorithms: Vec<Algorithm>,
    count: u32,
    /// Microseconds into a window.
    phase: u64,
    /// All times are so many times as long. At 60, priorities age while calls wait.
    scale: u32,
    events: Vec<(u64, usize, Event)>,
}

fn run() -> impl Strategy<Value = Run> {
    let ahead = prop_oneof![2 => Just(0_u64), 6 => 0..200_u64, 1 => 0..3_000_u64];
    let algorithms = prop::collection::vec(prop::sample::select(&ALGORITHMS[..]), 1..4);
    let key = prop_oneof![3 => Just(0_usize), 1 => Just(1_usize)];
    let events = prop::collection::vec((ahead, key, event()), 1..80);
    (algorithms, 3..12_u32, 0..2_000_000_u64, prop::sample::select(&[1_u32, 60][..]), events)
        .prop_map(|(algorithms, count, phase, scale, events)| Run { algorithms, count, phase, scale, events })
}

type Limited = Result<(), RateLimitExceeded>;

#[rate_limit(limiter = limiter, key = key, cost = cost, wait(priority = priority))]
async fn by_priority(limiter: &RateLimiter, key: &str, cost: u32, priority: u8) -> Limited {
    Ok(())
}

#[rate_limit(limiter = limiter, key = key, cost = cost, wait(max = "400ms", queue = 3, priority = priority))]
async fn short(limiter: &RateLimiter, key: &str, cost: u32, priority: u8) -> Limited {
    Ok(())
}

#[rate_limit(limiter = limiter, key = key, cost = cost, wait(max = "1m", queue = 3, priority = priority))]
async fn long(limiter: &RateLimiter, key: &str, cost: u32, priority: u8) -> Limited {
    Ok(())
}

/// A call that waits, and its decision if that can be seen.
type Call<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Option<Decision>, RateLimitExceeded>> + 'a>>;

/// A call as it arrives. One with a time of its own has no priority.
fn call<'a>(limiter: &'a RateLimiter, key: &'static str, arrival: Arrival, scale: u32) -> Call<'a> {
    let Arrival { cost, priority, bound } = arrival;
    Box::pin(async move {
        match bound {
            Bound::No if priority == 0 => return limiter.wait_async(key, cost).await.map(Some),
            Bound::Max(_) => return limiter.wait_at_most_async(key, cost, bound.max(scale)).await.map(Some),
            Bound::No => by_priority(limiter, key, cost, priority).await?,
            Bound::Short => short(limiter, key, cost, priority).await?,
            Bound::Long => long(limiter, key, cost, priority).await?,
        }
        Ok(None)
    })
}

/// Polls a call until it is decided, or waits beside so many others: a server takes a moment to
/// answer.
fn begun(call: &mut Call<'_>, name: &str, others: usize) -> Poll<Result<Option<Decision>, RateLimitExceeded>> {
    loop {
        let polled = poll_once(call.as_mut());
        let waiting: usize =
            limiters().iter().filter(|limiter| limiter.name == name).map(|limiter| limiter.waiting).sum();
        if polled.is_ready() || others < waiting {
            return polled;
        }
        std::thread::yield_now();
    }
}

/// Runs alone, because limits are switched off for the whole process. Afterwards they are on.
struct Alone(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Alone {
    fn new() -> Alone {
        static RUNS: Mutex<()> = Mutex::new(());
        Alone(RUNS.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        set_enabled(true);
    }
}

/// What a decision took, if anything, for a refund.
type Taken = (usize, Decision, Option<Entry>);

#[expect(clippy::too_many_lines, reason = "an arm for each kind of event")]
fn a_queue_is_what_the_full_log_makes_it(
    name: &str,
    backend: Option<&SharedBackend>,
    run: Run,
) -> Result<(), TestCaseError> {
    let _alone = Alone::new();
    let Run { algorithms, count, phase, scale, events } = run;
    let limits = |count: u32| -> Vec<Limit> {
        let pers = [SECOND, SECOND / 2, 2 * SECOND].map(|per| per * scale);
        let limits = algorithms.iter().zip(pers).zip(0..);
        // A bucket's debt is not an exact log if its rate changes.
        limits
            .map(|((algorithm, per), more)| {
                let count = if *algorithm == Algorithm::TokenBucket { 5 } else { count };
                Limit::new(count + more, per).with_algorithm(*algorithm)
            })
            .collect()
    };
    let clock = test_util::pause_at(UNIX_EPOCH + Duration::from_micros(1_795_951_900_000_000 + phase));
    let builder = limits(count).iter().fold(RateLimiter::builder(name), |builder, limit| builder.limit(*limit));
    let builder = builder.on_backend_error(OnBackendError::Deny);
    let limiter = backend.iter().fold(builder, |builder, backend| builder.backend((*backend).clone())).build().unwrap();
    let mut models = KEYS.map(|_| Model::new(limits(count), backend.is_some()));
    let mut calls: Vec<(usize, usize, Call<'_>)> = Vec::new();
    let mut taken: Vec<Taken> = Vec::new();
    let mut is_on = true;
    for (number, (ahead, at, event)) in events.into_iter().enumerate() {
        clock.advance(Duration::from_millis(ahead) * scale);
        let now = clock.now().as_nanos();
        // Looked at before anything else happens, in an order of their own.
        for model in &mut models {
            model.settle(now);
        }
        calls.reverse();
        look(&mut calls, &mut models, &mut taken, now)?;
        let (model, key) = (&mut models[at], KEYS[at]);
        match event {
            Event::Arrive(arrival) => {
                let mut wait = call(&limiter, key, arrival, scale);
                let polled = begun(&mut wait, name, calls.len());
                if !is_on {
                    prop_assert!(matches!(polled, Poll::Ready(Ok(_))), "limits are off");
                    continue;
                }
                let Arrival { cost, priority, bound } = arrival;
                let priority = if let Bound::Max(_) = bound { 0 } else { priority };
                let rank = now + u64::from(255 - priority) * 60_000_000_000;
                let deadline = now.saturating_add(u64::try_from(bound.max(scale).as_nanos()).unwrap_or(NEVER));
                let call = Queued { number, cost, rank, arrived: now, deadline };
                let (turn, waiting) = (model.turn(call), model.queue.len());
                match polled {
                    Poll::Ready(Ok(decision)) => {
                        model.join(call);
                        let end = model.ended.iter().position(|(call, _)| call.number == number);
                        let end = end.map(|place| model.ended.remove(place).1);
                        prop_assert_eq!(end, Some(End::Admitted(now)), "{}", number);
                        taken.extend(decision.map(|decision| (at, decision, Some(Entry { at: now, cost }))));
                    }
                    Poll::Ready(Err(denied)) => {
                        let (kind, after) = (denied.kind(), denied.retry_after().map_or(NEVER, nanos));
                        prop_assert_eq!(kind == ExceededKind::CostExceedsLimit, turn == NEVER, "{}", number);
                        let told = now.saturating_add(after);
                        let is_full = waiting >= bound.queue();
                        prop_assert!(turn == NEVER || turn > deadline || is_full, "{number}: {denied:?}, not {turn}");
                        model.was_told(call, told, turn)?;
                    }
                    Poll::Pending => {
                        prop_assert!(waiting < bound.queue(), "{number}: the queue is full");
                        let is_denied = turn > deadline && model.is_exact(call) && !model.is_overtaking(call);
                        prop_assert!(!is_denied, "{number}: it waits until {turn}");
                        model.join(call);
                        prop_assert!(model.queue.iter().any(|call| call.number == number), "{number}: it waits");
                        calls.push((number, at, wait));
                    }
                }
            }
            Event::Leave(which) => {
                if !calls.is_empty() {
                    let (number, at, wait) = calls.remove(which % calls.len());
                    drop(wait);
                    models[at].leave(number, now);
                }
            }
            Event::Check(cost) => {
                let checked = limiter.check(key, cost);
                if !is_on {
                    taken.push((at, checked.unwrap(), None));
                    continue;
                }
                let call = Queued { number, cost, rank: NEVER, arrived: now, deadline: NEVER };
                let turn = model.turn(call);
                let is_admitted = turn == now && (cost == 0 || model.queue.is_empty());
                prop_assert_eq!(checked.is_ok(), is_admitted, "{}: {:?}", number, checked);
                match checked {
                    Ok(decision) => {
                        model.admit(now, cost);
                        taken.push((at, decision, Some(Entry { at: now, cost })));
                    }
                    Err(denied) => {
                        let after = denied.retry_after().map_or(NEVER, nanos);
                        model.was_told(call, now.saturating_add(after), turn)?;
                    }
                }
            }
            Event::Settle(which, used) => {
                // Nor is it known in which order a refund and charges that lie ahead would count.
                taken.retain(|(at, ..)| !models[*at].may_be_booked(now) && models[*at].owed_until <= now);
                if !taken.is_empty() {
                    let (at, decision, entry) = taken.remove(which % taken.len());
                    limiter.settle(decision, used).unwrap();
                    match entry {
                        Some(Entry { at: from, cost }) if used < cost => {
                            models[at].give_back(Entry { at: from, cost: cost - used }, now);
                        }
                        Some(entry) if used > entry.cost && is_on => models[at].charge(now, used - entry.cost),
                        _ => {}
                    }
                }
            }
            Event::Charge(cost) => {
                if !model.may_be_booked(now) && is_on {
                    limiter.charge(key, cost).unwrap();
                    model.charge(now, cost);
                }
            }
            Event::Reset => {
                limiter.reset(key).unwrap();
                // A reset may be taken for one of another key.
                taken.clear();
                model.logs.iter_mut().for_each(|log| *log = Log::default());
                model.owed_until = 0;
                model.settle(now);
            }
            Event::Block(millis) => {
                let time = Duration::from_millis(millis) * scale;
                limiter.block(key, time).unwrap();
                model.blocked_until = model.blocked_until.max(now + nanos(time));
                model.settle(now);
            }
            Event::Unblock => {
                limiter.unblock(key).unwrap();
                model.blocked_until = 0;
                model.settle(now);
            }
            Event::Change(count) => {
                limiter.set_limits(&limits(count)).unwrap();
                for model in &mut models {
                    model.limits = limits(count);
                    model.refuse_impossible();
                    model.settle(now);
                }
            }
            Event::Switch => {
                is_on = !is_on;
                set_enabled(is_on);
                for (number, at, mut wait) in calls.drain(..) {
                    prop_assert!(poll_once(&mut wait).is_ready(), "{number}: limits are off");
                    models[at].queue.clear();
                }
            }
        }
    }
    set_enabled(true);
    // After all have left, the next one waits for what was admitted alone.
    drop(calls);
    let waited = limiter.wait(KEYS[0], 1).unwrap().waited();
    let model = &models[0];
    // A place that was served and not looked at was given back.
    if model.ended.iter().all(|(_, end)| *end == End::Denied) {
        let now = clock.now().as_nanos() - nanos(waited);
        prop_assert_eq!(clock.now().as_nanos(), model.due(now, 1));
    }
    Ok(())
}

/// Polls all waiting calls. Those end that ended in the model, and in the same way.
fn look(
    calls: &mut Vec<(usize, usize, Call<'_>)>,
    models: &mut [Model; 2],
    taken: &mut Vec<Taken>,
    now: u64,
) -> Result<(), TestCaseError> {
    for (number, at, mut wait) in std::mem::take(calls) {
        let model = &mut models[at];
        let ended = model.ended.iter().position(|(call, _)| call.number == number);
        let waiting = model.queue.iter().find(|call| call.number == number).copied();
        let is_late = waiting.is_some_and(|call| call.deadline <= now);
        let polled = poll_once(&mut wait);
        match (ended.map(|place| model.ended.remove(place)), polled) {
            (None, Poll::Pending) => {
                prop_assert!(!is_late, "{number} waits after its deadline");
                calls.push((number, at, wait));
            }
            (Some((call, End::Admitted(due))), Poll::Ready(Ok(decision))) => {
                if let Some(decision) = decision {
                    prop_assert_eq!(nanos(decision.waited()), due.saturating_sub(call.arrived), "{}", number);
                    taken.push((at, decision, Some(Entry { at: due, cost: call.cost })));
                }
            }
            (Some((_, End::Denied)), Poll::Ready(Err(_))) => {}
            (None, Poll::Ready(Err(_))) if is_late => model.leave(number, now),
            (ended, polled) => {
                let message = format!("{number} at {now}: {ended:?} in the model, not {polled:?}; {model:?}");
                return Err(TestCaseError::fail(message));
            }
        }
    }
    Ok(())
}

/// Before a store, a booking is undone if all that came behind it were, in whatever order.
#[test]
fn calls_that_leave_one_after_the_other_hold_nothing() {
    let _alone = Alone::new();
    let name = "one after the other";
    let clock = test_util::pause_at(UNIX_EPOCH + Duration::from_secs(1_795_951_900));
    let builder = RateLimiter::builder(name).limit(Limit::new(6, SECOND));
    let limiter = builder.backend(Shelf::default().keeping_its_deadline()).build().unwrap();
    limiter.check("a", 2).unwrap();
    clock.advance(Duration::from_millis(45));
    limiter.check("a", 2).unwrap();
    let mut waits = Vec::new();
    for (ahead, cost, priority) in [(133, 3, 0), (92, 1, 0), (358, 1, 0), (192, 3, 1), (80, 1, 0)] {
        clock.advance(Duration::from_millis(ahead));
        let mut wait = call(&limiter, "a", Arrival { cost, priority, bound: Bound::No }, 1);
        assert!(begun(&mut wait, name, waits.len()).is_pending());
        waits.push(wait);
    }
    while let Some(wait) = waits.pop() {
        drop(wait);
    }
    assert_eq!(limiter.wait("a", 1).unwrap().waited(), Duration::ZERO);
}

static REDIS: LazyLock<(RedisServer, SharedBackend)> = LazyLock::new(|| {
    let server = RedisServer::start();
    let backend = RedisBackend::builder().url(server.url()).timeout(MINUTE).build().unwrap().into_backend();
    (server, backend)
});

/// The booking is the first that the bucket has seen.
#[test]
fn a_call_that_waited_for_the_end_of_a_block_and_left_holds_nothing() {
    let _alone = Alone::new();
    let name = "the end of a block";
    for backend in [Shelf::default().keeping_its_deadline().into_backend(), REDIS.1.clone()] {
        for algorithm in ALGORITHMS {
            let clock = test_util::pause_at(UNIX_EPOCH + Duration::from_secs(1_795_951_900));
            let builder = RateLimiter::builder(name).limit(Limit::new(5, SECOND).with_algorithm(algorithm));
            let limiter = builder.backend(backend.clone()).build().unwrap();
            limiter.block("a", SECOND / 2).unwrap();
            let mut wait = call(&limiter, "a", Arrival { cost: 2, priority: 0, bound: Bound::No }, 1);
            assert!(begun(&mut wait, name, 0).is_pending());
            clock.advance(SECOND / 4);
            assert!(poll_once(&mut wait).is_pending());
            drop(wait);
            clock.advance(SECOND / 4);
            assert!(limiter.check("a", 5).is_ok(), "{algorithm:?} before {backend:?}");
        }
    }
}

#[test]
fn a_call_that_waits_for_the_end_of_a_block_is_served_when_it_is_lifted() {
    let _alone = Alone::new();
    let name = "a block is lifted";
    for backend in [Shelf::default().keeping_its_deadline().into_backend(), REDIS.1.clone()] {
        let _clock = test_util::pause();
        let builder = RateLimiter::builder(name).limit(Limit::new(5, SECOND));
        let limiter = builder.backend(backend.clone()).build().unwrap();
        limiter.block("a", SECOND / 10).unwrap();
        let mut wait = call(&limiter, "a", Arrival { cost: 2, priority: 0, bound: Bound::No }, 1);
        assert!(begun(&mut wait, name, 0).is_pending());
        limiter.unblock("a").unwrap();
        assert!(poll_once(&mut wait).is_ready(), "{backend:?}");
    }
}

/// It is not booked again and again for a time at which it has gone.
#[test]
fn a_call_is_denied_if_a_block_ends_after_its_deadline() {
    let _alone = Alone::new();
    let name = "a block that ends too late";
    for backend in [Shelf::default().keeping_its_deadline().into_backend(), REDIS.1.clone()] {
        let _clock = test_util::pause();
        let builder = RateLimiter::builder(name).limit(Limit::new(1, Duration::from_millis(400)));
        let limiter = builder.backend(backend.clone()).build().unwrap();
        limiter.check("a", 1).unwrap();
        let mut wait = call(&limiter, "a", Arrival { cost: 1, priority: 0, bound: Bound::Max(500) }, 1);
        assert!(begun(&mut wait, name, 0).is_pending());
        limiter.block("a", Duration::from_millis(800)).unwrap();
        assert!(matches!(poll_once(&mut wait), Poll::Ready(Err(_))), "{backend:?}");
    }
}

/// A limiter of one limit in memory, before a store and before Redis.
fn everywhere(name: &str, limit: Limit) -> [RateLimiter; 3] {
    let builder = || RateLimiter::builder(name).limit(limit);
    let store = Shelf::default().keeping_its_deadline();
    [builder(), builder().backend(store), builder().backend(REDIS.1.clone())].map(|builder| builder.build().unwrap())
}

/// The first calls behind the block take what a full bucket holds, or the rest of a window.
#[test]
fn a_call_behind_others_on_a_blocked_key_is_told_when_its_turn_comes() {
    let _alone = Alone::new();
    let name = "behind a block and others";
    for algorithm in ALGORITHMS {
        for ahead in [1, 4, 5, 6, 9] {
            for limiter in everywhere(name, Limit::new(5, SECOND).with_algorithm(algorithm)) {
                // Half a second into a window.
                let clock = test_util::pause_at(UNIX_EPOCH + Duration::from_millis(1_795_951_900_500));
                limiter.block("a", 2 * SECOND).unwrap();
                let arrival = Arrival { cost: 1, priority: 0, bound: Bound::No };
                let mut waits: Vec<_> = (0..ahead).map(|_| call(&limiter, "a", arrival, 1)).collect();
                for (others, wait) in waits.iter_mut().enumerate() {
                    assert!(begun(wait, name, others).is_pending());
                }
                let told = limiter.check("a", 1).unwrap_err().retry_after().unwrap();
                assert!(limiter.wait_at_most("a", 1, told - Duration::from_nanos(1)).is_err(), "{limiter:?}, {ahead}");
                let waited = limiter.wait_at_most("a", 1, told).map(|decision| decision.waited());
                assert_eq!(waited.ok(), Some(told), "{algorithm:?}, {ahead} ahead: {limiter:?}");
                drop(clock);
            }
        }
    }
}

/// The bucket holds more than the last permit of those that the calls need.
#[test]
fn a_bounded_call_behind_a_larger_one_is_not_denied_too_early() {
    let _alone = Alone::new();
    let name = "behind a larger one";
    for algorithm in ALGORITHMS {
        for limiter in everywhere(name, Limit::new(5, 10 * SECOND).with_algorithm(algorithm)) {
            let _clock = test_util::pause_at(UNIX_EPOCH + Duration::from_secs(1_795_951_900));
            limiter.check("a", 1).unwrap();
            let mut large = call(&limiter, "a", Arrival { cost: 5, priority: 0, bound: Bound::No }, 1);
            assert!(begun(&mut large, name, 0).is_pending());
            let turn = if algorithm == Algorithm::TokenBucket { 4 * SECOND } else { 20 * SECOND };
            let waited = limiter.wait_at_most("a", 1, turn).map(|decision| decision.waited());
            assert_eq!(waited.ok(), Some(turn), "{limiter:?}");
        }
    }
}

/// The call that it overtakes is due after its deadline, and booked before a backend.
#[test]
fn a_bounded_call_is_not_denied_for_a_booking_that_it_overtakes() {
    let _alone = Alone::new();
    let name = "overtakes a booking";
    let windows = [Algorithm::SlidingWindow, Algorithm::FixedWindow];
    let windows = windows.map(|algorithm| Limit::new(3, SECOND).with_algorithm(algorithm));
    let bucket = Limit::new(2, SECOND).with_algorithm(Algorithm::TokenBucket).with_burst(3);
    for limit in windows.into_iter().chain([bucket]) {
        for limiter in everywhere(name, limit) {
            let clock = test_util::pause_at(UNIX_EPOCH + Duration::from_secs(1_795_951_900));
            limiter.check("a", 2).unwrap();
            let mut large = call(&limiter, "a", Arrival { cost: 3, priority: 0, bound: Bound::No }, 1);
            assert!(begun(&mut large, name, 0).is_pending());
            clock.advance(SECOND * 11 / 20);
            assert!(poll_once(large.as_mut()).is_pending());
            let mut small = call(&limiter, "a", Arrival { cost: 1, priority: 1, bound: Bound::Short }, 1);
            assert!(matches!(begun(&mut small, name, 1), Poll::Ready(Ok(_))), "{limiter:?}");
        }
    }
}

/// Before its answer the backend has seen the call's own booking.
#[test]
fn a_bounded_call_that_is_booked_at_once_is_not_denied() {
    let _alone = Alone::new();
    let name = "booked at once";
    for algorithm in ALGORITHMS {
        for limiter in everywhere(name, Limit::new(1, SECOND / 10).with_algorithm(algorithm)) {
            let _clock = test_util::pause_at(UNIX_EPOCH + Duration::from_secs(1_795_951_900));
            limiter.check("a", 1).unwrap();
            let mut first = call(&limiter, "a", Arrival { cost: 1, priority: 0, bound: Bound::No }, 1);
            assert!(begun(&mut first, name, 0).is_pending());
            let waited = limiter.wait_at_most("a", 1, SECOND / 5).map(|decision| decision.waited());
            assert_eq!(waited.ok(), Some(SECOND / 5), "{limiter:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_queue_in_memory_is_what_the_full_log_makes_it(run in run()) {
        a_queue_is_what_the_full_log_makes_it("in memory", None, run)?;
    }

    #[test]
    fn a_queue_before_a_store_is_what_the_full_log_makes_it(run in run()) {
        let store = Shelf::default().keeping_its_deadline().into_backend();
        a_queue_is_what_the_full_log_makes_it("before a store", Some(&store), run)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn a_queue_before_redis_is_what_the_full_log_makes_it(run in run()) {
        a_queue_is_what_the_full_log_makes_it("before redis", Some(&REDIS.1), run)?;
    }
}
