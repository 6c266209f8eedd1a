//! One sliding window, as small as its record allows. The first few permits need no pointer.
//! Further permits take one time per group.
//!
//! Up to a count of 64, a group is one permit, and the window is a ring of times. `cost` permits
//! fit if the youngest permit that would exceed the limit is `per` old. This is exact for any
//! `count` and `per`, as long as enough of the newest permits are on record. Therefore a permit is
//! dropped when its place is needed, not when it is old.
//!
//! Above 64, all groups except the newest hold the same number of permits. Groups of other sizes
//! are kept as a full log of groups.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::algorithm::groups::Group;
use crate::algorithm::offences::Offences;
use crate::algorithm::sliding_window::SlidingWindow;
use crate::algorithm::{GROUPS, Rule};
use crate::rt::clock::Now;

use smallvec::SmallVec;

use super::{Permit, State, Verdict};
use crate::queue::Ahead;

/// Groups from the oldest to the newest. The newest group is `permits`, taken up to the time `at`.
#[derive(Clone, Debug)]
pub(crate) enum Window {
    /// Only the newest group. An idle window has 0 permits.
    One { permits: u32, at: u64 },
    /// Single permits in order of time.
    Few { len: u8, older: [Time; FEW], at: u64 },
    /// The older groups in a ring.
    Several { ring: Ring, permits: u32, at: u64, older: Box<[u64; SEVERAL]> },
    /// [`Several`](Window::Several) with places for the largest possible number of groups.
    Many { ring: Ring, permits: u32, at: u64, older: Box<[u64; MANY]> },
    /// Groups of any size.
    Mixed(Box<SlidingWindow>),
}

const FEW: usize = 2;
const SEVERAL: usize = 9;
const MANY: usize = GROUPS as usize - 1;

/// What a window's state depends on besides the call's rule.
#[derive(Debug)]
pub(crate) struct Groups {
    /// The number of permits in a full group.
    group: u32,
    /// The largest `count` that any call used. This many of the newest permits are kept.
    most: AtomicU32,
    /// The longest `per` that any call used, in nanoseconds.
    longest: AtomicU64,
    /// The limit as written.
    pub(super) written: Rule,
    /// The limit was replaced, or is read at each call.
    varies: bool,
}

impl Groups {
    /// For a limit that may be read at each call.
    pub(crate) fn new(rule: &Rule, varies: bool) -> Groups {
        let group = if varies { 1 } else { rule.group };
        Groups {
            group,
            most: AtomicU32::new(rule.capacity()),
            longest: AtomicU64::new(rule.per()),
            written: *rule,
            varies,
        }
    }

    /// Prepares for calls by `rule`.
    #[inline]
    pub(crate) fn expect(&self, rule: &Rule) {
        if rule.capacity() > self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(rule.capacity(), Ordering::Relaxed);
        }
        if rule.per() > self.longest() {
            self.longest.fetch_max(rule.per(), Ordering::Relaxed);
        }
    }

    /// The limit as written, unless it is read at each call.
    pub(super) fn as_written(&self) -> Option<&Rule> {
        (!self.varies).then_some(&self.written)
    }

    pub(super) fn longest(&self) -> u64 {
        self.longest.load(Ordering::Relaxed)
    }

    /// Prepares for calls of up to that `count` and `per`, in nanoseconds.
    pub(crate) fn reach(&self, most: u32, longest: u64) {
        self.most.fetch_max(most, Ordering::Relaxed);
        self.longest.fetch_max(longest, Ordering::Relaxed);
    }

    /// The largest `count` and the longest `per` of any call.
    pub(crate) fn reached(&self) -> (u32, u64) {
        (self.most.load(Ordering::Relaxed), self.longest())
    }

    /// Whether permits older than the period of `rule` count for no other call.
    #[inline]
    fn forgets(&self, rule: &Rule) -> bool {
        !self.varies && rule.per() == self.longest() && self.most.load(Ordering::Relaxed) == rule.capacity()
    }

    /// Whether windows can be judged by `rule` without the full log.
    #[inline]
    fn holds(&self, rule: &Rule) -> bool {
        rule.group == self.group && (self.group == 1 || self.forgets(rule))
    }

    /// The most older groups that may be needed.
    fn most_older(&self) -> usize {
        ((self.most.load(Ordering::Relaxed).max(1) - 1) / self.group).min(GROUPS - 1) as usize
    }
}

