//! The counts and reports of a limiter's calls.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Core, Each, Target};
use crate::backend::memory::Ask;
use crate::decision::Address;
use crate::error::RateLimitExceeded;
use crate::observe::{self, ShownKey, Watch};
use crate::rt::counts::Counts;
use crate::switches::Switches;

/// Counts since the limiter was made, and its metrics.
pub(super) struct Activity {
    counts: Counts,
    /// Waiting calls.
    queued: AtomicUsize,
    /// Calls that gave up while they waited.
    abandoned: AtomicU64,
    watch: Watch,
}

impl Activity {
    pub(super) fn new(limiter: &str) -> Activity {
        Activity {
            counts: Counts::default(),
            queued: AtomicUsize::new(0),
            abandoned: AtomicU64::new(0),
            watch: Watch::new(limiter),
        }
    }
}

impl Core {
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.activity.counts.sums()
    }

    /// Calls that wait now, and calls that gave up while they waited.
    pub(crate) fn waiting(&self) -> (usize, u64) {
        let own = (self.activity.queued.load(Ordering::Relaxed), self.activity.abandoned.load(Ordering::Relaxed));
        let parts = self.made_each().into_iter().flat_map(Each::cores).map(|core| core.waiting());
        parts.fold(own, |(waiting, abandoned), part| (waiting + part.0, abandoned + part.1))
    }

    /// For buckets in memory: the permits left in the bucket of all calls, and the number of keys.
    /// The permits are `None` if there are keys, if limits are read at each call, or if none applies.
    pub(crate) fn in_memory(&self) -> Option<(Option<u32>, usize)> {
        let venue = self.venue(Switches::load(), false);
        let Target::Memory(store) = &venue.target else { return None };
        let parts = self.made_each().into_iter().flat_map(Each::cores);
        let keys = store.keys() + parts.filter_map(|core| core.in_memory()).map(|(_, keys)| keys).sum::<usize>();
        let is_known = keys == 0 && !self.rules.vary();
        let left = |ask: &Ask<'_>| {
            let left = store.peek(Address::Unkeyed, ask, venue.now()).1;
            let limit = ask.call.rules[usize::from(left.position)].limit;
            (!limit.is_unlimited()).then_some(left.remaining)
        };
        let remaining = if is_known { self.with_ask(store, None, 0, left) } else { None };
        Some((remaining, keys))
    }

    /// Counts an admitted call.
    #[inline]
    pub(in super::super) fn allowed(&self) {
        self.activity.counts.allow();
        self.activity.watch.allowed();
    }

    /// Reports that an admitted call has to wait.
    pub(in super::super) fn waits(&self, delay: Duration) {
        self.activity.watch.waits(delay);
    }

    /// Counts a call that starts to wait.
    pub(in super::super) fn queued(&self) {
        self.activity.queued.fetch_add(1, Ordering::Relaxed);
        self.activity.watch.queued();
    }

    /// Counts a call that stops waiting.
    pub(in super::super) fn unqueued(&self) {
        self.activity.queued.fetch_sub(1, Ordering::Relaxed);
        self.activity.watch.unqueued();
    }

    /// Counts a call that gave up while it waited.
    pub(in super::super) fn abandoned(&self) {
        self.activity.abandoned.fetch_add(1, Ordering::Relaxed);
        self.activity.watch.abandoned();
    }

    /// Counts a denied call.
    #[inline]
    pub(in super::super) fn denied(&self) {
        self.activity.counts.deny();
        self.activity.watch.denied();
    }

    /// Counts a call that is denied because the backend failed.
    pub(in super::super) fn failed(&self) {
        self.activity.counts.deny();
        self.activity.watch.failed();
    }

    /// Reports a denied call, if an observer wants denials.
    #[inline]
    pub(in super::super) fn report_denial(
        &self,
        exceeded: impl FnOnce() -> RateLimitExceeded,
        cost: u32,
        key: ShownKey<'_>,
    ) {
        if observe::wants_denials() {
            observe::denied(&exceeded(), cost, self.dry_run(), key);
        }
    }
}
