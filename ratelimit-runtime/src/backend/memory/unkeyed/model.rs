//! Every order in which two or three threads can take the steps of the shared bucket.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use super::super::holds::Hold;
use super::*;
use crate::limit::{Algorithm, Limit};
use crate::rt::clock;

fn token(count: u32) -> Rule {
    Rule::new(Limit::new(count, Duration::from_secs(60)).with_algorithm(Algorithm::TokenBucket))
}

fn window(count: u32) -> Rule {
    Rule::new(Limit::new(count, Duration::from_secs(60)))
}

/// No whole microsecond, which would be taken for the tick of a coarse clock.
fn now() -> u64 {
    (clock::origin() + 1_000_000_000) | 1
}

/// Runs `one` and `two` at once on a bucket that `first` has used.
fn at_once<A: 'static, B: 'static>(
    bucket: Unkeyed,
    one: impl FnOnce(&Unkeyed) -> A + 'static,
    two: impl FnOnce(&Unkeyed) -> B + 'static,
) -> (Arc<Unkeyed>, A, B) {
    let bucket = Arc::new(bucket);
    let other = Arc::clone(&bucket);
    let handle = thread::spawn(move || two(&other));
    let a = one(&bucket);
    let b = handle.join().unwrap();
    (bucket, a, b)
}

fn unkeyed(rule: &Rule) -> Unkeyed {
    Unkeyed::new(&[*rule], &forms(rule), true)
}

fn forms(rule: &Rule) -> Forms {
    Forms::new(&[*rule], None, false)
}

fn verdict_at(bucket: &Unkeyed, rule: &Rule, thread: usize, at: u64, cost: u32) -> Verdict {
    let call = Call { rules: std::slice::from_ref(rule), backoff: None, cost, floor: Hold::NONE };
    bucket.take(&call, thread, Now::exactly(at))
}

fn take(bucket: &Unkeyed, rule: &Rule, cost: u32) -> u32 {
    take_as(0, bucket, rule, cost)
}

/// As the thread with that number does: the fast path, else under the lock.
fn take_as(thread: usize, bucket: &Unkeyed, rule: &Rule, cost: u32) -> u32 {
    match verdict_at(bucket, rule, thread, now(), cost) {
        Verdict::Admitted { .. } => cost,
        Verdict::Denied { .. } => 0,
        Verdict::Undecided => take_under_the_lock(bucket, rule, cost),
    }
}

fn under_the_lock<R>(bucket: &Unkeyed, rule: &Rule, is_foreign: bool, f: impl FnOnce(&mut Full, &Call<'_>) -> R) -> R {
    let call = Call { rules: std::slice::from_ref(rule), backoff: None, cost: 0, floor: Hold::NONE };
    let forms = forms(rule);
    if is_foreign {
        forms.vary();
    }
    bucket.with(&[*rule], &forms, Now::exactly(now()), |full, _| f(full, &call))
}

/// As [`take`], while other limits are expected.
fn take_beside_others(bucket: &Unkeyed, rule: &Rule) -> u32 {
    match verdict_at(bucket, rule, 0, now(), 1) {
        Verdict::Admitted { .. } => 1,
        Verdict::Denied { .. } => 0,
        Verdict::Undecided => take_by_another_limit(bucket, rule, 1, true),
    }
}

/// As a call that finds others waiting; the state moves back afterwards.
fn take_under_the_lock(bucket: &Unkeyed, rule: &Rule, cost: u32) -> u32 {
    take_by_another_limit(bucket, rule, cost, false)
}

/// As a call by another limit; the state stays there if it `is_foreign`.
fn take_by_another_limit(bucket: &Unkeyed, rule: &Rule, cost: u32, is_foreign: bool) -> u32 {
    under_the_lock(bucket, rule, is_foreign, |full, call| {
        match (Call { cost, ..*call }).take(full, &forms(rule), Now::exactly(now())) {
            Verdict::Admitted { .. } => cost,
            _ => 0,
        }
    })
}

fn remaining(bucket: &Unkeyed, rule: &Rule) -> u32 {
    under_the_lock(bucket, rule, false, |full, call| {
        full.prepare(&forms(rule), call.rules, Now::exactly(now()));
        call.left(full, &forms(rule), Now::exactly(now())).remaining
    })
}

/// The recorded denial gives the answer that the bucket would give without it.
fn until(bucket: &Unkeyed, rule: &Rule) -> u64 {
    let denied = |bucket: &Unkeyed| match verdict_at(bucket, rule, 0, now(), 1) {
        Verdict::Denied { until, .. } => until,
        other => panic!("{other:?}"),
    };
    let kept = denied(bucket);
    let Fast::Token { seen, .. } = &bucket.fast else { panic!("no token bucket") };
    seen.0.forget_denial();
    assert_eq!(kept, denied(bucket));
    kept
}

/// A bucket of three with one permit left, to which calls add without reading it first.
fn nearly_empty(rule: &Rule) -> Unkeyed {
    let bucket = unkeyed(rule);
    assert_eq!(take(&bucket, rule, 1) + take(&bucket, rule, 1), 2);
    let Fast::Token { seen, .. } = &bucket.fast else { panic!("no token bucket") };
    assert!(seen.0.busy_until.load(Ordering::Relaxed) > now());
    bucket
}

#[test]
fn an_addition_that_goes_too_far_is_taken_back_whole() {
    loom::model(|| {
        let rule = token(3);
        let twice = move |it: &Unkeyed| take(it, &rule, 1) + take(it, &rule, 1);
        let (bucket, a, b) = at_once(nearly_empty(&rule), twice, move |it| take(it, &rule, 1));
        assert_eq!(a + b, 1);
        // Three permits are missing, a third of a minute each.
        let first = now() + 20_000_000_000;
        assert!((first..first + 1_000).contains(&until(&bucket, &rule)));
    });
}

#[test]
fn a_denial_that_was_kept_meanwhile_goes_with_an_addition_that_is_taken_back() {
    loom::model(|| {
        let rule = token(3);
        // By a coarse clock, whose denials are not recorded: they would hide the other thread's.
        let coarse = move |it: &Unkeyed| {
            let at = now().next_multiple_of(1_000);
            matches!(verdict_at(it, &rule, 0, at, 1), Verdict::Admitted { .. })
        };
        let twice = move |it: &Unkeyed| take(it, &rule, 1) + take(it, &rule, 1);
        let (bucket, a, b) = at_once(nearly_empty(&rule), twice, coarse);
        assert_eq!(a + u32::from(b), 1);
        until(&bucket, &rule);
    });
}

#[test]
fn of_additions_that_go_too_far_together_none_is_admitted() {
    // Three threads have too many orders to try all: those with up to two preemptions.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let rule = token(3);
        let bucket = Arc::new(nearly_empty(&rule));
        let threads = [0; 2].map(|_| {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || take(&bucket, &rule, 1))
        });
        let admitted = take(&bucket, &rule, 1) + threads.map(|thread| thread.join().unwrap()).iter().sum::<u32>();
        assert_eq!(admitted, 1);
        // If each meets the other's addition, at most one of the two is not taken back.
        let first = now() + 20_000_000_000;
        assert!((first..first + 40_000_001_000).contains(&until(&bucket, &rule)));
    });
}

