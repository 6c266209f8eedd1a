//! Merged calls, on one key or on many: each is answered as if it had come alone.

use std::future::Future;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Answer, Backend, Bucket, Outcome, Permit, Request, Timestamp};
use ratelimit_runtime::macro_support::v1;
use ratelimit_runtime::{
    Algorithm, BackendErrorKind, Backoff, Calendar, Limit, OnBackendError, RateLimiter, RedisBackend, test_util,
};
use ratelimit_tests::RedisServer;
use tokio::task::JoinSet;

const HOUR: Duration = Duration::from_secs(3_600);
/// Nanoseconds since the Unix epoch.
const START: u64 = 1_790_000_000_000_000_000;

fn backend(server: &RedisServer, coalescing: bool) -> RedisBackend {
    let builder = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(20));
    builder.coalescing(coalescing).build().unwrap()
}

fn limiter(server: &RedisServer, name: &str, count: u32) -> RateLimiter {
    let builder = RateLimiter::builder(name).backend(backend(server, true)).on_backend_error(OnBackendError::Deny);
    builder.limit(Limit::new(count, HOUR)).build().unwrap()
}

/// A fixed sequence of small pseudo-random numbers.
fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    }
}

fn said(answer: &Answer) -> String {
    let outcome = match &answer.outcome {
        Outcome::Admitted(admitted) => {
            format!("admitted at {:?}, {} left in {}", admitted.at(), admitted.remaining(), admitted.limit_index())
        }
        Outcome::Denied(denied) => {
            format!("denied until {:?}, {} left in {}", denied.admitted_at(), denied.remaining(), denied.limit_index())
        }
        other => format!("{other:?}"),
    };
    format!("{outcome} at {:?}", answer.now)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_on_one_key_admit_exactly_count_in_few_calls() {
    let server = RedisServer::start();
    let limiter = limiter(&server, "hot", 10_000);
    let mut tasks = JoinSet::new();
    for _ in 0..256 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            let mut admitted = 0;
            for _ in 0..100 {
                admitted += u32::from(limiter.check_async("key", 1).await.is_ok());
            }
            admitted
        });
    }
    assert_eq!(tasks.join_all().await.iter().sum::<u32>(), 10_000);
    let calls = server.calls_of("evalsha");
    assert!(calls < 25_600 / 2, "{calls} calls of the script");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_on_many_keys_admit_exactly_count_of_each_in_few_calls() {
    let server = RedisServer::start();
    let limiter = limiter(&server, "many", 50);
    let mut tasks = JoinSet::new();
    for task in 1..=256 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            let mut number = numbers(task);
            let mut admitted = 0;
            for _ in 0..100 {
                admitted += u32::from(limiter.check_async(number(100), 1).await.is_ok());
            }
            admitted
        });
    }
    assert_eq!(tasks.join_all().await.iter().sum::<u32>(), 100 * 50);
    let calls = server.calls_of("evalsha");
    // A denied key is not asked for again.
    assert!(calls < 5_000 / 2, "{calls} calls of the script");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permits_of_futures_that_are_dropped_are_neither_lost_nor_doubled() {
    let server = RedisServer::start();
    let count = 1_000_000;
    let limiter = limiter(&server, "dropped", count);
    let mut tasks = JoinSet::new();
    for task in 1..=256 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            let mut number = numbers(task);
            let mut kept = 0;
            for _ in 0..60 {
                let cost = u32::try_from(1 + number(3)).unwrap();
                let call = limiter.check_async("key", cost);
                // However busy the machine, some calls get their answer and some do not.
                let patience = match number(4) {
                    0 => Duration::from_secs(20),
                    _ => Duration::from_micros(number(3_000)),
                };
                match tokio::time::timeout(patience, call).await {
                    Ok(decision) => {
                        decision.unwrap();
                        kept += cost;
                    }
                    Err(_) => tokio::task::yield_now().await,
                }
            }
            kept
        });
    }
    let kept = tasks.join_all().await.iter().sum::<u32>();
    assert!(kept > 0);
    // Permits of abandoned calls are given back a little later.
    let until = Instant::now() + Duration::from_secs(20);
    let left = || async { limiter.peek_async("key", 0).await.unwrap().remaining() };
    while left().await != count - kept && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left().await, count - kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permits_that_came_to_a_future_before_it_was_dropped_are_given_back() {
    let server = RedisServer::start();
    let (count, calls, alone) = (1_000, 200, 8);
    let limiter = limiter(&server, "answered", count);
    let left = || async { limiter.peek_async("key", 0).await.unwrap().remaining() };
    assert_eq!(left().await, count);
    // Polled once, they have their seats. Then the answers are ignored.
    let mut futures: Vec<_> = (0..calls).map(|_| Box::pin(limiter.check_async("key", 1))).collect();
    futures.retain_mut(|future| future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let kept = calls - u32::try_from(futures.len()).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while left().await > count - (calls - alone) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(left().await <= count - (calls - alone));
    // The driver delivers a whole batch right after the server has decided.
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(futures);
    while left().await != count - kept && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left().await, count - kept);
}

