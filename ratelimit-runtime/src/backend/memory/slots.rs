//! A table from fingerprints to small states: open addressing by cache lines of four slots, or of two of larger states, so
//! that nearly every hit touches one.
//!
//! A fingerprint is a hash already, and never zero. Its high bits say which line it is looked for in first. Its slots are
//! compared without a branch in between, since which of them it is no processor can guess. A line that is full goes on in the
//! next one. What is removed leaves no mark behind: later slots move up.

use super::state::State;

/// Of four slots, at most three are taken.
const TAKEN: (usize, usize) = (3, 4);
/// Lines of a table that holds anything.
const LEAST: usize = 2;

/// A table of lines of `W` slots each.
pub(super) struct Slots<S, const W: usize> {
    lines: Box<[Line<S, W>]>,
    len: usize,
}

#[repr(align(64))]
struct Line<S, const W: usize>([Slot<S>; W]);

pub(super) struct Slot<S> {
    /// Zero: there is nothing here.
    fingerprint: u64,
    pub(super) state: S,
}

/// Where a slot is.
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
    /// Which slot has that fingerprint, if one does.
    #[inline]
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

    /// Slots, taken or not.
    pub(super) fn places(&self) -> usize {
        self.lines.len() * W
    }

    /// The places of a line.
    pub(super) fn places_of(line: usize) -> impl Iterator<Item = Place> {
        (0..W).map(move |slot| Place { line, slot })
    }

    /// What is at a place of a line that there is.
    pub(super) fn at(&self, Place { line, slot }: Place) -> Option<&Slot<S>> {
        let slot = &self.lines[line].0[slot];
        (slot.fingerprint != 0).then_some(slot)
    }

    /// Whether `is` says so of a state in that line: without a branch in between, as long as `is` has none.
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

    /// As [`get_mut`](Slots::get_mut), but only in the two lines where nearly all are: `home` is that of the fingerprint among
    /// as many lines as there are.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(super) fn get_near(&mut self, home: usize, fingerprint: u64) -> Option<&mut S> {
        // There is none only in a table without any.
        let (line, slot) = match self.lines.get(home)?.find(fingerprint) {
            Some(slot) => (home, slot),
            None => (home + 1, self.lines.get(home + 1)?.find(fingerprint)?),
        };
        Some(&mut self.lines.get_mut(line)?.0[slot].state)
    }

    pub(super) fn find(&self, fingerprint: u64) -> Option<Place> {
        let home = self.home(fingerprint);
        match self.lines.get(home)?.find(fingerprint) {
            Some(slot) => Some(Place { line: home, slot }),
            None => self.find_after(home, fingerprint),
        }
    }

    /// Goes on behind a line where it is not.
    fn find_after(&self, mut line: usize, fingerprint: u64) -> Option<Place> {
        while self.is_full(line) {
            line = self.after(line);
            if let Some(slot) = self.lines[line].find(fingerprint) {
                return Some(Place { line, slot });
            }
        }
        None
    }

    /// Whether the next one is too many for so few lines.
    pub(super) fn is_to_grow(&self) -> bool {
        (self.len + 1) * TAKEN.1 > self.places() * TAKEN.0
    }

    /// Adds a state, of a fingerprint that is not there yet.
    pub(super) fn insert(&mut self, fingerprint: u64, state: S) {
        if self.is_to_grow() {
            self.resize(self.lines.len() + self.lines.len() / 2);
        }
        self.put(Slot { fingerprint, state });
        self.len += 1;
    }

    /// Takes out what is at `place`.
    pub(super) fn take(&mut self, place: Place) -> Option<S> {
        let slot = self.lines.get_mut(place.line)?.0.get_mut(place.slot)?;
        let state = std::mem::replace(&mut slot.state, S::idle());
        self.remove(place);
        Some(state)
    }

    /// All states with their fingerprints.
    pub(super) fn into_states(self) -> impl Iterator<Item = (u64, S)> {
        let slots = self.lines.into_iter().flat_map(|line| line.0);
        slots.filter(|slot| slot.fingerprint != 0).map(|slot| (slot.fingerprint, slot.state))
    }

    /// Removes what is at `place`.
    pub(super) fn remove(&mut self, place: Place) {
        let mut hole = place;
        let mut was_full = self.is_full(hole.line);
        self.lines[hole.line].0[hole.slot] = Slot::empty();
        self.len -= 1;
        // Whoever went on from a full line is looked for there, and in all lines up to one that is not full.
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

    /// Gives back the memory of slots beyond those of twice as many states as there are.
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

    /// Writes to the first free slot from its home on.
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

    /// Steps from one line to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.lines.len() - from }
    }
}

/// Where a fingerprint is looked for first, among so many lines.
#[inline]
pub(super) fn home(fingerprint: u64, lines: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "less than the number of lines")]
    let home = ((u128::from(fingerprint) * lines as u128) >> 64) as usize;
    home
}

#[cfg(test)]
mod tests;
