//! The one bucket of a limiter without keys: nothing is hashed, and where the limit allows it nothing is locked.

use super::compact::{Compact, Tat, Verdict};
use super::halves::Halves;
use super::ring::{Hot, window_record};
use crate::algorithm::Rule;
use crate::algorithm::record::Record;
use crate::algorithm::token_bucket::tick;
use crate::sync::{AtomicU64, Lock, Ordering};

/// The bucket of all calls.
pub(super) enum Unkeyed {
    /// A token bucket in one word. What that cannot say is done on a record, to which it moves for good.
    Token { word: Line<AtomicU64>, seen: Line<Seen>, moved: Lock<Record> },
    /// A sliding window of single permits. It moves to a record likewise.
    Permits { halves: Halves, moved: Lock<Record> },
    /// Anything else under one lock, with the time until which a call for one permit is known to be denied by a window.
    Locked { denied_until: Line<AtomicU64>, state: Line<Lock<Locked>> },
}

/// On cache lines of its own: threads write it, and read what is beside it.
#[repr(align(128))]
pub(super) struct Line<T>(pub(super) T);

/// What calls have found out about the word of a token bucket, a [`Tat`]. It changes seldom: a call that it answers, or that
/// can add to the word without looking at it first, takes the cache line of the word from other threads once or not at all.
///
/// The word never goes back, but for a [`reset`](Unkeyed::reset) and for additions that went too far.
pub(super) struct Seen {
    /// The word is not below the units of any earlier time, and there was room to spare when that was found out.
    busy_until: AtomicU64,
    /// A call for one permit is denied until then, to the nanosecond.
    denied_until: AtomicU64,
    /// There is room to spare while the word is ahead of the time by less than that.
    ample: u64,
}

pub(super) enum Locked {
    /// A sliding window of groups.
    Groups(Hot),
    /// The same, once it has moved to a record.
    Moved(Box<Record>),
    /// Whatever else: always a record.
    Any(Box<Record>),
}

/// What a glance has told.
pub(crate) enum Glance {
    Admitted,
    /// Until that time.
    Denied(u64),
    /// A permit was added to a word that was this before, which may have been too much.
    Added(u64),
    /// It takes more than a glance. Nothing has changed.
    Unclear,
}

/// There is room to spare where so many more calls fit than the one at hand. It takes more threads than that, all of them
/// between two instructions, for an addition to go too far.
#[cfg(not(loom_model))]
const AMPLE: u64 = 64;
/// Two threads are enough.
#[cfg(loom_model)]
const AMPLE: u64 = 0;

/// How often an addition that went too far is tried to be taken back.
#[cfg(not(loom_model))]
const TRIES: u32 = 100;
#[cfg(loom_model)]
const TRIES: u32 = 1;

impl Unkeyed {
    pub(super) fn token(rule: &Rule) -> Unkeyed {
        let ample = rule.full().saturating_sub(rule.permit().saturating_mul(AMPLE + 1));
        let seen = Seen { busy_until: AtomicU64::new(0), denied_until: AtomicU64::new(0), ample };
        Unkeyed::Token { word: Line(AtomicU64::new(0)), seen: Line(seen), moved: Lock::default() }
    }

    pub(super) fn window(rule: &Rule) -> Unkeyed {
        if rule.group == 1 {
            return Unkeyed::Permits { halves: Halves::new(rule), moved: Lock::default() };
        }
        Unkeyed::locked(Locked::Groups(Hot::new()))
    }

    pub(super) fn any() -> Unkeyed {
        Unkeyed::locked(Locked::Any(Box::default()))
    }

    fn locked(state: Locked) -> Unkeyed {
        Unkeyed::Locked { denied_until: Line(AtomicU64::new(0)), state: Line(Lock::new(state)) }
    }

    /// Takes `cost` permits, from 1 to the capacity, by the limiter's one rule, in a call of the thread of that number.
    #[inline]
    pub(super) fn take(&self, rule: &Rule, thread: usize, now: u64, cost: u32) -> Verdict {
        match self {
            Unkeyed::Token { word, seen, .. } => take_token(&word.0, &seen.0, rule, now, cost),
            Unkeyed::Permits { halves, .. } => halves.take(rule, thread, now, cost),
            Unkeyed::Locked { denied_until, state } => take_locked(&denied_until.0, &state.0, rule, now, cost),
        }
    }

