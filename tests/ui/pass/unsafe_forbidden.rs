//! The expansion contains nothing that a strict crate forbids.
#![forbid(unsafe_code)]
#![deny(warnings, unused, future_incompatible, rust_2018_idioms, rust_2021_compatibility, rust_2024_compatibility)]
#![deny(missing_debug_implementations, single_use_lifetimes, trivial_casts, trivial_numeric_casts, unreachable_pub)]
#![deny(unused_import_braces, unused_lifetimes, unused_qualifications, unused_results, variant_size_differences)]
#![deny(let_underscore_drop, missing_copy_implementations, non_ascii_idents, meta_variable_misuse, redundant_imports)]

use ratelimit_runtime::{RateLimitExceeded, rate_limit};

mod limited {
    use super::{RateLimitExceeded, rate_limit};

    #[rate_limit(count = 1, per = "1m", key = user, cost = cost)]
    pub(crate) fn blocking(user: &str, cost: u32) -> Result<usize, RateLimitExceeded> {
        Ok(user.len())
    }

    #[rate_limit(count = 1, per = "1m", key = user, deduct_when = |outcome| outcome.is_ok())]
    pub(crate) async fn asynchronous(user: &str) -> Result<usize, RateLimitExceeded> {
        Ok(user.len())
    }

    #[rate_limit(count = 1, per = "1m", wait)]
    pub(crate) fn waiting() {}

    #[rate_limit(count = 1, per = "1m", or_else = |_| 0, deduct_when = |outcome| *outcome > 0)]
    pub(crate) fn deducting(number: u32) -> u32 {
        number
    }
}

fn main() {
    assert_eq!(limited::blocking("alice", 1).unwrap(), 5);
    assert!(limited::blocking("alice", 1).is_err());
    limited::waiting();
    assert_eq!(limited::deducting(1), 1);
    assert_eq!(limited::deducting(1), 0);
    drop(limited::asynchronous("alice"));
}
