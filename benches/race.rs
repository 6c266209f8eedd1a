//! Contenders that take turns in one process, and the table of their medians.
//!
//! Times on a shared machine drift by half from one second to the next. So each round runs all contenders of a case one
//! after the other, and what is compared are the ratios within a round, of which the table shows the median.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// What one contender does in one round: nanoseconds a call, and the share of calls that were allowed.
pub type Turn<'a> = Box<dyn FnMut() -> Sample + 'a>;

/// The outcome of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Nanoseconds, or bytes.
    pub cost: f64,
    /// Share of the calls that were allowed.
    pub allowed: f64,
}

/// `calls` calls one after the other, by the time that the thread has run: on a machine that others use too, the clock on the
/// wall tells as much about them.
pub fn calls(calls: u32, mut allowed: impl FnMut() -> bool) -> Sample {
    let mut count = 0;
    let start = thread_time();
    for _ in 0..calls {
        count += u32::from(black_box(allowed()));
    }
    sample(thread_time().saturating_sub(start), calls, count)
}

/// As [`calls`], on two threads that begin at once: what one call takes on one of them.
pub fn on_two_threads(number: u32, allowed: impl Fn() -> bool + Sync) -> Sample {
    let barrier = Barrier::new(2);
    let run = || {
        barrier.wait();
        calls(number, &allowed)
    };
    mean(thread::scope(|scope| [scope.spawn(run), scope.spawn(run)].map(|thread| thread.join().unwrap())))
}

/// Bursts of `size` calls, one every `period`: a small limit that allows them all.
pub fn bursts(bursts: u32, size: u32, period: Duration, allowed: impl FnMut() -> bool) -> Sample {
    burst_from(Instant::now(), bursts, size, period, allowed)
}

/// As [`bursts`], with half of each on either of two threads.
pub fn bursts_on_two_threads(number: u32, size: u32, period: Duration, allowed: impl Fn() -> bool + Sync) -> Sample {
    let start = Instant::now() + Duration::from_millis(1);
    let run = || burst_from(start, number, size / 2, period, &allowed);
    mean(thread::scope(|scope| [scope.spawn(run), scope.spawn(run)].map(|thread| thread.join().unwrap())))
}

fn burst_from(start: Instant, bursts: u32, size: u32, period: Duration, mut allowed: impl FnMut() -> bool) -> Sample {
    let mut count = 0;
    let mut times = Vec::with_capacity(bursts as usize);
    for _ in 0..bursts {
        // The next multiple of the period, so that two threads that lose time meet again.
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
    // A burst is short: one that was interrupted says nothing.
    times.sort_unstable();
    let middle = &times[times.len() / 10..times.len() * 9 / 10];
    let sum = middle.iter().sum::<Duration>().saturating_sub(clock_reads() * u32::try_from(middle.len()).unwrap());
    let cost = nanos(sum) / (middle.len() * size as usize) as f64;
    Sample { cost, allowed: f64::from(count) / f64::from(bursts * size) }
}

/// What it takes to read the clock before and after.
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
    /// What ours is compared with, in nanoseconds or bytes.
    yardstick: f64,
    ours: f64,
    /// Ours to the yardstick, and what that ratio is held to.
    ratio: f64,
    goal: f64,
    /// The ratios of all others; `None` for a peer that cannot do it.
    others: Vec<Option<f64>>,
    /// Allocations of one call of ours, if they were counted.
    allocations: Option<f64>,
}

/// The columns: this project, the one that all are compared with, the others.
pub const COLUMNS: [&str; 7] =
    ["governor", "**ours**", "governor, ahash", "ratelimit", "leaky-bucket", "throttle_my_fn", "Mutex<VecDeque>"];

/// How many rounds are timed: `default`, or the environment's `ROUNDS`, which is for a quick look.
pub fn rounds(default: u32) -> u32 {
    std::env::var("ROUNDS").map_or(default, |rounds| rounds.parse().expect("ROUNDS is a number of rounds"))
}

/// Runs the contenders of one case in turns; the first of them is the one that the others are compared with, the second is
/// ours. `None` where a peer cannot do it. `goal` is the ratio that ours is held to.
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
        // Denied cases deny all, allowed ones allow all; a peer that did else was not doing the same: leaky-bucket, which
        // counts in milliseconds, in the short periods.
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

    /// The figures that all tables have.
    fn line(&self) -> String {
        format!(
            "| {} | {:.1} | **{:.2}** ({:.1}) | {:.2} |",
            self.name, self.yardstick, self.ratio, self.ours, self.goal
        )
    }

    fn meets_goal(&self) -> bool {
        // As it is printed.
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

/// Prints a table of ours beside the yardstick alone, with the allocations of a call.
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

/// Prints what holds of all rows: the worst and the best ratio, and which of them miss their goals.
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

/// What a future comes to that does not wait.
pub fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing is waited for"),
    }
}

/// The middle one.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The time that this thread has run: what others did to it meanwhile does not count.
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
