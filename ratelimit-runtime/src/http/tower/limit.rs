//! [`RateLimitLayer`]: limits the requests to a service, or those of a client.

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::after::{After, Ending, Nothing, PauseWhen, Settle};
use super::denial::{Denial, Fail, Respond, RespondWith};
use super::drain::{BodyDrain, Drain, Draining, drain, drain_known};
use super::keying::{Keying, Keys, StartedCall, Unkeyed};
use crate::decision::Decision;
use crate::error::RateLimitExceeded;
use crate::key::RateLimitKey;
use crate::keys::RateLimitKeys;
use crate::limiter::{Blockable, Call, Pending, RateLimiter, Started, Wait, start_pause};
#[cfg(feature = "tokio")]
use crate::rt::clock::nanos;

/// Limits the requests `R` to a tower service by a [`RateLimiter`]: whole routers, single services,
/// or the requests of a client.
///
/// A closure makes the key of a request, or a key for each limit ([`keys`](Self::keys)). All
/// services of the layer and their clones share the limiter's buckets with its other handles.
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, extract::Request, http::header, routing::get};
/// use ratelimit_runtime::{Limit, RateLimitLayer, RateLimiter};
///
/// static API: RateLimiter = RateLimiter::new("api", &[Limit::new(100, Duration::from_secs(1))]);
///
/// let by_token = RateLimitLayer::new(&API, |request: &Request| {
///     request.headers().get(header::AUTHORIZATION).map(|token| token.as_bytes().to_vec())
/// });
/// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(by_token);
/// ```
///
/// A denied request does not reach the inner service. [`http::Response`]s become a 429 with its
/// headers; other response types follow their
/// [`FromRateLimitExceeded`](crate::FromRateLimitExceeded). [`deny_with`](Self::deny_with) and
/// [`error_on_denied`](Self::error_on_denied) change that. With [`wait`](Self::wait), requests wait
/// for their permits instead.
///
/// Before a denied request is answered, its body is drained within the bounds of [`BodyDrain`],
/// because proxies would otherwise turn the 429 into a 502. [`drain_body`](Self::drain_body) sets
/// the bounds.
///
/// The decision is made when the response future is first polled. A waiting future holds no
/// permits; dropping it gives up its place. The inner service is called once it is ready
/// (`poll_ready`) and the request is admitted. A waiting request therefore holds what readiness
/// took, such as a permit of an inner concurrency limit. If buckets are in memory and nothing has
/// to wait, a request costs the decision and no allocation.
pub struct RateLimitLayer<R, F, D = Respond, P = Nothing> {
    settings: Settings<R, F, D, P>,
}

/// A closure that reads a request.
type Read<R, T> = Arc<dyn Fn(&R) -> T + Send + Sync>;

/// Set by the methods of the layer.
struct Settings<R, F, D, P> {
    limiter: RateLimiter,
    key: F,
    cost: Option<Read<R, u32>>,
    exempt_when: Option<Read<R, bool>>,
    wait: Wait,
    denial: D,
    drain: Drain<R>,
    drains: BodyDrain,
    after: P,
}

impl<R: 'static, K: RateLimitKey, F: Fn(&R) -> K> RateLimitLayer<R, F> {
    /// Limits requests by `limiter` (or a reference to one), by the key that `key` makes of each
    /// request.
    ///
    /// The closure names its argument's type (`|request: &Request| ..`) and returns an owned key,
    /// which may not borrow from the request. A key of `None` is a bucket of its own. Do not use a
    /// key that clients can choose themselves, such as a header that none of your proxies sets: it
    /// limits no client.
    ///
    /// A tuple is one key for all limits of the limiter. [`keys`](RateLimitLayer::keys) gives each
    /// limit a key.
    pub fn new(limiter: impl Borrow<RateLimiter>, key: F) -> RateLimitLayer<R, F> {
        RateLimitLayer::keyed_by(limiter.borrow(), key)
    }
}

