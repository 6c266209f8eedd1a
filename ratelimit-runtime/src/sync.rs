//! Locks and atomics of what many threads decide upon; in a run of the model checker (`--cfg loom_model`), the checker's.

#[cfg(loom_model)]
pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
#[cfg(not(loom_model))]
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[cfg(loom_model)]
pub(crate) type Guard<'a, T> = loom::sync::MutexGuard<'a, T>;
#[cfg(not(loom_model))]
pub(crate) type Guard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

/// A lock for a few instructions at a time.
///
/// Where nobody else holds it, it costs one locked instruction: the holder lets go of it by a plain store. That of a lock
/// with a queue is a second one, and a locked instruction is what most of a decision's time goes to. Whoever meets a holder
/// spins for a moment, then gives the processor away, then sleeps, so that a holder without a processor is not waited for
/// in vain, whatever the priorities are.
///
/// `parking_lot`'s in its place took a tenth longer for a decision on the shared window or a key's token bucket and a
/// twenty-fifth for a key's window (medians of nine interleaved rounds), and 7, 2 and 3 % more instructions.
#[derive(Debug, Default)]
pub(crate) struct Lock<T> {
    #[cfg(not(loom_model))]
    inner: spin::mutex::SpinMutex<T>,
    #[cfg(loom_model)]
    inner: loom::sync::Mutex<T>,
}

#[cfg(not(loom_model))]
impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Lock<T> {
        Lock { inner: spin::mutex::SpinMutex::new(value) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        match self.inner.try_lock() {
            Some(guard) => guard,
            None => self.wait(),
        }
    }

    #[inline]
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.inner.try_lock()
    }

    #[cold]
    #[inline(never)]
    fn wait(&self) -> Guard<'_, T> {
        /// Looks at the lock before the thread gives its processor away, and before it sleeps.
        const SPINS: u32 = 1_000;
        const YIELDS: u32 = SPINS + 1_000;
        const SLEEP: std::time::Duration = std::time::Duration::from_micros(50);
        let mut tries = 0_u32;
        loop {
            tries = tries.saturating_add(1);
            // Read first: a failed attempt to take it would take the cache line away from the holder.
            if !self.inner.is_locked()
                && let Some(guard) = self.inner.try_lock()
            {
                return guard;
            }
            if tries <= SPINS {
                std::hint::spin_loop();
            } else if tries <= YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(SLEEP);
            }
        }
    }
}

#[cfg(loom_model)]
impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Lock<T> {
        Lock { inner: loom::sync::Mutex::new(value) }
    }

    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.inner.try_lock().ok()
    }
}
