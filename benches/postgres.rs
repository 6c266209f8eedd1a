//! The PostgreSQL backend beside `SELECT 1` and beside the statement that people write by hand:
//! `cargo bench -p benches --bench postgres [-- PART OF A CASE'S NAME]`.
//!
//! One server, started here, without `fsync`. The yardstick, a prepared `SELECT 1`, and the prepared
//! `INSERT .. ON CONFLICT` have 16 connections, or one for a lone task. Our backend opens as many
//! as it wants.

#[path = "redis/rounds.rs"]
#[allow(dead_code, reason = "of which a part is enough here")]
mod rounds;
#[path = "../tests/support/postgres_server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' own, of which a part is enough here")]
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ratelimit_runtime::{Limit, PostgresBackend, RateLimiter};
use rounds::{Case, Contender, Tasks};
use server::PostgresServer;
use tokio_postgres::{Client, Statement};

const KEYS: u64 = 10_000;

/// Used by the server, which takes a free port as the tests' other servers do.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Connections with their prepared statements.
struct Peers {
    clients: Vec<(Client, Statement, Statement)>,
}

impl Peers {
    async fn new(url: &str, number: usize) -> Arc<Peers> {
        let mut clients = Vec::new();
        for _ in 0..number {
            let client = server::connect(url).await.unwrap();
            let select = client.prepare("SELECT 1").await.unwrap();
            // One round trip, and no exact window.
            let upsert = client
                .prepare(
                    "INSERT INTO by_hand AS b (key, count, since) VALUES ($1, 1, now()) ON CONFLICT (key) DO UPDATE SET \
                     count = CASE WHEN b.since < now() - interval '1 hour' THEN 1 ELSE b.count + 1 END, \
                     since = CASE WHEN b.since < now() - interval '1 hour' THEN now() ELSE b.since END RETURNING count",
                )
                .await
                .unwrap();
            clients.push((client, select, upsert));
        }
        Arc::new(Peers { clients })
    }

    fn one(&self, number: u64) -> &(Client, Statement, Statement) {
        &self.clients[usize::try_from(number >> 32).unwrap() % self.clients.len()]
    }

    async fn select(self: Arc<Self>, number: u64) -> bool {
        let (client, select, _) = self.one(number);
        client.query_one(select, &[]).await.is_ok()
    }

    async fn by_hand(self: Arc<Self>, number: u64, key: u64) -> bool {
        let (client, _, upsert) = self.one(number);
        client.query_one(upsert, &[&format!("api:{key}")]).await.is_ok()
    }
}

fn main() {
    // cargo passes `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let server = PostgresServer::start();
    server.sql("CREATE TABLE by_hand (key text PRIMARY KEY, count bigint, since timestamptz) WITH (fillfactor = 50)");
    let postgres = PostgresBackend::builder().url(server.url()).timeout(Duration::from_secs(5)).build().unwrap();
    postgres.create_table().unwrap();
    let limiter =
        |name: &str, limit: Limit| RateLimiter::builder(name).limit(limit).backend(postgres.clone()).build().unwrap();
    let window = limiter("window", Limit::new(1_000_000_000, Duration::from_secs(3_600)));
    let denied = limiter("denied", Limit::new(1, Duration::from_secs(3_600)));
    let tasks = Tasks::new();
    let (one, sixteen) =
        tasks.block_on(async { (Peers::new(&server.url(), 1).await, Peers::new(&server.url(), 16).await) });
    let mut cases = Vec::new();
    for (number, keys, goal) in [(1, KEYS, 0.25), (16, KEYS, 0.4), (64, KEYS, 0.4), (64, 1, 1.0)] {
        let peers = || Arc::clone(if number == 1 { &one } else { &sixteen });
        let (select, by_hand, window) = (peers(), peers(), window.clone());
        let name = format!("{number} tasks, {keys} keys");
        let tasks = &tasks;
        let contenders = vec![
            Contender::new("SELECT 1", move |turn| {
                let peers = Arc::clone(&select);
                tasks.run(number, turn, move |random| Arc::clone(&peers).select(random))
            }),
            Contender::new("INSERT .. ON CONFLICT", move |turn| {
                let peers = Arc::clone(&by_hand);
                tasks.run(number, turn, move |random| Arc::clone(&peers).by_hand(random, random % keys))
            }),
            Contender::new("ours", move |turn| {
                let window = window.clone();
                tasks.run(number, turn, move |random| {
                    let window = window.clone();
                    async move { window.check_async(random % keys, 1).await.is_ok() }
                })
            }),
        ];
        cases.push(Case::new(name, goal, contenders).warm_up(Duration::from_secs(1)));
    }
    let peers = &one;
    cases.push(Case::new(
        "1 task, denied, with a denial cache",
        10.0,
        vec![
            Contender::new("SELECT 1", |turn| {
                let peers = Arc::clone(peers);
                tasks.run(1, turn, move |random| Arc::clone(&peers).select(random))
            }),
            Contender::new("ours", |turn| {
                let denied = denied.clone();
                tasks.run(1, turn, move |_| {
                    let denied = denied.clone();
                    async move { denied.check_async("a", 1).await.is_ok() }
                })
            }),
        ],
    ));
    let lines: Vec<String> = cases.into_iter().filter(|case| wanted(&case.name)).flat_map(Case::run).collect();
    rounds::print(&lines);
    if wanted("a million") {
        a_million_decisions(&server, &postgres, &tasks);
    }
}

/// A million decisions on one key, and what they leave.
fn a_million_decisions(server: &PostgresServer, postgres: &PostgresBackend, tasks: &Tasks) {
    let limit = Limit::new(1_000_000_000, Duration::from_secs(3_600));
    let limiter = RateLimiter::builder("hot").limit(limit).backend(postgres.clone()).build().unwrap();
    server.sql("TRUNCATE ratelimit_buckets; SELECT pg_stat_reset()");
    let begin = Instant::now();
    tasks.block_on(async {
        let call = || {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                for _ in 0..1_000_000 / 64 {
                    limiter.check_async("a", 1).await.unwrap();
                }
            })
        };
        for call in (0..64).map(|_| call()).collect::<Vec<_>>() {
            call.await.unwrap();
        }
    });
    let took = begin.elapsed();
    // Statistics come with a delay.
    std::thread::sleep(Duration::from_secs(2));
    let rows = server.sql(
        "SELECT pg_relation_size('ratelimit_buckets'), pg_indexes_size('ratelimit_buckets'), n_tup_upd, n_tup_hot_upd, \
         n_dead_tup, vacuum_count + autovacuum_count FROM pg_stat_user_tables WHERE relname = 'ratelimit_buckets'",
    );
    println!("\na million decisions on one key by 64 tasks: {took:.1?}");
    println!("bytes of the table, of its indexes; updates, those in place, dead rows, vacuums: {}", rows[0].join(", "));
}
