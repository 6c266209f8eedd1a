//! Redis failures under many callers: no call waits longer than the deadline, few ask while it
//! fails, and limits are enforced again within two seconds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratelimit_runtime::{ExceededKind, Limit, OnBackendError, RateLimiter, RedisBackend, test_util};
use ratelimit_tests::{Network, Proxy, RECOVERY, RedisServer, SLACK};

const HOUR: Duration = Duration::from_secs(3_600);
const TIMEOUT: Duration = Duration::from_millis(100);
/// How long a fault lasts, and a call that hangs.
const OUTAGE: Duration = Duration::from_secs(3);
const CALLERS: u64 = 4;
/// Failures that open the breaker.
const FAILURES: u64 = 5;
/// Probes in one outage: after 50, 100, 200, 400 and then each 500 ms.
const PROBES: u64 = 9;

/// A server behind a network, and a limiter that uses it.
struct Stage {
    server: RedisServer,
    proxy: Proxy,
    limiter: RateLimiter,
}

impl Stage {
    fn new(name: &str) -> Stage {
        Stage::with(name, &[])
    }

    fn with(name: &str, options: &[&str]) -> Stage {
        let server = RedisServer::start_with(options);
        let proxy = Proxy::start(server.port());
        let backend = RedisBackend::builder().url(proxy.url()).timeout(TIMEOUT).build().unwrap();
        let limiter = RateLimiter::builder(name)
            .backend(backend)
            .on_backend_error(OnBackendError::Deny)
            .limit(Limit::new(1_000_000, HOUR))
            .build()
            .unwrap();
        Stage { server, proxy, limiter }
    }

    /// Whether Redis decided.
    fn is_decided(&self, caller: u64) -> bool {
        let result = if caller.is_multiple_of(2) {
            self.limiter.check(caller, 1)
        } else {
            futures_executor::block_on(self.limiter.check_async(caller, 1))
        };
        match result {
            Ok(_) => true,
            Err(exceeded) => {
                assert_eq!(exceeded.kind(), ExceededKind::BackendFailed);
                false
            }
        }
    }

    /// Calls until Redis decides, and returns how long that took.
    fn recovers(&self) -> Duration {
        let start = Instant::now();
        while !self.is_decided(0) {
            assert!(start.elapsed() < RECOVERY + SLACK, "Redis is back, and its limits are not kept");
            std::thread::sleep(Duration::from_millis(1));
        }
        start.elapsed()
    }

    /// Runs an outage in which Redis decides nothing.
    fn survives(&self, begin: impl FnOnce(), end: impl FnOnce()) {
        self.recovers();
        begin();
        let before = self.proxy.decisions();
        let (times, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (times, over) = (&times, &over);
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        assert!(!self.is_decided(caller), "there is nobody to decide");
                        mine.push(start.elapsed());
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    times.lock().unwrap().append(&mut mine);
                });
            }
            std::thread::sleep(OUTAGE);
            over.store(true, Ordering::Relaxed);
        });
        let asked = self.proxy.decisions() - before;
        let times = times.into_inner().unwrap();
        let calls = times.len() as u64;
        let waited = times.iter().filter(|took| **took > TIMEOUT / 2).count() as u64;
        let longest = times.iter().max().unwrap();
        // Calls under way when the breaker opens have asked as well.
        assert!(asked <= FAILURES + CALLERS + PROBES, "{asked} of {calls} calls asked a Redis that is away");
        assert!(calls > 20 * asked, "only {calls} calls were made");
        // A busy machine delays some that did not.
        assert!(calls > 4 * waited, "{waited} of {calls} calls waited");
        assert!(*longest < TIMEOUT + SLACK, "a call took {longest:?}");
        end();
        let took = self.recovers();
        assert!(took < RECOVERY + SLACK, "it took {took:?}");
    }

    /// Runs a command on the server directly, not through the proxy.
    fn command(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query::<redis::Value>(&mut self.server.connection()).unwrap();
    }
}

#[test]
fn a_server_that_is_stopped() {
    let stage = Stage::new("stopped");
    stage.survives(|| stage.server.freeze(), || stage.server.thaw());
}

#[test]
fn a_server_that_is_killed() {
    let stage = Stage::new("killed");
    stage.survives(|| stage.server.kill(), || stage.server.restart());
}

#[test]
fn a_network_that_swallows_everything() {
    let stage = Stage::new("swallows");
    stage.survives(|| stage.proxy.set(Network::LosesAll), || stage.proxy.set(Network::Fine));
}

#[test]
fn a_network_that_is_too_slow() {
    let stage = Stage::new("slow");
    stage.survives(|| stage.proxy.set(Network::Slow(HOUR)), || stage.proxy.set(Network::Fine));
}

#[test]
fn a_server_that_answers_garbage() {
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"$5\r\nhello\r\n", b"\0\0\0", b"*3\r\n"] {
        let stage = Stage::new("garbage");
        stage.survives(|| stage.proxy.set(Network::Garbage(garbage)), || stage.proxy.set(Network::Fine));
    }
}

