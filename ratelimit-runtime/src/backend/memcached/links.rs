//! The connections to one server: one for each tokio runtime, opened on demand and again after a
//! loss.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};

use super::address::Address;
use super::link::Link;
use crate::error::BackendError;

/// Connections to one server.
pub(super) struct Links {
    pub(super) address: Address,
    /// A connection without a reply for this long is given up.
    patience: Duration,
    slots: Mutex<Vec<(Id, Arc<Slot>)>>,
}

/// A runtime's connection.
#[derive(Default)]
struct Slot {
    current: Mutex<Option<Arc<Link>>>,
    /// Held while a connection is opened, so that only one is.
    opening: tokio::sync::Mutex<()>,
}

impl Links {
    pub(super) fn new(address: Address, patience: Duration) -> Links {
        Links { address, patience, slots: Mutex::default() }
    }

    /// The connection of the current runtime.
    pub(super) async fn get(&self) -> Result<Arc<Link>, BackendError> {
        let slot = self.slot(Handle::current().id());
        if let Some(link) = self.usable(&slot) {
            if !link.is_idle() {
                return Ok(link);
            }
            // A runtime of one thread runs only while something blocks on it. The first turn polls
            // the sockets, the second lets the I/O task see that the server has closed this one.
            for _ in 0..2 {
                tokio::task::yield_now().await;
            }
            if link.is_usable(self.patience) {
                return Ok(link);
            }
        }
        let _opening = slot.opening.lock().await;
        if let Some(link) = self.usable(&slot) {
            return Ok(link);
        }
        let link = Arc::new(Link::open(&self.address).await?);
        *slot.current.lock() = Some(Arc::clone(&link));
        Ok(link)
    }

    fn usable(&self, slot: &Slot) -> Option<Arc<Link>> {
        let link = slot.current.lock().clone()?;
        link.is_usable(self.patience).then_some(link)
    }

    fn slot(&self, runtime: Id) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if let Some((_, slot)) = slots.iter().find(|(id, _)| *id == runtime) {
            return Arc::clone(slot);
        }
        // Connections of runtimes that are gone.
        slots.retain(|(_, slot)| slot.is_opening() || self.usable(slot).is_some());
        let slot = Arc::<Slot>::default();
        slots.push((runtime, Arc::clone(&slot)));
        slot
    }
}

impl Slot {
    fn is_opening(&self) -> bool {
        self.opening.try_lock().is_err()
    }
}
