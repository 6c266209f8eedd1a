//! An axum server with one limited route, five requests a minute from each client, and a limit on
//! all routes.
//!
//! `cargo run --example axum` listens on 127.0.0.1:3000. `ADDR` or `PORT` in the environment change
//! that; port 0 is any free port. `TRUSTED_PROXIES=10.0.0.0/8,fd00::/8` names proxies whose
//! `X-Forwarded-For` is trusted.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use ratelimit_examples::{address, trusted_proxies};
use ratelimit_runtime::{
    ClientIp, Limit, RateLimitExceeded, RateLimitHeadersLayer, RateLimitLayer, RateLimiter, rate_limit,
};
use serde_json::{Value, json};

static ALL: RateLimiter = RateLimiter::new("all", &[Limit::new(1_000, Duration::from_secs(1))]);

/// Limits this function, whoever calls it. An IPv6 client counts as its /64 network, which one
/// customer holds as a whole.
#[rate_limit(count = 5, per = "60s", key = client)]
async fn data(client: ClientIp) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "data": [1, 2, 3], "you": client.address() })))
}

async fn status() -> &'static str {
    "ok\n"
}

/// The application's error type.
enum ApiError {
    TooManyRequests(RateLimitExceeded),
}

/// The only conversion that the attribute needs.
impl From<RateLimitExceeded> for ApiError {
    fn from(exceeded: RateLimitExceeded) -> ApiError {
        ApiError::TooManyRequests(exceeded)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let ApiError::TooManyRequests(exceeded) = self;
        let retry_after = exceeded.retry_after_secs();
        let body = json!({
            "error": "too many requests",
            "limit": exceeded.limit().to_string(),
            "retry_after": retry_after,
        });
        // A denial must not be stored and served to other clients.
        let no_store = [(header::CACHE_CONTROL, "no-store")];
        let mut response = (StatusCode::TOO_MANY_REQUESTS, no_store, Json(body)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // All clients together may send 1,000 requests a second.
    let all = RateLimitLayer::unkeyed(&ALL);
    let api = Router::new().route("/api/data", get(data)).route("/api/status", get(status));
    let router = api
        .layer(all)
        // Reports the remaining permits in every response.
        .layer(RateLimitHeadersLayer::new())
        .layer(Extension(trusted_proxies()?));
    let listener = tokio::net::TcpListener::bind(address(3000)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
