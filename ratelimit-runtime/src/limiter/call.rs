//! A call's parameters, and its outcomes: a decision, a denial, or the failure of a backend.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::OnBackendError;
use super::core::{Core, kinds_of, open_others};
use crate::algorithm::Rule;
use crate::algorithm::record::Admission;
use crate::backend::memory::{Ask, Left, NEVER, Permit, Store, Verdict};
use crate::decision::{Address, Decision, Held, Place, RemoteBucket, Taken};
use crate::error::{ExceededKind, RateLimitExceeded};
use crate::fingerprint::Fingerprint;
use crate::guard::queue::{Booked, Denied};
use crate::key::RateLimitKey;
use crate::limit::Limit;
use crate::observe::{KeyText, ShownKey};
use crate::rt::clock::{self, Now, nanos};

/// The `retry_after` of a failed backend, in nanoseconds.
const RETRY_AFTER_FAILURE: u64 = 1_000_000_000;

/// How long a call may wait for its permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// If they come within this many nanoseconds.
    AtMost(u64),
    /// However long it takes.
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

/// The bound of the queue, and the call's priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitOptions {
    pub(crate) queue: usize,
    /// By how much earlier the call counts as having arrived, in nanoseconds.
    pub(crate) ahead: u64,
}

impl WaitOptions {
    pub(crate) const DEFAULT: WaitOptions = WaitOptions { queue: usize::MAX, ahead: 0 };
    /// How much earlier each step of priority counts. Finite, so that no call starves.
    pub(crate) const AGE: Duration = Duration::from_secs(60);
    /// The most that [`ahead`](WaitOptions::ahead) can be.
    const FURTHEST: u64 = 256 * clock::nanos(WaitOptions::AGE);

    /// The rank of a call that arrived at `arrived`; lower ranks go first.
    pub(super) fn rank(self, arrived: u64) -> u64 {
        arrived.saturating_add(WaitOptions::FURTHEST).saturating_sub(self.ahead)
    }
}

/// The parameters of a call.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub(super) core: &'a Arc<Core>,
    /// The same, if it is in a `static`.
    pub(super) in_static: Option<&'static Arc<Core>>,
    pub(super) limits: Option<&'a [Limit]>,
    pub(super) cost: u32,
    pub(super) wait: Wait,
    pub(super) options: WaitOptions,
    pub(super) peek: bool,
    /// Decides a part of a call. The whole call is counted and reported.
    pub(super) quiet: bool,
    pub(super) is_async: bool,
    /// The key, for events of denials.
    pub(super) key: ShownKey<'a>,
}

/// The limiter of permits that can be given back. One in a `static` needs no count of its holders:
/// counting takes two locked instructions a call.
#[derive(Clone)]
pub(crate) enum Owner {
    Static(&'static Arc<Core>),
    Shared(Arc<Core>),
}

impl Deref for Owner {
    type Target = Arc<Core>;

    #[inline]
    fn deref(&self) -> &Arc<Core> {
        match self {
            Owner::Static(core) => core,
            Owner::Shared(core) => core,
        }
    }
}

/// A denial by one of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) position: u8,
    pub(super) remaining: u32,
    /// Nanoseconds from now, or [`NEVER`].
    pub(super) retry_after: u64,
    /// The key is blocked or banned.
    pub(super) is_blocked: bool,
}

impl Core {
    /// Notes for response headers what an admitted call has left. Not in a dry run: clients would
    /// keep to a limit that denies nothing.
    #[inline]
    pub(super) fn note_admitted(&self, limit: Limit, remaining: u32, reset_after: u64) {
        #[cfg(any(feature = "tower", feature = "actix-web"))]
        if !self.dry_run() {
            crate::response_context::admitted(limit, remaining, reset_after);
        }
        #[cfg(not(any(feature = "tower", feature = "actix-web")))]
        let _ = (self, limit, remaining, reset_after);
    }

    /// The error of a denied call.
    #[inline]
    pub(super) fn refused(&self, limit: Limit, refusal: Refusal) -> RateLimitExceeded {
        let Refusal { position, remaining, retry_after, .. } = refusal;
        RateLimitExceeded { limiter: self.shared_name(), limit, retry_after, remaining, position, kind: refusal.kind() }
    }
}

impl Refusal {
    fn kind(&self) -> ExceededKind {
        match (self.retry_after, self.is_blocked) {
            (NEVER, _) => ExceededKind::CostExceedsLimit,
            (_, true) => ExceededKind::Blocked,
            (_, false) => ExceededKind::Limited,
        }
    }
}

