//! Parses duration literals into nanoseconds: `"250ms"`, `"1h30m"`, `"2 minutes"`, `"second"`.
//!
//! The grammar of the humantime crate without units of no fixed length (months, years), plus a bare
//! unit for one of it.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use crate::suggest::nearest;

const MICROSECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The shortest duration of a limit: 1 µs.
pub(crate) const SHORTEST: u64 = MICROSECOND;
/// The longest duration of a limit: 366 days.
pub(crate) const LONGEST: u64 = 366 * DAY;

const UNITS: &[(&str, u64)] = &[
    ("s", SECOND),
    ("ms", 1_000_000),
    ("us", MICROSECOND),
    ("m", MINUTE),
    ("h", HOUR),
    ("d", DAY),
    ("w", 7 * DAY),
    ("second", SECOND),
    ("seconds", SECOND),
    ("minute", MINUTE),
    ("minutes", MINUTE),
    ("hour", HOUR),
    ("hours", HOUR),
    ("day", DAY),
    ("days", DAY),
    ("week", 7 * DAY),
    ("weeks", 7 * DAY),
    ("sec", SECOND),
    ("secs", SECOND),
    ("min", MINUTE),
    ("mins", MINUTE),
    ("hr", HOUR),
    ("hrs", HOUR),
    ("wk", 7 * DAY),
    ("wks", 7 * DAY),
    ("µs", MICROSECOND),
    ("usec", MICROSECOND),
    ("msec", 1_000_000),
    ("millis", 1_000_000),
    ("ns", 1),
    ("nsec", 1),
    ("nanos", 1),
];

/// Why a text is not a duration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    Empty,
    Sign,
    UnexpectedCharacter(char),
    /// A unit without a number before it.
    NumberExpected(String),
    /// A word that is not a unit either.
    UnexpectedWord(String),
    UnitMissing(String),
    UnknownUnit(String),
    Month(String),
    Year(String),
    /// The number, and whether its unit is an hour or longer.
    Fraction(String, bool),
    TooShort,
    TooLong,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mistake::Empty => f.write_str("the duration is empty: write for example `\"1s\"`"),
            Mistake::Sign => f.write_str("a duration has no sign: write for example `\"1s\"`"),
            Mistake::UnexpectedCharacter(character) => {
                write!(f, "`{character}` does not belong in a duration: write for example `\"1h30m\"`")
            }
            Mistake::UnexpectedWord(word) => {
                write!(f, "`{word}` does not belong in a duration: write for example `\"1s\"`")
            }
            Mistake::NumberExpected(unit) => {
                write!(f, "a number is missing before `{unit}`: write for example `\"1h30m\"`")
            }
            Mistake::UnitMissing(number) => {
                write!(
                    f,
                    "`{number}` has no unit: write `\"{number}s\"` for seconds or `\"{number}ms\"` for milliseconds"
                )
            }
            Mistake::UnknownUnit(unit) => {
                write!(f, "`{unit}` is not a unit of time")?;
                match likely_unit(unit) {
                    Some(meant) => write!(f, ": did you mean `{meant}`?"),
                    None => f.write_str(": write `us`, `ms`, `s`, `m`, `h`, `d` or `w`"),
                }
            }
            Mistake::Month(unit) => {
                write!(
                    f,
                    "`{unit}` is a month, which has no fixed length: write `30d` for 30 days, `m` for minutes, or a `calendar`"
                )
            }
            Mistake::Year(unit) => {
                write!(f, "`{unit}` is a year, which has no fixed length: write `365d` for 365 days, or a `calendar`")
            }
            Mistake::Fraction(number, false) => {
                write!(f, "`{number}` has too many decimals: a duration is a whole number of nanoseconds")
            }
            Mistake::Fraction(number, true) => {
                write!(
                    f,
                    "`{number}` is not a whole number of seconds: write it in hours, minutes and seconds, as in `\"1h30m\"`"
                )
            }
            Mistake::TooShort => f.write_str("the duration is too short: the shortest is 1 microsecond, `\"1us\"`"),
            Mistake::TooLong => f.write_str("the duration is too long: the longest is 366 days, `\"366d\"`"),
        }
    }
}

