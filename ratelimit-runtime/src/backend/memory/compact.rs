//! Small states for the usual case: one limit, whose calls neither wait nor are given back.
//!
//! Whatever else is asked of a bucket is carried out on a full [`Record`], which the small state is turned into and, where
//! nothing is left that it could not hold, turned back into afterwards.

use smallvec::smallvec;

use crate::algorithm::Rule;
use crate::algorithm::record::{Record, State};
use crate::algorithm::token_bucket::{TokenBucket, tick};
use crate::clock;
use crate::limit::Algorithm;

/// The short answer to a call, in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admitted,
    /// Until that time.
    Denied(u64),
    /// It has to be decided on a record.
    Unknown,
}

impl From<Result<(), u64>> for Verdict {
    #[inline]
    fn from(taken: Result<(), u64>) -> Verdict {
        match taken {
            Ok(()) => Verdict::Admitted,
            Err(at) => Verdict::Denied(at),
        }
    }
}

/// What a call leaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    pub(crate) remaining: u32,
    pub(crate) fresh_at: u64,
}

/// The small state of one limit.
pub(super) trait Compact: Sized {
    /// A state that nobody has used.
    fn fresh() -> Self;

    /// A mark that the state is kept as a [`Record`] elsewhere.
    fn moved() -> Self;

    fn is_moved(&self) -> bool;

    /// Takes `cost` permits, from 1 to the capacity, or says when they would be admitted.
    fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64>;

    /// As [`take`](Compact::take) of one permit, without calling anything. A denial is until a time as the state counts it.
    /// [`Verdict::Unknown`]: nothing is decided, and nothing changed.
    fn take_one(&mut self, rule: &Rule, now: u64) -> Verdict;

    /// What is left.
    fn left(&self, rule: &Rule, now: u64) -> Left;

    /// When it is as if nobody had used it.
    fn fresh_at(&self, rule: &Rule) -> u64;

    /// Whether states are so now: a question to many of them, for which what it takes is found out once. Of no meaning for
    /// those that are [kept elsewhere](Compact::is_moved).
    fn are_fresh(rule: &Rule, now: u64) -> impl Fn(&Self) -> bool {
        move |state| state.fresh_at(rule) <= now
    }

    /// Whether a call for one permit would be denied.
    fn is_denying(&self, rule: &Rule, now: u64) -> bool;

    /// The state as a record, as of `now`.
    fn to_record(&self, rule: &Rule, now: u64) -> Record;

    /// The record as a small state, if that says all of it. The record was last judged by `rule`.
    fn from_record(record: &Record, rule: &Rule, now: u64) -> Option<Self>;
}

/// A record of which nothing lies ahead and nothing is held against the key.
pub(super) fn is_plain(record: &Record, now: u64) -> bool {
    record.newest <= now && record.floor <= now && record.offences.count == 0 && record.limits.len() == 1
}

/// A token bucket as one number: its theoretical arrival time in units, counted from the clock's origin. The units that are
/// missing at a time are what it is ahead of that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tat(pub(super) u64);

impl Tat {
    /// Times in units of this size do not overflow: 62 bits hold 9 years of 16 units a nanosecond.
    const MOST_UNITS: u64 = 16;
    /// From here on a word is no time, but the mark that the state is kept elsewhere. Threads that have not seen the mark
    /// yet may add to it.
    pub(super) const MOVED: u64 = 1 << 63;

    /// The latest time after the origin that is counted, in nanoseconds.
    const LATEST: u64 = Tat::MOVED / 2 / Tat::MOST_UNITS;

    /// Whether the limit's numbers are small enough for one word.
    pub(super) fn fits(rule: &Rule) -> bool {
        let (units, _, step) = rule.rate.per_nano();
        rule.limit.algorithm() == Algorithm::TokenBucket
            && rule.capacity() > 0
            && step == 1
            && units <= Tat::MOST_UNITS
            && rule.full() < 1 << 61
    }

    /// A time in units.
    #[inline]
    pub(super) fn units(rule: &Rule, time: u64) -> u64 {
        time.saturating_sub(clock::started_origin()).min(Tat::LATEST) * rule.rate.units
    }

    /// The time at which `units` have flowed, on a tick of the clock that says `now`.
    #[inline]
    pub(super) fn time(rule: &Rule, units: u64, now: u64) -> u64 {
        // A division takes as long as all the rest, and most rates need none.
        let nanos = if rule.rate.units == 1 { units } else { units.div_ceil(rule.rate.units) };
        let nanos = clock::origin().saturating_add(nanos);
        let tick = tick(now);
        if tick == 1 { nanos } else { nanos.div_ceil(tick).saturating_mul(tick) }
    }

