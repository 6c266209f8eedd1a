//! Decides a call on several buckets, each of another limiter's part: all are charged, or none is.
//!
//! The buckets are judged in a nested way: each under its lock while the locks of those before it
//! are held. Once all have admitted the call, they are charged on the way back. The last bucket is
//! judged and charged in one step, because no later one can deny.
//!
//! No deadlock: every call takes the locks in one order, keyed buckets before unkeyed ones and each
//! kind by the address of its store. Each store has one bucket in a call, so no lock is taken
//! twice. Whatever takes other locks (to make room, sweep, wake) happens before or afterwards. The
//! unkeyed bucket, which all calls share, comes last, so its lock is held the shortest. A lock-free
//! word can only be last.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use smallvec::SmallVec;

use super::state::{Fate, Left, Verdict};
use super::store::{Ask, Kind, OnePermit, Store, Tried};
use crate::decision::Address;
use crate::limit::MAX_LIMITS;
use crate::queue::Wakes;
use crate::rt::clock::Now;

/// The most attempts to make buckets that are evicted before they are locked.
const TRIES: u32 = 10;

/// One bucket of a call.
pub(crate) struct Bucket<'a> {
    pub(crate) store: &'a Arc<Store>,
    pub(crate) address: Address,
    pub(crate) ask: Ask<'a>,
}

/// What one bucket's limits say about the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    pub(crate) left: Left,
}

/// What all buckets say. Of a call that is charged, all verdicts are admissions.
///
/// It is long, so the caller owns it and nothing copies it.
pub(crate) struct Verdicts {
    judged: [Cell<Judged>; MAX_LIMITS],
}

impl Verdicts {
    pub(crate) fn new() -> Verdicts {
        const NOTHING: Judged = Judged {
            verdict: Verdict::Undecided,
            left: Left { remaining: 0, position: 0, idle_at: 0, is_blocked: false },
        };
        Verdicts { judged: [const { Cell::new(NOTHING) }; MAX_LIMITS] }
    }

    /// Whether any bucket denies.
    pub(crate) fn is_denied(&self) -> bool {
        self.judged.iter().any(|judged| matches!(judged.get().verdict, Verdict::Denied { .. }))
    }

    /// The answer of the bucket at `index` of the call.
    pub(crate) fn of(&self, index: usize) -> Judged {
        self.judged[index].get()
    }
}

/// A call in progress.
struct Descent<'a, 'b> {
    buckets: &'b [Bucket<'a>],
    /// Indices of the buckets in the order of their locks.
    order: SmallVec<[u8; MAX_LIMITS]>,
    now: Now,
    /// Reports what is left of an admitted call too.
    wants_left: bool,
    verdicts: &'b Verdicts,
    /// Waits for locks. Tasks to wake are collected: waking runs foreign code.
    wakes: Option<RefCell<Wakes>>,
}

/// A bucket of a call by the limits written down.
pub(crate) type Written<'a> = (&'a Arc<Store>, Address);