/// The positions of the older groups in an array.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ring {
    /// The place of the oldest.
    first: u8,
    len: u8,
}

/// A read-only view of a window whose older groups all have the same size.
#[derive(Clone, Copy)]
struct Log<'a, T> {
    ring: Ring,
    permits: u32,
    at: u64,
    older: &'a [T],
}

/// [`Log`] with write access.
struct LogMut<'a, T> {
    ring: &'a mut Ring,
    permits: &'a mut u32,
    at: &'a mut u64,
    older: &'a mut [T],
}

/// Evaluates the first expression on the log of a window, or the second on groups of any size.
macro_rules! on_log {
    ($window:expr, $log:ident => $result:expr, $mixed:ident => $other:expr) => {
        match $window {
            Window::One { permits, at } => {
                let $log = Log::<u64> { ring: Ring::default(), permits: *permits, at: *at, older: &[] };
                $result
            }
            Window::Few { len, older, at } => {
                let $log = Log { ring: Ring { first: 0, len: *len }, permits: 1, at: *at, older };
                $result
            }
            Window::Several { ring, permits, at, older } => {
                let $log = Log { ring: *ring, permits: *permits, at: *at, older: &older[..] };
                $result
            }
            Window::Many { ring, permits, at, older } => {
                let $log = Log { ring: *ring, permits: *permits, at: *at, older: &older[..] };
                $result
            }
            Window::Mixed($mixed) => $other,
        }
    };
}

/// `on_log!` with write access.
macro_rules! on_log_mut {
    ($window:expr, $log:ident => $result:expr, $mixed:ident => $other:expr) => {
        match $window {
            Window::One { permits, at } => {
                let mut $log = LogMut::<u64> { ring: &mut Ring::default(), permits, at, older: &mut [] };
                $result
            }
            Window::Few { len, older, at } => {
                let (mut ring, mut permits) = (Ring { first: 0, len: *len }, 1);
                let mut $log = LogMut { ring: &mut ring, permits: &mut permits, at, older: &mut older[..] };
                let result = $result;
                // The slot has no `first`: its times stay in order.
                if ring.first == 1 {
                    older.swap(0, 1);
                }
                *len = ring.len;
                result
            }
            Window::Several { ring, permits, at, older } => {
                let mut $log = LogMut { ring, permits, at, older: &mut older[..] };
                $result
            }
            Window::Many { ring, permits, at, older } => {
                let mut $log = LogMut { ring, permits, at, older: &mut older[..] };
                $result
            }
            Window::Mixed($mixed) => $other,
        }
    };
}

