use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(
    limit(count = 1, per = "1s"),
    limit(count = 2, per = "2s"),
    limit(count = 3, per = "3s"),
    limit(count = 4, per = "4s"),
    limit(count = 5, per = "5s"),
    limit(count = 6, per = "6s"),
    limit(count = 7, per = "7s"),
    limit(count = 8, per = "8s"),
    limit(count = 9, per = "9s"),
)]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
