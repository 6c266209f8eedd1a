//! The process-wide choice of HTTP answers. One test in its own binary, because the choice applies
//! to the whole process.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use ratelimit_runtime::{
    HttpAnswers, RateLimitExceeded, RateLimitFields, RateLimitHeadersLayer, rate_limit, set_http_answers, test_util,
};
use tower::ServiceExt;

#[rate_limit(count = 1, per = "60s")]
async fn handler() -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

#[rate_limit(count = 2, per = "60s", cost = 3 + u32::from(cfg!(any())))]
async fn never() -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

fn told(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let fields = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let mut told: Vec<_> = fields.filter(|(name, _)| name.contains("rate") || name.contains("retry")).collect();
    told.sort_unstable();
    told
}

#[tokio::test]
async fn the_choice_applies_to_denials_and_to_the_layer() {
    let router = Router::new().route("/", get(handler)).route("/never", get(never)).layer(RateLimitHeadersLayer::new());
    let ask = async |path: &str| router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let seven = [("ratelimit", "limit=1, remaining=0, reset=60"), ("ratelimit-policy", "1;w=60")];
    let six = [
        ("ratelimit-limit", "1"),
        ("ratelimit-policy", "1;w=60"),
        ("ratelimit-remaining", "0"),
        ("ratelimit-reset", "60"),
    ];
    let eleven = [("ratelimit", "\"1-per-60s\";r=0;t=60"), ("ratelimit-policy", "\"1-per-60s\";q=1;w=60")];
    for (form, fields) in
        [(RateLimitFields::Draft7, &seven[..]), (RateLimitFields::Draft6, &six), (RateLimitFields::Draft11, &eleven)]
    {
        set_http_answers(HttpAnswers::new().fields(form).never_fits_status(403).unwrap().retry_after_ms(true));
        let _clock = test_util::pause();
        let admitted = ask("/").await;
        assert_eq!((admitted.status(), &*told(admitted.headers())), (StatusCode::OK, fields));
        let denied = ask("/").await;
        let mut expected = fields.to_vec();
        expected.extend([("retry-after", "60"), ("retry-after-ms", "60000")]);
        assert_eq!((denied.status(), told(denied.headers())), (StatusCode::TOO_MANY_REQUESTS, expected));
        let never = ask("/never").await;
        assert_eq!(never.status(), StatusCode::FORBIDDEN);
        assert!(!never.headers().contains_key("retry-after") && !never.headers().contains_key("retry-after-ms"));
    }
    set_http_answers(HttpAnswers::default());
    let _clock = test_util::pause();
    assert_eq!(ask("/never").await.status(), StatusCode::UNPROCESSABLE_ENTITY);
}
