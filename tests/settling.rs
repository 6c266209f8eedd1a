//! Actual costs, compared with a full log: memory with and without keys, a custom store, Redis.
//!
//! The log charges an overrun by the definition, to each limit separately. What fits now is charged
//! now. Then come the rest of the last bucketful and whole bucketfuls one after the other, each as
//! soon as it fits. Nothing is admitted before the last of them.

use std::time::Duration;

use proptest::prelude::*;
use ratelimit_runtime::{
    Algorithm, BackendError, Calendar, CallPermit, Decision, ExceededKind, IntoBackend, Limit, MemoryBackend,
    OnBackendError, RateLimitExceeded, RateLimiter, RedisBackend, SharedBackend, rate_limit, test_util,
};
use ratelimit_tests::oracle::{Entry, Log, nanos};
use ratelimit_tests::{RedisServer, Shelf};
use tokio::sync::Notify;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

/// A log for each limit, and the time of the last future charge.
struct Book {
    limits: Vec<(Limit, Log)>,
    owed_until: u64,
}

impl Book {
    fn new(limits: &[Limit]) -> Book {
        Book { limits: limits.iter().map(|limit| (*limit, Log::default())).collect(), owed_until: 0 }
    }

    /// When a call is admitted; `None` if never.
    fn earliest(&self, now: u64, cost: u32) -> Option<u64> {
        if cost == 0 {
            return Some(now);
        }
        let from = now.max(self.owed_until);
        let possible = self.limits.iter().all(|(limit, _)| cost <= limit.capacity());
        possible.then(|| self.limits.iter().map(|(limit, log)| log.earliest(limit, from, cost)).max().unwrap())
    }

    fn admit(&mut self, now: u64, cost: u32) {
        for (_, log) in self.limits.iter_mut().filter(|_| cost > 0) {
            log.0.push(Entry { at: now, cost });
        }
    }

    fn charge(&mut self, now: u64, cost: u32) {
        let (from, latest) = (now.max(self.owed_until), now + nanos(366 * 24 * HOUR));
        for (limit, log) in &mut self.limits {
            let (mut left, capacity) = (cost, limit.capacity());
            let fits = (1..=left.min(capacity)).rev().find(|fits| log.admits(limit, from, *fits)).unwrap_or(0);
            let mut at = from;
            log.0.push(Entry { at, cost: fits });
            left -= fits;
            while left > 0 {
                let next = if left.is_multiple_of(capacity) { capacity } else { left % capacity };
                at = log.earliest(limit, at, next);
                if at > latest {
                    break;
                }
                log.0.push(Entry { at, cost: next });
                self.owed_until = self.owed_until.max(at);
                left -= next;
            }
        }
    }

    /// Gives back `permits` of a call admitted at `at` for `cost`.
    fn give_back(&mut self, at: u64, cost: u32, permits: u32) {
        for (_, log) in &mut self.limits {
            if let Some(entry) = log.0.iter_mut().find(|entry| entry.at == at && entry.cost == cost) {
                entry.cost -= permits;
            }
        }
    }

