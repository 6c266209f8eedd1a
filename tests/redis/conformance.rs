//! Redis decides as memory does: the same requests at the same times get the same answers.
//!
//! The oracle is [`Bucket`], the algorithms as memory runs them, which `algorithms.rs` checks
//! against full logs. Time is a test's clock.

use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use ratelimit_runtime::backend::{Action, Answer, Backend, Bucket, Outcome, Permit, Request, Timestamp};
use ratelimit_runtime::macro_support::v1;
use ratelimit_runtime::{Algorithm, Backoff, Calendar, Limit, RedisBackend, Weekday};
use ratelimit_tests::oracle::nanos;
use ratelimit_tests::{RedisServer, bookkeeping};

/// Microseconds since the Unix epoch.
const START: u64 = 1_790_000_000_000_000;
/// A denial without a charge stores the clock if the stored one is older than this.
const CLOCK_UNSEEN: u64 = 1_000_000;
/// An endless wait, 100 years.
const FOREVER: u64 = 36_525 * 86_400_000_000;
/// The latest time that Redis can express, in microseconds.
const FAR: u64 = (1 << 53) - 1;

const NEWEST: usize = usize::MAX;

/// One step of a trace. Times are in microseconds.
#[derive(Clone, Debug)]
enum Step {
    Take {
        cost: u32,
        max_wait: u64,
    },
    Peek {
        cost: u32,
        max_wait: u64,
    },
    /// Takes permits whatever is left.
    Charge(u32),
    /// Gives back one of the permits that are out, chosen by this number, or the last one if it is
    /// [`NEWEST`].
    GiveBack(usize),
    Reset,
    Block(u64),
    Unblock,
    Blocked,
    Forwards(u64),
    Backwards(u64),
    /// Other limits for the same bucket.
    Change(Vec<Limit>),
}

/// The bucket of the algorithms, stored as Redis stores it: without a charge, a clock that has
/// hardly moved is not written.
#[derive(Default)]
struct Oracle {
    bucket: Bucket,
    clock: u64,
}

impl Oracle {
    fn decide(&mut self, request: &Request, now: u64) -> Answer {
        let mut next = self.bucket.clone();
        let answer = next.apply(request, Timestamp::from_nanos(now * 1_000));
        // An empty record has no clock.
        let is_there = self.bucket.to_bytes() != Bucket::default().to_bytes();
        if !is_there {
            self.clock = 0;
        }
        let moved = is_there && (now < self.clock || now - self.clock > CLOCK_UNSEEN);
        let kept = match (request.action(), &answer.outcome) {
            (Action::Take { cost: 1.., .. }, Outcome::Admitted(_))
            | (
                Action::Reset | Action::GiveBack(_) | Action::Charge { .. } | Action::Block { .. } | Action::Unblock,
                _,
            ) => true,
            (Action::Take { .. }, Outcome::Denied(denied)) if request.backoff().is_some() => {
                denied.admitted_at().is_some() && !denied.is_blocked() || moved
            }
            (Action::Take { .. }, _) => moved,
            _ => false,
        };
        if kept {
            // A refund without effect writes nothing.
            let is_seen = next.to_bytes() != self.bucket.to_bytes();
            self.bucket = next;
            self.clock = match request.action() {
                _ if !is_seen => self.clock,
                // If the clock went back, the next decision handles it.
                Action::Block { .. } | Action::Unblock => self.clock.max(now),
                _ => now,
            };
        }
        answer
    }
}

/// An answer in comparable form.
fn said(answer: &Answer) -> String {
    let micros = |time: Timestamp| (time.as_nanos() / 1_000).min(FAR).wrapping_sub(START).cast_signed();
    let outcome = match &answer.outcome {
        Outcome::Admitted(admitted) => {
            let (at, remaining, limit) = (micros(admitted.at()), admitted.remaining(), admitted.limit_index());
            format!("admitted at {at}, {remaining} left in limit {limit}")
        }
        Outcome::Denied(denied) => {
            let (at, remaining, limit) = (denied.admitted_at().map(micros), denied.remaining(), denied.limit_index());
            let why = if denied.is_blocked() { "blocked" } else { "denied" };
            format!("{why} until {at:?}, {remaining} left in limit {limit}")
        }
        Outcome::Blocked { until } => format!("blocked until {:?}", until.map(micros)),
        other => format!("{other:?}"),
    };
    format!("{} at {}", outcome, micros(answer.now))
}

