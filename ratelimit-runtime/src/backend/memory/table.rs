//! Tables from fingerprints to states, in shards with a lock each. A [`Bound`] limits the buckets
//! of all tables of a backend together.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::WhenFull;
use super::fingerprint::{Fingerprint, fingerprint};
use super::queue::{BoxedQueue, Queue};
use super::slots::{self, Place, Slots};
use super::state::{Standing, State};
use crate::algorithm::Rule;
use crate::observe::KeysWatch;
use crate::rt::clock::Now;
use crate::rt::sync::{AtomicU64, AtomicUsize, Guard, Lock, Ordering};

/// Shards of a table. More than the cores of most machines, so that two threads seldom meet.
#[cfg(not(loom_model))]
const SHARDS: usize = 64;
#[cfg(loom_model)]
const SHARDS: usize = 2;
/// Slots that are swept for each call with a new key.
pub(super) const SWEPT: usize = 8;
/// Slots that are swept at once: processors prefetch sequential cache lines.
const SWEPT_AT_ONCE: usize = 256;
/// Slots that one in 256 of a shard's calls sweeps, even without a new key.
const SWEPT_SELDOM: usize = 32;
/// Buckets that an eviction samples, unless the backend has few.
const SAMPLED: usize = 32;
/// If `max_keys` is no larger than this, an eviction examines all buckets.
const FEW: usize = 1_024;
/// How long an idle bucket is kept, in nanoseconds. A key that is called more often finds it again.
/// Under valgrind calls take fifty times as long.
const GRACE: u64 = if cfg!(callgrind) { 1 << 30 } else { 2_000_000 };
/// Slots that are copied at once, under a shard's lock.
const COPIED_AT_ONCE: usize = 256;
/// Keys that a shard knows to be called often.
const FREQUENT: usize = 8;

/// How many buckets all tables of a backend hold, and how many they may hold.
pub(super) struct Bound {
    pub(super) max_keys: usize,
    pub(super) when_full: WhenFull,
    len: AtomicUsize,
    /// Keys with waiting calls.
    waited: AtomicUsize,
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
            waited: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            untracked: AtomicU64::new(0),
            watch: KeysWatch::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Counts one more bucket, if there is room.
    pub(super) fn claim(&self) -> bool {
        let claim = |len: usize| (len < self.max_keys).then_some(len + 1);
        let claimed = self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim);
        if let Ok(before) = claimed {
            self.watch.tracked(before + 1);
        }
        claimed.is_ok()
    }

    /// Whether calls may begin to wait for one more key. Keys with waiting calls cannot be evicted,
    /// so they get half of the room.
    pub(super) fn may_wait(&self) -> bool {
        self.waited.load(Ordering::Relaxed) < self.max_keys.div_ceil(2)
    }

    pub(super) fn release(&self, buckets: usize) {
        let before = self.len.fetch_sub(buckets, Ordering::Relaxed);
        self.watch.tracked(before - buckets);
    }

    /// Releases and counts an evicted bucket that was in use.
    fn evict(&self) {
        self.release(1);
        self.count_evicted(1);
    }

    /// Counts evicted buckets that were in use and are released already.
    pub(super) fn count_evicted(&self, buckets: usize) {
        self.evicted.fetch_add(buckets as u64, Ordering::Relaxed);
        (0..buckets).for_each(|_| self.watch.evicted());
    }
}

/// The buckets of one store, in lines of `W` slots.
pub(super) struct Table<S, const W: usize> {
    shards: Box<[Padded<S, W>; SHARDS]>,
}

/// A shard on its own two cache lines, because processors fetch them in pairs.
#[repr(align(128))]
struct Padded<S, const W: usize> {
    shard: Lock<Shard<S, W>>,
    /// Lines of the shard's slots at the last change. Outside the lock, to be read before it is
    /// taken.
    lines: AtomicUsize,
}

