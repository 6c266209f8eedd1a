//! A cluster: every call finds its key's node, while slots move under load and when a master is
//! killed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Backend, Request};
use ratelimit_runtime::{
    BackendErrorKind, ExceededKind, Limit, OnBackendError, RateLimiter, RedisBackend, RedisBackendBuilder,
};
use ratelimit_tests::{RECOVERY, RedisCluster, RedisServer, SLACK};

const HOUR: Duration = Duration::from_secs(3_600);

fn backend(redis: &RedisCluster, timeout: Duration) -> RedisBackend {
    // One node is enough; it names the others.
    RedisBackend::builder().cluster([redis.urls()[2].clone()]).timeout(timeout).build().unwrap()
}

fn limiter(redis: &RedisCluster, name: &'static str, timeout: Duration, count: u32) -> RateLimiter {
    RateLimiter::builder(name)
        .backend(backend(redis, timeout))
        .on_backend_error(OnBackendError::Deny)
        .limit(Limit::new(count, HOUR))
        .build()
        .unwrap()
}

fn keys(server: &RedisServer) -> Vec<String> {
    redis::cmd("KEYS").arg("*").query(&mut server.connection()).unwrap()
}

/// Ends the load when the test ends, however it ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn every_key_is_decided_on_by_its_node() {
    let redis = RedisCluster::start(&[]);
    let limiter = limiter(&redis, "spread", Duration::from_secs(20), 2);
    for key in 0..60_u32 {
        limiter.check(key, 1).unwrap();
        futures_executor::block_on(limiter.check_async(key, 1)).unwrap();
        assert_eq!(limiter.check(key, 1).unwrap_err().kind(), ExceededKind::Limited);
    }
    let counts: Vec<usize> = redis.masters.iter().map(|master| keys(master).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 60);
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    // Each node flushes only its own scripts.
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut redis.masters[1].connection()).unwrap();
    for key in 0..60_u32 {
        assert_eq!(limiter.check(key, 1).unwrap_err().kind(), ExceededKind::Limited);
        let denied = futures_executor::block_on(limiter.check_async(key, 1));
        assert_eq!(denied.unwrap_err().kind(), ExceededKind::Limited);
    }
}

