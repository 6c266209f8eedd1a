//! The state that a limiter's handles share: name, limits, location of the buckets, counts.

mod parts;

use std::fmt::Write as _;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard as Guarded};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::OnBackendError;
use super::builder::InvalidLimiter;
use super::spec::{BackendChoice, Options, Resolved};
use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::backend::memory::{self, Ask, Call as MemoryCall, Hold, MemoryBackend, Store, Written, process_memory};
use crate::backend::{Action, BackendKind, Request, SharedBackend, Timestamp, default_backend, made};
use crate::decision::{Address, Decision, Held, Place, RemoteBucket, Taken};
use crate::error::{BackendError, ExceededKind, Name, RateLimitExceeded};
use crate::fingerprint::{self, Fingerprint};
use crate::guard::Guard;
use crate::guard::denials::Asked;
use crate::key::{RateLimitKey, TextSink, escape};
use crate::limit::{Algorithm, Limit, MAX_LIMITS};
use crate::observe::{self, ShownKey, Watch};
use crate::queue::Limits;
use crate::registry;
use crate::rt::clock::{self, Now};
use crate::rt::counts::Counts;
use crate::switches::{Switch, Switches};
#[cfg(feature = "test-util")]
use crate::test_util::{self, Scope};

pub(super) use parts::{Each, Part};

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

const UNKNOWN: u8 = 0;
const FAST: u8 = 1;
const SLOW: u8 = 2;

/// The rules of one call.
pub(super) type Rules = SmallVec<[Rule; 2]>;

/// The number of counters of resets in a backend. If buckets share a counter, a reset of one only
/// voids refunds of earlier permits of the other.
const RESETS: usize = 64;

pub(crate) struct Core {
    /// Unique among the limiters of this process, including dropped ones.
    pub(super) id: u64,
    /// How often buckets in a backend were reset, indexed by a hash of the bucket. Permits taken
    /// before a reset are not given back after it.
    resets: [AtomicU64; RESETS],
    name: Name,
    named: bool,
    /// Algorithms and literal periods of the limits as written: part of every bucket's identity.
    shape: Box<str>,
    /// The prefix of its buckets' names in backends.
    prefix: Box<str>,
    rules: Rules,
    /// The limit of the first rule.
    first: Limit,
    /// The key of each limit, by its number, in calls with several keys.
    groups: Box<[u8]>,
    /// The parts with a key each. Made for the first call with several keys.
    each: OnceCell<Each>,
    /// Held while limits are replaced, or parts are made.
    replacing: Mutex<()>,
    /// A part of a limiter with several keys: not listed.
    is_part: bool,
    reads_per: u8,
    reads_count: u8,
    replaced: AtomicBool,
    /// The limits set at run time, once `replaced` is set.
    replacement: ArcSwap<Rules>,
    /// A hash of the limits that apply, if none is read at each call. A cached denial by other
    /// limits does not apply.
    limits_hash: AtomicU64,
    /// The part of the fingerprint that all its buckets share.
    fingerprint: Fingerprint,
    /// What a call returns decides whether its permits come back, in other processes too.
    gives_back: AtomicBool,
    /// Calls are decided and counted, but not denied.
    dry_run: AtomicBool,
    /// Whether calls take neither the fast path nor the next one: the limiter is off, or it tries
    /// limits.
    is_special: AtomicBool,
    /// All calls are admitted, and not counted.
    is_off: AtomicBool,
    /// Limits that are tried: they decide and count each call, and deny none.
    tried: ArcSwapOption<Tried>,
    pub(super) options: Options,
    backend: OnceCell<SharedBackend>,
    /// Buckets in the process's own memory: all of them, or the ones that take over if a backend
    /// fails.
    local: OnceCell<Arc<Store>>,
    /// Buckets in a memory backend made for this limiter.
    own: OnceCell<Arc<Store>>,
    /// Whether calls take the fast path while all switches are off: [`UNKNOWN`], [`FAST`], or
    /// [`SLOW`] for good.
    path: AtomicU8,
    /// The store of the fast path.
    fast: OnceCell<Arc<Store>>,
    /// The store of calls in memory while all switches are off.
    memory: OnceCell<Arc<Store>>,
    counts: Counts,
    /// Waiting calls.
    queued: AtomicUsize,
    /// Calls that gave up while they waited.
    abandoned: AtomicU64,
    watch: Watch,
}

/// What configuration sets of a limiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The limits that apply; `None` for those written down.
    pub(crate) limits: Option<Vec<Limit>>,
    /// Limits that decide and count each call, and deny none, with their positions.
    pub(crate) tried: Vec<(u8, Limit)>,
    /// Whether calls are only counted; `None` as written.
    pub(crate) dry_run: Option<bool>,
    /// Whether calls are limited at all.
    pub(crate) enabled: bool,
}

/// Limits that are tried.
pub(crate) struct Tried {
    limits: Vec<(u8, Limit)>,
    /// Made at the first call.
    core: OnceCell<Arc<Core>>,
}

impl Settings {
    pub(crate) const AS_WRITTEN: Settings = Settings { limits: None, tried: Vec::new(), dry_run: None, enabled: true };
}