#[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
impl<T: Stamp> Log<'_, T> {
    #[inline(always)]
    fn place(&self, index: usize) -> usize {
        let place = usize::from(self.ring.first) + index;
        if place < self.older.len() { place } else { place - self.older.len() }
    }

    /// The time of a group, indexed from the oldest.
    #[inline(always)]
    fn time(&self, index: usize) -> u64 {
        match self.older.get(self.place(index)) {
            Some(time) if index < usize::from(self.ring.len) => time.full(self.at),
            _ => self.at,
        }
    }

    #[inline(always)]
    fn is_old(&self, index: usize, rule: &Rule, now: Now) -> bool {
        now.earliest.saturating_sub(self.time(index)) >= rule.per()
    }

    #[inline(always)]
    fn is_all_old(&self, rule: &Rule, now: Now) -> bool {
        self.permits == 0 || now.earliest.saturating_sub(self.at) >= rule.per()
    }

    /// The index of the youngest group that would exceed the limit if `cost` more permits are
    /// taken.
    #[inline(always)]
    fn in_the_way(&self, groups: &Groups, rule: &Rule, cost: u32) -> Option<usize> {
        let taken = u64::from(self.ring.len) * u64::from(groups.group) + u64::from(self.permits);
        let above = (taken + u64::from(cost)).saturating_sub(rule.capacity().into());
        let index = above.checked_sub(1)?;
        let group = u64::from(groups.group);
        let index = match index {
            index if group == 1 => index,
            // Mostly: a division takes as long as much of a decision.
            index if index < group => 0,
            index => index / group,
        };
        Some(usize::try_from(index).unwrap_or(usize::MAX))
    }

    /// When `cost` permits fit; a time in the past if they fit now.
    #[inline(always)]
    fn fits_at(&self, groups: &Groups, rule: &Rule, cost: u32) -> u64 {
        match self.in_the_way(groups, rule, cost) {
            Some(youngest) if self.permits > 0 => self.time(youngest).saturating_add(rule.per()),
            _ => 0,
        }
    }

    /// The permits younger than the period.
    fn live(&self, groups: &Groups, rule: &Rule, now: Now) -> u64 {
        if self.is_all_old(rule, now) {
            return 0;
        }
        let (mut old, mut end) = (0, usize::from(self.ring.len));
        while old < end {
            let middle = old.midpoint(end);
            (old, end) = if self.is_old(middle, rule, now) { (middle + 1, end) } else { (old, middle) };
        }
        (usize::from(self.ring.len) - old) as u64 * u64::from(groups.group) + u64::from(self.permits)
    }

    /// See [`fits_behind`].
    fn fits_behind(&self, groups: &Groups, rule: &Rule, now: Now, cost: u32, ahead: Ahead) -> u64 {
        let live = self.live(groups, rule, now);
        let old = usize::try_from((live.saturating_sub(self.permits.into())) / u64::from(groups.group));
        let first = usize::from(self.ring.len).saturating_sub(old.unwrap_or(usize::MAX));
        let leaves = |permit: u64| {
            let index = usize::try_from((permit - 1) / u64::from(groups.group)).unwrap_or(usize::MAX);
            self.time(first.saturating_add(index))
        };
        fits_behind(rule, now, cost, ahead, live, leaves)
    }

    /// Runs `f` on all groups. Several groups can have the same time.
    fn each(&self, groups: &Groups, mut f: impl FnMut(Group)) {
        for index in 0..usize::from(self.ring.len) {
            f(Group { at: self.time(index), permits: groups.group.into() });
        }
        if self.permits > 0 {
            f(Group { at: self.at, permits: self.permits.into() });
        }
    }
}

