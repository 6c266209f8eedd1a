//! A fixed window: the permits taken in the window of the last charge.

use crate::algorithm::Rule;

use super::{Permit, Verdict};
use crate::queue::Ahead;
use crate::rt::clock::Now;

/// Windows are aligned to the Unix epoch, or are a calendar's. The permits count in the window that
/// contains their last charge, so the count continues if the period differs from call to call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fixed {
    /// The time of the last charge.
    pub(crate) last: u64,
    pub(crate) taken: u32,
}

impl Fixed {
    /// The bits of a word that are left for a count beside the number of a window. 0 if the count
    /// does not fit.
    pub(super) fn bits(rule: &Rule) -> u32 {
        let bits = rule.window(u64::MAX).leading_zeros();
        if bits > 0 && u64::from(rule.limit.count()) >> bits == 0 { bits } else { 0 }
    }

    #[inline]
    pub(super) fn from_word(rule: &Rule, bits: u32, word: u64) -> Fixed {
        #[expect(clippy::cast_possible_truncation, reason = "a count fits into the bits, see `bits`")]
        let taken = (word & ((1 << bits) - 1)) as u32;
        Fixed { last: (word >> bits).saturating_mul(rule.per()), taken }
    }

    #[inline]
    pub(super) fn to_word(self, rule: &Rule, bits: u32) -> u64 {
        rule.window(self.last) << bits | u64::from(self.taken)
    }

    /// The permits taken in the window of `now`. A clock that is behind counts as standing still.
    #[inline]
    fn taken(self, rule: &Rule, now: u64) -> u32 {
        if rule.is_calendar() {
            return if self.last >= rule.span(now).begin { self.taken } else { 0 };
        }
        if self.last >= now || now - rule.window(self.last) * rule.per() < rule.per() { self.taken } else { 0 }
    }

    #[inline]
    pub(super) fn fits_at(self, rule: &Rule, now: u64, cost: u32) -> u64 {
        if u64::from(self.taken(rule, now)) + u64::from(cost) <= u64::from(rule.capacity()) {
            return now;
        }
        end(rule, now.max(self.last))
    }

    pub(super) fn fits_behind(self, rule: &Rule, now: u64, cost: u32, ahead: Ahead) -> u64 {
        let (step, calls) = ahead.steps(cost);
        let (capacity, left) = (rule.capacity() / step.max(1), self.remaining(rule, now) / step.max(1));
        match (calls.checked_sub(left.into()), u64::from(capacity)) {
            (None | Some(0), _) => now,
            (_, 0) => super::NEVER,
            (Some(behind), capacity) => {
                let windows = (behind - 1) / capacity + 1;
                rule.begin_after(now.max(self.last), windows)
            }
        }
    }

    #[inline]
    pub(super) fn charge(&mut self, rule: &Rule, now: u64, cost: u32) {
        let taken = self.taken(rule, now);
        *self = Fixed { last: now.max(self.last), taken: taken.saturating_add(cost) };
    }

    #[inline]
    pub(super) fn take(&mut self, rule: &Rule, now: Now, cost: u32) -> Verdict {
        let taken = self.taken(rule, now.earliest);
        if u64::from(taken) + u64::from(cost) > u64::from(rule.capacity()) {
            return Verdict::Denied { until: self.fits_at(rule, now.earliest, cost), position: 0 };
        }
        *self = Fixed { last: now.earliest.max(self.last), taken: taken + cost };
        Verdict::Admitted { at: now.latest }
    }

    /// Gives permits back if their window is still on record.
    pub(super) fn refund(&mut self, rule: &Rule, permit: Permit) {
        let is_same = if rule.is_calendar() {
            rule.span(permit.at) == rule.span(self.last)
        } else {
            rule.window(permit.at) == rule.window(self.last)
        };
        if is_same {
            self.taken = self.taken.saturating_sub(permit.cost);
        }
    }

    pub(super) fn remaining(self, rule: &Rule, now: u64) -> u32 {
        rule.capacity().saturating_sub(self.taken(rule, now))
    }

    /// When the window on record ends.
    pub(super) fn end(self, rule: &Rule) -> u64 {
        end(rule, self.last)
    }

    /// The same permits, with the last charge as late as the window and the clock allow.
    pub(super) fn as_late_as_possible(self, rule: &Rule, now: u64) -> Fixed {
        Fixed { last: self.last.max(now.min(self.end(rule) - 1)), ..self }
    }

    pub(super) fn idle_at(self, rule: &Rule) -> u64 {
        if self.taken == 0 { 0 } else { self.end(rule) }
    }

    /// The fast path of a word: `cost` permits, from 1 to the capacity. Computes the number of a
    /// window only if it is a new one.
    #[inline]
    pub(super) fn take_in(word: &mut u64, rule: &Rule, bits: u32, now: u64, cost: u32) -> Result<(), u64> {
        let on_record = *word >> bits;
        if now.saturating_sub(on_record * rule.per()) >= rule.per() {
            *word = rule.window(now) << bits | u64::from(cost);
            return Ok(());
        }
        if (*word & ((1 << bits) - 1)) + u64::from(cost) > u64::from(rule.capacity()) {
            return Err((on_record + 1).saturating_mul(rule.per()));
        }
        *word += u64::from(cost);
        Ok(())
    }

    /// The permits left of a word, and when it is idle.
    #[inline]
    pub(super) fn left_in(word: u64, rule: &Rule, bits: u32, now: u64) -> (u32, u64) {
        let on_record = word >> bits;
        #[expect(clippy::cast_possible_truncation, reason = "a count fits into the bits, see `bits`")]
        let taken = (word & ((1 << bits) - 1)) as u32;
        let live = if on_record < rule.window(now) { 0 } else { taken };
        let idle_at = if taken == 0 { 0 } else { (on_record + 1).saturating_mul(rule.per()) };
        (rule.capacity().saturating_sub(live), idle_at)
    }
}

/// When the window that contains `time` ends.
#[inline]
fn end(rule: &Rule, time: u64) -> u64 {
    if rule.is_calendar() {
        return rule.span(time).end;
    }
    (rule.window(time) + 1).saturating_mul(rule.per())
}
