//! A key's sliding window, as small as what is on record of it: nothing behind a pointer for the first few permits, and
//! a time for each group behind one for more of them.
//!
//! What most calls need is in the slot itself: the newest group, how many there are, where the oldest is. Behind the pointer
//! a call on a full window touches one time, that of the oldest group, in whose place the newest but one goes.

use smallvec::SmallVec;

use super::compact::{Compact, Left, Verdict, is_plain};
use super::ring::{Hot, window_record};
use crate::algorithm::Rule;
use crate::algorithm::groups::Group;
use crate::algorithm::record::{Record, State};

/// Groups from the oldest to the newest, which is `permits` up to the time `at`. Each older one has just as many permits as
/// a group holds.
#[derive(Debug)]
pub(super) enum Window {
    /// The newest alone; nobody has used the window where it has no permits.
    One {
        permits: u32,
        at: u64,
    },
    /// Single permits, as groups are up to a count of 64, in the order of their times.
    Few {
        len: u8,
        older: [Time; FEW],
        at: u64,
    },
    /// The older ones in a ring.
    Several {
        ring: Ring,
        permits: u32,
        at: u64,
        older: Box<[u64; SEVERAL]>,
    },
    /// The same, with places for as many as there can be.
    Many {
        ring: Ring,
        permits: u32,
        at: u64,
        older: Box<[u64; MANY]>,
    },
    /// Anything else: groups that calls for several permits have made bigger.
    Any(Box<Hot>),
    Moved,
}

const FEW: usize = 2;
const SEVERAL: usize = 9;
const MANY: usize = 63;

type Groups = SmallVec<[Group; 4]>;

impl Window {
    /// The smallest window of these groups, none of which is smaller than a group has to be but for the last, that has places
    /// for so many older ones; in the slot only if the next call may be expected to take a `single` permit.
    fn of(groups: &[Group], rule: &Rule, places: usize, single: bool) -> Option<Window> {
        let Some((newest, older)) = groups.split_last() else { return Some(Window::fresh()) };
        let (at, permits) = (newest.at, u32::try_from(newest.permits).ok()?);
        let full = u64::from(rule.group);
        let len = usize::try_from(older.iter().map(|group| group.permits / full).sum::<u64>()).ok()?;
        let places = places.max(len);
        // More than fit were taken while the limit was a larger one.
        let is_over = groups.iter().map(|group| group.permits).sum::<u64>() > rule.capacity().into();
        if is_over || places > most_older(rule) || older.iter().any(|group| !group.permits.is_multiple_of(full)) {
            return Some(Window::Any(Box::new(Hot::of(groups)?)));
        }
        let ring = |places: usize| Ring { first: 0, len: small(len), places: small(places.min(most_older(rule))) };
        Some(match places {
            0 => Window::One { permits, at },
            1..=FEW if single && full == 1 && permits == 1 && rule.per() <= Time::LONGEST => {
                Window::Few { len: small(len), older: times(older, full), at }
            }
            1..=SEVERAL => Window::Several { ring: ring(SEVERAL), permits, at, older: Box::new(times(older, full)) },
            _ => Window::Many { ring: ring(MANY), permits, at, older: Box::new(times(older, full)) },
        })
    }

