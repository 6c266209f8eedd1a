#!/usr/bin/env bash
# failsafe (Rust) 1.3.0, 1 December 2026. Builds for half a minute.
#
# A circuit breaker that opens if less than half of the calls succeed within two seconds, given at
# least five calls: `success_rate_over_time_window(0.5, 5, ..)`. A service answers well, is not
# called for eight seconds, fails once, succeeds a thousand times at once and fails once more. One
# would guess that the circuit stays closed: 99.8 % succeeded. It opens. The moving average is
# documented to be "biased towards more recent requests". It weighs an answer by the time since the
# one before it: the failure after the pause is worth the whole pause, and the thousand together the
# millisecond or so that they took.
# The other way round, a thousand failures at once after a good answer leave the circuit closed.
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
failsafe = { version = "=1.3.0", default-features = false }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::thread::sleep;
use std::time::{Duration, Instant};

use failsafe::{CircuitBreaker, Config, backoff, failure_policy};

const WINDOW: Duration = Duration::from_secs(2);

fn breaker() -> impl CircuitBreaker {
    let pause = backoff::constant(Duration::from_secs(3_600));
    let policy = failure_policy::success_rate_over_time_window(0.5, 5, WINDOW, pause);
    Config::new().failure_policy(policy).build()
}

fn answers(breaker: &impl CircuitBreaker, times: usize, answer: Result<(), ()>) {
    (0..times).for_each(|_| drop(breaker.call(|| answer)));
}

/// Ten good answers in more than a window.
fn warm_up(breaker: &impl CircuitBreaker) {
    for _ in 0..10 {
        answers(breaker, 1, Ok(()));
        sleep(Duration::from_millis(250));
    }
}

fn main() {
    let (paused, steady) = (breaker(), breaker());
    warm_up(&paused);
    sleep(4 * WINDOW);
    let start = Instant::now();
    answers(&paused, 1, Err(()));
    answers(&paused, 1_000, Ok(()));
    answers(&paused, 1, Err(()));
    let took = start.elapsed();
    println!("a pause, a failure, 1,000 successes in {took:?}, a failure: call permitted: {}", paused.is_call_permitted());

    warm_up(&steady);
    answers(&steady, 1, Ok(()));
    let start = Instant::now();
    answers(&steady, 1_000, Err(()));
    let took_too = start.elapsed();
    println!("a success, 1,000 failures in {took_too:?}: call permitted: {}", steady.is_call_permitted());
    assert!(took < WINDOW / 4 && took_too < WINDOW / 4, "too slow a machine to tell");
    assert!(!paused.is_call_permitted() && steady.is_call_permitted());
}
RS
cargo run --quiet
