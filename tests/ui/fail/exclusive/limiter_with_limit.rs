use ratelimit_runtime::{Limit, RateLimitExceeded, RateLimiter, rate_limit};
use std::time::Duration;

static API: RateLimiter = RateLimiter::new("api", &[Limit::new(10, Duration::from_secs(1))]);

#[rate_limit(limiter = API, limit(count = 10, per = "1s"))]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
