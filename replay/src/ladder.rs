//! For each of up to 64 counts, finds the clients that it would ever deny, in one pass.
//!
//! A count is done with a client after the first denial. Until then it has admitted all calls, so
//! counts share a bucket if their states do not depend on the count. That holds for all counts of a
//! fixed window, and for sliding windows with the same group size. A count that holds all permits
//! requested since the client was idle cannot deny it, and needs no bucket yet. The client's calls
//! are recorded, and replayed into a new bucket when one is needed.

use std::time::Duration;

use ratelimit_runtime::backend::{Bucket, Outcome, Timestamp};
use ratelimit_runtime::{Algorithm, Limit};

use crate::decide::Requests;
use crate::limit::Candidate;
use crate::order::Call;

/// The most counts: one bit each.
pub(crate) const MOST: usize = 64;
/// Recorded calls per client. With more, every count gets a bucket.
const KEPT: usize = 64;

/// The counts to try, and the clients of one shard.
#[derive(Debug)]
pub(crate) struct Ladder {
    /// Sorted from the lowest to the highest count.
    rungs: Vec<Rung>,
    /// First and last rung of each class, whose rungs share a state.
    classes: Vec<(usize, usize)>,
    /// How long after a client's last call all its buckets are idle.
    idle_after: u64,
    /// Divisor and remainder: this ladder decides the clients whose number has this remainder.
    shard: (u32, u32),
    clients: Vec<Client>,
    /// Calls since the last search for idle clients.
    calls: usize,
}

#[derive(Debug)]
struct Rung {
    requests: Requests,
    /// Permits that fit at the same time.
    capacity: u64,
}

#[derive(Clone, Debug, Default)]
struct Client {
    /// One bit for each rung that has denied the client.
    denied: u64,
    last: u64,
    /// Permits requested since the client was idle.
    permits: u64,
    /// Calls since the client was idle. Empty once every class has a bucket.
    kept: Vec<(u64, u32)>,
    /// A bucket for each class that needs one.
    buckets: Vec<Option<Box<Bucket>>>,
}

impl Ladder {
    /// A ladder over limits that differ only in their count.
    pub(crate) fn new(steps: &[Candidate], max_wait: Duration, shard: (u32, u32)) -> Ladder {
        let rungs: Vec<Rung> = steps
            .iter()
            .take(MOST)
            .map(|step| Rung {
                requests: Requests::new(&step.limits, max_wait),
                capacity: step.limits.iter().map(|limit| u64::from(limit.capacity())).min().unwrap_or(0),
            })
            .collect();
        let mut classes: Vec<(usize, usize)> = Vec::new();
        for rung in 0..rungs.len() {
            match classes.last_mut() {
                // Bookings depend on the count.
                Some((_, last)) if max_wait.is_zero() && share_state(&steps[*last], &steps[rung]) => *last = rung,
                _ => classes.push((rung, rung)),
            }
        }
        let longest = steps.iter().flat_map(|step| &step.limits).map(|limit| idle_after(*limit)).max().unwrap_or(0);
        let max_wait = u64::try_from(max_wait.as_nanos()).unwrap_or(u64::MAX);
        Ladder { rungs, classes, idle_after: longest.saturating_add(max_wait), shard, clients: Vec::new(), calls: 0 }
    }

    /// Tries calls in order, from clients with numbers below `clients`.
    pub(crate) fn decide(&mut self, calls: &[Call], clients: usize) {
        let (shards, remainder) = self.shard;
        self.clients.resize_with(clients.div_ceil(shards as usize).max(self.clients.len()), Client::default);
        for call in calls.iter().filter(|call| call.client % shards == remainder && call.cost > 0) {
            let Ladder { rungs, classes, clients, .. } = self;
            let client = &mut clients[(call.client / shards) as usize];
            if call.time.saturating_sub(client.last) >= self.idle_after {
                client.forget();
            }
            client.last = call.time;
            client.call(rungs, classes, call.time, call.cost);
            self.calls += 1;
        }
        // Amortized: one look per call. States of idle clients are dropped soon.
        if self.calls >= self.clients.len()
            && let Some(last) = calls.last()
        {
            self.calls = 0;
            for client in &mut self.clients {
                if last.time.saturating_sub(client.last) >= self.idle_after {
                    client.forget();
                }
            }
        }
    }

