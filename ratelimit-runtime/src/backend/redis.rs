//! Buckets in a Redis or Valkey server, shared by all processes that use it.

#[cfg(feature = "redis-cluster")]
mod cluster;
mod coalesce;
mod codec;
mod config;
mod connection;
#[cfg(any(feature = "redis-sentinel", feature = "redis-cluster"))]
mod discovery;
mod endpoint;
mod key;
mod lanes;
mod leases;
mod links;
mod node;
mod opener;
mod script;
#[cfg(feature = "redis-sentinel")]
mod sentinel;
#[cfg(feature = "redis-tls")]
mod tls;

use std::any::TypeId;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::{
    Action, Answer, Backend, BackendFuture, Deadline, Identity, IntoBackend, Outcome, Request, SharedBackend, TIMEOUT,
};
use crate::background;
use crate::error::{BackendError, BackendErrorKind};
use crate::reply;
use coalesce::{Coalescing, Entry};
use config::{Servers, Settings, invalid};
use connection::Connection;
use endpoint::{Address, Endpoint, Login};
use leases::{Ask, Leases};
use node::Way;

/// Buckets in a Redis (6.2 or later) or Valkey server, shared by all processes that use it.
///
/// One decision is one round trip: one call of a script that decides on all limits at once, by the server's clock. Every
/// key has an expiry: it is kept for half as long again as its bucket counts, at least half a second and at most a minute
/// more, so that most decisions can write in place.
///
/// Asynchronous calls on one key that come together are sent as one, see [`RedisBackendBuilder::coalescing`]. A process may
/// take permits before they are called for, and spend them without a round trip: see [`RedisBackendBuilder::lease`].
///
/// A cheap handle; clones share their connections, which are made when they are needed and again when they are lost. A
/// decision takes at most the timeout (100 ms, connecting included), however the server behaves; then it is a
/// [`BackendError`], and the limiter's [`OnBackendError`](crate::OnBackendError) says what becomes of the call. A decision
/// that timed out may have been charged all the same, and is not sent again. While the server fails it is asked by few, and
/// a key that is denied is asked for once: see [`Backend`], and [`denial_cache`](RedisBackendBuilder::denial_cache).
///
/// # Threads and runtimes
/// A blocking decision writes and reads on its own thread, without another's help; inside an async runtime too, where it
/// keeps a worker from other tasks for a round trip. There are at most four such connections to a server, and one more of
/// this crate's background thread, which learns at once that the server has ended them. Where more threads come at once
/// they queue, and whoever has a connection sends what is queued in one write and hands out the answers: few threads are as
/// fast as with a connection each, and many cost the system fewer calls.
///
/// An asynchronous decision uses the connection of the tokio runtime that it is polled in first, shared by all its tasks;
/// on any other executor, or in a runtime without input and output, that of this crate's background thread. A runtime
/// without input and output is found out by a panic that tokio catches: the panic hook sees it once, and with
/// `panic = "abort"` such a runtime must be given `enable_io`. A future that is dropped before its answer has come gives back
/// what the answer brings.
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
/// `+evalsha +script|load +time +get +set +setrange +del ~rl:*`; `+select` for a database other than 0; in a cluster also
/// `+asking +cluster|slots`; and at the sentinels `+sentinel|get-master-addr-by-name`. With `maxmemory` use the
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
    /// None unless they are switched on.
    leases: Option<Arc<Leases>>,
}

