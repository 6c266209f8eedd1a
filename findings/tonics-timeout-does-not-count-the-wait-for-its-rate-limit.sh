#!/usr/bin/env bash
# tonic (Rust) 0.14.9, with tonic-health 0.14.9 and tokio 1, 1 December 2026. Builds for a minute.
#
# A gRPC channel of one call each five seconds whose calls take a second at most: `Endpoint::timeout(1
# s).rate_limit(1, 5 s)`. Three calls in turn. One would guess that the second fails after a second,
# with CANCELLED or DEADLINE_EXCEEDED. It succeeds after five seconds, and so does the third, which
# has a deadline of half a second of its own (`Request::set_timeout`): the limit stands in front of
# the timeout, so the time of a call begins when it is let through. With a limit of an hour it waits
# an hour. The documentation of `timeout` says "apply a timeout to each request". The server is told
# by `grpc-timeout` that it has the whole second, when the caller has long been waiting. A deadline in
# front of the call, such as `tokio::time::timeout`, does count the wait; here it ends the fourth call
# after a second.
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
use std::time::{Duration, Instant};

use tonic::Request;
use tonic::transport::{Endpoint, Server, server::TcpIncoming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const PERIOD: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (_reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(TcpIncoming::from(listener)));

    let endpoint = Endpoint::from_shared(address).unwrap().timeout(TIMEOUT).rate_limit(1, PERIOD);
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let mut seen = Vec::new();
    for deadline in [None, None, Some(TIMEOUT / 2)] {
        let mut request = Request::new(HealthCheckRequest::default());
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        let start = Instant::now();
        let answer = client.check(request).await.map(|_| "an answer").map_err(|status| status.code());
        let took = start.elapsed();
        println!("timeout {:?}: {answer:?} after {took:.1?}", deadline.unwrap_or(TIMEOUT));
        seen.push((answer.is_ok(), took));
    }
    let start = Instant::now();
    let outside = tokio::time::timeout(TIMEOUT, client.check(HealthCheckRequest::default())).await;
    let took = start.elapsed();
    println!("tokio's timeout of {TIMEOUT:?} around the call: {} after {took:.1?}", if outside.is_err() { "over" } else { "an answer" });

    let late = |took: Duration| took > PERIOD - TIMEOUT && took < PERIOD + TIMEOUT;
    assert!(seen[0].0 && seen[0].1 < TIMEOUT, "the first call");
    assert!(seen[1].0 && late(seen[1].1) && seen[2].0 && late(seen[2].1), "the second and third call");
    assert!(outside.is_err() && took < 2 * TIMEOUT, "the timeout around the call");
}
RS
cargo run --quiet
