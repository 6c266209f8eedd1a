//! Opening connections away from whoever waits for one: at most one attempt at a time, which nobody's deadline ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::stream::{Endpoint, Line};
use crate::background;
use crate::error::{BackendError, BackendErrorKind};

/// An attempt to connect may take this long where a call's own timeout is shorter: a server that takes longer than that to
/// say hello can be reached by a later call.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens the connections to one server.
pub(super) struct Opener {
    pub(super) endpoint: Endpoint,
    patience: Duration,
    attempt: Arc<Mutex<Option<Attempt>>>,
}

/// The outcome, once it is known, is an error for all who wait or a connection for the first.
type Attempt = watch::Receiver<Option<Result<Arc<Mutex<Option<Line>>>, BackendError>>>;

impl Opener {
    pub(super) fn new(endpoint: Endpoint, timeout: Duration) -> Opener {
        Opener { endpoint, patience: timeout.max(PATIENCE), attempt: Arc::default() }
    }

    /// A new connection. Takes as long as it takes.
    pub(super) async fn open(&self) -> Result<Line, BackendError> {
        loop {
            let mut attempt = self.attempt()?;
            let ended = attempt.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            let outcome = ended.unwrap_or_else(|| Err(unreachable("the attempt to reach Redis ended")));
            // Taken under that lock alone: `attempt` takes it under the other one.
            let line = outcome?.lock().take();
            if let Some(line) = line {
                let mut current = self.attempt.lock();
                if current.as_ref().is_some_and(|current| current.same_channel(&attempt)) {
                    *current = None;
                }
                return Ok(line);
            }
        }
    }

    /// The attempt that is under way or has brought a connection that nobody took; or else a new one.
    fn attempt(&self) -> Result<Attempt, BackendError> {
        let mut current = self.attempt.lock();
        if let Some(attempt) = &*current {
            let of_use = match &*attempt.borrow() {
                None => attempt.has_changed().is_ok(),
                Some(Ok(line)) => line.lock().as_mut().is_some_and(|line| !line.is_over()),
                Some(Err(_)) => false,
            };
            if of_use {
                return Ok(attempt.clone());
            }
        }
        let background =
            background::handle().map_err(|error| unreachable(&format!("no thread can be started: {error}")))?;
        let (outcome, attempt) = watch::channel(None);
        let (endpoint, until) = (self.endpoint.clone(), Instant::now() + self.patience);
        background.spawn_blocking(move || {
            outcome.send_replace(Some(endpoint.open(until).map(|line| Arc::new(Mutex::new(Some(line))))));
        });
        *current = Some(attempt.clone());
        Ok(attempt)
    }
}

pub(super) fn unreachable(message: &str) -> BackendError {
    BackendError::new(BackendErrorKind::Unreachable, message)
}
