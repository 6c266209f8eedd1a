//! Events and metrics of the circuit breaker and of backend decisions.

#[cfg(feature = "tracing")]
use std::fmt::{self, Write as _};
#[cfg(feature = "tracing")]
use std::sync::{Arc, Mutex};
#[cfg(feature = "metrics")]
use std::time::Duration;

#[cfg(feature = "tracing")]
use tracing::field::{Field, Visit};
#[cfg(feature = "tracing")]
use tracing::span::{Attributes, Id, Record};
#[cfg(feature = "tracing")]
use tracing::{Event, Level, Metadata, Subscriber};

#[cfg(feature = "metrics")]
use super::backend_decided;
use super::{BreakerState, breaker_changed};
use crate::error::{BackendError, BackendErrorKind};

fn timeout() -> BackendError {
    BackendError::new(BackendErrorKind::Timeout, "no answer from redis://cache:6379 within 100ms")
}

/// Level and fields of each event, without debug events.
#[cfg(feature = "tracing")]
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

#[cfg(feature = "tracing")]
impl Log {
    /// The events that `f` causes on this thread.
    pub(crate) fn of(f: impl FnOnce()) -> Vec<String> {
        let log = Log::default();
        tracing::dispatcher::with_default(&log.clone().into(), f);
        std::mem::take(&mut *log.0.lock().unwrap())
    }
}

#[cfg(feature = "tracing")]
impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(feature = "tracing")]
struct Line(String);

#[cfg(feature = "tracing")]
impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

#[cfg(feature = "tracing")]
#[test]
fn failure_and_recovery_are_reported_once_each() {
    let error = timeout();
    let log = Log::of(|| {
        for _ in 0..2 {
            breaker_changed("test", BreakerState::Closed, None);
            for _ in 0..3 {
                breaker_changed("test", BreakerState::Open, Some(&error));
                breaker_changed("test", BreakerState::HalfOpen, None);
            }
            breaker_changed("test", BreakerState::Closed, None);
        }
    });
    let [fails, works, fails_again, works_again] = &log[..] else { panic!("{log:?}") };
    assert!(fails.starts_with("WARN ") && fails.contains("backend=\"test\""), "{fails}");
    assert!(fails.contains("error=no answer from redis://cache:6379 within 100ms"), "{fails}");
    assert!(works.starts_with("INFO ") && works.contains("backend=\"test\""), "{works}");
    assert_eq!((fails_again, works_again), (fails, works));
}

#[cfg(feature = "metrics")]
#[test]
fn backend_latency_and_breaker_state_are_recorded() {
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    /// Records what is set and recorded.
    #[derive(Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    struct Line(String, Arc<Mutex<Vec<String>>>);

    impl Log {
        fn line(&self, key: &Key) -> Arc<Line> {
            let mut line = key.name().to_owned();
            for label in key.labels() {
                line.extend([" ", label.key(), "=", label.value()]);
            }
            Arc::new(Line(line, Arc::clone(&self.0)))
        }
    }

    impl GaugeFn for Line {
        fn increment(&self, _: f64) {}

        fn decrement(&self, _: f64) {}

        fn set(&self, value: f64) {
            self.1.lock().unwrap().push(format!("{}: {value}", self.0));
        }
    }

    impl HistogramFn for Line {
        fn record(&self, value: f64) {
            self.set(value);
        }
    }

    impl Recorder for Log {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.line(key))
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.line(key))
        }
    }

    let log = Log::default();
    metrics::with_local_recorder(&log, || {
        backend_decided("test", Duration::from_millis(250), Ok(()));
        backend_decided("test", Duration::from_millis(100), Err(&timeout()));
        for state in [BreakerState::Open, BreakerState::HalfOpen, BreakerState::Closed] {
            breaker_changed("test", state, None);
        }
    });
    let expected = [
        "ratelimit_backend_latency_seconds backend=test result=ok: 0.25",
        "ratelimit_backend_latency_seconds backend=test result=timeout: 0.1",
        "ratelimit_breaker_state backend=test: 2",
        "ratelimit_breaker_state backend=test: 1",
        "ratelimit_breaker_state backend=test: 0",
    ];
    assert_eq!(*log.0.lock().unwrap(), expected);
}
