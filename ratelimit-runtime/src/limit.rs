//! A limit: a count of permits per period, and the algorithm that enforces it.

use std::fmt;
use std::time::Duration;

#[cfg(feature = "calendar")]
use crate::calendar::Calendar;

/// How a [`Limit`] is enforced.
///
/// The default is [`SlidingWindow`](Algorithm::SlidingWindow). It alone never admits more than
/// `count` calls in any interval of length `per`, wherever it starts.
///
/// ```
/// use ratelimit_runtime::{Algorithm, Limit};
///
/// assert_eq!(Limit::per_second(5).algorithm(), Algorithm::SlidingWindow);
/// let smooth = Limit::per_second(5).with_algorithm(Algorithm::TokenBucket).with_burst(10);
/// assert_eq!((smooth.count(), smooth.burst()), (5, 10));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Exact: no half-open interval `[t, t + per)` ever holds more than `count` admitted permits.
    ///
    /// State: at most 64 groups of permits (128 if bookings or refunds leave holes), grown only as
    /// used.
    #[default]
    SlidingWindow,
    /// A bucket of `burst` permits, refilled evenly at `count / per` (the generic cell rate
    /// algorithm).
    ///
    /// Admits at most `burst + count` permits in any interval of length `per`. State: one time and
    /// one amount.
    TokenBucket,
    /// At most `count` per window.
    ///
    /// Windows are aligned to the Unix epoch in UTC. A window of one day begins at midnight UTC,
    /// and a window of one week (`1w`) on a Thursday, as the epoch did. For the days, weeks, months
    /// and years of a calendar, see `Limit::per_calendar` (feature `calendar`). Up to twice `count`
    /// may pass across the boundary of two windows. State: window number and counter.
    FixedWindow,
}

impl Algorithm {
    pub(crate) const ALL: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

    /// The letter that stands for it in a bucket's name.
    pub(crate) const fn letter(self) -> char {
        match self {
            Algorithm::SlidingWindow => 's',
            Algorithm::TokenBucket => 't',
            Algorithm::FixedWindow => 'f',
        }
    }

    /// The algorithm's name in the attribute: `sliding_window`, `token_bucket`, `fixed_window`.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::SlidingWindow => "sliding_window",
            Algorithm::TokenBucket => "token_bucket",
            Algorithm::FixedWindow => "fixed_window",
        }
    }
}

/// The shortest period of a limit: 1 µs.
pub const MIN_PER: Duration = Duration::from_micros(1);
/// The longest period of a limit: 366 days.
pub const MAX_PER: Duration = Duration::from_secs(366 * 86_400);
/// The most limits that one limiter holds: 8.
pub const MAX_LIMITS: usize = 8;

/// At most `count` permits per `per`.
///
/// The default algorithm is [`Algorithm::SlidingWindow`]. [`FromStr`](std::str::FromStr) reads a
/// limit from text, such as `100/1m`.
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::{Algorithm, Limit};
///
/// const PER_SECOND: Limit = Limit::new(100, Duration::from_secs(1));
/// const SMOOTH: Limit = PER_SECOND.with_algorithm(Algorithm::TokenBucket).with_burst(10);
/// assert_eq!(SMOOTH.to_string(), "100 per 1s (token_bucket, burst 10)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    per_micros: u64,
    count: u32,
    burst: u32,
    algorithm: Algorithm,
    /// The windows of a [`FixedWindow`](Algorithm::FixedWindow), if they are a calendar's.
    #[cfg(feature = "calendar")]
    calendar: Option<Calendar>,
}

/// Why [`Limit::try_new`] or [`Limit::try_with_burst`] refused its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidLimit {
    /// `count` is zero: the limit would deny every call.
    ZeroCount,
    /// `per` is shorter than [`MIN_PER`] or longer than [`MAX_PER`].
    PeriodOutOfRange,
    /// `burst` is zero: the bucket would never hold a permit.
    ZeroBurst,
    /// `burst` was set for an algorithm other than [`Algorithm::TokenBucket`].
    BurstWithoutTokenBucket,
}

impl InvalidLimit {
    const fn message(self) -> &'static str {
        match self {
            InvalidLimit::ZeroCount => "`count` of a limit must be at least 1",
            InvalidLimit::PeriodOutOfRange => "`per` of a limit must be from 1 microsecond to 366 days",
            InvalidLimit::ZeroBurst => "`burst` of a limit must be at least 1",
            InvalidLimit::BurstWithoutTokenBucket => "only a token bucket has a `burst`: set the algorithm first",
        }
    }
}

