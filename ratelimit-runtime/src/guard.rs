//! The guard around every remote backend: a deadline on each decision, a circuit breaker, and the
//! denial cache.
//!
//! Each store has one guard, shared by all limiters that use the store.

mod breaker;
pub(crate) mod denials;
mod helpers;
pub(crate) mod queue;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backend::{Action, Answer, Backend, BackendFuture, Deadline, Identity, Outcome, Request};
use crate::error::{BackendError, BackendErrorKind};
use crate::fingerprint::Fingerprint;
use crate::observe::{self, BreakerState};
use crate::rt::clock::{self, Now, nanos};
use crate::rt::timer;
use breaker::{Breaker, CallResult, Change, Entry};
use denials::Denials;
use helpers::{Delivery, Helpers, Task};
use queue::Queues;

/// How long a future may block its thread on a blocking-only backend; capped at a tenth of the
/// deadline.
const PATIENCE: Duration = Duration::from_millis(10);

/// A backend, with its failures contained.
pub(crate) struct Guard {
    backend: Arc<dyn Backend>,
    kind: &'static str,
    deadline: Deadline,
    breaker: Breaker,
    helpers: Helpers,
    /// The denial cache of this store, if this handle or another one uses it.
    denials: Option<Arc<Denials>>,
    denial_cache: bool,
    /// Calls of this process that wait.
    pub(crate) queues: Queues,
}

/// The guards of all stores in use.
static GUARDS: Mutex<BTreeMap<Identity, Weak<Guard>>> = Mutex::new(BTreeMap::new());

impl Guard {
    /// The guard of `backend`. Shared with other limiters that use the same store.
    pub(crate) fn of(backend: Arc<dyn Backend>) -> Arc<Guard> {
        // A live guard keeps its backend alive, so no other backend can have its address.
        let identity = backend.identity();
        let found = GUARDS.lock().get(&identity).and_then(Weak::upgrade);
        if let Some(guard) = found {
            return guard;
        }
        // Outside the lock: a backend may call a limited function while it describes itself or is
        // dropped.
        let new = Arc::new(Guard::new(backend));
        let mut guards = GUARDS.lock();
        if guards.len().is_power_of_two() {
            guards.retain(|_, guard| guard.strong_count() > 0);
        }
        if let Some(guard) = guards.get(&identity).and_then(Weak::upgrade) {
            drop(guards);
            return guard;
        }
        guards.insert(identity, Arc::downgrade(&new));
        new
    }

    fn new(backend: Arc<dyn Backend>) -> Guard {
        let deadline = backend.deadline();
        let longest = match deadline {
            Deadline::Imposed(longest) => nanos(longest).min(nanos(Duration::from_secs(3_600))),
            Deadline::Kept => 0,
        };
        let (denial_cache, server) = (backend.denial_cache(), backend.server());
        Guard {
            queues: Queues::new(backend.max_waited_keys()),
            kind: backend.kind(),
            deadline,
            breaker: Breaker::new(longest),
            helpers: Helpers::new(),
            denials: match server {
                Some(server) => Some(Denials::of_server(&server)),
                None => denial_cache.then(|| Arc::new(Denials::new())),
            },
            denial_cache,
            backend,
        }
    }

    /// Whether its buckets are on the server of this backend.
    #[cfg(all(feature = "configuration", feature = "redis"))]
    pub(crate) fn is_of(&self, backend: &crate::backend::redis::RedisBackend) -> bool {
        let server = self.backend.server();
        server.is_some() && server == backend.server()
    }

    /// Whether the circuit breaker lets calls through.
    #[inline]
    pub(crate) fn may_be_called(&self) -> bool {
        !self.breaker.is_open()
    }

    /// The denial cache, if this handle uses it.
    #[inline]
    pub(crate) fn denials(&self) -> Option<&Denials> {
        self.denials.as_deref().filter(|_| self.denial_cache)
    }

    /// Drops the cached denials of a bucket, and those of calls under way.
    fn drop_denials(&self, bucket: Option<Fingerprint>, now: Now) {
        if let (Some(denials), Some(bucket)) = (self.denials(), bucket) {
            denials.lift(bucket, now.latest);
        }
    }

    /// Whether requests need a fingerprint, because a change may invalidate a cached denial.
    pub(crate) fn needs_fingerprint(&self) -> bool {
        self.denials.is_some()
    }

