//! The whole grammar: every algorithm in use, idle between calls, denied and with awkward rates,
//! and every argument of the attribute. Each is compared with one check of governor on the same
//! keys.
//!
//! A row has 1,000 `&str` keys unless it says otherwise. Governor's limit allows or denies the same
//! calls as ours. A call with several limits is compared with one check of one limit, an async
//! function with the blocking one.

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use benches::heap;
use benches::race::{Row, Sample, at_once, calls, race};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter as Governor};
use ratelimit_runtime::{Algorithm, Limit, RateLimiter, rate_limit};

use super::{CALLS, Cases, HOUR, KEYS, Limited, Order, memory, quota, rounds, texts};

const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);

/// Two contenders, and the allocations of ours.
fn pair(name: &str, goal: f64, mut yardstick: impl FnMut() -> bool, mut ours: impl FnMut() -> bool) -> Row {
    let row = race(
        name,
        goal,
        rounds() + 1,
        vec![Some(Box::new(|| calls(CALLS, &mut yardstick))), Some(Box::new(|| calls(CALLS, &mut ours)))],
    );
    let (allocations, sample) = heap::allocations(|| calls(CALLS, &mut ours));
    std::hint::black_box(sample);
    row.with_allocations(allocations as f64 / f64::from(CALLS))
}

/// Ours beside governor's keyed check, after `uses` calls per key on both.
fn beside<K: Clone + Eq + Hash>(
    name: &str,
    goal: f64,
    quota: Quota,
    keys: &[K],
    uses: usize,
    ours: impl Fn(usize, &K) -> bool,
) -> Row {
    let governor: DefaultKeyedRateLimiter<K> = Governor::keyed(quota);
    for (index, key) in keys.iter().enumerate() {
        for _ in 0..uses {
            std::hint::black_box((governor.check_key(key).is_ok(), ours(index, key)));
        }
    }
    let (mut a, mut b) = (Order::new(keys.len()), Order::new(keys.len()));
    pair(
        name,
        goal,
        || governor.check_key(&keys[a.next()]).is_ok(),
        || {
            let index = b.next();
            ours(index, &keys[index])
        },
    )
}

/// Ours beside governor's check without a key, after `uses` calls on both.
fn beside_direct(name: &str, goal: f64, quota: Quota, uses: usize, ours: impl Fn() -> bool) -> Row {
    let governor: DefaultDirectRateLimiter = Governor::direct(quota);
    for _ in 0..uses {
        std::hint::black_box((governor.check().is_ok(), ours()));
    }
    pair(name, goal, || governor.check().is_ok(), ours)
}

/// A row for an annotated function with a key: its name and goal, governor's limit, the number of
/// earlier calls per key, and the arguments of the attribute.
macro_rules! keyed {
    ($cases:ident, $name:expr, $goal:expr, $quota:expr, $uses:expr, [$($arguments:tt)*]) => {
        $cases.run($name, |name| {
            #[rate_limit($($arguments)*, key = key, backend = memory())]
            fn ours(key: &str) -> Limited {
                Ok(())
            }
            beside(name, $goal, $quota, &texts(1_000, "user"), $uses, |_, key: &String| ours(key).is_ok())
        })
    };
}

/// A row for an annotated function without a key; otherwise like `keyed`.
macro_rules! unkeyed {
    ($cases:ident, $name:expr, $goal:expr, $quota:expr, $uses:expr, [$($arguments:tt)*]) => {
        $cases.run($name, |name| {
            #[rate_limit($($arguments)*)]
            fn ours() -> Limited {
                Ok(())
            }
            beside_direct(name, $goal, $quota, $uses, || ours().is_ok())
        })
    };
}

/// A limit that allows all calls of a run.
fn ample() -> Quota {
    quota(1_000_000, HOUR)
}

fn used_up() -> Quota {
    quota(1, HOUR)
}

fn bucket(count: u32, per: Duration, burst: u32) -> Quota {
    Quota::with_period(per / count).unwrap().allow_burst(NonZeroU32::new(burst).unwrap())
}

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// All rows, in the order of the table.
pub(super) fn run(cases: &mut Cases<'_>) {
    token_buckets(cases);
    awkward_rates(cases);
    sliding_windows(cases);
    fixed_windows(cases);
    costs(cases);
    several_limits(cases);
    read_at_each_call(cases);
    outcomes(cases);
    settling(cases);
    blocks(cases);
    several_keys(cases);
    settings(cases);
    keys(cases);
    without_the_attribute(cases);
    futures(cases);
    bytes(cases);
}

