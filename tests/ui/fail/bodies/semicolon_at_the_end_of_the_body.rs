use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
fn call() -> Result<u32, RateLimitExceeded> {
    Ok(1);
}

fn main() {}
