use ratelimit_runtime::{Limit, RateLimitExceeded, RateLimiter, rate_limit};

static API: RateLimiter = RateLimiter::new("api", &[Limit::per_second(10), Limit::per_second(100)]);

#[rate_limit(limit(count = 1, per = "1s"), keys = (user, ()))]
fn keys_without_a_limiter(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(limiter = API, key = user, keys = (user, ()))]
fn key_and_keys(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(limiter = API, keys = user)]
fn keys_that_are_no_tuple(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(limiter = API, keys = (user, 2, 3, 4, 5, 6, 7, 8, 9))]
fn more_keys_than_limits(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(limiter = API, limit(count = 1, per = "1s", key = user))]
fn key_of_a_limit_beside_a_limiter(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(limit(count = 1, per = "1s", key = user), limit(count = 9, per = "1s", key = ()), key = user)]
fn key_of_no_limit(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(limit(count = 1, per = "1s", key = user, kee = user, key = user))]
fn mistakes_in_a_limit(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
