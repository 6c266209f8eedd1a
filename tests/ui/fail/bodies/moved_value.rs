use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", key = user)]
fn call(user: String) -> Result<String, RateLimitExceeded> {
    drop(user);
    Ok(user)
}

fn main() {}
