//! `RateLimiter` without the attribute: keys, costs, several limits, refund, reset, switches,
//! counts, threads.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ratelimit_runtime::{
    Algorithm, Calendar, ExceededKind, IntoBackend, InvalidLimiter, Limit, MAX_LIMITS, MemoryBackend, RateLimiter,
    RateLimiterBuilder, Weekday, limiters, set_limits, test_util, unused_limits,
};
use ratelimit_tests::Shelf;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn each_key_has_a_bucket_of_its_own() {
    static LIMITER: RateLimiter = RateLimiter::new("keys", &[Limit::new(1, MINUTE)]);
    let _clock = test_util::pause();
    assert!(LIMITER.check("alice", 1).is_ok());
    assert!(LIMITER.check("bob", 1).is_ok());
    assert!(LIMITER.check(String::from("alice"), 1).is_err());
    assert!(LIMITER.check(None::<u8>, 1).is_ok());
    assert!(LIMITER.check(None::<u8>, 1).is_err());
    assert!(LIMITER.check((), 1).is_ok());
    assert!(LIMITER.check((), 1).is_err());
}

#[test]
fn a_decision_tells_limit_remaining_and_reset() {
    static LIMITER: RateLimiter =
        RateLimiter::new("tells", &[Limit::new(10, MINUTE), Limit::new(5, SECOND), Limit::new(100, MINUTE)]);
    let clock = test_util::pause();
    let decision = LIMITER.check("a", 2).unwrap();
    assert_eq!((decision.limit_index(), decision.remaining()), (1, 3));
    assert_eq!((decision.limit(), decision.reset_after()), (Limit::new(5, SECOND), SECOND));
    clock.advance(SECOND);
    LIMITER.check("a", 5).unwrap();
    clock.advance(SECOND);
    let exceeded = LIMITER.check("a", 4).unwrap_err();
    assert_eq!((exceeded.limit_index(), exceeded.remaining(), exceeded.kind()), (0, 3, ExceededKind::Limited));
    assert_eq!((exceeded.retry_after(), exceeded.retry_after_secs()), (Some(58 * SECOND), Some(58)));
    assert_eq!(exceeded.limiter(), "tells");
}

#[test]
fn a_denied_call_charges_no_limit_of_several() {
    static LIMITER: RateLimiter = RateLimiter::new("atomic", &[Limit::new(10, SECOND), Limit::new(2, MINUTE)]);
    let _clock = test_util::pause();
    let admitted = (0..50).filter(|_| LIMITER.check("a", 1).is_ok()).count();
    assert_eq!(admitted, 2);
    LIMITER.set_limits(&[Limit::new(10, SECOND), Limit::new(100, MINUTE)]).unwrap();
    assert_eq!(LIMITER.peek("a", 0).unwrap().remaining(), 8);
}

#[test]
fn costs_of_zero_and_above_the_limit() {
    static LIMITER: RateLimiter = RateLimiter::new("cost", &[Limit::new(3, MINUTE)]);
    let _clock = test_util::pause();
    let exceeded = LIMITER.check("a", 4).unwrap_err();
    assert_eq!((exceeded.kind(), exceeded.retry_after()), (ExceededKind::CostExceedsLimit, None));
    LIMITER.check("a", 3).unwrap();
    assert!((0..10).all(|_| LIMITER.check("a", 0).is_ok()));
    let exceeded = LIMITER.check("a", u32::MAX).unwrap_err();
    assert_eq!(exceeded.kind(), ExceededKind::CostExceedsLimit);
    assert!(LIMITER.wait("a", 4).is_err(), "waiting does not help");
}

