//! One server through each kind of connection: the same calls get the same answers, and TLS rejects
//! untrusted servers.

use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Backend, Outcome, Request};
use ratelimit_runtime::{BackendErrorKind, Limit, OnBackendError, RateLimiter, RedisBackend, RedisBackendBuilder};
use ratelimit_tests::{Certificates, Network, Proxy, RECOVERY, RedisServer, RedisTls, SLACK};

const HOUR: Duration = Duration::from_secs(3_600);

fn take() -> Request {
    let limits = [Limit::new(1, HOUR)];
    Request::new("rl:1:{topologies}:x", &limits, Action::Take { cost: 1, max_wait: Duration::ZERO })
}

fn of(redis: &RedisTls) -> RedisBackendBuilder {
    RedisBackend::builder().url(redis.url()).timeout(Duration::from_secs(20))
}

#[test]
fn tls_works_blocking_and_asynchronous() {
    let redis = RedisTls::start(false);
    let backend = of(&redis).ca_certificate(redis.certificates.authority.as_str()).build().unwrap();
    assert!(matches!(backend.decide(&take()).unwrap().outcome, Outcome::Admitted(_)));
    let answer = futures_executor::block_on(backend.decide_async(&take()).unwrap()).unwrap();
    assert!(matches!(answer.outcome, Outcome::Denied(_)));
    // Many at once, over few connections.
    let limiter = RateLimiter::builder("tls").backend(backend).limit(Limit::new(500, HOUR)).build().unwrap();
    let admitted = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..16).map(|_| scope.spawn(|| (0..30).filter(|_| limiter.check("a", 1).is_ok()).count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let limiter = limiter.clone();
            runtime.spawn(async move { limiter.check_async("a", 1).await.is_ok() })
        })
        .collect();
    let more = tasks.into_iter().filter_map(|task| runtime.block_on(task).unwrap().then_some(())).count();
    assert_eq!(admitted + more, 500);
}

#[test]
fn a_certificate_by_another_authority_or_for_another_name_is_refused() {
    let redis = RedisTls::start(false);
    let authority = redis.certificates.authority.as_str();
    let stranger = Certificates::new().authority;
    let of_system = of(&redis).build();
    let by_name = RedisBackend::builder().url(redis.url_by_name()).timeout(Duration::from_secs(20));
    for builder in [of(&redis).ca_certificate(stranger), by_name.ca_certificate(authority)] {
        let backend = builder.build().unwrap();
        let error = backend.decide(&take()).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
        assert_eq!(redis.server.calls_of("evalsha"), 0);
    }
    // The system's authorities do not include this one. A system without any is reported at once.
    assert!(of_system.and_then(|backend| backend.decide(&take())).is_err());
}

#[test]
fn a_server_that_wants_a_client_certificate_gets_it() {
    let redis = RedisTls::start(true);
    let builder = of(&redis).ca_certificate(redis.certificates.authority.as_str());
    builder.clone().build().unwrap().decide(&take()).unwrap_err();
    let (certificate, key) = &redis.certificates.client;
    let backend = builder.client_certificate(certificate.as_str(), key.as_str()).build().unwrap();
    assert!(matches!(backend.decide(&take()).unwrap().outcome, Outcome::Admitted(_)));
}

#[test]
fn tls_is_never_left_out_silently() {
    let redis = RedisTls::start(false);
    let authority = redis.certificates.authority.as_str();
    // Certificates for a connection that would not be encrypted.
    let plain = RedisBackend::builder().url(redis.server.url()).ca_certificate(authority).build();
    assert_eq!(plain.unwrap_err().kind(), BackendErrorKind::Configuration);
    // A server that does not speak TLS.
    let url = redis.server.url().replace("redis://", "rediss://");
    let backend = RedisBackend::builder().url(url).ca_certificate(authority).build().unwrap();
    backend.decide(&take()).unwrap_err();
    assert_eq!(redis.server.calls_of("evalsha"), 0);
    for wrong in ["rediss://cache#insecure", "rediss+unix:///x", "redis+tls://cache"] {
        assert_eq!(RedisBackend::new(wrong).unwrap_err().kind(), BackendErrorKind::Configuration, "{wrong}");
    }
}

#[test]
fn certificates_that_are_none_are_an_error_at_once() {
    let builder = || RedisBackend::builder().url("rediss://cache");
    let certificates = Certificates::new();
    for wrong in [
        builder().ca_certificate("none"),
        builder()
            .ca_certificate(certificates.authority.as_str())
            .client_certificate("", certificates.client.1.as_str()),
        builder()
            .ca_certificate(certificates.authority.as_str())
            .client_certificate(certificates.client.0.as_str(), ""),
    ] {
        assert_eq!(wrong.build().unwrap_err().kind(), BackendErrorKind::Configuration);
    }
    // A certificate, and the key of another one.
    let mixed = builder()
        .ca_certificate(certificates.authority.as_str())
        .client_certificate(certificates.client.0.as_str(), certificates.server.1.as_str());
    let error = mixed.build().unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Configuration);
    assert!(error.to_string().contains("does not match its key"), "{error}");
}