/// Where a call is decided, and by which clock.
pub(super) struct Venue<'a> {
    pub(super) target: Target<'a>,
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only tokio's clock can be a test's"))]
    is_async: bool,
    #[cfg(feature = "test-util")]
    pub(super) scope: Option<Arc<Scope>>,
}

/// The rules that apply to a call.
#[expect(clippy::large_enum_variant, reason = "a call with several limits allocates nothing either")]
pub(super) enum Applying<'a> {
    Written(&'a [Rule]),
    Replaced(Guarded<Arc<Rules>>),
    Read(Rc<Rule>),
    Several(Rules),
}

impl Deref for Applying<'_> {
    type Target = [Rule];

    #[inline]
    fn deref(&self) -> &[Rule] {
        match self {
            Applying::Written(rules) => rules,
            Applying::Replaced(rules) => rules,
            Applying::Read(rule) => std::slice::from_ref(rule),
            Applying::Several(rules) => rules,
        }
    }
}

pub(super) enum Target<'a> {
    Memory(StoreRef<'a>),
    Remote(&'a Arc<Guard>),
}

pub(super) enum StoreRef<'a> {
    Shared(&'a Arc<Store>),
    /// The store of a test.
    #[cfg(feature = "test-util")]
    Scoped(Arc<Store>),
}

impl Deref for StoreRef<'_> {
    type Target = Arc<Store>;

    #[inline]
    fn deref(&self) -> &Arc<Store> {
        match self {
            StoreRef::Shared(store) => store,
            #[cfg(feature = "test-util")]
            StoreRef::Scoped(store) => store,
        }
    }
}

impl Venue<'_> {
    #[cfg_attr(
        not(any(feature = "test-util", feature = "tokio")),
        expect(clippy::unused_self, reason = "there is no other clock")
    )]
    #[inline]
    pub(super) fn now(&self) -> Now {
        #[cfg(feature = "test-util")]
        if let Some(scope) = &self.scope {
            return Now::exactly(scope.now());
        }
        #[cfg(feature = "tokio")]
        if self.is_async {
            return clock::clock().now_in_runtime();
        }
        clock::clock().now()
    }

    /// The time by a test's clock, if there is one.
    #[cfg_attr(not(feature = "test-util"), expect(clippy::unused_self, reason = "there is no other clock"))]
    pub(super) fn test_time(&self) -> Option<Timestamp> {
        #[cfg(feature = "test-util")]
        return self.scope.as_ref().map(|scope| Timestamp::from_nanos(scope.now()));
        #[cfg(not(feature = "test-util"))]
        None
    }

    /// Whether time advances by itself: no test has stopped it.
    #[cfg_attr(
        not(any(feature = "test-util", feature = "tokio")),
        expect(clippy::unused_self, reason = "there is no other clock")
    )]
    pub(super) fn is_real(&self) -> bool {
        #[cfg(feature = "test-util")]
        if self.scope.is_some() {
            return false;
        }
        #[cfg(feature = "tokio")]
        if self.is_async && clock::is_paused() {
            return false;
        }
        true
    }

    /// Whether a call can wait in a queue before a backend: not if a test has stopped its runtime's
    /// clock alone. Nothing would keep that clock from going on while the queue asks.
    pub(super) fn may_queue(&self) -> bool {
        #[cfg(feature = "test-util")]
        if self.scope.is_some() {
            return true;
        }
        self.is_real()
    }

    /// The time as backends count it: the test's time or the real time, regardless of a runtime's
    /// clock.
    #[cfg_attr(not(feature = "test-util"), expect(clippy::unused_self, reason = "there is no other clock"))]
    #[inline]
    pub(super) fn backend_now(&self) -> u64 {
        #[cfg(feature = "test-util")]
        if let Some(scope) = &self.scope {
            return scope.now();
        }
        clock::now()
    }
}

/// A request, and where it goes.
pub(super) type Question = (Arc<Guard>, Request);

/// Sends all requests, and returns the first failure.
pub(super) fn send(requests: impl IntoIterator<Item = Question>) -> Result<(), BackendError> {
    requests.into_iter().map(|(backend, request)| backend.decide(&request).map(drop)).fold(Ok(()), Result::and)
}

pub(super) async fn send_async(requests: impl IntoIterator<Item = Question>) -> Result<(), BackendError> {
    let mut result = Ok(());
    for (backend, request) in requests {
        result = result.and(backend.decide_async(&request).await.map(drop));
    }
    result
}

impl Core {
    pub(crate) fn new(resolved: Resolved) -> Arc<Core> {
        let shape = shape(&resolved.limits, resolved.reads_per);
        let core = Arc::new(Core::of(resolved, shape, false));
        registry::add(&core);
        core
    }

