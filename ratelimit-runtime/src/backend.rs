//! The backend interface: a request goes in and an answer comes out, both plain data.

#[cfg(feature = "_transport")]
pub(crate) mod coalesce;
#[cfg(feature = "memcached")]
pub(crate) mod memcached;
pub(crate) mod memory;
#[cfg(feature = "store")]
mod name;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(any(feature = "memcached", feature = "postgres"))]
pub(crate) mod remote;
mod shared;
mod together;

use std::any::TypeId;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::algorithm::offences::Backoff;
use crate::algorithm::record::{Admission, Ask, Record, Refusal};
use crate::algorithm::{Rule, codec};
use crate::error::BackendError;
use crate::fingerprint::Fingerprint;
use crate::limit::Limit;
use crate::rt::clock::{self, nanos};
use smallvec::SmallVec;

pub use crate::algorithm::record::Permit;
pub use memory::{Kept, MemoryBackend, Restored, Snapshot, SnapshotError, WhenFull};
pub(crate) use shared::{BackendKind, default_backend, made};
pub use shared::{DefaultBackendAlreadySet, IntoBackend, SharedBackend, set_default_backend};
pub(crate) use together::given_back;
#[cfg(feature = "redis")]
pub(crate) use together::in_order;

/// The backends of the process's environment, by the names of their features.
#[doc(hidden)]
pub mod environments {
    #[cfg(feature = "memcached")]
    pub use super::memcached::environment as memcached;
    #[cfg(feature = "postgres")]
    pub use super::postgres::environment as postgres;
    #[cfg(feature = "redis")]
    pub use super::redis::environment as redis;
}

/// A moment in nanoseconds since the Unix epoch, by the clock that reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// `nanos` nanoseconds after the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Timestamp {
        Timestamp(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero if `earlier` is not earlier.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One operation on one bucket: the input of [`Backend::decide`].
#[derive(Clone, Debug)]
pub struct Request {
    /// Shared with the record of where permits were taken.
    pub(crate) bucket: Arc<str>,
    pub(crate) limits: SmallVec<[Limit; 2]>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) action: Action,
    /// The time by a test's clock, if there is one.
    pub(crate) test_time: Option<Timestamp>,
    /// The key of the denial cache, if the bucket's denials may be cached.
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// What to do with a bucket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Takes `cost` permits now, or books them for the first moment at which they fit, if that is
    /// at most `max_wait` away.
    Take {
        /// Permits to take from every limit.
        cost: u32,
        /// The longest wait. Zero admits now or denies.
        max_wait: Duration,
    },
    /// Reports what `Take` would do, and changes nothing.
    Peek {
        /// Permits that would be taken.
        cost: u32,
        /// The longest wait.
        max_wait: Duration,
    },
    /// Takes `cost` permits from every limit, whatever is left. Each limit is charged separately:
    /// what fits is charged now, the rest as soon as it fits, at most 366 days ahead.
    ///
    /// Until the last of these charges, nothing is admitted and no permits are left. The answer is
    /// [`Outcome::Admitted`], with a permit of cost 0.
    Charge {
        /// Permits to take from every limit.
        cost: u32,
    },
    /// Gives back permits that were taken or booked.
    GiveBack(Permit),
    /// Forgets the bucket, except for a block.
    Reset,
    /// Blocks the bucket's key: every call is denied for this long from now on, also at cost 0. A
    /// block that ends later stands.
    Block {
        /// At most 366 days.
        time: Duration,
    },
    /// Ends a block.
    Unblock,
    /// Reports a block, and changes nothing.
    Blocked,
}

/// Room for the rules of most requests; others allocate.
type Rules = SmallVec<[Rule; 2]>;

impl Request {
    fn rules(&self) -> Rules {
        self.limits.iter().map(|limit| Rule::new(*limit)).collect()
    }

