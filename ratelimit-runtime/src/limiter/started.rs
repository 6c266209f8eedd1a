//! A call that is decided, or still waits: for its turn, for a booking, or for a backend's answer.
//! It owns its parts, and is finished on the thread or in a future.

mod behind;
mod each;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::call::{Call, OwnedCall, Refusal, Wait, WaitOptions, ask_again, polled_again, position_u8};
use super::core::{Core, Venue};
use super::waiting::{Waiting, joining_of};
use crate::algorithm::record::Admission;
use crate::algorithm::record::Refusal as BackendRefusal;
use crate::backend::memory::{NEVER, Store, Verdict};
use crate::backend::{Action, Admitted, Answer, Denied as BackendDenied, Outcome, Request};
use crate::decision::{Address, Decision};
use crate::error::{BackendError, RateLimitExceeded};
use crate::fingerprint;
use crate::guard::Guard;
use crate::guard::denials::{CachedDenial, DenialKey};
use crate::guard::queue::{Denied, Queues, Unbooked, Unqueued, Waiter};
use crate::key::RateLimitKey;
use crate::limit::Limit;
use crate::queue::Ahead;
use crate::rt::clock::{self, Now, nanos};
use crate::scope::Scope;
use crate::switches::Switches;
use crate::waiting;
use behind::Behind;
use each::EachCall;

/// A call on which everything that needs no waiting is done.
pub(crate) enum Started {
    Done(Result<Decision, RateLimitExceeded>),
    Waiting(Box<Waiting>),
    Booked(Box<Booking>),
    Remote(Box<RemoteCall>),
    /// A call on several buckets, with a key each.
    Each(Box<EachCall>),
}

impl Started {
    /// Finishes on this thread.
    #[inline]
    pub(crate) fn finish(self) -> Result<Decision, RateLimitExceeded> {
        match self {
            Started::Done(result) => result,
            Started::Waiting(waiting) => waiting.wait(),
            Started::Booked(booking) => Ok(booking.wait()),
            Started::Each(call) => call.finish(),
            Started::Remote(call) => {
                let answer = call.backend.decide(&call.request);
                call.resolve(answer).finish()
            }
        }
    }

    /// Finishes without blocking the thread.
    #[inline]
    pub(crate) fn finish_async(self) -> Finish {
        match self.at_once() {
            Ok(decided) => Finish::Done(Some(decided)),
            Err(pending) => Finish::Pending(pending),
        }
    }

    /// The outcome, or the rest of the call.
    #[inline]
    pub(crate) fn at_once(self) -> Result<Result<Decision, RateLimitExceeded>, Pending> {
        Err(match self {
            Started::Done(decided) => return Ok(decided),
            Started::Waiting(waiting) => Pending::Waiting(waiting),
            Started::Booked(booking) => Pending::Other(Box::pin(async move { Ok(booking.wait_async().await) })),
            Started::Each(call) => Pending::Other(call.finish_async()),
            Started::Remote(call) => Pending::Asking(Box::pin(call.ask_async())),
        })
    }
}

/// The rest of a call that was not decided at once. Boxed, because every future of a call reserves
/// room for it.
pub(crate) enum Pending {
    Waiting(Box<Waiting>),
    /// Dropped when the backend has answered: many calls may wait then.
    Asking(Pin<Box<dyn Future<Output = Started> + Send>>),
    Other(Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + Send>>),
}

impl Future for Pending {
    type Output = Result<Decision, RateLimitExceeded>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let started = match &mut *self {
                Pending::Waiting(waiting) => return Pin::new(&mut **waiting).poll(context),
                Pending::Asking(asking) => ready!(asking.as_mut().poll(context)),
                Pending::Other(future) => return future.as_mut().poll(context),
            };
            match started.at_once() {
                Ok(decided) => return Poll::Ready(decided),
                Err(pending) => *self = pending,
            }
        }
    }
}

/// The outcome of a call, at once or later.
pub(crate) enum Finish {
    Done(Option<Result<Decision, RateLimitExceeded>>),
    Pending(Pending),
}

impl Future for Finish {
    type Output = Result<Decision, RateLimitExceeded>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Finish::Done(decided) => match decided.take() {
                Some(decided) => Poll::Ready(decided),
                None => polled_again(),
            },
            Finish::Pending(pending) => Pin::new(pending).poll(context),
        }
    }
}

