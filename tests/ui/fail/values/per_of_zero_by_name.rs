use ratelimit_runtime::{RateLimitExceeded, rate_limit};

use std::time::Duration;

#[rate_limit(count = 1, per = Duration::ZERO)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
