//! Process-wide switches, and the fast path that annotated functions take while all are off. In its
//! own binary, because switches affect all other tests.

use std::sync::LazyLock;
use std::time::Duration;

use futures_executor::block_on;
use ratelimit_runtime::{
    Algorithm, Decision, DefaultBackendAlreadySet, ExceededKind, Limit, MemoryBackend, RateLimitExceeded, RateLimiter,
    RedisBackend, is_enabled, limiters, rate_limit, set_default_backend, set_enabled, set_limits, test_util,
};
use ratelimit_tests::RedisServer;

static LIMITER: RateLimiter = RateLimiter::new("switched", &[Limit::new(1, Duration::from_secs(3_600))]);

#[test]
fn switches_of_the_process() {
    the_timers_thread_is_started_by_the_first_future_that_waits();
    the_fast_path_counts_each_call_once();
    a_dry_run_counts_each_call_once();
    the_fast_path_tells_what_is_left();
    the_fast_path_of_two_keys_tells_which_one_denies();
    other_limits_than_those_written_down_deny_on_their_fast_path();
    any_switch_ends_the_fast_path();
    a_future_goes_by_its_runtimes_clock();
    calls_that_bring_no_new_key_reclaim_idle_ones();
    limits_can_be_turned_off_and_on();
    calls_that_wait_go_when_limits_are_turned_off();
    calls_that_wait_for_several_keys_go_too();
    everything_can_be_reset();
    a_default_backend_applies_to_limiters_in_use();
}

/// Threads that wait sleep until their turn.
fn the_timers_thread_is_started_by_the_first_future_that_waits() {
    let timers = || {
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return None };
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        Some(names.filter(|name| name.trim() == "ratelimit-timer").count())
    };
    let builder = RateLimiter::builder("timer").backend(MemoryBackend::new());
    let limiter = builder.limit(Limit::new(1, Duration::from_millis(5))).build().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| limiter.wait("a", 1).unwrap());
        }
    });
    assert!(timers().is_none_or(|timers| timers == 0));
    for _ in 0..4 {
        block_on(limiter.wait_async("a", 1)).unwrap();
    }
    assert!(timers().is_none_or(|timers| timers == 1));
}

fn limits_can_be_turned_off_and_on() {
    assert!(is_enabled());
    LIMITER.check("a", 1).unwrap();
    set_enabled(false);
    assert!((0..10).all(|_| LIMITER.check("a", 1).is_ok()));
    assert!((0..10).all(|_| LIMITER.check("b", u32::MAX).is_ok()));
    assert_eq!(LIMITER.charge("b", 1).unwrap().remaining(), 1);
    LIMITER.settle(LIMITER.check("b", 1).unwrap(), 2).unwrap();
    set_enabled(true);
    assert!(LIMITER.check("a", 1).is_err());
    assert!(LIMITER.check("b", 1).is_ok(), "nothing was charged meanwhile");
    let listed = limiters().into_iter().find(|limiter| limiter.name == "switched").unwrap();
    assert_eq!((listed.allowed, listed.denied), (2, 1), "nothing was counted meanwhile");
}

fn calls_that_wait_go_when_limits_are_turned_off() {
    let server = RedisServer::start();
    let backend = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(20)).build().unwrap();
    let limit = Limit::new(1, Duration::from_secs(3_600));
    let remote = RateLimiter::builder("waiting").limit(limit).backend(backend).build().unwrap();
    let memory = RateLimiter::builder("waiting").limit(limit).build().unwrap();
    for limiter in [remote, memory] {
        limiter.check("a", 1).unwrap();
        let waits: Vec<_> = (0..3)
            .map(|number| {
                let limiter = limiter.clone();
                std::thread::spawn(move || match number {
                    0 => limiter.wait("a", 1).unwrap(),
                    1 => block_on(limiter.wait_async("a", 1)).unwrap(),
                    _ => block_on(limiter.wait_at_most_async("a", 1, 6 * limit.per())).unwrap(),
                })
            })
            .collect();
        let waiting =
            || limiters().iter().filter(|limiter| limiter.name == "waiting").map(|of| of.waiting).sum::<usize>();
        while waiting() != 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        set_enabled(false);
        for wait in waits {
            drop(wait.join().unwrap());
        }
        set_enabled(true);
        assert_eq!(waiting(), 0);
        assert!(limiter.check("a", 1).is_err(), "nothing was given back");
    }
}

