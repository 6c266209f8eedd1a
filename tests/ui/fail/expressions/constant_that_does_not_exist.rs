use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = COUNT, per = "1s")]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
