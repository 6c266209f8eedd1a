//! Decides calls, blocking or not. If buckets are in memory, the decision is made in place. A wait
//! or a request to a backend is left to [`Started`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::call::{Call, Refusal, Wait, ask_again, polled_again, refusal};
use super::core::{Core, Fast, Packed, Target, Venue, kinds_of, kinds_of_one};
use super::fast::{self, Found};
use super::started::{Pending, Started};
use crate::algorithm::Rule;
use crate::backend::memory::{
    Ask, Attempt, BucketPath, FixedPath, KeyPath, Kind, Left, OnePermit, Permit, Store, TatPath, Verdict, WindowPath,
    on_path,
};
use crate::decision::{Address, Decision, Held};
use crate::error::{ExceededKind, RateLimitExceeded};
use crate::guard::Guard;
use crate::guard::denials::CachedDenial;
use crate::key::RateLimitKey;
use crate::keys::RateLimitKeys;
use crate::observe::{self, KeyText};
use crate::rt::clock::Now;
use crate::switches::Switches;

/// The text of a call's key, for a denial that is reported.
type Text<'a> = &'a dyn Fn() -> KeyText;

/// Permits that are kept or given back by the outcome of the body.
pub(crate) enum Holding {
    Nothing,
    Memory(Held),
    Other(Box<Decision>),
}

impl<'a> Call<'a> {
    /// Decides on this thread.
    #[inline]
    pub(crate) fn decide<K: RateLimitKey>(self, key: &K) -> Result<Decision, RateLimitExceeded> {
        let asked = Asked(self, key);
        if self.limits.is_none()
            && self.wait == Wait::No
            && let Some(Fast { store, .. }) = fast::fast(self.core, self.cost)
            && let address @ Address::Hash(hash) = store.address(key)
            && !store.may_hold(address)
        {
            return decide_by_path(&self, store, hash, &asked);
        }
        asked.decide()
    }

    /// As [`decide`](Call::decide), for a caller that needs only yes or no.
    ///
    /// Takes the key by value. A reference taken on the slow path would spill the key to memory on
    /// the fast path too.
    #[expect(clippy::inline_always, reason = "the call is to be taken apart into registers where it is made")]
    #[inline(always)]
    pub(super) fn admit<K: RateLimitKey>(self, key: K) -> Result<(), RateLimitExceeded> {
        if self.wait != Wait::No {
            return self.admit_or_wait(&key);
        }
        if self.limits.is_some() || self.cost != 1 {
            return self.admit_some(&key);
        }
        match fast::admit(self.core, &key, OnePermit) {
            Found::Admitted => Ok(()),
            Found::Denied { retry_after } => Err(self.denial(key, retry_after)),
            Found::Else(found) => admit_slowly(found, self.core, key),
        }
    }

    /// As [`admit`](Call::admit), for a call of another cost, or with limits read at the call.
    #[inline(never)]
    fn admit_some<K: RateLimitKey>(&self, key: &K) -> Result<(), RateLimitExceeded> {
        if self.limits.is_none()
            && let Found::Admitted = fast::admit(self.core, key, self.cost)
        {
            return Ok(());
        }
        self.admit_otherwise(key)
    }

    /// As [`admit`](Call::admit), for a call that the fast path has not decided.
    #[inline]
    fn admit_otherwise<K: RateLimitKey>(&self, key: &K) -> Result<(), RateLimitExceeded> {
        match self.admit_any(key) {
            Some(Ok(())) => Ok(()),
            Some(denied) => denied,
            None => self.decide_elsewhere(key),
        }
    }

    /// As [`admit`](Call::admit), for a call that may wait.
    #[inline(never)]
    fn admit_or_wait<K: RateLimitKey>(&self, key: &K) -> Result<(), RateLimitExceeded> {
        if self.limits.is_none()
            && let Found::Admitted = fast::admit(self.core, key, self.cost)
        {
            return Ok(());
        }
        self.admit_any(key).unwrap_or_else(|| self.decide(key).map(drop))
    }

