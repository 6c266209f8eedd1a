//! One call: from a limiter, a key and a cost to a decision, blocking or not.
//!
//! [`Call::start`] never blocks. If the buckets are in memory it decides at once. What is left to do, a wait or a request to a
//! backend, is owned by [`Started`] and finished on the thread or in a future.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use super::OnBackendError;
use super::core::{Core, Target, Venue, kinds_of, kinds_of_one};
use super::fast::{self, Found};
use super::waiting::{BeforeBackend, Options as WaitOptions, Waiting, joining_of};
use crate::algorithm::record::Admission;
use crate::algorithm::record::Refusal as BackendRefusal;
use crate::backend::memory::{Ask, Left, NEVER, Permit, Store, Verdict};
use crate::backend::{Action, Admitted, Answer, Denied as BackendDenied, Outcome, Request};
use crate::clock::{self, Now, nanos};
use crate::decision::{Address, Decision, Held, Place, RemoteBucket, Taken};
use crate::error::{BackendError, ExceededKind, RateLimitExceeded};
use crate::fingerprint::{self, Fingerprint};
use crate::guard::Guard;
use crate::guard::denials::{Asked, Told};
use crate::guard::queue::{Booked, Denied, Queues, Unqueued, Waiter};
use crate::key::RateLimitKey;
use crate::limit::{Algorithm, Limit};
use crate::observe::{self, KeyText, ShownKey};
use crate::queue::Ahead;
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
    pub(super) const fn nanos(self) -> u64 {
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
    pub(super) core: &'a Arc<Core>,
    pub(super) limits: Option<&'a [Limit]>,
    pub(super) cost: u32,
    pub(super) wait: Wait,
    pub(super) options: WaitOptions,
    peek: bool,
    pub(super) is_async: bool,
    /// The key, for whoever is told of denials.
    key: ShownKey<'a>,
}

/// A denial as the one that denies tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) position: u8,
    pub(super) remaining: u32,
    /// Nanoseconds from now, or [`NEVER`].
    pub(super) retry_after: u64,
}

/// How much the limits in memory are asked to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    /// What is left, if the call is denied.
    IfDenied,
    Always,
    AndTakeNothing,
}

/// A denial, and the limit that it is by.
struct Denial {
    limit: Limit,
    refusal: Refusal,
}

/// What a call in memory comes to.
enum Decided {
    Admitted(Decision),
    Denied(Denial),
    Undecided,
}

/// What the limits in memory say.
struct Ruling {
    verdict: Verdict,
    left: Left,
    /// The one that the verdict or what is left is of.
    limit: Limit,
    /// How often the bucket had been reset before.
    resets: u32,
    kinds: u16,
}

impl Ruling {
    /// What gives the permits back.
    #[inline]
    fn held(&self, store: &Store, address: Address, permit: Permit) -> Option<Held> {
        let held = || Held { address, permit, resets: self.resets, kinds: self.kinds, store: store.id() };
        (permit.cost > 0).then(held)
    }
}

/// Permits that the outcome of a body decides upon.
pub(crate) enum Holding {
    Nothing,
    Memory(Held),
    Other(Box<Decision>),
}

impl<'a> Call<'a> {
    #[inline]
    pub(crate) fn new(core: &'a Arc<Core>) -> Call<'a> {
        Call {
            core,
            limits: None,
            cost: 1,
            wait: Wait::No,
            options: WaitOptions::DEFAULT,
            peek: false,
            is_async: false,
            key: ShownKey::default(),
        }
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

    /// Waits only if fewer than so many others do.
    #[inline]
    pub(crate) fn queue(self, calls: u32) -> Call<'a> {
        Call { options: WaitOptions { queue: calls as usize, ..self.options }, ..self }
    }

    /// Counts as having come earlier than others.
    #[inline]
    pub(crate) fn priority(self, priority: u8) -> Call<'a> {
        let ahead = u64::from(priority) * nanos(WaitOptions::AGE);
        Call { options: WaitOptions { ahead, ..self.options }, ..self }
    }

