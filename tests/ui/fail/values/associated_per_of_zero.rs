use ratelimit_runtime::{RateLimitExceeded, rate_limit};

use std::time::Duration;

struct Api;

impl Api {
    const PER: Duration = Duration::ZERO;

    #[rate_limit(count = 10, per = Self::PER)]
    fn call(&self) -> Result<(), RateLimitExceeded> {
        Ok(())
    }
}

fn main() {}