/// Runs a trace on a bucket of its own, and returns the first difference as an error.
fn compare(backend: &RedisBackend, limits: &[Limit], backoff: Option<Backoff>, steps: &[Step]) -> Result<(), String> {
    thread_local!(static BUCKETS: Cell<u64> = const { Cell::new(0) });
    let number = BUCKETS.replace(BUCKETS.get() + 1);
    let name = format!("rl:1:{{trace:{:?}-{number}}}", std::thread::current().id());
    let (mut limits, mut now) = (limits.to_vec(), START);
    let mut oracle = Oracle::default();
    let mut out: Vec<(Permit, Permit)> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let wait = Duration::from_micros;
        let (expected, got) = match step {
            Step::Take { cost, max_wait } => {
                let action = Action::Take { cost: *cost, max_wait: wait(*max_wait) };
                (action.clone(), action)
            }
            Step::Peek { cost, max_wait } => {
                let action = Action::Peek { cost: *cost, max_wait: wait(*max_wait) };
                (action.clone(), action)
            }
            Step::Charge(cost) => (Action::Charge { cost: *cost }, Action::Charge { cost: *cost }),
            Step::GiveBack(_) if out.is_empty() => continue,
            Step::GiveBack(choice) => {
                let newest = out.len() - 1;
                let (ours, theirs) = out.remove(if *choice == NEWEST { newest } else { choice % out.len() });
                (Action::GiveBack(ours), Action::GiveBack(theirs))
            }
            // Permits from before the reset may come back after it.
            Step::Reset => (Action::Reset, Action::Reset),
            Step::Block(time) => {
                let action = Action::Block { time: wait(*time) };
                (action.clone(), action)
            }
            Step::Unblock => (Action::Unblock, Action::Unblock),
            Step::Blocked => (Action::Blocked, Action::Blocked),
            Step::Forwards(by) => {
                now += by;
                continue;
            }
            Step::Backwards(by) => {
                now -= by;
                continue;
            }
            Step::Change(changed) => {
                limits.clone_from(changed);
                continue;
            }
        };
        let request = |action: Action| {
            let request = Request::new(name.clone(), &limits, action).at(Timestamp::from_nanos(now * 1_000));
            match backoff {
                Some(backoff) => request.with_backoff(backoff),
                None => request,
            }
        };
        let taken = matches!(expected, Action::Take { .. });
        let expected = oracle.decide(&request(expected), now);
        let got = backend.decide(&request(got)).map_err(|error| format!("step {number}, {step:?}: {error}"))?;
        if said(&expected) != said(&got) {
            return Err(format!("step {number}, {step:?}: {} in memory, {} in Redis", said(&expected), said(&got)));
        }
        if let (true, Outcome::Admitted(ours), Outcome::Admitted(theirs)) = (taken, &expected.outcome, &got.outcome) {
            out.push((ours.permit().clone(), theirs.permit().clone()));
        }
    }
    Ok(())
}

fn backend() -> RedisBackend {
    // A long timeout: the answers are compared, on a machine that may be busy.
    RedisBackend::builder().url(RedisServer::shared().url()).timeout(Duration::from_secs(30)).build().unwrap()
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        max_shrink_iters: u32::MAX,
        max_shrink_time: 30_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    }
}

fn limit(count: u32, per: u64, algorithm: Algorithm, burst: u32) -> Limit {
    let per = Duration::from_micros(per);
    match algorithm {
        Algorithm::TokenBucket => v1::limit_with_burst(count, per, algorithm, burst),
        _ => v1::limit(count, per, algorithm),
    }
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop_oneof![Just(Algorithm::SlidingWindow), Just(Algorithm::TokenBucket), Just(Algorithm::FixedWindow)]
}

/// A limit whose period is about `per`.
fn limits_of(per: u64) -> impl Strategy<Value = Limit> {
    let counts =
        prop_oneof![1 => Just(0_u32), 8 => 1_u32..=8, 4 => 60_u32..=70, 2 => 100_u32..=5_000, 1 => any::<u32>()];
    let pers = prop_oneof![3 => Just(per), 1 => 1..=3 * per, 1 => Just(per * 1_003)];
    let bursts = prop_oneof![6 => 1_u32..=10, 1 => 11_u32..=10_000, 1 => any::<u32>().prop_map(|burst| burst.max(1))];
    (counts, pers, algorithms(), bursts).prop_map(|(count, per, algorithm, burst)| limit(count, per, algorithm, burst))
}

/// A limit whose period is `per` or down to half of that, so that a ring's slots can express all
/// times that count.
fn limits_near(per: u64) -> impl Strategy<Value = Limit> {
    (limits_of(per), per.div_ceil(2)..=per).prop_map(|(of, per)| limit(of.count(), per, of.algorithm(), of.burst()))
}

fn steps_of(per: u64) -> impl Strategy<Value = Step> {
    let costs = || prop_oneof![8 => Just(1_u32), 1 => Just(0_u32), 4 => 0_u32..=5, 1 => 0_u32..=100, 1 => any::<u32>()];
    let waits = move || prop_oneof![6 => Just(0), 2 => 0..=per, 2 => 0..=5 * per, 1 => Just(FOREVER)];
    let times = move || prop_oneof![4 => Just(1_u64), 4 => 0..=per / 4, 2 => Just(per), 1 => 0..=3 * per];
    prop_oneof![
        12 => (costs(), waits()).prop_map(|(cost, max_wait)| Step::Take { cost, max_wait }),
        3 => (costs(), waits()).prop_map(|(cost, max_wait)| Step::Peek { cost, max_wait }),
        3 => any::<usize>().prop_map(Step::GiveBack),
        1 => any::<usize>().prop_map(|_| Step::GiveBack(NEWEST)),
        6 => times().prop_map(Step::Forwards),
        1 => times().prop_map(Step::Backwards),
        1 => times().prop_map(Step::Block),
        1 => prop_oneof![Just(Step::Unblock), Just(Step::Blocked)],
        1 => prop::collection::vec(limits_near(per), 1..=3).prop_map(Step::Change),
    ]
}

