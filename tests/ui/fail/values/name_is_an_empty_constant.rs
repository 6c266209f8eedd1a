use ratelimit_runtime::{RateLimitExceeded, rate_limit};

const NAME: &str = "";
const NUMBER: u32 = 1;

#[rate_limit(count = 1, per = "1s", name = NAME)]
fn empty() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 1, per = "1s", name = NUMBER)]
fn number() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