    /// As [`admit`](Call::admit), for a future.
    #[expect(clippy::inline_always, reason = "the call is to be taken apart into registers where it is made")]
    #[inline(always)]
    pub(crate) fn admit_in_future<K: RateLimitKey>(self, key: K) -> Begun {
        if self.limits.is_some() || self.wait != Wait::No || self.cost != 1 {
            return self.in_future().begin_some(&key);
        }
        match fast::admit_in_future(self.core, &key, OnePermit).found() {
            Found::Admitted => Begun::Admitted,
            Found::Denied { retry_after } => Begun::Denied(self.denial(key, retry_after)),
            Found::Else(found) => begin_slowly(found, self.core, &key),
        }
    }

    /// As [`admit_some`](Call::admit_some) or [`admit_or_wait`](Call::admit_or_wait), for a future.
    #[inline(never)]
    fn begin_some<K: RateLimitKey>(self, key: &K) -> Begun {
        if self.limits.is_none()
            && let Found::Admitted = fast::admit_in_future(self.core, key, self.cost).found()
        {
            return Begun::Admitted;
        }
        self.begin_otherwise(key)
    }

    fn begin_otherwise<K: RateLimitKey>(self, key: &K) -> Begun {
        if let Some(decided) = self.admit_any(key) {
            return Begun::of(decided);
        }
        if self.wait == Wait::No { self.begin_elsewhere(key) } else { self.begin_started(key) }
    }

    pub(super) fn begin_started<K: RateLimitKey>(self, key: &K) -> Begun {
        Begun::later(self.start(key))
    }

    /// Decides any call in memory while all switches are off; `None` if it must take another path.
    #[expect(clippy::inline_always, reason = "so that an admission by a single limit is moved to no memory")]
    #[inline(always)]
    fn admit_any<K: RateLimitKey>(&self, key: &K) -> Option<Result<(), RateLimitExceeded>> {
        let store = self.memory()?;
        let (address, text) = (store.address(key), &|| KeyText::of(key));
        let now = self.now(store);
        match self.core.try_other(self.limits, store, address, now, self.cost) {
            Attempt::Admitted => {
                self.core.allowed();
                Some(Ok(()))
            }
            // A denial that ends within this reading of the clock does not count yet.
            Attempt::Denied(until) if until > now.latest && self.cost == 1 && self.wait == Wait::No => {
                Some(self.denied_by_other(text, until, now))
            }
            _ => self.is_admitted(store, address, text, now),
        }
    }

    /// The outcome of a call denied by a single limit that is not as written.
    #[inline(never)]
    fn denied_by_other(&self, text: Text<'_>, until: u64, now: Now) -> Result<(), RateLimitExceeded> {
        let limit = self.core.with_rules(self.limits, |rules| rules[0].limit);
        self.refused_of(text, limit, refusal(until, Left::default(), now))
    }

    /// Whether the call may wait if it is denied. `None` if it must wait without asking first,
    /// because its denial would be an offence.
    #[inline]
    fn may_wait(&self) -> Option<bool> {
        let may_wait = self.wait != Wait::No && !self.core.dry_run();
        (!may_wait || self.core.backoff().is_none()).then_some(may_wait)
    }

