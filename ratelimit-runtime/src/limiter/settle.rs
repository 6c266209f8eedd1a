//! Settles calls by their real cost, and charges calls that can no longer be denied.

mod each;

use std::fmt;
use std::sync::Arc;

use super::call::{Call, Owner, position_u8};
use super::core::{Core, Target};
use super::decide::Holding;
use crate::backend::memory::{Left, Permit, Store};
use crate::backend::{Action, Admitted, Answer, Denied, Outcome, Request};
use crate::decision::{Address, Decision, Held, Place, Taken};
use crate::error::BackendError;
use crate::guard::Guard;
use crate::key::RateLimitKey;
use crate::limit::Limit;
use crate::rt::clock::Now;
use crate::switches::Switches;

/// The permits of one call, to be settled by its real cost.
///
/// `permit = p` in `#[rate_limit]` binds one in the body. It can move into a spawned task, such as
/// the one that streams an answer. If it is dropped, the reservation stands.
///
/// It settles as [`RateLimiter::settle`](crate::RateLimiter::settle) does. For a call that took no
/// permits, because it was exempt or because nothing decided on it, it does nothing.
///
/// ```
/// use ratelimit_runtime::{RateLimitExceeded, rate_limit};
///
/// #[rate_limit(count = 1_000, per = "1m", cost = 100, permit = reserved)]
/// fn ask(question: &'static str) -> Result<std::thread::JoinHandle<()>, RateLimitExceeded> {
///     Ok(std::thread::spawn(move || {
///         let tokens = question.len() as u32;
///         if let Err(error) = reserved.settle(tokens) {
///             eprintln!("{error}");
///         }
///     }))
/// }
///
/// ask("How late is it?")?.join().unwrap();
/// # Ok::<(), RateLimitExceeded>(())
/// ```
#[must_use = "a permit that is dropped keeps what was reserved"]
pub struct CallPermit {
    held: Option<(Owner, Holding)>,
}

impl CallPermit {
    /// `None` for a call that took nothing.
    pub(crate) fn new(held: Option<(Owner, Holding)>) -> CallPermit {
        CallPermit { held }
    }

    /// Settles the call at `actual` permits: gives back the unused part of its `cost`, or charges
    /// the overrun. May block the thread on a backend.
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails. Buckets in memory never fail.
    pub fn settle(self, actual: u32) -> Result<(), BackendError> {
        match self.held {
            Some((core, holding)) => core.settle_held(holding, actual),
            None => Ok(()),
        }
    }

    /// As [`settle`](Self::settle), without blocking the thread on a backend.
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails. Buckets in memory never fail.
    pub async fn settle_async(self, actual: u32) -> Result<(), BackendError> {
        match self.held {
            Some((core, holding)) => core.settle_held_async(holding, actual).await,
            None => Ok(()),
        }
    }

    /// As [`settle`](Self::settle), without waiting for a backend. If the backend fails, the
    /// reservation stands.
    pub fn settle_later(self, actual: u32) {
        if let Some((core, holding)) = self.held {
            core.settle_held_later(holding, actual);
        }
    }
}

impl fmt::Debug for CallPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limiter = self.held.as_ref().map(|(core, _)| core.name());
        f.debug_struct("CallPermit").field("limiter", &limiter).finish_non_exhaustive()
    }
}

/// A request to a backend that settles or charges.
pub(crate) struct Sending {
    backend: Arc<Guard>,
    request: Request,
}

/// What is left after a charge.
pub(crate) struct Charged {
    limit: Limit,
    left: Left,
    now: u64,
}

/// A charge in progress.
pub(crate) enum Charging {
    Done(Decision),
    Sending(Sending),
}

impl Charged {
    fn decision(self, core: &Core) -> Decision {
        let Charged { limit, left: Left { remaining, position, idle_at, .. }, now } = self;
        let reset_after = idle_at.saturating_sub(now);
        core.note_admitted(limit, remaining, reset_after);
        Decision { limit, remaining, position, reset_after, waited: 0, taken: None }
    }
}

impl Sending {
    pub(crate) fn send(self, core: &Core) -> Result<Option<Decision>, BackendError> {
        let answer = self.backend.decide(&self.request)?;
        Ok(self.charged(core, &answer))
    }

    pub(crate) async fn send_async(self, core: &Core) -> Result<Option<Decision>, BackendError> {
        let answer = self.backend.decide_async(&self.request).await?;
        Ok(self.charged(core, &answer))
    }

    fn send_later(self) {
        self.backend.decide_later(self.request);
    }

