//! Observability: `tracing` events, `metrics` metrics, JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use ratelimit_runtime::backend::{Answer, Backend, Request};
use ratelimit_runtime::{
    Algorithm, BackendError, BackendErrorKind, Limit, MemoryBackend, OnBackendError, RateLimitExceeded, RateLimiter,
    RedisBackend, limiters, log_keys, rate_limit, test_util,
};
use ratelimit_tests::{RedisServer, ServerExample};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const HOUR: Duration = Duration::from_secs(3_600);

fn limiter(name: &str, count: u32) -> RateLimiter {
    RateLimiter::builder(name).limit(Limit::new(count, HOUR)).build().unwrap()
}

/// A backend that always fails.
struct Broken;

impl Backend for Broken {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        Err(BackendError::new(BackendErrorKind::Refused, "broken"))
    }
}

/// An event: its level, and its fields as text.
type Told = (Level, BTreeMap<&'static str, String>);

/// The events of the target `ratelimit`.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Told>>>);

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "ratelimit"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().unwrap().push((*event.metadata().level(), fields.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// The events that `f` causes on this thread, with or without keys.
fn events(keys: bool, f: impl FnOnce()) -> Vec<Told> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone: MutexGuard<'_, ()> = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    log_keys(keys);
    let events = Events::default();
    tracing::subscriber::with_default(events.clone(), f);
    log_keys(false);
    events.0.lock().unwrap().clone()
}

#[rate_limit(count = 1, per = "1h", key = user, name = "send")]
fn send(user: &str) -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 1, per = "1h", key = user, name = "send_async")]
async fn send_async(user: &str) -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[test]
fn a_denial_is_an_event_without_the_key() {
    let _clock = test_util::pause();
    let told = events(false, || {
        send("ann").unwrap();
        send("ann").unwrap_err();
    });
    let [(level, fields)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(*level, Level::DEBUG);
    let expected = [
        ("message", "call denied by rate limit"),
        ("limiter", "send"),
        ("limit", "1 per 1h"),
        ("remaining", "0"),
        ("retry_after_ms", "3600000"),
        ("cost", "1"),
        ("reason", "limited"),
        ("dry_run", "false"),
    ];
    assert_eq!(*fields, expected.map(|(name, value)| (name, value.to_owned())).into());
}

#[test]
fn log_keys_shows_keys() {
    // On the fast path, which a test's clock would turn off; in a future; in a remote backend.
    let elsewhere = RateLimiter::builder("elsewhere")
        .limit(Limit::new(1, HOUR))
        .backend(Broken)
        .on_backend_error(OnBackendError::Deny)
        .build()
        .unwrap();
    let told = events(true, || {
        send("short").unwrap();
        send("short").unwrap_err();
        futures_executor::block_on(send_async("future")).unwrap();
        futures_executor::block_on(send_async("future")).unwrap_err();
        elsewhere.check(("remote", 7_u8), 1).unwrap_err();
    });
    let keys: Vec<_> = told.iter().map(|(_, fields)| fields["key"].as_str()).collect();
    assert_eq!(keys, ["\"short\"", "\"future\"", "(\"remote\",7u8)"]);
    assert_eq!(told[2].1["reason"], "backend_failed");
}

#[test]
fn a_dry_runs_denial_is_marked() {
    let dry = RateLimiter::builder("dry").limit(Limit::new(1, HOUR)).dry_run().build().unwrap();
    let told = events(false, || {
        for _ in 0..3 {
            dry.check((), 1).unwrap();
        }
    });
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|(_, fields)| fields["dry_run"] == "true"), "{told:?}");
}

#[test]
fn a_call_that_never_fits_is_reported_without_a_time() {
    let told = events(false, || {
        limiter("small", 2).check((), 3).unwrap_err();
    });
    let fields = &told[0].1;
    assert_eq!((&*fields["reason"], &*fields["cost"]), ("cost_exceeds_limit", "3"));
    assert!(!fields.contains_key("retry_after_ms"));
}

