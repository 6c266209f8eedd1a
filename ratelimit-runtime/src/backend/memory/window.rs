//! A key's sliding window, as small as what is on record of it: nothing behind a pointer for the first few permits, and
//! seven bytes a group behind one for more of them.
//!
//! What most calls need is in the slot itself: the newest group, how many there are, where the oldest is.

use smallvec::SmallVec;

use super::compact::{Compact, Left, is_plain};
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
    /// Single permits, as groups are up to a count of 64.
    Few {
        len: u8,
        older: [Time; 2],
        at: u64,
    },
    /// The older ones in a ring.
    Several {
        first: u8,
        len: u8,
        permits: u32,
        at: u64,
        older: Box<[Time; 9]>,
    },
    /// The same, with places for as many as there can be.
    Many {
        first: u8,
        len: u8,
        permits: u32,
        at: u64,
        older: Box<[Time; 63]>,
    },
    /// Anything else: groups that calls for several permits have made bigger, or a longer period.
    Any(Box<Hot>),
    Moved,
}

type Groups = SmallVec<[Group; 4]>;

impl Window {
    /// The smallest window of these groups, none of which is smaller than a group has to be but for the last.
    fn of(groups: &[Group], rule: &Rule) -> Option<Window> {
        let Some((newest, older)) = groups.split_last() else { return Some(Window::fresh()) };
        let (at, permits) = (newest.at, u32::try_from(newest.permits).ok()?);
        if older.is_empty() {
            return Some(Window::One { permits, at });
        }
        let full = u64::from(rule.group);
        let is_even = rule.per() <= Time::LONGEST && older.iter().all(|group| group.permits % full == 0);
        let len: u64 = older.iter().map(|group| group.permits / full).sum();
        let len = u8::try_from(len).ok().filter(|_| is_even).unwrap_or(u8::MAX);
        Some(match len {
            0..=2 if full == 1 && permits == 1 => Window::Few { len, older: times(older, full), at },
            0..=9 => Window::Several { first: 0, len, permits, at, older: Box::new(times(older, full)) },
            10..=63 => Window::Many { first: 0, len, permits, at, older: Box::new(times(older, full)) },
            _ => Window::Any(Box::new(Hot::of(groups)?)),
        })
    }

    /// Adds a group where there is no place for it.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, rule: &Rule, now: u64, cost: u32) {
        let now = now.max(self.at());
        if let Window::Few { len: 2, older: [a, b], at } = self
            && cost == 1
        {
            let mut older = Box::new([Time::ZERO; 9]);
            older[..3].copy_from_slice(&[*a, *b, Time::new(*at)]);
            *self = Window::Several { first: 0, len: 3, permits: 1, at: now, older };
            return;
        }
        let mut groups = self.groups(rule);
        add(&mut groups, Group { at: now, permits: cost.into() });
        // All permits together are not more than the capacity, which is a `u32`.
        if let Some(window) = Window::of(&groups, rule) {
            *self = window;
        }
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