fn token_buckets(cases: &mut Cases<'_>) {
    keyed! {
        cases, "keys: token_bucket, in use", 0.60, bucket(100_000, 366 * DAY, 100_000), 1,
        [count = 100_000, per = "366d", algorithm = token_bucket]
    }
    keyed! {
        cases, "keys: token_bucket, full again at each call", 0.70, quota(1_000_000, SECOND), 1,
        [count = 1_000_000, per = "1s", algorithm = token_bucket]
    }
    keyed! {
        cases, "keys: token_bucket, denied", 0.60, used_up(), 1,
        [count = 1, per = "1h", algorithm = token_bucket]
    }
}

/// Rates whose interval is not a whole number of nanoseconds, or shares few divisors with the
/// clock's units.
fn awkward_rates(cases: &mut Cases<'_>) {
    macro_rules! rate {
        ($text:literal, $count:literal, $per:literal, $duration:expr) => {
            keyed! {
                cases, concat!("keys: token_bucket of ", $text, ", allowed"),
                0.75, bucket($count, $duration, 1_000_000), 1,
                [count = $count, per = $per, algorithm = token_bucket, burst = 1_000_000]
            }
            keyed! {
                cases, concat!("keys: token_bucket of ", $text, ", denied"),
                0.75, bucket($count, $duration, 1), 1,
                [count = $count, per = $per, algorithm = token_bucket, burst = 1]
            }
            unkeyed! {
                cases, concat!("no key: token_bucket of ", $text, ", allowed"),
                1.10, bucket($count, $duration, 100_000_000), 1,
                [count = $count, per = $per, algorithm = token_bucket, burst = 100_000_000]
            }
            unkeyed! {
                cases, concat!("no key: token_bucket of ", $text, ", denied"),
                1.10, bucket($count, $duration, 1), 1,
                [count = $count, per = $per, algorithm = token_bucket, burst = 1]
            }
        };
    }
    rate! { "17 per second", 17, "1s", SECOND }
    rate! { "33 per second", 33, "1s", SECOND }
    rate! { "123 per second", 123, "1s", SECOND }
    rate! { "123,457 per 366 days", 123_457, "366d", 366 * DAY }
    keyed! {
        cases, "keys: token_bucket of 1,000,000,000 per second", 0.75, quota(1_000_000_000, SECOND), 1,
        [count = 1_000_000_000, per = "1s", algorithm = token_bucket]
    }
    unkeyed! {
        cases, "no key: token_bucket of 1,000,000,000 per second", 1.10, quota(1_000_000_000, SECOND), 1,
        [count = 1_000_000_000, per = "1s", algorithm = token_bucket]
    }
    // Governor's shortest interval is a nanosecond.
    keyed! {
        cases, "keys: token_bucket of 4,000,000,000 per second", 0.75, quota(1_000_000_000, SECOND), 1,
        [count = 4_000_000_000, per = "1s", algorithm = token_bucket]
    }
    unkeyed! {
        cases, "no key: token_bucket of 4,000,000,000 per second", 1.10, quota(1_000_000_000, SECOND), 1,
        [count = 4_000_000_000, per = "1s", algorithm = token_bucket]
    }
}

/// A thousand keys take some 20 µs per round. A shorter period finds each window empty; longer ones
/// fill it by half or more.
fn sliding_windows(cases: &mut Cases<'_>) {
    macro_rules! window {
        ($count:literal, $text:literal, $per:literal, $micros:literal) => {
            keyed! {
                cases, concat!("keys: sliding_window ", $text, ", in use"),
                0.70, quota($count, micros($micros)), 1,
                [count = $count, per = $per]
            }
            window! { $count, $text }
        };
        // A window of one that is in use denies.
        ($count:literal, $text:literal) => {
            keyed! {
                cases, concat!("keys: sliding_window ", $text, ", all permits older than `per` at each call"),
                0.75, quota($count, micros(10)), $count,
                [count = $count, per = "10us"]
            }
            keyed! {
                cases, concat!("keys: sliding_window ", $text, ", denied"), 0.70, quota($count, HOUR), $count,
                [count = $count, per = "1h"]
            }
        };
    }
    window! { 1, "1" }
    window! { 10, "10", "150us", 150 }
    window! { 50, "50", "750us", 750 }
    window! { 1_000, "1,000", "12ms", 12_000 }
    macro_rules! edge {
        ($count:literal) => {
            unkeyed! {
                cases, concat!("no key: sliding_window ", $count, ", at its edge"),
                1.10, quota($count, micros(1)), $count,
                [count = $count, per = "1us"]
            }
        };
    }
    edge! { 1 }
    edge! { 10 }
    edge! { 50 }
    edge! { 64 }
    unkeyed! {
        cases, "no key: sliding_window 1,000, at its edge", 1.10, quota(1_000, micros(15)), 1_000,
        [count = 1_000, per = "15us"]
    }
}

