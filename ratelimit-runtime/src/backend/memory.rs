//! Buckets in this process's memory: bounded, sharded, correct under threads.

mod table;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, LazyLock, Weak};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::algorithm::record::{Admission, Ask, Permit, Record, Refusal};
use crate::decision::Address;
use crate::key::{HashSink, RateLimitKey};
use table::Table;

/// Most buckets that a backend keeps unless it is told otherwise.
const MAX_KEYS: usize = 1_000_000;

/// Buckets in this process's memory, the default backend.
///
/// Bounded: it keeps at most `max_keys` buckets of keys (by default 1,000,000). Buckets that are as if nobody had used them
/// are reclaimed a few at a time inside calls that bring new keys; there is no background thread and no sweep that stops
/// the world. Where all are in use, the one closest to being fresh goes, and one whose key is being denied only if all that
/// were looked at are.
///
/// Keys are not stored. A bucket is found by a 64-bit fingerprint of its key, made with a hash whose seed is random in each
/// process. Two of n live keys share a bucket with a probability of at most n² / 2⁶⁵: for a million keys that is one in 37
/// million for any two of them.
///
/// A cheap handle; clones share the buckets.
#[derive(Clone)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
}

struct Shared {
    table: Table,
    hasher: RandomState,
    /// Stores of limiters with a name that was given to them.
    named: Mutex<HashMap<String, Weak<Store>>>,
}

impl MemoryBackend {
    /// At most 1,000,000 buckets.
    pub fn new() -> MemoryBackend {
        MemoryBackend::with_max_keys(MAX_KEYS)
    }

    /// At most `max_keys` buckets; 0 counts as 1.
    pub fn with_max_keys(max_keys: usize) -> MemoryBackend {
        let shared =
            Shared { table: Table::new(max_keys.max(1)), hasher: RandomState::default(), named: Mutex::default() };
        MemoryBackend { shared: Arc::new(shared) }
    }

    /// The most buckets that are kept.
    pub fn max_keys(&self) -> usize {
        self.shared.table.max_keys()
    }

    /// Buckets that are kept now, those included that nobody uses any more and that no call has reclaimed yet.
    pub fn tracked_keys(&self) -> usize {
        self.shared.table.len()
    }

    /// The store of a limiter: with others of the same `identity`, where it is given, else its own.
    pub(crate) fn store(&self, identity: Option<String>) -> Arc<Store> {
        let new = |seed| {
            Arc::new(Store { shared: Arc::clone(&self.shared), seed, unkeyed: Mutex::default() })
        };
        let Some(identity) = identity else {
            return new(next_seed());
        };
        let mut named = self.shared.named.lock();
        if let Some(store) = named.get(&identity).and_then(Weak::upgrade) {
            return store;
        }
        named.retain(|_, store| store.strong_count() > 0);
        let store = new(next_seed());
        named.insert(identity, Arc::downgrade(&store));
        store
    }

