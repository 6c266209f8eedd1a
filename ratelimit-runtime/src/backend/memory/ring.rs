//! A sliding window of any groups, for calls that are neither booked nor given back: that of all calls where its count is above
//! 64, and of keys whose groups are not all alike.

use smallvec::smallvec;

use crate::algorithm::groups::Group;
use crate::algorithm::record::{Record, State};
use crate::algorithm::sliding_window::SlidingWindow;
use crate::algorithm::{GROUPS, Rule};

/// Groups from the oldest to the newest, of which all but the newest are full: never more than 64 of them.
#[derive(Debug)]
struct Ring {
    /// A power of two of places, at least one.
    places: Box<[Group]>,
    /// Permits in all groups.
    total: u32,
    /// Place of the oldest group.
    first: u8,
    /// Groups.
    len: u8,
    #[expect(dead_code, reason = "for the compiler")]
    spare: Spare,
}

/// A byte of which an enum around the ring uses the other values as its tag.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Spare {
    Always,
}

/// Groups of a window at the most.
const MOST: usize = GROUPS as usize;
/// Places of a ring at first.
const FEW: usize = 4;
const EMPTY: Group = Group { at: 0, permits: 0 };

impl Ring {
    fn new(places: usize) -> Ring {
        let places = vec![EMPTY; places.next_power_of_two()].into();
        Ring { places, total: 0, first: 0, len: 0, spare: Spare::Always }
    }

    fn iter(&self) -> impl Iterator<Item = Group> + '_ {
        (0..self.len).map(|index| self.places[self.place(index)])
    }

    /// Where the group of that index is, counted from the oldest.
    #[inline]
    fn place(&self, index: u8) -> usize {
        usize::from(self.first.wrapping_add(index)) & (self.places.len() - 1)
    }

    /// Begins a new group.
    #[inline]
    fn push(&mut self, rule: &Rule, at: u64, cost: u32) {
        if usize::from(self.len) == self.places.len() {
            self.make_place(rule, at);
        }
        let place = self.place(self.len);
        self.places[place] = Group { at, permits: cost.into() };
        self.len += 1;
        self.total += cost;
    }

    /// Forgets what is older than `per` as far as `cost` more permits need it. What else is that old can wait: so each call on
    /// a full window forgets one group, and how many it will be needs no guess from the processor.
    #[inline]
    fn make_room(&mut self, rule: &Rule, now: u64, cost: u64) -> bool {
        while u64::from(self.total) + cost > u64::from(rule.capacity()) {
            if !self.forget_oldest(rule, now) {
                return false;
            }
        }
        true
    }

    #[inline]
    fn forget_oldest(&mut self, rule: &Rule, now: u64) -> bool {
        if self.len == 0 {
            return false;
        }
        let oldest = self.places[self.place(0)];
        let is_old = now.saturating_sub(oldest.at) >= rule.per();
        if is_old {
            self.total -= permits(&oldest);
            self.first = self.first.wrapping_add(1);
            self.len -= 1;
        }
        is_old
    }

    /// Makes a place free, or more of them.
    #[cold]
    #[inline(never)]
    fn make_place(&mut self, rule: &Rule, now: u64) {
        while self.forget_oldest(rule, now) {}
        if usize::from(self.len) < self.places.len() {
            return;
        }
        let mut places = vec![EMPTY; self.places.len() * 2];
        for (place, group) in places.iter_mut().zip(self.iter()) {
            *place = group;
        }
        (self.places, self.first) = (places.into(), 0);
    }
}

/// A window of which most calls need the newest group and a sum: all calls share one, which has these in a cache line with
/// its lock.
#[derive(Debug)]
pub(super) struct Hot {
    /// The newest group; none where it has no permits.
    at: u64,
    permits: u32,
    /// Permits in all groups.
    total: u32,
    older: Ring,
}

impl Hot {
    pub(super) fn new() -> Hot {
        Hot { at: 0, permits: 0, total: 0, older: Ring::new(MOST) }
    }

