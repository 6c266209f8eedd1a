//! One suite for every backend: the same calls at the same times get the same answers, and a full
//! log confirms them.
//!
//! Time is a test's clock, in whole microseconds, for Redis too. Buckets in memory are also called
//! through the attribute: with a key, without one, and with limits that are read at each call.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use ratelimit_runtime::{
    Algorithm, Calendar, Decision, ExceededKind, IntoBackend, Limit, MemcachedBackend, MemoryBackend, OnBackendError,
    PostgresBackend, RateLimitExceeded, RateLimiter, RedisBackend, RedisBackendBuilder, SharedBackend, Weekday,
    test_util,
};
use ratelimit_tests::oracle::{Entry, Log, nanos};
use ratelimit_tests::{MemcachedServer, PostgresServer, RedisCluster, RedisSentinel, RedisServer, RedisTls, Shelf};

#[path = "conformance/each.rs"]
mod each;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

/// How a limiter is called.
#[derive(Clone, Copy)]
enum Front {
    Blocking,
    Async,
    Attribute { form: Form, is_async: bool },
}

/// The form of the attribute.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// A limiter and a key.
    Keyed,
    /// A limiter, one for each key.
    Unkeyed,
    /// `count` and `per` as expressions, and a key.
    Read,
}

/// Annotated functions, blocking and async.
mod annotated {
    use ratelimit_runtime::{Limit, RateLimitExceeded, RateLimiter, rate_limit};

    type Limited = Result<(), RateLimitExceeded>;

    macro_rules! functions {
        ($($name:ident ($($parameter:ident: $type:ty),*) [$($arguments:tt)*];)*) => {
            $(
                #[rate_limit($($arguments)*)]
                pub(super) fn $name($($parameter: $type),*) -> Limited {
                    Ok(())
                }
            )*

            pub(super) mod futures {
                use super::*;

                $(
                    #[rate_limit($($arguments)*)]
                    pub(in super::super) async fn $name($($parameter: $type),*) -> Limited {
                        Ok(())
                    }
                )*
            }
        };
    }

    #[rate_limit(limiter = limiter, key = key, cost = cost, wait)]
    pub(super) fn keyed_waiting(limiter: &RateLimiter, key: &str, cost: u32) -> Limited {
        Ok(())
    }

    #[rate_limit(limiter = limiter, cost = cost, wait)]
    pub(super) fn unkeyed_waiting(limiter: &RateLimiter, cost: u32) -> Limited {
        Ok(())
    }

    functions! {
        keyed_one(limiter: &RateLimiter, key: &str) [limiter = limiter, key = key];
        keyed(limiter: &RateLimiter, key: &str, cost: u32) [limiter = limiter, key = key, cost = cost];
        keyed_given_back(limiter: &RateLimiter, key: &str, cost: u32)
            [limiter = limiter, key = key, cost = cost, deduct_when = Result::is_err];
        keyed_settled(limiter: &RateLimiter, key: &str, cost: u32, actual: u32)
            [limiter = limiter, key = key, cost = cost, settle = |_| actual];
        unkeyed_settled(limiter: &RateLimiter, cost: u32, actual: u32)
            [limiter = limiter, cost = cost, settle = |_| actual];
        unkeyed_one(limiter: &RateLimiter) [limiter = limiter];
        unkeyed(limiter: &RateLimiter, cost: u32) [limiter = limiter, cost = cost];
        unkeyed_given_back(limiter: &RateLimiter, cost: u32)
            [limiter = limiter, cost = cost, deduct_when = Result::is_err];
        read_window(limit: Limit, key: &str, cost: u32)
            [count = limit.count(), per = limit.per(), key = key, cost = cost];
        read_bucket(limit: Limit, key: &str, cost: u32)
            [count = limit.count(), per = limit.per(), algorithm = token_bucket, key = key, cost = cost];
        read_fixed(limit: Limit, key: &str, cost: u32)
            [count = limit.count(), per = limit.per(), algorithm = fixed_window, key = key, cost = cost];
        read_month(limit: Limit, key: &str, cost: u32)
            [count = limit.count(), calendar = "month", starts_on = limit.calendar().map_or(1, |month| month.first_day()),
             algorithm = fixed_window, key = key, cost = cost];
    }
}

/// Limiters of one name and with the same limits, called through one front.
struct Subject {
    limiter: RateLimiter,
    limits: RefCell<Vec<Limit>>,
    front: Front,
    /// Limiters without keys, by the key that each stands for.
    unkeyed: RefCell<HashMap<String, RateLimiter>>,
    make: Box<dyn Fn(&str) -> RateLimiter>,
}

/// An admitted call.
struct Taken<'a> {
    subject: &'a Subject,
    key: String,
    /// None through the attribute, which keeps the decision.
    decision: Option<Decision>,
}

impl std::fmt::Debug for Taken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taken").field("decision", &self.decision).finish_non_exhaustive()
    }
}

impl Taken<'_> {
    fn remaining(&self) -> u32 {
        match &self.decision {
            Some(decision) => decision.remaining(),
            None => self.subject.peek(&self.key, 0).unwrap().remaining(),
        }
    }
}

/// Runs a future on this thread. Backends wake it from other threads.
fn block_on<F: Future>(future: F) -> F::Output {
    futures_executor::block_on(future)
}

/// Calls an annotated function or its async twin.
macro_rules! annotated {
    ($is_async:expr, $name:ident($($argument:expr),*)) => {
        if $is_async { block_on(annotated::futures::$name($($argument),*)) } else { annotated::$name($($argument),*) }
    };
}

