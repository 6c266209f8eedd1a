#!/usr/bin/env bash
# ratelimit (Rust) 2.0.0, with a clock that the program sets, 1 December 2026. Builds for half a
# minute.
#
# A token bucket of one a day, `Ratelimiter::builder(1).period(..)`, "allowing accurate rate
# limiting at any rate", and a program that tries. One would guess that it gets a token a day, however
# often it tries. Within forty days it gets 38 if it tries each second, and 20 if it tries each 170
# ms. Tokens are kept in millionths, and each attempt rounds down what has flowed in since the one
# before: of 1.97 millionths it adds one, and the rest is lost. The wait that a denial names starts
# anew each time. One an hour loses half to attempts each 7 ms. With ten a second the rounding does
# not show. So a limiter with a long period, in front of a service with some requests a second, admits
# as little as half of its limit.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"

cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
ratelimit = "=2.0.0"
TOML
mkdir src
cat >src/main.rs <<'RUST'
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ratelimit::{Builder, Clock};

/// Nanoseconds that the program sets.
#[derive(Clone, Default)]
struct Manual(Arc<AtomicU64>);

impl Clock for Manual {
    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// The tokens that attempts at this interval get within forty periods.
fn tokens(rate: u64, period: Duration, interval: Duration) -> usize {
    let clock = Manual::default();
    let limiter = Builder::with_clock(rate, clock.clone()).period(period).max_tokens(1).build().unwrap();
    let attempts = (period * 40).as_nanos() / interval.as_nanos();
    (0..attempts)
        .filter(|_| {
            clock.0.fetch_add(u64::try_from(interval.as_nanos()).unwrap(), Ordering::Relaxed);
            limiter.try_wait().is_ok()
        })
        .count()
}

fn main() {
    let (second, hour, day) = (Duration::from_secs(1), Duration::from_secs(3600), Duration::from_secs(86_400));
    let cases = [
        ("one a day", 1, day, Duration::from_secs(1), 37..=40),
        ("one a day", 1, day, Duration::from_millis(170), 20..=21),
        ("one an hour", 1, hour, Duration::from_secs(1), 37..=40),
        ("one an hour", 1, hour, Duration::from_millis(7), 20..=21),
        ("ten a second", 10, second, Duration::from_micros(5), 396..=400),
    ];
    let mut as_found = true;
    for (name, rate, period, interval, expected) in cases {
        let tokens = tokens(rate, period, interval);
        println!("{name}, an attempt each {interval:?}: {tokens} tokens in forty periods");
        as_found &= expected.contains(&tokens);
    }
    std::process::exit(i32::from(!as_found));
}
RUST
CARGO_TARGET_DIR=$directory/target cargo run --quiet --release
