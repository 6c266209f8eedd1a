//! Tables from fingerprints to states, in shards with a lock each, that together never hold more than so many.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashTable;

use super::WhenFull;
use super::compact::Compact;
use crate::algorithm::Rule;
use crate::algorithm::record::Record;
use crate::sync::Lock;

/// Shards of a table: more than the cores of most machines, so that two threads seldom meet.
const SHARDS: usize = 64;
/// Slots that are looked at for a bucket which nobody uses any more, by a call that brings a new key.
const SWEPT: usize = 8;
/// Calls on a shard after which one looks at so many slots though it brings no new key.
const SWEEP_EVERY: u32 = 64;
/// Buckets among which one is chosen where the backend is full.
const SAMPLED: usize = 16;

/// How many buckets all tables of a backend hold, and may.
pub(super) struct Bound {
    pub(super) max_keys: usize,
    pub(super) when_full: WhenFull,
    len: AtomicUsize,
    pub(super) evicted: AtomicU64,
    pub(super) untracked: AtomicU64,
}

impl Bound {
    pub(super) fn new(max_keys: usize, when_full: WhenFull) -> Bound {
        Bound {
            max_keys: max_keys.max(1),
            when_full,
            len: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            untracked: AtomicU64::new(0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Counts one more bucket if there is room.
    fn claim(&self) -> bool {
        let claim = |len: usize| (len < self.max_keys).then_some(len + 1);
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim).is_ok()
    }

    fn release(&self, buckets: usize) {
        self.len.fetch_sub(buckets, Ordering::Relaxed);
    }
}

/// The buckets of one store.
pub(super) struct Table<S> {
    shards: Box<[Padded<S>]>,
}

/// On cache lines of its own (two, because processors fetch them in pairs).
#[repr(align(128))]
struct Padded<S>(Lock<Shard<S>>);

struct Shard<S> {
    slots: HashTable<Slot<S>>,
    /// States that are more than a small one can say.
    moved: HashMap<u64, Moved, BuildHasherDefault<Fingerprint>>,
    /// Where the next sweep begins.
    cursor: usize,
    calls: u32,
}

struct Slot<S> {
    fingerprint: u64,
    state: S,
}

/// A full record, with what eviction has to know of it.
#[derive(Default)]
pub(super) struct Moved {
    pub(super) record: Record,
    /// When the record is as if nobody had used it.
    pub(super) fresh_at: u64,
    /// The key was denied until then.
    pub(super) denied_until: u64,
    /// Permits are booked until then.
    pub(super) booked_until: u64,
}

/// There was no room for a new key, unless one that is being denied goes, or one of another limiter.
pub(super) struct Full;

impl<S: Compact> Table<S> {
    pub(super) fn new() -> Table<S> {
        let shard = || Shard { slots: HashTable::new(), moved: HashMap::default(), cursor: 0, calls: 0 };
        Table { shards: (0..SHARDS).map(|_| Padded(Lock::new(shard()))).collect() }
    }

    #[inline]
    fn shard(&self, fingerprint: u64) -> &Lock<Shard<S>> {
        // The table within takes the hash's low bits for the place and its top seven for the tag.
        let shard = (fingerprint >> 48) as usize % SHARDS;
        &self.shards[shard].0
    }

    /// Runs `small` on a small state, which is made where there is none; `full` on a record that does not fit into one.
    #[inline]
    pub(super) fn with<R>(
        &self,
        bound: &Bound,
        rule: &Rule,
        fingerprint: u64,
        now: u64,
        small: impl FnOnce(&mut S) -> R,
        full: impl FnOnce(&mut Moved) -> R,
    ) -> Result<R, Full> {
        let mut shard = self.shard(fingerprint).lock();
        shard.calls = shard.calls.wrapping_add(1);
        if shard.calls.is_multiple_of(SWEEP_EVERY) {
            shard.sweep(bound, rule, now);
        }
        let Shard { slots, moved, .. } = &mut *shard;
        match slots.find_mut(fingerprint, |slot| slot.fingerprint == fingerprint) {
            Some(Slot { state, .. }) if !state.is_moved() => Ok(small(state)),
            Some(_) => Ok(full(moved.entry(fingerprint).or_default())),
            None => {
                self.make_room(&mut shard, bound, rule, now)?;
                let mut state = S::fresh();
                let Shard { slots, moved, .. } = &mut *shard;
                let result =
                    if state.is_moved() { full(moved.entry(fingerprint).or_default()) } else { small(&mut state) };
                slots.insert_unique(fingerprint, Slot { fingerprint, state }, |slot| slot.fingerprint);
                Ok(result)
            }
        }
    }

    /// Runs `f` on the record of a bucket, whatever its state is kept as, and keeps it as small as it can be: on a record
    /// where the limits of the call are not the usual ones, by which small states are judged.
    pub(super) fn with_record<R>(
        &self,
        bound: &Bound,
        rule: &Rule,
        fingerprint: u64,
        now: u64,
        is_usual: bool,
        f: impl FnOnce(&mut Moved) -> R,
    ) -> Result<R, Full> {
        let mut shard = self.shard(fingerprint).lock();
        if shard.slots.find(fingerprint, |slot| slot.fingerprint == fingerprint).is_none() {
            self.make_room(&mut shard, bound, rule, now)?;
            let slot = Slot { fingerprint, state: S::fresh() };
            shard.slots.insert_unique(fingerprint, slot, |slot| slot.fingerprint);
        }
        let Shard { slots, moved, .. } = &mut *shard;
        let Some(Slot { state, .. }) = slots.find_mut(fingerprint, |slot| slot.fingerprint == fingerprint) else {
            return Err(Full);
        };
        let mut full = moved.remove(&fingerprint).unwrap_or_default();
        if !state.is_moved() {
            full.record = state.to_record(rule, now);
        }
        let result = f(&mut full);
        let small = if is_usual { S::from_record(&full.record, rule, now) } else { None };
        *state = small.unwrap_or_else(|| {
            moved.insert(fingerprint, full);
            S::moved()
        });
        Ok(result)
    }

    /// The record of a bucket, if there is one.
    pub(super) fn record(&self, rule: &Rule, fingerprint: u64, now: u64) -> Option<Record> {
        let shard = self.shard(fingerprint).lock();
        let slot = shard.slots.find(fingerprint, |slot| slot.fingerprint == fingerprint)?;
        if slot.state.is_moved() {
            return shard.moved.get(&fingerprint).map(|moved| moved.record.clone());
        }
        Some(slot.state.to_record(rule, now))
    }

    /// Whether there is a bucket.
    pub(super) fn contains(&self, fingerprint: u64) -> bool {
        self.shard(fingerprint).lock().slots.find(fingerprint, |slot| slot.fingerprint == fingerprint).is_some()
    }

    pub(super) fn remove(&self, bound: &Bound, fingerprint: u64) {
        let mut shard = self.shard(fingerprint).lock();
        if let Ok(slot) = shard.slots.find_entry(fingerprint, |slot| slot.fingerprint == fingerprint) {
            slot.remove();
            shard.moved.remove(&fingerprint);
            bound.release(1);
        }
    }

    pub(super) fn clear(&self, bound: &Bound) {
        for shard in &self.shards {
            let mut shard = shard.0.lock();
            bound.release(shard.slots.len());
            shard.slots = HashTable::new();
            shard.moved = HashMap::default();
        }
    }

    /// Places for buckets, taken or not.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().slots.num_buckets()).sum()
    }

    /// Evicts one bucket from a shard that nobody holds; one that is being denied only where `denying` says so.
    pub(super) fn evict_any(&self, bound: &Bound, rule: &Rule, now: u64, denying: bool) -> bool {
        let mut shards = self.shards.iter().filter_map(|shard| shard.0.try_lock());
        shards.any(|mut shard| shard.evict(bound, rule, now, denying))
    }

    /// Makes room for one bucket and counts it, without evicting one that is being denied.
    fn make_room(&self, shard: &mut Shard<S>, bound: &Bound, rule: &Rule, now: u64) -> Result<(), Full> {
        shard.sweep(bound, rule, now);
        while !bound.claim() {
            if !shard.evict(bound, rule, now, false) && !self.evict_any(bound, rule, now, false) {
                return Err(Full);
            }
        }
        Ok(())
    }
}

impl<S: Compact> Shard<S> {
    /// When a slot's bucket is as if nobody had used it, whether it is being denied, and whether permits are booked ahead.
    fn standing(&self, slot: &Slot<S>, rule: &Rule, now: u64) -> Standing {
        if !slot.state.is_moved() {
            let fresh_at = slot.state.fresh_at(rule);
            let is_denying = fresh_at > now && slot.state.is_denying(rule, now);
            return Standing { fresh_at, is_denying, is_booked: false };
        }
        match self.moved.get(&slot.fingerprint) {
            Some(moved) => Standing {
                fresh_at: moved.fresh_at,
                is_denying: moved.denied_until > now,
                is_booked: moved.booked_until > now,
            },
            None => Standing { fresh_at: 0, is_denying: false, is_booked: false },
        }
    }

