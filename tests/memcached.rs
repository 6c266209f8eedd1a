//! What the Memcached backend sends, keeps and refuses. `conformance.rs` checks its decisions.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use ratelimit_runtime::backend::{Action, Answer, Backend, IntoBackend, Outcome, Request};
use ratelimit_runtime::{
    Algorithm, BackendErrorKind, Limit, MemcachedBackend, OnBackendError, RateLimitExceeded, RateLimiter, rate_limit,
};
use ratelimit_tests::{MemcachedServer, impatient};
use tokio::task::JoinSet;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: u64 = 86_400;

/// With a deadline that a busy machine does not miss, and without what needs no round trip.
fn backend(url: &str) -> MemcachedBackend {
    MemcachedBackend::builder().url(url).timeout(Duration::from_secs(20)).denial_cache(false).build().unwrap()
}

fn limiter(server: &MemcachedServer, name: &str, limit: Limit) -> RateLimiter {
    let builder = RateLimiter::builder(name).backend(backend(&server.url())).on_backend_error(OnBackendError::Deny);
    builder.limit(limit).build().unwrap()
}

fn take(name: &str, limit: Limit) -> Request {
    Request::new(format!("rl:1:{{{name}}}:x"), &[limit], Action::Take { cost: 1, max_wait: Duration::ZERO })
}

fn peek(name: &str, limit: Limit) -> Request {
    Request::new(format!("rl:1:{{{name}}}:x"), &[limit], Action::Peek { cost: 0, max_wait: Duration::ZERO })
}

fn is_admitted(answer: &Answer) -> bool {
    matches!(answer.outcome, Outcome::Admitted(_))
}

/// The keys on a server, and when each expires, in seconds since the Unix epoch (-1: never).
fn keys(server: &MemcachedServer) -> Vec<(String, i64)> {
    let dump = String::from_utf8(server.ask("lru_crawler metadump all\r\n", "END")).unwrap();
    let word = |line: &str, name: &str| {
        let value = line.split(' ').find_map(|part| part.strip_prefix(name)).expect("the server names it");
        value.to_owned()
    };
    let lines = dump.lines().filter(|line| line.starts_with("key="));
    lines.map(|line| (word(line, "key="), word(line, "exp=").parse().unwrap())).collect()
}

/// How many sets and gets the server has carried out.
fn commands(server: &MemcachedServer) -> (u64, u64) {
    (server.figure("cmd_set"), server.figure("cmd_get"))
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_callers_who_give_up_would_have_had_others_get() {
    let server = MemcachedServer::start();
    let backend = backend(&server.url()).into_backend();
    impatient::others_get_what_callers_who_give_up_would_have_had("memcached", backend).await;
}

#[test]
fn a_decision_is_one_round_trip() {
    let server = MemcachedServer::start();
    let limiter = limiter(&server, "trips", Limit::new(3, HOUR));
    limiter.check("a", 1).unwrap();
    // The first call also gets the present value in its first round trip.
    assert_eq!(commands(&server), (1, 1));
    limiter.check("a", 1).unwrap();
    limiter.check("a", 1).unwrap();
    assert_eq!((commands(&server), server.figure("cas_hits")), ((3, 1), 2));
    // A denial is decided on a state just read, and stores nothing.
    limiter.check("a", 1).unwrap_err();
    limiter.peek("a", 1).unwrap_err();
    assert_eq!(commands(&server), (3, 3));
}

#[test]
fn a_state_changed_by_another_process_is_not_decided_on() {
    let server = MemcachedServer::start();
    let one = limiter(&server, "two", Limit::new(3, HOUR));
    let other = limiter(&server, "two", Limit::new(3, HOUR));
    one.check("a", 1).unwrap();
    other.check("a", 1).unwrap();
    one.check("a", 1).unwrap();
    one.check("a", 1).unwrap_err();
    other.check("a", 1).unwrap_err();
    // A denial is not remembered either.
    other.reset("a").unwrap();
    assert_eq!((0..4).filter(|_| one.check("a", 1).is_ok()).count(), 3);
    other.check("a", 1).unwrap_err();
}

#[test]
fn a_refund_of_another_process_counts_at_once() {
    let server = MemcachedServer::start();
    let one = limiter(&server, "refunds", Limit::new(1, HOUR));
    let other = limiter(&server, "refunds", Limit::new(1, HOUR));
    let decision = one.check("a", 1).unwrap();
    other.check("a", 1).unwrap_err();
    one.refund(decision).unwrap();
    other.check("a", 1).unwrap();
    one.check("a", 1).unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_on_one_key_admit_exactly_count_in_few_commands() {
    let server = MemcachedServer::start();
    let limiter = limiter(&server, "hot", Limit::new(5_000, HOUR));
    let mut tasks = JoinSet::new();
    for _ in 0..128 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            let mut admitted = 0;
            for _ in 0..50 {
                admitted += u32::from(limiter.check_async("key", 1).await.is_ok());
            }
            admitted
        });
    }
    assert_eq!(tasks.join_all().await.iter().sum::<u32>(), 5_000);
    // The first call of a burst is sent alone, the others together.
    assert!(server.figure("cas_badval") < 640, "{} swaps in vain", server.figure("cas_badval"));
    let (sets, gets) = commands(&server);
    assert!(sets + gets < 6_400 / 4, "{sets} sets and {gets} gets");
}

