//! The short way, which most calls take: buckets in memory, small states, nothing that is switched, and nobody who asks for
//! more than whether a call is admitted.
//!
//! It is short to the compiler too. The call is not passed as a whole, and the error is made where it is returned; keys of the
//! usual types come in registers; each function ends in a call of the next, which is a jump then, and so keeps nothing for
//! afterwards. Between two locked instructions the processor waits for what the second one needs: that is the key's hash.

use super::core::Core;
use crate::backend::memory::{Glance, Store, Verdict, Why};
use crate::counts;
use crate::decision::Address;
use crate::key::RateLimitKey;
use crate::key::sealed::{Asker, Kind, Sink as _};
use crate::switches::Switches;

/// As [`admit`], one permit.
#[expect(clippy::inline_always, reason = "the key is to be taken apart into registers")]
#[inline(always)]
pub(super) fn admit_one<K: RateLimitKey>(core: &Core, key: &K) -> Verdict {
    key.ask(One(core))
}

struct One<'a>(&'a Core);

impl Asker for One<'_> {
    type Answer = Verdict;

    #[inline]
    fn text(self, key: &str) -> Verdict {
        admit_text(self.0, key)
    }

    #[inline]
    fn number(self, kind: Kind, key: u64) -> Verdict {
        admit_number(self.0, kind, key)
    }

    #[inline]
    fn any<K: RateLimitKey + ?Sized>(self, key: &K) -> Verdict {
        if K::KEYED { admit_any(self.0, key) } else { admit_unkeyed(self.0) }
    }
}

#[inline(never)]
fn admit_text(core: &Core, key: &str) -> Verdict {
    let Some(store) = short(core) else { return unknown() };
    admit_key(core, store, store.hash(|sink| sink.text(key)))
}

#[inline(never)]
fn admit_number(core: &Core, kind: Kind, key: u64) -> Verdict {
    let Some(store) = short(core) else { return unknown() };
    admit_key(core, store, store.hash(|sink| sink.number(kind, key.into())))
}

#[inline(never)]
fn admit_any<K: RateLimitKey + ?Sized>(core: &Core, key: &K) -> Verdict {
    let Some(store) = short(core) else { return unknown() };
    admit_key(core, store, store.hash(|sink| key.write_to(sink)))
}

/// All in one function: where threads share a token bucket, a shorter way has each of them ask for its cache line sooner, and
/// get it for fewer calls at a time.
#[inline(never)]
fn admit_unkeyed(core: &Core) -> Verdict {
    let Some(store) = short(core) else { return unknown() };
    // Looked up first, because the processor does not work ahead of its counter's reading.
    let thread = counts::thread();
    let now = store.now();
    match store.glance(thread, now) {
        Glance::Admitted => settle(core, Verdict::Admitted, now, 1),
        Glance::Denied(until) => settle(core, Verdict::Denied(until), now, 1),
        Glance::Added(before) => admit_added(core, store, now, before),
        Glance::Unclear => admit_unclear(core, store, thread, now),
    }
}

#[cold]
#[inline(never)]
fn admit_added(core: &Core, store: &Store, now: u64, before: u64) -> Verdict {
    settle(core, store.added(now, before), now, 1)
}

#[inline(never)]
fn admit_unclear(core: &Core, store: &Store, thread: usize, now: u64) -> Verdict {
    settle(core, store.admit(Address::Unkeyed, thread, now, 1), now, 1)
}

/// [`Verdict::Unknown`], of a call whose result the compiler does not know: so the functions above end in nothing but calls,
/// which are jumps then, and the way of most calls is a nanosecond shorter.
#[cold]
#[inline(never)]
fn unknown() -> Verdict {
    std::hint::black_box(Verdict::Unknown)
}

/// Takes `cost` permits where that is short. A denial says how long it lasts, in nanoseconds from now.
#[inline(never)]
pub(super) fn admit<K: RateLimitKey + ?Sized>(core: &Core, key: &K, cost: u32) -> Verdict {
    admit_by(core, key, cost, Store::now)
}

