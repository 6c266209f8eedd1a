//! Calls whose limits have different keys: each key's bucket is that of a part of the limiter, and
//! all buckets are charged or none is.
//!
//! A part is a [`Core`] of its own, with the limits that share a key. It has the whole limiter's
//! name, and takes the usual paths to memory and to backends. Only the whole limiter counts,
//! reports and names calls.
//!
//! A waiting call queues for the bucket that holds it back longest. When its turn comes, it takes
//! the rest together. If another bucket then denies, the call gives the permits back and waits for
//! that one. A bucket also denies while calls of a lower rank wait for it.

mod call;
mod keys;

use std::sync::Arc;

use smallvec::SmallVec;

use super::super::call::{Call, OwnedCall, Refusal, Wait};
use super::super::core::{Core, Each, Others, Part, Question, Target, Venue, kinds_of};
use super::Started;
use crate::algorithm::Rule;
use crate::backend::Request;
use crate::backend::memory::{
    Bucket, Judged, NEVER, Store, Tried, Verdict, Verdicts, peek_together, take_together, try_take_together,
};
use crate::decision::{Address, Decision, Place, Taken};
use crate::error::{ExceededKind, RateLimitExceeded};
use crate::keys::RateLimitKeys;
use crate::limit::{Limit, MAX_LIMITS};
use crate::observe::KeyText;
use crate::rt::clock::Now;
use crate::switches::Switches;
use keys::{Cached, FastBuckets, Members, Quick, Resets, TriedKeys};

pub(crate) use call::EachCall;

/// Readings of the clock while a denial ends within one, as in `ask_again`.
const READINGS: u32 = if cfg!(callgrind) { 0 } else { 100 };

/// What one bucket's limits say about a call.
enum Says {
    Admits { limit: Limit, position: u8, remaining: u32, reset_after: u64, taken: Option<Taken> },
    Denies { limit: Limit, refusal: Refusal },
}

type AllSay = SmallVec<[Says; 4]>;

/// Some of the members of a call, a bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Chosen(u8);

impl Chosen {
    /// Those whose keys have limits now.
    fn limited(each: &Each, members: &[Member]) -> Chosen {
        const { assert!(MAX_LIMITS <= u8::BITS as usize) };
        let limited = members.iter().enumerate().filter(|(_, member)| !each.parts[member.part].is_off());
        Chosen(limited.fold(0, |chosen, (index, _)| chosen | 1 << index))
    }

    fn has(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    fn but(self, index: usize) -> Chosen {
        Chosen(self.0 & !(1 << index))
    }

    fn of(self, members: &[Member]) -> impl Iterator<Item = &Member> {
        members.iter().enumerate().filter(move |(index, _)| self.has(*index)).map(|(_, member)| member)
    }
}

/// A bucket of a call that may wait, or that a backend decides.
struct Member {
    /// The index of its part.
    part: usize,
    /// In memory, or for when the backend fails.
    address: Address,
    /// The part's limits, if they were read at the call.
    limits: Option<SmallVec<[Limit; 2]>>,
    /// The question to a backend.
    request: Option<Request>,
}

impl Call<'_> {
    /// Does all that can be done without blocking.
    pub(crate) fn start_each<K: RateLimitKeys>(self, keys: &K) -> Started {
        match self.core.each() {
            Some(each) if each.len() == K::LEN => self.start_with(each, keys),
            Some(_) => Started::Done(self.wrong_keys(keys)),
            // The limiter was called while its backend is being made.
            None => Started::Done(self.undecided().unwrap_or_else(|| Ok(self.free()))),
        }
    }

