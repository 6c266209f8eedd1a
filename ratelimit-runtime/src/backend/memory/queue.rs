//! The waiting calls of one key. Each holds a place, and no permit.
//!
//! When the first call is due, it is charged as of its due time. Whatever looks at the queue first
//! does so: the waiting call itself, another call, or the timer. So a future that is not polled
//! delays no other call, and a dropped future leaves nothing behind.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::decision::Address;
use crate::queue::{Ahead, Deadlines, Limits, Line, Place, Wakes};
use crate::rt::clock::Now;
use crate::rt::process;

use super::holds::Hold;
use super::state::{Call, NEVER, Permit, State};

#[cfg(all(test, loom_model))]
mod model;

/// The most waiting calls that one call admits. It then wakes the next one to go on.
const ADMITTED_AT_ONCE: usize = 32;

/// The state that a waiting call shares with its queue.
pub(crate) type Seat = crate::queue::Seat<Notice, Arc<How>>;

/// How a call waits. Shared by calls that wait alike, to keep each of them small.
pub(crate) struct How {
    pub(crate) address: Address,
    limits: Arc<dyn Limits>,
    /// The crate's timer must charge the call when it is due, and wake it at its deadline.
    by_timer: bool,
}

/// A call that waits if it is denied.
pub(crate) struct Joining<'a> {
    pub(crate) limits: &'a Arc<dyn Limits>,
    pub(crate) arrived: u64,
    /// The latest time until which the call waits.
    pub(crate) deadline: u64,
    /// The most calls that may wait ahead of it.
    pub(crate) queue: usize,
    /// Calls of a lower rank go first.
    pub(crate) rank: u64,
    /// The crate's timer must charge the call when it is due.
    pub(crate) by_timer: bool,
    /// The bucket, in [`Store::join`](super::store::Store::join).
    pub(super) address: Address,
    /// The bucket's resets so far.
    pub(super) resets: u32,
    /// There is room for one more key with waiting calls.
    pub(super) may_begin: bool,
    /// The call has waited elsewhere: it takes a place even if there are permits for it.
    pub(super) is_handed_over: bool,
}

impl<'a> Joining<'a> {
    pub(crate) fn new(
        limits: &'a Arc<dyn Limits>,
        arrived: u64,
        deadline: u64,
        queue: usize,
        rank: u64,
        by_timer: bool,
    ) -> Joining<'a> {
        Joining {
            limits,
            arrived,
            deadline,
            queue,
            rank,
            by_timer,
            address: Address::Unkeyed,
            resets: 0,
            may_begin: true,
            is_handed_over: false,
        }
    }

    pub(crate) fn handed_over(self) -> Joining<'a> {
        Joining { is_handed_over: true, ..self }
    }
}

/// The outcome of a waiting call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Notice {
    /// Charged as of its due time, and recorded `at` a time, after so many resets of the bucket.
    Admitted { at: u64, due: u64, resets: u32 },
    /// The limits were replaced, and the cost can never fit the new ones.
    Refused,
}

/// The state of a waiting call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Admitted {
        at: u64,
        due: u64,
        resets: u32,
    },
    Refused,
    /// The place is gone: buckets were forgotten, or the process was forked.
    Lost,
    /// The call still waits. The first call of its queue is due at `first_due`.
    Waiting {
        first_due: u64,
        is_first: bool,
    },
    /// The call cannot be admitted by its deadline.
    Late,
}

/// The effects of a call that has given up its place.
pub(crate) enum Parted {
    /// Permits that were charged for it meanwhile, for the next call.
    Permits(Permit),
    /// The first call's due time is unchanged.
    Same,
    Other,
}

impl How {
    fn is(&self, limits: &Arc<dyn Limits>, by_timer: bool) -> bool {
        self.by_timer == by_timer && Arc::ptr_eq(&self.limits, limits)
    }
}

/// A [`Queue`] behind a pointer, because few programs contain the code that drops one.
pub(crate) struct BoxedQueue(Box<dyn HasQueue>);

trait HasQueue: Send {
    fn queue(&self) -> &Queue;
    fn queue_mut(&mut self) -> &mut Queue;
}

impl HasQueue for Queue {
    fn queue(&self) -> &Queue {
        self
    }

    fn queue_mut(&mut self) -> &mut Queue {
        self
    }
}

impl Default for BoxedQueue {
    fn default() -> BoxedQueue {
        BoxedQueue(Box::new(Queue::default()))
    }
}

impl Deref for BoxedQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        self.0.queue()
    }
}

impl DerefMut for BoxedQueue {
    fn deref_mut(&mut self) -> &mut Queue {
        self.0.queue_mut()
    }
}

