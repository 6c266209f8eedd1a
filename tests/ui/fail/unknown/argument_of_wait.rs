use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", wait, queue = 3)]
fn queued(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(count = 1, per = "1s", initial = "1s")]
fn backed_off(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
