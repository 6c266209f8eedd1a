use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s")]
#[cfg_attr(not(windows), allow(unused), culpa::throws(RateLimitExceeded))]
fn find(user: &str) -> Option<u32> {
    user.parse().ok()
}

fn main() {
    let _ = find("1");
}