    #[inline(never)]
    fn take_of_few(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<bool, u64> {
        let Window::Few { len, older, at } = self else { return Ok(false) };
        let (mut first, mut permits) = (0, 1);
        let is_taken = Ring { first: &mut first, len, permits: &mut permits, at, older }.take(rule, now, cost);
        if first > 0 {
            older.swap(0, 1);
        }
        if permits != 1 {
            // Several at once: they are one group.
            *self = Window::of_few(*len, *older, permits, *at);
        }
        is_taken
    }

    /// A few single permits, and a newest group of any number.
    #[cold]
    #[inline(never)]
    fn of_few(len: u8, older: [Time; 2], permits: u32, at: u64) -> Window {
        if len == 0 {
            return Window::One { permits, at };
        }
        let mut places = Box::new([Time::ZERO; 9]);
        places[..2].copy_from_slice(&older);
        Window::Several { first: 0, len, permits, at, older: places }
    }

    /// Groups in the order of their times, never two of one time.
    fn groups(&self, rule: &Rule) -> Groups {
        let mut groups = Groups::new();
        self.each(rule, |group| add(&mut groups, group));
        groups
    }

    /// Runs `f` on all groups, of which some may be of one time.
    fn each(&self, rule: &Rule, mut f: impl FnMut(Group)) {
        let mut all = |times: &[Time], first: u8, len: u8, newest: Group| {
            let at = |index| times[place(times, first, index)].before(newest.at);
            (0..len).for_each(|index| f(Group { at: at(index), permits: rule.group.into() }));
            f(newest);
        };
        match self {
            Window::One { permits: 0, .. } | Window::Moved => {}
            Window::One { permits, at } => all(&[], 0, 0, Group { at: *at, permits: u64::from(*permits) }),
            Window::Few { len, older, at } => all(older, 0, *len, Group { at: *at, permits: 1 }),
            Window::Several { first, len, permits, at, older } => {
                all(&older[..], *first, *len, Group { at: *at, permits: u64::from(*permits) });
            }
            Window::Many { first, len, permits, at, older } => {
                all(&older[..], *first, *len, Group { at: *at, permits: u64::from(*permits) });
            }
            Window::Any(window) => window.groups().for_each(f),
        }
    }
}

/// Adds a group that is not older than the last.
fn add(groups: &mut Groups, group: Group) {
    match groups.last_mut() {
        Some(last) if last.at == group.at => last.permits += group.permits,
        _ => groups.push(group),
    }
}

/// The times of groups, of each one as often as it has permits for a full one.
fn times<const N: usize>(groups: &[Group], full: u64) -> [Time; N] {
    let all = groups.iter().flat_map(|group| (0..group.permits / full).map(|_| Time::new(group.at)));
    let mut times = [Time::ZERO; N];
    times.iter_mut().zip(all).for_each(|(place, time)| *place = time);
    times
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

    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    fn take(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        let is_taken = match self {
            Window::One { permits, at } => {
                let now = now.max(*at);
                if *permits == 0 || now - *at >= rule.per() {
                    (*permits, *at) = (cost, now);
                    true
                } else if u64::from(*permits) + u64::from(cost) > u64::from(rule.capacity()) {
                    return Err(at.saturating_add(rule.per()));
                } else if *at == now || *permits < rule.group {
                    (*permits, *at) = (*permits + cost, now);
                    true
                } else if rule.group == 1 && *permits == 1 && cost == 1 && rule.per() <= Time::LONGEST {
                    *self = Window::Few { len: 1, older: [Time::new(*at), Time::ZERO], at: now };
                    true
                } else {
                    false
                }
            }
            Window::Few { .. } => self.take_of_few(rule, now, cost)?,
            Window::Any(window) => return window.take_slowly(rule, now, cost),
            Window::Moved => true,
            Window::Several { first, len, permits, at, older } => {
                Ring { first, len, permits, at, older: &mut older[..] }.take(rule, now, cost)?
            }
            Window::Many { first, len, permits, at, older } => {
                Ring { first, len, permits, at, older: &mut older[..] }.take(rule, now, cost)?
            }
        };
        if !is_taken {
            self.grow(rule, now, cost);
        }
        Ok(())
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
        let groups: Groups = window.groups.iter().copied().collect();
        let older = &groups[..groups.len().saturating_sub(1)];
        // Refunds leave holes.
        let is_full = |group: &Group| group.permits >= u64::from(rule.group);
        if is_plain(record, now) && older.iter().all(is_full) { Window::of(&groups, rule) } else { None }
    }
}

/// The groups of a window, the older of which are in a ring.
struct Ring<'a> {
    /// Place of the oldest.
    first: &'a mut u8,
    len: &'a mut u8,
    permits: &'a mut u32,
    at: &'a mut u64,
    older: &'a mut [Time],
}

