//! A limiter that denies because its backend always fails.

use std::sync::LazyLock;
use std::time::Duration;

use ratelimit_runtime::backend::{Answer, Backend, Request};
use ratelimit_runtime::{BackendError, BackendErrorKind, Limit, OnBackendError, RateLimiter};

pub(crate) static UNSURE: LazyLock<RateLimiter> = LazyLock::new(|| {
    RateLimiter::builder("secret-unsure")
        .limit(Limit::new(1, Duration::from_secs(60)))
        .backend(Broken)
        .on_backend_error(OnBackendError::Deny)
        .build()
        .unwrap()
});

struct Broken;

impl Backend for Broken {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        Err(BackendError::new(BackendErrorKind::Unreachable, "secret-host is down"))
    }
}
