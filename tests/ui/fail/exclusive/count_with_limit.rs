use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 5, per = "1s", limit(count = 1, per = "1s"))]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