    /// The fast path: takes the permits if all buckets are on theirs and admit the call. `None` if
    /// it does not decide; nothing has changed then.
    #[inline]
    pub(in super::super) fn takes_each<K: RateLimitKeys>(&self, keys: &K) -> Option<Result<(), Refusal>> {
        if !Switches::load().are_off() || self.core.is_special() || self.limits.is_some() {
            return None;
        }
        let each = self.core.made_each().filter(|each| each.len() == K::LEN)?;
        let mut buckets = keys.map(&Quick { each, cost: self.cost })?;
        let &(store, _) = buckets.as_ref().first()?;
        let now = self.now(store);
        let (part, until) = match try_take_together(buckets.as_mut(), now, self.cost) {
            Tried::Taken => {
                self.core.allowed();
                return Some(Ok(()));
            }
            Tried::First(until) | Tried::Both(until) if self.wait == Wait::No => (0, until),
            Tried::Second(until) if self.wait == Wait::No => (1, until),
            _ => return None,
        };
        let position = each.parts.get(part)?.position(0, self.core.groups().len());
        let retry_after = until.saturating_sub(now.earliest);
        Some(Err(Refusal { position, remaining: 0, retry_after, is_blocked: false }))
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
        let buckets = &fast.buckets;
        if buckets.len() != K::LEN {
            return None;
        }
        let store = buckets[0].store;
        let verdicts = Verdicts::new();
        let take = |now| take_together(buckets, now, false, &verdicts);
        let (now, is_charged) = asked(|| self.now(store), take, &verdicts, buckets.len());
        if is_charged {
            self.core.allowed();
            return Some(Ok(()));
        }
        if may_wait {
            return None;
        }
        let written = self.core.groups().len();
        let denials = (0..K::LEN).filter_map(|index| {
            admitted(&each.parts[index], buckets[index].ask.call.rules, verdicts.of(index), now, written).err()
        });
        let text = KeyText::of(keys);
        let call = Call { key: text.shown(), ..*self };
        let (limit, refusal) = longest(denials)?;
        Some(call.denied(limit, refusal).map(drop))
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
        let limited = Chosen::limited(each, &members);
        if limited == Chosen(0) {
            return Started::Done(Ok(call.free()));
        }
        if guard.is_none() && call.wait == Wait::No {
            return Started::Done(call.conclude(call.in_memory(each, &members, limited), 0));
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
        let limited = Chosen::limited(each, &members.all);
        let _ = call.conclude(call.in_memory(each, &members.all, limited), 0);
    }

    /// Takes from, or peeks at, some buckets in memory.
    fn in_memory(&self, each: &Each, members: &[Member], chosen: Chosen) -> AllSay {
        let switches = Switches::load();
        let parts: SmallVec<[(&Part, &Member, Venue<'_>); 4]> = chosen
            .of(members)
            .map(|member| {
                let part = &each.parts[member.part];
                let venue = part.core.venue(switches, self.is_async);
                (part, member, venue)
            })
            .collect();
        let other_rules = |(part, member, _): &(&Part, &Member, _)| part.core.other_rules(member.limits.as_deref());
        let others: SmallVec<[Option<Others>; 4]> = parts.iter().map(other_rules).collect();
        let stores: SmallVec<[Arc<Store>; 4]> = parts
            .iter()
            .map(|(part, _, venue)| match &venue.target {
                Target::Memory(store) => Arc::clone(store),
                Target::Remote(_) => Arc::clone(&part.core.fallback(venue)),
            })
            .collect();
        let mut buckets: SmallVec<[Bucket<'_>; 4]> = SmallVec::new();
        for (((part, member, _), others), store) in parts.iter().zip(&others).zip(&stores) {
            let ask = part.core.ask(store, part.core.or_written(others.as_ref()), self.cost);
            buckets.push(Bucket { store, address: member.address, ask });
        }
        let Some((_, _, venue)) = parts.first() else { return AllSay::new() };
        let resets: SmallVec<[u32; 4]> = buckets.iter().map(|bucket| bucket.store.resets(bucket.address)).collect();
        let verdicts = Verdicts::new();
        let take = |now| {
            if self.peek {
                peek_together(&buckets, now, &verdicts);
                return false;
            }
            take_together(&buckets, now, true, &verdicts)
        };
        let (now, is_taken) = asked(|| venue.now(), take, &verdicts, buckets.len());
        let says = parts.iter().enumerate().map(|(index, (part, member, ..))| {
            let rules = buckets[index].ask.call.rules;
            let held = |at| self.held(&stores[index], member.address, at, resets[index], kinds_of(rules));
            let limits = || member.limits.as_deref().map(Into::into);
            let taken = |at| Taken { place: Place::Memory(held(at)), limits: limits(), limiter: part.core.id };
            let taken: Option<&dyn Fn(u64) -> Taken> = if is_taken { Some(&taken) } else { None };
            says(self, part, rules, verdicts.of(index), now, taken)
        });
        says.collect()
    }

    /// The outcome of a call, from what its buckets say.
    fn conclude(self, says: AllSay, waited: u64) -> Result<Decision, RateLimitExceeded> {
        let denials = says.iter().filter_map(|says| match says {
            Says::Denies { limit, refusal } => Some((*limit, *refusal)),
            Says::Admits { .. } => None,
        });
        if let Some((limit, refusal)) = longest(denials) {
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
            self.core.note_admitted(decision.limit, decision.remaining, decision.reset_after);
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
            self.core.report_denial(exceeded, self.cost, text.shown());
        }
        if self.core.dry_run() { Ok(decision) } else { Err(exceeded()) }
    }
}

/// Asks again while a denial ends within one reading of the clock. Returns what `ask` does, and the
/// reading.
#[inline]
fn asked(read: impl Fn() -> Now, ask: impl Fn(Now) -> bool, verdicts: &Verdicts, buckets: usize) -> (Now, bool) {
    let mut readings = 0;
    loop {
        let now = read();
        let is_charged = ask(now);
        if is_charged || readings == READINGS || latest(verdicts, buckets) > now.latest {
            return (now, is_charged);
        }
        readings += 1;
    }
}

/// The first of the denials that last the longest.
fn longest(denials: impl Iterator<Item = (Limit, Refusal)>) -> Option<(Limit, Refusal)> {
    denials.reduce(|longest, denial| if longest.1.retry_after < denial.1.retry_after { denial } else { longest })
}

/// Until when the buckets deny; [`NEVER`] if none does.
fn latest(verdicts: &Verdicts, buckets: usize) -> u64 {
    let until = |index| match verdicts.of(index).verdict {
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
    judged: Judged,
    now: Now,
    taken: Option<&dyn Fn(u64) -> Taken>,
) -> Says {
    let written = call.core.groups().len();
    match admitted(part, rules, judged, now, written) {
        Err((limit, refusal)) => Says::Denies { limit, refusal },
        Ok(at) => {
            let own = usize::from(judged.left.position);
            Says::Admits {
                limit: rules[own].limit,
                position: part.position(own, written),
                remaining: judged.left.remaining,
                reset_after: judged.left.idle_at.saturating_sub(now.earliest),
                taken: taken.map(|taken| taken(at)),
            }
        }
    }
}

/// The time of the permits, or the denial by the limits of a part. The limiter has `written` limits.
#[inline]
fn admitted(
    part: &Part,
    rules: &[Rule],
    Judged { verdict, left }: Judged,
    now: Now,
    written: usize,
) -> Result<u64, (Limit, Refusal)> {
    let (own, until) = match verdict {
        Verdict::Admitted { at } => return Ok(at),
        Verdict::Denied { until, position } => (usize::from(position), until),
        // The states decide every call in the end. If one did not, the limiter would fail closed.
        Verdict::Undecided => (0, NEVER),
    };
    let retry_after = if until == NEVER { NEVER } else { until.saturating_sub(now.earliest) };
    let position = part.position(own, written);
    let refusal = Refusal { position, remaining: left.remaining, retry_after, is_blocked: left.is_blocked };
    Err((rules[own].limit, refusal))
}

impl Core {
    /// Forgets the buckets of all keys. Returns the requests to a backend.
    pub(crate) fn start_reset_each<K: RateLimitKeys>(&self, keys: &K, is_async: bool) -> Vec<Question> {
        let Some(each) = self.each().filter(|each| each.len() == K::LEN) else { return Vec::new() };
        let mut resets = Resets { each, is_async, requests: Vec::new() };
        keys.each(&mut resets);
        resets.requests
    }
}
