//! Operations on one bucket under its lock, whatever its state, beside its queue of waiting calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::WhenFull;
use super::super::holds::Hold;
use super::super::queue::{BoxedQueue, Joining, Parted, Queue, Seat, Turn};
use super::super::state::{Call, Fate, Full, Left, NEVER, Permit, State, Verdict};
use super::super::table::{Table, With};
use super::{Ask, Keyed, RETRY_WHEN_FULL, Store, TRIES, Written, on_table, open_thorough};
use crate::algorithm::Rule;
use crate::decision::Address;
use crate::queue::{Ahead, Place, Wakes};
use crate::rt::clock::Now;

/// An operation on one bucket under its lock.
pub(super) enum Task<'a> {
    Take,
    Together(&'a dyn Fn(Verdict) -> Fate),
    Peek,
    Refund(Permit),
    /// Takes permits whatever is left. The function records until when they are owed.
    Charge(&'a dyn Fn(u64) -> Hold),
    /// Forgets the state. The function lifts the debt, and returns the number of resets so far.
    Reset(&'a dyn Fn() -> (Hold, u32)),
    Join(&'a Joining<'a>),
    Look(Place, &'a Seat),
    /// After so many resets.
    Leave(Place, &'a Seat, u32),
    Settle,
    /// The key's hold has changed.
    Held(&'a dyn Fn() -> Hold),
}

/// The outcome of a task.
pub(super) struct Done {
    pub(super) verdict: Verdict,
    pub(super) left: Left,
    pub(super) place: Option<(Place, Arc<Seat>)>,
    pub(super) turn: Option<Turn>,
    /// The time for which the timer must be set.
    pub(super) alarm: Option<u64>,
}

/// A task for one call, at one moment.
pub(super) struct Errand<'a> {
    ask: Ask<'a>,
    now: Now,
    task: &'a Task<'a>,
    wakes: &'a mut Wakes,
}

impl<'a> Errand<'a> {
    pub(super) fn of(ask: &Ask<'a>, now: Now, task: &'a Task<'a>, wakes: &'a mut Wakes) -> Errand<'a> {
        Errand { ask: *ask, now, task, wakes }
    }

    /// Carries out the task on a state and its key's queue, which is empty if no call waits. `floor`
    /// is what holds the key.
    fn run<S: State>(&mut self, floor: Hold, state: &mut S, form: &S::Form, queue: &mut Queue) -> Done {
        let done = self.run_unarmed(&Call { floor, ..self.ask.call }, state, form, queue);
        // These find the timer set already: they make no call due earlier.
        if matches!(self.task, Task::Take | Task::Together(_) | Task::Peek) {
            return done;
        }
        Done { alarm: queue.alarm(), ..done }
    }

    fn run_unarmed<S: State>(&mut self, call: &Call<'_>, state: &mut S, form: &S::Form, queue: &mut Queue) -> Done {
        let (now, task, wakes) = (self.now, self.task, &mut *self.wakes);
        match task {
            Task::Refund(permit) => {
                call.give_back(state, form, now, *permit);
                queue.changed(now);
            }
            Task::Reset(lift) => {
                *state = S::idle();
                queue.reset(lift(), now);
            }
            Task::Leave(place, seat, resets) => match queue.leave(*place, seat, *resets, now) {
                Parted::Permits(permit) => call.give_back(state, form, now, permit),
                Parted::Same => return Done::of(Verdict::Admitted { at: now.latest }),
                Parted::Other => {}
            },
            Task::Settle => queue.fired(),
            Task::Held(floor) => {
                queue.held(floor(), now);
                queue.wake_all(wakes);
            }
            Task::Take | Task::Together(_) | Task::Charge(_) | Task::Peek | Task::Join(_) | Task::Look(..) => {}
        }
        let first_due = if queue.is_empty() { None } else { queue.settle(state, form, now, wakes) };
        let mut done = Done::of(Verdict::Undecided);
        match task {
            Task::Charge(owe) => {
                let Some(end) = call.owe(state, form, now) else { return done };
                let floor = if end > now.earliest { owe(end) } else { call.floor };
                if !queue.is_empty() {
                    queue.held(floor, now);
                    queue.settle(state, form, now, wakes);
                }
                done.verdict = Verdict::Admitted { at: now.latest };
                done.left = Call { floor, ..*call }.left_behind_floor(state, form, now, done.verdict, false);
                return done;
            }
            Task::Refund(_) | Task::Reset(_) | Task::Leave(..) | Task::Settle | Task::Held(_) => {
                done.verdict = Verdict::Admitted { at: now.latest };
                return done;
            }
            Task::Look(place, seat) => {
                done.turn = Some(queue.turn(*place, seat, first_due.unwrap_or(NEVER)));
                done.verdict = Verdict::Admitted { at: now.latest };
                return done;
            }
            Task::Take | Task::Together(_) | Task::Peek | Task::Join(_) => {}
        }
        state.prepare(form, call.rules, now.at_least(call.floor.owed_until));
        let was_banned = call.is_banned(state, now);
        done.verdict = if !queue.is_empty() && call.cost > 0 {
            let rank = if let Task::Join(joining) = task { joining.rank } else { u64::MAX };
            behind(call, state, form, queue.ahead(rank), now)
        } else if matches!(task, Task::Take) {
            call.take_behind_floor(state, form, now)
        } else {
            call.judge_behind_floor(state, form, now)
        };
        if let (Task::Together(others), true) = (task, done.verdict != Verdict::Undecided) {
            let fate = others(done.verdict);
            // A denial behind waiting calls is no offence, like that of a call on one bucket.
            let is_behind = !queue.is_empty() && call.cost > 0;
            done.verdict = match fate {
                Fate::Denied if is_behind => done.verdict,
                fate => call.held(state, form, now, done.verdict, fate),
            };
        }
        if let Task::Join(joining) = task {
            let waits = match done.verdict {
                // It overtakes all calls that wait, or has waited elsewhere.
                Verdict::Admitted { .. } => joining.is_handed_over || !queue.is_empty() && call.cost > 0,
                Verdict::Denied { until, .. } => {
                    until <= joining.deadline
                        && until != NEVER
                        && queue.len() < joining.queue
                        && (joining.may_begin || !queue.is_empty())
                }
                Verdict::Undecided => false,
            };
            match done.verdict {
                _ if waits => {
                    done.place = Some(queue.join(call.cost, joining, call.floor, now));
                    queue.settle(state, form, now, wakes);
                    return done;
                }
                // Takes the permits now, and counts no denial.
                Verdict::Admitted { .. } => done.verdict = call.take_behind_floor(state, form, now),
                Verdict::Denied { position, .. } => {
                    // The call cannot wait: it is denied like any other call.
                    if queue.is_empty()
                        && let Verdict::Denied { until, .. } = call.take_behind_floor(state, form, now)
                    {
                        done.verdict = Verdict::Denied { until, position };
                    }
                }
                Verdict::Undecided => {}
            }
        }
        done.left = call.left_behind_floor(state, form, now, done.verdict, was_banned);
        done
    }
}

impl Done {
    fn of(verdict: Verdict) -> Done {
        Done { verdict, left: Left::default(), place: None, turn: None, alarm: None }
    }
}

impl Store {
    #[cold]
    #[inline(never)]
    pub(super) fn perform_unkeyed_and_tell(&self, ask: &Ask<'_>, now: Now, task: &Task<'_>) -> (Verdict, Left) {
        let mut wakes = Wakes::default();
        let done = self.perform_unkeyed(&mut Errand::of(ask, now, task, &mut wakes));
        self.forget_denial_after(Address::Unkeyed, task);
        wakes.wake();
        (done.verdict, done.left)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn perform_and_tell(
        &self,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        task: &Task<'_>,
    ) -> (Verdict, Left) {
        let done = self.perform(address, ask, now, task);
        (done.verdict, done.left)
    }

    /// Carries out a task on a bucket, under its lock.
    #[inline(never)]
    pub(super) fn perform(&self, address: Address, ask: &Ask<'_>, now: Now, task: &Task<'_>) -> Done {
        let mut wakes = Wakes::default();
        let done = self.perform_under_lock(address, &mut Errand::of(ask, now, task, &mut wakes));
        wakes.wake();
        done
    }

    /// [`perform`](Store::perform) for a task that may change when the first waiting call is due.
    pub(super) fn perform_and_arm(
        self: &Arc<Store>,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        task: &Task<'_>,
    ) -> Done {
        let done = self.perform(address, ask, now, task);
        self.arm(address, done.alarm, now);
        done
    }

    #[inline]
    pub(super) fn perform_under_lock(&self, address: Address, errand: &mut Errand<'_>) -> Done {
        // Calls of this bucket may need the same from now on.
        open_thorough();
        let done = match address {
            Address::Unkeyed => self.perform_unkeyed(errand),
            Address::Hash(hash) => {
                self.reach_key(hash, errand).unwrap_or_else(|| self.untracked(hash, &errand.ask, errand.now))
            }
        };
        self.forget_denial_after(address, errand.task);
        done
    }

    fn forget_denial_after(&self, address: Address, task: &Task<'_>) {
        if !matches!(task, Task::Take | Task::Peek) && self.holds.may_hold(address) {
            self.holds.forget_denial(address);
        }
    }

    fn perform_unkeyed(&self, errand: &mut Errand<'_>) -> Done {
        let Written { rules, varies, .. } = &self.written;
        if *varies {
            self.expect(errand.ask.call.rules);
        }
        self.unkeyed.with(rules, &self.forms, errand.now, |state, queue| {
            // Looked up under the bucket's lock, under which debts are recorded.
            let floor = self.holds.of(Address::Unkeyed, errand.now);
            errand.run(floor, state, &self.forms, queue)
        })
    }

    /// `None` if there is no room for the key.
    fn reach_key(&self, hash: u64, errand: &mut Errand<'_>) -> Option<Done> {
        if self.written.varies {
            self.expect(errand.ask.call.rules);
        }
        // Another thread may take the room that this one made.
        let mut tries = 0;
        loop {
            let done = if self.is_elsewhere(&errand.ask) {
                self.perform_free(hash, errand)
            } else {
                on_table!(self, (table, form) => self.perform_in(table, form, hash, errand))
            };
            match done {
                With::Done(Done { verdict: Verdict::Undecided, .. }) | With::Closed => {
                    // This form cannot decide, for example a word that has run out of range. The
                    // full form can.
                    self.open();
                }
                With::Done(done) => return Some(done),
                With::Full | With::Waited if tries < TRIES && self.shared.evict(self, hash, errand.now) => {}
                With::Full | With::Waited => return None,
            }
            tries += 1;
        }
    }

    /// Makes the bucket of a key in the table in which [`hold`](Store::hold) looks. Returns the
    /// answer to the call if there is no room.
    pub(in super::super) fn make(
        &self,
        hash: u64,
        ask: &Ask<'_>,
        now: Now,
        wakes: &mut Wakes,
    ) -> Option<(Verdict, Left)> {
        let nothing = Ask { call: Call { cost: 0, ..ask.call }, ..*ask };
        match self.reach_key(hash, &mut Errand::of(&nothing, now, &Task::Take, wakes)) {
            Some(_) => None,
            None => Some(self.without_room(hash, ask, now)),
        }
    }

    /// The answer to a call whose key has no room.
    pub(in super::super) fn without_room(&self, hash: u64, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        let done = self.untracked(hash, ask, now);
        (done.verdict, done.left)
    }

    /// [`Together`] on a bucket that [exists](Store::make). `None` if it is gone meanwhile.
    ///
    /// The caller holds locks of other buckets: nothing here sweeps, evicts or wakes.
    pub(in super::super) fn hold(
        &self,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        wakes: &mut Wakes,
        others: &dyn Fn(Verdict) -> Fate,
    ) -> Option<(Verdict, Left)> {
        let task = Task::Together(others);
        let errand = &mut Errand::of(ask, now, &task, wakes);
        let done = match address {
            Address::Unkeyed => Some(self.perform_under_lock(address, errand)),
            Address::Hash(hash) if self.is_elsewhere(ask) => {
                self.hold_in(&self.free.get()?.table, &self.forms, hash, errand)
            }
            Address::Hash(hash) => on_table!(self, (table, form) => self.hold_in(table, form, hash, errand)),
        };
        done.map(|done| (done.verdict, done.left))
    }

    /// Carries out a task on an existing bucket.
    fn hold_in<S: State, const W: usize>(
        &self,
        table: &Table<S, W>,
        form: &S::Form,
        hash: u64,
        errand: &mut Errand<'_>,
    ) -> Option<Done> {
        let is_reset = matches!(errand.task, Task::Reset(_));
        table.with_existing(self.context(form), hash, |state, queue| {
            let floor = self.holds.of(Address::Hash(hash), errand.now);
            (errand.run(floor, state, form, queue.unwrap_or(&mut Queue::default())), is_reset)
        })
    }

    fn perform_in<S: State, const W: usize>(
        &self,
        table: &Table<S, W>,
        form: &S::Form,
        hash: u64,
        errand: &mut Errand<'_>,
    ) -> With<Done> {
        let (context, now, task) = (self.context::<S>(form), errand.now, errand.task);
        let mut run =
            |state: &mut S, queue: &mut Queue| errand.run(self.holds.of(Address::Hash(hash), now), state, form, queue);
        match task {
            Task::Take | Task::Charge(_) => {
                let (done, swept) = table.with(context, hash, now, |state| run(state, &mut Queue::default()));
                self.sweep_others(swept, hash, now);
                if matches!(done, With::Waited) { table.with_queue(context, hash, now, run) } else { done }
            }
            Task::Join(_) => table.with_queue(context, hash, now, run),
            _ => With::Done(self.hold_in(table, form, hash, errand).unwrap_or_else(|| {
                // A missing bucket is idle. Only a peek needs an answer.
                if !matches!(task, Task::Peek | Task::Reset(_)) {
                    errand.task = &Task::Settle;
                }
                errand.run(self.holds.of(Address::Hash(hash), now), &mut S::idle(), form, &mut Queue::default())
            })),
        }
    }

    /// Carries out a task on the bucket of limits other than those written down. If the bucket is
    /// in the usual table, it is moved first.
    fn perform_free(&self, hash: u64, errand: &mut Errand<'_>) -> With<Done> {
        let (table, rules, now) = (&self.open().table, &self.written.rules, errand.now);
        let since = |queue: &Option<BoxedQueue>| queue.as_ref().map_or(now, |queue| queue.since(now));
        match &self.keyed {
            Keyed::Nothing => {}
            Keyed::One(from, layout) => from.hand_over(hash, |state, queue| {
                table.take_over(hash, Full::of_words(&state, layout, rules, since(&queue)), queue);
            }),
            Keyed::Two(from, layout) => from.hand_over(hash, |state, queue| {
                table.take_over(hash, Full::of_words(&state, layout, rules, since(&queue)), queue);
            }),
            Keyed::Three(from, layout) => from.hand_over(hash, |state, queue| {
                table.take_over(hash, Full::of_words(&state, layout, rules, since(&queue)), queue);
            }),
            Keyed::Window(from, _) => {
                from.hand_over(hash, |state, queue| table.take_over(hash, Full::of_window(state), queue));
            }
            Keyed::Full(from) => from.hand_over(hash, |state, queue| table.take_over(hash, state, queue)),
        }
        self.perform_in(table, &self.forms, hash, errand)
    }

    /// Decides a call if there is no room for its key.
    #[cold]
    fn untracked(&self, hash: u64, ask: &Ask<'_>, now: Now) -> Done {
        self.shared.bound.untracked.fetch_add(1, Ordering::Relaxed);
        let mut done = Done::of(Verdict::Admitted { at: now.latest });
        let capacity = ask.call.rules.first().map_or(0, Rule::capacity);
        done.left = Left { remaining: capacity, ..Left::default() };
        if self.shared.bound.when_full == WhenFull::Deny && ask.call.cost > 0 {
            done.verdict = Verdict::Denied { until: now.earliest.saturating_add(RETRY_WHEN_FULL), position: 0 };
            done.left.remaining = 0;
        }
        let floor = self.holds.of(Address::Hash(hash), now);
        if floor.is_blocked(now) {
            done.verdict = Verdict::Denied { until: floor.until(), position: 0 };
            done.left.is_blocked = true;
        }
        done
    }
}

/// The verdict on a call behind waiting calls.
fn behind<S: State>(call: &Call<'_>, state: &S, form: &S::Form, ahead: Ahead, now: Now) -> Verdict {
    match call.judge_behind_floor(state, form, now) {
        Verdict::Denied { until: NEVER, position } => Verdict::Denied { until: NEVER, position },
        Verdict::Undecided => Verdict::Undecided,
        verdict if ahead.calls == 0 => verdict,
        verdict => {
            let until = call.fits_behind(state, form, now, ahead).max(now.earliest + 1);
            let position = if let Verdict::Denied { position, .. } = verdict { position } else { 0 };
            Verdict::Denied { until, position }
        }
    }
}
