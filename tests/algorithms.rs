//! The three algorithms, alone and together, against full logs of all admissions.
//!
//! The oracle keeps each admission with its time and cost, and judges by the definition of its
//! limit. It shares no code with the code under test.

use std::time::Duration;

use proptest::prelude::*;
use ratelimit_runtime::backend::{Action, Bucket, Outcome, Request, Timestamp};
use ratelimit_runtime::{Algorithm, Limit};
use ratelimit_tests::bookkeeping;
use ratelimit_tests::oracle::{Entry, Log, nanos};

const START: u64 = 1_790_000_000_000_000_000;

/// An operation on a bucket. Times are in thousandths of the first limit's period.
#[derive(Clone, Debug)]
enum Step {
    Take {
        cost: u32,
        wait: u16,
    },
    Peek {
        cost: u32,
    },
    Advance(u16),
    AdvanceNanos(u16),
    /// Gives back the nth last admission.
    GiveBack(usize),
    ClockBack(u16),
}

fn step(refunds: bool, clock_back: bool) -> impl Strategy<Value = Step> {
    let cost = prop_oneof![8 => 1_u32..=3, 2 => 1_u32..=70, 1 => Just(0_u32), 1 => any::<u32>()];
    let wait = prop_oneof![3 => Just(0_u16), 1 => 1_u16..=3_000];
    prop_oneof![
        12 => (cost.clone(), wait).prop_map(|(cost, wait)| Step::Take { cost, wait }),
        1 => cost.prop_map(|cost| Step::Peek { cost }),
        5 => (0_u16..=400).prop_map(Step::Advance),
        3 => (0_u16..=3).prop_map(Step::AdvanceNanos),
        1 => (900_u16..=2_500).prop_map(Step::Advance),
        if refunds { 3 } else { 0 } => (0_usize..6).prop_map(Step::GiveBack),
        u32::from(clock_back) => (1_u16..=3_000).prop_map(Step::ClockBack),
    ]
}

/// Periods from a microsecond to a year, weighted towards the edges.
fn per() -> impl Strategy<Value = Duration> {
    prop_oneof![
        1 => Just(Duration::from_micros(1)),
        1 => Just(Duration::from_secs(366 * 86_400)),
        2 => (1_u64..=1_000).prop_map(Duration::from_micros),
        4 => (1_u64..=100_000).prop_map(Duration::from_millis),
        2 => (1_u64..=366 * 86_400).prop_map(Duration::from_secs),
    ]
}

fn limit(counts: impl Strategy<Value = u32>, algorithms: &'static [Algorithm]) -> impl Strategy<Value = Limit> {
    (counts, per(), proptest::sample::select(algorithms), 1_u32..=64).prop_map(|(count, per, algorithm, burst)| {
        let limit = Limit::new(count, per).with_algorithm(algorithm);
        limit.try_with_burst(burst).unwrap_or(limit)
    })
}

