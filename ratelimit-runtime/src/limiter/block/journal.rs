//! The blocks and pauses that this process has set, by limiter and key, for limiters of the same
//! name that are first used later. They are dropped with the last limiter of the name.
//!
//! Each store finds buckets by a hash with a seed of its own, so no store can copy another's
//! blocks. The journal keeps the keys themselves.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::core::{Core, Target, Venue};
use super::LONGEST;
use crate::algorithm::Rule;
use crate::backend::Action;
use crate::backend::memory::Store;
use crate::guard::Guard;
use crate::key::{KeyCopy, RateLimitKey};
use crate::registry;
use crate::rt::clock::{self, Now, nanos};
use crate::scope::Scope;
use crate::switches::Switches;

/// The most blocks. One more makes the journal forget the half that ends first.
const MOST: usize = 100_000;
/// The most blocks sent to a backend with a limiter's first call: those that end last.
const SENT: usize = 128;
/// Below this many, ended blocks are left in place.
const FEW: usize = 64;

/// The process's own. Tests have one each.
static JOURNAL: Journal = Journal::new();

/// The code that repeats blocks, set with the first block: a program that blocks nothing does not
/// contain it.
static REPEAT: OnceLock<Repeat> = OnceLock::new();

struct Repeat {
    in_store: fn(&Core, &Arc<Store>, Option<&Scope>),
    in_backend: fn(&Core, &Venue<'_>, &Guard),
    forget: fn(&str),
}

/// A limiter's name and a key, or all calls of it.
type Blocked = (String, Option<KeyCopy>);

pub(crate) struct Journal(Mutex<Blocks>);

struct Blocks {
    /// When each ends, in nanoseconds.
    ends: BTreeMap<Blocked, u64>,
    /// The number of blocks above which ended ones are removed.
    swept_at: usize,
}

impl Blocks {
    /// The keys of a limiter, and when the block of each ends.
    fn of(&self, name: &str) -> impl Iterator<Item = (&Option<KeyCopy>, u64)> {
        let from = self.ends.range((name.to_owned(), None)..);
        from.take_while(move |((of, _), _)| of == name).map(|((_, key), end)| (key, *end))
    }
}

impl Journal {
    pub(crate) const fn new() -> Journal {
        Journal(Mutex::new(Blocks { ends: BTreeMap::new(), swept_at: FEW }))
    }

    fn note(&self, blocked: Blocked, end: u64, now: u64) {
        let mut blocks = self.0.lock();
        let known = blocks.ends.entry(blocked).or_default();
        *known = end.max(*known);
        if blocks.ends.len() > blocks.swept_at {
            blocks.ends.retain(|_, end| *end > now);
            if blocks.ends.len() > MOST {
                let mut ends: Vec<u64> = blocks.ends.values().copied().collect();
                let last = *ends.select_nth_unstable(MOST / 2).1;
                let mut excess = MOST / 2;
                blocks.ends.retain(|_, end| {
                    let stays = *end > last || excess == 0;
                    excess -= usize::from(!stays);
                    stays
                });
            }
            blocks.swept_at = (2 * blocks.ends.len()).clamp(FEW, MOST);
        }
    }

    fn forget(&self, blocked: &Blocked) {
        self.0.lock().ends.remove(blocked);
    }

    fn has(&self, name: &str) -> bool {
        self.0.lock().of(name).next().is_some()
    }

    fn forget_all(&self, name: &str) {
        self.0.lock().ends.retain(|(of, _), _| of != name);
    }

    /// The keys of a limiter that are still blocked, and until when.
    fn of(&self, name: &str, now: u64) -> Vec<(Option<KeyCopy>, u64)> {
        let blocks = self.0.lock();
        blocks.of(name).filter(|(_, end)| *end > now).map(|(key, end)| (key.clone(), end)).collect()
    }

    #[cfg(feature = "test-util")]
    pub(crate) fn of_process() -> &'static Journal {
        &JOURNAL
    }