impl<R: 'static, K: RateLimitKeys, F: Fn(&R) -> K> RateLimitLayer<R, Keys<F>> {
    /// Limits requests by `limiter`, whose limits have keys of their own: `keys` makes a tuple of
    /// one key for each limit, in their order. All limits are decided together, as by
    /// [`RateLimiter::check_each`]: a denied request takes nothing from any of them. `()` is the
    /// bucket of all requests.
    ///
    /// ```
    /// use axum::{Router, extract::Request, http::HeaderMap, routing::get};
    /// use ratelimit_runtime::{Limit, RateLimitLayer, RateLimiter};
    ///
    /// // For each user, for each tenant, and in all.
    /// static API: RateLimiter =
    ///     RateLimiter::new("api", &[Limit::per_second(10), Limit::per_second(100), Limit::per_second(5_000)]);
    ///
    /// fn field(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    ///     headers.get(name).map(|value| value.as_bytes().to_vec())
    /// }
    ///
    /// // Set by the proxy that has authenticated the request.
    /// let layer = RateLimitLayer::keys(&API, |request: &Request| {
    ///     (field(request.headers(), "x-user"), field(request.headers(), "x-tenant"), ())
    /// });
    /// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
    /// ```
    ///
    /// The buckets are those of `check_each`, and of an attribute whose limits have keys of their
    /// own. [`pause_when`](RateLimitLayer::pause_when) pauses the first key.
    ///
    /// # Panics
    /// If `keys` makes more or fewer keys than the limiter has limits with keys of their own. The
    /// mistake thus shows when the server starts, not in an answer to a request.
    #[track_caller]
    pub fn keys(limiter: impl Borrow<RateLimiter>, keys: F) -> RateLimitLayer<R, Keys<F>> {
        let limiter = limiter.borrow();
        let (wanted, made) = (limiter.core().keys().len(), K::LEN);
        assert!(
            wanted == made,
            "the limits of rate limiter `{}` have {wanted} keys, but the closure of `RateLimitLayer::keys` makes {made}",
            limiter.name(),
        );
        RateLimitLayer::keyed_by(limiter, Keys(keys))
    }
}

impl<R: 'static, F> RateLimitLayer<R, F> {
    fn keyed_by(limiter: &RateLimiter, key: F) -> RateLimitLayer<R, F> {
        let settings = Settings {
            limiter: limiter.clone(),
            key,
            cost: None,
            exempt_when: None,
            wait: Wait::No,
            denial: Respond,
            drain: drain_known,
            drains: BodyDrain::new(),
            after: Nothing,
        };
        RateLimitLayer { settings }
    }
}

impl<R: 'static> RateLimitLayer<R, fn(&R)> {
    /// Limits all requests together, in one bucket. If the compiler cannot infer the type of the
    /// requests, write `RateLimitLayer::<Request, _>::unkeyed(..)`.
    pub fn unkeyed(limiter: impl Borrow<RateLimiter>) -> RateLimitLayer<R, fn(&R)> {
        RateLimitLayer::new(limiter, |_: &R| {})
    }
}

impl<R, F, D, P> RateLimitLayer<R, F, D, P> {
    /// The permits that a request takes, instead of one. 0 takes none and is denied only if its key is
    /// blocked or banned.
    pub fn cost(mut self, cost: impl Fn(&R) -> u32 + Send + Sync + 'static) -> Self {
        self.settings.cost = Some(Arc::new(cost));
        self
    }

    /// Exempts the requests for which `exempt` returns true: they are neither limited nor counted.
    pub fn exempt_when(mut self, exempt: impl Fn(&R) -> bool + Send + Sync + 'static) -> Self {
        self.settings.exempt_when = Some(Arc::new(exempt));
        self
    }

    /// Requests wait for their permits, first come, first served, however long it takes. For a
    /// client that keeps to the limit of another service. Requests that cost more than the limit
    /// holds are still denied. So are those that a failing backend cannot decide, if the policy is
    /// to deny.
    #[cfg(feature = "tokio")]
    pub fn wait(mut self) -> Self {
        self.settings.wait = Wait::Forever;
        self
    }

    /// Requests wait for their permits if these come within `max`. Other requests are denied at
    /// once.
    #[cfg(feature = "tokio")]
    pub fn wait_at_most(mut self, max: Duration) -> Self {
        self.settings.wait = Wait::AtMost(nanos(max));
        self
    }

