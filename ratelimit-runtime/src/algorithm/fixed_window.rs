//! A counter per window; windows are aligned to the Unix epoch.

use super::Rule;

/// Permits taken in the window of the last charge. After a change of period, they count in the new
/// window that contains that charge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FixedWindow {
    /// The period at the last change.
    pub(crate) per: u64,
    /// When permits were last taken, or are booked for.
    pub(crate) charged: u64,
    /// Permits taken in the window of `charged`.
    pub(crate) taken: u64,
}

impl FixedWindow {
    /// The first moment at or after `from` at which `cost` more permits fit. Not before the window
    /// of the last charge, which is later than `from` if the clock went back.
    pub(crate) fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        let from = from.max(begin(rule.per(), self.charged));
        let room = u64::from(rule.capacity()).saturating_sub(u64::from(cost));
        if self.taken(rule.per(), from) <= room { from } else { begin(rule.per(), from).saturating_add(rule.per()) }
    }

    pub(crate) fn charge(&mut self, rule: &Rule, at: u64, cost: u32) {
        let taken = self.taken(rule.per(), at) + u64::from(cost);
        *self = FixedWindow { per: rule.per(), charged: at, taken };
    }

    /// Gives back `cost` permits taken at `at`, if that window is still on record.
    pub(crate) fn refund(&mut self, rule: &Rule, at: u64, cost: u32) {
        if begin(rule.per(), at) == begin(rule.per(), self.charged) {
            self.taken = self.taken.saturating_sub(u64::from(cost));
        }
    }

    /// Permits taken in the window that contains `from`, for this period.
    pub(crate) fn taken(&self, per: u64, from: u64) -> u64 {
        if self.charged >= begin(per, from) { self.taken } else { 0 }
    }

    /// When the window of the last charge ends.
    pub(crate) fn fresh_at(&self, per: u64) -> u64 {
        if self.taken == 0 { 0 } else { begin(per, self.charged).saturating_add(per) }
    }

    /// Moves the window back by as many whole windows as the clock went back, from `before` to
    /// `now`.
    pub(crate) fn shift_back(&mut self, before: u64, now: u64) {
        let by = begin(self.per, before).saturating_sub(begin(self.per, now));
        self.charged = self.charged.saturating_sub(by);
    }
}

/// The start of the window that contains `time`.
pub(crate) fn begin(per: u64, time: u64) -> u64 {
    time - time % per.max(1)
}
