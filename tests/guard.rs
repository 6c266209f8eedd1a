//! The guard around user-defined backends that hang, fail, panic or are abandoned; blocking and
//! asynchronous.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ratelimit_runtime::backend::{Action, Answer, Backend, BackendFuture, Bucket, Deadline, Request};
use ratelimit_runtime::{
    BackendError, BackendErrorKind, Decision, ExceededKind, IntoBackend, Limit, MemoryBackend, OnBackendError,
    RateLimitExceeded, RateLimiter, SharedBackend, rate_limit, test_util,
};
use ratelimit_tests::{SLACK, poll_once};

const HOUR: Duration = Duration::from_secs(3_600);
/// A backend's default deadline.
const TIMEOUT: Duration = Duration::from_millis(100);
/// Failures that open the breaker.
const FAILURES: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    Hangs,
    Fails,
    Panics,
}

/// A store with one bucket, and a switchable behaviour.
struct Store {
    mood: Mutex<Mood>,
    changed: Condvar,
    asked: AtomicU64,
    bucket: Mutex<Bucket>,
    deadline: Deadline,
    denial_cache: bool,
    max_waited_keys: usize,
}

impl Store {
    fn new(mood: Mood) -> Arc<Store> {
        Store::with(mood, Deadline::Imposed(TIMEOUT))
    }

    fn with(mood: Mood, deadline: Deadline) -> Arc<Store> {
        Arc::new(Store {
            mood: Mutex::new(mood),
            changed: Condvar::new(),
            asked: AtomicU64::new(0),
            bucket: Mutex::default(),
            deadline,
            denial_cache: false,
            max_waited_keys: 2,
        })
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn answer(&self, request: &Request) -> Answer {
        self.bucket.lock().unwrap().apply(request, request.now())
    }
}

impl Backend for Store {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut mood = self.mood.lock().unwrap();
        while *mood == Mood::Hangs {
            mood = self.changed.wait(mood).unwrap();
        }
        let now = *mood;
        drop(mood);
        match now {
            Mood::Well | Mood::Hangs => Ok(self.answer(request)),
            Mood::Fails => Err(BackendError::new(BackendErrorKind::Refused, "not today")),
            Mood::Panics => panic!("a backend panics"),
        }
    }

    fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn denial_cache(&self) -> bool {
        self.denial_cache
    }

    fn max_waited_keys(&self) -> usize {
        self.max_waited_keys
    }
}

/// The same store, asynchronous.
struct AsyncStore(Arc<Store>);

impl Backend for AsyncStore {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        unreachable!("it is awaited")
    }

    fn decide_async<'a>(&'a self, request: &'a Request) -> Option<BackendFuture<'a>> {
        Some(Box::pin(async move {
            self.0.asked.fetch_add(1, Ordering::SeqCst);
            let mood = *self.0.mood.lock().unwrap();
            match mood {
                Mood::Hangs => std::future::pending().await,
                Mood::Fails => Err(BackendError::new(BackendErrorKind::Refused, "not today")),
                Mood::Well | Mood::Panics => Ok(self.0.answer(request)),
            }
        }))
    }
}

fn limiter(backend: impl IntoBackend, policy: OnBackendError) -> RateLimiter {
    let builder = RateLimiter::builder("guard").backend(backend).on_backend_error(policy);
    builder.limit(Limit::new(2, HOUR)).build().unwrap()
}

fn denying(backend: impl IntoBackend) -> RateLimiter {
    limiter(backend, OnBackendError::Deny)
}

/// Runs a call that must not hang.
fn bounded<T>(call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    assert!(took < TIMEOUT + SLACK, "a call took {took:?}");
    result
}

fn check(limiter: &RateLimiter, is_async: bool) -> Result<(), ExceededKind> {
    let result = if is_async { futures_executor::block_on(limiter.check_async((), 1)) } else { limiter.check((), 1) };
    result.map(drop).map_err(|exceeded| exceeded.kind())
}

