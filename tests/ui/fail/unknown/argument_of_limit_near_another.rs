use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(limit(count = 1, prr = "1s"))]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
