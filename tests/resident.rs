//! The memory that dropped limiters leave behind, and that calls take while they wait. In its own
//! process, because its allocations are counted.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ratelimit_runtime::{
    IntoBackend, Limit, MemoryBackend, OnBackendError, RateLimitExceeded, RateLimitLayer, RateLimiter, RedisBackend,
    limiters, rate_limit,
};
use ratelimit_tests::{ALGORITHMS, PATIENCE, RedisServer};
use tower::{Layer, ServiceExt, service_fn};

#[expect(dead_code, unreachable_pub, reason = "the benchmarks' own, which count allocations too")]
#[path = "../benches/heap.rs"]
mod heap;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Held by the test that counts.
static COUNTING: Mutex<()> = Mutex::new(());

#[test]
fn dropped_limiters_keep_only_their_buckets() {
    let _counting = COUNTING.lock().unwrap();
    for algorithm in ALGORITHMS {
        let (bytes, ()) = heap::growth(|| {
            for name in 0..10_000 {
                let limit = Limit::new(100, HOUR).with_algorithm(algorithm);
                let limiter = RateLimiter::builder(format!("small {algorithm:?} {name}")).limit(limit).build().unwrap();
                limiter.check("a", 1).unwrap();
            }
        });
        // The shards of one live limiter take eight kilobytes.
        assert!(bytes < 20_000_000, "{algorithm:?}: {bytes}");
    }
}

#[rate_limit(limiter = limiter, key = "a", wait)]
async fn waits(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    body(limiter).await
}

#[rate_limit(limiter = limiter, key = "a", wait = "300d")]
async fn waits_300_days(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    body(limiter).await
}

#[rate_limit(limiter = limiter, key = "a", wait(max = "8h", queue = 100_000, priority = 1))]
async fn waits_eight_hours(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    body(limiter).await
}

#[rate_limit(limiter = limiter, key = "a", wait, deduct_when = Result::is_ok)]
async fn waits_and_gives_back(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    body(limiter).await
}

#[rate_limit(limiter = limiter, key = "a")]
async fn checks(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    body(limiter).await
}

async fn is_unlimited(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    body(limiter).await
}

async fn body(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    ready(()).await;
    let _ = black_box(limiter.name());
    Ok(())
}

#[test]
fn the_future_of_a_wait_is_small() {
    let limiter = RateLimiter::builder("small future").limit(Limit::new(1, HOUR)).build().unwrap();
    let methods = [
        size_of_val(&limiter.wait_async("a", 1)),
        size_of_val(&limiter.wait_at_most_async("a", 1, HOUR)),
        size_of_val(&limiter.wait_each_async(("a", "b"), 1)),
        size_of_val(&limiter.wait_each_at_most_async(("a", "b"), 1, HOUR)),
    ];
    assert!(methods.iter().all(|bytes| *bytes <= 256), "{methods:?}");
    let unlimited = size_of_val(&is_unlimited(&limiter));
    let more =
        [size_of_val(&checks(&limiter)), size_of_val(&waits(&limiter)), size_of_val(&waits_eight_hours(&limiter))]
            .map(|bytes| bytes - unlimited);
    assert!(more.iter().all(|bytes| *bytes <= 64), "{more:?}");
    let more = size_of_val(&waits_and_gives_back(&limiter)) - unlimited;
    assert!(more <= 192, "{more}");
}

type Wait = Pin<Box<dyn Future<Output = ()>>>;

/// How it is called, and a call.
type Front = (&'static str, fn(RateLimiter) -> Wait);

fn poll(wait: &mut Wait) -> Poll<()> {
    wait.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Bytes of each waiting call, without the future that its caller polls.
fn of_a_waiter(limiter: &RateLimiter, wait: impl Fn(RateLimiter) -> Wait) -> i64 {
    const EARLIER: usize = 1_001;
    const WAITERS: usize = 10_001;
    limiter.check("a", 1).unwrap();
    let mut waits: Vec<Wait> = (0..WAITERS).map(|_| wait(limiter.clone())).collect();
    let waiting = || -> usize {
        limiters().iter().filter(|listed| listed.name == limiter.name()).map(|listed| listed.waiting).sum()
    };
    while waiting() == 0 {
        assert_eq!(poll(&mut waits[0]), Poll::Pending);
        std::thread::yield_now();
    }
    // Before a backend, a bounded call asks first whether it is in time. A hundred ask at once: the
    // client's buffers have grown before.
    let mut begin = |from: usize, to: usize| {
        for some in waits[from..to].chunks_mut(100) {
            let all = waiting() + some.len();
            while waiting() < all {
                for wait in some.iter_mut() {
                    assert_eq!(poll(wait), Poll::Pending);
                }
            }
        }
    };
    begin(1, EARLIER);
    let (bytes, ()) = heap::growth(|| begin(EARLIER, WAITERS));
    assert_eq!(waiting(), WAITERS);
    bytes / i64::try_from(WAITERS - EARLIER).unwrap()
}

#[test]
fn a_waiting_call_takes_little_memory() {
    let _counting = COUNTING.lock().unwrap();
    let server = RedisServer::start();
    let redis = RedisBackend::builder().url(server.url()).timeout(PATIENCE).build().unwrap();
    for (store, backend) in [("memory", MemoryBackend::new().into_backend()), ("redis", redis.into_backend())] {
        let fronts: [Front; 6] = [
            ("limiter", |limiter| Box::pin(async move { drop(limiter.wait_async("a", 1).await) })),
            ("limiter, bounded", |limiter| {
                Box::pin(async move { drop(limiter.wait_at_most_async("a", 1, 300 * DAY).await) })
            }),
            ("attribute", |limiter| Box::pin(async move { drop(waits(&limiter).await) })),
            ("attribute, bounded", |limiter| Box::pin(async move { drop(waits_300_days(&limiter).await) })),
            ("attribute with an outcome", |limiter| {
                Box::pin(async move { drop(waits_and_gives_back(&limiter).await) })
            }),
            ("layer", |limiter| {
                let layer = RateLimitLayer::new(limiter, |_: &u8| "a").wait().error_on_denied();
                let service = layer.layer(service_fn(|request: u8| ready(Ok::<u8, Infallible>(request))));
                Box::pin(async move { drop(service.oneshot(1).await) })
            }),
        ];
        for (front, wait) in fronts {
            for algorithm in ALGORITHMS {
                // None is due meanwhile, and all are due in time.
                let limit = Limit::new(1, HOUR / 2).with_algorithm(algorithm);
                let builder = RateLimiter::builder(format!("{front}, {algorithm:?}")).backend(backend.clone());
                let limiter = builder.limit(limit).on_backend_error(OnBackendError::Deny).build().unwrap();
                let bytes = of_a_waiter(&limiter, wait);
                assert!(bytes <= 200, "{front} in {store} by {algorithm:?}: {bytes}");
            }
        }
    }
}

#[test]
fn calls_that_stop_waiting_leave_nothing() {
    let _counting = COUNTING.lock().unwrap();
    let limiter = RateLimiter::builder("stopped").limit(Limit::new(1, HOUR)).build().unwrap();
    limiter.check("a", 1).unwrap();
    let wait = || -> Wait {
        let limiter = limiter.clone();
        Box::pin(async move { drop(limiter.wait_at_most_async("a", 1, 300 * DAY).await) })
    };
    // It keeps the queue.
    let mut first = wait();
    assert_eq!(poll(&mut first), Poll::Pending);
    let (bytes, ()) = heap::growth(|| (0..10_000).for_each(|_| assert_eq!(poll(&mut wait()), Poll::Pending)));
    assert!(bytes < 10_000, "{bytes}");
}
