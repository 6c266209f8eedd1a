//! The `RateLimit` headers of successful responses.

use std::time::Duration;

use actix_web::dev::Service;
use actix_web::{App, HttpResponse, web};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ratelimit_runtime::{
    Configuration, Limit, RateLimitExceeded, RateLimitHeaders, RateLimitHeadersLayer, RateLimitLayer, RateLimiter,
    RateLimiterBuilder, rate_limit,
};
use ratelimit_tests::Shelf;
use tower::{Layer, ServiceExt};

use crate::server::{Answer, Site, serve, serve_actix};

/// `r` and `t` in a response, for this policy.
fn left(answer: &Answer, policy: &str) -> (u32, u32) {
    let field = answer.header("ratelimit").unwrap_or_else(|| panic!("no RateLimit: {answer:?}"));
    let numbers = field.strip_prefix(&*format!("\"{policy}\";r=")).unwrap_or_else(|| panic!("{policy}: {field}"));
    let (remaining, reset) = numbers.split_once(";t=").unwrap();
    (remaining.parse().unwrap(), reset.parse().unwrap())
}

#[rate_limit(count = 3, per = "60s")]
async fn three() -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

#[tokio::test]
async fn successes_tell_policy_and_permits_left() {
    let site = serve(Router::new().route("/", get(three)).layer(RateLimitHeadersLayer::new())).await;
    for expected in [2, 1, 0] {
        let answer = site.get("/").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), Some(r#""3-per-60s";q=3;w=60"#));
        let (remaining, reset) = left(&answer, "3-per-60s");
        assert_eq!(remaining, expected);
        assert!((50..=60).contains(&reset), "{reset}");
        assert_eq!(answer.header("x-ratelimit-limit"), None);
        assert_eq!(answer.header("retry-after"), None);
    }
    let denied = site.get("/").await;
    assert_eq!((denied.status, left(&denied, "3-per-60s").0), (429, 0));
    assert_eq!(denied.headers.get_all("ratelimit").iter().count(), 1);
}

#[rate_limit(count = 4, per = "60s", deduct_when = Result::is_err)]
async fn failures_count(fails: bool) -> Result<&'static str, RateLimitExceeded> {
    if fails { fail() } else { Ok("hello") }
}

/// An arbitrary error.
fn fail() -> Result<&'static str, RateLimitExceeded> {
    static NONE: RateLimiter = RateLimiter::new("none at all", &[Limit::new(1, Duration::from_millis(1))]);
    NONE.check((), 2).map(|_| "never")
}

#[tokio::test]
async fn refunded_permits_count_as_left() {
    let handler = async || failures_count(false).await;
    let router = Router::new().route("/", get(handler)).layer(RateLimitHeadersLayer::new());
    let failing = async || {
        let _ = failures_count(true).await;
        "failed"
    };
    let site = serve(router.route("/failing", get(failing).layer(RateLimitHeadersLayer::new()))).await;
    for _ in 0..3 {
        assert_eq!(left(&site.get("/").await, "4-per-60s"), (4, 0));
    }
    assert_eq!(left(&site.get("/failing").await, "4-per-60s").0, 3);
    assert_eq!(left(&site.get("/").await, "4-per-60s").0, 3);
}

#[rate_limit(count = 7, per = "60s")]
fn seven() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, per = "1h")]
async fn five() -> Result<(), RateLimitExceeded> {
    tokio::task::yield_now().await;
    Ok(())
}

#[rate_limit(count = 1, per = "10ms")]
fn one_in_a_moment() -> Option<()> {
    Some(())
}

#[tokio::test]
async fn the_tightest_of_several_decisions_is_reported() {
    async fn handler() -> Result<&'static str, RateLimitExceeded> {
        seven()?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        five().await?;
        tokio::task::yield_now().await;
        seven()?;
        one_in_a_moment();
        Ok("hello")
    }

    let site = serve(Router::new().route("/", get(handler)).layer(RateLimitHeadersLayer::new())).await;
    assert_eq!(left(&site.get("/").await, "5-per-3600s").0, 4);
    // Seven less two per request is now tighter: 3 left. Five has 3 left too, but takes longer to
    // become idle.
    assert_eq!(left(&site.get("/").await, "5-per-3600s").0, 3);
    assert_eq!(left(&site.get("/").await, "7-per-60s").0, 1);
    assert_eq!(site.get("/").await.status, 429);
}

