//! `wait`: calls that get their permit later.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use ratelimit_runtime::{Limit, RateLimiter, rate_limit, test_util};

use crate::{Limited, ready};

const SECOND: Duration = Duration::from_secs(1);

#[rate_limit(count = 1, per = "1s", wait)]
fn waits() -> u8 {
    1
}

#[rate_limit(count = 1, per = "1s", key = user, wait)]
fn waits_and_returns_nothing(user: &str) {
    assert!(!user.is_empty());
}

#[test]
fn a_call_waits_as_long_as_it_takes() {
    let clock = test_util::pause();
    let start = clock.now();
    assert_eq!((0..5).map(|_| u32::from(waits())).sum::<u32>(), 5);
    assert_eq!(clock.now().since(start), Duration::from_secs(4));
    (0..3).for_each(|_| waits_and_returns_nothing("a"));
    assert_eq!(clock.now().since(start), Duration::from_secs(6));
}

#[rate_limit(count = 1, per = "1s", wait = "1500ms")]
fn waits_a_while() -> Limited<u8> {
    Ok(1)
}

#[rate_limit(count = 1, per = "1s", wait = "500ms", or_else = |exceeded| format!("{:?}", exceeded.retry_after()))]
fn waits_not_long_enough() -> String {
    "admitted".to_owned()
}

#[test]
fn a_call_waits_only_if_the_permit_comes_in_time() {
    let clock = test_util::pause();
    let start = clock.now();
    assert!(waits_a_while().is_ok());
    assert!(waits_a_while().is_ok());
    assert_eq!(clock.now().since(start), Duration::from_secs(1));
    assert_eq!(waits_not_long_enough(), "admitted");
    assert_eq!(waits_not_long_enough(), "Some(1s)");
    assert_eq!(clock.now().since(start), Duration::from_secs(1), "denied at once");
}

#[rate_limit(count = limit, per = "1s", cost = cost, wait)]
fn may_be_denied(limit: u32, cost: u32) -> Limited<u32> {
    Ok(limit)
}

#[rate_limit(count = 2, per = "1s", cost = cost, wait, or_else = |_| 0)]
fn may_be_denied_otherwise(cost: u32) -> u32 {
    cost
}

#[test]
fn a_cost_that_never_fits_is_denied_at_once() {
    let clock = test_util::pause();
    let start = clock.now();
    assert!(may_be_denied(1, 1).is_ok());
    assert!(may_be_denied(1, 2).is_err());
    assert_eq!([may_be_denied_otherwise(2), may_be_denied_otherwise(3)], [2, 0]);
    assert_eq!(clock.now(), start);
}

static SHARED: RateLimiter = RateLimiter::new("waited for", &[Limit::new(1, SECOND)]);

#[rate_limit(limiter = SHARED, wait)]
fn waits_for_a_shared_limiter() -> u8 {
    1
}

#[test]
fn a_shared_limiter_is_waited_for() {
    let clock = test_util::pause();
    let start = clock.now();
    SHARED.check((), 1).unwrap();
    assert_eq!(waits_for_a_shared_limiter(), 1);
    assert_eq!(clock.now().since(start), Duration::from_secs(1));
}

#[rate_limit(count = 1, per = "1s", key = user, wait)]
async fn waits_in_a_future(user: &str) -> usize {
    user.len()
}

#[rate_limit(count = 1, per = "1s", wait = "1s")]
#[expect(clippy::manual_async_fn, reason = "the shape")]
fn waits_in_a_returned_future(number: u32) -> impl Future<Output = Limited<u32>> + Send {
    async move { Ok(number) }
}

#[rate_limit(count = 1, per = "1s", wait, deduct_when = |()| true)]
async fn waits_and_looks_at_the_outcome() {}

#[tokio::test(start_paused = true)]
async fn a_future_waits_on_the_clock_of_the_runtime() {
    let _clock = test_util::pause_with_tokio();
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(crate::assert_send(waits_in_a_future("abc")).await, 3);
    }
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!(waits_in_a_returned_future(1).await.unwrap(), 1);
    assert_eq!(waits_in_a_returned_future(2).await.unwrap(), 2);
    assert_eq!(start.elapsed(), 3 * SECOND);
    crate::assert_send(waits_and_looks_at_the_outcome()).await;
    waits_and_looks_at_the_outcome().await;
    assert_eq!(start.elapsed(), 4 * SECOND);
}

#[test]
fn a_future_waits_until_the_clock_is_advanced() {
    let clock = test_util::pause();
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(ready(waits_in_a_future("a")), 1);
    let mut second = pin!(waits_in_a_future("a"));
    assert!(second.as_mut().poll(&mut context).is_pending());
    clock.advance(Duration::from_micros(999_999));
    assert!(second.as_mut().poll(&mut context).is_pending());
    clock.advance(Duration::from_micros(1));
    assert!(second.as_mut().poll(&mut context).is_ready());
}

#[test]
fn a_future_dropped_while_it_waits_gives_its_place_back() {
    let clock = test_util::pause();
    assert_eq!(ready(waits_in_a_future("a")), 1);
    {
        let mut second = pin!(waits_in_a_future("a"));
        assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    clock.advance(SECOND);
    assert_eq!(ready(waits_in_a_future("a")), 1);
}