#[test]
fn a_token_bucket_that_is_reset_forgets_until_when_it_denied() {
    loom::model(|| {
        let rule = token(1);
        let bucket = unkeyed(&rule);
        assert_eq!(take(&bucket, &rule, 1), 1);
        let (bucket, admitted, ()) = at_once(bucket, move |it| take(it, &rule, 1), move |it| it.reset(&[rule]));
        assert_eq!(take(&bucket, &rule, 1), 1 - admitted);
    });
}

#[test]
fn a_bucket_that_moves_under_the_lock_forgets_until_when_it_denied() {
    loom::model(|| {
        let rule = token(1);
        let bucket = unkeyed(&rule);
        assert_eq!(take(&bucket, &rule, 1), 1);
        let (bucket, a, b) = at_once(
            bucket,
            move |it| take_beside_others(it, &rule),
            move |it| take_by_another_limit(it, &rule, 1, true),
        );
        assert_eq!(a + b, 0);
        assert_eq!(verdict_at(&bucket, &rule, 0, now(), 1), Verdict::Undecided, "it is decided under the lock");
    });
}

#[test]
fn a_token_is_given_to_one_of_two() {
    loom::model(|| {
        let rule = token(1);
        let (bucket, a, b) = at_once(unkeyed(&rule), move |it| take(it, &rule, 1), move |it| take(it, &rule, 1));
        assert_eq!(a + b, 1);
        let full = now() + 60_000_000_000;
        let Verdict::Denied { until, .. } = verdict_at(&bucket, &rule, 0, now(), 1) else { panic!("admitted") };
        assert!((full..full + 1_000).contains(&until), "{until}");
    });
}

#[test]
fn a_bucket_that_moves_under_the_lock_takes_all_permits_along() {
    loom::model(|| {
        let rule = token(4);
        let bucket = unkeyed(&rule);
        let before = take(&bucket, &rule, 1);
        let short = move |it: &Unkeyed| take_beside_others(it, &rule) + take_beside_others(it, &rule);
        let (bucket, a, b) = at_once(bucket, short, move |it| take_by_another_limit(it, &rule, 2, true));
        assert_eq!(verdict_at(&bucket, &rule, 0, now(), 1), Verdict::Undecided, "it stays there");
        let (taken, left) = (before + a + b, remaining(&bucket, &rule));
        assert!(taken + left <= 4, "{taken} taken, {left} left");
    });
}

