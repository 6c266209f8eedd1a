//! Where a limiter's buckets are: which store in memory or which backend, and by which clock.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use once_cell::sync::OnceCell;

use super::Core;
#[cfg(feature = "test-util")]
use super::Each;
use crate::backend::memory::{self, MemoryBackend, OnePermit, States, Store, Written, process_memory};
use crate::backend::{BackendKind, SharedBackend, Timestamp, default_backend};
use crate::guard::Guard;
use crate::limiter::OnBackendError;
use crate::limiter::spec::BackendChoice;
use crate::rt::clock::{self, Now};
use crate::scope::{self, Scope};
use crate::switches::{Switch, Switches};

const UNKNOWN: u8 = 0;
const FAST: u8 = 1;
const SLOW: u8 = 2;

/// Where the buckets are, as far as calls have needed them.
pub(super) struct Stores {
    backend: OnceCell<SharedBackend>,
    /// Buckets in the process's own memory: all of them, or the ones that take over if a backend
    /// fails.
    local: OnceCell<Arc<Store>>,
    /// Buckets in a memory backend made for this limiter.
    own: OnceCell<Arc<Store>>,
    /// Whether calls take the fast path while all switches are off: [`UNKNOWN`], [`FAST`], or
    /// [`SLOW`] for good.
    path: AtomicU8,
    fast: OnceCell<Fast>,
    /// The store of calls in memory while all switches are off.
    memory: OnceCell<Arc<Store>>,
    /// Set before the first call that goes to a backend.
    before_backend: OnceCell<()>,
}

impl Stores {
    pub(super) fn new(backend: Option<SharedBackend>) -> Stores {
        Stores {
            backend: backend.map_or_else(OnceCell::new, OnceCell::with_value),
            local: OnceCell::new(),
            own: OnceCell::new(),
            path: AtomicU8::new(UNKNOWN),
            fast: OnceCell::new(),
            memory: OnceCell::new(),
            before_backend: OnceCell::new(),
        }
    }

    /// The limiter's own backend, if it is made.
    pub(super) fn backend(&self) -> Option<&SharedBackend> {
        self.backend.get()
    }

    /// Takes the limiter off the fast path for good.
    pub(super) fn leave_fast_path(&self) {
        self.path.store(SLOW, Ordering::Release);
    }

    /// Drops the stores, before the limiter is counted as gone.
    pub(super) fn release(&mut self) {
        drop((self.fast.take(), self.memory.take()));
        [self.local.take(), self.own.take()].into_iter().flatten().for_each(memory::release);
    }

    /// The existing stores.
    fn existing(&self) -> impl Iterator<Item = &Arc<Store>> {
        [self.local.get(), self.own.get()].into_iter().flatten()
    }
}

/// The code that a program contains for a limiter. It need not contain states that no call needs.
#[derive(Clone, Copy)]
pub(crate) struct Contains {
    pub(crate) states: States,
    /// The fast path without a key, and with one.
    pub(crate) fast: fn(&Store) -> [Paths; 2],
    /// Makes the store, shared with other limiters only if this one has an explicit name.
    pub(crate) store: fn(&Core, &MemoryBackend, &Written) -> Arc<Store>,
}

/// The outcome of the fast path in two registers: the variant, and the time of a denial. A denial by
/// one of several limits, or with `backoff`, is not counted yet; its other parts are packed beside the
/// variant.
#[derive(Clone, Copy)]
pub(crate) struct Packed(pub(in super::super) u64, pub(in super::super) u64);

/// Takes the hash of the key; without a key, the number of the thread.
pub(in super::super) type Path<C> = fn(&Core, &Store, u64, Now, C) -> Packed;

/// The fast path in one kind of state. Behind pointers, so that a program contains only the kinds
/// that it uses.
#[derive(Clone, Copy)]
pub(crate) struct Paths {
    pub(in super::super) one: Path<OnePermit>,
    pub(in super::super) some: Path<u32>,
}

/// The store of the fast path, and the paths there.
pub(in super::super) struct Fast {
    pub(in super::super) store: Arc<Store>,
    pub(in super::super) unkeyed: Paths,
    pub(in super::super) by_key: Paths,
}

/// Where a call is decided, and by which clock.
pub(in super::super) struct Venue<'a> {
    pub(in super::super) target: Target<'a>,
    is_async: bool,
    pub(in super::super) scope: Option<Scope>,
}