fn fixed_windows(cases: &mut Cases<'_>) {
    keyed! {
        cases, "keys: fixed_window, allowed", 0.70, ample(), 1,
        [count = 1_000_000, per = "1h", algorithm = fixed_window]
    }
    keyed! {
        cases, "keys: fixed_window, a new window at each call", 0.70, quota(100, micros(10)), 1,
        [count = 100, per = "10us", algorithm = fixed_window]
    }
    keyed! {
        cases, "keys: fixed_window of 7 days, allowed", 0.70, ample(), 1,
        [count = 4_000_000_000, per = "7d", algorithm = fixed_window]
    }
    keyed! {
        cases, "keys: fixed_window, denied", 0.70, used_up(), 1,
        [count = 1, per = "1h", algorithm = fixed_window]
    }
    keyed! {
        cases, "keys: `calendar = \"day\"`, allowed", 0.70, ample(), 1,
        [count = 1_000_000, calendar = "day", algorithm = fixed_window]
    }
    unkeyed! {
        cases, "no key: fixed_window, allowed", 1.10, quota(1_000_000_000, HOUR), 1,
        [count = 1_000_000_000, per = "1h", algorithm = fixed_window]
    }
    unkeyed! {
        cases, "no key: fixed_window, a new window every 100 calls", 1.10, quota(1_000, micros(1)), 1,
        [count = 1_000, per = "1us", algorithm = fixed_window]
    }
    unkeyed! {
        cases, "no key: fixed_window, denied", 1.10, used_up(), 1,
        [count = 1, per = "1h", algorithm = fixed_window]
    }
}

fn costs(cases: &mut Cases<'_>) {
    keyed! {
        cases, "keys: `cost = 3`, token_bucket", 0.80, bucket(300_000, 366 * DAY, 300_000), 1,
        [count = 300_000, per = "366d", algorithm = token_bucket, cost = 3]
    }
    keyed! {
        cases, "keys: `cost = 3`, token_bucket, full again at each call", 0.80, quota(3_000_000, SECOND), 1,
        [count = 3_000_000, per = "1s", algorithm = token_bucket, cost = 3]
    }
    keyed! {
        cases, "keys: `cost = 3`, sliding_window 500", 0.80, quota(500, micros(2_000)), 1,
        [count = 500, per = "2ms", cost = 3]
    }
    keyed! {
        cases, "keys: `cost = 3`, sliding_window 500, old permits", 0.80, quota(500, micros(10)), 1,
        [count = 500, per = "10us", cost = 3]
    }
    keyed! {
        cases, "keys: `cost = 3`, sliding_window 50", 0.80, quota(50, micros(200)), 1,
        [count = 50, per = "200us", cost = 3]
    }
    keyed! {
        cases, "keys: `cost = 3`, fixed_window", 0.80, ample(), 1,
        [count = 3_000_000, per = "1h", algorithm = fixed_window, cost = 3]
    }
    // Hides the value from the optimizer.
    keyed! {
        cases, "keys: `cost` read at each call, token_bucket", 0.80, ample(), 1,
        [count = 3_000_000, per = "1h", algorithm = token_bucket, cost = std::hint::black_box(2)]
    }
    unkeyed! {
        cases, "no key: `cost = 3`, token_bucket", 1.50, quota(1_000_000_000, HOUR), 1,
        [count = 4_000_000_000, per = "1h", algorithm = token_bucket, cost = 3]
    }
    unkeyed! {
        cases, "no key: `cost = 3`, sliding_window 100,000", 1.50, quota(1_000_000, HOUR / 3_600), 1,
        [count = 100_000, per = "100us", cost = 3]
    }
}

fn several_limits(cases: &mut Cases<'_>) {
    keyed! {
        cases, "keys: two limits, buckets", 1.20, ample(), 1,
        [limit(count = 1_000_000, per = "1h", algorithm = token_bucket),
         limit(count = 10_000_000, per = "1d", algorithm = token_bucket)]
    }
    keyed! {
        cases, "keys: two limits, windows", 1.20, ample(), 1,
        [limit(count = 10, per = "150us"), limit(count = 100, per = "1ms")]
    }
    keyed! {
        cases, "keys: two limits, windows, old permits", 1.20, ample(), 1,
        [limit(count = 10, per = "5us"), limit(count = 100, per = "10us")]
    }
    keyed! {
        cases, "keys: three limits", 1.50, ample(), 1,
        [limit(count = 10, per = "150us"),
         limit(count = 1_000_000, per = "1h", algorithm = token_bucket),
         limit(count = 1_000_000, per = "1d", algorithm = fixed_window)]
    }
    keyed! {
        cases, "keys: two limits, denied by the first", 1.00, used_up(), 1,
        [limit(count = 1, per = "1h"), limit(count = 1_000_000, per = "1d", algorithm = token_bucket)]
    }
    keyed! {
        cases, "keys: two limits, denied by the second", 1.00, used_up(), 1,
        [limit(count = 1_000_000, per = "1h"), limit(count = 1, per = "1d", algorithm = token_bucket)]
    }
    keyed! {
        cases, "keys: three limits, denied by the last", 1.00, used_up(), 1,
        [limit(count = 1_000_000, per = "1h"),
         limit(count = 1_000_000, per = "1d", algorithm = token_bucket),
         limit(count = 1, per = "366d", algorithm = fixed_window)]
    }
    unkeyed! {
        cases, "no key: two limits, buckets", 1.50, quota(1_000_000_000, HOUR), 1,
        [limit(count = 1_000_000_000, per = "1h", algorithm = token_bucket),
         limit(count = 2_000_000_000, per = "1d", algorithm = token_bucket)]
    }
    unkeyed! {
        cases, "no key: two limits, windows", 1.50, quota(1_000_000_000, HOUR), 1,
        [limit(count = 100_000, per = "100us"), limit(count = 1_000_000, per = "1ms")]
    }
}

