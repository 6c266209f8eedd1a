use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
fn call() -> Result<u32, RateLimitExceeded> {
    let number: u32 = "1";
    Ok(number)
}

fn main() {}
