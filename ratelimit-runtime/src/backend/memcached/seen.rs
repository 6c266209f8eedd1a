//! The last states that a connection has seen, for a bounded number of buckets.
//!
//! A state is a guess: the store's compare-and-swap says whether it is still the current one.

use std::collections::HashMap;
use std::mem;
use std::time::Instant;

use foldhash::fast::RandomState;

/// The number of states in each of the two generations.
const GENERATION: usize = 4_096;
/// The longest state that is kept, in bytes.
const LONGEST: usize = 1_024;

/// A stored state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) bytes: Vec<u8>,
    /// The CAS number that the next change must name.
    pub(super) cas: u64,
    /// The store keeps it until then, unless it has to evict it.
    pub(super) kept_until: Option<Instant>,
}

/// States by key, in two generations: when the younger is full, the older is forgotten.
#[derive(Debug, Default)]
pub(super) struct Seen {
    young: HashMap<String, Stored, RandomState>,
    old: HashMap<String, Stored, RandomState>,
}

impl Seen {
    pub(super) fn take(&mut self, key: &str) -> Option<(String, Stored)> {
        let old = self.old.remove_entry(key);
        self.young.remove_entry(key).or(old)
    }

    pub(super) fn put(&mut self, key: String, stored: Stored) {
        if stored.bytes.len() > LONGEST {
            return;
        }
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, stored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(cas: u64) -> Stored {
        Stored { bytes: vec![1], cas, kept_until: None }
    }

    #[test]
    fn a_state_is_taken_once() {
        let mut seen = Seen::default();
        seen.put("a".to_owned(), stored(1));
        seen.put("a".to_owned(), stored(2));
        assert_eq!(seen.take("a"), Some(("a".to_owned(), stored(2))));
        assert_eq!(seen.take("a"), None);
    }

    #[test]
    fn the_number_of_states_is_bounded_and_the_latest_are_kept() {
        let mut seen = Seen::default();
        for number in 0..5 * GENERATION {
            seen.put(number.to_string(), stored(0));
            assert!(seen.young.len() + seen.old.len() <= 2 * GENERATION);
        }
        assert!(seen.take(&(4 * GENERATION + 1).to_string()).is_some());
        assert!(seen.take("1").is_none());
    }

    #[test]
    fn long_states_are_not_kept() {
        let mut seen = Seen::default();
        seen.put("a".to_owned(), Stored { bytes: vec![0; LONGEST + 1], ..stored(1) });
        assert_eq!(seen.take("a"), None);
    }
}
