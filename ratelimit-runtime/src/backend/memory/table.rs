//! Tables from fingerprints to states, in shards with a lock each, that together never hold more than so many.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::WhenFull;
use super::compact::Compact;
use super::slots::{self, Place, Slot, Slots};
use crate::algorithm::Rule;
use crate::algorithm::record::Record;
use crate::observe::KeysWatch;
use crate::sync::{AtomicU64, AtomicUsize, Lock, Ordering};

/// Shards of a table: more than the cores of most machines, so that two threads seldom meet.
#[cfg(not(loom_model))]
const SHARDS: usize = 64;
#[cfg(loom_model)]
const SHARDS: usize = 2;
/// Slots that are looked at for buckets which nobody uses any more, for each call that brings a new key.
pub(super) const SWEPT: usize = 8;
/// As many are looked at by one call for several: lines that follow each other come from memory much faster.
const SWEPT_AT_ONCE: usize = 256;
/// Slots that one in 256 of a shard's calls looks at though it brings no new key.
const SWEPT_SELDOM: usize = 32;
/// Buckets among which one is chosen where the backend is full.
const SAMPLED: usize = 16;

/// How many buckets all tables of a backend hold, and may.
pub(super) struct Bound {
    pub(super) max_keys: usize,
    pub(super) when_full: WhenFull,
    len: AtomicUsize,
    pub(super) evicted: AtomicU64,
    pub(super) untracked: AtomicU64,
    watch: KeysWatch,
}

impl Bound {
    pub(super) fn new(max_keys: usize, when_full: WhenFull) -> Bound {
        Bound {
            max_keys: max_keys.max(1),
            when_full,
            len: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            untracked: AtomicU64::new(0),
            watch: KeysWatch::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Counts one more bucket if there is room.
    fn claim(&self) -> bool {
        let claim = |len: usize| (len < self.max_keys).then_some(len + 1);
        let claimed = self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim);
        if let Ok(before) = claimed {
            self.watch.tracked(before + 1);
        }
        claimed.is_ok()
    }

    fn release(&self, buckets: usize) {
        let before = self.len.fetch_sub(buckets, Ordering::Relaxed);
        self.watch.tracked(before - buckets);
    }

    /// Counts a bucket in use that goes.
    fn evict(&self) {
        self.release(1);
        self.evicted.fetch_add(1, Ordering::Relaxed);
        self.watch.evicted();
    }
}

/// The buckets of one store, in cache lines of `W`.
pub(super) struct Table<S, const W: usize> {
    shards: Box<[Padded<S, W>; SHARDS]>,
}

/// On cache lines of its own (two, because processors fetch them in pairs).
#[repr(align(128))]
struct Padded<S, const W: usize> {
    shard: Lock<Shard<S, W>>,
    /// Lines of the shard's slots when somebody looked last: beside the lock, to be read before it is taken.
    lines: AtomicUsize,
}

struct Shard<S, const W: usize> {
    slots: Slots<S, W>,
    /// States that are more than a small one can say.
    #[expect(clippy::box_collection, reason = "all else is in the cache line of the lock")]
    moved: Box<HashMap<u64, Moved, BuildHasherDefault<Fingerprint>>>,
    /// The line that was looked at last.
    cursor: usize,
    /// New keys for which no line has been looked at yet.
    unswept: u32,
    /// Wraps when it is time for a look though there is no new key.
    calls: u8,
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

/// Why a call was not decided by [`Table::try_with`].
pub(crate) enum Why {
    /// It is its turn to sweep.
    Sweep,
    /// There is no such state, or it is kept as a record, or another thread has the lock, or nobody has looked since there
    /// are more slots, or fewer.
    Other,
}

/// Whether a call has looked for buckets that nobody uses any more.
pub(super) enum Looked {
    Nowhere,
    ForNewKey,
    /// It was its turn.
    InTurn,
}

/// What a key is known by in its shard, which goes by the lowest bits of the hash and the place in it by the highest.
///
/// Zero is what an empty slot has: the one hash in 2⁶⁴ that it is of shares another's fingerprint.
#[inline]
pub(super) fn fingerprint(hash: u64) -> u64 {
    hash.max(1)
}

/// There was no room for a new key, unless another one goes.
pub(super) struct Full;

impl<S: Compact, const W: usize> Table<S, W> {
    pub(super) fn new() -> Table<S, W> {
        let shard = || Shard { slots: Slots::new(), moved: Box::default(), cursor: 0, calls: 0, unswept: 0 };
        let padded = |_| Padded { shard: Lock::new(shard()), lines: AtomicUsize::new(0) };
        Table { shards: Box::new(std::array::from_fn(padded)) }
    }

