use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[track_caller]
#[rate_limit(count = 10, per = "1s", deduct_when = |outcome| outcome.is_err())]
fn deducting() -> Result<u32, RateLimitExceeded> {
    Ok(std::panic::Location::caller().line())
}

#[rate_limit(count = 10, per = "1s")]
#[cfg_attr(not(miri), track_caller)]
fn responding() -> impl axum::response::IntoResponse {
    std::panic::Location::caller().to_string()
}

fn main() {}