    /// Forgets all buckets of keys.
    #[cfg(feature = "test-util")]
    pub(crate) fn clear(&self) {
        self.shared.table.clear();
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

/// Tells the stores of a process apart in their keys' fingerprints.
fn next_seed() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The buckets of one limiter, or of several of one name.
pub(crate) struct Store {
    shared: Arc<Shared>,
    /// Part of every fingerprint.
    seed: u64,
    unkeyed: Mutex<Record>,
}

impl Store {
    /// Where the bucket of `key` is.
    #[inline]
    pub(crate) fn address<K: RateLimitKey>(&self, key: &K) -> Address {
        if !K::KEYED {
            return Address::Unkeyed;
        }
        let mut sink = HashSink(self.shared.hasher.build_hasher());
        sink.0.write_u64(self.seed);
        key.write_to(&mut sink);
        Address::Fingerprint(sink.0.finish())
    }

    pub(crate) fn take(&self, address: Address, ask: &Ask<'_>, now: u64) -> Result<Admission, Refusal> {
        match address {
            Address::Unkeyed => {
                let mut record = self.unkeyed.lock();
                let now = now.max(record.clock);
                record.take(ask, now)
            }
            Address::Fingerprint(fingerprint) => {
                self.shared.table.with(fingerprint, now, |entry| {
                    let now = now.max(entry.record.clock);
                    let decided = entry.record.take(ask, now);
                    entry.fresh_at = entry.record.fresh_at(ask.rules, ask.backoff);
                    if let Err(Refusal { admitted_at: Some(at), .. }) = decided {
                        entry.denied_until = at;
                    }
                    decided
                })
            }
        }
    }

    pub(crate) fn peek(&self, address: Address, ask: &Ask<'_>, now: u64) -> Result<Admission, Refusal> {
        let peek = |record: &Record| record.peek(ask, now.max(record.clock));
        match address {
            Address::Unkeyed => peek(&self.unkeyed.lock()),
            Address::Fingerprint(fingerprint) => {
                let found = self.shared.table.with_existing(fingerprint, |entry| peek(&entry.record));
                found.unwrap_or_else(|| peek(&Record::default()))
            }
        }
    }

    pub(crate) fn give_back(
        &self,
        address: Address,
        rules: &[Rule],
        backoff: Option<&Backoff>,
        now: u64,
        permit: &Permit,
    ) {
        let give_back = |record: &mut Record| {
            let now = now.max(record.clock);
            record.give_back(rules, backoff, now, permit);
        };
        match address {
            Address::Unkeyed => give_back(&mut self.unkeyed.lock()),
            Address::Fingerprint(fingerprint) => {
                self.shared.table.with_existing(fingerprint, |entry| {
                    give_back(&mut entry.record);
                    entry.fresh_at = entry.record.fresh_at(rules, backoff);
                    entry.denied_until = 0;
                });
            }
        }
    }

    pub(crate) fn reset(&self, address: Address) {
        match address {
            Address::Unkeyed => *self.unkeyed.lock() = Record::default(),
            Address::Fingerprint(fingerprint) => self.shared.table.remove(fingerprint),
        }
    }

    /// Forgets the bucket without a key.
    #[cfg(feature = "test-util")]
    pub(crate) fn reset_unkeyed(&self) {
        *self.unkeyed.lock() = Record::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Limit;
    use std::time::Duration;

    const HOUR: Rule = Rule::new(Limit::new(2, Duration::from_secs(3_600)));
    const START: u64 = 1_700_000_000_000_000_000;

    fn take(store: &Store, key: u64, now: u64) -> Result<Admission, Refusal> {
        let ask = Ask { rules: &[HOUR], backoff: None, cost: 1, max_wait: 0 };
        store.take(store.address(&key), &ask, now)
    }

    #[test]
    fn it_never_keeps_more_than_max_keys() {
        for max_keys in [1, 7, 100, 1_000] {
            let backend = MemoryBackend::with_max_keys(max_keys);
            let store = backend.store(None);
            for key in 0..5_000 {
                let _ = take(&store, key, START);
                assert!(backend.tracked_keys() <= max_keys);
            }
            assert_eq!(backend.tracked_keys(), max_keys);
        }
    }

    #[test]
    fn up_to_max_keys_are_all_exact() {
        let backend = MemoryBackend::with_max_keys(500);
        let store = backend.store(None);
        for _ in 0..2 {
            for key in 0..500 {
                assert!(take(&store, key, START).is_ok());
            }
        }
        for key in 0..500 {
            assert!(take(&store, key, START).is_err());
        }
    }

    #[test]
    fn a_flood_of_new_keys_does_not_free_one_that_is_being_denied() {
        let backend = MemoryBackend::with_max_keys(1_000);
        let store = backend.store(None);
        for _ in 0..3 {
            let _ = take(&store, u64::MAX, START);
        }
        for key in 0..100_000 {
            let _ = take(&store, key, START + 1);
        }
        assert!(take(&store, u64::MAX, START + 2).is_err());
    }

    #[test]
    fn idle_buckets_are_reclaimed_by_calls_that_bring_new_keys() {
        let backend = MemoryBackend::new();
        let store = backend.store(None);
        for key in 0..10_000 {
            let _ = take(&store, key, START);
        }
        let later = START + 2 * 3_600_000_000_000;
        for key in 10_000..20_000 {
            let _ = take(&store, key, later);
        }
        assert!(backend.tracked_keys() < 11_000, "{}", backend.tracked_keys());
    }

    #[test]
    fn stores_share_buckets_by_name_only() {
        let backend = MemoryBackend::new();
        let named = |name: Option<&str>| backend.store(name.map(str::to_owned));
        let (a, b, other, anonymous) = (named(Some("a")), named(Some("a")), named(Some("b")), named(None));
        for _ in 0..2 {
            assert!(take(&a, 1, START).is_ok());
        }
        assert!(take(&b, 1, START).is_err());
        assert!(take(&other, 1, START).is_ok());
        assert!(take(&anonymous, 1, START).is_ok());
    }
}