struct Plan {
    count: u32,
    per: Duration,
}

/// `count` and `per` by key: three plans, one after the other.
fn read_at_each_call(cases: &mut Cases<'_>) {
    macro_rules! plans {
        ($name:literal, $plans:expr, [$($arguments:tt)*]) => {
            cases.run($name, |name| {
                #[rate_limit(count = plan.count, per = plan.per, key = key, backend = memory() $($arguments)*)]
                fn ours(key: &str, plan: &Plan) -> Limited {
                    Ok(())
                }
                let plans = $plans.map(|(count, per)| Plan { count, per });
                let plan = |index: usize| std::hint::black_box(&plans[index % 3]);
                beside(name, 1.00, ample(), &texts(1_000, "user"), 1, |index, key: &String| {
                    ours(key, plan(index)).is_ok()
                })
            });
        };
    }
    cases.run("no key: `count`, `per` read, token_bucket", |name| {
        #[rate_limit(count = plan.count, per = plan.per, algorithm = token_bucket)]
        fn ours(plan: &Plan) -> Limited {
            Ok(())
        }
        let plan = Plan { count: 1_000_000_000, per: HOUR };
        let ours = || ours(std::hint::black_box(&plan)).is_ok();
        beside_direct(name, 1.50, quota(1_000_000_000, HOUR), 1, ours)
    });
    plans! {
        "keys: `count`, `per` read, three plans, sliding_window",
        [(10, micros(150)), (20, micros(300)), (100, micros(1_000))], []
    }
    plans! {
        "keys: `count`, `per` read, three plans, token_bucket",
        [(1_000_000, HOUR), (3_000_000, HOUR), (17_000_000, DAY)], [, algorithm = token_bucket]
    }
    plans! {
        "keys: `count`, `per` read, three plans, fixed_window",
        [(1_000_000, HOUR), (3_000_000, HOUR), (17_000_000, DAY)], [, algorithm = fixed_window]
    }
}

fn outcomes(cases: &mut Cases<'_>) {
    keyed! {
        cases, "keys: `deduct_when`, kept, token_bucket", 1.00, ample(), 1,
        [count = 1_000_000, per = "1h", algorithm = token_bucket, deduct_when = Result::is_ok]
    }
    keyed! {
        cases, "keys: `deduct_when`, kept, sliding_window 10", 1.00, quota(10, micros(150)), 1,
        [count = 10, per = "150us", deduct_when = Result::is_ok]
    }
    keyed! {
        cases, "keys: `deduct_when`, given back, token_bucket", 1.50, ample(), 1,
        [count = 1_000_000, per = "1h", algorithm = token_bucket, deduct_when = Result::is_err]
    }
    keyed! {
        cases, "keys: `deduct_when`, given back, sliding_window 10", 1.50, ample(), 1,
        [count = 10, per = "1h", deduct_when = Result::is_err]
    }
    keyed! {
        cases, "keys: `deduct_when`, given back, fixed_window", 1.50, ample(), 1,
        [count = 10, per = "1h", algorithm = fixed_window, deduct_when = Result::is_err]
    }
    unkeyed! {
        cases, "no key: `deduct_when`, kept, token_bucket", 1.50, quota(1_000_000_000, HOUR), 1,
        [count = 1_000_000_000, per = "1h", algorithm = token_bucket, deduct_when = Result::is_ok]
    }
    unkeyed! {
        cases, "no key: `deduct_when`, given back, token_bucket", 1.50, quota(1_000_000_000, HOUR), 1,
        [count = 1_000_000_000, per = "1h", algorithm = token_bucket, deduct_when = Result::is_err]
    }
}