#[test]
fn the_call_is_admitted_when_retry_after_says_and_not_before() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let limiter =
            RateLimiter::builder("retry").limit(Limit::new(7, SECOND).with_algorithm(algorithm)).build().unwrap();
        let clock = test_util::pause();
        while limiter.check((), 1).is_ok() {
            clock.advance(Duration::from_millis(13));
        }
        let after = limiter.check((), 1).unwrap_err().retry_after().unwrap();
        clock.advance(after.saturating_sub(Duration::from_micros(1)));
        assert!(limiter.check((), 1).is_err(), "{algorithm:?}");
        clock.advance(Duration::from_micros(1));
        assert!(limiter.check((), 1).is_ok(), "{algorithm:?}");
    }
}

#[test]
fn a_fixed_window_of_a_day_begins_at_midnight_utc() {
    let limit = Limit::new(1, Duration::from_secs(86_400)).with_algorithm(Algorithm::FixedWindow);
    let limiter = RateLimiter::builder("midnight").limit(limit).build().unwrap();
    let clock = test_util::pause();
    limiter.check((), 1).unwrap();
    let after = limiter.check((), 1).unwrap_err().retry_after().unwrap();
    let reset = clock.now().as_nanos() + u64::try_from(after.as_nanos()).unwrap();
    assert_eq!(reset % 86_400_000_000_000, 0);
}

#[test]
fn a_refund_makes_room_again_and_never_twice() {
    static LIMITER: RateLimiter = RateLimiter::new("refund", &[Limit::new(2, MINUTE)]);
    let _clock = test_util::pause();
    let first = LIMITER.check("a", 1).unwrap();
    LIMITER.check("a", 1).unwrap();
    assert!(LIMITER.check("a", 1).is_err());
    LIMITER.refund(first).unwrap();
    assert!(LIMITER.check("a", 1).is_ok());
    assert!(LIMITER.check("a", 1).is_err());
}

#[test]
fn a_refund_of_expired_permits_gives_nothing() {
    static LIMITER: RateLimiter = RateLimiter::new("late refund", &[Limit::new(2, SECOND)]);
    let clock = test_util::pause();
    let old = LIMITER.check("a", 2).unwrap();
    clock.advance(SECOND);
    LIMITER.check("a", 2).unwrap();
    LIMITER.refund(old).unwrap();
    assert!(LIMITER.check("a", 1).is_err());
}

#[test]
fn a_decision_of_another_limiter_gives_nothing_back() {
    static ONE: RateLimiter = RateLimiter::new("one", &[Limit::new(1, MINUTE)]);
    static OTHER: RateLimiter = RateLimiter::new("other", &[Limit::new(1, MINUTE)]);
    let _clock = test_util::pause();
    let decision = ONE.check("a", 1).unwrap();
    OTHER.check("a", 1).unwrap();
    OTHER.refund(decision).unwrap();
    assert!(OTHER.check("a", 1).is_err());
}

#[test]
fn a_decision_of_a_clone_can_be_refunded() {
    let limiter = RateLimiter::builder("clone").limit(Limit::new(1, MINUTE)).build().unwrap();
    let _clock = test_util::pause();
    let decision = limiter.clone().check("a", 1).unwrap();
    assert!(limiter.check("a", 1).is_err(), "clones share their buckets");
    limiter.refund(decision).unwrap();
    assert!(limiter.check("a", 1).is_ok());
}

#[test]
fn reset_forgets_one_key() {
    static LIMITER: RateLimiter = RateLimiter::new("reset", &[Limit::new(1, MINUTE)]);
    let _clock = test_util::pause();
    LIMITER.check("a", 1).unwrap();
    LIMITER.check("b", 1).unwrap();
    LIMITER.reset("a").unwrap();
    assert!(LIMITER.check("a", 1).is_ok());
    assert!(LIMITER.check("b", 1).is_err());
}

#[test]
fn a_peek_changes_nothing() {
    static LIMITER: RateLimiter = RateLimiter::new("peek", &[Limit::new(2, MINUTE)]);
    let _clock = test_util::pause();
    for _ in 0..10 {
        assert_eq!(LIMITER.peek("a", 1).unwrap().remaining(), 2);
    }
    LIMITER.check("a", 2).unwrap();
    assert_eq!(LIMITER.peek("a", 1).unwrap_err().retry_after(), Some(MINUTE));
}

