//! A hash table from fingerprints to small states: linear probing by lines, with backward-shift
//! deletion.
//!
//! A line has two, four or five slots, by the size of the state. It is aligned to cache lines, and
//! nearly every hit touches one line.
//!
//! A fingerprint is a hash already, and never zero. Its high bits select its home line. The slots
//! of a line are compared without a branch, because no processor can predict which one matches. A
//! full line overflows into the next one. A removal leaves no tombstone: later slots move up.

use super::state::State;

/// The load factor: at most three of four slots are taken.
const TAKEN: (usize, usize) = (3, 4);
/// The fewest lines of a table that is not empty.
const LEAST: usize = 2;

/// A table of lines with `W` slots each.
pub(super) struct Slots<S, const W: usize> {
    lines: Box<[Line<S, W>]>,
    len: usize,
}

#[repr(align(64))]
struct Line<S, const W: usize>([Slot<S>; W]);

pub(super) struct Slot<S> {
    /// Zero if the slot is empty.
    fingerprint: u64,
    pub(super) state: S,
}

/// The position of a slot.
#[derive(Clone, Copy)]
pub(super) struct Place {
    line: usize,
    slot: usize,
}

impl<S: State> Slot<S> {
    fn empty() -> Slot<S> {
        Slot { fingerprint: 0, state: S::idle() }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl<S, const W: usize> Line<S, W> {
    /// The slot with that fingerprint, if there is one.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn find(&self, fingerprint: u64) -> Option<usize> {
        let is = |slot: usize| u32::from(self.0[slot].fingerprint == fingerprint) << slot;
        let found = (0..W).fold(0, |found, slot| found | is(slot));
        (found != 0).then(|| found.trailing_zeros() as usize % W)
    }
}

impl<S: State, const W: usize> Slots<S, W> {
    pub(super) fn new() -> Slots<S, W> {
        Slots { lines: Box::new([]), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Slots, taken or free.
    pub(super) fn places(&self) -> usize {
        self.lines.len() * W
    }

    /// The places of a line.
    pub(super) fn places_of(line: usize) -> impl Iterator<Item = Place> {
        (0..W).map(move |slot| Place { line, slot })
    }

    /// The slot at a place of an existing line, if it is taken.
    pub(super) fn at(&self, Place { line, slot }: Place) -> Option<&Slot<S>> {
        let slot = &self.lines[line].0[slot];
        (slot.fingerprint != 0).then_some(slot)
    }

    /// Whether `is` holds for a state in that line. Free of branches if `is` has none.
    #[inline]
    pub(super) fn any_of(&self, line: usize, is: impl Fn(&S) -> bool) -> bool {
        self.lines[line].0.iter().fold(false, |any, slot| any | (slot.fingerprint != 0) & is(&slot.state))
    }

    #[cfg(test)]
    pub(super) fn get(&self, fingerprint: u64) -> Option<&S> {
        self.find(fingerprint).map(|Place { line, slot }| &self.lines[line].0[slot].state)
    }

    pub(super) fn get_mut(&mut self, fingerprint: u64) -> Option<&mut S> {
        self.find(fingerprint).map(|Place { line, slot }| &mut self.lines[line].0[slot].state)
    }

    /// The place of a fingerprint, if it is in its home line or the next one, as nearly all are.
    /// `home` is the home line among the current number of lines.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn find_near(&self, home: usize, fingerprint: u64) -> Option<Place> {
        // Missing only if the table has no lines, or if `home` is stale.
        match self.lines.get(home)?.find(fingerprint) {
            Some(slot) => Some(Place { line: home, slot }),
            None => Some(Place { line: home + 1, slot: self.lines.get(home + 1)?.find(fingerprint)? }),
        }
    }

    /// The state at `place`.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn at_mut(&mut self, place: Place) -> Option<&mut S> {
        Some(&mut self.lines.get_mut(place.line)?.0[place.slot].state)
    }

    pub(super) fn find(&self, fingerprint: u64) -> Option<Place> {
        let home = self.home(fingerprint);
        match self.lines.get(home)?.find(fingerprint) {
            Some(slot) => Some(Place { line: home, slot }),
            None => self.find_after(home, fingerprint),
        }
    }

    /// Continues the search after a line that does not have the fingerprint.
    fn find_after(&self, mut line: usize, fingerprint: u64) -> Option<Place> {
        while self.is_full(line) {
            line = self.after(line);
            if let Some(slot) = self.lines[line].find(fingerprint) {
                return Some(Place { line, slot });
            }
        }
        None
    }

    /// Whether one more state would exceed the load factor.
    pub(super) fn is_to_grow(&self) -> bool {
        (self.len + 1) * TAKEN.1 > self.places() * TAKEN.0
    }

    /// Adds the state of a fingerprint that is not in the table.
    pub(super) fn insert(&mut self, fingerprint: u64, state: S) {
        if self.is_to_grow() {
            self.resize(self.lines.len() + self.lines.len() / 2);
        }
        self.put(Slot { fingerprint, state });
        self.len += 1;
    }

