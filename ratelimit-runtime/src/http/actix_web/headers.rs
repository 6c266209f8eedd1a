//! [`RateLimitHeaders`]: middleware that reports the remaining permits in every response.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::header::{HeaderName, HeaderValue};
use pin_project_lite::pin_project;

use crate::http::fields::{self, Trio};
use crate::response_context::{self, Note};

/// Middleware that adds `RateLimit-Policy` and `RateLimit` to responses, successful or not.
///
/// It reports the decisions of annotated handlers and of every [`RateLimiter`](crate::RateLimiter)
/// that the request uses.
///
/// ```
/// use actix_web::{App, web};
/// use ratelimit_runtime::{RateLimitHeaders, rate_limit};
///
/// #[rate_limit(count = 100, per = "60s")]
/// async fn search() -> Result<&'static str, actix_web::Error> {
///     Ok("found")
/// }
///
/// // `ratelimit-policy: "100-per-60s";q=100;w=60` and `ratelimit: "100-per-60s";r=99;t=60`
/// let app = App::new().wrap(RateLimitHeaders::new()).route("/search", web::get().to(search));
/// ```
///
/// Decisions in tasks that the handler spawns, and in `web::block`, are not seen.
///
#[doc = include_str!("../headers.md")]
#[derive(Clone, Debug)]
pub struct RateLimitHeaders {
    trio: Trio,
}

impl RateLimitHeaders {
    /// A middleware that adds the fields of the draft.
    pub fn new() -> RateLimitHeaders {
        response_context::begin();
        RateLimitHeaders { trio: Trio::Absent }
    }

    /// Adds `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset` for clients that
    /// know only these.
    ///
    /// They hold the limit's capacity, the permits left, and the **seconds from now** until the
    /// limit is idle. Clients written for GitHub (Octokit) read the last one as a time since the
    /// epoch and retry at once: use [`with_x_rate_limit_epoch`](Self::with_x_rate_limit_epoch) for
    /// them.
    pub fn with_x_rate_limit(self) -> RateLimitHeaders {
        RateLimitHeaders { trio: Trio::Seconds }
    }

    /// Adds the fields of [`with_x_rate_limit`](Self::with_x_rate_limit), with `X-RateLimit-Reset`
    /// in **seconds since the Unix epoch**, as GitHub does. Octokit expects that; ky takes both
    /// forms. The time is by this machine's clock, rounded up.
    pub fn with_x_rate_limit_epoch(self) -> RateLimitHeaders {
        RateLimitHeaders { trio: Trio::Epoch }
    }
}

impl Default for RateLimitHeaders {
    fn default() -> RateLimitHeaders {
        RateLimitHeaders::new()
    }
}

impl<S, B> Transform<S, ServiceRequest> for RateLimitHeaders
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Transform = RateLimitHeadersService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(RateLimitHeadersService { inner, trio: self.trio }))
    }
}

/// The service of [`RateLimitHeaders`].
#[derive(Debug)]
pub struct RateLimitHeadersService<S> {
    inner: S,
    trio: Trio,
}

impl<S, B> Service<ServiceRequest> for RateLimitHeadersService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = HeadersFuture<S::Future>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&self, request: ServiceRequest) -> HeadersFuture<S::Future> {
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
    /// The response future of [`RateLimitHeadersService`].
    #[derive(Debug)]
    pub struct HeadersFuture<T> {
        #[pin]
        response: T,
        note: Note,
        trio: Trio,
    }
}

impl<T, B> Future for HeadersFuture<T>
where
    T: Future<Output = Result<ServiceResponse<B>, Error>>,
{
    type Output = T::Output;

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
                // All of them are visible ASCII.
                if let Ok(value) = HeaderValue::try_from(value) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
            response
        })
    }
}
