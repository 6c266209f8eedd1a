//! States of buckets: what the limits of one key have on record, and the one decision over all of them.
//!
//! A state never holds a time ahead of now: a call that waits is charged when it is due, not before.

mod fixed;
mod full;
mod tat;
mod window;
mod words;

use crate::algorithm::Rule;
use crate::algorithm::offences::{Backoff, Offences};
use crate::algorithm::token_bucket::TokenBucket;
use crate::clock::Now;
use crate::queue::Ahead;

pub(super) use full::{Forms, Full, Part};
pub(super) use tat::Tat;
pub(super) use window::{Groups, Window};
pub(super) use words::{Layout, Word, Words};

/// What the fast path has found out.
pub(crate) enum Attempt {
    Admitted,
    /// Until that time.
    Denied(u64),
    /// A permit was added to a word that was this before, which may have been too much.
    Added(u64),
    /// It takes more than that. Nothing has changed.
    Contended,
}

/// The answer to a call. Times are nanoseconds since the Unix epoch, whatever the state keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The permits are recorded with the time `at`.
    Admitted { at: u64 },
    /// By the limit at `position`, which would admit the same call at `until`, or [`NEVER`].
    Denied { until: u64, position: u8 },
    /// This form of the state cannot tell, and is unchanged.
    Undecided,
}

/// When a call is admitted whose cost is above the limit.
pub(crate) const NEVER: u64 = u64::MAX;

/// What a bucket has left, by the limit that has fewest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) remaining: u32,
    pub(crate) position: u8,
    /// When that limit is idle again.
    pub(crate) idle_at: u64,
}

/// What an eviction goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    /// A call for one permit would be denied.
    pub(super) is_denying: bool,
    pub(super) idle_at: u64,
}

/// Permits that were taken, as [`Call::give_back`] needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permit {
    /// The time that they are recorded with.
    pub(crate) at: u64,
    pub(crate) cost: u32,
}

/// What a call is judged by.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) rules: &'a [Rule],
    pub(crate) backoff: Option<&'a Backoff>,
    pub(crate) cost: u32,
}

/// The state of one bucket. `position` is that of a limit among the call's rules.
pub(super) trait State: Sized {
    /// What the form of the state depends on besides the call's rules: the limits as they were written down.
    type Form;

    /// A bucket that was never used.
    fn idle() -> Self;

    /// The latest time on record, before which nothing is recorded: the clock of another core may be a little behind.
    fn newest(&self) -> u64 {
        0
    }

    /// Makes the state one of these limits, if they have changed.
    fn prepare(&mut self, _: &Self::Form, _: &[Rule], _: Now) {}

    /// Whether the state can be judged at `now`.
    fn is_decidable(&self, form: &Self::Form, now: Now) -> bool;

    /// The first moment at which `cost` permits fit, at most the capacity; `now.earliest` or before if they do now.
    fn fits_at(&self, form: &Self::Form, position: usize, rule: &Rule, now: Now, cost: u32) -> u64;

    /// When `cost` permits fit if others are taken first; a lower bound if those cost differently.
    fn fits_behind(&self, form: &Self::Form, position: usize, rule: &Rule, now: Now, cost: u32, ahead: Ahead) -> u64;

    /// Records `cost` permits that fit, with the time `now.latest`.
    fn charge(&mut self, form: &Self::Form, position: usize, rule: &Rule, now: Now, cost: u32);

    /// Judges all limits of a call that takes something: the latest time from `until` on at which one of them fits, if one
    /// is later.
    #[inline]
    fn judge_all(&self, form: &Self::Form, call: &Call<'_>, now: Now, until: u64) -> Judged {
        let mut judged = Judged { until, position: None, newest: self.newest() };
        for (position, rule) in call.rules.iter().enumerate() {
            judged.add(position, rule, call.cost, || self.fits_at(form, position, rule, now, call.cost));
        }
        judged
    }

    /// [Charges](State::charge) all limits of a call.
    #[inline]
    fn charge_all(&mut self, form: &Self::Form, call: &Call<'_>, now: Now) {
        for (position, rule) in call.rules.iter().enumerate() {
            self.charge(form, position, rule, now, call.cost);
        }
    }

    /// Takes back what still counts of permits.
    fn refund(&mut self, form: &Self::Form, position: usize, rule: &Rule, now: Now, permit: Permit);

    /// Permits left of one limit.
    fn remaining(&self, form: &Self::Form, position: usize, rule: &Rule, now: Now) -> u32;

    /// When one limit is as if it had never been used.
    fn idle_at(&self, form: &Self::Form, position: usize, rule: &Rule) -> u64;

