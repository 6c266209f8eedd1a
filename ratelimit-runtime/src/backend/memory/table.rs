//! A hash table from fingerprints to records, in shards with a lock each, that never holds more than so many.

use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use parking_lot::Mutex;

use crate::algorithm::record::Record;

/// Shards: more than the cores of most machines, so that two threads seldom meet.
const SHARDS: usize = 64;
/// Entries that a call which brings a new key looks at, to reclaim those that nobody uses any more.
const SWEPT: usize = 4;
/// Entries among which one is chosen where the table is full.
const SAMPLED: usize = 16;

/// What is kept for one key.
pub(super) struct Entry {
    fingerprint: u64,
    /// When the record is as if nobody had used it.
    pub(super) fresh_at: u64,
    /// The key was denied until then.
    pub(super) denied_until: u64,
    pub(super) record: Record,
}

pub(super) struct Table {
    shards: Box<[Shard]>,
    len: AtomicUsize,
    max_keys: usize,
}

/// On cache lines of its own (two, because processors fetch them in pairs).
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<Entries>);

/// Entries side by side, where they can be swept in order, and an index into them by fingerprint.
#[derive(Default)]
struct Entries {
    index: HashTable<u32>,
    entries: Vec<Entry>,
    /// Where the next sweep begins.
    cursor: usize,
}

impl Table {
    pub(super) fn new(max_keys: usize) -> Table {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Table { shards, len: AtomicUsize::new(0), max_keys: max_keys.min(u32::MAX as usize) }
    }

    pub(super) fn max_keys(&self) -> usize {
        self.max_keys
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed).min(self.max_keys)
    }

    fn shard(&self, fingerprint: u64) -> &Mutex<Entries> {
        // The table within takes the hash's low bits for the place and its top seven for the tag.
        let shard = (fingerprint >> 48) as usize % SHARDS;
        &self.shards[shard].0
    }

    /// Runs `f` on the entry of `fingerprint`, which is made where there is none.
    pub(super) fn with<R>(&self, fingerprint: u64, now: u64, f: impl FnOnce(&mut Entry) -> R) -> R {
        let mut shard = self.shard(fingerprint).lock();
        let position = match shard.find(fingerprint) {
            Some(position) => position,
            None => self.insert(&mut shard, fingerprint, now),
        };
        f(&mut shard.entries[position])
    }

    /// Runs `f` on the entry of `fingerprint`, if there is one.
    pub(super) fn with_existing<R>(&self, fingerprint: u64, f: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let mut shard = self.shard(fingerprint).lock();
        let position = shard.find(fingerprint)?;
        Some(f(&mut shard.entries[position]))
    }

    pub(super) fn remove(&self, fingerprint: u64) {
        let mut shard = self.shard(fingerprint).lock();
        if let Some(position) = shard.find(fingerprint) {
            shard.remove(position);
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[cfg(feature = "test-util")]
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let entries = std::mem::take(&mut *shard.0.lock());
            self.len.fetch_sub(entries.entries.len(), Ordering::Relaxed);
        }
    }

    fn insert(&self, shard: &mut Entries, fingerprint: u64, now: u64) -> usize {
        let reclaimed = shard.sweep(now);
        self.len.fetch_sub(reclaimed, Ordering::Relaxed);
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.max_keys {
            self.evict(shard, now);
        }
        shard.push(Entry { fingerprint, fresh_at: 0, denied_until: 0, record: Record::default() })
    }

    /// Makes room for one entry: in `shard`, or where that is empty in the first other one that nobody holds.
    fn evict(&self, shard: &mut Entries, now: u64) {
        let mut evicted = shard.evict(now);
        while !evicted {
            evicted = self.shards.iter().filter_map(|other| other.0.try_lock()).any(|mut other| other.evict(now));
        }
        self.len.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entries {
    fn find(&self, fingerprint: u64) -> Option<usize> {
        let same = |position: &u32| self.entries[*position as usize].fingerprint == fingerprint;
        self.index.find(fingerprint, same).map(|position| *position as usize)
    }

    fn push(&mut self, entry: Entry) -> usize {
        let position = self.entries.len();
        let fingerprint = entry.fingerprint;
        self.entries.push(entry);
        let entries = &self.entries;
        #[expect(clippy::cast_possible_truncation, reason = "a table holds at most u32::MAX entries")]
        self.index.insert_unique(fingerprint, position as u32, |at| entries[*at as usize].fingerprint);
        position
    }

    fn remove(&mut self, position: usize) {
        let fingerprint = self.entries[position].fingerprint;
        self.unlink(fingerprint, position);
        self.entries.swap_remove(position);
        if let Some(moved) = self.entries.get(position) {
            let from = self.entries.len();
            if let Some(index) = self.index.find_mut(moved.fingerprint, |at| *at as usize == from) {
                #[expect(clippy::cast_possible_truncation, reason = "a table holds at most u32::MAX entries")]
                let position = position as u32;
                *index = position;
            }
        }
        self.shrink();
    }

    fn unlink(&mut self, fingerprint: u64, position: usize) {
        let entries = &self.entries;
        let slot = self.index.entry(fingerprint, |at| *at as usize == position, |at| entries[*at as usize].fingerprint);
        if let Slot::Occupied(slot) = slot {
            slot.remove();
        }
    }

    /// Gives memory back once a flood of keys has gone.
    fn shrink(&mut self) {
        if self.entries.len() * 4 < self.entries.capacity() && self.entries.capacity() > 64 {
            let target = self.entries.len() * 2;
            self.entries.shrink_to(target);
            let entries = &self.entries;
            self.index.shrink_to(target, |at| entries[*at as usize].fingerprint);
        }
    }

    /// Looks at the next few entries and removes those that are as if nobody had used them.
    fn sweep(&mut self, now: u64) -> usize {
        let before = self.entries.len();
        for _ in 0..SWEPT.min(before) {
            if self.cursor >= self.entries.len() {
                self.cursor = 0;
            }
            match self.entries.get(self.cursor) {
                Some(entry) if entry.fresh_at <= now => self.remove(self.cursor),
                _ => self.cursor += 1,
            }
        }
        before - self.entries.len()
    }

    /// Removes, of the next few entries, the one closest to fresh: one that is being denied only if all of them are.
    fn evict(&mut self, now: u64) -> bool {
        let len = self.entries.len();
        let positions = (0..SAMPLED.min(len)).map(|offset| (self.cursor + offset) % len);
        let victim = positions.min_by_key(|position| {
            let entry = &self.entries[*position];
            (entry.denied_until > now, entry.fresh_at)
        });
        match victim {
            Some(position) => {
                self.cursor = (self.cursor + SAMPLED) % len;
                self.remove(position);
                true
            }
            None => false,
        }
    }
}
