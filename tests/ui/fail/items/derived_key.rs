use ratelimit_runtime::RateLimitKey;

#[derive(RateLimitKey)]
struct Point {
    x: f64,
    label: String,
}

#[derive(RateLimitKey)]
union Either {
    number: u32,
    letter: char,
}

#[derive(RateLimitKey)]
#[rate_limit_key(name = "id")]
struct Id(u32);

fn main() {}
