//! Redis failures: no call hangs or panics, the policy applies, and the limit is enforced again
//! afterwards.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Answer, Backend, Outcome, Request};
use ratelimit_runtime::{BackendError, BackendErrorKind, Limit, OnBackendError, RateLimiter, RedisBackend};
use ratelimit_tests::{Network, PATIENCE, Proxy, RECOVERY, RedisServer, SLACK, failures, millis};

const HOUR: Duration = Duration::from_secs(3_600);
const TIMEOUT: Duration = Duration::from_millis(100);
/// A timeout so long that most of it is left after another call's has passed.
const LONG: Duration = Duration::from_secs(3);

/// A limiter that asks Redis each time, so that failures are visible.
fn limiter(name: &str, url: &str, policy: OnBackendError, count: u32) -> RateLimiter {
    let backend = RedisBackend::builder().url(url).timeout(TIMEOUT).denial_cache(false).build().unwrap();
    RateLimiter::builder(name).backend(backend).on_backend_error(policy).limit(Limit::new(count, HOUR)).build().unwrap()
}

/// The same with a deadline for a busy machine.
fn patient(name: &str, url: &str, count: u32) -> RateLimiter {
    let backend = RedisBackend::builder().url(url).timeout(PATIENCE).denial_cache(false).build().unwrap();
    let builder = RateLimiter::builder(name).backend(backend).on_backend_error(OnBackendError::Deny);
    builder.limit(Limit::new(count, HOUR)).build().unwrap()
}

/// How many of five calls are admitted.
fn admitted(name: &str, url: &str, key: &str, count: u32) -> usize {
    let limiter = patient(name, url, count);
    (0..5).filter(|_| limiter.check(key, 1).is_ok()).count()
}

fn take() -> Request {
    let limits = [Limit::new(1, HOUR)];
    Request::new("rl:1:{failures}:x", &limits, Action::Take { cost: 1, max_wait: Duration::ZERO })
}

fn peek() -> Request {
    Request::new("rl:1:{failures}:x", &[Limit::new(1, HOUR)], Action::Peek { cost: 1, max_wait: Duration::ZERO })
}

/// Runs a call that must not hang.
fn bounded<T>(call: impl FnOnce() -> T) -> T {
    failures::bounded(TIMEOUT + SLACK, call)
}

