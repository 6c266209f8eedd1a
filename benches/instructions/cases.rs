//! The decisions to count. Names are keys of the committed table and do not change.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use governor::{Quota, RateLimiter as Governor};
use ratelimit_runtime::backend::{Answer, Backend, Bucket, Deadline, Request};
use ratelimit_runtime::{
    Algorithm, BackendError, Limit, MemoryBackend, RateLimitExceeded, RateLimiter, RateLimiterBuilder, rate_limit,
    set_limits,
};

type Limited = Result<(), RateLimitExceeded>;

const HOUR: Duration = Duration::from_secs(3_600);
const YEAR: Duration = Duration::from_secs(366 * 86_400);
const MANY: u32 = 1_000_000_000;
/// Keys that take turns.
pub(super) const KEYS: usize = 500;

/// A kind of decision: a name, and a call by its number.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) call: Box<dyn Fn(usize) -> bool>,
}

/// A separate backend for each case, so that none sweeps another's buckets.
fn memory() -> MemoryBackend {
    MemoryBackend::with_max_keys(10_000)
}

static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| (0..KEYS).map(|key| format!("user:{key:016}")).collect());

fn text(call: usize) -> &'static str {
    &TEXTS[call % KEYS]
}

fn address(call: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::try_from(call % KEYS).unwrap_or(0)))
}

/// The output of a future that does not wait.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing is waited for"),
    }
}

fn quota(burst: u32) -> Quota {
    Quota::with_period(HOUR).unwrap().allow_burst(NonZeroU32::new(burst).unwrap())
}

#[derive(Clone, Copy)]
struct Plan {
    count: u32,
    per: Duration,
}

const PLANS: [Plan; 3] = [
    Plan { count: 1_000_000, per: YEAR },
    Plan { count: 2_000_000, per: YEAR },
    Plan { count: 1_300_000, per: Duration::from_secs(365 * 86_400) },
];

/// Cases of functions without a key.
macro_rules! unkeyed {
    ($cases:ident, $($name:literal: [$($arguments:tt)*];)*) => {$({
        #[rate_limit($($arguments)*)]
        fn ours() -> Limited {
            Ok(())
        }
        $cases.push(Case { name: $name, call: Box::new(|_| ours().is_ok()) });
    })*};
}

/// Cases of functions with a key, which is text unless given otherwise.
macro_rules! keyed {
    ($cases:ident, $($name:literal $($key:ident: $type:ty)?: [$($arguments:tt)*];)*) => {$(
        keyed!(@ $cases, $name, [$($key: $type)?], [$($arguments)*]);
    )*};
    (@ $cases:ident, $name:literal, [], [$($arguments:tt)*]) => {
        keyed!(@ $cases, $name, [text: &str], [$($arguments)*])
    };
    (@ $cases:ident, $name:literal, [$key:ident: $type:ty], [$($arguments:tt)*]) => {{
        #[rate_limit($($arguments)*, key = key, backend = memory())]
        fn ours(key: $type) -> Limited {
            Ok(())
        }
        $cases.push(Case { name: $name, call: Box::new(|call| ours($key(call)).is_ok()) });
    }};
}

/// All cases, in the order of the table.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    without_keys(&mut cases);
    with_keys(&mut cases);
    futures(&mut cases);
    limiters(&mut cases);
    behind_waiting_calls(&mut cases);
    blocks(&mut cases);
    governor(&mut cases);
    cases
}

