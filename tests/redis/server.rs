//! The Redis backend on a real server: the cost of a decision, what it stores, and how the server
//! is reached.

use std::collections::HashSet;
use std::future::Future;
use std::process::Command;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Backend, Outcome, Request};
use ratelimit_runtime::{
    Algorithm, BackendError, BackendErrorKind, Limit, OnBackendError, RateLimitExceeded, RateLimiter, RedisBackend,
    rate_limit,
};
use ratelimit_tests::RedisServer;

const HOUR: Duration = Duration::from_secs(3_600);
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

/// A backend with a deadline for a busy machine.
fn patient(url: &str) -> RedisBackend {
    RedisBackend::builder().url(url).timeout(Duration::from_secs(20)).build().unwrap()
}

/// A limiter that makes failures of its backend visible.
fn limiter(server: &RedisServer, name: &str, limits: &[Limit]) -> RateLimiter {
    let builder = RateLimiter::builder(name).backend(patient(&server.url())).on_backend_error(OnBackendError::Deny);
    limits.iter().fold(builder, |builder, limit| builder.limit(*limit)).build().unwrap()
}

fn take(backend: &RedisBackend, bucket: &str) -> Result<bool, BackendError> {
    let limits = [Limit::new(1, HOUR)];
    let request = Request::new(bucket, &limits, Action::Take { cost: 1, max_wait: Duration::ZERO });
    Ok(matches!(backend.decide(&request)?.outcome, Outcome::Admitted(_)))
}

fn keys(server: &RedisServer) -> Vec<Vec<u8>> {
    redis::cmd("KEYS").arg("*").query(&mut server.connection()).unwrap()
}

#[test]
fn a_decision_is_one_call_of_the_script() {
    let server = RedisServer::start();
    let limits = ALGORITHMS.map(|algorithm| Limit::new(10, HOUR).with_algorithm(algorithm));
    let timeout = Duration::from_secs(20);
    let asking = RedisBackend::builder().url(server.url()).timeout(timeout).denial_cache(false).build().unwrap();
    let builder = RateLimiter::builder("one call").backend(asking).on_backend_error(OnBackendError::Deny);
    let limiter = limits.iter().fold(builder, |builder, limit| builder.limit(*limit)).build().unwrap();
    let counts = || ["evalsha", "get", "set", "time", "eval", "del"].map(|command| server.calls_of(command));
    assert_eq!((0..30).filter(|_| limiter.check("a", 1).is_ok()).count(), 10);
    // The first call did not know the script. The denied ones wrote nothing. The ring of the window
    // grows by four slots at a time, in a SET.
    assert_eq!(counts(), [31, 30, 4, 30, 0, 0]);
    assert_eq!(server.calls_of("script|load"), 1);
    limiter.peek("a", 0).unwrap();
    assert_eq!(counts(), [32, 31, 4, 31, 0, 0]);
    limiter.reset("a").unwrap();
    // A reset keeps a block, so it reads the record.
    assert_eq!(counts(), [33, 32, 4, 32, 0, 1]);
    assert_eq!(keys(&server).len(), 0);
}

#[test]
fn a_key_that_is_denied_costs_the_server_one_decision_until_it_is_admitted() {
    let server = RedisServer::start();
    let per = Duration::from_millis(900);
    let limiter = limiter(&server, "denied", &[Limit::new(1, per)]);
    let start = Instant::now();
    limiter.check("a", 1).unwrap();
    let mut last = per;
    while start.elapsed() < per / 3 {
        let exceeded = limiter.check("a", 1).unwrap_err();
        let after = exceeded.retry_after().unwrap();
        assert!(after <= last, "it comes nearer");
        last = after;
    }
    // One that did not know the script, one admitted, one denied.
    assert_eq!(server.calls_of("evalsha"), 3);
    let mut admitted_after = None;
    while admitted_after.is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "it is denied for ever");
        admitted_after = limiter.check("a", 1).is_ok().then(|| start.elapsed());
    }
    assert!(admitted_after >= Some(per), "{admitted_after:?}");
}

#[test]
fn denials_by_a_limit_of_constants_are_cached_too() {
    static URL: OnceLock<String> = OnceLock::new();
    const COUNT: u32 = 2;
    const PERIOD: Duration = HOUR;
    #[rate_limit(count = COUNT, per = PERIOD, key = "a", backend = patient(URL.wait()))]
    fn call() -> Result<(), RateLimitExceeded> {
        Ok(())
    }
    let server = RedisServer::start();
    URL.set(server.url()).unwrap();
    assert_eq!((0..9).filter(|_| call().is_ok()).count(), 2);
    // One that did not know the script, two admitted, and one denied for each second.
    assert!(server.calls_of("evalsha") < 8);
}