    /// Answers denied requests with the response of `respond`: the service's own type, or in axum a
    /// status, text or tuple.
    ///
    /// ```
    /// use std::time::Duration;
    /// use axum::{extract::Request, http::StatusCode, response::AppendHeaders};
    /// use ratelimit_runtime::{Limit, RateLimitLayer, RateLimiter};
    ///
    /// static API: RateLimiter = RateLimiter::new("api", &[Limit::new(100, Duration::from_secs(1))]);
    ///
    /// let layer = RateLimitLayer::new(&API, |request: &Request| request.uri().path().to_owned()).deny_with(|exceeded| {
    ///     (StatusCode::TOO_MANY_REQUESTS, AppendHeaders(exceeded.http_headers()), "Slow down, please.")
    /// });
    /// # let _: axum::Router = axum::Router::new().route("/", axum::routing::get(async || "hello")).layer(layer);
    /// ```
    ///
    /// For a whole tonic server: `.deny_with(|exceeded| Status::from(exceeded).into_http())`.
    pub fn deny_with<T, Response>(self, respond: T) -> RateLimitLayer<R, F, RespondWith<T>, P>
    where
        T: Fn(RateLimitExceeded) -> Response,
    {
        self.denial(RespondWith(respond))
    }

    /// Denied requests fail with the [`RateLimitExceeded`], in a [`BoxError`](super::BoxError).
    ///
    /// For clients (reqwest's and hyper's) and other services whose responses cannot express a
    /// denial. They need this or [`deny_with`](Self::deny_with); otherwise the limited service does
    /// not implement `Service`.
    pub fn error_on_denied(self) -> RateLimitLayer<R, F, Fail, P> {
        self.denial(Fail)
    }

    fn denial<T>(self, denial: T) -> RateLimitLayer<R, F, T, P> {
        let Settings { limiter, key, cost, exempt_when, wait, denial: _, drain, drains, after } = self.settings;
        RateLimitLayer { settings: Settings { limiter, key, cost, exempt_when, wait, denial, drain, drains, after } }
    }

    /// A response of the inner service may pause the key of its request: during the pause, calls on
    /// the key are denied or wait. For clients of an API that answers `429` with a `Retry-After`.
    ///
    /// The closure names its argument's type (`|response: &Response| ..`) and returns the length of
    /// the pause, at most an hour. Of several [`keys`](RateLimitLayer::keys), it pauses the first.
    /// The pause is a [block](RateLimiter::block), in a backend for all processes, and is set
    /// before the response is returned. Neither an exempt request nor an error of the service
    /// pauses a key.
    ///
    /// ```
    /// use std::time::Duration;
    /// use axum::{extract::Request, http::header::RETRY_AFTER, response::Response};
    /// use ratelimit_runtime::{Limit, RateLimitLayer, RateLimiter};
    ///
    /// static UPSTREAM: RateLimiter = RateLimiter::new("upstream", &[Limit::per_second(50)]);
    ///
    /// let layer = RateLimitLayer::new(&UPSTREAM, |request: &Request| request.uri().host().map(str::to_owned))
    ///     .pause_when(|response: &Response| {
    ///         let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    ///         (response.status() == 429).then_some(Duration::from_secs(seconds))
    ///     });
    /// # let _: axum::Router = axum::Router::new().route("/", axum::routing::get(async || "hello")).layer(layer);
    /// ```
    pub fn pause_when<T, Response>(self, when: T) -> RateLimitLayer<R, F, D, (P, PauseWhen<T>)>
    where
        T: Fn(&Response) -> Option<Duration>,
    {
        self.and_after(PauseWhen(when))
    }

    /// Settles each request by its response, as [`RateLimiter::settle`] does. The unused part of
    /// [`cost`](Self::cost) is given back, and an overrun is charged, as a debt if it does not fit.
    ///
    /// The closure names its argument's type (`|response: &Response| ..`). The response is returned
    /// after the backend has answered. A request that fails or is dropped keeps its cost.
    ///
    /// ```
    /// use axum::{extract::Request, response::Response};
    /// use ratelimit_runtime::{Limit, RateLimitLayer, RateLimiter};
    ///
    /// static TOKENS: RateLimiter = RateLimiter::new("tokens", &[Limit::per_minute(10_000)]);
    ///
    /// let layer = RateLimitLayer::new(&TOKENS, |request: &Request| request.uri().host().map(str::to_owned))
    ///     .cost(|_| 500)
    ///     .settle(|response: &Response| {
    ///         let used = response.headers().get("x-tokens-used").and_then(|used| used.to_str().ok()?.parse().ok());
    ///         used.unwrap_or(500)
    ///     });
    /// # let _: axum::Router = axum::Router::new().route("/", axum::routing::get(async || "hello")).layer(layer);
    /// ```
    pub fn settle<T, Response>(self, actual: T) -> RateLimitLayer<R, F, D, (P, Settle<T>)>
    where
        T: Fn(&Response) -> u32,
    {
        self.settings.limiter.core().gives_back();
        self.and_after(Settle(actual))
    }

