//! A login that resists guessing: failures count, successes do not.
//!
//! Five wrong passwords for a user from one address within 15 minutes lock out that pair. Each
//! further attempt extends the lockout, up to a day. The user can still log in from elsewhere, so
//! strangers cannot lock users out. Against one password tried on many users, each address has 20
//! failures an hour in all.
//!
//! `cargo run --example login` listens on 127.0.0.1:3000. `ADDR` or `PORT` in the environment
//! change that; port 0 is any free port. `TRUSTED_PROXIES=10.0.0.0/8,fd00::/8` names proxies whose
//! `X-Forwarded-For` is trusted.
//!
//! `curl -d 'user=ann&password=guess' http://127.0.0.1:3000/login`

use std::net::SocketAddr;

use axum::extract::Form;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use ratelimit_examples::{address, trusted_proxies};
use ratelimit_runtime::{ClientIp, RateLimitExceeded, rate_limit};
use serde::Deserialize;

#[derive(Deserialize)]
struct Credentials {
    user: String,
    password: String,
}

async fn login(client: ClientIp, Form(credentials): Form<Credentials>) -> Result<String, LoginError> {
    check_from(client, &credentials).await?;
    Ok(format!("welcome, {}\n", credentials.user))
}

/// Takes the permit before it checks the password, and gives it back if the password was right: a
/// thousand concurrent guesses get five tries.
#[rate_limit(
    count = 5,
    per = "15m",
    key = (client, credentials.user),
    deduct_when = |outcome| matches!(outcome, Err(LoginError::Wrong)),
    backoff(initial = "15m", max = "1d")
)]
async fn check_from(client: ClientIp, credentials: &Credentials) -> Result<(), LoginError> {
    check(client, credentials).await
}

#[rate_limit(count = 20, per = "1h", key = client, deduct_when = |outcome| matches!(outcome, Err(LoginError::Wrong)))]
async fn check(client: ClientIp, credentials: &Credentials) -> Result<(), LoginError> {
    // Stands for a database lookup and a slow hash.
    if credentials.password == format!("{}'s secret", credentials.user) { Ok(()) } else { Err(LoginError::Wrong) }
}

enum LoginError {
    Wrong,
    TooManyFailures(RateLimitExceeded),
}

impl From<RateLimitExceeded> for LoginError {
    fn from(exceeded: RateLimitExceeded) -> LoginError {
        LoginError::TooManyFailures(exceeded)
    }
}

impl IntoResponse for LoginError {
    fn into_response(self) -> Response {
        match self {
            LoginError::Wrong => (StatusCode::UNAUTHORIZED, "wrong user or password\n").into_response(),
            // 429 with `Retry-After`.
            LoginError::TooManyFailures(exceeded) => exceeded.into_response(),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let router = Router::new().route("/login", post(login)).layer(Extension(trusted_proxies()?));
    let listener = tokio::net::TcpListener::bind(address(3000)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
