//! Waiting on any executor and without one, in memory and through Redis, by the real clock.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use ratelimit_runtime::{
    Algorithm, Decision, IntoBackend, Limit, MemoryBackend, OnBackendError, RateLimitExceeded, RateLimiter,
    RedisBackend, limiters, rate_limit,
};
use ratelimit_tests::{MINUTE, PATIENCE, RedisServer, millis};
use tokio::runtime::{Builder, Runtime};

/// Runs a scenario on a limiter in memory, and on one through Redis.
fn in_memory_and_through_redis(name: &str, limit: Limit, run: impl Fn(&RateLimiter)) {
    let server = RedisServer::start();
    let redis = RedisBackend::builder().url(server.url()).timeout(PATIENCE).build().unwrap();
    for (store, backend) in [("memory", MemoryBackend::new().into_backend()), ("redis", redis.into_backend())] {
        let builder = RateLimiter::builder(format!("{name} {store}")).backend(backend).limit(limit);
        run(&builder.on_backend_error(OnBackendError::Deny).build().unwrap());
    }
}

#[rate_limit(limiter = limiter, key = "a", wait)]
async fn by_attribute(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    Ok(())
}

/// Seven calls in a row, of which six have to wait.
async fn calls(limiter: RateLimiter) {
    let start = Instant::now();
    by_attribute(&limiter).await.unwrap();
    for _ in 0..3 {
        limiter.wait_async("a", 1).await.unwrap();
        limiter.wait_at_most_async("a", 1, MINUTE).await.unwrap();
    }
    assert!(start.elapsed() >= 6 * PERIOD);
}

const PERIOD: Duration = millis(20);

fn waits_on(name: &str, block_on: impl Fn(RateLimiter)) {
    in_memory_and_through_redis(name, Limit::new(1, PERIOD), |limiter| block_on(limiter.clone()));
}

#[test]
fn on_tokios_multi_thread_runtime() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    waits_on("multi-thread", |limiter| runtime.block_on(runtime.spawn(calls(limiter))).unwrap());
}

#[test]
fn on_tokios_multi_thread_runtime_without_a_timer() {
    let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
    waits_on("multi-thread without a timer", |limiter| runtime.block_on(runtime.spawn(calls(limiter))).unwrap());
}

#[test]
fn on_tokios_current_thread_runtime() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    waits_on("current-thread", |limiter| runtime.block_on(calls(limiter)));
}

#[test]
fn on_tokios_current_thread_runtime_without_a_timer() {
    let runtime = Builder::new_current_thread().build().unwrap();
    waits_on("current-thread without a timer", |limiter| runtime.block_on(calls(limiter)));
}

#[test]
fn on_smols_executor() {
    let executor = async_executor::Executor::new();
    waits_on("smol's executor", |limiter| block_on(executor.run(executor.spawn(calls(limiter)))));
}

/// On two threads that poll it. A dropped task gives up its place.
#[test]
fn on_smols_executor_with_threads_of_its_own() {
    let executor = Arc::new(async_executor::Executor::new());
    let (shutdown, closed) = tokio::sync::watch::channel(());
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (executor, mut closed) = (Arc::clone(&executor), closed.clone());
            std::thread::spawn(move || block_on(executor.run(async move { closed.changed().await })))
        })
        .collect();
    waits_on("smol's executor, threads", |limiter| block_on(executor.spawn(calls(limiter))));
    in_memory_and_through_redis("dropped by smol", Limit::new(1, MINUTE), |limiter| {
        limiter.check("a", 1).unwrap();
        let task = limiter.clone();
        let task = executor.spawn(async move { task.wait_async("a", 1).await.map(drop) });
        until_more_wait(limiter, 0);
        let _ = block_on(task.cancel());
        assert_eq!(waiting(limiter), 0);
        assert!(limiter.check("a", 1).unwrap_err().retry_after().unwrap() <= MINUTE, "it holds nothing");
    });
    drop(shutdown);
    for thread in threads {
        let _closed = thread.join().unwrap();
    }
}

