//! Permits on record, in groups ordered by time: what a sliding window and a fixed window keep.

use std::collections::VecDeque;

/// Permits that count as taken at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Time of the last of them; of a fixed window its beginning.
    pub(crate) at: u64,
    pub(crate) permits: u64,
}

/// Groups in the order of their times, never two of one time, and the sum of their permits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    groups: VecDeque<Group>,
    total: u64,
}

/// The most groups on record: 64 of a full window, and as many again where bookings or refunds leave holes.
pub(crate) const MOST: usize = 128;

impl Groups {
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn last(&self) -> Option<Group> {
        self.groups.back().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// From the oldest to the newest.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// Appends a group, which is not older than the last.
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

    /// Takes `permits` from the last group, which then counts as of `at`; drops it where none are left.
    pub(crate) fn shrink_last(&mut self, at: u64, permits: u64) {
        let Some(last) = self.groups.back_mut() else { return };
        let taken = permits.min(last.permits);
        last.permits -= taken;
        last.at = at;
        self.total -= taken;
        if last.permits == 0 {
            self.groups.pop_back();
        }
    }

    /// Forgets the groups up to the first whose time is above `expired`.
    pub(crate) fn drop_until(&mut self, expired: u64) {
        while let Some(first) = self.groups.front() {
            if first.at > expired {
                break;
            }
            self.total -= first.permits;
            self.groups.pop_front();
        }
    }

    /// Permits in the groups whose time is above `expired`.
    pub(crate) fn total_after(&self, expired: u64) -> u64 {
        let gone: u64 = self.groups.iter().take_while(|group| group.at <= expired).map(|group| group.permits).sum();
        self.total - gone
    }

    /// Takes up to `permits` from the first group at or after `at` and returns that group's index.
    pub(crate) fn take_from(&mut self, at: u64, permits: u64) -> Option<usize> {
        let index = self.groups.iter().position(|group| group.at >= at)?;
        let group = &mut self.groups[index];
        let taken = permits.min(group.permits);
        group.permits -= taken;
        self.total -= taken;
        if group.permits == 0 {
            self.groups.remove(index);
        }
        Some(index)
    }

    /// Merges the group at `index` with each neighbour if the two together hold at most `most`, but never with a group
    /// later than `now`: those permits are booked, and giving the booking up must leave no time ahead behind.
    pub(crate) fn close_hole(&mut self, index: usize, most: u64, now: u64) {
        for first in [index, index.wrapping_sub(1)] {
            if let (Some(a), Some(b)) = (self.groups.get(first), self.groups.get(first.wrapping_add(1)))
                && a.permits + b.permits <= most
                && b.at <= now
            {
                self.merge(first);
            }
        }
    }

    /// Brings the number of groups down to [`MOST`]. Groups up to `expired` are dropped, oldest first, and the time of
    /// the last one dropped is returned; if none is that old, the two neighbours that hold least become one, as of the
    /// later time.
    pub(crate) fn bound(&mut self, expired: u64) -> Option<u64> {
        let mut dropped = None;
        while self.groups.len() > MOST {
            if self.groups[0].at <= expired {
                dropped = Some(self.groups[0].at);
                self.total -= self.groups[0].permits;
                self.groups.pop_front();
            } else {
                let pairs = self.groups.iter().zip(self.groups.iter().skip(1)).enumerate();
                let smallest = pairs.min_by_key(|(_, (earlier, later))| earlier.permits + later.permits);
                self.merge(smallest.map_or(0, |(first, _)| first));
            }
        }
        dropped
    }

    fn merge(&mut self, first: usize) {
        if let Some(earlier) = self.groups.remove(first) {
            self.groups[first].permits += earlier.permits;
        }
    }

    /// Moves all groups back by `by`.
    pub(crate) fn shift_back(&mut self, by: u64) {
        for group in &mut self.groups {
            group.at = group.at.saturating_sub(by);
        }
    }
}
