//! Limits with a key each: through the attribute and without, under threads, with every backend.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Answer, Backend, Bucket, Deadline, IntoBackend, Request, SharedBackend};
use ratelimit_runtime::{
    Algorithm, BackendError, BackendErrorKind, Decision, ExceededKind, Limit, MemoryBackend, OnBackendError,
    RateLimitExceeded, RateLimiter, RateLimiterBuilder, WhenFull, limiters, rate_limit, set_limits, test_util,
};
use ratelimit_tests::{PATIENCE, Shelf};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

type Limited = Result<(), RateLimitExceeded>;

fn block_on<F: Future>(future: F) -> F::Output {
    futures_executor::block_on(future)
}

fn remaining(limiter: &RateLimiter, keys: (u32, u32, ())) -> u32 {
    limiter.peek_each(keys, 0).unwrap().remaining()
}

mod attribute {
    use super::*;

    thread_local! {
        static SEEN: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    fn seen<T>(name: &'static str, value: T) -> T {
        SEEN.with_borrow_mut(|seen| seen.push(name));
        value
    }

    #[rate_limit(
        limit(count = seen("count", 9), per = "1h", key = seen("user", user)),
        limit(count = 9, per = seen("per", HOUR), key = seen("tenant", tenant)),
        limit(count = 9, per = "1s", key = seen("user", user)),
        limit(count = 9, per = "1h", key = ()),
        limit(count = 9, per = "1m"),
        key = seen("key", 7),
        cost = seen("cost", 1),
        exempt_when = seen("exempt", user == "admin"),
    )]
    fn in_order(user: &str, tenant: u32) -> Limited {
        Ok(())
    }

    #[test]
    fn keys_are_evaluated_last_in_order_and_once() {
        in_order("ann", 1).unwrap();
        assert_eq!(SEEN.take(), ["exempt", "count", "per", "cost", "user", "tenant", "key"]);
        in_order("admin", 1).unwrap();
        assert_eq!(SEEN.take(), ["exempt"]);
    }

    macro_rules! functions {
        ($(fn $name:ident($($parameter:ident: $type:ty),*) [$($arguments:tt)*];)*) => {
            $(
                #[rate_limit($($arguments)*)]
                fn $name($($parameter: $type),*) -> Limited {
                    Ok(())
                }
            )*

            mod futures {
                use super::*;

                $(
                    #[rate_limit($($arguments)*)]
                    pub(super) async fn $name($($parameter: $type),*) -> Limited {
                        Ok(())
                    }
                )*
            }
        };
    }

    functions! {
        fn search(user: &str, tenant: u32) [
            limit(count = 2, per = "1h", key = user),
            limit(count = 3, per = "1h", key = tenant),
            limit(count = 4, per = "1h")
        ];
        fn buckets(user: &str, tenant: u32) [
            limit(count = 2, per = "1h", algorithm = token_bucket, key = user),
            limit(count = 3, per = "1h", algorithm = token_bucket, key = tenant),
            limit(count = 4, per = "1h", algorithm = token_bucket)
        ];
        fn fixed(user: &str, tenant: u32) [
            limit(count = 2, per = "366d", algorithm = fixed_window, key = user),
            limit(count = 3, per = "366d", algorithm = fixed_window, key = tenant),
            limit(count = 4, per = "366d", algorithm = fixed_window)
        ];
        fn in_groups(user: &str, tenant: u32) [
            limit(count = 2, per = "1h", key = user),
            limit(count = 99, per = "1d", key = user),
            limit(count = 3, per = "1h"),
            limit(count = 4, per = "1h", key = ()),
            limit(count = 99, per = "1d", key = ()),
            key = tenant
        ];
        fn waiting(user: &str, tenant: u32) [
            limit(count = 2, per = "1h", key = user),
            limit(count = 3, per = "1h", key = tenant),
            limit(count = 4, per = "1h"),
            wait = "1s"
        ];
        fn read(user: &str, tenant: u32) [
            limit(count = std::hint::black_box(2), per = "1h", key = user),
            limit(count = 3, per = std::hint::black_box(HOUR), key = tenant),
            limit(count = 4, per = "1h")
        ];
        fn with_backoff(user: &str, tenant: u32) [
            limit(count = 2, per = "1h", key = user),
            limit(count = 3, per = "1h", key = tenant),
            limit(count = 4, per = "1h"),
            backoff(initial = "2h", max = "3h")
        ];
    }

    type Call = fn(&str, u32) -> Limited;

    #[test]
    fn a_user_whom_another_limit_denies_loses_nothing() {
        let calls: [(&str, Call, Call); 7] = [
            ("search", search, |user, tenant| block_on(futures::search(user, tenant))),
            ("buckets", buckets, |user, tenant| block_on(futures::buckets(user, tenant))),
            ("fixed", fixed, |user, tenant| block_on(futures::fixed(user, tenant))),
            ("in groups", in_groups, |user, tenant| block_on(futures::in_groups(user, tenant))),
            ("waiting", waiting, |user, tenant| block_on(futures::waiting(user, tenant))),
            ("read", read, |user, tenant| block_on(futures::read(user, tenant))),
            ("with backoff", with_backoff, |user, tenant| block_on(futures::with_backoff(user, tenant))),
        ];
        for (name, blocking, future) in calls {
            for call in [blocking, future] {
                let limit = |exceeded: Limited| exceeded.unwrap_err().limit().count();
                assert!(call("ann", 1).is_ok() && call("ann", 1).is_ok(), "{name}");
                assert_eq!(limit(call("ann", 1)), 2, "{name}");
                assert!(call("bob", 1).is_ok(), "{name}");
                assert_eq!(limit(call("bob", 1)), 3, "{name}");
                assert!(call("bob", 2).is_ok(), "{name}: denied calls are charged to nobody");
                assert_eq!(limit(call("eve", 3)), 4, "{name}");
            }
        }
    }

    #[rate_limit(
        limit(count = 2, per = "1h", key = user),
        limit(count = 3, per = "1h"),
        name = "kept by outcome",
        deduct_when = Option::is_some
    )]
    fn found(user: u32, is_there: bool) -> Option<()> {
        is_there.then_some(())
    }

    #[rate_limit(
        limit(count = 2, per = "1h", key = user),
        limit(count = 3, per = "1h"),
        deduct_when = |found: &Result<(), RateLimitExceeded>| found.is_ok(),
        or_else = Err
    )]
    async fn found_later(user: u32, is_there: Limited) -> Limited {
        is_there
    }

    #[test]
    fn what_does_not_count_is_given_back_to_all_keys() {
        for _ in 0..9 {
            assert!(found(1, false).is_none());
        }
        assert_eq!([found(1, true), found(1, true), found(1, true)], [Some(()), Some(()), None]);
        assert_eq!([found(2, true), found(2, true)], [Some(()), None]);
        let other = RateLimiter::new("other", &[Limit::per_hour(1)]);
        other.check((), 1).unwrap();
        let error = other.check((), 1).unwrap_err();
        for _ in 0..9 {
            assert_eq!(block_on(found_later(1, Err(error.clone()))).unwrap_err().limiter(), "other");
        }
        assert!(block_on(found_later(1, Ok(()))).is_ok() && block_on(found_later(1, Ok(()))).is_ok());
        assert!(block_on(found_later(1, Ok(()))).is_err());
    }

    static SHARED: RateLimiter = RateLimiter::new("shared by keys", &[Limit::per_hour(2), Limit::per_hour(3)]);

    #[rate_limit(limiter = SHARED, keys = (user, ()), cost = cost)]
    fn shared(user: &str, cost: u32) -> Limited {
        Ok(())
    }

    #[rate_limit(limiter = SHARED, keys = (user,))]
    fn one_key_too_few(user: &str) -> Limited {
        Ok(())
    }

    #[test]
    fn a_shared_limiter_takes_a_key_for_each_of_its_limits() {
        shared("ann", 2).unwrap();
        assert_eq!(shared("ann", 1).unwrap_err().limit_index(), 0);
        assert_eq!(shared("bob", 2).unwrap_err().limit_index(), 1);
        assert_eq!(SHARED.peek_each(("bob", ()), 1).unwrap().remaining(), 1);
        // By one key, the limits share another bucket.
        assert_eq!(SHARED.peek("ann", 1).unwrap().remaining(), 2);
    }

    #[test]
    fn a_wrong_number_of_keys_is_denied_and_says_so() {
        let exceeded = one_key_too_few("ann").unwrap_err();
        assert_eq!((exceeded.kind(), exceeded.retry_after()), (ExceededKind::WrongKeys, None));
        assert_eq!(exceeded.http_status(), 500);
        assert_eq!(exceeded.to_string(), "the call passes more or fewer keys than its rate limit has");
        let kind = |decided: Result<Decision, RateLimitExceeded>| decided.unwrap_err().kind();
        assert_eq!(kind(SHARED.check_each((1, 2, 3), 0)), ExceededKind::WrongKeys);
        assert_eq!(kind(SHARED.peek_each((1,), 1)), ExceededKind::WrongKeys);
        assert_eq!(kind(SHARED.wait_each((1,), 1)), ExceededKind::WrongKeys);
        assert!(SHARED.reset_each((1,)).is_ok());
    }

    #[rate_limit(
        limit(count = 1, per = "1h", key = user),
        limit(count = 2, per = "1h"),
        name = "counted by keys",
        dry_run
    )]
    fn dry(user: u32) -> Limited {
        Ok(())
    }

    #[test]
    fn a_limiter_with_keys_is_listed_and_counted_once() {
        for user in [1, 1, 2, 3] {
            dry(user).unwrap();
        }
        let listed: Vec<_> = limiters().into_iter().filter(|limiter| limiter.name == "counted by keys").collect();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].allowed, listed[0].denied, listed[0].limits.len()), (2, 2, 2));
        // The keys of the two users whose calls were admitted. A denied call makes no bucket.
        assert_eq!(listed[0].keys, Some(2));
    }

    #[rate_limit(limit(count = 1, per = "20ms", key = user), limit(count = 9, per = "1h"), backend = memory, wait)]
    fn patient(user: u32) -> u32 {
        user
    }

    #[test]
    fn in_memory_an_unbounded_wait_is_never_denied() {
        let start = Instant::now();
        assert_eq!([patient(1), patient(1), patient(1)], [1, 1, 1]);
        assert!(start.elapsed() >= Duration::from_millis(40));
    }
}