#[tokio::test]
async fn concurrent_requests_see_only_their_own_decisions() {
    #[rate_limit(count = 1_000, per = "60s", key = name)]
    async fn of(name: String) -> Result<(), RateLimitExceeded> {
        Ok(())
    }

    async fn handler(axum::extract::Path((name, times)): axum::extract::Path<(String, u32)>) -> Response {
        for _ in 0..times {
            of(name.clone()).await.unwrap();
            tokio::task::yield_now().await;
        }
        "hello".into_response()
    }

    let router = Router::new().route("/{name}/{times}", get(handler)).layer(RateLimitHeadersLayer::new());
    let site = std::sync::Arc::new(serve(router).await);
    let mut tasks = tokio::task::JoinSet::new();
    for times in 0..40_u32 {
        let site = site.clone();
        tasks.spawn(async move { (times, site.get(&format!("/{times}/{times}")).await) });
    }
    for (times, answer) in tasks.join_all().await {
        if times == 0 {
            assert_eq!(answer.header("ratelimit"), None);
        } else {
            assert_eq!(left(&answer, "1000-per-60s").0, 1_000 - times);
        }
    }
}

async fn own_headers() -> Result<Response, RateLimitExceeded> {
    seven_more()?;
    let mut response = "hello".into_response();
    response.headers_mut().insert("ratelimit", HeaderValue::from_static(r#""mine";r=1"#));
    Ok(response)
}

#[rate_limit(count = 7, per = "60s")]
fn seven_more() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[tokio::test]
async fn a_handlers_own_headers_are_kept() {
    let site = serve(Router::new().route("/", get(own_headers)).layer(RateLimitHeadersLayer::new())).await;
    let answer = site.get("/").await;
    assert_eq!(answer.header("ratelimit"), Some(r#""mine";r=1"#));
    assert_eq!(answer.header("ratelimit-policy"), None);
}

#[tokio::test]
async fn old_headers_of_a_handler_are_kept_too() {
    async fn handler() -> Result<Response, RateLimitExceeded> {
        seven_more()?;
        Ok(([("x-ratelimit-remaining", "mine")], "hello").into_response())
    }

    let headers = RateLimitHeadersLayer::new().with_x_rate_limit();
    let answer = serve(Router::new().route("/", get(handler)).layer(headers)).await.get("/").await;
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("mine"));
    assert_eq!(answer.header("x-ratelimit-limit"), None);
    assert_eq!(answer.header("ratelimit-policy"), Some(r#""7-per-60s";q=7;w=60"#));
}

#[tokio::test]
async fn decisions_before_the_future_are_reported() {
    #[rate_limit(count = 3, per = "60s")]
    fn decide() -> Option<()> {
        Some(())
    }

    let service = tower::service_fn(|(): ()| {
        decide();
        std::future::ready(Ok::<_, std::convert::Infallible>("hello".into_response()))
    });
    let response = RateLimitHeadersLayer::new().layer(service).oneshot(()).await.unwrap();
    assert_eq!(response.headers()["ratelimit-policy"], r#""3-per-60s";q=3;w=60"#);
}

#[tokio::test]
async fn a_handler_without_a_limit_tells_nothing() {
    let site = serve(Router::new().route("/", get(async || "hello")).layer(RateLimitHeadersLayer::new())).await;
    assert_eq!(site.get("/").await.header("ratelimit"), None);
}

#[rate_limit(count = 1, per = "60s")]
async fn one() -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

async fn assert_trio(site: &Site) {
    for (status, remaining) in [(200, "0"), (429, "0")] {
        let answer = site.get("/").await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("x-ratelimit-limit"), Some("1"));
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(remaining));
        let reset: u32 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
        assert!((50..=60).contains(&reset), "{reset}");
        assert_eq!(left(&answer, "1-per-60s").0, 0);
    }
}

#[tokio::test]
async fn x_rate_limit_headers_for_older_clients() {
    let layer = RateLimitHeadersLayer::new().with_x_rate_limit();
    assert_trio(&serve(Router::new().route("/", get(one)).layer(layer)).await).await;
}

#[tokio::test]
async fn x_rate_limit_reset_as_an_epoch() {
    #[rate_limit(count = 1, per = "60s")]
    async fn handler() -> Result<&'static str, RateLimitExceeded> {
        Ok("hello")
    }

    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let headers = RateLimitHeadersLayer::new().with_x_rate_limit_epoch();
    let before = now();
    let site = serve(Router::new().route("/", get(handler)).layer(headers)).await;
    for status in [200, 429] {
        let answer = site.get("/").await;
        assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (status, Some("0")));
        let reset: u64 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
        assert!((before + 60..=now() + 61).contains(&reset), "{before} {reset}");
    }
}

#[rate_limit(count = 1, per = "200ms", key = id)]
async fn below_a_second(
    axum::extract::Path(id): axum::extract::Path<String>,
) -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

#[tokio::test]
async fn an_unreportable_denial_reports_no_other_limit() {
    static ALL: RateLimiter = RateLimiter::new("headers-below-a-second", &[Limit::new(1_000, Duration::from_secs(1))]);
    let limited = Router::new()
        .route("/handler/{id}", get(below_a_second))
        .route("/failing", get(failing))
        .layer(RateLimitLayer::unkeyed(&ALL));
    let site = serve(limited.layer(RateLimitHeadersLayer::new().with_x_rate_limit())).await;
    let admitted = site.get("/handler/a").await;
    assert_eq!((admitted.status, admitted.header("ratelimit-policy")), (200, Some(r#""1000-per-1s";q=1000;w=1"#)));
    // The window may pass between requests in this process: tries as often as needed.
    let mut denied = site.get("/handler/a").await;
    while denied.status == 200 {
        denied = site.get("/handler/a").await;
    }
    let failed = site.get("/failing").await;
    assert_eq!(denied.header("retry-after"), Some("1"));
    assert_untold(&denied, 429);
    assert_untold(&failed, 503);
}

#[rate_limit(limiter = crate::failing::UNSURE)]
async fn failing() -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

#[tokio::test]
async fn the_seconds_left_are_rounded_up() {
    #[rate_limit(count = 5, per = "60900ms")]
    async fn handler() -> Result<&'static str, RateLimitExceeded> {
        Ok("hello")
    }

    let headers = RateLimitHeadersLayer::new().with_x_rate_limit();
    let site = serve(Router::new().route("/", get(handler)).layer(headers)).await;
    let mut told = Vec::new();
    for _ in 0..5 {
        let answer = site.get("/").await;
        let (_, reset) = left(&answer, "5-per-60900000us");
        assert_eq!(answer.header("x-ratelimit-reset"), Some(&*reset.to_string()));
        told.push(reset);
    }
    // 60.9 s, less the time of the answer.
    assert!(told.contains(&61) && told.iter().all(|&reset| reset <= 61), "{told:?}");
}

#[tokio::test]
async fn a_limit_of_the_whole_router_is_reported_too() {
    static ALL: RateLimiter = RateLimiter::new("headers-of-all", &[Limit::new(2, Duration::from_secs(60))]);
    let router = Router::new().route("/", get(async || "hello")).layer(RateLimitLayer::unkeyed(&ALL));
    let site = serve(router.layer(RateLimitHeadersLayer::new())).await;
    assert_eq!(left(&site.get("/").await, "2-per-60s").0, 1);
}

#[tokio::test]
async fn what_a_response_gives_back_counts_as_left() {
    fn limiter(name: &str) -> RateLimiterBuilder {
        RateLimiter::builder(name).limit(Limit::new(10, Duration::from_secs(60)))
    }

    let memory = limiter("headers-settled").build().unwrap();
    let store = limiter("headers-settled-in-a-store").backend(Shelf::default()).build().unwrap();
    let router =
        [("/memory", &memory), ("/store", &store)].into_iter().fold(Router::new(), |router, (path, limiter)| {
            let settles = RateLimitLayer::unkeyed(limiter).cost(|_| 5).settle(|_: &Response| 2);
            router.route(path, get(async || "hello").layer(settles))
        });
    let refunds = async |State(limiter): State<RateLimiter>| {
        let decision = limiter.check_async((), 5).await?;
        limiter.refund_async(decision).await.unwrap();
        Ok::<_, RateLimitExceeded>("hello")
    };
    let router = router.route("/refunded", get(refunds)).with_state(memory);
    let site = serve(router.layer(RateLimitHeadersLayer::new())).await;
    for (path, remaining) in [("/memory", 8), ("/memory", 6), ("/store", 8), ("/store", 6), ("/refunded", 6)] {
        assert_eq!(left(&site.get(path).await, "10-per-60s").0, remaining, "{path}");
    }
}

#[tokio::test]
async fn a_limit_that_does_not_apply_is_not_reported() {
    let limits = [Limit::new(2, Duration::from_secs(60)), Limit::new(5, Duration::from_secs(3_600))];
    let limiter = |name: &str| RateLimiter::builder(name).limit(limits[0]).limit(limits[1]).build().unwrap();
    let (partly, none) = (limiter("headers-partly"), limiter("headers-none"));
    let off = r#"{ count = 2, per = "60s", enabled = false }"#;
    let tried = r#"{ count = 5, per = "1h", dry_run = true }"#;
    let document = format!("headers-partly = [{off}, \"5/1h\"]\nheaders-none = [{off}, {tried}]");
    Configuration::from_toml(&document).unwrap().apply();
    let router = [("/partly", &partly), ("/none", &none)].into_iter().fold(Router::new(), |router, (path, limiter)| {
        router.route(path, get(async || "hello").layer(RateLimitLayer::new(limiter, |_: &Request| "key")))
    });
    let site = serve(router.layer(RateLimitHeadersLayer::new().with_x_rate_limit())).await;
    assert_eq!(left(&site.get("/partly").await, "5-per-3600s").0, 4);
    assert_untold(&site.get("/none").await, 200);
    // A blocked key is denied by no limit.
    none.block("key", Duration::from_secs(60)).unwrap();
    partly.block("key", Duration::from_secs(60)).unwrap();
    let blocked = site.get("/none").await;
    assert_untold(&blocked, 429);
    assert!(blocked.tells("blocked") && blocked.body.contains(r#""violated-policies":[]"#), "{blocked:?}");
    assert!(!site.get("/partly").await.body.contains("4294967295"));
    Configuration::from_toml("").unwrap().apply();
}

#[tokio::test]
async fn a_dry_run_is_not_reported() {
    #[rate_limit(count = 2, per = "60s", dry_run)]
    async fn handler() -> Result<&'static str, RateLimitExceeded> {
        Ok("hello")
    }

    let router = Router::new().route("/", get(handler));
    let site = serve(router.layer(RateLimitHeadersLayer::new().with_x_rate_limit())).await;
    for _ in 0..3 {
        assert_untold(&site.get("/").await, 200);
    }
}

fn assert_untold(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    for name in ["ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"] {
        assert_eq!(answer.header(name), None, "{answer:?}");
    }
}

#[rate_limit(count = 3, per = "60s")]
fn three_blocking() -> Result<(), RateLimitExceeded> {
    Ok(())
}

async fn calls_blocking() -> Result<HttpResponse, actix_web::Error> {
    three_blocking()?;
    Ok(HttpResponse::Ok().body("hello"))
}

#[actix_web::test]
async fn actix_successes_tell_policy_and_permits_left() {
    let site = serve_actix!(App::new().wrap(RateLimitHeaders::new()).route("/", web::get().to(calls_blocking)));
    for expected in [2, 1, 0] {
        let answer = site.get("/").await;
        assert_eq!((answer.status, left(&answer, "3-per-60s").0), (200, expected));
        assert_eq!(answer.header("ratelimit-policy"), Some(r#""3-per-60s";q=3;w=60"#));
    }
    let denied = site.get("/").await;
    assert_eq!((denied.status, left(&denied, "3-per-60s").0), (429, 0));
}

#[actix_web::test]
async fn actix_decisions_before_the_future_are_reported() {
    #[rate_limit(count = 3, per = "60s")]
    fn decide() -> Option<()> {
        Some(())
    }

    let site = serve_actix!(
        App::new()
            .wrap_fn(|request, service| {
                decide();
                service.call(request)
            })
            .wrap(RateLimitHeaders::new())
            .route("/", web::get().to(async || "hello"))
    );
    assert_eq!(left(&site.get("/").await, "3-per-60s").0, 2);
}

#[actix_web::test]
async fn actix_x_rate_limit_headers_for_older_clients() {
    #[rate_limit(count = 1, per = "60s")]
    async fn one() -> Result<&'static str, actix_web::Error> {
        Ok("hello")
    }

    let headers = || RateLimitHeaders::new().with_x_rate_limit();
    assert_trio(&serve_actix!(App::new().wrap(headers()).route("/", web::get().to(one)))).await;
}
