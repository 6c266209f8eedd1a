//! Several processes on one limit in PostgreSQL: all their admissions together, by the server's
//! clock, stay within it. A process that is stopped holds no key for longer than its timeout.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Backend, Request};
use ratelimit_runtime::{Limit, PostgresBackend};
use ratelimit_tests::{ALGORITHMS, Network, PostgresServer, Proxy, above_at, clients, millis};

fn backend(server: &PostgresServer) -> PostgresBackend {
    let backend = PostgresBackend::builder().url(server.url()).timeout(Duration::from_secs(20)).build().unwrap();
    backend.create_table().unwrap();
    backend
}

/// Times of all admissions of all processes, in microseconds, sorted.
fn admissions(server: &PostgresServer, limit: &Limit, duration: Duration) -> Vec<u64> {
    backend(server);
    clients::admissions(env!("CARGO_BIN_EXE_postgres_client"), ("DATABASE_URL", &server.url()), "run", limit, duration)
}

#[test]
fn count_permits_are_admitted_in_all() {
    let server = PostgresServer::start();
    for algorithm in ALGORITHMS {
        let limit = Limit::new(50, millis(366 * 86_400_000)).with_algorithm(algorithm);
        let times = admissions(&server, &limit, Duration::ZERO);
        assert_eq!(times.len(), 50, "{algorithm:?}");
    }
}

#[test]
fn no_limit_is_exceeded_at_any_time() {
    let server = PostgresServer::start();
    for algorithm in ALGORITHMS {
        let limit = Limit::new(20, millis(200)).with_algorithm(algorithm);
        let times = admissions(&server, &limit, millis(1_500));
        assert_eq!(above_at(&limit, &times), 0, "{algorithm:?}");
        // Demand far exceeds the limit: each permit is taken soon after it is free.
        assert!(times.len() >= 4 * 20, "{algorithm:?}: {} in all", times.len());
    }
}

#[test]
fn functions_of_several_processes_share_the_limit_of_their_attributes() {
    let server = PostgresServer::start();
    backend(&server);
    let run = || {
        let mut client = Command::new(env!("CARGO_BIN_EXE_postgres_client"));
        let output = client.args(["attribute", "40"]).env("DATABASE_URL", server.url()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse::<usize>().unwrap()
    };
    // On a busy machine, a call may be late, and denied for that.
    let admitted: usize = (0..3).map(|_| run()).sum();
    assert!((1..=5).contains(&admitted), "{admitted}");
    assert_eq!(run(), 0);
    let rows = server.sql("SELECT encode(key, 'escape') FROM ratelimit_buckets");
    assert_eq!(rows, [["rl:1:{attribute:\"ann\"}:s3600000000"]]);
}

#[test]
fn a_process_stopped_in_a_transaction_holds_its_key_for_no_longer_than_its_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let server = PostgresServer::start();
    let backend = backend(&server);
    let proxy = Proxy::start(server.port());
    let mut child = Command::new(env!("CARGO_BIN_EXE_postgres_client"))
        .args(["hold", &TIMEOUT.as_millis().to_string()])
        .env("DATABASE_URL", format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(output.next().unwrap().unwrap(), "ready");
    // It locks the key, but never gets the answer.
    proxy.set(Network::LosesAnswers);
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let holders = || server.sql("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted").len();
    let begun = Instant::now();
    while holders() == 0 {
        assert!(begun.elapsed() < TIMEOUT, "it does not lock the key");
    }
    let stop = |signal: &str| {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    };
    stop("-STOP");
    let limits = [Limit::new(1_000, Duration::from_secs(3_600))];
    let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
    // Waits for the lock, for up to 20 s.
    backend.decide(&Request::new("rl:1:{client:sliding_window}:x", &limits, take)).unwrap();
    let held = begun.elapsed();
    assert!(held < TIMEOUT + Duration::from_secs(2), "the key was held for {held:?}");
    stop("-CONT");
    assert!(output.next().unwrap().unwrap().starts_with("Err("));
    child.wait().unwrap();
}
