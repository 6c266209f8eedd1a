//! Callers that give up while they wait, by a test's clock: through each front, before each store.
//!
//! Calls that stay get the whole limit, and a call that is given up delays no other.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ratelimit_runtime::backend::{IntoBackend, SharedBackend};
use ratelimit_runtime::test_util::{self, TestClock};
use ratelimit_runtime::{
    Algorithm, Limit, MemoryBackend, OnBackendError, RateLimitExceeded, RateLimitLayer, RateLimiter, RedisBackend,
    limiters, rate_limit,
};
use ratelimit_tests::{ALGORITHMS, MINUTE, PATIENCE, RedisServer, SECOND, Shelf, millis, poll_once};
use tower::{Layer, ServiceExt, service_fn};

#[derive(Clone, Copy, Debug)]
enum Front {
    Limiter,
    Attribute,
    Layer,
}

const FRONTS: [Front; 3] = [Front::Limiter, Front::Attribute, Front::Layer];

#[rate_limit(limiter = limiter, key = "a", wait)]
async fn waits(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(limiter = limiter, key = "a", wait = "2s")]
async fn waits_two_seconds(limiter: &RateLimiter) -> Result<(), RateLimitExceeded> {
    Ok(())
}

/// Whether the call was admitted.
type Wait = Pin<Box<dyn Future<Output = bool>>>;

/// A limiter, how it is called, and where its buckets are.
struct Scene {
    limiter: RateLimiter,
    front: Front,
    /// `wait = "2s"` instead of `wait`.
    is_bounded: bool,
}

impl Scene {
    fn new(store: Store, front: Front, limit: Limit) -> Scene {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{number}: {front:?} before {store:?} by {}", limit.algorithm().name());
        let builder = RateLimiter::builder(name).backend(store.backend()).on_backend_error(OnBackendError::Deny);
        Scene { limiter: builder.limit(limit).build().unwrap(), front, is_bounded: false }
    }

    fn wait(&self) -> Wait {
        let (limiter, is_bounded) = (self.limiter.clone(), self.is_bounded);
        match self.front {
            Front::Limiter if is_bounded => {
                Box::pin(async move { limiter.wait_at_most_async("a", 1, 2 * SECOND).await.is_ok() })
            }
            Front::Limiter => Box::pin(async move { limiter.wait_async("a", 1).await.is_ok() }),
            Front::Attribute if is_bounded => Box::pin(async move { waits_two_seconds(&limiter).await.is_ok() }),
            Front::Attribute => Box::pin(async move { waits(&limiter).await.is_ok() }),
            Front::Layer => {
                let layer = RateLimitLayer::new(limiter, |_: &u8| "a");
                let layer = if is_bounded { layer.wait_at_most(2 * SECOND) } else { layer.wait() };
                let service = layer.error_on_denied().layer(service_fn(|number| ready(Ok::<u8, Infallible>(number))));
                Box::pin(async move { service.oneshot(1).await.is_ok() })
            }
        }
    }

    /// Calls that wait, and calls that were decided or given up.
    fn seen(&self) -> (usize, u64) {
        let listed = limiters().into_iter().filter(|listed| listed.name == self.limiter.name());
        listed.fold((0, 0), |(waiting, done), listed| {
            (waiting + listed.waiting, done + listed.allowed + listed.denied + listed.abandoned)
        })
    }

    /// Begins a call: polls it until it waits or is decided. A server takes a moment to answer.
    fn begin(&self) -> (Wait, Poll<bool>) {
        let (before, mut wait) = (self.seen(), self.wait());
        let start = Instant::now();
        loop {
            let polled = poll_once(&mut wait);
            if polled.is_ready() || self.seen() != before {
                return (wait, polled);
            }
            assert!(start.elapsed() < PATIENCE, "{}: no answer", self.limiter.name());
            std::thread::yield_now();
        }
    }

    /// Begins a call that has to wait.
    fn begin_to_wait(&self) -> Wait {
        let (wait, polled) = self.begin();
        assert!(polled.is_pending(), "{}: it does not wait", self.limiter.name());
        wait
    }

    /// Starts a call at intervals of `every` for `during`; each gives up after `patience`. Returns
    /// how many are served.
    fn served(&self, clock: &TestClock, every: Duration, patience: Duration, during: Duration) -> u32 {
        const STEP: Duration = millis(5);
        let (mut waiting, mut served) = (Vec::<(Duration, Wait)>::new(), 0);
        let (mut passed, mut next) = (Duration::ZERO, Duration::ZERO);
        while passed < during {
            waiting.retain_mut(|(until, wait)| {
                let is_served = poll_once(wait) == Poll::Ready(true);
                served += u32::from(is_served);
                !is_served && passed < *until
            });
            if passed >= next {
                let (wait, polled) = self.begin();
                if polled.is_pending() {
                    waiting.push((passed + patience, wait));
                }
                served += u32::from(polled == Poll::Ready(true));
                next += every;
            }
            clock.advance(STEP);
            passed += STEP;
        }
        served
    }