    fn has_bucket(&self) -> bool {
        self.limits.iter().any(|(limit, _)| limit.algorithm() == Algorithm::TokenBucket)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Check(u32),
    /// The call that was admitted last really took this many permits.
    Settle(u32),
    Charge(u32),
    Reset,
    /// In thousandths of the first limit's period.
    Advance(u32),
}

fn limits() -> impl Strategy<Value = Vec<Limit>> {
    let limit = (1_u32..=64, 1_u64..=10_000_000, prop::sample::select(&ALGORITHMS), 1_u32..=70).prop_map(
        |(count, per, algorithm, burst)| {
            let limit = Limit::new(count, Duration::from_micros(per)).with_algorithm(algorithm);
            if algorithm == Algorithm::TokenBucket { limit.with_burst(burst) } else { limit }
        },
    );
    let calendars = prop_oneof![
        2 => prop::sample::select(vec![Calendar::DAY, Calendar::WEEK]),
        1 => (1_u8..=31).prop_map(|day| Calendar::MONTH.starts_on(day)),
    ];
    let zones = prop::sample::select(vec!["UTC", "Europe/Berlin", "Australia/Lord_Howe"]);
    let calendar =
        (1_u32..=64, calendars, zones).prop_map(|(count, unit, zone)| Limit::per_calendar(count, unit.in_zone(zone)));
    prop::collection::vec(prop_oneof![6 => limit, 1 => calendar], 1..=3)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cost = || prop_oneof![8 => 1_u32..=3, 2 => 1_u32..=70, 1 => Just(0_u32)];
    let step = prop_oneof![
        10 => cost().prop_map(Step::Check),
        4 => cost().prop_map(Step::Settle),
        1 => (0_u32..=300).prop_map(Step::Settle),
        2 => (0_u32..=150).prop_map(Step::Charge),
        1 => Just(Step::Reset),
        6 => (0_u32..=700).prop_map(Step::Advance),
        2 => (0_u32..=5_000).prop_map(Step::Advance),
    ];
    prop::collection::vec(step, 1..60)
}

/// One bucket of a limiter: that of a key, or that of all calls.
struct Subject {
    limiter: RateLimiter,
    is_keyed: bool,
}

/// Calls a method with the subject's key.
macro_rules! on_key {
    ($subject:expr, $method:ident($($argument:expr),*)) => {
        if $subject.is_keyed { $subject.limiter.$method("key", $($argument),*) } else { $subject.limiter.$method((), $($argument),*) }
    };
}

impl Subject {
    fn new(backend: SharedBackend, limits: &[Limit], is_keyed: bool) -> Subject {
        let builder = RateLimiter::builder("settling").backend(backend).on_backend_error(OnBackendError::Deny);
        let limiter = limits.iter().fold(builder, |builder, limit| builder.limit(*limit)).build().unwrap();
        Subject { limiter, is_keyed }
    }

    fn check(&self, cost: u32) -> Result<Decision, RateLimitExceeded> {
        on_key!(self, check(cost))
    }

    fn left(&self) -> u32 {
        on_key!(self, peek(0)).unwrap().remaining()
    }

    fn charge(&self, cost: u32) -> Decision {
        on_key!(self, charge(cost)).unwrap()
    }

    fn reset(&self) {
        on_key!(self, reset()).unwrap();
    }
}

fn follow(subject: &Subject, limits: &[Limit], steps: &[Step]) -> Result<(), TestCaseError> {
    let clock = test_util::pause();
    let (mut book, mut last) = (Book::new(limits), None);
    // A bucket that got permits back holds less than a log without those calls suggests.
    let mut exact = true;
    for step in steps {
        let now = clock.now().as_nanos();
        match *step {
            Step::Advance(by) => {
                let by = limits[0].per().as_micros() * u128::from(by) / 1_000;
                clock.advance(Duration::from_micros(u64::try_from(by).unwrap()));
            }
            Step::Check(cost) => {
                let expected = book.earliest(now, cost);
                match subject.check(cost) {
                    Ok(decision) => {
                        prop_assert!(expected == Some(now), "admitted before {:?}", expected);
                        // The log does not distinguish two calls of one time and cost.
                        let twin = book.limits[0].1.0.iter().any(|entry| entry.at == now && entry.cost == cost);
                        book.admit(now, cost);
                        last = (cost == 0 || !twin).then_some((decision, Some(now), cost));
                    }
                    Err(exceeded) => {
                        prop_assert_eq!(exceeded.kind() == ExceededKind::CostExceedsLimit, expected.is_none());
                        if let (Some(expected), true) = (expected, exact) {
                            prop_assert_eq!(exceeded.retry_after().map(nanos), Some(expected - now));
                        }
                        prop_assert!(book.owed_until <= now || exceeded.remaining() == 0);
                    }
                }
            }
            Step::Settle(actual) => {
                let Some((decision, at, cost)) = last.take() else { continue };
                subject.limiter.settle(decision, actual).unwrap();
                if let (true, Some(at)) = (actual < cost, at) {
                    book.give_back(at, cost, cost - actual);
                    exact &= !book.has_bucket();
                } else if actual > cost {
                    book.charge(now, actual - cost);
                }
            }
            Step::Charge(cost) => {
                let decision = subject.charge(cost);
                book.charge(now, cost);
                prop_assert_eq!(decision.remaining(), subject.left());
            }
            Step::Reset => {
                subject.reset();
                // What the last call took does not come back; what it takes beyond that is still charged.
                last = last.map(|(decision, _, cost)| (decision, None, cost));
                (book, exact) = (Book::new(limits), true);
            }
        }
        prop_assert!(book.owed_until <= clock.now().as_nanos() || subject.left() == 0, "something is left in debt");
    }
    Ok(())
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn keys_in_memory_are_settled_as_a_full_log_says(limits in limits(), steps in steps()) {
        follow(&Subject::new(MemoryBackend::new().into_backend(), &limits, true), &limits, &steps)?;
    }

    #[test]
    fn calls_without_a_key_are_settled_as_a_full_log_says(limits in limits(), steps in steps()) {
        follow(&Subject::new(MemoryBackend::new().into_backend(), &limits, false), &limits, &steps)?;
    }

    #[test]
    fn a_users_store_settles_as_a_full_log_says(limits in limits(), steps in steps()) {
        follow(&Subject::new(Shelf::default().keeping_its_deadline().into_backend(), &limits, true), &limits, &steps)?;
    }
}

fn redis() -> RedisBackend {
    RedisBackend::builder().url(RedisServer::shared().url()).timeout(20 * SECOND).build().unwrap()
}

#[test]
fn redis_settles_as_a_full_log_says() {
    let backend = redis().into_backend();
    proptest!(cases(150), |(limits in limits(), steps in steps())| {
        follow(&Subject::new(backend.clone(), &limits, true), &limits, &steps)?;
    });
}

/// A language model that reports afterwards how many tokens it took.
mod annotated {
    use super::*;

