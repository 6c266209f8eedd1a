use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 5, per = "1s", wait, backoff(initial = "1s", max = "1h"))]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