    /// The call of a future, which goes by its runtime's clock if that is a test's.
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
        match self.decide_in_memory(key) {
            Decided::Admitted(decision) => Ok(decision),
            Decided::Denied(Denial { limit, refusal }) => self.denied_of(key, limit, refusal),
            Decided::Undecided => self.start_anywhere(key).finish(),
        }
    }

    /// As [`decide`](Call::decide), for a caller that only wants to know whether it is admitted.
    ///
    /// Takes the key as a value, and passes it on as one: a reference to it taken on the slow path would put it into memory on
    /// the fast one too.
    #[expect(clippy::inline_always, reason = "the call is to be taken apart into registers where it is made")]
    #[inline(always)]
    pub(crate) fn admit<K: RateLimitKey>(self, key: K) -> Result<(), RateLimitExceeded> {
        if self.limits.is_some() || self.wait != Wait::No || self.cost != 1 {
            return self.admit_some(&key);
        }
        match fast::admit(self.core, &key) {
            Found::Admitted => Ok(()),
            Found::Denied { retry_after } => Err(self.denial(key, retry_after)),
            Found::Else(found) => admit_slowly(found, self.core, key),
        }
    }

    /// As [`admit`](Call::admit), of a call that asks for more than one permit by limits that were written down.
    #[inline(never)]
    fn admit_some<K: RateLimitKey>(&self, key: &K) -> Result<(), RateLimitExceeded> {
        if self.taken(key).is_some() {
            return Ok(());
        }
        self.admit_any(key).unwrap_or_else(|| self.decide(key).map(drop))
    }

    /// Takes the permits on the fast path, if that decides the call.
    #[inline]
    fn taken<K: RateLimitKey>(&self, key: &K) -> Option<fast::Taken<'a>> {
        if self.limits.is_some() { None } else { fast::take(self.core, key, self.cost, self.is_async) }
    }

    /// As [`start`](Call::start), for a future that only wants to know whether it is admitted.
    #[inline]
    pub(crate) fn begin<K: RateLimitKey>(self, key: K) -> Begun {
        let call = self.in_future();
        if call.limits.is_none() && call.wait == Wait::No && call.cost == 1 {
            match fast::admit_in_future(call.core, &key).found() {
                Found::Admitted => return Begun::of(Ok(())),
                Found::Denied { retry_after } => return Begun::of(Err(call.denial(key, retry_after))),
                Found::Else(found) => {
                    if let Some(denied) = call.denied_fast(&key, found) {
                        return Begun::of(denied);
                    }
                }
            }
        } else if call.taken(&key).is_some() {
            return Begun::of(Ok(()));
        }
        if let Some(decided) = call.admit_any(&key) {
            return Begun::of(decided);
        }
        match call.start(&key) {
            Started::Done(decided) => Begun::of(decided.map(drop)),
            started => Begun::Later(Box::pin(started.finish_async())),
        }
    }

    /// Decides any call in memory while all switches are off; `None` if it takes more than that.
    #[inline]
    fn admit_any<K: RateLimitKey>(&self, key: &K) -> Option<Result<(), RateLimitExceeded>> {
        let store = self.memory()?;
        match self.is_admitted(store, store.address(key))? {
            Ok(()) => Some(Ok(())),
            Err(Denial { limit, refusal }) => Some(self.denied_of(key, limit, refusal).map(drop)),
        }
    }

    /// Whether a call that is denied now may wait. `None` if it is not to be asked before it does: its denial would be an
    /// offence.
    #[inline]
    fn may_wait(&self) -> Option<bool> {
        let may_wait = self.wait != Wait::No && !self.core.options.dry_run;
        (!may_wait || self.core.backoff().is_none()).then_some(may_wait)
    }

    /// Asks the limits in memory for the permits now, or only what they would say; `None` if that does not decide the call,
    /// because it may wait.
    #[inline]
    fn ask(&self, store: &Store, address: Address, now: Now, tell: Tell) -> Option<Ruling> {
        let may_wait = self.may_wait()?;
        let rules = self.core.rules(self.limits);
        let (ask, resets) = (self.core.ask(store, &rules, self.cost), store.resets(address));
        let (verdict, left) = told(
            now,
            || self.now(store),
            |now| match tell {
                Tell::IfDenied => store.take_or_tell(address, &ask, now),
                Tell::Always => store.take_and_tell(address, &ask, now),
                Tell::AndTakeNothing => store.peek(address, &ask, now),
            },
        );
        if may_wait && !matches!(verdict, Verdict::Admitted { .. }) {
            return None;
        }
        let position = if let Verdict::Denied { position, .. } = verdict { position } else { left.position };
        let kinds = if let [rule] = &rules[..] { kinds_of_one(rule.limit.algorithm()) } else { kinds_of(&rules) };
        Some(Ruling { verdict, left, limit: rules[usize::from(position)].limit, resets, kinds })
    }

    /// As [`ask`](Call::ask), of a call that only wants to know whether it is admitted: it is counted, or denied.
    #[inline(never)]
    fn is_admitted(&self, store: &Store, address: Address) -> Option<Result<(), Denial>> {
        let (may_wait, now) = (self.may_wait()?, self.now(store));
        let rules = self.core.rules(self.limits);
        let ask = self.core.ask(store, &rules, self.cost);
        match told(now, || self.now(store), |now| store.take_or_tell(address, &ask, now)) {
            (Verdict::Admitted { .. }, _) => {
                self.core.allowed();
                Some(Ok(()))
            }
            (Verdict::Denied { until, position }, left) if !may_wait => {
                let (limit, refusal) = (rules[usize::from(position)].limit, refusal(until, left, now));
                Some(Err(Denial { limit, refusal }))
            }
            (Verdict::Denied { .. } | Verdict::Undecided, _) => None,
        }
    }

    /// What a call for `key` gets that is not admitted; `None` of one that was not decided.
    fn refused<K: RateLimitKey>(
        &self,
        key: &K,
        ruling: &Ruling,
        now: Now,
    ) -> Option<Result<Decision, RateLimitExceeded>> {
        let Verdict::Denied { until, .. } = ruling.verdict else { return None };
        Some(self.denied_of(key, ruling.limit, refusal(until, ruling.left, now)))
    }

    /// Takes permits of a call whose outcome decides whether they are given back.
    pub(crate) fn hold<K: RateLimitKey>(self, key: &K) -> Result<Holding, RateLimitExceeded> {
        self.hold_in_memory(key).unwrap_or_else(|| self.decide(key).map(|decision| Holding::Other(Box::new(decision))))
    }

    fn hold_in_memory<K: RateLimitKey>(&self, key: &K) -> Option<Result<Holding, RateLimitExceeded>> {
        if let Some(fast::Taken { store, address, resets, at }) = self.taken(key) {
            let kinds = kinds_of_one(store.algorithm());
            let permit = Permit { at, cost: self.cost };
            return Some(Ok(Holding::Memory(Held { address, permit, resets, kinds, store: store.id() })));
        }
        let store = self.memory().filter(|_| self.limits.is_none())?;
        let (address, now) = (store.address(key), self.now(store));
        let ruling = self.ask(store, address, now, Tell::IfDenied)?;
        if let Verdict::Admitted { at } = ruling.verdict {
            self.core.allowed();
            let held = ruling.held(store, address, Permit { at, cost: self.cost });
            return Some(Ok(held.map_or(Holding::Nothing, Holding::Memory)));
        }
        self.refused(key, &ruling, now).map(|refused| refused.map(|_| Holding::Nothing))
    }

    /// As [`hold`](Call::hold), of a future.
    pub(crate) fn begin_held<K: RateLimitKey>(self, key: &K) -> BegunHeld {
        let call = self.in_future();
        match call.hold_in_memory(key) {
            Some(held) => BegunHeld::Done(held),
            None => BegunHeld::Later(call.start(key)),
        }
    }

    /// The store, if buckets are in memory, and all switches are off.
    #[inline]
    fn memory(&self) -> Option<&'a Arc<Store>> {
        if Switches::load().are_off() { self.core.memory() } else { None }
    }

    #[cfg_attr(not(feature = "tokio"), expect(clippy::unused_self, reason = "only tokio's clock can be a test's"))]
    #[inline]
    fn now(&self, store: &Store) -> Now {
        #[cfg(feature = "tokio")]
        if self.is_async {
            return store.now_in_runtime();
        }
        store.now()
    }

    /// The error of a call that was denied on the fast path, after whoever wants to be told of it was.
    #[expect(clippy::inline_always, reason = "see `Core::exceeded`")]
    #[inline(always)]
    fn denial<K: RateLimitKey>(self, key: K, retry_after: u64) -> RateLimitExceeded {
        if observe::wants_denials() {
            tell_denied(self.core, key, retry_after);
        }
        self.core.exceeded(retry_after)
    }

    /// What a call gets that was denied on the fast path by one of several limits, or by one whose denials count.
    #[inline]
    fn denied_fast<K: RateLimitKey>(&self, key: &K, found: fast::Packed) -> Option<Result<(), RateLimitExceeded>> {
        let refusal = found.refusal()?;
        Some(self.denied_of(key, self.core.written(refusal.position), refusal).map(drop))
    }

    /// Does all that can be done without blocking.
    #[inline]
    pub(crate) fn start<K: RateLimitKey>(self, key: &K) -> Started {
        match self.decide_in_memory(key) {
            Decided::Admitted(decision) => Started::Done(Ok(decision)),
            Decided::Denied(Denial { limit, refusal }) => Started::Done(self.denied_of(key, limit, refusal)),
            Decided::Undecided => self.start_anywhere(key),
        }
    }

    /// Decides in memory while all switches are off, if it takes no more than that.
    #[inline]
    fn decide_in_memory<K: RateLimitKey>(&self, key: &K) -> Decided {
        match self.memory().filter(|_| self.wait == Wait::No) {
            Some(store) => self.decide_at(store, store.address(key)),
            None => Decided::Undecided,
        }
    }

    #[inline(never)]
    fn decide_at(&self, store: &Store, address: Address) -> Decided {
        let now = self.now(store);
        let tell = if self.peek { Tell::AndTakeNothing } else { Tell::Always };
        let Some(ruling) = self.ask(store, address, now, tell) else { return Decided::Undecided };
        match ruling.verdict {
            Verdict::Admitted { at } => Decided::Admitted(self.decision(store, address, &ruling, at, now, 0)),
            Verdict::Denied { until, .. } => {
                Decided::Denied(Denial { limit: ruling.limit, refusal: refusal(until, ruling.left, now) })
            }
            Verdict::Undecided => Decided::Undecided,
        }
    }

    #[inline(never)]
    fn start_anywhere<K: RateLimitKey>(self, key: &K) -> Started {
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
            Target::Memory(store) => call.decide_in(store, store.address(key), &venue),
            Target::Remote(backend) => match call.denied_already(key, backend, &venue) {
                Some(denied) => Started::Done(denied),
                None => Box::new(call.remote(key, backend, &venue)).begin(&venue),
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
        let Told { admitted_at, remaining, limit: position, .. } = if self.peek { told } else { told.to_a_try(now) };
        let limit = self.core.with_rules(None, |rules| rules.get(usize::from(position)).map(|rule| rule.limit))?;
        Some(self.denied(limit, Refusal { position, remaining, retry_after: admitted_at.saturating_sub(now) }))
    }

    /// Whether a denial of the call says that it will be denied again. One that may wait is never told before it has asked.
    fn is_denied_alike(self) -> bool {
        self.wait == Wait::No && self.limits.is_none() && self.cost > 0 && self.core.keeps_denials()
    }

    /// The decision on a call that no limit applies to.
    pub(super) fn free(self) -> Decision {
        self.core.with_rules(self.limits, |rules| Decision {
            limit: rules[0].limit,
            remaining: rules[0].limit.capacity(),
            position: 0,
            reset_after: 0,
            waited: 0,
            taken: None,
        })
    }

    #[inline]
    fn decide_in(self, store: &Arc<Store>, address: Address, venue: &Venue<'_>) -> Started {
        let now = venue.now();
        self.core.with_ask(store, self.limits, self.cost, |ask| {
            let resets = store.resets(address);
            let (verdict, left) = if self.peek {
                told(now, || venue.now(), |now| store.peek(address, ask, now))
            } else if self.wait == Wait::No {
                told(now, || venue.now(), |now| store.take_and_tell(address, ask, now))
            } else {
                match Waiting::join(self, store, address, ask, now, venue) {
                    Ok(told) => told,
                    Err(waiting) => return Started::Waiting(waiting),
                }
            };
            Started::Done(self.decided(store, address, ask, verdict, resets, left, now, 0))
        })
    }

    /// What a call gets that was decided in memory, after it has waited for so many nanoseconds.
    #[expect(clippy::too_many_arguments, reason = "see `admitted`")]
    #[inline]
    pub(super) fn decided(
        self,
        store: &Store,
        address: Address,
        ask: &Ask<'_>,
        verdict: Verdict,
        resets: u32,
        left: Left,
        now: Now,
        waited: u64,
    ) -> Result<Decision, RateLimitExceeded> {
        match verdict {
            Verdict::Admitted { at } => Ok(self.admitted(store, address, ask, at, resets, left, now, waited)),
            Verdict::Denied { until, position } => {
                let limit = ask.call.rules[usize::from(position)].limit;
                self.denied(limit, refusal(until, left, now))
            }
            // No state leaves a call undecided in the end; a limiter fails closed.
            Verdict::Undecided => self.denied(ask.call.rules[0].limit, refusal(NEVER, left, now)),
        }
    }

    /// The decision on a call that was admitted in memory.
    #[expect(clippy::too_many_arguments, reason = "what a decision is made of")]
    pub(super) fn admitted(
        &self,
        store: &Store,
        address: Address,
        ask: &Ask<'_>,
        at: u64,
        resets: u32,
        left: Left,
        now: Now,
        waited: u64,
    ) -> Decision {
        let rules = ask.call.rules;
        let limit = rules[usize::from(left.position)].limit;
        let ruling = Ruling { verdict: Verdict::Admitted { at }, left, limit, resets, kinds: kinds_of(rules) };
        self.decision(store, address, &ruling, at, now, waited)
    }

    /// The decision on a call that was admitted in memory, made where it is returned.
    #[inline]
    fn decision(&self, store: &Store, address: Address, ruling: &Ruling, at: u64, now: Now, waited: u64) -> Decision {
        let Ruling { left: Left { remaining, position, idle_at }, limit, .. } = *ruling;
        let permit = Permit { at, cost: if self.peek { 0 } else { self.cost } };
        let taken = ruling.held(store, address, permit).map(|held| Taken {
            place: Place::Memory(held),
            limits: self.limits.map(Into::into),
            limiter: self.core.id,
        });
        let reset_after = idle_at.saturating_sub(now.earliest);
        if !self.peek {
            self.core.allowed();
            note_admitted(limit, remaining, reset_after);
        }
        Decision { limit, remaining, position, reset_after, waited, taken }
    }

    /// As [`denied`](Call::denied), of a call for `key`.
    #[cold]
    #[inline(never)]
    fn denied_of<K: RateLimitKey>(
        &self,
        key: &K,
        limit: Limit,
        refusal: Refusal,
    ) -> Result<Decision, RateLimitExceeded> {
        let text = KeyText::of(key);
        Call { key: text.shown(), ..*self }.denied(limit, refusal)
    }

    /// What a call gets that is denied.
    fn denied(self, limit: Limit, refusal: Refusal) -> Result<Decision, RateLimitExceeded> {
        let exceeded = || RateLimitExceeded {
            limiter: self.core.shared_name(),
            limit,
            retry_after: refusal.retry_after,
            remaining: refusal.remaining,
            position: refusal.position,
            kind: if refusal.retry_after == NEVER { ExceededKind::CostExceedsLimit } else { ExceededKind::Limited },
        };
        if !self.peek {
            self.core.denied();
            self.core.tell_denied(exceeded, self.cost, self.key);
            if self.core.options.dry_run {
                return Ok(self.free());
            }
            #[cfg(any(feature = "tower", feature = "actix-web"))]
            crate::noted::denied(limit, refusal.remaining, refusal.retry_after);
        }
        Err(exceeded())
    }

    /// As [`denied`](Call::denied), of a call that has waited in memory until `now`.
    pub(super) fn denied_in_memory(
        self,
        ask: &Ask<'_>,
        until: u64,
        left: Left,
        now: Now,
    ) -> Result<Decision, RateLimitExceeded> {
        let limit = ask.call.rules[usize::from(left.position)].limit;
        self.denied(limit, refusal(until, left, now))
    }

    fn remote<K: RateLimitKey>(self, key: &K, backend: &Arc<Guard>, venue: &Venue<'_>) -> RemoteCall {
        let max_wait = Duration::from_nanos(self.wait.nanos());
        let action = if self.peek {
            Action::Peek { cost: self.cost, max_wait }
        } else {
            Action::Take { cost: self.cost, max_wait }
        };
        RemoteCall {
            call: OwnedCall::of(self, self.key.to_text()),
            options: self.options,
            backend: Arc::clone(backend),
            request: self.core.with_rules(self.limits, |rules| self.core.request(venue, key, rules, action)),
            asks: Asks::Decision,
            arrived: venue.backend_now(),
            sent: venue.backend_now(),
            fallback: self.core.fallback(venue).address(key),
        }
    }
}

