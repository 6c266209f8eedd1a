//! Calls a function limited to 100 calls a second 200 times a second, and proves that the limit was
//! kept.
//!
//! `cargo run -p quickstart` needs nothing else. `cargo run -p quickstart --features redis -- --redis`
//! keeps the limit in a Redis server, and with `--processes 4` after it, that many processes share
//! it.

mod calls;
#[cfg_attr(not(feature = "redis"), path = "without_redis.rs")]
mod redis;

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use ratelimit_runtime::{ExceededKind, RateLimitExceeded, rate_limit};

use calls::{Call, CallLog, Outcome};

/// The limit: this many calls,
const COUNT: usize = 100;
/// in every interval of this length.
const PER: Duration = Duration::from_secs(1);

/// How far the limiter's clock and this program's may drift apart in a second. Redis reports whole
/// microseconds, and in memory the processor's counter is recalibrated every 0.2 ms. Calls closer
/// than a second by no more than this do not prove a violation.
const CLOCKS: Duration = Duration::from_micros(10);

/// The limited function. In memory, the attribute is all that it needs.
#[rate_limit(count = 100, per = "1s", name = "quickstart")]
fn in_memory() -> Result<(), RateLimitExceeded> {
    Ok(())
}

/// Calls a function limited to 100 calls a second too often, and checks that the limit was kept.
#[derive(Clone, Parser)]
struct Options {
    /// Keep the limit in a Redis server: that of `REDIS_URL`, or the one on this machine.
    #[arg(long)]
    redis: bool,
    /// Processes that call at the same time and share the limit.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "redis", value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// Calls that each process makes.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    calls: u32,
    /// Milliseconds from one call to the next.
    #[arg(long, value_name = "MS", default_value_t = 5)]
    every: u64,
    /// Set for the processes that this program starts: the run that they belong to.
    #[arg(long, hide = true)]
    run: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(run) = options.run {
        // The parent process reads the other end of the pipe. If it has gone, so may this one.
        let mut stdout = io::stdout().lock();
        make_calls(&options, run, |call| writeln!(stdout, "{}", to_line(call)).is_ok());
        return ExitCode::SUCCESS;
    }
    let run = start_of_run();
    if options.redis
        && let Err(error) = redis::reach(run)
    {
        return failure(&error.to_string());
    }
    announce(&options);
    match watch(&options, run) {
        Ok(log) => report(&log),
        Err(error) => failure(&error.to_string()),
    }
}

fn announce(options: &Options) {
    let Options { redis, processes, calls, every, .. } = options;
    let from = if *processes == 1 { String::new() } else { format!(" from each of {processes} processes") };
    let by = if *redis { ", by Redis" } else { "" };
    println!("{} calls{from}, {every} ms apart; {COUNT} a second are allowed{by}.", HumanCount(u64::from(*calls)));
}

fn failure(message: &str) -> ExitCode {
    eprintln!("quickstart: {message}");
    ExitCode::FAILURE
}

/// Microseconds since the Unix epoch, slightly in the future: time for all processes to start.
fn start_of_run() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from((now + Duration::from_millis(300)).as_micros()).unwrap_or(u64::MAX)
}

/// Makes the calls in this process, or starts the processes that make them, and collects the
/// results.
fn watch(options: &Options, run: u64) -> io::Result<CallLog> {
    let total = u64::from(options.calls) * u64::from(options.processes);
    let (sender, receiver) = mpsc::channel();
    let mut children = Vec::new();
    if options.processes == 1 {
        let options = options.clone();
        thread::spawn(move || make_calls(&options, run, |call| sender.send(call).is_ok()));
    } else {
        for _ in 0..options.processes {
            let mut child = start_process(options, run)?;
            let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
            let sender = sender.clone();
            thread::spawn(move || {
                for call in lines.map_while(Result::ok).filter_map(|line| from_line(&line)) {
                    // The receiver lives as long as this process.
                    let _ = sender.send(call);
                }
            });
            children.push(child);
        }
        drop(sender);
    }
    let log = collect(&receiver, total);
    for mut child in children {
        child.wait()?;
    }
    if log.len() as u64 == total { Ok(log) } else { Err(io::Error::other("a process ended before its last call")) }
}