/// The fast path of [`take`]: takes from 1 permit to the capacity by one limit a bucket. Denies only
/// one permit of two keys.
#[inline]
pub(crate) fn try_take(buckets: &mut [Written<'_>], now: Now, cost: u32) -> Tried {
    if let [(one, Address::Hash(hash)), (other, Address::Hash(other_hash))] = buckets {
        let (one, other) = ((&***one, *hash), (&***other, *other_hash));
        if one.0.kind() == other.0.kind() {
            let is_swapped = other.0.id() < one.0.id();
            let ((first, hash), last) = if is_swapped { (other, one) } else { (one, other) };
            let tried = if cost == 1 {
                first.try_take_two(hash, last, now, OnePermit)
            } else {
                first.try_take_two(hash, last, now, cost)
            };
            return match tried {
                Tried::First(until) if is_swapped => Tried::Second(until),
                Tried::Second(until) if is_swapped => Tried::First(until),
                tried => tried,
            };
        }
    }
    buckets.sort_unstable_by_key(rank);
    if try_take_in_order(buckets, now, cost) { Tried::Taken } else { Tried::Undecided }
}

/// The order of locks.
#[inline]
fn rank((store, address): &Written<'_>) -> (bool, usize) {
    (*address == Address::Unkeyed, store.id())
}

#[inline(never)]
fn try_take_in_order(buckets: &[Written<'_>], now: Now, cost: u32) -> bool {
    match buckets {
        [] => true,
        [(store, address)] => store.try_take(*address, now, cost).is_some(),
        [(store, Address::Hash(hash)), others @ ..] => {
            store.try_take_with(*hash, now, cost, &|| try_take_in_order(others, now, cost))
        }
        [(_, Address::Unkeyed), ..] => false,
    }
}

/// Takes the call's permits from all buckets, or from none. Returns whether they are taken.
/// `wants_left` asks what is left of an admitted call.
pub(crate) fn take(buckets: &[Bucket<'_>], now: Now, wants_left: bool, verdicts: &Verdicts) -> bool {
    let descent = || Descent { buckets, order: order(buckets), now, wants_left, verdicts, wakes: None };
    // Most calls that [`try_take`] has left are denied.
    let is_left = !wants_left && buckets.iter().all(|bucket| bucket.store.kind() != Kind::Any);
    let fate = if is_left { Fate::Unknown } else { descent().level(0, false) };
    if fate != Fate::Unknown {
        return fate == Fate::Charged;
    }
    for Bucket { store, address, .. } in buckets {
        if let Address::Hash(hash) = address {
            store.take_turn(*hash, now);
        }
    }
    // A denied call needs no bucket, unless its denial must be counted.
    if buckets.iter().all(|bucket| bucket.ask.call.backoff.is_none()) {
        peek(buckets, now, verdicts);
        if verdicts.is_denied() {
            return false;
        }
    }
    descent().take_slowly()
}

/// The answers of [`take`], without taking. Looks at one bucket after the other, so other calls may
/// come in between.
pub(crate) fn peek(buckets: &[Bucket<'_>], now: Now, verdicts: &Verdicts) {
    for (bucket, judged) in buckets.iter().zip(&verdicts.judged) {
        let (verdict, left) = bucket.store.peek(bucket.address, &bucket.ask, now);
        judged.set(Judged { verdict, left });
    }
}

#[inline]
fn order(buckets: &[Bucket<'_>]) -> SmallVec<[u8; MAX_LIMITS]> {
    let rank = |index: u8| {
        let Bucket { store, address, .. } = &buckets[usize::from(index)];
        rank(&(store, *address))
    };
    let mut order: SmallVec<[u8; MAX_LIMITS]> = SmallVec::new();
    for index in (0..).take(buckets.len()) {
        order.push(index);
        let mut place = order.len() - 1;
        while place > 0 && rank(order[place]) < rank(order[place - 1]) {
            order.swap(place, place - 1);
            place -= 1;
        }
    }
    order
}

impl Descent<'_, '_> {
    /// Judges the bucket at this depth and all behind it, and charges them if all buckets admit.
    fn level(&self, depth: usize, is_denied: bool) -> Fate {
        let Some(index) = self.order.get(depth).copied().map(usize::from) else {
            return if is_denied { Fate::Denied } else { Fate::Charged };
        };
        if depth + 1 == self.order.len() && !is_denied {
            return self.last(index);
        }
        let Bucket { store, address, ask } = &self.buckets[index];
        // A denial by another bucket is no offence here unless there is a `backoff`. So reading the
        // shared bucket is enough: it keeps its form and its lock.
        if is_denied
            && *address == Address::Unkeyed
            && ask.call.backoff.is_none()
            && let Some((verdict, left)) = store.peek_unkeyed(ask, self.now)
        {
            self.verdicts.judged[index].set(Judged { verdict, left });
            return self.level(depth + 1, true);
        }
        let fate = Cell::new(Fate::Unknown);
        let others = |verdict: Verdict| {
            let is_denied = is_denied || matches!(verdict, Verdict::Denied { .. });
            fate.set(self.level(depth + 1, is_denied));
            fate.get()
        };
        let outcome = match &self.wakes {
            None => store.try_hold(*address, ask, self.now, self.wants_left, &others),
            Some(all) => {
                let mut wakes = Wakes::default();
                let outcome = store.hold(*address, ask, self.now, &mut wakes, &others);
                all.borrow_mut().append(wakes);
                outcome
            }
        };
        match outcome {
            Some((verdict, left)) if verdict != Verdict::Undecided => {
                self.verdicts.judged[index].set(Judged { verdict, left });
                fate.get()
            }
            _ => Fate::Unknown,
        }
    }

    fn last(&self, index: usize) -> Fate {
        let Bucket { store, address, ask } = &self.buckets[index];
        let outcome = match &self.wakes {
            None => store.take_last(*address, ask, self.now, self.wants_left, None),
            Some(all) => {
                let mut wakes = Wakes::default();
                let outcome = store.take_last(*address, ask, self.now, self.wants_left, Some(&mut wakes));
                all.borrow_mut().append(wakes);
                outcome
            }
        };
        let Some((verdict, left)) = outcome else { return Fate::Unknown };
        self.verdicts.judged[index].set(Judged { verdict, left });
        match verdict {
            Verdict::Admitted { .. } => Fate::Charged,
            Verdict::Denied { .. } => Fate::Denied,
            Verdict::Undecided => Fate::Unknown,
        }
    }

    /// As [`level`](Descent::level) for all buckets, waiting for locks.
    fn level_under_locks(&mut self, is_denied: bool, wakes: &mut Wakes) -> Fate {
        self.wakes = Some(RefCell::default());
        let fate = self.level(0, is_denied);
        if let Some(others) = self.wakes.take() {
            wakes.append(others.into_inner());
        }
        fate
    }

    /// As [`take`], after the fast path did not decide: makes missing buckets and waits for locks.
    #[cold]
    #[inline(never)]
    fn take_slowly(mut self) -> bool {
        // Most buckets exist: a sweep was due, a lock was held, calls wait, or a state changes its
        // form.
        let mut wakes = Wakes::default();
        let mut fate = self.level_under_locks(false, &mut wakes);
        if fate != Fate::Unknown {
            wakes.wake();
            return fate == Fate::Charged;
        }
        let order = self.order.clone();
        for tries in 0..=TRIES {
            let mut is_denied = false;
            self.order.clear();
            for index in &order {
                let Bucket { store, address, ask } = &self.buckets[usize::from(*index)];
                let untracked = match address {
                    Address::Hash(hash) if tries < TRIES => store.make(*hash, ask, self.now, &mut wakes),
                    // Other calls take the room as fast as it is made.
                    Address::Hash(hash) => Some(store.without_room(*hash, ask, self.now)),
                    Address::Unkeyed => None,
                };
                match untracked {
                    None => self.order.push(*index),
                    // There is no room for the key: the backend's [`WhenFull`](crate::WhenFull)
                    // decides.
                    Some((verdict, left)) => {
                        is_denied |= matches!(verdict, Verdict::Denied { .. });
                        self.verdicts.judged[usize::from(*index)].set(Judged { verdict, left });
                    }
                }
            }
            fate = self.level_under_locks(is_denied, &mut wakes);
            if fate != Fate::Unknown {
                break;
            }
        }
        wakes.wake();
        fate == Fate::Charged
    }
}

#[cfg(all(test, loom_model))]
mod model;
