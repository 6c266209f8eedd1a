//! Calendar windows: days, weeks, months and years of a time zone, and their bounds in nanoseconds
//! since the Unix epoch.

mod windows;
mod zones;

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::suggest::{listed, nearest};
use zones::ZONES;

/// The windows of a [calendar limit](crate::Limit::per_calendar): the days, weeks, months or years
/// of a time zone.
///
/// A day is what the zone's clocks show, so it has 23 or 25 hours when daylight saving time begins
/// or ends. If midnight is skipped, the day begins at its first moment. If it comes twice, the day
/// begins with the first one. The zone data is built in ([jiff]'s, of the IANA time zone database);
/// the system's is not read.
///
/// The zone, the unit and the first day of the week belong to the bucket's identity: limits that
/// differ in them share no permits. The day of the month does not.
///
/// [jiff]: https://docs.rs/jiff
///
/// ```
/// use ratelimit_runtime::{Calendar, Limit, Weekday};
///
/// const QUOTA: Limit = Limit::per_calendar(10_000, Calendar::MONTH.in_zone("Europe/Berlin").starts_on(15));
/// assert_eq!(QUOTA.to_string(), "10000 per calendar month (zone Europe/Berlin, starts_on 15)");
///
/// let week = Calendar::WEEK.week_starts(Weekday::Sunday);
/// assert_eq!((week.zone(), week.first_weekday()), ("UTC", Weekday::Sunday));
/// ```
// The zone's number, the day of the month, the first day of the week and the unit, in 16, 8, 4 and
// 4 bits. An optional calendar takes four bytes, and `Limit` stays small and `Copy`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Calendar(NonZeroU32);

/// The length of a [`Calendar`]'s windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CalendarUnit {
    /// From midnight to midnight.
    Day = 1,
    /// Seven days, from [`Calendar::first_weekday`] on.
    Week = 2,
    /// From [`Calendar::first_day`] to the same day of the next month.
    Month = 3,
    /// From 1 January to 31 December.
    Year = 4,
}

/// A day of the week, on which a [`Calendar`]'s weeks begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Weekday {
    /// The first day of the week by ISO 8601.
    #[default]
    Monday = 0,
    Tuesday = 1,
    Wednesday = 2,
    Thursday = 3,
    Friday = 4,
    Saturday = 5,
    Sunday = 6,
}

/// Why a [`Calendar`] could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidCalendar {
    /// The zone data has no zone of this name.
    UnknownZone,
    /// A day of the month is 1 to 31.
    DayOutOfRange,
    /// Only a month starts on a day of the month.
    DayWithoutMonth,
    /// Only a week starts on a day of the week.
    WeekdayWithoutWeek,
}

impl InvalidCalendar {
    const fn message(self) -> &'static str {
        match self {
            InvalidCalendar::UnknownZone => {
                "unknown time zone: write a name of the IANA time zone database in its spelling, such as `Europe/Berlin` or `UTC`"
            }
            InvalidCalendar::DayOutOfRange => "`starts_on` is a day of the month, from 1 to 31",
            InvalidCalendar::DayWithoutMonth => "`starts_on` is for a calendar month",
            InvalidCalendar::WeekdayWithoutWeek => "`week_starts` is for a calendar week",
        }
    }
}

impl fmt::Display for InvalidCalendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for InvalidCalendar {}

const UTC: u16 = match number_of("UTC") {
    Some(number) => number,
    None => panic!("UTC is no zone"),
};

impl Calendar {
    /// The days of UTC.
    pub const DAY: Calendar = Calendar::new(CalendarUnit::Day, UTC, 0, 1);
    /// The weeks of UTC, from Monday on.
    pub const WEEK: Calendar = Calendar::new(CalendarUnit::Week, UTC, 0, 1);
    /// The months of UTC.
    pub const MONTH: Calendar = Calendar::new(CalendarUnit::Month, UTC, 0, 1);
    /// The years of UTC.
    pub const YEAR: Calendar = Calendar::new(CalendarUnit::Year, UTC, 0, 1);