#[test]
fn calls_that_come_together_share_few_connections() {
    let server = RedisServer::start();
    let connections = || -> u64 {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut server.connection()).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse().unwrap()
    };
    let before = connections();
    let limiter = limiter(&server, "together", &[Limit::new(100, HOUR)]);
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| limiter.check("a", 1).unwrap());
        }
    });
    // Four lanes, the link that notices when the server closes them, and the connection that
    // counts.
    assert!(connections() - before <= 6);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let before = connections();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let limiter = limiter.clone();
            runtime.spawn(async move { limiter.check_async("a", 1).await.is_ok() })
        })
        .collect();
    for task in tasks {
        assert!(runtime.block_on(task).unwrap());
    }
    // The runtime's, and the connection that counts.
    assert_eq!(connections() - before, 2);
}

#[test]
fn a_server_that_forgot_the_script_learns_it_again() {
    let server = RedisServer::start();
    let limiter = limiter(&server, "flushed", &[Limit::new(100, HOUR)]);
    for _ in 0..5 {
        limiter.check("a", 1).unwrap();
        redis::cmd("SCRIPT").arg("FLUSH").query::<()>(&mut server.connection()).unwrap();
    }
    let admitted = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..16).map(|_| scope.spawn(|| (0..20).filter(|_| limiter.check("a", 1).is_ok()).count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(admitted, 95, "nothing was charged twice, and nothing was not charged");
}

#[test]
fn every_key_expires_when_its_bucket_is_fresh() {
    let server = RedisServer::start();
    let minute = Duration::from_secs(60);
    for algorithm in ALGORITHMS {
        let limits = [Limit::new(3, minute).with_algorithm(algorithm), Limit::new(10, 2 * minute)];
        let limiter = RateLimiter::builder(algorithm.name())
            .backend(patient(&server.url()))
            .on_backend_error(OnBackendError::Deny)
            .backoff(Duration::from_secs(1), minute)
            .limit(limits[0])
            .limit(limits[1])
            .build()
            .unwrap();
        // Taken, denied, refunded, refunded while idle, and with a cost of zero.
        let first = limiter.check("used", 1).unwrap();
        for _ in 0..4 {
            let _ = limiter.check("used", 1);
        }
        limiter.refund(first).unwrap();
        limiter.refund(limiter.check("refunded", 2).unwrap()).unwrap();
        limiter.check("free", 0).unwrap();
        limiter.check("never", 11).unwrap_err();
        // Booked, and given up.
        let backend = patient(&server.url());
        let request = |action| Request::new(format!("rl:1:{{booked:{algorithm:?}}}:x"), &limits, action);
        let book = Action::Take { cost: 3, max_wait: HOUR };
        for _ in 0..2 {
            backend.decide(&request(book.clone())).unwrap();
        }
        let Outcome::Admitted(booked) = backend.decide(&request(book)).unwrap().outcome else { panic!("not booked") };
        backend.decide(&request(Action::GiveBack(booked.permit().clone()))).unwrap();
    }
    let mut connection = server.connection();
    let keys = keys(&server);
    let expiries: Vec<i64> =
        keys.iter().map(|key| redis::cmd("PTTL").arg(key).query(&mut connection).unwrap()).collect();
    // Those with permits taken or booked, and the refunded ones, in which nothing is left.
    assert_eq!(expiries.len(), 9, "{keys:?}");
    for expiry in expiries {
        assert!((1..=5 * 60_000).contains(&expiry), "{expiry} ms");
    }
}

#[test]
fn the_clock_is_the_servers() {
    let server = RedisServer::shared();
    let backend = patient(&server.url());
    let mut connection = server.connection();
    let mut time = || -> u64 {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(&mut connection).unwrap();
        seconds * 1_000_000 + micros
    };
    let before = time();
    let limits = [Limit::new(1, HOUR)];
    let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
    let answer = backend.decide(&Request::new("rl:1:{time}:x", &limits, take)).unwrap();
    let after = time();
    assert!((before..=after).contains(&(answer.now.as_nanos() / 1_000)));
}

#[test]
fn keys_of_any_content_have_a_bucket_of_their_own() {
    let server = RedisServer::start();
    let limits = [Limit::new(1, HOUR)];
    let (limiter, other) = (limiter(&server, "a", &limits), limiter(&server, "a:\"x\"}", &limits));
    let long = "x".repeat(1_000_000);
    let hostile = [
        "",
        "x",
        "x\n",
        "x\r\nDEL *\r\n",
        "\0",
        "{",
        "}",
        "{}",
        "{x}",
        "}{",
        "x}:s1",
        "*",
        "\"",
        "%22",
        "%",
        "a:\"x\"",
        "\u{7f}",
        "é",
        long.as_str(),
        &(long.clone() + "y"),
        &("y".to_owned() + &long),
        &"{".repeat(2_000),
        &"\n".repeat(2_000),
        "%sha256:0",
    ];
    for key in hostile {
        assert!(limiter.check(key, 1).is_ok(), "{key:.20} was taken");
        assert!(limiter.check(key, 1).is_err(), "{key:.20} is free");
    }
    for key in hostile {
        assert!(other.check(key, 1).is_ok(), "{key:.20} was taken by the other limiter");
        assert!(limiter.check(key.as_bytes(), 1).is_ok(), "{key:.20} is the same as bytes");
    }
    let keys: HashSet<Vec<u8>> = keys(&server).into_iter().collect();
    assert_eq!(keys.len(), 3 * hostile.len());
    for key in keys {
        let key = String::from_utf8(key).unwrap();
        assert!(key.len() <= 512, "{} bytes", key.len());
        assert!(key.starts_with("rl:1:{") && key.matches(['{', '}']).count() == 2, "{key}");
        assert!(!key.contains(char::is_control), "{key:?}");
    }
}

#[test]
fn limiters_of_other_limits_have_other_buckets() {
    let server = RedisServer::shared();
    let name = "other limits";
    let limits =
        [Limit::new(1, HOUR), Limit::new(1, 2 * HOUR), Limit::new(1, HOUR).with_algorithm(Algorithm::FixedWindow)];
    for limit in limits {
        assert!(limiter(server, name, &[limit]).check("a", 1).is_ok());
    }
    assert!(limiter(server, name, &limits).check("a", 1).is_ok());
    for limit in limits {
        assert!(limiter(server, name, &[limit]).check("a", 1).is_err());
    }
}

#[test]
fn a_key_of_another_version_counts_as_fresh() {
    let server = RedisServer::shared();
    let backend = patient(&server.url());
    for (number, bytes) in [vec![], vec![2_u8; 60], vec![1; 45], vec![1], vec![255; 200], {
        let mut empty_window = vec![0; 45];
        (empty_window[0], empty_window[1]) = (1, 1);
        empty_window.extend([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        empty_window
    }]
    .into_iter()
    .enumerate()
    {
        let bucket = format!("rl:1:{{version {number}}}:x");
        redis::cmd("SET").arg(&bucket).arg(bytes).query::<()>(&mut server.connection()).unwrap();
        assert!(take(&backend, &bucket).unwrap());
        assert!(!take(&backend, &bucket).unwrap());
        let expiry: i64 = redis::cmd("PTTL").arg(&bucket).query(&mut server.connection()).unwrap();
        assert!(expiry > 0, "{expiry}");
    }
}

#[test]
fn a_wrong_password_is_a_wrong_configuration_and_shown_nowhere() {
    let server = RedisServer::start_with(&["--requirepass", "s3cret"]);
    let right = patient(&format!("redis://:s3cret@127.0.0.1:{}", server.port()));
    assert!(take(&right, "rl:1:{password}:x").unwrap());
    let wrong = patient(&format!("redis://:wr0ng@127.0.0.1:{}", server.port()));
    for backend in [&wrong, &patient(&server.url())] {
        let error = take(backend, "rl:1:{password}:x").unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
        for shown in [error.to_string(), format!("{error:?}"), format!("{backend:?}")] {
            assert!(!shown.contains("wr0ng"), "{shown}");
        }
    }
    let builder = RedisBackend::builder().url("redis://:s3cret@cache");
    assert!(!format!("{builder:?} {right:?}").contains("s3cret"));
}

#[test]
fn the_database_is_the_one_of_the_url() {
    let server = RedisServer::start();
    assert!(take(&patient(&format!("{}/3", server.url())), "rl:1:{database}:x").unwrap());
    assert_eq!(keys(&server).len(), 0);
    let mut connection = server.connection();
    redis::cmd("SELECT").arg(3).query::<()>(&mut connection).unwrap();
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut connection).unwrap(), 1);
    take(&patient(&format!("{}/99", server.url())), "rl:1:{database}:x").unwrap_err();
}

#[test]
fn resp2_works_where_the_url_asks_for_it() {
    let server = RedisServer::shared();
    let backend = patient(&format!("{}/?protocol=resp2", server.url()));
    assert!(take(&backend, "rl:1:{resp2}:x").unwrap());
    assert!(!take(&backend, "rl:1:{resp2}:x").unwrap());
}

#[test]
fn a_server_without_hello_is_reached_by_resp2_and_its_message_says_so() {
    let server = RedisServer::start_with(&["--rename-command", "HELLO", "", "--requirepass", "e"]);
    let url = |query: &str| format!("redis://:e@127.0.0.1:{}/{query}", server.port());
    let client = redis::Client::open(url("")).unwrap();
    let error = take(&patient(&url("")), "rl:1:{hello}:x").unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
    let message = error.to_string();
    assert!(message.contains("protocol=resp2") && message.contains("refused: "), "{message}");
    // The arguments are hidden, and nothing else: not each `e` of the message.
    assert!(message.contains("with args beginning with: ***") && !message.contains("'e'"), "{message}");
    let by_builder = RedisBackend::builder().url(url("")).resp2(true).timeout(Duration::from_secs(20)).build().unwrap();
    for (number, backend) in [patient(&url("?protocol=resp2")), by_builder].iter().enumerate() {
        let bucket = format!("rl:1:{{resp2 {number}}}:x");
        assert!(take(backend, &bucket).unwrap());
        assert!(!take(backend, &bucket).unwrap());
        let request = Request::new(bucket, &[Limit::new(1, HOUR)], Action::Reset);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(backend.decide_async(&request).unwrap()).unwrap();
        // A call finds that the connection is gone, and replaces it.
        redis::cmd("CLIENT")
            .arg("KILL")
            .arg("TYPE")
            .arg("normal")
            .arg("SKIPME")
            .arg("yes")
            .exec(&mut client.get_connection().unwrap())
            .unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while runtime.block_on(backend.decide_async(&request).unwrap()).is_err() {
            assert!(Instant::now() < until, "it does not get well");
        }
    }
}

#[test]
fn a_unix_socket_works() {
    let (_server, socket) = RedisServer::start_with_socket();
    let backend = patient(&format!("unix://{socket}?db=1"));
    assert!(take(&backend, "rl:1:{socket}:x").unwrap());
    let (limits, take) = ([Limit::new(2, HOUR)], Action::Take { cost: 1, max_wait: Duration::ZERO });
    let request = Request::new("rl:1:{socket}:y", &limits, take);
    for left in [1, 0] {
        let answer = futures_executor::block_on(backend.decide_async(&request).unwrap()).unwrap();
        assert!(matches!(answer.outcome, Outcome::Admitted(admitted) if admitted.remaining() == left));
    }
}

#[test]
fn the_environment_names_the_server() {
    let server = RedisServer::start_with(&["--user", "app", "on", ">s3cret", "~*", "+@all"]);
    let port = server.port().to_string();
    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_redis_client"));
        for name in ["REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_USERNAME", "REDIS_PASSWORD"] {
            command.env_remove(name);
        }
        let output = command.arg("once").envs(variables.iter().copied()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(run(&[("REDIS_URL", &server.url())]), "admitted");
    assert_eq!(run(&[("REDIS_URL", &server.url())]), "denied");
    assert_eq!(run(&[("REDIS_HOST", "127.0.0.1"), ("REDIS_PORT", &port), ("REDIS_DB", "1")]), "admitted");
    let login = [("REDIS_USERNAME", "app"), ("REDIS_PASSWORD", "s3cret")];
    assert_eq!(run(&[("REDIS_PORT", &port), ("REDIS_DB", "2"), login[0], login[1]]), "admitted");
    let wrong = run(&[("REDIS_PORT", &port), login[0], ("REDIS_PASSWORD", "wr0ng")]);
    assert!(wrong.starts_with("error: Configuration") && !wrong.contains("wr0ng"), "{wrong}");
    let wrong = run(&[("REDIS_URL", "redis//s3cret@cache")]);
    assert!(wrong.starts_with("error: Configuration") && !wrong.contains("s3cret"), "{wrong}");
}

#[test]
fn a_wrong_url_is_an_error_at_once() {
    for url in
        ["", "cache:6379", "http://cache", "redis://", "redis://cache/x", "redis://cache:99999", "redis://user@cache"]
    {
        let error = RedisBackend::new(url).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Configuration, "{url}: {error}");
    }
    let zero = RedisBackend::builder().url("redis://cache").timeout(Duration::ZERO).build();
    assert_eq!(zero.unwrap_err().kind(), BackendErrorKind::Configuration);
}

#[test]
fn url_errors_do_not_show_the_password() {
    let mut refused = 0;
    for url in [
        "redis://:s3cret@",
        "redis://app:s3cret@/",
        "redis://app:s3cret@127.0.0.1:1",
        "redis://app:s3cret@cache:99999",
        "redis://app:s3cret@cache:port",
        "redis://app:s3cret@cache/x",
        "redis://app:s3cret@cache/0?protocol=x",
        "redis://app:s3cret@[::1",
        "redis://app:s3cret@ca che",
        "redis://app:s3cret@cache#insecure",
        "rediss://app:s3cret@cache#insecure",
        "redis:/app:s3cret@cache",
        "app:s3cret@cache",
        "http://app:s3cret@cache",
        "unix:///socket?pass=s3cret&db=x",
        "unix://app:s3cret@",
        "redis+sentinel://:s3cret@cache",
        "redis+sentinel://:s3cret@cache:x/master",
        "redis+sentinel://:s3cret@cache/master/x",
        "redis+cluster://:s3cret@cache/1",
        "redis+cluster://:s3cret@cache:x,cache",
        "redis+other://:s3cret@cache",
    ] {
        let shown = match RedisBackend::builder().url(url).build() {
            Err(error) => {
                refused += 1;
                format!("{error} {error:?}")
            }
            Ok(backend) => {
                let error = take(&backend, "rl:1:{wrong}:x").unwrap_err();
                format!("{backend:?} {error} {error:?}")
            }
        };
        assert!(!shown.contains("s3cret"), "{url}: {shown}");
        let builder = RedisBackend::builder().url(url);
        assert!(!format!("{builder:?}").contains("s3cret"), "{builder:?}");
    }
    assert!(refused > 15, "{refused}");
}

#[test]
fn blocking_calls_work_inside_a_tokio_runtime() {
    let server = RedisServer::shared();
    let limiter = limiter(server, "in tokio", &[Limit::new(500, HOUR)]);
    // More than one task's budget.
    let work = |limiter: RateLimiter, key: &'static str| async move {
        (0..600).filter(|_| limiter.check(key, 1).is_ok()).count()
    };
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(current.block_on(work(limiter.clone(), "current")), 500);
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let handle = multi.spawn(work(limiter, "multi"));
    assert_eq!(multi.block_on(handle).unwrap(), 500);
}

