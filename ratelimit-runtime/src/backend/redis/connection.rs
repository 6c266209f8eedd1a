//! The connection of a backend: opened at the first call, shared by all, and replaced when it breaks.
//!
//! What redis-rs leaves open is closed here. Each call has one deadline, connecting included. At most one attempt to
//! connect is under way, and a call whose deadline passes leaves it running for the next. A connection that is lost is
//! replaced by the next call; one that only stays silent, after a few calls in a row that it did not answer. Nothing is
//! sent twice, except after `NOSCRIPT`, which charges nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisError,
    RedisResult, ServerErrorKind,
};
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::config::invalid;
use super::script;
use crate::error::{BackendError, BackendErrorKind};

/// So many calls in a row without an answer, and the connection is given up.
const SILENT: u32 = 3;
/// An attempt to connect may take this long where a call's own timeout is shorter: a server that takes longer than that to
/// say hello can be reached by a later call.
const CONNECT: Duration = Duration::from_secs(1);
/// Commands that wait to be written.
const QUEUE: usize = 1_024;

pub(super) struct Connection {
    client: Client,
    connect_timeout: Duration,
    state: Mutex<State>,
}

enum State {
    Closed,
    Opening(Attempt),
    Open(Link),
}

type Attempt = watch::Receiver<Option<Result<Link, BackendError>>>;

/// One connection that was made.
#[derive(Clone)]
struct Link {
    connection: MultiplexedConnection,
    /// Calls in a row that were not answered; also what tells one link from another.
    silent: Arc<AtomicU32>,
}

impl Connection {
    /// Does not connect yet.
    pub(super) fn new(info: ConnectionInfo, timeout: Duration) -> Result<Connection, BackendError> {
        let client = Client::open(info).map_err(|_| invalid("the Redis server's address cannot be used"))?;
        Ok(Connection { client, connect_timeout: timeout.max(CONNECT), state: Mutex::new(State::Closed) })
    }

    /// Runs a command that calls the script, and returns the script's answer.
    pub(super) async fn call(self: &Arc<Self>, command: &Cmd, deadline: Instant) -> Result<Vec<u8>, BackendError> {
        let late = |_| BackendError::new(BackendErrorKind::Timeout, format!("Redis at {self} did not answer in time"));
        let mut link = match self.link() {
            Ok(link) => link,
            Err(attempt) => timeout_at(deadline.into(), self.opened(attempt)).await.map_err(late)??,
        };
        match timeout_at(deadline.into(), link.call(command)).await {
            Ok(Ok(answer)) => {
                link.silent.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) => {
                if is_broken(&error) {
                    self.close(&link.silent);
                }
                Err(self.error(&error))
            }
            Err(elapsed) => {
                if link.silent.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT {
                    self.close(&link.silent);
                }
                Err(late(elapsed))
            }
        }
    }

    /// The connection, or the attempt to make it: one is begun where none is under way.
    fn link(self: &Arc<Self>) -> Result<Link, Attempt> {
        let mut state = self.state.lock();
        match &*state {
            State::Open(link) => return Ok(link.clone()),
            // An attempt whose end nobody will tell is over.
            State::Opening(attempt) if attempt.has_changed().is_ok() => return Err(attempt.clone()),
            State::Opening(_) | State::Closed => {}
        }
        let (outcome, attempt) = watch::channel(None);
        *state = State::Opening(attempt.clone());
        let connection = Arc::clone(self);
        tokio::spawn(async move {
            let opened = connection.open().await;
            *connection.state.lock() = opened.as_ref().map_or(State::Closed, |link| State::Open(link.clone()));
            outcome.send_replace(Some(opened));
        });
        Err(attempt)
    }

    async fn opened(&self, mut attempt: Attempt) -> Result<Link, BackendError> {
        let outcome = attempt.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| {
            Err(BackendError::new(BackendErrorKind::Unreachable, format!("the attempt to reach Redis at {self} ended")))
        })
    }

    async fn open(self: &Arc<Self>) -> Result<Link, BackendError> {
        let silent = Arc::new(AtomicU32::new(0));
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            // Every call has its own deadline, which is for all of it.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        if self.client.get_connection_info().redis_settings().protocol() == ProtocolVersion::RESP3 {
            let (connection, silent) = (Arc::downgrade(self), Arc::clone(&silent));
            config = config.set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection
                    && let Some(connection) = connection.upgrade()
                {
                    connection.close(&silent);
                }
                Ok::<(), redis::aio::SendError>(())
            });
        }
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => Ok(Link { connection, silent }),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// Gives up the link, if it is still the one in use; calls that wait for its answers go on waiting.
    fn close(&self, silent: &Arc<AtomicU32>) {
        let mut state = self.state.lock();
        if matches!(&*state, State::Open(link) if Arc::ptr_eq(&link.silent, silent)) {
            let closed = std::mem::replace(&mut *state, State::Closed);
            drop(state);
            drop(closed);
        }
    }

    fn error(&self, error: &RedisError) -> BackendError {
        let kind = match error.kind() {
            _ if matches!(error.code(), Some("WRONGPASS" | "NOAUTH")) => BackendErrorKind::Configuration,
            ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig | ErrorKind::RESP3NotSupported => {
                BackendErrorKind::Configuration
            }
            ErrorKind::Io => BackendErrorKind::Unreachable,
            _ => BackendErrorKind::Refused,
        };
        let message = match kind {
            BackendErrorKind::Unreachable => format!("Redis at {self} cannot be reached: {error}"),
            _ => format!("Redis at {self} refused: {error}"),
        };
        BackendError::new(kind, self.without_password(message))
    }

    /// Servers quote the commands that they do not understand, with their arguments.
    fn without_password(&self, message: String) -> String {
        match self.client.get_connection_info().redis_settings().password() {
            Some(password) if !password.is_empty() => message.replace(password, "***"),
            _ => message,
        }
    }
}

/// The server's address.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.get_connection_info().addr().fmt(f)
    }
}

impl Link {
    async fn call(&mut self, command: &Cmd) -> RedisResult<Vec<u8>> {
        match command.query_async(&mut self.connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut both = redis::pipe();
                both.add_command(script::load()).ignore().add_command(command.clone());
                let (answer,) = both.query_async(&mut self.connection).await?;
                Ok(answer)
            }
            answer => answer,
        }
    }
}

/// Whether no call can succeed any more over the connection: it is lost, out of step, or leads to a server that takes no
/// writes any more.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}