    /// Takes out the state at `place`.
    pub(super) fn take(&mut self, place: Place) -> Option<S> {
        let slot = self.lines.get_mut(place.line)?.0.get_mut(place.slot)?;
        let state = std::mem::replace(&mut slot.state, S::idle());
        self.remove(place);
        Some(state)
    }

    /// Runs `f` on the states of the next few `lines`, in order of fingerprint from `from` on.
    /// Returns the fingerprint to continue with. The table may change in between: each state that
    /// stays in it is visited once.
    pub(super) fn each_from(&self, from: u64, lines: usize, mut f: impl FnMut(u64, &S)) -> Option<u64> {
        let first = self.home(from);
        let next = (first + lines < self.lines.len()).then(|| first_at(first + lines, self.lines.len()));
        let range = from..=next.map_or(u64::MAX, |next| next - 1);
        let lines = lines.min(self.lines.len() - first);
        let mut line = first;
        for seen in 1..=self.lines.len() {
            let slots = self.lines[line].0.iter();
            slots
                .filter(|slot| slot.fingerprint != 0 && range.contains(&slot.fingerprint))
                .for_each(|slot| f(slot.fingerprint, &slot.state));
            // States overflow into the lines behind, up to one that is not full.
            if seen >= lines && !self.is_full(line) {
                break;
            }
            line = self.after(line);
        }
        next
    }

    /// All states with their fingerprints.
    pub(super) fn into_states(self) -> impl Iterator<Item = (u64, S)> {
        let slots = self.lines.into_iter().flat_map(|line| line.0);
        slots.filter(|slot| slot.fingerprint != 0).map(|slot| (slot.fingerprint, slot.state))
    }

    /// Removes the state at `place`, by backward-shift deletion.
    pub(super) fn remove(&mut self, place: Place) {
        let mut hole = place;
        let mut was_full = self.is_full(hole.line);
        self.lines[hole.line].0[hole.slot] = Slot::empty();
        self.len -= 1;
        // A fingerprint that overflowed from a full line is searched for in the next lines, up to
        // one that is not full.
        let mut line = hole.line;
        while was_full {
            line = self.after(line);
            was_full = self.is_full(line);
            let came_by = |slot: &Slot<S>| {
                slot.fingerprint != 0
                    && self.distance(self.home(slot.fingerprint), line) >= self.distance(hole.line, line)
            };
            if let Some(slot) = self.lines[line].0.iter().position(came_by) {
                let moved = std::mem::replace(&mut self.lines[line].0[slot], Slot::empty());
                self.lines[hole.line].0[hole.slot] = moved;
                hole = Place { line, slot };
            }
        }
    }

    /// Makes room for about this many states.
    pub(super) fn reserve(&mut self, states: usize) {
        let lines = (states * TAKEN.1 / TAKEN.0).div_ceil(W) + 1;
        if lines > self.lines.len() {
            self.resize(lines);
        }
    }

    /// Frees slots beyond those that twice the current number of states need.
    pub(super) fn shrink(&mut self) {
        self.resize((self.len * 2 * TAKEN.1 / TAKEN.0).div_ceil(W));
    }

    fn resize(&mut self, lines: usize) {
        let line = |_| Line(std::array::from_fn(|_| Slot::empty()));
        let lines = (0..lines.max(LEAST)).map(line).collect();
        for slot in std::mem::replace(&mut self.lines, lines).into_iter().flat_map(|line| line.0) {
            if slot.fingerprint != 0 {
                self.put(slot);
            }
        }
    }

    /// Writes to the first free slot, beginning at the home line.
    fn put(&mut self, slot: Slot<S>) {
        let mut line = self.home(slot.fingerprint);
        loop {
            if let Some(free) = self.lines[line].find(0) {
                self.lines[line].0[free] = slot;
                return;
            }
            line = self.after(line);
        }
    }

    fn is_full(&self, line: usize) -> bool {
        self.lines[line].find(0).is_none()
    }

    #[inline]
    fn home(&self, fingerprint: u64) -> usize {
        home(fingerprint, self.lines.len())
    }

    #[inline]
    fn after(&self, line: usize) -> usize {
        if line + 1 < self.lines.len() { line + 1 } else { 0 }
    }

    /// Steps forward from one line to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.lines.len() - from }
    }
}

/// The first fingerprint with this home line among `lines` lines.
fn first_at(line: usize, lines: usize) -> u64 {
    let first = ((line as u128) << 64).div_ceil(lines as u128);
    u64::try_from(first).unwrap_or(u64::MAX)
}

/// The home line of a fingerprint among `lines` lines.
#[inline]
pub(super) fn home(fingerprint: u64, lines: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "less than the number of lines")]
    let home = ((u128::from(fingerprint) * lines as u128) >> 64) as usize;
    home
}

#[cfg(test)]
mod tests;
