//! Axum handlers under the attribute.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::connect_info::MockConnectInfo;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Json, Router};
use ratelimit_runtime::{
    ClientIp, ClientIpConfig, RateLimitExceeded, RateLimitHeadersLayer, RateLimitLayer, rate_limit,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::failing::UNSURE;
use crate::server::serve;

#[derive(Clone)]
struct Greeting(&'static str);

#[rate_limit(count = 1, per = "60s", key = name, name = "secret-limiter")]
async fn extractors(
    State(greeting): State<Greeting>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Json<Value>, AppError> {
    Ok(Json(json!({ "says": greeting.0, "to": name, "agent": headers.contains_key("user-agent"), "body": body })))
}

/// An application's own error type.
enum AppError {
    Limited(RateLimitExceeded),
}

impl From<RateLimitExceeded> for AppError {
    fn from(exceeded: RateLimitExceeded) -> AppError {
        AppError::Limited(exceeded)
    }
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let AppError::Limited(exceeded) = self;
        exceeded.into_response()
    }
}

#[rate_limit(count = 1, per = "60s", or_else = |_| Err(StatusCode::TOO_MANY_REQUESTS))]
async fn status_code() -> Result<&'static str, StatusCode> {
    Ok("hello")
}

#[rate_limit(count = 1, per = "60s")]
async fn response() -> Response {
    "hello".into_response()
}

#[rate_limit(count = 1, per = "60s", key = client)]
async fn any_response(client: ClientIp, Query(query): Query<Vec<(String, String)>>) -> impl IntoResponse {
    (StatusCode::CREATED, format!("{client} {}", query.len()))
}

#[rate_limit(count = 1, per = "60s", key = client)]
async fn maybe_a_client(client: Option<ClientIp>) -> Result<String, Response> {
    Ok(format!("{:?}", client.map(|client| client.address())))
}

#[tokio::test]
async fn a_handler_with_extractors_and_an_error_of_its_own() {
    let site = serve(Router::new().route("/to/{name}", post(extractors)).with_state(Greeting("hello"))).await;
    let admitted = site.post("/to/private-ann", r#"{"a":1}"#).await;
    assert_eq!(admitted.status, 200, "{admitted:?}");
    let body: Value = serde_json::from_str(&admitted.body).unwrap();
    assert_eq!(body, json!({ "says": "hello", "to": "private-ann", "agent": false, "body": { "a": 1 } }));
    let denied = site.post("/to/private-ann", r#"{"a":1}"#).await;
    denied.assert_is_429("extractors");
    assert_eq!(site.post("/to/bob", "{}").await.status, 200);
    for secret in ["secret-limiter", "private-ann", "127.0.0.1", "extractors", "rl:"] {
        assert!(!denied.tells(secret), "{secret}: {denied:?}");
    }
}

#[tokio::test]
async fn a_handler_that_answers_by_or_else() {
    let site = serve(Router::new().route("/", get(status_code))).await;
    assert_eq!(site.statuses("/", 3).await, [200, 429, 429]);
}

#[tokio::test]
async fn a_handler_that_returns_a_response() {
    let site = serve(Router::new().route("/", get(response))).await;
    assert_eq!(site.get("/").await.body, "hello");
    site.get("/").await.assert_is_429("response");
}

#[tokio::test]
async fn a_handler_that_returns_any_response() {
    let site = serve(Router::new().route("/", get(any_response))).await;
    let admitted = site.get("/?a=1&b=2").await;
    assert_eq!((admitted.status, &*admitted.body), (201, "127.0.0.1 2"));
    let denied = site.get("/").await;
    denied.assert_is_429("any_response");
    assert!(!denied.tells("127.0.0.1"), "{denied:?}");
}

#[tokio::test]
async fn clients_behind_a_proxy_are_told_apart() {
    let config = ClientIpConfig::x_forwarded_for(["127.0.0.0/8"]).unwrap();
    let site = serve(Router::new().route("/", get(maybe_a_client)).layer(Extension(config))).await;
    let status = async |forwarded: &str| site.get_with("/", &[("x-forwarded-for", forwarded)]).await.status;
    assert_eq!(status("203.0.113.1").await, 200);
    assert_eq!(status("203.0.113.2").await, 200);
    // The client's own entries are further left, or in an earlier line.
    let lines = [("x-forwarded-for", "198.51.100.99"), ("x-forwarded-for", "203.0.113.1")];
    assert_eq!(site.get_with("/", &lines).await.status, 429);
    assert_eq!(status("198.51.100.99, 203.0.113.1").await, 429);
}

#[tokio::test]
async fn without_proxies_to_trust_a_header_changes_nothing() {
    #[rate_limit(count = 1, per = "60s", key = client)]
    async fn handler(client: ClientIp) -> Result<String, Response> {
        Ok(client.to_string())
    }

    let site = serve(Router::new().route("/", get(handler))).await;
    assert_eq!(site.get_with("/", &[("x-forwarded-for", "203.0.113.1")]).await.body, "127.0.0.1");
    for header in ["x-forwarded-for", "forwarded", "x-real-ip"] {
        assert_eq!(site.get_with("/", &[(header, "for=203.0.113.2")]).await.status, 429);
    }
}

#[tokio::test]
async fn a_client_whose_address_is_not_known_is_no_bypass() {
    #[rate_limit(count = 1, per = "60s", key = client)]
    async fn known(client: ClientIp) -> Result<String, Response> {
        Ok(client.to_string())
    }

    #[rate_limit(count = 1, per = "60s", key = client)]
    async fn unknown(client: Option<ClientIp>) -> Result<&'static str, Response> {
        Ok(if client.is_some() { "known" } else { "unknown" })
    }

    // Without connect info.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = crate::server::Site::at(listener.local_addr().unwrap());
    let router = Router::new().route("/known", get(known)).route("/unknown", get(unknown));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    assert_eq!(site.statuses("/known", 2).await, [500, 500]);
    assert_eq!(site.get("/unknown").await.body, "unknown");
    site.get("/unknown").await.assert_is_429("unknown");
}

#[tokio::test]
async fn a_test_without_a_server_says_who_calls() {
    let router =
        Router::new().route("/", get(any_response)).layer(MockConnectInfo(SocketAddr::from(([192, 0, 2, 9], 1))));
    let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
    assert_eq!(body, "192.0.2.9 0");
}

#[tokio::test]
async fn concurrent_requests_get_exactly_the_limit() {
    #[rate_limit(count = 10, per = "60s")]
    async fn handler() -> Result<&'static str, RateLimitExceeded> {
        Ok("hello")
    }

    let site = std::sync::Arc::new(serve(Router::new().route("/", get(handler))).await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let site = site.clone();
        tasks.spawn(async move { site.get("/").await.status });
    }
    let statuses = tasks.join_all().await;
    let count = |status| statuses.iter().filter(|&&is| is == status).count();
    assert_eq!((count(200), count(429)), (10, 40));
}

#[tokio::test]
async fn a_limit_that_cannot_be_decided_is_503() {
    #[rate_limit(limiter = UNSURE)]
    async fn handler() -> Result<&'static str, RateLimitExceeded> {
        Ok("hello")
    }

    let layered = get(async || "hello").layer(RateLimitLayer::unkeyed(&*UNSURE));
    let router = Router::new().route("/handler", get(handler)).route("/layer", layered);
    let site = serve(router.layer(RateLimitHeadersLayer::new().with_x_rate_limit())).await;
    site.get("/handler").await.assert_is_503();
    site.get("/layer").await.assert_is_503();
}