impl Subject {
    fn check(&self, key: &str, cost: u32) -> Result<Taken<'_>, RateLimitExceeded> {
        let decision = match self.front {
            Front::Blocking => Some(self.limiter.check(key, cost)?),
            Front::Async => Some(block_on(self.limiter.check_async(key, cost))?),
            Front::Attribute { form, is_async } => {
                self.call(form, is_async, key, cost)?;
                None
            }
        };
        Ok(Taken { subject: self, key: key.to_owned(), decision })
    }

    fn call(&self, form: Form, is_async: bool, key: &str, cost: u32) -> Result<(), RateLimitExceeded> {
        let limiter = self.limiter_of(key);
        let limits = self.limits.borrow();
        match (form, &limits[..], cost) {
            (Form::Read, [limit], _) if limit.burst() == limit.count() => match limit.algorithm() {
                _ if limit.calendar().is_some() => annotated!(is_async, read_month(*limit, key, cost)),
                Algorithm::TokenBucket => annotated!(is_async, read_bucket(*limit, key, cost)),
                Algorithm::FixedWindow => annotated!(is_async, read_fixed(*limit, key, cost)),
                _ => annotated!(is_async, read_window(*limit, key, cost)),
            },
            (Form::Unkeyed, _, 1) => annotated!(is_async, unkeyed_one(&limiter)),
            (Form::Unkeyed, ..) => annotated!(is_async, unkeyed(&limiter, cost)),
            (_, _, 1) => annotated!(is_async, keyed_one(&limiter, key)),
            _ => annotated!(is_async, keyed(&limiter, key, cost)),
        }
    }

    /// Checks a call whose permits are given back when it returns.
    fn check_and_give_back(&self, key: &str, cost: u32) -> Result<(), RateLimitExceeded> {
        match self.front {
            Front::Attribute { form: Form::Keyed, is_async } => {
                annotated!(is_async, keyed_given_back(&self.limiter, key, cost))
            }
            Front::Attribute { form: Form::Unkeyed, is_async } => {
                annotated!(is_async, unkeyed_given_back(&self.limiter_of(key), cost))
            }
            Front::Attribute { form: Form::Read, .. } => unreachable!("its permits are not given back"),
            Front::Blocking | Front::Async => {
                let decision = self.check(key, cost)?.decision;
                self.refund(key, decision.expect("a method's decision"));
                Ok(())
            }
        }
    }

    /// Checks a call that turns out to take `actual` permits.
    fn check_and_settle(&self, key: &str, cost: u32, actual: u32) -> Result<(), RateLimitExceeded> {
        match self.front {
            Front::Attribute { form: Form::Keyed, is_async } => {
                annotated!(is_async, keyed_settled(&self.limiter, key, cost, actual))
            }
            Front::Attribute { form: Form::Unkeyed, is_async } => {
                annotated!(is_async, unkeyed_settled(&self.limiter_of(key), cost, actual))
            }
            Front::Attribute { form: Form::Read, .. } => unreachable!("it is not settled"),
            Front::Blocking | Front::Async => {
                let decision = self.check(key, cost)?.decision.expect("a method's decision");
                match self.front {
                    Front::Async => block_on(self.limiter.settle_async(decision, actual)),
                    _ => self.limiter.settle(decision, actual),
                }
                .unwrap();
                Ok(())
            }
        }
    }

    fn charge(&self, key: &str, cost: u32) -> Decision {
        match self.front {
            Front::Attribute { form: Form::Unkeyed, .. } => self.limiter_of(key).charge((), cost),
            Front::Async => block_on(self.limiter.charge_async(key, cost)),
            Front::Blocking | Front::Attribute { .. } => self.limiter.charge(key, cost),
        }
        .unwrap()
    }

    fn limiter_of(&self, key: &str) -> RateLimiter {
        let Front::Attribute { form: Form::Unkeyed, .. } = self.front else { return self.limiter.clone() };
        self.unkeyed.borrow_mut().entry(key.to_owned()).or_insert_with(|| (self.make)(key)).clone()
    }

    fn peek(&self, key: &str, cost: u32) -> Result<Decision, RateLimitExceeded> {
        match self.front {
            Front::Attribute { form: Form::Unkeyed, .. } => self.limiter_of(key).peek((), cost),
            Front::Async => block_on(self.limiter.peek_async(key, cost)),
            Front::Blocking | Front::Attribute { .. } => self.limiter.peek(key, cost),
        }
    }

    fn refund(&self, key: &str, decision: Decision) {
        match self.front {
            Front::Async => block_on(self.limiter.refund_async(decision)),
            _ => self.limiter_of(key).refund(decision),
        }
        .unwrap();
    }

    fn reset(&self, key: &str) {
        match self.front {
            Front::Attribute { form: Form::Unkeyed, .. } => self.limiter_of(key).reset(()),
            // These functions' limiters have no handle.
            Front::Attribute { form: Form::Read, .. } => {
                test_util::reset();
                Ok(())
            }
            Front::Async => block_on(self.limiter.reset_async(key)),
            Front::Blocking | Front::Attribute { .. } => self.limiter.reset(key),
        }
        .unwrap();
    }

    fn block(&self, key: &str, time: Duration) {
        match self.front {
            Front::Attribute { form: Form::Unkeyed, .. } => self.limiter_of(key).block((), time),
            Front::Async => block_on(self.limiter.block_async(key, time)),
            Front::Blocking | Front::Attribute { .. } => self.limiter.block(key, time),
        }
        .unwrap();
    }

    fn unblock(&self, key: &str) {
        match self.front {
            Front::Attribute { form: Form::Unkeyed, .. } => self.limiter_of(key).unblock(()),
            Front::Async => block_on(self.limiter.unblock_async(key)),
            Front::Blocking | Front::Attribute { .. } => self.limiter.unblock(key),
        }
        .unwrap();
    }

    fn blocked(&self, key: &str) -> Option<Duration> {
        match self.front {
            Front::Attribute { form: Form::Unkeyed, .. } => self.limiter_of(key).blocked(()),
            Front::Async => block_on(self.limiter.blocked_async(key)),
            Front::Blocking | Front::Attribute { .. } => self.limiter.blocked(key),
        }
        .unwrap()
    }

    /// The kind of a denial, and when the call would be admitted.
    fn denied(&self, key: &str, cost: u32) -> (ExceededKind, Option<Duration>) {
        let exceeded = self.check(key, cost).unwrap_err();
        (exceeded.kind(), exceeded.retry_after())
    }

    fn set_limits(&self, limits: &[Limit]) {
        *self.limits.borrow_mut() = limits.to_vec();
        self.limiter.set_limits(limits).unwrap();
        for limiter in self.unkeyed.borrow().values() {
            limiter.set_limits(limits).unwrap();
        }
    }

    /// Waits. The clock advances by itself.
    fn wait_at_most(&self, key: &str, cost: u32, max: Duration) -> Result<Option<Decision>, RateLimitExceeded> {
        match self.front {
            Front::Attribute { form: Form::Keyed, .. } if max == Duration::MAX => {
                annotated::keyed_waiting(&self.limiter, key, cost).map(|()| None)
            }
            Front::Attribute { form: Form::Unkeyed, .. } if max == Duration::MAX => {
                annotated::unkeyed_waiting(&self.limiter_of(key), cost).map(|()| None)
            }
            Front::Attribute { form: Form::Unkeyed, .. } => self.limiter_of(key).wait_at_most((), cost, max).map(Some),
            _ => self.limiter.wait_at_most(key, cost, max).map(Some),
        }
    }

    fn admitted(&self, key: &str, calls: usize) -> usize {
        (0..calls).filter(|_| self.check(key, 1).is_ok()).count()
    }

    /// Whether there is only the attribute, and no handle to the limiter.
    fn is_read(&self) -> bool {
        matches!(self.front, Front::Attribute { form: Form::Read, .. })
    }
}

/// Makes subjects of one backend.
struct Stage {
    backend: SharedBackend,
    front: Front,
}

impl Stage {
    fn subject(&self, limits: &[Limit]) -> Subject {
        self.with(limits, |builder| builder)
    }

    fn with(
        &self,
        limits: &[Limit],
        more: impl Fn(ratelimit_runtime::RateLimiterBuilder) -> ratelimit_runtime::RateLimiterBuilder + 'static,
    ) -> Subject {
        let (backend, all) = (self.backend.clone(), limits.to_vec());
        let make = move |name: &str| {
            let builder = RateLimiter::builder(format!("conformance{name}")).backend(backend.clone());
            // Makes failures of the backend visible.
            let builder = builder.on_backend_error(OnBackendError::Deny);
            let builder = all.iter().fold(builder, |builder, limit| builder.limit(*limit));
            more(builder).build().unwrap()
        };
        Subject {
            limiter: make(""),
            limits: RefCell::new(limits.to_vec()),
            front: self.front,
            unkeyed: RefCell::default(),
            make: Box::new(make),
        }
    }
}

mod scenarios {
    pub(super) use super::each::*;
    use super::*;

    pub(super) fn count_calls_are_admitted_and_not_one_more(stage: &Stage) {
        for algorithm in ALGORITHMS {
            for count in [1, 2, 63, 64, 65, 1_000] {
                let subject = stage.subject(&[Limit::new(count, MINUTE).with_algorithm(algorithm)]);
                let _clock = test_util::pause();
                let calls = count as usize + 5;
                assert_eq!(subject.admitted("a", calls), count as usize, "{algorithm:?}");
                assert_eq!(subject.admitted("b", 1), 1, "keys are apart");
            }
        }
    }

    pub(super) fn the_window_slides(stage: &Stage) {
        let subject = stage.subject(&[Limit::new(2, SECOND)]);
        let clock = test_util::pause();
        subject.check("a", 1).unwrap();
        clock.advance(SECOND / 2);
        subject.check("a", 1).unwrap();
        assert_eq!(subject.check("a", 1).unwrap_err().retry_after(), Some(SECOND / 2));
        clock.advance(SECOND / 2 - Duration::from_micros(1));
        assert!(subject.check("a", 1).is_err());
        clock.advance(Duration::from_micros(1));
        assert!(subject.check("a", 1).is_ok());
        assert_eq!(subject.check("a", 1).unwrap_err().retry_after(), Some(SECOND / 2));
    }

    pub(super) fn a_token_bucket_holds_burst_and_refills_evenly(stage: &Stage) {
        let limit = Limit::new(3, SECOND).with_algorithm(Algorithm::TokenBucket).with_burst(5);
        let subject = stage.subject(&[limit]);
        let clock = test_util::pause();
        assert_eq!(subject.admitted("a", 9), 5);
        assert_eq!(subject.check("a", 1).unwrap_err().retry_after(), Some(Duration::from_micros(333_334)));
        for _ in 0..3 {
            clock.advance(Duration::from_micros(333_334));
            assert_eq!(subject.admitted("a", 2), 1);
        }
    }