#[derive(Clone, Debug)]
struct Trace {
    limits: Vec<Limit>,
    backoff: Option<Backoff>,
    steps: Vec<Step>,
}

fn pers() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => Just(1_u64),
        4 => Just(1_000),
        4 => Just(1_000_000),
        2 => Just(7_919_000),
        2 => Just(3_600_000_000),
        1 => Just(86_400_000_000),
        1 => Just(366 * 86_400_000_000 / 1_003),
    ]
}

/// Costs from one permit to several times a limit.
fn charges() -> impl Strategy<Value = Step> {
    prop_oneof![8 => 1_u32..=20, 3 => 1_u32..=300, 2 => 1_u32..=20_000, 1 => 1..=u32::MAX].prop_map(Step::Charge)
}

fn traces(length: std::ops::Range<usize>) -> impl Strategy<Value = Trace> {
    (pers(), length).prop_flat_map(|(per, length)| {
        let backoffs = prop_oneof![
            3 => Just(None),
            1 => (1..=4 * per, 1..=50 * per).prop_map(|(initial, max)| {
                Some(Backoff::new(Duration::from_micros(initial), Duration::from_micros(max)))
            }),
            1 => (1..=4 * per).prop_map(|time| Some(Backoff::ban(Duration::from_micros(time)))),
        ];
        let mostly = prop_oneof![20 => steps_of(per).boxed(), 1 => Just(Step::Reset).boxed()];
        // Not both: a clock that went back is stored for the limits on record, not for others.
        let kept = |clock_back: bool| {
            move |step: &Step| match step {
                Step::Backwards(_) => clock_back,
                Step::Change(_) => !clock_back,
                _ => true,
            }
        };
        let limits = prop::collection::vec((limits_of(per), limits_near(per)), 1..=4);
        (limits, backoffs, prop::collection::vec(mostly, length), any::<bool>()).prop_map(
            move |(limits, backoff, mut steps, clock_back)| {
                steps.retain(kept(clock_back));
                let limits = limits.into_iter().map(|(of, near)| if clock_back { of } else { near }).collect();
                Trace { limits, backoff, steps }
            },
        )
    })
}

#[test]
fn any_trace_is_answered_as_in_memory() {
    let backend = backend();
    proptest!(cases(400), |(trace in traces(1..60))| {
        let compared = compare(&backend, &trace.limits, trace.backoff, &trace.steps);
        prop_assert!(compared.is_ok(), "{}", compared.unwrap_err());
    });
}

#[test]
fn any_trace_with_debts_is_answered_as_in_memory() {
    let backend = backend();
    let traces = (traces(1..60), prop::collection::vec((any::<prop::sample::Index>(), charges()), 1..6));
    proptest!(cases(400), |((mut trace, charges) in traces)| {
        // A limit that is replaced during a debt is judged alike to within one of its intervals.
        trace.steps.retain(|step| !matches!(step, Step::Change(_)));
        for (index, charge) in charges {
            let at = index.index(trace.steps.len() + 1);
            trace.steps.insert(at, charge);
        }
        let compared = compare(&backend, &trace.limits, trace.backoff, &trace.steps);
        prop_assert!(compared.is_ok(), "{}", compared.unwrap_err());
    });
}

/// Debts and bookings whose times lie further apart than the slots of a ring express at first: 4,295
/// seconds in a window of an hour, 17 in one of ten seconds.
#[test]
fn debts_that_last_for_many_periods_are_answered_as_in_memory() {
    let backend = backend();
    let traces = (prop_oneof![Just(10_000_000_u64), Just(3_600_000_000)], 1_u32..=12).prop_flat_map(|(per, count)| {
        let take = (1_u32..=3, prop_oneof![Just(0), Just(FOREVER)]);
        let step = prop_oneof![
            4 => take.prop_map(|(cost, max_wait)| Step::Take { cost, max_wait }),
            2 => (1_u32..=3).prop_map(|cost| Step::Peek { cost, max_wait: 0 }),
            2 => (1_u32..=40).prop_map(Step::Charge),
            1 => Just(Step::GiveBack(NEWEST)),
            3 => prop_oneof![0..=per / 4, 0..=3 * per].prop_map(Step::Forwards),
        ];
        (Just((per, count)), algorithms(), prop::collection::vec(step, 1..40))
    });
    proptest!(cases(400), |(((per, count), algorithm, steps) in traces)| {
        let compared = compare(&backend, &[limit(count, per, algorithm, count)], None, &steps);
        prop_assert!(compared.is_ok(), "{}", compared.unwrap_err());
    });
}

/// Found by random traces: after the clock went back, a window was charged ahead of now, although
/// nothing else was, and the script's fast path did not see it.
#[test]
fn a_window_ahead_of_a_clock_that_went_back_is_not_overlooked() {
    let take = || Step::Take { cost: 1, max_wait: 0 };
    let steps = [take(), Step::Charge(17), Step::Backwards(1_000), take(), Step::Forwards(1_984)];
    let steps = [&steps[..], &[Step::GiveBack(0), take()]].concat();
    compare(&backend(), &[limit(7, 1_524, Algorithm::FixedWindow, 1)], None, &steps).unwrap();
}