/// The queue of one key.
#[derive(Default)]
pub(crate) struct Queue {
    line: Line<Arc<Seat>>,
    /// No charge or refund is later than this time, so the first call is due no earlier. While the
    /// key is held, the end of the hold.
    since: u64,
    /// No call of cost 0 is due before this time, the end of a block: a debt does not hold it.
    unblocked_at: u64,
    deadlines: Deadlines<Notice, Arc<How>>,
    /// The first call, and when it is due.
    first: Option<(Place, u64)>,
    /// Nothing has changed since that would change this due time.
    is_known: bool,
    /// When the timer must look at the queue next.
    timed: Option<u64>,
    /// When it will, at the latest.
    armed: Option<u64>,
    /// The process in which the calls wait.
    process: u32,
    /// The bucket's resets so far.
    resets: u32,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    /// The calls ahead of a new call of that rank.
    pub(crate) fn ahead(&self, rank: u64) -> Ahead {
        self.line.ahead(rank)
    }

    /// Takes a place behind all calls of the same or a lower rank.
    pub(crate) fn join(&mut self, cost: u32, joining: &Joining<'_>, floor: Hold, now: Now) -> (Place, Arc<Seat>) {
        if self.line.is_empty() {
            self.held(floor, now);
            // The alarm may have been set in the process that this one was forked from.
            (self.process, self.armed) = (process::id(), None);
        }
        self.resets = joining.resets;
        let Joining { limits, rank, arrived, deadline, by_timer, address, .. } = *joining;
        let how = match self.line.last() {
            Some(last) if last.with.is(limits, by_timer) => Arc::clone(&last.with),
            _ => Arc::new(How { address, limits: Arc::clone(limits), by_timer }),
        };
        let seat = Arc::new(Seat::new(arrived, deadline, how));
        // A call of cost 0 is due no later than the others, and takes nothing from them.
        let rank = if cost > 0 { rank } else { 0 };
        let place = self.line.join(rank, cost, Arc::clone(&seat));
        if by_timer {
            self.deadlines.add(&seat, self.line.len());
        }
        (place, seat)
    }

    /// Limits were replaced, or apply no more. Denies the calls that can never fit the new ones.
    pub(crate) fn renewed(&mut self, now: Now, wakes: &mut Wakes) {
        self.changed(now);
        for (place, _) in self.line.impossible(|seat| &*seat.with.limits) {
            self.line.remove(place).into_iter().for_each(|seat| seat.notify(Notice::Refused, wakes));
        }
    }

    /// Permits were given back, or limits were replaced: no waiting call is due before now.
    pub(crate) fn changed(&mut self, now: Now) {
        self.since = self.since.max(now.earliest);
        self.is_known = false;
    }

    /// What holds the key has changed: no waiting call is due before it ends.
    pub(crate) fn held(&mut self, floor: Hold, now: Now) {
        self.since = now.earliest.max(floor.until());
        self.unblocked_at = now.earliest.max(floor.blocked_until);
        self.is_known = false;
    }

    /// All permits came back.
    pub(crate) fn reset(&mut self, (floor, resets): (Hold, u32), now: Now) {
        self.resets = resets;
        self.held(floor, now);
    }

    /// The time from which free permits still belong to the waiting calls.
    pub(super) fn since(&self, now: Now) -> Now {
        if self.is_empty() { now } else { Now::exactly(self.since.min(now.earliest)) }
    }

    /// The timer has fired.
    pub(crate) fn fired(&mut self) {
        self.armed = None;
    }

    /// The time for which the timer must be set now, if it is not set for an earlier one.
    pub(crate) fn alarm(&mut self) -> Option<u64> {
        if self.line.is_empty() {
            (self.timed, self.deadlines) = (None, Deadlines::default());
        }
        let time = self.timed.filter(|time| self.armed.is_none_or(|armed| *time < armed))?;
        self.armed = Some(time);
        Some(time)
    }

    /// Gives a place up, after so many resets of the bucket.
    pub(crate) fn leave(&mut self, place: Place, seat: &Seat, so_far: u32, now: Now) -> Parted {
        let notice = seat.leave();
        // After an outcome, the place may belong to another call, if all that waited have left
        // meanwhile.
        let removed = if notice.is_some() { None } else { self.line.remove(place) };
        if let Some(Notice::Admitted { at, resets, .. }) = notice {
            // A reset has given them back.
            if resets != so_far {
                return Parted::Other;
            }
            // A refund makes room from now on, not from the time of the charge.
            self.changed(now);
            return Parted::Permits(Permit { at, cost: place.cost });
        }
        match (removed, self.line.first(), self.first) {
            (Some(_), Some((first, _)), _) if first < place => Parted::Same,
            // The next call would be due at the same time, and is woken by the timer too: it takes
            // over the due time and the alarm.
            (Some(_), Some((first, next)), Some((before, due)))
                if before == place
                    && due > now.earliest
                    && first.cost == place.cost
                    && seat.with.by_timer
                    && next.with.is(&seat.with.limits, true) =>
            {
                self.first = Some((first, due));
                Parted::Same
            }
            _ => {
                // The next call could not be admitted before.
                self.since = self.since.max(now.earliest);
                Parted::Other
            }
        }
    }

