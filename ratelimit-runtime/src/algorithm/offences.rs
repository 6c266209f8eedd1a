//! Penalties: denials of a key block it, each for longer than the one before (exponential backoff),
//! or one for a fixed time (a ban).

use std::time::Duration;

use crate::rt::clock::nanos;

/// How long a denial blocks its key: `initial`, doubled by each further denial, up to `max`.
/// `max` without a denial resets it. The attribute's `backoff(..)` and the builder's
/// [`backoff`](crate::RateLimiterBuilder::backoff) set it; a [`Backend`](crate::Backend) reads it from
/// [`Request::backoff`](crate::backend::Request::backoff).
///
/// A [`ban`](Backoff::ban) is the other kind: one denial blocks the key for a fixed time, and
/// denials during it change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    /// The same in nanoseconds.
    initial_nanos: u64,
    max_nanos: u64,
    is_ban: bool,
}

impl Backoff {
    /// The first denial blocks for `time`. Calls during that time do not prolong it. The limits
    /// judge the next call anew.
    pub const fn ban(time: Duration) -> Backoff {
        Backoff { is_ban: true, ..Backoff::new(time, time) }
    }

    /// Whether it is a [`ban`](Backoff::ban).
    pub const fn is_ban(&self) -> bool {
        self.is_ban
    }

    /// Blocks for `initial`, doubled by each further denial up to `max`. A `max` below `initial`
    /// counts as `initial`.
    pub const fn new(initial: Duration, max: Duration) -> Backoff {
        let max = if max.as_nanos() < initial.as_nanos() { initial } else { max };
        Backoff { initial, max, initial_nanos: nanos(initial), max_nanos: nanos(max), is_ban: false }
    }

    /// The block after the first denial.
    pub const fn initial(&self) -> Duration {
        self.initial
    }

    /// The longest block, and the time without a denial that resets it.
    pub const fn max(&self) -> Duration {
        self.max
    }
}

/// The penalties of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offences {
    pub(crate) count: u32,
    /// When the last denial was.
    pub(crate) last: u64,
    /// When the block ends.
    pub(crate) until: u64,
}

impl Offences {
    /// Resets the penalties after `max` without a denial.
    pub(crate) fn trim(&mut self, backoff: &Backoff, now: u64) {
        if self.count > 0 && now >= self.fresh_at(backoff) {
            *self = Offences::default();
        }
    }

    /// Whether the key is banned at `now`.
    pub(crate) fn are_banned(&self, backoff: &Backoff, now: u64) -> bool {
        backoff.is_ban && self.count > 0 && self.until > now
    }

    /// Records a denial at `now`.
    pub(crate) fn deny(&mut self, backoff: &Backoff, now: u64) {
        if self.are_banned(backoff, now) {
            return;
        }
        let doublings = self.count.min(63);
        let block = backoff.initial_nanos.saturating_mul(1 << doublings).min(backoff.max_nanos);
        self.count = self.count.saturating_add(1);
        self.last = now;
        self.until = now.saturating_add(block);
    }

    pub(crate) fn fresh_at(&self, backoff: &Backoff) -> u64 {
        if self.count == 0 { 0 } else { self.last.saturating_add(backoff.max_nanos) }
    }

    pub(crate) fn shift_back(&mut self, by: u64) {
        self.last = self.last.saturating_sub(by);
        self.until = self.until.saturating_sub(by);
    }
}