struct Shard<S, const W: usize> {
    slots: Slots<S, W>,
    /// Counts calls. When it wraps, a sweep is due even without a new key.
    calls: u8,
    /// Some keys have queues.
    is_waited: bool,
    /// Makes no more buckets: new keys go to another table.
    is_closed: bool,
    /// New keys for which no slots were swept yet.
    unswept: u32,
    /// Everything else, outside the cache line of the lock.
    rest: Box<Rest>,
}

#[derive(Default)]
struct Rest {
    /// Waiting calls, by the fingerprint of their key.
    queues: HashMap<u64, BoxedQueue, BuildHasherDefault<Fingerprint>>,
    /// The line that was swept last.
    cursor: usize,
    /// When the current round of sweeps began, and how long the last round took.
    began: u64,
    took: u64,
    /// Fingerprints of the keys of every 256th call. A flood of keys that are called a few times
    /// each seldom gets in.
    frequent: [u64; FREQUENT],
    calls: usize,
}

/// A key's state, under the lock of its shard.
pub(super) struct Reached<'a, S, const W: usize> {
    shard: Guard<'a, Shard<S, W>>,
    place: Place,
}

impl<S: State, const W: usize> Reached<'_, S, W> {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn state(&mut self) -> Option<&mut S> {
        self.shard.slots.at_mut(self.place)
    }
}

/// Why the fast path does not reach a state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreached {
    /// The key has no bucket in this table.
    Missing,
    /// The lock is taken, a sweep is due, or calls wait.
    Busy,
}

/// The form and the rules that judge a table's states without a call.
pub(super) struct Context<'a, S: State> {
    pub(super) bound: &'a Bound,
    pub(super) form: &'a S::Form,
    pub(super) written: &'a [Rule],
}

impl<S: State> Clone for Context<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: State> Copy for Context<'_, S> {}

/// The outcome of a call on a bucket.
#[derive(Default)]
pub(super) enum With<R> {
    Done(R),
    /// Other calls wait for the key.
    Waited,
    /// There is no room for a new key, unless a bucket is evicted.
    Full,
    /// New keys go to another table.
    #[default]
    Closed,
}

/// Whether a call has swept, and why.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Swept {
    #[default]
    Nothing,
    ForNewKey,
    InTurn,
}

impl<S: State, const W: usize> Table<S, W> {
    pub(super) fn new() -> Table<S, W> {
        let shard = || Shard {
            slots: Slots::new(),
            calls: 0,
            is_waited: false,
            is_closed: false,
            unswept: 0,
            rest: Box::default(),
        };
        let padded = |_| Padded { shard: Lock::new(shard()), lines: AtomicUsize::new(0) };
        Table { shards: Box::new(std::array::from_fn(padded)) }
    }

    /// The shard of a key by its hash, and the key's fingerprint.
    #[inline]
    fn padded(&self, hash: u64) -> (&Padded<S, W>, u64) {
        #[expect(clippy::cast_possible_truncation, reason = "only the lowest bits matter")]
        let shard = hash as usize % SHARDS;
        (&self.shards[shard], fingerprint(hash))
    }