    #[rate_limit(limiter = limiter, key = key, cost = cost, settle = |outcome| outcome.as_ref().map_or(cost, |tokens| *tokens))]
    pub(super) fn settled(
        limiter: &RateLimiter,
        key: &str,
        cost: u32,
        took: Option<u32>,
    ) -> Result<u32, RateLimitExceeded> {
        Ok(took.expect("the model answers"))
    }

    #[rate_limit(limiter = limiter, key = key, cost = cost, settle = |_| took, settle_later)]
    pub(super) async fn settled_later(
        limiter: &RateLimiter,
        key: &str,
        cost: u32,
        took: u32,
    ) -> Result<(), RateLimitExceeded> {
        Ok(())
    }

    #[rate_limit(limiter = limiter, key = key, cost = cost, permit = reserved, exempt_when = exempt)]
    pub(super) fn permitted(
        limiter: &RateLimiter,
        key: &str,
        cost: u32,
        exempt: bool,
    ) -> Result<CallPermit, RateLimitExceeded> {
        Ok(reserved)
    }

    #[rate_limit(limiter = limiter, key = key, cost = cost, settle = |_| 0)]
    pub(super) async fn never_ready(
        limiter: &RateLimiter,
        key: &str,
        cost: u32,
        begun: &Notify,
    ) -> Result<(), RateLimitExceeded> {
        begun.notify_one();
        std::future::pending().await
    }
}

fn limiter(backend: impl IntoBackend) -> RateLimiter {
    RateLimiter::builder("model").limit(Limit::new(10, HOUR)).backend(backend).build().unwrap()
}

fn left(limiter: &RateLimiter) -> u32 {
    limiter.peek("a", 0).unwrap().remaining()
}

/// Memory, a custom store and Redis.
fn backends() -> [SharedBackend; 3] {
    [MemoryBackend::new().into_backend(), Shelf::default().into_backend(), redis().into_backend()]
}

#[test]
fn a_panic_keeps_what_was_reserved() {
    for backend in backends() {
        let (limiter, _clock) = (limiter(backend), test_util::pause());
        annotated::settled(&limiter, "a", 5, Some(2)).unwrap();
        assert_eq!(left(&limiter), 8);
        let call = || annotated::settled(&limiter, "a", 5, None);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
        assert_eq!(left(&limiter), 3);
    }
}

#[test]
fn a_cancelled_future_keeps_what_was_reserved() {
    for backend in backends() {
        let (limiter, _clock) = (limiter(backend), test_util::pause());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let begun = Notify::new();
            tokio::select! {
                ended = annotated::never_ready(&limiter, "a", 4, &begun) => panic!("{ended:?}"),
                // Dropped once its body runs.
                () = begun.notified() => {}
            }
        });
        assert_eq!(left(&limiter), 6);
    }
}

#[test]
fn what_is_settled_later_is_settled_soon() {
    for backend in backends() {
        // No test clock: another thread sends the request.
        let limiter =
            RateLimiter::builder("model, later").limit(Limit::new(10, HOUR)).backend(backend).build().unwrap();
        limiter.reset("a").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let soon = |expected: u32| {
            let is_so = (0..500).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                left(&limiter) == expected
            });
            assert!(is_so, "{} are left instead of {expected}", left(&limiter));
        };
        runtime.block_on(annotated::settled_later(&limiter, "a", 5, 2)).unwrap();
        soon(8);
        limiter.settle_later(limiter.check("a", 1).unwrap(), 3);
        soon(5);
    }
}

