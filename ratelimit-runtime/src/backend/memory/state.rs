//! States of buckets: the permits on record for one key, and the single decision over all its
//! limits.
//!
//! A state never holds a time later than the one at which it is judged. A waiting call is charged
//! when it is due, not before. A state in debt is judged as of the end of the debt.

mod fixed;
mod full;
mod operation;
mod stored;
mod tat;
mod window;
mod words;

use super::holds::Hold;
use crate::algorithm::Rule;
use crate::algorithm::offences::{Backoff, Offences};
use crate::algorithm::record::LONGEST_DEBT;
use crate::algorithm::token_bucket::TokenBucket;
use crate::limit::Algorithm;
use crate::queue::Ahead;
use crate::rt::clock::Now;

pub(super) use full::{Forms, Full, Judged, Part};
pub(super) use operation::{Operation, Peek, Refund, Take, Together, is_admitted};
pub(super) use stored::{Entry, Moment, Stored};
pub(super) use tat::Tat;
pub(super) use window::{Groups, Window};
pub(super) use words::{Layout, Word, Words};

/// The outcome of the fast path.
pub(crate) enum Attempt {
    Admitted,
    /// Denied until this time.
    Denied(u64),
    /// A permit was added to a word with this previous value. It may exceed the limit.
    Added(u64),
    /// The slow path has to decide. Nothing has changed.
    Contended,
}

/// The answer to a call. Times are nanoseconds since the Unix epoch, in whatever unit the state
/// keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The permits are recorded with the time `at`.
    Admitted { at: u64 },
    /// The limit at `position` denies the call. It would admit the same call at `until`, or
    /// [`NEVER`].
    Denied { until: u64, position: u8 },
    /// This form of the state cannot decide, and is unchanged.
    Undecided,
}

impl From<Verdict> for Attempt {
    #[inline]
    fn from(verdict: Verdict) -> Attempt {
        match verdict {
            Verdict::Admitted { .. } => Attempt::Admitted,
            Verdict::Denied { until, .. } => Attempt::Denied(until),
            Verdict::Undecided => Attempt::Contended,
        }
    }
}

/// The outcome of a call on several buckets, for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// All buckets admit the call.
    Charged,
    Denied,
    /// A bucket could not be reached or decided. Nothing has changed.
    Unknown,
}

/// The time at which a call with a cost above the limit is admitted.
pub(crate) const NEVER: u64 = u64::MAX;

/// Not decided here. If no path decides a call, which cannot happen, its limiter fails closed.
pub(crate) const UNDECIDED: (Verdict, Left) =
    (Verdict::Undecided, Left { remaining: 0, position: 0, is_blocked: false, idle_at: 0 });

/// The permits left in a bucket, by the limit with the fewest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) remaining: u32,
    pub(crate) position: u8,
    /// The call was denied because its key is blocked or banned.
    pub(crate) is_blocked: bool,
    /// When this limit is idle again.
    pub(crate) idle_at: u64,
}

/// The criteria of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    /// A call for one permit would be denied.
    pub(super) is_denying: bool,
    pub(super) idle_at: u64,
}

/// Taken permits, in the form that [`Call::give_back`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permit {
    /// The time that the permits are recorded with.
    pub(crate) at: u64,
    pub(crate) cost: u32,
}

/// The rules and the cost of a call.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) rules: &'a [Rule],
    pub(crate) backoff: Option<&'a Backoff>,
    pub(crate) cost: u32,
    /// The key's block or debt. Nothing is admitted before it ends.
    pub(crate) floor: Hold,
}

/// The state of one bucket. `position` is the index of a limit among the call's rules.
pub(super) trait State: Sized {
    /// What the form of the state depends on besides the call's rules: the limits as written.
    type Form;

    /// An idle bucket.
    fn idle() -> Self;

    /// The latest time on record. Nothing is recorded before it, because the clock of another core
    /// may be a little behind.
    fn newest(&self) -> u64 {
        0
    }

    /// Converts the state to these limits, if they have changed.
    fn prepare(&mut self, _: &Self::Form, _: &[Rule], _: Now) {}

    /// Whether the state can be judged at `now`.
    fn is_decidable(&self, form: &Self::Form, now: Now) -> bool;

    /// The first moment at which `cost` permits, at most the capacity, fit. `now.earliest` or
    /// before if they fit now.
    fn fits_at(&self, form: &Self::Form, position: usize, rule: &Rule, now: Now, cost: u32) -> u64;

