//! State that belongs to one process. A forked child has a copy of all memory but none of the
//! threads, and shares the parent's sockets. It must not wait for those threads or read from those
//! sockets.

use std::mem;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

/// Identifies this process after a fork. A system call of some 50 ns.
pub(crate) fn id() -> u32 {
    // WebAssembly has no processes and no process IDs.
    if cfg!(target_family = "wasm") { 0 } else { std::process::id() }
}

/// Locks a mutex of the standard library. Threads that sleep until there is work use it and its
/// condition variable: `parking_lot` keeps a table of all sleeping threads, which a child would
/// inherit without the threads.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that each process makes for itself.
///
/// A child neither uses nor drops its parent's value. A missing thread may hold a lock in it, and
/// closing a tokio socket would also remove it from the parent's poll.
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

    /// This process's value. Costs an [`id`].
    pub(crate) fn get(&self, make: impl Fn() -> T) -> Arc<Owned<T>> {
        let process = id();
        loop {
            let current = self.current.load();
            if let Some(owned) = current.as_ref().filter(|owned| owned.process == process) {
                return Arc::clone(owned);
            }
            let new = Arc::new(Owned { process, value: make() });
            let before = self.current.compare_and_swap(&*current, Some(Arc::clone(&new)));
            // Otherwise another thread was faster.
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
    /// Whether the value belongs to this process, and not to its parent.
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
    fn another_processs_value_is_replaced_and_not_dropped() {
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
