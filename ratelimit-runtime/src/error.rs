//! Errors: a denied call, and a backend that cannot decide.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::limit::Limit;

/// A call was denied by a rate limit.
///
/// At most 64 bytes, cheap to clone, `Send + Sync + 'static`. Works with `anyhow`, `eyre`, `Box<dyn
/// Error + Send + Sync>` and `#[from]` of `thiserror`, and converts into [`std::io::Error`] (kind
/// [`ResourceBusy`](io::ErrorKind::ResourceBusy)).
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::{Limit, RateLimiter};
///
/// static API: RateLimiter = RateLimiter::new("api", &[Limit::new(1, Duration::from_secs(60))]);
/// API.check("alice", 1)?;
/// let exceeded = API.check("alice", 1).unwrap_err();
/// assert_eq!(exceeded.limiter(), "api");
/// assert_eq!(exceeded.retry_after_secs(), Some(60));
/// # Ok::<(), ratelimit_runtime::RateLimitExceeded>(())
/// ```
#[derive(Clone)]
pub struct RateLimitExceeded {
    pub(crate) limiter: Name,
    pub(crate) limit: Limit,
    /// Nanoseconds; `u64::MAX` for never.
    pub(crate) retry_after: u64,
    pub(crate) remaining: u32,
    pub(crate) position: u8,
    pub(crate) kind: ExceededKind,
}

/// Why a call was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExceededKind {
    /// The limit is used up for now.
    Limited,
    /// The call costs more than the limit can ever hold. Waiting does not help.
    CostExceedsLimit,
    /// The backend could not decide, and the limiter denies in that case.
    BackendFailed,
    /// The key is blocked ([`block`](crate::RateLimiter::block)), paused (`pause_when`) or banned
    /// (`ban`), whatever its limit has left.
    Blocked,
    /// The call passed more or fewer keys to [`check_each`](crate::RateLimiter::check_each) than
    /// the limiter has limits with keys of their own. This is a bug in the program: every such call
    /// is denied.
    WrongKeys,
}

#[cfg(any(feature = "serde", feature = "tracing"))]
impl ExceededKind {
    /// The name in JSON and in events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ExceededKind::Limited => "limited",
            ExceededKind::CostExceedsLimit => "cost_exceeds_limit",
            ExceededKind::BackendFailed => "backend_failed",
            ExceededKind::Blocked => "blocked",
            ExceededKind::WrongKeys => "wrong_keys",
        }
    }
}

/// A limiter's name. A static name costs no allocation.
#[derive(Clone)]
pub(crate) enum Name {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Name {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Name::Static(name) => name,
            Name::Shared(name) => name,
        }
    }
}

impl RateLimitExceeded {
    /// The name of the limiter that denied the call.
    pub fn limiter(&self) -> &str {
        self.limiter.as_str()
    }

    /// The limit that denied the call; of several, the one that holds it back longest.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// The position of [`limit`](Self::limit) among the limiter's limits, from 0.
    pub fn limit_index(&self) -> usize {
        usize::from(self.position)
    }

    /// Permits left in that limit: fewer than the call's cost, not always 0. A blocked or banned key
    /// may have any number left.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// How long until the same call would be admitted if no other call came; `None` if it never
    /// would.
    pub fn retry_after(&self) -> Option<Duration> {
        (self.retry_after != u64::MAX).then(|| Duration::from_nanos(self.retry_after))
    }

    /// [`retry_after`](Self::retry_after) in whole seconds for an HTTP `Retry-After`, rounded up
    /// and never 0.
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.retry_after().map(|after| after.as_nanos().div_ceil(1_000_000_000).max(1)).and_then(|s| s.try_into().ok())
    }

    /// Why the call was denied.
    pub fn kind(&self) -> ExceededKind {
        self.kind
    }
}

/// Safe to show to callers: says which limit was exceeded and when to retry.
///
/// The limiter's name may contain paths of the program, so only `Debug` and
/// [`limiter`](RateLimitExceeded::limiter) show it. Nothing shows the key.
impl fmt::Display for RateLimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RateLimitExceeded { limit, .. } = self;
        match self.kind {
            ExceededKind::Limited => write!(f, "rate limit exceeded: {limit}")?,
            ExceededKind::CostExceedsLimit => {
                write!(f, "the call costs more permits than its rate limit can hold: {limit}")?;
            }
            ExceededKind::BackendFailed => f.write_str("the rate limit cannot be decided at the moment")?,
            ExceededKind::Blocked => f.write_str("further calls are blocked for the time being")?,
            ExceededKind::WrongKeys => {
                return f.write_str("the call passes more or fewer keys than its rate limit has");
            }
        }
        match self.retry_after() {
            Some(after) => write!(f, "; retry after {:?}", Duration::from_millis(rounded_up_millis(after))),
            None => Ok(()),
        }
    }
}

fn rounded_up_millis(after: Duration) -> u64 {
    after.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(u64::MAX)
}

impl fmt::Debug for RateLimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitExceeded")
            .field("limiter", &self.limiter())
            .field("kind", &self.kind)
            .field("limit", &self.limit)
            .field("remaining", &self.remaining)
            .field("retry_after", &self.retry_after())
            .finish_non_exhaustive()
    }
}

impl std::error::Error for RateLimitExceeded {}