    /// When `cost` permits fit after others are taken. A lower bound if the others have another
    /// cost.
    fn fits_behind(&self, form: &Self::Form, position: usize, rule: &Rule, now: Now, cost: u32, ahead: Ahead) -> u64;

    /// Records `cost` permits that fit, at the time `now.latest`.
    fn charge(&mut self, form: &Self::Form, position: usize, rule: &Rule, now: Now, cost: u32);

    /// Takes back permits, as far as they still count.
    fn refund(&mut self, form: &Self::Form, position: usize, rule: &Rule, now: Now, permit: Permit);

    /// The permits left of one limit, and when it is idle. Of a token bucket, by the end of this
    /// reading of the clock: the charge of a call is recorded as of that time, and a call that is
    /// denied for less is repeated.
    fn left(&self, form: &Self::Form, position: usize, rule: &Rule, now: Now) -> (u32, u64);

    /// The permits left of one limit.
    fn remaining(&self, form: &Self::Form, position: usize, rule: &Rule, now: Now) -> u32 {
        self.left(form, position, rule, now).0
    }

    /// When one limit is idle.
    fn idle_at(&self, form: &Self::Form, position: usize, rule: &Rule) -> u64;

    /// Records that a call was decided, and denied until the last argument. Used by a state that
    /// cannot be judged by the limits as written.
    #[inline]
    fn note(&mut self, _: &Call<'_>, _: &Self::Form, _: Now, _: u64) {}

    /// Whether states are idle at the time `by`, judged by the limits as written. Callers check
    /// many states, so shared work is done once.
    fn are_idle<'a>(form: &'a Self::Form, written: &'a [Rule], by: u64) -> impl Fn(&Self) -> bool + 'a {
        move |state| Call { rules: written, backoff: None, cost: 1, floor: Hold::NONE }.idle_at(state, form) <= by
    }

    /// When [`are_idle`](State::are_idle) becomes true of the state.
    fn idle_by(&self, form: &Self::Form, written: &[Rule]) -> u64 {
        Call { rules: written, backoff: None, cost: 1, floor: Hold::NONE }.idle_at(self, form)
    }

    /// How much an eviction would lose.
    fn standing(&self, form: &Self::Form, written: &[Rule], now: Now) -> Standing {
        let call = Call { rules: written, backoff: None, cost: 1, floor: Hold::NONE };
        let is_denying = matches!(call.judge(self, form, now), Verdict::Denied { .. });
        Standing { is_denying, idle_at: call.idle_at(self, form) }
    }

    /// The consecutive denials, if the limiter counts them.
    fn offences(&mut self) -> Option<&mut Offences>;

    /// [`offences`](State::offences), read only.
    fn offended(&self) -> Offences;

    /// The fast path of [`Call::take`], with the same answers, and of a denial what the limit that
    /// denies has left. [`Verdict::Undecided`] leaves the call to the other path; then nothing has
    /// changed.
    #[inline]
    fn take_all(&mut self, _: &Self::Form, _: &Call<'_>, _: Now) -> (Verdict, Left) {
        UNDECIDED
    }
}

impl Call<'_> {
    /// Whether the call takes permits, and no more than each limit has.
    #[inline]
    fn is_possible(&self) -> bool {
        self.cost > 0 && self.rules.iter().all(|rule| self.cost <= rule.capacity())
    }

    /// [`take`](Call::take), and what is left of a denied call, or if it `wants_left`.
    #[inline(never)]
    pub(super) fn take_with_left<S: State>(
        &self,
        state: &mut S,
        form: &S::Form,
        now: Now,
        wants_left: bool,
    ) -> (Verdict, Left) {
        let was_banned = self.is_banned(state, now);
        let verdict = self.take(state, form, now);
        let shows_left = wants_left || matches!(verdict, Verdict::Denied { .. });
        (verdict, if shows_left { self.left_after(state, form, now, verdict, was_banned) } else { Left::default() })
    }

    /// Takes the call's permits from all limits, or from none. Nothing holds the key.
    pub(super) fn take<S: State>(&self, state: &mut S, form: &S::Form, now: Now) -> Verdict {
        self.take_inline::<S, false>(state, form, now)
    }

    /// [`take`](Call::take), behind the call's floor.
    pub(super) fn take_behind_floor<S: State>(&self, state: &mut S, form: &S::Form, now: Now) -> Verdict {
        self.take_inline::<S, true>(state, form, now)
    }

