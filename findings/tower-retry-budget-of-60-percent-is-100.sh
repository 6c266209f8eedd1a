#!/usr/bin/env bash
# tower (Rust) 0.5.3, with tokio 1 and its paused clock, 30 November 2026. Builds for half a minute.
#
# A budget that lets 60 % of the requests be repeated: `TpsBudget::new(ttl, 0, 0.6)`. One would guess
# that 1,000 requests pay for 600 repetitions. They pay for 1,000: the budget counts in whole numbers,
# a request brings 1 and a repetition costs 1 / 0.6, rounded down to 1. Only halves, thirds, quarters
# and so on are exact: 0.3 is a third, 0.4 a half, and all from 0.51 on are 100 %. Above 1.0 a request
# brings 1,000, and 1.1 is 110 %. By its source, reqwest 0.13.5 passes its `max_extra_load` to this
# budget. Its documentation says that 0.3 allows 300 more in 1,000.
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
tower = { version = "=0.5.3", features = ["retry"] }
tokio = { version = "1", features = ["macros", "rt", "test-util", "time"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::time::Duration;

use tower::retry::budget::{Budget, TpsBudget};

const REQUESTS: usize = 1_000;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let mut seen = Vec::new();
    for share in [0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.51, 0.6, 0.8, 1.0, 1.1, 2.0] {
        let budget = TpsBudget::new(Duration::from_secs(10), 0, share);
        (0..REQUESTS).for_each(|_| budget.deposit());
        let repetitions = (0..10 * REQUESTS).take_while(|_| budget.withdraw()).count();
        println!("{share:4}: {REQUESTS} requests pay for {repetitions} repetitions");
        seen.push(repetitions);
    }
    assert_eq!(seen, [100, 200, 250, 333, 500, 500, 1000, 1000, 1000, 1000, 1100, 2000]);
}
RS
cargo run --quiet
