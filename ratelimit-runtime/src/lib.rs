//! Exact rate limits from an attribute, kept in memory or shared through Redis, PostgreSQL or
//! Memcached.
//!
//! ```toml
//! [dependencies]
//! ratelimit-runtime = "0.1"
//! ```
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
//! assert_eq!(greet("alice").unwrap_err().retry_after_secs(), Some(1));
//! assert!(greet("bob").is_ok());
//! ```
//!
//! Each user may call `greet` 100 times a second. The next call returns the error and does not run
//! the body. The attribute works on any function, blocking or async;
//! [`rate_limit`](macro@rate_limit) documents all arguments. [`FromRateLimitExceeded`] turns the
//! error into the function's return type; `or_else` replaces it. [`RateLimiter`] does the same
//! without the attribute.
//!
//! # Sharing a limit between processes
//!
//! The feature `redis` keeps buckets in a Redis or Valkey server. `REDIS_URL` names the server;
//! `RedisBackend` has a builder for everything else. The features `postgres` and `memcached` do the
//! same with PostgreSQL and Memcached.
//!
//! ```no_run
//! # #[cfg(feature = "redis")] {
//! use ratelimit_runtime::rate_limit;
//!
//! #[rate_limit(count = 100, per = "1m", name = "search", backend = redis)]
//! fn search() -> Option<Vec<String>> {
//!     Some(Vec::new())
//! }
//! # }
//! ```
//!
//! [`set_default_backend`] moves every limiter at once. [`Backend`] is the trait for a store of
//! your own. All backends give the same answers to the same calls at the same times. If a backend
//! fails or hangs, [`OnBackendError`] applies within 100 ms; while it keeps failing, at once.
//!
//! The default, [`MemoryBackend`], is bounded and needs no background thread.
//! [`keep`](MemoryBackend::keep) lets its buckets survive a restart.
//!
//! # Waiting instead of failing
//!
//! ```
//! use ratelimit_runtime::{RateLimitExceeded, rate_limit};
//!
//! /// Waits up to 2 s for a permit. Fails at once if the permit is not due by then.
//! #[rate_limit(count = 50, per = "1s", wait = "2s")]
//! fn fetch(url: &str) -> Result<String, RateLimitExceeded> {
//!     Ok(format!("fetched {url}"))
//! }
//!
//! assert!(fetch("https://example.com").is_ok());
//! ```
//!
//! On an `async fn`, `wait` needs the feature `tokio`.
//!
//! # Testing
//!
//! The feature `test-util` gives each test a clock that it advances, and buckets of its own.
//!
//! ```
//! # #[cfg(feature = "test-util")] {
//! use ratelimit_runtime::{rate_limit, test_util};
//! use std::time::Duration;
//!
//! #[rate_limit(count = 1, per = "1h")]
//! fn report() -> Option<()> {
//!     Some(())
//! }
//!
//! let clock = test_util::pause();
//! assert_eq!([report(), report()], [Some(()), None]);
//! clock.advance(Duration::from_secs(3600));
//! assert_eq!(report(), Some(()));
//! # }
//! ```
//!
//! # Guarantees
//!
//! - [`Algorithm::SlidingWindow`], the default, is exact: no half-open interval `[t, t + per)`,
//!   wherever it starts, ever holds more than `count` admitted permits. For a `count` up to 64 it
//!   admits precisely what a full log of all calls would admit. Above 64 it may deny a call while
//!   such a log had fewer than ⌈`count` / 64⌉ permits left.
//! - [`Algorithm::TokenBucket`] admits at most `burst + count` in any `per`.
//! - [`Algorithm::FixedWindow`] admits at most `count` in each window. Windows are counted from the
//!   Unix epoch in UTC, so `1w` begins on a Thursday. With `Limit::per_calendar` (feature
//!   `calendar`) they are the days, weeks, months or years of a time zone.
//! - A denied call charges nothing, in any of its limits. [`RateLimitExceeded::retry_after`] is the
//!   earliest moment at which the same call would be admitted if no other call came.
//! - Limits with [a key each](RateLimiter::check_each) are decided atomically in memory, on one
//!   Redis server and in PostgreSQL. In a cluster and in other stores, a denied call may hold
//!   permits for a moment, until they are given back. If the process is killed in between, they
//!   stay taken until they expire. No limit is exceeded.
//! - Waiting calls are served first come, first served within a process, and no call overtakes
//!   them. A call that gives up leaves its place to the next. Through a backend, the share of each
//!   process depends on when it asks: see [`RateLimiter::wait`].
//! - The guarantees are about admission times by the backend's clock, as long as the backend keeps
//!   its data. In memory that is the monotonic clock, as a caller reads it before and after its
//!   calls. Permits return up to 0.4 µs late (on some processors 1.2), never early.
//!
//! # Web services
//!
//! With a framework's feature, denied handlers answer by themselves: 429 with `Retry-After`, or
//! `RESOURCE_EXHAUSTED` over gRPC.
//!
//! - `ClientIp` is the caller's address, as an extractor and a key.
//! - `RateLimitLayer` limits whole routers, tower services and clients.
//! - `RateLimitHeadersLayer` (`RateLimitHeaders` in actix-web) reports the permits left to clients.
//! - `DrainBodyLayer` reads and drops the bodies of denied requests, so that the answer arrives.
//! - `set_http_answers` chooses the form of all answers.
//!
//! # Monitoring
//!
//! [`limiters`] lists every limiter that the process has used, with counts. With the feature
//! `serde`, an operator's endpoint is
//! `async fn rate_limits() -> Json<Vec<LimiterInfo>> { Json(limiters()) }`.
//!
//! The feature `tracing` emits events with the target `ratelimit`:
//!
//! | event | level | fields |
//! | --- | --- | --- |
//! | a call is denied | `DEBUG` | `limiter`, `limit`, `remaining`, `retry_after_ms` (absent: never), `cost`, `reason` (`limited`, `cost_exceeds_limit`, `backend_failed`, `blocked`, `wrong_keys`), `dry_run`; `key` only after `log_keys(true)` |
//! | backends of a kind begin to fail | `WARN`, once | `backend`, `error` |
//! | they go on failing; a probe is sent | `DEBUG` | `backend`, `error` of a failure |
//! | they work again | `INFO`, once | `backend` |
//! | a document of limits cannot be applied | `WARN`, once a document | `error` |
//! | a document of limits is applied while the process runs | `INFO` | |
//! | a store has lost a bucket in use: evicted, flushed, or gone with the server (`memcached`) | `DEBUG` | `backend` |
//! | a snapshot of buckets is refused when the program starts ([`MemoryBackend::keep`]) | `WARN` | `path`, `error` |
//! | snapshots begin to fail | `WARN`, once | `error` |
//! | they succeed again | `INFO`, once | |
//! | two limiters share a name and a source location: a macro has copied the attribute, and calls may be counted twice | `WARN`, once | `limiter`, `location` |
//!
//! The feature `metrics` adds these metrics, for the recorder that the program installs. A recorder
//! installed after a limiter's first calls counts from then on. A limiter keeps the first recorder
//! that it finds, so a test with a recorder of its own (`metrics::with_local_recorder`) needs
//! limiters of its own. Metrics add 2 to 4 ns to a decision.
//!
//! | metric | kind | labels |
//! | --- | --- | --- |
//! | `ratelimit_decisions_total` | counter | `limiter`; `outcome`: `allowed`, `denied` (in a dry run: would have been), `failed` (denied because the backend failed) |
//! | `ratelimit_wait_seconds` | histogram: how long admitted calls waited, if they did | `limiter` |
//! | `ratelimit_queue_waiting` | gauge: calls that wait | `limiter` |
//! | `ratelimit_waits_abandoned_total` | counter: calls that were given up while they waited | `limiter` |
//! | `ratelimit_backend_latency_seconds` | histogram: how long remote backends took | `backend`; `result`: `ok`, `timeout`, `unreachable`, `refused`, `configuration` |
//! | `ratelimit_lost_buckets_total` | counter: buckets in use that a store has evicted or lost (`memcached`) | `backend` |
//! | `ratelimit_breaker_state` | gauge, from the first failure on: 0 closed (the backend works), 1 half-open (a probe is under way), 2 open (the backend fails and is not called) | `backend` |
//! | `ratelimit_configuration_failing` | gauge: 1 while a changed document of limits cannot be applied | |
//! | `ratelimit_snapshot_failing` | gauge: 1 while buckets in memory cannot be saved ([`MemoryBackend::keep`]) | |
//! | `ratelimit_tracked_keys` | gauge: keys in this process's memory, to a 64th | |
//! | `ratelimit_evicted_keys_total` | counter: keys in use that were evicted for others | |
//!
//! Rate-limited calls that a subscriber or a recorder makes while it handles an event are not
//! reported.
//!
//! # Features
//!
//! | feature | adds | dependencies |
//! | --- | --- | --- |
//! | `macros` (default) | the attribute | syn, quote, proc-macro2, at compile time |
//! | `redis` | `RedisBackend` and `backend = redis` | redis, tokio, sha2 |
//! | `memcached` | `MemcachedBackend` and `backend = memcached` | tokio, sha2 |
//! | `postgres` | `PostgresBackend` and `backend = postgres` | tokio-postgres, tokio, sha2 |
//! | `store` | `Request::bucket_within`, for a store of your own that bounds the length of names | sha2 |
//! | `redis-tls` | Redis over TLS: `rediss://`, `valkeys://` | rustls with ring, tokio-rustls, rustls-native-certs |
//! | `redis-sentinel` | a Redis master monitored by Sentinel | none |
//! | `redis-cluster` | a Redis Cluster | none |
//! | `tokio` | waiting in futures: `wait` on an `async fn`, `RateLimiter::wait_async` | tokio (`rt`, `time`) |
//! | `axum` | 429 answers for axum handlers and for any function that returns an `http::Response`; `ClientIp` | axum with its feature `tokio` only, ipnet, sfv: 37 crates |
//! | `actix-web` | 429 answers for actix-web handlers; `RateLimitHeaders`; `ClientIp` | actix-web without its default features, ipnet, sfv, pin-project-lite: 95 crates |
//! | `tower` | `RateLimitLayer`, `RateLimitHeadersLayer`, `DrainBodyLayer` | tower-layer, tower-service, http, http-body, pin-project-lite, sfv: 15 crates in all |
//! | `tonic` | `RESOURCE_EXHAUSTED` for denied methods, with `RetryInfo` and `grpc-retry-pushback-ms` | tonic without its default features, tonic-types, prost: 33 crates |
//! | `calendar` | `calendar = "month"` and `Limit::per_calendar`: windows by the calendar of a time zone | jiff, with its zone data |
//! | `uuid` | `Uuid` as a key | uuid |
//! | `tracing` | events for denials and failing backends | tracing without its default features |
//! | `metrics` | metrics for dashboards and alerts | the facade metrics, rapidhash |
//! | `serde` | `Serialize` for [`LimiterInfo`] and [`RateLimitExceeded`]; `Deserialize` for [`Limit`] | `serde_core` |
//! | `configuration` | [`Configuration`]: limits from a TOML or JSON document, applied when it changes | toml, `serde_json` |
//! | `test-util` | `test_util`: a clock that tests pause and advance | tokio (`rt`, `time`) |
//!
//! Without features there is no async runtime and no network code.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
#[doc(hidden)]
pub mod macro_support;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(feature = "tower")]
pub mod middleware {
    //! [tower](https://docs.rs/tower) middleware: [`RateLimitLayer`], [`RateLimitHeadersLayer`] and
    //! their services.
    //!
    //! Not called `tower`, because `use ratelimit_runtime::*` would make that name ambiguous.

