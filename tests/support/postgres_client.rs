//! A separate process that uses the PostgreSQL server named by `DATABASE_URL`.
//!
//! `postgres_client run <algorithm> <count> <per in ms> <for ms>` asks for permits as fast as it can,
//! by threads and by tasks, and prints the server's time of each permit, in microseconds.
//! `postgres_client attribute <calls>` calls functions with `backend = postgres`, blocking and async,
//! and prints how many of the calls were admitted. `postgres_client hold <timeout in ms>` takes one
//! permit, prints `ready`, waits for a line, and takes another.

use std::io::stdin;
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::Backend;
use ratelimit_runtime::{Limit, PostgresBackend, RateLimitExceeded, rate_limit};
use ratelimit_tests::clients::{limit_of, millis_of, permit, request};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["run", algorithm, count, per, duration] => {
            let limit = limit_of(algorithm, count, per);
            run(limit, millis_of(duration));
        }
        ["attribute", calls] => attribute(calls.parse().unwrap()),
        ["hold", timeout] => hold(millis_of(timeout)),
        _ => panic!("unknown arguments: {arguments:?}"),
    }
}

/// From environment to builder, for a deadline that a busy machine does not miss.
fn backend(timeout: Duration) -> PostgresBackend {
    PostgresBackend::from_env().unwrap();
    PostgresBackend::builder().timeout(timeout).build().unwrap()
}

fn run(limit: Limit, duration: Duration) {
    let (backend, request) = (backend(Duration::from_secs(20)), request(limit));
    let until = Instant::now() + duration;
    let blocking = || {
        let mut permits = Vec::new();
        while Instant::now() < until {
            permits.extend(permit(&backend.decide(&request).unwrap().outcome));
        }
        permits
    };
    let tasks = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let task = || {
                let (backend, request) = (backend.clone(), request.clone());
                tokio::spawn(async move {
                    let mut permits = Vec::new();
                    while Instant::now() < until {
                        permits.extend(permit(&backend.decide_async(&request).unwrap().await.unwrap().outcome));
                    }
                    permits
                })
            };
            let mut permits = Vec::new();
            for task in (0..8).map(|_| task()).collect::<Vec<_>>() {
                permits.extend(task.await.unwrap());
            }
            permits
        })
    };
    let permits = std::thread::scope(|scope| {
        let threads = [scope.spawn(blocking), scope.spawn(blocking), scope.spawn(tasks)];
        threads.map(|thread| thread.join().unwrap()).concat()
    });
    for permit in permits {
        println!("{permit}");
    }
}

#[rate_limit(count = 5, per = "1h", key = user, name = "attribute", backend = postgres, on_backend_error = deny)]
fn blocking(user: &str) -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, per = "1h", key = user, name = "attribute", backend = postgres, on_backend_error = deny)]
async fn asynchronous(user: &str) -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn attribute(calls: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let call = |number: &usize| match number % 2 {
        0 => blocking("ann").is_ok(),
        _ => runtime.block_on(asynchronous("ann")).is_ok(),
    };
    println!("{}", (0..calls).filter(call).count());
}

fn hold(timeout: Duration) {
    let (backend, request) = (backend(timeout), request(Limit::new(1_000, Duration::from_secs(3_600))));
    backend.decide(&request).unwrap();
    println!("ready");
    stdin().read_line(&mut String::new()).unwrap();
    println!("{:?}", backend.decide(&request).map(|answer| answer.outcome));
}