impl fmt::Display for InvalidLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for InvalidLimit {}

impl Limit {
    /// At most `count` permits in every `per`, by the sliding window.
    ///
    /// `count` is at least 1. `per` is 1 µs to 366 days and is rounded up to whole microseconds.
    ///
    /// # Panics
    /// If `count` is zero or `per` is out of range (a compile error in a `const` or `static`). Use
    /// [`Limit::try_new`] for values that are known only at run time.
    #[track_caller]
    pub const fn new(count: u32, per: Duration) -> Limit {
        match Limit::try_new(count, per) {
            Ok(limit) => limit,
            Err(error) => panic!("{}", error.message()),
        }
    }

    /// At most `count` permits in every `per`, by the sliding window, for values that are known
    /// only at run time.
    ///
    /// # Errors
    /// [`InvalidLimit`] if `count` is zero, or `per` is shorter than 1 µs or longer than 366 days.
    pub const fn try_new(count: u32, per: Duration) -> Result<Limit, InvalidLimit> {
        if count == 0 {
            return Err(InvalidLimit::ZeroCount);
        }
        let nanos = per.as_nanos();
        if nanos < MIN_PER.as_nanos() || nanos > MAX_PER.as_nanos() {
            return Err(InvalidLimit::PeriodOutOfRange);
        }
        Ok(Limit::clamped(count, per, Algorithm::SlidingWindow, count))
    }

    /// At most `count` permits a second.
    ///
    /// # Panics
    /// If `count` is zero (a compile error in a `const` or `static`).
    #[track_caller]
    pub const fn per_second(count: u32) -> Limit {
        Limit::new(count, Duration::from_secs(1))
    }

    /// At most `count` permits a minute.
    ///
    /// # Panics
    /// If `count` is zero (a compile error in a `const` or `static`).
    #[track_caller]
    pub const fn per_minute(count: u32) -> Limit {
        Limit::new(count, Duration::from_secs(60))
    }

    /// At most `count` permits an hour.
    ///
    /// # Panics
    /// If `count` is zero (a compile error in a `const` or `static`).
    #[track_caller]
    pub const fn per_hour(count: u32) -> Limit {
        Limit::new(count, Duration::from_secs(3_600))
    }

    /// At most `count` permits in 24 hours.
    ///
    /// # Panics
    /// If `count` is zero (a compile error in a `const` or `static`).
    #[track_caller]
    pub const fn per_day(count: u32) -> Limit {
        Limit::new(count, Duration::from_secs(86_400))
    }

    /// At most `count` permits in each window of a calendar, such as a month of a time zone.
    ///
    /// The algorithm is [`Algorithm::FixedWindow`]: permits count until their window ends.
    ///
    /// ```
    /// use ratelimit_runtime::{Calendar, Limit};
    ///
    /// const MONTHLY: Limit = Limit::per_calendar(1_000, Calendar::MONTH.in_zone("Europe/Berlin"));
    /// assert_eq!(MONTHLY.to_string(), "1000 per calendar month (zone Europe/Berlin)");
    /// ```
    ///
    /// # Panics
    /// If `count` is zero (a compile error in a `const` or `static`). Use
    /// [`Limit::try_per_calendar`] for values that are known only at run time.
    #[cfg(feature = "calendar")]
    #[track_caller]
    pub const fn per_calendar(count: u32, calendar: Calendar) -> Limit {
        match Limit::try_per_calendar(count, calendar) {
            Ok(limit) => limit,
            Err(error) => panic!("{}", error.message()),
        }
    }

    /// At most `count` permits in each window of a calendar, for values that are known only at run
    /// time.
    ///
    /// # Errors
    /// [`InvalidLimit`] if `count` is zero.
    #[cfg(feature = "calendar")]
    pub const fn try_per_calendar(count: u32, calendar: Calendar) -> Result<Limit, InvalidLimit> {
        if count == 0 {
            return Err(InvalidLimit::ZeroCount);
        }
        Ok(Limit::of_calendar(count, calendar))
    }