#[test]
fn limiters_of_one_name_and_the_same_limits_share() {
    let make = |limit| RateLimiter::builder("shared").limit(limit).build().unwrap();
    let (one, two) = (make(Limit::new(1, MINUTE)), make(Limit::new(1, MINUTE)));
    let other = make(Limit::new(1, MINUTE).with_algorithm(Algorithm::FixedWindow));
    let _clock = test_util::pause();
    assert!(one.check("a", 1).is_ok());
    assert!(two.check("a", 1).is_err());
    assert!(other.check("a", 1).is_ok(), "another algorithm has a state of its own");
}

#[test]
fn calendars_share_if_their_windows_differ_in_the_first_day_of_the_month_only() {
    let make = |calendar| RateLimiter::builder("calendars").limit(Limit::per_calendar(2, calendar)).build().unwrap();
    let clock = test_util::pause();
    let first = make(Calendar::MONTH.starts_on(15));
    assert!(first.check("a", 2).is_ok() && first.check("a", 1).is_err());
    assert!(make(Calendar::MONTH.starts_on(15)).check("a", 1).is_err());
    let other_day = make(Calendar::MONTH.starts_on(1));
    assert!(other_day.check("a", 1).is_err(), "what was taken counts on in the month that contains it");
    for other in [
        Calendar::MONTH.in_zone("Europe/Berlin"),
        Calendar::MONTH.in_zone("Etc/UTC"),
        Calendar::YEAR,
        Calendar::WEEK,
        Calendar::WEEK.week_starts(Weekday::Sunday),
    ] {
        let other = make(other);
        assert!(other.check("a", 2).is_ok() && other.check("a", 1).is_err(), "{:?}", other.limits());
    }
    clock.advance(Duration::from_secs(31 * 86_400));
    assert!(first.check("a", 2).is_ok());
}

#[test]
fn a_changed_count_applies_to_the_permits_on_record() {
    let make = |count| RateLimiter::builder("recount").limit(Limit::new(count, MINUTE)).build().unwrap();
    let (small, large) = (make(2), make(5));
    let _clock = test_util::pause();
    assert!((0..2).all(|_| small.check("a", 1).is_ok()));
    assert!(small.check("a", 1).is_err());
    assert_eq!((0..9).filter(|_| large.check("a", 1).is_ok()).count(), 3);
}

#[test]
fn limits_are_replaced_by_name_from_the_next_call_on() {
    static LIMITER: RateLimiter = RateLimiter::new("replaced", &[Limit::new(1, MINUTE)]);
    let _clock = test_util::pause();
    LIMITER.check("a", 1).unwrap();
    assert!(LIMITER.check("a", 1).is_err());
    set_limits("replaced", &[Limit::new(3, MINUTE)]).unwrap();
    assert_eq!((0..9).filter(|_| LIMITER.check("a", 1).is_ok()).count(), 2);
    assert_eq!(LIMITER.limits(), [Limit::new(3, MINUTE)]);
    assert_eq!(LIMITER.set_limits(&[]), Err(InvalidLimiter::NoLimit));
    assert_eq!(LIMITER.set_limits(&[Limit::new(1, SECOND); MAX_LIMITS + 1]), Err(InvalidLimiter::TooManyLimits));
}

#[test]
fn a_penalty_that_blocks_no_key_is_refused() {
    let builder = || RateLimiter::builder("penalty").limit(Limit::new(1, MINUTE));
    let invalid = |builder: RateLimiterBuilder| builder.build().map(drop);
    assert_eq!(invalid(builder().backoff(SECOND, SECOND)), Ok(()));
    assert_eq!(invalid(builder().backoff(Duration::ZERO, SECOND)), Err(InvalidLimiter::ZeroPenalty));
    assert_eq!(invalid(builder().backoff(SECOND, SECOND / 2)), Err(InvalidLimiter::MaxBelowInitial));
    assert_eq!(invalid(builder().ban(Duration::ZERO)), Err(InvalidLimiter::ZeroPenalty));
    // What is set last applies.
    assert_eq!(invalid(builder().ban(Duration::ZERO).backoff(SECOND, MINUTE)), Ok(()));
}

