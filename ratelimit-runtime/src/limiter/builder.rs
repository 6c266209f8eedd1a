//! Builds a limiter from values known only at run time.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::spec::{Options, Reads, Resolved};
use super::{OnBackendError, RateLimiter};
use crate::algorithm::offences::Backoff;
use crate::backend::{IntoBackend, SharedBackend};
use crate::error::Name;
use crate::limit::{Limit, MAX_LIMITS};

/// The longest ban: 366 days.
const LONGEST_BAN: Duration = Duration::from_secs(366 * 86_400);

/// Builds a [`RateLimiter`].
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::{Limit, MemoryBackend, OnBackendError, RateLimiter};
///
/// let per_minute = Limit::try_new("60".parse()?, Duration::from_secs(60))?;
/// let limiter = RateLimiter::builder("search")
///     .limit(per_minute)
///     .backend(MemoryBackend::with_max_keys(10_000))
///     .on_backend_error(OnBackendError::Deny)
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RateLimiterBuilder {
    name: String,
    limits: Vec<Limit>,
    /// The number of each limit's key.
    groups: Vec<u8>,
    options: Options,
    backend: Option<SharedBackend>,
    /// A mistake in what was set last, until `build` reports it.
    mistake: Option<InvalidLimiter>,
}

/// Why a limiter cannot be built, or why its limits cannot be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidLimiter {
    /// There is no limit.
    NoLimit,
    /// There are more than 8 limits.
    TooManyLimits,
    /// The `initial` of a backoff or the time of a ban is zero.
    ZeroPenalty,
    /// The `max` of a backoff is shorter than its `initial`.
    MaxBelowInitial,
}

impl fmt::Display for InvalidLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidLimiter::NoLimit => "a rate limiter needs at least one limit",
            InvalidLimiter::TooManyLimits => "a rate limiter has at most 8 limits",
            InvalidLimiter::ZeroPenalty => "a backoff or ban of zero blocks no key: leave it out, or give it a time",
            InvalidLimiter::MaxBelowInitial => {
                "`max` is shorter than `initial`: the block of a backoff grows from `initial` to `max`"
            }
        })
    }
}

impl std::error::Error for InvalidLimiter {}

impl InvalidLimiter {
    pub(crate) fn check(limits: &[Limit]) -> Result<(), InvalidLimiter> {
        match limits.len() {
            0 => Err(InvalidLimiter::NoLimit),
            1..=MAX_LIMITS => Ok(()),
            _ => Err(InvalidLimiter::TooManyLimits),
        }
    }
}

impl RateLimiterBuilder {
    pub(super) fn new(name: String) -> RateLimiterBuilder {
        RateLimiterBuilder {
            name,
            limits: Vec::new(),
            groups: Vec::new(),
            options: Options::DEFAULT,
            backend: None,
            mistake: None,
        }
    }

    /// Adds a limit, up to 8. All limits are decided together.
    ///
    /// In [`check_each`](RateLimiter::check_each), the limit has a key of its own.
    pub fn limit(mut self, limit: Limit) -> RateLimiterBuilder {
        let next = self.groups.last().map_or(0, |last| last.saturating_add(1));
        self.limits.push(limit);
        self.groups.push(next);
        self
    }