    /// Builds a request as a limiter would, at this process's time. For testing a backend.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ratelimit_runtime::Limit;
    /// use ratelimit_runtime::backend::{Action, Bucket, Outcome, Request};
    ///
    /// let take = Action::Take { cost: 1, max_wait: Duration::ZERO };
    /// let request = Request::new("api:alice", &[Limit::per_minute(1)], take);
    /// let mut bucket = Bucket::default();
    /// assert!(matches!(bucket.apply(&request, request.now()).outcome, Outcome::Admitted(_)));
    /// assert!(matches!(bucket.apply(&request, request.now()).outcome, Outcome::Denied(_)));
    /// ```
    pub fn new(bucket: impl Into<Box<str>>, limits: &[Limit], action: Action) -> Request {
        Request {
            bucket: Arc::from(bucket.into()),
            limits: limits.into(),
            backoff: None,
            action,
            test_time: None,
            fingerprint: None,
        }
    }

    /// The same request, with a backoff: denials block the key.
    pub fn with_backoff(self, backoff: Backoff) -> Request {
        Request { backoff: Some(backoff), ..self }
    }

    /// The same request at a test's time.
    #[cfg(feature = "test-util")]
    pub fn at(self, time: Timestamp) -> Request {
        Request { test_time: Some(time), ..self }
    }

    /// The bucket's name: unique for the limiter, its limits and the key, and the same in every
    /// process.
    ///
    /// Text without control characters, of any length. A Redis Cluster hashes the part between `{`
    /// and `}`.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The call's limits, 1 to 8, decided together.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// How denials block the bucket's key, if they do.
    pub fn backoff(&self) -> Option<Backoff> {
        self.backoff
    }

    /// The operation.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// The time by this process's clock, or by the test's clock in a test. A store with a clock
    /// that all processes share should use that instead.
    pub fn now(&self) -> Timestamp {
        self.test_time.unwrap_or_else(|| Timestamp(clock::now()))
    }
}

/// A backend's answer to a [`Request`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// The time of the decision, by the backend's clock.
    pub now: Timestamp,
    /// The decision.
    pub outcome: Outcome,
}

/// The decision on a [`Request`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The permits are taken, or booked for a later time.
    Admitted(Admitted),
    /// Nothing was taken.
    Denied(Denied),
    /// Permits were given back, or the bucket was reset.
    Done,
    /// When the block of the key ends; `None` if it is not blocked. The answer to
    /// [`Action::Block`], [`Action::Unblock`] and [`Action::Blocked`].
    Blocked {
        /// By the backend's clock.
        until: Option<Timestamp>,
    },
}

/// Permits taken or booked.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub(crate) admission: Admission,
}

/// A denied call.
#[derive(Clone, Copy, Debug)]
pub struct Denied {
    pub(crate) refusal: Refusal,
}

impl Admitted {
    /// When the permits are taken: now, or later if they are booked.
    pub fn at(&self) -> Timestamp {
        Timestamp(self.admission.permit.at)
    }

    /// Permits left in the limit that has the fewest.
    pub fn remaining(&self) -> u32 {
        self.admission.remaining
    }

    /// The position of that limit, from 0.
    pub fn limit_index(&self) -> usize {
        self.admission.limit
    }

    /// The permits, to be given back by [`Action::GiveBack`].
    pub fn permit(&self) -> &Permit {
        &self.admission.permit
    }
}

impl Denied {
    /// When the same call would be admitted if no other call came; `None` if it never would.
    pub fn admitted_at(&self) -> Option<Timestamp> {
        self.refusal.admitted_at.map(Timestamp)
    }

    /// Permits left in the limit that denies.
    pub fn remaining(&self) -> u32 {
        self.refusal.remaining
    }

    /// The position of that limit, from 0.
    pub fn limit_index(&self) -> usize {
        self.refusal.limit
    }

    /// Whether the key is blocked or banned, whatever its limits have left.
    pub fn is_blocked(&self) -> bool {
        self.refusal.is_blocked
    }
}

/// The future of an asynchronous decision.
pub type BackendFuture<'a, T = Answer> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// How long a backend's decision may take, and who enforces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deadline {
    /// The limiters enforce it: a longer decision fails with [`BackendErrorKind::Timeout`], and may
    /// still be charged.
    ///
    /// A blocking decision runs on a helper thread, of which a backend has at most 32. That costs
    /// about 15 µs more. An asynchronous decision is bounded by a timer, for about 1 µs more. A
    /// decision that never returns occupies its thread. Once all threads are occupied, only probes
    /// still start, on 16 more.
    ///
    /// [`BackendErrorKind::Timeout`]: crate::BackendErrorKind::Timeout
    Imposed(Duration),
    /// The backend enforces it: each of its methods returns in good time, whatever its store does.
    /// Decisions run on the calling thread at no extra cost; one that hangs hangs its caller.
    Kept,
}

