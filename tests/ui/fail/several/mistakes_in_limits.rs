use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(limit(count = 0, per = "1s"), limit(count = 1, per = "1x"), cost = "2")]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
