use ratelimit_runtime::rate_limit;

#[derive(Debug)]
struct Failure;

#[rate_limit(count = 10, per = "1s")]
fn call() -> Result<u8, Failure> {
    Ok(1)
}

fn main() {}
