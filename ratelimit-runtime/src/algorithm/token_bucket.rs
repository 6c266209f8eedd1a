//! The token bucket, stored as the amount missing from it: the generic cell rate algorithm (GCRA)
//! in two numbers.
//!
//! GCRA's theoretical arrival time is `last + debt / rate`. Storing debt and time separately makes
//! the arithmetic exact. Debt is an integer of units: a permit is a whole number of units, and so
//! is the refill of a microsecond (or nanosecond). Nothing is rounded at any rate. Source: ITU-T
//! I.371, which shows that virtual scheduling and the continuous-state leaky bucket are equivalent.

use super::Rule;

/// Units saturate here, for a bucket whose limit was replaced. At least 142 years of a bucket of
/// that size.
const MOST: u64 = (1 << 53) - 1;

/// The amount missing from a full bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    /// The time at which `debt` was missing.
    pub(crate) last: u64,
    /// Units missing at `last`.
    pub(crate) debt: u64,
    /// Units per permit, in which `debt` is counted.
    pub(crate) unit: u64,
    /// Units that flow back, and the nanoseconds that this takes, by the limit of the last change.
    pub(crate) flow: (u64, u64),
}

impl TokenBucket {
    /// A bucket with `taken` permits missing at `now`.
    pub(crate) fn holding(rule: &Rule, taken: u64, now: u64) -> TokenBucket {
        let fine = fine(rule);
        let debt = taken.saturating_mul(rule.permit() / fine).min(MOST) * fine;
        TokenBucket { last: now, debt, unit: rule.permit(), ..TokenBucket::default() }
    }

    /// Converts the state to a limit that may count in other units. The same number of permits
    /// stays missing, rounded up to a unit for times in microseconds, in memory as in Redis. That
    /// may exceed the bucket's capacity; the excess flows off at the new rate.
    #[inline]
    pub(crate) fn convert(&mut self, rule: &Rule) {
        if self.unit != rule.permit() {
            self.convert_units(rule);
        }
    }

    #[cold]
    fn convert_units(&mut self, rule: &Rule) {
        let (permit, fine) = (rule.permit(), fine(rule));
        if self.unit > 0 {
            let debt = (u128::from(self.debt) * u128::from(permit / fine)).div_ceil(u128::from(self.unit));
            self.debt = u64::try_from(debt).map_or(MOST, |debt| debt.min(MOST)) * fine;
        }
        self.unit = permit;
    }

    /// The state converted to the limit `rule`.
    pub(crate) fn converted(mut self, rule: &Rule) -> TokenBucket {
        self.convert(rule);
        self
    }

    /// Permits missing at `now`, by the limit of the last change.
    pub(crate) fn taken(&self, now: u64) -> u64 {
        let (units, step) = self.flow;
        let back = (now.saturating_sub(self.last) / step.max(1)).saturating_mul(units);
        self.debt.saturating_sub(back).div_ceil(self.unit.max(1))
    }

