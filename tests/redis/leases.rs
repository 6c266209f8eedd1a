//! Leases: however permits are spent, limits hold and no permit is lost.
//!
//! Each process is a separate backend: backends share nothing but the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use ratelimit_runtime::backend::{Action, Backend, Outcome, Permit, Request, Timestamp};
use ratelimit_runtime::{Algorithm, BackendErrorKind, Calendar, Limit, OnBackendError, RateLimiter, RedisBackend};
use ratelimit_tests::oracle::{Entry, Log, nanos};
use ratelimit_tests::{Admission, RedisServer, above};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// The longest that a busy machine may take for what is certain to happen.
const PATIENCE: Duration = Duration::from_secs(20);
const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];
/// Microseconds since the Unix epoch.
const START: u64 = 1_790_000_000_000_000;

fn backend(server: &RedisServer, permits: u32, valid_for: Duration) -> RedisBackend {
    RedisBackend::builder().url(server.url()).timeout(PATIENCE).lease(permits, valid_for).build().unwrap()
}

fn limiter(backend: RedisBackend, limit: Limit) -> RateLimiter {
    let builder = RateLimiter::builder("leases").backend(backend).on_backend_error(OnBackendError::Deny);
    builder.limit(limit).build().unwrap()
}

fn process(server: &RedisServer, limit: Limit) -> RateLimiter {
    limiter(backend(server, 100, SECOND), limit)
}

/// Permits left on the server, not counting the leases of this process.
fn left(server: &RedisServer, limit: Limit) -> u32 {
    process(server, limit).peek("key", 0).unwrap().remaining()
}

/// Waits until the server has this many permits left.
fn comes_to(server: &RedisServer, limit: Limit, expected: u32) {
    let until = Instant::now() + PATIENCE;
    while left(server, limit) != expected && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(left(server, limit), expected);
}

/// The admissions of three processes with two threads each during `time`, and the number of script
/// calls.
fn hammer(limit: Limit, time: Duration) -> (Vec<Admission>, u64) {
    let server = RedisServer::start();
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = move || u64::try_from((unix + start.elapsed()).as_micros()).unwrap();
    let threads: Vec<_> = (0..3)
        .flat_map(|_| {
            let limiter = limiter(backend(&server, 40, SECOND), limit);
            [limiter.clone(), limiter]
        })
        .map(|limiter| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut admitted = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let before = now();
                    match limiter.check("key", 1) {
                        Ok(_) => admitted.push(Admission { from: before, to: now() }),
                        Err(exceeded) => assert!(exceeded.retry_after().is_some()),
                    }
                }
                admitted
            })
        })
        .collect();
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let admitted = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    (admitted, server.calls_of("evalsha"))
}

#[test]
fn no_period_holds_more_than_count() {
    let (count, per) = (200, Duration::from_millis(400));
    let limit = Limit::new(count, per);
    let (admitted, _) = hammer(limit, 6 * per);
    let periods = 5 * count as usize;
    assert!(admitted.len() > periods * 9 / 10, "{} admitted in six periods", admitted.len());
    assert_eq!(above(&limit, &admitted), 0);
}

#[test]
fn nothing_flows_out_of_a_token_bucket_that_did_not_flow_in() {
    let (count, burst, per) = (500, 200, SECOND);
    let limit = Limit::new(count, per).with_algorithm(Algorithm::TokenBucket).with_burst(burst);
    let (admitted, _) = hammer(limit, 2 * per);
    assert!(admitted.len() > (burst + count) as usize, "{} admitted in two seconds", admitted.len());
    assert_eq!(above(&limit, &admitted), 0);
}

#[test]
fn no_window_holds_more_than_count() {
    let (count, per) = (200, Duration::from_millis(250));
    let limit = Limit::new(count, per).with_algorithm(Algorithm::FixedWindow);
    let (admitted, _) = hammer(limit, 8 * per);
    assert!(admitted.len() > 6 * count as usize, "{} admitted in eight windows", admitted.len());
    assert_eq!(above(&limit, &admitted), 0);
}

#[test]
fn a_key_that_is_called_often_costs_few_calls_of_the_server() {
    let server = RedisServer::start();
    let limiter = process(&server, Limit::new(1_000_000, HOUR));
    for _ in 0..20_000 {
        limiter.check("key", 1).unwrap();
    }
    let calls = server.calls_of("evalsha");
    // 100 at a time, and fewer at first.
    assert!((200..220).contains(&calls), "{calls} calls of the script");
}

