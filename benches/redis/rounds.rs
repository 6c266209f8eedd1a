//! Interleaved contenders on one server, and the table of their medians.
//!
//! The table compares ratios within a round, in which each contender runs for the same short time.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benches::race::median;
use tokio::runtime::Runtime;

/// How long a contender runs in a round.
const TURN: Duration = Duration::from_millis(300);
/// The first round warms up.
const ROUNDS: u32 = 8;

/// The result of one contender's turn.
pub(crate) struct Sample {
    /// Calls per second.
    pub(crate) rate: f64,
    /// The median time of a call in microseconds; only for a single task or thread.
    pub(crate) p50: Option<f64>,
    /// The share of allowed calls.
    pub(crate) allowed: f64,
}

type Turn<'a> = Box<dyn FnMut(Duration) -> Sample + 'a>;

/// One contender.
pub(crate) struct Contender<'a> {
    name: String,
    turn: Turn<'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: &str, turn: impl FnMut(Duration) -> Sample + 'a) -> Contender<'a> {
        Contender { name: name.to_owned(), turn: Box::new(turn) }
    }
}

/// The contenders of one case. Ours is the last. The first is the yardstick: ours must be at least
/// `goal` times as fast, and, with a `p50_goal`, its p50 at most that many times as long.
pub(crate) struct Case<'a> {
    pub(crate) name: String,
    goal: f64,
    p50_goal: Option<f64>,
    /// Compares ours with the fastest of the others, round by round.
    beside_the_best: bool,
    /// How long ours runs before anything is timed.
    warm_up: Duration,
    contenders: Vec<Contender<'a>>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(name: impl Into<String>, goal: f64, contenders: Vec<Contender<'a>>) -> Case<'a> {
        Case { name: name.into(), goal, p50_goal: None, beside_the_best: false, warm_up: Duration::ZERO, contenders }
    }

    pub(crate) fn p50_goal(self, goal: f64) -> Case<'a> {
        Case { p50_goal: Some(goal), ..self }
    }

    pub(crate) fn beside_the_best(self) -> Case<'a> {
        Case { beside_the_best: true, ..self }
    }

    pub(crate) fn warm_up(self, warm_up: Duration) -> Case<'a> {
        Case { warm_up, ..self }
    }

    /// Runs all rounds. Prints one line of Markdown for each contender but the first, ours last.
    pub(crate) fn run(mut self) -> Vec<String> {
        let number = self.contenders.len();
        let (mut rates, mut ratios, mut middles, mut middle_ratios, mut allowed) = (
            vec![Vec::new(); number],
            vec![Vec::new(); number],
            vec![Vec::new(); number],
            vec![Vec::new(); number],
            1.0,
        );
        if let Some(ours) = self.contenders.last_mut().filter(|_| !self.warm_up.is_zero()) {
            (ours.turn)(self.warm_up);
        }
        for round in 0..ROUNDS {
            let samples: Vec<Sample> = self.contenders.iter_mut().map(|contender| (contender.turn)(TURN)).collect();
            if round == 0 {
                continue;
            }
            for (place, sample) in samples.iter().enumerate() {
                rates[place].push(sample.rate);
                let beside = if self.beside_the_best && place == number - 1 {
                    samples[..place].iter().map(|sample| sample.rate).fold(0.0, f64::max)
                } else {
                    samples[0].rate
                };
                ratios[place].push(sample.rate / beside);
                if let (Some(first), Some(this)) = (samples[0].p50, sample.p50) {
                    middles[place].push(this);
                    middle_ratios[place].push(this / first);
                }
            }
            allowed = samples[number - 1].allowed;
        }
        let mut lines = Vec::new();
        for place in 1..number {
            let is_ours = place == number - 1;
            let rate =
                |place: usize, rates: &mut Vec<Vec<f64>>| median(&mut rates[place]).unwrap_or(f64::NAN) / 1_000.0;
            let (first, this) = (rate(0, &mut rates), rate(place, &mut rates));
            let ratio = median(&mut ratios[place]).unwrap_or(f64::NAN);
            let goal = match is_ours {
                true if self.beside_the_best => format!("{:.2} of the best", self.goal),
                true => format!("{:.2}", self.goal),
                false => "–".to_owned(),
            };
            let ratio = if is_ours { format!("**{ratio:.2}**") } else { format!("{ratio:.2}") };
            let p50 = match (median(&mut middles[place]), median(&mut middle_ratios[place]), self.p50_goal) {
                (Some(micros), Some(ratio), Some(goal)) if is_ours => {
                    format!("{micros:.1} µs, **{ratio:.2}** (≤ {goal:.2})")
                }
                (Some(micros), Some(ratio), _) => format!("{micros:.1} µs, {ratio:.2}"),
                _ => "–".to_owned(),
            };
            let share = if is_ours { format!("{:.0} %", allowed * 100.0) } else { "–".to_owned() };
            let line = format!(
                "| {} | {}: {first:.1} | {} | {this:.1} | {ratio} | {goal} | {p50} | {share} |",
                self.name, self.contenders[0].name, self.contenders[place].name
            );
            eprintln!("{line}");
            lines.push(line);
        }
        lines
    }
}

