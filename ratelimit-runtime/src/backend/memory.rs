//! Buckets in this process's memory: bounded, sharded and thread-safe.
//!
//! Which state serves a call:
//!
//! | key | limits | state |
//! |---|---|---|
//! | none | one `token_bucket`, simple rate | a lock-free word (`unkeyed.rs`, `state/tat.rs`) |
//! | none | one `sliding_window` up to 64 | two stripes of single permits (`stripes.rs`) |
//! | none | one larger `sliding_window` | the state of a key, beside its lock (`One` in `unkeyed.rs`) |
//! | none | other `token_bucket`s, `fixed_window`s, up to three | the same |
//! | none | all others: several with a window, `backoff` | [`Full`](state::Full) under one lock |
//! | some | up to three `token_bucket`s, `fixed_window`s | one to three words (`state/words.rs`) |
//! | some | one `sliding_window`, also if read at each call | a ring of times (`state/window.rs`) |
//! | some | all others: several with a window, `backoff` | [`Full`](state::Full), `state/full.rs` |
//!
//! The keyed words serve limits that together fit three words. `Full` serves other keyed limits
//! that are read at each call, replaced limits (except a window that replaces a window), and
//! unkeyed limits while calls wait.
//!
//! `Call::take` defines the decision for all states. All calls go through [`Store`]: blocking and
//! async, of the attribute and of `RateLimiter`, by the real clock and by a test's clock. The fast
//! path is `Table::try_reach` with `State::take_all`, or `Form::try_take`. Waiting calls queue
//! beside their key's state (`queue.rs`). No state holds a time ahead of now.

mod fingerprint;
mod holds;
mod orphans;
mod queue;
mod retired;
mod slots;
mod snapshot;
mod state;
mod store;
mod stripes;
mod table;
mod together;
mod unkeyed;

use std::collections::HashMap;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};

use parking_lot::Mutex;

use crate::hash::Weights;
use crate::rt::clock::Now;
use orphans::{LeftBehind, Lent};
use table::{Bound, SWEPT};

pub(crate) use holds::Hold;
pub(crate) use orphans::{Leaves, release};
pub(crate) use queue::{Joining, Turn};
pub use snapshot::{Kept, Restored, Snapshot, SnapshotError};
pub(crate) use state::{Attempt, Call, Left, NEVER, Permit, Verdict};
pub(crate) use store::{
    Ask, BucketPath, Cost, FixedPath, KeyPath, Kind, OnePermit, States, Store, TatPath, Tried, Waiter, WindowPath,
    Written, on_path, open_thorough,
};
pub(crate) use together::{
    Bucket, Judged, Verdicts, Written as WrittenBucket, peek as peek_together, take as take_together,
    try_take as try_take_together,
};
pub(crate) use unkeyed::{Form, FormKind, GeneralForm, PermitsForm, TokenForm, WindowForm, WordsForm};

/// The default of `max_keys`.
const MAX_KEYS: usize = 1_000_000;

/// Slots of another limiter that one sweep examines.
const SWEPT_OF_OTHERS: usize = 64;

/// What happens to a call with a new key if the backend is full and no bucket can be evicted.
///
/// The backend is full if it keeps [`max_keys`](MemoryBackend::with_max_keys) buckets. No bucket
/// can be evicted if calls wait for the keys of all examined buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenFull {
    /// Admits the call without a bucket, and counts it in [`untracked`](MemoryBackend::untracked).
    /// The default: the bound protects this process's memory, and should not turn away customers
    /// who have done nothing wrong.
    #[default]
    Admit,
    /// Denies the call.
    Deny,
}

/// Buckets in this process's memory, the default backend.
///
/// It keeps at most `max_keys` buckets of keys (by default 1,000,000). Calls reclaim idle buckets,
/// and no call examines more than a few hundred. There is no background thread and no
/// stop-the-world sweep.
///
/// If all buckets are in use, a new key evicts one of a few sampled buckets of the limiter that has
/// the most. A key that is called seldom goes first, then the one closest to idle. A key that is
/// being denied is evicted only if all sampled keys are. A key with waiting calls is never evicted
/// ([`WhenFull`]).
///
/// [Blocks](crate::RateLimiter::block) and debts are stored beside the buckets: no flood of new
/// keys ends one. Each limiter keeps at most `max_keys` of them; beyond that, the one that ends
/// first goes. Dropped named limiters keep at most `max_keys` in all; beyond that, those of the
/// limiter whose last one ends first go.
///
/// The buckets of a named limiter outlive it. A later limiter of the same name and the same limits
/// continues with them.
///
/// Keys are not stored. A bucket is found by a 64-bit fingerprint of its key, and keys with the
/// same fingerprint share a bucket. The fingerprint is a universal hash with random weights, drawn
/// when the process starts or taken from a snapshot. Any two keys chosen without knowledge of the
/// weights share a fingerprint with a probability below 2⁻⁵⁶, for keys of up to 32 KiB. For text,
/// bytes or numbers of up to 32 bytes it is below 2⁻⁵⁹. Among n live keys that were not chosen to
/// collide, some two share a bucket with a probability of about n² / 2⁶⁴. For a million keys, that
/// is one in 18 million.
///
/// Buckets end with the process, unless they are kept in a file ([`keep`](MemoryBackend::keep)).
///
/// A cheap handle; clones share the buckets.
#[derive(Clone)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
}