/// Sends calls of these costs at once, and compares each answer with that of a bucket that is asked
/// sequentially.
async fn compare(server: &RedisServer, name: &str, limits: &[Limit], backoff: Option<Backoff>, rounds: &[Vec<u32>]) {
    let backend = backend(server, true);
    // Once connected, calls are sent in the order in which they come.
    backend.decide_async(&Request::new(name, limits, Action::Reset)).unwrap().await.unwrap();
    let mut bucket = Bucket::default();
    let mut now = START;
    for (round, costs) in rounds.iter().enumerate() {
        now += 7_001_000;
        let requests: Vec<Request> = costs
            .iter()
            .map(|cost| {
                let action = Action::Take { cost: *cost, max_wait: Duration::ZERO };
                let request = Request::new(name, limits, action).at(Timestamp::from_nanos(now));
                match backoff {
                    Some(backoff) => request.with_backoff(backoff),
                    None => request,
                }
            })
            .collect();
        // Polled first, and therefore seated, in this order.
        let mut calls = JoinSet::new();
        for (place, request) in requests.iter().cloned().enumerate() {
            let backend = backend.clone();
            calls.spawn(async move { (place, backend.decide_async(&request).unwrap().await.unwrap()) });
        }
        let mut answers = calls.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        for ((place, answer), request) in answers.iter().zip(&requests) {
            let expected = bucket.apply(request, request.now());
            assert_eq!(said(answer), said(&expected), "{name}, round {round}, call {place} of cost {}", costs[*place]);
        }
    }
}

#[tokio::test]
async fn a_batch_is_answered_as_its_calls_would_be_one_by_one() {
    let server = RedisServer::start();
    let mut number = numbers(7);
    let limit = |count, algorithm| match algorithm {
        Algorithm::TokenBucket => v1::limit_with_burst(count, Duration::from_secs(1), algorithm, 2 * count),
        _ => v1::limit(count, Duration::from_secs(1), algorithm),
    };
    let algorithms = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];
    let backoff = Backoff::new(Duration::from_millis(3), Duration::from_millis(100));
    for count in [1, 40, 200, 3_000] {
        for (first, algorithm) in algorithms.into_iter().enumerate() {
            for (variant, backoff) in [None, None, Some(backoff)].into_iter().enumerate() {
                let mut limits = vec![limit(count, algorithm)];
                if variant == 1 {
                    limits.extend([limit(count + 1, algorithms[(first + 1) % 3]), limit(2 * count, algorithms[0])]);
                }
                let rounds: Vec<Vec<u32>> = (0..8)
                    .map(|_| {
                        let equal = number(2) == 0;
                        let costs = (0..60 + number(100)).map(|_| u32::try_from(1 + number(3)).unwrap());
                        if equal { costs.map(|_| 1).collect() } else { costs.collect() }
                    })
                    .collect();
                let name = format!("rl:1:{{batch:{count} {algorithm:?} {variant}}}:x");
                compare(&server, &name, &limits, backoff, &rounds).await;
            }
        }
    }
    let calls = server.calls_of("evalsha");
    assert!(calls < 36 * 8 * 40, "{calls} calls of the script");
}

