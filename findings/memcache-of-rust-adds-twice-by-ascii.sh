#!/usr/bin/env bash
# memcache (Rust) 0.21.0 with memcached 1.6.18, 1 December 2026. Builds for half a minute.
#
# The client speaks two protocols, binary by default and ASCII with `?protocol=ascii`. One would guess
# that a call has the same outcome in both, and that of two workers which `add` the same key, to hold
# a lock, one gets an error. By binary the second gets `KeyExists`. By ASCII both get `Ok`: the
# server's NOT_STORED is dropped, and with it the only thing that `add` is to tell. `replace` of a
# key that is not there is `Ok` by ASCII as well, and stores nothing.
# Counting differs the other way round. Of a key that is not there, `increment` says `KeyNotFound` by
# ASCII, and a program then adds the counter with the period as its expiry. By binary it is `Ok(0)`,
# and the key is there now and never expires. So a limiter counts the first call as 0 and denies for
# good once the limit is reached; the `add` that should have set the expiry fails.
# Three calls in a window of two seconds, and three more after it: what the counter says.
set -euo pipefail
command -v memcached >/dev/null || { echo "install memcached (Debian: apt-get install memcached)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
cd "$directory"
mkdir src
memcached -l 127.0.0.1 -p "$port" -u nobody &

cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
memcache = { version = "=0.21.0", default-features = false }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::thread::sleep;
use std::time::Duration;

use memcache::{Client, CommandError, MemcacheError};

const SECONDS: u32 = 2;

/// Counts a call: the counter begins with its first call and is to end after the period.
fn count(client: &Client, key: &str) -> u64 {
    match client.increment(key, 1) {
        Ok(count) => count,
        Err(MemcacheError::CommandError(CommandError::KeyNotFound)) => {
            client.add(key, 1, SECONDS).unwrap();
            1
        }
        Err(error) => panic!("{error}"),
    }
}

fn main() {
    let port = std::env::args().nth(1).unwrap();
    let mut seen = Vec::new();
    for protocol in ["binary", "ascii"] {
        let address = format!("memcache://127.0.0.1:{port}?protocol={protocol}&timeout=5");
        let client = (0..50).find_map(|_| {
            sleep(Duration::from_millis(100));
            memcache::connect(address.as_str()).ok()
        }).expect("memcached answers");
        let lock = format!("lock-{protocol}");
        let locks = [1, 2].map(|worker| client.add(&lock, worker, 60).is_ok());
        let holder: Option<u32> = client.get(&lock).unwrap();
        let replaced = client.replace(&format!("nothing-{protocol}"), 1, 60).is_ok();
        let there: Option<u32> = client.get(&format!("nothing-{protocol}")).unwrap();
        let key = format!("calls-{protocol}");
        let mut counts = Vec::new();
        for pause in [0, 0, 0, SECONDS as u64 + 2, 0, 0] {
            sleep(Duration::from_secs(pause));
            counts.push(count(&client, &key));
        }
        println!("{protocol}: add of worker 1 and 2 ok: {locks:?}, the key says {holder:?}");
        println!("{protocol}: replace of no key ok: {replaced}, the key says {there:?}");
        println!("{protocol}: counts {counts:?}");
        seen.push((locks, holder, replaced, there, counts));
    }
    assert_eq!(seen[0], ([true, false], Some(1), false, None, vec![0, 1, 2, 3, 4, 5]));
    assert_eq!(seen[1], ([true, true], Some(1), true, None, vec![1, 2, 3, 1, 2, 3]));
}
RS
cargo run --quiet -- "$port"
