//! The exact sliding window in bounded memory.
//!
//! A full log keeps the time of every admitted permit and counts those younger than `per`. This one keeps the permits in
//! groups of g = ⌈count / 64⌉, each with the time of its *last* permit, and a group leaves when its last permit does. A
//! permit is so counted for at least as long as the log would count it: never is one admitted that the log denies. What
//! can be held back longer are the earlier permits of the one group that is just leaving, g − 1 at the most; for a
//! `count` up to 64 that is none, and the answers are the log's own.

use super::Rule;
use super::groups::{Group, Groups};

/// Permits admitted less than `per` ago, and those booked ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlidingWindow {
    pub(crate) groups: Groups,
}

impl SlidingWindow {
    /// Forgets what is older than `per` at the real time `now`; what a booking will push out stays until then.
    pub(crate) fn trim(&mut self, rule: &Rule, now: u64) {
        if let Some(expired) = now.checked_sub(rule.per()) {
            self.groups.drop_until(expired);
        }
    }

    /// The first moment at or after `from` at which `cost` more permits fit. No permit on record is later than `from`,
    /// and `cost` is at most `count`.
    pub(crate) fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        let room = u64::from(rule.capacity()).saturating_sub(u64::from(cost));
        let mut taken = self.taken(rule, from);
        if taken <= room {
            return from;
        }
        for group in self.groups.iter() {
            let end = group.at.saturating_add(rule.per());
            if end > from {
                taken -= group.permits;
                if taken <= room {
                    return end;
                }
            }
        }
        from
    }

    /// Records `cost` permits at `at`; returns the time that the newest group had before, for [`undo`](Self::undo).
    pub(crate) fn charge(&mut self, rule: &Rule, at: u64, cost: u32) -> u64 {
        let permits = u64::from(cost);
        match self.groups.last() {
            Some(last) if last.at == at || last.permits < u64::from(rule.group) => {
                self.groups.extend_last(at, permits);
                last.at
            }
            _ => {
                self.groups.push(Group { at, permits });
                at
            }
        }
    }

    /// Keeps the number of groups bounded; see [`Groups::bound`]. Returns the time before which nothing may be admitted
    /// from now on, because permits that would count by then were forgotten.
    pub(crate) fn bound(&mut self, rule: &Rule, at: u64) -> Option<u64> {
        let expired = at.saturating_sub(rule.per());
        self.groups.bound(expired).map(|dropped| dropped.saturating_add(rule.per()))
    }

    /// Takes back the newest charge.
    pub(crate) fn undo(&mut self, previous: u64, cost: u32) {
        self.groups.shrink_last(previous, u64::from(cost));
    }

    /// Gives back `cost` permits that were taken at `at`, unless they no longer count at `now` or at the `floor`, where
    /// groups may have been forgotten for a booking: the first group at or after `at` would then be another one.
    pub(crate) fn refund(&mut self, rule: &Rule, now: u64, floor: u64, at: u64, cost: u32) {
        if at.saturating_add(rule.per()) <= now.max(floor) {
            return;
        }
        if let Some(index) = self.groups.take_from(at, u64::from(cost)) {
            self.groups.close_hole(index, u64::from(rule.group), now);
        }
    }

    /// Permits that count at `from`.
    pub(crate) fn taken(&self, rule: &Rule, from: u64) -> u64 {
        match from.checked_sub(rule.per()) {
            Some(expired) => self.groups.total_after(expired),
            None => self.groups.total(),
        }
    }

    /// When nothing is left on record.
    pub(crate) fn fresh_at(&self, rule: &Rule) -> u64 {
        self.groups.last().map_or(0, |last| last.at.saturating_add(rule.per()))
    }

    pub(crate) fn shift_back(&mut self, by: u64) {
        self.groups.shift_back(by);
    }
}
