//! The memory backend beside its peers: `cargo bench -p benches --bench memory [-- PART OF A CASE'S
//! NAME..]`. The parts `peers` and `grammar` select the two tables. `ROUNDS=5` in the environment
//! is quicker and less exact.
//!
//! Ours is called through the attribute. All contenders of a case have the same limit.

#[path = "memory/grammar.rs"]
mod grammar;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benches::heap::{self, Counting};
use benches::race::{self, Row, Sample, Turn, bursts, bursts_on_two_threads, calls, on_two_threads, race};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter as Governor};
use parking_lot::Mutex;
use ratelimit::Ratelimiter;
use ratelimit_runtime::{MemoryBackend, RateLimitExceeded, rate_limit};
use throttle_my_fn::throttle;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HOUR: Duration = Duration::from_secs(3_600);
const CALLS: u32 = 200_000;
const KEYS: usize = 1_000_000;
/// Small limits are timed in bursts, far enough apart for the limit to recover.
const BURSTS: u32 = 1_000;
const PERIOD: Duration = Duration::from_micros(40);

type Limited = Result<(), RateLimitExceeded>;

/// The number of timed rounds, after a warm-up round.
fn rounds() -> u32 {
    race::rounds(15)
}

#[rate_limit(count = 1_000_000_000, per = "1h", algorithm = token_bucket)]
fn token_allowed() -> Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "1h", algorithm = token_bucket)]
fn token_denied() -> Limited {
    Ok(())
}

#[rate_limit(count = 50, per = "20us")]
fn window_50_allowed() -> Limited {
    Ok(())
}

#[rate_limit(count = 50, per = "1h")]
fn window_50_denied() -> Limited {
    Ok(())
}

#[rate_limit(count = 100_000, per = "100us")]
fn window_100_000_allowed() -> Limited {
    Ok(())
}

#[rate_limit(count = 100_000, per = "1h")]
fn window_100_000_denied() -> Limited {
    Ok(())
}

/// A separate backend for each case, so that none reaches another's bound.
fn memory() -> MemoryBackend {
    MemoryBackend::with_max_keys(2 * KEYS)
}

#[rate_limit(count = 100_000, per = "366d", algorithm = token_bucket, key = key, backend = memory())]
fn token_text_few(key: &str) -> Limited {
    Ok(())
}

#[rate_limit(count = 100_000, per = "366d", algorithm = token_bucket, key = key, backend = memory())]
fn token_text_many(key: &str) -> Limited {
    Ok(())
}

#[rate_limit(count = 100_000, per = "366d", algorithm = token_bucket, key = key, backend = memory())]
fn token_number_few(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 100_000, per = "366d", algorithm = token_bucket, key = key, backend = memory())]
fn token_number_many(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 10, per = "150us", key = key, backend = memory())]
fn window_text_few(key: &str) -> Limited {
    Ok(())
}

#[rate_limit(count = 10, per = "1h", key = key, backend = memory())]
fn window_text_many(key: &str) -> Limited {
    Ok(())
}

/// Functions that have not seen any key yet.
macro_rules! first_sights {
    ($($name:ident)*) => {
        $(
            #[rate_limit(count = 10, per = "1h", algorithm = token_bucket, key = key, backend = memory())]
            fn $name(key: &str) -> Limited {
                Ok(())
            }
        )*
        const FIRST_SIGHTS: &[fn(&str) -> Limited] = &[$($name),*];
    };
}

first_sights!(first_1 first_2 first_3 first_4 first_5 first_6);

#[rate_limit(count = 10, per = "1h", algorithm = token_bucket, key = key, backend = memory())]
fn token_bytes(key: &str) -> Limited {
    Ok(())
}

#[rate_limit(count = 10, per = "1h", key = key, backend = memory())]
fn window_bytes(key: &str) -> Limited {
    Ok(())
}

