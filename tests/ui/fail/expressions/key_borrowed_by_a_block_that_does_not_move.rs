use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s", key = user)]
fn call<'a>(user: &'a str) -> impl Future<Output = Result<usize, RateLimitExceeded>> {
    async { Ok(user.len()) }
}

fn main() {}
