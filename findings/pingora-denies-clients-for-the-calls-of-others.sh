#!/usr/bin/env bash
# pingora-limits (Rust) 0.9.1, 1 December 2026. Builds for half a minute.
#
# A limit of five calls a window for each client: a call is denied if `Rate::observe(client, 1)` is
# above 5, as in Pingora's own guide. It is to "return number of events seen so far in the current
# interval". One would guess that clients that call once each are all admitted. Of 10,000 clients
# about a quarter is denied at the only call, of 100,000 nine in ten: `Rate::new` counts in four
# rows of 1,024 counters (a count-min sketch) that all clients share. With 100,000 clients, a client
# that has not called yet has about eighty calls. The size is a constant, and its docs do not say
# for how many clients. With a million counters in a row, none is denied.
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
pingora-limits = "=0.9.1"
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::time::Duration;

use pingora_limits::rate::Rate;

const LIMIT: isize = 5;
const WINDOW: Duration = Duration::from_secs(3_600);

/// The share of clients that are denied at their first and only call.
fn denied(rate: &Rate, clients: usize) -> f64 {
    let calls = (0..clients).map(|client| rate.observe(&format!("client {client}"), 1));
    calls.filter(|&count| count > LIMIT).count() as f64 / clients as f64
}

fn main() {
    for (clients, expected) in [(1_000, 0.0..0.01), (10_000, 0.1..0.5), (100_000, 0.8..1.0)] {
        let rate = Rate::new(WINDOW);
        let share = denied(&rate, clients);
        let stranger = rate.observe(&"a client that has not called", 0);
        println!("{clients} clients, one call each, limit {LIMIT}: {share:.3} are denied; a stranger has {stranger} calls");
        assert!(expected.contains(&share));
    }
    let large = Rate::new_with_estimator_config(WINDOW, 4, 1 << 20);
    let share = denied(&large, 100_000);
    println!("100000 clients with 2^20 counters in each row: {share:.3} are denied");
    assert_eq!(share, 0.0);
}
RS
cargo run --quiet
