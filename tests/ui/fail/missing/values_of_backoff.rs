use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 100, per = "1s", backoff)]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