    /// Takes `cost` permits that fit, but for which there is no place.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, rule: &Rule, now: u64, cost: u32) {
        let (now, mut groups) = (now.max(self.at()), self.groups(rule));
        let older = groups.iter().map(|group| group.permits / u64::from(rule.group)).sum::<u64>();
        let places = usize::try_from(older).unwrap_or(usize::MAX).min(most_older(rule));
        if let Some(mut grown) = Window::of(&groups, rule, places, cost == 1)
            && grown.take_in_place(rule, now, cost) == Ok(true)
        {
            *self = grown;
            return;
        }
        add(&mut groups, Group { at: now, permits: cost.into() });
        // All permits together are not more than the capacity, which is a `u32`.
        if let Some(window) = Hot::of(&groups) {
            *self = Window::Any(Box::new(window));
        }
    }

    /// As [`take`](Compact::take). `false`: they fit, but there is no place for one more group; nothing is taken.
    fn take_in_place(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<bool, u64> {
        match self {
            Window::One { permits, at } => {
                Log { ring: &mut Ring::default(), permits, at, older: &mut [0; 0] }.take(rule, now, cost)
            }
            Window::Few { len, older, at } => {
                let (mut ring, mut permits) = (Ring { first: 0, len: *len, places: small(FEW) }, 1);
                let mut log = Log { ring: &mut ring, permits: &mut permits, at, older };
                // Several at once are no single permits.
                let taken = if cost == 1 {
                    log.take(rule, now, cost)
                } else if log.is_over(rule, now) {
                    Ok(false)
                } else {
                    log.make_room(rule, now, cost).map(|()| false)
                };
                *len = ring.put_in_order(older);
                taken
            }
            Window::Several { ring, permits, at, older } => {
                Log { ring, permits, at, older: &mut **older }.take(rule, now, cost)
            }
            Window::Many { ring, permits, at, older } => {
                Log { ring, permits, at, older: &mut **older }.take(rule, now, cost)
            }
            Window::Any(window) => window.take_slowly(rule, now, cost).map(|()| true),
            Window::Moved => Ok(true),
        }
    }

    /// As [`take_one`](Compact::take_one).
    #[inline(never)]
    fn take_one_of_any(&mut self, rule: &Rule, now: u64) -> Verdict {
        let verdict = match self {
            Window::Several { ring, permits, at, older } => {
                return Log { ring, permits, at, older: &mut **older }.take_one(rule, now);
            }
            Window::Many { ring, permits, at, older } => {
                return Log { ring, permits, at, older: &mut **older }.take_one(rule, now);
            }
            Window::One { permits, at } => {
                Log { ring: &mut Ring::default(), permits, at, older: &mut [0; 0] }.take_one(rule, now)
            }
            Window::Few { len, older, at } => {
                let (mut ring, mut permits) = (Ring { first: 0, len: *len, places: small(FEW) }, 1);
                let verdict = Log { ring: &mut ring, permits: &mut permits, at, older }.take_one(rule, now);
                *len = ring.put_in_order(older);
                verdict
            }
            Window::Any(_) | Window::Moved => return Verdict::Unknown,
        };
        if verdict == Verdict::Unknown { self.grow_by_one(rule, now) } else { verdict }
    }

    /// As [`grow`](Window::grow), the usual first steps: single permits in the slot, and then behind a pointer.
    fn grow_by_one(&mut self, rule: &Rule, now: u64) -> Verdict {
        let now = now.max(self.at());
        *self = match *self {
            Window::One { permits: 1, at } if rule.group == 1 && rule.per() <= Time::LONGEST => {
                Window::Few { len: 1, older: [Time::new(at), Time::new(0)], at: now }
            }
            Window::Few { len: 2, older: [first, second], at } => {
                let ring = Ring { first: 0, len: 3, places: small(SEVERAL.min(most_older(rule))) };
                let older = Box::new([first.full(at), second.full(at), at, 0, 0, 0, 0, 0, 0]);
                Window::Several { ring, permits: 1, at: now, older }
            }
            _ => return Verdict::Unknown,
        };
        Verdict::Admitted
    }

    /// Time of the newest group.
    fn at(&self) -> u64 {
        match self {
            Window::One { at, .. } | Window::Few { at, .. } | Window::Several { at, .. } | Window::Many { at, .. } => {
                *at
            }
            Window::Any(window) => window.at(),
            Window::Moved => 0,
        }
    }

    /// Groups in the order of their times, never two of one time.
    fn groups(&self, rule: &Rule) -> Groups {
        let mut groups = Groups::new();
        self.each(rule, |group| add(&mut groups, group));
        groups
    }

    /// Runs `f` on all groups, of which some may be of one time.
    fn each(&self, rule: &Rule, mut f: impl FnMut(Group)) {
        let mut all = |older: &mut dyn Iterator<Item = u64>, permits: u32, at: u64| {
            older.for_each(|at| f(Group { at, permits: rule.group.into() }));
            f(Group { at, permits: permits.into() });
        };
        match self {
            Window::One { permits: 0, .. } | Window::Moved => {}
            Window::One { permits, at } => all(&mut std::iter::empty(), *permits, *at),
            Window::Few { len, older, at } => {
                all(&mut older[..usize::from(*len)].iter().map(|time| time.full(*at)), 1, *at);
            }
            Window::Several { ring, permits, at, older } => all(&mut ring.all(&**older), *permits, *at),
            Window::Many { ring, permits, at, older } => all(&mut ring.all(&**older), *permits, *at),
            Window::Any(window) => window.groups().for_each(f),
        }
    }
}

