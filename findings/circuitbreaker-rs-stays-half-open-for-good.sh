#!/usr/bin/env bash
# circuitbreaker-rs (Rust) 0.1.1, with tokio 1, 1 December 2026. Builds for a minute.
#
# A breaker with its defaults: when the cooldown is over it is half open, lets six calls through as
# probes, and closes after three successes in a row. The service hangs, and four probes are cut off by
# the caller's `timeout`. From then on the service is well. One would guess that the circuit closes, or
# opens and tries again after the next cooldown. It stays half open and rejects all calls for good: a
# probe that is dropped is neither a success nor a failure, its place does not come back, and only the
# end of a probe leads out of half open. If three probes are cut off, the other three close it.
# The same happens without a timeout where fewer probes are allowed than successes are asked for, as
# with `probe_interval(1)`, "the number of probes to allow in half-open state", and the default three
# successes: two probes succeed, and all calls after them are rejected.
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
circuitbreaker-rs = { version = "=0.1.1", features = ["async"] }
tokio = { version = "1", features = ["macros", "rt", "time"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::time::Duration;

use circuitbreaker_rs::{CircuitBreaker, DefaultPolicy};
use tokio::time::{sleep, timeout};

const COOLDOWN: Duration = Duration::from_millis(200);

#[derive(Clone, Copy)]
enum Service {
    Fails,
    Hangs,
    Well,
}

struct Guarded(CircuitBreaker<DefaultPolicy, std::io::Error>);

impl Guarded {
    /// How many of the calls succeed, with a little time between them.
    async fn calls(&self, number: usize, service: Service) -> usize {
        let mut succeeded = 0;
        for _ in 0..number {
            let call = self.0.call_async(|| async move {
                match service {
                    Service::Fails => Err(std::io::Error::other("down")),
                    Service::Hangs => std::future::pending().await,
                    Service::Well => Ok(()),
                }
            });
            if let Ok(Ok(())) = timeout(Duration::from_millis(10), call).await {
                succeeded += 1;
            }
        }
        succeeded
    }

    /// How many of a hundred calls succeed, long after the service is well again.
    async fn recovered(&self) -> usize {
        self.calls(20, Service::Well).await;
        sleep(COOLDOWN * 5).await;
        let succeeded = self.calls(100, Service::Well).await;
        println!("{:?}, {succeeded} of 100 calls succeed", self.0.current_state());
        succeeded
    }
}

async fn opened(probes: Option<u32>) -> Guarded {
    let builder = CircuitBreaker::<DefaultPolicy, std::io::Error>::builder().cooldown(COOLDOWN);
    let builder = if let Some(probes) = probes { builder.probe_interval(probes) } else { builder };
    let guarded = Guarded(builder.build());
    guarded.calls(10, Service::Fails).await;
    sleep(COOLDOWN * 2).await;
    guarded
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut seen = Vec::new();
    for hanging in [0, 3, 4] {
        let guarded = opened(None).await;
        guarded.calls(hanging, Service::Hangs).await;
        print!("defaults, {hanging} probes were cut off, then the service is well: ");
        seen.push(guarded.recovered().await);
    }
    for probes in [1, 3] {
        print!("probe_interval({probes}), the service is well: ");
        seen.push(opened(Some(probes)).await.recovered().await);
    }
    assert_eq!(seen, [100, 100, 0, 0, 100]);
}
RS
cargo run --quiet