fn calls_that_wait_for_several_keys_go_too() {
    let limit = Limit::new(1, Duration::from_secs(3_600));
    let limiter = RateLimiter::builder("several").limit(limit).limit(limit).build().unwrap();
    limiter.check_each(("a", "t"), 1).unwrap();
    std::thread::scope(|scope| {
        let blocking = scope.spawn(|| limiter.wait_each(("a", "t"), 1).map(drop));
        let future = scope.spawn(|| block_on(limiter.wait_each_async(("a", "t"), 1)).map(drop));
        // They wait, if not at once: both keys deny for an hour.
        std::thread::sleep(Duration::from_millis(200));
        set_enabled(false);
        assert!(blocking.join().unwrap().is_ok() && future.join().unwrap().is_ok());
        set_enabled(true);
    });
    assert!(limiter.check_each(("a", "t"), 1).is_err(), "nothing was given back");
    test_util::reset();
    assert!(limiter.check_each(("a", "t"), 1).is_ok(), "parts are reset too");
}

fn everything_can_be_reset() {
    LIMITER.check((), 1).unwrap();
    assert!(LIMITER.check((), 1).is_err());
    test_util::reset();
    assert!(LIMITER.check("a", 1).is_ok());
    assert!(LIMITER.check((), 1).is_ok());
}

fn a_default_backend_applies_to_limiters_in_use() {
    let memory = MemoryBackend::new();
    assert!(FUNCTIONS.iter().all(|(_, call)| call() && call() && !call()));
    set_default_backend(memory.clone()).unwrap();
    assert!(FUNCTIONS.iter().all(|(_, call)| call()));
    assert_eq!(memory.tracked_keys(), 8);
    assert_eq!(set_default_backend(MemoryBackend::new()), Err(DefaultBackendAlreadySet));
    assert!(LIMITER.check("a", 1).is_ok());
    assert_eq!(memory.tracked_keys(), 9);
}

