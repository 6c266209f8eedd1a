//! Several processes on one limit: all their admissions together, by the server's clock, stay
//! within it.

use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit};
use ratelimit_tests::{ALGORITHMS, RedisServer, above_at, clients, millis};

/// Times of all admissions of all processes, in microseconds, sorted.
fn admissions(server: &RedisServer, limit: &Limit, duration: Duration) -> Vec<u64> {
    clients::admissions(env!("CARGO_BIN_EXE_redis_client"), ("REDIS_URL", &server.url()), "run", limit, duration)
}

#[test]
fn count_permits_are_admitted_in_all() {
    let server = RedisServer::start();
    for algorithm in ALGORITHMS {
        let limit = Limit::new(50, millis(366 * 86_400_000)).with_algorithm(algorithm);
        let times = admissions(&server, &limit, Duration::ZERO);
        assert_eq!(times.len(), 50, "{algorithm:?}");
    }
}

#[test]
fn no_window_holds_more_than_count() {
    let server = RedisServer::start();
    let limit = Limit::new(20, millis(200));
    let times = admissions(&server, &limit, millis(1_500));
    assert_eq!(above_at(&limit, &times), 0);
    // Demand far exceeds the limit: each permit is taken soon after it is free.
    assert!(times.len() >= 4 * 20, "{} in all", times.len());
}

#[test]
fn every_fixed_window_holds_exactly_count() {
    let server = RedisServer::start();
    let (count, per) = (20, 300);
    let limit = Limit::new(count, millis(per)).with_algorithm(Algorithm::FixedWindow);
    let times = admissions(&server, &limit, millis(1_500));
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
    let limit = Limit::new(20, millis(200)).with_algorithm(Algorithm::TokenBucket);
    let times = admissions(&server, &limit, millis(1_500));
    assert_eq!(above_at(&limit, &times), 0);
}