/// A store of buckets.
///
/// Implementations decide a whole [`Request`] in one step, atomically with respect to other
/// decisions on the same bucket. [`Bucket`] does the arithmetic. A store only needs to read and
/// write bytes under a lock, or to compare and swap them:
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
/// use ratelimit_runtime::backend::{Answer, Backend, Bucket, Deadline, Request};
/// use ratelimit_runtime::BackendError;
///
/// #[derive(Default)]
/// struct Shelf(Mutex<HashMap<String, Vec<u8>>>);
///
/// impl Backend for Shelf {
///     fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
///         let mut shelf = self.0.lock().unwrap();
///         let bytes = shelf.get(request.bucket()).map(Vec::as_slice).unwrap_or_default();
///         let mut bucket = Bucket::from_bytes(bytes)?;
///         let answer = bucket.apply(request, request.now());
///         shelf.insert(request.bucket().to_owned(), bucket.to_bytes());
///         Ok(answer)
///     }
///
///     // It cannot hang, so no deadline has to be imposed. The default is 100 ms.
///     fn deadline(&self) -> Deadline {
///         Deadline::Kept
///     }
/// }
/// ```
///
/// # Failures
/// No limiter waits for a backend longer than its [deadline](Backend::deadline). Five consecutive
/// failures of any kind open a circuit breaker. From then on, calls follow their limiter's
/// [`OnBackendError`](crate::OnBackendError) at once.
///
/// The first probe runs after 50 ms: one call tries the backend while all others go on without it.
/// After each failed probe the interval doubles, up to 500 ms. The first success closes the
/// breaker, so limits are enforced again within two seconds of a recovery. Refunds and resets have
/// the same deadline, and fail at once while the breaker is open. A call abandoned before the
/// deadline counts as neither success nor failure.
///
/// All limiters on one backend share its breaker. To share a backend, pass an `Arc` or a `&'static`
/// of it or clones of one [`SharedBackend`], or set it as the [default](set_default_backend). Each
/// value passed by itself is a backend of its own.
pub trait Backend: Send + Sync + 'static {
    /// Carries out one request and blocks the thread meanwhile.
    ///
    /// With a [kept deadline](Deadline::Kept) that is the calling thread; with an imposed one, a
    /// helper thread outside any async runtime.
    ///
    /// # Errors
    /// If the store cannot decide. The limiter's [`OnBackendError`](crate::OnBackendError) then
    /// applies.
    fn decide(&self, request: &Request) -> Result<Answer, BackendError>;

    /// Carries out one request without blocking the thread.
    ///
    /// Dropping the future abandons the decision. Implementations should give back what was taken
    /// by then.
    ///
    /// `None`, the default, means that the store can only block: limiters call
    /// [`decide`](Backend::decide). With an imposed deadline, that runs on a helper thread while
    /// the task waits. The first 10 ms of the wait block the task's thread, as long as answers come
    /// that fast.
    fn decide_async<'a>(&'a self, request: &'a Request) -> Option<BackendFuture<'a>> {
        let _ = request;
        None
    }

    /// Carries out `Take` requests for the buckets of one call, with different keys: all are
    /// charged, or none is. The answers come in the order of the requests. If any of them is a
    /// denial, nothing is charged, and the other answers are those of a peek.
    ///
    /// The default implementation is for stores without atomicity over several keys. It calls
    /// [`decide`](Backend::decide) for one bucket after the other. If one denies, it gives back
    /// what it has taken so far and peeks at the rest. With a `backoff` it takes from the rest and
    /// gives back, so each limit that denies counts the denial. No limit is ever exceeded, but the
    /// permits held meanwhile may deny another call. If the process dies in between, they stay
    /// taken until they expire.
    ///
    /// # Errors
    /// If the store cannot decide on one of the buckets. The permits taken from the others are then
    /// given back.
    fn decide_together(&self, requests: &[Request]) -> Result<Vec<Answer>, BackendError> {
        together::in_order(self, requests)
    }

    /// [`decide_together`](Backend::decide_together) without blocking the thread.
    ///
    /// Dropping the future abandons the decision. Implementations should give back what was taken
    /// by then. `None` means that the store can only block. The default implementation calls
    /// [`decide_async`](Backend::decide_async) for one bucket after the other.
    fn decide_together_async<'a>(&'a self, requests: &'a [Request]) -> Option<BackendFuture<'a, Vec<Answer>>> {
        // Never polled: only asks whether the store can only block.
        drop(self.decide_async(requests.first()?)?);
        Some(Box::pin(together::in_order_async(self, requests)))
    }

    /// Carries out a request whose answer is ignored. Examples: a refund after a future was
    /// dropped, a charge that is settled later, a block of a key before a limiter's first call.
    ///
    /// Runs on a helper thread if the [deadline](Backend::deadline) is imposed, else on threads
    /// that should not be blocked. The default implementation calls [`decide`](Backend::decide).
    fn decide_later(&self, request: Request) {
        // A permit that cannot be given back stays taken: the limit is kept.
        let _ = self.decide(&request);
    }

    /// How long a decision may take. The default is 100 ms, imposed. Read once.
    fn deadline(&self) -> Deadline {
        Deadline::Imposed(TIMEOUT)
    }

    /// Whether a denied call is denied again without asking the backend, until it would be admitted
    /// (a denial cache). The default is no. Read once.
    ///
    /// A denied key then costs the backend one decision a second.
    /// - A refund or a reset through this process takes effect at once, one through another process
    ///   within a second.
    /// - For a key that `backoff` blocks for its longest time, `retry_after` is exact. Other
    ///   processes may see the block end up to a second early.
    /// - The denial of a call with several keys is cached for the key that denied, whatever the other
    ///   keys of the next call. Its `retry_after` is that key's.
    /// - Some calls always go to the backend: those for more than one permit and those that may
    ///   wait. So do those whose `count` or `per` is read at each call, and those of limiters with
    ///   `deduct_when`, `settle` or `permit`, or with a `ban` shorter than a period.
    ///
    /// The cache holds at most 8,192 denials, in half a megabyte.
    fn denial_cache(&self) -> bool {
        false
    }

    /// The most keys for which calls of this process may wait at the same time. 0 counts as 1. A
    /// call that would wait for one more is denied at once.
    ///
    /// Each such key takes about 1 KiB in this process and at least one request a second. The
    /// default is 500,000, half of the keys that the [stand-in](crate::OnBackendError::Local) in
    /// memory keeps: there too, keys with waiting calls get half of the room.
    fn max_waited_keys(&self) -> usize {
        MAX_WAITED_KEYS
    }

    /// The kind of store, such as `redis`, for logs and metrics.
    fn kind(&self) -> &'static str {
        "custom"
    }

    /// The server that holds the buckets, such as `db.local:5432/limits`, if several handles may
    /// lead to it. These handles share a denial cache. Never contains a password. The default is
    /// none.
    fn server(&self) -> Option<String> {
        None
    }

    /// Identifies the store. Handles of one identity share a circuit breaker and the queues of
    /// waiting calls.
    ///
    /// The default is the handle's own address. A handle that is cloned should name what its clones
    /// share, and keep it alive:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use ratelimit_runtime::backend::Identity;
    ///
    /// let (one, two) = (Arc::new("a store"), Arc::new("a store"));
    /// assert_eq!(Identity::of(&*one), Identity::of(&*one.clone()));
    /// assert_ne!(Identity::of(&*one), Identity::of(&*two));
    /// ```
    fn identity(&self) -> Identity {
        Identity::of(self)
    }
}

