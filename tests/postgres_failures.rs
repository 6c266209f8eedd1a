//! PostgreSQL failures: no call hangs or panics, the policy applies, and the limit is enforced again
//! afterwards.

use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Backend, Outcome, Request};
use ratelimit_runtime::{BackendErrorKind, ExceededKind, Limit, OnBackendError, PostgresBackend, RateLimiter};
use ratelimit_tests::{Network, PostgresServer, Proxy, RECOVERY, SLACK, failures};

const HOUR: Duration = Duration::from_secs(3_600);
const TIMEOUT: Duration = Duration::from_millis(200);
const PATIENT: Duration = Duration::from_secs(20);

fn start() -> PostgresServer {
    let server = PostgresServer::start();
    server.sql(&PostgresBackend::migration("public"));
    server
}

fn backend(url: &str, timeout: Duration) -> PostgresBackend {
    PostgresBackend::builder().url(url).timeout(timeout).denial_cache(false).build().unwrap()
}

/// A limiter that asks PostgreSQL each time, so that failures are visible.
fn limiter(name: &str, url: &str, policy: OnBackendError, count: u32) -> RateLimiter {
    let backend = backend(url, TIMEOUT);
    RateLimiter::builder(name).backend(backend).on_backend_error(policy).limit(Limit::new(count, HOUR)).build().unwrap()
}

/// How many of five calls are admitted, with a deadline for a busy machine.
fn admitted(name: &str, url: &str, key: &str, count: u32) -> usize {
    let builder = RateLimiter::builder(name).backend(backend(url, PATIENT)).on_backend_error(OnBackendError::Deny);
    let patient = builder.limit(Limit::new(count, HOUR)).build().unwrap();
    (0..5).filter(|_| patient.check(key, 1).is_ok()).count()
}

fn request(count: u32, action: Action) -> Request {
    Request::new("rl:1:{failures}:x", &[Limit::new(count, HOUR)], action)
}

fn take() -> Request {
    request(50, Action::Take { cost: 1, max_wait: Duration::ZERO })
}

fn left(backend: &PostgresBackend) -> u32 {
    match backend.decide(&request(50, Action::Peek { cost: 0, max_wait: Duration::ZERO })).unwrap().outcome {
        Outcome::Admitted(admitted) => admitted.remaining(),
        other => panic!("{other:?}"),
    }
}

/// Runs a call that must not hang.
fn bounded<T>(call: impl FnOnce() -> T) -> T {
    failures::bounded(TIMEOUT + SLACK, call)
}

/// Calls until PostgreSQL decides again.
fn recover(limiter: &RateLimiter) {
    let until = Instant::now() + RECOVERY + SLACK;
    while bounded(|| limiter.check("recovery", 0)).is_err() || bounded(|| limiter.peek("recovery", 1)).is_err() {
        assert!(Instant::now() < until, "PostgreSQL is back, and its limits are not kept");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks the three policies, each on an unused key.
fn policies_apply(name: &str, url: &str) {
    failures::policies_apply(TIMEOUT + SLACK, |policy| limiter(name, url, policy, 2));
}

#[test]
fn a_killed_server_costs_its_limits_until_it_is_back() {
    let server = start();
    let limiter = limiter("killed", &server.url(), OnBackendError::Deny, 3);
    assert_eq!(admitted("killed", &server.url(), "a", 3), 3);
    recover(&limiter);
    // Everything that a crash could lose is on disk now.
    server.sql("CHECKPOINT");
    server.kill();
    policies_apply("killed policies", &server.url());
    assert!((0..20).all(|_| bounded(|| limiter.check("a", 1)).is_err()));
    server.restart();
    recover(&limiter);
    assert!(limiter.check("a", 1).is_err(), "it kept its data");
    assert_eq!(admitted("killed", &server.url(), "b", 3), 3);
}

#[test]
fn a_restart_between_two_calls_fails_neither() {
    let server = start();
    let backend = backend(&server.url(), PATIENT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..2 {
        backend.decide(&take()).unwrap();
        runtime.block_on(backend.decide_async(&take()).unwrap()).unwrap();
        // The runtime is idle, and does not notice that its connection is closed.
        server.restart();
    }
    backend.decide(&take()).unwrap();
    runtime.block_on(backend.decide_async(&take()).unwrap()).unwrap();
}

#[test]
fn a_frozen_server_costs_a_call_its_timeout() {
    let server = start();
    let limiter = limiter("frozen", &server.url(), OnBackendError::Deny, 3);
    assert_eq!(admitted("frozen", &server.url(), "a", 3), 3);
    recover(&limiter);
    server.freeze();
    policies_apply("frozen policies", &server.url());
    let start = Instant::now();
    assert!((0..5).all(|_| bounded(|| limiter.check("a", 1)).is_err()));
    assert!(start.elapsed() >= TIMEOUT, "they waited for the server");
    server.thaw();
    recover(&limiter);
    assert!(limiter.check("a", 1).is_err(), "it kept its data");
    assert_eq!(admitted("frozen", &server.url(), "b", 3), 3);
}

#[test]
fn a_slow_network_fails_calls_and_not_the_limit() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let limiter = limiter("slow", &url, OnBackendError::Deny, 3);
    recover(&limiter);
    assert_eq!((0..2).filter(|_| limiter.check("a", 1).is_ok()).count(), 2);
    proxy.set(Network::Slow(3 * TIMEOUT));
    assert!((0..8).all(|_| bounded(|| limiter.check("a", 1)).is_err()));
    proxy.set(Network::LosesAll);
    assert!((0..4).all(|_| bounded(|| limiter.check("a", 1)).is_err()));
    proxy.set(Network::Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    assert!((0..4).all(|_| bounded(|| limiter.check("a", 1)).is_err()));
    proxy.set(Network::Fine);
    recover(&limiter);
    // None of the late calls was charged before its lock timed out.
    assert!((0..3).filter(|_| limiter.check("a", 1).is_ok()).count() <= 1);
}

#[test]
fn a_commit_that_is_not_answered_is_not_repeated() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let through = backend(&format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port()), PATIENT);
    let direct = backend(&server.url(), PATIENT);
    through.decide(&take()).unwrap();
    assert_eq!(left(&direct), 49);
    // A lock on the table holds the commit back, and its answer is lost.
    server.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$; \
                CREATE TRIGGER slow AFTER UPDATE ON ratelimit_buckets EXECUTE FUNCTION slow()",
    );
    std::thread::scope(|scope| {
        let call = scope.spawn(|| through.decide(&take()));
        while server.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        proxy.set(Network::LosesConnections);
        std::thread::sleep(Duration::from_millis(100));
        server.sql("DROP TRIGGER slow ON ratelimit_buckets");
        assert_eq!(left(&direct), 48);
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ratelimit'");
        drop(call);
    });
    assert_eq!(left(&direct), 48);
}