#[inline]
fn note_admitted(limit: Limit, remaining: u32, reset_after: u64) {
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    crate::noted::admitted(limit, remaining, reset_after);
    #[cfg(not(any(feature = "tower", feature = "actix-web")))]
    let _ = (limit, remaining, reset_after);
}

/// A denial until a time, in nanoseconds from `now`.
pub(super) fn refusal(until: u64, left: Left, now: Now) -> Refusal {
    let retry_after = if until == NEVER { NEVER } else { until.saturating_sub(now.earliest) };
    Refusal { position: left.position, remaining: left.remaining, retry_after }
}

/// Asks until the clock can tell the answer: a denial that ends within one reading is none yet. Without this, a burst that is
/// faster than the clock is precise would find a full bucket one permit short.
#[inline]
fn told(mut now: Now, read: impl Fn() -> Now, mut ask: impl FnMut(Now) -> (Verdict, Left)) -> (Verdict, Left) {
    // Far more than a reading's width takes. Under valgrind the clock may stand for longer.
    const READINGS: u32 = if cfg!(callgrind) { 0 } else { 100 };
    let mut readings = 0;
    loop {
        match ask(now) {
            (Verdict::Denied { until, .. }, _) if until <= now.latest && readings < READINGS => now = read(),
            answer => return answer,
        }
        readings += 1;
    }
}

