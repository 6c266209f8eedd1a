//! All states compared with a full log of admissions, which decides only by the definitions of the
//! limits.

use std::time::Duration;

use proptest::prelude::*;
use smallvec::SmallVec;

use super::super::{
    Ask, BucketPath, FixedPath, KeyPath, Kind, MemoryBackend, OnePermit, Store, TatPath, WindowPath, Written, on_path,
};
use super::fixed::Fixed;
use super::*;
use crate::algorithm::fixed_window::FixedWindow;
use crate::decision::Address;
use crate::limit::{Algorithm, Limit};

/// A moment in the time of this process that is a whole hour.
fn start() -> u64 {
    (crate::rt::clock::origin() + 1).next_multiple_of(3_600_000_000_000)
}
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

/// The admissions of one limit, in order: permits, and the time from which they count.
#[derive(Clone, Default)]
struct Log(Vec<(u64, u64)>);

impl Log {
    fn sum(&self, counts: impl Fn(u64) -> bool) -> u64 {
        self.0.iter().filter(|(at, _)| counts(*at)).map(|(_, permits)| permits).sum()
    }

    fn admits(&self, rule: &Rule, now: u64, cost: u64) -> bool {
        let (per, count) = (rule.per(), u64::from(rule.limit.count()));
        match rule.limit.algorithm() {
            Algorithm::SlidingWindow => self.sum(|at| now.saturating_sub(at) < per) + cost <= count,
            Algorithm::FixedWindow => self.sum(|at| at / per == now / per) + cost <= count,
            Algorithm::TokenBucket => {
                let (mut out, burst) = (u128::from(cost), u128::from(rule.limit.burst()));
                let (count, per) = (u128::from(count), u128::from(per));
                let mut earlier = self.0.iter().rev();
                out <= burst
                    && earlier.all(|(at, permits)| {
                        out += u128::from(*permits);
                        out * per <= burst * per + u128::from(now.saturating_sub(*at)) * count
                    })
            }
        }
    }

    /// The first moment from `now` on; for a token bucket a whole microsecond if `now` is one.
    fn fits_at(&self, rule: &Rule, now: u64, cost: u64) -> u64 {
        if self.admits(rule, now, cost) {
            return now;
        }
        let grain =
            if rule.limit.algorithm() == Algorithm::TokenBucket && now.is_multiple_of(1_000) { 1_000 } else { 1 };
        let (mut denied, mut admitted) = (now / grain, u64::MAX / 4 / grain);
        while admitted - denied > 1 {
            let middle = denied.midpoint(admitted);
            if self.admits(rule, middle * grain, cost) { admitted = middle } else { denied = middle }
        }
        admitted * grain
    }

    fn remaining(&self, rule: &Rule, now: u64) -> u32 {
        let (mut fits, mut above) = (0, u64::from(rule.capacity()) + 1);
        while above - fits > 1 {
            let middle = fits.midpoint(above);
            if self.admits(rule, now, middle) { fits = middle } else { above = middle }
        }
        u32::try_from(fits).unwrap()
    }

    fn charge(&mut self, rule: &Rule, now: Now, newest: u64, cost: u64) {
        let at = match rule.limit.algorithm() {
            Algorithm::SlidingWindow => newest.max(now.latest),
            Algorithm::FixedWindow => now.earliest,
            Algorithm::TokenBucket => rule.recorded(Now { latest: newest.max(now.latest), ..now }),
        };
        self.0.push((at.max(self.0.last().map_or(0, |last| last.0)), cost));
    }

