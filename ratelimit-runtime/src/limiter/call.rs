//! One call: from a limiter, a key and a cost to a decision, blocking or not.
//!
//! [`Call::start`] never blocks. Where the buckets are in memory it decides at once; what is left to do, a wait or a
//! request to a backend, is owned by [`Started`] and finished on the thread or in a future.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::OnBackendError;
use super::core::{Core, Target, Venue};
use super::short;
use crate::algorithm::record::{Admission, Ask, Permit, Refusal};
use crate::backend::memory::{Left, Store, Verdict};
use crate::backend::{Action, Answer, Outcome, Request};
use crate::clock::nanos;
use crate::decision::{Address, Decision, Place, RemoteBucket, Taken};
use crate::error::{BackendError, ExceededKind, RateLimitExceeded};
use crate::fingerprint;
use crate::guard::Guard;
use crate::guard::denials::{Asked, Told};
use crate::key::RateLimitKey;
use crate::limit::Limit;
use crate::observe::{self, KeyText, ShownKey};
use crate::switches::{Switch, Switches};
#[cfg(feature = "test-util")]
use crate::test_util::Scope;
use crate::waiting;

/// After a backend has failed: when to try again, in nanoseconds.
const RETRY_AFTER_FAILURE: u64 = 1_000_000_000;

/// How long a call may wait for its permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    No,
    /// Nanoseconds.
    AtMost(u64),
    Forever,
}

impl Wait {
    const fn nanos(self) -> u64 {
        match self {
            Wait::No => 0,
            Wait::AtMost(nanos) => nanos,
            Wait::Forever => u64::MAX,
        }
    }
}

/// What a call asks of a limiter.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    core: &'a Arc<Core>,
    limits: Option<&'a [Limit]>,
    cost: u32,
    wait: Wait,
    peek: bool,
    is_async: bool,
    /// The key, for whoever is told of denials.
    key: ShownKey<'a>,
}

impl<'a> Call<'a> {
    #[inline]
    pub(crate) fn new(core: &'a Arc<Core>) -> Call<'a> {
        Call { core, limits: None, cost: 1, wait: Wait::No, peek: false, is_async: false, key: ShownKey::default() }
    }

    /// The limits as they were read at this call.
    #[inline]
    pub(crate) fn limits(self, limits: &'a [Limit]) -> Call<'a> {
        Call { limits: Some(limits), ..self }
    }

    #[inline]
    pub(crate) fn cost(self, cost: u32) -> Call<'a> {
        Call { cost, ..self }
    }

    #[inline]
    pub(crate) fn wait(self, wait: Wait) -> Call<'a> {
        Call { wait, ..self }
    }