    /// The shard of a key by its hash, and its fingerprint there.
    #[inline]
    fn padded(&self, hash: u64) -> (&Padded<S, W>, u64) {
        #[expect(clippy::cast_possible_truncation, reason = "only the lowest bits matter")]
        let shard = hash as usize % SHARDS;
        (&self.shards[shard], fingerprint(hash))
    }

    fn shard(&self, hash: u64) -> (&Lock<Shard<S, W>>, u64) {
        let (padded, fingerprint) = self.padded(hash);
        (&padded.shard, fingerprint)
    }

    /// As [`with`](Table::with), where nothing else is to be done than that. Calls nothing, so that all of it stays in
    /// registers.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn try_with<R>(&self, hash: u64, f: impl FnOnce(&mut S) -> R) -> Result<R, Why> {
        let (Padded { shard, lines }, fingerprint) = self.padded(hash);
        // A multiplication that what comes behind the lock then need not wait for. By a number that is no longer right it is
        // looked for at a wrong place, and not found.
        let home = slots::home(fingerprint, lines.load(Ordering::Relaxed));
        let Some(mut shard) = shard.try_lock() else { return Err(Why::Other) };
        shard.calls = shard.calls.wrapping_add(1);
        if shard.calls == 0 {
            return Err(Why::Sweep);
        }
        match shard.slots.get_near(home, fingerprint) {
            Some(state) if !state.is_moved() => Ok(f(state)),
            _ => Err(Why::Other),
        }
    }

    /// Runs `f` on a small state, which is made where there is none; not on one that is kept as a record, nor where there is
    /// no room for a new one. Looks for buckets that nobody uses any more if it `sweeps`.
    pub(super) fn with<R>(
        &self,
        bound: &Bound,
        rule: &Rule,
        hash: u64,
        now: u64,
        sweeps: bool,
        f: impl FnOnce(&mut S) -> R,
    ) -> (Option<R>, Looked) {
        let (Padded { shard, lines }, fingerprint) = self.padded(hash);
        let mut shard = shard.lock();
        shard.calls = shard.calls.wrapping_add(1);
        let sweeps = sweeps || shard.calls == 0;
        if sweeps {
            shard.sweep(bound, rule, now, SWEPT_SELDOM);
        }
        let looked = if sweeps { Looked::InTurn } else { Looked::Nowhere };
        let done = match shard.slots.get_mut(fingerprint) {
            Some(state) if state.is_moved() => (None, looked),
            Some(state) => (Some(f(state)), looked),
            None => (shard.with_new(bound, rule, fingerprint, now, f), Looked::ForNewKey),
        };
        lines.store(shard.slots.lines(), Ordering::Relaxed);
        done
    }

