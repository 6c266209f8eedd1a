//! Several processes on one limit in Memcached: all their admissions together stay within it, by the
//! record's time.

use std::process::{Command, Stdio};
use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit};
use ratelimit_tests::{Admission, MemcachedServer, above};

const PROCESSES: usize = 5;

/// Times of all admissions of all processes, in microseconds, sorted.
fn admissions(
    server: &MemcachedServer,
    how: &str,
    algorithm: &str,
    count: u32,
    per_millis: u64,
    for_millis: u64,
) -> Vec<u64> {
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_memcached_client"))
            .args([how, algorithm, &count.to_string(), &per_millis.to_string(), &for_millis.to_string()])
            .env("MEMCACHED_SERVERS", format!("127.0.0.1:{}", server.port()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let processes: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    let mut times = Vec::new();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        times.extend(text.lines().map(|line| line.parse::<u64>().unwrap()));
    }
    times.sort_unstable();
    times
}

fn above_at(times: &[u64], algorithm: Algorithm, count: u32, per_millis: u64) -> u64 {
    let limit = Limit::new(count, Duration::from_millis(per_millis)).with_algorithm(algorithm);
    above(&limit, &times.iter().copied().map(Admission::at).collect::<Vec<_>>())
}

#[test]
fn count_permits_are_admitted_in_all() {
    let server = MemcachedServer::start();
    for how in ["blocking", "async"] {
        for algorithm in ["sliding_window", "token_bucket", "fixed_window"] {
            server.ask("flush_all\r\n", "OK");
            let times = admissions(&server, how, algorithm, 500, 366 * 86_400_000, 0);
            assert_eq!(times.len(), 500, "{how}, {algorithm}");
        }
    }
    assert!(server.figure("cas_badval") > 0, "they have met");
}

#[test]
fn no_window_holds_more_than_count() {
    let server = MemcachedServer::start();
    let (count, per) = (20, 100);
    for (name, algorithm) in [("sliding_window", Algorithm::SlidingWindow), ("token_bucket", Algorithm::TokenBucket)] {
        let times = admissions(&server, "blocking", name, count, per, 1_000);
        assert_eq!(above_at(&times, algorithm, count, per), 0, "{name}");
        // Demand far exceeds the limit: each permit is taken soon after it is free.
        assert!(times.len() >= 3 * count as usize, "{} in all", times.len());
    }
}
