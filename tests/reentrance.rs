//! User code called during a limited call may call limited functions itself, including the same
//! one. Nothing hangs, and nothing recurses for ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use ratelimit_runtime::backend::{Answer, Backend, Deadline, Request};
use ratelimit_runtime::{
    BackendError, BackendErrorKind, KeyWriter, Limit, MemoryBackend, RateLimitExceeded, RateLimitKey, RateLimiter,
    SharedBackend, log_keys, rate_limit,
};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};

const HOUR: Duration = Duration::from_secs(3_600);

/// Runs `f` on its own thread, and fails if it does not end.
#[track_caller]
fn ends(f: impl FnOnce() + Send + 'static) {
    let (sender, done) = mpsc::channel();
    let thread = thread::spawn(move || {
        f();
        let _ = sender.send(());
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = done.recv_timeout(Duration::from_secs(60)) {
        panic!("it hangs");
    }
    thread.join().expect("it does not panic");
}

fn limiter(name: &str) -> RateLimiter {
    RateLimiter::builder(name).limit(Limit::new(1, HOUR)).build().unwrap()
}

/// Throttles a log. Denied most of the time.
#[rate_limit(count = 1, per = "1h", key = topic, or_else = |_| false)]
fn throttled(topic: &str) -> bool {
    true
}

/// Counts events, and throttles each of them.
struct Throttling(Arc<AtomicUsize>);

impl Subscriber for Throttling {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        throttled("enabled");
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        throttled("event");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_limited_subscriber_hears_of_each_denial_once() {
    ends(|| {
        let events = Arc::new(AtomicUsize::new(0));
        tracing::subscriber::with_default(Throttling(Arc::clone(&events)), || {
            for _ in 0..10 {
                throttled("outside");
            }
        });
        assert_eq!(events.load(Ordering::Relaxed), 9);
    });
}

#[test]
fn a_limited_subscriber_hears_of_a_failing_backend() {
    struct Broken;

    impl Backend for Broken {
        fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
            Err(BackendError::new(BackendErrorKind::Refused, "broken"))
        }
    }

    ends(|| {
        let events = Arc::new(AtomicUsize::new(0));
        let broken = RateLimiter::builder("broken, told").limit(Limit::new(100, HOUR)).backend(Broken).build().unwrap();
        tracing::subscriber::with_default(Throttling(Arc::clone(&events)), || {
            for _ in 0..10 {
                broken.check("a", 1).unwrap();
            }
        });
        assert!(events.load(Ordering::Relaxed) > 0);
    });
}

/// Calls limited functions from every method, some of them for the first time.
struct Recording(RateLimiter);

struct Figure(RateLimiter);

impl Figure {
    fn call(&self) {
        let _ = self.0.check("figure", 1);
        for new_key in 0..100 {
            let _ = self.0.check(("figure", new_key), 1);
        }
    }
}

impl CounterFn for Figure {
    fn increment(&self, _: u64) {
        self.call();
    }

    fn absolute(&self, _: u64) {}
}

impl GaugeFn for Figure {
    fn increment(&self, _: f64) {
        self.call();
    }

    fn decrement(&self, _: f64) {}

    fn set(&self, _: f64) {}
}

impl HistogramFn for Figure {
    fn record(&self, _: f64) {
        self.call();
    }
}

impl Recording {
    fn figure(&self) -> Arc<Figure> {
        let _ = self.0.check("register", 1);
        Arc::new(Figure(self.0.clone()))
    }
}

impl Recorder for Recording {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        let _ = self.0.check("describe", 1);
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.figure())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.figure())
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.figure())
    }
}

#[test]
fn a_recorder_may_call_the_recorded_function() {
    ends(|| {
        let limiter = limiter("recorded");
        let recording = Recording(limiter.clone());
        metrics::with_local_recorder(&recording, || {
            for key in 0..200 {
                let _ = limiter.check(key, 1);
                let _ = limiter.check("waits", 1);
            }
            let small = RateLimiter::builder("recorded, small")
                .limit(Limit::new(1_000, Duration::from_millis(1)))
                .backend(MemoryBackend::with_max_keys(10))
                .build()
                .unwrap();
            for key in 0..100 {
                let _ = small.wait(key, 1_000);
                let _ = small.wait(key, 1_000);
            }
        });
    });
}

