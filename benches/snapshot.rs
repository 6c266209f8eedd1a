//! A million keys: the time of a snapshot and of its restoration, and the longest decision
//! meanwhile.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ratelimit_runtime::{Algorithm, Limit, MemoryBackend, RateLimiter};
use rustix::time::{ClockId, clock_gettime};

const KEYS: u64 = 1_000_000;

/// This thread's processor time, in nanoseconds.
fn thread_time() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The longest call of existing keys meanwhile, by the thread's time and by the wall clock.
fn longest(limiter: &RateLimiter, is_over: &AtomicBool) -> (i64, Duration, u64) {
    let (mut by_thread, mut by_clock, mut calls) = (0, Duration::ZERO, 0);
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..100 {
            let (began, started) = (thread_time(), Instant::now());
            let _ = black_box(limiter.check(calls * 7_919 % KEYS, 1));
            by_clock = by_clock.max(started.elapsed());
            by_thread = by_thread.max(thread_time() - began);
            calls += 1;
        }
    }
    (by_thread, by_clock, calls)
}

fn main() {
    let folder = std::env::temp_dir().join(format!("ratelimit-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("limits.snapshot");
    let hour = Duration::from_secs(3_600);
    let token = |count| Limit::new(count, hour).with_algorithm(Algorithm::TokenBucket);
    let cases = [
        ("token bucket", token(10), 1),
        ("fixed window", Limit::new(10, hour).with_algorithm(Algorithm::FixedWindow), 1),
        ("sliding window, 1 permit", Limit::new(10, hour), 1),
        ("sliding window, 3 permits", Limit::new(10, hour), 3),
        ("sliding window, 10 permits", Limit::new(10, hour), 10),
    ];
    for (name, limit, permits) in cases {
        let limiter = |memory: &MemoryBackend| {
            RateLimiter::builder("bench").limit(limit).backend(memory.clone()).build().unwrap()
        };
        let memory = MemoryBackend::with_max_keys(2_000_000);
        let before = limiter(&memory);
        for _ in 0..permits {
            (0..KEYS).for_each(|key| _ = before.check(key, 1));
        }
        let is_over = AtomicBool::new(false);
        let (alone, (snapshot, during)) = thread::scope(|scope| {
            let calls = || scope.spawn(|| longest(&before, &is_over));
            let alone = calls();
            thread::sleep(Duration::from_millis(500));
            is_over.store(true, Ordering::Relaxed);
            let alone = alone.join().unwrap();
            is_over.store(false, Ordering::Relaxed);
            let during = calls();
            let snapshot = memory.snapshot(&path).unwrap();
            is_over.store(true, Ordering::Relaxed);
            (alone, (snapshot, during.join().unwrap()))
        });
        println!("{name}: {} keys, {} kB, {:?}", snapshot.keys, snapshot.bytes / 1_000, snapshot.took);
        for (what, (by_thread, by_clock, calls)) in [("alone", alone), ("meanwhile", during)] {
            println!("  longest call {what}: {} us of its thread, {by_clock:?}; of {calls}", by_thread / 1_000);
        }
        let began = thread_time();
        let quiet = memory.snapshot(&path).unwrap();
        let by_thread = (thread_time() - began) / 1_000_000;
        println!("  without calls meanwhile: {:?}, {by_thread} ms of its thread", quiet.took);
        drop((before, memory));
        let (memory, started, began) = (MemoryBackend::with_max_keys(2_000_000), Instant::now(), thread_time());
        let restored = memory.restore(&path).unwrap();
        let (restoring, restored_by) = (started.elapsed(), thread_time());
        let (after, started) = (limiter(&memory), Instant::now());
        let _ = black_box(after.check(0_u64, 1));
        let took = thread_time();
        println!(
            "  restore {} ms, first call {} ms of its thread",
            (restored_by - began) / 1_000_000,
            (took - restored_by) / 1_000_000
        );
        println!("  restored {} in {restoring:?}, the first call took {:?}", restored.keys, started.elapsed());
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
