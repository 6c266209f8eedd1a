//! The memory that dropped limiters leave behind. In its own process, because its allocations are
//! counted.

use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit, RateLimiter};

#[expect(dead_code, unreachable_pub, reason = "the benchmarks' own, which count allocations too")]
#[path = "../benches/heap.rs"]
mod heap;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

const HOUR: Duration = Duration::from_secs(3_600);
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

#[test]
fn dropped_limiters_keep_only_their_buckets() {
    for algorithm in ALGORITHMS {
        let (bytes, ()) = heap::growth(|| {
            for name in 0..10_000 {
                let limit = Limit::new(100, HOUR).with_algorithm(algorithm);
                let limiter = RateLimiter::builder(format!("small {algorithm:?} {name}")).limit(limit).build().unwrap();
                limiter.check("a", 1).unwrap();
            }
        });
        // The shards of one live limiter take eight kilobytes.
        assert!(bytes < 20_000_000, "{algorithm:?}: {bytes}");
    }
}
