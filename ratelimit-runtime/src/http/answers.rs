//! Process-wide choices about HTTP answers.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// How this process answers denied requests, for all frameworks and all limits.
///
/// ```
/// use ratelimit_runtime::{HttpAnswers, RateLimitFields, set_http_answers};
///
/// // `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`; `retry-after-ms` beside `Retry-After`; 400 instead of 422.
/// let answers = HttpAnswers::new().fields(RateLimitFields::Draft6).retry_after_ms(true);
/// set_http_answers(answers.never_fits_status(400)?);
/// # set_http_answers(HttpAnswers::new());
/// # Ok::<(), ratelimit_runtime::InvalidStatus>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpAnswers {
    never_fits: u16,
    fields: RateLimitFields,
    retry_after_ms: bool,
}

/// The form of the `RateLimit` header fields: the IETF draft that they follow.
///
/// Parsers read one form and often return nothing for the others. npm's `ratelimit-header-parser`
/// 0.1 reads drafts 6 and 7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateLimitFields {
    /// `RateLimit: "100-per-60s";r=0;t=12` and `RateLimit-Policy: "100-per-60s";q=100;w=60`.
    #[default]
    Draft11,
    /// `RateLimit: limit=100, remaining=0, reset=12` and `RateLimit-Policy: 100;w=60`.
    Draft7,
    /// `RateLimit-Limit: 100`, `RateLimit-Remaining: 0`, `RateLimit-Reset: 12` and
    /// `RateLimit-Policy: 100;w=60`.
    Draft6,
}

/// 4xx statuses that clients retry by themselves.
const REPEATED: [u16; 5] = [408, 409, 413, 425, 429];

impl HttpAnswers {
    /// The default answers: draft 11, no `retry-after-ms`, 422 for a cost that never fits.
    pub const fn new() -> HttpAnswers {
        HttpAnswers { never_fits: 422, fields: RateLimitFields::Draft11, retry_after_ms: false }
    }

    /// The form of the `RateLimit` fields in denials, and in the fields that
    /// `RateLimitHeadersLayer` and `RateLimitHeaders` add.
    pub const fn fields(self, fields: RateLimitFields) -> HttpAnswers {
        HttpAnswers { fields, ..self }
    }

    /// Adds `retry-after-ms`, in milliseconds, to denials. `OpenAI`'s and Anthropic's clients obey
    /// it. `Retry-After` counts whole seconds, which is long for a limit of 200 ms.
    pub const fn retry_after_ms(self, is_sent: bool) -> HttpAnswers {
        HttpAnswers { retry_after_ms: is_sent, ..self }
    }

    /// The status of a request whose cost can never fit the limit, instead of 422.
    ///
    /// # Errors
    /// If `status` is outside 400 to 499, or one that clients retry (408, 409, 413, 425, 429).
    pub const fn never_fits_status(self, status: u16) -> Result<HttpAnswers, InvalidStatus> {
        let mut index = 0;
        while index < REPEATED.len() {
            if REPEATED[index] == status {
                return Err(InvalidStatus(status));
            }
            index += 1;
        }
        if status < 400 || status > 499 {
            return Err(InvalidStatus(status));
        }
        Ok(HttpAnswers { never_fits: status, ..self })
    }

    pub(super) fn never_fits(self) -> u16 {
        self.never_fits
    }

    pub(super) fn form(self) -> RateLimitFields {
        self.fields
    }

    pub(super) fn sends_retry_after_ms(self) -> bool {
        self.retry_after_ms
    }

    const fn packed(self) -> u32 {
        let form = match self.fields {
            RateLimitFields::Draft11 => 0,
            RateLimitFields::Draft7 => 1,
            RateLimitFields::Draft6 => 2,
        };
        (self.never_fits as u32) << 3 | form << 1 | self.retry_after_ms as u32
    }

    fn unpacked(packed: u32) -> HttpAnswers {
        let fields = match packed >> 1 & 3 {
            0 => RateLimitFields::Draft11,
            1 => RateLimitFields::Draft7,
            _ => RateLimitFields::Draft6,
        };
        let never_fits = u16::try_from(packed >> 3).unwrap_or(422);
        HttpAnswers { never_fits, fields, retry_after_ms: packed & 1 == 1 }
    }
}

impl Default for HttpAnswers {
    fn default() -> HttpAnswers {
        HttpAnswers::new()
    }
}

static ANSWERS: AtomicU32 = AtomicU32::new(HttpAnswers::new().packed());

/// Chooses how this process answers denied requests, from the next one on.
pub fn set_http_answers(answers: HttpAnswers) {
    ANSWERS.store(answers.packed(), Ordering::Relaxed);
}

pub(super) fn current() -> HttpAnswers {
    HttpAnswers::unpacked(ANSWERS.load(Ordering::Relaxed))
}

/// The status is unfit for a request that no client should retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidStatus(u16);

impl fmt::Display for InvalidStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidStatus(status) = self;
        write!(
            f,
            "{status} is not a status that every client leaves alone: write one from 400 to 499, such as 400, 403 or 422"
        )?;
        if REPEATED.contains(status) { write!(f, " (clients repeat {status})") } else { Ok(()) }
    }
}

impl Error for InvalidStatus {}

/// The header fields that report limits, for `Access-Control-Expose-Headers`. Without it, scripts
/// of another origin see none of them.
///
/// ```
/// use axum::http::HeaderName;
/// use ratelimit_runtime::RATE_LIMIT_HEADERS;
///
/// // For `tower_http::cors::CorsLayer::expose_headers`.
/// let exposed = RATE_LIMIT_HEADERS.map(HeaderName::from_static);
/// assert!(exposed.contains(&axum::http::header::RETRY_AFTER));
/// ```
pub const RATE_LIMIT_HEADERS: [&str; 10] = [
    "retry-after",
    "retry-after-ms",
    "ratelimit",
    "ratelimit-policy",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_kept_as_it_was_made() {
        for fields in [RateLimitFields::Draft11, RateLimitFields::Draft7, RateLimitFields::Draft6] {
            for retry_after_ms in [false, true] {
                for status in [400, 403, 422, 499] {
                    let answers = HttpAnswers::new().fields(fields).retry_after_ms(retry_after_ms);
                    let answers = answers.never_fits_status(status).unwrap();
                    assert_eq!(HttpAnswers::unpacked(answers.packed()), answers);
                }
            }
        }
    }

    #[test]
    fn a_status_that_clients_repeat_is_refused() {
        for status in [0, 200, 399, 408, 409, 413, 425, 429, 500, 503, u16::MAX] {
            let error = HttpAnswers::new().never_fits_status(status).unwrap_err();
            assert!(error.to_string().starts_with(&status.to_string()), "{error}");
        }
    }
}
