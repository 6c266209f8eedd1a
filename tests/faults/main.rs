//! Failures of servers, counted. Eight processes share limits while servers are stopped, killed, cut
//! off, flushed and replaced. All their admissions are checked against the limits. `scripts/faults`
//! runs it; CONTRIBUTING.md explains its figures. The servers are Redis, Memcached and PostgreSQL.
//!
//! `faults [PHASE..]` runs the named phases, or all, each for `FAULTS_SECONDS` (12). `migrate` runs
//! only if named: it needs Valkey 9, as `redis-server` on the `PATH`.
//!
//! # How admissions are timed
//! By the clock of the server that decided, from its answer, which a recorder in front of the
//! backend notes. Memcached has no clock: there it is the clock of the process that decided. All
//! servers are on this machine and share its clock, so decisions before and after a server's death
//! can be distinguished. Leased permits are spent without a server, at some time during the call.
//! Only those that were certainly in an interval count there.
//!
//! # When data is kept
//! Limits must hold from the first call to the last if the server keeps its data. It does when it
//! is stopped, cut off, or has its scripts flushed. It also does when it is killed but wrote each
//! decision to disk before the answer (`appendfsync always`). So does a master of a cluster that
//! hands over to its replica.
//!
//! A Redis server that is killed without persistence starts empty, and so does Memcached. A replica
//! that takes over from a killed master or primary may lack its last decisions, as does a PostgreSQL
//! server that was killed: its transactions do not wait for the disk. Limits must then hold between two such losses. Across
//! all of them, each key may get at most `count` (`burst`) permits more for each loss.

mod crowd;
mod limits;
mod namespace;
mod phases;
mod report;
mod servers;
mod story;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use phases::{OTHER_SERVERS, PHASES};
use report::Row;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, url, rest @ ..] = &arguments[..]
        && first == "worker"
    {
        worker::run(url, rest);
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
