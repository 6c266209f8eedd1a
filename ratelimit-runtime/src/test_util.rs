//! A clock that tests pause and advance, and buckets that belong to one test.
//!
//! [`pause`] gives the thread a clock that stands still and buckets of its own, until the returned guard is dropped: two
//! tests of one function, in parallel in one process, do not disturb each other. Annotated functions and
//! [`RateLimiter`](crate::RateLimiter)s go by it, those with a Redis backend too.
//!
//! ```
//! use std::time::Duration;
//! use ratelimit_runtime::{rate_limit, test_util};
//!
//! #[rate_limit(count = 2, per = "1m")]
//! fn send() -> Option<()> { Some(()) }
//!
//! let clock = test_util::pause();
//! assert_eq!([send(), send(), send()], [Some(()), Some(()), None]);
//! clock.advance(Duration::from_secs(60));
//! assert_eq!(send(), Some(()));
//! ```
//!
//! A thread that has to wait for permits moves the paused clock on by itself, because nothing else would. A future that has
//! to wait goes on when the test advances the clock, or after five seconds in which it does not.
//!
//! # With tokio
//! In a test that has paused tokio's clock (`#[tokio::test(start_paused = true)]`), limits go by that: with
//! `tokio::time::advance`, and with sleeps, for which tokio moves its clock on by itself. [`pause`] finds out which it is,
//! so call it after `tokio::time::pause`.
//!
//! ```
//! use std::time::Duration;
//! use ratelimit_runtime::{rate_limit, test_util};
//!
//! #[rate_limit(count = 1, per = "1m")]
//! async fn send() -> Option<()> { Some(()) }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let _clock = test_util::pause();
//! assert_eq!([send().await, send().await], [Some(()), None]);
//! tokio::time::advance(Duration::from_secs(60)).await;
//! assert_eq!(send().await, Some(()));
//! # }
//! ```
//!
//! # Threads
//! Other threads and tasks on other threads join by [`TestClock::handle`]. An asynchronous test on tokio's current-thread
//! runtime needs nothing more.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant as TokioInstant;

use crate::backend::memory::{MemoryBackend, NEVER, Store};
use crate::clock::{self, nanos};
use crate::limit::MAX_PER;
use crate::registry;
use crate::switches::{self, Switch};
use crate::timer::{self, Alarm};

/// So long a future waits for the test to advance the clock, in real time.
const PATIENCE: Duration = Duration::from_secs(5);
/// In a test that did not once.
const IMPATIENCE: Duration = Duration::from_millis(10);

/// The end of a test's time. [`NEVER`] does not come.
const LAST: u64 = NEVER - 1;

thread_local! {
    static SCOPES: RefCell<Vec<Arc<Scope>>> = const { RefCell::new(Vec::new()) };
}

/// Scopes alive in the process.
static ALIVE: Mutex<usize> = Mutex::new(0);

/// The test around, on this thread. None in the destructors of a thread that ends.
pub(crate) fn current() -> Option<Arc<Scope>> {
    SCOPES.try_with(|scopes| scopes.borrow().last().cloned()).ok().flatten()
}

/// A test's clock and buckets.
pub(crate) struct Scope {
    id: String,
    /// Nanoseconds since the Unix epoch.
    start: u64,
    /// By how much it was advanced.
    advanced: AtomicU64,
    /// Where it goes as tokio's does.
    tokio: Option<TokioClock>,
    memory: MemoryBackend,
    /// Stores by limiter.
    stores: Mutex<HashMap<u64, Arc<Store>>>,
    sleepers: Mutex<Sleepers>,
}

struct TokioClock {
    runtime: Handle,
    start: TokioInstant,
    /// What it showed last.
    elapsed: AtomicU64,
}

/// Futures that wait for the clock.
struct Sleepers {
    /// By when they wait for, and a number.
    wakers: BTreeMap<(u64, u64), Waker>,
    next: u64,
    /// When the clock was advanced last, or somebody began to wait for it.
    last: Instant,
    patience: Duration,
}

