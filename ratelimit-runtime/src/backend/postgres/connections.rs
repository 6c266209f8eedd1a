//! Connections: this crate's own, which it opens on demand, or those of a pool of the user's.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Socket};

use super::failure::Failure;
use super::table::Table;
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::reply;
use crate::rt::timer;

/// The minimum connect timeout. Connections are opened in the background: if that takes longer than
/// a call's timeout, a later call uses the connection.
pub(super) const OPENING: Duration = Duration::from_secs(1);

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A source of connections to PostgreSQL, such as a pool: for
/// [`PostgresBackendBuilder::pool`](crate::PostgresBackendBuilder::pool).
///
/// For [deadpool-postgres](https://docs.rs/deadpool-postgres):
///
/// ```
/// use std::error::Error;
/// use ratelimit_runtime::PostgresConnect;
///
/// struct Pool(deadpool_postgres::Pool);
///
/// impl PostgresConnect for Pool {
///     type Connection = deadpool_postgres::Client;
///
///     async fn connect(&self) -> Result<Self::Connection, Box<dyn Error + Send + Sync>> {
///         Ok(self.0.get().await?)
///     }
///
///     fn client(connection: &Self::Connection) -> &tokio_postgres::Client {
///         connection
///     }
/// }
/// ```
///
/// A connection is borrowed for one transaction and returned without one. After an abandoned call,
/// a `ROLLBACK` is sent ahead of whatever the next user sends. Session settings do not change, and
/// no statement stays prepared.
///
/// The tasks that serve a pool's connections belong to the runtimes in which they were opened. A
/// blocking call on the only thread of such a runtime waits for itself and times out: use the
/// `_async` calls there.
pub trait PostgresConnect: Send + Sync + 'static {
    /// A borrowed connection. Dropping it returns it.
    type Connection: Send + Sync + 'static;

    /// Borrows a connection. The error's text is shown to operators and must hold no secret.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Box<dyn Error + Send + Sync>>> + Send;

    /// The connection's client (tokio-postgres 0.7).
    fn client(connection: &Self::Connection) -> &Client;
}

/// Where connections come from.
pub(super) enum Connections {
    Own(Arc<Own>),
    Users(Arc<dyn Users>),
}

/// A connection in use. Dropping it returns it.
pub(super) enum Lent {
    Own(OwnLent),
    Users(Box<dyn UsersLent>),
}

/// A [`PostgresConnect`] of any type.
pub(super) trait Users: Send + Sync {
    fn connect(&self) -> BoxFuture<'_, Result<Box<dyn UsersLent>, BackendError>>;
}

pub(super) trait UsersLent: Send + Sync {
    fn client(&self) -> &Client;
}

struct Borrowed<P: PostgresConnect>(P::Connection);

impl<P: PostgresConnect> UsersLent for Borrowed<P> {
    fn client(&self) -> &Client {
        P::client(&self.0)
    }
}

impl<P: PostgresConnect> Users for P {
    fn connect(&self) -> BoxFuture<'_, Result<Box<dyn UsersLent>, BackendError>> {
        Box::pin(async move {
            let connection = PostgresConnect::connect(self).await.map_err(|error| {
                BackendError::new(BackendErrorKind::Unreachable, format!("the pool has no connection: {error}"))
            })?;
            Ok(Box::new(Borrowed::<P>(connection)) as Box<dyn UsersLent>)
        })
    }
}

impl Connections {
    /// A connection by the deadline; `None` if there was none.
    pub(super) async fn get(&self, deadline: Instant) -> Option<Result<Lent, BackendError>> {
        match self {
            Connections::Own(own) => own.get(deadline).await,
            Connections::Users(users) => Some(timer::bounded(users.connect(), deadline).await?.map(Lent::Users)),
        }
    }
}

impl Lent {
    pub(super) fn client(&self) -> &Client {
        match self {
            Lent::Own(own) => &own.open.client,
            Lent::Users(users) => users.client(),
        }
    }

    /// Drops a broken connection.
    pub(super) fn discard(self) {
        if let Lent::Own(mut own) = self {
            own.is_good = false;
        }
    }

    /// Drops it and all connections opened before it.
    pub(super) fn discard_all(self) {
        if let Lent::Own(mut own) = self {
            own.is_good = false;
            own.lane.idle.lock().clear();
        }
    }

