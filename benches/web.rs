//! An axum server under load, with and without the attribute: `cargo bench -p benches --bench web`.
//!
//! Two servers in one process, whose handlers differ only in the attribute, take turns under 64
//! connections. These send requests as fast as they are answered. Every answer is checked. Then a
//! limit is exceeded: exactly the allowed number of requests must be answered with 200, and all
//! others with 429.
//!
//! Panics on a wrong answer: all printed figures are for right ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use ratelimit_runtime::{RateLimitExceeded, RateLimitHeadersLayer, rate_limit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 31;
const TURN: Duration = Duration::from_millis(500);
const ALLOWED: u64 = 10_000;

async fn plain(ConnectInfo(client): ConnectInfo<SocketAddr>) -> Result<&'static str, RateLimitExceeded> {
    let _ = client.ip();
    Ok("hello")
}

#[rate_limit(count = 1_000_000_000, per = "1h", key = client.ip())]
async fn limited(ConnectInfo(client): ConnectInfo<SocketAddr>) -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

/// The same handler with a limiter of its own.
#[rate_limit(count = 1_000_000_000, per = "1h", key = client.ip())]
async fn told(ConnectInfo(client): ConnectInfo<SocketAddr>) -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

#[rate_limit(count = 10_000, per = "1h", key = client.ip())]
async fn passed(ConnectInfo(client): ConnectInfo<SocketAddr>) -> Result<&'static str, RateLimitExceeded> {
    Ok("hello")
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let serve = |router| runtime.block_on(serve(router));
    let [plain, twin, limited, passed] = [
        serve(Router::new().route("/", get(plain))),
        serve(Router::new().route("/", get(plain))),
        serve(Router::new().route("/", get(limited))),
        serve(Router::new().route("/", get(passed))),
    ];
    let ask = |server| runtime.block_on(load(server, TURN));
    println!(
        "{CONNECTIONS} connections, {ROUNDS} rounds of {TURN:?} a server; requests a second, and to the same without"
    );
    // This runs before a header layer exists, because that moves all decisions to the slow path.
    race("a twin without (noise)", plain, twin, ask);
    race("#[rate_limit]", plain, limited, ask);
    let told = serve(Router::new().route("/", get(told)).layer(RateLimitHeadersLayer::new()));
    race("#[rate_limit] and RateLimit headers", plain, told, ask);

    let Answers { ok, denied } = ask(passed);
    println!("a limit of {ALLOWED} an hour: {ok} answers of 200, {denied} of 429");
    assert!(ok == ALLOWED && denied > 0, "the limit allows {ALLOWED}");
}

/// The medians of two servers' throughput, turn by turn, and of their ratio.
fn race(name: &str, plain: SocketAddr, other: SocketAddr, ask: impl Fn(SocketAddr) -> Answers) {
    let mut rounds: Vec<(f64, f64)> = Vec::new();
    let all = |answers: Answers| {
        assert_eq!(answers.denied, 0, "nothing is to be denied");
        answers.ok as f64 / TURN.as_secs_f64()
    };
    for round in 0..=ROUNDS {
        let pair = if round % 2 == 0 {
            let first = all(ask(plain));
            (first, all(ask(other)))
        } else {
            let first = all(ask(other));
            (all(ask(plain)), first)
        };
        // The first turn warms up.
        if round > 0 {
            rounds.push(pair);
        }
    }
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (without, with, ratio) = (median(|pair| pair.0), median(|pair| pair.1), median(|pair| pair.1 / pair.0));
    println!("{name:36} {with:8.0} {without:8.0} {ratio:6.3}");
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await.expect("a server") });
    address
}

#[derive(Clone, Copy)]
struct Answers {
    ok: u64,
    denied: u64,
}

/// Sends requests to a server for this long.
async fn load(server: SocketAddr, turn: Duration) -> Answers {
    let is_over = Arc::new(AtomicBool::new(false));
    let totals = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut connection = Connection::to(server).await;
        let (is_over, totals) = (Arc::clone(&is_over), Arc::clone(&totals));
        connections.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let denied = usize::from(connection.ask().await);
                totals[denied].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let start = Instant::now();
    tokio::time::sleep(turn).await;
    is_over.store(true, Ordering::Relaxed);
    let elapsed = start.elapsed();
    while let Some(done) = connections.join_next().await {
        done.expect("right answers");
    }
    assert!(elapsed < turn * 3, "the machine is too busy to measure");
    let [ok, denied] = [&totals[0], &totals[1]].map(|total| total.load(Ordering::Relaxed));
    Answers { ok, denied }
}

/// One keep-alive connection.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn to(server: SocketAddr) -> Connection {
        let stream = TcpStream::connect(server).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Connection { stream, buffer: Vec::with_capacity(4_096) }
    }

    /// Whether a request was denied. Panics on any answer but a whole 200 or 429.
    async fn ask(&mut self) -> bool {
        self.stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("a connection");
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("an answer");
            assert!(read > 0, "the server closed the connection");
            if let Some(denied) = whole(&self.buffer) {
                return denied;
            }
        }
    }
}

/// Whether an answer is a denial; `None` until it is complete.
fn whole(answer: &[u8]) -> Option<bool> {
    let answer = std::str::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let length = head.split_once("content-length: ").expect("a length").1;
    let length: usize = length.lines().next().and_then(|length| length.parse().ok()).expect("a number");
    if body.len() < length {
        return None;
    }
    if head.starts_with("HTTP/1.1 200 ") {
        assert_eq!(body, "hello");
        return Some(false);
    }
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("\r\nretry-after: "), "{head}");
    Some(true)
}
