//! `deduct_when`: calls that count depending on what they return.

use std::fmt::Display;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use crate::{Limited, admitted_of_five};
use ratelimit_runtime::{FromRateLimitExceeded, RateLimitExceeded, rate_limit, test_util};

#[rate_limit(count = 2, per = "1h", key = user, deduct_when = |outcome| outcome.is_err())]
fn login(user: &str, password: &str) -> Result<u32, Box<dyn std::error::Error>> {
    if user.is_empty() {
        return Err("nobody".into());
    }
    let number: u32 = password.parse()?;
    Ok(number)
}

#[test]
fn a_call_that_does_not_count_gives_its_permit_back() {
    assert_eq!(admitted_of_five(|| login("a", "1")), 5);
    for _ in 0..2 {
        assert!(login("a", "x").unwrap_err().is::<std::num::ParseIntError>());
    }
    assert!(login("a", "1").unwrap_err().is::<ratelimit_runtime::RateLimitExceeded>());
}

const fn counts(outcome: &Limited<u32>) -> bool {
    matches!(outcome, Ok(1))
}

#[rate_limit(count = 2, per = "1h", deduct_when = counts)]
fn by_path(number: u32) -> Limited<u32> {
    Ok(number)
}

#[test]
fn the_predicate_may_be_a_path() {
    assert_eq!(admitted_of_five(|| by_path(0)), 5);
    assert_eq!(admitted_of_five(|| by_path(1)), 2);
}

#[rate_limit(count = 2, per = "1h", deduct_when = |_| weight > 1)]
fn copies_an_argument(weight: u32) -> Limited<u32> {
    Ok(weight)
}

#[test]
fn the_predicate_may_use_copied_arguments() {
    assert_eq!(admitted_of_five(|| copies_an_argument(1)), 5);
    assert_eq!(admitted_of_five(|| copies_an_argument(2)), 2);
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.is_some())]
fn borrows(list: &mut Vec<u32>) -> Option<&mut u32> {
    list.push(1);
    list.last_mut()
}

#[test]
fn a_borrow_can_be_returned() {
    let mut list = Vec::new();
    *borrows(&mut list).unwrap() = 2;
    assert!(borrows(&mut list).is_some());
    assert!(borrows(&mut list).is_none());
    assert_eq!(list, [2, 1]);
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.is_ok(), exempt_when = vip)]
fn exempt(vip: bool) -> Limited<bool> {
    Ok(vip)
}

#[test]
fn an_exempt_call_neither_takes_nor_gives() {
    assert_eq!(admitted_of_five(|| exempt(true)), 5);
    assert_eq!(admitted_of_five(|| exempt(false)), 2);
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.to_string() != "0", or_else = |_| f64::INFINITY)]
fn opaque(number: u32) -> impl Display {
    f64::from(number)
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.is_ok())]
fn opaque_inside(number: u32) -> Limited<impl Display> {
    Ok(number)
}

#[test]
fn the_outcome_may_be_opaque() {
    assert_eq!([opaque(0), opaque(1), opaque(1), opaque(1)].map(|it| it.to_string()), ["0", "1", "1", "inf"]);
    assert_eq!(admitted_of_five(|| opaque_inside(1)), 2);
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.is_some())]
fn opaque_array() -> Option<[impl Display; 2]> {
    Some([1, 2])
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.is_some())]
fn pointer<'a>(choose: fn(&'a str, &'a str) -> &'a str) -> Option<fn(&'a str, &'a str) -> &'a str> {
    Some(choose)
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.is_some())]
fn closure<'a>(known: &'a str) -> Option<Box<dyn Fn(&'a str) -> [&'a str; 2] + 'a>> {
    Some(Box::new(move |text: &'a str| [known, text]))
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.is_some())]
async fn closure_async<'a>(known: &'a str) -> Option<Box<dyn Fn(&'a str) -> [&'a str; 2] + Send + Sync + 'a>> {
    Some(Box::new(move |text: &'a str| [known, text]))
}

#[tokio::test]
async fn the_outcome_may_be_an_array_or_a_function_of_one_lifetime() {
    assert_eq!(admitted_of_five(|| opaque_array().ok_or(())), 2);
    assert_eq!(admitted_of_five(|| pointer(|a, _| a).ok_or(())), 2);
    assert_eq!(closure("a").map(|both| both("b")), Some(["a", "b"]));
    assert_eq!(closure_async("a").await.map(|both| both("b")), Some(["a", "b"]));
}

struct Account {
    failures: u32,
    id: String,
}

impl Account {
    #[rate_limit(count = 2, per = "1h", key = self.id, deduct_when = |outcome| outcome.is_err())]
    fn attempt(&mut self, works: bool) -> Result<&str, Box<dyn std::error::Error + Send + Sync>> {
        if works {
            Ok(&self.id)
        } else {
            self.failures += 1;
            Err("wrong".into())
        }
    }

    #[rate_limit(count = 2, per = "1h", key = self.id, deduct_when = |outcome| outcome.is_err())]
    async fn attempt_async(&mut self, works: bool) -> Result<&str, Box<dyn std::error::Error + Send + Sync>> {
        tokio::task::yield_now().await;
        if !works {
            self.failures += 1;
            return Err("wrong".into());
        }
        Ok(&self.id)
    }
}

#[tokio::test]
async fn methods_may_give_back_too() {
    let mut account = Account { failures: 0, id: "a".to_owned() };
    assert_eq!(admitted_of_five(|| account.attempt(true).map(drop)), 5);
    for _ in 0..5 {
        assert!(account.attempt(false).is_err());
    }
    assert_eq!(account.failures, 2);
    for _ in 0..5 {
        assert!(crate::assert_send(account.attempt_async(true)).await.is_ok());
    }
    for _ in 0..5 {
        assert!(account.attempt_async(false).await.is_err());
    }
    assert_eq!(account.failures, 4);
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.is_ok())]
#[expect(clippy::manual_async_fn, reason = "the shape")]
fn future(works: bool) -> impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>> + Send {
    async move { if works { Ok(()) } else { Err("wrong".into()) } }
}

