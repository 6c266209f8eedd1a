use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 1, per = "1s", backend = open(user))]
fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

fn open(_: u32) -> ratelimit_runtime::MemoryBackend {
    ratelimit_runtime::MemoryBackend::new()
}

fn main() {}
