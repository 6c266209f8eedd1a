//! Browsers of another origin: tower-http's `CorsLayer` around a limit, as in `docs/web.md`.

use std::time::Duration;

use axum::Router;
use axum::http::HeaderName;
use axum::routing::put;
use ratelimit_runtime::{Limit, RATE_LIMIT_HEADERS, RateLimitHeadersLayer, RateLimitLayer, RateLimiter};
use tower_http::cors::{Any, CorsLayer};

use crate::server::{Site, serve};

const ORIGIN: (&str, &str) = ("origin", "https://shop.example");

async fn preflight(site: &Site) -> u16 {
    let headers =
        [ORIGIN, ("access-control-request-method", "PUT"), ("access-control-request-headers", "content-type")];
    site.request("OPTIONS", "/", &headers).await.status
}

#[tokio::test]
async fn scripts_see_the_fields_and_preflights_take_no_permit() {
    let limiter = RateLimiter::builder("cors").limit(Limit::new(1, Duration::from_secs(60))).build().unwrap();
    let cors = CorsLayer::new().allow_origin(Any).allow_methods(Any).allow_headers(Any);
    let router = Router::new()
        .route("/", put(async || "hello"))
        .layer(RateLimitLayer::unkeyed(limiter))
        .layer(RateLimitHeadersLayer::new().with_x_rate_limit())
        // Outermost.
        .layer(cors.expose_headers(RATE_LIMIT_HEADERS.map(HeaderName::from_static)));
    let site = serve(router).await;
    for status in [200, 429] {
        assert_eq!([preflight(&site).await, preflight(&site).await], [200, 200]);
        let answer = site.request("PUT", "/", &[ORIGIN]).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        let exposed: Vec<String> = answer
            .header("access-control-expose-headers")
            .unwrap()
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect();
        let told = answer
            .headers
            .keys()
            .map(HeaderName::as_str)
            .filter(|name| name.contains("rate") || name.contains("retry"));
        for name in told {
            assert!(exposed.iter().any(|exposed| exposed == name), "{name} is hidden: {exposed:?}");
        }
    }
}
