//! `tracing` events, all with the target `ratelimit`.

use std::panic::Location;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tracing::{Level, debug, info, level_enabled, warn};

use super::BreakerState;
use super::reporting::{is_reporting, report};
use crate::error::{BackendError, RateLimitExceeded};
use crate::key::{RateLimitKey, TextSink};

const TARGET: &str = "ratelimit";

static LOG_KEYS: AtomicBool = AtomicBool::new(false);

/// Whether `tracing` events of denied calls carry the key, as the field `key`. Off by default.
///
/// Off, because a key is often a customer's name, address or token. Applies to the whole process
/// from the next call on. The text lists the key's parts: `"ann"`, `(7u64,203.0.113.9)`.
pub fn log_keys(on: bool) {
    LOG_KEYS.store(on, Ordering::Relaxed);
}

/// Whether any subscriber may be interested in denials. Costs one load if none is.
#[inline]
pub(super) fn wants_denials() -> bool {
    level_enabled!(Level::DEBUG) && !is_reporting()
}

#[inline]
pub(super) fn key_text<K: RateLimitKey>(key: &K) -> Option<Box<str>> {
    if !(K::KEYED && wants_denials() && LOG_KEYS.load(Ordering::Relaxed)) {
        return None;
    }
    let mut text = String::new();
    // A user's key type may call a limited function while it writes itself.
    report(|| key.write_to(&mut TextSink::new(&mut text)))?;
    Some(text.into())
}

pub(super) fn denied(exceeded: &RateLimitExceeded, cost: u32, dry_run: bool, key: Option<&str>) {
    let retry_after = exceeded.retry_after().map(|after| after.as_nanos().div_ceil(1_000_000));
    report(|| {
        debug!(
            target: TARGET,
            limiter = exceeded.limiter(),
            limit = %exceeded.limit(),
            remaining = exceeded.remaining(),
            retry_after_ms = retry_after.map(|millis| u64::try_from(millis).unwrap_or(u64::MAX)),
            cost,
            reason = exceeded.kind().name(),
            dry_run,
            key,
            "call denied by rate limit"
        );
    });
}

pub(super) fn copied(limiter: &str, location: &Location<'_>) {
    warn!(
        target: TARGET,
        limiter,
        %location,
        "two rate limiters of one name are from one place: if a macro has copied the attribute, calls are counted twice"
    );
}

#[cfg(feature = "configuration")]
pub(super) fn configured(error: Option<&dyn std::error::Error>) {
    report(|| {
        if let Some(error) = error {
            warn!(target: TARGET, %error, "rate limits cannot be configured: all limits stay as they are");
        } else {
            info!(target: TARGET, "rate limits are configured anew");
        }
    });
}

#[cfg(feature = "memcached")]
pub(super) fn bucket_lost(kind: &'static str) {
    report(|| {
        debug!(target: TARGET, backend = kind, "rate limit backend has lost a bucket in use: its limit begins anew");
    });
}

pub(super) fn snapshot_made(error: Option<&dyn std::error::Error>, failed: bool) {
    report(|| match (error, failed) {
        (Some(error), false) => {
            warn!(target: TARGET, %error, "rate limits in memory are not saved: a restart loses what calls have taken");
        }
        (None, true) => info!(target: TARGET, "rate limits in memory are saved again"),
        _ => {}
    });
}

pub(super) fn snapshot_refused(path: &Path, error: &dyn std::error::Error) {
    report(|| {
        warn!(
            target: TARGET,
            path = %path.display(),
            %error,
            "the snapshot of rate limits is refused: all buckets are fresh"
        );
    });
}

/// Kinds of backends whose failure has been reported.
static FAILING: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// Reports once that backends of this kind fail, and once that they work again. Events in between
/// are at debug level.
pub(super) fn breaker_changed(kind: &'static str, state: BreakerState, error: Option<&BackendError>) {
    let mut failing = FAILING.lock();
    let known = failing.iter().position(|failing| *failing == kind);
    match (state, known) {
        (BreakerState::Open, None) => failing.push(kind),
        (BreakerState::Closed, Some(known)) => {
            failing.swap_remove(known);
        }
        _ => {}
    }
    // Outside the lock: a subscriber may call a limited function.
    drop(failing);
    report(|| report_breaker(kind, state, known.is_some(), error));
}

fn report_breaker(kind: &'static str, state: BreakerState, was_failing: bool, error: Option<&BackendError>) {
    let error = error.map(tracing::field::display);
    match (state, was_failing) {
        (BreakerState::Open, false) => {
            warn!(target: TARGET, backend = kind, error, "rate limit backend fails: limiters go by `on_backend_error`");
        }
        (BreakerState::Closed, true) => {
            info!(target: TARGET, backend = kind, "rate limit backend works again");
        }
        (BreakerState::Open, true) => {
            debug!(target: TARGET, backend = kind, error, "rate limit backend still fails");
        }
        (BreakerState::HalfOpen, _) => debug!(target: TARGET, backend = kind, "rate limit backend is tried again"),
        (BreakerState::Closed, false) => {}
    }
}