#[test]
fn a_session_that_ends_in_the_middle_charges_nothing() {
    let server = start();
    let backend = backend(&server.url(), PATIENT);
    backend.decide(&take()).unwrap();
    let before = left(&backend);
    server.sql("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$; \
                CREATE TRIGGER slow AFTER UPDATE ON ratelimit_buckets EXECUTE FUNCTION slow()");
    std::thread::scope(|scope| {
        let call = scope.spawn(|| backend.decide(&take()));
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while server.sql(end).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = call.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Unreachable, "{error}");
    });
    server.sql("DROP TRIGGER slow ON ratelimit_buckets");
    assert_eq!(left(&backend), before);
}

#[test]
fn a_lock_of_somebody_else_fails_calls_on_its_key_alone() {
    let server = start();
    let limiter = limiter("held", &server.url(), OnBackendError::Deny, 1_000);
    recover(&limiter);
    limiter.check("held", 1).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let holder = runtime.block_on(ratelimit_tests::connect(&server.url())).unwrap();
    let hold = "BEGIN; SELECT FROM ratelimit_buckets WHERE encode(key, 'escape') LIKE '%\"held\"%' FOR UPDATE";
    runtime.block_on(holder.batch_execute(hold)).unwrap();
    assert!(bounded(|| limiter.check("held", 1)).is_err());
    assert!(bounded(|| limiter.check("free", 1)).is_ok());
    runtime.block_on(holder.batch_execute("COMMIT")).unwrap();
    recover(&limiter);
    assert!(limiter.check("held", 1).is_ok());
}

