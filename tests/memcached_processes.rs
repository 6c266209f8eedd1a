//! Several processes on one limit in Memcached: all their admissions together stay within it, by the
//! record's time.

use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit};
use ratelimit_tests::{ALGORITHMS, MemcachedServer, above_at, clients, millis};

/// Times of all admissions of all processes, in microseconds, sorted.
fn admissions(server: &MemcachedServer, how: &str, limit: &Limit, duration: Duration) -> Vec<u64> {
    let address = format!("127.0.0.1:{}", server.port());
    let program = env!("CARGO_BIN_EXE_memcached_client");
    clients::admissions(program, ("MEMCACHED_SERVERS", &address), how, limit, duration)
}

#[test]
fn count_permits_are_admitted_in_all() {
    let server = MemcachedServer::start();
    for how in ["blocking", "async"] {
        for algorithm in ALGORITHMS {
            server.ask("flush_all\r\n", "OK");
            let limit = Limit::new(500, millis(366 * 86_400_000)).with_algorithm(algorithm);
            let times = admissions(&server, how, &limit, Duration::ZERO);
            assert_eq!(times.len(), 500, "{how}, {algorithm:?}");
        }
    }
    assert!(server.figure("cas_badval") > 0, "they have met");
}

#[test]
fn no_window_holds_more_than_count() {
    let server = MemcachedServer::start();
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket] {
        let limit = Limit::new(20, millis(100)).with_algorithm(algorithm);
        let times = admissions(&server, "blocking", &limit, millis(1_000));
        assert_eq!(above_at(&limit, &times), 0, "{algorithm:?}");
        // Demand far exceeds the limit: each permit is taken soon after it is free.
        assert!(times.len() >= 3 * 20, "{} in all", times.len());
    }
}
