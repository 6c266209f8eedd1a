//! Calls that wait for one key's permits, in the order of service: by rank, then by arrival.
//!
//! [`Line`] is the order, [`Seat`] is the state that a call shares with its line. Permits and due
//! times are up to the two kinds of queues: in memory (`backend/memory/queue.rs`) and before a
//! backend (`guard/queue.rs`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, btree_map};
use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::rt::sync::Mutex;

/// The most calls counted ahead of one that overtakes others.
const COUNTED: usize = 64;

/// The limits of a waiting call at its turn.
pub(crate) trait Limits: Send + Sync {
    fn with(&self, judge: &mut dyn FnMut(&[Rule], Option<&Backoff>));
}

/// A place in a line. Places compare in the order of service: by rank, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) rank: u64,
    /// The number of the arrival. It may wrap around: it only orders calls of one rank, which is a
    /// nanosecond.
    ticket: u32,
    /// Never compared: no two places of a line have the same rank and ticket.
    pub(crate) cost: u32,
}

/// Shared by a waiting call and its queue: passes the outcome to the call. `W` is what the queue
/// knows of the call.
pub(crate) struct Seat<T, W = ()> {
    state: Mutex<Seated<T>>,
    pub(crate) arrived: u64,
    /// The latest time until which the call waits.
    pub(crate) deadline: u64,
    pub(crate) with: W,
}

enum Seated<T> {
    Waiting(Option<Waker>),
    /// Waiting; the call must look again, and has no waker here.
    Woken,
    /// The same; it cannot be admitted by its deadline.
    Late,
    Notified(T),
    /// The call took its outcome, or left.
    Left,
}

/// Tasks and threads to wake after the lock is released.
#[derive(Default)]
pub(crate) struct Wakes(SmallVec<[Waker; 4]>);

impl Wakes {
    pub(crate) fn add(&mut self, waker: Waker) {
        self.0.push(waker);
    }

    pub(crate) fn append(&mut self, mut others: Wakes) {
        self.0.append(&mut others.0);
    }

    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(Waker::wake);
    }
}

impl<T, W> Seat<T, W> {
    pub(crate) fn new(arrived: u64, deadline: u64, with: W) -> Seat<T, W> {
        Seat { state: Mutex::new(Seated::Waiting(None)), arrived, deadline, with }
    }

    /// Makes the call look again.
    pub(crate) fn wakes(&self, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        if let Seated::Waiting(waker) = &mut *state {
            if let Some(waker) = waker.take() {
                wakes.add(waker);
            }
            *state = Seated::Woken;
        }
    }

    /// Sets the waker for when there is news. Returns whether there is news already.
    pub(crate) fn listen(&self, waker: &Waker) -> bool {
        match &*self.state.lock() {
            Seated::Waiting(Some(known)) if known.will_wake(waker) => return false,
            Seated::Waiting(_) | Seated::Woken => {}
            Seated::Late | Seated::Notified(_) | Seated::Left => return true,
        }
        // Outside the lock: cloning and dropping a waker runs foreign code.
        let waker = waker.clone();
        let mut state = self.state.lock();
        let (before, is_news) = match &*state {
            Seated::Waiting(_) => (std::mem::replace(&mut *state, Seated::Waiting(Some(waker))), false),
            Seated::Woken => (std::mem::replace(&mut *state, Seated::Waiting(Some(waker))), true),
            Seated::Late | Seated::Notified(_) | Seated::Left => (Seated::Waiting(Some(waker)), true),
        };
        drop(state);
        drop(before);
        is_news
    }

    /// Removes the waker.
    pub(crate) fn forget_waker(&self) {
        let mut state = self.state.lock();
        let waker = if let Seated::Waiting(waker) = &mut *state { waker.take() } else { None };
        drop(state);
        drop(waker);
    }

    /// Passes the outcome to the call.
    pub(crate) fn notify(&self, notice: T, wakes: &mut Wakes) {
        let before = std::mem::replace(&mut *self.state.lock(), Seated::Notified(notice));
        if let Seated::Waiting(Some(waker)) = before {
            wakes.add(waker);
        }
    }

    pub(crate) fn is_notified(&self) -> bool {
        matches!(*self.state.lock(), Seated::Notified(_))
    }

    /// Whether the call took its outcome, or left.
    pub(crate) fn is_left(&self) -> bool {
        matches!(*self.state.lock(), Seated::Left)
    }