#[test]
fn a_write_that_has_to_wait_holds_no_bucket_beyond_its_timeout() {
    let server = start();
    let (hasty, patient) = (backend(&server.url(), TIMEOUT), backend(&server.url(), PATIENT));
    let other = Request::new("rl:1:{failures}:other", take().limits(), take().action().clone());
    let both = [take(), other];
    let connected = Instant::now() + RECOVERY + SLACK;
    while hasty.decide(&request(50, Action::Peek { cost: 1, max_wait: Duration::ZERO })).is_err() {
        assert!(Instant::now() < connected, "no connection is opened");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let holder = runtime.block_on(ratelimit_tests::connect(&server.url())).unwrap();
    // Rows can be read, and not written.
    runtime.block_on(holder.batch_execute("BEGIN; LOCK TABLE ratelimit_buckets IN SHARE MODE")).unwrap();
    let calls: [&dyn Fn() -> bool; 2] = [&|| hasty.decide(&take()).is_err(), &|| hasty.decide_together(&both).is_err()];
    for call in calls {
        assert!(bounded(call));
        let until = Instant::now() + TIMEOUT + SLACK;
        while !server.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'").is_empty() {
            assert!(Instant::now() < until, "a bucket is held");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    runtime.block_on(holder.batch_execute("COMMIT")).unwrap();
    assert_eq!(left(&patient), 50, "what failed has charged nothing");
}

#[test]
fn merged_calls_on_other_keys_do_not_wait_for_a_key_that_is_held() {
    let server = start();
    let backend = backend(&server.url(), PATIENT);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let take = |key: &str| {
        let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
        Request::new(format!("rl:1:{{merged:\"{key}\"}}:x"), &[Limit::new(1_000, HOUR)], take)
    };
    backend.decide(&take("held")).unwrap();
    // Another process holds the bucket: its lock is the one that a call on it waits for.
    let holder = runtime.block_on(ratelimit_tests::connect(&server.url())).unwrap();
    let lock_table = "BEGIN; LOCK TABLE ratelimit_buckets IN ACCESS EXCLUSIVE MODE";
    runtime.block_on(holder.batch_execute(lock_table)).unwrap();
    let number = std::thread::scope(|scope| {
        let call = scope.spawn(|| backend.decide(&take("held")));
        let locks = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory'";
        let number = loop {
            if let Some(row) = server.sql(locks).pop() {
                break row[0].clone();
            }
        };
        runtime.block_on(holder.batch_execute("COMMIT")).unwrap();
        call.join().unwrap().unwrap();
        number
    });
    runtime.block_on(holder.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({number})"))).unwrap();
    let call = |key: String| {
        let (backend, request) = (backend.clone(), take(&key));
        runtime.spawn(async move { backend.decide_async(&request).unwrap().await })
    };
    let calls = || (0..64).map(|call| if call % 8 == 0 { "held".to_owned() } else { format!("free {call}") });
    let (held, free): (Vec<_>, Vec<_>) =
        calls().map(|key| (key == "held", call(key))).partition(|(is_held, _)| *is_held);
    for (_, call) in free {
        runtime.block_on(call).unwrap().unwrap();
    }
    assert!(held.iter().all(|(_, call)| !call.is_finished()));
    runtime.block_on(holder.batch_execute("COMMIT")).unwrap();
    for (_, call) in held {
        runtime.block_on(call).unwrap().unwrap();
    }
}

#[test]
fn merged_calls_end_while_nothing_answers_and_their_connections_are_replaced() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let limiter = limiter("merged", &url, OnBackendError::Deny, 1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let calls = || {
        let call = |number: usize| {
            let limiter = limiter.clone();
            runtime.spawn(async move { limiter.check_async(format!("{}", number % 4), 1).await.is_ok() })
        };
        let calls: Vec<_> = (0..64).map(call).collect();
        calls.into_iter().map(|call| runtime.block_on(call).unwrap()).filter(|ok| *ok).count()
    };
    recover(&limiter);
    for network in [Network::LosesConnections, Network::LosesAnswers, Network::LosesConnections] {
        proxy.set(network);
        for _ in 0..4 {
            bounded(calls);
        }
        proxy.set(Network::Fine);
        let until = Instant::now() + RECOVERY + SLACK;
        while calls() == 0 {
            assert!(Instant::now() < until, "no connection is replaced");
        }
    }
}

#[test]
fn a_server_that_is_not_there_is_unreachable_at_once() {
    let server = start();
    let url = server.url();
    drop(server);
    let backend = backend(&url, PATIENT);
    for _ in 0..10 {
        let error = bounded(|| backend.decide(&take())).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Unreachable, "{error}");
    }
}

#[test]
fn too_many_connections_are_a_failure_and_not_a_hang() {
    let server = PostgresServer::start_with(&[
        "max_connections = 6",
        "superuser_reserved_connections = 0",
        "max_wal_senders = 0",
    ]);
    let url = server.url();
    server.sql(&PostgresBackend::migration("public"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let limiter = limiter("crowded", &url, OnBackendError::Deny, 1_000);
    let taken: Vec<_> = (0..6).map_while(|_| runtime.block_on(ratelimit_tests::connect(&url)).ok()).collect();
    assert_eq!(bounded(|| limiter.check("a", 1)).unwrap_err().kind(), ExceededKind::BackendFailed);
    drop(taken);
    recover(&limiter);
    assert!(limiter.check("a", 1).is_ok());
}

#[test]
fn a_promoted_standby_takes_over() {
    let server = start();
    let standby = server.start_standby();
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        server.port(),
        standby.port()
    );
    let limiter = limiter("failover", &url, OnBackendError::Deny, 3);
    recover(&limiter);
    while limiter.check("a", 1).is_ok() {}
    // All that was admitted has reached the standby.
    server.sql("CHECKPOINT");
    let written = server.sql("SELECT pg_current_wal_flush_lsn()")[0][0].clone();
    while standby.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'")) != [["t"]] {
        std::thread::sleep(Duration::from_millis(5));
    }
    server.kill();
    assert!((0..5).all(|_| bounded(|| limiter.check("b", 1)).is_err()), "a standby does not decide");
    standby.promote();
    recover(&limiter);
    assert!(limiter.check("a", 1).is_err(), "it has the data");
    assert_eq!((0..5).filter(|_| limiter.check("b", 1).is_ok()).count(), 3);
}

#[test]
fn a_standby_alone_does_not_decide() {
    let server = start();
    let standby = server.start_standby();
    let error = backend(&standby.url(), PATIENT).decide(&take()).unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Unreachable, "{error}");
    assert_eq!(left(&backend(&server.url(), PATIENT)), 50);
}
