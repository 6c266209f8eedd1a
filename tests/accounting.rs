//! Refunds, waits, resets and replaced limits together. In any order, no limit admits more than it
//! allows, and no key is denied for longer than its charges explain.

use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ratelimit_runtime::{Algorithm, Decision, Limit, MemoryBackend, RateLimiter, test_util};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

fn limiter(name: &str, limit: Limit) -> RateLimiter {
    RateLimiter::builder(name).limit(limit).build().unwrap()
}

/// How many of `calls` are admitted.
fn drain(limiter: &RateLimiter, key: &str, calls: u32) -> u32 {
    (0..calls).map(|_| u32::from(limiter.check(key, 1).is_ok())).sum()
}

/// A wait that was polled once.
fn begun<F: Future>(wait: F) -> std::pin::Pin<Box<F>> {
    let mut wait = Box::pin(wait);
    assert!(matches!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    wait
}

#[test]
fn a_wait_dropped_behind_a_refund_adds_no_permits() {
    let clock = test_util::pause();
    let limiter = limiter("doubled", Limit::new(10_000, 10 * SECOND));
    // Full groups, then one that the refund makes small enough to merge with the next.
    for cost in [157; 62].into_iter().chain([126]) {
        limiter.check("a", cost).unwrap();
        clock.advance(Duration::from_micros(1));
    }
    let refunded = limiter.check("a", 140).unwrap();
    let leaves = begun(limiter.wait_async("a", 20));
    clock.advance(Duration::from_micros(1));
    limiter.refund(refunded).unwrap();
    drop(leaves);
    assert_eq!(drain(&limiter, "a", 20_000), 140);
    let exceeded = limiter.check("a", 1).unwrap_err();
    assert!(exceeded.retry_after() <= Some(10 * SECOND), "{exceeded:?}");
    clock.advance(Duration::from_millis(1_250));
    assert_eq!(drain(&limiter, "a", 20_000), 0);
}

#[test]
fn threads_far_below_a_limit_are_never_denied() {
    type Other = fn(&RateLimiter);
    let others: [(&str, Other); 4] = [
        ("set_limits", |limiter| limiter.set_limits(&limiter.limits()).unwrap()),
        ("wait_at_most", |limiter| drop(limiter.wait_at_most("a", 1, Duration::ZERO))),
        ("peek", |limiter| drop(limiter.peek("a", 1))),
        ("check_async", |limiter| drop(futures_executor::block_on(limiter.check_async("a", 1)))),
    ];
    for (name, other) in others {
        let limiter = limiter(&format!("far below, {name}"), Limit::new(4_000_000, HOUR));
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let limiter = &limiter;
                scope.spawn(move || {
                    for call in 0..50_000 {
                        if call % 50 == thread {
                            other(limiter);
                        }
                        assert!(limiter.check("a", 1).is_ok(), "{name}: denied at call {call}");
                        assert!(limiter.peek("a", 1).is_ok(), "{name}: a peek denied at call {call}");
                    }
                });
            }
        });
    }
}

/// Gives a decision back.
fn refund(limiter: &RateLimiter, decision: Decision) {
    limiter.refund(decision).unwrap();
}

#[test]
fn a_refund_at_once_makes_room_for_one_call() {
    for algorithm in ALGORITHMS {
        let _clock = test_util::pause();
        let limiter = limiter("one more", Limit::new(200, HOUR).with_algorithm(algorithm));
        let decision = limiter.check("a", 3).unwrap();
        assert_eq!(drain(&limiter, "a", 300), 197, "{algorithm:?}");
        refund(&limiter, decision);
        assert_eq!(drain(&limiter, "a", 300), 3, "{algorithm:?}");
    }
}

#[test]
fn any_number_of_run_time_names_keep_their_buckets() {
    let memory = ratelimit_runtime::MemoryBackend::new();
    let limiter = |name: usize| {
        let builder = RateLimiter::builder(format!("name {name}")).limit(Limit::new(3, HOUR));
        builder.backend(memory.clone()).build().unwrap()
    };
    let mut admitted = [0; 1_000];
    for _ in 0..20 {
        for (name, admitted) in admitted.iter_mut().enumerate() {
            *admitted += u32::from(limiter(name).check("a", 1).is_ok());
            *admitted += u32::from(limiter(name).check((), 1).is_ok());
        }
    }
    assert!(admitted.iter().all(|admitted| *admitted == 6));
    assert_eq!(memory.tracked_keys(), 1_000);
}

#[test]
fn the_bound_includes_dropped_limiters() {
    let memory = ratelimit_runtime::MemoryBackend::with_max_keys(100);
    for name in 0..1_000 {
        let builder = RateLimiter::builder(format!("gone {name}")).limit(Limit::new(3, HOUR));
        let limiter = builder.backend(memory.clone()).build().unwrap();
        assert!((0..3).all(|_| limiter.check("a", 1).is_ok()), "{name}");
        assert!(limiter.check("a", 1).is_err(), "{name}");
        assert!(memory.tracked_keys() <= 100);
    }
    assert_eq!(memory.untracked(), 0);
}

#[test]
fn a_reset_through_another_handle_voids_refunds() {
    for algorithm in ALGORITHMS {
        let clock = test_util::pause();
        let limit = Limit::new(3, HOUR).with_algorithm(algorithm);
        let name = format!("administrator {algorithm:?}");
        let (limiter, administrators) = (limiter(&name, limit), limiter(&name, limit));
        let before = limiter.check("a", 3).unwrap();
        let leaves = begun(limiter.wait_async("a", 2));
        administrators.reset("a").unwrap();
        limiter.refund(before).unwrap();
        drop(leaves);
        assert_eq!(drain(&limiter, "a", 10), 3, "{algorithm:?}");
        // The same for the test clock's own reset.
        let before = limiter.check("b", 3).unwrap();
        clock.reset();
        limiter.refund(before).unwrap();
        assert_eq!(drain(&limiter, "b", 10), 3, "{algorithm:?}");
    }
}