/// What a call really cost.
fn settling(cases: &mut Cases<'_>) {
    macro_rules! settled {
        ($title:literal, $goal:literal, $really:literal, [$($limit:tt)*]) => {
            keyed! {
                cases, $title, $goal, ample(), 1,
                [$($limit)*, cost = 3, settle = |_: &Limited| std::hint::black_box($really)]
            }
        };
    }
    settled!(
        "keys: `settle`, as reserved, token_bucket",
        1.50,
        3,
        [count = 1_000_000, per = "1h", algorithm = token_bucket]
    );
    settled!(
        "keys: `settle`, two of three given back, token_bucket",
        2.00,
        1,
        [count = 1_000_000, per = "1h", algorithm = token_bucket]
    );
    settled!(
        "keys: `settle`, one more charged, token_bucket",
        2.00,
        4,
        [count = 4_000_000_000, per = "1h", algorithm = token_bucket]
    );
    settled!("keys: `settle`, two of three given back, sliding_window", 2.50, 1, [count = 1_000_000, per = "1h"]);
    cases.run("keys: `permit`, two of three given back, token_bucket", |name| {
        #[rate_limit(
            count = 1_000_000, per = "1h", algorithm = token_bucket, cost = 3, key = key, permit = reserved,
            backend = memory()
        )]
        fn ours(key: &str) -> Limited {
            reserved.settle(1).unwrap();
            Ok(())
        }
        beside(name, 2.00, ample(), &texts(1_000, "user"), 1, |_, key: &String| ours(key).is_ok())
    });
    cases.run("`RateLimiter::charge`, token_bucket", |name| {
        let limit = Limit::new(4_000_000_000, HOUR).with_algorithm(Algorithm::TokenBucket);
        let limiter = RateLimiter::builder("charged").limit(limit).backend(memory()).build().unwrap();
        beside(name, 2.00, ample(), &texts(1_000, "user"), 1, |_, key: &String| limiter.charge(key, 1).is_ok())
    });
}

fn blocks(cases: &mut Cases<'_>) {
    let limiter = |name: &str| {
        let limit = Limit::new(1_000_000, HOUR).with_algorithm(Algorithm::TokenBucket);
        RateLimiter::builder(name).limit(limit).backend(memory()).build().unwrap()
    };
    keyed! {
        cases, "keys: `ban`, allowed, token_bucket", 1.00, ample(), 1,
        [count = 1_000_000, per = "1h", algorithm = token_bucket, ban = "10m"]
    }
    keyed! {
        cases, "keys: `ban`, denied", 1.00, used_up(), 2,
        [count = 1, per = "1h", ban = "10m"]
    }
    cases.run("`RateLimiter::check`, a blocked key", |name| {
        let (limiter, keys) = (limiter("blocked keys"), texts(1_000, "user"));
        for key in &keys {
            limiter.block(key, HOUR).unwrap();
        }
        let row = beside(name, 3.00, used_up(), &keys, 2, |_, key: &String| limiter.check(key, 1).is_ok());
        for key in &keys {
            limiter.unblock(key).unwrap();
        }
        row
    });
    cases.run("keys: token_bucket, beside 100 blocked keys of its store", |name| {
        static LIMITER: LazyLock<RateLimiter> = LazyLock::new(|| {
            let limit = Limit::new(1_000_000, HOUR).with_algorithm(Algorithm::TokenBucket);
            RateLimiter::builder("beside blocked").limit(limit).backend(memory()).build().unwrap()
        });
        #[rate_limit(limiter = LIMITER, key = key)]
        fn ours(key: &str) -> Limited {
            Ok(())
        }
        let blocked = texts(100, "blocked");
        for key in &blocked {
            LIMITER.block(key, HOUR).unwrap();
        }
        let row = beside(name, 1.50, ample(), &texts(1_000, "user"), 1, |_, key: &String| ours(key).is_ok());
        for key in &blocked {
            LIMITER.unblock(key).unwrap();
        }
        row
    });
    cases.run("`RateLimiter::block`", |name| {
        let (limiter, keys) = (limiter("to block"), texts(1_000, "user"));
        let row = beside(name, 5.00, ample(), &keys, 1, |_, key: &String| limiter.block(key, HOUR).is_ok());
        for key in &keys {
            limiter.unblock(key).unwrap();
        }
        row
    });
}

fn several_keys(cases: &mut Cases<'_>) {
    cases.run("two keys: token_bucket each", |name| {
        #[rate_limit(
            limit(count = 1_000_000, per = "1h", algorithm = token_bucket, key = key),
            limit(count = 1_000_000, per = "1h", algorithm = token_bucket, key = tenant),
            backend = memory()
        )]
        fn ours(key: &str, tenant: usize) -> Limited {
            Ok(())
        }
        beside(name, 2.00, ample(), &texts(1_000, "user"), 1, |index, key: &String| ours(key, index % 100).is_ok())
    });
    cases.run("two keys: denied by the second", |name| {
        #[rate_limit(
            limit(count = 1_000_000, per = "1h", algorithm = token_bucket, key = key),
            limit(count = 1, per = "1h", algorithm = token_bucket, key = tenant),
            backend = memory()
        )]
        fn ours(key: &str, tenant: usize) -> Limited {
            Ok(())
        }
        beside(name, 2.00, used_up(), &texts(1_000, "user"), 2, |index, key: &String| ours(key, index % 100).is_ok())
    });
}

