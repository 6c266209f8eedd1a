use ratelimit_runtime::{RateLimitExceeded, rate_limit};

struct Api;

impl Api {
    #[rate_limit(count = 10)]
    async fn call(&self) -> Result<usize, RateLimitExceeded> {
        Ok(1)
    }

    #[rate_limit(per = "1s", by = user)]
    fn other(&self, user: u8) -> Result<u8, RateLimitExceeded> {
        Ok(user)
    }
}

async fn calls() -> Result<usize, RateLimitExceeded> {
    Api.call().await
}

fn main() {}
