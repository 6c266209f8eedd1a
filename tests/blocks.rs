//! Blocks, pauses and bans: which calls they reach, in this process and in others.
//!
//! `conformance.rs` checks their answers over time. In Redis, another process is simulated by a
//! second backend that uses the bucket by name.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use ratelimit_runtime::backend::{Action, Answer, Backend, Deadline, IntoBackend, Request};
use ratelimit_runtime::{
    Algorithm, BackendError, BackendErrorKind, ExceededKind, Limit, MemoryBackend, RateLimitExceeded, RateLimiter,
    RedisBackend, rate_limit, test_util,
};
use ratelimit_tests::RedisServer;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// The longest that a busy machine may take for what is certain to happen.
const PATIENCE: Duration = Duration::from_secs(20);
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

type Limited = Result<(), RateLimitExceeded>;

fn limiter(name: &str, limits: &[Limit]) -> RateLimiter {
    let builder = RateLimiter::builder(name).backend(MemoryBackend::new());
    limits.iter().fold(builder, |builder, limit| builder.limit(*limit)).build().unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T, RateLimitExceeded>) -> ExceededKind {
    result.unwrap_err().kind()
}

mod in_memory {
    use super::*;

    #[test]
    fn a_block_reaches_all_limiters_of_the_name_whatever_their_limits() {
        let first = limiter("shared name", &[Limit::per_minute(5)]);
        let second = limiter("shared name", &[Limit::per_second(9), Limit::per_hour(100)]);
        let other = limiter("another name", &[Limit::per_minute(5)]);
        first.block("a", HOUR).unwrap();
        assert_eq!(kind(second.check("a", 1)), ExceededKind::Blocked);
        assert!(second.check("b", 1).is_ok() && other.check("a", 1).is_ok());
        second.unblock("a").unwrap();
        assert!(first.check("a", 1).is_ok());
    }

    #[rate_limit(count = 9, per = "1m", algorithm = token_bucket, key = key, name = "used later")]
    fn used_later(key: &str) -> Limited {
        Ok(())
    }

