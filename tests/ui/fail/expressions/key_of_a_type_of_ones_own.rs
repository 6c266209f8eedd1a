use ratelimit_runtime::{RateLimitExceeded, rate_limit};

struct User(u32);

#[rate_limit(count = 1, per = "1s", key = (user, tenant))]
fn call(user: User, tenant: &str) -> Result<usize, RateLimitExceeded> {
    Ok(user.0 as usize + tenant.len())
}

fn main() {}
