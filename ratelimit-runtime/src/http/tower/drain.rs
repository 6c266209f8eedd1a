//! Drains the body of a denied request: reads it and drops what it reads.
//!
//! A server that answers before it has read the body closes the connection. The client's further
//! data is then answered with a reset: proxies turn the 429 into a 502, and clients report a broken
//! pipe. nginx calls the remedy a lingering close.

use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::rt::timer;

/// How much of a denied request's body is read before the answer: by default 2 MB (2 MiB), for at
/// most 5 seconds.
///
/// - A body known to be longer is not read at all, nor is one that the client holds back
///   (`Expect: 100-continue`). Beyond the bounds, the request is answered anyway and the server
///   closes the connection.
/// - A process drains at most 256 bodies at a time, because clients could make each denial cost a
///   read. Any others are answered at once.
/// - gRPC calls and `CONNECT` are answered at once: their bodies may last as long as the
///   connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyDrain {
    max_bytes: u64,
    max_duration: Duration,
}

/// Bodies drained at a time.
const MAX_AT_ONCE: usize = 256;

static AT_ONCE: AtomicUsize = AtomicUsize::new(0);

impl BodyDrain {
    /// Up to 2 MB, in up to 5 seconds.
    pub const fn new() -> BodyDrain {
        BodyDrain { max_bytes: 2 << 20, max_duration: Duration::from_secs(5) }
    }

    /// Reads at most this many bytes. 0 reads nothing.
    pub const fn max_bytes(self, bytes: u64) -> BodyDrain {
        BodyDrain { max_bytes: bytes, ..self }
    }

    /// Reads for at most this long, however much the client still has to send. Zero reads nothing.
    pub const fn max_duration(self, duration: Duration) -> BodyDrain {
        BodyDrain { max_duration: duration, ..self }
    }

    /// Whether the answer must wait for the request's body.
    fn applies(self, head: &Head, body: &impl Body) -> bool {
        !self.max_duration.is_zero()
            && head.has_drainable_body
            && !body.is_end_stream()
            && body.size_hint().lower() <= self.max_bytes
    }

    fn start<B>(self, head: &Head, body: B) -> Option<Draining>
    where
        B: Body<Data: Send> + Send + 'static,
    {
        if self.max_bytes == 0 || !self.applies(head, &body) {
            return None;
        }
        let permit = DrainPermit::take()?;
        Some(Box::pin(async move {
            let deadline = Instant::now().checked_add(self.max_duration);
            let read = read(body, self.max_bytes);
            match deadline {
                Some(deadline) => drop(timer::bounded(read, deadline).await),
                None => read.await,
            }
            drop(permit);
        }))
    }
}

impl Default for BodyDrain {
    fn default() -> BodyDrain {
        BodyDrain::new()
    }
}

