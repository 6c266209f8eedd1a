//! An HTTP server with one limited route: five requests a minute from each client address.
//!
//! `cargo run --example web` listens on 127.0.0.1:3000; `ADDR` or `PORT` in the environment say otherwise, and port 0 is any
//! that is free.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use ratelimit_runtime::{RateLimitExceeded, rate_limit};
use serde_json::{Value, json};

/// The limit is of this function, whoever calls it. An IPv6 client counts as its /64 network, which is all its own.
#[rate_limit(count = 5, per = "60s", key = address.ip())]
async fn data(ConnectInfo(address): ConnectInfo<SocketAddr>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "data": [1, 2, 3], "you": address.ip() })))
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
        let mut response = (StatusCode::TOO_MANY_REQUESTS, Json(body)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let router = Router::new().route("/api/data", get(data)).route("/api/status", get(status));
    let listener = tokio::net::TcpListener::bind(address()).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await
}

/// `ADDR` with a port, or `PORT` on this machine.
fn address() -> String {
    let variable = |name| std::env::var(name).ok();
    variable("ADDR").unwrap_or_else(|| format!("127.0.0.1:{}", variable("PORT").as_deref().unwrap_or("3000")))
}