    #[rate_limit(
        limit(count = 9, per = "1m", key = user), limit(count = 9, per = "2m", key = (user, tenant)), name = "used later"
    )]
    fn each_used_later(user: &str, tenant: u8) -> Limited {
        Ok(())
    }

    #[rate_limit(count = 9, per = "3m", key = key, name = "used later")]
    fn used_after_the_block_was_lifted(key: &str) -> Limited {
        Ok(())
    }

    #[test]
    fn a_block_reaches_limiters_of_the_name_that_are_first_used_later() {
        let operators = limiter("used later", &[Limit::per_minute(5)]);
        operators.block("a", HOUR).unwrap();
        operators.block(("pair", 7_u8), HOUR).unwrap();
        assert_eq!([kind(used_later("a")), kind(each_used_later("a", 1))], [ExceededKind::Blocked; 2]);
        assert_eq!(kind(each_used_later("pair", 7)), ExceededKind::Blocked);
        assert!(used_later("b").is_ok() && each_used_later("pair", 1).is_ok());
        // Now each limit with a key of its own has a bucket.
        operators.block("c", HOUR).unwrap();
        assert_eq!(kind(each_used_later("c", 1)), ExceededKind::Blocked);
        operators.unblock("a").unwrap();
        assert!(used_later("a").is_ok() && each_used_later("a", 1).is_ok());
        assert!(used_after_the_block_was_lifted("a").is_ok());
        assert_eq!(kind(used_after_the_block_was_lifted("c")), ExceededKind::Blocked);
    }

    #[test]
    fn blocks_that_others_find_later_are_those_of_the_test() {
        let operators = limiter("used in a test", &[Limit::per_minute(5)]);
        let clock = test_util::pause();
        operators.block("a", MINUTE).unwrap();
        let within = limiter("used in a test", &[Limit::per_hour(5)]);
        assert_eq!(kind(within.check("a", 1)), ExceededKind::Blocked);
        clock.advance(MINUTE);
        assert!(limiter("used in a test", &[Limit::per_second(5)]).check("a", 1).is_ok());
        operators.block("a", MINUTE).unwrap();
        drop(clock);
        assert!(limiter("used in a test", &[Limit::new(5, 2 * MINUTE)]).check("a", 1).is_ok());
    }

    #[test]
    fn blocks_go_with_the_last_limiter_of_the_name() {
        limiter("gone", &[Limit::per_minute(5)]).block("a", HOUR).unwrap();
        assert!(limiter("gone", &[Limit::per_hour(5)]).check("a", 1).is_ok());
    }

    #[test]
    fn a_block_outlives_every_change_of_limits() {
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let limit = |algorithm: usize| Limit::per_minute(5).with_algorithm(ALGORITHMS[algorithm]);
            let limiter = limiter("changed", &[limit(from)]);
            limiter.check("a", 1).unwrap();
            limiter.block("a", HOUR).unwrap();
            limiter.set_limits(&[limit(to)]).unwrap();
            assert_eq!(kind(limiter.check("a", 1)), ExceededKind::Blocked);
            limiter.unblock("a").unwrap();
            assert!(limiter.check("a", 1).is_ok());
        }
    }

    #[test]
    fn other_limiters_are_exact_while_a_key_is_blocked() {
        let blocked = limiter("holds", &[Limit::per_minute(1)]);
        blocked.block("a", HOUR).unwrap();
        for algorithm in ALGORITHMS {
            let limit = |count| Limit::new(count, HOUR).with_algorithm(algorithm);
            for limits in [vec![limit(7)], vec![limit(100)], vec![limit(7), limit(9)]] {
                let limiter = limiter("beside", &limits);
                let count = limits[0].count() as usize;
                assert_eq!((0..200).filter(|_| by_attribute(&limiter, 5).is_ok()).count(), count);
                assert_eq!((0..200).filter(|_| unkeyed(&limiter).is_ok()).count(), count);
                assert_eq!((0..200).filter(|_| text(&limiter, "é").is_ok()).count(), count);
            }
        }
        // And so are other keys of the same limiter.
        assert_eq!((0..5).filter(|_| text(&blocked, "b").is_ok()).count(), 1);
        assert_eq!(kind(text(&blocked, "a")), ExceededKind::Blocked);
    }

    #[rate_limit(limiter = limiter, key = key, cost = 2)]
    fn two(limiter: &RateLimiter, key: &str) -> Limited {
        Ok(())
    }

    /// On the fast path, which repeats denials of a blocked key. With a test's clock, calls would
    /// take the slow path.
    #[test]
    fn each_denial_of_a_blocked_key_tells_what_its_limit_has_left() {
        for algorithm in ALGORITHMS {
            let limiter = limiter("left", &[Limit::new(9, 300 * 24 * HOUR).with_algorithm(algorithm)]);
            let reserved = limiter.check("a", 4).unwrap();
            limiter.block("a", HOUR).unwrap();
            let left = |expected: u32| {
                for _ in 0..3 {
                    let exceeded = text(&limiter, "a").unwrap_err();
                    assert_eq!((exceeded.kind(), exceeded.remaining()), (ExceededKind::Blocked, expected));
                    assert!((3_000..=3_600).contains(&exceeded.retry_after_secs().unwrap()), "{algorithm:?}");
                }
                assert_eq!(kind(two(&limiter, "a")), ExceededKind::Blocked);
            };
            left(5);
            limiter.settle(reserved, 2).unwrap();
            left(7);
            let _ = limiter.charge("a", 3).unwrap();
            left(4);
            limiter.reset("a").unwrap();
            left(9);
        }
    }

    #[test]
    fn a_denial_of_a_blocked_key_lasts_as_long_as_its_limit_denies() {
        for algorithm in ALGORITHMS {
            let limiter = limiter("both", &[Limit::new(1, 300 * 24 * HOUR).with_algorithm(algorithm)]);
            assert!(text(&limiter, "a").is_ok());
            limiter.block("a", SECOND / 10).unwrap();
            let after = |exceeded: RateLimitExceeded| exceeded.retry_after().unwrap();
            for _ in 0..3 {
                assert!(after(text(&limiter, "a").unwrap_err()) > MINUTE, "{algorithm:?}");
            }
            std::thread::sleep(SECOND / 10);
            assert_eq!(kind(text(&limiter, "a")), ExceededKind::Limited, "{algorithm:?}");
        }
    }

    #[rate_limit(limiter = limiter, key = key)]
    fn by_attribute(limiter: &RateLimiter, key: u64) -> Limited {
        Ok(())
    }

    #[rate_limit(limiter = limiter, key = key)]
    fn text(limiter: &RateLimiter, key: &str) -> Limited {
        Ok(())
    }

    #[rate_limit(limiter = limiter)]
    fn unkeyed(limiter: &RateLimiter) -> Limited {
        Ok(())
    }

    #[test]
    fn threads_see_a_block_as_soon_as_it_is_set() {
        for algorithm in ALGORITHMS {
            let limiter = limiter("threads", &[Limit::new(1_000_000, HOUR).with_algorithm(algorithm)]);
            std::thread::scope(|scope| {
                for thread in 0..4_u64 {
                    let limiter = &limiter;
                    scope.spawn(move || {
                        for _ in 0..200 {
                            assert!(by_attribute(limiter, thread).is_ok());
                            limiter.block(thread, HOUR).unwrap();
                            assert_eq!(kind(by_attribute(limiter, thread)), ExceededKind::Blocked);
                            limiter.unblock(thread).unwrap();
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn a_call_that_waits_moves_behind_a_block_and_goes_on_when_it_is_lifted() {
        for algorithm in ALGORITHMS {
            for keyed in [true, false] {
                let limiter = limiter("waits", &[Limit::new(1, SECOND / 20).with_algorithm(algorithm)]);
                let wait = move |limiter: &RateLimiter| {
                    if keyed { limiter.wait("a", 1).unwrap() } else { limiter.wait((), 1).unwrap() }
                };
                let set = |blocks: bool| match (keyed, blocks) {
                    (true, true) => limiter.block("a", HOUR),
                    (true, false) => limiter.unblock("a"),
                    (false, true) => limiter.block((), HOUR),
                    (false, false) => limiter.unblock(()),
                };
                let _ = wait(&limiter);
                std::thread::scope(|scope| {
                    let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| drop(wait(&limiter)))).collect();
                    set(true).unwrap();
                    std::thread::sleep(SECOND / 4);
                    // One call may have come before the block.
                    assert!(waiting.iter().filter(|thread| !thread.is_finished()).count() >= 2);
                    set(false).unwrap();
                });
            }
        }
    }

    #[tokio::test]
    async fn a_future_that_waits_is_woken_when_its_key_is_unblocked() {
        let limiter = limiter("future", &[Limit::per_second(1_000)]);
        limiter.block_async("a", HOUR).await.unwrap();
        let waiting = {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.wait_async("a", 1).await.map(|decision| decision.waited()) })
        };
        tokio::time::sleep(SECOND / 10).await;
        assert!(!waiting.is_finished());
        limiter.unblock_async("a").await.unwrap();
        let waited = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
        assert!(waited < PATIENCE);
    }

    #[tokio::test]
    async fn a_future_that_waits_goes_on_at_the_end_of_a_block() {
        let limiter = limiter("future's end", &[Limit::per_second(1_000)]);
        limiter.block("a", SECOND / 5).unwrap();
        let start = Instant::now();
        tokio::time::timeout(PATIENCE, limiter.wait_async("a", 1)).await.unwrap().unwrap();
        assert!(start.elapsed() >= SECOND / 5);
    }

    #[test]
    fn a_backend_keeps_as_many_blocks_as_buckets() {
        let backend = MemoryBackend::with_max_keys(2);
        let limiter = RateLimiter::builder("few").limit(Limit::per_minute(9)).backend(backend).build().unwrap();
        for (key, hours) in [("a", 3), ("b", 1), ("c", 2)] {
            limiter.block(key, hours * HOUR).unwrap();
        }
        assert_eq!(["a", "b", "c"].map(|key| limiter.blocked(key).unwrap().is_some()), [true, false, true]);
    }

    #[test]
    fn a_dry_run_denies_no_blocked_call() {
        let limiter = RateLimiter::builder("dry").limit(Limit::per_minute(9)).dry_run().build().unwrap();
        limiter.block("a", HOUR).unwrap();
        assert!(limiter.check("a", 1).is_ok());
        assert_eq!(kind(limiter.peek("a", 1)), ExceededKind::Blocked);
    }

    #[test]
    fn a_denial_says_that_the_key_is_blocked() {
        let limiter = limiter("says", &[Limit::per_minute(9)]);
        limiter.block("a", 90 * SECOND).unwrap();
        let exceeded = limiter.check("a", 1).unwrap_err();
        assert_eq!((exceeded.http_status(), exceeded.retry_after_secs()), (429, Some(90)));
        assert!(exceeded.to_string().starts_with("further calls are blocked"), "{exceeded}");
    }
}

/// A store that answers nothing.
struct Broken;

impl Backend for Broken {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        Err(BackendError::new(BackendErrorKind::Unreachable, "away"))
    }
}

#[test]
fn while_the_backend_fails_this_processes_stand_in_is_blocked() {
    let limiter = RateLimiter::builder("broken").limit(Limit::per_minute(9)).backend(Broken).build().unwrap();
    assert!(limiter.block("a", HOUR).is_err());
    assert_eq!(kind(limiter.check("a", 1)), ExceededKind::Blocked);
    assert!(limiter.check("b", 1).is_ok());
    assert!(limiter.blocked("a").is_err());
    assert!(limiter.unblock("a").is_err());
    assert!(limiter.check("a", 1).is_ok());
}

mod by_attribute {
    use super::*;

    #[rate_limit(count = 2, per = "1s", key = user, ban = "10s")]
    fn log_in(user: &str) -> Limited {
        Ok(())
    }

    #[test]
    fn a_ban_begins_with_the_first_denial() {
        let clock = test_util::pause();
        assert!(log_in("a").is_ok() && log_in("a").is_ok());
        assert_eq!([kind(log_in("a")), kind(log_in("a"))], [ExceededKind::Limited, ExceededKind::Blocked]);
        assert!(log_in("b").is_ok());
        clock.advance(10 * SECOND - Duration::from_nanos(1));
        assert_eq!(kind(log_in("a")), ExceededKind::Blocked);
        clock.advance(Duration::from_nanos(1));
        assert!(log_in("a").is_ok());
    }

    #[derive(Debug)]
    enum Trouble {
        Limited(RateLimitExceeded),
        Busy(Duration),
    }

    impl From<RateLimitExceeded> for Trouble {
        fn from(exceeded: RateLimitExceeded) -> Trouble {
            Trouble::Limited(exceeded)
        }
    }

    impl Trouble {
        fn kind(&self) -> Option<ExceededKind> {
            if let Trouble::Limited(exceeded) = self { Some(exceeded.kind()) } else { None }
        }

        fn retry_after(outcome: &Result<u32, Trouble>) -> Option<Duration> {
            if let Err(Trouble::Busy(after)) = outcome { Some(*after) } else { None }
        }
    }

    fn upstream(busy: Option<u64>) -> Result<u32, Trouble> {
        busy.map_or(Ok(7), |secs| Err(Trouble::Busy(Duration::from_secs(secs))))
    }

    #[rate_limit(count = 9, per = "1s", key = host, pause_when = Trouble::retry_after)]
    fn fetch(host: String, busy: Option<u64>) -> Result<u32, Trouble> {
        drop(host);
        upstream(busy)
    }

    #[rate_limit(
        count = 9, per = "1s", key = host, pause_when = Trouble::retry_after, exempt_when = host == "x"
    )]
    async fn fetch_async(host: &str, busy: Option<u64>) -> Result<u32, Trouble> {
        tokio::task::yield_now().await;
        upstream(busy)
    }

    #[test]
    fn an_outcome_pauses_the_key_of_its_call() {
        let clock = test_util::pause();
        let call = |host: &str, busy| fetch(host.to_owned(), busy);
        assert_eq!(call("a", None).unwrap(), 7);
        assert!(matches!(call("a", Some(30)), Err(Trouble::Busy(_))));
        let paused = call("a", None).unwrap_err();
        assert_eq!(paused.kind(), Some(ExceededKind::Blocked));
        assert!(call("b", None).is_ok());
        clock.advance(30 * SECOND);
        assert!(call("a", None).is_ok());
        // An upstream cannot choose an unbounded time.
        assert!(call("a", Some(u64::MAX)).is_err());
        clock.advance(HOUR - Duration::from_nanos(1));
        assert!(call("a", None).is_err());
        clock.advance(Duration::from_nanos(1));
        assert!(call("a", None).is_ok());
    }

    fn is_send<T: Send>(future: T) -> T {
        future
    }

    #[tokio::test]
    async fn a_futures_outcome_pauses_the_key_of_its_call() {
        let clock = test_util::pause();
        assert!(is_send(fetch_async("a", Some(30))).await.is_err());
        assert_eq!(fetch_async("a", None).await.unwrap_err().kind(), Some(ExceededKind::Blocked));
        // An exempt call pauses nobody.
        assert!(fetch_async("x", Some(30)).await.is_err());
        assert!(fetch_async("x", None).await.is_ok() && fetch_async("b", None).await.is_ok());
        clock.advance(30 * SECOND);
        assert!(fetch_async("a", None).await.is_ok());
    }

    struct Client {
        limiter: RateLimiter,
        host: String,
    }

    impl Client {
        #[rate_limit(
            limiter = self.limiter,
            key = self.host,
            pause_when = Trouble::retry_after,
            pause_max = "2h",
            deduct_when = Result::is_ok,
        )]
        fn get(&mut self, busy: Option<u64>) -> Result<u32, Trouble> {
            self.host.push('x');
            self.host.pop();
            upstream(busy)
        }

        #[rate_limit(
            limiter = self.limiter,
            key = self.host,
            pause_when = Trouble::retry_after,
            deduct_when = Result::is_ok,
        )]
        async fn get_async(&self, busy: Option<u64>) -> Result<u32, Trouble> {
            upstream(busy)
        }
    }

    #[tokio::test]
    async fn an_outcome_may_pause_the_key_and_give_the_permit_back() {
        let clock = test_util::pause();
        let mut client = Client { limiter: limiter("client", &[Limit::per_hour(1)]), host: "h".to_owned() };
        assert!(client.get(Some(u64::MAX)).is_err());
        assert_eq!(client.limiter.blocked("h").unwrap(), Some(2 * HOUR));
        clock.advance(2 * HOUR);
        assert!(client.get_async(Some(3)).await.is_err());
        clock.advance(3 * SECOND);
        assert!(client.get(None).is_ok(), "the permits came back");
        assert_eq!(client.get(None).unwrap_err().kind(), Some(ExceededKind::Limited));
    }

    #[rate_limit(count = 9, per = "1m", key = host, name = "paused", pause_when = Trouble::retry_after)]
    fn named(host: String, meanwhile: impl FnOnce(), busy: u64) -> Result<u32, Trouble> {
        drop(host);
        meanwhile();
        upstream(Some(busy))
    }

    #[test]
    fn a_pause_reaches_limiters_of_the_name_that_are_first_used_later() {
        let clock = test_util::pause();
        let before = limiter("paused", &[Limit::per_second(5)]);
        let during = limiter("paused", &[Limit::per_hour(6)]);
        assert!(before.check("a", 1).is_ok());
        assert!(named("a".to_owned(), || drop(during.check("b", 1)), 60).is_err());
        let long = "a key that is longer than most keys are";
        assert!(named(long.to_owned(), || (), 60).is_err());
        let after = limiter("paused", &[Limit::per_day(7)]);
        for limiter in [&before, &during, &after] {
            assert_eq!([kind(limiter.check("a", 1)), kind(limiter.check(long, 1))], [ExceededKind::Blocked; 2]);
            assert!(limiter.check("b", 1).is_ok());
        }
        clock.advance(60 * SECOND);
        assert!(after.check("a", 1).is_ok());
    }

    #[rate_limit(count = 9, per = "1s", name = "all paused", pause_when = |number| (*number > 1).then_some(SECOND),
        or_else = |_| 0)]
    fn named_without_a_key(number: u32) -> u32 {
        number
    }

    #[test]
    fn a_pause_without_a_key_reaches_limiters_of_the_name_too() {
        let _clock = test_util::pause();
        assert_eq!(named_without_a_key(2), 2);
        assert_eq!(kind(limiter("all paused", &[Limit::per_minute(5)]).check((), 1)), ExceededKind::Blocked);
    }

    #[rate_limit(count = 9, per = "1s", pause_when = |number| (*number > 1).then_some(SECOND), or_else = |_| 0)]
    fn unkeyed(number: u32) -> u32 {
        number
    }

    #[test]
    fn without_a_key_the_whole_function_is_paused() {
        let clock = test_util::pause();
        assert_eq!([unkeyed(1), unkeyed(2), unkeyed(1)], [1, 2, 0]);
        clock.advance(SECOND);
        assert_eq!(unkeyed(1), 1);
    }
}

