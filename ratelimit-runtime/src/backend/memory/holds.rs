//! Blocks and debts of keys, stored beside their buckets.
//!
//! Few keys have one. A store looks here only while any of its keys does. A filter of 64 bits per
//! shard, read without a lock, then excludes most other keys.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::ops::Bound;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::fingerprint::{Fingerprint, fingerprint};
use crate::decision::Address;
use crate::rt::clock::Now;
use crate::rt::sync::{Line, Lock};

/// Shards of the holds of a store.
const SHARDS: usize = 64;

/// How long denials of a blocked key repeat the answer of an earlier one, in nanoseconds. Bounded,
/// because a call that began before the block may still take permits.
const REPEATED_FOR: u64 = 1_000_000_000;

/// How many ended holds one call removes.
const SWEPT: usize = 8;
/// How many holds are copied at a time.
const COPIED: usize = 256;

/// The times before which a key's calls are not admitted, in nanoseconds; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    /// The end of the key's block: every call before it is denied.
    pub(crate) blocked_until: u64,
    /// The end of the key's debt. Limits are judged as of it; calls of cost 0 are admitted before
    /// it.
    pub(crate) owed_until: u64,
}

impl Hold {
    pub(crate) const NONE: Hold = Hold { blocked_until: 0, owed_until: 0 };

    /// Nothing is admitted before this time, except for calls of cost 0 during a debt.
    pub(crate) fn until(self) -> u64 {
        self.blocked_until.max(self.owed_until)
    }

    pub(crate) fn is_blocked(self, now: Now) -> bool {
        self.blocked_until > now.earliest
    }
}

/// The holds of one store, at most as many as its backend has room for buckets.
///
/// Changed under the lock of `ends`, and looked up under the lock of a shard alone.
pub(super) struct Holds {
    /// A hint to be read without a lock: whether there are any.
    has_any: AtomicBool,
    /// When the first of them ends.
    first_end: AtomicU64,
    most: usize,
    /// All holds by the time at which they end.
    ends: Mutex<BTreeSet<(u64, u64)>>,
    /// Keys whose holds have changed while they are being copied. Changed under the lock of `ends`.
    changed: Mutex<Option<Vec<u64>>>,
    /// Made for the first hold.
    shards: OnceLock<Box<[Line<Shard>; SHARDS]>>,
}

/// [`Holds::look_and_sweep`], once a key is held. A program that holds none does not contain it.
static LOOK: OnceLock<fn(&Holds, u64, Now) -> Hold> = OnceLock::new();

struct Shard {
    /// A bit for each held key. It may be set for others too.
    filter: AtomicU64,
    held: Lock<HashMap<u64, HeldKey, BuildHasherDefault<Fingerprint>>>,
}

#[derive(Clone, Copy, Default)]
struct HeldKey {
    hold: Hold,
    denial: BlockedDenial,
}

/// The denial of one permit of a blocked key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockedDenial {
    pub(super) until: u64,
    /// What the limit has left.
    pub(super) remaining: u32,
    /// The answer stays the same until then, if the bucket is not charged.
    pub(super) holds_until: u64,
}

/// The holds themselves, which outlive their store.
#[derive(Clone)]
pub(super) struct Held(Vec<(u64, Hold)>);

/// The fingerprint of a bucket. Zero stands for the bucket without a key.
#[inline]
fn held_by(address: Address) -> u64 {
    match address {
        Address::Unkeyed => 0,
        Address::Hash(hash) => fingerprint(hash),
    }
}

fn address_of(key: u64) -> Address {
    // The fingerprint of a fingerprint is itself.
    if key == 0 { Address::Unkeyed } else { Address::Hash(key) }
}

/// The shard and the filter's bit of a fingerprint: the map within a shard selects by the lowest and
/// the highest bits.
#[inline]
fn place(key: u64) -> (usize, u64) {
    let [_, _, _, bit, shard, ..] = key.to_le_bytes();
    (usize::from(shard) % SHARDS, 1 << (bit % 64))
}

