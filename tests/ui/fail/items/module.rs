use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s")]
mod inner {}

fn main() {}