fn of_three(name: &str, counts: [u32; 3], backend: MemoryBackend) -> RateLimiter {
    let builder = RateLimiter::builder(name).backend(backend);
    counts.into_iter().fold(builder, |builder, count| builder.limit(Limit::new(count, HOUR))).build().unwrap()
}

/// Hammers `call` from four threads; fails instead of hanging.
fn hammer(calls: u32, call: impl Fn(u32, u32) + Send + Sync + 'static) {
    let call = Arc::new(call);
    let threads: Vec<_> = (0..4_u32)
        .map(|thread| {
            let call = Arc::clone(&call);
            std::thread::spawn(move || (0..calls).for_each(|number| call(thread, number)))
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(120);
    for thread in threads {
        while !thread.is_finished() {
            assert!(Instant::now() < until, "a deadlock");
            std::thread::sleep(Duration::from_millis(1));
        }
        thread.join().unwrap();
    }
}

#[test]
fn threads_charge_all_keys_or_none() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let limits = [3_000, 8_000, 20_000].map(|count| Limit::new(count, Duration::from_secs(366 * 86_400)));
        let builder = RateLimiter::builder(format!("crosswise {algorithm:?}"));
        let limiter = limits
            .iter()
            .fold(builder, |builder, limit| builder.limit(limit.with_algorithm(algorithm)))
            .build()
            .unwrap();
        let admitted: Arc<[[AtomicU32; 4]; 8]> = Arc::default();
        let (calls, counts) = (limiter.clone(), Arc::clone(&admitted));
        hammer(20_000, move |thread, number| {
            let (user, tenant) = (number % 8, (number / 8 + thread) % 4);
            if calls.check_each((user, tenant, ()), 1).is_ok() {
                counts[user as usize][tenant as usize].fetch_add(1, Ordering::Relaxed);
            }
        });
        let count = |user: u32, tenant: u32| admitted[user as usize][tenant as usize].load(Ordering::Relaxed);
        let of_user = |user| (0..4).map(|tenant| count(user, tenant)).sum::<u32>();
        let of_tenant = |tenant| (0..8).map(|user| count(user, tenant)).sum::<u32>();
        let all: u32 = (0..8).map(of_user).sum();
        assert_eq!(all, 20_000, "{algorithm:?}");
        // Each permit is charged to all three keys. Windows may keep up to a group for longer.
        let other = (9, 9, ());
        assert_eq!(remaining(&limiter, other), 0);
        limiter
            .set_limits(&[limits[0], limits[1].with_algorithm(algorithm)].map(|limit| limit.with_algorithm(algorithm)))
            .unwrap();
        for (user, tenant) in (0..8).flat_map(|user| (0..4).map(move |tenant| (user, tenant))) {
            let left = (3_000 - of_user(user)).min(8_000 - of_tenant(tenant));
            assert_eq!(remaining(&limiter, (user, tenant, ())), left, "{algorithm:?}");
        }
    }
}