struct Shared {
    bound: Bound,
    stores: Mutex<Stores>,
    /// The store with the most buckets, by the last count.
    largest: Mutex<Weak<Store>>,
    evictions: AtomicU32,
    /// Sweeps so far. Selects the store of the next one.
    turns: AtomicUsize,
    /// The hash weights of a restored snapshot.
    weights: OnceLock<&'static Weights>,
    /// Held while a limiter takes over buckets of a snapshot.
    reviving: Mutex<()>,
    /// Held while a snapshot is made.
    copying: Mutex<()>,
}

/// Evictions between two counts of the stores.
const RECOUNT: u32 = 64;

impl Shared {
    /// The weights of the hash of keys.
    fn weights(&self) -> &'static Weights {
        self.weights.get().copied().unwrap_or_else(Weights::of_process)
    }

    /// A new store. Its memory is allocated first: no code here drops a store.
    fn make(self: &Arc<Shared>, name: Option<String>, written: &Written) -> Arc<Store> {
        Arc::new_cyclic(|_| Store::new(Arc::clone(self), name, written.clone()))
    }

    /// Sweeps a few slots of the next store in turn, which may no longer be called. Returns whether
    /// it reclaimed any bucket.
    fn sweep(&self, now: Now, slots: usize) -> bool {
        if let Some(orphans) = &mut self.stores.lock().orphans {
            orphans.forget_idle(&self.bound, now);
        }
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let stores = self.stores.lock();
        let store = stores.all.get(turn % stores.all.len().max(1)).and_then(Lent::of);
        let rounds = turn / stores.all.len().max(1);
        // Outside the lock: a store whose last handle is dropped meanwhile may take it too.
        drop(stores);
        store.is_some_and(|store| store.sweep(rounds, now, slots))
    }

    /// Evicts a bucket to make room in `store`, from the store with the most buckets: a flood of
    /// one limiter's keys does not take the room of another's. A bucket of any store goes before
    /// one that is being denied.
    fn evict(&self, store: &Store, hash: u64, now: Now) -> bool {
        if self.evictions.fetch_add(1, Ordering::Relaxed).is_multiple_of(RECOUNT) {
            let largest = self.all().max_by_key(|store| store.keys());
            *self.largest.lock() = largest.map_or_else(Weak::new, |store| Arc::downgrade(store.get()));
        }
        if self.sweep(now, SWEPT) {
            return true;
        }
        let largest = self.largest.lock().clone();
        let largest = Lent::of(&largest);
        let is_largest = |store: &Store| largest.as_deref().is_some_and(|largest| std::ptr::eq(largest, store));
        let is_other = |other: &Store| !is_largest(other) && !std::ptr::eq(other, store);
        let evict = |denying: bool| {
            let evict = |from: &Store| from.evict(hash, now, denying);
            largest.as_deref().is_some_and(evict)
                || !is_largest(store) && evict(store)
                || self.all().any(|other| is_other(&other) && evict(&other))
        };
        let evict_orphan =
            || self.stores.lock().orphans.as_mut().is_some_and(|orphans| orphans.evict(&self.bound, now));
        evict(false) || evict_orphan() || evict(true)
    }

    /// All stores. The iterator does not hold the lock.
    fn all(&self) -> impl Iterator<Item = Lent> + use<> {
        let stores = self.stores.lock().all.clone();
        stores.into_iter().filter_map(|store| Shared::lend(&store))
    }

    /// A store for a moment, if it still exists.
    fn lend(store: &Weak<Store>) -> Option<Lent> {
        Lent::of(store)
    }
}

#[derive(Default)]
struct Stores {
    all: Vec<Weak<Store>>,
    /// Stores of limiters with an explicit name, once there are any.
    named: Option<HashMap<String, Weak<Store>>>,
    /// Dropped stores among `all`.
    gone: usize,
    /// Buckets without a limiter, once there are any. Behind a pointer, because few programs contain
    /// what belongs to them.
    orphans: Option<Box<dyn LeftBehind>>,
}

impl Stores {
    fn named(&mut self) -> &mut HashMap<String, Weak<Store>> {
        self.named.get_or_insert_default()
    }

    /// Counts a dropped store. Once half of `all` are dropped, removes their entries.
    fn count_gone(&mut self) {
        self.gone += 1;
        if self.gone * 2 >= self.all.len() {
            self.all.retain(|store| store.strong_count() > 0);
            self.named.iter_mut().for_each(|named| named.retain(|_, store| store.strong_count() > 0));
            self.gone = 0;
        }
    }
}

