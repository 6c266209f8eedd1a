//! Buckets of dropped limiters, and of limiters that this process has not used so far. The next
//! limiter of the name takes them over.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::MutexGuard;

use super::retired::Retired;
use super::snapshot::Saved;
use super::store::{Store, Written};
use super::table::Bound;
use super::{MemoryBackend, Stores};
use crate::rt::clock::{self, Now};

/// Buckets without a limiter.
#[derive(Clone)]
pub(super) enum Orphans {
    /// Of a dropped limiter.
    Retired(Arc<Retired>),
    /// Of a limiter that this process has not used so far.
    Saved(Arc<Saved>),
}

impl Orphans {
    fn keys(&self) -> usize {
        match self {
            Orphans::Retired(retired) => retired.keys(),
            Orphans::Saved(saved) => saved.keys(),
        }
    }

    /// Blocks and debts.
    fn holds(&self) -> usize {
        match self {
            Orphans::Retired(retired) => retired.holds(),
            Orphans::Saved(saved) => saved.holds(),
        }
    }

    /// The time at which all buckets are idle and all blocks have ended.
    fn idle_at(&self) -> u64 {
        match self {
            Orphans::Retired(retired) => retired.idle_at(),
            Orphans::Saved(saved) => saved.idle_at(),
        }
    }

    /// Drops the buckets; `None` if no block or debt is left.
    fn without_buckets(self, now: Now) -> Option<Orphans> {
        match self {
            Orphans::Retired(retired) => {
                let retired = Arc::unwrap_or_clone(retired).without_buckets(now)?;
                Some(Orphans::Retired(Arc::new(retired)))
            }
            Orphans::Saved(saved) => Some(Orphans::Saved(Arc::new(saved.without_buckets()?))),
        }
    }
}

/// The most retired stores that one sweep forgets.
const FORGOTTEN_AT_ONCE: usize = 8;

/// See the module.
#[derive(Default)]
pub(super) struct Orphanage {
    /// Buckets of dropped named limiters.
    pub(super) retired: HashMap<String, Orphans>,
    /// Those of a snapshot that a limiter is taking over.
    pub(super) reviving: HashMap<String, Arc<Saved>>,
    /// Names of the retired stores, by the time at which all of their buckets are idle and all of
    /// their blocks have ended.
    idle: BTreeSet<(u64, String)>,
    /// As `idle`, for stores whose buckets were evicted. They have kept their blocks.
    pub(super) held: BTreeSet<(u64, String)>,
    /// Blocks and debts of all retired stores.
    pub(super) holds: usize,
}

/// Hands a name's orphans to its store. Returns the stores unchanged if there are none.
type TakeOver =
    for<'a> fn(&'a MemoryBackend, MutexGuard<'a, Stores>, &str, &Written) -> Result<Arc<Store>, MutexGuard<'a, Stores>>;

/// An [`Orphanage`] behind a pointer, for programs that have none.
pub(super) trait LeftBehind: Send {
    fn orphanage(&mut self) -> &mut Orphanage;
    fn forget_idle(&mut self, bound: &Bound, now: Now);
    /// Evicts the buckets of a dropped limiter, but not its blocks.
    fn evict(&mut self, bound: &Bound, now: Now) -> bool;
    fn take_over(&self) -> TakeOver;
}

impl LeftBehind for Orphanage {
    fn orphanage(&mut self) -> &mut Orphanage {
        self
    }

    fn forget_idle(&mut self, bound: &Bound, now: Now) {
        let is_over = |names: &BTreeSet<(u64, String)>| names.first().is_some_and(|(end, _)| *end <= now.earliest);
        for _ in 0..FORGOTTEN_AT_ONCE {
            if is_over(&self.held) {
                self.forget_held();
            } else if is_over(&self.idle) {
                self.forget_first(bound);
            } else {
                return;
            }
        }
    }

    fn evict(&mut self, bound: &Bound, now: Now) -> bool {
        while let Some((name, left)) = self.forget_first(bound) {
            let keys = left.keys();
            if let Some(held) = left.without_buckets(now) {
                self.orphan(name, held, bound);
            }
            if keys > 0 {
                bound.count_evicted(keys);
                return true;
            }
        }
        false
    }

    fn take_over(&self) -> TakeOver {
        MemoryBackend::take_over
    }
}

impl Orphanage {
    /// Keeps buckets for the next limiter of the name.
    pub(super) fn orphan(&mut self, name: String, left: Orphans, bound: &Bound) {
        self.holds += left.holds();
        let names = if left.keys() > 0 || left.holds() == 0 { &mut self.idle } else { &mut self.held };
        names.insert((left.idle_at(), name.clone()));
        self.retired.insert(name, left);
        // A single limiter has at most `max_keys`.
        while self.holds > bound.max_keys {
            if !self.forget_held() {
                self.forget_first(bound);
            }
        }
    }

    /// Hands out the orphans of that name.
    fn adopt(&mut self, name: &str) -> Option<Orphans> {
        let left = self.retired.remove(name)?;
        self.holds -= left.holds();
        let place = (left.idle_at(), name.to_owned());
        let _ = self.idle.remove(&place) || self.held.remove(&place);
        Some(left)
    }