    /// [`take`](Call::take), inlined for the hot callers. The floor is looked at if `HELD`.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn take_inline<S: State, const HELD: bool>(&self, state: &mut S, form: &S::Form, now: Now) -> Verdict {
        state.prepare(form, self.rules, if HELD { self.as_of(now) } else { now });
        match self.judge_inline::<S, HELD>(state, form, now) {
            Verdict::Admitted { at } if self.cost > 0 => {
                self.charge(state, form, Now { latest: at, ..now });
                Verdict::Admitted { at }
            }
            // A denial that ends within this reading of the clock is retried and is no offence.
            // Neither is a call on a blocked key.
            Verdict::Denied { until, position }
                if until != NEVER && until > now.latest && !(HELD && self.floor.is_blocked(now)) =>
            {
                let until = if self.cost > 0 { self.offend(state, now, until) } else { until };
                state.note(self, form, now, until);
                Verdict::Denied { until, position }
            }
            other => other,
        }
    }

    /// Ends a call on several buckets in this one, which has judged it: charges it, or counts the
    /// denial if this bucket denies.
    pub(super) fn held<S: State>(
        &self,
        state: &mut S,
        form: &S::Form,
        now: Now,
        judged: Verdict,
        fate: Fate,
    ) -> Verdict {
        match (fate, judged) {
            (Fate::Unknown, _) | (_, Verdict::Undecided) => Verdict::Undecided,
            (Fate::Charged, Verdict::Admitted { at }) => {
                if self.cost > 0 {
                    self.charge(state, form, Now { latest: at, ..now });
                }
                judged
            }
            (Fate::Denied, Verdict::Denied { .. }) => self.take_behind_floor(state, form, now),
            (_, judged) => judged,
        }
    }

    /// Takes permits that fit, and records them at the time `now.latest`.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn charge<S: State>(&self, state: &mut S, form: &S::Form, now: Now) {
        for (position, rule) in self.rules.iter().enumerate() {
            state.charge(form, position, rule, now, self.cost);
        }
        state.note(self, form, now, 0);
    }

    /// The answer of [`take`](Call::take), without counting an offence.
    pub(super) fn judge<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Verdict {
        self.judge_inline::<S, false>(state, form, now)
    }

    /// The answer of [`take_behind_floor`](Call::take_behind_floor), without counting an offence.
    pub(super) fn judge_behind_floor<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Verdict {
        self.judge_inline::<S, true>(state, form, now)
    }

    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn judge_inline<S: State, const HELD: bool>(&self, state: &S, form: &S::Form, now: Now) -> Verdict {
        let as_of = if HELD { self.as_of(now) } else { now };
        if !state.is_decidable(form, as_of) {
            return Verdict::Undecided;
        }
        if self.cost == 0 {
            return self.judge_nothing::<S, HELD>(state, form, now);
        }
        let mut blocked_until = as_of.earliest;
        if HELD {
            blocked_until = blocked_until.max(self.floor.blocked_until);
        }
        if let Some(backoff) = self.backoff {
            let offences = state.offended();
            if offences.until > blocked_until && offences.fresh_at(backoff) > now.earliest {
                blocked_until = offences.until;
            }
        }
        // The latest time at which a limit fits, and that limit.
        let (mut until, mut position) = (as_of.earliest, None);
        for (index, rule) in self.rules.iter().enumerate() {
            let is_never = self.cost > rule.capacity();
            let fits_at = if is_never { NEVER } else { state.fits_at(form, index, rule, as_of, self.cost) };
            // Never, not even at the last time that can be represented.
            if fits_at > until || is_never && position.is_none() {
                (until, position) = (fits_at, Some(index));
            }
        }
        // A limit that holds the call back as long is the one to tell.
        if (HELD || self.backoff.is_some()) && blocked_until > until {
            (until, position) = (blocked_until, None);
        }
        if position.is_none() && until <= now.earliest {
            return Verdict::Admitted { at: now.latest.max(state.newest()) };
        }
        let position = match position {
            Some(position) => position_u8(position),
            None if self.rules.len() == 1 => 0,
            None => self.left(state, form, as_of).position,
        };
        Verdict::Denied { until, position }
    }

    /// The verdict on a call of cost 0, which only a block or a ban denies.
    fn judge_nothing<S: State, const HELD: bool>(&self, state: &S, form: &S::Form, now: Now) -> Verdict {
        if !(HELD && self.floor.is_blocked(now) || self.is_banned(state, now)) {
            return Verdict::Admitted { at: now.latest.max(state.newest()) };
        }
        let banned_until = if self.is_banned(state, now) { state.offended().until } else { 0 };
        let until = self.floor.blocked_until.max(banned_until);
        Verdict::Denied { until, position: self.left(state, form, self.as_of(now)).position }
    }

    /// The time as of which the limits are judged: the end of a debt.
    #[inline]
    fn as_of(&self, now: Now) -> Now {
        now.at_least(self.floor.owed_until)
    }

    /// Whether a ban denies the call, whatever its limits say.
    #[inline]
    pub(super) fn is_banned<S: State>(&self, state: &S, now: Now) -> bool {
        self.backoff.is_some_and(|backoff| backoff.is_ban() && state.offended().are_banned(backoff, now.earliest))
    }

    /// The first moment at which the call is admitted if no other call is, or [`NEVER`]. `None` if
    /// this form cannot decide.
    pub(super) fn fits_at<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Option<u64> {
        match self.judge(state, form, now) {
            Verdict::Admitted { .. } => Some(now.earliest),
            Verdict::Denied { until, .. } => Some(until),
            Verdict::Undecided => None,
        }
    }

    /// Counts a denial if the limiter has a `backoff`. Returns the time until which the call is
    /// then denied.
    fn offend<S: State>(&self, state: &mut S, now: Now, until: u64) -> u64 {
        let (Some(backoff), Some(offences)) = (self.backoff, state.offences()) else { return until };
        offences.trim(backoff, now.earliest);
        offences.deny(backoff, now.earliest);
        until.max(offences.until)
    }

    /// The permits left now.
    #[inline]
    pub(super) fn left<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Left {
        let [rule] = self.rules else { return self.least(state, form, now) };
        let (remaining, idle_at) = state.left(form, 0, rule, now);
        Left { remaining, position: 0, idle_at, ..Left::default() }
    }

    /// The permits left of the limit with the fewest.
    fn least<S: State>(&self, state: &S, form: &S::Form, now: Now) -> Left {
        let mut least = Left { remaining: u32::MAX, ..Left::default() };
        for (position, rule) in self.rules.iter().enumerate() {
            let (remaining, idle_at) = state.left(form, position, rule, now);
            if position == 0 || remaining < least.remaining {
                least = Left { remaining, position: position_u8(position), idle_at, ..least };
            }
        }
        least
    }

    /// What a decision reports: the limit that denies, or the limit with the fewest permits left.
    /// `was_banned`: before the call.
    #[inline]
    pub(super) fn left_after<S: State>(
        &self,
        state: &S,
        form: &S::Form,
        now: Now,
        verdict: Verdict,
        was_banned: bool,
    ) -> Left {
        match verdict {
            Verdict::Admitted { .. } => self.left(state, form, now),
            // A limit that cannot admit one permit has none left.
            Verdict::Denied { position, .. } if self.cost == 1 && self.backoff.is_none() => {
                Left { position, ..Left::default() }
            }
            Verdict::Denied { position, .. } => self.left_of(state, form, position, now, was_banned),
            Verdict::Undecided => Left::default(),
        }
    }

    fn left_of<S: State>(&self, state: &S, form: &S::Form, position: u8, now: Now, is_blocked: bool) -> Left {
        let index = usize::from(position);
        let remaining = state.remaining(form, index, &self.rules[index], now);
        Left { remaining, position, is_blocked, idle_at: 0 }
    }

    /// [`left_after`](Call::left_after), behind the call's floor.
    pub(super) fn left_behind_floor<S: State>(
        &self,
        state: &S,
        form: &S::Form,
        now: Now,
        verdict: Verdict,
        was_banned: bool,
    ) -> Left {
        let as_of = self.as_of(now);
        let mut left = match verdict {
            Verdict::Denied { position, .. } if self.floor.is_blocked(now) => {
                self.left_of(state, form, position, as_of, true)
            }
            verdict => self.left_after(state, form, as_of, verdict, was_banned),
        };
        // A bucket in debt has nothing left.
        if self.floor.owed_until > now.earliest {
            left.remaining = 0;
        }
        left
    }

    /// The earliest moment at which the call can be admitted behind others. Exact if all calls have
    /// the same cost and there is one limit; otherwise a lower bound.
    pub(super) fn fits_behind<S: State>(&self, state: &S, form: &S::Form, now: Now, ahead: Ahead) -> u64 {
        let now = now.at_least(self.floor.until());
        let behind = |(position, rule)| state.fits_behind(form, position, rule, now, self.cost, ahead);
        self.rules.iter().enumerate().map(behind).max().unwrap_or(now.earliest)
    }

    /// Takes back the permits of an earlier call by the same limits, as far as they still count.
    #[expect(clippy::inline_always, reason = "most of a refund")]
    #[inline(always)]
    pub(super) fn give_back<S: State>(&self, state: &mut S, form: &S::Form, now: Now, permit: Permit) {
        state.prepare(form, self.rules, now);
        for (position, rule) in self.rules.iter().enumerate() {
            // A debt drops groups that expire before its end, and the next one holds other permits.
            let is_window = rule.limit.algorithm() == Algorithm::SlidingWindow;
            if !(is_window && permit.at.saturating_add(rule.per()) <= self.floor.owed_until) {
                state.refund(form, position, rule, now, permit);
            }
        }
    }

    /// Charges the call's permits to each limit separately, whatever is left. What fits is charged
    /// now, the rest as early as it fits, at most [`LONGEST_DEBT`] ahead. Returns the time of the
    /// last charge. `None` if this form cannot hold it.
    pub(super) fn owe<S: State>(&self, state: &mut S, form: &S::Form, now: Now) -> Option<u64> {
        let latest = now.latest.saturating_add(LONGEST_DEBT);
        let as_of = self.as_of(now);
        if !state.is_decidable(form, as_of) || !state.is_decidable(form, Now::exactly(latest)) {
            return None;
        }
        state.prepare(form, self.rules, as_of);
        let as_of = as_of.at_least_recorded(state.newest());
        let mut end = as_of.earliest;
        for (position, rule) in self.rules.iter().enumerate() {
            end = end.max(self.owe_one(state, form, position, rule, as_of, latest));
        }
        state.note(self, form, Now::exactly(end.max(now.latest)), if end > now.earliest { end } else { 0 });
        Some(end)
    }

    /// See [`owe`](Call::owe). Charges the rest of the last bucketful, then whole bucketfuls at
    /// equal intervals, so only the last one is on record in the end.
    fn owe_one<S: State>(
        &self,
        state: &mut S,
        form: &S::Form,
        position: usize,
        rule: &Rule,
        as_of: Now,
        latest: u64,
    ) -> u64 {
        let capacity = rule.capacity();
        if capacity == 0 {
            return as_of.earliest;
        }
        let recorded = |at: u64| Now { earliest: at, latest: at.max(as_of.latest) };
        let (mut now, mut left) = (as_of, self.cost);
        if left > 0 && state.fits_at(form, position, rule, now, 1) <= now.earliest {
            let fits = state.remaining(form, position, rule, Now::exactly(now.earliest)).min(left);
            if fits > 0 {
                state.charge(form, position, rule, now, fits);
            }
            left -= fits;
        }
        let (portion, mut bucketfuls) = (left % capacity, left / capacity);
        if portion > 0 {
            let at = state.fits_at(form, position, rule, now, portion);
            if at > latest {
                return now.earliest;
            }
            now = recorded(at);
            state.charge(form, position, rule, now, portion);
        }
        if bucketfuls > 0 {
            let first = state.fits_at(form, position, rule, now, capacity);
            if first > latest {
                return now.earliest;
            }
            now = recorded(first);
            state.charge(form, position, rule, now, capacity);
            bucketfuls -= 1;
        }
        if bucketfuls > 0 {
            let first = now.earliest;
            let interval = state.fits_at(form, position, rule, now, capacity).saturating_sub(first);
            let last = rule.later(first, interval, bucketfuls.into(), latest);
            if last > first {
                now = recorded(last);
                state.charge(form, position, rule, now, capacity);
            }
        }
        now.earliest
    }

    /// When the whole bucket is idle.
    pub(super) fn idle_at<S: State>(&self, state: &S, form: &S::Form) -> u64 {
        let limits = self.rules.iter().enumerate().map(|(position, rule)| state.idle_at(form, position, rule)).max();
        let forgiven = self.backoff.map_or(0, |backoff| state.offended().fresh_at(backoff));
        limits.unwrap_or(0).max(forgiven)
    }
}

/// Takes permits from a token bucket.
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
