//! The seam to where buckets are kept: an operation is data on its way in and data on its way out.

pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod shared;

use std::any::TypeId;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::algorithm::record::{Admission, Ask, Record, Refusal};
use crate::clock::{self, nanos};
use crate::error::BackendError;
use crate::fingerprint::Fingerprint;
use crate::limit::{Limit, MAX_LIMITS};
use smallvec::SmallVec;

pub use crate::algorithm::record::Permit;
pub use memory::{MemoryBackend, WhenFull};
pub(crate) use shared::{BackendKind, default_backend, made};
pub use shared::{DefaultBackendAlreadySet, IntoBackend, SharedBackend, set_default_backend};

/// A moment in nanoseconds since the Unix epoch, by the clock of whoever says it.
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

    /// The time from `earlier` to `self`; zero if it is not earlier.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What a backend is asked to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// Shared with what remembers where permits were taken.
    pub(crate) bucket: Arc<str>,
    pub(crate) limits: SmallVec<[Limit; 2]>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) action: Action,
    /// The time by a test's clock, where there is one.
    pub(crate) test_time: Option<Timestamp>,
    /// The bucket, where its denials may be kept.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Asked by a guard, which knows what to do where the backend can only block.
    pub(crate) by_guard: bool,
}

/// What to do with a bucket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Take `cost` permits now, or book them for the first moment at which they fit if that is at most `max_wait` away.
    Take {
        /// Permits to take, from every limit.
        cost: u32,
        /// The longest wait; zero to be admitted now or not at all.
        max_wait: Duration,
    },
    /// Say what `Take` would, and change nothing.
    Peek {
        /// Permits that would be taken.
        cost: u32,
        /// The longest wait.
        max_wait: Duration,
    },
    /// Give back permits that were taken or booked.
    GiveBack(Permit),
    /// Forget the bucket.
    Reset,
}

impl Request {
    /// A request by hand, as a limiter makes it: for testing a backend.
    ///
    /// The time is this process's.
    pub fn new(bucket: impl Into<Box<str>>, limits: &[Limit], action: Action) -> Request {
        Request {
            bucket: Arc::from(bucket.into()),
            limits: limits.into(),
            backoff: None,
            action,
            test_time: None,
            fingerprint: None,
            by_guard: false,
        }
    }

    /// The same request for a key that denials block.
    pub fn with_backoff(self, backoff: Backoff) -> Request {
        Request { backoff: Some(backoff), ..self }
    }

    /// The same request at a time that a test says.
    #[cfg(feature = "test-util")]
    pub fn at(self, time: Timestamp) -> Request {
        Request { test_time: Some(time), ..self }
    }

    /// The bucket's name: unique for limiter, limits and key, and the same in every process. Text without control
    /// characters, as long as the key makes it; between `{` and `}` stands what a Redis Cluster hashes.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The limits of the call, 1 to 8, decided together.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// How denials of the bucket's key block it, if they do.
    pub fn backoff(&self) -> Option<Backoff> {
        self.backoff
    }

    /// What to do.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// The time by this process's clock (in a test, the test's). A store with a clock of its own that all processes share
    /// should go by that.
    pub fn now(&self) -> Timestamp {
        self.test_time.unwrap_or_else(|| Timestamp(clock::now()))
    }
}

/// What a backend answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it was decided, by the backend's clock.
    pub now: Timestamp,
    /// What was decided.
    pub outcome: Outcome,
}

/// What was decided.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The permits are taken, from the time that they are booked for.
    Admitted(Admitted),
    /// Nothing is taken.
    Denied(Denied),
    /// Given back, or reset.
    Done,
}

/// Permits taken or booked.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub(crate) admission: Admission,
}

/// A call that is not admitted.
#[derive(Clone, Copy, Debug)]
pub struct Denied {
    pub(crate) refusal: Refusal,
}

impl Admitted {
    /// When the permits are taken: now, or later where they are booked.
    pub fn at(&self) -> Timestamp {
        Timestamp(self.admission.permit.at)
    }

    /// Permits left in the limit that has the fewest.
    pub fn remaining(&self) -> u32 {
        self.admission.remaining
    }

    /// The position of that limit.
    pub fn limit_index(&self) -> usize {
        self.admission.limit
    }