#[test]
fn limits_are_replaced_before_the_first_call() {
    static LIMITER: RateLimiter = RateLimiter::new("configured", &[Limit::new(1, MINUTE)]);
    set_limits("configured", &[Limit::new(3, MINUTE)]).unwrap();
    set_limits("misspelt", &[Limit::new(3, MINUTE)]).unwrap();
    let are_unused = |name: &str| unused_limits().iter().any(|unused| unused == name);
    assert!(are_unused("configured") && are_unused("misspelt"));
    let _clock = test_util::pause();
    assert_eq!((0..9).filter(|_| LIMITER.check("a", 1).is_ok()).count(), 3);
    assert!(!are_unused("configured") && are_unused("misspelt"));
    set_limits("configured", &[Limit::new(4, MINUTE)]).unwrap();
    assert!(!are_unused("configured"));
    assert_eq!(set_limits("misspelt", &[]), Err(InvalidLimiter::NoLimit));
}

#[test]
fn limits_set_during_the_first_use_apply() {
    let many: Vec<_> = (0..2_000)
        .map(|n| RateLimiter::builder(format!("one of many {n}")).limit(Limit::new(1, MINUTE)).build().unwrap())
        .collect();
    for round in 0..1_000 {
        let name = format!("first used {round}");
        let build = || RateLimiter::builder(name.as_str()).limit(Limit::new(1, MINUTE)).build().unwrap();
        let barrier = Barrier::new(2);
        let limiter = thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                set_limits(&name, &[Limit::new(2, MINUTE)]).unwrap();
            });
            barrier.wait();
            build()
        });
        assert_eq!(limiter.limits(), [Limit::new(2, MINUTE)], "round {round}");
    }
    drop(many);
}

#[test]
fn a_replaced_period_is_handled_as_documented() {
    let clock = test_util::pause();
    let limiter = |algorithm| {
        RateLimiter::builder(format!("period {algorithm:?}"))
            .limit(Limit::new(4, MINUTE).with_algorithm(algorithm))
            .build()
            .unwrap()
    };
    let change = |limiter: &RateLimiter, algorithm| {
        limiter.check((), 4).unwrap();
        limiter.set_limits(&[Limit::new(4, SECOND).with_algorithm(algorithm)]).unwrap();
        (0..9).filter(|_| limiter.check((), 1).is_ok()).count()
    };
    // Permits count for the new period; debt stays; the window in which they were taken goes on.
    let sliding = limiter(Algorithm::SlidingWindow);
    assert_eq!(change(&sliding, Algorithm::SlidingWindow), 0);
    let bucket = limiter(Algorithm::TokenBucket);
    assert_eq!(change(&bucket, Algorithm::TokenBucket), 0);
    let fixed = limiter(Algorithm::FixedWindow);
    assert_eq!(change(&fixed, Algorithm::FixedWindow), 0);
    clock.advance(SECOND);
    assert_eq!((0..9).filter(|_| fixed.check((), 1).is_ok()).count(), 4);
    assert_eq!((0..9).filter(|_| sliding.check((), 1).is_ok()).count(), 4);
    assert_eq!((0..9).filter(|_| bucket.check((), 1).is_ok()).count(), 4);
}