    /// Has `take` decide by the limits in memory. `None` if the call is not decided, because it may
    /// wait. `admitted` makes the outcome of an admitted call from its limits, the time of its
    /// permits, and what is left; `unlimited` makes that of a call denied in a dry run.
    #[expect(clippy::inline_always, reason = "so that the outcome is made where it is returned")]
    #[inline(always)]
    fn ask<R>(
        &self,
        store: &Store,
        now: Now,
        text: Text<'_>,
        take: impl Fn(&Ask<'_>, Now) -> (Verdict, Left),
        admitted: impl FnOnce(&[Rule], u64, Left) -> R,
        unlimited: impl FnOnce() -> R,
    ) -> Option<Result<R, RateLimitExceeded>> {
        let may_wait = self.may_wait()?;
        self.core.with_ask(store, self.limits, self.cost, |ask| {
            match ask_again(now, || self.now(store), |now| take(ask, now)) {
                (Verdict::Admitted { at }, left) => Some(Ok(admitted(ask.call.rules, at, left))),
                (Verdict::Denied { until, position }, left) if !may_wait => {
                    let limit = ask.call.rules[usize::from(position)].limit;
                    Some(self.refused_of(text, limit, refusal(until, left, now)).map(|()| unlimited()))
                }
                (Verdict::Denied { .. } | Verdict::Undecided, _) => None,
            }
        })
    }

    /// As [`ask`](Call::ask), for a call that needs only yes or no. Counts an admitted call.
    #[inline(never)]
    fn is_admitted(
        &self,
        store: &Store,
        address: Address,
        text: Text<'_>,
        now: Now,
    ) -> Option<Result<(), RateLimitExceeded>> {
        let take = |ask: &Ask<'_>, now| store.take(address, ask, now, false);
        self.ask(store, now, text, take, |_, _, _| self.core.allowed(), || ())
    }

    /// Takes permits that the outcome of the body keeps or gives back. `None` if they must be taken
    /// [elsewhere](Call::hold_slowly).
    #[expect(clippy::inline_always, reason = "what is held is to stay in registers")]
    #[inline(always)]
    pub(crate) fn hold_fast<K: RateLimitKey>(&self, key: &K) -> Option<Held> {
        if self.limits.is_none() { fast::take(self.core, key, self.cost, self.is_async) } else { None }
    }

    #[inline(never)]
    pub(crate) fn hold_slowly<K: RateLimitKey>(self, key: K) -> Result<Holding, RateLimitExceeded> {
        self.hold_in_memory(&key).unwrap_or_else(|| held(self.decide(&key)))
    }

    fn hold_in_memory<K: RateLimitKey>(&self, key: &K) -> Option<Result<Holding, RateLimitExceeded>> {
        let store = self.memory().filter(|_| self.limits.is_none())?;
        self.hold_at(store, store.address(key), &|| KeyText::of(key))
    }

    #[inline(never)]
    fn hold_at(&self, store: &Store, address: Address, text: Text<'_>) -> Option<Result<Holding, RateLimitExceeded>> {
        let resets = store.resets(address);
        let take = |ask: &Ask<'_>, now| store.take(address, ask, now, false);
        let held = |rules: &[Rule], at, _| {
            self.core.allowed();
            Holding::Memory(self.held(store, address, at, resets, kinds_of(rules)))
        };
        self.ask(store, self.now(store), text, take, held, || Holding::Nothing)
    }

    /// As [`hold_slowly`](Call::hold_slowly), for a future.
    pub(crate) fn hold_in_future<K: RateLimitKey>(self, key: &K) -> BegunHeld {
        let call = self.in_future();
        match call.hold_fast(key).map(|held| Ok(Holding::Memory(held))).or_else(|| call.hold_in_memory(key)) {
            Some(held) => BegunHeld::Done(Some(held)),
            None => BegunHeld::later(call.start(key)),
        }
    }

    /// The store, if buckets are in memory and all switches are off. The store itself checks for
    /// keys that are held.
    #[inline]
    fn memory(&self) -> Option<&'a Arc<Store>> {
        let is_usual = Switches::load().are_off() && !self.core.is_special();
        if is_usual { self.core.memory() } else { None }
    }

    #[inline]
    pub(super) fn now(&self, store: &Store) -> Now {
        store.now_for(self.is_async)
    }

    /// The error of a call denied on the fast path, after it was reported.
    #[expect(clippy::inline_always, reason = "see `Core::exceeded`")]
    #[inline(always)]
    fn denial<K: RateLimitKey>(self, key: K, retry_after: u64) -> RateLimitExceeded {
        if observe::wants_denials() {
            report_denial(self.core, key, || self.core.exceeded(retry_after));
        }
        self.core.exceeded(retry_after)
    }

    /// The outcome of a call denied on the fast path by one of several limits, with `backoff`, or
    /// because its key is blocked.
    #[inline]
    fn denied_fast<K: RateLimitKey>(&self, key: &K, found: Packed) -> Option<Result<(), RateLimitExceeded>> {
        if let Some((remaining, retry_after)) = found.blocked() {
            return Some(Err(blocked(self.core, key, remaining, retry_after)));
        }
        found.refusal().map(|refusal| refuse(self.core, key, refusal))
    }

