//! The bounds of a calendar's windows, by the clocks of its zone.

use std::cell::Cell;
use std::sync::OnceLock;

use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp};

use super::zones::ZONES;
use super::{Calendar, CalendarUnit};

/// Four boundaries in a row: of the previous window, the current one, and the next.
type Bounds = [u64; 4];

/// The bounds found last, of one calendar.
#[derive(Clone, Copy)]
struct Found {
    /// 0 if there is none.
    calendar: u32,
    bounds: Bounds,
}

impl Calendar {
    /// The bounds of the window that contains `time`, in nanoseconds since the Unix epoch.
    pub(crate) fn window(self, time: u64) -> (u64, u64) {
        let [first, begin, end, last] = self.bounds(time);
        if time < begin {
            (first, begin)
        } else if time < end {
            (begin, end)
        } else {
            (end, last)
        }
    }

    /// Boundaries around `time`, from this thread's cache if they are there. A limiter's calls ask
    /// for the same window all day long, so only the first call of a window computes zones.
    fn bounds(self, time: u64) -> Bounds {
        const KEPT: usize = 8;
        const NONE: Found = Found { calendar: 0, bounds: [0; 4] };
        thread_local! {
            /// Has no destructor, so it is there until the thread's very end.
            static FOUND: [Cell<Found>; KEPT] = const { [const { Cell::new(NONE) }; KEPT] };
        }
        // Fibonacci hashing spreads calendars over the places.
        let place = (self.bits().wrapping_mul(0x9E37_79B9) >> 29) as usize;
        FOUND.with(|found| {
            let Found { calendar, bounds } = found[place].get();
            if calendar == self.bits() && bounds[0] <= time && time < bounds[3] {
                return bounds;
            }
            let bounds = self.computed(time);
            found[place].set(Found { calendar: self.bits(), bounds });
            bounds
        })
    }

    fn computed(self, time: u64) -> Bounds {
        let zone = self.time_zone();
        let (begin, end) = self.window_of(zone, time);
        let (first, _) = self.window_of(zone, begin.saturating_sub(1));
        let (_, last) = self.window_of(zone, end);
        [first.min(begin), begin, end, last.max(end)]
    }

    pub(super) fn window_of(self, zone: &TimeZone, time: u64) -> (u64, u64) {
        let start = self.start_of(zone, time);
        (first_moment(zone, start), first_moment(zone, self.step(start, 1)))
    }

    /// The first moment of the window that comes `windows` after the one of `time`.
    pub(crate) fn begin_after(self, time: u64, windows: u64) -> u64 {
        let Ok(windows) = i32::try_from(windows) else { return u64::MAX };
        let zone = self.time_zone();
        let start = self.start_of(zone, time);
        self.checked_step(start, windows).map_or(u64::MAX, |start| first_moment(zone, start))
    }

    /// The civil date on which the window of `time` begins.
    fn start_of(self, zone: &TimeZone, time: u64) -> Date {
        let Ok(timestamp) = Timestamp::from_nanosecond(time.into()) else { return Date::MAX };
        let mut start = self.start_by_date(zone.to_datetime(timestamp).date());
        // Clocks that are put back over midnight, by a day at most, show a date twice: the second
        // time belongs to the day that had begun.
        for _ in 0..2 {
            let next = self.step(start, 1);
            if first_moment(zone, next) > time {
                break;
            }
            start = next;
        }
        start
    }

    /// The first day of the window that holds a date, by the calendar alone.
    fn start_by_date(self, date: Date) -> Date {
        match self.unit() {
            CalendarUnit::Day => date,
            CalendarUnit::Week => {
                let weekday = date.weekday().to_monday_zero_offset();
                let since = (weekday - self.weekday_number().cast_signed()).rem_euclid(7);
                date.checked_sub(Span::new().days(since)).unwrap_or(date)
            }
            CalendarUnit::Month => {
                let start = self.day_of_month(date);
                if start <= date { start } else { self.step(start, -1) }
            }
            CalendarUnit::Year => date.first_of_year(),
        }
    }

    /// The day on which the window begins that begins in the month of `date`.
    fn day_of_month(self, date: Date) -> Date {
        let day = self.first_day().cast_signed().min(date.days_in_month());
        Date::new(date.year(), date.month(), day).unwrap_or(date)
    }

    /// The first day of the window `by` windows later. At the calendar's end, the same day.
    fn step(self, start: Date, by: i32) -> Date {
        self.checked_step(start, by).unwrap_or(start)
    }

    fn checked_step(self, start: Date, by: i32) -> Option<Date> {
        let span = match self.unit() {
            CalendarUnit::Day => Span::new().try_days(by),
            CalendarUnit::Week => Span::new().try_weeks(by),
            CalendarUnit::Month => {
                let month = start.first_of_month().checked_add(Span::new().try_months(by).ok()?).ok()?;
                return Some(self.day_of_month(month));
            }
            CalendarUnit::Year => Span::new().try_years(by),
        };
        start.checked_add(span.ok()?).ok()
    }

    /// The zone's data, read once in a process.
    pub(super) fn time_zone(self) -> &'static TimeZone {
        static FOUND: [OnceLock<TimeZone>; ZONES.len()] = [const { OnceLock::new() }; ZONES.len()];
        static DATABASE: OnceLock<TimeZoneDatabase> = OnceLock::new();
        FOUND[self.zone_number()].get_or_init(|| {
            let database = DATABASE.get_or_init(TimeZoneDatabase::bundled);
            // A test finds every name.
            database.get(self.zone()).unwrap_or(TimeZone::UTC)
        })
    }
}

/// The first moment at which clocks in the zone show `date` or a later one, in nanoseconds since
/// the Unix epoch.
fn first_moment(zone: &TimeZone, date: Date) -> u64 {
    let midnight = date.at(0, 0, 0, 0);
    let moment = match zone.to_ambiguous_timestamp(midnight).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            offset.to_timestamp(midnight)
        }
        // Midnight is skipped, not always from midnight on: the day begins where clocks jump.
        AmbiguousOffset::Gap { after, .. } => after.to_timestamp(midnight).map(|before| {
            let mut jumps = zone.following(before).map(|jump| jump.timestamp());
            jumps.find(|jump| zone.to_datetime(*jump).date() >= date).unwrap_or(before)
        }),
    };
    let nanos = moment.map_or(if date.year() < 1970 { 0 } else { i128::MAX }, Timestamp::as_nanosecond);
    u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
}