mod in_redis {
    use super::*;

    fn backend(server: &RedisServer) -> RedisBackend {
        RedisBackend::builder().url(server.url()).timeout(PATIENCE).build().unwrap()
    }

    /// Each test uses its own name, because a block reaches all limiters of a name.
    fn limiter(name: &str, backend: impl IntoBackend, limit: Limit) -> RateLimiter {
        RateLimiter::builder(name).limit(limit).backend(backend).build().unwrap()
    }

    /// Another process's action on the only bucket.
    fn elsewhere(server: &RedisServer, limit: Limit, action: Action) -> Answer {
        let mut connection = server.connection();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        let [bucket] = &keys[..] else { panic!("one bucket: {keys:?}") };
        backend(server).decide(&Request::new(bucket.as_str(), &[limit], action)).unwrap()
    }

    #[test]
    fn a_kept_denial_hides_no_unblock() {
        let server = RedisServer::start();
        let limiter = limiter("a kept denial hides no unblock", backend(&server), Limit::per_minute(5));
        for _ in 0..3 {
            limiter.block("a", HOUR).unwrap();
            let calls = server.calls_of("evalsha");
            for _ in 0..50 {
                assert_eq!(kind(limiter.check("a", 1)), ExceededKind::Blocked);
            }
            assert!(server.calls_of("evalsha") - calls < 10, "denials are kept");
            limiter.unblock("a").unwrap();
            assert!(limiter.check("a", 1).is_ok());
        }
    }

