//! Bodies of denied requests are read, so that the answer arrives, but not for ever.

use std::convert::Infallible;
use std::future::pending;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request};
use axum::http::{Method, StatusCode, Version};
use axum::response::IntoResponse;
use axum::routing::{any, post};
use http_body::{Frame, SizeHint};
use ratelimit_runtime::{BodyDrain, DrainBodyLayer, Limit, RateLimitExceeded, RateLimitLayer, RateLimiter, rate_limit};
use tower::{Layer, Service, ServiceExt};

use crate::gateway::Gateway;
use crate::server::{Site, serve_at};

const MINUTE: Duration = Duration::from_secs(60);
const MEGABYTE: usize = 1 << 20;

/// A used-up limiter.
fn exhausted(name: &str) -> RateLimiter {
    let limiter = RateLimiter::builder(name).limit(Limit::new(1, MINUTE)).build().unwrap();
    limiter.check((), 1).unwrap();
    limiter
}

fn layered(name: &str) -> Router {
    Router::new()
        .route("/", any(async || "hello"))
        .route("/{path}", any(async || "hello"))
        .layer(RateLimitLayer::unkeyed(exhausted(name)))
}

/// Denies before it reads the body. Each test has its own path.
#[rate_limit(count = 1, per = "60s", key = path)]
async fn upload(Path(path): Path<String>, body: Body) -> Result<String, RateLimitExceeded> {
    let bytes = axum::body::to_bytes(body, 8 * MEGABYTE).await.map_or(0, |bytes| bytes.len());
    Ok(bytes.to_string())
}

fn uploads() -> Router {
    Router::new().route("/{path}", post(upload)).layer(DrainBodyLayer::new())
}

/// Behaves like axios, got and undici: sends the whole body before it reads the answer. An error is
/// a broken pipe.
fn post_all(address: SocketAddr, head: &str, body: &[u8]) -> std::io::Result<String> {
    post_to(address, "/", head, body)
}

fn post_to(address: SocketAddr, path: &str, head: &str, body: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}\r\n")?;
    for part in body.chunks(16_384) {
        stream.write_all(part)?;
    }
    read_answer(&mut stream)
}

/// Reads as much as the answer announces, whenever the server closes the connection.
fn read_answer(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut answer = String::new();
    loop {
        if let Some((head, body)) = answer.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if length.is_some_and(|length| length.parse() == Ok(body.len())) {
                return Ok(answer);
            }
        }
        let mut buffer = [0; 4_096];
        match stream.read(&mut buffer)? {
            0 => return Ok(answer),
            length => answer.push_str(&String::from_utf8_lossy(&buffer[..length])),
        }
    }
}

fn sized(size: usize) -> String {
    format!("content-length: {size}\r\n")
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.unwrap()
}