    /// The fast path of [`with`](Table::with): an existing state, unless there is anything else to
    /// do. Nearly all states are near their home line: for those it calls no function, so that all
    /// of a decision stays in registers. For the same reason it takes no closure, which the compiler
    /// would not inline into all callers. A call that `PEEKS` brings no sweep nearer.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn try_reach<const PEEKS: bool>(&self, hash: u64) -> Result<Reached<'_, S, W>, Unreached> {
        let (Padded { shard, lines }, fingerprint) = self.padded(hash);
        // Multiplies early, so that code behind the lock need not wait for it. A stale number of
        // lines leads to a wrong line, and the search begins anew.
        let home = slots::home(fingerprint, lines.load(Ordering::Relaxed));
        let mut shard = shard.try_lock().ok_or(Unreached::Busy)?;
        if !PEEKS {
            let calls = shard.calls.wrapping_add(1);
            if calls == 0 {
                return Err(Unreached::Busy);
            }
            shard.calls = calls;
        }
        if shard.is_waited {
            return Err(Unreached::Busy);
        }
        let place = match shard.slots.find_near(home, fingerprint) {
            Some(place) => place,
            None => shard.slots.find(fingerprint).ok_or(Unreached::Missing)?,
        };
        Ok(Reached { shard, place })
    }

    /// Runs `f` on a key's state, and makes it if it is missing. Sweeps a few slots for each new
    /// key, and at every 256th call.
    pub(super) fn with<R>(
        &self,
        context: Context<'_, S>,
        hash: u64,
        now: Now,
        f: impl FnOnce(&mut S) -> R,
    ) -> (With<R>, Swept) {
        let (Padded { shard, lines }, fingerprint) = self.padded(hash);
        let mut shard = shard.lock();
        shard.calls = shard.calls.wrapping_add(1);
        let is_due = shard.calls == 0;
        if is_due {
            shard.count_frequent(fingerprint);
            shard.sweep(context, now, SWEPT_SELDOM);
        }
        let swept = if is_due { Swept::InTurn } else { Swept::Nothing };
        let done = if shard.is_waited && shard.rest.queues.contains_key(&fingerprint) {
            (With::Waited, swept)
        } else if let Some(state) = shard.slots.get_mut(fingerprint) {
            (With::Done(f(state)), swept)
        } else {
            (shard.with_new(context, fingerprint, now, f), Swept::ForNewKey)
        };
        lines.store(shard.slots.lines(), Ordering::Relaxed);
        done
    }

    /// Counts a call that [`try_reach`](Table::try_reach) left to a slower path, and sweeps if that
    /// is due. Until the sweep, it leaves all calls of the shard. Returns whether a sweep was due.
    pub(super) fn take_turn(&self, context: Context<'_, S>, hash: u64, now: Now) -> Swept {
        let (Padded { shard, lines }, fingerprint) = self.padded(hash);
        let mut shard = shard.lock();
        shard.calls = shard.calls.wrapping_add(1);
        if shard.calls != 0 {
            return Swept::Nothing;
        }
        shard.count_frequent(fingerprint);
        shard.sweep(context, now, SWEPT_SELDOM);
        lines.store(shard.slots.lines(), Ordering::Relaxed);
        Swept::InTurn
    }

    /// Runs `f` on a key's state and queue, and makes them if they are missing.
    pub(super) fn with_queue<R>(
        &self,
        context: Context<'_, S>,
        hash: u64,
        now: Now,
        f: impl FnOnce(&mut S, &mut Queue) -> R,
    ) -> With<R> {
        let (Padded { shard, lines }, fingerprint) = self.padded(hash);
        let mut shard = shard.lock();
        let queue = shard.rest.queues.remove(&fingerprint);
        let (was_waited, mut queue) = (queue.is_some(), queue.unwrap_or_default());
        let queued = &mut queue;
        let done = match shard.slots.get_mut(fingerprint) {
            Some(state) => With::Done(f(state, queued)),
            None => shard.with_new(context, fingerprint, now, |state| f(state, queued)),
        };
        match (was_waited, queue.is_empty()) {
            (false, false) => _ = context.bound.waited.fetch_add(1, Ordering::Relaxed),
            (true, true) => _ = context.bound.waited.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        if !queue.is_empty() {
            shard.rest.queues.insert(fingerprint, queue);
        }
        shard.is_waited = !shard.rest.queues.is_empty();
        lines.store(shard.slots.lines(), Ordering::Relaxed);
        done
    }

    /// Runs `f` on an existing state. Afterwards, the state is removed if `f` says so and no call
    /// waits for it.
    pub(super) fn with_existing<R>(
        &self,
        context: Context<'_, S>,
        hash: u64,
        f: impl FnOnce(&mut S, Option<&mut Queue>) -> (R, bool),
    ) -> Option<R> {
        let (Padded { shard, lines }, fingerprint) = self.padded(hash);
        let mut shard = shard.lock();
        // A sweep may have changed it since.
        lines.store(shard.slots.lines(), Ordering::Relaxed);
        let Shard { slots, rest, .. } = &mut *shard;
        let place = slots.find(fingerprint)?;
        let queue = rest.queues.get_mut(&fingerprint).map(|queue| &mut **queue);
        let is_waited = queue.is_some();
        let (result, is_idle) = f(slots.at_mut(place)?, queue);
        if is_idle && !is_waited {
            slots.remove(place);
            context.bound.release(1);
        }
        // The key may never be called again.
        if is_waited && rest.queues.get(&fingerprint).is_some_and(|queue| queue.is_empty()) {
            rest.queues.remove(&fingerprint);
            context.bound.waited.fetch_sub(1, Ordering::Relaxed);
            shard.is_waited = !shard.rest.queues.is_empty();
        }
        Some(result)
    }

    /// Hands a key's state and its waiting calls over to `to`, under the lock.
    pub(super) fn hand_over(&self, hash: u64, to: impl FnOnce(S, Option<BoxedQueue>)) {
        let (Padded { shard, .. }, fingerprint) = self.padded(hash);
        let mut shard = shard.lock();
        let Some(place) = shard.slots.find(fingerprint) else { return };
        let queue = shard.rest.queues.remove(&fingerprint);
        shard.is_waited = !shard.rest.queues.is_empty();
        if let Some(state) = shard.slots.take(place) {
            to(state, queue);
        }
    }

    /// Takes over a bucket from another table. It is counted already.
    pub(super) fn take_over(&self, hash: u64, state: S, queue: Option<BoxedQueue>) {
        let (Padded { shard, lines }, fingerprint) = self.padded(hash);
        let mut shard = shard.lock();
        if let Some(queue) = queue {
            shard.rest.queues.insert(fingerprint, queue);
            shard.is_waited = true;
        }
        shard.slots.insert(fingerprint, state);
        lines.store(shard.slots.lines(), Ordering::Relaxed);
    }

    /// Stops making buckets.
    pub(super) fn close(&self) {
        self.shards.iter().for_each(|shard| shard.shard.lock().is_closed = true);
    }

    /// Runs `f` on every queue and its key's state.
    pub(super) fn each_queue(&self, bound: &Bound, mut f: impl FnMut(&mut S, &mut Queue)) {
        for shard in self.shards.iter() {
            let mut shard = shard.shard.lock();
            let Shard { slots, rest, is_waited, .. } = &mut *shard;
            for (fingerprint, queue) in &mut rest.queues {
                if let Some(state) = slots.get_mut(*fingerprint) {
                    f(state, queue);
                }
            }
            let before = rest.queues.len();
            rest.queues.retain(|_, queue| !queue.is_empty());
            bound.waited.fetch_sub(before - rest.queues.len(), Ordering::Relaxed);
            *is_waited = !rest.queues.is_empty();
        }
    }

    /// Runs `f` on copies of all states with their fingerprints, a few at a time. Holds a shard's
    /// lock only while those are copied. Each state that stays in the table is copied once.
    pub(super) fn each_copied<E>(&self, mut f: impl FnMut(&[(u64, S)]) -> Result<(), E>) -> Result<(), E>
    where
        S: Clone,
    {
        let mut copies = Vec::with_capacity(COPIED_AT_ONCE);
        for padded in self.shards.iter() {
            let mut next = Some(0);
            while let Some(from) = next {
                copies.clear();
                let shard = padded.shard.lock();
                let copy = |fingerprint, state: &S| copies.push((fingerprint, state.clone()));
                next = shard.slots.each_from(from, COPIED_AT_ONCE / W, copy);
                drop(shard);
                f(&copies)?;
            }
        }
        Ok(())
    }

    /// Makes room for this many keys, spread over the shards like hashes.
    pub(super) fn reserve(&self, keys: usize) {
        for Padded { shard, lines } in self.shards.iter() {
            let mut shard = shard.lock();
            shard.slots.reserve(keys / SHARDS);
            lines.store(shard.slots.lines(), Ordering::Relaxed);
        }
    }

    /// Keys with waiting calls.
    pub(super) fn waited(&self) -> usize {
        self.shards.iter().map(|shard| shard.shard.lock().rest.queues.len()).sum()
    }

    /// Takes out all states.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (usize, u64, S)> + '_ {
        self.shards.iter().enumerate().flat_map(|(shard, padded)| {
            let slots = std::mem::replace(&mut padded.shard.lock().slots, Slots::new());
            slots.into_states().map(move |(fingerprint, state)| (shard, fingerprint, state))
        })
    }

    /// Puts back a [drained](Table::drain) state.
    pub(super) fn refill(&self, shard: usize, fingerprint: u64, state: S) {
        let Padded { shard, lines } = &self.shards[shard % SHARDS];
        let mut shard = shard.lock();
        shard.slots.insert(fingerprint, state);
        lines.store(shard.slots.lines(), Ordering::Relaxed);
    }

    pub(super) fn clear(&self, bound: &Bound) {
        for shard in self.shards.iter() {
            let mut shard = shard.shard.lock();
            bound.release(shard.slots.len());
            shard.slots = Slots::new();
            let waited = shard.rest.queues.drain().count();
            bound.waited.fetch_sub(waited, Ordering::Relaxed);
            shard.is_waited = false;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.shard.lock().slots.len()).sum()
    }

    /// Slots, taken or free.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.shard.lock().slots.places()).sum()
    }

    /// Reclaims idle buckets of one shard. Returns whether there were any.
    pub(super) fn sweep(&self, context: Context<'_, S>, shard: usize, now: Now, slots: usize) -> bool {
        let shard = &self.shards[shard % SHARDS].shard;
        shard.try_lock().is_some_and(|mut shard| shard.sweep(context, now, slots))
    }

    /// Evicts one bucket from a shard whose lock is free. Begins with the shard of `hash`, so that
    /// all shards give as many as they get.
    ///
    /// A bucket that is being denied goes only if all sampled buckets are, and if `denying` is set.
    pub(super) fn evict(&self, context: Context<'_, S>, hash: u64, now: Now, denying: bool) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "only the lowest bits matter")]
        let first = hash as usize % SHARDS;
        let enough = if context.bound.max_keys <= FEW { usize::MAX } else { SAMPLED };
        let (mut best, mut looked_at): (Option<(Rank, usize, u64)>, usize) = (None, 0);
        for index in (first..SHARDS).chain(0..first) {
            let Some(mut shard) = self.shards[index].shard.try_lock() else { continue };
            let (candidate, sampled) = shard.sample(context, now);
            looked_at += sampled;
            if let Some((rank, fingerprint)) = candidate
                && (denying || !rank.is_denying)
                && best.is_none_or(|(best, ..)| rank < best)
            {
                best = Some((rank, index, fingerprint));
            }
            if looked_at >= enough || best.is_some_and(|(rank, ..)| !rank.is_denying && !rank.is_frequent) {
                break;
            }
        }
        let Some((rank, shard, fingerprint)) = best else { return false };
        let Some(mut shard) = self.shards[shard].shard.try_lock() else { return false };
        let Some(place) = shard.slots.find(fingerprint).filter(|_| !shard.rest.queues.contains_key(&fingerprint))
        else {
            return false;
        };
        shard.slots.remove(place);
        if rank.idle_at > now.earliest {
            context.bound.evict();
        } else {
            context.bound.release(1);
        }
        shard.shrink();
        true
    }
}

