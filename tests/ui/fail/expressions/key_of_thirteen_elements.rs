use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s", key = (key, key, key, key, key, key, key, key, key, key, key, key, key))]
fn call(key: u8) -> Result<(), RateLimitExceeded> {
    let _ = &key;
    Ok(())
}

fn main() {}