/// The most older groups of a window.
fn most_older(rule: &Rule) -> usize {
    ((rule.capacity() - 1) / rule.group) as usize
}

/// Adds a group that is not older than the last.
fn add(groups: &mut Groups, group: Group) {
    match groups.last_mut() {
        Some(last) if last.at == group.at => last.permits += group.permits,
        _ => groups.push(group),
    }
}

/// The times of groups, of each one as often as it has permits for a full one.
fn times<T: Stamp, const N: usize>(groups: &[Group], full: u64) -> [T; N] {
    let all = groups.iter().flat_map(|group| (0..group.permits / full).map(|_| T::new(group.at)));
    let mut times = [T::new(0); N];
    times.iter_mut().zip(all).for_each(|(place, time)| *place = time);
    times
}

/// A number of places, of which there are at most 63.
#[expect(clippy::cast_possible_truncation, reason = "see above")]
const fn small(places: usize) -> u8 {
    places as u8
}

impl Compact for Window {
    fn fresh() -> Window {
        Window::One { permits: 0, at: 0 }
    }

    fn moved() -> Window {
        Window::Moved
    }

    #[inline]
    fn is_moved(&self) -> bool {
        matches!(self, Window::Moved)
    }

    fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        if !self.take_in_place(rule, now, cost)? {
            self.grow(rule, now, cost);
        }
        Ok(())
    }

    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    fn take_one(&mut self, rule: &Rule, now: u64) -> Verdict {
        let turned = match self {
            Window::Several { ring, permits: 1, at, older } => ring.turn(&mut **older, at, rule, now),
            Window::Many { ring, permits: 1, at, older } => ring.turn(&mut **older, at, rule, now),
            _ => None,
        };
        turned.unwrap_or_else(|| self.take_one_of_any(rule, now))
    }

    fn left(&self, rule: &Rule, now: u64) -> Left {
        let mut remaining = u64::from(rule.capacity());
        self.each(rule, |group| {
            if now.saturating_sub(group.at) < rule.per() {
                remaining = remaining.saturating_sub(group.permits);
            }
        });
        Left { remaining: u32::try_from(remaining).unwrap_or(u32::MAX), fresh_at: self.fresh_at(rule) }
    }

    fn fresh_at(&self, rule: &Rule) -> u64 {
        match self {
            Window::One { permits: 0, .. } | Window::Moved => 0,
            window => window.at().saturating_add(rule.per()),
        }
    }

    fn is_denying(&self, rule: &Rule, now: u64) -> bool {
        self.left(rule, now).remaining == 0
    }

    fn to_record(&self, rule: &Rule, _: u64) -> Record {
        window_record(self.groups(rule))
    }

    fn from_record(record: &Record, rule: &Rule, now: u64) -> Option<Window> {
        let State::Sliding(window) = record.limits.first()? else { return None };
        let counts = |group: &&Group| group.permits > 0 && group.at.saturating_add(rule.per()) > now;
        let groups: Groups = window.groups.iter().filter(counts).copied().collect();
        let older = &groups[..groups.len().saturating_sub(1)];
        // Refunds leave holes.
        let is_full = |group: &Group| group.permits >= u64::from(rule.group);
        if is_plain(record, now) && older.iter().all(is_full) { Window::of(&groups, rule, 0, true) } else { None }
    }
}

/// Where the older groups of a window are among the places of an array, of which the first few are used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ring {
    /// Place of the oldest.
    first: u8,
    len: u8,
    places: u8,
}

#[expect(clippy::inline_always, reason = "see `Window::take_one`")]
impl Ring {
    /// Takes one permit if all places have times of single permits: the newest one, `at`, goes where the oldest was.
    #[inline(always)]
    fn turn(&mut self, older: &mut [u64], at: &mut u64, rule: &Rule, now: u64) -> Option<Verdict> {
        if rule.group != 1 || self.len != self.places {
            return None;
        }
        let oldest = older.get_mut(usize::from(self.first))?;
        // The clock of another core may be a little behind.
        let now = now.max(*at);
        if now - *oldest < rule.per() {
            let is_full = u32::from(self.len) + 1 >= rule.capacity();
            return is_full.then(|| Verdict::Denied(oldest.saturating_add(rule.per())));
        }
        *oldest = std::mem::replace(at, now);
        self.step();
        Some(Verdict::Admitted)
    }