/// The nanoseconds of a duration literal, from [`SHORTEST`] to [`LONGEST`].
pub(crate) fn parse(text: &str) -> Result<u64, Mistake> {
    let bare = text.trim();
    if !bare.is_empty() && bare.chars().all(is_unit_character) {
        return in_range(unit(bare)?);
    }
    let mut rest = text.chars().peekable();
    skip_whitespace(&mut rest);
    if rest.peek().is_none() {
        return Err(Mistake::Empty);
    }
    let mut total: u64 = 0;
    while rest.peek().is_some() {
        let number = number(&mut rest)?;
        let name = take_while(&mut rest, is_unit_character);
        if name.is_empty() {
            return Err(match rest.peek() {
                Some(character) => Mistake::UnexpectedCharacter(*character),
                None => Mistake::UnitMissing(number.written),
            });
        }
        let part = number.times(unit(&name)?)?;
        total = total.checked_add(part).ok_or(Mistake::TooLong)?;
        skip_whitespace(&mut rest);
    }
    in_range(total)
}

fn in_range(nanos: u64) -> Result<u64, Mistake> {
    match nanos {
        ..SHORTEST => Err(Mistake::TooShort),
        SHORTEST..=LONGEST => Ok(nanos),
        _ => Err(Mistake::TooLong),
    }
}

/// A decimal number and its fraction.
struct Number {
    written: String,
    whole: Option<u64>,
    /// Numerator and denominator.
    fraction: Option<(u64, u64)>,
}

impl Number {
    fn times(&self, unit: u64) -> Result<u64, Mistake> {
        let whole = self.whole.and_then(|whole| whole.checked_mul(unit)).ok_or(Mistake::TooLong)?;
        let Some((numerator, denominator)) = self.fraction else {
            return Ok(whole);
        };
        // For units of an hour and longer, a fraction must come to whole seconds.
        let grain = if unit >= HOUR { SECOND } else { 1 };
        let scaled = numerator.checked_mul(unit / grain).filter(|scaled| scaled % denominator == 0 && unit > 1);
        let part = scaled.ok_or_else(|| Mistake::Fraction(self.written.clone(), unit >= HOUR))? / denominator * grain;
        whole.checked_add(part).ok_or(Mistake::TooLong)
    }
}

/// A number up to its unit: `10`, `1 000`, `1.5`. At least one character must be left.
fn number(rest: &mut Peekable<Chars<'_>>) -> Result<Number, Mistake> {
    match rest.peek() {
        Some('0'..='9') => {}
        Some('+' | '-') => return Err(Mistake::Sign),
        Some(character) if is_unit_character(*character) => {
            let word = take_while(rest, is_unit_character);
            return Err(match unit(&word) {
                Err(Mistake::UnknownUnit(word)) => Mistake::UnexpectedWord(word),
                _ => Mistake::NumberExpected(word),
            });
        }
        other => return Err(Mistake::UnexpectedCharacter(other.copied().unwrap_or(' '))),
    }
    let digits = digits(rest);
    let mut number = Number { whole: digits.parse().ok(), written: digits, fraction: None };
    if rest.peek() == Some(&'.') {
        rest.next();
        let decimals = self::digits(rest);
        number.written = format!("{}.{decimals}", number.written);
        if decimals.is_empty() {
            return Err(Mistake::UnexpectedCharacter('.'));
        }
        let denominator = u32::try_from(decimals.len()).ok().and_then(|places| 10u64.checked_pow(places));
        let Some((numerator, denominator)) = decimals.parse().ok().zip(denominator) else {
            return Err(Mistake::Fraction(number.written, false));
        };
        number.fraction = Some((numerator, denominator));
    }
    Ok(number)
}

/// Digits, with blanks between and after them skipped.
fn digits(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut digits = take_while(rest, |character| character.is_ascii_digit() || character.is_whitespace());
    digits.retain(|character| character.is_ascii_digit());
    digits
}

fn unit(name: &str) -> Result<u64, Mistake> {
    match name {
        "M" | "month" | "months" => Err(Mistake::Month(name.to_owned())),
        "y" | "yr" | "yrs" | "year" | "years" => Err(Mistake::Year(name.to_owned())),
        _ => match UNITS.iter().find(|(known, _)| *known == name) {
            Some((_, nanos)) => Ok(*nanos),
            None => Err(Mistake::UnknownUnit(name.to_owned())),
        },
    }
}

fn likely_unit(written: &str) -> Option<&'static str> {
    let lower = written.to_ascii_lowercase();
    match lower.as_str() {
        "millisecond" | "milliseconds" | "milli" => Some("ms"),
        "microsecond" | "microseconds" | "micros" | "micro" => Some("us"),
        "nanosecond" | "nanoseconds" | "nano" => Some("ns"),
        _ => {
            let names: Vec<&'static str> = UNITS.iter().map(|(name, _)| *name).collect();
            names.iter().find(|name| **name == lower).copied().or_else(|| {
                // One or two letters resemble every unit.
                if lower.chars().count() > 2 { nearest(&lower, &names) } else { None }
            })
        }
    }
}

