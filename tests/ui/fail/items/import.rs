use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s")]
use std::fmt::Debug as _;

fn main() {}
