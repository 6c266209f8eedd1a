use ratelimit_runtime::{Limit, RateLimitExceeded, RateLimiter, rate_limit};

static API: RateLimiter = RateLimiter::new("api", &[Limit::per_second(1)]);

#[rate_limit(count = 5, per = "1s", backoff(initial = "1s", max = "1h"), ban = "10m")]
fn both(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(count = 5, per = "1s", wait, ban = "10m")]
fn waits(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(limiter = API, ban = "10m")]
fn shared(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(count = 5, per = "1s", ban = 600)]
fn number(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(count = 5, per = "1s", ban = "10 months")]
fn months(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(count = 5, per = "1s", bann = "10m")]
fn misspelt(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(count = 5, per = "1s", wait, pause_when = |_| None)]
fn never() -> ! {
    loop {}
}

#[rate_limit(count = 5, per = "1s", pause_max = "1d")]
fn without(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[track_caller]
#[rate_limit(count = 5, per = "1s", pause_when = |_| None)]
fn caller(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[rate_limit(limit(count = 5, per = "1s", key = user), limit(count = 9, per = "1s", key = tenant), pause_when = |_| None)]
fn pauses_neither(user: u64, tenant: u32) -> Option<(u64, u32)> {
    Some((user, tenant))
}

#[rate_limit(limiter = API, keys = (user, ()), pause_when = |_| None)]
fn pauses_keys(user: u64) -> Option<u64> {
    Some(user)
}

fn main() {}