#[test]
fn a_key_that_is_called_once_is_charged_once() {
    let server = RedisServer::start();
    let limit = Limit::new(1_000, HOUR);
    process(&server, limit).check("key", 1).unwrap();
    assert_eq!(left(&server, limit), 999);
}

#[test]
fn a_small_limit_is_asked_for_every_call() {
    let server = RedisServer::start();
    let (one, other) = (process(&server, Limit::new(19, HOUR)), process(&server, Limit::new(19, HOUR)));
    for _ in 0..9 {
        one.check("key", 1).unwrap();
        other.check("key", 1).unwrap();
    }
    assert!(server.calls_of("evalsha") >= 18);
    other.check("key", 1).unwrap();
    assert!(one.check("key", 1).is_err());
}

#[test]
fn only_the_rest_of_a_limit_is_leased() {
    for algorithm in ALGORITHMS {
        let server = RedisServer::start();
        let day = 24 * HOUR;
        let limit = Limit::new(333, day).with_algorithm(algorithm);
        let (one, other) = (process(&server, limit), process(&server, limit));
        let mut admitted = 0;
        while one.check("key", 1).is_ok() {
            admitted += 1;
            admitted += u32::from(other.check("key", 1).is_ok());
        }
        // What the other process still holds.
        while other.check("key", 1).is_ok() {
            admitted += 1;
        }
        assert_eq!(admitted, 333, "{algorithm:?}");
    }
}

