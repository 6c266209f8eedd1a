//! The one bucket of a limiter without keys: nothing is hashed, and where the limit allows it nothing is locked.

use super::compact::{Compact, Tat, Verdict, take, window_record};
use crate::algorithm::Rule;
use crate::algorithm::record::Record;
use crate::algorithm::sliding_window::SlidingWindow;
use crate::sync::{AtomicU64, Lock, Ordering};

/// The bucket of all calls.
pub(super) enum Unkeyed {
    /// A token bucket in one word. What that cannot say is done on a record, to which it moves for good.
    Token {
        word: Line<Token>,
        moved: Lock<Record>,
    },
    /// A sliding window, with the time until which a call for one permit is known to be denied.
    Window {
        denied_until: Line<AtomicU64>,
        state: Line<Lock<WindowState>>,
    },
    Any(Lock<Record>),
}

/// On cache lines of its own: threads write it, and read what is beside it.
#[repr(align(128))]
pub(super) struct Line<T>(T);

pub(super) struct Token {
    /// A [`Tat`].
    word: AtomicU64,
    /// When a call was denied last: until when. The next one is denied until the same time, which takes a division to find
    /// out; whoever uses it checks it against the word.
    denied_until: AtomicU64,
}

pub(super) enum WindowState {
    Small(SlidingWindow),
    Full(Record),
}

/// A call adds first and looks then where the bucket has room for at least that many of its kind.
#[cfg(not(loom_model))]
const AMPLE: u64 = 64;
/// Two threads are enough to go too far.
#[cfg(loom_model)]
const AMPLE: u64 = 1;

impl Unkeyed {
    pub(super) fn token() -> Unkeyed {
        let word = Token { word: AtomicU64::new(0), denied_until: AtomicU64::new(0) };
        Unkeyed::Token { word: Line(word), moved: Lock::default() }
    }

    pub(super) fn window() -> Unkeyed {
        Unkeyed::Window {
            denied_until: Line(AtomicU64::new(0)),
            state: Line(Lock::new(WindowState::Small(SlidingWindow::default()))),
        }
    }

    pub(super) fn any() -> Unkeyed {
        Unkeyed::Any(Lock::default())
    }

    /// Takes `cost` permits, from 1 to the capacity, by the limiter's one rule.
    #[inline]
    pub(super) fn take(&self, rule: &Rule, now: u64, cost: u32) -> Verdict {
        match self {
            Unkeyed::Token { word, .. } => take_token(&word.0, rule, now, cost),
            Unkeyed::Window { denied_until, state } => {
                // Written under the lock, with the state that it tells of.
                let denied = denied_until.0.load(Ordering::Acquire);
                if cost == 1 && now < denied {
                    return Verdict::Denied(denied);
                }
                take_window(&denied_until.0, &state.0, rule, now, cost)
            }
            Unkeyed::Any(_) => Verdict::Unknown,
        }
    }

    /// Runs `f` on the bucket as a record.
    pub(super) fn with_record<R>(&self, rule: &Rule, now: u64, f: impl FnOnce(&mut Record) -> R) -> R {
        match self {
            Unkeyed::Token { word, moved } => {
                let mut record = moved.lock();
                let tat = word.0.word.swap(Tat::MOVED, Ordering::AcqRel);
                if tat < Tat::MOVED {
                    *record = Tat(tat).to_record(rule, now);
                }
                f(&mut record)
            }
            Unkeyed::Window { denied_until, state } => {
                let mut state = state.0.lock();
                denied_until.0.store(0, Ordering::Release);
                if let WindowState::Small(window) = &mut *state {
                    *state = WindowState::Full(window_record(std::mem::take(window)));
                }
                match &mut *state {
                    WindowState::Full(record) => f(record),
                    WindowState::Small(_) => f(&mut Record::default()),
                }
            }
            Unkeyed::Any(record) => f(&mut record.lock()),
        }
    }

    /// The bucket as a record, unchanged.
    pub(super) fn record(&self, rule: &Rule, now: u64) -> Record {
        match self {
            Unkeyed::Token { word, moved } => {
                let record = moved.lock();
                let tat = Tat(word.0.word.load(Ordering::Acquire));
                if tat.is_moved() { record.clone() } else { tat.to_record(rule, now) }
            }
            Unkeyed::Window { state, .. } => match &*state.0.lock() {
                WindowState::Small(window) => window_record(window.clone()),
                WindowState::Full(record) => record.clone(),
            },
            Unkeyed::Any(record) => record.lock().clone(),
        }
    }

    /// Forgets all.
    pub(super) fn reset(&self) {
        match self {
            Unkeyed::Token { word, moved } => {
                let mut record = moved.lock();
                *record = Record::default();
                word.0.word.store(0, Ordering::Release);
            }
            Unkeyed::Window { denied_until, state } => {
                let mut state = state.0.lock();
                denied_until.0.store(0, Ordering::Release);
                *state = WindowState::Small(SlidingWindow::default());
            }
            Unkeyed::Any(record) => *record.lock() = Record::default(),
        }
    }
}

#[inline]
fn take_token(token: &Token, rule: &Rule, now: u64, cost: u32) -> Verdict {
    let word = &token.word;
    let units = Tat::units(rule, now);
    let price = u64::from(cost) * rule.permit();
    let full = rule.full();
    let tat = word.load(Ordering::Relaxed);
    // An addition wins where two threads meet, because it never has to be tried again. It is only for a bucket that has room
    // to spare: what it finds may be more than it saw before.
    if tat >= units && price < (full.saturating_sub(tat - units)) / AMPLE {
        let next = Tat(word.fetch_add(price, Ordering::Relaxed) + price);
        if next.is_moved() {
            return Verdict::Unknown;
        }
        if next.0 - units <= full {
            return Verdict::Admitted;
        }
        return take_token_exactly(token, take_back(word, price), rule, now, units, cost);
    }
    take_token_exactly(token, tat, rule, now, units, cost)
}