    /// The outcome, if there is one. It can be taken once.
    pub(crate) fn take_notice(&self) -> Option<T> {
        let mut state = self.state.lock();
        match *state {
            Seated::Notified(_) => match std::mem::replace(&mut *state, Seated::Left) {
                Seated::Notified(notice) => Some(notice),
                Seated::Waiting(_) | Seated::Woken | Seated::Late | Seated::Left => None,
            },
            Seated::Waiting(_) | Seated::Woken | Seated::Late | Seated::Left => None,
        }
    }

    /// The call leaves. Returns an outcome that it has not taken.
    pub(crate) fn leave(&self) -> Option<T> {
        match std::mem::replace(&mut *self.state.lock(), Seated::Left) {
            Seated::Notified(notice) => Some(notice),
            Seated::Waiting(_) | Seated::Woken | Seated::Late | Seated::Left => None,
        }
    }

    /// Whether the call was found to be too late.
    pub(crate) fn is_late(&self) -> bool {
        matches!(*self.state.lock(), Seated::Late)
    }

    fn is_over(&self) -> bool {
        matches!(*self.state.lock(), Seated::Notified(_) | Seated::Left)
    }

    /// Makes the call give up: it cannot be admitted by its deadline.
    pub(crate) fn expire(&self, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        match &mut *state {
            Seated::Waiting(known) => wakes.0.extend(known.take()),
            Seated::Woken => {}
            Seated::Late | Seated::Notified(_) | Seated::Left => return,
        }
        *state = Seated::Late;
    }
}

/// The calls of a queue that its timer wakes at their deadlines: a heap of seats.
///
/// A call that leaves stays in the heap until it is the first, or one of many.
pub(crate) struct Deadlines<T, W>(BinaryHeap<ByDeadline<T, W>>);

struct ByDeadline<T, W>(Arc<Seat<T, W>>);

impl<T, W> Ord for ByDeadline<T, W> {
    /// The earliest deadline is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.deadline.cmp(&self.0.deadline)
    }
}

impl<T, W> PartialOrd for ByDeadline<T, W> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T, W> PartialEq for ByDeadline<T, W> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T, W> Eq for ByDeadline<T, W> {}

impl<T, W> Default for Deadlines<T, W> {
    fn default() -> Deadlines<T, W> {
        Deadlines(BinaryHeap::new())
    }
}

impl<T, W> Deadlines<T, W> {
    /// Below this many seats, those of calls that have left stay.
    const FEW: usize = 32;

    /// Adds one of `waiting` calls.
    pub(crate) fn add(&mut self, seat: &Arc<Seat<T, W>>, waiting: usize) {
        if seat.deadline == u64::MAX {
            return;
        }
        let heap = &mut self.0;
        if heap.len() > Self::FEW.max(2 * waiting) {
            heap.retain(|seat| !seat.0.is_over());
        }
        // Not doubled: most of the room would stay empty.
        if heap.len() == heap.capacity() {
            heap.reserve_exact(heap.len() / 4 + 1);
        }
        heap.push(ByDeadline(Arc::clone(seat)));
    }

    /// The earliest deadline of a call that waits.
    pub(crate) fn first(&mut self) -> Option<u64> {
        while self.0.peek()?.0.is_over() {
            self.0.pop();
            if self.0.is_empty() {
                self.0 = BinaryHeap::new();
            }
        }
        self.0.peek().map(|seat| seat.0.deadline)
    }

    /// Makes calls whose deadlines have passed give up.
    pub(crate) fn pass(&mut self, now: u64, wakes: &mut Wakes) {
        while self.first().is_some_and(|deadline| deadline <= now)
            && let Some(seat) = self.0.pop()
        {
            seat.0.expire(wakes);
        }
    }

    /// The calls wait in the process that this one was forked from, as in [`Line::abandon`].
    pub(crate) fn abandon(&mut self) {
        std::mem::forget(std::mem::take(self));
    }
}

/// Waiting calls. `W` is what the queue knows of each.
pub(crate) struct Line<W> {
    waiting: BTreeMap<Place, W>,
    tickets: u32,
    /// Permits of all waiting calls.
    permits: u64,
    /// The sum of the squares of their costs, by which is known whether all have the same.
    squares: u128,
}

