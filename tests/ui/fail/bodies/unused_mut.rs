#![deny(unused_mut)]

use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
fn call(mut number: u32) -> Result<(), RateLimitExceeded> {
    let _ = number;
    Ok(())
}

fn main() {}