#[test]
fn a_recorder_with_a_lock_causes_no_deadlock() {
    ends(|| {
        // One recorder with a lock around everything, and a function that is new to each thread.
        let lock = Arc::new(std::sync::Mutex::new(()));
        for round in 0..50 {
            let shared = limiter(&format!("locked {round}"));
            let barrier = Arc::new(std::sync::Barrier::new(2));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (lock, shared, barrier) = (Arc::clone(&lock), shared.clone(), Arc::clone(&barrier));
                    thread::spawn(move || {
                        let recording = Locking(lock, shared.clone());
                        barrier.wait();
                        metrics::with_local_recorder(&recording, || drop(shared.check("a", 1)));
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
        }
    });
}

/// Holds a lock while it calls a limited function.
struct Locking(Arc<std::sync::Mutex<()>>, RateLimiter);

impl Recorder for Locking {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        let _lock = self.0.lock().unwrap();
        thread::sleep(Duration::from_micros(100));
        let _ = self.1.check("register", 1);
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A key that calls its own limiter when it is written and when it is dropped.
struct Calling<'a>(&'a RateLimiter);

impl RateLimitKey for Calling<'_> {
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        for _ in 0..2 {
            let _ = self.0.check("calling", 1);
        }
        "calling".write_to(writer);
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        let _ = self.0.check("calling", 1);
    }
}

#[test]
fn a_key_may_call_its_own_limiter() {
    ends(|| {
        let limiter = limiter("called by its key");
        log_keys(true);
        let events = Arc::new(AtomicUsize::new(0));
        tracing::subscriber::with_default(Throttling(events), || {
            for _ in 0..3 {
                assert!(limiter.check(Calling(&limiter), 1).is_err());
                assert!(limiter.peek(Calling(&limiter), 1).is_err());
            }
            limiter.reset(Calling(&limiter)).unwrap();
        });
        log_keys(false);
        let waiting = RateLimiter::builder("waits for its key").limit(Limit::new(1, Duration::from_millis(1)));
        let waiting = waiting.build().unwrap();
        for _ in 0..3 {
            waiting.wait(Calling(&waiting), 1).unwrap();
        }
    });
}

static SHARED: RateLimiter = RateLimiter::new("called by its arguments", &[Limit::new(3, HOUR)]);

fn call_again() -> u32 {
    let _ = SHARED.check("all", 1);
    throttled("all");
    1
}

#[rate_limit(
    limiter = SHARED,
    key = { call_again(); "all" },
    cost = call_again(),
    exempt_when = call_again() == 0,
    deduct_when = |_| call_again() == 0,
    or_else = |_| { call_again(); false }
)]
fn calls_itself(depth: u32) -> bool {
    call_again();
    depth == 0 || calls_itself(depth - 1)
}

#[rate_limit(count = 1, per = "1h", key = user, or_else = |_| denies_itself(user - 1))]
fn denies_itself(user: u32) -> u32 {
    user
}

#[test]
fn arguments_of_the_attribute_may_call_the_function() {
    ends(|| {
        for _ in 0..10 {
            calls_itself(3);
        }
        assert_eq!([denies_itself(7), denies_itself(7), denies_itself(7)], [7, 6, 5]);
    });
}

/// A store that calls limited functions from every method and when it is dropped.
struct Chatty;

impl Chatty {
    fn call() {
        throttled("chatty");
        let other = RateLimiter::builder("called by a store").limit(Limit::new(1, HOUR)).backend(Quiet).build();
        let _ = other.unwrap().check("a", 1);
    }
}

struct Quiet;

impl Backend for Quiet {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        Err(BackendError::new(BackendErrorKind::Refused, "quiet"))
    }
}

impl Backend for Chatty {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        Chatty::call();
        Err(BackendError::new(BackendErrorKind::Refused, "chatty"))
    }

    fn deadline(&self) -> Deadline {
        Chatty::call();
        Deadline::Kept
    }

    fn denial_cache(&self) -> bool {
        Chatty::call();
        true
    }

    fn kind(&self) -> &'static str {
        Chatty::call();
        "chatty"
    }
}

impl Drop for Chatty {
    fn drop(&mut self) {
        Chatty::call();
    }
}

#[test]
fn a_store_may_call_limited_functions() {
    ends(|| {
        for store in [Arc::new(Chatty), Arc::new(Chatty)] {
            for _ in 0..3 {
                let limiter = RateLimiter::builder("chatty").limit(Limit::new(1, HOUR));
                let limiter = limiter.backend(Arc::clone(&store)).build().unwrap();
                let _ = limiter.check("a", 1);
                let _ = limiter.reset("a");
            }
        }
    });
}

fn backend_by_the_function() -> SharedBackend {
    use ratelimit_runtime::IntoBackend;

    assert!(limited_while_made("inner").is_ok());
    assert!(limited_while_made("inner").is_err());
    MemoryBackend::new().into_backend()
}

#[rate_limit(count = 1, per = "1h", key = user, backend = backend_by_the_function())]
fn limited_while_made(user: &str) -> Result<(), RateLimitExceeded> {
    let _ = user;
    Ok(())
}

#[test]
fn making_a_backend_may_call_its_own_function() {
    ends(|| {
        assert!(limited_while_made("outer").is_ok());
        assert!(limited_while_made("outer").is_err());
    });
}
