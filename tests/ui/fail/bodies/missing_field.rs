use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", key = user)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    struct Pair {
        first: u32,
        second: u32,
    }
    let pair = Pair { first: user };
    Ok(pair.first)
}

fn main() {}
