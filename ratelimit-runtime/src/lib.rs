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
//!
//! The attribute works on any function, blocking or async. A denied call does not run the body; what it returns is made of
//! the [`RateLimitExceeded`] by [`FromRateLimitExceeded`], or by the attribute's `or_else`. All arguments are described at
//! [`rate_limit`](macro@rate_limit). Without the attribute, [`RateLimiter`] does the same.
//!
//! # What is guaranteed
//!
//! - [`Algorithm::SlidingWindow`], the default, is exact: no half-open interval `[t, t + per)`, wherever it starts, ever
//!   holds more than `count` admitted permits. For a `count` up to 64 it admits precisely what a full log of all calls
//!   would admit; above, it may deny a call while such a log had fewer than ⌈`count` / 64⌉ permits left.
//! - [`Algorithm::TokenBucket`] admits at most `burst + count` in any `per`, [`Algorithm::FixedWindow`] at most `count` in
//!   each window from the Unix epoch on.
//! - A denied call charges nothing, in none of several limits. [`RateLimitExceeded::retry_after`] is the earliest moment at
//!   which the same call would be admitted if nobody else called.
//! - Calls that wait are served first come, first served within a process, and no call of it overtakes them. A call that gives
//!   up leaves its place to the next, whatever the order in which callers leave. Through a backend, what one process gets and
//!   what another is as they ask: see [`RateLimiter::wait`].
//! - The guarantee is about the times at which calls are admitted, by the clock of the backend, as long as the backend keeps
//!   its data. In memory it holds by the monotonic clock, as a caller reads it before and after its calls: permits return up
//!   to 0.4 µs late, and never early.
//!
//! # Where buckets are kept
//!
//! In this process's memory unless something else is said: bounded, without a background thread ([`MemoryBackend`]). With
//! the feature `redis` in a Redis or Valkey server, shared by all processes (`RedisBackend`, `backend = redis`,
//! [`set_default_backend`]). Or in a store of your own ([`Backend`]). All give the same answers to the same calls at the
//! same times. Where a backend fails or hangs, [`OnBackendError`] says what becomes of a call, within 100 ms, and at once
//! while it goes on failing ([`Backend`] says how).
//!
//! # Watching it
//!
//! [`limiters`] lists what the process has used, with counts. With the feature `serde` an operator's endpoint is
//! `async fn rate_limits() -> Json<Vec<LimiterInfo>> { Json(limiters()) }`.
//!
//! What a subscriber or a recorder calls itself, inside of being told, is not told.
//!
//! With the feature `tracing` there are events of the target `ratelimit`, for a subscriber that looks at that level:
//!
//! | event | level | fields |
//! | --- | --- | --- |
//! | a call is denied | `DEBUG` | `limiter`, `limit`, `remaining`, `retry_after_ms` (absent: never), `cost`, `reason` (`limited`, `cost_exceeds_limit`, `backend_failed`), `dry_run`; `key` only after `log_keys(true)` |
//! | backends of a kind begin to fail | `WARN`, once | `backend`, `error` |
//! | they work again | `INFO`, once | `backend` |
//! | two limiters of one name are from one place in the source: a macro has copied the attribute, and calls may be counted twice | `WARN`, once | `limiter`, `location` |
//!
//! With the feature `metrics` there are these figures, for the recorder that the program installs. One that comes after a
//! limiter's first calls counts from then on. A limiter keeps to the first recorder that it finds: a test with one of its own
//! (`metrics::with_local_recorder`) needs limiters of its own. A decision takes 2 to 4 ns more.
//!
//! | figure | kind | labels |
//! | --- | --- | --- |
//! | `ratelimit_decisions_total` | counter | `limiter`; `outcome`: `allowed`, `denied` (in a dry run: that would have been), `failed` (denied because the backend failed) |
//! | `ratelimit_wait_seconds` | histogram: how long admitted calls were made to wait, where they were | `limiter` |
//! | `ratelimit_queue_waiting` | gauge: calls that wait | `limiter` |
//! | `ratelimit_waits_abandoned_total` | counter: calls that were given up while they waited | `limiter` |
//! | `ratelimit_backend_latency_seconds` | histogram: how long remote backends took | `backend`; `result`: `ok`, `timeout`, `unreachable`, `refused`, `configuration` |
//! | `ratelimit_breaker_state` | gauge, from the first failure on: 0 the backend works, 1 it is tried again, 2 it fails and is not asked | `backend` |
//! | `ratelimit_tracked_keys` | gauge: keys in this process's memory, to a 64th | |
//! | `ratelimit_evicted_keys_total` | counter: keys in use that made room for others | |
//!
//! # In web services
//!
//! With the feature of a framework, annotated handlers answer by themselves when they are denied. `ClientIp` is who is
//! calling, as an extractor and a key; `RateLimitLayer` limits whole routers, tower services and clients;
//! `RateLimitHeadersLayer`, in actix-web `RateLimitHeaders`, tells clients what is left.
//! `DrainBodyLayer` reads on in the bodies of denied requests, and `set_http_answers` chooses what
//! all answers look like.
//!
//! # Features
//!
//! | feature | what it adds | to the dependency tree |
//! | --- | --- | --- |
//! | `macros` (default) | the attribute | syn, quote, proc-macro2, at compile time |
//! | `redis` | `RedisBackend` and `backend = redis` | redis, tokio, sha2 |
//! | `redis-tls` | Redis by TLS: `rediss://`, `valkeys://` | rustls with ring, tokio-rustls, rustls-native-certs |
//! | `redis-sentinel` | a Redis master that sentinels watch over | nothing |
//! | `redis-cluster` | a Redis Cluster | nothing |
//! | `tokio` | waiting in futures: `wait` on an `async fn`, `RateLimiter::wait_async` | tokio (`rt`, `time`) |
//! | `axum` | 429 answers of axum handlers and of whatever returns an `http::Response`; `ClientIp` | axum with its feature `tokio` only, ipnet, sfv: 37 crates |
//! | `actix-web` | 429 answers of actix-web handlers; `RateLimitHeaders`; `ClientIp` | actix-web without its default features, ipnet, sfv, pin-project-lite: 95 crates |
//! | `tower` | `RateLimitLayer`, `RateLimitHeadersLayer`, `DrainBodyLayer` | tower-layer, tower-service, http, http-body, pin-project-lite, sfv: 15 crates with what they need |
//! | `tonic` | `RESOURCE_EXHAUSTED` of denied methods, with `RetryInfo` and `grpc-retry-pushback-ms` | tonic without its default features, tonic-types, prost: 33 crates |
//! | `uuid` | `Uuid` as a key | uuid |
//! | `tracing` | events of denials and of backends that fail | tracing without its default features |
//! | `metrics` | figures for dashboards and alerts | the facade metrics, rapidhash |
//! | `serde` | `Serialize` for what [`limiters`] lists, and for [`RateLimitExceeded`]; `Deserialize` for [`Limit`] | serde's core |
//! | `test-util` | `test_util`: a clock that tests pause and advance | tokio (`rt`, `time`) |
//!
//! Without features there is no async runtime and no network code.

