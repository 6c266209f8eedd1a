//! Processes whose clocks differ: how far limits can be exceeded, in real time.
//!
//! The claim: if all clocks lie within S of each other, at most as many permits are admitted in a
//! real time T as the limit allows in T + S.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use ratelimit_runtime::backend::{Action, Backend, Outcome, Request, Timestamp};
use ratelimit_runtime::{Algorithm, Limit, MemcachedBackend};
use ratelimit_tests::MemcachedServer;

const START: u64 = 1_800_000_000_000_000_000;
const MILLI: u64 = 1_000_000;
const PER: u64 = 1_000;
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

/// Processes, by how far each clock is ahead, in milliseconds.
struct Fleet {
    limit: Limit,
    name: String,
    ahead: Vec<u64>,
    backends: Vec<MemcachedBackend>,
}

impl Fleet {
    fn new(limit: Limit, ahead: &[u64]) -> Fleet {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let url = MemcachedServer::shared().url();
        let backend = |_: &u64| MemcachedBackend::builder().url(&url).timeout(Duration::from_secs(20)).build().unwrap();
        Fleet {
            limit,
            name: format!("rl:1:{{skew{}}}:x", NEXT.fetch_add(1, Ordering::Relaxed)),
            ahead: ahead.to_vec(),
            backends: ahead.iter().map(backend).collect(),
        }
    }

    /// Whether a call of a process at this real time, in milliseconds, is admitted.
    fn admits(&self, process: usize, real: u64, cost: u32) -> bool {
        let time = Timestamp::from_nanos(START + (real + self.ahead[process]) * MILLI);
        let take = Action::Take { cost, max_wait: Duration::ZERO };
        let request = Request::new(self.name.as_str(), &[self.limit], take).at(time);
        matches!(self.backends[process].decide(&request).unwrap().outcome, Outcome::Admitted(_))
    }

    fn spread(&self) -> u64 {
        self.ahead.iter().max().unwrap() - self.ahead.iter().min().unwrap()
    }
}

/// The most that a limit allows in any half-open interval of this many milliseconds.
fn allowed(limit: Limit, millis: u64) -> u64 {
    let count = u64::from(limit.count());
    match limit.algorithm() {
        Algorithm::TokenBucket => u64::from(limit.burst()) + count * millis / PER,
        // A time that begins and ends within windows.
        Algorithm::FixedWindow => count * (millis.saturating_sub(1).div_ceil(PER) + 1),
        _ => count * millis.div_ceil(PER),
    }
}

fn limit(algorithm: Algorithm, count: u32) -> Limit {
    Limit::new(count, Duration::from_millis(PER)).with_algorithm(algorithm)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_limit_is_exceeded_by_no_more_than_the_clocks_differ(
        ahead in proptest::collection::vec(0_u64..2_500, 2..4),
        count in 1_u32..6,
        steps in proptest::collection::vec((0_usize..3, 0_u64..400, 1_u32..3), 1..120),
        algorithm in proptest::sample::select(ALGORITHMS.to_vec()),
    ) {
        let fleet = Fleet::new(limit(algorithm, count), &ahead);
        let (mut real, mut admitted) = (0, Vec::new());
        for (process, pause, cost) in steps {
            real += pause;
            if fleet.admits(process % ahead.len(), real, cost) {
                admitted.push((real, u64::from(cost)));
            }
        }
        for (first, (from, _)) in admitted.iter().enumerate() {
            let mut sum = 0;
            for (to, cost) in &admitted[first..] {
                sum += cost;
                // The shortest half-open time that holds both.
                let millis = to - from + 1;
                let most = allowed(fleet.limit, millis + fleet.spread());
                prop_assert!(sum <= most, "{sum} of {most} within {millis} ms, clocks {ahead:?}");
            }
        }
    }

    #[test]
    fn clocks_that_agree_keep_the_limit(
        steps in proptest::collection::vec((0_usize..2, 0_u64..400), 1..80),
        algorithm in proptest::sample::select(ALGORITHMS.to_vec()),
    ) {
        let fleet = Fleet::new(limit(algorithm, 3), &[0, 0]);
        let (mut real, mut admitted) = (0, Vec::new());
        for (process, pause) in steps {
            real += pause;
            if fleet.admits(process, real, 1) {
                admitted.push(real);
            }
        }
        for (first, from) in admitted.iter().enumerate() {
            for (sum, to) in (1..).zip(&admitted[first..]) {
                prop_assert!(sum <= allowed(fleet.limit, to - from + 1));
            }
        }
    }
}

#[test]
fn a_clock_ahead_admits_once_more_and_not_again_and_again() {
    for algorithm in ALGORITHMS {
        let fleet = Fleet::new(limit(algorithm, 5), &[0, PER]);
        // The slow process first, then the fast one, for which the slow one's permits have expired.
        assert_eq!((0..10).filter(|_| fleet.admits(0, 0, 1)).count(), 5);
        assert_eq!((0..10).filter(|_| fleet.admits(1, 0, 1)).count(), 5);
        // From here on the record is at the fast one's time.
        let more = (0..20).filter(|turn| fleet.admits(turn % 2, 0, 1)).count();
        assert_eq!(more, 0, "{algorithm:?}");
    }
}

#[test]
fn a_clock_that_goes_back_forgets_no_permit() {
    for algorithm in ALGORITHMS {
        let fleet = Fleet::new(limit(algorithm, 5), &[0]);
        assert_eq!((0..10).filter(|_| fleet.admits(0, 10_000, 1)).count(), 5);
        assert_eq!((0..10).filter(|_| fleet.admits(0, 0, 1)).count(), 0, "{algorithm:?}");
        assert!(!fleet.admits(0, 9_999, 1));
        assert!(fleet.admits(0, 11_000, 1));
    }
}

/// A clock far ahead moves the record ahead. The key is usable again when the record expires, which
/// counts from its last admission, not from the wrong clock.
#[test]
fn a_clock_far_ahead_blocks_a_key_until_its_record_expires() {
    let year = 366 * 86_400 * 1_000;
    let fleet = Fleet::new(limit(Algorithm::SlidingWindow, 2), &[0, year]);
    assert!(fleet.admits(1, 0, 1));
    // At the record's time.
    assert!(fleet.admits(0, 0, 1));
    assert!(!fleet.admits(0, 2 * PER, 1));
    let server = MemcachedServer::shared();
    let meta = String::from_utf8(server.ask(&format!("mg {} t\r\nmn\r\n", fleet.name), "MN")).unwrap();
    let left: u64 = meta.strip_prefix("HD t").and_then(|rest| rest.split("\r\n").next()).unwrap().parse().unwrap();
    assert!((1..=7).contains(&left), "it is kept for {left} s");
}
