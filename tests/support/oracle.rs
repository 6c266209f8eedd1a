//! An oracle that judges by a limit's definition alone: a full log of admissions, and no algorithm.

use std::time::{Duration, SystemTime};

use ratelimit_runtime::{Algorithm, Limit};

/// One admission.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// When it was admitted, in nanoseconds.
    pub at: u64,
    /// Permits that it took.
    pub cost: u32,
}

/// What flowed back into a token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Back {
    /// The admissions on record before it.
    behind: usize,
    /// In permits, times the nanoseconds of `per`.
    permits: u128,
}

/// All admissions of a bucket, ordered by time, and what was given back of them.
#[derive(Clone, Debug, Default)]
pub struct Log(pub Vec<Entry>, Vec<Back>);

impl Log {
    /// Whether `cost` more permits at `at` satisfy the definition of `limit`. No admission on
    /// record is later than `at`.
    pub fn admits(&self, limit: &Limit, at: u64, cost: u32) -> bool {
        let per = nanos(limit.per());
        let sum = |entries: &mut dyn Iterator<Item = &Entry>| entries.map(|entry| u64::from(entry.cost)).sum::<u64>();
        let (count, burst, cost) = (u64::from(limit.count()), u64::from(limit.burst()), u64::from(cost));
        match limit.algorithm() {
            // No half-open interval of length `per` that ends with this call holds more than
            // `count`.
            Algorithm::SlidingWindow => sum(&mut self.0.iter().filter(|entry| at - entry.at < per)) + cost <= count,
            // No window, counted from the epoch, holds more than `count`.
            Algorithm::FixedWindow if limit.calendar().is_some() => {
                let window = limit.calendar().map(|calendar| calendar.window_at(time(at)));
                let is_in = |entry: &&Entry| window.as_ref().is_some_and(|window| window.contains(&time(entry.at)));
                sum(&mut self.0.iter().filter(is_in)) + cost <= count
            }
            Algorithm::FixedWindow => {
                sum(&mut self.0.iter().filter(|entry| entry.at / per == at / per)) + cost <= count
            }
            // From no admission to this call has more flowed out than the bucket held and what
            // flowed in meanwhile.
            Algorithm::TokenBucket => {
                let mut out = u128::from(cost);
                if out > u128::from(burst) {
                    return false;
                }
                self.0.iter().enumerate().rev().all(|(place, entry)| {
                    out += u128::from(entry.cost);
                    let back = self.1.iter().filter(|back| back.behind > place).map(|back| back.permits).sum::<u128>();
                    let room = u128::from(burst) * u128::from(per) + u128::from(at - entry.at) * u128::from(count);
                    out * u128::from(per) <= room + back
                })
            }
            _ => unreachable!("no other algorithm"),
        }
    }

    /// The first moment from `from` on at which `limit` admits `cost`.
    ///
    /// For a token bucket, a later moment is a whole microsecond if `from` is one. Binary search is
    /// valid because a call that is admitted at one moment is admitted later too, if nothing is
    /// taken meanwhile.
    pub fn earliest(&self, limit: &Limit, from: u64, cost: u32) -> u64 {
        if self.admits(limit, from, cost) {
            return from;
        }
        let grain = if limit.algorithm() == Algorithm::TokenBucket && from.is_multiple_of(1_000) { 1_000 } else { 1 };
        let (mut denied, mut admitted) = (from / grain, u64::MAX / 4 / grain);
        while admitted - denied > 1 {
            let middle = denied + (admitted - denied) / 2;
            if self.admits(limit, middle * grain, cost) { admitted = middle } else { denied = middle }
        }
        admitted * grain
    }

    /// Gives back at `now` what was admitted at `at`. A window forgets it, a bucket gets what has not
    /// flowed back since.
    pub fn give_back(&mut self, limit: &Limit, now: u64, at: u64, cost: u32) {
        let (count, per) = (u128::from(limit.count()), u128::from(nanos(limit.per())));
        if limit.algorithm() == Algorithm::TokenBucket {
            let permits = (u128::from(cost) * per).saturating_sub(u128::from(now.saturating_sub(at)) * count);
            self.1.push(Back { behind: self.0.len(), permits });
            return;
        }
        let mut left = cost;
        for entry in self.0.iter_mut().filter(|entry| entry.at == at) {
            let back = left.min(entry.cost);
            (entry.cost, left) = (entry.cost - back, left - back);
        }
    }

    /// Permits of the sliding window left at `at`.
    pub fn left(&self, limit: &Limit, at: u64) -> u64 {
        let per = nanos(limit.per());
        let taken = self.0.iter().filter(|entry| at - entry.at < per).map(|entry| u64::from(entry.cost)).sum::<u64>();
        u64::from(limit.count()).saturating_sub(taken)
    }
}

/// A time of a clock, from nanoseconds since the Unix epoch.
fn time(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// A duration in nanoseconds.
///
/// # Panics
/// If the duration is longer than 584 years.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}
