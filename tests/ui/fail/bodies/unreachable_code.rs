#![deny(unreachable_code)]

use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
fn call() -> Result<(), RateLimitExceeded> {
    return Ok(());
    println!("never");
}

fn main() {}
