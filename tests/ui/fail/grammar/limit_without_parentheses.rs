use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(limit = 5)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