    fn of(resolved: Resolved, shape: String, is_part: bool) -> Core {
        let Resolved { name, named, limits, groups, reads_per, reads_count, options, backend } = resolved;
        let rules: Rules = limits.iter().map(|limit| Rule::new(*limit)).collect();
        Core {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            resets: [const { AtomicU64::new(0) }; RESETS],
            limits_hash: AtomicU64::new(fingerprint::of_limits(&limits)),
            fingerprint: Fingerprint::of_limiter(&[name.as_str(), &shape]),
            gives_back: AtomicBool::new(false),
            watch: Watch::new(name.as_str()),
            prefix: prefix(name.as_str()).into(),
            name,
            named,
            shape: shape.into(),
            replacement: ArcSwap::from_pointee(rules.clone()),
            first: limits[0],
            rules,
            groups: groups.into(),
            each: OnceCell::new(),
            replacing: Mutex::new(()),
            is_part,
            reads_per,
            reads_count,
            replaced: AtomicBool::new(false),
            dry_run: AtomicBool::new(options.dry_run),
            is_special: AtomicBool::new(false),
            is_off: AtomicBool::new(false),
            tried: ArcSwapOption::empty(),
            options,
            backend: backend.map_or_else(OnceCell::new, OnceCell::with_value),
            local: OnceCell::new(),
            own: OnceCell::new(),
            path: AtomicU8::new(UNKNOWN),
            fast: OnceCell::new(),
            memory: OnceCell::new(),
            counts: Counts::default(),
            queued: AtomicUsize::new(0),
            abandoned: AtomicU64::new(0),
        }
    }

    /// The part of the limits at these positions, which share a key. `shapes` are those of the
    /// parts made before: a second one of the same shape is told apart by its number, since two
    /// keys of one value would be one bucket.
    pub(super) fn part(&self, positions: &[u8], shapes: &mut Vec<String>) -> Arc<Core> {
        let limits: Vec<Limit> = positions.iter().map(|position| self.rules[usize::from(*position)].limit).collect();
        let bits = |bits: u8| {
            let own = positions.iter().enumerate();
            own.fold(0, |all, (own, position)| all | (bits >> position & 1) << own)
        };
        let mut shape = shape(&limits, bits(self.reads_per));
        let alike = shapes.iter().filter(|other| **other == shape).count();
        shapes.push(shape.clone());
        if alike > 0 {
            // Writing to a String does not fail.
            let _ = write!(shape, "#{}", alike + 1);
        }
        let resolved = Resolved {
            name: self.name.clone(),
            named: self.named,
            groups: vec![0; limits.len()],
            limits,
            reads_per: bits(self.reads_per),
            reads_count: bits(self.reads_count),
            options: Options { dry_run: false, ..self.options },
            backend: self.backend.get().cloned(),
        };
        Arc::new(Core::of(resolved, shape, true))
    }

    /// The key of each limit, by its number among the keys of a call.
    pub(crate) fn groups(&self) -> &[u8] {
        &self.groups
    }

    /// The key of the limit at `position`. Limits beyond those written down have the last key.
    fn group_of(&self, position: usize) -> u8 {
        let last = || self.keys().last().copied().unwrap_or_default();
        self.groups.get(position).copied().unwrap_or_else(last)
    }

    /// The keys of a call whose limits have keys of their own, by their numbers.
    pub(crate) fn keys(&self) -> SmallVec<[u8; MAX_LIMITS]> {
        let mut keys = SmallVec::new();
        for group in &self.groups {
            if !keys.contains(group) {
                keys.push(*group);
            }
        }
        keys
    }

    /// The parts with a key each, if they are made.
    #[inline]
    pub(super) fn made_each(&self) -> Option<&Each> {
        self.each.get()
    }

    /// The parts with a key each. `None` while this thread makes the backend: it would be made once
    /// more for each part.
    pub(super) fn each(&self) -> Option<&Each> {
        if let Some(each) = self.each.get() {
            return Some(each);
        }
        // Outside the lock: making a backend runs foreign code.
        let _ = self.target(Switches::load());
        if matches!(self.options.backend, BackendChoice::Made(_)) && self.backend.get().is_none() {
            return None;
        }
        let _replacing = self.replacing.lock();
        Some(self.each.get_or_init(|| {
            let each = Each::of(self);
            each.cores().for_each(|part| part.follow(self));
            if self.replaced.load(Ordering::Acquire) {
                each.replace_limits(&self.limits());
            }
            if self.gives_back.load(Ordering::Relaxed) {
                each.cores().for_each(|core| core.gives_back());
            }
            each
        }))
    }

    pub(crate) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Whether the name was given to it.
    pub(crate) fn is_named(&self) -> bool {
        self.named
    }

    /// The reset counter of a bucket. `fingerprint` is the bucket's, if its backend uses
    /// fingerprints.
    pub(super) fn resets_of(&self, bucket: &str, fingerprint: Option<Fingerprint>) -> &AtomicU64 {
        let sum = || bucket.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        let number = fingerprint.map_or_else(sum, |fingerprint| fingerprint.low().to_le_bytes()[0]);
        &self.resets[usize::from(number) % RESETS]
    }

    pub(super) fn shared_name(&self) -> Name {
        self.name.clone()
    }

    pub(crate) fn limits(&self) -> Vec<Limit> {
        self.with_rules(None, |rules| rules.iter().map(|rule| rule.limit).collect())
    }

    /// The limits as written, by which another process can name the buckets; `None` if a period is
    /// read at each call.
    #[cfg(all(feature = "configuration", feature = "redis"))]
    pub(crate) fn written_limits(&self) -> Option<Vec<Limit>> {
        (self.reads_per == 0).then(|| self.rules.iter().map(|rule| rule.limit).collect())
    }