/// Functions whose buckets are idle after a second.
macro_rules! reclaimed {
    ($($name:ident $backend:ident)*) => {
        $(
            static $backend: std::sync::LazyLock<MemoryBackend> = std::sync::LazyLock::new(memory);

            #[rate_limit(count = 1, per = "2s", key = key, backend = $backend.clone())]
            fn $name(key: &str) -> Limited {
                Ok(())
            }
        )*
        const RECLAIMED: &[(fn(&str) -> Limited, &std::sync::LazyLock<MemoryBackend>)] = &[$(($name, &$backend)),*];
    };
}

reclaimed!(idle_1 IDLE_1 idle_2 IDLE_2 idle_3 IDLE_3 idle_4 IDLE_4 idle_5 IDLE_5);

#[throttle(1_000_000, Duration::from_millis(100))]
fn throttle_allowed() {}

#[throttle(1, HOUR)]
fn throttle_denied() {}

#[throttle(50, PERIOD / 2)]
fn throttle_50_allowed() {}

#[throttle(50, HOUR)]
fn throttle_50_denied() {}

#[throttle(100_000, Duration::from_micros(100))]
fn throttle_100_000_allowed() {}

#[throttle(100_000, HOUR)]
fn throttle_100_000_denied() {}

/// The log of timestamps that tutorials recommend.
struct Log {
    count: usize,
    per: Duration,
    times: Mutex<VecDeque<Instant>>,
}

impl Log {
    fn new(count: usize, per: Duration) -> Log {
        Log { count, per, times: Mutex::default() }
    }

    fn check(&self) -> bool {
        let mut times = self.times.lock();
        let now = Instant::now();
        while times.front().is_some_and(|first| now.duration_since(*first) >= self.per) {
            times.pop_front();
        }
        let allowed = times.len() < self.count;
        if allowed {
            times.push_back(now);
        }
        allowed
    }
}

/// The same limit for each.
struct Direct {
    governor: DefaultDirectRateLimiter,
    ratelimit: Ratelimiter,
    leaky: leaky_bucket::RateLimiter,
    log: Log,
}

impl Direct {
    fn new(count: u32, per: Duration) -> Direct {
        let permits = NonZeroU32::new(count).unwrap();
        let ratelimit = Ratelimiter::builder(count.into()).period(per).max_tokens(count.into());
        // It counts in milliseconds.
        let interval = (per / count).max(Duration::from_millis(1));
        let refill = (u128::from(count) * interval.as_nanos() / per.as_nanos()).max(1);
        Direct {
            governor: Governor::direct(Quota::with_period(per / count).unwrap().allow_burst(permits)),
            ratelimit: ratelimit.initial_available(count.into()).build().unwrap(),
            leaky: leaky_bucket::RateLimiter::builder()
                .max(count as usize)
                .initial(count as usize)
                .refill(usize::try_from(refill).unwrap())
                .interval(interval)
                .build(),
            log: Log::new(count as usize, per),
        }
    }

    /// Uses up the limit.
    fn exhausted(count: u32) -> Direct {
        let direct = Direct::new(count, HOUR);
        let turns: [&dyn Fn() -> bool; 4] = [
            &|| direct.governor.check().is_ok(),
            &|| direct.ratelimit.try_wait().is_ok(),
            &|| direct.leaky.try_acquire(1),
            &|| direct.log.check(),
        ];
        for turn in turns {
            while turn() {}
        }
        direct
    }
}

/// A case without keys: the peers' limit, ours, that of `throttle_my_fn`, and how it is timed.
macro_rules! direct {
    ($name:expr, $goal:expr, $peers:expr, $ours:ident, $throttle:ident, $time:ident($($how:expr),*)) => {{
        let peers = $peers;
        let turns: Vec<Option<Turn<'_>>> = vec![
            Some(Box::new(|| $time($($how,)* || peers.governor.check().is_ok()))),
            Some(Box::new(|| $time($($how,)* || $ours().is_ok()))),
            None,
            Some(Box::new(|| $time($($how,)* || peers.ratelimit.try_wait().is_ok()))),
            Some(Box::new(|| $time($($how,)* || peers.leaky.try_acquire(1)))),
            Some(Box::new(|| $time($($how,)* || $throttle().is_some()))),
            Some(Box::new(|| $time($($how,)* || peers.log.check()))),
        ];
        race($name, $goal, rounds() + 1, turns)
    }};
}

