//! The algorithms: pure functions over integers, without clock, lock or I/O.
//!
//! A [`Record`](record::Record) holds the state of all limits of one key. Times are nanoseconds
//! since the Unix epoch. Each algorithm answers two questions about its own state: when a call of a
//! given cost fits ([`earliest`]), and what the state is after the charge. The record asks all
//! limits of a call, and charges all of them or none. `backend/redis/script/*.lua` holds the same rules,
//! in microseconds.
//!
//! [`earliest`]: sliding_window::SlidingWindow::earliest

pub(crate) mod codec;
pub(crate) mod fixed_window;
pub(crate) mod groups;
pub(crate) mod offences;
pub(crate) mod record;
pub(crate) mod sliding_window;
pub(crate) mod token_bucket;

use std::cell::RefCell;
use std::rc::Rc;

use crate::limit::{Algorithm, Limit};
use crate::rt::clock::Now;

/// The most groups of a sliding window.
pub(crate) const GROUPS: u32 = 64;

/// A limit and the values derived from it once, so that no decision has to compute them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) limit: Limit,
    /// Permits in one full group of a sliding window: ⌈count / 64⌉.
    pub(crate) group: u32,
    /// The refill rate of a token bucket.
    pub(crate) rate: Rate,
    /// The period in nanoseconds.
    per: u64,
    /// The most permits that one call can take.
    capacity: u32,
    /// From [`Rate::per_nano`]: the units that flow back in each `step` nanoseconds, the units of a
    /// permit, and those of a full bucket.
    units: u64,
    step: u64,
    permit: u64,
    full: u64,
    /// How late a charge may be recorded because of the clock's uncertainty, in nanoseconds.
    late: u64,
    /// How long a permit counts, or an empty bucket takes to fill, in nanoseconds.
    lasts: u64,
    /// 2⁶⁴ divided by the period. For any algorithm: the state may still be a fixed window's, taken
    /// by a limit that was replaced.
    reciprocal: u64,
}

impl Rule {
    pub(crate) const fn new(limit: Limit) -> Rule {
        let count = if limit.count() == 0 { 1 } else { limit.count() };
        let rate = match limit.algorithm() {
            Algorithm::TokenBucket => Rate::new(count, limit.per_micros(), limit.burst()),
            Algorithm::SlidingWindow | Algorithm::FixedWindow => Rate::UNUSED,
        };
        let (units, permit, step) = match limit.algorithm() {
            Algorithm::TokenBucket => rate.per_nano(),
            Algorithm::SlidingWindow | Algorithm::FixedWindow => (1, 1, 1),
        };
        let full = permit.saturating_mul(limit.burst() as u64);
        Rule {
            limit,
            group: count.div_ceil(GROUPS),
            rate,
            per: limit.per_nanos(),
            capacity: limit.capacity(),
            units,
            step,
            permit,
            // Below 2⁵² × 1000. Other algorithms have one unit per permit.
            full,
            lasts: match limit.algorithm() {
                Algorithm::TokenBucket => (full / units + 1).saturating_mul(step),
                Algorithm::FixedWindow if limit.is_calendar() => limit.per_nanos() + LONGER,
                Algorithm::SlidingWindow | Algorithm::FixedWindow => limit.per_nanos(),
            },
            late: late(&limit, units, permit, step),
            reciprocal: u64::MAX / limit.per_nanos(),
        }
    }

    /// The rule of a limit that is read at each call, alone, from a per-thread cache. Reducing a token
    /// bucket's fraction takes some twenty divisions.
    pub(crate) fn remembered(limit: &Limit) -> Rc<[Rule]> {
        const REMEMBERED: usize = 16;
        #[cold]
        #[inline(never)]
        fn made(limit: &Limit) -> Rc<[Rule]> {
            Rc::new([Rule::new(*limit)])
        }
        thread_local! {
            static RULES: [RefCell<Option<Rc<[Rule]>>>; REMEMBERED] =
                const { [const { RefCell::new(None) }; REMEMBERED] };
        }
        let mixed = (u64::from(limit.count()) ^ limit.per_micros() ^ u64::from(limit.burst()) << 20).wrapping_mul(FOLD);
        let remembered = RULES.try_with(|rules| {
            let mut remembered = rules[(mixed >> 60) as usize].borrow_mut();
            match &*remembered {
                Some(rules) if rules.first().is_some_and(|rule| rule.limit == *limit) => Rc::clone(rules),
                _ => Rc::clone(remembered.insert(made(limit))),
            }
        });
        // The cache is gone at a thread's very end.
        remembered.unwrap_or_else(|_| made(limit))
    }

