//! Response-header context: records the tightest decision of the current request for the
//! `RateLimit` headers.
//!
//! A header layer keeps a [`Note`] per request and enters it while it polls the request's handler.
//! Meanwhile, decisions on that thread are recorded: those of this request, and no other.

use std::cell::Cell;
use std::cmp::Reverse;
use std::time::Duration;

use crate::limit::Limit;
use crate::rt::clock;
use crate::switches::{Switch, Switches, turn};

thread_local! {
    /// The note of the request being polled.
    static CURRENT: Cell<Option<Note>> = const { Cell::new(None) };
}

/// From now on, decisions take the slow path, which knows the remaining permits.
pub(crate) fn begin() {
    turn(Switch::ResponseContext, true);
}

/// How many decisions are remembered, in case the tightest one is taken back.
const DECISIONS: usize = 4;

/// The decisions of a request so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Note {
    /// The reportable decisions, the tightest first.
    tightest: [Option<Left>; DECISIONS],
    /// Whether a limit that cannot be reported has denied a call.
    unreported_denial: bool,
}

/// What one decision left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub(crate) limit: Limit,
    pub(crate) remaining: u32,
    /// Nanoseconds from `at` until the limit is idle, or until a denied call would be admitted;
    /// `u64::MAX` for never.
    reset_after: u64,
    at: u64,
    denied: bool,
}

impl Left {
    /// The rest of the time until the reset, by this process's clock; `None` if it never comes.
    pub(crate) fn reset_after(&self) -> Option<Duration> {
        let elapsed = clock::now().saturating_sub(self.at);
        (self.reset_after != u64::MAX).then(|| Duration::from_nanos(self.reset_after.saturating_sub(elapsed)))
    }

    /// The same decision after `cost` permits came back. For a sliding or fixed window the new
    /// reset is known only if all permits came back; else it is at most the old one.
    fn with(self, cost: u32) -> Left {
        let remaining = self.remaining.saturating_add(cost).min(self.limit.capacity());
        let taken = self.limit.capacity() - remaining;
        let reset_after = match self.limit.refill(taken) {
            _ if taken == 0 => 0,
            Some(refill) => self.reset_after.min(refill),
            None => self.reset_after,
        };
        Left { remaining, reset_after, ..self }
    }

    /// The tightest decision is the greatest: a denial, else the fewest permits left, else the
    /// latest reset.
    fn tightness(&self) -> impl Ord + use<> {
        (self.denied, Reverse(self.remaining), self.reset_after)
    }
}

impl Note {
    /// Records this thread's decisions here until the guard is dropped.
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        let around = CURRENT.replace(Some(std::mem::take(self)));
        Entered { note: self, around }
    }

    /// The tightest decision that can be reported.
    pub(crate) fn tightest(&self) -> Option<&Left> {
        self.tightest[0].as_ref()
    }

    /// Whether an unreportable limit may have caused a refusal. The numbers of another limit would
    /// then mislead.
    pub(crate) fn has_unreported_denial(&self) -> bool {
        self.unreported_denial
    }

    fn write(&mut self, left: Left) {
        let looser = |other: &Option<Left>| other.is_none_or(|other| other.tightness() < left.tightness());
        if let Some(place) = self.tightest.iter().position(looser) {
            self.tightest[place..].rotate_right(1);
            self.tightest[place] = Some(left);
        }
    }

    /// An admission's permits came back.
    fn take_back(&mut self, limit: Limit, remaining: u32, cost: u32) {
        let is_it = |left: &Option<Left>| {
            left.is_some_and(|left| left.limit == limit && left.remaining == remaining && !left.denied)
        };
        let Some(place) = self.tightest.iter().position(is_it) else { return };
        self.tightest[place..].rotate_left(1);
        if let Some(left) = self.tightest[DECISIONS - 1].take() {
            self.write(left.with(cost));
        }
    }
}

/// While it lives, this thread's decisions are recorded.
pub(crate) struct Entered<'a> {
    note: &'a mut Note,
    around: Option<Note>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let note = CURRENT.replace(self.around);
        *self.note = note.unwrap_or_default();
    }
}

/// Records an admission, if a request is being polled.
#[inline]
pub(crate) fn admitted(limit: Limit, remaining: u32, reset_after: u64) {
    if Switches::load().has(Switch::ResponseContext) {
        write(limit, remaining, reset_after, false);
    }
}

/// Records a denial, if a request is being polled.
#[inline]
pub(crate) fn denied(limit: Limit, remaining: u32, retry_after: u64) {
    if Switches::load().has(Switch::ResponseContext) {
        write(limit, remaining, retry_after, true);
    }
}