#[test]
fn the_list_has_counts_and_locations() {
    static LIMITER: RateLimiter = RateLimiter::new("listed", &[Limit::new(2, MINUTE)]);
    let line = line!() - 1;
    let _clock = test_util::pause();
    for _ in 0..5 {
        let _ = LIMITER.check("a", 1);
    }
    let _ = LIMITER.peek("a", 1);
    let listed = limiters().into_iter().find(|limiter| limiter.name == "listed").unwrap();
    assert_eq!((listed.allowed, listed.denied), (2, 3));
    assert_eq!(listed.limits, [Limit::new(2, MINUTE)]);
    let location = listed.location.unwrap();
    assert!(location.file().ends_with("limiter.rs"));
    assert_eq!(location.line(), line);
}

#[test]
fn backoff_blocks_longer_with_each_denial_and_forgives() {
    let limiter = RateLimiter::builder("backoff")
        .limit(Limit::new(1, SECOND))
        .backoff(Duration::from_secs(10), Duration::from_secs(40))
        .build()
        .unwrap();
    let clock = test_util::pause();
    limiter.check("a", 1).unwrap();
    let blocked = |expected: u64| {
        assert_eq!(limiter.check("a", 1).unwrap_err().retry_after(), Some(Duration::from_secs(expected)));
    };
    blocked(10);
    clock.advance(Duration::from_secs(9));
    blocked(20);
    assert_eq!(limiter.peek("a", 1).unwrap_err().retry_after(), Some(Duration::from_secs(20)), "a peek is no offence");
    blocked(40);
    blocked(40);
    assert!(limiter.check("b", 1).is_ok(), "other keys are not blocked");
    clock.advance(Duration::from_secs(40));
    limiter.check("a", 1).unwrap();
    blocked(10);
    clock.advance(Duration::from_secs(10));
    limiter.check("a", 1).unwrap();
    blocked(20);
}

#[test]
fn a_cost_that_never_fits_is_no_offence() {
    let limiter =
        RateLimiter::builder("no offence").limit(Limit::new(1, SECOND)).backoff(MINUTE, MINUTE).build().unwrap();
    let _clock = test_util::pause();
    assert_eq!(limiter.check("a", 2).unwrap_err().kind(), ExceededKind::CostExceedsLimit);
    assert!(limiter.check("a", 1).is_ok());
}

#[test]
fn a_dry_run_counts_and_never_denies() {
    let limiter = RateLimiter::builder("dry").limit(Limit::new(2, MINUTE)).dry_run().build().unwrap();
    let _clock = test_util::pause();
    assert!((0..5).all(|_| limiter.check("a", 1).is_ok()));
    let listed = limiters().into_iter().find(|limiter| limiter.name == "dry").unwrap();
    assert_eq!((listed.allowed, listed.denied, listed.dry_run), (2, 3, true));
    assert!(limiter.peek("a", 1).is_err(), "a peek says what would be");
}

#[test]
fn a_separate_memory_backend_is_bounded() {
    let memory = MemoryBackend::with_max_keys(100);
    let limiter = RateLimiter::builder("own").limit(Limit::new(1, MINUTE)).backend(memory.clone()).build().unwrap();
    for key in 0..1_000_u32 {
        let _ = limiter.check(key, 1);
    }
    assert_eq!((memory.tracked_keys(), memory.max_keys()), (100, 100));
}

#[test]
fn eight_threads_on_one_limiter_admit_exactly_count() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        for keyed in [true, false] {
            let limit = Limit::new(1_000, MINUTE).with_algorithm(algorithm);
            let limiter = RateLimiter::builder(format!("threads {algorithm:?} {keyed}")).limit(limit).build().unwrap();
            let clock = test_util::pause();
            let admitted = AtomicU32::new(0);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let _entered = clock.handle().enter();
                        for _ in 0..500 {
                            let ok = if keyed { limiter.check("a", 1) } else { limiter.check((), 1) }.is_ok();
                            admitted.fetch_add(ok.into(), Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(admitted.load(Ordering::Relaxed), 1_000, "{algorithm:?}");
        }
    }
}

