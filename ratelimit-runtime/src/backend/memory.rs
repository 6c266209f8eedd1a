//! Buckets in this process's memory: bounded, sharded, correct under threads.
//!
//! Which state serves a call:
//!
//! | key | limits | state |
//! |---|---|---|
//! | none | one `token_bucket` of a simple rate | a word without a lock (`unkeyed.rs`, `state/tat.rs`) |
//! | none | one `sliding_window` up to 64 | two halves of single permits (`halves.rs`) |
//! | none | all others | [`Full`](state::Full) under one lock |
//! | some | up to three `token_bucket`s and `fixed_window`s | one or two words each (`state/words.rs`) |
//! | some | one `sliding_window` | a ring of times (`state/window.rs`) |
//! | some | all others: several with a window, `backoff`, read at each call, replaced | [`Full`](state::Full) (`state/full.rs`) |
//!
//! All are judged by one function, `Call::take`, and all calls come through `Store::take`: blocking and async, of the
//! attribute and of `RateLimiter`, by the real clock and by a test's. Its fast path is `Table::try_with` with
//! `State::take_one`, or `Unkeyed::try_take`. Calls that wait stand in a queue beside their key's state (`queue.rs`); no state
//! holds a time ahead of now.

mod halves;
mod queue;
mod slots;
mod state;
mod store;
mod table;
mod unkeyed;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use crate::clock::Now;
use table::{Bound, SWEPT};

pub(crate) use queue::{Limits, Turn};
pub(crate) use state::{Call, Left, NEVER, Permit, Verdict};
pub(crate) use store::{Ask, Joining, Kind, OnePermit, Store, Waiter, Written};
pub(crate) use unkeyed::Attempt;

/// Most buckets that a backend keeps unless it is told otherwise.
const MAX_KEYS: usize = 1_000_000;

/// Slots of another limiter that a sweep looks at.
const SWEPT_OF_OTHERS: usize = 64;

/// What happens to a call with a new key where [`max_keys`](MemoryBackend::with_max_keys) buckets are kept and none of
/// those looked at can go, because permits are booked in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenFull {
    /// It is admitted without a bucket, and counted in [`untracked`](MemoryBackend::untracked). The default: the bound
    /// protects this process's memory, and should not turn away customers who have done nothing.
    #[default]
    Admit,
    /// It is denied.
    Deny,
}

/// Buckets in this process's memory, the default backend.
///
/// Bounded: it keeps at most `max_keys` buckets of keys (by default 1,000,000). Buckets that are as if nobody had used them
/// are reclaimed inside calls, of which none looks at more than some hundred; there is no background thread and no sweep that
/// stops the world. Where all are in use, a new key takes the place of the one closest to being fresh among a few, of the
/// limiter that has the most; one whose key is being denied goes only if all that were looked at are, one with permits booked
/// ahead never ([`WhenFull`]).
///
/// Keys are not stored. A bucket is found by a 64-bit fingerprint of its key, made with a hash whose seed is random in each
/// process. Two of n live keys share a bucket with a probability of about n² / 2⁶⁴: for a million keys that is one in 18
/// million for any two of them.
///
/// A cheap handle; clones share the buckets.
#[derive(Clone)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
    /// Stores of limiters with a name, as long as they have buckets: a limiter that is made anew for each call finds them
    /// again. Not among what stores hold on to, else a backend that is gone would hold itself.
    kept: Arc<Mutex<HashMap<String, Arc<Store>>>>,
}

struct Shared {
    bound: Bound,
    stores: Mutex<Stores>,
    /// The store that has the most buckets, as it was counted last.
    largest: Mutex<Weak<Store>>,
    evictions: AtomicU32,
    /// Where the next sweep goes.
    turns: AtomicUsize,
}

/// Evictions after which stores are counted anew.
const RECOUNT: u32 = 64;

impl Shared {
    /// Looks for buckets to reclaim in a few slots of the next store in turn, which may be one that is not called any more;
    /// whether there were any.
    fn sweep(&self, now: Now, slots: usize) -> bool {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let stores = self.stores.lock();
        let store = stores.all.get(turn % stores.all.len().max(1)).and_then(Weak::upgrade);
        let rounds = turn / stores.all.len().max(1);
        // Not under the lock: a store whose last handle is dropped meanwhile may take it too.
        drop(stores);
        store.is_some_and(|store| store.sweep(rounds, now, slots))
    }