    #[test]
    fn a_block_reaches_limiters_of_the_name_that_are_first_used_later() {
        let server = RedisServer::start();
        let name = "a block reaches later ones";
        let operators = limiter(name, backend(&server), Limit::per_minute(5));
        operators.block("a", HOUR).unwrap();
        operators.block("b", HOUR).unwrap();
        let later = limiter(name, backend(&server), Limit::per_hour(5));
        assert_eq!(kind(later.check("a", 1)), ExceededKind::Blocked);
        assert!(later.blocked("b").unwrap().unwrap() > HOUR - MINUTE);
        assert!(later.check("c", 1).is_ok());
        operators.unblock("a").unwrap();
        assert!(later.check("a", 1).is_ok());
        // Blocks are repeated only once: a block lifted by another process stays lifted.
        let keys = || -> BTreeSet<String> { redis::cmd("KEYS").arg("*").query(&mut server.connection()).unwrap() };
        let (before, limit) = (keys(), Limit::per_second(9).with_algorithm(Algorithm::TokenBucket));
        let latest = limiter(name, backend(&server), limit);
        assert_eq!(kind(block_on(latest.check_async("b", 1))), ExceededKind::Blocked);
        let after = keys();
        let [bucket] = after.difference(&before).collect::<Vec<_>>()[..] else { panic!("{after:?}") };
        backend(&server).decide(&Request::new(bucket.as_str(), &[limit], Action::Unblock)).unwrap();
        assert!(latest.check("c", 1).is_ok());
        assert!(latest.blocked("b").unwrap().is_none());
    }