/// The default of [`Backend::max_waited_keys`].
pub(crate) const MAX_WAITED_KEYS: usize = 500_000;

/// The longest decision, unless a backend sets its own deadline.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(100);

/// Which store a handle leads to, for as long as the store lives. See [`Backend::identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The type at the address: a value and its first field share an address.
    of: TypeId,
    address: usize,
}

impl Identity {
    /// The store whose state is `shared`.
    pub fn of<T: ?Sized + 'static>(shared: &T) -> Identity {
        Identity { of: TypeId::of::<T>(), address: std::ptr::from_ref(shared).cast::<()>().addr() }
    }
}

/// A handle decides as what it leads to.
macro_rules! decides_as_its_target {
    ($($handle:ty),*) => {
        $(
            impl<B: Backend + ?Sized> Backend for $handle {
                fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
                    (**self).decide(request)
                }

                fn decide_async<'a>(&'a self, request: &'a Request) -> Option<BackendFuture<'a>> {
                    (**self).decide_async(request)
                }

                fn decide_together(&self, requests: &[Request]) -> Result<Vec<Answer>, BackendError> {
                    (**self).decide_together(requests)
                }

                fn decide_together_async<'a>(&'a self, requests: &'a [Request]) -> Option<BackendFuture<'a, Vec<Answer>>> {
                    (**self).decide_together_async(requests)
                }

                fn decide_later(&self, request: Request) {
                    (**self).decide_later(request);
                }

                fn deadline(&self) -> Deadline {
                    (**self).deadline()
                }

                fn denial_cache(&self) -> bool {
                    (**self).denial_cache()
                }

                fn max_waited_keys(&self) -> usize {
                    (**self).max_waited_keys()
                }

                fn kind(&self) -> &'static str {
                    (**self).kind()
                }

                fn server(&self) -> Option<String> {
                    (**self).server()
                }

                fn identity(&self) -> Identity {
                    (**self).identity()
                }
            }
        )*
    };
}

