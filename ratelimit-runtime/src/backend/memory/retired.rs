//! The buckets that the store of a dropped limiter leaves behind. A later limiter of the same name
//! takes them over.
//!
//! The shards of a store take eight kilobytes. A retired store takes only the memory of its buckets
//! in use.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Shared;
use super::holds::Held;
use super::state::{Forms, Full, Groups, State, Window, Words};
use super::store::{Free, Keyed, Store, Written};
use super::table::Table;
use crate::algorithm::Rule;
use crate::hash::Seed;
use crate::rt::clock::Now;

/// A bucket, with its shard and its fingerprint.
type Bucket<S> = (usize, u64, S);

#[derive(Clone)]
pub(super) struct Retired {
    pub(super) written: Written,
    pub(super) hasher: Seed<'static, 1>,
    /// The largest `count` and the longest `per` that the windows of each limit served.
    reached: SmallVec<[(u32, u64); 1]>,
    /// Other limits than those written down judged the buckets.
    varies: bool,
    pub(super) unkeyed: Full,
    pub(super) keyed: Keys,
    pub(super) free: Vec<Bucket<Full>>,
    pub(super) holds: Held,
    idle_at: u64,
}

#[derive(Clone)]
pub(super) enum Keys {
    One(Vec<Bucket<Words<1>>>),
    Two(Vec<Bucket<Words<2>>>),
    Three(Vec<Bucket<Words<3>>>),
    Window(Vec<Bucket<Window>>),
    Full(Vec<Bucket<Full>>),
}

/// Evaluates an expression with the buckets, for any kind of state.
macro_rules! on_keys {
    ($keys:expr, $buckets:ident => $result:expr) => {
        match $keys {
            Keys::One($buckets) => $result,
            Keys::Two($buckets) => $result,
            Keys::Three($buckets) => $result,
            Keys::Window($buckets) => $result,
            Keys::Full($buckets) => $result,
        }
    };
}

/// Drains a table. Returns the buckets in use and the number of idle ones. Raises `idle_at` to the
/// time at which all are idle.
fn in_use<S: State, const W: usize>(
    table: &mut Table<S, W>,
    form: &S::Form,
    rules: &[Rule],
    now: u64,
    idle_at: &mut u64,
) -> (Vec<Bucket<S>>, usize) {
    let (mut kept, mut idle) = (Vec::new(), 0);
    let are_idle = S::are_idle(form, rules, now);
    for (shard, fingerprint, state) in table.drain() {
        if are_idle(&state) {
            idle += 1;
        } else {
            *idle_at = (*idle_at).max(state.idle_by(form, rules));
            kept.push((shard, fingerprint, state));
        }
    }
    kept.shrink_to_fit();
    (kept, idle)
}

impl Retired {
    pub(super) fn keys(&self) -> usize {
        on_keys!(&self.keyed, buckets => buckets.len()) + self.free.len()
    }

    /// Blocks and debts.
    pub(super) fn holds(&self) -> usize {
        self.holds.len()
    }

    /// Drops the buckets; `None` if no block or debt is left.
    pub(super) fn without_buckets(self, now: Now) -> Option<Retired> {
        let idle_at = self.holds.end();
        let keyed = match self.keyed {
            Keys::One(_) => Keys::One(Vec::new()),
            Keys::Two(_) => Keys::Two(Vec::new()),
            Keys::Three(_) => Keys::Three(Vec::new()),
            Keys::Window(_) => Keys::Window(Vec::new()),
            Keys::Full(_) => Keys::Full(Vec::new()),
        };
        let retired = Retired { unkeyed: Full::idle(), keyed, free: Vec::new(), idle_at, ..self };
        (idle_at > now.earliest).then_some(retired)
    }

    /// The time at which all buckets are idle and all blocks have ended.
    pub(super) fn idle_at(&self) -> u64 {
        self.idle_at
    }

    /// The forms of the buckets.
    pub(super) fn forms(&self) -> Forms {
        let Written { rules, backoff, varies, .. } = &self.written;
        let forms = Forms::new(rules, *backoff, *varies);
        for (groups, (most, longest)) in forms.groups().iter().zip(&self.reached) {
            groups.reach(*most, *longest);
        }
        if self.varies {
            forms.vary();
        }
        forms
    }
}

impl Store {
    /// Takes the buckets in use out of a store without handles; `None` if there are none.
    pub(super) fn retire(&mut self, now: Now) -> Option<Retired> {
        let (unkeyed, rules) = (self.take_out_unkeyed(now), self.written.rules.clone());
        let now = now.earliest;
        let unkeyed_idle_at = unkeyed.idle_by(&self.forms, &rules);
        let (mut idle_at, mut idle) = (unkeyed_idle_at, 0);
        macro_rules! keys {
            ($keys:path, $table:ident, $form:expr) => {{
                let (kept, gone) = in_use($table, $form, &rules, now, &mut idle_at);
                idle += gone;
                $keys(kept)
            }};
        }
        let keyed = match &mut self.keyed {
            Keyed::Nothing => Keys::Full(Vec::new()),
            Keyed::One(table, layout) => keys!(Keys::One, table, layout),
            Keyed::Two(table, layout) => keys!(Keys::Two, table, layout),
            Keyed::Three(table, layout) => keys!(Keys::Three, table, layout),
            Keyed::Window(table, groups) => keys!(Keys::Window, table, groups),
            Keyed::Full(table) => keys!(Keys::Full, table, &self.forms),
        };
        let mut free = Vec::new();
        if let Some(Free { table, .. }) = self.free.get_mut() {
            let gone;
            (free, gone) = in_use(table, &self.forms, &rules, now, &mut idle_at);
            idle += gone;
        }
        self.shared.bound.release(idle);
        let (written, hasher, holds) = (self.written.clone(), self.hasher, self.holds.take());
        let held_until = holds.end();
        idle_at = idle_at.max(held_until);
        let reached = self.forms.groups().iter().map(Groups::reached).collect();
        let varies = self.forms.varies();
        let retired = Retired { written, hasher, reached, varies, unkeyed, keyed, free, holds, idle_at };
        (retired.keys() > 0 || unkeyed_idle_at.max(held_until) > now).then_some(retired)
    }

    /// A store with the buckets of a retired store of its name, which are counted already.
    pub(super) fn revive(shared: Arc<Shared>, name: Option<String>, retired: Retired) -> Store {
        let Retired { written, hasher, reached, varies, unkeyed, keyed, free, holds, .. } = retired;
        let mut store = Store::new(shared, name, written);
        store.hasher = hasher;
        reached.into_iter().enumerate().for_each(|(position, reached)| store.reach(position, reached));
        if varies {
            store.forms.vary();
        }
        store.put_unkeyed(unkeyed, varies);
        store.holds_to_change().put(holds);
        macro_rules! refill {
            ($table:ident, $buckets:ident) => {
                for (shard, fingerprint, state) in $buckets {
                    $table.refill(shard, fingerprint, state);
                }
            };
        }
        match (&store.keyed, keyed) {
            (Keyed::One(table, _), Keys::One(buckets)) => refill!(table, buckets),
            (Keyed::Two(table, _), Keys::Two(buckets)) => refill!(table, buckets),
            (Keyed::Three(table, _), Keys::Three(buckets)) => refill!(table, buckets),
            (Keyed::Window(table, _), Keys::Window(buckets)) => refill!(table, buckets),
            (Keyed::Full(table), Keys::Full(buckets)) => refill!(table, buckets),
            // The form of a store follows from its limits, which are the same.
            _ => {}
        }
        if !free.is_empty() {
            let table = &store.open().table;
            refill!(table, free);
        }
        store
    }
}
