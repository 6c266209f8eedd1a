use ratelimit_runtime::{RateLimitExceeded, rate_limit};

const CALLS: u32 = 0;

#[rate_limit(count = CALLS, per = "1s")]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
