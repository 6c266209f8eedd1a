//! The sliding window of a limiter without keys, for a count of up to 64: its permits are kept one
//! by one.
//!
//! Each permit has a place, which holds the time of its last use. The place is free again `per`
//! after that time. So no interval of `per` ever holds more permits than there are places,
//! whichever places a call takes.
//!
//! The places are in two stripes, with one lock each. A thread takes free places of its own stripe.
//! Threads of both stripes meet only if one stripe is exhausted and gets places of the other. A call
//! is denied if too few places are free in both stripes together.
//!
//! A stripe records the latest time that it has seen, because its caller's clock may be behind. A
//! permit can come back too early by the difference between the clocks of two cores, as it can with
//! all permits under one lock.

use smallvec::SmallVec;

use super::state::{Attempt, Left, Permit, Verdict, Window};
use crate::algorithm::{GROUPS, Rule};
use crate::limit::Algorithm;
use crate::rt::clock::Now;
use crate::rt::sync::{AtomicU64, Guard, Line, Lock, Ordering};

/// All places of a window.
pub(super) struct StripedPermits([Line<Stripe>; 2]);

/// In one cache line, except for the times.
struct Stripe {
    /// A call for one permit is denied until this time. Both stripes hold the same value, written
    /// under both locks.
    denied_until: AtomicU64,
    /// `None` while the window is kept elsewhere.
    places: Lock<Option<Places>>,
}

/// A ring of places. The free places come first, in any order. The others follow, in the order in
/// which they become free.
#[derive(Debug)]
struct Places {
    /// When each place was last taken; 0 (in 1970) if never.
    times: Box<[u64; MOST]>,
    /// Index of the first place, modulo the size of the ring.
    first: usize,
    len: usize,
    /// No time in the ring is later.
    newest: u64,
}

/// The most places of a window.
const MOST: usize = GROUPS as usize;

type Both<'a> = [Guard<'a, Option<Places>>; 2];
type Times = SmallVec<[u64; MOST]>;

impl StripedPermits {
    /// Whether a window of this rule consists of single permits.
    pub(super) fn fits(rule: &Rule) -> bool {
        rule.limit.algorithm() == Algorithm::SlidingWindow && rule.group == 1 && rule.capacity() > 0
    }

    /// When `cost` permits fit, and the permits left. `None` if the window is kept elsewhere.
    pub(super) fn peek(&self, rule: &Rule, now: Now, cost: u32) -> Option<(u64, Left)> {
        let both = self.lock();
        let [Some(first), Some(second)] = both.each_ref().map(|stripe| (**stripe).as_ref()) else { return None };
        let free = first.free(rule, now) + second.free(rule, now);
        let newest = first.newest.max(second.newest);
        let idle_at = if free == rule.capacity() as usize { 0 } else { newest.saturating_add(rule.per()) };
        let left = Left { remaining: u32::try_from(free).unwrap_or(u32::MAX), idle_at, ..Left::default() };
        let until = if cost as usize <= free { 0 } else { fits_at([first, second], rule, now, cost) };
        Some((until, left))
    }

    /// For a rule with at most 64 permits.
    pub(super) fn new(rule: &Rule) -> StripedPermits {
        let stripe = |places| Line(Stripe { denied_until: AtomicU64::new(0), places: Lock::new(Some(places)) });
        StripedPermits(Places::stripes(rule).map(stripe))
    }

    /// Takes `cost` permits, from 1 to the capacity, on thread number `thread`.
    #[inline]
    pub(super) fn take(&self, rule: &Rule, thread: usize, now: Now, cost: u32) -> Verdict {
        let stripe = &self.0[thread % 2].0;
        // Written under the locks, together with the state that it describes.
        let denied_until = stripe.denied_until.load(Ordering::Acquire);
        if cost == 1 && now.earliest < denied_until {
            return Verdict::Denied { until: denied_until, position: 0 };
        }
        let taken = stripe.places.lock().as_mut().map(|places| places.take(rule, now, cost));
        match taken {
            Some(Some(at)) => Verdict::Admitted { at },
            Some(None) => self.take_from_both(rule, thread, now, cost),
            None => Verdict::Undecided,
        }
    }

    /// The fast path of [`take`](StripedPermits::take), if that needs only a free lock.
    #[inline]
    pub(super) fn try_take(&self, rule: &Rule, thread: usize, now: Now, cost: u32) -> Attempt {
        let stripe = &self.0[thread % 2].0;
        let denied_until = stripe.denied_until.load(Ordering::Acquire);
        if now.earliest < denied_until && cost == 1 {
            return Attempt::Denied(denied_until);
        }
        let taken = stripe.places.try_lock().and_then(|mut places| places.as_mut()?.take(rule, now, cost));
        if taken.is_some() { Attempt::Admitted } else { Attempt::Contended }
    }