fn recovers(limiter: &RateLimiter) {
    let start = Instant::now();
    while limiter.peek((), 1).is_err_and(|exceeded| exceeded.kind() == ExceededKind::BackendFailed) {
        assert!(start.elapsed() < Duration::from_secs(2) + SLACK, "it is well, and its limits are not kept");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Calls for `lasting`. Returns how often the backend was asked, and the number of calls.
fn storm(store: &Store, limiter: &RateLimiter, is_async: bool, lasting: Duration) -> (u64, u64) {
    let (before, calls, over) = (store.asked(), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(bounded(|| check(limiter, is_async)), Err(ExceededKind::BackendFailed));
                    calls.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        std::thread::sleep(lasting);
        over.store(true, Ordering::Relaxed);
    });
    (store.asked() - before, calls.into_inner())
}

#[test]
fn a_hanging_blocking_backend_holds_up_few_calls() {
    for is_async in [false, true] {
        let store = Store::new(Mood::Hangs);
        let limiter = denying(Arc::clone(&store));
        let (asked, calls) = storm(&store, &limiter, is_async, Duration::from_secs(1));
        // Calls under way when the breaker opened, and probes after 50, 100, 200 and 400 ms.
        assert!(asked <= FAILURES + 8 + 4, "{asked} of {calls}");
        assert!(calls > 100, "{calls}");
        store.set(Mood::Well);
        recovers(&limiter);
        // A hanging call was abandoned before it took a permit, or took it: the limit holds.
        assert!((0..4).filter(|_| check(&limiter, is_async).is_ok()).count() <= 2);
    }
}

#[test]
fn a_hanging_async_backend_is_dropped_on_any_executor() {
    let store = Store::new(Mood::Hangs);
    let limiter = denying(AsyncStore(Arc::clone(&store)));
    let (asked, calls) = storm(&store, &limiter, true, Duration::from_millis(500));
    assert!(asked <= FAILURES + 8 + 3, "{asked} of {calls}");
    store.set(Mood::Well);
    while check(&limiter, true).is_err() {}
    assert_eq!((0..4).filter(|_| check(&limiter, true).is_ok()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_of_the_runtime_makes_no_backend_late() {
    /// Answers after a short real time.
    struct Near(Arc<Store>);

    impl Backend for Near {
        fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
            std::thread::sleep(Duration::from_millis(20));
            self.0.decide(request)
        }
    }

    let limiter = denying(Near(Store::new(Mood::Well)));
    for _ in 0..2 {
        limiter.check_async((), 1).await.unwrap();
    }
    assert_eq!(limiter.check_async((), 1).await.unwrap_err().kind(), ExceededKind::Limited);
}

#[tokio::test]
async fn a_backend_that_blocks_holds_up_no_other_task() {
    let store = Store::with(Mood::Hangs, Deadline::Imposed(Duration::from_secs(5)));
    let limiter = denying(Arc::clone(&store));
    let calls: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let limiter = limiter.clone();
                async move { limiter.check_async((), 1).await.is_ok() }
            })
        })
        .collect();
    let start = Instant::now();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    // The first blocks briefly, until the backend is known to be slow.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    store.set(Mood::Well);
    let mut admitted = 0;
    for call in calls {
        admitted += u32::from(call.await.unwrap());
    }
    assert_eq!(admitted, 2);
}

#[test]
fn any_failure_opens_the_breaker_and_success_closes_it() {
    for mood in [Mood::Fails, Mood::Panics] {
        let store = Store::new(mood);
        let limiter = denying(Arc::clone(&store));
        for _ in 0..50 {
            assert_eq!(check(&limiter, false), Err(ExceededKind::BackendFailed));
        }
        assert!(store.asked() <= FAILURES + 1, "{mood:?}: {}", store.asked());
        store.set(Mood::Well);
        recovers(&limiter);
        let asked = store.asked();
        assert_eq!((0..4).filter(|_| check(&limiter, false).is_ok()).count(), 2);
        assert_eq!(store.asked() - asked, 4, "all are asked again");
    }
}

#[test]
fn a_kept_deadline_decides_on_the_calling_thread() {
    struct Here(std::thread::ThreadId, AtomicU64);

    impl Backend for Here {
        fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
            assert_eq!(std::thread::current().id(), self.0);
            self.1.fetch_add(1, Ordering::SeqCst);
            Ok(Bucket::default().apply(request, request.now()))
        }

        fn deadline(&self) -> Deadline {
            Deadline::Kept
        }
    }

    let here = Arc::new(Here(std::thread::current().id(), AtomicU64::new(0)));
    let limiter = denying(Arc::clone(&here));
    assert_eq!([check(&limiter, false), check(&limiter, true)], [Ok(()), Ok(())]);
    assert_eq!(here.1.load(Ordering::SeqCst), 2);
}