impl Call<'_> {
    #[inline]
    pub(super) fn decide_in(self, store: &Arc<Store>, address: Address, venue: &Venue<'_>) -> Started {
        let now = venue.now();
        self.core.with_ask(store, self.limits, self.cost, |ask| {
            let resets = store.resets(address);
            let (verdict, left) = if self.peek {
                ask_again(now, || venue.now(), |now| store.peek(address, ask, now))
            } else if self.wait == Wait::No {
                ask_again(now, || venue.now(), |now| store.take(address, ask, now, true))
            } else {
                match Waiting::join(self, store, address, ask, now, venue) {
                    Ok(outcome) => outcome,
                    Err(waiting) => return Started::Waiting(waiting),
                }
            };
            Started::Done(self.decided(store, address, ask, verdict, resets, left, now, 0))
        })
    }

    pub(super) fn remote<K: RateLimitKey>(self, key: &K, backend: &Arc<Guard>, venue: &Venue<'_>) -> RemoteCall {
        let max_wait = Duration::from_nanos(self.wait.nanos());
        let action = if self.peek {
            Action::Peek { cost: self.cost, max_wait }
        } else {
            Action::Take { cost: self.cost, max_wait }
        };
        let request = self.core.with_rules(self.limits, |rules| self.core.request(venue, key, rules, action));
        self.remote_with(request, backend, venue, self.core.fallback(venue).address(key))
    }

    /// As [`remote`](Call::remote), with the request made already. `fallback` is the bucket in
    /// memory.
    pub(super) fn remote_with(
        self,
        request: Request,
        backend: &Arc<Guard>,
        venue: &Venue<'_>,
        fallback: Address,
    ) -> RemoteCall {
        RemoteCall {
            call: OwnedCall::of(self, self.key.to_text()),
            options: self.options,
            backend: Arc::clone(backend),
            request,
            asks: Asks::Decision,
            arrived: venue.backend_now(),
            sent: venue.backend_now(),
            fallback,
        }
    }
}

/// Permits that a backend booked for later. If dropped before they are due, they are given back.
pub(crate) struct Booking {
    core: Arc<Core>,
    decision: Option<Decision>,
    delay: Duration,
    scope: Option<Scope>,
}

impl Booking {
    fn wait(mut self) -> Decision {
        if let Some(scope) = &self.scope {
            scope.sleep(self.delay);
            return self.due();
        }
        waiting::sleep(self.delay);
        self.due()
    }

    /// Takes a box, so that the future needs no room for the booking.
    async fn wait_async(mut self: Box<Self>) -> Decision {
        if let Some(scope) = &self.scope {
            scope.sleep_async(self.delay).await;
            return self.due();
        }
        waiting::sleep_async(self.delay).await;
        self.due()
    }

    fn due(&mut self) -> Decision {
        match self.decision.take() {
            Some(decision) => decision,
            // Taken only here, by the one caller that consumes the booking.
            None => unreachable!("a booking is due once"),
        }
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        if let Some(decision) = self.decision.take() {
            let _entered = self.scope.take().map(|scope| scope.enter());
            self.core.give_back_later(decision);
        }
    }
}

/// A call that a backend decides.
pub(crate) struct RemoteCall {
    call: OwnedCall,
    options: WaitOptions,
    backend: Arc<Guard>,
    request: Request,
    asks: Asks,
    arrived: u64,
    sent: u64,
    /// The bucket in memory, for when the backend fails.
    fallback: Address,
}

/// The question to the backend.
enum Asks {
    /// A decision. If the call waits, the permits are booked for it alone.
    Decision,
    /// Permits at once. If they are denied, the call waits.
    Now,
    /// Whether there are permits. If there are none, the call waits.
    Look,
    /// When the call's turn comes behind the waiting calls, for whom `promised` permits were booked
    /// by then. With the call's place, if it waits too.
    Turn { behind: Behind, promised: u64, place: Option<Waiter> },
}

impl RemoteCall {
    /// Asks the backend until it has decided, or the call waits.
    async fn ask_async(self: Box<Self>) -> Started {
        let mut call = self;
        loop {
            let answer = call.backend.decide_async(&call.request).await;
            match call.resolve(answer) {
                Started::Remote(next) => call = next,
                started => return started,
            }
        }
    }