    /// A call was decided, and denied until then: of use to a state that cannot be judged by the limits as they were written
    /// down.
    #[inline]
    fn note(&mut self, _: &Call<'_>, _: &Self::Form, _: Now, _: u64) {}

    /// Whether states are idle at the time `by`, judged by the limits as they were written down: what many of them are asked,
    /// with the work that is the same for all done once.
    fn are_idle<'a>(form: &'a Self::Form, written: &'a [Rule], by: u64) -> impl Fn(&Self) -> bool + 'a {
        move |state| Call { rules: written, backoff: None, cost: 1 }.idle_at(state, form) <= by
    }

    /// When [`are_idle`](State::are_idle) is true of it.
    fn idle_by(&self, form: &Self::Form, written: &[Rule]) -> u64 {
        Call { rules: written, backoff: None, cost: 1 }.idle_at(self, form)
    }

    /// How much an eviction would forget.
    fn standing(&self, form: &Self::Form, written: &[Rule], now: Now) -> Standing {
        let call = Call { rules: written, backoff: None, cost: 1 };
        let is_denying = matches!(call.judge(self, form, now), Verdict::Denied { .. });
        Standing { is_denying, idle_at: call.idle_at(self, form) }
    }

    /// Denials in a row, of a limiter that counts them.
    fn offences(&mut self) -> Option<&mut Offences>;

    /// As [`offences`](State::offences).
    fn offended(&self) -> Offences;

    /// Permits by the one limit of a form, from 1 to the capacity: the fast path of [`Call::take`], with the same answers.
    #[inline]
    fn take_some(&mut self, form: &Self::Form, rule: &Rule, now: Now, cost: u32) -> Verdict {
        Call { rules: std::slice::from_ref(rule), backoff: None, cost }.take(self, form, now)
    }
}

/// What all limits say of a call.
#[derive(Clone, Copy)]
pub(super) struct Judged {
    until: u64,
    /// Of the limit that fits last, if that is after the time that was given.
    position: Option<usize>,
    newest: u64,
}

impl Judged {
    #[inline]
    fn add(&mut self, position: usize, rule: &Rule, cost: u32, fits_at: impl FnOnce() -> u64) {
        // Not a matter of time, even at the end of time.
        let (is_never, has_one) = (cost > rule.capacity(), self.position.is_some());
        let fits_at = if is_never { NEVER } else { fits_at() };
        if fits_at > self.until || is_never && !has_one {
            (self.until, self.position) = (fits_at, Some(position));
        }
    }
}

impl<'a> Call<'a> {
    fn of(rule: &'a Rule, cost: u32) -> Call<'a> {
        Call { rules: std::slice::from_ref(rule), backoff: None, cost }
    }

    /// Takes the call's permits from all limits, or from none.
    pub(super) fn take<S: State>(&self, state: &mut S, form: &S::Form, now: Now) -> Verdict {
        self.take_inline(state, form, now)
    }

    /// [`take`](Call::take) where most calls come by.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn take_inline<S: State>(&self, state: &mut S, form: &S::Form, now: Now) -> Verdict {
        state.prepare(form, self.rules, now);
        match self.judge_inline(state, form, now) {
            Verdict::Admitted { at } if self.cost > 0 => {
                self.charge(state, form, Now { latest: at, ..now });
                Verdict::Admitted { at }
            }
            // One that ends within this reading of the clock is asked again, and no offence.
            Verdict::Denied { until, position } if until != NEVER && until > now.latest => {
                let until = self.offend(state, now, until);
                state.note(self, form, now, until);
                Verdict::Denied { until, position }
            }
            other => other,
        }
    }

    /// Takes permits that fit, and records them with the time `now.latest`.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn charge<S: State>(&self, state: &mut S, form: &S::Form, now: Now) {
        state.charge_all(form, self, now);
        state.note(self, form, now, 0);
    }

    /// What [`take`](Call::take) would answer, without counting an offence.
    pub(super) fn judge<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Verdict {
        self.judge_inline(state, form, now)
    }

    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn judge_inline<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Verdict {
        if !state.is_decidable(form, now) {
            return Verdict::Undecided;
        }
        if self.cost == 0 {
            return Verdict::Admitted { at: now.latest.max(state.newest()) };
        }
        let mut blocked_until = now.earliest;
        if let Some(backoff) = self.backoff {
            let offences = state.offended();
            if offences.until > blocked_until && offences.fresh_at(backoff) > now.earliest {
                blocked_until = offences.until;
            }
        }
        let Judged { until, position, newest } = state.judge_all(form, self, now, blocked_until);
        if position.is_none() && until <= now.earliest {
            return Verdict::Admitted { at: now.latest.max(newest) };
        }
        let position = match position {
            Some(position) => position_u8(position),
            None if self.rules.len() == 1 => 0,
            None => self.left(state, form, now).position,
        };
        Verdict::Denied { until, position }
    }