const ALL: &[Algorithm] = &[Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

/// A bucket and the log of its admissions.
struct Trial {
    limits: Vec<Limit>,
    bucket: Bucket,
    log: Log,
    now: u64,
    newest: u64,
    admitted: Vec<(ratelimit_runtime::backend::Admitted, u64)>,
}

impl Trial {
    fn new(limits: Vec<Limit>) -> Trial {
        Trial { limits, bucket: Bucket::default(), log: Log::default(), now: START, newest: 0, admitted: Vec::new() }
    }

    fn apply(&mut self, action: Action) -> Outcome {
        let request = Request::new("bucket", &self.limits, action);
        // Through bytes, as a store would keep it.
        self.bucket = Bucket::from_bytes(&self.bucket.to_bytes()).unwrap();
        self.bucket.apply(&request, Timestamp::from_nanos(self.now)).outcome
    }

    fn thousandths(&self, of: u16) -> u64 {
        u64::try_from(self.limits[0].per().as_nanos() * u128::from(of) / 1_000).unwrap()
    }

    /// When the logs admit a call; `None` if a limit can never hold it.
    fn expected(&self, cost: u32) -> Option<u64> {
        if cost == 0 {
            return Some(self.now);
        }
        if self.limits.iter().any(|limit| cost > limit.capacity()) {
            return None;
        }
        let from = self.now.max(self.newest);
        self.limits.iter().map(|limit| self.log.earliest(limit, from, cost)).max()
    }

    fn record(&mut self, admitted: &ratelimit_runtime::backend::Admitted, cost: u32) {
        let at = admitted.at().as_nanos();
        if cost > 0 {
            self.log.0.push(Entry { at, cost });
            self.admitted.push((admitted.clone(), self.newest));
            self.newest = at;
        }
    }

    /// Gives back the `nth` last admission. Returns whether the log still predicts exactly what
    /// follows.
    fn give_back(&mut self, nth: usize) -> bool {
        let Some(index) = self.admitted.len().checked_sub(nth + 1) else { return true };
        let newest = nth == 0;
        let (admitted, before) = self.admitted[index].clone();
        self.apply(Action::GiveBack(admitted.permit().clone()));
        let at = admitted.at().as_nanos();
        if at > self.now && !newest {
            return true;
        }
        self.admitted.remove(index);
        if let Some(position) = self.log.0.iter().rposition(|entry| entry.at == at && entry.cost == cost_of(&admitted))
        {
            self.log.0.remove(position);
        }
        let booked = at > self.now;
        if newest && booked {
            self.newest = before;
        }
        // A token bucket does not return refilled permits, and does not know what a booking found.
        booked || self.limits.iter().all(|limit| limit.algorithm() != Algorithm::TokenBucket)
    }

    fn clock_back(&mut self, by: u64) {
        self.now -= by;
        self.newest = self.newest.saturating_sub(by);
        for entry in &mut self.log.0 {
            entry.at -= by;
        }
    }
}

fn cost_of(admitted: &ratelimit_runtime::backend::Admitted) -> u32 {
    admitted.permit().cost()
}

/// Runs a trace, and compares every answer with the logs.
fn exact(limits: Vec<Limit>, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut trial = Trial::new(limits);
    let mut exact = true;
    for step in steps {
        match *step {
            Step::Advance(by) => trial.now += trial.thousandths(by),
            Step::AdvanceNanos(by) => trial.now += u64::from(by),
            Step::ClockBack(by) => {
                // The bucket must see the time before and after the jump.
                let look = Action::Take { cost: 0, max_wait: Duration::ZERO };
                trial.apply(look.clone());
                trial.clock_back(trial.thousandths(by));
                trial.apply(look);
            }
            Step::GiveBack(nth) => exact &= trial.give_back(nth),
            Step::Peek { cost } => {
                let before = trial.bucket.to_bytes();
                let expected = trial.expected(cost);
                let outcome = trial.apply(Action::Peek { cost, max_wait: Duration::ZERO });
                prop_assert_eq!(&trial.bucket.to_bytes(), &before, "a peek changed the bucket");
                if exact {
                    let admitted = matches!(outcome, Outcome::Admitted(_));
                    prop_assert_eq!(admitted, expected == Some(trial.now));
                }
            }
            Step::Take { cost, wait } => {
                let expected = trial.expected(cost);
                let max_wait = trial.thousandths(wait);
                let outcome = trial.apply(Action::Take { cost, max_wait: Duration::from_nanos(max_wait) });
                match outcome {
                    Outcome::Admitted(admitted) => {
                        let at = admitted.at().as_nanos();
                        prop_assert!(
                            expected.is_some_and(|expected| at >= expected),
                            "admitted too early: {admitted:?}"
                        );
                        prop_assert!(at - trial.now <= max_wait);
                        if exact {
                            prop_assert_eq!(Some(at), expected);
                        }
                        trial.record(&admitted, cost);
                    }
                    Outcome::Denied(denied) => {
                        let at = denied.admitted_at().map(Timestamp::as_nanos);
                        if exact || expected.is_none() {
                            prop_assert_eq!(at, expected, "denied");
                        }
                        prop_assert!(at.is_none_or(|at| at - trial.now > max_wait), "denied what it would admit");
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
    Ok(())
}

/// Found by random calls. Permits came back while two bookings lay ahead, and the newer one was
/// given up. By the time of the other, the bucket would have been full anyway.
#[test]
fn what_comes_back_before_an_earlier_booking_comes_back_once() {
    let limit = Limit::new(1, Duration::from_secs(1)).with_algorithm(Algorithm::TokenBucket);
    let take = |cost, wait| Step::Take { cost, wait };
    let bookings = [take(3, 0), take(3, 3_000), take(1, 4_000), take(1, 5_000), Step::Advance(3_000)];
    let steps = [&bookings[..], &[Step::GiveBack(2), Step::GiveBack(0), take(3, 2_000)]].concat();
    exact(vec![limit.try_with_burst(3).unwrap()], &steps).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_sliding_window_up_to_64_is_an_exact_log(
        limit in limit(1_u32..=64, &[Algorithm::SlidingWindow]),
        steps in prop::collection::vec(step(true, false), 1..150),
    ) {
        exact(vec![limit], &steps)?;
    }

    #[test]
    fn a_token_bucket_is_an_exact_log(
        limit in limit(1_u32..=1_000, &[Algorithm::TokenBucket]),
        steps in prop::collection::vec(step(false, false), 1..150),
    ) {
        exact(vec![limit], &steps)?;
    }

    #[test]
    fn a_fixed_window_is_an_exact_log(
        limit in limit(1_u32..=1_000_000, &[Algorithm::FixedWindow]),
        steps in prop::collection::vec(step(true, false), 1..150),
    ) {
        exact(vec![limit], &steps)?;
    }

    #[test]
    fn several_limits_are_exact_logs_decided_together(
        limits in prop::collection::vec(limit(1_u32..=64, ALL), 2..=4),
        steps in prop::collection::vec(step(true, false), 1..150),
    ) {
        exact(limits, &steps)?;
    }

    #[test]
    fn a_clock_that_goes_back_keeps_ages(
        limit in limit(1_u32..=64, &[Algorithm::SlidingWindow, Algorithm::TokenBucket]),
        steps in prop::collection::vec(step(false, true), 1..150),
    ) {
        exact(vec![limit], &steps)?;
    }

    #[test]
    fn a_large_sliding_window_is_exact_to_a_group(
        limit in limit(65_u32..=100_000, &[Algorithm::SlidingWindow]),
        steps in prop::collection::vec(
            prop_oneof![
                4 => (1_u32..=2_000).prop_map(|cost| Step::Take { cost, wait: 0 }),
                4 => (1_u32..=3).prop_map(|cost| Step::Take { cost, wait: 0 }),
                2 => (0_u16..=300).prop_map(Step::Advance),
                1 => (0_usize..8).prop_map(Step::GiveBack),
            ],
            1..400,
        ),
    ) {
        let mut trial = Trial::new(vec![limit]);
        let group = u64::from(limit.count().div_ceil(64));
        for step in &steps {
            match *step {
                Step::Take { cost, .. } => {
                    let left = trial.log.left(&limit, trial.now);
                    match trial.apply(Action::Take { cost, max_wait: Duration::ZERO }) {
                        Outcome::Admitted(admitted) => {
                            prop_assert!(u64::from(cost) <= left, "over");
                            trial.record(&admitted, cost);
                        }
                        Outcome::Denied(_) => prop_assert!(left < u64::from(cost) + group - 1, "{left} left of {limit}"),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::GiveBack(nth) => { trial.give_back(nth); }
                Step::Advance(by) => trial.now += trial.thousandths(by),
                _ => {}
            }
        }
        prop_assert!(trial.bucket.to_bytes().len() < 2_200, "{} bytes", trial.bucket.to_bytes().len());
    }

    #[test]
    fn a_changed_sliding_window_is_exact_after_one_period(
        before in limit(1_u32..=64, &[Algorithm::SlidingWindow]),
        count in 1_u32..=64,
        factor in 1_u32..=8,
        calls in prop::collection::vec((1_u32..=3, 0_u16..=300), 1..200),
        change in 0_usize..100,
    ) {
        let after = Limit::new(count, (before.per() / 4).saturating_mul(factor).clamp(
            Duration::from_micros(1), ratelimit_runtime::MAX_PER,
        ));
        let mut trial = Trial::new(vec![before]);
        let mut changed = u64::MAX;
        for (index, (cost, advance)) in calls.iter().enumerate() {
            if index == change {
                trial.limits = vec![after];
                changed = trial.now;
            }
            let left = trial.log.left(&trial.limits[0], trial.now);
            let outcome = trial.apply(Action::Take { cost: *cost, max_wait: Duration::ZERO });
            if let Outcome::Admitted(admitted) = &outcome {
                trial.record(admitted, *cost);
            }
            if changed == u64::MAX || trial.now >= changed.saturating_add(nanos(after.per())) {
                prop_assert_eq!(matches!(outcome, Outcome::Admitted(_)), u64::from(*cost) <= left);
            }
            trial.now += u64::try_from(before.per().as_nanos() * u128::from(*advance) / 1_000).unwrap();
        }
    }

    #[test]
    fn nothing_overflows_at_the_edges_of_the_integers(
        count in prop_oneof![Just(1_u32), Just(u32::MAX), any::<u32>().prop_map(|count| count.max(1))],
        burst in prop_oneof![Just(1_u32), Just(u32::MAX)],
        per in per(),
        algorithm in proptest::sample::select(ALL),
        times in prop::collection::vec(
            prop_oneof![Just(0_u64), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()], 1..40),
        costs in prop::collection::vec(prop_oneof![Just(u32::MAX), Just(1_u32), any::<u32>()], 40),
    ) {
        let limit = Limit::new(count, per).with_algorithm(algorithm);
        let limit = limit.try_with_burst(burst).unwrap_or(limit);
        let mut trial = Trial::new(vec![limit]);
        for (now, cost) in times.into_iter().zip(costs) {
            trial.now = now;
            for max_wait in [Duration::ZERO, Duration::MAX] {
                if let Outcome::Admitted(admitted) = trial.apply(Action::Take { cost, max_wait }) {
                    trial.apply(Action::GiveBack(admitted.permit().clone()));
                }
                trial.apply(Action::Take { cost: cost / 2, max_wait });
            }
        }
    }
}

#[test]
fn books_balance_after_resets_refunds_and_bookings() {
    let mut buckets = std::collections::HashMap::<String, Bucket>::new();
    bookkeeping::all(&mut |name, limit, action, seconds| {
        let bucket = buckets.entry(name.to_owned()).or_default();
        // Through bytes, as a store would keep it.
        *bucket = Bucket::from_bytes(&bucket.to_bytes()).unwrap();
        let time = Duration::from_nanos(START) + Duration::from_secs_f64(seconds);
        bucket.apply(&Request::new(name, &[limit], action), Timestamp::from_nanos(nanos(time))).outcome
    });
}

/// Limits of one algorithm, each laxer than the ones before: a higher count in a shorter period.
/// Fixed windows nest, because otherwise none of them would be the strictest.
fn ordered(algorithm: Algorithm) -> impl Strategy<Value = Vec<Limit>> {
    let more = prop_oneof![3 => 1_u32..=20, 1 => 1_u32..=200];
    prop::collection::vec((more, 0_u64..=40), 2..=4).prop_map(move |steps| {
        let (mut count, mut millis) = (0, 10_368);
        let laxer = steps.into_iter().map(|(more, shorter)| {
            count += more;
            millis = match algorithm {
                Algorithm::FixedWindow => millis / (1 + shorter % 3).min(millis),
                _ => millis - millis * shorter / 100,
            };
            Limit::new(count, Duration::from_millis(millis)).with_algorithm(algorithm)
        });
        laxer.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    /// A sliding window that was charged by the largest count judges all later limits exactly,
    /// whatever their periods.
    #[test]
    fn sliding_windows_changed_at_each_call_are_exact(
        limits in prop::collection::vec((1_u32..=64, 1_u64..=10_000), 1..5),
        calls in prop::collection::vec((0_usize..5, 1_u32..=3, 0_u64..=3_000), 1..150),
    ) {
        let limits: Vec<Limit> =
            limits.iter().map(|(count, millis)| Limit::new(*count, Duration::from_millis(*millis))).collect();
        let largest = *limits.iter().max_by_key(|limit| limit.count()).unwrap();
        let mut trial = Trial::new(vec![largest]);
        for (position, (choice, cost, advance)) in calls.into_iter().enumerate() {
            trial.limits = vec![if position == 0 { largest } else { limits[choice % limits.len()] }];
            let before = trial.bucket.to_bytes();
            let left = trial.log.left(&trial.limits[0], trial.now);
            match trial.apply(Action::Take { cost, max_wait: Duration::ZERO }) {
                Outcome::Admitted(admitted) => {
                    prop_assert!(u64::from(cost) <= left, "over");
                    trial.record(&admitted, cost);
                }
                Outcome::Denied(_) => {
                    prop_assert!(u64::from(cost) > left, "denied with {left} left");
                    let (mut before, mut after) = (Bucket::from_bytes(&before).unwrap(), trial.bucket.clone());
                    // Only advances the clock.
                    let look = Request::new("bucket", &[largest], Action::Peek { cost: 1, max_wait: Duration::MAX });
                    let now = Timestamp::from_nanos(trial.now);
                    let [one, other] = [&mut before, &mut after].map(|bucket| format!("{:?}", bucket.apply(&look, now)));
                    prop_assert_eq!(one, other);
                }
                other => prop_assert!(false, "{other:?}"),
            }
            trial.now += advance * 1_000_000;
        }
    }

    #[test]
    fn changing_limits_stay_between_laxest_and_strictest(
        (algorithm, limits) in proptest::sample::select(ALL).prop_flat_map(|algorithm| (Just(algorithm), ordered(algorithm))),
        calls in prop::collection::vec((0_usize..4, 0_u64..=2_000), 1..200),
    ) {
        let (strictest, laxest) = (limits[0], limits[limits.len() - 1]);
        // A sliding window of more than 64 may hold back permits of its oldest group.
        let held_back = if algorithm == Algorithm::SlidingWindow { laxest.count().div_ceil(64) - 1 } else { 0 };
        let mut trial = Trial::new(vec![strictest]);
        for (choice, advance) in calls {
            trial.limits = vec![limits[choice % limits.len()]];
            match trial.apply(Action::Take { cost: 1, max_wait: Duration::ZERO }) {
                Outcome::Admitted(admitted) => {
                    prop_assert!(trial.log.admits(&laxest, trial.now, 1), "{algorithm:?}: more than the laxest");
                    trial.record(&admitted, 1);
                }
                Outcome::Denied(denied) => {
                    // Each change rounds a token bucket's debt up to a microsecond's refill.
                    let soon = trial.now + 200_000;
                    let is_rounding = algorithm == Algorithm::TokenBucket
                        && denied.admitted_at().is_some_and(|at| at.as_nanos() <= soon);
                    prop_assert!(
                        is_rounding || !trial.log.admits(&strictest, trial.now, 1 + held_back),
                        "{algorithm:?}: less than the strictest"
                    );
                }
                other => prop_assert!(false, "{other:?}"),
            }
            trial.now += advance * 1_000_000;
        }
    }
}

#[test]
fn bookings_far_ahead_are_bounded_and_cancellable() {
    let limits = [Limit::new(100, Duration::from_secs(1))];
    let mut bucket = Bucket::default();
    let take = Action::Take { cost: 1, max_wait: Duration::MAX };
    let mut booked = Vec::new();
    for _ in 0..10_000 {
        let request = Request::new("bucket", &limits, take.clone());
        match bucket.apply(&request, Timestamp::from_nanos(START)).outcome {
            Outcome::Admitted(admitted) => booked.push(admitted),
            other => panic!("{other:?}"),
        }
    }
    assert!(bucket.to_bytes().len() < 2_200, "{} bytes", bucket.to_bytes().len());
    let mut log: Vec<u64> = booked.iter().map(|admitted| admitted.at().as_nanos()).collect();
    // Cancels all but the first thousand, the last one first, and uses the room again.
    while booked.len() > 1_000 {
        let permit = booked.pop().unwrap().permit().clone();
        log.pop();
        bucket.apply(&Request::new("bucket", &limits, Action::GiveBack(permit)), Timestamp::from_nanos(START));
    }
    for _ in 0..500 {
        let request = Request::new("bucket", &limits, take.clone());
        match bucket.apply(&request, Timestamp::from_nanos(START)).outcome {
            Outcome::Admitted(admitted) => log.push(admitted.at().as_nanos()),
            other => panic!("{other:?}"),
        }
    }
    assert!(log.is_sorted());
    assert!(log.windows(101).all(|window| window[100] - window[0] >= 1_000_000_000), "over");
}

#[test]
fn a_refused_call_charges_no_limit() {
    let limits = [Limit::new(10, Duration::from_secs(1)), Limit::new(2, Duration::from_secs(60))];
    let mut trial = Trial::new(limits.to_vec());
    for _ in 0..20 {
        trial.apply(Action::Take { cost: 1, max_wait: Duration::ZERO });
    }
    trial.limits.truncate(1);
    let Outcome::Admitted(admitted) = trial.apply(Action::Peek { cost: 1, max_wait: Duration::ZERO }) else {
        panic!("denied by the limit that had room")
    };
    assert_eq!(admitted.remaining(), 8);
}

#[test]
fn the_long_run_rate_of_a_token_bucket_is_exact() {
    for (count, per, burst) in [
        (1_000_000, Duration::from_secs(1), 1_000),
        (700_000, Duration::from_secs(1), 1),
        (1_000_003, Duration::from_secs(86_400), 1_000_003),
        (1, Duration::from_secs(86_400), u32::MAX),
        (3, Duration::from_micros(7), 3),
        (999_983, Duration::from_secs(366 * 86_400), 10),
    ] {
        let limit = Limit::new(count, per).with_algorithm(Algorithm::TokenBucket).with_burst(burst);
        let mut trial = Trial::new(vec![limit]);
        // Empties the bucket, then takes one permit at a time as soon as it comes.
        trial.apply(Action::Take { cost: burst, max_wait: Duration::ZERO });
        let permits = 5_000_u64;
        for _ in 0..permits {
            let Outcome::Admitted(admitted) = trial.apply(Action::Take { cost: 1, max_wait: Duration::MAX }) else {
                panic!("an unbounded wait was denied")
            };
            trial.now = admitted.at().as_nanos();
        }
        let elapsed = u128::from(trial.now - START);
        let ideal = per.as_nanos() * u128::from(permits) / u128::from(count);
        assert!(elapsed + 1_000 >= ideal, "{limit}: too fast, {elapsed} ns for {ideal}");
        // Booked times are whole microseconds; a bucket of one permit loses up to one each time.
        let slack = if burst == 1 { ideal } else { ideal / 1_000 + 1_000 };
        assert!(elapsed <= ideal + slack, "{limit}: too slow, {elapsed} ns for {ideal}");
    }
}