#[test]
fn limiters_of_one_name_lock_shared_buckets_in_one_order() {
    let memory = MemoryBackend::new();
    let limiter = |limits: [Limit; 2]| {
        let builder = RateLimiter::builder("both ways").backend(memory.clone());
        limits.into_iter().fold(builder, RateLimiterBuilder::limit).build().unwrap()
    };
    let (hour, day) = (Limit::new(10_000, HOUR), Limit::new(30_000, 24 * HOUR));
    let (one, other) = (limiter([hour, day]), limiter([day, hour]));
    let admitted = Arc::new(AtomicU32::new(0));
    let (calls, counts) = ((one.clone(), other.clone()), Arc::clone(&admitted));
    hammer(20_000, move |thread, number| {
        let key = number % 2;
        let decided =
            if thread % 2 == 0 { calls.0.check_each((key, 7_u32), 1) } else { calls.1.check_each((7_u32, key), 1) };
        counts.fetch_add(u32::from(decided.is_ok()), Ordering::Relaxed);
    });
    assert_eq!(admitted.load(Ordering::Relaxed), 20_000);
    assert_eq!(one.peek_each((9_u32, 7_u32), 0).unwrap().remaining(), 10_000);
    assert_eq!(other.peek_each((7_u32, 9_u32), 10_001).unwrap_err().kind(), ExceededKind::CostExceedsLimit);
    let decision = other.peek_each((7_u32, 0_u32), 0).unwrap();
    assert_eq!((decision.limit(), decision.remaining()), (hour, 0));
}