#[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
impl<T: Stamp> LogMut<'_, T> {
    #[inline(always)]
    fn read(&self) -> Log<'_, T> {
        Log { ring: *self.ring, permits: *self.permits, at: *self.at, older: self.older }
    }

    /// Takes `cost` permits, from 1 to the capacity. Decides before it writes.
    /// [`Verdict::Undecided`] means that the permits fit, but there is no place for them.
    #[inline(always)]
    fn take(&mut self, groups: &Groups, rule: &Rule, now: Now, cost: u32) -> Verdict {
        let log = self.read();
        if let Some(youngest) = log.in_the_way(groups, rule, cost)
            && !log.is_old(youngest, rule, now)
            && log.permits > 0
        {
            return Verdict::Denied { until: log.time(youngest).saturating_add(rule.per()), position: 0 };
        }
        let at = now.latest.max(log.at);
        if self.charge(groups, rule, now, at, cost) { Verdict::Admitted { at } } else { Verdict::Undecided }
    }

    /// Records `cost` permits that fit; `false` if there is no place for them.
    #[inline(always)]
    fn charge(&mut self, groups: &Groups, rule: &Rule, now: Now, at: u64, cost: u32) -> bool {
        if T::IS_SINGLE && cost > 1 {
            return false;
        }
        let log = self.read();
        let is_all_old = log.is_all_old(rule, now);
        if log.permits == 0 || is_all_old && groups.forgets(rule) {
            self.ring.len = 0;
            *self.permits = cost;
        } else if groups.group > 1 && !is_all_old && (log.permits < groups.group || log.at == at && now.is_exact()) {
            // By an exact clock, permits of one time are in one group, as in a record. The counter of
            // some processors stands still for longer than a call takes (10 ns on AMD's Zen): there a
            // full group would grow, and the groups would be of different sizes from then on.
            *self.permits += cost;
        } else if self.push_newest(groups, rule, now) {
            *self.permits = cost;
        } else {
            return false;
        }
        *self.at = at;
        true
    }

    /// Moves the newest group to the older ones, once per full group of permits in it. The oldest
    /// groups make room if they are no longer needed. `false` if they are still needed.
    #[inline(always)]
    fn push_newest(&mut self, groups: &Groups, rule: &Rule, now: Now) -> bool {
        let log = self.read();
        let (len, places) = (usize::from(log.ring.len), log.older.len());
        let pushed = if groups.group == 1 { log.permits } else { log.permits / groups.group } as usize;
        if groups.group > 1 && !log.permits.is_multiple_of(groups.group) {
            return false;
        }
        let excess = (len + pushed).saturating_sub(places);
        if excess > 0 {
            let is_needed = !log.is_old(excess - 1, rule, now) || !groups.forgets(rule);
            if is_needed && places < groups.most_older() {
                return false;
            }
            self.drop_oldest(excess);
        }
        for _ in 0..pushed.min(places) {
            let place = self.read().place(self.ring.len.into());
            let Some(place) = self.older.get_mut(place) else { return false };
            *place = T::new(*self.at);
            self.ring.len += 1;
        }
        true
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "places are at most 63")]
    fn drop_oldest(&mut self, groups: usize) {
        let dropped = groups.min(self.ring.len.into());
        if dropped > 0 {
            self.ring.first = self.read().place(dropped) as u8;
            self.ring.len -= dropped as u8;
        }
    }

    /// Takes back permits that were taken at `permit.at`. `false` if a group would no longer be
    /// full.
    fn refund(&mut self, groups: &Groups, permit: Permit) -> bool {
        let before = self.ring.len.checked_sub(1).map_or(0, |last| self.read().time(last.into()));
        let mut left = permit.cost;
        if groups.group > 1 {
            if before < permit.at && permit.at <= *self.at && left < *self.permits {
                *self.permits -= left;
                return true;
            }
            return false;
        }
        while left > 0 && *self.permits > 0 && *self.at == permit.at {
            let taken = left.min(*self.permits);
            (*self.permits, left) = (*self.permits - taken, left - taken);
            if *self.permits == 0 && self.ring.len > 0 {
                (*self.at, *self.permits) = (self.read().time(usize::from(self.ring.len) - 1), 1);
                self.ring.len -= 1;
            }
        }
        let (mut kept, older) = (0, usize::from(self.ring.len));
        for index in 0..older {
            let time = self.read().time(index);
            if time == permit.at && left > 0 {
                left -= 1;
                continue;
            }
            let place = self.read().place(kept);
            if let Some(place) = self.older.get_mut(place) {
                *place = T::new(time);
            }
            kept += 1;
        }
        self.ring.len -= u8::try_from(older - kept).unwrap_or_default();
        true
    }
}

