//! Processes that take permits of one key of a server: what the test starts, and what the clients
//! share.

use std::process::{Command, Stdio};
use std::time::Duration;

use ratelimit_runtime::Limit;
use ratelimit_runtime::backend::{Action, Outcome, Request};

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

/// The time of a permit in microseconds, if the call got one.
pub fn permit(outcome: &Outcome) -> Option<u64> {
    if let Outcome::Admitted(admitted) = outcome { Some(admitted.at().as_nanos() / 1_000) } else { None }
}
