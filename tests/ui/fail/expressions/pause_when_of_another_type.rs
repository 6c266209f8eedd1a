use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", pause_when = |outcome| outcome.is_err())]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