impl RedisBackend {
    /// The server of a URL. Does not connect yet; an error if the URL is wrong, or needs a feature that is off.
    ///
    /// - `redis://user:password@host:port/database`, where all but the host may be left out;
    /// - `unix:///path/to/socket?db=0&user=..&pass=..`;
    /// - `rediss://..`, by TLS (feature `redis-tls`): never without, and the server's certificate must be for that host and
    ///   by an authority that the system trusts, or see [`RedisBackendBuilder::ca_certificate`]. Encrypted by the provider
    ///   that is the process's default in rustls; where there is none yet, ring is made it;
    /// - `redis+sentinel://user:password@host:port,host:port/master/database`, the master that these sentinels name (feature
    ///   `redis-sentinel`); the login is the master's;
    /// - `redis+cluster://user:password@host:port,host:port`, the cluster that these nodes belong to (feature
    ///   `redis-cluster`).
    ///
    /// `valkey` may stand for `redis` everywhere.
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
        RedisBackendBuilder {
            servers: None,
            login: Login::default(),
            timeout: TIMEOUT,
            denial_cache: true,
            coalescing: true,
            lease: None,
            #[cfg(feature = "redis-tls")]
            certificates: tls::Certificates::default(),
        }
    }

    /// Sends a request and waits for the answer. Ends by the deadline if asynchronous.
    fn call(
        &self,
        bucket: &str,
        request: &[u8],
        deadline: Instant,
        way: Way,
    ) -> impl Future<Output = Replied> + Send + 'static {
        let command = script::call(&key::name(bucket), request);
        let connection = Arc::clone(&self.connection);
        async move { connection.call(&command, deadline, way).await }
    }

    /// Sends a request as bytes and waits for the bytes of the answer, at most until the deadline.
    async fn exchange(&self, bucket: &str, request: &[u8], deadline: Instant) -> Result<Vec<u8>, BackendError> {
        self.call(bucket, request, deadline, Way::Async).await
    }

    /// What is answered by permits that are held here.
    fn leased(&self, request: &Request) -> Option<Answer> {
        self.leases.as_ref()?.answer(request)
    }

    fn ask(&self, request: &Request) -> Option<Ask> {
        self.leases.as_ref()?.ask(self, request)
    }

    fn encode(&self, request: &Request, ask: Option<&Ask>) -> Vec<u8> {
        match ask {
            Some(ask) => ask.encode_one(request),
            None => codec::encode(request, self.leases.is_some()),
        }
    }

    /// What the script answered to a request, and to an ask for a lease where there was one.
    fn decoded(&self, bytes: &[u8], request: &Request, ask: Option<Ask>) -> Result<Answer, BackendError> {
        if let Some(ask) = ask {
            return ask.settle_one(bytes, request);
        }
        let answer = codec::decode(bytes, request)?;
        if let Some(leases) = &self.leases {
            leases.changed(request, &answer);
        }
        Ok(answer)
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
        if let Some(answer) = self.leased(request) {
            return Ok(answer);
        }
        let deadline = self.until();
        let ask = self.ask(request);
        let call = self.call(request.bucket(), &self.encode(request, ask.as_ref()), deadline, Way::Blocking);
        // What is of tokio's counts against the budget of the task around, which a thread that blocks would never get anew.
        let answer = reply::block_on(tokio::task::coop::unconstrained(call), deadline);
        self.decoded(&answer.unwrap_or_else(|| Err(self.late()))?, request, ask)
    }

    fn decide_async<'a>(&'a self, request: &'a Request) -> BackendFuture<'a> {
        Box::pin(async move {
            if let Some(answer) = self.leased(request) {
                return Ok(answer);
            }
            let deadline = self.until();
            let _alone = match self.coalescing.as_ref().and_then(|coalescing| coalescing.enter(self, request, deadline))
            {
                Some(Entry::Seated(seated)) => return seated.await,
                Some(Entry::Alone(alone)) => Some(alone),
                None => None,
            };
            let ask = self.ask(request);
            let bytes = self.encode(request, ask.as_ref());
            let call = Box::pin(self.call(request.bucket(), &bytes, deadline, Way::Async));
            Undropped { backend: self, request, call: Some(call), ask }.await
        })
    }

    fn decide_later(&self, request: Request) {
        if self.leased(&request).is_some() {
            return;
        }
        // What is given back too late or never stays taken: the limit is kept.
        if let Ok(background) = background::handle() {
            background.spawn(self.call(request.bucket(), &self.encode(&request, None), self.until(), Way::Async));
        }
    }

    fn deadline(&self) -> Deadline {
        Deadline::Kept
    }

    fn keeps_denials(&self) -> bool {
        self.denial_cache && self.leases.is_none()
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
            .field("coalescing", &self.coalescing.is_some())
            .field("leases", &self.leases.is_some())
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
    servers: Option<Named>,
    login: Login,
    timeout: Duration,
    denial_cache: bool,
    coalescing: bool,
    lease: Option<(u32, Duration)>,
    #[cfg(feature = "redis-tls")]
    certificates: tls::Certificates,
}

