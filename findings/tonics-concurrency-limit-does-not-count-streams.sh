#!/usr/bin/env bash
# tonic (Rust) 0.14.9, with tonic-health 0.14.9 and tokio 1, 1 December 2026. Builds for a minute.
#
# A gRPC server of one request at a time for each connection: `concurrency_limit_per_connection(1)`. A
# client opens a stream, the `Watch` of gRPC's own health service, which stays open, and then more. One
# would guess that the second waits until the first ends, as it does with HTTP/2's own
# `max_concurrent_streams(1)`. All five are served together, and other calls as well: the limit
# counts a request until its answer begins, and a stream's answer begins at once. So it limits calls
# that compute first and then answer, and no stream, however much each of them costs. With
# `load_shed(true)`, which denies what is above the limit, none is denied. The documentation of the
# limit speaks of "requests inbound per connection". Where streams are what costs, as with answers of
# language models, the limit does nothing.
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
tonic = "=0.14.9"
tonic-health = "=0.14.9"
tokio = { version = "1", features = ["macros", "net", "rt", "time"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::time::Duration;

use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Server, server::TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const SECOND: Duration = Duration::from_secs(1);

async fn connect(server: Server) -> Channel {
    let mut server = server;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", ServingStatus::Serving).await;
    tokio::spawn(async move {
        let _reporter = reporter;
        server.add_service(health).serve_with_incoming(TcpIncoming::from(listener)).await
    });
    Endpoint::from_shared(address).unwrap().connect().await.unwrap()
}

/// How many of five streams bring a message while all are open, and whether a single call is
/// answered besides.
async fn served(name: &str, server: Server) -> (usize, bool) {
    let channel = connect(server).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut client = HealthClient::new(channel.clone());
        let first = timeout(SECOND, async move {
            let mut stream = client.watch(HealthCheckRequest::default()).await?.into_inner();
            let message = stream.message().await?;
            Ok::<_, tonic::Status>(message.map(|_| stream))
        });
        if let Ok(Ok(Some(stream))) = first.await {
            open.push(stream);
        }
    }
    let call = timeout(SECOND, HealthClient::new(channel).check(HealthCheckRequest::default())).await;
    let answered = matches!(call, Ok(Ok(_)));
    println!("{name}: {} of 5 streams at once, a call besides is {}", open.len(), if answered { "answered" } else { "not" });
    (open.len(), answered)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let limited = Server::builder().concurrency_limit_per_connection(1);
    let shedding = Server::builder().concurrency_limit_per_connection(1).load_shed(true);
    let streams = Server::builder().max_concurrent_streams(1);
    assert_eq!(served("concurrency_limit_per_connection(1)", limited).await, (5, true));
    assert_eq!(served("the same with load_shed(true)", shedding).await, (5, true));
    assert_eq!(served("max_concurrent_streams(1)", streams).await, (1, false));
}
RS
cargo run --quiet