/// Keys in an order that caches cannot predict; each turn takes another stretch of it.
struct Order {
    order: Vec<u32>,
    next: usize,
}

impl Order {
    fn new(keys: usize) -> Order {
        // A linear congruential generator that visits every key once in each 2ⁿ steps.
        let steps = keys.next_power_of_two();
        let mut step = 0;
        let all = (0..steps).map(|_| {
            step = (step * 5 + 12_345) % steps;
            step
        });
        let order = all.map(|index| index.wrapping_mul(2_654_435_761) % steps).filter(|index| *index < keys);
        Order { order: order.map(|index| u32::try_from(index).unwrap()).collect(), next: 0 }
    }

    #[inline]
    fn next(&mut self) -> usize {
        let key = self.order[self.next];
        self.next += 1;
        if self.next == self.order.len() {
            self.next = 0;
        }
        key as usize
    }
}

fn texts(keys: usize, prefix: &str) -> Vec<String> {
    (0..keys).map(|key| format!("{prefix}:{:016}", (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11)).collect()
}

/// A case with keys of text or numbers.
macro_rules! keyed {
    ($name:expr, $goal:expr, $quota:expr, $keys:expr, $type:ty, $ours:ident, $borrow:expr) => {{
        let keys: &[$type] = $keys;
        let borrow = $borrow;
        let governor: DefaultKeyedRateLimiter<$type> = Governor::keyed($quota);
        let ahash = Governor::<$type, _, _>::dashmap_with_hasher($quota, ahash::RandomState::new());
        for key in keys {
            let _ = (governor.check_key(key), ahash.check_key(key), $ours(borrow(key)));
        }
        let mut orders = [0; 3].map(|_| Order::new(keys.len()));
        let [a, b, c] = &mut orders;
        let turns: Vec<Option<Turn<'_>>> = vec![
            Some(Box::new(|| calls(CALLS, || governor.check_key(&keys[a.next()]).is_ok()))),
            Some(Box::new(|| calls(CALLS, || $ours(borrow(&keys[b.next()])).is_ok()))),
            Some(Box::new(|| calls(CALLS, || ahash.check_key(&keys[c.next()]).is_ok()))),
        ];
        race($name, $goal, rounds() + 1, turns)
    }};
}

fn quota(count: u32, per: Duration) -> Quota {
    Quota::with_period(per / count).unwrap().allow_burst(NonZeroU32::new(count).unwrap())
}

/// Each round needs a function of its own.
fn first_sights() -> u32 {
    u32::try_from(FIRST_SIGHTS.len()).unwrap().min(rounds() + 1)
}

fn first_sight(name: &str) -> Row {
    let keys = texts(KEYS, "first");
    let quota = quota(10, HOUR);
    let mut ours = FIRST_SIGHTS.iter();
    let number = u32::try_from(KEYS).unwrap();
    let turns: Vec<Option<Turn<'_>>> = vec![
        Some(Box::new(|| {
            let (governor, mut keys) = (Governor::keyed(quota), keys.iter());
            calls(number, || keys.next().is_some_and(|key| governor.check_key(key).is_ok()))
        })),
        Some(Box::new(|| {
            let (ours, mut keys) = (ours.next().unwrap(), keys.iter());
            calls(number, || keys.next().is_some_and(|key| ours(key).is_ok()))
        })),
        Some(Box::new(|| {
            let governor = Governor::<String, _, _>::dashmap_with_hasher(quota, ahash::RandomState::new());
            let mut keys = keys.iter();
            calls(number, || keys.next().is_some_and(|key| governor.check_key(key).is_ok()))
        })),
    ];
    race(name, 0.30, first_sights(), turns)
}