    /// Takes the permits of each key's bucket, all or none, for a caller that needs only yes or no.
    #[inline]
    pub fn check_each<K: RateLimitKeys>(self, keys: K) -> Result<(), RateLimitExceeded> {
        match self.takes_each(&keys) {
            Some(Ok(())) => Ok(()),
            Some(Err(refusal)) => refuse(self.core, &keys, refusal),
            None => self.check_each_slowly(&keys),
        }
    }

    #[cold]
    #[inline(never)]
    fn check_each_slowly<K: RateLimitKeys>(&self, keys: &K) -> Result<(), RateLimitExceeded> {
        match self.each_at_once(keys) {
            Some(decided) => decided,
            None => self.start_each(keys).finish().map(drop),
        }
    }

    /// As [`check_each`](Call::check_each), for a future.
    pub(crate) fn admit_each_in_future<K: RateLimitKeys>(self, keys: &K) -> Begun {
        let call = self.in_future();
        if let Some(decided) = call.takes_each(keys) {
            return Begun::of(decided.or_else(|refusal| refuse(call.core, keys, refusal)));
        }
        if let Some(decided) = call.each_at_once(keys) {
            return Begun::of(decided);
        }
        Begun::later(call.start_each(keys))
    }

    /// Does all that can be done without blocking.
    #[inline]
    pub(crate) fn start<K: RateLimitKey>(self, key: &K) -> Started {
        match self.decide_in_memory(key) {
            Some(decided) => Started::Done(decided),
            None => self.start_anywhere(key),
        }
    }

    /// Decides in memory if all switches are off and the call does not wait.
    #[inline]
    fn decide_in_memory<K: RateLimitKey>(&self, key: &K) -> Option<Result<Decision, RateLimitExceeded>> {
        let store = self.memory().filter(|_| self.wait == Wait::No)?;
        self.decide_at(store, store.address(key), &|| KeyText::of(key))
    }

    #[inline(never)]
    fn decide_at(
        &self,
        store: &Store,
        address: Address,
        text: Text<'_>,
    ) -> Option<Result<Decision, RateLimitExceeded>> {
        let (now, resets) = (self.now(store), store.resets(address));
        let take = |ask: &Ask<'_>, now| {
            if self.peek { store.peek(address, ask, now) } else { store.take(address, ask, now, true) }
        };
        let decision = |rules: &[Rule], at, left| self.admitted(store, address, rules, at, resets, left, now, 0);
        self.ask(store, now, text, take, decision, || self.free())
    }

    #[inline(never)]
    fn start_anywhere<K: RateLimitKey>(self, key: &K) -> Started {
        let switches = Switches::load();
        if self.core.is_off(switches) {
            return Started::Done(Ok(self.free()));
        }
        if let Some(tried) = self.core.tried()
            && !self.peek
        {
            // Never denies, and is decided at once: it is in memory and in a dry run.
            let _ = Call { core: &tried, limits: None, wait: Wait::No, ..self }.start(key);
        }
        // In a dry run, a call that would have to wait counts as denied, and runs at once.
        let wait = if self.core.dry_run() { Wait::No } else { self.wait };
        let text = KeyText::of(key);
        let call = Call { wait, key: text.shown(), ..self };
        let venue = call.core.venue(switches, call.is_async);
        call.core.send_blocks(&venue);
        match &venue.target {
            Target::Memory(store) => call.decide_in(store, store.address(key), &venue),
            Target::Remote(backend) => match call.denied_already(key, backend, &venue) {
                Some(denied) => Started::Done(denied),
                None => Box::new(call.remote(key, backend, &venue)).begin(&venue),
            },
        }
    }

    /// The cached denial of the call, if there is one. It also answers a [`peek`](Call::peek).
    #[inline]
    fn denied_already<K: RateLimitKey>(
        self,
        key: &K,
        backend: &Guard,
        venue: &Venue<'_>,
    ) -> Option<Result<Decision, RateLimitExceeded>> {
        let denials = backend.denials().filter(|_| self.is_denied_alike())?;
        let now = venue.backend_now();
        let denial = denials.find(self.core.asked(venue, key, self.cost), now)?;
        let CachedDenial { admitted_at, remaining, limit: position, is_blocked, .. } =
            if self.peek { denial } else { denial.to_a_try(now) };
        let limit = self.core.with_rules(None, |rules| rules.get(usize::from(position)).map(|rule| rule.limit))?;
        Some(
            self.denied(
                limit,
                Refusal { position, remaining, retry_after: admitted_at.saturating_sub(now), is_blocked },
            ),
        )
    }
}