    /// As [`take`](Unkeyed::take), one permit, as far as that calls nothing.
    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    pub(super) fn glance(&self, rule: &Rule, thread: usize, now: u64) -> Glance {
        match self {
            Unkeyed::Token { word, seen, .. } => glance_at_token(&word.0, &seen.0, rule, now),
            Unkeyed::Permits { halves, .. } => halves.glance(rule, thread, now),
            Unkeyed::Locked { denied_until, state } => glance_at_locked(&denied_until.0, &state.0, rule, now),
        }
    }

    /// The rest of a glance that has added a permit to a word that was `before`.
    pub(super) fn added(&self, rule: &Rule, now: u64, before: u64) -> Verdict {
        match self {
            Unkeyed::Token { word, seen, .. } => added(&word.0, &seen.0, rule, now, before),
            Unkeyed::Permits { .. } | Unkeyed::Locked { .. } => Verdict::Unknown,
        }
    }

    /// Runs `f` on the bucket as a record.
    pub(super) fn with_record<R>(&self, rule: &Rule, now: u64, f: impl FnOnce(&mut Record) -> R) -> R {
        match self {
            Unkeyed::Token { word, seen, moved } => {
                let mut record = moved.lock();
                let tat = word.0.swap(Tat::MOVED, Ordering::AcqRel);
                seen.0.forget_denial();
                if tat < Tat::MOVED {
                    *record = Tat(tat).to_record(rule, now);
                }
                f(&mut record)
            }
            Unkeyed::Permits { halves, moved } => {
                let mut record = moved.lock();
                if let Some(moving) = halves.move_away() {
                    *record = moving;
                }
                f(&mut record)
            }
            Unkeyed::Locked { denied_until, state } => {
                let mut state = state.0.lock();
                if let Locked::Groups(window) = &*state {
                    denied_until.0.store(0, Ordering::Release);
                    *state = Locked::Moved(Box::new(window_record(window.groups())));
                }
                match &mut *state {
                    Locked::Moved(record) | Locked::Any(record) => f(record),
                    Locked::Groups(_) => f(&mut Record::default()),
                }
            }
        }
    }

    /// The bucket as a record, unchanged.
    pub(super) fn record(&self, rule: &Rule, now: u64) -> Record {
        match self {
            Unkeyed::Token { word, moved, .. } => {
                let record = moved.lock();
                let tat = Tat(word.0.load(Ordering::Acquire));
                if tat.is_moved() { record.clone() } else { tat.to_record(rule, now) }
            }
            Unkeyed::Permits { halves, moved } => {
                let record = moved.lock();
                halves.record().unwrap_or_else(|| record.clone())
            }
            Unkeyed::Locked { state, .. } => match &*state.0.lock() {
                Locked::Groups(window) => window_record(window.groups()),
                Locked::Moved(record) | Locked::Any(record) => (**record).clone(),
            },
        }
    }

    /// Forgets all.
    pub(super) fn reset(&self, rule: &Rule) {
        match self {
            Unkeyed::Token { word, seen, moved } => {
                let mut record = moved.lock();
                *record = Record::default();
                seen.0.busy_until.store(0, Ordering::Relaxed);
                word.0.swap(0, Ordering::AcqRel);
                seen.0.forget_denial();
            }
            Unkeyed::Permits { halves, moved } => {
                let mut record = moved.lock();
                *record = Record::default();
                halves.reset(rule);
            }
            Unkeyed::Locked { denied_until, state } => {
                let mut state = state.0.lock();
                denied_until.0.store(0, Ordering::Release);
                *state = match &*state {
                    Locked::Groups(_) | Locked::Moved(_) => Locked::Groups(Hot::new()),
                    Locked::Any(_) => Locked::Any(Box::default()),
                };
            }
        }
    }
}

#[inline]
fn take_token(word: &AtomicU64, seen: &Seen, rule: &Rule, now: u64, cost: u32) -> Verdict {
    if cost == 1 {
        match glance_at_token(word, seen, rule, now) {
            Glance::Admitted => return Verdict::Admitted,
            Glance::Denied(until) => return Verdict::Denied(until),
            Glance::Added(before) => return added(word, seen, rule, now, before),
            Glance::Unclear => {}
        }
    }
    take_token_exactly(word, seen, rule, now, cost)
}