#[test]
fn a_server_whose_memory_is_full() {
    let stage = Stage::new("full");
    stage.survives(
        || stage.command(&["CONFIG", "SET", "maxmemory", "1", "maxmemory-policy", "noeviction"]),
        || stage.command(&["CONFIG", "SET", "maxmemory", "0"]),
    );
}

#[test]
fn a_server_that_became_a_replica() {
    let stage = Stage::new("replica");
    stage.survives(|| stage.command(&["REPLICAOF", "127.0.0.1", "1"]), || stage.command(&["REPLICAOF", "NO", "ONE"]));
}

#[test]
fn a_server_that_is_loading() {
    let stage = Stage::with("loading", &["--enable-debug-command", "yes"]);
    stage.command(&["DEBUG", "POPULATE", "1000000"]);
    // Half a second each, with answers in between.
    stage.command(&["CONFIG", "SET", "key-load-delay", "1000", "loading-process-events-interval-bytes", "1024"]);
    let reloading = Mutex::new(None);
    let is_loading = || {
        let info: redis::RedisResult<String> =
            redis::cmd("INFO").arg("persistence").query(&mut stage.server.connection());
        info.is_ok_and(|info| info.contains("\r\nloading:1\r\n"))
    };
    stage.survives(
        || {
            let port = stage.server.port();
            *reloading.lock().unwrap() = Some(std::thread::spawn(move || {
                let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
                // It answers once all is loaded. Nothing waits for that.
                let _ = redis::cmd("DEBUG").arg("RELOAD").query::<()>(&mut client.get_connection().unwrap());
            }));
            while !is_loading() {
                std::thread::sleep(Duration::from_millis(1));
            }
        },
        || {
            assert!(is_loading(), "it was done too early");
            stage.server.restart();
        },
    );
}

#[test]
fn a_connection_whose_packets_vanish_is_replaced_though_the_server_is_well() {
    let stage = Stage::new("vanishing");
    stage.recovers();
    for _ in 0..3 {
        let connections = stage.proxy.connections();
        stage.proxy.set(Network::LosesConnections);
        assert!(!stage.is_decided(0), "its packets vanish");
        stage.recovers();
        assert!(stage.proxy.connections() > connections);
    }
}

#[test]
fn a_network_that_is_slow_but_in_time_is_waited_for() {
    let stage = Stage::new("in time");
    stage.recovers();
    stage.proxy.set(Network::Slow(TIMEOUT / 5));
    // A busy machine may make some late, but not most.
    let decided = (0..20).filter(|caller| stage.is_decided(*caller)).count();
    assert!(decided > 10, "{decided} of 20");
}

#[test]
fn limiters_of_one_backend_share_what_is_known_of_it() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = RedisBackend::builder().url(proxy.url()).timeout(TIMEOUT).build().unwrap();
    let limiter = |name: &str| {
        let builder = RateLimiter::builder(name).backend(backend.clone()).on_backend_error(OnBackendError::Deny);
        builder.limit(Limit::new(1_000, HOUR)).build().unwrap()
    };
    let (one, other) = (limiter("one"), limiter("other"));
    // A busy machine may make the first one late.
    assert!((0..20).any(|_| one.check("a", 1).is_ok()));
    proxy.set(Network::LosesAll);
    for _ in 0..FAILURES {
        assert!(one.check("a", 1).is_err());
    }
    let asked = proxy.decisions();
    assert!(other.check("a", 1).is_err());
    assert_eq!(proxy.decisions(), asked, "the other limiter did not ask");
}

#[test]
fn refunds_and_resets_are_bounded_too_and_fail_at_once_while_the_breaker_is_open() {
    let stage = Stage::new("refunds");
    stage.recovers();
    let mut decisions: Vec<_> = (0..40).filter_map(|_| stage.limiter.check("a", 1).ok()).take(20).collect();
    stage.proxy.set(Network::LosesAll);
    for _ in 0..FAILURES {
        let start = Instant::now();
        stage.limiter.refund(decisions.remove(0)).unwrap_err();
        assert!(start.elapsed() < TIMEOUT + SLACK);
    }
    let asked = stage.proxy.decisions();
    let error = stage.limiter.refund(decisions.remove(0)).unwrap_err();
    assert!(error.to_string().contains("not asked"), "{error}");
    stage.limiter.reset("a").unwrap_err();
    assert_eq!(stage.proxy.decisions(), asked);
}