    #[rate_limit(limiter = *limiter, key = host, pause_when = |()| Some(HOUR), or_else = |_| ())]
    fn fetch(limiter: &RateLimiter, host: &str) {}

    #[test]
    fn a_pause_reaches_limiters_of_the_name_that_are_first_used_later() {
        let server = RedisServer::start();
        let upstream = limiter("paused in Redis", backend(&server), Limit::per_minute(5));
        fetch(&upstream, "a");
        let later = limiter("paused in Redis", backend(&server), Limit::per_hour(5));
        assert_eq!(kind(later.check("a", 1)), ExceededKind::Blocked);
        assert!(later.check("b", 1).is_ok());
    }

    /// Holds each request without a waiting caller until the test releases it.
    struct Gate {
        redis: RedisBackend,
        both: Barrier,
    }

    impl Backend for Gate {
        fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
            self.redis.decide(request)
        }

        fn decide_later(&self, request: Request) {
            self.both.wait();
            self.both.wait();
            self.redis.decide_later(request);
        }

        fn deadline(&self) -> Deadline {
            Deadline::Kept
        }
    }

    #[test]
    fn an_unblock_follows_a_block_that_a_first_call_repeats() {
        let server = RedisServer::start();
        let name = "an unblock follows a repeated block";
        let operators = limiter(name, backend(&server), Limit::per_minute(5));
        operators.block("a", HOUR).unwrap();
        let gate = Arc::new(Gate { redis: backend(&server), both: Barrier::new(2) });
        let later = limiter(name, Arc::clone(&gate), Limit::per_hour(5));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| later.check("b", 1));
            gate.both.wait();
            let unblock = scope.spawn(|| operators.unblock("a"));
            // Time to overtake the block.
            std::thread::sleep(SECOND / 5);
            gate.both.wait();
            assert!(first.join().unwrap().is_ok() && unblock.join().unwrap().is_ok());
        });
        assert!(later.check("a", 1).is_ok());
    }

    #[test]
    fn another_process_learns_of_a_block_and_its_end() {
        let (server, limit) = (RedisServer::start(), Limit::per_minute(5));
        let limiter = limiter("another process learns of a block", backend(&server), limit);
        limiter.check("a", 1).unwrap();
        elsewhere(&server, limit, Action::Block { time: HOUR });
        assert_eq!(kind(limiter.check("a", 1)), ExceededKind::Blocked);
        assert!(limiter.blocked("a").unwrap().unwrap() > HOUR - MINUTE);
        elsewhere(&server, limit, Action::Unblock);
        let start = Instant::now();
        while limiter.check("a", 1).is_err() {
            assert!(start.elapsed() < PATIENCE);
            std::thread::sleep(SECOND / 50);
        }
        // Even on a slow machine, not much more than the second for which a denial is cached.
        assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    }

    #[test]
    fn a_key_that_is_only_blocked_expires_with_its_block() {
        let server = RedisServer::start();
        let limiter = limiter("a key that is only blocked", backend(&server), Limit::per_minute(5));
        limiter.block("a", 2 * MINUTE).unwrap();
        let mut connection = server.connection();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        let left: u64 = redis::cmd("PTTL").arg(&keys).query(&mut connection).unwrap();
        // Plus a record's usual slack: half of its time, at most a minute.
        assert!((120_000..=181_000).contains(&left), "{left}");
        limiter.check("b", 1).unwrap();
        limiter.block("b", HOUR).unwrap();
        limiter.unblock("a").unwrap();
        limiter.unblock("b").unwrap();
        // Records are kept as long as they count, and nothing else is kept.
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        assert_eq!(keys.len(), 1);
        let left: u64 = redis::cmd("PTTL").arg(&keys).query(&mut connection).unwrap();
        assert!((50_000..=95_000).contains(&left), "{left}");
        assert_eq!(limiter.peek("b", 1).unwrap().remaining(), 4);
    }

    #[test]
    fn a_lease_ends_with_a_block() {
        let (server, limit) = (RedisServer::start(), Limit::per_hour(100_000));
        let builder = RedisBackend::builder().url(server.url()).timeout(PATIENCE).lease(1_000, 10 * SECOND);
        let limiter = limiter("a lease ends with a block", builder.build().unwrap(), limit);
        let spend = || (0..500).all(|_| limiter.check("a", 1).is_ok());
        assert!(spend());
        limiter.block("a", HOUR).unwrap();
        assert_eq!(kind(limiter.check("a", 1)), ExceededKind::Blocked, "at once in this process");
        limiter.unblock("a").unwrap();
        assert!(spend());
        elsewhere(&server, limit, Action::Block { time: HOUR });
        std::thread::sleep(SECOND + SECOND / 10);
        assert_eq!(kind(limiter.check("a", 1)), ExceededKind::Blocked, "within a second in another");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn calls_that_wait_move_behind_a_block_of_another_process() {
        let (server, limit) = (RedisServer::start(), Limit::new(1, 3 * SECOND));
        let limiter = limiter("calls that wait move behind a", backend(&server), limit);
        limiter.check("a", 1).unwrap();
        let waiting = |limiter: &RateLimiter| {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.wait_async("a", 1).await })
        };
        let first = waiting(&limiter);
        tokio::time::sleep(SECOND / 5).await;
        elsewhere(&server, limit, Action::Block { time: HOUR });
        tokio::time::sleep(4 * SECOND).await;
        assert!(!first.is_finished());
        elsewhere(&server, limit, Action::Unblock);
        let start = Instant::now();
        tokio::time::timeout(PATIENCE, first).await.unwrap().unwrap().unwrap();
        assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
        // In this process, at once.
        let second = waiting(&limiter);
        tokio::time::sleep(SECOND / 5).await;
        limiter.block_async("a", HOUR).await.unwrap();
        tokio::time::sleep(4 * SECOND).await;
        assert!(!second.is_finished());
        limiter.unblock_async("a").await.unwrap();
        tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap().unwrap();
    }

    #[test]
    fn limiters_of_the_name_with_other_limits_are_blocked_in_this_process() {
        let server = RedisServer::start();
        let backend = Arc::new(backend(&server));
        let make =
            |limit| RateLimiter::builder("namesakes").limit(limit).backend(Arc::clone(&backend)).build().unwrap();
        let (first, second) = (make(Limit::per_minute(5)), make(Limit::per_hour(5)));
        first.block("a", HOUR).unwrap();
        assert_eq!(kind(second.check("a", 1)), ExceededKind::Blocked);
        second.unblock("a").unwrap();
        assert!(first.check("a", 1).is_ok());
    }
}
