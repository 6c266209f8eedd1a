use ratelimit_runtime::{RateLimitExceeded, rate_limit};

use std::rc::Rc;

#[rate_limit(count = 1, per = "1s")]
async fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    let shared = Rc::new(user);
    std::future::ready(()).await;
    Ok(*shared)
}

fn spawn(_: impl Future + Send) {}

fn main() {
    spawn(call(1));
}