    /// Charges the calls that are due, in order, and wakes those whose deadlines have passed.
    /// Returns when the first call that still waits is due.
    pub(crate) fn settle<S: State>(
        &mut self,
        state: &mut S,
        form: &S::Form,
        now: Now,
        wakes: &mut Wakes,
    ) -> Option<u64> {
        if !self.line.is_empty() && self.process != process::id() {
            self.line.abandon();
            self.deadlines.abandon();
            self.first = None;
        }
        self.timed = None;
        let (due, by_timer) = self.serve(state, form, now, wakes)?;
        // Calls that are due come before their deadlines.
        if due > now.earliest {
            self.deadlines.pass(now.earliest, wakes);
        }
        self.timed = by_timer.then_some(due).into_iter().chain(self.deadlines.first()).min();
        Some(due)
    }

    /// Charges the calls that are due, in order, and denies those that are due too late. Returns when
    /// the first call that still waits is due, and whether the timer must charge it.
    fn serve<S: State>(&mut self, state: &mut S, form: &S::Form, now: Now, wakes: &mut Wakes) -> Option<(u64, bool)> {
        if let (true, Some((place, first)), Some((known, due))) = (self.is_known, self.line.first(), self.first)
            && known == place
            && due > now.earliest
        {
            return Some((due, first.with.by_timer));
        }
        for _ in 0..ADMITTED_AT_ONCE {
            let (place, first) = self.line.first()?;
            let (cost, by_timer) = (place.cost, first.with.by_timer);
            // A call of cost 0 waits only for the end of a block.
            let since = first.arrived.max(if cost > 0 { self.since } else { self.unblocked_at });
            let (mut due, mut at) = (NEVER, 0);
            first.with.limits.with(&mut |rules, backoff| {
                let call = Call { rules, backoff, cost, floor: Hold::NONE };
                // `since` lies ahead while the key is held.
                state.prepare(form, rules, Now::exactly(since.min(now.earliest.max(state.newest()))));
                let since = Now::exactly(since);
                due = call.fits_at(state, form, since).unwrap_or(NEVER);
                if due <= now.earliest.min(first.deadline) {
                    at = due.max(state.newest());
                    if cost > 0 {
                        call.charge(state, form, Now { earliest: due, latest: at });
                    }
                }
            });
            let is_late = due != NEVER && due > first.deadline;
            if due > now.earliest && due != NEVER && !is_late {
                let is_new = self.first != Some((place, due));
                (self.first, self.is_known) = (Some((place, due)), true);
                // Without the timer, the first call itself must know until when to sleep.
                if is_new && !by_timer {
                    first.wakes(wakes);
                }
                return Some((due, by_timer));
            }
            let Some(seat) = self.line.remove(place) else { continue };
            if is_late {
                seat.expire(wakes);
            } else if due == NEVER {
                seat.notify(Notice::Refused, wakes);
            } else {
                self.since = self.since.max(due);
                seat.notify(Notice::Admitted { at, due, resets: self.resets }, wakes);
            }
        }
        // More calls may be due: the first one goes on.
        let (_, first) = self.line.first()?;
        first.wakes(wakes);
        Some((now.earliest, first.with.by_timer))
    }

    /// The bucket, if calls wait.
    pub(crate) fn address(&self) -> Option<Address> {
        self.line.first().map(|(_, seat)| seat.with.address)
    }

    /// Makes the timer look at once, because the state moves to another table.
    pub(crate) fn is_to_be_moved(&mut self, now: Now) {
        let by_timer = self.line.first().is_some_and(|(_, seat)| seat.with.by_timer);
        self.timed = by_timer.then_some(now.earliest);
    }

    /// The state of a waiting call after [`settle`](Queue::settle). An admitted call then owns its
    /// permits.
    pub(crate) fn turn(&self, place: Place, seat: &Seat, first_due: u64) -> Turn {
        match seat.take_notice() {
            Some(Notice::Admitted { at, due, resets }) => Turn::Admitted { at, due, resets },
            Some(Notice::Refused) => Turn::Refused,
            None if seat.is_late() => Turn::Late,
            None if !self.line.holds(place) => Turn::Lost,
            None => Turn::Waiting { first_due, is_first: self.line.is_first(place) },
        }
    }

    /// Wakes all waiting calls, so that they look again.
    pub(crate) fn wake_all(&mut self, wakes: &mut Wakes) {
        self.line.iter().for_each(|(_, seat)| seat.wakes(wakes));
    }
}
