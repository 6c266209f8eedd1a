//! The denial cache: a 4-way set-associative cache. A call that would be denied again is denied
//! without asking the backend.
//!
//! An entry belongs to one bucket and one set of limits, and to calls for one permit. Such calls
//! find no permit left until one is admitted; what is left for larger calls changes meanwhile.
//!
//! An entry ends a thousandth before its time, because the server's clock may run slightly faster.
//! It ends after a second at the latest, because another process may have reset the bucket. Permits
//! that come back through this process, or are taken from the same bucket at another cost, end it
//! at once.
//!
//! All handles of one server share the cache. Its size is fixed. A new entry replaces the one that
//! ends first among the four of its set.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use crate::fingerprint::Fingerprint;
use crate::rt::sync::Lock;

/// Sets of one backend's cache: half a megabyte, allocated at its first denial.
const SETS: usize = 2_048;
const WAYS: usize = 4;
/// How long a request that this process sent without waiting may still be under way, in
/// nanoseconds.
const UNDER_WAY: u64 = 2_000_000_000;
/// The longest life of an entry, in nanoseconds: hundreds of round trips.
const LONGEST: u64 = 1_000_000_000;
/// A clock gains or loses less than one part in this many.
const DRIFT: u64 = 1_024;

/// A call whose denial is cached: the key of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DenialKey {
    pub(crate) bucket: Fingerprint,
    pub(crate) cost: u32,
    /// A hash of the limits, by [`fingerprint::of_limits`](crate::fingerprint::of_limits).
    pub(crate) limits: u64,
}

/// A cached denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedDenial {
    /// When the call would be admitted, by this process's clock.
    pub(crate) admitted_at: u64,
    pub(crate) remaining: u32,
    /// The position of the limit that denies it.
    pub(crate) limit: u8,
    /// For a key blocked for its longest time: how long each denial blocks it again, in
    /// nanoseconds. Else 0.
    pub(crate) ban: u64,
    /// The key is blocked or banned.
    pub(crate) is_blocked: bool,
}

impl CachedDenial {
    /// The denial of a call at `now`, which itself counts as a denial.
    pub(crate) fn to_a_try(self, now: u64) -> CachedDenial {
        let again = if self.ban == 0 { 0 } else { now.saturating_add(self.ban) };
        CachedDenial { admitted_at: self.admitted_at.max(again), ..self }
    }
}

#[derive(Default)]
pub(crate) struct Denials {
    sets: OnceCell<Box<[Lock<Set>]>>,
}

type Set = [Entry; WAYS];

#[derive(Clone, Copy)]
enum Entry {
    Empty,
    Denied {
        asked: DenialKey,
        denial: CachedDenial,
        /// When the backend is asked again.
        until: u64,
    },
    /// Denials of calls sent before `until` are not cached.
    Changed {
        bucket: Fingerprint,
        until: u64,
    },
}

impl Entry {
    fn ends(&self) -> u64 {
        match self {
            Entry::Empty => 0,
            Entry::Denied { until, .. } | Entry::Changed { until, .. } => *until,
        }
    }
}

impl Denials {
    pub(crate) fn new() -> Denials {
        Denials::default()
    }

    /// The cache of a server, shared by all handles that lead to it.
    pub(crate) fn of_server(server: &str) -> Arc<Denials> {
        static SERVERS: Mutex<BTreeMap<String, Weak<Denials>>> = Mutex::new(BTreeMap::new());
        let mut servers = SERVERS.lock();
        if let Some(denials) = servers.get(server).and_then(Weak::upgrade) {
            return denials;
        }
        servers.retain(|_, denials| denials.strong_count() > 0);
        let denials = Arc::new(Denials::new());
        servers.insert(server.to_owned(), Arc::downgrade(&denials));
        denials
    }

    /// The cached denial of a call, if there is one.
    #[inline]
    pub(crate) fn find(&self, asked: DenialKey, now: u64) -> Option<CachedDenial> {
        let set = self.set(asked.bucket)?.lock();
        set.iter().find_map(|entry| match entry {
            Entry::Denied { asked: by, denial, until } if *by == asked && now < *until => Some(*denial),
            _ => None,
        })
    }

