//! Forking processes: the child has its own threads and connections. The scenarios are in
//! `support/forking.rs`.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ratelimit_tests::{MemcachedServer, PostgresServer, RedisServer};

/// Runs a scenario. Fails if parent or child fails or does not end.
#[track_caller]
fn run(scenario: &str, url: &str) {
    let mut forking = Command::new(env!("CARGO_BIN_EXE_forking"));
    let mut process = forking.args([scenario, url]).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > Duration::from_secs(60) {
            process.kill().unwrap();
            panic!("it hangs");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let mut errors = String::new();
    process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(status.success(), "{errors}");
}

#[test]
fn buckets_in_memory_are_copied() {
    run("memory", "");
}

#[test]
fn a_future_of_the_child_that_waits_is_woken() {
    run("wait", "");
}

#[test]
fn the_child_does_not_wait_behind_calls_of_its_parent() {
    run("wait-behind", "");
}

#[test]
fn a_future_that_waits_when_the_process_forks_ends_in_both() {
    run("wait-across", "");
}

#[test]
fn the_child_leaves_the_snapshot_to_its_parent() {
    let path = std::env::temp_dir().join(format!("ratelimit-fork-{}.snapshot", std::process::id()));
    run("kept", path.to_str().unwrap());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_child_asks_a_blocking_store() {
    run("store", "");
}

#[test]
fn the_deadline_of_a_store_that_hangs_fires_in_the_child() {
    run("silent-store", "");
}

#[test]
fn blocking_redis_calls_get_their_own_answers() {
    run("redis-blocking", &RedisServer::start().url());
}

#[test]
fn async_redis_calls_get_their_own_answers() {
    run("redis-async", &RedisServer::start().url());
}

#[test]
fn async_redis_calls_without_a_runtime_get_their_own_answers() {
    run("redis-without-runtime", &RedisServer::start().url());
}

#[test]
fn blocking_memcached_calls_get_their_own_answers() {
    run("memcached-blocking", &MemcachedServer::start().url());
}

#[test]
fn async_memcached_calls_get_their_own_answers() {
    run("memcached-async", &MemcachedServer::start().url());
}

#[test]
fn async_memcached_calls_without_a_runtime_get_their_own_answers() {
    run("memcached-without-runtime", &MemcachedServer::start().url());
}

#[test]
fn postgres_calls_get_their_own_answers() {
    run("postgres", &PostgresServer::start().url());
}

#[test]
fn the_child_does_not_spend_its_parents_lease() {
    run("redis-lease", &RedisServer::start().url());
}