    /// Of groups that are full, but for the last.
    pub(super) fn of(groups: &[Group]) -> Option<Hot> {
        let (newest, groups) = groups.split_last()?;
        let mut older = Ring::new(groups.len().max(FEW));
        older.places[..groups.len()].copy_from_slice(groups);
        older.len = u8::try_from(groups.len()).ok()?;
        older.total = u32::try_from(groups.iter().map(|group| group.permits).sum::<u64>()).ok()?;
        let permits = u32::try_from(newest.permits).ok()?;
        Some(Hot { at: newest.at, permits, total: older.total.checked_add(permits)?, older })
    }

    /// Time of the newest group.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = Group> + '_ {
        let newest = Group { at: self.at, permits: self.permits.into() };
        self.older.iter().chain((self.permits > 0).then_some(newest))
    }

    /// Takes `cost` permits, from 1 to the capacity, or says when they would fit.
    #[inline]
    pub(super) fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        if self.take_newest(rule, now, cost) { Ok(()) } else { self.take_elsewhere(rule, now.max(self.at), cost) }
    }

    /// As [`take`](Hot::take), where that is all: to give the permits to the newest group.
    #[inline]
    pub(super) fn take_newest(&mut self, rule: &Rule, now: u64, cost: u32) -> bool {
        // The clock of another core may be a little behind.
        let now = now.max(self.at);
        let total = u64::from(self.total) + u64::from(cost);
        let is_all = now - self.at < rule.per() && self.permits < rule.group && total <= u64::from(rule.capacity());
        if is_all {
            (self.at, self.permits, self.total) = (now, self.permits + cost, self.total + cost);
        }
        is_all
    }

    /// As [`take`](Hot::take), where the newest group is not to have the permits, or the oldest has to go first.
    #[inline(never)]
    fn take_elsewhere(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        if now - self.at >= rule.per() {
            (self.permits, self.total, self.older.len, self.older.total) = (0, 0, 0, 0);
        } else if u64::from(self.total) + u64::from(cost) > u64::from(rule.capacity()) {
            let is_room = self.older.make_room(rule, now, u64::from(self.permits) + u64::from(cost));
            self.total = self.older.total + self.permits;
            if !is_room {
                return Err(self.earliest(rule, now, cost));
            }
        }
        self.total += cost;
        if self.permits < rule.group || self.at == now {
            self.permits += cost;
        } else {
            self.older.push(rule, self.at, self.permits);
            self.permits = cost;
        }
        self.at = now;
        Ok(())
    }

    /// As [`take`](Hot::take), out of the way of others.
    #[cold]
    #[inline(never)]
    pub(super) fn take_slowly(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        self.take(rule, now, cost)
    }

    #[cold]
    fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        let room = u64::from(rule.capacity().saturating_sub(cost));
        earliest(self.groups(), self.total.into(), room, rule.per(), from)
    }
}

/// Each group's permits are part of a total, which is a `u32`.
#[expect(clippy::cast_possible_truncation, reason = "see above")]
fn permits(group: &Group) -> u32 {
    group.permits as u32
}

/// When no more than `room` is left of the `taken` permits in `groups`.
fn earliest(groups: impl Iterator<Item = Group>, mut taken: u64, room: u64, per: u64, from: u64) -> u64 {
    let mut end = from;
    for group in groups {
        if taken <= room {
            break;
        }
        taken -= group.permits;
        end = group.at.saturating_add(per);
    }
    end.max(from)
}

pub(super) fn window_record(groups: impl IntoIterator<Item = Group>) -> Record {
    let mut window = SlidingWindow::default();
    groups.into_iter().for_each(|group| window.groups.push(group));
    let newest = window.groups.last().map_or(0, |last| last.at);
    // The clock of another core may be behind the newest permit: the record's own clock guards against that.
    Record { clock: newest, newest, limits: smallvec![State::Sliding(window)], ..Record::default() }
}