fn bytes_a_key(name: &str, goal: f64, ours: fn(&str) -> Limited) -> Row {
    let keys = texts(KEYS, "bytes");
    // Memory of the limiter itself, not of a key.
    ours("once").unwrap();
    let bytes = |bytes: i64| Sample { cost: bytes as f64 / KEYS as f64, allowed: 1.0 };
    let turns: Vec<Option<Turn<'_>>> = vec![
        Some(Box::new(|| {
            let governor = Governor::keyed(quota(10, HOUR));
            bytes(heap::growth(|| keys.iter().all(|key| governor.check_key(key).is_ok())).0)
        })),
        Some(Box::new(|| bytes(heap::growth(|| keys.iter().all(|key| ours(key).is_ok())).0))),
        Some(Box::new(|| {
            let governor = Governor::<String, _, _>::dashmap_with_hasher(quota(10, HOUR), ahash::RandomState::new());
            bytes(heap::growth(|| keys.iter().all(|key| governor.check_key(key).is_ok())).0)
        })),
    ];
    race(name, goal, 1, turns)
}

/// The longest of a million calls, in microseconds: by the thread's own time, and by the wall
/// clock.
fn longest(mut call: impl FnMut(usize), end: impl Fn(usize) -> bool) -> (f64, f64) {
    let (mut own, mut wall) = (Duration::ZERO, Duration::ZERO);
    for index in (0..).take_while(|index| !end(*index)) {
        let (own_before, wall_before) = (race::thread_time(), Instant::now());
        call(index);
        wall = wall.max(wall_before.elapsed());
        own = own.max(race::thread_time().saturating_sub(own_before));
    }
    (own.as_secs_f64() * 1e6, wall.as_secs_f64() * 1e6)
}

/// The time of a decision while a million idle keys are reclaimed: inside our calls, beside
/// governor's.
fn reclaiming() {
    println!(
        "\nLongest single decision while {KEYS} idle keys are reclaimed, in µs: the thread's own time (on the wall)\n"
    );
    println!("| run | ours | governor, `retain_recent` on another thread |");
    println!("|---|---:|---:|");
    for (run, (ours, backend)) in RECLAIMED.iter().enumerate() {
        let (keys, new) = (texts(KEYS, "idle"), texts(KEYS, "new"));
        for key in &keys {
            let _ = ours(key);
        }
        let governor = Governor::keyed(quota(1, Duration::from_secs(2)));
        for key in &keys {
            let _ = governor.check_key(key);
        }
        thread::sleep(Duration::from_millis(2_100));
        let tracked = backend.tracked_keys();
        let (own, wall) = longest(
            // Every other call brings a new key.
            |index| drop(if index % 2 == 0 { ours(&keys[index % 1_000]) } else { ours(&new[index % KEYS]) }),
            |index| index == 2 * KEYS || backend.tracked_keys() < index,
        );
        let done = AtomicBool::new(false);
        let (governor_own, governor_wall) = thread::scope(|scope| {
            scope.spawn(|| {
                governor.retain_recent();
                done.store(true, Ordering::Relaxed);
            });
            longest(|index| drop(governor.check_key(&keys[index % 1_000])), |_| done.load(Ordering::Relaxed))
        });
        println!("| {} of {tracked} | {own:.0} ({wall:.0}) | {governor_own:.0} ({governor_wall:.0}) |", run + 1);
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let mut peers = Cases { table: "peers", wanted: &wanted, rows: Vec::new() };
    beside_peers(&mut peers);
    let mut grammar = Cases { table: "grammar", wanted: &wanted, rows: Vec::new() };
    grammar::run(&mut grammar);
    race::print(&peers.rows);
    race::print_pairs(&grammar.rows);
    let rows: Vec<Row> = peers.rows.into_iter().chain(grammar.rows).collect();
    race::print_range(&rows);
    if wanted.is_empty() || wanted.iter().any(|part| "reclaiming".contains(part)) {
        reclaiming();
    }
}

/// The selected rows of one table.
struct Cases<'a> {
    table: &'static str,
    /// Parts of names, or names of tables. Empty selects all.
    wanted: &'a [String],
    rows: Vec<Row>,
}

impl Cases<'_> {
    fn run(&mut self, name: &str, run: impl FnOnce(&str) -> Row) {
        if self.wanted.is_empty() || self.wanted.iter().any(|part| part == self.table || name.contains(part)) {
            self.rows.push(run(name));
        }
    }
}

