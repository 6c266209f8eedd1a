//! A clock that tests pause and advance, and buckets that belong to one test.
//!
//! [`pause`] gives the thread a clock that stands still, and buckets of its own, until the returned
//! guard is dropped. Tests of one function may run in parallel in one process. Annotated functions
//! and [`RateLimiter`](crate::RateLimiter)s use that clock, including limiters with a Redis
//! backend.
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
//! A thread that waits for permits advances the paused clock by itself, because nothing else would.
//! A future that waits resumes when the test advances the clock, or after five seconds without an
//! advance.
//!
//! # With tokio
//! If the test has paused tokio's clock (`#[tokio::test(start_paused = true)]`), limits follow that
//! clock: `tokio::time::advance`, and the automatic advance for sleeps. [`pause`] detects it, so
//! call it after `tokio::time::pause`.
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
//! Other threads, and tasks on other threads, join the test through [`TestClock::handle`]. An
//! asynchronous test on tokio's current-thread runtime needs nothing more.

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

use crate::backend::Timestamp;
use crate::backend::memory::{MemoryBackend, NEVER, Store};
use crate::limit::MAX_PER;
use crate::limiter::Journal;
use crate::registry;
use crate::rt::clock::{self, nanos};
use crate::rt::timer::{self, Alarm};
use crate::switches::{self, Switch};

/// How long a future waits for the test to advance the clock, in real time.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same, in a test in which a future has already waited in vain.
const IMPATIENCE: Duration = Duration::from_millis(10);

/// The latest time of a test's clock. [`NEVER`] is not reached.
const LAST: u64 = NEVER - 1;

thread_local! {
    static SCOPES: RefCell<Vec<Arc<Scope>>> = const { RefCell::new(Vec::new()) };
}

/// Number of live scopes in the process.
static ALIVE: Mutex<usize> = Mutex::new(0);

/// This thread's innermost test scope. None inside destructors of an ending thread.
pub(crate) fn current() -> Option<Arc<Scope>> {
    SCOPES.try_with(|scopes| scopes.borrow().last().cloned()).ok().flatten()
}

/// A test's clock and buckets.
pub(crate) struct Scope {
    id: String,
    /// Nanoseconds since the Unix epoch.
    start: u64,
    /// How far it was advanced, in nanoseconds.
    advanced: AtomicU64,
    /// The tokio clock that it follows, if any.
    tokio: Option<TokioClock>,
    memory: MemoryBackend,
    /// Stores by limiter.
    stores: Mutex<HashMap<u64, Arc<Store>>>,
    blocks: Journal,
    sleepers: Mutex<Sleepers>,
}

struct TokioClock {
    runtime: Handle,
    start: TokioInstant,
    /// The last reading, in nanoseconds.
    elapsed: AtomicU64,
}

/// Futures that wait for the clock.
struct Sleepers {
    /// Keyed by the time waited for, and a sequence number.
    wakers: BTreeMap<(u64, u64), Waker>,
    next: u64,
    /// When the clock was last advanced, or a future last began to wait for it.
    last: Instant,
    patience: Duration,
}

