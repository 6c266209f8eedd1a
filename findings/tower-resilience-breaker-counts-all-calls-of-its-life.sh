#!/usr/bin/env bash
# tower-resilience-circuitbreaker (Rust) 0.13.0, with tower 0.5.3 and tokio 1, 30 November 2026.
# Builds for half a minute.
#
# The builder's defaults: the circuit opens at half of the calls failed in a "sliding window" of 100,
# counted by calls. One would guess that a service which begins to fail after 10,000 good calls is cut
# off after 50 to 100 bad ones. It takes 10,000 bad ones, as many as there were good ones: the window
# only says how many calls there must be before the first decision, and no call ever leaves the
# counts until the circuit opens. So the longer a service was well, the longer its failure goes
# unnoticed. The window by time (`SlidingWindowType::TimeBased`) drops what is older.
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
tower = { version = "=0.5.3", features = ["util"] }
tower-resilience-circuitbreaker = "=0.13.0"
tower-resilience-core = "=0.13.0"
tokio = { version = "1", features = ["macros", "rt", "time"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::time::Duration;

use tower::{service_fn, Service, ServiceExt};
use tower_resilience_circuitbreaker::{CircuitBreakerLayer, CircuitState, SlidingWindowType};

/// How many calls fail, after so many good ones, before the circuit opens.
async fn failures_until_open(good: usize, window: SlidingWindowType) -> usize {
    let layer = CircuitBreakerLayer::builder()
        .sliding_window_type(window)
        .sliding_window_duration(Duration::from_secs(1))
        .build()
        .unwrap();
    let mut service = layer.layer_fn(service_fn(|is_well: bool| async move { is_well.then_some(()).ok_or("failed") }));
    for _ in 0..good {
        service.ready().await.unwrap().call(true).await.unwrap();
    }
    if window == SlidingWindowType::TimeBased {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    let mut failures = 0;
    while service.state_sync() == CircuitState::Closed && failures < 100_000 {
        let _ = service.ready().await.unwrap().call(false).await;
        failures += 1;
    }
    failures
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut seen = Vec::new();
    for good in [0, 100, 1_000, 10_000] {
        seen.push(failures_until_open(good, SlidingWindowType::CountBased).await);
        println!("window of 100 calls, {good:6} good calls, then {:6} bad ones until it opens", seen.last().unwrap());
    }
    let by_time = failures_until_open(10_000, SlidingWindowType::TimeBased).await;
    println!("window of 1 second,  10000 good calls, then {by_time:6} bad ones until it opens");
    assert_eq!(seen, [100, 100, 1_000, 10_000]);
    assert!(by_time <= 200);
}
RS
cargo run --quiet
