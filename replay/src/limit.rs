//! Parses and prints candidates: `100/1m`, `5 per second token_bucket burst 10`, `10/1s + 100/1m`,
//! `1000/calendar month zone Europe/Berlin`.

use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit, MAX_LIMITS, ParseLimitError};

/// Limits that are decided together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) limits: Vec<Limit>,
}

impl Candidate {
    /// One limit or several, joined by `+`.
    pub(crate) fn parse(text: &str) -> Result<Candidate, String> {
        let limits = text.split('+').map(limit).collect::<Result<Vec<_>, _>>()?;
        if limits.len() > MAX_LIMITS {
            return Err(format!("{} limits are joined: at most {MAX_LIMITS} are decided together", limits.len()));
        }
        Ok(Candidate { limits })
    }

    /// The shortest notation.
    pub(crate) fn name(&self) -> String {
        self.limits.iter().map(|limit| name(*limit)).collect::<Vec<_>>().join(" + ")
    }
}

/// `100/1m`, with the algorithm unless it is the sliding window.
pub(crate) fn name(limit: Limit) -> String {
    if limit.calendar().is_some() {
        return limit.to_string().replace(" per calendar", "/calendar").replace(['(', ')', ','], "");
    }
    let mut name = format!("{}/{}", limit.count(), period(limit.per()));
    if limit.algorithm() != Algorithm::SlidingWindow {
        name = format!("{name} {}", limit.algorithm().name());
    }
    if limit.algorithm() == Algorithm::TokenBucket && limit.burst() != limit.count() {
        name = format!("{name} burst {}", limit.burst());
    }
    name
}

/// `1m`, `1h30m`: the notation in a limit.
pub(crate) fn period(per: Duration) -> String {
    let seconds = per.as_secs();
    if per.subsec_nanos() == 0 {
        for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
            if seconds.is_multiple_of(length) {
                return format!("{}{unit}", seconds / length);
            }
        }
    }
    humantime::format_duration(per).to_string().replace(' ', "")
}

/// `COUNT/PERIOD` or `COUNT per PERIOD`, then an algorithm, then `burst N`.
fn limit(text: &str) -> Result<Limit, String> {
    const FORM: &str = "write a limit as `100/1m`, `100 per minute` or `5/s token_bucket burst 10`";
    let text = text.trim();
    let (count, rest) = text
        .split_once('/')
        .or_else(|| text.split_once(" per "))
        .ok_or_else(|| format!("`{text}` is not a limit: {FORM}"))?;
    let digits: String = count.chars().filter(|character| !matches!(character, '_' | ',' | ' ')).collect();
    if rest.trim_start().starts_with("calendar") {
        return format!("{digits}/{}", rest.trim()).parse().map_err(|error: ParseLimitError| error.to_string());
    }
    let count = digits.parse().map_err(|_| format!("`{}` is not a number of permits: {FORM}", count.trim()))?;

    let words: Vec<&str> = rest.split_whitespace().collect();
    let named = |word: &&str| algorithm(word).is_some() || *word == "burst";
    let (per, mut options) = words.split_at(words.iter().position(named).unwrap_or(words.len()));
    let per = duration(&per.join(" "))?;
    let mut limit = Limit::try_new(count, per).map_err(|error| error.to_string())?;
    if let [name, rest @ ..] = options
        && let Some(algorithm) = algorithm(name)
    {
        limit = limit.with_algorithm(algorithm);
        options = rest;
    }
    match options {
        [] => Ok(limit),
        ["burst", burst] => {
            let burst = burst.parse().map_err(|_| format!("`{burst}` is not a number of permits for `burst`"))?;
            limit.try_with_burst(burst).map_err(|error| error.to_string())
        }
        _ => Err(format!("`{}` does not belong in a limit: {FORM}", options.join(" "))),
    }
}

fn algorithm(name: &str) -> Option<Algorithm> {
    [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow]
        .into_iter()
        .find(|algorithm| algorithm.name() == name)
}

/// A duration, or a bare unit for one of it. Months and years have no fixed length.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mistake = || format!("`{text}` is not a duration: write for example `1s`, `1h30m` or `minute`");
    if text
        .split(|character: char| !character.is_alphabetic())
        .any(|unit| matches!(unit, "M" | "month" | "months" | "y" | "yr" | "yrs" | "year" | "years"))
    {
        return Err(format!(
            "`{text}`: a month and a year have no fixed length: write days, as in `30d`, or `calendar month`"
        ));
    }
    let bare = !text.is_empty() && text.chars().all(char::is_alphabetic);
    let written = if bare { format!("1{text}") } else { text.to_owned() };
    humantime::parse_duration(&written).map_err(|_| mistake())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALENDARS: &str = "5/calendar day zone UTC + 90/calendar month zone Europe/Berlin starts_on 15";

    fn minute(count: u32) -> Limit {
        Limit::new(count, Duration::from_secs(60))
    }

    #[test]
    fn limits_are_read_as_people_write_them() {
        let token = Limit::new(5, Duration::from_secs(1)).with_algorithm(Algorithm::TokenBucket);
        for (text, expected) in [
            ("100/1m", minute(100)),
            ("100 per minute", minute(100)),
            (" 1_000 / 60 s ", minute(1_000)),
            ("5/s token_bucket burst 10", token.with_burst(10)),
            ("5 per 1s token_bucket", token),
            ("100/1m sliding_window", minute(100)),
            ("100/1m fixed_window", minute(100).with_algorithm(Algorithm::FixedWindow)),
        ] {
            assert_eq!(Candidate::parse(text), Ok(Candidate { limits: vec![expected] }), "{text}");
        }
        let joined = Candidate::parse("5/s token_bucket+100/1m").expect("two limits");
        assert_eq!(joined.limits, [token, minute(100)]);
    }

    #[test]
    fn a_name_is_read_back() {
        for text in ["100/1m", "5/1s token_bucket burst 10 + 90/90m", "7/250ms fixed_window", "1/3d", CALENDARS] {
            assert_eq!(Candidate::parse(text).expect("a limit").name(), text);
        }
    }

    #[test]
    fn mistakes_say_what_to_write() {
        for (text, part) in [
            ("100", "write a limit as `100/1m`"),
            ("many/1m", "`many` is not a number"),
            ("100/1q", "not a duration"),
            ("100/1M", "no fixed length"),
            ("0/1m", "at least 1"),
            ("1/0s", "from 1 microsecond"),
            ("5/s burst 10", "only a token bucket"),
            ("5/s token_bucket burst 0", "at least 1"),
            ("5/s token_bucket burst", "does not belong"),
            ("5/s token_bucket 10", "does not belong"),
            ("1/s+1/s+1/s+1/s+1/s+1/s+1/s+1/s+1/s", "at most 8"),
            ("5/calendar fortnight", "unknown calendar `fortnight`"),
            ("", "not a limit"),
        ] {
            let message = Candidate::parse(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
