//! The replay: merges logs in order, lets every candidate decide every call, and builds a report.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit};

use crate::clients::Clients;
use crate::decide::Decisions;
use crate::input::{self, Block, Counts, Log, Progress};
use crate::key::{self, Field};
use crate::ladder::{self, Ladder};
use crate::limit::{self, Candidate};
use crate::measure::{Timeline, quantiles};
use crate::options::Options;
use crate::order::{Call, Order};
use crate::report::{
    CandidateReport, CurvePoint, Demand, LogReport, MostDenied, OrderReport, Quantile, Report, Suggestion,
    TimelineReport, Waits, rfc3339, seconds, share,
};

/// Calls per batch.
const BATCH: usize = 1 << 16;
/// The number of threads for a candidate's ladders.
const SHARDS: u32 = 2;

/// Reads all logs through all candidates.
pub(crate) fn replay(options: &Options, progress: &Arc<Progress>) -> Result<Report, String> {
    let wanted = options.wanted()?;
    let names = if options.logs.is_empty() { vec!["-".to_owned()] } else { options.logs.clone() };
    if names.iter().filter(|name| *name == "-").count() > 1 {
        return Err("standard input can be read once".to_owned());
    }
    let logs =
        names.iter().map(|name| input::open(name, options.format, &wanted, progress)).collect::<Result<Vec<_>, _>>()?;
    let has_columns = logs.iter().any(|log| log.has_columns);
    let key = wanted.key.clone().filter(|_| has_columns);

    let mut replay = Replay::new(options);
    let mut sources: Vec<Source> = logs.into_iter().map(Source::new).collect();
    replay.run(&mut sources);
    replay.report(options, key.as_deref(), wanted.cost.as_ref(), &sources)
}

/// A log, and its current block.
struct Source {
    log: Log,
    block: Block,
    next: usize,
    calls: u64,
    counts: Counts,
    error: Option<String>,
}

impl Source {
    fn new(log: Log) -> Source {
        Source { log, block: Block::default(), next: 0, calls: 0, counts: Counts::default(), error: None }
    }

    /// Waits for the next call and returns its time; none at the end.
    fn peek(&mut self) -> Option<u64> {
        while self.next == self.block.rows.len() {
            if self.block.is_last {
                return None;
            }
            let Ok(mut block) = self.log.blocks.recv() else {
                // A panic, which has printed its own message.
                self.error = Some("was not read to its end: the reading thread stopped".to_owned());
                self.block = Block { is_last: true, ..Block::default() };
                self.next = 0;
                return None;
            };
            self.counts.add(std::mem::take(&mut block.counts));
            self.error = block.error.take().or(self.error.take());
            self.calls += block.rows.len() as u64;
            (self.block, self.next) = (block, 0);
        }
        self.block.rows.get(self.next).map(|row| row.time)
    }
}

/// An independent piece of work over all calls.
enum Work {
    Decisions(Box<Decisions>),
    /// A shard of the ladder with this position.
    Ladder(usize, Ladder),
}

struct Replay {
    clients: Clients,
    order: Order,
    batch: Vec<Call>,
    timeline: Timeline,
    first: u64,
    last: u64,
    calls: u64,
    work: Vec<Mutex<Work>>,
    threads: usize,
    /// The limits of each ladder: the candidates' curves, if any, then the suggestions.
    ladders: Vec<Vec<Candidate>>,
}

impl Replay {
    fn new(options: &Options) -> Replay {
        let max_wait = options.wait.unwrap_or_default();
        let mut work: Vec<Mutex<Work>> = Vec::new();
        for candidate in &options.limits {
            work.push(Mutex::new(Work::Decisions(Box::new(Decisions::new(candidate, max_wait)))));
        }
        let mut ladders: Vec<Vec<Candidate>> = Vec::new();
        if options.wants_curves() {
            for candidate in &options.limits {
                let count = candidate.limits.first().map_or(1, Limit::count);
                ladders.push(
                    ladder::around(count).into_iter().map(|count| ladder::with_count(candidate, count)).collect(),
                );
            }
        }
        for (period, algorithm) in suggested(options) {
            let limit = |count| Limit::try_new(count, period).ok().map(|limit| limit.with_algorithm(algorithm));
            let counts = ladder::round(options.has_costs()).into_iter().filter_map(limit);
            ladders.push(counts.map(|limit| Candidate { limits: vec![limit] }).collect());
        }
        for (position, steps) in ladders.iter().enumerate() {
            for shard in 0..SHARDS {
                work.push(Mutex::new(Work::Ladder(position, Ladder::new(steps, max_wait, (SHARDS, shard)))));
            }
        }
        Replay {
            clients: Clients::default(),
            order: Order::new(u64::try_from(options.window.as_nanos()).unwrap_or(u64::MAX)),
            batch: Vec::new(),
            timeline: Timeline::default(),
            first: 0,
            last: 0,
            calls: 0,
            threads: thread::available_parallelism().map_or(1, usize::from).min(work.len()),
            work,
            ladders,
        }
    }

