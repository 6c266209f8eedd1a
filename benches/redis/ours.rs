//! Ours: annotated functions, all on the benchmark's server.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use ratelimit_runtime::backend::{Action, Backend as _, Outcome, Permit, Request};
use ratelimit_runtime::{Limit, OnBackendError, RateLimitExceeded, RateLimiter, RedisBackend, rate_limit};

type Limited = Result<(), RateLimitExceeded>;

static SERVER: OnceLock<String> = OnceLock::new();

pub(crate) fn set_server(url: &str) {
    SERVER.set(url.to_owned()).unwrap();
}

/// A backend whose failure fails the benchmark instead of deciding in memory: see
/// `on_backend_error`.
fn backend() -> RedisBackend {
    RedisBackend::builder().url(SERVER.get().unwrap()).timeout(Duration::from_secs(5)).build().unwrap()
}

/// A backend that leases up to this many permits at once.
fn leasing(permits: u32) -> RedisBackend {
    let builder = RedisBackend::builder().url(SERVER.get().unwrap()).timeout(Duration::from_secs(5));
    builder.lease(permits, Duration::from_millis(50)).build().unwrap()
}

#[rate_limit(count = 1_000_000_000, per = "1h", backend = leasing(100), on_backend_error = deny)]
pub(crate) async fn leased_by_100() -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000_000, per = "1h", backend = leasing(1_000), on_backend_error = deny)]
pub(crate) async fn leased_by_1_000() -> Limited {
    Ok(())
}

/// A backend that calls the server for every decision.
fn asking() -> RedisBackend {
    backend()
}

/// The same without a denial cache.
fn uncached() -> RedisBackend {
    let builder = RedisBackend::builder().url(SERVER.get().unwrap()).timeout(Duration::from_secs(5));
    builder.denial_cache(false).build().unwrap()
}

#[rate_limit(count = 1_000_000_000, per = "1h", backend = backend(), on_backend_error = deny)]
pub(crate) fn blocking_allowed() -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000_000, per = "1h", key = key, backend = backend(), on_backend_error = deny)]
pub(crate) fn blocking_keyed(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000_000, per = "1h", key = key, backend = backend(), on_backend_error = deny)]
pub(crate) async fn one_task(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 100_000, per = "1h", algorithm = token_bucket, key = key, backend = backend(), on_backend_error = deny)]
pub(crate) async fn token(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 10_000, per = "1h", key = key, backend = backend(), on_backend_error = deny)]
pub(crate) async fn window_10_000(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 64, per = "800ms", key = key, backend = backend(), on_backend_error = deny)]
pub(crate) async fn window_few_groups(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 64, per = "6s", key = key, backend = backend(), on_backend_error = deny)]
pub(crate) async fn window_64_groups(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "366d", algorithm = token_bucket, key = key, backend = asking(), on_backend_error = deny)]
pub(crate) async fn token_denied(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(
    limit(count = 1_000, per = "1s"),
    limit(count = 100_000, per = "1h"),
    key = key,
    backend = backend(),
    on_backend_error = deny
)]
pub(crate) async fn two_limits(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(
    limit(count = 1_000, per = "1s"),
    limit(count = 100_000, per = "1h"),
    limit(count = 1_000_000, per = "1d"),
    key = key,
    backend = backend(),
    on_backend_error = deny
)]
pub(crate) async fn three_limits(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000_000, per = "1h", backend = backend(), on_backend_error = deny)]
pub(crate) async fn hot() -> Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "366d", backend = backend(), on_backend_error = deny)]
pub(crate) async fn blocked() -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000, per = "1h", algorithm = fixed_window, key = key, backend = backend(), on_backend_error = deny)]
pub(crate) async fn fixed(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(
    limit(count = 1, per = "366d"),
    limit(count = 100_000, per = "1h"),
    key = key,
    backend = uncached(),
    on_backend_error = deny
)]
pub(crate) async fn denied_by_one_of_two(key: u64) -> Limited {
    Ok(())
}

