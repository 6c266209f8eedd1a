//! The exact sliding window in bounded memory.
//!
//! A full log keeps the time of every admitted permit and counts those younger than `per`. This
//! window keeps permits in groups of g = ⌈count / 64⌉, each with the time of its *last* permit. A
//! group is dropped when that permit expires. So each permit counts at least as long as in the log,
//! and no call is admitted that the log denies.
//!
//! Only the earlier permits of the oldest group can count longer than in the log: at most g − 1.
//! For a `count` up to 64 that is none, and the answers equal the log's.
//!
//! Expired permits stay while their place is not needed: the newest ones, up to the largest `count`
//! used. A longer `per` counts them again.

use super::groups::{Group, Groups};
use super::{GROUPS, Rule};

/// Permits admitted less than `per` ago, older ones still kept, and permits booked ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlidingWindow {
    pub(crate) groups: Groups,
    /// The largest count of any charge.
    pub(crate) largest: u32,
    /// The longest period of any charge.
    pub(crate) longest: u64,
    /// The period at the last change.
    pub(crate) per: u64,
}

impl SlidingWindow {
    /// A window with `taken` permits taken at `now`.
    pub(crate) fn holding(rule: &Rule, taken: u64, now: u64) -> SlidingWindow {
        let mut window = SlidingWindow { per: rule.per(), ..SlidingWindow::default() };
        if taken > 0 {
            window.groups.push(Group { at: now, permits: taken });
        }
        window
    }

    /// The first moment at or after `from` at which `cost` more permits fit. Requires that no
    /// permit on record is later than `from`, and that `cost` is at most `count`.
    pub(crate) fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        // The call fits once so many of the oldest permits are gone. Few more are on record than the
        // limit admits, so they are in the first groups, however many groups are gone already.
        let mut above = (self.groups.total() + u64::from(cost)).saturating_sub(rule.capacity().into());
        for group in self.groups.iter() {
            if above <= group.permits {
                return if above == 0 { from } else { from.max(group.at.saturating_add(rule.per())) };
            }
            above -= group.permits;
        }
        from
    }

    /// Records `cost` permits at `at`, which is not before the real time `now`. If a group was
    /// dropped before it had to be, returns it: nothing may be admitted before it would have
    /// expired.
    pub(crate) fn charge(&mut self, rule: &Rule, at: u64, now: u64, cost: u32) -> Option<Group> {
        let (permits, per) = (u64::from(cost), rule.per());
        self.largest = self.largest.max(rule.capacity());
        self.longest = self.longest.max(per);
        self.per = per;
        self.drop_gone(per, now, permits);
        match self.groups.last() {
            Some(last)
                if last.permits == 0
                    || last.at == at
                    || (!is_gone(&last, per, at) && last.permits < u64::from(rule.group)) =>
            {
                self.groups.extend_last(at, permits);
                None
            }
            _ => self.push(Group { at, permits }, per, now),
        }
    }

    /// Drops expired groups while as many newer permits as any count are on record, with `more`.
    fn drop_gone(&mut self, per: u64, now: u64, more: u64) {
        while self.groups.len() > 1 {
            let first = self.groups.first().unwrap_or_default();
            let newer = self.groups.total() + more - first.permits;
            if !is_gone(&first, per, now) || newer < u64::from(self.largest) {
                break;
            }
            self.groups.pop_first();
        }
    }

    /// Appends a group. Returns a group that was dropped before it had to be.
    fn push(&mut self, group: Group, per: u64, now: u64) -> Option<Group> {
        if self.groups.last().is_some_and(|last| is_gone(&last, per, now)) {
            self.groups.merge_last(u64::from(self.largest.div_ceil(GROUPS)));
        }
        self.groups.push(group);
        self.groups.bound(group.at.checked_sub(per))
    }

    /// Begins an empty group at `at`, so that no later charge moves the last one.
    pub(crate) fn close(&mut self, rule: &Rule, at: u64, now: u64) {
        let Some(last) = self.groups.last().filter(|last| last.at < at) else { return };
        if last.permits == 0 {
            self.groups.move_last(at);
            return;
        }
        self.drop_gone(rule.per(), now, 0);
        self.push(Group { at, permits: 0 }, rule.per(), now);
    }

    /// Undoes the newest charge and restores the group dropped for it. `newest` is the time of the
    /// charge before it.
    pub(crate) fn undo(&mut self, newest: u64, dropped: Group, cost: u32) {
        self.groups.shrink_last(u64::from(cost));
        let before = self.groups.iter().rev().nth(1);
        if self.groups.last().is_some_and(|last| last.permits == 0) && before.is_some_and(|group| group.at == newest) {
            self.groups.pop();
            if dropped.permits > 0 {
                self.groups.push_first(dropped);
            }
        }
    }

    /// Gives back `cost` permits taken at `at`, unless they no longer count at `now` or at the
    /// `floor`. Before the floor, groups may have been forgotten for a booking, and the first group
    /// at or after `at` would be a different one.
    pub(crate) fn refund(&mut self, rule: &Rule, now: u64, floor: u64, at: u64, cost: u32) {
        if at.saturating_add(rule.per()) > now.max(floor) {
            self.groups.take_from(at, u64::from(cost));
        }
    }

    /// Permits that count at `from`, for this period.
    pub(crate) fn taken(&self, per: u64, from: u64) -> u64 {
        match from.checked_sub(per) {
            Some(expired) => self.groups.total_after(expired),
            None => self.groups.total(),
        }
    }

    /// When no permit counts any more, for this period.
    pub(crate) fn fresh_at(&self, per: u64) -> u64 {
        let newest = self.groups.iter().rev().find(|group| group.permits > 0);
        newest.map_or(0, |newest| newest.at.saturating_add(per))
    }

    /// When the groups are no longer needed, for this period: an empty one keeps the places of
    /// those before it.
    pub(crate) fn kept_until(&self, per: u64) -> u64 {
        self.groups.last().map_or(0, |last| last.at.saturating_add(per))
    }

    pub(crate) fn shift_back(&mut self, by: u64) {
        self.groups.shift_back(by);
    }
}

fn is_gone(group: &Group, per: u64, now: u64) -> bool {
    group.at.checked_add(per).is_some_and(|end| end <= now)
}