fn beside_peers(cases: &mut Cases<'_>) {
    let mut case = |name: &str, run: &dyn Fn(&str) -> Row| cases.run(name, run);
    // A log of a thousand million permits would be too large; its cost for an allowed call is the
    // same.
    let token = || Direct { log: Log::new(1_000_000, HOUR / 36_000), ..Direct::new(1_000_000_000, HOUR) };
    case("token_bucket, allowed", &|name| direct!(name, 1.05, token(), token_allowed, throttle_allowed, calls(CALLS)));
    case("token_bucket, denied", &|name| {
        direct!(name, 1.05, Direct::exhausted(1), token_denied, throttle_denied, calls(CALLS))
    });
    case("token_bucket, allowed, 2 threads", &|name| {
        direct!(name, 0.70, token(), token_allowed, throttle_allowed, on_two_threads(CALLS))
    });
    let window_50 = || Direct::new(50, PERIOD / 2);
    case("sliding_window 50, allowed", &|name| {
        direct!(name, 1.10, window_50(), window_50_allowed, throttle_50_allowed, bursts(BURSTS, 50, PERIOD))
    });
    case("sliding_window 50, denied", &|name| {
        while window_50_denied().is_ok() {}
        direct!(name, 1.10, Direct::exhausted(50), window_50_denied, throttle_50_denied, calls(CALLS))
    });
    case("sliding_window 50, allowed, 2 threads", &|name| {
        let (ours, throttle) = (window_50_allowed, throttle_50_allowed);
        direct!(name, 1.20, window_50(), ours, throttle, bursts_on_two_threads(BURSTS, 50, PERIOD))
    });
    let window_100_000 = || Direct::new(100_000, Duration::from_micros(100));
    case("sliding_window 100,000, allowed", &|name| {
        direct!(name, 1.10, window_100_000(), window_100_000_allowed, throttle_100_000_allowed, calls(CALLS))
    });
    case("sliding_window 100,000, denied", &|name| {
        let (ours, throttle) = (window_100_000_denied, throttle_100_000_denied);
        while ours().is_ok() {}
        while throttle().is_some() {}
        direct!(name, 1.10, Direct::exhausted(100_000), ours, throttle, calls(CALLS))
    });
    case("sliding_window 100,000, allowed, 2 threads", &|name| {
        let (ours, throttle) = (window_100_000_allowed, throttle_100_000_allowed);
        direct!(name, 1.20, window_100_000(), ours, throttle, on_two_threads(CALLS))
    });
    let long = quota(100_000, 366 * 24 * HOUR);
    let (few, many) = (texts(1_000, "user"), texts(KEYS, "user"));
    let (few_numbers, many_numbers): (Vec<u64>, Vec<u64>) = ((0..1_000).collect(), (0..KEYS as u64).collect());
    let text = |key: &'static String| key.as_str();
    let number = |key: &u64| *key;
    let (few, many): (&'static [String], &'static [String]) = (few.leak(), many.leak());
    case("token_bucket, 1,000 `&str` keys", &|name| keyed!(name, 0.60, long, few, String, token_text_few, text));
    case("token_bucket, 1,000,000 `&str` keys", &|name| keyed!(name, 0.45, long, many, String, token_text_many, text));
    case("token_bucket, 1,000 `u64` keys", &|name| {
        keyed!(name, 0.70, long, &few_numbers, u64, token_number_few, number)
    });
    case("token_bucket, 1,000,000 `u64` keys", &|name| {
        keyed!(name, 0.75, long, &many_numbers, u64, token_number_many, number)
    });
    case("sliding_window 10, 1,000 `&str` keys", &|name| {
        keyed!(name, 0.80, quota(10, Duration::from_micros(150)), few, String, window_text_few, text)
    });
    case("sliding_window 10, 1,000,000 `&str` keys", &|name| {
        keyed!(name, 0.60, quota(10, HOUR), many, String, window_text_many, text)
    });
    case("first sight of 1,000,000 `String` keys", &first_sight);
    case("bytes a key, token_bucket", &|name| bytes_a_key(name, 0.40, token_bytes));
    case("bytes a key, sliding_window 10", &|name| bytes_a_key(name, 0.80, window_bytes));
}
