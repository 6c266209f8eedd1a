//! The state that a limiter's handles share, in parts by responsibility.

mod activity;
mod identity;
mod modes;
mod parts;
mod requests;
mod rules;
mod stores;

use std::fmt::Write as _;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::builder::InvalidLimiter;
use super::spec::{Options, Resolved};
use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::backend::memory::{Ask, Attempt, Call as MemoryCall, Hold, Store, open_thorough};
use crate::decision::Address;
use crate::error::{ExceededKind, RateLimitExceeded};
use crate::limit::{Limit, MAX_LIMITS};
use crate::queue::Limits;
use crate::registry;
use crate::rt::clock::{self, Now};
use crate::scope;
use crate::switches::Switches;
use activity::Activity;
use identity::{Identity, shape};
use modes::Modes;
use requests::Refunds;
use rules::RuleSet;
use stores::Stores;

pub(crate) use modes::Settings;
pub(super) use parts::{Each, Part};
pub(super) use requests::{Question, send, send_async};
pub(super) use rules::{Others, kinds_of, kinds_of_one, open_others};
pub(crate) use stores::{Contains, Packed, Paths};
pub(super) use stores::{Fast, Path, Target, Venue};

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Core {
    /// Unique among the limiters of this process, including dropped ones.
    pub(super) id: u64,
    pub(super) options: Options,
    identity: Identity,
    rules: RuleSet,
    stores: Stores,
    refunds: Refunds,
    modes: Modes,
    activity: Activity,
    /// The number of each limit's key, in calls with several keys.
    groups: Box<[u8]>,
    /// The parts with a key each. Made for the first call with several keys.
    each: OnceCell<Each>,
    /// Held while limits are replaced, or parts are made.
    replacing: Mutex<()>,
    /// A part of a limiter with several keys: not listed.
    is_part: bool,
    contains: Contains,
}

impl Core {
    pub(crate) fn new(resolved: Resolved, contains: Contains) -> Arc<Core> {
        // Allocated first, and kept if the rest fails: no code here drops a core, and a program whose
        // limiters are never dropped contains none that does.
        let core = ManuallyDrop::new(Arc::new_cyclic(|_| Core::of(resolved, None, contains)));
        registry::add(&core);
        ManuallyDrop::into_inner(core)
    }

    /// `shape` is that of a part of a limiter.
    fn of(resolved: Resolved, shape: Option<String>, contains: Contains) -> Core {
        let Resolved { name, named, limits, groups, reads, options, backend } = resolved;
        let (activity, groups, is_part) = (Activity::new(name.as_str()), groups.into(), shape.is_some());
        let (identity, rules) = (Identity::new(name, named, shape), RuleSet::new(&limits, reads));
        Core {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            rules,
            stores: Stores::new(backend),
            refunds: Refunds::new(),
            modes: Modes::new(options.dry_run),
            activity,
            is_part,
            identity,
            options,
            groups,
            each: OnceCell::new(),
            replacing: Mutex::new(()),
            contains,
        }
    }

    /// The part of the limits at these positions, which share a key. `shapes` are those of the
    /// parts made before. A later part of the same shape gets a number, because equal keys would
    /// otherwise share a bucket.
    pub(super) fn part(&self, positions: &[u8], shapes: &mut Vec<String>) -> Arc<Core> {
        let reads = self.rules.reads().at(positions);
        let limits: Vec<Limit> =
            positions.iter().map(|position| self.rules.written()[usize::from(*position)].limit).collect();
        let mut shape = shape(&limits, reads.per);
        let alike = shapes.iter().filter(|other| **other == shape).count();
        shapes.push(shape.clone());
        if alike > 0 {
            // Writing to a String does not fail.
            let _ = write!(shape, "#{}", alike + 1);
        }
        let resolved = Resolved {
            name: self.shared_name(),
            named: self.is_named(),
            groups: vec![0; limits.len()],
            limits,
            reads,
            options: Options { dry_run: false, ..self.options },
            backend: self.stores.backend().cloned(),
        };
        Arc::new(Core::of(resolved, Some(shape), self.contains))
    }