fn without_keys(cases: &mut Vec<Case>) {
    unkeyed! { cases,
        "bucket": [count = 1_000_000_000, per = "1h", algorithm = token_bucket];
        "bucket of a constant": [count = MANY, per = "1h", algorithm = token_bucket];
        "bucket, denied": [count = 1, per = "1h", algorithm = token_bucket];
        "bucket, odd rate": [count = 17, per = "1s", algorithm = token_bucket, burst = 1_000_000];
        "bucket, odd rate, denied": [count = 123, per = "366d", algorithm = token_bucket, burst = 1];
        "window 64, denied": [count = 1, per = "1h"];
        "window 1e9": [count = 1_000_000_000, per = "1h"];
        "fixed": [count = 1_000_000, per = "1h", algorithm = fixed_window];
        "fixed, denied": [count = 1, per = "1h", algorithm = fixed_window];
        "cost 3, bucket": [count = 4_000_000_000, per = "1h", algorithm = token_bucket, cost = 3];
        "cost 3, window 1e9": [count = 1_000_000_000, per = "1h", cost = 3];
        "two buckets": [
            limit(count = 1_000_000, per = "366d", algorithm = token_bucket),
            limit(count = 1_500_000, per = "366d", algorithm = token_bucket)
        ];
        "deduct, kept": [count = 1_000_000, per = "366d", algorithm = token_bucket, deduct_when = Result::is_ok];
        "deduct, given back": [count = 1_000_000, per = "366d", algorithm = token_bucket, deduct_when = Result::is_err];
        "backoff": [count = 1_000_000, per = "366d", algorithm = token_bucket, backoff(initial = "1s", max = "1h")];
        "wait": [count = 1_000_000, per = "366d", algorithm = token_bucket, wait = "1s"];
        "dry run": [count = 1_000_000, per = "366d", algorithm = token_bucket, dry_run];
        "read": [count = black_box(PLANS[0].count), per = black_box(PLANS[0].per), algorithm = token_bucket];
    }
}

/// Periods are so long that no permit returns between two calls of a key, or so short that all do.
/// So counts do not depend on the machine's speed.
fn with_keys(cases: &mut Vec<Case>) {
    fn number(call: usize) -> u64 {
        call as u64 % KEYS as u64
    }
    keyed! { cases,
        "key, bucket": [count = 1_000_000, per = "366d", algorithm = token_bucket];
        "key, bucket of a constant": [count = MANY, per = YEAR, algorithm = token_bucket];
        "key, window of a constant": [count = MANY, per = YEAR];
        "key u64, bucket" number: u64: [count = 1_000_000, per = "366d", algorithm = token_bucket];
        "key, bucket, full again": [count = 1_000_000_000, per = "10s", algorithm = token_bucket];
        "key, bucket, denied": [count = 1, per = "1h", algorithm = token_bucket];
        "key, bucket, odd rate": [count = 17, per = "1s", algorithm = token_bucket, burst = 1_000_000];
        "key, bucket, odd rate, denied": [count = 123, per = "366d", algorithm = token_bucket, burst = 1];
        "key, bucket of 4e9 a second": [count = 4_000_000_000, per = "1s", algorithm = token_bucket];
        "key, window 64, filling": [count = 64, per = "1h"];
        "key, window 1e6": [count = 1_000_000, per = "1h"];
        "key, window 1, old": [count = 1, per = "1us"];
        "key, window 10, old": [count = 10, per = "1us"];
        "key, window 1000, old": [count = 1_000, per = "1us"];
        "key, window, denied": [count = 1, per = "1h"];
        "key, fixed": [count = 1_000_000, per = "1h", algorithm = fixed_window];
        "key, fixed, denied": [count = 1, per = "1h", algorithm = fixed_window];
        "key, cost 3, bucket": [count = 3_000_000, per = "366d", algorithm = token_bucket, cost = 3];
        "key, cost 3, window 500, old": [count = 500, per = "1us", cost = 3];
        "key, cost 3, window 1e6": [count = 1_000_000, per = "1h", cost = 3];
        "key, cost 3, fixed": [count = 1_000_000, per = "1h", algorithm = fixed_window, cost = 3];
        "key, two buckets": [
            limit(count = 1_000_000, per = "366d", algorithm = token_bucket),
            limit(count = 1_500_000, per = "366d", algorithm = token_bucket)
        ];
        "key, two windows": [limit(count = 64, per = "1h"), limit(count = 1_000, per = "1d")];
        "key, two windows, old": [limit(count = 10, per = "1us"), limit(count = 100, per = "2us")];
        "key, three limits": [
            limit(count = 64, per = "1h"), limit(count = 1_000_000, per = "366d", algorithm = token_bucket),
            limit(count = 1_000_000, per = "1d", algorithm = fixed_window)
        ];
        "key, two limits, first denies": [
            limit(count = 1, per = "1h"), limit(count = 1_000_000, per = "366d", algorithm = token_bucket)
        ];
        "key, two limits, second denies": [
            limit(count = 1_000_000, per = "1h"), limit(count = 1, per = "1d", algorithm = token_bucket)
        ];
        "key, deduct, kept, bucket":
            [count = 1_000_000, per = "366d", algorithm = token_bucket, deduct_when = Result::is_ok];
        "key, deduct, kept, window": [count = 64, per = "1h", deduct_when = Result::is_ok];
        "key, deduct, given back, bucket":
            [count = 1_000_000, per = "366d", algorithm = token_bucket, deduct_when = Result::is_err];
        "key, deduct, given back, fixed":
            [count = 10, per = "1h", algorithm = fixed_window, deduct_when = Result::is_err];
        "key, settle, bucket":
            [count = 3_000_000, per = "366d", algorithm = token_bucket, cost = 3, settle = |_| 2];
        "key, settle, window 1e6": [count = 1_000_000, per = "1h", cost = 3, settle = |_| 2];
        "key, settle, fixed": [count = 1_000_000, per = "1h", algorithm = fixed_window, cost = 3, settle = |_| 2];
        "key, backoff, bucket":
            [count = 1_000_000, per = "366d", algorithm = token_bucket, backoff(initial = "1s", max = "1h")];
        "key, backoff, window": [count = 64, per = "1h", backoff(initial = "1s", max = "1h")];
        "key, backoff, denied": [count = 1, per = "1h", backoff(initial = "1h", max = "2h")];
        "key, wait, bucket": [count = 1_000_000, per = "366d", algorithm = token_bucket, wait = "1s"];
        "key, wait, window": [count = 64, per = "1h", wait = "1s"];
        "key, dry run, bucket": [count = 1_000_000, per = "366d", algorithm = token_bucket, dry_run];
        "key, dry run, window, old": [count = 10, per = "1us", dry_run];
        "key address, bucket" address: IpAddr: [count = 1_000_000, per = "366d", algorithm = token_bucket];
        "key address, window 10, old" address: IpAddr: [count = 10, per = "1us"];
    }
    pairs_of_keys(cases);
    keys_of_limits(cases);
    read_or_replaced(cases);
}

