//! Buckets in a PostgreSQL table, shared by all processes that use it.

mod builder;
mod config;
mod connections;
mod failure;
mod functions;
mod pruning;
mod server;
mod store;
mod table;
mod together;
mod transaction;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::coalesce::{Merging, Transport as _};
use super::remote::Remote;
use super::{Answer, Backend, BackendFuture, Deadline, Identity, IntoBackend, Request, SharedBackend};
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::background;
use crate::rt::process::PerProcess;
use crate::rt::reply;
use crate::rt::timer;
use store::Store;
use table::Table;

pub use builder::PostgresBackendBuilder;
pub use connections::PostgresConnect;

/// The longest time to create the table in.
const CREATING: Duration = Duration::from_secs(30);

/// Buckets in a table of PostgreSQL (12 or later), shared by all processes that use it.
///
/// One decision is a transaction of two round trips. The first locks the bucket, then reads it and
/// the server's clock; the second writes and commits. A denied call needs only the first. Limits
/// are exact: times are the server's `clock_timestamp()`, read while the bucket is locked. Several
/// limits, and several keys of one call, are decided in one transaction: all are charged, or none
/// is.
///
/// Concurrent calls of a process are merged (group commit). While one is under way, up to 64 others
/// share a transaction, on one key or on many. Each is decided as if it had come alone. A locked
/// bucket delays only its own calls. Batches follow each other, or come every two milliseconds
/// while one takes longer.
///
/// A handle is cheap to clone. Clones share their connections, which are opened on demand and
/// reopened after a loss. A decision takes at most the timeout (100 ms, connecting included),
/// however the server behaves. After that it is a [`BackendError`], and the limiter's
/// [`OnBackendError`](crate::OnBackendError) decides about the call. A decision that timed out may
/// have been charged all the same; it is not repeated. Neither a lock nor a transaction outlives the
/// timeout, even if the process is stopped in between.
///
/// ```no_run
/// use std::time::Duration;
/// use ratelimit_runtime::{Limit, PostgresBackend, RateLimiter};
///
/// let postgres = PostgresBackend::new("postgres://app@db.local/app")?;
/// postgres.create_table()?;
/// let limiter = RateLimiter::builder("search")
///     .limit(Limit::new(100, Duration::from_secs(1)))
///     .backend(postgres)
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Table
/// The table is `ratelimit_buckets`, in the schema `public` or [another
/// one](PostgresBackendBuilder::schema). Each bucket is a row of 150 bytes. A sliding window takes
/// 9 more for each group of permits on record, usually at most 64 groups.
/// [`create_table`](PostgresBackend::create_table) creates it, or the SQL of
/// [`migration`](PostgresBackend::migration) among your own migrations. Calls remove rows of idle
/// buckets in passing. A user needs `USAGE` on the schema and `SELECT`, `INSERT`, `UPDATE` and
/// `DELETE` on the table. Four functions, `ratelimit_lock_one`, `.._all`, `ratelimit_write_one` and
/// `.._all`, are created with it, because the server keeps their plans. They run with the rights of
/// their caller.
///
/// Updates are in place (HOT), and a busy key leaves no dead rows behind. A transaction that stays
/// open for long anywhere in the server, however, keeps all row versions since its start.
///
/// # Durability
/// Transactions of this backend do not wait for the disk
/// (`synchronous_commit = off`, for these alone). A crash of the server loses the last admissions,
/// at most those of three times `wal_writer_delay` (200 ms): as many calls are admitted once more.
/// With [`synchronous_commit`](PostgresBackendBuilder::synchronous_commit), none is lost. A
/// failover to an asynchronous standby loses what the standby had not received.
///
/// # Poolers and pools
/// PgBouncer works in session and transaction mode: settings are per transaction, and no statement
/// is prepared. Its statement mode allows no transactions. For a pool of your own, see
/// [`PostgresBackendBuilder::pool`].
///
/// # Threads and runtimes
/// A call is a task of the tokio runtime in which it is made, and uses connections opened there. On
/// any other executor, and for a blocking call, it is a task of this crate's background thread. If
/// a future is dropped before the answer arrives, its permits are given back. A forked child opens
/// its own connections, unless they come from a pool.
///
/// # Clock
/// Use a server whose clock is synchronized by NTP. A jump back admits no more; a jump forwards
/// counts as elapsed time.
#[derive(Clone)]
pub struct PostgresBackend {
    shared: Arc<Shared>,
}

/// State shared by the handles of a backend.
struct Shared {
    remotes: PerProcess<Remote<Store>>,
    make: Box<dyn Fn() -> Remote<Store> + Send + Sync>,
    /// Servers, database and schema, which identify the buckets. None for a pool.
    server: Option<String>,
    table: Table,
    timeout: Duration,
    denial_cache: bool,
}

impl PostgresBackend {
    /// The server of a URL. Does not connect yet. Fails if the URL is wrong.
    ///
    /// - `postgres://user:password@host:port/database`; only the host is required.
    /// - `postgres://user@host1:5432,host2:5432/database?target_session_attrs=read-write`: whichever
    ///   of these servers is the primary.
    /// - `host=/var/run/postgresql user=app dbname=app`: as libpq writes it, here with a unix socket.
    ///
    /// The [parameters](https://docs.rs/tokio-postgres/0.7/tokio_postgres/config/struct.Config.html)
    /// are those of tokio-postgres. TLS needs a [connector](PostgresBackendBuilder::tls).
    pub fn new(url: &str) -> Result<PostgresBackend, BackendError> {
        PostgresBackend::builder().url(url).build()
    }

