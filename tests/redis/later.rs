//! Changes without a waiting caller: refunds and charges go to the server with later decisions,
//! ahead of those on their bucket.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ratelimit_runtime::{Decision, ExceededKind, Limit, OnBackendError, RateLimiter, RedisBackend};
use ratelimit_tests::{RedisCluster, RedisServer};
use tokio::task::JoinSet;

const HOUR: Duration = Duration::from_secs(3_600);
/// The key of most tests.
const KEY: u32 = 1;
const TIMEOUT: Duration = Duration::from_secs(20);

fn with(backend: RedisBackend, count: u32) -> RateLimiter {
    let builder = RateLimiter::builder("later").backend(backend).on_backend_error(OnBackendError::Deny);
    builder.limit(Limit::new(count, HOUR)).build().unwrap()
}

fn limiter(server: &RedisServer, count: u32) -> RateLimiter {
    with(RedisBackend::builder().url(server.url()).timeout(TIMEOUT).build().unwrap(), count)
}

fn left(limiter: &RateLimiter, key: u32) -> u32 {
    limiter.peek(key, 1).map_or(0, |decision| decision.remaining())
}

/// Waits until another handle, which carries nothing, finds this many permits.
fn comes_to(other: &RateLimiter, key: u32, wanted: u32) {
    let start = Instant::now();
    while left(other, key) != wanted {
        assert!(start.elapsed() < TIMEOUT, "{} instead of {wanted} are left", left(other, key));
        thread::sleep(Duration::from_millis(1));
    }
}

/// The one permit of the key comes back between any two calls.
fn takes_and_returns(limiter: &RateLimiter, key: u32, calls: u32) {
    for call in 0..calls {
        let decision = limiter.check(key, 1).unwrap_or_else(|denied| panic!("call {call} on {key}: {denied:?}"));
        limiter.settle_later(decision, 0);
    }
}

#[test]
fn a_permit_that_comes_back_travels_with_the_next_call() {
    let server = RedisServer::start();
    let limiter = limiter(&server, 1);
    takes_and_returns(&limiter, KEY, 1);
    let before = server.calls_of("evalsha");
    takes_and_returns(&limiter, KEY, 500);
    let calls = server.calls_of("evalsha") - before;
    // A few pauses may end between two calls of a busy machine.
    assert!((500..750).contains(&calls), "{calls} calls of the script for 500 decisions");
}

#[test]
fn threads_find_what_each_gave_back() {
    let server = RedisServer::start();
    let limiter = limiter(&server, 1);
    thread::scope(|scope| {
        for key in 0..8 {
            let limiter = &limiter;
            scope.spawn(move || takes_and_returns(limiter, key, 300));
        }
    });
    assert!((0..8).all(|key| left(&limiter, key) == 1));
}

/// Four tasks and threads share the four permits of each key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_never_denied_what_others_gave_back() {
    let server = RedisServer::start();
    let limiter = limiter(&server, 4);
    let mut tasks = JoinSet::new();
    for task in 0..32 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            for _ in 0..200 {
                let decision = limiter.check_async(task % 10, 1).await.unwrap();
                limiter.settle_later(decision, 0);
            }
        });
    }
    tasks.join_all().await;
    let calls = server.calls_of("evalsha");
    assert!(calls < 32 * 200 / 2, "{calls} calls of the script for 6,400 decisions");
    for key in 0..10 {
        assert_eq!(limiter.peek_async(key, 1).await.unwrap().remaining(), 4);
    }
}

#[test]
fn blocking_and_async_calls_keep_the_order_of_a_bucket() {
    let server = RedisServer::start();
    let limiter = limiter(&server, 2);
    thread::scope(|scope| {
        scope.spawn(|| takes_and_returns(&limiter, KEY, 300));
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for _ in 0..300 {
                let decision = runtime.block_on(limiter.check_async(KEY, 1)).unwrap();
                limiter.settle_later(decision, 0);
            }
        });
    });
    assert_eq!(left(&limiter, KEY), 2);
}

#[test]
fn what_no_call_takes_along_is_sent_after_a_moment_in_few_calls() {
    let server = RedisServer::start();
    let (limiter, other) = (limiter(&server, 5), limiter(&server, 5));
    let decisions: Vec<Decision> = (0..100_u32).map(|key| limiter.check(key, 3).unwrap()).collect();
    let before = server.calls_of("evalsha");
    for decision in decisions {
        limiter.settle_later(decision, 1);
    }
    comes_to(&other, 99, 4);
    let calls = server.calls_of("evalsha") - before;
    assert!((0..100).all(|key| left(&other, key) == 4));
    assert!(calls < 100, "{calls} calls of the script for 100 refunds");
}

