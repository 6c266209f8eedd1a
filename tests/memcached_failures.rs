//! Memcached failures: no call hangs or panics, the policy applies, nothing is admitted by mistake,
//! and the limit is enforced again afterwards.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Backend, Outcome, Request};
use ratelimit_runtime::{BackendErrorKind, Limit, MemcachedBackend, OnBackendError, RateLimiter};
use ratelimit_tests::{MemcachedServer, Network, Proxy, RECOVERY, SLACK, failures};

const HOUR: Duration = Duration::from_secs(3_600);
const TIMEOUT: Duration = Duration::from_millis(100);

fn backend(url: &str, timeout: Duration) -> MemcachedBackend {
    MemcachedBackend::builder().url(url).timeout(timeout).denial_cache(false).build().unwrap()
}

/// A limiter that asks Memcached each time, so that failures are visible.
fn limiter(name: &str, url: &str, policy: OnBackendError, count: u32) -> RateLimiter {
    let builder = RateLimiter::builder(name).backend(backend(url, TIMEOUT)).on_backend_error(policy);
    builder.limit(Limit::new(count, HOUR)).build().unwrap()
}

/// How many of five calls are admitted, with a deadline for a busy machine.
fn admitted(name: &str, url: &str, key: &str, count: u32) -> usize {
    let builder = RateLimiter::builder(name).backend(backend(url, Duration::from_secs(20)));
    let patient = builder.on_backend_error(OnBackendError::Deny).limit(Limit::new(count, HOUR)).build().unwrap();
    (0..5).filter(|_| patient.check(key, 1).is_ok()).count()
}

fn take() -> Request {
    let limits = [Limit::new(1, HOUR)];
    Request::new("rl:1:{failures}:x", &limits, Action::Take { cost: 1, max_wait: Duration::ZERO })
}

fn url(proxy: &Proxy) -> String {
    format!("memcached://127.0.0.1:{}", proxy.port())
}

/// Runs a call that must not hang.
fn bounded<T>(call: impl FnOnce() -> T) -> T {
    failures::bounded(TIMEOUT + SLACK, call)
}

/// Calls until Memcached decides again.
fn recover(limiter: &RateLimiter) {
    let until = Instant::now() + RECOVERY + SLACK;
    while bounded(|| limiter.peek("recovery", 1)).is_err() {
        assert!(Instant::now() < until, "Memcached is back, and its limits are not kept");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks the three policies, each on an unused key.
fn policies_apply(name: &str, url: &str) {
    failures::policies_apply(TIMEOUT + SLACK, |policy| limiter(name, url, policy, 2));
}

#[test]
fn a_killed_server_costs_its_limits_until_it_is_back() {
    let server = MemcachedServer::start();
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
    let server = MemcachedServer::start();
    let limiter = limiter("restarted", &server.url(), OnBackendError::Deny, 3);
    recover(&limiter);
    // The end of the connection is noticed at once, not by a call that fails.
    server.restart();
    limiter.check("a", 1).unwrap();
}

#[test]
fn a_restart_while_the_runtime_is_idle_fails_no_call() {
    let server = MemcachedServer::start();
    let backend = backend(&server.url(), 200 * TIMEOUT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let call = || runtime.block_on(async { backend.decide_async(&take()).unwrap().await });
    call().unwrap();
    for _ in 0..3 {
        server.restart();
        call().unwrap();
    }
}

/// CAS numbers start again with the server. A state remembered from before must not replace one
/// with the same number.
#[test]
fn a_state_from_before_a_restart_replaces_none() {
    let server = MemcachedServer::start();
    let limits = [Limit::new(10, HOUR)];
    let request = Request::new("rl:1:{restart}:x", &limits, Action::Take { cost: 1, max_wait: Duration::ZERO });
    let (one, other) = (backend(&server.url(), 200 * TIMEOUT), backend(&server.url(), 200 * TIMEOUT));
    let take = |backend: &MemcachedBackend| match backend.decide(&request).unwrap().outcome {
        Outcome::Admitted(admitted) => Some(admitted.remaining()),
        _ => None,
    };
    assert_eq!([take(&one), take(&one), take(&one)], [Some(9), Some(8), Some(7)]);
    server.restart();
    // The same number of sets: the value's number is the one that the first process remembers.
    assert_eq!([take(&other), take(&other), take(&other)], [Some(9), Some(8), Some(7)]);
    assert_eq!(take(&other), Some(6));
    assert_eq!(take(&one), Some(5));
    assert_eq!(take(&other), Some(4));
}

#[test]
fn a_frozen_server_costs_a_call_its_timeout() {
    let server = MemcachedServer::start();
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
    let server = MemcachedServer::start();
    let backend = backend(&server.url(), TIMEOUT);
    while backend.decide(&take()).is_err() {}
    server.freeze();
    let start = Instant::now();
    let error = futures_executor::block_on(backend.decide_async(&take()).unwrap()).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Timeout);
    assert!(start.elapsed() < TIMEOUT + SLACK);
    server.thaw();
}

#[test]
fn a_slow_server_fails_calls_and_nothing_else() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let limiter = limiter("slow", &url(&proxy), OnBackendError::Deny, 100);
    recover(&limiter);
    proxy.set(Network::Slow(Duration::from_millis(20)));
    assert!((0..5).filter(|_| bounded(|| limiter.check("a", 1)).is_ok()).count() >= 3);
    proxy.set(Network::Slow(4 * TIMEOUT));
    assert!((0..8).all(|_| bounded(|| limiter.check("b", 1)).is_err()));
    proxy.set(Network::Fine);
    recover(&limiter);
    assert!(limiter.check("b", 1).is_ok());
}

#[test]
fn a_connection_whose_packets_vanish_is_replaced() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let limiter = limiter("vanish", &url(&proxy), OnBackendError::Deny, 3);
    recover(&limiter);
    assert_eq!((0..2).filter(|_| limiter.check("a", 1).is_ok()).count(), 2);
    let before = proxy.connections();
    proxy.set(Network::LosesConnections);
    assert!(bounded(|| limiter.check("a", 1)).is_err());
    recover(&limiter);
    assert_eq!((0..3).filter(|_| limiter.check("a", 1).is_ok()).count(), 1);
    assert!(proxy.connections() > before, "{before}");
}

