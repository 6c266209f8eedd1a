//! The buckets of a limiter that this process has not used so far, as bytes of a snapshot.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::Shared;
use super::super::state::{Entry, Full, Stored};
use super::super::store::{Keyed, Store, Written, on_table};
use super::super::table::{Bound, Table};
use super::copy::Copies;
use super::format::{Heading, Item, Place};
use crate::algorithm::Rule;
use crate::algorithm::record::LONGEST_DEBT;
use crate::decision::Address;
use crate::hash::{Seed, Weights};
use crate::limit::MAX_PER;
use crate::rt::clock::{MARGIN, Now, nanos};

/// No bucket is in use for longer than a debt and a period, which may be a calendar's.
const LONGEST: u64 = LONGEST_DEBT + 2 * nanos(MAX_PER);

/// See the module.
pub(in super::super) struct Saved {
    pub(super) heading: Heading,
    weights: &'static Weights,
    /// Buckets, by this process's clock as it was when they were restored.
    buckets: Vec<u8>,
    /// Blocks and debts of keys.
    holds: Vec<u8>,
    /// Some buckets were of other limits than those written down.
    has_free: bool,
    keys: usize,
    held: usize,
    idle_at: u64,
    /// When the last block or debt ends.
    held_until: u64,
}

impl Saved {
    pub(super) fn new(heading: Heading, weights: &'static Weights) -> Saved {
        let (buckets, holds) = (Vec::new(), Vec::new());
        Saved { heading, weights, buckets, holds, has_free: false, keys: 0, held: 0, idle_at: 0, held_until: 0 }
    }

    /// Adds an item if it is still in use, with its times cut to what this process's clock allows.
    /// Returns whether there is room for it.
    pub(super) fn add(&mut self, mut item: Item, now: u64, bound: &Bound) -> bool {
        let entry = &mut item.entry;
        entry.look(now);
        let latest = now.saturating_add(LONGEST_DEBT);
        entry.record.blocked = entry.record.blocked.min(latest);
        entry.record.newest = entry.record.newest.min(latest);
        entry.idle_at = entry.idle_at.min(now.saturating_add(LONGEST));
        entry.denied_until = entry.denied_until.min(entry.idle_at);
        if entry.idle_at <= now {
            return true;
        }
        if item.is_bucket_of_key() {
            if !bound.claim() {
                return false;
            }
            self.keys += 1;
        }
        self.idle_at = self.idle_at.max(item.entry.idle_at);
        self.has_free |= item.place == Place::Free;
        if item.place == Place::Held {
            self.held += 1;
            self.held_until = self.held_until.max(item.entry.idle_at);
            item.encode(&mut self.holds);
        } else {
            item.encode(&mut self.buckets);
        }
        true
    }

    pub(in super::super) fn keys(&self) -> usize {
        self.keys
    }

    /// Blocks and debts.
    pub(in super::super) fn holds(&self) -> usize {
        self.held
    }

    /// The time at which all buckets are idle and all blocks have ended.
    pub(in super::super) fn idle_at(&self) -> u64 {
        self.idle_at
    }

