//! Limits as text, for configuration: `100/1m`, `100 per minute`, `5/s token_bucket burst 10`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::duration;
use crate::limit::{Algorithm, InvalidLimit, Limit};
use crate::suggest::{listed, nearest};

const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

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
            return Err(ParseLimitError::new(format!("`{text}` is no limit: write for example `100/1m`")));
        };
        let count = number(count, "count")?;
        let rest = rest.replace(['(', ')', ','], " ");
        let mut words = rest.split_whitespace().peekable();
        let mut per = Vec::new();
        while let Some(word) = words.next_if(|word| !is_option(word)) {
            per.push(word);
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

/// A duration, written as in the attribute.
pub(crate) fn period(text: &str) -> Result<Duration, ParseLimitError> {
    duration::parse(text).map(Duration::from_nanos).map_err(|mistake| ParseLimitError::new(mistake.to_string()))
}

/// An algorithm, by its [name](Algorithm::name).
pub(crate) fn algorithm(name: &str) -> Result<Algorithm, ParseLimitError> {
    let names = ALGORITHMS.map(Algorithm::name);
    let known = ALGORITHMS.into_iter().find(|algorithm| algorithm.name() == name);
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
    word == "burst" || word.contains('_') || matches!(word, "gcra" | "log")
}

fn number(text: &str, name: &str) -> Result<u32, ParseLimitError> {
    let digits = text.replace('_', "");
    digits
        .parse()
        .map_err(|_| ParseLimitError::new(format!("`{text}` is no `{name}`: it is a number from 1 to {}", u32::MAX)))
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

    #[test]
    fn mistakes_say_what_to_write() {
        for (text, message) in [
            ("", "`` is no limit"),
            ("100", "`100` is no limit"),
            ("/1m", "`/1m` is no limit"),
            ("100 minutes", "`100 minutes` is no limit"),
            ("0/1m", "at least 1"),
            ("4294967296/1m", "is no `count`"),
            ("-1/1m", "is no limit"),
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
        ] {
            assert!(parsed(text).starts_with("error: ") && parsed(text).contains(message), "{text}: {}", parsed(text));
        }
    }
}