    /// The call of a future, which goes by its runtime's clock where that is a test's.
    #[inline]
    pub(crate) fn in_future(self) -> Call<'a> {
        Call { is_async: true, ..self }
    }

    pub(crate) fn peek(self) -> Call<'a> {
        Call { peek: true, ..self }
    }

    pub(crate) fn core(&self) -> &'a Arc<Core> {
        self.core
    }

    /// Decides on this thread.
    #[inline]
    pub(crate) fn decide<K: RateLimitKey>(self, key: &K) -> Result<Decision, RateLimitExceeded> {
        self.start(key).finish()
    }

    /// As [`decide`](Call::decide), for a caller that only wants to know whether it is admitted.
    ///
    /// Takes the key as a value, and passes it on as one: that a reference to it is taken on the long way would put it into
    /// memory on the short one too.
    #[expect(clippy::inline_always, reason = "the call is to be taken apart into registers where it is made")]
    #[inline(always)]
    pub(crate) fn admit<K: RateLimitKey>(self, key: K) -> Result<(), RateLimitExceeded> {
        if self.limits.is_some() || self.wait != Wait::No {
            return self.decide(&key).map(drop);
        }
        let verdict =
            if self.cost == 1 { short::admit_one(self.core, &key) } else { short::admit(self.core, &key, self.cost) };
        match verdict {
            Verdict::Admitted => Ok(()),
            Verdict::Denied(retry_after) => Err(self.denial(key, retry_after)),
            Verdict::Unknown => admit_slowly(self.core, key, self.cost),
        }
    }

    /// As [`start`](Call::start), for a future that only wants to know whether it is admitted.
    #[inline]
    pub(crate) fn begin<K: RateLimitKey>(self, key: K) -> Begun {
        let may_be_short = self.limits.is_none() && self.wait == Wait::No;
        let verdict = if may_be_short { short::admit_in_future(self.core, &key, self.cost) } else { Verdict::Unknown };
        match verdict {
            Verdict::Admitted => Begun::Done(Ok(())),
            Verdict::Denied(retry_after) => Begun::Done(Err(self.denial(key, retry_after))),
            Verdict::Unknown => match self.in_future().start(&key) {
                Started::Done(decided) => Begun::Done(decided.map(drop)),
                started => Begun::Later(Box::pin(started.finish_async())),
            },
        }
    }

    /// The error of a call that was denied on the short way, after whoever wants to be told of it was.
    #[expect(clippy::inline_always, reason = "see `Core::exceeded`")]
    #[inline(always)]
    fn denial<K: RateLimitKey>(self, key: K, retry_after: u64) -> RateLimitExceeded {
        if observe::wants_denials() {
            tell_denied(self.core, key, retry_after);
        }
        self.core.exceeded(retry_after)
    }

    /// Does all that can be done without blocking.
    #[inline]
    pub(crate) fn start<K: RateLimitKey>(self, key: &K) -> Started {
        let switches = Switches::load();
        if switches.has(Switch::Disabled) {
            return Started::Done(Ok(self.free()));
        }
        // In a dry run, what would have to wait is counted as denied, and does not.
        let wait = if self.core.options.dry_run { Wait::No } else { self.wait };
        let text = KeyText::of(key);
        let call = Call { wait, key: text.shown(), ..self };
        let venue = call.core.venue(switches, call.is_async);
        match &venue.target {
            Target::Memory(store) => {
                let address = store.address(key);
                call.decide_in(store, address, &venue)
            }
            Target::Remote(backend) => match call.denied_already(key, backend, &venue) {
                Some(denied) => Started::Done(denied),
                None => Started::Remote(Box::new(call.remote(key, backend, &venue))),
            },
        }
    }

    /// The denial of a call like one that was denied by the backend until a time that has not come yet. A
    /// [`peek`](Call::peek) is answered as well: it says what the call would.
    #[inline]
    fn denied_already<K: RateLimitKey>(
        self,
        key: &K,
        backend: &Guard,
        venue: &Venue<'_>,
    ) -> Option<Result<Decision, RateLimitExceeded>> {
        let denials = backend.denials().filter(|_| self.is_denied_alike())?;
        let now = venue.backend_now();
        let told = denials.find(self.core.asked(venue, key, self.cost), now)?;
        let Told { admitted_at, remaining, limit, .. } = if self.peek { told } else { told.to_a_try(now) };
        let position = usize::from(limit);
        let limit = self.core.with_rules(None, |rules| rules.get(position).map(|rule| rule.limit))?;
        Some(self.denied(limit, Refusal { limit: position, remaining, admitted_at: Some(admitted_at) }, now))
    }

    /// Whether a denial of the call says that it will be denied again. One that may wait is never told before it has asked.
    fn is_denied_alike(self) -> bool {
        self.wait == Wait::No && self.limits.is_none() && self.cost > 0 && self.core.keeps_denials()
    }

    /// The decision on a call that no limit applies to.
    fn free(self) -> Decision {
        self.core.with_rules(self.limits, |rules| Decision {
            limit: rules[0].limit,
            remaining: rules[0].limit.capacity(),
            position: 0,
            reset_after: Duration::ZERO,
            waited: Duration::ZERO,
            taken: None,
        })
    }

    #[inline]
    fn decide_in(self, store: &Store, address: Address, venue: &Venue<'_>) -> Started {
        let now = venue.now();
        if self.limits.is_none()
            && self.wait == Wait::No
            && !self.peek
            && self.core.can_admit(store)
            && let Some((verdict, left)) = store.admit_and_tell(address, now, self.cost)
        {
            return self.told(verdict, left, now, address, venue);
        }
        let decided = self.core.with_rules(self.limits, |rules| {
            let ask = Ask {
                rules,
                backoff: self.core.options.backoff.as_ref(),
                cost: self.cost,
                max_wait: self.wait.nanos(),
            };
            let decided = if self.peek { store.peek(address, &ask, now) } else { store.take(address, &ask, now) };
            decided
                .map(|admission| (rules[admission.limit].limit, admission))
                .map_err(|refusal| (rules[refusal.limit].limit, refusal))
        });
        match decided {
            Ok((limit, admission)) => self.admitted(limit, admission, now, Place::Memory(address), venue),
            Err((limit, refusal)) => Started::Done(self.denied(limit, refusal, now)),
        }
    }

    /// The decision of a verdict by the one limit there is.
    fn told(self, verdict: Verdict, left: Left, now: u64, address: Address, venue: &Venue<'_>) -> Started {
        let limit = self.core.with_rules(None, |rules| rules[0].limit);
        let Left { remaining, fresh_at } = left;
        match verdict {
            Verdict::Denied(until) => {
                let refusal = Refusal { limit: 0, remaining, admitted_at: Some(until) };
                Started::Done(self.denied(limit, refusal, now))
            }
            Verdict::Admitted | Verdict::Unknown => {
                let permit = Permit { at: now, sequence: 0, cost: self.cost, undo: None };
                let admission = Admission { permit, limit: 0, remaining, fresh_at };
                self.admitted(limit, admission, now, Place::Memory(address), venue)
            }
        }
    }

    fn admitted(self, limit: Limit, admission: Admission, now: u64, place: Place, venue: &Venue<'_>) -> Started {
        let Admission { permit, limit: position, remaining, fresh_at } = admission;
        let delay = Duration::from_nanos(permit.at.saturating_sub(now));
        let taken = (!self.peek && permit.cost > 0).then(|| Taken {
            permit,
            limiter: self.core.mark(&place),
            place,
            limits: self.limits.unwrap_or_default().into(),
        });
        let decision = Decision {
            limit,
            remaining,
            position: position_u8(position),
            reset_after: Duration::from_nanos(fresh_at.saturating_sub(now)),
            waited: delay,
            taken,
        };
        if self.peek {
            return Started::Done(Ok(decision));
        }
        self.core.allowed();
        #[cfg(any(feature = "tower", feature = "actix-web"))]
        crate::noted::admitted(limit, remaining, fresh_at.saturating_sub(now));
        if delay.is_zero() {
            return Started::Done(Ok(decision));
        }
        self.core.waits(delay);
        #[cfg(not(feature = "test-util"))]
        let _ = venue;
        Started::Waiting(Box::new(Booking {
            core: Arc::clone(self.core),
            decision: Some(decision),
            delay,
            #[cfg(feature = "test-util")]
            scope: venue.scope.clone(),
        }))
    }

    fn denied(self, limit: Limit, refusal: Refusal, now: u64) -> Result<Decision, RateLimitExceeded> {
        let retry_after = refusal.admitted_at.map_or(u64::MAX, |at| at.saturating_sub(now));
        let exceeded = || RateLimitExceeded {
            limiter: self.core.shared_name(),
            limit,
            retry_after,
            remaining: refusal.remaining,
            position: position_u8(refusal.limit),
            kind: match refusal.admitted_at {
                Some(_) => ExceededKind::Limited,
                None => ExceededKind::CostExceedsLimit,
            },
        };
        if !self.peek {
            self.core.denied();
            self.core.tell_denied(exceeded, self.cost, self.key);
            if self.core.options.dry_run {
                return Ok(self.free());
            }
            #[cfg(any(feature = "tower", feature = "actix-web"))]
            crate::noted::denied(limit, refusal.remaining, retry_after);
        }
        Err(exceeded())
    }

    fn remote<K: RateLimitKey>(self, key: &K, backend: &Arc<Guard>, venue: &Venue<'_>) -> RemoteCall {
        let max_wait = Duration::from_nanos(self.wait.nanos());
        let action = if self.peek {
            Action::Peek { cost: self.cost, max_wait }
        } else {
            Action::Take { cost: self.cost, max_wait }
        };
        RemoteCall {
            core: Arc::clone(self.core),
            backend: Arc::clone(backend),
            request: self.core.with_rules(self.limits, |rules| self.core.request(venue, key, rules, action)),
            limits: self.limits.map(Into::into),
            cost: self.cost,
            wait: self.wait,
            peek: self.peek,
            is_async: self.is_async,
            sent: venue.backend_now(),
            fallback: self.core.fallback(venue).address(key),
            key: self.key.to_text(),
        }
    }
}