    /// Whether its buckets are in this backend, as far as it was used.
    #[cfg(all(feature = "configuration", feature = "redis"))]
    pub(crate) fn is_on(&self, backend: &crate::backend::redis::RedisBackend) -> bool {
        match self.target(Switches::load()) {
            Target::Memory(_) => false,
            Target::Remote(guard) => guard.is_of(backend),
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        self.counts.sums()
    }

    /// Calls that wait now, and calls that gave up while they waited.
    pub(crate) fn waiting(&self) -> (usize, u64) {
        let own = (self.queued.load(Ordering::Relaxed), self.abandoned.load(Ordering::Relaxed));
        let parts = self.made_each().into_iter().flat_map(Each::cores).map(|core| core.waiting());
        parts.fold(own, |(waiting, abandoned), part| (waiting + part.0, abandoned + part.1))
    }

    /// For buckets in memory: the permits left in the bucket of all calls, and the number of keys.
    /// The permits are `None` if there are keys or limits are read at each call.
    pub(crate) fn in_memory(&self) -> Option<(Option<u32>, usize)> {
        let venue = self.venue(Switches::load(), false);
        let Target::Memory(store) = &venue.target else { return None };
        let parts = self.made_each().into_iter().flat_map(Each::cores);
        let keys = store.keys() + parts.filter_map(|core| core.in_memory()).map(|(_, keys)| keys).sum::<usize>();
        let is_known = keys == 0 && self.reads_per | self.reads_count == 0;
        let remaining = is_known.then(|| {
            let left = |ask: &Ask<'_>| store.peek(Address::Unkeyed, ask, venue.now()).1.remaining;
            self.with_ask(store, None, 0, left)
        });
        Some((remaining, keys))
    }

    /// Counts an admitted call.
    #[inline]
    pub(super) fn allowed(&self) {
        self.counts.allow();
        self.watch.allowed();
    }

    /// Reports that an admitted call has to wait.
    pub(super) fn waits(&self, delay: Duration) {
        self.watch.waits(delay);
    }

    /// Counts a call that starts to wait.
    pub(super) fn queued(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        self.watch.queued();
    }

    /// Counts a call that stops waiting.
    pub(super) fn unqueued(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.watch.unqueued();
    }

    /// Counts a call that gave up while it waited.
    pub(super) fn abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
        self.watch.abandoned();
    }

    /// Counts a denied call.
    #[inline]
    pub(super) fn denied(&self) {
        self.counts.deny();
        self.watch.denied();
    }

    /// Counts a call that is denied because the backend failed.
    pub(super) fn failed(&self) {
        self.counts.deny();
        self.watch.failed();
    }

    /// Reports a denied call, if an observer wants denials.
    #[inline]
    pub(super) fn tell_denied(&self, exceeded: impl FnOnce() -> RateLimitExceeded, cost: u32, key: ShownKey<'_>) {
        if observe::wants_denials() {
            observe::denied(&exceeded(), cost, self.dry_run(), key);
        }
    }

    pub(crate) fn set_limits(&self, limits: &[Limit]) -> Result<(), InvalidLimiter> {
        InvalidLimiter::check(limits)?;
        self.replace_limits(limits);
        self.wake_waiters();
        Ok(())
    }

    /// Replaces the limits with others that are already checked. The caller must then wake waiting
    /// calls.
    pub(crate) fn replace_limits(&self, limits: &[Limit]) {
        let _replacing = self.replacing.lock();
        if let Some(each) = self.made_each() {
            each.replace_limits(limits);
        }
        let rules: Rules = limits.iter().map(|limit| Rule::new(*limit)).collect();
        // Before the first call by the new limits, so that no bucket forgets permits that they
        // count.
        self.each_store(|store| store.expect(&rules));
        self.replacement.store(Arc::new(rules));
        self.replaced.store(true, Ordering::Release);
        self.path.store(SLOW, Ordering::Release);
        self.limits_hash.store(fingerprint::of_limits(limits), Ordering::Release);
    }

    /// Whether calls are only counted and never denied.
    #[inline]
    pub(crate) fn dry_run(&self) -> bool {
        self.dry_run.load(Ordering::Relaxed)
    }

    /// Whether calls are admitted at once and not counted: all limits of the process are off, or
    /// this limiter is.
    pub(super) fn is_off(&self, switches: Switches) -> bool {
        switches.has(Switch::Disabled) || !self.is_enabled()
    }

    /// Whether the limiter is on; see [`Settings::enabled`].
    pub(crate) fn is_enabled(&self) -> bool {
        !self.is_off.load(Ordering::Relaxed)
    }

    /// Whether calls must be [started](super::Call::start) to be decided.
    #[inline]
    pub(super) fn is_special(&self) -> bool {
        self.is_special.load(Ordering::Relaxed)
    }

    /// The limits that are tried, as a limiter of their own.
    pub(super) fn tried(&self) -> Option<Arc<Core>> {
        let tried = if self.is_special() { self.tried.load_full() } else { None }?;
        Some(Arc::clone(tried.core.get_or_init(|| Core::new(self.trying(&tried.limits)))))
    }