/// Calls until Redis decides again.
fn recover(limiter: &RateLimiter) {
    let until = Instant::now() + RECOVERY + SLACK;
    while bounded(|| limiter.peek("recovery", 1)).is_err() {
        assert!(Instant::now() < until, "Redis is back, and its limits are not kept");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks the three policies, each on an unused key.
fn policies_apply(name: &str, url: &str) {
    failures::policies_apply(TIMEOUT + SLACK, |policy| limiter(name, url, policy, 2));
}

#[test]
fn a_killed_server_costs_its_limits_until_it_is_back() {
    let server = RedisServer::start();
    let limiter = limiter("killed", &server.url(), OnBackendError::Deny, 3);
    assert_eq!(admitted("killed", &server.url(), "a", 3), 3);
    recover(&limiter);
    server.kill();
    policies_apply("killed policies", &server.url());
    assert!((0..20).all(|_| bounded(|| limiter.check("a", 1)).is_err()));
    server.restart();
    recover(&limiter);
    // The server came back empty.
    assert_eq!(admitted("killed", &server.url(), "a", 3), 3);
}

#[test]
fn a_restart_between_two_calls_fails_neither() {
    let server = RedisServer::start();
    let limiter = patient("restarted", &server.url(), 3);
    limiter.peek("a", 1).unwrap();
    // The end of the connection is noticed at once, not by a call that fails.
    server.restart();
    limiter.check("a", 1).unwrap();
}

#[test]
fn a_restart_while_the_runtime_is_idle_fails_no_call() {
    let server = RedisServer::start();
    let limiter = patient("unrun", &server.url(), 100);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let call = || runtime.block_on(limiter.check_async("a", 1)).is_ok();
    assert!(call());
    for _ in 0..3 {
        server.restart();
        assert!(call());
    }
}

#[test]
fn a_frozen_server_costs_a_call_its_timeout() {
    let server = RedisServer::start();
    let limiter = limiter("frozen", &server.url(), OnBackendError::Deny, 3);
    assert_eq!(admitted("frozen", &server.url(), "a", 3), 3);
    recover(&limiter);
    server.freeze();
    policies_apply("frozen policies", &server.url());
    let start = Instant::now();
    assert!((0..5).all(|_| bounded(|| limiter.check("a", 1)).is_err()));
    assert!(start.elapsed() >= 5 * TIMEOUT, "they waited for the server");
    server.thaw();
    recover(&limiter);
    assert!(limiter.check("a", 1).is_err(), "it kept its data");
    assert_eq!(admitted("frozen", &server.url(), "b", 3), 3);
}

#[test]
fn a_future_times_out_without_a_timer_of_its_executor() {
    let server = RedisServer::start();
    let backend = RedisBackend::builder().url(server.url()).timeout(TIMEOUT).build().unwrap();
    while backend.decide(&take()).is_err() {}
    server.freeze();
    let start = Instant::now();
    let error = futures_executor::block_on(backend.decide_async(&take()).unwrap()).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Timeout);
    assert!(start.elapsed() < TIMEOUT + SLACK);
    server.thaw();
}

/// Calls that are sent together, the first with little time left and the last with much.
fn no_call_fails_at_a_strangers_deadline(call: impl Fn() -> Result<Answer, BackendError> + Sync, proxy: &Proxy) {
    // More than the connections or batches under way at a time: the others queue.
    const CALLS: usize = 8;
    std::thread::scope(|scope| {
        let calls = || -> Vec<_> { (0..CALLS).map(|_| scope.spawn(&call)).collect() };
        // All connections are open.
        proxy.set(Network::Slow(millis(90)));
        for call in calls() {
            call.join().unwrap().unwrap();
        }
        proxy.set(Network::Slow(LONG));
        let first = calls();
        std::thread::sleep(LONG * 7 / 10);
        let last = calls();
        std::thread::sleep(LONG / 10);
        // Answers those sent so far. What was queued is sent, and not yet answered.
        proxy.set(Network::Slow(2 * LONG));
        for call in first {
            drop(call.join().unwrap());
        }
        proxy.set(Network::Fine);
        for call in last {
            call.join().unwrap().unwrap();
        }
    });
}

#[test]
fn no_blocking_call_fails_at_a_strangers_deadline() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = RedisBackend::builder().url(proxy.url()).timeout(LONG).build().unwrap();
    no_call_fails_at_a_strangers_deadline(|| backend.decide(&peek()), &proxy);
}

#[test]
fn no_call_of_a_batch_fails_at_a_strangers_deadline() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    // With leases, one batch waits for another.
    let builder = RedisBackend::builder().url(proxy.url()).timeout(LONG);
    let backend = builder.lease(1, Duration::from_millis(10)).build().unwrap();
    let call = || futures_executor::block_on(backend.decide_async(&peek()).unwrap());
    no_call_fails_at_a_strangers_deadline(call, &proxy);
}

#[test]
fn a_connection_whose_packets_vanish_is_replaced() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let limiter = limiter("vanish", &proxy.url(), OnBackendError::Deny, 3);
    recover(&limiter);
    assert_eq!((0..2).filter(|_| limiter.check("a", 1).is_ok()).count(), 2);
    proxy.set(Network::LosesConnections);
    assert!(bounded(|| limiter.check("a", 1)).is_err());
    recover(&limiter);
    assert_eq!((0..3).filter(|_| limiter.check("a", 1).is_ok()).count(), 1);
    // The lost one, its replacement, and the link that notices when the server closes them.
    assert_eq!(proxy.connections(), 3);
}

