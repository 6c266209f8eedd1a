//! The sliding window of all calls where its permits are kept one by one, which is up to a count of 64.
//!
//! Each permit has a place that says when it was taken last, and may be taken again `per` after that. So no interval of `per`
//! ever holds more permits than there are places, whichever of them a call takes. The places are in two halves, with a lock
//! each, and a thread takes what is free in its own half: threads of both meet only where one half has nothing left and gets
//! some of the other's. A call is denied where nothing is free in both.
//!
//! A half takes the latest time that it has seen, as its caller's clock may be behind. By as much as the clocks of two cores
//! differ, a permit can come back too early; so it can where all is under one lock.

use smallvec::SmallVec;

use super::state::{Attempt, Left, Permit, Verdict, Window};
use crate::algorithm::{GROUPS, Rule};
use crate::clock::Now;
use crate::limit::Algorithm;
use crate::sync::{AtomicU64, Guard, Line, Lock, Ordering};

/// All places of a window.
pub(super) struct Halves([Line<Half>; 2]);

/// In one cache line, but for the times.
struct Half {
    /// A call for one permit is denied until then. Both halves say so; it is written under both locks.
    denied_until: AtomicU64,
    /// None once the window is kept as a record elsewhere.
    places: Lock<Option<Places>>,
}

/// Places in a ring. First come free ones, in any order, then the others, from the one that is free first.
#[derive(Debug)]
struct Places {
    /// When each was taken last: 0, in 1970, if never.
    times: Box<[u64; MOST]>,
    /// Index of the first place, but for whole turns.
    first: usize,
    len: usize,
    /// No time is later.
    newest: u64,
}

/// The most places of a window.
const MOST: usize = GROUPS as usize;

type Both<'a> = [Guard<'a, Option<Places>>; 2];
type Times = SmallVec<[u64; MOST]>;

impl Halves {
    /// Whether a window of this rule is one of single permits.
    pub(super) fn fits(rule: &Rule) -> bool {
        rule.limit.algorithm() == Algorithm::SlidingWindow && rule.group == 1 && rule.capacity() > 0
    }

    /// When `cost` permits fit, and what is left; `None` if the window is kept elsewhere.
    pub(super) fn peek(&self, rule: &Rule, now: Now, cost: u32) -> Option<(u64, Left)> {
        let both = self.lock();
        let [Some(first), Some(second)] = both.each_ref().map(|half| (**half).as_ref()) else { return None };
        let free = first.free(rule, now) + second.free(rule, now);
        let newest = first.newest.max(second.newest);
        let idle_at = if free == rule.capacity() as usize { 0 } else { newest.saturating_add(rule.per()) };
        let left = Left { remaining: u32::try_from(free).unwrap_or(u32::MAX), position: 0, idle_at };
        let until =
            if cost as usize <= free { 0 } else { fits_at(first.times().chain(second.times()).collect(), rule, cost) };
        Some((until, left))
    }

    /// For a rule of at most 64 permits.
    pub(super) fn new(rule: &Rule) -> Halves {
        let half = |places| Line(Half { denied_until: AtomicU64::new(0), places: Lock::new(Some(places)) });
        Halves(Places::halves(rule).map(half))
    }

    /// Takes `cost` permits, from 1 to the capacity, in a call of the thread of that number.
    #[inline]
    pub(super) fn take(&self, rule: &Rule, thread: usize, now: Now, cost: u32) -> Verdict {
        let half = &self.0[thread % 2].0;
        // Written under the locks, with the state that it tells of.
        let denied_until = half.denied_until.load(Ordering::Acquire);
        if cost == 1 && now.earliest < denied_until {
            return Verdict::Denied { until: denied_until, position: 0 };
        }
        let taken = half.places.lock().as_mut().map(|places| places.take(rule, now, cost));
        match taken {
            Some(Some(at)) => Verdict::Admitted { at },
            Some(None) => self.take_from_both(rule, thread, now, cost),
            None => Verdict::Undecided,
        }
    }

    /// The fast path of [`take`](Halves::take): one permit, if that needs nothing but a free lock.
    #[inline]
    pub(super) fn try_take(&self, rule: &Rule, thread: usize, now: Now) -> Attempt {
        let half = &self.0[thread % 2].0;
        let denied_until = half.denied_until.load(Ordering::Acquire);
        if now.earliest < denied_until {
            return Attempt::Denied(denied_until);
        }
        let taken = half.places.try_lock().and_then(|mut places| places.as_mut()?.take(rule, now, 1));
        if taken.is_some() { Attempt::Admitted } else { Attempt::Contended }
    }

    /// Takes permits of which too few are free in the thread's own half. From the other half it gets as many as are missing
    /// and no less than half of those that are free there: a thread that goes on does not come back for each.
    #[cold]
    #[inline(never)]
    fn take_from_both(&self, rule: &Rule, thread: usize, now: Now, cost: u32) -> Verdict {
        let mut both = self.lock();
        let [Some(first), Some(second)] = both.each_mut().map(|half| (**half).as_mut()) else {
            return Verdict::Undecided;
        };
        let (own, other) = if thread.is_multiple_of(2) { (first, second) } else { (second, first) };
        let (here, there, wanted) = (own.free(rule, now), other.free(rule, now), cost as usize);
        if here + there < wanted {
            let until = fits_at(own.times().chain(other.times()).collect(), rule, cost);
            if cost == 1 {
                self.deny_until(until);
            }
            return Verdict::Denied { until, position: 0 };
        }
        let places = there.div_ceil(2).max(wanted.saturating_sub(here));
        (0..places).for_each(|_| own.add_first(other.remove_first()));
        match own.take(rule, Now { latest: now.latest.max(other.newest), ..now }, cost) {
            Some(at) => Verdict::Admitted { at },
            None => Verdict::Undecided,
        }
    }

