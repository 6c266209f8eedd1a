#![deny(unused_variables)]

use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
fn call(number: u32) -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
