use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(requests = 100, window = "1s")]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
