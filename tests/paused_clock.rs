//! A test's clock: which clock calls use, and that each test has buckets of its own.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use ratelimit_runtime::{Algorithm, Decision, Limit, RateLimitExceeded, RateLimiter, rate_limit, test_util};
use ratelimit_tests::ALGORITHMS;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

#[rate_limit(count = 1, per = "1m")]
async fn send() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 1, per = "1m", wait)]
async fn send_in_turn() {}

#[rate_limit(count = 1, per = "1m", wait)]
fn send_blocking() {}

/// Two tests of one function, which must not disturb each other.
mod by_tokios_clock {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_is_admitted_once_the_clock_is_advanced() {
        let _clock = test_util::pause();
        assert!(send().await.is_ok());
        assert!(send().await.is_err());
        tokio::time::advance(MINUTE + SECOND).await;
        assert!(send().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_test_has_buckets_of_its_own() {
        let _clock = test_util::pause();
        assert!(send().await.is_ok());
        assert!(send().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_wait_take_the_time_that_they_should() {
        let _clock = test_util::pause();
        let start = tokio::time::Instant::now();
        for _ in 0..3 {
            send_in_turn().await;
        }
        assert_eq!(start.elapsed(), 2 * MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_waits_moves_the_limits_clock_on() {
        let clock = test_util::pause();
        let start = clock.now();
        for _ in 0..3 {
            send_blocking();
        }
        assert_eq!(clock.now().since(start), 2 * MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limits_clock_can_be_advanced_by_itself() {
        let clock = test_util::pause();
        send_in_turn().await;
        let waiting = tokio::spawn(send_in_turn());
        tokio::task::yield_now().await;
        clock.advance(MINUTE);
        let start = tokio::time::Instant::now();
        waiting.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn pause_finds_a_runtime_clock_paused_later() {
        tokio::time::pause();
        let _clock = test_util::pause();
        send_in_turn().await;
        send_in_turn().await;
    }

    #[tokio::test(start_paused = true)]
    async fn another_thread_sees_the_runtimes_clock() {
        let clock = test_util::pause();
        let handle = clock.handle();
        let (before, now) = (clock.now(), || {
            let handle = handle.clone();
            let seen = std::thread::spawn(move || {
                let _entered = handle.enter();
                let limiter = RateLimiter::builder("another thread").limit(Limit::new(1, MINUTE)).build().unwrap();
                limiter.check((), 1).unwrap();
                handle.now()
            });
            seen.join().unwrap()
        });
        assert_eq!(now(), before);
        tokio::time::advance(MINUTE).await;
        assert_eq!(now().since(before), MINUTE);
    }
}

/// Tests that have paused tokio's clock, and nothing else: futures go by it, and blocking calls by the
/// monotonic clock.
mod by_tokios_clock_alone {
    use super::*;

    /// What follows the decision on a call for one permit.
    #[derive(Clone, Copy, Debug)]
    enum Then {
        Refund,
        RefundAsync,
        /// Settled as a call of this cost.
        Settle(u32),
        SettleAsync(u32),
        SettleLater(u32),
    }

    impl Then {
        async fn follow(self, limiter: &RateLimiter, decision: Decision) {
            match self {
                Then::Refund => limiter.refund(decision).unwrap(),
                Then::RefundAsync => limiter.refund_async(decision).await.unwrap(),
                Then::Settle(actual) => limiter.settle(decision, actual).unwrap(),
                Then::SettleAsync(actual) => limiter.settle_async(decision, actual).await.unwrap(),
                Then::SettleLater(actual) => limiter.settle_later(decision, actual),
            }
        }
    }

    const BACK: [Then; 5] =
        [Then::Refund, Then::RefundAsync, Then::Settle(0), Then::SettleAsync(0), Then::SettleLater(0)];
    const BEYOND: [Then; 3] = [Then::Settle(3), Then::SettleAsync(3), Then::SettleLater(3)];

    #[tokio::test(start_paused = true)]
    async fn permits_come_back_by_the_clock_that_they_were_taken_by() {
        tokio::time::advance(3_600 * SECOND).await;
        let kinds = ALGORITHMS.into_iter().flat_map(|algorithm| BACK.map(|then| (algorithm, then)));
        for (algorithm, then) in kinds {
            // No edge of a fixed window lies within the hour.
            let per = if algorithm == Algorithm::FixedWindow { 366 * DAY } else { MINUTE };
            for (is_async, is_keyed) in [(true, true), (true, false), (false, true), (false, false)] {
                let name = format!("{algorithm:?} {then:?} async: {is_async}, keyed: {is_keyed}");
                let limit = Limit::new(1, per).with_algorithm(algorithm);
                let limiter = RateLimiter::builder(&*name).limit(limit).build().unwrap();
                for _ in 0..3 {
                    let decided = match (is_async, is_keyed) {
                        (true, true) => limiter.check_async("a", 1).await,
                        (true, false) => limiter.check_async((), 1).await,
                        (false, true) => limiter.check("a", 1),
                        (false, false) => limiter.check((), 1),
                    };
                    then.follow(&limiter, decided.unwrap_or_else(|exceeded| panic!("{name}: {exceeded}"))).await;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_overrun_is_charged_by_the_clock_of_its_call() {
        tokio::time::advance(3_600 * SECOND).await;
        for (then, is_async) in BEYOND.into_iter().flat_map(|then| [(then, true), (then, false)]) {
            let limit = Limit::new(1, MINUTE);
            let limiter = RateLimiter::builder(format!("beyond {then:?} {is_async}")).limit(limit).build().unwrap();
            let check = async || if is_async { limiter.check_async("a", 1).await } else { limiter.check("a", 1) };
            then.follow(&limiter, check().await.unwrap()).await;
            // Two minutes of debt, and a minute for the permit.
            let retry_after = check().await.unwrap_err().retry_after().unwrap();
            assert!((170 * SECOND..=180 * SECOND).contains(&retry_after), "{then:?} {is_async}: {retry_after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_attribute_gives_back_by_the_clock_of_its_call() {
        #[rate_limit(count = 1, per = "1m", algorithm = token_bucket, deduct_when = |_| false)]
        async fn unkeyed() -> Option<()> {
            Some(())
        }

        #[rate_limit(count = 1, per = "1m", algorithm = token_bucket, key = user, deduct_when = |_| false)]
        async fn keyed(user: u8) -> Option<u8> {
            Some(user)
        }

        #[rate_limit(count = 1, per = "1m", algorithm = token_bucket, settle = |_| 0)]
        async fn settled() -> Option<()> {
            Some(())
        }

        tokio::time::advance(3_600 * SECOND).await;
        for _ in 0..3 {
            assert_eq!((unkeyed().await, keyed(1).await, settled().await), (Some(()), Some(1), Some(())));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_lets_a_waiting_future_go_by_its_clock() {
        let limiter = RateLimiter::builder("reset by tokio").limit(Limit::new(1, MINUTE)).build().unwrap();
        tokio::time::advance(3_600 * SECOND).await;
        limiter.check_async("a", 1).await.unwrap();
        let mut waiting = pin!(limiter.wait_async("a", 1));
        assert!(poll(waiting.as_mut()).is_pending());
        limiter.reset_async("a").await.unwrap();
        waiting.await.unwrap();
        assert!(limiter.check_async("a", 1).await.is_err(), "the permit counts as taken an hour ago");
    }
}

#[tokio::test]
async fn without_a_paused_runtime_the_clock_stands_still() {
    let clock = test_util::pause();
    assert!(send().await.is_ok());
    assert!(send().await.is_err());
    clock.advance(MINUTE);
    assert!(send().await.is_ok());
}

#[tokio::test]
async fn a_future_that_the_test_waits_for_goes_on_by_itself() {
    let clock = test_util::pause();
    let start = clock.now();
    for _ in 0..10 {
        send_in_turn().await;
    }
    assert_eq!(clock.now().since(start), 9 * MINUTE);
}

#[test]
fn a_waiting_future_keeps_only_its_last_waker() {
    struct Nothing;

    impl Wake for Nothing {
        fn wake(self: Arc<Self>) {}
    }

    let clock = test_util::pause();
    let nothing = Arc::new(Nothing);
    assert!(poll(pin!(send_in_turn())).is_ready());
    let mut futures: Vec<_> = (0..2).map(|_| Box::pin(send_in_turn())).collect();
    for _ in 0..1_000 {
        // A new waker each time.
        let waker = Waker::from(Arc::clone(&nothing));
        for future in &mut futures {
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    // Each waits for its turn, for the clock, and for the end of its patience.
    assert!(Arc::strong_count(&nothing) <= 1 + 2 * 4, "{}", Arc::strong_count(&nothing));
    drop(futures);
    assert_eq!(Arc::strong_count(&nothing), 1);
    drop(clock);
}

#[test]
fn an_advance_wakes_the_future_that_waits() {
    let clock = test_util::pause();
    assert!(poll(pin!(send_in_turn())).is_ready());
    let mut waiting = pin!(send_in_turn());
    assert!(poll(waiting.as_mut()).is_pending());
    clock.advance(MINUTE - Duration::from_micros(1));
    assert!(poll(waiting.as_mut()).is_pending());
    clock.advance(Duration::from_micros(1));
    assert!(poll(waiting).is_ready());
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_test_may_begin_before_midnight_of_any_day() {
    for day in [1_200, 5_000, 20_000, 30_000] {
        for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::TokenBucket] {
            let clock = test_util::pause_at(SystemTime::UNIX_EPOCH + day * DAY - SECOND);
            assert_eq!(Duration::from_nanos(clock.now().as_nanos()), day * DAY - SECOND);
            let limit = Limit::new(2, DAY).with_algorithm(algorithm);
            let limiter = RateLimiter::builder("daily").limit(limit).build().unwrap();
            let admitted = || [(); 3].iter().filter(|()| limiter.check("a", 1).is_ok()).count();
            let unkeyed = || [(); 3].iter().filter(|()| limiter.check((), 1).is_ok()).count();
            assert_eq!((admitted(), unkeyed()), (2, 2));
            clock.advance(SECOND);
            let at_midnight = if algorithm == Algorithm::FixedWindow { 2 } else { 0 };
            assert_eq!((admitted(), unkeyed()), (at_midnight, at_midnight), "{day}, {algorithm:?}");
            clock.advance(DAY);
            assert_eq!((admitted(), unkeyed()), (2, 2), "{day}, {algorithm:?}");
        }
    }
}