/// Reads to the end, to an error, or until `max_bytes` have come.
async fn read<B: Body>(body: B, max_bytes: u64) {
    let mut body = pin!(body);
    let mut left = max_bytes;
    while let Some(Ok(frame)) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let length = frame.data_ref().map_or(0, bytes::Buf::remaining);
        match u64::try_from(length).ok().and_then(|length| left.checked_sub(length)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// The right to drain a body, one of [`MAX_AT_ONCE`].
struct DrainPermit;

impl DrainPermit {
    fn take() -> Option<DrainPermit> {
        let more = |taken| (taken < MAX_AT_ONCE).then_some(taken + 1);
        AT_ONCE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| DrainPermit)
    }
}

impl Drop for DrainPermit {
    fn drop(&mut self) {
        AT_ONCE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request's head says about its body.
struct Head {
    has_drainable_body: bool,
}

impl Head {
    fn of<B>(request: &Request<B>) -> Head {
        let waits_for_us = |headers: &HeaderMap| {
            headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        };
        let is_grpc = |headers: &HeaderMap| {
            headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
        };
        let is_conversation =
            request.method() == Method::CONNECT || (request.version() == Version::HTTP_2 && is_grpc(request.headers()));
        Head { has_drainable_body: !waits_for_us(request.headers()) && !is_conversation }
    }
}

/// A body being drained.
pub(super) type Draining = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts to drain the body of a denied request, if it is to be read.
pub(super) type Drain<R> = fn(R, BodyDrain) -> Option<Draining>;

/// For requests with any body.
pub(super) fn drain<B>(request: Request<B>, limits: BodyDrain) -> Option<Draining>
where
    B: Body<Data: Send> + Send + 'static,
{
    let head = Head::of(&request);
    limits.start(&head, request.into_body())
}

/// For requests whose type is known only at run time: the bodies of the servers that this crate has
/// features for.
pub(super) fn drain_known<R: 'static>(request: R, limits: BodyDrain) -> Option<Draining> {
    let mut request = Some(request);
    let request: &mut dyn Any = &mut request;
    #[cfg(feature = "axum")]
    if let Some(request) = request.downcast_mut::<Option<Request<axum::body::Body>>>() {
        return drain(request.take()?, limits);
    }
    #[cfg(feature = "tonic")]
    if let Some(request) = request.downcast_mut::<Option<Request<tonic::body::Body>>>() {
        return drain(request.take()?, limits);
    }
    let _ = (request, limits);
    None
}

/// Drains bodies that annotated handlers leave unread when they deny. The layer goes around the
/// routes.
///
/// A handler that takes a `Body` (or a stream) denies before it has read it. The server would then
/// close the connection, and a proxy would turn the 429 into a 502. If a response has a status of
/// 400 or more and its request was not read to the end, the layer drains the body. [`BodyDrain`]
/// sets the bounds. Handlers that take `Bytes`, `Json` and the like have read the body and need no
/// layer. [`RateLimitLayer`](super::RateLimitLayer) drains by itself.
///
/// ```
/// use axum::{Router, body::Body, routing::post};
/// use ratelimit_runtime::{DrainBodyLayer, RateLimitExceeded, rate_limit};
///
/// #[rate_limit(count = 10, per = "1m")]
/// async fn upload(body: Body) -> Result<(), RateLimitExceeded> {
/// #    drop(body);
///     Ok(())
/// }
///
/// let app: Router = Router::new().route("/upload", post(upload)).layer(DrainBodyLayer::new());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DrainBodyLayer {
    limits: BodyDrain,
}

impl DrainBodyLayer {
    /// A layer with the bounds of [`BodyDrain::new`].
    pub const fn new() -> DrainBodyLayer {
        DrainBodyLayer { limits: BodyDrain::new() }
    }

    /// A layer with the bounds `limits`.
    pub const fn within(limits: BodyDrain) -> DrainBodyLayer {
        DrainBodyLayer { limits }
    }
}

impl<S> Layer<S> for DrainBodyLayer {
    type Service = DrainBodyService<S>;

    fn layer(&self, inner: S) -> DrainBodyService<S> {
        DrainBodyService { inner, limits: self.limits }
    }
}

/// The service of a [`DrainBodyLayer`].
#[derive(Clone, Debug)]
pub struct DrainBodyService<S> {
    inner: S,
    limits: BodyDrain,
}

impl<S, B, T> Service<Request<B>> for DrainBodyService<S>
where
    S: Service<Request<ReturnedBody<B>>, Response = Response<T>>,
    B: Body<Data: Send> + Send + Unpin + 'static,
{
    type Response = Response<T>;
    type Error = S::Error;
    type Future = DrainFuture<S::Future, B, Response<T>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> DrainFuture<S::Future, B, Response<T>> {
        let head = Head::of(&request);
        let (parts, body) = request.into_parts();
        // Most requests have no body, and allocate nothing here.
        let slot = self.limits.applies(&head, &body).then(|| Arc::new(Mutex::new(None)));
        let body = ReturnedBody { body: Some(body), slot: slot.clone() };
        let response = self.inner.call(Request::from_parts(parts, body));
        DrainFuture { head, limits: self.limits, slot, state: State::Responding { response } }
    }
}

/// Receives a body that is dropped before its end.
type Slot<B> = Arc<Mutex<Option<B>>>;

/// A request's body. If it is dropped before its end, the [`DrainBodyLayer`] gets it back.
pub struct ReturnedBody<B: Body + Unpin> {
    body: Option<B>,
    slot: Option<Slot<B>>,
}

impl<B: Body + Unpin> Body for ReturnedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            // Streams may panic if they are polled after their end.
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body + Unpin> Drop for ReturnedBody<B> {
    fn drop(&mut self) {
        if let (Some(slot), Some(body)) = (&self.slot, self.body.take())
            && !body.is_end_stream()
        {
            *slot.lock() = Some(body);
        }
    }
}

impl<B: Body + Unpin> fmt::Debug for ReturnedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReturnedBody").finish_non_exhaustive()
    }
}

