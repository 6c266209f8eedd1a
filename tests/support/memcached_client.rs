//! A separate process that uses the Memcached server named by the environment.
//!
//! `memcached_client blocking <algorithm> <count> <per in ms> <for ms>` asks for permits of one key
//! by three threads, and `async` by sixteen tasks, as fast as it can. It goes on for a time or, if
//! that is 0, each until it is denied. Prints the time of each permit in microseconds.

use std::time::{Duration, Instant};

use ratelimit_runtime::MemcachedBackend;
use ratelimit_runtime::backend::{Answer, Backend, Request};
use ratelimit_tests::clients::{limit_of, millis_of, permit, request};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [how, algorithm, count, per, duration] = *arguments else { panic!("unknown arguments: {arguments:?}") };
    let request = request(limit_of(algorithm, count, per));
    // Without a deadline that a busy machine could miss.
    let backend = MemcachedBackend::from_env()
        .and_then(|_| MemcachedBackend::builder().timeout(Duration::from_secs(20)).build())
        .unwrap();
    let until = Some(millis_of(duration)).filter(|time| !time.is_zero()).map(|time| Instant::now() + time);
    let times = match how {
        "blocking" => in_threads(&backend, &request, until),
        "async" => in_tasks(&backend, &request, until),
        other => panic!("unknown: {other}"),
    };
    for time in times {
        println!("{time}");
    }
}

/// Notes when a permit was taken. Returns whether it was the last call.
fn takes(answer: &Answer, times: &mut Vec<u64>, until: Option<Instant>) -> bool {
    let permit = permit(&answer.outcome);
    times.extend(permit);
    until.map_or(permit.is_none(), |until| Instant::now() >= until)
}

fn in_threads(backend: &MemcachedBackend, request: &Request, until: Option<Instant>) -> Vec<u64> {
    let work = || {
        let mut times = Vec::new();
        while !takes(&backend.decide(request).unwrap(), &mut times, until) {}
        times
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn in_tasks(backend: &MemcachedBackend, request: &Request, until: Option<Instant>) -> Vec<u64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (backend, request) = (backend.clone(), request.clone());
            tasks.spawn(async move {
                let mut times = Vec::new();
                while !takes(&backend.decide_async(&request).unwrap().await.unwrap(), &mut times, until) {}
                times
            });
        }
        tasks.join_all().await.into_iter().flatten().collect()
    })
}