/// Two keys of the whole function in one limiter: nothing is locked twice.
#[test]
fn two_buckets_of_all_calls_are_two_buckets() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let builder = RateLimiter::builder("twice").backend(MemoryBackend::new());
        let limit = |count| Limit::new(count, 8_000 * HOUR).with_algorithm(algorithm);
        let limiter = builder.limit(limit(3)).limit(limit(5)).build().unwrap();
        assert_eq!((0..9).filter(|_| limiter.check_each(((), ()), 1).is_ok()).count(), 3);
        limiter.set_limits(&[limit(9), limit(5)]).unwrap();
        assert_eq!((0..9).filter(|_| limiter.check_each(((), ()), 1).is_ok()).count(), 2, "{algorithm:?}");
    }
}

#[test]
fn a_denied_call_makes_no_bucket() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let memory = MemoryBackend::new();
        let builder = RateLimiter::builder(format!("no bucket {algorithm:?}")).backend(memory.clone());
        let limit = |count| Limit::new(count, 8_000 * HOUR).with_algorithm(algorithm);
        let limiter = builder.limit(limit(3)).limit(limit(5)).build().unwrap();
        limiter.check_each(("user", "tenant"), 1).unwrap();
        limiter.block("blocked", HOUR).unwrap();
        // The missing bucket may be the first or the last to be locked.
        for keys in [("user", "blocked"), ("blocked", "tenant"), ("new", "blocked"), ("blocked", "new")] {
            assert_eq!(limiter.check_each(keys, 1).unwrap_err().kind(), ExceededKind::Blocked);
            assert_eq!(limiter.check_each(keys, 9).unwrap_err().kind(), ExceededKind::CostExceedsLimit);
        }
        assert_eq!(memory.tracked_keys(), 2, "{algorithm:?}");
    }
}