    /// How long a call that comes now waits.
    fn waits_for(&self, clock: &TestClock) -> Duration {
        const STEP: Duration = millis(1);
        let (mut wait, mut polled) = self.begin();
        let mut waited = Duration::ZERO;
        while polled.is_pending() {
            clock.advance(STEP);
            waited += STEP;
            polled = poll_once(&mut wait);
        }
        assert_eq!(polled, Poll::Ready(true));
        waited
    }
}

/// Where buckets are.
#[derive(Clone, Copy, Debug)]
enum Store {
    Memory,
    UsersOwn,
    Redis,
}

impl Store {
    fn backend(self) -> SharedBackend {
        static REDIS: LazyLock<(RedisServer, SharedBackend)> = LazyLock::new(|| {
            let server = RedisServer::start();
            let backend = RedisBackend::builder().url(server.url()).timeout(PATIENCE).build().unwrap().into_backend();
            (server, backend)
        });
        match self {
            Store::Memory => MemoryBackend::new().into_backend(),
            Store::UsersOwn => Shelf::default().keeping_its_deadline().into_backend(),
            Store::Redis => REDIS.1.clone(),
        }
    }
}

/// By each algorithm and through each front.
fn everywhere(limit: Limit, store: Store, run: impl Fn(Scene, &TestClock)) {
    for front in FRONTS {
        for algorithm in ALGORITHMS {
            // At the beginning of a minute.
            let clock = test_util::pause_at(UNIX_EPOCH + 30_000_000 * MINUTE);
            run(Scene::new(store, front, limit.with_algorithm(algorithm)), &clock);
        }
    }
}

