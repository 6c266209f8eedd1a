//! The fast path of each form, beside the general form under its lock.

use std::time::Duration;

use proptest::prelude::*;

use super::super::holds::Hold;
use super::super::state::Take;
use super::*;
use crate::limit::Limit;
use crate::rt::clock;

const MINUTE: Duration = Duration::from_secs(60);

/// The time of a call.
#[derive(Clone, Copy, Debug)]
enum When {
    /// Nanoseconds after the call before.
    Later(u64),
    /// The end of the last denial, and this many nanoseconds before it.
    BeforeTheEnd(u64),
}

fn limits() -> Vec<Vec<Limit>> {
    let token = |count: u32, per| Limit::new(count, per).with_algorithm(Algorithm::TokenBucket);
    let fixed = |count: u32, per| Limit::new(count, per).with_algorithm(Algorithm::FixedWindow);
    vec![
        vec![token(4, MINUTE)],
        // A rate that no whole number of units expresses.
        vec![token(17, MINUTE).with_burst(3)],
        vec![fixed(5, MINUTE)],
        vec![Limit::new(5, MINUTE)],
        vec![Limit::new(70, MINUTE)],
        vec![token(4, MINUTE), fixed(5, 2 * MINUTE)],
        vec![fixed(3, MINUTE), fixed(5, 2 * MINUTE), token(9, 3 * MINUTE)],
        vec![Limit::new(3, MINUTE), Limit::new(5, 2 * MINUTE)],
    ]
}

fn locked(bucket: &Unkeyed, forms: &Forms, rules: &[Rule], now: Now, cost: u32) -> Verdict {
    let call = Call { rules, backoff: None, cost, floor: Hold::NONE };
    match bucket.run(Take { wants_left: true }, &call, forms, now, false) {
        Some((verdict, _)) => verdict,
        // The form changes to the general one and back.
        None => bucket.with(rules, forms, now, |full, _| call.take(full, forms, now)),
    }
}

fn fast(bucket: &Unkeyed, forms: &Forms, rules: &[Rule], now: Now, cost: u32) -> Verdict {
    match bucket.kind() {
        FormKind::Token => fast_in::<TokenForm>(bucket, forms, rules, now, cost),
        FormKind::Permits => fast_in::<PermitsForm>(bucket, forms, rules, now, cost),
        FormKind::Words => fast_in::<WordsForm>(bucket, forms, rules, now, cost),
        FormKind::Window => fast_in::<WindowForm>(bucket, forms, rules, now, cost),
        FormKind::General => fast_in::<GeneralForm>(bucket, forms, rules, now, cost),
    }
}

fn fast_in<F: Form>(bucket: &Unkeyed, forms: &Forms, rules: &[Rule], now: Now, cost: u32) -> Verdict {
    match F::try_take(bucket, forms, &rules[0], 0, now, cost) {
        Attempt::Admitted => Verdict::Admitted { at: now.latest },
        Attempt::Denied(until) => Verdict::Denied { until, position: 0 },
        Attempt::Added(before) => F::added(bucket, &rules[0], now, before, cost),
        Attempt::Contended => {
            let call = Call { rules, backoff: None, cost, floor: Hold::NONE };
            match bucket.take(&call, 0, now) {
                Verdict::Undecided => locked(bucket, forms, rules, now, cost),
                verdict => verdict,
            }
        }
    }
}

proptest! {
    #[test]
    fn the_fast_path_decides_as_the_general_form(
        which in 0..limits().len(),
        calls in prop::collection::vec(
            (
                prop_oneof![
                    3 => (0..60_000_000_000_u64).prop_map(When::Later),
                    2 => (0..3_u64).prop_map(When::Later),
                    3 => (0..2_u64).prop_map(When::BeforeTheEnd),
                ],
                1..5_u32,
            ),
            1..60,
        ),
    ) {
        let rules: Vec<Rule> = limits()[which].iter().copied().map(Rule::new).collect();
        let forms = Forms::new(&rules, None, false);
        let (bucket, general) = (Unkeyed::new(&rules, &forms, true), Unkeyed::new(&rules, &forms, false));
        let start = clock::origin() + 1_000_000_000;
        let (mut time, mut end) = (start, start);
        for (when, cost) in calls {
            time = match when {
                When::Later(by) => time + by,
                When::BeforeTheEnd(by) => time.max(end - by),
            };
            // The largest cost that every one of these limits can hold.
            let (now, cost) = (Now::exactly(time), cost.min(3));
            match (fast(&bucket, &forms, &rules, now, cost), locked(&general, &forms, &rules, now, cost)) {
                (Verdict::Admitted { .. }, Verdict::Admitted { .. }) => {}
                (Verdict::Denied { until, .. }, Verdict::Denied { until: expected, .. }) => {
                    prop_assert_eq!(until, expected);
                    end = until;
                }
                (found, expected) => prop_assert!(false, "{:?}: {:?} instead of {:?}", rules, found, expected),
            }
        }
    }
}