#[test]
fn a_full_backend_neither_hangs_nor_charges_in_part() {
    for when_full in [WhenFull::Admit, WhenFull::Deny] {
        let memory = MemoryBackend::with_max_keys(3).when_full(when_full);
        let limiter = of_three("little room", [50, 100_000, 100_000], memory.clone());
        let calls = limiter.clone();
        hammer(500, move |thread, number| {
            let _ = calls.check_each((number, thread, ()), 1);
            let _ = calls.check_each((number % 2, number % 3, number), 1);
        });
        assert!(memory.tracked_keys() <= 3);
    }
}

#[test]
fn a_call_waits_for_the_key_that_denies_and_gives_up_without_a_trace() {
    let clock = test_util::pause();
    let limiter = of_three("waits", [1, 3, 9], MemoryBackend::new());
    limiter.check_each((1, 1, ()), 1).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut first = Box::pin(limiter.wait_each_async((1, 1, ()), 1));
        let mut second = Box::pin(limiter.wait_each_async((1, 1, ()), 1));
        assert!(first.as_mut().poll(&mut context).is_pending() && second.as_mut().poll(&mut context).is_pending());
        // Another user of the tenant does not wait behind them.
        limiter.check_each((2, 1, ()), 1).unwrap();
        assert_eq!(limiter.check_each((1, 1, ()), 1).unwrap_err().retry_after(), Some(3 * HOUR));
        drop(first);
        clock.advance(HOUR);
        let Poll::Ready(decided) = second.as_mut().poll(&mut context) else { panic!("its turn has come") };
        assert_eq!(decided.unwrap().waited(), HOUR);
    }
    assert_eq!(limiter.peek_each((3, 1, ()), 0).unwrap().remaining(), 1);
    assert_eq!(
        limiters().iter().filter(|listed| listed.name == "waits").map(|listed| listed.waiting).sum::<usize>(),
        0
    );
    // Waits for the user's key first, and then for the tenant's, which others have used up.
    let mut third = Box::pin(limiter.wait_each_async((1, 1, ()), 1));
    assert!(third.as_mut().poll(&mut context).is_pending());
    let waiting = limiters().into_iter().find(|listed| listed.name == "waits").unwrap().waiting;
    assert_eq!(waiting, 1);
    clock.advance(HOUR);
    for user in [5, 6, 7] {
        limiter.check_each((user, 1, ()), 1).unwrap();
    }
    assert!(third.as_mut().poll(&mut context).is_pending(), "the tenant's permits are taken");
    // It holds nothing while it waits.
    assert_eq!(limiter.peek_each((1, 9, ()), 1).unwrap().remaining(), 1);
    clock.advance(HOUR);
    assert!(third.as_mut().poll(&mut context).is_ready());
}

#[test]
fn a_key_that_loses_its_limits_holds_no_waiting_call_back() {
    let _clock = test_util::pause();
    let store = Shelf::default().keeping_its_deadline().into_backend();
    for (store, backend) in [("memory", MemoryBackend::new().into_backend()), ("store", store)] {
        // It waits for the key whose limit lasts longer; the other one denies it too.
        for (first, second) in [(1, 2), (2, 1)] {
            let limit = |count, hours| Limit::new(count, hours * HOUR);
            let builder = RateLimiter::builder(format!("losing {first} {store}")).backend(backend.clone());
            let limiter = builder.limit(limit(1, first)).limit(limit(1, second)).build().unwrap();
            let waiting = || limiters().iter().find(|it| it.name == limiter.name()).unwrap().waiting;
            limiter.check_each((1, 1), 1).unwrap();
            let mut call = Box::pin(limiter.wait_each_async((1, 1), 1));
            let mut context = Context::from_waker(Waker::noop());
            let start = Instant::now();
            while waiting() == 0 {
                assert!(call.as_mut().poll(&mut context).is_pending() && start.elapsed() < PATIENCE);
            }
            limiter.set_limits(&[limit(3, first)]).unwrap();
            let decided = loop {
                if let Poll::Ready(decided) = call.as_mut().poll(&mut context) {
                    break decided;
                }
                assert!(start.elapsed() < PATIENCE, "{store}: it still waits, for the limit of {second} hours");
                std::thread::yield_now();
            };
            assert_eq!((decided.unwrap().remaining(), waiting()), (1, 0));
        }
    }
}

