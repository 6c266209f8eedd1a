use ratelimit_runtime::{RateLimitExceeded, rate_limit};

async fn fetch(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(count = 1, per = "1s")]
fn call(user: u32) -> impl Future<Output = Result<u32, RateLimitExceeded>> {
    fetch(user)
}

fn main() {}
