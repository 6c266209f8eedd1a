//! The Memcached backend beside a bare round trip and limits as people write them: `cargo bench -p
//! benches --bench memcached [-- PART OF A CASE'S NAME]`.
//!
//! One server, started here. Ours is called through the attribute. The yardstick is `mn`, the
//! no-op, over the same kind of connection: one that all tasks share, with many commands in flight.
//! The peer is `incr` and `add` by async-memcached, with a connection for each task: the fixed
//! window that people write.

#[path = "redis/rounds.rs"]
#[allow(dead_code, reason = "the parts for threads and peers are Redis's")]
mod rounds;
#[path = "../tests/support/memcached_server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' own, of which a part is enough here")]
mod server;

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_memcached::{AsciiProtocol, Client};
use ratelimit_runtime::{MemcachedBackend, RateLimitExceeded, rate_limit};
use rounds::{Case, Contender, Tasks, threads};
use server::MemcachedServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

type Limited = Result<(), RateLimitExceeded>;

static SERVER: OnceLock<String> = OnceLock::new();
const KEYS: u64 = 10_000;

/// A backend whose failure fails the benchmark instead of deciding in memory: see
/// `on_backend_error`.
fn backend() -> MemcachedBackend {
    let builder = MemcachedBackend::builder().url(SERVER.get().unwrap()).timeout(Duration::from_secs(5));
    builder.denial_cache(false).build().unwrap()
}

#[rate_limit(count = 1_000_000_000, per = "1h", key = key, algorithm = token_bucket, backend = backend(), on_backend_error = deny)]
async fn token(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 60, per = "1m", key = key, backend = backend(), on_backend_error = deny)]
async fn window(key: u64) -> Limited {
    Ok(())
}

/// The same with a denial cache, which is on unless it is switched off.
fn caching() -> MemcachedBackend {
    let builder = MemcachedBackend::builder().url(SERVER.get().unwrap()).timeout(Duration::from_secs(5));
    builder.build().unwrap()
}

#[rate_limit(count = 60, per = "1m", key = key, backend = caching(), on_backend_error = deny)]
async fn cached(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000_000, per = "1h", key = key, algorithm = token_bucket, backend = backend(), on_backend_error = deny)]
fn blocking(key: u64) -> Limited {
    Ok(())
}

/// `mn` by many tasks over one connection.
#[derive(Clone)]
struct Bare {
    calls: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

impl Bare {
    async fn connect(port: u16) -> Bare {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let (calls, mut called) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
        let awaited = Arc::new(Mutex::new(VecDeque::new()));
        let answered = Arc::clone(&awaited);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while called.recv_many(&mut batch, 1_024).await > 0 {
                let bytes = b"mn\r\n".repeat(batch.len());
                awaited.lock().unwrap().extend(batch.drain(..));
                writing.write_all(&bytes).await.unwrap();
            }
        });
        tokio::spawn(async move {
            let (mut buffer, mut partial) = ([0; 16_384], 0);
            while let Ok(read @ 1..) = reading.read(&mut buffer).await {
                partial += read;
                for _ in 0..partial / 4 {
                    let sender: oneshot::Sender<()> = answered.lock().unwrap().pop_front().unwrap();
                    let _ = sender.send(());
                }
                partial %= 4;
            }
        });
        Bare { calls }
    }

    async fn call(&self) -> bool {
        let (sender, receiver) = oneshot::channel();
        self.calls.send(sender).unwrap();
        receiver.await.is_ok()
    }
}

/// Clients that each serve one call at a time.
#[derive(Clone)]
struct Pool {
    idle: Arc<Mutex<Vec<Client>>>,
}

impl Pool {
    async fn connect(port: u16) -> Pool {
        let mut clients = Vec::new();
        for _ in 0..64 {
            clients.push(Client::new(format!("tcp://127.0.0.1:{port}")).await.unwrap());
        }
        Pool { idle: Arc::new(Mutex::new(clients)) }
    }

    /// A handwritten fixed window: counts, and begins one if there is none.
    async fn count(&self, key: u64) -> bool {
        let mut client = self.idle.lock().unwrap().pop().unwrap();
        let key = format!("bare:{key}");
        let counted = match client.increment(&key, 1).await {
            Ok(count) => count <= 1_000_000_000,
            Err(_) => client.add(&key, 1_u64, Some(3_600), None).await.is_ok(),
        };
        self.idle.lock().unwrap().push(client);
        counted
    }
}

macro_rules! case {
    ($name:literal, $number:literal, $goal:literal, $tasks:ident, $bare:ident, $pool:ident, $ours:expr) => {
        Case::new(
            concat!($number, " tasks, ", $name),
            $goal,
            vec![
                bare($tasks, $number, $bare),
                Contender::new("`incr`, else `add`", |turn| {
                    let pool = $pool.clone();
                    $tasks.run($number, turn, move |number| {
                        let pool = pool.clone();
                        async move { pool.count(number % KEYS).await }
                    })
                }),
                Contender::new("ours", |turn| $tasks.run($number, turn, $ours)),
            ],
        )
        .warm_up(Duration::from_secs(1))
    };
}

fn bare<'a>(tasks: &'a Tasks, number: u32, bare: &'a Bare) -> Contender<'a> {
    Contender::new("`mn`", move |turn| {
        let bare = bare.clone();
        tasks.run(number, turn, move |_| {
            let bare = bare.clone();
            async move { bare.call().await }
        })
    })
}

fn main() {
    // cargo passes `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let server = MemcachedServer::start();
    SERVER.set(server.url()).unwrap();
    let tasks = &Tasks::new();
    let bare = &tasks.block_on(Bare::connect(server.port()));
    let pool = &tasks.block_on(Pool::connect(server.port()));
    // As many keys as each connection remembers, or fewer.
    let token = |number: u64| async move { token(number % 1_000).await.is_ok() };
    let many = |number: u64| async move { self::token(number % KEYS).await.is_ok() };
    let hot = |_| async { self::token(0).await.is_ok() };
    let cases = vec![
        case!("1,000 keys, token_bucket", 1, 0.8, tasks, bare, pool, token),
        case!("1,000 keys, token_bucket", 16, 0.8, tasks, bare, pool, token),
        case!("1,000 keys, token_bucket", 64, 0.8, tasks, bare, pool, token),
        case!("10,000 keys, token_bucket", 64, 0.4, tasks, bare, pool, many),
        case!("1,000 keys, sliding_window of 60, no denial cache", 64, 0.5, tasks, bare, pool, |number| async move {
            window(number % 1_000).await.is_ok()
        }),
        case!(
            "1,000 keys, sliding_window of 60, denied by the cache",
            64,
            2.0,
            tasks,
            bare,
            pool,
            |number| async move { cached(number % 1_000).await.is_ok() }
        ),
        case!("one key", 64, 1.0, tasks, bare, pool, hot),
        Case::new(
            "blocking, 1 thread",
            0.3,
            vec![
                self::bare(tasks, 1, bare),
                Contender::new("ours", |turn| threads(1, turn, || (), |()| blocking(1).is_ok())),
            ],
        ),
    ];
    let wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let lines: Vec<String> = cases.into_iter().filter(|case| wanted(&case.name)).flat_map(Case::run).collect();
    rounds::print(&lines);
}

/// A port without a listener.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
