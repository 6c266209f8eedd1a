//! What an admitted call gets.

use std::sync::Arc;
use std::time::Duration;

use crate::algorithm::record::Permit;
use crate::backend::memory;
use crate::fingerprint::Fingerprint;
use crate::limit::Limit;

/// A call was admitted.
///
/// It borrows nothing. [`RateLimiter::refund`](crate::RateLimiter::refund) takes it to give its permits back; dropping it
/// keeps them taken.
#[derive(Debug)]
pub struct Decision {
    pub(crate) limit: Limit,
    pub(crate) remaining: u32,
    pub(crate) position: u8,
    /// Nanoseconds.
    pub(crate) reset_after: u64,
    /// Nanoseconds.
    pub(crate) waited: u64,
    pub(crate) taken: Option<Taken>,
}

/// Permits, and where they were taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) place: Place,
    /// The limits of the call, if they were read at the call.
    pub(crate) limits: Option<Box<[Limit]>>,
    /// The limiter that took them.
    pub(crate) limiter: u64,
}

/// Where the permits of a call are.
#[derive(Debug)]
pub(crate) enum Place {
    Memory(Held),
    /// In the limiter's backend.
    Remote(Box<RemoteBucket>),
}

/// Permits in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) address: Address,
    pub(crate) permit: memory::Permit,
    /// How often the bucket had been reset when they were taken.
    pub(crate) resets: u32,
    /// The algorithms that took them.
    pub(crate) kinds: u16,
    /// The store that holds the bucket.
    pub(crate) store: usize,
}

/// Permits in a backend.
#[derive(Debug)]
pub(crate) struct RemoteBucket {
    pub(crate) name: Arc<str>,
    /// By what denials are kept, if they are.
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) permit: Permit,
    /// How often this process had reset the bucket when they were taken.
    pub(crate) resets: u64,
}

/// A bucket in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// The one bucket of a limiter without keys.
    Unkeyed,
    /// The key of this hash.
    Hash(u64),
}

impl Decision {
    /// Permits that were taken.
    pub(crate) fn cost(&self) -> u32 {
        self.taken.as_ref().map_or(0, |taken| match &taken.place {
            Place::Memory(held) => held.permit.cost,
            Place::Remote(bucket) => bucket.permit.cost,
        })
    }

    /// The limit with the fewest permits left, of several.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// Position of [`limit`](Self::limit) among the limiter's limits, from 0.
    pub fn limit_index(&self) -> usize {
        usize::from(self.position)
    }

    /// Permits that limit has left after this call.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// The time until that limit is as if nobody had called, if nobody else calls.
    pub fn reset_after(&self) -> Duration {
        Duration::from_nanos(self.reset_after)
    }

    /// How long the call was made to wait for its permits; zero if it was not.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited)
    }
}