/// The order of eviction: first keys that are not being denied, then keys that are not called
/// often, then the bucket closest to idle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_denying: bool,
    is_frequent: bool,
    idle_at: u64,
}

impl<S: State, const W: usize> Shard<S, W> {
    #[inline(never)]
    fn with_new<R>(
        &mut self,
        context: Context<'_, S>,
        fingerprint: u64,
        now: Now,
        f: impl FnOnce(&mut S) -> R,
    ) -> With<R> {
        if self.is_closed {
            return With::Closed;
        }
        if !self.make_room(context, now) {
            return With::Full;
        }
        let mut state = S::idle();
        let result = f(&mut state);
        self.slots.insert(fingerprint, state);
        With::Done(result)
    }

    /// Makes room for one bucket and counts it. Evicts no bucket in use.
    fn make_room(&mut self, context: Context<'_, S>, now: Now) -> bool {
        let bound = context.bound;
        let has_room = bound.claim() || self.sweep_idle(context, now, now.earliest, SWEPT) && bound.claim();
        if !has_room {
            return false;
        }
        self.unswept += 1;
        let is_due = self.unswept as usize * SWEPT >= SWEPT_AT_ONCE.min(self.slots.places());
        // A table does not grow for idle buckets.
        if is_due || self.slots.is_to_grow() {
            self.unswept = 0;
            self.sweep(context, now, SWEPT_AT_ONCE);
        }
        true
    }

