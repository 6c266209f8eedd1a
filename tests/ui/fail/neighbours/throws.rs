use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s")]
#[culpa::throws(RateLimitExceeded)]
fn find(user: &str) -> Option<u32> {
    user.parse().ok()
}

fn main() {
    let _: Result<Option<u32>, RateLimitExceeded> = find("1");
}
