use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(cout = 0, per = "1x", burst = 0, algorithm = gcra)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