    /// The server in the environment: `DATABASE_URL`, else `PGHOST`, `PGPORT`, `PGUSER`,
    /// `PGPASSWORD` and `PGDATABASE` as for libpq, else port 5432 of this machine. Does not connect
    /// yet. Fails if a variable is wrong.
    pub fn from_env() -> Result<PostgresBackend, BackendError> {
        PostgresBackend::builder().build()
    }

    /// A builder, for settings other than the URL.
    pub fn builder() -> PostgresBackendBuilder {
        PostgresBackendBuilder::new()
    }

    /// The SQL that creates the table and its functions in a schema, and the schema if it is not
    /// `public`.
    ///
    /// Its owner may run it any number of times: an existing table stays as it is. It begins and
    /// commits no transaction, so it works with any migration tool that supports dollar quotes.
    ///
    /// ```
    /// use ratelimit_runtime::PostgresBackend;
    ///
    /// let sql = PostgresBackend::migration("limits");
    /// assert!(sql.contains("CREATE TABLE IF NOT EXISTS \"limits\".ratelimit_buckets"));
    /// ```
    pub fn migration(schema: &str) -> String {
        Table::new(schema).migration()
    }

    /// Creates the table and its functions unless they exist, as
    /// [`migration`](PostgresBackend::migration) does. Waits for the server for at most 30 seconds.
    pub fn create_table(&self) -> Result<(), BackendError> {
        let (sender, receiver) = reply::channel();
        let store = self.shared.remotes.get(&self.shared.make).transport.clone();
        let deadline = Instant::now() + CREATING;
        let background = background::handle().map_err(|error| {
            let message = format!("the background thread cannot be started: {error}");
            BackendError::new(BackendErrorKind::Unreachable, message)
        })?;
        background.spawn(async move { sender.send(store.create_table(deadline).await) });
        receiver.wait(deadline).unwrap_or_else(|| Err(late_table()))
    }

    /// [`create_table`](PostgresBackend::create_table) without blocking the thread. Needs a tokio
    /// runtime with I/O.
    pub async fn create_table_async(&self) -> Result<(), BackendError> {
        let store = self.shared.remotes.get(&self.shared.make).transport.clone();
        let deadline = Instant::now() + CREATING;
        timer::bounded(store.create_table(deadline), deadline).await.unwrap_or_else(|| Err(late_table()))
    }
}

fn late_table() -> BackendError {
    BackendError::new(BackendErrorKind::Timeout, format!("PostgreSQL has not created the table within {CREATING:?}"))
}

impl Backend for PostgresBackend {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        self.shared.remotes.get(&self.shared.make).decide(request)
    }

    fn decide_async<'a>(&'a self, request: &'a Request) -> Option<BackendFuture<'a>> {
        let remote = self.shared.remotes.get(&self.shared.make);
        Some(Box::pin(async move { remote.decide_async(request).await }))
    }

    fn decide_together(&self, requests: &[Request]) -> Result<Vec<Answer>, BackendError> {
        let store = self.shared.remotes.get(&self.shared.make).transport.clone();
        let deadline = store.until();
        let delivery = together::start(&store, requests, deadline, None)?.wait(deadline);
        delivery.and_then(together::Delivery::take).unwrap_or_else(|| Err(store.late()))
    }

    fn decide_together_async<'a>(&'a self, requests: &'a [Request]) -> Option<BackendFuture<'a, Vec<Answer>>> {
        let remote = self.shared.remotes.get(&self.shared.make);
        Some(Box::pin(async move {
            let store = &remote.transport;
            let deadline = store.until();
            let receiver = together::start(store, requests, deadline, remote.runtime())?;
            let delivery = timer::bounded(receiver, deadline).await.flatten();
            delivery.and_then(together::Delivery::take).unwrap_or_else(|| Err(store.late()))
        }))
    }

    fn decide_later(&self, request: Request) {
        self.shared.remotes.get(&self.shared.make).transport.decide_later(request);
    }

    fn deadline(&self) -> Deadline {
        Deadline::Kept
    }

    fn denial_cache(&self) -> bool {
        self.shared.denial_cache
    }

    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn server(&self) -> Option<String> {
        self.shared.server.clone()
    }

    fn identity(&self) -> Identity {
        Identity::of(&*self.shared)
    }
}

impl fmt::Debug for PostgresBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBackend")
            .field("server", &self.shared.server)
            .field("table", &self.shared.table.name())
            .field("timeout", &self.shared.timeout)
            .field("denial_cache", &self.shared.denial_cache)
            .finish_non_exhaustive()
    }
}

/// The backend of the environment, one for the whole process.
pub fn environment() -> SharedBackend {
    static ENVIRONMENT: LazyLock<SharedBackend> = LazyLock::new(|| PostgresBackend::from_env().into_backend());
    ENVIRONMENT.clone()
}

/// A process's connections, and the calls that it merges.
fn remote(store: Store) -> Remote<Store> {
    Remote::new(store, Merging::TRANSACTIONS)
}
