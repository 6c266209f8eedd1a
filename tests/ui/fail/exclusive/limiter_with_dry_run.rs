use std::time::Duration;

use ratelimit_runtime::{Limit, RateLimitExceeded, RateLimiter, rate_limit};

static API: RateLimiter = RateLimiter::new("api", &[Limit::new(1, Duration::from_secs(1))]);

#[rate_limit(limiter = API, dry_run)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