    const fn new(unit: CalendarUnit, zone: u16, weekday: u8, day: u8) -> Calendar {
        let bits = (zone as u32) << 16 | (day as u32) << 8 | (weekday as u32) << 4 | unit as u32;
        match NonZeroU32::new(bits) {
            Some(bits) => Calendar(bits),
            // A unit is at least 1.
            None => Calendar(NonZeroU32::MIN),
        }
    }

    /// The calendar as one number, the same for equal calendars of this process.
    pub(crate) const fn bits(self) -> u32 {
        self.0.get()
    }

    /// The calendar of [`bits`](Self::bits).
    #[cfg(feature = "redis")]
    pub(crate) fn from_bits(bits: u32) -> Option<Calendar> {
        let calendar = Calendar(NonZeroU32::new(bits)?);
        let is_one = matches!(bits & 0xF, 1..=4) && calendar.zone_number() < ZONES.len() && bits >> 4 & 0xF < 7;
        is_one.then_some(calendar)
    }

    const fn zone_number(self) -> usize {
        (self.bits() >> 16) as usize
    }

    const fn weekday_number(self) -> u8 {
        (self.bits() >> 4 & 0xF) as u8
    }

    /// The same windows by the clocks of a zone of the IANA time zone database, such as
    /// `Europe/Berlin`. The default is `UTC`.
    ///
    /// # Panics
    /// If there is no such zone (a compile error in a `const` or `static`). The case of letters
    /// matters. Use [`try_in_zone`](Self::try_in_zone) for names that are known only at run time.
    #[track_caller]
    pub const fn in_zone(self, zone: &str) -> Calendar {
        match self.try_in_zone(zone) {
            Ok(calendar) => calendar,
            Err(error) => panic!("{}", error.message()),
        }
    }

    /// The same windows by the clocks of a zone whose name is known only at run time.
    ///
    /// # Errors
    /// [`InvalidCalendar::UnknownZone`] if there is no zone of this name.
    pub const fn try_in_zone(self, zone: &str) -> Result<Calendar, InvalidCalendar> {
        match number_of(zone) {
            Some(zone) => Ok(Calendar::new(self.unit(), zone, self.weekday_number(), self.first_day())),
            None => Err(InvalidCalendar::UnknownZone),
        }
    }

    /// The same weeks, from another day of the week on. The default is [`Weekday::Monday`].
    ///
    /// # Panics
    /// If the windows are not weeks.
    #[track_caller]
    pub const fn week_starts(self, on: Weekday) -> Calendar {
        match self.try_week_starts(on) {
            Ok(calendar) => calendar,
            Err(error) => panic!("{}", error.message()),
        }
    }

    /// The same weeks, from another day of the week on, for a calendar that is known only at run
    /// time.
    ///
    /// # Errors
    /// [`InvalidCalendar::WeekdayWithoutWeek`] if the windows are not weeks.
    #[expect(clippy::cast_possible_truncation, reason = "the largest number of a zone is below 2^16")]
    pub const fn try_week_starts(self, on: Weekday) -> Result<Calendar, InvalidCalendar> {
        if !matches!(self.unit(), CalendarUnit::Week) {
            return Err(InvalidCalendar::WeekdayWithoutWeek);
        }
        Ok(Calendar::new(CalendarUnit::Week, self.zone_number() as u16, on as u8, 1))
    }

    /// The same months, from another day of the month on: 1 to 31, such as a customer's billing
    /// day. In a month that is too short the last day takes its place. The default is 1.
    ///
    /// # Panics
    /// If `day` is out of range, or if the windows are not months.
    #[track_caller]
    pub const fn starts_on(self, day: u8) -> Calendar {
        match self.try_starts_on(day) {
            Ok(calendar) => calendar,
            Err(error) => panic!("{}", error.message()),
        }
    }

