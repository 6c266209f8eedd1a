//! The one bucket of a limiter without keys: nothing is hashed, and where the limit allows it nothing is locked.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::compact::{Compact, Tat, Verdict, take, window_record};
use crate::algorithm::Rule;
use crate::algorithm::record::Record;
use crate::algorithm::sliding_window::SlidingWindow;

/// The bucket of all calls.
pub(super) enum Unkeyed {
    /// A token bucket in one word. What that cannot say is done on a record, to which it moves for good.
    Token {
        word: Line<Token>,
        moved: Mutex<Record>,
    },
    /// A sliding window, with the time until which a call for one permit is known to be denied.
    Window {
        denied_until: AtomicU64,
        state: Mutex<WindowState>,
    },
    Any(Mutex<Record>),
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
const AMPLE: u64 = 64;

impl Unkeyed {
    pub(super) fn token() -> Unkeyed {
        let word = Token { word: AtomicU64::new(0), denied_until: AtomicU64::new(0) };
        Unkeyed::Token { word: Line(word), moved: Mutex::default() }
    }

    pub(super) fn window() -> Unkeyed {
        Unkeyed::Window {
            denied_until: AtomicU64::new(0),
            state: Mutex::new(WindowState::Small(SlidingWindow::default())),
        }
    }

    pub(super) fn any() -> Unkeyed {
        Unkeyed::Any(Mutex::default())
    }

    /// Takes `cost` permits, from 1 to the capacity, by the limiter's one rule.
    #[inline]
    pub(super) fn take(&self, rule: &Rule, now: u64, cost: u32) -> Verdict {
        match self {
            Unkeyed::Token { word, .. } => take_token(&word.0, rule, now, cost),
            Unkeyed::Window { denied_until, state } => {
                // Written under the lock, with the state that it tells of.
                let denied = denied_until.load(Ordering::Acquire);
                if cost == 1 && now < denied {
                    return Verdict::Denied(denied);
                }
                take_window(denied_until, state, rule, now, cost)
            }
            Unkeyed::Any(_) => Verdict::Unknown,
        }
    }

    /// Runs `f` on the bucket as a record.
    pub(super) fn with_record<R>(&self, rule: &Rule, f: impl FnOnce(&mut Record) -> R) -> R {
        match self {
            Unkeyed::Token { word, moved } => {
                let mut record = moved.lock();
                let tat = word.0.word.swap(Tat::MOVED, Ordering::AcqRel);
                if tat < Tat::MOVED {
                    *record = Tat(tat).to_record(rule);
                }
                f(&mut record)
            }
            Unkeyed::Window { denied_until, state } => {
                let mut state = state.lock();
                denied_until.store(0, Ordering::Release);
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
    pub(super) fn record(&self, rule: &Rule) -> Record {
        match self {
            Unkeyed::Token { word, moved } => {
                let record = moved.lock();
                let tat = Tat(word.0.word.load(Ordering::Acquire));
                if tat.is_moved() { record.clone() } else { tat.to_record(rule) }
            }
            Unkeyed::Window { state, .. } => match &*state.lock() {
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
                let mut state = state.lock();
                denied_until.store(0, Ordering::Release);
                *state = WindowState::Small(SlidingWindow::default());
            }
            Unkeyed::Any(record) => *record.lock() = Record::default(),
        }
    }
}

#[inline]
fn take_token(Token { word, denied_until }: &Token, rule: &Rule, now: u64, cost: u32) -> Verdict {
    let units = Tat::units(rule, now);
    let price = u64::from(cost) * rule.permit();
    let full = rule.full();
    let mut tat = word.load(Ordering::Relaxed);
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
        tat = take_back(word, price);
    }
    loop {
        if Tat(tat).is_moved() {
            return Verdict::Unknown;
        }
        let next = match Tat(tat).after(rule, units, cost) {
            Ok(next) => next,
            Err(units) => {
                let hint = denied_until.load(Ordering::Relaxed);
                let until = Tat::time_or(rule, units, hint);
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

#[inline]
fn take_window(denied_until: &AtomicU64, state: &Mutex<WindowState>, rule: &Rule, now: u64, cost: u32) -> Verdict {
    let mut state = state.lock();
    let WindowState::Small(window) = &mut *state else { return Verdict::Unknown };
    let taken = take(window, rule, now, cost);
    if let (Err(at), 1) = (taken, cost) {
        denied_until.store(at, Ordering::Release);
    }
    taken.into()
}
