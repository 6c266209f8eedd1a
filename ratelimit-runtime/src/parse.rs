//! Limits as text, for configuration: `100/1m`, `100 per minute`, `5/s token_bucket burst 10`,
//! `1000 per calendar month zone Europe/Berlin`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

#[cfg(feature = "calendar")]
use crate::calendar::{CalendarUnit, InvalidCalendar, Weekday, unknown_zone};
use crate::duration;
use crate::limit::{Algorithm, InvalidLimit, Limit};
use crate::suggest::{listed, nearest};

/// Why a text is not a [`Limit`]. `Display` says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseLimitError {
    message: String,
}

impl ParseLimitError {
    pub(crate) fn new(message: impl Into<String>) -> ParseLimitError {
        ParseLimitError { message: message.into() }
    }
}

impl From<InvalidLimit> for ParseLimitError {
    fn from(invalid: InvalidLimit) -> ParseLimitError {
        ParseLimitError::new(invalid.to_string())
    }
}

impl fmt::Display for ParseLimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseLimitError {}

/// Reads `count/per` or `count per per`, then an optional algorithm and `burst`, with or without
/// parentheses. Durations are written as in the attribute. Reads everything that `Display` writes.
///
/// With the feature `calendar`, `calendar day`, `week`, `month` or `year` stands in place of a
/// duration; `zone Europe/Berlin`, `week_starts sunday` and `starts_on 15` may follow.
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::{Algorithm, Limit};
///
/// let limit: Limit = "100 per minute".parse()?;
/// assert_eq!(limit, Limit::per_minute(100));
/// let smooth: Limit = "5/s token_bucket burst 10".parse()?;
/// assert_eq!(smooth, Limit::per_second(5).with_algorithm(Algorithm::TokenBucket).with_burst(10));
/// assert_eq!(smooth.to_string().parse(), Ok(smooth));
/// # Ok::<(), ratelimit_runtime::ParseLimitError>(())
/// ```
impl FromStr for Limit {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Limit, ParseLimitError> {
        let text = text.trim();
        let (count, rest) = text.split_at(text.find(|next: char| !is_of_number(next)).unwrap_or(text.len()));
        let rest = rest.trim_start();
        let behind_per = rest.strip_prefix("per").filter(|rest| rest.starts_with(char::is_whitespace));
        let (false, Some(rest)) = (count.is_empty(), rest.strip_prefix('/').or(behind_per)) else {
            return Err(ParseLimitError::new(format!("`{text}` is not a limit: write for example `100/1m`")));
        };
        let count = number(count, "count")?;
        let rest = rest.replace(['(', ')', ','], " ");
        let mut words = rest.split_whitespace().peekable();
        let mut per = Vec::new();
        while let Some(word) = words.next_if(|word| !is_option(word) && !is_unit(&per)) {
            per.push(word);
        }
        if let ["calendar", unit @ ..] = &per[..] {
            return by_calendar(count, &unit.join(" "), words);
        }
        let mut limit = Limit::try_new(count, period(&per.join(" "))?)?;
        let (mut chosen, mut burst) = (None, None);
        while let Some(word) = words.next() {
            if word == "burst" {
                let value =
                    words.next().ok_or_else(|| ParseLimitError::new("`burst` has no value: write `burst 10`"))?;
                if burst.replace(number(value, "burst")?).is_some() {
                    return Err(ParseLimitError::new("`burst` is given twice"));
                }
            } else if chosen.replace(algorithm(word)?).is_some() {
                return Err(ParseLimitError::new("an algorithm is given twice"));
            }
        }
        if let Some(algorithm) = chosen {
            limit = limit.with_algorithm(algorithm);
        }
        match burst {
            Some(burst) => Ok(limit.try_with_burst(burst)?),
            None => Ok(limit),
        }
    }
}

/// A limit by the calendar: the unit, then the words behind it.
#[cfg(feature = "calendar")]
fn by_calendar<'a>(count: u32, unit: &str, mut words: impl Iterator<Item = &'a str>) -> Result<Limit, ParseLimitError> {
    let mut calendar = CalendarParts::default();
    while let Some(word) = words.next() {
        let mut value = |example: &str| {
            words.next().ok_or_else(|| ParseLimitError::new(format!("`{word}` has no value: write `{word} {example}`")))
        };
        let is_given = match word {
            "fixed_window" => false,
            "zone" => calendar.zone.replace(value("Europe/Berlin")?.to_owned()).is_some(),
            "week_starts" => calendar.week_starts.replace(value("sunday")?.to_owned()).is_some(),
            "starts_on" => calendar.starts_on.replace(day(value("15")?)?).is_some(),
            _ => {
                let message =
                    format!("`{word}` does not belong to a calendar: it has `zone`, `week_starts` and `starts_on`");
                return Err(ParseLimitError::new(message));
            }
        };
        if is_given {
            return Err(ParseLimitError::new(format!("`{word}` is given twice")));
        }
    }
    calendar.limit(count, unit)
}