#[tokio::test]
async fn a_client_that_sends_all_first_sees_the_429_of_the_layer() {
    let address = serve_at(layered("bodies-layer")).await;
    for size in [30_000, 60_000, 500_000, MEGABYTE, 2 * MEGABYTE] {
        for _ in 0..5 {
            let answer = blocking(move || post_all(address, &sized(size), &vec![b'a'; size])).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 429 "), "{size}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_client_that_sends_chunks_sees_the_429_too() {
    let address = serve_at(layered("bodies-chunks")).await;
    let mut body = Vec::new();
    for _ in 0..100 {
        body.extend_from_slice(b"2710\r\n");
        body.extend_from_slice(&[b'a'; 10_000]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let answer = blocking(move || post_all(address, "transfer-encoding: chunked\r\n", &body)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
}

#[tokio::test]
async fn the_drain_layer_reads_what_handlers_left() {
    let address = serve_at(uploads()).await;
    let post = move || post_to(address, "/handlers", &sized(MEGABYTE), &vec![b'a'; MEGABYTE]).unwrap();
    // An admitted request gets its whole body.
    assert!(blocking(post).await.ends_with("\r\n\r\n1048576"));
    for _ in 0..5 {
        assert!(blocking(post).await.starts_with("HTTP/1.1 429 "));
    }
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_answered_unread() {
    let address = serve_at(layered("bodies-too-large")).await;
    let answer = blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        // The body is never sent: a server that waits for it waits for ever.
        write!(stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 60000000\r\n\r\n").unwrap();
        read_answer(&mut stream).unwrap()
    });
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_answered_at_once() {
    let handler = serve_at(uploads()).await;
    let first = blocking(move || post_to(handler, "/continue", &sized(1), b"a")).await.unwrap();
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    for (address, path) in [(serve_at(layered("bodies-continue")).await, "/"), (handler, "/continue")] {
        let head = format!("{}expect: 100-continue\r\n", sized(1_000));
        let answer = blocking(move || post_to(address, path, &head, b"")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_disconnects_harms_no_other() {
    let address = serve_at(layered("bodies-aborted")).await;
    blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "POST / HTTP/1.1\r\nhost: a\r\n{}\r\nabc", sized(1_000)).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    })
    .await;
    let answer = blocking(move || post_all(address, &sized(3), b"abc")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
}

/// A body that reports how much of it was read.
struct Watched {
    read: Arc<AtomicU64>,
    /// Bytes still to yield; after that it is pending for ever.
    left: u64,
    hint: SizeHint,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        self.left = self.left.saturating_sub(1_000);
        self.read.fetch_add(1_000, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'a'; 1_000])))))
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// How much of a body of `left` bytes is read behind this layer, and the status of the answer.
async fn read_of<S>(service: S, left: u64, request: http::request::Builder) -> (u64, StatusCode)
where
    S: Service<Request, Response = axum::response::Response, Error: std::fmt::Debug>,
{
    let read = Arc::new(AtomicU64::new(0));
    let body = Body::new(Watched { read: read.clone(), left, hint: SizeHint::new() });
    let response = service.oneshot(request.body(body).unwrap()).await.unwrap();
    (read.load(Ordering::Relaxed), response.status())
}

fn denying(
    name: &str,
    limits: BodyDrain,
) -> impl Service<Request, Response = axum::response::Response, Error = Infallible> {
    let inner = tower::service_fn(async |_: Request| Ok::<_, Infallible>("hello".into_response()));
    RateLimitLayer::unkeyed(exhausted(name)).drain_body(limits).layer(inner)
}

#[tokio::test]
async fn a_body_that_never_ends_is_read_up_to_the_bound() {
    let (read, status) = read_of(denying("bodies-endless", BodyDrain::new()), u64::MAX, Request::post("/")).await;
    assert_eq!((read, status), (2_098_000, StatusCode::TOO_MANY_REQUESTS));
    let limits = BodyDrain::new().max_bytes(10_000);
    assert_eq!(read_of(denying("bodies-bound", limits), u64::MAX, Request::post("/")).await.0, 11_000);
    let nothing = BodyDrain::new().max_bytes(0);
    assert_eq!(read_of(denying("bodies-off", nothing), u64::MAX, Request::post("/")).await.0, 0);
}

#[tokio::test]
async fn a_body_that_never_comes_is_waited_for_up_to_the_time() {
    let limits = BodyDrain::new().max_duration(Duration::from_millis(20));
    let (read, status) = read_of(denying("bodies-silent", limits), 3_000, Request::post("/")).await;
    assert_eq!((read, status), (3_000, StatusCode::TOO_MANY_REQUESTS));
    let handler =
        tower::service_fn(async |request: http::Request<ratelimit_runtime::middleware::ReturnedBody<Body>>| {
            drop(request);
            Ok::<_, Infallible>(StatusCode::TOO_MANY_REQUESTS.into_response())
        });
    let (read, status) = read_of(DrainBodyLayer::within(limits).layer(handler), 3_000, Request::post("/")).await;
    assert_eq!((read, status), (3_000, StatusCode::TOO_MANY_REQUESTS));
}

#[tokio::test]
async fn a_grpc_call_and_a_tunnel_are_answered_at_once() {
    let grpc = || Request::post("/").version(Version::HTTP_2).header("content-type", "application/grpc+proto");
    assert_eq!(read_of(denying("bodies-grpc", BodyDrain::new()), u64::MAX, grpc()).await.0, 0);
    let tunnel = Request::builder().method(Method::CONNECT).uri("a:1");
    assert_eq!(read_of(denying("bodies-connect", BodyDrain::new()), u64::MAX, tunnel).await.0, 0);
}

#[tokio::test]
async fn the_drain_layer_leaves_successes_alone() {
    type Incoming = http::Request<ratelimit_runtime::middleware::ReturnedBody<Body>>;
    let admitted = tower::service_fn(async |_: Incoming| Ok::<_, Infallible>("hello".into_response()));
    assert_eq!(read_of(DrainBodyLayer::new().layer(admitted), 3_000, Request::post("/")).await, (0, StatusCode::OK));
    // A task spawned by the handler keeps the body.
    let held = tower::service_fn(async |request: Incoming| {
        tokio::spawn(async move {
            let _held = request;
            pending::<()>().await;
        });
        Ok::<_, Infallible>(StatusCode::FORBIDDEN.into_response())
    });
    let (read, status) = read_of(DrainBodyLayer::new().layer(held), 3_000, Request::post("/")).await;
    assert_eq!((read, status), (0, StatusCode::FORBIDDEN));
}

/// A body of some parts, the last of which may be an error. As some streams do, it panics if it is
/// polled after its end.
struct OfParts(std::vec::IntoIter<Option<Result<Frame<Bytes>, String>>>);

impl http_body::Body for OfParts {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        Poll::Ready(self.0.next().expect("polled after the end"))
    }
}

#[tokio::test]
async fn the_drain_layer_reads_no_further_than_the_end() {
    async fn refuse(body: Body) -> (StatusCode, String) {
        let read = axum::body::to_bytes(body, MEGABYTE).await;
        (StatusCode::BAD_REQUEST, read.map_or_else(|error| error.to_string(), |bytes| bytes.len().to_string()))
    }

    let part = || Some(Ok(Frame::data(Bytes::from_static(b"abc"))));
    for (parts, answer) in [(vec![part(), part(), None], "6"), (vec![part(), Some(Err("torn".to_owned()))], "torn")] {
        let router = Router::new().route("/", post(refuse)).layer(DrainBodyLayer::new());
        let request = Request::post("/").body(Body::new(OfParts(parts.into_iter()))).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(axum::body::to_bytes(response.into_body(), MEGABYTE).await.unwrap(), answer);
    }
}

#[tokio::test]
async fn nginx_passes_the_429_of_an_upload_on() {
    let layer = serve_at(layered("bodies-nginx")).await;
    let handler = serve_at(uploads()).await;
    assert_eq!(Site::at(handler).upload("/nginx", 10).await.status, 200);
    for (upstream, path) in [(layer, "/"), (handler, "/nginx")] {
        for buffering in ["", "proxy_request_buffering off; proxy_http_version 1.1;"] {
            let nginx = Gateway::nginx(&format!("location / {{ proxy_pass http://{upstream}; {buffering} }}"), "");
            let site = Site::at(nginx.address());
            for _ in 0..10 {
                let answer = site.upload(path, MEGABYTE).await;
                assert_eq!(answer.status, 429, "{buffering} {answer:?}");
            }
        }
    }
}

/// The behaviour of plain actix-web.
#[actix_web::test]
async fn an_actix_handler_answers_429_before_it_reads() {
    #[rate_limit(count = 1, per = "60s")]
    async fn upload(_: actix_web::web::Payload) -> Result<&'static str, actix_web::Error> {
        Ok("hello")
    }

    let server = actix_web::HttpServer::new(|| actix_web::App::new().route("/", actix_web::web::post().to(upload)));
    let server = server.workers(1).bind("127.0.0.1:0").unwrap();
    let address = server.addrs()[0];
    actix_web::rt::spawn(server.run());
    assert!(blocking(move || post_all(address, &sized(1), b"a")).await.unwrap().starts_with("HTTP/1.1 200 "));
    for size in [60_000, MEGABYTE, 2 * MEGABYTE] {
        for _ in 0..5 {
            let answer = blocking(move || post_all(address, &sized(size), &vec![b'a'; size])).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 429 "), "{size}: {answer}");
        }
    }
}
