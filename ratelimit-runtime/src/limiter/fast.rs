//! The fast path: buckets in memory, no process-wide switch on, one limit as it was written down, one permit, and a caller
//! who only wants to know whether it is admitted.
//!
//! It is short for the compiler too. The call is not passed as a whole, and the error is made where it is returned. Keys of
//! the usual types come in registers. Each function ends in a call of the next, which is a jump, and keeps nothing for
//! afterwards. Between two locked instructions the processor waits for what the second one needs: the key's hash.

use super::core::Core;
use crate::backend::memory::{Attempt, Kind as State, OnePermit, Store, Verdict};
use crate::clock::Now;
use crate::counts;
use crate::decision::Address;
use crate::key::RateLimitKey;
use crate::key::sealed::{Asker, Kind, Sink as _};
use crate::switches::Switches;

/// What the fast path has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Admitted,
    /// By the one limit, of which nothing is left, for so many nanoseconds from now.
    Denied {
        retry_after: u64,
    },
    /// It takes the slow path. Nothing was taken or counted.
    Nothing,
}

/// Takes one permit.
#[expect(clippy::inline_always, reason = "the key is to be taken apart into registers")]
#[inline(always)]
pub(super) fn admit<K: RateLimitKey>(core: &Core, key: &K) -> Found {
    key.ask(One(core))
}

struct One<'a>(&'a Core);

impl Asker for One<'_> {
    type Answer = Found;

    #[inline]
    fn text(self, key: &str) -> Found {
        admit_text(self.0, key)
    }

    #[inline]
    fn number(self, kind: Kind, key: u64) -> Found {
        admit_number(self.0, kind, key)
    }

    #[inline]
    fn any<K: RateLimitKey + ?Sized>(self, key: &K) -> Found {
        if K::KEYED { admit_any(self.0, key) } else { admit_unkeyed(self.0) }
    }
}

#[inline(never)]
fn admit_text(core: &Core, key: &str) -> Found {
    let Some(store) = store(core) else { return nothing() };
    admit_key(core, store, store.hash(|sink| sink.text(key)))
}

#[inline(never)]
fn admit_number(core: &Core, kind: Kind, key: u64) -> Found {
    let Some(store) = store(core) else { return nothing() };
    admit_key(core, store, store.hash(|sink| sink.number(kind, key.into())))
}

#[inline(never)]
fn admit_any<K: RateLimitKey + ?Sized>(core: &Core, key: &K) -> Found {
    let Some(store) = store(core) else { return nothing() };
    admit_key(core, store, store.hash(|sink| key.write_to(sink)))
}

/// All in one function: if threads share a token bucket, a shorter path has each of them ask for its cache line sooner, and
/// get it for fewer calls at a time.
#[inline(never)]
fn admit_unkeyed(core: &Core) -> Found {
    let Some(store) = store(core) else { return nothing() };
    // Looked up first, because the processor does not work ahead of its counter's reading.
    let thread = counts::thread();
    let now = store.now();
    admit_unkeyed_at(core, store, thread, now)
}

#[expect(clippy::inline_always, reason = "see `admit_unkeyed`")]
#[inline(always)]
fn admit_unkeyed_at(core: &Core, store: &Store, thread: usize, now: Now) -> Found {
    match store.try_take_unkeyed(thread, now) {
        Attempt::Admitted => admitted(core),
        Attempt::Denied(until) => denied(core, until, now),
        Attempt::Added(before) => admit_added(core, store, now, before),
        Attempt::Contended => admit_contended(core, store, now),
    }
}

#[inline(never)]
fn admit_contended(core: &Core, store: &Store, now: Now) -> Found {
    settle(core, store.take_written(Address::Unkeyed, now), now)
}

#[cold]
#[inline(never)]
fn admit_added(core: &Core, store: &Store, now: Now, before: u64) -> Found {
    settle(core, store.added(now, before), now)
}

/// [`Found::Nothing`], opaque to the optimizer, so that every exit of the callers is a tail call. Saves 1 ns.
#[cold]
#[inline(never)]
fn nothing() -> Found {
    std::hint::black_box(Found::Nothing)
}

/// As [`admit`], by the clock of the runtime around.
#[inline(never)]
pub(super) fn admit_in_future<K: RateLimitKey + ?Sized>(core: &Core, key: &K) -> Found {
    let Some(store) = store(core) else { return Found::Nothing };
    let (address, thread) = (store.address(key), counts::thread());
    #[cfg(feature = "tokio")]
    let now = store.now_in_runtime();
    #[cfg(not(feature = "tokio"))]
    let now = store.now();
    match address {
        Address::Unkeyed => admit_unkeyed_at(core, store, thread, now),
        Address::Hash(hash) => admit_key_at(core, store, hash, now),
    }
}