#[test]
fn a_bucket_that_is_reset_meanwhile_admits_no_more_than_two_buckets() {
    loom::model(|| {
        let rule = token(2);
        let short = move |it: &Unkeyed| take(it, &rule, 1) + take(it, &rule, 1) + take(it, &rule, 1);
        let (bucket, a, ()) = at_once(unkeyed(&rule), short, move |it| it.reset(&[rule]));
        let rest = (0..4).map(|_| take(&bucket, &rule, 1)).sum::<u32>();
        assert!(a + rest <= 4, "{a} and {rest}");
    });
}

#[test]
fn a_window_that_is_reset_forgets_until_when_it_denied() {
    // Groups of one permit, and a window of single permits, seen from both stripes.
    for (count, cost, thread) in [(100, 100, 0), (1, 1, 0), (1, 1, 1)] {
        loom::model(move || {
            let rule = window(count);
            let bucket = unkeyed(&rule);
            assert_eq!(take(&bucket, &rule, cost), cost);
            let call = move |it: &Unkeyed| take_as(thread, it, &rule, 1);
            let (bucket, admitted, ()) = at_once(bucket, call, move |it| it.reset(&[rule]));
            assert_eq!(take(&bucket, &rule, cost) == cost, admitted == 0);
        });
    }
}

#[test]
fn a_window_admits_its_count_on_both_ways_together() {
    for (count, cost) in [(100, 50), (2, 1)] {
        loom::model(move || {
            let rule = window(count);
            let short = move |it: &Unkeyed| take(it, &rule, cost) + take(it, &rule, cost);
            let long = move |it: &Unkeyed| take_under_the_lock(it, &rule, count);
            let (bucket, a, b) = at_once(unkeyed(&rule), short, long);
            let left = remaining(&bucket, &rule);
            assert_eq!(a + b + left, count, "{a} and {b}");
        });
    }
}

/// On the fast path of the general form, else under the lock of waiting calls.
fn take_generally(bucket: &Unkeyed, rule: &Rule) -> u32 {
    match GeneralForm::try_take(bucket, &forms(rule), rule, 0, Now::exactly(now()), 1) {
        Attempt::Admitted => 1,
        Attempt::Denied(_) => 0,
        Attempt::Added(_) | Attempt::Contended => take_under_the_lock(bucket, rule, 1),
    }
}

#[test]
fn a_general_form_admits_its_count_on_both_ways_together() {
    loom::model(|| {
        let rule = window(2);
        let bucket = Unkeyed::new(&[rule], &forms(&rule), false);
        let short = move |it: &Unkeyed| take_generally(it, &rule) + take_generally(it, &rule);
        let (bucket, a, b) = at_once(bucket, short, move |it| take_under_the_lock(it, &rule, 2));
        assert_eq!(a + b + remaining(&bucket, &rule), 2, "{a} and {b}");
    });
}

#[test]
fn a_general_form_that_is_reset_forgets_until_when_it_denied() {
    loom::model(|| {
        let rule = window(1);
        let bucket = Unkeyed::new(&[rule], &forms(&rule), false);
        assert_eq!(take_generally(&bucket, &rule), 1);
        let (bucket, admitted, ()) = at_once(bucket, move |it| take_generally(it, &rule), move |it| it.reset(&[rule]));
        assert_eq!(take_generally(&bucket, &rule), 1 - admitted);
    });
}

#[test]
fn a_window_admits_its_count_to_threads_of_both_stripes_together() {
    for (count, cost) in [(1, 1), (2, 1), (3, 1), (3, 2), (5, 2)] {
        loom::model(move || {
            let rule = window(count);
            let twice = move |thread, it: &Unkeyed| [0; 2].map(|_| take_as(thread, it, &rule, cost));
            let (bucket, a, b) = at_once(unkeyed(&rule), move |it| twice(0, it), move |it| twice(1, it));
            let taken = a.iter().chain(&b).sum::<u32>();
            assert_eq!(taken, (count / cost).min(4) * cost, "{a:?} and {b:?}");
            assert_eq!(taken + remaining(&bucket, &rule), count);
        });
    }
}

#[test]
fn a_window_that_denies_says_when_the_permit_that_was_taken_first_comes_back() {
    loom::model(|| {
        let rule = window(3);
        let bucket = unkeyed(&rule);
        let first = now();
        assert_eq!(verdict_at(&bucket, &rule, 1, first, 1), Verdict::Admitted { at: first });
        let later = move |thread, it: &Unkeyed| [1, 2].map(|tick| verdict_at(it, &rule, thread, first + tick, 1));
        let (_, a, b) = at_once(bucket, move |it| later(0, it), move |it| later(1, it));
        let denied = a
            .iter()
            .chain(&b)
            .filter(|verdict| **verdict == Verdict::Denied { until: first + rule.per(), position: 0 });
        let admitted = a.iter().chain(&b).filter(|verdict| matches!(verdict, Verdict::Admitted { .. }));
        assert_eq!((admitted.count(), denied.count()), (2, 2), "{a:?} and {b:?}");
    });
}