#[test]
fn a_reset_or_a_refund_through_another_handle_of_the_server_lifts_denials() {
    let server = RedisServer::start();
    let limiter = |denial_cache| {
        let redis =
            RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(5)).denial_cache(denial_cache);
        let builder = RateLimiter::builder("lifted").limit(Limit::new(2, Duration::from_secs(3_600)));
        builder.on_backend_error(OnBackendError::Deny).backend(redis.build().unwrap()).build().unwrap()
    };
    let (one, other, asking) = (limiter(true), limiter(true), limiter(false));
    for lifting in [&other, &asking] {
        let decision = lifting.check("a", 1).unwrap();
        one.check("a", 1).unwrap();
        assert!((0..3).all(|_| one.check("a", 1).is_err()));
        lifting.refund(decision).unwrap();
        one.check("a", 1).unwrap();
        assert!(one.check("a", 1).is_err());
        lifting.reset("a").unwrap();
        one.check("a", 2).unwrap();
        assert!(one.check("a", 1).is_err());
        futures_executor::block_on(lifting.reset_async("a")).unwrap();
    }
}

/// A login whose bans grow from `initial` to `longest`.
fn login(server: &RedisServer, initial: Duration, longest: Duration) -> RateLimiter {
    let backend = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(20)).build().unwrap();
    let builder = RateLimiter::builder("login").backend(backend).on_backend_error(OnBackendError::Deny);
    builder.limit(Limit::new(1, Duration::from_secs(1))).backoff(initial, longest).build().unwrap()
}

fn retry_after(limiter: &RateLimiter) -> Duration {
    limiter.check("a", 1).unwrap_err().retry_after().unwrap()
}

/// The ban of a login under attack grows up to its maximum, and then costs the server one call in
/// each `initial`.
#[test]
fn a_ban_that_grows_no_more_is_kept_in_the_process() {
    let server = RedisServer::start();
    let _clock = test_util::pause();
    let (initial, longest) = (Duration::from_secs(20), Duration::from_secs(60));
    let limiter = login(&server, initial, longest);
    limiter.check("a", 1).unwrap();
    for exact in [20, 40, 60] {
        assert_eq!(retry_after(&limiter), Duration::from_secs(exact));
    }
    let asked = server.calls_of("evalsha");
    for _ in 0..1_000 {
        assert_eq!(retry_after(&limiter), longest);
    }
    assert!(server.calls_of("evalsha") <= asked + 1);
    assert!(limiter.peek("a", 1).is_err());
    // A reset through this process ends the ban.
    limiter.reset("a").unwrap();
    limiter.check("a", 1).unwrap();
}

/// An attack of 100 tries a second, for half a minute, on a ban from a second to an hour.
#[test]
fn a_long_ban_that_grows_costs_one_call_in_each_initial() {
    let server = RedisServer::start();
    let clock = test_util::pause();
    let limiter = login(&server, Duration::from_secs(1), HOUR);
    limiter.check("a", 1).unwrap();
    // All of the first are counted.
    for doublings in 0..8 {
        assert_eq!(retry_after(&limiter), Duration::from_secs(1 << doublings));
    }
    let asked = server.calls_of("evalsha");
    let mut end = clock.now().as_nanos();
    for _ in 0..3_000 {
        let reported = retry_after(&limiter);
        assert!(reported >= Duration::from_secs(127), "{reported:?}");
        let next = clock.now().as_nanos() + u64::try_from(reported.as_nanos()).unwrap();
        assert!(next >= end, "it never ends earlier");
        end = next;
        clock.advance(Duration::from_millis(10));
    }
    let asked = server.calls_of("evalsha") - asked;
    assert!((25..=32).contains(&asked), "{asked} calls of the server for 3,000 tries");
    assert_eq!(retry_after(&limiter), HOUR);
}

#[test]
fn who_waits_for_the_end_of_a_long_ban_is_admitted_then() {
    let server = RedisServer::start();
    let clock = test_util::pause();
    let limiter = login(&server, Duration::from_secs(1), HOUR);
    limiter.check("a", 1).unwrap();
    assert_eq!((0..8).map(|_| retry_after(&limiter)).last(), Some(Duration::from_secs(128)));
    let asked = server.calls_of("evalsha");
    clock.advance(Duration::from_millis(500));
    // Not counted, and so no longer.
    assert!((0..100).all(|_| retry_after(&limiter) == Duration::from_millis(127_500)));
    assert_eq!(server.calls_of("evalsha"), asked);
    clock.advance(Duration::from_millis(127_500));
    limiter.check("a", 1).unwrap();
}

#[test]
fn a_block_of_a_key_with_bans_that_grow_is_kept_in_the_process() {
    let server = RedisServer::start();
    let _clock = test_util::pause();
    let limiter = login(&server, Duration::from_secs(5), Duration::from_secs(3_600));
    limiter.block("a", HOUR).unwrap();
    let asked = server.calls_of("evalsha");
    assert!((0..100).all(|_| retry_after(&limiter) == HOUR));
    assert_eq!(server.calls_of("evalsha"), asked + 1);
    // Its denials were no offences.
    limiter.unblock("a").unwrap();
    limiter.check("a", 1).unwrap();
    assert_eq!(retry_after(&limiter), Duration::from_secs(5));
}
