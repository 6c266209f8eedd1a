//! One of the processes: threads and tasks that call limited functions until its standard input
//! closes. It then reports the outcomes.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ratelimit_runtime::backend::{Answer, Backend, BackendFuture, Deadline, Outcome, Request};
use ratelimit_runtime::{
    BackendError, Decision, ExceededKind, IntoBackend, MemcachedBackend, OnBackendError, PostgresBackend,
    RateLimitExceeded, RateLimiter, RedisBackend, SharedBackend,
};
use ratelimit_tests::Admission;

use crate::limits::{KEYS, LIMITED, TOTAL};

/// The deadline of a decision, which is the default.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(100);
/// The tolerance above that.
pub(crate) const ALLOWANCE: Duration = Duration::from_millis(20);
const THREADS: u64 = 2;
const TASKS: u64 = 16;
/// The pause between two calls of one caller. It leaves the processors idle time, so that a late
/// call is the server's fault.
const PAUSE: Duration = Duration::from_millis(10);
/// The same for PostgreSQL, which decides less often in its share of the processors.
const LONG_PAUSE: Duration = Duration::from_millis(40);
/// A call that takes longer than this after the end of the run never ends.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a process leases, if it does: permits, and for how long.
const LEASE: (u32, Duration) = (100, Duration::from_millis(50));

/// The outcomes of the calls of one process, or of all.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// By limiter and key.
    pub(crate) admitted: HashMap<(usize, u32), Vec<Admission>>,
    pub(crate) calls: u64,
    /// Calls for which no server decided.
    pub(crate) failed: u64,
    /// Of those, calls on [`TOTAL`] that reached a server, by key: they may have been charged.
    pub(crate) asked_in_vain: HashMap<u32, u64>,
    /// Used-up keys of [`TOTAL`].
    pub(crate) spent: HashSet<u32>,
    pub(crate) longest: Duration,
    /// Calls that took longer than allowed.
    pub(crate) late: u64,
    /// Calls that never ended.
    pub(crate) endless: u64,
    /// The largest delay of a thread that only sleeps.
    pub(crate) overslept: Duration,
}

