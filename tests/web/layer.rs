//! `RateLimitLayer` on whole routers and services.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{AppendHeaders, Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use ratelimit_runtime::middleware::IntoDenialResponse;
use ratelimit_runtime::{
    ClientIp, ClientIpConfig, Limit, RateLimitExceeded, RateLimitHeadersLayer, RateLimitLayer, RateLimiter, limiters,
};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::server::{Answer, serve, serve_at};

const MINUTE: Duration = Duration::from_secs(60);

fn limiter(name: &str, count: u32) -> RateLimiter {
    RateLimiter::builder(name).limit(Limit::new(count, MINUTE)).build().unwrap()
}

#[tokio::test]
async fn a_whole_router_is_limited_by_key() {
    static API: RateLimiter = RateLimiter::new("layer-of-a-router", &[Limit::new(1, MINUTE)]);
    let by_token = RateLimitLayer::new(&API, |request: &Request| {
        request.headers().get("authorization").map(|token| token.as_bytes().to_vec())
    });
    let routes = Router::new().route("/a", get(async || "a")).route("/b", get(async || "b"));
    let site = serve(routes.layer(by_token)).await;
    let token = |token| [("authorization", token)];
    assert_eq!(site.get_with("/a", &token("private-ann")).await.body, "a");
    let denied = site.get_with("/b", &token("private-ann")).await;
    denied.assert_is_429("router");
    assert!(!denied.tells("private-ann") && !denied.tells("layer-of-a-router"), "{denied:?}");
    assert_eq!(site.get_with("/b", &token("bob")).await.body, "b");
    // Requests without a token share a bucket: leaving it out is no bypass.
    assert_eq!(site.statuses("/a", 2).await, [200, 429]);
    // One limiter: its other callers are limited too.
    assert!(API.check(Some(b"bob".to_vec()), 1).is_err());
}

#[tokio::test]
async fn a_router_is_limited_by_the_address_of_its_clients() {
    let config = ClientIpConfig::x_forwarded_for(["127.0.0.1"]).unwrap();
    let layer =
        RateLimitLayer::new(limiter("layer-by-address", 1), move |request: &Request| config.client_of(request).ok());
    let site = serve(Router::new().route("/", get(async || "hello")).layer(layer)).await;
    let status = async |from: &str| site.get_with("/", &[("x-forwarded-for", from)]).await.status;
    assert_eq!(status("203.0.113.1").await, 200);
    assert_eq!(status("203.0.113.2").await, 200);
    assert_eq!(status("203.0.113.3, 203.0.113.1").await, 429);
}

#[tokio::test]
async fn the_extractors_configuration_serves_the_layer_too() {
    let layer = RateLimitLayer::new(limiter("layer-by-extension", 1), |request: &Request| ClientIp::of(request).ok());
    let config = axum::Extension(ClientIpConfig::x_forwarded_for(["127.0.0.1"]).unwrap());
    let site = serve(Router::new().route("/", get(async || "hello")).layer(layer).layer(config)).await;
    for (from, status) in [("203.0.113.1", 200), ("203.0.113.2", 200), ("203.0.113.1", 429)] {
        assert_eq!(site.get_with("/", &[("x-forwarded-for", from)]).await.status, status);
    }
}

#[tokio::test]
async fn requests_may_cost_more_or_be_exempt() {
    let layer = RateLimitLayer::unkeyed(limiter("layer-with-costs", 5))
        .cost(|request: &Request| if request.uri().path() == "/big" { 4 } else { 1 })
        .exempt_when(|request| request.uri().path() == "/health");
    let routes = Router::new().route("/{*path}", get(async || "hello"));
    let site = serve(routes.layer(layer)).await;
    assert_eq!(site.statuses("/health", 9).await, [200; 9]);
    assert_eq!(site.statuses("/big", 2).await, [200, 429]);
    assert_eq!(site.statuses("/small", 2).await, [200, 429]);
}

#[tokio::test]
async fn a_denied_request_gets_the_response_of_ones_own() {
    let layer = RateLimitLayer::new(limiter("layer-own-response", 1), |_: &Request| "all")
        .deny_with(|exceeded| (StatusCode::SERVICE_UNAVAILABLE, format!("{:?}", exceeded.kind())).into_response());
    let site = serve(Router::new().route("/", get(async || "hello")).layer(layer)).await;
    assert_eq!(site.get("/").await.status, 200);
    let denied = site.get("/").await;
    assert_eq!((denied.status, &*denied.body), (503, "Limited"));
}