#[cold]
#[inline(never)]
fn tell_denied<K: RateLimitKey>(core: &Core, key: K, retry_after: u64) {
    core.tell_denied(|| core.exceeded(retry_after), 1, KeyText::of(&key).shown());
}

#[cold]
#[inline(never)]
fn admit_slowly<K: RateLimitKey>(found: fast::Packed, core: &Arc<Core>, key: K) -> Result<(), RateLimitExceeded> {
    let call = Call::new(core);
    let decided = call.denied_fast(&key, found).or_else(|| call.admit_any(&key));
    decided.unwrap_or_else(|| call.decide(&key).map(drop))
}

fn position_u8(position: usize) -> u8 {
    u8::try_from(position).unwrap_or(u8::MAX)
}

/// A call of which all is done that needs no waiting. Owns what it needs.
pub(crate) enum Started {
    Done(Result<Decision, RateLimitExceeded>),
    Waiting(Box<Waiting>),
    Booked(Box<Booking>),
    Remote(Box<RemoteCall>),
}

impl Started {
    /// Finishes on this thread.
    #[inline]
    pub(crate) fn finish(self) -> Result<Decision, RateLimitExceeded> {
        match self {
            Started::Done(result) => result,
            Started::Waiting(waiting) => waiting.wait(),
            Started::Booked(booking) => Ok(booking.wait()),
            Started::Remote(call) => {
                let answer = call.backend.decide(&call.request);
                call.resolve(answer).finish()
            }
        }
    }