/// The servers, by URLs.
#[derive(Clone)]
enum Named {
    One(String),
    #[cfg(feature = "redis-sentinel")]
    Sentinel(String, Vec<String>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Vec<String>),
}

impl RedisBackendBuilder {
    /// The server, instead of the one that the environment names; see [`RedisBackend::new`].
    pub fn url(mut self, url: impl Into<String>) -> RedisBackendBuilder {
        self.servers = Some(Named::One(url.into()));
        self
    }

    /// The master called `master`, wherever these sentinels say that it is: URLs as in `redis://host:26379`, with the
    /// sentinels' own login where they have one. That of the master is said by [`username`](Self::username),
    /// [`password`](Self::password) and [`database`](Self::database). With a `rediss://` sentinel the master is reached by
    /// TLS too.
    #[cfg(feature = "redis-sentinel")]
    pub fn sentinel<U: Into<String>>(
        mut self,
        master: impl Into<String>,
        sentinels: impl IntoIterator<Item = U>,
    ) -> RedisBackendBuilder {
        self.servers = Some(Named::Sentinel(master.into(), sentinels.into_iter().map(Into::into).collect()));
        self
    }

    /// The cluster that these nodes belong to; URLs as in `redis://user:password@host:6379`. One that answers is enough,
    /// the others are found.
    #[cfg(feature = "redis-cluster")]
    pub fn cluster<U: Into<String>>(mut self, nodes: impl IntoIterator<Item = U>) -> RedisBackendBuilder {
        self.servers = Some(Named::Cluster(nodes.into_iter().map(Into::into).collect()));
        self
    }

    /// The user to log in as, instead of the URL's; needs a password.
    pub fn username(mut self, username: impl Into<String>) -> RedisBackendBuilder {
        self.login.username = Some(username.into());
        self
    }

    /// The password to log in with, instead of the URL's.
    pub fn password(mut self, password: impl Into<String>) -> RedisBackendBuilder {
        self.login.password = Some(password.into());
        self
    }

    /// The number of the database, instead of the URL's: 0 unless set, and always 0 in a cluster.
    pub fn database(mut self, database: u32) -> RedisBackendBuilder {
        self.login.database = database;
        self
    }

    /// Trusts this certificate authority (one certificate or more as PEM) instead of those that the system trusts. An
    /// error at [`build`](Self::build) where the connection is not encrypted.
    #[cfg(feature = "redis-tls")]
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> RedisBackendBuilder {
        self.certificates.authority = Some(pem.into());
        self
    }