    #[inline]
    pub(crate) const fn per(&self) -> u64 {
        self.per
    }

    #[inline]
    pub(crate) const fn capacity(&self) -> u32 {
        self.capacity
    }

    #[inline]
    pub(crate) const fn permit(&self) -> u64 {
        self.permit
    }

    #[inline]
    pub(crate) const fn full(&self) -> u64 {
        self.full
    }

    #[inline]
    pub(crate) const fn units(&self) -> u64 {
        self.units
    }

    #[inline]
    pub(crate) const fn lasts(&self) -> u64 {
        self.lasts
    }

    /// How late a charge may be recorded, in nanoseconds.
    #[inline]
    pub(crate) const fn late(&self) -> u64 {
        self.late
    }

    #[inline]
    pub(crate) const fn step(&self) -> u64 {
        self.step
    }

    /// The recorded time of a call that is judged at `now.earliest`: the end of the clock's
    /// uncertainty. So the measured interval between two calls is never longer than the true one.
    #[inline]
    pub(crate) fn recorded(&self, now: Now) -> u64 {
        now.latest.min(now.earliest.saturating_add(self.late))
    }

    /// Whether the windows are a calendar's: of unequal lengths, and found by the zone's clocks.
    #[inline]
    pub(crate) const fn is_calendar(&self) -> bool {
        self.limit.is_calendar()
    }

    /// The fixed window that holds `time`.
    #[inline]
    pub(crate) fn span(&self, time: u64) -> Span {
        #[cfg(feature = "calendar")]
        if let Some(calendar) = self.limit.calendar() {
            let (begin, end) = calendar.window(time);
            return Span { begin, end };
        }
        let begin = fixed_window::begin(self.per, time);
        Span { begin, end: begin.saturating_add(self.per) }
    }

    /// The moment `intervals` intervals after `first`, or the last such moment that is not after
    /// `latest`. A calendar's windows count with their real lengths.
    pub(crate) fn later(&self, first: u64, interval: u64, intervals: u64, latest: u64) -> u64 {
        if self.is_calendar() {
            let mut at = first;
            // At most one window a day for 366 days.
            for _ in 0..intervals {
                match self.span(at).end {
                    next if next <= latest => at = next,
                    _ => break,
                }
            }
            return at;
        }
        let most = latest.saturating_sub(first).checked_div(interval).unwrap_or(0);
        first.saturating_add(most.min(intervals).saturating_mul(interval))
    }

    /// The start of the fixed window that comes `windows` windows after that of `time`.
    pub(crate) fn begin_after(&self, time: u64, windows: u64) -> u64 {
        #[cfg(feature = "calendar")]
        if let Some(calendar) = self.limit.calendar() {
            return calendar.begin_after(time, windows);
        }
        self.window(time).saturating_add(windows).saturating_mul(self.per)
    }

    /// The number of the fixed window that holds `time`. Not for calendars, whose windows have no
    /// numbers. Computed without a division, from an estimate that is short by at most two.
    #[inline]
    pub(crate) const fn window(&self, time: u64) -> u64 {
        let mut window = ((time as u128 * self.reciprocal as u128) >> 64) as u64;
        let mut rest = time - window * self.per;
        while rest >= self.per {
            (window, rest) = (window + 1, rest - self.per);
        }
        window
    }
}

/// A fixed window, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begin: u64,
    /// When the next window begins.
    pub(crate) end: u64,
}

/// How much longer than usual a calendar's window can be: daylight saving time, and a zone that
/// moves over the date line.
const LONGER: u64 = 2 * 86_400_000_000_000;

/// 2⁶⁴ divided by the golden ratio: Fibonacci hashing spreads products over the high bits.
const FOLD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The largest uncertainty of the clock, in nanoseconds.
pub(crate) const RESOLUTION: u64 = 1_000;