    /// What the answer to a charge says.
    fn charged(&self, core: &Core, answer: &Answer) -> Option<Decision> {
        let (position, remaining, idle_at) = match &answer.outcome {
            Outcome::Admitted(Admitted { admission }) => (admission.limit, admission.remaining, admission.fresh_at),
            // A charge of nothing takes nothing, and may be answered as a call that a block denies.
            Outcome::Denied(Denied { refusal }) => (refusal.limit, refusal.remaining, 0),
            _ => return None,
        };
        let limit = *self.request.limits.get(position)?;
        let left = Left { remaining, position: position_u8(position), idle_at, ..Left::default() };
        Some(Charged { limit, left, now: answer.now.as_nanos() }.decision(core))
    }
}

impl Core {
    #[inline]
    pub(crate) fn settle(&self, decision: Decision, actual: u32) -> Result<(), BackendError> {
        if self.settle_fast(&decision, actual) {
            self.unused(&decision, actual).take_back();
            // It holds nothing that is to be dropped.
            std::mem::forget(decision);
            return Ok(());
        }
        self.settle_slowly(decision, actual)
    }

    #[inline(never)]
    fn settle_slowly(&self, decision: Decision, actual: u32) -> Result<(), BackendError> {
        let unused = self.unused(&decision, actual);
        let sendings = self.start_settle(decision, actual);
        let sent = sendings.into_iter().map(|sending| sending.send(self).map(drop)).fold(Ok(()), Result::and);
        sent.inspect(|()| unused.take_back())
    }

    pub(crate) async fn settle_async(&self, decision: Decision, actual: u32) -> Result<(), BackendError> {
        let unused = self.unused(&decision, actual);
        let mut result = Ok(());
        for sending in self.start_settle(decision, actual) {
            result = result.and(sending.send_async(self).await.map(drop));
        }
        result.inspect(|()| unused.take_back())
    }

    pub(crate) fn settle_later(&self, decision: Decision, actual: u32) {
        let unused = self.unused(&decision, actual);
        self.start_settle(decision, actual).into_iter().for_each(Sending::send_later);
        unused.take_back();
    }

    #[inline]
    pub(crate) fn settle_held(&self, holding: Holding, actual: u32) -> Result<(), BackendError> {
        match self.settle_in_memory(holding, actual) {
            Some(decision) => self.settle_slowly(*decision, actual),
            None => Ok(()),
        }
    }

    pub(crate) async fn settle_held_async(&self, holding: Holding, actual: u32) -> Result<(), BackendError> {
        match self.settle_in_memory(holding, actual) {
            Some(decision) => self.settle_async(*decision, actual).await,
            None => Ok(()),
        }
    }

    pub(crate) fn settle_held_later(&self, holding: Holding, actual: u32) {
        if let Some(decision) = self.settle_in_memory(holding, actual) {
            self.settle_later(*decision, actual);
        }
    }

    /// Settles permits that are held in memory. Others are returned as a decision.
    #[inline]
    pub(crate) fn settle_in_memory(&self, holding: Holding, actual: u32) -> Option<Box<Decision>> {
        match holding {
            Holding::Nothing => {}
            Holding::Memory(held) => {
                let cost = held.permit.cost;
                if actual > cost {
                    self.overrun_in_memory(held, None, actual - cost);
                } else if actual < cost && !self.give_back_fast(&held, cost - actual) {
                    self.give_back_slowly(&held, cost - actual);
                }
            }
            Holding::Other(decision) => return Some(decision),
        }
        None
    }

    #[cold]
    #[inline(never)]
    fn give_back_slowly(&self, held: &Held, cost: u32) {
        self.give_back(Held { permit: Permit { cost, ..held.permit }, ..*held }, None);
    }

    fn unused(&self, decision: &Decision, actual: u32) -> Unused {
        let cost = decision.taken.as_ref().filter(|taken| taken.limiter == self.id).map_or(0, Taken::cost);
        Unused { limit: decision.limit, remaining: decision.remaining, permits: cost.saturating_sub(actual) }
    }

    /// Settles permits taken in memory. For permits taken in a backend, returns the requests, one
    /// for each bucket. A `Vec`, which is cheap while it is empty: requests are large.
    fn start_settle(&self, decision: Decision, actual: u32) -> Vec<Sending> {
        if self.settle_fast(&decision, actual) {
            return Vec::new();
        }
        match decision.taken {
            Some(Taken { place: Place::Each(all), limiter, .. }) if limiter == self.id => {
                self.apart(all).filter_map(|(part, taken)| part.settle_taken(taken, actual)).collect()
            }
            taken => taken.and_then(|taken| self.settle_taken(taken, actual)).into_iter().collect(),
        }
    }