    /// Applies settings whose limits are already checked. The caller must then wake waiting calls,
    /// and drop the result, both without holding a lock.
    pub(crate) fn configure(&self, settings: &Settings) -> Option<Arc<Tried>> {
        match &settings.limits {
            Some(limits) => self.replace_limits(limits),
            None if self.replaced.load(Ordering::Acquire) => {
                let written: Vec<Limit> = self.rules.iter().map(|rule| rule.limit).collect();
                self.replace_limits(&written);
            }
            None => {}
        }
        let before = self.tried.load_full();
        let tried = if settings.tried.is_empty() {
            None
        } else if let Some(before) = before.filter(|before| before.limits == settings.tried) {
            Some(before)
        } else {
            Some(Arc::new(Tried { limits: settings.tried.clone(), core: OnceCell::new() }))
        };
        let is_special = tried.is_some() || !settings.enabled;
        self.dry_run.store(settings.dry_run.unwrap_or(self.options.dry_run), Ordering::Relaxed);
        self.is_off.store(!settings.enabled, Ordering::Relaxed);
        for part in self.made_each().into_iter().flat_map(Each::cores) {
            part.follow(self);
        }
        let before = self.tried.swap(tried);
        self.is_special.store(is_special, Ordering::Release);
        if is_special {
            self.path.store(SLOW, Ordering::Release);
        }
        before
    }

    /// Switches a part as the whole limiter is.
    fn follow(&self, whole: &Core) {
        self.dry_run.store(whole.dry_run(), Ordering::Relaxed);
        self.is_off.store(!whole.is_enabled(), Ordering::Relaxed);
    }

    /// A limiter that tries these limits in this process's memory. Each has the key of its position.
    fn trying(&self, tried: &[(u8, Limit)]) -> Resolved {
        Resolved {
            name: Name::Shared(format!("{} (dry run)", self.name()).into()),
            named: true,
            groups: tried.iter().map(|(position, _)| self.group_of(usize::from(*position))).collect(),
            limits: tried.iter().map(|(_, limit)| *limit).collect(),
            reads_per: 0,
            reads_count: 0,
            options: Options {
                backend: BackendChoice::Memory,
                dry_run: true,
                is_trial: true,
                backoff: None,
                location: self.options.location,
                ..self.options
            },
            backend: None,
        }
    }

    /// Makes waiting calls look again, because limits have changed or no longer apply.
    pub(crate) fn wake_waiters(&self) {
        #[cfg(feature = "test-util")]
        let now = test_util::current().map_or_else(|| clock::clock().now(), |scope| Now::exactly(scope.now()));
        #[cfg(not(feature = "test-util"))]
        let now = clock::clock().now();
        self.each_store(|store| store.wake_all(now));
        let default = || Switches::load().has(Switch::DefaultBackend).then(default_backend).flatten();
        let backend = match self.options.backend {
            BackendChoice::Default => self.backend.get().or_else(default),
            BackendChoice::Memory | BackendChoice::Made(_) => self.backend.get(),
        };
        if let Some(BackendKind::Remote(guard)) = backend.map(|backend| &backend.kind) {
            guard.queues.renew(&self.prefix);
        }
        self.made_each().into_iter().flat_map(Each::cores).for_each(|core| core.wake_waiters());
    }

    /// Runs `f` on the existing stores.
    fn each_store(&self, f: impl Fn(&Store)) {
        #[cfg(feature = "test-util")]
        if let Some(store) = test_util::current().and_then(|scope| scope.existing(self.id)) {
            f(&store);
        }
        [self.local.get(), self.own.get()].into_iter().flatten().for_each(|store| f(store));
    }

    /// Runs `f` on a call in the form that `store` takes.
    #[inline]
    pub(super) fn with_ask<R>(
        &self,
        store: &Store,
        read: Option<&[Limit]>,
        cost: u32,
        f: impl FnOnce(&Ask<'_>) -> R,
    ) -> R {
        f(&self.ask(store, &self.rules(read), cost))
    }

    /// A call by these rules in the form that `store` takes.
    #[inline]
    pub(super) fn ask<'a>(&'a self, store: &Store, rules: &'a [Rule], cost: u32) -> Ask<'a> {
        let is_written = std::ptr::eq(rules.as_ptr(), self.rules.as_ptr()) && store.is_made_by(self.id);
        let call = MemoryCall { rules, backoff: self.backoff(), cost, floor: Hold::NONE };
        Ask { call, is_foreign: !is_written && !store.is_for(rules) }
    }

    #[inline]
    pub(super) fn backoff(&self) -> Option<&Backoff> {
        self.options.backoff.as_ref()
    }

    /// Runs `f` on the rules that apply.
    #[inline]
    pub(super) fn with_rules<R>(&self, read: Option<&[Limit]>, f: impl FnOnce(&[Rule]) -> R) -> R {
        f(&self.rules(read))
    }

    /// The rules that apply: read at the call, set at run time, or as written.
    #[inline]
    pub(super) fn rules(&self, read: Option<&[Limit]>) -> Applying<'_> {
        let is_written = read.is_none() && !self.replaced.load(Ordering::Acquire);
        if is_written { Applying::Written(&self.rules) } else { self.other_rules(read) }
    }

