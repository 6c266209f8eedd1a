//! Metrics of the facade `metrics`. The crate's docs list their names.
//!
//! Looking a metric up by its name may take a recorder longer than a decision. So each limiter
//! caches handles, from the first call that finds a recorder. A recorder installed after a
//! limiter's first calls counts from then on.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[cfg(feature = "memcached")]
use metrics::counter;
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit, gauge, histogram,
    with_recorder,
};

use super::BreakerState;
use super::reporting::report;
use crate::error::{BackendError, BackendErrorKind};

const DECISIONS: &str = "ratelimit_decisions_total";
const WAIT: &str = "ratelimit_wait_seconds";
const WAITING: &str = "ratelimit_queue_waiting";
const ABANDONED: &str = "ratelimit_waits_abandoned_total";
const TRACKED_KEYS: &str = "ratelimit_tracked_keys";
const EVICTED_KEYS: &str = "ratelimit_evicted_keys_total";
#[cfg(feature = "memcached")]
const LOST_BUCKETS: &str = "ratelimit_lost_buckets_total";
const LATENCY: &str = "ratelimit_backend_latency_seconds";
const BREAKER: &str = "ratelimit_breaker_state";
const SNAPSHOT: &str = "ratelimit_snapshot_failing";
#[cfg(feature = "configuration")]
const CONFIGURATION: &str = "ratelimit_configuration_failing";

static METADATA: Metadata<'static> = Metadata::new("ratelimit", Level::INFO, Some(module_path!()));

/// The result of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Allowed,
    Denied,
    Failed,
}

const OUTCOMES: [&str; 3] = ["allowed", "denied", "failed"];

/// The metrics of one limiter.
pub(super) struct LimiterMeters {
    /// Indexed by outcome.
    keys: [Key; 3],
    wait: Key,
    waiting: Key,
    abandoned: Key,
    handles: OnceLock<Handles>,
}

struct Handles {
    decisions: [Counter; 3],
    wait: OnceLock<Histogram>,
    waiting: OnceLock<Gauge>,
}

impl LimiterMeters {
    pub(super) fn new(limiter: &str) -> LimiterMeters {
        let limiter = Label::new("limiter", limiter.to_owned());
        let key = |outcome| Key::from_parts(DECISIONS, vec![limiter.clone(), Label::new("outcome", outcome)]);
        LimiterMeters {
            keys: OUTCOMES.map(key),
            wait: Key::from_parts(WAIT, vec![limiter.clone()]),
            waiting: Key::from_parts(WAITING, vec![limiter.clone()]),
            abandoned: Key::from_parts(ABANDONED, vec![limiter.clone()]),
            handles: OnceLock::new(),
        }
    }

    #[inline]
    pub(super) fn count(&self, outcome: Outcome) {
        match self.handles.get() {
            Some(handles) => {
                report(|| handles.decisions[outcome as usize].increment(1));
            }
            None => self.count_first(outcome),
        }
        report_changed();
    }

    /// Counts without cached handles: no recorder has been seen yet.
    #[inline(never)]
    fn count_first(&self, outcome: Outcome) {
        report(|| {
            with_recorder(|recorder| match self.find(recorder) {
                Some(handles) => handles.decisions[outcome as usize].increment(1),
                None => recorder.register_counter(&self.keys[outcome as usize], &METADATA).increment(1),
            });
        });
    }

    fn find(&self, recorder: &dyn Recorder) -> Option<&Handles> {
        is_lasting(recorder).then(|| {
            self.handles.get().unwrap_or_else(|| {
                describe(recorder);
                // Outside the cell's initialization: a recorder may call a limited function, or
                // wait for a thread that does.
                let decisions = self.keys.each_ref().map(|key| recorder.register_counter(key, &METADATA));
                self.handles.get_or_init(|| Handles { decisions, wait: OnceLock::new(), waiting: OnceLock::new() })
            })
        })
    }

    pub(super) fn waits(&self, delay: Duration) {
        let register = |recorder: &dyn Recorder| recorder.register_histogram(&self.wait, &METADATA);
        self.with(|handles| &handles.wait, register, |wait| wait.record(delay));
    }

