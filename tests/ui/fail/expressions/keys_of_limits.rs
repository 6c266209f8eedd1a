use std::net::SocketAddr;

use ratelimit_runtime::{Limit, RateLimitExceeded, RateLimiter, rate_limit};

static API: RateLimiter = RateLimiter::new("api", &[Limit::per_second(10), Limit::per_second(100)]);

#[rate_limit(limit(count = 1, per = "1s", key = client), limit(count = 9, per = "1s"))]
fn socket_address(client: SocketAddr) -> Result<u16, RateLimitExceeded> {
    Ok(client.port())
}

#[rate_limit(limiter = API, keys = ((), weight))]
fn fraction(weight: f64) -> Result<f64, RateLimitExceeded> {
    Ok(weight)
}

#[rate_limit(limit(count = 1, per = "1s", key = tenant), limit(count = 9, per = "1s"), key = user)]
fn unknown(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn main() {}
