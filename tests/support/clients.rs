//! Processes that take permits of one key of a server: what the test starts, and what the clients
//! share.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ratelimit_runtime::Limit;
use ratelimit_runtime::backend::{Action, Answer, Backend, Outcome, Request};

use crate::ALGORITHMS;

/// The processes that a test starts.
const PROCESSES: usize = 4;

/// Times of all admissions of all processes, in microseconds, sorted. Each process is
/// `program how <algorithm> <count> <per> <for>`, times in milliseconds, with one environment
/// variable: where the server is.
///
/// # Panics
/// If a process fails.
pub fn admissions(program: &str, server: (&str, &str), how: &str, limit: &Limit, duration: Duration) -> Vec<u64> {
    let [per, duration] = [limit.per(), duration].map(|time| time.as_millis().to_string());
    let start = || {
        Command::new(program)
            .args([how, limit.algorithm().name(), &limit.count().to_string(), &per, &duration])
            .env(server.0, server.1)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let processes: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    let mut times = Vec::new();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        times.extend(text.lines().map(|line| line.parse::<u64>().unwrap()));
    }
    times.sort_unstable();
    times
}

/// An argument in milliseconds.
///
/// # Panics
/// If it is no number.
pub fn millis_of(argument: &str) -> Duration {
    Duration::from_millis(argument.parse().unwrap())
}

/// The limit of a client's arguments.
///
/// # Panics
/// If they are none.
pub fn limit_of(algorithm: &str, count: &str, per: &str) -> Limit {
    let algorithm = ALGORITHMS.into_iter().find(|known| known.name() == algorithm).unwrap();
    Limit::new(count.parse().unwrap(), millis_of(per)).with_algorithm(algorithm)
}

/// A client's call for a permit.
pub fn request(limit: Limit) -> Request {
    let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
    Request::new(format!("rl:1:{{client:{}}}:x", limit.algorithm().name()), &[limit], take)
}

/// When to end: after a time or, if that is 0, at the first denial.
pub fn until(duration: Duration) -> Option<Instant> {
    (!duration.is_zero()).then(|| Instant::now() + duration)
}

/// Notes when a permit was taken, in microseconds. Returns whether it was the last call.
fn takes(answer: &Answer, times: &mut Vec<u64>, until: Option<Instant>) -> bool {
    let permit = match &answer.outcome {
        Outcome::Admitted(admitted) => Some(admitted.at().as_nanos() / 1_000),
        _ => None,
    };
    times.extend(permit);
    until.map_or(permit.is_none(), |until| Instant::now() >= until)
}

/// Takes permits by three threads, as fast as they can. Returns the time of each permit.
///
/// # Panics
/// If a call fails.
pub fn in_threads<B: Backend>(backend: &B, request: &Request, until: Option<Instant>) -> Vec<u64> {
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

/// Takes permits by sixteen tasks.
///
/// # Panics
/// If a call fails.
pub fn in_tasks<B: Backend + Clone>(backend: &B, request: &Request, until: Option<Instant>) -> Vec<u64> {
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

/// Prints the times, for [`admissions`].
pub fn print(times: &[u64]) {
    for time in times {
        println!("{time}");
    }
}
