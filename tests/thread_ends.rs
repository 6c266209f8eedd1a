//! Calls in destructors of thread-locals, when other thread-locals are gone. They are decided, or
//! follow the policy for failures.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use ratelimit_runtime::backend::{Answer, Backend, Bucket, Request};
use ratelimit_runtime::{BackendError, Limit, OnBackendError, RateLimiter, RedisBackend, test_util};
use ratelimit_tests::RedisServer;

const HOUR: Duration = Duration::from_secs(3_600);

/// Runs a closure when the thread ends.
struct AtEnd(Option<Box<dyn FnOnce()>>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

thread_local! {
    static FIRST: RefCell<AtEnd> = const { RefCell::new(AtEnd(None)) };
    static LAST: RefCell<AtEnd> = const { RefCell::new(AtEnd(None)) };
}

/// Runs `f` on a thread, and again while the thread ends: before and after the thread-locals that
/// `f` uses are gone. Returns how many of the three calls were admitted.
fn admitted_at_the_end(limiter: &RateLimiter, f: fn(&RateLimiter) -> bool) -> usize {
    let (sender, receiver) = mpsc::channel();
    let limiter = limiter.clone();
    thread::spawn(move || {
        let at_end = |sender: &Sender<bool>| {
            let (limiter, sender) = (limiter.clone(), sender.clone());
            AtEnd(Some(Box::new(move || sender.send(f(&limiter)).unwrap())))
        };
        FIRST.set(at_end(&sender));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        sender.send(f(&limiter)).unwrap();
        LAST.set(at_end(&sender));
    })
    .join()
    .unwrap();
    let admitted: Vec<bool> = receiver.into_iter().collect();
    assert_eq!(admitted.len(), 3);
    admitted.into_iter().filter(|admitted| *admitted).count()
}

/// A blocking and two asynchronous calls.
const CALLS: [fn(&RateLimiter) -> bool; 3] = [
    |limiter| limiter.check("a", 1).is_ok(),
    |limiter| block_on(limiter.check_async("a", 1)).is_ok(),
    |limiter| {
        let _ = block_on(limiter.check_async("a", 1));
        limiter.wait_at_most("a", 1, Duration::from_millis(1)).is_ok()
            | block_on(limiter.wait_at_most_async("a", 1, Duration::from_millis(1))).is_ok()
    },
];

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An executor without thread-locals.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

fn builder(name: &str) -> ratelimit_runtime::RateLimiterBuilder {
    RateLimiter::builder(name).limit(Limit::new(100, HOUR)).on_backend_error(OnBackendError::Deny)
}

#[test]
fn a_limiter_in_memory_decides_while_a_thread_ends() {
    let limiter = builder("ends, memory").build().unwrap();
    for call in CALLS {
        assert_eq!(admitted_at_the_end(&limiter, call), 3);
    }
}

#[test]
fn redis_decides_while_a_thread_ends() {
    let server = RedisServer::start();
    let redis = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(5)).build().unwrap();
    let limiter = builder("ends, redis").backend(redis).build().unwrap();
    for call in CALLS {
        assert_eq!(admitted_at_the_end(&limiter, call), 3);
    }
}

#[test]
fn a_missing_redis_follows_the_policy_at_thread_end() {
    let redis = RedisBackend::new("redis://127.0.0.1:1").unwrap();
    let limiter = builder("ends, no redis").backend(redis).build().unwrap();
    for call in CALLS {
        assert_eq!(admitted_at_the_end(&limiter, call), 0);
    }
}

struct Fresh;

impl Backend for Fresh {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        Ok(Bucket::default().apply(request, request.now()))
    }
}

#[test]
fn a_store_that_blocks_decides_while_a_thread_ends() {
    let limiter = builder("ends, store").backend(Fresh).build().unwrap();
    for call in CALLS {
        assert_eq!(admitted_at_the_end(&limiter, call), 3);
    }
}

#[test]
fn a_thread_may_end_while_a_test_has_paused_the_clock() {
    let clock = test_util::pause();
    let limiter = builder("ends, paused").build().unwrap();
    for call in CALLS {
        assert_eq!(admitted_at_the_end(&limiter, call), 3);
    }
    drop(clock);
}
