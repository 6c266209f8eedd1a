//! No interval of `per` holds more than `count` admitted calls, as an observer measures them: by
//! the monotonic clock, read before and after each call.
//!
//! A call is admitted at some moment between the two readings. So if `count` + 1 calls lie wholly
//! within less than `per`, the limit was exceeded, whatever those moments were. Threads hammer a
//! limit for 0.3 s per case, or for `RATELIMIT_TEST_MILLIS` milliseconds.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use ratelimit_runtime::{Algorithm, Limit, RateLimitExceeded, RateLimiter, rate_limit};

const THREADS: [usize; 3] = [2, 4, 8];

/// An admitted call, as its caller measured it.
#[derive(Clone, Copy, Debug)]
struct Admitted {
    begin: Instant,
    end: Instant,
}

/// Calls from several threads, and asserts that no interval of `per` holds more than `count`
/// admissions.
#[track_caller]
fn assert_exact(count: usize, per: Duration, call: impl Fn() -> bool + Sync) {
    let millis = std::env::var("RATELIMIT_TEST_MILLIS").ok().and_then(|millis| millis.parse().ok());
    for threads in THREADS {
        let admitted = hammer(threads, Duration::from_millis(millis.unwrap_or(300)), &call);
        assert!(admitted.len() > count, "{} calls admitted", admitted.len());
        let excesses = excesses(count, per, &admitted);
        if let Some(narrowest) = excesses.iter().min() {
            panic!(
                "{threads} threads: {} of {} times, {} calls were admitted in less than {per:?}, the shortest time {:?}",
                excesses.len(),
                admitted.len(),
                count + 1,
                narrowest,
            );
        }
    }
}

fn hammer(threads: usize, duration: Duration, call: &(impl Fn() -> bool + Sync)) -> Vec<Admitted> {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let caller = || {
            start.wait();
            let until = Instant::now() + duration;
            let mut admitted = Vec::new();
            loop {
                let begin = Instant::now();
                let is_admitted = call();
                let end = Instant::now();
                if is_admitted {
                    admitted.push(Admitted { begin, end });
                }
                if end > until {
                    return admitted;
                }
            }
        };
        let callers: Vec<_> = (0..threads).map(|_| scope.spawn(caller)).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    })
}

/// The lengths of all intervals shorter than `per` that begin with a call and hold more than
/// `count` calls.
fn excesses(count: usize, per: Duration, admitted: &[Admitted]) -> Vec<Duration> {
    let mut calls = admitted.to_vec();
    calls.sort_by_key(|call| call.begin);
    let mut excesses = Vec::new();
    for (first, Admitted { begin, .. }) in calls.iter().enumerate() {
        let within = calls[first..].iter().take_while(|call| call.begin - *begin < per);
        let mut took: Vec<Duration> = within.map(|call| call.end - *begin).filter(|took| *took < per).collect();
        took.sort();
        excesses.extend(took.get(count));
    }
    excesses
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[rate_limit(count = 1, per = "1ms")]
fn one() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[test]
fn one_a_millisecond() {
    assert_exact(1, millis(1), || one().is_ok());
}

#[rate_limit(count = 1, per = "1ms", key = key)]
fn one_by_key(key: &str) -> Result<(), RateLimitExceeded> {
    let _ = key;
    Ok(())
}

#[test]
fn one_a_millisecond_by_key() {
    assert_exact(1, millis(1), || one_by_key("ann").is_ok());
}

#[rate_limit(count = 50, per = "50ms")]
fn fifty() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[test]
fn fifty_in_50_milliseconds() {
    assert_exact(50, millis(50), || fifty().is_ok());
}

#[rate_limit(count = 50, per = "50ms", key = key)]
fn fifty_by_key(key: &str) -> Result<(), RateLimitExceeded> {
    let _ = key;
    Ok(())
}

#[test]
fn fifty_in_50_milliseconds_by_key() {
    assert_exact(50, millis(50), || fifty_by_key("ann").is_ok());
}

#[rate_limit(count = 1_000, per = "1s", algorithm = token_bucket, burst = 1)]
fn bucket() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[test]
fn a_bucket_of_one_each_millisecond() {
    assert_exact(1, millis(1), || bucket().is_ok());
}

#[rate_limit(count = 1_000, per = "1s", algorithm = token_bucket, burst = 1, key = key)]
fn bucket_by_key(key: &str) -> Result<(), RateLimitExceeded> {
    let _ = key;
    Ok(())
}

#[test]
fn a_bucket_of_one_each_millisecond_by_key() {
    assert_exact(1, millis(1), || bucket_by_key("ann").is_ok());
}

/// One per 3,003,003.003 ns.
#[rate_limit(count = 333, per = "1s", algorithm = token_bucket, burst = 1, key = key)]
fn odd_bucket_by_key(key: &str) -> Result<(), RateLimitExceeded> {
    let _ = key;
    Ok(())
}

#[test]
fn a_bucket_of_one_each_333rd_of_a_second_by_key() {
    assert_exact(1, Duration::from_secs(1) / 333, || odd_bucket_by_key("ann").is_ok());
}

#[rate_limit(limit(count = 1, per = "1ms"), limit(count = 10_000, per = "1s"), key = key)]
fn two_limits(key: &str) -> Result<(), RateLimitExceeded> {
    let _ = key;
    Ok(())
}

#[test]
fn the_first_of_two_limits() {
    assert_exact(1, millis(1), || two_limits("ann").is_ok());
}

#[rate_limit(count = 1, per = "1ms", key = key)]
async fn one_in_a_future(key: &str) -> Result<(), RateLimitExceeded> {
    let _ = key;
    Ok(())
}

#[test]
fn one_a_millisecond_in_a_future() {
    assert_exact(1, millis(1), || block_on(one_in_a_future("ann")).is_ok());
}

#[rate_limit(count = 1, per = "1ms", key = key, name = "shared")]
fn one_or_other(key: &str) -> Result<(), RateLimitExceeded> {
    let _ = key;
    Ok(())
}

#[rate_limit(count = 1, per = "1ms", key = key, name = "shared")]
async fn one_or_other_in_a_future(key: &str) -> Result<(), RateLimitExceeded> {
    let _ = key;
    Ok(())
}

/// Asynchronous calls may use another clock.
#[test]
fn one_a_millisecond_of_both_kinds() {
    let is_blocking = AtomicBool::new(true);
    assert_exact(1, millis(1), || {
        if is_blocking.fetch_xor(true, Ordering::Relaxed) {
            one_or_other("ann").is_ok()
        } else {
            block_on(one_or_other_in_a_future("ann")).is_ok()
        }
    });
}

#[test]
fn one_a_millisecond_by_check() {
    let limiter = RateLimiter::builder("one").limit(Limit::new(1, millis(1))).build().unwrap();
    assert_exact(1, millis(1), || limiter.check("ann", 1).is_ok());
}

#[test]
fn fifty_in_50_milliseconds_by_check_without_key() {
    let limiter = RateLimiter::builder("fifty").limit(Limit::new(50, millis(50))).build().unwrap();
    assert_exact(50, millis(50), || limiter.check((), 1).is_ok());
}

#[test]
fn a_bucket_of_one_each_millisecond_by_check() {
    let limit = Limit::new(1_000, millis(1_000)).with_algorithm(Algorithm::TokenBucket).with_burst(1);
    let limiter = RateLimiter::builder("bucket").limit(limit).build().unwrap();
    assert_exact(1, millis(1), || limiter.check("ann", 1).is_ok());
}
