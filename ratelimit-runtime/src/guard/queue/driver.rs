//! The driver of a queue: asks the backend for bookings.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use smallvec::SmallVec;

use super::Queue;
use super::state::{Booked, Next};
use crate::algorithm::record::{Admission, Refusal};
use crate::backend::{Action, Answer, Denied, Outcome, Request};
use crate::error::BackendError;
#[cfg(any(feature = "tokio", feature = "_transport"))]
use crate::error::BackendErrorKind;
use crate::guard::Guard;
use crate::queue::{Place, Wakes};
use crate::rt::sync::Ordering;

/// The driver of a queue. If it ends early, the waiting calls fail.
struct Driver {
    guard: Arc<Guard>,
    queue: Arc<Queue>,
}

/// How requests are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Without blocking the thread.
    Driver,
    /// Blocking it.
    Caller,
}

/// The result of a driver's step.
pub(super) enum Step {
    Again,
    Sleep(u64),
    End,
}

impl Driver {
    async fn run(self) {
        loop {
            let mut wakes = Wakes::default();
            let step = step(&self.guard, &self.queue, By::Driver, &mut wakes).await;
            wakes.wake();
            match step {
                Step::Sleep(until) => self.queue.pause(until).await,
                Step::End if ends(&self.guard, &self.queue) => return,
                Step::Again | Step::End => {}
            }
        }
    }
}

/// Hands out what is due, then sends at most one batch of requests.
pub(super) async fn step(guard: &Arc<Guard>, queue: &Arc<Queue>, by: By, wakes: &mut Wakes) -> Step {
    match queue.next(queue.now().earliest, wakes) {
        Next::GiveBack(booked) => {
            give_back(guard, queue, booked, by).await;
            Step::Again
        }
        Next::Ask(asked) => {
            let sent = queue.now().earliest;
            let ask = |_| ask(guard, asked.request.clone(), asked.cost, asked.ahead, by);
            let answers = all(asked.places.iter().map(ask).collect()).await;
            let failed = queue.answered(&asked, sent, queue.now().latest, answers, wakes);
            queue.fail(&failed, queue.now(), wakes);
            Step::Again
        }
        Next::Sleep(until) => Step::Sleep(until),
        Next::End => Step::End,
    }
}

/// Gives a booking back. Before it is due, a backend takes back only its newest booking. Any other
/// is kept until it is due, for a call that comes in time.
async fn give_back(guard: &Arc<Guard>, queue: &Arc<Queue>, mut booked: Booked, by: By) {
    if booked.due > queue.now().latest {
        let peek = Action::Peek { cost: booked.admission.permit.cost, max_wait: Duration::MAX };
        let request = Request { limits: booked.made_by.clone(), ..queue.request(&*booked.limits, peek) };
        let peeked = decide(guard, request, by).await;
        if let Ok(Answer { outcome: Outcome::Admitted(last), .. }) = peeked {
            match queue.state.lock().keep(booked, last.admission.permit.sequence) {
                Some(newest) => booked = newest,
                None => return,
            }
        }
    }
    // Permits that cannot be given back stay taken: the limit holds.
    let Booked { admission, limits, made_by, .. } = booked;
    let request = queue.request(&*limits, Action::GiveBack(admission.permit));
    let _ = decide(guard, Request { limits: made_by, ..request }, by).await;
}

/// Removes the queue, unless a call has joined it meanwhile.
pub(super) fn ends(guard: &Guard, queue: &Arc<Queue>) -> bool {
    let map = guard.queues.map();
    let mut queues = map.lock();
    let state = queue.state.lock();
    if !state.line.is_empty() || !state.booked.is_empty() || !state.unused.is_empty() {
        return false;
    }
    // After the removal there may be a new queue.
    if queues.get(&queue.bucket).is_some_and(|other| Arc::ptr_eq(other, queue)) {
        queues.remove(&queue.bucket);
        guard.queues.len.fetch_sub(1, Ordering::Release);
    }
    true
}

