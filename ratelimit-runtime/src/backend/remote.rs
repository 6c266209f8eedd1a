//! Stores over a network that keep the bytes of a bucket and leave the arithmetic to this process.
//!
//! The caller polls its call. If the caller gives up, the call goes on as a task. No connection is
//! left in the middle of a reply, and the permits are given back. A call uses the sockets of the
//! caller's tokio runtime, or of this crate's background thread if there is none. Blocking calls
//! use those of the background thread and are merged like others.

use std::future::Future;
use std::net::{Ipv4Addr, UdpSocket};
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::{Handle, Id};

use super::coalesce::{Alone, Coalescing, Entry, Merging, Transport};
use super::{Answer, Bucket, Request, Timestamp};
use crate::algorithm::codec;
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::background;
use crate::rt::reply;
use crate::rt::timer;

/// The most runtimes for which this process remembers whether they have I/O.
const REMEMBERED: usize = 64;

/// Decisions through a transport: what a backend's methods call.
pub(crate) struct Remote<T: Transport> {
    pub(crate) transport: T,
    coalescing: Arc<Coalescing>,
    /// Blocking calls under way.
    blocking: AtomicUsize,
    /// Runtimes, and whether they have I/O.
    runtimes: Mutex<Vec<(Id, bool)>>,
}

/// The requests of one bucket, decided on its stored bytes.
pub(crate) struct Applied {
    pub(crate) answers: Vec<Answer>,
    /// What to store, if more than the time of the latest decision has changed.
    pub(crate) bytes: Option<Vec<u8>>,
    /// The time of the decisions.
    pub(crate) now: Timestamp,
    /// When the bucket is idle again and may be forgotten.
    pub(crate) expires_at: Timestamp,
}

/// Decides requests on one bucket in their order. No bytes are an unused bucket. Fails if they are
/// not a bucket's.
///
/// `now` gets the latest time on record and returns the time of the decisions: by the server's
/// clock, or without one, a time that is not before the record's.
///
/// A peek and a denied call without `backoff` change nothing that must be stored.
pub(crate) fn apply(
    bytes: &[u8],
    requests: &[&Request],
    now: impl FnOnce(Timestamp) -> Timestamp,
) -> Result<Applied, BackendError> {
    let mut bucket = Bucket::from_bytes(bytes)?;
    let now = now(Timestamp(bucket.record.clock));
    let asked: SmallVec<[_; 1]> = requests.iter().map(|request| (*request, request.rules())).collect();
    let answers = asked.iter().map(|(request, rules)| bucket.apply_by(rules, request, now)).collect();
    // Requests may differ in limits: the bucket is kept while any of them needs it.
    let expires_at = asked.iter().map(|(request, rules)| bucket.expires_by(rules, request)).max().unwrap_or(now);
    let after = bucket.to_bytes();
    let bytes = codec::has_changed(bytes, &after).then_some(after);
    Ok(Applied { answers, bytes, now, expires_at })
}

impl<T: Transport> Remote<T> {
    /// Calls that come together are merged.
    pub(crate) fn new(transport: T, merging: Merging) -> Remote<T> {
        let coalescing = Arc::new(Coalescing::new(merging));
        Remote { transport, coalescing, blocking: AtomicUsize::new(0), runtimes: Mutex::default() }
    }

    /// Blocks the thread for the answer, until the deadline at most.
    pub(crate) fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        let deadline = self.transport.until();
        let under_way = UnderWay::new(&self.blocking);
        let alone = match self.coalescing.enter(&self.transport, request, deadline, None) {
            Entry::Seated(seated) => {
                return reply::block_on(seated, deadline).unwrap_or_else(|| Err(self.transport.late()));
            }
            Entry::Alone(alone) => alone,
        };
        // With concurrent calls, the shared connection is better: it has seen their writes.
        if under_way.is_alone
            && let Some(answer) = self.transport.decide_here(request, deadline)
        {
            return answer;
        }
        let call = self.call(request, deadline, alone);
        let background = background::handle().map_err(|error| no_thread(&error))?;
        // In a thread that ends, tokio's thread-locals may be gone.
        if Handle::try_current().is_err_and(|error| error.is_thread_local_destroyed()) {
            return self.delivered(started(&background, call).wait(deadline));
        }
        // This thread decides, and the background thread writes and reads.
        let _entered = background.enter();
        let call = InFlight { call: Some(call), runtime: background.clone() };
        // tokio's primitives spend the surrounding task's cooperative budget, which a blocked
        // thread would never get back.
        let answer = reply::block_on(tokio::task::coop::unconstrained(call), deadline);
        answer.unwrap_or_else(|| Err(self.transport.late()))
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
        let call = self.call(request, deadline, alone);
        let Some(runtime) = runtime else {
            let background = background::handle().map_err(|error| no_thread(&error))?;
            return self.delivered(timer::bounded(started(&background, call), deadline).await.flatten());
        };
        let call = InFlight { call: Some(call), runtime };
        if T::KEEPS_DEADLINE {
            return call.await;
        }
        timer::bounded(call, deadline).await.unwrap_or_else(|| Err(self.transport.late()))
    }

    /// A call that is sent alone. Nothing happens before it is polled.
    fn call(&self, request: &Request, deadline: Instant, alone: Alone) -> Call<T> {
        let (transport, request) = (self.transport.clone(), request.clone());
        Box::pin(async move {
            let answer = sent(&transport, &request, deadline).await;
            drop(alone);
            Delivery { answer: Some(answer), transport, request, deadline }
        })
    }

    /// This thread's runtime, if it has I/O.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        let runtime = Handle::try_current().ok()?;
        let id = runtime.id();
        let known = self.runtimes.lock().iter().find(|(known, _)| *known == id).map(|(_, has_io)| *has_io);
        let has_io = known.unwrap_or_else(|| {
            let has_io = has_io();
            let mut runtimes = self.runtimes.lock();
            if runtimes.len() >= REMEMBERED {
                runtimes.remove(0);
            }
            runtimes.push((id, has_io));
            has_io
        });
        has_io.then_some(runtime)
    }

    fn delivered(&self, delivery: Option<Delivery<T>>) -> Result<Answer, BackendError> {
        delivery.and_then(Delivery::take).unwrap_or_else(|| Err(self.transport.late()))
    }
}