#[test]
fn slots_that_move_under_load_cost_and_give_nothing() {
    const COUNT: u32 = 6_000;
    let redis = RedisCluster::start(&[]);
    let limiter = limiter(&redis, "moving", Duration::from_secs(20), COUNT);
    limiter.check("a", 1).unwrap();
    let from = redis.masters.iter().position(|master| !keys(master).is_empty()).unwrap();
    let (from, to) = (&redis.masters[from], &redis.masters[(from + 1) % 3]);
    let key = keys(from).pop().unwrap();
    let slot = RedisCluster::slot(from, &key);
    let done = AtomicBool::new(false);
    let (admitted, asked) = std::thread::scope(|scope| {
        let ends = Ends(&done);
        let threads: Vec<_> = (0..6)
            .map(|thread| {
                let (limiter, done) = (&limiter, &done);
                scope.spawn(move || {
                    let mut admitted = 0;
                    loop {
                        let decided = match thread % 2 {
                            0 => limiter.check("a", 1),
                            _ => futures_executor::block_on(limiter.check_async("a", 1)),
                        };
                        match decided {
                            Ok(_) => admitted += 1,
                            Err(error) => {
                                assert_eq!(error.kind(), ExceededKind::Limited, "{error}");
                                if done.load(Ordering::Relaxed) {
                                    return admitted;
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(20));
        RedisCluster::open_slot(slot, from, to);
        std::thread::sleep(Duration::from_millis(20));
        let before = to.calls_of("asking");
        RedisCluster::empty_slot(slot, from, to);
        std::thread::sleep(Duration::from_millis(100));
        // The command that restores the key, and the redirected calls.
        let asked = to.calls_of("asking") - before;
        RedisCluster::assign_slot(slot, from, to);
        std::thread::sleep(Duration::from_millis(100));
        drop(ends);
        (threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>(), asked)
    });
    assert_eq!(1 + admitted, COUNT);
    assert!(asked > 1, "no call was sent on by ASK");
    // Calls that learned of the move go there at once.
    let before = from.calls_of("evalsha");
    for _ in 0..10 {
        limiter.check("a", 1).unwrap_err();
    }
    assert_eq!(from.calls_of("evalsha"), before);
}

#[test]
fn a_killed_master_costs_its_own_keys_until_another_takes_over() {
    let redis = RedisCluster::start(&["--cluster-node-timeout", "1000"]);
    let timeout = Duration::from_millis(100);
    let limiter = limiter(&redis, "killed", timeout, 1_000_000);
    let warm = self::limiter(&redis, "killed", Duration::from_secs(20), 1_000_000);
    for key in 0..60_u32 {
        warm.check(key, 1).unwrap();
    }
    let of = |server: &RedisServer| -> Vec<u32> {
        let here = keys(server);
        (0..60).filter(|key| here.iter().any(|name| name.contains(&format!(":{key}u32}}")))).collect()
    };
    let (lost, kept) = (of(&redis.masters[0]), of(&redis.masters[1]));
    assert!(!lost.is_empty() && !kept.is_empty());
    let bounded = |key: u32| {
        let start = Instant::now();
        let blocking = limiter.check(key, 1);
        let asynchronous = futures_executor::block_on(limiter.check_async(key, 1));
        assert!(start.elapsed() < 2 * (timeout + SLACK), "{:?}", start.elapsed());
        blocking.and(asynchronous)
    };
    let works = |keys: &[u32], since: Instant| {
        for key in keys {
            while bounded(*key).is_err() {
                assert!(since.elapsed() < RECOVERY + SLACK, "key {key} is not limited again");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    };
    works(&lost, Instant::now());
    redis.masters[0].kill();
    works(&kept, Instant::now());
    redis.wait_for_failover();
    works(&lost, Instant::now());
    works(&kept, Instant::now());
}

#[test]
fn a_node_that_stood_still_for_a_moment_is_used_again() {
    let redis = RedisCluster::start(&[]);
    let limiter = limiter(&redis, "stopped", Duration::from_millis(100), 1_000_000);
    // Two of three nodes always work, but all share the breaker. What matters is that no call is
    // lost.
    let all = || {
        (0..20_u32)
            .all(|key| limiter.check(key, 1).is_ok() && futures_executor::block_on(limiter.check_async(key, 1)).is_ok())
    };
    for node in [0, 2] {
        let since = Instant::now();
        while !all() {
            assert!(since.elapsed() < RECOVERY + SLACK, "a node is not used again");
            std::thread::sleep(Duration::from_millis(5));
        }
        redis.masters[node].freeze();
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            for key in 0..20_u32 {
                let start = Instant::now();
                let _ = limiter.check(key, 1);
                let _ = futures_executor::block_on(limiter.check_async(key, 1));
                assert!(start.elapsed() < Duration::from_millis(200) + SLACK, "{:?}", start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        redis.masters[node].thaw();
    }
}

#[test]
fn a_server_outside_a_cluster_is_an_error() {
    let server = RedisServer::start();
    let request = Request::new("rl:1:{a}:x", &[Limit::new(1, HOUR)], Action::Reset);
    let none = RedisBackend::builder().cluster([server.url()]).timeout(Duration::from_secs(20)).build().unwrap();
    none.decide(&request).unwrap_err();
    futures_executor::block_on(none.decide_async(&request).unwrap()).unwrap_err();
    for wrong in ["redis+cluster://", "redis+cluster://h/one", "redis+cluster://h,"] {
        let error = RedisBackend::new(wrong).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Configuration, "{wrong}");
    }
    assert!(RedisBackend::builder().cluster(["unix:///x"]).build().is_err());
}

fn request() -> Request {
    Request::new("rl:1:{database}:x", &[Limit::new(1, HOUR)], Action::Reset)
}

/// Redis, and Valkey 9 without `cluster-databases`, report that they have none.
#[test]
fn a_database_that_a_cluster_lacks_is_reported() {
    let redis = RedisCluster::start(&[]);
    let urls = redis.urls().iter().map(|url| url.replace("redis://", "")).collect::<Vec<_>>().join(",");
    let decide = |path: &str| {
        let builder = RedisBackend::builder().url(format!("redis+cluster://{urls}{path}"));
        builder.timeout(Duration::from_secs(20)).build().unwrap().decide(&request())
    };
    decide("/0").unwrap();
    let error = decide("/3").unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("no database"), "{error}");
}

/// The names of the keys in a database of all nodes.
fn keys_in(redis: &RedisCluster, database: u8) -> Vec<String> {
    let keys = |server: &RedisServer| -> Vec<String> {
        let mut connection = server.connection();
        redis::cmd("SELECT").arg(database).exec(&mut connection).unwrap();
        redis::cmd("KEYS").arg("*").query(&mut connection).unwrap()
    };
    redis.masters.iter().flat_map(keys).collect()
}

#[test]
#[ignore = "needs Valkey 9: scripts/valkey"]
fn a_database_of_a_cluster_is_apart_from_the_others() {
    let redis = RedisCluster::start(&["--cluster-databases", "16"]);
    let host = redis.urls()[0].replace("redis://", "");
    let builder = |url: String| RedisBackend::builder().url(url).timeout(Duration::from_secs(20));
    let limiter = |builder: RedisBackendBuilder| {
        let builder = RateLimiter::builder("database").backend(builder.build().unwrap());
        builder.on_backend_error(OnBackendError::Deny).limit(Limit::new(3, HOUR)).build().unwrap()
    };
    let third = limiter(builder(format!("redis+cluster://{host}/3")));
    let also_third = limiter(builder(format!("redis+cluster://{host}")).database(3));
    let default = limiter(builder(format!("redis+cluster://{host}")));
    let check = |limiter: &RateLimiter| (0..60_u32).map(|key| limiter.check(key, 1).is_ok()).collect::<Vec<_>>();
    let check_async = |limiter: &RateLimiter| {
        let calls = (0..60_u32).map(|key| futures_executor::block_on(limiter.check_async(key, 1)).is_ok());
        calls.collect::<Vec<_>>()
    };
    assert_eq!([check(&third), check_async(&third)], [[true; 60]; 2]);
    assert_eq!([keys_in(&redis, 0).len(), keys_in(&redis, 3).len()], [0, 60]);
    // Redirected calls open connections of their own.
    RedisCluster::migrate_slots(&redis.masters[1], &redis.masters[2], (5_461, 10_000));
    assert_eq!([check(&also_third), check_async(&third), check(&also_third)], [[true; 60], [false; 60], [false; 60]]);
    assert_eq!([check(&default), check_async(&default)], [[true; 60]; 2]);
    assert_eq!([keys_in(&redis, 0).len(), keys_in(&redis, 3).len()], [60, 60]);
    let error = builder(format!("redis+cluster://{host}/16")).build().unwrap().decide(&request()).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("no database"), "{error}");
}