/// A call and its key, for functions that do not know the key's type.
trait Asks {
    fn text(&self) -> KeyText;

    /// Decides on the path that every call can take.
    fn decide(&self) -> Result<Decision, RateLimitExceeded>;
}

struct Asked<'a, K>(Call<'a>, &'a K);

impl<K: RateLimitKey> Asks for Asked<'_, K> {
    fn text(&self) -> KeyText {
        KeyText::of(self.1)
    }

    fn decide(&self) -> Result<Decision, RateLimitExceeded> {
        let Asked(call, key) = *self;
        match call.decide_in_memory(key) {
            Some(decided) => decided,
            None => call.start_anywhere(key).finish(),
        }
    }
}

/// The outcome of a call by the one limit written down, for a key in `store`.
#[inline]
fn decide_by_path(call: &Call<'_>, store: &Store, hash: u64, asked: &dyn Asks) -> Result<Decision, RateLimitExceeded> {
    if call.peek {
        on_path!(store.kind(), Path => decide_on::<Path, true>(call, store, hash, asked), asked.decide())
    } else {
        on_path!(store.kind(), Path => decide_on::<Path, false>(call, store, hash, asked), asked.decide())
    }
}

#[inline(never)]
fn decide_on<P: KeyPath, const PEEKS: bool>(
    call: &Call<'_>,
    store: &Store,
    hash: u64,
    asked: &dyn Asks,
) -> Result<Decision, RateLimitExceeded> {
    let address = Address::Hash(hash);
    let (now, resets) = (call.now(store), store.resets(address));
    let outcome =
        if PEEKS { P::peek(store, hash, now, call.cost) } else { P::take_with_left(store, hash, now, call.cost) };
    match outcome {
        (Verdict::Admitted { at }, left) => {
            // Known to the compiler.
            let (call, limit) = (Call { limits: None, peek: PEEKS, ..*call }, store.limit());
            let held = call.held(store, address, at, resets, kinds_of_one(limit.algorithm()));
            Ok(call.admitted_by(limit, held, left, now, 0))
        }
        // A denial that ends within this reading of the clock does not count yet.
        (Verdict::Denied { until, .. }, left) if until > now.latest => {
            call.refused_of(&|| asked.text(), store.limit(), refusal(until, left, now)).map(|()| call.free())
        }
        _ => asked.decide(),
    }
}

#[cold]
#[inline(never)]
fn report_denial<K: RateLimitKey>(core: &Core, key: K, exceeded: impl Fn() -> RateLimitExceeded) {
    core.report_denial(exceeded, 1, KeyText::of(&key).shown());
}

#[cold]
#[inline(never)]
fn admit_slowly<K: RateLimitKey>(found: Packed, core: &Arc<Core>, key: K) -> Result<(), RateLimitExceeded> {
    if let Some((remaining, retry_after)) = found.blocked() {
        return Err(blocked(core, &key, remaining, retry_after));
    }
    match found.refusal() {
        Some(refusal) => refuse(core, &key, refusal),
        None => admit_otherwise(core, &key),
    }
}

#[cold]
#[inline(never)]
fn begin_slowly<K: RateLimitKey>(found: Packed, core: &Arc<Core>, key: &K) -> Begun {
    let call = Call::new(core).in_future();
    call.denied_fast(key, found).map_or_else(|| call.begin_otherwise(key), Begun::of)
}

#[inline(never)]
fn admit_otherwise<K: RateLimitKey>(core: &Arc<Core>, key: &K) -> Result<(), RateLimitExceeded> {
    Call::new(core).admit_otherwise(key)
}

/// The error of a call on a blocked key, of which the only limit written down has this much left.
#[inline]
fn blocked<K: RateLimitKey>(core: &Core, key: &K, remaining: u32, retry_after: u64) -> RateLimitExceeded {
    let exceeded = || RateLimitExceeded { remaining, kind: ExceededKind::Blocked, ..core.exceeded(retry_after) };
    if observe::wants_denials() {
        report_denial(core, key, exceeded);
    }
    exceeded()
}