#[test]
fn a_permit_settles_from_another_thread_and_keeps_its_reservation_otherwise() {
    for backend in backends() {
        let limiter = RateLimiter::builder("permits").limit(Limit::new(10, HOUR)).backend(backend).build().unwrap();
        limiter.reset("a").unwrap();
        let permit = annotated::permitted(&limiter, "a", 5, false).unwrap();
        std::thread::spawn(move || permit.settle(1)).join().unwrap().unwrap();
        assert_eq!(left(&limiter), 9);
        drop(annotated::permitted(&limiter, "a", 2, false).unwrap());
        assert_eq!(left(&limiter), 7);
        let permit = annotated::permitted(&limiter, "a", 1, false).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::spawn(permit.settle_async(4)).await }).unwrap().unwrap();
        assert_eq!(left(&limiter), 3);
        let exempt = annotated::permitted(&limiter, "a", 9, true).unwrap();
        exempt.settle(100).unwrap();
        assert_eq!(left(&limiter), 3);
    }
}

#[test]
fn after_a_reset_nothing_comes_back_and_an_overrun_is_charged() {
    for backend in backends() {
        let (limiter, _clock) = (limiter(backend), test_util::pause());
        let (more, less) = (limiter.check("a", 3).unwrap(), limiter.check("a", 3).unwrap());
        limiter.reset("a").unwrap();
        limiter.check("a", 2).unwrap();
        limiter.settle(less, 0).unwrap();
        assert_eq!(left(&limiter), 8);
        limiter.settle(more, 5).unwrap();
        assert_eq!(left(&limiter), 6);
    }
}

#[test]
fn after_its_expiry_an_overrun_is_charged_as_of_the_settling() {
    for backend in backends() {
        let (limiter, clock) = (limiter(backend), test_util::pause());
        let (more, less) = (limiter.check("a", 3).unwrap(), limiter.check("a", 3).unwrap());
        clock.advance(2 * HOUR);
        limiter.settle(less, 0).unwrap();
        limiter.settle(more, 5).unwrap();
        assert_eq!(left(&limiter), 8);
        clock.advance(HOUR - Duration::from_micros(1));
        assert_eq!(left(&limiter), 8);
        clock.advance(Duration::from_micros(1));
        assert_eq!(left(&limiter), 10);
    }
}

#[test]
fn an_overrun_is_charged_to_the_limits_that_apply_when_it_is_settled() {
    for backend in backends() {
        let (limiter, _clock) = (limiter(backend), test_util::pause());
        let call = limiter.check("a", 2).unwrap();
        let bucket = Limit::new(20, HOUR).with_algorithm(Algorithm::TokenBucket);
        limiter.set_limits(&[bucket]).unwrap();
        limiter.settle(call, 7).unwrap();
        assert_eq!(left(&limiter), 13);
    }
}

/// The groups that held them are no longer on record, and others are.
#[test]
fn permits_taken_before_a_debt_do_not_come_back_to_its_last_charge() {
    for backend in backends() {
        for count in [6, 66] {
            let limiter = RateLimiter::builder("behind a debt").limit(Limit::new(count, HOUR)).backend(backend.clone());
            let (limiter, _clock) = (limiter.build().unwrap(), test_util::pause());
            let call = limiter.check("a", 1).unwrap();
            limiter.charge("a", 3 * count).unwrap();
            let after = || limiter.peek("a", 1).unwrap_err().retry_after();
            assert_eq!(after(), Some(4 * HOUR), "{limiter:?}");
            limiter.refund(call).unwrap();
            assert_eq!(after(), Some(4 * HOUR), "{limiter:?}");
        }
    }
}