#[test]
fn a_call_that_is_not_answered_was_charged_once_and_is_not_sent_again() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = self::backend(&url(&proxy), TIMEOUT);
    let request = |action| Request::new("rl:1:{unanswered}:x", &[Limit::new(100, HOUR)], action);
    let take = request(Action::Take { cost: 1, max_wait: Duration::ZERO });
    while backend.decide(&take).is_err() {}
    let peek = request(Action::Peek { cost: 0, max_wait: Duration::ZERO });
    let left = |backend: &MemcachedBackend| match backend.decide(&peek).unwrap().outcome {
        Outcome::Admitted(admitted) => admitted.remaining(),
        _ => panic!("nothing is always admitted"),
    };
    let direct = self::backend(&server.url(), Duration::from_secs(20));
    let before = left(&direct);
    proxy.set(Network::LosesAnswers);
    bounded(|| backend.decide(&take)).unwrap_err();
    proxy.set(Network::Fine);
    std::thread::sleep(2 * TIMEOUT);
    assert_eq!(before - left(&direct), 1);
}

#[test]
fn a_server_that_is_not_there_is_unreachable_at_once() {
    let server = MemcachedServer::start();
    let url = server.url();
    drop(server);
    let backend = backend(&url, Duration::from_secs(30));
    for _ in 0..10 {
        let error = bounded(|| backend.decide(&take())).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Unreachable, "{error}");
    }
}

/// A server that answers each piece of text with these bytes.
fn saying(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 1_024];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    if stream.write_all(bytes).is_err() {
                        break;
                    }
                }
            });
        }
    });
    format!("memcached://127.0.0.1:{port}")
}

#[test]
fn a_server_that_answers_nonsense_is_an_error() {
    for nonsense in [
        &b"\r\n"[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"-ERR unknown command 'mn'\r\n",
        b"HD\r\n",
        b"MN\r\nMN\r\n",
        b"MN\r\nHD c1 O2\r\n",
        b"MN\r\nVA 99999999999999999999 c1 O2\r\n",
        b"VA 4294967295 c1 O1\r\n",
        b"\0\0\0\0",
        b"\x81\0\0\x05",
    ] {
        let backend = backend(&saying(nonsense), TIMEOUT);
        for _ in 0..4 {
            bounded(|| backend.decide(&take())).unwrap_err();
        }
    }
}

#[test]
fn a_server_without_meta_commands_is_a_configuration_error() {
    let backend = backend(&saying(b"ERROR\r\n"), 50 * TIMEOUT);
    let error = backend.decide(&take()).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Configuration);
    assert!(error.to_string().contains("1.6"), "{error}");
}

#[test]
fn a_server_killed_under_load_hangs_and_panics_no_call() {
    let server = MemcachedServer::start();
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
}

/// One answer too few or too many would shift all later answers to other calls.
#[test]
fn calls_get_their_own_answers_after_a_server_has_sent_nonsense() {
    const KEYS: u32 = 12;
    const EACH: u32 = 10_000;
    let server = MemcachedServer::start();
    for garbage in [&b"HD c1 O5\r\n"[..], b"EN\r\n", b"NF c0 O7\r\n", b"VA 2 c1 O9\r\n\x02\0\r\n", b"MN\r\n"] {
        let proxy = Proxy::start(server.port());
        let backend = self::backend(&url(&proxy), TIMEOUT);
        let bucket = |key: u32, action| {
            Request::new(format!("rl:1:{{own {key}}}:x"), &[Limit::new(EACH * (KEYS + 1), HOUR)], action)
        };
        // The permits left identify the key.
        let is_own = |key: u32, left: u32| (EACH * key..EACH * (key + 1)).contains(&left);
        for key in 0..KEYS {
            while backend.decide(&bucket(key, Action::Reset)).is_err() {}
            let cost = EACH * (KEYS - key);
            while backend.decide(&bucket(key, Action::Take { cost, max_wait: Duration::ZERO })).is_err() {
                while backend.decide(&bucket(key, Action::Reset)).is_err() {}
            }
        }
        let (stop, good) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (stop, good, backend, bucket) = (&stop, &good, &backend, &bucket);
            for key in 0..KEYS {
                scope.spawn(move || {
                    let request = bucket(key, Action::Take { cost: 1, max_wait: Duration::ZERO });
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok(Outcome::Admitted(admitted)) =
                            bounded(|| backend.decide(&request)).map(|answer| answer.outcome)
                        {
                            let left = admitted.remaining();
                            assert!(is_own(key, left), "{left} are left of key {key}, after {garbage:?}");
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                });
            }
            for _ in 0..4 {
                std::thread::sleep(Duration::from_millis(50));
                proxy.set(Network::Garbage(garbage));
                std::thread::sleep(Duration::from_millis(20));
                proxy.set(Network::Fine);
            }
            let (before, until) = (good.load(Ordering::Relaxed), Instant::now() + 200 * TIMEOUT);
            let more = || good.load(Ordering::Relaxed) - before;
            while more() < 100 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            stop.store(true, Ordering::Relaxed);
            assert!(more() >= 100, "{} calls: it does not get well after {garbage:?}", more());
        });
    }
}