#[test]
fn no_interval_holds_more_than_count_on_the_real_clock() {
    const COUNT: usize = 50;
    static LIMITER: RateLimiter = RateLimiter::new("real", &[Limit::new(50, Duration::from_millis(20))]);
    let start = Instant::now();
    let mut admitted: Vec<(Duration, Duration)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut admitted = Vec::new();
                    while start.elapsed() < Duration::from_millis(200) {
                        let before = start.elapsed();
                        if LIMITER.check((), 1).is_ok() {
                            admitted.push((before, start.elapsed()));
                        }
                    }
                    admitted
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    // A call was admitted between its start and its end. `COUNT` + 1 of them surely lie within one
    // interval if the latest end is less than `per` after the earliest start.
    admitted.sort_by_key(|(_, after)| *after);
    for window in admitted.windows(COUNT + 1) {
        let first = window.iter().map(|(before, _)| *before).min().unwrap();
        assert!(window[COUNT].1 >= first + Duration::from_millis(20), "over");
    }
    assert!(admitted.len() > COUNT, "it goes on after the first window");
}

/// The store that the call makes knows of the new limit, or the new limit finds the store.
#[test]
fn a_limit_that_is_raised_during_the_first_call_is_kept() {
    for round in 0..1_000 {
        let limiter =
            RateLimiter::builder(format!("first call {round}")).limit(Limit::new(1, 60 * MINUTE)).build().unwrap();
        let both = Barrier::new(2);
        let is_admitted = thread::scope(|scope| {
            let raised = scope.spawn(|| {
                both.wait();
                limiter.set_limits(&[Limit::new(10, 60 * MINUTE)]).unwrap();
            });
            both.wait();
            let is_admitted = limiter.check("a", 1).is_ok();
            raised.join().unwrap();
            is_admitted
        });
        let later = (0..20).filter(|_| limiter.check("a", 1).is_ok()).count();
        assert_eq!(usize::from(is_admitted) + later, 10, "round {round}");
    }
}

#[test]
fn tests_on_other_threads_do_not_interfere() {
    static LIMITER: RateLimiter = RateLimiter::new("scoped", &[Limit::new(1, MINUTE)]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let clock = test_util::pause();
                assert!(LIMITER.check("a", 1).is_ok());
                assert!(LIMITER.check("a", 1).is_err());
                clock.reset();
                assert!(LIMITER.check("a", 1).is_ok());
            });
        }
    });
}

#[test]
fn one_limiters_keys_do_not_keep_anothers_out() {
    let memory = MemoryBackend::with_max_keys(100);
    let make = |name: &str, count| {
        RateLimiter::builder(name).limit(Limit::new(count, MINUTE)).backend(memory.clone()).build().unwrap()
    };
    let (busy, other) = (make("busy", 10), make("other", 1));
    for key in 0..200_u32 {
        busy.check(key, 1).unwrap();
    }
    assert_eq!((0..100).filter(|_| other.check("k", 1).is_ok()).count(), 1);
}

#[test]
fn no_flood_frees_a_blocked_key_while_another_is_left() {
    for max_keys in [2, 3, 5, 10, 64, 500] {
        let memory = MemoryBackend::with_max_keys(max_keys);
        let limiter =
            RateLimiter::builder("blocked").limit(Limit::new(3, MINUTE)).backend(memory.clone()).build().unwrap();
        // Half of the keys are used up.
        let blocked = u32::try_from(max_keys / 2).unwrap();
        for key in 0..blocked {
            limiter.check(key, 3).unwrap();
        }
        for key in 1_000..20_000_u32 {
            limiter.check(key, 1).unwrap();
        }
        for key in 0..blocked {
            assert!(limiter.check(key, 1).is_err(), "{key} of {max_keys} was freed");
        }
    }
}