decides_as_its_target!(Arc<B>, &'static B);

/// The state of one bucket, for a store that keeps bytes. See [`Backend`] for an example.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    record: Record,
}

impl Bucket {
    /// Reads what [`to_bytes`](Bucket::to_bytes) wrote. An empty slice is an unused bucket.
    ///
    /// # Errors
    /// [`BackendErrorKind::Refused`](crate::BackendErrorKind::Refused) if the bytes are malformed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bucket, BackendError> {
        let record = Record::decode(bytes)?;
        if record.is_in_order() { Ok(Bucket { record }) } else { Err(codec::no_bucket()) }
    }

    /// The state as bytes: at most about 2 KiB for a sliding window, 50 bytes for the other
    /// algorithms.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.record.encode()
    }

    /// Carries out `request` at `now`.
    pub fn apply(&mut self, request: &Request, now: Timestamp) -> Answer {
        self.apply_by(&request.rules(), request, now)
    }

    /// [`apply`](Bucket::apply) by the request's rules.
    fn apply_by(&mut self, rules: &[Rule], request: &Request, now: Timestamp) -> Answer {
        let backoff = request.backoff.as_ref();
        let ask = |cost, max_wait| Ask { rules, backoff, cost, max_wait: nanos(max_wait) };
        let decided = match &request.action {
            Action::Take { cost, max_wait } => self.record.take(&ask(*cost, *max_wait), now.0),
            Action::Peek { cost, max_wait } => self.record.peek(&ask(*cost, *max_wait), now.0),
            Action::Charge { cost } => Ok(self.record.charge_all(rules, backoff, *cost, now.0)),
            Action::GiveBack(permit) => {
                self.record.give_back(rules, backoff, now.0, permit);
                return Answer { now, outcome: Outcome::Done };
            }
            Action::Reset => {
                self.record.reset(now.0);
                return Answer { now, outcome: Outcome::Done };
            }
            Action::Block { time } => {
                self.record.block(now.0, nanos(*time));
                return self.blocked(now);
            }
            Action::Unblock => {
                self.record.unblock(now.0);
                return self.blocked(now);
            }
            Action::Blocked => return self.blocked(now),
        };
        let outcome = match decided {
            Ok(admission) => Outcome::Admitted(Admitted { admission }),
            Err(refusal) => Outcome::Denied(Denied { refusal }),
        };
        Answer { now, outcome }
    }

    fn blocked(&self, now: Timestamp) -> Answer {
        let until = self.record.blocked_until(now.0).map(Timestamp);
        Answer { now, outcome: Outcome::Blocked { until } }
    }

    /// When the bucket is idle again and may be forgotten.
    pub fn expires_at(&self, request: &Request) -> Timestamp {
        self.expires_by(&request.rules(), request)
    }

    /// [`expires_at`](Bucket::expires_at) by the request's rules.
    fn expires_by(&self, rules: &[Rule], request: &Request) -> Timestamp {
        Timestamp(self.record.fresh_at(rules, request.backoff.as_ref()))
    }
}