    /// The blocks and debts without the buckets; `None` if there are none.
    pub(in super::super) fn without_buckets(&self) -> Option<Saved> {
        (self.held > 0).then(|| Saved {
            holds: self.holds.clone(),
            held: self.held,
            idle_at: self.held_until,
            held_until: self.held_until,
            ..Saved::new(self.heading.clone(), self.weights)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty() && self.holds.is_empty()
    }

    /// Passes on all items that are still in use. Their times were those of the wall clock when they
    /// were restored, and still are.
    pub(super) fn copy(&self, copies: &mut Copies<'_>) -> std::io::Result<()> {
        let wall = (copies.clocks)().wall;
        for mut item in items(&self.buckets).chain(items(&self.holds)) {
            item.entry.look(wall);
            if item.entry.idle_at > wall {
                (copies.put)(&item)?;
            }
        }
        Ok(())
    }

    /// A store of these limits with the buckets, which are counted already.
    pub(in super::super) fn revive(&self, shared: Arc<Shared>, identity: &str, written: Written, now: Now) -> Store {
        let mut store = Store::new(shared, Some(identity.to_owned()), written);
        store.hasher = Seed::at(self.weights, self.heading.start);
        // Limits that are now written differently start afresh.
        for (position, (reach, rule)) in self.heading.limits.iter().zip(&store.written.rules).enumerate() {
            if reach.is_of(rule) {
                store.reach(position, (reach.most, reach.longest));
            }
        }
        let now = now.earliest;
        items(&self.holds).for_each(|item| store.put_hold(&item, now));
        // A bucket that moved to the table of other limits meanwhile was copied twice.
        let mut free = HashSet::new();
        if self.has_free {
            free.extend(items(&self.buckets).filter(|item| item.place == Place::Free).map(|item| item.address));
        } else {
            on_table!(store, (table, _form) => table.reserve(self.keys));
        }
        for item in items(&self.buckets) {
            let is_older = item.place == Place::Usual && free.contains(&item.address);
            if is_older || !store.put(item, now) {
                store.shared.bound.release(1);
            }
        }
        store
    }
}

fn items(mut bytes: &[u8]) -> impl Iterator<Item = Item> + '_ {
    std::iter::from_fn(move || Item::decode(&mut bytes))
}

impl Item {
    /// Whether it counts among a backend's keys.
    fn is_bucket_of_key(&self) -> bool {
        self.place != Place::Held && self.address != Address::Unkeyed
    }
}

impl Store {
    fn put_hold(&self, item: &Item, now: u64) {
        let record = &item.entry.record;
        self.holds_to_change().change(item.address, Now::exactly(now), |hold| {
            (hold.blocked_until, hold.owed_until) = (record.blocked, record.newest);
        });
    }

    /// Puts a bucket where its calls find it. `false` if that is no bucket of a key.
    fn put(&self, mut item: Item, now: u64) -> bool {
        let owed_until = self.holds.of(item.address, Now::exactly(now)).owed_until;
        let entry = &mut item.entry;
        // Permits in debt are recorded up to its end.
        entry.cut(owed_until.max(now.saturating_add(MARGIN)));
        let offences = &mut entry.record.offences;
        offences.last = offences.last.min(now);
        let longest = self.written.backoff.map_or(0, |backoff| nanos(backoff.max()));
        offences.until = offences.until.min(offences.last.saturating_add(longest));
        let rules = &self.written.rules;
        let Address::Hash(fingerprint) = item.address else {
            if let Some(full) = Full::of_entry(entry, &self.forms, rules, now) {
                self.put_unkeyed(full, entry.varies);
            }
            return true;
        };
        let is_put = on_table!(self, (table, form) => put_in(table, fingerprint, entry, form, rules, now));
        if is_put {
            return true;
        }
        let Some(full) = Full::of_entry(entry, &self.forms, rules, now) else { return false };
        if let Keyed::Full(table) = &self.keyed {
            self.forms.vary();
            table.take_over(fingerprint, full, None);
        } else {
            self.open().table.take_over(fingerprint, full, None);
        }
        true
    }
}

/// Puts a bucket into the table of the limits as written. `false` if it cannot be there: its limits
/// are of other algorithms, or it is in use for longer than the limits as written say.
fn put_in<S: Stored, const W: usize>(
    table: &Table<S, W>,
    fingerprint: u64,
    entry: &Entry,
    form: &S::Form,
    rules: &[Rule],
    now: u64,
) -> bool {
    let state = S::of_entry(entry, form, rules, now);
    let fits = |state: &S| !entry.varies || entry.idle_at <= state.idle_by(form, rules);
    let Some(state) = state.filter(fits) else { return false };
    table.take_over(fingerprint, state, None);
    true
}
