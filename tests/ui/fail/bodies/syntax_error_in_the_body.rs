use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
fn call() -> Result<(), RateLimitExceeded> {
    let number = ;
    Ok(())
}

fn main() {}
