//! Observability: `tracing` events and `metrics` metrics.
//!
//! The only module that uses either crate. Without these features it is empty and costs nothing.
//! Both run foreign code, so no function here is called with a lock held, and nothing is reported
//! from inside a report.

#![cfg_attr(
    not(all(feature = "metrics", feature = "tracing")),
    allow(clippy::unused_self, reason = "what nobody watches has nothing in it")
)]

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(any(feature = "metrics", feature = "tracing"))]
mod reporting;
#[cfg(feature = "tracing")]
mod tracing;

use std::panic::Location;
use std::path::Path;
use std::time::Duration;

use crate::error::{BackendError, RateLimitExceeded};
use crate::key::RateLimitKey;

#[cfg(feature = "tracing")]
pub use tracing::log_keys;

/// Two limiters share a name and a place in the source.
pub(crate) fn copied(limiter: &str, location: &Location<'_>) {
    #[cfg(feature = "tracing")]
    tracing::copied(limiter, location);
    #[cfg(not(feature = "tracing"))]
    let _ = (limiter, location);
}

/// The metrics of one limiter.
pub(crate) struct Watch {
    #[cfg(feature = "metrics")]
    meters: metrics::LimiterMeters,
}

impl Watch {
    pub(crate) fn new(limiter: &str) -> Watch {
        let _ = limiter;
        Watch {
            #[cfg(feature = "metrics")]
            meters: metrics::LimiterMeters::new(limiter),
        }
    }

    /// A call is admitted.
    #[inline]
    pub(crate) fn allowed(&self) {
        #[cfg(feature = "metrics")]
        self.meters.count(metrics::Outcome::Allowed);
    }

    /// A call is denied by a limit (in a dry run: would have been).
    #[inline]
    pub(crate) fn denied(&self) {
        #[cfg(feature = "metrics")]
        self.meters.count(metrics::Outcome::Denied);
    }

    /// A call is denied because the backend failed.
    #[inline]
    pub(crate) fn failed(&self) {
        #[cfg(feature = "metrics")]
        self.meters.count(metrics::Outcome::Failed);
    }

    /// An admitted call waits for `delay`.
    #[inline]
    pub(crate) fn waits(&self, delay: Duration) {
        let _ = delay;
        #[cfg(feature = "metrics")]
        self.meters.waits(delay);
    }

    /// A call begins to wait.
    #[inline]
    pub(crate) fn queued(&self) {
        #[cfg(feature = "metrics")]
        self.meters.queued(1.0);
    }

    /// A call waits no longer.
    #[inline]
    pub(crate) fn unqueued(&self) {
        #[cfg(feature = "metrics")]
        self.meters.queued(-1.0);
    }

    /// A call is given up while it waits.
    #[inline]
    pub(crate) fn abandoned(&self) {
        #[cfg(feature = "metrics")]
        self.meters.abandoned();
    }
}

/// The metrics of the keys in one memory backend.
#[derive(Default)]
pub(crate) struct KeysWatch {
    #[cfg(feature = "metrics")]
    meters: metrics::KeysMeters,
}

impl KeysWatch {
    /// The backend tracks `keys` keys now. Reported once the thread holds no lock.
    #[inline]
    pub(crate) fn tracked(&self, keys: usize) {
        let _ = keys;
        #[cfg(feature = "metrics")]
        self.meters.tracked(keys);
    }

    /// A key in use was evicted for another. Reported once the thread holds no lock.
    #[inline]
    pub(crate) fn evicted(&self) {
        #[cfg(feature = "metrics")]
        self.meters.evicted();
    }
}

/// Reports what this thread deferred while it held locks. Counted calls do so by themselves.
#[inline]
pub(crate) fn unlocked() {
    #[cfg(feature = "metrics")]
    metrics::report_changed();
}

/// Whether denials are observed. Checked before a report is built.
#[inline]
pub(crate) fn wants_denials() -> bool {
    #[cfg(feature = "tracing")]
    return tracing::wants_denials();
    #[cfg(not(feature = "tracing"))]
    false
}

