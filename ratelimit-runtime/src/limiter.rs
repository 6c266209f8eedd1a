//! [`RateLimiter`]: the way from a key and a cost to a decision.

mod builder;
mod call;
mod core;
mod decide;
mod fast;
mod spec;
mod started;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use once_cell::sync::OnceCell;

use crate::clock::nanos;
use crate::decision::Decision;
use crate::error::{BackendError, RateLimitExceeded};
use crate::key::RateLimitKey;
use crate::limit::Limit;

pub use builder::{InvalidLimiter, RateLimiterBuilder};
pub(crate) use call::{Call, Wait};
pub(crate) use core::Core;
pub(crate) use decide::{Begun, BegunHeld, Holding};
pub use spec::Spec;
#[cfg(feature = "tower")]
pub(crate) use started::Started;

/// What happens to a call whose backend could not decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnBackendError {
    /// A limiter of the same limits in this process's memory decides.
    #[default]
    Local,
    /// The call is admitted.
    Allow,
    /// The call is denied, with [`ExceededKind::BackendFailed`](crate::ExceededKind::BackendFailed).
    Deny,
}

/// One or several limits, and the buckets of all their keys.
///
/// What `#[rate_limit]` expands to, and of use without it. A `static` is made by [`new`](RateLimiter::new); whatever is not
/// constant, by the [`builder`](RateLimiter::builder). It is a cheap handle: clones share the buckets.
///
/// A key is anything that is a [`RateLimitKey`]; `()` is one bucket for all calls. A cost is the number of permits that the
/// call takes; 0 takes none and is never denied.
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::{Limit, RateLimiter};
///
/// static API: RateLimiter = RateLimiter::new(
///     "api",
///     &[Limit::new(10, Duration::from_secs(1)), Limit::new(100, Duration::from_secs(60))],
/// );
///
/// let decision = API.check("alice", 3)?;
/// assert_eq!(decision.remaining(), 7);
/// API.refund(decision)?;
/// assert_eq!(API.peek("alice", 0)?.remaining(), 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RateLimiter {
    /// Made at the first use where there is a specification, else there from the beginning.
    core: OnceCell<Arc<Core>>,
    spec: Option<Spec>,
}

impl RateLimiter {
    /// A limiter of 1 to 8 limits, decided together: all are charged or none is. Its name is what it is called in the
    /// backend, in errors and in [`limiters`](crate::limiters): two of one name and the same limits share their buckets.
    ///
    /// # Panics
    /// On no limits and on more than 8: in a `const` or `static` that is a compile error. For limits that are known at run
    /// time only, use the [`builder`](RateLimiter::builder).
    #[track_caller]
    pub const fn new(name: &'static str, limits: &[Limit]) -> RateLimiter {
        let location = std::panic::Location::caller();
        Spec::named(name).limits(limits).at(location.file(), location.line(), location.column()).limiter()
    }

    /// A limiter of which more than name and limits is to be set, or these at run time only.
    pub fn builder(name: impl Into<String>) -> RateLimiterBuilder {
        RateLimiterBuilder::new(name.into())
    }

    #[expect(clippy::large_types_passed_by_value, reason = "constant: it runs in the compiler")]
    pub(crate) const fn from_spec(spec: Spec) -> RateLimiter {
        RateLimiter { core: OnceCell::new(), spec: Some(spec) }
    }

    pub(crate) fn from_core(core: Arc<Core>) -> RateLimiter {
        RateLimiter { core: OnceCell::with_value(core), spec: None }
    }

    #[inline]
    pub(crate) fn core(&self) -> &Arc<Core> {
        match self.core.get() {
            Some(core) => core,
            None => self.first_core(),
        }
    }

    #[cold]
    #[inline(never)]
    fn first_core(&self) -> &Arc<Core> {
        self.core.get_or_init(|| {
            Core::new(self.spec.as_ref().expect("a limiter without a core has a specification").resolve())
        })
    }

    /// The limiter's name.
    pub fn name(&self) -> &str {
        self.core().name()
    }

    /// The limits that apply now.
    pub fn limits(&self) -> Vec<Limit> {
        self.core().limits()
    }

    /// Replaces the limits, from the next call on, for all clones and in this process: 1 to 8 of them. Costs the calls no
    /// lock.
    ///
    /// The permits on record are judged by the new limits, position by position. A sliding window is exact from one new `per`
    /// after the change. A token bucket keeps its debt, in fractions of permits. A fixed window counts on if the last permit
    /// was taken in the new window. If the algorithm is another one, what is taken at that moment counts as taken then. So no
    /// sequence of limits admits more than the largest of them would, nor less than the smallest.
    ///
    /// Calls that wait move with the change at once.
    ///
    /// If a `count` or `per` is an expression in the attribute, it goes on being read at each call.
    pub fn set_limits(&self, limits: &[Limit]) -> Result<(), InvalidLimiter> {
        self.core().set_limits(limits)
    }

