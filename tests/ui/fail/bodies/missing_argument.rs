use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
fn call(user: &str) -> Result<(), RateLimitExceeded> {
    let _ = user;
    Ok(())
}

fn calls() {
    let _ = call();
}

fn main() {}
