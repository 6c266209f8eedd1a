//! Bounds beside a calendar that is walked day by day, in all zones.

use std::collections::BTreeSet;

use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan as _};
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * SECOND;
/// 1 January 2100.
const LATEST: u64 = 4_102_444_800 * SECOND;

#[test]
fn the_zones_are_those_of_the_zone_data() {
    let database = TimeZoneDatabase::bundled();
    let available: BTreeSet<String> = database.available().map(|name| name.to_string()).collect();
    let known: BTreeSet<String> = ZONES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(known, available);
    assert!(ZONES.is_sorted());
    for zone in ZONES {
        assert!(database.get(zone).is_ok(), "{zone}");
        assert_eq!(Calendar::DAY.in_zone(zone).zone(), zone);
    }
}

#[test]
fn a_calendar_keeps_its_parts() {
    let week = Calendar::WEEK.week_starts(Weekday::Saturday).in_zone("Asia/Tehran");
    assert_eq!((week.unit(), week.zone()), (CalendarUnit::Week, "Asia/Tehran"));
    assert_eq!((week.first_weekday(), week.first_day()), (Weekday::Saturday, 1));
    let month = Calendar::MONTH.in_zone("Pacific/Apia").starts_on(31);
    assert_eq!((month.unit(), month.zone(), month.first_day()), (CalendarUnit::Month, "Pacific/Apia", 31));
    assert_eq!(size_of::<Option<Calendar>>(), 4);
}

#[test]
fn what_does_not_exist_is_refused() {
    for zone in ["", "Europe", "Europe/Berlim", "europe/berlin", "CEST", "Zulu "] {
        assert_eq!(Calendar::DAY.try_in_zone(zone), Err(InvalidCalendar::UnknownZone), "{zone}");
    }
    assert_eq!(Calendar::DAY.try_starts_on(3), Err(InvalidCalendar::DayWithoutMonth));
    assert_eq!(Calendar::MONTH.try_starts_on(0), Err(InvalidCalendar::DayOutOfRange));
    assert_eq!(Calendar::MONTH.try_starts_on(32), Err(InvalidCalendar::DayOutOfRange));
    assert_eq!(Calendar::MONTH.try_week_starts(Weekday::Sunday), Err(InvalidCalendar::WeekdayWithoutWeek));
    assert_eq!([0, 1, 31, 255].map(|day| Calendar::MONTH.starting_near(day).first_day()), [1, 1, 31, 31]);
}

/// The window of a time, as its bounds in the zone's own notation.
fn shown(calendar: Calendar, time: &str) -> [String; 2] {
    let time: Timestamp = time.parse().unwrap();
    let (begin, end) = calendar.window(u64::try_from(time.as_nanosecond()).unwrap());
    [begin, end].map(|bound| {
        let bound = Timestamp::from_nanosecond(bound.into()).unwrap();
        bound.to_zoned_datetime(calendar.time_zone().clone()).strftime("%F %T %z").to_string()
    })
}

#[test]
fn days_begin_at_their_first_moment() {
    for (zone, time, expected) in [
        // Days of 23 and 25 hours.
        ("Europe/Berlin", "2026-03-29T12:00Z", ["2026-03-29 00:00:00 +0100", "2026-03-30 00:00:00 +0200"]),
        ("Europe/Berlin", "2026-10-25T12:00Z", ["2026-10-25 00:00:00 +0200", "2026-10-26 00:00:00 +0100"]),
        // Midnight is skipped.
        ("America/Sao_Paulo", "2018-11-04T12:00Z", ["2018-11-04 01:00:00 -0200", "2018-11-05 00:00:00 -0200"]),
        ("Asia/Beirut", "2025-03-30T12:00Z", ["2025-03-30 01:00:00 +0300", "2025-03-31 00:00:00 +0300"]),
        // The hour before midnight comes twice, and midnight itself.
        ("America/Sao_Paulo", "2018-02-18T02:30Z", ["2018-02-17 00:00:00 -0200", "2018-02-18 00:00:00 -0300"]),
        ("America/Havana", "2025-11-02T12:00Z", ["2025-11-02 00:00:00 -0400", "2025-11-03 00:00:00 -0500"]),
        // Clocks went back from 00:01 to 23:01: that is still the day that had begun.
        ("America/St_Johns", "2010-11-07T03:00Z", ["2010-11-07 00:00:00 -0230", "2010-11-08 00:00:00 -0330"]),
        // Samoa skipped a day, and Kwajalein another.
        ("Pacific/Apia", "2011-12-30T11:00Z", ["2011-12-31 00:00:00 +1400", "2012-01-01 00:00:00 +1400"]),
        ("Pacific/Apia", "2011-12-30T09:59Z", ["2011-12-29 00:00:00 -1000", "2011-12-31 00:00:00 +1400"]),
    ] {
        assert_eq!(shown(Calendar::DAY.in_zone(zone), time), expected, "{zone} {time}");
    }
}