#[inline]
fn glance_at_token(word: &AtomicU64, seen: &Seen, rule: &Rule, now: u64) -> Glance {
    // An addition wins where threads meet, because it never has to be tried again.
    if now < seen.busy_until.load(Ordering::Relaxed) {
        let units = Tat::units(rule, now);
        let before = word.fetch_add(rule.permit(), Ordering::Relaxed);
        // Neither a word that has moved nor one that is below `units` passes.
        return if before.wrapping_sub(units) < seen.ample { Glance::Admitted } else { Glance::Added(before) };
    }
    let until = seen.denied_until.load(Ordering::Relaxed);
    if now < until { Glance::Denied(until) } else { Glance::Unclear }
}

impl Seen {
    /// Keeps until when a call for one permit is denied by a word that was `tat`.
    ///
    /// Whoever sets the word back forgets the denial after that. So either that thread comes later, or this one, which
    /// exchanges the same value, sees what it did to the word.
    fn keep_denial(&self, word: &AtomicU64, tat: u64, until: u64) {
        self.denied_until.swap(until, Ordering::AcqRel);
        let now = word.load(Ordering::Relaxed);
        if now < tat || Tat(now).is_moved() {
            self.forget_denial();
        }
    }

    fn forget_denial(&self) {
        self.denied_until.swap(0, Ordering::AcqRel);
    }
}

/// Takes `cost` permits, and notes what it finds.
#[inline(never)]
fn take_token_exactly(word: &AtomicU64, seen: &Seen, rule: &Rule, now: u64, cost: u32) -> Verdict {
    let units = Tat::units(rule, now);
    let mut tat = word.load(Ordering::Relaxed);
    loop {
        if Tat(tat).is_moved() {
            return Verdict::Unknown;
        }
        let next = match Tat(tat).after(rule, units, cost) {
            Ok(next) => next,
            Err(units) => {
                let until = Tat::time(rule, units, now);
                // By a coarser clock it would be denied until a tick, which is later.
                if cost == 1 && tick(now) == 1 {
                    seen.keep_denial(word, tat, until);
                }
                return Verdict::Denied(until);
            }
        };
        match word.compare_exchange_weak(tat, next.0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                if next.0 - units < seen.ample {
                    seen.busy_until.store(next.begun(rule), Ordering::Relaxed);
                }
                return Verdict::Admitted;
            }
            Err(other) => tat = other,
        }
    }
}

/// The rest of a call that has added a permit to a word that was `before`, and found no room to spare there.
#[cold]
#[inline(never)]
fn added(word: &AtomicU64, seen: &Seen, rule: &Rule, now: u64, before: u64) -> Verdict {
    let units = Tat::units(rule, now);
    seen.busy_until.store(0, Ordering::Relaxed);
    if Tat(before).is_moved() {
        return Verdict::Unknown;
    }
    // A bucket that was reset meanwhile is below `units`: it is decided anew, and what was added to it stays taken.
    if before >= units {
        let next = before + rule.permit();
        if next - units <= rule.full() {
            return Verdict::Admitted;
        }
        take_back(word, seen, next, rule.permit());
    }
    take_token_exactly(word, seen, rule, now, 1)
}

/// Takes an addition back that went too far and made the word `next`.
///
/// Only while nothing else has happened to the word: others may have found the bucket full since then, and so have forgotten
/// the addition. Others that went too far take theirs back too, in the opposite order. If it never is as it was, the permit
/// stays taken, though nobody got it.
fn take_back(word: &AtomicU64, seen: &Seen, next: u64, price: u64) {
    for _ in 0..TRIES {
        if word.compare_exchange(next, next - price, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            seen.forget_denial();
            return;
        }
        std::hint::spin_loop();
    }
}

#[inline]
fn take_locked(denied_until: &AtomicU64, state: &Lock<Locked>, rule: &Rule, now: u64, cost: u32) -> Verdict {
    // Written under the lock, with the state that it tells of.
    let denied = denied_until.load(Ordering::Acquire);
    if cost == 1 && now < denied {
        return Verdict::Denied(denied);
    }
    let mut state = state.lock();
    let Locked::Groups(window) = &mut *state else { return Verdict::Unknown };
    match window.take(rule, now, cost) {
        Ok(()) => Verdict::Admitted,
        Err(until) => {
            if cost == 1 {
                denied_until.store(until, Ordering::Release);
            }
            Verdict::Denied(until)
        }
    }
}

