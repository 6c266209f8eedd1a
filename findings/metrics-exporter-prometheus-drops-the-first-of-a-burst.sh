#!/usr/bin/env bash
# metrics-exporter-prometheus (Rust) 0.18.3 with metrics 0.24, 1 December 2026. Builds for half a
# minute.
#
# A histogram of how long calls wait, with the exporter's defaults, by which it is shown as a summary
# with quantiles. It is new, or there was no call for a minute. Then a hundred calls come between two
# scrapes: 64 that waited for 30 seconds and 36 that waited for 10 ms. One would guess a median of 30
# seconds. All quantiles say 10 ms, the highest, `quantile="1"`, too: samples are kept in blocks of 64,
# and read with the newest block first. The first sample that is read begins the summary, and
# older ones are dropped from it, though not from `_sum` and `_count`. So of a burst after a pause,
# only the last 1 to 64 calls are seen. Of 64 calls or fewer none is dropped, nor of a hundred that
# follow a moment after a call which was scraped.
# Who watches the waits of a limited service by these quantiles misses what began a burst, such as
# the calls that were held back. The average, of `_sum` and `_count`, is right.
# The quantiles of a hundred waits, and what sum and count say.
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
metrics = "0.24"
metrics-exporter-prometheus = { version = "=0.18.3", default-features = false }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::thread::sleep;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;

const SLOW: f64 = 30.0;
const QUICK: f64 = 0.01;

/// The median, the highest and the average, after one call that is scraped, or none, and a burst.
fn burst(name: &str, scraped: bool, slow: usize) -> [f64; 3] {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        if scraped {
            metrics::histogram!("wait_seconds").record(QUICK);
            handle.render();
            sleep(Duration::from_millis(50));
        }
        for _ in 0..slow {
            metrics::histogram!("wait_seconds").record(SLOW);
        }
        for _ in 0..36 {
            metrics::histogram!("wait_seconds").record(QUICK);
        }
    });
    let page = handle.render();
    let value = |what: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(&format!("wait_seconds{what} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let seen = [value("{quantile=\"0.5\"}"), value("{quantile=\"1\"}"), value("_sum") / value("_count")];
    println!("{name}: median {:.2} s, highest {:.2} s, average {:.2} s", seen[0], seen[1], seen[2]);
    seen
}

fn main() {
    let first = burst("64 slow and 36 quick calls, the first of all", false, 64);
    let after = burst("the same, a moment after a call that was scraped", true, 64);
    let fewer = burst("28 slow and 36 quick calls, the first of all", false, 28);
    let about = |value: f64, other: f64| (value - other).abs() < 0.02 * other;
    assert!(about(first[0], QUICK) && about(first[1], QUICK) && first[2] > 19.0);
    assert!(about(after[0], SLOW) && about(after[1], SLOW) && after[2] > 18.0);
    assert!(about(fewer[1], SLOW));
}
RS
cargo run --quiet