#[cached::macros::cached]
#[rate_limit(count = 9, per = "1h", name = "observe-copied")]
fn copied(user: u32) -> Option<u32> {
    Some(user)
}

#[test]
fn a_copied_attribute_is_reported_once() {
    #[rate_limit(count = 9, per = "1h", name = "observe-copied")]
    fn of_the_same_name_elsewhere() -> Option<u32> {
        Some(1)
    }

    let told = events(false, || {
        of_the_same_name_elsewhere();
        for user in 0..3 {
            copied(user);
            copied_no_cache(user);
            copied_prime_cache(user);
        }
    });
    let warnings: Vec<_> = told.iter().filter(|(level, _)| *level == Level::WARN).collect();
    let [(_, fields)] = warnings[..] else { panic!("{told:?}") };
    assert_eq!(fields["limiter"], "observe-copied");
    assert!(fields["location"].contains("observe.rs:"), "{fields:?}");
    let infos: Vec<_> = limiters().into_iter().filter(|limiter| limiter.name == "observe-copied").collect();
    assert_eq!(infos.iter().filter(|info| info.copied).count(), infos.len() - 1);
    assert!(infos.len() > 2, "{infos:?}");
}

#[test]
fn a_document_that_cannot_be_applied_is_shown_by_a_gauge() {
    let server = RedisServer::start();
    let redis = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(20)).build().unwrap();
    for (document, gauge) in [("search = 1", 1), ("search = \"1/1h\"", 0)] {
        redis::cmd("SET").arg("rl:1:configuration").arg(document).exec(&mut server.connection()).unwrap();
        // The first check is on this thread, whose recorder sees it.
        let lines = recorded(|_| drop(redis.watch_configuration(HOUR).unwrap()));
        assert_shows(&lines, &format!("ratelimit_configuration_failing {gauge}"));
    }
}

#[test]
fn a_peek_is_no_event_and_counts_nothing() {
    let limiter = limiter("looked at", 1);
    let broken = RateLimiter::builder("looked at broken")
        .limit(Limit::new(1, HOUR))
        .backend(Broken)
        .on_backend_error(OnBackendError::Deny)
        .build()
        .unwrap();
    let told = events(false, || {
        limiter.check((), 1).unwrap();
        limiter.peek((), 1).unwrap_err();
        broken.peek((), 1).unwrap_err();
    });
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(listed("looked at")["denied"], 0);
    assert_eq!(listed("looked at broken")["denied"], 0);
}

/// The output of a Prometheus exporter that records `f`.
fn recorded(f: impl FnOnce(&PrometheusRecorder)) -> Vec<String> {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || f(&recorder));
    rendered(&recorder)
}

fn rendered(recorder: &PrometheusRecorder) -> Vec<String> {
    recorder.handle().render().lines().map(str::to_owned).collect()
}

fn decisions(name: &str, outcome: &str, calls: u32) -> String {
    format!("ratelimit_decisions_total{{limiter=\"{name}\",outcome=\"{outcome}\"}} {calls}")
}

#[track_caller]
fn assert_shows(lines: &[String], expected: &str) {
    assert!(lines.iter().any(|line| line == expected), "no `{expected}` in:\n{}", lines.join("\n"));
}

