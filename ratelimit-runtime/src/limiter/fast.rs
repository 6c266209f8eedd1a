//! The fast path: buckets in memory, all process-wide switches off, the written limits, and a caller
//! that needs only yes or no. It denies calls for one permit. Of other costs, or of calls that may
//! wait, it only admits.
//!
//! The code is arranged for the compiler. The call is not passed as a whole, and the error is built
//! where it is returned. Keys of common types are passed in registers. Each function ends in a tail
//! call of the next. Between two locked instructions the processor waits for what the second one
//! needs: the key's hash.

use std::sync::Arc;

use super::call::{Refusal, refusal};
use super::core::{Contains, Core, Fast, Packed, Path, Paths, kinds_of_one};
use crate::backend::memory::{
    Attempt, BucketPath, Cost, FixedPath, Form, FormKind, GeneralForm, KeyPath, Kind, Left, MemoryBackend, OnePermit,
    Permit, PermitsForm, States, Store, TatPath, TokenForm, Verdict, WindowForm, WindowPath, WordsForm, Written,
    on_path,
};
use crate::decision::{Address, Held};
use crate::key::RateLimitKey;
use crate::key::sealed::{Asker, Kind as KeyKind, Sink as _};
use crate::rt::clock::Now;
use crate::rt::counts;
use crate::switches::Switches;

/// The result of the fast path.
#[derive(Clone, Copy)]
pub(super) enum Found {
    Admitted,
    /// By the only limit, which has nothing left. In nanoseconds from now.
    Denied {
        retry_after: u64,
    },
    Else(Packed),
}

impl Packed {
    const ADMITTED: Packed = Packed(0, 0);
    /// The call takes the slow path. Nothing was taken or counted.
    const NOTHING: Packed = Packed(1, 0);
    const DENIED: u64 = 2;
    const REFUSED: u64 = 3;
    /// By a block. Counted already.
    const BLOCKED: u64 = 4;

    #[inline]
    fn refused(Refusal { position, remaining, retry_after, is_blocked }: Refusal) -> Packed {
        let parts = u64::from(position) << 8 | u64::from(is_blocked) << 16 | u64::from(remaining) << 32;
        Packed(Packed::REFUSED | parts, retry_after)
    }

    #[inline]
    pub(super) fn found(self) -> Found {
        match self {
            Packed(0, _) => Found::Admitted,
            Packed(Packed::DENIED, retry_after) => Found::Denied { retry_after },
            other => Found::Else(other),
        }
    }

    /// What the only limit has left while the key is blocked, and the end of the block, in nanoseconds
    /// from now. The denial is counted.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "taken apart")]
    pub(super) fn blocked(self) -> Option<(u32, u64)> {
        let Packed(parts, retry_after) = self;
        (parts as u8 == Packed::BLOCKED as u8).then_some(((parts >> 32) as u32, retry_after))
    }

    /// The denial by one of several limits, with `backoff`, or by a block that is found anew. It is not
    /// counted yet.
    pub(super) fn refusal(self) -> Option<Refusal> {
        let Packed(parts, retry_after) = self;
        #[expect(clippy::cast_possible_truncation, reason = "taken apart")]
        let (position, remaining) = ((parts >> 8) as u8, (parts >> 32) as u32);
        let refusal = Refusal { position, remaining, retry_after, is_blocked: parts >> 16 & 1 == 1 };
        (parts & 0xff == Packed::REFUSED).then_some(refusal)
    }
}

/// Takes the permits of a call. It is denied only if its cost is
/// [`OnePermit`](crate::backend::memory::OnePermit).
#[expect(clippy::inline_always, reason = "the key is to be taken apart into registers")]
#[inline(always)]
pub(super) fn admit<K: RateLimitKey, C: Paid>(core: &Core, key: &K, cost: C) -> Found {
    key.ask(Admit(core, cost)).found()
}

struct Admit<'a, C>(&'a Core, C);

impl<C: Paid> Asker for Admit<'_, C> {
    type Answer = Packed;

    #[inline]
    fn text(self, key: &str) -> Packed {
        admit_text(self.0, key, self.1)
    }

    #[inline]
    fn number(self, kind: KeyKind, key: u64) -> Packed {
        admit_number(self.0, kind, key, self.1)
    }

    #[inline]
    fn any<K: RateLimitKey + ?Sized>(self, key: &K) -> Packed {
        if K::KEYED { admit_any(self.0, key, self.1) } else { admit_unkeyed(self.0, self.1) }
    }
}