impl Window {
    /// Takes `cost` permits, from 1 to the capacity. Handles the frequent forms in registers.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn take_now(&mut self, groups: &Groups, rule: &Rule, now: Now, cost: u32) -> Verdict {
        let verdict = match self {
            _ if !groups.holds(rule) => Verdict::Undecided,
            Window::One { permits, at } => {
                LogMut::<u64> { ring: &mut Ring::default(), permits, at, older: &mut [] }.take(groups, rule, now, cost)
            }
            Window::Several { ring, permits, at, older } => {
                LogMut { ring, permits, at, older: &mut older[..] }.take(groups, rule, now, cost)
            }
            Window::Many { ring, permits, at, older } => {
                LogMut { ring, permits, at, older: &mut older[..] }.take(groups, rule, now, cost)
            }
            Window::Few { .. } | Window::Mixed(_) => Verdict::Undecided,
        };
        match verdict {
            Verdict::Undecided => self.take(groups, rule, now, cost),
            verdict => verdict,
        }
    }

    /// Takes `cost` permits, from 1 to the capacity, if they fit and `others` return true. If those
    /// do not, the call is undecided.
    #[inline]
    pub(crate) fn take_with(
        &mut self,
        groups: &Groups,
        rule: &Rule,
        now: Now,
        cost: u32,
        others: impl FnOnce() -> bool,
    ) -> Verdict {
        let (until, newest) = self.fits_now_at(groups, rule, now, cost);
        if until > now.earliest {
            return Verdict::Denied { until, position: 0 };
        }
        if !others() {
            return Verdict::Undecided;
        }
        let at = now.latest.max(newest);
        self.charge_now(groups, rule, Now { latest: at, ..now }, cost);
        Verdict::Admitted { at }
    }

    /// When `cost` permits fit, which is a time in the past if they fit now, and the time of the newest
    /// permit.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn fits_now_at(&self, groups: &Groups, rule: &Rule, now: Now, cost: u32) -> (u64, u64) {
        match self {
            _ if !groups.holds(rule) => self.fits_any_at(groups, rule, now, cost),
            Window::One { permits, at } => {
                let log = Log::<u64> { ring: Ring::default(), permits: *permits, at: *at, older: &[] };
                (log.fits_at(groups, rule, cost), *at)
            }
            Window::Several { ring, permits, at, older } => {
                let log = Log { ring: *ring, permits: *permits, at: *at, older: &older[..] };
                (log.fits_at(groups, rule, cost), *at)
            }
            Window::Many { ring, permits, at, older } => {
                let log = Log { ring: *ring, permits: *permits, at: *at, older: &older[..] };
                (log.fits_at(groups, rule, cost), *at)
            }
            Window::Few { .. } | Window::Mixed(_) => self.fits_any_at(groups, rule, now, cost),
        }
    }

    /// [`fits_now_at`](Window::fits_now_at) of any window.
    #[inline(never)]
    fn fits_any_at(&self, groups: &Groups, rule: &Rule, now: Now, cost: u32) -> (u64, u64) {
        (self.fits_at(groups, 0, rule, now, cost), self.newest())
    }

    /// Records `cost` permits that fit.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn charge_now(&mut self, groups: &Groups, rule: &Rule, now: Now, cost: u32) {
        let is_done = match self {
            _ if !groups.holds(rule) => false,
            Window::One { permits, at } => {
                let mut log = LogMut::<u64> { ring: &mut Ring::default(), permits, at, older: &mut [] };
                log.charge(groups, rule, now, now.latest, cost)
            }
            Window::Several { ring, permits, at, older } => {
                LogMut { ring, permits, at, older: &mut older[..] }.charge(groups, rule, now, now.latest, cost)
            }
            Window::Many { ring, permits, at, older } => {
                LogMut { ring, permits, at, older: &mut older[..] }.charge(groups, rule, now, now.latest, cost)
            }
            Window::Few { .. } | Window::Mixed(_) => false,
        };
        if !is_done {
            self.record(groups, rule, now, cost);
        }
    }

    /// Takes `cost` permits, from 1 to the capacity, of any window.
    #[inline(never)]
    fn take(&mut self, groups: &Groups, rule: &Rule, now: Now, cost: u32) -> Verdict {
        self.prepare_for(groups, rule, now);
        let take = |window: &mut Window| on_log_mut!(window, log => log.take(groups, rule, now, cost), mixed => take_mixed(mixed, groups, rule, now, cost));
        match take(self) {
            Verdict::Undecided => {
                self.grow(groups, rule, cost);
                take(self)
            }
            verdict => verdict,
        }
    }

    /// [`charge_now`](Window::charge_now) for any window.
    #[inline(never)]
    fn record(&mut self, groups: &Groups, rule: &Rule, now: Now, cost: u32) {
        self.prepare_for(groups, rule, now);
        let record = |window: &mut Window| {
            on_log_mut!(window, log => log.charge(groups, rule, now, now.latest, cost), mixed => {
                matches!(take_mixed(mixed, groups, rule, now, cost), Verdict::Admitted { .. })
            })
        };
        if !record(self) {
            self.grow(groups, rule, cost);
            record(self);
        }
    }

    /// Takes back permits that are younger than the period.
    #[inline(never)]
    fn refund_any(&mut self, groups: &Groups, rule: &Rule, now: Now, permit: Permit) {
        let (mut is_done, mut is_empty) = (false, false);
        if groups.holds(rule) {
            on_log_mut!(self, log => (is_done, is_empty) = (log.refund(groups, permit), *log.permits == 0), _mixed => {});
        }
        if is_empty {
            *self = Window::One { permits: 0, at: now.earliest };
        } else if !is_done {
            self.mix(groups);
            if let Window::Mixed(mixed) = self {
                mixed.refund(rule, now.earliest, 0, permit.at, permit.cost);
            }
        }
    }

    /// Converts the window to a form that `rule` can judge.
    #[inline]
    fn prepare_for(&mut self, groups: &Groups, rule: &Rule, now: Now) {
        if !groups.holds(rule) {
            self.mix(groups);
        } else if let Window::Mixed(mixed) = self
            && groups.forgets(rule)
            && mixed.kept_until(rule.per()) <= now.earliest
        {
            *self = Window::idle();
        }
    }

    /// Makes room for `cost` permits that fit.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, groups: &Groups, rule: &Rule, cost: u32) {
        let mut all = SmallVec::<[Group; MANY + 1]>::new();
        self.each(groups, |group| all.push(group));
        let Some(Group { at, permits }) = all.pop() else { return };
        let mut times = [0; MANY];
        times.iter_mut().zip(&all).for_each(|(place, group)| *place = group.at);
        let (Ok(permits), Ok(len)) = (u32::try_from(permits), u8::try_from(all.len())) else { return self.mix(groups) };
        if !permits.is_multiple_of(groups.group) {
            return self.mix(groups);
        }
        let is_few = groups.group == 1 && permits == 1 && cost == 1 && rule.per() <= Time::LONGEST;
        *self = of_times(usize::from(len) + (permits / groups.group) as usize, is_few, &times, (len, permits, at));
    }

    /// Converts the groups to a full log.
    #[cold]
    #[inline(never)]
    fn mix(&mut self, groups: &Groups) {
        if matches!(self, Window::Mixed(_)) {
            return;
        }
        *self = Window::Mixed(Box::new(mixed(self, groups)));
    }

    /// A window of single permits, with times from the oldest to the newest.
    pub(crate) fn of_singles(times: &[u64]) -> Window {
        let Some((at, older)) = times.split_last() else { return Window::idle() };
        let mut places = Box::new([0; MANY]);
        let older = &older[older.len().saturating_sub(MANY)..];
        places[..older.len()].copy_from_slice(older);
        let len = u8::try_from(older.len()).unwrap_or_default();
        Window::Many { ring: Ring { first: 0, len }, permits: 1, at: *at, older: places }
    }

    /// The times of single permits, from the oldest to the newest. `None` for groups that are not
    /// single permits.
    pub(crate) fn singles(&self, groups: &Groups) -> Option<SmallVec<[u64; MANY + 1]>> {
        let (mut times, mut are_single) = (SmallVec::new(), groups.group == 1);
        self.each(groups, |group| {
            let permits = usize::try_from(group.permits).unwrap_or(usize::MAX);
            are_single &= times.len() + permits <= MANY + 1;
            if are_single {
                times.extend(std::iter::repeat_n(group.at, permits));
            }
        });
        are_single.then_some(times)
    }

    /// Permits recorded after `time`.
    pub(super) fn permits_since(&self, groups: &Groups, time: u64) -> u64 {
        let mut permits = 0;
        self.each(groups, |group| permits += if group.at > time { group.permits } else { 0 });
        permits
    }

    /// When all permits are `per` old.
    #[inline]
    pub(super) fn until(&self, per: u64) -> u64 {
        let (newest, is_empty) = on_log!(self, log => (log.at, log.permits == 0), mixed => {
            if mixed.groups.total() > 0 {
                return mixed.fresh_at(per);
            }
            (mixed.groups.last().map_or(0, |last| last.at), true)
        });
        newest.saturating_add(if is_empty { 0 } else { per })
    }

    pub(super) fn is_mixed(&self) -> bool {
        matches!(self, Window::Mixed(_))
    }

    /// The window of a full log. If it need not stay `Mixed`, in the smallest form that holds it.
    pub(super) fn of_log(log: SlidingWindow, groups: &Groups, is_mixed: bool) -> Window {
        let compact = if is_mixed { None } else { compact(&log, groups) };
        compact.unwrap_or_else(|| Window::Mixed(Box::new(log)))
    }

    /// A copy of the full log.
    pub(super) fn log(&self, groups: &Groups) -> SlidingWindow {
        match self {
            Window::Mixed(mixed) => (**mixed).clone(),
            window => mixed(window, groups),
        }
    }

    fn each(&self, groups: &Groups, f: impl FnMut(Group)) {
        on_log!(self, log => log.each(groups, f), mixed => mixed.groups.iter().copied().for_each(f));
    }
}