    /// Adds a limit that has the same key as the limit before it in
    /// [`check_each`](RateLimiter::check_each). Both share one bucket, and one key of the call.
    ///
    /// ```
    /// use ratelimit_runtime::{Limit, RateLimiter};
    ///
    /// let limiter = RateLimiter::builder("search")
    ///     .limit(Limit::per_second(10))
    ///     .limit_of_same_key(Limit::per_hour(1_000))
    ///     .limit(Limit::per_second(500))
    ///     .build()?;
    /// // The user's two limits, and the tenant's.
    /// assert_eq!(limiter.check_each(("ann", 7), 1)?.remaining(), 9);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn limit_of_same_key(mut self, limit: Limit) -> RateLimiterBuilder {
        let same = self.groups.last().copied().unwrap_or(0);
        self.limits.push(limit);
        self.groups.push(same);
        self
    }

    /// Keeps the buckets in this backend instead of the process's default.
    pub fn backend(mut self, backend: impl IntoBackend) -> RateLimiterBuilder {
        self.backend = Some(backend.into_backend());
        self
    }

    /// Sets what happens to a call that the backend cannot decide. The default is
    /// [`OnBackendError::Local`].
    pub fn on_backend_error(mut self, policy: OnBackendError) -> RateLimiterBuilder {
        self.options.on_backend_error = policy;
        self
    }

    /// A denial blocks the key for `initial`, and each further denial for twice as long, up to
    /// `max`. After `max` without a denial, the next one blocks for `initial` again.
    ///
    /// Buckets in a backend with a denial cache count each denial until the key is denied for 128
    /// times `initial`. From then on, they count one denial of each process per `initial` (at most
    /// a second). An uncounted denial therefore comes at least 127 times `initial` before the end.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> RateLimiterBuilder {
        self.options.backoff = Some(Backoff::new(initial, max));
        self.mistake = match () {
            () if initial.is_zero() => Some(InvalidLimiter::ZeroPenalty),
            () if max < initial => Some(InvalidLimiter::MaxBelowInitial),
            () => None,
        };
        self
    }

    /// Bans a key that exceeds its limits. From the denied call on, every call on the key is denied
    /// for `time` (at most 366 days), also at cost 0. Calls during the ban do not prolong it. After
    /// the ban, the next denial begins another.
    ///
    /// The denial that begins a ban is of the kind [`Limited`](crate::ExceededKind::Limited), those
    /// during it are [`Blocked`](crate::ExceededKind::Blocked). `retry_after` is the end of the
    /// ban, or the time at which the limits admit the call if that is later. Three kinds of calls
    /// ban no key: those that can never fit, those that wait, and those denied because the key is
    /// [blocked](crate::RateLimiter::block). [`reset`](crate::RateLimiter::reset) ends a ban.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ratelimit_runtime::{ExceededKind, Limit, RateLimiter};
    ///
    /// let login = RateLimiter::builder("login").limit(Limit::per_minute(2)).ban(Duration::from_secs(600)).build()?;
    /// let kind = || login.check("mallory", 1).map(drop).map_err(|exceeded| exceeded.kind());
    /// assert_eq!([kind(), kind()], [Ok(()), Ok(())]);
    /// assert_eq!([kind(), kind()], [Err(ExceededKind::Limited), Err(ExceededKind::Blocked)]);
    /// # Ok::<(), ratelimit_runtime::InvalidLimiter>(())
    /// ```
    ///
    /// Replaces a [`backoff`](Self::backoff).
    pub fn ban(mut self, time: Duration) -> RateLimiterBuilder {
        self.options.backoff = Some(Backoff::ban(time.min(LONGEST_BAN)));
        self.mistake = time.is_zero().then_some(InvalidLimiter::ZeroPenalty);
        self
    }

    /// Decides, counts and reports calls, but never denies one.
    pub fn dry_run(mut self) -> RateLimiterBuilder {
        self.options.dry_run = true;
        self
    }

    /// Builds the limiter.
    ///
    /// # Errors
    /// [`InvalidLimiter`] if there are no limits or more than 8, if a backoff or ban takes no time,
    /// or if the `max` of a backoff is shorter than its `initial`.
    #[track_caller]
    pub fn build(mut self) -> Result<RateLimiter, InvalidLimiter> {
        InvalidLimiter::check(&self.limits)?;
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        self.options.location = Some(Location::caller());
        Ok(RateLimiter::built(Resolved {
            name: Name::Shared(Arc::from(self.name)),
            named: true,
            limits: self.limits,
            groups: self.groups,
            reads: Reads::NONE,
            options: self.options,
            backend: self.backend,
        }))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("on_backend_error", &self.on_backend_error)
            .field("backoff", &self.backoff)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}
