use ratelimit_runtime::{RateLimitExceeded, rate_limit};

use std::time::Duration;

const TOO_LONG: Duration = Duration::from_secs(400 * 86_400);

#[rate_limit(count = 1, per = TOO_LONG)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