/// Every action on many buckets, in one batch after the other.
#[tokio::test]
async fn a_batch_of_many_buckets_is_answered_as_each_would_be_alone() {
    let server = RedisServer::start();
    let backend = backend(&server, true);
    // Once connected, calls are sent in the order in which they come.
    backend
        .decide_async(&Request::new("rl:1:{mixed:0}:x", &[Limit::new(1, HOUR)], Action::Reset))
        .unwrap()
        .await
        .unwrap();
    let mut number = numbers(11);
    let backoff = Backoff::new(Duration::from_millis(3), Duration::from_millis(100));
    let algorithms = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];
    // With the last permit of each, the server's and the oracle's.
    let mut buckets: Vec<(Bucket, Option<(Permit, Permit)>)> = (0..40).map(|_| Default::default()).collect();
    let mut now = START;
    for round in 0..60 {
        now += 7_001_000;
        let asked: Vec<(usize, Request, Request)> = (0..160)
            .map(|_| {
                let place = usize::try_from(number(40)).unwrap();
                let limit = |count| v1::limit(count, Duration::from_secs(1), algorithms[place % 3]);
                let limits = if place % 4 == 0 { vec![limit(9), limit(70)] } else { vec![limit(9)] };
                let cost = u32::try_from(number(4)).unwrap();
                let max_wait = if number(4) == 0 { Duration::from_millis(300) } else { Duration::ZERO };
                let permits = if number(4) == 0 { buckets[place].1.take() } else { None };
                let both = match (permits, number(12)) {
                    (Some((server, oracle)), _) => [Action::GiveBack(server), Action::GiveBack(oracle)],
                    (None, 0) => [Action::Peek { cost, max_wait }, Action::Peek { cost, max_wait }],
                    (None, 1) => [Action::Reset, Action::Reset],
                    (None, _) => [Action::Take { cost, max_wait }, Action::Take { cost, max_wait }],
                };
                let bucket = format!("rl:1:{{mixed:{place}}}:x");
                let [server, oracle] = both.map(|action| {
                    let request = Request::new(bucket.as_str(), &limits, action).at(Timestamp::from_nanos(now));
                    if place % 5 == 0 { request.with_backoff(backoff) } else { request }
                });
                (place, server, oracle)
            })
            .collect();
        let mut calls = JoinSet::new();
        for (order, (_, request, _)) in asked.iter().cloned().enumerate() {
            let backend = backend.clone();
            calls.spawn(async move { (order, backend.decide_async(&request).unwrap().await.unwrap()) });
        }
        let mut answers = calls.join_all().await;
        answers.sort_by_key(|(order, _)| *order);
        for ((order, answer), (place, request, to_oracle)) in answers.iter().zip(&asked) {
            let (bucket, permits) = &mut buckets[*place];
            let expected = bucket.apply(to_oracle, to_oracle.now());
            assert_eq!(said(answer), said(&expected), "round {round}, call {order}: {request:?}");
            match (request.action(), &answer.outcome, &expected.outcome) {
                (Action::Take { cost: 1.., .. }, Outcome::Admitted(server), Outcome::Admitted(oracle)) => {
                    *permits = Some((server.permit().clone(), oracle.permit().clone()));
                }
                (Action::Reset, ..) => *permits = None,
                _ => {}
            }
        }
    }
    let calls = server.calls_of("evalsha");
    assert!(calls < 60 * 160 / 4, "{calls} calls of the script");
}

/// A new bucket, or one idle for longer than a period, and a run of more calls than it holds.
#[tokio::test]
async fn a_run_larger_than_the_limit_admits_count_of_an_idle_bucket() {
    let server = RedisServer::start();
    for leases in [false, true] {
        let builder = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(20));
        let builder = if leases { builder.lease(10, Duration::from_millis(50)) } else { builder };
        let backend = builder.build().unwrap();
        for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
            let limits = [Limit::new(10, Duration::from_secs(60)).with_algorithm(algorithm)];
            let ask = |bucket: String, now: u64| {
                let backend = backend.clone();
                let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
                let request = Request::new(bucket, &limits, take).at(Timestamp::from_nanos(now));
                async move { backend.decide_async(&request).unwrap().await.unwrap().outcome }
            };
            // Connected, and the script loaded: calls are sent in the order in which they come.
            ask("rl:1:{first}:x".to_owned(), START).await;
            for now in [START, START + 3_600_000_000_000] {
                let mut calls = JoinSet::new();
                // So many calls under way that the next ones are merged.
                for place in 0..20 {
                    calls.spawn(ask(format!("rl:1:{{other:{place}:{}:{leases}}}:x", algorithm.name()), now));
                }
                let mut run = JoinSet::new();
                for _ in 0..50 {
                    run.spawn(ask(format!("rl:1:{{idle:{}:{leases}}}:x", algorithm.name()), now));
                }
                calls.join_all().await;
                let outcomes = run.join_all().await;
                let admitted = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Admitted(_))).count();
                assert_eq!(admitted, 10, "{algorithm:?}, leases {leases}, at {now}");
            }
        }
    }
}