    /// Finishes without blocking the thread.
    #[inline]
    pub(crate) async fn finish_async(self) -> Result<Decision, RateLimitExceeded> {
        let mut started = self;
        loop {
            match started {
                Started::Done(result) => return result,
                Started::Waiting(waiting) => return waiting.await,
                Started::Booked(booking) => return Ok(booking.wait_async().await),
                Started::Remote(call) => {
                    let answer = call.backend.decide_async(&call.request).await;
                    started = call.resolve(answer);
                }
            }
        }
    }
}

/// A call of a future that only wants to know whether it is admitted.
pub(crate) enum Begun {
    Done(Option<Result<(), RateLimitExceeded>>),
    /// In a box, because few are, and the futures of all make room for it.
    Later(Pin<Box<dyn Future<Output = Result<Decision, RateLimitExceeded>> + Send>>),
}

impl Begun {
    #[inline]
    fn of(decided: Result<(), RateLimitExceeded>) -> Begun {
        Begun::Done(Some(decided))
    }
}

impl Future for Begun {
    type Output = Result<(), RateLimitExceeded>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Begun::Done(decided) => match decided.take() {
                Some(decided) => Poll::Ready(decided),
                None => polled_again(),
            },
            Begun::Later(future) => future.as_mut().poll(context).map(|decided| decided.map(drop)),
        }
    }
}

#[cold]
pub(super) fn polled_again() -> ! {
    panic!("a rate limit's future was polled after it was ready");
}

/// As [`Begun`], of a call whose permits can be given back.
pub(crate) enum BegunHeld {
    Done(Result<Holding, RateLimitExceeded>),
    Later(Started),
}

impl BegunHeld {
    pub(crate) async fn finish(self) -> Result<Holding, RateLimitExceeded> {
        match self {
            BegunHeld::Done(held) => held,
            BegunHeld::Later(started) => {
                started.finish_async().await.map(|decision| Holding::Other(Box::new(decision)))
            }
        }
    }
}

