use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 5, per = "1s", wait, or_else = |exceeded| Err(exceeded))]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
