//! What an admitted call gets.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::algorithm::record::Permit;
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
    pub(crate) reset_after: Duration,
    pub(crate) waited: Duration,
    pub(crate) taken: Option<Taken>,
}

/// Permits, and where they were taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) permit: Permit,
    pub(crate) place: Place,
    /// The limits of the call, where they were read at the call; else none.
    pub(crate) limits: SmallVec<[Limit; 1]>,
    /// The limiter that took them, and how often the bucket had been reset by then.
    pub(crate) limiter: (u64, u64),
}

/// Where the bucket of a call is.
#[derive(Debug)]
pub(crate) enum Place {
    Memory(Address),
    /// In the limiter's backend.
    Remote(Box<RemoteBucket>),
}

/// A bucket in a backend.
#[derive(Debug)]
pub(crate) struct RemoteBucket {
    pub(crate) name: Arc<str>,
    /// Where denials are kept: by what.
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// A bucket in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// The one bucket of a limiter without keys.
    Unkeyed,
    /// That of the key of this hash.
    Hash(u64),
}

impl Decision {
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
        self.reset_after
    }

    /// How long the call was made to wait for its permits; zero if it was not.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}