#[test]
fn a_key_that_gets_limits_holds_a_waiting_call_back() {
    let clock = test_util::pause();
    let mut context = Context::from_waker(Waker::noop());
    let limiter = of_three("getting", [1, 1, 1], MemoryBackend::new());
    limiter.set_limits(&[Limit::per_hour(1)]).unwrap();
    limiter.check_each((1, 1, ()), 1).unwrap();
    let mut call = Box::pin(limiter.wait_each_async((1, 1, ()), 1));
    assert!(call.as_mut().poll(&mut context).is_pending());
    limiter.set_limits(&[Limit::per_hour(1); 3]).unwrap();
    clock.advance(HOUR - SECOND);
    limiter.check_each((2, 1, ()), 1).unwrap();
    clock.advance(SECOND);
    assert!(call.as_mut().poll(&mut context).is_pending(), "the tenant's permit is taken");
    clock.advance(HOUR - SECOND);
    assert!(call.as_mut().poll(&mut context).is_ready());
}

#[test]
fn refunds_belong_to_the_limiter_and_end_with_a_reset() {
    let _clock = test_util::pause();
    let limiter = of_three("given back", [5, 5, 5], MemoryBackend::new());
    let other = of_three("other", [5, 5, 5], MemoryBackend::new());
    let [first, second, third] = [1, 1, 1].map(|cost| limiter.check_each((1, 1, ()), cost).unwrap());
    other.refund(first).unwrap();
    assert_eq!(remaining(&limiter, (1, 1, ())), 2);
    limiter.refund(second).unwrap();
    assert_eq!(remaining(&limiter, (1, 1, ())), 3);
    limiter.reset_each((1, 2, ())).unwrap();
    // The tenant's permit comes back, those of the reset keys are gone.
    limiter.check_each((1, 3, ()), 1).unwrap();
    limiter.refund(third).unwrap();
    assert_eq!(remaining(&limiter, (1, 4, ())), 4);
    assert_eq!(remaining(&limiter, (2, 1, ())), 4);
}

#[test]
fn limits_set_by_name_before_the_first_call_keep_their_keys() {
    set_limits("set before", &[Limit::per_hour(1), Limit::per_hour(2)]).unwrap();
    let limiter =
        RateLimiter::builder("set before").limit(Limit::per_hour(9)).limit(Limit::per_hour(9)).build().unwrap();
    assert!(limiter.check_each((1, 1), 1).is_ok());
    assert_eq!(limiter.check_each((1, 1), 1).unwrap_err().limit_index(), 0);
    assert!(limiter.check_each((2, 1), 1).is_ok());
    assert_eq!(limiter.check_each((3, 1), 1).unwrap_err().limit_index(), 1);
}

/// A store that records its requests, fails at one bucket, and is slow.
#[derive(Default)]
struct Notes {
    shelf: Shelf,
    asked: Mutex<Vec<&'static str>>,
    fails_at: Option<&'static str>,
    takes: Duration,
    deadline: Option<Duration>,
}

impl Backend for Notes {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        self.asked.lock().unwrap().push(match request.action() {
            Action::Take { .. } => "take",
            Action::Peek { .. } => "peek",
            Action::GiveBack(_) => "give back",
            _ => "other",
        });
        std::thread::sleep(self.takes);
        if self.fails_at.is_some_and(|part| request.bucket().contains(part)) {
            return Err(BackendError::new(BackendErrorKind::Refused, "it fails"));
        }
        self.shelf.decide(request)
    }

    fn deadline(&self) -> Deadline {
        self.deadline.map_or(Deadline::Kept, Deadline::Imposed)
    }
}

fn noting(notes: &Arc<Notes>, name: &str, policy: OnBackendError) -> RateLimiter {
    let builder = RateLimiter::builder(name).backend(Arc::clone(notes)).on_backend_error(policy);
    [2, 3, 4].iter().fold(builder, |builder, count| builder.limit(Limit::new(*count, HOUR))).build().unwrap()
}

fn asked(notes: &Notes) -> Vec<&'static str> {
    std::mem::take(&mut notes.asked.lock().unwrap())
}

