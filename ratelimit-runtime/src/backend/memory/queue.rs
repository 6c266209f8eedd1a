//! Calls that wait for a key's permits: each holds a place, and no permit.
//!
//! When the first one's time has come it is charged as of that time, by whoever looks at the queue first: the waiting call
//! itself, another one, or the timer. So a future that is not polled delays nobody, and one that is dropped leaves nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::clock::Now;
use crate::process;

use super::state::{Call, NEVER, Permit, State};

/// The most waiting calls that one call admits; it hands on to the next one then.
const ADMITTED_AT_ONCE: usize = 32;

/// The limits that a waiting call is judged by, as they are when its turn comes.
pub(crate) trait Limits: Send + Sync {
    fn with(&self, judge: &mut dyn FnMut(&[Rule], Option<&Backoff>));
}

/// The order in which calls are admitted: by rank, then by arrival.
pub(crate) type Place = (u64, u64);

/// What a waiting call and its queue share.
pub(crate) struct Seat {
    state: Mutex<Seated>,
    by_timer: bool,
}

/// The first of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    pub(crate) due: u64,
    /// The timer is to be set for it.
    pub(crate) arms: bool,
}

enum Seated {
    Waiting(Option<Waker>),
    /// Charged, as of its due time.
    Admitted {
        permit: Permit,
        due: u64,
    },
    /// The limits were replaced by ones that its cost can never fit into.
    Refused,
    /// The call took its permits, or left.
    Left,
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
    cost: u32,
    seat: Arc<Seat>,
    limits: Arc<dyn Limits>,
}

/// The queue of one key.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<Place, Waiting>,
    tickets: u64,
    /// All that was charged or given back was so by then: the first call is due no earlier.
    since: u64,
    /// Permits of all that wait, and their cost if it is the same for all.
    permits: u64,
    cost: Option<u32>,
    /// What the timer was set for last.
    armed: Option<(Place, u64)>,
    /// The process in which the calls wait.
    process: u32,
}

/// Calls ahead of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) calls: u64,
    pub(crate) permits: u64,
    /// The cost of each, if it is the same.
    pub(crate) cost: Option<u32>,
}

impl Ahead {
    /// In what steps permits come, and how many of them have to come for a call of `cost` behind these: calls of one cost
    /// come one after the other, of others only the permits are known.
    pub(super) fn steps(self, cost: u32) -> (u32, u64) {
        if self.calls == 0 || self.cost == Some(cost) {
            (cost, self.calls + 1)
        } else {
            (1, self.permits.saturating_add(cost.into()))
        }
    }
}

/// Tasks and threads to wake once the lock is free.
#[derive(Default)]
pub(crate) struct Wakes(SmallVec<[Waker; 4]>);

impl Wakes {
    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(Waker::wake);
    }
}

impl Seat {
    fn wakes(&self, wakes: &mut Wakes) {
        if let Seated::Waiting(waker) = &mut *self.state.lock()
            && let Some(waker) = waker.take()
        {
            wakes.0.push(waker);
        }
    }

    /// Whom to wake when there is something to look at.
    pub(crate) fn listen(&self, waker: &Waker) {
        let is_known = |known: &Option<Waker>| known.as_ref().is_some_and(|known| known.will_wake(waker));
        if matches!(&*self.state.lock(), Seated::Waiting(known) if is_known(known)) {
            return;
        }
        // Not under the lock: what a waker does when it is cloned or dropped is not known.
        let mut waker = Some(waker.clone());
        let mut state = self.state.lock();
        if let Seated::Waiting(listening) = &mut *state {
            std::mem::swap(listening, &mut waker);
        }
        drop(state);
        drop(waker);
    }

