//! Specifics of PostgreSQL: table, schemas, rights, pools and poolers, locks, and bounded rows.
//! `conformance.rs` runs the suite of all backends on it.

use std::error::Error;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bb8_postgres::bb8;
use futures_executor::block_on;
use ratelimit_runtime::backend::{Action, Answer, Backend, IntoBackend, Outcome, Request};
use ratelimit_runtime::{
    BackendError, BackendErrorKind, Limit, PostgresBackend, PostgresBackendBuilder, PostgresConnect, RateLimiter,
};
use ratelimit_tests::{Certificates, PostgresServer, connect, impatient, sql_at, try_sql_at};
use rustls::pki_types::pem::PemObject as _;

const HOUR: Duration = Duration::from_secs(3_600);
/// With a deadline that a busy machine does not miss.
const PATIENT: Duration = Duration::from_secs(20);

fn builder(url: &str, schema: &str) -> PostgresBackendBuilder {
    PostgresBackend::builder().url(url).schema(schema).timeout(PATIENT).denial_cache(false)
}

/// A backend with a table in a schema of its own.
fn backend(schema: &str) -> PostgresBackend {
    let backend = builder(&PostgresServer::shared().url(), schema).build().unwrap();
    backend.create_table().unwrap();
    backend
}

fn request(key: &str, count: u32, action: Action) -> Request {
    Request::new(format!("rl:1:{{test:\"{key}\"}}:s3600000000"), &[Limit::new(count, HOUR)], action)
}

fn take(key: &str, count: u32) -> Request {
    request(key, count, Action::Take { cost: 1, max_wait: Duration::ZERO })
}

fn is_admitted(answer: &Answer) -> bool {
    matches!(answer.outcome, Outcome::Admitted(_))
}

/// How many of `calls` calls are admitted.
fn admitted(backend: &PostgresBackend, key: &str, count: u32, calls: usize) -> usize {
    (0..calls).filter(|_| is_admitted(&backend.decide(&take(key, count)).unwrap())).count()
}

fn refused(result: Result<Answer, BackendError>, kind: BackendErrorKind, words: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn what_callers_who_give_up_would_have_had_others_get() {
    let backend = backend("impatient").into_backend();
    runtime().block_on(impatient::others_get_what_callers_who_give_up_would_have_had("postgresql", backend));
}

#[test]
fn a_schema_may_have_any_name() {
    let server = PostgresServer::shared();
    for schema in
        ["public", "plain", "With Capitals", "a \"quoted\" one", "'; DROP TABLE x; --", "größe", "a.b", r"\", "$body0$"]
    {
        let backend = backend(schema);
        assert_eq!(admitted(&backend, "schemas", 3, 5), 3, "{schema}");
        let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
        assert_eq!(server.sql(&format!("SELECT count(*) FROM {quoted}.ratelimit_buckets")), [["1"]]);
        // As a user of psql would run it, and once more.
        server.sql(&PostgresBackend::migration(schema));
        assert_eq!(admitted(&backend, "schemas", 3, 5), 0, "{schema}");
    }
    for schema in ["", "a\0b", &"x".repeat(64)] {
        assert_eq!(builder(&server.url(), schema).build().unwrap_err().kind(), BackendErrorKind::Configuration);
    }
}

#[test]
fn tables_made_at_the_same_time_are_one() {
    let server = PostgresServer::shared();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| builder(&server.url(), "at once").build().unwrap().create_table().unwrap());
        }
    });
    assert_eq!(admitted(&backend("at once"), "a", 1, 2), 1);
    let backend = builder(&server.url(), "at once, async").build().unwrap();
    runtime().block_on(backend.create_table_async()).unwrap();
    assert_eq!(admitted(&backend, "a", 1, 2), 1);
}

#[test]
fn a_missing_table_is_an_error_that_says_what_to_do() {
    let url = PostgresServer::shared().url();
    let backend = builder(&url, "without a table").build().unwrap();
    for _ in 0..2 {
        refused(backend.decide(&take("a", 1)), BackendErrorKind::Configuration, "create_table");
        refused(block_on(backend.decide_async(&take("a", 1)).unwrap()), BackendErrorKind::Configuration, "migration");
    }
    let together = backend.decide_together(&[take("a", 1), take("b", 1)]).unwrap_err();
    assert!(together.to_string().contains("create_table"), "{together}");
    backend.create_table().unwrap();
    assert_eq!(admitted(&backend, "a", 1, 2), 1);
}

