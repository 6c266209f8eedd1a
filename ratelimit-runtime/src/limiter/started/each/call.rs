//! A call on several buckets that may wait, or that a backend decides.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smallvec::SmallVec;

use super::super::super::call::{Call, OwnedCall, Refusal, Wait, WaitOptions};
use super::super::super::core::{Core, Part, Target, send, send_async};
use super::super::behind::Behind;
use super::super::keep_denial;
use super::{AllSay, Chosen, Member, Says};
use crate::algorithm::record::{Admission, Refusal as BackendRefusal};
use crate::backend::memory::NEVER;
use crate::backend::{Action, Admitted, Answer, Outcome, Request};
use crate::decision::{Decision, Place, RemoteBucket, Taken};
use crate::error::{BackendError, BackendErrorKind, ExceededKind, RateLimitExceeded};
use crate::guard::Guard;
use crate::guard::queue::Unbooked;
use crate::switches::Switches;

/// The most waits of one call through a backend, each for another bucket, before it is denied.
const ROUNDS: u32 = 4;

/// A call that may wait, or that a backend decides.
pub(crate) struct EachCall {
    pub(super) whole: OwnedCall,
    pub(super) options: WaitOptions,
    pub(super) members: SmallVec<[Member; 4]>,
    pub(super) guard: Option<Arc<Guard>>,
}

/// A question to one bucket of a backend.
struct Ask<'a> {
    member: &'a Member,
    request: Request,
    /// The calls that wait for the bucket, which this one must not overtake.
    behind: Option<Behind>,
}

/// Permits of one bucket for which a call has waited. Dropping them gives them back.
struct Waited {
    core: Arc<Core>,
    member: usize,
    decision: Option<Decision>,
}

impl Drop for Waited {
    fn drop(&mut self) {
        if let Some(decision) = self.decision.take() {
            self.core.give_back_later(decision);
        }
    }
}

/// Whether steps block the thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Blocking,
    Async,
}