/// A blocking call, until it is dropped.
struct UnderWay<'a> {
    calls: &'a AtomicUsize,
    /// Whether no other was under way when it began.
    is_alone: bool,
}

impl UnderWay<'_> {
    fn new(calls: &AtomicUsize) -> UnderWay<'_> {
        UnderWay { calls, is_alone: calls.fetch_add(1, Ordering::Relaxed) == 0 }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the current runtime has I/O. Without it, tokio's sockets panic: the panic hook sees it
/// once, and with `panic = "abort"` such a runtime needs `enable_io`.
fn has_io() -> bool {
    let socket = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket)
    };
    // A socket that the system refuses says nothing about the runtime.
    catch_unwind(socket).is_ok()
}

/// A call under way.
type Call<T> = Pin<Box<dyn Future<Output = Delivery<T>> + Send>>;

/// A call that its caller polls. If the caller gives up, it goes on as a task.
struct InFlight<T: Transport> {
    /// None once it is done.
    call: Option<Call<T>>,
    runtime: Handle,
}

impl<T: Transport> Future for InFlight<T> {
    type Output = Result<Answer, BackendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        let delivery = ready!(call.as_mut().poll(context));
        self.call = None;
        delivery.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T: Transport> Drop for InFlight<T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.runtime.spawn(async move { drop(call.await) });
        }
    }
}

/// Runs a call as a task.
fn started<T: Transport>(runtime: &Handle, call: Call<T>) -> reply::Receiver<Delivery<T>> {
    let (sender, receiver) = reply::channel();
    runtime.spawn(async move { sender.send(call.await) });
    receiver
}

async fn sent<T: Transport>(transport: &T, request: &Request, deadline: Instant) -> Result<Answer, BackendError> {
    let mut answers = transport.send(&[request], deadline).await?;
    answers.pop().unwrap_or_else(|| Err(transport.late()))
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

#[cfg(all(test, not(loom_model)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::{Action, Outcome};
    use crate::limit::{Algorithm, Limit};

    #[test]
    fn a_bucket_is_kept_while_any_of_the_merged_calls_needs_it() {
        const HOUR: Duration = Duration::from_secs(3_600);
        let now = Timestamp::from_nanos(1_000_000 * 3_600_000_000_000);
        let in_an_hour = Timestamp::from_nanos(1_000_001 * 3_600_000_000_000);
        for algorithm in Algorithm::ALL {
            let take = |per| {
                let limit = Limit::new(1, per).with_algorithm(algorithm);
                Request::new("api:a", &[limit], Action::Take { cost: 1, max_wait: Duration::ZERO })
            };
            let applied = apply(&[], &[&take(HOUR), &take(HOUR / 3_600)], |_| now).unwrap();
            assert!(matches!(applied.answers[1].outcome, Outcome::Denied(_)));
            assert!(applied.expires_at >= in_an_hour, "{algorithm:?}");
        }
    }

    #[test]
    fn only_a_change_beyond_the_time_is_stored() {
        let hour = Duration::from_secs(3_600);
        let (take, peek) =
            (Action::Take { cost: 1, max_wait: Duration::ZERO }, Action::Peek { cost: 1, max_wait: Duration::ZERO });
        for algorithm in Algorithm::ALL {
            let limit = Limit::new(1, hour).with_algorithm(algorithm);
            let stored = |bytes: &[u8], action: &Action, at| {
                apply(bytes, &[&Request::new("api:a", &[limit], action.clone())], |_| Timestamp(at)).unwrap().bytes
            };
            let start = 1_000_000 * 3_600_000_000_000;
            assert_eq!(stored(&[], &peek, start), None, "{algorithm:?}: an unused bucket");
            let used = stored(&[], &take, start).unwrap();
            for action in [&take, &peek] {
                assert_eq!(stored(&used, action, start + 1), None, "{algorithm:?}: {action:?}");
            }
            assert!(stored(&used, &take, start + 2 * 3_600_000_000_000).is_some(), "{algorithm:?}");
        }
    }
}
