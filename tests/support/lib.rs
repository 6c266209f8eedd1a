//! Fixtures shared by the tests.

mod admissions;
pub mod bookkeeping;
pub mod clients;
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

pub use admissions::{Admission, above, above_at};
pub use kept::{KEPT_KEYS, kept_limits};
pub use memcached_server::MemcachedServer;
pub use postgres_server::{PgBouncer, PostgresServer, connect, sql_at, try_sql_at};
pub use proxy::{Network, Proxy};
pub use redis_server::{RedisServer, free_port};
pub use redis_topologies::{Certificates, RedisCluster, RedisSentinel, RedisTls};
pub use server_example::{ServerExample, example, quickstart};
pub use shelf::Shelf;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ratelimit_runtime::Algorithm;

/// A second.
pub const SECOND: Duration = Duration::from_secs(1);
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// The timeout for events that are sure to happen, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Limits are enforced again within this after a recovery of the backend.
pub const RECOVERY: Duration = Duration::from_secs(2);
/// What a busy machine may add to any time.
pub const SLACK: Duration = Duration::from_secs(2);
/// All algorithms.
pub const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

/// This many milliseconds.
#[must_use]
pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Polls a future that nothing wakes.
pub fn poll_once<F: Future + Unpin>(mut future: F) -> Poll<F::Output> {
    Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop()))
}
