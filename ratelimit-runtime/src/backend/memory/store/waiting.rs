//! Calls that wait for a bucket of a store, and the alarms that charge them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::Shared;
use super::super::queue::{Joining, Queue, Seat, Turn};
use super::super::state::{Left, State, Verdict};
use super::tasks::{Errand, Task};
use super::{Ask, Keyed, Store, on_table, open_thorough};
use crate::decision::Address;
use crate::queue::{Place, Wakes};
use crate::rt::clock::Now;
use crate::rt::process;
use crate::rt::timer::Alarm;

impl Store {
    /// Takes the permits of a call now, or a place in the queue as an `Err`. A call that would wait
    /// too long is denied; the verdict says until when.
    pub(crate) fn join(
        self: &Arc<Store>,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        joining: &Joining<'_>,
    ) -> Result<(Verdict, Left), Waiter> {
        let (may_begin, resets) = (self.shared.bound.may_wait(), self.resets(address));
        let joining = Joining { address, resets, may_begin, ..*joining };
        let done = self.perform_and_arm(address, ask, now, &Task::Join(&joining));
        match done.place {
            None => Ok((done.verdict, done.left)),
            Some((place, seat)) => Err(Waiter { store: Arc::clone(self), place, seat }),
        }
    }

    /// Charges the waiting calls that are due.
    fn settle(self: &Arc<Store>, address: Address, now: Now) {
        let mut wakes = Wakes::default();
        let done =
            self.perform_under_lock(address, &mut Errand::of(&self.written_ask(0), now, &Task::Settle, &mut wakes));
        self.arm(address, done.alarm, now);
        // Last: a task that is woken may fork the process. The timer's thread then holds no lock of
        // the store.
        wakes.wake();
    }

    /// Sets the timer to look at a queue at `time`, even if no future is polled then.
    pub(super) fn arm(self: &Arc<Store>, address: Address, time: Option<u64>, now: Now) {
        // An alarm that is no longer needed stays until it fires. A call that needs it may have
        // overtaken this one.
        let Some(time) = time else { return };
        // At the end of the clock's uncertainty, so that alarms seldom fire too early.
        let after = Duration::from_nanos(time.saturating_sub(now.earliest) + (now.latest - now.earliest));
        let Some(deadline) = Instant::now().checked_add(after) else { return };
        let mut alarms = self.alarms().lock();
        // An alarm that fires too early is set again.
        let process = process::id();
        if alarms.get(&address).is_some_and(|(by, set_for, _)| *by == process && *set_for <= deadline) {
            return;
        }
        let waker = Waker::from(Arc::new(Due { store: Arc::downgrade(self), address }));
        let before = Alarm::new(deadline, &waker).and_then(|alarm| alarms.insert(address, (process, deadline, alarm)));
        drop(alarms);
        drop(before);
    }

    fn alarms(&self) -> &Alarms {
        self.alarms.get_or_init(|| Box::new(Alarms::default())).alarms()
    }

    /// Makes all waiting calls look again: limits have changed, or no longer apply.
    pub(crate) fn wake_all(self: &Arc<Store>, now: Now) {
        open_thorough();
        let (mut wakes, mut alarms) = (Wakes::default(), Vec::new());
        self.unkeyed.with(&self.written.rules, &self.forms, now, |state, queue| {
            alarms.extend(renew(state, &self.forms, queue, now, &mut wakes));
        });
        on_table!(self, (table, form) => table.each_queue(&self.shared.bound, |state, queue| {
            if self.free.get().is_none() {
                alarms.extend(renew(state, form, queue, now, &mut wakes));
                return;
            }
            // The new limits cannot judge this state. The first call that looks, or the timer, moves
            // it to the other table.
            queue.renewed(now, &mut wakes);
            queue.is_to_be_moved(now);
            queue.wake_all(&mut wakes);
            alarms.extend(queue.address().zip(queue.alarm()));
        }));
        if let Some(table) = self.free.get() {
            table.table.each_queue(&self.shared.bound, |state, queue| {
                alarms.extend(renew(state, &self.forms, queue, now, &mut wakes));
            });
        }
        for (address, time) in alarms {
            self.arm(address, Some(time), now);
        }
        wakes.wake();
    }
}

/// Returns the bucket, and the time for which its timer must be set.
fn renew<S: State>(
    state: &mut S,
    form: &S::Form,
    queue: &mut Queue,
    now: Now,
    wakes: &mut Wakes,
) -> Option<(Address, u64)> {
    queue.renewed(now, wakes);
    queue.settle(state, form, now, wakes);
    queue.wake_all(wakes);
    queue.address().zip(queue.alarm())
}

type Alarms = Mutex<HashMap<Address, (u32, Instant, Alarm)>>;

/// Alarms behind a pointer, for programs in which no call waits.
pub(super) trait HasAlarms: Send + Sync {
    fn alarms(&self) -> &Alarms;
}

impl HasAlarms for Alarms {
    fn alarms(&self) -> &Alarms {
        self
    }
}

/// A place in the queue of a bucket. Its owner looks until there is an outcome, or leaves.
pub(crate) struct Waiter {
    store: Arc<Store>,
    place: Place,
    seat: Arc<Seat>,
}

/// Charges the first waiting call when it is due, whichever call is first then.
struct Due {
    store: Weak<Store>,
    address: Address,
}

impl Wake for Due {
    fn wake(self: Arc<Due>) {
        if let Some(store) = Shared::lend(&self.store) {
            // The alarm has fired. Settling sets another one if it is needed.
            let fired = store.alarms().lock().remove(&self.address);
            drop(fired);
            store.get().settle(self.address, store.now());
        }
    }
}

impl Waiter {
    /// Registers `waker` for changes. Returns whether there is one already.
    pub(crate) fn listen(&self, waker: &Waker) -> bool {
        self.seat.listen(waker)
    }

    /// Checks whether the call's turn has come.
    pub(crate) fn look(&self, now: Now) -> Turn {
        let (ask, task) = (self.store.written_ask(0), Task::Look(self.place, &self.seat));
        self.store.perform_and_arm(self.address(), &ask, now, &task).turn.unwrap_or(Turn::Lost)
    }

    /// Gives the place up. Permits that were charged for it are given back, by the limits of the
    /// call.
    pub(crate) fn leave(&self, ask: &Ask<'_>, now: Now) {
        self.seat.forget_waker();
        let task = Task::Leave(self.place, &self.seat, self.store.resets(self.address()));
        self.store.perform_and_arm(self.address(), ask, now, &task);
    }

    pub(crate) fn address(&self) -> Address {
        self.seat.with.address
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn arrived(&self) -> u64 {
        self.seat.arrived
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.seat.deadline
    }
}