/// An annotated function's name, and a call of it that returns whether it was admitted.
type Function = (&'static str, fn() -> bool);

macro_rules! functions {
    ($($blocking:tt $asynchronous:tt: $key:tt, $algorithm:ident;)*) => {
        [$(
            ($blocking, || {
                #[rate_limit(count = 2, per = "1h", key = $key, algorithm = $algorithm, name = $blocking)]
                fn call() -> Option<()> {
                    Some(())
                }
                call().is_some()
            }),
            ($asynchronous, || {
                #[rate_limit(count = 2, per = "1h", key = $key, algorithm = $algorithm, name = $asynchronous)]
                async fn call() -> Option<()> {
                    Some(())
                }
                block_on(call()).is_some()
            }),
        )*]
    };
}

/// Functions with two permits an hour, one for each path to a bucket.
const FUNCTIONS: [Function; 12] = functions! {
    "text" "text async": "a", sliding_window;
    "number" "number async": 7_u64, sliding_window;
    "no key" "no key async": (), sliding_window;
    "token of text" "token of text async": "a", token_bucket;
    "token of number" "token of number async": 7_u64, token_bucket;
    "token" "token async": (), token_bucket;
};

fn counts(name: &str) -> (u64, u64) {
    let listed = limiters().into_iter().find(|limiter| limiter.name == name).unwrap();
    (listed.allowed, listed.denied)
}

fn the_fast_path_counts_each_call_once() {
    for (name, call) in FUNCTIONS {
        assert_eq!([(); 5].map(|()| call()), [true, true, false, false, false], "{name}");
        assert_eq!(counts(name), (2, 3), "{name}");
    }
}

fn a_dry_run_counts_each_call_once() {
    #[rate_limit(count = 2, per = "1h", name = "dry", dry_run)]
    fn dry() -> Option<()> {
        Some(())
    }
    #[rate_limit(count = 2, per = "1h", name = "dry async", dry_run)]
    async fn dry_async() -> Option<()> {
        Some(())
    }
    assert!((0..5).all(|_| dry().is_some() && block_on(dry_async()).is_some()));
    assert_eq!((counts("dry"), counts("dry async")), ((2, 3), (2, 3)));
}

/// A limiter for each kind of state that has a fast path. No permit comes back during the test.
fn of_each_kind(name: &str, count: u32) -> Vec<RateLimiter> {
    let limiter = |(index, limit): (usize, Limit)| {
        RateLimiter::builder(format!("{name} {index}")).limit(limit).backend(MemoryBackend::new()).build().unwrap()
    };
    let odd = Duration::from_micros(366 * 86_400_000_000 - 1);
    let limits = [
        Limit::new(count, YEAR).with_algorithm(Algorithm::TokenBucket),
        Limit::new(count, odd).with_algorithm(Algorithm::TokenBucket),
        Limit::new(count, YEAR).with_algorithm(Algorithm::FixedWindow),
        Limit::new(count, YEAR),
    ];
    limits.into_iter().enumerate().map(limiter).collect()
}

const YEAR: Duration = Duration::from_secs(366 * 86_400);
/// A permit counts from the end of its call's reading of the clock.
const LONGEST: Duration = Duration::from_secs(366 * 86_400 + 1);

fn the_fast_path_tells_what_is_left() {
    for (limiter, count) in [10, 640].into_iter().flat_map(|count| {
        of_each_kind(&format!("told {count}"), count).into_iter().map(move |limiter| (limiter, count))
    }) {
        let name = limiter.name().to_owned();
        let told = |told: Result<Decision, RateLimitExceeded>| match told {
            Ok(decision) => {
                assert_eq!((decision.limit(), decision.limit_index()), (limiter.limits()[0], 0), "{name}");
                assert!(decision.reset_after() <= LONGEST && decision.waited().is_zero(), "{name}");
                Ok(decision.remaining())
            }
            Err(exceeded) => {
                assert_eq!((exceeded.limit(), exceeded.limit_index()), (limiter.limits()[0], 0), "{name}");
                assert_eq!(exceeded.kind(), ExceededKind::Limited, "{name}");
                assert!(exceeded.retry_after().is_some_and(|time| !time.is_zero() && time <= LONGEST), "{name}");
                Err(exceeded.remaining())
            }
        };
        // Nobody has called for the key.
        let unused = limiter.peek("a", count).unwrap();
        assert_eq!((unused.remaining(), unused.reset_after()), (count, Duration::ZERO), "{name}");
        let calls = [
            (told(limiter.check("a", 1)), Ok(count - 1)),
            (told(limiter.check("a", 3)), Ok(count - 4)),
            (told(limiter.peek("a", count - 4)), Ok(count - 4)),
            (told(limiter.peek("a", count - 3)), Err(count - 4)),
            (told(limiter.check("a", count - 3)), Err(count - 4)),
        ];
        calls.into_iter().enumerate().for_each(|(call, (told, expected))| assert_eq!(told, expected, "{name}, {call}"));
        let later = limiter.peek("a", 1).unwrap().reset_after();
        assert!(later > Duration::from_secs(60), "{name}: {later:?}");
        let last = limiter.check("a", count - 4).unwrap();
        assert_eq!(last.remaining(), 0, "{name}");
        let calls = [(told(limiter.check("a", 1)), Err(0)), (told(limiter.peek("a", 1)), Err(0))];
        for (told, expected) in calls {
            assert_eq!(told, expected, "{name}");
        }
        // In part, and in whole.
        limiter.settle(last, 1).unwrap();
        assert_eq!(told(limiter.peek("a", 0)), Ok(count - 5), "{name}");
        limiter.refund(limiter.check("a", 2).unwrap()).unwrap();
        assert_eq!(told(limiter.peek("a", 1)), Ok(count - 5), "{name}");
        assert_eq!(counts(&name), (4, 2), "{name}");
    }
}

fn the_fast_path_of_two_keys_tells_which_one_denies() {
    type Limited = Result<(), RateLimitExceeded>;
    macro_rules! two {
        ($($name:ident [$algorithm:ident $user:literal $tenant:literal];)*) => {$(
            #[rate_limit(
                limit(count = 1, per = $user, algorithm = $algorithm, key = user),
                limit(count = 1, per = $tenant, algorithm = $algorithm, key = tenant),
                name = stringify!($name),
                backend = MemoryBackend::new()
            )]
            fn $name(user: u32, tenant: &str) -> Limited {
                Ok(())
            }
        )*};
    }
    two! {
        windows [sliding_window "1d" "2d"];
        windows_too [sliding_window "2d" "1d"];
        buckets [token_bucket "1d" "2d"];
        buckets_too [token_bucket "2d" "1d"];
    }
    let day = Duration::from_secs(86_400);
    for (name, call, user, tenant) in [
        ("windows", windows as fn(u32, &str) -> Limited, day, 2 * day),
        ("windows_too", windows_too, 2 * day, day),
        ("buckets", buckets, day, 2 * day),
        ("buckets_too", buckets_too, 2 * day, day),
    ] {
        let denied = |user, tenant| {
            let exceeded: RateLimitExceeded = call(user, tenant).unwrap_err();
            assert_eq!((exceeded.kind(), exceeded.remaining()), (ExceededKind::Limited, 0), "{name}");
            (exceeded.limit_index(), exceeded.limit().per(), exceeded.retry_after().unwrap().as_secs().div_ceil(3_600))
        };
        let hours = |per: Duration| per.as_secs() / 3_600;
        call(1, "a").unwrap();
        call(2, "b").unwrap();
        // Both deny: the one that denies longer is told.
        let both = if user > tenant { (0, user, hours(user)) } else { (1, tenant, hours(tenant)) };
        assert_eq!(denied(1, "a"), both, "{name}");
        assert_eq!(denied(1, "b"), both, "{name}");
        // Only one does; the other has no bucket.
        assert_eq!(denied(3, "a"), (1, tenant, hours(tenant)), "{name}");
        assert_eq!(denied(1, "c"), (0, user, hours(user)), "{name}");
        // Nothing was taken from the other.
        call(3, "c").unwrap();
        assert_eq!(counts(name), (3, 4), "{name}");
    }
}