/// As [`admit`], by the clock of the runtime around.
#[inline(never)]
pub(super) fn admit_in_future<K: RateLimitKey + ?Sized>(core: &Core, key: &K, cost: u32) -> Verdict {
    #[cfg(feature = "tokio")]
    let clock = |_: &Store| crate::clock::now_in_runtime();
    #[cfg(not(feature = "tokio"))]
    let clock = Store::now;
    admit_by(core, key, cost, clock)
}

#[inline]
fn admit_by<K: RateLimitKey + ?Sized>(core: &Core, key: &K, cost: u32, clock: impl FnOnce(&Store) -> u64) -> Verdict {
    let Some(store) = short(core) else { return Verdict::Unknown };
    let (address, thread) = (store.address(key), counts::thread());
    let now = clock(store);
    match address {
        Address::Hash(hash) if cost == 1 => admit_key_at(core, store, hash, now),
        address => settle(core, store.admit(address, thread, now, cost), now, cost),
    }
}

#[inline]
fn short(core: &Core) -> Option<&Store> {
    if Switches::load().are_off() { core.short().map(|store| &**store) } else { None }
}

/// [`admit`] of one permit for a key.
///
/// Reads the clock after the key has been hashed: the processor works on that while it reads the counter, which takes it as
/// long. What comes after that is in functions that call others at their end only, and so need no place for what would have
/// to outlive a call.
#[expect(clippy::inline_always, reason = "a jump to one of two functions")]
#[inline(always)]
fn admit_key(core: &Core, store: &Store, hash: u64) -> Verdict {
    admit_key_at(core, store, hash, store.now())
}

#[expect(clippy::inline_always, reason = "see `admit_key`")]
#[inline(always)]
fn admit_key_at(core: &Core, store: &Store, hash: u64, now: u64) -> Verdict {
    if store.keeps_tokens() { admit_token(core, store, hash, now) } else { admit_window(core, store, hash, now) }
}

#[inline(never)]
fn admit_token(core: &Core, store: &Store, hash: u64, now: u64) -> Verdict {
    end(core, store, hash, now, store.admit_token(hash, now))
}

#[inline(never)]
fn admit_window(core: &Core, store: &Store, hash: u64, now: u64) -> Verdict {
    end(core, store, hash, now, store.admit_window(hash, now))
}

#[expect(clippy::inline_always, clippy::needless_pass_by_value, reason = "each way out is one of its own")]
#[inline(always)]
fn end(core: &Core, store: &Store, hash: u64, now: u64, decided: Result<Verdict, Why>) -> Verdict {
    match decided {
        Ok(Verdict::Unknown) | Err(Why::Other) => admit_elsewhere(core, store, hash, now),
        Err(Why::Sweep) => admit_and_sweep(core, store, hash, now),
        Ok(Verdict::Denied(until)) => deny(core, store, until, now),
        Ok(Verdict::Admitted) => settle(core, Verdict::Admitted, now, 1),
    }
}

/// A denial, until a time as the state says it.
#[inline(never)]
fn deny(core: &Core, store: &Store, until: u64, now: u64) -> Verdict {
    settle(core, Verdict::Denied(store.time(until, now)), now, 1)
}

#[cold]
#[inline(never)]
fn admit_elsewhere(core: &Core, store: &Store, hash: u64, now: u64) -> Verdict {
    settle(core, store.admit_some(hash, now, 1, false), now, 1)
}

#[cold]
#[inline(never)]
fn admit_and_sweep(core: &Core, store: &Store, hash: u64, now: u64) -> Verdict {
    settle(core, store.admit_some(hash, now, 1, true), now, 1)
}

/// Counts what has been decided.
#[inline]
fn settle(core: &Core, verdict: Verdict, now: u64, cost: u32) -> Verdict {
    match verdict {
        Verdict::Admitted => {
            core.allowed();
            Verdict::Admitted
        }
        Verdict::Denied(until) if cost == 1 && !core.options.dry_run => {
            core.denied();
            Verdict::Denied(until.saturating_sub(now))
        }
        Verdict::Denied(_) | Verdict::Unknown => Verdict::Unknown,
    }
}