impl Holds {
    #[inline]
    pub(super) fn new(most: usize) -> Holds {
        Holds {
            has_any: AtomicBool::new(false),
            first_end: AtomicU64::new(u64::MAX),
            most: most.max(1),
            ends: Mutex::new(BTreeSet::new()),
            changed: Mutex::new(None),
            shards: OnceLock::new(),
        }
    }

    /// Whether any key is held.
    #[inline]
    pub(super) fn has_any(&self) -> bool {
        self.has_any.load(Ordering::Acquire)
    }

    /// Whether a key may be held; `false` is certain.
    #[inline]
    pub(super) fn may_hold(&self, address: Address) -> bool {
        self.has_any() && self.has_bit_of(address)
    }

    /// Out of line, so that calls of stores without holds carry none of it.
    #[cold]
    #[inline(never)]
    fn has_bit_of(&self, address: Address) -> bool {
        self.has_bit(held_by(address))
    }

    #[inline]
    fn has_bit(&self, key: u64) -> bool {
        let (shard, bit) = place(key);
        self.shards.get().is_some_and(|shards| shards[shard].0.filter.load(Ordering::Acquire) & bit != 0)
    }

    /// What holds the calls of a key at `now`.
    #[inline]
    pub(super) fn of(&self, address: Address, now: Now) -> Hold {
        if !self.has_any() || self.is_free(address, now) { Hold::NONE } else { self.look(held_by(address), now) }
    }

    /// The denial of the key's last call, if it still holds and the lock is free.
    #[inline]
    pub(super) fn repeated(&self, hash: u64, now: Now) -> Option<(u64, u32)> {
        let key = fingerprint(hash);
        let held = self.shards.get()?[place(key).0].0.held.try_lock()?;
        let BlockedDenial { until, remaining, holds_until } = held.get(&key)?.denial;
        (holds_until > now.earliest).then_some((until, remaining))
    }

    /// Records the denial of a key that `hold` holds, for the next calls.
    pub(super) fn note(&self, hash: u64, now: Now, hold: Hold, denial: BlockedDenial) {
        let (Some(shards), key) = (self.shards.get(), fingerprint(hash)) else { return };
        if let Some(held) = shards[place(key).0].0.held.lock().get_mut(&key).filter(|held| held.hold == hold) {
            let longest = now.earliest.saturating_add(REPEATED_FOR).min(hold.until());
            held.denial = BlockedDenial { holds_until: denial.holds_until.min(longest), ..denial };
        }
    }

    /// Forgets the denial of a key, because its bucket has changed.
    #[cold]
    pub(super) fn forget_denial(&self, address: Address) {
        let (Some(shards), key) = (self.shards.get(), held_by(address)) else { return };
        if let Some(held) = shards[place(key).0].0.held.lock().get_mut(&key) {
            held.denial = BlockedDenial::default();
        }
    }

    /// Whether a key is certainly not held, and no hold has ended.
    #[inline]
    pub(super) fn is_free(&self, address: Address, now: Now) -> bool {
        self.first_end.load(Ordering::Relaxed) > now.earliest && !self.has_bit(held_by(address))
    }

    fn look(&self, key: u64, now: Now) -> Hold {
        LOOK.get().map_or(Hold::NONE, |look| look(self, key, now))
    }

    #[inline(never)]
    fn look_and_sweep(&self, key: u64, now: Now) -> Hold {
        if self.first_end.load(Ordering::Relaxed) <= now.earliest {
            self.sweep(&mut self.ends.lock(), now);
        }
        let hold = self.get(key);
        if hold.until() > now.earliest { hold } else { Hold::NONE }
    }

    /// Changes what holds the calls of a key. Returns what holds them then.
    ///
    /// If there are too many, the hold that ends first makes room.
    pub(super) fn change(&self, address: Address, now: Now, change: impl FnOnce(&mut Hold)) -> Hold {
        let (mut ends, key) = (self.ends.lock(), held_by(address));
        self.sweep(&mut ends, now);
        let before = self.get(key);
        let mut hold = before;
        change(&mut hold);
        if let Some(changed) = &mut *self.changed.lock() {
            changed.push(key);
        }
        if hold.until() <= now.earliest {
            self.remove(&mut ends, key);
        } else {
            // In place: a concurrent look-up finds the old or the new one.
            ends.remove(&(before.until(), key));
            while ends.len() >= self.most {
                let Some((_, first)) = ends.first().copied() else { break };
                self.remove(&mut ends, first);
            }
            self.insert(&mut ends, key, hold);
        }
        self.update(&ends);
        hold
    }

