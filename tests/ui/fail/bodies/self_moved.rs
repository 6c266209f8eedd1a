use ratelimit_runtime::{RateLimitExceeded, rate_limit};

struct User {
    name: String,
}

impl User {
    #[rate_limit(count = 10, per = "1s", key = self.name)]
    fn call(self) -> Result<Self, RateLimitExceeded> {
        drop(self.name);
        Ok(self)
    }
}

fn main() {}
