//! Denied handlers of axum and actix-web answer 429, whatever their return type.

use std::time::{Duration, SystemTime};

use actix_web::http::header::HeaderMap as ActixHeaders;
use actix_web::{App, HttpResponse, Responder};
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use ratelimit_runtime::{RateLimitExceeded, rate_limit, test_util};
use tower::ServiceExt;

#[rate_limit(count = 1, per = "60s")]
async fn anything() -> impl IntoResponse {
    "hello"
}

#[rate_limit(count = 1, per = "60s")]
async fn status_and_text(body: String) -> impl IntoResponse {
    if body.is_empty() {
        return (StatusCode::OK, body);
    }
    (StatusCode::CREATED, body)
}

#[rate_limit(count = 1, per = "60s")]
async fn response() -> Response {
    "hello".into_response()
}

#[rate_limit(count = 1, per = "60s")]
async fn result() -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

#[rate_limit(count = 1, per = "60s")]
async fn result_of_response() -> Result<&'static str, Response> {
    Ok("hello")
}

#[rate_limit(count = 1, per = "60s")]
fn blocking() -> impl IntoResponse {
    "hello"
}

#[rate_limit(count = 1, per = "60s", deduct_when = |_| true)]
async fn with_an_outcome() -> impl IntoResponse {
    "hello"
}

async fn calls_blocking() -> impl IntoResponse {
    blocking()
}

#[tokio::test]
async fn axum_handlers_answer_429() {
    let app: Router = Router::new()
        .route("/anything", routing::get(anything))
        .route("/status_and_text", routing::get(status_and_text))
        .route("/response", routing::get(response))
        .route("/result", routing::get(result))
        .route("/result_of_response", routing::get(result_of_response))
        .route("/blocking", routing::get(calls_blocking))
        .route("/with_an_outcome", routing::get(with_an_outcome));
    let _clock = test_util::pause();
    for path in
        ["anything", "status_and_text", "response", "result", "result_of_response", "blocking", "with_an_outcome"]
    {
        let call = || {
            let request = Request::get(format!("/{path}")).body(Body::empty()).unwrap();
            app.clone().oneshot(request)
        };
        assert_eq!(call().await.unwrap().status(), StatusCode::OK, "{path}");
        let denied = call().await.unwrap();
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS, "{path}");
        let header = |name: &str| denied.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("retry-after").as_deref(), Some("60"), "{path}");
        assert_eq!(header("ratelimit-policy").as_deref(), Some(r#""1-per-60s";q=1;w=60"#), "{path}");
        assert_eq!(header("ratelimit").as_deref(), Some(r#""1-per-60s";r=0;t=60"#), "{path}");
        assert_eq!(header("content-type").as_deref(), Some("application/problem+json"), "{path}");
        let body = to_bytes(denied.into_body(), 10_000).await.unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
        assert_eq!(problem["violated-policies"][0], "1-per-60s");
    }
}

#[rate_limit(count = 1, calendar = "day", zone = "Europe/Berlin", algorithm = fixed_window)]
async fn daily() -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

#[tokio::test]
async fn a_quota_by_the_calendar_tells_its_reset_and_no_length() {
    let app: Router = Router::new().route("/", routing::get(daily));
    // Midnight of the day on which clocks in Berlin skip an hour.
    let _clock = test_util::pause_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_774_738_800));
    let call = || app.clone().oneshot(Request::new(Body::empty()));
    assert_eq!(call().await.unwrap().status(), StatusCode::OK);
    let denied = call().await.unwrap();
    let header = |name: &str| denied.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("retry-after"), Some("82800"));
    assert_eq!(header("ratelimit-policy"), Some(r#""1-per-calendar-day";q=1"#));
    assert_eq!(header("ratelimit"), Some(r#""1-per-calendar-day";r=0;t=82800"#));
}

#[actix_web::get("/responder")]
#[rate_limit(count = 1, per = "60s")]
async fn responder() -> impl Responder {
    "hello"
}

#[rate_limit(count = 1, per = "60s")]
#[actix_web::get("/above")]
async fn above() -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[actix_web::get("/error")]
#[rate_limit(count = 1, per = "60s")]
async fn error() -> Result<HttpResponse, actix_web::Error> {
    Ok(HttpResponse::Ok().finish())
}

#[actix_web::test]
async fn actix_handlers_answer_429() {
    let app = actix_web::test::init_service(App::new().service(responder).service(above).service(error)).await;
    let _clock = test_util::pause();
    for path in ["responder", "above", "error"] {
        let request = || actix_web::test::TestRequest::get().uri(&format!("/{path}")).to_request();
        assert_eq!(actix_web::test::call_service(&app, request()).await.status().as_u16(), 200, "{path}");
        let denied = actix_web::test::call_service(&app, request()).await;
        assert_eq!(denied.status().as_u16(), 429, "{path}");
        let headers: &ActixHeaders = denied.headers();
        assert_eq!(headers.get("retry-after").unwrap(), "60");
        assert_eq!(headers.get("ratelimit").unwrap(), r#""1-per-60s";r=0;t=60"#);
    }
}
