//! The waiting calls of one key. Each holds a place, and no permit.
//!
//! When the first call is due, it is charged as of its due time. Whichever looks at the queue first
//! charges it: the waiting call itself, another call, or the timer. So a future that is not polled
//! delays no other call, and a dropped future leaves nothing behind.

use std::sync::Arc;

use crate::queue::{Ahead, Entry, Limits, Line, Place, Wakes};
use crate::rt::clock::Now;
use crate::rt::process;

use super::holds::Hold;
use super::state::{Call, NEVER, Permit, State};

#[cfg(all(test, loom_model))]
mod model;

/// The most waiting calls that one call admits. It then wakes the next one to go on.
const ADMITTED_AT_ONCE: usize = 32;

/// The state that a waiting call shares with its queue.
pub(crate) type Seat = crate::queue::Seat<Told>;

/// The first call of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    pub(crate) due: u64,
    /// The timer must be set for it.
    pub(crate) arms: bool,
}

/// The outcome of a waiting call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// Charged as of its due time.
    Admitted { permit: Permit, due: u64 },
    /// The limits were replaced, and the cost can never fit the new ones.
    Refused,
}

/// What a waiting call finds when it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Admitted {
        permit: Permit,
        due: u64,
    },
    Refused,
    /// The place is gone: buckets were forgotten, or the process was forked.
    Lost,
    /// The call still waits. The first call of its queue is due at `first_due`.
    Waiting {
        first_due: u64,
        is_first: bool,
    },
}

/// What a call that gave up its place has left behind.
pub(crate) enum Parted {
    /// Permits that were charged for it meanwhile, for the next call.
    Permits(Permit),
    /// The first call is due when it was before.
    Same,
    Other,
}

struct Waiting {
    seat: Arc<Seat>,
    limits: Arc<dyn Limits>,
    by_timer: bool,
}

impl Entry<Waiting> {
    /// Whether it would be due at the same time in the other's place, and is woken by the timer too.
    fn is_alike(&self, other: &Entry<Waiting>) -> bool {
        self.cost == other.cost
            && self.with.by_timer
            && other.with.by_timer
            && Arc::ptr_eq(&self.with.limits, &other.with.limits)
    }
}

/// The queue of one key.
#[derive(Default)]
pub(crate) struct Queue {
    line: Line<Waiting>,
    /// No charge or refund is later than this time, so the first call is due no earlier. While the
    /// key is held, the end of that.
    since: u64,
    /// The call and the due time for which the timer was set last.
    armed: Option<(Place, u64)>,
    /// Nothing has changed since that would change this due time.
    is_known: bool,
    /// The process in which the calls wait.
    process: u32,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    /// The calls ahead of a new call.
    pub(crate) fn ahead(&self) -> Ahead {
        self.line.ahead()
    }

    /// Takes a place behind all calls of the same or a lower rank.
    pub(crate) fn join(
        &mut self,
        rank: u64,
        cost: u32,
        limits: Arc<dyn Limits>,
        by_timer: bool,
        floor: Hold,
        now: Now,
    ) -> (Place, Arc<Seat>) {
        if self.line.is_empty() {
            self.held(floor, now);
            self.process = process::id();
        }
        let seat = Arc::new(Seat::new());
        let place = self.line.join(rank, cost, Waiting { seat: Arc::clone(&seat), limits, by_timer });
        (place, seat)
    }

    /// Permits were given back, or limits were replaced: no waiting call is due before now.
    pub(crate) fn changed(&mut self, now: Now) {
        self.since = self.since.max(now.earliest);
        self.is_known = false;
    }

    /// What holds the key has changed: no waiting call is due before it ends.
    pub(crate) fn held(&mut self, floor: Hold, now: Now) {
        self.since = now.earliest.max(floor.until());
        self.is_known = false;
    }

    /// The time from which free permits still belong to the waiting calls.
    pub(super) fn since(&self, now: Now) -> Now {
        if self.is_empty() { now } else { Now::exactly(self.since.min(now.earliest)) }
    }

    /// The timer has fired. It must be set again for the call that is first now.
    pub(crate) fn fired(&mut self) {
        self.armed = None;
    }