#[cold]
#[inline(never)]
fn tell_denied<K: RateLimitKey>(core: &Core, key: K, retry_after: u64) {
    core.tell_denied(|| core.exceeded(retry_after), 1, KeyText::of(&key).shown());
}

#[cold]
#[inline(never)]
fn admit_slowly<K: RateLimitKey>(core: &Arc<Core>, key: K, cost: u32) -> Result<(), RateLimitExceeded> {
    Call::new(core).cost(cost).decide(&key).map(drop)
}

fn position_u8(position: usize) -> u8 {
    u8::try_from(position).unwrap_or(u8::MAX)
}

/// A call of which all is done that needs no waiting. Owns what it needs.
pub(crate) enum Started {
    Done(Result<Decision, RateLimitExceeded>),
    Waiting(Box<Booking>),
    Remote(Box<RemoteCall>),
}

impl Started {
    /// Finishes on this thread.
    #[inline]
    pub(crate) fn finish(self) -> Result<Decision, RateLimitExceeded> {
        match self {
            Started::Done(result) => result,
            Started::Waiting(booking) => Ok(booking.wait()),
            Started::Remote(call) => {
                let answer = call.backend.decide(&call.request);
                call.resolve(answer).finish()
            }
        }
    }

    /// Finishes without blocking the thread.
    #[inline]
    pub(crate) async fn finish_async(self) -> Result<Decision, RateLimitExceeded> {
        let waiting = match self {
            Started::Done(result) => return result,
            Started::Waiting(booking) => booking,
            Started::Remote(call) => {
                let answer = call.backend.decide_async(&call.request).await;
                match call.resolve(answer) {
                    Started::Done(result) => return result,
                    Started::Waiting(booking) => booking,
                    // A failed backend's fallback is in memory.
                    Started::Remote(call) => return call.failed(),
                }
            }
        };
        Ok(waiting.wait_async().await)
    }
}

