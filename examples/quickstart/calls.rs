//! A record of calls, and the check that a limit was kept.

use std::fmt;
use std::time::Duration;

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The limit admitted it.
    Allowed,
    /// The limit denied it.
    Denied,
    /// The limiter's backend could not decide.
    Failed,
}

/// One call: its outcome, and two moments between which it was decided.
///
/// Only the limiter knows when it decided: after the call began and before it returned. Both
/// moments count from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Not later than the decision.
    pub(crate) before: Duration,
    /// Not earlier than the decision.
    pub(crate) after: Duration,
    /// The result.
    pub(crate) outcome: Outcome,
}

/// An interval and the number of admissions that it certainly held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fullest {
    /// The start of the interval.
    pub(crate) from: Duration,
    /// The number of admissions.
    pub(crate) admitted: usize,
}

/// All calls of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallLog {
    calls: Vec<Call>,
}

impl CallLog {
    /// Adds a call, in any order.
    pub(crate) fn push(&mut self, call: Call) {
        self.calls.push(call);
    }

    /// The number of calls.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The number of calls with this outcome.
    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.calls.iter().filter(|call| call.outcome == outcome).count()
    }

    /// The fullest half-open interval `[from, from + length)`, wherever it starts, by the
    /// admissions that it certainly held.
    ///
    /// Of a set of admissions, the first decision is not before the earliest `before`, and the last
    /// is not after the latest `after`. If these two are less than `length` apart, so are the
    /// decisions, and some interval held them all. Otherwise the decisions may have been a whole
    /// `length` apart, and nothing is proved. So for each admission's `before`, it is enough to
    /// count the admissions that began and returned less than `length` later.
    ///
    /// A limit that is kept never fails this check. An exceeded limit is detected if the decisions
    /// in question lie within less than `length` minus twice the time of the longest call.
    pub(crate) fn fullest(&self, length: Duration) -> Fullest {
        let mut admitted: Vec<_> = self.calls.iter().filter(|call| call.outcome == Outcome::Allowed).collect();
        admitted.sort_unstable_by_key(|call| call.before);
        let mut fullest = Fullest::default();
        for (position, first) in admitted.iter().enumerate() {
            let end = first.before + length;
            let begun = admitted[position..].iter().take_while(|call| call.before < end);
            let within = begun.filter(|call| call.after < end).count();
            if within > fullest.admitted {
                fullest = Fullest { from: first.before, admitted: within };
            }
        }
        fullest
    }
}

/// The calls of each second, by when they began, and of the whole run.
impl fmt::Display for CallLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, title: &str, calls: &[Call]| {
            let count = |outcome| calls.iter().filter(|call| call.outcome == outcome).count();
            writeln!(f, "{title:>6}  {:>7}  {:>7}", count(Outcome::Allowed), count(Outcome::Denied))
        };
        let second = |call: &Call| call.before.as_secs();
        let mut calls = self.calls.clone();
        calls.sort_unstable_by_key(|call| call.before);
        writeln!(f, "{:>6}  {:>7}  {:>7}", "second", "allowed", "denied")?;
        for calls in calls.chunk_by(|a, b| second(a) == second(b)) {
            row(f, &(second(&calls[0]) + 1).to_string(), calls)?;
        }
        row(f, "all", &calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn log(admissions: impl IntoIterator<Item = (u64, u64)>) -> CallLog {
        let call = |(before, after)| Call {
            before: Duration::from_millis(before),
            after: Duration::from_millis(after),
            outcome: Outcome::Allowed,
        };
        CallLog { calls: admissions.into_iter().map(call).collect() }
    }

    #[test]
    fn an_interval_counts_wherever_it_starts() {
        // Ten late in the first second and ten early in the next: never more than ten between two
        // full seconds.
        let log = log((0..20).map(|n| (900 + 10 * n, 901 + 10 * n)));
        assert_eq!(log.fullest(SECOND), Fullest { from: Duration::from_millis(900), admitted: 20 });
    }

    #[test]
    fn an_interval_is_half_open() {
        assert_eq!(log([(0, 0), (1_000, 1_000)]).fullest(SECOND).admitted, 1);
        assert_eq!(log([(0, 0), (999, 999)]).fullest(SECOND).admitted, 2);
    }

    #[test]
    fn only_certain_admissions_count() {
        // The second may have been decided at 1.002 s, a second after the first.
        assert_eq!(log([(0, 2), (998, 1_002)]).fullest(SECOND).admitted, 1);
    }

    #[test]
    fn overlapping_calls_of_processes_may_come_in_any_order() {
        assert_eq!(log([(500, 510), (0, 600), (495, 505)]).fullest(SECOND).admitted, 3);
        // The long call may have been decided last.
        assert_eq!(log([(10, 20), (0, 1_000), (995, 999)]).fullest(SECOND).admitted, 2);
    }

    #[test]
    fn denied_calls_are_no_admissions() {
        let mut log = log([(0, 1)]);
        log.push(Call { before: SECOND, after: SECOND, outcome: Outcome::Denied });
        log.push(Call { before: SECOND, after: SECOND, outcome: Outcome::Failed });
        assert_eq!(log.fullest(SECOND * 9).admitted, 1);
        assert_eq!([Outcome::Allowed, Outcome::Denied, Outcome::Failed].map(|outcome| log.count(outcome)), [1; 3]);
    }

    #[test]
    fn the_table_has_a_row_for_each_second() {
        let mut log = log([(0, 1), (999, 1_000), (1_000, 1_001)]);
        log.push(Call { before: SECOND, after: SECOND, outcome: Outcome::Denied });
        let rows = [
            "second  allowed   denied",
            "     1        2        0",
            "     2        1        1",
            "   all        3        1",
        ];
        assert_eq!(log.to_string(), rows.map(|row| format!("{row}\n")).concat());
    }
}
