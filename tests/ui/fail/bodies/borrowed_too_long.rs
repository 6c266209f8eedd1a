use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", key = user)]
fn call<'a>(user: &'a str, other: String) -> Result<&'a str, RateLimitExceeded> {
    let _ = user;
    Ok(&other)
}

fn main() {}
