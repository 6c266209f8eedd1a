use contracts::{debug_ensures, ensures, requires};
use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s")]
#[requires(user > 0)]
#[ensures(ret.is_ok())]
#[debug_ensures(ret.is_ok())]
fn find(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {
    let _ = find(1);
}
