//! Calls that wait for permits in a Redis server or in a custom store, by the real clock.
//!
//! Each backend stands for a process: backends share nothing but the server.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::task::Poll;
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{IntoBackend, SharedBackend};
use ratelimit_runtime::{
    Algorithm, Decision, ExceededKind, Limit, OnBackendError, RateLimitExceeded, RateLimiter, RedisBackend, limiters,
    rate_limit,
};
use ratelimit_tests::{
    ALGORITHMS, MINUTE, Network, PATIENCE, Proxy, RedisServer, SECOND, SLACK, Shelf, impatient, millis, poll_once,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

fn process(server: &RedisServer) -> SharedBackend {
    RedisBackend::builder().url(server.url()).timeout(PATIENCE).build().unwrap().into_backend()
}

fn limiter(backend: &SharedBackend, name: &str, limit: Limit) -> RateLimiter {
    let builder = RateLimiter::builder(name).backend(backend.clone()).on_backend_error(OnBackendError::Deny);
    builder.limit(limit).build().unwrap()
}

/// A custom store that blocks the calling thread.
fn users_own() -> SharedBackend {
    Shelf::default().keeping_its_deadline().into_backend()
}

type Wait = Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + Send>>;

fn wait(limiter: &RateLimiter, cost: u32) -> Wait {
    let limiter = limiter.clone();
    Box::pin(async move { limiter.wait_async("a", cost).await })
}

fn waiting(name: &str) -> usize {
    limiters().iter().filter(|limiter| limiter.name == name).map(|limiter| limiter.waiting).sum()
}

/// Calls that wait or have been decided.
fn begun(name: &str) -> u64 {
    let limiters = limiters().into_iter().filter(|limiter| limiter.name == name);
    limiters.map(|limiter| limiter.waiting as u64 + limiter.allowed + limiter.denied + limiter.abandoned).sum()
}

/// Begins a wait, and returns when it stands in the queue.
async fn begin(limiter: &RateLimiter, cost: u32) -> tokio::task::JoinHandle<Result<Decision, RateLimitExceeded>> {
    let before = begun(limiter.name());
    let handle = tokio::spawn(wait(limiter, cost));
    until(|| begun(limiter.name()) > before).await;
    handle
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it does not happen");
        sleep(millis(1)).await;
    }
}

/// Starts a call every `every` for the time `during`. Each gives up after `patience`. Returns how
/// many are served.
async fn served(limiter: &RateLimiter, every: Duration, patience: Duration, during: Duration) -> usize {
    let start = tokio::time::Instant::now();
    let mut calls = JoinSet::new();
    let mut at = Duration::ZERO;
    while at < during {
        sleep_until(start + at).await;
        calls.spawn(timeout(patience, wait(limiter, 1)));
        at += every;
    }
    calls.join_all().await.into_iter().filter(|served| matches!(served, Ok(Ok(_)))).count()
}

/// With a test clock, such calls are served as fast as the limit allows: see `impatience.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_callers_who_give_up_would_have_had_others_get() {
    let server = RedisServer::start();
    tokio::join!(
        impatient::others_get_what_callers_who_give_up_would_have_had("redis", process(&server)),
        impatient::others_get_what_callers_who_give_up_would_have_had("a custom store", users_own()),
    );
}

