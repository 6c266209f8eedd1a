use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1h m")]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
