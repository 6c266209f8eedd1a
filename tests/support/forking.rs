//! The scenarios of `fork.rs`: a process limits some calls, and then forks. Prints only failures.

#![allow(unsafe_code, reason = "nothing safe forks a process")]

use std::cell::RefCell;
use std::future::Future;
use std::process::exit;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_executor::block_on;
use ratelimit_runtime::backend::{Answer, Backend, BackendFuture, Bucket, Deadline, Request};
use ratelimit_runtime::{
    BackendError, Decision, ExceededKind, IntoBackend, Limit, MemcachedBackend, MemoryBackend, OnBackendError,
    PostgresBackend, RateLimitExceeded, RateLimiter, RedisBackend,
};
use tokio::runtime::{Builder, Runtime};

const HOUR: Duration = Duration::from_secs(3_600);

unsafe extern "C" {
    fn fork() -> i32;
    fn alarm(seconds: u32) -> u32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
}

/// Runs `child` in a forked process and `parent` in this one. Exits with the worse result of the
/// two.
fn forked(child: impl FnOnce(), parent: impl FnOnce()) -> ! {
    // SAFETY: the child continues with this thread only. No other thread holds an allocator lock,
    // because all others of this process are waiting.
    let process = unsafe { fork() };
    assert!(process >= 0, "fork fails");
    // SAFETY: only ends this process, after a time in which both are done.
    unsafe { alarm(120) };
    if process == 0 {
        child();
        exit(0);
    }
    parent();
    let mut status = 0;
    // SAFETY: `status` lives until the call returns.
    assert_eq!(unsafe { waitpid(process, &raw mut status, 0) }, process);
    exit(i32::from(status != 0));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scenario = arguments.first().map(String::as_str);
    let url = arguments.get(1).map(String::as_str).unwrap_or_default();
    match scenario {
        Some("memory") => memory(),
        Some("wait") => wait(),
        Some("wait-behind") => wait_behind(),
        Some("wait-across") => wait_across(),
        Some("store") => store(),
        Some("kept") => kept(url),
        Some("silent-store") => silent_store(),
        Some("redis-blocking") => blocking(&used_up(redis(url))),
        Some("redis-async") => asynchronous(&used_up(redis(url))),
        Some("redis-without-runtime") => without_runtime(&used_up(redis(url))),
        Some("memcached-blocking") => blocking(&used_up(memcached(url))),
        Some("memcached-async") => asynchronous(&used_up(memcached(url))),
        Some("memcached-without-runtime") => without_runtime(&used_up(memcached(url))),
        Some("postgres") => postgres(url),
        Some("redis-lease") => redis_lease(url),
        other => panic!("no scenario {other:?}"),
    }
}

fn limiter(count: u32, per: Duration) -> ratelimit_runtime::RateLimiterBuilder {
    RateLimiter::builder("forked").limit(Limit::new(count, per)).on_backend_error(OnBackendError::Deny)
}

/// Buckets in memory are copied: each process goes on with its own.
fn memory() -> ! {
    let limiter = limiter(3, HOUR).build().unwrap();
    limiter.check("a", 1).unwrap();
    let two_more = || {
        assert_eq!([(); 3].map(|()| limiter.check("a", 1).is_ok()), [true, true, false]);
    };
    forked(two_more, two_more)
}

/// Waits outside a runtime, on the timer of the background thread.
fn wait() -> ! {
    let limiter = limiter(1, Duration::from_millis(50)).build().unwrap();
    let wait = || {
        block_on(limiter.wait_async("a", 1)).unwrap();
        assert!(!block_on(limiter.wait_async("a", 1)).unwrap().waited().is_zero());
    };
    wait();
    forked(wait, wait)
}

/// A thread and a future of the parent wait for the key. Neither exists in the child.
fn wait_behind() -> ! {
    let limiter = limiter(1, Duration::from_millis(200)).build().unwrap();
    limiter.check("a", 1).unwrap();
    let in_thread = limiter.clone();
    let thread = std::thread::spawn(move || in_thread.wait("a", 1).unwrap());
    let mut waiting = Box::pin(limiter.wait_async("a", 1));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // Waits until the thread sleeps.
    std::thread::sleep(Duration::from_millis(20));
    let child = || {
        limiter.wait("a", 1).unwrap();
        block_on(limiter.wait_async("a", 1)).unwrap();
        limiter.wait("a", 1).unwrap();
    };
    forked(child, || {
        thread.join().unwrap();
        block_on(waiting).unwrap();
    })
}

fn wait_across() -> ! {
    let limiter = limiter(1, Duration::from_millis(50)).build().unwrap();
    limiter.check("a", 1).unwrap();
    let mut waiting = Box::pin(limiter.wait_async("a", 1));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let waiting = RefCell::new(waiting);
    let go_on = || {
        let decision = block_on(&mut *waiting.borrow_mut()).unwrap();
        assert!(!decision.waited().is_zero());
    };
    forked(go_on, go_on)
}

/// The child has no thread that makes snapshots, and leaves the file to its parent.
fn kept(path: &str) -> ! {
    let memory = MemoryBackend::new();
    let kept = RefCell::new(Some(memory.keep(path, HOUR).unwrap()));
    let limiter = limiter(3, HOUR).backend(memory.clone()).build().unwrap();
    forked(
        || {
            limiter.check("of the child", 1).unwrap();
            drop(kept.take());
            assert!(!std::fs::exists(path).unwrap());
        },
        || {
            // After the end of the child.
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(kept.take().unwrap().close().unwrap().keys, 0);
        },
    )
}