    /// Runs `f` on the record of a bucket, whatever its state is kept as, and keeps it as small as it can be: on a record
    /// where the limits of the call are not the usual ones, by which small states are judged.
    pub(super) fn with_record<R>(
        &self,
        bound: &Bound,
        rule: &Rule,
        hash: u64,
        now: u64,
        is_usual: bool,
        f: impl FnOnce(&mut Moved) -> R,
    ) -> Result<R, Full> {
        let (shard, fingerprint) = self.shard(hash);
        let mut shard = shard.lock();
        if shard.slots.find(fingerprint).is_none() {
            shard.make_room(bound, rule, now)?;
            shard.slots.insert(fingerprint, S::fresh());
        }
        let Shard { slots, moved, .. } = &mut *shard;
        let Some(state) = slots.get_mut(fingerprint) else { return Err(Full) };
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
    pub(super) fn record(&self, rule: &Rule, hash: u64, now: u64) -> Option<Record> {
        let (shard, fingerprint) = self.shard(hash);
        let shard = shard.lock();
        let state = shard.slots.get(fingerprint)?;
        if state.is_moved() {
            return shard.moved.get(&fingerprint).map(|moved| moved.record.clone());
        }
        Some(state.to_record(rule, now))
    }

    /// Whether there is a bucket.
    pub(super) fn contains(&self, hash: u64) -> bool {
        let (shard, fingerprint) = self.shard(hash);
        shard.lock().slots.find(fingerprint).is_some()
    }

    pub(super) fn remove(&self, bound: &Bound, hash: u64) {
        let (shard, fingerprint) = self.shard(hash);
        let mut shard = shard.lock();
        if let Some(place) = shard.slots.find(fingerprint) {
            shard.remove(place, fingerprint);
            bound.release(1);
        }
    }

    pub(super) fn clear(&self, bound: &Bound) {
        for shard in self.shards.iter() {
            let mut shard = shard.shard.lock();
            bound.release(shard.slots.len());
            shard.slots = Slots::new();
            *shard.moved = HashMap::default();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.shard.lock().slots.len()).sum()
    }

    /// Places for buckets, taken or not.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.shard.lock().slots.places()).sum()
    }

    /// Reclaims buckets as if nobody had used them from one shard, whether there were any.
    pub(super) fn sweep(&self, bound: &Bound, rule: &Rule, shard: usize, now: u64, slots: usize) -> bool {
        let shard = &self.shards[shard % SHARDS].shard;
        shard.try_lock().is_some_and(|mut shard| shard.sweep(bound, rule, now, slots))
    }

    /// Evicts one bucket from a shard that nobody holds, first from that of `hash`: so all shards give as many as they
    /// get. One that is being denied only where `denying` says so.
    pub(super) fn evict(&self, bound: &Bound, rule: &Rule, hash: u64, now: u64, denying: bool) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "only the lowest bits matter")]
        let (before, after) = self.shards.split_at(hash as usize % SHARDS);
        let mut shards = after.iter().chain(before).filter_map(|shard| shard.shard.try_lock());
        shards.any(|mut shard| shard.evict(bound, rule, now, denying))
    }
}

impl<S: Compact, const W: usize> Shard<S, W> {
    #[inline(never)]
    fn with_new<R>(
        &mut self,
        bound: &Bound,
        rule: &Rule,
        fingerprint: u64,
        now: u64,
        f: impl FnOnce(&mut S) -> R,
    ) -> Option<R> {
        let mut state = S::fresh();
        if state.is_moved() || self.make_room(bound, rule, now).is_err() {
            return None;
        }
        let result = f(&mut state);
        self.slots.insert(fingerprint, state);
        Some(result)
    }

    /// Makes room for one bucket and counts it, without evicting one that is in use.
    fn make_room(&mut self, bound: &Bound, rule: &Rule, now: u64) -> Result<(), Full> {
        let has_room = bound.claim() || self.sweep(bound, rule, now, SWEPT) && bound.claim();
        if !has_room {
            return Err(Full);
        }
        self.unswept += 1;
        let is_due = self.unswept as usize * SWEPT >= SWEPT_AT_ONCE.min(self.slots.places());
        // A table does not grow for buckets that nobody uses.
        if is_due || self.slots.is_to_grow() {
            self.unswept = 0;
            self.sweep(bound, rule, now, SWEPT_AT_ONCE);
        }
        Ok(())
    }

    /// When a slot's bucket is as if nobody had used it, whether it is being denied, and whether permits are booked ahead.
    fn standing(&self, slot: &Slot<S>, rule: &Rule, now: u64) -> Standing {
        if !slot.state.is_moved() {
            let fresh_at = slot.state.fresh_at(rule);
            let is_denying = fresh_at > now && slot.state.is_denying(rule, now);
            return Standing { fresh_at, is_denying, is_booked: false };
        }
        match self.moved.get(&slot.fingerprint()) {
            Some(moved) => Standing {
                fresh_at: moved.fresh_at,
                is_denying: moved.denied_until > now,
                is_booked: moved.booked_until > now,
            },
            None => Standing { fresh_at: 0, is_denying: false, is_booked: false },
        }
    }

