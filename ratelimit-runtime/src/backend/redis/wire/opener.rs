//! Opens the connections of blocking calls in the background. There is at most one attempt at a
//! time, and no caller's deadline ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Connection;
use tokio::sync::watch;

use crate::backend::redis::setup::endpoint::{Endpoint, no_thread, unreachable};
use crate::backend::redis::wire::links::Links;
use crate::error::BackendError;
use crate::rt::background;

/// An opened connection is discarded if no call takes it for this long.
const MAX_UNUSED: Duration = Duration::from_secs(1);

/// Opens the connections to one server.
pub(crate) struct Opener {
    pub(crate) endpoint: Endpoint,
    connect_timeout: Duration,
    links: Arc<Links>,
    attempt: Mutex<Option<Attempt>>,
}

/// The outcome, once it is known: an error for all who wait, or a connection for the first.
type Attempt = watch::Receiver<Option<Result<Arc<Opened>, BackendError>>>;

struct Opened {
    connection: Mutex<Option<Connection>>,
    at: Instant,
}

impl Opener {
    pub(crate) fn new(endpoint: Endpoint, connect_timeout: Duration, links: Arc<Links>) -> Opener {
        Opener { endpoint, connect_timeout, links, attempt: Mutex::default() }
    }

    /// A new connection. Has no deadline of its own.
    pub(crate) async fn open(&self) -> Result<Connection, BackendError> {
        loop {
            let mut attempt = self.attempt()?;
            let ended = attempt.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            let outcome = ended.unwrap_or_else(|| Err(unreachable("the attempt to reach Redis ended")));
            // Taken under that lock alone: `attempt` takes it under the other one.
            let connection = outcome?.connection.lock().take();
            if let Some(connection) = connection {
                let mut current = self.attempt.lock();
                if current.as_ref().is_some_and(|current| current.same_channel(&attempt)) {
                    *current = None;
                }
                return Ok(connection);
            }
        }
    }

    /// The attempt under way, or one whose connection was not taken; else a new one.
    fn attempt(&self) -> Result<Attempt, BackendError> {
        let mut current = self.attempt.lock();
        if let Some(attempt) = &*current {
            let is_usable = match &*attempt.borrow() {
                None => attempt.has_changed().is_ok(),
                Some(Ok(opened)) => opened.at.elapsed() < MAX_UNUSED && opened.connection.lock().is_some(),
                Some(Err(_)) => false,
            };
            if is_usable {
                return Ok(attempt.clone());
            }
        }
        let background = background::handle().map_err(|error| no_thread(&error))?;
        let (outcome, attempt) = watch::channel(None);
        let (endpoint, connect_timeout, links) = (self.endpoint.clone(), self.connect_timeout, Arc::clone(&self.links));
        let handle = background.clone();
        background.spawn(async move { links.watch(&handle).await });
        background.spawn_blocking(move || {
            let opened = endpoint
                .open(connect_timeout)
                .map(|connection| Arc::new(Opened { connection: Mutex::new(Some(connection)), at: Instant::now() }));
            outcome.send_replace(Some(opened));
        });
        *current = Some(attempt.clone());
        Ok(attempt)
    }
}