fn settings(cases: &mut Cases<'_>) {
    keyed! {
        cases, "keys: `backoff`, allowed, sliding_window 10", 1.00, quota(10, micros(150)), 1,
        [count = 10, per = "150us", backoff(initial = "1s", max = "1h")]
    }
    keyed! {
        cases, "keys: `backoff`, allowed, token_bucket", 1.00, ample(), 1,
        [count = 1_000_000, per = "1h", algorithm = token_bucket, backoff(initial = "1s", max = "1h")]
    }
    keyed! {
        cases, "keys: `backoff`, denied", 1.00, used_up(), 2,
        [count = 1, per = "1h", backoff(initial = "1s", max = "1h")]
    }
    keyed! {
        cases, "keys: `wait` without need, sliding_window 10", 1.00, quota(10, micros(150)), 1,
        [count = 10, per = "150us", wait = "1s"]
    }
    keyed! {
        cases, "keys: `wait` without need, token_bucket", 1.00, ample(), 1,
        [count = 1_000_000, per = "1h", algorithm = token_bucket, wait = "1s"]
    }
    keyed! {
        cases, "keys: `dry_run`, token_bucket", 0.85, ample(), 1,
        [count = 1_000_000, per = "1h", algorithm = token_bucket, dry_run]
    }
    keyed! {
        cases, "keys: `dry_run`, sliding_window 10, old permits", 0.85, quota(10, micros(10)), 1,
        [count = 10, per = "10us", dry_run]
    }
    keyed! {
        cases, "keys: `dry_run`, would be denied", 0.85, used_up(), 1,
        [count = 1, per = "1h", dry_run]
    }
    keyed! {
        cases, "keys: `exempt_when`, `or_else`, not taken, token_bucket", 0.70, ample(), 1,
        [count = 1_000_000, per = "1h", algorithm = token_bucket, exempt_when = std::hint::black_box(false),
         or_else = Err]
    }
    cases.run("keys: `limiter`, token_bucket", |name| {
        static LIMITER: LazyLock<RateLimiter> = LazyLock::new(|| {
            let limit = Limit::new(1_000_000, HOUR).with_algorithm(Algorithm::TokenBucket);
            RateLimiter::builder("shared").limit(limit).backend(memory()).build().unwrap()
        });
        #[rate_limit(limiter = LIMITER, key = key)]
        fn ours(key: &str) -> Limited {
            Ok(())
        }
        beside(name, 0.80, ample(), &texts(1_000, "user"), 1, |_, key: &String| ours(key).is_ok())
    });
    unkeyed! {
        cases, "no key: `backoff`, allowed, token_bucket", 1.50, quota(1_000_000_000, HOUR), 1,
        [count = 1_000_000_000, per = "1h", algorithm = token_bucket, backoff(initial = "1s", max = "1h")]
    }
    unkeyed! {
        cases, "no key: `wait` without need, token_bucket", 1.50, quota(1_000_000_000, HOUR), 1,
        [count = 1_000_000_000, per = "1h", algorithm = token_bucket, wait = "1s"]
    }
    unkeyed! {
        cases, "no key: `dry_run`, token_bucket", 1.50, quota(1_000_000_000, HOUR), 1,
        [count = 1_000_000_000, per = "1h", algorithm = token_bucket, dry_run]
    }
    macro_rules! replaced {
        ($name:literal, $title:literal, $quota:expr, $new:expr, [$($arguments:tt)*]) => {
            cases.run($title, |title| {
                #[rate_limit(name = $name, $($arguments)*, key = key, backend = memory())]
                fn ours(key: &str) -> Limited {
                    Ok(())
                }
                ours("a limiter is known by its first call").unwrap();
                ratelimit_runtime::set_limits($name, &[$new]).unwrap();
                beside(title, 0.80, $quota, &texts(1_000, "user"), 1, |_, key: &String| ours(key).is_ok())
            });
        };
    }
    cases.run("no key: limits replaced at run time, token_bucket", |name| {
        #[rate_limit(name = "replaced without a key", count = 1_000_000, per = "1h", algorithm = token_bucket)]
        fn ours() -> Limited {
            Ok(())
        }
        ours().unwrap();
        let limit = Limit::new(1_000_000_000, HOUR).with_algorithm(Algorithm::TokenBucket);
        ratelimit_runtime::set_limits("replaced without a key", &[limit]).unwrap();
        beside_direct(name, 1.50, quota(1_000_000_000, HOUR), 1, || ours().is_ok())
    });
    replaced! {
        "replaced bucket", "keys: limits replaced at run time, token_bucket",
        ample(), Limit::new(2_000_000, HOUR).with_algorithm(Algorithm::TokenBucket),
        [count = 1_000_000, per = "1h", algorithm = token_bucket]
    }
    replaced! {
        "replaced window", "keys: limits replaced at run time, sliding_window",
        quota(20, micros(300)), Limit::new(20, micros(300)),
        [count = 10, per = "150us"]
    }
}