#[test]
fn months_begin_on_the_last_day_if_they_are_too_short() {
    let month = |day| Calendar::MONTH.in_zone("Europe/Berlin").starts_on(day);
    for (day, time, expected) in [
        (31, "2026-01-31T12:00Z", ["2026-01-31 00:00:00 +0100", "2026-02-28 00:00:00 +0100"]),
        (31, "2026-02-28T12:00Z", ["2026-02-28 00:00:00 +0100", "2026-03-31 00:00:00 +0200"]),
        (31, "2026-04-29T12:00Z", ["2026-03-31 00:00:00 +0200", "2026-04-30 00:00:00 +0200"]),
        (30, "2028-02-29T12:00Z", ["2028-02-29 00:00:00 +0100", "2028-03-30 00:00:00 +0200"]),
        (29, "2027-02-28T12:00Z", ["2027-02-28 00:00:00 +0100", "2027-03-29 00:00:00 +0200"]),
        (15, "2026-01-14T12:00Z", ["2025-12-15 00:00:00 +0100", "2026-01-15 00:00:00 +0100"]),
        (1, "2026-12-31T23:30Z", ["2027-01-01 00:00:00 +0100", "2027-02-01 00:00:00 +0100"]),
    ] {
        assert_eq!(shown(month(day), time), expected, "{day} {time}");
    }
}

#[test]
fn the_ends_of_time_are_in_windows_too() {
    for calendar in [Calendar::DAY, Calendar::WEEK, Calendar::MONTH.starts_on(31), Calendar::YEAR] {
        for zone in ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"] {
            let calendar = calendar.in_zone(zone);
            for time in [0, 1, HOUR, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                let (begin, end) = calendar.window(time);
                assert!(begin <= time && (time < end || end == u64::MAX), "{calendar} {time}: {begin} {end}");
            }
        }
    }
}

/// The latest date that the zone's clocks have shown up to `time`. Clocks never go back by more
/// than a day, and show no date for less than a minute.
fn date(zone: &TimeZone, time: u64) -> Date {
    let shown = |time: u64| zone.to_datetime(Timestamp::from_nanosecond(time.into()).unwrap()).date();
    let minute = 60 * SECOND;
    let minutes = (time.saturating_sub(25 * HOUR) / minute..=time / minute).map(|number| shown(number * minute));
    minutes.chain([shown(time)]).max().unwrap()
}

/// The first day of the window that holds `date`, found by walking back.
fn first_day(calendar: Calendar, mut date: Date) -> Date {
    let begins = |date: Date| match calendar.unit() {
        CalendarUnit::Day => true,
        CalendarUnit::Week => date.strftime("%A").to_string().to_lowercase() == calendar.first_weekday().name(),
        CalendarUnit::Month => {
            let (day, asked) = (date.day(), calendar.first_day().cast_signed());
            day == asked || day < asked && date.tomorrow().is_ok_and(|next| next.day() == 1)
        }
        CalendarUnit::Year => date.month() == 1 && date.day() == 1,
    };
    while !begins(date) {
        date = date.checked_sub(1.day()).unwrap();
    }
    date
}

fn calendars() -> impl Strategy<Value = Calendar> {
    let zones = prop_oneof![
        4 => (0..ZONES.len()).prop_map(|number| ZONES[number]),
        1 => prop::sample::select(&["America/St_Johns", "America/Sao_Paulo", "Asia/Beirut", "Pacific/Apia", "Asia/Gaza"]),
    ];
    let units = prop_oneof![
        3 => Just(Calendar::DAY),
        1 => (0_usize..7).prop_map(|day| Calendar::WEEK.week_starts(Weekday::ALL[day])),
        2 => (1_u8..=31).prop_map(|day| Calendar::MONTH.starts_on(day)),
        1 => Just(Calendar::YEAR),
    ];
    (zones, units).prop_map(|(zone, calendar)| calendar.in_zone(zone))
}

/// Any time from 1970 to 2100, or one within two days of a change of the zone's clocks.
fn time_in(calendar: Calendar) -> impl Strategy<Value = u64> {
    let any = (2 * 86_400 * SECOND)..LATEST;
    let near = (any.clone(), 0..96 * HOUR).prop_map(move |(time, offset)| {
        let from = Timestamp::from_nanosecond(time.into()).unwrap();
        let change = calendar.time_zone().following(from).next();
        let change = change.map_or(time, |change| u64::try_from(change.timestamp().as_nanosecond()).unwrap());
        (change + offset).saturating_sub(48 * HOUR)
    });
    prop_oneof![1 => any, 2 => near]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn bounds_are_those_of_a_calendar_walked_day_by_day(
        (calendar, time) in calendars().prop_flat_map(|calendar| (Just(calendar), time_in(calendar))),
    ) {
        let zone = calendar.time_zone();
        let window = |time: u64| first_day(calendar, date(zone, time));
        let (begin, end) = calendar.window(time);
        prop_assert!(begin <= time && time < end, "{begin} {time} {end}");
        prop_assert_eq!(window(begin), window(time));
        prop_assert_eq!(window(end - 1), window(time));
        prop_assert!(window(end) > window(time));
        prop_assert!(begin == 0 || window(begin - 1) < window(time));
        // The cache and the way around it agree.
        prop_assert_eq!(calendar.window_of(zone, time), (begin, end));
        prop_assert_eq!(calendar.begin_after(time, 0), begin);
        prop_assert!(calendar.begin_after(time, 1) <= end);
    }

    #[test]
    fn windows_follow_each_other(
        (calendar, time) in calendars().prop_flat_map(|calendar| (Just(calendar), time_in(calendar))),
        windows in 1_u64..40,
    ) {
        let (_, mut end) = calendar.window(time);
        for _ in 1..windows {
            let (begin, next) = calendar.window(end);
            prop_assert!(begin == end && next > end, "{end}: {begin} {next}");
            end = next;
        }
        // A day that does not exist has no window, and counts among those that are skipped.
        prop_assert!(calendar.begin_after(time, windows) <= end);
        prop_assert!(end - calendar.begin_after(time, windows) <= 32 * 86_400 * SECOND);
    }
}
