//! Denials that hold for a while: a call that would be denied again is, without asking the backend.
//!
//! What is kept belongs to one bucket and one set of limits, and to calls for one permit: of those nothing is left until one
//! is admitted, while what is left to a call for more changes meanwhile. It ends a thousandth before its time, so that a
//! server's clock that runs a little faster than this one is not denied for longer than the server would, and after a second
//! at the latest, because another process may have reset the bucket. Permits that come back through this process, and those
//! that are taken of the same bucket for another cost, end it at once.
//!
//! All handles of one server share them.
//!
//! Bounded: a fixed number of entries, of which a new one takes the place of the one that ends first among four.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use crate::fingerprint::Fingerprint;
use crate::sync::Lock;

/// Entries of one backend: half a megabyte, taken at its first denial.
const SETS: usize = 2_048;
const WAYS: usize = 4;
/// What this process sends without waiting for the answer is done within this time, in nanoseconds.
const UNDER_WAY: u64 = 2_000_000_000;
/// So long a denial is kept at most, in nanoseconds: hundreds of times a round trip.
const LONGEST: u64 = 1_000_000_000;
/// A clock gains or loses less than one part in so many.
const DRIFT: u64 = 1_024;

/// A call that is denied again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) bucket: Fingerprint,
    pub(crate) cost: u32,
    /// A hash of the limits, by [`fingerprint::of_limits`](crate::fingerprint::of_limits).
    pub(crate) limits: u64,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// When it would be admitted, by this process's clock.
    pub(crate) admitted_at: u64,
    pub(crate) remaining: u32,
    /// Position of the limit that denies it.
    pub(crate) limit: u8,
    /// Of a key that is banned as long as it ever is: each denial bans it for so long again, in nanoseconds. Else 0.
    pub(crate) ban: u64,
}

impl Told {
    /// What a call at `now` is told, which tries and is denied.
    pub(crate) fn to_a_try(self, now: u64) -> Told {
        let again = if self.ban == 0 { 0 } else { now.saturating_add(self.ban) };
        Told { admitted_at: self.admitted_at.max(again), ..self }
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
        asked: Asked,
        told: Told,
        /// The backend is asked again from then on.
        until: u64,
    },
    /// Denials of calls that were sent earlier say nothing.
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

    /// Those of a server, by whatever handle it is reached.
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

    /// What the call is told, if it is known.
    #[inline]
    pub(crate) fn find(&self, asked: Asked, now: u64) -> Option<Told> {
        let set = self.set(asked.bucket)?.lock();
        set.iter().find_map(|entry| match entry {
            Entry::Denied { asked: by, told, until } if *by == asked && now < *until => Some(*told),
            _ => None,
        })
    }

    /// Keeps what a call was told that was sent at `sent`, unless the bucket has changed meanwhile, for `longest` at most.
    pub(crate) fn keep(&self, asked: Asked, told: Told, sent: u64, longest: u64) {
        if asked.cost != 1 {
            return;
        }
        let lasts = told.admitted_at.saturating_sub(sent);
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
        put(&mut entries, is_same, Entry::Denied { asked, told, until });
    }

    /// The bucket was changed by calls for other costs: they may have put off what was told.
    pub(crate) fn forget(&self, bucket: Fingerprint) {
        let Some(set) = self.set(bucket) else { return };
        for entry in set.lock().iter_mut() {
            if matches!(entry, Entry::Denied { asked, .. } if asked.bucket == bucket) {
                *entry = Entry::Empty;
            }
        }
    }

    /// Permits of the bucket have come back by `now`.
    pub(crate) fn lift(&self, bucket: Fingerprint, now: u64) {
        self.change(bucket, now);
    }

    /// Permits of the bucket are on their way back: nothing is kept until they are there.
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

    /// Nothing before the first denial.
    #[inline]
    fn set(&self, bucket: Fingerprint) -> Option<&Lock<Set>> {
        self.sets.get().map(|sets| &sets[place(bucket)])
    }
}