impl<'a> Call<'a> {
    #[inline]
    pub(crate) fn new(core: &'a Arc<Core>) -> Call<'a> {
        Call {
            core,
            in_static: None,
            limits: None,
            cost: 1,
            wait: Wait::No,
            options: WaitOptions::DEFAULT,
            peek: false,
            quiet: false,
            is_async: false,
            key: ShownKey::default(),
        }
    }

    /// A call of a limiter in a `static`.
    #[inline]
    pub(crate) fn of_static(core: &'static Arc<Core>) -> Call<'a> {
        Call { in_static: Some(core), ..Call::new(core) }
    }

    /// Sets the limits that were read at this call.
    #[inline]
    pub fn limits(self, limits: &'a [Limit]) -> Call<'a> {
        open_others();
        self.core.see(limits);
        Call { limits: Some(limits), ..self }
    }

    /// Sets the permits that the call takes.
    #[inline]
    pub fn cost(self, cost: u32) -> Call<'a> {
        Call { cost, ..self }
    }

    /// Sets how long the call may wait.
    #[inline]
    pub fn wait(self, wait: Wait) -> Call<'a> {
        Call { wait, ..self }
    }

    /// Waits only if fewer than `calls` others wait.
    #[inline]
    pub fn queue(self, calls: u32) -> Call<'a> {
        Call { options: WaitOptions { queue: calls as usize, ..self.options }, ..self }
    }

    /// Sets the priority among waiting calls. Each step counts as one minute of waiting.
    #[inline]
    pub fn priority(self, priority: u8) -> Call<'a> {
        let ahead = u64::from(priority) * nanos(WaitOptions::AGE);
        Call { options: WaitOptions { ahead, ..self.options }, ..self }
    }

    /// Decides on this thread.
    #[expect(clippy::inline_always, reason = "the call is to be taken apart into registers where it is made")]
    #[inline(always)]
    pub fn check<K: RateLimitKey>(self, key: K) -> Result<(), RateLimitExceeded> {
        self.admit(key)
    }

    /// Marks the call of a future, which uses its runtime's clock if a test has paused that.
    #[inline]
    pub(crate) fn in_future(self) -> Call<'a> {
        Call { is_async: true, ..self }
    }

    pub(crate) fn peek(self) -> Call<'a> {
        Call { peek: true, ..self }
    }

    /// The whole call is counted and reported, not this part of it.
    pub(super) fn quiet(self) -> Call<'a> {
        Call { quiet: true, ..self }
    }

    pub(crate) fn core(&self) -> &'a Arc<Core> {
        self.core
    }

    /// The limiter, for permits that can be given back.
    #[inline]
    pub(crate) fn owner(&self) -> Owner {
        self.core.gives_back();
        let own = self.in_static.filter(|own| std::ptr::eq(*own, self.core));
        own.map_or_else(|| Owner::Shared(Arc::clone(self.core)), Owner::Static)
    }
}