    /// What gives the permits back, by [`Action::GiveBack`].
    pub fn permit(&self) -> &Permit {
        &self.admission.permit
    }
}

impl Denied {
    /// When the same call would be admitted if nobody else called; `None` if never.
    pub fn admitted_at(&self) -> Option<Timestamp> {
        self.refusal.admitted_at.map(Timestamp)
    }

    /// Permits left in the limit that denies.
    pub fn remaining(&self) -> u32 {
        self.refusal.remaining
    }

    /// The position of the limit that denies.
    pub fn limit_index(&self) -> usize {
        self.refusal.limit
    }
}

/// A future that a backend returns.
pub type BackendFuture<'a> = Pin<Box<dyn Future<Output = Result<Answer, BackendError>> + Send + 'a>>;

/// How long a decision of a backend may take, and who sees to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deadline {
    /// The limiters see to it: a decision that takes longer fails with [`BackendErrorKind::Timeout`]. A blocking one is made
    /// on a helper thread, of which a backend has 32 at the most, and costs about 15 µs more; an asynchronous one is bounded
    /// by a timer, for about a microsecond. What came too late may have been charged. A decision that never returns keeps its
    /// thread; with all of them kept, only probes are still begun, on 16 more.
    ///
    /// [`BackendErrorKind::Timeout`]: crate::BackendErrorKind::Timeout
    Imposed(Duration),
    /// The backend itself: each of its methods returns in good time, whatever its store does. Decisions are made where they
    /// are asked for and cost nothing more; one that hangs hangs its caller.
    Kept,
}

/// A store of buckets.
///
/// All of a [`Request`] is decided in one step that no other decision on the same bucket interleaves with. [`Bucket`] does
/// the arithmetic: a store that can read and write bytes under a lock, or compare and swap them, needs no more:
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
///     // It cannot hang, so nobody has to see to it that it does not. Left out, a decision has 100 ms.
///     fn deadline(&self) -> Deadline {
///         Deadline::Kept
///     }
/// }
/// ```
///
/// # On its bad days
/// No limiter waits for a backend longer than its [deadline](Backend::deadline). After five failures in a row, of whatever
/// kind, nobody waits for it at all: a circuit breaker opens, and calls go by their limiter's
/// [`OnBackendError`](crate::OnBackendError) at once. After 50 ms one call tries the backend, and if that fails another one
/// after twice the time, up to half a second, while all others go on without. The first success closes the breaker: limits
/// are kept again within two seconds of a recovery. Refunds and resets have the same deadline, and fail at once while the
/// breaker is open. A call that is given up before the deadline counts as neither success nor failure.
///
/// All limiters that use one backend share its breaker: hand them an `Arc` or a `&'static` of it, clones of one
/// [`SharedBackend`], or set it as the [default](set_default_backend). Each value that is handed over by itself is a backend
/// of its own.
pub trait Backend: Send + Sync + 'static {
    /// Carries out one request, and blocks the thread for it: where the [deadline](Backend::deadline) is kept, the calling
    /// one; where it is imposed, a helper, outside of any async runtime.
    fn decide(&self, request: &Request) -> Result<Answer, BackendError>;

    /// As [`decide`](Backend::decide), without blocking the thread. Dropping the future gives the decision up; what was taken
    /// by then should be given back.
    ///
    /// Without an implementation it is `decide`, and where the deadline is imposed that is called on a helper thread, while
    /// the task waits (its first 10 ms on its thread, as long as answers come within that).
    fn decide_async<'a>(&'a self, request: &'a Request) -> BackendFuture<'a> {
        if request.by_guard {
            return Box::pin(ready(Err(BackendError::to_be_blocked_for())));
        }
        Box::pin(ready(self.decide(request)))
    }

    /// Carries out a request whose answer nobody waits for: permits given back where a future was dropped. Called on a helper
    /// thread where the [deadline](Backend::deadline) is imposed, else on threads that should not be blocked; without an
    /// implementation it calls `decide`.
    fn decide_later(&self, request: Request) {
        // A permit that cannot be given back stays taken: the guarantee holds.
        let _ = self.decide(&request);
    }

    /// How long a decision may take: 100 ms, imposed, unless it says otherwise. Asked once.
    fn deadline(&self) -> Deadline {
        Deadline::Imposed(TIMEOUT)
    }

    /// Whether a call that was denied is denied again, until it would be admitted, without asking the backend: no, unless it
    /// says so. Asked once.
    ///
    /// A key that is denied then costs the backend one decision a second. A refund or a reset through this process ends it at
    /// once, one through another is seen within a second. Of a key that `backoff` bans for the longest time there is, what a
    /// call is told is exact, and to other processes the ban may end a second earlier. Calls for more than one permit and
    /// calls that may wait always ask, and so do limiters with `deduct_when`, and with a `count` or `per` read at each call.
    /// 8,192 denials are kept at the most, in half a megabyte.
    fn keeps_denials(&self) -> bool {
        false
    }

    /// What kind of store it is, as in `redis`: for logs and metrics.
    fn kind(&self) -> &'static str {
        "custom"
    }

    /// The server that holds the buckets, if several handles may lead to it.
    #[doc(hidden)]
    fn server(&self) -> Option<String> {
        None
    }

    /// By what two handles are known to lead to one store.
    #[doc(hidden)]
    fn identity(&self) -> Identity {
        Identity { of: TypeId::of::<Self>(), address: std::ptr::from_ref(self).cast::<()>().addr() }
    }
}

