//! Says how to get the limit in a Redis server, which takes fifty more crates to build.

use ratelimit_runtime::RateLimitExceeded;

pub(crate) fn reach(_: u64) -> Result<(), &'static str> {
    Err("this is built without Redis: cargo run -p quickstart --features redis -- --redis")
}

/// Never called: [`reach`] fails first.
pub(crate) fn call(_: u64) -> Result<(), RateLimitExceeded> {
    Ok(())
}
