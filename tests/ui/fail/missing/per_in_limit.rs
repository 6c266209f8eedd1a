use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(limit(count = 10, per = "1s"), limit(count = 100))]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
