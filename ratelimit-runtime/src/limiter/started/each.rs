//! Calls whose limits have different keys: each key's bucket is that of a part of the limiter, and
//! all buckets are charged or none is.
//!
//! A part is a [`Core`] of its own, with the limits that share a key. It has the whole limiter's
//! name, and takes the usual paths to memory and to backends. Only the whole limiter counts,
//! reports and names calls.
//!
//! A call that waits does so in the queue of the bucket that holds it back longest. When its turn
//! has come there, it takes the rest together. If another bucket denies then, it gives the permits
//! back and waits for that one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smallvec::SmallVec;

use super::super::call::{Call, OwnedCall, Refusal, Wait, WaitOptions, note_admitted};
use super::super::core::{Applying, Core, Each, Part, Question, Target, Venue, kinds_of};
use super::{Started, keep_denial};
use crate::algorithm::Rule;
use crate::algorithm::record::{Admission, Refusal as BackendRefusal};
use crate::backend::memory::{
    Bucket, NEVER, Permit, Said, Spoken, Store, Verdict, WrittenBucket, peek_together, take_together, try_take_together,
};
use crate::backend::{Action, Answer, Outcome, Request};
use crate::decision::{Address, Decision, Held, Place, RemoteBucket, Taken};
use crate::error::{BackendError, BackendErrorKind, ExceededKind, RateLimitExceeded};
use crate::guard::Guard;
use crate::key::RateLimitKey;
use crate::keys::RateLimitKeys;
use crate::keys::sealed::{Map, Visit};
use crate::limit::Limit;
use crate::observe::KeyText;
use crate::rt::clock::Now;
use crate::switches::Switches;

/// How often a call that waits through a backend waits for another bucket, before it is denied.
const ROUNDS: u32 = 4;

/// Readings of the clock while a denial ends within one, as in `told`.
const READINGS: u32 = if cfg!(callgrind) { 0 } else { 100 };

/// What one bucket's limits say about a call.
enum Says {
    Admits { limit: Limit, position: u8, remaining: u32, reset_after: u64, taken: Option<Taken> },
    Denies { limit: Limit, refusal: Refusal },
}

type AllSay = SmallVec<[Says; 4]>;

/// A bucket of a call that may wait, or that a backend decides.
struct Member {
    /// The index of its part.
    part: usize,
    /// In memory, or for when the backend fails.
    address: Address,
    /// The part's limits, if they were read at the call.
    limits: Option<SmallVec<[Limit; 2]>>,
    /// What a backend is asked.
    request: Option<Request>,
}

/// A call that may wait, or that a backend decides.
pub(crate) struct EachCall {
    whole: OwnedCall,
    options: WaitOptions,
    members: SmallVec<[Member; 4]>,
    guard: Option<Arc<Guard>>,
}

/// Permits of one bucket for which a call has waited. Dropped, they are given back.
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

/// The buckets of the fast path.
struct Quick<'a> {
    each: &'a Each,
    cost: u32,
}

impl<'a> Map for Quick<'a> {
    type Value = WrittenBucket<'a>;

    #[inline]
    fn key<K: RateLimitKey>(&self, index: usize, key: &K) -> Option<WrittenBucket<'a>> {
        let store = self.each.parts.get(index)?.core.fast().filter(|store| store.admits(self.cost))?;
        let address = store.address(key);
        (!store.may_hold(address)).then_some((store, address))
    }
}

/// The buckets of a call by the limits written down.
struct FastBuckets<'a> {
    each: &'a Each,
    cost: u32,
    buckets: SmallVec<[Bucket<'a>; 4]>,
}

impl Visit for FastBuckets<'_> {
    #[inline]
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        if let Some(store) = self.each.parts[index].core.fast() {
            let (address, ask) = (store.address(key), store.written_ask(self.cost));
            self.buckets.push(Bucket { store, address, ask });
        }
    }
}

/// The buckets of any call.
struct Members<'a> {
    call: Call<'a>,
    each: &'a Each,
    switches: Switches,
    all: SmallVec<[Member; 4]>,
    guard: Option<Arc<Guard>>,
}