#[inline(never)]
fn admit_text<C: Paid>(core: &Core, key: &str, cost: C) -> Packed {
    let Some(fast) = fast(core, cost) else { return nothing() };
    admit_key(core, fast, fast.store.hash(|sink| sink.text(key)), cost)
}

#[inline(never)]
fn admit_number<C: Paid>(core: &Core, kind: KeyKind, key: u64, cost: C) -> Packed {
    let Some(fast) = fast(core, cost) else { return nothing() };
    admit_key(core, fast, fast.store.hash(|sink| sink.number(kind, key.into())), cost)
}

#[inline(never)]
fn admit_any<K: RateLimitKey + ?Sized, C: Paid>(core: &Core, key: &K, cost: C) -> Packed {
    let Some(fast) = fast(core, cost) else { return nothing() };
    admit_key(core, fast, fast.store.hash(|sink| key.write_to(sink)), cost)
}

#[inline(never)]
fn admit_unkeyed<C: Paid>(core: &Core, cost: C) -> Packed {
    let Some(fast) = fast(core, cost) else { return nothing() };
    if fast.store.holds_any() {
        return nothing();
    }
    // Looked up first, because the processor does not run ahead of a reading of its counter.
    let thread = counts::thread();
    let now = fast.store.now();
    admit_unkeyed_at(core, fast, thread, now, cost)
}

#[expect(clippy::inline_always, reason = "a jump to one of five functions")]
#[inline(always)]
fn admit_unkeyed_at<C: Paid>(core: &Core, fast: &Fast, thread: usize, now: Now, cost: C) -> Packed {
    C::of(&fast.unkeyed)(core, &fast.store, thread as u64, now, cost)
}

/// One function for each form. On a shorter path, threads that share a token bucket ask for its
/// cache line sooner and get it for fewer calls at a time.
#[expect(clippy::cast_possible_truncation, reason = "it was a usize")]
#[inline(never)]
fn admit_form<F: Form + Default, C: Cost>(core: &Core, store: &Store, thread: u64, now: Now, cost: C) -> Packed {
    match store.try_form::<F, C>(thread as usize, now, cost) {
        Attempt::Admitted => admitted(core),
        Attempt::Denied(_) if !C::IS_ONE => nothing(),
        Attempt::Denied(until) => denied(core, until, None, now),
        Attempt::Added(before) => admit_added::<F, C>(core, store, now, before, cost),
        Attempt::Contended => admit_contended::<F, C>(core, store, now, cost),
    }
}

#[inline(never)]
fn admit_contended<F: Form + Default, C: Cost>(core: &Core, store: &Store, now: Now, cost: C) -> Packed {
    match store.try_unkeyed::<F>(now, cost.permits()) {
        (Verdict::Undecided, _) if C::IS_ONE => admit_slowly(core, store, Address::Unkeyed, now),
        attempt => settle(core, attempt, now, cost),
    }
}

#[cold]
#[inline(never)]
fn admit_added<F: Form, C: Cost>(core: &Core, store: &Store, now: Now, before: u64, cost: C) -> Packed {
    settle(core, (store.added::<F>(now, before, cost.permits()), None), now, cost)
}

/// [`Packed::NOTHING`], opaque to the optimizer, so that every exit of the callers is a tail call.
/// Saves 1 ns.
#[cold]
#[inline(never)]
fn nothing() -> Packed {
    std::hint::black_box(Packed::NOTHING)
}

/// As [`admit`], by the clock of the surrounding runtime.
#[inline(never)]
pub(super) fn admit_in_future<K: RateLimitKey + ?Sized, C: Paid>(core: &Core, key: &K, cost: C) -> Packed {
    let Some(fast) = fast(core, cost) else { return Packed::NOTHING };
    let store = &fast.store;
    let (address, thread) = (store.address(key), counts::thread());
    let now = store.now_for(true);
    match address {
        Address::Hash(hash) if store.holds_any() => admit_beside_holds(core, fast, hash, now, cost),
        Address::Hash(hash) => admit_key_at(core, fast, hash, now, cost),
        Address::Unkeyed if store.holds_any() => Packed::NOTHING,
        Address::Unkeyed => admit_unkeyed_at(core, fast, thread, now, cost),
    }
}