/// A test for each store.
macro_rules! before_each_store {
    ($($scenario:ident)*) => {
        mod memory {
            use super::*;
            $(#[test] fn $scenario() { super::$scenario(Store::Memory); })*
        }

        mod users_own {
            use super::*;
            $(#[test] fn $scenario() { super::$scenario(Store::UsersOwn); })*
        }

        mod redis {
            use super::*;
            $(#[test] fn $scenario() { super::$scenario(Store::Redis); })*
        }
    };
}

before_each_store! {
    half_of_the_calls_give_up_and_the_limit_is_served
    bounded_waits_that_end_before_their_bound_cost_nothing
    a_patient_call_waits_for_none_that_is_gone
    raised_limits_reach_all_that_wait
    changed_limits_reach_a_call_that_is_due_soon
    a_limit_of_nothing_and_a_cost_that_never_fits_end_a_wait
}

/// Of 20 calls a second, 10 are admitted; the others leave after half a second.
fn half_of_the_calls_give_up_and_the_limit_is_served(store: Store) {
    everywhere(Limit::new(10, SECOND), store, |scene, clock| {
        let served = scene.served(clock, SECOND / 20, SECOND / 2, 10 * SECOND);
        assert!((95..=110).contains(&served), "{}: {served} of 100", scene.limiter.name());
        assert!(scene.waits_for(clock) <= SECOND, "{}", scene.limiter.name());
    });
}

/// 12 calls a second wait for two seconds at most and leave after 1.9.
fn bounded_waits_that_end_before_their_bound_cost_nothing(store: Store) {
    everywhere(Limit::new(10, SECOND), store, |scene, clock| {
        let scene = Scene { is_bounded: true, ..scene };
        let served = scene.served(clock, SECOND / 12, millis(1_900), 20 * SECOND);
        assert!(served >= 190, "{}: {served} of 200", scene.limiter.name());
    });
}

/// 120 calls in three seconds each give up after 150 ms.
fn a_patient_call_waits_for_none_that_is_gone(store: Store) {
    const PERIOD: Duration = millis(100);
    everywhere(Limit::new(1, PERIOD), store, |scene, clock| {
        let served = scene.served(clock, millis(25), millis(150), 3 * SECOND);
        assert!(served >= 29, "{}: {served} of 30", scene.limiter.name());
        let waited = scene.waits_for(clock);
        assert!(waited <= PERIOD, "{}: {waited:?}", scene.limiter.name());
    });
}

fn raised_limits_reach_all_that_wait(store: Store) {
    everywhere(Limit::new(1, MINUTE), store, |scene, _| {
        scene.limiter.check("a", 1).unwrap();
        let mut waits: Vec<Wait> = (0..5).map(|_| scene.begin_to_wait()).collect();
        let algorithm = scene.limiter.limits()[0].algorithm();
        scene.limiter.set_limits(&[Limit::new(100, SECOND).with_algorithm(algorithm)]).unwrap();
        for wait in &mut waits {
            assert_eq!(poll_once(wait), Poll::Ready(true), "{}", scene.limiter.name());
        }
        assert!(scene.limiter.check("a", 1).is_ok(), "{}", scene.limiter.name());
    });
}

/// Half a second before a permit is due. Before a backend it is already booked, by the old limits.
fn changed_limits_reach_a_call_that_is_due_soon(store: Store) {
    for (count, per, at_once) in [(3, MINUTE, 2), (100, SECOND, 3), (1, 2 * MINUTE, 0)] {
        everywhere(Limit::new(1, MINUTE), store, |scene, clock| {
            scene.limiter.check("a", 1).unwrap();
            clock.advance(MINUTE - SECOND / 2);
            let mut waits: Vec<Wait> = (0..3).map(|_| scene.begin_to_wait()).collect();
            let algorithm = scene.limiter.limits()[0].algorithm();
            scene.limiter.set_limits(&[Limit::new(count, per).with_algorithm(algorithm)]).unwrap();
            waits.retain_mut(|wait| poll_once(wait).is_pending());
            let left = waits.len();
            clock.advance(SECOND * 6 / 10);
            waits.retain_mut(|wait| poll_once(wait).is_pending());
            let name = format!("{}: {count} per {per:?}", scene.limiter.name());
            assert!(3 - left >= at_once, "{name}: {left} of 3 wait on");
            assert_eq!(waits.len(), if at_once == 0 { 3 } else { 0 }, "{name}, when one was due before");
        });
    }
}

fn a_limit_of_nothing_and_a_cost_that_never_fits_end_a_wait(store: Store) {
    everywhere(Limit::new(2, MINUTE), store, |scene, _| {
        let limiter = scene.limiter.clone();
        limiter.check("a", 2).unwrap();
        assert_eq!(limiter.wait("a", 3).unwrap_err().retry_after(), None, "{}", limiter.name());
        let mut small = scene.begin_to_wait();
        let mut large: Wait = Box::pin({
            let limiter = limiter.clone();
            async move { limiter.wait_async("a", 2).await.is_ok() }
        });
        let start = Instant::now();
        while scene.seen().0 < 2 {
            assert!(poll_once(&mut large).is_pending() && start.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        let algorithm = limiter.limits()[0].algorithm();
        limiter.set_limits(&[Limit::new(1, MINUTE).with_algorithm(algorithm)]).unwrap();
        assert!(poll_once(&mut small).is_pending(), "{}: it fits as before", limiter.name());
        // It is refused when its turn comes behind the other call, or earlier.
        drop(small);
        assert_eq!(poll_once(&mut large), Poll::Ready(false), "{}", limiter.name());
    });
}

/// Two processes wait before one server. The call that gives up has booked before the other
/// process's call.
#[test]
fn what_is_given_up_before_another_processs_booking_is_not_lost() {
    let server = RedisServer::start();
    let process = || RedisBackend::builder().url(server.url()).timeout(PATIENCE).build().unwrap();
    for algorithm in ALGORITHMS {
        for comes_another in [false, true] {
            let clock = test_util::pause_at(UNIX_EPOCH + 1_800_000_000 * SECOND);
            let name = format!("given up before another {algorithm:?} {comes_another}");
            let [one, other] = [process(), process()].map(|backend| {
                let builder = RateLimiter::builder(&*name).backend(backend).on_backend_error(OnBackendError::Deny);
                let limiter = builder.limit(Limit::new(5, SECOND).with_algorithm(algorithm)).build().unwrap();
                Scene { limiter, front: Front::Limiter, is_bounded: false }
            });
            one.limiter.check("a", 5).unwrap();
            let first = one.begin_to_wait();
            let mut second = other.begin_to_wait();
            drop(first);
            let third = comes_another.then(|| one.begin_to_wait());
            clock.advance(SECOND);
            if let Some(mut third) = third {
                assert_eq!(poll_once(&mut third), Poll::Ready(true), "{name}");
            }
            assert_eq!(poll_once(&mut second), Poll::Ready(true), "{name}");
            // Its process gives back due bookings that are not used.
            let _ = one.limiter.peek("a", 1);
            let left = (0..9).filter(|_| other.limiter.check("a", 1).is_ok()).count();
            // By then a token bucket has refilled what the booking had taken.
            let is_used = comes_another || algorithm == Algorithm::TokenBucket;
            assert_eq!(left, if is_used { 3 } else { 4 }, "{name}");
        }
    }
}
