use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", wait(queue = 0))]
fn no_place() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 1, per = "1s", wait(max = "1x", queues = 3))]
fn misspelt() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 1, per = "1s", wait(queue = 10))]
fn may_be_denied() -> u32 {
    1
}

fn main() {}
