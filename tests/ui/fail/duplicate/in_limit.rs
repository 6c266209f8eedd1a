use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(limit(count = 1, per = "1s", per = "1m"))]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
