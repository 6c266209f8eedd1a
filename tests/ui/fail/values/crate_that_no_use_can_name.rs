use ratelimit_runtime::{RateLimitKey, rate_limit};

struct Shop;

impl Shop {
    #[rate_limit(count = 1, per = "1s", or_else = |_| (), crate = Self)]
    fn order() {}

    #[rate_limit(count = 1, per = "1s", or_else = |_| (), crate = Vec::<u8>)]
    fn list() {}
}

#[derive(RateLimitKey)]
#[rate_limit_key(crate = Self)]
struct Id(u32);

fn main() {}