/// At most 5 of 100 permits serve no call, with few concurrent calls and with many. A permit is
/// lost if another process books while it is given back.
#[test]
fn what_callers_who_give_up_would_have_had_other_processes_get() {
    const IN_ALL: usize = 200;
    for (processes, every, patience) in [(2, "20", "150"), (4, "20", "150"), (4, "60", "100")] {
        let server = RedisServer::start();
        let crowd = || {
            Command::new(env!("CARGO_BIN_EXE_redis_client"))
                .args(["crowd", "sliding_window", "50", "1000", &IN_ALL.to_string(), every, patience])
                .env("REDIS_URL", server.url())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let crowds: Vec<_> = (0..processes).map(|_| crowd()).collect();
        let calls = crowds.into_iter().map(|crowd| {
            let output = crowd.wait_with_output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<usize>().unwrap()
        });
        let calls: usize = calls.sum();
        assert!((IN_ALL * 95 / 100..=IN_ALL).contains(&calls), "{processes} processes: {calls} of {IN_ALL}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patient_call_waits_for_nobody_who_is_gone() {
    const PERIOD: Duration = Duration::from_millis(200);
    let server = RedisServer::start();
    let backend = process(&server);
    let mut runs = JoinSet::new();
    for algorithm in ALGORITHMS {
        let limit = Limit::new(1, PERIOD).with_algorithm(algorithm);
        let limiter = limiter(&backend, &format!("patient {algorithm:?}"), limit);
        runs.spawn(async move {
            let mut waited = Duration::MAX;
            // A machine that stands still for a moment is late.
            for _ in 0..3 {
                served(&limiter, millis(25), millis(300), 2 * SECOND).await;
                // The last call's booking is given back.
                until(|| waiting(limiter.name()) == 0).await;
                sleep(millis(50)).await;
                waited = waited.min(limiter.wait_async("a", 1).await.unwrap().waited());
                if waited <= PERIOD + millis(20) {
                    return;
                }
            }
            panic!("{algorithm:?}: {waited:?}");
        });
    }
    runs.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raised_limits_reach_those_who_wait() {
    let server = RedisServer::start();
    let backend = process(&server);
    for algorithm in ALGORITHMS {
        let limiter =
            limiter(&backend, &format!("raised {algorithm:?}"), Limit::new(1, MINUTE * 60).with_algorithm(algorithm));
        limiter.check("a", 1).unwrap();
        let mut waits = JoinSet::new();
        for _ in 0..5 {
            waits.spawn(wait(&limiter, 1));
        }
        until(|| waiting(limiter.name()) == 5).await;
        limiter.set_limits(&[Limit::new(100, MINUTE * 60).with_algorithm(algorithm)]).unwrap();
        let start = Instant::now();
        waits.join_all().await;
        assert!(start.elapsed() < SLACK, "{algorithm:?}: after {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raised_limits_reach_a_call_that_is_booked() {
    let server = RedisServer::start();
    let (backend, per) = (process(&server), 2 * SECOND);
    // A busy machine delays some attempts.
    for attempt in 0..10 {
        let limiter = limiter(&backend, &format!("booked {attempt}"), Limit::new(1, per));
        limiter.check("a", 1).unwrap();
        let waits = begin(&limiter, 1).await;
        // It is booked when it is due within a second.
        sleep(per * 3 / 4).await;
        limiter.set_limits(&[Limit::new(1_000, per)]).unwrap();
        if waits.await.unwrap().unwrap().waited() < per * 19 / 20 {
            return;
        }
    }
    panic!("it is served when it would have been with the old limits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_by_another_process_reaches_those_who_wait_within_a_second() {
    let server = RedisServer::start();
    let limit = Limit::new(1, MINUTE);
    let (one, other) = (limiter(&process(&server), "reset", limit), limiter(&process(&server), "reset", limit));
    one.check("a", 1).unwrap();
    let waits = begin(&one, 1).await;
    // Not at its first request.
    sleep(millis(300)).await;
    let start = Instant::now();
    other.reset("a").unwrap();
    waits.await.unwrap().unwrap();
    assert!(start.elapsed() < SECOND + SLACK, "after {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_served_in_order_and_those_who_leave_are_left_out() {
    let server = RedisServer::start();
    for (name, backend) in [("order", process(&server)), ("order in a custom store", users_own())] {
        let limiter = limiter(&backend, name, Limit::new(40, SECOND).with_algorithm(Algorithm::TokenBucket));
        limiter.check("a", 40).unwrap();
        let (start, mut waits) = (Instant::now(), Vec::new());
        for _ in 0..40 {
            let before = start.elapsed();
            waits.push((before, begin(&limiter, 1).await, start.elapsed()));
        }
        for (_, wait, _) in waits.iter().step_by(2) {
            wait.abort();
        }
        let mut last_due = Duration::ZERO;
        for (before, wait, after) in waits.into_iter().skip(1).step_by(2) {
            let waited = wait.await.unwrap().unwrap().waited();
            assert!(after + waited >= last_due, "due {:?} at the latest, after {last_due:?}", after + waited);
            last_due = before + waited;
        }
    }
}

fn limiters_of(name: &str) -> ratelimit_runtime::LimiterInfo {
    limiters().into_iter().find(|limiter| limiter.name == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_wait_overtakes_none_and_is_told_when_its_turn_comes() {
    let server = RedisServer::start();
    let backend = process(&server);
    let mut runs = JoinSet::new();
    for algorithm in ALGORITHMS {
        for (cost, ahead) in [(1, 1), (1, 7), (2, 3)] {
            let (backend, case) = (backend.clone(), format!("told {algorithm:?} {cost} {ahead}"));
            let limit = Limit::new(5, 2 * SECOND).with_algorithm(algorithm);
            runs.spawn(async move {
                // On a busy machine, calls book their places late.
                for attempt in 0..5 {
                    let limiter = limiter(&backend, &format!("{case} {attempt}"), limit);
                    limiter.check_async("a", 5).await.unwrap();
                    let mut waits = Vec::new();
                    for _ in 0..ahead {
                        waits.push(begin(&limiter, cost).await);
                    }
                    // The first is being requested meanwhile, or is booked.
                    sleep(millis(100)).await;
                    let asked = Instant::now();
                    let told = match limiter.check_async("a", cost).await {
                        Err(exceeded) => exceeded.retry_after().unwrap(),
                        Ok(_) if waits.iter().all(tokio::task::JoinHandle::is_finished) => continue,
                        Ok(_) => panic!("{case}: it has overtaken"),
                    };
                    let due = limiter.wait_async("a", cost).await.unwrap().waited();
                    let late = asked.elapsed().saturating_sub(due) + millis(100);
                    assert!(told < due + late, "{case}: {told:?} is after {due:?}");
                    for wait in waits {
                        wait.await.unwrap().unwrap();
                    }
                    if due < told + late {
                        return;
                    }
                }
                panic!("{case}: its turn comes later than told");
            });
        }
    }
    runs.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_cannot_be_met_fails_at_once_and_one_that_is_put_off_at_its_end() {
    let server = RedisServer::start();
    let backend = process(&server);
    let per = 5 * SECOND;
    let limiter = limiter(&backend, "bounded", Limit::new(1, per));
    limiter.check("a", 1).unwrap();
    let start = Instant::now();
    let exceeded = limiter.wait_at_most_async("a", 1, per / 2).await.unwrap_err();
    assert!(exceeded.retry_after().unwrap() > per / 2);
    let first = begin(&limiter, 1).await;
    let exceeded = limiter.wait_at_most_async("a", 1, per).await.unwrap_err();
    assert_eq!(exceeded.kind(), ExceededKind::Limited);
    assert!(exceeded.retry_after().unwrap() > per, "{exceeded:?}");
    assert!(start.elapsed() < per / 2, "they did not wait");
    let last = tokio::spawn({
        let limiter = limiter.clone();
        async move { limiter.wait_at_most_async("a", 1, 3 * per).await }
    });
    until(|| waiting("bounded") == 2).await;
    // Another call takes its permit.
    first.await.unwrap().unwrap();
    limiter.set_limits(&[Limit::new(1, MINUTE)]).unwrap();
    let exceeded = last.await.unwrap().unwrap_err();
    assert!(exceeded.retry_after().unwrap() > 3 * per, "{exceeded:?}");
    assert!(start.elapsed() < 2 * per, "it cannot be met any more: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_put_off_is_denied_at_the_end_of_its_patience() {
    let server = RedisServer::start();
    let limiter = limiter(&process(&server), "patience", Limit::new(1, SECOND));
    limiter.check("a", 1).unwrap();
    let first = begin(&limiter, 1).await;
    let start = Instant::now();
    let second = tokio::spawn({
        let limiter = limiter.clone();
        // The server forgets its record half a second later.
        async move { limiter.wait_at_most_async("a", 1, millis(2_500)).await }
    });
    until(|| waiting("patience") == 2).await;
    // The patient call before it now waits for an hour.
    limiter.set_limits(&[Limit::new(1, 60 * MINUTE)]).unwrap();
    let exceeded = second.await.unwrap().unwrap_err();
    assert!((millis(2_500)..PATIENCE).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(exceeded.retry_after().unwrap() > MINUTE, "{exceeded:?}");
    first.abort();
}

#[rate_limit(limiter = limiter, key = "a", wait(queue = 2, priority = priority))]
async fn queued(limiter: &RateLimiter, priority: u8) -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_so_many_calls_wait_and_a_higher_priority_goes_first() {
    let server = RedisServer::start();
    let limiter = limiter(&process(&server), "queue", Limit::new(1, 2 * SECOND));
    let begin = |priority| {
        let limiter = limiter.clone();
        tokio::spawn(async move { queued(&limiter, priority).await.map(|()| Instant::now()) })
    };
    begin(0).await.unwrap().unwrap();
    let background = begin(0);
    until(|| waiting("queue") == 1).await;
    let user = begin(10);
    until(|| waiting("queue") == 2).await;
    let start = Instant::now();
    let exceeded = begin(0).await.unwrap().unwrap_err();
    assert!(start.elapsed() < 2 * SECOND, "it does not wait");
    assert!(exceeded.retry_after().unwrap() > 4 * SECOND, "{exceeded:?}");
    let (background, user) = (background.await.unwrap().unwrap(), user.await.unwrap().unwrap());
    assert!(user + SECOND < background, "the user's call came later and went first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_holds_nothing_for_long() {
    let server = RedisServer::start();
    // A hundred calls of one process would take 25 seconds.
    let limit = Limit::new(4, SECOND).with_algorithm(Algorithm::TokenBucket);
    let limiter = limiter(&process(&server), "waiting", limit);
    limiter.check("a", 4).unwrap();
    let mut other = Command::new(env!("CARGO_BIN_EXE_redis_client"))
        .args(["wait", "4", "1000", "100"])
        .env("REDIS_URL", server.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "waiting\n");
    sleep(millis(300)).await;
    other.kill().unwrap();
    other.wait().unwrap();
    let waited = limiter.wait_async("a", 1).await.unwrap().waited();
    assert!(waited < 2 * SECOND, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_wait_together_are_served_the_whole_limit_and_no_more() {
    let server = RedisServer::start();
    let limit = Limit::new(50, SECOND).with_algorithm(Algorithm::TokenBucket);
    let processes: Vec<_> = (0..4).map(|_| limiter(&process(&server), "together", limit)).collect();
    processes[0].check("a", 50).unwrap();
    let start = Instant::now();
    let mut waits = JoinSet::new();
    for number in 0..100 {
        let limiter = processes[number % processes.len()].clone();
        waits.spawn(async move { limiter.wait_async("a", 1).await.unwrap() });
    }
    waits.join_all().await;
    let took = start.elapsed();
    assert!((millis(1_950)..millis(2_300)).contains(&took), "100 at 50 a second: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_cost_the_server_two_calls_each() {
    let server = RedisServer::start();
    let limit = Limit::new(2_000, SECOND).with_algorithm(Algorithm::TokenBucket).with_burst(1);
    let limiter = limiter(&process(&server), "many", limit);
    limiter.check("a", 1).unwrap();
    let before = server.calls_of("evalsha");
    let mut waits = JoinSet::new();
    for _ in 0..2_000 {
        waits.spawn(wait(&limiter, 1));
    }
    waits.join_all().await;
    let calls = server.calls_of("evalsha") - before;
    assert!(calls < 4_100, "{calls} calls of the script");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_limit_is_asked_once_a_permit() {
    let server = RedisServer::start();
    for (rate, permits) in [(25, 50), (7, 14), (3, 6)] {
        let limit = Limit::new(rate, SECOND).with_algorithm(Algorithm::TokenBucket).with_burst(1);
        let limiter = limiter(&process(&server), &format!("slow {rate}"), limit);
        limiter.check("a", 1).unwrap();
        let before = server.calls_of("evalsha");
        let mut waits = Vec::new();
        for _ in 0..permits {
            waits.push(begin(&limiter, 1).await);
        }
        for wait in waits {
            wait.await.unwrap().unwrap();
        }
        let calls = server.calls_of("evalsha") - before;
        assert!(calls <= permits * 3 / 2, "{calls} calls of the script for {permits} permits");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_waits_long_asks_once_a_second_for_a_key() {
    let server = RedisServer::start();
    let limiter = limiter(&process(&server), "long", Limit::new(1, 60 * MINUTE));
    limiter.check("a", 1).unwrap();
    let mut waits = Vec::new();
    for _ in 0..5 {
        waits.push(begin(&limiter, 1).await);
    }
    sleep(SECOND / 5).await;
    let (before, start) = (server.calls_of("evalsha"), Instant::now());
    sleep(3 * SECOND).await;
    let calls = server.calls_of("evalsha") - before;
    assert!((1..=start.elapsed().as_secs() + 1).contains(&calls), "{calls} in {:?}", start.elapsed());
    waits.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_far_away_holds_up_no_fast_limit() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = RedisBackend::builder().url(proxy.url()).timeout(PATIENCE).build().unwrap().into_backend();
    let limit = Limit::new(1_000, SECOND).with_algorithm(Algorithm::TokenBucket).with_burst(1);
    let limiter = limiter(&backend, "far away", limit);
    limiter.check("a", 1).unwrap();
    let first = begin(&limiter, 1).await;
    proxy.set(Network::Slow(millis(50)));
    let start = Instant::now();
    let mut waits = JoinSet::new();
    for _ in 0..200 {
        waits.spawn(wait(&limiter, 1));
    }
    waits.join_all().await;
    first.await.unwrap().unwrap();
    // One after the other they would take ten seconds.
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_leaves_none_waiting() {
    let server = RedisServer::start();
    let backend = RedisBackend::builder().url(server.url()).timeout(SECOND).build().unwrap().into_backend();
    let limiter = |policy, name: &str| {
        let builder = RateLimiter::builder(name).backend(backend.clone()).on_backend_error(policy);
        builder.limit(Limit::new(1, MINUTE)).build().unwrap()
    };
    let denying = limiter(OnBackendError::Deny, "denying");
    let (allowing, local) = (limiter(OnBackendError::Allow, "allowing"), limiter(OnBackendError::Local, "local"));
    let mut waits = Vec::new();
    for limiter in [&denying, &allowing, &local] {
        limiter.check("a", 1).unwrap();
        waits.push(begin(limiter, 1).await);
        waits.push(begin(limiter, 1).await);
    }
    server.kill();
    let start = Instant::now();
    let [denied, denied_too, allowed, allowed_too, first, second] = waits.try_into().unwrap();
    for denied in [denied, denied_too] {
        assert_eq!(denied.await.unwrap().unwrap_err().kind(), ExceededKind::BackendFailed);
    }
    for allowed in [allowed, allowed_too] {
        allowed.await.unwrap().unwrap();
    }
    // The limiter in memory has one permit, which the first call gets, whichever task runs first.
    first.await.unwrap().unwrap();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert!(timeout(SECOND / 2, second).await.is_err());
    assert_eq!(limiters_of("local").waiting, 1);
}

#[test]
fn threads_that_wait_are_served_without_a_runtime() {
    let server = RedisServer::start();
    for backend in [process(&server), users_own()] {
        let limiter = limiter(&backend, "threads", Limit::new(1, millis(50)));
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..11 {
                scope.spawn(|| limiter.wait("a", 1).unwrap());
            }
        });
        let took = start.elapsed();
        assert!((millis(499)..3 * SECOND).contains(&took), "{took:?}");
    }
}

#[test]
fn a_future_that_is_not_polled_delays_nobody() {
    let server = RedisServer::start();
    // Even on a busy machine, the wait begins before the next permit is due.
    let limiter = limiter(&process(&server), "unpolled", Limit::new(1, 3 * SECOND));
    limiter.check("a", 1).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
    let _entered = runtime.enter();
    let mut first = wait(&limiter, 1);
    while waiting("unpolled") == 0 {
        assert!(poll_once(&mut first).is_pending());
        std::thread::sleep(millis(1));
    }
    // It is charged for the first call's permit, which it holds.
    assert!(limiter.wait("a", 1).unwrap().waited() <= 9 * SECOND);
    assert!(matches!(poll_once(&mut first), Poll::Ready(Ok(_))));
}

#[test]
fn a_permit_that_a_call_has_not_taken_is_the_next_ones() {
    let server = RedisServer::start();
    let limiter = limiter(&process(&server), "not taken", Limit::new(1, SECOND));
    limiter.check("a", 1).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
    let _entered = runtime.enter();
    let [mut first, mut second] = [0; 2].map(|_| wait(&limiter, 1));
    for (number, wait) in [(1, &mut first), (2, &mut second)] {
        while waiting("not taken") < number {
            assert!(poll_once(wait.as_mut()).is_pending());
            std::thread::sleep(millis(1));
        }
    }
    std::thread::sleep(millis(1_200));
    drop(first);
    let Poll::Ready(Ok(second)) = poll_once(&mut second) else { panic!("the permit is lost") };
    assert!(second.waited() <= SECOND, "it is charged as of when it was due: {:?}", second.waited());
}

#[test]
fn a_wait_with_backoff_commits_no_offence() {
    let server = RedisServer::start();
    let builder = RateLimiter::builder("offences").backend(process(&server)).backoff(MINUTE, MINUTE);
    // Longer than a call can be booked ahead.
    let limiter = builder.limit(Limit::new(1, millis(1_300))).build().unwrap();
    for _ in 0..2 {
        limiter.wait("a", 1).unwrap();
    }
    limiter.wait_at_most("a", 1, 2 * SECOND).unwrap();
    assert!(limiter.wait_at_most("a", 1, millis(10)).is_err());
    assert!(limiter.peek("a", 1).unwrap_err().retry_after().unwrap() > SECOND, "it is blocked");
}