    /// Takes permits if the thread's own stripe has too few free places. It moves as many places from
    /// the other stripe as are missing, and at least half of the free ones there. A thread that goes
    /// on calling then does not come back for each permit.
    #[cold]
    #[inline(never)]
    fn take_from_both(&self, rule: &Rule, thread: usize, now: Now, cost: u32) -> Verdict {
        let mut both = self.lock();
        let [Some(first), Some(second)] = both.each_mut().map(|stripe| (**stripe).as_mut()) else {
            return Verdict::Undecided;
        };
        let (own, other) = if thread.is_multiple_of(2) { (first, second) } else { (second, first) };
        let (here, there, wanted) = (own.free(rule, now), other.free(rule, now), cost as usize);
        if here + there < wanted {
            let until = fits_at([own, other], rule, now, cost);
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

    /// Takes back permits that were taken at `permit.at`. `false` if the window is kept elsewhere.
    pub(super) fn refund(&self, permit: Permit) -> bool {
        let mut both = self.lock();
        let [Some(first), Some(second)] = both.each_mut().map(|stripe| (**stripe).as_mut()) else { return false };
        self.deny_until(0);
        let left = first.give_back(permit.at, permit.cost);
        second.give_back(permit.at, left);
        true
    }

    /// Takes the window out, to be kept elsewhere from now on. `None` if it is elsewhere already.
    pub(super) fn move_away(&self) -> Option<Window> {
        let mut both = self.lock();
        let window = window(&both)?;
        self.deny_until(0);
        for stripe in &mut both {
            **stripe = None;
        }
        Some(window)
    }

    /// Puts the window back. If there are more `times` than places, the newest count.
    pub(super) fn move_back(&self, rule: &Rule, times: &[u64]) {
        let newest = &times[times.len().saturating_sub(rule.capacity() as usize)..];
        let mut both = self.lock();
        self.deny_until(0);
        let mut stripes = Places::stripes(rule);
        for (index, time) in newest.iter().enumerate() {
            stripes[index % 2].put_last(*time);
        }
        both.iter_mut().zip(stripes).for_each(|(stripe, places)| **stripe = Some(places));
    }

    /// Frees all places, unless the window is kept elsewhere.
    pub(super) fn reset(&self, rule: &Rule) {
        let mut both = self.lock();
        self.deny_until(0);
        for (stripe, fresh) in both.iter_mut().zip(Places::stripes(rule)) {
            if let Some(places) = &mut **stripe {
                *places = fresh;
            }
        }
    }

    /// Takes both locks, always in this order.
    fn lock(&self) -> Both<'_> {
        self.0.each_ref().map(|stripe| stripe.0.places.lock())
    }

    /// Call under both locks.
    fn deny_until(&self, until: u64) {
        self.0.iter().for_each(|stripe| stripe.0.denied_until.store(until, Ordering::Release));
    }
}

impl Places {
    /// All places of a window, free.
    fn stripes(rule: &Rule) -> [Places; 2] {
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

    /// Takes the first `cost` places, if they are free. Returns the recorded time.
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

    /// Takes the first place at `time`, which makes it the last place.
    #[inline]
    fn put_last(&mut self, time: u64) {
        let behind_the_last = self.index(self.len);
        self.times[behind_the_last] = time;
        self.first = self.first.wrapping_add(1);
        self.newest = self.newest.max(time);
    }

    /// The number of free places.
    fn free(&self, rule: &Rule, now: Now) -> usize {
        self.times().take_while(|time| now.earliest.saturating_sub(*time) >= rule.per()).count()
    }

    /// Frees up to `permits` places that were taken at `at`. Returns the number of permits left
    /// over.
    fn give_back(&mut self, at: u64, permits: u32) -> u32 {
        let mut left = permits;
        let mut kept = Times::new();
        for time in self.times() {
            if time == at && left > 0 { left -= 1 } else { kept.push(time) }
        }
        let freed = self.len - kept.len();
        self.newest = kept.iter().copied().max().unwrap_or_default();
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

/// When `cost` permits fit that do not fit now: `per` after the `cost`th oldest time.
fn fits_at(stripes: [&Places; 2], rule: &Rule, now: Now, cost: u32) -> u64 {
    let free = stripes.map(|places| places.free(rule, now));
    // The others are in order.
    let [mut first, mut second] = [0, 1].map(|stripe| stripes[stripe].times().skip(free[stripe]).peekable());
    let mut last = 0;
    for _ in free[0] + free[1]..cost as usize {
        let is_first = second.peek().is_none_or(|second| first.peek().is_some_and(|first| first <= second));
        last = if is_first { first.next() } else { second.next() }.unwrap_or(u64::MAX);
    }
    last.saturating_add(rule.per())
}

fn window(both: &Both<'_>) -> Option<Window> {
    let [Some(first), Some(second)] = both.each_ref().map(|stripe| (**stripe).as_ref()) else { return None };
    let mut times: Times = first.times().chain(second.times()).filter(|time| *time > 0).collect();
    times.sort_unstable();
    Some(Window::of_singles(&times))
}

#[cfg(test)]
mod tests;
