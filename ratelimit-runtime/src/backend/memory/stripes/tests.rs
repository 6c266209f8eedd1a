//! Both stripes compared with a full log of admissions.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limit::Limit;

const START: u64 = 1_700_000_000_000_000_000;

/// A full log of admissions: a time for each permit, in order.
#[derive(Default)]
struct Log(Vec<u64>);

impl Log {
    fn newest(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }

    /// Permits younger than `per`, including those that a clock ahead of this one has recorded.
    fn taken(&self, rule: &Rule, at: u64) -> usize {
        self.0.iter().filter(|time| at.saturating_sub(**time) < rule.per()).count()
    }

    /// Takes `cost` permits, or returns when they fit: the first time at which at most `count`
    /// permits, these included, are younger than `per`.
    fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> Verdict {
        let fits = |at: &u64| self.taken(rule, *at) + cost as usize <= rule.capacity() as usize;
        let ends = self.0.iter().map(|time| time + rule.per()).filter(|end| *end > now);
        match std::iter::once(now).chain(ends).find(fits) {
            Some(until) if until == now => {
                let at = now.max(self.newest());
                self.0.extend((0..cost).map(|_| at));
                Verdict::Admitted { at }
            }
            Some(until) => Verdict::Denied { until, position: 0 },
            None => Verdict::Undecided,
        }
    }

    fn remaining(&self, rule: &Rule, now: u64) -> usize {
        (rule.capacity() as usize).saturating_sub(self.taken(rule, now))
    }
}

fn remaining(stripes: &StripedPermits, rule: &Rule, now: u64) -> usize {
    let (_, left) = stripes.peek(rule, Now::exactly(now), 1).unwrap();
    left.remaining as usize
}

fn take(stripes: &StripedPermits, rule: &Rule, thread: usize, now: u64, cost: u32) -> Verdict {
    stripes.take(rule, thread, Now::exactly(now), cost)
}

/// One call: the nanoseconds by which its clock advances (or goes back), its thread, and its
/// permits.
fn calls(ahead: impl Strategy<Value = i64>) -> impl Strategy<Value = Vec<(i64, usize, u32)>> {
    // Threads that alternate, and one that calls many times in a row.
    let thread = prop_oneof![4 => Just(0_usize), 4 => Just(1), 1 => Just(usize::MAX)];
    let cost = prop_oneof![8 => Just(1_u32), 2 => 2..6_u32, 1 => 1..65_u32];
    prop::collection::vec((ahead, thread, cost), 1..400)
}

fn rule(count: u32, per: u64) -> Rule {
    Rule::new(Limit::new(count, Duration::from_micros(per)))
}

proptest! {
    #[test]
    fn threads_of_both_stripes_get_what_a_full_log_admits(
        count in prop_oneof![1..65_u32, 1..6_u32, Just(64)],
        calls in calls(prop_oneof![3 => Just(0_i64), 8 => 0..60_i64, 3 => 900..1_100_i64, 1 => 0..5_000_i64]),
    ) {
        let rule = rule(count, 1);
        let (stripes, mut log, mut now) = (StripedPermits::new(&rule), Log::default(), START);
        for (ahead, thread, cost) in calls {
            now = now.saturating_add_signed(ahead);
            let cost = cost.min(count);
            prop_assert_eq!(take(&stripes, &rule, thread, now, cost), log.take(&rule, now, cost));
            prop_assert_eq!(remaining(&stripes, &rule, now), log.remaining(&rule, now));
        }
    }

    /// Lies between a log by the call's own clock, by which old permits can count again, and a log
    /// whose time only grows.
    #[test]
    fn a_clock_that_goes_back_admits_no_more_than_a_full_log_and_no_less_than_one_that_forgets_nothing(
        count in 1..65_u32,
        thread in 0..2_usize,
        calls in calls(prop_oneof![8 => -60..120_i64, 2 => 900..1_100_i64, 1 => -5_000..5_000_i64]),
    ) {
        let rule = rule(count, 1);
        let (stripes, mut log, mut now) = (StripedPermits::new(&rule), Log::default(), START);
        for (ahead, _, cost) in calls {
            now = now.saturating_add_signed(ahead);
            let (cost, latest) = (cost.min(count), now.max(log.newest()));
            match take(&stripes, &rule, thread, now, cost) {
                Verdict::Admitted { at } => {
                    prop_assert_eq!(at, latest);
                    let verdict = log.take(&rule, latest, cost);
                    prop_assert_eq!(verdict, Verdict::Admitted { at: latest });
                }
                Verdict::Denied { until, .. } => {
                    let Verdict::Denied { until: expected, .. } = log.take(&rule, now, cost) else {
                        return Err(TestCaseError::fail(format!("denied until {until}")));
                    };
                    prop_assert!(now < until && until <= expected);
                }
                Verdict::Undecided => prop_assert!(false, "undecided"),
            }
            let least = log.remaining(&rule, now);
            prop_assert!((least..=log.remaining(&rule, latest.max(now))).contains(&remaining(&stripes, &rule, now)));
        }
    }

    /// A permit can come back too early by the lag of one core's clock behind another's.
    #[test]
    fn threads_whose_clocks_differ_get_no_more_than_a_log_of_a_period_that_is_shorter_by_as_much(
        count in prop_oneof![1..65_u32, 1..6_u32],
        behind in 0..100_u64,
        calls in calls(prop_oneof![3 => Just(0_i64), 8 => 0..60_i64, 3 => 900..1_100_i64]),
    ) {
        let rule = rule(count, 1);
        let (stripes, mut admitted, mut now) = (StripedPermits::new(&rule), Vec::new(), START);
        for (ahead, thread, cost) in calls {
            now = now.saturating_add_signed(ahead);
            let (cost, read) = (cost.min(count), if thread == 1 { now - behind } else { now });
            if let Verdict::Admitted { .. } = take(&stripes, &rule, thread, read, cost) {
                admitted.extend((0..cost).map(|_| now));
            }
        }
        for window in admitted.windows(count as usize + 1) {
            prop_assert!(window[count as usize] - window[0] >= rule.per() - behind);
        }
    }
}

