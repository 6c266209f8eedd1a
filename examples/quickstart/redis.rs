//! The limit in a Redis server.

use std::error::Error;
use std::time::Duration;

use ratelimit_runtime::{
    BackendError, BackendErrorKind, Limit, OnBackendError, RateLimitExceeded, RateLimiter, RedisBackend, rate_limit,
};

use crate::PER;

const HELP: &str = "

There has to be a Redis server (6.2 or later) or Valkey. If none is installed:
    sudo apt-get install redis-server    (Debian, Ubuntu)
    brew install redis                   (macOS)
Start it with `redis-server`, or name another one: REDIS_URL=redis://host:6379";

/// The limited function on Redis. Each run has its own key, so that concurrent runs do not disturb
/// each other's proof. If Redis fails, calls are denied instead of being limited by each process.
#[rate_limit(count = 100, per = "1s", key = run, name = "quickstart", backend = redis, on_backend_error = deny)]
pub(crate) fn call(run: u64) -> Result<(), RateLimitExceeded> {
    Ok(())
}

/// Sends the server a request before the run begins: a failure in the attribute has no place to be
/// reported.
pub(crate) fn reach(run: u64) -> Result<(), Box<dyn Error>> {
    reset(run).map_err(|error| if is_missing(&*error) { format!("{error}{HELP}").into() } else { error })
}

fn reset(run: u64) -> Result<(), Box<dyn Error>> {
    let limiter = RateLimiter::builder("quickstart")
        .limit(Limit::new(100, PER))
        // A server that is slow to greet still exists.
        .backend(RedisBackend::builder().timeout(Duration::from_secs(2)).build()?)
        .on_backend_error(OnBackendError::Deny)
        .build()?;
    Ok(limiter.reset(run)?)
}

/// Whether there is no server, or it does not answer.
fn is_missing(error: &(dyn Error + 'static)) -> bool {
    let kind = error.downcast_ref().map(BackendError::kind);
    matches!(kind, Some(BackendErrorKind::Unreachable | BackendErrorKind::Timeout))
}
