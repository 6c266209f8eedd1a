use std::thread;
use std::time::Instant;

use super::*;

/// For so long each test by the real clock runs: `RATELIMIT_TEST_MILLIS`, or 300 ms.
fn duration() -> Duration {
    let millis = std::env::var("RATELIMIT_TEST_MILLIS").ok().and_then(|millis| millis.parse().ok());
    Duration::from_millis(millis.unwrap_or(300))
}

#[test]
fn a_reading_is_never_outside_of_two_readings_of_the_monotonic_clock() {
    let clock = Clock::new(Machine::start(LEAST, &AtomicU64::new(0)));
    for threads in [1, 2, 4, 8] {
        let end = Instant::now() + duration();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while Instant::now() < end {
                        for _ in 0..1_000 {
                            let before = clock.sources.monotonic();
                            let now = clock.now();
                            let after = clock.sources.monotonic();
                            assert!(before <= now.latest, "{} ns late", before - now.latest);
                            assert!(now.earliest <= after, "{} ns ahead", now.earliest - after);
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn durations_longer_than_64_bits_saturate() {
    assert_eq!(nanos(Duration::MAX), u64::MAX);
}
