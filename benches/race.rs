//! Interleaved contenders in one process, and the table of their medians.
//!
//! Times on a shared machine drift by half from one second to the next. So each round runs all
//! contenders of a case one after the other. The table shows the median of the ratios within a
//! round.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// One contender's turn: nanoseconds per call, and the share of allowed calls.
pub type Turn<'a> = Box<dyn FnMut() -> Sample + 'a>;

/// The result of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Nanoseconds, or bytes.
    pub cost: f64,
    /// Share of the calls that were allowed.
    pub allowed: f64,
}

/// Times `calls` consecutive calls by the thread's own time: on a shared machine, the wall clock
/// would also measure other processes.
pub fn calls(calls: u32, mut allowed: impl FnMut() -> bool) -> Sample {
    let mut count = 0;
    let start = thread_time();
    for _ in 0..calls {
        count += u32::from(black_box(allowed()));
    }
    sample(thread_time().saturating_sub(start), calls, count)
}

/// Times `calls` calls on each of two threads that start together: the time of one call on one
/// thread.
pub fn on_two_threads(number: u32, allowed: impl Fn() -> bool + Sync) -> Sample {
    let barrier = Barrier::new(2);
    let run = || {
        barrier.wait();
        calls(number, &allowed)
    };
    mean(thread::scope(|scope| [scope.spawn(run), scope.spawn(run)].map(|thread| thread.join().unwrap())))
}

/// Times bursts of `size` calls, one every `period`: a small limit that allows them all.
pub fn bursts(bursts: u32, size: u32, period: Duration, allowed: impl FnMut() -> bool) -> Sample {
    burst_from(Instant::now(), bursts, size, period, allowed)
}

/// Times bursts of `size` calls on two threads, half of each burst on either.
pub fn bursts_on_two_threads(number: u32, size: u32, period: Duration, allowed: impl Fn() -> bool + Sync) -> Sample {
    let start = Instant::now() + Duration::from_millis(1);
    let run = || burst_from(start, number, size / 2, period, &allowed);
    mean(thread::scope(|scope| [scope.spawn(run), scope.spawn(run)].map(|thread| thread.join().unwrap())))
}

fn burst_from(start: Instant, bursts: u32, size: u32, period: Duration, mut allowed: impl FnMut() -> bool) -> Sample {
    let mut count = 0;
    let mut times = Vec::with_capacity(bursts as usize);
    for _ in 0..bursts {
        // The next multiple of the period, so that two delayed threads meet again.
        let next = start.elapsed().as_nanos() / period.as_nanos() + 1;
        while start.elapsed().as_nanos() / period.as_nanos() < next {
            std::hint::spin_loop();
        }
        let begin = Instant::now();
        for _ in 0..size {
            count += u32::from(black_box(allowed()));
        }
        times.push(begin.elapsed());
    }
    // A burst is short: an interrupted one is discarded.
    times.sort_unstable();
    let middle = &times[times.len() / 10..times.len() * 9 / 10];
    let sum = middle.iter().sum::<Duration>().saturating_sub(clock_reads() * u32::try_from(middle.len()).unwrap());
    let cost = nanos(sum) / (middle.len() * size as usize) as f64;
    Sample { cost, allowed: f64::from(count) / f64::from(bursts * size) }
}

/// The time of the two clock readings.
fn clock_reads() -> Duration {
    let mut times: Vec<Duration> = (0..101).map(|_| Instant::now().elapsed()).collect();
    times.sort_unstable();
    times[50]
}

fn sample(time: Duration, calls: u32, allowed: u32) -> Sample {
    Sample { cost: nanos(time) / f64::from(calls), allowed: f64::from(allowed) / f64::from(calls) }
}