/// Calls ahead of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) calls: u64,
    pub(crate) permits: u64,
    /// The cost of each, if all have the same.
    pub(crate) cost: Option<u32>,
}

impl Ahead {
    /// The permits per step, and the steps until a call of `cost` behind these calls is served.
    /// Calls of one cost are served one per step. Of mixed costs only the sum of permits is known.
    pub(crate) fn steps(self, cost: u32) -> (u32, u64) {
        if self.calls == 0 || self.cost == Some(cost) {
            (cost, self.calls + 1)
        } else {
            (1, self.permits.saturating_add(cost.into()))
        }
    }
}

impl<W> Default for Line<W> {
    fn default() -> Line<W> {
        Line { waiting: BTreeMap::new(), tickets: 0, permits: 0, squares: 0 }
    }
}

impl<W> Line<W> {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The calls ahead of one that arrives now. Of those ahead of a call that overtakes others, the
    /// first [`COUNTED`].
    pub(crate) fn ahead(&self, rank: u64) -> Ahead {
        if self.waiting.last_key_value().is_none_or(|(last, _)| last.rank <= rank) {
            return Ahead { calls: self.waiting.len() as u64, permits: self.permits, cost: self.cost() };
        }
        let mut ahead = Ahead::default();
        for place in self.waiting.keys().take(COUNTED).take_while(|place| place.rank <= rank) {
            ahead.cost = Some(place.cost).filter(|cost| ahead.calls == 0 || ahead.cost == Some(*cost));
            ahead.calls += 1;
            ahead.permits += u64::from(place.cost);
        }
        ahead
    }

    /// The cost of each call, if all have the same. The square of a mean is the mean of the squares for
    /// equal numbers alone.
    fn cost(&self) -> Option<u32> {
        let (calls, permits) = (self.waiting.len() as u128, u128::from(self.permits));
        let are_equal = calls > 0 && calls.saturating_mul(self.squares) == permits * permits;
        are_equal.then(|| u32::try_from(permits / calls).ok()).flatten()
    }

    /// Takes a place behind all calls of the same or a lower rank number.
    pub(crate) fn join(&mut self, rank: u64, cost: u32, with: W) -> Place {
        self.tickets = self.tickets.wrapping_add(1);
        let place = Place { rank, ticket: self.tickets, cost };
        self.permits += u64::from(cost);
        self.squares += square(cost);
        self.waiting.insert(place, with);
        place
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<W> {
        let with = self.waiting.remove(&place)?;
        self.permits -= u64::from(place.cost);
        self.squares -= square(place.cost);
        Some(with)
    }

    pub(crate) fn holds(&self, place: Place) -> bool {
        self.waiting.contains_key(&place)
    }

    pub(crate) fn get(&self, place: Place) -> Option<&W> {
        self.waiting.get(&place)
    }

    pub(crate) fn first(&self) -> Option<(Place, &W)> {
        self.waiting.first_key_value().map(|(place, with)| (*place, with))
    }

    pub(crate) fn last(&self) -> Option<&W> {
        self.waiting.last_key_value().map(|(_, with)| with)
    }

    pub(crate) fn is_first(&self, place: Place) -> bool {
        self.first().is_some_and(|(first, _)| first == place)
    }

    pub(crate) fn is_last(&self, place: Place) -> bool {
        self.waiting.last_key_value().is_some_and(|(last, _)| *last == place)
    }

    /// The calls that can never fit their limits as they are now, and the first limit that is too small.
    pub(crate) fn impossible(&self, limits: impl Fn(&W) -> &dyn Limits) -> Vec<(Place, usize)> {
        let too_small = |(place, with): (&Place, &W)| {
            let mut position = None;
            limits(with).with(&mut |rules, _| position = rules.iter().position(|rule| rule.capacity() < place.cost));
            Some((*place, position?))
        };
        self.waiting.iter().filter_map(too_small).collect()
    }

    /// In order.
    pub(crate) fn iter(&self) -> btree_map::Iter<'_, Place, W> {
        self.waiting.iter()
    }

    /// The calls wait in the process that this one was forked from. They are leaked: their wakers
    /// belong to that process.
    pub(crate) fn abandon(&mut self) {
        std::mem::forget(std::mem::take(&mut self.waiting));
        (self.permits, self.squares) = (0, 0);
    }
}

fn square(cost: u32) -> u128 {
    u128::from(cost) * u128::from(cost)
}
