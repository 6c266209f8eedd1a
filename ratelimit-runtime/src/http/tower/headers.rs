//! [`RateLimitHeadersLayer`]: tells clients in every response what is left.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::http::fields::{self, Trio};
use crate::noted::{self, Note};

/// Adds `RateLimit-Policy` and `RateLimit` to the responses of annotated handlers (and of whatever else asks a
/// [`RateLimiter`](crate::RateLimiter)), successful or not.
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
/// Where a request is decided upon several times, because its handler calls several annotated functions, the tightest
/// decision is told: a denial; else the one with the fewest permits left (`r`); of those with as many, the one whose limit
/// takes the longest to be as new (`t`, in whole seconds, rounded up; of a denial, the time until it would be admitted).
///
/// - What a response tells already is kept, and nothing added to it: a 429 of this crate speaks for itself.
/// - [`set_http_answers`](crate::set_http_answers) chooses the form of the fields: draft 11, or an
///   older one.
/// - What is decided in tasks that the handler spawns, on other threads and in `spawn_blocking` is not seen.
/// - Limits below a second are left out: the draft cannot express them. Of limits that are decided
///   together, the tightest is reported, or none if that one is below a second. A response with a
///   status of 400 or more gets no fields if such a limit, or a failing backend, has denied a call:
///   the numbers of another limit would mislead.
/// - Of a token bucket, `q` and `w` are its rate; `r` counts what is left of its burst, which may be more than `q`.
/// - Permits that `deduct_when` gives back are told as left. Exempt calls, dry runs' denials and peeks are not told, nor is
///   anything while limits are off or a backend's failure admits or denies.
/// - Once such a layer was made, a decision in this process costs a few nanoseconds more: it takes the way on which it is
///   known what is left.
#[derive(Clone, Debug)]
pub struct RateLimitHeadersLayer {
    trio: Trio,
}

impl RateLimitHeadersLayer {
    /// A layer that adds the fields of the draft.
    pub fn new() -> RateLimitHeadersLayer {
        noted::begin();
        RateLimitHeadersLayer { trio: Trio::Absent }
    }

    /// Adds `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, for clients that
    /// know only these: the permits that the limit holds, those left, and the **seconds from now**
    /// until it is as new.
    ///
    /// Clients in the manner of GitHub's (Octokit) take the last for a time since the epoch and
    /// come back at once: [`with_x_rate_limit_epoch`](Self::with_x_rate_limit_epoch) is for them.
    pub fn with_x_rate_limit(self) -> RateLimitHeadersLayer {
        RateLimitHeadersLayer { trio: Trio::Seconds }
    }

    /// As [`with_x_rate_limit`](Self::with_x_rate_limit), with `X-RateLimit-Reset` in **seconds
    /// since the Unix epoch**, as GitHub writes it: Octokit expects it so, and ky takes both. By
    /// this machine's clock, rounded up.
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

/// A service whose responses tell what is left, by a [`RateLimitHeadersLayer`].
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
                // All of them are visible ASCII.
                if let Ok(value) = HeaderValue::try_from(value) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
            response
        })
    }
}