#[test]
fn a_call_that_is_not_answered_was_charged_once_and_is_not_sent_again() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = RedisBackend::builder().url(proxy.url()).timeout(TIMEOUT).build().unwrap();
    let limits = [Limit::new(100, HOUR)];
    let request = |action| Request::new("rl:1:{unanswered}:x", &limits, action);
    let take = request(Action::Take { cost: 1, max_wait: Duration::ZERO });
    // Lane and link are connected, and the server knows the script.
    while backend.decide(&take).is_err() || futures_executor::block_on(backend.decide_async(&take).unwrap()).is_err() {}
    let peek = request(Action::Peek { cost: 0, max_wait: Duration::ZERO });
    let left = |backend: &RedisBackend| match backend.decide(&peek).unwrap().outcome {
        Outcome::Admitted(admitted) => admitted.remaining(),
        _ => panic!("nothing is always admitted"),
    };
    let direct = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(20)).build().unwrap();
    let (before, sent) = (left(&direct), proxy.decisions());
    proxy.set(Network::LosesAnswers);
    bounded(|| backend.decide(&take)).unwrap_err();
    bounded(|| futures_executor::block_on(backend.decide_async(&take).unwrap())).unwrap_err();
    proxy.set(Network::Fine);
    std::thread::sleep(2 * TIMEOUT);
    assert_eq!(proxy.decisions() - sent, 2);
    assert_eq!(before - left(&direct), 2);
}

#[test]
fn a_server_that_is_not_there_is_unreachable_at_once() {
    let server = RedisServer::start();
    let url = server.url();
    drop(server);
    let backend = RedisBackend::builder().url(&url).timeout(Duration::from_secs(30)).build().unwrap();
    for _ in 0..10 {
        let error = bounded(|| backend.decide(&take())).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Unreachable, "{error}");
    }
}

#[test]
fn a_server_that_answers_nonsense_is_an_error() {
    for nonsense in [
        "\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "+OK\r\n",
        "$-5\r\n",
        ":1\r\n:2\r\n:3\r\n",
        "*9999999\r\n",
        "\0\0\0",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let backend =
            RedisBackend::builder().url(format!("redis://127.0.0.1:{port}")).timeout(TIMEOUT).build().unwrap();
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 1_024];
                    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                        if stream.write_all(nonsense.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        for _ in 0..5 {
            bounded(|| backend.decide(&take())).unwrap_err();
        }
    }
}

#[test]
fn a_server_that_is_too_old_is_reported_as_such() {
    // Redis 6.0's error for the option `PXAT` of `SET`.
    const OLD: &str = "-ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -ERR syntax error\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://127.0.0.1:{}/?protocol=resp2", listener.local_addr().unwrap().port());
    // Ends with the test process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4_096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    let commands = text.split("\r\n").filter(|line| line.starts_with('*')).count();
                    let reply = if text.contains("EVALSHA") { OLD.to_owned() } else { "+OK\r\n".repeat(commands) };
                    if stream.write_all(reply.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    let backend = RedisBackend::builder().url(url).timeout(Duration::from_secs(20)).build().unwrap();
    let error = bounded(|| backend.decide(&take())).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("older than Redis 6.2"), "{error}");
}

#[test]
fn a_full_server_is_an_error_and_admits_nothing_twice() {
    let server = RedisServer::start_with(&["--maxmemory", "1mb", "--maxmemory-policy", "noeviction"]);
    let backend = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(20)).build().unwrap();
    let error = backend.decide(&take()).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Refused, "{error}");
}