impl Core {
    /// Gives back what a body's outcome does not count. What is in a backend is returned as a decision.
    pub(crate) fn give_back_held(&self, holding: Holding) -> Option<Decision> {
        match holding {
            Holding::Nothing => None,
            Holding::Memory(held) => {
                let switches = Switches::load();
                if switches.are_off()
                    && let Some(store) = self.fast()
                    && held.store == store.id()
                    && held.kinds == kinds_of_one(store.algorithm())
                    && held.resets == store.resets(held.address)
                {
                    store.refund_written(held.address, store.now(), held.permit);
                    return None;
                }
                let venue = self.venue(switches, false);
                if let Target::Memory(store) = &venue.target {
                    self.give_back(store, held, None, venue.now());
                }
                None
            }
            Holding::Other(decision) => Some(*decision),
        }
    }
}

/// What a call is, without what it borrows.
pub(super) struct OwnedCall {
    pub(super) core: Arc<Core>,
    limits: Option<Box<[Limit]>>,
    cost: u32,
    wait: Wait,
    peek: bool,
    is_async: bool,
    key: KeyText,
}

impl OwnedCall {
    pub(super) fn of(call: Call<'_>, key: KeyText) -> OwnedCall {
        let Call { core, limits, cost, wait, peek, is_async, .. } = call;
        OwnedCall { core: Arc::clone(core), limits: limits.map(Into::into), cost, wait, peek, is_async, key }
    }

    pub(super) fn call(&self) -> Call<'_> {
        Call {
            core: &self.core,
            limits: self.limits.as_deref(),
            cost: self.cost,
            wait: self.wait,
            options: WaitOptions::DEFAULT,
            peek: self.peek,
            is_async: self.is_async,
            key: self.key.shown(),
        }
    }
}

impl Call<'_> {
    pub(super) fn key_text(self) -> KeyText {
        self.key.to_text()
    }
}

/// Permits that a backend has booked for later. Dropped before they are due, they are given back.
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
    call: OwnedCall,
    options: WaitOptions,
    backend: Arc<Guard>,
    request: Request,
    asks: Asks,
    arrived: u64,
    sent: u64,
    /// The bucket in memory that decides if the backend fails.
    fallback: Address,
}

/// What a backend is asked for a call.
enum Asks {
    /// To decide on it. If it waits, the permits are booked for it alone.
    Decision,
    /// For its permits; if they are denied it waits.
    Now,
    /// When its turn comes behind those that wait: so many nanoseconds later than the backend answers. Of a call that waits
    /// too, its place.
    Turn { later: u64, place: Option<(Waiter, bool)> },
}

impl RemoteCall {
    /// Sees to the order of the calls of this process, and if need be makes the call one that waits.
    fn begin(mut self: Box<Self>, venue: &Venue<'_>) -> Started {
        let call = self.call.call();
        let ahead = self.backend.queues.ahead(self.request.bucket());
        // Time that a test has stopped goes on for whoever sleeps: each such call books for itself.
        if call.cost == 0 || (call.wait == Wait::No && ahead.is_none()) || !venue.is_real() {
            return Started::Remote(self);
        }
        let offends = self.request.backoff.is_some();
        if call.wait == Wait::No {
            // A denial that blocks the key is the backend's.
            if let Some(ahead) = ahead.filter(|_| !offends) {
                self.ask_for_turn(ahead, Duration::ZERO, None);
            }
            return Started::Remote(self);
        }
        if ahead.is_none() && !offends {
            self.asks = Asks::Now;
            self.request.action = Action::Take { cost: call.cost, max_wait: Duration::ZERO };
            return Started::Remote(self);
        }
        let wait = call.wait;
        match self.join(None) {
            Ok(waiter) if wait == Wait::Forever => self.waits(waiter),
            Ok(waiter) => {
                let max_wait = Duration::from_nanos(wait.nanos());
                self.ask_for_turn(ahead.unwrap_or_default(), max_wait, Some((waiter, ahead.is_none())));
                Started::Remote(self)
            }
            Err(Unqueued::Full) => {
                self.ask_for_turn(ahead.unwrap_or_default(), Duration::ZERO, None);
                Started::Remote(self)
            }
            Err(Unqueued::NoThread) => Started::Remote(self),
        }
    }

    /// Takes a place among the calls of this process that wait.
    fn join(&self, denied: Option<(Denied, u64)>) -> Result<Waiter, Unqueued> {
        let joining = joining_of(self.call.call(), self.options, self.arrived, denied);
        Queues::join(&self.backend, &self.request.bucket, self.request.fingerprint, joining)
    }

    fn waits(self: Box<Self>, waiter: Waiter) -> Started {
        let RemoteCall { call, options, arrived, fallback, .. } = *self;
        let place = BeforeBackend { waiter, fallback };
        Started::Waiting(Waiting::before_backend(call, options, place, arrived))
    }

    fn ask_for_turn(&mut self, ahead: Ahead, max_wait: Duration, place: Option<(Waiter, bool)>) {
        let (cost, later) = behind(&self.request.limits, ahead, self.call.cost);
        self.asks = Asks::Turn { later, place };
        self.request.action = Action::Peek { cost, max_wait: max_wait.saturating_sub(Duration::from_nanos(later)) };
    }