#[tokio::test]
async fn a_response_of_ones_own_keeps_the_fields_of_the_denial() {
    let layer = RateLimitLayer::unkeyed(limiter("layer-own-body", 1)).deny_with(|exceeded| {
        let status = StatusCode::from_u16(exceeded.http_status()).unwrap();
        (status, AppendHeaders(exceeded.http_headers()), Json(["slow down"]))
    });
    let site = serve(Router::new().route("/", get(async || "hello")).layer(layer)).await;
    assert_eq!(site.get("/").await.status, 200);
    let denied = site.get("/").await;
    assert_eq!((denied.status, &*denied.body), (429, r#"["slow down"]"#));
    for name in ["retry-after", "cache-control", "ratelimit", "ratelimit-policy"] {
        assert!(denied.headers.contains_key(name), "{name}");
    }
    assert_eq!(denied.headers.get_all("content-type").iter().collect::<Vec<_>>(), ["application/json"]);
}

/// What a closure of `deny_with` may return to axum.
#[tokio::test]
async fn a_denied_request_gets_whatever_is_a_response_of_axum() {
    async fn denied<T: IntoDenialResponse<Response> + 'static>(name: &'static str, response: fn() -> T) -> Answer {
        let layer = RateLimitLayer::<Request, _>::unkeyed(limiter(name, 1)).deny_with(move |_| response());
        let site = serve(Router::new().route("/", get(async || "hello")).layer(layer)).await;
        assert_eq!(site.get("/").await.status, 200);
        site.get("/").await
    }
    assert_eq!(denied("layer-status", || StatusCode::CONFLICT).await.status, 409);
    assert_eq!(denied("layer-text", || "no".to_owned()).await.body, "no");
    assert_eq!(denied("layer-html", || Html("<p>no</p>")).await.body, "<p>no</p>");
    let pair = denied("layer-pair", || ([("x-why", "limit")], "no")).await;
    assert_eq!((pair.status, pair.headers["x-why"].as_bytes()), (200, &b"limit"[..]));
    let result = denied("layer-result", || Err::<&str, _>((StatusCode::IM_A_TEAPOT, "no"))).await;
    assert_eq!(result.status, 418);
}

/// A service whose requests and responses are numbers.
fn echo() -> impl Service<u32, Response = u32, Error = Infallible, Future = Ready<Result<u32, Infallible>>> + Clone {
    service_fn(|number: u32| ready(Ok(number)))
}

#[tokio::test]
async fn a_denied_request_fails_if_the_response_cannot_express_it() {
    let layer = RateLimitLayer::new(limiter("layer-error", 1), |number: &u32| *number % 2).error_on_denied();
    let service = layer.layer(echo());
    assert_eq!(service.clone().oneshot(2).await.unwrap(), 2);
    assert_eq!(service.clone().oneshot(3).await.unwrap(), 3);
    let error = service.oneshot(4).await.unwrap_err();
    assert_eq!(error.downcast::<RateLimitExceeded>().unwrap().limiter(), "layer-error");
}

#[tokio::test]
async fn all_services_and_clones_share_one_limiter() {
    let layer = RateLimitLayer::unkeyed(limiter("layer-shared", 4)).error_on_denied();
    let first = layer.layer(echo());
    let services = [first.clone(), first, layer.clone().layer(echo()), layer.layer(echo())];
    for service in services.clone() {
        assert!(service.oneshot(1).await.is_ok());
    }
    for service in services {
        assert!(service.oneshot(1).await.is_err());
    }
}

#[tokio::test]
async fn a_request_is_decided_when_its_future_is_polled() {
    let limiter = limiter("layer-polled", 1);
    let mut service = RateLimitLayer::unkeyed(&limiter).error_on_denied().layer(echo());
    let unpolled = service.ready().await.unwrap().call(1);
    drop(unpolled);
    assert!(limiter.check((), 1).is_ok());
}

/// Panics if it is called before it is ready. A clone is not ready.
struct Strict {
    is_ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Strict {
        Strict { is_ready: false, calls: self.calls.clone() }
    }
}

impl Service<u32> for Strict {
    type Response = u32;
    type Error = Infallible;
    type Future = Ready<Result<u32, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u32) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without having been ready");
        self.calls.fetch_add(1, Ordering::Relaxed);
        ready(Ok(request))
    }
}