#[test]
fn unspent_permits_come_back() {
    for algorithm in ALGORITHMS {
        let server = RedisServer::start();
        // One permit of the token bucket takes a day to refill.
        let limit = Limit::new(1_000, 366 * 24 * HOUR).with_algorithm(algorithm);
        let limiter = limiter(backend(&server, 100, Duration::from_millis(300)), limit);
        for _ in 0..70 {
            limiter.check("key", 1).unwrap();
        }
        let expected = match algorithm {
            // What was refilled meanwhile, however little, is not given back.
            Algorithm::TokenBucket => 929..=930,
            _ => 930..=930,
        };
        let until = Instant::now() + PATIENCE;
        while !expected.contains(&left(&server, limit)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(expected.contains(&left(&server, limit)), "{algorithm:?}: {} left", left(&server, limit));
        // And is no longer spent here.
        let calls = server.calls_of("evalsha");
        limiter.check("key", 1).unwrap();
        assert_eq!(server.calls_of("evalsha"), calls + 1);
    }
}

#[test]
fn a_denial_holds_for_the_next_calls_until_permits_may_have_come_back() {
    let server = RedisServer::start();
    let limit = Limit::new(10, HOUR);
    let one = limiter(backend(&server, 100, Duration::from_millis(300)), limit);
    let mut last = None;
    for _ in 0..10 {
        last = Some(one.check("key", 1).unwrap());
    }
    let other = limiter(backend(&server, 100, Duration::from_millis(300)), limit);
    assert!(other.check("key", 1).is_err());
    let calls = server.calls_of("evalsha");
    let start = Instant::now();
    let mut denied = 0;
    while start.elapsed() < Duration::from_millis(100) {
        denied += u32::from(other.check("key", 1).is_err());
    }
    assert!(denied > 200, "{denied} denials in 100 ms");
    assert!(server.calls_of("evalsha") <= calls + 1);
    one.refund(last.unwrap()).unwrap();
    let until = Instant::now() + PATIENCE;
    while other.check("key", 1).is_err() {
        assert!(Instant::now() < until, "a permit that another process gave back is never seen");
    }
}

#[test]
fn a_refund_goes_back_into_its_lease_and_later_to_the_server() {
    let server = RedisServer::start();
    let limit = Limit::new(1_000, HOUR);
    let limiter = process(&server, limit);
    let mut decisions: Vec<_> = (0..8).map(|_| limiter.check("key", 1).unwrap()).collect();
    let calls = server.calls_of("evalsha");
    for _ in 0..50 {
        limiter.refund(decisions.pop().unwrap()).unwrap();
        decisions.push(limiter.check("key", 1).unwrap());
    }
    assert_eq!(server.calls_of("evalsha"), calls);
    comes_to(&server, limit, 992);
    for decision in decisions {
        limiter.refund(decision).unwrap();
    }
    assert_eq!(left(&server, limit), 1_000);
}

#[test]
fn a_reset_drops_the_lease() {
    let server = RedisServer::start();
    let limit = Limit::new(1_000, HOUR);
    let limiter = limiter(backend(&server, 100, Duration::from_millis(100)), limit);
    for _ in 0..70 {
        limiter.check("key", 1).unwrap();
    }
    limiter.reset("key").unwrap();
    assert_eq!(left(&server, limit), 1_000);
    limiter.check("key", 1).unwrap();
    // Nothing of the old lease returns to the new bucket.
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(left(&server, limit), 999);
}

#[test]
fn calls_that_wait_come_after_what_is_leased_and_calls_of_other_costs_are_asked_for() {
    let server = RedisServer::start();
    let limiter = limiter(backend(&server, 100, Duration::from_millis(50)), Limit::new(1_000, HOUR));
    for _ in 0..20 {
        limiter.check("key", 1).unwrap();
        limiter.check("key", 3).unwrap();
        limiter.wait_at_most("key", 2, PATIENCE).unwrap();
    }
    let spent = 20 * (1 + 3 + 2);
    comes_to(&server, Limit::new(1_000, HOUR), 1_000 - spent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_on_one_key_admit_exactly_count_in_few_calls() {
    let server = RedisServer::start();
    let limiter = process(&server, Limit::new(10_000, HOUR));
    let mut tasks = JoinSet::new();
    for _ in 0..256 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            let mut admitted = 0;
            for _ in 0..100 {
                admitted += u32::from(limiter.check_async("key", 1).await.is_ok());
                tokio::task::yield_now().await;
            }
            admitted
        });
    }
    assert_eq!(tasks.join_all().await.iter().sum::<u32>(), 10_000);
    let calls = server.calls_of("evalsha");
    assert!(calls < 1_000, "{calls} calls of the script");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permits_of_futures_that_are_dropped_are_neither_lost_nor_doubled() {
    let server = RedisServer::start();
    let count = 1_000_000;
    let limit = Limit::new(count, HOUR);
    for (tasks, coalescing) in [(1, true), (64, true), (64, false)] {
        let builder = RedisBackend::builder().url(server.url()).timeout(PATIENCE).coalescing(coalescing);
        let limiter = limiter(builder.lease(20, Duration::from_millis(20)).build().unwrap(), limit);
        limiter.reset_async("key").await.unwrap();
        let mut running = JoinSet::new();
        for task in 0..tasks {
            let limiter = limiter.clone();
            running.spawn(async move {
                let mut kept = 0;
                for number in 0..100_u64 {
                    let call = limiter.check_async("key", 1);
                    let patience = match (number + task) % 4 {
                        0 => PATIENCE,
                        short => Duration::from_micros(short * (number % 7) * 40),
                    };
                    match tokio::time::timeout(patience, call).await {
                        Ok(decision) => {
                            decision.unwrap();
                            kept += 1;
                        }
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
                kept
            });
        }
        let kept = running.join_all().await.iter().sum::<u32>();
        assert!(kept > 0);
        tokio::task::block_in_place(|| comes_to(&server, limit, count - kept));
    }
}

#[test]
fn a_lease_outlasts_a_server_that_does_not_answer() {
    let server = RedisServer::start();
    let builder = RedisBackend::builder().url(server.url()).timeout(Duration::from_millis(200));
    let limiter = limiter(builder.lease(100, Duration::from_secs(10)).build().unwrap(), Limit::new(10_000, HOUR));
    // Leases of 1, 2, 4, .. 64: 127 permits by then.
    for _ in 0..64 {
        limiter.check("key", 1).unwrap();
    }
    server.freeze();
    for _ in 64..127 {
        limiter.check("key", 1).unwrap();
    }
    assert!(limiter.check("key", 1).is_err());
    server.thaw();
    let until = Instant::now() + PATIENCE;
    while limiter.check("key", 1).is_err() {
        assert!(Instant::now() < until, "limiting does not resume");
    }
}

#[test]
fn a_lease_of_nothing_or_for_too_long_is_refused() {
    for (permits, valid_for) in [(0, SECOND), (10, Duration::ZERO), (10, 11 * SECOND)] {
        let error = RedisBackend::builder().url("redis://localhost").lease(permits, valid_for).build().unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Configuration);
    }
}

/// One step of a trace on virtual time, by one of three processes.
#[derive(Clone, Debug)]
enum Step {
    /// Calls without a wait.
    Take {
        process: usize,
        cost: u32,
        calls: u32,
    },
    Wait {
        process: usize,
        cost: u32,
        thousandths: u64,
    },
    /// Gives back one of the permits that are out, chosen by the number.
    GiveBack {
        process: usize,
        choice: usize,
    },
    /// In thousandths of the first limit's period.
    Advance(u64),
    /// To this many microseconds before the end of the first limit's period.
    AdvanceToEnd(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let process = || 0_usize..3;
    prop_oneof![
        10 => (process(), prop_oneof![6 => Just(1_u32), 1 => 1_u32..=4], prop_oneof![1_u32..=4, 1_u32..=60])
            .prop_map(|(process, cost, calls)| Step::Take { process, cost, calls }),
        1 => (process(), 1_u32..=3, 0_u64..=1_500)
            .prop_map(|(process, cost, thousandths)| Step::Wait { process, cost, thousandths }),
        2 => (process(), any::<usize>()).prop_map(|(process, choice)| Step::GiveBack { process, choice }),
        6 => prop_oneof![4 => 0_u64..=10, 3 => 0_u64..=60, 2 => 0_u64..=400, 2 => 900_u64..=1_000].prop_map(Step::Advance),
        1 => (0_u64..=2).prop_map(Step::AdvanceToEnd),
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    (
        prop_oneof![20_u32..=64, 65_u32..=400],
        20_000_u64..=20_000_000,
        proptest::sample::select(&ALGORITHMS),
        1_u32..=300,
    )
        .prop_map(|(count, per, algorithm, burst)| {
            let limit = Limit::new(count, Duration::from_micros(per)).with_algorithm(algorithm);
            if algorithm == Algorithm::TokenBucket { limit.with_burst(burst) } else { limit }
        })
}

/// All admissions, in the order of their times. An error if a full log shows too many.
fn follow(processes: &[RedisBackend], name: &str, limits: &[Limit], steps: &[Step]) -> Result<Log, String> {
    let per = u64::try_from(limits[0].per().as_micros()).unwrap();
    let mut now = START;
    let mut out: Vec<(Permit, Entry)> = Vec::new();
    let thousandth = per / 1_000;
    let ask = |process: usize, action: Action, now: u64| {
        let request = Request::new(name, limits, action).at(Timestamp::from_nanos(now * 1_000));
        processes[process].decide(&request).map_err(|error| error.to_string())
    };
    for step in steps {
        let (process, cost, calls, max_wait) = match step {
            Step::Advance(by) => {
                now += by * thousandth;
                continue;
            }
            Step::AdvanceToEnd(before) => {
                now = (now + before + 1).next_multiple_of(per) - before;
                continue;
            }
            Step::GiveBack { process, choice } => {
                if !out.is_empty() {
                    let (permit, _) = out.remove(choice % out.len());
                    ask(*process, Action::GiveBack(permit), now)?;
                }
                continue;
            }
            Step::Take { process, cost, calls } => (*process, *cost, *calls, Duration::ZERO),
            Step::Wait { process, cost, thousandths } => {
                (*process, *cost, 1, Duration::from_micros(thousandths * thousandth))
            }
        };
        for _ in 0..calls {
            let answer = ask(process, Action::Take { cost, max_wait }, now)?;
            let Outcome::Admitted(admitted) = answer.outcome else { continue };
            let wait = admitted.at().since(answer.now);
            if wait > max_wait {
                return Err(format!("a wait of {wait:?} for {step:?}"));
            }
            out.push((admitted.permit().clone(), Entry { at: now * 1_000 + nanos(wait), cost }));
        }
    }
    let mut admitted: Vec<Entry> = out.into_iter().map(|(_, entry)| entry).collect();
    admitted.sort_by_key(|entry| entry.at);
    let mut log = Log::default();
    for entry in admitted {
        for limit in limits {
            if !log.admits(limit, entry.at, entry.cost) {
                return Err(format!("{entry:?} is above {limit:?}"));
            }
        }
        log.0.push(entry);
    }
    Ok(log)
}

fn take(process: usize, calls: u32) -> Step {
    Step::Take { process, cost: 1, calls }
}

/// The admissions of two processes between these milliseconds from the start, of 100 a second.
fn admitted_in(algorithm: Algorithm, steps: &[Step], from: u64, to: u64) -> usize {
    let server = RedisServer::start();
    let processes = [backend(&server, 10, SECOND), backend(&server, 10, SECOND)];
    let limit = Limit::new(100, SECOND).with_algorithm(algorithm);
    let log = follow(&processes, "rl:1:{steps}", &[limit], steps).unwrap();
    let millis = |entry: &&Entry| (entry.at / 1_000 - START) / 1_000;
    log.0.iter().filter(|entry| (from..to).contains(&millis(entry))).count()
}

#[test]
fn permits_that_are_spent_late_count_until_a_period_later() {
    // Leases of 1, 2, 4, 8 and 10, of which 9 are left.
    let steps = [
        take(0, 16),
        take(1, 100),
        Step::Advance(49),
        take(0, 10),
        Step::Advance(951),
        take(1, 200),
        Step::Advance(50),
        take(1, 200),
    ];
    assert_eq!(admitted_in(Algorithm::SlidingWindow, &steps, 49, 50), 9);
    assert!(admitted_in(Algorithm::SlidingWindow, &steps, 1_000, 1_001) <= 91);
    assert_eq!(admitted_in(Algorithm::SlidingWindow, &steps, 1_000, 1_051), 100);
}

#[test]
fn a_lease_ends_with_the_fixed_window_that_it_is_of() {
    let begin = [Step::Advance(990), take(0, 16), Step::Advance(9), take(0, 1)];
    let steps = [&begin[..], &[Step::Advance(1), take(1, 200), take(0, 20)]].concat();
    assert_eq!(admitted_in(Algorithm::FixedWindow, &steps, 990, 1_000), 17);
    assert_eq!(admitted_in(Algorithm::FixedWindow, &steps, 1_000, 1_001), 100);
}

#[test]
fn any_spending_is_what_a_full_log_allows() {
    let server = RedisServer::start();
    let config = ProptestConfig {
        cases: 400,
        max_shrink_time: 30_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    };
    let leases = || prop::collection::vec((2_u32..=100, 1_u64..=1_000), 3);
    let numbers = AtomicU32::new(0);
    proptest!(config, |(
        leases in leases(), limits in prop::collection::vec(limit(), 1..=3), steps in prop::collection::vec(step(), 1..60)
    )| {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let processes: Vec<_> = leases
            .iter()
            .map(|(permits, millis)| backend(&server, *permits, Duration::from_millis(*millis)))
            .collect();
        let followed = follow(&processes, &format!("rl:1:{{trace:{number}}}"), &limits, &steps);
        prop_assert!(followed.is_ok(), "{}", followed.unwrap_err());
    });
    // They did lease.
    let calls = server.calls_of("evalsha");
    assert!(calls > 1_000, "{calls} calls of the script");
}

#[test]
fn a_lease_ends_with_the_day_that_it_is_of() {
    let server = RedisServer::start();
    let processes = [backend(&server, 10, 10 * SECOND), backend(&server, 10, 10 * SECOND)];
    let limits = [Limit::per_calendar(100, Calendar::DAY)];
    let until = [Step::AdvanceToEnd(20_000), take(0, 16), Step::AdvanceToEnd(1_000), take(0, 1)];
    let steps = [&until[..], &[Step::AdvanceToEnd(0), take(0, 1), take(1, 200), take(0, 20)]].concat();
    let log = follow(&processes, "rl:1:{midnight}", &limits, &steps).unwrap();
    let midnight = nanos(limits[0].per()) * (START * 1_000 / nanos(limits[0].per()) + 1);
    assert_eq!(log.0.iter().filter(|entry| entry.at < midnight).count(), 17);
    assert_eq!(log.0.iter().filter(|entry| entry.at >= midnight).count(), 100);
}

/// By the days of UTC, because the steps assume periods of one length.
#[test]
fn any_spending_by_the_calendar_is_what_a_full_log_allows() {
    let server = RedisServer::start();
    let config = ProptestConfig {
        cases: 100,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    };
    let leases = || prop::collection::vec((2_u32..=100, 1_u64..=10), 3);
    let days = (20_u32..=400).prop_map(|count| Limit::per_calendar(count, Calendar::DAY));
    let limits = (days, prop::collection::vec(limit(), 0..=2)).prop_map(|(day, more)| [vec![day], more].concat());
    let numbers = AtomicU32::new(0);
    proptest!(config, |(leases in leases(), limits in limits, steps in prop::collection::vec(step(), 1..60))| {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let processes: Vec<_> = leases
            .iter()
            .map(|(permits, seconds)| backend(&server, *permits, Duration::from_secs(*seconds)))
            .collect();
        let followed = follow(&processes, &format!("rl:1:{{days:{number}}}"), &limits, &steps);
        prop_assert!(followed.is_ok(), "{}", followed.unwrap_err());
    });
}