/// Calls the server each time, which extends the block.
#[rate_limit(
    count = 1,
    per = "1h",
    backoff(initial = "1h", max = "2h"),
    key = key,
    backend = uncached(),
    on_backend_error = deny
)]
pub(crate) async fn banned(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(
    count = 1_000_000,
    per = "1h",
    backoff(initial = "1h", max = "2h"),
    key = key,
    backend = backend(),
    on_backend_error = deny
)]
pub(crate) async fn with_backoff(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(
    count = 1_000_000,
    per = "1h",
    key = key,
    deduct_when = |_| false,
    backend = backend(),
    on_backend_error = deny
)]
pub(crate) async fn given_back(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000, per = "1h", key = key, cost = 3, backend = backend(), on_backend_error = deny)]
pub(crate) async fn cost_of_3(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000, per = "1h", key = key, wait = "1s", backend = backend(), on_backend_error = deny)]
pub(crate) async fn wait_without_need(key: u64) -> Limited {
    Ok(())
}

/// The yardstick of the other requests.
#[rate_limit(count = 100_000, per = "1h", key = key, backend = uncached(), on_backend_error = deny)]
pub(crate) async fn plain(key: u64) -> Limited {
    Ok(())
}

/// A limiter whose keys are peeked at and reset.
pub(crate) fn handle() -> &'static RateLimiter {
    static HANDLE: LazyLock<RateLimiter> = LazyLock::new(|| {
        let limiter = RateLimiter::builder("handle").backend(uncached()).on_backend_error(OnBackendError::Deny);
        limiter.limit(Limit::new(100_000, Duration::from_secs(3_600))).build().unwrap()
    });
    &HANDLE
}

#[rate_limit(
    count = 1_000_000,
    per = "1h",
    key = key,
    cost = 3,
    settle = |_: &Limited| 1,
    backend = backend(),
    on_backend_error = deny
)]
pub(crate) async fn settled(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(
    count = 1_000_000,
    per = "1h",
    key = key,
    cost = 3,
    settle = |_: &Limited| 1,
    settle_later,
    backend = backend(),
    on_backend_error = deny
)]
pub(crate) async fn settled_later(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(
    limit(count = 100_000, per = "1h", key = key),
    limit(count = 1_000_000_000, per = "1h", key = tenant),
    backend = uncached(),
    on_backend_error = deny
)]
pub(crate) async fn two_keys(key: u64, tenant: u64) -> Limited {
    Ok(())
}

/// As `banned`, with a denial cache.
#[rate_limit(
    count = 1,
    per = "1h",
    backoff(initial = "1h", max = "2h"),
    key = key,
    backend = backend(),
    on_backend_error = deny
)]
pub(crate) async fn banned_and_cached(key: u64) -> Limited {
    Ok(())
}

/// A limiter with these keys blocked.
pub(crate) fn blocked_keys(keys: u64) -> &'static RateLimiter {
    static BLOCKED: OnceLock<RateLimiter> = OnceLock::new();
    BLOCKED.get_or_init(|| {
        let builder = RateLimiter::builder("blocked").backend(uncached()).on_backend_error(OnBackendError::Deny);
        let limiter = builder.limit(Limit::new(100_000, Duration::from_secs(3_600))).build().unwrap();
        for key in 0..keys {
            limiter.block(key, Duration::from_secs(3_600)).unwrap();
        }
        limiter
    })
}

/// Books a permit of a key that has one an hour, as the queue of waiting calls does, without waiting
/// until it is due.
pub(crate) async fn booked(key: u64) -> Option<Permit> {
    let action = Action::Take { cost: 1, max_wait: Duration::MAX };
    match ask(format!("rl:1:{{booked:{key}}}:x"), action).await {
        Outcome::Admitted(admitted) => Some(admitted.permit().clone()),
        _ => None,
    }
}

/// Books a permit and gives it up.
pub(crate) async fn booked_and_given_up(key: u64) -> bool {
    let Some(permit) = booked(key).await else { return false };
    let answer = ask(format!("rl:1:{{booked:{key}}}:x"), Action::GiveBack(permit)).await;
    matches!(answer, Outcome::Done)
}

async fn ask(bucket: String, action: Action) -> Outcome {
    static BOOKING: LazyLock<RedisBackend> = LazyLock::new(uncached);
    let request = Request::new(bucket, &[Limit::new(1, Duration::from_secs(3_600))], action);
    BOOKING.decide_async(&request).expect("it does not block").await.unwrap().outcome
}