/// As on executors that move a task whenever it is woken.
#[test]
fn on_another_thread_at_each_poll() {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Unpark>) {
            self.0.unpark();
        }
    }

    waits_on("moved", |limiter| {
        let mut task = Box::pin(calls(limiter));
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            let poll = || task.as_mut().poll(&mut Context::from_waker(&waker));
            if std::thread::scope(|scope| scope.spawn(poll).join().unwrap()).is_ready() {
                return;
            }
            std::thread::park();
        }
    });
}

#[test]
fn on_an_executor_that_only_polls() {
    waits_on("futures", |limiter| futures_executor::block_on(calls(limiter)));
}

#[test]
fn threads_of_a_runtime_may_block() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    waits_on("blocking", |limiter| {
        let waits = (0..4).map(|_| {
            let limiter = limiter.clone();
            runtime.spawn_blocking(move || limiter.wait("a", 1).unwrap())
        });
        for wait in waits.collect::<Vec<_>>() {
            runtime.block_on(wait).unwrap();
        }
    });
}

fn waiting(limiter: &RateLimiter) -> usize {
    limiters().iter().filter(|listed| listed.name == limiter.name()).map(|listed| listed.waiting).sum()
}

/// Begins a call in the runtime, and returns when it waits.
fn begin<T: Send + 'static>(runtime: &Runtime, limiter: &RateLimiter, wait: impl Future<Output = T> + Send + 'static) {
    let before = waiting(limiter);
    drop(runtime.spawn(wait));
    until_more_wait(limiter, before);
}

fn until_more_wait(limiter: &RateLimiter, before: usize) {
    let start = Instant::now();
    while waiting(limiter) == before {
        assert!(start.elapsed() < PATIENCE, "it does not wait");
        std::thread::sleep(millis(1));
    }
}

#[test]
fn a_call_that_takes_nothing_waits_for_the_end_of_a_block_without_a_timer_of_the_runtime() {
    let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
    in_memory_and_through_redis("nothing", Limit::new(1, MINUTE), |limiter| {
        let (waits, start) = (limiter.clone(), Instant::now());
        limiter.block("a", millis(300)).unwrap();
        runtime.block_on(runtime.spawn(async move { waits.wait_async("a", 0).await.map(drop) })).unwrap().unwrap();
        assert!(start.elapsed() >= millis(250));
    });
}

/// Futures that wait go by a timer that was set for an hour. `change` makes the calls due within a
/// second or so.
fn served_after(name: &str, limit: Limit, costs: &[u32], change: impl Fn(&RateLimiter, Decision)) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    in_memory_and_through_redis(name, limit, |limiter| {
        let taken = limiter.check("a", limit.capacity()).unwrap();
        let mut waits = Vec::new();
        for cost in costs {
            let (before, waits_on, cost) = (waiting(limiter), limiter.clone(), *cost);
            waits.push(runtime.spawn(async move { waits_on.wait_async("a", cost).await.map(drop) }));
            until_more_wait(limiter, before);
        }
        change(limiter, taken);
        for wait in waits {
            runtime.block_on(async { tokio::time::timeout(PATIENCE, wait).await }).expect(name).unwrap().unwrap();
        }
    });
}

#[test]
fn changed_limits_set_the_timer_of_a_future_anew() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket] {
        let limit = |per| Limit::new(1, per).with_algorithm(algorithm);
        served_after("limits", limit(60 * MINUTE), &[1], |limiter, _| {
            limiter.set_limits(&[limit(millis(1_500))]).unwrap();
        });
        served_after("limits, again", limit(60 * MINUTE), &[1], |limiter, _| {
            limiter.set_limits(&[limit(30 * MINUTE)]).unwrap();
            std::thread::sleep(millis(100));
            limiter.set_limits(&[limit(millis(1_500))]).unwrap();
        });
    }
}

#[test]
fn permits_that_come_back_set_the_timer_of_a_future_anew() {
    let limit = Limit::new(1, millis(1_000)).with_algorithm(Algorithm::TokenBucket).with_burst(10_000);
    served_after("given back", limit, &[9_000], |limiter, taken| limiter.settle(taken, 1_001).unwrap());
}

