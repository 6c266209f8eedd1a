use ratelimit_runtime::{RateLimitExceeded, RateLimiter, rate_limit};

struct Api {
    limiter: RateLimiter,
}

impl Api {
    #[rate_limit(limiter = self.limits)]
    fn call(&self) -> Result<(), RateLimitExceeded> {
        Ok(())
    }
}

fn main() {}