pub(in super::super) enum Target<'a> {
    Memory(StoreRef<'a>),
    Remote(&'a Arc<Guard>),
}

pub(in super::super) enum StoreRef<'a> {
    Shared(&'a Arc<Store>),
    /// The store of a test. Without `test-util` there is no scope: no code drops such a store.
    Scoped(Arc<Store>, #[cfg_attr(feature = "test-util", expect(dead_code, reason = "see above"))] Scope),
}

impl Deref for StoreRef<'_> {
    type Target = Arc<Store>;

    #[inline]
    fn deref(&self) -> &Arc<Store> {
        match self {
            StoreRef::Shared(store) => store,
            StoreRef::Scoped(store, _) => store,
        }
    }
}

impl Venue<'_> {
    #[inline]
    pub(in super::super) fn now(&self) -> Now {
        if let Some(scope) = &self.scope {
            return Now::exactly(scope.now());
        }
        clock::clock().now_for(self.is_async)
    }

    /// The time by a test's clock, if there is one.
    pub(in super::super) fn test_time(&self) -> Option<Timestamp> {
        self.scope.as_ref().map(|scope| Timestamp::from_nanos(scope.now()))
    }

    /// Whether time advances by itself, because no test has stopped it.
    pub(in super::super) fn is_real(&self) -> bool {
        if self.scope.is_some() {
            return false;
        }
        #[cfg(feature = "tokio")]
        if self.is_async && clock::is_paused() {
            return false;
        }
        true
    }

    /// Whether a call can wait in a queue before a backend. It cannot if a test has stopped only
    /// its runtime's clock: nothing would keep that clock from advancing during the queue's
    /// requests.
    pub(in super::super) fn may_queue(&self) -> bool {
        if self.scope.is_some() {
            return true;
        }
        self.is_real()
    }

    /// The time as backends count it: the test's time or the real time, regardless of a runtime's
    /// clock.
    #[inline]
    pub(in super::super) fn backend_now(&self) -> u64 {
        if let Some(scope) = &self.scope {
            return scope.now();
        }
        clock::now()
    }
}

