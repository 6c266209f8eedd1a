//! Buckets in a Redis or Valkey server, shared by all processes that use it.

mod batch;
mod route;
mod script;
mod setup;
mod wire;

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

#[cfg(feature = "calendar")]
use smallvec::SmallVec;
use tokio::runtime::Handle;

use super::coalesce::{Coalescing, Entry, Transport as _};
use super::{
    Action, Answer, Backend, BackendFuture, Deadline, Identity, IntoBackend, Request, SharedBackend, in_order,
    name as names,
};
use crate::error::BackendError;
use crate::rt::background;
use crate::rt::process::{Owned, PerProcess};
use crate::rt::reply;
use crate::rt::timer;
use batch::later::{Along, Later, With};
use batch::leases::{Ask, Leases};
use route::connection::Connection;
use script::Question;
#[cfg(feature = "calendar")]
use script::calendars;
use script::codec::{self, Run};
use setup::endpoint::no_thread;
use wire::node::Mode;

pub use setup::builder::RedisBackendBuilder;

/// Buckets in a Redis (6.2 or later) or Valkey server, shared by all processes that use it.
///
/// One decision is one round trip: one call of a script that decides on all limits at once, by the
/// server's clock. Every key expires. It is kept for 1.5 times as long as its bucket counts, by at
/// least two seconds and at most a minute. Most decisions can therefore write in place. With a
/// short name, a key of one limit takes about 240 bytes of the server's memory. A sliding window
/// takes 4 to 12 bytes more for each group of permits on record, usually at most 64 groups.
///
/// Concurrent asynchronous calls are merged, see [`RedisBackendBuilder::coalescing`]. A process can
/// take permits in advance and spend them without a round trip, see [`RedisBackendBuilder::lease`].
///
/// A handle is cheap to clone. Clones share their connections, which are opened on demand and
/// reopened after a loss. A decision takes at most the timeout (100 ms, connecting included),
/// however the server behaves. After that it is a [`BackendError`], and the limiter's
/// [`OnBackendError`](crate::OnBackendError) decides about the call. A decision that timed out may
/// have been charged all the same; it is not sent again. While the server fails, few calls reach it
/// (see [`Backend`]). A denied key reaches it once (see
/// [`denial_cache`](RedisBackendBuilder::denial_cache)).
///
/// # Threads and runtimes
/// A blocking decision writes and reads on its own thread. Inside an async runtime it does the
/// same, and keeps a worker from other tasks for a round trip. At most four such connections lead
/// to a server. One more belongs to this crate's background thread, which notices at once if the
/// server closes them. If more threads call at once, they queue: a thread with a connection sends
/// the whole queue in one write and hands out the answers. Few threads are as fast as with a
/// connection each, and many cost fewer system calls.
///
/// An asynchronous decision uses the connection of the tokio runtime in which it is first polled,
/// shared by all tasks of that runtime. On any other executor, or in a runtime without I/O, it uses
/// the connection of this crate's background thread. A runtime without I/O is detected by a panic
/// that tokio catches. The panic hook sees it once, and with `panic = "abort"` such a runtime needs
/// `enable_io`. If a call's future is dropped before the answer arrives, the call goes on in the
/// background and gives its permits back.
///
/// A forked child opens its own connections. It needs its own tokio runtime, too, and must be
/// forked while no other thread is inside a limited call.
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
/// Keys begin with `rl:1:`, with limiter and key between braces. A user with few rights needs
/// `+evalsha +script|load +time +get +set +setrange +del ~rl:*` (with `+eval`, no `+script|load`).
/// It also needs `+select` for a database other than 0, and in a cluster `+asking +cluster|slots`.
/// Sentinels need `+sentinel|get-master-addr-by-name`, and the servers behind them `+role` if a
/// manual failover is to be followed.
///
/// With `maxmemory`, use the policy `noeviction`, under which a full server counts as a failing
/// backend. Any other policy may drop buckets in use. Synchronize the server's clock by NTP. A jump
/// back is compensated to within a second; a jump forwards counts as elapsed time.
#[derive(Clone)]
pub struct RedisBackend {
    shared: Arc<Shared>,
}

/// State shared by the handles of a backend.
struct Shared {
    clients: PerProcess<Client>,
    make: Box<dyn Fn() -> Client + Send + Sync>,
    /// Server and database, which identify its buckets.
    server: String,
    denial_cache: bool,
    max_waited_keys: usize,
}

/// One process's part of a backend: connections, calls that are being merged, leases.
#[derive(Clone)]
struct Client {
    connection: Arc<Connection>,
    timeout: Duration,
    /// None if coalescing is off.
    coalescing: Option<Arc<Coalescing>>,
    /// None unless leases are on.
    leases: Option<Arc<Leases>>,
    later: Arc<Later>,
}

