use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(limit(count = 10, per = "1s"), limit(count = 5, per = "1h"), cost = 7)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