    /// Changes the number of waiting calls by `more`.
    pub(super) fn queued(&self, more: f64) {
        let register = |recorder: &dyn Recorder| recorder.register_gauge(&self.waiting, &METADATA);
        self.with(|handles| &handles.waiting, register, |waiting| waiting.increment(more));
    }

    pub(super) fn abandoned(&self) {
        report(|| with_recorder(|recorder| recorder.register_counter(&self.abandoned, &METADATA).increment(1)));
    }

    /// Records a metric that few limiters have, whose handle is cached in `cell`.
    fn with<H>(
        &self,
        cell: impl Fn(&Handles) -> &OnceLock<H>,
        register: impl Fn(&dyn Recorder) -> H,
        record: impl Fn(&H),
    ) {
        report(|| {
            with_recorder(|recorder| match self.find(recorder).map(&cell) {
                Some(cell) => record(cell.get().unwrap_or_else(|| {
                    let registered = register(recorder);
                    cell.get_or_init(|| registered)
                })),
                None => record(&register(recorder)),
            });
        });
    }
}

thread_local! {
    /// Whether [`CHANGED`] holds anything. Has no destructor and is read after each decision.
    static IS_CHANGED: Cell<bool> = const { Cell::new(false) };
    /// A memory backend whose number of keys this thread has changed under a lock. Reported after
    /// the lock is released.
    static CHANGED: Cell<Option<Arc<Keys>>> = const { Cell::new(None) };
}

/// The metrics of one memory backend. Several backends add up.
#[derive(Default)]
pub(super) struct KeysMeters {
    keys: Arc<Keys>,
}

#[derive(Default)]
struct Keys {
    handles: OnceLock<(Gauge, Counter)>,
    tracked: AtomicUsize,
    /// This backend's share of the gauge.
    reported: AtomicUsize,
    /// Evictions not yet added to the counter.
    evicted: AtomicU64,
}

impl KeysMeters {
    /// Updates the gauge if it is more than a 64th off: two locked instructions for each new key
    /// are too many.
    #[inline]
    pub(super) fn tracked(&self, keys: usize) {
        let reported = self.keys.reported.load(Ordering::Relaxed);
        if keys.abs_diff(reported) > keys / 64 {
            self.keys.tracked.store(keys, Ordering::Relaxed);
            self.report_soon();
        }
    }

    pub(super) fn evicted(&self) {
        self.keys.evicted.fetch_add(1, Ordering::Relaxed);
        self.report_soon();
    }

    #[inline(never)]
    fn report_soon(&self) {
        // One backend at a time: another one is reported at its next change.
        let _ = CHANGED.try_with(|changed| {
            let first = changed.take().unwrap_or_else(|| Arc::clone(&self.keys));
            changed.set(Some(first));
            IS_CHANGED.set(true);
        });
    }
}

/// A dropped backend keeps no keys.
impl Drop for KeysMeters {
    fn drop(&mut self) {
        if self.keys.reported.load(Ordering::Relaxed) > 0 {
            self.keys.tracked.store(0, Ordering::Relaxed);
            report(|| self.keys.report());
        }
    }
}

/// Reports this thread's changes, now that it holds no lock.
#[inline]
pub(super) fn report_changed() {
    if IS_CHANGED.get() {
        report_keys();
    }
}

#[inline(never)]
fn report_keys() {
    report(|| {
        IS_CHANGED.set(false);
        if let Ok(Some(keys)) = CHANGED.try_with(Cell::take) {
            keys.report();
        }
    });
}

impl Keys {
    fn report(&self) {
        let Some((gauge, counter)) = self.handles() else { return };
        let keys = self.tracked.load(Ordering::Relaxed);
        let reported = self.reported.swap(keys, Ordering::Relaxed);
        // Whole numbers of keys are exact.
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 keys")]
        gauge.increment(keys as f64 - reported as f64);
        match self.evicted.swap(0, Ordering::Relaxed) {
            0 => {}
            evicted => counter.increment(evicted),
        }
    }