    pub(super) fn a_fixed_window_begins_at_a_multiple_of_its_period(stage: &Stage) {
        let subject = stage.subject(&[Limit::new(2, SECOND).with_algorithm(Algorithm::FixedWindow)]);
        let clock = test_util::pause();
        clock.advance(Duration::from_nanos(1_000_000_000 - clock.now().as_nanos() % 1_000_000_000));
        clock.advance(SECOND - Duration::from_micros(1));
        assert_eq!(subject.admitted("a", 3), 2);
        assert_eq!(subject.check("a", 1).unwrap_err().retry_after(), Some(Duration::from_micros(1)));
        clock.advance(Duration::from_micros(1));
        assert_eq!(subject.admitted("a", 3), 2);
        assert_eq!(subject.check("a", 1).unwrap_err().retry_after(), Some(SECOND));
    }

    /// The clock, `before` the time that is this many seconds after 1970.
    fn clock_at(seconds: u64, before: Duration) -> test_util::TestClock {
        test_util::pause_at(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) - before)
    }

    const HOUR: Duration = Duration::from_secs(3_600);
    const TICK: Duration = Duration::from_micros(1);

    pub(super) fn a_calendar_follows_the_clocks_of_its_zone(stage: &Stage) {
        let berlin = Calendar::DAY.in_zone("Europe/Berlin");
        for (calendar, begin, hours) in [
            // Clocks skip an hour, and repeat one.
            (berlin, 1_774_738_800, 23),
            (berlin, 1_792_879_200, 25),
            // Midnight is skipped.
            (Calendar::DAY.in_zone("Asia/Beirut"), 1_743_285_600, 23),
            (Calendar::WEEK.in_zone("America/New_York").week_starts(Weekday::Sunday), 1_793_505_600, 7 * 24 + 1),
            // From 31 January to 28 February.
            (Calendar::MONTH.starts_on(31), 1_801_353_600, 28 * 24),
            (Calendar::YEAR.in_zone("Europe/Berlin"), 1_798_758_000, 365 * 24),
        ] {
            let subject = stage.subject(&[Limit::per_calendar(3, calendar)]);
            let clock = clock_at(begin, TICK);
            assert_eq!(subject.admitted("a", 9), 3, "{calendar}");
            assert_eq!(subject.check("a", 1).unwrap_err().retry_after(), Some(TICK), "{calendar}");
            clock.advance(TICK);
            assert_eq!(subject.check("a", 2).unwrap().remaining(), 1, "{calendar}");
            assert_eq!(subject.check("a", 2).unwrap_err().retry_after(), Some(hours * HOUR), "{calendar}");
            assert_eq!(subject.peek("a", 1).unwrap().reset_after(), hours * HOUR, "{calendar}");
            clock.advance(hours * HOUR - TICK);
            assert_eq!(subject.admitted("a", 9), 1, "{calendar}");
            clock.advance(TICK);
            assert_eq!(subject.admitted("a", 9), 3, "{calendar}");
        }
    }

    pub(super) fn calls_wait_for_the_next_windows_of_a_calendar(stage: &Stage) {
        let calendar = Calendar::DAY.in_zone("Europe/Berlin");
        let subject = stage.subject(&[Limit::per_calendar(2, calendar), Limit::new(100, MINUTE)]);
        // From the day before clocks skip an hour.
        let clock = clock_at(1_774_738_800, HOUR);
        let start = clock.now();
        let mut times = Vec::new();
        for _ in 0..7 {
            let _ = subject.wait_at_most("a", 1, Duration::MAX).unwrap();
            times.push(clock.now().since(start).as_secs() / 3_600);
        }
        assert_eq!(times, [0, 0, 1, 1, 24, 24, 48]);
        let exceeded = subject.wait_at_most("a", 2, HOUR).unwrap_err();
        assert_eq!(exceeded.retry_after(), Some(24 * HOUR));
    }

    pub(super) fn a_month_may_start_on_another_day(stage: &Stage) {
        let month = |day| Limit::per_calendar(3, Calendar::MONTH.starts_on(day));
        let subject = stage.subject(&[month(1)]);
        // Noon of 20 January 2027.
        let clock = clock_at(1_800_446_400, Duration::ZERO);
        let (noon, days) = (12 * HOUR, |days: u32| days * 24 * HOUR);
        let until = |subject: &Subject| subject.check("a", 1).unwrap_err().retry_after();
        assert_eq!(subject.admitted("a", 9), 3);
        assert_eq!(until(&subject), Some(days(11) + noon));
        // The permits taken count in the new window that contains them.
        subject.set_limits(&[month(15)]);
        assert_eq!(until(&subject), Some(days(25) + noon));
        subject.set_limits(&[month(25)]);
        assert_eq!(until(&subject), Some(days(4) + noon));
        clock.advance(days(4) + noon);
        assert_eq!(subject.admitted("a", 9), 3);
        // The same three count in the window from 15 January: they were taken on the 25th.
        subject.set_limits(&[month(15)]);
        assert_eq!(until(&subject), Some(days(21)));
        // A limit without a calendar also counts them until its own window ends.
        if !subject.is_read() {
            subject.set_limits(&[Limit::per_day(4).with_algorithm(Algorithm::FixedWindow)]);
            assert_eq!(subject.admitted("a", 9), 1);
            subject.set_limits(&[month(15)]);
            assert_eq!(subject.admitted("a", 9), 0);
        }
    }

    pub(super) fn random_traces_by_the_calendar_are_what_a_full_log_says(stage: &Stage) {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let zones = prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Asia/Beirut"), Just("America/St_Johns")];
        let units = prop_oneof![
            3 => Just(Calendar::DAY),
            1 => Just(Calendar::WEEK.week_starts(Weekday::Saturday)),
            2 => (1_u8..=31).prop_map(|day| Calendar::MONTH.starts_on(day)),
        ];
        let calendar =
            (1_u32..=64, zones, units).prop_map(|(count, zone, unit)| Limit::per_calendar(count, unit.in_zone(zone)));
        let limits = (calendar.clone(), prop::collection::vec(prop_oneof![calendar, limit()], 0..=2))
            .prop_map(|(first, others)| [vec![first], others].concat());
        let trace = (limits, prop::collection::vec(step(), 1..40));
        runner.run(&trace, |(limits, steps)| follow(stage, &limits, &steps)).unwrap();
    }

    pub(super) fn several_limits_are_charged_together_or_not_at_all(stage: &Stage) {
        let subject = stage.subject(&[
            Limit::new(5, SECOND),
            Limit::new(8, MINUTE).with_algorithm(Algorithm::TokenBucket),
            Limit::new(7, Duration::from_secs(3_600)).with_algorithm(Algorithm::FixedWindow),
        ]);
        let clock = test_util::pause();
        // Well inside a window of the third limit.
        clock.advance(Duration::from_nanos(3_600_000_000_000 - clock.now().as_nanos() % 3_600_000_000_000));
        assert_eq!(subject.admitted("a", 20), 5);
        clock.advance(SECOND);
        assert_eq!(subject.admitted("a", 20), 2);
        let exceeded = subject.check("a", 1).unwrap_err();
        assert_eq!(exceeded.limit_index(), 2);
        assert_eq!(exceeded.retry_after(), Some(Duration::from_secs(3_599)));
    }

    pub(super) fn costs_are_taken_whole(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(10, MINUTE).with_algorithm(algorithm)]);
            let _clock = test_util::pause();
            assert_eq!(subject.check("a", 7).unwrap().remaining(), 3);
            assert_eq!(subject.check("a", 4).unwrap_err().remaining(), 3);
            assert_eq!(subject.check("a", 0).unwrap().remaining(), 3);
            assert_eq!(subject.check("a", 3).unwrap().remaining(), 0);
            assert_eq!(subject.check("a", 11).unwrap_err().kind(), ExceededKind::CostExceedsLimit);
            assert_eq!(subject.check("a", u32::MAX).unwrap_err().retry_after(), None);
            assert!(subject.check("a", 0).is_ok());
        }
    }

    pub(super) fn peek_refund_and_reset_do_what_they_say(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(2, MINUTE).with_algorithm(algorithm)]);
            let _clock = test_util::pause();
            assert_eq!(subject.peek("a", 1).unwrap().remaining(), 2);
            let first = subject.check("a", 1).unwrap();
            subject.check("a", 1).unwrap();
            assert!(subject.peek("a", 1).is_err());
            let Some(first) = first.decision else {
                // An annotated function gives back its permits itself.
                subject.reset("a");
                assert_eq!(subject.admitted("a", 1), 1);
                subject.check_and_give_back("a", 1).unwrap();
                assert_eq!(subject.admitted("a", 3), 1, "{algorithm:?}");
                continue;
            };
            subject.refund("a", first);
            assert_eq!(subject.admitted("a", 3), 1, "{algorithm:?}");
            subject.reset("a");
            assert_eq!(subject.admitted("a", 3), 2, "{algorithm:?}");
        }
    }

    pub(super) fn a_call_is_settled_by_what_it_really_cost(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(10, SECOND).with_algorithm(algorithm)]);
            let clock = test_util::pause();
            clock.advance(Duration::from_nanos(1_000_000_000 - clock.now().as_nanos() % 1_000_000_000));
            let left = || subject.peek("a", 0).unwrap().remaining();
            subject.check_and_settle("a", 5, 2).unwrap();
            assert_eq!(left(), 8, "{algorithm:?}");
            subject.check_and_settle("a", 3, 3).unwrap();
            subject.check_and_settle("a", 0, 1).unwrap();
            assert_eq!(left(), 4, "{algorithm:?}");
            // 1 permit is reserved, 3 more fit, and 21 are owed.
            subject.check_and_settle("a", 1, 25).unwrap();
            assert_eq!(left(), 0);
            let exceeded = subject.check("a", 1).unwrap_err();
            let owed = if algorithm == Algorithm::TokenBucket { 2_200 } else { 4_000 };
            assert_eq!(exceeded.retry_after(), Some(Duration::from_millis(owed)), "{algorithm:?}");
            assert_eq!((exceeded.kind(), exceeded.remaining()), (ExceededKind::Limited, 0));
            assert!(subject.check("a", 0).is_ok());
            clock.advance(Duration::from_millis(owed) - Duration::from_micros(1));
            assert!(subject.check("a", 1).is_err(), "{algorithm:?}");
            clock.advance(Duration::from_micros(1));
            assert!(subject.check("a", 1).is_ok(), "{algorithm:?}");
        }
    }

    pub(super) fn each_limit_is_charged_by_itself(stage: &Stage) {
        let subject = stage.subject(&[Limit::new(10, SECOND), Limit::new(12, MINUTE)]);
        let clock = test_util::pause();
        assert_eq!(subject.charge("a", 4).remaining(), 6);
        // One permit of the first limit is owed for a second, and none of the second limit.
        assert_eq!(subject.charge("a", 7).remaining(), 0);
        assert_eq!(subject.check("a", 1).unwrap_err().retry_after(), Some(SECOND));
        clock.advance(SECOND);
        assert_eq!(subject.peek("a", 0).unwrap().remaining(), 1);
        subject.check("a", 1).unwrap();
        let exceeded = subject.check("a", 1).unwrap_err();
        assert_eq!((exceeded.limit_index(), exceeded.retry_after()), (1, Some(59 * SECOND)));
    }

    pub(super) fn a_debt_is_bounded_and_a_reset_forgets_it(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(2, MINUTE).with_algorithm(algorithm)]);
            let _clock = test_util::pause();
            let days = |days: u32| days * 24 * 60 * MINUTE;
            assert_eq!(subject.charge("a", u32::MAX).remaining(), 0);
            let after = subject.check("a", 2).unwrap_err().retry_after().unwrap();
            assert!(after > days(366) - MINUTE && after <= days(366) + MINUTE, "{algorithm:?}: {after:?}");
            subject.check_and_settle("b", 1, 9).unwrap();
            subject.reset("a");
            assert_eq!(subject.admitted("a", 3), 2, "{algorithm:?}");
            assert_eq!(subject.admitted("b", 3), 0, "keys are apart");
        }
    }

    pub(super) fn waiting_calls_wait_for_debts(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(2, SECOND).with_algorithm(algorithm)]);
            let clock = test_util::pause();
            clock.advance(Duration::from_nanos(1_000_000_000 - clock.now().as_nanos() % 1_000_000_000));
            let start = clock.now();
            subject.charge("a", 5);
            let _ = subject.wait_at_most("a", 1, Duration::MAX).unwrap();
            let waited = clock.now().since(start);
            // The debt is one permit, then two: in a window, after one and two periods.
            let expected = if algorithm == Algorithm::TokenBucket { 2_000 } else { 3_000 };
            assert_eq!(waited, Duration::from_millis(expected), "{algorithm:?}");
        }
    }

    pub(super) fn waiting_books_in_order(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(2, SECOND).with_algorithm(algorithm)]);
            let clock = test_util::pause();
            clock.advance(Duration::from_nanos(1_000_000_000 - clock.now().as_nanos() % 1_000_000_000));
            let start = clock.now();
            let mut times = Vec::new();
            for _ in 0..7 {
                let _ = subject.wait_at_most("a", 1, Duration::MAX).unwrap();
                times.push(clock.now().since(start));
            }
            let expected = match algorithm {
                Algorithm::TokenBucket => [0, 0, 500, 1_000, 1_500, 2_000, 2_500],
                _ => [0, 0, 1_000, 1_000, 2_000, 2_000, 3_000],
            };
            assert_eq!(times, expected.map(Duration::from_millis), "{algorithm:?}");
            let exceeded = subject.wait_at_most("a", 2, Duration::from_millis(1)).unwrap_err();
            assert_eq!(exceeded.kind(), ExceededKind::Limited);
        }
    }

    pub(super) fn a_call_that_waited_learns_when_its_limit_is_idle(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(2, SECOND).with_algorithm(algorithm), Limit::new(9, 9 * SECOND)]);
            let _clock = clock_at(1_795_951_900, Duration::ZERO);
            assert_eq!(subject.admitted("a", 3), 2);
            if let Some(waited) = subject.wait_at_most("a", 2, Duration::MAX).unwrap() {
                assert_eq!(
                    (waited.waited(), waited.limit_index(), waited.remaining()),
                    (SECOND, 0, 0),
                    "{algorithm:?}"
                );
                assert_eq!(waited.reset_after(), SECOND, "{algorithm:?}");
            }
        }
    }

    pub(super) fn a_call_of_cost_0_waits_for_the_end_of_a_block_and_for_no_debt(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(2, SECOND).with_algorithm(algorithm)]);
            let clock = clock_at(1_795_951_900, Duration::ZERO);
            let start = clock.now();
            subject.charge("a", 5);
            subject.block("a", SECOND / 2);
            let waited = subject.wait_at_most("a", 0, SECOND).unwrap();
            assert_eq!(clock.now().since(start), SECOND / 2, "{algorithm:?}");
            if let Some(waited) = waited {
                let idle_after = if algorithm == Algorithm::TokenBucket { 2_000 } else { 2_500 };
                assert_eq!((waited.waited(), waited.remaining()), (SECOND / 2, 0), "{algorithm:?}");
                assert_eq!(waited.reset_after(), Duration::from_millis(idle_after), "{algorithm:?}");
            }
            subject.block("b", SECOND / 2);
            if let Some(waited) = subject.wait_at_most("b", 0, SECOND).unwrap() {
                assert_eq!((waited.remaining(), waited.reset_after()), (2, Duration::ZERO), "{algorithm:?}");
            }
            // The debt ends before the block does.
            subject.charge("c", 3);
            subject.block("c", 3 * SECOND);
            if let Some(waited) = subject.wait_at_most("c", 0, 3 * SECOND).unwrap() {
                assert_eq!((waited.remaining(), waited.reset_after()), (2, Duration::ZERO), "{algorithm:?}");
            }
        }
    }

    pub(super) fn permits_given_back_do_not_delay_the_reset(stage: &Stage) {
        let subject = stage.subject(&[Limit::new(9, SECOND)]);
        let clock = test_util::pause();
        let first = subject.check("a", 1).unwrap().decision;
        clock.advance(SECOND / 4);
        let (Some(first), Some(second)) = (first, subject.check("a", 1).unwrap().decision) else { return };
        let reset = || subject.peek("a", 0).unwrap().reset_after();
        assert_eq!(reset(), SECOND);
        subject.refund("a", second);
        assert_eq!(reset(), SECOND * 3 / 4);
        subject.refund("a", first);
        assert_eq!(reset(), Duration::ZERO);
    }

    pub(super) fn backoff_doubles_and_forgives(stage: &Stage) {
        let subject = stage.with(&[Limit::new(1, SECOND)], |builder| builder.backoff(5 * SECOND, 20 * SECOND));
        let clock = test_util::pause();
        subject.check("a", 1).unwrap();
        for expected in [5, 10, 20, 20] {
            assert_eq!(subject.check("a", 1).unwrap_err().retry_after(), Some(expected * SECOND));
        }
        clock.advance(20 * SECOND);
        subject.check("a", 1).unwrap();
        assert_eq!(subject.check("a", 1).unwrap_err().retry_after(), Some(5 * SECOND));
    }

    pub(super) fn a_blocked_key_is_denied_whatever_it_has_left(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(2, MINUTE).with_algorithm(algorithm)]);
            let clock = test_util::pause();
            assert_eq!(subject.blocked("a"), None);
            subject.check("a", 1).unwrap();
            subject.block("a", 10 * SECOND);
            // An earlier end changes nothing.
            subject.block("a", SECOND);
            assert_eq!(subject.blocked("a"), Some(10 * SECOND));
            for cost in [0, 1] {
                let exceeded = subject.check("a", cost).unwrap_err();
                assert_eq!((exceeded.kind(), exceeded.retry_after()), (ExceededKind::Blocked, Some(10 * SECOND)));
                assert_eq!(exceeded.remaining(), 1, "it is charged nothing");
                assert_eq!(subject.peek("a", cost).unwrap_err().kind(), ExceededKind::Blocked);
            }
            assert_eq!(subject.denied("a", 3), (ExceededKind::CostExceedsLimit, None));
            assert_eq!(subject.admitted("b", 3), 2, "another key");
            // A reset forgets the permits taken, but no block.
            subject.reset("a");
            assert_eq!(subject.denied("a", 1), (ExceededKind::Blocked, Some(10 * SECOND)));
            clock.advance(10 * SECOND);
            assert_eq!(subject.blocked("a"), None);
            assert_eq!(subject.admitted("a", 3), 2, "{algorithm:?}");
            assert_eq!(subject.check("a", 1).unwrap_err().kind(), ExceededKind::Limited);
            subject.block("a", Duration::MAX);
            assert_eq!(subject.blocked("a"), Some(Duration::from_secs(366 * 86_400)));
            subject.unblock("a");
            assert_eq!(subject.blocked("a"), None);
            assert_eq!(subject.check("a", 1).unwrap_err().kind(), ExceededKind::Limited);
        }
    }

    pub(super) fn after_a_block_it_is_the_limit_that_denies(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let subject = stage.subject(&[Limit::new(1, MINUTE).with_algorithm(algorithm)]);
            let clock = test_util::pause();
            clock.advance(Duration::from_nanos(60_000_000_000 - clock.now().as_nanos() % 60_000_000_000));
            subject.check("a", 1).unwrap();
            subject.block("a", SECOND / 2);
            assert_eq!(subject.denied("a", 1), (ExceededKind::Blocked, Some(MINUTE)));
            assert_eq!(subject.denied("a", 1), (ExceededKind::Blocked, Some(MINUTE)));
            clock.advance(SECOND / 2);
            assert_eq!(subject.denied("a", 1), (ExceededKind::Limited, Some(MINUTE - SECOND / 2)), "{algorithm:?}");
        }
    }

    pub(super) fn the_end_of_a_block_ends_no_other(stage: &Stage) {
        let subject = stage.subject(&[Limit::new(2, MINUTE)]);
        let _clock = test_util::pause();
        let keys: Vec<String> = (0..300).map(|number| format!("user {number}")).collect();
        for key in &keys {
            subject.block(key, 10 * SECOND);
        }
        for (number, key) in keys.iter().enumerate() {
            if number.is_multiple_of(2) {
                subject.unblock(key);
            }
        }
        let blocked = |key: &&String| subject.check(key, 1).is_err();
        assert_eq!(keys.iter().filter(blocked).count(), 150);
        assert_eq!(keys.iter().step_by(2).filter(blocked).count(), 0);
    }

    pub(super) fn a_call_that_waits_waits_for_the_end_of_a_block(stage: &Stage) {
        let subject = stage.subject(&[Limit::new(2, MINUTE)]);
        let clock = test_util::pause();
        subject.block("a", 10 * SECOND);
        let exceeded = subject.wait_at_most("a", 1, 9 * SECOND).unwrap_err();
        assert_eq!((exceeded.kind(), exceeded.retry_after()), (ExceededKind::Blocked, Some(10 * SECOND)));
        let start = clock.now();
        let _ = subject.wait_at_most("a", 1, Duration::MAX).unwrap();
        assert_eq!(clock.now().since(start), 10 * SECOND);
        assert_eq!(subject.peek("a", 1).unwrap().remaining(), 1);
    }

    pub(super) fn a_ban_lasts_as_long_as_it_says(stage: &Stage) {
        for (per, ban) in [(SECOND, 10 * SECOND), (MINUTE, 10 * SECOND)] {
            let subject = stage.with(&[Limit::new(2, per)], move |builder| builder.ban(ban));
            let clock = test_util::pause();
            // A cost that can never fit bans no key.
            assert_eq!(subject.denied("a", 3), (ExceededKind::CostExceedsLimit, None));
            assert_eq!(subject.admitted("a", 2), 2);
            let first = subject.denied("a", 1);
            assert_eq!(first, (ExceededKind::Limited, Some(per.max(ban))));
            clock.advance(ban / 2);
            // Tries do not prolong it.
            for cost in [1, 2] {
                assert_eq!(subject.denied("a", cost), (ExceededKind::Blocked, Some(per.max(ban) - ban / 2)));
            }
            assert_eq!(subject.denied("a", 0), (ExceededKind::Blocked, Some(ban / 2)));
            assert_eq!(subject.blocked("a"), None, "a ban is no block");
            assert_eq!(subject.admitted("b", 1), 1);
            clock.advance(ban / 2);
            if per > ban {
                // The limit judges the next call, and bans again.
                assert_eq!(subject.denied("a", 1), (ExceededKind::Limited, Some(per - ban)));
                assert_eq!(subject.check("a", 1).unwrap_err().kind(), ExceededKind::Blocked);
            }
            subject.reset("a");
            assert_eq!(subject.admitted("a", 3), 2);
        }
    }

    pub(super) fn a_peek_begins_no_ban_and_keeps_none_from_beginning(stage: &Stage) {
        let subject =
            stage.with(&[Limit::new(1, SECOND), Limit::new(1, 2 * SECOND)], |builder| builder.ban(2 * SECOND));
        let clock = test_util::pause();
        assert_eq!(subject.admitted("a", 1), 1);
        clock.advance(SECOND / 2);
        assert_eq!(subject.peek("a", 1).unwrap_err().retry_after(), Some(SECOND * 3 / 2));
        assert_eq!(subject.denied("a", 1), (ExceededKind::Limited, Some(2 * SECOND)));
        assert_eq!(subject.denied("a", 1), (ExceededKind::Blocked, Some(2 * SECOND)));
        // Of a limit and a ban that end together, the limit is told.
        assert_eq!(subject.admitted("b", 1), 1);
        for kind in [ExceededKind::Limited, ExceededKind::Blocked] {
            let exceeded = subject.check("b", 1).unwrap_err();
            assert_eq!((exceeded.kind(), exceeded.limit_index()), (kind, 1));
        }
    }

    pub(super) fn limits_changed_at_run_time_judge_what_is_on_record(stage: &Stage) {
        for algorithm in ALGORITHMS {
            let limit = |count| Limit::new(count, MINUTE).with_algorithm(algorithm);
            let subject = stage.subject(&[limit(3)]);
            let _clock = test_util::pause();
            assert_eq!(subject.admitted("a", 9), 3);
            subject.set_limits(&[limit(5)]);
            let more = subject.admitted("a", 9);
            // A token bucket's debt is kept in permits: three of five are missing.
            assert_eq!(more, 2, "{algorithm:?}");
            subject.set_limits(&[limit(1)]);
            assert_eq!(subject.admitted("a", 9), 0, "{algorithm:?}");
        }
    }

    pub(super) fn hostile_keys_are_keys_like_others(stage: &Stage) {
        let subject = stage.subject(&[Limit::new(1, MINUTE)]);
        let _clock = test_util::pause();
        let long = "x".repeat(1 << 20);
        let keys =
            ["", "\0", "a\r\nFLUSHALL\r\n", "{a}", "}:{", "a:b", "\"", "%22", "conformance", "é", &long, &long[1..]];
        for key in keys {
            assert_eq!(subject.admitted(key, 2), 1, "{:?}", key.chars().take(20).collect::<String>());
        }
        for key in keys {
            assert_eq!(subject.admitted(key, 1), 0);
        }
    }

    pub(super) fn random_traces_are_what_a_full_log_says(stage: &Stage) {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let trace = (prop::collection::vec(limit(), 1..=3), prop::collection::vec(step(), 1..60));
        runner.run(&trace, |(limits, steps)| follow(stage, &limits, &steps)).unwrap();
    }

    #[derive(Clone, Debug)]
    enum Hold {
        Check(u32),
        Peek(u32),
        Wait(u32, u32),
        Advance(u32),
        Block(u32),
        Unblock,
        Reset,
    }

    /// The expected answers of a key with blocks and a ban: a full log, and two ends.
    struct Held {
        limits: Vec<Limit>,
        ban: Option<u64>,
        log: Log,
        blocked_until: u64,
        banned_until: u64,
    }

    impl Held {
        /// When the call is admitted, and the kind of its denial if that is not now.
        fn judge(&self, now: u64, cost: u32) -> (u64, ExceededKind) {
            let fits_at = |limit| self.log.earliest(limit, now, cost);
            let bars = self.blocked_until.max(self.banned_until);
            let kind = if bars > now { ExceededKind::Blocked } else { ExceededKind::Limited };
            match cost {
                0 => (bars.max(now), kind),
                _ if self.limits.iter().any(|limit| cost > limit.capacity()) => {
                    (u64::MAX, ExceededKind::CostExceedsLimit)
                }
                _ => (self.limits.iter().map(fits_at).max().unwrap().max(bars), kind),
            }
        }

        /// The denial of a call that takes permits, which may ban the key.
        fn deny(&mut self, now: u64, cost: u32) -> (u64, ExceededKind) {
            let (until, kind) = self.judge(now, cost);
            match self.ban {
                Some(ban) if kind == ExceededKind::Limited => {
                    self.banned_until = now + ban;
                    (until.max(self.banned_until), kind)
                }
                _ => (until, kind),
            }
        }
    }

    pub(super) fn random_blocks_and_bans_are_what_a_full_log_says(stage: &Stage) {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let cost = || prop_oneof![8 => 1_u32..=3, 2 => 1_u32..=70, 2 => Just(0_u32)];
        let step = prop_oneof![
            12 => cost().prop_map(Hold::Check),
            2 => cost().prop_map(Hold::Peek),
            2 => (cost(), 0_u32..=2_000).prop_map(|(cost, wait)| Hold::Wait(cost, wait)),
            5 => (0_u32..=500).prop_map(Hold::Advance),
            2 => (0_u32..=1_500).prop_map(Hold::Block),
            1 => Just(Hold::Unblock),
            1 => Just(Hold::Reset),
        ];
        let bans = prop_oneof![1 => Just(None), 3 => (1_u32..=2_000).prop_map(Some)];
        let trace = (prop::collection::vec(limit(), 1..=2), bans, prop::collection::vec(step, 1..60));
        runner.run(&trace, |(limits, ban, steps)| hold(stage, &limits, ban, &steps)).unwrap();
    }

    fn hold(stage: &Stage, limits: &[Limit], ban: Option<u32>, steps: &[Hold]) -> Result<(), TestCaseError> {
        let per = u64::try_from(limits[0].per().as_micros()).unwrap();
        let thousandths = |of: u32| Duration::from_micros(per * u64::from(of) / 1_000);
        // A ban of zero length is no ban.
        let ban = ban.map(|ban| thousandths(ban).max(Duration::from_micros(1)));
        let subject = stage.with(limits, move |builder| match ban {
            Some(ban) => builder.ban(ban),
            None => builder,
        });
        let clock = test_util::pause();
        let mut held = Held {
            limits: limits.to_vec(),
            ban: ban.map(nanos),
            log: Log::default(),
            blocked_until: 0,
            banned_until: 0,
        };
        for step in steps {
            let now = clock.now().as_nanos();
            let (cost, max_wait) = match *step {
                Hold::Advance(by) => {
                    clock.advance(thousandths(by));
                    continue;
                }
                Hold::Block(time) => {
                    subject.block("key", thousandths(time));
                    held.blocked_until = held.blocked_until.max(now + nanos(thousandths(time)));
                    continue;
                }
                Hold::Unblock => {
                    subject.unblock("key");
                    held.blocked_until = 0;
                    continue;
                }
                Hold::Reset => {
                    subject.reset("key");
                    (held.log, held.banned_until) = (Log::default(), 0);
                    continue;
                }
                Hold::Check(cost) | Hold::Peek(cost) => (cost, Duration::ZERO),
                Hold::Wait(cost, wait) => (cost, thousandths(wait)),
            };
            let left = held.blocked_until.checked_sub(now).filter(|left| *left > 0);
            prop_assert_eq!(subject.blocked("key").map(nanos), left);
            let (expected, kind) = held.judge(now, cost);
            let result = match step {
                Hold::Peek(_) => subject.peek("key", cost).map(drop),
                Hold::Wait(..) => subject.wait_at_most("key", cost, max_wait).map(drop),
                _ => subject.check("key", cost).map(drop),
            };
            match result {
                Ok(()) => {
                    prop_assert_eq!(clock.now().as_nanos(), expected);
                    prop_assert!(expected - now <= nanos(max_wait), "admitted too early");
                    if cost > 0 && !matches!(step, Hold::Peek(_)) {
                        held.log.0.push(Entry { at: expected, cost });
                    }
                }
                Err(exceeded) => {
                    prop_assert!(expected > now && expected - now > nanos(max_wait), "admitted at {expected}");
                    let (until, kind) = match step {
                        Hold::Peek(_) => (expected, kind),
                        _ => held.deny(now, cost),
                    };
                    prop_assert_eq!(exceeded.kind(), kind, "{:?}", exceeded);
                    prop_assert_eq!(exceeded.retry_after().map_or(u64::MAX, |after| now + nanos(after)), until);
                }
            }
        }
        Ok(())
    }

    /// Found by random traces: of 58 times in 57 slots, an expired one was kept and a live one
    /// lost.
    pub(super) fn a_wait_forgets_no_live_permit(stage: &Stage) {
        let (checks, waits) = ([1, 1, 1, 1, 1, 1].map(Step::Check), [Step::Wait(23, 998), Step::Wait(1, 873)]);
        let limits = [Limit::new(57, Duration::from_micros(40))];
        let steps = [&checks[..], &[Step::Advance(25), Step::Check(30), waits[0].clone()], &[Step::Check(3)]].concat();
        let steps = [&steps[..], &[waits[1].clone(), Step::Check(1)]].concat();
        follow(stage, &limits, &steps).unwrap();
    }

    pub(super) fn a_large_window_is_off_by_less_than_a_group(stage: &Stage) {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let calls = prop::collection::vec((0_u32..=300, 1_u32..=125), 1..40);
        let trace = (65_u32..=500, 1_000_u64..=10_000_000, prop::bool::ANY, calls);
        runner.run(&trace, |(count, per, ones, calls)| large_window(stage, count, per, ones, &calls)).unwrap();
    }

    /// Calls at intervals in thousandths of the period, for costs in thousandths of the count: one
    /// permit at a time, or all at once.
    fn large_window(
        stage: &Stage,
        count: u32,
        per: u64,
        ones: bool,
        calls: &[(u32, u32)],
    ) -> Result<(), TestCaseError> {
        let limit = Limit::new(count, Duration::from_micros(per));
        let group = count.div_ceil(64);
        let subject = stage.subject(&[limit]);
        let clock = test_util::pause();
        let mut log = Log::default();
        for (delay, permits) in calls {
            clock.advance(Duration::from_micros(per * u64::from(*delay) / 1_000));
            let permits = (count * permits / 1_000).max(1);
            let (times, cost) = if ones { (permits, 1) } else { (1, permits) };
            for _ in 0..times {
                let now = clock.now().as_nanos();
                match subject.check("key", cost) {
                    Ok(_) => {
                        prop_assert!(log.admits(&limit, now, cost), "one too many");
                        log.0.push(Entry { at: now, cost });
                    }
                    Err(exceeded) => {
                        prop_assert_eq!(exceeded.kind(), ExceededKind::Limited);
                        prop_assert!(!log.admits(&limit, now, cost + group - 1), "a group and more were left");
                        let after = exceeded.retry_after().expect("it fits");
                        prop_assert!(nanos(after) >= log.earliest(&limit, now, cost) - now);
                        prop_assert!(nanos(after) <= log.earliest(&limit, now, cost + group - 1) - now);
                    }
                }
            }
        }
        Ok(())
    }

    #[derive(Clone, Debug)]
    enum Step {
        Check(u32),
        GiveBack(u32),
        Peek(u32),
        Wait(u32, u32),
        Advance(u32),
        Refund,
        Reset,
    }

    fn limit() -> impl Strategy<Value = Limit> {
        (1_u32..=64, 1_u64..=10_000_000, proptest::sample::select(&ALGORITHMS))
            .prop_map(|(count, per, algorithm)| Limit::new(count, Duration::from_micros(per)).with_algorithm(algorithm))
    }

    fn step() -> impl Strategy<Value = Step> {
        let cost = prop_oneof![8 => 1_u32..=3, 2 => 1_u32..=70, 1 => Just(0_u32)];
        prop_oneof![
            12 => cost.clone().prop_map(Step::Check),
            1 => cost.clone().prop_map(Step::GiveBack),
            2 => cost.clone().prop_map(Step::Peek),
            2 => (cost, 0_u32..=2_000).prop_map(|(cost, wait)| Step::Wait(cost, wait)),
            5 => (0_u32..=500).prop_map(Step::Advance),
            1 => Just(Step::Refund),
            1 => Just(Step::Reset),
        ]
    }

    fn follow(stage: &Stage, limits: &[Limit], steps: &[Step]) -> Result<(), TestCaseError> {
        let subject = stage.subject(limits);
        let clock = test_util::pause();
        let thousandths = |of: u32| {
            Duration::from_micros(u64::try_from(limits[0].per().as_micros() * u128::from(of) / 1_000).unwrap())
        };
        let (mut log, mut last) = (Log::default(), None);
        // A token bucket that has got permits back holds less than a log without those calls
        // suggests.
        let mut exact = true;
        for step in steps {
            let now = clock.now().as_nanos();
            let (cost, max_wait) = match *step {
                Step::Advance(by) => {
                    clock.advance(thousandths(by));
                    continue;
                }
                Step::Refund => {
                    if let Some((decision, entry)) = last.take() {
                        subject.refund("key", decision);
                        let entry: Entry = entry;
                        log.0.retain(|logged| logged.at != entry.at || logged.cost != entry.cost);
                        exact &= limits.iter().all(|limit| limit.algorithm() != Algorithm::TokenBucket);
                    }
                    continue;
                }
                Step::Reset => {
                    subject.reset("key");
                    (log, last, exact) = (Log::default(), None, true);
                    continue;
                }
                Step::Wait(cost, _) | Step::Peek(cost) | Step::GiveBack(cost) if subject.is_read() => {
                    (cost, Duration::ZERO)
                }
                Step::Check(cost) | Step::Peek(cost) | Step::GiveBack(cost) => (cost, Duration::ZERO),
                Step::Wait(cost, wait) => (cost, thousandths(wait)),
            };
            let possible = cost == 0 || limits.iter().all(|limit| cost <= limit.capacity());
            let expected = match cost {
                0 => now,
                _ if !possible => u64::MAX,
                _ => limits.iter().map(|limit| log.earliest(limit, now, cost)).max().unwrap(),
            };
            let is_charged = subject.is_read() || !matches!(step, Step::Peek(_) | Step::GiveBack(_));
            let result = match step {
                Step::Peek(_) if !subject.is_read() => subject.peek("key", cost).map(Some),
                Step::GiveBack(_) if !subject.is_read() => subject.check_and_give_back("key", cost).map(|()| None),
                Step::Wait(..) if !subject.is_read() => subject.wait_at_most("key", cost, max_wait),
                _ => subject.check("key", cost).map(|taken| taken.decision),
            };
            match result {
                Ok(decision) => {
                    prop_assert!(possible && expected - now <= nanos(max_wait), "admitted too early");
                    let at = clock.now().as_nanos();
                    if let Some(decision) = &decision {
                        prop_assert_eq!(nanos(decision.waited()), at - now);
                    }
                    if exact {
                        prop_assert_eq!(at, expected);
                    }
                    if cost > 0 && is_charged {
                        let entry = Entry { at, cost };
                        // Neither log nor limit distinguishes two calls of one time and cost.
                        let twin = log.0.iter().any(|logged| logged.at == at && logged.cost == cost);
                        log.0.push(entry);
                        last = decision.filter(|_| !twin).map(|decision| (decision, entry));
                    }
                }
                Err(exceeded) => {
                    prop_assert_ne!(exceeded.kind(), ExceededKind::BackendFailed);
                    prop_assert_eq!(exceeded.kind() == ExceededKind::CostExceedsLimit, !possible);
                    let after = exceeded.retry_after().map(nanos);
                    if exact && possible {
                        prop_assert_eq!(after, Some(expected - now));
                    }
                    prop_assert!(after.is_none_or(|after| after > nanos(max_wait)));
                }
            }
        }
        Ok(())
    }
}

