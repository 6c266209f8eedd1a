//! The memory backend: random calls against a full log, threads, floods of keys, extreme numbers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ratelimit_runtime::{Algorithm, Decision, Limit, MemoryBackend, RateLimiter, WhenFull, test_util};
use ratelimit_tests::oracle::{Entry, Log, nanos};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

/// An operation on a limiter.
#[derive(Clone, Copy, Debug)]
enum Step {
    Check {
        key: usize,
        cost: u32,
    },
    /// A call that, if denied, retries at the time it was given.
    Insist {
        key: usize,
        cost: u32,
    },
    Peek {
        key: usize,
        cost: u32,
    },
    Advance(Duration),
    /// Gives back one of the remaining decisions.
    Refund(usize),
    Reset(usize),
    SetLimit {
        count: u32,
        per: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..3_usize;
    let cost = || prop_oneof![6 => Just(1_u32), 2 => 2..5_u32, 1 => Just(0), 1 => Just(u32::MAX)];
    prop_oneof![
        12 => (key.clone(), cost()).prop_map(|(key, cost)| Step::Check { key, cost }),
        2 => (key.clone(), cost()).prop_map(|(key, cost)| Step::Insist { key, cost }),
        2 => (key.clone(), cost()).prop_map(|(key, cost)| Step::Peek { key, cost }),
        6 => prop_oneof![0..2_000_u64, 0..100_000_000_u64, 0..3_000_000_000_u64].prop_map(|by| Step::Advance(Duration::from_nanos(by))),
        2 => any::<usize>().prop_map(Step::Refund),
        1 => key.prop_map(Step::Reset),
        1 => (1..150_u32, 1..3_000_u64).prop_map(|(count, per)| Step::SetLimit { count, per }),
    ]
}

fn limit(algorithm: Algorithm, count: u32, millis: u64) -> Limit {
    Limit::new(count, Duration::from_millis(millis)).with_algorithm(algorithm)
}

/// A limiter and the log of its admissions by key. The last log is for the bucket without a key.
struct Watched {
    limiter: RateLimiter,
    limit: Limit,
    clock: test_util::TestClock,
    logs: [Log; 3],
    decisions: Vec<(usize, Entry, Decision)>,
}

impl Watched {
    fn call(&self, key: usize, cost: u32) -> Result<Decision, ratelimit_runtime::RateLimitExceeded> {
        if key == 2 { self.limiter.check((), cost) } else { self.limiter.check(key, cost) }
    }

    fn peek(&self, key: usize, cost: u32) -> Result<Decision, ratelimit_runtime::RateLimitExceeded> {
        if key == 2 { self.limiter.peek((), cost) } else { self.limiter.peek(key, cost) }
    }

