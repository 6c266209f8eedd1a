//! Distributions and curves over time in bounded memory.

use serde::Serialize;

/// A histogram. Bins are at most 1/16 of their values wide; below 16 each value has its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    bins: Vec<u64>,
    count: u64,
    largest: u64,
}

const SUB_BITS: u32 = 4;
const SUB: u64 = 1 << SUB_BITS;

impl Histogram {
    pub(crate) fn record(&mut self, value: u64) {
        let bin = Histogram::bin(value);
        if bin >= self.bins.len() {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += 1;
        self.count += 1;
        self.largest = self.largest.max(value);
    }

    fn bin(value: u64) -> usize {
        let bin = if value < SUB {
            value
        } else {
            let exponent = value.ilog2() - SUB_BITS;
            u64::from(exponent) * SUB + (value >> exponent)
        };
        // At most 61 × 16.
        usize::try_from(bin).unwrap_or(usize::MAX)
    }

    /// The smallest number of a bin.
    fn floor(bin: usize) -> u64 {
        let bin = bin as u64;
        if bin < 2 * SUB {
            return bin;
        }
        let exponent = bin / SUB - 1;
        (SUB + bin % SUB) << exponent
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn largest(&self) -> u64 {
        self.largest
    }

    /// The number that is greater than or equal to `share` of all numbers, up to the width of a bin
    /// above it.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bin, count) in self.bins.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return (Histogram::floor(bin + 1) - 1).min(self.largest);
            }
        }
        self.largest
    }

    /// The non-empty bins: from, to (inclusive), count.
    pub(crate) fn ranges(&self) -> Vec<Range> {
        let range = |(bin, count): (usize, &u64)| Range {
            from: Histogram::floor(bin),
            to: (Histogram::floor(bin + 1) - 1).min(self.largest),
            count: *count,
        };
        self.bins.iter().enumerate().filter(|(_, count)| **count > 0).map(range).collect()
    }
}

/// The number of values in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Range {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) count: u64,
}

/// Counts over time, in at most [`Timeline::MOST`] steps. When full, the steps double in length.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    /// The length of a step in nanoseconds. Steps are aligned to the epoch, so that timelines of
    /// one step length match.
    step: u64,
    /// The first step's number since the epoch.
    first: u64,
    counts: Vec<u64>,
}

impl Default for Timeline {
    fn default() -> Timeline {
        Timeline { step: 1_000_000, first: 0, counts: Vec::new() }
    }
}

impl Timeline {
    pub(crate) const MOST: usize = 256;

    /// Counts `number` at `time`, which is never earlier than the first.
    pub(crate) fn add(&mut self, time: u64, number: u64) {
        if self.counts.is_empty() {
            self.first = time / self.step;
        }
        let mut position = (time / self.step).saturating_sub(self.first);
        while position >= Timeline::MOST as u64 {
            self.widen();
            position = (time / self.step).saturating_sub(self.first);
        }
        let position = usize::try_from(position).unwrap_or(0);
        if position >= self.counts.len() {
            self.counts.resize(position + 1, 0);
        }
        self.counts[position] += number;
    }

    fn widen(&mut self) {
        let odd = usize::from(self.first % 2 == 1);
        let mut wider = vec![0; self.counts.len() / 2 + 1];
        for (position, count) in self.counts.iter().enumerate() {
            wider[usize::midpoint(position, odd)] += count;
        }
        (self.step, self.first, self.counts) = (self.step * 2, self.first / 2, wider);
    }

    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// The time at which the first step begins.
    pub(crate) fn start(&self) -> u64 {
        self.first * self.step
    }

    /// These counts in the steps of `all`, from its first to its last. For timelines that count a
    /// part of it.
    pub(crate) fn along(mut self, all: &Timeline) -> Vec<u64> {
        let mut counts = vec![0; all.counts.len()];
        if self.counts.is_empty() {
            return counts;
        }
        while self.step < all.step {
            self.widen();
        }
        let offset = usize::try_from(self.first.saturating_sub(all.first)).unwrap_or(0);
        for (position, count) in self.counts.iter().enumerate() {
            if let Some(sum) = counts.get_mut(offset + position) {
                *sum += count;
            }
        }
        counts
    }

    pub(crate) fn counts(&self) -> &[u64] {
        &self.counts
    }
}

/// The value at each of `shares` of a sorted list, from its start.
pub(crate) fn quantiles<T: Copy>(sorted: &[T], shares: &[f64]) -> Vec<(f64, T)> {
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    let position = |share: f64| ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1).min(last);
    shares.iter().filter_map(|share| Some((*share, *sorted.get(position(*share))?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quantile_is_at_most_a_bin_above_the_exact_one(mut values in prop::collection::vec(0_u64..1 << 40, 1..200), share in 0.01_f64..1.0) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.record(*value);
            }
            values.sort_unstable();
            let exact = quantiles(&values, &[share])[0].1;
            let read = histogram.quantile(share);
            prop_assert!(exact <= read && read <= exact + exact / 16, "{exact} {read}");
            prop_assert_eq!(histogram.ranges().iter().map(|range| range.count).sum::<u64>(), values.len() as u64);
            for range in histogram.ranges() {
                let within = values.iter().filter(|value| (range.from..=range.to).contains(value)).count();
                prop_assert_eq!(range.count, within as u64);
            }
        }

        #[test]
        fn a_timeline_loses_nothing(mut times in prop::collection::vec(0_u64..1 << 50, 1..300)) {
            times.sort_unstable();
            let (mut all, mut some) = (Timeline::default(), Timeline::default());
            for (position, time) in times.iter().enumerate() {
                all.add(*time, 1);
                if position % 3 == 1 {
                    some.add(*time, 1);
                }
            }
            prop_assert!(all.counts().len() <= Timeline::MOST);
            prop_assert!(all.start() <= times[0]);
            let step = |time: u64| usize::try_from((time - all.start()) / all.step()).expect("small");
            let mut expected = vec![0; all.counts().len()];
            let mut expected_some = expected.clone();
            for (position, time) in times.iter().enumerate() {
                expected[step(*time)] += 1;
                expected_some[step(*time)] += u64::from(position % 3 == 1);
            }
            prop_assert_eq!(all.counts(), &expected[..]);
            prop_assert_eq!(some.along(&all), expected_some);
        }
    }
}