    /// Whether a slot's bucket is as if nobody had used it.
    fn is_fresh(&self, slot: &Slot<S>, rule: &Rule, now: u64) -> bool {
        if slot.state.is_moved() {
            return self.moved.get(&slot.fingerprint()).is_none_or(|moved| moved.fresh_at <= now);
        }
        S::are_fresh(rule, now)(&slot.state)
    }

    fn remove(&mut self, place: Place, fingerprint: u64) {
        self.slots.remove(place);
        self.moved.remove(&fingerprint);
    }

    /// The next line that is to be looked at.
    fn step(&mut self) -> usize {
        self.cursor = if self.cursor + 1 < self.slots.lines() { self.cursor + 1 } else { 0 };
        self.cursor
    }

    /// Looks at the next few lines and removes the buckets that are as if nobody had used them.
    #[inline(never)]
    fn sweep(&mut self, bound: &Bound, rule: &Rule, now: u64, slots: usize) -> bool {
        let mut removed = 0;
        let are_fresh = S::are_fresh(rule, now);
        for _ in 0..(slots / W).min(self.slots.lines()) {
            let line = self.step();
            if !self.slots.any_of(line, |state| state.is_moved() | are_fresh(state)) {
                continue;
            }
            for place in Slots::<S, W>::places_of(line) {
                if let Some(slot) = self.slots.at(place)
                    && self.is_fresh(slot, rule, now)
                {
                    let fingerprint = slot.fingerprint();
                    self.remove(place, fingerprint);
                    removed += 1;
                }
            }
        }
        if removed > 0 {
            bound.release(removed);
            self.shrink();
        }
        removed > 0
    }

    /// Gives memory back once a flood of keys has gone.
    fn shrink(&mut self) {
        if self.slots.places() > 64 && self.slots.len() * 8 < self.slots.places() {
            self.slots.shrink();
            self.moved.shrink_to(self.moved.len() * 2);
        }
    }

