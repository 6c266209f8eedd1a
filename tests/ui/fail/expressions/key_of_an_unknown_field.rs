use ratelimit_runtime::{RateLimitExceeded, rate_limit};

struct User {
    id: u64,
}

#[rate_limit(count = 10, per = "1s", key = key.ids)]
fn call(key: &User) -> Result<(), RateLimitExceeded> {
    let _ = &key;
    Ok(())
}

fn main() {}