    /// A calendar limit whose values the attribute has checked, or that is read at each call. A
    /// count of zero denies.
    #[cfg(feature = "calendar")]
    pub(crate) const fn of_calendar(count: u32, calendar: Calendar) -> Limit {
        let limit = Limit::clamped(count, calendar.longest(), Algorithm::FixedWindow, count);
        Limit { calendar: Some(calendar), ..limit }
    }

    /// The windows of a [calendar limit](Limit::per_calendar).
    #[cfg(feature = "calendar")]
    pub const fn calendar(&self) -> Option<Calendar> {
        self.calendar
    }

    /// Whether the windows are a calendar's.
    #[cfg_attr(not(feature = "calendar"), expect(clippy::unused_self, reason = "there are no calendars"))]
    #[inline]
    pub(crate) const fn is_calendar(&self) -> bool {
        #[cfg(feature = "calendar")]
        return self.calendar.is_some();
        #[cfg(not(feature = "calendar"))]
        false
    }

    /// Copied field by field to avoid a store-forwarding stall: a plain copy is written in one
    /// width and read in another when an error is built from it.
    #[inline]
    pub(crate) const fn by_parts(&self) -> Limit {
        Limit {
            per_micros: self.per_micros,
            count: self.count,
            burst: self.burst,
            algorithm: self.algorithm,
            #[cfg(feature = "calendar")]
            calendar: self.calendar,
        }
    }

    /// The limit of a call that reads `count`, `per` or `burst` at each call. A count of zero
    /// denies; a period out of range is clamped. Infallible, because a request path cannot report
    /// an error.
    pub(crate) const fn clamped(count: u32, per: Duration, algorithm: Algorithm, burst: u32) -> Limit {
        let micros = per.as_secs() as u128 * 1_000_000 + per.subsec_nanos().div_ceil(1_000) as u128;
        let longest = MAX_PER.as_micros();
        let per_micros = if micros == 0 {
            1
        } else if micros > longest {
            longest
        } else {
            micros
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_PER in microseconds, below 2^45")]
        Limit::literal(count, per_micros as u64, algorithm, burst)
    }

    /// A limit whose values the attribute has checked. Const and free of divisions.
    pub(crate) const fn literal(count: u32, per_micros: u64, algorithm: Algorithm, burst: u32) -> Limit {
        Limit {
            per_micros,
            count,
            burst,
            algorithm,
            #[cfg(feature = "calendar")]
            calendar: None,
        }
    }

    /// The same limit, enforced by `algorithm`. A token bucket gets a burst of `count`. A calendar
    /// limit stays one only as a fixed window; another algorithm takes its [`per`](Limit::per).
    pub const fn with_algorithm(self, algorithm: Algorithm) -> Limit {
        Limit {
            algorithm,
            burst: self.count,
            #[cfg(feature = "calendar")]
            calendar: if matches!(algorithm, Algorithm::FixedWindow) { self.calendar } else { None },
            ..self
        }
    }

    /// The same token bucket with a capacity of `burst` permits (at least 1).
    ///
    /// # Panics
    /// If `burst` is zero, or if the algorithm is not [`Algorithm::TokenBucket`].
    #[track_caller]
    pub const fn with_burst(self, burst: u32) -> Limit {
        match self.try_with_burst(burst) {
            Ok(limit) => limit,
            Err(error) => panic!("{}", error.message()),
        }
    }

    /// The same token bucket with a capacity of `burst` permits, for values that are known only at
    /// run time.
    ///
    /// # Errors
    /// [`InvalidLimit`] if `burst` is zero, or if the algorithm is not [`Algorithm::TokenBucket`].
    pub const fn try_with_burst(self, burst: u32) -> Result<Limit, InvalidLimit> {
        if !matches!(self.algorithm, Algorithm::TokenBucket) {
            return Err(InvalidLimit::BurstWithoutTokenBucket);
        }
        if burst == 0 {
            return Err(InvalidLimit::ZeroBurst);
        }
        Ok(Limit { burst, ..self })
    }

    /// Permits per period.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The period: a whole number of microseconds. For a calendar limit the usual length of the
    /// longest windows: 1, 7, 31 or 366 days.
    pub const fn per(&self) -> Duration {
        Duration::from_micros(self.per_micros)
    }

    /// The algorithm that enforces the limit.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Capacity of a token bucket; `count` for the other algorithms.
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// The most permits that one call can ever take: `burst` for a token bucket, else `count`.
    pub const fn capacity(&self) -> u32 {
        match self.algorithm {
            Algorithm::TokenBucket => {
                // A count of zero never refills. Only a count read at each call can be zero.
                if self.count == 0 { 0 } else { self.burst }
            }
            Algorithm::SlidingWindow | Algorithm::FixedWindow => self.count,
        }
    }

    /// How long a token bucket takes to refill so many permits, in nanoseconds. `None` for windows.
    #[cfg(any(feature = "tower", feature = "actix-web", feature = "redis"))]
    pub(crate) fn refill(&self, permits: u32) -> Option<u64> {
        let refill = u128::from(permits) * u128::from(self.per_nanos()) / u128::from(self.count.max(1));
        let is_bucket = matches!(self.algorithm, Algorithm::TokenBucket);
        is_bucket.then(|| u64::try_from(refill).unwrap_or(u64::MAX))
    }

    /// A limit of the same kind and period that denies nothing.
    #[cfg(feature = "configuration")]
    pub(crate) fn unlimited(self) -> Limit {
        Limit { count: u32::MAX, burst: u32::MAX, ..self }
    }

    /// Whether it replaces a limit that configuration has turned off or tries.
    pub(crate) const fn is_unlimited(&self) -> bool {
        self.count == u32::MAX && self.burst == u32::MAX
    }

    /// Whether header fields can report it: they count whole seconds. A limit that does not apply is
    /// left out.
    #[cfg(any(feature = "axum", feature = "actix-web", feature = "tower"))]
    pub(crate) fn is_reportable(&self) -> bool {
        self.per() >= Duration::from_secs(1) && !self.is_unlimited()
    }

    pub(crate) const fn per_micros(&self) -> u64 {
        self.per_micros
    }

    pub(crate) const fn per_nanos(&self) -> u64 {
        self.per_micros * 1_000
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "calendar")]
        if let Some(calendar) = self.calendar {
            return write!(f, "{} per {calendar}", self.count);
        }
        write!(f, "{} per {}", self.count, Period(self.per()))?;
        match self.algorithm {
            Algorithm::SlidingWindow => Ok(()),
            Algorithm::TokenBucket => write!(f, " (token_bucket, burst {})", self.burst),
            Algorithm::FixedWindow => f.write_str(" (fixed_window)"),
        }
    }
}

