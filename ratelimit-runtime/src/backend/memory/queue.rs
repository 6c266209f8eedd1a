//! The waiting calls of one key. Each holds a place, and no permit.
//!
//! When the first call is due, it is charged as of its due time. Whichever looks at the queue first
//! charges it: the waiting call itself, another call, or the timer. So a future that is not polled
//! delays no other call, and a dropped future leaves nothing behind.

use std::sync::Arc;

use crate::queue::{Ahead, Limits, Line, Place, Wakes};
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

struct Waiting {
    seat: Arc<Seat>,
    limits: Arc<dyn Limits>,
    by_timer: bool,
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
    }

    /// What holds the key has changed: no waiting call is due before it ends.
    pub(crate) fn held(&mut self, floor: Hold, now: Now) {
        self.since = now.earliest.max(floor.until());
    }

    /// The time from which free permits still belong to the waiting calls.
    pub(super) fn since(&self, now: Now) -> Now {
        if self.is_empty() { now } else { Now::exactly(self.since.min(now.earliest)) }
    }

    /// The timer has fired. It must be set again for the call that is first now.
    pub(crate) fn fired(&mut self) {
        self.armed = None;
    }

    /// Gives a place up. Returns the permits that were charged for it meanwhile, so that the next
    /// call can get them.
    pub(crate) fn leave(&mut self, place: Place, seat: &Seat, now: Now) -> Option<Permit> {
        let told = seat.leave();
        let _ = self.line.remove(place);
        let Some(Told::Admitted { permit, .. }) = told else { return None };
        // A refund makes room from now on, not from the time of the charge.
        self.changed(now);
        Some(permit)
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
                self.armed = Some((place, due));
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
