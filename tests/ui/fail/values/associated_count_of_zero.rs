use ratelimit_runtime::{RateLimitExceeded, rate_limit};

struct Plan;

impl Plan {
    const CALLS: u32 = 0;
}

#[rate_limit(count = Plan::CALLS, per = "1s")]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {
    let _ = call(1);
}