/// Permits that were taken on the fast path.
pub(super) struct Taken<'a> {
    pub(super) store: &'a Store,
    pub(super) address: Address,
    /// How often the bucket had been reset before.
    pub(super) resets: u32,
    /// The time that they are recorded with.
    pub(super) at: u64,
}

/// Takes any number of permits, and counts the call, if they fit; else nothing has happened.
#[inline]
pub(super) fn take<'a, K: RateLimitKey + ?Sized>(
    core: &'a Core,
    key: &K,
    cost: u32,
    is_async: bool,
) -> Option<Taken<'a>> {
    let store = store(core).filter(|store| store.admits(cost))?;
    let address = store.address(key);
    let resets = store.resets(address);
    #[cfg(feature = "tokio")]
    let now = if is_async { store.now_in_runtime() } else { store.now() };
    #[cfg(not(feature = "tokio"))]
    let (_, now) = (is_async, store.now());
    let at = store.try_take(address, now, cost)?;
    core.allowed();
    Some(Taken { store, address, resets, at })
}

#[inline]
fn store(core: &Core) -> Option<&Store> {
    if Switches::load().are_off() { core.fast().map(|store| &**store) } else { None }
}

/// Reads the clock after the key has been hashed: the processor works on that while it reads the counter, which takes it as
/// long.
#[expect(clippy::inline_always, reason = "a jump")]
#[inline(always)]
fn admit_key(core: &Core, store: &Store, hash: u64) -> Found {
    admit_key_at(core, store, hash, store.now())
}

#[expect(clippy::inline_always, reason = "a jump to one of five functions")]
#[inline(always)]
fn admit_key_at(core: &Core, store: &Store, hash: u64, now: Now) -> Found {
    match store.kind() {
        State::Tat => admit_tat(core, store, hash, now),
        State::Bucket => admit_bucket(core, store, hash, now),
        State::Window => admit_window(core, store, hash, now),
        State::Fixed { .. } => admit_fixed(core, store, hash, now),
        State::Any => admit_state(core, store, hash, now),
    }
}

#[inline(never)]
fn admit_tat(core: &Core, store: &Store, hash: u64, now: Now) -> Found {
    end(core, store, hash, now, store.try_tat(hash, now, OnePermit))
}

#[inline(never)]
fn admit_bucket(core: &Core, store: &Store, hash: u64, now: Now) -> Found {
    end(core, store, hash, now, store.try_bucket(hash, now, OnePermit))
}

#[inline(never)]
fn admit_window(core: &Core, store: &Store, hash: u64, now: Now) -> Found {
    end(core, store, hash, now, store.try_window(hash, now, OnePermit))
}

#[inline(never)]
fn admit_fixed(core: &Core, store: &Store, hash: u64, now: Now) -> Found {
    end(core, store, hash, now, store.try_fixed(hash, now, OnePermit))
}

#[inline(never)]
fn admit_state(core: &Core, store: &Store, hash: u64, now: Now) -> Found {
    end(core, store, hash, now, store.try_any(hash, now))
}

#[expect(clippy::inline_always, reason = "each way out is one of its own")]
#[inline(always)]
fn end(core: &Core, store: &Store, hash: u64, now: Now, verdict: Verdict) -> Found {
    match verdict {
        Verdict::Admitted { .. } => admitted(core),
        Verdict::Denied { until, .. } => denied(core, until, now),
        Verdict::Undecided => admit_slowly(core, store, Address::Hash(hash), now),
    }
}

#[cold]
#[inline(never)]
fn admit_slowly(core: &Core, store: &Store, address: Address, now: Now) -> Found {
    settle(core, store.take_written(address, now), now)
}

#[inline]
fn settle(core: &Core, verdict: Verdict, now: Now) -> Found {
    match verdict {
        Verdict::Admitted { .. } => admitted(core),
        Verdict::Denied { until, .. } => denied(core, until, now),
        Verdict::Undecided => Found::Nothing,
    }
}

#[inline]
fn admitted(core: &Core) -> Found {
    core.allowed();
    Found::Admitted
}

#[inline]
fn denied(core: &Core, until: u64, now: Now) -> Found {
    // In a dry run the call runs, and a denial that ends within this reading of the clock is none yet: the slow path says so.
    // A denial has changed nothing.
    if core.options.dry_run || until <= now.latest {
        return Found::Nothing;
    }
    core.denied();
    Found::Denied { retry_after: until.saturating_sub(now.earliest) }
}