#[test]
fn a_server_killed_under_load_hangs_and_panics_no_call() {
    let server = RedisServer::start();
    let limiter = limiter("load", &server.url(), OnBackendError::Local, 1_000_000);
    let (stop, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (limiter, stop, calls) = (&limiter, &stop, &calls);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let key = calls.fetch_add(1, Ordering::Relaxed) % 100;
                    let decided = if thread % 2 == 0 {
                        bounded(|| limiter.check(key, 1))
                    } else {
                        bounded(|| futures_executor::block_on(limiter.check_async(key, 1)))
                    };
                    assert!(decided.is_ok());
                }
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        server.kill();
        std::thread::sleep(Duration::from_millis(200));
        server.restart();
        std::thread::sleep(Duration::from_millis(200));
        server.freeze();
        std::thread::sleep(Duration::from_millis(300));
        server.thaw();
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
    });
    let strict = self::limiter("load after", &server.url(), OnBackendError::Deny, 5);
    recover(&strict);
    assert_eq!((0..10).filter(|_| strict.check("a", 1).is_ok()).count(), 5);
    let mut connection = server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    for key in keys {
        let expiry: i64 = redis::cmd("PTTL").arg(&key).query(&mut connection).unwrap();
        assert!(expiry > 0, "{key} never expires");
    }
}

/// One answer too few or too many would shift all later answers to other calls.
#[test]
fn calls_get_their_own_answers_after_a_server_has_sent_nonsense() {
    const KEYS: u32 = 16;
    const EACH: u32 = 10_000;
    /// Lets other tests run.
    const PAUSE: Duration = Duration::from_millis(2);
    let server = RedisServer::start();
    for garbage in [&b"$5\r\nhello\r\n"[..], b"+OK\r\n", b"$0\r\n\r\n:1\r\n", b":1\r\n:2\r\n:3\r\n"] {
        let proxy = Proxy::start(server.port());
        let backend = RedisBackend::builder().url(proxy.url()).timeout(TIMEOUT).build().unwrap();
        let bucket = |key: u32, action| {
            Request::new(format!("rl:1:{{own {key}}}:x"), &[Limit::new(EACH * (KEYS + 1), HOUR)], action)
        };
        // The permits left identify the key.
        let is_own = |key: u32, left: u32| (EACH * key..EACH * (key + 1)).contains(&left);
        for key in 0..KEYS {
            while backend.decide(&bucket(key, Action::Reset)).is_err() {}
            let cost = EACH * (KEYS - key);
            backend.decide(&bucket(key, Action::Take { cost, max_wait: Duration::ZERO })).unwrap();
        }
        let request = |key: u32| bucket(key, Action::Take { cost: 1, max_wait: Duration::ZERO });
        let call = |key: u32| match backend.decide(&request(key)).map(|answer| answer.outcome) {
            Ok(Outcome::Admitted(admitted)) => Some(admitted.remaining()),
            _ => None,
        };
        let (stop, good) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (stop, good, call) = (&stop, &good, &call);
            for key in 0..KEYS / 4 {
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Some(left) = call(key) {
                            assert!(is_own(key, left), "{left} are left of key {key}, after {garbage:?}");
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                        std::thread::sleep(PAUSE);
                    }
                });
            }
            let (backend, request) = (&backend, &request);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(PAUSE);
                    let mut calls = tokio::task::JoinSet::new();
                    for key in KEYS / 4..KEYS {
                        let (backend, request) = (backend.clone(), request(key));
                        calls.spawn_on(
                            async move { (key, backend.decide_async(&request).unwrap().await.map(|answer| answer.outcome)) },
                            runtime.handle(),
                        );
                    }
                    for (key, answer) in runtime.block_on(calls.join_all()) {
                        if let Ok(Outcome::Admitted(admitted)) = answer {
                            let left = admitted.remaining();
                            assert!(is_own(key, left), "{left} are left of key {key}, after {garbage:?}");
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
            for _ in 0..4 {
                std::thread::sleep(Duration::from_millis(50));
                proxy.set(Network::Garbage(garbage));
                std::thread::sleep(Duration::from_millis(20));
                proxy.set(Network::Fine);
            }
            std::thread::sleep(Duration::from_millis(200));
            let before = good.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            assert!(good.load(Ordering::Relaxed) > before + 100, "it does not get well after {garbage:?}");
        });
    }
}
