use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s")]
const CALLS: u32 = 1;

fn main() {}