/// Puts an entry in the place of one that is the same, else of the one that ends first.
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

    fn asked(key: &str, cost: u32) -> Asked {
        Asked { bucket: bucket(key), cost, limits: 7 }
    }

    fn told(admitted_at: u64) -> Told {
        Told { admitted_at, remaining: 0, limit: 0, ban: 0 }
    }

    /// Denied at 0 until half a second.
    fn with(keys: &[&str]) -> Denials {
        let denials = Denials::new();
        for key in keys {
            denials.keep(asked(key, 1), told(SECOND / 2), 0, u64::MAX);
        }
        denials
    }

    #[test]
    fn a_denial_holds_for_its_bucket_and_limits_until_a_thousandth_before_its_end() {
        let denials = with(&["a"]);
        let end = SECOND / 2 - SECOND / 2 / 1_000;
        assert_eq!(denials.find(asked("a", 1), end), Some(told(SECOND / 2)));
        assert_eq!(denials.find(asked("a", 1), SECOND / 2 - 1), None);
        assert_eq!(denials.find(asked("a", 2), 0), None);
        assert_eq!(denials.find(asked("b", 1), 0), None);
        assert_eq!(denials.find(Asked { limits: 8, ..asked("a", 1) }, 0), None);
    }

    #[test]
    fn a_denial_is_kept_for_a_second_at_most() {
        let denials = Denials::new();
        denials.keep(asked("a", 1), told(u64::MAX), 7, u64::MAX);
        assert_eq!(denials.find(asked("a", 1), 6 + LONGEST), Some(told(u64::MAX)));
        assert_eq!(denials.find(asked("a", 1), 7 + LONGEST), None);
    }

    #[test]
    fn what_is_left_to_a_call_for_more_changes_and_is_not_kept() {
        let denials = Denials::new();
        denials.keep(asked("a", 2), told(SECOND), 0, u64::MAX);
        assert_eq!(denials.find(asked("a", 2), 0), None);
    }

    #[test]
    fn handles_of_one_server_share_what_is_kept() {
        let (one, same, other) = (Denials::of_server("a"), Denials::of_server("a"), Denials::of_server("b"));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn permits_that_come_back_end_it() {
        let denials = with(&["a", "b"]);
        denials.lift(bucket("a"), 1);
        assert_eq!(denials.find(asked("a", 1), 1), None);
        assert!(denials.find(asked("b", 1), 1).is_some());
    }

    #[test]
    fn what_was_asked_before_permits_came_back_is_not_kept() {
        let denials = with(&["a"]);
        denials.lift(bucket("a"), SECOND);
        denials.keep(asked("a", 1), told(10 * SECOND), SECOND - 1, u64::MAX);
        assert_eq!(denials.find(asked("a", 1), SECOND), None);
        denials.keep(asked("a", 1), told(10 * SECOND), SECOND, u64::MAX);
        assert!(denials.find(asked("a", 1), SECOND).is_some());
    }

    #[test]
    fn nothing_is_kept_while_permits_are_on_their_way_back() {
        let denials = with(&["a"]);
        denials.suspend(bucket("a"), SECOND);
        denials.lift(bucket("a"), SECOND);
        let back = SECOND + UNDER_WAY;
        denials.keep(asked("a", 1), told(10 * SECOND), back - 1, u64::MAX);
        assert_eq!(denials.find(asked("a", 1), back), None);
        denials.keep(asked("a", 1), told(10 * SECOND), back, u64::MAX);
        assert!(denials.find(asked("a", 1), back).is_some());
    }

    #[test]
    fn a_flood_of_keys_takes_no_more_room_and_tells_none_a_lie() {
        let denials = Denials::new();
        for key in 0..100_000_u64 {
            let asked = Asked { bucket: bucket("").of_key(&key), cost: 1, limits: 7 };
            denials.keep(asked, told(SECOND + key), 0, u64::MAX);
        }
        let kept = (0..100_000_u64).filter(|key| {
            let asked = Asked { bucket: bucket("").of_key(key), cost: 1, limits: 7 };
            let found = denials.find(asked, 1);
            found.inspect(|told| assert_eq!(told.admitted_at, SECOND + key)).is_some()
        });
        let kept = kept.count();
        assert!(kept <= SETS * WAYS && kept > SETS * WAYS / 2, "{kept}");
    }

    #[test]
    fn a_ban_that_grows_no_more_is_kept_for_a_while_and_begins_anew_with_each_try() {
        let denials = Denials::new();
        let ban = Told { ban: 100 * SECOND, ..told(100 * SECOND) };
        denials.keep(asked("a", 1), ban, 0, SECOND / 2);
        let found = denials.find(asked("a", 1), SECOND / 4).unwrap();
        assert_eq!(found.admitted_at, 100 * SECOND);
        assert_eq!(found.to_a_try(SECOND / 4).admitted_at, 100 * SECOND + SECOND / 4);
        assert_eq!(denials.find(asked("a", 1), SECOND / 2), None);
        assert_eq!(told(5 * SECOND).to_a_try(SECOND).admitted_at, 5 * SECOND);
    }
}