    /// The next place is the first.
    #[inline(always)]
    fn step(&mut self) {
        self.first = if self.first + 1 < self.places { self.first + 1 } else { 0 };
    }

    /// Where the group of that index is, counted from the oldest.
    #[inline(always)]
    fn place(self, index: u8) -> usize {
        let place = usize::from(self.first) + usize::from(index);
        if place < usize::from(self.places) { place } else { place - usize::from(self.places) }
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.step();
        self.len -= 1;
    }

    fn all(self, times: &[u64]) -> impl Iterator<Item = u64> + '_ {
        (0..self.len).filter_map(move |index| times.get(self.place(index)).copied())
    }

    /// Moves the oldest of two places to the first one. The number of groups.
    #[inline(always)]
    fn put_in_order(self, older: &mut [Time; FEW]) -> u8 {
        if self.first > 0 {
            older.swap(0, 1);
        }
        self.len
    }
}

/// The groups of a window, of which the older ones are in a ring.
struct Log<'a, T> {
    ring: &'a mut Ring,
    permits: &'a mut u32,
    at: &'a mut u64,
    older: &'a mut [T],
}

impl<T: Stamp> Log<'_, T> {
    /// One permit, which is what most calls ask for: as [`take`](Log::take), but nothing is written before all is known. That
    /// one in its place takes 78 instructions more.
    #[inline]
    fn take_one(self, rule: &Rule, now: u64) -> Verdict {
        let (mut ring, permits, newest) = (*self.ring, *self.permits, *self.at);
        // The clock of another core may be a little behind.
        let now = now.max(newest);
        if permits == 0 || now - newest >= rule.per() {
            (*self.ring, *self.permits, *self.at) = (Ring { len: 0, ..ring }, 1, now);
            return Verdict::Admitted;
        }
        let is_full = u32::from(ring.len) * rule.group + permits >= rule.capacity();
        if is_full || ring.len == ring.places {
            let oldest = match self.older.get(usize::from(ring.first)) {
                Some(oldest) if ring.len > 0 => oldest.full(newest),
                _ => newest,
            };
            if now - oldest >= rule.per() {
                ring.pop();
            } else if is_full {
                return Verdict::Denied(oldest.saturating_add(rule.per()));
            }
        }
        if permits < rule.group || (newest == now && rule.group > 1) {
            *self.permits = permits + 1;
        } else {
            let Some(place) = self.older.get_mut(ring.place(ring.len)) else { return Verdict::Unknown };
            if permits > rule.group || ring.len == ring.places {
                return Verdict::Unknown;
            }
            *place = T::new(newest);
            ring.len += 1;
            *self.permits = 1;
        }
        (*self.ring, *self.at) = (ring, now);
        Verdict::Admitted
    }

    /// Takes `cost` permits, from 1 to the capacity, or says when they would fit. `false`: they fit, but there is no place
    /// for one more group; nothing is taken.
    fn take(mut self, rule: &Rule, now: u64, cost: u32) -> Result<bool, u64> {
        let now = now.max(*self.at);
        if self.is_over(rule, now) {
            (self.ring.len, *self.permits, *self.at) = (0, cost, now);
            return Ok(true);
        }
        self.make_room(rule, now, cost)?;
        if *self.permits < rule.group || (*self.at == now && rule.group > 1) {
            *self.permits += cost;
        } else if self.push_newest(rule, now) {
            *self.permits = cost;
        } else {
            return Ok(false);
        }
        *self.at = now;
        Ok(true)
    }

    /// Whether all is older than `per`.
    fn is_over(&self, rule: &Rule, now: u64) -> bool {
        *self.permits == 0 || now.saturating_sub(*self.at) >= rule.per()
    }

    /// Forgets what is older than `per` as far as `cost` more permits need it, or says when they fit. What else is that old
    /// can wait: so each call on a full window forgets one group, and how many it will be needs no guess from the processor.
    fn make_room(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        let now = now.max(*self.at);
        loop {
            let taken = u64::from(self.ring.len) * u64::from(rule.group) + u64::from(*self.permits);
            let above = (taken + u64::from(cost)).saturating_sub(rule.capacity().into());
            if above == 0 {
                return Ok(());
            }
            if !self.is_oldest_gone(rule, now) {
                let behind = u8::try_from((above - 1) / u64::from(rule.group)).unwrap_or(u8::MAX);
                return Err(self.time(behind).saturating_add(rule.per()));
            }
            self.ring.pop();
        }
    }

    /// The time of the group of that index, or of the newest where there are not as many older ones.
    fn time(&self, index: u8) -> u64 {
        match self.older.get(self.ring.place(index)) {
            Some(time) if index < self.ring.len => time.full(*self.at),
            _ => *self.at,
        }
    }

    fn is_oldest_gone(&self, rule: &Rule, now: u64) -> bool {
        self.ring.len > 0 && now - self.time(0) >= rule.per()
    }

    /// Adds the newest group to the older ones, if there are places for it, of which it takes several if it is as big as
    /// several.
    fn push_newest(&mut self, rule: &Rule, now: u64) -> bool {
        let groups = *self.permits / rule.group;
        if !self.permits.is_multiple_of(rule.group) {
            return false;
        }
        while u32::from(self.ring.len) + groups > u32::from(self.ring.places) {
            if !self.is_oldest_gone(rule, now) {
                return false;
            }
            self.ring.pop();
        }
        for _ in 0..groups {
            if let Some(place) = self.older.get_mut(self.ring.place(self.ring.len)) {
                *place = T::new(*self.at);
                self.ring.len += 1;
            }
        }
        true
    }
}

