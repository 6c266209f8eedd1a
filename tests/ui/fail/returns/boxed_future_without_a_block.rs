use ratelimit_runtime::{RateLimitExceeded, rate_limit};

use std::pin::Pin;

#[rate_limit(count = 1, per = "1s")]
fn call(user: u32) -> Pin<Box<dyn Future<Output = Result<u32, RateLimitExceeded>>>> {
    let future = async move { Ok(user) };
    Box::pin(future)
}

fn main() {}
