use ratelimit_runtime::rate_limit;

#[rate_limit(count = 10, per = "1s", or_else = async |_| 0)]
async fn call() -> u32 {
    1
}

fn main() {}