    /// Caches the denial of a call sent at `sent`, for at most `longest`, unless the bucket has
    /// changed meanwhile.
    pub(crate) fn keep(&self, asked: DenialKey, denial: CachedDenial, sent: u64, longest: u64) {
        if asked.cost != 1 {
            return;
        }
        let lasts = denial.admitted_at.saturating_sub(sent);
        let until = sent.saturating_add((lasts - lasts / DRIFT).min(LONGEST).min(longest));
        if until <= sent {
            return;
        }
        let all = self.sets.get_or_init(|| (0..SETS).map(|_| Lock::new([Entry::Empty; WAYS])).collect());
        let mut entries = all[place(asked.bucket)].lock();
        let is_stale = |entry: &Entry| matches!(entry, Entry::Changed { bucket, until } if *bucket == asked.bucket && sent < *until);
        if entries.iter().any(is_stale) {
            return;
        }
        let is_same = |entry: &Entry| matches!(entry, Entry::Denied { asked: by, .. } if by.bucket == asked.bucket && by.cost == asked.cost);
        put(&mut entries, is_same, Entry::Denied { asked, denial, until });
    }

    /// Drops a bucket's denials after calls at other costs, which may have delayed the next
    /// admission.
    pub(crate) fn forget(&self, bucket: Fingerprint) {
        let Some(set) = self.set(bucket) else { return };
        for entry in set.lock().iter_mut() {
            if matches!(entry, Entry::Denied { asked, .. } if asked.bucket == bucket) {
                *entry = Entry::Empty;
            }
        }
    }

    /// Permits of the bucket came back by `now`.
    pub(crate) fn lift(&self, bucket: Fingerprint, now: u64) {
        self.change(bucket, now);
    }

    /// Permits of the bucket are on their way back: caches nothing until they have arrived.
    pub(crate) fn suspend(&self, bucket: Fingerprint, now: u64) {
        self.change(bucket, now.saturating_add(UNDER_WAY));
    }

    fn change(&self, bucket: Fingerprint, until: u64) {
        self.forget(bucket);
        let Some(set) = self.set(bucket) else { return };
        let mut set = set.lock();
        let is_same = |entry: &Entry| matches!(entry, Entry::Changed { bucket: of, .. } if *of == bucket);
        let until = set.iter().filter(|entry| is_same(entry)).map(Entry::ends).fold(until, u64::max);
        put(&mut set, is_same, Entry::Changed { bucket, until });
    }

    /// `None` before the first denial.
    #[inline]
    fn set(&self, bucket: Fingerprint) -> Option<&Lock<Set>> {
        self.sets.get().map(|sets| &sets[place(bucket)])
    }
}

