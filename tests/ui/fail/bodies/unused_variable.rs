#![deny(unused_variables)]

use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s")]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    let unused = 1;
    Ok(1)
}

fn main() {}