    fn run(&mut self, sources: &mut [Source]) {
        if let [source] = sources {
            while source.peek().is_some() {
                let rows = source.block.rows.len();
                while source.next < rows {
                    self.take(source);
                }
            }
        } else {
            // Of calls with equal times, the log named first comes first.
            while let Some((_, position)) =
                (0..sources.len()).filter_map(|position| Some((sources[position].peek()?, position))).min()
            {
                self.take(&mut sources[position]);
            }
        }
        self.order.release(true, &mut self.batch);
        self.decide();
        for work in &mut self.work {
            if let Work::Decisions(decisions) = work.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner) {
                decisions.finish();
            }
        }
    }

    /// Takes the next call of a source.
    fn take(&mut self, source: &mut Source) {
        let row = source.block.rows[source.next];
        let start = source.next.checked_sub(1).map_or(0, |before| source.block.rows[before].key_end as usize);
        source.next += 1;
        let client = self.clients.number(row.hash, &source.block.keys[start..row.key_end as usize]);
        self.order.push(Call { time: row.time, client, cost: row.cost });
        if self.order.is_full() {
            self.order.release(false, &mut self.batch);
            if self.batch.len() >= BATCH {
                self.decide();
            }
        }
    }

    /// Runs every piece of work over the batch.
    fn decide(&mut self) {
        let Some((first, last)) = self.batch.first().zip(self.batch.last()) else { return };
        if self.calls == 0 {
            self.first = first.time;
        }
        self.last = last.time;
        self.calls += self.batch.len() as u64;
        for call in &self.batch {
            self.timeline.add(call.time, 1);
        }
        let (calls, clients) = (&self.batch[..], self.clients.len());
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(work) = self.work.get(next.fetch_add(1, Ordering::Relaxed)) {
                match &mut *work.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
                    Work::Decisions(decisions) => decisions.decide(calls, clients),
                    Work::Ladder(_, ladder) => ladder.decide(calls, clients),
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(work);
            }
            work();
        });
        self.batch.clear();
    }

    fn report(
        self,
        options: &Options,
        key: Option<&[Field]>,
        cost: Option<&Field>,
        sources: &[Source],
    ) -> Result<Report, String> {
        let logs: Vec<LogReport> = sources.iter().map(|source| log_report(source, options.anonymize)).collect();
        if self.calls == 0 {
            return Err(nothing_read(&logs));
        }
        let Replay { clients, order, timeline, work, ladders, .. } = self;
        let mut denied_of = vec![Vec::new(); ladders.len()];
        let mut decisions = Vec::new();
        for work in work {
            match work.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
                Work::Decisions(of) => decisions.push(of),
                Work::Ladder(position, ladder) => {
                    let sum: &mut Vec<u64> = &mut denied_of[position];
                    sum.resize(ladders[position].len(), 0);
                    sum.iter_mut().zip(ladder.denied()).for_each(|(sum, denied)| *sum += denied);
                }
            }
        }
        let of_clients = |denied: u64| share(denied, clients.len() as u64);
        let mut curves: Vec<Vec<CurvePoint>> = ladders
            .iter()
            .zip(&denied_of)
            .map(|(steps, denied)| {
                let point = |(step, denied): (&Candidate, &u64)| CurvePoint {
                    count: step.limits.first().map_or(0, Limit::count),
                    clients_denied: *denied,
                    share: of_clients(*denied),
                };
                steps.iter().zip(denied).map(point).collect()
            })
            .collect();
        let suggestions = curves.split_off(if options.wants_curves() { options.limits.len() } else { 0 });
        let suggestions = suggested(options)
            .into_iter()
            .zip(suggestions)
            .map(|(suggested, curve)| suggestion(suggested, &curve, options.suggest.unwrap_or(0.0)))
            .collect();
        curves.resize(options.limits.len(), Vec::new());
        let name = |number: u32| key::label(key, clients.key(number), options.anonymize.then_some(number));
        let candidates = options
            .limits
            .iter()
            .zip(decisions)
            .zip(curves)
            .map(|((candidate, decisions), curve)| {
                candidate_report(candidate, *decisions, curve, options, &clients, &timeline, self.calls, name)
            })
            .collect();
        Ok(Report {
            odd_costs: sources.iter().map(|source| source.counts.odd_costs).sum(),
            logs,
            calls: self.calls,
            from: rfc3339(self.first),
            to: rfc3339(self.last),
            key: key.unwrap_or_default().iter().map(Field::name).collect(),
            cost: cost.map(Field::name),
            max_wait_seconds: options.wait.map(|wait| wait.as_secs_f64()),
            clients: clients.len() as u64,
            order: OrderReport {
                window_seconds: options.window.as_secs_f64(),
                out_of_order: order.reordered,
                too_late: order.late,
            },
            candidates,
            suggestions,
            timeline: TimelineReport {
                start: rfc3339(timeline.start()),
                start_nanos: timeline.start(),
                step_seconds: seconds(timeline.step()),
                calls: timeline.counts().to_vec(),
            },
        })
    }
}

