//! [`RateLimiter`] takes a key and a cost, and returns a decision.

mod block;
mod builder;
mod call;
mod core;
mod decide;
mod elsewhere;
mod fast;
mod settle;
mod spec;
mod started;
mod waiting;

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use once_cell::sync::OnceCell;

use crate::backend::memory::Leaves;
use crate::decision::Decision;
use crate::error::{BackendError, RateLimitExceeded};
use crate::key::RateLimitKey;
use crate::keys::RateLimitKeys;
use crate::limit::Limit;
use crate::rt::clock::nanos;

pub(crate) use block::{Blockable, Journal, pause, start_pause};
pub use builder::{InvalidLimiter, RateLimiterBuilder};
pub(crate) use call::Owner;
pub use call::{Call, Wait};
use core::Contains;
pub(crate) use core::{Core, Settings};
pub(crate) use decide::{Begun, BegunHeld, Holding};
pub(crate) use elsewhere::open as open_elsewhere;
pub use settle::CallPermit;
use settle::Charging;
pub use spec::Spec;
use spec::{Needs, Resolved};
#[cfg(feature = "tower")]
pub(crate) use started::{Pending, Started};

/// What happens to a call that the backend cannot decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnBackendError {
    /// The same limits decide, with buckets in this process's memory.
    #[default]
    Local,
    /// The call is admitted.
    Allow,
    /// The call is denied, with
    /// [`ExceededKind::BackendFailed`](crate::ExceededKind::BackendFailed).
    Deny,
}

/// One to eight limits and the buckets of all their keys.
///
/// `#[rate_limit]` expands to a `RateLimiter`, which is also useful on its own. For a `static`, use
/// [`new`](RateLimiter::new). For values known only at run time, use the
/// [`builder`](RateLimiter::builder). A limiter is a cheap handle: clones share the buckets.
///
/// A key is any [`RateLimitKey`]; `()` is one bucket for all calls. The cost of a call is the
/// number of permits that it takes. A call of cost 0 takes none and is never denied, unless its key
/// is [blocked](RateLimiter::block) or banned.
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
    /// Dropped before the core, which then knows what to do with its buckets.
    _leaves: Leaves,
    /// Made at the first use if there is a specification; otherwise present from the start.
    core: OnceCell<Arc<Core>>,
    spec: Option<Spec>,
    contains: Contains,
}

impl RateLimiter {
    /// A limiter of 1 to 8 limits, which are decided together: a call takes its permits from all
    /// limits or from none.
    ///
    /// The name identifies the limiter in the backend, in errors and in
    /// [`limiters`](crate::limiters). Limiters with the same name and the same limits share their
    /// buckets.
    ///
    /// # Panics
    /// If there are no limits or more than 8. In a `const` or `static` this is a compile error. If
    /// the limits are known only at run time, use the [`builder`](RateLimiter::builder).
    #[track_caller]
    pub const fn new(name: &'static str, limits: &[Limit]) -> RateLimiter {
        Spec::named(name).limits(limits).at(Location::caller()).limiter()
    }

    /// Builds a limiter with options beyond a name and limits, or with values known only at run
    /// time.
    pub fn builder(name: impl Into<String>) -> RateLimiterBuilder {
        RateLimiterBuilder::new(name.into())
    }

    #[expect(clippy::large_types_passed_by_value, reason = "constant: it runs in the compiler")]
    pub(crate) const fn from_spec(spec: Spec) -> RateLimiter {
        let contains = match spec.needs() {
            Needs::NoKeys => fast::NO_KEYS,
            Needs::PermitsWithoutKeys => fast::PERMITS_WITHOUT_KEYS,
            Needs::WindowWithoutKeys => fast::WINDOW_WITHOUT_KEYS,
            Needs::Permits => fast::PERMITS,
            Needs::Window => fast::WINDOW,
            Needs::Any => fast::ANY,
        };
        RateLimiter { core: OnceCell::new(), spec: Some(spec), contains, _leaves: Leaves }
    }

