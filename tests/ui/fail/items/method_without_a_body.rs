use ratelimit_runtime::{RateLimitExceeded, rate_limit};

trait Service {
    #[rate_limit(count = 1, per = "1s")]
    fn call(&self) -> Result<u32, RateLimitExceeded>;
}

fn main() {}
