//! A separate process that uses the Redis server named by the environment.
//!
//! `redis_client once` asks for one permit. `redis_client run <algorithm> <count> <per in ms> <for
//! ms>` asks for permits as fast as it can, and prints the server's time of each permit, in
//! microseconds; for 0 ms means until the first denial. `redis_client wait <count> <per in ms>
//! <calls>` lets that many calls wait for a permit each, and prints when. `redis_client crowd
//! <algorithm> <count> <per in ms> <in all> <every ms> <patience in ms>` lets calls come and give up
//! until all permits are used up, and prints how many were served.

use std::time::Duration;

use ratelimit_runtime::backend::{Backend, Outcome};
use ratelimit_runtime::{IntoBackend, Limit, RateLimiter, RedisBackend, limiters};
use ratelimit_tests::clients::{self, in_threads, limit_of, millis_of, request, until};
use ratelimit_tests::impatient;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["once"] => once(),
        ["run", algorithm, count, per, duration] => {
            let limit = limit_of(algorithm, count, per);
            run(limit, millis_of(duration));
        }
        ["wait", count, per, calls] => {
            wait(Limit::new(count.parse().unwrap(), millis_of(per)), calls.parse().unwrap());
        }
        ["crowd", algorithm, count, per, all, every, patience] => {
            let limit = limit_of(algorithm, count, per);
            println!("{}", crowd(limit, all.parse().unwrap(), millis_of(every), millis_of(patience)));
        }
        _ => panic!("unknown arguments: {arguments:?}"),
    }
}

fn once() {
    // Without a deadline that a busy machine could miss.
    let answer = RedisBackend::from_env()
        .and_then(|_| RedisBackend::builder().timeout(Duration::from_secs(20)).build())
        .and_then(|backend| backend.decide(&request(Limit::new(1, Duration::from_secs(3_600)))));
    match answer.map(|answer| answer.outcome) {
        Ok(Outcome::Admitted(_)) => println!("admitted"),
        Ok(_) => println!("denied"),
        Err(error) => println!("error: {:?}: {error}", error.kind()),
    }
}

fn run(limit: Limit, duration: Duration) {
    let backend = RedisBackend::builder().timeout(Duration::from_secs(20)).build().unwrap();
    clients::print(&in_threads(&backend, &request(limit), until(duration)));
}

fn wait(limit: Limit, calls: usize) {
    let backend = RedisBackend::builder().timeout(Duration::from_secs(20)).build().unwrap();
    let limiter = RateLimiter::builder("waiting").limit(limit).backend(backend).build().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..calls {
            scope.spawn(|| limiter.wait("a", 1).unwrap());
        }
        while limiters().iter().all(|limiter| limiter.waiting as u64 + limiter.allowed < calls as u64) {
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("waiting");
    });
}

fn crowd(limit: Limit, in_all: u32, every: Duration, patience: Duration) -> usize {
    let backend = RedisBackend::builder().timeout(Duration::from_secs(20)).build().unwrap();
    let limiter = impatient::limiter("crowd", backend.into_backend(), limit, in_all);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(impatient::served(&limiter, every, patience))
}
