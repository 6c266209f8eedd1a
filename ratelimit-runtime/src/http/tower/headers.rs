//! [`RateLimitHeadersLayer`]: reports the remaining permits in every response.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::http::fields::{self, Trio};
use crate::response_context::{self, Note};

/// Adds `RateLimit-Policy` and `RateLimit` to responses, successful or not.
///
/// It reports the decisions of annotated handlers and of every [`RateLimiter`](crate::RateLimiter)
/// that the request uses.
///
/// ```
/// use axum::{Router, routing::get};
/// use ratelimit_runtime::{RateLimitExceeded, RateLimitHeadersLayer, rate_limit};
///
/// #[rate_limit(count = 100, per = "60s")]
/// async fn search() -> Result<&'static str, RateLimitExceeded> {
///     Ok("found")
/// }
///
/// // `ratelimit-policy: "100-per-60s";q=100;w=60` and `ratelimit: "100-per-60s";r=99;t=60`
/// let app: Router = Router::new().route("/search", get(search)).layer(RateLimitHeadersLayer::new());
/// ```
///
/// Decisions in spawned tasks, on other threads and in `spawn_blocking` are not seen.
///
#[doc = include_str!("../headers.md")]
#[derive(Clone, Debug)]
pub struct RateLimitHeadersLayer {
    trio: Trio,
}

impl RateLimitHeadersLayer {
    /// A layer that adds the draft's fields.
    pub fn new() -> RateLimitHeadersLayer {
        response_context::begin();
        RateLimitHeadersLayer { trio: Trio::Absent }
    }

    /// Adds `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset` for clients that
    /// know only these.
    ///
    /// They hold the limit's capacity, the permits left, and the **seconds from now** until the
    /// limit is idle. Clients written for GitHub (Octokit) read the last one as a time since the
    /// epoch and retry at once: use [`with_x_rate_limit_epoch`](Self::with_x_rate_limit_epoch) for
    /// them.
    pub fn with_x_rate_limit(self) -> RateLimitHeadersLayer {
        RateLimitHeadersLayer { trio: Trio::Seconds }
    }

    /// Adds the fields of [`with_x_rate_limit`](Self::with_x_rate_limit), with `X-RateLimit-Reset`
    /// in **seconds since the Unix epoch**, as GitHub does. Octokit expects that; ky takes both
    /// forms. The time is by this machine's clock, rounded up.
    pub fn with_x_rate_limit_epoch(self) -> RateLimitHeadersLayer {
        RateLimitHeadersLayer { trio: Trio::Epoch }
    }
}

impl Default for RateLimitHeadersLayer {
    fn default() -> RateLimitHeadersLayer {
        RateLimitHeadersLayer::new()
    }
}

impl<S> Layer<S> for RateLimitHeadersLayer {
    type Service = RateLimitHeadersService<S>;

    fn layer(&self, inner: S) -> RateLimitHeadersService<S> {
        RateLimitHeadersService { inner, trio: self.trio }
    }
}

/// The service of a [`RateLimitHeadersLayer`].
#[derive(Clone, Debug)]
pub struct RateLimitHeadersService<S> {
    inner: S,
    trio: Trio,
}

impl<S, R, B> Service<R> for RateLimitHeadersService<S>
where
    S: Service<R, Response = Response<B>>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = HeadersFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> HeadersFuture<S::Future> {
        let mut note = Note::default();
        // A service may decide before it returns its future.
        let response = {
            let _entered = note.enter();
            self.inner.call(request)
        };
        HeadersFuture { response, note, trio: self.trio }
    }
}

pin_project! {
    /// The response future of a [`RateLimitHeadersService`].
    #[derive(Debug)]
    pub struct HeadersFuture<T> {
        #[pin]
        response: T,
        note: Note,
        trio: Trio,
    }
}

impl<T, B, E> Future for HeadersFuture<T>
where
    T: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = {
            let _entered = this.note.enter();
            this.response.poll(context)
        };
        polled.map_ok(|mut response| {
            let status = response.status().as_u16();
            let headers = response.headers_mut();
            for (name, value) in fields::of_request(this.note, status, *this.trio, |name| headers.contains_key(name)) {
                // All values are visible ASCII.
                if let Ok(value) = HeaderValue::try_from(value) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
            response
        })
    }
}