/// A call of a future that only wants to know whether it is admitted.
pub(crate) enum Begun {
    Done(Result<(), RateLimitExceeded>),
    /// In a box, because few are, and the futures of all make room for it.
    Later(Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + Send>>),
}

impl Future for Begun {
    type Output = Result<(), RateLimitExceeded>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            // Polled once only: what it leaves is never seen.
            Begun::Done(decided) => Poll::Ready(std::mem::replace(decided, Ok(()))),
            Begun::Later(future) => future.as_mut().poll(context).map(|decided| decided.map(drop)),
        }
    }
}

/// Permits that are booked for later. Dropped before they are due, they are given back.
pub(crate) struct Booking {
    core: Arc<Core>,
    decision: Option<Decision>,
    delay: Duration,
    #[cfg(feature = "test-util")]
    scope: Option<Arc<Scope>>,
}

impl Booking {
    fn wait(mut self) -> Decision {
        #[cfg(feature = "test-util")]
        if let Some(scope) = &self.scope {
            scope.sleep(self.delay);
            return self.due();
        }
        waiting::sleep(self.delay);
        self.due()
    }

    /// In its box, which a future need not make room for.
    async fn wait_async(mut self: Box<Self>) -> Decision {
        #[cfg(feature = "test-util")]
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
            // Taken once only, here, by the one caller that consumes the booking.
            None => unreachable!("a booking is due once"),
        }
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        if let Some(decision) = self.decision.take() {
            #[cfg(feature = "test-util")]
            let _entered = self.scope.as_ref().map(Scope::enter);
            self.core.give_back_later(decision);
        }
    }
}

/// A decision that is a backend's.
pub(crate) struct RemoteCall {
    core: Arc<Core>,
    backend: Arc<Guard>,
    request: Request,
    limits: Option<Box<[Limit]>>,
    cost: u32,
    wait: Wait,
    peek: bool,
    is_async: bool,
    sent: u64,
    /// The bucket in memory that decides where the backend fails.
    fallback: Address,
    key: KeyText,
}

