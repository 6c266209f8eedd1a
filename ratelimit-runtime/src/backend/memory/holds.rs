//! Keys that are blocked, and keys in debt: what stands beside their buckets.
//!
//! Few keys are. So a store looks here only while its table has an entry, and no call leaves the
//! fast path while no store of the process has one (`Switch::Holds`).

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::clock::Now;
use crate::decision::Address;
use crate::switches::{Switch, turn};

/// How many ended holds one call removes.
const SWEPT: usize = 8;
/// How many holds are copied at once, under the lock.
const COPIED: usize = 256;

/// The times before which a key's calls are not admitted, in nanoseconds; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    /// Every call is denied until then: the key is blocked.
    pub(crate) blocked_until: u64,
    /// Permits are charged up to this time: a debt. Limits are judged as of it, and a call of cost
    /// 0 is admitted before it.
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
pub(super) struct Holds {
    /// A hint to be read without the lock: whether there are any. Changed under the lock.
    has_any: AtomicBool,
    most: usize,
    table: Mutex<Held>,
}

/// The holds as such, which outlive their store.
#[derive(Clone, Default)]
pub(super) struct Held {
    by_address: HashMap<Address, Hold, RandomState>,
    /// The same by the time at which they end.
    by_end: BTreeSet<(u64, Address)>,
    /// Addresses that have changed while the holds are being copied.
    changed: Option<Vec<Address>>,
}

/// How many stores hold something.
static HOLDING: Mutex<usize> = Mutex::new(0);

impl Holds {
    pub(super) fn new(most: usize) -> Holds {
        Holds { has_any: AtomicBool::new(false), most, table: Mutex::default() }
    }

    /// Whether a call must look for its key.
    #[inline]
    pub(super) fn has_any(&self) -> bool {
        self.has_any.load(Ordering::Acquire)
    }

    /// What holds the calls of a key at `now`.
    #[inline]
    pub(super) fn of(&self, address: Address, now: Now) -> Hold {
        if self.has_any() { self.look(address, now) } else { Hold::NONE }
    }

    #[cold]
    #[inline(never)]
    fn look(&self, address: Address, now: Now) -> Hold {
        let mut table = self.table.lock();
        table.sweep(now);
        let hold = table.by_address.get(&address).copied().unwrap_or_default();
        self.update(&table);
        hold
    }

    /// Changes what holds the calls of a key. Returns what holds them then.
    ///
    /// In a full table, the hold that ends first makes room.
    pub(super) fn change(&self, address: Address, now: Now, change: impl FnOnce(&mut Hold)) -> Hold {
        let mut table = self.table.lock();
        table.sweep(now);
        let mut hold = table.remove(address);
        change(&mut hold);
        if let Some(changed) = &mut table.changed {
            changed.push(address);
        }
        if hold.until() > now.earliest {
            while table.by_address.len() >= self.most.max(1) {
                let Some((_, first)) = table.by_end.first().copied() else { break };
                table.remove(first);
            }
            table.by_end.insert((hold.until(), address));
            table.by_address.insert(address, hold);
        }
        self.update(&table);
        hold
    }

    /// Passes on all holds, a few at a time, without the lock. Those that change meanwhile come again
    /// at the end. For one caller at a time.
    pub(super) fn each_copied<E>(&self, mut f: impl FnMut(Address, Hold) -> Result<(), E>) -> Result<(), E> {
        self.table.lock().changed = Some(Vec::new());
        let mut from = Bound::Unbounded;
        let copied = loop {
            let table = self.table.lock();
            let some: Vec<_> = table.by_end.range((from, Bound::Unbounded)).take(COPIED).copied().collect();
            let holds: Vec<_> = some.iter().map(|(_, address)| (*address, table.of(*address))).collect();
            drop(table);
            let Some(last) = some.last() else { break Ok(()) };
            from = Bound::Excluded(*last);
            if let Err(error) = holds.into_iter().try_for_each(|(address, hold)| f(address, hold)) {
                break Err(error);
            }
        };
        let changed = self.table.lock().changed.take().unwrap_or_default();
        for address in changed {
            let hold = self.table.lock().of(address);
            f(address, hold)?;
        }
        copied
    }

    /// Takes out all holds.
    pub(super) fn take(&self) -> Held {
        let mut table = self.table.lock();
        let held = std::mem::take(&mut *table);
        self.update(&table);
        held
    }

    pub(super) fn put(&self, held: Held) {
        let mut table = self.table.lock();
        *table = held;
        self.update(&table);
    }

    /// Sets the hint, and the process's switch. The caller holds the table's lock.
    fn update(&self, held: &Held) {
        let has_any = !held.by_address.is_empty();
        if self.has_any.swap(has_any, Ordering::AcqRel) == has_any {
            return;
        }
        let mut holding = HOLDING.lock();
        *holding = if has_any { *holding + 1 } else { holding.saturating_sub(1) };
        turn(Switch::Holds, *holding > 0);
    }
}

impl Held {
    /// When the last of them ends; 0 if there are none.
    pub(super) fn end(&self) -> u64 {
        self.by_end.last().map_or(0, |(end, _)| *end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Address, Hold)> + '_ {
        self.by_address.iter().map(|(address, hold)| (*address, *hold))
    }

    fn of(&self, address: Address) -> Hold {
        self.by_address.get(&address).copied().unwrap_or_default()
    }

    fn remove(&mut self, address: Address) -> Hold {
        let Some(hold) = self.by_address.remove(&address) else { return Hold::NONE };
        self.by_end.remove(&(hold.until(), address));
        hold
    }

    /// Removes a few of those that have ended.
    fn sweep(&mut self, now: Now) {
        for _ in 0..SWEPT {
            match self.by_end.first().copied() {
                Some((end, address)) if end <= now.earliest => _ = self.remove(address),
                _ => return,
            }
        }
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        drop(self.take());
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
}