#[tokio::test]
async fn the_ready_service_is_the_one_called() {
    let calls = Arc::new(AtomicUsize::new(0));
    let strict = Strict { is_ready: false, calls: calls.clone() };
    let mut service = RateLimitLayer::unkeyed(limiter("layer-ready", 3)).error_on_denied().layer(strict);
    let futures: Vec<_> = {
        let mut futures = Vec::new();
        for number in 0..5 {
            futures.push(service.ready().await.unwrap().call(number));
        }
        futures
    };
    let mut admitted = 0;
    for future in futures {
        admitted += usize::from(future.await.is_ok());
    }
    assert_eq!((admitted, calls.load(Ordering::Relaxed)), (3, 3));
}

#[tokio::test]
async fn a_denied_request_gives_its_readiness_back() {
    let layer = RateLimitLayer::unkeyed(limiter("layer-readiness", 1)).error_on_denied();
    let mut service = ServiceBuilder::new().layer(layer).layer(ConcurrencyLimitLayer::new(1)).service(echo());
    for number in 0..3 {
        // Hangs if a denied request keeps the only permit.
        let ready = tokio::time::timeout(Duration::from_secs(10), service.ready()).await.unwrap().unwrap();
        assert_eq!(ready.call(number).await.is_ok(), number == 0);
    }
}