impl Visit for Members<'_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        let part = &self.each.parts[index];
        if part.is_off() {
            return;
        }
        let limits = self.call.limits.map(|limits| part.share(limits));
        let venue = part.core.venue(self.switches, self.call.is_async);
        let (address, request) = match &venue.target {
            Target::Memory(store) => (store.address(key), None),
            Target::Remote(guard) => {
                self.guard.get_or_insert_with(|| Arc::clone(guard));
                let max_wait = Duration::ZERO;
                let action = if self.call.peek {
                    Action::Peek { cost: self.call.cost, max_wait }
                } else {
                    Action::Take { cost: self.call.cost, max_wait }
                };
                let request =
                    part.core.with_rules(limits.as_deref(), |rules| part.core.request(&venue, key, rules, action));
                (part.core.fallback(&venue).address(key), Some(request))
            }
        };
        self.all.push(Member { part: index, address, limits, request });
    }
}

/// Hands out the keys of tried limits, by the part that each belongs to.
struct TriedKeys<'a, 'b> {
    parts: SmallVec<[Option<usize>; 4]>,
    members: &'b mut Members<'a>,
}

impl Visit for TriedKeys<'_, '_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        if let Some(part) = self.parts[index] {
            self.members.key(part, key);
        }
    }
}

/// The cached denial of any of the keys.
struct Cached<'a> {
    call: Call<'a>,
    each: &'a Each,
    found: Option<(Limit, Refusal)>,
}

impl Visit for Cached<'_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        let part = &self.each.parts[index];
        let venue = part.core.venue(Switches::load(), self.call.is_async);
        let Target::Remote(guard) = &venue.target else { return };
        let own = Call { core: &part.core, ..self.call };
        let Some(denials) = guard.denials().filter(|_| !part.is_off() && own.is_denied_alike()) else { return };
        let now = venue.backend_now();
        let Some(told) = denials.find(part.core.asked(&venue, key, self.call.cost), now) else { return };
        let told = if self.call.peek { told } else { told.to_a_try(now) };
        let limit = |rules: &[Rule]| rules.get(usize::from(told.limit)).map(|rule| rule.limit);
        let Some(limit) = part.core.with_rules(None, limit) else { return };
        let refusal = Refusal {
            position: part.position(usize::from(told.limit), self.call.core.groups().len()),
            remaining: told.remaining,
            retry_after: told.admitted_at.saturating_sub(now),
            is_blocked: told.is_blocked,
        };
        if self.found.as_ref().is_none_or(|(_, found)| found.retry_after < refusal.retry_after) {
            self.found = Some((limit, refusal));
        }
    }
}

/// Forgets the bucket of each key.
struct Resets<'a> {
    each: &'a Each,
    requests: Vec<Question>,
}

impl Visit for Resets<'_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        self.requests.extend(self.each.parts[index].core.start_reset(key));
    }
}

