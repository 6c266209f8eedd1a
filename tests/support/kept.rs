//! The limits of `keeper.rs`, by which `restarts.rs` judges what it has admitted.

use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit};

/// Keys of each limit.
pub const KEPT_KEYS: usize = 3;

/// Names and limits.
pub fn kept_limits() -> Vec<(&'static str, Limit)> {
    let per = Duration::from_secs(2);
    vec![
        ("window", Limit::new(40, per)),
        ("groups", Limit::new(200, per)),
        ("bucket", Limit::new(30, per).with_algorithm(Algorithm::TokenBucket)),
        (
            "odd bucket",
            Limit::new(37, Duration::from_millis(1_777)).with_algorithm(Algorithm::TokenBucket).with_burst(50),
        ),
        ("fixed", Limit::new(35, per).with_algorithm(Algorithm::FixedWindow)),
    ]
}