impl TokioClock {
    /// The clock of the runtime around, if it stands still.
    fn paused() -> Option<TokioClock> {
        let clock = TokioClock::current()?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_micros(2) {
            std::hint::spin_loop();
        }
        (TokioInstant::now() == clock.start).then_some(clock)
    }

    fn current() -> Option<TokioClock> {
        let runtime = Handle::try_current().ok()?;
        Some(TokioClock { runtime, start: TokioInstant::now(), elapsed: AtomicU64::new(0) })
    }

    fn elapsed(&self) -> u64 {
        let elapsed = match Handle::try_current() {
            Ok(current) if current.id() == self.runtime.id() => self.start.elapsed(),
            Err(error) if error.is_thread_local_destroyed() => return self.elapsed.load(Ordering::SeqCst),
            // Only inside of a runtime its clock is to be seen.
            _ => {
                let _entered = self.runtime.enter();
                self.start.elapsed()
            }
        };
        self.elapsed.fetch_max(nanos(elapsed), Ordering::SeqCst).max(nanos(elapsed))
    }

    /// A sleep by its timer, on a thread that is in the runtime.
    fn sleep(&self, delay: u64) -> Option<Pin<Box<tokio::time::Sleep>>> {
        let current = Handle::try_current().ok()?;
        (current.id() == self.runtime.id()).then(|| Box::pin(tokio::time::sleep(Duration::from_nanos(delay))))
    }
}