#[test]
fn a_restart_between_two_calls_over_tls_fails_neither() {
    let redis = RedisTls::start(false);
    let backend = of(&redis).ca_certificate(redis.certificates.authority.as_str()).build().unwrap();
    for _ in 0..2 {
        backend.decide(&take()).unwrap();
        futures_executor::block_on(backend.decide_async(&take()).unwrap()).unwrap();
        redis.server.restart();
        std::thread::sleep(Duration::from_millis(50));
    }
    backend.decide(&take()).unwrap();
}

/// A series of failures, including a server that goes silent in the middle of a handshake.
#[test]
fn silence_over_tls_holds_no_call_and_ends_in_time() {
    let redis = RedisTls::start(false);
    let proxy = Proxy::start(redis.port());
    let timeout = Duration::from_millis(100);
    let builder = RedisBackend::builder().url(format!("rediss://127.0.0.1:{}", proxy.port())).timeout(timeout);
    let backend = builder.ca_certificate(redis.certificates.authority.as_str()).build().unwrap();
    let limiter = RateLimiter::builder("silent").backend(backend).on_backend_error(OnBackendError::Deny);
    let limiter = limiter.limit(Limit::new(1_000_000, HOUR)).build().unwrap();
    let bounded = |is_async: bool| {
        let start = Instant::now();
        let decided = if is_async {
            futures_executor::block_on(limiter.check_async("a", 1)).is_ok()
        } else {
            limiter.check("a", 1).is_ok()
        };
        assert!(start.elapsed() < timeout + SLACK, "{:?}", start.elapsed());
        decided
    };
    let works = || {
        let since = Instant::now();
        for is_async in [false, true] {
            while !bounded(is_async) {
                assert!(since.elapsed() < RECOVERY + SLACK, "limits are not kept again, async: {is_async}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    };
    let fails = || {
        let until = Instant::now() + Duration::from_millis(700);
        let mut is_async = false;
        while Instant::now() < until {
            assert!(!bounded(is_async));
            is_async = !is_async;
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    works();
    proxy.set(Network::LosesAll);
    fails();
    // Connections begun in between stay silent.
    proxy.set(Network::LosesConnections);
    works();
    redis.server.freeze();
    fails();
    redis.server.thaw();
    works();
}

#[test]
fn a_link_lives_and_ends_with_its_runtime() {
    let server = RedisServer::start();
    let backend = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(20)).build().unwrap();
    let clients = || {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.connection()).unwrap();
        list.lines().count() - 1
    };
    for _ in 0..20 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (once, again) = (backend.clone(), backend.clone());
        // A runtime that ends while the answer is on its way.
        runtime.block_on(async move { once.decide_async(&take()).unwrap().await.unwrap() });
        runtime.spawn(async move { again.decide_async(&take()).unwrap().await });
        runtime.block_on(tokio::task::yield_now());
    }
    let until = Instant::now() + Duration::from_secs(20);
    // The abandoned calls, which the background finishes.
    while clients() > 1 {
        assert!(Instant::now() < until, "{} connections are left", clients());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(backend);
    while clients() > 0 {
        assert!(Instant::now() < until, "{} connections are left", clients());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_runtime_that_stands_still_holds_no_call() {
    let server = RedisServer::start();
    let timeout = Duration::from_millis(100);
    let backend = RedisBackend::builder().url(server.url()).timeout(timeout).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { while backend.decide_async(&take()).unwrap().await.is_err() {} });
    // Entered, but not run: its link is not polled.
    let _entered = runtime.enter();
    for _ in 0..3 {
        let start = Instant::now();
        let _ = futures_executor::block_on(backend.decide_async(&take()).unwrap());
        assert!(start.elapsed() < timeout + SLACK, "{:?}", start.elapsed());
    }
    backend.decide(&take()).unwrap();
}

#[test]
fn a_link_that_stays_silent_is_replaced() {
    let server = RedisServer::start();
    let timeout = Duration::from_millis(100);
    let backend = RedisBackend::builder().url(server.url()).timeout(timeout).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connections = || -> u64 {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut server.connection()).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse().unwrap()
    };
    runtime.block_on(async {
        while backend.decide_async(&take()).unwrap().await.is_err() {}
        let before = connections();
        server.freeze();
        let start = Instant::now();
        let error = backend.decide_async(&take()).unwrap().await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Timeout, "{error}");
        assert!(start.elapsed() >= timeout && start.elapsed() < timeout + SLACK);
        server.thaw();
        let thawed = Instant::now();
        while backend.decide_async(&take()).unwrap().await.is_err() {
            assert!(thawed.elapsed() < RECOVERY + SLACK, "the link does not recover");
        }
        // The new link, and the connection that counts. The old one may have revived, but is not
        // trusted.
        assert!(connections() - before >= 2);
    });
}