#[test]
fn decisions_are_counted_by_limiter_and_outcome() {
    #[rate_limit(count = 2, per = "1h", name = "count")]
    fn count() -> Option<()> {
        Some(())
    }
    #[rate_limit(count = 2, per = "1h", name = "count_async")]
    async fn count_async() -> Option<()> {
        Some(())
    }
    let broken = RateLimiter::builder("count broken")
        .limit(Limit::new(2, HOUR))
        .backend(Broken)
        .on_backend_error(OnBackendError::Deny)
        .build()
        .unwrap();
    let lines = recorded(|_| {
        for _ in 0..5 {
            count();
            futures_executor::block_on(count_async());
        }
        broken.check((), 1).unwrap_err();
        broken.check((), 0).unwrap();
    });
    for name in ["count", "count_async"] {
        assert_shows(&lines, &decisions(name, "allowed", 2));
        assert_shows(&lines, &decisions(name, "denied", 3));
        assert_shows(&lines, &decisions(name, "failed", 0));
    }
    assert_shows(&lines, &decisions("count broken", "failed", 1));
    assert_shows(&lines, &decisions("count broken", "allowed", 1));
    assert_shows(&lines, "# TYPE ratelimit_decisions_total counter");
    assert_shows(&lines, "# HELP ratelimit_decisions_total Calls, by what became of them.");
}

#[test]
fn a_late_recorder_counts_from_then_on() {
    let limiter = limiter("early", 10);
    for _ in 0..4 {
        limiter.check((), 1).unwrap();
    }
    let lines = recorded(|_| {
        for _ in 0..3 {
            limiter.check((), 1).unwrap();
        }
    });
    assert_shows(&lines, &decisions("early", "allowed", 3));
}

#[test]
fn counters_are_cached_unless_the_recorder_is_stateless() {
    use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Recorder, SharedString, Unit};
    static COUNTED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static ASKED: Mutex<u32> = Mutex::new(0);
    struct To<S>(S);
    struct Count(String);

    impl CounterFn for Count {
        fn increment(&self, _: u64) {
            COUNTED.lock().unwrap().push(self.0.clone());
        }

        fn absolute(&self, _: u64) {}
    }

    impl<S> Recorder for To<S> {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &metrics::Metadata<'_>) -> Counter {
            *ASKED.lock().unwrap() += 1;
            Counter::from_arc(Arc::new(Count(key.to_string())))
        }

        fn register_gauge(&self, _: &Key, _: &metrics::Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &metrics::Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    let run = |recorder: &dyn Recorder, name| {
        *ASKED.lock().unwrap() = 0;
        COUNTED.lock().unwrap().clear();
        let limiter = limiter(name, 10);
        metrics::with_local_recorder(recorder, || {
            for _ in 0..30 {
                let _ = limiter.check((), 1);
            }
        });
        let counted = COUNTED.lock().unwrap();
        assert_eq!(counted.len(), 30);
        assert!(counted[9].contains("allowed") && counted[10].contains("denied"), "{counted:?}");
        *ASKED.lock().unwrap()
    };
    assert_eq!(run(&To(1), "with state"), 3, "one for each outcome");
    assert_eq!(run(&To(()), "without state"), 30);
}

#[test]
fn waits_are_recorded_in_seconds() {
    let clock = test_util::pause();
    let limiter = limiter("patient", 1);
    let lines = recorded(|_| {
        limiter.wait((), 1).unwrap();
        limiter.wait((), 1).unwrap();
    });
    drop(clock);
    assert_shows(&lines, "ratelimit_wait_seconds_sum{limiter=\"patient\"} 3600");
    assert_shows(&lines, "ratelimit_wait_seconds_count{limiter=\"patient\"} 1");
}

#[test]
fn calls_that_wait_and_those_that_are_given_up_are_counted() {
    let _clock = test_util::pause();
    let limiter = limiter("queued", 1);
    limiter.check((), 1).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let lines = recorded(|recorder| {
        let mut waits = [0; 3].map(|_| Box::pin(limiter.wait_async((), 1)));
        assert!(waits.iter_mut().all(|wait| wait.as_mut().poll(&mut context).is_pending()));
        assert_shows(&rendered(recorder), "ratelimit_queue_waiting{limiter=\"queued\"} 3");
        let [gone, _, _] = waits;
        drop(gone);
        assert_shows(&rendered(recorder), "ratelimit_queue_waiting{limiter=\"queued\"} 2");
        let listed = limiters().into_iter().find(|limiter| limiter.name == "queued").unwrap();
        assert_eq!((listed.waiting, listed.abandoned), (2, 1));
    });
    assert_shows(&lines, "ratelimit_queue_waiting{limiter=\"queued\"} 0");
    assert_shows(&lines, "ratelimit_waits_abandoned_total{limiter=\"queued\"} 3");
}