/// The time of a group, in as many bytes as there are.
trait Stamp: Copy {
    fn new(time: u64) -> Self;

    /// All of it, by a later one.
    fn full(self, later: u64) -> u64;
}

impl Stamp for u64 {
    #[inline]
    fn new(time: u64) -> u64 {
        time
    }

    #[inline]
    fn full(self, _: u64) -> u64 {
        self
    }
}

/// The low 56 bits of a time, which together with a later one say all of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    low: [u8; 4],
    middle: [u8; 2],
    high: u8,
}

impl Time {
    const BITS: u64 = (1 << 56) - 1;
    /// 13 days: 64 of them, as far as a group that is not forgotten can be behind the newest, fit into 56 bits.
    const LONGEST: u64 = 1 << 50;
}

impl Stamp for Time {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
    fn new(time: u64) -> Time {
        Time { low: (time as u32).to_le_bytes(), middle: ((time >> 32) as u16).to_le_bytes(), high: (time >> 48) as u8 }
    }

    #[inline]
    fn full(self, later: u64) -> u64 {
        let low = u64::from(u32::from_le_bytes(self.low));
        let time = low | u64::from(u16::from_le_bytes(self.middle)) << 32 | u64::from(self.high) << 48;
        later - (later.wrapping_sub(time) & Time::BITS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::algorithm::record::Ask;
    use crate::limit::Limit;

    const START: u64 = 1_700_000_000_000_000_000;

    #[test]
    fn a_window_takes_no_more_than_three_words_of_a_slot() {
        assert_eq!(size_of::<Window>(), 24);
    }

    #[test]
    fn times_are_told_apart_as_far_as_they_have_to_be() {
        for age in [0, 1, Time::LONGEST, 64 * Time::LONGEST - 1] {
            assert_eq!(Time::new(START - age).full(START), START - age);
        }
    }

    #[test]
    fn permits_that_have_long_gone_are_told_from_later_ones() {
        let periods = [1, 13, 14, 366].map(|days| Duration::from_secs(days * 86_400));
        for ((count, per), apart) in
            (4..70).flat_map(|count| periods.map(|per| (count, per))).zip([30, 50, 95].iter().cycle())
        {
            let rule = Rule::new(Limit::new(count, per));
            let mut window = Window::fresh();
            // 30, 50 or 95 hundredths of the period apart: no more than four count at any time.
            for number in 0..100 {
                let now = START + number * (rule.per() / 100 * apart);
                assert_eq!(take(&mut window, &rule, now, 1, number % 7 > 0), Ok(()), "{rule:?}");
            }
        }
    }

    /// As calls do: the quick way where there is one.
    fn take(window: &mut Window, rule: &Rule, now: u64, cost: u32, quickly: bool) -> Result<(), u64> {
        let verdict = if quickly && cost == 1 { window.take_one(rule, now) } else { Verdict::Unknown };
        match verdict {
            Verdict::Admitted => Ok(()),
            Verdict::Denied(until) => Err(until),
            Verdict::Unknown => window.take(rule, now, cost),
        }
    }

    proptest! {
        /// Beside the record that it stands for, which is held against a full log elsewhere.
        #[test]
        fn it_answers_as_the_record_that_it_stands_for(
            count in prop_oneof![1_u32..70, 65_u32..300, Just(100_000), Just(u32::MAX)],
            per in prop_oneof![Just(1_u64), 1_u64..1_000, Just(13 * 86_400_000_000), Just(366 * 86_400_000_000)],
            // By how many thousandths of the period the time goes on, how many permits, whether the quick way is tried, and
            // whether the window is turned into a record and back.
            steps in prop::collection::vec(
                (
                    prop_oneof![3 => Just(0_u64), 20 => 1..200_u64, 3 => 900..1_100_u64, 1 => 1_000..70_000_u64],
                    prop_oneof![9 => Just(1_u32), 2 => 2..6_u32, 1 => any::<u32>()],
                    prop::bool::weighted(0.8),
                    prop::bool::weighted(0.1),
                ),
                1..400,
            ),
        ) {
            let rule = Rule::new(Limit::new(count, Duration::from_micros(per)));
            let (mut window, mut record, mut now) = (Window::fresh(), Record::default(), START);
            for (ahead, cost, quickly, turned) in steps {
                now += rule.per() / 1_000 * ahead;
                if now > u64::MAX / 2 {
                    break;
                }
                let cost = cost.clamp(1, count);
                let ask = Ask { rules: &[rule], backoff: None, cost, max_wait: 0 };
                let expected = record.take(&ask, now).map(drop).map_err(|refusal| refusal.admitted_at.unwrap());
                prop_assert_eq!(take(&mut window, &rule, now, cost, quickly), expected);
                let left = record.peek(&Ask { cost: 0, ..ask }, now).unwrap();
                prop_assert_eq!(window.left(&rule, now).remaining, left.remaining);
                prop_assert_eq!(window.is_denying(&rule, now), record.peek(&Ask { cost: 1, ..ask }, now).is_err());
                prop_assert_eq!(window.fresh_at(&rule).max(now), record.fresh_at(&[rule], None).max(now));
                if turned {
                    let turned = window.to_record(&rule, now);
                    let State::Sliding(sliding) = &turned.limits[0] else { panic!("a window") };
                    prop_assert!(sliding.groups.iter().is_sorted_by(|one, next| one.at < next.at));
                    window = Window::from_record(&turned, &rule, now).unwrap();
                }
            }
        }

        #[test]
        fn a_clock_that_goes_back_counts_as_one_that_stands_still(
            count in prop_oneof![1_u32..70, 65_u32..300, Just(u32::MAX)],
            // By how many thousandths of the period the time goes on or back, how many permits, whether the quick way is tried.
            steps in prop::collection::vec(
                (
                    prop_oneof![20 => -100..200_i64, 3 => 900..1_100_i64, 1 => -2_000..2_000_i64],
                    prop_oneof![9 => Just(1_u32), 2 => 2..6_u32],
                    prop::bool::weighted(0.8),
                ),
                1..400,
            ),
        ) {
            let rule = Rule::new(Limit::new(count, Duration::from_micros(1)));
            let (mut window, mut now) = (Window::fresh(), START);
            for (ahead, cost, quickly) in steps {
                now = now.saturating_add_signed(ahead);
                let cost = cost.min(count);
                let ask = Ask { rules: &[rule], backoff: None, cost, max_wait: 0 };
                // By what was admitted so far, at no earlier time than the last of it.
                let mut record = window.to_record(&rule, now);
                let taken = record.take(&ask, now.max(record.newest));
                let expected = taken.map(drop).map_err(|refusal| refusal.admitted_at.unwrap());
                prop_assert_eq!(take(&mut window, &rule, now, cost, quickly), expected);
                prop_assert_eq!(window.at(), record.newest);
            }
        }
    }
}
