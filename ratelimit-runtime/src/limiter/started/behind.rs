//! When the turn of a call comes behind others that wait before a backend.
//!
//! One request tells when some of their permits would fit. The rest follows a period, a window or a
//! permit at a time. The result is exact for calls of one cost and one limit, otherwise a lower
//! bound: a call is never denied for a turn that comes later than it would.

use crate::algorithm::Rule;
use crate::limit::{Algorithm, Limit};
use crate::queue::Ahead;

/// The calls ahead of one, and the call itself.
#[derive(Clone, Copy)]
pub(super) struct Behind {
    /// Permits per step.
    step: u32,
    /// The steps until the call is served.
    steps: u64,
    /// The permits that the backend is asked about.
    pub(super) permits: u32,
}

impl Behind {
    pub(super) fn new(limits: &[Limit], ahead: Ahead, cost: u32) -> Behind {
        let (step, steps) = ahead.steps(cost);
        let least = limits.iter().min_by_key(|limit| limit.capacity());
        let (capacity, algorithm) = least.map_or((0, None), |limit| (limit.capacity(), Some(limit.algorithm())));
        let at_once = u64::from(capacity / step.max(1));
        if at_once == 0 || cost > capacity {
            return Behind { step: cost.max(1), steps: 1, permits: cost };
        }
        // A bucket may hold more than the last of these permits, a window does not.
        let permits = match algorithm {
            Some(Algorithm::TokenBucket) => steps.saturating_mul(step.into()).min(capacity.into()),
            _ => ((steps - 1) % at_once + 1) * u64::from(step),
        };
        Behind { step, steps, permits: u32::try_from(permits).unwrap_or(capacity) }
    }

    /// Without so many permits of the calls ahead, which may be booked by now. `None` if nothing
    /// is known of the turn then.
    pub(super) fn without(self, permits: u64) -> Option<Behind> {
        let steps = self.steps.saturating_sub(permits.div_ceil(self.step.into()));
        (steps >= self.asked()).then_some(Behind { steps, ..self })
    }

    /// The steps that the backend was asked about.
    fn asked(self) -> u64 {
        self.permits.div_ceil(self.step).into()
    }

    /// When the call's turn comes, if the limit at `position` admits the permits asked for `at`
    /// that time, and no limit before `now`.
    pub(super) fn turn(self, limits: &[Limit], at: u64, position: usize, now: u64) -> u64 {
        let longest = limits.iter().map(|limit| self.turn_by(limit, now)).max().unwrap_or(now);
        limits.get(position).map_or(at, |limit| self.turn_by(limit, at)).max(longest)
    }

    /// The same by one limit, which admits the permits asked for no earlier than `at`.
    fn turn_by(self, limit: &Limit, at: u64) -> u64 {
        let Behind { step, steps, .. } = self;
        let periods = || (steps - self.asked()) / u64::from(limit.capacity() / step).max(1);
        match limit.algorithm() {
            // By then it is full at best. In whole microseconds, to which the backend has rounded up.
            Algorithm::TokenBucket => {
                let more = steps.saturating_mul(step.into()).saturating_sub(limit.burst().into());
                let later = u128::from(more) * u128::from(limit.per_micros()) / u128::from(limit.count().max(1));
                at.saturating_add(u64::try_from(later).unwrap_or(u64::MAX).saturating_mul(1_000))
            }
            Algorithm::SlidingWindow => at.saturating_add(periods().saturating_mul(limit.per_nanos())),
            Algorithm::FixedWindow => match periods() {
                0 => at,
                windows => Rule::remembered(limit)[0].begin_after(at, windows),
            },
        }
    }
}
