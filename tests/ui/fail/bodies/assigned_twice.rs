use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
fn call(number: u32) -> Result<(), RateLimitExceeded> {
    number = 1;
    let _ = number;
    Ok(())
}

fn main() {}