    /// Makes a decision of a backend's answer, or by the limiter's policy of its failure.
    fn resolve(mut self: Box<Self>, answer: Result<Answer, BackendError>) -> Started {
        match (std::mem::replace(&mut self.asks, Asks::Decision), &answer) {
            (Asks::Now, Ok(Answer { now, outcome: Outcome::Denied(denied) })) => {
                let received = clock::clock().now().latest;
                let denied = Denied::of(&denied.refusal, now.as_nanos(), received, &self.request);
                if denied.admitted_at != NEVER
                    && denied.admitted_at <= self.arrived.saturating_add(self.call.wait.nanos())
                {
                    match self.join(Some((denied, self.sent))) {
                        Ok(waiter) => return self.waits(waiter),
                        Err(Unqueued::Full) => {}
                        Err(Unqueued::NoThread) => {
                            let max_wait = Duration::from_nanos(self.call.wait.nanos());
                            self.request.action = Action::Take { cost: self.call.cost, max_wait };
                            return Started::Remote(self);
                        }
                    }
                }
            }
            (Asks::Turn { later, place }, Ok(Answer { now, outcome })) => {
                let now = now.as_nanos();
                let turn = match outcome {
                    Outcome::Admitted(Admitted { admission: Admission { permit, limit, .. } }) => {
                        Some((Some(permit.at), *limit, 0))
                    }
                    Outcome::Denied(BackendDenied { refusal: BackendRefusal { limit, remaining, admitted_at } }) => {
                        Some((*admitted_at, *limit, *remaining))
                    }
                    Outcome::Done => None,
                };
                if let Some((at, position, remaining)) = turn {
                    let retry_after = at.map_or(NEVER, |at| at.saturating_sub(now).saturating_add(later));
                    let refusal = Refusal { position: position_u8(position), remaining, retry_after };
                    if place.is_none() && retry_after > 0 {
                        self.keep(at.map(|at| at.saturating_add(later)), remaining, position, now);
                    }
                    match self.take_turn(refusal, place) {
                        Ok(started) => return started,
                        // What is peeked at is as the backend says.
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
                    self.keep(refused.admitted_at, refused.remaining, refused.limit, now.as_nanos());
                    let retry_after = refused.admitted_at.map_or(NEVER, |at| at.saturating_sub(now.as_nanos()));
                    let position = position_u8(refused.limit);
                    let refusal = Refusal { position, remaining: refused.remaining, retry_after };
                    return Started::Done(self.call.call().denied(limit, refusal));
                }
            }
            _ => {}
        }
        let call = Call { options: self.options, ..self.call.call() };
        match call.core.options.on_backend_error {
            OnBackendError::Local => {
                let venue = call.core.venue(Switches::load(), call.is_async);
                call.decide_in(&call.core.fallback(&venue), self.fallback, &venue)
            }
            OnBackendError::Allow => {
                if !call.peek {
                    call.core.allowed();
                }
                Started::Done(Ok(call.free()))
            }
            OnBackendError::Deny => Started::Done(call.failed()),
        }
    }

    /// What becomes of a call of which it is known when its turn would come; of one that is to be decided by what the
    /// backend answered, itself.
    fn take_turn(mut self: Box<Self>, refusal: Refusal, place: Option<(Waiter, bool)>) -> Result<Started, Box<Self>> {
        let cost = self.call.cost;
        match place {
            // It may have been admitted meanwhile.
            Some((waiter, _)) if refusal.retry_after <= self.call.wait.nanos() || waiter.is_told() => {
                return Ok(self.waits(waiter));
            }
            Some((waiter, is_alone)) => {
                drop(waiter);
                if is_alone && self.request.backoff.is_some() && refusal.retry_after != NEVER {
                    // It is denied as a call that does not wait.
                    let max_wait = Duration::from_nanos(self.call.wait.nanos());
                    self.request.action = Action::Take { cost, max_wait };
                    return Ok(Started::Remote(self));
                }
            }
            None if refusal.retry_after > 0 => {}
            None if self.call.peek => return Err(self),
            // There is enough for it and for all that wait.
            None => {
                self.request.action = Action::Take { cost, max_wait: Duration::ZERO };
                return Ok(Started::Remote(self));
            }
        }
        let limit = self.request.limits.get(usize::from(refusal.position)).or(self.request.limits.first());
        match limit.copied() {
            Some(limit) => Ok(Started::Done(self.call.call().denied(limit, refusal))),
            None => Err(self),
        }
    }

    fn admitted(&self, limit: Limit, admission: Admission, now: u64) -> Started {
        let (call, core) = (self.call.call(), &self.call.core);
        let waited = admission.permit.at.saturating_sub(now);
        let reset_after = admission.fresh_at.saturating_sub(now);
        let decision =
            call.remote_decision(&self.request.bucket, self.request.fingerprint, limit, admission, reset_after, waited);
        if call.peek || waited == 0 {
            return Started::Done(Ok(decision));
        }
        let waited = Duration::from_nanos(waited);
        core.waits(waited);
        Started::Booked(Box::new(Booking {
            core: Arc::clone(core),
            decision: Some(decision),
            delay: waited,
            #[cfg(feature = "test-util")]
            scope: core.venue(Switches::load(), call.is_async).scope,
        }))
    }

    /// Keeps a denial for the calls that are like this one. It was made after the call was sent, so that counted from then
    /// it never lasts longer than the backend's.
    fn keep(&self, admitted_at: Option<u64>, remaining: u32, limit: usize, now: u64) {
        let (Some(denials), Some(bucket), Some(admitted_at)) =
            (self.backend.denials(), self.request.fingerprint, admitted_at)
        else {
            return;
        };
        let call = self.call.call();
        if call.is_denied_alike() {
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
            let asked = Asked { bucket, cost: call.cost, limits: fingerprint::of_limits(&self.request.limits) };
            let told = Told {
                admitted_at: self.sent.saturating_add(admitted_at.saturating_sub(now)),
                remaining,
                limit: position_u8(limit),
                ban,
            };
            denials.keep(asked, told, self.sent, longest);
        }
    }
}

impl Call<'_> {
    /// The decision on a call that a backend has admitted, after it has waited for so many nanoseconds.
    fn remote_decision(
        &self,
        bucket: &Arc<str>,
        fingerprint: Option<Fingerprint>,
        limit: Limit,
        admission: Admission,
        reset_after: u64,
        waited: u64,
    ) -> Decision {
        let Admission { permit, limit: position, remaining, .. } = admission;
        let taken = (!self.peek && permit.cost > 0).then(|| {
            let name = Arc::clone(bucket);
            let resets = self.core.resets_of(&name, fingerprint).load(Ordering::Relaxed);
            let place = Place::Remote(Box::new(RemoteBucket { name, fingerprint, permit, resets }));
            Taken { place, limits: self.limits.map(Into::into), limiter: self.core.id }
        });
        if !self.peek {
            self.core.allowed();
            note_admitted(limit, remaining, reset_after);
        }
        Decision { limit, remaining, position: position_u8(position), reset_after, waited, taken }
    }