#[cfg(not(feature = "calendar"))]
fn by_calendar<'a>(_: u32, _: &str, _: impl Iterator<Item = &'a str>) -> Result<Limit, ParseLimitError> {
    Err(ParseLimitError::new(NO_CALENDARS))
}

/// Why a calendar cannot be read.
#[cfg(not(feature = "calendar"))]
pub(crate) const NO_CALENDARS: &str = "a calendar limit needs the feature `calendar` of `ratelimit-runtime`";

#[cfg(feature = "calendar")]
fn day(text: &str) -> Result<u8, ParseLimitError> {
    text.parse().map_err(|_| ParseLimitError::new(format!("`{text}` is not a `starts_on`: write a day from 1 to 31")))
}

/// The parts of a calendar in a configuration, besides its unit.
#[cfg(feature = "calendar")]
#[derive(Debug, Default)]
pub(crate) struct CalendarParts {
    pub(crate) zone: Option<String>,
    pub(crate) week_starts: Option<String>,
    pub(crate) starts_on: Option<u8>,
}

#[cfg(feature = "calendar")]
impl CalendarParts {
    /// The name of a part that is given.
    #[cfg(feature = "serde")]
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        let CalendarParts { zone, week_starts, starts_on } = self;
        let given =
            [("zone", zone.is_some()), ("week_starts", week_starts.is_some()), ("starts_on", starts_on.is_some())];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }

    /// The limit of these parts.
    pub(crate) fn limit(&self, count: u32, unit: &str) -> Result<Limit, ParseLimitError> {
        let invalid = |error: InvalidCalendar| ParseLimitError::new(error.to_string());
        let mut calendar = CalendarUnit::named(unit).map_err(ParseLimitError::new)?.calendar();
        if let Some(zone) = &self.zone {
            let zoned = calendar.try_in_zone(zone);
            calendar = zoned.map_err(|_| ParseLimitError::new(unknown_zone(zone)))?;
        }
        if let Some(day) = &self.week_starts {
            let day = Weekday::named(day).map_err(ParseLimitError::new)?;
            calendar = calendar.try_week_starts(day).map_err(invalid)?;
        }
        if let Some(day) = self.starts_on {
            calendar = calendar.try_starts_on(day).map_err(invalid)?;
        }
        Ok(Limit::try_per_calendar(count, calendar)?)
    }
}

/// A duration, written as in the attribute.
pub(crate) fn period(text: &str) -> Result<Duration, ParseLimitError> {
    duration::parse(text).map(Duration::from_nanos).map_err(|mistake| ParseLimitError::new(mistake.to_string()))
}

/// An algorithm, by its [name](Algorithm::name).
pub(crate) fn algorithm(name: &str) -> Result<Algorithm, ParseLimitError> {
    let names = Algorithm::ALL.map(Algorithm::name);
    let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
    known.ok_or_else(|| {
        ParseLimitError::new(match nearest(name, &names) {
            Some(meant) => format!("unknown algorithm `{name}`: did you mean `{meant}`?"),
            None => format!("unknown algorithm `{name}`: it is {}", listed(&names, " or ")),
        })
    })
}

fn is_of_number(character: char) -> bool {
    character.is_ascii_digit() || character == '_'
}

/// Whether `word` starts the options after the duration.
fn is_option(word: &str) -> bool {
    matches!(word, "burst" | "zone") || word.contains('_') || matches!(word, "gcra" | "log")
}

/// Whether the duration is a bare unit, which is a whole one.
fn is_unit(per: &[&str]) -> bool {
    matches!(per, [unit] if unit.starts_with(char::is_alphabetic) && duration::parse(unit).is_ok())
}