/// Found by reading, after a random trace that was not kept: the script's fast path stored the
/// clock for a refunded call of cost 0. When the clock then went back, permits seemed older than
/// they were.
#[test]
fn giving_back_nothing_changes_nothing() {
    let take = |cost| Step::Take { cost, max_wait: 0 };
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let steps = [
            take(1),
            take(0),
            Step::Forwards(5_000),
            Step::GiveBack(NEWEST),
            Step::Backwards(3_000),
            Step::Peek { cost: 1, max_wait: 0 },
            take(1),
        ];
        compare(&backend(), &[limit(1, 5_000, algorithm, 1)], None, &steps).unwrap();
    }
}

/// A booking that is given up restores the earlier window, less what has come back since. What came
/// back before does not count twice.
#[test]
fn what_came_back_before_a_booking_comes_back_once() {
    let second = limit(5, 1_000_000, Algorithm::SlidingWindow, 1);
    let hour = limit(7, 3_600_000_000, Algorithm::FixedWindow, 1);
    for other in [hour, Limit::per_calendar(7, Calendar::DAY.in_zone("Europe/Berlin"))] {
        let book = || Step::Take { cost: 1, max_wait: FOREVER };
        let take = |cost| Step::Take { cost, max_wait: 0 };
        let steps = [
            take(4),
            take(1),
            book(),
            // The second of the calls above.
            Step::GiveBack(1),
            book(),
            Step::GiveBack(NEWEST),
            Step::Peek { cost: 1, max_wait: FOREVER },
        ];
        compare(&backend(), &[second, other], None, &steps).unwrap();
    }
}

/// A nanosecond clock divides the units of some rates more finely than those of others.
#[test]
fn what_is_taken_counts_on_in_a_bucket_of_any_rate() {
    let backend = backend();
    let before = [limit(8, 1_000, Algorithm::SlidingWindow, 1)];
    for (count, per) in [(1, 1), (4, 1), (250, 1), (1_000, 1), (5_000, 3), (3, 7), (7, 1_000)] {
        let bucket = |burst| Step::Change(vec![limit(count, per, Algorithm::TokenBucket, burst)]);
        let take = |cost| Step::Take { cost, max_wait: 0 };
        let peek = || Step::Peek { cost: 1, max_wait: 0 };
        let steps = [take(3), bucket(9), peek(), take(1), bucket(4), peek(), Step::Forwards(1), peek(), take(2)];
        compare(&backend, &before, None, &steps).unwrap();
    }
}

#[test]
fn what_is_taken_is_rounded_up_in_a_bucket_of_another_rate() {
    let backend = backend();
    for count in [2, 3, 7, 11, 13, 29, 97] {
        for other in [3, 5, 17, 31] {
            let bucket = |count, per| limit(count, per, Algorithm::TokenBucket, 9);
            let peek = |cost| Step::Peek { cost, max_wait: 0 };
            let steps = [
                Step::Take { cost: 9, max_wait: 0 },
                Step::Forwards(37_211),
                Step::Change(vec![bucket(other, 999_983)]),
                peek(1),
                peek(9),
            ];
            compare(&backend, &[bucket(count, 1_000_003)], None, &steps).unwrap();
        }
    }
}

#[test]
fn a_denied_call_learns_what_is_left_in_a_bucket() {
    let take = || Step::Take { cost: 2, max_wait: 0 };
    compare(&backend(), &[limit(1, 3_600_000_000, Algorithm::TokenBucket, 3)], None, &[take(), take()]).unwrap();
}

#[test]
fn a_longer_period_finds_permits_that_no_longer_counted() {
    let (take, window) = (|| Step::Take { cost: 1, max_wait: 0 }, |per| limit(5, per, Algorithm::SlidingWindow, 1));
    let longer = Step::Change(vec![window(10_000_000)]);
    let steps = [take(), Step::Forwards(1_500_000), take(), take(), longer, Step::Peek { cost: 1, max_wait: 0 }];
    compare(&backend(), &[window(1_000_000)], None, &steps).unwrap();
}

#[test]
fn backoff_forgives_at_the_end_of_its_longest_block() {
    let take = || Step::Take { cost: 1, max_wait: 0 };
    let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(2));
    let steps = [take(), take(), Step::Forwards(2_000_000), take(), take()];
    compare(&backend(), &[limit(1, 1_000_000, Algorithm::SlidingWindow, 1)], Some(backoff), &steps).unwrap();
}

/// Expired permits stay on record for the largest count of any charge, and a refund under other
/// limits is no charge.
#[test]
fn a_longer_period_finds_what_was_charged_after_a_refund_under_other_limits() {
    let window = |count, per| limit(count, per, Algorithm::SlidingWindow, 1);
    let take = |times| vec![[Step::Take { cost: 1, max_wait: 0 }, Step::Forwards(10)]; times].concat();
    let steps = [
        take(3),
        vec![Step::Change(vec![window(7, 1_000_000)]), Step::GiveBack(NEWEST)],
        take(5),
        vec![Step::Forwards(2_000_000)],
        take(3),
        vec![Step::Change(vec![window(6, 3_600_000_000)])],
        take(1),
    ];
    compare(&backend(), &[window(3, 1_000_000)], None, &steps.concat()).unwrap();
}