    /// Remembers the key of a call that finds a sweep due: it is probably called often.
    fn count_frequent(&mut self, fingerprint: u64) {
        let place = self.rest.calls % FREQUENT;
        self.rest.frequent[place] = fingerprint;
        self.rest.calls = self.rest.calls.wrapping_add(1);
    }

    /// The next line to examine.
    fn step(&mut self, now: u64) -> usize {
        let rest = &mut *self.rest;
        if rest.cursor + 1 < self.slots.lines() {
            rest.cursor += 1;
        } else {
            (rest.cursor, rest.took, rest.began) = (0, now.saturating_sub(rest.began), now);
        }
        rest.cursor
    }

    /// Sweeps the next few lines. Removes buckets that have been idle for [`GRACE`], and for as
    /// long as a sweep of the shard takes. A bucket that became idle since is probably called
    /// again.
    #[inline(never)]
    fn sweep(&mut self, context: Context<'_, S>, now: Now, slots: usize) -> bool {
        let by = now.earliest.saturating_sub(self.rest.took.max(GRACE));
        self.sweep_idle(context, now, by, slots)
    }

    /// Removes the buckets of the next few lines that were idle at the time `by`. Returns whether
    /// there were any.
    fn sweep_idle(&mut self, context: Context<'_, S>, now: Now, by: u64, slots: usize) -> bool {
        let mut removed = 0;
        let are_idle = S::are_idle(context.form, context.written, by);
        for _ in 0..(slots / W).max(1).min(self.slots.lines()) {
            let line = self.step(now.earliest);
            if !self.slots.any_of(line, &are_idle) {
                continue;
            }
            for place in Slots::<S, W>::places_of(line) {
                if let Some(slot) = self.slots.at(place)
                    && are_idle(&slot.state)
                    && !(self.is_waited && self.rest.queues.contains_key(&slot.fingerprint()))
                {
                    self.slots.remove(place);
                    removed += 1;
                }
            }
        }
        if removed > 0 {
            context.bound.release(removed);
            self.shrink();
        }
        removed > 0
    }