#[tokio::test]
async fn an_error_of_the_service_within_is_passed_on() {
    let failing = service_fn(|_: u32| ready(Err::<u32, _>(std::io::Error::other("down"))));
    let service = RateLimitLayer::unkeyed(limiter("layer-inner-error", 9)).error_on_denied().layer(failing);
    assert_eq!(service.oneshot(1).await.unwrap_err().to_string(), "down");
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_are_sent_in_order_each_when_it_is_due() {
    let limiter = RateLimiter::builder("layer-wait").limit(Limit::new(1, Duration::from_secs(10))).build().unwrap();
    let layer = RateLimitLayer::unkeyed(limiter).wait().error_on_denied();
    let start = tokio::time::Instant::now();
    let service = layer.layer(service_fn(move |number: u32| ready(Ok::<_, Infallible>((number, start.elapsed())))));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4 {
        tasks.spawn(service.clone().oneshot(number));
        tokio::task::yield_now().await;
    }
    let mut sent: Vec<_> = tasks.join_all().await.into_iter().map(Result::unwrap).collect();
    sent.sort_unstable();
    for (number, at) in sent {
        assert_eq!(u64::from(number) * 10, at.as_secs(), "{number} at {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_would_wait_too_long_is_denied_at_once() {
    let layer = RateLimitLayer::unkeyed(limiter("layer-at-most", 1)).wait_at_most(Duration::from_secs(59));
    let service = layer.error_on_denied().layer(echo());
    assert!(service.clone().oneshot(1).await.is_ok());
    assert!(service.clone().oneshot(2).await.is_err());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(service.oneshot(3).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_request_given_up_while_it_waits_gives_its_permit_back() {
    let limiter = limiter("layer-cancelled", 1);
    let was_called = Arc::new(AtomicBool::new(false));
    let seen = was_called.clone();
    let service = RateLimitLayer::unkeyed(&limiter).wait().error_on_denied().layer(service_fn(move |number: u32| {
        seen.store(true, Ordering::Relaxed);
        ready(Ok::<_, Infallible>(number))
    }));
    limiter.check_async((), 1).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_secs(30), service.clone().oneshot(1)).await;
    assert!(given_up.is_err() && !was_called.load(Ordering::Relaxed));
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(limiter.check_async((), 1).await.is_ok(), "the booking was kept");
}

#[tokio::test]
async fn clients_that_hang_up_delay_no_later_request() {
    const CLIENTS: usize = 60;
    let limiter = limiter("layer-hang-up", 1);
    let listed = || limiters().into_iter().find(|listed| listed.name == "layer-hang-up").unwrap();
    let layer = RateLimitLayer::unkeyed(&limiter).wait();
    let address = serve_at(Router::new().route("/", get(async || "hello")).layer(layer)).await;
    limiter.check_async((), 1).await.unwrap();
    let mut clients = Vec::new();
    for number in 1..=CLIENTS {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        clients.push(client);
        until(|| listed().waiting == number).await;
    }
    assert!(limiter.peek_async((), 1).await.unwrap_err().retry_after().unwrap() > 60 * MINUTE);
    drop(clients);
    until(|| listed().waiting == 0).await;
    assert_eq!(listed().abandoned, CLIENTS as u64);
    assert!(limiter.peek_async((), 1).await.unwrap_err().retry_after().unwrap() <= MINUTE, "one waits in vain");
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not happen");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_client_of_reqwest_never_exceeds_the_limit() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let site_router = Router::new().route(
        "/",
        get(move || {
            count.fetch_add(1, Ordering::Relaxed);
            ready("hello")
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, site_router).await.unwrap() });

    let limit = Limit::new(5, Duration::from_millis(500));
    let limiter = RateLimiter::builder("layer-reqwest").limit(limit).build().unwrap();
    let by_host =
        RateLimitLayer::new(limiter, |request: &reqwest::Request| request.url().host_str().map(str::to_owned));
    let client = ServiceBuilder::new()
        .layer(by_host.wait().error_on_denied())
        .service(reqwest::Client::builder().no_proxy().build().unwrap());
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let request = reqwest::Request::new(reqwest::Method::GET, url.parse().unwrap());
        tasks.spawn(client.clone().oneshot(request));
    }
    let answers = tasks.join_all().await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|response| response.status().is_success())));
    assert_eq!(seen.load(Ordering::Relaxed), 12);
    // Five at once, five after half a second, two after a second.
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_response_pauses_the_key_of_its_request() {
    let limiter = limiter("layer-pauses", 100);
    let layer = RateLimitLayer::new(&limiter, |request: &Request| request.uri().path().to_owned()).pause_when(
        |response: &Response| {
            let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
            Some(Duration::from_secs(seconds))
        },
    );
    let busy = async || (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "30")], "busy");
    let routes = Router::new().route("/busy", get(busy)).route("/idle", get(async || "idle"));
    let site = serve(routes.layer(layer)).await;
    assert_eq!(site.get_with("/busy", &[]).await.body, "busy");
    let paused = site.get_with("/busy", &[]).await;
    let after = paused.header("retry-after").unwrap();
    assert_eq!(paused.status, 429);
    assert_eq!(paused.header("ratelimit"), Some(&*format!(r#""100-per-60s";r=0;t={after}"#)));
    assert!(paused.tells("blocked"), "{paused:?}");
    assert_eq!(site.statuses("/idle", 2).await, [200, 200]);
    let left = limiter.blocked("/busy").unwrap().unwrap();
    assert!(left <= Duration::from_secs(30) && left > Duration::from_secs(20), "{left:?}");
    limiter.unblock("/busy").unwrap();
    assert_eq!(site.get_with("/busy", &[]).await.body, "busy");
}

#[tokio::test]
async fn a_response_says_what_its_request_really_cost() {
    let limiter = limiter("layer-settles", 100);
    let layer = RateLimitLayer::new(&limiter, |request: &Request| request.method().to_string())
        .cost(|_| 10)
        .settle(|response: &Response| {
            let used = response.headers().get("x-used").and_then(|used| used.to_str().ok()?.parse().ok());
            used.unwrap_or(10)
        })
        .pause_when(|response: &Response| (response.status() == 503).then_some(Duration::from_secs(30)));
    let routes = Router::new()
        .route("/small", get(async || ([("x-used", "3")], "small")))
        .route("/large", get(async || ([("x-used", "120")], "large")))
        .route("/busy", get(async || StatusCode::SERVICE_UNAVAILABLE));
    let site = serve(routes.layer(layer)).await;
    let left = || limiter.peek("GET", 0).map(|left| left.remaining());
    assert_eq!(site.statuses("/small", 2).await, [200, 200]);
    assert_eq!(left().unwrap(), 94);
    assert_eq!(site.statuses("/busy", 1).await, [503]);
    limiter.unblock("GET").unwrap();
    assert_eq!(left().unwrap(), 84);
    assert_eq!(site.get_with("/large", &[]).await.body, "large");
    assert_eq!(left().unwrap(), 0);
    assert_eq!(site.statuses("/small", 1).await, [429]);
}

/// Two for each user, three for each tenant, `all` in total.
fn of_each(name: &str, all: u32) -> RateLimiter {
    let builder = RateLimiter::builder(name).limit(Limit::new(2, MINUTE)).limit(Limit::new(3, MINUTE));
    builder.limit(Limit::new(all, MINUTE)).build().unwrap()
}

fn field(request: &Request, name: &str) -> Option<String> {
    request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn user_and_tenant(request: &Request) -> (Option<String>, Option<String>, ()) {
    (field(request, "x-user"), field(request, "x-tenant"), ())
}

#[tokio::test]
async fn limits_have_a_key_each_and_are_decided_together() {
    let limiter = of_each("layer-of-keys", 5);
    let layer = RateLimitLayer::keys(&limiter, user_and_tenant)
        .cost(|request: &Request| if request.uri().path() == "/big" { 2 } else { 1 })
        .exempt_when(|request| request.uri().path() == "/health");
    let routes = Router::new().route("/{*path}", get(async || "hello"));
    let site = serve(routes.layer(layer).layer(RateLimitHeadersLayer::new())).await;
    let ask = async |path: &str, user: &str, tenant: &str| {
        site.get_with(path, &[("x-user", user), ("x-tenant", tenant)]).await
    };
    let left = |user: &str, tenant: &str| {
        let decision = limiter.peek_each((Some(user), Some(tenant), ()), 0).unwrap();
        (decision.limit_index(), decision.remaining())
    };
    let first = ask("/big", "ann", "acme").await;
    assert_eq!(first.status, 200);
    assert!(first.header("ratelimit").unwrap().starts_with(r#""2-per-60s";r=0"#), "{first:?}");
    assert_eq!(ask("/small", "ann", "acme").await.status, 429);
    // The tenant has one left, which is too few: Bob keeps both of his own.
    let denied = ask("/big", "bob", "acme").await;
    assert_eq!(denied.status, 429);
    assert!(denied.header("ratelimit").unwrap().starts_with(r#""3-per-60s";r=1"#), "{denied:?}");
    assert_eq!(left("bob", "other"), (0, 2));
    assert_eq!(ask("/health", "ann", "acme").await.status, 200);
    assert_eq!(ask("/big", "bob", "other").await.status, 200);
    assert_eq!(left("carol", "third"), (2, 1));
    assert_eq!(ask("/big", "carol", "third").await.status, 429);
    assert_eq!(left("carol", "third"), (2, 1));
}

#[tokio::test]
async fn a_response_pauses_the_first_of_several_keys() {
    let limiter = of_each("layer-of-keys-pauses", 50);
    let layer = RateLimitLayer::keys(&limiter, user_and_tenant)
        .settle(|_: &Response| 0)
        .pause_when(|response: &Response| (response.status() == 503).then_some(MINUTE));
    let routes =
        Router::new().route("/busy", get(async || StatusCode::SERVICE_UNAVAILABLE)).route("/", get(async || "hello"));
    let site = serve(routes.layer(layer)).await;
    let status = async |path: &str, user: &str, tenant: &str| {
        site.get_with(path, &[("x-user", user), ("x-tenant", tenant)]).await.status
    };
    // Their actual cost is nothing: no limit is used up.
    for _ in 0..9 {
        assert_eq!(status("/", "ann", "acme").await, 200);
    }
    assert_eq!(status("/busy", "ann", "acme").await, 503);
    assert_eq!(status("/", "ann", "other").await, 429);
    assert_eq!(status("/", "bob", "acme").await, 200);
    // A tenant with the user's name is another key.
    assert_eq!(status("/", "bob", "ann").await, 200);
    limiter.unblock(Some("ann")).unwrap();
    assert_eq!(status("/", "ann", "acme").await, 200);
}

#[tokio::test]
async fn requests_of_several_keys_wait_for_the_last_of_them() {
    let limits = [Limit::new(9, MINUTE), Limit::new(1, Duration::from_millis(200))];
    let builder = RateLimiter::builder("layer-of-keys-waits").limit(limits[0]).limit(limits[1]);
    let layer = RateLimitLayer::keys(builder.build().unwrap(), |request: &u32| (*request, ())).wait();
    let service = layer.error_on_denied().layer(echo());
    let start = Instant::now();
    for request in 0..3 {
        assert_eq!(service.clone().oneshot(request).await.unwrap(), request);
    }
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}

#[test]
#[should_panic(expected = "the limits of rate limiter `layer-of-too-few-keys` have 3 keys, but the closure")]
fn a_layer_of_too_few_keys_is_not_made() {
    let _ = RateLimitLayer::keys(of_each("layer-of-too-few-keys", 5), |request: &u32| (*request, ()));
}
