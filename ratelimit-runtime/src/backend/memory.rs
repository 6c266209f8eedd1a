//! Buckets in this process's memory: bounded, sharded, correct under threads.

mod compact;
mod halves;
mod ring;
mod slots;
mod table;
mod unkeyed;
mod window;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::algorithm::record::{Admission, Ask, Permit, Record, Refusal};
use crate::clock::{self, Clock};
use crate::counts;
use crate::decision::Address;
use crate::hash::{HashSink, Seed};
use crate::key::RateLimitKey;
use crate::limit::Algorithm;
use compact::{Compact, Nothing, Tat};
use table::{Bound, Full, Looked, Moved, SWEPT, Table};
use unkeyed::Unkeyed;
use window::Window;

pub(crate) use compact::{Left, Verdict};
pub(crate) use table::Why;
pub(crate) use unkeyed::Glance;

/// Most buckets that a backend keeps unless it is told otherwise.
const MAX_KEYS: usize = 1_000_000;

/// How often a call makes room before it goes without.
const TRIES: u32 = 10;

/// One in so many of the calls that look for buckets which nobody uses any more looks among other limiters' too, where it
/// brings a new key and where it was its turn, and at how many slots.
const NEW_KEYS_SWEEP_OTHERS: u64 = 32;
const TURNS_SWEEP_OTHERS: u64 = 8;
const SWEPT_OF_OTHERS: usize = 64;

