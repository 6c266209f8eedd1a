use std::pin::Pin;

use ratelimit_runtime::rate_limit;

#[rate_limit(count = 10, per = "1s")]
fn call() -> Pin<Box<dyn Future<Output = u32> + Send>> {
    Box::pin(async move { 1 })
}

fn main() {}