    fn handles(&self) -> Option<&(Gauge, Counter)> {
        self.handles.get().or_else(|| {
            let handles = with_recorder(|recorder| {
                is_lasting(recorder).then(|| {
                    let gauge = recorder.register_gauge(&Key::from_static_name(TRACKED_KEYS), &METADATA);
                    (gauge, recorder.register_counter(&Key::from_static_name(EVICTED_KEYS), &METADATA))
                })
            });
            handles.map(|handles| self.handles.get_or_init(|| handles))
        })
    }
}

/// Whether this recorder's handles are worth caching. The facade's no-op recorder has no state, and
/// its handles would stay no-ops for ever. A real recorder without state is looked up each time.
fn is_lasting(recorder: &dyn Recorder) -> bool {
    size_of_val(recorder) > 0
}

pub(super) fn backend_decided(kind: &'static str, took: Duration, result: Result<(), &BackendError>) {
    let result = match result.map_err(BackendError::kind) {
        Ok(()) => "ok",
        Err(BackendErrorKind::Timeout) => "timeout",
        Err(BackendErrorKind::Unreachable) => "unreachable",
        Err(BackendErrorKind::Refused) => "refused",
        Err(BackendErrorKind::Configuration) => "configuration",
    };
    report(|| histogram!(LATENCY, "backend" => kind, "result" => result).record(took));
}

pub(super) fn breaker_changed(kind: &'static str, state: BreakerState) {
    let state = match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    };
    report(|| gauge!(BREAKER, "backend" => kind).set(state));
}

#[cfg(feature = "memcached")]
pub(super) fn bucket_lost(kind: &'static str) {
    report(|| counter!(LOST_BUCKETS, "backend" => kind).increment(1));
}

/// Memory backends that could not be saved.
static UNSAVED: AtomicUsize = AtomicUsize::new(0);

pub(super) fn snapshot_made(is_failing: bool, failed: bool) {
    match (failed, is_failing) {
        (false, true) => _ = UNSAVED.fetch_add(1, Ordering::Relaxed),
        (true, false) => _ = UNSAVED.fetch_sub(1, Ordering::Relaxed),
        _ => {}
    }
    report(|| gauge!(SNAPSHOT).set(i32::from(UNSAVED.load(Ordering::Relaxed) > 0)));
}

#[cfg(feature = "configuration")]
pub(super) fn configured(is_failing: bool) {
    report(|| gauge!(CONFIGURATION).set(i32::from(is_failing)));
}

fn describe(recorder: &dyn Recorder) {
    let name = KeyName::from_const_str;
    let text = SharedString::const_str;
    recorder.describe_gauge(name(SNAPSHOT), None, text("1 while buckets in memory cannot be saved."));
    recorder.describe_counter(name(DECISIONS), Some(Unit::Count), text("Calls, by what became of them."));
    recorder.describe_histogram(name(WAIT), Some(Unit::Seconds), text("Waits of admitted calls for their permits."));
    recorder.describe_gauge(name(WAITING), Some(Unit::Count), text("Calls that wait for their permits."));
    recorder.describe_counter(name(ABANDONED), Some(Unit::Count), text("Calls that were given up while they waited."));
    recorder.describe_gauge(name(TRACKED_KEYS), Some(Unit::Count), text("Keys that this process keeps in memory."));
    recorder.describe_counter(
        name(EVICTED_KEYS),
        Some(Unit::Count),
        text("Keys in use that have made room for others in this process's memory."),
    );
    #[cfg(feature = "memcached")]
    recorder.describe_counter(
        name(LOST_BUCKETS),
        Some(Unit::Count),
        text("Buckets in use that a store has evicted or forgotten."),
    );
    recorder.describe_histogram(name(LATENCY), Some(Unit::Seconds), text("Decisions of remote backends."));
    recorder.describe_gauge(
        name(BREAKER),
        None,
        text("0: the backend works, 1: it is tried again, 2: it fails and is not asked."),
    );
    #[cfg(feature = "configuration")]
    recorder.describe_gauge(name(CONFIGURATION), None, text("1 while a changed document of limits cannot be applied."));
}