    pub use crate::http::tower::*;
}

#[cfg(all(feature = "tokio", target_family = "wasm", target_os = "unknown"))]
compile_error!(
    "ratelimit-runtime's feature `tokio` (and `redis`, `postgres` and `memcached`, which need it) does not work on wasm32-unknown-unknown: tokio has no clock \
     there. Limits in memory work without it, with the attribute on blocking and async functions"
);

mod algorithm;
#[cfg(feature = "calendar")]
mod calendar;
#[cfg(feature = "configuration")]
mod configuration;
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
mod keys;
mod limit;
mod limiter;
mod observe;
mod parse;
mod queue;
mod registry;
#[cfg(any(feature = "tower", feature = "actix-web"))]
mod response_context;
mod rt;
mod scope;
#[cfg(feature = "serde")]
mod serialize;
#[allow(dead_code, reason = "the attribute uses all of it")]
mod suggest;
mod switches;
mod waiting;

pub use algorithm::offences::Backoff;
#[cfg(feature = "memcached")]
pub use backend::memcached::{MemcachedBackend, MemcachedBackendBuilder};
#[cfg(feature = "postgres")]
pub use backend::postgres::{PostgresBackend, PostgresBackendBuilder, PostgresConnect};
#[cfg(feature = "redis")]
pub use backend::redis::{RedisBackend, RedisBackendBuilder};
#[doc(inline)]
pub use backend::{
    Backend, DefaultBackendAlreadySet, IntoBackend, Kept, MemoryBackend, Restored, SharedBackend, Snapshot,
    SnapshotError, WhenFull, set_default_backend,
};
#[cfg(feature = "calendar")]
pub use calendar::{Calendar, CalendarUnit, InvalidCalendar, Weekday};
#[cfg(all(feature = "configuration", feature = "redis"))]
pub use configuration::PublishedLimiter;
#[cfg(feature = "configuration")]
pub use configuration::{Configuration, ConfigurationError, ConfigurationWatch};
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
pub use keys::RateLimitKeys;
pub use limit::{Algorithm, InvalidLimit, Limit, MAX_LIMITS, MAX_PER, MIN_PER};
pub use limiter::{CallPermit, InvalidLimiter, OnBackendError, RateLimiter, RateLimiterBuilder};
#[cfg(feature = "tracing")]
pub use observe::log_keys;
pub use parse::ParseLimitError;
#[cfg(feature = "macros")]
pub use ratelimit_macros::{RateLimitKey, rate_limit};
pub use registry::{LimiterInfo, limiters, set_limits, unused_limits};
pub use switches::{is_enabled, set_enabled};
