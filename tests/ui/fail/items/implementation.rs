use ratelimit_runtime::rate_limit;

struct Service;

#[rate_limit(count = 1, per = "1s")]
impl Service {}

fn main() {}
