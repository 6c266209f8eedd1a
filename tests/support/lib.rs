//! Fixtures shared by the tests.

mod admissions;
pub mod bookkeeping;
pub mod failures;
pub mod impatient;
mod kept;
mod memcached_server;
pub mod oracle;
mod postgres_server;
mod proxy;
mod redis_server;
mod redis_topologies;
mod server_example;
mod shelf;

pub use admissions::{Admission, above};
pub use kept::{KEPT_KEYS, kept_limits};
pub use memcached_server::MemcachedServer;
pub use postgres_server::{PgBouncer, PostgresServer, connect, sql_at, try_sql_at};
pub use proxy::{Network, Proxy};
pub use redis_server::{RedisServer, free_port};
pub use redis_topologies::{Certificates, RedisCluster, RedisSentinel, RedisTls};
pub use server_example::{ServerExample, example, quickstart};
pub use shelf::Shelf;