fn keys(cases: &mut Cases<'_>) {
    macro_rules! pairs {
        ($name:literal, $quota:expr, [$($arguments:tt)*]) => {
            cases.run($name, |name| {
                #[rate_limit($($arguments)*, key = (user, tenant), backend = memory())]
                fn ours(user: &str, tenant: u32) -> Limited {
                    Ok(())
                }
                let keys: Vec<(String, u32)> = texts(1_000, "user").into_iter().zip(0..).collect();
                beside(name, 0.85, $quota, &keys, 1, |_, (user, tenant)| ours(user, *tenant).is_ok())
            });
        };
    }
    pairs! {
        "key of two parts: sliding_window 10, old permits", quota(10, micros(10)),
        [count = 10, per = "10us"]
    }
    pairs! {
        "key of two parts: token_bucket", ample(),
        [count = 1_000_000, per = "1h", algorithm = token_bucket]
    }
    macro_rules! addresses {
        ($name:literal, $quota:expr, [$($arguments:tt)*]) => {
            cases.run($name, |name| {
                #[rate_limit($($arguments)*, key = address, backend = memory())]
                fn ours(address: IpAddr) -> Limited {
                    Ok(())
                }
                let keys: Vec<IpAddr> =
                    (0..1_000).map(|key| IpAddr::V4(Ipv4Addr::from(0x0a00_0000_u32 + key * 77))).collect();
                beside(name, 0.85, $quota, &keys, 1, |_, address| ours(*address).is_ok())
            });
        };
    }
    addresses! {
        "key `IpAddr`: sliding_window 10, old permits", quota(10, micros(10)),
        [count = 10, per = "10us"]
    }
    addresses! {
        "key `IpAddr`: token_bucket", ample(),
        [count = 1_000_000, per = "1h", algorithm = token_bucket]
    }
}

/// `RateLimiter`, which also returns the remaining permits.
fn without_the_attribute(cases: &mut Cases<'_>) {
    let bucket = Limit::new(1_000_000, HOUR).with_algorithm(Algorithm::TokenBucket);
    let fixed = Limit::new(1_000_000, HOUR).with_algorithm(Algorithm::FixedWindow);
    let window = Limit::new(10, micros(150));
    for (kind, limit, goal) in
        [("token_bucket", bucket, 1.00), ("sliding_window 10", window, 1.20), ("fixed_window", fixed, 1.00)]
    {
        for peeks in [false, true] {
            let method = if peeks { "peek" } else { "check" };
            cases.run(&format!("`RateLimiter::{method}`, {kind}"), |name| {
                let limiter =
                    RateLimiter::builder(format!("{method} {kind}")).limit(limit).backend(memory()).build().unwrap();
                let keys = texts(1_000, "user");
                let quota = quota(limit.count(), limit.per());
                for key in &keys {
                    limiter.check(key, 1).unwrap();
                }
                // A separate loop for each, because a caller's code knows which one it calls.
                if peeks {
                    beside(name, goal, quota, &keys, 1, |_, key: &String| limiter.peek(key, 1).is_ok())
                } else {
                    beside(name, goal, quota, &keys, 1, |_, key: &String| limiter.check(key, 1).is_ok())
                }
            });
        }
    }
}

