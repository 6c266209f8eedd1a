#![deny(missing_docs)]
//! A crate.

use ratelimit_runtime::{RateLimitExceeded, rate_limit};

/// Documented.
#[rate_limit(count = 1, per = "1s")]
pub fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(count = 1, per = "1s")]
pub fn undocumented(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {
    let _ = (call(1), undocumented(1));
}
