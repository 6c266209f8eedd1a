use ratelimit_runtime::{RateLimitExceeded, rate_limit};

const COST: u32 = 4;

#[rate_limit(count = 3, per = "1s", cost = COST)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {
    let _ = call(1);
}