/// The longest that a decision takes unless a backend says otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(100);

/// See [`Backend::identity`].
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// What stands at the address: a value and its first field have the same one.
    pub(crate) of: TypeId,
    pub(crate) address: usize,
}

impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        (**self).decide(request)
    }

    fn decide_async<'a>(&'a self, request: &'a Request) -> BackendFuture<'a> {
        (**self).decide_async(request)
    }

    fn decide_later(&self, request: Request) {
        (**self).decide_later(request);
    }

    fn deadline(&self) -> Deadline {
        (**self).deadline()
    }

    fn keeps_denials(&self) -> bool {
        (**self).keeps_denials()
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

impl<B: Backend + ?Sized> Backend for &'static B {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        (**self).decide(request)
    }

    fn decide_async<'a>(&'a self, request: &'a Request) -> BackendFuture<'a> {
        (**self).decide_async(request)
    }

    fn decide_later(&self, request: Request) {
        (**self).decide_later(request);
    }

    fn deadline(&self) -> Deadline {
        (**self).deadline()
    }

    fn keeps_denials(&self) -> bool {
        (**self).keeps_denials()
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

/// The state of one bucket, for a store that keeps bytes.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    record: Record,
}

impl Bucket {
    /// Reads what [`to_bytes`](Bucket::to_bytes) wrote; no bytes are a bucket that nobody has used.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bucket, BackendError> {
        Ok(Bucket { record: Record::decode(bytes)? })
    }

    /// The state as bytes: at most about 2 KiB a sliding window, 50 for the other algorithms.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.record.encode()
    }

    /// Carries out `request` at `now`.
    pub fn apply(&mut self, request: &Request, now: Timestamp) -> Answer {
        let rules: SmallVec<[Rule; MAX_LIMITS]> = request.limits.iter().map(|limit| Rule::new(*limit)).collect();
        let backoff = request.backoff.as_ref();
        let ask = |cost, max_wait| Ask { rules: &rules, backoff, cost, max_wait: nanos(max_wait) };
        let decided = match &request.action {
            Action::Take { cost, max_wait } => self.record.take(&ask(*cost, *max_wait), now.0),
            Action::Peek { cost, max_wait } => self.record.peek(&ask(*cost, *max_wait), now.0),
            Action::GiveBack(permit) => {
                self.record.give_back(&rules, backoff, now.0, permit);
                return Answer { now, outcome: Outcome::Done };
            }
            Action::Reset => {
                self.record = Record::default();
                return Answer { now, outcome: Outcome::Done };
            }
        };
        let outcome = match decided {
            Ok(admission) => Outcome::Admitted(Admitted { admission }),
            Err(refusal) => Outcome::Denied(Denied { refusal }),
        };
        Answer { now, outcome }
    }

    /// When the bucket is as if nobody had used it, and may be forgotten.
    pub fn expires_at(&self, request: &Request) -> Timestamp {
        let rules: SmallVec<[Rule; MAX_LIMITS]> = request.limits.iter().map(|limit| Rule::new(*limit)).collect();
        Timestamp(self.record.fresh_at(&rules, request.backoff.as_ref()))
    }
}
