use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(Count = 100, per = "1s")]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