#[inline]
fn glance_at_locked(denied_until: &AtomicU64, state: &Lock<Locked>, rule: &Rule, now: u64) -> Glance {
    let denied = denied_until.load(Ordering::Acquire);
    if now < denied {
        return Glance::Denied(denied);
    }
    let Some(mut state) = state.try_lock() else { return Glance::Unclear };
    let is_taken = if let Locked::Groups(window) = &mut *state { window.take_newest(rule, now, 1) } else { false };
    if is_taken { Glance::Admitted } else { Glance::Unclear }
}

/// Every order in which two or three threads can take the steps of the shared bucket.
#[cfg(all(test, loom_model))]
mod model {
    use std::time::Duration;

    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::algorithm::record::Ask;
    use crate::clock;
    use crate::limit::{Algorithm, Limit};

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

    fn take(bucket: &Unkeyed, rule: &Rule, cost: u32) -> u32 {
        take_as(0, bucket, rule, cost)
    }

    /// As the thread of that number.
    fn take_as(thread: usize, bucket: &Unkeyed, rule: &Rule, cost: u32) -> u32 {
        let admitted = bucket.take(rule, thread, now(), cost) == Verdict::Admitted;
        if admitted { cost } else { 0 }
    }

    /// As a call that is decided the long way.
    fn take_on_record(bucket: &Unkeyed, rule: &Rule, cost: u32) -> u32 {
        let ask = Ask { rules: &[*rule], backoff: None, cost, max_wait: 0 };
        let admitted = bucket.with_record(rule, now(), |record| record.take(&ask, now().max(record.clock)).is_ok());
        if admitted { cost } else { 0 }
    }

    fn remaining(bucket: &Unkeyed, rule: &Rule) -> u32 {
        let ask = Ask { rules: &[*rule], backoff: None, cost: 0, max_wait: 0 };
        bucket.record(rule, now()).peek(&ask, now()).map_or(0, |admission| admission.remaining)
    }

    /// The bucket says by what it has kept what it would say without.
    fn until(bucket: &Unkeyed, rule: &Rule) -> u64 {
        let denied = |bucket: &Unkeyed| match bucket.take(rule, 0, now(), 1) {
            Verdict::Denied(until) => until,
            other => panic!("{other:?}"),
        };
        let kept = denied(bucket);
        let Unkeyed::Token { seen, .. } = bucket else { panic!("no token bucket") };
        seen.0.forget_denial();
        assert_eq!(kept, denied(bucket));
        kept
    }