impl Drop for Driver {
    fn drop(&mut self) {
        loop {
            let mut wakes = Wakes::default();
            let mut state = self.queue.state.lock();
            state.booked.clear();
            state.unused.clear();
            state.alarm = None;
            let all: Vec<Place> = state.line.iter().map(|(place, _)| *place).collect();
            drop(state);
            self.queue.fail(&all, self.queue.now(), &mut wakes);
            wakes.wake();
            if ends(&self.guard, &self.queue) {
                return;
            }
        }
    }
}

/// Starts the driver of a new queue.
#[cfg(all(any(feature = "tokio", feature = "_transport"), not(loom_model)))]
pub(super) fn start(guard: &Arc<Guard>, queue: &Arc<Queue>) -> bool {
    if queue.is_stopped() {
        return true;
    }
    let Ok(background) = crate::rt::background::handle() else { return false };
    let (guard, queue) = (Arc::clone(guard), Arc::clone(queue));
    background.spawn(async move { Driver { guard, queue }.run().await });
    true
}

/// Runs the driver on its own thread: without a runtime, only threads can wait.
#[cfg(not(any(feature = "tokio", feature = "_transport", loom_model)))]
pub(super) fn start(guard: &Arc<Guard>, queue: &Arc<Queue>) -> bool {
    let (guard, queue) = (Arc::clone(guard), Arc::clone(queue));
    // Made on the thread: if it cannot be started, it drops what it was given, under locks held
    // here.
    let run = move || {
        let far = std::time::Instant::now() + Duration::from_secs(1 << 30);
        crate::rt::reply::block_on(Driver { guard, queue }.run(), far);
    };
    std::thread::Builder::new().name("ratelimit-wait".into()).spawn(run).is_ok()
}

/// A model runs the driver's steps itself.
#[cfg(loom_model)]
pub(super) fn start(_: &Arc<Guard>, _: &Arc<Queue>) -> bool {
    let _ = Driver::run;
    true
}

/// Books permits for a call, if they are due within `ahead`.
async fn ask(guard: &Arc<Guard>, request: Request, cost: u32, ahead: u64, by: By) -> Result<Answer, BackendError> {
    if request.backoff.is_none() {
        return decide(guard, request, by).await;
    }
    // A waiting call must commit no offence, so it peeks before it takes.
    let max_wait = Duration::MAX;
    let Answer { now, outcome } =
        decide(guard, Request { action: Action::Peek { cost, max_wait }, ..request.clone() }, by).await?;
    match outcome {
        Outcome::Admitted(admitted) if admitted.at().as_nanos().saturating_sub(now.as_nanos()) > ahead => {
            let Admission { permit, limit, .. } = admitted.admission;
            let refusal = Refusal { limit, remaining: 0, admitted_at: Some(permit.at), is_blocked: false };
            Ok(Answer { now, outcome: Outcome::Denied(Denied { refusal }) })
        }
        Outcome::Admitted(_) => decide(guard, Request { action: Action::Take { cost, max_wait }, ..request }, by).await,
        outcome => Ok(Answer { now, outcome }),
    }
}

#[cfg(any(feature = "tokio", feature = "_transport"))]
async fn decide(guard: &Arc<Guard>, request: Request, by: By) -> Result<Answer, BackendError> {
    if by != By::Driver {
        return guard.decide(&request);
    }
    if !guard.only_blocks(&request) {
        return guard.decide_async(&request).await;
    }
    let guard = Arc::clone(guard);
    let decided = tokio::task::spawn_blocking(move || guard.decide(&request)).await;
    decided.unwrap_or_else(|_| Err(BackendError::new(BackendErrorKind::Refused, "the backend panicked")))
}

#[cfg(not(any(feature = "tokio", feature = "_transport")))]
#[expect(clippy::unused_async, reason = "stands for the one that awaits")]
async fn decide(guard: &Arc<Guard>, request: Request, _: By) -> Result<Answer, BackendError> {
    guard.decide(&request)
}

/// The results of the futures, which run concurrently.
async fn all<F: Future>(futures: SmallVec<[F; 1]>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut is_ready = true;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(ready) => *output = Some(ready),
                    Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
