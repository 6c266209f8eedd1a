//! A call on several buckets, as a task: if its caller gives up, it goes on and gives back what it
//! has taken.

use std::time::Instant;

use tokio::runtime::Handle;

use super::store::Store;
use crate::backend::coalesce::Transport as _;
use crate::backend::{Answer, Request, given_back};
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::background;
use crate::rt::reply;

/// The answers on their way to the caller.
pub(super) struct Delivery {
    answers: Option<Result<Vec<Answer>, BackendError>>,
    store: Store,
    requests: Vec<Request>,
    deadline: Instant,
}

impl Delivery {
    pub(super) fn take(mut self) -> Option<Result<Vec<Answer>, BackendError>> {
        self.answers.take()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // After the deadline the caller may have gone on without the backend: its permits stay
        // taken.
        if let Some(Ok(answers)) = self.answers.take()
            && Instant::now() < self.deadline
        {
            for back in given_back(&self.requests, &answers) {
                self.store.decide_later(back);
            }
        }
    }
}

/// Starts a call on a runtime, or in the background.
pub(super) fn start(
    store: &Store,
    requests: &[Request],
    deadline: Instant,
    runtime: Option<Handle>,
) -> Result<reply::Receiver<Delivery>, BackendError> {
    let (sender, receiver) = reply::channel();
    let (store, requests) = (store.clone(), requests.to_vec());
    let runtime = match runtime {
        Some(runtime) => runtime,
        None => background::handle().map_err(|error| {
            let message = format!("the background thread cannot be started: {error}");
            BackendError::new(BackendErrorKind::Unreachable, message)
        })?,
    };
    runtime.spawn(async move {
        let answers = Some(store.decide_together(&requests, deadline).await);
        sender.send(Delivery { answers, store, requests, deadline });
    });
    Ok(receiver)
}
