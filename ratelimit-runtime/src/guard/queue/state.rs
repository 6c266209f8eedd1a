//! The state of a queue: waiting calls, bookings, and the driver's next step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;

use super::Queue;
use super::stand_in::{HandedOver, StandIn};
use crate::algorithm::record::{Admission, Refusal};
use crate::backend::{Action, Answer, Outcome, Request};
use crate::decision::Address;
use crate::error::BackendError;
use crate::limit::Limit;
use crate::queue::{Deadlines, Limits, Line, Place, Wakes};
use crate::rt::clock::Now;
use crate::rt::timer::Alarm;

/// The first call is booked if it is due within this time, in nanoseconds, as all times here.
pub(super) const AHEAD: u64 = 1_000_000_000;
/// Other calls are booked if they are due within this time, while the last booking is due within
/// half of it. It exceeds most round trips and the time that a thread takes to wake on a busy
/// machine: a call that is booked too late is charged too late.
pub(super) const HORIZON: u64 = 200_000_000;
/// The horizon is at least this many round trips.
const ROUND_TRIPS: u64 = 4;
/// How often the backend is asked for a first call without a booking.
pub(super) const RENEWAL: u64 = 1_000_000_000;
/// The least time between a denied booking and the next request, whatever the backend says.
const PAUSE: u64 = 5_000_000;
/// The most bookings of one queue.
const MOST_BOOKED: usize = 32;
/// The most calls examined to find one that is still in time for a booking.
const LOOKED_AT: usize = 64;
/// A time that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

#[derive(Default)]
pub(super) struct State {
    pub(super) line: Line<Arc<Seat>>,
    /// Empty if a test drives the queue.
    pub(super) deadlines: Deadlines<Notice, Arc<How>>,
    /// In the order in which they are due.
    pub(super) booked: VecDeque<Booked>,
    /// Bookings to give back, the last one first.
    pub(super) unused: Vec<Booked>,
    pub(super) undone: Undone,
    /// The backend's last denial.
    pub(super) hint: Option<Hint>,
    /// How many more calls to book at once. Doubles after each batch that was due soon; 0 after a
    /// denial of a single call, so a slow limit gets one request per permit.
    pub(super) at_once: usize,
    /// Calls in the request under way, and their permits.
    pub(super) asking: (u64, u64),
    /// Permits booked so far.
    pub(super) booked_so_far: u64,
    /// Counts changes of limits and resets: answers to earlier requests are outdated.
    pub(super) changes: u64,
    /// The duration of the last request.
    pub(super) round_trip: u64,
    /// The driver has something to do.
    pub(super) is_changed: bool,
    pub(super) driver: Option<Waker>,
    /// The alarm of the first booking or deadline.
    pub(super) alarm: Option<(u64, Alarm)>,
}

/// The state that a waiting call shares with its queue.
pub(super) type Seat = crate::queue::Seat<Notice, Arc<How>>;

/// How a call waits. Calls that wait alike share it, so that each of them is small.
pub(super) struct How {
    /// The bucket in memory, for when the backend fails.
    pub(super) fallback: Address,
    pub(super) limits: Arc<dyn Limits>,
    /// `None` if the limiter's policy is another one.
    pub(super) stand_in: Option<StandIn>,
}

/// Permits booked in the backend, due at a time by this process's clock.
pub(crate) struct Booked {
    pub(crate) due: u64,
    pub(crate) limit: Limit,
    pub(crate) admission: Admission,
    /// Counted from `due`.
    pub(crate) reset_after: u64,
    /// The limits of the call that it was booked for, which may change.
    pub(super) limits: Arc<dyn Limits>,
    /// The limits by which it was booked. By others, a backend would not take back all of it.
    pub(super) made_by: SmallVec<[Limit; 2]>,
    /// [`State::changes`] when it was booked.
    pub(super) changes: u64,
    /// Another process has booked behind it: it cannot be given back before it is due.
    pub(super) is_kept: bool,
}