/// Limits with a key each, beside one call for each of these limits. No bucket is full again at a
/// call, which takes a path of its own: else the counts would depend on the machine's speed.
fn keys_of_limits(cases: &mut Vec<Case>) {
    #[rate_limit(
        limit(count = 1_000_000, per = "366d", algorithm = token_bucket, key = user),
        limit(count = 1_000_000, per = "366d", algorithm = token_bucket),
        backend = memory()
    )]
    fn of_user_and_all(user: &str) -> Limited {
        Ok(())
    }
    fn tenant(call: usize) -> u64 {
        call as u64 % 50
    }
    macro_rules! each {
        ($name:literal, $apart:literal, [$($limit:tt)*]) => {{
            #[rate_limit(limit($($limit)*, key = user), limit($($limit)*, key = tenant), backend = memory())]
            fn together(user: &str, tenant: u64) -> Limited {
                Ok(())
            }
            #[rate_limit($($limit)*, key = user, backend = memory())]
            fn of_user(user: &str) -> Limited {
                Ok(())
            }
            #[rate_limit($($limit)*, key = tenant, backend = memory())]
            fn of_tenant(tenant: u64) -> Limited {
                Ok(())
            }
            cases.push(Case { name: $name, call: Box::new(|call| together(text(call), tenant(call)).is_ok()) });
            let apart = |call| of_user(text(call)).is_ok() && of_tenant(tenant(call)).is_ok();
            cases.push(Case { name: $apart, call: Box::new(apart) });
        }};
    }
    each!("two keys, buckets", "two calls, buckets", [count = 1_000_000, per = "366d", algorithm = token_bucket]);
    each!("two keys, windows 1e6", "two calls, windows 1e6", [count = 1_000_000, per = "1h"]);
    each!("two keys, fixed", "two calls, fixed", [count = 1_000_000, per = "1h", algorithm = fixed_window]);
    each!("two keys, denied", "two calls, denied", [count = 1, per = "1h"]);
    cases.push(Case { name: "a key and all, buckets", call: Box::new(|call| of_user_and_all(text(call)).is_ok()) });
}

