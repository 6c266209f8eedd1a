//! What limiters that are gone leave in memory; in a process of its own, because it is measured there.

#![cfg(target_os = "linux")]

use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit, RateLimiter};

const HOUR: Duration = Duration::from_secs(3_600);
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

/// Bytes that this process has in memory.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

#[test]
fn limiters_that_are_gone_take_only_what_their_buckets_take() {
    for algorithm in ALGORITHMS {
        let before = resident();
        for name in 0..10_000 {
            let limit = Limit::new(100, HOUR).with_algorithm(algorithm);
            let limiter = RateLimiter::builder(format!("small {algorithm:?} {name}")).limit(limit).build().unwrap();
            limiter.check("a", 1).unwrap();
        }
        // The shards of a live limiter take eight kilobytes alone.
        assert!(resident().saturating_sub(before) < 20_000_000, "{algorithm:?}: {}", resident() - before);
    }
}
