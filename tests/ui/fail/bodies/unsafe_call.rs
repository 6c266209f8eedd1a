use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
unsafe fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn calls() {
    let _ = call();
}

fn main() {}
