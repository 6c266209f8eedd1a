use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
fn call(user: Usr) -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