impl EachCall {
    pub(in super::super::super) fn finish(self: Box<Self>) -> Result<Decision, RateLimitExceeded> {
        let mut future = self.run(Mode::Blocking);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            // Each step blocks the thread, so the first poll is the last.
            if let Poll::Ready(decided) = future.as_mut().poll(&mut context) {
                return decided;
            }
            std::thread::yield_now();
        }
    }

    pub(in super::super::super) fn finish_async(
        self: Box<Self>,
    ) -> Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + Send>> {
        self.run(Mode::Async)
    }

    /// Boxed: a call that waits finishes calls of its parts.
    fn run(self: Box<Self>, mode: Mode) -> Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + Send>> {
        Box::pin(async move {
            let arrived = self.now();
            let wait = self.whole.wait;
            let rank = if wait == Wait::No { u64::MAX } else { self.options.rank(arrived) };
            let deadline = arrived.saturating_add(wait.nanos());
            let (mut held, mut rounds, mut waited): (Option<Waited>, u32, u64) = (None, 0, 0);
            loop {
                if self.whole.core.is_off(Switches::load()) {
                    release(held.take(), mode).await;
                    return Ok(self.whole.call().free());
                }
                let limited = self.limited();
                let others = held.as_ref().map_or(limited, |held| limited.but(held.member));
                // With `backoff`, a denied request is an offence, and a waiting call must commit
                // none.
                let looks = wait != Wait::No && self.whole.core.backoff().is_some();
                let member = 'denier: {
                    if looks
                        && let Ok(says) = self.ask(others, rank, true, mode).await
                        && let Some((member, retry_after)) = self.denier(&says, others)
                        && self.goes_on(retry_after, deadline, rounds)
                    {
                        release(held.take(), mode).await;
                        break 'denier member;
                    }
                    let says = if let Ok(says) = self.ask(others, rank, false, mode).await {
                        says
                    } else {
                        if let Some(decided) = self.whole.call().undecided() {
                            release(held.take(), mode).await;
                            return decided;
                        }
                        self.in_memory(others, false)
                    };
                    let Some((member, retry_after)) = self.denier(&says, others) else {
                        return self.admitted(says, held, waited);
                    };
                    release(held.take(), mode).await;
                    if !self.goes_on(retry_after, deadline, rounds) {
                        return self.whole.call().conclude(says, 0);
                    }
                    member
                };
                match self.wait_for(member, arrived, deadline, rounds, mode).await {
                    Ok((permits, since)) => {
                        waited = since;
                        // Its key may have lost its limits meanwhile.
                        held = Some(permits).filter(|held| self.limited().has(held.member));
                    }
                    Err(denied) => return denied,
                }
                rounds += 1;
            }
        })
    }

    fn now(&self) -> u64 {
        let call = self.whole.call();
        call.core.venue(Switches::load(), call.is_async).now().earliest
    }

    fn goes_on(&self, retry_after: u64, deadline: u64, rounds: u32) -> bool {
        // In a dry run no call waits, also if it has begun to before.
        let waits = self.whole.wait != Wait::No && !self.whole.core.dry_run();
        let may_wait = waits && !self.whole.peek && retry_after != NEVER;
        may_wait && (self.guard.is_none() || rounds < ROUNDS) && self.now().saturating_add(retry_after) <= deadline
    }

    /// The members whose keys have limits now. Limits may be replaced while the call waits.
    fn limited(&self) -> Chosen {
        self.whole.core.made_each().map_or(Chosen(0), |each| Chosen::limited(each, &self.members))
    }

    /// The bucket that holds the call back longest: its index among the members.
    fn denier(&self, says: &AllSay, asked: Chosen) -> Option<(usize, u64)> {
        let members = (0..self.members.len()).filter(|index| asked.has(*index));
        let denies = |(member, says): (usize, &Says)| match says {
            Says::Denies { refusal, .. } => Some((member, refusal.retry_after)),
            Says::Admits { .. } => None,
        };
        // The first of several that hold it back equally long.
        let denying: SmallVec<[(usize, u64); 4]> = members.zip(says).filter_map(denies).collect();
        denying.into_iter().rev().max_by_key(|(_, retry_after)| *retry_after)
    }

    /// Takes from all of these buckets. Nothing is taken ahead of calls of a lower rank, unless there
    /// are permits for them too.
    async fn ask(&self, chosen: Chosen, rank: u64, looks: bool, mode: Mode) -> Result<AllSay, BackendError> {
        let Some(guard) = &self.guard else { return Ok(self.in_memory(chosen, looks)) };
        let ahead = |member: &Member| {
            let request = member.request.as_ref().filter(|_| self.whole.cost > 0)?;
            guard.queues.ahead(request.bucket(), rank)
        };
        let asks = |ahead: &dyn Fn(&Member) -> Option<Unbooked>, looks: bool| -> SmallVec<[Ask<'_>; 4]> {
            chosen.of(&self.members).filter_map(|member| self.request(member, ahead(member), looks)).collect()
        };
        let behind = asks(&ahead, true);
        if behind.iter().any(|ask| ask.behind.is_some()) {
            let says = self.send(guard, behind, true, mode).await?;
            if says.iter().any(|says| matches!(says, Says::Denies { .. })) {
                return Ok(says);
            }
        }
        self.send(guard, asks(&|_| None, looks), looks, mode).await
    }

    /// The question to one bucket of a backend, behind the calls that wait for it.
    fn request<'a>(&self, member: &'a Member, ahead: Option<Unbooked>, looks: bool) -> Option<Ask<'a>> {
        let mut request = self.renewed(member)?;
        let behind = ahead.map(|ahead| Behind::new(&request.limits, ahead.ahead, self.whole.cost));
        if let (Action::Take { max_wait, .. }, true) = (&request.action, looks) {
            let cost = behind.map_or(self.whole.cost, |behind| behind.permits);
            request.action = Action::Peek { cost, max_wait: *max_wait };
        }
        Some(Ask { member, request, behind })
    }

    /// The question to a backend by the limits and the test's clock as they are now.
    fn renewed(&self, member: &Member) -> Option<Request> {
        let (call, request) = (self.whole.call(), member.request.as_ref()?);
        let core = &call.core.made_each()?.parts[member.part].core;
        let limits = core.with_rules(member.limits.as_deref(), |rules| rules.iter().map(|rule| rule.limit).collect());
        let test_time = call.core.venue(Switches::load(), call.is_async).test_time();
        Some(Request { limits, test_time, ..request.clone() })
    }

    async fn send(
        &self,
        guard: &Guard,
        asks: SmallVec<[Ask<'_>; 4]>,
        looks: bool,
        mode: Mode,
    ) -> Result<AllSay, BackendError> {
        let call = self.whole.call();
        let sent = call.core.venue(Switches::load(), call.is_async).backend_now();
        let requests: Vec<Request> = asks.iter().map(|ask| ask.request.clone()).collect();
        if requests.is_empty() {
            return Ok(AllSay::new());
        }
        let answers = match mode {
            Mode::Blocking => guard.decide_together(&requests)?,
            Mode::Async => guard.decide_together_async(&requests).await?,
        };
        if answers.len() != requests.len() {
            return Err(unanswered());
        }
        let is_charged = answers.iter().all(|answer| matches!(answer.outcome, Outcome::Admitted(_)));
        let is_taken = is_charged && !looks && !call.peek;
        let says = asks.iter().zip(answers).map(|(ask, answer)| self.said(guard, ask, answer, is_taken, sent));
        says.collect()
    }

    /// What one bucket of a backend says.
    fn said(
        &self,
        guard: &Guard,
        ask: &Ask<'_>,
        answer: Answer,
        is_taken: bool,
        sent: u64,
    ) -> Result<Says, BackendError> {
        let Some(each) = self.whole.core.made_each() else { return Err(unanswered()) };
        let Ask { member, ref request, behind } = *ask;
        let (part, written) = (&each.parts[member.part], self.whole.core.groups().len());
        let Answer { now, outcome } = answer;
        let turn = |at, limit| behind.map_or(at, |behind| behind.turn(&request.limits, at, limit, now.as_nanos()));
        let refused = match outcome {
            // There are permits for some of the calls that wait.
            Outcome::Admitted(Admitted { admission: Admission { permit, limit, .. } })
                if turn(permit.at, limit) > permit.at =>
            {
                BackendRefusal { limit, remaining: 0, admitted_at: Some(permit.at), is_blocked: false }
            }
            Outcome::Admitted(admitted) => {
                let Admission { permit, limit: own, remaining, fresh_at } = admitted.admission;
                let limit = *request.limits.get(own).ok_or_else(unanswered)?;
                let taken = is_taken.then(|| {
                    let (name, fingerprint) = (Arc::clone(&request.bucket), request.fingerprint);
                    let resets = part.core.resets_of(&name, fingerprint).load(Ordering::Relaxed);
                    let place = Place::Remote(Box::new(RemoteBucket { name, fingerprint, permit, resets }));
                    let limits = member.limits.as_deref().map(Into::into);
                    Taken { place, limits, limiter: part.core.id }
                });
                let (position, reset_after) = (part.position(own, written), fresh_at.saturating_sub(now.as_nanos()));
                return Ok(Says::Admits { limit, position, remaining, reset_after, taken });
            }
            Outcome::Denied(denied) => denied.refusal,
            Outcome::Done | Outcome::Blocked { .. } => return Err(unanswered()),
        };
        let admitted_at = refused.admitted_at.map(|at| turn(at, refused.limit));
        let refused = BackendRefusal { admitted_at, ..refused };
        let limit = *request.limits.get(refused.limit).ok_or_else(unanswered)?;
        let own = Call { core: &part.core, ..self.whole.call() };
        // With `backoff`, only denied tries may be cached.
        if own.is_denied_alike() && !(behind.is_some() && request.backoff.is_some()) {
            keep_denial(guard, request, self.whole.cost, &refused, now.as_nanos(), sent);
        }
        let retry_after = admitted_at.map_or(NEVER, |at| at.saturating_sub(now.as_nanos()));
        let position = part.position(refused.limit, written);
        let BackendRefusal { remaining, is_blocked, .. } = refused;
        Ok(Says::Denies { limit, refusal: Refusal { position, remaining, retry_after, is_blocked } })
    }

    fn in_memory(&self, chosen: Chosen, looks: bool) -> AllSay {
        let call = self.whole.call();
        let call = if looks { call.peek() } else { call };
        match call.core.made_each() {
            Some(each) => call.in_memory(each, &self.members, chosen),
            None => AllSay::new(),
        }
    }

    /// Waits for the permits of one bucket, and takes them. Also returns how long the call has
    /// waited by then.
    async fn wait_for(
        &self,
        index: usize,
        arrived: u64,
        deadline: u64,
        rounds: u32,
        mode: Mode,
    ) -> Result<(Waited, u64), Result<Decision, RateLimitExceeded>> {
        let (whole, member, now) = (self.whole.call(), &self.members[index], self.now());
        let Some(each) = whole.core.made_each() else { return Err(Ok(whole.free())) };
        let part = &each.parts[member.part];
        let wait = match whole.wait {
            Wait::AtMost(_) => Wait::AtMost(deadline.saturating_sub(now)),
            other => other,
        };
        // In every queue, the call stands where it would if it had come there first.
        let ahead = self.options.ahead.saturating_add(now.saturating_sub(arrived));
        let queue = if rounds == 0 { self.options.queue } else { usize::MAX };
        let options = WaitOptions { queue, ahead };
        let started = {
            let call = Call { core: &part.core, limits: member.limits.as_deref(), wait, options, ..whole };
            let call = call.quiet();
            let venue = part.core.venue(Switches::load(), call.is_async);
            match (&venue.target, self.renewed(member)) {
                (Target::Remote(guard), Some(request)) => {
                    let max_wait = Duration::from_nanos(wait.nanos());
                    let request = Request { action: Action::Take { cost: call.cost, max_wait }, ..request };
                    Box::new(call.remote_with(request, guard, &venue, member.address)).begin(&venue)
                }
                (Target::Memory(store), _) => call.decide_in(store, member.address, &venue),
                (Target::Remote(_), None) => call.decide_in(&part.core.fallback(&venue), member.address, &venue),
            }
        };
        let decided = match mode {
            Mode::Blocking => started.finish(),
            Mode::Async => started.finish_async().await,
        };
        match decided {
            Ok(decision) => {
                let waited = now.saturating_sub(arrived).saturating_add(decision.waited);
                Ok((Waited { core: Arc::clone(&part.core), member: index, decision: Some(decision) }, waited))
            }
            Err(exceeded) => Err(self.denied_by(part, &exceeded)),
        }
    }

    /// The whole call's outcome, if a part denies it while it waits.
    fn denied_by(&self, part: &Part, exceeded: &RateLimitExceeded) -> Result<Decision, RateLimitExceeded> {
        let whole = self.whole.call();
        if exceeded.kind == ExceededKind::BackendFailed {
            return whole.undecided().unwrap_or_else(|| Err(exceeded.clone()));
        }
        let position = part.position(usize::from(exceeded.position), whole.core.groups().len());
        let is_blocked = exceeded.kind == ExceededKind::Blocked;
        let RateLimitExceeded { remaining, retry_after, .. } = *exceeded;
        let refusal = Refusal { position, remaining, retry_after, is_blocked };
        whole.denied(exceeded.limit, refusal)
    }

    /// The decision on a call that has all its permits.
    fn admitted(&self, mut says: AllSay, held: Option<Waited>, waited: u64) -> Result<Decision, RateLimitExceeded> {
        let whole = self.whole.call();
        if let Some(mut held) = held
            && let Some(decision) = held.decision.take()
            && let Some(each) = whole.core.made_each()
        {
            let Decision { limit, remaining, position, reset_after, taken, .. } = decision;
            let part = &each.parts[self.members[held.member].part];
            let position = part.position(usize::from(position), whole.core.groups().len());
            says.push(Says::Admits { limit, position, remaining, reset_after, taken });
        }
        if waited > 0 {
            whole.core.waits(Duration::from_nanos(waited));
        }
        whole.conclude(says, waited)
    }
}

/// Gives back what a call has waited for in vain.
async fn release(held: Option<Waited>, mode: Mode) {
    let Some(mut held) = held else { return };
    let Some(decision) = held.decision.take() else { return };
    // A permit that cannot be given back stays taken: the limit is kept.
    let requests = held.core.start_give_back(decision);
    let _ = match mode {
        Mode::Blocking => send(requests),
        Mode::Async => send_async(requests).await,
    };
}

fn unanswered() -> BackendError {
    BackendError::new(BackendErrorKind::Refused, "the backend has not decided on every bucket")
}