/// Takes any number of permits and counts the call if they fit. Otherwise changes nothing.
#[expect(clippy::inline_always, reason = "what is held is to stay in registers")]
#[inline(always)]
pub(super) fn take<K: RateLimitKey + ?Sized>(core: &Core, key: &K, cost: u32, is_async: bool) -> Option<Held> {
    let Fast { store, .. } = fast(core, cost)?;
    let address = store.address(key);
    if store.may_hold(address) {
        return None;
    }
    let resets = store.resets(address);
    let at = store.try_take(address, store.now_for(is_async), cost)?;
    core.allowed();
    let kinds = kinds_of_one(store.limit().algorithm());
    Some(Held { address, permit: Permit { at, cost }, resets, kinds, is_async, store: store.id() })
}

#[inline]
pub(super) fn fast<C: Cost>(core: &Core, cost: C) -> Option<&Fast> {
    let fast = if Switches::load().are_off() { core.fast()? } else { return None };
    (C::IS_ONE || fast.store.admits(cost.permits())).then_some(fast)
}

/// Reads the clock after the key was hashed: hashing and the reading of the counter overlap, and
/// take equally long.
#[expect(clippy::inline_always, reason = "a jump")]
#[inline(always)]
fn admit_key<C: Paid>(core: &Core, fast: &Fast, hash: u64, cost: C) -> Packed {
    let now = fast.store.now();
    if fast.store.holds_any() {
        admit_beside_holds(core, fast, hash, now, cost)
    } else {
        admit_key_at(core, fast, hash, now, cost)
    }
}

/// The fast path of a key while keys of its store are held.
#[inline(never)]
fn admit_beside_holds<C: Paid>(core: &Core, fast: &Fast, hash: u64, now: Now, cost: C) -> Packed {
    if fast.store.is_free(hash, now) {
        admit_key_at(core, fast, hash, now, cost)
    } else if C::IS_ONE {
        admit_held(core, fast, hash, now)
    } else {
        nothing()
    }
}

#[inline(never)]
fn admit_held(core: &Core, fast: &Fast, hash: u64, now: Now) -> Packed {
    if let Some((until, remaining)) = fast.store.repeated_denial(hash, now)
        && until > now.latest
    {
        let retry_after = until - now.earliest;
        if core.dry_run() {
            return Packed::refused(Refusal { position: 0, remaining, retry_after, is_blocked: true });
        }
        core.denied();
        return Packed(Packed::BLOCKED | u64::from(remaining) << 32, retry_after);
    }
    admit_held_anew(core, fast, hash, now)
}

#[cold]
#[inline(never)]
fn admit_held_anew(core: &Core, fast: &Fast, hash: u64, now: Now) -> Packed {
    match fast.store.take_if_held(hash, now) {
        None => admit_key_at(core, fast, hash, now, OnePermit),
        Some((verdict, left)) => settle(core, (verdict, Some(left)), now, OnePermit),
    }
}

#[expect(clippy::inline_always, reason = "a jump to one of five functions")]
#[inline(always)]
fn admit_key_at<C: Paid>(core: &Core, fast: &Fast, hash: u64, now: Now, cost: C) -> Packed {
    C::of(&fast.by_key)(core, &fast.store, hash, now, cost)
}

/// For limiters that are never called with a key.
pub(super) const NO_KEYS: Contains =
    Contains { states: States::NO_KEYS, fast: |store| [unkeyed(store.form()), NOTHING], store: own_store };
/// The same of one sliding window up to 64, whose calls take one permit each.
pub(super) const PERMITS_WITHOUT_KEYS: Contains = Contains {
    states: States::PERMITS_WITHOUT_KEYS,
    fast: |_| [form::<PermitsForm>().of_one(), NOTHING],
    store: own_store,
};
/// The same of one larger sliding window.
pub(super) const WINDOW_WITHOUT_KEYS: Contains = Contains {
    states: States::WINDOW_WITHOUT_KEYS,
    fast: |_| [form::<WindowForm>().of_one(), NOTHING],
    store: own_store,
};
/// For one sliding window up to 64, whose calls take one permit each.
pub(super) const PERMITS: Contains = Contains {
    states: States::PERMITS,
    fast: |_| [form::<PermitsForm>().of_one(), key_path::<WindowPath>().of_one()],
    store: own_store,
};
/// For one larger sliding window.
pub(super) const WINDOW: Contains = Contains {
    states: States::WINDOW,
    fast: |_| [form::<WindowForm>().of_one(), key_path::<WindowPath>().of_one()],
    store: own_store,
};
/// For all others.
pub(super) const ANY: Contains = Contains {
    states: States::ANY,
    fast: |store| [unkeyed(store.form()), by_key(store.kind())],
    store: Core::shared_store,
};

fn own_store(_: &Core, memory: &MemoryBackend, written: &Written) -> Arc<Store> {
    memory.store_of_one(written)
}

