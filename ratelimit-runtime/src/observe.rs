//! Tells whoever watches what becomes of backends.

use std::time::Duration;

use crate::error::BackendError;

/// Whether calls reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// All do.
    Closed,
    /// None does.
    Open,
    /// One does, to find out whether it is back.
    HalfOpen,
}

/// A backend of that kind has decided, or failed to, in so long a time.
#[inline]
pub(crate) fn backend_decided(kind: &'static str, took: Duration, result: Result<(), &BackendError>) {
    let _ = (kind, took, result);
}

/// Whether calls reach a backend of that kind has changed; `error` is what opened it.
#[inline]
pub(crate) fn breaker_changed(kind: &'static str, state: BreakerState, error: Option<&BackendError>) {
    let _ = (kind, state, error);
}
