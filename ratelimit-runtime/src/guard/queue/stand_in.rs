//! The bucket in memory that takes over if the backend fails. The queue enters its calls there one
//! after the other, so they keep their order whichever is polled first.

use std::sync::Arc;

use crate::backend::memory::{Ask, Call, Hold, Joining, Store, Waiter};
use crate::decision::Address;
use crate::queue::{Limits, Place};
use crate::rt::clock::Now;

pub(crate) struct StandIn {
    pub(crate) store: Arc<Store>,
    /// The crate's timer must charge the call when it is due.
    pub(crate) by_timer: bool,
}

/// A place in the queue in memory.
pub(crate) struct HandedOver {
    pub(crate) waiter: Waiter,
    limits: Arc<dyn Limits>,
}

impl StandIn {
    /// Whether calls are handed over to the same buckets in the same way.
    pub(super) fn is(&self, other: &StandIn) -> bool {
        self.by_timer == other.by_timer && Arc::ptr_eq(&self.store, &other.store)
    }

    /// Enters a call. `None` if it cannot wait there.
    pub(super) fn take_over(
        &self,
        address: Address,
        limits: &Arc<dyn Limits>,
        Place { rank, cost, .. }: Place,
        (arrived, deadline): (u64, u64),
        now: Now,
    ) -> Option<HandedOver> {
        let StandIn { ref store, by_timer } = *self;
        let joining = Joining::new(limits, arrived, deadline, usize::MAX, rank, by_timer).handed_over();
        let mut joined = None;
        with_ask(&**limits, store, cost, |ask| joined = store.join(address, ask, now, &joining).err());
        joined.map(|waiter| HandedOver { waiter, limits: Arc::clone(limits) })
    }
}

impl HandedOver {
    /// Gives the place up.
    pub(super) fn leave(self, now: Now) {
        let HandedOver { waiter, limits, .. } = self;
        with_ask(&*limits, waiter.store(), waiter.place().cost, |ask| waiter.leave(ask, now));
    }
}

fn with_ask(limits: &dyn Limits, store: &Store, cost: u32, mut f: impl FnMut(&Ask<'_>)) {
    limits.with(&mut |rules, backoff| {
        let call = Call { rules, backoff, cost, floor: Hold::NONE };
        f(&Ask { call, is_foreign: !store.is_for(rules) });
    });
}