    /// The same months, from another day of the month on, for a day that is known only at run time.
    ///
    /// # Errors
    /// [`InvalidCalendar`] if `day` is not 1 to 31, or if the windows are not months.
    pub const fn try_starts_on(self, day: u8) -> Result<Calendar, InvalidCalendar> {
        if !matches!(self.unit(), CalendarUnit::Month) {
            return Err(InvalidCalendar::DayWithoutMonth);
        }
        if day == 0 || day > 31 {
            return Err(InvalidCalendar::DayOutOfRange);
        }
        Ok(self.starting_near(day))
    }

    /// The same months from `day` on, or from the nearest day of a month. Infallible, because a
    /// request path cannot report an error.
    #[expect(clippy::cast_possible_truncation, reason = "the largest number of a zone is below 2^16")]
    pub(crate) const fn starting_near(self, day: u8) -> Calendar {
        let day = match day {
            0 => 1,
            32.. => 31,
            day => day,
        };
        Calendar::new(self.unit(), self.zone_number() as u16, self.weekday_number(), day)
    }

    /// The length of the windows.
    pub const fn unit(&self) -> CalendarUnit {
        match self.bits() & 0xF {
            1 => CalendarUnit::Day,
            2 => CalendarUnit::Week,
            3 => CalendarUnit::Month,
            _ => CalendarUnit::Year,
        }
    }

    /// The name of the time zone.
    pub const fn zone(&self) -> &'static str {
        ZONES[self.zone_number()]
    }

    /// The day on which weeks begin.
    pub const fn first_weekday(&self) -> Weekday {
        match self.weekday_number() {
            0 => Weekday::Monday,
            1 => Weekday::Tuesday,
            2 => Weekday::Wednesday,
            3 => Weekday::Thursday,
            4 => Weekday::Friday,
            5 => Weekday::Saturday,
            _ => Weekday::Sunday,
        }
    }

    /// The day of the month on which months begin, 1 to 31. In a month that is too short the last
    /// day takes its place.
    pub const fn first_day(&self) -> u8 {
        (self.bits() >> 8 & 0xFF) as u8
    }

    /// The usual length of the longest windows: 1, 7, 31 or 366 days of 24 hours.
    pub const fn longest(&self) -> Duration {
        let days = match self.unit() {
            CalendarUnit::Day => 1,
            CalendarUnit::Week => 7,
            CalendarUnit::Month => 31,
            CalendarUnit::Year => 366,
        };
        Duration::from_secs(days * 86_400)
    }

    /// The window that contains `time`: from its first moment to the first moment of the next.
    ///
    /// Cost: some nanoseconds if this thread has the window in its cache, else some microseconds.
    /// Times before 1970 count as the start of 1970, times after 2554 as that year's.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use ratelimit_runtime::Calendar;
    ///
    /// // The last Sunday of March 2026: clocks in Berlin skip an hour.
    /// let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_774_778_400);
    /// let day = Calendar::DAY.in_zone("Europe/Berlin").window_at(noon);
    /// assert_eq!(day.end.duration_since(day.start).unwrap(), Duration::from_secs(23 * 3_600));
    /// ```
    pub fn window_at(&self, time: SystemTime) -> Range<SystemTime> {
        let nanos = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let (begin, end) = self.window(u64::try_from(nanos).unwrap_or(u64::MAX));
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        at(begin)..at(end)
    }

    /// The identity of the windows but for their first day of the month: unit, first day of the
    /// week and zone.
    pub(crate) fn write_identity(self, to: &mut String) {
        to.push(match self.unit() {
            CalendarUnit::Day => 'd',
            CalendarUnit::Week => 'w',
            CalendarUnit::Month => 'm',
            CalendarUnit::Year => 'y',
        });
        to.push(char::from(b'0' + self.weekday_number()));
        to.push_str(self.zone());
    }
}

impl CalendarUnit {
    const ALL: [CalendarUnit; 4] = [CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month, CalendarUnit::Year];

