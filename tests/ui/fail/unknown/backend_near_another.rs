use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", backend = memcache)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