    /// Keeps the order of this process's calls: the call joins the queue if it has to.
    pub(super) fn begin(mut self: Box<Self>, venue: &Venue<'_>) -> Started {
        let call = self.call.call();
        let ahead = self.backend.queues.ahead(self.request.bucket(), u64::MAX);
        // Denied at once, wherever it would stand.
        let is_impossible = self.request.limits.iter().any(|limit| limit.capacity() < call.cost);
        // A runtime's paused clock moves on for each sleeper, so each such call books for itself.
        if call.cost == 0 || is_impossible || (call.wait == Wait::No && ahead.is_none()) || !venue.may_queue() {
            return Started::Remote(self);
        }
        if call.wait == Wait::No {
            // Behind waiting calls a denial is no offence, as in memory.
            if let Some(ahead) = ahead {
                self.ask_for_turn(ahead, None);
            }
            return Started::Remote(self);
        }
        let Some(ahead) = ahead else {
            let (cost, max_wait) = (call.cost, Duration::ZERO);
            // With `backoff`, a denied request is an offence, and a waiting call must commit none.
            let offends = self.request.backoff.is_some();
            (self.asks, self.request.action) = if offends {
                (Asks::Look, Action::Peek { cost, max_wait })
            } else {
                (Asks::Now, Action::Take { cost, max_wait })
            };
            return Started::Remote(self);
        };
        let is_unbounded = call.wait == Wait::Forever;
        match self.join(None) {
            // One that overtakes others may have permits that are booked for these. It is denied when it
            // is the first and comes too late.
            Ok(waiter) if is_unbounded || waiter.overtakes() => self.waits(waiter),
            Ok(waiter) => {
                self.ask_for_turn(ahead, Some(waiter));
                Started::Remote(self)
            }
            Err(Unqueued::Full) => {
                // A higher priority overtakes some of these.
                let ahead = self.backend.queues.ahead(self.request.bucket(), self.options.rank(self.arrived));
                self.ask_for_turn(ahead.unwrap_or_default(), None);
                Started::Remote(self)
            }
            Err(Unqueued::NoThread) => Started::Remote(self),
        }
    }

    /// Joins the queue of this process.
    fn join(&self, denied: Option<(Denied, u64)>) -> Result<Waiter, Unqueued> {
        let joining = joining_of(self.call.call(), self.fallback, self.options, self.arrived, denied);
        Queues::join(&self.backend, &self.request.bucket, self.request.fingerprint, joining)
    }

    fn waits(self: Box<Self>, waiter: Waiter) -> Started {
        Started::Waiting(Box::new(Waiting::before_backend(self.call, waiter)))
    }

    fn ask_for_turn(&mut self, ahead: Unbooked, place: Option<Waiter>) {
        let behind = Behind::new(&self.request.limits, ahead.ahead, self.call.cost);
        self.asks = Asks::Turn { behind, promised: ahead.promised, place };
        // A denial names the limit that holds the permits back.
        self.request.action = Action::Peek { cost: behind.permits, max_wait: Duration::ZERO };
    }

    /// Takes the permits now or not at all.
    fn takes_now(mut self: Box<Self>) -> Started {
        self.request.action = Action::Take { cost: self.call.cost, max_wait: Duration::ZERO };
        Started::Remote(self)
    }

    /// Takes the permits if they are due in time, and waits for them without a place in a queue.
    fn takes(mut self: Box<Self>) -> Started {
        let max_wait = Duration::from_nanos(self.call.wait.nanos());
        self.request.action = Action::Take { cost: self.call.cost, max_wait };
        Started::Remote(self)
    }