    /// Takes `cost` permits for `key`, or denies at once.
    pub fn check<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).decide(&key)
    }

    /// As [`check`](Self::check), without blocking the thread on a backend.
    pub async fn check_async<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).start(&key);
        drop(key);
        started.finish_async().await
    }

    /// Takes `cost` permits for `key`, and blocks the thread until they are due: first come, first served.
    ///
    /// A call that waits holds a place in its key's queue, and no permit. It is charged when it is due. One that gives up holds
    /// nothing: its place serves the next. Calls that do not wait are denied meanwhile, with a `retry_after` behind those
    /// that wait.
    ///
    /// Through a backend each process has a queue of its own for a key, and asks the backend for all calls in it. It books
    /// the permit of the first call when that is due within a second, and up to 32 when they are due within 200 ms. So a process
    /// that is killed leaves nothing behind that is due later than in a second. The order holds within a process; what each
    /// process gets of a limit that several wait for depends on when they ask. Limits and permits that change in other
    /// processes reach those who wait within a second. A call costs the backend about two round trips. A `backoff` adds one,
    /// and lets calls that do not wait ask for themselves. By a test's clock that stands still, each call books for itself.
    ///
    /// Denied only if `cost` is above a limit, or the backend failed and the limiter is set to deny then. On a worker
    /// thread of an async runtime this blocks all other tasks of that worker: use [`wait_async`](Self::wait_async) there.
    pub fn wait<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).wait(Wait::Forever).decide(&key)
    }

    /// As [`wait`](Self::wait), without blocking the thread, on any executor: a timer thread of this crate charges the call
    /// when it is due, though its future may not be polled then. If a test has paused tokio's clock, that clock counts.
    /// Dropping the future gives the place up.
    #[cfg(feature = "tokio")]
    pub async fn wait_async<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).wait(Wait::Forever).start(&key);
        drop(key);
        started.finish_async().await
    }

    /// As [`wait`](Self::wait) if the permits are due within `max`. Otherwise it denies at once and takes nothing; if it
    /// turns out later that they are not, it denies at the end of `max`.
    pub fn wait_at_most<K: RateLimitKey>(
        &self,
        key: K,
        cost: u32,
        max: Duration,
    ) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).wait(Wait::AtMost(nanos(max))).decide(&key)
    }

    /// As [`wait_at_most`](Self::wait_at_most), sleeping as [`wait_async`](Self::wait_async) does.
    #[cfg(feature = "tokio")]
    pub async fn wait_at_most_async<K: RateLimitKey>(
        &self,
        key: K,
        cost: u32,
        max: Duration,
    ) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).wait(Wait::AtMost(nanos(max))).start(&key);
        drop(key);
        started.finish_async().await
    }

    /// Says what [`check`](Self::check) would, and changes nothing: takes no permit, counts no denial.
    pub fn peek<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).peek().decide(&key)
    }

    /// As [`peek`](Self::peek), without blocking the thread on a backend.
    pub async fn peek_async<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).peek().start(&key);
        drop(key);
        started.finish_async().await
    }

    /// Gives back the permits of a decision, as far as they still count: never does the limit admit more by it than if the
    /// call had not been made. A decision of another limiter gives nothing back here, nor one from before a
    /// [`reset`](Self::reset) of its key by this process, through whatever limiter of the name (or of one among 64 keys that
    /// shares its counter of resets).
    pub fn refund(&self, decision: Decision) -> Result<(), BackendError> {
        self.core().refund(decision)
    }

    /// As [`refund`](Self::refund), without blocking the thread on a backend.
    pub async fn refund_async(&self, decision: Decision) -> Result<(), BackendError> {
        self.core().refund_async(decision).await
    }

    /// Forgets all that is on record for `key`.
    pub fn reset<K: RateLimitKey>(&self, key: K) -> Result<(), BackendError> {
        self.core().reset(&key)
    }

    /// As [`reset`](Self::reset), without blocking the thread on a backend.
    pub async fn reset_async<K: RateLimitKey>(&self, key: K) -> Result<(), BackendError> {
        let reset = self.core().start_reset(&key);
        drop(key);
        match reset {
            Some((backend, request)) => backend.decide_async(&request).await.map(drop),
            None => Ok(()),
        }
    }
}

impl Clone for RateLimiter {
    fn clone(&self) -> RateLimiter {
        RateLimiter::from_core(Arc::clone(self.core()))
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter").field("name", &self.name()).field("limits", &self.limits()).finish()
    }
}
