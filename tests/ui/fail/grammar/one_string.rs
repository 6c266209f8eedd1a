use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit("100/s")]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
