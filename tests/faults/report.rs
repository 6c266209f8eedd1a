//! The processes' records, checked against the limits.

use std::fmt;
use std::time::Duration;

use ratelimit_tests::{Admission, above};

use crate::limits::{LIMITED, TOTAL};
use crate::servers::Server;
use crate::story::{RECOVERY, Story};
use crate::worker::{ALLOWANCE, Record, TIMEOUT};

/// The figures of one phase.
pub(crate) struct Row {
    name: &'static str,
    faults: u32,
    calls: u64,
    admitted: usize,
    failed: u64,
    /// Admissions above a limit between two losses of data.
    above: u64,
    /// The same as if nothing had been lost, and the excess that the losses allow.
    after_losses: Option<(u64, u64)>,
    /// Permits that are gone although no call can have taken them.
    vanished: u64,
    /// Keys at the end, and how many of them never expire.
    keys: u64,
    eternal: u64,
    longest: Duration,
    late: u64,
    endless: u64,
    overslept: Duration,
    /// The longest time from the end of a fault until the server had decided for each process. None if
    /// it never did.
    back: Option<Duration>,
}

impl Row {
    /// The result of a phase, after which `servers` hold the keys.
    pub(crate) fn new(name: &'static str, records: &[Record], story: &Story, servers: &[&dyn Server]) -> Row {
        let mut row = Row {
            name,
            faults: story.faults,
            calls: records.iter().map(|record| record.calls).sum(),
            admitted: records.iter().flat_map(|record| record.admitted.values()).map(Vec::len).sum(),
            failed: records.iter().map(|record| record.failed).sum(),
            above: 0,
            after_losses: (!story.losses.is_empty()).then_some((0, 0)),
            vanished: 0,
            keys: 0,
            eternal: 0,
            longest: records.iter().map(|record| record.longest).max().unwrap_or_default(),
            late: records.iter().map(|record| record.late).sum(),
            endless: records.iter().map(|record| record.endless).sum(),
            overslept: records.iter().map(|record| record.overslept).max().unwrap_or_default(),
            back: back(records, &story.ends),
        };
        for ((limiter, key), admissions) in all(records) {
            row.judge(limiter, &admissions, &story.losses);
            if limiter == TOTAL && records.iter().any(|record| record.spent.contains(&key)) {
                let vain: u64 = records.iter().filter_map(|record| record.asked_in_vain.get(&key)).sum();
                let known = admissions.len() as u64 + vain;
                row.vanished += u64::from(LIMITED[TOTAL].limits[0].count()).saturating_sub(known);
            }
        }
        for server in servers {
            let (keys, eternal) = server.keys();
            row.keys += keys;
            row.eternal += eternal;
        }
        row
    }

    fn judge(&mut self, limiter: usize, admissions: &[Admission], losses: &[u64]) {
        for limit in LIMITED[limiter].limits {
            let most = above(limit, admissions);
            if let Some((after_losses, allowed)) = &mut self.after_losses {
                *after_losses += most;
                *allowed += losses.len() as u64 * u64::from(limit.capacity());
            }
            for life in 0..=losses.len() {
                let since = life.checked_sub(1).map_or(0, |before| losses[before]);
                let until = losses.get(life).copied().unwrap_or(u64::MAX);
                let is_of = |admission: &&Admission| since < admission.from && admission.from <= until;
                let of_life: Vec<_> = admissions.iter().filter(is_of).copied().collect();
                self.above += above(limit, &of_life);
            }
        }
    }

    /// The longest that a call may take: the deadline, the tolerance, and twice the delay of a
    /// thread that only slept. An asynchronous call is woken by a timer thread and then by its own.
    fn may_take(&self) -> Duration {
        TIMEOUT + ALLOWANCE + 2 * self.overslept
    }

