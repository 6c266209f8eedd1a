//! By how much admissions exceed a limit, judged by the limit's definition from their times alone.

use std::cmp::Reverse;

use ratelimit_runtime::{Algorithm, Limit};

use crate::oracle::nanos;

/// An admission at some moment from `from` to `to`, in microseconds since the Unix epoch. Both are
/// equal if the deciding clock reported the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Not before this.
    pub from: u64,
    /// Not after this.
    pub to: u64,
}

impl Admission {
    /// An admission at a known moment.
    pub fn at(moment: u64) -> Admission {
        Admission { from: moment, to: moment }
    }
}

/// [`above`] of admissions at known moments, in microseconds.
pub fn above_at(limit: &Limit, moments: &[u64]) -> u64 {
    above(limit, &moments.iter().copied().map(Admission::at).collect::<Vec<_>>())
}

/// By how many permits the worst interval exceeds `limit`, if each admission took one permit.
/// Counts only admissions that certainly lie in the interval: a result other than 0 proves that the
/// limit was exceeded.
pub fn above(limit: &Limit, admissions: &[Admission]) -> u64 {
    let mut latest_first = admissions.to_vec();
    latest_first.sort_unstable_by_key(|admission| Reverse(admission.from));
    // The latest times of the admissions that did not precede the current one.
    let mut ends = Vec::with_capacity(latest_first.len());
    let mut most = 0;
    for admission in latest_first {
        let place = ends.partition_point(|end| *end < admission.to);
        ends.insert(place, admission.to);
        most = most.max(above_from(limit, admission.from, &ends));
    }
    most
}

/// The same for intervals that begin at `start`, and for admissions not before it.
fn above_from(limit: &Limit, start: u64, ends: &[u64]) -> u64 {
    let (count, per) = (u64::from(limit.count()), nanos(limit.per()) / 1_000);
    let before = |end: u64| ends.partition_point(|made| *made < end) as u64;
    match limit.algorithm() {
        // No half-open interval of length `per` holds more than `count`.
        Algorithm::SlidingWindow => before(start + per).saturating_sub(count),
        // No window, counted from the epoch, holds more than `count`.
        Algorithm::FixedWindow => before((start / per + 1) * per).saturating_sub(count),
        // No more flows out than the bucket held and what flowed in meanwhile.
        Algorithm::TokenBucket => {
            let burst = u64::from(limit.burst());
            let out = ends.iter().zip(1_u64..);
            out.map(|(end, out)| out.saturating_sub(burst + (end - start) * count / per)).max().unwrap_or(0)
        }
        _ => unreachable!("no other algorithm"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limit(algorithm: Algorithm) -> Limit {
        Limit::new(2, Duration::from_micros(10)).with_algorithm(algorithm)
    }

    fn above_at(algorithm: Algorithm, moments: &[u64]) -> u64 {
        super::above_at(&limit(algorithm), moments)
    }

    #[test]
    fn an_interval_of_the_period_holds_count_wherever_it_starts() {
        assert_eq!(above_at(Algorithm::SlidingWindow, &[]), 0);
        assert_eq!(above_at(Algorithm::SlidingWindow, &[3, 5, 13, 15, 23]), 0);
        assert_eq!(above_at(Algorithm::SlidingWindow, &[3, 5, 12]), 1);
        assert_eq!(above_at(Algorithm::SlidingWindow, &[12, 3, 5, 5, 40, 41, 42]), 2);
        assert_eq!(above_at(Algorithm::SlidingWindow, &[7, 7, 7]), 1);
    }

    #[test]
    fn a_fixed_window_holds_count() {
        assert_eq!(above_at(Algorithm::FixedWindow, &[8, 9, 10, 11]), 0);
        assert_eq!(above_at(Algorithm::FixedWindow, &[8, 9, 10, 11, 19]), 1);
    }

    #[test]
    fn a_token_bucket_gives_burst_and_what_has_flowed_in() {
        assert_eq!(above_at(Algorithm::TokenBucket, &[0, 0, 5, 10, 15]), 0);
        assert_eq!(above_at(Algorithm::TokenBucket, &[0, 0, 4]), 1);
        assert_eq!(above_at(Algorithm::TokenBucket, &[0, 0, 5, 10, 14]), 1);
    }

    #[test]
    fn uncertain_admissions_do_not_count() {
        let between = |from, to| Admission { from, to };
        let two = [between(0, 4), between(3, 9)];
        for (third, expected) in [(between(5, 9), 1), (between(5, 10), 0), (between(9, 12), 0)] {
            assert_eq!(above(&limit(Algorithm::SlidingWindow), &[two[0], two[1], third]), expected, "{third:?}");
        }
        assert_eq!(above(&limit(Algorithm::FixedWindow), &[two[0], two[1], between(9, 10)]), 0);
        assert_eq!(above(&limit(Algorithm::TokenBucket), &[between(0, 0), between(0, 0), between(1, 5)]), 0);
        assert_eq!(above(&limit(Algorithm::TokenBucket), &[between(0, 0), between(0, 0), between(1, 4)]), 1);
    }
}
