use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = N, per = "1s")]
fn call<const N: u32>() -> Result<u32, RateLimitExceeded> {
    Ok(N)
}

fn main() {
    let _ = call::<0>();
}
