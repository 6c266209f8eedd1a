//! Removes the rows of idle buckets, a few at a time, after a call that has written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::server::Server;
use super::transaction::{begin, run};
use crate::error::BackendError;

/// Expired rows are removed after this many new ones. More are removed at a time, so the table
/// shrinks back to the rows in use.
const NEW: usize = 200;
/// Expired rows are removed at least this often while calls write.
const PERIOD: Duration = Duration::from_secs(10);
/// The longest time for it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// When to remove rows next.
pub(super) struct Pruning {
    new: AtomicUsize,
    last: Mutex<Instant>,
    is_running: AtomicBool,
}

impl Pruning {
    pub(super) fn new() -> Pruning {
        Pruning { new: AtomicUsize::new(0), last: Mutex::new(Instant::now()), is_running: AtomicBool::new(false) }
    }

    /// Counts `new` rows that a call has inserted, and removes expired ones if it is time. Does not
    /// wait.
    pub(super) fn count(self: &Arc<Self>, server: &Server, new: usize) {
        let made = self.new.fetch_add(new, Ordering::Relaxed) + new;
        if made < NEW && self.last.lock().elapsed() < PERIOD || self.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        self.new.store(0, Ordering::Relaxed);
        *self.last.lock() = Instant::now();
        let (server, running) = (server.clone(), Running(Arc::clone(self)));
        tokio::spawn(async move {
            let deadline = Instant::now() + TIMEOUT;
            drop(prune(&server, deadline).await);
            drop(running);
        });
    }
}

/// Marks the end of a removal, also if its runtime ends first.
struct Running(Arc<Pruning>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Release);
    }
}

/// Removes rows. A failure does no harm: the next run removes them.
async fn prune(server: &Server, deadline: Instant) -> Result<(), BackendError> {
    let begin = begin(None, deadline, false);
    run(server, &format!("{begin};{};COMMIT", server.table.prune()), deadline).await
}