/// When the new key of a call that finds the backend full could be told to come back, in nanoseconds.
const RETRY_WHEN_FULL: u64 = 1_000_000_000;

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
/// Keys are not stored. A bucket is found by a 64-bit fingerprint of its key, and two keys of one fingerprint share a bucket.
/// The fingerprint is a universal hash, with random numbers that the process draws when it starts: two keys chosen by somebody
/// who does not know these numbers share a fingerprint with a probability below 2⁻⁵⁶ (keys of up to 32 KiB), and below 2⁻⁵⁹ if
/// they are text, bytes or numbers of up to 32 bytes, whatever the keys are. Two of n live keys that were not chosen to collide
/// share a bucket with a probability of about n² / 2⁶⁴: for a million keys that is one in 18 million for any two of them.
///
/// A cheap handle; clones share the buckets.
#[derive(Clone)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
    /// The latest stores of limiters with a name: a limiter that is made anew for each call finds its buckets again. Not
    /// among what stores hold on to, else a backend that nobody has any more would hold itself.
    kept: Arc<Mutex<VecDeque<Arc<Store>>>>,
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
    fn sweep(&self, now: u64, slots: usize) -> bool {
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
    fn evict(&self, store: &Store, hash: u64, now: u64) -> bool {
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

/// Stores that are kept though no limiter has them any more.
const KEPT: usize = 256;

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

    /// The store of a limiter: with others of the same `identity`, where it is given, else its own. The `rules` are those
    /// of most calls; of `plain` ones that have no other parameters.
    pub(crate) fn store(&self, identity: Option<String>, rules: &[Rule], plain: bool) -> Arc<Store> {
        let mut stores = self.shared.stores.lock();
        if let Some(store) = identity.as_ref().and_then(|identity| stores.named.get(identity)).and_then(Weak::upgrade) {
            return store;
        }
        if stores.all.len() == stores.all.capacity() {
            stores.all.retain(|store| store.strong_count() > 0);
            stores.named.retain(|_, store| store.strong_count() > 0);
        }
        let store = Arc::new(Store::new(Arc::clone(&self.shared), rules, plain));
        stores.all.push(Arc::downgrade(&store));
        if let Some(identity) = identity {
            stores.named.insert(identity, Arc::downgrade(&store));
            drop(stores);
            let mut kept = self.kept.lock();
            kept.push_back(Arc::clone(&store));
            let _gone = if kept.len() > KEPT { kept.pop_front() } else { None };
            drop(kept);
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

/// The buckets of one limiter, or of several of one name.
pub(crate) struct Store {
    shared: Arc<Shared>,
    clock: &'static Clock,
    /// With a seed of its own, so that keys of two limiters have nothing to do with each other.
    hasher: Seed<'static, 1>,
    /// The rule of small states.
    rule: Rule,
    is_small: bool,
    unkeyed: Unkeyed,
    keyed: Keyed,
}

/// Buckets by key, as small as the limits allow.
enum Keyed {
    Token(Table<Tat, 4>),
    Window(Table<Window, 2>),
    Any(Table<Nothing, 4>),
}

/// Runs an expression on whichever table it is.
macro_rules! on_table {
    ($keyed:expr, $table:ident => $result:expr) => {
        match $keyed {
            Keyed::Token($table) => $result,
            Keyed::Window($table) => $result,
            Keyed::Any($table) => $result,
        }
    };
}

impl Store {
    fn new(shared: Arc<Shared>, rules: &[Rule], plain: bool) -> Store {
        let rule = rules[0];
        let (unkeyed, keyed) = match rule.limit.algorithm() {
            Algorithm::TokenBucket if plain && Tat::fits(&rule) => (Unkeyed::token(&rule), Keyed::Token(Table::new())),
            Algorithm::SlidingWindow if plain && rule.capacity() > 0 => {
                (Unkeyed::window(&rule), Keyed::Window(Table::new()))
            }
            _ => (Unkeyed::any(), Keyed::Any(Table::new())),
        };
        let is_small = !matches!(keyed, Keyed::Any(_));
        Store { shared, clock: clock::clock(), hasher: Seed::new(), rule, is_small, unkeyed, keyed }
    }

    /// Whether calls by `rules` can be decided by [`admit`](Store::admit).
    pub(crate) fn admits(&self, rules: &[Rule]) -> bool {
        self.is_small && *rules == [self.rule]
    }

    /// Where the bucket of `key` is.
    #[inline]
    pub(crate) fn address<K: RateLimitKey + ?Sized>(&self, key: &K) -> Address {
        if !K::KEYED {
            return Address::Unkeyed;
        }
        Address::Hash(self.hash(|sink| key.write_to(sink)))
    }

    /// The hash of a key.
    #[inline]
    pub(crate) fn hash(&self, write: impl FnOnce(&mut HashSink<'_, 1>)) -> u64 {
        let mut sink = HashSink::new(&self.hasher);
        write(&mut sink);
        let [hash] = sink.finish();
        hash
    }

    /// The present time.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Takes `cost` permits now or not at all, by the store's one rule, in a call of the thread of that number: the short way
    /// of [`take`](Store::take).
    #[inline]
    pub(crate) fn admit(&self, address: Address, thread: usize, now: u64, cost: u32) -> Verdict {
        let rule = &self.rule;
        // One permit fits into any small state.
        if cost != 1 && (cost == 0 || cost > rule.capacity()) {
            return Verdict::Unknown;
        }
        match address {
            Address::Unkeyed => self.unkeyed.take(rule, thread, now, cost),
            Address::Hash(hash) => self.admit_some(hash, now, cost, false),
        }
    }

    /// As [`admit`](Store::admit), one permit without a key, as far as that calls nothing.
    #[inline]
    pub(crate) fn glance(&self, thread: usize, now: u64) -> Glance {
        self.unkeyed.glance(&self.rule, thread, now)
    }

    /// The rest of a [`glance`](Store::glance) that has added a permit to what was `before`.
    pub(crate) fn added(&self, now: u64, before: u64) -> Verdict {
        self.unkeyed.added(&self.rule, now, before)
    }

    /// Whether it has [`admit_token`](Store::admit_token), else [`admit_window`](Store::admit_window).
    #[inline]
    pub(crate) fn keeps_tokens(&self) -> bool {
        matches!(self.keyed, Keyed::Token(_))
    }

    /// As [`admit`](Store::admit), one permit of a key's token bucket, where that needs no more than the bucket's lock. A
    /// denial is until a [`time`](Store::time) as the bucket counts it.
    #[inline]
    pub(crate) fn admit_token(&self, hash: u64, now: u64) -> Result<Verdict, Why> {
        let Keyed::Token(table) = &self.keyed else { return Err(Why::Other) };
        table.try_with(hash, |state| state.take_one(&self.rule, now))
    }

    /// As [`admit_token`](Store::admit_token), of a key's window.
    #[inline]
    pub(crate) fn admit_window(&self, hash: u64, now: u64) -> Result<Verdict, Why> {
        let Keyed::Window(table) = &self.keyed else { return Err(Why::Other) };
        table.try_with(hash, |state| state.take_one(&self.rule, now))
    }

    /// The time until which one of these has denied.
    #[inline]
    pub(crate) fn time(&self, until: u64, now: u64) -> u64 {
        if self.keeps_tokens() { Tat::time(&self.rule, until, now) } else { until }
    }

    /// As [`admit`](Store::admit), where these have not decided, or it is time to sweep.
    #[cold]
    #[inline(never)]
    pub(crate) fn admit_some(&self, hash: u64, now: u64, cost: u32, sweeps: bool) -> Verdict {
        match &self.keyed {
            Keyed::Token(table) => self.admit_key(table, hash, now, cost, sweeps),
            Keyed::Window(table) => self.admit_key(table, hash, now, cost, sweeps),
            Keyed::Any(_) => Verdict::Unknown,
        }
    }

    fn admit_key<S: Compact, const W: usize>(
        &self,
        table: &Table<S, W>,
        hash: u64,
        now: u64,
        cost: u32,
        sweeps: bool,
    ) -> Verdict {
        let rule = &self.rule;
        let take = move |state: &mut S| state.take(rule, now, cost).into();
        // Where there is no room, the long way says what happens.
        self.with(table, hash, now, sweeps, take).unwrap_or(Verdict::Unknown)
    }

    fn with<S: Compact, const W: usize, R>(
        &self,
        table: &Table<S, W>,
        hash: u64,
        now: u64,
        sweeps: bool,
        f: impl FnOnce(&mut S) -> R,
    ) -> Option<R> {
        let (result, looked) = table.with(&self.shared.bound, &self.rule, hash, now, sweeps, f);
        // A limiter that is not called any more reclaims nothing by itself.
        let one_in = match looked {
            Looked::Nowhere => return result,
            Looked::ForNewKey => NEW_KEYS_SWEEP_OTHERS,
            Looked::InTurn => TURNS_SWEEP_OTHERS,
        };
        if (hash >> 8 ^ now >> 16).is_multiple_of(one_in) {
            self.shared.sweep(now, SWEPT_OF_OTHERS);
        }
        result
    }

    /// As [`admit`](Store::admit), and what the call leaves; `None` if it has to be decided the long way.
    pub(crate) fn admit_and_tell(&self, address: Address, now: u64, cost: u32) -> Option<(Verdict, Left)> {
        if cost == 0 || cost > self.rule.capacity() {
            return None;
        }
        let hash = match address {
            Address::Hash(hash) => hash,
            Address::Unkeyed => {
                let verdict = self.unkeyed.take(&self.rule, counts::thread(), now, cost);
                return (verdict != Verdict::Unknown).then(|| (verdict, self.unkeyed_left(now)));
            }
        };
        match &self.keyed {
            Keyed::Token(table) => self.admit_key_and_tell(table, hash, now, cost),
            Keyed::Window(table) => self.admit_key_and_tell(table, hash, now, cost),
            Keyed::Any(_) => None,
        }
    }

    /// What is left in the bucket of all calls: a moment after a decision, which others may have followed.
    fn unkeyed_left(&self, now: u64) -> Left {
        let record = self.unkeyed.record(&self.rule, now);
        let ask = Ask { rules: &[self.rule], backoff: None, cost: 0, max_wait: 0 };
        match record.peek(&ask, now.max(record.clock)) {
            Ok(admission) => Left { remaining: admission.remaining, fresh_at: admission.fresh_at },
            Err(_) => Left::default(),
        }
    }

    fn admit_key_and_tell<S: Compact, const W: usize>(
        &self,
        table: &Table<S, W>,
        hash: u64,
        now: u64,
        cost: u32,
    ) -> Option<(Verdict, Left)> {
        let rule = &self.rule;
        let take = move |state: &mut S| (state.take(rule, now, cost).into(), state.left(rule, now));
        self.with(table, hash, now, false, take)
    }

    /// The decision on a call for whose key there is no room.
    #[cold]
    fn untracked(&self, now: u64) -> Result<Left, Refusal> {
        self.shared.bound.untracked.fetch_add(1, Ordering::Relaxed);
        match self.shared.bound.when_full {
            WhenFull::Admit => Ok(Left { remaining: self.rule.capacity(), fresh_at: now }),
            WhenFull::Deny => {
                Err(Refusal { limit: 0, remaining: 0, admitted_at: Some(now.saturating_add(RETRY_WHEN_FULL)) })
            }
        }
    }

    pub(crate) fn take(&self, address: Address, ask: &Ask<'_>, now: u64) -> Result<Admission, Refusal> {
        let hash = match address {
            Address::Unkeyed => {
                return self.unkeyed.with_record(&self.rule, now, |record| record.take(ask, now.max(record.clock)));
            }
            Address::Hash(hash) => hash,
        };
        let take = |moved: &mut Moved| {
            let now = now.max(moved.record.clock);
            let decided = moved.record.take(ask, now);
            moved.fresh_at = moved.record.fresh_at(ask.rules, ask.backoff);
            match &decided {
                Ok(admission) => {
                    moved.booked_until = moved.booked_until.max(admission.permit.at);
                    if admission.remaining == 0 {
                        // The next call will be denied: until when, eviction should know before it comes.
                        let next = Ask { cost: 1, max_wait: 0, ..*ask };
                        let denied = moved.record.peek(&next, now).err().and_then(|refusal| refusal.admitted_at);
                        moved.denied_until = denied.unwrap_or(0);
                    }
                }
                Err(refusal) => moved.denied_until = refusal.admitted_at.unwrap_or(moved.denied_until),
            }
            decided
        };
        let (bound, rule) = (&self.shared.bound, &self.rule);
        let is_usual = *ask.rules == [self.rule];
        // Another thread may take the room that was made.
        let mut tries = 0;
        let taken = loop {
            let taken = on_table!(&self.keyed, table => table.with_record(bound, rule, hash, now, is_usual, take));
            if taken.is_ok() || tries == TRIES || !self.shared.evict(self, hash, now) {
                break taken;
            }
            tries += 1;
        };
        taken.unwrap_or_else(|Full| {
            let untracked = self.untracked(now)?;
            let permit = Permit { at: now, sequence: 0, cost: 0, undo: None };
            Ok(Admission { permit, limit: 0, remaining: untracked.remaining, fresh_at: untracked.fresh_at })
        })
    }

    pub(crate) fn peek(&self, address: Address, ask: &Ask<'_>, now: u64) -> Result<Admission, Refusal> {
        let record = match address {
            Address::Unkeyed => self.unkeyed.record(&self.rule, now),
            Address::Hash(hash) => {
                on_table!(&self.keyed, table => table.record(&self.rule, hash, now)).unwrap_or_default()
            }
        };
        record.peek(ask, now.max(record.clock))
    }

    pub(crate) fn give_back(
        &self,
        address: Address,
        rules: &[Rule],
        backoff: Option<&Backoff>,
        now: u64,
        permit: &Permit,
    ) {
        let give_back = |record: &mut Record| record.give_back(rules, backoff, now.max(record.clock), permit);
        match address {
            Address::Unkeyed => self.unkeyed.with_record(&self.rule, now, give_back),
            Address::Hash(hash) => {
                let (bound, rule) = (&self.shared.bound, &self.rule);
                if !on_table!(&self.keyed, table => table.contains(hash)) {
                    // Evicted meanwhile: there is nothing to give back to.
                    return;
                }
                let give_back = |moved: &mut Moved| {
                    give_back(&mut moved.record);
                    moved.fresh_at = moved.record.fresh_at(rules, backoff);
                    moved.denied_until = 0;
                    moved.booked_until = moved.record.newest;
                };
                // Evicted since the look: a fresh bucket stays fresh.
                let is_usual = *rules == [self.rule];
                let _ = on_table!(&self.keyed, table => table.with_record(bound, rule, hash, now, is_usual, give_back));
            }
        }
    }

    /// Keys that have a bucket.
    pub(crate) fn keys(&self) -> usize {
        on_table!(&self.keyed, table => table.len())
    }

    /// Looks for buckets to reclaim in a few slots of one shard; whether there were any.
    fn sweep(&self, shard: usize, now: u64, slots: usize) -> bool {
        on_table!(&self.keyed, table => table.sweep(&self.shared.bound, &self.rule, shard, now, slots))
    }

    /// Evicts one bucket; one that is being denied only where `denying` says so.
    fn evict(&self, hash: u64, now: u64, denying: bool) -> bool {
        on_table!(&self.keyed, table => table.evict(&self.shared.bound, &self.rule, hash, now, denying))
    }

    pub(crate) fn reset(&self, address: Address) {
        match address {
            Address::Unkeyed => self.unkeyed.reset(&self.rule),
            Address::Hash(hash) => {
                on_table!(&self.keyed, table => table.remove(&self.shared.bound, hash));
            }
        }
    }

    /// Forgets all buckets.
    #[cfg(feature = "test-util")]
    pub(crate) fn clear(&self) {
        self.unkeyed.reset(&self.rule);
        self.clear_keys();
    }

    fn clear_keys(&self) {
        on_table!(&self.keyed, table => table.clear(&self.shared.bound));
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.clear_keys();
    }
}

#[cfg(test)]
mod tests;