#[test]
fn refunds_after_a_replacement_stay_within_the_limit() {
    for algorithm in ALGORITHMS {
        for other in ALGORITHMS {
            let _clock = test_util::pause();
            let limiter = limiter("replaced", Limit::new(5, HOUR).with_algorithm(algorithm));
            let before = limiter.check("a", 5).unwrap();
            limiter.set_limits(&[Limit::new(5, 2 * HOUR).with_algorithm(other)]).unwrap();
            let admitted = drain(&limiter, "a", 10);
            limiter.refund(before).unwrap();
            assert!(admitted + drain(&limiter, "a", 20) <= 5, "{algorithm:?} and {other:?}");
        }
    }
}

#[test]
fn a_refund_survives_a_dropped_wait() {
    for algorithm in ALGORITHMS {
        let _clock = test_util::pause();
        let limiter = limiter("kept", Limit::new(10, HOUR).with_algorithm(algorithm));
        let taken = limiter.check("a", 8).unwrap();
        let leaves = begun(limiter.wait_async("a", 10));
        refund(&limiter, taken);
        // Nothing is on record, so the wait ended before it was dropped, and its permits come back.
        drop(leaves);
        assert_eq!(drain(&limiter, "a", 20), 10, "{algorithm:?}");
    }
}

#[test]
fn a_refund_gives_back_nothing_of_later_calls() {
    for algorithm in ALGORITHMS {
        let clock = test_util::pause();
        let limiter = limiter("later", Limit::new(1_000, HOUR).with_algorithm(algorithm));
        let first = limiter.check("a", 100).unwrap();
        for _ in 0..3 {
            drop(begun(limiter.wait_async("a", 1_000)));
            clock.advance(Duration::from_micros(1));
            limiter.check("a", 100).unwrap();
        }
        refund(&limiter, first);
        let left = drain(&limiter, "a", 1_000);
        assert!((699..=700).contains(&left), "{algorithm:?}: {left}");
    }
}

#[test]
fn refunds_cost_a_large_window_less_than_a_group() {
    let clock = test_util::pause();
    let (count, group) = (1_000_u32, 16);
    let limiter = limiter("holes", Limit::new(count, HOUR));
    let mut kept = 0;
    let mut random = 1_u64;
    for _ in 0..2_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        clock.advance(Duration::from_micros(1));
        let cost = u32::try_from(random >> 60).unwrap() + 1;
        let Ok(decision) = limiter.check("a", cost) else {
            assert!(kept + cost + group > count, "{kept} kept, {cost} denied");
            break;
        };
        if random >> 40 & 1 == 0 { refund(&limiter, decision) } else { kept += cost }
    }
    let more = drain(&limiter, "a", 1_000);
    assert!(kept + more <= count && kept + more + group > count, "{kept} and {more}");
}

#[test]
fn any_number_of_waits_given_up_newest_first_leaves_nothing() {
    for algorithm in ALGORITHMS {
        let clock = test_util::pause();
        let limiter = limiter("newest first", Limit::new(1, SECOND).with_algorithm(algorithm));
        limiter.check("a", 1).unwrap();
        let mut waits: Vec<_> = (0..1_000).map(|_| begun(limiter.wait_async("a", 1))).collect();
        while let Some(newest) = waits.pop() {
            drop(newest);
        }
        clock.advance(SECOND);
        assert!(limiter.check("a", 1).is_ok(), "{algorithm:?}");
    }
}

#[test]
fn a_flood_of_used_up_keys_resets_no_active_key() {
    for max_keys in [1_000, 10_000] {
        for algorithm in ALGORITHMS {
            let memory = MemoryBackend::with_max_keys(max_keys);
            let limit = Limit::new(3, 24 * HOUR).with_algorithm(algorithm);
            let limiter =
                RateLimiter::builder(format!("flood {algorithm:?}")).limit(limit).backend(memory).build().unwrap();
            let mut admitted = 0;
            for key in 0..10 * max_keys {
                for _ in 0..4 {
                    let _ = limiter.check(key, 1);
                }
                admitted += drain(&limiter, "calls on", 1);
            }
            assert!(admitted <= 6, "{algorithm:?}, {max_keys}: {admitted}");
        }
    }
}

mod a_name_that_is_shared {
    use std::sync::LazyLock;

    use ratelimit_runtime::rate_limit;

    use super::*;

    static WRITTEN: LazyLock<RateLimiter> = LazyLock::new(|| limiter("read and written", Limit::new(10, HOUR)));

    #[rate_limit(limiter = WRITTEN, key = key)]
    fn written(key: &str) -> Option<()> {
        let _ = key;
        Some(())
    }

    #[rate_limit(name = "read and written", count = count, per = "1h", key = key)]
    fn read(count: u32, key: &str) -> Option<()> {
        let _ = key;
        Some(())
    }

    #[test]
    fn limits_read_at_each_call_keep_their_buckets() {
        let _clock = test_util::pause();
        // The first caller creates the buckets.
        assert!(read(3, "first").is_some());
        assert_eq!((0..20).filter_map(|_| written("a")).count(), 10);
        assert_eq!((0..20).filter_map(|_| read(3, "b")).count(), 3);
        assert_eq!((0..20).filter_map(|_| read(12, "a")).count(), 2);
    }
}
