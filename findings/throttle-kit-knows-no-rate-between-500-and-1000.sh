#!/usr/bin/env bash
# throttle-kit (Rust) 2.1.2 with Redis 7.0.15, 30 November 2026. Builds for a minute.
#
# One would guess that `Quota::per_second(600)` admits 600 a second. In memory it admits 1000, as does
# any quota from 501 on: the time between two requests is kept in whole milliseconds, rounded down, so
# the rates above 250 are 333, 500 and 1000. With Redis, the interval of 1500 a second becomes 0, the
# script's `PX 0` is an error, and errors admit: nothing is limited.
# Its `X-RateLimit-Remaining` counts upwards: 1 after the first of five requests, 5 after the last.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &
trap 'kill %1; rm -rf "$directory"' EXIT
cd "$directory"
mkdir src

cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
throttle-kit = { version = "=2.1.2", features = ["redis"] }
tokio = { version = "1", features = ["macros", "rt", "time"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::time::{Duration, Instant};

use throttle_kit::{InMemoryBackend, Quota, RateLimitBackend, RateLimiter, RedisBackend};

/// Admissions a second, over two seconds, of a client that asks more often than it may.
async fn admitted<B: RateLimitBackend>(backend: B, rate: u32) -> u32 {
    let limiter = RateLimiter::new(Quota::per_second(rate).allow_burst(20), backend);
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(2) {
        count += u32::from(limiter.check("a client").await.allowed);
        std::thread::sleep(Duration::from_micros(50));
    }
    count / 2
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let limiter = RateLimiter::new(Quota::per_hour(5), InMemoryBackend::new());
    let mut remaining = Vec::new();
    for _ in 0..6 {
        let result = limiter.check("a client").await;
        remaining.extend(result.headers().into_iter().filter(|(name, _)| name.ends_with("Remaining")).map(|(_, value)| value));
    }
    println!("5 an hour, X-RateLimit-Remaining of six calls: {}", remaining.join(" "));

    let slow = admitted(InMemoryBackend::new(), 200).await;
    let memory = admitted(InMemoryBackend::new(), 600).await;
    println!("in memory: 200 a second admits {slow}, 600 a second admits {memory}");

    let url = std::env::args().nth(1).unwrap();
    let limiter = RateLimiter::new(Quota::per_second(1500), RedisBackend::connect(&url).await.unwrap());
    let mut redis = 0;
    for _ in 0..5000 {
        redis += u32::from(limiter.check("a client").await.allowed);
    }
    println!("in Redis: 1500 a second admits {redis} of 5000 at once");

    let as_found = remaining == ["1", "2", "3", "4", "5", "0"] && (180..=215).contains(&slow) && memory > 700 && redis == 5000;
    std::process::exit(i32::from(!as_found));
}
RS
cargo build --quiet
target/debug/finding "redis://127.0.0.1:$port" 2>errors && status=0 || status=$?
sort errors | uniq -c
exit "$status"
