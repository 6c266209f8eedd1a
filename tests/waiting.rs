//! Waiting for permits: booked in the order of arrival, on virtual time.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, UNIX_EPOCH};

use ratelimit_runtime::test_util::TestClock;
use ratelimit_runtime::{
    Algorithm, Decision, ExceededKind, Limit, MemoryBackend, RateLimitExceeded, RateLimiter, limiters, test_util,
};
use ratelimit_tests::{ALGORITHMS, MINUTE, SECOND, Shelf, poll_once};
use tokio::task::LocalSet;
use tokio::time::Instant;

fn limiter(name: &str, limits: &[Limit]) -> RateLimiter {
    limits.iter().fold(RateLimiter::builder(name), |builder, limit| builder.limit(*limit)).build().unwrap()
}

/// Lets each of `waiters` wait for a permit, in order. Drops the tasks with an index in `cancelled`
/// before time goes on. Returns who was released when.
async fn release(limiter: &RateLimiter, waiters: usize, cancelled: impl Fn(usize) -> bool) -> Vec<(usize, Duration)> {
    let _clock = test_util::pause_with_tokio();
    let start = Instant::now();
    let released = Rc::new(RefCell::new(Vec::new()));
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut handles = Vec::new();
            for index in 0..waiters {
                let (limiter, released) = (limiter.clone(), Rc::clone(&released));
                handles.push(tokio::task::spawn_local(async move {
                    limiter.wait_async("key", 1).await.unwrap();
                    released.borrow_mut().push((index, start.elapsed()));
                }));
            }
            // Only a few tasks are polled at a time, and all must book before any gives up.
            for _ in 0..waiters {
                tokio::task::yield_now().await;
            }
            for (index, handle) in handles.iter().enumerate() {
                if cancelled(index) {
                    handle.abort();
                }
            }
            for handle in handles {
                let _ = handle.await;
            }
        })
        .await;
    released.take()
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waiters_are_released_in_order_and_never_more_than_the_limit() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket] {
        let limiter = limiter("thousand", &[Limit::new(100, SECOND).with_algorithm(algorithm)]);
        let released = release(&limiter, 1_000, |_| false).await;
        assert!(released.iter().map(|(index, _)| *index).eq(0..1_000), "{algorithm:?}: not in order");
        assert_eq!(released[999].1, 9 * SECOND, "{algorithm:?}");
        if algorithm == Algorithm::SlidingWindow {
            for window in released.windows(101) {
                assert!(window[100].1 - window[0].1 >= SECOND);
            }
            for second in 0..10 {
                let of_second = released.iter().filter(|(_, at)| at.as_secs() == second).count();
                assert_eq!(of_second, 100);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_of_a_fixed_window_are_released_window_by_window() {
    let limiter = limiter("fixed", &[Limit::new(10, SECOND).with_algorithm(Algorithm::FixedWindow)]);
    let released = release(&limiter, 100, |_| false).await;
    assert!(released.iter().map(|(index, _)| *index).eq(0..100));
    for window in released.windows(21) {
        assert!(window[20].1 - window[0].1 >= SECOND, "more than twice the limit in a second");
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_are_not_later_for_others_that_give_up() {
    let limiter = limiter("give up", &[Limit::new(100, SECOND)]);
    let all = release(&limiter, 1_000, |_| false).await;
    let half = release(&limiter, 1_000, |index| index % 2 == 1).await;
    assert_eq!(half.len(), 550, "half of those that had to wait, and the hundred that had not");
    assert!(half.is_sorted());
    for (index, at) in half {
        assert!(at <= all[index].1, "waiter {index} was released at {at:?}");
    }
}

#[test]
fn a_dropped_waiter_gives_its_permit_back_if_none_is_behind_it() {
    let clock = test_util::pause();
    let limiter = limiter("dropped", &[Limit::new(1, SECOND)]);
    limiter.check("a", 1).unwrap();
    {
        let mut first = pin!(limiter.wait_async("a", 1));
        assert!(poll_once(first.as_mut()).is_pending());
        assert_eq!(limiter.peek("a", 1).unwrap_err().retry_after(), Some(2 * SECOND), "none overtakes a booking");
    }
    assert_eq!(limiter.peek("a", 1).unwrap_err().retry_after(), Some(SECOND));
    clock.advance(SECOND);
    assert!(limiter.check("a", 1).is_ok());
}

#[test]
fn a_dropped_waiters_place_is_the_next_ones() {
    let clock = test_util::pause();
    let limiter = limiter("behind", &[Limit::new(1, SECOND)]);
    limiter.check("a", 1).unwrap();
    let mut second = Box::pin(limiter.wait_async("a", 1));
    let mut third = Box::pin(limiter.wait_async("a", 1));
    assert!(poll_once(second.as_mut()).is_pending());
    assert!(poll_once(third.as_mut()).is_pending());
    assert_eq!(limiter.peek("a", 1).unwrap_err().retry_after(), Some(3 * SECOND));
    drop(second);
    assert_eq!(limiter.peek("a", 1).unwrap_err().retry_after(), Some(2 * SECOND));
    clock.advance(SECOND);
    assert!(poll_once(third.as_mut()).is_ready());
}

#[test]
fn a_waiter_that_is_not_polled_delays_nobody() {
    let clock = test_util::pause();
    let limiter = limiter("unpolled head", &[Limit::new(1, SECOND)]);
    limiter.check("a", 1).unwrap();
    let mut second = Box::pin(limiter.wait_async("a", 1));
    let mut third = Box::pin(limiter.wait_async("a", 1));
    assert!(poll_once(second.as_mut()).is_pending());
    assert!(poll_once(third.as_mut()).is_pending());
    clock.advance(2 * SECOND);
    // The second was charged as of its due time, so the third is due as well.
    assert!(poll_once(third.as_mut()).is_ready());
    assert!(poll_once(second.as_mut()).is_ready());
}

#[test]
fn a_cancelled_booking_has_not_expired_a_live_permit() {
    let clock = test_util::pause();
    let limiter = limiter("live", &[Limit::new(2, SECOND)]);
    limiter.check("a", 2).unwrap();
    {
        let mut far = Box::pin(limiter.wait_async("a", 2));
        assert!(poll_once(far.as_mut()).is_pending());
    }
    assert!(limiter.check("a", 1).is_err());
    clock.advance(SECOND - Duration::from_nanos(1));
    assert!(limiter.check("a", 1).is_err());
}

#[test]
fn a_wait_that_would_be_too_long_fails_at_once_and_books_nothing() {
    let clock = test_util::pause();
    let limiter = limiter("bounded", &[Limit::new(1, SECOND)]);
    limiter.check("a", 1).unwrap();
    let before = clock.now();
    let exceeded = limiter.wait_at_most("a", 1, SECOND - Duration::from_nanos(1)).unwrap_err();
    assert_eq!((exceeded.kind(), exceeded.retry_after()), (ExceededKind::Limited, Some(SECOND)));
    assert_eq!(clock.now(), before, "it did not wait");
    assert_eq!(limiter.peek("a", 1).unwrap_err().retry_after(), Some(SECOND));
    assert_eq!(limiter.wait_at_most("a", 1, SECOND).unwrap().waited(), SECOND);
}

#[test]
fn several_limits_and_costs_are_booked_for_the_latest_of_their_times() {
    let clock = test_util::pause();
    let tight = Limit::new(10, SECOND).with_algorithm(Algorithm::TokenBucket);
    let limiter = limiter("several", &[tight, Limit::new(12, MINUTE)]);
    limiter.check("a", 10).unwrap();
    assert_eq!(limiter.wait("a", 2).unwrap().waited(), SECOND / 5);
    assert_eq!(limiter.wait("a", 10).unwrap().waited(), MINUTE - SECOND / 5, "all of the minute's but the last two");
    clock.advance(SECOND);
    assert_eq!(limiter.wait("a", 0).unwrap().waited(), Duration::ZERO);
}

#[test]
fn a_cancelled_booking_of_several_limits_leaves_no_trace() {
    let _clock = test_util::pause();
    let fast = Limit::new(100, SECOND).with_algorithm(Algorithm::TokenBucket);
    let limiter = limiter("no trace", &[fast, Limit::new(5, Duration::from_secs(3_600))]);
    limiter.check("a", 4).unwrap();
    {
        let mut far = Box::pin(limiter.wait_async("a", 5));
        assert!(poll_once(far.as_mut()).is_pending());
    }
    assert!(limiter.check("a", 1).is_ok(), "the idle limit is not taken to be full until the booked time");
}

#[test]
fn an_unpolled_wait_books_nothing() {
    let _clock = test_util::pause();
    let limiter = limiter("unpolled", &[Limit::new(1, SECOND)]);
    let future = limiter.wait_async("a", 1);
    assert!(limiter.check("a", 1).is_ok());
    drop(future);
}

#[test]
fn waiting_works_outside_any_runtime() {
    let limiter = limiter("outside", &[Limit::new(1, Duration::from_millis(20))]);
    let start = std::time::Instant::now();
    for _ in 0..3 {
        futures_executor::block_on(limiter.wait_async("a", 1)).unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(40));
}

#[test]
fn a_thread_that_waits_is_released_when_its_permit_is_due() {
    let limiter = limiter("thread", &[Limit::new(1, Duration::from_millis(20))]);
    let start = std::time::Instant::now();
    for _ in 0..3 {
        limiter.wait("a", 1).unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(40));
}

mod by_attribute {
    use std::pin::Pin;
    use std::sync::LazyLock;

    use ratelimit_runtime::{IntoBackend, RateLimitExceeded, SharedBackend, rate_limit};

    use super::*;

    #[rate_limit(count = 1, per = "1s", wait(queue = 2))]
    async fn short_queue() -> Result<(), RateLimitExceeded> {
        Ok(())
    }

    #[test]
    fn at_most_so_many_calls_wait() {
        let clock = test_util::pause();
        let [mut first, mut second, mut third, mut fourth] = [0; 4].map(|_| Box::pin(short_queue()));
        assert!(poll_once(first.as_mut()).is_ready());
        assert!(poll_once(second.as_mut()).is_pending());
        assert!(poll_once(third.as_mut()).is_pending());
        let Poll::Ready(Err(exceeded)) = poll_once(fourth.as_mut()) else { panic!("the queue is full") };
        assert_eq!((exceeded.kind(), exceeded.retry_after()), (ExceededKind::Limited, Some(3 * SECOND)));
        drop(third);
        assert!(poll_once(Box::pin(short_queue()).as_mut()).is_pending(), "there is a place again");
        clock.advance(SECOND);
        assert!(poll_once(second.as_mut()).is_ready());
    }

    #[rate_limit(count = 1, per = "1s", wait(priority = priority))]
    async fn prioritized(priority: u8) {
        let _ = priority;
    }

    #[test]
    fn a_higher_priority_is_served_first_and_ages() {
        let clock = test_util::pause();
        let mut taken = Box::pin(prioritized(0));
        assert!(poll_once(taken.as_mut()).is_ready());
        let mut background: Vec<_> = (0..300).map(|_| Box::pin(prioritized(0))).collect();
        for waiter in &mut background {
            assert!(poll_once(waiter.as_mut()).is_pending());
        }
        let mut user = Box::pin(prioritized(10));
        assert!(poll_once(user.as_mut()).is_pending());
        clock.advance(SECOND);
        assert!(poll_once(background[0].as_mut()).is_pending());
        assert!(poll_once(user.as_mut()).is_ready(), "its turn comes before those in the background");
        // Eleven minutes make up for ten steps.
        clock.advance(Duration::from_secs(11 * 60));
        let mut late = Box::pin(prioritized(10));
        assert!(poll_once(late.as_mut()).is_ready(), "all others were served meanwhile");
        assert!(background.iter_mut().all(|waiter| poll_once(waiter.as_mut()).is_ready()));
    }

    fn store() -> SharedBackend {
        static STORE: LazyLock<SharedBackend> =
            LazyLock::new(|| Shelf::default().keeping_its_deadline().into_backend());
        STORE.clone()
    }

    #[rate_limit(count = count, per = "1m", key = key, wait)]
    async fn by_its_own_count(key: &str, count: u32) -> Result<(), RateLimitExceeded> {
        Ok(())
    }

    #[rate_limit(count = count, per = "1m", key = key, wait, backend = store())]
    async fn by_its_own_count_before_a_store(key: &str, count: u32) -> Result<(), RateLimitExceeded> {
        Ok(())
    }

    type Limited = Pin<Box<dyn Future<Output = Result<(), RateLimitExceeded>>>>;

    #[test]
    fn calls_whose_count_is_read_wait_by_their_own() {
        let fronts: [fn(u32) -> Limited; 2] = [
            |count| Box::pin(by_its_own_count("a", count)),
            |count| Box::pin(by_its_own_count_before_a_store("a", count)),
        ];
        for (front, call) in fronts.iter().enumerate() {
            let clock = test_util::pause();
            let mut waits: Vec<Limited> = [1, 1, 4, 1].map(call).into();
            let ready = |waits: &mut [Limited]| -> Vec<bool> {
                waits.iter_mut().map(|wait| poll_once(wait.as_mut()).is_ready()).collect()
            };
            assert_eq!(ready(&mut waits), [true, false, false, false], "{front}");
            drop(waits.remove(0));
            clock.advance(MINUTE);
            assert_eq!(ready(&mut waits), [true, true, false], "{front}: the count of 4 lets both in");
            clock.advance(MINUTE);
            assert_eq!(ready(&mut waits[2..]), [true], "{front}");
        }
    }

    #[rate_limit(limiter = limiter, key = "a", wait(max = "2s", priority = priority))]
    async fn prioritized_and_bounded(limiter: &RateLimiter, priority: u8) -> Result<(), RateLimitExceeded> {
        Ok(())
    }

    #[test]
    fn a_bounded_call_is_not_denied_for_those_that_it_overtakes() {
        let builder = |name: &str| RateLimiter::builder(name).limit(Limit::new(1, SECOND));
        let store = Shelf::default().keeping_its_deadline();
        for limiter in [builder("in memory"), builder("before a store").backend(store)] {
            let clock = test_util::pause();
            let limiter = limiter.build().unwrap();
            limiter.check("a", 1).unwrap();
            let mut background: Vec<_> = (0..300).map(|_| wait(&limiter, 1)).collect();
            assert!(background.iter_mut().all(|wait| poll_once(wait.as_mut()).is_pending()));
            let mut user = Box::pin(prioritized_and_bounded(&limiter, 10));
            assert!(poll_once(user.as_mut()).is_pending(), "{}", limiter.name());
            clock.advance(SECOND);
            assert!(matches!(poll_once(user.as_mut()), Poll::Ready(Ok(()))), "{}", limiter.name());
            let denied = poll_once(Box::pin(prioritized_and_bounded(&limiter, 0)).as_mut());
            assert!(matches!(denied, Poll::Ready(Err(_))), "{}: behind all", limiter.name());
        }
    }
}

type Wait<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + 'a>>;

fn wait(limiter: &RateLimiter, cost: u32) -> Wait<'_> {
    Box::pin(limiter.wait_async("a", cost))
}

/// Starts a call every `every` for the time `during`. Each gives up after `patience`. Returns how
/// many are served.
fn served(limiter: &RateLimiter, clock: &TestClock, every: Duration, patience: Duration, during: Duration) -> u32 {
    const STEP: Duration = Duration::from_millis(1);
    let (mut waiting, mut served, mut passed, mut next) =
        (Vec::<(Duration, Wait<'_>)>::new(), 0, Duration::ZERO, Duration::ZERO);
    while passed < during {
        if passed >= next {
            waiting.push((passed + patience, wait(limiter, 1)));
            next += every;
        }
        waiting.retain_mut(|(until, wait)| {
            let is_served = matches!(poll_once(wait.as_mut()), Poll::Ready(Ok(_)));
            served += u32::from(is_served);
            !is_served && passed < *until
        });
        clock.advance(STEP);
        passed += STEP;
    }
    served
}

#[test]
fn callers_who_give_up_leave_the_limit_to_those_who_stay() {
    for algorithm in ALGORITHMS {
        let clock = test_util::pause();
        let limiter = limiter("impatient", &[Limit::new(10, SECOND).with_algorithm(algorithm)]);
        let served = served(&limiter, &clock, SECOND / 20, SECOND / 2, MINUTE);
        assert!((570..=610).contains(&served), "{algorithm:?}: {served} of 600");
    }
}

#[test]
fn a_patient_call_waits_for_nobody_who_is_gone() {
    const PERIOD: Duration = Duration::from_millis(100);
    for algorithm in ALGORITHMS {
        let clock = test_util::pause();
        let limiter = limiter("patient", &[Limit::new(1, PERIOD).with_algorithm(algorithm)]);
        let served = served(&limiter, &clock, Duration::from_millis(25), Duration::from_millis(150), 3 * SECOND);
        assert!(served >= 29, "{algorithm:?}: {served} of 30");
        assert!(limiter.wait("a", 1).unwrap().waited() <= PERIOD, "{algorithm:?}");
    }
}

#[test]
fn raised_limits_and_a_reset_reach_those_who_wait() {
    for algorithm in ALGORITHMS {
        let _clock = test_util::pause();
        let limiter = limiter("raised", &[Limit::new(1, MINUTE).with_algorithm(algorithm)]);
        limiter.check("a", 1).unwrap();
        let mut waits: Vec<_> = (0..5).map(|_| wait(&limiter, 1)).collect();
        assert!(waits.iter_mut().all(|wait| poll_once(wait.as_mut()).is_pending()));
        limiter.reset("a").unwrap();
        let ready: Vec<bool> = waits.iter_mut().map(|wait| poll_once(wait.as_mut()).is_ready()).collect();
        assert_eq!(ready, [true, false, false, false, false], "{algorithm:?}: one permit for the first");
        limiter.set_limits(&[Limit::new(100, SECOND).with_algorithm(algorithm)]).unwrap();
        assert!(waits[1..].iter_mut().all(|wait| poll_once(wait.as_mut()).is_ready()), "{algorithm:?}");
        assert!(limiter.check("a", 1).is_ok(), "{algorithm:?}");
    }
}

#[test]
fn a_cost_that_fits_no_more_fails_at_once() {
    for algorithm in ALGORITHMS {
        let _clock = test_util::pause();
        let limiter = limiter("too large", &[Limit::new(5, MINUTE).with_algorithm(algorithm)]);
        limiter.check("a", 5).unwrap();
        let (mut large, mut small) = (wait(&limiter, 5), wait(&limiter, 1));
        assert!(poll_once(large.as_mut()).is_pending() && poll_once(small.as_mut()).is_pending());
        limiter.set_limits(&[Limit::new(4, MINUTE).with_algorithm(algorithm)]).unwrap();
        let Poll::Ready(Err(exceeded)) = poll_once(large.as_mut()) else { panic!("{algorithm:?}: it still waits") };
        assert_eq!(exceeded.retry_after(), None);
        assert!(poll_once(small.as_mut()).is_pending(), "{algorithm:?}");
    }
}

#[test]
fn a_cost_that_fits_no_more_holds_up_nobody() {
    for algorithm in ALGORITHMS {
        let clock = test_util::pause();
        let limiter = limiter("too large, and second", &[Limit::new(5, MINUTE).with_algorithm(algorithm)]);
        limiter.check("a", 5).unwrap();
        let (mut small, mut large) = (wait(&limiter, 1), wait(&limiter, 5));
        assert!(poll_once(small.as_mut()).is_pending() && poll_once(large.as_mut()).is_pending());
        limiter.set_limits(&[Limit::new(4, MINUTE).with_algorithm(algorithm)]).unwrap();
        assert!(matches!(poll_once(large.as_mut()), Poll::Ready(Err(_))), "{algorithm:?}: it still waits");
        clock.advance(MINUTE);
        assert!(poll_once(small.as_mut()).is_ready(), "{algorithm:?}");
    }
}

#[test]
fn a_bounded_wait_fails_as_soon_as_it_cannot_be_met() {
    for algorithm in ALGORITHMS {
        let _clock = test_util::pause();
        let limiter = limiter("lowered", &[Limit::new(2, SECOND).with_algorithm(algorithm)]);
        limiter.check("a", 2).unwrap();
        let mut bounded = Box::pin(limiter.wait_at_most_async("a", 2, 2 * SECOND));
        let mut patient = wait(&limiter, 1);
        assert!(poll_once(bounded.as_mut()).is_pending() && poll_once(patient.as_mut()).is_pending());
        limiter.set_limits(&[Limit::new(2, MINUTE).with_algorithm(algorithm)]).unwrap();
        limiter.block("a", MINUTE).unwrap();
        let denied = poll_once(bounded.as_mut());
        assert!(matches!(denied, Poll::Ready(Err(_))), "{algorithm:?}: it still waits");
        assert!(poll_once(patient.as_mut()).is_pending(), "{algorithm:?}");
    }
}

#[test]
fn a_call_behind_one_that_leaves_is_admitted_then_and_not_before() {
    let clock = test_util::pause();
    let limiter = limiter("first at last", &[Limit::new(4, SECOND)]);
    limiter.check("a", 2).unwrap();
    clock.advance(SECOND / 10);
    let (mut large, mut small) = (wait(&limiter, 3), wait(&limiter, 1));
    assert!(poll_once(large.as_mut()).is_pending() && poll_once(small.as_mut()).is_pending());
    clock.advance(SECOND * 8 / 10);
    drop(large);
    assert!(poll_once(small.as_mut()).is_ready());
    clock.advance(SECOND * 9 / 10);
    assert_eq!(limiter.check("a", 4).unwrap_err().remaining(), 3, "one permit is 0.9 s old");
}

#[test]
fn what_a_waiting_call_takes_after_a_reset_can_be_given_back() {
    for algorithm in ALGORITHMS {
        let _clock = test_util::pause();
        let limiter = limiter("reset, then given back", &[Limit::new(5, MINUTE).with_algorithm(algorithm)]);
        limiter.check("a", 5).unwrap();
        let mut waits = wait(&limiter, 3);
        assert!(poll_once(waits.as_mut()).is_pending());
        limiter.reset("a").unwrap();
        let Poll::Ready(Ok(decision)) = poll_once(waits.as_mut()) else { panic!("{algorithm:?}: it waits on") };
        assert_eq!(decision.remaining(), 2, "{algorithm:?}");
        limiter.refund(decision).unwrap();
        assert_eq!(limiter.peek("a", 0).unwrap().remaining(), 5, "{algorithm:?}");
    }
}

#[test]
fn what_a_waiting_call_took_before_a_reset_is_not_given_back() {
    let clock = test_util::pause();
    let limiter = limiter("taken, then reset", &[Limit::new(5, MINUTE).with_algorithm(Algorithm::TokenBucket)]);
    limiter.check("a", 5).unwrap();
    let mut waits = wait(&limiter, 5);
    assert!(poll_once(waits.as_mut()).is_pending());
    clock.advance(MINUTE);
    assert!(limiter.check("a", 1).is_err(), "its turn has come, though it is not polled");
    limiter.reset("a").unwrap();
    limiter.check("a", 5).unwrap();
    drop(waits);
    assert_eq!(limiter.peek("a", 0).unwrap().remaining(), 0);
}

#[test]
fn a_call_is_told_exactly_again_when_the_one_of_another_cost_has_left() {
    let _clock = test_util::pause();
    let limiter = limiter("alike again", &[Limit::new(3, SECOND)]);
    limiter.check("a", 3).unwrap();
    let mut waits: Vec<_> = [2, 2, 1].map(|cost| wait(&limiter, cost)).into();
    assert!(waits.iter_mut().all(|wait| poll_once(wait.as_mut()).is_pending()));
    waits.pop();
    // Two permits of three are taken each second.
    assert_eq!(limiter.check("a", 2).unwrap_err().retry_after(), Some(3 * SECOND));
}

#[test]
fn a_call_behind_others_of_its_cost_is_told_when_its_turn_comes() {
    for algorithm in ALGORITHMS {
        for (cost, ahead) in [(1, 1), (1, 7), (2, 3), (3, 4)] {
            let clock = test_util::pause();
            let limiter = limiter("told", &[Limit::new(5, SECOND).with_algorithm(algorithm)]);
            limiter.check("a", 5).unwrap();
            let mut waits: Vec<_> = (0..ahead).map(|_| wait(&limiter, cost)).collect();
            assert!(waits.iter_mut().all(|wait| poll_once(wait.as_mut()).is_pending()));
            let told = limiter.check("a", cost).unwrap_err().retry_after().unwrap();
            let mut last = wait(&limiter, cost);
            assert!(poll_once(last.as_mut()).is_pending());
            clock.advance(told - Duration::from_micros(1));
            assert!(poll_once(last.as_mut()).is_pending(), "{algorithm:?}, {cost} behind {ahead}: before {told:?}");
            clock.advance(Duration::from_micros(1));
            let Poll::Ready(Ok(decision)) = poll_once(last.as_mut()) else {
                panic!("{algorithm:?}, {cost} behind {ahead}: not after {told:?}");
            };
            assert_eq!(decision.waited(), told);
        }
    }
}

#[test]
fn a_call_behind_others_is_told_exactly_though_a_lowered_limit_is_more_than_full() {
    let clock = test_util::pause();
    let limiter = limiter("more than full", &[Limit::new(3, SECOND)]);
    limiter.check("a", 2).unwrap();
    clock.advance(SECOND / 10);
    limiter.check("a", 1).unwrap();
    limiter.set_limits(&[Limit::new(2, SECOND)]).unwrap();
    let mut first = wait(&limiter, 2);
    assert!(poll_once(first.as_mut()).is_pending());
    assert_eq!(limiter.check("a", 2).unwrap_err().retry_after(), Some(2 * SECOND));
}

#[test]
fn a_wait_needs_no_timer_of_the_runtime() {
    let limiter = limiter("no timer", &[Limit::new(1, Duration::from_millis(20))]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let waited = runtime.block_on(async {
        limiter.wait_async("a", 1).await.unwrap();
        limiter.wait_async("a", 1).await.unwrap().waited()
    });
    assert!(waited > Duration::ZERO);
}

#[test]
fn a_hundred_thousand_waiters_are_served_in_order_whoever_leaves() {
    const COUNT: u32 = 1_000;
    for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        let clock = test_util::pause_at(UNIX_EPOCH + Duration::from_secs(1_795_951_900));
        let limiter = limiter("hundred thousand", &[Limit::new(COUNT, SECOND).with_algorithm(algorithm)]);
        limiter.check("a", COUNT).unwrap();
        let mut waits: Vec<_> = (0..100_000).map(|_| wait(&limiter, 1)).collect();
        assert!(waits.iter_mut().all(|wait| poll_once(wait.as_mut()).is_pending()));
        // Two of three leave, in another order.
        let mut waits: Vec<_> = waits.into_iter().enumerate().collect();
        waits.sort_by_key(|(number, _)| number.wrapping_mul(0x9E37_79B9) % 100_003);
        waits.truncate(33_333);
        waits.sort_by_key(|(number, _)| *number);
        clock.advance(100 * SECOND);
        for ((_, wait), place) in waits.iter_mut().zip(0..) {
            let Poll::Ready(Ok(decision)) = poll_once(wait.as_mut()) else { panic!("{algorithm:?}: {place} waits on") };
            assert_eq!(decision.waited(), (1 + place / COUNT) * SECOND, "{algorithm:?}: {place}");
        }
    }
}

#[test]
fn a_call_of_cost_0_waits_for_the_block_alone() {
    let clock = test_util::pause();
    let limiter = limiter("nothing", &[Limit::new(1, 10 * SECOND)]);
    limiter.check("a", 1).unwrap();
    limiter.block("a", SECOND).unwrap();
    let [mut first, mut nothing] = [wait(&limiter, 1), wait(&limiter, 0)];
    assert!([&mut first, &mut nothing].into_iter().all(|wait| poll_once(wait.as_mut()).is_pending()));
    clock.advance(SECOND);
    assert!(poll_once(nothing.as_mut()).is_ready());
    assert!(poll_once(first.as_mut()).is_pending());
    clock.advance(9 * SECOND);
    assert!(poll_once(first.as_mut()).is_ready());
}

/// The other calls that are due are charged by those that it wakes.
#[test]
fn a_call_charges_few_of_those_that_are_due() {
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Woken>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    const CALLS: u32 = 200;
    let clock = test_util::pause();
    let limiter = limiter("few at once", &[Limit::new(CALLS, SECOND)]);
    limiter.check("a", CALLS).unwrap();
    let mut waits: Vec<_> = (0..CALLS).map(|_| (wait(&limiter, 1), Arc::new(Woken::default()))).collect();
    let poll = |wait: &mut Wait<'_>, woken: &Arc<Woken>| {
        let waker = Waker::from(Arc::clone(woken));
        wait.as_mut().poll(&mut Context::from_waker(&waker))
    };
    assert!(waits.iter_mut().all(|(wait, woken)| poll(wait, woken).is_pending()));
    clock.advance(SECOND);
    // The test's clock has woken all.
    for (_, woken) in &waits {
        woken.0.store(false, Ordering::Relaxed);
    }
    limiter.check("a", 1).unwrap_err();
    let woken = waits.iter().filter(|(_, woken)| woken.0.load(Ordering::Relaxed)).count();
    assert!((1..=33).contains(&woken), "{woken}");
    // Each of them hands on.
    while !waits.is_empty() {
        let before = waits.len();
        waits.retain_mut(|(wait, woken)| !woken.0.swap(false, Ordering::Relaxed) || poll(wait, woken).is_pending());
        assert!(waits.len() < before, "{before} are left, and none is woken");
    }
}

#[test]
fn calls_wait_for_no_more_keys_than_half_of_a_full_backends() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let memory = MemoryBackend::with_max_keys(10);
    let builder = RateLimiter::builder("half of the keys").limit(Limit::new(1, HOUR)).backend(memory.clone());
    let limiter = builder.build().unwrap();
    let wait = |key: u32| {
        let limiter = limiter.clone();
        let mut wait = Box::pin(async move { limiter.wait_async(key, 1).await });
        let polled = poll_once(wait.as_mut());
        (wait, polled)
    };
    let mut waits: Vec<_> = (0..5)
        .map(|key| {
            limiter.check(key, 1).unwrap();
            wait(key)
        })
        .collect();
    assert!(waits.iter().all(|(_, polled)| polled.is_pending()));
    limiter.check(5_u32, 1).unwrap();
    let (_, decided) = wait(5);
    let Poll::Ready(Err(denied)) = decided else { panic!("it waits for one more key: {decided:?}") };
    assert!(denied.retry_after().unwrap() <= HOUR);
    assert!(wait(0).1.is_pending(), "others wait for this key already");
    drop(waits.swap_remove(1));
    let (_last, polled) = wait(5);
    assert!(polled.is_pending(), "there is room again: {polled:?}");
    // Keys with waiting calls count, and stay.
    for key in 1_000..2_000_u32 {
        let _ = limiter.check(key, 1);
    }
    assert_eq!(memory.tracked_keys(), 10);
    for key in [0_u32, 2, 3, 4, 5] {
        let told = limiter.check(key, 1).unwrap_err().retry_after().unwrap();
        assert!(told > HOUR, "{key}: behind the call that waits, not after {told:?}");
    }
}

/// Runs in a test that has paused tokio's clock, and nothing else.
mod by_tokios_clock_alone {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_in_a_row_take_the_time_that_they_should() {
        let limiter = limiter("in a row", &[Limit::new(1, Duration::from_millis(10))]);
        let start = Instant::now();
        for _ in 0..101 {
            limiter.wait_async("key", 1).await.unwrap();
        }
        assert_eq!(start.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_waiters_are_released_at_their_times() {
        for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket] {
            let limiter = limiter(&format!("{algorithm:?}"), &[Limit::new(100, SECOND).with_algorithm(algorithm)]);
            let start = Instant::now();
            let waiters = (0..1_000).map(|_| {
                let limiter = limiter.clone();
                tokio::spawn(async move {
                    limiter.wait_async("key", 1).await.unwrap();
                    start.elapsed()
                })
            });
            let mut times = Vec::new();
            for waiter in waiters.collect::<Vec<_>>() {
                times.push(waiter.await.unwrap());
            }
            assert!(times.is_sorted());
            assert_eq!(times[999], 9 * SECOND, "{algorithm:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_sees_the_time_advanced() {
        let limiter = limiter("advanced", &[Limit::new(1, MINUTE)]);
        limiter.check_async("key", 1).await.unwrap();
        assert!(limiter.check_async("key", 1).await.is_err());
        tokio::time::advance(MINUTE).await;
        assert!(limiter.check_async("key", 1).await.is_ok());
    }

    /// Lets three calls wait, the second of which gives up. Returns when the others are released.
    async fn without_the_second(limiter: &RateLimiter) -> [Duration; 2] {
        limiter.check_async("key", 1).await.unwrap();
        let start = Instant::now();
        let mut waiters = Vec::new();
        for number in 1..4 {
            let limiter = limiter.clone();
            waiters.push(tokio::spawn(async move {
                limiter.wait_async("key", 1).await.unwrap();
                start.elapsed()
            }));
            let waits = || {
                let listed = limiters().into_iter().filter(|listed| listed.name == "without the second");
                listed.map(|listed| listed.waiting).sum::<usize>() == number
            };
            // With a backend, each call books for itself.
            for _ in 0..20 {
                tokio::task::yield_now().await;
                if waits() {
                    break;
                }
            }
        }
        let [first, second, third] = waiters.try_into().unwrap();
        second.abort();
        [first.await.unwrap(), third.await.unwrap()]
    }

    #[tokio::test(start_paused = true)]
    async fn in_memory_a_call_that_gives_up_leaves_its_turn_to_the_next() {
        let limiter = limiter("without the second", &[Limit::new(1, MINUTE)]);
        assert_eq!(without_the_second(&limiter).await.map(|at| at.as_secs()), [60, 120]);
    }

    /// As documented, there is no queue before a store, because its clock goes on by itself.
    #[tokio::test(start_paused = true)]
    async fn before_a_backend_each_call_keeps_the_time_that_it_has_booked() {
        let builder = RateLimiter::builder("booked alone").backend(Shelf::default().keeping_its_deadline());
        let limiter = builder.limit(Limit::new(1, 10 * MINUTE)).build().unwrap();
        let [first, third] = without_the_second(&limiter).await;
        assert!((9 * MINUTE..11 * MINUTE).contains(&first), "{first:?}");
        assert!((29 * MINUTE..31 * MINUTE).contains(&third), "{third:?}");
    }
}