/// Replaces the matching entry, else the one that ends first.
fn put(set: &mut Set, is_same: impl Fn(&Entry) -> bool, entry: Entry) {
    let place = set.iter().position(is_same);
    let place = place.or_else(|| (0..WAYS).min_by_key(|way| set[*way].ends()));
    if let Some(place) = place {
        set[place] = entry;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lowest bits of a hash")]
fn place(bucket: Fingerprint) -> usize {
    bucket.low() as usize % SETS
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn bucket(key: &str) -> Fingerprint {
        Fingerprint::of_limiter(&["api", "s1000000"]).of_key(&key)
    }

    fn asked(key: &str, cost: u32) -> DenialKey {
        DenialKey { bucket: bucket(key), cost, limits: 7 }
    }

    fn denial(admitted_at: u64) -> CachedDenial {
        CachedDenial { admitted_at, remaining: 0, limit: 0, ban: 0, is_blocked: false }
    }

    /// A cache with keys denied from 0 to half a second.
    fn with(keys: &[&str]) -> Denials {
        let denials = Denials::new();
        for key in keys {
            denials.keep(asked(key, 1), denial(SECOND / 2), 0, u64::MAX);
        }
        denials
    }

    #[test]
    fn a_denial_ends_a_thousandth_early() {
        let denials = with(&["a"]);
        let end = SECOND / 2 - SECOND / 2 / 1_000;
        assert_eq!(denials.find(asked("a", 1), end), Some(denial(SECOND / 2)));
        assert_eq!(denials.find(asked("a", 1), SECOND / 2 - 1), None);
        assert_eq!(denials.find(asked("a", 2), 0), None);
        assert_eq!(denials.find(asked("b", 1), 0), None);
        assert_eq!(denials.find(DenialKey { limits: 8, ..asked("a", 1) }, 0), None);
    }

    #[test]
    fn a_denial_is_kept_for_a_second_at_most() {
        let denials = Denials::new();
        denials.keep(asked("a", 1), denial(u64::MAX), 7, u64::MAX);
        assert_eq!(denials.find(asked("a", 1), 6 + LONGEST), Some(denial(u64::MAX)));
        assert_eq!(denials.find(asked("a", 1), 7 + LONGEST), None);
    }

    #[test]
    fn denials_of_larger_calls_are_not_cached() {
        let denials = Denials::new();
        denials.keep(asked("a", 2), denial(SECOND), 0, u64::MAX);
        assert_eq!(denials.find(asked("a", 2), 0), None);
    }

    #[test]
    fn handles_of_one_server_share_the_cache() {
        let (one, same, other) = (Denials::of_server("a"), Denials::of_server("a"), Denials::of_server("b"));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn returned_permits_end_a_denial() {
        let denials = with(&["a", "b"]);
        denials.lift(bucket("a"), 1);
        assert_eq!(denials.find(asked("a", 1), 1), None);
        assert!(denials.find(asked("b", 1), 1).is_some());
    }

    #[test]
    fn denials_sent_before_a_refund_are_not_cached() {
        let denials = with(&["a"]);
        denials.lift(bucket("a"), SECOND);
        denials.keep(asked("a", 1), denial(10 * SECOND), SECOND - 1, u64::MAX);
        assert_eq!(denials.find(asked("a", 1), SECOND), None);
        denials.keep(asked("a", 1), denial(10 * SECOND), SECOND, u64::MAX);
        assert!(denials.find(asked("a", 1), SECOND).is_some());
    }

    #[test]
    fn nothing_is_cached_while_permits_are_returning() {
        let denials = with(&["a"]);
        denials.suspend(bucket("a"), SECOND);
        denials.lift(bucket("a"), SECOND);
        let back = SECOND + UNDER_WAY;
        denials.keep(asked("a", 1), denial(10 * SECOND), back - 1, u64::MAX);
        assert_eq!(denials.find(asked("a", 1), back), None);
        denials.keep(asked("a", 1), denial(10 * SECOND), back, u64::MAX);
        assert!(denials.find(asked("a", 1), back).is_some());
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_denies_no_other_key() {
        let denials = Denials::new();
        for key in 0..100_000_u64 {
            let asked = DenialKey { bucket: bucket("").of_key(&key), cost: 1, limits: 7 };
            denials.keep(asked, denial(SECOND + key), 0, u64::MAX);
        }
        let kept = (0..100_000_u64).filter(|key| {
            let asked = DenialKey { bucket: bucket("").of_key(key), cost: 1, limits: 7 };
            let found = denials.find(asked, 1);
            found.inspect(|denial| assert_eq!(denial.admitted_at, SECOND + key)).is_some()
        });
        let kept = kept.count();
        assert!(kept <= SETS * WAYS && kept > SETS * WAYS / 2, "{kept}");
    }

    #[test]
    fn the_longest_ban_restarts_at_each_try() {
        let denials = Denials::new();
        let ban = CachedDenial { ban: 100 * SECOND, ..denial(100 * SECOND) };
        denials.keep(asked("a", 1), ban, 0, SECOND / 2);
        let found = denials.find(asked("a", 1), SECOND / 4).unwrap();
        assert_eq!(found.admitted_at, 100 * SECOND);
        assert_eq!(found.to_a_try(SECOND / 4).admitted_at, 100 * SECOND + SECOND / 4);
        assert_eq!(denials.find(asked("a", 1), SECOND / 2), None);
        assert_eq!(denial(5 * SECOND).to_a_try(SECOND).admitted_at, 5 * SECOND);
    }
}