#[test]
fn a_flood_is_sent_at_once_and_nothing_is_lost() {
    let server = RedisServer::start();
    let (limiter, other) = (limiter(&server, 2_000), limiter(&server, 2_000));
    let decisions: Vec<Decision> = (0..1_000).map(|_| limiter.check(KEY, 1).unwrap()).collect();
    for (number, decision) in decisions.into_iter().enumerate() {
        // Every other call took one permit more than its cost.
        limiter.settle_later(decision, if number % 2 == 0 { 0 } else { 2 });
    }
    assert_eq!(left(&limiter, KEY), 1_000);
    comes_to(&other, KEY, 1_000);
}

/// Polls a call once and drops it.
fn give_up(call: impl Future) {
    assert!(pin!(call).poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[tokio::test]
async fn calls_that_are_given_up_lose_nothing_that_travels_with_them() {
    const ROUNDS: u32 = 20;
    let server = RedisServer::start();
    let (limiter, other) = (limiter(&server, 1_000), limiter(&server, 1_000));
    let mut decisions = Vec::new();
    for _ in 0..4 * ROUNDS {
        decisions.push(limiter.check_async(KEY, 2).await.unwrap());
    }
    // Calls are then sent twice: the server does not know the script.
    let mut connection = server.connection();
    let mut forget = || redis::cmd("SCRIPT").arg("FLUSH").exec(&mut connection).unwrap();
    let mut settle = |actual| limiter.settle_later(decisions.pop().unwrap(), actual);
    for round in 0..4 * ROUNDS {
        forget();
        match round % 4 {
            0 => {
                settle(0);
                give_up(limiter.peek_async(KEY, 1));
            }
            1 => {
                settle(1);
                give_up(limiter.blocked_async(KEY));
            }
            2 => {
                settle(5);
                give_up(limiter.charge_async(KEY, 1));
            }
            _ => {
                settle(1);
                give_up(limiter.check_async(KEY, 1));
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // In four rounds: 0 + 1 + 5 + 1, and the charge.
    tokio::task::spawn_blocking(move || comes_to(&other, KEY, 1_000 - 8 * ROUNDS)).await.unwrap();
}

#[test]
fn nothing_comes_back_after_a_reset() {
    let server = RedisServer::start();
    let limiter = limiter(&server, 3);
    let (queued, kept) = (limiter.check(KEY, 1).unwrap(), limiter.check(KEY, 1).unwrap());
    limiter.settle_later(queued, 0);
    limiter.reset(KEY).unwrap();
    limiter.check(KEY, 2).unwrap();
    limiter.settle_later(kept, 0);
    assert_eq!(left(&limiter, KEY), 1);
}

#[test]
fn a_blocked_bucket_gets_back_what_it_was_due() {
    let server = RedisServer::start();
    let limiter = limiter(&server, 3);
    let decisions = [limiter.check(KEY, 1).unwrap(), limiter.check(KEY, 1).unwrap()];
    let [before, during] = decisions;
    limiter.settle_later(before, 0);
    limiter.block(KEY, HOUR).unwrap();
    limiter.settle_later(during, 0);
    assert_eq!(limiter.check(KEY, 1).unwrap_err().kind(), ExceededKind::Blocked);
    limiter.unblock(KEY).unwrap();
    limiter.check(KEY, 3).unwrap();
    limiter.check(KEY, 1).unwrap_err();
}

#[test]
fn calls_with_several_keys_find_what_came_back_to_each() {
    let server = RedisServer::start();
    let backend = RedisBackend::builder().url(server.url()).timeout(TIMEOUT).build().unwrap();
    let builder = RateLimiter::builder("each").backend(backend).on_backend_error(OnBackendError::Deny);
    let limiter = builder.limit(Limit::new(1, HOUR)).limit(Limit::new(1, HOUR)).build().unwrap();
    limiter.check_each((1, 1), 1).map(|decision| limiter.settle_later(decision, 0)).unwrap();
    let before = server.calls_of("evalsha");
    for _ in 0..200 {
        let decision = limiter.check_each((1, 1), 1).unwrap();
        limiter.settle_later(decision, 0);
    }
    let calls = server.calls_of("evalsha") - before;
    assert!((200..300).contains(&calls), "{calls} calls of the script for 200 decisions");
}

#[test]
fn a_cluster_keeps_the_order_of_each_bucket() {
    let redis = RedisCluster::start(&[]);
    let backend = || RedisBackend::builder().cluster([redis.urls()[0].clone()]).timeout(TIMEOUT).build().unwrap();
    let (limiter, other) = (with(backend(), 1), with(backend(), 1));
    for round in 0..3 {
        for key in 0..50 {
            takes_and_returns(&limiter, key, 1 + round);
        }
    }
    (0..50).for_each(|key| comes_to(&other, key, 1));
}