    /// Nothing is to be woken any more.
    pub(crate) fn forget_waker(&self) {
        let mut state = self.state.lock();
        let waker = if let Seated::Waiting(waker) = &mut *state { waker.take() } else { None };
        drop(state);
        drop(waker);
    }
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The calls ahead of one that comes now.
    pub(crate) fn ahead(&self) -> Ahead {
        Ahead { calls: self.waiting.len() as u64, permits: self.permits, cost: self.cost }
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
        if self.waiting.is_empty() {
            (self.since, self.cost) = (now.earliest, Some(cost));
            self.process = process::id();
        } else if self.cost != Some(cost) {
            self.cost = None;
        }
        self.tickets += 1;
        let place = (rank, self.tickets);
        let seat = Arc::new(Seat { state: Mutex::new(Seated::Waiting(None)), by_timer });
        self.permits += u64::from(cost);
        self.waiting.insert(place, Waiting { cost, seat: Arc::clone(&seat), limits });
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

    /// The calls wait in the process that this one was forked from. Not dropped: what wakes them is that process's.
    fn abandon(&mut self) {
        std::mem::forget(std::mem::take(&mut self.waiting));
        (self.permits, self.cost, self.armed) = (0, None, None);
    }

    fn remove(&mut self, place: Place) -> Option<Waiting> {
        let waiting = self.waiting.remove(&place)?;
        self.permits -= u64::from(waiting.cost);
        Some(waiting)
    }

    /// Gives a place up. Permits that were charged for it meanwhile are returned, to be given to the next.
    pub(crate) fn leave(&mut self, place: Place, seat: &Seat, now: Now) -> Option<Permit> {
        let left = std::mem::replace(&mut *seat.state.lock(), Seated::Left);
        let _ = self.remove(place);
        let Seated::Admitted { permit, .. } = left else { return None };
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
        if !self.waiting.is_empty() && self.process != process::id() {
            self.abandon();
        }
        for _ in 0..ADMITTED_AT_ONCE {
            let (place, first) = self.waiting.first_key_value()?;
            let (place, cost, since) = (*place, first.cost, self.since);
            let mut due = NEVER;
            let mut permit = Permit { at: 0, cost };
            first.limits.with(&mut |rules, backoff| {
                let call = Call { rules, backoff, cost };
                let since = Now::exactly(since);
                state.prepare(form, rules, since);
                due = call.fits_at(state, form, since).unwrap_or(NEVER);
                if due <= now.earliest {
                    permit.at = due.max(state.newest());
                    call.charge(state, form, Now { earliest: due, latest: permit.at });
                }
            });
            let turn = if due == NEVER { Seated::Refused } else { Seated::Admitted { permit, due } };
            if due > now.earliest && due != NEVER {
                let is_new = self.armed != Some((place, due));
                self.armed = Some((place, due));
                // Without the timer the first one itself has to know until when to sleep.
                if is_new && !first.seat.by_timer {
                    first.seat.wakes(wakes);
                }
                return Some(First { due, arms: is_new && first.seat.by_timer });
            }
            if due != NEVER {
                self.since = due;
            }
            if let Some(waiting) = self.remove(place) {
                let before = std::mem::replace(&mut *waiting.seat.state.lock(), turn);
                if let Seated::Waiting(Some(waker)) = before {
                    wakes.0.push(waker);
                }
            }
        }
        // More may be due: whoever is first goes on.
        let (_, first) = self.waiting.first_key_value()?;
        first.seat.wakes(wakes);
        Some(First { due: now.earliest, arms: first.seat.by_timer })
    }

    /// What a waiting call finds after [`settle`](Queue::settle); its permits are its own then.
    pub(crate) fn turn(&self, place: Place, seat: &Seat, first_due: u64) -> Turn {
        let mut seated = seat.state.lock();
        match *seated {
            Seated::Admitted { permit, due } => {
                *seated = Seated::Left;
                return Turn::Admitted { permit, due };
            }
            Seated::Refused => return Turn::Refused,
            Seated::Waiting(_) | Seated::Left if !self.waiting.contains_key(&place) => return Turn::Lost,
            Seated::Waiting(_) | Seated::Left => {}
        }
        let is_first = self.waiting.first_key_value().is_some_and(|(first, _)| *first == place);
        Turn::Waiting { first_due, is_first }
    }

    /// Wakes everybody, to look anew at what has changed.
    pub(crate) fn wake_all(&mut self, wakes: &mut Wakes) {
        self.waiting.values().for_each(|waiting| waiting.seat.wakes(wakes));
    }
}