    /// Takes back permits that were taken at `permit.at`; `false` if the window is kept elsewhere.
    pub(super) fn refund(&self, permit: Permit) -> bool {
        let mut both = self.lock();
        let [Some(first), Some(second)] = both.each_mut().map(|half| (**half).as_mut()) else { return false };
        self.deny_until(0);
        let left = first.give_back(permit.at, permit.cost);
        second.give_back(permit.at, left);
        true
    }

    /// The window, which is kept elsewhere from now on; `None` if it is already.
    pub(super) fn move_away(&self) -> Option<Window> {
        let mut both = self.lock();
        let window = window(&both)?;
        self.deny_until(0);
        for half in &mut both {
            **half = None;
        }
        Some(window)
    }

    /// The window is kept here again. Of more `times` than places, the newest count.
    pub(super) fn move_back(&self, rule: &Rule, times: &[u64]) {
        let newest = &times[times.len().saturating_sub(rule.capacity() as usize)..];
        let mut both = self.lock();
        self.deny_until(0);
        let mut halves = Places::halves(rule);
        for (index, time) in newest.iter().enumerate() {
            halves[index % 2].put_last(*time);
        }
        both.iter_mut().zip(halves).for_each(|(half, places)| **half = Some(places));
    }

    /// Forgets all.
    pub(super) fn reset(&self, rule: &Rule) {
        let mut both = self.lock();
        self.deny_until(0);
        both.iter_mut().zip(Places::halves(rule)).for_each(|(half, fresh)| **half = Some(fresh));
    }

    /// Always in this order.
    fn lock(&self) -> Both<'_> {
        self.0.each_ref().map(|half| half.0.places.lock())
    }

    /// Under both locks.
    fn deny_until(&self, until: u64) {
        self.0.iter().for_each(|half| half.0.denied_until.store(until, Ordering::Release));
    }
}

impl Places {
    /// All of a window, free.
    fn halves(rule: &Rule) -> [Places; 2] {
        let all = rule.capacity() as usize;
        [all.div_ceil(2), all / 2].map(|len| Places { times: Box::new([0; MOST]), first: 0, len, newest: 0 })
    }

    #[inline]
    fn index(&self, place: usize) -> usize {
        self.first.wrapping_add(place) % MOST
    }

    fn times(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.len).map(|place| self.times[self.index(place)])
    }

    /// Takes the first `cost` places, if they are free; the time that they are taken at.
    #[inline]
    fn take(&mut self, rule: &Rule, now: Now, cost: u32) -> Option<u64> {
        let cost = cost as usize;
        if cost > self.len || now.earliest.saturating_sub(self.times[self.index(cost - 1)]) < rule.per() {
            return None;
        }
        // The clock of another core may be a little behind.
        let at = now.latest.max(self.newest);
        for _ in 0..cost {
            self.put_last(at);
        }
        Some(at)
    }

    /// The first place is taken at `time`, and the last then.
    #[inline]
    fn put_last(&mut self, time: u64) {
        let behind_the_last = self.index(self.len);
        self.times[behind_the_last] = time;
        self.first = self.first.wrapping_add(1);
        self.newest = self.newest.max(time);
    }

    /// How many places are free.
    fn free(&self, rule: &Rule, now: Now) -> usize {
        self.times().take_while(|time| now.earliest.saturating_sub(*time) >= rule.per()).count()
    }

    /// Frees up to `permits` places that were taken at `at`; how many of the permits are left.
    fn give_back(&mut self, at: u64, permits: u32) -> u32 {
        let mut left = permits;
        let mut kept = Times::new();
        for time in self.times() {
            if time == at && left > 0 { left -= 1 } else { kept.push(time) }
        }
        let freed = self.len - kept.len();
        for (place, time) in std::iter::repeat_n(0, freed).chain(kept).enumerate() {
            let index = self.index(place);
            self.times[index] = time;
        }
        left
    }

    fn remove_first(&mut self) -> u64 {
        let time = self.times[self.index(0)];
        self.first = self.first.wrapping_add(1);
        self.len -= 1;
        time
    }

    fn add_first(&mut self, time: u64) {
        self.first = self.first.wrapping_sub(1);
        self.len += 1;
        let first = self.index(0);
        self.times[first] = time;
    }
}

/// When `cost` permits fit: as many as are wanted were taken by then, and a period has passed.
fn fits_at(mut times: Times, rule: &Rule, cost: u32) -> u64 {
    let (_, last, _) = times.select_nth_unstable(cost as usize - 1);
    last.saturating_add(rule.per())
}

fn window(both: &Both<'_>) -> Option<Window> {
    let [Some(first), Some(second)] = both.each_ref().map(|half| (**half).as_ref()) else { return None };
    let mut times: Times = first.times().chain(second.times()).filter(|time| *time > 0).collect();
    times.sort_unstable();
    Some(Window::of_singles(&times))
}

#[cfg(test)]
mod tests;