fn mean([a, b]: [Sample; 2]) -> Sample {
    Sample { cost: f64::midpoint(a.cost, b.cost), allowed: f64::midpoint(a.allowed, b.allowed) }
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// One row of a table.
#[derive(Debug)]
pub struct Row {
    name: String,
    /// The yardstick, in nanoseconds or bytes.
    yardstick: f64,
    ours: f64,
    /// Ours relative to the yardstick, and the goal for that ratio.
    ratio: f64,
    goal: f64,
    /// The ratios of all others; `None` if a peer does not support the case.
    others: Vec<Option<f64>>,
    /// Allocations per call of ours, if counted.
    allocations: Option<f64>,
}

/// The columns: this project, the yardstick, the others.
pub const COLUMNS: [&str; 7] =
    ["governor", "**ours**", "governor, ahash", "ratelimit", "leaky-bucket", "throttle_my_fn", "Mutex<VecDeque>"];

/// The number of timed rounds: `default`, or `ROUNDS` in the environment for a quick look.
pub fn rounds(default: u32) -> u32 {
    std::env::var("ROUNDS").map_or(default, |rounds| rounds.parse().expect("ROUNDS is a number of rounds"))
}

/// Runs the contenders of one case in turns. The first is the yardstick, the second is ours. `None`
/// stands for a peer that does not support the case. `goal` is the highest allowed ratio of ours to
/// the yardstick.
pub fn race(name: &str, goal: f64, rounds: u32, mut turns: Vec<Option<Turn<'_>>>) -> Row {
    let mut costs = vec![Vec::new(); turns.len()];
    let mut ratios = vec![Vec::new(); turns.len()];
    let mut allowed = vec![Vec::new(); turns.len()];
    // The first of several rounds warms up.
    for round in 0..rounds {
        let samples: Vec<Option<Sample>> = turns.iter_mut().map(|turn| turn.as_mut().map(|turn| turn())).collect();
        let Some(Some(first)) = samples.first().copied() else { continue };
        if round == 0 && rounds > 1 {
            continue;
        }
        for (contender, sample) in samples.into_iter().enumerate() {
            if let Some(sample) = sample {
                costs[contender].push(sample.cost);
                ratios[contender].push(sample.cost / first.cost);
                allowed[contender].push(sample.allowed);
            }
        }
    }
    let mut others = Vec::new();
    for contender in 0..turns.len() {
        // Denied cases deny all calls, allowed ones allow all. A peer that differs measures
        // something else: leaky-bucket, which counts in milliseconds, for short periods.
        let share = median(&mut allowed[contender]).unwrap_or(f64::NAN);
        let differs = (0.01..0.95).contains(&share);
        if differs {
            eprintln!("{name}: {} allowed {:.0} %", COLUMNS[contender], share * 100.0);
        }
        if contender > 1 {
            others.push(median(&mut ratios[contender]).filter(|_| contender == 2 || !differs));
        }
    }
    let middle = |values: &mut Vec<f64>| median(values).unwrap_or(f64::NAN);
    let row = Row {
        name: name.to_owned(),
        yardstick: middle(&mut costs[0]),
        ours: middle(&mut costs[1]),
        ratio: middle(&mut ratios[1]),
        goal,
        others,
        allocations: None,
    };
    eprintln!("{}", row.line());
    row
}

impl Row {
    /// The same row, with the allocations of one call of ours.
    #[must_use]
    pub fn with_allocations(self, allocations: f64) -> Row {
        Row { allocations: Some(allocations), ..self }
    }

    /// The columns common to all tables.
    fn line(&self) -> String {
        format!(
            "| {} | {:.1} | **{:.2}** ({:.1}) | {:.2} |",
            self.name, self.yardstick, self.ratio, self.ours, self.goal
        )
    }

    fn meets_goal(&self) -> bool {
        // Rounded as printed.
        (self.ratio * 100.0).round() <= (self.goal * 100.0).round()
    }
}

/// Prints a table with all peers.
pub fn print(rows: &[Row]) {
    let peers = COLUMNS.len() - 2;
    print_table(rows, &COLUMNS[2..], |row| {
        let others = row.others.iter().map(|ratio| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")));
        others.chain(std::iter::repeat("–".to_owned())).take(peers).collect()
    });
}

/// Prints a table of ours beside the yardstick alone, with allocations per call.
pub fn print_pairs(rows: &[Row]) {
    print_table(rows, &["allocations"], |row| {
        vec![row.allocations.map_or("–".to_owned(), |allocations| format!("{allocations:.2}"))]
    });
}

fn print_table(rows: &[Row], columns: &[&str], cells: impl Fn(&Row) -> Vec<String>) {
    if rows.is_empty() {
        return;
    }
    println!("\n| case | governor | **ours** | goal | {} |", columns.join(" | "));
    println!("|---|{}", "---:|".repeat(columns.len() + 3));
    for row in rows {
        println!("{} {} |", row.line(), cells(row).join(" | "));
    }
}

/// Prints a summary of all rows: the worst and the best ratio, and which rows miss their goals.
pub fn print_range(rows: &[Row]) {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    let ([best, ..], [.., worst]) = (&sorted[..], &sorted[..]) else { return };
    let missed: Vec<&&Row> = sorted.iter().filter(|row| !row.meets_goal()).collect();
    println!("\n{} rows: {:.2} ({}) to {:.2} ({}).", rows.len(), best.ratio, best.name, worst.ratio, worst.name);
    println!("{} meet their goals, {} miss them.", rows.len() - missed.len(), missed.len());
    for row in missed.iter().rev() {
        println!("- {}: {:.2}, goal {:.2}", row.name, row.ratio, row.goal);
    }
}

/// The output of a future that does not wait.
pub fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing is waited for"),
    }
}

/// The median.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The thread's own CPU time, which excludes other processes.
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