/// The periods and algorithms of suggested limits.
fn suggested(options: &Options) -> Vec<(Duration, Algorithm)> {
    const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];
    if options.suggest.is_none() {
        return Vec::new();
    }
    options.periods().into_iter().flat_map(|period| ALGORITHMS.map(|algorithm| (period, algorithm))).collect()
}

fn suggestion((period, algorithm): (Duration, Algorithm), curve: &[CurvePoint], most: f64) -> Suggestion {
    let found = curve.iter().find(|point| point.share <= most);
    let limit =
        found.and_then(|point| Limit::try_new(point.count, period).ok()).map(|limit| limit.with_algorithm(algorithm));
    let shown = found.or(curve.last());
    Suggestion {
        algorithm: algorithm.name(),
        period_seconds: period.as_secs_f64(),
        limit: limit.map(limit::name),
        clients_denied: shown.map_or(0, |point| point.clients_denied),
        share: shown.map_or(0.0, |point| point.share),
    }
}

fn log_report(source: &Source, anonymize: bool) -> LogReport {
    let Source { log, counts, .. } = source;
    let mut first_unparsed = counts.first_unparsed.clone();
    if anonymize {
        for line in &mut first_unparsed {
            "(not shown: `--anonymize`)".clone_into(&mut line.text);
        }
    }
    LogReport {
        name: log.name.clone(),
        format: log.format,
        compression: log.compression,
        lines: counts.lines,
        calls: source.calls,
        blank: counts.blank,
        headers: counts.headers,
        unparsed: counts.unparsed,
        longer_than_64_kib: counts.too_long,
        first_unparsed,
        error: source.error.clone(),
    }
}

/// Why there is nothing to decide.
fn nothing_read(logs: &[LogReport]) -> String {
    let log = logs.iter().find(|log| log.error.is_some() || log.unparsed > 0).or(logs.first());
    let Some(log) = log else { return "there is no log".to_owned() };
    let name = &log.name;
    match (&log.error, log.first_unparsed.first()) {
        (Some(error), _) => format!("{name} {error}"),
        (None, Some(line)) => format!(
            "{name} has no line of the format {}: of line {}, {}. The formats are: {}",
            log.format,
            line.line,
            line.reason,
            crate::format::FORMATS
        ),
        (None, None) => format!("{name} has no calls, in {} lines", log.lines),
    }
}

/// The quantiles of the permits that well-behaved clients had left. Their lower end matters.
const LEAST: [f64; 5] = [0.01, 0.05, 0.1, 0.25, 0.5];
const DEMAND: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 0.9999];

#[expect(clippy::too_many_arguments, reason = "all that a replay knows, once")]
fn candidate_report(
    candidate: &Candidate,
    decisions: Decisions,
    curve: Vec<CurvePoint>,
    options: &Options,
    clients: &Clients,
    timeline: &Timeline,
    calls: u64,
    name: impl Fn(u32) -> String,
) -> CandidateReport {
    let quantile = |(share, value)| Quantile { share, value };
    let mut denied = Vec::new();
    let mut least = Vec::new();
    for (number, client) in (0_u32..).zip(&decisions.clients) {
        if client.denied > 0 {
            denied.push(number);
        } else {
            least.push(u64::from(client.least_remaining));
        }
    }
    least.sort_unstable();
    let of = |number: u32| &decisions.clients[number as usize];
    let longest = denied.iter().copied().max_by_key(|number| (of(*number).longest_denial, std::cmp::Reverse(*number)));
    let clients_denied = denied.len() as u64;
    // Of equals, the first one that came.
    denied.sort_by_key(|number| std::cmp::Reverse(of(*number).denied));
    let most_denied = denied
        .iter()
        .take(options.top)
        .map(|number| MostDenied {
            client: name(*number),
            calls: clients.calls[*number as usize],
            denied: of(*number).denied,
            longest_denial_seconds: seconds(of(*number).longest_denial),
        })
        .collect();
    let waits = options.wait.map(|_| Waits {
        calls: decisions.waits.count(),
        share: share(decisions.waits.count(), calls),
        median_seconds: seconds(decisions.waits.quantile(0.5)),
        p99_seconds: seconds(decisions.waits.quantile(0.99)),
        longest_seconds: seconds(decisions.waits.largest()),
    });
    CandidateReport {
        limit: candidate.name(),
        denied: decisions.denied,
        denied_share: share(decisions.denied, calls),
        clients_denied,
        clients_denied_share: share(clients_denied, clients.len() as u64),
        most_denied,
        longest_denial_seconds: longest.map_or(0.0, |number| seconds(of(number).longest_denial)),
        longest_denial_client: longest.map(&name),
        least_remaining: quantiles(&least, &LEAST).into_iter().map(quantile).collect(),
        waits,
        peak_keys: decisions.peak as u64,
        denied_over_time: decisions.denials.along(timeline),
        demand: Demand {
            period_seconds: candidate.limits.first().map_or(0.0, |limit| limit.per().as_secs_f64()),
            quantiles: DEMAND.map(|share| Quantile { share, value: decisions.demand.quantile(share) }).to_vec(),
            largest: decisions.demand.largest(),
            histogram: decisions.demand.ranges(),
        },
        curve,
    }
}