impl RedisBackend {
    /// The server of a URL. Does not connect yet. Fails if the URL is wrong or needs a feature that
    /// is off.
    ///
    /// - `redis://user:password@host:port/database`; only the host is required.
    /// - `unix:///path/to/socket?db=0&user=..&pass=..`
    /// - `rediss://..`: always TLS (feature `redis-tls`). The server's certificate must be for that
    ///   host, from an authority that the system trusts or from that of
    ///   [`RedisBackendBuilder::ca_certificate`]. Uses the process's default rustls provider; if
    ///   there is none yet, ring becomes the default.
    /// - `redis+sentinel://user:password@host:port,host:port/master/database`: the master that
    ///   these sentinels name (feature `redis-sentinel`). The login is the master's.
    /// - `redis+cluster://user:password@host:port,host:port/database`: the cluster of these nodes
    ///   (feature `redis-cluster`). Clusters have databases other than 0 from Valkey 9 on.
    ///
    /// Append `?timeout=30ms` for another timeout than 100 ms, and `?protocol=resp2` for servers and
    /// proxies without `HELLO` (see [`RedisBackendBuilder::resp2`]). An unknown query parameter is
    /// an error.
    ///
    /// `valkey` may stand for `redis` everywhere.
    pub fn new(url: &str) -> Result<RedisBackend, BackendError> {
        RedisBackend::builder().url(url).build()
    }

    /// The server in the environment: `REDIS_URL`, else `REDIS_HOST`, `REDIS_PORT` and `REDIS_DB`,
    /// else the one on this machine. `REDIS_USERNAME` and `REDIS_PASSWORD` are the login if the URL
    /// has no password. Does not connect yet. Fails if a variable is wrong.
    pub fn from_env() -> Result<RedisBackend, BackendError> {
        RedisBackend::builder().build()
    }

    /// A builder, for settings other than the URL.
    pub fn builder() -> RedisBackendBuilder {
        RedisBackendBuilder::new()
    }

    fn client(&self) -> Arc<Owned<Client>> {
        self.shared.clients.get(&self.shared.make)
    }

    /// Runs a script on one key. It must return text after the byte 1: a connection whose replies
    /// do not begin with a small byte is given up. Blocks the thread until the deadline at most.
    #[cfg(feature = "configuration")]
    pub(crate) fn eval(&self, script: &str, key: &str, arguments: &[&str]) -> Result<Vec<u8>, BackendError> {
        let client = self.client();
        let (connection, deadline) = (Arc::clone(&client.connection), client.until());
        let mut command = ::redis::cmd("EVAL");
        command.arg(script).arg(1).arg(key).arg(arguments);
        let call = async { connection.call(&command, deadline, Mode::Blocking).await };
        let answer = reply::block_on(tokio::task::coop::unconstrained(call), deadline);
        let mut answer = answer.unwrap_or_else(|| Err(client.late()))?;
        answer.drain(..1.min(answer.len()));
        Ok(answer)
    }
}

