//! Buckets in a Redis or Valkey server, shared by all processes that use it.

mod builder;
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

use tokio::runtime::Handle;

use super::{Action, Answer, Backend, BackendFuture, Deadline, Identity, IntoBackend, Outcome, Request, SharedBackend};
use crate::background;
use crate::error::{BackendError, BackendErrorKind};
use crate::process::{Owned, PerProcess};
use crate::reply;
use crate::timer;
use coalesce::{Coalescing, Entry};
use codec::Run;
use connection::Connection;
use endpoint::no_thread;
use leases::{Ask, Leases};
use node::Way;
use script::Question;

pub use builder::RedisBackendBuilder;

/// Buckets in a Redis (6.2 or later) or Valkey server, shared by all processes that use it.
///
/// One decision is one round trip: one call of a script that decides on all limits at once, by the server's clock. Every
/// key has an expiry: it is kept for half as long again as its bucket counts, at least two seconds and at most a minute
/// more, so that most decisions can write in place. A key of one limit takes the server 150 to 180 bytes, with a short name; a
/// sliding window 4 to 12 more for each group of permits on record, of which there are mostly at most 64.
///
/// Asynchronous calls that come together are sent as one, see [`RedisBackendBuilder::coalescing`]. A process may
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
/// A forked child makes connections of its own. It must have a tokio runtime of its own, too, and be forked while no other
/// thread is inside of a limited call.
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
/// `+evalsha +script|load +time +get +set +setrange +del ~rl:*` (with `+eval` no `+script|load`); `+select` for a database other
/// than 0; in a cluster also `+asking +cluster|slots`; at the sentinels `+sentinel|get-master-addr-by-name`, and at the servers
/// behind them `+role`, if a failover by hand is to be followed. With `maxmemory` use the
/// policy `noeviction`, under which a full server is a backend that fails; any other may drop buckets that are in use. Use
/// a server whose clock is kept by NTP: one that jumps back is compensated to within a second, and a jump forwards counts
/// as time that has passed.
#[derive(Clone)]
pub struct RedisBackend {
    shared: Arc<Shared>,
}

/// What the handles of a backend share.
struct Shared {
    clients: PerProcess<Client>,
    make: Box<dyn Fn() -> Client + Send + Sync>,
    /// Server and database, by which its buckets are known.
    server: String,
    denial_cache: bool,
    keeps_denials: bool,
}

/// What one process has of a backend: connections, calls that are being merged, permits that it holds.
#[derive(Clone)]
struct Client {
    connection: Arc<Connection>,
    timeout: Duration,
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
    /// - `redis+cluster://user:password@host:port,host:port/database`, the cluster that these nodes belong to (feature
    ///   `redis-cluster`); clusters have databases other than 0 from Valkey 9 on.
    ///
    /// `?protocol=resp2` at the end is for servers and proxies that know no `HELLO`; see [`RedisBackendBuilder::resp2`].
    ///
    /// `valkey` may stand for `redis` everywhere. A query of which nothing is known is an error;
    /// `protocol` may be named, and is RESP3 always.
    pub fn new(url: &str) -> Result<RedisBackend, BackendError> {
        RedisBackend::builder().url(url).build()
    }

    /// The server that the environment names: by `REDIS_URL`, else by `REDIS_HOST`, `REDIS_PORT` and `REDIS_DB`, else the
    /// one on this machine. `REDIS_USERNAME` and `REDIS_PASSWORD` are the login if the URL has no password. Does not connect
    /// yet; an error if a variable is wrong.
    pub fn from_env() -> Result<RedisBackend, BackendError> {
        RedisBackend::builder().build()
    }

    /// For settings other than the server.
    pub fn builder() -> RedisBackendBuilder {
        RedisBackendBuilder::new()
    }

    fn client(&self) -> Arc<Owned<Client>> {
        self.shared.clients.get(&self.shared.make)
    }
}