/// A denial, by this process's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denied {
    pub(crate) limit: Limit,
    pub(crate) position: usize,
    pub(crate) remaining: u32,
    /// [`u64::MAX`]: never.
    pub(crate) admitted_at: u64,
    pub(crate) is_blocked: bool,
}

/// The numbers of the bookings that were undone, as ranges that do not touch, in order.
#[derive(Default)]
pub(super) struct Undone(VecDeque<(u64, u64)>);

impl Undone {
    /// More are forgotten, the lowest first: their bookings are long due.
    const MOST: usize = 2 * MOST_BOOKED;

    /// Whether all of these were undone.
    fn has_all(&self, first: u64, last: u64) -> bool {
        self.0.iter().any(|(from, to)| *from <= first && last <= *to)
    }

    fn add(&mut self, number: u64) {
        let behind = self.0.partition_point(|(from, _)| *from <= number);
        let (mut range, mut at) = ((number, number), behind);
        if let Some((_, to)) = self.0.get(behind)
            && self.0[behind].0 == number + 1
        {
            range.1 = *to;
            self.0.remove(behind);
        }
        if let Some(before) = behind.checked_sub(1)
            && self.0[before].1 + 1 >= number
        {
            range = (self.0[before].0, range.1.max(self.0[before].1));
            self.0.remove(before);
            at = before;
        }
        self.0.insert(at, range);
        if self.0.len() > Undone::MOST {
            self.0.pop_front();
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Hint {
    pub(super) cost: u32,
    pub(super) denied: Denied,
    pub(super) asked: u64,
    /// How far ahead the permits might have been due. 0: permits at once were denied.
    pub(super) ahead: u64,
}

/// The outcome of a wait.
pub(crate) enum Notice {
    Admitted(Box<Booked>),
    /// The call can no longer be admitted in time.
    Denied(Box<Denied>),
    /// The backend failed to decide. The place in the stand-in's queue, if the call has one there.
    Failed(Option<Box<HandedOver>>),
}

/// The driver's next step.
pub(super) enum Next {
    GiveBack(Booked),
    Ask(Asked),
    Sleep(u64),
    /// No call waits, and nothing is booked.
    End,
}

/// Calls of one cost and the same limits, for one batch of requests.
pub(super) struct Asked {
    pub(super) places: SmallVec<[Place; 4]>,
    pub(super) limits: Arc<dyn Limits>,
    pub(super) cost: u32,
    /// They are booked if they are due within this many nanoseconds.
    pub(super) ahead: u64,
    pub(super) request: Request,
    changes: u64,
}

/// Calls whose request failed, in order.
pub(super) type Failed = SmallVec<[Place; 1]>;

impl State {
    pub(super) fn wake_driver(&mut self, wakes: &mut Wakes) {
        self.is_changed = true;
        if let Some(driver) = self.driver.take() {
            wakes.add(driver);
        }
    }

    /// Permits booked so far, or under way.
    pub(super) fn promised(&self) -> u64 {
        self.booked_so_far + self.asking.1
    }

    pub(super) fn horizon(&self) -> u64 {
        self.round_trip.saturating_mul(ROUND_TRIPS).clamp(HORIZON, AHEAD)
    }

    pub(super) fn book(&mut self, booked: Booked) {
        let behind = self.booked.partition_point(|earlier| earlier.due <= booked.due);
        self.booked.insert(behind, booked);
    }

    /// Hands out due bookings: each to the first call that is in time for it. A booking that this
    /// call cannot use is given back. Wakes the calls whose deadlines have passed.
    pub(super) fn settle(&mut self, now: u64, wakes: &mut Wakes) {
        while self.booked.front().is_some_and(|booked| booked.due <= now)
            && let Some(booked) = self.booked.pop_front()
        {
            let mut waiting = self.line.iter().take(LOOKED_AT);
            let first = waiting.find(|(_, waiting)| waiting.deadline >= booked.due);
            let owner = first.filter(|(place, first)| can_use(**place, first, &booked)).map(|(place, _)| *place);
            match owner.and_then(|place| self.line.remove(place)) {
                Some(owner) => owner.notify(Notice::Admitted(Box::new(booked)), wakes),
                None => self.unused.push(booked),
            }
            self.wake_driver(wakes);
        }
        self.deadlines.pass(now, wakes);
    }

    /// The last booking, if the calls cannot use all bookings in their order, and the number of
    /// calls ahead of the call of the next booking. A call that has overtaken others may be due
    /// before their bookings. Kept bookings serve calls that come in time and are no surplus.
    fn surplus(&self) -> (Option<usize>, usize) {
        let mut waiting = self.line.iter().take(self.booked.len() + LOOKED_AT).enumerate();
        let mut behind = 0;
        for booked in &self.booked {
            let mut from = waiting.clone();
            match from.find(|(_, (_, waiting))| waiting.deadline >= booked.due) {
                Some((at, (place, owner))) if can_use(*place, owner, booked) && (at == behind || booked.is_kept) => {
                    (behind, waiting) = (at + 1, from);
                }
                _ if booked.is_kept => {}
                _ => return (self.booked.iter().rposition(|booked| !booked.is_kept), behind),
            }
        }
        (None, behind)
    }

    /// Keeps a booking that cannot be undone, because not all charges after it, up to the number
    /// `last`, were undone. Otherwise returns it, to be undone.
    pub(super) fn keep(&mut self, booked: Booked, last: u64) -> Option<Booked> {
        let sequence = booked.admission.permit.sequence;
        if sequence == last || self.undone.has_all(sequence + 1, last) {
            self.undone.add(sequence);
            return Some(booked);
        }
        if booked.changes != self.changes {
            return Some(booked);
        }
        self.book(Booked { is_kept: true, ..booked });
        None
    }

    /// The earliest known time at which the first call is due, and the limit that holds it back.
    pub(super) fn first_due(&self, cost: u32) -> Option<Denied> {
        if let Some(Booked { due, limit, admission, .. }) = self.booked.front() {
            let position = admission.limit;
            return Some(Denied { limit: *limit, position, remaining: 0, admitted_at: *due, is_blocked: false });
        }
        self.hint.filter(|hint| hint.cost <= cost).map(|hint| hint.denied)
    }

    /// Denies the calls that can never fit their limits, which have changed.
    pub(super) fn refuse_impossible(&mut self, now: u64, wakes: &mut Wakes) {
        for (place, position) in self.line.impossible(|seat| &*seat.with.limits) {
            let Some(seat) = self.line.remove(place) else { continue };
            let mut denied = Denied { position, admitted_at: NEVER, ..soon(&*seat.with.limits, now) };
            seat.with.limits.with(&mut |rules, _| denied.limit = rules[position].limit);
            seat.notify(Notice::Denied(Box::new(denied)), wakes);
        }
    }

    /// Denies the first calls while they can no longer be admitted in time.
    pub(super) fn refuse_late(&mut self, now: u64, wakes: &mut Wakes) {
        while let Some((place, first)) = self.line.first() {
            let (deadline, known) = (first.deadline, self.first_due(place.cost));
            if deadline >= now && known.is_none_or(|known| known.admitted_at <= deadline) {
                return;
            }
            let denied = known.unwrap_or_else(|| soon(&*first.with.limits, now));
            if let Some(first) = self.line.remove(place) {
                first.notify(Notice::Denied(Box::new(denied)), wakes);
            }
        }
    }
}

impl How {
    pub(super) fn is(&self, limits: &Arc<dyn Limits>, stand_in: Option<&StandIn>) -> bool {
        Arc::ptr_eq(&self.limits, limits)
            && match (&self.stand_in, stand_in) {
                (Some(one), Some(other)) => one.is(other),
                (None, None) => true,
                _ => false,
            }
    }
}

/// Whether the permits were booked for a call like the one in that place.
fn can_use(place: Place, call: &Seat, booked: &Booked) -> bool {
    place.cost == booked.admission.permit.cost && are_alike(&call.with.limits, &booked.limits)
}

/// Whether these are the same limits now.
fn are_alike(one: &Arc<dyn Limits>, other: &Arc<dyn Limits>) -> bool {
    if Arc::ptr_eq(one, other) {
        return true;
    }
    let mut all: SmallVec<[Limit; 2]> = SmallVec::new();
    one.with(&mut |rules, _| all.extend(rules.iter().map(|rule| rule.limit)));
    let mut are_alike = false;
    other.with(&mut |rules, _| are_alike = rules.iter().map(|rule| &rule.limit).eq(&all));
    are_alike
}

/// A denial without details.
pub(super) fn soon(limits: &dyn Limits, now: u64) -> Denied {
    let mut limit = None;
    limits.with(&mut |rules, _| limit = rules.first().map(|rule| rule.limit));
    let limit = limit.unwrap_or(Limit::per_second(1));
    Denied { limit, position: 0, remaining: 0, admitted_at: now.saturating_add(1_000_000), is_blocked: false }
}

impl Queue {
    pub(super) fn next(self: &Arc<Queue>, now: u64, wakes: &mut Wakes) -> Next {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.settle(now, wakes);
        state.is_changed = false;
        // The last booking goes first: a backend moves no booking forward.
        let (surplus, mut behind) = state.surplus();
        state.unused.extend(surplus.and_then(|last| state.booked.remove(last)));
        self.arm(state);
        if let Some(booked) = state.unused.pop() {
            return Next::GiveBack(booked);
        }
        let before = state.line.len();
        state.refuse_late(now, wakes);
        // They stood before all that is booked.
        behind = behind.saturating_sub(before - state.line.len());
        let is_head = behind == 0;
        let room = MOST_BOOKED.saturating_sub(state.booked.len()).min(state.at_once.max(usize::from(is_head)));
        let mut asks: SmallVec<[Place; 4]> = SmallVec::new();
        let mut first: Option<(u32, &Arc<dyn Limits>)> = None;
        let mut deadline = NEVER;
        for (place, waiting) in state.line.iter().skip(behind).take(room.max(1)) {
            let (cost, limits) = *first.get_or_insert((place.cost, &waiting.with.limits));
            if cost != place.cost || !are_alike(limits, &waiting.with.limits) || asks.len() == room {
                break;
            }
            asks.push(*place);
            deadline = deadline.min(waiting.deadline);
        }
        let Some((cost, limits)) = first else {
            return if state.line.is_empty() && state.booked.is_empty() { Next::End } else { Next::Sleep(NEVER) };
        };
        if asks.is_empty() {
            return Next::Sleep(NEVER);
        }
        let hint = state.hint.filter(|hint| hint.cost == cost);
        let (ahead, from) = match state.booked.back().filter(|_| !is_head) {
            None if asks.len() == 1 => (AHEAD, 0),
            None => (state.horizon(), 0),
            Some(last) => (state.horizon(), last.due.saturating_sub(state.horizon() / 2)),
        };
        // After half the distance: of many waiting processes, most then find a permit when they
        // ask.
        let again = hint.map_or(0, |Hint { denied, asked, ahead: within, .. }| {
            // If permits near enough were not booked, the key is banned.
            let is_near = denied.admitted_at <= asked.saturating_add(within);
            let due = denied.admitted_at.saturating_sub(if is_near { 0 } else { ahead / 2 });
            let earliest = asked.saturating_add(if within > 0 { PAUSE } else { 0 });
            due.min(self.renewed(asked)).max(earliest)
        });
        let at = from.max(again);
        if now < at {
            return Next::Sleep(at);
        }
        // A booking for later than a call's deadline would be given back, and asked for again.
        let ahead = ahead.min(deadline.saturating_sub(now)).max(1);
        state.asking = (asks.len() as u64, asks.len() as u64 * u64::from(cost));
        let limits = Arc::clone(limits);
        let request = self.request(&*limits, Action::Take { cost, max_wait: Duration::from_nanos(ahead) });
        Next::Ask(Asked { places: asks, limits, cost, ahead, request, changes: state.changes })
    }

    /// Records the backend's answers, one per place. Returns the calls for which there is none.
    pub(super) fn answered(
        self: &Arc<Queue>,
        asked: &Asked,
        sent: u64,
        received: u64,
        answers: Vec<Result<Answer, BackendError>>,
        wakes: &mut Wakes,
    ) -> Failed {
        let mut failed = Failed::new();
        let mut state = self.state.lock();
        let (mut are_admitted, mut last_due) = (true, 0);
        for (place, answer) in asked.places.iter().zip(answers) {
            match answer {
                Ok(Answer { now, outcome: Outcome::Admitted(admitted) }) => {
                    let Admission { permit, limit, fresh_at, .. } = &admitted.admission;
                    state.booked_so_far += u64::from(asked.cost);
                    let booked = Booked {
                        due: received.saturating_add(permit.at.saturating_sub(now.as_nanos())),
                        limit: limit_at(&asked.request, *limit),
                        reset_after: fresh_at.saturating_sub(permit.at),
                        admission: admitted.admission,
                        limits: Arc::clone(&asked.limits),
                        made_by: asked.request.limits.clone(),
                        changes: asked.changes,
                        is_kept: false,
                    };
                    if asked.changes != state.changes {
                        state.unused.push(booked);
                        continue;
                    }
                    last_due = last_due.max(booked.due);
                    state.book(booked);
                    state.hint = None;
                }
                Ok(Answer { outcome: Outcome::Denied(_), .. }) if asked.changes != state.changes => {}
                Ok(Answer { now, outcome: Outcome::Denied(denied) }) => {
                    are_admitted = false;
                    let denied = Denied::of(&denied.refusal, now.as_nanos(), received, &asked.request);
                    if denied.admitted_at < NEVER {
                        state.hint = Some(Hint { cost: asked.cost, denied, asked: sent, ahead: asked.ahead });
                    } else if let Some(waiting) = state.line.remove(*place) {
                        waiting.notify(Notice::Denied(Box::new(denied)), wakes);
                    }
                }
                Ok(Answer { outcome: Outcome::Done | Outcome::Blocked { .. }, .. }) | Err(_) => {
                    are_admitted = false;
                    failed.push(*place);
                }
            }
        }
        state.asking = (0, 0);
        state.round_trip = received.saturating_sub(sent);
        state.at_once = match state.at_once {
            _ if !are_admitted => usize::from(last_due > 0),
            // The next booking is due later by the same time again.
            at_once if last_due > received.saturating_add(state.horizon() / 2) => at_once.min(1),
            at_once => (2 * at_once).clamp(1, MOST_BOOKED),
        };
        failed
    }

    /// Fails calls in their order, each after it has a place in the stand-in's queue. Until then
    /// they keep their places here, so that no later call overtakes them.
    pub(super) fn fail(&self, failed: &[Place], now: Now, wakes: &mut Wakes) {
        for place in failed {
            let waiting = self.state.lock().line.get(*place).map(Arc::clone);
            // It has left.
            let Some(waiting) = waiting else { continue };
            let how = &waiting.with;
            // Outside the lock: memory wakes other calls.
            let stand_in = how.stand_in.as_ref();
            let handed_over = stand_in.and_then(|it| {
                it.take_over(how.fallback, &how.limits, *place, (waiting.arrived, waiting.deadline), now)
            });
            let mut state = self.state.lock();
            if state.line.remove(*place).is_some() {
                waiting.notify(Notice::Failed(handed_over.map(Box::new)), wakes);
                continue;
            }
            drop(state);
            if let Some(handed_over) = handed_over {
                handed_over.leave(now);
            }
        }
    }
}

impl Denied {
    pub(crate) fn of(refusal: &Refusal, now: u64, received: u64, request: &Request) -> Denied {
        Denied {
            limit: limit_at(request, refusal.limit),
            position: refusal.limit,
            remaining: refusal.remaining,
            admitted_at: refusal.admitted_at.map_or(NEVER, |at| received.saturating_add(at.saturating_sub(now))),
            is_blocked: refusal.is_blocked,
        }
    }
}

/// A custom store may name a limit that does not exist.
fn limit_at(request: &Request, position: usize) -> Limit {
    request.limits.get(position).or(request.limits.first()).copied().unwrap_or(Limit::per_second(1))
}