/// A duration as it is written in a limit: `1d`, `1h30m`, `250ms`.
struct Period(Duration);

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Period(per) = *self;
        if per.subsec_nanos() > 0 || per < Duration::from_secs(60) {
            return write!(f, "{per:?}");
        }
        let mut seconds = per.as_secs();
        for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            if seconds >= length {
                write!(f, "{}{unit}", seconds / length)?;
                seconds %= length;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limit({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_displayed_as_it_is_written() {
        for text in [
            "5 per 1d",
            "5 per 1h30m",
            "5 per 1m1s",
            "5 per 366d",
            "5 per 59s",
            "5 per 250ms",
            "5 per 1.5s",
            "5 per 90.5s",
        ] {
            assert_eq!(text.parse::<Limit>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_period_is_rounded_up_to_whole_microseconds() {
        assert_eq!(Limit::new(1, Duration::from_nanos(1_001)).per(), Duration::from_micros(2));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        assert_eq!(Limit::try_new(0, MIN_PER), Err(InvalidLimit::ZeroCount));
        assert_eq!(Limit::try_new(1, Duration::from_nanos(999)), Err(InvalidLimit::PeriodOutOfRange));
        assert_eq!(Limit::try_new(1, MAX_PER + Duration::from_nanos(1)), Err(InvalidLimit::PeriodOutOfRange));
        assert_eq!(Limit::new(1, MIN_PER).try_with_burst(1), Err(InvalidLimit::BurstWithoutTokenBucket));
        assert_eq!(
            Limit::new(1, MIN_PER).with_algorithm(Algorithm::TokenBucket).try_with_burst(0),
            Err(InvalidLimit::ZeroBurst)
        );
    }

    #[test]
    fn periods_read_at_each_call_are_moved_into_range() {
        let clamped = |per| Limit::clamped(1, per, Algorithm::SlidingWindow, 1).per();
        assert_eq!(clamped(Duration::ZERO), MIN_PER);
        assert_eq!(clamped(Duration::MAX), MAX_PER);
    }
}