/// A window of 6 keeps its groups' permits in a byte each, and may take over more than that.
#[test]
fn a_small_window_keeps_all_that_another_algorithm_has_taken() {
    let hour = 3_600_000_000;
    for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let steps = [
            Step::Take { cost: 1_000, max_wait: 0 },
            Step::Change(vec![limit(6, hour, Algorithm::SlidingWindow, 6)]),
            Step::Take { cost: 1, max_wait: FOREVER },
            Step::Change(vec![limit(2_000, hour, Algorithm::TokenBucket, 2_000)]),
            Step::Take { cost: 1_500, max_wait: 0 },
        ];
        compare(&backend(), &[limit(1_000, hour, algorithm, 1_000)], None, &steps).unwrap();
    }
}

/// Found by random traces: the server deletes a record that held nothing but a block, and the clock
/// with it. Memory kept the clock and took the next block for one after the clock went back.
#[test]
fn a_key_that_is_no_longer_blocked_remembers_no_clock() {
    let (take, limits) = (Step::Take { cost: 0, max_wait: 0 }, [limit(5, 1_000_000, Algorithm::SlidingWindow, 1)]);
    let blocks = || Step::Block(250);
    let lifted = [blocks(), Step::Unblock, Step::Backwards(1), blocks(), Step::Forwards(1), take.clone()];
    compare(&backend(), &limits, None, &lifted).unwrap();
    // Nor does a reset of an unused key.
    let forwards = || Step::Forwards(1);
    let reset = [Step::Reset, Step::Backwards(5), blocks(), forwards(), take.clone(), Step::Backwards(1), take.clone()];
    compare(&backend(), &limits, None, &[&reset[..], &[forwards(), take]].concat()).unwrap();
}

/// Found by random traces. Memory counts some rates in other units than the server. It compared
/// these units, and so kept a booking that the server gave up, or the other way around.
#[test]
fn a_booking_stays_if_the_rate_of_its_bucket_was_replaced() {
    let bucket = |count, burst| vec![limit(count, 1, Algorithm::TokenBucket, burst)];
    let (take, back) = (|max_wait| Step::Take { cost: 1, max_wait }, || Step::GiveBack(0));
    let steps = [take(0), take(FOREVER), Step::Change(bucket(66, 7)), back(), back(), take(1)];
    compare(&backend(), &bucket(3, 1), None, &steps).unwrap();
    let steps = [take(0), take(FOREVER), Step::Change(bucket(62, 877_743_657)), Step::GiveBack(NEWEST), take(0)];
    compare(&backend(), &bucket(8, 1), None, &steps).unwrap();
    // Steps of another length, and the same units in each.
    let hours = |hours: u64| vec![limit(3, hours * 3_600_000_000, Algorithm::TokenBucket, u32::MAX)];
    let steps =
        [take(0), Step::Take { cost: u32::MAX, max_wait: FOREVER }, Step::Change(hours(2)), Step::GiveBack(NEWEST)];
    let peek = Step::Peek { cost: u32::MAX, max_wait: FOREVER };
    compare(&backend(), &hours(1), None, &[&steps[..], &[peek]].concat()).unwrap();
}

/// Permits come back while two bookings lie ahead, and the newer of these is given up.
#[test]
fn what_comes_back_before_an_earlier_booking_comes_back_once() {
    let take = |cost| Step::Take { cost, max_wait: FOREVER };
    let limits = [limit(1, 1_000_000, Algorithm::TokenBucket, 3)];
    let peek = || Step::Peek { cost: 3, max_wait: FOREVER };
    for back in [0, 500_000] {
        let bookings = [take(3), take(3), take(1), take(1), Step::Forwards(3_000_000)];
        let given = [Step::GiveBack(1), Step::Forwards(back), Step::Backwards(back), Step::GiveBack(NEWEST)];
        compare(&backend(), &limits, None, &[&bookings[..], &given, &[peek()]].concat()).unwrap();
        // The clock goes back after it was stored, so that all times are moved.
        let bookings = [take(3), take(3), take(2), take(1), Step::Forwards(3_000_000)];
        let given = [Step::GiveBack(1), Step::Backwards(back), take(0), Step::GiveBack(NEWEST)];
        compare(&backend(), &limits, None, &[&bookings[..], &given, &[peek()]].concat()).unwrap();
    }
}

/// A window has room for 128 groups. A booking beyond them drops the oldest, although its permits still
/// count now. When these come back, they must not be taken for those of the next group.
#[test]
fn a_permit_that_was_dropped_for_a_booking_does_not_come_back() {
    let take = |max_wait| Step::Take { cost: 1, max_wait };
    let taken = vec![[take(0), Step::Forwards(7)]; 64].concat();
    let (booked, given_up) = (vec![take(FOREVER); 66], vec![Step::GiveBack(NEWEST); 66]);
    let steps = [taken, booked, vec![Step::GiveBack(0)], given_up, vec![take(0), take(0)]].concat();
    compare(&backend(), &[limit(64, 1_000_000, Algorithm::SlidingWindow, 1)], None, &steps).unwrap();
}