    /// The last time of which the units are not above this.
    pub(super) fn begun(self, rule: &Rule) -> u64 {
        clock::origin().saturating_add(self.0 / rule.rate.units)
    }

    /// The state after `cost` permits at `now` in units, or the units at which they would be admitted.
    #[inline]
    pub(super) fn after(self, rule: &Rule, now: u64, cost: u32) -> Result<Tat, u64> {
        let next = self.0.max(now) + u64::from(cost) * rule.permit();
        let full = rule.full();
        if next - now <= full { Ok(Tat(next)) } else { Err(next - full) }
    }

    /// Permits that are left at `now` in units.
    #[inline]
    pub(super) fn remaining(self, rule: &Rule, now: u64) -> u32 {
        let missing = self.0.saturating_sub(now).div_ceil(rule.permit());
        rule.limit.burst().saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }
}

impl Compact for Tat {
    fn fresh() -> Tat {
        Tat(0)
    }

    fn moved() -> Tat {
        Tat(Tat::MOVED)
    }

    #[inline]
    fn is_moved(&self) -> bool {
        self.0 >= Tat::MOVED
    }

    #[inline]
    fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        *self = self.after(rule, Tat::units(rule, now), cost).map_err(|units| Tat::time(rule, units, now))?;
        Ok(())
    }

    #[inline]
    fn take_one(&mut self, rule: &Rule, now: u64) -> Verdict {
        let since = now.wrapping_sub(clock::started_origin());
        // Before the origin or long after it.
        if since > Tat::LATEST || self.is_moved() {
            return Verdict::Unknown;
        }
        match self.after(rule, since * rule.rate.units, 1) {
            Ok(next) => {
                *self = next;
                Verdict::Admitted
            }
            Err(units) => Verdict::Denied(units),
        }
    }

    fn left(&self, rule: &Rule, now: u64) -> Left {
        Left { remaining: self.remaining(rule, Tat::units(rule, now)), fresh_at: self.fresh_at(rule) }
    }

    fn fresh_at(&self, rule: &Rule) -> u64 {
        clock::origin().saturating_add(self.0.div_ceil(rule.rate.units))
    }

    fn are_fresh(rule: &Rule, now: u64) -> impl Fn(&Tat) -> bool {
        // Without the division that finds out when.
        let now = Tat::units(rule, now);
        move |state| state.0 <= now
    }

    fn is_denying(&self, rule: &Rule, now: u64) -> bool {
        self.after(rule, Tat::units(rule, now), 1).is_err()
    }

    fn to_record(&self, rule: &Rule, now: u64) -> Record {
        let permit = rule.permit();
        // What the bucket is ahead of a time is what is missing from it then, by whatever limit it is judged next. The clock
        // of another core may have been ahead of `now`: then the bucket is as of the first moment at which it is not over.
        let over = self.0.saturating_sub(rule.full()).div_ceil(rule.rate.units);
        let last = now.max(clock::origin().saturating_add(over));
        let debt = self.0.saturating_sub(Tat::units(rule, last));
        Record {
            limits: smallvec![State::Token(TokenBucket { last, debt, unit: permit, ..TokenBucket::default() })],
            ..Record::default()
        }
    }

    fn from_record(record: &Record, rule: &Rule, now: u64) -> Option<Tat> {
        match record.limits.first()? {
            State::Token(bucket)
                if is_plain(record, now) && bucket.unit == rule.permit() && bucket.last >= clock::origin() =>
            {
                Some(Tat(Tat::units(rule, bucket.last) + bucket.debt))
            }
            State::Token(bucket) if is_plain(record, now) && bucket.debt == 0 => Some(Tat::fresh()),
            _ => None,
        }
    }
}

/// Any limits: always a record.
pub(super) struct Nothing;

impl Compact for Nothing {
    fn fresh() -> Nothing {
        Nothing
    }

    fn moved() -> Nothing {
        Nothing
    }

    fn is_moved(&self) -> bool {
        true
    }

    fn take(&mut self, _: &Rule, _: u64, _: u32) -> Result<(), u64> {
        Ok(())
    }

    fn take_one(&mut self, _: &Rule, _: u64) -> Verdict {
        Verdict::Unknown
    }

    fn left(&self, _: &Rule, _: u64) -> Left {
        Left::default()
    }

    fn fresh_at(&self, _: &Rule) -> u64 {
        0
    }

    fn is_denying(&self, _: &Rule, _: u64) -> bool {
        false
    }

    fn to_record(&self, _: &Rule, _: u64) -> Record {
        Record::default()
    }

    fn from_record(_: &Record, _: &Rule, _: u64) -> Option<Nothing> {
        None
    }
}
