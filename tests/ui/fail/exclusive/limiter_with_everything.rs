use ratelimit_runtime::{Limit, RateLimitExceeded, RateLimiter, rate_limit};
use std::time::Duration;

static API: RateLimiter = RateLimiter::new("api", &[Limit::new(10, Duration::from_secs(1))]);

#[rate_limit(limiter = API, count = 1, per = "1s", algorithm = token_bucket, burst = 5, name = "x", dry_run)]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
