//! The result of an admitted call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::algorithm::record::Permit;
use crate::backend::memory;
use crate::fingerprint::Fingerprint;
use crate::limit::Limit;

/// A call was admitted.
///
/// Borrows nothing. [`RateLimiter::refund`](crate::RateLimiter::refund) gives the permits back;
/// dropping the decision keeps them taken.
///
/// ```
/// use ratelimit_runtime::{Limit, RateLimiter};
///
/// static API: RateLimiter = RateLimiter::new("api", &[Limit::per_minute(10)]);
/// let decision = API.check("alice", 3)?;
/// assert_eq!(decision.remaining(), 7);
/// API.refund(decision)?;
/// assert_eq!(API.check("alice", 10)?.remaining(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// In several buckets, with a key each.
    Each(Box<[Taken]>),
}

/// Permits in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) address: Address,
    pub(crate) permit: memory::Permit,
    /// The bucket's reset count when the permits were taken.
    pub(crate) resets: u32,
    /// The algorithms that took them.
    pub(crate) kinds: u16,
    /// Whether a future took them: they come back by the clock by which they were taken.
    pub(crate) is_async: bool,
    /// The store that holds the bucket.
    pub(crate) store: usize,
}

/// Permits in a remote backend.
#[derive(Debug)]
pub(crate) struct RemoteBucket {
    pub(crate) name: Arc<str>,
    /// The key of the denial cache, if the backend has one.
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) permit: Permit,
    /// This process's count of the bucket's resets when the permits were taken.
    pub(crate) resets: u64,
}

/// A bucket in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Address {
    /// The only bucket of a limiter without keys.
    Unkeyed,
    /// The bucket of the key with this hash.
    Hash(u64),
}

impl Taken {
    /// Permits that were taken, from each bucket.
    pub(crate) fn cost(&self) -> u32 {
        match &self.place {
            Place::Memory(held) => held.permit.cost,
            Place::Remote(bucket) => bucket.permit.cost,
            Place::Each(all) => all.first().map_or(0, Taken::cost),
        }
    }
}

impl Decision {
    /// Of the call's limits, the one with the fewest permits left.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// The position of [`limit`](Self::limit) among the limiter's limits, from 0.
    pub fn limit_index(&self) -> usize {
        usize::from(self.position)
    }

    /// Permits left in that limit after this call.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// How long until that limit is idle again, if no other call comes.
    pub fn reset_after(&self) -> Duration {
        Duration::from_nanos(self.reset_after)
    }

    /// How long the call waited for its permits; zero if it did not.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited)
    }
}

/// What the accessors return. Not where the permits are: the name of a bucket contains the key.
impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("limit", &self.limit)
            .field("limit_index", &self.limit_index())
            .field("remaining", &self.remaining)
            .field("reset_after", &self.reset_after())
            .field("waited", &self.waited())
            .finish_non_exhaustive()
    }
}