#[tokio::test]
async fn head_counts_and_options_only_with_a_handler_for_it() {
    #[rate_limit(count = 1, per = "60s")]
    async fn of_get() -> Result<&'static str, RateLimitExceeded> {
        Ok("hello")
    }

    #[rate_limit(count = 1, per = "60s")]
    async fn of_any() -> Result<&'static str, RateLimitExceeded> {
        Ok("hello")
    }

    let site = serve(Router::new().route("/get", get(of_get)).route("/any", any(of_any))).await;
    let status = async |method, path| site.request(method, path, &[]).await.status;
    assert_eq!((status("OPTIONS", "/get").await, status("HEAD", "/get").await), (405, 200));
    let denied = site.request("HEAD", "/get", &[]).await;
    assert_eq!((denied.status, &*denied.body), (429, ""));
    assert!(denied.header("retry-after").is_some() && denied.header("ratelimit").is_some(), "{denied:?}");
    assert_eq!((status("OPTIONS", "/any").await, status("GET", "/any").await), (200, 429));
}

mod requests_that_an_extractor_refuses {
    use super::*;
    use ratelimit_runtime::{Limit, RateLimiter, test_util};

    #[rate_limit(count = 1, per = "1h")]
    async fn limited(Json(numbers): Json<Vec<u32>>) -> Result<String, RateLimitExceeded> {
        Ok(numbers.len().to_string())
    }

    async fn post_to(router: &Router, body: &'static str) -> StatusCode {
        let request = Request::post("/").header("content-type", "application/json").body(Body::from(body)).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn take_no_permit_of_the_handlers() {
        let _clock = test_util::pause();
        let router = Router::new().route("/", post(limited));
        for _ in 0..3 {
            assert_eq!(post_to(&router, "[1,").await, StatusCode::BAD_REQUEST);
        }
        assert_eq!(post_to(&router, "[1]").await, StatusCode::OK);
        assert_eq!(post_to(&router, "[1,").await, StatusCode::BAD_REQUEST);
        assert_eq!(post_to(&router, "[1]").await, StatusCode::TOO_MANY_REQUESTS);
    }

    #[tokio::test]
    async fn take_a_permit_of_the_layers() {
        static ALL: RateLimiter = RateLimiter::new("before the extractors", &[Limit::per_hour(2)]);
        let _clock = test_util::pause();
        let router = Router::new().route("/", post(limited)).layer(RateLimitLayer::unkeyed(&ALL));
        assert_eq!(post_to(&router, "[1,").await, StatusCode::BAD_REQUEST);
        assert_eq!(post_to(&router, "[1]").await, StatusCode::OK);
        assert_eq!(post_to(&router, "[1,").await, StatusCode::TOO_MANY_REQUESTS);
    }
}
