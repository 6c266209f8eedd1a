//! Limits with a key each, in Redis: one round trip, atomic on one server, exact in a cluster.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use ratelimit_runtime::{ExceededKind, Limit, OnBackendError, RateLimiter, RedisBackend, RedisBackendBuilder};
use ratelimit_tests::{Network, Proxy, RedisCluster, RedisServer, SECOND, SLACK};

const HOUR: Duration = Duration::from_secs(3_600);
const TIMEOUT: Duration = Duration::from_secs(20);

fn limiter(name: &str, counts: [u32; 3], backend: RedisBackendBuilder) -> RateLimiter {
    let builder = RateLimiter::builder(name)
        .backend(backend.timeout(TIMEOUT).build().unwrap())
        .on_backend_error(OnBackendError::Deny);
    counts.into_iter().fold(builder, |builder, count| builder.limit(Limit::new(count, HOUR))).build().unwrap()
}

fn plain(server: &RedisServer) -> RedisBackendBuilder {
    RedisBackend::builder().url(server.url())
}

#[test]
fn a_decision_on_several_keys_is_one_call_of_a_script() {
    let server = RedisServer::start();
    let limiter = limiter("one call", [2, 9, 99], plain(&server));
    limiter.check_each((1, 1, ()), 1).unwrap();
    let before = server.calls_of("evalsha");
    limiter.check_each((1, 1, ()), 1).unwrap();
    limiter.peek_each((1, 1, ()), 0).unwrap();
    futures_executor::block_on(limiter.check_each_async((2, 1, ()), 1)).unwrap();
    assert_eq!(server.calls_of("evalsha") - before, 3);
}

/// Each key of a server, and its value.
fn records(server: &RedisServer) -> BTreeMap<String, Vec<u8>> {
    let connection = &mut server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(connection).unwrap();
    let value = |key: String| (key.clone(), redis::cmd("GET").arg(key).query(connection).unwrap());
    keys.into_iter().map(value).collect()
}

#[test]
fn a_denied_call_leaves_each_record_as_it_was() {
    let server = RedisServer::start();
    let limiter = limiter("as it was", [9, 2, 99], plain(&server).denial_cache(false));
    limiter.check_each((1, 1, ()), 2).unwrap();
    let before = records(&server);
    assert_eq!(before.len(), 3);
    for user in 1..3 {
        // User 2 has no record yet.
        assert_eq!(limiter.check_each((user, 1, ()), 1).unwrap_err().limit_index(), 1);
        assert_eq!(records(&server), before);
    }
}

#[test]
fn a_key_that_holds_something_else_fails_the_call_and_charges_no_other() {
    let server = RedisServer::start();
    let limiter = limiter("other", [9, 9, 99], plain(&server));
    limiter.check_each((1, 1, ()), 1).unwrap();
    let strangers: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut server.connection()).unwrap();
    for stranger in &strangers {
        let connection = &mut server.connection();
        let before = records(&server);
        let record: Vec<u8> = redis::cmd("GETDEL").arg(stranger).query(connection).unwrap();
        () = redis::cmd("RPUSH").arg(stranger).arg("a list").query(connection).unwrap();
        assert_eq!(limiter.check_each((1, 1, ()), 1).unwrap_err().kind(), ExceededKind::BackendFailed);
        () = redis::cmd("SET").arg(stranger).arg(record).query(connection).unwrap();
        assert_eq!(records(&server), before);
    }
    assert_eq!(strangers.len(), 3);
}

#[test]
fn a_kept_denial_is_that_of_the_key_that_denied() {
    let server = RedisServer::start();
    let limiter = limiter("kept", [2, 9, 99], plain(&server));
    while limiter.check_each((1, 1, ()), 1).is_ok() {}
    let before = server.calls_of("evalsha");
    for _ in 0..100 {
        // Whatever the other keys.
        let exceeded = limiter.check_each((1, 2, ()), 1).unwrap_err();
        assert_eq!((exceeded.kind(), exceeded.limit_index()), (ExceededKind::Limited, 0));
    }
    assert!(server.calls_of("evalsha") - before <= 5, "asked once a second");
    // For another user of the same tenant, the server is asked.
    assert_eq!(limiter.check_each((2, 1, ()), 1).unwrap().remaining(), 1);
    // A refund ends it.
    limiter.reset_each((1, 1, ())).unwrap();
    assert!(limiter.check_each((1, 1, ()), 1).is_ok());
}