/// The outcome of a call denied by the limits written down, which is not counted yet.
#[inline]
fn refuse<K: RateLimitKey>(core: &Arc<Core>, key: &K, refusal: Refusal) -> Result<(), RateLimitExceeded> {
    if observe::wants_denials() || core.dry_run() || !Switches::load().are_off() {
        return refuse_and_report(core, key, refusal);
    }
    core.denied();
    Err(core.refused(core.written(refusal.position), refusal))
}

#[cold]
#[inline(never)]
fn refuse_and_report<K: RateLimitKey>(core: &Arc<Core>, key: &K, refusal: Refusal) -> Result<(), RateLimitExceeded> {
    Call::new(core).refused_of(&|| KeyText::of(key), core.written(refusal.position), refusal)
}

/// The call of a future that needs only yes or no. An admission is a variant of its own, so that
/// no error is moved for it.
pub(crate) enum Begun {
    Admitted,
    Denied(RateLimitExceeded),
    Pending(Pending),
    /// The outcome was taken.
    Over,
}

impl Begun {
    #[inline]
    pub(super) fn of(decided: Result<(), RateLimitExceeded>) -> Begun {
        decided.map_or_else(Begun::Denied, |()| Begun::Admitted)
    }

    fn later(started: Started) -> Begun {
        started.at_once().map_or_else(Begun::Pending, |decided| Begun::of(decided.map(drop)))
    }
}

impl Future for Begun {
    type Output = Result<(), RateLimitExceeded>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Begun::Admitted => {
                *self = Begun::Over;
                Poll::Ready(Ok(()))
            }
            Begun::Pending(pending) => Pin::new(pending).poll(context).map(|decided| decided.map(drop)),
            Begun::Denied(_) | Begun::Over => match std::mem::replace(&mut *self, Begun::Over) {
                Begun::Denied(exceeded) => Poll::Ready(Err(exceeded)),
                _ => polled_again(),
            },
        }
    }
}

/// As [`Begun`], for a call whose permits can be given back.
pub(crate) enum BegunHeld {
    Done(Option<Result<Holding, RateLimitExceeded>>),
    Pending(Pending),
}

impl BegunHeld {
    pub(crate) fn later(started: Started) -> BegunHeld {
        started.at_once().map_or_else(BegunHeld::Pending, |decided| BegunHeld::Done(Some(held(decided))))
    }
}

impl Future for BegunHeld {
    type Output = Result<Holding, RateLimitExceeded>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            BegunHeld::Done(decided) => match decided.take() {
                Some(decided) => Poll::Ready(decided),
                None => polled_again(),
            },
            BegunHeld::Pending(pending) => Pin::new(pending).poll(context).map(held),
        }
    }
}

fn held(decided: Result<Decision, RateLimitExceeded>) -> Result<Holding, RateLimitExceeded> {
    decided.map(|decision| Holding::Other(Box::new(decision)))
}

impl Core {
    /// Gives back `cost` of the permits, which the one limit written down took. `false` if that must
    /// be done elsewhere.
    #[inline(never)]
    pub(super) fn give_back_fast(&self, held: &Held, cost: u32) -> bool {
        match self.known_fast() {
            Some(Fast { store, .. })
                if held.store == store.id() && held.kinds == kinds_of_one(store.limit().algorithm()) =>
            {
                store.try_refund(held.address, held.is_async, Permit { cost, ..held.permit }, held.resets)
            }
            _ => false,
        }
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limit::{Algorithm, Limit};
    use crate::limiter::RateLimiter;

    /// Denials of a blocking and of an async call, each on its own key.
    fn denied_twice(limiter: &RateLimiter, wait: Duration) -> [RateLimitExceeded; 2] {
        let blocking = || Call::new(limiter.core()).admit("blocking");
        let future = || match Call::new(limiter.core()).admit_in_future("future") {
            Begun::Admitted => Ok(()),
            Begun::Denied(exceeded) => Err(exceeded),
            _ => panic!("it is decided at once"),
        };
        assert!(blocking().is_ok() && future().is_ok());
        (_, _) = (blocking(), future());
        std::thread::sleep(wait);
        [blocking().unwrap_err(), future().unwrap_err()]
    }

    #[test]
    fn a_futures_call_that_is_decided_at_once_allocates_no_future() {
        for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
            let limit = Limit::new(2, Duration::from_secs(60)).with_algorithm(algorithm);
            let limiter = RateLimiter::builder(format!("begun {algorithm:?}")).limit(limit).build().unwrap();
            for _ in 0..3 {
                assert!(matches!(Call::new(limiter.core()).admit_in_future("a"), Begun::Admitted | Begun::Denied(_)));
            }
        }
    }