/// Runs the process on the server of a URL, with leases if the arguments say `lease`.
pub(crate) fn run(url: &str, arguments: &[String]) {
    let leases = arguments == ["lease"];
    let calls = Arc::new(Calls::new(url, leases));
    // Connected before the first call counts.
    while calls.limiters[TOTAL].peek(0_u32, 1).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("ready");
    std::io::stdout().flush().unwrap();
    for caller in 0..THREADS {
        let calls = Arc::clone(&calls);
        std::thread::spawn(move || {
            for turn in calls.turns(caller) {
                let begun = Begun::now();
                let result = calls.limiters[turn.limiter].check(turn.key, 1);
                calls.ended(&turn, &begun, &result);
                std::thread::sleep(calls.pause);
            }
            calls.callers.fetch_sub(1, Ordering::Release);
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for task in 0..TASKS {
        let calls = Arc::clone(&calls);
        runtime.spawn(async move {
            for turn in calls.turns(THREADS + task) {
                let begun = Begun::now();
                let result = calls.limiters[turn.limiter].check_async(turn.key, 1).await;
                calls.ended(&turn, &begun, &result);
                tokio::time::sleep(calls.pause).await;
            }
            calls.callers.fetch_sub(1, Ordering::Release);
        });
    }
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    let sleeper = Arc::clone(&calls);
    std::thread::spawn(move || sleeper.oversleep());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    calls.over.store(true, Ordering::Relaxed);
    let end = Instant::now() + PATIENCE;
    while calls.callers.load(Ordering::Acquire) > 0 && Instant::now() < end {
        std::thread::sleep(PAUSE);
    }
    let mut record = calls.record.lock().unwrap_or_else(PoisonError::into_inner);
    record.endless = calls.callers.load(Ordering::Acquire);
    // The remaining threads end with the process.
    print!("{}", record.write());
}

struct Calls {
    limiters: Vec<RateLimiter>,
    leases: bool,
    /// Between two calls of one caller.
    pause: Duration,
    over: AtomicBool,
    /// Threads and tasks that call.
    callers: AtomicU64,
    /// The key of [`TOTAL`] that has permits left.
    total: AtomicU32,
    overslept: AtomicU64,
    record: Mutex<Record>,
}

struct Turn {
    limiter: usize,
    key: u32,
}

struct Begun {
    /// By the clock that all on this machine share.
    at: u64,
    started: Instant,
}

impl Begun {
    fn now() -> Begun {
        Begun { at: unix_micros(), started: Instant::now() }
    }
}

impl Calls {
    fn new(url: &str, leases: bool) -> Calls {
        let backend: SharedBackend = match url.split_once("://").unwrap().0 {
            "postgres" => {
                Recorder(PostgresBackend::builder().url(url).timeout(TIMEOUT).build().unwrap()).into_backend()
            }
            "memcached" => {
                Recorder(MemcachedBackend::builder().url(url).timeout(TIMEOUT).build().unwrap()).into_backend()
            }
            _ => {
                let builder = RedisBackend::builder().url(url).timeout(TIMEOUT);
                let builder = if leases { builder.lease(LEASE.0, LEASE.1) } else { builder };
                Recorder(builder.build().unwrap()).into_backend()
            }
        };
        let limiters = LIMITED.iter().map(|limited| {
            let builder = RateLimiter::builder(limited.name).backend(backend.clone());
            let builder = limited.limits.iter().fold(builder, |builder, limit| builder.limit(*limit));
            builder.on_backend_error(OnBackendError::Deny).build().unwrap()
        });
        Calls {
            limiters: limiters.collect(),
            leases,
            pause: if url.starts_with("postgres") { LONG_PAUSE } else { PAUSE },
            over: AtomicBool::new(false),
            callers: AtomicU64::new(THREADS + TASKS),
            total: AtomicU32::new(0),
            overslept: AtomicU64::new(0),
            record: Mutex::default(),
        }
    }

    /// A caller's calls until the end: the limiters in turn, and the keys of each.
    fn turns(&self, caller: u64) -> impl Iterator<Item = Turn> + '_ {
        let turn = move |number: u64| {
            let limiter = usize::try_from(number).unwrap() % LIMITED.len();
            let key = match limiter {
                TOTAL => self.total.load(Ordering::Relaxed),
                _ => u32::try_from(number).unwrap() / u32::try_from(LIMITED.len()).unwrap() % KEYS,
            };
            Turn { limiter, key }
        };
        (caller..).map(turn).take_while(|_| !self.over.load(Ordering::Relaxed))
    }

    fn ended(&self, turn: &Turn, begun: &Begun, result: &Result<Decision, RateLimitExceeded>) {
        let (took, noted) = (begun.started.elapsed(), NOTED.take());
        let is_total = turn.limiter == TOTAL;
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.calls += 1;
        record.longest = record.longest.max(took);
        record.late += u64::from(took > TIMEOUT + ALLOWANCE);
        record.overslept = Duration::from_micros(self.overslept.load(Ordering::Relaxed));
        match result.as_ref().map_err(RateLimitExceeded::kind) {
            Ok(_) => {
                let admission = match noted {
                    // Leased permits are spent here, at some time during the call.
                    _ if self.leases => Admission { from: begun.at, to: unix_micros() },
                    Noted::Admitted(at) => Admission::at(at),
                    _ => panic!("admitted, and the server did not say so"),
                };
                record.admitted.entry((turn.limiter, turn.key)).or_default().push(admission);
            }
            Err(ExceededKind::BackendFailed) => {
                record.failed += 1;
                if is_total && matches!(noted, Noted::Failed) {
                    *record.asked_in_vain.entry(turn.key).or_default() += 1;
                }
            }
            Err(_) if is_total => {
                // Leased permits are taken from the key, and may never be spent.
                if !self.leases {
                    record.spent.insert(turn.key);
                }
                self.total.fetch_max(turn.key + 1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    /// Measures how late the system wakes a thread that only sleeps.
    fn oversleep(&self) {
        let nap = Duration::from_millis(1);
        while !self.over.load(Ordering::Relaxed) {
            let start = Instant::now();
            std::thread::sleep(nap);
            let late = u64::try_from(start.elapsed().saturating_sub(nap).as_micros()).unwrap();
            self.overslept.fetch_max(late, Ordering::Relaxed);
        }
    }
}

fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap()
}

thread_local! {
    /// The backend's last answer on this thread. The limiter returns it in the same poll.
    static NOTED: Cell<Noted> = const { Cell::new(Noted::Nothing) };
}

#[derive(Clone, Copy, Default)]
enum Noted {
    /// It was not asked.
    #[default]
    Nothing,
    /// By the server's clock, in microseconds.
    Admitted(u64),
    Denied,
    Failed,
}

/// A backend, with a record of the times of its admissions, which limiters do not report.
struct Recorder<B>(B);

fn noted(answer: Result<Answer, BackendError>) -> Result<Answer, BackendError> {
    NOTED.set(match &answer {
        Ok(Answer { outcome: Outcome::Admitted(admitted), .. }) => Noted::Admitted(admitted.at().as_nanos() / 1_000),
        Ok(_) => Noted::Denied,
        Err(_) => Noted::Failed,
    });
    answer
}

impl<B: Backend> Backend for Recorder<B> {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        noted(self.0.decide(request))
    }

    fn decide_async<'a>(&'a self, request: &'a Request) -> Option<BackendFuture<'a>> {
        let decided = self.0.decide_async(request)?;
        Some(Box::pin(async move { noted(decided.await) }))
    }

    fn decide_later(&self, request: Request) {
        self.0.decide_later(request);
    }

    fn deadline(&self) -> Deadline {
        self.0.deadline()
    }

    fn denial_cache(&self) -> bool {
        self.0.denial_cache()
    }

    fn kind(&self) -> &'static str {
        self.0.kind()
    }
}

impl Record {
    /// As lines for [`add`](Record::add).
    fn write(&self) -> String {
        let mut lines = String::new();
        for ((limiter, key), admissions) in &self.admitted {
            for admission in admissions {
                writeln!(lines, "admitted {limiter} {key} {} {}", admission.from, admission.to).unwrap();
            }
        }
        for (key, calls) in &self.asked_in_vain {
            writeln!(lines, "vain {key} {calls}").unwrap();
        }
        for key in &self.spent {
            writeln!(lines, "spent {key}").unwrap();
        }
        let (longest, overslept) = (self.longest.as_micros(), self.overslept.as_micros());
        writeln!(lines, "calls {} {} {longest} {overslept}", self.calls, self.failed).unwrap();
        writeln!(lines, "late {} {}", self.late, self.endless).unwrap();
        lines
    }

    /// Adds a line of another process.
    pub(crate) fn add(&mut self, line: &str) {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let numbers: Vec<u64> = words.map(|word| word.parse().expect("numbers")).collect();
        let small = |number: u64| u32::try_from(number).expect("a small number");
        match (kind, numbers.as_slice()) {
            ("admitted", [limiter, key, from, to]) => {
                let place = (usize::try_from(*limiter).expect("a small number"), small(*key));
                self.admitted.entry(place).or_default().push(Admission { from: *from, to: *to });
            }
            ("vain", [key, calls]) => *self.asked_in_vain.entry(small(*key)).or_default() += calls,
            ("spent", [key]) => {
                self.spent.insert(small(*key));
            }
            ("calls", [calls, failed, longest, overslept]) => {
                self.calls += calls;
                self.failed += failed;
                self.longest = self.longest.max(Duration::from_micros(*longest));
                self.overslept = self.overslept.max(Duration::from_micros(*overslept));
            }
            ("late", [late, endless]) => {
                self.late += late;
                self.endless += endless;
            }
            _ => panic!("a process said: {line}"),
        }
    }
}
