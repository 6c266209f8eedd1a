//! Parses the times in logs, to nanoseconds since the Unix epoch.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

const SECOND: u64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// A parser that caches the last day of a common log: computing a date costs more than the rest of
/// the line.
#[derive(Debug, Default)]
pub(crate) struct Times {
    day: [u8; 11],
    day_start: i64,
}

impl Times {
    /// Nanoseconds since the Unix epoch. A time without a zone is UTC. `None` if the text is not a
    /// time, or is before 1970.
    ///
    /// Accepts `10/Oct/2000:13:55:36 -0700` (with or without brackets and a fraction), RFC 3339,
    /// ISO 8601 (also with a blank, a slash or a decimal comma), and RFC 2822. Unix times are in
    /// seconds, milliseconds, microseconds or nanoseconds, by their size.
    pub(crate) fn parse(&mut self, text: &[u8]) -> Option<u64> {
        let text = text.trim_ascii();
        let text = text.strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]")).unwrap_or(text);
        if text.len() >= 20 && text[2] == b'/' && text[6] == b'/' && text[11] == b':' {
            return self.common(text);
        }
        if text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
            return unix(text);
        }
        written(std::str::from_utf8(text).ok()?)
    }

    /// `10/Oct/2000:13:55:36 -0700`, with an optional zone.
    fn common(&mut self, text: &[u8]) -> Option<u64> {
        let (day, clock) = text.split_at(11);
        if day != self.day {
            self.day_start = day_start(day)?;
            self.day.copy_from_slice(day);
        }
        let two = |at: usize, most: u8| two_digits(clock.get(at..at + 2)?, most);
        if clock[3] != b':' || clock[6] != b':' {
            return None;
        }
        let seconds = i64::from(two(1, 23)?) * 3_600 + i64::from(two(4, 59)?) * 60 + i64::from(two(7, 60)?);
        let mut rest = &clock[9..];
        let mut nanos = 0;
        if let Some(fraction) = rest.strip_prefix(b".") {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            nanos = fraction_nanos(&fraction[..digits])?;
            rest = &fraction[digits..];
        }
        let offset = match rest {
            [] => 0,
            [b' ', sign @ (b'+' | b'-'), zone @ ..] if zone.len() == 4 => {
                let east = i64::from(two_digits(&zone[..2], 23)?) * 3_600 + i64::from(two_digits(&zone[2..], 59)?) * 60;
                if *sign == b'-' { -east } else { east }
            }
            _ => return None,
        };
        let seconds = u64::try_from(self.day_start + seconds - offset).ok()?;
        seconds.checked_mul(SECOND)?.checked_add(nanos)
    }
}

/// Seconds from the epoch to the start of `10/Oct/2000`, in UTC.
fn day_start(day: &[u8]) -> Option<i64> {
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let month = MONTHS.iter().position(|name| *name == &day[3..6])?;
    let year = i16::from(two_digits(&day[7..9], 99)?) * 100 + i16::from(two_digits(&day[9..11], 99)?);
    let date = Date::new(year, i8::try_from(month).ok()? + 1, i8::try_from(two_digits(&day[..2], 31)?).ok()?).ok()?;
    let epoch = Date::constant(1970, 1, 1);
    Some(i64::from(date.since(epoch).ok()?.get_days()) * DAY)
}

