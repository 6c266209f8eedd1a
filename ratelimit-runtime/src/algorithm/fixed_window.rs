//! A counter per window; windows are aligned to the Unix epoch.

use super::Rule;
use super::groups::{Group, Groups};

/// Counters of the current window and of later ones into which permits are booked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FixedWindow {
    /// The period that the windows on record have: another one starts anew.
    pub(crate) per: u64,
    /// One group a window, at the time at which the window begins.
    pub(crate) groups: Groups,
}

impl FixedWindow {
    pub(crate) fn trim(&mut self, rule: &Rule, now: u64) {
        if self.per != rule.per() {
            *self = FixedWindow { per: rule.per(), groups: Groups::default() };
        }
        if let Some(last_of_before) = self.begin(now).checked_sub(1) {
            self.groups.drop_until(last_of_before);
        }
    }

    /// The first moment at or after `from` at which `cost` more permits fit. No permit on record is in a later window.
    pub(crate) fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        let room = u64::from(rule.capacity()).saturating_sub(u64::from(cost));
        if self.taken(from) <= room { from } else { self.begin(from).saturating_add(self.per) }
    }

    pub(crate) fn charge(&mut self, at: u64, cost: u32) {
        let begin = self.begin(at);
        match self.groups.last() {
            // A later window on record is possible only where another limit of the call holds less than this one.
            Some(last) if last.at >= begin => self.groups.extend_last(last.at, u64::from(cost)),
            _ => self.groups.push(Group { at: begin, permits: u64::from(cost) }),
        }
    }

    /// Keeps the number of windows bounded; returns the time before which nothing may be admitted from now on.
    pub(crate) fn bound(&mut self, at: u64) -> Option<u64> {
        let expired = self.begin(at).saturating_sub(1);
        self.groups.bound(expired).map(|dropped| dropped.saturating_add(self.per))
    }

    /// Takes back the newest charge.
    pub(crate) fn undo(&mut self, cost: u32) {
        if let Some(last) = self.groups.last() {
            self.groups.shrink_last(last.at, u64::from(cost));
        }
    }

    /// Gives back `cost` permits that were taken at `at`, if that window is still on record.
    pub(crate) fn refund(&mut self, at: u64, cost: u32) {
        let begin = self.begin(at);
        if self.groups.iter().any(|group| group.at == begin) {
            self.groups.take_from(begin, u64::from(cost));
        }
    }

    /// Permits taken in the window of `from`.
    pub(crate) fn taken(&self, from: u64) -> u64 {
        self.groups.last().filter(|last| last.at >= self.begin(from)).map_or(0, |last| last.permits)
    }

    /// When the last window on record is over.
    pub(crate) fn fresh_at(&self) -> u64 {
        self.groups.last().map_or(0, |last| last.at.saturating_add(self.per))
    }

    /// Moves the windows back by as many whole windows as the clock went back, from `before` to `now`.
    pub(crate) fn shift_back(&mut self, before: u64, now: u64) {
        self.groups.shift_back(self.begin(before).saturating_sub(self.begin(now)));
    }

    fn begin(&self, time: u64) -> u64 {
        time - time % self.per.max(1)
    }
}
