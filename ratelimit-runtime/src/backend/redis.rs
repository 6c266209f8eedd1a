//! Buckets in a Redis or Valkey server, shared by all processes that use it.

mod coalesce;
mod codec;
mod config;
mod connection;
mod key;
mod script;

use std::any::TypeId;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::{
    Action, Answer, Backend, BackendFuture, Deadline, Identity, IntoBackend, Outcome, Request, SharedBackend, TIMEOUT,
};
use crate::background;
use crate::error::{BackendError, BackendErrorKind};
use crate::reply;
use coalesce::{Coalescing, Entry};
use config::invalid;
use connection::Connection;

/// Buckets in a Redis (6.2 or later) or Valkey server, shared by all processes that use it.
///
/// One decision is one round trip: one call of a script that decides on all limits at once, by the server's clock. Every
/// key has an expiry: it is gone when its bucket is as if nobody had used it.
///
/// A cheap handle; clones share one connection, which is made at the first decision and made again when it is lost. A
/// decision takes at most the timeout (100 ms, connecting included), however the server behaves; then it is a
/// [`BackendError`], and the limiter's [`OnBackendError`](crate::OnBackendError) says what becomes of the call. A decision
/// that timed out may have been charged all the same. While the server fails it is asked by few, and a key that is denied is
/// asked for once: see [`Backend`], and [`denial_cache`](RedisBackendBuilder::denial_cache).
///
/// All input and output is done by one background thread. A blocking decision parks its thread, inside an async runtime
/// too, where it keeps a worker from other tasks for a round trip; an asynchronous one works on any executor.
///
/// ```no_run
/// use std::time::Duration;
/// use ratelimit_runtime::{Limit, RateLimiter, RedisBackend};
///
/// let limiter = RateLimiter::builder("search")
///     .limit(Limit::new(100, Duration::from_secs(1)))
///     .backend(RedisBackend::new("redis://127.0.0.1:6379/0")?)
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Server
/// Keys begin with `rl:1:`; what stands between braces is limiter and key. A user with few rights needs
/// `+evalsha +script|load +time +get +set +setrange +del ~rl:*`, and `+select` for a database other than 0. With `maxmemory` use the
/// policy `noeviction`, under which a full server is a backend that fails; any other may drop buckets that are in use. Use
/// a server whose clock is kept by NTP: one that jumps back is compensated to within a second, and a jump forwards counts
/// as time that has passed.
#[derive(Clone)]
pub struct RedisBackend {
    connection: Arc<Connection>,
    timeout: Duration,
    denial_cache: bool,
    /// None where it is switched off.
    coalescing: Option<Arc<Coalescing>>,
}

impl RedisBackend {
    /// The server of a URL: `redis://user:password@host:port/database`, where all but the host may be left out, or
    /// `unix:///path/to/socket?db=0&user=..&pass=..`. Does not connect yet; an error if the URL is wrong.
    pub fn new(url: &str) -> Result<RedisBackend, BackendError> {
        RedisBackend::builder().url(url).build()
    }

    /// The server that the environment names: by `REDIS_URL`, else by `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB`,
    /// `REDIS_USERNAME` and `REDIS_PASSWORD`, else the one on this machine. Does not connect yet; an error if a variable
    /// is wrong.
    pub fn from_env() -> Result<RedisBackend, BackendError> {
        RedisBackend::builder().build()
    }

    /// For settings other than the server.
    pub fn builder() -> RedisBackendBuilder {
        RedisBackendBuilder { url: None, timeout: TIMEOUT, denial_cache: true, coalescing: true }
    }

    /// Sends a request; the answer arrives at the receiver, as `deliver` makes it.
    fn send<T: Send + 'static>(
        &self,
        bucket: &str,
        request: &[u8],
        deadline: Instant,
        deliver: impl FnOnce(Result<Vec<u8>, BackendError>) -> T + Send + 'static,
    ) -> Result<reply::Receiver<T>, BackendError> {
        let background = background::handle().map_err(|error| {
            BackendError::new(BackendErrorKind::Unreachable, format!("no background thread can be started: {error}"))
        })?;
        let command = script::call(&key::name(bucket), request);
        let connection = Arc::clone(&self.connection);
        let (sender, receiver) = reply::channel();
        background.spawn(async move {
            sender.send(deliver(connection.call(&command, deadline).await));
        });
        Ok(receiver)
    }

    /// Sends a request as bytes and waits for the bytes of the answer, at most until the deadline.
    async fn exchange(&self, bucket: &str, request: &[u8], deadline: Instant) -> Result<Vec<u8>, BackendError> {
        let answer = self.send(bucket, request, deadline, |answer| answer)?.await;
        answer.unwrap_or_else(|| Err(self.late()))
    }

    fn until(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn late(&self) -> BackendError {
        let message = format!("Redis at {} did not answer within {:?}", self.connection, self.timeout);
        BackendError::new(BackendErrorKind::Timeout, message)
    }
}

