#!/usr/bin/env bash
# limitador (Rust) 0.14.0, 1 December 2026. Builds for a minute or two.
#
# Ten calls an hour for each user, counted in memory. "When storing the counters in memory, Limitador
# guarantees that we'll never go over the limits defined", say its docs. One would guess that of two
# threads' calls for one user, `check_rate_limited_and_update` lets ten through. Now and then it lets
# eleven through, here for some of thousands of users: it first compares all counters and then adds to
# them, each atomically, and a call of another thread may come in between. By one thread it is ten.
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
limitador = { version = "=0.14.0", default-features = false }

[profile.dev]
debug = 0
TOML
mkdir src
cat >src/main.rs <<'RUST'
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use limitador::limit::{Context, Limit};
use limitador::RateLimiter;

const LIMIT: usize = 10;

/// How many of so many calls for a user are admitted.
fn admitted(limiter: &RateLimiter, user: usize, calls: usize) -> usize {
    let context: Context = HashMap::from([("user".to_string(), user.to_string())]).into();
    let namespace = "api".into();
    (0..calls)
        .filter(|_| !limiter.check_rate_limited_and_update(&namespace, &context, 1).unwrap().limited)
        .count()
}

/// The users that so many threads asked for together, and the most that one of them was admitted.
fn run(threads: usize, users: usize, at_most: Duration) -> (usize, usize, usize) {
    let limiter = RateLimiter::new(1_000_000);
    limiter.add_limit(Limit::new("api", LIMIT as u64, 3600, vec![], vec!["user".try_into().unwrap()]));
    let start = Instant::now();
    let (mut asked, mut over, mut most) = (0, 0, 0);
    while asked < users && start.elapsed() < at_most && over < 5 {
        let arrived = AtomicUsize::new(0);
        let total: usize = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        while arrived.load(Ordering::SeqCst) < threads {
                            std::thread::yield_now();
                        }
                        admitted(&limiter, asked, 2 * LIMIT)
                    })
                })
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).sum()
        });
        asked += 1;
        over += usize::from(total > LIMIT);
        most = most.max(total);
    }
    (asked, over, most)
}

fn main() {
    let (users, over, most) = run(1, 1_000, Duration::MAX);
    println!("one thread: {over} of {users} users over the limit, at most {most} calls");
    let (users, over, more) = run(2, 900_000, Duration::from_secs(120));
    println!("two threads: {over} of {users} users over the limit, at most {more} calls");
    std::process::exit(i32::from(most != LIMIT || more <= LIMIT));
}
RUST
CARGO_TARGET_DIR=$directory/target cargo run --quiet
