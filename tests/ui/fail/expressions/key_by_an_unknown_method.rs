use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s", key = key.lenght())]
fn call(key: &str) -> Result<(), RateLimitExceeded> {
    let _ = &key;
    Ok(())
}

fn main() {}
