//! Attribute macros of other crates on one function with ours, in the order that the docs
//! recommend.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_executor::block_on;
use ratelimit_runtime::{RateLimitExceeded, rate_limit, test_util};

#[culpa::throws(RateLimitExceeded)]
#[rate_limit(count = 1, per = "1h", key = user)]
fn thrown(user: &str) -> Option<u32> {
    Some(u32::try_from(user.len()).unwrap_or(0))
}

#[test]
fn below_throws_a_denial_is_an_error() {
    let _clock = test_util::pause();
    assert_eq!(thrown("ann").unwrap(), Some(3));
    assert!(thrown("ann").is_err() && thrown("bob").is_ok());
}

#[contracts::ensures(ret.as_ref().is_ok_and(|n| *n > 0), "never of a denial")]
#[rate_limit(count = 1, per = "1h", key = user)]
fn ensured_too_much(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[contracts::ensures(ret.as_ref().map_or(true, |n| *n == user))]
#[rate_limit(count = 1, per = "1h", key = user)]
fn ensured(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[test]
fn below_ensures_a_denial_is_returned_if_allowed() {
    let _clock = test_util::pause();
    assert!(ensured(1).is_ok() && ensured(1).is_err() && ensured(2).is_ok());
    assert!(ensured_too_much(1).is_ok());
}

#[maybe_async::must_be_sync]
#[rate_limit(count = 1, per = "1h", key = user)]
async fn made_blocking(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[test]
fn below_must_be_sync_a_blocking_function_is_limited() {
    let _clock = test_util::pause();
    assert!(made_blocking(1).is_ok() && made_blocking(1).is_err() && made_blocking(2).is_ok());
}

#[rate_limit(count = 1, per = "1s")]
fn ask(user: u32) -> Option<u32> {
    memoized(user)
}

#[memoize::memoize]
fn memoized(user: u32) -> Option<u32> {
    user.checked_add(0)
}

#[test]
fn around_a_memoized_function_a_denial_is_not_stored() {
    let clock = test_util::pause();
    assert_eq!([ask(1), ask(2)], [Some(1), None]);
    clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(ask(2), Some(2));
}

static CACHED_RUNS: AtomicUsize = AtomicUsize::new(0);

#[rate_limit(count = 1, per = "1h")]
#[cached::macros::cached]
fn cached_below(user: u32) -> Result<u32, RateLimitExceeded> {
    CACHED_RUNS.fetch_add(1, Ordering::Relaxed);
    Ok(user)
}

/// Other macros with the refused names, accepted by `allow`.
mod other_macros_of_these_names {
    use contracts::{
        requires as debug_ensures, requires as ensures, requires as memoize, requires as must_be_sync,
        requires as test_ensures, requires as throws, requires as try_fn,
    };
    use ratelimit_runtime::{RateLimitExceeded, rate_limit};

    macro_rules! allowed {
        ($($name:ident)*) => {$(
            #[rate_limit(count = 1, per = "1h", allow($name))]
            #[$name(user > 0)]
            pub(super) async fn $name(user: u32) -> Result<u32, RateLimitExceeded> {
                Ok(user)
            }
        )*};
    }

    allowed! { throws try_fn ensures debug_ensures test_ensures must_be_sync memoize }

    #[rate_limit(count = 1, per = "1h", allow(throws, ensures, memoize))]
    #[throws(user > 0)]
    #[ensures(user < 9)]
    pub(super) fn memoized_original_it_is_not(user: u32) -> Option<u32> {
        Some(user)
    }
}

type Outcome = Pin<Box<dyn Future<Output = Result<u32, RateLimitExceeded>>>>;

#[test]
fn allow_accepts_other_macros_of_a_refused_name() {
    use other_macros_of_these_names as other;

    let _clock = test_util::pause();
    let functions: [fn(u32) -> Outcome; 7] = [
        |user| Box::pin(other::throws(user)),
        |user| Box::pin(other::try_fn(user)),
        |user| Box::pin(other::ensures(user)),
        |user| Box::pin(other::debug_ensures(user)),
        |user| Box::pin(other::test_ensures(user)),
        |user| Box::pin(other::must_be_sync(user)),
        |user| Box::pin(other::memoize(user)),
    ];
    for f in functions {
        assert!(block_on(f(1)).is_ok() && block_on(f(1)).is_err());
    }
    assert_eq!([1, 1].map(other::memoized_original_it_is_not), [Some(1), None]);
}

/// The effect of `allow` if the name does belong to the refused macro.
#[rate_limit(count = 1, per = "1h", allow(throws))]
#[culpa::throws(RateLimitExceeded)]
fn swallowed() -> Option<u32> {
    Some(1)
}

#[test]
fn above_throws_a_denial_would_be_a_success() {
    let _clock = test_util::pause();
    assert_eq!([swallowed().unwrap(), swallowed().unwrap()], [Some(1), None]);
}

#[test]
fn above_cached_hits_are_free_and_denials_not_stored() {
    let clock = test_util::pause();
    assert!(cached_below(1).is_ok() && cached_below(1).is_ok() && cached_below(1).is_ok());
    assert!(cached_below(2).is_err());
    clock.advance(std::time::Duration::from_secs(3_600));
    assert!(cached_below(2).is_ok());
    assert_eq!(CACHED_RUNS.load(Ordering::Relaxed), 2);
}
