//! The limits that all processes share.

use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit};

/// A limiter, by name.
pub(crate) struct Limited {
    pub(crate) name: &'static str,
    pub(crate) limits: &'static [Limit],
}

/// Keys of each limiter but [`TOTAL`].
pub(crate) const KEYS: u32 = 4;

/// The position of the limiter whose keys are used up one after another. Nothing refills them, so
/// that all permits taken from one can be counted.
pub(crate) const TOTAL: usize = 0;

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(250);
const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) const LIMITED: &[Limited] = &[
    Limited { name: "total", limits: &[Limit::new(200, HOUR)] },
    Limited { name: "window", limits: &[Limit::new(50, SECOND)] },
    Limited { name: "groups", limits: &[Limit::new(100, MOMENT)] },
    Limited {
        name: "bucket",
        limits: &[Limit::new(100, SECOND).with_algorithm(Algorithm::TokenBucket).with_burst(20)],
    },
    Limited { name: "fixed", limits: &[Limit::new(40, MOMENT).with_algorithm(Algorithm::FixedWindow)] },
    Limited {
        name: "both",
        limits: &[Limit::new(20, MOMENT), Limit::new(60, SECOND).with_algorithm(Algorithm::TokenBucket)],
    },
];