impl Backend for RedisBackend {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        let deadline = self.until();
        let answer = self.send(request.bucket(), &codec::encode(request), deadline, |answer| answer)?.wait(deadline);
        codec::decode(&answer.unwrap_or_else(|| Err(self.late()))?, request)
    }

    fn decide_async<'a>(&'a self, request: &'a Request) -> BackendFuture<'a> {
        Box::pin(async move {
            let deadline = self.until();
            let _alone = match self.coalescing.as_ref().and_then(|coalescing| coalescing.enter(self, request, deadline)) {
                Some(Entry::Seated(seated)) => return seated.await,
                Some(Entry::Alone(alone)) => Some(alone),
                None => None,
            };
            let undelivered = Undelivered::of(self, request);
            let deliver = |answer| Delivery { answer: Some(answer), undelivered };
            let answer = self.send(request.bucket(), &codec::encode(request), deadline, deliver)?;
            let answer = answer.await.and_then(Delivery::take);
            codec::decode(&answer.unwrap_or_else(|| Err(self.late()))?, request)
        })
    }

    fn decide_later(&self, request: Request) {
        // What is given back too late or never stays taken: the limit is kept.
        drop(self.send(request.bucket(), &codec::encode(&request), self.until(), |_| ()));
    }

    fn deadline(&self) -> Deadline {
        Deadline::Kept
    }

    fn keeps_denials(&self) -> bool {
        self.denial_cache
    }

    fn kind(&self) -> &'static str {
        "redis"
    }

    fn identity(&self) -> Identity {
        Identity { of: TypeId::of::<RedisBackend>(), address: Arc::as_ptr(&self.connection).addr() }
    }
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("address", &format_args!("{}", self.connection))
            .field("timeout", &self.timeout)
            .field("denial_cache", &self.denial_cache)
            .finish()
    }
}

/// Makes a [`RedisBackend`].
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::RedisBackend;
///
/// let backend = RedisBackend::builder().url("redis://cache:6379/2").timeout(Duration::from_millis(30)).build()?;
/// # Ok::<(), ratelimit_runtime::BackendError>(())
/// ```
#[derive(Clone)]
pub struct RedisBackendBuilder {
    url: Option<String>,
    timeout: Duration,
    denial_cache: bool,
    coalescing: bool,
}

impl RedisBackendBuilder {
    /// The server, instead of the one that the environment names; see [`RedisBackend::new`].
    pub fn url(mut self, url: impl Into<String>) -> RedisBackendBuilder {
        self.url = Some(url.into());
        self
    }

    /// The longest that a decision takes, connecting included: 100 ms unless set, at least 1 ms.
    pub fn timeout(mut self, timeout: Duration) -> RedisBackendBuilder {
        self.timeout = timeout;
        self
    }

    /// Whether denials are kept: on unless set. What that means, [`Backend::keeps_denials`] says.
    pub fn denial_cache(mut self, on: bool) -> RedisBackendBuilder {
        self.denial_cache = on;
        self
    }

    /// Whether asynchronous calls on one key that come together may be sent as one: yes unless set. They are decided first
    /// come first served, each as if it had been sent alone, and so is each while fewer than about 24 of them are under way.
    /// Then it takes a tenth of the time, and a call may wait for one round trip that is under way before its own.
    ///
    /// Blocking calls, those that wait for permits and those that take none are always sent alone.
    pub fn coalescing(mut self, coalescing: bool) -> RedisBackendBuilder {
        self.coalescing = coalescing;
        self
    }

    /// The backend; an error if the URL, an environment variable or the timeout is wrong.
    pub fn build(self) -> Result<RedisBackend, BackendError> {
        let info = match &self.url {
            Some(url) => config::from_url(url)?,
            None => config::from_environment(|name| std::env::var_os(name))?,
        };
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&self.timeout) {
            return Err(invalid("the timeout of a Redis backend is from 1 ms to 1 hour"));
        }
        let connection = Arc::new(Connection::new(info, self.timeout)?);
        let coalescing = self.coalescing.then(|| Arc::new(Coalescing::new()));
        Ok(RedisBackend { connection, timeout: self.timeout, denial_cache: self.denial_cache, coalescing })
    }
}

impl fmt::Debug for RedisBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisBackendBuilder")
            .field("timeout", &self.timeout)
            .field("denial_cache", &self.denial_cache)
            .finish_non_exhaustive()
    }
}

/// The backend that the environment names, one for the whole process.
pub(crate) fn environment() -> SharedBackend {
    static ENVIRONMENT: LazyLock<SharedBackend> = LazyLock::new(|| RedisBackend::from_env().into_backend());
    ENVIRONMENT.clone()
}

/// What gives permits back where the future that asked for them is dropped before it has them.
struct Undelivered {
    backend: RedisBackend,
    request: Request,
}

impl Undelivered {
    fn of(backend: &RedisBackend, request: &Request) -> Option<Undelivered> {
        matches!(request.action(), Action::Take { cost, .. } if *cost > 0)
            .then(|| Undelivered { backend: backend.clone(), request: request.clone() })
    }
}

/// An answer on its way to a future.
struct Delivery {
    answer: Option<Result<Vec<u8>, BackendError>>,
    undelivered: Option<Undelivered>,
}

impl Delivery {
    fn take(mut self) -> Option<Result<Vec<u8>, BackendError>> {
        self.answer.take()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let (Some(Ok(answer)), Some(Undelivered { backend, mut request })) =
            (self.answer.take(), self.undelivered.take())
            && let Ok(Answer { outcome: Outcome::Admitted(admitted), .. }) = codec::decode(&answer, &request)
        {
            request.action = Action::GiveBack(admitted.permit().clone());
            backend.decide_later(request);
        }
    }
}