#[test]
fn larger_limits_keep_the_permits_on_record() {
    for keyed in [true, false] {
        let limit = |burst| Limit::new(1, MINUTE).with_algorithm(Algorithm::TokenBucket).with_burst(burst);
        let limiter = RateLimiter::builder("larger").limit(limit(1)).build().unwrap();
        let _clock = test_util::pause();
        let check = || if keyed { limiter.check("a", 1) } else { limiter.check((), 1) };
        check().unwrap();
        limiter.set_limits(&[limit(50)]).unwrap();
        assert_eq!((0..1_000).filter(|_| check().is_ok()).count(), 49);
    }
}

#[test]
fn a_longer_period_still_counts_old_permits() {
    let limiter = RateLimiter::builder("longer").limit(Limit::new(1, SECOND)).build().unwrap();
    let clock = test_util::pause();
    limiter.set_limits(&[Limit::new(1, MINUTE)]).unwrap();
    limiter.check("a", 1).unwrap();
    clock.advance(2 * SECOND);
    for key in 0..5_000_u32 {
        limiter.check(key, 1).unwrap();
    }
    assert!(limiter.check("a", 1).is_err());
}

#[test]
fn permits_from_before_a_reset_are_not_given_back() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let limiter = RateLimiter::builder("before reset")
            .limit(Limit::new(1, MINUTE).with_algorithm(algorithm))
            .build()
            .unwrap();
        let _clock = test_util::pause();
        let before = limiter.check("a", 1).unwrap();
        limiter.reset("a").unwrap();
        limiter.check("a", 1).unwrap();
        limiter.refund(before).unwrap();
        assert!(limiter.check("a", 1).is_err(), "{algorithm:?}");
    }
}

#[test]
fn a_reset_of_some_keys_leaves_the_refunds_of_others() {
    let limiter = RateLimiter::builder("others' reset").limit(Limit::new(1, MINUTE)).build().unwrap();
    let _clock = test_util::pause();
    let given_back = (0..100_u64).filter(|key| {
        let before = limiter.check(key, 1).unwrap();
        limiter.reset(key + 1_000).unwrap();
        limiter.refund(before).unwrap();
        limiter.check(key, 1).is_ok()
    });
    assert!(given_back.count() > 80);
}

#[test]
fn a_limiter_made_anew_for_each_call_finds_its_buckets_again() {
    let _clock = test_util::pause();
    let admitted = (0..5).filter(|_| {
        let limiter = RateLimiter::builder("made anew").limit(Limit::new(2, MINUTE)).build().unwrap();
        limiter.check("a", 1).is_ok()
    });
    assert_eq!(admitted.count(), 2);
}

#[test]
fn dropped_limiters_leave_no_buckets_in_a_test() {
    let _clock = test_util::pause();
    for number in 0..50 {
        let limiter = RateLimiter::builder(format!("gone {number}")).limit(Limit::new(1, MINUTE)).build().unwrap();
        assert!(limiter.check("a", 1).is_ok(), "{number}");
    }
}

#[test]
fn a_dry_run_does_not_wait() {
    let limiter = RateLimiter::builder("dry wait").limit(Limit::new(1, MINUTE)).dry_run().build().unwrap();
    let clock = test_util::pause();
    let before = clock.now();
    assert!((0..3).all(|_| limiter.wait("a", 1).is_ok()));
    assert_eq!(clock.now(), before);
}

#[test]
fn the_debug_output_of_a_decision_shows_no_key() {
    for backend in [MemoryBackend::new().into_backend(), Shelf::default().into_backend()] {
        let builder = RateLimiter::builder("shown").limit(Limit::per_minute(10)).backend(backend);
        let (limiter, _clock) = (builder.build().unwrap(), test_util::pause());
        let decision = limiter.check("ann@example.org", 3).unwrap();
        let expected =
            "Decision { limit: Limit(10 per 1m), limit_index: 0, remaining: 7, reset_after: 60s, waited: 0ns, .. }";
        assert_eq!(format!("{decision:?}"), expected);
    }
}
