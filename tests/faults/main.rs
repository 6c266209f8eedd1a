//! Redis on its bad days, counted: eight processes share limits while servers are stopped, killed, cut off, flushed and
//! replaced; all that they were admitted is held against the limits. `scripts/faults` runs it; CONTRIBUTING.md says what its
//! figures mean.
//!
//! `faults [PHASE..]` runs the phases that are named, or all, each for `FAULTS_SECONDS` (12). `migrate` runs if it is named:
//! it needs Valkey 9, as `redis-server` on the `PATH`.
//!
//! # How admissions are timed
//! By the clock of the server that decided, which its answer says: a limiter's backend here is Redis with a recorder in front.
//! All servers are on this machine, so that there is one clock, and what was decided before a server was killed is known from
//! what was decided after. Permits that were leased are spent without a server: at some time during the call, so that only what
//! was surely in an interval counts.
//!
//! # What it is to keep data
//! A server that is stopped, cut off, or has its scripts flushed keeps its data, and so does one that is killed but wrote down
//! each decision before it answered (`appendfsync always`), and a master of a cluster that hands over to its replica: limits
//! must be kept from the first to the last call. A server that is killed and kept nothing begins anew, and a replica that takes
//! over from a master that was killed may lack its last decisions: limits must be kept between two such losses, and across all of
//! them at most `count` (`burst`) permits a key and a loss may come on top.

mod crowd;
mod limits;
mod namespace;
mod phases;
mod report;
mod story;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use phases::{OTHER_SERVERS, PHASES};
use report::Row;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == "worker"
    {
        worker::run(rest);
        return ExitCode::SUCCESS;
    }
    let phases = || PHASES.iter().chain(OTHER_SERVERS);
    let names: Vec<&str> = phases().map(|(name, _)| *name).collect();
    if let Some(unknown) = arguments.iter().find(|argument| !names.contains(&argument.as_str())) {
        eprintln!("there is no phase `{unknown}`; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let seconds = std::env::var("FAULTS_SECONDS").map_or(Ok(12), |seconds| seconds.parse());
    let Ok(seconds @ 5..) = seconds else {
        eprintln!("FAULTS_SECONDS is a number, of at least 5: there has to be time for a fault and a recovery");
        return ExitCode::FAILURE;
    };
    println!("{}", Row::HEAD);
    let mut complaints = Vec::new();
    for (position, (name, phase)) in phases().enumerate() {
        let is_usual = arguments.is_empty() && position < PHASES.len();
        if is_usual || arguments.iter().any(|argument| argument == name) {
            let row = phase(Duration::from_secs(seconds));
            println!("{row}");
            complaints.extend(row.complaints());
        }
    }
    for complaint in &complaints {
        println!("FAILED: {complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
