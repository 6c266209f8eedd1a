//! Waiting beside its peers: `cargo bench -p benches --bench waiting`. `ROUNDS=5` in the environment is quicker and less exact.
//!
//! 10,000 tasks on two threads wait for a permit each, at 10,000 permits a second, from an empty
//! bucket. The contenders take turns; the table shows medians of 15 rounds. A permit is due every
//! 100 µs. The latency is the time from when the nth permit is due until the nth task to wake does
//! so.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use benches::race;
use governor::{DefaultDirectRateLimiter, Quota};
use ratelimit_runtime::{Algorithm, Limit, RateLimiter};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

const WAITERS: usize = 10_000;
const RATE: u32 = 10_000;
const BURST: u32 = 100;
const SPACING: Duration = Duration::from_nanos(1_000_000_000 / RATE as u64);

/// A limiter to wait for.
trait Contender: Send + Sync + 'static {
    const NAME: &'static str;

    /// With an empty bucket.
    fn new(runtime: &Runtime) -> Self;

    fn wait(&self) -> impl Future<Output = ()> + Send + '_;
}

struct Ours(RateLimiter);

impl Contender for Ours {
    const NAME: &'static str = "ours";

    fn new(_: &Runtime) -> Ours {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let limit = Limit::new(RATE, Duration::from_secs(1)).with_algorithm(Algorithm::TokenBucket).with_burst(BURST);
        let name = format!("waiting {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let limiter = RateLimiter::builder(name).limit(limit).build().unwrap();
        limiter.check((), BURST).unwrap();
        Ours(limiter)
    }

    async fn wait(&self) {
        self.0.wait_async((), 1).await.unwrap();
    }
}

struct LeakyBucket(leaky_bucket::RateLimiter);

impl Contender for LeakyBucket {
    const NAME: &'static str = "leaky-bucket";

    fn new(runtime: &Runtime) -> LeakyBucket {
        let _entered = runtime.enter();
        // Its interval is a whole number of milliseconds.
        let mut builder = leaky_bucket::RateLimiter::builder();
        builder.initial(0).max(BURST as usize);
        LeakyBucket(builder.refill(RATE as usize / 1_000).interval(Duration::from_millis(1)).build())
    }

    async fn wait(&self) {
        self.0.acquire_one().await;
    }
}

struct Governor(DefaultDirectRateLimiter);

impl Contender for Governor {
    const NAME: &'static str = "governor";

    fn new(_: &Runtime) -> Governor {
        let quota = Quota::per_second(NonZeroU32::new(RATE).unwrap()).allow_burst(NonZeroU32::new(BURST).unwrap());
        let governor = DefaultDirectRateLimiter::direct(quota);
        while governor.check().is_ok() {}
        Governor(governor)
    }

    async fn wait(&self) {
        self.0.until_ready().await;
    }
}

/// A tokio semaphore to which a task adds, each millisecond, the permits due by then.
struct Refilled(Arc<Semaphore>);

impl Contender for Refilled {
    const NAME: &'static str = "semaphore, refilled";

    fn new(runtime: &Runtime) -> Refilled {
        let semaphore = Arc::new(Semaphore::new(0));
        let refilled = Arc::downgrade(&semaphore);
        runtime.spawn(async move {
            let (start, mut added) = (Instant::now(), 0);
            while let Some(semaphore) = refilled.upgrade() {
                let due = usize::try_from(start.elapsed().as_nanos() / SPACING.as_nanos()).unwrap();
                semaphore.add_permits(due - added);
                added = due;
                drop(semaphore);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Refilled(semaphore)
    }

    async fn wait(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

/// One round of one contender.
#[derive(Clone, Copy, Default)]
struct Sample {
    served_per_second: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    /// The nanoseconds to begin a wait among 10,000 others and to give it up.
    cancelled: f64,
}

type Round = fn(&Runtime) -> Sample;

fn sample<C: Contender>(runtime: &Runtime) -> Sample {
    let contender = Arc::new(C::new(runtime));
    let start = Instant::now();
    let mut woken = runtime.block_on(async {
        let tasks: Vec<_> = (0..WAITERS)
            .map(|_| {
                let contender = Arc::clone(&contender);
                tokio::spawn(async move {
                    contender.wait().await;
                    start.elapsed()
                })
            })
            .collect();
        let mut woken = Vec::with_capacity(WAITERS);
        for task in tasks {
            woken.push(task.await.unwrap());
        }
        woken
    });
    woken.sort_unstable();
    let late = |(number, at): (u32, &Duration)| at.as_secs_f64() - (SPACING * (number + 1)).as_secs_f64();
    let mut late: Vec<f64> = (0..).zip(&woken).map(late).collect();
    late.sort_unstable_by(f64::total_cmp);
    Sample {
        served_per_second: WAITERS as f64 / woken[WAITERS - 1].as_secs_f64(),
        p50: late[WAITERS / 2] * 1e6,
        p99: late[WAITERS * 99 / 100] * 1e6,
        cancelled: cancelled::<C>(runtime),
    }
}

fn cancelled<C: Contender>(runtime: &Runtime) -> f64 {
    let contender = C::new(runtime);
    let _entered = runtime.enter();
    let mut context = Context::from_waker(Waker::noop());
    let start = Instant::now();
    let mut waits: Vec<Pin<Box<_>>> = (0..WAITERS).map(|_| Box::pin(contender.wait())).collect();
    for wait in &mut waits {
        let _ = wait.as_mut().poll(&mut context);
    }
    drop(waits);
    start.elapsed().as_secs_f64() * 1e9 / WAITERS as f64
}

fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    let mut figures: Vec<f64> = samples.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let contenders: [(&str, Round); 4] = [
        (Ours::NAME, sample::<Ours>),
        (LeakyBucket::NAME, sample::<LeakyBucket>),
        (Governor::NAME, sample::<Governor>),
        (Refilled::NAME, sample::<Refilled>),
    ];
    let rounds = race::rounds(15) as usize;
    let mut samples = [const { Vec::new() }; 4];
    // The first round warms up.
    for round in 0..=rounds {
        for ((_, sample), samples) in contenders.iter().zip(&mut samples) {
            let sample = sample(&runtime);
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    println!("| contender | served a second | late p50, µs | p99, µs | a cancelled wait, ns |");
    println!("|---|---:|---:|---:|---:|");
    for ((name, _), samples) in contenders.iter().zip(&samples) {
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} | {:.0} |",
            median(samples, |sample| sample.served_per_second),
            median(samples, |sample| sample.p50),
            median(samples, |sample| sample.p99),
            median(samples, |sample| sample.cancelled),
        );
    }
}