    pub(crate) fn from_core(core: Arc<Core>) -> RateLimiter {
        RateLimiter { core: OnceCell::with_value(core), spec: None, contains: fast::ANY, _leaves: Leaves }
    }

    /// A limiter whose parts are known only at run time.
    fn built(resolved: Resolved) -> RateLimiter {
        RateLimiter::from_core(Core::new(resolved, fast::ANY))
    }

    #[inline]
    pub(crate) fn core(&self) -> &Arc<Core> {
        match self.core.get() {
            Some(core) => core,
            None => self.first_core(),
        }
    }

    /// The core for calls by limits that are constants. Those of the first call count as written.
    #[inline]
    pub(crate) fn core_by(&self, constants: &[Limit]) -> &Arc<Core> {
        match self.core.get() {
            Some(core) => core,
            None => self.first_core_by(Some(constants)),
        }
    }

    /// Without an argument: with one, functions that take a limiter would be too long to be inlined.
    #[cold]
    #[inline(never)]
    fn first_core(&self) -> &Arc<Core> {
        self.first_core_by(None)
    }

    #[cold]
    #[inline(never)]
    fn first_core_by(&self, constants: Option<&[Limit]>) -> &Arc<Core> {
        self.core.get_or_init(|| {
            let spec = self.spec.as_ref().expect("a limiter without a core has a specification");
            Core::new(spec.resolve(constants), self.contains)
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

    /// Replaces the limits with 1 to 8 others, from the next call on, for all clones in this
    /// process. Each thread looks new limits up once, under a lock, and then remembers those of 64
    /// limiters.
    ///
    /// The new limits judge the permits on record, position by position. A sliding window is exact
    /// from one new `per` after the change. A token bucket keeps its debt, in fractions of permits.
    /// A fixed window keeps its count if the last permit was taken in the new window. If the
    /// algorithm changes, the permits on record count as taken at that moment. No sequence of
    /// limits admits more than the largest of them would, nor less than the smallest.
    ///
    /// In memory, most buckets of the limits as written do not store the time of their last permit.
    /// At a key's first call under new limits, a fixed window's permits count as taken as late as
    /// their window and the present allow. They may therefore count for one new window more than in
    /// Redis, unless the new `per` is a multiple of the old one. A token bucket refills at the old
    /// rate until that call; in Redis it refills at the new rate from the last permit on.
    ///
    /// Waiting calls follow the new limits at once.
    ///
    /// If a `count` or `per` is an expression in the attribute, it is still read at each call. A
    /// constant is replaced.
    ///
    /// # Errors
    /// [`InvalidLimiter`] if there are no limits or more than 8. The limits do not change then.
    pub fn set_limits(&self, limits: &[Limit]) -> Result<(), InvalidLimiter> {
        self.core().set_limits(limits)
    }

    /// Takes `cost` permits for `key`, or denies at once. May block the thread on a backend.
    ///
    /// # Errors
    /// [`RateLimitExceeded`] if the call is denied.
    pub fn check<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).decide(&key)
    }

    /// As [`check`](Self::check), without blocking the thread on a backend.
    pub async fn check_async<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).start(&key);
        drop(key);
        started.finish_async().await
    }

    /// Takes `cost` permits for `key`, and blocks the thread until they are due. Waiting calls are
    /// served first come, first served.
    ///
    /// A waiting call holds a place in its key's queue, but no permit. It is charged when it is
    /// due. A call that gives up holds nothing: its place goes to the next call. Meanwhile, calls
    /// that do not wait are denied, with a `retry_after` behind the waiting calls.
    ///
    /// With a backend, each process has its own queue per key, which asks the backend for all calls
    /// in it. The queue books the permit of the first call when that is due within a second. It
    /// books up to 32 permits when they are due within 200 ms. A killed process therefore leaves no
    /// booking more than a second ahead.
    ///
    /// The order holds within a process. If several processes wait on one limit, the share of each
    /// depends on when it asks. Changes of limits and permits in other processes reach waiting
    /// calls within a second. A call costs the backend about two round trips, and two more with a
    /// `backoff`. If a test has paused tokio's clock but not this crate's, each call books for
    /// itself.
    ///
    /// On a worker thread of an async runtime, this blocks all other tasks of that worker. Use
    /// [`wait_async`](Self::wait_async) there.
    ///
    /// # Errors
    /// Only if `cost` is above a limit, or if the backend failed and the limiter's policy is
    /// [`OnBackendError::Deny`].
    pub fn wait<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).wait(Wait::Forever).decide(&key)
    }

    /// As [`wait`](Self::wait), without blocking the thread, on any executor. A timer thread of
    /// this crate charges the call when it is due, even if its future is not polled then. If a test
    /// has paused tokio's clock, the wait follows that clock. Dropping the future gives up the
    /// place.
    #[cfg(feature = "tokio")]
    pub async fn wait_async<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).wait(Wait::Forever).start(&key);
        drop(key);
        started.finish_async().await
    }

    /// Takes `cost` permits for `key` if they are due within `max`, and blocks the thread until
    /// then, as [`wait`](Self::wait) does. Otherwise it denies at once and takes nothing. If the
    /// permits later turn out not to be due in time, it denies at the end of `max`.
    pub fn wait_at_most<K: RateLimitKey>(
        &self,
        key: K,
        cost: u32,
        max: Duration,
    ) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).wait(Wait::AtMost(nanos(max))).decide(&key)
    }

    /// As [`wait_at_most`](Self::wait_at_most), but waits as [`wait_async`](Self::wait_async) does.
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

    /// Returns what [`check`](Self::check) would return, and changes nothing: it takes no permit
    /// and counts no denial.
    pub fn peek<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).peek().decide(&key)
    }

    /// As [`peek`](Self::peek), without blocking the thread on a backend.
    pub async fn peek_async<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).peek().start(&key);
        drop(key);
        started.finish_async().await
    }

    /// Takes `cost` permits from limits that have different keys, from all or from none. `keys`
    /// holds one key for each limit, in the order of the limits. `()` is the bucket of all calls.
    ///
    /// A call denied by one limit takes nothing from the others. A user denied by the global limit
    /// loses none of their own permits, and one user's denials use up no other user's permits.
    ///
    /// ```
    /// use ratelimit_runtime::{Limit, RateLimiter};
    ///
    /// // For each user, for each tenant, and in all.
    /// static SEARCH: RateLimiter = RateLimiter::new(
    ///     "search",
    ///     &[Limit::per_second(2), Limit::per_second(3), Limit::per_second(50_000)],
    /// );
    ///
    /// let decision = SEARCH.check_each(("ann", "acme", ()), 2)?;
    /// assert_eq!((decision.remaining(), decision.limit_index()), (0, 0));
    /// // Acme has one permit left, which is too few for Bob: he keeps both of his own.
    /// let exceeded = SEARCH.check_each(("bob", "acme", ()), 2).unwrap_err();
    /// assert_eq!((exceeded.limit_index(), exceeded.remaining()), (1, 1));
    /// assert_eq!(SEARCH.check_each(("bob", "other", ()), 2)?.remaining(), 0);
    /// # Ok::<(), ratelimit_runtime::RateLimitExceeded>(())
    /// ```
    ///
    /// A limit that was added by
    /// [`limit_of_same_key`](RateLimiterBuilder::limit_of_same_key) shares the key of the one
    /// before it. A bucket is identified by the limiter's name, the limits that share the key, and
    /// the key. It is therefore not the bucket of [`check`](Self::check), which decides all limits
    /// by one key. [`set_limits`](Self::set_limits) replaces the limits position by position;
    /// further limits share the last key.
    ///
    /// The decision is atomic in memory, on one Redis server and in PostgreSQL. In a Redis Cluster
    /// and in other backends ([`Backend::decide_together`](crate::Backend::decide_together)), the
    /// buckets are charged one after the other. On a denial, the permits taken so far are given
    /// back. The limits are kept at all times, but a denied call may hold permits for a moment. If
    /// the process is killed in between, they stay taken until they expire. In a Cluster, a call
    /// costs one round trip for each slot, all under one deadline. Leases and coalescing do not
    /// apply.
    ///
    /// A `backoff` counts a denial for each key whose limit denies.
    ///
    /// # Errors
    /// [`RateLimitExceeded`] if the call is denied; it reports the limit that holds the call back
    /// longest. Its kind is [`WrongKeys`](crate::ExceededKind::WrongKeys) if there are more or
    /// fewer keys than limits with keys of their own.
    pub fn check_each<K: RateLimitKeys>(&self, keys: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).start_each(&keys).finish()
    }

    /// As [`check_each`](Self::check_each), without blocking the thread on a backend.
    pub async fn check_each_async<K: RateLimitKeys>(&self, keys: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).start_each(&keys);
        drop(keys);
        started.finish_async().await
    }

    /// Takes permits as [`check_each`](Self::check_each) does, and blocks the thread until they are
    /// due.
    ///
    /// The call waits in the queue of the key that holds it back longest, as in
    /// [`wait`](Self::wait). When its turn comes, it takes that key's permits, then the rest
    /// together. If another limit denies, it gives the permits back and waits for that one. Each
    /// key is served first come, first served, and a call may hold one key's permits for a moment
    /// in vain. Through a backend, a call waits at most four times; then it is denied.
    ///
    /// # Errors
    /// If `cost` is above a limit. Through a backend, also if another limit denies after each of
    /// four waits, or if the backend fails and `on_backend_error` is `Deny`.
    pub fn wait_each<K: RateLimitKeys>(&self, keys: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).wait(Wait::Forever).start_each(&keys).finish()
    }

    /// As [`wait_each`](Self::wait_each), without blocking the thread.
    #[cfg(feature = "tokio")]
    pub async fn wait_each_async<K: RateLimitKeys>(&self, keys: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).wait(Wait::Forever).start_each(&keys);
        drop(keys);
        started.finish_async().await
    }

    /// As [`wait_each`](Self::wait_each), if the permits are due within `max`. Otherwise it denies
    /// at once and takes nothing. If another limit later turns out to deny for longer, it denies
    /// then.
    pub fn wait_each_at_most<K: RateLimitKeys>(
        &self,
        keys: K,
        cost: u32,
        max: Duration,
    ) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).wait(Wait::AtMost(nanos(max))).start_each(&keys).finish()
    }

    /// As [`wait_each_at_most`](Self::wait_each_at_most), without blocking the thread.
    #[cfg(feature = "tokio")]
    pub async fn wait_each_at_most_async<K: RateLimitKeys>(
        &self,
        keys: K,
        cost: u32,
        max: Duration,
    ) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).wait(Wait::AtMost(nanos(max))).start_each(&keys);
        drop(keys);
        started.finish_async().await
    }

    /// Returns what [`check_each`](Self::check_each) would return, and changes nothing. It looks at
    /// one key after the other, so other calls may come in between.
    pub fn peek_each<K: RateLimitKeys>(&self, keys: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        Call::new(self.core()).cost(cost).peek().start_each(&keys).finish()
    }

    /// As [`peek_each`](Self::peek_each), without blocking the thread on a backend.
    pub async fn peek_each_async<K: RateLimitKeys>(&self, keys: K, cost: u32) -> Result<Decision, RateLimitExceeded> {
        let started = Call::new(self.core()).in_future().cost(cost).peek().start_each(&keys);
        drop(keys);
        started.finish_async().await
    }

    /// Forgets everything on record for each of these keys. Does nothing if there are more or fewer
    /// keys than limits with keys of their own.
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails for one of the keys. Buckets in memory never fail.
    pub fn reset_each<K: RateLimitKeys>(&self, keys: K) -> Result<(), BackendError> {
        core::send(self.core().start_reset_each(&keys, false))
    }

    /// As [`reset_each`](Self::reset_each), without blocking the thread on a backend.
    pub async fn reset_each_async<K: RateLimitKeys>(&self, keys: K) -> Result<(), BackendError> {
        let resets = self.core().start_reset_each(&keys, true);
        drop(keys);
        core::send_async(resets).await
    }

    /// Gives back the permits of a decision, as far as they still count. A refund never lets the
    /// limit admit more than if the call had not been made.
    ///
    /// A decision of another limiter gives nothing back. Neither does a decision from before a
    /// [`reset`](Self::reset) of its key by this process, through any limiter of the same name. A
    /// reset of another key that shares the key's reset counter, 1 key in 64, has the same effect.
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails. Buckets in memory never fail.
    pub fn refund(&self, decision: Decision) -> Result<(), BackendError> {
        self.core().settle(decision, 0)
    }

    /// As [`refund`](Self::refund), without blocking the thread on a backend.
    pub async fn refund_async(&self, decision: Decision) -> Result<(), BackendError> {
        self.core().settle_async(decision, 0).await
    }

    /// Settles a call by the permits that it really took, once they are known. Examples are tokens
    /// of a language model, rows of a query, bytes of an upload.
    ///
    /// - If the call took less than its cost, the difference is given back, as by
    ///   [`refund`](Self::refund).
    /// - If it took more, the difference is charged now to each of the limits, as by
    ///   [`charge`](Self::charge). That holds even after a [`reset`](Self::reset) of its key, after
    ///   its permits have expired, and after its limits were replaced.
    /// - If it took its cost, nothing happens, and no backend is called.
    ///
    /// A decision of another limiter settles nothing. Neither does the decision of a
    /// [`peek`](Self::peek) or of a call that no limit decided.
    ///
    /// ```
    /// use ratelimit_runtime::{Limit, RateLimiter};
    ///
    /// static TOKENS: RateLimiter = RateLimiter::new("tokens", &[Limit::per_minute(1_000)]);
    /// let reserved = TOKENS.check("alice", 100)?;
    /// TOKENS.settle(reserved, 20)?;
    /// assert_eq!(TOKENS.peek("alice", 0)?.remaining(), 980);
    ///
    /// let reserved = TOKENS.check("alice", 100)?;
    /// TOKENS.settle(reserved, 1_200)?;
    /// assert!(TOKENS.check("alice", 1).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails: the cost of the call then stands. Buckets in memory
    /// never fail.
    pub fn settle(&self, decision: Decision, actual: u32) -> Result<(), BackendError> {
        self.core().settle(decision, actual)
    }

    /// As [`settle`](Self::settle), without blocking the thread on a backend.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub async fn settle_async(&self, decision: Decision, actual: u32) -> Result<(), BackendError> {
        self.core().settle_async(decision, actual).await
    }

    /// As [`settle`](Self::settle), without waiting for a backend: the request is sent, and its
    /// answer is ignored. If the backend fails, the cost of the call stands.
    pub fn settle_later(&self, decision: Decision, actual: u32) {
        self.core().settle_later(decision, actual);
    }

    /// Takes `cost` permits for `key`, whatever is left, and returns what is left then. For calls
    /// that have already happened and can no longer be denied.
    ///
    /// What does not fit is debt. Each limit is charged separately: what fits is charged now, the
    /// rest as soon as it fits. That is at `count` per `per`, or in a fixed window in the next
    /// windows, and at most 366 days ahead. Until the debt is paid, calls are denied with a
    /// `retry_after` behind it, [`remaining`](Decision::remaining) is 0, and waiting calls wait for
    /// it. A [`reset`](Self::reset) forgets it.
    ///
    /// A limiter called with a key for each limit has other buckets:
    /// [`charge_each`](Self::charge_each) charges them.
    ///
    /// A charge is no decision: it counts neither as allowed nor as denied, is no offence for
    /// `backoff`, and its [`Decision`] gives nothing back.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ratelimit_runtime::{Algorithm, Limit, RateLimiter};
    ///
    /// let limit = Limit::new(10, Duration::from_secs(1)).with_algorithm(Algorithm::TokenBucket);
    /// let limiter = RateLimiter::builder("rows").limit(limit).build()?;
    /// assert_eq!(limiter.charge("alice", 4)?.remaining(), 6);
    /// assert_eq!(limiter.charge("alice", 36)?.remaining(), 0);
    /// // 30 permits are owed, and one more is needed.
    /// let retry_after = limiter.check("alice", 1).unwrap_err().retry_after().unwrap();
    /// assert!(retry_after > Duration::from_secs(3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails. Buckets in memory never fail.
    pub fn charge<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, BackendError> {
        match self.core().start_charge(&key, cost, false) {
            Charging::Done(decision) => Ok(decision),
            Charging::Sending(sending) => {
                Ok(sending.send(self.core())?.unwrap_or_else(|| self.core().nothing_charged()))
            }
        }
    }

    /// As [`charge`](Self::charge), without blocking the thread on a backend.
    ///
    /// # Errors
    /// As [`charge`](Self::charge).
    pub async fn charge_async<K: RateLimitKey>(&self, key: K, cost: u32) -> Result<Decision, BackendError> {
        let charging = self.core().start_charge(&key, cost, true);
        drop(key);
        match charging {
            Charging::Done(decision) => Ok(decision),
            Charging::Sending(sending) => {
                Ok(sending.send_async(self.core()).await?.unwrap_or_else(|| self.core().nothing_charged()))
            }
        }
    }

    /// As [`charge`](Self::charge), for limits with keys of their own: `keys` are those of
    /// [`check_each`](Self::check_each). The decision is that of the limit with the fewest permits
    /// left.
    ///
    /// ```
    /// use ratelimit_runtime::{Limit, RateLimiter};
    ///
    /// // For each user, and in all.
    /// static TOKENS: RateLimiter = RateLimiter::new("tokens", &[Limit::per_minute(100), Limit::per_minute(5_000)]);
    /// let left = TOKENS.charge_each(("ann", ()), 120)?;
    /// assert_eq!((left.remaining(), left.limit_index()), (0, 0));
    /// assert!(TOKENS.check_each(("ann", ()), 1).is_err());
    /// assert_eq!(TOKENS.peek_each(("bob", ()), 0)?.remaining(), 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Nothing can deny a charge, so the keys are charged one after the other, in a backend by one
    /// request each.
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails for one of the keys; the others are charged all the
    /// same. If there are more or fewer keys than limits with keys of their own, its kind is
    /// [`Configuration`](crate::BackendErrorKind::Configuration) and no key is charged.
    pub fn charge_each<K: RateLimitKeys>(&self, keys: K, cost: u32) -> Result<Decision, BackendError> {
        self.core().start_charge_each(&keys, cost, false)?.finish(self.core())
    }

    /// As [`charge_each`](Self::charge_each), without blocking the thread on a backend.
    ///
    /// # Errors
    /// As [`charge_each`](Self::charge_each).
    pub async fn charge_each_async<K: RateLimitKeys>(&self, keys: K, cost: u32) -> Result<Decision, BackendError> {
        let charging = self.core().start_charge_each(&keys, cost, true);
        drop(keys);
        charging?.finish_async(self.core()).await
    }

    /// Forgets everything on record for `key`, including `backoff` and `ban`. A
    /// [block](Self::block) stays.
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails. Buckets in memory never fail.
    pub fn reset<K: RateLimitKey>(&self, key: K) -> Result<(), BackendError> {
        self.core().reset(&key)
    }

    /// As [`reset`](Self::reset), without blocking the thread on a backend.
    pub async fn reset_async<K: RateLimitKey>(&self, key: K) -> Result<(), BackendError> {
        let reset = self.core().start_reset(&key, true);
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