/// The number of its call distinguishes a refund from those of an earlier record.
#[tokio::test]
async fn every_permit_of_a_run_under_a_backoff_can_be_given_back() {
    let server = RedisServer::start();
    let backend = backend(&server, true);
    let ask = |bucket: &str, action: Action| {
        let (backend, limits) = (backend.clone(), [Limit::new(1_000, HOUR)]);
        let request = Request::new(bucket.to_owned(), &limits, action).with_backoff(Backoff::new(HOUR, HOUR));
        async move {
            match backend.decide_async(&request).unwrap().await.unwrap().outcome {
                Outcome::Admitted(admitted) => Some((admitted.remaining(), admitted.permit().clone())),
                _ => None,
            }
        }
    };
    let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
    ask("rl:1:{run}:x", take.clone()).await.unwrap();
    let mut calls = JoinSet::new();
    // So many calls under way that the next ones are merged.
    for place in 0..20 {
        calls.spawn(ask(&format!("rl:1:{{other:{place}}}:x"), take.clone()));
    }
    let mut run = JoinSet::new();
    for _ in 0..50 {
        run.spawn(ask("rl:1:{run}:x", take.clone()));
    }
    calls.join_all().await;
    for admitted in run.join_all().await {
        ask("rl:1:{run}:x", Action::GiveBack(admitted.unwrap().1)).await;
    }
    let (left, _) = ask("rl:1:{run}:x", Action::Peek { cost: 0, max_wait: Duration::ZERO }).await.unwrap();
    assert_eq!(left, 999);
}

#[tokio::test]
async fn a_key_that_cannot_be_decided_on_fails_no_call_but_its_own() {
    let server = RedisServer::start();
    let backend = backend(&server, true);
    let limits = [Limit::new(10, HOUR)];
    let ask = |bucket: String| {
        let backend = backend.clone();
        async move {
            let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
            backend.decide_async(&Request::new(bucket, &limits, take)).unwrap().await
        }
    };
    ask("rl:1:{mine:1}:x".to_owned()).await.unwrap();
    redis::cmd("LPUSH").arg("rl:1:{other}:x").arg("a list").exec(&mut server.connection()).unwrap();
    let before = server.calls_of("evalsha");
    let mut calls = JoinSet::new();
    for place in 0..200 {
        let bucket = if place % 10 == 0 { "rl:1:{other}:x".to_owned() } else { format!("rl:1:{{mine:{place}}}:x") };
        let call = ask(bucket.clone());
        calls.spawn(async move { (bucket, call.await) });
    }
    for (bucket, answer) in calls.join_all().await {
        if bucket.contains("other") {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), BackendErrorKind::Refused);
            assert!(error.to_string().contains("WRONGTYPE"), "{error}");
        } else {
            assert!(matches!(answer.unwrap().outcome, Outcome::Admitted(_)), "{bucket}");
        }
    }
    assert!(server.calls_of("evalsha") - before < 100);
}

