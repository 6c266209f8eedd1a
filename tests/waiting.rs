//! Waiting for permits: booked in the order of arrival, on virtual time.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ratelimit_runtime::{Algorithm, ExceededKind, Limit, RateLimiter, test_util};
use tokio::task::LocalSet;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn limiter(name: &str, limits: &[Limit]) -> RateLimiter {
    limits.iter().fold(RateLimiter::builder(name), |builder, limit| builder.limit(*limit)).build().unwrap()
}

/// Lets `waiters` wait for a permit each, in order; every task whose index `cancelled` names is dropped before time goes
/// on. Returns who was released when.
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
            // A few tasks are polled each time; all of them are to book before any gives up.
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

/// Polls a future once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
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
    use ratelimit_runtime::{RateLimitExceeded, rate_limit};

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
}
