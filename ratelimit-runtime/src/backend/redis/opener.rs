//! Opening the connections of blocking calls away from whoever waits for one: at most one attempt at a time, which nobody's
//! deadline ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Connection;
use tokio::sync::watch;

use super::endpoint::{Endpoint, no_thread, unreachable};
use super::links::Links;
use crate::background;
use crate::error::BackendError;

/// A connection that nobody took for so long is not used.
const KEPT: Duration = Duration::from_secs(1);

/// Opens the connections to one server.
pub(super) struct Opener {
    pub(super) endpoint: Endpoint,
    patience: Duration,
    links: Arc<Links>,
    attempt: Mutex<Option<Attempt>>,
}

/// The outcome, once it is known, is an error for all who wait or a connection for the first.
type Attempt = watch::Receiver<Option<Result<Arc<Opened>, BackendError>>>;

struct Opened {
    connection: Mutex<Option<Connection>>,
    at: Instant,
}

impl Opener {
    pub(super) fn new(endpoint: Endpoint, patience: Duration, links: Arc<Links>) -> Opener {
        Opener { endpoint, patience, links, attempt: Mutex::default() }
    }

    /// A new connection. Takes as long as it takes.
    pub(super) async fn open(&self) -> Result<Connection, BackendError> {
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

    /// The attempt that is under way or has brought a connection that nobody took; or else a new one.
    fn attempt(&self) -> Result<Attempt, BackendError> {
        let mut current = self.attempt.lock();
        if let Some(attempt) = &*current {
            let of_use = match &*attempt.borrow() {
                None => attempt.has_changed().is_ok(),
                Some(Ok(opened)) => opened.at.elapsed() < KEPT && opened.connection.lock().is_some(),
                Some(Err(_)) => false,
            };
            if of_use {
                return Ok(attempt.clone());
            }
        }
        let background = background::handle().map_err(|error| no_thread(&error))?;
        let (outcome, attempt) = watch::channel(None);
        let (endpoint, patience, links) = (self.endpoint.clone(), self.patience, Arc::clone(&self.links));
        let its = background.clone();
        background.spawn(async move { links.watch(&its).await });
        background.spawn_blocking(move || {
            let opened = endpoint
                .open(patience)
                .map(|connection| Arc::new(Opened { connection: Mutex::new(Some(connection)), at: Instant::now() }));
            outcome.send_replace(Some(opened));
        });
        *current = Some(attempt.clone());
        Ok(attempt)
    }
}
