use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 5_000_000_000, per = "1s")]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