    /// Carries out a request, on this thread or while it waits.
    pub(crate) fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        let visit = Visit::begin(self, request)?;
        let answer = match self.deadline {
            Deadline::Kept => self.backend.decide(request),
            Deadline::Imposed(longest) => {
                let deadline = after(longest);
                let answer = self.ask(request.clone(), deadline, visit.entry.is_probe);
                answer.and_then(|receiver| self.delivered(receiver.wait(deadline), deadline))
            }
        };
        visit.end(answer)
    }

    /// Whether the store can only block. A future that is not polled does nothing.
    #[cfg(any(feature = "tokio", feature = "_transport"))]
    fn only_blocks(&self, request: &Request) -> bool {
        self.backend.decide_async(request).is_none()
    }

    /// Carries out a request without blocking the thread, if the store can.
    pub(crate) async fn decide_async(&self, request: &Request) -> Result<Answer, BackendError> {
        let visit = Visit::begin(self, request)?;
        let answer = match self.deadline {
            Deadline::Kept => match self.backend.decide_async(request) {
                Some(decided) => decided.await,
                None => self.backend.decide(request),
            },
            // Boxed, so that most calls' futures do not carry the space for it.
            Deadline::Imposed(longest) => Box::pin(self.decide_in_time(request, longest, visit.entry.is_probe)).await,
        };
        visit.end(answer)
    }

    /// Carries out the `Take` requests of one call, all or none. All of them share one deadline.
    pub(crate) fn decide_together(&self, requests: &[Request]) -> Result<Vec<Answer>, BackendError> {
        let visit = Visit::of_all(self, requests)?;
        let answers = match self.deadline {
            Deadline::Kept => self.backend.decide_together(requests),
            Deadline::Imposed(longest) => {
                let deadline = after(longest);
                let backend = Arc::clone(&self.backend);
                let asked = self.helpers.ask_together(backend, requests.to_vec(), deadline, visit.entry.is_probe);
                asked.and_then(|receiver| {
                    let delivery = receiver.wait(deadline).and_then(helpers::Together::take);
                    delivery.unwrap_or_else(|| Err(self.undelivered(deadline)))
                })
            }
        };
        visit.end_all(answers)
    }

    /// As [`decide_together`](Guard::decide_together), without blocking the thread.
    pub(crate) async fn decide_together_async(&self, requests: &[Request]) -> Result<Vec<Answer>, BackendError> {
        let visit = Visit::of_all(self, requests)?;
        let answers = match self.deadline {
            Deadline::Kept => match self.backend.decide_together_async(requests) {
                Some(decided) => decided.await,
                None => self.backend.decide_together(requests),
            },
            Deadline::Imposed(longest) => {
                let deadline = after(longest);
                match self.backend.decide_together_async(requests) {
                    Some(decided) => self.in_time(decided, deadline).await,
                    None => self.decide_together_elsewhere(requests, deadline, visit.entry.is_probe).await,
                }
            }
        };
        visit.end_all(answers)
    }

    async fn decide_in_time(
        &self,
        request: &Request,
        longest: Duration,
        is_probe: bool,
    ) -> Result<Answer, BackendError> {
        let deadline = after(longest);
        match self.backend.decide_async(request) {
            Some(decided) => self.in_time(decided, deadline).await,
            None => self.decide_elsewhere(request.clone(), deadline, is_probe).await,
        }
    }

    async fn in_time<T>(&self, decided: BackendFuture<'_, T>, deadline: Instant) -> Result<T, BackendError> {
        timer::bounded(decided, deadline).await.unwrap_or_else(|| Err(self.late()))
    }

    /// Carries out a request whose answer is ignored, unless the breaker is open.
    pub(crate) fn decide_later(&self, request: Request) {
        if self.breaker.is_open() {
            return;
        }
        if let (Some(denials), Some(bucket)) = (&self.denials, request.fingerprint) {
            denials.suspend(bucket, request.now().as_nanos());
        }
        match self.deadline {
            Deadline::Kept => self.backend.decide_later(request),
            Deadline::Imposed(longest) => {
                let mut done = self.helpers.tell(Arc::clone(&self.backend), request);
                let _ = self.helpers.wait_a_moment(&mut done, after(PATIENCE.min(longest / 10)));
            }
        }
    }

    /// Runs a blocking-only backend's decision for a future.
    async fn decide_elsewhere(
        &self,
        request: Request,
        deadline: Instant,
        is_probe: bool,
    ) -> Result<Answer, BackendError> {
        let started = Instant::now();
        let patience = PATIENCE.min(deadline.saturating_duration_since(started) / 10);
        let mut receiver = self.ask(request, deadline, is_probe)?;
        // Most answers arrive sooner than a task could be suspended and woken again.
        if let Poll::Ready(delivery) = self.helpers.wait_a_moment(&mut receiver, started + patience) {
            return self.delivered(delivery, deadline);
        }
        let delivery = timer::bounded(receiver, deadline).await;
        self.helpers.took(started.elapsed(), patience);
        self.delivered(delivery.flatten(), deadline)
    }

    /// Runs a blocking-only backend's decision on several buckets for a future.
    async fn decide_together_elsewhere(
        &self,
        requests: &[Request],
        deadline: Instant,
        is_probe: bool,
    ) -> Result<Vec<Answer>, BackendError> {
        let backend = Arc::clone(&self.backend);
        let receiver = self.helpers.ask_together(backend, requests.to_vec(), deadline, is_probe)?;
        let answers = timer::bounded(receiver, deadline).await.flatten().and_then(helpers::Together::take);
        answers.unwrap_or_else(|| Err(self.undelivered(deadline)))
    }

    fn ask(
        &self,
        request: Request,
        deadline: Instant,
        is_probe: bool,
    ) -> Result<crate::rt::reply::Receiver<Delivery>, BackendError> {
        self.helpers.ask(Task { backend: Arc::clone(&self.backend), request, deadline, is_probe })
    }

    fn delivered(&self, delivery: Option<Delivery>, deadline: Instant) -> Result<Answer, BackendError> {
        delivery.and_then(Delivery::take).unwrap_or_else(|| Err(self.undelivered(deadline)))
    }

    /// Why no answer has come.
    fn undelivered(&self, deadline: Instant) -> BackendError {
        if Instant::now() >= deadline {
            return self.late();
        }
        BackendError::new(BackendErrorKind::Refused, "the backend panicked")
    }

    fn late(&self) -> BackendError {
        let longest = match self.deadline {
            Deadline::Imposed(longest) => longest,
            Deadline::Kept => Duration::ZERO,
        };
        BackendError::new(BackendErrorKind::Timeout, format!("the backend did not answer within {longest:?}"))
    }

    fn report(&self, entry: Entry, met: CallResult<'_>) {
        let Some(change) = self.breaker.report(entry, met, clock::now) else { return };
        let error = match met {
            CallResult::Failure(error) => Some(error),
            CallResult::Success | CallResult::Abandoned => None,
        };
        let state = match change {
            Change::Opened | Change::StaysOpen => BreakerState::Open,
            Change::Closed => BreakerState::Closed,
        };
        observe::breaker_changed(self.kind, state, error);
    }
}