    /// The state at `at`, which must not be before `last`.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn at(self, rule: &Rule, at: u64) -> TokenBucket {
        let (units, step) = (rule.units(), rule.step());
        let Some(elapsed) = at.checked_sub(self.last) else { return self };
        if step == 1 {
            return TokenBucket { last: at, debt: self.debt.saturating_sub(elapsed.saturating_mul(units)), ..self };
        }
        // Mostly within the step of the last change, and a division takes as long as much of a
        // decision.
        let steps = if elapsed < step { 0 } else { elapsed / step };
        let debt = self.debt.saturating_sub(steps.saturating_mul(units));
        // A started step counts towards the remaining debt. If it could pay more than that, it is
        // dropped.
        let last = if debt < units { at } else { self.last + steps * step };
        TokenBucket { last, debt, ..self }
    }

    /// The first moment at or after `from` at which `cost` more permits fit. A later moment falls
    /// on a tick of the clock; see [`tick`].
    #[expect(clippy::inline_always, reason = "a reference to the bucket would force it into memory")]
    #[inline(always)]
    pub(crate) fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        let state = self.at(rule, from);
        let room = u64::from(rule.capacity().saturating_sub(cost)) * rule.permit();
        if state.debt <= room {
            return from;
        }
        let missing = state.debt - room;
        let steps = if rule.units() == 1 { missing } else { missing.div_ceil(rule.units()) };
        let nanos = state.last.saturating_add(steps.saturating_mul(rule.step()));
        let tick = tick(from);
        if tick == 1 { nanos } else { nanos.div_ceil(tick).saturating_mul(tick) }
    }

    /// The first moment at or after `from` at which `cost` permits fit behind `ahead` permits of
    /// other waiters.
    pub(crate) fn fits_behind(&self, rule: &Rule, from: u64, cost: u32, ahead: u64) -> u64 {
        let mut state = self.at(rule, from);
        state.debt = state.debt.saturating_add(ahead.saturating_mul(rule.permit())).min(u64::MAX / 2);
        state.earliest(rule, from, cost)
    }

    /// Takes `cost` permits at `at`.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn charge(&mut self, rule: &Rule, at: u64, cost: u32) {
        *self = TokenBucket { flow: (rule.units(), rule.step()), ..self.at(rule, at) };
        // A booking for the end of time may exceed what flows back by then.
        self.debt = self.debt.saturating_add(u64::from(cost).saturating_mul(rule.permit()));
    }

    /// Gives back `cost` permits taken at `at`, less what has flowed back since.
    ///
    /// Without those permits the bucket would now be fuller by at least cost − rate × elapsed, and
    /// by exactly that if it was full before. Giving back more could admit calls that would never
    /// have been admitted.
    pub(crate) fn refund(&mut self, rule: &Rule, now: u64, at: u64, cost: u32) {
        let now = now.max(self.last);
        *self = self.at(rule, now);
        self.debt = self.debt.saturating_sub(TokenBucket::back(rule, now, at, cost));
    }

    /// Units of `cost` permits, taken at `at`, that have not flowed back by `now`.
    pub(crate) fn back(rule: &Rule, now: u64, at: u64, cost: u32) -> u64 {
        let (units, permit, step) = (rule.units(), rule.permit(), rule.step());
        let flowed = now.saturating_sub(at).div_ceil(step).saturating_mul(units);
        u64::from(cost).saturating_mul(permit).saturating_sub(flowed)
    }

    /// Whole permits left at `from`.
    pub(crate) fn remaining(&self, rule: &Rule, from: u64) -> u32 {
        let missing = self.at(rule, from).debt.div_ceil(rule.permit());
        rule.capacity().saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// Permits missing at `now`, by `rule` if that limit changed the state last.
    pub(crate) fn permits_missing(&self, rule: &Rule, now: u64) -> u64 {
        let state = if self.unit == rule.permit() { self.at(rule, now) } else { *self };
        state.debt.div_ceil(state.unit.max(1))
    }

    /// When the bucket is full.
    pub(crate) fn fresh_at(&self, rule: &Rule) -> u64 {
        let (units, step) = (rule.units(), rule.step());
        if self.debt == 0 { 0 } else { self.last.saturating_add(self.debt.div_ceil(units).saturating_mul(step)) }
    }

    pub(crate) fn shift_back(&mut self, by: u64) {
        self.last = self.last.saturating_sub(by);
    }
}

/// Units of the rule, for times in nanoseconds, in one unit for times in microseconds; see
/// [`Rate::per_nano`](super::Rate::per_nano).
fn fine(rule: &Rule) -> u64 {
    rule.permit() / rule.rate.permit
}

/// The resolution of the clock that read `time`, in nanoseconds. A whole microsecond is taken for a
/// clock of microseconds, such as Redis's or a test's. A bucket that refills between two ticks can
/// be used from the later one on.
#[inline]
pub(crate) fn tick(time: u64) -> u64 {
    if time.is_multiple_of(1_000) { 1_000 } else { 1 }
}