    /// Whether that call is served next.
    pub(crate) fn is_first(&self, place: Place) -> bool {
        self.line.is_first(place)
    }

    /// Gives a place up.
    pub(crate) fn leave(&mut self, place: Place, seat: &Seat, now: Now) -> Parted {
        let told = seat.leave();
        let removed = self.line.remove(place);
        if let Some(Told::Admitted { permit, .. }) = told {
            // A refund makes room from now on, not from the time of the charge.
            self.changed(now);
            return Parted::Permits(permit);
        }
        match (removed, self.line.first(), self.armed) {
            (Some(_), Some((first, _)), _) if first < place => Parted::Same,
            // The next call takes over its due time, and its alarm.
            (Some(left), Some((first, next)), Some((armed, due)))
                if armed == place && due > now.earliest && next.is_alike(&left) =>
            {
                self.armed = Some((first, due));
                Parted::Same
            }
            _ => Parted::Other,
        }
    }

    /// Charges the calls that are due, in order. Returns the first call that still waits.
    pub(crate) fn settle<S: State>(
        &mut self,
        state: &mut S,
        form: &S::Form,
        now: Now,
        wakes: &mut Wakes,
    ) -> Option<First> {
        if !self.line.is_empty() && self.process != process::id() {
            self.line.abandon();
            self.armed = None;
        }
        if let (true, Some((place, _)), Some((armed, due))) = (self.is_known, self.line.first(), self.armed)
            && armed == place
            && due > now.earliest
        {
            return Some(First { due, arms: false });
        }
        for _ in 0..ADMITTED_AT_ONCE {
            let (place, first) = self.line.first()?;
            let (cost, since, by_timer) = (first.cost, self.since, first.with.by_timer);
            let mut due = NEVER;
            let mut permit = Permit { at: 0, cost };
            first.with.limits.with(&mut |rules, backoff| {
                let call = Call { rules, backoff, cost, floor: Hold::NONE };
                // `since` lies ahead while the key is held.
                state.prepare(form, rules, Now::exactly(since.min(now.earliest.max(state.newest()))));
                let since = Now::exactly(since);
                due = call.fits_at(state, form, since).unwrap_or(NEVER);
                if due <= now.earliest {
                    permit.at = due.max(state.newest());
                    // A call of cost 0 waits for the end of a block alone.
                    if cost > 0 {
                        call.charge(state, form, Now { earliest: due, latest: permit.at });
                    }
                }
            });
            let told = if due == NEVER { Told::Refused } else { Told::Admitted { permit, due } };
            if due > now.earliest && due != NEVER {
                let is_new = self.armed != Some((place, due));
                (self.armed, self.is_known) = (Some((place, due)), true);
                // Without the timer, the first call itself must know until when to sleep.
                if is_new && !by_timer {
                    first.with.seat.wakes(wakes);
                }
                return Some(First { due, arms: is_new && by_timer });
            }
            if due != NEVER {
                self.since = due;
            }
            if let Some(waiting) = self.line.remove(place) {
                waiting.with.seat.tell(told, wakes);
            }
        }
        // More calls may be due: the first one goes on.
        let (_, first) = self.line.first()?;
        first.with.seat.wakes(wakes);
        Some(First { due: now.earliest, arms: first.with.by_timer })
    }

    /// What a waiting call finds after [`settle`](Queue::settle). An admitted call then owns its
    /// permits.
    pub(crate) fn turn(&self, place: Place, seat: &Seat, first_due: u64) -> Turn {
        match seat.told() {
            Some(Told::Admitted { permit, due }) => Turn::Admitted { permit, due },
            Some(Told::Refused) => Turn::Refused,
            None if !self.line.holds(place) => Turn::Lost,
            None => Turn::Waiting { first_due, is_first: self.line.is_first(place) },
        }
    }

    /// Wakes all waiting calls, so that they look again.
    pub(crate) fn wake_all(&mut self, wakes: &mut Wakes) {
        self.line.iter().for_each(|(_, waiting)| waiting.with.seat.wakes(wakes));
    }
}
