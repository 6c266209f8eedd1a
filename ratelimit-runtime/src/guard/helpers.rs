//! A thread pool for a backend's blocking decisions, so that a hanging decision does not hang its
//! caller.
//!
//! Threads start on demand, end when idle, and are bounded in number. A decision that hangs
//! occupies its thread; once all threads are occupied, only probes still start.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::backend::{Action, Answer, Backend, Outcome, Request, given_back};
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::process::{Owned, PerProcess, lock};
use crate::rt::reply::{self, Receiver};

/// The most threads of one backend.
const THREADS: usize = 32;
/// Further threads that only probes may start: the backend may be well again while the old
/// decisions still hang.
const FOR_PROBES: usize = 16;
/// The most decisions that wait for a thread.
const QUEUE: usize = 4_096;
/// How long an idle thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// The threads of one backend.
#[derive(Clone)]
pub(super) struct Helpers {
    shared: Arc<PerProcess<Shared>>,
}

struct Shared {
    work: Mutex<Work>,
    more: Condvar,
    /// Whether the last awaited decision came promptly.
    is_prompt: AtomicBool,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

type Job = Box<dyn FnOnce() + Send>;

/// A decision to be made.
pub(super) struct Task {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) request: Request,
    /// The caller waits no longer than this.
    pub(super) deadline: Instant,
    pub(super) is_probe: bool,
}

impl Helpers {
    pub(super) fn new() -> Helpers {
        Helpers { shared: Arc::new(PerProcess::new()) }
    }

    fn shared(&self) -> Arc<Owned<Shared>> {
        self.shared.get(|| Shared { work: Mutex::default(), more: Condvar::new(), is_prompt: AtomicBool::new(true) })
    }

    /// Queues a decision. It is skipped if its deadline has passed when its turn comes. If the
    /// caller gave up before the deadline, what the decision took is given back.
    pub(super) fn ask(&self, task: Task) -> Result<Receiver<Delivery>, BackendError> {
        let (sender, receiver) = reply::channel();
        let helpers = self.clone();
        let Task { backend, request, deadline, is_probe } = task;
        let job = Box::new(move || {
            if !sender.is_awaited() {
                return;
            }
            let answer = backend.decide(&request);
            let undelivered = matches!(request.action(), Action::Take { cost: 1.., .. });
            let undelivered = undelivered.then_some(Undelivered { helpers, backend, request, deadline });
            sender.send(Delivery { answer: Some(answer), undelivered });
        });
        self.submit(job, is_probe)?;
        Ok(receiver)
    }

    /// As [`ask`](Helpers::ask), for the buckets of one call.
    pub(super) fn ask_together(
        &self,
        backend: Arc<dyn Backend>,
        requests: Vec<Request>,
        deadline: Instant,
        is_probe: bool,
    ) -> Result<Receiver<Together>, BackendError> {
        let (sender, receiver) = reply::channel();
        let helpers = self.clone();
        let job = Box::new(move || {
            if !sender.is_awaited() {
                return;
            }
            let answers = backend.decide_together(&requests);
            sender.send(Together { answers: Some(answers), helpers, backend, requests, deadline });
        });
        self.submit(job, is_probe)?;
        Ok(receiver)
    }

    /// Queues a request whose answer is ignored. Dropped if no thread can take it.
    pub(super) fn tell(&self, backend: Arc<dyn Backend>, request: Request) -> Receiver<()> {
        let (sender, receiver) = reply::channel();
        let job = Box::new(move || {
            backend.decide_later(request);
            sender.send(());
        });
        // If it fails, dropping the job closes the channel.
        let _ = self.submit(job, false);
        receiver
    }

    /// Blocks the thread for an answer that usually comes soon, until `patience` at most. Not at
    /// all while answers are late.
    pub(super) fn wait_a_moment<T>(&self, receiver: &mut Receiver<T>, patience: Instant) -> Poll<Option<T>> {
        let shared = self.shared();
        if !shared.is_prompt.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let answer = receiver.wait_until(patience);
        if answer.is_pending() {
            shared.is_prompt.store(false, Ordering::Relaxed);
        }
        answer
    }