impl Call<'_> {
    /// Does all that can be done without blocking.
    pub(crate) fn start_each<K: RateLimitKeys>(self, keys: &K) -> Started {
        match self.core.each() {
            Some(each) if each.len() == K::LEN => self.start_with(each, keys),
            Some(_) => Started::Done(self.wrong_keys(keys)),
            // The limiter is called while its backend is being made.
            None => Started::Done(self.undecided().unwrap_or_else(|| Ok(self.free()))),
        }
    }

    /// The fast path: takes the permits if all buckets are on theirs and admit the call. Otherwise
    /// nothing has changed.
    #[inline]
    pub(crate) fn takes_each<K: RateLimitKeys>(&self, keys: &K) -> bool {
        if !Switches::load().are_off() || self.core.is_special() || self.limits.is_some() {
            return false;
        }
        let Some(each) = self.core.made_each().filter(|each| each.len() == K::LEN) else { return false };
        let Some(mut buckets) = keys.map(&Quick { each, cost: self.cost }) else { return false };
        let Some(&(store, _)) = buckets.as_ref().first() else { return false };
        let is_taken = try_take_together(buckets.as_mut(), self.now(store), self.cost);
        if is_taken {
            self.core.allowed();
        }
        is_taken
    }

    /// The outcome of a call in memory by the limits written down. `None` if the call takes another
    /// path; nothing has changed then.
    #[inline(never)]
    pub(crate) fn each_at_once<K: RateLimitKeys>(&self, keys: &K) -> Option<Result<(), RateLimitExceeded>> {
        if !Switches::load().are_off() || self.core.is_special() || self.limits.is_some() {
            return None;
        }
        let may_wait = self.wait != Wait::No && !self.core.dry_run();
        if may_wait && self.core.backoff().is_some() {
            return None;
        }
        let each = self.core.made_each().filter(|each| each.len() == K::LEN)?;
        let mut fast = FastBuckets { each, cost: self.cost, buckets: SmallVec::new() };
        keys.each(&mut fast);
        let buckets = fast.buckets;
        if buckets.len() != K::LEN {
            return None;
        }
        let store = buckets[0].store;
        let take = |now| take_together(&buckets, now, false);
        let (now, spoken) = spoken(|| self.now(store), take, buckets.len());
        if spoken.is_charged {
            self.core.allowed();
            return Some(Ok(()));
        }
        if may_wait {
            return None;
        }
        let text = KeyText::of(keys);
        let call = Call { key: text.shown(), ..*self };
        let says = (0..K::LEN).map(|index| {
            let part = &each.parts[index];
            says(&call, part, buckets[index].ask.call.rules, spoken.of(index), now, None)
        });
        Some(call.conclude(says.collect(), 0).map(drop))
    }

    fn start_with<K: RateLimitKeys>(self, each: &Each, keys: &K) -> Started {
        let switches = Switches::load();
        if self.core.is_off(switches) {
            return Started::Done(Ok(self.free()));
        }
        if let Some(tried) = self.core.tried()
            && !self.peek
        {
            self.try_each(&tried, switches, keys);
        }
        // In a dry run, a call that would have to wait counts as denied, and runs at once.
        let wait = if self.core.dry_run() { Wait::No } else { self.wait };
        let text = KeyText::of(keys);
        let call = Call { wait, key: text.shown(), ..self };
        let mut cached = Cached { call, each, found: None };
        keys.each(&mut cached);
        if let Some((limit, refusal)) = cached.found {
            return Started::Done(call.denied(limit, refusal));
        }
        let mut members = Members { call, each, switches, all: SmallVec::new(), guard: None };
        keys.each(&mut members);
        let Members { all: members, guard, .. } = members;
        if members.is_empty() {
            return Started::Done(Ok(call.free()));
        }
        if guard.is_none() && call.wait == Wait::No {
            return Started::Done(call.conclude(call.in_memory(each, &members, None), 0));
        }
        let whole = OwnedCall::of(call, call.key_text());
        Started::Each(Box::new(EachCall { whole, options: call.options, members, guard }))
    }

    /// Decides and counts the call by limits that are tried, each by its key among `keys`. They are
    /// in memory and in a dry run.
    fn try_each<K: RateLimitKeys>(&self, tried: &Arc<Core>, switches: Switches, keys: &K) {
        let Some(each) = tried.each() else { return };
        let (text, of_parts) = (KeyText::of(keys), tried.keys());
        let call = Call { core: tried, limits: None, wait: Wait::No, key: text.shown(), ..*self };
        let part = |key: &u8| of_parts.iter().position(|of_part| of_part == key);
        let parts = self.core.keys().iter().map(part).collect();
        let mut members = Members { call, each, switches, all: SmallVec::new(), guard: None };
        keys.each(&mut TriedKeys { parts, members: &mut members });
        let _ = call.conclude(call.in_memory(each, &members.all, None), 0);
    }

    /// Takes from, or peeks at, all buckets in memory but one.
    fn in_memory(&self, each: &Each, members: &[Member], but: Option<usize>) -> AllSay {
        let switches = Switches::load();
        let parts: SmallVec<[(&Part, &Member, Venue<'_>, Applying<'_>); 4]> = members
            .iter()
            .enumerate()
            .filter(|(index, _)| but != Some(*index))
            .map(|(_, member)| {
                let part = &each.parts[member.part];
                let venue = part.core.venue(switches, self.is_async);
                (part, member, venue, part.core.rules(member.limits.as_deref()))
            })
            .collect();
        let stores: SmallVec<[Arc<Store>; 4]> = parts
            .iter()
            .map(|(part, _, venue, _)| match &venue.target {
                Target::Memory(store) => Arc::clone(store),
                Target::Remote(_) => Arc::clone(&part.core.fallback(venue)),
            })
            .collect();
        let mut buckets: SmallVec<[Bucket<'_>; 4]> = SmallVec::new();
        for ((part, member, _, rules), store) in parts.iter().zip(&stores) {
            buckets.push(Bucket { store, address: member.address, ask: part.core.ask(store, rules, self.cost) });
        }
        let Some((_, _, venue, _)) = parts.first() else { return AllSay::new() };
        let resets: SmallVec<[u32; 4]> = buckets.iter().map(|bucket| bucket.store.resets(bucket.address)).collect();
        let take = |now| if self.peek { peek_together(&buckets, now) } else { take_together(&buckets, now, true) };
        let (now, spoken) = spoken(|| venue.now(), take, buckets.len());
        let is_taken = spoken.is_charged && !self.peek;
        let says = parts.iter().enumerate().map(|(index, (part, member, _, rules))| {
            let held = |at| Held {
                address: member.address,
                permit: Permit { at, cost: self.cost },
                resets: resets[index],
                kinds: kinds_of(rules),
                store: stores[index].id(),
            };
            let limits = || member.limits.as_deref().map(Into::into);
            let taken = |at| Taken { place: Place::Memory(held(at)), limits: limits(), limiter: part.core.id };
            let taken: Option<&dyn Fn(u64) -> Taken> = if is_taken { Some(&taken) } else { None };
            says(self, part, rules, spoken.of(index), now, taken)
        });
        says.collect()
    }

    /// The outcome of a call, from what its buckets say.
    fn conclude(self, says: AllSay, waited: u64) -> Result<Decision, RateLimitExceeded> {
        let mut longest: Option<(Limit, Refusal)> = None;
        for says in &says {
            if let Says::Denies { limit, refusal } = says
                && longest.as_ref().is_none_or(|(_, longest)| longest.retry_after < refusal.retry_after)
            {
                longest = Some((*limit, *refusal));
            }
        }
        if let Some((limit, refusal)) = longest {
            return self.denied(limit, refusal);
        }
        let mut decision = Decision { waited, ..self.free() };
        let mut all = Vec::with_capacity(says.len());
        let mut is_first = true;
        for says in says {
            let Says::Admits { limit, position, remaining, reset_after, taken } = says else { continue };
            all.extend(taken);
            if std::mem::take(&mut is_first) || (remaining, position) < (decision.remaining, decision.position) {
                decision = Decision { limit, remaining, position, reset_after, ..decision };
            }
        }
        if !self.peek {
            self.core.allowed();
            if !self.core.options.is_trial {
                note_admitted(decision.limit, decision.remaining, decision.reset_after);
            }
        }
        if !all.is_empty() {
            let place = Place::Each(all.into());
            decision.taken = Some(Taken { place, limits: None, limiter: self.core.id });
        }
        Ok(decision)
    }

    /// The outcome of a call with more or fewer keys than the limiter needs.
    #[cold]
    fn wrong_keys<K: RateLimitKeys>(self, keys: &K) -> Result<Decision, RateLimitExceeded> {
        let text = KeyText::of(keys);
        let decision = self.free();
        let exceeded = || RateLimitExceeded {
            limiter: self.core.shared_name(),
            limit: decision.limit,
            retry_after: NEVER,
            remaining: 0,
            position: 0,
            kind: ExceededKind::WrongKeys,
        };
        if !self.peek {
            self.core.denied();
            self.core.tell_denied(exceeded, self.cost, text.shown());
        }
        if self.core.dry_run() { Ok(decision) } else { Err(exceeded()) }
    }
}