    /// A call, compared with the log. If it is denied, returns when to retry.
    fn check(&mut self, key: usize, cost: u32) -> Result<(), Option<Duration>> {
        let at = self.clock.now().as_nanos();
        match self.call(key, cost) {
            Ok(decision) => {
                let entry = Entry { at, cost };
                assert!(cost == 0 || self.logs[key].admits(&self.limit, at, cost), "above the log: {:?}", self.limit);
                if cost > 0 {
                    self.logs[key].0.push(entry);
                    self.decisions.push((key, entry, decision));
                }
                Ok(())
            }
            Err(exceeded) => {
                assert!(cost > 0, "a call that takes nothing is never denied");
                assert_eq!(exceeded.retry_after().is_none(), cost > self.limit.count(), "{exceeded:?}");
                Err(exceeded.retry_after())
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Check { key, cost } => _ = self.check(key, cost),
            Step::Insist { key, cost } => {
                let Err(Some(after)) = self.check(key, cost) else { return };
                let grain = Duration::from_micros(1);
                if after > grain {
                    self.clock.advance(after.saturating_sub(grain));
                    assert!(self.peek(key, cost).is_err(), "earlier than it was told");
                    self.clock.advance(grain);
                } else {
                    self.clock.advance(after);
                }
                assert_eq!(self.check(key, cost), Ok(()), "denied after its time");
            }
            Step::Peek { key, cost } => {
                let seen = self.peek(key, cost).is_ok();
                assert_eq!(self.peek(key, cost).is_ok(), seen, "a peek changed something");
                assert_eq!(self.check(key, cost).is_ok(), seen);
            }
            Step::Advance(by) => self.clock.advance(by),
            Step::Refund(index) if !self.decisions.is_empty() => {
                let (key, entry, decision) = self.decisions.swap_remove(index % self.decisions.len());
                self.limiter.refund(decision).unwrap();
                let log = &mut self.logs[key].0;
                if let Some(index) = log.iter().position(|other| other.at == entry.at && other.cost == entry.cost) {
                    log.remove(index);
                }
            }
            Step::Refund(_) => {}
            Step::Reset(key) => {
                if key == 2 { self.limiter.reset(()) } else { self.limiter.reset(key) }.unwrap();
                self.forget(|other| other == key);
            }
            Step::SetLimit { count, per } => {
                self.limit = limit(self.limit.algorithm(), count, per);
                self.limiter.set_limits(&[self.limit]).unwrap();
                // Admissions under other limits cannot be judged by these, so this starts new logs.
                self.forget(|_| true);
            }
        }
    }

    fn forget(&mut self, which: impl Fn(usize) -> bool) {
        for (key, log) in self.logs.iter_mut().enumerate().filter(|(key, _)| which(*key)) {
            log.0.clear();
            self.decisions.retain(|(other, ..)| *other != key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_calls_agree_with_the_log(
        algorithm in prop::sample::select(&ALGORITHMS[..]),
        (count, per) in (1..150_u32, 1..3_000_u64),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let clock = test_util::pause();
        let limit = limit(algorithm, count, per);
        let limiter = RateLimiter::builder("random").limit(limit).build().unwrap();
        let mut watched = Watched { limiter, limit, clock, logs: Default::default(), decisions: Vec::new() };
        for step in steps {
            watched.take(&step);
        }
    }
}

#[test]
fn numbers_at_their_ends_neither_overflow_nor_admit_more() {
    let pers = [Duration::from_micros(1), SECOND, 366 * DAY];
    let steps = [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(1), DAY, 366 * DAY, 100 * 365 * DAY];
    for algorithm in ALGORITHMS {
        for (count, per) in [1, 2, u32::MAX - 1, u32::MAX].into_iter().flat_map(|count| pers.map(|per| (count, per))) {
            let clock = test_util::pause();
            let limit = Limit::new(count, per).with_algorithm(algorithm);
            let limiter = RateLimiter::builder("ends").limit(limit).build().unwrap();
            // 600 years: more than 64 bits of nanoseconds.
            for by in steps.into_iter().chain([100 * 365 * DAY; 6]) {
                clock.advance(by);
                for cost in [1, u32::MAX, count, 0, 1] {
                    for taken in [limiter.check((), cost), limiter.check(7_u8, cost)] {
                        let _ = taken.map(|decision| assert!(decision.remaining() <= count));
                    }
                }
                let before = limiter.peek((), 0).unwrap().remaining();
                assert!(limiter.check((), before).is_ok() || before == 0);
                assert!(limiter.check((), u32::MAX).is_err() || count == u32::MAX);
            }
        }
    }
}

#[test]
fn threads_agree_with_a_full_log() {
    const COUNT: u32 = 40;
    for algorithm in ALGORITHMS {
        // Without refunds, states stay small.
        for (keyed, refunds) in [(false, true), (true, true), (false, false), (true, false)] {
            let per = Duration::from_millis(10);
            let limit = Limit::new(COUNT, per).with_algorithm(algorithm);
            let name = format!("stress {algorithm:?} {keyed} {refunds}");
            let limiter = RateLimiter::builder(name).limit(limit).build().unwrap();
            let start = Instant::now();
            let refunded = AtomicU32::new(0);
            let mut log: Vec<(u64, u64)> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|thread| {
                        let (limiter, refunded) = (&limiter, &refunded);
                        scope.spawn(move || {
                            let mut log = Vec::new();
                            let mut calls = 0_u32;
                            while start.elapsed() < 15 * per {
                                calls += 1;
                                let before = nanos(start.elapsed());
                                let taken = if keyed { limiter.check("a", 1) } else { limiter.check((), 1) };
                                let Ok(decision) = taken else { continue };
                                // A refunded call does not count as admitted; a peek changes
                                // nothing.
                                if refunds && thread == 0 && calls.is_multiple_of(3) {
                                    limiter.refund(decision).unwrap();
                                    refunded.fetch_add(1, Ordering::Relaxed);
                                    let _ = if keyed { limiter.peek("a", 1) } else { limiter.peek((), 1) };
                                } else {
                                    log.push((before, nanos(start.elapsed())));
                                }
                            }
                            log
                        })
                    })
                    .collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            // Each was admitted between the start and the end of its call. Any interval of `per`
            // holds at most `COUNT` for a sliding window, and at most twice as many for the others.
            let most = if algorithm == Algorithm::SlidingWindow { COUNT } else { 2 * COUNT } as usize;
            log.sort_by_key(|(_, after)| *after);
            for window in log.windows(most + 1) {
                let first = window.iter().map(|(before, _)| *before).min().unwrap();
                assert!(window[most].1 - first >= nanos(per), "{algorithm:?}, keyed: {keyed}");
            }
            assert!(log.len() > COUNT as usize, "{algorithm:?} goes on: {}", log.len());
        }
    }
}

/// The number of keys of a flood: `FLOOD=10000000` for the full one.
fn flood() -> u64 {
    std::env::var("FLOOD").ok().and_then(|keys| keys.parse().ok()).unwrap_or(300_000)
}

#[test]
fn a_flood_of_new_keys_frees_no_blocked_key() {
    for algorithm in ALGORITHMS {
        let memory = MemoryBackend::with_max_keys(10_000);
        let limit = Limit::new(3, 366 * DAY).with_algorithm(algorithm);
        let limiter =
            RateLimiter::builder(format!("flood {algorithm:?}")).limit(limit).backend(memory.clone()).build().unwrap();
        for blocked in 0..100_u8 {
            assert!((0..3).all(|_| limiter.check(("blocked", blocked), 1).is_ok()));
        }
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for key in 0..flood() / 3 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            limiter.check(random, 1).unwrap();
            if key.is_multiple_of(9_973) {
                assert!(limiter.check(("blocked", 7_u8), 1).is_err());
            }
        }
        for blocked in 0..100_u8 {
            assert!(limiter.check(("blocked", blocked), 1).is_err(), "{algorithm:?}: {blocked}");
        }
        assert_eq!(memory.tracked_keys(), 10_000);
        assert!(memory.evicted() > 0);
    }
}

#[test]
fn a_flood_of_denied_keys_is_bounded() {
    let memory = MemoryBackend::with_max_keys(1_000);
    let limiter = RateLimiter::builder("all denied").limit(Limit::new(1, DAY)).backend(memory.clone()).build().unwrap();
    for key in 0..20_000_u32 {
        limiter.check(key, 1).unwrap();
        assert!(limiter.check(key, 1).is_err(), "a key is limited from its first call on");
    }
    assert_eq!(memory.tracked_keys(), 1_000);
}

#[test]
fn a_full_backend_treats_new_keys_as_configured() {
    for when_full in [WhenFull::Admit, WhenFull::Deny] {
        let memory = MemoryBackend::with_max_keys(1).when_full(when_full);
        // On the real clock: a test's clock has a memory of its own.
        let per = Duration::from_millis(400);
        let limiter = RateLimiter::builder("full").limit(Limit::new(1, per)).backend(memory.clone()).build().unwrap();
        std::thread::scope(|scope| {
            limiter.check(1_u8, 1).unwrap();
            scope.spawn(|| limiter.wait(1_u8, 1).unwrap());
            // Behind a waiting call, it would have to wait for more than one period.
            while !limiter.peek(1_u8, 1).is_err_and(|denied| denied.retry_after() > Some(per)) {
                std::thread::yield_now();
            }
            assert_eq!(limiter.check(2_u8, 1).is_ok(), when_full == WhenFull::Admit);
            assert_eq!((memory.tracked_keys(), memory.untracked(), memory.evicted()), (1, 1, 0));
        });
    }
}

#[test]
fn a_full_bucket_admits_its_burst_however_fast_the_calls_come() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        let limit = Limit::new(5, Duration::from_secs(36_000)).with_algorithm(algorithm);
        let odd = Limit::new(7, Duration::from_secs(36_001)).with_algorithm(algorithm);
        for limits in [vec![limit], vec![odd], vec![limit, odd]] {
            let burst = limits[0].count();
            let builder = RateLimiter::builder("burst").backend(MemoryBackend::new());
            let limiter = limits.iter().fold(builder, |builder, limit| builder.limit(*limit)).build().unwrap();
            for key in 0..20_000_u64 {
                let admitted = (0..=burst).filter(|_| limiter.check(key, 1).is_ok()).count();
                assert_eq!(admitted, burst as usize, "{limits:?}");
            }
            let unkeyed = (0..=burst).filter(|_| limiter.check((), 1).is_ok()).count();
            assert_eq!(unkeyed, burst as usize, "{limits:?}");
        }
    }
}