fn pairs_of_keys(cases: &mut Vec<Case>) {
    #[rate_limit(count = 1_000_000, per = "366d", algorithm = token_bucket, key = (user, tenant), backend = memory())]
    fn bucket(user: &str, tenant: u32) -> Limited {
        Ok(())
    }
    #[rate_limit(count = 10, per = "1us", key = (user, tenant), backend = memory())]
    fn window(user: &str, tenant: u32) -> Limited {
        Ok(())
    }
    cases.push(Case { name: "key of two parts, bucket", call: Box::new(|call| bucket(text(call), 7).is_ok()) });
    cases.push(Case { name: "key of two parts, window 10, old", call: Box::new(|call| window(text(call), 7).is_ok()) });
}

fn read_or_replaced(cases: &mut Vec<Case>) {
    macro_rules! read {
        ($name:literal, $algorithm:ident) => {{
            #[rate_limit(count = plan.count, per = plan.per, algorithm = $algorithm, key = key, backend = memory())]
            fn ours(key: &str, plan: Plan) -> Limited {
                Ok(())
            }
            cases.push(Case { name: $name, call: Box::new(|call| ours(text(call), PLANS[call % KEYS % 3]).is_ok()) });
        }};
    }
    read!("key, read, three plans, bucket", token_bucket);
    read!("key, read, three plans, window", sliding_window);
    read!("key, read, three plans, fixed", fixed_window);
    keyed! { cases,
        "key, replaced, bucket": [name = "bucket", count = 500_000, per = "366d", algorithm = token_bucket];
        "key, replaced, window": [name = "window", count = 500_000, per = "1h"];
    }
    // A limiter is registered at its first call.
    for replaced in &cases[cases.len() - 2..] {
        (replaced.call)(0);
    }
    for (name, algorithm) in [("bucket", Algorithm::TokenBucket), ("window", Algorithm::SlidingWindow)] {
        set_limits(name, &[Limit::new(1_000_000, YEAR).with_algorithm(algorithm)]).unwrap();
    }
}

fn futures(cases: &mut Vec<Case>) {
    #[rate_limit(count = 1_000_000_000, per = "1h", algorithm = token_bucket)]
    async fn unkeyed() -> Limited {
        Ok(())
    }
    #[rate_limit(count = 1_000_000, per = "366d", algorithm = token_bucket, key = key, backend = memory())]
    async fn bucket(key: &str) -> Limited {
        Ok(())
    }
    #[rate_limit(count = 1_000_000, per = "1h", key = key, backend = memory())]
    async fn window(key: &str) -> Limited {
        Ok(())
    }
    #[rate_limit(count = 1_000_000, per = "366d", algorithm = token_bucket, wait = "1s", key = key, backend = memory())]
    async fn waiting(key: &str) -> Limited {
        Ok(())
    }
    cases.push(Case { name: "async, bucket", call: Box::new(|_| at_once(unkeyed()).is_ok()) });
    cases.push(Case { name: "async, key, bucket", call: Box::new(|call| at_once(bucket(text(call))).is_ok()) });
    cases.push(Case { name: "async, key, window 1e6", call: Box::new(|call| at_once(window(text(call))).is_ok()) });
    cases.push(Case { name: "async, key, wait, bucket", call: Box::new(|call| at_once(waiting(text(call))).is_ok()) });
}

fn limiters(cases: &mut Vec<Case>) {
    for (algorithm, check, peek, settle) in [
        (Algorithm::TokenBucket, "check, bucket", "peek, bucket", "check and settle, bucket"),
        (Algorithm::SlidingWindow, "check, window 1e6", "peek, window 1e6", "check and settle, window 1e6"),
        (Algorithm::FixedWindow, "check, fixed", "peek, fixed", "check and settle, fixed"),
    ] {
        let limiter = |name| {
            let limit = Limit::new(1_000_000, YEAR).with_algorithm(algorithm);
            RateLimiter::builder(name).limit(limit).backend(memory()).build().unwrap()
        };
        let (checked, peeked, settled) = (limiter(check), limiter(peek), limiter(settle));
        for call in 0..KEYS {
            peeked.check(text(call), 1).unwrap();
        }
        cases.push(Case { name: check, call: Box::new(move |call| checked.check(text(call), 1).is_ok()) });
        cases.push(Case { name: peek, call: Box::new(move |call| peeked.peek(text(call), 1).is_ok()) });
        let call = move |call| settled.check(text(call), 3).is_ok_and(|decision| settled.settle(decision, 2).is_ok());
        cases.push(Case { name: settle, call: Box::new(call) });
    }
}

