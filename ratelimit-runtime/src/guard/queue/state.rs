//! The state of a queue: waiting calls, bookings, and the driver's next step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;

use super::Queue;
use crate::algorithm::record::{Admission, Refusal};
use crate::backend::{Action, Answer, Outcome, Request};
use crate::error::BackendError;
use crate::limit::Limit;
use crate::queue::{Limits, Line, Place, Seat, Wakes};
use crate::rt::clock;
use crate::rt::timer::Alarm;

/// The first call is booked if it is due within this time, in nanoseconds, as all times here.
pub(super) const AHEAD: u64 = 1_000_000_000;
/// Other calls are booked while the last booking is due within half of this time, and if they are
/// due within it. It is longer than most round trips, and than a thread takes to wake on a busy
/// machine: a call that is booked too late is charged too late.
pub(super) const HORIZON: u64 = 200_000_000;
/// The horizon is at least this many round trips.
const ROUND_TRIPS: u64 = 4;
/// How often the backend is asked for a first call without a booking.
pub(super) const RENEWAL: u64 = 1_000_000_000;
/// The least time between a denial and the next request, whatever the backend says.
const PAUSE: u64 = 5_000_000;
/// The most bookings of one queue.
const MOST_BOOKED: usize = 32;
/// How many calls are searched for one with the cost of a booking.
const LOOKED_AT: usize = 64;
/// A time that never comes.
pub(super) const NEVER: u64 = u64::MAX;

#[derive(Default)]
pub(super) struct State {
    pub(super) line: Line<Waiting>,
    /// In the order in which they are due.
    pub(super) booked: VecDeque<Booked>,
    /// Bookings to give back, the last one first.
    pub(super) unused: Vec<Booked>,
    /// The backend's last denial.
    pub(super) hint: Option<Hint>,
    /// How many more calls to book at once. Doubles after each batch that was due soon; 0 after a
    /// denial of a single call, so that a slow limit is asked once per permit.
    pub(super) at_once: usize,
    /// Calls in the request under way, and their permits.
    pub(super) asking: (u64, u64),
    /// Counts changes of limits and resets: answers to earlier requests are outdated.
    pub(super) changes: u64,
    /// The duration of the last request.
    pub(super) round_trip: u64,
    /// The driver has something to do.
    pub(super) is_changed: bool,
    pub(super) driver: Option<Waker>,
    /// The alarm of the first booking.
    pub(super) alarm: Option<(u64, Alarm)>,
}

pub(super) struct Waiting {
    pub(super) seat: Arc<Seat<Told>>,
    pub(super) limits: Arc<dyn Limits>,
    pub(super) deadline: u64,
}

/// Permits booked in the backend, due at a time by this process's clock.
pub(crate) struct Booked {
    pub(crate) due: u64,
    pub(crate) limit: Limit,
    pub(crate) admission: Admission,
    /// Counted from `due`.
    pub(crate) reset_after: u64,
    /// The limits by which it was booked.
    limits: Arc<dyn Limits>,
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

#[derive(Clone, Copy)]
pub(super) struct Hint {
    pub(super) cost: u32,
    pub(super) denied: Denied,
    pub(super) asked: u64,
}

/// The outcome of a wait.
pub(crate) enum Told {
    Admitted(Box<Booked>),
    /// The call can no longer be admitted in time.
    Denied(Box<Denied>),
    /// The backend failed to decide.
    Failed,
}

/// The driver's next step.
pub(super) enum Next {
    GiveBack(Request),
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

impl State {
    pub(super) fn wake_driver(&mut self, wakes: &mut Wakes) {
        self.is_changed = true;
        if let Some(driver) = self.driver.take() {
            wakes.add(driver);
        }
    }

    pub(super) fn horizon(&self) -> u64 {
        self.round_trip.saturating_mul(ROUND_TRIPS).clamp(HORIZON, AHEAD)
    }

    pub(super) fn book(&mut self, booked: Booked) {
        let behind = self.booked.partition_point(|earlier| earlier.due <= booked.due);
        self.booked.insert(behind, booked);
    }

    /// Hands out due bookings.
    pub(super) fn settle(&mut self, now: u64, wakes: &mut Wakes) {
        while self.booked.front().is_some_and(|booked| booked.due <= now)
            && let Some(booked) = self.booked.pop_front()
        {
            let cost = booked.admission.permit.cost;
            let mut waiting = self.line.iter().take(LOOKED_AT);
            let first = waiting.find(|(_, waiting)| waiting.cost == cost && waiting.with.deadline >= booked.due);
            match first.map(|(place, _)| *place).and_then(|place| self.line.remove(place)) {
                Some(waiting) => waiting.with.seat.tell(Told::Admitted(Box::new(booked)), wakes),
                None => self.unused.push(booked),
            }
            self.wake_driver(wakes);
        }
    }

    /// The earliest known time at which the first call is due, and the limit that holds it back.
    pub(super) fn first_due(&self, cost: u32) -> Option<Denied> {
        if let Some(Booked { due, limit, admission, .. }) = self.booked.front() {
            let position = admission.limit;
            return Some(Denied { limit: *limit, position, remaining: 0, admitted_at: *due, is_blocked: false });
        }
        self.hint.filter(|hint| hint.cost <= cost).map(|hint| hint.denied)
    }

