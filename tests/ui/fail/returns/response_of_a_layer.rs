use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ratelimit_runtime::{RateLimitLayer, RateLimiter};

struct SlowDown;

impl IntoResponse for SlowDown {
    fn into_response(self) -> Response {
        "slow down".into_response()
    }
}

fn router(limiter: &RateLimiter) -> axum::Router {
    let layer = RateLimitLayer::<Request, _>::unkeyed(limiter).deny_with(|_| SlowDown);
    axum::Router::new().route("/", get("hello")).layer(layer)
}

fn main() {}