#[test]
fn a_charge_tells_when_the_limit_is_idle_whatever_another_one_owes() {
    let millis = Duration::from_millis;
    let bucket = |count, per| Limit::new(count, millis(per)).with_algorithm(Algorithm::TokenBucket);
    for backend in backends() {
        // One limit charges the last permits while the other has none left, or after it is idle.
        for (name, limits, cost, position, idle_after) in [
            ("owed to the bucket", [Limit::new(3, millis(1_000)), bucket(6, 2_400).with_burst(1)], 3, 0, 1_000),
            ("owed to the window", [Limit::new(8, millis(60_000)), bucket(4, 4_000)], 10, 1, 10_000),
        ] {
            let builder = limits.iter().fold(RateLimiter::builder(name), |builder, limit| builder.limit(*limit));
            let (limiter, _clock) = (builder.backend(backend.clone()).build().unwrap(), test_util::pause());
            let charged = limiter.charge("a", cost).unwrap();
            let checked = limiter.check("a", 0).unwrap();
            for told in [charged, checked] {
                assert_eq!((told.remaining(), told.limit_index()), (0, position), "{limiter:?}");
                assert_eq!(told.reset_after(), millis(idle_after), "{limiter:?}");
            }
        }
    }
}

#[test]
fn a_charge_of_nothing_tells_what_a_blocked_key_has_left() {
    for backend in backends() {
        let (limiter, _clock) = (limiter(backend), test_util::pause());
        limiter.check("a", 4).unwrap();
        limiter.block("a", HOUR).unwrap();
        assert_eq!(limiter.charge("a", 0).unwrap().remaining(), 6);
    }
}

/// Words in memory hold times since the process began.
#[test]
fn a_charge_counts_at_a_tests_time_from_before_the_process() {
    for backend in backends() {
        for algorithm in ALGORITHMS {
            let builder = RateLimiter::builder(format!("long ago {algorithm:?}")).backend(backend.clone());
            let limiter = builder.limit(Limit::new(10, HOUR).with_algorithm(algorithm)).build().unwrap();
            let _clock = test_util::pause_at(std::time::SystemTime::now() - 100 * HOUR);
            assert_eq!(limiter.charge("a", 4).unwrap().remaining(), 6, "{algorithm:?}");
            assert_eq!(limiter.check("a", 1).unwrap().remaining(), 5, "{algorithm:?}");
        }
    }
}

#[test]
fn what_no_limit_decided_is_not_settled() {
    for backend in backends() {
        let backend = || backend.clone();
        let (limiter, _clock) = (limiter(backend()), test_util::pause());
        let others = RateLimiter::builder("other").limit(Limit::new(10, HOUR)).backend(backend()).build().unwrap();
        limiter.settle(limiter.peek("a", 5).unwrap(), 9).unwrap();
        limiter.settle(others.check("a", 1).unwrap(), 9).unwrap();
        assert_eq!((left(&limiter), left(&others)), (10, 9));
        let dry = RateLimiter::builder("dry").limit(Limit::new(2, HOUR)).backend(backend()).dry_run().build().unwrap();
        dry.settle(dry.check("a", 5).unwrap(), 9).unwrap();
        assert_eq!(left(&dry), 2);
    }
}

/// A backend that fails.
struct Broken;

impl ratelimit_runtime::backend::Backend for Broken {
    fn decide(
        &self,
        request: &ratelimit_runtime::backend::Request,
    ) -> Result<ratelimit_runtime::backend::Answer, BackendError> {
        let mut bucket = ratelimit_runtime::backend::Bucket::from_bytes(&[1, 2, 3])?;
        Ok(bucket.apply(request, request.now()))
    }
}

#[test]
fn the_local_stand_in_settles_what_it_decided() {
    let (limiter, _clock) = (limiter(Broken), test_util::pause());
    let (less, more) = (limiter.check("a", 5).unwrap(), limiter.check("a", 2).unwrap());
    limiter.settle(less, 1).unwrap();
    limiter.settle(more, 30).unwrap();
    assert_eq!(limiter.check("a", 1).unwrap_err().retry_after(), Some(4 * HOUR));
    assert!(limiter.charge("a", 1).is_err(), "nobody knows what was charged");
}

#[test]
fn a_failing_backend_that_allows_binds_a_permit_that_settles_nothing() {
    let builder = RateLimiter::builder("allowing").limit(Limit::new(2, HOUR)).backend(Broken);
    let limiter = builder.on_backend_error(OnBackendError::Allow).build().unwrap();
    annotated::permitted(&limiter, "a", 1, false).unwrap().settle(u32::MAX).unwrap();
    limiter.settle(limiter.check("a", 1).unwrap(), 9).unwrap();
}

