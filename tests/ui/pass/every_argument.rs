//! Each argument as documented, in code that allows no warnings.
#![deny(warnings)]
#![deny(missing_docs)]

use std::time::Duration;

use ratelimit_runtime::{Limit, MemoryBackend, RateLimitExceeded, RateLimiter, rate_limit};

/// Calls.
pub const COUNT: u32 = 10;
/// A day of the month.
pub const DAY: u8 = 15;
/// Their time.
pub const PER: Duration = Duration::from_secs(1);

static API: RateLimiter = RateLimiter::new("api", &[Limit::new(100, PER)]);
static BOTH: RateLimiter = RateLimiter::new("both", &[Limit::new(100, PER), Limit::new(1_000, PER)]);

/// Calls within a time.
#[rate_limit(count = 100, per = "1s")]
pub fn plain() -> Result<(), RateLimitExceeded> {
    Ok(())
}

/// By key, with constants.
#[rate_limit(count = COUNT, per = PER, key = user, cost = 2)]
pub fn keyed(user: &str) -> Result<usize, RateLimitExceeded> {
    Ok(user.len())
}

/// Without a line in the docs, and beside other macros of these names.
#[rate_limit(count = 100, per = "1s", docs = false, allow(throws, memoize))]
pub fn unsaid() -> Result<(), RateLimitExceeded> {
    Ok(())
}

/// By everything that is read at each call.
#[rate_limit(count = count, per = per, key = (user, count), cost = cost, exempt_when = user.is_empty())]
pub fn read(count: u32, per: Duration, cost: u32, user: String) -> Result<String, RateLimitExceeded> {
    let _ = per;
    Ok(user + if count > cost { ">" } else { "<" })
}

/// By several limits.
#[rate_limit(
    limit(count = 10, per = "1s"),
    limit(count = 100, per = "1 minute", algorithm = fixed_window),
    limit(count = 1000, per = "1d", algorithm = token_bucket, burst = 50),
    name = "several"
)]
pub fn several() -> Option<u32> {
    Some(1)
}

/// By the calendar, from a fixed day on and from one that is read at each call.
#[rate_limit(
    limit(count = COUNT, calendar = "week", week_starts = sunday, algorithm = fixed_window),
    limit(count = 100, calendar = "month", zone = "Europe/Berlin", starts_on = DAY, algorithm = fixed_window),
    limit(count = 100, calendar = "month", zone = "Asia/Tokyo", starts_on = day, algorithm = fixed_window),
    limit(count = 1000, calendar = "year", algorithm = fixed_window)
)]
pub fn by_calendar(day: u8) -> Option<u8> {
    Some(day)
}

/// By several limits, with a key each.
#[rate_limit(
    limit(count = 10, per = "1s", key = user),
    limit(count = COUNT, per = "1m", key = user),
    limit(count = 1000, per = PER, key = &tenant),
    limit(count = 50_000, per = "1s", key = ())
)]
pub fn each(user: &str, tenant: String) -> Result<usize, RateLimitExceeded> {
    Ok(user.len() + tenant.len())
}

/// Waits for all keys, in memory.
#[rate_limit(limit(count = 5, per = "1s", key = user), limit(count = 9, per = "1s"), backend = memory, wait)]
pub async fn waits_for_each(user: u64) -> u64 {
    user
}

/// By a limiter from elsewhere, with a key for each of its limits.
#[rate_limit(limiter = BOTH, keys = (user, ()), deduct_when = |outcome| outcome.is_some())]
pub async fn shared_by_each(user: String) -> Option<String> {
    Some(user)
}

/// By a limiter from elsewhere.
#[rate_limit(limiter = API, key = user)]
pub async fn shared(user: u64) -> Result<u64, RateLimitExceeded> {
    Ok(user)
}

/// With all that happens around a decision.
#[rate_limit(
    count = 5,
    per = "1h30m",
    backend = MemoryBackend::new(),
    on_backend_error = deny,
    backoff(initial = "1s", max = "1h"),
    dry_run,
    deduct_when = |outcome| *outcome > 0,
    or_else = |exceeded| exceeded.retry_after_secs().unwrap_or(0)
)]
pub fn around() -> u64 {
    1
}

/// Blocks its key, in two ways.
#[rate_limit(
    count = 5,
    per = "1s",
    ban = "10m",
    deduct_when = |outcome| outcome.is_ok(),
    pause_when = |outcome| outcome.as_ref().is_ok_and(|secs| *secs > 0).then_some(PER),
    pause_max = "1d"
)]
pub async fn blocks(secs: u32) -> Result<u32, RateLimitExceeded> {
    Ok(secs)
}

/// Settled by what it returned, without waiting for that.
#[rate_limit(count = 500, per = "1m", cost = 100, settle = |tokens| *tokens, settle_later, or_else = |_| 0)]
pub fn settled() -> u32 {
    70
}

/// Settled by its body.
#[rate_limit(count = 500, per = "1m", cost = 100, permit = reserved)]
pub async fn permitted() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(reserved.settle_async(70).await?)
}

/// Waits.
#[rate_limit(count = 5, per = "1s", backend = memory, on_backend_error = local, wait)]
pub async fn waits() {}

/// Waits a while.
#[rate_limit(count = 5, per = "1s", on_backend_error = allow, wait = "2s", crate = ::ratelimit_runtime)]
pub fn waits_a_while() -> std::io::Result<()> {
    Ok(())
}

fn main() {
    assert!(plain().is_ok() && unsaid().is_ok());
    assert_eq!(keyed("alice").unwrap(), 5);
    assert_eq!(read(3, PER, 1, "bob".to_owned()).unwrap(), "bob>");
    assert_eq!(several(), Some(1));
    assert_eq!(by_calendar(3), Some(3));
    assert_eq!(around(), 1);
    assert_eq!(settled(), 70);
    waits_a_while().unwrap();
    let _ = (shared(1), waits(), blocks(0), permitted());
}
