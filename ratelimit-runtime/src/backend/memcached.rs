//! Buckets in Memcached, shared by all processes that use it.

mod address;
mod blocking;
mod builder;
mod client;
mod config;
mod lane;
mod link;
mod links;
mod protocol;
mod ring;
mod seen;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::coalesce::Transport as _;
use super::remote::Remote;
use super::{Answer, Backend, BackendFuture, Deadline, Identity, IntoBackend, Request, SharedBackend};
use crate::error::BackendError;
use crate::rt::process::{Owned, PerProcess};
use client::Client;

pub use builder::MemcachedBackendBuilder;

/// Buckets in Memcached (1.6 or later), shared by all processes that use it.
///
/// A process decides on the bytes of a bucket and stores them by compare-and-swap. If no other
/// process has used the bucket meanwhile, that is one round trip. If one has, the process reads the
/// bucket and decides again until the timeout, from the fifth time on after pauses of random
/// length. A call is admitted only after the server has confirmed the swap, and denied only on a
/// state that was just read or swapped.
///
/// ```no_run
/// use std::time::Duration;
/// use ratelimit_runtime::{Limit, MemcachedBackend, RateLimiter};
///
/// let limiter = RateLimiter::builder("search")
///     .limit(Limit::new(100, Duration::from_secs(1)))
///     .backend(MemcachedBackend::new("memcached://127.0.0.1:11211")?)
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A handle is cheap to clone. Clones share their connections: to each server, one for each tokio
/// runtime and one for blocking calls. They are opened on demand and reopened after a loss. Calls
/// of one runtime on one key are merged, and so are blocking calls. A decision takes at most the
/// timeout (100 ms, connecting included), however the server behaves. After that it is a
/// [`BackendError`], and the limiter's [`OnBackendError`](crate::OnBackendError) decides about the
/// call. A decision that timed out may have been charged all the same.
///
/// A lone blocking decision writes and reads on its own thread. This crate's background thread
/// sends concurrent blocking decisions, and asynchronous ones from other executors than tokio or
/// from a tokio runtime without I/O. If a future is dropped before the answer arrives, its permits
/// are given back. A forked child opens its own connections.
///
/// # Time
/// Memcached has no clock to read, so each process uses its own: the system clock when it started,
/// plus the monotonic clock since then. A record's time never goes back. A decision is made at the
/// process's time, or at that of the latest admission on record if that is later.
///
/// If all processes' clocks lie within S of each other, no more permits are admitted in a real time
/// T than the limit allows in T + S. For a `sliding_window` and S up to `per`, that is at most
/// twice `count` in any `per`, and the long-run rate is not exceeded. A call may be denied for up
/// to S too long. Synchronize clocks by NTP: then S is some milliseconds.
///
/// If a clock is far ahead, other processes are denied until its record expires, one `per` and five
/// seconds after the last admission.
///
/// # Server
/// Memcached is a cache. A restart, `flush_all` or an eviction loses buckets, and each lost bucket
/// admits up to `count` (`burst`) more. Give limits a server with enough memory, and watch
/// `evictions` in its `stats`. Do not start it with `-M`: a full server then refuses to write, and
/// removes the bucket that it could not replace. If a bucket that this process has seen disappears
/// before its time, that is a `tracing` event and counts in the metric
/// `ratelimit_lost_buckets_total`.
///
/// Keys are names of buckets, at most 250 bytes. They expire at least four seconds after the bucket
/// is idle. Connect to the server directly: behind a proxy that keeps connections open while the
/// server restarts, a swap may succeed that should not. Logins and TLS are not supported.
#[derive(Clone)]
pub struct MemcachedBackend {
    shared: Arc<Shared>,
}

/// State shared by the handles of a backend.
struct Shared {
    /// All servers, which identify the buckets.
    server: String,
    timeout: Duration,
    uses_denial_cache: bool,
    remotes: PerProcess<Remote<Client>>,
    make: Box<dyn Fn() -> Remote<Client> + Send + Sync>,
}

impl MemcachedBackend {
    /// The servers of a URL. Does not connect yet. Fails if the URL is wrong.
    ///
    /// - `memcached://host:port`; without a port, 11211.
    /// - `memcached:///path/to/socket`
    /// - `memcached://host:port,host:port`: several servers. Each key is on one of them, chosen by
    ///   rendezvous hashing of the names as written: give all processes the same names. If a server
    ///   fails, the calls on its keys fail. If the list changes, the keys that move start with
    ///   empty buckets.
    ///
    /// Append `?timeout=30ms` for another timeout than 100 ms. `memcache` may stand for `memcached`.
    pub fn new(url: &str) -> Result<MemcachedBackend, BackendError> {
        MemcachedBackend::builder().url(url).build()
    }

    /// The servers in the environment: `MEMCACHED_URL`, else `MEMCACHED_SERVERS`
    /// (`host:port,host:port`), else the one on this machine. Does not connect yet. Fails if a
    /// variable is wrong.
    pub fn from_env() -> Result<MemcachedBackend, BackendError> {
        MemcachedBackend::builder().build()
    }

    /// A builder, for settings other than the URL.
    pub fn builder() -> MemcachedBackendBuilder {
        MemcachedBackendBuilder::new()
    }

    fn remote(&self) -> Arc<Owned<Remote<Client>>> {
        self.shared.remotes.get(&self.shared.make)
    }
}

impl Backend for MemcachedBackend {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        self.remote().decide(request)
    }

    fn decide_async<'a>(&'a self, request: &'a Request) -> Option<BackendFuture<'a>> {
        let remote = self.remote();
        Some(Box::pin(async move { remote.decide_async(request).await }))
    }

    fn decide_later(&self, request: Request) {
        self.remote().transport.decide_later(request);
    }

    fn deadline(&self) -> Deadline {
        Deadline::Kept
    }

    fn denial_cache(&self) -> bool {
        self.shared.uses_denial_cache
    }

    fn kind(&self) -> &'static str {
        "memcached"
    }

    fn server(&self) -> Option<String> {
        Some(self.shared.server.clone())
    }

    fn identity(&self) -> Identity {
        Identity::of(&*self.shared)
    }
}

impl fmt::Debug for MemcachedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedBackend")
            .field("server", &self.shared.server)
            .field("timeout", &self.shared.timeout)
            .field("denial_cache", &self.shared.uses_denial_cache)
            .finish()
    }
}

/// The backend of the environment, one for the whole process.
pub fn environment() -> SharedBackend {
    static ENVIRONMENT: LazyLock<SharedBackend> = LazyLock::new(|| MemcachedBackend::from_env().into_backend());
    ENVIRONMENT.clone()
}