    #[test]
    #[should_panic(expected = "polled after it was ready")]
    fn a_future_that_is_polled_again_does_not_admit_the_call_once_more() {
        let limiter = RateLimiter::builder("again").limit(Limit::new(9, Duration::from_secs(60))).build().unwrap();
        let mut begun = Call::new(limiter.core()).admit_in_future("a");
        let context = &mut Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut begun).poll(context).is_ready());
        let _ = Pin::new(&mut begun).poll(context);
    }

    #[test]
    fn a_denial_by_replaced_limits_is_one_offence() {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let algorithms = Algorithm::ALL;
        for (algorithm, other) in algorithms.into_iter().flat_map(|one| algorithms.map(|other| (one, other))) {
            let limit = Limit::new(1, days(366));
            let builder = RateLimiter::builder(format!("{algorithm:?}, {other:?}"));
            let builder = builder.limit(limit.with_algorithm(algorithm)).backoff(days(400), days(4_000));
            let limiter = builder.build().unwrap();
            let call = || Call::new(limiter.core()).admit("a");
            assert!(call().is_ok());
            limiter.set_limits(&[limit.with_algorithm(other)]).unwrap();
            let retry_after = call().unwrap_err().retry_after();
            assert!(retry_after <= Some(days(400)), "{algorithm:?}, {other:?}: {retry_after:?}");
        }
    }

    #[test]
    fn the_fast_path_tells_which_of_several_limits_denies() {
        let limits = [Limit::new(9, Duration::from_secs(60)), Limit::new(1, Duration::from_secs(30))];
        let limiter = RateLimiter::builder("second").limit(limits[0]).limit(limits[1]).build().unwrap();
        for exceeded in denied_twice(&limiter, Duration::ZERO) {
            assert_eq!((exceeded.position, exceeded.limit, exceeded.remaining), (1, limits[1], 0));
            assert_eq!(exceeded.kind, ExceededKind::Limited);
        }
        assert_eq!(limiter.core().counts(), (2, 4));
    }

    #[test]
    fn the_fast_path_counts_a_denial_in_a_dry_run_once_and_admits_the_call() {
        let limit = Limit::new(1, Duration::from_secs(60));
        let builders = [RateLimiter::builder("dry"), RateLimiter::builder("dry twice").limit(limit)];
        for builder in builders {
            let limiter = builder.limit(limit).dry_run().build().unwrap();
            let blocking = || Call::new(limiter.core()).admit("a").is_ok();
            let future = || matches!(Call::new(limiter.core()).admit_in_future("a"), Begun::Admitted);
            assert!((0..3).all(|_| blocking() && future()));
            assert_eq!(limiter.core().counts(), (1, 5));
        }
    }

    #[test]
    fn the_fast_path_tells_what_is_left_of_a_blocked_key() {
        let (limit, minute) = (Limit::new(1, Duration::from_millis(500)), Duration::from_secs(60));
        let limiter = RateLimiter::builder("blocked").limit(limit).backoff(minute, 10 * minute).build().unwrap();
        for exceeded in denied_twice(&limiter, Duration::from_millis(510)) {
            assert_eq!((exceeded.position, exceeded.limit, exceeded.remaining), (0, limit, 1));
            // Blocked for 120 s by the second denial: each was counted once.
            assert!((119_000_000_000..=120_000_000_000).contains(&exceeded.retry_after));
        }
        assert_eq!(limiter.core().counts(), (2, 4));
    }
}
