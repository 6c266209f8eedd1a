//! The processes of `restarts.rs`: they call limits as fast as they can and write down what was
//! admitted, until they are killed or their standard input ends.
//!
//! `keeper <snapshot> <log> <milliseconds between snapshots>` appends a line to the log for each
//! admission: the number of the limit, the key, and the time before and after the call by
//! `CLOCK_REALTIME`, in microseconds.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use ratelimit_runtime::{MemoryBackend, RateLimiter, rate_limit};
use ratelimit_tests::{KEPT_KEYS, kept_limits};

#[rate_limit(count = 25, per = "2s", name = "unkeyed attribute")]
fn attribute() -> Option<()> {
    Some(())
}

fn micros() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [snapshot, log, every] = &arguments[..] else { panic!("unknown arguments: {arguments:?}") };
    let every = Duration::from_millis(every.parse().unwrap());
    let kept = MemoryBackend::of_process().keep(snapshot, every).unwrap();
    kept.restored().unwrap();
    let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
    // As daemons do. The path of the snapshot may be a relative one.
    std::env::set_current_dir("/").unwrap();
    let limiters: Vec<RateLimiter> = kept_limits()
        .into_iter()
        .map(|(name, limit)| RateLimiter::builder(name).limit(limit).build().unwrap())
        .collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    hammer(&limiters, &log);
                }
            });
        }
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        is_over.store(true, Ordering::Relaxed);
    });
    kept.close().unwrap();
}

/// Calls each limit once, with all keys and without.
fn hammer(limiters: &[RateLimiter], mut log: &File) {
    let mut note = |limit: usize, key: usize, call: &dyn Fn() -> bool| {
        let before = micros();
        if call() {
            let line = format!("{limit} {key} {before} {}\n", micros() + 1);
            log.write_all(line.as_bytes()).unwrap();
        }
    };
    for (number, limiter) in limiters.iter().enumerate() {
        note(number, 0, &|| limiter.check((), 1).is_ok());
        for key in 1..=KEPT_KEYS {
            // The last key is longer than a block of the hash.
            let text = "key".repeat(if key == KEPT_KEYS { 200 } else { key });
            note(number, key, &|| limiter.check(&text, 1).is_ok());
        }
    }
    note(limiters.len(), 0, &|| attribute().is_some());
}
