use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s", deduct_when = |_| user.is_empty())]
fn call(user: String) -> Result<(), RateLimitExceeded> {
    drop(user);
    Ok(())
}

fn main() {}
