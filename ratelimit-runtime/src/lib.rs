//! Rate limits by an attribute: exact, in memory or shared through Redis.
//!
//! ```
//! use ratelimit_runtime::{RateLimitExceeded, rate_limit};
//!
//! #[rate_limit(count = 100, per = "1s", key = user_id)]
//! fn greet(user_id: &str) -> Result<String, RateLimitExceeded> {
//!     Ok(format!("hello, {user_id}"))
//! }
//!
//! assert!((0..100).all(|_| greet("alice").is_ok()));
//! assert!(greet("alice").is_err());
//! assert!(greet("bob").is_ok());
//! ```

pub mod backend;
#[doc(hidden)]
pub mod macro_support;
#[cfg(feature = "test-util")]
pub mod test_util;

mod algorithm;
#[cfg(any(feature = "tokio", feature = "redis"))]
mod background;
mod clock;
mod counts;
mod decision;
mod error;
#[cfg(any(feature = "axum", feature = "actix-web"))]
mod http;
mod key;
mod limit;
mod limiter;
mod registry;
mod switches;
mod waiting;

pub use algorithm::offences::Backoff;
#[cfg(feature = "redis")]
pub use backend::redis::{RedisBackend, RedisBackendBuilder};
pub use backend::{
    Backend, DefaultBackendAlreadySet, IntoBackend, MemoryBackend, SharedBackend, WhenFull, set_default_backend,
};
pub use decision::Decision;
pub use error::{BackendError, BackendErrorKind, ExceededKind, FromRateLimitExceeded, RateLimitExceeded};
pub use key::{ExactIp, KeyWriter, RateLimitKey};
pub use limit::{Algorithm, InvalidLimit, Limit, MAX_LIMITS, MAX_PER, MIN_PER};
pub use limiter::{Builder, InvalidLimiter, OnBackendError, RateLimiter};
#[cfg(feature = "macros")]
pub use ratelimit_macros::rate_limit;
pub use registry::{LimiterInfo, Location, limiters, set_limits};
pub use switches::{is_enabled, set_enabled};