pub(crate) fn print(lines: &[String]) {
    println!("\n| case | yardstick, 1,000 calls/s | contender | 1,000 calls/s | ratio | goal | p50 | allowed |");
    println!("|---|---|---|---:|---:|---:|---:|---:|");
    for line in lines {
        println!("{line}");
    }
}

/// The combined result of all workers in a turn.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    calls: AtomicU64,
    allowed: AtomicU64,
}

impl Tally {
    fn sample(&self, took: Duration, mut times: Vec<f64>) -> Sample {
        let calls = self.calls.load(Ordering::Relaxed) as f64;
        Sample {
            rate: calls / took.as_secs_f64(),
            p50: median(&mut times),
            allowed: self.allowed.load(Ordering::Relaxed) as f64 / calls,
        }
    }
}

/// Threads of consecutive calls, each with its own state. A call returns whether it was allowed.
pub(crate) fn threads<S>(
    number: usize,
    turn: Duration,
    state: impl Fn() -> S + Sync,
    call: impl Fn(&mut S) -> bool + Sync,
) -> Sample {
    let tally = Tally::default();
    let start = Instant::now();
    let times = thread::scope(|scope| {
        let work = || {
            let mut state = state();
            let (mut calls, mut allowed, mut times) = (0, 0, Vec::new());
            while !tally.stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                allowed += u64::from(call(&mut state));
                if number == 1 {
                    times.push(begin.elapsed().as_secs_f64() * 1e6);
                }
                calls += 1;
            }
            tally.calls.fetch_add(calls, Ordering::Relaxed);
            tally.allowed.fetch_add(allowed, Ordering::Relaxed);
            times
        };
        let workers: Vec<_> = (0..number).map(|_| scope.spawn(work)).collect();
        thread::sleep(turn);
        tally.stop.store(true, Ordering::Relaxed);
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    tally.sample(start.elapsed(), times)
}

/// The runtime of all asynchronous contenders.
pub(crate) struct Tasks {
    runtime: Runtime,
}

impl Tasks {
    pub(crate) fn new() -> Tasks {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Tasks { runtime }
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Tasks of consecutive calls. Each call gets a number without a pattern, and returns whether
    /// it was allowed.
    pub(crate) fn run<F, Fut>(&self, number: u32, turn: Duration, call: F) -> Sample
    where
        F: Fn(u64) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = bool> + Send,
    {
        let tally = Arc::new(Tally::default());
        let start = Instant::now();
        let times = self.runtime.block_on(async {
            let workers: Vec<_> = (0..number)
                .map(|worker| {
                    let (tally, call) = (Arc::clone(&tally), call.clone());
                    tokio::spawn(async move {
                        let mut random = (u64::from(worker) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                        let (mut calls, mut allowed, mut times) = (0, 0, Vec::new());
                        while !tally.stop.load(Ordering::Relaxed) {
                            random ^= random << 13;
                            random ^= random >> 7;
                            random ^= random << 17;
                            let begin = (number == 1).then(Instant::now);
                            allowed += u64::from(call(random).await);
                            if let Some(begin) = begin {
                                times.push(begin.elapsed().as_secs_f64() * 1e6);
                            }
                            calls += 1;
                            if calls % 1_000 == 0 {
                                // Calls that never wait would starve the other tasks.
                                tokio::task::yield_now().await;
                            }
                        }
                        tally.calls.fetch_add(calls, Ordering::Relaxed);
                        tally.allowed.fetch_add(allowed, Ordering::Relaxed);
                        times
                    })
                })
                .collect();
            tokio::time::sleep(turn).await;
            tally.stop.store(true, Ordering::Relaxed);
            let mut times = Vec::new();
            for worker in workers {
                times.extend(worker.await.unwrap());
            }
            times
        });
        tally.sample(start.elapsed(), times)
    }
}
