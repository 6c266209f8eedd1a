#!/usr/bin/env bash
# tower-resilience-adaptive 0.13.0 and congestion-limiter 0.1.0 (both Rust), with tokio 1 and its
# paused clock, 30 November 2026. Builds for half a minute.
#
# Both limit concurrency by Vegas: the time that answers take above the fastest one is queueing, and
# queueing lowers the limit. A service answers in 20 ms, whatever the load, and once, from a cache, in
# 1 ms. One would guess that the limit dips and recovers. Netflix's concurrency-limits, by its source,
# measures its base anew after some hundred calls. Both crates keep the fastest answer of their lives.
# The first holds the limit at 1, its minimum, here for a million answers. The second, which considers
# how many calls are in flight, stays at 6. Without the fast answer both go to their maximum, 100.
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
congestion-limiter = "=0.1.0"
tower-resilience-adaptive = "=0.13.0"
tower-resilience-core = "=0.13.0"
tokio = { version = "1", features = ["macros", "rt", "test-util", "time"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::time::Duration;

use congestion_limiter::limiter::{DefaultLimiter, Limiter, Outcome};
use congestion_limiter::limits;
use tower_resilience_adaptive::{ConcurrencyAlgorithm, Vegas};

const USUAL: Duration = Duration::from_millis(20);
const FAST: Duration = Duration::from_millis(1);

fn tower_resilience(fast: bool, answers: usize) -> usize {
    let vegas = Vegas::builder().build().unwrap();
    if fast {
        vegas.record_success(FAST);
    }
    (0..answers).for_each(|_| vegas.record_success(USUAL));
    vegas.limit()
}

/// As many calls at a time as the limit lets through.
async fn congestion_limiter(fast: bool, rounds: usize) -> usize {
    let limiter = DefaultLimiter::new(limits::Vegas::new(10, 1..=100));
    if fast {
        let token = limiter.try_acquire().await.unwrap();
        tokio::time::advance(FAST).await;
        limiter.release(token, Some(Outcome::Success)).await;
    }
    let mut at_once = 0;
    for _ in 0..rounds {
        let mut tokens = Vec::new();
        while let Some(token) = limiter.try_acquire().await {
            tokens.push(token);
        }
        at_once = tokens.len();
        tokio::time::advance(USUAL).await;
        for token in tokens {
            limiter.release(token, Some(Outcome::Success)).await;
            tokio::task::yield_now().await;
        }
    }
    at_once
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let mut seen = Vec::new();
    for fast in [false, true] {
        seen.push((tower_resilience(fast, 100), tower_resilience(fast, 1_000_000)));
        seen.push((congestion_limiter(fast, 100).await, congestion_limiter(fast, 20_000).await));
        let [.., tower, congestion] = seen[..] else { unreachable!() };
        println!("{}", if fast { "after one answer in 1 ms:" } else { "all answers in 20 ms:" });
        println!("    tower-resilience, limit after 100 and 1,000,000 answers: {tower:?}");
        println!("    congestion-limiter, calls at once after 100 and 20,000 rounds: {congestion:?}");
    }
    assert_eq!(seen, [(100, 100), (100, 100), (1, 1), (6, 6)]);
}
RS
cargo run --quiet
