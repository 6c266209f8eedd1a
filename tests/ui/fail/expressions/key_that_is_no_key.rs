use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", key = user)]
fn call(user: f64) -> Result<f64, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