#[tokio::test]
async fn a_returned_future_may_give_back() {
    for _ in 0..5 {
        assert_eq!(future(false).await.unwrap_err().to_string(), "wrong");
    }
    assert_eq!(crate::admitted_of_five_async(|| future(true)).await, 2);
}

#[rate_limit(count = 2, per = "1h", deduct_when = |()| true, or_else = |_| ())]
fn unit() {}

#[rate_limit(count = 2, per = "1h", deduct_when = |()| true, or_else = |_| ())]
async fn unit_async() {}

#[tokio::test]
async fn the_outcome_may_be_nothing() {
    unit();
    unit_async().await;
}

#[rate_limit(count = 2, per = "1h", deduct_when = |outcome| outcome.is_ok())]
fn panics(now: bool) -> Limited {
    assert!(!now, "now");
    Ok(())
}

#[test]
fn a_call_that_panics_counts() {
    assert!(std::panic::catch_unwind(|| panics(true)).is_err());
    assert_eq!(admitted_of_five(|| panics(false)), 1);
}

#[rate_limit(count = 2, per = "5ms", wait, deduct_when = |outcome| *outcome > 1)]
fn waits(number: u32) -> u32 {
    number
}

#[test]
fn a_call_that_waits_may_give_back() {
    assert_eq!((0..5).map(waits).sum::<u32>(), 10);
}

#[rate_limit(count = 10, per = "1h", key = user, deduct_when = Result::is_err)]
async fn log_in(user: &str, password: &str, tries: &AtomicU32) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tries.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1)).await;
    if password == "right" { Ok(()) } else { Err("wrong".into()) }
}

#[test]
fn a_thousand_concurrent_passwords_get_count_tries() {
    let clock = test_util::pause();
    let tries = Arc::new(AtomicU32::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..1_000)
            .map(|_| {
                let tries = Arc::clone(&tries);
                let call = async move { log_in("alice", "guess", &tries).await.is_ok() };
                runtime.spawn(clock.handle().scope(call))
            })
            .collect();
        for task in tasks {
            assert!(!task.await.unwrap());
        }
        assert_eq!(tries.load(Ordering::SeqCst), 10);
        assert!(log_in("bob", "right", &tries).await.is_ok());
    });
}

#[rate_limit(count = 10, per = "1h", deduct_when = |outcome| !outcome)]
fn try_password(password: &str, tries: &AtomicU32) -> Tried {
    tries.fetch_add(1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(1));
    Tried(password == "right")
}

struct Tried(bool);

impl std::ops::Not for &Tried {
    type Output = bool;

    fn not(self) -> bool {
        !self.0
    }
}

impl FromRateLimitExceeded for Tried {
    fn from_rate_limit_exceeded(_: RateLimitExceeded) -> Self {
        Self(false)
    }
}

#[test]
fn a_thousand_threads_get_count_tries() {
    let clock = test_util::pause();
    let tries = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let _joined = clock.handle().enter();
                assert!((0..50).all(|_| !try_password("guess", &tries).0));
            });
        }
    });
    assert_eq!(tries.load(Ordering::SeqCst), 10);
}

#[rate_limit(count = 1, per = "1h", deduct_when = |_| false)]
async fn never_counts(panics: bool) -> Limited {
    tokio::task::yield_now().await;
    assert!(!panics, "as it is told");
    Ok(())
}

#[test]
fn the_permit_is_taken_until_the_outcome_is_known() {
    let _clock = test_util::pause();
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut first = pin!(never_counts(false));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(crate::ready(never_counts(false)).is_err(), "another slips through");
        assert!(first.as_mut().poll(&mut context).is_ready());
    }
    let mut second = pin!(never_counts(false));
    assert!(second.as_mut().poll(&mut context).is_pending(), "it was given back");
}

#[test]
fn a_dropped_or_panicking_future_counts() {
    let clock = test_util::pause();
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut dropped = pin!(never_counts(false));
        assert!(dropped.as_mut().poll(&mut context).is_pending());
    }
    assert!(crate::ready(never_counts(false)).is_err());
    clock.reset();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let panic = std::panic::catch_unwind(|| runtime.block_on(never_counts(true)));
    assert!(panic.is_err());
    assert!(crate::ready(never_counts(false)).is_err());
}