#[test]
fn tracked_keys_add_up_and_evictions_are_counted() {
    let limiter = |name: &str, max_keys| {
        let memory = MemoryBackend::with_max_keys(max_keys);
        RateLimiter::builder(name).limit(Limit::new(2, HOUR)).backend(memory).build().unwrap()
    };
    let (small, large) = (limiter("small memory", 10), limiter("large memory", 1_000));
    // Before a recorder is installed.
    for key in 0..5 {
        large.check(key, 1).unwrap();
    }
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        for key in 0..30 {
            small.check(key, 1).unwrap();
            large.check(100 + key, 1).unwrap();
        }
    });
    let lines = rendered(&recorder);
    assert_shows(&lines, "ratelimit_tracked_keys 45");
    assert_shows(&lines, "ratelimit_evicted_keys_total 20");
    for key in 0..5 {
        large.reset(key).unwrap();
    }
    assert_shows(&rendered(&recorder), "ratelimit_tracked_keys 40");
    drop(small);
    assert_shows(&rendered(&recorder), "ratelimit_tracked_keys 30");
}

#[test]
fn a_backend_that_is_saved_hides_no_other_that_is_not() {
    let folder = std::env::temp_dir().join(format!("ratelimit-unsaved-{}", std::process::id()));
    let keep = |name: &str| {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        MemoryBackend::new().keep(folder.join(name).join("limits.snapshot"), HOUR).unwrap()
    };
    let (lost, saved) = (keep("lost"), keep("saved"));
    std::fs::remove_dir_all(folder.join("lost")).unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        drop(lost);
        drop(saved);
    });
    assert_shows(&rendered(&recorder), "ratelimit_snapshot_failing 1");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The limiter of that name, as JSON.
fn listed(name: &str) -> Value {
    let json = serde_json::to_value(limiters()).unwrap();
    let limiters = json.as_array().unwrap().iter();
    limiters.rev().find(|limiter| limiter["name"] == name).expect("a limiter of that name").clone()
}

#[test]
fn limiters_are_listed_as_json() {
    let smooth = Limit::new(6, Duration::from_millis(1_500)).with_algorithm(Algorithm::TokenBucket).with_burst(4);
    let limiter = RateLimiter::builder("listed").limit(Limit::new(9, HOUR)).limit(smooth).build().unwrap();
    let line = line!() - 1;
    limiter.check((), 3).unwrap();
    limiter.check((), 3).unwrap_err();
    let mut json = listed("listed");
    assert!(json["location"]["column"].take().is_u64(), "{json}");
    let expected = json!({
        "name": "listed",
        "limits": [
            { "count": 9, "per": 3_600.0, "algorithm": "sliding_window" },
            { "count": 6, "per": 1.5, "algorithm": "token_bucket", "burst": 4 },
        ],
        "location": { "file": file!(), "line": line, "column": null },
        "allowed": 1,
        "denied": 1,
        "dry_run": false,
        "enabled": true,
        "remaining": 1,
        "keys": 0,
        "waiting": 0,
        "abandoned": 0,
    });
    assert_eq!(json, expected);
}

#[test]
fn the_list_counts_keys_in_memory() {
    let keyed = limiter("listed by key", 3);
    for key in 0..5 {
        keyed.check(key, 1).unwrap();
    }
    let json = listed("listed by key");
    assert_eq!((&json["keys"], &json["remaining"]), (&json!(5), &Value::Null));
    let elsewhere =
        RateLimiter::builder("listed elsewhere").limit(Limit::new(1, HOUR)).backend(Broken).build().unwrap();
    elsewhere.check((), 1).unwrap();
    let json = listed("listed elsewhere");
    assert_eq!((&json["keys"], &json["remaining"]), (&Value::Null, &Value::Null));
}