pin_project! {
    /// The response future of a [`DrainBodyService`].
    pub struct DrainFuture<F, B, T> {
        head: Head,
        limits: BodyDrain,
        slot: Option<Slot<B>>,
        #[pin]
        state: State<F, T>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, T> {
        Responding { #[pin] response: F },
        Draining { draining: Draining, response: Option<T> },
    }
}

impl<F, B, T, E> Future for DrainFuture<F, B, Response<T>>
where
    F: Future<Output = Result<Response<T>, E>>,
    B: Body<Data: Send> + Send + Unpin + 'static,
{
    type Output = Result<Response<T>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Responding { response } => {
                    let response = ready!(response.poll(context))?;
                    let is_refusal = response.status() >= StatusCode::BAD_REQUEST;
                    let unread = this.slot.as_ref().filter(|_| is_refusal).and_then(|slot| slot.lock().take());
                    match unread.and_then(|body| this.limits.start(this.head, body)) {
                        Some(draining) => this.state.set(State::Draining { draining, response: Some(response) }),
                        None => return Poll::Ready(Ok(response)),
                    }
                }
                StateProjection::Draining { draining, response } => {
                    ready!(draining.as_mut().poll(context));
                    let response = mem::take(response).expect("a future is not polled after it has resolved");
                    return Poll::Ready(Ok(response));
                }
            }
        }
    }
}

impl<F, B, T> fmt::Debug for DrainFuture<F, B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that never ends and yields nothing.
    struct Silent;

    impl Body for Silent {
        type Data = &'static [u8];
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<&'static [u8]>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[test]
    fn bodies_drained_at_a_time_are_bounded() {
        let start = || drain(Request::new(Silent), BodyDrain::new());
        let mut draining = Vec::new();
        for _ in 0..MAX_AT_ONCE {
            draining.push(start().expect("a permit is free"));
        }
        assert!(start().is_none());
        // Abandoned, whether it was polled or not.
        let mut given_up = draining.pop().expect("there are many");
        assert!(given_up.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        drop(given_up);
        draining.pop();
        assert!(start().is_some() && drain(Request::new(String::from("text")), BodyDrain::new()).is_some());
        drop(draining);
        assert_eq!(AT_ONCE.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn unread_bodies_take_no_permit() {
        let is_read =
            |request: http::request::Builder| drain(request.body(Silent).unwrap(), BodyDrain::new()).is_some();
        assert!(is_read(Request::post("/")) && is_read(Request::get("/")));
        assert!(!is_read(Request::post("/").header("expect", "100-Continue")));
        assert!(!is_read(Request::builder().method("CONNECT").uri("a:1")));
        let grpc = || Request::post("/").header("content-type", "application/grpc-web+proto");
        assert!(!is_read(grpc().version(Version::HTTP_2)) && is_read(grpc()));
        assert!(drain(Request::new(String::new()), BodyDrain::new()).is_none(), "an empty body");
        assert!(drain(Request::new("a".repeat(11)), BodyDrain::new().max_bytes(10)).is_none(), "a longer body");
        assert!(drain(Request::new(Silent), BodyDrain::new().max_duration(Duration::ZERO)).is_none());
    }
}
