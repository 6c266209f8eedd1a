//! A full log of admissions, which judges every decision by the limit's definition alone.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit};

use crate::oracle::{Entry, Log, nanos};

pub(crate) struct Judge {
    limit: Limit,
    keys: HashMap<u64, Logs>,
    pub(crate) verdict: Verdict,
}

#[derive(Default)]
struct Logs {
    /// The admissions.
    admitted: Log,
    /// What a full log would have admitted of the same calls.
    exact: Log,
    /// The times of all admissions, for a window that slides over them.
    recent: VecDeque<u64>,
}

/// Numbers of calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) admitted: u64,
    /// What a full log would have admitted of the same calls.
    pub(crate) exact: u64,
    /// Admitted, though the log of admissions had no room.
    pub(crate) over: u64,
    /// Denied, though the log of admissions had room.
    pub(crate) under: u64,
    /// The most that one key was admitted in one period.
    pub(crate) peak: u64,
}

impl Judge {
    pub(crate) fn new(limit: Limit) -> Judge {
        Judge { limit, keys: HashMap::new(), verdict: Verdict::default() }
    }

    pub(crate) fn see(&mut self, key: u64, at: Duration, is_admitted: bool) {
        let (logs, at, per) = (self.keys.entry(key).or_default(), nanos(at), nanos(self.limit.per()));
        for log in [&mut logs.admitted, &mut logs.exact] {
            // By the definition of a window, these no longer count. All of a token bucket's do.
            if self.limit.algorithm() == Algorithm::SlidingWindow {
                let old = log.0.partition_point(|entry| at - entry.at >= per);
                log.0.drain(..old);
            }
        }
        let entry = Entry { at, cost: 1 };
        let has_room = logs.admitted.admits(&self.limit, at, 1);
        if is_admitted {
            logs.admitted.0.push(entry);
            logs.recent.push_back(at);
            while logs.recent.front().is_some_and(|first| at - first >= per) {
                logs.recent.pop_front();
            }
        }
        let is_exactly = logs.exact.admits(&self.limit, at, 1);
        if is_exactly {
            logs.exact.0.push(entry);
        }
        let verdict = &mut self.verdict;
        verdict.admitted += u64::from(is_admitted);
        verdict.exact += u64::from(is_exactly);
        verdict.over += u64::from(is_admitted && !has_room);
        verdict.under += u64::from(!is_admitted && has_room);
        verdict.peak = verdict.peak.max(logs.recent.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decisions on one key, at these seconds.
    fn verdict(algorithm: Algorithm, decisions: &[(u64, bool)]) -> Verdict {
        let mut judge = Judge::new(Limit::new(2, Duration::from_secs(10)).with_algorithm(algorithm));
        for (at, admitted) in decisions {
            judge.see(1, Duration::from_secs(*at), *admitted);
        }
        judge.verdict
    }

    #[test]
    fn exact_decisions_are_neither_over_nor_under() {
        let found = verdict(Algorithm::SlidingWindow, &[(0, true), (9, true), (9, false), (10, true), (10, false)]);
        assert_eq!((found.over, found.under, found.admitted, found.exact, found.peak), (0, 0, 3, 3, 2));
        let found = verdict(Algorithm::TokenBucket, &[(0, true), (0, true), (4, false), (5, true), (9, false)]);
        assert_eq!((found.over, found.under, found.admitted, found.exact, found.peak), (0, 0, 3, 3, 3));
    }

    #[test]
    fn a_third_admission_of_two_is_over() {
        let found = verdict(Algorithm::SlidingWindow, &[(0, true), (1, true), (2, true), (10, false)]);
        assert_eq!((found.over, found.under, found.admitted, found.exact, found.peak), (1, 0, 3, 3, 3));
    }

    #[test]
    fn a_denial_with_room_is_under() {
        let found = verdict(Algorithm::SlidingWindow, &[(0, true), (1, false), (2, false)]);
        assert_eq!((found.over, found.under, found.admitted, found.exact, found.peak), (0, 2, 1, 2, 1));
    }
}
