use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 5, per = "1s", wait, on_backend_error = deny)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