impl TokioClock {
    /// The current runtime's clock, if it is paused.
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
            // The clock is visible only inside its runtime.
            _ => {
                let _entered = self.runtime.enter();
                self.start.elapsed()
            }
        };
        self.elapsed.fetch_max(nanos(elapsed), Ordering::SeqCst).max(nanos(elapsed))
    }

    /// A sleep by its timer, if this thread is in the runtime.
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
            blocks: Journal::new(),
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

    /// Advances the clock to `time`, if it is not there yet: concurrent calls with one time advance
    /// it once.
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

    /// A thread waits: a paused clock is advanced, because nothing else would.
    pub(crate) fn sleep(&self, delay: Duration) {
        self.advance_to(self.now().saturating_add(nanos(delay)));
    }

    /// A task waits until the clock is advanced far enough.
    pub(crate) async fn sleep_async(self: &Arc<Scope>, delay: Duration) {
        Sleep::until(self, self.now().saturating_add(nanos(delay))).await;
    }

    fn place(&self, until: u64) -> (u64, u64) {
        let mut sleepers = self.sleepers.lock();
        sleepers.next += 1;
        (until, sleepers.next)
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.blocks
    }

    fn reset(&self) {
        self.blocks.clear();
        self.memory.clear();
    }

    pub(crate) fn enter(self: &Arc<Scope>) -> Entered {
        // An ending thread has no scopes left.
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

/// A future that waits for the clock. Each sleep has a place of its own.
pub(crate) struct Sleep {
    scope: Arc<Scope>,
    place: (u64, u64),
    /// The tokio sleep, and how far the clock had been advanced when it was set.
    by_tokio: Option<(u64, Pin<Box<tokio::time::Sleep>>)>,
    alarm: Option<Alarm>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Registered before the clock is read, so that an advance in between wakes it.
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
            // The test waits for this future instead of advancing the clock.
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
    /// Sleeps until `time`, in nanoseconds since the Unix epoch.
    pub(crate) fn until(scope: &Arc<Scope>, time: u64) -> Sleep {
        Sleep { scope: Arc::clone(scope), place: scope.place(time), by_tokio: None, alarm: None }
    }

    pub(crate) fn time(&self) -> u64 {
        self.place.0
    }

    /// Registers the waker for the next advance. Returns the real-time deadline of that advance.
    fn register(&self, waker: &Waker) -> Instant {
        // Outside the lock: cloning or dropping a waker runs foreign code.
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

/// The present time, on a whole microsecond like a token bucket's times.
fn present() -> u64 {
    clock::now() / 1_000 * 1_000
}

/// Pauses the clock for rate limits on this thread, at the present microsecond, until the guard is
/// dropped.
///
/// The thread also gets buckets of its own. If the test has paused tokio's clock, limits follow
/// that. Pauses may be nested: the innermost counts. While any guard lives, all limiters of the
/// process leave the fast path.
pub fn pause() -> TestClock {
    TestClock::new(present(), TokioClock::paused())
}

/// Pauses the clock at a given time, for fixed windows, which begin at midnight UTC.
///
/// `time` is from 1973 on; an earlier one counts as about 1973. Otherwise the same as [`pause`].
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
    // An unused bucket counts as used in 1970, which must be longer ago than any period.
    TestClock::new(time.max(3 * nanos(MAX_PER)), TokioClock::paused())
}

/// Makes limits on this thread follow the current tokio runtime's clock, whether it is paused now
/// or later.
///
/// The thread also gets buckets of its own, until the guard is dropped.
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::{rate_limit, test_util};
///
/// #[rate_limit(count = 1, per = "1m")]
/// async fn send() -> Option<()> { Some(()) }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let _clock = test_util::pause_with_tokio();
/// tokio::time::pause();
/// assert_eq!([send().await, send().await], [Some(()), None]);
/// tokio::time::advance(Duration::from_secs(60)).await;
/// assert_eq!(send().await, Some(()));
/// # }
/// ```
pub fn pause_with_tokio() -> TestClock {
    TestClock::new(present(), TokioClock::current())
}

/// Forgets all buckets of the test on this thread. Without a test, all buckets in this process's
/// memory.
pub fn reset() {
    if let Some(scope) = current() {
        scope.reset();
        return;
    }
    Journal::of_process().clear();
    for core in registry::all() {
        core.clear_memory();
    }
}

/// A test's clock; see [`pause`]. Dropping it ends the test's clock and buckets on this thread.
#[must_use = "the clock runs again when this is dropped"]
pub struct TestClock {
    entered: Entered,
}

impl TestClock {
    fn new(start: u64, tokio: Option<TokioClock>) -> TestClock {
        TestClock { entered: Scope::new(start, tokio).enter() }
    }

    /// Advances the clock and wakes the tasks that wait for it. Tokio's own clock stays where it
    /// is.
    pub fn advance(&self, by: Duration) {
        self.handle().advance(by);
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.handle().now()
    }

    /// Forgets all buckets of this test.
    pub fn reset(&self) {
        self.entered.scope.reset();
    }

    /// A handle for other threads, and for tasks that may move to them.
    ///
    /// ```
    /// use ratelimit_runtime::{rate_limit, test_util};
    ///
    /// #[rate_limit(count = 1, per = "1h")]
    /// fn send() -> Option<()> { Some(()) }
    ///
    /// let clock = test_util::pause();
    /// assert_eq!(send(), Some(()));
    /// let handle = clock.handle();
    /// let other = std::thread::spawn(move || {
    ///     let _entered = handle.enter();
    ///     send()
    /// });
    /// assert_eq!(other.join().unwrap(), None);
    /// ```
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
    /// The time.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.scope.now())
    }

    /// Advances the clock and wakes the tasks that wait for it. Tokio's own clock stays where it
    /// is.
    pub fn advance(&self, by: Duration) {
        self.scope.advance(nanos(by));
    }

    /// Joins this thread to the test, until the guard is dropped.
    pub fn enter(&self) -> Entered {
        self.scope.enter()
    }

    /// The same future, joined to the test on whatever thread polls it.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let handle = self.clone();
        let mut future = Box::pin(future);
        std::future::poll_fn(move |context| {
            let _entered = handle.enter();
            future.as_mut().poll(context)
        })
    }
}

/// A thread's membership in a test; see [`TestHandle::enter`].
#[must_use = "the thread leaves the test when this is dropped"]
pub struct Entered {
    scope: Arc<Scope>,
    /// Not `Send`: must be dropped on the thread that made it, like a mutex guard.
    thread: PhantomData<MutexGuard<'static, ()>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // The scope is dropped after the borrow ends: dropping wakers runs foreign code.
        let _scope = SCOPES.try_with(|scopes| {
            let mut scopes = scopes.borrow_mut();
            let position = scopes.iter().rposition(|scope| Arc::ptr_eq(scope, &self.scope));
            position.map(|position| scopes.remove(position))
        });
    }
}
