//! The connections to one server: one for each tokio runtime, and one for blocking calls. They are
//! opened on demand and again after a loss.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};

use super::address::Address;
use super::lane::Lane;
use super::link::{Failure, Link};
use crate::error::BackendError;
use crate::rt::background;
use crate::rt::timer;

/// Connections to one server. A cheap handle.
#[derive(Clone)]
pub(super) struct Links(Arc<Shared>);

struct Shared {
    address: Address,
    /// The longest time to open a connection.
    timeout: Duration,
    /// A connection without a reply for this long is given up.
    patience: Duration,
    slots: Mutex<Vec<(Id, Arc<Slot>)>>,
    lane: Mutex<Option<Lane>>,
}

/// A runtime's connection.
#[derive(Default)]
struct Slot {
    current: Mutex<Option<Arc<Link>>>,
    /// Held while a connection is opened, so that only one is.
    opening: tokio::sync::Mutex<()>,
}

impl Links {
    pub(super) fn new(address: Address, timeout: Duration, patience: Duration) -> Links {
        let (slots, lane) = Default::default();
        Links(Arc::new(Shared { address, timeout, patience, slots, lane }))
    }

    /// Makes a call over the connection for lone blocking calls. `None` if another call has it.
    pub(super) fn with_lane<T>(
        &self,
        deadline: Instant,
        call: impl FnOnce(&Lane) -> Result<T, Failure>,
    ) -> Option<Result<T, Failure>> {
        let mut lane = self.0.lane.try_lock()?;
        // Taken out while it is used, so that a call that panics drops it.
        let current = lane.take().filter(|lane| lane.begin(deadline));
        let opened = || Lane::open(self.address(), deadline).map_err(Failure::Lost);
        let current = match current.map_or_else(opened, Ok) {
            Ok(current) => current,
            Err(failure) => return Some(Err(failure)),
        };
        let result = call(&current);
        *lane = Some(current);
        Some(result)
    }

    pub(super) fn address(&self) -> &Address {
        &self.0.address
    }

    /// The connection of the current runtime.
    pub(super) async fn get(&self) -> Result<Arc<Link>, BackendError> {
        let runtime = Handle::current().id();
        let slot = self.slot(runtime);
        if let Some(link) = self.usable(&slot) {
            // The background thread polls its sockets all the time, and serves callers that block.
            let is_polled = || background::handle().is_ok_and(|background| background.id() == runtime);
            if !link.is_idle() || is_polled() {
                return Ok(link);
            }
            // A runtime of one thread runs only while something blocks on it. The first turn polls
            // the sockets, the second lets the I/O task see that the server has closed this one.
            for _ in 0..2 {
                tokio::task::yield_now().await;
            }
            if link.is_usable(self.0.patience) {
                return Ok(link);
            }
        }
        // A task, because other calls wait for it, and this one may not be polled.
        let (links, until) = (self.clone(), Instant::now() + self.0.timeout);
        let opened = tokio::spawn(async move {
            let opened = Box::pin(links.open(&slot));
            timer::bounded(opened, until).await.unwrap_or_else(|| Err(links.address().late()))
        });
        opened.await.unwrap_or_else(|_| Err(self.address().unreachable("the runtime was shut down")))
    }

    async fn open(&self, slot: &Slot) -> Result<Arc<Link>, BackendError> {
        let _opening = slot.opening.lock().await;
        if let Some(link) = self.usable(slot) {
            return Ok(link);
        }
        let link = Arc::new(Link::open(self.address()).await?);
        *slot.current.lock() = Some(Arc::clone(&link));
        Ok(link)
    }

    fn usable(&self, slot: &Slot) -> Option<Arc<Link>> {
        let link = slot.current.lock().clone()?;
        link.is_usable(self.0.patience).then_some(link)
    }

    fn slot(&self, runtime: Id) -> Arc<Slot> {
        let mut slots = self.0.slots.lock();
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
