//! Finds servers in the background, once for all calls that wait, and keeps the result until it
//! proves wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, ConnectionLike, Value};
use tokio::sync::watch;

use crate::backend::redis::setup::endpoint::{Endpoint, no_thread, unreachable};
use crate::backend::redis::wire::node::Mode;
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::background;
use crate::rt::timer;

/// The timeout of one query for the servers' addresses.
const QUERY_TIMEOUT: Duration = Duration::from_millis(250);

pub(crate) struct Discovery<T> {
    state: Arc<Mutex<State<T>>>,
    find: Arc<dyn Fn() -> Result<Arc<T>, BackendError> + Send + Sync>,
}

struct State<T> {
    found: Option<(Arc<T>, Instant)>,
    attempt: Option<Attempt<T>>,
}

type Attempt<T> = watch::Receiver<Option<Result<Arc<T>, BackendError>>>;

impl<T: Send + Sync + 'static> Discovery<T> {
    /// `find` may block.
    pub(crate) fn new(find: impl Fn() -> Result<Arc<T>, BackendError> + Send + Sync + 'static) -> Discovery<T> {
        Discovery { state: Arc::new(Mutex::new(State { found: None, attempt: None })), find: Arc::new(find) }
    }

    /// What was found. The poller of a blocking call enforces its deadline.
    pub(crate) async fn get(&self, deadline: Instant, mode: Mode) -> Result<Arc<T>, BackendError> {
        if let Some((found, _)) = &self.state.lock().found {
            return Ok(Arc::clone(found));
        }
        let background = background::handle().map_err(|error| no_thread(&error))?;
        let mut attempt = self.attempt(&background);
        let ended = async { attempt.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
        let outcome = match mode {
            Mode::Blocking => ended.await,
            Mode::Async => timer::bounded(ended, deadline).await.unwrap_or_else(|| {
                let message = "the Redis servers were not found in time";
                Some(Err(BackendError::new(BackendErrorKind::Timeout, message)))
            }),
        };
        outcome.unwrap_or_else(|| Err(unreachable("the search for the Redis servers ended")))
    }

    /// The attempt under way, or a new one.
    fn attempt(&self, background: &tokio::runtime::Handle) -> Attempt<T> {
        let mut state = self.state.lock();
        if let Some(attempt) = &state.attempt
            && attempt.has_changed().is_ok()
        {
            return attempt.clone();
        }
        let (outcome, attempt) = watch::channel(None);
        state.attempt = Some(attempt.clone());
        drop(state);
        let (state, find) = (Arc::clone(&self.state), Arc::clone(&self.find));
        background.spawn_blocking(move || {
            let found = find();
            let mut state = state.lock();
            state.found = found.clone().ok().map(|found| (found, Instant::now()));
            state.attempt = None;
            drop(state);
            outcome.send_replace(Some(found));
        });
        attempt
    }

    /// Makes the next call search again, unless the result is younger than `age`.
    pub(crate) fn forget(&self, wrong: &Arc<T>, age: Duration) {
        let mut state = self.state.lock();
        if state.found.as_ref().is_some_and(|(found, at)| Arc::ptr_eq(found, wrong) && at.elapsed() >= age) {
            let gone = state.found.take();
            drop(state);
            drop(gone);
        }
    }
}

/// Queries a server for the addresses of others, on this thread.
pub(crate) fn ask(endpoint: &Endpoint, command: &Cmd) -> Result<Value, BackendError> {
    let mut connection = endpoint.open(QUERY_TIMEOUT)?;
    let limited = connection
        .set_read_timeout(Some(QUERY_TIMEOUT))
        .and_then(|()| connection.set_write_timeout(Some(QUERY_TIMEOUT)));
    match limited.and_then(|()| connection.req_command(command)) {
        Ok(Value::ServerError(refusal)) => Err(endpoint.refused(&refusal)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(endpoint.failed(&error)),
    }
}