    pub(super) fn is_own(&self) -> bool {
        matches!(self, Lent::Own(_))
    }
}

/// Opens one connection: a client, and the task that serves it.
pub(super) type Opener =
    Box<dyn Fn() -> BoxFuture<'static, Result<(Client, BoxFuture<'static, ()>), tokio_postgres::Error>> + Send + Sync>;

/// Connections by a configuration.
pub(super) fn opener<T>(config: Config, tls: T) -> Opener
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Box::new(move || {
        let (config, tls) = (config.clone(), tls.clone());
        Box::pin(async move {
            let (client, connection) = config.connect(tls).await?;
            let serve: BoxFuture<'static, ()> = Box::pin(async move {
                // The client notices its end.
                drop(connection.await);
            });
            Ok((client, serve))
        })
    })
}

/// Connections opened by this crate. Each belongs to the tokio runtime that it was opened in: the
/// task that serves it runs there.
pub(super) struct Own {
    opener: Arc<Opener>,
    table: Table,
    /// Connections for each runtime.
    most: usize,
    opening: Duration,
    lanes: Mutex<HashMap<Id, Arc<Lane>>>,
}

/// The connections of one runtime.
struct Lane {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Arc<Open>>>,
}

struct Open {
    client: Client,
    serving: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        // A client alone would wait for answers before it closes its socket.
        self.serving.abort();
    }
}

pub(super) struct OwnLent {
    open: Arc<Open>,
    lane: Arc<Lane>,
    permit: Option<OwnedSemaphorePermit>,
    is_good: bool,
}

impl Drop for OwnLent {
    fn drop(&mut self) {
        if self.is_good && !self.open.client.is_closed() {
            self.lane.idle.lock().push(Arc::clone(&self.open));
        }
        // Last: the caller that waits for it finds the connection.
        drop(self.permit.take());
    }
}

impl Own {
    pub(super) fn new(opener: Arc<Opener>, table: Table, most: usize, timeout: Duration) -> Own {
        Own { opener, table, most, opening: timeout.max(OPENING), lanes: Mutex::default() }
    }

    async fn get(self: &Arc<Self>, deadline: Instant) -> Option<Result<Lent, BackendError>> {
        let lane = self.lane(Handle::current().id());
        let permits = Arc::clone(&lane.permits);
        let permit = timer::bounded(permits.acquire_owned(), deadline).await?.ok()?;
        let idle = {
            let mut idle = lane.idle.lock();
            idle.retain(|open| !open.client.is_closed());
            idle.pop()
        };
        let lend = |open| OwnLent { open, lane, permit: Some(permit), is_good: true };
        if let Some(open) = idle {
            return Some(Ok(Lent::Own(lend(open))));
        }
        let (sender, receiver) = reply::channel();
        let own = Arc::clone(self);
        tokio::spawn(async move {
            // If the call has ended by then, the connection becomes an idle one.
            sender.send(own.open().await.map(|open| Lent::Own(lend(open))));
        });
        timer::bounded(receiver, deadline).await?
    }

    async fn open(&self) -> Result<Arc<Open>, BackendError> {
        let opened = timer::bounded((self.opener)(), Instant::now() + self.opening).await;
        let Some(opened) = opened else {
            let message = format!("PostgreSQL: no connection was made within {:?}", self.opening);
            return Err(BackendError::new(BackendErrorKind::Unreachable, message));
        };
        let (client, serve) = opened.map_err(|error| Failure::of(&error, &self.table).error)?;
        Ok(Arc::new(Open { client, serving: tokio::spawn(serve).abort_handle() }))
    }

    fn lane(&self, runtime: Id) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get(&runtime) {
            return Arc::clone(lane);
        }
        // The connections of a runtime that is gone are closed.
        lanes.retain(|_, lane| {
            Arc::strong_count(lane) > 1 || lane.idle.lock().iter().any(|open| !open.client.is_closed())
        });
        let lane = Arc::new(Lane { permits: Arc::new(Semaphore::new(self.most)), idle: Mutex::default() });
        lanes.insert(runtime, Arc::clone(&lane));
        lane
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Connections::Own(_) => "own",
            Connections::Users(_) => "of a pool",
        })
    }
}