    fn remove_at(&mut self, index: usize) -> bool {
        match self.slots.get_bucket_entry(index) {
            Ok(slot) => {
                let (slot, _) = slot.remove();
                self.moved.remove(&slot.fingerprint);
                true
            }
            Err(_) => false,
        }
    }

    /// Looks at the next few slots and removes the buckets that are as if nobody had used them.
    fn sweep(&mut self, bound: &Bound, rule: &Rule, now: u64) {
        let slots = self.slots.num_buckets();
        let mut removed = 0;
        for _ in 0..SWEPT.min(slots) {
            self.cursor = if self.cursor + 1 >= slots { 0 } else { self.cursor + 1 };
            if let Some(slot) = self.slots.get_bucket(self.cursor)
                && self.standing(slot, rule, now).fresh_at <= now
                && self.remove_at(self.cursor)
            {
                removed += 1;
            }
        }
        if removed > 0 {
            bound.release(removed);
            self.shrink();
        }
    }

    /// Gives memory back once a flood of keys has gone.
    fn shrink(&mut self) {
        if self.slots.num_buckets() > 64 && self.slots.len() * 8 < self.slots.num_buckets() {
            let target = self.slots.len() * 2;
            self.slots.shrink_to(target, |slot| slot.fingerprint);
            self.moved.shrink_to(self.moved.len() * 2);
        }
    }

    /// Removes, of the next few buckets, the one closest to fresh: one that is being denied only where `denying` says so, and
    /// never one for which permits are booked ahead.
    fn evict(&mut self, bound: &Bound, rule: &Rule, now: u64, denying: bool) -> bool {
        let slots = self.slots.num_buckets();
        let mut victim: Option<((bool, u64), usize)> = None;
        let mut sampled = 0;
        for _ in 0..slots {
            self.cursor = if self.cursor + 1 >= slots { 0 } else { self.cursor + 1 };
            let Some(slot) = self.slots.get_bucket(self.cursor) else { continue };
            sampled += 1;
            let standing = self.standing(slot, rule, now);
            let rank = (standing.is_denying, standing.fresh_at);
            if !standing.is_booked && (denying || !standing.is_denying) && victim.is_none_or(|(best, _)| rank < best) {
                victim = Some((rank, self.cursor));
            }
            if sampled >= SAMPLED {
                break;
            }
        }
        match victim {
            Some((_, index)) if self.remove_at(index) => {
                bound.release(1);
                bound.evicted.fetch_add(1, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }
}

struct Standing {
    fresh_at: u64,
    is_denying: bool,
    is_booked: bool,
}

/// A fingerprint is a hash already.
#[derive(Default)]
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}
