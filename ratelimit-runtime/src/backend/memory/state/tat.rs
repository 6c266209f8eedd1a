//! A token bucket as one number, if its rate is simple enough.

use crate::algorithm::Rule;
use crate::algorithm::token_bucket::{TokenBucket, tick};
use crate::limit::Algorithm;
use crate::rt::clock::{self, Now};

use super::{Permit, Verdict};

/// The theoretical arrival time (TAT) of the generic cell rate algorithm (GCRA), in units since the
/// clock's origin. At any time, the bucket lacks as many units as the TAT is ahead of that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tat(pub(crate) u64);

impl Tat {
    /// Times in units of this size do not overflow: 62 bits hold 9 years of 16 units per
    /// nanosecond.
    const MOST_UNITS: u64 = 16;
    /// From this value on, a word shared by threads is not a time. It marks that the state is kept
    /// elsewhere. Threads that have not seen the mark yet may add to it.
    pub(crate) const MOVED: u64 = 1 << 63;
    /// The latest supported time after the origin, in nanoseconds.
    const LATEST: u64 = Tat::MOVED / 2 / Tat::MOST_UNITS;

    /// Whether the limit's numbers are small enough for one word.
    pub(crate) fn fits(rule: &Rule) -> bool {
        rule.limit.algorithm() == Algorithm::TokenBucket
            && rule.capacity() > 0
            && rule.step() == 1
            && rule.units() <= Tat::MOST_UNITS
            && rule.full() < 1 << 61
    }

    /// A time in units; `None` before the origin and more than [`LATEST`](Tat::LATEST) after it.
    #[inline]
    pub(crate) fn units(rule: &Rule, time: u64) -> Option<u64> {
        let since = time.wrapping_sub(clock::started_origin());
        (since <= Tat::LATEST).then(|| since * rule.units())
    }

    #[inline]
    pub(crate) fn is_in_range(time: u64) -> bool {
        time.wrapping_sub(clock::started_origin()) <= Tat::LATEST
    }

    /// The first moment at which `cost` permits fit, for a `now` in range.
    #[inline]
    pub(crate) fn fits_at(self, rule: &Rule, now: u64, cost: u32) -> u64 {
        let Some(units) = Tat::units(rule, now) else { return super::NEVER };
        match self.after(rule, units, units, cost) {
            Ok(_) => now,
            Err(units) => Tat::time(rule, units, now),
        }
    }

    #[inline]
    pub(super) fn charge(&mut self, rule: &Rule, recorded: u64, cost: u32) {
        let recorded = Tat::units(rule, recorded).unwrap_or(self.0);
        self.0 = self.0.max(recorded) + u64::from(cost) * rule.permit();
    }

    #[inline]
    pub(crate) fn is_moved(self) -> bool {
        self.0 >= Tat::MOVED
    }

    /// The time at which `units` have flowed, rounded up to a tick of the clock that reads `now`.
    #[inline]
    pub(crate) fn time(rule: &Rule, units: u64, now: u64) -> u64 {
        // A division takes as long as everything else here, and most rates need none.
        let nanos = if rule.units() == 1 { units } else { units.div_ceil(rule.units()) };
        let nanos = clock::origin().saturating_add(nanos);
        let tick = tick(now);
        if tick == 1 { nanos } else { nanos.div_ceil(tick).saturating_mul(tick) }
    }

    /// The last time whose units do not exceed this value.
    pub(crate) fn begun(self, rule: &Rule) -> u64 {
        clock::origin().saturating_add(self.0 / rule.units())
    }

    /// The state after `cost` permits at `now` in units. If they do not fit, the units at which
    /// they do.
    #[inline]
    pub(crate) fn after(self, rule: &Rule, now: u64, recorded: u64, cost: u32) -> Result<Tat, u64> {
        let price = u64::from(cost) * rule.permit();
        let next = self.0.max(now) + price;
        if next - now <= rule.full() { Ok(Tat(next.max(recorded + price))) } else { Err(next - rule.full()) }
    }

    /// Takes `cost` permits, from 1 to the capacity.
    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    pub(super) fn take(&mut self, rule: &Rule, now: Now, cost: u32) -> Verdict {
        let since = now.earliest.wrapping_sub(clock::started_origin());
        if since > Tat::LATEST {
            return Verdict::Undecided;
        }
        let units = since * rule.units();
        let late = (now.latest - now.earliest).min(rule.late()) * rule.units();
        match self.after(rule, units, units + late, cost) {
            Ok(next) => {
                *self = next;
                Verdict::Admitted { at: now.latest }
            }
            Err(units) => Verdict::Denied { until: Tat::time(rule, units, now.earliest), position: 0 },
        }
    }

    /// The general form of the bucket: its debt at the first moment from `now` on at which the debt
    /// is at most the capacity.
    ///
    /// That moment can be after `now`: the clock of another core may have been ahead when the
    /// bucket was used.
    pub(crate) fn bucket(self, rule: &Rule, now: u64) -> TokenBucket {
        if self.0 == 0 {
            // Idle at any time, including times that a word cannot hold.
            return TokenBucket { last: now, debt: 0, unit: rule.permit(), ..TokenBucket::default() };
        }
        let over = self.0.saturating_sub(rule.full()).div_ceil(rule.units());
        let last = now.max(clock::origin().saturating_add(over));
        let debt = self.0.saturating_sub(Tat::units(rule, last).unwrap_or(u64::MAX));
        TokenBucket { last, debt, unit: rule.permit(), ..TokenBucket::default() }
    }

    /// The same bucket in one word, if the word can hold its time.
    pub(crate) fn of(bucket: &TokenBucket, rule: &Rule) -> Option<Tat> {
        match Tat::units(rule, bucket.last) {
            _ if bucket.debt == 0 => Some(Tat(0)),
            Some(last) if bucket.unit == rule.permit() => {
                last.checked_add(bucket.debt).map(Tat).filter(|tat| !tat.is_moved())
            }
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn refund(&mut self, rule: &Rule, now: Now, permit: Permit) {
        let Some(now_units) = Tat::units(rule, now.earliest) else { return };
        // In debt, as of its end.
        let owed = self.0.saturating_sub(rule.full()).saturating_sub(now_units);
        let elapsed = now.earliest.saturating_sub(permit.at).saturating_mul(rule.units()).saturating_add(owed);
        let cost = u64::from(permit.cost.min(rule.limit.burst()));
        let back = (cost * rule.permit()).saturating_sub(elapsed);
        // Does not fill the bucket above its capacity.
        self.0 = self.0.saturating_sub(back).max(self.0.min(now_units));
    }

    /// The permits left at `now`.
    #[expect(clippy::inline_always, reason = "most of what a decision tells")]
    #[inline(always)]
    pub(crate) fn remaining(self, rule: &Rule, now: u64) -> u32 {
        let Some(units) = Tat::units(rule, now) else { return 0 };
        // A full bucket needs no division.
        let missing = if self.0 <= units { 0 } else { (self.0 - units).div_ceil(rule.permit()) };
        rule.limit.burst().saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    #[expect(clippy::inline_always, reason = "most of what a decision tells")]
    #[inline(always)]
    pub(crate) fn idle_at(self, rule: &Rule) -> u64 {
        let nanos = if rule.units() == 1 { self.0 } else { self.0.div_ceil(rule.units()) };
        if self.0 == 0 { 0 } else { clock::origin().saturating_add(nanos) }
    }
}
