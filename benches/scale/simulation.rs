//! The runs of the fleet, and their tables.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ratelimit_runtime::{Algorithm, Limit};

use crate::chart::{grouped, percent};
use crate::fleet::{Choice, Outcomes, Site};
use crate::node::thousands;
use crate::traffic::{self, EXPONENTS, Traffic, weights};
use crate::{row, table};

const SECOND: Duration = Duration::from_secs(1);
const PROCESSES: usize = 100;
/// Calls a second of all processes.
pub(crate) const RATE: f64 = 50_000.0;
pub(crate) const RATES: [f64; 3] = [5_000.0, 50_000.0, 500_000.0];
const FLEETS: [usize; 3] = [4, 20, PROCESSES];

/// One run.
struct Run {
    limit: Limit,
    choice: Choice,
    traffic: Traffic,
    outcome: Outcomes,
}

/// All runs.
pub(crate) struct Simulated(Vec<Run>);

/// The limits with their names.
pub(crate) fn limits() -> [(&'static str, Limit); 5] {
    [
        ("10 per 1 s", Limit::new(10, SECOND)),
        ("100 per 1 s", usual()),
        ("100 per 1 s, `token_bucket`", usual().with_algorithm(Algorithm::TokenBucket)),
        ("1,000 per 1 s", Limit::new(1_000, SECOND)),
        ("500 per 5 s", Limit::new(500, 5 * SECOND)),
    ]
}

/// The limits for which numbers of processes are compared.
fn longer() -> [(&'static str, Limit); 2] {
    let [_, second, _, _, five] = limits();
    [second, five]
}

/// The limits whose admissions are judged.
fn judged() -> [(&'static str, Limit); 2] {
    let [_, window, token, ..] = limits();
    [window, token]
}

/// The limit of the tables that compare something else.
pub(crate) fn usual() -> Limit {
    Limit::new(100, SECOND)
}

pub(crate) fn run() -> Simulated {
    traffic::check();
    let (jobs, runs) = (Mutex::new(jobs()), Mutex::new(Vec::new()));
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
    std::thread::scope(|scope| {
        // A caller and its server take turns: together they keep one core busy.
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let site = Site::new();
                while let Some((limit, choice, traffic)) = next() {
                    let started = Instant::now();
                    let outcome = site.run(choice, limit, traffic);
                    eprintln!("{choice:?} {limit:?} {traffic:?}: {outcome:?} in {:.1?}", started.elapsed());
                    let run = Run { limit, choice, traffic, outcome };
                    runs.lock().unwrap_or_else(PoisonError::into_inner).push(run);
                }
            });
        }
    });
    let simulated = Simulated(runs.into_inner().unwrap_or_else(PoisonError::into_inner));
    simulated.saved();
    simulated.by_rate();
    simulated.by_processes();
    simulated.accuracy();
    simulated
}

/// The runs that the tables show, each once.
fn jobs() -> Vec<(Limit, Choice, Traffic)> {
    let mut jobs = Vec::new();
    let mut add = |limit, choice, traffic| {
        if !jobs.contains(&(limit, choice, traffic)) {
            jobs.push((limit, choice, traffic));
        }
    };
    for choice in [Choice::DenialCache, Choice::Leases] {
        for exponent in EXPONENTS {
            for (_, limit) in limits() {
                add(limit, choice, traffic(exponent, RATE, limit));
            }
        }
        for rate in RATES {
            add(usual(), choice, traffic(1.0, rate, usual()));
        }
    }
    for processes in FLEETS {
        for (_, limit) in longer() {
            add(limit, Choice::Leases, Traffic { processes, ..traffic(1.0, RATE, limit) });
        }
    }
    for exponent in EXPONENTS {
        for (_, limit) in judged() {
            for choice in Choice::ALL {
                add(limit, choice, traffic(exponent, RATE, limit));
            }
        }
    }
    jobs
}