    #[cfg(feature = "test-util")]
    pub(crate) fn clear(&self) {
        self.0.lock().ends.clear();
    }
}

fn journal(scope: Option<&Scope>) -> &Journal {
    scope.map_or(&JOURNAL, |scope| scope.journal())
}

impl Core {
    /// Records a block of a limiter that was given its name. Call it before listing the limiters of
    /// the name: one first used meanwhile is then either listed or reads the journal.
    pub(super) fn note_block(&self, key: Option<KeyCopy>, is_async: bool, time: Duration) {
        REPEAT.get_or_init(|| Repeat {
            in_store: Core::block_in_store,
            in_backend: Core::block_in_backend,
            forget: |name| {
                if JOURNAL.has(name) {
                    registry::unless_named(name, || JOURNAL.forget_all(name));
                }
            },
        });
        let venue = self.venue(Switches::load(), is_async);
        let now = venue.now().earliest;
        let end = now.saturating_add(nanos(time.min(LONGEST)));
        journal(venue.scope.as_ref()).note((self.name().to_owned(), key), end, now);
    }

    pub(super) fn forget_block<K: RateLimitKey>(&self, key: &K, venue: &Venue<'_>) {
        if self.is_named() && REPEAT.get().is_some() {
            journal(venue.scope.as_ref()).forget(&(self.name().to_owned(), KeyCopy::of(key)));
        }
    }

    /// Sets the earlier blocks in a new store of this limiter.
    #[inline]
    pub(in super::super) fn repeat_blocks(&self, store: &Arc<Store>, scope: Option<&Scope>) {
        if let Some(repeat) = REPEAT.get() {
            (repeat.in_store)(self, store, scope);
        }
    }

    /// Sends earlier blocks to the limiter's backend before its first call, without waiting: Redis
    /// decides them ahead of that call, other stores soon. A concurrent
    /// [`unblock`](crate::RateLimiter::unblock) follows them: it removes its block from the journal
    /// before it comes here, and waits. Not in a test, whose buckets in a backend are its own.
    #[inline]
    pub(in super::super) fn send_blocks(&self, venue: &Venue<'_>) {
        if let Target::Remote(backend) = &venue.target
            && venue.scope.is_none()
            && backend.may_be_called()
        {
            self.once_before_backend(|| {
                if let Some(repeat) = REPEAT.get() {
                    (repeat.in_backend)(self, venue, backend);
                }
            });
        }
    }

    /// Forgets the blocks of this limiter's name, if it is the last one.
    pub(in super::super) fn forget_blocks(&self) {
        if let Some(repeat) = REPEAT.get()
            && self.is_named()
        {
            (repeat.forget)(self.name());
        }
    }

    fn block_in_store(&self, store: &Arc<Store>, scope: Option<&Scope>) {
        let now = scope.map_or_else(|| clock::clock().now(), |scope| Now::exactly(scope.now()));
        for (key, end) in self.earlier_blocks(scope, now.earliest) {
            let address = match &key {
                None => store.address(&()),
                Some(key) => store.address(key),
            };
            store.block(address, end, now);
        }
    }

    fn block_in_backend(&self, venue: &Venue<'_>, backend: &Guard) {
        let now = venue.now().earliest;
        let mut blocks = self.earlier_blocks(venue.scope.as_ref(), now);
        blocks.sort_by_key(|(_, end)| Reverse(*end));
        for (key, end) in blocks.into_iter().take(SENT) {
            let action = Action::Block { time: Duration::from_nanos(end.saturating_sub(now)) };
            let request = |rules: &[Rule]| match &key {
                None => self.request(venue, &(), rules, action),
                Some(key) => self.request(venue, key, rules, action),
            };
            backend.decide_later(self.with_rules(None, request));
        }
    }

    fn earlier_blocks(&self, scope: Option<&Scope>, now: u64) -> Vec<(Option<KeyCopy>, u64)> {
        if self.is_named() { journal(scope).of(self.name(), now) } else { Vec::new() }
    }
}