/// Takes `cost` permits at `now`, which is so many `units`, of a bucket that was last seen as `tat`.
#[inline(never)]
fn take_token_exactly(token: &Token, mut tat: u64, rule: &Rule, now: u64, units: u64, cost: u32) -> Verdict {
    let Token { word, denied_until } = token;
    loop {
        if Tat(tat).is_moved() {
            return Verdict::Unknown;
        }
        let next = match Tat(tat).after(rule, units, cost) {
            Ok(next) => next,
            Err(units) => {
                let hint = denied_until.load(Ordering::Relaxed);
                let until = Tat::time_or(rule, units, now, hint);
                if until != hint {
                    denied_until.store(until, Ordering::Relaxed);
                }
                return Verdict::Denied(until);
            }
        };
        match word.compare_exchange_weak(tat, next.0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Verdict::Admitted,
            Err(other) => tat = other,
        }
    }
}

/// Takes an addition back that went too far; returns what is left.
#[cold]
fn take_back(word: &AtomicU64, price: u64) -> u64 {
    let back = |tat: u64| (!Tat(tat).is_moved()).then(|| tat.saturating_sub(price));
    match word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back) {
        Ok(tat) => tat.saturating_sub(price),
        // Moved to a record, with this addition: the permits stay taken, though nobody got them.
        Err(moved) => moved,
    }
}

#[inline(never)]
fn take_window(denied_until: &AtomicU64, state: &Lock<WindowState>, rule: &Rule, now: u64, cost: u32) -> Verdict {
    let mut state = state.lock();
    let WindowState::Small(window) = &mut *state else { return Verdict::Unknown };
    let taken = take(window, rule, now, cost);
    if let (Err(at), 1) = (taken, cost) {
        denied_until.store(at, Ordering::Release);
    }
    taken.into()
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

    fn now() -> u64 {
        clock::origin() + 1_000_000_000
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
        let admitted = bucket.take(rule, now(), cost) == Verdict::Admitted;
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

    #[test]
    fn additions_that_go_too_far_are_taken_back_whole() {
        loom::model(|| {
            let rule = token(5);
            let bucket = Unkeyed::token();
            let before = take(&bucket, &rule, 1);
            let (bucket, a, b) = at_once(bucket, move |it| take(it, &rule, 3), move |it| take(it, &rule, 3));
            assert_eq!(before + a + b, 4, "one of the two");
            assert_eq!(remaining(&bucket, &rule), 1);
            assert_eq!(take(&bucket, &rule, 1), 1);
            assert_eq!(take(&bucket, &rule, 1), 0);
        });
    }

    #[test]
    fn a_token_is_given_to_one_of_two() {
        loom::model(|| {
            let rule = token(1);
            let (bucket, a, b) = at_once(Unkeyed::token(), move |it| take(it, &rule, 1), move |it| take(it, &rule, 1));
            assert_eq!(a + b, 1);
            let full = now() + 60_000_000_000;
            let Verdict::Denied(until) = bucket.take(&rule, now(), 1) else { panic!("admitted") };
            assert!((full..full + 1_000).contains(&until), "{until}");
        });
    }

    #[test]
    fn a_bucket_that_moves_to_a_record_takes_all_permits_along() {
        loom::model(|| {
            let rule = token(4);
            let bucket = Unkeyed::token();
            let before = take(&bucket, &rule, 1);
            let short = move |it: &Unkeyed| take(it, &rule, 1) + take(it, &rule, 1);
            let (bucket, a, b) = at_once(bucket, short, move |it| take_on_record(it, &rule, 2));
            let (taken, left) = (before + a + b, remaining(&bucket, &rule));
            assert!(taken + left <= 4, "{taken} taken, {left} left");
            assert_eq!(bucket.take(&rule, now(), 1), Verdict::Unknown, "it stays there");
        });
    }

    #[test]
    fn a_bucket_that_is_reset_meanwhile_admits_no_more_than_two_buckets() {
        loom::model(|| {
            let rule = token(2);
            let short = move |it: &Unkeyed| take(it, &rule, 1) + take(it, &rule, 1) + take(it, &rule, 1);
            let (bucket, a, ()) = at_once(Unkeyed::token(), short, Unkeyed::reset);
            let rest = (0..4).map(|_| take(&bucket, &rule, 1)).sum::<u32>();
            assert!(a + rest <= 4, "{a} and {rest}");
        });
    }

    #[test]
    fn a_window_that_is_reset_forgets_until_when_it_denied() {
        loom::model(|| {
            let rule = window(1);
            let bucket = Unkeyed::window();
            assert_eq!(take(&bucket, &rule, 1), 1);
            let (bucket, admitted, ()) = at_once(bucket, move |it| take(it, &rule, 1), Unkeyed::reset);
            assert_eq!(take(&bucket, &rule, 1), 1 - admitted);
        });
    }

    #[test]
    fn a_window_admits_its_count_on_both_ways_together() {
        loom::model(|| {
            let rule = window(2);
            let short = move |it: &Unkeyed| take(it, &rule, 1) + take(it, &rule, 1);
            let (bucket, a, b) = at_once(Unkeyed::window(), short, move |it| take_on_record(it, &rule, 2));
            let left = remaining(&bucket, &rule);
            assert_eq!(a + b + left, 2, "{a} and {b}");
        });
    }
}