#[test]
fn a_users_store_takes_in_order_and_gives_back_on_a_denial() {
    for deadline in [None, Some(Duration::from_secs(20))] {
        let notes = Arc::new(Notes { deadline, ..Notes::default() });
        let limiter = noting(&notes, "in order", OnBackendError::Deny);
        for is_async in [false, true] {
            let check = |keys: (u32, u32, ())| {
                if is_async { block_on(limiter.check_each_async(keys, 1)) } else { limiter.check_each(keys, 1) }
            };
            check((1, 1, ())).unwrap();
            assert_eq!(asked(&notes), ["take", "take", "take"]);
            check((2, 1, ())).unwrap();
            check((3, 1, ())).unwrap();
            asked(&notes);
            assert_eq!(check((1, 1, ())).unwrap_err().limit_index(), 1);
            assert_eq!(asked(&notes), ["take", "take", "peek", "give back"]);
            assert_eq!(limiter.peek_each((1, 2, ()), 1).unwrap().remaining(), 1);
            for key in [1_u32, 2, 3] {
                limiter.reset_each((key, 1_u32, ())).unwrap();
            }
            asked(&notes);
        }
    }
}

#[test]
fn a_store_that_fails_at_one_key_gives_back_the_others() {
    for is_async in [false, true] {
        let notes = Arc::new(Notes { fails_at: Some("7u32"), ..Notes::default() });
        // Buckets of one name in this process's memory would be shared.
        let limiter = |policy| noting(&notes, &format!("fails {policy:?} {is_async}"), policy);
        let check = |limiter: &RateLimiter, keys: (u32, u32, ())| {
            if is_async { block_on(limiter.check_each_async(keys, 1)) } else { limiter.check_each(keys, 1) }
        };
        let denies = limiter(OnBackendError::Deny);
        assert_eq!(check(&denies, (1, 7, ())).unwrap_err().kind(), ExceededKind::BackendFailed);
        assert_eq!(asked(&notes), ["take", "take", "give back"]);
        assert_eq!(check(&denies, (1, 1, ())).unwrap().remaining(), 1, "nothing is lost");
        let allows = limiter(OnBackendError::Allow);
        assert!((0..3).all(|_| check(&allows, (1, 7, ())).is_ok()));
        let local = limiter(OnBackendError::Local);
        assert_eq!((0..9).filter(|_| check(&local, (1, 7, ())).is_ok()).count(), 2);
        assert_eq!((0..9).filter(|_| check(&local, (2, 7, ())).is_ok()).count(), 1);
    }
}

#[test]
fn all_keys_share_one_deadline() {
    let (takes, deadline) = (Duration::from_millis(70), Some(Duration::from_millis(100)));
    for is_async in [false, true] {
        let notes = Arc::new(Notes { takes, deadline, ..Notes::default() });
        let limiter = noting(&notes, "slow", OnBackendError::Deny);
        let start = Instant::now();
        let decided = if is_async {
            block_on(limiter.check_each_async((1, 1, ()), 1))
        } else {
            limiter.check_each((1, 1, ()), 1)
        };
        assert_eq!(decided.unwrap_err().kind(), ExceededKind::BackendFailed);
        assert!((100..1_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    }
}

#[test]
fn a_dropped_call_gives_back_what_it_has_taken() {
    /// Never answers the second request of a future.
    #[derive(Default)]
    struct Stuck {
        shelf: Shelf,
        asked: AtomicU32,
    }

    impl Backend for Stuck {
        fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
            self.shelf.decide(request)
        }

        fn decide_async<'a>(&'a self, request: &'a Request) -> Option<ratelimit_runtime::backend::BackendFuture<'a>> {
            Some(Box::pin(async move {
                if self.asked.fetch_add(1, Ordering::Relaxed) == 1 {
                    std::future::pending::<()>().await;
                }
                self.shelf.decide(request)
            }))
        }

        fn deadline(&self) -> Deadline {
            Deadline::Kept
        }
    }

    let limiter = RateLimiter::builder("dropped")
        .backend(Stuck::default())
        .limit(Limit::per_hour(2))
        .limit(Limit::per_hour(2))
        .build()
        .unwrap();
    {
        let mut call = pin!(limiter.check_each_async((1, 1), 1));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(limiter.peek_each((1, 2), 0).unwrap().remaining(), 1);
    }
    assert_eq!(limiter.peek_each((1, 2), 0).unwrap().remaining(), 2);
}

#[test]
fn a_store_may_decide_on_all_buckets_itself() {
    /// One lock for all buckets.
    #[derive(Default)]
    struct Atomic {
        buckets: Mutex<std::collections::HashMap<String, Bucket>>,
        together: AtomicU32,
    }

    impl Backend for Atomic {
        fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
            let mut buckets = self.buckets.lock().unwrap();
            Ok(buckets.entry(request.bucket().to_owned()).or_default().apply(request, request.now()))
        }

        fn decide_together(&self, requests: &[Request]) -> Result<Vec<Answer>, BackendError> {
            self.together.fetch_add(1, Ordering::Relaxed);
            let mut buckets = self.buckets.lock().unwrap();
            let before = buckets.clone();
            let apply = |request: &Request| {
                buckets.entry(request.bucket().to_owned()).or_default().apply(request, request.now())
            };
            let answers: Vec<Answer> = requests.iter().map(apply).collect();
            let is_denied = |answer: &Answer| matches!(answer.outcome, ratelimit_runtime::backend::Outcome::Denied(_));
            if answers.iter().any(is_denied) {
                *buckets = before;
            }
            Ok(answers)
        }

        fn deadline(&self) -> Deadline {
            Deadline::Kept
        }
    }

    let store = Arc::new(Atomic::default());
    let builder = RateLimiter::builder("at once").backend(Arc::clone(&store));
    let limiter = builder.limit(Limit::per_hour(2)).limit(Limit::per_hour(3)).build().unwrap();
    assert_eq!((0..9).filter(|_| limiter.check_each((1, 1), 1).is_ok()).count(), 2);
    assert_eq!((0..9).filter(|_| limiter.check_each((2, 1), 1).is_ok()).count(), 1);
    assert_eq!(limiter.peek_each((2, 2), 1).unwrap().remaining(), 1);
    assert!(store.together.load(Ordering::Relaxed) >= 18);
}