#[test]
fn futures_work_on_any_executor() {
    let server = RedisServer::shared();
    let limiter = limiter(server, "any executor", &[Limit::new(2, HOUR)]);
    let three = async |key: &'static str| {
        [
            limiter.check_async(key, 1).await.is_ok(),
            limiter.check_async(key, 1).await.is_ok(),
            limiter.check_async(key, 1).await.is_ok(),
        ]
    };
    assert_eq!(futures_executor::block_on(three("futures")), [true, true, false]);
    // A runtime without timers.
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(tokio.block_on(three("tokio")), [true, true, false]);
}

#[test]
fn a_future_that_is_dropped_gives_its_permits_back() {
    let server = RedisServer::start();
    let limiter = limiter(&server, "dropped", &[Limit::new(1, HOUR)]);
    limiter.peek("a", 1).unwrap();
    let known = server.calls_of("evalsha");
    let mut future = Box::pin(limiter.check_async("a", 1));
    let started = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(future);
    let until = Instant::now() + Duration::from_secs(20);
    let wanted = if matches!(started, Poll::Pending) { 2 } else { panic!("decided without Redis") };
    while server.calls_of("evalsha") < known + wanted {
        assert!(Instant::now() < until, "the permit was not given back");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(limiter.peek("a", 1).unwrap().remaining(), 1);
}

#[test]
fn threads_on_one_limit_admit_exactly_count() {
    let server = RedisServer::shared();
    for algorithm in ALGORITHMS {
        let limiter = limiter(server, "threads", &[Limit::new(100, HOUR).with_algorithm(algorithm)]);
        let admitted = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..40).filter(|_| limiter.check("a", 1).is_ok()).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(admitted, 100, "{algorithm:?}");
    }
}
