use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 3, per = "1s", cost = 4)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