impl MemoryBackend {
    /// A backend of at most 1,000,000 buckets.
    pub fn new() -> MemoryBackend {
        MemoryBackend::with_max_keys(MAX_KEYS)
    }

    /// A backend of at most `max_keys` buckets; 0 counts as 1.
    pub fn with_max_keys(max_keys: usize) -> MemoryBackend {
        MemoryBackend::bounded(max_keys, WhenFull::default())
    }

    /// Sets what happens to a new key if the backend is full and no bucket can be evicted. Call it
    /// before the first use: the backend that it returns has no buckets.
    ///
    /// ```
    /// use ratelimit_runtime::{MemoryBackend, WhenFull};
    ///
    /// let memory = MemoryBackend::with_max_keys(10_000).when_full(WhenFull::Deny);
    /// ```
    #[must_use]
    pub fn when_full(self, when_full: WhenFull) -> MemoryBackend {
        MemoryBackend::bounded(self.max_keys(), when_full)
    }

    fn bounded(max_keys: usize, when_full: WhenFull) -> MemoryBackend {
        let shared = |_: &Weak<Shared>| Shared {
            bound: Bound::new(max_keys, when_full),
            stores: Mutex::default(),
            largest: Mutex::default(),
            evictions: AtomicU32::new(0),
            turns: AtomicUsize::new(0),
            weights: OnceLock::new(),
            reviving: Mutex::default(),
            copying: Mutex::default(),
        };
        // Allocated first, as in `Shared::make`.
        MemoryBackend { shared: Arc::new_cyclic(shared) }
    }

    /// The most buckets that the backend keeps.
    pub fn max_keys(&self) -> usize {
        self.shared.bound.max_keys
    }

    /// The number of buckets now, including idle ones that no call has reclaimed yet.
    pub fn tracked_keys(&self) -> usize {
        self.shared.bound.len()
    }

    /// Buckets in use that were evicted for new keys since the backend was made.
    pub fn evicted(&self) -> u64 {
        self.shared.bound.evicted.load(Ordering::Relaxed)
    }

    /// Calls that [`WhenFull`] decided, without a bucket, since the backend was made.
    pub fn untracked(&self) -> u64 {
        self.shared.bound.untracked.load(Ordering::Relaxed)
    }

    /// The store of a limiter. Limiters of the same `identity` share a store; without an
    /// `identity`, the limiter gets its own. Pass it to [`release`] in the end.
    pub(crate) fn store(&self, identity: Option<String>, written: &Written) -> Arc<Store> {
        let Some(identity) = identity else { return self.store_of_one(written) };
        let mut stores = self.shared.stores.lock();
        if let Some(store) = stores.named().get(&identity).and_then(Weak::upgrade) {
            return store;
        }
        if let Some(take_over) = stores.orphans.as_ref().map(|orphans| orphans.take_over()) {
            match take_over(self, stores, &identity, written) {
                Ok(store) => return store,
                Err(unchanged) => stores = unchanged,
            }
        }
        let store = self.shared.make(Some(identity.clone()), written);
        stores.add(&store, &identity);
        store
    }

    /// The store of a limiter that shares it with no other.
    pub(crate) fn store_of_one(&self, written: &Written) -> Arc<Store> {
        // A program whose limiters are never dropped contains no code that drops a store.
        let store = ManuallyDrop::new(self.shared.make(None, written));
        self.shared.stores.lock().all.push(Arc::downgrade(&store));
        ManuallyDrop::into_inner(store)
    }
}

#[cfg(feature = "test-util")]
impl MemoryBackend {
    /// Forgets all buckets.
    pub(crate) fn clear(&self) {
        let mut stores = self.shared.stores.lock();
        let orphans = stores.orphans();
        while orphans.forget_held() || orphans.forget_first(&self.shared.bound).is_some() {}
        drop(stores);
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

impl MemoryBackend {
    /// The backend of limiters that name no other or `backend = memory`, and of
    /// `on_backend_error = local`. It holds 1,000,000 keys.
    ///
    /// ```
    /// use ratelimit_runtime::{MemoryBackend, rate_limit};
    ///
    /// #[rate_limit(count = 10, per = "1h", key = user, name = "export")]
    /// fn export(user: &str) -> Option<()> { Some(()) }
    ///
    /// export("ann");
    /// assert_eq!(MemoryBackend::of_process().tracked_keys(), 1);
    /// ```
    pub fn of_process() -> MemoryBackend {
        process_memory().clone()
    }
}

/// The backend of limiters that name no other.
pub(crate) fn process_memory() -> &'static MemoryBackend {
    static MEMORY: LazyLock<MemoryBackend> = LazyLock::new(MemoryBackend::new);
    &MEMORY
}

#[cfg(test)]
mod tests;
