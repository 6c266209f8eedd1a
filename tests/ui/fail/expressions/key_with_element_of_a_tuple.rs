use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s", key = (key.0, key.1))]
fn call(key: (String, f32)) -> Result<(), RateLimitExceeded> {
    let _ = &key;
    Ok(())
}

fn main() {}