/// Asks again while a denial ends within one reading of the clock.
#[inline]
fn spoken(read: impl Fn() -> Now, ask: impl Fn(Now) -> Spoken, buckets: usize) -> (Now, Spoken) {
    let mut readings = 0;
    loop {
        let now = read();
        let spoken = ask(now);
        if spoken.is_charged || readings == READINGS || latest(&spoken, buckets) > now.latest {
            return (now, spoken);
        }
        readings += 1;
    }
}

/// Until when the buckets deny; [`NEVER`] if none does.
fn latest(spoken: &Spoken, buckets: usize) -> u64 {
    let until = |index| match spoken.of(index).verdict {
        Verdict::Denied { until, .. } => Some(until),
        Verdict::Admitted { .. } => None,
        Verdict::Undecided => Some(NEVER),
    };
    (0..buckets).filter_map(until).max().unwrap_or(NEVER)
}

/// What the limits in memory say. `taken` makes the handle of the permits.
fn says(
    call: &Call<'_>,
    part: &Part,
    rules: &[Rule],
    Said { verdict, left }: Said,
    now: Now,
    taken: Option<&dyn Fn(u64) -> Taken>,
) -> Says {
    let written = call.core.groups().len();
    let denies = |own: u8, until: u64| {
        let own = usize::from(own);
        let retry_after = if until == NEVER { NEVER } else { until.saturating_sub(now.earliest) };
        let position = part.position(own, written);
        let refusal = Refusal { position, remaining: left.remaining, retry_after, is_blocked: left.is_blocked };
        Says::Denies { limit: rules[own].limit, refusal }
    };
    match verdict {
        Verdict::Admitted { at } => {
            let own = usize::from(left.position);
            Says::Admits {
                limit: rules[own].limit,
                position: part.position(own, written),
                remaining: left.remaining,
                reset_after: left.idle_at.saturating_sub(now.earliest),
                taken: taken.map(|taken| taken(at)),
            }
        }
        Verdict::Denied { until, position } => denies(position, until),
        // The states decide every call in the end. If one did not, the limiter would fail closed.
        Verdict::Undecided => denies(0, NEVER),
    }
}

