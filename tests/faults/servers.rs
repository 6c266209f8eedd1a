//! The servers whose failures are counted, by what can be done to any of them.

use ratelimit_runtime::PostgresBackend;
use ratelimit_tests::{MemcachedServer, PostgresServer, RedisServer};

/// A server that limits are kept in.
pub(crate) trait Server {
    fn url(&self) -> String;
    /// Suspends it: connections stay open, and nothing is answered.
    fn freeze(&self);
    fn thaw(&self);
    /// Kills it, like a crash.
    fn kill(&self);
    /// Starts it again on the same port.
    fn restart(&self);
    /// How many keys it has, and how many of them never expire.
    fn keys(&self) -> (u64, u64);
}

/// A PostgreSQL server with connections for all processes.
pub(crate) fn postgres() -> PostgresServer {
    let server = PostgresServer::start_with(&["max_connections = 200"]);
    let backend = PostgresBackend::new(&server.url()).expect("the URL is one");
    backend.create_table().expect("the server is well");
    server
}

macro_rules! server {
    ($server:ty, $keys:expr) => {
        impl Server for $server {
            fn url(&self) -> String {
                self.url()
            }

            fn freeze(&self) {
                self.freeze();
            }

            fn thaw(&self) {
                self.thaw();
            }

            fn kill(&self) {
                self.kill();
            }

            fn restart(&self) {
                self.restart();
            }

            fn keys(&self) -> (u64, u64) {
                $keys(self)
            }
        }
    };
}

server!(RedisServer, |server: &RedisServer| {
    const COUNT: &str = "local keys, eternal = redis.call('KEYS', '*'), 0
        for _, key in ipairs(keys) do if redis.call('PTTL', key) == -1 then eternal = eternal + 1 end end
        return {#keys, eternal}";
    let counted = redis::cmd("EVAL").arg(COUNT).arg(0).query(&mut server.connection());
    counted.expect("the server is well")
});

server!(MemcachedServer, |server: &MemcachedServer| {
    let dump = server.ask("lru_crawler metadump all\r\n", "END");
    let dump = String::from_utf8_lossy(&dump);
    let keys: Vec<&str> = dump.lines().filter(|line| line.starts_with("key=")).collect();
    let eternal = keys.iter().filter(|key| key.contains(" exp=-1 ")).count();
    (keys.len() as u64, eternal as u64)
});

server!(PostgresServer, |server: &PostgresServer| {
    let counted = server.sql("SELECT count(*), count(*) FILTER (WHERE expires_at = 'infinity') FROM ratelimit_buckets");
    let count = |place: usize| counted[0][place].parse().expect("a number");
    (count(0), count(1))
});