/// This program again, as a part of the run.
fn start_process(options: &Options, run: u64) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg("--redis")
        .args(["--calls", &options.calls.to_string()])
        .args(["--every", &options.every.to_string()])
        .args(["--run", &run.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}

/// Makes a process's calls, each at its time, and reports each. Ends early if the receiver is gone.
fn make_calls(options: &Options, run: u64, mut tell: impl FnMut(Call) -> bool) {
    let clock = RunClock::new(run);
    for number in 0..options.calls {
        clock.sleep_until(Duration::from_millis(options.every) * number);
        let before = Instant::now();
        let result = if options.redis { redis::call(run) } else { in_memory() };
        let after = Instant::now();
        let outcome = match result {
            Ok(()) => Outcome::Allowed,
            Err(exceeded) if exceeded.kind() == ExceededKind::BackendFailed => Outcome::Failed,
            Err(_) => Outcome::Denied,
        };
        if !tell(Call { before: clock.at_least(before), after: clock.at_most(after), outcome }) {
            return;
        }
    }
}

/// The time since the start of the run, for all of its processes.
///
/// They share only the wall clock, which may be set at any moment. So each process reads it once,
/// `late` after the start of the run, between two readings of its own steady clock: `earliest` and
/// `latest`. The proof must hold for any moment between these two. So a call's `before` counts from
/// the latest, and its `after` from the earliest.
struct RunClock {
    late: Duration,
    earliest: Instant,
    latest: Instant,
}

impl RunClock {
    /// Waits for the start of the run.
    fn new(run: u64) -> RunClock {
        let start = SystemTime::UNIX_EPOCH + Duration::from_micros(run);
        thread::sleep(start.duration_since(SystemTime::now()).unwrap_or_default());
        let (earliest, wall, latest) = (Instant::now(), SystemTime::now(), Instant::now());
        RunClock { late: wall.duration_since(start).unwrap_or_default(), earliest, latest }
    }

    fn sleep_until(&self, since_start: Duration) {
        let due = self.latest + since_start.saturating_sub(self.late);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }

    fn at_least(&self, moment: Instant) -> Duration {
        self.late + moment.saturating_duration_since(self.latest)
    }

    fn at_most(&self, moment: Instant) -> Duration {
        self.late + moment.saturating_duration_since(self.earliest)
    }
}

/// Collects the calls, and prints their progress.
fn collect(calls: &Receiver<Call>, total: u64) -> CallLog {
    let style = ProgressStyle::with_template("{elapsed:>4} {wide_bar} {human_pos}/{human_len} calls, {msg}");
    let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut log = CallLog::default();
    let (mut allowed, mut denied) = (0, 0);
    for call in calls {
        match call.outcome {
            Outcome::Allowed => allowed += 1,
            Outcome::Denied | Outcome::Failed => denied += 1,
        }
        log.push(call);
        bar.set_message(format!("{allowed} allowed, {denied} denied"));
        bar.inc(1);
    }
    bar.finish_and_clear();
    log
}

/// A process's report of a call: when it began and returned, in nanoseconds, and its outcome.
fn to_line(call: Call) -> String {
    let outcome = match call.outcome {
        Outcome::Allowed => "allowed",
        Outcome::Denied => "denied",
        Outcome::Failed => "failed",
    };
    format!("{} {} {outcome}", call.before.as_nanos(), call.after.as_nanos())
}

fn from_line(line: &str) -> Option<Call> {
    let mut words = line.split(' ');
    let mut moment = || Some(Duration::from_nanos(words.next()?.parse().ok()?));
    let (before, after) = (moment()?, moment()?);
    let outcome = match words.next()? {
        "allowed" => Outcome::Allowed,
        "denied" => Outcome::Denied,
        "failed" => Outcome::Failed,
        _ => return None,
    };
    Some(Call { before, after, outcome })
}

/// Prints the calls of each second and the fullest interval.
fn report(log: &CallLog) -> ExitCode {
    print!("{log}");
    let failed = log.count(Outcome::Failed);
    if failed > 0 {
        return failure(&format!("Redis did not decide on {failed} calls"));
    }
    let fullest = log.fullest(PER.saturating_sub(CLOCKS));
    println!(
        "The fullest interval of one second, wherever it starts: {} calls admitted, from {:.3} s on.",
        fullest.admitted,
        fullest.from.as_secs_f64()
    );
    if fullest.admitted > COUNT {
        return failure(&format!("the limit of {COUNT} was exceeded"));
    }
    println!("No interval held more than {COUNT}: the limit was kept.");
    ExitCode::SUCCESS
}