impl Client {
    /// Sends a request and waits for the answer. Ends by the deadline if asynchronous.
    fn call(
        &self,
        bucket: &str,
        request: Vec<u8>,
        deadline: Instant,
        way: Way,
    ) -> impl Future<Output = Replied> + Send + 'static {
        let command = script::call(&(key::name(bucket), request));
        let connection = Arc::clone(&self.connection);
        async move { connection.call(&command, deadline, way).await }
    }

    /// Sends questions in one call and waits for the answer to each, at most until the deadline.
    async fn ask_all(&self, questions: &[Question<'_>], deadline: Instant) -> Result<Vec<Replied>, BackendError> {
        if let [question] = questions {
            let answer = self.connection.call(&script::call(question), deadline, Way::Async).await?;
            return Ok(vec![Ok(answer)]);
        }
        self.connection.call_many(&script::call_many(questions), questions.len(), deadline, Way::Async).await
    }

    /// Gives back what was taken for a call that nobody waits for any more.
    fn give_back(&self, request: &Request, answer: Answer) {
        if takes(request)
            && let Outcome::Admitted(admitted) = answer.outcome
        {
            let action = Action::GiveBack(admitted.admission.permit);
            self.decide_later(&Request { action, ..request.clone() });
        }
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
            Some(ask) => ask.encode(request, Run::of(request)),
            None => codec::encode(request, self.leases.is_some()),
        }
    }

    /// What the script answered to a request, and to an ask for a lease where there was one.
    fn decoded(&self, bytes: &[u8], request: &Request, ask: Option<Ask>) -> Result<Answer, BackendError> {
        if let Some(ask) = ask {
            return Ok(ask.settle(bytes, request, Run::of(request))?.swap_remove(0));
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
        let doubt = self.connection.doubt();
        let message = format!("Redis at {} did not answer within {:?}{doubt}", self.connection, self.timeout);
        BackendError::new(BackendErrorKind::Timeout, message)
    }

    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        if let Some(answer) = self.leased(request) {
            return Ok(answer);
        }
        let deadline = self.until();
        let ask = self.ask(request);
        let call = self.call(request.bucket(), self.encode(request, ask.as_ref()), deadline, Way::Blocking);
        // What is of tokio's counts against the budget of the task around, which a thread that blocks would never get anew.
        let answer = reply::block_on(tokio::task::coop::unconstrained(call), deadline);
        self.decoded(&answer.unwrap_or_else(|| Err(self.late()))?, request, ask)
    }

    async fn decide_async(&self, request: &Request) -> Result<Answer, BackendError> {
        if let Some(answer) = self.leased(request) {
            return Ok(answer);
        }
        let deadline = self.until();
        let _alone = match self.coalescing.as_ref().map(|coalescing| coalescing.enter(self, request, deadline)) {
            Some(Entry::Seated(seated)) => return seated.await,
            Some(Entry::Alone(alone)) => Some(alone),
            None => None,
        };
        let ask = self.ask(request);
        let bytes = self.encode(request, ask.as_ref());
        let call = Box::pin(self.call(request.bucket(), bytes, deadline, Way::Async));
        Undropped { client: self, request, call: Some(call), ask }.await
    }

    fn decide_later(&self, request: &Request) {
        if self.leased(request).is_some() {
            return;
        }
        // What is given back too late or never stays taken: the limit is kept.
        if let Ok(background) = background::handle() {
            background.spawn(self.call(request.bucket(), self.encode(request, None), self.until(), Way::Async));
        }
    }
}

/// What the background sends to a call whose own thread cannot run it.
type Elsewhere = reply::Receiver<Result<Answer, BackendError>>;

/// Whether the thread ends, and what tokio keeps of it is gone: to use tokio's locks and channels would panic.
fn thread_ends() -> bool {
    Handle::try_current().is_err_and(|error| error.is_thread_local_destroyed())
}

/// A decision of the background's.
fn decide_elsewhere(client: Arc<Owned<Client>>, request: Request) -> Result<Elsewhere, BackendError> {
    let (sender, receiver) = reply::channel();
    let background = background::handle().map_err(|error| no_thread(&error))?;
    background.spawn(async move {
        sender.send(client.decide_async(&request).await);
    });
    Ok(receiver)
}

impl Backend for RedisBackend {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        let client = self.client();
        if thread_ends() {
            let deadline = client.until();
            let answer = decide_elsewhere(Arc::clone(&client), request.clone())?.wait(deadline);
            return answer.unwrap_or_else(|| Err(client.late()));
        }
        client.decide(request)
    }

    fn decide_async<'a>(&'a self, request: &'a Request) -> BackendFuture<'a> {
        let client = self.client();
        Box::pin(async move {
            if thread_ends() {
                let deadline = client.until();
                let answer = decide_elsewhere(Arc::clone(&client), request.clone())?;
                return timer::bounded(answer, deadline).await.flatten().unwrap_or_else(|| Err(client.late()));
            }
            client.decide_async(request).await
        })
    }

    fn decide_later(&self, request: Request) {
        self.client().decide_later(&request);
    }

    fn deadline(&self) -> Deadline {
        Deadline::Kept
    }

    fn keeps_denials(&self) -> bool {
        self.shared.keeps_denials
    }

    fn kind(&self) -> &'static str {
        "redis"
    }

    fn server(&self) -> Option<String> {
        Some(self.shared.server.clone())
    }

    fn identity(&self) -> Identity {
        Identity { of: TypeId::of::<RedisBackend>(), address: Arc::as_ptr(&self.shared).addr() }
    }
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self.client();
        f.debug_struct("RedisBackend")
            .field("address", &format_args!("{}", client.connection))
            .field("timeout", &client.timeout)
            .field("denial_cache", &self.shared.denial_cache)
            .field("coalescing", &client.coalescing.is_some())
            .field("leases", &client.leases.is_some())
            .finish()
    }
}

/// The backend that the environment names, one for the whole process.
pub(crate) fn environment() -> SharedBackend {
    static ENVIRONMENT: LazyLock<SharedBackend> = LazyLock::new(|| RedisBackend::from_env().into_backend());
    ENVIRONMENT.clone()
}

/// Whether permits are gone if nobody gives them back.
fn takes(request: &Request) -> bool {
    matches!(request.action(), Action::Take { cost: 1.., .. })
}

/// What the script answered.
type Replied = Result<Vec<u8>, BackendError>;

/// A call that waits for its answer.
type Calling = Pin<Box<dyn Future<Output = Replied> + Send>>;

/// A call on its way. Where the future around is dropped before the answer has come, it goes on in the background, and
/// permits that it brings are given back.
struct Undropped<'a> {
    client: &'a Client,
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
        Poll::Ready(bytes.and_then(|bytes| self.client.decoded(&bytes, self.request, ask)))
    }
}

impl Drop for Undropped<'_> {
    fn drop(&mut self) {
        if takes(self.request)
            && let Some(call) = self.call.take()
            && let Ok(background) = background::handle()
        {
            let (client, request, ask) = (self.client.clone(), self.request.clone(), self.ask.take());
            background.spawn(async move {
                if let Ok(bytes) = call.await
                    && let Ok(answer) = client.decoded(&bytes, &request, ask)
                {
                    client.give_back(&request, answer);
                }
            });
        }
    }
}
