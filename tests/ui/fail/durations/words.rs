use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "every second")]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