/// Three seconds of calls, or one period and a fifth; at the highest rate, one and a half.
fn traffic(exponent: f64, rate: f64, limit: Limit) -> Traffic {
    let seconds = if rate > RATE { 1.5 } else { (limit.per().as_secs_f64() * 1.2).max(3.0) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of calls")]
    let calls = (rate * seconds) as usize;
    Traffic { exponent, rate, calls, processes: PROCESSES }
}

fn share(number: u64, of: u64) -> String {
    percent(number as f64 / of.max(1) as f64)
}

impl Simulated {
    /// The share of calls that need the server.
    pub(crate) fn asked(&self, limit: Limit, choice: Choice, exponent: f64, rate: f64) -> f64 {
        let outcome = self.outcome(limit, choice, traffic(exponent, rate, limit));
        outcome.asked as f64 / outcome.calls as f64
    }

    /// Admissions as a share of those of a full log.
    pub(crate) fn admitted(&self, limit: Limit, choice: Choice, exponent: f64) -> f64 {
        let verdict = self.outcome(limit, choice, traffic(exponent, RATE, limit)).verdict;
        verdict.admitted as f64 / verdict.exact as f64
    }

    fn outcome(&self, limit: Limit, choice: Choice, traffic: Traffic) -> Outcomes {
        let is_it = |run: &&Run| run.limit == limit && run.choice == choice && run.traffic == traffic;
        self.0.iter().find(is_it).expect("a run of `jobs`").outcome
    }

    fn saved(&self) {
        table(
            "What is saved: 100 processes, 50,000 calls a second, 10,000,000 keys",
            &[
                "exponent (hottest key)",
                "limit",
                "calls",
                "denied by a full log",
                "denial cache: asked",
                "saved: denials",
                "leases: asked",
                "saved: admissions",
                "saved: denials",
            ],
        );
        for exponent in EXPONENTS {
            let hottest = percent(weights(exponent)[0]);
            for (name, limit) in limits() {
                let traffic = traffic(exponent, RATE, limit);
                let cache = self.outcome(limit, Choice::DenialCache, traffic);
                let leases = self.outcome(limit, Choice::Leases, traffic);
                row(&[
                    format!("{exponent:.1} ({hottest})"),
                    name.to_owned(),
                    grouped(cache.calls),
                    share(cache.calls - cache.verdict.exact, cache.calls),
                    share(cache.asked, cache.calls),
                    share(cache.denied_here, cache.calls),
                    share(leases.asked, leases.calls),
                    share(leases.leased, leases.calls),
                    share(leases.denied_here, leases.calls),
                ]);
            }
        }
    }

    fn by_rate(&self) {
        table(
            "By the rate of calls: 100 processes, exponent 1.0, 100 per 1 s",
            &["calls a second", "calls", "denied by a full log", "denial cache: asked", "leases: asked"],
        );
        for rate in RATES {
            let traffic = traffic(1.0, rate, usual());
            let outcome = |choice| self.outcome(usual(), choice, traffic);
            let (cache, leases) = (outcome(Choice::DenialCache), outcome(Choice::Leases));
            row(&[
                thousands(rate),
                grouped(cache.calls),
                share(cache.calls - cache.verdict.exact, cache.calls),
                share(cache.asked, cache.calls),
                share(leases.asked, leases.calls),
            ]);
        }
    }

    fn by_processes(&self) {
        table(
            "By the number of processes: 50,000 calls a second, exponent 1.0, leases",
            &["processes", "limit", "asked", "saved: admissions", "saved: denials", "admitted, of a full log's"],
        );
        for processes in FLEETS {
            for (name, limit) in longer() {
                let traffic = Traffic { processes, ..traffic(1.0, RATE, limit) };
                let outcome = self.outcome(limit, Choice::Leases, traffic);
                row(&[
                    processes.to_string(),
                    name.to_owned(),
                    share(outcome.asked, outcome.calls),
                    share(outcome.leased, outcome.calls),
                    share(outcome.denied_here, outcome.calls),
                    share(outcome.verdict.admitted, outcome.verdict.exact),
                ]);
            }
        }
    }

    fn accuracy(&self) {
        table(
            "What is admitted: 100 processes, 50,000 calls a second, 150,000 calls",
            &[
                "exponent",
                "limit",
                "choice",
                "admitted, of a full log's",
                "over: admitted without room",
                "under: denied with room",
                "most of one key in a period",
            ],
        );
        for exponent in EXPONENTS {
            for (name, limit) in judged() {
                let traffic = traffic(exponent, RATE, limit);
                for choice in Choice::ALL {
                    let outcome = self.outcome(limit, choice, traffic);
                    let verdict = outcome.verdict;
                    row(&[
                        format!("{exponent:.1}"),
                        name.to_owned(),
                        choice.name().to_owned(),
                        share(verdict.admitted, verdict.exact),
                        share(verdict.over, outcome.calls),
                        share(verdict.under, outcome.calls),
                        grouped(verdict.peak),
                    ]);
                }
            }
        }
    }
}