impl RemoteCall {
    fn call(&self) -> Call<'_> {
        Call {
            core: &self.core,
            limits: self.limits.as_deref(),
            cost: self.cost,
            wait: self.wait,
            peek: self.peek,
            is_async: self.is_async,
            key: self.key.shown(),
        }
    }

    /// Makes a decision of a backend's answer, or by the limiter's policy of its failure.
    fn resolve(self: Box<Self>, answer: Result<Answer, BackendError>) -> Started {
        let limit = |position: usize| self.request.limits.get(position).copied();
        match answer {
            Ok(Answer { now, outcome: Outcome::Admitted(admitted) }) => {
                if let Some(limit) = limit(admitted.admission.limit) {
                    let venue = self.core.venue(Switches::load(), self.is_async);
                    let bucket =
                        RemoteBucket { name: self.request.bucket.clone(), fingerprint: self.request.fingerprint };
                    let place = Place::Remote(Box::new(bucket));
                    return self.call().admitted(limit, admitted.admission, now.as_nanos(), place, &venue);
                }
            }
            Ok(Answer { now, outcome: Outcome::Denied(denied) }) => {
                if let Some(limit) = limit(denied.refusal.limit) {
                    self.keep(&denied.refusal, now.as_nanos());
                    return Started::Done(self.call().denied(limit, denied.refusal, now.as_nanos()));
                }
            }
            _ => {}
        }
        match self.core.options.on_backend_error {
            OnBackendError::Local => {
                let venue = self.core.venue(Switches::load(), self.is_async);
                let store = self.core.fallback(&venue);
                self.call().decide_in(&store, self.fallback, &venue)
            }
            OnBackendError::Allow => {
                if !self.peek {
                    self.core.allowed();
                }
                Started::Done(Ok(self.call().free()))
            }
            OnBackendError::Deny => Started::Done(self.failed()),
        }
    }

    /// Keeps a denial for the calls that are like this one. It was made after the call was sent, so that counted from then
    /// it never lasts longer than the backend's.
    fn keep(&self, refusal: &Refusal, now: u64) {
        let (Some(denials), Some(bucket), Some(admitted_at)) =
            (self.backend.denials(), self.request.fingerprint, refusal.admitted_at)
        else {
            return;
        };
        if self.call().is_denied_alike() {
            // Each denial bans the key for longer, until the ban is the longest: then only its end moves on, and one call in
            // each `initial` tells the backend.
            let (ban, longest) = match self.request.backoff {
                None => (0, u64::MAX),
                // By a clock of microseconds.
                Some(backoff)
                    if admitted_at.saturating_sub(now).div_ceil(1_000) == nanos(backoff.max()).div_ceil(1_000) =>
                {
                    (nanos(backoff.max()), nanos(backoff.initial()))
                }
                Some(_) => return,
            };
            let asked = Asked { bucket, cost: self.cost, limits: fingerprint::of_limits(&self.request.limits) };
            let told = Told {
                admitted_at: self.sent.saturating_add(admitted_at.saturating_sub(now)),
                remaining: refusal.remaining,
                limit: position_u8(refusal.limit),
                ban,
            };
            denials.keep(asked, told, self.sent, longest);
        }
    }

    /// What a call gets where the backend failed and the policy is to deny.
    fn failed(&self) -> Result<Decision, RateLimitExceeded> {
        let decision = self.call().free();
        let exceeded = || RateLimitExceeded {
            limiter: self.core.shared_name(),
            limit: decision.limit,
            retry_after: RETRY_AFTER_FAILURE,
            remaining: 0,
            position: 0,
            kind: ExceededKind::BackendFailed,
        };
        if self.cost == 0 && !self.peek {
            self.core.allowed();
        } else if !self.peek {
            self.core.failed();
            self.core.tell_denied(exceeded, self.cost, self.key.shown());
        }
        if self.core.options.dry_run || self.cost == 0 {
            return Ok(decision);
        }
        Err(exceeded())
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;
    use crate::limit::Algorithm;
    use crate::limiter::RateLimiter;

    #[test]
    fn a_futures_call_that_is_decided_at_once_allocates_no_future() {
        for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
            let limit = Limit::new(2, Duration::from_secs(60)).with_algorithm(algorithm);
            let limiter = RateLimiter::builder(format!("begun {algorithm:?}")).limit(limit).build().unwrap();
            for _ in 0..3 {
                assert!(matches!(Call::new(limiter.core()).begin("a"), Begun::Done(_)));
            }
        }
    }
}