#[test]
fn threads_on_one_key_admit_exactly_count_and_hardly_compete() {
    let server = MemcachedServer::start();
    let limiter = limiter(&server, "threads", Limit::new(500, HOUR));
    let admitted: usize = std::thread::scope(|scope| {
        let check = || (0..100).filter(|_| limiter.check("key", 1).is_ok()).count();
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(check)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(admitted, 500);
    assert!(server.figure("cas_badval") < 160, "{} swaps in vain", server.figure("cas_badval"));
}

#[test]
fn runtimes_of_one_process_share_its_limits() {
    let server = MemcachedServer::start();
    let limiter = limiter(&server, "runtimes", Limit::new(400, HOUR));
    let admitted: usize = std::thread::scope(|scope| {
        let check = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut admitted = 0;
                for _ in 0..100 {
                    admitted += usize::from(limiter.check_async("key", 1).await.is_ok());
                }
                admitted
            })
        };
        let runtimes: Vec<_> = (0..6).map(|_| scope.spawn(check)).collect();
        runtimes.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(admitted, 400);
}

#[test]
fn futures_without_a_runtime_and_in_one_without_io_are_decided() {
    let server = MemcachedServer::start();
    let limiter = limiter(&server, "executors", Limit::new(3, HOUR));
    futures_executor::block_on(limiter.check_async("a", 1)).unwrap();
    let without_io = tokio::runtime::Builder::new_current_thread().build().unwrap();
    without_io.block_on(limiter.check_async("a", 1)).unwrap();
    without_io.block_on(async { limiter.check("a", 1) }).unwrap();
    without_io.block_on(limiter.check_async("a", 1)).unwrap_err();
}

#[tokio::test]
async fn a_dropped_future_gives_back_what_it_has_taken() {
    let server = MemcachedServer::start();
    let limiter = limiter(&server, "dropped", Limit::new(1_000, HOUR));
    limiter.check_async("a", 1).await.unwrap();
    for _ in 0..50 {
        let mut call = Box::pin(limiter.check_async("a", 1));
        let _ = futures_executor::block_on(std::future::poll_fn(|context| {
            std::task::Poll::Ready(call.as_mut().poll(context).is_ready())
        }));
        tokio::task::yield_now().await;
        drop(call);
    }
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while limiter.peek_async("a", 0).await.unwrap().remaining() != 999 {
        assert!(std::time::Instant::now() < until, "permits are missing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn every_key_expires_after_its_bucket() {
    let server = MemcachedServer::start();
    let backend = backend(&server.url());
    let periods = [(1, "second"), (29 * DAY, "month"), (30 * DAY, "edge"), (365 * DAY, "year")];
    let before = now();
    for (seconds, name) in periods {
        let limit = Limit::new(2, Duration::from_secs(seconds));
        assert!(is_admitted(&backend.decide(&take(name, limit)).unwrap()));
        // It is still known, although the server reads more than 30 days as a date.
        assert!(is_admitted(&backend.decide(&take(name, limit)).unwrap()));
        assert!(!is_admitted(&backend.decide(&take(name, limit)).unwrap()));
    }
    let (keys, after) = (keys(&server), now());
    assert_eq!(keys.len(), periods.len());
    for (seconds, name) in periods {
        let (_, expiry) = keys.iter().find(|(key, _)| key.contains(name)).unwrap();
        let seconds = i64::try_from(seconds).unwrap();
        // The server's clock may be a second behind.
        assert!((before + seconds + 3..=after + seconds + 8).contains(expiry), "{name}: {}", expiry - before);
    }
}

#[test]
fn a_bucket_of_the_past_is_forgotten() {
    let server = MemcachedServer::start();
    let backend = backend(&server.url());
    let limit = Limit::new(1, Duration::from_millis(1));
    backend.decide(&take("short", limit)).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !keys(&server).iter().all(|(_, expiry)| *expiry < now()) {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(is_admitted(&backend.decide(&take("short", limit)).unwrap()));
}

#[test]
fn hostile_and_long_keys_stay_keys() {
    let server = MemcachedServer::start();
    let limiter = limiter(&server, "hostile", Limit::new(1, HOUR));
    let long = "k".repeat(10_000);
    let keys = ["a b", "a\r\nflush_all\r\n", "\0", "é\u{a0}\u{2028}", "mn\r\n", &long, &format!("{long}b"), "", " "];
    for key in keys {
        limiter.check(key, 1).unwrap();
    }
    for key in keys {
        limiter.check(key, 1).unwrap_err();
    }
    assert_eq!(server.figure("curr_items"), keys.len() as u64, "{:#?}", self::keys(&server));
    let backend = backend(&server.url());
    let raw = Request::new("a\r\nflush_all", &[Limit::new(1, HOUR)], Action::Reset);
    assert_eq!(backend.decide(&raw).unwrap_err().kind(), BackendErrorKind::Refused);
}

#[test]
fn a_value_that_is_no_bucket_is_an_error_and_stays() {
    let server = MemcachedServer::start();
    let backend = backend(&server.url());
    let long = "x".repeat(100_000);
    let connections = server.figure("total_connections");
    for (number, value) in ["", "5", "\u{2}", "hello", &long].into_iter().enumerate() {
        let limit = Limit::new(1, HOUR);
        let name = format!("foreign{number}");
        let set = format!("set rl:1:{{{name}}}:x 0 0 {}\r\n{value}\r\n", value.len());
        assert_eq!(server.ask(&set, "STORED"), b"STORED\r\n");
        for _ in 0..2 {
            let error = backend.decide(&take(&name, limit)).unwrap_err();
            assert_eq!(error.kind(), BackendErrorKind::Refused, "{value:.10}: {error}");
        }
        let value_after = server.ask(&format!("get rl:1:{{{name}}}:x\r\n"), "END");
        assert!(
            value_after.starts_with(format!("VALUE rl:1:{{{name}}}:x 0 {}\r\n{value}\r\n", value.len()).as_bytes())
        );
        assert!(is_admitted(&backend.decide(&take(&format!("own{number}"), limit)).unwrap()));
    }
    // The connection stays. The others are the test's own: two for each value, and one.
    let ours = server.figure("total_connections") - connections - (2 * 5 + 1);
    assert_eq!(ours, 1);
}

#[test]
fn a_value_written_over_a_bucket_that_was_seen_is_an_error() {
    let server = MemcachedServer::start();
    let backend = backend(&server.url());
    let limit = Limit::new(100, HOUR);
    assert!(is_admitted(&backend.decide(&take("over", limit)).unwrap()));
    server.ask("set rl:1:{over}:x 0 0 3\r\n100\r\n", "STORED");
    assert_eq!(backend.decide(&take("over", limit)).unwrap_err().kind(), BackendErrorKind::Refused);
    server.ask("delete rl:1:{over}:x\r\n", "DELETED");
    assert!(is_admitted(&backend.decide(&take("over", limit)).unwrap()));
}

#[test]
fn keys_are_spread_over_several_servers() {
    let servers = [MemcachedServer::start(), MemcachedServer::start(), MemcachedServer::start()];
    let hosts: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let limit = Limit::new(1, HOUR);
    let url = format!("memcached://{}", hosts.join(","));
    let (one, other) = (backend(&url), backend(&url));
    for number in 0..60 {
        assert!(is_admitted(&one.decide(&take(&format!("spread{number}"), limit)).unwrap()));
        assert!(!is_admitted(&other.decide(&take(&format!("spread{number}"), limit)).unwrap()));
    }
    let counts = servers.each_ref().map(|server| server.figure("curr_items"));
    assert_eq!(counts.iter().sum::<u64>(), 60);
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    // A server that fails fails its keys, and no others.
    servers[1].kill();
    let decided = (0..60).filter(|number| one.decide(&take(&format!("spread{number}"), limit)).is_ok()).count();
    assert_eq!(decided as u64, 60 - counts[1]);
}

#[test]
fn a_unix_socket_is_a_server() {
    let directory = std::env::temp_dir().join(format!("ratelimit-memcached-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let socket = directory.join("socket");
    let path = socket.to_str().unwrap();
    let server = MemcachedServer::start_on_socket(path);
    let backend = backend(&format!("memcached://{path}"));
    assert_eq!(backend.server().as_deref(), Some(path));
    let limit = Limit::new(1, HOUR);
    assert!(is_admitted(&backend.decide(&take("socket", limit)).unwrap()));
    assert!(!is_admitted(&backend.decide(&take("socket", limit)).unwrap()));
    drop(server);
    assert_eq!(backend.decide(&take("socket", limit)).unwrap_err().kind(), BackendErrorKind::Unreachable);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_server_that_asks_for_a_login_is_a_configuration_error() {
    let file = std::env::temp_dir().join(format!("ratelimit-memcached-login-{}", std::process::id()));
    std::fs::write(&file, "user:s3cret\n").unwrap();
    let server = MemcachedServer::start_with(&["-Y", file.to_str().unwrap()]);
    let error = backend(&server.url()).decide(&take("login", Limit::new(1, HOUR))).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("login"), "{error}");
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_full_server_is_an_error() {
    let server = MemcachedServer::start_with(&["-M", "-m", "2"]);
    let backend = backend(&server.url());
    let limit = Limit::new(1, HOUR);
    let failed = (0..50_000).find_map(|number| backend.decide(&take(&format!("full{number}"), limit)).err());
    let error = failed.expect("a megabyte is full by now");
    assert_eq!(error.kind(), BackendErrorKind::Refused);
    assert!(error.to_string().contains("memory"), "{error}");
    // A get needs no memory. (A failed set removes the value that it should have replaced.)
    assert!(backend.decide(&peek("full0", limit)).is_ok());
    server.ask("flush_all\r\n", "OK");
    assert!(is_admitted(&backend.decide(&take("again", limit)).unwrap()));
}

#[test]
fn flushed_buckets_begin_anew_and_are_counted() {
    // Calls on a background thread reach a global recorder alone. Other tests may lose buckets too.
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let lost = || {
        let text = metrics.render();
        let line =
            text.lines().find_map(|line| line.strip_prefix("ratelimit_lost_buckets_total{backend=\"memcached\"} "));
        line.map_or(0, |number| number.parse::<u64>().unwrap())
    };
    let server = MemcachedServer::start();
    let limiter = limiter(&server, "flushed", Limit::new(2, HOUR));
    assert_eq!((0..3).filter(|_| limiter.check("a", 1).is_ok()).count(), 2);
    let before = lost();
    server.ask("flush_all\r\n", "OK");
    assert_eq!((0..3).filter(|_| limiter.check("a", 1).is_ok()).count(), 2);
    assert!(lost() > before);
}

#[test]
fn handles_of_one_backend_are_one_store() {
    let server = MemcachedServer::start();
    let (one, other) = (backend(&server.url()), backend(&server.url()));
    assert_eq!(one.identity(), one.clone().identity());
    assert_ne!(one.identity(), other.identity());
    assert_eq!(one.server(), other.server());
    assert_eq!((one.kind(), one.denial_cache()), ("memcached", false));
    assert!(MemcachedBackend::new(&server.url()).unwrap().denial_cache());
}

#[test]
fn settings_that_are_wrong_are_errors() {
    for url in ["redis://127.0.0.1", "memcached://user:s3cret@127.0.0.1", "memcacheds://127.0.0.1", "memcached://"] {
        let error = MemcachedBackend::new(url).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Configuration);
        assert!(!error.to_string().contains("s3cret"));
    }
    for timeout in [Duration::ZERO, Duration::from_secs(3_601)] {
        assert!(MemcachedBackend::builder().url("memcached://127.0.0.1").timeout(timeout).build().is_err());
    }
    assert!(MemcachedBackend::new("memcached://127.0.0.1?timeout=2h").is_err());
}

#[test]
fn the_attribute_takes_the_environments_server() {
    #[rate_limit(count = 1, per = "1h", backend = memcached, on_backend_error = deny)]
    fn limited() -> Result<(), RateLimitExceeded> {
        Ok(())
    }

    // In a process of its own, which has an environment of its own.
    if std::env::var_os("MEMCACHED_URL").is_some() {
        assert_eq!([limited().is_ok(), limited().is_ok()], [true, false]);
        return;
    }
    let server = MemcachedServer::start();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["the_attribute_takes_the_environments_server", "--exact"])
        .env("MEMCACHED_URL", format!("{}?timeout=20s", server.url()))
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert_eq!(server.figure("curr_items"), 1);
}

#[test]
fn all_algorithms_keep_their_limits_while_two_handles_compete() {
    let server = MemcachedServer::start();
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let limit = Limit::new(300, Duration::from_secs(365 * DAY)).with_algorithm(algorithm);
        let admitted: usize = std::thread::scope(|scope| {
            let work = || {
                let limiter = limiter(&server, "compete", limit);
                (0..200).filter(|_| limiter.check("key", 1).is_ok()).count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 300, "{algorithm:?}");
    }
}