impl Scope {
    fn new(start: u64, tokio: Option<TokioClock>) -> Arc<Scope> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let mut alive = ALIVE.lock();
        *alive += 1;
        switches::turn(Switch::Test, true);
        drop(alive);
        Arc::new(Scope {
            id: format!("{}-{}-{}", std::process::id(), clock::now(), NEXT.fetch_add(1, Ordering::Relaxed)),
            start,
            advanced: AtomicU64::new(0),
            tokio,
            memory: MemoryBackend::new(),
            stores: Mutex::default(),
            sleepers: Mutex::new(Sleepers {
                wakers: BTreeMap::new(),
                next: 0,
                last: Instant::now(),
                patience: PATIENCE,
            }),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn now(&self) -> u64 {
        let elapsed = self.tokio.as_ref().map_or(0, TokioClock::elapsed);
        let now = self.start.saturating_add(self.advanced.load(Ordering::SeqCst)).saturating_add(elapsed);
        now.min(LAST)
    }

    pub(crate) fn store(&self, limiter: u64, make: impl FnOnce(&MemoryBackend) -> Arc<Store>) -> Arc<Store> {
        Arc::clone(self.stores.lock().entry(limiter).or_insert_with(|| make(&self.memory)))
    }

    pub(crate) fn existing(&self, limiter: u64) -> Option<Arc<Store>> {
        self.stores.lock().get(&limiter).map(Arc::clone)
    }

    fn advance(&self, by: u64) {
        let advance = |advanced: u64| Some(advanced.saturating_add(by));
        let _ = self.advanced.fetch_update(Ordering::SeqCst, Ordering::SeqCst, advance);
        self.advanced();
    }

    /// Of several that advance it to one time, each finds that time.
    pub(crate) fn advance_to(&self, time: u64) {
        let elapsed = self.tokio.as_ref().map_or(0, TokioClock::elapsed);
        let advanced = time.saturating_sub(self.start).saturating_sub(elapsed);
        self.advanced.fetch_max(advanced, Ordering::SeqCst);
        self.advanced();
    }

    fn advanced(&self) {
        let mut sleepers = self.sleepers.lock();
        sleepers.last = Instant::now();
        let wakers = std::mem::take(&mut sleepers.wakers);
        drop(sleepers);
        wakers.into_values().for_each(Waker::wake);
    }

    /// A thread that waits: a clock that stands still goes on by itself, because nothing else would move it.
    pub(crate) fn sleep(&self, delay: Duration) {
        self.advance_to(self.now().saturating_add(nanos(delay)));
    }

    /// A task that waits: until the clock is advanced far enough.
    pub(crate) async fn sleep_async(self: &Arc<Scope>, delay: Duration) {
        Sleep::until(self, self.now().saturating_add(nanos(delay))).await;
    }

    fn place(&self, until: u64) -> (u64, u64) {
        let mut sleepers = self.sleepers.lock();
        sleepers.next += 1;
        (until, sleepers.next)
    }

    fn reset(&self) {
        self.memory.clear();
    }

    pub(crate) fn enter(self: &Arc<Scope>) -> Entered {
        // On a thread that ends there is nothing to enter.
        let _ = SCOPES.try_with(|scopes| scopes.borrow_mut().push(Arc::clone(self)));
        Entered { scope: Arc::clone(self), thread: PhantomData }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let mut alive = ALIVE.lock();
        *alive -= 1;
        if *alive == 0 {
            switches::turn(Switch::Test, false);
        }
    }
}

/// A future that waits for the clock, and for no other future's time.
pub(crate) struct Sleep {
    scope: Arc<Scope>,
    place: (u64, u64),
    /// And by how much the clock was advanced when it was set.
    by_tokio: Option<(u64, Pin<Box<tokio::time::Sleep>>)>,
    alarm: Option<Alarm>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Before the clock is read, so that an advance in between wakes it.
        let deadline = self.register(context.waker());
        let now = self.scope.now();
        if now >= self.place.0 {
            return Poll::Ready(());
        }
        let scope = Arc::clone(&self.scope);
        if let Some(tokio) = &scope.tokio {
            let advanced = scope.advanced.load(Ordering::SeqCst);
            let set = self.by_tokio.take().filter(|(before, _)| *before == advanced).map(|(_, sleep)| sleep);
            if let Some(mut sleep) = set.or_else(|| tokio.sleep(self.place.0 - now)) {
                let is_over = sleep.as_mut().poll(context).is_ready();
                self.by_tokio = Some((advanced, sleep));
                return if is_over { Poll::Ready(()) } else { Poll::Pending };
            }
        }
        if Instant::now() >= deadline && self.is_first() {
            // The test waits for this future instead of moving the clock on.
            scope.sleepers.lock().patience = IMPATIENCE;
            scope.advance_to(self.place.0);
            return Poll::Ready(());
        }
        let Sleep { alarm, .. } = &mut *self;
        timer::set(alarm, deadline.max(Instant::now() + IMPATIENCE), context);
        Poll::Pending
    }
}

impl Sleep {
    /// Until that time, in nanoseconds since the Unix epoch.
    pub(crate) fn until(scope: &Arc<Scope>, time: u64) -> Sleep {
        Sleep { scope: Arc::clone(scope), place: scope.place(time), by_tokio: None, alarm: None }
    }

    pub(crate) fn time(&self) -> u64 {
        self.place.0
    }

    /// Has the waker woken at an advance; until when the future waits for one, in real time.
    fn register(&self, waker: &Waker) -> Instant {
        // Not under the lock: what a waker does when it is cloned or dropped is not known.
        let waker = waker.clone();
        let mut sleepers = self.scope.sleepers.lock();
        if sleepers.wakers.is_empty() {
            sleepers.last = Instant::now();
        }
        let old = sleepers.wakers.insert(self.place, waker);
        let deadline = sleepers.last + sleepers.patience;
        drop(sleepers);
        drop(old);
        deadline
    }