    /// The first moment at which the call is admitted if no other is, or [`NEVER`]; `None` if this form cannot tell.
    pub(super) fn fits_at<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Option<u64> {
        match self.judge(state, form, now) {
            Verdict::Admitted { .. } => Some(now.earliest),
            Verdict::Denied { until, .. } => Some(until),
            Verdict::Undecided => None,
        }
    }

    /// Counts a denial where each blocks the key for longer; until when it is denied then.
    fn offend<S: State>(&self, state: &mut S, now: Now, until: u64) -> u64 {
        let (Some(backoff), Some(offences)) = (self.backoff, state.offences()) else { return until };
        offences.trim(backoff, now.earliest);
        offences.deny(backoff, now.earliest);
        until.max(offences.until)
    }

    /// What is left now.
    #[inline]
    pub(super) fn left<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Left {
        let [rule] = self.rules else { return self.least(state, form, now) };
        let (remaining, idle_at) = (state.remaining(form, 0, rule, now), state.idle_at(form, 0, rule));
        Left { remaining, position: 0, idle_at }
    }

    /// What the limit has left that has fewest.
    fn least<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Left {
        let left = |position: usize| state.remaining(form, position, &self.rules[position], now);
        let mut tightest = (0, left(0));
        for position in 1..self.rules.len() {
            let remaining = left(position);
            if remaining < tightest.1 {
                tightest = (position, remaining);
            }
        }
        let (position, remaining) = tightest;
        let idle_at = state.idle_at(form, position, &self.rules[position]);
        Left { remaining, position: position_u8(position), idle_at }
    }

    /// What a decision tells: the limit that denies, or the one that has fewest left.
    #[inline]
    pub(super) fn told<S: State>(&self, state: &S, form: &S::Form, now: Now, verdict: Verdict) -> Left {
        match verdict {
            Verdict::Admitted { .. } => self.left(state, form, now),
            // A limit that does not hold one permit has none.
            Verdict::Denied { position, .. } if self.cost == 1 && self.backoff.is_none() => {
                Left { remaining: 0, position, idle_at: 0 }
            }
            Verdict::Denied { position, .. } => {
                let index = usize::from(position);
                let remaining = state.remaining(form, index, &self.rules[index], now);
                Left { remaining, position, idle_at: 0 }
            }
            Verdict::Undecided => Left::default(),
        }
    }

    /// A moment at which the call can be admitted at the earliest, behind others: the moment itself if all cost the same and
    /// there is one limit.
    pub(super) fn fits_behind<S: State>(&self, state: &S, form: &S::Form, now: Now, ahead: Ahead) -> u64 {
        let behind = |(position, rule)| state.fits_behind(form, position, rule, now, self.cost, ahead);
        self.rules.iter().enumerate().map(behind).max().unwrap_or(now.earliest)
    }

    /// Takes back what still counts of the permits of an earlier call by the same limits.
    #[inline]
    pub(super) fn give_back<S: State>(&self, state: &mut S, form: &S::Form, now: Now, permit: Permit) {
        state.prepare(form, self.rules, now);
        for (position, rule) in self.rules.iter().enumerate() {
            state.refund(form, position, rule, now, permit);
        }
    }

    /// When all of the bucket is as if it had never been used.
    pub(super) fn idle_at<S: State>(&self, state: &S, form: &S::Form) -> u64 {
        let limits = self.rules.iter().enumerate().map(|(position, rule)| state.idle_at(form, position, rule)).max();
        let forgiven = self.backoff.map_or(0, |backoff| state.offended().fresh_at(backoff));
        limits.unwrap_or(0).max(forgiven)
    }
}

/// Permits of a token bucket.
#[expect(clippy::inline_always, reason = "most of a decision")]
#[inline(always)]
fn take_bucket(bucket: &mut TokenBucket, rule: &Rule, now: Now, cost: u32) -> Verdict {
    let until = bucket.earliest(rule, now.earliest, cost);
    if until > now.earliest {
        return Verdict::Denied { until, position: 0 };
    }
    bucket.charge(rule, rule.recorded(now), cost);
    Verdict::Admitted { at: now.latest }
}

#[expect(clippy::cast_possible_truncation, reason = "a limiter has at most 8 limits")]
fn position_u8(position: usize) -> u8 {
    position as u8
}

#[cfg(test)]
mod tests;