    /// A bucket of three with one permit left, to which calls add without looking first.
    fn nearly_empty(rule: &Rule) -> Unkeyed {
        let bucket = Unkeyed::token(rule);
        assert_eq!(take(&bucket, rule, 1) + take(&bucket, rule, 1), 2);
        let Unkeyed::Token { seen, .. } = &bucket else { panic!("no token bucket") };
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
            // By a coarse clock, whose denials are not kept: they would hide the other thread's.
            let coarse = move |it: &Unkeyed| it.take(&rule, 0, now().next_multiple_of(1_000), 1) == Verdict::Admitted;
            let twice = move |it: &Unkeyed| take(it, &rule, 1) + take(it, &rule, 1);
            let (bucket, a, b) = at_once(nearly_empty(&rule), twice, coarse);
            assert_eq!(a + u32::from(b), 1);
            until(&bucket, &rule);
        });
    }

    #[test]
    fn of_additions_that_go_too_far_together_none_is_admitted() {
        // Three threads have more orders than can be tried: those with up to two switches where none has to be.
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
            // At most one of the two is not taken back, where each meets the other's.
            let first = now() + 20_000_000_000;
            assert!((first..first + 40_000_001_000).contains(&until(&bucket, &rule)));
        });
    }

    #[test]
    fn a_token_bucket_that_is_reset_forgets_until_when_it_denied() {
        loom::model(|| {
            let rule = token(1);
            let bucket = Unkeyed::token(&rule);
            assert_eq!(take(&bucket, &rule, 1), 1);
            let (bucket, admitted, ()) = at_once(bucket, move |it| take(it, &rule, 1), move |it| it.reset(&rule));
            assert_eq!(take(&bucket, &rule, 1), 1 - admitted);
        });
    }

    #[test]
    fn a_bucket_that_moves_to_a_record_forgets_until_when_it_denied() {
        loom::model(|| {
            let rule = token(1);
            let bucket = Unkeyed::token(&rule);
            assert_eq!(take(&bucket, &rule, 1), 1);
            let (bucket, a, b) = at_once(bucket, move |it| take(it, &rule, 1), move |it| take_on_record(it, &rule, 1));
            assert_eq!(a + b, 0);
            assert_eq!(bucket.take(&rule, 0, now(), 1), Verdict::Unknown, "the record decides");
        });
    }

    #[test]
    fn a_token_is_given_to_one_of_two() {
        loom::model(|| {
            let rule = token(1);
            let (bucket, a, b) =
                at_once(Unkeyed::token(&rule), move |it| take(it, &rule, 1), move |it| take(it, &rule, 1));
            assert_eq!(a + b, 1);
            let full = now() + 60_000_000_000;
            let Verdict::Denied(until) = bucket.take(&rule, 0, now(), 1) else { panic!("admitted") };
            assert!((full..full + 1_000).contains(&until), "{until}");
        });
    }

    #[test]
    fn a_bucket_that_moves_to_a_record_takes_all_permits_along() {
        loom::model(|| {
            let rule = token(4);
            let bucket = Unkeyed::token(&rule);
            let before = take(&bucket, &rule, 1);
            let short = move |it: &Unkeyed| take(it, &rule, 1) + take(it, &rule, 1);
            let (bucket, a, b) = at_once(bucket, short, move |it| take_on_record(it, &rule, 2));
            let (taken, left) = (before + a + b, remaining(&bucket, &rule));
            assert!(taken + left <= 4, "{taken} taken, {left} left");
            assert_eq!(bucket.take(&rule, 0, now(), 1), Verdict::Unknown, "it stays there");
        });
    }

    #[test]
    fn a_bucket_that_is_reset_meanwhile_admits_no_more_than_two_buckets() {
        loom::model(|| {
            let rule = token(2);
            let short = move |it: &Unkeyed| take(it, &rule, 1) + take(it, &rule, 1) + take(it, &rule, 1);
            let (bucket, a, ()) = at_once(Unkeyed::token(&rule), short, move |it| it.reset(&rule));
            let rest = (0..4).map(|_| take(&bucket, &rule, 1)).sum::<u32>();
            assert!(a + rest <= 4, "{a} and {rest}");
        });
    }

    #[test]
    fn a_window_that_is_reset_forgets_until_when_it_denied() {
        // Groups of one permit, and a window of single permits, of which both halves tell.
        for (count, cost, thread) in [(100, 100, 0), (1, 1, 0), (1, 1, 1)] {
            loom::model(move || {
                let rule = window(count);
                let bucket = Unkeyed::window(&rule);
                assert_eq!(take(&bucket, &rule, cost), cost);
                let call = move |it: &Unkeyed| take_as(thread, it, &rule, 1);
                let (bucket, admitted, ()) = at_once(bucket, call, move |it| it.reset(&rule));
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
                let long = move |it: &Unkeyed| take_on_record(it, &rule, count);
                let (bucket, a, b) = at_once(Unkeyed::window(&rule), short, long);
                let left = remaining(&bucket, &rule);
                assert_eq!(a + b + left, count, "{a} and {b}");
            });
        }
    }

    #[test]
    fn a_window_admits_its_count_to_threads_of_both_halves_together() {
        for (count, cost) in [(1, 1), (2, 1), (3, 1), (3, 2), (5, 2)] {
            loom::model(move || {
                let rule = window(count);
                let twice = move |thread, it: &Unkeyed| [0; 2].map(|_| take_as(thread, it, &rule, cost));
                let (bucket, a, b) = at_once(Unkeyed::window(&rule), move |it| twice(0, it), move |it| twice(1, it));
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
            let bucket = Unkeyed::window(&rule);
            let first = now();
            assert_eq!(bucket.take(&rule, 1, first, 1), Verdict::Admitted);
            let later = move |thread, it: &Unkeyed| [1, 2].map(|tick| it.take(&rule, thread, first + tick, 1));
            let (_, a, b) = at_once(bucket, move |it| later(0, it), move |it| later(1, it));
            let denied = a.iter().chain(&b).filter(|verdict| **verdict == Verdict::Denied(first + rule.per()));
            let admitted = a.iter().chain(&b).filter(|verdict| **verdict == Verdict::Admitted);
            assert_eq!((admitted.count(), denied.count()), (2, 2), "{a:?} and {b:?}");
        });
    }
}