    /// Turns the backend's answer into an outcome, or its failure by the limiter's policy.
    fn resolve(mut self: Box<Self>, answer: Result<Answer, BackendError>) -> Started {
        match (std::mem::replace(&mut self.asks, Asks::Decision), &answer) {
            // The queue hands its calls over to the stand-in, in order.
            (Asks::Turn { place: Some(waiter), .. }, Err(_)) if self.call.core.has_stand_in() => {
                return self.waits(waiter);
            }
            (Asks::Now | Asks::Look, Err(_))
                if self.call.core.has_stand_in()
                    && self.backend.queues.ahead(&self.request.bucket, u64::MAX).is_some() =>
            {
                if let Ok(waiter) = self.join(None) {
                    return self.waits(waiter);
                }
            }
            (asks @ (Asks::Now | Asks::Look), Ok(Answer { now, outcome: Outcome::Denied(denied) })) => {
                let denied = Denied::of(&denied.refusal, now.as_nanos(), self.received(), &self.request);
                let is_ever = denied.admitted_at != NEVER;
                if is_ever && denied.admitted_at <= self.arrived.saturating_add(self.call.wait.nanos()) {
                    match self.join(Some((denied, self.sent))) {
                        Ok(waiter) => return self.waits(waiter),
                        Err(Unqueued::Full) => {}
                        Err(Unqueued::NoThread) => return self.takes(),
                    }
                }
                if is_ever && matches!(asks, Asks::Look) {
                    // The call is denied like one without `wait`.
                    return self.takes_now();
                }
            }
            (Asks::Look, Ok(Answer { outcome: Outcome::Admitted(_), .. })) => return self.takes(),
            (Asks::Turn { behind, promised, place }, Ok(Answer { now, outcome })) => {
                let now = now.as_nanos();
                let refused = match outcome {
                    Outcome::Admitted(Admitted { admission: Admission { limit, .. } }) => {
                        Some(BackendRefusal { limit: *limit, remaining: 0, admitted_at: Some(now), is_blocked: false })
                    }
                    Outcome::Denied(BackendDenied { refusal }) => Some(*refusal),
                    Outcome::Done | Outcome::Blocked { .. } => None,
                };
                // Some of these calls may have been booked before the answer, which counts them too.
                let booked = self.backend.queues.promised(&self.request.bucket).saturating_sub(promised);
                let (behind, place) = match (behind.without(booked), place) {
                    (None, Some(waiter)) => return self.waits(waiter),
                    (behind, place) => (behind, place),
                };
                if let Some(refused) = refused {
                    let BackendRefusal { limit, remaining, admitted_at, is_blocked } = refused;
                    let turn = |at| behind.map_or(at, |behind| behind.turn(&self.request.limits, at, limit, now));
                    let admitted_at = admitted_at.map(turn);
                    let retry_after = admitted_at.map_or(NEVER, |at| at.saturating_sub(now));
                    let refusal = Refusal { position: position_u8(limit), remaining, retry_after, is_blocked };
                    // With `backoff`, only denied tries may be cached.
                    if place.is_none() && retry_after > 0 && self.request.backoff.is_none() {
                        self.keep(&BackendRefusal { admitted_at, ..refused }, now);
                    }
                    match self.take_turn(refusal, place) {
                        Ok(started) => return started,
                        // A peek is answered by the backend's own answer.
                        Err(call) => self = call,
                    }
                }
            }
            _ => {}
        }
        let limit = |position: usize| self.request.limits.get(position).copied();
        match answer {
            Ok(Answer { now, outcome: Outcome::Admitted(admitted) }) => {
                if let Some(limit) = limit(admitted.admission.limit) {
                    return self.admitted(limit, admitted.admission, now.as_nanos());
                }
            }
            Ok(Answer { now, outcome: Outcome::Denied(denied) }) => {
                let refused = denied.refusal;
                if let Some(limit) = limit(refused.limit) {
                    self.keep(&refused, now.as_nanos());
                    let retry_after = refused.admitted_at.map_or(NEVER, |at| at.saturating_sub(now.as_nanos()));
                    let position = position_u8(refused.limit);
                    let BackendRefusal { remaining, is_blocked, .. } = refused;
                    let refusal = Refusal { position, remaining, retry_after, is_blocked };
                    return Started::Done(self.call.call().denied(limit, refusal));
                }
            }
            _ => {}
        }
        let call = Call { options: self.options, ..self.call.call() };
        if let Some(decided) = call.undecided() {
            return Started::Done(decided);
        }
        let venue = call.core.venue(Switches::load(), call.is_async);
        let store = call.core.fallback(&venue);
        if call.wait == Wait::No
            && call.cost > 0
            && let Some(Unbooked { ahead, .. }) = self.backend.queues.ahead(&self.request.bucket, u64::MAX)
        {
            return Started::Done(self.denied_by_stand_in(ahead, &store, venue.now()));
        }
        call.decide_in(&store, self.fallback, &venue)
    }

    /// Denies a call until those that waited when the backend failed are served.
    fn denied_by_stand_in(&self, ahead: Ahead, store: &Store, now: Now) -> Result<Decision, RateLimitExceeded> {
        let call = self.call.call();
        let behind = Behind::new(&self.request.limits, ahead, call.cost);
        call.core.with_ask(store, call.limits, behind.permits, |ask| {
            let (verdict, left) = store.peek(self.fallback, ask, now);
            let (until, position) = match verdict {
                Verdict::Denied { until: NEVER, .. } => return call.denied_in_memory(ask, NEVER, left, now),
                Verdict::Denied { until, position } => (until, position.into()),
                Verdict::Admitted { .. } | Verdict::Undecided => (now.earliest, 0),
            };
            let until = behind.turn(&self.request.limits, until, position, now.earliest).max(now.earliest + 1);
            call.denied_in_memory(ask, until, left, now)
        })
    }