/// A call for `cost` permits is denied (in a dry run: would have been). Only if [`wants_denials`].
#[cold]
#[inline(never)]
pub(crate) fn denied(exceeded: &RateLimitExceeded, cost: u32, dry_run: bool, key: ShownKey<'_>) {
    let _ = (exceeded, cost, dry_run, key);
    #[cfg(feature = "tracing")]
    tracing::denied(exceeded, cost, dry_run, key.text);
}

/// A call's key as text, if keys are to be shown and events are observed.
#[derive(Default)]
pub(crate) struct KeyText {
    #[cfg(feature = "tracing")]
    text: Option<Box<str>>,
}

/// A borrowed or owned [`KeyText`] that a call carries.
#[derive(Clone, Copy, Default)]
pub(crate) struct ShownKey<'a> {
    #[cfg(feature = "tracing")]
    text: Option<&'a str>,
    lifetime: std::marker::PhantomData<&'a str>,
}

impl KeyText {
    #[inline]
    pub(crate) fn of<K: RateLimitKey>(key: &K) -> KeyText {
        let _ = key;
        KeyText {
            #[cfg(feature = "tracing")]
            text: tracing::key_text(key),
        }
    }

    /// Whether there is a text.
    pub(crate) fn is_shown(&self) -> bool {
        #[cfg(feature = "tracing")]
        return self.text.is_some();
        #[cfg(not(feature = "tracing"))]
        false
    }

    #[inline]
    pub(crate) fn shown(&self) -> ShownKey<'_> {
        ShownKey {
            #[cfg(feature = "tracing")]
            text: self.text.as_deref(),
            lifetime: std::marker::PhantomData,
        }
    }
}

impl ShownKey<'_> {
    /// An owned copy, for a call that outlives the key.
    pub(crate) fn to_text(self) -> KeyText {
        KeyText {
            #[cfg(feature = "tracing")]
            text: self.text.map(Box::from),
        }
    }
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// All calls pass: the backend works.
    Closed,
    /// No call passes: the backend fails.
    Open,
    /// One call passes, as a probe.
    HalfOpen,
}

/// A remote backend of this kind (`redis`, ..) has decided, or has failed to.
pub(crate) fn backend_decided(kind: &'static str, took: Duration, result: Result<(), &BackendError>) {
    let _ = (kind, took, result);
    #[cfg(feature = "metrics")]
    metrics::backend_decided(kind, took, result);
}

/// A backend's circuit breaker has changed its state; `error` is the reason if it opens.
pub(crate) fn breaker_changed(kind: &'static str, state: BreakerState, error: Option<&BackendError>) {
    let _ = (kind, state, error);
    #[cfg(feature = "metrics")]
    metrics::breaker_changed(kind, state);
    #[cfg(feature = "tracing")]
    tracing::breaker_changed(kind, state, error);
}

/// A store of this kind has lost a bucket before its time: evicted, flushed, or gone with the server.
#[cfg(feature = "memcached")]
pub(crate) fn bucket_lost(kind: &'static str) {
    let _ = kind;
    #[cfg(feature = "metrics")]
    metrics::bucket_lost(kind);
    #[cfg(feature = "tracing")]
    tracing::bucket_lost(kind);
}

/// A changed document of limits was applied, or could not be.
#[cfg(feature = "configuration")]
pub(crate) fn configured(error: Option<&dyn std::error::Error>) {
    let _ = error;
    #[cfg(feature = "metrics")]
    metrics::configured(error.is_some());
    #[cfg(feature = "tracing")]
    tracing::configured(error);
}

/// A snapshot of a memory backend was made, or could not be; the one before it had `failed`.
pub(crate) fn snapshot_made(error: Option<&dyn std::error::Error>, failed: bool) {
    let _ = (error, failed);
    #[cfg(feature = "metrics")]
    metrics::snapshot_made(error.is_some(), failed);
    #[cfg(feature = "tracing")]
    tracing::snapshot_made(error, failed);
}

/// The snapshot of an earlier process is not restored.
pub(crate) fn snapshot_refused(path: &Path, error: &dyn std::error::Error) {
    #[cfg(feature = "tracing")]
    tracing::snapshot_refused(path, error);
    #[cfg(not(feature = "tracing"))]
    let _ = (path, error);
}

#[cfg(all(test, any(feature = "tracing", feature = "metrics")))]
pub(crate) mod tests;