    #[inline(never)]
    fn other_rules(&self, read: Option<&[Limit]>) -> Applying<'_> {
        let replacement = self.replaced.load(Ordering::Acquire).then(|| self.replacement.load());
        let rule = |(position, limit): (usize, &Limit)| {
            let is_read = (self.reads_per | self.reads_count) >> position & 1 == 1;
            match replacement.as_deref().and_then(|rules| rules.get(position)) {
                Some(rule) if !is_read => *rule,
                _ => *Rule::remembered(limit),
            }
        };
        match (read, &replacement) {
            (None, _) => replacement.map_or(Applying::Written(&self.rules), Applying::Replaced),
            (Some([limit]), None) => Applying::Read(Rule::remembered(limit)),
            (Some(limits), _) => Applying::Several(limits.iter().enumerate().map(rule).collect()),
        }
    }

    /// The store of the fast path. Call only while all switches are off.
    #[inline]
    pub(super) fn fast(&self) -> Option<&Arc<Store>> {
        match self.path.load(Ordering::Acquire) {
            FAST => self.fast.get(),
            SLOW => None,
            _ => self.first_fast(),
        }
    }

    #[cold]
    #[inline(never)]
    fn first_fast(&self) -> Option<&Arc<Store>> {
        if self.path.load(Ordering::Acquire) == UNKNOWN {
            let path = match self.target(Switches::OFF) {
                Target::Memory(StoreRef::Shared(store))
                    if !self.varies() && store.is_written_for(&self.rules, self.backoff()) =>
                {
                    self.fast.get_or_init(|| Arc::clone(store));
                    FAST
                }
                _ => SLOW,
            };
            // Keeps `SLOW` if limits were replaced meanwhile.
            let _ = self.path.compare_exchange(UNKNOWN, path, Ordering::AcqRel, Ordering::Relaxed);
        }
        if self.path.load(Ordering::Acquire) == FAST { self.fast.get() } else { None }
    }

    /// Whether limits are read at each call.
    #[inline]
    fn varies(&self) -> bool {
        self.reads_per | self.reads_count != 0
    }

    /// The store, if buckets are in memory. Call only while all switches are off.
    #[inline]
    pub(super) fn memory(&self) -> Option<&Arc<Store>> {
        match self.memory.get() {
            Some(store) => Some(store),
            None => self.first_memory(),
        }
    }

    #[cold]
    #[inline(never)]
    fn first_memory(&self) -> Option<&Arc<Store>> {
        match self.target(Switches::OFF) {
            Target::Memory(StoreRef::Shared(store)) => Some(self.memory.get_or_init(|| Arc::clone(store))),
            _ => None,
        }
    }

    /// The denial of a call for one permit by the only limit, which then has no permits left.
    ///
    /// Inlined into the annotated function, so that the error is never written to memory in one
    /// width and moved in another. That stalls a processor for longer than the whole decision
    /// takes.
    #[expect(clippy::inline_always, reason = "see above")]
    #[inline(always)]
    pub(super) fn exceeded(&self, retry_after: u64) -> RateLimitExceeded {
        RateLimitExceeded {
            limiter: self.shared_name(),
            limit: self.first.by_parts(),
            retry_after,
            remaining: 0,
            position: 0,
            kind: ExceededKind::Limited,
        }
    }

    /// The limit at `position`, as written.
    pub(super) fn written(&self, position: u8) -> Limit {
        if position == 0 { self.first.by_parts() } else { self.rules[usize::from(position)].limit }
    }

    /// The venue of a call, in a future or not.
    #[inline]
    pub(super) fn venue(&self, switches: Switches, is_async: bool) -> Venue<'_> {
        #[cfg(feature = "test-util")]
        if switches.has(Switch::Test)
            && let Some(scope) = test_util::current()
        {
            let target = match self.target(switches) {
                Target::Memory(_) => Target::Memory(StoreRef::Scoped(self.scoped(&scope))),
                remote @ Target::Remote(_) => remote,
            };
            return Venue { target, is_async, scope: Some(scope) };
        }
        Venue {
            target: self.target(switches),
            is_async,
            #[cfg(feature = "test-util")]
            scope: None,
        }
    }

    #[inline]
    fn target(&self, switches: Switches) -> Target<'_> {
        let backend = match self.options.backend {
            _ if self.backend.get().is_some() => self.backend.get(),
            BackendChoice::Made(make) => Some(made(&self.backend, make)),
            BackendChoice::Default if switches.has(Switch::DefaultBackend) => default_backend(),
            BackendChoice::Default | BackendChoice::Memory => None,
        };
        match backend.map(|backend| &backend.kind) {
            None => Target::Memory(StoreRef::Shared(self.local.get_or_init(|| self.store(process_memory())))),
            Some(BackendKind::Memory(memory)) => {
                Target::Memory(StoreRef::Shared(self.own.get_or_init(|| self.store(memory))))
            }
            Some(BackendKind::Remote(remote)) => Target::Remote(remote),
        }
    }

    /// Whether buckets in memory take over if a backend fails.
    pub(super) fn has_stand_in(&self) -> bool {
        self.options.on_backend_error == OnBackendError::Local
    }

    /// The buckets that take over if a backend fails.
    pub(super) fn fallback(&self, venue: &Venue<'_>) -> StoreRef<'_> {
        #[cfg(feature = "test-util")]
        if let Some(scope) = &venue.scope {
            return StoreRef::Scoped(self.scoped(scope));
        }
        let _ = venue;
        StoreRef::Shared(self.local.get_or_init(|| self.store(process_memory())))
    }

    #[cfg(feature = "test-util")]
    fn scoped(&self, scope: &Scope) -> Arc<Store> {
        scope.store(self.id, |memory| self.store(memory))
    }

    /// Forgets the buckets in this process's memory.
    #[cfg(feature = "test-util")]
    pub(crate) fn clear_memory(&self) {
        for store in [self.local.get(), self.own.get()].into_iter().flatten() {
            store.clear();
        }
    }

    fn store(&self, memory: &MemoryBackend) -> Arc<Store> {
        let varies = self.varies();
        let rules = self.rules.iter().copied().collect();
        let backoff = self.options.backoff;
        let written = Written { rules, backoff, varies, by: self.id, limiter: self.shared_name() };
        let store = memory.store(self.identity(), &written);
        // Limiters of the same name may have another count, and limits may have been replaced.
        store.expect(&self.rules);
        self.with_rules(None, |rules| store.expect(rules));
        store
    }

    /// The identity by which limiters in one memory share buckets; `None` if they do not.
    fn identity(&self) -> Option<String> {
        self.named.then(|| format!("{}\u{0}{}", self.name(), self.shape))
    }

    /// The key of a call in the denial cache, if its limits are not read at each call. See
    /// [`crate::guard::denials`].
    #[inline]
    pub(super) fn asked<K: RateLimitKey>(&self, venue: &Venue<'_>, key: &K, cost: u32) -> Asked {
        Asked { bucket: self.fingerprint(venue, key), cost, limits: self.limits_hash.load(Ordering::Acquire) }
    }

    #[inline]
    fn fingerprint<K: RateLimitKey>(&self, venue: &Venue<'_>, key: &K) -> Fingerprint {
        #[cfg(feature = "test-util")]
        if let Some(scope) = &venue.scope {
            return Fingerprint::of_limiter(&[self.name(), &self.shape, scope.id()]).of_key(key);
        }
        let _ = venue;
        self.fingerprint.of_key(key)
    }

    /// Whether its denials hold until the time that they give. They do not if permits come back
    /// from other processes.
    #[inline]
    pub(super) fn denial_cache(&self) -> bool {
        !self.gives_back.load(Ordering::Relaxed)
    }

    /// Notes that what a call returns decides whether its permits come back.
    pub(crate) fn gives_back(&self) {
        self.gives_back.store(true, Ordering::Relaxed);
        self.made_each().into_iter().flat_map(Each::cores).for_each(|core| core.gives_back());
    }

    /// The request to a backend for the bucket of `key`.
    pub(super) fn request<K: RateLimitKey>(
        &self,
        venue: &Venue<'_>,
        key: &K,
        rules: &[Rule],
        action: Action,
    ) -> Request {
        let mut bucket = String::with_capacity(self.prefix.len() + self.shape.len() + 32);
        bucket.push_str(&self.prefix);
        key.write_to(&mut TextSink::new(&mut bucket));
        bucket.push_str("}:");
        bucket.push_str(&self.shape);
        let fingerprint = match &venue.target {
            Target::Remote(guard) if guard.needs_fingerprint() => Some(self.fingerprint(venue, key)),
            _ => None,
        };
        self.request_for(venue, Core::scoped_name(venue, bucket), fingerprint, rules, action)
    }

    pub(super) fn request_for(
        &self,
        venue: &Venue<'_>,
        bucket: Arc<str>,
        fingerprint: Option<Fingerprint>,
        rules: &[Rule],
        action: Action,
    ) -> Request {
        let test_time = venue.test_time();
        #[cfg(feature = "test-util")]
        if let (Some(_), Target::Remote(guard)) = (&test_time, &venue.target) {
            guard.queues.catch_up(&bucket);
        }
        Request {
            bucket,
            limits: rules.iter().map(|rule| rule.limit).collect(),
            backoff: self.options.backoff,
            action,
            test_time,
            fingerprint,
        }
    }

    fn scoped_name(venue: &Venue<'_>, bucket: String) -> Arc<str> {
        #[cfg(feature = "test-util")]
        if let Some(scope) = &venue.scope {
            return format!("{bucket}:test{}", scope.id()).into();
        }
        let _ = venue;
        bucket.into()
    }

    pub(crate) fn refund(&self, decision: Decision) -> Result<(), BackendError> {
        send(self.start_give_back(decision))
    }

    pub(crate) async fn refund_async(&self, decision: Decision) -> Result<(), BackendError> {
        send_async(self.start_give_back(decision)).await
    }

    /// Gives back the permits without waiting for a backend.
    pub(super) fn give_back_later(&self, decision: Decision) {
        for (backend, request) in self.start_give_back(decision) {
            backend.decide_later(request);
        }
    }

    /// Gives back permits taken in memory. For permits taken in a backend, returns the requests,
    /// one for each bucket.
    fn start_give_back(&self, decision: Decision) -> Vec<Question> {
        match decision.taken {
            Some(Taken { place: Place::Each(all), limiter, .. }) if limiter == self.id => {
                self.apart(all).filter_map(|(part, taken)| part.give_back_taken(taken)).collect()
            }
            taken => taken.and_then(|taken| self.give_back_taken(taken)).into_iter().collect(),
        }
    }

    /// As [`start_give_back`](Core::start_give_back), of one bucket.
    pub(super) fn give_back_taken(&self, taken: Taken) -> Option<Question> {
        let cost = taken.cost();
        let Taken { place, limits, limiter } = taken;
        if limiter != self.id || cost == 0 {
            return None;
        }
        let read = limits.as_deref();
        match place {
            Place::Memory(held) => {
                let venue = self.venue(Switches::load(), true);
                match &venue.target {
                    Target::Memory(store) => self.give_back(store, held, read, venue.now()),
                    Target::Remote(_) => self.give_back(&self.fallback(&venue), held, read, venue.now()),
                }
                None
            }
            Place::Remote(bucket) => {
                let RemoteBucket { name, fingerprint, permit, resets } = *bucket;
                let venue = self.venue(Switches::load(), true);
                let Target::Remote(backend) = &venue.target else { return None };
                if resets != self.resets_of(&name, fingerprint).load(Ordering::Relaxed) {
                    return None;
                }
                self.with_rules(read, |rules| {
                    let action = Action::GiveBack(permit);
                    let request = self.request_for(&venue, name, fingerprint, rules, action);
                    Some((Arc::clone(backend), request))
                })
            }
            Place::Each(_) => None,
        }
    }

    /// Gives back permits held in memory, unless their bucket was reset or an algorithm of its
    /// limits has changed.
    pub(super) fn give_back(&self, store: &Store, held: Held, read: Option<&[Limit]>, now: Now) {
        let Held { address, permit, resets, kinds, store: of } = held;
        self.with_ask(store, read, permit.cost, |ask| {
            if of == store.id() && resets == store.resets(address) && kinds == kinds_of(ask.call.rules) {
                store.refund(address, ask, now, permit);
            }
        });
    }

    pub(crate) fn reset<K: RateLimitKey>(&self, key: &K) -> Result<(), BackendError> {
        match self.start_reset(key) {
            Some((backend, request)) => backend.decide(&request).map(drop),
            None => Ok(()),
        }
    }

    /// Resets the bucket in memory. For a bucket in a backend, returns the request.
    pub(crate) fn start_reset<K: RateLimitKey>(&self, key: &K) -> Option<Question> {
        let venue = self.venue(Switches::load(), false);
        let forget = |store: &Store| {
            let address = store.address(key);
            self.with_ask(store, None, 1, |ask| store.reset(address, ask, venue.now()));
            observe::unlocked();
        };
        match &venue.target {
            Target::Memory(store) => {
                forget(store);
                None
            }
            Target::Remote(backend) => {
                forget(&self.fallback(&venue));
                let request = self.with_rules(None, |rules| self.request(&venue, key, rules, Action::Reset));
                self.resets_of(request.bucket(), request.fingerprint).fetch_add(1, Ordering::Relaxed);
                Some((Arc::clone(backend), request))
            }
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        drop((self.fast.take(), self.memory.take()));
        [self.local.take(), self.own.take()].into_iter().flatten().for_each(memory::release);
        if !self.is_part {
            registry::count_gone();
        }
    }
}

impl Limits for Core {
    fn with(&self, judge: &mut dyn FnMut(&[Rule], Option<&Backoff>)) {
        self.with_rules(None, |rules| judge(rules, self.backoff()));
    }
}

/// The algorithms of limits, two bits each. Permits of one algorithm cannot be given back to
/// another.
pub(super) fn kinds_of(rules: &[Rule]) -> u16 {
    rules.iter().fold(0, |kinds, rule| kinds << 2 | kinds_of_one(rule.limit.algorithm()))
}

/// [`kinds_of`] for one limit.
pub(super) fn kinds_of_one(algorithm: Algorithm) -> u16 {
    algorithm as u16 + 1
}

/// A bucket's name up to the key.
fn prefix(name: &str) -> String {
    let mut prefix = "rl:1:{".to_owned();
    escape(&mut prefix, name);
    prefix.push(':');
    prefix
}

/// Algorithm and period of each limit; `*` for a period that is read at each call. For a calendar
/// its unit, the first day of the week, and the zone.
fn shape(limits: &[Limit], reads_per: u8) -> String {
    let mut shape = String::new();
    for (position, limit) in limits.iter().enumerate() {
        if position > 0 {
            shape.push(',');
        }
        #[cfg(feature = "calendar")]
        if let Some(calendar) = limit.calendar() {
            shape.push('c');
            calendar.write_identity(&mut shape);
            continue;
        }
        shape.push(match limit.algorithm() {
            Algorithm::SlidingWindow => 's',
            Algorithm::TokenBucket => 't',
            Algorithm::FixedWindow => 'f',
        });
        if reads_per >> position & 1 == 1 {
            shape.push('*');
        } else {
            // Writing to a String does not fail.
            let _ = write!(shape, "{}", limit.per_micros());
        }
    }
    shape
}