impl Client {
    /// Sends a request and waits for the answer. An asynchronous call ends by the deadline.
    fn call(
        &self,
        bucket: &str,
        request: Vec<u8>,
        deadline: Instant,
        mode: Mode,
    ) -> impl Future<Output = ScriptReply> + Send + 'static {
        // Boxed: few calls take something along.
        let with_others = self.later.concerns(bucket).then(|| {
            let (client, bucket, request) = (self.clone(), bucket.to_owned(), request.clone());
            Box::pin(async move { client.call_with_others(&bucket, request, deadline, mode).await })
        });
        let question = (name(bucket), request);
        let command = script::call(&question);
        let connection = Arc::clone(&self.connection);
        #[cfg(feature = "calendar")]
        let may_ask_again = calendars::are_in(&question.1).then(|| (question.0.into_owned(), question.1));
        async move {
            if let Some(call) = with_others {
                return call.await;
            }
            let answer = connection.call(&command, deadline, mode).await?;
            #[cfg(feature = "calendar")]
            if let Some((bucket, request)) = may_ask_again
                && codec::beyond(&answer).is_some()
            {
                return Box::pin(ask_again(connection, bucket, request, answer, deadline, mode)).await;
            }
            Ok(answer)
        }
    }

    /// Sends a request with what is queued for its bucket in front.
    async fn call_with_others(&self, bucket: &str, request: Vec<u8>, deadline: Instant, mode: Mode) -> ScriptReply {
        let along = self.along(With::Own(&[bucket]), deadline, mode).await?;
        let questions: Vec<Question<'_>> = along.questions().chain([(name(bucket), request)]).collect();
        let mut answers = along.carried_by(self.ask_all(&questions, deadline, mode)).await?;
        answers.pop().unwrap_or_else(|| Err(codec::no_decision()))
    }

    /// What a decision takes along.
    async fn along(&self, with: With<'_>, deadline: Instant, mode: Mode) -> Result<Along, BackendError> {
        timer::bounded(self.later.take(with, mode), deadline).await.ok_or_else(|| self.late())
    }

    /// Sends questions in one call and waits for the answer to each, until the deadline at most.
    async fn ask_all(
        &self,
        questions: &[Question<'_>],
        deadline: Instant,
        mode: Mode,
    ) -> Result<Vec<ScriptReply>, BackendError> {
        #[cfg_attr(not(feature = "calendar"), expect(unused_mut, reason = "no question is asked again"))]
        let mut answers = self.ask_once(questions, deadline, mode).await?;
        #[cfg(feature = "calendar")]
        if answers.iter().flatten().any(|answer| codec::beyond(answer).is_some()) {
            Box::pin(self.ask_all_again(questions, &mut answers, deadline, mode)).await;
        }
        Ok(answers)
    }

    /// Repeats the questions whose calendars did not cover the server's time.
    #[cfg(feature = "calendar")]
    async fn ask_all_again(
        &self,
        questions: &[Question<'_>],
        answers: &mut [ScriptReply],
        deadline: Instant,
        mode: Mode,
    ) {
        let mut asked: SmallVec<[(usize, Vec<u8>); 1]> = SmallVec::new();
        for _ in 0..calendars::TRIES {
            let mut again: SmallVec<[(usize, Vec<u8>); 1]> = SmallVec::new();
            for (place, answer) in answers.iter_mut().enumerate() {
                let Some((now, time)) = answer.as_deref().ok().and_then(codec::beyond) else { continue };
                let request = asked.iter().find(|(of, _)| *of == place).map_or(&questions[place].1, |(_, bytes)| bytes);
                match calendars::widened(request, now, time) {
                    Ok(request) => again.push((place, request)),
                    Err(error) => *answer = Err(error),
                }
            }
            if again.is_empty() {
                return;
            }
            let next: Vec<Question<'_>> =
                again.iter().map(|(place, request)| (questions[*place].0.clone(), request.clone())).collect();
            match self.ask_once(&next, deadline, mode).await {
                Ok(replies) => again.iter().zip(replies).for_each(|((place, _), reply)| answers[*place] = reply),
                Err(error) => {
                    again.iter().for_each(|(place, _)| answers[*place] = Err(error.clone()));
                    return;
                }
            }
            asked = again;
        }
    }

    async fn ask_once(
        &self,
        questions: &[Question<'_>],
        deadline: Instant,
        mode: Mode,
    ) -> Result<Vec<ScriptReply>, BackendError> {
        if let [question] = questions {
            let answer = self.connection.call(&script::call(question), deadline, mode).await?;
            return Ok(vec![Ok(answer)]);
        }
        self.connection.call_many(&script::call_many(questions), questions.len(), deadline, mode).await
    }

    /// An answer from permits leased by this process.
    fn leased(&self, request: &Request) -> Option<Answer> {
        let leases = self.leases.as_ref()?;
        if matches!(request.action(), Action::Block { .. } | Action::Unblock) {
            if let Some((request, back)) = leases.end(request) {
                self.return_lease(&request, back);
            }
            return None;
        }
        leases.answer(request)
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

    /// Decodes the script's answer to a request, and to the lease if `ask` requested one.
    fn decoded(&self, bytes: &[u8], request: &Request, ask: Option<Ask>) -> Result<Answer, BackendError> {
        if let Some(ask) = ask {
            return Ok(ask.settle(bytes, request, Run::of(request))?.swap_remove(0));
        }
        let answer = codec::decode(bytes, request)?;
        if let Some(leases) = &self.leases {
            leases.changed(request, &answer);
            // Another call may have begun a lease while the request was under way.
            if matches!(request.action(), Action::Reset | Action::Block { .. } | Action::Unblock)
                && let Some((leased, back)) = leases.end(request)
            {
                self.return_lease(&leased, back);
            }
        }
        Ok(answer)
    }

    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        if let Some(answer) = self.leased(request) {
            return Ok(answer);
        }
        let deadline = self.until();
        let ask = self.ask(request);
        let call = self.call(request.bucket(), self.encode(request, ask.as_ref()), deadline, Mode::Blocking);
        // tokio's primitives spend the surrounding task's cooperative budget, which a blocked
        // thread would never get back.
        let answer = reply::block_on(tokio::task::coop::unconstrained(call), deadline);
        self.decoded(&answer.unwrap_or_else(|| Err(self.late()))?, request, ask)
    }

    async fn decide_async(&self, request: &Request) -> Result<Answer, BackendError> {
        if let Some(answer) = self.leased(request) {
            return Ok(answer);
        }
        let deadline = self.until();
        let _alone = match self
            .coalescing
            .as_ref()
            .map(|coalescing| coalescing.enter(self, request, deadline, Handle::try_current().ok()))
        {
            Some(Entry::Seated(seated)) => return seated.await,
            Some(Entry::Alone(alone)) => Some(alone),
            None => None,
        };
        let ask = self.ask(request);
        let bytes = self.encode(request, ask.as_ref());
        let call = Box::pin(self.call(request.bucket(), bytes, deadline, Mode::Async));
        InFlight { client: self, request, call: Some(call), ask }.await
    }
}

/// Repeats a question whose calendars did not cover the server's time.
#[cfg(feature = "calendar")]
async fn ask_again(
    connection: Arc<Connection>,
    bucket: String,
    mut request: Vec<u8>,
    mut answer: Vec<u8>,
    deadline: Instant,
    mode: Mode,
) -> ScriptReply {
    for _ in 0..calendars::TRIES {
        let Some((now, time)) = codec::beyond(&answer) else { break };
        request = calendars::widened(&request, now, time)?;
        let command = script::call(&(Cow::Borrowed(&bucket), request.clone()));
        answer = connection.call(&command, deadline, mode).await?;
    }
    Ok(answer)
}

/// The background's answer to a call that cannot run on its own thread.
type Elsewhere = reply::Receiver<Result<Answer, BackendError>>;

/// Whether the thread is ending and tokio's thread-locals are gone: tokio's locks and channels
/// would panic.
fn thread_ends() -> bool {
    Handle::try_current().is_err_and(|error| error.is_thread_local_destroyed())
}

/// Decides in the background.
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

    fn decide_async<'a>(&'a self, request: &'a Request) -> Option<BackendFuture<'a>> {
        let client = self.client();
        Some(Box::pin(async move {
            if thread_ends() {
                let deadline = client.until();
                let answer = decide_elsewhere(Arc::clone(&client), request.clone())?;
                return timer::bounded(answer, deadline).await.flatten().unwrap_or_else(|| Err(client.late()));
            }
            client.decide_async(request).await
        }))
    }

    fn decide_together(&self, requests: &[Request]) -> Result<Vec<Answer>, BackendError> {
        let client = self.client();
        if thread_ends() {
            return in_order(self, requests);
        }
        let deadline = client.until();
        let call = client.decide_together(requests, deadline, Mode::Blocking);
        // As in `Client::decide`.
        let answers = reply::block_on(tokio::task::coop::unconstrained(call), deadline);
        answers.unwrap_or_else(|| Err(client.late()))
    }

    fn decide_together_async<'a>(&'a self, requests: &'a [Request]) -> Option<BackendFuture<'a, Vec<Answer>>> {
        let client = self.client();
        Some(Box::pin(async move {
            if thread_ends() {
                return in_order(self, requests);
            }
            client.together_in_flight(requests).await
        }))
    }

    fn decide_later(&self, request: Request) {
        self.client().decide_later(request);
    }

    fn deadline(&self) -> Deadline {
        Deadline::Kept
    }

    fn denial_cache(&self) -> bool {
        self.shared.denial_cache
    }

    fn max_waited_keys(&self) -> usize {
        self.shared.max_waited_keys
    }

    fn kind(&self) -> &'static str {
        "redis"
    }

    fn server(&self) -> Option<String> {
        Some(self.shared.server.clone())
    }

    fn identity(&self) -> Identity {
        Identity::of(&*self.shared)
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

/// The backend of the environment, one for the whole process.
pub fn environment() -> SharedBackend {
    static ENVIRONMENT: LazyLock<SharedBackend> = LazyLock::new(|| RedisBackend::from_env().into_backend());
    ENVIRONMENT.clone()
}

/// A bucket's name in Redis.
fn name(bucket: &str) -> Cow<'_, str> {
    /// In bytes.
    const LONGEST: usize = 512;
    names::within(bucket, LONGEST)
}

/// The script's reply.
type ScriptReply = Result<Vec<u8>, BackendError>;

/// A call in flight.
type CallFuture = Pin<Box<dyn Future<Output = ScriptReply> + Send>>;

/// A call in flight. If the surrounding future is dropped before the answer has come, the call
/// continues in the background, because it may carry what is queued. Its permits are given back.
struct InFlight<'a> {
    client: &'a Client,
    request: &'a Request,
    /// None once it is done.
    call: Option<CallFuture>,
    ask: Option<Ask>,
}

impl Future for InFlight<'_> {
    type Output = Result<Answer, BackendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        let bytes = ready!(call.as_mut().poll(context));
        self.call = None;
        let ask = self.ask.take();
        Poll::Ready(bytes.and_then(|bytes| self.client.decoded(&bytes, self.request, ask)))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take()
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
