//! Stores over a network that keep the bytes of a bucket and leave the arithmetic to this process.
//!
//! A call is a task of the caller's tokio runtime, or of this crate's background thread if there is
//! none. So it goes on when its caller gives up, no connection is left in the middle of a reply, and
//! what it has taken by then is given back. A runtime without I/O is noticed by the panic of its
//! first call, which the background thread then repeats.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};

use super::coalesce::{Coalescing, Entry, Merging, Transport};
use super::{Answer, Bucket, Request, Timestamp};
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::background;
use crate::rt::reply;
use crate::rt::timer;

/// Runtimes of which it is remembered that they have no I/O.
const REMEMBERED: usize = 16;
/// A call is ended this long after its caller's deadline. A store that is slow, and not gone, may
/// then still say that nothing was taken.
const GRACE: Duration = Duration::from_millis(100);

/// Decisions through a transport: what a backend's methods call.
pub(crate) struct Remote<T: Transport> {
    pub(crate) transport: T,
    coalescing: Arc<Coalescing>,
    without_io: Arc<Mutex<Vec<Id>>>,
}

/// The requests of one bucket, decided on its stored bytes.
pub(crate) struct Applied {
    pub(crate) answers: Vec<Answer>,
    /// What to store, if it has changed.
    pub(crate) bytes: Option<Vec<u8>>,
    /// When the bucket is idle again and may be forgotten.
    pub(crate) expires_at: Timestamp,
}

/// Decides requests on one bucket in their order, at `now`. No bytes are an unused bucket. Fails if
/// they are not a bucket's.
pub(crate) fn apply(bytes: &[u8], requests: &[&Request], now: Timestamp) -> Result<Applied, BackendError> {
    let mut bucket = Bucket::from_bytes(bytes)?;
    let answers = requests.iter().map(|request| bucket.apply(request, now)).collect();
    let expires_at = requests.last().map_or(now, |request| bucket.expires_at(request));
    let after = bucket.to_bytes();
    Ok(Applied { answers, bytes: (after != bytes).then_some(after), expires_at })
}

impl<T: Transport> Remote<T> {
    /// Calls on one bucket that come together are merged.
    pub(crate) fn new(transport: T) -> Remote<T> {
        let coalescing = Arc::new(Coalescing::new(Merging::BY_BUCKET));
        Remote { transport, coalescing, without_io: Arc::default() }
    }

    /// Blocks the thread for the answer, until the deadline at most.
    pub(crate) fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        let deadline = self.transport.until();
        let receiver = self.start(None, request, deadline)?;
        self.delivered(receiver.wait(deadline))
    }

    pub(crate) async fn decide_async(&self, request: &Request) -> Result<Answer, BackendError> {
        let deadline = self.transport.until();
        let runtime = self.runtime();
        let alone = match self.coalescing.enter(&self.transport, request, deadline, runtime.clone()) {
            Entry::Seated(seated) => {
                let answer = timer::bounded(seated, deadline).await;
                return answer.unwrap_or_else(|| Err(self.transport.late()));
            }
            Entry::Alone(alone) => alone,
        };
        let receiver = self.start(runtime, request, deadline)?;
        let delivery = timer::bounded(receiver, deadline).await;
        drop(alone);
        self.delivered(delivery.flatten())
    }

    /// This thread's runtime, if it has I/O.
    fn runtime(&self) -> Option<Handle> {
        let runtime = Handle::try_current().ok()?;
        let has_io = !self.without_io.lock().contains(&runtime.id());
        has_io.then_some(runtime)
    }

    /// Starts a call on a runtime, or in the background.
    fn start(
        &self,
        runtime: Option<Handle>,
        request: &Request,
        deadline: Instant,
    ) -> Result<reply::Receiver<Delivery<T>>, BackendError> {
        let (sender, receiver) = reply::channel();
        let (transport, request) = (self.transport.clone(), request.clone());
        let without_io = runtime.is_some().then(|| Arc::clone(&self.without_io));
        let call = Call { transport, request, deadline, sender: Some(sender), without_io };
        let runtime = match runtime {
            Some(runtime) => runtime,
            None => background::handle().map_err(|error| no_thread(&error))?,
        };
        runtime.spawn(call.run());
        Ok(receiver)
    }

    fn delivered(&self, delivery: Option<Delivery<T>>) -> Result<Answer, BackendError> {
        delivery.and_then(Delivery::take).unwrap_or_else(|| Err(self.transport.late()))
    }
}

/// A call under way.
struct Call<T: Transport> {
    transport: T,
    request: Request,
    deadline: Instant,
    /// None once it has answered.
    sender: Option<reply::Sender<Delivery<T>>>,
    /// None in the background, which has I/O.
    without_io: Option<Arc<Mutex<Vec<Id>>>>,
}

impl<T: Transport> Call<T> {
    async fn run(mut self) {
        let requests = [&self.request];
        let sent = self.transport.send(&requests, self.deadline);
        let answer = match timer::bounded(sent, self.deadline + GRACE).await {
            Some(Ok(mut answers)) => answers.pop().unwrap_or_else(|| Err(self.transport.late())),
            Some(Err(error)) => Err(error),
            None => Err(self.transport.late()),
        };
        if let Some(sender) = self.sender.take() {
            let (transport, request) = (self.transport.clone(), self.request.clone());
            sender.send(Delivery { answer: Some(answer), transport, request, deadline: self.deadline });
        }
    }
}

impl<T: Transport> Drop for Call<T> {
    fn drop(&mut self) {
        let (Some(sender), Some(without_io)) = (self.sender.take(), self.without_io.take()) else { return };
        // Without I/O, tokio's sockets panic.
        if !std::thread::panicking() {
            return;
        }
        let Ok(background) = background::handle() else { return };
        if let Ok(runtime) = Handle::try_current() {
            let mut known = without_io.lock();
            if known.len() >= REMEMBERED {
                known.remove(0);
            }
            known.push(runtime.id());
        }
        let (transport, request) = (self.transport.clone(), self.request.clone());
        let again = Call { transport, request, deadline: self.deadline, sender: Some(sender), without_io: None };
        background.spawn(again.run());
    }
}

/// An answer on its way to the caller.
struct Delivery<T: Transport> {
    answer: Option<Result<Answer, BackendError>>,
    transport: T,
    request: Request,
    deadline: Instant,
}

impl<T: Transport> Delivery<T> {
    fn take(mut self) -> Option<Result<Answer, BackendError>> {
        self.answer.take()
    }
}

impl<T: Transport> Drop for Delivery<T> {
    fn drop(&mut self) {
        // After the deadline the caller may have gone on without the backend: its permits stay
        // taken.
        if let Some(Ok(answer)) = self.answer.take()
            && Instant::now() < self.deadline
        {
            self.transport.give_back(&self.request, answer);
        }
    }
}

fn no_thread(error: &std::io::Error) -> BackendError {
    BackendError::new(BackendErrorKind::Unreachable, format!("the background thread cannot be started: {error}"))
}
