//! A page that shows every limiter of the process live, and sends bursts of calls to them.
//!
//! `cargo run --example dashboard` listens on 127.0.0.1:3000. `ADDR` or `PORT` in the environment
//! change that; port 0 is any free port. The page is `dashboard.html` and `dashboard.js`: it loads
//! nothing else, and listens to `/events`.
//!
//! If `DASHBOARD_TOKEN` is set in the environment, a client on this machine that knows it may
//! change limits, and block, peek at and reset keys. Each of these actions is a line on standard
//! error. The server answers only to its own names: no foreign page can reach it by DNS rebinding.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Json, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, response};
use futures_util::Stream;
use futures_util::stream::unfold;
use ratelimit_examples::address;
use ratelimit_examples::key::{Key, Keys, time};
use ratelimit_runtime::{Algorithm, Limit, RateLimiter, limiters, rate_limit, set_limits};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

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

/// Only the page's own script runs in the page, and it talks to this server alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `{"limiter": "login", "action": "block", "value": "10m", "key": "u64:42"}`, with the token.
async fn act(State(token): State<Option<String>>, headers: HeaderMap, Json(act): Json<Value>) -> (StatusCode, String) {
    let Some(token) = token else {
        return (StatusCode::FORBIDDEN, "start the server with a DASHBOARD_TOKEN to change limits".to_owned());
    };
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    if !bool::from(given.ct_eq(format!("Bearer {token}").as_bytes())) {
        eprintln!("dashboard: refused, wrong token");
        return (StatusCode::UNAUTHORIZED, "wrong token".to_owned());
    }
    let text = |name: &str| act[name].as_str().unwrap_or_default();
    let (limiter, action, value, key) = (text("limiter"), text("action"), text("value"), text("key"));
    match acted(limiter, action, value, key) {
        Ok(told) => {
            eprintln!("dashboard: {action} {limiter:?} {value:?} {key:?}: {told}");
            (StatusCode::OK, told)
        }
        Err(error) => {
            eprintln!("dashboard: {action} {limiter:?} {value:?} {key:?} failed: {error}");
            (StatusCode::BAD_REQUEST, error)
        }
    }
}

fn acted(name: &str, action: &str, value: &str, key: &str) -> Result<String, String> {
    let limiter = [&SEARCH, &UPLOAD, &LOGIN].into_iter().find(|limiter| limiter.name() == name);
    let limiter = limiter.ok_or_else(|| format!("there is no limiter {name:?}"))?;
    let told = |error: &dyn std::error::Error| error.to_string();
    if action == "set" {
        let limits: Result<Vec<Limit>, _> = value.split(',').map(str::parse).collect();
        set_limits(name, &limits.map_err(|error| told(&error))?).map_err(|error| told(&error))?;
        return Ok("set".to_owned());
    }
    // One key, or one for each limit.
    let one = || key.parse::<Key>();
    let keys = || key.parse::<Keys>();
    match action {
        "block" => limiter.block(one()?, time(value)?).map_err(|error| told(&error)).map(|()| "blocked".to_owned()),
        "unblock" => limiter.unblock(one()?).map_err(|error| told(&error)).map(|()| "unblocked".to_owned()),
        "reset" => keys()?.reset(limiter).map(|()| "reset".to_owned()),
        "peek" => Ok(match keys()?.peek(limiter)? {
            Ok(left) => format!("{} left of {}", left.remaining(), left.limit()),
            Err(exceeded) => exceeded.to_string(),
        }),
        _ => Err(format!("there is no action {action:?}")),
    }
}

/// Refuses requests to other names than this machine's, and tells browsers what the page may do.
async fn guarded(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    if !matches!(name.map_or(host, |(name, _)| name), "127.0.0.1" | "localhost" | "[::1]") {
        return (StatusCode::MISDIRECTED_REQUEST, "this server is reached as localhost only").into_response();
    }
    let mut response = next.run(request).await;
    if let Ok(policy) = POLICY.parse() {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // Only used limiters are listed: this shows them from the start.
    for limiter in [&SEARCH, &UPLOAD, &LOGIN] {
        let _ = limiter.limits();
    }
    let page = get(|| async { Html(include_str!("dashboard.html")) });
    let script = get(|| async { ([(CONTENT_TYPE, "text/javascript")], include_str!("dashboard.js")) });
    let listener = tokio::net::TcpListener::bind(address(3000)).await?;
    // Requests to other addresses can be read in transit.
    let token = std::env::var("DASHBOARD_TOKEN").ok().filter(|token| !token.is_empty());
    let token = token.filter(|_| listener.local_addr().is_ok_and(|address| address.ip().is_loopback()));
    let router = Router::new()
        .route("/", page)
        .route("/dashboard.js", script)
        .route("/events", get(events))
        .route("/burst", post(burst))
        .route("/act", post(act))
        .with_state(token)
        .layer(middleware::from_fn(guarded));
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router).await
}