/// How late a rule's charges may be recorded, in nanoseconds.
///
/// A token bucket of several permits that lasts longer than the clock's uncertainty never runs
/// empty because of it. The full margin therefore costs no rate. A bucket of one permit pays the
/// margin with each permit: there it is at most a two-thousandth of the permit's own time, which
/// keeps the rate. A window pays it once per period.
const fn late(limit: &Limit, units: u64, permit: u64, step: u64) -> u64 {
    if !matches!(limit.algorithm(), Algorithm::TokenBucket) {
        return u64::MAX;
    }
    let spare = permit.saturating_mul(limit.burst().saturating_sub(1) as u64);
    if spare >= (RESOLUTION / step + 1).saturating_mul(units) { u64::MAX } else { permit / units * step / 2_000 }
}

/// A token bucket's refill rate in integers: `units` units flow back every `step` microseconds, and
/// a permit is `permit` units.
///
/// `units / (permit × step)` is `count / per`: exactly if the numbers fit, else at most 2⁻¹⁹ below
/// it. A full bucket's units stay below 2⁵², so that sums of two amounts are exact in the doubles
/// of Redis's Lua.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) units: u64,
    pub(crate) permit: u64,
    pub(crate) step: u64,
}

impl Rate {
    const UNUSED: Rate = Rate { units: 1, permit: 1, step: 1 };
    /// Upper bound on the units of a full bucket.
    const FULL: u64 = 1 << 52;

    /// The rate of `count` ≥ 1 permits in `per` ≥ 1 microseconds, for a bucket of `burst` permits.
    #[expect(clippy::cast_possible_truncation, reason = "each quotient is bounded by its divisor's construction")]
    const fn new(count: u32, per: u64, burst: u32) -> Rate {
        let divisor = gcd(count as u64, per);
        let (units, permit) = (count as u64 / divisor, per / divisor);
        let burst = if burst == 0 { 1 } else { burst as u64 };
        let largest = Rate::FULL / burst;
        if permit <= largest {
            return Rate { units, permit, step: 1 };
        }
        // Too fine to fit: use steps long enough for at least one unit each, and the finest
        // fraction not above the rate.
        let (count, per) = (count as u128, per as u128);
        let step = per.div_ceil(count * largest as u128);
        let step = if step == 0 { 1 } else { step };
        let units = largest as u128 * count * step / per;
        let units = if units == 0 { 1 } else { units };
        let permit = (units * per).div_ceil(count * step);
        Rate { units: units as u64, permit: permit as u64, step: step as u64 }
    }

    /// The same rate for times in nanoseconds: (units a step, units a permit, nanoseconds a step).
    ///
    /// A step of one microsecond is divided further, because a nanosecond clock is finer. A longer
    /// step is kept, so that memory and Redis drop the same fractions.
    pub(crate) const fn per_nano(&self) -> (u64, u64, u64) {
        if self.step != 1 {
            return (self.units, self.permit, self.step * 1_000);
        }
        let divisor = gcd(self.units, 1_000);
        (self.units / divisor, self.permit * (1_000 / divisor), 1)
    }
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rate_is_at_most_a_thousandth_below_its_limit(
            count in 1_u32..=u32::MAX, per in 1_u64..=366 * 86_400_000_000, burst in 1_u32..=u32::MAX,
        ) {
            let rate = Rate::new(count, per, burst);
            let (asked, got) = (
                u128::from(count) * u128::from(rate.permit) * u128::from(rate.step),
                u128::from(rate.units) * u128::from(per),
            );
            prop_assert!(got <= asked, "above: {rate:?}");
            prop_assert!(asked - got <= asked / 100_000, "too far below: {rate:?}");
            prop_assert!(u128::from(burst) * u128::from(rate.permit) <= u128::from(Rate::FULL));
            prop_assert!(rate.units < 1 << 53);
        }
    }

    proptest! {
        #[test]
        fn a_window_is_found_without_a_division(per in 1_u64..=366 * 86_400_000_000, time: u64) {
            for algorithm in Algorithm::ALL {
                let limit = Limit::literal(1, per, algorithm, 1);
                prop_assert_eq!(Rule::new(limit).window(time), time / (per * 1_000));
            }
        }
    }

    #[test]
    fn usual_rates_are_exact() {
        assert_eq!(Rate::new(100, 1_000_000, 100), Rate { units: 1, permit: 10_000, step: 1 });
        assert_eq!(Rate::new(3, 1_000_000, 3), Rate { units: 3, permit: 1_000_000, step: 1 });
        assert_eq!(Rate::new(1, 86_400_000_000, 1), Rate { units: 1, permit: 86_400_000_000, step: 1 });
    }
}