    fn is_first(&self) -> bool {
        self.scope.sleepers.lock().wakers.keys().next() == Some(&self.place)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let waker = self.scope.sleepers.lock().wakers.remove(&self.place);
        drop(waker);
    }
}

/// The present time, on a whole microsecond as a token bucket's times are.
fn present() -> u64 {
    clock::now() / 1_000 * 1_000
}

/// Pauses the clock for rate limits on this thread, at the present microsecond, and gives them buckets of their own, until the
/// guard is dropped. Where the test has paused tokio's clock, limits go by that. Pauses may be nested: the inner one counts.
pub fn pause() -> TestClock {
    TestClock::new(present(), TokioClock::paused())
}

/// As [`pause`], at a time of day: for fixed windows, which begin at midnight UTC. From 1973 on.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use ratelimit_runtime::{rate_limit, test_util};
///
/// #[rate_limit(count = 1, per = "1d", algorithm = fixed_window)]
/// fn send() -> Option<()> { Some(()) }
///
/// let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + 12 * 3_600);
/// let clock = test_util::pause_at(noon);
/// assert_eq!([send(), send()], [Some(()), None]);
/// clock.advance(Duration::from_secs(12 * 3_600)); // midnight
/// assert_eq!(send(), Some(()));
/// ```
pub fn pause_at(time: SystemTime) -> TestClock {
    let time = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanos) / 1_000 * 1_000;
    // A bucket that was never used is so since 1970, which must be longer ago than any period.
    TestClock::new(time.max(3 * nanos(MAX_PER)), TokioClock::paused())
}

/// As [`pause`], with a clock that goes as that of the tokio runtime around does, whether it is paused now or later.
pub fn pause_with_tokio() -> TestClock {
    TestClock::new(present(), TokioClock::current())
}

/// Forgets all buckets: those of the test around, or where there is none all that are in this process's memory.
pub fn reset() {
    if let Some(scope) = current() {
        scope.reset();
        return;
    }
    for core in registry::all() {
        core.clear_memory();
    }
}

/// A test's clock; see [`pause`]. Dropping it ends the test's time and buckets on this thread.
#[must_use = "the clock runs again when this is dropped"]
pub struct TestClock {
    entered: Entered,
}

impl TestClock {
    fn new(start: u64, tokio: Option<TokioClock>) -> TestClock {
        TestClock { entered: Scope::new(start, tokio).enter() }
    }

    /// Moves the clock forwards and wakes the tasks that wait for it. Tokio's own clock stays where it is.
    pub fn advance(&self, by: Duration) {
        self.handle().advance(by);
    }

    /// Nanoseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.entered.scope.now()
    }

    /// Forgets all buckets of this test.
    pub fn reset(&self) {
        self.entered.scope.reset();
    }

    /// For other threads, and tasks that may move to them.
    pub fn handle(&self) -> TestHandle {
        TestHandle { scope: Arc::clone(&self.entered.scope) }
    }
}

/// A test's clock and buckets, for other threads and tasks; see [`TestClock::handle`].
#[derive(Clone)]
pub struct TestHandle {
    scope: Arc<Scope>,
}

impl TestHandle {
    /// Nanoseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.scope.now()
    }

    /// Moves the clock forwards, as [`TestClock::advance`].
    pub fn advance(&self, by: Duration) {
        self.scope.advance(nanos(by));
    }

    /// Joins the test on this thread, until the guard is dropped.
    pub fn enter(&self) -> Entered {
        self.scope.enter()
    }

    /// The same future, joined to the test on whatever thread it runs.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let handle = self.clone();
        let mut future = Box::pin(future);
        std::future::poll_fn(move |context| {
            let _entered = handle.enter();
            future.as_mut().poll(context)
        })
    }
}

/// A thread's part in a test; see [`TestHandle::enter`].
#[must_use = "the thread leaves the test when this is dropped"]
pub struct Entered {
    scope: Arc<Scope>,
    /// It is to be dropped on the thread that it was made on, as a mutex guard is.
    thread: PhantomData<MutexGuard<'static, ()>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Dropped without the borrow: what wakers do when they are dropped is not known.
        let _scope = SCOPES.try_with(|scopes| {
            let mut scopes = scopes.borrow_mut();
            let position = scopes.iter().rposition(|scope| Arc::ptr_eq(scope, &self.scope));
            position.map(|position| scopes.remove(position))
        });
    }
}