impl From<RateLimitExceeded> for io::Error {
    fn from(exceeded: RateLimitExceeded) -> io::Error {
        io::Error::new(io::ErrorKind::ResourceBusy, exceeded)
    }
}

/// A return type that can carry a denial of an annotated function.
///
/// Implemented for `Result<T, E>` if `E: From<RateLimitExceeded>`, and for `Option<T>` (`None`).
/// Implement it for your own return type, or use `or_else = |exceeded| ..` in the attribute.
///
/// ```
/// use ratelimit_runtime::{FromRateLimitExceeded, RateLimitExceeded, rate_limit};
///
/// #[derive(Debug, PartialEq)]
/// enum Reply { Text(&'static str), Busy }
///
/// impl FromRateLimitExceeded for Reply {
///     fn from_rate_limit_exceeded(_: RateLimitExceeded) -> Reply {
///         Reply::Busy
///     }
/// }
///
/// #[rate_limit(count = 1, per = "1h")]
/// fn greet() -> Reply { Reply::Text("hello") }
///
/// assert_eq!([greet(), greet()], [Reply::Text("hello"), Reply::Busy]);
/// ```
#[diagnostic::on_unimplemented(
    message = "a call denied by `#[rate_limit]` cannot be returned as `{Self}`",
    label = "a denied call has to return this type",
    note = "return a `Result<_, E>` where `E: From<RateLimitExceeded>` (or an `Option`),",
    note = "or say what a denied call returns: `or_else = |exceeded| ..`; with an error type of another crate",
    note = "`or_else = |exceeded| Err(..)`, made of `exceeded` as that crate makes its errors,",
    note = "or let calls wait for their permit instead: `wait`"
)]
pub trait FromRateLimitExceeded {
    /// The value that a denied call returns.
    fn from_rate_limit_exceeded(exceeded: RateLimitExceeded) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T, E: From<RateLimitExceeded>> FromRateLimitExceeded for Result<T, E> {
    fn from_rate_limit_exceeded(exceeded: RateLimitExceeded) -> Self {
        Err(E::from(exceeded))
    }
}

impl<T> FromRateLimitExceeded for Option<T> {
    fn from_rate_limit_exceeded(_: RateLimitExceeded) -> Self {
        None
    }
}

/// A backend could not decide: it was not reached in time, or it answered with an error.
///
/// The message never contains a password.
#[derive(Clone, Debug)]
pub struct BackendError {
    kind: BackendErrorKind,
    message: Arc<str>,
}

/// What kind of failure a [`BackendError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// No answer within the backend's timeout. The call may have been charged all the same.
    Timeout,
    /// The store cannot be reached, or the circuit breaker is open after several failures in a row.
    Unreachable,
    /// The store answered with an error or with an invalid reply.
    Refused,
    /// The backend is configured wrongly.
    Configuration,
}

impl BackendError {
    /// An error of `kind`; `message` must hold no secret.
    pub fn new(kind: BackendErrorKind, message: impl Into<Arc<str>>) -> BackendError {
        BackendError { kind, message: message.into() }
    }

    /// The configuration cannot be used.
    pub(crate) fn configuration(message: impl Into<Arc<str>>) -> BackendError {
        BackendError::new(BackendErrorKind::Configuration, message)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> BackendErrorKind {
        self.kind
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BackendError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn exceeded(retry_after: u64) -> RateLimitExceeded {
        RateLimitExceeded {
            limiter: Name::Static("api"),
            limit: Limit::new(2, Duration::from_secs(1)),
            retry_after,
            remaining: 0,
            position: 0,
            kind: ExceededKind::Limited,
        }
    }

    #[test]
    fn it_stays_within_64_bytes() {
        assert!(size_of::<RateLimitExceeded>() <= 64);
    }

    #[test]
    fn whole_seconds_are_rounded_up_and_never_zero() {
        let secs = |nanos| exceeded(nanos).retry_after_secs();
        assert_eq!([secs(0), secs(1), secs(1_000_000_001), secs(u64::MAX)], [Some(1), Some(1), Some(2), None]);
    }

    #[test]
    fn display_shows_the_limit_and_the_time_but_no_name() {
        let text = |kind, nanos| RateLimitExceeded { kind, ..exceeded(nanos) }.to_string();
        assert_eq!(text(ExceededKind::Limited, 1_500_000_000), "rate limit exceeded: 2 per 1s; retry after 1.5s");
        let never = text(ExceededKind::CostExceedsLimit, u64::MAX);
        assert_eq!(never, "the call costs more permits than its rate limit can hold: 2 per 1s");
        let failed = text(ExceededKind::BackendFailed, 1_000_000_000);
        assert_eq!(failed, "the rate limit cannot be decided at the moment; retry after 1s");
        let blocked = text(ExceededKind::Blocked, 600_000_000_000);
        assert_eq!(blocked, "further calls are blocked for the time being; retry after 600s");
        for kind in [
            ExceededKind::Limited,
            ExceededKind::CostExceedsLimit,
            ExceededKind::BackendFailed,
            ExceededKind::Blocked,
            ExceededKind::WrongKeys,
        ] {
            assert!(!text(kind, 1).contains("api") && format!("{:?}", exceeded(1)).contains("api"));
        }
    }
}
