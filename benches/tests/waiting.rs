//! The memory that a waiting call takes, by a counting allocator.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use benches::heap::{self, Counting};
use ratelimit_runtime::{Algorithm, Limit, RateLimiter};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that a call allocates while it waits behind 10,000 others, and the size of its future.
fn bytes<F: Future>(wait: impl Fn() -> F) -> (i64, usize) {
    const CALLS: i64 = 10_000;
    let mut waits: Vec<Pin<Box<F>>> = (0..CALLS).map(|_| Box::pin(wait())).collect();
    let size = size_of_val(&*waits[0]);
    let mut context = Context::from_waker(Waker::noop());
    let (bytes, all_wait) = heap::growth(|| waits.iter_mut().all(|wait| wait.as_mut().poll(&mut context).is_pending()));
    assert!(all_wait);
    let (left, ()) = heap::growth(|| drop(waits));
    assert!(left + CALLS * i64::try_from(size).unwrap() < -bytes / 10 * 9, "what they held is freed: {bytes} {left}");
    (bytes / CALLS, size)
}

/// One test: the allocator counts all threads.
#[test]
fn a_waiting_call_takes_little_memory() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let limit = Limit::new(1, Duration::from_secs(3_600)).with_algorithm(algorithm);
        let limiter = RateLimiter::builder(format!("{algorithm:?}")).limit(limit).build().unwrap();
        limiter.check((), 1).unwrap();
        limiter.check("a", 1).unwrap();
        for (bytes, size) in [bytes(|| limiter.wait_async((), 1)), bytes(|| limiter.wait_async("a", 1))] {
            println!("{algorithm:?}: {bytes} bytes allocated, a future of {size}");
            assert!(bytes <= 320 && size <= 256, "{algorithm:?}: {bytes} bytes, a future of {size}");
        }
    }
}