    /// The number of each limit's key among the keys of a call.
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
        if !self.makes_backend() {
            return None;
        }
        let _replacing = self.replacing.lock();
        Some(self.each.get_or_init(|| {
            let each = Each::of(self);
            each.cores().for_each(|part| part.follow(self));
            if self.rules.are_replaced() {
                each.replace_limits(&self.limits());
            }
            if !self.denial_cache() {
                each.cores().for_each(|core| core.gives_back());
            }
            each
        }))
    }

    /// The limits that apply. Those that are read at each call are as the first call read them.
    pub(crate) fn limits(&self) -> Vec<Limit> {
        self.with_rules(self.rules.seen(), |rules| rules.iter().map(|rule| rule.limit).collect())
    }

    /// The limits as written, by which another process can name the buckets; `None` if a period is
    /// read at each call.
    #[cfg(all(feature = "configuration", feature = "redis"))]
    pub(crate) fn written_limits(&self) -> Option<Vec<Limit>> {
        (self.rules.reads().per == 0).then(|| self.rules.seen_limits())
    }

    /// Its name and the shape of its limits, the common part of its buckets' names.
    #[cfg(all(feature = "configuration", feature = "redis"))]
    pub(crate) fn published_name(&self) -> String {
        self.name_and_shape()
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

    pub(crate) fn set_limits(&self, limits: &[Limit]) -> Result<(), InvalidLimiter> {
        InvalidLimiter::check(limits)?;
        self.replace_limits(limits);
        self.wake_waiters();
        Ok(())
    }

    /// Replaces the limits with others that are already checked. The caller must then wake waiting
    /// calls.
    pub(crate) fn replace_limits(&self, limits: &[Limit]) {
        open_thorough();
        let _replacing = self.replacing.lock();
        if let Some(each) = self.made_each() {
            each.replace_limits(limits);
        }
        let rules: Box<[Rule]> = limits.iter().map(|limit| Rule::new(*limit)).collect();
        // Before the first call by the new limits, so that no bucket forgets permits that they
        // count.
        self.rules.expects(Store::expect_others);
        self.each_store(|store| store.expect_others(&rules));
        self.rules.replace(limits, rules);
        self.stores.leave_fast_path();
    }

    /// Makes waiting calls look again, because limits have changed or no longer apply.
    pub(crate) fn wake_waiters(&self) {
        let scope = scope::current(Switches::load());
        let now = scope.map_or_else(|| clock::clock().now(), |scope| Now::exactly(scope.now()));
        self.each_store(|store| store.wake_all(now));
        if let Some(guard) = self.existing_guard() {
            guard.queues.renew(self.identity.prefix());
        }
        self.made_each().into_iter().flat_map(Each::cores).for_each(|core| core.wake_waiters());
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
        self.with_rules(read, |rules| f(&self.ask(store, rules, cost)))
    }

    /// Takes permits by a single limit that is not as written, if nothing else is to be looked
    /// at.
    #[inline]
    pub(super) fn try_other(
        &self,
        read: Option<&[Limit]>,
        store: &Store,
        address: Address,
        now: Now,
        cost: u32,
    ) -> Attempt {
        if self.backoff().is_none() && !store.may_hold(address) {
            self.rules.try_other(read, store, address, now, cost)
        } else {
            Attempt::Contended
        }
    }

    /// A call by these rules in the form that `store` takes.
    #[inline]
    pub(super) fn ask<'a>(&'a self, store: &Store, rules: &'a [Rule], cost: u32) -> Ask<'a> {
        let is_written = self.rules.are_written(rules) && store.is_made_by(self.id);
        let call = MemoryCall { rules, backoff: self.backoff(), cost, floor: Hold::NONE };
        let is_foreign = !is_written && !store.is_for(rules);
        if is_foreign {
            self.rules.expect_read(store, rules);
        }
        Ask { call, is_foreign }
    }

    #[inline]
    pub(super) fn backoff(&self) -> Option<&Backoff> {
        self.options.backoff.as_ref()
    }

    /// Runs `f` on the rules that apply.
    #[inline]
    pub(super) fn with_rules<R>(&self, read: Option<&[Limit]>, f: impl FnOnce(&[Rule]) -> R) -> R {
        f(self.rules.applying(read, &mut None))
    }

    /// Whether these are the limits as written.
    #[inline]
    pub(crate) fn is_written(&self, limits: &[Limit]) -> bool {
        self.rules.is_written(limits)
    }

    /// A call has read these limits.
    #[inline]
    pub(super) fn see(&self, limits: &[Limit]) {
        self.rules.see(limits);
    }

    /// The rules that apply, if they are not as written.
    pub(super) fn other_rules(&self, read: Option<&[Limit]>) -> Option<Others> {
        let mut others = None;
        self.rules.applying(read, &mut others);
        others
    }

    /// These rules, or those as written.
    pub(super) fn or_written<'a>(&'a self, others: Option<&'a Others>) -> &'a [Rule] {
        self.rules.or_written(others)
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
            limit: self.rules.first.by_parts(),
            retry_after,
            remaining: 0,
            position: 0,
            kind: ExceededKind::Limited,
        }
    }

    /// The limit at `position`, as written.
    pub(super) fn written(&self, position: u8) -> Limit {
        self.rules.written_at(position)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stores.release();
        if !self.is_part {
            registry::count_gone();
            self.forget_blocks();
        }
    }
}

impl Limits for Core {
    fn with(&self, judge: &mut dyn FnMut(&[Rule], Option<&Backoff>)) {
        self.with_rules(None, |rules| judge(rules, self.backoff()));
    }
}