    /// Takes `cost` permits of one call back.
    fn refund(&mut self, index: usize) {
        if let Some((_, permits)) = self.0.get_mut(index) {
            *permits = 0;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Take(u32),
    Peek(u32),
    /// Refunds the call that many calls ago.
    Refund(usize),
    /// Switches to other limits, if there are any.
    Change(usize),
    /// An operation that moves the state under the lock, or to the table of all limits, and perhaps
    /// back.
    Move,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// How far the time advances: thousandths of the shortest period, and nanoseconds.
    ahead: (u64, u64),
    /// The clock's uncertainty.
    margin: u64,
    action: Action,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cost = || prop_oneof![6 => Just(1_u32), 3 => 2..5_u32, 1 => 0..100_u32];
    let action = prop_oneof![
        20 => cost().prop_map(Action::Take),
        3 => cost().prop_map(Action::Peek),
        3 => (0..6_usize).prop_map(Action::Refund),
        2 => (0..4_usize).prop_map(Action::Change),
        1 => Just(Action::Move),
    ];
    let ahead = prop_oneof![4 => Just(0_u64), 20 => 0..150_u64, 3 => 900..1_100_u64, 1 => 0..5_000_u64];
    let margin = prop_oneof![3 => Just(0_u64), 1 => Just(1_000), 1 => 0..1_000_u64];
    let step = (ahead, 0..3_u64, margin, action).prop_map(|(thousandths, nanos, margin, action)| Step {
        ahead: (thousandths, nanos),
        margin,
        action,
    });
    prop::collection::vec(step, 1..150)
}

fn limit(counts: impl Strategy<Value = u32>) -> impl Strategy<Value = Limit> {
    let per = prop_oneof![Just(1_000_u64), Just(1_000_000), 100..100_000_u64, Just(3_600_000_000)];
    (counts, per, prop::sample::select(&ALGORITHMS[..]), 0..4_u32).prop_map(|(count, per, algorithm, burst)| {
        let limit = Limit::new(count, Duration::from_micros(per)).with_algorithm(algorithm);
        if algorithm == Algorithm::TokenBucket && burst > 0 { limit.with_burst(burst * count) } else { limit }
    })
}

fn store(rules: &[Rule], varies: bool) -> std::sync::Arc<Store> {
    let written = Written {
        rules: rules.iter().copied().collect(),
        backoff: None,
        varies,
        by: 0,
        limiter: crate::error::Name::Static("test"),
        states: crate::backend::memory::States::ANY,
    };
    MemoryBackend::new().store(None, &written)
}

/// A store and the logs of its limits, with calls on one key.
struct Trial {
    store: std::sync::Arc<Store>,
    address: Address,
    rules: SmallVec<[Rule; 1]>,
    is_foreign: bool,
    /// Limits are read at each call, or were replaced.
    varies: bool,
    /// Calls take the fast path if there is one and it decides.
    is_fast: bool,
    logs: Vec<Log>,
    /// The calls that were admitted: when, at what cost, and where in the logs.
    admitted: Vec<(Permit, usize)>,
    now: u64,
}

impl Trial {
    fn new(rules: &[Rule], varies: bool, is_keyed: bool) -> Trial {
        let store = store(rules, varies);
        let address = if is_keyed { store.address(&7_u8) } else { Address::Unkeyed };
        Trial {
            store,
            address,
            rules: rules.iter().copied().collect(),
            is_foreign: false,
            varies,
            is_fast: false,
            logs: vec![Log::default(); rules.len()],
            admitted: Vec::new(),
            now: start(),
        }
    }

    fn ask(&self, cost: u32) -> Ask<'_> {
        Ask { call: Call { rules: &self.rules, backoff: None, cost, floor: Hold::NONE }, is_foreign: self.is_foreign }
    }

    /// The only limit and the hash of the key, for the fast path.
    fn fast(&self) -> Option<(&Rule, u64)> {
        match (&self.rules[..], self.address) {
            ([rule], Address::Hash(hash)) if self.is_fast => Some((rule, hash)),
            _ => None,
        }
    }

    fn take(&self, now: Now, cost: u32) -> Verdict {
        let taken = match (&self.rules[..], self.address) {
            ([rule], Address::Unkeyed) if self.is_fast && self.varies => {
                self.attempted(&self.store.try_take_unkeyed_by(rule, now, cost), now)
            }
            _ => self.fast().map_or(Verdict::Undecided, |(rule, hash)| self.take_fast(rule, hash, now, cost)),
        };
        match taken {
            Verdict::Undecided => self.store.take(self.address, &self.ask(cost), now, false).0,
            verdict => verdict,
        }
    }

    fn take_fast(&self, rule: &Rule, hash: u64, now: Now, cost: u32) -> Verdict {
        let store = &self.store;
        if self.varies {
            return self.attempted(&store.try_take_by(hash, rule, now, cost), now);
        }
        match cost {
            1 => on_path!(store.kind(), Path => Path::take(store, hash, now, OnePermit), Verdict::Undecided),
            _ if !store.admits(cost) => Verdict::Undecided,
            2 => on_path!(store.kind(), Path => Path::take(store, hash, now, cost), Verdict::Undecided),
            _ => on_path!(store.kind(), Path => Path::take_with_left(store, hash, now, cost).0, Verdict::Undecided),
        }
    }

    fn attempted(&self, attempt: &Attempt, now: Now) -> Verdict {
        match *attempt {
            Attempt::Admitted => Verdict::Admitted { at: now.latest.max(self.newest()) },
            Attempt::Denied(until) => Verdict::Denied { until, position: 0 },
            Attempt::Added(_) | Attempt::Contended => Verdict::Undecided,
        }
    }

    fn peek(&self, now: Now, cost: u32) -> (Verdict, Left) {
        let store = &self.store;
        let outcome = match self.fast() {
            Some((_, hash)) if !self.varies && store.admits(cost) => {
                on_path!(store.kind(), Path => Path::peek(store, hash, now, cost), (Verdict::Undecided, Left::default()))
            }
            _ => (Verdict::Undecided, Left::default()),
        };
        match outcome {
            (Verdict::Undecided, _) => store.peek(self.address, &self.ask(cost), now),
            outcome => outcome,
        }
    }

    fn refund(&self, now: Now, permit: Permit) {
        let store = &self.store;
        let is_done = self.fast().filter(|_| !self.varies).is_some_and(
            |(_, hash)| on_path!(store.kind(), Path => Path::refund(store, hash, || now, permit, || true), false),
        );
        if !is_done {
            store.refund(self.address, &self.ask(permit.cost), now, permit);
        }
    }

    /// The latest time that a window has on record.
    fn newest(&self) -> u64 {
        let windows = self.rules.iter().zip(&self.logs);
        let windows = windows.filter(|(rule, _)| rule.limit.algorithm() == Algorithm::SlidingWindow);
        windows.filter_map(|(_, log)| log.0.last()).map(|(at, _)| *at).max().unwrap_or(0)
    }

    fn is_admitted(&self, cost: u32) -> bool {
        self.rules.iter().zip(&self.logs).all(|(rule, log)| log.admits(rule, self.now, cost.into()))
    }

    fn expected(&self, now: Now, cost: u32) -> Verdict {
        let admitted = Verdict::Admitted { at: now.latest };
        let (mut until, mut position) = (self.now, 0);
        for (index, (rule, log)) in self.rules.iter().zip(&self.logs).enumerate() {
            let fits_at = if cost > rule.capacity() { NEVER } else { log.fits_at(rule, self.now, cost.into()) };
            if fits_at > until {
                (until, position) = (fits_at, position_u8(index));
            }
        }
        if cost == 0 || until == self.now { admitted } else { Verdict::Denied { until, position } }
    }

    fn record(&mut self, now: Now, permit: Permit) {
        let newest = self.newest();
        for (rule, log) in self.rules.iter().zip(&mut self.logs) {
            log.charge(rule, now, newest, permit.cost.into());
        }
        self.admitted.push((permit, self.logs[0].0.len() - 1));
    }

    fn advance(&mut self, Step { ahead: (thousandths, nanos), margin, .. }: Step) -> Now {
        let shortest = self.rules.iter().map(Rule::per).min().unwrap();
        self.now += shortest / 1_000 * thousandths + nanos;
        Now { earliest: self.now, latest: self.now + margin }
    }

    /// A call of cost 0, which looks at the state under the lock.
    fn look(&self, now: Now) {
        if self.address == Address::Unkeyed {
            self.store.wake_all(now);
        } else {
            let _ = self.store.peek(self.address, &self.ask(0), now);
        }
    }
}

/// Whether two answers are equal except for the recorded time of the permits.
fn same(verdict: Verdict, expected: Verdict) -> bool {
    matches!((verdict, expected), (Verdict::Admitted { .. }, Verdict::Admitted { .. })) || verdict == expected
}

/// Limits whose logs are exact, as they were written down.
fn exact(limits: &[Limit], varies: bool, is_keyed: bool, is_fast: bool, steps: &[Step]) -> Result<(), TestCaseError> {
    let rules: Vec<Rule> = limits.iter().map(|limit| Rule::new(*limit)).collect();
    let mut trial = Trial { is_fast, ..Trial::new(&rules, varies, is_keyed) };
    // Refunds to token buckets are bounded in another test.
    let gives_back = limits.iter().all(|limit| limit.algorithm() != Algorithm::TokenBucket);
    // A token bucket in one word pays for the clock's uncertainty at once, each stripe of an unkeyed
    // window separately; see the test below. After a refund, a window no longer knows how late the
    // clock may have been.
    let mut margins = false;
    let is_exact = |step: &Step| if gives_back && is_keyed { *step } else { Step { margin: 0, ..*step } };
    for step in steps {
        let step = is_exact(step);
        margins |= step.margin > 0;
        let now = trial.advance(step);
        match step.action {
            Action::Take(cost) => {
                let expected = trial.expected(now, cost);
                let verdict = trial.take(now, cost);
                prop_assert!(same(verdict, expected), "{verdict:?} instead of {expected:?}, {cost} at {now:?}");
                if let Verdict::Admitted { at } = verdict
                    && cost > 0
                {
                    trial.record(now, Permit { at, cost });
                }
            }
            Action::Peek(cost) => {
                let expected = trial.expected(now, cost);
                let (verdict, left) = trial.peek(now, cost);
                prop_assert!(same(verdict, expected), "{verdict:?} instead of {expected:?}, peeked {cost} at {now:?}");
                let remaining = |(rule, log): (&Rule, &Log)| log.remaining(rule, trial.now);
                let remaining = match verdict {
                    Verdict::Denied { position, .. } => {
                        remaining((&rules[usize::from(position)], &trial.logs[usize::from(position)]))
                    }
                    _ => rules.iter().zip(&trial.logs).map(remaining).min().unwrap(),
                };
                prop_assert_eq!(left.remaining, remaining, "at {:?} by {:?}", now, verdict);
            }
            Action::Refund(back) => {
                let last = trial.admitted.len().checked_sub(back + 1);
                if let (true, Some(index)) = (gives_back && !margins, last) {
                    let (permit, entry) = trial.admitted.remove(index);
                    trial.refund(now, permit);
                    trial.logs.iter_mut().for_each(|log| log.refund(entry));
                }
            }
            Action::Move | Action::Change(_) => trial.look(now),
        }
    }
    Ok(())
}

#[test]
fn a_counter_that_stands_still_leaves_groups_of_one_size() {
    let rule = Rule::new(Limit::new(200, Duration::from_secs(1)));
    let (groups, mut window) = (Groups::new(&rule, false), Window::idle());
    for call in 0..200 {
        // Five calls find the counter where it was.
        let earliest = start() + call / 5 * 10;
        let verdict = window.take_now(&groups, &rule, Now { earliest, latest: earliest + 400 }, 1);
        assert!(matches!(verdict, Verdict::Admitted { .. }));
        assert!(!window.is_mixed(), "after {call} calls");
    }
}

#[test]
fn what_no_longer_counts_does_not_come_back_on_the_fast_path() {
    for algorithm in ALGORITHMS {
        let rule = Rule::new(Limit::new(2, Duration::from_secs(2)).with_algorithm(algorithm));
        let trial = Trial { is_fast: true, ..Trial::new(&[rule], false, true) };
        // In a second, the permit has just flowed back to the bucket.
        let later = if algorithm == Algorithm::TokenBucket { 1 } else { 6 };
        let [before, now] = [0, later].map(|seconds| Now::exactly(start() + seconds * 1_000_000_000));
        let Verdict::Admitted { at } = trial.take(before, 1) else { panic!("{algorithm:?}") };
        assert!(is_admitted(trial.take(now, 1)), "{algorithm:?}");
        trial.refund(now, Permit { at, cost: 1 });
        assert!(is_admitted(trial.take(now, 1)), "{algorithm:?}");
        assert!(!is_admitted(trial.take(now, 1)), "{algorithm:?}: a permit came back twice");
    }
}

#[test]
fn a_part_of_a_call_comes_back_on_the_fast_path() {
    for (algorithm, count) in ALGORITHMS.into_iter().flat_map(|algorithm| [(algorithm, 9), (algorithm, 900)]) {
        let rule = Rule::new(Limit::new(count, Duration::from_secs(2)).with_algorithm(algorithm));
        let trial = Trial { is_fast: true, ..Trial::new(&[rule], false, true) };
        let now = Now::exactly(start());
        let Verdict::Admitted { at } = trial.take(now, count) else { panic!("{algorithm:?}") };
        trial.refund(now, Permit { at, cost: 3 });
        assert_eq!(trial.peek(now, 1).1.remaining, 3, "{algorithm:?} {count}");
        assert!(is_admitted(trial.take(now, 3)) && !is_admitted(trial.take(now, 1)), "{algorithm:?} {count}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn one_limit_is_an_exact_log(
        limit in limit(prop_oneof![1..6_u32, 1..65_u32]),
        varies: bool,
        is_keyed: bool,
        is_fast: bool,
        steps in steps(),
    ) {
        exact(&[limit], varies, is_keyed, is_fast, &steps)?;
    }

    #[test]
    fn several_limits_are_exact_logs_decided_together(
        limits in prop::collection::vec(limit(1..65_u32), 2..9),
        varies: bool,
        is_keyed: bool,
        steps in steps(),
    ) {
        exact(&limits, varies, is_keyed, false, &steps)?;
    }

    /// Refunds too: a token bucket gets back no more than was taken.
    #[test]
    fn no_limit_is_ever_over_and_a_large_window_is_short_by_less_than_a_group(
        limits in prop::collection::vec(limit(prop_oneof![1..65_u32, 65..300_u32]), 1..4),
        varies: bool,
        is_keyed: bool,
        is_fast: bool,
        steps in steps(),
    ) {
        let rules: Vec<Rule> = limits.iter().map(|limit| Rule::new(*limit)).collect();
        let mut trial = Trial { is_fast, ..Trial::new(&rules, varies, is_keyed) };
        // A token bucket pays for the clock's uncertainty at once, which denies for as long.
        let (mut refunds, mut margins) = (false, false);
        for step in steps {
            let now = trial.advance(step);
            margins |= step.margin > 0;
            match step.action {
                Action::Take(cost) => match trial.take(now, cost) {
                    Verdict::Admitted { at } if cost > 0 => {
                        prop_assert!(trial.is_admitted(cost), "{} is over at {:?}", cost, now);
                        trial.record(now, Permit { at, cost });
                    }
                    Verdict::Denied { until, position } => {
                        let position = usize::from(position);
                        let rule = &rules[position];
                        let slack = match rule.limit.algorithm() {
                            Algorithm::SlidingWindow => rule.group - 1,
                            Algorithm::TokenBucket if refunds || margins => continue,
                            _ => 0,
                        };
                        let log = &trial.logs[position];
                        prop_assert!(!log.admits(rule, trial.now, (cost + slack).into()), "{} denied at {:?}", cost, now);
                        prop_assert!(until > trial.now);
                    }
                    _ => {}
                },
                Action::Peek(_) => {}
                Action::Refund(back) => {
                    if let Some(index) = trial.admitted.len().checked_sub(back + 1) {
                        let (permit, entry) = trial.admitted.remove(index);
                        trial.refund(now, permit);
                        trial.logs.iter_mut().for_each(|log| log.refund(entry));
                        refunds = true;
                    }
                }
                Action::Move | Action::Change(_) => trial.look(now),
            }
        }
    }

    /// A window's permits on record are judged by the limit of the call at hand.
    #[test]
    fn a_window_that_changes_from_call_to_call_is_an_exact_log_by_each(
        counts in prop::collection::vec(1..65_u32, 4),
        pers in prop::collection::vec(1..5_u64, 4),
        others in prop::collection::vec((1..65_u32, 1..5_u64), 0..3),
        varies: bool,
        is_keyed: bool,
        is_fast: bool,
        steps in steps(),
    ) {
        let window = |count: u32, per: u64| Rule::new(Limit::new(count, Duration::from_millis(per)));
        let plan = |(count, per): (&u32, &u64)| {
            let others = others.iter().map(|(count, per)| window(*count, *per));
            std::iter::once(window(*count, *per)).chain(others).collect::<SmallVec<[Rule; 1]>>()
        };
        let plans: Vec<_> = counts.iter().zip(&pers).map(plan).collect();
        let mut trial = Trial { is_fast, varies: true, ..Trial::new(&plans[0], varies, is_keyed) };
        // All limits have been used before, so enough permits are kept, and the state is no longer
        // for the written limit alone.
        for plan in &plans {
            trial.store.expect(plan);
            let is_foreign = !varies && plan != &plans[0];
            let ask = Ask { call: Call { rules: plan, backoff: None, cost: 1, floor: Hold::NONE }, is_foreign };
            trial.store.peek(trial.address, &ask, Now { earliest: trial.now, latest: trial.now });
        }
        for step in steps {
            let now = trial.advance(step);
            match step.action {
                Action::Take(cost) => {
                    let expected = trial.expected(now, cost);
                    let verdict = trial.take(now, cost);
                    prop_assert!(same(verdict, expected), "{verdict:?} instead of {expected:?}, {cost} at {now:?} by {:?}", trial.rules);
                    if let Verdict::Admitted { at } = verdict && cost > 0 {
                        trial.record(now, Permit { at, cost });
                    }
                }
                Action::Peek(cost) => {
                    let (verdict, expected) = (trial.store.peek(trial.address, &trial.ask(cost), now).0, trial.expected(now, cost));
                    prop_assert!(same(verdict, expected), "{verdict:?} instead of {expected:?}, peeked {cost} at {now:?}");
                }
                Action::Change(to) => {
                    trial.rules = plans[to].clone();
                    trial.is_foreign = !varies && trial.rules != plans[0];
                }
                Action::Refund(_) | Action::Move => trial.look(now),
            }
        }
    }

    /// Whatever the order of limits, they admit no more than the largest of them alone, and no less than the smallest.
    #[test]
    fn limits_that_change_admit_between_the_smallest_and_the_largest(
        algorithm in prop::sample::select(&ALGORITHMS[..]),
        counts in prop::collection::vec(1..65_u32, 4),
        several: bool,
        varies: bool,
        is_keyed: bool,
        is_fast: bool,
        steps in steps(),
    ) {
        let of = |count: u32| Rule::new(Limit::new(count, Duration::from_millis(10)).with_algorithm(algorithm));
        let wide = Rule::new(Limit::new(1_000_000, Duration::from_millis(10)).with_algorithm(Algorithm::FixedWindow));
        let plan = |count: u32| std::iter::once(of(count)).chain(several.then_some(wide)).collect::<SmallVec<[Rule; 1]>>();
        let (smallest, largest) = (of(*counts.iter().min().unwrap()), of(*counts.iter().max().unwrap()));
        let mut trial = Trial { is_fast, varies: true, ..Trial::new(&plan(counts[0]), varies, is_keyed) };
        // Limits that are read prepare the store at their call.
        for count in counts.iter().filter(|_| !varies) {
            trial.store.expect(&plan(*count));
        }
        for step in steps {
            // A token bucket pays for the clock's uncertainty at once.
            let margin = if algorithm == Algorithm::TokenBucket { 0 } else { step.margin };
            let now = trial.advance(Step { margin, ..step });
            match step.action {
                Action::Take(cost) => match trial.take(now, cost) {
                    Verdict::Admitted { at } if cost > 0 => {
                        prop_assert!(trial.logs[0].admits(&largest, trial.now, cost.into()), "{} is over at {:?}", cost, now);
                        trial.record(now, Permit { at, cost });
                    }
                    Verdict::Denied { until, .. } => {
                        // Each change rounds debt up by less than a unit: in all by less than a
                        // hundredth of a permit.
                        let later = if algorithm == Algorithm::TokenBucket { trial.now.saturating_sub(2_000) } else { trial.now };
                        prop_assert!(!trial.logs[0].admits(&smallest, later, cost.into()), "{} denied at {:?}", cost, now);
                        prop_assert!(until > trial.now);
                    }
                    _ => {}
                },
                Action::Change(to) => {
                    trial.rules = plan(counts[to]);
                    trial.is_foreign = !varies && counts[to] != counts[0];
                }
                Action::Peek(_) | Action::Refund(_) | Action::Move => trial.look(now),
            }
        }
    }
}

/// The state of one limit, as records hold it.
#[derive(Clone, Copy, Debug)]
enum Recorded {
    Fixed(FixedWindow),
    Token(TokenBucket),
}

impl Recorded {
    fn idle(rule: &Rule) -> Recorded {
        match rule.limit.algorithm() {
            Algorithm::TokenBucket => Recorded::Token(TokenBucket { unit: rule.permit(), ..TokenBucket::default() }),
            _ => Recorded::Fixed(FixedWindow::default()),
        }
    }

    /// What memory knows of it at the first call by other limits: a word holds no time of a charge.
    fn in_a_word(self, written: &Rule, now: u64) -> Recorded {
        match self {
            Recorded::Token(bucket) if Tat::fits(written) => Recorded::Token(bucket.at(written, now)),
            Recorded::Fixed(window) if Fixed::bits(written) > 0 => {
                let end = written.span(window.charged).end;
                Recorded::Fixed(FixedWindow { charged: window.charged.max(now.min(end - 1)), ..window })
            }
            other => other,
        }
    }

    fn takes(&mut self, rule: &Rule, now: u64, cost: u32) -> bool {
        if let Recorded::Token(bucket) = self {
            bucket.convert(rule);
        }
        let fits_at = match self {
            Recorded::Fixed(window) => window.earliest(rule, now, cost),
            Recorded::Token(bucket) => bucket.earliest(rule, now, cost),
        };
        let fits = cost <= rule.capacity() && fits_at <= now;
        match self {
            Recorded::Fixed(window) if fits => window.charge(rule, now, cost),
            Recorded::Token(bucket) if fits => bucket.charge(rule, now, cost),
            _ => {}
        }
        fits
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// As [`RateLimiter::set_limits`](crate::RateLimiter::set_limits) says.
    #[test]
    fn a_limit_that_is_replaced_is_a_record_that_knows_what_a_word_knows(
        limits in (limit(1..65_u32), limit(1..65_u32)),
        is_multiple: bool,
        is_keyed: bool,
        steps in steps(),
    ) {
        let (written, mut other) = limits;
        prop_assume!(written.algorithm() != Algorithm::SlidingWindow);
        let per = if is_multiple { written.per_micros() * 7 } else { other.per_micros() };
        other = Limit::new(other.count(), Duration::from_micros(per)).with_algorithm(written.algorithm());
        let rules = [Rule::new(written), Rule::new(other)];
        let mut trial = Trial::new(&rules[..1], false, is_keyed);
        let (mut recorded, mut is_replaced, mut is_exact) = (Recorded::idle(&rules[0]), false, true);
        let mut record = recorded;
        for step in steps {
            let now = trial.advance(Step { margin: 0, ..step });
            match step.action {
                Action::Take(cost) if cost > 0 => {
                    let verdict = trial.store.take(trial.address, &trial.ask(cost), now, false).0;
                    let is_admitted = matches!(verdict, Verdict::Admitted { .. });
                    let rule = trial.rules[0];
                    prop_assert_eq!(is_admitted, recorded.takes(&rule, trial.now, cost), "{} at {:?}", cost, now);
                    // New windows that consist of whole old ones contain all permits taken.
                    if is_exact {
                        prop_assert_eq!(is_admitted, record.takes(&rule, trial.now, cost), "{} at {:?}", cost, now);
                    }
                }
                Action::Change(_) if !is_replaced => {
                    trial.store.expect_others(&rules[1..]);
                    (trial.rules, trial.is_foreign, is_replaced) = (rules[1..].into(), true, true);
                    recorded = recorded.in_a_word(&rules[0], trial.now);
                    is_exact = is_multiple && written.algorithm() == Algorithm::FixedWindow
                        || !(Tat::fits(&rules[0]) || Fixed::bits(&rules[0]) > 0);
                    let _ = trial.store.peek(trial.address, &trial.ask(1), now);
                }
                _ => {}
            }
        }
    }
}