#[test]
fn what_fits_of_a_charge_is_charged_now() {
    let (take, peek) = (|cost| Step::Take { cost, max_wait: 0 }, Step::Peek { cost: 3, max_wait: FOREVER });
    for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        let steps = [take(5), Step::Forwards(100_000), take(1), Step::Charge(8), peek.clone()];
        compare(&backend(), &[limit(10, 1_000_000, algorithm, 1)], None, &steps).unwrap();
    }
}

/// A booking may lie further ahead than a debt may. What fits beside it is charged all the same.
#[test]
fn what_fits_beside_a_booking_years_ahead_is_charged() {
    let year = 366 * 86_400_000_000;
    let book = || Step::Take { cost: 3, max_wait: FOREVER };
    for limits in
        [&[limit(5, year, Algorithm::SlidingWindow, 1)][..], &[limit(5, year, Algorithm::SlidingWindow, 1); 2]]
    {
        let steps = [book(), book(), book(), Step::Charge(20), Step::Peek { cost: 1, max_wait: FOREVER }];
        compare(&backend(), limits, None, &steps).unwrap();
    }
}

/// By the server's clock, because its keys expire by that.
#[test]
fn a_key_outlives_its_window() {
    let (backend, per) = (backend(), Duration::from_millis(400));
    let (limits, name) = ([Limit::new(1_000_000, per)], "rl:1:{outlives}:x");
    let mut connection = RedisServer::shared().connection();
    // Longer than a record is kept beyond its window.
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        let start = Instant::now();
        backend.decide(&Request::new(name, &limits, Action::Take { cost: 1, max_wait: Duration::ZERO })).unwrap();
        let left: u64 = redis::cmd("PTTL").arg(name).query(&mut connection).unwrap();
        let outlives = Duration::from_millis(left) + start.elapsed();
        assert!(outlives >= per, "{outlives:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_long_trace_is_answered_as_in_memory() {
    let backend = backend();
    proptest!(cases(12), |(trace in traces(1_000..1_200))| {
        let compared = compare(&backend, &trace.limits, trace.backoff, &trace.steps);
        prop_assert!(compared.is_ok(), "{}", compared.unwrap_err());
    });
}

/// Windows at either side of every period and count at which their layout changes. They are filled
/// evenly and repeatedly, so that groups leave one by one, all at once, or while the clock stands.
/// That is the script's fast path.
#[test]
fn windows_of_many_groups_are_answered_as_in_memory() {
    let backend = backend();
    let pers = prop_oneof![
        2 => Just(800_000_u64),
        1 => around(24),
        1 => around(32),
        1 => around(40),
        1 => Just(300 * 86_400_000_000),
    ];
    let counts = || {
        prop_oneof![
            4 => 40_u32..=70,
            1 => 254_u32..=257,
            1 => 65_534_u32..=65_537,
            1 => 16_777_214_u32..=16_777_217,
            1 => Just(u32::MAX),
        ]
    };
    let traces = (pers, counts(), counts(), 0_u8..=2).prop_flat_map(|(per, count, other, limits)| {
        let first = limit(count, per, Algorithm::SlidingWindow, count);
        let other_per = per / 3 + 1;
        let limits = match limits {
            0 => vec![first],
            1 => vec![first, limit(other, other_per, Algorithm::SlidingWindow, other)],
            _ => vec![
                limit(other, other_per, Algorithm::SlidingWindow, other),
                limit(1_000_000, per, Algorithm::FixedWindow, 1),
                first,
                limit(1_000_000, per, Algorithm::TokenBucket, 1_000_000),
            ],
        };
        // A few calls close a group of a large window.
        let closing = count.max(other).div_ceil(64);
        let take = |cost| Step::Take { cost, max_wait: 0 };
        let step = prop_oneof![
            20 => (per / 80..=per / 50, Just(1)).prop_map(move |(by, cost)| vec![Step::Forwards(by), take(cost)]),
            20 => (per / 80..=per / 50).prop_map(move |by| vec![Step::Forwards(by), take(closing)]),
            4 => (1_u32..=5).prop_map(move |cost| vec![take(cost)]),
            2 => (0..=per).prop_map(|by| vec![Step::Forwards(by)]),
            1 => (per - 1..=per + 1).prop_map(|by| vec![Step::Forwards(by)]),
            1 => (0..=1_u64).prop_map(move |by| vec![Step::Backwards(by * per / 90)]),
            1 => Just(vec![Step::Peek { cost: 1, max_wait: 0 }]),
            1 => any::<usize>().prop_map(|choice| vec![Step::GiveBack(choice)]),
        ];
        prop::collection::vec(step, 100..400).prop_map(move |steps| (limits.clone(), steps.concat()))
    });
    proptest!(cases(60), |((limits, steps) in traces)| {
        let compared = compare(&backend, &limits, None, &steps);
        prop_assert!(compared.is_ok(), "{}", compared.unwrap_err());
    });
}

/// Periods of about 2^`bits` microseconds.
fn around(bits: u32) -> impl Strategy<Value = u64> {
    (1_u64 << bits) - 2..=(1 << bits) + 2
}

/// Bookings far ahead and refunds out of their middle, so close together that nothing expires. They
/// drive a window beyond its maximum of groups, so that some are dropped or merged.
#[test]
fn windows_full_of_bookings_and_holes_are_answered_as_in_memory() {
    let backend = backend();
    let book = |cost| Step::Take { cost, max_wait: FOREVER };
    let booking = prop_oneof![
        30 => Just(vec![Step::Forwards(7), book(1)]),
        1 => (1_u32..=3).prop_map(move |cost| vec![book(cost)]),
        1 => (1_u64..=200).prop_map(move |by| vec![Step::Forwards(by), book(1), Step::Peek { cost: 1, max_wait: 0 }]),
    ];
    let bookings = move |most| prop::collection::vec(booking.clone(), 1..most).prop_map(|bookings| bookings.concat());
    let unwound = |most| (1..most).prop_map(|length| vec![Step::GiveBack(NEWEST); length]);
    let runs = prop_oneof![
        6 => bookings(200),
        3 => unwound(150_usize),
        2 => prop::collection::vec(any::<usize>().prop_map(Step::GiveBack), 1..30),
        1 => (0_u64..=3_000_000).prop_map(|by| vec![Step::Forwards(by)]),
        1 => (0_u64..=500_000).prop_map(|by| vec![Step::Backwards(by)]),
    ];
    let runs = (bookings(400), unwound(300), prop::collection::vec(runs, 1..12))
        .prop_map(|(booked, unwound, others)| [booked, unwound, others.concat()].concat());
    let limits = (prop_oneof![Just(64_u32), 40_u32..=130], 1_u32..=64, algorithms(), any::<bool>()).prop_map(
        |(count, other, algorithm, both)| {
            let first = limit(count, 1_000_000, Algorithm::SlidingWindow, count);
            if both { vec![first, limit(other, 700_000, algorithm, other)] } else { vec![first] }
        },
    );
    proptest!(cases(24), |(limits in limits, steps in runs)| {
        let compared = compare(&backend, &limits, None, &steps);
        prop_assert!(compared.is_ok(), "{}", compared.unwrap_err());
    });
}

/// Calendars, whose windows begin when clocks change, alone and beside other limits.
#[test]
fn calendars_are_answered_as_in_memory() {
    const HOUR: u64 = 3_600_000_000;
    let backend = backend();
    let zones = prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Asia/Beirut"), Just("Australia/Lord_Howe")];
    let calendars = (zones, 1_u8..=31).prop_flat_map(|(zone, day)| {
        prop_oneof![
            3 => Just(Calendar::DAY),
            1 => Just(Calendar::WEEK.week_starts(Weekday::Sunday)),
            2 => Just(Calendar::MONTH.starts_on(day)),
            1 => Just(Calendar::YEAR),
        ]
        .prop_map(move |calendar| calendar.in_zone(zone))
    });
    let limits = || {
        let calendar = (1_u32..=8, calendars.clone()).prop_map(|(count, of)| Limit::per_calendar(count, of));
        prop::collection::vec(prop_oneof![4 => calendar, 1 => limits_near(24 * HOUR)], 1..=3)
    };
    let costs = || prop_oneof![8 => Just(1_u32), 1 => 0_u32..=9];
    let waits = || prop_oneof![6 => Just(0), 2 => 0..=30 * HOUR, 1 => 0..=900 * HOUR, 1 => Just(FOREVER)];
    let times = || prop_oneof![4 => 0..=30 * HOUR, 1 => 0..=900 * HOUR, 1 => 0..=9_000 * HOUR];
    let steps = prop_oneof![
        12 => (costs(), waits()).prop_map(|(cost, max_wait)| Step::Take { cost, max_wait }),
        3 => (costs(), waits()).prop_map(|(cost, max_wait)| Step::Peek { cost, max_wait }),
        3 => any::<usize>().prop_map(Step::GiveBack),
        1 => Just(Step::GiveBack(NEWEST)),
        6 => times().prop_map(Step::Forwards),
        1 => times().prop_map(Step::Backwards),
        1 => limits().prop_map(Step::Change),
        2 => (1_u32..=40).prop_map(Step::Charge),
    ];
    let traces = (limits(), prop::collection::vec(steps, 1..60), 0..3);
    proptest!(cases(400), |((limits, mut steps, mode) in traces)| {
        // As in `traces`: limits are replaced neither after the clock went back nor during a debt.
        steps.retain(|step| match step {
            Step::Backwards(_) => mode != 1,
            Step::Change(_) => mode == 1,
            Step::Charge(_) => mode == 2,
            _ => true,
        });
        let compared = compare(&backend, &limits, None, &steps);
        prop_assert!(compared.is_ok(), "{}", compared.unwrap_err());
    });
}

/// A booking that is given up after its limit was replaced stays in a token bucket.
#[test]
fn a_refund_before_the_time_of_a_bucket_is_less_what_flows_back_until_then() {
    let bucket = |count, per, burst| vec![limit(count, per, Algorithm::TokenBucket, burst)];
    let steps = [
        Step::Take { cost: 1, max_wait: 0 },
        Step::Take { cost: 1, max_wait: FOREVER },
        Step::Change(bucket(61, 796, 2)),
        Step::GiveBack(NEWEST),
        Step::Take { cost: 1, max_wait: 0 },
        Step::GiveBack(0),
        Step::Peek { cost: 1, max_wait: FOREVER },
    ];
    compare(&backend(), &bucket(4, 789, 1), None, &steps).unwrap();
}

/// A debt beyond 366 days charges a bucket nothing, and so its refunds lose nothing either.
#[test]
fn a_debt_that_is_not_charged_leaves_a_bucket_as_it_is() {
    let year = 366 * 86_400_000_000;
    let limits = [Limit::per_calendar(2, Calendar::DAY), limit(1, year, Algorithm::TokenBucket, 6)];
    let take = || Step::Take { cost: 1, max_wait: 0 };
    let steps = [
        take(),
        take(),
        Step::Charge(19),
        Step::Charge(2),
        Step::GiveBack(0),
        Step::GiveBack(0),
        Step::Peek { cost: 1, max_wait: FOREVER },
    ];
    compare(&backend(), &limits, None, &steps).unwrap();
}

/// The request carries the boundaries around now. All earlier windows look like one.
#[test]
fn a_permit_of_an_earlier_day_is_not_given_back_to_another_day() {
    let day = 86_400_000_000;
    let take = |max_wait| Step::Take { cost: 1, max_wait };
    let steps = [
        take(0),
        Step::Forwards(2 * day),
        take(0),
        Step::Forwards(2 * day),
        Step::GiveBack(0),
        Step::Change(vec![Limit::per_calendar(1, Calendar::WEEK)]),
        take(0),
    ];
    compare(&backend(), &[Limit::per_calendar(1, Calendar::DAY)], None, &steps).unwrap();
}

/// Found by random traces. The clock went back to the day before, and memory kept the end of the day
/// after. When that end passed and the clock went back again, the permits of the day before counted.
#[test]
fn a_day_that_the_clock_went_back_to_has_its_own_end() {
    let hour = 3_600_000_000;
    let take = |cost| Step::Take { cost, max_wait: 0 };
    let midnight = START % (24 * hour);
    let back = [take(1), Step::Backwards(midnight + hour), take(1), Step::Forwards(hour), take(2)];
    let steps = [&back[..], &[Step::Backwards(1), take(1)]].concat();
    compare(&backend(), &[Limit::per_calendar(1, Calendar::DAY)], None, &steps).unwrap();
}

#[test]
fn the_books_are_right_after_resets_refunds_and_bookings_in_any_order() {
    let backend = backend();
    bookkeeping::all(&mut |name, limit, action, seconds| {
        let time = START * 1_000 + nanos(Duration::from_secs_f64(seconds));
        let request = Request::new(format!("rl:1:{{{name}}}:x"), &[limit], action).at(Timestamp::from_nanos(time));
        backend.decide(&request).unwrap().outcome
    });
}

/// Under saturation the admitted rate is the limit's, within 0.1 %, from one permit a day to a
/// million a second.
#[test]
fn the_long_run_rate_is_what_was_asked() {
    const PERMITS: u64 = 3_000;
    let (backend, second, day) = (backend(), 1_000_000, 86_400_000_000);
    let window = Algorithm::SlidingWindow;
    for (number, (limit, cost)) in [
        (limit(1_000_000, second, Algorithm::TokenBucket, 1_000), 1),
        (limit(999_983, second, Algorithm::TokenBucket, 50), 1),
        (limit(3, 7, Algorithm::TokenBucket, 3), 1),
        (limit(1_000_003, day, Algorithm::TokenBucket, 1_000_003), 1),
        (limit(1, day, Algorithm::TokenBucket, u32::MAX), 1),
        (limit(1, day, window, 0), 1),
        (limit(60, second, window, 0), 1),
        (limit(1, 1, window, 0), 1),
        (limit(1, day, Algorithm::FixedWindow, 0), 1),
        (limit(1_000_000, second, Algorithm::FixedWindow, 0), 100_000),
    ]
    .into_iter()
    .enumerate()
    {
        let (bucket, mut now) = (format!("rl:1:{{rate {number}}}:x"), START);
        let mut wait = |cost| {
            let action = Action::Take { cost, max_wait: Duration::MAX };
            let request = Request::new(bucket.clone(), &[limit], action).at(Timestamp::from_nanos(now * 1_000));
            let Outcome::Admitted(admitted) = backend.decide(&request).unwrap().outcome else {
                panic!("an unbounded wait was denied")
            };
            now = admitted.at().as_nanos() / 1_000;
            now
        };
        // All permits at first, then each refill as soon as it comes.
        let start = wait(limit.capacity());
        let end = (0..PERMITS).map(|_| wait(cost)).last().unwrap();
        let permits = u128::from(PERMITS) * u128::from(cost);
        let ideal = u64::try_from(permits * limit.per().as_micros() / u128::from(limit.count())).unwrap();
        let elapsed = end - start;
        // The first fixed window has already begun.
        let begun = if limit.algorithm() == Algorithm::FixedWindow {
            start % u64::try_from(limit.per().as_micros()).unwrap()
        } else {
            0
        };
        assert!(elapsed + begun + 1 >= ideal, "{limit}: too fast, {elapsed} µs for {ideal}");
        assert!(elapsed <= ideal + ideal / 1_000 + 1, "{limit}: too slow, {elapsed} µs for {ideal}");
    }
}
