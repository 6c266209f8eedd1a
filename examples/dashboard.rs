//! A page that shows every limiter of the process live, and sends bursts of calls to them.
//!
//! `cargo run --example dashboard` listens on 127.0.0.1:3000. `ADDR` or `PORT` in the environment
//! change that; port 0 is any free port. The page is `dashboard.html`: it loads nothing else, and
//! listens to `/events`.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::Json;
use axum::http::StatusCode;
use axum::response::Html;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use axum::{Router, response};
use futures_util::Stream;
use futures_util::stream::unfold;
use ratelimit_examples::address;
use ratelimit_runtime::{Algorithm, Limit, RateLimiter, limiters, rate_limit};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

static SEARCH: RateLimiter = RateLimiter::new("search", &[Limit::new(20, Duration::from_secs(10))]);
static UPLOAD: RateLimiter =
    RateLimiter::new("upload", &[Limit::new(5, SECOND).with_algorithm(Algorithm::TokenBucket).with_burst(40)]);
static LOGIN: RateLimiter = RateLimiter::new("login", &[Limit::new(3, Duration::from_secs(30))]);

#[rate_limit(limiter = SEARCH)]
fn search() -> Option<()> {
    Some(())
}

#[rate_limit(limiter = UPLOAD)]
fn upload() -> Option<()> {
    Some(())
}

/// Each user has three tries.
#[rate_limit(limiter = LOGIN, key = user)]
fn login(user: u64) -> Option<()> {
    Some(())
}

/// The most calls of one burst.
const MOST: u64 = 10_000;

/// `{"limiter": "search", "calls": 50}`: this many calls at once, for `login` by ten users in turn.
async fn burst(Json(burst): Json<Value>) -> Result<response::Json<Value>, StatusCode> {
    let call: fn(u64) -> Option<()> = match burst["limiter"].as_str() {
        Some("search") => |_| search(),
        Some("upload") => |_| upload(),
        Some("login") => |call| login(call % 10),
        _ => return Err(StatusCode::NOT_FOUND),
    };
    let calls = burst["calls"].as_u64().filter(|calls| (1..=MOST).contains(calls)).ok_or(StatusCode::BAD_REQUEST)?;
    let allowed = (0..calls).filter_map(call).count();
    Ok(response::Json(json!({ "calls": calls, "allowed": allowed })))
}

/// All limiters, four times a second, as JSON.
async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = tokio::time::interval(SECOND / 4);
    let events = unfold(ticks, |mut ticks| async {
        ticks.tick().await;
        let event =
            Event::default().json_data(limiters()).unwrap_or_else(|error| Event::default().comment(error.to_string()));
        Some((Ok(event), ticks))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // Only used limiters are listed: this shows them from the start.
    for limiter in [&SEARCH, &UPLOAD, &LOGIN] {
        let _ = limiter.limits();
    }
    let page = get(|| async { Html(include_str!("dashboard.html")) });
    let router = Router::new().route("/", page).route("/events", get(events)).route("/burst", post(burst));
    let listener = tokio::net::TcpListener::bind(address(3000)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router).await
}
