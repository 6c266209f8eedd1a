use ratelimit_runtime::rate_limit;

#[rate_limit(count = 10, per = "1s")]
async fn call() -> Result<u8, String> {
    Ok(1)
}

fn main() {}
