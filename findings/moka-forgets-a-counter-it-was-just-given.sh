#!/usr/bin/env bash
# moka (Rust) 0.12.16, 1 December 2026. Builds for half a minute.
#
# Five calls an hour for each client, counted in a cache for a thousand clients, `max_capacity(1000)`
# and `time_to_live` of an hour. A thousand clients are busy and fill the cache. Then a new one
# comes. One would guess that some client's counter is dropped for its own, and that it gets five
# calls. Its counter is dropped itself, as soon as it is written: the cache, by default, admits an entry
# only if its key was asked for more often than that which would have to go (TinyLFU). So the first
# calls of the new client are each counted as the first, and it gets twice to three times its limit, as
# does each of a hundred new clients in turn. With `EvictionPolicy::lru()` each gets five.
# moka's documentation says that the policy "provides a near-optimal hit ratio". For a cache a miss
# costs time; for a counter it is a call too many.
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
moka = { version = "=0.12.16", features = ["sync"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

const LIMIT: u32 = 5;
const CLIENTS: u32 = 1_000;

fn admits(counters: &Cache<u32, u32>, client: u32) -> bool {
    let entry = counters.entry(client).and_upsert_with(|seen| seen.map_or(1, |entry| entry.into_value() + 1));
    // What the cache does by itself within half a second.
    counters.run_pending_tasks();
    entry.into_value() <= LIMIT
}

/// What new clients get of a hundred calls each, when busy ones have filled the cache: one that comes
/// alone, and a hundred that take turns.
fn admitted(policy: EvictionPolicy) -> (usize, usize, usize) {
    let counters = Cache::builder()
        .max_capacity(CLIENTS.into())
        .time_to_live(Duration::from_secs(3_600))
        .eviction_policy(policy)
        .build();
    for _ in 0..20 {
        for client in 0..CLIENTS {
            admits(&counters, client);
        }
    }
    let alone = (0..100).filter(|_| admits(&counters, CLIENTS)).count();
    let mut each = vec![0; 100];
    for _ in 0..100 {
        for (number, admitted) in each.iter_mut().enumerate() {
            *admitted += usize::from(admits(&counters, CLIENTS + 1 + number as u32));
        }
    }
    (alone, *each.iter().min().unwrap(), *each.iter().max().unwrap())
}

fn main() {
    let default = admitted(EvictionPolicy::tiny_lfu());
    let lru = admitted(EvictionPolicy::lru());
    for (name, (alone, least, most)) in [("TinyLFU, the default", default), ("LRU", lru)] {
        println!("{name}: a new client gets {alone} calls, each of a hundred new ones {least} to {most}");
    }
    assert!(default.0 >= 2 * LIMIT as usize && default.0 <= 4 * LIMIT as usize);
    assert!(default.1 >= 2 * LIMIT as usize && default.2 <= 4 * LIMIT as usize);
    assert_eq!(lru, (5, 5, 5));
}
RS
cargo run --quiet