/// For limiters that are never called with a key.
const NOTHING: Paths = Paths { one: |_, _, _, _, _| nothing(), some: |_, _, _, _, _| nothing() };

fn by_key(kind: Kind) -> Paths {
    let one = if kind == Kind::Full { admit_full } else { admit_state };
    on_path!(kind, Path => key_path::<Path>(), Paths { one, some: admit_state })
}

fn key_path<P: KeyPath>() -> Paths {
    Paths { one: admit_by::<P, OnePermit>, some: admit_by::<P, u32> }
}

fn unkeyed(kind: FormKind) -> Paths {
    match kind {
        FormKind::Token => form::<TokenForm>(),
        FormKind::Permits => form::<PermitsForm>(),
        FormKind::Words => form::<WordsForm>(),
        FormKind::Window => form::<WindowForm>(),
        FormKind::General => form::<GeneralForm>(),
    }
}

fn form<F: Form + Default>() -> Paths {
    Paths { one: admit_form::<F, OnePermit>, some: admit_form::<F, u32> }
}

impl Paths {
    /// For limiters whose calls take one permit each.
    fn of_one(self) -> Paths {
        Paths { some: NOTHING.some, ..self }
    }
}

/// A cost that has a path.
pub(super) trait Paid: Cost {
    fn of(paths: &Paths) -> Path<Self>;
}

impl Paid for OnePermit {
    #[inline]
    fn of(paths: &Paths) -> Path<OnePermit> {
        paths.one
    }
}

impl Paid for u32 {
    #[inline]
    fn of(paths: &Paths) -> Path<u32> {
        paths.some
    }
}

#[inline(never)]
fn admit_by<P: KeyPath, C: Cost>(core: &Core, store: &Store, hash: u64, now: Now, cost: C) -> Packed {
    end(core, store, hash, now, cost, (P::take(store, hash, now, cost), None))
}

#[inline(never)]
fn admit_full(core: &Core, store: &Store, hash: u64, now: Now, cost: OnePermit) -> Packed {
    let (verdict, left) = store.try_full(hash, now);
    end(core, store, hash, now, cost, (verdict, Some(left)))
}

#[inline(never)]
fn admit_state<C: Cost>(core: &Core, store: &Store, hash: u64, now: Now, cost: C) -> Packed {
    let outcome = match store.try_any(hash, now, cost.permits()) {
        Some((Verdict::Admitted { .. }, _)) => return admitted(core),
        Some((verdict, left)) => (verdict, Some(left)),
        None => (Verdict::Undecided, None),
    };
    end(core, store, hash, now, cost, outcome)
}

#[expect(clippy::inline_always, reason = "each way out is one of its own")]
#[inline(always)]
fn end<C: Cost>(
    core: &Core,
    store: &Store,
    hash: u64,
    now: Now,
    _: C,
    (verdict, left): (Verdict, Option<Left>),
) -> Packed {
    match verdict {
        Verdict::Admitted { .. } => admitted(core),
        _ if !C::IS_ONE => nothing(),
        Verdict::Denied { until, .. } => denied(core, until, left, now),
        Verdict::Undecided => admit_slowly(core, store, Address::Hash(hash), now),
    }
}

#[cold]
#[inline(never)]
fn admit_slowly(core: &Core, store: &Store, address: Address, now: Now) -> Packed {
    settle(core, store.take_written(address, now), now, OnePermit)
}

#[inline]
fn settle<C: Cost>(core: &Core, (verdict, left): (Verdict, Option<Left>), now: Now, _: C) -> Packed {
    match verdict {
        Verdict::Admitted { .. } => admitted(core),
        _ if !C::IS_ONE => Packed::NOTHING,
        Verdict::Denied { until, .. } => denied(core, until, left, now),
        Verdict::Undecided => Packed::NOTHING,
    }
}

#[inline]
fn admitted(core: &Core) -> Packed {
    core.allowed();
    Packed::ADMITTED
}

/// `left` is what the denying limit has left; `None` if it is the only limit.
#[inline]
fn denied(core: &Core, until: u64, left: Option<Left>, now: Now) -> Packed {
    // A denial that ends within this reading of the clock does not count yet. The slow path handles
    // it; it has changed nothing.
    if until <= now.latest {
        return Packed::NOTHING;
    }
    if left.is_some() || core.dry_run() {
        return Packed::refused(refusal(until, left.unwrap_or_default(), now));
    }
    core.denied();
    Packed(Packed::DENIED, until.saturating_sub(now.earliest))
}