    /// Shows the server this certificate (with those that it is signed by, as PEM), whose private key is `key` (as PEM).
    /// An error at [`build`](Self::build) where the connection is not encrypted.
    #[cfg(feature = "redis-tls")]
    pub fn client_certificate(mut self, pem: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> RedisBackendBuilder {
        self.certificates.client = Some((pem.into(), key.into()));
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

    /// Whether asynchronous calls on one key that come together may be sent as one: yes unless set.
    ///
    /// While fewer than 24 calls on a key are under way, each is sent at once. From then on those that come while others
    /// are under way are sent together, up to 1,024 in one call of the script, and decided first come first served, each as
    /// if it had come alone at that time. So a key that many tasks share takes several times as many decisions a second; a
    /// call may have to wait for the round trip before its own, within its timeout all the same. Where such a round trip
    /// fails, all its calls fail.
    ///
    /// Blocking calls, those that wait for permits and those that take none are always sent alone.
    pub fn coalescing(mut self, coalescing: bool) -> RedisBackendBuilder {
        self.coalescing = coalescing;
        self
    }

    /// Leases permits: a process takes up to `permits` of a key at once and spends them without asking the server, for
    /// `valid_for` (1 ms to 10 s; a few round trips to a few tenths of a second make sense). Off unless set.
    ///
    /// A key that is called often then costs the server one call for that many decisions, and a decision well under a
    /// microsecond instead of a round trip. The limits are kept as without: never more than `count` in any `per`, over all
    /// processes. A lease is charged when it is taken, as of its end, and is never spent after that.
    ///
    /// A process takes one permit at first; twice as many each time that it has used all within `valid_for`; as many as it
    /// used, where some were left. No more than a tenth of the limit is taken at once (a limit below 20 is asked for every
    /// call), and no lease is valid for longer than a twentieth of the shortest period (`1s`: 50 ms).
    ///
    /// # What it costs
    /// - *Fairness.* Who has a lease spends it while others are denied: with leases of 10 from 100 a second, ten processes
    ///   can hold all there is, for 50 ms. First come first served is true of leases, not of calls.
    /// - *Unused permits.* What is left at the end of a lease is given back, with the next call on the key or at most half of
    ///   `valid_for` later; until then it is lost to others. While calls come steadily that is nothing; after they stop it is
    ///   up to `permits`, for one and a half `valid_for`. A process that ends without that loses them for one `per`. What
    ///   a `token_bucket` is given back is less what has flowed in since.
    /// - *Rate.* A permit of a `sliding_window` counts from the end of its lease on: under saturation the rate is lower by
    ///   `valid_for` / (`per` + `valid_for`), at most 4.8 %. Nothing of that with the other algorithms.
    /// - *What is told.* `remaining` is as of when the lease was taken; the reset time is that of the whole lease, later by up
    ///   to `valid_for`. A denial holds for calls of this process for at most `valid_for`, instead of until its
    ///   `retry_after`: permits may come back from another process. So the [denial cache](Self::denial_cache) is off.
    ///
    /// Calls with `backoff`, those that wait where nothing is left of a lease, and those whose cost is not that of the calls
    /// before always ask. Calls that wait come after what is leased, and calls that do not wait are no longer denied because
    /// somebody waits. A refund goes back into its lease while that lasts, else to the server. A reset drops the lease of
    /// this process; those of others are spent on top of the new bucket, or given back to it, within `valid_for`. Give all
    /// processes that share a limit the same setting: one without leases is denied while the leases of others last.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ratelimit_runtime::RedisBackend;
    ///
    /// let backend = RedisBackend::builder().url("redis://cache:6379").lease(100, Duration::from_millis(50)).build()?;
    /// # Ok::<(), ratelimit_runtime::BackendError>(())
    /// ```
    pub fn lease(mut self, permits: u32, valid_for: Duration) -> RedisBackendBuilder {
        self.lease = Some((permits, valid_for));
        self
    }

    /// The backend; an error if a URL, an environment variable, a certificate or the timeout is wrong.
    pub fn build(self) -> Result<RedisBackend, BackendError> {
        let settings = self.settings()?;
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&self.timeout) {
            return Err(invalid("the timeout of a Redis backend is from 1 ms to 1 hour"));
        }
        if let Some((permits, valid_for)) = self.lease
            && (permits == 0 || !(Duration::from_millis(1)..=Duration::from_secs(10)).contains(&valid_for))
        {
            return Err(invalid("a lease is of 1 permit at least, and valid for 1 ms to 10 s"));
        }
        #[cfg(feature = "redis-tls")]
        let tls = {
            let given = self.certificates.authority.is_some() || self.certificates.client.is_some();
            if given && !settings.encrypted {
                return Err(invalid(
                    "there are certificates for TLS, but the Redis URL does not begin with `rediss://`",
                ));
            }
            if settings.encrypted { Some(tls::Tls::new(self.certificates)?) } else { None }
        };
        let endpoint = |address: Address, login: Login, encrypted: bool| {
            #[cfg(not(feature = "redis-tls"))]
            let _ = encrypted;
            Endpoint::new(
                address,
                login,
                #[cfg(feature = "redis-tls")]
                tls.clone().filter(|_| encrypted),
            )
        };
        let Settings { servers, login, encrypted } = settings;
        let timeout = self.timeout;
        let connection = match servers {
            Servers::One(address) => Connection::one(endpoint(address, login, encrypted), timeout),
            #[cfg(feature = "redis-sentinel")]
            Servers::Sentinel(sentinels, master) => {
                let mut endpoints = Vec::new();
                for sentinel in sentinels {
                    if let Servers::One(address) = sentinel.servers {
                        endpoints.push(endpoint(address, sentinel.login, sentinel.encrypted));
                    }
                }
                let anywhere = Address::Tcp(String::new(), 0);
                Connection::sentinel(endpoints, master, endpoint(anywhere, login, encrypted), timeout)
            }
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(_) if login.database != 0 => {
                return Err(invalid("a cluster has no database but 0"));
            }
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(seeds) => {
                let anywhere = Address::Tcp(String::new(), 0);
                Connection::cluster(seeds, endpoint(anywhere, login, encrypted), timeout)
            }
        };
        Ok(RedisBackend {
            connection: Arc::new(connection),
            timeout,
            denial_cache: self.denial_cache,
            coalescing: self.coalescing.then(|| Arc::new(Coalescing::new(self.lease.is_some()))),
            leases: self.lease.map(|(permits, valid_for)| Arc::new(Leases::new(permits, valid_for))),
        })
    }

    fn settings(&self) -> Result<Settings, BackendError> {
        #[cfg(any(feature = "redis-sentinel", feature = "redis-cluster"))]
        let all = |urls: &[String]| urls.iter().map(|url| config::from_url(url)).collect::<Result<Vec<_>, _>>();
        let mut settings = match &self.servers {
            Some(Named::One(url)) => config::from_url(url)?,
            #[cfg(feature = "redis-sentinel")]
            Some(Named::Sentinel(master, sentinels)) => config::sentinel(all(sentinels)?, master.clone())?,
            #[cfg(feature = "redis-cluster")]
            Some(Named::Cluster(nodes)) => config::cluster(all(nodes)?)?,
            None => config::from_environment(|name| std::env::var_os(name))?,
        };
        let Login { username, password, database } = self.login.clone();
        if username.is_some() {
            settings.login.username = username;
        }
        if password.is_some() {
            settings.login.password = password;
        }
        if database != 0 {
            settings.login.database = database;
        }
        if settings.login.username.is_some() && settings.login.password.is_none() {
            return Err(invalid("a Redis user logs in with a password, and there is none"));
        }
        Ok(settings)
    }
}

impl fmt::Debug for RedisBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs and the rest may hold passwords and keys.
        f.debug_struct("RedisBackendBuilder")
            .field("timeout", &self.timeout)
            .field("denial_cache", &self.denial_cache)
            .field("coalescing", &self.coalescing)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// The backend that the environment names, one for the whole process.
pub(crate) fn environment() -> SharedBackend {
    static ENVIRONMENT: LazyLock<SharedBackend> = LazyLock::new(|| RedisBackend::from_env().into_backend());
    ENVIRONMENT.clone()
}

/// What the script answered.
type Replied = Result<Vec<u8>, BackendError>;

/// A call that waits for its answer.
type Calling = Pin<Box<dyn Future<Output = Replied> + Send>>;

/// A call on its way. Where the future around is dropped before the answer has come, it goes on in the background, and
/// permits that it brings are given back.
struct Undropped<'a> {
    backend: &'a RedisBackend,
    request: &'a Request,
    /// None once it is done.
    call: Option<Calling>,
    ask: Option<Ask>,
}

impl Future for Undropped<'_> {
    type Output = Result<Answer, BackendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        let bytes = ready!(call.as_mut().poll(context));
        self.call = None;
        let ask = self.ask.take();
        Poll::Ready(bytes.and_then(|bytes| self.backend.decoded(&bytes, self.request, ask)))
    }
}

impl Drop for Undropped<'_> {
    fn drop(&mut self) {
        let takes = matches!(self.request.action(), Action::Take { cost, .. } if *cost > 0);
        if takes
            && let Some(call) = self.call.take()
            && let Ok(background) = background::handle()
        {
            let (backend, mut request, ask) = (self.backend.clone(), self.request.clone(), self.ask.take());
            background.spawn(async move {
                if let Ok(bytes) = call.await
                    && let Ok(Answer { outcome: Outcome::Admitted(admitted), .. }) =
                        backend.decoded(&bytes, &request, ask)
                {
                    request.action = Action::GiveBack(admitted.permit().clone());
                    backend.decide_later(request);
                }
            });
        }
    }
}