/// Scenarios with a backend, blocking and async.
macro_rules! staged {
    ($name:ident: $make:expr, $blocking:expr, $asynchronous:expr, [$($scenario:ident,)*]) => {
        mod $name {
            use super::*;

            fn stage(front: Front) -> Stage {
                Stage { backend: $make, front }
            }

            mod blocking {
                use super::*;

                $(#[test] fn $scenario() { scenarios::$scenario(&stage($blocking)); })*
            }

            mod asynchronous {
                use super::*;

                $(#[test] fn $scenario() { scenarios::$scenario(&stage($asynchronous)); })*
            }
        }
    };
}

/// [`staged`], with the scenarios common to every backend and key, and with others.
macro_rules! staged_in_common {
    ($name:ident: $make:expr, $blocking:expr, $asynchronous:expr, [$($other:ident,)*]) => {
        staged! {
            $name: $make, $blocking, $asynchronous, [
                count_calls_are_admitted_and_not_one_more,
                the_window_slides,
                a_token_bucket_holds_burst_and_refills_evenly,
                a_fixed_window_begins_at_a_multiple_of_its_period,
                several_limits_are_charged_together_or_not_at_all,
                costs_are_taken_whole,
                peek_refund_and_reset_do_what_they_say,
                a_call_is_settled_by_what_it_really_cost,
                each_limit_is_charged_by_itself,
                a_debt_is_bounded_and_a_reset_forgets_it,
                waiting_calls_wait_for_debts,
                waiting_books_in_order,
                a_call_that_waited_learns_when_its_limit_is_idle,
                a_call_of_cost_0_waits_for_the_end_of_a_block_and_for_no_debt,
                backoff_doubles_and_forgives,
                a_blocked_key_is_denied_whatever_it_has_left,
                a_call_that_waits_waits_for_the_end_of_a_block,
                a_ban_lasts_as_long_as_it_says,
                a_peek_begins_no_ban_and_keeps_none_from_beginning,
                limits_changed_at_run_time_judge_what_is_on_record,
                a_calendar_follows_the_clocks_of_its_zone,
                calls_wait_for_the_next_windows_of_a_calendar,
                a_month_may_start_on_another_day,
                $($other,)*
            ]
        }
    };
}

macro_rules! conformance_while_no_time_passes {
    ($($backend:ident: $make:expr $(, $other:ident)*;)*) => {$(
        staged_in_common! {
            $backend: $make, Front::Blocking, Front::Async, [
                permits_given_back_do_not_delay_the_reset,
                hostile_keys_are_keys_like_others,
                keys_are_charged_together_or_not_at_all,
                keys_are_peeked_at_given_back_and_reset,
                each_key_is_charged_whatever_it_has_left,
                a_backoff_blocks_the_key_whose_limit_denies,
                replaced_limits_keep_their_keys,
                a_banned_or_blocked_key_takes_nothing_from_the_others,
                a_call_by_several_keys_is_settled_at_each,
                a_debt_of_days_is_told_beside_other_keys,
                $($other,)*
            ]
        }
    )*};
}

macro_rules! conformance {
    ($($backend:ident: $make:expr;)*) => {
        conformance_while_no_time_passes! {$(
            $backend: $make, random_traces_are_what_a_full_log_says,
                random_traces_by_the_calendar_are_what_a_full_log_says,
                random_calls_with_keys_are_admitted_as_full_logs_say,
                a_wait_for_keys_ends_when_the_last_of_them_is_due,
                a_call_that_does_not_wait_overtakes_none_that_waits_for_one_of_its_keys;
        )*}
    };
}

conformance_while_no_time_passes! {
    memory: MemoryBackend::new().into_backend(),
        random_traces_are_what_a_full_log_says, random_traces_by_the_calendar_are_what_a_full_log_says,
        a_large_window_is_off_by_less_than_a_group, random_blocks_and_bans_are_what_a_full_log_says,
        random_calls_with_keys_are_what_full_logs_say, a_wait_for_keys_ends_when_the_last_of_them_is_due,
        a_call_that_does_not_wait_overtakes_none_that_waits_for_one_of_its_keys;
    users_own: Shelf::default().into_backend(),
        random_traces_are_what_a_full_log_says, random_traces_by_the_calendar_are_what_a_full_log_says,
        a_large_window_is_off_by_less_than_a_group, random_blocks_and_bans_are_what_a_full_log_says,
        random_calls_with_keys_are_what_full_logs_say, a_wait_for_keys_ends_when_the_last_of_them_is_due,
        a_call_that_does_not_wait_overtakes_none_that_waits_for_one_of_its_keys;
    // A cached denial has its original kind.
    redis_asked_each_time: plain(redis().denial_cache(false)),
        random_traces_are_what_a_full_log_says, random_blocks_and_bans_are_what_a_full_log_says,
        the_end_of_a_block_ends_no_other, after_a_block_it_is_the_limit_that_denies;
}

// Redis needs more time for this many calls.
conformance! {
    users_own_that_keeps_denials: Shelf::default().keeping_denials().into_backend();
    memcached: memcached();
    redis: plain(redis());
    redis_without_coalescing: plain(redis().coalescing(false));
    redis_unix: plain(redis_unix());
    redis_tls: plain(redis_tls());
    redis_sentinel: plain(redis_sentinel());
    redis_sentinel_without_extras: without_extras(redis_sentinel());
    redis_cluster: plain(redis_cluster());
    redis_cluster_without_extras: without_extras(redis_cluster());
    redis_leasing_one: plain(redis().lease(1, SECOND / 20));
    postgres: postgres();
}

// A lease is charged as of its end, so its times differ from a full log's; `redis_leases.rs` checks
// what holds for them. While no time passes, the same calls are admitted.
conformance_while_no_time_passes! {
    redis_leasing: leasing(redis());
    redis_sentinel_leasing: leasing(redis_sentinel());
    redis_cluster_leasing: leasing(redis_cluster());
}

/// Through annotated functions, blocking and async.
mod memory_by_attribute {
    use super::*;

    const fn front(form: Form, is_async: bool) -> Front {
        Front::Attribute { form, is_async }
    }

    fn memory() -> SharedBackend {
        MemoryBackend::new().into_backend()
    }

    staged_in_common! {
        keyed: memory(), front(Form::Keyed, false), front(Form::Keyed, true), [
            the_end_of_a_block_ends_no_other,
            after_a_block_it_is_the_limit_that_denies,
            random_blocks_and_bans_are_what_a_full_log_says,
            hostile_keys_are_keys_like_others,
            random_traces_are_what_a_full_log_says,
            random_traces_by_the_calendar_are_what_a_full_log_says,
            a_wait_forgets_no_live_permit,
            a_large_window_is_off_by_less_than_a_group,
        ]
    }

    staged_in_common! {
        unkeyed: memory(), front(Form::Unkeyed, false), front(Form::Unkeyed, true), [
            random_blocks_and_bans_are_what_a_full_log_says,
            random_traces_are_what_a_full_log_says,
            random_traces_by_the_calendar_are_what_a_full_log_says,
            a_wait_forgets_no_live_permit,
            a_large_window_is_off_by_less_than_a_group,
        ]
    }

    staged! {
        read: memory(), front(Form::Read, false), front(Form::Read, true), [
            count_calls_are_admitted_and_not_one_more,
            the_window_slides,
            a_fixed_window_begins_at_a_multiple_of_its_period,
            limits_changed_at_run_time_judge_what_is_on_record,
            a_month_may_start_on_another_day,
            hostile_keys_are_keys_like_others,
            random_traces_are_what_a_full_log_says,
            a_large_window_is_off_by_less_than_a_group,
        ]
    }
}

/// One server for all tests in this file.
fn redis() -> RedisBackendBuilder {
    RedisBackend::builder().url(RedisServer::shared().url())
}

/// One server for all tests in this file, and with a deadline that a busy machine does not miss.
fn memcached() -> SharedBackend {
    MemcachedBackend::builder().url(MemcachedServer::shared().url()).timeout(20 * SECOND).build().into_backend()
}

fn postgres() -> SharedBackend {
    let postgres = PostgresBackend::builder().url(PostgresServer::shared().url()).timeout(20 * SECOND).build().unwrap();
    postgres.create_table().unwrap();
    postgres.into_backend()
}

fn redis_unix() -> RedisBackendBuilder {
    static SERVER: LazyLock<(RedisServer, String)> = LazyLock::new(RedisServer::start_with_socket);
    RedisBackend::builder().url(format!("unix://{}?db=5", SERVER.1))
}

/// With a deadline that a busy machine does not miss.
fn plain(builder: RedisBackendBuilder) -> SharedBackend {
    builder.timeout(20 * SECOND).build().into_backend()
}

fn without_extras(builder: RedisBackendBuilder) -> SharedBackend {
    plain(builder.denial_cache(false).coalescing(false))
}

fn leasing(builder: RedisBackendBuilder) -> SharedBackend {
    plain(builder.lease(100, SECOND / 20))
}

fn redis_tls() -> RedisBackendBuilder {
    static SERVER: LazyLock<RedisTls> = LazyLock::new(|| RedisTls::start(false));
    let authority = SERVER.certificates.authority.as_str();
    RedisBackend::builder().url(SERVER.url()).ca_certificate(authority)
}

fn redis_sentinel() -> RedisBackendBuilder {
    static SERVERS: LazyLock<RedisSentinel> = LazyLock::new(|| RedisSentinel::start(&[], ""));
    RedisBackend::builder().sentinel("mymaster", SERVERS.urls())
}

fn redis_cluster() -> RedisBackendBuilder {
    static SERVERS: LazyLock<RedisCluster> = LazyLock::new(|| RedisCluster::start(&[]));
    RedisBackend::builder().cluster(SERVERS.urls())
}

/// An abandoned wait is undone in every backend.
#[test]
fn a_dropped_wait_is_given_back_to_a_users_backend() {
    // It answers during the call's first poll.
    let stage = Stage { backend: Shelf::default().keeping_its_deadline().into_backend(), front: Front::Async };
    let subject = stage.subject(&[Limit::new(1, SECOND)]);
    let _clock = test_util::pause();
    subject.check("a", 1).unwrap();
    {
        let mut waiter = pin!(subject.limiter.wait_async("a", 1));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiter.as_mut().poll(&mut context).is_pending());
        assert_eq!(subject.peek("a", 1).unwrap_err().retry_after(), Some(2 * SECOND));
    }
    assert_eq!(subject.peek("a", 1).unwrap_err().retry_after(), Some(SECOND));
}
