//! An axum server with one limited route, five requests a minute from each client, and a limit on all of it.
//!
//! `cargo run --example axum` listens on 127.0.0.1:3000; `ADDR` or `PORT` in the environment say otherwise, and port 0 is any
//! that is free. `TRUSTED_PROXIES=10.0.0.0/8,fd00::/8` names proxies whose `X-Forwarded-For` is believed.

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

/// The limit is of this function, whoever calls it. An IPv6 client counts as its /64 network, which is all its own.
#[rate_limit(count = 5, per = "60s", key = client)]
async fn data(client: ClientIp) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "data": [1, 2, 3], "you": client.address() })))
}

async fn status() -> &'static str {
    "ok\n"
}

/// What a handler of this application fails with.
enum ApiError {
    TooManyRequests(RateLimitExceeded),
}

/// All that the attribute asks of an error.
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
        // What is denied to one client must not be stored and served to others.
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
    // All clients together may ask 1,000 times a second.
    let all = RateLimitLayer::unkeyed(&ALL);
    let api = Router::new().route("/api/data", get(data)).route("/api/status", get(status));
    let router = api
        .layer(all)
        // Tells clients in every response how much is left.
        .layer(RateLimitHeadersLayer::new())
        .layer(Extension(trusted_proxies()?));
    let listener = tokio::net::TcpListener::bind(address(3000)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
