use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 100, per = "1s", on_backend_error = "deny")]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