#[test]
fn a_thread_that_goes_on_has_all_places_in_its_half_before_long() {
    let rule = rule(64, 1);
    let stripes = StripedPermits::new(&rule);
    for period in 0..2 {
        for _ in 0..64 {
            assert!(matches!(take(&stripes, &rule, 1, START + period * rule.per(), 1), Verdict::Admitted { .. }));
        }
    }
    let [first, second] = stripes.lock().map(|stripe| stripe.as_ref().unwrap().len);
    assert_eq!((first, second), (0, 64));
}

#[test]
fn a_half_gets_half_of_what_is_free_in_the_other() {
    let rule = rule(64, 1);
    let stripes = StripedPermits::new(&rule);
    for _ in 0..33 {
        assert!(matches!(take(&stripes, &rule, 0, START, 1), Verdict::Admitted { .. }));
    }
    let [first, second] = stripes.lock().map(|stripe| stripe.as_ref().unwrap().len);
    assert_eq!((first, second), (48, 16));
}

/// A window of two permits that denies both threads.
fn used_up(rule: &Rule) -> StripedPermits {
    let stripes = StripedPermits::new(rule);
    assert!(matches!(take(&stripes, rule, 0, START, 2), Verdict::Admitted { .. }));
    assert_eq!(take(&stripes, rule, 0, START, 1), Verdict::Denied { until: START + rule.per(), position: 0 });
    for stripe in &stripes.0 {
        assert_eq!(stripe.0.denied_until.load(Ordering::Relaxed), START + rule.per());
    }
    stripes
}

#[test]
fn once_it_is_kept_elsewhere_no_half_decides() {
    let rule = rule(2, 1);
    let stripes = used_up(&rule);
    assert!(stripes.move_away().is_some() && stripes.move_away().is_none());
    for (thread, cost) in [(0, 1), (1, 1), (0, 2)] {
        assert_eq!(take(&stripes, &rule, thread, START, cost), Verdict::Undecided);
    }
    stripes.reset(&rule);
    assert_eq!(take(&stripes, &rule, 0, START, 1), Verdict::Undecided, "there is nothing to reset here");
    stripes.move_back(&rule, &[]);
    assert!(matches!(take(&stripes, &rule, 0, START, 2), Verdict::Admitted { .. }));
}

#[test]
fn once_it_is_reset_neither_half_denies() {
    let rule = rule(2, 1);
    for thread in [0, 1] {
        let stripes = used_up(&rule);
        stripes.reset(&rule);
        assert_eq!([1; 2].map(|cost| take(&stripes, &rule, thread, START, cost)), [Verdict::Admitted { at: START }; 2]);
    }
}