impl Call<'_> {
    /// Whether the outcome is counted and reported.
    #[inline]
    fn is_counted(&self) -> bool {
        !(self.peek | self.quiet)
    }

    /// The handle that gives permits back, taken at `at`.
    #[inline]
    pub(super) fn held(&self, store: &Store, address: Address, at: u64, resets: u32, kinds: u16) -> Held {
        let permit = Permit { at, cost: self.cost };
        Held { address, permit, resets, kinds, is_async: self.is_async, store: store.id() }
    }

    /// The decision on a call without an applicable limit.
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

    /// The outcome of a call decided in memory, after it waited for `waited` nanoseconds.
    #[expect(clippy::too_many_arguments, reason = "see `admitted`")]
    #[inline(never)]
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
            Verdict::Admitted { at } => {
                Ok(self.admitted(store, address, ask.call.rules, at, resets, left, now, waited))
            }
            Verdict::Denied { until, position } => {
                let limit = ask.call.rules[usize::from(position)].limit;
                self.denied(limit, refusal(until, left, now))
            }
            // The states decide every call in the end. If one did not, the limiter would fail
            // closed.
            Verdict::Undecided => self.denied(ask.call.rules[0].limit, refusal(NEVER, left, now)),
        }
    }

    /// The decision on a call that was admitted in memory by these limits.
    #[expect(clippy::inline_always, reason = "so that the decision is made where it is returned")]
    #[expect(clippy::too_many_arguments, reason = "what a decision is made of")]
    #[inline(always)]
    pub(super) fn admitted(
        &self,
        store: &Store,
        address: Address,
        rules: &[Rule],
        at: u64,
        resets: u32,
        left: Left,
        now: Now,
        waited: u64,
    ) -> Decision {
        let held = self.held(store, address, at, resets, kinds_of(rules));
        self.admitted_by(rules[usize::from(left.position)].limit, held, left, now, waited)
    }

    /// As [`admitted`](Call::admitted), by `limit` with the fewest permits left.
    #[expect(clippy::inline_always, reason = "so that the decision is made where it is returned")]
    #[inline(always)]
    pub(super) fn admitted_by(
        &self,
        limit: Limit,
        held: Held,
        Left { remaining, position, idle_at, .. }: Left,
        now: Now,
        waited: u64,
    ) -> Decision {
        let reset_after = idle_at.saturating_sub(now.earliest);
        if self.is_counted() {
            self.core.allowed();
            self.core.note_admitted(limit, remaining, reset_after);
        }
        if self.peek {
            return Decision { limit, remaining, position, reset_after, waited, taken: None };
        }
        // A call of cost 0 can be settled too.
        let taken = Taken { place: Place::Memory(held), limits: self.limits.map(Into::into), limiter: self.core.id };
        Decision { limit, remaining, position, reset_after, waited, taken: Some(taken) }
    }

    /// As [`refused`](Call::refused), for a call whose key has this text.
    #[cold]
    #[inline(never)]
    pub(super) fn refused_of(
        &self,
        text: &dyn Fn() -> KeyText,
        limit: Limit,
        refusal: Refusal,
    ) -> Result<(), RateLimitExceeded> {
        let text = text();
        Call { key: text.shown(), ..*self }.refused(limit, refusal)
    }

    /// The outcome of a denied call.
    pub(super) fn denied(self, limit: Limit, refusal: Refusal) -> Result<Decision, RateLimitExceeded> {
        self.refused(limit, refusal).map(|()| self.free())
    }

    /// Counts and reports a denied call. An error unless in a dry run.
    fn refused(self, limit: Limit, refusal: Refusal) -> Result<(), RateLimitExceeded> {
        let exceeded = || self.core.refused(limit, refusal);
        if self.is_counted() {
            self.core.denied();
            self.core.report_denial(exceeded, self.cost, self.key);
            if self.core.dry_run() {
                return Ok(());
            }
            #[cfg(any(feature = "tower", feature = "actix-web"))]
            crate::response_context::denied(
                limit,
                if refusal.is_blocked { 0 } else { refusal.remaining },
                refusal.retry_after,
            );
        }
        Err(exceeded())
    }

    /// As [`denied`](Call::denied), for a call that waited in memory until `now`.
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

    /// Reports that the admitted call has waited for this many nanoseconds.
    pub(super) fn waits(&self, waited: u64) {
        if self.is_counted() {
            self.core.waits(Duration::from_nanos(waited));
        }
    }

    pub(super) fn key_text(self) -> KeyText {
        self.key.to_text()
    }

    /// The decision on a call that a backend admitted, after it waited for `waited` nanoseconds.
    pub(super) fn remote_decision(
        &self,
        bucket: &Arc<str>,
        fingerprint: Option<Fingerprint>,
        limit: Limit,
        admission: Admission,
        reset_after: u64,
        waited: u64,
    ) -> Decision {
        let Admission { permit, limit: position, remaining, .. } = admission;
        let taken = (!self.peek).then(|| {
            let name = Arc::clone(bucket);
            let resets = self.core.resets_of(&name, fingerprint).load(Ordering::Relaxed);
            let place = Place::Remote(Box::new(RemoteBucket { name, fingerprint, permit, resets }));
            Taken { place, limits: self.limits.map(Into::into), limiter: self.core.id }
        });
        if self.is_counted() {
            self.core.allowed();
            self.core.note_admitted(limit, remaining, reset_after);
        }
        Decision { limit, remaining, position: position_u8(position), reset_after, waited, taken }
    }

    /// The decision on a call that waited before a backend.
    pub(super) fn booked(
        &self,
        bucket: &Arc<str>,
        fingerprint: Option<Fingerprint>,
        booked: Booked,
        waited: u64,
    ) -> Decision {
        if waited > 0 {
            self.waits(waited);
        }
        let Booked { limit, admission, reset_after, .. } = booked;
        self.remote_decision(bucket, fingerprint, limit, admission, reset_after, waited)
    }

    /// The outcome at `now` of a call that waited before a backend and cannot be admitted in time.
    pub(super) fn denied_by_backend(self, denied: &Denied, now: u64) -> Result<Decision, RateLimitExceeded> {
        let Denied { limit, position, remaining, admitted_at, is_blocked } = *denied;
        let retry_after = if admitted_at == NEVER { NEVER } else { admitted_at.saturating_sub(now).max(1) };
        self.denied(limit, Refusal { position: position_u8(position), remaining, retry_after, is_blocked })
    }

    /// The outcome by the limiter's policy if the backend failed. `None`: the limits decide in this
    /// process's memory.
    pub(super) fn undecided(self) -> Option<Result<Decision, RateLimitExceeded>> {
        match self.core.options.on_backend_error {
            OnBackendError::Local => None,
            OnBackendError::Allow => {
                if self.is_counted() {
                    self.core.allowed();
                }
                Some(Ok(self.free()))
            }
            OnBackendError::Deny => Some(self.failed()),
        }
    }

    /// The outcome of a call that no path decides, which cannot happen.
    pub(super) fn fails_closed(self) -> Result<(), RateLimitExceeded> {
        self.core.denied();
        Err(self.core.exceeded(NEVER))
    }

    /// The outcome if the backend failed and the policy is to deny.
    fn failed(self) -> Result<Decision, RateLimitExceeded> {
        let decision = self.free();
        let exceeded = || RateLimitExceeded {
            limiter: self.core.shared_name(),
            limit: decision.limit,
            retry_after: RETRY_AFTER_FAILURE,
            remaining: 0,
            position: 0,
            kind: ExceededKind::BackendFailed,
        };
        if self.cost == 0 && self.is_counted() {
            self.core.allowed();
        } else if self.is_counted() {
            self.core.failed();
            self.core.report_denial(exceeded, self.cost, self.key);
        }
        if self.core.dry_run() || self.cost == 0 {
            return Ok(decision);
        }
        #[cfg(any(feature = "tower", feature = "actix-web"))]
        if self.is_counted() {
            crate::response_context::failed();
        }
        Err(exceeded())
    }

    /// Whether the denial cache may answer the call. A call that may wait always asks the backend.
    pub(super) fn is_denied_alike(self) -> bool {
        self.wait == Wait::No && self.limits.is_none() && self.cost > 0 && self.core.denial_cache()
    }
}