/// Async functions beside blocking ones of the same limit, with the feature `tokio`.
fn futures(cases: &mut Cases<'_>) {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    macro_rules! futures {
        ($name:literal, $in_runtime:expr, [$($arguments:tt)*]) => {
            cases.run(concat!("async beside blocking: ", $name), |name| {
                #[rate_limit($($arguments)*)]
                fn blocking() -> Limited {
                    Ok(())
                }
                #[rate_limit($($arguments)*)]
                async fn future() -> Limited {
                    Ok(())
                }
                let _entered = $in_runtime.then(|| RUNTIME.enter());
                pair(name, 1.50, || blocking().is_ok(), || at_once(future()).is_ok())
            });
        };
        ($name:literal, $in_runtime:expr, keyed [$($arguments:tt)*]) => {
            cases.run(concat!("async beside blocking: ", $name), |name| {
                #[rate_limit($($arguments)*, key = key, backend = memory())]
                fn blocking(key: &str) -> Limited {
                    Ok(())
                }
                #[rate_limit($($arguments)*, key = key, backend = memory())]
                async fn future(key: &str) -> Limited {
                    Ok(())
                }
                let _entered = $in_runtime.then(|| RUNTIME.enter());
                let keys = texts(1_000, "user");
                let (mut a, mut b) = (Order::new(keys.len()), Order::new(keys.len()));
                let future = || at_once(future(&keys[b.next()])).is_ok();
                pair(name, 1.50, || blocking(&keys[a.next()]).is_ok(), future)
            });
        };
    }
    futures! { "token_bucket, no key", false, [count = 1_000_000_000, per = "1h", algorithm = token_bucket] }
    futures! {
        "token_bucket, no key, in tokio", true,
        [count = 1_000_000_000, per = "1h", algorithm = token_bucket]
    }
    futures! {
        "token_bucket, keys, in tokio", true, keyed
        [count = 1_000_000, per = "1h", algorithm = token_bucket]
    }
    futures! { "sliding_window 10, keys, in tokio", true, keyed [count = 10, per = "150us"] }
    futures! {
        "`wait` without need, token_bucket, keys, in tokio", true, keyed
        [count = 1_000_000, per = "1h", algorithm = token_bucket, wait = "1s"]
    }
}

/// The window whose number and count need more than 64 bits together. There is time for one call
/// per key.
const SHORT: Option<Duration> = Some(Duration::from_millis(400));

/// The memory of a million keys after `uses` calls of each.
fn bytes(cases: &mut Cases<'_>) {
    fn measured(name: &str, goal: f64, calls: usize, window: Option<Duration>, ours: fn(&str) -> Limited) -> Row {
        let keys = texts(KEYS, "bytes");
        // Memory of the limiter itself, not of a key.
        ours("once").unwrap();
        let bytes = |bytes: i64| Sample { cost: bytes as f64 / KEYS as f64, allowed: 1.0 };
        let all = |check: &dyn Fn(&String) -> bool| keys.iter().all(|key| (0..calls).all(|_| check(key)));
        race(
            name,
            goal,
            1,
            vec![
                Some(Box::new(|| {
                    let governor: DefaultKeyedRateLimiter<String> = Governor::keyed(quota(10, HOUR));
                    let (growth, allowed) = heap::growth(|| all(&|key| governor.check_key(key).is_ok()));
                    assert!(allowed, "governor denied a call");
                    bytes(growth)
                })),
                Some(Box::new(|| {
                    window.into_iter().for_each(begin);
                    let (growth, allowed) = heap::growth(|| all(&|key| ours(key).is_ok()));
                    assert!(allowed, "ours denied a call");
                    bytes(growth)
                })),
            ],
        )
    }
    /// Waits for the beginning of a window: at its end it is idle, and its memory is freed.
    fn begin(window: Duration) {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() % window.as_micros();
        while !(2_000..8_000).contains(&now()) {
            std::hint::spin_loop();
        }
    }
    macro_rules! bytes {
        ($name:literal, $goal:expr, [$($arguments:tt)*]) => {
            bytes! { concat!("bytes a key: ", $name, ", after one call"), $goal, 1, None, [$($arguments)*] }
            bytes! { concat!("bytes a key: ", $name, ", after 10 calls"), $goal, 10, None, [$($arguments)*] }
        };
        ($name:expr, $goal:expr, $calls:expr, $window:expr, [$($arguments:tt)*]) => {
            cases.run($name, |name| {
                #[rate_limit($($arguments)*, key = key, backend = memory())]
                fn ours(key: &str) -> Limited {
                    Ok(())
                }
                measured(name, $goal, $calls, $window, ours)
            });
        };
    }
    bytes! { "fixed_window of 10", 0.30, [count = 10, per = "1d", algorithm = fixed_window] }
    bytes! {
        "bytes a key: fixed_window of 4,000,000,000 per 400 ms, after one call", 0.50, 1, SHORT,
        [count = 4_000_000_000, per = "400ms", algorithm = fixed_window]
    }
    bytes! {
        "bytes a key: fixed_window of 4,000,000,000 per 400 ms, after one call of 10", 0.50, 1, SHORT,
        [count = 4_000_000_000, per = "400ms", algorithm = fixed_window, cost = 10]
    }
    // One permit more than calls: a burst that is used up within the clock's resolution waits for it.
    bytes! {
        "two token buckets", 0.90,
        [limit(count = 11, per = "1h", algorithm = token_bucket),
         limit(count = 100, per = "1d", algorithm = token_bucket)]
    }
    bytes! {
        "sliding_window 10 with `backoff`", 0.90,
        [count = 10, per = "1h", backoff(initial = "1s", max = "1h")]
    }
}
