//! A master under sentinels: found, and found again after a failover under load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Backend, Outcome, Request};
use ratelimit_runtime::{BackendErrorKind, ExceededKind, Limit, OnBackendError, RateLimiter, RedisBackend};
use ratelimit_tests::{RECOVERY, RedisSentinel, RedisServer, SLACK};

const HOUR: Duration = Duration::from_secs(3_600);

fn take() -> Request {
    let limits = [Limit::new(2, HOUR)];
    Request::new("rl:1:{sentinel}:x", &limits, Action::Take { cost: 1, max_wait: Duration::ZERO })
}

fn admitted(backend: &RedisBackend) -> bool {
    matches!(backend.decide(&take()).unwrap().outcome, Outcome::Admitted(_))
}

fn patient(redis: &RedisSentinel) -> ratelimit_runtime::RedisBackendBuilder {
    RedisBackend::builder().sentinel("mymaster", redis.urls()).timeout(Duration::from_secs(20))
}

/// Ends the load when the test ends, however it ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_failover_under_load_is_followed() {
    let redis = RedisSentinel::start(&[], "sentinel down-after-milliseconds mymaster 400\n");
    let build = |timeout| {
        let backend = RedisBackend::builder().sentinel("mymaster", redis.urls()).timeout(timeout).build().unwrap();
        let limiter = RateLimiter::builder("failover").backend(backend).on_backend_error(OnBackendError::Deny);
        limiter.limit(Limit::new(1_000_000, HOUR)).build().unwrap()
    };
    let (patient, limiter) = (build(Duration::from_secs(20)), build(Duration::from_millis(100)));
    patient.check("a", 1).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        for thread in 0..4 {
            let (limiter, stop) = (&limiter, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let result = match thread % 2 {
                        0 => limiter.check(thread, 1),
                        _ => futures_executor::block_on(limiter.check_async(thread, 1)),
                    };
                    assert!(start.elapsed() < Duration::from_millis(100) + SLACK, "{:?}", start.elapsed());
                    if let Err(error) = result {
                        assert_eq!(error.kind(), ExceededKind::BackendFailed);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        redis.servers[0].freeze();
        redis.wait_for_failover();
        let promoted = Instant::now();
        // Blocking and async, and many in a row: the new master decides.
        for key in 0..10_u32 {
            while limiter.check(key, 1).is_err() || futures_executor::block_on(limiter.check_async(key, 1)).is_err() {
                assert!(promoted.elapsed() < RECOVERY + SLACK, "the new master is not used");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // The old master comes back as a replica. Calls that still reach it are refused, and find
        // the new one.
        redis.servers[0].thaw();
        std::thread::sleep(Duration::from_millis(500));
        for key in 100..120_u32 {
            let until = Instant::now() + RECOVERY + SLACK;
            while limiter.check(key, 1).is_err() {
                assert!(Instant::now() < until, "the master is not used after the old one came back");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    assert!(redis.servers[1].calls_of("evalsha") > 30);
}

#[test]
fn a_master_that_stood_still_for_a_moment_is_used_again() {
    let redis = RedisSentinel::start(&[], "");
    let backend = RedisBackend::builder().sentinel("mymaster", redis.urls()).build().unwrap();
    let limiter = RateLimiter::builder("stopped").backend(backend).on_backend_error(OnBackendError::Deny);
    let limiter = limiter.limit(Limit::new(1_000_000, HOUR)).build().unwrap();
    let both = || limiter.check("a", 1).is_ok() && futures_executor::block_on(limiter.check_async("a", 1)).is_ok();
    for _ in 0..2 {
        let since = Instant::now();
        while !both() {
            assert!(since.elapsed() < RECOVERY + SLACK, "the master is not used again");
            std::thread::sleep(Duration::from_millis(5));
        }
        redis.servers[0].freeze();
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            let start = Instant::now();
            assert!(!both());
            assert!(start.elapsed() < Duration::from_millis(200) + SLACK, "{:?}", start.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        redis.servers[0].thaw();
    }
}

#[test]
fn a_master_that_is_one_no_more_is_left_without_a_failed_call() {
    let redis = RedisSentinel::start(&[], "");
    let backend = patient(&redis).build().unwrap();
    assert!(admitted(&backend));
    futures_executor::block_on(backend.decide_async(&take()).unwrap()).unwrap();
    redis::cmd("SENTINEL").arg("FAILOVER").arg("mymaster").exec(&mut redis.sentinels[0].connection()).unwrap();
    redis.wait_for_failover();
    // The permits were replicated. No call fails, whatever the old master still reports.
    for _ in 0..50 {
        assert!(!admitted(&backend));
        futures_executor::block_on(backend.decide_async(&take()).unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_failover_by_hand_is_followed_though_the_sentinels_name_the_old_master() {
    let redis = RedisSentinel::start(&[], "");
    let backend = patient(&redis).build().unwrap();
    assert!(admitted(&backend));
    redis.hand_over(0, 1);
    let since = Instant::now();
    let is_decided = || {
        backend.decide(&take()).is_ok() && futures_executor::block_on(backend.decide_async(&take()).unwrap()).is_ok()
    };
    while !is_decided() {
        assert!(since.elapsed() < RECOVERY + SLACK, "the new master is not found");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_sentinel_that_is_gone_or_hangs_is_passed_over() {
    let redis = RedisSentinel::start(&[], "");
    redis.sentinels[0].kill();
    redis.sentinels[1].freeze();
    for _ in 0..4 {
        let backend = patient(&redis).build().unwrap();
        backend.decide(&take()).unwrap();
    }
    redis.sentinels[1].thaw();
}

#[test]
fn sentinels_and_servers_have_logins_and_databases_of_their_own() {
    let redis = RedisSentinel::start(
        &["--requirepass", "s3cret", "--masterauth", "s3cret"],
        "sentinel auth-pass mymaster s3cret\n",
    );
    for sentinel in &redis.sentinels {
        let rules = ["on", ">watch", "~*", "+sentinel|get-master-addr-by-name"];
        redis::cmd("ACL").arg("SETUSER").arg("app").arg(&rules).exec(&mut sentinel.connection()).unwrap();
    }
    let urls: Vec<String> =
        redis.sentinels.iter().map(|sentinel| format!("redis://app:watch@127.0.0.1:{}", sentinel.port())).collect();
    let builder = RedisBackend::builder().sentinel("mymaster", urls).timeout(Duration::from_secs(20));
    let backend = builder.clone().password("s3cret").database(3).build().unwrap();
    assert!(admitted(&backend));
    let mut connection = redis::Client::open(format!("redis://:s3cret@127.0.0.1:{}/3", redis.servers[0].port()))
        .and_then(|client| client.get_connection())
        .unwrap();
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut connection).unwrap(), 1);
    let wrong = builder.password("wr0ng").build().unwrap();
    let error = wrong.decide(&take()).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
    assert!(!format!("{error} {wrong:?}").contains("wr0ng"));
}

#[test]
fn a_url_names_sentinels_master_and_database() {
    let redis = RedisSentinel::start(&[], "");
    let hosts: Vec<String> = redis.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
    let url = format!("redis+sentinel://{}/mymaster/2", hosts.join(","));
    let backend = RedisBackend::builder().url(url).timeout(Duration::from_secs(20)).build().unwrap();
    assert!(admitted(&backend));
    let mut connection = redis.servers[0].connection();
    redis::cmd("SELECT").arg(2).exec(&mut connection).unwrap();
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut connection).unwrap(), 1);
}

#[test]
fn a_wrong_sentinel_or_master_name_is_an_error() {
    let redis = RedisSentinel::start(&[], "");
    let other = RedisBackend::builder().sentinel("other", redis.urls()).timeout(Duration::from_secs(20)).build();
    let error = other.unwrap().decide(&take()).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
    let server = RedisServer::start();
    let none = RedisBackend::builder().sentinel("mymaster", [server.url()]).timeout(Duration::from_secs(20)).build();
    none.unwrap().decide(&take()).unwrap_err();
    for wrong in ["redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h/m/x", "redis+sentinel:///m"] {
        let error = RedisBackend::new(wrong).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Configuration, "{wrong}");
    }
    assert!(RedisBackend::builder().sentinel("", [server.url()]).build().is_err());
    assert!(RedisBackend::builder().sentinel("mymaster", [""; 0]).build().is_err());
}