pub mod backend;
#[doc(hidden)]
pub mod macro_support;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(feature = "tower")]
pub mod tower {
    //! For [tower](https://docs.rs/tower): [`RateLimitLayer`] and [`RateLimitHeadersLayer`], and what they are made of.

    pub use crate::http::tower::*;
}

#[cfg(all(feature = "tokio", target_family = "wasm", target_os = "unknown"))]
compile_error!(
    "ratelimit-runtime's feature `tokio` (and `redis`, which needs it) does not work on wasm32-unknown-unknown: tokio has no clock \
     there. Limits in memory work without it, with the attribute on blocking and async functions"
);

mod algorithm;
#[cfg(any(feature = "tokio", feature = "redis"))]
mod background;
mod clock;
mod counts;
mod decision;
#[allow(dead_code, reason = "the attribute uses all of it")]
mod duration;
mod error;
mod fingerprint;
#[cfg(feature = "tonic")]
mod grpc;
mod guard;
mod hash;
#[cfg(any(feature = "axum", feature = "actix-web", feature = "tower"))]
mod http;
mod key;
mod limit;
mod limiter;
#[cfg(any(feature = "tower", feature = "actix-web"))]
mod noted;
mod observe;
mod parse;
mod process;
mod queue;
mod registry;
mod reply;
#[cfg(feature = "serde")]
mod serialize;
#[allow(dead_code, reason = "the attribute uses all of it")]
mod suggest;
mod switches;
mod sync;
mod timer;
mod waiting;

pub use algorithm::offences::Backoff;
#[cfg(feature = "redis")]
pub use backend::redis::{RedisBackend, RedisBackendBuilder};
pub use backend::{
    Backend, DefaultBackendAlreadySet, IntoBackend, MemoryBackend, SharedBackend, WhenFull, set_default_backend,
};
pub use decision::Decision;
pub use error::{BackendError, BackendErrorKind, ExceededKind, FromRateLimitExceeded, RateLimitExceeded};
#[cfg(feature = "actix-web")]
pub use http::actix_web::RateLimitHeaders;
#[cfg(any(feature = "axum", feature = "actix-web", feature = "tower"))]
pub use http::answers::{HttpAnswers, InvalidStatus, RATE_LIMIT_HEADERS, RateLimitFields, set_http_answers};
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub use http::client_ip::{ClientIp, ClientIpConfig, InvalidClientIpConfig, InvalidNetwork, UnknownClient};
#[cfg(feature = "tower")]
pub use http::tower::{BodyDrain, DrainBodyLayer, RateLimitHeadersLayer, RateLimitLayer};
pub use key::{ExactIp, KeyWriter, RateLimitKey};
pub use limit::{Algorithm, InvalidLimit, Limit, MAX_LIMITS, MAX_PER, MIN_PER};
pub use limiter::{Builder, InvalidLimiter, OnBackendError, RateLimiter};
#[cfg(feature = "tracing")]
pub use observe::log_keys;
pub use parse::ParseLimitError;
#[cfg(feature = "macros")]
pub use ratelimit_macros::{RateLimitKey, rate_limit};
pub use registry::{LimiterInfo, Location, limiters, set_limits, unused_limits};
pub use switches::{is_enabled, set_enabled};
