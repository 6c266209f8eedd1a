use ratelimit_runtime::{RateLimitExceeded, rate_limit};

use std::net::SocketAddr;

#[rate_limit(count = 1, per = "1s", key = addr)]
fn call(addr: SocketAddr) -> Result<u16, RateLimitExceeded> {
    Ok(addr.port())
}

fn main() {}