    /// Violations.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut complain =
            |wrong: bool, what: String| complaints.extend(wrong.then_some(format!("{}: {what}", self.name)));
        complain(self.above > 0, format!("{} admissions above a limit while the data was kept", self.above));
        if let Some((after, allowed)) = self.after_losses {
            complain(after > allowed, format!("{after} admissions above after losses that explain {allowed}"));
        }
        complain(self.vanished > 0, format!("{} permits charged that no call asked for", self.vanished));
        complain(self.eternal > 0, format!("{} keys without an expiry", self.eternal));
        complain(self.keys == 0, "no keys: the server decided nothing".to_owned());
        let (longest, may) = (self.longest, self.may_take());
        complain(longest > may, format!("a call took {longest:?} where it may have taken {may:?}"));
        complain(self.endless > 0, format!("{} calls never ended", self.endless));
        match self.back {
            Some(back) => {
                complain(back > RECOVERY + 2 * self.overslept, format!("limits were kept again after {back:?}"));
            }
            None => complain(true, "limits were not kept again after a fault".to_owned()),
        }
        complaints
    }

    pub(crate) const HEAD: &'static str = "| fault | times | calls | admitted | failed by policy | above a limit | charged to no call | never expire | longest call \
         | slept late | back after |\n|---|---|---|---|---|---|---|---|---|---|---|";
}

/// A row of the table.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { name, faults, calls, admitted, failed, above, vanished, keys, eternal, .. } = self;
        write!(f, "| {name} | {faults} | {calls} | {admitted} | {failed} | {above}")?;
        if let Some((after, _)) = self.after_losses {
            write!(f, " ({after} over the losses)")?;
        }
        write!(f, " | {vanished} | {eternal} of {keys} | {} ms", self.longest.as_millis())?;
        if self.late > 0 {
            write!(f, " ({} above {} ms)", self.late, (TIMEOUT + ALLOWANCE).as_millis())?;
        }
        write!(f, " | {} ms | ", self.overslept.as_millis())?;
        match self.back {
            Some(Duration::ZERO) => f.write_str("- |"),
            Some(back) => write!(f, "{} ms |", back.as_millis()),
            None => f.write_str("never |"),
        }
    }
}

/// The admissions of all processes, by limiter and key.
fn all(records: &[Record]) -> impl Iterator<Item = ((usize, u32), Vec<Admission>)> {
    let mut all: std::collections::BTreeMap<_, Vec<_>> = std::collections::BTreeMap::new();
    for (place, admissions) in records.iter().flat_map(|record| &record.admitted) {
        all.entry(*place).or_default().extend(admissions);
    }
    all.into_iter()
}

/// The longest time from the end of a fault until each process was admitted by some limiter.
fn back(records: &[Record], ends: &[u64]) -> Option<Duration> {
    let mut longest = Duration::ZERO;
    for end in ends {
        for record in records {
            let times = record.admitted.values().flatten().map(|admission| admission.from);
            let first = times.filter(|time| time >= end).min()?;
            longest = longest.max(Duration::from_micros(first - end));
        }
    }
    Some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process's admissions by the limit of [`TOTAL`], 200 permits an hour, on key 1.
    fn record(moments: impl Iterator<Item = u64>) -> Record {
        let mut record = Record::default();
        moments.for_each(|moment| record.add(&format!("admitted {TOTAL} 1 {moment} {moment}")));
        record
    }

    fn row(records: &[Record], losses: Vec<u64>) -> Row {
        let mut story = Story::new(Duration::ZERO);
        story.losses = losses;
        Row { keys: 1, ..Row::new("none", records, &story, &[]) }
    }

    #[test]
    fn admissions_of_all_processes_count_together() {
        let row = row(&[record(1..151), record(101..152)], Vec::new());
        assert_eq!((row.above, row.complaints().len()), (1, 1));
    }

    #[test]
    fn a_loss_explains_what_was_admitted_after_it_and_no_more() {
        let records = [record(1..151), record(101..152)];
        let after_loss = row(&records, vec![120]);
        assert_eq!((after_loss.above, after_loss.after_losses), (0, Some((1, 200))));
        assert!(after_loss.complaints().is_empty());
        assert_eq!(row(&[record(1..402)], vec![120]).above, 81);
    }

    #[test]
    fn permits_of_a_key_that_is_spent_were_taken_by_somebody() {
        let mut records = [record(1..150), record(150..190)];
        assert_eq!(row(&records, Vec::new()).vanished, 0, "it is not spent");
        records[0].add("spent 1");
        records[1].add("vain 1 8");
        assert_eq!(row(&records, Vec::new()).vanished, 3);
        records[0].add("vain 1 3");
        assert_eq!(row(&records, Vec::new()).vanished, 0);
    }

    #[test]
    fn each_process_has_to_be_admitted_after_a_fault() {
        let records = [record(1_000..1_150), record(2_000..2_010)];
        assert_eq!(back(&records, &[500, 900]), Some(Duration::from_micros(1_500)));
        assert_eq!(back(&records, &[1_200]), None);
    }
}