#[test]
fn an_open_breaker_applies_each_limiters_policy() {
    let store = Store::new(Mood::Fails);
    let shared: SharedBackend = Arc::clone(&store).into_backend();
    let deny = denying(shared.clone());
    (0..FAILURES).for_each(|_| assert!(check(&deny, false).is_err()));
    let asked = store.asked();
    let local = limiter(shared.clone(), OnBackendError::Local);
    let allow = limiter(shared, OnBackendError::Allow);
    for is_async in [false, true] {
        assert_eq!(check(&deny, is_async), Err(ExceededKind::BackendFailed));
        assert_eq!((0..4).filter(|_| check(&allow, is_async).is_ok()).count(), 4);
    }
    assert_eq!((0..4).filter(|_| check(&local, false).is_ok()).count(), 2);
    assert!(store.asked() <= asked + 1, "at most a probe asked");
}

#[test]
fn a_dropped_probe_is_replaced() {
    let store = Store::new(Mood::Hangs);
    let limiter = denying(AsyncStore(Arc::clone(&store)));
    let mut context = Context::from_waker(Waker::noop());
    // They hang and are abandoned, which does not count as a failure.
    for _ in 0..FAILURES * 2 {
        let mut call = pin!(limiter.check_async((), 1));
        assert!(call.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(store.asked(), FAILURES * 2);
    store.set(Mood::Fails);
    (0..FAILURES).for_each(|_| assert!(check(&limiter, true).is_err()));
    store.set(Mood::Hangs);
    let asked = store.asked();
    // The call that is not refused at once is the probe.
    loop {
        let mut call = pin!(limiter.check_async((), 1));
        if call.as_mut().poll(&mut context).is_pending() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(store.asked(), asked + 1);
    store.set(Mood::Well);
    // After another 50 ms, and not only when a silent probe is written off.
    let start = Instant::now();
    while check(&limiter, true).is_err() {
        assert!(start.elapsed() < Duration::from_millis(950), "the probe that was dropped is still waited for");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_dropped_future_returns_a_blocking_backends_permits() {
    let store = Store::with(Mood::Hangs, Deadline::Imposed(Duration::from_secs(60)));
    let limiter = denying(Arc::clone(&store));
    {
        let mut call = pin!(limiter.check_async((), 2));
        let mut context = Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(&mut context).is_pending());
    }
    store.set(Mood::Well);
    let start = Instant::now();
    while limiter.peek((), 2).is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "the permits are lost");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A store with a denial cache, on a test's clock.
fn keeping() -> (Arc<Store>, SharedBackend) {
    let store = Store::with(Mood::Well, Deadline::Kept);
    let store = Arc::new(Store { denial_cache: true, ..Arc::into_inner(store).unwrap() });
    (Arc::clone(&store), store.into_backend())
}

fn minute(backend: &SharedBackend, name: &str) -> RateLimiter {
    let builder = RateLimiter::builder(name).backend(backend.clone()).on_backend_error(OnBackendError::Deny);
    builder.limit(Limit::new(2, Duration::from_secs(60))).build().unwrap()
}

#[test]
fn a_denied_key_asks_the_backend_once_a_second() {
    let (store, backend) = keeping();
    let limiter = minute(&backend, "denied");
    let clock = test_util::pause();
    let first = limiter.check("a", 2).unwrap();
    assert_eq!(first.remaining(), 0);
    let asked = store.asked();
    for passed in 0..590 {
        for exceeded in [
            limiter.check("a", 1).unwrap_err(),
            limiter.peek("a", 1).unwrap_err(),
            futures_executor::block_on(limiter.check_async("a", 1)).unwrap_err(),
        ] {
            assert_eq!(exceeded.kind(), ExceededKind::Limited);
            assert_eq!(exceeded.retry_after(), Some(Duration::from_secs(60) - Duration::from_millis(100 * passed)));
            assert_eq!((exceeded.remaining(), exceeded.limit_index(), exceeded.limit().count()), (0, 0, 2));
        }
        clock.advance(Duration::from_millis(100));
    }
    assert_eq!(store.asked() - asked, 59);
    let info = ratelimit_runtime::limiters().into_iter().find(|limiter| limiter.name == "denied").unwrap();
    assert_eq!((info.allowed, info.denied), (1, 590 * 2), "peeks do not count");
    clock.advance(Duration::from_secs(1));
    assert!(limiter.check("a", 1).is_ok());
}

#[test]
fn larger_calls_always_ask_the_backend() {
    let (store, backend) = keeping();
    let limiter = minute(&backend, "costs");
    let clock = test_util::pause();
    limiter.check("a", 1).unwrap();
    clock.advance(Duration::from_millis(100));
    let told = |exceeded: ratelimit_runtime::RateLimitExceeded| {
        (exceeded.remaining(), exceeded.retry_after().map(|after| after.as_millis()))
    };
    assert_eq!(told(limiter.check("a", 2).unwrap_err()), (1, Some(59_900)));
    // This call fits, and delays the next admission.
    limiter.check("a", 1).unwrap();
    assert_eq!(told(limiter.peek("a", 2).unwrap_err()), (0, Some(60_000)));
    assert_eq!(told(limiter.check("a", 2).unwrap_err()), (0, Some(60_000)));
    clock.advance(Duration::from_millis(59_900));
    assert_eq!(told(limiter.check("a", 2).unwrap_err()), (1, Some(100)));
    assert_eq!(told(limiter.peek("a", 2).unwrap_err()), (1, Some(100)));
    let asked = store.asked();
    assert_eq!(limiter.check("a", 3).unwrap_err().kind(), ExceededKind::CostExceedsLimit);
    assert!(limiter.check("a", 2).is_err());
    assert_eq!(store.asked() - asked, 2);
}

#[test]
fn another_processs_reset_is_seen_within_a_second() {
    let (store, backend) = keeping();
    // Behind another guard, as in another process.
    let elsewhere = Elsewhere(Arc::clone(&store)).into_backend();
    let (limiter, operators) = (minute(&backend, "reset"), minute(&elsewhere, "reset"));
    let clock = test_util::pause();
    limiter.check("a", 2).unwrap();
    assert!(limiter.check("a", 1).is_err());
    operators.reset("a").unwrap();
    assert!(limiter.check("a", 1).is_err());
    clock.advance(Duration::from_secs(1));
    limiter.check("a", 1).unwrap();
}

struct Elsewhere(Arc<Store>);

impl Backend for Elsewhere {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        self.0.decide(request)
    }

    fn deadline(&self) -> Deadline {
        Deadline::Kept
    }
}

#[test]
fn refunds_and_resets_through_this_process_lift_denials() {
    let (_, backend) = keeping();
    // Two limiters of one name share their buckets.
    let (limiter, other) = (minute(&backend, "lifted"), minute(&backend, "lifted"));
    let _clock = test_util::pause();
    let decision = limiter.check("a", 2).unwrap();
    assert!(limiter.check("a", 1).is_err() && other.check("a", 1).is_err());
    limiter.refund(decision).unwrap();
    let decision = other.check("a", 1).unwrap();
    other.check("a", 1).unwrap();
    assert!(limiter.check("a", 1).is_err());
    futures_executor::block_on(other.refund_async(decision)).unwrap();
    limiter.check("a", 1).unwrap();
    assert!(limiter.check("a", 1).is_err());
    other.reset("a").unwrap();
    limiter.check("a", 1).unwrap();
}

#[test]
fn a_cancelled_booking_lifts_denials() {
    let (_, backend) = keeping();
    let limiter = minute(&backend, "given up");
    let clock = test_util::pause();
    limiter.check("a", 2).unwrap();
    {
        let mut waiter = pin!(limiter.wait_async("a", 1));
        assert!(poll_once(waiter.as_mut()).is_pending());
        clock.advance(Duration::from_secs(30));
        assert_eq!(limiter.check("a", 2).unwrap_err().retry_after(), Some(Duration::from_secs(90)));
    }
    assert_eq!(limiter.check("a", 2).unwrap_err().retry_after(), Some(Duration::from_secs(30)));
}

#[test]
fn changed_limits_ask_the_backend_again() {
    let (store, backend) = keeping();
    let limiter = minute(&backend, "changing");
    let _clock = test_util::pause();
    limiter.check("a", 2).unwrap();
    assert!((0..3).all(|_| limiter.check("a", 1).is_err()));
    limiter.set_limits(&[Limit::new(3, Duration::from_secs(60))]).unwrap();
    limiter.check("a", 1).unwrap();
    let asked = store.asked();
    assert!((0..3).all(|_| limiter.check("a", 1).unwrap_err().limit().count() == 3));
    assert_eq!(store.asked() - asked, 1);
}

#[test]
fn penalties_and_waiting_calls_always_ask_the_backend() {
    let (store, backend) = keeping();
    let builder = RateLimiter::builder("offences").backend(backend.clone()).on_backend_error(OnBackendError::Deny);
    let builder = builder.limit(Limit::new(1, Duration::from_secs(1)));
    let strict = builder.backoff(Duration::from_secs(5), Duration::from_secs(60)).build().unwrap();
    let clock = test_util::pause();
    strict.check("a", 1).unwrap();
    for expected in [5, 10, 20, 40] {
        assert_eq!(strict.check("a", 1).unwrap_err().retry_after(), Some(Duration::from_secs(expected)));
    }
    let limiter = minute(&backend, "waiting");
    strict.reset("a").unwrap();
    clock.advance(Duration::from_secs(600));
    limiter.check("b", 2).unwrap();
    let asked = store.asked();
    for _ in 0..3 {
        assert!(limiter.wait_at_most("b", 1, Duration::from_secs(1)).is_err());
    }
    assert_eq!(store.asked() - asked, 3);
}

static GIVING_BACK: Mutex<Option<SharedBackend>> = Mutex::new(None);

fn giving_back() -> SharedBackend {
    GIVING_BACK.lock().unwrap().clone().unwrap()
}

#[test]
fn deduct_when_always_asks_the_backend() {
    #[rate_limit(count = 2, per = "1m", key = user, backend = giving_back(), deduct_when = |ok: &Option<bool>| *ok != Some(true))]
    fn login(user: &str, ok: bool) -> Option<bool> {
        Some(ok)
    }

    #[rate_limit(count = 2, per = "1m", key = user, backend = giving_back(), deduct_when = |ok: &Option<bool>| *ok != Some(true))]
    async fn login_async(user: &str, ok: bool) -> Option<bool> {
        Some(ok)
    }

    let (store, backend) = keeping();
    *GIVING_BACK.lock().unwrap() = Some(backend);
    let _clock = test_util::pause();
    let asked_by = |call: &dyn Fn(bool) -> Option<bool>| {
        assert_eq!([call(true), call(false), call(false)], [Some(true), Some(false), Some(false)]);
        let asked = store.asked();
        assert_eq!([call(true), call(true)], [None, None]);
        store.asked() - asked
    };
    assert_eq!(asked_by(&|ok| login("ann", ok)), 2);
    store.bucket.lock().unwrap().apply(
        &Request::new("x", &[Limit::new(1, HOUR)], Action::Reset),
        Request::new("x", &[Limit::new(1, HOUR)], Action::Reset).now(),
    );
    assert_eq!(asked_by(&|ok| futures_executor::block_on(login_async("ann", ok))), 2);
}

#[test]
fn denials_of_one_test_are_not_those_of_another() {
    let (store, backend) = keeping();
    let limiter = minute(&backend, "tests");
    for _ in 0..2 {
        let clock = test_util::pause();
        // The store has one bucket for all keys.
        limiter.reset("a").unwrap();
        limiter.check("a", 2).unwrap();
        let asked = store.asked();
        assert!((0..3).all(|_| limiter.check("a", 1).is_err()));
        assert_eq!(store.asked() - asked, 1);
        drop(clock);
    }
}

type Wait<'a> = Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + 'a>>;

/// A limit of one permit an hour, whose permit is taken, on a test's clock.
fn used_up(policy: OnBackendError) -> (Arc<Store>, RateLimiter) {
    let store = Store::with(Mood::Well, Deadline::Kept);
    let builder = RateLimiter::builder("waiting").backend(Arc::clone(&store)).on_backend_error(policy);
    let limiter = builder.limit(Limit::new(1, HOUR)).build().unwrap();
    limiter.check("a", 1).unwrap();
    (store, limiter)
}

#[test]
fn waiting_calls_keep_their_order_when_the_backend_fails() {
    let clock = test_util::pause();
    let (store, limiter) = used_up(OnBackendError::Local);
    let mut waits: Vec<Wait<'_>> = (0..4).map(|_| -> Wait<'_> { Box::pin(limiter.wait_async("a", 1)) }).collect();
    assert!(waits.iter_mut().all(|wait| poll_once(wait).is_pending()));
    store.set(Mood::Fails);
    // New calls queue behind them, although the limiter in memory has a permit.
    let mut late: Wait<'_> = Box::pin(limiter.wait_at_most_async("a", 1, 9 * HOUR));
    assert!(poll_once(&mut late).is_pending());
    assert!(limiter.check("a", 1).is_err());
    clock.advance(HOUR);
    // The last one asks first.
    assert!(poll_once(&mut late).is_pending());
    assert!(waits.iter_mut().skip(1).rev().all(|wait| poll_once(wait).is_pending()));
    let Poll::Ready(Ok(first)) = poll_once(&mut waits[0]) else { panic!("it has waited longest") };
    assert!(first.waited() <= HOUR);
    assert!(limiter.check("a", 1).is_err());
    // When the second call leaves, the permit it has received goes to the third.
    clock.advance(HOUR);
    drop(waits.remove(1));
    assert!(poll_once(&mut late).is_pending() && poll_once(&mut waits[2]).is_pending());
    assert!(matches!(poll_once(&mut waits[1]), Poll::Ready(Ok(_))));
    clock.advance(HOUR);
    assert!(poll_once(&mut late).is_pending());
    assert!(matches!(poll_once(&mut waits[2]), Poll::Ready(Ok(_))));
    clock.advance(HOUR);
    assert!(matches!(poll_once(&mut late), Poll::Ready(Ok(_))));
}

#[test]
fn waiting_calls_end_by_the_policy_when_the_backend_fails() {
    for policy in [OnBackendError::Allow, OnBackendError::Deny] {
        let clock = test_util::pause();
        let (store, limiter) = used_up(policy);
        let mut waits: Vec<Wait<'_>> = (0..2).map(|_| -> Wait<'_> { Box::pin(limiter.wait_async("a", 1)) }).collect();
        assert!(waits.iter_mut().all(|wait| poll_once(wait).is_pending()));
        store.set(Mood::Fails);
        clock.advance(HOUR);
        for wait in &mut waits {
            match (policy, poll_once(wait)) {
                (OnBackendError::Allow, Poll::Ready(Ok(_))) => {}
                (OnBackendError::Deny, Poll::Ready(Err(exceeded))) => {
                    assert_eq!(exceeded.kind(), ExceededKind::BackendFailed);
                }
                (_, other) => panic!("{policy:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn with_backoff_too_calls_that_do_not_wait_are_denied_while_others_wait() {
    let (store, minute) = (Store::with(Mood::Well, Deadline::Kept), HOUR / 60);
    for backend in [store.clone().into_backend(), MemoryBackend::new().into_backend()] {
        let clock = test_util::pause();
        let builder = RateLimiter::builder("behind").backend(backend).backoff(minute, HOUR);
        let limiter = builder.limit(Limit::new(3, HOUR)).build().unwrap();
        limiter.check("a", 2).unwrap();
        let mut wait: Wait<'_> = Box::pin(limiter.wait_async("a", 2));
        assert!(poll_once(&mut wait).is_pending());
        let asked = store.asked();
        // One is left, which belongs to the one that waits.
        let exceeded = limiter.check("a", 1).unwrap_err();
        assert_eq!((exceeded.kind(), exceeded.retry_after()), (ExceededKind::Limited, Some(HOUR)));
        assert!(store.asked() <= asked + 1);
        assert!(limiter.peek("a", 1).is_err());
        drop(wait);
        // It was no offence.
        limiter.check("a", 1).unwrap();
        let exceeded = limiter.check("a", 1).unwrap_err();
        assert!(exceeded.retry_after().unwrap() > HOUR - minute);
        drop(clock);
    }
}

#[test]
fn calls_wait_for_so_many_keys_and_a_call_for_another_one_is_denied_at_once() {
    let clock = test_util::pause();
    let (_, limiter) = used_up(OnBackendError::Deny);
    // The store has one bucket for all keys, and calls may wait for two.
    let wait = |key: &'static str| -> Wait<'_> { Box::pin(limiter.wait_async(key, 1)) };
    let [mut first, mut second, mut third, mut more] = [wait("a"), wait("b"), wait("c"), wait("a")];
    assert!(poll_once(&mut first).is_pending() && poll_once(&mut second).is_pending());
    let Poll::Ready(Err(exceeded)) = poll_once(&mut third) else { panic!("it waits") };
    assert_eq!((exceeded.kind(), exceeded.retry_after()), (ExceededKind::Limited, Some(HOUR)));
    assert!(poll_once(&mut more).is_pending(), "calls wait for this key already");
    drop(second);
    assert!(poll_once(&mut wait("c")).is_pending());
    drop(clock);
}