#[test]
fn a_reset_sets_the_timer_of_a_future_anew() {
    let limit = Limit::new(1, millis(1_000)).with_algorithm(Algorithm::TokenBucket).with_burst(10_000);
    served_after("reset", limit, &[9_999, 2], |limiter, _| limiter.reset("a").unwrap());
}

/// Their permits would have come in time when they began to wait.
#[test]
fn bounded_waits_end_at_their_bounds_if_no_permit_comes() {
    type Change = fn(&RateLimiter);
    let changes: [(&str, Change); 2] = [
        ("blocked", |limiter| limiter.block("a", 60 * MINUTE).unwrap()),
        ("limited", |limiter| limiter.set_limits(&[Limit::new(16, 60 * MINUTE)]).unwrap()),
    ];
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (name, change) in changes {
        in_memory_and_through_redis(name, Limit::new(16, millis(1_500)), |limiter| {
            limiter.check("a", 16).unwrap();
            let waits = (0..16).map(|number| {
                let (before, waits) = (waiting(limiter), limiter.clone());
                // Neither in order nor all different.
                let bound = millis(2_000 + number * 5 % 8 * 50);
                let wait = runtime.spawn(async move { waits.wait_at_most_async("a", 1, bound).await.map(drop) });
                until_more_wait(limiter, before);
                wait
            });
            let waits: Vec<_> = waits.collect();
            change(limiter);
            for wait in waits {
                let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, wait).await });
                // A busy machine may have been late with the change.
                let _ = ended.expect(name).unwrap();
            }
            assert_eq!(waiting(limiter), 0);
        });
    }
}

/// Only calls that are served are woken.
#[test]
fn a_call_is_polled_a_few_times_however_many_wait() {
    const CALLS: usize = 300;
    let limit = Limit::new(1_000, millis(1_000)).with_algorithm(Algorithm::TokenBucket).with_burst(1);
    in_memory_and_through_redis("polled", limit, |limiter| {
        let polls = Arc::new(AtomicUsize::new(0));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let (limiter, polls) = (limiter.clone(), Arc::clone(&polls));
                let mut wait = Box::pin(async move { limiter.wait_async("a", 1).await.map(drop) });
                runtime.spawn(poll_fn(move |context| {
                    polls.fetch_add(1, Ordering::Relaxed);
                    wait.as_mut().poll(context)
                }))
            })
            .collect();
        for call in calls {
            runtime.block_on(call).unwrap().unwrap();
        }
        let polls = polls.load(Ordering::Relaxed);
        assert!(polls <= 5 * CALLS, "{}: {polls} of {CALLS} calls", limiter.name());
    });
}

#[test]
fn a_runtime_that_shuts_down_leaves_no_call_waiting() {
    in_memory_and_through_redis("shut down", Limit::new(1, MINUTE), |limiter| {
        limiter.check("a", 1).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        for number in 0..6 {
            let limiter = limiter.clone();
            if number % 2 == 0 {
                begin(&runtime, &limiter.clone(), async move { limiter.wait_async("a", 1).await.map(drop) });
            } else {
                begin(&runtime, &limiter.clone(), async move { by_attribute(&limiter).await });
            }
        }
        drop(runtime);
        assert_eq!(waiting(limiter), 0);
        assert!(limiter.check("a", 1).unwrap_err().retry_after().unwrap() <= MINUTE, "they hold nothing");
    });
}

#[test]
fn a_runtime_that_shuts_down_waits_for_threads_that_wait() {
    in_memory_and_through_redis("hold up", Limit::new(1, millis(300)), |limiter| {
        limiter.check("a", 1).unwrap();
        let runtime = Builder::new_current_thread().build().unwrap();
        let (patient, bounded) = (limiter.clone(), limiter.clone());
        let patient = runtime.spawn_blocking(move || patient.wait("a", 1).map(drop));
        until_more_wait(limiter, 0);
        let bounded = runtime.spawn_blocking(move || bounded.wait_at_most("a", 1, millis(1)).map(drop));
        drop(runtime);
        assert!(patient.is_finished() && bounded.is_finished());
        let denied: u64 = limiters().iter().filter(|listed| listed.name == limiter.name()).map(|it| it.denied).sum();
        assert_eq!((waiting(limiter), denied), (0, 1), "a bounded wait ends at its bound");
    });
}