/// The smallest form of a full log, if it consists of full groups but for the newest.
fn compact(log: &SlidingWindow, groups: &Groups) -> Option<Window> {
    let Some(Group { at, permits }) = log.groups.last() else { return Some(Window::idle()) };
    let (mut times, mut len) = ([0; MANY], 0);
    for group in log.groups.iter().take(log.groups.len() - 1) {
        if !group.permits.is_multiple_of(groups.group.into()) {
            return None;
        }
        for _ in 0..group.permits / u64::from(groups.group) {
            *times.get_mut(len)? = group.at;
            len += 1;
        }
    }
    let permits = u32::try_from(permits).ok().filter(|permits| *permits > 0)?;
    let is_few =
        groups.group == 1 && permits == 1 && groups.longest() <= Time::LONGEST && at - times[0] <= Time::LONGEST;
    Some(of_times(len, is_few, &times, (u8::try_from(len).ok()?, permits, at)))
}

/// The smallest form with so many places, of the times of `len` older groups and the newest group.
fn of_times(places: usize, is_few: bool, times: &[u64; MANY], (len, permits, at): (u8, u32, u64)) -> Window {
    let ring = Ring { first: 0, len };
    match places {
        0 => Window::One { permits, at },
        1..=FEW if is_few => Window::Few { len, older: std::array::from_fn(|place| Time::new(times[place])), at },
        1..=SEVERAL => {
            Window::Several { ring, permits, at, older: Box::new(std::array::from_fn(|place| times[place])) }
        }
        _ => Window::Many { ring, permits, at, older: Box::new(*times) },
    }
}

