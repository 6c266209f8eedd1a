use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s", algorithm = sliding_window_counter)]
fn call() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
