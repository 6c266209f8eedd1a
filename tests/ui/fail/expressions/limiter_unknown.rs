use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(limiter = APY)]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