#[test]
fn other_processes_are_denied_by_a_debt_too() {
    let (one, other) = (limiter(redis()), limiter(redis()));
    let _clock = test_util::pause();
    other.check("a", 1).unwrap();
    one.settle(one.check("a", 1).unwrap(), 12).unwrap();
    let exceeded = other.check("a", 1).unwrap_err();
    assert_eq!((exceeded.retry_after(), exceeded.remaining()), (Some(HOUR), 0));
}

#[test]
fn a_kept_denial_does_not_hide_a_debt() {
    let limiter = RateLimiter::builder("kept").limit(Limit::new(1, HOUR)).backend(redis()).build().unwrap();
    limiter.reset("a").unwrap();
    let call = limiter.check("a", 1).unwrap();
    assert!(limiter.check("a", 1).unwrap_err().retry_after().unwrap() <= HOUR);
    limiter.settle(call, 3).unwrap();
    assert!(limiter.check("a", 1).unwrap_err().retry_after().unwrap() > 2 * HOUR);
}

/// By the real clock: the timer charges waiting calls.
#[test]
fn a_call_that_waits_already_moves_behind_a_debt() {
    let period = Duration::from_millis(200);
    let limiter = RateLimiter::builder("moved").limit(Limit::new(1, period)).backend(MemoryBackend::new());
    let limiter = limiter.build().unwrap();
    let started = std::time::Instant::now();
    limiter.check("a", 1).unwrap();
    let waiting = {
        let limiter = limiter.clone();
        std::thread::spawn(move || limiter.wait("a", 1).map(drop))
    };
    std::thread::sleep(period / 4);
    limiter.charge("a", 2).unwrap();
    waiting.join().unwrap().unwrap();
    assert!(started.elapsed() >= 3 * period, "it was admitted after {:?}", started.elapsed());
}

#[test]
fn a_reset_admits_calls_that_wait_for_a_debt() {
    let limiter = RateLimiter::builder("freed").limit(Limit::new(1, HOUR)).backend(MemoryBackend::new());
    let limiter = limiter.build().unwrap();
    limiter.charge("a", 5).unwrap();
    let waiting = {
        let limiter = limiter.clone();
        std::thread::spawn(move || limiter.wait("a", 1).map(drop))
    };
    std::thread::sleep(Duration::from_millis(50));
    limiter.reset("a").unwrap();
    waiting.join().unwrap().unwrap();
}

/// On the fast path, which a test clock does not take.
#[test]
fn the_fast_path_settles_by_what_a_call_took() {
    for algorithm in ALGORITHMS {
        let limit = Limit::new(100, 300 * 24 * HOUR).with_algorithm(algorithm);
        let limiter = RateLimiter::builder("fast").limit(limit).backend(MemoryBackend::new()).build().unwrap();
        for (cost, took, expected) in [(5, 2, 98), (5, 5, 93), (1, 4, 89), (3, 0, 89)] {
            annotated::settled(&limiter, "a", cost, Some(took)).unwrap();
            assert_eq!(left(&limiter), expected, "{algorithm:?}");
        }
    }
}

/// Each permit that was not given back is recorded once, whatever was settled at the same time.
#[test]
fn calls_that_are_settled_at_once_lose_no_permit() {
    const THREADS: u32 = 4;
    for (number, algorithm) in ALGORITHMS.into_iter().enumerate() {
        for key in ["", "a"] {
            let limit = Limit::new(1_000_000, 24 * HOUR).with_algorithm(algorithm);
            let limiter =
                RateLimiter::builder(format!("at once {number}{key}")).limit(limit).backend(MemoryBackend::new());
            let limiter = limiter.build().unwrap();
            let call = |cost, actual| {
                let decision = if key.is_empty() { limiter.check((), cost) } else { limiter.check(key, cost) };
                limiter.settle(decision.unwrap(), actual).unwrap();
            };
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    scope.spawn(move || (0..500).for_each(|step| call(3, (step + thread) % 7)));
                }
            });
            let took: u32 = (0..THREADS).flat_map(|thread| (0..500).map(move |step| (step + thread) % 7)).sum();
            let left = if key.is_empty() { limiter.peek((), 0) } else { limiter.peek(key, 0) }.unwrap().remaining();
            // A bucket refills meanwhile, and a refilled permit is not given back again.
            let flows = if algorithm == Algorithm::TokenBucket { 1_000 } else { 0 };
            assert!(left.abs_diff(1_000_000 - took) <= flows, "{algorithm:?}: {left} are left of {took} taken");
        }
    }
}