    /// Frees memory after a flood of keys has gone.
    fn shrink(&mut self) {
        if self.slots.places() > 64 && self.slots.len() * 8 < self.slots.places() {
            self.slots.shrink();
        }
    }

    /// Samples the next few buckets. Returns the first to evict, unless calls wait for all of them,
    /// and how many it sampled.
    fn sample(&mut self, context: Context<'_, S>, now: Now) -> (Option<(Rank, u64)>, usize) {
        let (mut best, mut sampled) = (None, 0);
        for _ in 0..self.slots.lines() {
            let line = self.step(now.earliest);
            for place in Slots::<S, W>::places_of(line) {
                let Some(slot) = self.slots.at(place) else { continue };
                sampled += 1;
                let fingerprint = slot.fingerprint();
                if self.is_waited && self.rest.queues.contains_key(&fingerprint) {
                    continue;
                }
                let is_frequent = self.rest.frequent.contains(&fingerprint);
                let Standing { is_denying, idle_at } = slot.state.standing(context.form, context.written, now);
                let rank = Rank { is_denying, is_frequent, idle_at };
                if best.is_none_or(|(best, _)| rank < best) {
                    best = Some((rank, fingerprint));
                }
            }
            if sampled >= SAMPLED {
                break;
            }
        }
        (best, sampled)
    }
}

#[cfg(all(test, loom_model))]
mod model;