    /// The unit's name in the attribute: `day`, `week`, `month`, `year`.
    pub const fn name(self) -> &'static str {
        match self {
            CalendarUnit::Day => "day",
            CalendarUnit::Week => "week",
            CalendarUnit::Month => "month",
            CalendarUnit::Year => "year",
        }
    }

    /// The unit of this name, or what to write instead.
    pub(crate) fn named(word: &str) -> Result<CalendarUnit, String> {
        let known = CalendarUnit::ALL.into_iter().find(|unit| unit.name() == word);
        known.ok_or_else(|| unknown("calendar", word, &CalendarUnit::ALL.map(CalendarUnit::name)))
    }

    /// The calendar of these windows in UTC.
    pub const fn calendar(self) -> Calendar {
        match self {
            CalendarUnit::Day => Calendar::DAY,
            CalendarUnit::Week => Calendar::WEEK,
            CalendarUnit::Month => Calendar::MONTH,
            CalendarUnit::Year => Calendar::YEAR,
        }
    }
}

impl Weekday {
    const ALL: [Weekday; 7] = [
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
        Weekday::Saturday,
        Weekday::Sunday,
    ];

    /// The day's name in the attribute: `monday`, `tuesday` and so on.
    pub const fn name(self) -> &'static str {
        match self {
            Weekday::Monday => "monday",
            Weekday::Tuesday => "tuesday",
            Weekday::Wednesday => "wednesday",
            Weekday::Thursday => "thursday",
            Weekday::Friday => "friday",
            Weekday::Saturday => "saturday",
            Weekday::Sunday => "sunday",
        }
    }

    /// The day of this name, or what to write instead.
    pub(crate) fn named(word: &str) -> Result<Weekday, String> {
        let known = Weekday::ALL.into_iter().find(|day| day.name() == word);
        known.ok_or_else(|| unknown("day of the week", word, &Weekday::ALL.map(Weekday::name)))
    }
}

fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(meant) => format!("unknown {what} `{word}`: did you mean `{meant}`?"),
        None => format!("unknown {what} `{word}`: it is {}", listed(known, " or ")),
    }
}

/// What is wrong with a zone's name that is known only at run time, with the nearest known one.
pub(crate) fn unknown_zone(zone: &str) -> String {
    match nearest(zone, &ZONES) {
        Some(meant) => format!("unknown time zone `{zone}`: did you mean `{meant}`?"),
        None => format!("unknown time zone `{zone}`: write an IANA name, such as `Europe/Berlin`"),
    }
}

impl fmt::Display for Calendar {
    /// `calendar day (zone UTC)`, as in a limit's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "calendar {} (zone {}", self.unit().name(), self.zone())?;
        if self.first_weekday() != Weekday::Monday {
            write!(f, ", week_starts {}", self.first_weekday().name())?;
        }
        if self.first_day() != 1 {
            write!(f, ", starts_on {}", self.first_day())?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Calendar({self})")
    }
}

/// The number of a zone: a binary search that the compiler can do.
const fn number_of(zone: &str) -> Option<u16> {
    let (mut low, mut high) = (0, ZONES.len());
    while low < high {
        let middle = low.midpoint(high);
        match compare(ZONES[middle].as_bytes(), zone.as_bytes()) {
            #[expect(clippy::cast_possible_truncation, reason = "there are some 600 zones")]
            0 => return Some(middle as u16),
            1 => high = middle,
            _ => low = middle + 1,
        }
    }
    None
}

/// -1, 0 or 1, as the first is below, equal to, or above the second.
const fn compare(one: &[u8], other: &[u8]) -> i8 {
    let mut at = 0;
    while at < one.len() && at < other.len() {
        if one[at] != other[at] {
            return if one[at] < other[at] { -1 } else { 1 };
        }
        at += 1;
    }
    if one.len() == other.len() {
        0
    } else if one.len() < other.len() {
        -1
    } else {
        1
    }
}

#[cfg(test)]
mod tests;