fn after(longest: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(longest).unwrap_or_else(|| now + Duration::from_secs(3_600))
}

/// A call that has passed the breaker. Dropping it early reports an abandoned call.
struct Visit<'a> {
    guard: &'a Guard,
    /// More than one only for the buckets of one call.
    requests: &'a [Request],
    entry: Entry,
    started: u64,
    ended: bool,
}

impl<'a> Visit<'a> {
    /// Fails if the breaker is open.
    fn begin(guard: &'a Guard, request: &'a Request) -> Result<Visit<'a>, BackendError> {
        Visit::of_all(guard, std::slice::from_ref(request))
    }

    fn of_all(guard: &'a Guard, requests: &'a [Request]) -> Result<Visit<'a>, BackendError> {
        let started = clock::now();
        let entry = guard.breaker.enter(|| started)?;
        if entry.is_probe {
            observe::breaker_changed(guard.kind, BreakerState::HalfOpen, None);
        }
        Ok(Visit { guard, requests, entry, started, ended: false })
    }

    fn end(self, answer: Result<Answer, BackendError>) -> Result<Answer, BackendError> {
        self.end_with(answer, std::slice::from_ref)
    }

    fn end_all(self, answers: Result<Vec<Answer>, BackendError>) -> Result<Vec<Answer>, BackendError> {
        self.end_with(answers, Vec::as_slice)
    }

    fn end_with<T>(mut self, answer: Result<T, BackendError>, all: fn(&T) -> &[Answer]) -> Result<T, BackendError> {
        self.ended = true;
        let took = Duration::from_nanos(clock::now().saturating_sub(self.started));
        let (met, result) = match &answer {
            Ok(_) => (CallResult::Success, Ok(())),
            Err(error) => (CallResult::Failure(error), Err(error)),
        };
        observe::backend_decided(self.guard.kind, took, result);
        self.guard.report(self.entry, met);
        for (position, request) in self.requests.iter().enumerate() {
            match (request.action(), &answer) {
                (action @ (Action::GiveBack(_) | Action::Reset | Action::Charge { .. }), Ok(_)) => {
                    self.guard.queues.changed(request.bucket(), matches!(action, Action::Reset));
                }
                (Action::Block { .. } | Action::Unblock, Ok(_)) => self.guard.queues.held(request.bucket()),
                _ => {}
            }
            let answer = answer.as_ref().map(|answers| all(answers).get(position));
            self.keep_denials_true(request, Some(answer.ok().flatten()));
        }
        answer
    }

    /// Invalidates the cached denials of a bucket that has changed. `answer` is `None` if the call
    /// was abandoned, and holds `None` if it failed.
    #[expect(clippy::option_option, reason = "whether there was an end, and an answer")]
    fn keep_denials_true(&self, request: &Request, answer: Option<Option<&Answer>>) {
        let (Some(denials), Some(bucket)) = (&self.guard.denials, request.fingerprint) else { return };
        let now = || request.now().as_nanos();
        match (request.action(), answer) {
            (Action::GiveBack(_) | Action::Reset | Action::Block { .. } | Action::Unblock, Some(Some(_))) => {
                denials.lift(bucket, now());
            }
            // The request may still be carried out, and permits of an abandoned call are given back
            // later.
            (Action::GiveBack(_) | Action::Reset | Action::Block { .. } | Action::Unblock, _)
            | (Action::Take { cost: 1.., .. }, None) => {
                denials.suspend(bucket, now());
            }
            // Denials may last longer now.
            (Action::Charge { .. }, _)
            | (Action::Take { cost: 1.., .. }, Some(Some(Answer { outcome: Outcome::Admitted(_), .. }))) => {
                denials.forget(bucket);
            }
            _ => {}
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.guard.report(self.entry, CallResult::Abandoned);
            self.requests.iter().for_each(|request| self.keep_denials_true(request, None));
        }
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;
    use crate::backend::IntoBackend as _;
    use crate::backend::{BackendKind, SharedBackend};

    struct Store(#[expect(dead_code, reason = "takes room, as real ones do")] u8);

    impl Backend for Store {
        fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
            Err(BackendError::new(BackendErrorKind::Refused, "not asked here"))
        }
    }

    fn guard(backend: SharedBackend) -> Arc<Guard> {
        match backend.kind {
            BackendKind::Remote(remote) => Arc::clone(remote.guard()),
            BackendKind::Memory(_) => unreachable!("memory has no guard"),
        }
    }

    fn are_shared(one: SharedBackend, other: SharedBackend) -> bool {
        Arc::ptr_eq(&guard(one), &guard(other))
    }

    #[test]
    fn one_store_has_one_guard_however_it_is_handed_over() {
        static STORE: Store = Store(0);
        let shared = Arc::new(Store(1));
        assert!(are_shared(Arc::clone(&shared).into_backend(), Arc::clone(&shared).into_backend()));
        let as_trait: Arc<dyn Backend> = shared.clone();
        assert!(are_shared(as_trait.into_backend(), shared.into_backend()));
        assert!(are_shared((&STORE).into_backend(), (&STORE).into_backend()));
        assert!(!are_shared(Store(0).into_backend(), Store(0).into_backend()));
    }

    #[test]
    fn a_nested_store_has_its_own_guard() {
        struct Outer(Store);

        impl Backend for Outer {
            fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
                self.0.decide(request)
            }
        }

        static OUTER: Outer = Outer(Store(0));
        static INNER: &Store = &OUTER.0;
        assert!(!are_shared((&OUTER).into_backend(), INNER.into_backend()));
    }

    #[test]
    fn guards_of_dropped_stores_are_removed() {
        let kept: Vec<SharedBackend> = (0..3).map(|_| Store(0).into_backend()).collect();
        for _ in 0..10_000 {
            drop(Store(0).into_backend());
        }
        let dead = GUARDS.lock().values().filter(|guard| guard.strong_count() == 0).count();
        assert!(dead < 1_000, "{dead} are left");
        assert_eq!(kept.len(), 3);
    }
}
