use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s", cost = -1)]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
