#!/usr/bin/env bash
# redis (Rust) 1.8.1 with Redis 7.0.15 and tokio 1, 1 December 2026. Builds for half a minute.
#
# Two permits in a list of Redis: who works takes one by `BLPOP`, with a timeout of five seconds, and
# puts it back. Two hold them for two seconds, and two more wait. One would guess that these get the
# permits after two seconds. Both get an error after half a second, whatever timeout `blpop` is given:
# asynchronous connections give up an answer after 500 ms by default. That the notes on the move to
# version 1 say. But the command goes on in the server. When the permits come back, it hands them to
# the two that gave up, the client drops its answers, and the list is empty with nobody at work: all
# who come later wait in vain. The same happens to jobs of a queue that is read by `BLPOP`.
# With `set_response_timeout(None)` the two get the permits after two seconds.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
cd "$directory"
mkdir src
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &

cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
redis = { version = "=1.8.1", default-features = false, features = ["tokio-comp"] }
tokio = { version = "1", features = ["macros", "rt", "time"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, AsyncConnectionConfig, Client};
use tokio::time::sleep;

const HELD: Duration = Duration::from_secs(2);
const WAIT: f64 = 5.0;

/// Takes a permit and returns whether there was one, and after what time that was known.
async fn take(mut connection: MultiplexedConnection, list: &str) -> (bool, f64) {
    let start = Instant::now();
    let permit: redis::RedisResult<Option<(String, String)>> = connection.blpop(list, WAIT).await;
    (matches!(permit, Ok(Some(_))), start.elapsed().as_secs_f64())
}

/// What two get that wait while two others hold the permits, and the permits in the list when
/// everyone is done.
async fn run(client: &Client, list: &str, config: &AsyncConnectionConfig) -> ([(bool, f64); 2], usize) {
    let connect = || async { client.get_multiplexed_async_connection_with_config(config).await.unwrap() };
    let mut holder = connect().await;
    let _: () = holder.rpush(list, &["permit", "permit"]).await.unwrap();
    for _ in 0..2 {
        assert!(take(connect().await, list).await.0);
    }
    let waiting = [connect().await, connect().await].map(|connection| {
        let list = list.to_owned();
        tokio::spawn(async move {
            let taken = take(connection.clone(), &list).await;
            (taken, connection)
        })
    });
    sleep(HELD).await;
    for _ in 0..2 {
        let _: () = holder.rpush(list, "permit").await.unwrap();
    }
    let mut seen = Vec::new();
    // The connections stay open, as those of a service do.
    let mut connections = Vec::new();
    for one in waiting {
        let (taken, connection) = one.await.unwrap();
        if taken.0 {
            let _: () = holder.rpush(list, "permit").await.unwrap();
        }
        seen.push(taken);
        connections.push(connection);
    }
    sleep(Duration::from_millis(200)).await;
    (seen.try_into().unwrap(), holder.llen(list).await.unwrap())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let client = Client::open(("127.0.0.1", port)).unwrap();
    while client.get_connection().is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    let default = AsyncConnectionConfig::new();
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    let by_default = run(&client, "default", &default).await;
    let with_none = run(&client, "patient", &patient).await;
    for (name, (seen, left)) in [("by default", by_default), ("set_response_timeout(None)", with_none)] {
        for (got, after) in seen {
            println!("{name}: {} after {after:.1} s", if got { "a permit" } else { "no permit" });
        }
        println!("{name}: nobody works, and there are {left} permits of two");
    }
    assert!(by_default.0.iter().all(|(got, after)| !got && *after < 1.5) && by_default.1 == 0);
    assert!(with_none.0.iter().all(|(got, after)| *got && *after > 1.5) && with_none.1 == 2);
}
RS
cargo run --quiet -- "$port"