    /// Gives back what a call in memory did not need, if the fast path is open.
    #[inline]
    fn settle_fast(&self, decision: &Decision, actual: u32) -> bool {
        match &decision.taken {
            Some(Taken { place: Place::Memory(held), limits: None, limiter })
                if *limiter == self.id && actual < held.permit.cost =>
            {
                self.give_back_fast(held, held.permit.cost - actual)
            }
            _ => false,
        }
    }

    /// As [`start_settle`](Core::start_settle), of one bucket.
    fn settle_taken(&self, mut taken: Taken, actual: u32) -> Option<Sending> {
        let cost = taken.cost();
        if taken.limiter != self.id {
            return None;
        }
        if actual < cost {
            match &mut taken.place {
                Place::Memory(held) => held.permit.cost = cost - actual,
                Place::Remote(bucket) => {
                    bucket.permit.cost = cost - actual;
                    // It would undo the whole charge.
                    bucket.permit.undo.take_if(|_| actual > 0);
                }
                Place::Each(_) => return None,
            }
            return self.give_back_taken(taken).map(|(backend, request)| Sending { backend, request });
        }
        let Taken { place, limits, .. } = taken;
        if actual == cost {
            return None;
        }
        match place {
            Place::Memory(held) => {
                self.overrun_in_memory(held, limits.as_deref(), actual - cost);
                None
            }
            Place::Remote(bucket) => {
                let switches = Switches::load();
                let venue = self.venue(switches, true);
                let Target::Remote(backend) = &venue.target else { return None };
                if self.is_off(switches) {
                    return None;
                }
                self.with_rules(limits.as_deref(), |rules| {
                    let action = Action::Charge { cost: actual - cost };
                    let request = self.request_for(&venue, bucket.name, bucket.fingerprint, rules, action);
                    Some(Sending { backend: Arc::clone(backend), request })
                })
            }
            Place::Each(_) => None,
        }
    }

    /// Charges a call's overrun, in the store that decided on it.
    #[cold]
    #[inline(never)]
    fn overrun_in_memory(&self, held: Held, read: Option<&[Limit]>, cost: u32) {
        let switches = Switches::load();
        if self.is_off(switches) {
            return;
        }
        let venue = self.venue(switches, held.is_async);
        let charge = |store: &Arc<Store>| {
            if store.id() == held.store {
                let charged = self.charge_in(store, held.address, read, cost, venue.now());
                drop(charged.decision(self));
            }
        };
        match &venue.target {
            Target::Memory(store) => charge(store),
            Target::Remote(_) => charge(&self.fallback(&venue)),
        }
    }

    fn charge_in(&self, store: &Arc<Store>, address: Address, read: Option<&[Limit]>, cost: u32, now: Now) -> Charged {
        self.with_ask(store, read, cost, |ask| {
            let left = store.charge(address, ask, now);
            Charged { limit: ask.call.rules[usize::from(left.position)].limit, left, now: now.earliest }
        })
    }

    /// Charges in memory. For a bucket in a backend, returns the request.
    pub(crate) fn start_charge<K: RateLimitKey>(self: &Arc<Core>, key: &K, cost: u32, is_async: bool) -> Charging {
        let switches = Switches::load();
        if self.is_off(switches) {
            return Charging::Done(self.nothing_charged());
        }
        let venue = self.venue(switches, is_async);
        match &venue.target {
            Target::Memory(store) => {
                Charging::Done(self.charge_in(store, store.address(key), None, cost, venue.now()).decision(self))
            }
            Target::Remote(backend) => {
                let request = self.with_rules(None, |rules| self.request(&venue, key, rules, Action::Charge { cost }));
                Charging::Sending(Sending { backend: Arc::clone(backend), request })
            }
        }
    }

    /// The answer to a charge that no limit applies to.
    pub(crate) fn nothing_charged(self: &Arc<Core>) -> Decision {
        Call::new(self).free()
    }
}

/// The permits of a decision that the call did not need, as response headers report them.
struct Unused {
    limit: Limit,
    remaining: u32,
    permits: u32,
}

impl Unused {
    /// The permits came back.
    fn take_back(&self) {
        let Unused { limit, remaining, permits } = *self;
        #[cfg(any(feature = "tower", feature = "actix-web"))]
        if permits > 0 {
            crate::response_context::given_back(limit, remaining, permits);
        }
        #[cfg(not(any(feature = "tower", feature = "actix-web")))]
        let _ = (limit, remaining, permits);
    }
}