/// A call that joins the end of a key's queue and leaves it, and one that is denied because of the
/// queue. Counts that grow with the queue's length would show here.
fn behind_waiting_calls(cases: &mut Vec<Case>) {
    fn case(name: &'static str, waiting: usize, builder: fn() -> RateLimiterBuilder) -> Case {
        let limiter: OnceLock<&'static RateLimiter> = OnceLock::new();
        let begin = move || {
            let limiter: &'static RateLimiter =
                Box::leak(Box::new(builder().limit(Limit::new(1, HOUR / 6)).build().unwrap()));
            limiter.check("a", 1).unwrap();
            (0..waiting).for_each(|_| assert!(is_pending(Box::leak(Box::new(wait(limiter))))));
            limiter
        };
        let call = move |_| {
            let limiter = *limiter.get_or_init(begin);
            is_pending(&mut wait(limiter)) && limiter.check("a", 1).is_err()
        };
        Case { name, call: Box::new(call) }
    }
    type Wait = Pin<Box<dyn Future<Output = bool>>>;
    fn wait(limiter: &'static RateLimiter) -> Wait {
        Box::pin(async { limiter.wait_async("a", 1).await.is_ok() })
    }
    fn is_pending(wait: &mut Wait) -> bool {
        wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }
    fn in_memory() -> RateLimiterBuilder {
        RateLimiter::builder("waiting").backend(memory())
    }
    fn before_a_store() -> RateLimiterBuilder {
        RateLimiter::builder("waiting").backend(Shelf::default())
    }
    cases.push(case("behind 100 that wait", 100, in_memory));
    cases.push(case("behind 10,000 that wait", 10_000, in_memory));
    cases.push(case("behind 100 that wait before a store", 100, before_a_store));
    cases.push(case("behind 10,000 that wait before a store", 10_000, before_a_store));
}

/// A store of one bucket.
#[derive(Default)]
struct Shelf(Mutex<Bucket>);

impl Backend for Shelf {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).apply(request, request.now()))
    }

    fn deadline(&self) -> Deadline {
        Deadline::Kept
    }
}

/// From the first call of these cases on, keys are blocked, so they are the last.
fn blocks(cases: &mut Vec<Case>) {
    #[rate_limit(limiter = limiter, key = key)]
    fn ours(limiter: &RateLimiter, key: &str) -> Limited {
        Ok(())
    }
    static BLOCKED: LazyLock<RateLimiter> = LazyLock::new(|| {
        let limit = Limit::new(1_000_000, HOUR);
        let limiter = RateLimiter::builder("blocked").limit(limit).backend(memory()).build().unwrap();
        for call in (0..KEYS).step_by(2) {
            ours(&limiter, text(call)).unwrap();
            limiter.block(text(call), YEAR).unwrap();
        }
        limiter
    });
    let other = RateLimiter::builder("beside").limit(Limit::new(1_000_000, HOUR)).backend(memory()).build().unwrap();
    cases.push(Case { name: "key, blocked", call: Box::new(|call| ours(&BLOCKED, text(call * 2)).is_ok()) });
    let not_blocked = |call| ours(&BLOCKED, text(call * 2 + 1)).is_ok();
    cases.push(Case { name: "key, beside blocked ones", call: Box::new(not_blocked) });
    let call = move |call| ours(&other, text(call)).is_ok();
    cases.push(Case { name: "key, of another limiter than blocked ones", call: Box::new(call) });
}

/// The peer of the comparison.
fn governor(cases: &mut Vec<Case>) {
    let (direct, denied) = (Governor::direct(quota(1_000_000)), Governor::direct(quota(1)));
    let (by_text, by_number) = (Governor::keyed(quota(1_000_000)), Governor::keyed(quota(1_000_000)));
    cases.push(Case { name: "governor", call: Box::new(move |_| direct.check().is_ok()) });
    cases.push(Case { name: "governor, denied", call: Box::new(move |_| denied.check().is_ok()) });
    let call = move |call| by_text.check_key(&TEXTS[call % KEYS]).is_ok();
    cases.push(Case { name: "governor, key", call: Box::new(call) });
    cases.push(Case {
        name: "governor, key u64",
        call: Box::new(move |call| by_number.check_key(&(call % KEYS)).is_ok()),
    });
}