    /// Forgets the blocks of the first store that has kept nothing else. `false` if there is none.
    pub(super) fn forget_held(&mut self) -> bool {
        let Some((_, name)) = self.held.first().cloned() else { return false };
        self.adopt(&name);
        true
    }

    /// Forgets the retired store whose buckets are idle first.
    pub(super) fn forget_first(&mut self, bound: &Bound) -> Option<(String, Orphans)> {
        let (_, name) = self.idle.first().cloned()?;
        let left = self.adopt(&name)?;
        bound.release(left.keys());
        Some((name, left))
    }
}

impl Stores {
    pub(super) fn orphans(&mut self) -> &mut Orphanage {
        self.orphans.get_or_insert_with(|| Box::new(Orphanage::default())).orphanage()
    }

    /// Whether a snapshot's buckets wait for that limiter.
    pub(super) fn is_saved(&mut self, name: &str) -> bool {
        let orphans = self.orphans();
        matches!(orphans.retired.get(name), Some(Orphans::Saved(_))) || orphans.reviving.contains_key(name)
    }

    /// Lists the store of a name.
    pub(super) fn add(&mut self, store: &Arc<Store>, identity: &str) {
        self.all.push(Arc::downgrade(store));
        self.named().insert(identity.to_owned(), Arc::downgrade(store));
    }
}

impl MemoryBackend {
    fn take_over<'a>(
        &'a self,
        mut stores: MutexGuard<'a, Stores>,
        identity: &str,
        written: &Written,
    ) -> Result<Arc<Store>, MutexGuard<'a, Stores>> {
        if stores.is_saved(identity) {
            drop(stores);
            return Ok(self.revive_saved(identity, written, clock::clock().now()));
        }
        let Some(Orphans::Retired(retired)) = stores.orphans().adopt(identity) else { return Err(stores) };
        let (shared, retired) = (Arc::clone(&self.shared), Arc::unwrap_or_clone(retired));
        let store = Arc::new_cyclic(|_| Store::revive(shared, Some(identity.to_owned()), retired));
        stores.add(&store, identity);
        Ok(store)
    }

    /// The store of a limiter with the buckets that a snapshot held. Made without the lock of the
    /// stores, because a million buckets take a while.
    pub(super) fn revive_saved(&self, identity: &str, written: &Written, now: Now) -> Arc<Store> {
        let reviving = self.shared.reviving.lock();
        let mut stores = self.shared.stores.lock();
        let orphans = stores.orphans();
        let saved = match orphans.retired.get(identity) {
            Some(Orphans::Saved(saved)) => Some(Arc::clone(saved)),
            // Left by a thread that panicked.
            _ => orphans.reviving.get(identity).cloned(),
        };
        let Some(saved) = saved else {
            // Another thread was faster.
            drop((stores, reviving));
            return self.store(Some(identity.to_owned()), written);
        };
        stores.orphans().adopt(identity);
        stores.orphans().reviving.insert(identity.to_owned(), Arc::clone(&saved));
        drop(stores);
        let shared = Arc::clone(&self.shared);
        let store = Arc::new_cyclic(|_| saved.revive(shared, identity, written.clone(), now));
        let mut stores = self.shared.stores.lock();
        stores.orphans().reviving.remove(identity);
        stores.add(&store, identity);
        store
    }
}

/// Drops a limiter's handle of a store. The last handle of a name leaves the buckets in use behind.
pub(super) fn retire(store: Arc<Store>) {
    retire_at(store, clock::clock().now());
}

/// [`retire`], at the time `now`.
pub(super) fn retire_at(store: Arc<Store>, now: Now) {
    let shared = Arc::clone(&store.shared);
    // No other handle can be made under the lock.
    let mut stores = shared.stores.lock();
    let Some(mut store) = Arc::into_inner(store) else { return };
    if let Some(name) = store.name.clone()
        && let Some(retired) = store.retire(now)
    {
        stores.orphans().orphan(name, Orphans::Retired(Arc::new(retired)), &shared.bound);
    }
    // Outside the lock: dropping states does not need it.
    drop(stores);
    drop(store);
    shared.stores.lock().count_gone();
}

/// [`retire`], once a program needs it.
static RELEASE: OnceLock<fn(Arc<Store>)> = OnceLock::new();

/// A handle of a limiter that leaves its buckets behind when it is dropped. A limiter in a `static`
/// is never dropped, so a program with no others does not contain this code.
pub(crate) struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        RELEASE.get_or_init(|| retire);
    }
}

/// As [`retire`], if any handle of a limiter was ever dropped. If none was, the store has no buckets
/// worth keeping: its limiter was never finished.
pub(crate) fn release(store: Arc<Store>) {
    match RELEASE.get() {
        Some(release) => release(store),
        None => drop(store),
    }
}

/// A store that its limiter may drop meanwhile. The last one to drop it leaves its buckets behind.
pub(super) struct Lent(Option<Arc<Store>>);

impl Lent {
    pub(super) fn of(store: &Weak<Store>) -> Option<Lent> {
        store.upgrade().map(|store| Lent(Some(store)))
    }

    pub(super) fn get(&self) -> &Arc<Store> {
        // Taken only when it is dropped.
        self.0.as_ref().expect("it is not dropped")
    }
}

impl Deref for Lent {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.get()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(release);
    }
}
