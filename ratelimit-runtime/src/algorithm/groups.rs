//! A sliding window's permits, in groups ordered by time.

use std::collections::VecDeque;

/// Permits that count as taken at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// The time of its last permit.
    pub(crate) at: u64,
    pub(crate) permits: u64,
}

/// Groups ordered by time, with distinct times, and the sum of their permits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    groups: VecDeque<Group>,
    total: u64,
}

/// The most groups on record: 64 for a full window, and as many again for the holes left by
/// bookings or refunds.
pub(crate) const MOST: usize = 128;

impl Groups {
    pub(crate) fn reserve(&mut self, groups: usize) {
        self.groups.reserve_exact(groups);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn first(&self) -> Option<Group> {
        self.groups.front().copied()
    }

    pub(crate) fn last(&self) -> Option<Group> {
        self.groups.back().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// From the oldest to the newest.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Group> {
        self.groups.iter()
    }

    /// Appends a group that is not older than the last one.
    pub(crate) fn push(&mut self, group: Group) {
        self.total += group.permits;
        self.groups.push_back(group);
    }

    /// Moves the last group to `at` and adds `permits` to it.
    pub(crate) fn extend_last(&mut self, at: u64, permits: u64) {
        if let Some(last) = self.groups.back_mut() {
            last.at = at;
            last.permits += permits;
            self.total += permits;
        }
    }

    /// Removes `permits` from the last group. It may be left empty.
    pub(crate) fn shrink_last(&mut self, permits: u64) {
        let Some(last) = self.groups.back_mut() else { return };
        let taken = permits.min(last.permits);
        last.permits -= taken;
        self.total -= taken;
    }

    /// Sets the time of the last group.
    pub(crate) fn move_last(&mut self, at: u64) {
        if let Some(last) = self.groups.back_mut() {
            last.at = at;
        }
    }

    /// Removes the last group.
    pub(crate) fn pop(&mut self) {
        self.total -= self.groups.pop_back().map_or(0, |last| last.permits);
    }

    /// Removes the oldest group.
    pub(crate) fn pop_first(&mut self) -> Group {
        let first = self.groups.pop_front().unwrap_or_default();
        self.total -= first.permits;
        first
    }

    /// Inserts a group before the oldest.
    pub(crate) fn push_first(&mut self, group: Group) {
        self.total += group.permits;
        self.groups.push_front(group);
    }

    /// Permits in groups later than `expired`.
    pub(crate) fn total_after(&self, expired: u64) -> u64 {
        let gone: u64 = self.groups.iter().take_while(|group| group.at <= expired).map(|group| group.permits).sum();
        self.total - gone
    }

    /// Removes up to `permits` from the first group at or after `at`. An emptied group stays until
    /// its place is needed.
    pub(crate) fn take_from(&mut self, at: u64, permits: u64) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.at >= at) {
            let taken = permits.min(group.permits);
            group.permits -= taken;
            self.total -= taken;
        }
    }

    /// Merges the last two groups, as of the later time, if the earlier one holds fewer than
    /// `group` permits.
    pub(crate) fn merge_last(&mut self, group: u64) {
        if let [.., earlier, later] = *self.groups.make_contiguous()
            && earlier.permits + later.permits < group
        {
            self.merge(self.groups.len() - 2);
        }
    }

    /// Bounds the number of groups to [`MOST`]. Drops and returns the oldest group if it is not
    /// later than `expired`. Otherwise merges the two neighbours with the fewest permits, as of the
    /// later time.
    pub(crate) fn bound(&mut self, expired: Option<u64>) -> Option<Group> {
        if self.groups.len() <= MOST {
            return None;
        }
        if expired.is_some_and(|expired| self.groups[0].at <= expired) {
            return Some(self.pop_first());
        }
        let pairs = self.groups.iter().zip(self.groups.iter().skip(1)).enumerate();
        let smallest = pairs.min_by_key(|(_, (earlier, later))| earlier.permits + later.permits);
        self.merge(smallest.map_or(0, |(first, _)| first));
        None
    }

    fn merge(&mut self, first: usize) {
        if let Some(earlier) = self.groups.remove(first) {
            self.groups[first].permits += earlier.permits;
        }
    }

    /// Moves all groups back by `by`.
    pub(crate) fn shift_back(&mut self, by: u64) {
        self.change_times(|at| at.saturating_sub(by));
    }

    /// Changes all times. Their order must stay.
    pub(crate) fn change_times(&mut self, change: impl Fn(u64) -> u64) {
        for group in &mut self.groups {
            group.at = change(group.at);
        }
    }
}