/// The groups as a full log.
fn mixed(window: &Window, groups: &Groups) -> SlidingWindow {
    let mut mixed = SlidingWindow::default();
    mixed.groups.reserve(on_log!(window, log => usize::from(log.ring.len) + 1, _mixed => 0));
    window.each(groups, |group| match mixed.groups.last() {
        Some(last) if last.at == group.at => mixed.groups.extend_last(group.at, group.permits),
        _ => mixed.groups.push(group),
    });
    mixed
}

/// When a call fits behind others. The permits on record come back one after the other, `per` after
/// the time that `leaves` gives. Permits taken in one period come back in the next.
fn fits_behind(rule: &Rule, now: Now, cost: u32, ahead: Ahead, live: u64, leaves: impl Fn(u64) -> u64) -> u64 {
    let (step, calls) = ahead.steps(cost);
    let step = u64::from(step.max(1));
    let capacity = u64::from(rule.capacity());
    let a_period = capacity / step;
    if a_period == 0 {
        return super::NEVER;
    }
    let (periods, last) = ((calls - 1) / a_period, (calls - 1) % a_period + 1);
    // More may be live than a lowered limit holds.
    let first = match (last * step).saturating_add(live).saturating_sub(capacity) {
        0 => now.earliest,
        permit => leaves(permit.min(live)).saturating_add(rule.per()),
    };
    first.max(now.earliest).saturating_add(periods.saturating_mul(rule.per()))
}

fn take_mixed(mixed: &mut SlidingWindow, groups: &Groups, rule: &Rule, now: Now, cost: u32) -> Verdict {
    let until = mixed.earliest(rule, now.earliest, cost);
    if until > now.earliest {
        return Verdict::Denied { until, position: 0 };
    }
    let at = now.latest.max(mixed.groups.last().map_or(0, |last| last.at));
    mixed.largest = mixed.largest.max(groups.most.load(Ordering::Relaxed));
    // Nothing is booked ahead here: a group that is dropped to make room no longer counts.
    let _ = mixed.charge(rule, at, now.earliest, cost);
    Verdict::Admitted { at }
}

impl State for Window {
    type Form = Groups;

    fn idle() -> Window {
        Window::One { permits: 0, at: 0 }
    }

    fn newest(&self) -> u64 {
        on_log!(self, log => log.at, mixed => mixed.groups.last().map_or(0, |last| last.at))
    }

    fn is_decidable(&self, _: &Groups, _: Now) -> bool {
        true
    }

    fn fits_at(&self, groups: &Groups, _: usize, rule: &Rule, now: Now, cost: u32) -> u64 {
        if groups.holds(rule) {
            on_log!(self, log => log.fits_at(groups, rule, cost), mixed => mixed.earliest(rule, now.earliest, cost))
        } else {
            self.log(groups).earliest(rule, now.earliest, cost)
        }
    }