    /// Evicts a bucket to make room for one of `store`: of the store that has the most, so that a flood of one limiter's keys
    /// does not take the room of another's; of any store rather than one that is being denied.
    fn evict(&self, store: &Store, hash: u64, now: Now) -> bool {
        if self.evictions.fetch_add(1, Ordering::Relaxed).is_multiple_of(RECOUNT) {
            let largest = self.all().max_by_key(|store| store.keys());
            *self.largest.lock() = largest.map_or_else(Weak::new, |store| Arc::downgrade(&store));
        }
        if self.sweep(now, SWEPT) {
            return true;
        }
        let largest = self.largest.lock().clone().upgrade();
        let is_largest = |store: &Store| largest.as_deref().is_some_and(|largest| std::ptr::eq(largest, store));
        let is_other = |other: &Arc<Store>| !is_largest(other) && !std::ptr::eq(Arc::as_ptr(other), store);
        [false, true].into_iter().any(|denying| {
            let evict = |from: &Store| from.evict(hash, now, denying);
            largest.as_deref().is_some_and(evict)
                || !is_largest(store) && evict(store)
                || self.all().any(|other| is_other(&other) && evict(&other))
        })
    }

    /// All stores, not under the lock.
    fn all(&self) -> impl Iterator<Item = Arc<Store>> + use<> {
        let stores = self.stores.lock().all.clone();
        stores.into_iter().filter_map(|store| store.upgrade())
    }
}

#[derive(Default)]
struct Stores {
    all: Vec<Weak<Store>>,
    /// Stores of limiters with a name that was given to them.
    named: HashMap<String, Weak<Store>>,
}

impl MemoryBackend {
    /// At most 1,000,000 buckets.
    pub fn new() -> MemoryBackend {
        MemoryBackend::with_max_keys(MAX_KEYS)
    }

    /// At most `max_keys` buckets; 0 counts as 1.
    pub fn with_max_keys(max_keys: usize) -> MemoryBackend {
        MemoryBackend::with_max_keys_or(max_keys, WhenFull::default())
    }

    /// At most `max_keys` buckets, and what happens to a new key where none of them can go.
    pub fn with_max_keys_or(max_keys: usize, when_full: WhenFull) -> MemoryBackend {
        let shared = Shared {
            bound: Bound::new(max_keys, when_full),
            stores: Mutex::default(),
            largest: Mutex::default(),
            evictions: AtomicU32::new(0),
            turns: AtomicUsize::new(0),
        };
        MemoryBackend { shared: Arc::new(shared), kept: Arc::default() }
    }

    /// The most buckets that are kept.
    pub fn max_keys(&self) -> usize {
        self.shared.bound.max_keys
    }

    /// Buckets that are kept now, those included that nobody uses any more and that no call has reclaimed yet.
    pub fn tracked_keys(&self) -> usize {
        self.shared.bound.len()
    }

    /// Buckets in use that were given up for new keys since the backend was made.
    pub fn evicted(&self) -> u64 {
        self.shared.bound.evicted.load(Ordering::Relaxed)
    }

    /// Calls that were decided by [`WhenFull`], without a bucket, since the backend was made.
    pub fn untracked(&self) -> u64 {
        self.shared.bound.untracked.load(Ordering::Relaxed)
    }

    /// The store of a limiter: with others of the same `identity`, if it is given, else its own.
    pub(crate) fn store(&self, identity: Option<String>, written: &Written) -> Arc<Store> {
        let mut stores = self.shared.stores.lock();
        if let Some(store) = identity.as_ref().and_then(|identity| stores.named.get(identity)).and_then(Weak::upgrade) {
            return store;
        }
        if stores.all.len() == stores.all.capacity() {
            stores.all.retain(|store| store.strong_count() > 0);
            stores.named.retain(|_, store| store.strong_count() > 0);
        }
        let store = Arc::new(Store::new(Arc::clone(&self.shared), identity.clone(), written.clone()));
        stores.all.push(Arc::downgrade(&store));
        if let Some(identity) = identity {
            stores.named.insert(identity.clone(), Arc::downgrade(&store));
            drop(stores);
            self.kept.lock().insert(identity, Arc::clone(&store));
        }
        store
    }
}

#[cfg(feature = "test-util")]
impl MemoryBackend {
    /// Forgets all buckets.
    pub(crate) fn clear(&self) {
        self.shared.all().for_each(|store| store.clear());
    }
}

impl Default for MemoryBackend {
    fn default() -> MemoryBackend {
        MemoryBackend::new()
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend")
            .field("max_keys", &self.max_keys())
            .field("tracked_keys", &self.tracked_keys())
            .finish()
    }
}

/// The memory of limiters that name no other backend.
pub(crate) fn process_memory() -> &'static MemoryBackend {
    static MEMORY: LazyLock<MemoryBackend> = LazyLock::new(MemoryBackend::new);
    &MEMORY
}

#[cfg(test)]
mod tests;
