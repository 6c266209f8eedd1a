//! The ways in which blocking callers can share a server, each with the bare script, and ours
//! beside them.

use std::cell::Cell;
use std::sync::Mutex;

use redis::aio::MultiplexedConnection;
use redis::{Client, Connection, ConnectionLike, Script};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::ours;
use super::peers::{GCRA, KEYS};
use super::rounds::{Case, Contender, threads};
use super::server::RedisServer;

const THREADS: [usize; 4] = [1, 4, 16, 64];

/// Common to all ways.
pub(crate) struct Ways {
    client: Client,
    script: Script,
    pool: r2d2::Pool<Client>,
    unchecked_pool: r2d2::Pool<Client>,
    background: Runtime,
    multiplexed: MultiplexedConnection,
    mutexed: Mutex<Connection>,
}

impl Ways {
    pub(crate) fn new(server: &RedisServer) -> Ways {
        let client = Client::open(server.url()).unwrap();
        let background = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Ways {
            script: Script::new(GCRA),
            pool: r2d2::Pool::new(client.clone()).unwrap(),
            unchecked_pool: r2d2::Pool::builder().test_on_check_out(false).build(client.clone()).unwrap(),
            multiplexed: background.block_on(client.get_multiplexed_async_connection()).unwrap(),
            background,
            mutexed: Mutex::new(client.get_connection().unwrap()),
            client,
        }
    }

    /// One case for each number of threads.
    pub(crate) fn cases(&self) -> Vec<Case<'_>> {
        THREADS.iter().map(|number| self.case(*number)).collect()
    }

    fn case(&self, number: usize) -> Case<'_> {
        let per_thread = move |turn| {
            threads(number, turn, || self.client.get_connection().unwrap(), |connection| self.decide(connection))
        };
        let pooled = move |pool: &r2d2::Pool<Client>, turn| {
            threads(number, turn, || (), |()| self.decide(&mut *pool.get().unwrap()))
        };
        let contenders = vec![
            Contender::new("connection a thread", per_thread),
            Contender::new("r2d2", move |turn| pooled(&self.pool, turn)),
            Contender::new("r2d2 without its check", move |turn| pooled(&self.unchecked_pool, turn)),
            Contender::new("background runtime", move |turn| {
                threads(number, turn, || self.multiplexed.clone(), |connection| self.decide_in_background(connection))
            }),
            Contender::new("mutexed connection", move |turn| {
                threads(number, turn, || (), |()| self.decide(&mut *self.mutexed.lock().unwrap()))
            }),
            Contender::new("ours", move |turn| {
                threads(number, turn, || (), |()| ours::blocking_keyed(random_key()).is_ok())
            }),
        ];
        Case::new(format!("blocking, {number} threads, 10,000 keys"), 0.85, contenders).beside_the_best()
    }

    /// With the bare script.
    pub(crate) fn decide(&self, connection: &mut impl ConnectionLike) -> bool {
        let mut call = self.script.prepare_invoke();
        call.key(format!("gcra:{}", random_key())).arg(36_000).arg(3_600_000_000_u64);
        call.invoke::<i64>(connection).unwrap() >= 0
    }

    fn decide_in_background(&self, connection: &MultiplexedConnection) -> bool {
        let (sender, receiver) = oneshot::channel();
        let (script, mut connection) = (self.script.clone(), connection.clone());
        self.background.spawn(async move {
            let mut call = script.prepare_invoke();
            call.key(format!("gcra:{}", random_key())).arg(36_000).arg(3_600_000_000_u64);
            let _ = sender.send(call.invoke_async::<i64>(&mut connection).await.unwrap());
        });
        receiver.blocking_recv().unwrap() >= 0
    }
}

fn random_key() -> u64 {
    thread_local!(static NUMBER: Cell<u64> = const { Cell::new(0x9E37_79B9_7F4A_7C15) });
    let mut number = NUMBER.get();
    number ^= number << 13;
    number ^= number >> 7;
    number ^= number << 17;
    NUMBER.set(number);
    number % KEYS
}
