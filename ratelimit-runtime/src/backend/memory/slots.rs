//! A table from fingerprints to small states: open addressing, in one allocation, so that a hit touches one cache line.
//!
//! A fingerprint is a hash already, and never zero. Its high bits say where its slot is looked for first; from there on, slot by slot. What
//! is removed leaves no mark behind: later slots of the same run move up.

use super::compact::Compact;

/// Of five slots, at most four are taken.
const TAKEN: (usize, usize) = (4, 5);
/// Slots of a table that holds anything.
const LEAST: usize = 8;

pub(super) struct Slots<S> {
    slots: Box<[Slot<S>]>,
    len: usize,
}

pub(super) struct Slot<S> {
    /// Zero: there is nothing here.
    fingerprint: u64,
    pub(super) state: S,
}

impl<S> Slot<S> {
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl<S: Compact> Slots<S> {
    pub(super) fn new() -> Slots<S> {
        Slots { slots: Box::new([]), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Slots, taken or not.
    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }

    /// What the slot at `place` holds.
    pub(super) fn at(&self, place: usize) -> Option<&Slot<S>> {
        self.slots.get(place).filter(|slot| slot.fingerprint != 0)
    }

    #[inline]
    pub(super) fn get(&self, fingerprint: u64) -> Option<&S> {
        self.find(fingerprint).map(|place| &self.slots[place].state)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, fingerprint: u64) -> Option<&mut S> {
        self.find(fingerprint).map(|place| &mut self.slots[place].state)
    }

    /// Where the slot of `fingerprint` is.
    #[inline]
    pub(super) fn find(&self, fingerprint: u64) -> Option<usize> {
        let mut place = self.home(fingerprint);
        loop {
            // There is none only in a table without any.
            let found = self.slots.get(place)?.fingerprint;
            if found == fingerprint {
                return Some(place);
            }
            if found == 0 {
                return None;
            }
            place = self.after(place);
        }
    }

    /// Adds a state, of a fingerprint that is not there yet.
    pub(super) fn insert(&mut self, fingerprint: u64, state: S) {
        if (self.len + 1) * TAKEN.1 > self.places() * TAKEN.0 {
            self.resize(self.places() + self.places() / 2);
        }
        self.put(Slot { fingerprint, state });
        self.len += 1;
    }

    /// Removes what the slot at `place` holds.
    pub(super) fn remove(&mut self, place: usize) {
        if self.at(place).is_none() {
            return;
        }
        let (mut hole, mut next) = (place, self.after(place));
        while self.slots[next].fingerprint != 0 {
            // Whoever is looked for at the hole or before it can fill it.
            if self.distance(self.home(self.slots[next].fingerprint), next) >= self.distance(hole, next) {
                self.slots.swap(hole, next);
                hole = next;
            }
            next = self.after(next);
        }
        self.slots[hole] = Slot { fingerprint: 0, state: S::fresh() };
        self.len -= 1;
    }

    /// Gives back the memory of slots beyond those of twice as many states as there are.
    pub(super) fn shrink(&mut self) {
        self.resize(self.len * 2 * TAKEN.1 / TAKEN.0);
    }

    fn resize(&mut self, places: usize) {
        let empty = || Slot { fingerprint: 0, state: S::fresh() };
        let slots = (0..places.max(LEAST)).map(|_| empty()).collect();
        for slot in std::mem::replace(&mut self.slots, slots) {
            if slot.fingerprint != 0 {
                self.put(slot);
            }
        }
    }

    /// Writes to the first free slot from the slot's home on.
    fn put(&mut self, slot: Slot<S>) {
        let mut place = self.home(slot.fingerprint);
        while self.slots[place].fingerprint != 0 {
            place = self.after(place);
        }
        self.slots[place] = slot;
    }

    #[inline]
    fn home(&self, fingerprint: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "less than the number of slots")]
        let home = ((u128::from(fingerprint) * self.slots.len() as u128) >> 64) as usize;
        home
    }

    #[inline]
    fn after(&self, place: usize) -> usize {
        if place + 1 < self.slots.len() { place + 1 } else { 0 }
    }

    /// Steps from one place to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots.len() - from }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::compact::Tat;
    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(
            steps in prop::collection::vec((any::<bool>(), 0_u64..40, any::<bool>()), 1..400),
        ) {
            // All in a few runs, at the end of the table too, where they go on at its beginning.
            let fingerprint = |key: u64| if key < 20 { u64::MAX - key } else { (key - 19) << 58 };
            let (mut slots, mut map) = (Slots::<Tat>::new(), HashMap::new());
            for (number, (insert, key, shrink)) in (1..).zip(steps) {
                let fingerprint = fingerprint(key);
                match (insert, slots.find(fingerprint)) {
                    (true, None) => slots.insert(fingerprint, Tat(number)),
                    (true, Some(_)) => *slots.get_mut(fingerprint).unwrap() = Tat(number),
                    (false, Some(place)) => slots.remove(place),
                    (false, None) => {}
                }
                if insert { map.insert(fingerprint, number); } else { map.remove(&fingerprint); }
                if shrink {
                    slots.shrink();
                }
                prop_assert_eq!(slots.len(), map.len());
                prop_assert_eq!((0..slots.places()).filter(|place| slots.at(*place).is_some()).count(), map.len());
                for (fingerprint, number) in &map {
                    prop_assert_eq!(slots.get(*fingerprint), Some(&Tat(*number)));
                }
            }
        }
    }
}