#[expect(clippy::inline_always, reason = "see `Window::take`")]
impl Ring<'_> {
    /// Takes `cost` permits, from 1 to the capacity, or says when they would fit. `false`: they fit, but there is no place
    /// for one more group; nothing is taken.
    #[inline(always)]
    fn take(mut self, rule: &Rule, now: u64, cost: u32) -> Result<bool, u64> {
        // The clock of another core may be a little behind.
        let now = now.max(*self.at);
        if now - *self.at >= rule.per() {
            (*self.len, *self.permits, *self.at) = (0, cost, now);
            return Ok(true);
        }
        self.make_room(rule, now, cost)?;
        if *self.permits < rule.group || *self.at == now {
            *self.permits += cost;
        } else if self.push_newest(rule, now) {
            *self.permits = cost;
        } else {
            return Ok(false);
        }
        *self.at = now;
        Ok(true)
    }

    /// Forgets what is older than `per` as far as `cost` more permits need it, or says when they fit. What else is that old
    /// can wait: so each call on a full window forgets one group, and how many it will be needs no guess from the processor.
    #[inline(always)]
    fn make_room(&mut self, rule: &Rule, now: u64, cost: u32) -> Result<(), u64> {
        loop {
            let taken = u64::from(*self.len) * u64::from(rule.group) + u64::from(*self.permits);
            let wanted = taken + u64::from(cost);
            if wanted <= u64::from(rule.capacity()) {
                return Ok(());
            }
            if !self.is_oldest_gone(rule, now) {
                return Err(self.end(rule, wanted - u64::from(rule.capacity())));
            }
            self.pop();
        }
    }

    /// When so many permits will have gone, of which there are as many.
    #[inline(always)]
    fn end(&self, rule: &Rule, permits: u64) -> u64 {
        let behind = if permits <= u64::from(rule.group) { 0 } else { (permits - 1) / u64::from(rule.group) };
        let at = match u8::try_from(behind) {
            Ok(behind) if behind < *self.len => self.time(behind),
            _ => *self.at,
        };
        at.saturating_add(rule.per())
    }

    #[inline(always)]
    fn time(&self, index: u8) -> u64 {
        self.older[place(self.older, *self.first, index)].before(*self.at)
    }

    #[inline(always)]
    fn is_oldest_gone(&self, rule: &Rule, now: u64) -> bool {
        *self.len > 0 && now.saturating_sub(self.time(0)) >= rule.per()
    }

    #[inline(always)]
    fn pop(&mut self) {
        *self.first = if usize::from(*self.first) + 1 < self.older.len() { *self.first + 1 } else { 0 };
        *self.len -= 1;
    }

    /// Adds the newest group to the older ones, if there is a place for it.
    #[inline(always)]
    fn push_newest(&mut self, rule: &Rule, now: u64) -> bool {
        if *self.permits != rule.group || usize::from(*self.len) == self.older.len() {
            return self.push_slowly(rule, now);
        }
        self.older[place(self.older, *self.first, *self.len)] = Time::new(*self.at);
        *self.len += 1;
        true
    }

    /// The same for a group that is as big as several, or where places are to be made free first.
    #[cold]
    #[inline(never)]
    fn push_slowly(&mut self, rule: &Rule, now: u64) -> bool {
        while self.is_oldest_gone(rule, now) {
            self.pop();
        }
        let groups = *self.permits / rule.group;
        if !self.permits.is_multiple_of(rule.group) || groups as usize > self.older.len() - usize::from(*self.len) {
            return false;
        }
        for _ in 0..groups {
            self.older[place(self.older, *self.first, *self.len)] = Time::new(*self.at);
            *self.len += 1;
        }
        true
    }
}

/// Where the group of that index is, counted from the oldest.
#[inline]
fn place(older: &[Time], first: u8, index: u8) -> usize {
    let place = usize::from(first) + usize::from(index);
    if place < older.len() { place } else { place - older.len() }
}

/// The low 56 bits of a time, which together with a later one say all of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    low: [u8; 4],
    middle: [u8; 2],
    high: u8,
}

impl Time {
    const ZERO: Time = Time { low: [0; 4], middle: [0; 2], high: 0 };
    const BITS: u64 = (1 << 56) - 1;
    /// 13 days: 64 of them, as far as a group that is not forgotten can be behind the newest, fit into 56 bits.
    const LONGEST: u64 = 1 << 50;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
    fn new(time: u64) -> Time {
        Time { low: (time as u32).to_le_bytes(), middle: ((time >> 32) as u16).to_le_bytes(), high: (time >> 48) as u8 }
    }

    /// The latest time of these bits that is not after `later`.
    #[inline]
    fn before(self, later: u64) -> u64 {
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
            assert_eq!(Time::new(START - age).before(START), START - age);
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
                assert_eq!(window.take(&rule, START + number * (rule.per() / 100 * apart), 1), Ok(()), "{rule:?}");
            }
        }
    }

    proptest! {
        /// Beside the record that it stands for, which is held against a full log elsewhere.
        #[test]
        fn it_answers_as_the_record_that_it_stands_for(
            count in prop_oneof![1_u32..70, 65_u32..300, Just(100_000), Just(u32::MAX)],
            per in prop_oneof![Just(1_u64), 1_u64..1_000, Just(13 * 86_400_000_000), Just(366 * 86_400_000_000)],
            // By how many thousandths of the period the time goes on, how many permits, and whether the window is turned into
            // a record and back.
            steps in prop::collection::vec(
                (
                    prop_oneof![3 => Just(0_u64), 20 => 1..200_u64, 3 => 900..1_100_u64, 1 => 1_000..70_000_u64],
                    prop_oneof![9 => Just(1_u32), 2 => 2..6_u32, 1 => any::<u32>()],
                    prop::bool::weighted(0.1),
                ),
                1..400,
            ),
        ) {
            let rule = Rule::new(Limit::new(count, Duration::from_micros(per)));
            let (mut window, mut record, mut now) = (Window::fresh(), Record::default(), START);
            for (ahead, cost, turned) in steps {
                now += rule.per() / 1_000 * ahead;
                if now > u64::MAX / 2 {
                    break;
                }
                let cost = cost.clamp(1, count);
                let ask = Ask { rules: &[rule], backoff: None, cost, max_wait: 0 };
                let expected = record.take(&ask, now).map(drop).map_err(|refusal| refusal.admitted_at.unwrap());
                prop_assert_eq!(window.take(&rule, now, cost), expected);
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
    }
}