    fn and_after<T>(self, also: T) -> RateLimitLayer<R, F, D, (P, T)> {
        let Settings { limiter, key, cost, exempt_when, wait, denial, drain, drains, after } = self.settings;
        let after = (after, also);
        RateLimitLayer { settings: Settings { limiter, key, cost, exempt_when, wait, denial, drain, drains, after } }
    }
}

impl<B, F, D, P> RateLimitLayer<Request<B>, F, D, P>
where
    B: Body<Data: Send> + Send + 'static,
{
    /// Sets how much of the bodies of denied requests is read. By default, axum's and tonic's
    /// bodies are drained within [`BodyDrain::new`] (features `axum` and `tonic`); other bodies are
    /// not read. With this, all bodies are drained within `limits`.
    pub fn drain_body(mut self, limits: BodyDrain) -> Self {
        self.settings.drain = drain;
        self.settings.drains = limits;
        self
    }
}

impl<S, R, F: Clone, D: Clone, P: Clone> Layer<S> for RateLimitLayer<R, F, D, P> {
    type Service = RateLimitService<S, R, F, D, P>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitService { inner, settings: Arc::new(self.settings.clone()) }
    }
}

/// The service of a [`RateLimitLayer`].
pub struct RateLimitService<S, R, F, D = Respond, P = Nothing> {
    inner: S,
    settings: Arc<Settings<R, F, D, P>>,
}

impl<S, R, F, D, P> Service<R> for RateLimitService<S, R, F, D, P>
where
    S: Service<R> + Clone,
    F: Keying<R>,
    D: Denial<S::Response, S::Error>,
    P: After<S::Response>,
{
    type Response = S::Response;
    type Error = D::Error;
    type Future = LimitFuture<S, R, F, D, P>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), D::Error>> {
        self.inner.poll_ready(context).map_err(D::pass)
    }

    fn call(&mut self, request: R) -> LimitFuture<S, R, F, D, P> {
        // The ready service serves this request. Its clone must become ready for the next.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        LimitFuture {
            settings: Arc::clone(&self.settings),
            request: Some((ready, request)),
            held: Held::default(),
            state: State::Undecided,
        }
    }
}

/// What a response may pause and settle.
#[derive(Default)]
struct Held {
    blockable: Option<Blockable>,
    decision: Option<Box<Decision>>,
}

pin_project! {
    /// The response future of a [`RateLimitService`].
    pub struct LimitFuture<S, R, F, D, P = Nothing>
    where
        S: Service<R>,
    {
        settings: Arc<Settings<R, F, D, P>>,
        // Until it is admitted: the request, and the service that is ready for it.
        request: Option<(S, R)>,
        // What the response may pause and settle.
        held: Held,
        #[pin]
        state: State<S::Future, S::Response>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<T, U> {
        Undecided,
        Deciding { decision: Pending },
        Draining { draining: Draining, exceeded: Option<RateLimitExceeded> },
        Admitted { #[pin] response: T },
        Ending { ending: Ending, response: Option<U> },
    }
}

impl<S, R, F, D, P> Future for LimitFuture<S, R, F, D, P>
where
    S: Service<R>,
    F: Keying<R>,
    D: Denial<S::Response, S::Error>,
    P: After<S::Response>,
{
    type Output = Result<S::Response, D::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let decided = match this.state.as_mut().project() {
                StateProjection::Admitted { response } => {
                    let response = match ready!(response.poll(context)) {
                        Ok(response) => response,
                        Err(error) => return Poll::Ready(Err(D::pass(error))),
                    };
                    let Some(ending) = this.settings.ending(mem::take(this.held), &response) else {
                        return Poll::Ready(Ok(response));
                    };
                    this.state.set(State::Ending { ending, response: Some(response) });
                    continue;
                }
                StateProjection::Ending { ending, response } => {
                    ready!(ending.as_mut().poll(context));
                    return Poll::Ready(Ok(response.take().expect("a future is not polled after it has resolved")));
                }
                StateProjection::Deciding { decision } => ready!(Pin::new(decision).poll(context)).map(held::<P, _>),
                StateProjection::Draining { draining, exceeded } => {
                    ready!(draining.as_mut().poll(context));
                    let exceeded = exceeded.take().expect("a future is not polled after it has resolved");
                    return Poll::Ready(this.settings.denial.deny(exceeded));
                }
                StateProjection::Undecided => {
                    let (_, request) = this.request.as_ref().expect("a future is not polled after it has resolved");
                    let started = this.settings.start(request, P::PAUSES.then_some(&mut this.held.blockable));
                    match started.map(Started::at_once) {
                        None => Ok(None),
                        Some(Ok(decided)) => decided.map(held::<P, _>),
                        Some(Err(decision)) => {
                            this.state.set(State::Deciding { decision });
                            continue;
                        }
                    }
                }
            };
            let (mut ready, request) = this.request.take().expect("a future is not polled after it has resolved");
            match decided {
                Ok(decision) => {
                    this.held.decision = decision;
                    this.state.set(State::Admitted { response: ready.call(request) });
                }
                Err(exceeded) => {
                    // Only the body is still needed: release what readiness took.
                    drop(ready);
                    let Some(draining) = (this.settings.drain)(request, this.settings.drains) else {
                        this.state.set(State::Undecided);
                        return Poll::Ready(this.settings.denial.deny(exceeded));
                    };
                    this.state.set(State::Draining { draining, exceeded: Some(exceeded) });
                }
            }
        }
    }
}