/// Threads of two handles, blocking and async. Every admitted call is charged to all its keys, and
/// no denied call to any.
fn hammer(backend: impl Fn() -> RedisBackendBuilder, name: &str) {
    const USERS: usize = 3;
    let counts = [90, 150, 10_000];
    let handles = [limiter(name, counts, backend()), limiter(name, counts, backend())];
    let admitted: [[AtomicU32; 2]; USERS] = Default::default();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (limiter, admitted) = (&handles[thread as usize % 2], &admitted);
            scope.spawn(move || {
                for number in 0..200_u32 {
                    let (user, tenant) = ((number + thread) % 3, number / 3 % 2);
                    let decided = if number % 2 == 0 {
                        limiter.check_each((user, tenant, ()), 1)
                    } else {
                        futures_executor::block_on(limiter.check_each_async((user, tenant, ()), 1))
                    };
                    match decided {
                        Ok(_) => _ = admitted[user as usize][tenant as usize].fetch_add(1, Ordering::Relaxed),
                        Err(exceeded) => assert_eq!(exceeded.kind(), ExceededKind::Limited, "{exceeded:?}"),
                    }
                }
            });
        }
    });
    let count = |user: usize, tenant: usize| admitted[user][tenant].load(Ordering::Relaxed);
    let of_user = |user: usize| count(user, 0) + count(user, 1);
    let of_tenant = |tenant: usize| (0..USERS).map(|user| count(user, tenant)).sum::<u32>();
    let all = of_tenant(0) + of_tenant(1);
    for user in 0..USERS {
        for tenant in 0..2 {
            let left = (90 - of_user(user)).min(150 - of_tenant(tenant));
            let keys = (u32::try_from(user).unwrap(), u32::try_from(tenant).unwrap(), ());
            let decided = handles[0].peek_each(keys, 0).unwrap().remaining();
            // Windows above 64 count a leaving group for longer, but none leaves within an hour.
            assert_eq!(decided, left, "{name}: user {user}, tenant {tenant}");
        }
    }
    // With a user who has not called, so that only the tenant's permits count.
    for tenant in 0..2_u32 {
        let left = handles[0].peek_each((9_u32, tenant, ()), 0).unwrap().remaining();
        assert_eq!(left, 90.min(150 - of_tenant(tenant as usize)), "{name}: tenant {tenant}");
    }
    assert!(all > 150, "{all}");
}

#[test]
fn on_one_server_all_keys_are_charged_or_none() {
    let server = RedisServer::start();
    hammer(|| plain(&server), "one server");
    hammer(|| plain(&server).lease(10, Duration::from_millis(50)), "one server, leasing");
}

#[test]
fn in_a_cluster_what_a_denied_call_took_is_given_back() {
    let redis = RedisCluster::start(&[]);
    hammer(|| RedisBackend::builder().cluster(redis.urls()).denial_cache(false), "cluster");
}

#[test]
fn in_a_cluster_a_decision_is_one_round_trip_a_slot() {
    let redis = RedisCluster::start(&[]);
    let limiter = limiter("slots", [1, 9, 99], RedisBackend::builder().cluster(redis.urls()));
    let calls = || redis.masters.iter().map(|master| master.calls_of("evalsha")).sum::<u64>();
    limiter.check_each((1, 1, ()), 1).unwrap();
    limiter.check_each((2, 2, ()), 1).unwrap();
    let before = calls();
    limiter.check_each((3, 3, ()), 1).unwrap();
    assert!((3..=4).contains(&(calls() - before)), "each node loads the script once");
}

#[test]
fn a_dropped_call_gives_back_what_its_answer_brings() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let limiter = limiter("dropped", [5, 5, 5], RedisBackend::builder().url(proxy.url()));
    limiter.check_each((2, 2, ()), 1).unwrap();
    proxy.set(Network::Slow(Duration::from_millis(100)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut call = pin!(limiter.check_each_async((1, 1, ()), 1));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        tokio::time::sleep(Duration::from_millis(20)).await;
    });
    proxy.set(Network::Fine);
    let until = Instant::now() + Duration::from_secs(20);
    let is_back = || limiter.peek_each((1, 1, ()), 0).is_ok_and(|decision| decision.remaining() == 4);
    while !is_back() || server.calls_of("evalsha") < 5 {
        assert!(Instant::now() < until, "it was not given back");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_that_fails_is_one_failure_for_all_keys() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let builder = RateLimiter::builder("failing")
        .backend(RedisBackend::builder().url(proxy.url()).timeout(Duration::from_millis(100)).build().unwrap());
    let limiter = builder.limit(Limit::per_hour(2)).limit(Limit::per_hour(3)).build().unwrap();
    proxy.set(Network::LosesAll);
    let start = Instant::now();
    assert_eq!((0..9).filter(|_| limiter.check_each((1, 1), 1).is_ok()).count(), 2, "its limits decide here");
    assert_eq!((0..9).filter(|_| limiter.check_each((2, 1), 1).is_ok()).count(), 1);
    assert!(start.elapsed() < SECOND + SLACK, "{:?}", start.elapsed());
}