#[test]
fn waits_through_a_store_end_after_four_rounds() {
    // The other limit always denies when the first one's turn has come.
    let notes = Arc::new(Notes::default());
    let limiter = RateLimiter::builder("rounds")
        .backend(Arc::clone(&notes))
        .limit(Limit::new(1, 20 * Duration::from_millis(1)))
        .limit(Limit::new(1, 30 * Duration::from_millis(1)))
        .build()
        .unwrap();
    let start = Instant::now();
    for _ in 0..3 {
        limiter.wait_each((1, 1), 1).unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(60));
    assert!(limiter.wait_each_at_most((1, 1), 1, Duration::from_millis(5)).is_err());
    assert!(limiter.wait_each_at_most((1, 1), 1, SECOND).is_ok());
}

/// Users whose calls keep waiting for their own limit and for a shared one. Returns how many are
/// served in 20 seconds.
fn served_together(backend: SharedBackend, name: &str) -> usize {
    const USERS: usize = 6;
    const STEP: Duration = Duration::from_millis(10);
    let clock = test_util::pause();
    let builder = RateLimiter::builder(name).backend(backend).on_backend_error(OnBackendError::Deny);
    // No two users alone would use up the shared limit.
    let limiter = builder.limit(Limit::new(2, SECOND)).limit(Limit::new(5, SECOND)).build().unwrap();
    let wait = |user: usize| Box::pin(limiter.wait_each_async((user, ()), 1));
    let mut calls: Vec<_> = (0..3 * USERS).map(|number| wait(number % USERS)).collect();
    let mut context = Context::from_waker(Waker::noop());
    let mut served = 0;
    for _ in 0..2_000 {
        for (number, call) in calls.iter_mut().enumerate() {
            if let Poll::Ready(decided) = call.as_mut().poll(&mut context) {
                served += usize::from(decided.is_ok());
                *call = wait(number % USERS);
            }
        }
        clock.advance(STEP);
    }
    served
}

#[test]
fn calls_of_several_keys_are_served_the_whole_limit_that_they_share() {
    let served = served_together(MemoryBackend::new().into_backend(), "shared in memory");
    assert!((95..=105).contains(&served), "{served} of 100");
    let served = served_together(Shelf::default().keeping_its_deadline().into_backend(), "shared in a store");
    assert!((95..=105).contains(&served), "{served} of 100");
}