/// A store whose decisions run on helper threads.
struct Slow;

impl Backend for Slow {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        Ok(Bucket::default().apply(request, request.now()))
    }
}

fn store() -> ! {
    let limiter = limiter(1, HOUR).backend(Slow).build().unwrap();
    let decide = || {
        for _ in 0..10 {
            limiter.check("a", 1).unwrap();
            block_on(limiter.check_async("a", 1)).unwrap();
        }
    };
    decide();
    forked(decide, decide)
}

/// A store that never answers: only the deadline ends a call.
struct Silent;

impl Backend for Silent {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        loop {
            std::thread::park();
        }
    }

    fn decide_async<'a>(&'a self, _: &'a Request) -> Option<BackendFuture<'a>> {
        Some(Box::pin(std::future::pending()))
    }

    fn deadline(&self) -> Deadline {
        Deadline::Imposed(Duration::from_millis(20))
    }
}

fn silent_store() -> ! {
    let limiter = limiter(1, HOUR).backend(Silent).build().unwrap();
    let fail = || {
        let exceeded = block_on(limiter.check_async("a", 1)).unwrap_err();
        assert_eq!(exceeded.kind(), ExceededKind::BackendFailed);
        assert!(limiter.check("a", 1).is_err());
    };
    fail();
    forked(fail, fail)
}

fn memcached(url: &str) -> MemcachedBackend {
    MemcachedBackend::builder().url(url).denial_cache(false).timeout(Duration::from_secs(5)).build().unwrap()
}

fn redis(url: &str) -> RedisBackend {
    let redis = RedisBackend::builder().url(url).denial_cache(false).timeout(Duration::from_secs(5));
    redis.build().unwrap()
}

/// Checks that calls get their own answers: one key has permits left, the other has none.
fn check_answers(limiter: &RateLimiter, check: impl Fn(&str) -> Option<u32>) {
    let own = format!("of process {}", std::process::id());
    let mut left = limiter.limits()[0].count();
    for _ in 0..500 {
        assert_eq!(check("used up"), None);
        left -= 1;
        assert_eq!(check(&own), Some(left));
    }
}

/// A limiter with a key that is used up.
fn used_up(backend: impl IntoBackend) -> RateLimiter {
    let limiter = limiter(10_000, HOUR).backend(backend).build().unwrap();
    limiter.check("used up", 10_000).unwrap();
    limiter
}

/// Permits left; `None` if the call was denied by its limit.
fn left(checked: Result<Decision, RateLimitExceeded>) -> Option<u32> {
    match checked {
        Ok(decision) => Some(decision.remaining()),
        Err(exceeded) => {
            assert_eq!(exceeded.kind(), ExceededKind::Limited, "{exceeded:?}");
            None
        }
    }
}

fn blocking(limiter: &RateLimiter) -> ! {
    let check = || check_answers(limiter, |key| left(limiter.check(key, 1)));
    forked(check, check)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn asynchronous(limiter: &RateLimiter) -> ! {
    let parents = runtime();
    assert_eq!(left(parents.block_on(limiter.check_async("used up", 1))), None);
    let check = |runtime: &Runtime| {
        check_answers(limiter, |key| left(runtime.block_on(limiter.check_async(key, 1))));
    };
    forked(|| check(&runtime()), || check(&parents))
}

fn without_runtime(limiter: &RateLimiter) -> ! {
    assert_eq!(left(block_on(limiter.check_async("used up", 1))), None);
    let check = || check_answers(limiter, |key| left(block_on(limiter.check_async(key, 1))));
    forked(check, check)
}

/// Blocking calls and those of a runtime, each with its connections.
fn postgres(url: &str) -> ! {
    let postgres = PostgresBackend::builder().url(url).denial_cache(false).timeout(Duration::from_secs(5));
    let postgres = postgres.build().unwrap();
    postgres.create_table().unwrap();
    let limiter = used_up(postgres);
    let parents = runtime();
    assert_eq!(left(parents.block_on(limiter.check_async("used up", 1))), None);
    let check = |runtime: &Runtime| {
        check_answers(&limiter, |key| {
            let before = left(limiter.check(key, 0));
            let after = left(runtime.block_on(limiter.check_async(key, 1)));
            assert!(after.is_none_or(|after| before == Some(after + 1)), "{before:?} and {after:?} are left");
            after
        });
    };
    forked(|| check(&runtime()), || check(&parents))
}

/// Permits leased by the parent are spent by the parent; the child takes its own.
fn redis_lease(url: &str) -> ! {
    let redis = RedisBackend::builder().url(url).timeout(Duration::from_secs(5)).lease(100, Duration::from_secs(10));
    let limiter = limiter(100, HOUR).backend(redis.build().unwrap()).build().unwrap();
    let admitted = u32::try_from((0..50).filter(|_| limiter.check("a", 1).is_ok()).count()).unwrap();
    let counter = RateLimiter::builder("admitted").limit(Limit::new(1_000, HOUR)).backend(self::redis(url)).build();
    let counter = counter.unwrap();
    let spend = || {
        let taken = (0..200).filter(|_| limiter.check("a", 1).is_ok()).count();
        counter.check("all", u32::try_from(taken).unwrap()).unwrap();
    };
    let child = || {
        spend();
        counter.check("children", 1).unwrap();
    };
    forked(child, || {
        spend();
        while counter.peek("children", 1_000).is_ok() {
            std::thread::yield_now();
        }
        let taken = 1_000 - counter.peek("all", 0).unwrap().remaining();
        assert!(admitted + taken <= 100, "{admitted} and {taken} of 100 are admitted");
    })
}
