//! Process-wide switches, and the fast path that annotated functions take while all are off. In its
//! own binary, because switches affect all other tests.

use std::sync::LazyLock;
use std::time::Duration;

use futures_executor::block_on;
use ratelimit_runtime::{
    DefaultBackendAlreadySet, Limit, MemoryBackend, RateLimiter, RedisBackend, is_enabled, limiters, rate_limit,
    set_default_backend, set_enabled, test_util,
};
use ratelimit_tests::RedisServer;

static LIMITER: RateLimiter = RateLimiter::new("switched", &[Limit::new(1, Duration::from_secs(3_600))]);

#[test]
fn switches_of_the_process() {
    the_timers_thread_is_started_by_the_first_future_that_waits();
    the_fast_path_counts_each_call_once();
    a_dry_run_counts_each_call_once();
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
