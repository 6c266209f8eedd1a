//! A separate process that uses the PostgreSQL server named by `DATABASE_URL`.
//!
//! `postgres_client run <algorithm> <count> <per in ms> <for ms>` asks for permits as fast as it can,
//! by threads and by tasks, until the first denial if the time is 0. Prints the server's time of
//! each permit, in microseconds.
//! `postgres_client attribute <calls>` calls functions with `backend = postgres`, blocking and async,
//! and prints how many of the calls were admitted. `postgres_client hold <timeout in ms>` takes one
//! permit, prints `ready`, waits for a line, and takes another.

use std::io::stdin;
use std::time::Duration;

use ratelimit_runtime::backend::Backend;
use ratelimit_runtime::{Limit, PostgresBackend, RateLimitExceeded, rate_limit};
use ratelimit_tests::clients::{self, in_tasks, in_threads, limit_of, millis_of, request, until};

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
    let (backend, request, until) = (backend(Duration::from_secs(20)), request(limit), until(duration));
    let times = std::thread::scope(|scope| {
        let threads = scope.spawn(|| in_threads(&backend, &request, until));
        let mut times = in_tasks(&backend, &request, until);
        times.extend(threads.join().unwrap());
        times
    });
    clients::print(&times);
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