    /// For each count, the number of clients that it has denied.
    pub(crate) fn denied(&self) -> Vec<u64> {
        let denied = |rung: usize| self.clients.iter().filter(|client| client.denied & (1 << rung) != 0).count() as u64;
        (0..self.rungs.len()).map(denied).collect()
    }
}

impl Client {
    /// Drops the record of calls that no longer matter.
    fn forget(&mut self) {
        self.permits = 0;
        self.kept = Vec::new();
        self.buckets = Vec::new();
    }

    fn call(&mut self, rungs: &[Rung], classes: &[(usize, usize)], time: u64, cost: u32) {
        let all = if rungs.len() == MOST { u64::MAX } else { (1 << rungs.len()) - 1 };
        if self.denied == all {
            return;
        }
        let was_all = !self.buckets.is_empty() && self.kept.is_empty();
        self.permits += u64::from(cost);
        let catch_up_all = !was_all && self.kept.len() == KEPT;
        let lowest =
            (0..rungs.len()).find(|rung| self.denied & (1 << rung) == 0).map_or(0, |rung| rungs[rung].capacity);
        if !self.buckets.is_empty() || catch_up_all || self.permits > lowest {
            self.buckets.resize(classes.len(), None);
            for (class, &(first, last)) in classes.iter().enumerate() {
                let Some(alive) = (first..=last).find(|rung| self.denied & (1 << rung) == 0) else {
                    self.buckets[class] = None;
                    continue;
                };
                if self.buckets[class].is_none() {
                    if !was_all && !catch_up_all && self.permits <= rungs[alive].capacity {
                        continue;
                    }
                    let mut bucket = Box::<Bucket>::default();
                    for &(time, cost) in &self.kept {
                        step(&mut bucket, &rungs[first..=last], first, &mut self.denied, time, cost);
                    }
                    self.buckets[class] = Some(bucket);
                }
                if let Some(bucket) = &mut self.buckets[class] {
                    step(bucket, &rungs[first..=last], first, &mut self.denied, time, cost);
                }
            }
        }
        if self.denied == all {
            self.forget();
        } else if catch_up_all {
            self.kept = Vec::new();
        } else if !was_all {
            self.kept.push((time, cost));
        }
    }
}

/// Makes a call of the lowest count that has admitted all others; if it is denied, of the next
/// count.
fn step(bucket: &mut Bucket, rungs: &[Rung], first: usize, denied: &mut u64, time: u64, cost: u32) {
    for (position, rung) in rungs.iter().enumerate() {
        let bit = 1 << (first + position);
        if *denied & bit != 0 {
            continue;
        }
        match bucket.apply(&rung.requests.of(cost), Timestamp::from_nanos(time)).outcome {
            Outcome::Denied(_) => *denied |= bit,
            _ => return,
        }
    }
}

/// Whether two candidates have the same state after calls that both admit.
fn share_state(one: &Candidate, other: &Candidate) -> bool {
    one.limits.iter().zip(&other.limits).all(|(one, other)| match one.algorithm() {
        Algorithm::FixedWindow => true,
        Algorithm::SlidingWindow => one.count().div_ceil(64) == other.count().div_ceil(64),
        _ => one == other,
    })
}

/// The longest time after its last call until a bucket of a limit is idle.
fn idle_after(limit: Limit) -> u64 {
    let per = u64::try_from(limit.per().as_nanos()).unwrap_or(u64::MAX);
    match limit.algorithm() {
        // Rates are rounded down by at most 2⁻¹⁹.
        Algorithm::TokenBucket => {
            let full = u128::from(per) * u128::from(limit.burst()) / u128::from(limit.count().max(1));
            u64::try_from(full + full / 100_000 + 1_000_000).unwrap_or(u64::MAX)
        }
        // The windows of a calendar can be a little longer than usual.
        Algorithm::FixedWindow if limit.calendar().is_some() => per.saturating_add(2 * 86_400_000_000_000),
        _ => per,
    }
}

