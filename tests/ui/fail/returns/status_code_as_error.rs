use ratelimit_runtime::rate_limit;

#[rate_limit(count = 10, per = "1s")]
fn call() -> Result<u8, axum::http::StatusCode> {
    Ok(1)
}

fn main() {}
