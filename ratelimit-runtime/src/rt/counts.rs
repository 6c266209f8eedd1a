//! Counters that many threads raise and few read: a `LongAdder` (striped counters, as in
//! `java.util.concurrent`).
//!
//! A shared counter costs a locked instruction each time, and a cache line that moves between
//! cores. So each thread has its own cell, which only it writes, with plain loads and stores. If
//! there are more threads than cells, the rest share one.

use std::cell::Cell;

use parking_lot::Mutex;

use crate::rt::clock;
use crate::rt::sync::{AtomicU64, Ordering};

/// Threads with their own cell.
const OWN: usize = 15;
/// The index of the shared cell.
const SHARED: usize = OWN;

/// One denial in this many checks the clock: see [`clock::check`].
const CHECKED: u64 = 1_024;

/// Calls allowed and denied.
#[derive(Default)]
pub(crate) struct Counts {
    cells: [Counted; OWN + 1],
}

/// One cell, on its own cache line.
#[derive(Default)]
#[repr(align(64))]
struct Counted {
    allowed: AtomicU64,
    denied: AtomicU64,
}

impl Counts {
    #[inline]
    pub(crate) fn allow(&self) {
        let cell = CELL.get();
        if cell < OWN {
            raise(&self.cells[cell].allowed);
        } else {
            self.allow_elsewhere();
        }
    }

    #[inline]
    pub(crate) fn deny(&self) {
        let cell = CELL.get();
        if cell >= OWN {
            self.deny_elsewhere();
        } else if raise(&self.cells[cell].denied) % CHECKED == CHECKED - 1 {
            clock::check();
        }
    }

    #[cold]
    #[inline(never)]
    fn allow_elsewhere(&self) {
        raise_in(cell(), |cell| &self.cells[cell].allowed);
    }

    #[cold]
    #[inline(never)]
    fn deny_elsewhere(&self) {
        if raise_in(cell(), |cell| &self.cells[cell].denied) % CHECKED == CHECKED - 1 {
            clock::check();
        }
    }

    /// The totals of allowed and denied calls.
    pub(crate) fn sums(&self) -> (u64, u64) {
        let sum = |of: fn(&Counted) -> &AtomicU64| {
            self.cells.iter().map(|cell| of(cell).load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
        };
        (sum(|cell| &cell.allowed), sum(|cell| &cell.denied))
    }
}

/// A small per-thread index for sharding. Threads that run concurrently get distinct ones after
/// their first count.
#[inline]
pub(crate) fn thread() -> usize {
    CELL.get()
}

/// Raises a counter that only this thread writes. Returns its previous value.
#[inline]
fn raise(counter: &AtomicU64) -> u64 {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before.wrapping_add(1), Ordering::Relaxed);
    before
}

fn raise_in<'a>(cell: usize, counter: impl FnOnce(usize) -> &'a AtomicU64) -> u64 {
    let counter = counter(cell);
    if cell == SHARED { counter.fetch_add(1, Ordering::Relaxed) } else { raise(counter) }
}

static TAKEN: Mutex<Taken> = Mutex::new(Taken { cells: 0, others: 0 });

struct Taken {
    /// Cells owned by a thread, one bit each.
    cells: u32,
    /// Threads so far that found no free cell.
    others: usize,
}

const UNKNOWN: usize = usize::MAX;

thread_local! {
    /// This thread's cell; [`SHARED`] or more if it has none of its own. A plain value, readable
    /// until the thread's very end.
    static CELL: Cell<usize> = const { Cell::new(UNKNOWN) };
    /// Releases the cell when the thread ends.
    static OWNER: Owner = const { Owner };
}

struct Owner;

impl Drop for Owner {
    fn drop(&mut self) {
        let cell = CELL.replace(SHARED);
        if cell < OWN {
            // Under the lock, so that the next owner sees what this thread has stored.
            TAKEN.lock().cells &= !(1 << cell);
        }
    }
}

/// This thread's cell, claimed at the first use.
fn cell() -> usize {
    let cell = CELL.get();
    if cell == UNKNOWN { claim() } else { cell.min(SHARED) }
}

#[cold]
fn claim() -> usize {
    // An ending thread has no owner any more, and shares.
    if OWNER.try_with(|_| {}).is_err() {
        return SHARED;
    }
    let mut taken = TAKEN.lock();
    let free = taken.cells.trailing_ones() as usize;
    if free < OWN {
        taken.cells |= 1 << free;
        CELL.set(free);
    } else {
        CELL.set(SHARED + taken.others % OWN);
        taken.others = taken.others.wrapping_add(1);
    }
    free.min(SHARED)
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_however_many_threads_count() {
        let counts = Counts::default();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                for _ in 0..40 {
                    scope.spawn(|| {
                        for _ in 0..1_000 {
                            counts.allow();
                            counts.deny();
                            counts.deny();
                        }
                    });
                }
            });
        }
        assert_eq!(counts.sums(), (120_000, 240_000));
    }
}

/// All interleavings of threads that raise a counter and hand its cell on.
#[cfg(all(test, loom_model))]
mod model {
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::*;

    #[test]
    fn nothing_is_lost_in_the_shared_cell() {
        loom::model(|| {
            let counter = Arc::new(AtomicU64::new(0));
            let other = Arc::clone(&counter);
            let handle = thread::spawn(move || raise_in(SHARED, |_| &other));
            raise_in(SHARED, |_| &counter);
            handle.join().unwrap();
            assert_eq!(counter.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn nothing_is_lost_when_a_cell_changes_owner() {
        loom::model(|| {
            let state = Arc::new((AtomicU64::new(0), Mutex::new(true)));
            let first = Arc::clone(&state);
            let handle = thread::spawn(move || {
                raise(&first.0);
                *first.1.lock().unwrap() = false;
            });
            let is_mine = !*state.1.lock().unwrap();
            if is_mine {
                raise(&state.0);
            }
            handle.join().unwrap();
            assert_eq!(state.0.load(Ordering::Relaxed), 1 + u64::from(is_mine));
        });
    }
}