impl EachCall {
    pub(in super::super) fn finish(self: Box<Self>) -> Result<Decision, RateLimitExceeded> {
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

    pub(in super::super) fn finish_async(
        self: Box<Self>,
    ) -> Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + Send>> {
        self.run(Mode::Async)
    }

    /// Boxed: a call that waits finishes calls of its parts.
    fn run(self: Box<Self>, mode: Mode) -> Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + Send>> {
        Box::pin(async move {
            let arrived = self.now();
            let wait = self.whole.wait;
            let deadline = arrived.saturating_add(wait.nanos());
            let (mut held, mut rounds, mut waited): (Option<Waited>, u32, u64) = (None, 0, 0);
            loop {
                // With `backoff`, a try that is denied is an offence, and a call that waits is none.
                let looks = wait != Wait::No && self.whole.core.backoff().is_some();
                let member = 'denier: {
                    if looks
                        && let Ok(says) = self.ask(held.as_ref().map(|held| held.member), true, mode).await
                        && let Some((member, retry_after)) = self.denier(&says, held.as_ref())
                        && self.goes_on(retry_after, deadline, rounds)
                    {
                        release(held.take(), mode).await;
                        break 'denier member;
                    }
                    let but = held.as_ref().map(|held| held.member);
                    let says = if let Ok(says) = self.ask(but, false, mode).await {
                        says
                    } else {
                        if let Some(decided) = self.whole.call().undecided() {
                            release(held.take(), mode).await;
                            return decided;
                        }
                        self.in_memory(but, false)
                    };
                    let Some((member, retry_after)) = self.denier(&says, held.as_ref()) else {
                        return self.admitted(says, held, waited);
                    };
                    release(held.take(), mode).await;
                    if !self.goes_on(retry_after, deadline, rounds) {
                        return self.whole.call().conclude(says, 0);
                    }
                    member
                };
                match self.wait_for(member, arrived, deadline, rounds, mode).await {
                    Ok((decision, since)) => {
                        waited = since;
                        held = Some(decision);
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
        let may_wait = self.whole.wait != Wait::No && !self.whole.peek && retry_after != NEVER;
        may_wait && (self.guard.is_none() || rounds < ROUNDS) && self.now().saturating_add(retry_after) <= deadline
    }

    /// The bucket that holds the call back longest: its index among the members.
    fn denier(&self, says: &AllSay, held: Option<&Waited>) -> Option<(usize, u64)> {
        let members = (0..self.members.len()).filter(|index| held.is_none_or(|held| held.member != *index));
        let denies = |(member, says): (usize, &Says)| match says {
            Says::Denies { refusal, .. } => Some((member, refusal.retry_after)),
            Says::Admits { .. } => None,
        };
        // Of several that hold it back equally long, the first.
        let denying: SmallVec<[(usize, u64); 4]> = members.zip(says).filter_map(denies).collect();
        denying.into_iter().rev().max_by_key(|(_, retry_after)| *retry_after)
    }

    /// Takes from all buckets but one, which the call has waited for.
    async fn ask(&self, but: Option<usize>, looks: bool, mode: Mode) -> Result<AllSay, BackendError> {
        let Some(guard) = &self.guard else { return Ok(self.in_memory(but, looks)) };
        let action = |action: &Action| match action {
            Action::Take { cost, max_wait } if looks => Action::Peek { cost: *cost, max_wait: *max_wait },
            action => action.clone(),
        };
        let members: SmallVec<[&Member; 4]> =
            self.members.iter().enumerate().filter(|(index, _)| but != Some(*index)).map(|(_, it)| it).collect();
        let call = self.whole.call();
        let (sent, test_time) = {
            let venue = call.core.venue(Switches::load(), call.is_async);
            (venue.backend_now(), venue.test_time())
        };
        let requests: Vec<Request> = members
            .iter()
            .filter_map(|member| member.request.as_ref())
            .map(|request| Request { action: action(&request.action), test_time, ..request.clone() })
            .collect();
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
        let says = members
            .iter()
            .zip(&requests)
            .zip(answers)
            .map(|((member, request), answer)| self.said(guard, member, request, answer, is_taken, sent));
        says.collect()
    }

    /// What one bucket of a backend says.
    fn said(
        &self,
        guard: &Guard,
        member: &Member,
        request: &Request,
        answer: Answer,
        is_taken: bool,
        sent: u64,
    ) -> Result<Says, BackendError> {
        let Some(each) = self.whole.core.made_each() else { return Err(unanswered()) };
        let (part, written) = (&each.parts[member.part], self.whole.core.groups().len());
        let Answer { now, outcome } = answer;
        match outcome {
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
                Ok(Says::Admits { limit, position, remaining, reset_after, taken })
            }
            Outcome::Denied(denied) => {
                let refused = denied.refusal;
                let limit = *request.limits.get(refused.limit).ok_or_else(unanswered)?;
                let own = Call { core: &part.core, ..self.whole.call() };
                if own.is_denied_alike() {
                    keep_denial(guard, request, self.whole.cost, &refused, now.as_nanos(), sent);
                }
                let retry_after = refused.admitted_at.map_or(NEVER, |at| at.saturating_sub(now.as_nanos()));
                let position = part.position(refused.limit, written);
                let BackendRefusal { remaining, is_blocked, .. } = refused;
                Ok(Says::Denies { limit, refusal: Refusal { position, remaining, retry_after, is_blocked } })
            }
            Outcome::Done | Outcome::Blocked { .. } => Err(unanswered()),
        }
    }

    fn in_memory(&self, but: Option<usize>, looks: bool) -> AllSay {
        let call = self.whole.call();
        let call = if looks { call.peek() } else { call };
        match call.core.made_each() {
            Some(each) => call.in_memory(each, &self.members, but),
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
            match (&venue.target, &member.request) {
                (Target::Remote(guard), Some(request)) => {
                    let max_wait = Duration::from_nanos(wait.nanos());
                    let action = Action::Take { cost: call.cost, max_wait };
                    let request = Request { action, test_time: venue.test_time(), ..request.clone() };
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
    let _ = match mode {
        Mode::Blocking => held.core.refund(decision),
        Mode::Async => held.core.refund_async(decision).await,
    };
}

fn unanswered() -> BackendError {
    BackendError::new(BackendErrorKind::Refused, "the backend has not decided on every bucket")
}

impl Core {
    /// Forgets the buckets of all keys. Returns the requests to a backend.
    pub(crate) fn start_reset_each<K: RateLimitKeys>(&self, keys: &K) -> Vec<Question> {
        let Some(each) = self.each().filter(|each| each.len() == K::LEN) else { return Vec::new() };
        let mut resets = Resets { each, requests: Vec::new() };
        keys.each(&mut resets);
        resets.requests
    }
}
