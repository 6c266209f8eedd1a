use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", name = user)]
fn call(user: &str) -> Result<usize, RateLimitExceeded> {
    Ok(user.len())
}

fn main() {}