/// Counts around one: up to 64 from a tenth of it to ten times as much, itself among them.
pub(crate) fn around(count: u32) -> Vec<u32> {
    let (low, high) = ((count / 10).max(1), count.saturating_mul(10));
    let (low_log, high_log) = (f64::from(low).ln(), f64::from(high).ln());
    let steps = MOST - 1;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two counts")]
    let at = |step: usize| (low_log + (high_log - low_log) * step as f64 / (steps - 1) as f64).exp().round() as u32;
    let mut counts: Vec<u32> = (0..steps).map(at).map(|at| at.clamp(low, high)).chain([count]).collect();
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// Round counts, from 1 on. Costs such as bytes need larger counts, and so wider steps.
pub(crate) fn round(with_costs: bool) -> Vec<u32> {
    let digits: &[u64] = if with_costs { &[10, 15, 20, 30, 50, 75] } else { &[10, 12, 15, 20, 25, 30, 40, 50, 60, 80] };
    let decades = (0..10).map(|power| 10_u64.pow(power));
    let counts = decades.flat_map(|decade| digits.iter().map(move |digit| digit * decade));
    let whole = counts.filter(|tenths| tenths % 10 == 0).map(|tenths| tenths / 10);
    whole.filter_map(|count| u32::try_from(count).ok()).take(MOST).collect()
}

/// The candidate with another count in its first limit. A burst equal to the count changes with it.
pub(crate) fn with_count(candidate: &Candidate, count: u32) -> Candidate {
    let mut moved = candidate.clone();
    if let Some(limit) = moved.limits.first_mut() {
        let other = match limit.calendar() {
            Some(calendar) => Limit::try_per_calendar(count.max(1), calendar),
            None => Limit::try_new(count.max(1), limit.per()),
        };
        let mut other = other.unwrap_or(*limit).with_algorithm(limit.algorithm());
        if limit.algorithm() == Algorithm::TokenBucket && limit.burst() != limit.count() {
            other = other.try_with_burst(limit.burst()).unwrap_or(other);
        }
        *limit = other;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Decisions;
    use proptest::prelude::*;

    /// How many clients each count denies, by a separate run.
    fn one_by_one(steps: &[Candidate], max_wait: Duration, calls: &[Call], clients: usize) -> Vec<u64> {
        let denied = |step: &Candidate| {
            let mut decisions = Decisions::new(step, max_wait);
            decisions.decide(calls, clients);
            decisions.clients.iter().filter(|client| client.denied > 0).count() as u64
        };
        steps.iter().map(denied).collect()
    }

    proptest! {
        #[test]
        fn a_ladder_denies_whom_each_count_by_itself_denies(
            limit in prop_oneof![
                Just("50/1s"), Just("300/2s"), Just("40/1s fixed_window"), Just("30/1s token_bucket"),
                Just("20/1s token_bucket burst 35"), Just("40/1s+70/3s"), Just("90/700ms + 20/300ms token_bucket"),
            ],
            gaps in prop::collection::vec((0_u64..40, 0_u32..3, prop_oneof![9 => Just(1_u32), 1 => 0_u32..200]), 1..300),
            pauses in prop::collection::vec(0_usize..300, 0..4),
            max_wait in prop_oneof![3 => Just(0_u64), 1 => 1_u64..1_500],
        ) {
            let candidate = Candidate::parse(limit).expect("a limit");
            let steps: Vec<Candidate> =
                around(candidate.limits[0].count()).into_iter().map(|count| with_count(&candidate, count)).collect();
            let max_wait = Duration::from_millis(max_wait);
            let mut time = 1_700_000_000_000;
            let mut calls = Vec::new();
            for (position, (gap, client, cost)) in gaps.into_iter().enumerate() {
                time += gap * gap / 30 + if pauses.contains(&position) { 5_000 } else { 0 };
                calls.push(Call { time: time * 1_000_000, client, cost });
            }
            let mut denied = vec![0; steps.len()];
            for remainder in 0..2 {
                let mut ladder = Ladder::new(&steps, max_wait, (2, remainder));
                // In pieces, as a log is read.
                for piece in calls.chunks(100) {
                    ladder.decide(piece, 3);
                }
                denied.iter_mut().zip(ladder.denied()).for_each(|(sum, more)| *sum += more);
            }
            prop_assert_eq!(denied, one_by_one(&steps, max_wait, &calls, 3));
        }
    }

    #[test]
    fn counts_surround_the_limit_and_are_at_most_64() {
        for count in [1, 2, 7, 64, 100, 10_000, u32::MAX] {
            let counts = around(count);
            assert!(counts.len() <= MOST && counts.contains(&count), "{counts:?}");
            assert!(counts.is_sorted_by(|one, other| one < other));
        }
        for with_costs in [false, true] {
            let counts = round(with_costs);
            assert!(counts.len() <= MOST && counts.is_sorted_by(|one, other| one < other), "{counts:?}");
            assert_eq!(counts[..2], [1, 2]);
        }
    }
}
