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

use super::compact::Verdict;
use super::ring::window_record;
use super::unkeyed::{Glance, Line};
use crate::algorithm::groups::Group;
use crate::algorithm::record::Record;
use crate::algorithm::{GROUPS, Rule};
use crate::sync::{AtomicU64, Guard, Lock, Ordering};

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
    /// For a rule of at most 64 permits.
    pub(super) fn new(rule: &Rule) -> Halves {
        let half = |places| Line(Half { denied_until: AtomicU64::new(0), places: Lock::new(Some(places)) });
        Halves(Places::halves(rule).map(half))
    }

    /// Takes `cost` permits, from 1 to the capacity, in a call of the thread of that number.
    #[inline]
    pub(super) fn take(&self, rule: &Rule, thread: usize, now: u64, cost: u32) -> Verdict {
        let half = &self.0[thread % 2].0;
        // Written under the locks, with the state that it tells of.
        let denied_until = half.denied_until.load(Ordering::Acquire);
        if cost == 1 && now < denied_until {
            return Verdict::Denied(denied_until);
        }
        let taken = half.places.lock().as_mut().map(|places| places.take(rule, now, cost));
        match taken {
            Some(true) => Verdict::Admitted,
            Some(false) => self.take_from_both(rule, thread, now, cost),
            None => Verdict::Unknown,
        }
    }

    /// As [`take`](Halves::take), one permit, as far as that calls nothing.
    #[inline]
    pub(super) fn glance(&self, rule: &Rule, thread: usize, now: u64) -> Glance {
        let half = &self.0[thread % 2].0;
        let denied_until = half.denied_until.load(Ordering::Acquire);
        if now < denied_until {
            return Glance::Denied(denied_until);
        }
        let is_taken = half.places.try_lock().and_then(|mut places| Some(places.as_mut()?.take(rule, now, 1)));
        if is_taken == Some(true) { Glance::Admitted } else { Glance::Unclear }
    }

    /// Takes permits of which too few are free in the thread's own half. From the other half it gets as many as are missing
    /// and no less than half of those that are free there: a thread that goes on does not come back for each.
    #[cold]
    #[inline(never)]
    fn take_from_both(&self, rule: &Rule, thread: usize, now: u64, cost: u32) -> Verdict {
        let mut both = self.lock();
        let [Some(first), Some(second)] = both.each_mut().map(|half| (**half).as_mut()) else {
            return Verdict::Unknown;
        };
        let now = now.max(first.newest).max(second.newest);
        let (own, other) = if thread.is_multiple_of(2) { (first, second) } else { (second, first) };
        let (here, there, wanted) = (own.free(rule, now), other.free(rule, now), cost as usize);
        if here + there < wanted {
            let mut times: Times = own.times().chain(other.times()).collect();
            // By when as many as are wanted were taken last.
            let (_, last, _) = times.select_nth_unstable(wanted - 1);
            let until = last.saturating_add(rule.per());
            if cost == 1 {
                self.deny_until(until);
            }
            return Verdict::Denied(until);
        }
        let places = there.div_ceil(2).max(wanted.saturating_sub(here));
        (0..places).for_each(|_| own.add_first(other.remove_first()));
        own.take(rule, now, cost);
        Verdict::Admitted
    }

    /// The window as a record, unchanged; `None` where it is kept as one elsewhere.
    pub(super) fn record(&self) -> Option<Record> {
        record(&self.lock())
    }

    /// As [`record`](Halves::record), and it is kept elsewhere from now on.
    pub(super) fn move_away(&self) -> Option<Record> {
        let mut both = self.lock();
        let record = record(&both)?;
        self.deny_until(0);
        for half in &mut both {
            **half = None;
        }
        Some(record)
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

    /// Takes the first `cost` places, if they are free.
    #[inline]
    fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> bool {
        // The clock of another core may be a little behind.
        let (now, cost) = (now.max(self.newest), cost as usize);
        if cost > self.len || now - self.times[self.index(cost - 1)] < rule.per() {
            return false;
        }
        for _ in 0..cost {
            let behind_the_last = self.index(self.len);
            self.times[behind_the_last] = now;
            self.first = self.first.wrapping_add(1);
        }
        self.newest = now;
        true
    }

    /// How many places are free at `now`, which is not before the newest time.
    fn free(&self, rule: &Rule, now: u64) -> usize {
        self.times().take_while(|time| now - time >= rule.per()).count()
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

fn record(both: &Both<'_>) -> Option<Record> {
    let [Some(first), Some(second)] = both.each_ref().map(|half| (**half).as_ref()) else { return None };
    let mut times: Times = first.times().chain(second.times()).collect();
    times.sort_unstable();
    let groups = times.chunk_by(|one, next| one == next);
    Some(window_record(groups.map(|times| Group { at: times[0], permits: times.len() as u64 })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::algorithm::record::{Ask, State};
    use crate::limit::Limit;

    const START: u64 = 1_700_000_000_000_000_000;

    /// A full log of what was admitted, a time for each permit; no time is earlier than one before.
    #[derive(Default)]
    struct Log(Vec<u64>);

    impl Log {
        fn newest(&self) -> u64 {
            self.0.last().copied().unwrap_or(0)
        }

        /// Takes `cost` permits, or says when they fit: by the first time at which no more than `count` of them are younger
        /// than `per`.
        fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> Verdict {
            let now = now.max(self.newest());
            let taken = |at: u64| self.0.iter().filter(|time| at - **time < rule.per()).count();
            let fits = |at: &u64| taken(*at) + cost as usize <= rule.capacity() as usize;
            let ends = self.0.iter().map(|time| time + rule.per()).filter(|end| *end > now);
            match std::iter::once(now).chain(ends).find(fits) {
                Some(at) if at == now => {
                    self.0.extend((0..cost).map(|_| now));
                    Verdict::Admitted
                }
                Some(at) => Verdict::Denied(at),
                None => Verdict::Unknown,
            }
        }

        fn remaining(&self, rule: &Rule, now: u64) -> usize {
            let now = now.max(self.newest());
            rule.capacity() as usize - self.0.iter().filter(|time| now - **time < rule.per()).count()
        }
    }

    fn remaining(halves: &Halves, rule: &Rule, now: u64) -> usize {
        let record = halves.record().unwrap();
        let State::Sliding(window) = &record.limits[0] else { panic!("a window") };
        assert!(window.groups.iter().is_sorted_by(|one, next| one.at < next.at));
        let ask = Ask { rules: &[*rule], backoff: None, cost: 0, max_wait: 0 };
        record.peek(&ask, now.max(record.newest)).unwrap().remaining as usize
    }

    /// What one call does: nanoseconds by which its clock goes on (or back), its thread, how many permits it takes.
    fn calls(ahead: impl Strategy<Value = i64>) -> impl Strategy<Value = Vec<(i64, usize, u32)>> {
        // Threads that come in turns, and one that comes for long.
        let thread = prop_oneof![4 => Just(0_usize), 4 => Just(1), 1 => Just(usize::MAX)];
        let cost = prop_oneof![8 => Just(1_u32), 2 => 2..6_u32, 1 => 1..65_u32];
        prop::collection::vec((ahead, thread, cost), 1..400)
    }

    fn rule(count: u32, per: u64) -> Rule {
        Rule::new(Limit::new(count, Duration::from_micros(per)))
    }

    proptest! {
        #[test]
        fn threads_of_both_halves_get_what_a_full_log_admits(
            count in prop_oneof![1..65_u32, 1..6_u32, Just(64)],
            calls in calls(prop_oneof![3 => Just(0_i64), 8 => 0..60_i64, 3 => 900..1_100_i64, 1 => 0..5_000_i64]),
        ) {
            let rule = rule(count, 1);
            let (halves, mut log, mut now) = (Halves::new(&rule), Log::default(), START);
            for (ahead, thread, cost) in calls {
                now = now.saturating_add_signed(ahead);
                let cost = cost.min(count);
                prop_assert_eq!(halves.take(&rule, thread, now, cost), log.take(&rule, now, cost));
                prop_assert_eq!(remaining(&halves, &rule, now), log.remaining(&rule, now));
            }
        }

        #[test]
        fn a_clock_that_goes_back_counts_as_one_that_stands_still(
            count in 1..65_u32,
            thread in 0..2_usize,
            calls in calls(prop_oneof![8 => -60..120_i64, 2 => 900..1_100_i64, 1 => -5_000..5_000_i64]),
        ) {
            let rule = rule(count, 1);
            let (halves, mut log, mut now) = (Halves::new(&rule), Log::default(), START);
            for (ahead, _, cost) in calls {
                now = now.saturating_add_signed(ahead);
                let cost = cost.min(count);
                match halves.take(&rule, thread, now, cost) {
                    // By a denial that was told before: until a time that only the clocks of other calls have reached.
                    Verdict::Denied(until) if until <= log.newest() => prop_assert!(cost == 1 && now < until),
                    verdict => prop_assert_eq!(verdict, log.take(&rule, now, cost)),
                }
            }
        }

        /// By how much the clock of one core is behind another's, by so much can a permit come back too early.
        #[test]
        fn threads_whose_clocks_differ_get_no_more_than_a_log_of_a_period_that_is_shorter_by_as_much(
            count in prop_oneof![1..65_u32, 1..6_u32],
            behind in 0..100_u64,
            calls in calls(prop_oneof![3 => Just(0_i64), 8 => 0..60_i64, 3 => 900..1_100_i64]),
        ) {
            let rule = rule(count, 1);
            let (halves, mut admitted, mut now) = (Halves::new(&rule), Vec::new(), START);
            for (ahead, thread, cost) in calls {
                now = now.saturating_add_signed(ahead);
                let (cost, read) = (cost.min(count), if thread == 1 { now - behind } else { now });
                if halves.take(&rule, thread, read, cost) == Verdict::Admitted {
                    admitted.extend((0..cost).map(|_| now));
                }
            }
            for window in admitted.windows(count as usize + 1) {
                prop_assert!(window[count as usize] - window[0] >= rule.per() - behind);
            }
        }
    }

    #[test]
    fn a_thread_that_goes_on_has_all_places_in_its_half_before_long() {
        let rule = rule(64, 1);
        let halves = Halves::new(&rule);
        for period in 0..2 {
            for _ in 0..64 {
                assert_eq!(halves.take(&rule, 1, START + period * rule.per(), 1), Verdict::Admitted);
            }
        }
        let [first, second] = halves.lock().map(|half| half.as_ref().unwrap().len);
        assert_eq!((first, second), (0, 64));
    }

    #[test]
    fn a_half_gets_half_of_what_is_free_in_the_other() {
        let rule = rule(64, 1);
        let halves = Halves::new(&rule);
        for _ in 0..33 {
            assert_eq!(halves.take(&rule, 0, START, 1), Verdict::Admitted);
        }
        let [first, second] = halves.lock().map(|half| half.as_ref().unwrap().len);
        assert_eq!((first, second), (48, 16));
    }

    /// A window of two permits that both threads are denied.
    fn used_up(rule: &Rule) -> Halves {
        let halves = Halves::new(rule);
        assert_eq!(halves.take(rule, 0, START, 2), Verdict::Admitted);
        assert_eq!(halves.take(rule, 0, START, 1), Verdict::Denied(START + rule.per()));
        for half in &halves.0 {
            assert_eq!(half.0.denied_until.load(Ordering::Relaxed), START + rule.per());
        }
        halves
    }

    #[test]
    fn once_it_is_kept_elsewhere_no_half_decides() {
        let rule = rule(2, 1);
        let halves = used_up(&rule);
        assert!(halves.move_away().is_some() && halves.move_away().is_none() && halves.record().is_none());
        for (thread, cost) in [(0, 1), (1, 1), (0, 2)] {
            assert_eq!(halves.take(&rule, thread, START, cost), Verdict::Unknown);
        }
        halves.reset(&rule);
        assert_eq!(halves.take(&rule, 0, START, 2), Verdict::Admitted);
    }

    #[test]
    fn once_it_is_reset_neither_half_denies() {
        let rule = rule(2, 1);
        for thread in [0, 1] {
            let halves = used_up(&rule);
            halves.reset(&rule);
            assert_eq!([1; 2].map(|cost| halves.take(&rule, thread, START, cost)), [Verdict::Admitted; 2]);
        }
    }
}
