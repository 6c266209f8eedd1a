//! Several processes on one limit: all their admissions together, by the server's clock, stay
//! within it.

use std::process::{Command, Stdio};
use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit};
use ratelimit_tests::{Admission, RedisServer, above};

const PROCESSES: usize = 4;

/// Times of all admissions of all processes, in microseconds, sorted.
fn admissions(server: &RedisServer, algorithm: &str, count: u32, per_millis: u64, for_millis: u64) -> Vec<u64> {
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_redis_client"))
            .args(["run", algorithm, &count.to_string(), &per_millis.to_string(), &for_millis.to_string()])
            .env("REDIS_URL", server.url())
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

/// By how many permits the times exceed the limit.
fn above_at(times: &[u64], algorithm: Algorithm, count: u32, per_millis: u64) -> u64 {
    let limit = Limit::new(count, Duration::from_millis(per_millis)).with_algorithm(algorithm);
    above(&limit, &times.iter().copied().map(Admission::at).collect::<Vec<_>>())
}

#[test]
fn count_permits_are_admitted_in_all() {
    let server = RedisServer::start();
    for algorithm in ["sliding_window", "token_bucket", "fixed_window"] {
        let times = admissions(&server, algorithm, 50, 366 * 86_400_000, 0);
        assert_eq!(times.len(), 50, "{algorithm}");
    }
}

#[test]
fn no_window_holds_more_than_count() {
    let server = RedisServer::start();
    let (count, per) = (20, 200);
    let times = admissions(&server, "sliding_window", count, per, 1_500);
    assert_eq!(above_at(&times, Algorithm::SlidingWindow, count, per), 0);
    // Demand far exceeds the limit: each permit is taken soon after it is free.
    assert!(times.len() >= 4 * count as usize, "{} in all", times.len());
}

#[test]
fn every_fixed_window_holds_exactly_count() {
    let server = RedisServer::start();
    let (count, per) = (20, 300);
    let times = admissions(&server, "fixed_window", count, per, 1_500);
    let window = per * 1_000;
    let (first, last) = (times[0] / window, times[times.len() - 1] / window);
    for number in first..=last {
        let held = times.iter().filter(|time| **time / window == number).count();
        assert!(held <= count as usize, "{held} in window {number}");
        // The first and the last window may have begun or ended without the processes.
        assert!(held == count as usize || number == first || number == last, "{held} in window {number}");
    }
    assert!(last - first >= 3);
}

#[test]
fn a_token_bucket_gives_burst_and_what_has_flowed_in() {
    let server = RedisServer::start();
    let (count, per) = (20, 200);
    let times = admissions(&server, "token_bucket", count, per, 1_500);
    assert_eq!(above_at(&times, Algorithm::TokenBucket, count, per), 0);
}