/// The decision, if the response settles it.
fn held<P: After<U>, U>(decision: Decision) -> Option<Box<Decision>> {
    P::SETTLES.then(|| Box::new(decision))
}

impl<R, F, D, P> Settings<R, F, D, P> {
    /// Does everything that needs no waiting. `None` if the request is exempt. Records what its
    /// response may pause.
    fn start(&self, request: &R, blockable: Option<&mut Option<Blockable>>) -> Option<Started>
    where
        F: Keying<R>,
    {
        if self.exempt_when.as_ref().is_some_and(|exempt| exempt(request)) {
            return None;
        }
        let cost = self.cost.as_ref().map_or(1, |cost| cost(request));
        let call = Call::new(self.limiter.core()).in_future().cost(cost).wait(self.wait);
        let StartedCall(started) = self.key.start(request, Unkeyed { call, pausable: blockable });
        Some(started)
    }

    /// The work left before a response is returned.
    fn ending<T>(&self, held: Held, response: &T) -> Option<Ending>
    where
        P: After<T>,
    {
        let pause = held.blockable.and_then(|blockable| Some((blockable, self.after.pause(response)?)));
        let settlement = held.decision.and_then(|decision| Some((decision, self.after.actual(response)?)));
        if pause.is_none() && settlement.is_none() {
            return None;
        }
        let limiter = self.limiter.clone();
        Some(Box::pin(async move {
            if let Some((blockable, time)) = pause
                && let Some(rest) = start_pause(&blockable, time)
            {
                rest.await;
            }
            if let Some((decision, actual)) = settlement {
                // If the backend fails, the cost stands.
                let _ = limiter.settle_async(*decision, actual).await;
            }
        }))
    }
}

impl<R, F: Clone, D: Clone, P: Clone> Clone for Settings<R, F, D, P> {
    fn clone(&self) -> Self {
        Settings {
            limiter: self.limiter.clone(),
            key: self.key.clone(),
            cost: self.cost.clone(),
            exempt_when: self.exempt_when.clone(),
            wait: self.wait,
            denial: self.denial.clone(),
            drain: self.drain,
            drains: self.drains,
            after: self.after.clone(),
        }
    }
}

impl<R, F: Clone, D: Clone, P: Clone> Clone for RateLimitLayer<R, F, D, P> {
    fn clone(&self) -> Self {
        RateLimitLayer { settings: self.settings.clone() }
    }
}

impl<S: Clone, R, F, D, P> Clone for RateLimitService<S, R, F, D, P> {
    fn clone(&self) -> Self {
        RateLimitService { inner: self.inner.clone(), settings: Arc::clone(&self.settings) }
    }
}

impl<R, F, D, P> fmt::Debug for RateLimitLayer<R, F, D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer").field("limiter", &self.settings.limiter).finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, R, F, D, P> fmt::Debug for RateLimitService<S, R, F, D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService")
            .field("inner", &self.inner)
            .field("limiter", &self.settings.limiter)
            .finish_non_exhaustive()
    }
}

impl<S: Service<R>, R, F, D, P> fmt::Debug for LimitFuture<S, R, F, D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitFuture").field("limiter", &self.settings.limiter).finish_non_exhaustive()
    }
}
