//! Each argument as documented, in code that allows no warnings.
#![deny(warnings)]
#![deny(missing_docs)]

use std::time::Duration;

use ratelimit_runtime::{Limit, MemoryBackend, RateLimitExceeded, RateLimiter, rate_limit};

/// Calls.
pub const COUNT: u32 = 10;
/// Their time.
pub const PER: Duration = Duration::from_secs(1);

static API: RateLimiter = RateLimiter::new("api", &[Limit::new(100, PER)]);

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
    assert_eq!(around(), 1);
    assert_eq!(settled(), 70);
    waits_a_while().unwrap();
    let _ = (shared(1), waits(), permitted());
}
