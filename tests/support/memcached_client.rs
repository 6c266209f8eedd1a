//! A separate process that uses the Memcached server named by the environment.
//!
//! `memcached_client blocking <algorithm> <count> <per in ms> <for ms>` asks for permits of one key
//! by three threads, and `async` by sixteen tasks, as fast as it can. It goes on for a time or, if
//! that is 0, each until it is denied. Prints the time of each permit in microseconds.

use std::time::Duration;

use ratelimit_runtime::MemcachedBackend;
use ratelimit_tests::clients::{self, in_tasks, in_threads, limit_of, millis_of, request, until};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [how, algorithm, count, per, duration] = *arguments else { panic!("unknown arguments: {arguments:?}") };
    let request = request(limit_of(algorithm, count, per));
    // Without a deadline that a busy machine could miss.
    let backend = MemcachedBackend::from_env()
        .and_then(|_| MemcachedBackend::builder().timeout(Duration::from_secs(20)).build())
        .unwrap();
    let until = until(millis_of(duration));
    clients::print(&match how {
        "blocking" => in_threads(&backend, &request, until),
        "async" => in_tasks(&backend, &request, until),
        other => panic!("unknown: {other}"),
    });
}
