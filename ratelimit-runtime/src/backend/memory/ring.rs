//! Sliding windows for calls that are neither booked nor given back: the groups of permits in a ring, which is one allocation.

use crate::algorithm::groups::Group;
use crate::algorithm::sliding_window::SlidingWindow;
use crate::algorithm::{GROUPS, Rule};

/// Groups from the oldest to the newest, of which all but the newest are full: never more than 64 of them.
#[derive(Debug)]
pub(super) struct Ring {
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
    pub(super) fn new(places: usize) -> Ring {
        let places = vec![EMPTY; places.next_power_of_two()].into();
        Ring { places, total: 0, first: 0, len: 0, spare: Spare::Always }
    }

    /// Two groups, each by its time and its permits.
    #[cold]
    #[inline(never)]
    pub(super) fn of_two(older: (u64, u32), newer: (u64, u32)) -> Ring {
        let mut ring = Ring { total: older.1 + newer.1, len: 2, ..Ring::new(FEW) };
        for (place, (at, permits)) in ring.places.iter_mut().zip([older, newer]) {
            *place = Group { at, permits: permits.into() };
        }
        ring
    }

    /// A window's groups, unless refunds have left holes in them.
    pub(super) fn from_window(window: &SlidingWindow, rule: &Rule) -> Option<Ring> {
        let groups = window.groups.len();
        let full = u64::from(rule.group);
        if window.groups.iter().take(groups.saturating_sub(1)).any(|group| group.permits < full) {
            return None;
        }
        let total = u32::try_from(window.groups.total()).ok()?;
        let mut ring = Ring { total, len: u8::try_from(groups).ok()?, ..Ring::new(groups) };
        for (place, group) in ring.places.iter_mut().zip(window.groups.iter()) {
            *place = *group;
        }
        Some(ring)
    }

    pub(super) fn to_window(&self) -> SlidingWindow {
        let mut window = SlidingWindow::default();
        for group in self.iter() {
            window.groups.push(group);
        }
        window
    }

    fn iter(&self) -> impl Iterator<Item = Group> + '_ {
        (0..self.len).map(|index| self.places[self.place(index)])
    }

    /// Where the group of that index is, counted from the oldest.
    #[inline]
    fn place(&self, index: u8) -> usize {
        usize::from(self.first.wrapping_add(index)) & (self.places.len() - 1)
    }

    pub(super) fn last(&self) -> Option<Group> {
        (self.len > 0).then(|| self.places[self.place(self.len - 1)])
    }

    /// Permits that count at `now`.
    pub(super) fn taken(&self, rule: &Rule, now: u64) -> u32 {
        let gone = self.iter().take_while(|group| now.saturating_sub(group.at) >= rule.per());
        self.total - gone.map(|group| permits(&group)).sum::<u32>()
    }

    /// Takes `cost` permits, from 1 to the capacity, or says when they would fit.
    #[inline]
    pub(super) fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        if self.len == 0 {
            self.push(rule, now, cost);
            return Ok(());
        }
        let newest = self.place(self.len - 1);
        let last = self.places[newest];
        // The clock of another core may be a little behind.
        let now = now.max(last.at);
        if now - last.at >= rule.per() {
            (self.len, self.total) = (0, 0);
        } else if !self.make_room(rule, now, cost.into()) {
            return Err(self.earliest(rule, now, cost));
        } else if last.permits < u64::from(rule.group) || last.at == now {
            self.places[newest] = Group { at: now, permits: last.permits + u64::from(cost) };
            self.total += cost;
            return Ok(());
        }
        self.push(rule, now, cost);
        Ok(())
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

    /// When `cost` more permits fit, if they do not at `from`.
    #[cold]
    #[inline(never)]
    pub(super) fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        let room = u64::from(rule.capacity().saturating_sub(cost));
        earliest(self.iter(), self.total.into(), room, rule.per(), from)
    }
}

/// A window that all calls share: what most of them need is in one cache line with its lock.
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

    pub(super) fn to_window(&self) -> SlidingWindow {
        let mut window = self.older.to_window();
        if self.permits > 0 {
            window.groups.push(Group { at: self.at, permits: self.permits.into() });
        }
        window
    }

    /// As [`Ring::take`].
    #[inline]
    pub(super) fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        // The clock of another core may be a little behind.
        let now = now.max(self.at);
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

    #[cold]
    fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        let room = u64::from(rule.capacity().saturating_sub(cost));
        let newest = Group { at: self.at, permits: self.permits.into() };
        earliest(self.older.iter().chain([newest]), self.total.into(), room, rule.per(), from)
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
