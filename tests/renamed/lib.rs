//! The runtime renamed in `Cargo.toml`: the attribute needs no `crate = ..`.

use limits::{RateLimitExceeded, rate_limit};

/// A limited function. Doc tests find the runtime, too.
///
/// ```
/// #[limits::rate_limit(count = 1, per = "1h")]
/// fn documented() -> Option<u32> { Some(1) }
///
/// assert!(documented().is_some() && documented().is_none());
/// ```
#[rate_limit(count = 1, per = "1h", key = user)]
pub fn call(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

/// A limited function that names the runtime.
#[rate_limit(count = 1, per = "1h", key = user, crate = limits)]
pub fn named(user: u32) -> Result<u32, RateLimitExceeded> {
    Ok(user)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_runtime_under_another_name_is_found() {
        for call in [super::call, super::named] {
            assert!(call(1).is_ok() && call(1).is_err() && call(2).is_ok());
        }
    }
}