/// Records a denial caused by a failing backend: nothing is known about the limit.
#[inline]
pub(crate) fn failed() {
    if Switches::load().has(Switch::ResponseContext) {
        with_current(|note| note.unreported_denial = true);
    }
}

/// Adjusts the record of an admission whose permits were given back.
pub(crate) fn given_back(limit: Limit, remaining: u32, cost: u32) {
    with_current(|note| note.take_back(limit, remaining, cost));
}

#[cold]
fn write(limit: Limit, remaining: u32, reset_after: u64, denied: bool) {
    with_current(|note| {
        if limit.is_reportable() {
            note.write(Left { limit, remaining, reset_after, at: clock::now(), denied });
        } else {
            note.unreported_denial |= denied;
        }
    });
}

fn with_current(change: impl FnOnce(&mut Note)) {
    if let Some(mut note) = CURRENT.get() {
        change(&mut note);
        CURRENT.set(Some(note));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Algorithm;

    fn left_of(decisions: &[(u32, u64, bool)]) -> Option<(u32, u64)> {
        let limit = Limit::new(10, Duration::from_secs(60));
        let mut note = Note::default();
        {
            begin();
            let _entered = note.enter();
            for &(remaining, reset_after, is_denied) in decisions {
                let write = if is_denied { denied } else { admitted };
                write(limit, remaining, reset_after);
            }
        }
        note.tightest().map(|left| (left.remaining, left.reset_after))
    }

    #[test]
    fn fewest_permits_left_are_the_tightest() {
        assert_eq!(left_of(&[(5, 1, false), (2, 1, false), (7, 1, false)]), Some((2, 1)));
    }

    #[test]
    fn of_as_many_the_later_reset_is_the_tightest() {
        assert_eq!(left_of(&[(5, 1, false), (5, 3, false), (5, 2, false)]), Some((5, 3)));
    }

    #[test]
    fn a_denial_is_tighter_than_an_admission() {
        assert_eq!(left_of(&[(0, 9, false), (3, 1, true), (0, 9, false)]), Some((3, 1)));
    }

    #[test]
    fn returned_permits_count_as_left() {
        let limit = |count| Limit::new(count, Duration::from_secs(60));
        let mut note = Note::default();
        begin();
        {
            let _entered = note.enter();
            admitted(limit(10), 2, 9_000);
            admitted(limit(5), 4, 9_000);
            given_back(limit(10), 2, 5);
        }
        assert_eq!(note.tightest().map(|left| (left.limit, left.remaining)), Some((limit(5), 4)));
        {
            let _entered = note.enter();
            given_back(limit(5), 4, 1);
        }
        assert_eq!(note.tightest().map(|left| (left.limit, left.remaining, left.reset_after)), Some((limit(5), 5, 0)));
        let smooth = limit(60).with_algorithm(Algorithm::TokenBucket);
        {
            let _entered = note.enter();
            admitted(smooth, 0, 60_000_000_000);
            given_back(smooth, 0, 2);
        }
        let tightest = note.tightest().map(|left| (left.remaining, left.reset_after));
        assert_eq!(tightest, Some((2, 58_000_000_000)));
    }

    #[test]
    fn a_note_within_a_note_is_kept_apart() {
        let limit = Limit::new(10, Duration::from_secs(60));
        let (mut outer, mut inner) = (Note::default(), Note::default());
        begin();
        {
            let _outer = outer.enter();
            admitted(limit, 8, 0);
            {
                let _inner = inner.enter();
                admitted(limit, 1, 0);
            }
        }
        admitted(limit, 0, 0);
        let remaining = |note: &Note| note.tightest().map(|left| left.remaining);
        assert_eq!((remaining(&outer), remaining(&inner)), (Some(8), Some(1)));
    }

    #[test]
    fn a_handler_that_panics_leaves_nothing_to_write_on() {
        let mut note = Note::default();
        begin();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _entered = note.enter();
            panic!("as it should");
        }));
        assert!(panicked.is_err() && CURRENT.get().is_none());
        admitted(Limit::new(10, Duration::from_secs(60)), 1, 0);
        assert!(CURRENT.get().is_none() && note.tightest().is_none());
    }

    #[test]
    fn unreportable_limits_are_left_out() {
        let below_a_second = Limit::new(10, Duration::from_millis(999));
        begin();
        let note_of = |decide: &dyn Fn()| {
            let mut note = Note::default();
            {
                let _entered = note.enter();
                admitted(Limit::new(10, Duration::from_secs(1)), 9, 0);
                decide();
            }
            (note.tightest().unwrap().remaining, note.has_unreported_denial())
        };
        assert_eq!(note_of(&|| admitted(below_a_second, 0, 0)), (9, false));
        assert_eq!(note_of(&|| denied(below_a_second, 0, 0)), (9, true));
        assert_eq!(note_of(&failed), (9, true));
    }
}