    /// Continues a call whose turn is known. Returns the call if the backend's answer is to decide
    /// it.
    fn take_turn(self: Box<Self>, refusal: Refusal, place: Option<Waiter>) -> Result<Started, Box<Self>> {
        match place {
            // The call may have been admitted meanwhile.
            Some(waiter) if refusal.retry_after <= self.call.wait.nanos() || waiter.is_notified() => {
                return Ok(self.waits(waiter));
            }
            Some(waiter) => drop(waiter),
            None if refusal.retry_after > 0 => {}
            None if self.call.peek => return Err(self),
            // There are permits enough for the call and for all calls ahead of it.
            None => {
                self.backend.queues.changed(&self.request.bucket, false);
                return Ok(self.takes_now());
            }
        }
        let limit = self.request.limits.get(usize::from(refusal.position)).or(self.request.limits.first());
        match limit.copied() {
            Some(limit) => Ok(Started::Done(self.call.call().denied(limit, refusal))),
            None => Err(self),
        }
    }

    /// The time of the answer, at the latest.
    fn received(&self) -> u64 {
        if let Some(time) = self.request.test_time {
            return time.as_nanos();
        }
        clock::clock().now().latest
    }

    fn admitted(&self, limit: Limit, admission: Admission, now: u64) -> Started {
        let (call, core) = (self.call.call(), &self.call.core);
        let waited = admission.permit.at.saturating_sub(now);
        let reset_after = admission.fresh_at.saturating_sub(now.saturating_add(waited));
        let decision =
            call.remote_decision(&self.request.bucket, self.request.fingerprint, limit, admission, reset_after, waited);
        if call.peek || waited == 0 {
            return Started::Done(Ok(decision));
        }
        call.waits(waited);
        let waited = Duration::from_nanos(waited);
        Started::Booked(Box::new(Booking {
            core: Arc::clone(core),
            decision: Some(decision),
            delay: waited,
            scope: core.venue(Switches::load(), call.is_async).scope,
        }))
    }

    /// Caches the denial for calls like this one.
    fn keep(&self, refusal: &BackendRefusal, now: u64) {
        let call = self.call.call();
        if call.is_denied_alike() {
            keep_denial(&self.backend, &self.request, call.cost, refusal, now, self.sent);
        }
    }
}

/// All denials of a key are counted until it is denied for this many times the `initial` of its
/// `backoff`.
const COUNTED_EACH: u64 = 128;

/// Caches a denial for calls like that one. It is counted from when the call was sent, which is
/// before the backend denied at `now`, so it never lasts longer than the backend's.
pub(super) fn keep_denial(
    backend: &Guard,
    request: &Request,
    cost: u32,
    refused: &BackendRefusal,
    now: u64,
    sent: u64,
) {
    let BackendRefusal { limit, remaining, admitted_at, mut is_blocked } = *refused;
    let (Some(denials), Some(bucket), Some(admitted_at)) = (backend.denials(), request.fingerprint, admitted_at) else {
        return;
    };
    // A peek is no offence: the next call must still count as one.
    if request.backoff.is_some() && matches!(request.action, Action::Peek { .. }) && !is_blocked {
        return;
    }
    // Calls on a blocked key, or on one banned for a fixed time, change nothing. Other denials
    // prolong the block. During a long block, one call per `initial` asks the backend.
    let (ban, longest) = match request.backoff {
        None => (0, u64::MAX),
        // No limit denies for longer than such a ban, so no other ban begins before the denial
        // ends.
        Some(backoff) if backoff.is_ban() => {
            if request.limits.iter().any(|limit| limit.per() > backoff.max()) {
                return;
            }
            is_blocked = true;
            (0, u64::MAX)
        }
        Some(_) if is_blocked => (0, u64::MAX),
        // The longest block: only its end moves. In microseconds, like the backend's clock.
        Some(backoff) if admitted_at.saturating_sub(now).div_ceil(1_000) == nanos(backoff.max()).div_ceil(1_000) => {
            (nanos(backoff.max()), nanos(backoff.initial()))
        }
        Some(backoff) if admitted_at.saturating_sub(now) / COUNTED_EACH >= nanos(backoff.initial()) => {
            (0, nanos(backoff.initial()))
        }
        Some(_) => return,
    };
    let asked = DenialKey { bucket, cost, limits: fingerprint::of_limits(&request.limits) };
    let denial = CachedDenial {
        admitted_at: sent.saturating_add(admitted_at.saturating_sub(now)),
        remaining,
        limit: position_u8(limit),
        ban,
        is_blocked,
    };
    denials.keep(asked, denial, sent, longest);
}
