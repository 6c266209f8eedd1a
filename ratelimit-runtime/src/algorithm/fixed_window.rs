//! A counter per window; windows are aligned to the Unix epoch, or those of a calendar.

use super::{Rule, Span};

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
    /// When the window of `charged` ends, if it is a calendar's; else 0.
    pub(crate) end: u64,
}

impl FixedWindow {
    /// The first moment at or after `from` at which `cost` more permits fit. Not before the window
    /// of the last charge, which is later than `from` if the clock went back.
    pub(crate) fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        let from = from.max(rule.span(self.charged).begin);
        let room = u64::from(rule.capacity()).saturating_sub(u64::from(cost));
        if self.taken(rule, from) <= room { from } else { rule.span(from).end }
    }

    pub(crate) fn charge(&mut self, rule: &Rule, at: u64, cost: u32) {
        *self = FixedWindow::holding(rule, self.taken(rule, at) + u64::from(cost), at);
    }

    /// Gives back `cost` permits taken at `at`, if that window is still on record. A calendar's
    /// window that has ended by `now` is not: Redis does not know when it began.
    pub(crate) fn refund(&mut self, rule: &Rule, now: u64, at: u64, cost: u32) {
        let charged = rule.span(self.charged);
        if rule.span(at) == charged && !(rule.is_calendar() && charged.end <= now) {
            self.taken = self.taken.saturating_sub(u64::from(cost));
        }
    }

    /// `taken` permits, charged at `at`.
    pub(crate) fn holding(rule: &Rule, taken: u64, at: u64) -> FixedWindow {
        let mut window = FixedWindow { charged: at, taken, ..FixedWindow::default() };
        window.changed_by(rule);
        window
    }

    /// Records the limit of the last change.
    pub(crate) fn changed_by(&mut self, rule: &Rule) {
        self.per = rule.per();
        self.end = if rule.is_calendar() { rule.span(self.charged).end } else { 0 };
    }

    /// Permits taken in the window that contains `from`, for this limit.
    pub(crate) fn taken(&self, rule: &Rule, from: u64) -> u64 {
        if self.charged >= rule.span(from).begin { self.taken } else { 0 }
    }

    /// Permits taken in the window that contains `now`, for the limit that charged them.
    pub(crate) fn taken_by_itself(&self, now: u64) -> u64 {
        let counts = if self.end > 0 { now < self.end } else { self.charged >= begin(self.per, now) };
        if counts { self.taken } else { 0 }
    }

    /// When the window of the last charge ends.
    pub(crate) fn fresh_at(&self, rule: &Rule) -> u64 {
        if self.taken == 0 { 0 } else { rule.span(self.charged).end }
    }

    /// When neither this limit nor the one that charged the permits needs them any more.
    pub(crate) fn kept_until(&self, rule: &Rule) -> u64 {
        if self.taken == 0 {
            return 0;
        }
        let own = if self.end > 0 { self.end } else { begin(self.per, self.charged).saturating_add(self.per) };
        own.max(self.fresh_at(rule))
    }

    /// Moves the window back by as many whole windows as the clock went back, from `before` to
    /// `now`. A calendar's windows differ in length. Permits of the window that was current at
    /// `before` count in the current one, booked ones in the next, and older ones no longer.
    pub(crate) fn shift_back(&mut self, rule: Option<&Rule>, before: u64, now: u64) {
        if self.end > 0 {
            if self.end <= before {
                (self.charged, self.taken) = (0, 0);
            } else if let Some(rule) = rule.filter(|rule| rule.is_calendar()) {
                let Span { begin, end } = rule.span(now);
                if self.charged >= end {
                    let moved = self.charged.saturating_sub(before - now).max(begin);
                    self.charged = if self.charged > before { end } else { moved };
                    self.end = rule.span(self.charged).end;
                }
            } else {
                self.charged = self.charged.min(now);
            }
            return;
        }
        let by = begin(self.per, before).saturating_sub(begin(self.per, now));
        self.charged = self.charged.saturating_sub(by);
    }
}

/// The start of the window that contains `time`.
pub(crate) fn begin(per: u64, time: u64) -> u64 {
    time - time % per.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Algorithm, Limit};
    use std::time::Duration;

    #[test]
    fn permits_are_kept_until_the_windows_of_both_limits_end() {
        const SECOND: u64 = 1_000_000_000;
        let every = |seconds| {
            let limit = Limit::new(5, Duration::from_secs(seconds)).with_algorithm(Algorithm::FixedWindow);
            Rule::new(limit)
        };
        let window = FixedWindow::holding(&every(600), 1, 599 * SECOND);
        assert_eq!(window.kept_until(&every(600)), 600 * SECOND);
        assert_eq!(window.kept_until(&every(420)), 840 * SECOND);
        assert_eq!(window.kept_until(&every(1)), 600 * SECOND);
    }
}