/// A [`Call`] that owns its parts.
pub(super) struct OwnedCall {
    pub(super) core: Arc<Core>,
    pub(super) rare: Option<Box<Rare>>,
    pub(super) cost: u32,
    pub(super) wait: Wait,
    pub(super) peek: bool,
    pub(super) quiet: bool,
    pub(super) is_async: bool,
}

/// What few calls have.
pub(super) struct Rare {
    pub(super) limits: Option<Box<[Limit]>>,
    pub(super) key: KeyText,
}

impl OwnedCall {
    pub(super) fn of(call: Call<'_>, key: KeyText) -> OwnedCall {
        let Call { core, limits, cost, wait, peek, quiet, is_async, .. } = call;
        let is_rare = limits.is_some() || key.is_shown();
        let rare = is_rare.then(|| Box::new(Rare { limits: limits.map(Into::into), key }));
        OwnedCall { core: Arc::clone(core), rare, cost, wait, peek, quiet, is_async }
    }

    pub(super) fn call(&self) -> Call<'_> {
        Call {
            limits: self.rare.as_ref().and_then(|rare| rare.limits.as_deref()),
            cost: self.cost,
            wait: self.wait,
            peek: self.peek,
            quiet: self.quiet,
            is_async: self.is_async,
            key: self.rare.as_ref().map_or_else(ShownKey::default, |rare| rare.key.shown()),
            ..Call::new(&self.core)
        }
    }
}

/// A denial until a time, in nanoseconds from `now`.
pub(super) fn refusal(until: u64, left: Left, now: Now) -> Refusal {
    let retry_after = if until == NEVER { NEVER } else { until.saturating_sub(now.earliest) };
    Refusal { position: left.position, remaining: left.remaining, retry_after, is_blocked: left.is_blocked }
}

/// Asks again while a denial ends within one reading of the clock. Otherwise a burst faster than
/// the clock's resolution would find a full bucket one permit short.
#[inline]
pub(super) fn ask_again(
    mut now: Now,
    read: impl Fn() -> Now,
    mut ask: impl FnMut(Now) -> (Verdict, Left),
) -> (Verdict, Left) {
    // Far more than a reading takes. Under valgrind the clock may stand for longer.
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

pub(super) fn position_u8(position: usize) -> u8 {
    u8::try_from(position).unwrap_or(u8::MAX)
}

#[cold]
pub(super) fn polled_again() -> ! {
    panic!("a rate limit's future was polled after it was ready");
}