    /// Denies the first calls while they can no longer be admitted in time.
    pub(super) fn refuse_late(&mut self, now: u64, wakes: &mut Wakes) {
        while let Some((place, first)) = self.line.first() {
            let (deadline, known) = (first.with.deadline, self.first_due(first.cost));
            if deadline > now && known.is_none_or(|known| known.admitted_at <= deadline) {
                return;
            }
            let denied = known.unwrap_or_else(|| soon(&*first.with.limits, now));
            if let Some(first) = self.line.remove(place) {
                first.with.seat.tell(Told::Denied(Box::new(denied)), wakes);
            }
        }
    }
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
        self.arm(state);
        state.refuse_late(now, wakes);
        state.is_changed = false;
        // A booking is for the first call of its cost.
        let mut free: SmallVec<[(usize, u32); MOST_BOOKED]> =
            state.booked.iter().map(|booked| booked.admission.permit.cost).enumerate().collect();
        let is_head = free.is_empty();
        let room = MOST_BOOKED.saturating_sub(free.len()).min(state.at_once.max(usize::from(is_head)));
        let mut asks: SmallVec<[Place; 4]> = SmallVec::new();
        let mut first: Option<(u32, &Arc<dyn Limits>)> = None;
        for (place, waiting) in state.line.iter().take(free.len() + LOOKED_AT) {
            if let Some(at) = free.iter().position(|(_, cost)| *cost == waiting.cost) {
                free.remove(at);
                continue;
            }
            let (cost, limits) = *first.get_or_insert((waiting.cost, &waiting.with.limits));
            let is_alike = cost == waiting.cost && Arc::ptr_eq(limits, &waiting.with.limits);
            if is_alike && asks.len() < room {
                asks.push(*place);
            } else if free.is_empty() {
                break;
            }
        }
        if let Some((at, _)) = free.last()
            && let Some(booked) = state.booked.remove(*at)
        {
            state.unused.push(booked);
        }
        if let Some(Booked { admission, limits, .. }) = state.unused.pop() {
            self.arm(state);
            return Next::GiveBack(self.request(&*limits, Action::GiveBack(admission.permit)));
        }
        let Some((cost, limits)) = first else {
            return if state.line.is_empty() && state.booked.is_empty() { Next::End } else { Next::Sleep(NEVER) };
        };
        if asks.is_empty() {
            return Next::Sleep(NEVER);
        }
        let hint = state.hint.filter(|hint| hint.cost == cost);
        let (ahead, from) = match state.booked.back() {
            None if asks.len() == 1 => (AHEAD, 0),
            None => (state.horizon(), 0),
            Some(last) => (state.horizon(), last.due.saturating_sub(state.horizon() / 2)),
        };
        // Half of how far it may lie ahead: of many processes that wait for permits, most find one
        // when they ask.
        let again = hint.map_or(0, |Hint { denied, asked, .. }| {
            let due = denied.admitted_at.saturating_sub(ahead / 2);
            due.clamp(asked.saturating_add(PAUSE), asked.saturating_add(RENEWAL))
        });
        let at = from.max(again);
        if now < at {
            return Next::Sleep(at);
        }
        state.asking = (asks.len() as u64, asks.len() as u64 * u64::from(cost));
        let limits = Arc::clone(limits);
        let request = self.request(&*limits, Action::Take { cost, max_wait: Duration::from_nanos(ahead) });
        Next::Ask(Asked { places: asks, limits, cost, ahead, request, changes: state.changes })
    }

    /// Records the backend's answers, one per place.
    pub(super) fn answered(self: &Arc<Queue>, asked: &Asked, sent: u64, answers: Vec<Result<Answer, BackendError>>) {
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        let received = clock::clock().now().latest;
        let (mut are_admitted, mut last_due) = (true, 0);
        for (place, answer) in asked.places.iter().zip(answers) {
            let told = match answer {
                Ok(Answer { now, outcome: Outcome::Admitted(admitted) }) => {
                    let Admission { permit, limit, fresh_at, .. } = &admitted.admission;
                    let booked = Booked {
                        due: received.saturating_add(permit.at.saturating_sub(now.as_nanos())),
                        limit: limit_at(&asked.request, *limit),
                        reset_after: fresh_at.saturating_sub(permit.at),
                        admission: admitted.admission,
                        limits: Arc::clone(&asked.limits),
                    };
                    if asked.changes != state.changes {
                        state.unused.push(booked);
                        continue;
                    }
                    last_due = last_due.max(booked.due);
                    state.book(booked);
                    state.hint = None;
                    continue;
                }
                Ok(Answer { outcome: Outcome::Denied(_), .. }) if asked.changes != state.changes => continue,
                Ok(Answer { now, outcome: Outcome::Denied(denied) }) => {
                    are_admitted = false;
                    let denied = Denied::of(&denied.refusal, now.as_nanos(), received, &asked.request);
                    if denied.admitted_at < NEVER {
                        state.hint = Some(Hint { cost: asked.cost, denied, asked: sent });
                        continue;
                    }
                    Told::Denied(Box::new(denied))
                }
                Ok(Answer { outcome: Outcome::Done | Outcome::Blocked { .. }, .. }) | Err(_) => {
                    are_admitted = false;
                    Told::Failed
                }
            };
            if let Some(waiting) = state.line.remove(*place) {
                waiting.with.seat.tell(told, &mut wakes);
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
        drop(state);
        wakes.wake();
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