impl Core {
    /// The venue of a call, in a future or not.
    #[inline]
    pub(in super::super) fn venue(&self, switches: Switches, is_async: bool) -> Venue<'_> {
        if let Some(scope) = scope::current(switches) {
            let target = match self.target(switches) {
                Target::Memory(_) => Target::Memory(StoreRef::Scoped(self.scoped(&scope), scope.clone())),
                remote @ Target::Remote(_) => remote,
            };
            return Venue { target, is_async, scope: Some(scope) };
        }
        Venue { target: self.target(switches), is_async, scope: None }
    }

    #[inline]
    pub(super) fn target(&self, switches: Switches) -> Target<'_> {
        let backend = match self.options.backend {
            _ if self.stores.backend.get().is_some() => self.stores.backend.get(),
            BackendChoice::Made { make, made } => Some(made(&self.stores.backend, make)),
            BackendChoice::Default if switches.has(Switch::DefaultBackend) => default_backend(),
            BackendChoice::Default | BackendChoice::Memory => None,
        };
        match backend.map(|backend| &backend.kind) {
            None => Target::Memory(StoreRef::Shared(self.local())),
            Some(BackendKind::Memory(memory)) => {
                let own = &self.stores.own;
                Target::Memory(StoreRef::Shared(own.get().unwrap_or_else(|| self.first_store(own, memory))))
            }
            Some(BackendKind::Remote(remote)) => Target::Remote(remote.guard()),
        }
    }

    /// Runs `f` once, before the first call that goes to a backend. Calls on other threads wait for
    /// its end.
    #[inline]
    pub(in super::super) fn once_before_backend(&self, f: impl FnOnce()) {
        self.stores.before_backend.get_or_init(f);
    }

    /// Whether buckets in memory take over if a backend fails.
    pub(in super::super) fn has_stand_in(&self) -> bool {
        self.options.on_backend_error == OnBackendError::Local
    }

    /// The buckets that take over if a backend fails.
    pub(in super::super) fn fallback(&self, venue: &Venue<'_>) -> StoreRef<'_> {
        if let Some(scope) = &venue.scope {
            return StoreRef::Scoped(self.scoped(scope), scope.clone());
        }
        StoreRef::Shared(self.local())
    }

    #[inline]
    fn local(&self) -> &Arc<Store> {
        let local = &self.stores.local;
        local.get().unwrap_or_else(|| self.first_store(local, process_memory()))
    }

    /// The store in `place`. Limits that are replaced meanwhile find it there, or it finds them.
    #[cold]
    #[inline(never)]
    fn first_store<'a>(&self, place: &'a OnceCell<Arc<Store>>, memory: &MemoryBackend) -> &'a Arc<Store> {
        let _replacing = self.replacing.lock();
        place.get_or_init(|| self.store(memory, None))
    }

    fn scoped(&self, scope: &Scope) -> Arc<Store> {
        scope.store(self.id, |memory| self.store(memory, Some(scope)))
    }

    /// The store of the fast path. Call only while all switches are off.
    #[inline]
    pub(in super::super) fn fast(&self) -> Option<&Fast> {
        match self.stores.path.load(Ordering::Acquire) {
            FAST => self.stores.fast.get(),
            SLOW => None,
            _ => self.first_fast(),
        }
    }

    /// The store of the fast path, if calls have taken that path and all switches are off.
    #[inline]
    pub(in super::super) fn known_fast(&self) -> Option<&Fast> {
        let is_fast = Switches::load().are_off() && self.stores.path.load(Ordering::Acquire) == FAST;
        if is_fast { self.stores.fast.get() } else { None }
    }

    #[cold]
    #[inline(never)]
    fn first_fast(&self) -> Option<&Fast> {
        if self.stores.path.load(Ordering::Acquire) == UNKNOWN {
            let path = match self.target(Switches::OFF) {
                Target::Memory(StoreRef::Shared(store))
                    if !self.rules.vary() && store.is_written_for(self.rules.written(), self.backoff()) =>
                {
                    self.stores.fast.get_or_init(|| {
                        let [unkeyed, by_key] = (self.contains.fast)(store);
                        Fast { store: Arc::clone(store), unkeyed, by_key }
                    });
                    FAST
                }
                _ => SLOW,
            };
            // Keeps `SLOW` if limits were replaced meanwhile.
            let _ = self.stores.path.compare_exchange(UNKNOWN, path, Ordering::AcqRel, Ordering::Relaxed);
        }
        if self.stores.path.load(Ordering::Acquire) == FAST { self.stores.fast.get() } else { None }
    }

    /// The store, if buckets are in memory. Call only while all switches are off.
    #[inline]
    pub(in super::super) fn memory(&self) -> Option<&Arc<Store>> {
        match self.stores.memory.get() {
            Some(store) => Some(store),
            None => self.first_memory(),
        }
    }

    #[cold]
    #[inline(never)]
    fn first_memory(&self) -> Option<&Arc<Store>> {
        match self.target(Switches::OFF) {
            Target::Memory(StoreRef::Shared(store)) => Some(self.stores.memory.get_or_init(|| Arc::clone(store))),
            _ => None,
        }
    }

    /// Forgets the buckets in this process's memory.
    #[cfg(feature = "test-util")]
    pub(crate) fn clear_memory(&self) {
        for store in self.stores.existing() {
            store.clear();
        }
        self.made_each().into_iter().flat_map(Each::cores).for_each(|part| part.clear_memory());
    }

    /// Runs `f` on the existing stores.
    pub(super) fn each_store(&self, f: impl Fn(&Arc<Store>)) {
        if let Some(store) = scope::current(Switches::load()).and_then(|scope| scope.existing(self.id)) {
            f(&store);
        }
        self.stores.existing().for_each(f);
    }

    /// The backend that the limiter uses, as far as it is made.
    pub(super) fn existing_guard(&self) -> Option<&Arc<Guard>> {
        let default = || Switches::load().has(Switch::DefaultBackend).then(default_backend).flatten();
        let backend = match self.options.backend {
            BackendChoice::Default => self.stores.backend().or_else(default),
            BackendChoice::Memory | BackendChoice::Made { .. } => self.stores.backend(),
        };
        match &backend?.kind {
            BackendKind::Remote(remote) => Some(remote.guard()),
            BackendKind::Memory(_) => None,
        }
    }

    /// The store that limiters of its name and its limits share.
    pub(in super::super) fn shared_store(&self, memory: &MemoryBackend, written: &Written) -> Arc<Store> {
        memory.store(self.shared_identity(), written)
    }

    fn store(&self, memory: &MemoryBackend, scope: Option<&Scope>) -> Arc<Store> {
        let varies = self.rules.vary();
        let rules = self.rules.written().into();
        let backoff = self.options.backoff;
        let states = self.contains.states;
        let written = Written { rules, backoff, varies, by: self.id, limiter: self.shared_name(), states };
        // As in `MemoryBackend::store_of_one`.
        let store = ManuallyDrop::new((self.contains.store)(self, memory, &written));
        // Limiters of the same name may have another count, and limits may have been replaced.
        store.expect(self.rules.written());
        self.rules.prepare(&store);
        self.repeat_blocks(&store, scope);
        ManuallyDrop::into_inner(store)
    }

    /// Makes the limiter's backend, which runs foreign code. Returns false if this thread is already
    /// making it.
    pub(super) fn makes_backend(&self) -> bool {
        let _ = self.target(Switches::load());
        !matches!(self.options.backend, BackendChoice::Made { .. }) || self.stores.backend.get().is_some()
    }
}