fn number(text: &str, name: &str) -> Result<u32, ParseLimitError> {
    let digits = text.replace('_', "");
    digits
        .parse()
        .map_err(|_| ParseLimitError::new(format!("`{text}` is not a `{name}`: write a number from 1 to {}", u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        text.parse::<Limit>().map_or_else(|error| format!("error: {error}"), |limit| limit.to_string())
    }

    #[test]
    fn limits_are_read_as_they_are_written() {
        for (text, limit) in [
            ("100/1m", "100 per 1m"),
            (" 100 / 1 minute ", "100 per 1m"),
            ("100 per minute", "100 per 1m"),
            ("10_000/d", "10000 per 1d"),
            ("1/1h30m", "1 per 1h30m"),
            ("7 per 1h 30m fixed_window", "7 per 1h30m (fixed_window)"),
            ("5/s token_bucket burst 10", "5 per 1s (token_bucket, burst 10)"),
            ("5/s burst 10 token_bucket", "5 per 1s (token_bucket, burst 10)"),
            ("5/s token_bucket", "5 per 1s (token_bucket, burst 5)"),
            ("5/250ms sliding_window", "5 per 250ms"),
        ] {
            assert_eq!(parsed(text), limit, "{text}");
            assert_eq!(parsed(limit), limit);
        }
    }

    #[cfg(feature = "calendar")]
    #[test]
    fn calendars_are_read_as_they_are_written() {
        for (text, limit) in [
            ("1000/calendar day", "1000 per calendar day (zone UTC)"),
            ("5 per calendar month zone Europe/Berlin", "5 per calendar month (zone Europe/Berlin)"),
            (
                "5/calendar month starts_on 15 zone America/New_York",
                "5 per calendar month (zone America/New_York, starts_on 15)",
            ),
            ("5/calendar week fixed_window week_starts sunday", "5 per calendar week (zone UTC, week_starts sunday)"),
            ("5/calendar week week_starts monday", "5 per calendar week (zone UTC)"),
            ("7 per calendar year zone Etc/GMT+5", "7 per calendar year (zone Etc/GMT+5)"),
        ] {
            assert_eq!(parsed(text), limit, "{text}");
            assert_eq!(parsed(limit), limit);
        }
    }

    #[cfg(feature = "calendar")]
    #[test]
    fn mistakes_in_a_calendar_say_what_to_write() {
        for (text, message) in [
            ("5/calendar", "unknown calendar ``"),
            ("5/calendar mont", "did you mean `month`?"),
            ("5/calendar hour", "it is `day`, `week`, `month` or `year`"),
            ("0/calendar day", "at least 1"),
            ("5/calendar day zone", "`zone` has no value: write `zone Europe/Berlin`"),
            ("5/calendar day zone Europe/Berlim", "did you mean `Europe/Berlin`?"),
            ("5/calendar day zone europe/berlin", "did you mean `Europe/Berlin`?"),
            ("5/calendar day zone +02:00", "unknown time zone `+02:00`"),
            ("5/calendar day zone UTC zone UTC", "`zone` is given twice"),
            ("5/calendar day starts_on 3", "for a calendar month"),
            ("5/calendar month starts_on 32", "from 1 to 31"),
            ("5/calendar month starts_on 300", "`300` is not a `starts_on`"),
            ("5/calendar month week_starts sunday", "for a calendar week"),
            ("5/calendar week week_starts sundy", "did you mean `sunday`?"),
            ("5/calendar day token_bucket", "`token_bucket` does not belong to a calendar"),
            ("5/calendar day burst 3", "`burst` does not belong to a calendar"),
            ("5/1d zone UTC", "unknown algorithm `zone`"),
        ] {
            assert!(parsed(text).starts_with("error: ") && parsed(text).contains(message), "{text}: {}", parsed(text));
        }
    }

    #[test]
    fn mistakes_say_what_to_write() {
        for (text, message) in [
            ("", "`` is not a limit"),
            ("100", "`100` is not a limit"),
            ("/1m", "`/1m` is not a limit"),
            ("100 minutes", "`100 minutes` is not a limit"),
            ("0/1m", "at least 1"),
            ("4294967296/1m", "is not a `count`"),
            ("-1/1m", "is not a limit"),
            ("100/", "the duration is empty"),
            ("100/1", "has no unit"),
            ("100/1 month", "no fixed length"),
            ("100/1y", "no fixed length"),
            ("100/367d", "too long"),
            ("100/1m tokens_bucket", "did you mean `token_bucket`?"),
            ("100/1m gcra", "unknown algorithm `gcra`"),
            ("100/1m burst 10", "only a token bucket has a `burst`"),
            ("100/1m token_bucket burst", "`burst` has no value"),
            ("100/1m token_bucket burst 0", "at least 1"),
            ("100/1m token_bucket burst 1 burst 2", "given twice"),
            ("100/1m token_bucket fixed_window", "given twice"),
            ("100/1m please", "`please` does not belong"),
            ("100/m please", "unknown algorithm `please`"),
            ("100 per minute tokenbucket", "did you mean `token_bucket`?"),
        ] {
            assert!(parsed(text).starts_with("error: ") && parsed(text).contains(message), "{text}: {}", parsed(text));
        }
    }
}