    fn fits_behind(&self, groups: &Groups, _: usize, rule: &Rule, now: Now, cost: u32, ahead: Ahead) -> u64 {
        let behind = |mixed: &SlidingWindow| {
            let expired = now.earliest.saturating_sub(rule.per());
            let live = mixed.taken(rule.per(), now.earliest);
            let leaves = |permit: u64| {
                let mut left = permit;
                let live = mixed.groups.iter().filter(|group| group.at > expired || now.earliest < rule.per());
                let leaves = live.take_while(|group| {
                    let is_in = left > 0;
                    left = left.saturating_sub(group.permits);
                    is_in
                });
                leaves.last().map_or(now.earliest, |group| group.at)
            };
            fits_behind(rule, now, cost, ahead, live, leaves)
        };
        if groups.holds(rule) {
            on_log!(self, log => log.fits_behind(groups, rule, now, cost, ahead), mixed => behind(mixed))
        } else {
            behind(&self.log(groups))
        }
    }

    fn charge(&mut self, groups: &Groups, _: usize, rule: &Rule, now: Now, cost: u32) {
        self.record(groups, rule, now, cost);
    }

    #[inline]
    fn refund(&mut self, groups: &Groups, _: usize, rule: &Rule, now: Now, permit: Permit) {
        match self {
            _ if now.earliest.saturating_sub(permit.at) >= rule.per() => {}
            Window::One { permits, at } if *at == permit.at && permit.cost < *permits && groups.holds(rule) => {
                *permits -= permit.cost;
            }
            window => window.refund_any(groups, rule, now, permit),
        }
    }

    #[inline]
    fn left(&self, groups: &Groups, _: usize, rule: &Rule, now: Now) -> (u32, u64) {
        let live = if groups.holds(rule) {
            on_log!(self, log => log.live(groups, rule, now), mixed => mixed.taken(rule.per(), now.earliest))
        } else {
            self.log(groups).taken(rule.per(), now.earliest)
        };
        let idle_at = self.until(rule.per());
        (rule.capacity().saturating_sub(u32::try_from(live).unwrap_or(u32::MAX)), idle_at)
    }

    fn idle_at(&self, _: &Groups, _: usize, rule: &Rule) -> u64 {
        self.until(rule.per())
    }

    fn are_idle<'a>(groups: &'a Groups, _: &'a [Rule], by: u64) -> impl Fn(&Window) -> bool + 'a {
        let longest = groups.longest();
        move |window| window.until(longest) <= by
    }

    fn idle_by(&self, groups: &Groups, _: &[Rule]) -> u64 {
        self.until(groups.longest())
    }

    fn offences(&mut self) -> Option<&mut Offences> {
        None
    }

    fn offended(&self) -> Offences {
        Offences::default()
    }
}

/// The time of a group, in the available bytes.
trait Stamp: Copy {
    /// Whether the newest group is a single permit too.
    const IS_SINGLE: bool;

    fn new(time: u64) -> Self;

    /// The full time, given a later time.
    fn full(self, later: u64) -> u64;
}

impl Stamp for u64 {
    const IS_SINGLE: bool = false;

    #[inline]
    fn new(time: u64) -> u64 {
        time
    }

    #[inline]
    fn full(self, _: u64) -> u64 {
        self
    }
}

/// The low 56 bits of a time. Together with a later time, they give the full time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    low: [u8; 4],
    middle: [u8; 2],
    high: u8,
}

impl Time {
    const BITS: u64 = (1 << 56) - 1;
    /// 13 days. A group on record is at most 64 of these behind the newest, which fits into 56
    /// bits.
    const LONGEST: u64 = 1 << 50;
}

impl Stamp for Time {
    const IS_SINGLE: bool = true;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
    fn new(time: u64) -> Time {
        Time { low: (time as u32).to_le_bytes(), middle: ((time >> 32) as u16).to_le_bytes(), high: (time >> 48) as u8 }
    }

    #[inline]
    fn full(self, later: u64) -> u64 {
        let low = u64::from(u32::from_le_bytes(self.low)) | u64::from(u16::from_le_bytes(self.middle)) << 32;
        let low = low | u64::from(self.high) << 48;
        later - (later.wrapping_sub(low) & Time::BITS)
    }
}