fn two_digits(text: &[u8], most: u8) -> Option<u8> {
    let [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = text else { return None };
    let number = (tens - b'0') * 10 + (ones - b'0');
    (number <= most).then_some(number)
}

/// The nanoseconds of the digits after a decimal point, truncated.
fn fraction_nanos(digits: &[u8]) -> Option<u64> {
    let mut nanos = 0;
    for place in 0..9 {
        let digit = digits.get(place).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        nanos = nanos * 10 + u64::from(digit - b'0');
    }
    Some(nanos)
}

/// A Unix time. Ten digits and fewer than a hundred billion are seconds (until the year 5138), a
/// thousand times as many milliseconds, and so on.
fn unix(text: &[u8]) -> Option<u64> {
    let point = memchr::memchr(b'.', text).unwrap_or(text.len());
    let whole: u64 = std::str::from_utf8(&text[..point]).ok()?.parse().ok()?;
    let fraction = fraction_nanos(text.get(point + 1..).unwrap_or_default())?;
    let unit = match whole {
        ..100_000_000_000 => SECOND,
        100_000_000_000..100_000_000_000_000 => SECOND / 1_000,
        100_000_000_000_000..100_000_000_000_000_000 => SECOND / 1_000_000,
        _ => 1,
    };
    whole.checked_mul(unit)?.checked_add(fraction / (SECOND / unit))
}

/// A date and a time in letters and digits.
fn written(text: &str) -> Option<u64> {
    let nanos = |timestamp: jiff::Timestamp| u64::try_from(timestamp.as_nanosecond()).ok();
    // Slashes between the parts of the date, as Caddy's console writes it.
    let dashed;
    let mut text = text;
    if text.as_bytes().get(4) == Some(&b'/') && text.as_bytes().get(7) == Some(&b'/') {
        dashed = text.replacen('/', "-", 2);
        text = &dashed;
    }
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return nanos(timestamp);
    }
    // `+0000` after a blank.
    let joined = text
        .rsplit_once(' ')
        .filter(|(_, zone)| zone.starts_with(['+', '-']))
        .map(|(time, zone)| [time, zone].concat());
    if let Some(timestamp) = joined.and_then(|text| text.parse::<jiff::Timestamp>().ok()) {
        return nanos(timestamp);
    }
    if let Ok(time) = text.strip_suffix(" UTC").unwrap_or(text).parse::<DateTime>() {
        return nanos(TimeZone::UTC.to_timestamp(time).ok()?);
    }
    nanos(jiff::fmt::rfc2822::parse(text).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<u64> {
        Times::default().parse(text.as_bytes())
    }

    #[test]
    fn one_moment_in_all_its_spellings() {
        let moment = Some(971_211_336 * SECOND);
        for text in [
            "10/Oct/2000:13:55:36 -0700",
            "[10/Oct/2000:13:55:36 -0700]",
            "10/Oct/2000:20:55:36 +0000",
            "11/Oct/2000:02:25:36 +0530",
            "10/Oct/2000:20:55:36.000 +0000",
            "10/Oct/2000:20:55:36",
            "971211336",
            "971211336.0",
            "971211336000",
            "971211336000000",
            "971211336000000000",
            "2000-10-10T20:55:36Z",
            "2000-10-10T13:55:36-07:00",
            "2000-10-10T13:55:36-0700",
            "2000-10-10 13:55:36-07:00",
            "2000-10-10 13:55:36 -0700",
            "2000-10-10 20:55:36",
            "2000-10-10 20:55:36 UTC",
            "2000/10/10 20:55:36.000",
            "2000-10-10 20:55:36,000",
            "Tue, 10 Oct 2000 13:55:36 -0700",
        ] {
            assert_eq!(parse(text), moment, "{text}");
        }
    }

    #[test]
    fn fractions_are_kept_to_the_nanosecond() {
        for text in ["1646861401.524102401", "2022-03-09T21:30:01.524102401Z", "1646861401524.102401"] {
            assert_eq!(parse(text), Some(1_646_861_401_524_102_401), "{text}");
        }
        assert_eq!(parse("10/Oct/2000:13:55:36.25 -0700"), Some(971_211_336_250_000_000));
    }

    #[test]
    fn anything_else_is_no_time() {
        for text in [
            "",
            ".",
            "-",
            "1.2.3",
            "GET",
            "32/Oct/2000:13:55:36 -0700",
            "30/Feb/2000:13:55:36 -0700",
            "10/Oct/2000:24:00:00 +0000",
            "10/Oct/2000:13:55:36 CEST!",
            "31/Dec/1969:23:59:59 +0000",
            "2000-13-10 20:55:36",
            "99999999999999999999999",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_cached_day_is_not_mistaken_for_another() {
        let mut times = Times::default();
        let first = times.parse(b"10/Oct/2000:00:00:00 +0000").expect("a time");
        assert_eq!(times.parse(b"11/Oct/2000:00:00:00 +0000"), Some(first + 86_400 * SECOND));
        assert_eq!(times.parse(b"99/Oct/2000:00:00:00 +0000"), None);
        assert_eq!(times.parse(b"10/Oct/2000:00:00:01 +0000"), Some(first + SECOND));
    }
}