    /// The decision on a call that has waited before a backend.
    pub(super) fn booked(
        &self,
        bucket: &Arc<str>,
        fingerprint: Option<Fingerprint>,
        booked: Booked,
        waited: u64,
    ) -> Decision {
        if waited > 0 {
            self.core.waits(Duration::from_nanos(waited));
        }
        let Booked { limit, admission, reset_after, .. } = booked;
        self.remote_decision(bucket, fingerprint, limit, admission, reset_after, waited)
    }

    /// What a call gets at `now` that has waited before a backend and cannot be admitted in time.
    pub(super) fn denied_by_backend(self, denied: &Denied, now: u64) -> Result<Decision, RateLimitExceeded> {
        let Denied { limit, position, remaining, admitted_at } = *denied;
        let retry_after = if admitted_at == NEVER { NEVER } else { admitted_at.saturating_sub(now).max(1) };
        self.denied(limit, Refusal { position: position_u8(position), remaining, retry_after })
    }

    /// What a call gets if the backend failed and the policy is to deny.
    pub(super) fn failed(self) -> Result<Decision, RateLimitExceeded> {
        let decision = self.free();
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
            self.core.tell_denied(exceeded, self.cost, self.key);
        }
        if self.core.options.dry_run || self.cost == 0 {
            return Ok(decision);
        }
        #[cfg(any(feature = "tower", feature = "actix-web"))]
        if !self.peek {
            crate::noted::failed();
        }
        Err(exceeded())
    }
}

/// For a call behind others: for how many permits a backend is asked in its place, and how much later than when these fit
/// its turn comes, in nanoseconds. More than a limit holds cannot be asked for; what is above comes a period at a time, or
/// at the rate of the bucket.
fn behind(limits: &[Limit], ahead: Ahead, cost: u32) -> (u32, u64) {
    let (step, steps) = ahead.steps(cost);
    let capacity = limits.iter().map(Limit::capacity).min().unwrap_or(0);
    let at_once = u64::from(capacity / step);
    if at_once == 0 || cost > capacity {
        return (cost, 0);
    }
    let before = (steps - 1) / at_once * at_once;
    let later = |limit: &Limit| {
        let (per, count) = (u128::from(limit.per_nanos()), u128::from(limit.count().max(1)));
        let later = match limit.algorithm() {
            Algorithm::TokenBucket => u128::from(before) * u128::from(step) * per / count,
            Algorithm::SlidingWindow | Algorithm::FixedWindow => {
                u128::from(before / u64::from(limit.capacity() / step).max(1)) * per
            }
        };
        u64::try_from(later).unwrap_or(u64::MAX)
    };
    let permits = (steps - before) * u64::from(step);
    (u32::try_from(permits).unwrap_or(u32::MAX), limits.iter().map(later).max().unwrap_or(0))
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;
    use crate::limit::Algorithm;
    use crate::limiter::RateLimiter;

    /// As a blocking annotated function and as one that is a future, each on a key of its own.
    fn denied_twice(limiter: &RateLimiter, wait: Duration) -> [RateLimitExceeded; 2] {
        let blocking = || Call::new(limiter.core()).admit("blocking");
        let future = || match Call::new(limiter.core()).begin("future") {
            Begun::Done(Some(decided)) => decided,
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
                assert!(matches!(Call::new(limiter.core()).begin("a"), Begun::Done(_)));
            }
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