#[test]
fn a_missing_function_is_an_error_that_says_what_to_do() {
    let server = PostgresServer::shared();
    let backend = backend("functions");
    for function in ["ratelimit_lock_one", "ratelimit_lock_all", "ratelimit_write_one", "ratelimit_write_all"] {
        server.sql(&format!("DROP ROUTINE functions.{function}"));
        for _ in 0..2 {
            let result = if function.ends_with("_one") {
                backend.decide(&take("a", 9)).map(drop)
            } else {
                backend.decide_together(&[take("a", 9), take("b", 9)]).map(drop)
            };
            let error = result.unwrap_err();
            assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
            assert!(error.to_string().contains("create_table"), "{error}");
        }
        backend.create_table().unwrap();
        assert!(is_admitted(&backend.decide(&take("a", 9)).unwrap()));
    }
    // A failed call has left no transaction behind.
    assert_eq!(admitted(&backend, "a", 9, 9), 5);
}

#[test]
fn a_plan_that_was_made_for_a_small_table_reads_no_large_one() {
    let server = PostgresServer::start();
    let backend = builder(&server.url(), "public").connections(1).build().unwrap();
    backend.create_table().unwrap();
    server.sql("INSERT INTO ratelimit_buckets VALUES ('\\x00', '\\x00', now() + interval '1 day')");
    // A single page, which is cheaper to read than the index.
    server.sql("VACUUM ANALYZE ratelimit_buckets");
    admitted(&backend, "a", 1_000, 20);
    for _ in 0..20 {
        assert!(backend.decide_together(&[take("a", 1_000), take("b", 1_000)]).unwrap().iter().all(is_admitted));
    }
    // The connection's statistics are available once it is closed.
    drop(backend);
    let figures = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'ratelimit_buckets'";
    let scans = || -> Vec<u32> { server.sql(figures)[0].iter().map(|scans| scans.parse().unwrap()).collect() };
    while scans()[1] == 0 {
        assert!(scans()[0] < 20, "{:?}", scans());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(scans()[0] < 20 && scans()[1] >= 40, "{:?}", scans());
}

#[test]
fn a_user_needs_four_rights_on_the_table() {
    let server = PostgresServer::shared();
    backend("limited");
    server.sql("CREATE USER few; GRANT USAGE ON SCHEMA limited TO few");
    let few = builder(&server.url().replace("//postgres@", "//few@"), "limited").build().unwrap();
    refused(few.decide(&take("a", 1)), BackendErrorKind::Configuration, "SELECT, INSERT, UPDATE and DELETE");
    server.sql("GRANT SELECT ON limited.ratelimit_buckets TO few");
    refused(few.decide(&take("a", 1)), BackendErrorKind::Configuration, "SELECT, INSERT, UPDATE and DELETE");
    server.sql("GRANT INSERT, UPDATE, DELETE ON limited.ratelimit_buckets TO few");
    assert_eq!(admitted(&few, "a", 3, 5), 3);
    // The table exists.
    few.create_table().unwrap();
    let answers = few.decide_together(&[take("b", 2), take("c", 2)]).unwrap();
    assert!(answers.iter().all(is_admitted));
}

#[test]
fn what_somebody_else_wrote_is_an_error_for_its_key_alone() {
    let server = PostgresServer::shared();
    let backend = backend("garbage");
    admitted(&backend, "spoilt", 3, 1);
    for garbage in ["", "\\x00", "\\xff", "\\x0102030405060708", "a text of thirty bytes or more"] {
        server.sql(&format!("UPDATE garbage.ratelimit_buckets SET state = '{garbage}'"));
        if garbage.is_empty() {
            continue;
        }
        let answers = runtime().block_on(async {
            let call = |key| {
                let backend = backend.clone();
                tokio::spawn(async move { backend.decide_async(&take(key, 1_000)).unwrap().await })
            };
            let calls: Vec<_> = (0..64).map(|call| if call % 2 == 0 { "spoilt" } else { "sound" }).map(call).collect();
            let mut answers = Vec::new();
            for call in calls {
                answers.push(call.await.unwrap());
            }
            answers
        });
        for (place, answer) in answers.into_iter().enumerate() {
            if place % 2 == 0 {
                assert_eq!(answer.unwrap_err().kind(), BackendErrorKind::Refused);
            } else {
                assert!(is_admitted(&answer.unwrap()));
            }
        }
        let spoilt = [take("sound", 1_000), take("spoilt", 1_000)];
        assert_eq!(backend.decide_together(&spoilt).unwrap_err().kind(), BackendErrorKind::Refused);
        server.sql("DELETE FROM garbage.ratelimit_buckets WHERE encode(key, 'escape') LIKE '%sound%'");
    }
    backend.decide(&request("spoilt", 3, Action::Reset)).unwrap_err();
    server.sql("DELETE FROM garbage.ratelimit_buckets");
    assert_eq!(admitted(&backend, "spoilt", 3, 5), 3);
}

#[test]
fn keys_of_any_text_and_length_stay_apart() {
    let backend = backend("keys");
    let limiter = RateLimiter::builder("keys").limit(Limit::new(1, HOUR)).backend(backend).build().unwrap();
    let long = "x".repeat(100_000);
    let keys =
        ["", "a", "'", "\\", "\\x00", "a\0b", "💡", "%", "\u{a0}", &long, &format!("{long}y")].map(str::to_owned);
    for key in &keys {
        assert!(limiter.check(key.as_str(), 1).is_ok(), "{:?}", key.get(..20));
    }
    for key in &keys {
        assert!(limiter.check(key.as_str(), 1).is_err(), "{:?}", key.get(..20));
    }
}

#[test]
fn calls_on_many_keys_in_any_order_never_deadlock() {
    const KEYS: usize = 12;
    let backend = backend("overlapping");
    let taken = AtomicUsize::new(0);
    let runtime = runtime();
    std::thread::scope(|scope| {
        for thread in 0..6_usize {
            let (backend, taken, runtime) = (&backend, &taken, &runtime);
            scope.spawn(move || {
                let mut random = thread * 7_919 + 1;
                for call in 0..60 {
                    let mut keys: Vec<usize> = (0..KEYS).collect();
                    for place in (1..KEYS).rev() {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        keys.swap(place, (random >> 33) % (place + 1));
                    }
                    let requests: Vec<Request> =
                        keys[..4].iter().map(|key| take(&format!("key {key}"), 100_000)).collect();
                    let answers = if call % 2 == 0 {
                        backend.decide_together(&requests)
                    } else {
                        runtime.block_on(backend.decide_together_async(&requests).unwrap())
                    };
                    assert!(answers.unwrap().iter().all(is_admitted));
                    taken.fetch_add(4, Ordering::Relaxed);
                    // Merged with others on the same keys.
                    let single = take(&format!("key {}", keys[5]), 100_000);
                    assert!(is_admitted(&runtime.block_on(backend.decide_async(&single).unwrap()).unwrap()));
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let left = |key: usize| {
        let peek = request(&format!("key {key}"), 100_000, Action::Peek { cost: 0, max_wait: Duration::ZERO });
        match backend.decide(&peek).unwrap().outcome {
            Outcome::Admitted(admitted) => admitted.remaining() as usize,
            other => panic!("{other:?}"),
        }
    };
    // In groups of 1,563 permits, so the remaining permits are off by less than that.
    let used: usize = (0..KEYS).map(|key| 100_000 - left(key)).sum();
    assert_eq!(used, taken.load(Ordering::Relaxed));
    let deadlocks = PostgresServer::shared().sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'");
    assert_eq!(deadlocks, [["0"]]);
}

#[test]
fn the_time_is_read_when_the_lock_is_held() {
    let server = PostgresServer::shared();
    let backend = backend("clock");
    admitted(&backend, "a", 10, 1);
    let locks = || server.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")[0][0] == "1";
    // Holds every bucket by the lock that a decision needs, found by watching one.
    let runtime = runtime();
    let holder = runtime.block_on(connect(&server.url())).unwrap();
    let number = lock_of(&backend, server);
    runtime.block_on(holder.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({number})"))).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| backend.decide(&take("a", 10)).unwrap());
        while !locks() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(50));
        let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let released: u64 = server.sql(now)[0][0].parse().unwrap();
        runtime.block_on(holder.batch_execute("COMMIT")).unwrap();
        let answer = call.join().unwrap();
        assert!(answer.now.as_nanos() / 1_000 >= released, "the time is from before the wait");
    });
}

/// The number of the lock of the key `a`: a frozen decision shows it.
fn lock_of(backend: &PostgresBackend, server: &PostgresServer) -> String {
    let number = || {
        server
            .sql("SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted")
    };
    server.sql("BEGIN; LOCK TABLE clock.ratelimit_buckets IN EXCLUSIVE MODE; COMMIT");
    let runtime = runtime();
    let holder = runtime.block_on(connect(&server.url())).unwrap();
    runtime.block_on(holder.batch_execute("BEGIN; LOCK TABLE clock.ratelimit_buckets IN EXCLUSIVE MODE")).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| backend.decide(&take("a", 10)));
        let number = loop {
            // Other tests hold locks for moments.
            let first = number();
            std::thread::sleep(Duration::from_millis(30));
            let second = number();
            if let Some(row) = second.iter().find(|row| first.contains(row)) {
                break row[0].clone();
            }
        };
        runtime.block_on(holder.batch_execute("COMMIT")).unwrap();
        call.join().unwrap().unwrap();
        number
    })
}

#[test]
fn a_denied_call_and_a_peek_write_nothing() {
    let server = PostgresServer::shared();
    let backend = backend("denied");
    assert_eq!(admitted(&backend, "a", 3, 3), 3);
    let versions = || server.sql("SELECT xmin, ctid FROM denied.ratelimit_buckets");
    let before = versions();
    assert_eq!(admitted(&backend, "a", 3, 10), 0);
    backend.decide(&request("a", 3, Action::Peek { cost: 1, max_wait: Duration::ZERO })).unwrap();
    let answers = backend.decide_together(&[take("a", 3), take("b", 3)]).unwrap();
    assert_eq!(answers.iter().map(is_admitted).collect::<Vec<_>>(), [false, true]);
    assert_eq!(versions(), before);
}

#[test]
fn a_busy_key_leaves_no_dead_rows() {
    // No transaction of another test keeps old versions.
    let server = PostgresServer::start();
    let backend = builder(&server.url(), "busy").build().unwrap();
    backend.create_table().unwrap();
    let runtime = runtime();
    let calls = || {
        let backend = backend.clone();
        runtime.spawn(async move {
            for _ in 0..300 {
                backend.decide_async(&take("hot", 10_000_000)).unwrap().await.unwrap();
            }
        })
    };
    for calls in (0..10).map(|_| calls()).collect::<Vec<_>>() {
        runtime.block_on(calls).unwrap();
    }
    let pages = server.sql("SELECT pg_relation_size('busy.ratelimit_buckets') / 8192");
    assert!(pages[0][0].parse::<u32>().unwrap() <= 4, "{pages:?}");
    // Statistics come with a delay.
    let until = Instant::now() + PATIENT;
    let updates = "SELECT n_tup_upd > 0, n_tup_upd - n_tup_hot_upd < 10 FROM pg_stat_user_tables \
                   WHERE schemaname = 'busy'";
    while server.sql(updates) != [["t", "t"]] {
        assert!(Instant::now() < until, "updates are not in place");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn rows_of_idle_buckets_are_removed_in_passing() {
    let server = PostgresServer::shared();
    let backend = backend("idle");
    let count = || server.sql("SELECT count(*) FROM idle.ratelimit_buckets")[0][0].parse::<u32>().unwrap();
    admitted(&backend, "in use", 1, 1);
    server.sql(
        "INSERT INTO idle.ratelimit_buckets SELECT decode(lpad(i::text, 8, '0'), 'hex'), '', now() - interval '1s' \
         FROM generate_series(1, 600) AS i",
    );
    let until = Instant::now() + PATIENT;
    let mut keys = 0;
    while server.sql("SELECT count(*) FROM idle.ratelimit_buckets WHERE expires_at < now()") != [["0"]] {
        assert!(Instant::now() < until, "there are {} rows", count());
        for _ in 0..20 {
            admitted(&backend, &format!("new {keys}"), 1, 1);
            keys += 1;
        }
    }
    assert_eq!(count(), keys + 1);
    // The bucket in use is still there.
    assert_eq!(admitted(&backend, "in use", 1, 1), 0);
}

#[test]
fn a_permit_of_a_future_that_is_dropped_is_given_back() {
    let backend = backend("dropped");
    let runtime = runtime();
    let answered = runtime.block_on(async {
        let mut answered = 0;
        for _ in 0..200 {
            let requests = [take("a", 1_000), take("b", 1_000)];
            // A time-out of zero would mean no time-out.
            let mut alone = backend.decide_async(&requests[0]).unwrap();
            assert!(poll_fn(|context| Poll::Ready(alone.as_mut().poll(context).is_pending())).await);
            drop(alone);
            let together = backend.decide_together_async(&requests).unwrap();
            answered += u32::from(tokio::time::timeout(Duration::from_micros(200), together).await.is_ok());
        }
        answered
    });
    assert!(answered < 200);
    let until = Instant::now() + PATIENT;
    let left = |key| {
        let peek = request(key, 1_000, Action::Peek { cost: 0, max_wait: Duration::ZERO });
        match backend.decide(&peek).unwrap().outcome {
            Outcome::Admitted(admitted) => admitted.remaining(),
            other => panic!("{other:?}"),
        }
    };
    while [left("a"), left("b")] != [1_000 - answered; 2] {
        assert!(Instant::now() < until, "{} and {} are left", left("a"), left("b"));
    }
}

#[derive(Clone)]
struct Deadpool(deadpool_postgres::Pool);

impl PostgresConnect for Deadpool {
    type Connection = deadpool_postgres::Client;

    async fn connect(&self) -> Result<Self::Connection, Box<dyn Error + Send + Sync>> {
        Ok(self.0.get().await?)
    }

    fn client(connection: &Self::Connection) -> &tokio_postgres::Client {
        connection
    }
}

type Bb8Manager = bb8_postgres::PostgresConnectionManager<tokio_postgres::NoTls>;

#[derive(Clone)]
struct Bb8(bb8::Pool<Bb8Manager>);

impl PostgresConnect for Bb8 {
    type Connection = bb8::PooledConnection<'static, Bb8Manager>;

    async fn connect(&self) -> Result<Self::Connection, Box<dyn Error + Send + Sync>> {
        Ok(self.0.get_owned().await?)
    }

    fn client(connection: &Self::Connection) -> &tokio_postgres::Client {
        connection
    }
}

#[test]
fn deadpool_gets_its_connections_back_without_a_transaction() {
    let server = PostgresServer::start();
    let config: tokio_postgres::Config = server.url().parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(2).build().unwrap();
    let runtime = runtime();
    runtime.block_on(gets_its_connections_back(&server, Deadpool(pool.clone())));
    let both = PostgresBackend::builder().pool(Deadpool(pool)).url(server.url()).build().unwrap_err();
    assert_eq!(both.kind(), BackendErrorKind::Configuration);
}

#[test]
fn bb8_gets_its_connections_back_without_a_transaction() {
    let server = PostgresServer::start();
    let manager = Bb8Manager::new(server.url().parse().unwrap(), tokio_postgres::NoTls);
    let runtime = runtime();
    runtime.block_on(async {
        let pool = bb8::Pool::builder().max_size(2).build(manager).await.unwrap();
        gets_its_connections_back(&server, Bb8(pool)).await;
    });
}

/// Of a pool of two connections.
async fn gets_its_connections_back<P: PostgresConnect + Clone>(server: &PostgresServer, pool: P) {
    let backend = PostgresBackend::builder().pool(pool.clone()).timeout(PATIENT).build().unwrap();
    backend.create_table_async().await.unwrap();
    for call in 0..10 {
        let answer = backend.decide_async(&take("a", 3)).unwrap().await.unwrap();
        assert_eq!(is_admitted(&answer), call < 3);
    }
    // A lock that cannot be had within the timeout fails in the middle of a transaction.
    let holder = connect(&server.url()).await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE ratelimit_buckets").await.unwrap();
    let hasty = PostgresBackend::builder().pool(pool.clone()).timeout(Duration::from_millis(100)).build();
    let hasty = hasty.unwrap();
    for _ in 0..4 {
        let late = hasty.decide_async(&take("a", 3)).unwrap().await.unwrap_err();
        assert_eq!(late.kind(), BackendErrorKind::Timeout, "{late}");
    }
    holder.batch_execute("COMMIT").await.unwrap();
    // A refusal that may mean another server, in the middle of a transaction.
    holder
        .batch_execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'feature_not_supported'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON ratelimit_buckets EXECUTE FUNCTION refuse()",
        )
        .await
        .unwrap();
    for _ in 0..4 {
        let error = backend.decide_async(&take("new", 3)).unwrap().await.unwrap_err();
        assert!(error.to_string().contains("0A000"), "{error}");
    }
    holder.batch_execute("DROP TRIGGER refuse ON ratelimit_buckets").await.unwrap();
    for _ in 0..4 {
        let [one, two] = [pool.connect().await.unwrap(), pool.connect().await.unwrap()];
        for connection in [&one, &two] {
            let state = "SELECT current_setting('lock_timeout'), now() = statement_timestamp(), \
                         (SELECT count(*) FROM pg_prepared_statements WHERE statement NOT LIKE '%pg_prepared%')";
            let rows = P::client(connection).simple_query(state).await.unwrap();
            let tokio_postgres::SimpleQueryMessage::Row(row) = &rows[1] else { panic!("{rows:?}") };
            assert_eq!([row.get(0), row.get(1), row.get(2)], [Some("0"), Some("t"), Some("0")]);
        }
    }
    assert!(!is_admitted(&hasty.decide_async(&take("a", 3)).unwrap().await.unwrap()));
    // Blocking calls use it too.
    let blocking = tokio::task::spawn_blocking(move || admitted(&backend, "b", 3, 5));
    assert_eq!(blocking.await.unwrap(), 3);
}

#[test]
fn pgbouncer_pools_by_transactions() {
    let server = PostgresServer::start();
    let bouncer = server.pgbouncer();
    let backend = builder(&bouncer.url(), "bounced").build().unwrap();
    backend.create_table().unwrap();
    let runtime = runtime();
    let count = runtime.block_on(async {
        let call = |call: usize| {
            let backend = backend.clone();
            tokio::spawn(async move {
                let mut count = 0;
                for _ in 0..20 {
                    let answer = backend.decide_async(&take("hot", 50)).unwrap().await.unwrap();
                    count += usize::from(is_admitted(&answer));
                    backend.decide_async(&take(&format!("own {call}"), 50)).unwrap().await.unwrap();
                    let both = [take("one", 10_000), take("two", 10_000)];
                    backend.decide_together_async(&both).unwrap().await.unwrap();
                }
                count
            })
        };
        let mut count = 0;
        for call in (0..16).map(call).collect::<Vec<_>>() {
            count += call.await.unwrap();
        }
        count
    });
    assert_eq!(count, 50);
    assert_eq!(admitted(&backend, "blocking", 3, 5), 3);
    // Other users of its connections see none of the settings.
    for _ in 0..6 {
        assert_eq!(sql_at(&bouncer.url(), "SHOW lock_timeout"), [["0"]]);
        assert_eq!(sql_at(&bouncer.url(), "SHOW synchronous_commit"), [["on"]]);
    }
}

#[test]
fn commits_wait_for_the_disk_if_they_are_to() {
    let server = PostgresServer::start_with(&["log_statement = none"]);
    // A trigger records the setting of each writing transaction.
    let backend = builder(&server.url(), "public").build().unwrap();
    backend.create_table().unwrap();
    server.sql(
        "CREATE TABLE noted (setting text); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO noted VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$; \
         CREATE TRIGGER note AFTER INSERT OR UPDATE ON ratelimit_buckets EXECUTE FUNCTION note()",
    );
    admitted(&backend, "a", 3, 1);
    admitted(&builder(&server.url(), "public").synchronous_commit(true).build().unwrap(), "a", 3, 1);
    assert_eq!(server.sql("SELECT DISTINCT setting FROM noted ORDER BY 1"), [["off"], ["on"]]);
}

#[test]
fn a_unix_socket_and_the_settings_of_a_database_change_nothing() {
    let server = PostgresServer::shared();
    server.sql("CREATE DATABASE strict ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "DateStyle = 'German'",
        "TimeZone = 'Pacific/Chatham'",
        "bytea_output = 'escape'",
        "standard_conforming_strings = off",
        "search_path = ''",
    ] {
        server.sql(&format!("ALTER DATABASE strict SET {setting}"));
    }
    let url = format!("host={} port={} user=postgres dbname=strict", server.socket(), server.port());
    let backend = builder(&url, "public").build().unwrap();
    backend.create_table().unwrap();
    let runtime = runtime();
    let count = runtime.block_on(async {
        let call = || {
            let backend = backend.clone();
            tokio::spawn(async move { is_admitted(&backend.decide_async(&take("漢字", 7)).unwrap().await.unwrap()) })
        };
        let mut count = 0;
        for call in (0..50).map(|_| call()).collect::<Vec<_>>() {
            count += usize::from(call.await.unwrap());
        }
        count
    });
    assert_eq!(count, 7);
}

#[test]
fn no_password_is_shown() {
    let server = PostgresServer::shared();
    let url = server.url().replace("//postgres@", "//nobody:s3cret@");
    let backend = PostgresBackend::builder().url(&url);
    assert!(!format!("{backend:?}").contains("s3cret"));
    let backend = backend.timeout(PATIENT).build().unwrap();
    let error = backend.decide(&take("a", 1)).unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
    let shown = format!("{backend:?} {:?} {error} {error:?}", backend.server());
    assert!(!shown.contains("s3cret"), "{shown}");
    for wrong in ["postgres://u:s3cret@h:port/d", "s3cret", "postgres://u:p@h/d?s3cret=1"] {
        let error = PostgresBackend::new(wrong).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
    assert!(try_sql_at(&url, "SELECT 1").is_err());
}

#[test]
fn what_cannot_work_is_a_configuration_error() {
    let url = "postgres://h/d";
    let wrong = [
        PostgresBackend::new("postgres://h/d?sslmode=require"),
        PostgresBackend::new("postgres://h/d?sslmode=verify-full"),
        PostgresBackend::new(""),
        PostgresBackend::builder().url(url).timeout(Duration::ZERO).build(),
        PostgresBackend::builder().url(url).timeout(2 * HOUR).build(),
        PostgresBackend::builder().url(url).connections(0).build(),
    ];
    for wrong in wrong {
        let error = wrong.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Configuration, "{error}");
    }
    let tls = PostgresBackend::new("postgres://h/d?sslmode=require").unwrap_err();
    assert!(tls.to_string().contains("PostgresBackendBuilder::tls"), "{tls}");
}

#[test]
fn tls_by_the_users_connector_is_used_and_checked() {
    let certificates = Certificates::new();
    let server = PostgresServer::start_with_tls(&certificates.server);
    let url = format!("{}?sslmode=require", server.url());
    let connector = |authority: &str| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        tokio_postgres_rustls::MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth())
    };
    let backend = builder(&url, "public").tls(connector(&certificates.authority)).build().unwrap();
    backend.create_table().unwrap();
    assert_eq!(admitted(&backend, "a", 3, 5), 3);
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                 WHERE application_name = 'ratelimit' AND NOT ssl";
    assert_eq!(server.sql(plain), [["0"]]);
    let stranger = builder(&url, "public").tls(connector(&Certificates::new().authority)).build().unwrap();
    refused(stranger.decide(&take("b", 1)), BackendErrorKind::Unreachable, "TLS");
    // There is no fallback to a server without TLS.
    let server = PostgresServer::shared();
    let url = format!("{}?sslmode=require", server.url());
    let without = builder(&url, "public").tls(connector(&certificates.authority)).build().unwrap();
    refused(without.decide(&take("b", 1)), BackendErrorKind::Unreachable, "TLS");
}

#[test]
fn handles_say_what_they_share() {
    let server = PostgresServer::shared();
    let [one, two] = [(); 2].map(|()| builder(&server.url(), "public").build().unwrap());
    assert_eq!(one.kind(), "postgres");
    assert_eq!(one.identity(), one.clone().identity());
    assert_ne!(one.identity(), two.identity());
    assert_eq!(one.server(), two.server());
    assert_ne!(one.server(), builder(&server.url(), "other").build().unwrap().server());
}