fn other_limits_than_those_written_down_deny_on_their_fast_path() {
    #[rate_limit(count = 1, per = "1h", name = "replaced", key = key, backend = MemoryBackend::new())]
    fn replaced(key: &str) -> Result<(), RateLimitExceeded> {
        Ok(())
    }
    macro_rules! read {
        ($($name:ident $algorithm:ident;)*) => {$(
            #[rate_limit(
                count = count, per = YEAR, algorithm = $algorithm, name = stringify!($name), key = key,
                cost = cost, backend = MemoryBackend::new()
            )]
            fn $name(key: &str, count: u32, cost: u32) -> Result<(), RateLimitExceeded> {
                Ok(())
            }
        )*};
    }
    read! {
        read_window sliding_window;
        read_bucket token_bucket;
        read_fixed fixed_window;
    }
    let told = |result: Result<(), RateLimitExceeded>| {
        let told = |exceeded: RateLimitExceeded| {
            (exceeded.limit().count(), exceeded.remaining(), exceeded.retry_after().is_some_and(|time| time <= LONGEST))
        };
        result.map_err(told)
    };
    for (name, call) in [
        ("read_window", read_window as fn(&str, u32, u32) -> Result<(), RateLimitExceeded>),
        ("read_bucket", read_bucket),
        ("read_fixed", read_fixed),
    ] {
        for (count, cost, expected) in [
            (3, 1, Ok(())),
            (3, 2, Ok(())),
            (3, 1, Err((3, 0, true))),
            (5, 3, Err((5, 2, true))),
            (5, 2, Ok(())),
            (4, 1, Err((4, 0, true))),
            (6, 7, Err((6, 1, false))),
            (6, 1, Ok(())),
        ] {
            assert_eq!(told(call("a", count, cost)), expected, "{name}: {cost} of {count}");
        }
        assert_eq!(counts(name), (4, 4), "{name}");
    }
    replaced("a").unwrap();
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let before = counts("replaced");
        set_limits("replaced", &[Limit::new(2, YEAR).with_algorithm(algorithm)]).unwrap();
        let key = format!("{algorithm:?}");
        assert_eq!([(); 3].map(|()| told(replaced(&key))), [Ok(()), Ok(()), Err((2, 0, true))], "{algorithm:?}");
        assert_eq!(counts("replaced"), (before.0 + 2, before.1 + 1), "{algorithm:?}");
    }
}

fn any_switch_ends_the_fast_path() {
    for (name, call) in FUNCTIONS {
        set_enabled(false);
        assert!(call(), "{name} is off");
        set_enabled(true);
        assert!(!call(), "{name} is on");
        let clock = test_util::pause();
        assert!(call() && call() && !call(), "{name} has a test's buckets");
        clock.advance(Duration::from_secs(3_600));
        assert!(call(), "{name} goes by a test's clock");
        drop(clock);
        assert!(!call(), "{name} has its own buckets");
    }
}

fn a_future_goes_by_its_runtimes_clock() {
    #[rate_limit(count = 1, per = "1h")]
    async fn call() -> Option<()> {
        Some(())
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        assert!(call().await.is_some() && call().await.is_none());
        tokio::time::advance(Duration::from_secs(3_599)).await;
        assert!(call().await.is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(call().await.is_some());
    });
}

fn calls_that_bring_no_new_key_reclaim_idle_ones() {
    static MEMORY: LazyLock<MemoryBackend> = LazyLock::new(MemoryBackend::new);
    #[rate_limit(count = 1, per = "1ms", key = user, backend = MEMORY.clone())]
    fn call(user: u32) -> Option<()> {
        Some(())
    }
    assert!((0..1_000).all(|user| call(user).is_some()));
    std::thread::sleep(Duration::from_millis(2));
    for _ in 0..500_000 {
        let _ = call(0);
    }
    assert!(MEMORY.tracked_keys() < 10, "{} are kept", MEMORY.tracked_keys());
}
