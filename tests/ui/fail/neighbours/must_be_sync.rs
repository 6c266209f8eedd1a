use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s")]
#[maybe_async::must_be_sync]
async fn find(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {
    let _ = find(1);
}
