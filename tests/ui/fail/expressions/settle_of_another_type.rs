use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", settle = |outcome| outcome.is_ok())]
fn truth() -> Result<u32, RateLimitExceeded> {
    Ok(1)
}

#[rate_limit(count = 1, per = "1s", settle = 5)]
fn number() -> Result<u32, RateLimitExceeded> {
    Ok(1)
}

#[rate_limit(count = 1, per = "1s", permit = reserved)]
fn twice() -> Result<u32, RateLimitExceeded> {
    let _ = reserved.settle(1);
    let _ = reserved.settle(2);
    Ok(1)
}

fn main() {}