    /// Removes, of the next few buckets, the one closest to fresh: one that is being denied only where `denying` says so, and
    /// never one for which permits are booked ahead.
    fn evict(&mut self, bound: &Bound, rule: &Rule, now: u64, denying: bool) -> bool {
        let mut victim: Option<((bool, u64), Place, u64)> = None;
        let mut sampled = 0;
        for _ in 0..self.slots.lines() {
            let line = self.step();
            for place in Slots::<S, W>::places_of(line) {
                let Some(slot) = self.slots.at(place) else { continue };
                sampled += 1;
                let standing = self.standing(slot, rule, now);
                let rank = (standing.is_denying, standing.fresh_at);
                if !standing.is_booked
                    && (denying || !standing.is_denying)
                    && victim.is_none_or(|(best, ..)| rank < best)
                {
                    victim = Some((rank, place, slot.fingerprint()));
                }
            }
            if sampled >= SAMPLED {
                break;
            }
        }
        let Some(((_, fresh_at), place, fingerprint)) = victim else { return false };
        self.remove(place, fingerprint);
        if fresh_at > now {
            bound.evict();
        } else {
            bound.release(1);
        }
        self.shrink();
        true
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

/// Every order in which two threads can take a table's locks and count its buckets.
#[cfg(all(test, loom_model))]
mod model {
    use std::time::Duration;

    use loom::sync::Arc;
    use loom::thread;

    use super::super::compact::Tat;
    use super::super::window::Window;
    use super::*;
    use crate::algorithm::record::Ask;
    use crate::clock;
    use crate::limit::{Algorithm, Limit};

    struct Shared<S> {
        table: Table<S, 2>,
        bound: Bound,
        rule: Rule,
    }

    impl<S: Compact> Shared<S> {
        fn new(algorithm: Algorithm, count: u32, max_keys: usize) -> Shared<S> {
            let rule = Rule::new(Limit::new(count, Duration::from_secs(60)).with_algorithm(algorithm));
            Shared { table: Table::new(), bound: Bound::new(max_keys, WhenFull::Admit), rule }
        }

        /// As most calls: the quick way, else the other.
        fn take(&self, fingerprint: u64) -> Option<bool> {
            let take = |state: &mut S| state.take(&self.rule, now(), 1).is_ok();
            let quick = self.table.try_with(fingerprint, take);
            let usual = || self.table.with(&self.bound, &self.rule, fingerprint, now(), false, take).0;
            quick.ok().or_else(usual).or_else(|| {
                self.table.evict(&self.bound, &self.rule, fingerprint, now(), false);
                usual()
            })
        }

        /// As a call that is decided on a record.
        fn take_on_record(&self, fingerprint: u64) -> bool {
            let ask = Ask { rules: &[self.rule], backoff: None, cost: 1, max_wait: 0 };
            let take = |moved: &mut Moved| moved.record.take(&ask, now().max(moved.record.clock)).is_ok();
            self.table.with_record(&self.bound, &self.rule, fingerprint, now(), true, take).unwrap_or(false)
        }

        /// What is counted is what is there, and no more than may be.
        fn check(&self) {
            let kept: usize = self.table.shards.iter().map(|shard| shard.shard.lock().slots.len()).sum();
            assert_eq!(self.bound.len(), kept);
            assert!(kept <= self.bound.max_keys);
        }
    }

    fn now() -> u64 {
        clock::origin() + 1_000_000_000
    }

    fn at_once<S: Compact + 'static, A: 'static, B: 'static>(
        shared: Shared<S>,
        one: impl FnOnce(&Shared<S>) -> A + 'static,
        two: impl FnOnce(&Shared<S>) -> B + 'static,
    ) -> (Arc<Shared<S>>, A, B) {
        let shared = Arc::new(shared);
        let other = Arc::clone(&shared);
        let handle = thread::spawn(move || two(&other));
        let a = one(&shared);
        let b = handle.join().unwrap();
        shared.check();
        (shared, a, b)
    }

    fn a_new_keys_permit_is_given_to_one_of_two<S: Compact + 'static>(algorithm: Algorithm) {
        loom::model(move || {
            let shared = Shared::<S>::new(algorithm, 1, 10);
            let (shared, a, b) = at_once(shared, |it| it.take(7), |it| it.take(7));
            assert_eq!([a, b].into_iter().filter(|taken| *taken == Some(true)).count(), 1);
            assert_eq!(shared.bound.len(), 1);
        });
    }

    #[test]
    fn a_new_keys_token_is_given_to_one_of_two() {
        a_new_keys_permit_is_given_to_one_of_two::<Tat>(Algorithm::TokenBucket);
    }

    #[test]
    fn a_new_keys_place_in_a_window_is_given_to_one_of_two() {
        a_new_keys_permit_is_given_to_one_of_two::<Window>(Algorithm::SlidingWindow);
    }

    #[test]
    fn both_ways_together_give_a_key_its_count() {
        loom::model(|| {
            let shared = Shared::<Tat>::new(Algorithm::TokenBucket, 2, 10);
            let quick = |it: &Shared<Tat>| u32::from(it.take(7) == Some(true)) + u32::from(it.take(7) == Some(true));
            let (_, a, b) = at_once(shared, quick, |it| u32::from(it.take_on_record(7)));
            assert_eq!(a + b, 2);
        });
    }

    #[test]
    fn keys_of_two_shards_share_the_bound() {
        loom::model(|| {
            let shared = Shared::<Tat>::new(Algorithm::TokenBucket, 2, 1);
            // Each finds room, or makes it by evicting the other, which is not being denied.
            let (shared, ..) = at_once(shared, |it| it.take(2), |it| it.take(3));
            assert_eq!(shared.bound.len(), 1);
        });
    }

    #[test]
    fn a_bucket_that_is_removed_meanwhile_is_counted_off_once() {
        loom::model(|| {
            let shared = Shared::<Tat>::new(Algorithm::TokenBucket, 1, 10);
            assert_eq!(shared.take(7), Some(true));
            let (_, (), ()) = at_once(shared, |it| it.table.remove(&it.bound, 7), |it| it.table.remove(&it.bound, 7));
        });
    }
}
