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
//! A thread that has to wait for permits moves the paused clock on by itself, because nobody else would; a future that has
//! to wait goes on when the test advances the clock.
//!
//! Other threads and tasks on other threads join by [`TestClock::handle`]. An asynchronous test on tokio's current-thread
//! runtime needs nothing more; with tokio's own clock paused, [`pause_with_tokio`] lets limits go by that one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::backend::memory::{MemoryBackend, Store};
use crate::clock::{self, nanos};
use crate::registry;
use crate::switches::{self, Switch};

thread_local! {
    static SCOPES: RefCell<Vec<Arc<Scope>>> = const { RefCell::new(Vec::new()) };
}

/// Scopes alive in the process.
static ALIVE: Mutex<usize> = Mutex::new(0);

/// The test around, on this thread.
pub(crate) fn current() -> Option<Arc<Scope>> {
    SCOPES.with_borrow(|scopes| scopes.last().cloned())
}

/// A test's clock and buckets.
pub(crate) struct Scope {
    id: String,
    time: Time,
    memory: MemoryBackend,
    /// Stores by limiter.
    stores: Mutex<HashMap<u64, Arc<Store>>>,
    wakers: Mutex<Vec<Waker>>,
}

enum Time {
    /// Stands still until it is advanced: nanoseconds since the Unix epoch.
    Manual(AtomicU64),
    /// Goes as tokio's does.
    #[cfg(feature = "tokio")]
    Tokio { started: tokio::time::Instant, unix: u64 },
}

impl Scope {
    fn new(time: Time) -> Arc<Scope> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let mut alive = ALIVE.lock();
        *alive += 1;
        switches::turn(Switch::Test, true);
        Arc::new(Scope {
            id: format!("{}-{}-{}", std::process::id(), clock::now(), NEXT.fetch_add(1, Ordering::Relaxed)),
            time,
            memory: MemoryBackend::new(),
            stores: Mutex::default(),
            wakers: Mutex::default(),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn now(&self) -> u64 {
        match &self.time {
            Time::Manual(now) => now.load(Ordering::SeqCst),
            #[cfg(feature = "tokio")]
            Time::Tokio { started, unix } => unix.saturating_add(nanos(started.elapsed())),
        }
    }

    pub(crate) fn store(&self, limiter: u64, make: impl FnOnce(&MemoryBackend) -> Arc<Store>) -> Arc<Store> {
        Arc::clone(self.stores.lock().entry(limiter).or_insert_with(|| make(&self.memory)))
    }

    pub(crate) fn existing(&self, limiter: u64) -> Option<Arc<Store>> {
        self.stores.lock().get(&limiter).map(Arc::clone)
    }

    pub(crate) fn advance_to(&self, to: u64) {
        match &self.time {
            Time::Manual(now) => {
                now.fetch_max(to, Ordering::SeqCst);
                let wakers = std::mem::take(&mut *self.wakers.lock());
                wakers.into_iter().for_each(Waker::wake);
            }
            #[cfg(feature = "tokio")]
            Time::Tokio { .. } => {}
        }
    }

    /// A thread that waits: a clock that stands still goes on by itself, because nobody else would move it.
    pub(crate) fn sleep(&self, delay: Duration) {
        match &self.time {
            Time::Manual(_) => self.advance_to(self.now().saturating_add(nanos(delay))),
            #[cfg(feature = "tokio")]
            Time::Tokio { .. } => std::thread::sleep(delay),
        }
    }

    /// A task that waits: until the clock is advanced far enough.
    pub(crate) async fn sleep_async(&self, delay: Duration) {
        match &self.time {
            Time::Manual(_) => Sleep { scope: self, until: self.now().saturating_add(nanos(delay)) }.await,
            #[cfg(feature = "tokio")]
            Time::Tokio { .. } => tokio::time::sleep(delay).await,
        }
    }

    /// Wakes the task when a clock that stands still is moved.
    pub(crate) fn listen(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock();
        if !wakers.iter().any(|listening| listening.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    pub(crate) fn is_manual(&self) -> bool {
        matches!(self.time, Time::Manual(_))
    }

    fn reset(&self) {
        self.memory.clear();
    }

    pub(crate) fn enter(self: &Arc<Scope>) -> Entered {
        SCOPES.with_borrow_mut(|scopes| scopes.push(Arc::clone(self)));
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

struct Sleep<'a> {
    scope: &'a Scope,
    until: u64,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Before the clock is read, so that an advance in between wakes it.
        self.scope.wakers.lock().push(context.waker().clone());
        if self.scope.now() >= self.until { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The present time, on a whole microsecond as a token bucket's times are.
fn present() -> u64 {
    clock::now() / 1_000 * 1_000
}

/// Pauses the clock for rate limits on this thread, at the present microsecond, and gives them buckets of their own, until the
/// guard is dropped. Pauses may be nested: the inner one counts.
pub fn pause() -> TestClock {
    TestClock::new(Time::Manual(AtomicU64::new(present())))
}

/// As [`pause`], with a clock that goes as tokio's does: with `tokio::time::pause` and `tokio::time::advance`.
#[cfg(feature = "tokio")]
pub fn pause_with_tokio() -> TestClock {
    TestClock::new(Time::Tokio { started: tokio::time::Instant::now(), unix: present() })
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
    fn new(time: Time) -> TestClock {
        TestClock { entered: Scope::new(time).enter() }
    }

    /// Moves the clock forwards and wakes the tasks that wait for it. Does nothing to tokio's clock.
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
    /// Moves the clock forwards, as [`TestClock::advance`].
    pub fn advance(&self, by: Duration) {
        self.scope.advance_to(self.scope.now().saturating_add(nanos(by)));
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
        SCOPES.with_borrow_mut(|scopes| {
            if let Some(position) = scopes.iter().rposition(|scope| Arc::ptr_eq(scope, &self.scope)) {
                scopes.remove(position);
            }
        });
    }
}
