use ratelimit_runtime::{RateLimitExceeded, rate_limit};

const COUNT: u64 = 5;

#[rate_limit(count = COUNT, per = "1s")]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
