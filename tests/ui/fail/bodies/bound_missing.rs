use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s", key = user)]
fn call<T>(user: T) -> Result<T, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