fn is_unit_character(character: char) -> bool {
    character.is_ascii_alphabetic() || character == 'µ'
}

fn skip_whitespace(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|character| character.is_whitespace()).is_some() {}
}

fn take_while(rest: &mut Peekable<Chars<'_>>, wanted: impl Fn(char) -> bool) -> String {
    let mut taken = String::new();
    while let Some(character) = rest.next_if(|character| wanted(*character)) {
        taken.push(character);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// humantime's result, restricted to what this crate accepts: in range and of fixed length.
    fn oracle(text: &str) -> Option<u64> {
        let duration = humantime::parse_duration(text).ok()?;
        let is_calendar = text
            .split(|c: char| !c.is_ascii_alphabetic())
            .any(|unit| matches!(unit, "M" | "month" | "months" | "y" | "yr" | "yrs" | "year" | "years"));
        let nanos = u64::try_from(duration.as_nanos()).ok()?;
        (!is_calendar && (1_000..=366 * 86_400_000_000_000).contains(&nanos)).then_some(nanos)
    }

    #[test]
    fn the_examples_of_the_documentation_parse() {
        for (text, nanos) in [
            ("250ms", 250_000_000),
            ("10us", 10_000),
            ("1s", SECOND),
            ("1m", MINUTE),
            ("1h", HOUR),
            ("1d", DAY),
            ("1w", 7 * DAY),
            ("1h30m", 90 * MINUTE),
            ("2 minutes", 2 * MINUTE),
            ("1.5s", 1_500_000_000),
        ] {
            assert_eq!(parse(text), Ok(nanos), "{text}");
            assert_eq!(oracle(text), Some(nanos), "{text}");
        }
    }

    #[test]
    fn a_bare_unit_is_one_of_it() {
        assert_eq!(parse("second"), Ok(SECOND));
        assert_eq!(parse("minute"), Ok(MINUTE));
        assert_eq!(parse(" h "), Ok(HOUR));
    }

    #[test]
    fn the_range_ends_at_a_microsecond_and_at_366_days() {
        assert_eq!(parse("1us"), Ok(1_000));
        assert_eq!(parse("999ns"), Err(Mistake::TooShort));
        assert_eq!(parse("0s"), Err(Mistake::TooShort));
        assert_eq!(parse("366d"), Ok(LONGEST));
        assert_eq!(parse("366d 1ns"), Err(Mistake::TooLong));
        assert_eq!(parse("99999999999999999999999s"), Err(Mistake::TooLong));
    }

    #[test]
    fn months_and_years_are_refused_with_the_reason() {
        assert_eq!(parse("1M"), Err(Mistake::Month("M".to_owned())));
        assert_eq!(parse("month"), Err(Mistake::Month("month".to_owned())));
        assert_eq!(parse("2 years"), Err(Mistake::Year("years".to_owned())));
    }

    #[test]
    fn mistakes_say_what_to_write() {
        let message = |text| parse(text).map_err(|mistake| mistake.to_string()).unwrap_err();
        assert!(message("10").contains("`\"10s\"`"));
        assert!(message("5 milliseconds").contains("did you mean `ms`"));
        assert!(message("1S").contains("did you mean `s`"));
        assert!(message("3 mintues").contains("did you mean `minutes`"));
        assert!(message("1q").contains("write `us`"));
        assert!(message("-1s").contains("no sign"));
        assert!(message("").contains("empty"));
    }

    proptest! {
        #[test]
        fn agrees_with_humantime_on_made_up_durations(
            parts in proptest::collection::vec(
                (0u64..5_000, proptest::option::of(0u32..2_000), " ?", 0..UNITS.len() + 3, " ?"), 1..4)
        ) {
            let text: String = parts
                .iter()
                .map(|(whole, fraction, gap, unit, end)| {
                    let unit = UNITS.get(*unit).map_or(["M", "year", "month"][unit % 3], |(name, _)| name);
                    match fraction {
                        Some(fraction) => format!("{whole}.{fraction}{gap}{unit}{end}"),
                        None => format!("{whole}{gap}{unit}{end}"),
                    }
                })
                .collect();
            prop_assert_eq!(parse(&text).ok(), oracle(&text), "{}", text);
        }

        #[test]
        fn agrees_with_humantime_on_any_text(text in "[0-9 .a-zM\u{b5}+-]{0,12}") {
            let is_bare_unit = text.trim().chars().all(is_unit_character);
            if !is_bare_unit {
                prop_assert_eq!(parse(&text).ok(), oracle(&text), "{}", text);
            }
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            if let Err(mistake) = parse(&text) {
                let _ = mistake.to_string();
            }
        }
    }
}
