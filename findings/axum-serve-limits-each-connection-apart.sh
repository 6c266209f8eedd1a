#!/usr/bin/env bash
# axum (Rust) 0.8.9 with tower 0.5.3 and tokio 1, 1 December 2026. Builds for a minute.
#
# A service that may run one request at a time: `Router::layer(ConcurrencyLimitLayer::new(1))`. Four
# clients come together, each on a connection of its own. One would guess that their requests run one
# after the other. Behind `axum::serve(listener, router)` all four run at once: the router is made
# anew for each connection, its layers with it, and each has a semaphore of its own. With HTTP/1.1 a
# connection has one request at a time, so the layer limits nothing. `axum::serve(listener,
# router.into_make_service())` applies the layers once, and the same router runs one at a time. But
# then it is one for each method of each route, here three at once for GET and POST of /a and GET of
# /b. tower's `GlobalConcurrencyLimitLayer` makes its semaphore before it is applied, and holds in
# both. The documentation of `ConcurrencyLimitLayer` says that it "enforces a limit on the concurrent
# number of requests the underlying service can handle", and axum's documentation of layers has it as
# an example. Any layer that makes its state when it is applied is concerned: a limiter's counters, a
# circuit breaker's or a cache's.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
mkdir src

cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
axum = "=0.8.9"
tower = { version = "=0.5.3", features = ["limit"] }
tokio = { version = "1", features = ["io-util", "macros", "net", "rt", "time"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::{Router, routing::get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer};

static RUNNING: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

async fn job() {
    MOST.fetch_max(RUNNING.fetch_add(1, SeqCst) + 1, SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    RUNNING.fetch_sub(1, SeqCst);
}

fn router() -> Router {
    Router::new().route("/a", get(job).post(job)).route("/b", get(job))
}

/// The most requests that ran at once, of some that come together, each on its own connection.
async fn at_once(router: Router, make: bool, requests: &[&str]) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        if make {
            axum::serve(listener, router.into_make_service()).await
        } else {
            axum::serve(listener, router).await
        }
    });
    let clients: Vec<_> = requests.iter().map(|request| {
        let text = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        })
    }).collect();
    for client in clients {
        client.await.unwrap();
    }
    server.abort();
    MOST.swap(0, SeqCst)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let one = ["GET /a"; 4];
    let several = ["GET /a", "GET /a", "POST /a", "POST /a", "GET /b", "GET /b"];
    let mut seen = Vec::new();
    for make in [false, true] {
        let limited = at_once(router().layer(ConcurrencyLimitLayer::new(1)), make, &one).await;
        let routes = at_once(router().layer(ConcurrencyLimitLayer::new(1)), make, &several).await;
        let global = at_once(router().layer(GlobalConcurrencyLimitLayer::new(1)), make, &several).await;
        println!("{}:", if make { "serve(listener, router.into_make_service())" } else { "serve(listener, router)" });
        println!("  ConcurrencyLimitLayer::new(1), four GET /a: {limited} at once");
        println!("  ConcurrencyLimitLayer::new(1), two each of GET /a, POST /a, GET /b: {routes} at once");
        println!("  GlobalConcurrencyLimitLayer::new(1), the same six: {global} at once");
        seen.push([limited, routes, global]);
    }
    assert_eq!(seen, [[4, 6, 1], [1, 3, 1]]);
}
RS
cargo run --quiet
