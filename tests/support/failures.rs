//! What every remote backend promises while it fails.

use std::time::{Duration, Instant};

use ratelimit_runtime::{ExceededKind, OnBackendError, RateLimiter};

/// Runs a call.
///
/// # Panics
/// If it takes `longest` or more.
pub fn bounded<T>(longest: Duration, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    assert!(took < longest, "a call took {took:?}");
    result
}

/// Checks the three policies, each on an unused key, with calls of at most `longest`. `limiter`
/// makes a limiter of two permits.
///
/// # Panics
/// If one does not apply.
pub fn policies_apply(longest: Duration, limiter: impl Fn(OnBackendError) -> RateLimiter) {
    let check = |limiter: &RateLimiter| bounded(longest, || limiter.check("policy", 1));
    let deny = limiter(OnBackendError::Deny);
    let exceeded = check(&deny).unwrap_err();
    assert_eq!(exceeded.kind(), ExceededKind::BackendFailed);
    let allow = limiter(OnBackendError::Allow);
    assert!((0..4).all(|_| check(&allow).is_ok()));
    let local = limiter(OnBackendError::Local);
    let admitted: Vec<bool> = (0..4).map(|_| check(&local).is_ok()).collect();
    assert_eq!(admitted, [true, true, false, false]);
    let admitted = futures_executor::block_on(async { bounded(longest, || deny.check_async("policy", 1)).await });
    assert_eq!(admitted.unwrap_err().kind(), ExceededKind::BackendFailed);
}