#[test]
fn remaining_is_unknown_for_limits_read_at_each_call() {
    #[rate_limit(count = count, per = "1h", name = "listed as read")]
    fn read(count: u32) -> Option<()> {
        Some(())
    }
    read(5).unwrap();
    assert_eq!(listed("listed as read")["remaining"], Value::Null);
}

#[test]
fn a_denial_is_json() {
    let _clock = test_util::pause();
    let limiter = limiter("json", 2);
    limiter.check((), 2).unwrap();
    let limit = json!({ "count": 2, "per": 3_600.0, "algorithm": "sliding_window" });
    let expected =
        json!({ "limiter": "json", "kind": "limited", "limit": limit, "remaining": 0, "retry_after": 3_600.0 });
    assert_eq!(serde_json::to_value(limiter.check((), 1).unwrap_err()).unwrap(), expected);
    let never = serde_json::to_value(limiter.check((), 3).unwrap_err()).unwrap();
    assert_eq!((&never["kind"], &never["retry_after"]), (&json!("cost_exceeds_limit"), &Value::Null));
}

#[test]
fn the_metrics_example_serves_prometheus_and_json() {
    let server = ServerExample::start("metrics");
    let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
    let get = |path: &str| {
        let mut response = agent.get(format!("{}{path}", server.url())).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
    };
    let statuses: Vec<u16> = (0..5).map(|_| get("/quote").0).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let lines: Vec<String> = get("/metrics").1.lines().map(str::to_owned).collect();
    assert_shows(&lines, &decisions("quote", "allowed", 3));
    assert_shows(&lines, &decisions("quote", "denied", 2));
    assert_shows(&lines, "ratelimit_tracked_keys 1");
    let limiters: Value = serde_json::from_str(&get("/admin/rate-limits").1).expect("JSON");
    assert_eq!((&limiters[0]["name"], &limiters[0]["denied"]), (&json!("quote"), &json!(2)));
}

#[test]
fn a_redis_failure_and_recovery_are_reported_once_each() {
    let server = RedisServer::start();
    // A busy machine may take longer than the usual 100 ms, which this does not test.
    let redis = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(5)).build().unwrap();
    let limiter = RateLimiter::builder("told").limit(Limit::new(1_000_000, HOUR)).backend(redis).build().unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let shows = |line: &str| rendered(&recorder).iter().any(|shown| shown == line);
    let check_until_shown = |line: &str| {
        let start = Instant::now();
        while !shows(line) {
            limiter.check((), 1).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            assert!(start.elapsed() < Duration::from_secs(60), "no `{line}` in:\n{}", rendered(&recorder).join("\n"));
        }
    };
    let told = events(false, || {
        metrics::with_local_recorder(&recorder, || {
            limiter.check((), 1).unwrap();
            assert!(shows("ratelimit_backend_latency_seconds_count{backend=\"redis\",result=\"ok\"} 1"));
            server.kill();
            check_until_shown("ratelimit_breaker_state{backend=\"redis\"} 2");
            // Failed probes are not reported.
            for _ in 0..100 {
                limiter.check((), 1).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            server.restart();
            check_until_shown("ratelimit_breaker_state{backend=\"redis\"} 0");
        });
    });
    let news: Vec<_> = told.iter().filter(|(level, _)| *level < Level::DEBUG).collect();
    let [(failed, failure), (recovered, recovery)] = &news[..] else { panic!("{told:?}") };
    assert_eq!((*failed, *recovered), (Level::WARN, Level::INFO));
    assert_eq!((&*failure["backend"], &*recovery["backend"]), ("redis", "redis"));
    assert!(failure["error"].contains(&server.port().to_string()), "{failure:?}");
}