#[tokio::test]
async fn each_call_of_a_batch_gets_its_own_retry_time() {
    let server = RedisServer::start();
    let builder = RateLimiter::builder("reset").backend(backend(&server, true)).on_backend_error(OnBackendError::Deny);
    // A permit per millisecond.
    let limit = Limit::new(1_000, Duration::from_secs(1)).with_algorithm(Algorithm::TokenBucket);
    let limiter = builder.limit(limit).build().unwrap();
    let _clock = test_util::pause();
    limiter.peek_async("key", 0).await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let limiter = limiter.clone();
        calls.spawn(async move {
            let decision = limiter.check_async("key", 1).await.unwrap();
            (decision.remaining(), decision.reset_after())
        });
    }
    let mut retry_times = calls.join_all().await;
    retry_times.sort_unstable();
    retry_times.reverse();
    let expected: Vec<_> = (1..=200).map(|taken| (1_000 - taken, Duration::from_millis(taken.into()))).collect();
    assert_eq!(retry_times, expected);
    assert!(server.calls_of("evalsha") < 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_do_not_wait_for_batches_of_a_server_that_takes_its_time() {
    let server = RedisServer::start();
    let limiter = limiter(&server, "slow", 1_000);
    limiter.check_async("key", 1).await.unwrap();
    let before = server.calls_of("evalsha");
    redis::cmd("CLIENT").arg("PAUSE").arg(500).exec(&mut server.connection()).unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        for _ in 0..20 {
            let limiter = limiter.clone();
            calls.spawn(async move { limiter.check_async("key", 1).await.is_ok() });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(calls.join_all().await.into_iter().all(|admitted| admitted));
    // Without the pause, only eight calls alone and two batches are under way before the rest goes
    // as one.
    let calls = server.calls_of("evalsha") - before;
    assert!((8 + 6..40).contains(&calls), "{calls} calls of the script");
}

#[tokio::test]
async fn without_coalescing_every_call_is_sent() {
    let server = RedisServer::start();
    let backend = backend(&server, false);
    let limits = [Limit::new(1_000, HOUR)];
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let backend = backend.clone();
        calls.spawn(async move {
            let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
            let request = Request::new("rl:1:{single}:x", &limits, take);
            matches!(backend.decide_async(&request).unwrap().await.unwrap().outcome, Outcome::Admitted(_))
        });
    }
    assert!(calls.join_all().await.into_iter().all(|admitted| admitted));
    // Calls that came before the script was known were sent again.
    assert!(server.calls_of("evalsha") >= 200);
}

#[test]
fn a_runtime_that_ends_ends_only_its_own_calls() {
    let server = RedisServer::start();
    let limiter = limiter(&server, "runtimes", 100_000);
    let calls = |limiter: RateLimiter| async move {
        let mut calls = JoinSet::new();
        for _ in 0..200 {
            let limiter = limiter.clone();
            calls.spawn(async move { limiter.check_async("key", 1).await.err() });
        }
        calls
    };
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let lasts = runtime();
    for _ in 0..20 {
        let ended = runtime();
        let dropped = ended.block_on(calls(limiter.clone()));
        let kept = lasts.block_on(calls(limiter.clone()));
        ended.shutdown_background();
        drop(dropped);
        let failures: Vec<_> = lasts.block_on(kept.join_all()).into_iter().flatten().collect();
        assert!(failures.is_empty(), "{failures:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_fails_all_of_a_batch_in_time() {
    let server = RedisServer::start();
    let timeout = Duration::from_millis(200);
    let backend = RedisBackend::builder().url(server.url()).timeout(timeout).build().unwrap();
    let limits = [Limit::new(1_000, HOUR)];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ask = move |backend: RedisBackend| async move {
        let mut calls = JoinSet::new();
        for _ in 0..200 {
            let backend = backend.clone();
            calls.spawn(async move {
                let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
                let request = Request::new("rl:1:{frozen}:x", &limits, take);
                let start = Instant::now();
                (backend.decide_async(&request).unwrap().await.is_ok(), start.elapsed())
            });
        }
        calls.join_all().await
    };
    runtime.block_on(ask(backend.clone()));
    server.freeze();
    let answers = runtime.block_on(ask(backend.clone()));
    server.thaw();
    assert!(answers.iter().all(|(decided, _)| !decided));
    let longest = answers.iter().map(|(_, took)| *took).max().unwrap();
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    let until = Instant::now() + Duration::from_secs(20);
    while !runtime.block_on(ask(backend.clone())).iter().all(|(decided, _)| *decided) {
        assert!(Instant::now() < until, "limiting does not resume");
    }
}

/// Permits booked weeks ahead lie beyond the boundaries that calls carry at first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_calendars_that_are_booked_ahead_are_asked_again() {
    const BUCKETS: u64 = 64;
    let server = RedisServer::start();
    let backend = std::sync::Arc::new(backend(&server, true));
    let limits = [Limit::per_calendar(1, Calendar::DAY.in_zone("Europe/Berlin")), Limit::per_hour(1_000)];
    let request = |bucket: u64, max_wait| {
        let action = Action::Take { cost: 1, max_wait };
        Request::new(format!("rl:1:{{booked {bucket}}}:x"), &limits, action).at(Timestamp::from_nanos(START))
    };
    let mut buckets: Vec<Bucket> = (0..BUCKETS).map(|_| Bucket::default()).collect();
    for (number, bucket) in (0..).zip(&mut buckets) {
        for _ in 0..=number % 40 {
            let request = request(number, Duration::MAX);
            let expected = said(&bucket.apply(&request, Timestamp::from_nanos(START)));
            assert_eq!(said(&backend.decide(&request).unwrap()), expected);
        }
    }
    for _ in 0..4 {
        let mut tasks = JoinSet::new();
        for number in 0..BUCKETS {
            let (backend, request) = (std::sync::Arc::clone(&backend), request(number, Duration::ZERO));
            tasks.spawn(async move { (number, said(&backend.decide_async(&request).unwrap().await.unwrap())) });
        }
        for (number, answer) in tasks.join_all().await {
            let mut bucket = buckets[usize::try_from(number).unwrap()].clone();
            let expected = bucket.apply(&request(number, Duration::ZERO), Timestamp::from_nanos(START));
            assert_eq!(answer, said(&expected), "{number}");
        }
    }
}