    fn get(&self, key: u64) -> Hold {
        let shard = self.shards.get().map(|shards| &shards[place(key).0].0);
        shard.and_then(|shard| shard.held.lock().get(&key).map(|held| held.hold)).unwrap_or_default()
    }

    /// Passes on all holds, a few at a time, without the lock. Those that change meanwhile come again
    /// at the end. For one caller at a time.
    pub(super) fn each_copied<E>(&self, mut f: impl FnMut(Address, Hold) -> Result<(), E>) -> Result<(), E> {
        *self.changed.lock() = Some(Vec::new());
        let mut from = Bound::Unbounded;
        let copied = loop {
            let ends = self.ends.lock();
            let some: Vec<_> = ends.range((from, Bound::Unbounded)).take(COPIED).copied().collect();
            let holds: Vec<_> = some.iter().map(|(_, key)| (address_of(*key), self.get(*key))).collect();
            drop(ends);
            let Some(last) = some.last() else { break Ok(()) };
            from = Bound::Excluded(*last);
            if let Err(error) = holds.into_iter().try_for_each(|(address, hold)| f(address, hold)) {
                break Err(error);
            }
        };
        let changed = self.changed.lock().take().unwrap_or_default();
        changed.into_iter().try_for_each(|key| f(address_of(key), self.get(key)))?;
        copied
    }

    /// Takes out all holds.
    pub(super) fn take(&self) -> Held {
        let mut ends = self.ends.lock();
        let keys: Vec<u64> = ends.iter().map(|(_, key)| *key).collect();
        let held = keys.into_iter().map(|key| (key, self.remove(&mut ends, key))).collect();
        self.update(&ends);
        Held(held)
    }

    pub(super) fn put(&self, Held(held): Held) {
        let mut ends = self.ends.lock();
        for (key, hold) in held {
            self.insert(&mut ends, key, hold);
        }
        self.update(&ends);
    }

    fn insert(&self, ends: &mut Ends<'_>, key: u64, hold: Hold) {
        LOOK.get_or_init(|| Holds::look_and_sweep);
        let shard = || Line(Shard { filter: AtomicU64::new(0), held: Lock::new(HashMap::default()) });
        let shards = self.shards.get_or_init(|| Box::new(std::array::from_fn(|_| shard())));
        let (shard, bit) = place(key);
        let Shard { filter, held } = &shards[shard].0;
        ends.insert((hold.until(), key));
        held.lock().insert(key, HeldKey { hold, ..HeldKey::default() });
        filter.fetch_or(bit, Ordering::Release);
    }

    fn remove(&self, ends: &mut Ends<'_>, key: u64) -> Hold {
        let (Some(shards), (shard, _)) = (self.shards.get(), place(key)) else { return Hold::NONE };
        let Shard { filter, held } = &shards[shard].0;
        let mut held = held.lock();
        let Some(HeldKey { hold, .. }) = held.remove(&key) else { return Hold::NONE };
        ends.remove(&(hold.until(), key));
        // With more keys, nearly all bits are set anyway.
        if held.len() <= 64 {
            let bits = held.keys().fold(0, |bits, key| bits | place(*key).1);
            filter.store(bits, Ordering::Release);
        }
        hold
    }

    /// Removes a few holds that have ended.
    fn sweep(&self, ends: &mut Ends<'_>, now: Now) {
        for _ in 0..SWEPT {
            match ends.first().copied() {
                Some((end, key)) if end <= now.earliest => _ = self.remove(ends, key),
                _ => break,
            }
        }
        self.update(ends);
    }

