use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s", key = key)]
fn call(key: std::collections::BTreeMap<String, String>) -> Result<(), RateLimitExceeded> {
    let _ = &key;
    Ok(())
}

fn main() {}
