use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", key = user.into_bytes())]
fn call(user: String) -> Result<String, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