    /// Sets the hints.
    fn update(&self, ends: &Ends<'_>) {
        self.first_end.store(ends.first().map_or(u64::MAX, |(end, _)| *end), Ordering::Relaxed);
        self.has_any.store(!ends.is_empty(), Ordering::Release);
    }
}

type Ends<'a> = MutexGuard<'a, BTreeSet<(u64, u64)>>;

impl Held {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Address, Hold)> + '_ {
        self.0.iter().map(|(key, hold)| (address_of(*key), *hold))
    }

    /// When the last of them ends; 0 if there are none.
    pub(super) fn end(&self) -> u64 {
        self.0.iter().map(|(_, hold)| hold.until()).max().unwrap_or(0)
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    fn at(now: u64) -> Now {
        Now::exactly(now)
    }

    fn block(holds: &Holds, key: u64, now: u64, until: u64) -> Hold {
        holds.change(Address::Hash(key), at(now), |hold| hold.blocked_until = hold.blocked_until.max(until))
    }

    #[test]
    fn ended_holds_are_removed_when_any_key_is_looked_at() {
        let holds = Holds::new(100);
        for key in 0..5 {
            block(&holds, key, 0, 10 + key);
        }
        assert_eq!(holds.of(Address::Hash(3), at(9)).blocked_until, 13);
        assert_eq!(holds.of(Address::Hash(9), at(14)), Hold::NONE);
        assert!(!holds.has_any());
    }

    #[test]
    fn a_full_table_drops_the_hold_that_ends_first() {
        let holds = Holds::new(2);
        for (key, until) in [(1, 30), (2, 20), (3, 40)] {
            block(&holds, key, 0, until);
        }
        let blocked = |key| holds.of(Address::Hash(key), at(1)).blocked_until;
        assert_eq!([blocked(1), blocked(2), blocked(3)], [30, 0, 40]);
    }

    #[test]
    fn a_hold_that_is_changed_ends_once() {
        let holds = Holds::new(10);
        block(&holds, 1, 0, 10);
        block(&holds, 1, 0, 20);
        holds.change(Address::Hash(1), at(1), |hold| (hold.blocked_until, hold.owed_until) = (0, 5));
        assert_eq!(holds.of(Address::Hash(1), at(2)), Hold { blocked_until: 0, owed_until: 5 });
        assert_eq!(holds.of(Address::Hash(1), at(5)), Hold::NONE);
        assert!(!holds.has_any());
    }

    #[test]
    fn holds_are_those_of_a_map() {
        for keys in [3_u64, 200, 20_000] {
            let (holds, mut map, mut random) = (Holds::new(50_000), HashMap::new(), 1_u64);
            for now in 0..40_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let hash = ((random >> 33) % keys).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let until = if now % 3 == 0 { 0 } else { now + (random >> 20) % 9_000 };
                holds.change(Address::Hash(hash), at(now), |hold| hold.blocked_until = until);
                map.insert(hash, until);
                let hash = ((random >> 41) % keys).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let expected = map.get(&hash).copied().filter(|until| *until > now).unwrap_or(0);
                let address = Address::Hash(hash);
                assert!(expected == 0 || holds.may_hold(address) && !holds.is_free(address, at(now)));
                assert_eq!(holds.of(address, at(now)).blocked_until, expected);
            }
            let held = holds.take();
            assert!(!holds.has_any() && held.end() > 40_000);
            holds.put(held);
            let still = map.iter().filter(|(_, until)| **until > 40_000);
            still.for_each(|(hash, until)| {
                assert_eq!(holds.of(Address::Hash(*hash), at(40_000)).blocked_until, *until);
            });
        }
    }

    #[test]
    fn most_keys_beside_few_held_ones_are_free() {
        let holds = Holds::new(100);
        let hash = |key: u64| key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (0..20).for_each(|key| _ = block(&holds, hash(key), 0, 10));
        let free =
            |keys: std::ops::Range<u64>| keys.filter(|key| holds.is_free(Address::Hash(hash(*key)), at(1))).count();
        assert_eq!(free(0..20), 0);
        assert!(free(1_000..2_000) > 950);
    }
}
