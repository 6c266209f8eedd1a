//! Calls that wait for a key's permits: each holds a place, and no permit.
//!
//! When the first one's time has come it is charged as of that time, by whoever looks at the queue first: the waiting call
//! itself, another one, or the timer. So a future that is not polled delays nobody, and one that is dropped leaves nothing.

use std::sync::Arc;

use crate::clock::Now;
use crate::process;
use crate::queue::{Ahead, Limits, Line, Place, Wakes};

use super::state::{Call, NEVER, Permit, State};

/// The most waiting calls that one call admits; it hands on to the next one then.
const ADMITTED_AT_ONCE: usize = 32;

/// What a waiting call and its queue share.
pub(crate) type Seat = crate::queue::Seat<Told>;

/// The first of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    pub(crate) due: u64,
    /// The timer is to be set for it.
    pub(crate) arms: bool,
}

/// What a waiting call is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// Charged, as of its due time.
    Admitted { permit: Permit, due: u64 },
    /// The limits were replaced by ones that its cost can never fit into.
    Refused,
}

/// What a waiting call finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Admitted {
        permit: Permit,
        due: u64,
    },
    Refused,
    /// The place is gone: buckets were forgotten, or the process was forked.
    Lost,
    /// The first of the queue is due then.
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
    /// All that was charged or given back was so by then: the first call is due no earlier.
    since: u64,
    /// What the timer was set for last.
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

    /// The calls ahead of one that comes now.
    pub(crate) fn ahead(&self) -> Ahead {
        self.line.ahead()
    }

    /// Takes a place behind those of the same or a lower rank number.
    pub(crate) fn join(
        &mut self,
        rank: u64,
        cost: u32,
        limits: Arc<dyn Limits>,
        by_timer: bool,
        now: Now,
    ) -> (Place, Arc<Seat>) {
        if self.line.is_empty() {
            self.since = now.earliest;
            self.process = process::id();
        }
        let seat = Arc::new(Seat::new());
        let place = self.line.join(rank, cost, Waiting { seat: Arc::clone(&seat), limits, by_timer });
        (place, seat)
    }

    /// Something was given back, or limits were replaced: nobody is due before.
    pub(crate) fn changed(&mut self, now: Now) {
        self.since = self.since.max(now.earliest);
    }

    /// From when on what the bucket has room for is still to be given to those that wait.
    pub(super) fn since(&self, now: Now) -> Now {
        if self.is_empty() { now } else { Now::exactly(self.since.min(now.earliest)) }
    }

    /// The timer has fired: it has to be set again for whoever is first now.
    pub(crate) fn fired(&mut self) {
        self.armed = None;
    }

    /// Gives a place up. Permits that were charged for it meanwhile are returned, to be given to the next.
    pub(crate) fn leave(&mut self, place: Place, seat: &Seat, now: Now) -> Option<Permit> {
        let told = seat.leave();
        let _ = self.line.remove(place);
        let Some(Told::Admitted { permit, .. }) = told else { return None };
        // What is given back makes room from now on, not from when it was charged.
        self.changed(now);
        Some(permit)
    }

    /// Charges the calls whose time has come, in order. The time at which the first of the rest is due, if any waits.
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
                let call = Call { rules, backoff, cost };
                let since = Now::exactly(since);
                state.prepare(form, rules, since);
                due = call.fits_at(state, form, since).unwrap_or(NEVER);
                if due <= now.earliest {
                    permit.at = due.max(state.newest());
                    call.charge(state, form, Now { earliest: due, latest: permit.at });
                }
            });
            let told = if due == NEVER { Told::Refused } else { Told::Admitted { permit, due } };
            if due > now.earliest && due != NEVER {
                let is_new = self.armed != Some((place, due));
                self.armed = Some((place, due));
                // Without the timer the first one itself has to know until when to sleep.
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
        // More may be due: whoever is first goes on.
        let (_, first) = self.line.first()?;
        first.with.seat.wakes(wakes);
        Some(First { due: now.earliest, arms: first.with.by_timer })
    }

    /// What a waiting call finds after [`settle`](Queue::settle); its permits are its own then.
    pub(crate) fn turn(&self, place: Place, seat: &Seat, first_due: u64) -> Turn {
        match seat.told() {
            Some(Told::Admitted { permit, due }) => Turn::Admitted { permit, due },
            Some(Told::Refused) => Turn::Refused,
            None if !self.line.holds(place) => Turn::Lost,
            None => Turn::Waiting { first_due, is_first: self.line.is_first(place) },
        }
    }

    /// Wakes everybody, to look anew at what has changed.
    pub(crate) fn wake_all(&mut self, wakes: &mut Wakes) {
        self.line.iter().for_each(|(_, waiting)| waiting.with.seat.wakes(wakes));
    }
}
