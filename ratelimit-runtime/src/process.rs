//! State that belongs to one process. A child that is forked has a copy of all memory, but not of the threads, and its
//! sockets are the parent's too: it must not wait for the ones, nor read from the others.

use std::mem;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

/// Tells this process from the ones that it was forked from. Asks the system, some 50 ns.
pub(crate) fn id() -> u32 {
    // There are no processes to tell apart, and no numbers of theirs.
    if cfg!(target_family = "wasm") { 0 } else { std::process::id() }
}

/// Locks a mutex of the standard library's. Threads that sleep until there is work use it and its condition variable:
/// `parking_lot` has a table of all sleeping threads, which a child would inherit without the threads.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that each process makes for itself.
///
/// What a child finds of its parent's is neither used nor dropped: a lock in it may be held by a thread that is not there,
/// and to close a socket of tokio's would take it from the parent's poll as well.
#[derive(Debug)]
pub(crate) struct PerProcess<T> {
    current: ArcSwapOption<Owned<T>>,
}

/// A value and the process that it belongs to.
#[derive(Debug)]
pub(crate) struct Owned<T> {
    process: u32,
    value: T,
}

impl<T> PerProcess<T> {
    pub(crate) const fn new() -> PerProcess<T> {
        PerProcess { current: ArcSwapOption::const_empty() }
    }

    /// This process's value. See [`id`] for what it costs.
    pub(crate) fn get(&self, make: impl Fn() -> T) -> Arc<Owned<T>> {
        let process = id();
        loop {
            let current = self.current.load();
            if let Some(owned) = current.as_ref().filter(|owned| owned.process == process) {
                return Arc::clone(owned);
            }
            let new = Arc::new(Owned { process, value: make() });
            let before = self.current.compare_and_swap(&*current, Some(Arc::clone(&new)));
            // If not, another thread was faster.
            if before.as_ref().map(Arc::as_ptr) == current.as_ref().map(Arc::as_ptr) {
                mem::forget(before.clone());
                return new;
            }
        }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        mem::forget(self.current.swap(None).filter(|owned| !owned.is_own()));
    }
}

impl<T> Owned<T> {
    /// Whether it belongs to this process, and not to the one that this was forked from.
    pub(crate) fn is_own(&self) -> bool {
        self.process == id()
    }
}

impl<T> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_come_at_once_get_one_value() {
        static VALUE: PerProcess<Box<u8>> = PerProcess::new();
        let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(|| VALUE.get(Box::default))).collect();
        let values: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(values.iter().all(|value| Arc::ptr_eq(value, &values[0]) && value.is_own()));
    }

    #[test]
    fn what_another_process_made_is_made_anew_and_not_dropped() {
        let value = PerProcess::new();
        let dropped = Arc::new(());
        let parents = Owned { process: id() + 1, value: Arc::clone(&dropped) };
        value.current.store(Some(Arc::new(parents)));
        assert!(!Arc::ptr_eq(&**value.get(Arc::default), &dropped));
        assert_eq!(Arc::strong_count(&dropped), 2);
        let value = PerProcess::new();
        let parents = Owned { process: id() + 1, value: Arc::clone(&dropped) };
        value.current.store(Some(Arc::new(parents)));
        drop(value);
        assert_eq!(Arc::strong_count(&dropped), 3);
    }
}