    /// Records the duration of a decision that was awaited without blocking.
    pub(super) fn took(&self, took: Duration, prompt: Duration) {
        if took < prompt {
            self.shared().is_prompt.store(true, Ordering::Relaxed);
        }
    }

    fn submit(&self, job: Job, is_probe: bool) -> Result<(), BackendError> {
        let busy = |why| BackendError::new(BackendErrorKind::Unreachable, format!("the decision was not begun: {why}"));
        let shared = self.shared();
        let mut work = lock(&shared.work);
        if work.jobs.len() >= QUEUE {
            return Err(busy("too many wait already"));
        }
        if is_probe {
            work.jobs.push_front(job);
        } else {
            work.jobs.push_back(job);
        }
        let most = if is_probe { THREADS + FOR_PROBES } else { THREADS };
        if work.idle < work.jobs.len() && work.threads < most {
            let its = Arc::clone(&shared);
            let started = std::thread::Builder::new().name("ratelimit-helper".into()).spawn(move || run(&its));
            match started {
                Ok(_) => work.threads += 1,
                Err(_) if work.threads == 0 => {
                    let jobs = std::mem::take(&mut work.jobs);
                    drop(work);
                    // Outside the lock: dropping a backend may run foreign code.
                    drop(jobs);
                    return Err(busy("no thread can be started"));
                }
                // Otherwise the existing threads do it.
                Err(_) => {}
            }
        }
        drop(work);
        shared.more.notify_one();
        Ok(())
    }
}

fn run(shared: &Shared) {
    /// Counts the thread as ended, after a panic too.
    struct Counted<'a>(&'a Shared);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            lock(&self.0.work).threads -= 1;
        }
    }

    let counted = Counted(shared);
    let mut work = lock(&shared.work);
    loop {
        if let Some(job) = work.jobs.pop_front() {
            drop(work);
            job();
            work = lock(&shared.work);
            continue;
        }
        work.idle += 1;
        let (guard, waited) = shared.more.wait_timeout(work, IDLE).unwrap_or_else(PoisonError::into_inner);
        work = guard;
        work.idle -= 1;
        if waited.timed_out() && work.jobs.is_empty() {
            break;
        }
    }
    drop(work);
    drop(counted);
}

/// An answer on its way to the caller.
pub(super) struct Delivery {
    answer: Option<Result<Answer, BackendError>>,
    undelivered: Option<Undelivered>,
}

struct Undelivered {
    helpers: Helpers,
    backend: Arc<dyn Backend>,
    request: Request,
    deadline: Instant,
}

impl Delivery {
    pub(super) fn take(mut self) -> Option<Result<Answer, BackendError>> {
        self.answer.take()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let (Some(Ok(answer)), Some(undelivered)) = (self.answer.take(), self.undelivered.take()) else { return };
        // After the deadline the caller may have decided without the backend and gone on: its
        // permits stay taken.
        if let Outcome::Admitted(admitted) = answer.outcome
            && Instant::now() < undelivered.deadline
        {
            let Undelivered { helpers, backend, mut request, .. } = undelivered;
            request.action = Action::GiveBack(admitted.permit().clone());
            drop(helpers.tell(backend, request));
        }
    }
}

/// As [`Delivery`], for the buckets of one call.
pub(super) struct Together {
    answers: Option<Result<Vec<Answer>, BackendError>>,
    helpers: Helpers,
    backend: Arc<dyn Backend>,
    requests: Vec<Request>,
    deadline: Instant,
}

impl Together {
    pub(super) fn take(mut self) -> Option<Result<Vec<Answer>, BackendError>> {
        self.answers.take()
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        let Some(Ok(answers)) = self.answers.take() else { return };
        if Instant::now() < self.deadline {
            for back in given_back(&self.requests, &answers) {
                drop(self.helpers.tell(Arc::clone(&self.backend), back));
            }
        }
    }
}
